/* test_forward.c - the promise of determinism, on the seven tiny checkpoints: logits are the same bits alone or
 * batched, in any chunks, with any number of threads, block size, warm or cold prefix, forked, with or without the cache, in every
 * number format of the cache, with a prefix that is read once for many sequences, and with
 * retrieval. */
#include "model/model.h"
#include "support.h"

static const char *const names[] = {"llama", "llama3-rope", "mistral-swa", "qwen2", "qwen2-yarn", "qwen3", "gemma3"};

struct setting {
    uint32_t threads, chunk, block_tokens;
    bool no_cache, batched, warm, forked;
    enum number_format k, v;
    struct kv_reach reach; /* of all layers, where it has a window */
    /* Tokens from `dense` on run one at a time and read what is retrieved; or NULL. */
    const struct model_retrieval *retrieval;
    uint32_t dense;
};

/* The first ones at all lengths. */
static const enum number_format formats[][2] = {{NF_F16, NF_F16},           {NF_INT4, NF_INT4}, {NF_INT8, NF_INT8},
                                                {NF_F32, NF_F32},           {NF_INT8, NF_INT4}, {NF_BF16, NF_FP8_E5M2},
                                                {NF_FP8_E4M3, NF_FP8_E4M3}, {NF_INT4, NF_F32}};

struct bench {
    struct format *format;
    const struct kernel *kernel;
    struct model *model;
};

static void make_tokens(uint32_t *ids, uint32_t count, uint32_t seed)
{
    struct random random;
    random_seed(&random, seed);
    for (uint32_t i = 0; i < count; i++) ids[i] = 3 + (uint32_t)random_below(&random, 500);
}

/* Feeds ids[0, count) to `seq` (and, batched, another text to `other`) and copies the last token's logits. */
static void feed(struct model_run *run, struct kv_cache *cache, const struct setting *s, struct kv_seq *seq,
                 struct kv_seq *other, const uint32_t *ids, uint32_t count, uint32_t chunk, uint32_t vocabulary,
                 float *out)
{
    uint32_t other_ids[64];
    make_tokens(other_ids, 64, 99);
    while (kv_seq_count(seq) < count) {
        uint32_t at = kv_seq_count(seq), part = count - at < chunk ? count - at : chunk, entries = 1;
        struct kv_seq *seqs[2] = {seq, other};
        if (s->retrieval && at + part > s->dense) part = at < s->dense ? s->dense - at : 1;
        struct model_entry entry[2] = {{.seq = seq,
                                        .tokens = ids + at,
                                        .count = part,
                                        .logits_count = at + part == count,
                                        .retrieval = at < s->dense ? NULL : s->retrieval}};
        assert_int_equal(kv_seq_reserve(seq, part), ST_OK);
        if (other && kv_seq_count(other) < 64) { /* first in the batch, so that rows are shifted */
            entry[1] = entry[0];
            entry[0] = (struct model_entry){
                .seq = other, .tokens = other_ids + kv_seq_count(other), .count = 2, .logits_count = 1};
            seqs[0] = other;
            seqs[1] = seq;
            entries = 2;
            assert_int_equal(kv_seq_reserve(other, 2), ST_OK);
        }
        struct kv_batch *batch;
        const float *logits;
        assert_int_equal(kv_batch_pin(cache, seqs, entries, &batch), ST_OK);
        model_forward(run, entry, entries, &logits);
        kv_batch_unpin(batch);
        for (uint32_t e = 0; e < entries; e++) kv_seq_commit(entry[e].seq, entry[e].tokens, entry[e].count);
        if (entry[entries - 1].logits_count)
            memcpy(out, logits + (uint64_t)(entries - 1) * vocabulary, vocabulary * sizeof *out);
    }
}

/* Tokens that the sequence alone goes on with. */
static void stray(struct model_run *run, struct kv_cache *cache, struct kv_seq *seq, const uint32_t *ids,
                  uint32_t count)
{
    struct kv_batch *batch;
    const float *logits;
    const struct model_entry entry = {.seq = seq, .tokens = ids, .count = count};
    assert_int_equal(kv_seq_reserve(seq, count), ST_OK);
    assert_int_equal(kv_batch_pin(cache, &seq, 1, &batch), ST_OK);
    model_forward(run, &entry, 1, &logits);
    kv_batch_unpin(batch);
    kv_seq_commit(seq, ids, count);
}

static void layers_of(const struct bench *bench, const struct setting *s, struct kv_layer *layers)
{
    const struct model_config *c = model_config(bench->model);
    model_kv_layers(c, s->k, s->v, layers);
    for (uint32_t i = 0; i < c->layers && s->reach.window; i++) {
        layers[i].kind = s->reach.kind;
        layers[i].window = s->reach.window;
        layers[i].sinks = s->reach.sinks;
    }
    for (uint32_t i = 0; i < c->layers; i++) layers[i].index = s->retrieval != NULL;
}

static void logits_of(const struct bench *bench, const struct setting *s, const uint32_t *ids, uint32_t count,
                      float *out)
{
    struct error error;
    const struct model_config *c = model_config(bench->model);
    struct pool *pool;
    struct model_run *run;
    struct kv_cache *cache;
    struct kv_layer layers[64];
    assert_int_equal(pool_open(s->threads, &pool, &error), ST_OK);
    assert_int_equal(model_run_open(bench->model, pool, count + 64, 2, count + 64, &run, &error), ST_OK);
    layers_of(bench, s, layers);
    struct kv_config config = {.layers = layers,
                               .layer_count = c->layers,
                               .block_tokens = s->block_tokens,
                               .bytes_max = 64u << 20,
                               .kernel = bench->kernel,
                               .share_prefixes = s->warm,
                               .one_layer_at_a_time = s->no_cache};
    assert_int_equal(kv_open(&config, &cache, &error), ST_OK);
    struct kv_seq *seq, *other = NULL;
    uint32_t cached;
    if (s->warm) {
        assert_int_equal(kv_seq_open(cache, ids, count, 0, &seq, &cached), ST_OK);
        feed(run, cache, s, seq, NULL, ids, count, s->chunk, c->vocabulary, out);
        kv_seq_close(seq);
        memset(out, 0, c->vocabulary * sizeof *out);
    }
    assert_int_equal(kv_seq_open(cache, ids, count, 0, &seq, &cached), ST_OK);
    uint32_t whole = (count - 1) / s->block_tokens * s->block_tokens;
    assert_true(!s->warm || cached >= (kernel_k_closes(s->k) ? whole : whole - s->block_tokens));
    if (s->batched) assert_int_equal(kv_seq_open(cache, NULL, 0, 0, &other, &cached), ST_OK);
    if (s->forked) { /* after an odd number of tokens; the first one goes on differently */
        struct kv_seq *first = seq;
        feed(run, cache, s, first, NULL, ids, count - 8, s->chunk, c->vocabulary, out);
        assert_int_equal(kv_seq_fork(first, &seq), ST_OK);
        uint32_t strays[64];
        make_tokens(strays, 64, 5);
        stray(run, cache, first, strays, 20);
        kv_seq_close(first);
    }
    feed(run, cache, s, seq, other, ids, count, s->no_cache ? count : s->chunk, c->vocabulary, out);
    assert_int_equal(kv_check(cache, &error), ST_OK);
    kv_seq_close(seq);
    kv_seq_close(other);
    kv_close(cache);
    model_run_close(run);
    pool_close(pool);
}

/* False: this machine cannot run the instruction set. */
static bool bench_open(struct bench *bench, const char *path, const char *isa)
{
    struct error error;
    struct pool *pool;
    if (kernel_select(isa, &bench->kernel, &error) != ST_OK) return false;
    assert_int_equal(pool_open(1, &pool, &error), ST_OK);
    if (format_open(path, false, &bench->format, &error) != ST_OK) fail_msg("%s", error.text);
    if (model_open(bench->format, bench->kernel, pool, NULL, &bench->model, &error) != ST_OK)
        fail_msg("%s", error.text);
    pool_close(pool);
    return true;
}

static bool bench_open_tiny(struct bench *bench, const char *name, const char *isa)
{
    char path[256];
    snprintf(path, sizeof path, TEST_DATA "/tiny/%s", name);
    return bench_open(bench, path, isa);
}

static void bench_close(struct bench *bench)
{
    model_close(bench->model);
    format_close(bench->format);
}

static void compare_model(const char *name, const char *path, const char *isa, uint32_t count)
{
    struct bench bench;
    if (!bench_open(&bench, path, isa)) return;
    uint32_t vocabulary = model_config(bench.model)->vocabulary;
    uint32_t *ids = calloc(count, sizeof *ids);
    float *expected = calloc(vocabulary, sizeof *expected), *got = calloc(vocabulary, sizeof *got);
    make_tokens(ids, count, 7);
    for (size_t f = 0; f < (count > 500 ? test_count(2, 4) : ARRAY_COUNT(formats)); f++) {
        const enum number_format k = formats[f][0], v = formats[f][1];
        const uint32_t small = kernel_k_closes(k) ? 32 : 16;
        const struct setting base = {.threads = 1, .chunk = count, .block_tokens = 32, .k = k, .v = v};
        logits_of(&bench, &base, ids, count, expected);
        const struct setting others[] = {
            {.threads = 2, .chunk = count, .block_tokens = 32},
            {.threads = 3, .chunk = 1, .block_tokens = small},
            {.threads = 2, .chunk = 7, .block_tokens = 128},
            {.threads = 2, .chunk = 33, .block_tokens = 64, .batched = true},
            {.threads = 2, .chunk = 1, .block_tokens = 32, .batched = true},
            {.threads = 2, .chunk = 19, .block_tokens = small, .warm = true},
            {.threads = 2, .chunk = 13, .block_tokens = 32, .forked = true},
            {.threads = 2, .chunk = count, .block_tokens = 32, .no_cache = true},
        };
        for (size_t i = 0; i < ARRAY_COUNT(others); i++) {
            if (count > 500 && others[i].chunk == 1 && others[i].batched) continue; /* slow, and nothing new */
            memset(got, 0, vocabulary * sizeof *got);
            struct setting setting = others[i];
            setting.k = k;
            setting.v = v;
            logits_of(&bench, &setting, ids, count, got);
            if (memcmp(expected, got, vocabulary * sizeof *got) != 0)
                fail_msg("%s, %s, %u tokens, k=%s,v=%s: setting %zu gives other logits", name, bench.kernel->name,
                         count, number_format_info(k)->name, number_format_info(v)->name, i);
        }
    }
    free(ids);
    free(expected);
    free(got);
    bench_close(&bench);
}

/* ---- retrieval --------------------------------------------------------------------------------------------------- */

enum { RETRIEVING = 20, TEXT_MAX = 640 }; /* the last tokens of a text, and its tokens */

/* What retrieval reads is no part of how it is computed, and where it reads everything it is dense attention. */
static void compare_retrieval(const char *name, const char *isa, const enum number_format *format, uint32_t count,
                              const struct model_retrieval *retrieval, bool is_dense)
{
    struct bench bench;
    if (!bench_open_tiny(&bench, name, isa)) return;
    const uint32_t vocabulary = model_config(bench.model)->vocabulary;
    uint32_t ids[TEXT_MAX];
    float *dense = calloc(vocabulary, sizeof *dense), *expected = calloc(vocabulary, sizeof *expected),
          *got = calloc(vocabulary, sizeof *got);
    make_tokens(ids, count, 7);
    const enum number_format k = format[0], v = format[1];
    const uint32_t small = kernel_k_closes(k) ? 32 : 16;
    struct setting base = {.threads = 1, .chunk = count, .block_tokens = 32, .k = k, .v = v};
    logits_of(&bench, &base, ids, count, dense);
    base.retrieval = retrieval;
    base.dense = count - RETRIEVING;
    logits_of(&bench, &base, ids, count, expected);
    const bool same = memcmp(dense, expected, vocabulary * sizeof *dense) == 0;
    if (same != is_dense)
        fail_msg("%s, %s: %u tokens recalled are %s dense", name, isa, retrieval->recall_tokens,
                 same ? "as" : "unlike");
    const struct setting others[] = {
        {.threads = 3, .chunk = 1, .block_tokens = 128},
        {.threads = 2, .chunk = 19, .block_tokens = small, .batched = true},
        {.threads = 2, .chunk = 13, .block_tokens = 32, .forked = true},
        {.threads = 1, .chunk = 50, .block_tokens = 64, .warm = true},
    };
    for (size_t o = 0; o < ARRAY_COUNT(others); o++) {
        struct setting setting = others[o];
        setting.k = k;
        setting.v = v;
        setting.retrieval = retrieval;
        setting.dense = base.dense;
        logits_of(&bench, &setting, ids, count, got);
        if (memcmp(expected, got, vocabulary * sizeof *got) != 0)
            fail_msg("%s, %s, k=%s: %u tokens recalled, setting %zu gives other logits", name, isa,
                     number_format_info(k)->name, retrieval->recall_tokens, o);
    }
    free(dense);
    free(expected);
    free(got);
    bench_close(&bench);
}

static void compare_retrievals(const char *name, const char *isa, const enum number_format *format)
{
    static const struct model_retrieval all = {.initial_tokens = 5, .local_tokens = 40, .recall_tokens = 200},
                                        some = {.initial_tokens = 16, .local_tokens = 33, .recall_tokens = 48},
                                        late = {.initial_tokens = 1,
                                                .local_tokens = 1,
                                                .recall_tokens = 64,
                                                .dense_layers = 1};
    compare_retrieval(name, isa, format, 200, &all, true);
    compare_retrieval(name, isa, format, 200, &some, false);
    compare_retrieval(name, isa, format, 200, &late, false);
}

static void test_retrieval(void **state)
{
    (void)state;
    static const char *const some[] = {"qwen2", "llama", "qwen3"};
    for (size_t n = 0; n < ARRAY_COUNT(some); n++)
        for (size_t f = 0; f < ARRAY_COUNT(formats); f++) {
            if (f % 3 != n && f != 2) continue; /* each with one model, int8 with all */
            if (TEST_THREAD_SANITIZED && (f != 2 || n)) continue;
            compare_retrievals(some[n], "auto", formats[f]);
            if (TEST_THREAD_SANITIZED) continue; /* which instruction set it is makes no race */
            for (const char *const *isa = kernel_names(); *isa && test_count(f == 2 && n == 0, 1); isa++)
                compare_retrievals(some[n], *isa, formats[f]);
        }
}

/* So little of so much that sketches tell what is looked at closely. */
static void test_sketches(void **state)
{
    (void)state;
    static const struct model_retrieval few = {.initial_tokens = 8, .local_tokens = 8, .recall_tokens = 16};
    for (size_t f = 0; f < ARRAY_COUNT(formats); f++)
        if (f == 2 || (kernel_k_closes(formats[f][0]) && !TEST_THREAD_SANITIZED))
            compare_retrieval("qwen2", "auto", formats[f], TEXT_MAX, &few, false);
}

/* ---- many sequences that share a prefix -------------------------------------------------------------------------- */

enum { CROWD = 7 };
struct crowd {
    uint32_t *ids[CROWD];
    uint32_t counts[CROWD], chunks[CROWD];
};

/* Texts that begin alike: most for `shared` tokens, one for half of them, one not at all. Some go on token by token, others in
 * chunks, the last one with so many that it is a prefill. */
static void crowd_open(struct crowd *crowd, uint32_t shared)
{
    static const uint32_t chunks[CROWD] = {1, 1, 3, 1, 1, 1, 33};
    for (uint32_t i = 0; i < CROWD; i++) {
        const uint32_t common = i == 3 ? shared / 2 : i == 4 ? 0 : shared, own = 9 + 5 * i;
        crowd->counts[i] = shared + own * (chunks[i] == 33 ? 3 : 1);
        crowd->chunks[i] = chunks[i];
        crowd->ids[i] = calloc(crowd->counts[i], sizeof **crowd->ids);
        assert_non_null(crowd->ids[i]);
        make_tokens(crowd->ids[i], crowd->counts[i], 20 + i);
        make_tokens(crowd->ids[i], common, 7);
    }
}

/* One pass for all that have tokens left; logits of those that end with it. False: none has. */
static bool crowd_step(struct model_run *run, struct kv_cache *cache, const struct crowd *crowd, struct kv_seq **seqs,
                       uint32_t vocabulary, float *out)
{
    struct model_entry entries[CROWD];
    struct kv_seq *list[CROWD];
    uint32_t who[CROWD], count = 0, row = 0;
    struct kv_batch *batch;
    const float *logits;
    for (uint32_t i = 0; i < CROWD; i++) {
        uint32_t at = kv_seq_count(seqs[i]), left = crowd->counts[i] - at;
        uint32_t part = left < crowd->chunks[i] ? left : crowd->chunks[i];
        if (!part) continue;
        assert_int_equal(kv_seq_reserve(seqs[i], part), ST_OK);
        entries[count] = (struct model_entry){
            .seq = seqs[i], .tokens = crowd->ids[i] + at, .count = part, .logits_count = part == left};
        list[count] = seqs[i];
        who[count++] = i;
    }
    if (!count) return false;
    assert_int_equal(kv_batch_pin(cache, list, count, &batch), ST_OK);
    model_forward(run, entries, count, &logits);
    kv_batch_unpin(batch);
    for (uint32_t e = 0; e < count; e++) {
        kv_seq_commit(entries[e].seq, entries[e].tokens, entries[e].count);
        if (entries[e].logits_count)
            memcpy(out + (uint64_t)who[e] * vocabulary, logits + (uint64_t)row++ * vocabulary,
                   vocabulary * sizeof *out);
    }
    return true;
}

/* Logits of all texts, [CROWD, vocabulary], computed together on a prefix that was cached before. */
static void crowd_logits(const struct bench *bench, const struct setting *s, const struct crowd *crowd, uint32_t shared,
                         float *out)
{
    struct error error;
    const struct model_config *c = model_config(bench->model);
    struct pool *pool;
    struct model_run *run;
    struct kv_cache *cache;
    struct kv_layer layers[64];
    struct kv_seq *seqs[CROWD];
    uint32_t cached, most = 0;
    for (uint32_t i = 0; i < CROWD; i++) most = crowd->counts[i] > most ? crowd->counts[i] : most;
    assert_int_equal(pool_open(s->threads, &pool, &error), ST_OK);
    assert_int_equal(model_run_open(bench->model, pool, most + 64, CROWD, most + 64, &run, &error), ST_OK);
    layers_of(bench, s, layers);
    struct kv_config config = {.layers = layers,
                               .layer_count = c->layers,
                               .block_tokens = s->block_tokens,
                               .bytes_max = 64u << 20,
                               .kernel = bench->kernel,
                               .share_prefixes = true};
    assert_int_equal(kv_open(&config, &cache, &error), ST_OK);
    assert_int_equal(kv_seq_open(cache, crowd->ids[0], shared, 0, &seqs[0], &cached), ST_OK);
    feed(run, cache, s, seqs[0], NULL, crowd->ids[0], shared, s->chunk, c->vocabulary, out);
    kv_seq_close(seqs[0]);
    for (uint32_t i = 0; i < CROWD; i++)
        assert_int_equal(kv_seq_open(cache, crowd->ids[i], crowd->counts[i], 0, &seqs[i], &cached), ST_OK);
    /* The one that shares nothing is brought as far as the others, so that it is among them in every pass. */
    feed(run, cache, s, seqs[4], NULL, crowd->ids[4], shared, s->chunk, c->vocabulary, out);
    feed(run, cache, s, seqs[3], NULL, crowd->ids[3], shared, s->chunk, c->vocabulary, out);
    while (crowd_step(run, cache, crowd, seqs, c->vocabulary, out)) continue;
    assert_int_equal(kv_check(cache, &error), ST_OK);
    for (uint32_t i = 0; i < CROWD; i++) kv_seq_close(seqs[i]);
    kv_close(cache);
    model_run_close(run);
    pool_close(pool);
}

/* Each text's logits are those that it has alone, where nothing is shared. */
static void compare_crowd(const struct bench *bench, const char *name, uint32_t shared, enum number_format k,
                          enum number_format v, struct kv_reach reach)
{
    const uint32_t vocabulary = model_config(bench->model)->vocabulary;
    struct crowd crowd;
    crowd_open(&crowd, shared);
    float *alone = calloc(vocabulary, sizeof *alone), *together = calloc((size_t)CROWD * vocabulary, sizeof *together);
    assert_true(alone && together);
    const struct setting s = {.threads = 2, .chunk = 64, .block_tokens = 32, .k = k, .v = v, .reach = reach};
    crowd_logits(bench, &s, &crowd, shared, together);
    for (uint32_t i = 0; i < CROWD; i++) {
        const struct setting cold = {
            .threads = 1, .chunk = crowd.counts[i], .block_tokens = 32, .k = k, .v = v, .reach = reach};
        logits_of(bench, &cold, crowd.ids[i], crowd.counts[i], alone);
        if (memcmp(alone, together + (uint64_t)i * vocabulary, vocabulary * sizeof *alone) != 0)
            fail_msg("%s, %s, %u shared tokens, k=%s,v=%s: sequence %u has other logits than alone", name,
                     bench->kernel->name, shared, number_format_info(k)->name, number_format_info(v)->name, i);
        free(crowd.ids[i]);
    }
    free(alone);
    free(together);
}

static void compare_crowds(const char *name, const char *isa, uint32_t shared, struct kv_reach reach,
                           size_t format_count)
{
    struct bench bench;
    if (!bench_open_tiny(&bench, name, isa)) return;
    for (size_t f = 0; f < format_count; f++) compare_crowd(&bench, name, shared, formats[f][0], formats[f][1], reach);
    bench_close(&bench);
}

/* Prefixes of some blocks, and of more than a segment, with windows that pass their beginning early, late and on the way. */
static void test_shared_prefixes(void **state)
{
    (void)state;
    const size_t all = ARRAY_COUNT(formats);
    const struct kv_reach own = {0}, window = {.kind = KV_SLIDING, .window = 220},
                          sinks = {.kind = KV_SINKS, .window = 215, .sinks = 40};
    compare_crowds("qwen2", NULL, 200, own, TEST_THREAD_SANITIZED ? 2 : all);
    if (TEST_THREAD_SANITIZED) return;
    compare_crowds("gemma3", NULL, 200, own, test_count(2, all));
    compare_crowds("llama", NULL, 200, window, test_count(2, all));
    compare_crowds("llama", NULL, 200, sinks, test_count(2, all));
    compare_crowds("qwen2", NULL, 1125, own, test_count(4, all));
    for (const char *const *isa = kernel_names(); *isa; isa++)
        compare_crowds("llama", *isa, 150, own, test_count(strcmp(*isa, "ref") == 0 ? 1 : 3, all));
}

static void compare(const char *name, const char *isa, uint32_t count)
{
    char path[256];
    snprintf(path, sizeof path, TEST_DATA "/tiny/%s", name);
    compare_model(name, path, isa, count);
}

static void test_short_texts(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_COUNT(names); i++) {
        if (TEST_THREAD_SANITIZED) compare(names[i], NULL, 53);
        for (const char *const *isa = kernel_names(); *isa && !TEST_THREAD_SANITIZED; isa++)
            compare(names[i], *isa, 53);
    }
}

/* Past one softmax segment, where decode is split over threads. */
static void test_long_texts(void **state)
{
    (void)state;
    compare("qwen2", NULL, TEST_THREAD_SANITIZED ? 1100 : 2100);
    if (TEST_THREAD_SANITIZED) return;
    compare("gemma3", NULL, 1200);
    for (const char *const *isa = kernel_names(); *isa && test_count(0, 1); isa++)
        for (size_t i = 0; i < ARRAY_COUNT(names); i++) compare(names[i], *isa, 1100);
}

/* Quantised weights, whose activations are int8 and whose first tokens have a second row. */
static void test_quantised_model(void **state)
{
    (void)state;
    char path[512];
    if (TEST_THREAD_SANITIZED) skip(); /* the same phases as above, with other kernels */
    if (!test_model_path("smollm2", path, sizeof path)) {
        print_message("skipped: the model smollm2 is not fetched\n");
        skip();
    }
    for (const char *const *isa = kernel_names(); *isa; isa++)
        if (strcmp(*isa, "ref") != 0) compare_model("smollm2", path, *isa, 37);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_short_texts),     cmocka_unit_test(test_long_texts),
                                       cmocka_unit_test(test_shared_prefixes), cmocka_unit_test(test_retrieval),
                                       cmocka_unit_test(test_sketches),        cmocka_unit_test(test_quantised_model)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
