/* test_engine_swap.c - requests that give up their blocks come back from the swap tier, or are computed again, with the same
 * tokens; they can be cancelled, and their engine closed, wherever their rows are. On a tiny gemma3: sliding and full
 * layers. */
#include "engine/engine_internal.h"
#include "support.h"

#define REQUESTS 6u
#define ANSWER 24u

static struct kvasir_model *model;

static int setup(void **state)
{
    (void)state;
    struct kvasir_error error = {0};
    char path[512];
    snprintf(path, sizeof path, "%s/tiny/gemma3", TEST_DATA);
    if (kvasir_model_open(path, &(struct kvasir_model_options){.threads = 2}, &model, &error) != KVASIR_OK)
        fail_msg("%s", error.text);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    kvasir_model_close(model);
    return 0;
}

/* A budget for one request, or, without `tight`, for many; `quarters` of that one request's bytes to swap to. */
static struct kvasir_engine *open_engine(bool tight, uint32_t quarters)
{
    struct kvasir_engine *engine;
    struct kvasir_error error = {0};
    struct kvasir_engine_options options = {.context = 140, .block_size = 16, .max_batched_tokens = 32};
    if (kvasir_engine_open(model, &options, &engine, &error) != KVASIR_OK) fail_msg("%s", error.text);
    options.kv_cache_bytes = engine->plan.request_bytes * (tight ? 1 : 8);
    options.swap_bytes = engine->plan.request_bytes * quarters / 4;
    kvasir_engine_close(engine);
    if (kvasir_engine_open(model, &options, &engine, &error) != KVASIR_OK) fail_msg("%s", error.text);
    return engine;
}

/* Every second one samples. */
static void submit_all(struct kvasir_engine *engine, uint64_t ids[REQUESTS])
{
    for (uint32_t r = 0; r < REQUESTS; r++) {
        struct random random;
        uint32_t prompt[110], count = 3 + 21 * r;
        random_seed(&random, r);
        for (uint32_t i = 0; i < count; i++) prompt[i] = 3 + (uint32_t)random_below(&random, 500);
        const struct kvasir_request request = {
            .prompt = prompt,
            .prompt_count = count,
            .max_tokens = ANSWER,
            .ignore_eos = true,
            .sampling = {.temperature = (float)(r % 2), .top_p = 0.95f, .seed = r, .has_seed = true}};
        assert_int_equal(kvasir_engine_submit(engine, &request, &ids[r], NULL), KVASIR_OK);
    }
}

/* The running requests are the oldest and have sequences; of the waiting ones those that are swapped out. */
static void check(const struct kvasir_engine *engine)
{
    struct error error = {0};
    if (kv_check(engine->kv, &error) != ST_OK) fail_msg("%s", error.text);
    for (uint32_t i = 0; i < engine->count; i++) {
        const struct request *r = engine->requests[i];
        assert_true(i == 0 || engine->requests[i - 1]->id < r->id);
        if (i < engine->running)
            assert_non_null(r->seq);
        else
            assert_true(!r->seq || kv_seq_residence(r->seq) != KV_RESIDENT);
    }
}

static struct kvasir_engine_stats run_all(struct kvasir_engine *engine, uint32_t tokens[REQUESTS][ANSWER])
{
    uint64_t ids[REQUESTS];
    uint32_t counts[REQUESTS] = {0};
    struct kvasir_engine_stats stats;
    submit_all(engine, ids);
    while (kvasir_engine_busy(engine)) {
        const struct kvasir_event *events;
        size_t count;
        assert_int_equal(kvasir_engine_step(engine, &events, &count, NULL), KVASIR_OK);
        assert_true(count > 0); /* every step gets on */
        check(engine);
        for (size_t e = 0; e < count; e++) {
            uint32_t r = (uint32_t)(events[e].id - ids[0]);
            for (size_t t = 0; t < events[e].token_count; t++) tokens[r][counts[r]++] = events[e].tokens[t].id;
        }
    }
    for (uint32_t r = 0; r < REQUESTS; r++) assert_int_equal(counts[r], ANSWER);
    kvasir_engine_stats(engine, &stats);
    kvasir_engine_close(engine);
    return stats;
}

/* In a budget for one they wait swapped out, are computed again, or, with a small space, some one way, some the other. */
static void test_swapped_is_resident(void **state)
{
    (void)state;
    static uint32_t resident[REQUESTS][ANSWER], tokens[REQUESTS][ANSWER];
    assert_int_equal(run_all(open_engine(false, 0), resident).kv_swaps_out, 0);
    static const uint32_t quarters[] = {0, 2, 400};
    for (uint32_t i = 0; i < ARRAY_COUNT(quarters); i++) {
        memset(tokens, 0xff, sizeof tokens);
        struct kvasir_engine_stats stats = run_all(open_engine(true, quarters[i]), tokens);
        assert_memory_equal(tokens, resident, sizeof tokens);
        assert_true((stats.kv_swaps_out > 0) == (quarters[i] > 0) && stats.kv_swaps_in <= stats.kv_swaps_out);
        print_message("%u quarters: %llu swaps out, %llu in, %llu bytes copied\n", quarters[i],
                      (unsigned long long)stats.kv_swaps_out, (unsigned long long)stats.kv_swaps_in,
                      (unsigned long long)stats.kv_swap_copied_bytes);
    }
}

/* What is measured decides: where prompts cost nothing they are computed again. */
static void test_the_cheaper_way(void **state)
{
    (void)state;
    static uint32_t tokens[REQUESTS][ANSWER];
    struct kvasir_engine *engine = open_engine(true, 400);
    uint64_t first = run_all(engine, tokens).kv_swaps_out;
    engine = open_engine(true, 400);
    engine->prefill_tokens = 1e30;
    uint64_t cheap = run_all(engine, tokens).kv_swaps_out;
    assert_true(cheap < first); /* it is tried until it is measured */
}

/* Requests that are swapped out or on their way are cancelled, or all are, or the engine closes. */
static void test_swapped_requests_end(void **state)
{
    (void)state;
    for (uint32_t steps = 1; steps < 30; steps++) {
        struct kvasir_engine *engine = open_engine(true, 400);
        uint64_t ids[REQUESTS];
        const struct kvasir_event *events;
        size_t count;
        submit_all(engine, ids);
        for (uint32_t i = 0; i < steps; i++)
            assert_int_equal(kvasir_engine_step(engine, &events, &count, NULL), KVASIR_OK);
        for (uint32_t i = 0; i < engine->count; i++)
            if (steps % 3 == 0 || (engine->requests[i]->seq && i >= engine->running))
                assert_int_equal(kvasir_engine_cancel(engine, engine->requests[i]->id), KVASIR_OK);
        assert_int_equal(kvasir_engine_step(engine, &events, &count, NULL), KVASIR_OK);
        check(engine);
        kvasir_engine_close(engine);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_swapped_is_resident),
        cmocka_unit_test(test_the_cheaper_way),
        cmocka_unit_test(test_swapped_requests_end),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
