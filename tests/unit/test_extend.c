/* test_extend.c - rows that are copied, not computed: keys are where their positions turn them, values are the same, entries of the index are
 * those of the rows; chunks and threads change no bit, and small formats lose what they lose. */
#include "model/model.h"
#include "support.h"
#include <math.h>

#define BLOCK 32u
#define SOURCE 96u /* tokens computed */
#define BEGIN 32u
#define EXTENDED 237u

struct fixture {
    struct format *format;
    struct model *model;
    const struct model_config *config;
    struct pool *pool;
    struct model_run *run;
    struct kv_cache *cache;
    struct kv_seq *source, *seq; /* seq: extended */
};

static void open_model(struct fixture *f, const char *name, uint32_t threads)
{
    char path[256];
    struct error error;
    const struct kernel *kernel;
    snprintf(path, sizeof path, TEST_DATA "/tiny/%s", name);
    assert_int_equal(kernel_select(NULL, &kernel, &error), ST_OK);
    assert_int_equal(pool_open(threads, &f->pool, &error), ST_OK);
    if (format_open(path, false, &f->format, &error) != ST_OK) fail_msg("%s", error.text);
    if (model_open(f->format, kernel, f->pool, NULL, &f->model, &error) != ST_OK) fail_msg("%s", error.text);
    f->config = model_config(f->model);
    assert_int_equal(model_run_open(f->model, f->pool, EXTENDED, 1, 2 * EXTENDED, &f->run, &error), ST_OK);
}

static void open_source(struct fixture *f, enum number_format k, enum number_format v, bool index)
{
    struct kv_layer layers[16];
    struct error error;
    uint32_t ids[SOURCE], cached;
    struct random random;
    model_kv_layers(f->config, k, v, layers);
    for (uint32_t i = 0; i < f->config->layers; i++) layers[i].index = index && layers[i].kind == KV_FULL;
    const struct kv_config config = {.layers = layers,
                                     .layer_count = f->config->layers,
                                     .block_tokens = BLOCK,
                                     .bytes_max = 64u << 20,
                                     .kernel = model_kernel(f->model)};
    assert_int_equal(kv_open(&config, &f->cache, &error), ST_OK);
    assert_int_equal(kv_seq_open(f->cache, NULL, 0, 0, &f->source, &cached), ST_OK);
    random_seed(&random, 3);
    for (uint32_t i = 0; i < SOURCE; i++) ids[i] = 3 + (uint32_t)random_below(&random, 500);
    struct kv_batch *batch;
    const float *logits;
    const struct model_entry entry = {.seq = f->source, .tokens = ids, .count = SOURCE};
    assert_int_equal(kv_seq_reserve(f->source, SOURCE), ST_OK);
    assert_int_equal(kv_batch_pin(f->cache, &f->source, 1, &batch), ST_OK);
    model_forward(f->run, &entry, 1, &logits);
    kv_batch_unpin(batch);
    kv_seq_commit(f->source, ids, SOURCE);
    assert_int_equal(kv_seq_fork(f->source, &f->seq), ST_OK);
}

static struct kv_batch *pin(const struct fixture *f)
{
    struct kv_batch *batch;
    struct kv_seq *both[] = {f->source, f->seq};
    assert_int_equal(kv_batch_pin(f->cache, both, 2, &batch), ST_OK);
    return batch;
}

static void extend(const struct fixture *f, uint32_t chunk)
{
    static const uint32_t ids[EXTENDED]; /* nobody asks what they are */
    while (kv_seq_count(f->seq) < EXTENDED) {
        uint32_t left = EXTENDED - kv_seq_count(f->seq), part = left < chunk ? left : chunk;
        assert_int_equal(kv_seq_reserve(f->seq, part), ST_OK);
        struct kv_batch *batch = pin(f);
        model_run_extend(f->run, f->seq, f->source, BEGIN, part);
        kv_batch_unpin(batch);
        kv_seq_commit(f->seq, ids, part);
    }
}

static void close_cache(struct fixture *f)
{
    struct error error;
    assert_int_equal(kv_check(f->cache, &error), ST_OK);
    kv_seq_close(f->source);
    kv_seq_close(f->seq);
    kv_close(f->cache);
}

static void close_model(struct fixture *f)
{
    model_run_close(f->run);
    model_close(f->model);
    format_close(f->format);
    pool_close(f->pool);
}

/* The logits of one more token. */
static void next(const struct fixture *f, float *out)
{
    const uint32_t id = 7;
    struct kv_batch *batch;
    const float *logits;
    const struct model_entry entry = {.seq = f->seq, .tokens = &id, .count = 1, .logits_count = 1};
    assert_int_equal(kv_seq_reserve(f->seq, 1), ST_OK);
    batch = pin(f);
    model_forward(f->run, &entry, 1, &logits);
    kv_batch_unpin(batch);
    kv_seq_commit(f->seq, &id, 1);
    memcpy(out, logits, f->config->vocabulary * sizeof *out);
}

/* ---- rows ----------------------------------------------------------------------------------------------------------- */

static void row_of(const struct fixture *f, const struct kv_seq *seq, uint32_t layer, uint32_t head, uint32_t position,
                   float *k, float *v)
{
    const void *k_groups, *v_groups;
    kv_seq_group_rows(seq, layer, head, position, &k_groups, &v_groups);
    kernel_k_row_decode(NF_F32, k_groups, position % 16, f->config->head_dim, k);
    kernel_v_row_decode(NF_F32, v_groups, position % 16, f->config->value_dim, v);
}

/* The key as it is after its position has moved by `from` to `to`, in double. */
static void turn(const struct model_config *c, uint32_t kind, uint32_t from, uint32_t to, float *key)
{
    const uint32_t half = c->rope_dimensions / 2, step = c->rope_neighbours ? 2 : 1,
                   apart = c->rope_neighbours ? 1 : half;
    for (uint32_t i = 0; i < half; i++) {
        const double angle = ((double)to - from) * c->rope_frequencies[kind][i];
        float *a = key + i * step, *b = a + apart;
        const double x = *a, y = *b;
        *a = (float)(x * cos(angle) - y * sin(angle));
        *b = (float)(y * cos(angle) + x * sin(angle));
    }
}

static void check_rows(const struct fixture *f)
{
    const struct model_config *c = f->config;
    float k[256], v[256], expected_k[256], expected_v[256];
    uint32_t moved = 0;
    for (uint32_t layer = 0; layer < c->layers; layer++) {
        const uint32_t kind = c->sliding[layer];
        /* What the next token still reads of it; of the new rows, too. */
        const uint32_t first = kind && c->window <= SOURCE - BEGIN ? SOURCE - c->window + 1 : BEGIN;
        const uint32_t from = kind && c->window < EXTENDED - SOURCE ? EXTENDED - c->window + 1 : SOURCE;
        for (uint32_t head = 0; head < c->kv_heads; head++)
            for (uint32_t p = from; p < EXTENDED; p++) {
                const uint32_t source = first + (p - first) % (SOURCE - first);
                float greatest = 0;
                row_of(f, f->seq, layer, head, p, k, v);
                row_of(f, f->source, layer, head, source, expected_k, expected_v);
                assert_memory_equal(v, expected_v, c->value_dim * sizeof *v);
                moved += memcmp(k, expected_k, c->head_dim * sizeof *k) != 0;
                turn(c, kind, source, p, expected_k);
                for (uint32_t d = 0; d < c->head_dim; d++) greatest = fmaxf(greatest, fabsf(expected_k[d]));
                for (uint32_t d = 0; d < c->head_dim; d++)
                    if (fabsf(k[d] - expected_k[d]) > 4e-5f * greatest)
                        fail_msg("layer %u, head %u, position %u, element %u: %g, not %g", layer, head, p, d,
                                 (double)k[d], (double)expected_k[d]);
            }
    }
    assert_true(moved > 100);
}

static void test_rows(void **state)
{
    (void)state;
    static const char *const names[] = {"llama", "qwen2", "qwen2-yarn", "gemma3", "mistral-swa"};
    for (size_t i = 0; i < ARRAY_COUNT(names); i++) {
        struct fixture f;
        open_model(&f, names[i], 2);
        open_source(&f, NF_F32, NF_F32, false);
        extend(&f, 50);
        struct kv_batch *batch = pin(&f);
        check_rows(&f);
        kv_batch_unpin(batch);
        close_cache(&f);
        close_model(&f);
    }
}

/* ---- the index ------------------------------------------------------------------------------------------------------ */

static void test_index(void **state)
{
    (void)state;
    struct fixture f;
    open_model(&f, "llama", 2);
    open_source(&f, NF_F32, NF_F32, true);
    extend(&f, 50);
    const struct model_config *c = f.config;
    const uint32_t half = c->rope_dimensions / 2;
    const uint64_t entry = kernel_index_bytes(c->head_dim);
    assert_true(c->rope_dimensions == c->head_dim && !c->rope_neighbours);
    float k[256], v[256], keys[16 * 256];
    unsigned char *same = malloc(BLOCK / 16 * entry);
    struct kv_batch *batch = pin(&f);
    for (uint32_t layer = 0; layer < c->layers; layer++)
        for (uint32_t head = 0; head < c->kv_heads; head++)
            for (uint32_t group = 0; group < EXTENDED / 16; group++) {
                for (uint32_t i = 0; i < 16; i++) {
                    row_of(&f, f.seq, layer, head, 16 * group + i, k, v);
                    for (uint32_t pair = 0; pair < half; pair++) { /* slowest first */
                        keys[i * c->head_dim + 2 * pair] = k[half - 1 - pair];
                        keys[i * c->head_dim + 2 * pair + 1] = k[2 * half - 1 - pair];
                    }
                }
                uint32_t per_block;
                const void *block = kv_seq_index_block(f.seq, layer, head, 16 * group, &per_block);
                memcpy(same, block, per_block * entry);
                kernel_index_write(keys, c->head_dim, c->head_dim, same, per_block, group % per_block);
                assert_memory_equal(block, same, per_block * entry);
            }
    kv_batch_unpin(batch);
    free(same);
    close_cache(&f);
    close_model(&f);
}

/* ---- formats -------------------------------------------------------------------------------------------------------- */

static double distance(const float *a, const float *b, uint32_t count)
{
    double difference = 0, size = 0;
    for (uint32_t i = 0; i < count; i++) {
        difference += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
        size += (double)a[i] * a[i];
    }
    return sqrt(difference / size);
}

static void test_formats(void **state)
{
    (void)state;
    static const char *const names[] = {"qwen2", "gemma3"};
    static const struct {
        enum number_format k, v;
        double loss;
    } cases[] = {{NF_F32, NF_F32, 0},         {NF_F16, NF_F16, 2e-3},          {NF_INT8, NF_INT8, 0.03},
                 {NF_INT4, NF_INT4, 0.3},     {NF_FP8_E4M3, NF_FP8_E4M3, 0.1}, {NF_BF16, NF_BF16, 0.02},
                 {NF_FP8_E5M2, NF_INT4, 0.3}, {NF_INT8, NF_F32, 0.03}};
    for (size_t n = 0; n < ARRAY_COUNT(names); n++) {
        struct fixture f, other;
        open_model(&f, names[n], 1);
        open_model(&other, names[n], 3);
        const uint32_t vocabulary = f.config->vocabulary;
        float *exact = calloc(vocabulary, sizeof *exact), *got = calloc(vocabulary, sizeof *got),
              *chunked = calloc(vocabulary, sizeof *chunked);
        for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
            open_source(&f, cases[i].k, cases[i].v, true);
            open_source(&other, cases[i].k, cases[i].v, true);
            extend(&f, EXTENDED);
            extend(&other, 13);
            next(&f, got);
            next(&other, chunked);
            assert_memory_equal(got, chunked, vocabulary * sizeof *got);
            if (i == 0) memcpy(exact, got, vocabulary * sizeof *got);
            const double loss = distance(exact, got, vocabulary);
            assert_true(loss <= cases[i].loss);
            close_cache(&f);
            close_cache(&other);
        }
        free(exact);
        free(got);
        free(chunked);
        close_model(&f);
        close_model(&other);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_rows), cmocka_unit_test(test_index),
                                       cmocka_unit_test(test_formats)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
