/* test_engine_retrieval.c - retrieval attention's settings, what is refused, which tokens are sparse, and what such an answer leaves
 * in the cache; answers of every kind, whatever happens to them on the way. Random mixes are test_engine_mix.c's. On a tiny gemma3 (sliding and
 * full layers) and a model whose tokens are bytes. */
#include "engine_byte_model.h"
#include "scratch.h"

#define PROMPT 100u

static const struct kvasir_retrieval small = {
    .mode = KVASIR_RETRIEVAL_ON, .initial_tokens = 16, .local_tokens = 16, .topk = 0.25, .dense_boundary = 64};

static void make_prompt(uint32_t seed, uint32_t *out, uint32_t count)
{
    struct random random;
    random_seed(&random, seed);
    for (uint32_t i = 0; i < count; i++) out[i] = 3 + (uint32_t)random_below(&random, 500);
}

static struct kvasir_engine *open_with(const struct kvasir_retrieval *retrieval, uint32_t block_size)
{
    return open_engine(model, (struct kvasir_engine_options){.retrieval = *retrieval, .block_size = block_size});
}

/* Runs the request to its end; returns its tokens' number. */
static uint32_t answer_to(struct kvasir_engine *engine, const struct kvasir_request *request, uint32_t *out,
                          struct kvasir_timings *timings)
{
    uint64_t id;
    uint32_t got = 0;
    struct kvasir_error error = {0};
    if (kvasir_engine_submit(engine, request, &id, &error) != KVASIR_OK) fail_msg("%s", error.text);
    while (kvasir_engine_busy(engine)) {
        const struct kvasir_event *events;
        size_t count;
        assert_int_equal(kvasir_engine_step(engine, &events, &count, NULL), KVASIR_OK);
        for (size_t e = 0; e < count; e++)
            for (size_t t = 0; t < events[e].token_count; t++) out[got++] = events[e].tokens[t].id;
        check_rules(engine);
        check_requests(engine);
    }
    assert_int_equal(kvasir_engine_timings(engine, id, timings), KVASIR_OK);
    return got;
}

/* ---- settings ------------------------------------------------------------------------------------------------------ */

static uint32_t recalled(const struct kvasir_retrieval *stated, enum kvasir_retrieval_mode mode, uint32_t position,
                         bool *sparse)
{
    struct engine_retrieval settings;
    struct model_retrieval read;
    engine_retrieval_init(stated, mode, &settings);
    *sparse = engine_retrieval_at(&settings, position, &read);
    assert_int_equal(read.initial_tokens, settings.initial_tokens);
    assert_int_equal(read.local_tokens, settings.local_tokens);
    return read.recall_tokens;
}

/* The published numbers, and our own; what is stated counts in both modes. */
static void test_what_a_token_reads(void **state)
{
    (void)state;
    const struct kvasir_retrieval nothing = {0};
    struct engine_retrieval on, automatic;
    bool sparse;
    engine_retrieval_init(&nothing, KVASIR_RETRIEVAL_ON, &on);
    engine_retrieval_init(&nothing, KVASIR_RETRIEVAL_AUTO, &automatic);
    assert_true(on.initial_tokens == 1024 && on.local_tokens == 7192 && on.topk == 0.2 && !on.dense_layers);
    assert_true(on.dense_boundary == 32768 && on.offload_boundary == 65536);
    assert_int_equal(recalled(&nothing, KVASIR_RETRIEVAL_ON, 8215, &sparse), 0);
    assert_false(sparse);
    assert_int_equal(recalled(&nothing, KVASIR_RETRIEVAL_ON, 8216, &sparse), 1);
    assert_false(sparse);
    assert_int_equal(recalled(&nothing, KVASIR_RETRIEVAL_ON, 8217, &sparse), 1);
    assert_true(sparse);
    assert_int_equal(recalled(&nothing, KVASIR_RETRIEVAL_ON, 18215, &sparse), 2000);
    uint32_t fixed = automatic.initial_tokens + automatic.local_tokens;
    assert_int_equal(recalled(&nothing, KVASIR_RETRIEVAL_AUTO, 99999, &sparse),
                     (uint32_t)(automatic.budget * 100000) - fixed);
    assert_true(sparse);
    assert_int_equal(recalled(&nothing, KVASIR_RETRIEVAL_AUTO, automatic.budget_tokens, &sparse),
                     automatic.budget_tokens - fixed);
    assert_true(sparse);
    recalled(&nothing, KVASIR_RETRIEVAL_AUTO, automatic.budget_tokens - 1, &sparse);
    assert_false(sparse);
    const struct kvasir_retrieval far = {.dense_boundary = 100000};
    engine_retrieval_init(&far, KVASIR_RETRIEVAL_ON, &on);
    assert_true(on.dense_boundary == 100000 && on.offload_boundary == 100000);
    const struct kvasir_retrieval stated = {.initial_tokens = KVASIR_RETRIEVAL_NONE,
                                            .local_tokens = 100,
                                            .topk = 0.5,
                                            .dense_boundary = 7,
                                            .offload_boundary = 70,
                                            .dense_layers = 2};
    for (int mode = KVASIR_RETRIEVAL_ON; mode <= KVASIR_RETRIEVAL_AUTO; mode++) {
        struct engine_retrieval settings;
        engine_retrieval_init(&stated, (enum kvasir_retrieval_mode)mode, &settings);
        assert_true(settings.dense_boundary == 7 && settings.offload_boundary == 70 && settings.dense_layers == 2);
        assert_int_equal(recalled(&stated, (enum kvasir_retrieval_mode)mode, 299, &sparse), 100);
    }
}

/* Once a token leaves something out, every later one does, whatever is stated. */
static void test_sparse_for_good(void **state)
{
    (void)state;
    for (uint32_t seed = 1; seed <= test_count(300, 20000); seed++) {
        struct random random;
        random_seed(&random, seed);
        struct kvasir_retrieval stated = {.initial_tokens = (uint32_t)random_below(&random, 300),
                                          .local_tokens = 1 + (uint32_t)random_below(&random, 300),
                                          .topk = random_below(&random, 2) ? random_unit(&random) : 0};
        struct engine_retrieval settings;
        engine_retrieval_init(&stated, seed % 2 ? KVASIR_RETRIEVAL_ON : KVASIR_RETRIEVAL_AUTO, &settings);
        bool before = false;
        for (uint32_t position = 0; position < 4000; position++) {
            struct model_retrieval read;
            bool sparse = engine_retrieval_at(&settings, position, &read);
            assert_true(sparse || !before);
            uint32_t fixed = read.initial_tokens + read.local_tokens;
            assert_true(sparse ? fixed + read.recall_tokens < position + 1
                               : fixed + read.recall_tokens >= position + 1);
            before = sparse;
        }
    }
}

static void test_refusals(void **state)
{
    (void)state;
    struct kvasir_engine_options options = {.context = 256};
    options.retrieval = (struct kvasir_retrieval){.mode = (enum kvasir_retrieval_mode)9};
    refuse_engine(options, KVASIR_INVALID, "there is no retrieval mode 9");
    options.retrieval = (struct kvasir_retrieval){.mode = KVASIR_RETRIEVAL_ON, .topk = 1.5};
    refuse_engine(options, KVASIR_INVALID, "topk is 1.5: must be a share from 0 to 1");
    options.retrieval = (struct kvasir_retrieval){.mode = KVASIR_RETRIEVAL_ON, .local_tokens = KVASIR_RETRIEVAL_NONE};
    refuse_engine(options, KVASIR_INVALID, "a token reads at least itself");
    options.retrieval = (struct kvasir_retrieval){.mode = KVASIR_RETRIEVAL_AUTO, .local_tokens = 2000000000};
    refuse_engine(options, KVASIR_INVALID, "local_tokens is 2000000000");
    options.retrieval = (struct kvasir_retrieval){.mode = KVASIR_RETRIEVAL_ON, .offload_boundary = 1000};
    refuse_engine(options, KVASIR_INVALID, "offload boundary of 1000 tokens is below its dense boundary of 32768");
    options.retrieval = (struct kvasir_retrieval){.mode = KVASIR_RETRIEVAL_AUTO};
    options.no_kv_cache = true;
    refuse_engine(options, KVASIR_UNSUPPORTED, "needs the KV cache");

    uint32_t prompt[PROMPT];
    make_prompt(1, prompt, PROMPT);
    const struct {
        bool opened;
        enum kvasir_retrieval_mode mode;
        double topk;
        int status;
        const char *why;
    } rows[] = {
        {false, KVASIR_RETRIEVAL_DEFAULT, 0, KVASIR_OK, ""},
        {false, KVASIR_RETRIEVAL_OFF, 0, KVASIR_OK, ""},
        {false, KVASIR_RETRIEVAL_ON, 0, KVASIR_UNSUPPORTED, "the engine was opened without it"},
        {false, KVASIR_RETRIEVAL_AUTO, 0, KVASIR_UNSUPPORTED, "the engine was opened without it"},
        {false, KVASIR_RETRIEVAL_DEFAULT, 0.1, KVASIR_UNSUPPORTED, "the engine was opened without it"},
        {true, KVASIR_RETRIEVAL_DEFAULT, 0.1, KVASIR_OK, ""},
        {true, KVASIR_RETRIEVAL_AUTO, 0, KVASIR_OK, ""},
        {true, KVASIR_RETRIEVAL_OFF, 0.1, KVASIR_INVALID, "retrieval is off"},
        {true, KVASIR_RETRIEVAL_ON, 1.01, KVASIR_INVALID, "retrieval_topk is 1.01"},
        {true, KVASIR_RETRIEVAL_ON, -1, KVASIR_INVALID, "retrieval_topk is -1"},
        {true, (enum kvasir_retrieval_mode)7, 0, KVASIR_INVALID, "no retrieval mode 7"},
    };
    for (size_t i = 0; i < ARRAY_COUNT(rows); i++) {
        struct kvasir_engine *engine = open_with(rows[i].opened ? &small : &(struct kvasir_retrieval){0}, 16);
        const struct kvasir_request request = {.prompt = prompt,
                                               .prompt_count = PROMPT,
                                               .max_tokens = 2,
                                               .retrieval = rows[i].mode,
                                               .retrieval_topk = rows[i].topk};
        struct kvasir_error error = {0};
        uint64_t id;
        assert_int_equal(kvasir_engine_submit(engine, &request, &id, &error), rows[i].status);
        if (!strstr(error.text, rows[i].why)) fail_msg("'%s' does not say '%s'", error.text, rows[i].why);
        kvasir_engine_close(engine);
    }
}

/* ---- requests ------------------------------------------------------------------------------------------------------ */

/* Prompts of the boundary and more; not embeddings; a share that covers all makes no token sparse. */
static void test_who_is_sparse(void **state)
{
    (void)state;
    static const struct {
        uint32_t prompt;
        enum kvasir_retrieval_mode mode;
        double topk;
        enum kvasir_pooling pooling;
        uint32_t sparse_from;
    } rows[] = {
        {63, KVASIR_RETRIEVAL_DEFAULT, 0, KVASIR_POOLING_NONE, 0},
        {64, KVASIR_RETRIEVAL_DEFAULT, 0, KVASIR_POOLING_NONE, 64},
        {100, KVASIR_RETRIEVAL_ON, 0.5, KVASIR_POOLING_NONE, 100},
        {100, KVASIR_RETRIEVAL_ON, 1, KVASIR_POOLING_NONE, 0},
        {100, KVASIR_RETRIEVAL_OFF, 0, KVASIR_POOLING_NONE, 0},
        {100, KVASIR_RETRIEVAL_AUTO, 0, KVASIR_POOLING_NONE, 100},
        {100, KVASIR_RETRIEVAL_ON, 0.99, KVASIR_POOLING_NONE, 131}, /* 0.99 of 100 leaves the first one out */
        {100, KVASIR_RETRIEVAL_ON, 0, KVASIR_POOLING_MEAN, 0},
    };
    struct kvasir_engine *engine = open_with(&small, 16);
    uint32_t prompt[PROMPT];
    make_prompt(1, prompt, PROMPT);
    for (size_t i = 0; i < ARRAY_COUNT(rows); i++) {
        const struct kvasir_request wanted = {.prompt = prompt,
                                              .prompt_count = rows[i].prompt,
                                              .max_tokens = 2,
                                              .retrieval = rows[i].mode,
                                              .retrieval_topk = rows[i].topk,
                                              .pooling = rows[i].pooling};
        struct request *request;
        struct error error;
        if (request_open(engine, &wanted, &request, &error) != ST_OK) fail_msg("%s", error.text);
        assert_int_equal(request->sparse_from, rows[i].sparse_from);
        request_close_all(request);
    }
    kvasir_engine_close(engine);
    /* Where no head keeps every token there is nothing to look up. */
    struct request *request;
    struct kvasir_engine_options options = {.retrieval = small,
                                            .kv_policy = "{\"default\":{\"kind\":\"sliding\",\"window\":32}}"};
    engine = open_engine(model, options);
    const struct kvasir_request wanted = {.prompt = prompt, .prompt_count = PROMPT, .retrieval = KVASIR_RETRIEVAL_ON};
    assert_int_equal(request_open(engine, &wanted, &request, NULL), ST_OK);
    assert_int_equal(request->sparse_from, 0);
    request_close_all(request);
    kvasir_engine_close(engine);
}

/* What a sparse answer computed is found by nobody: the next turn computes it anew, and exactly, so that its answer is the one that
 * it would have had on its own. What the prompt left is found to the token. */
static void test_chat(void **state)
{
    (void)state;
    uint32_t prompt[PROMPT + 2 * ANSWER], answer[ANSWER], other[ANSWER];
    struct kvasir_timings timings;
    struct kvasir_engine_stats stats;
    for (uint32_t block = 16; block <= 64; block += 48) {
        struct kvasir_engine *engine = open_with(&small, block), *fresh = open_with(&small, block);
        make_prompt(2, prompt, PROMPT + 2 * ANSWER);
        struct kvasir_request request = {
            .prompt = prompt, .prompt_count = PROMPT, .max_tokens = ANSWER, .ignore_eos = true};
        assert_int_equal(answer_to(engine, &request, answer, &timings), ANSWER);
        kvasir_engine_stats(engine, &stats);
        assert_int_equal(stats.retrieval_answers, 1);
        assert_int_equal(stats.drafted_tokens, 0);
        answer_to(engine, &request, other, &timings);
        assert_int_equal(timings.cached_tokens, PROMPT - 1);
        assert_memory_equal(answer, other, sizeof answer);
        memcpy(prompt + PROMPT, answer, sizeof answer);
        request.prompt_count = PROMPT + ANSWER + 5;
        request.retrieval = KVASIR_RETRIEVAL_OFF;
        answer_to(engine, &request, answer, &timings);
        assert_int_equal(timings.cached_tokens, PROMPT);
        answer_to(fresh, &request, other, &timings);
        assert_memory_equal(answer, other, sizeof answer);
        request.retrieval = KVASIR_RETRIEVAL_ON;
        answer_to(engine, &request, answer, &timings);
        assert_int_equal(timings.cached_tokens, request.prompt_count - 1);
        kvasir_engine_close(fresh);
        fresh = open_with(&small, block);
        answer_to(fresh, &request, other, &timings);
        assert_memory_equal(answer, other, sizeof answer);
        kvasir_engine_stats(engine, &stats);
        assert_int_equal(stats.retrieval_answers, 3);
        kvasir_engine_close(engine);
        kvasir_engine_close(fresh);
    }
}

/* Rows are counted where they were not all read; with all recalled, the answer is that of full attention. */
static void test_rows(void **state)
{
    (void)state;
    uint32_t prompt[PROMPT], dense[ANSWER], answer[ANSWER];
    struct kvasir_timings timings;
    struct kvasir_engine_stats stats;
    make_prompt(3, prompt, PROMPT);
    struct kvasir_engine *engine = open_with(&small, 16);
    struct kvasir_request request = {.prompt = prompt,
                                     .prompt_count = PROMPT,
                                     .max_tokens = ANSWER,
                                     .ignore_eos = true,
                                     .retrieval = KVASIR_RETRIEVAL_OFF};
    answer_to(engine, &request, dense, &timings);
    request.retrieval = KVASIR_RETRIEVAL_ON;
    request.retrieval_topk = 1;
    answer_to(engine, &request, answer, &timings);
    assert_memory_equal(answer, dense, sizeof dense);
    kvasir_engine_stats(engine, &stats);
    assert_true(stats.retrieval_answers == 0 && stats.retrieval_rows_dense == 0);
    request.retrieval_topk = 0.25;
    answer_to(engine, &request, answer, &timings);
    kvasir_engine_stats(engine, &stats);
    const struct kv_config *kv = &engine->plan.kv;
    uint64_t heads = 0, read = 0, all = 0;
    for (uint32_t i = 0; i < kv->layer_count; i++) heads += kv->layers[i].index ? kv->layers[i].kv_heads : 0;
    for (uint32_t position = PROMPT; position < PROMPT + ANSWER - 1; position++) {
        uint32_t between = position + 1 - 32,
                 recalled = (between + 3) / 4; /* each part in whole groups of 16, at most */
        all += heads * (position + 1);
        read += heads * (16 + (16 + 15) + (recalled + 15) / 16 * 16);
    }
    assert_true(heads > 0 && heads < kv->layer_count * kv->layers[0].kv_heads);
    assert_int_equal(stats.retrieval_rows_dense, all);
    assert_true(stats.retrieval_rows_read <= read && stats.retrieval_rows_read > read / 2);
    kvasir_engine_close(engine);
}

/* An index costs memory, which is counted, and other keys: rows are not given to an engine without. */
static void test_index_is_counted(void **state)
{
    (void)state;
    struct kvasir_engine *without = open_engine(model, (struct kvasir_engine_options){0}), *with = open_with(&small, 0);
    struct kvasir_engine_stats a, b;
    kvasir_engine_stats(without, &a);
    kvasir_engine_stats(with, &b);
    assert_true(b.kv_bytes_per_token > a.kv_bytes_per_token && b.kv_bytes_per_request > a.kv_bytes_per_request);
    char *json;
    size_t bytes_of_json;
    assert_int_equal(kvasir_engine_kv_snapshot(with, 0, &json, &bytes_of_json, NULL), KVASIR_OK);
    assert_non_null(strstr(json, "{\"kind\":\"index\""));
    kvasir_free(json);
    assert_memory_not_equal(without->plan.kv.provenance, with->plan.kv.provenance, KV_KEY_BYTES);
    kvasir_engine_close(without);
    kvasir_engine_close(with);
}

/* ---- the same answer in every way ---------------------------------------------------------------------------------- */

#define INDEXES 4u

struct told {
    uint32_t counts[INDEXES], tokens[INDEXES][2 * ANSWER];
    float logprobs[INDEXES][2 * ANSWER];
};

static void take(const struct kvasir_event *event, struct told *out)
{
    for (size_t t = 0; t < event->token_count; t++) {
        uint32_t at = out->counts[event->index]++;
        assert_true(at < 2 * ANSWER);
        out->tokens[event->index][at] = event->tokens[t].id;
        out->logprobs[event->index][at] = event->tokens[t].logprob;
    }
}

/* With `pushed`, urgent requests come in between, for each of which it gives up its blocks. */
static struct kvasir_engine_stats run_pushed(struct kvasir_engine *engine, const struct kvasir_request *request,
                                             bool pushed, struct told *out)
{
    uint32_t prompt[PROMPT];
    struct kvasir_engine_stats stats;
    struct kvasir_error error = {0};
    uint64_t id, other;
    memset(out, 0, sizeof *out);
    for (uint32_t i = 0; i < PROMPT; i++) prompt[i] = 3 + 7 * i % 200; /* in both vocabularies */
    const struct kvasir_request urgent = {
        .prompt = prompt, .prompt_count = PROMPT, .max_tokens = 3, .ignore_eos = true, .priority = -1};
    if (kvasir_engine_submit(engine, request, &id, &error) != KVASIR_OK) fail_msg("%s", error.text);
    for (uint32_t step = 0; kvasir_engine_busy(engine); step++) {
        const struct kvasir_event *events;
        size_t count;
        if (pushed && step % 40 == 30 && step < 200)
            assert_int_equal(kvasir_engine_submit(engine, &urgent, &other, NULL), KVASIR_OK);
        assert_int_equal(kvasir_engine_step(engine, &events, &count, NULL), KVASIR_OK);
        for (size_t e = 0; e < count; e++)
            if (events[e].id == id) take(&events[e], out);
        if (step % 4 == 0) check_rules(engine);
        check_requests(engine);
        assert_true(step < 3000);
    }
    kvasir_engine_stats(engine, &stats);
    kvasir_engine_close(engine);
    return stats;
}

/* With K and V in a folder, in budgets for one and for all. */
static void check_offloaded(struct kvasir_model *of, const struct kvasir_request *request, const struct told *alone)
{
    static struct told told;
    struct scratch scratch;
    uint64_t read = 0, swapped = 0;
    scratch_init(&scratch);
    for (uint32_t way = 0; way < 4; way++) {
        char name[] = {(char)('a' + way), 0};
        struct kvasir_engine_options options = {.context = 160,
                                                .retrieval = small,
                                                .block_size = 16,
                                                .kv_disk = scratch_path(&scratch, name),
                                                .kv_cache_bytes = 16u << 20};
        options.retrieval.offload_boundary = 64;
        struct kvasir_engine *measured = open_engine(of, options);
        if (way % 2) {
            options.kv_cache_bytes = measured->plan.request_bytes;
            options.max_batched_tokens = 14;
            options.max_sequences = 1;
        }
        if (way > 1) options.swap_bytes = 8 * measured->plan.request_bytes;
        kvasir_engine_close(measured);
        struct kvasir_engine_stats stats = run_pushed(open_engine(of, options), request, way > 0, &told);
        assert_memory_equal(alone->counts, told.counts, sizeof told.counts);
        assert_memory_equal(alone->tokens, told.tokens, sizeof told.tokens);
        assert_memory_equal(alone->logprobs, told.logprobs, sizeof told.logprobs);
        read += stats.kv_read_slices;
        swapped += stats.preemptions_swapped;
    }
    assert_true(request->beam_width ? read == 0 : read > 0);
    assert_true(swapped > 0);
    scratch_release(&scratch);
}

/* Alone with room for all, and in other chunks, blocks and numbers of places, in a budget for one, swapped out or computed again. */
static void check_ways(struct kvasir_model *of, const struct kvasir_request *request)
{
    static struct told alone, told;
    struct kvasir_engine_options options = {.context = 160, .retrieval = small, .kv_cache_bytes = 16u << 20};
    struct kvasir_engine_stats stats = run_pushed(open_engine(of, options), request, false, &alone);
    assert_true(stats.retrieval_answers >= 1 && stats.preemptions == 0);
    uint64_t preemptions = 0, swapped = 0;
    check_offloaded(of, request, &alone);
    for (uint32_t way = 0; way < 6; way++) {
        options = (struct kvasir_engine_options){.context = 160,
                                                 .retrieval = small,
                                                 .block_size = way < 4 ? 16 : 48,
                                                 .max_sequences = way % 3 + 1,
                                                 .max_batched_tokens = 7u << way};
        struct kvasir_engine *measured = open_engine(of, options);
        options.kv_cache_bytes = measured->plan.request_bytes;
        options.swap_bytes = way % 2 ? 8 * options.kv_cache_bytes : 0;
        kvasir_engine_close(measured);
        stats = run_pushed(open_engine(of, options), request, true, &told);
        assert_memory_equal(alone.counts, told.counts, sizeof told.counts);
        assert_memory_equal(alone.tokens, told.tokens, sizeof told.tokens);
        assert_memory_equal(alone.logprobs, told.logprobs, sizeof told.logprobs);
        preemptions += stats.preemptions;
        swapped += stats.preemptions_swapped;
    }
    print_message("%llu preemptions, %llu swapped\n", (unsigned long long)preemptions, (unsigned long long)swapped);
    assert_true(swapped > 0 && preemptions > swapped);
}

static void test_every_way(void **state)
{
    (void)state;
    uint32_t prompt[PROMPT];
    make_prompt(5, prompt, PROMPT);
    const struct kvasir_request plain = {
        .prompt = prompt, .prompt_count = PROMPT, .max_tokens = 2 * ANSWER, .ignore_eos = true, .logprobs = 2};
    struct kvasir_request request = plain;
    check_ways(model, &request);
    request.n = 3;
    request.sampling = (struct kvasir_sampling){
        .temperature = 0.9f, .top_p = 0.95f, .repetition_penalty = 1.1f, .seed = 4, .has_seed = true};
    check_ways(model, &request);
    request = plain;
    request.n = request.beam_width = INDEXES;
    request.max_tokens = ANSWER / 2; /* without places each beam's tokens are computed again for each of them */
    check_ways(model, &request);
    request = plain;
    for (uint32_t i = 0; i < PROMPT; i++) prompt[i] = 'a' + i % 26;
    request.structure = KVASIR_REGEX;
    request.structure_text = "([a-f][0-9]){24}";
    request.structure_bytes = strlen(request.structure_text);
    check_ways(bytes, &request);
}

/* A disk that loses what was written: the answer is computed again, and is the same. */
static void test_lost(void **state)
{
    (void)state;
    uint32_t prompt[PROMPT], whole[2 * ANSWER], answer[2 * ANSWER], got = 0;
    struct kvasir_timings timings;
    struct kvasir_engine_stats stats;
    struct scratch scratch;
    uint64_t id;
    scratch_init(&scratch);
    make_prompt(6, prompt, PROMPT);
    const struct kvasir_request request = {
        .prompt = prompt, .prompt_count = PROMPT, .max_tokens = 2 * ANSWER, .ignore_eos = true};
    struct kvasir_engine *engine = open_with(&small, 16);
    assert_int_equal(answer_to(engine, &request, whole, &timings), 2 * ANSWER);
    kvasir_engine_close(engine);
    struct kvasir_engine_options options = {.retrieval = small, .block_size = 16, .kv_disk = scratch.folder};
    options.retrieval.offload_boundary = 64;
    engine = open_engine(model, options);
    int file = scratch_nameless(&scratch);
    assert_int_equal(kvasir_engine_submit(engine, &request, &id, NULL), KVASIR_OK);
    for (uint32_t step = 0; kvasir_engine_busy(engine); step++) {
        const struct kvasir_event *events;
        size_t count;
        assert_true(step < 500);
        kvasir_engine_stats(engine, &stats);
        if (stats.kv_bytes_offloaded) assert_int_equal(ftruncate(file, 0), 0);
        assert_int_equal(kvasir_engine_step(engine, &events, &count, NULL), KVASIR_OK);
        for (size_t e = 0; e < count; e++)
            for (size_t t = 0; t < events[e].token_count; t++) answer[got++] = events[e].tokens[t].id;
        check_rules(engine);
        check_requests(engine);
    }
    assert_int_equal(got, 2 * ANSWER);
    assert_memory_equal(answer, whole, sizeof answer);
    kvasir_engine_stats(engine, &stats);
    assert_true(stats.kv_read_slices > 0 && stats.kv_bytes_offloaded == 0);
    kvasir_engine_close(engine);
    scratch_release(&scratch);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_a_token_reads),
        cmocka_unit_test(test_sparse_for_good),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_who_is_sparse),
        cmocka_unit_test(test_rows),
        cmocka_unit_test(test_index_is_counted),
        cmocka_unit_test(test_chat),
        cmocka_unit_test(test_every_way),
        cmocka_unit_test(test_lost),
    };
    return cmocka_run_group_tests(tests, setup_both, teardown_both);
}
