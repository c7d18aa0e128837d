/* test_engine_swap.c - requests that give up their blocks come back from the swap tier, or are computed again, with the same
 * tokens; they can be cancelled, and their engine closed, wherever their rows are. On a tiny gemma3: sliding and full
 * layers. */
#include "engine_requests.h"

/* A budget for one request, or, without `tight`, for many; `quarters` of that one request's bytes to swap to. */
static struct kvasir_engine *open_budget(bool tight, uint32_t quarters)
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

/* The request that comes before this step, if one does: each is more urgent than those before it, and makes them give way.
 * Every second one samples. */
static void submit_due(struct kvasir_engine *engine, uint32_t step, uint64_t ids[REQUESTS])
{
    struct random random;
    uint32_t prompt[110], r = step / 4, count = 3 + 21 * r;
    if (step % 4 || r >= REQUESTS) return;
    random_seed(&random, r);
    for (uint32_t i = 0; i < count; i++) prompt[i] = 3 + (uint32_t)random_below(&random, 500);
    const struct kvasir_request request = {
        .prompt = prompt,
        .prompt_count = count,
        .max_tokens = ANSWER,
        .ignore_eos = true,
        .priority = -(int32_t)r,
        .sampling = {.temperature = (float)(r % 2), .top_p = 0.95f, .seed = r, .has_seed = true}};
    assert_int_equal(kvasir_engine_submit(engine, &request, &ids[r], NULL), KVASIR_OK);
}

static void check(const struct kvasir_engine *engine)
{
    struct error error = {0};
    if (kv_check(engine->kv, &error) != ST_OK) fail_msg("%s", error.text);
    check_requests(engine);
}

static struct kvasir_engine_stats run_tight(struct kvasir_engine *engine, uint32_t tokens[REQUESTS][ANSWER])
{
    uint64_t ids[REQUESTS];
    uint32_t counts[REQUESTS] = {0};
    struct kvasir_engine_stats stats;
    for (uint32_t step = 0; step < 4 * REQUESTS || kvasir_engine_busy(engine); step++) {
        submit_due(engine, step, ids);
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
    assert_int_equal(run_tight(open_budget(false, 0), resident).kv_swaps_out, 0);
    static const uint32_t quarters[] = {0, 2, 400};
    for (uint32_t i = 0; i < ARRAY_COUNT(quarters); i++) {
        memset(tokens, 0xff, sizeof tokens);
        struct kvasir_engine_stats stats = run_tight(open_budget(true, quarters[i]), tokens);
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
    struct kvasir_engine *engine = open_budget(true, 400);
    uint64_t first = run_tight(engine, tokens).kv_swaps_out;
    engine = open_budget(true, 400);
    engine->scheduler.cost.unit_s = 1e-30;
    uint64_t cheap = run_tight(engine, tokens).kv_swaps_out;
    assert_true(cheap < first); /* it is tried until it is measured */
}

/* Requests that are swapped out or on their way are cancelled, or all are, or the engine closes. */
static void test_swapped_requests_end(void **state)
{
    (void)state;
    for (uint32_t steps = 1; steps < 30; steps++) {
        struct kvasir_engine *engine = open_budget(true, 400);
        uint64_t ids[REQUESTS];
        const struct kvasir_event *events;
        size_t count;
        for (uint32_t i = 0; i < steps; i++) {
            submit_due(engine, i, ids);
            assert_int_equal(kvasir_engine_step(engine, &events, &count, NULL), KVASIR_OK);
        }
        const struct scheduler *s = &engine->scheduler;
        for (uint32_t i = 0; i < s->waiting_count; i++)
            if (steps % 3 == 0 || s->waiting[i]->seq)
                assert_int_equal(kvasir_engine_cancel(engine, s->waiting[i]->id), KVASIR_OK);
        for (uint32_t i = 0; i < s->running_count && steps % 3 == 0; i++)
            assert_int_equal(kvasir_engine_cancel(engine, s->running[i]->id), KVASIR_OK);
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
