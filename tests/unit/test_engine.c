/* test_engine.c - the engine on tiny checkpoints: a request's tokens are the same alone and in any batch, with any chunk,
 * any number of threads, with and without the cache, after giving up its blocks and with a warm prefix; and what ends it. */
#include "engine_requests.h"

/* ---- the same tokens ------------------------------------------------------------------------------------------------- */

static void check_options(struct kvasir_model *of, struct kvasir_engine_options options, uint32_t gap)
{
    struct answer alone[REQUESTS], answers[REQUESTS];
    run_alone(alone);
    struct kvasir_engine *engine = open_engine(of, options);
    run_all(engine, gap, answers);
    check_same(alone, answers);
    run_all(engine, gap, answers); /* now every prompt's prefix is cached */
    check_same(alone, answers);
    kvasir_engine_close(engine);
}

static void test_batched_is_alone(void **state)
{
    (void)state;
    check_options(model, (struct kvasir_engine_options){.kv_cache_bytes = 8u << 20}, 0);
    check_options(model, (struct kvasir_engine_options){.kv_cache_bytes = 8u << 20}, 3);
    check_options(model, (struct kvasir_engine_options){.kv_cache_bytes = 8u << 20, .max_sequences = 2}, 1);
}

static void test_any_chunk(void **state)
{
    (void)state;
    const uint32_t chunks[] = {1, 7, 16, 33, 100};
    for (size_t i = 0; i < ARRAY_COUNT(chunks); i++)
        check_options(model,
                      (struct kvasir_engine_options){.kv_cache_bytes = 8u << 20, .max_batched_tokens = chunks[i]}, 2);
}

static void test_any_block_size(void **state)
{
    (void)state;
    const uint32_t sizes[] = {16, 64, 128};
    for (size_t i = 0; i < ARRAY_COUNT(sizes); i++)
        check_options(model, (struct kvasir_engine_options){.kv_cache_bytes = 16u << 20, .block_size = sizes[i]}, 1);
}

static void test_one_thread_is_two(void **state)
{
    (void)state;
    struct kvasir_model *one = open_model(1);
    check_options(one, (struct kvasir_engine_options){.kv_cache_bytes = 8u << 20}, 1);
    kvasir_model_close(one);
}

static void test_without_cache(void **state)
{
    (void)state;
    check_options(model, (struct kvasir_engine_options){.no_kv_cache = true}, 0);
}

/* The smallest budget that one request of the context fits: several cannot run long together. */
static void test_blocks_given_up(void **state)
{
    (void)state;
    struct answer alone[REQUESTS], answers[REQUESTS];
    run_alone(alone);
    struct kvasir_engine_options options = {.context = 140, .block_size = 16, .max_batched_tokens = 32};
    struct kvasir_engine *engine = open_engine(model, options);
    options.kv_cache_bytes = engine->plan.request_bytes;
    kvasir_engine_close(engine);
    engine = open_engine(model, options);
    uint64_t ids[REQUESTS];
    memset(answers, 0, sizeof answers);
    for (uint32_t step = 0; step < 4 * REQUESTS || kvasir_engine_busy(engine); step++) {
        const struct kvasir_event *events;
        uint32_t prompt[128], r = step / 4;
        struct kvasir_request request;
        size_t count;
        if (step % 4 == 0 && r < REQUESTS) { /* more urgent than those that run */
            make_request(r, prompt, &request);
            request.priority = -(int32_t)r;
            assert_int_equal(kvasir_engine_submit(engine, &request, &ids[r], NULL), KVASIR_OK);
        }
        assert_int_equal(kvasir_engine_step(engine, &events, &count, NULL), KVASIR_OK);
        take_events(events, count, ids, answers, REQUESTS);
        check_rules(engine);
        check_requests(engine);
    }
    struct kvasir_engine_stats stats;
    kvasir_engine_stats(engine, &stats);
    assert_true(stats.preemptions > 0);
    check_same(alone, answers);
    kvasir_engine_close(engine);
}

/* All places are taken by answers that are long under way: a more urgent request has one at once, and they go on after it. */
static void test_places(void **state)
{
    (void)state;
    struct answer alone[REQUESTS];
    uint32_t prompts[2][128], before = 0, got[2] = {0}, tokens[2][160];
    uint64_t ids[2];
    struct kvasir_request requests[2];
    run_alone(alone);
    for (uint32_t swap = 0; swap < 2; swap++) {
        struct kvasir_engine *engine =
            open_engine(model, (struct kvasir_engine_options){.max_sequences = 1, .swap_bytes = swap ? 8u << 20 : 0});
        memset(got, 0, sizeof got);
        for (uint32_t r = 0; r < 2; r++) {
            make_request(r ? 1 : REQUESTS - 1, prompts[r], &requests[r]);
            requests[r].ignore_eos = true;
            requests[r].priority = -(int32_t)r;
        }
        requests[0].max_tokens = 120;
        assert_int_equal(kvasir_engine_submit(engine, &requests[0], &ids[0], NULL), KVASIR_OK);
        for (uint32_t step = 0; kvasir_engine_busy(engine); step++) {
            const struct kvasir_event *events;
            size_t count;
            if (step == 30) {
                assert_int_equal(kvasir_engine_submit(engine, &requests[1], &ids[1], NULL), KVASIR_OK);
                before = got[0];
            }
            assert_int_equal(kvasir_engine_step(engine, &events, &count, NULL), KVASIR_OK);
            for (size_t e = 0; e < count; e++)
                for (size_t t = 0; t < events[e].token_count; t++) {
                    uint32_t r = step >= 30 && events[e].id == ids[1];
                    tokens[r][got[r]++] = events[e].tokens[t].id;
                }
            if (step > 30 && got[1] && got[1] < ANSWER) assert_true(got[0] <= before + 2);
            check_rules(engine);
            check_requests(engine);
        }
        assert_true(got[0] == 120 && got[1] >= ANSWER);
        assert_memory_equal(tokens[1], alone[1].tokens, alone[1].count * sizeof(uint32_t));
        struct kvasir_engine_stats stats;
        kvasir_engine_stats(engine, &stats);
        assert_int_equal(stats.preemptions, 1);
        kvasir_engine_close(engine);
    }
}

static void test_warm_prefix(void **state)
{
    (void)state;
    struct kvasir_engine *engine = open_engine(model, (struct kvasir_engine_options){.kv_cache_bytes = 8u << 20});
    uint32_t prompt[128];
    struct kvasir_request request;
    for (uint32_t r = REQUESTS - 2; r < REQUESTS; r++) {
        struct kvasir_timings timings;
        const struct kvasir_event *events;
        size_t count;
        uint64_t id;
        make_request(r, prompt, &request);
        assert_int_equal(kvasir_engine_submit(engine, &request, &id, NULL), KVASIR_OK);
        while (kvasir_engine_busy(engine))
            assert_int_equal(kvasir_engine_step(engine, &events, &count, NULL), KVASIR_OK);
        assert_int_equal(kvasir_engine_timings(engine, id, &timings), KVASIR_OK);
        assert_int_equal(timings.prompt_tokens, 80);
        assert_int_equal(timings.output_tokens, ANSWER);
        assert_int_equal(timings.cached_tokens, r == REQUESTS - 2 ? 0 : 70); /* to the token */
        assert_true(timings.ttft_s > 0 && timings.tpot_s > 0 && timings.kv_bytes > 0 && timings.kv_blocks > 0);
        assert_true(timings.prefill_s <= timings.ttft_s);
    }
    kvasir_engine_close(engine);
}

/* ---- what ends a request ----------------------------------------------------------------------------------------------- */

/* Tokens of `request`, and how it ended. */
static uint32_t run_one(struct kvasir_engine *engine, const struct kvasir_request *request, uint32_t *tokens,
                        enum kvasir_finish *finish)
{
    const struct kvasir_event *events;
    uint32_t got = 0;
    size_t count;
    uint64_t id;
    assert_int_equal(kvasir_engine_submit(engine, request, &id, NULL), KVASIR_OK);
    while (kvasir_engine_busy(engine)) {
        assert_int_equal(kvasir_engine_step(engine, &events, &count, NULL), KVASIR_OK);
        assert_true(count <= 1);
        if (!count) continue;
        for (size_t t = 0; t < events[0].token_count; t++) tokens[got++] = events[0].tokens[t].id;
        *finish = events[0].finish;
    }
    return got;
}

static void test_ends(void **state)
{
    (void)state;
    struct kvasir_engine *engine = open_engine(model, (struct kvasir_engine_options){.context = 64});
    uint32_t prompt[40], tokens[64], again[64];
    enum kvasir_finish finish;
    for (uint32_t i = 0; i < 40; i++) prompt[i] = 10 + i * 7;
    struct kvasir_request request = {.prompt = prompt,
                                     .prompt_count = 40,
                                     .ignore_eos = true,
                                     .sampling = {.temperature = 1.5f, .seed = 1, .has_seed = true}};
    assert_int_equal(run_one(engine, &request, tokens, &finish), 24); /* until the context of 64 is full */
    assert_int_equal(finish, KVASIR_LENGTH);
    request.max_tokens = 5;
    assert_int_equal(run_one(engine, &request, again, &finish), 5);
    assert_int_equal(finish, KVASIR_LENGTH);
    assert_memory_equal(tokens, again, 5 * sizeof *tokens);
    uint32_t place = 9, stop_ids[] = {500, tokens[9]};
    while (place > 0 && tokens[place - 1] == tokens[9]) place--;
    for (uint32_t i = 0; i < place; i++)
        if (tokens[i] == tokens[9]) place = i;
    request.max_tokens = 0;
    request.stop_ids = stop_ids;
    request.stop_id_count = 2;
    uint32_t got = run_one(engine, &request, again, &finish); /* 500 may come even earlier */
    assert_true(got <= place);
    assert_int_equal(finish, KVASIR_STOP);
    assert_memory_equal(tokens, again, got * sizeof *tokens);
    /* Without a tokenizer the file's end token is the end: made certain by a bias. */
    const struct kvasir_logit_bias sure[] = {{model->eos, 1e6f}};
    request = (struct kvasir_request){
        .prompt = prompt, .prompt_count = 40, .max_tokens = 3, .sampling = {.bias = sure, .bias_count = 1}};
    assert_int_equal(run_one(engine, &request, again, &finish), 0);
    assert_int_equal(finish, KVASIR_STOP);
    request.ignore_eos = true;
    assert_int_equal(run_one(engine, &request, again, &finish), 3);
    assert_int_equal(again[2], model->eos);
    assert_int_equal(finish, KVASIR_LENGTH);
    kvasir_engine_close(engine);
}

static void test_cancel(void **state)
{
    (void)state;
    struct kvasir_engine *engine = open_engine(model, (struct kvasir_engine_options){.max_sequences = 2});
    uint64_t ids[3];
    uint32_t prompt[128];
    const struct kvasir_event *events;
    size_t count;
    for (uint32_t r = 0; r < 3; r++) {
        struct kvasir_request request;
        make_request(r, prompt, &request);
        assert_int_equal(kvasir_engine_submit(engine, &request, &ids[r], NULL), KVASIR_OK);
    }
    for (int i = 0; i < 3; i++) assert_int_equal(kvasir_engine_step(engine, &events, &count, NULL), KVASIR_OK);
    assert_int_equal(kvasir_engine_cancel(engine, ids[0]), KVASIR_OK); /* runs */
    assert_int_equal(kvasir_engine_cancel(engine, ids[2]), KVASIR_OK); /* waits */
    assert_int_equal(kvasir_engine_cancel(engine, 12345), KVASIR_NOT_FOUND);
    assert_int_equal(kvasir_engine_step(engine, &events, &count, NULL), KVASIR_OK);
    assert_int_equal(count, 3);
    for (size_t e = 0; e < count; e++)
        assert_int_equal(events[e].finish, events[e].id == ids[1] ? KVASIR_RUNNING : KVASIR_CANCELLED_BY_CALLER);
    assert_int_equal(kvasir_engine_cancel(engine, ids[0]), KVASIR_NOT_FOUND);
    struct kvasir_timings timings;
    assert_int_equal(kvasir_engine_timings(engine, ids[0], &timings), KVASIR_OK); /* still known */
    assert_int_equal(timings.output_tokens, 3);
    check_rules(engine);
    kvasir_engine_close(engine); /* with one still running */
}

/* ---- what is refused --------------------------------------------------------------------------------------------------- */

static void refuse(struct kvasir_engine *engine, struct kvasir_request request, int status, const char *why)
{
    static const uint32_t prompt[] = {5, 6};
    struct kvasir_error error = {0};
    uint64_t id;
    if (!request.prompt && !request.prompt_count) {
        request.prompt = prompt;
        request.prompt_count = 2;
    }
    assert_int_equal(kvasir_engine_submit(engine, &request, &id, &error), status);
    if (!strstr(error.text, why)) fail_msg("'%s' does not say '%s'", error.text, why);
    assert_false(kvasir_engine_busy(engine));
}

static void test_refused_requests(void **state)
{
    (void)state;
    struct kvasir_engine *engine = open_engine(model, (struct kvasir_engine_options){.context = 64, .max_waiting = 5});
    uint32_t prompt[64] = {0}, outside[] = {1, 512};
    const char *stop[] = {"x"};
    refuse(engine, (struct kvasir_request){.prompt = prompt, .prompt_count = 0}, KVASIR_INVALID, "no tokens");
    refuse(engine, (struct kvasir_request){.prompt = prompt, .prompt_count = 64}, KVASIR_LIMIT, "at most 63");
    refuse(engine, (struct kvasir_request){.prompt = outside, .prompt_count = 2}, KVASIR_INVALID, "token 512");
    refuse(engine, (struct kvasir_request){.stop_ids = outside, .stop_id_count = 2}, KVASIR_INVALID, "stop token 1");
    refuse(engine, (struct kvasir_request){.logprobs = 129}, KVASIR_INVALID, "logprobs");
    refuse(engine, (struct kvasir_request){.sampling.top_p = 2}, KVASIR_INVALID, "top_p");
    refuse(engine, (struct kvasir_request){.stop = stop, .stop_count = 1}, KVASIR_UNSUPPORTED, "tokenizer");
    const struct kvasir_request fine = {.prompt = prompt, .prompt_count = 1, .max_tokens = 1};
    struct kvasir_error error = {0};
    uint64_t id;
    for (uint32_t i = 0; i < 5; i++) assert_int_equal(kvasir_engine_submit(engine, &fine, &id, &error), KVASIR_OK);
    assert_int_equal(kvasir_engine_submit(engine, &fine, &id, &error), KVASIR_FULL);
    assert_non_null(strstr(error.text, "waiting"));
    kvasir_engine_close(engine);
}

static void test_refused_engines(void **state)
{
    (void)state;
    refuse_engine((struct kvasir_engine_options){.kv_cache_dtype = "f8"}, KVASIR_INVALID, "'f8'");
    refuse_engine((struct kvasir_engine_options){.kv_cache_dtype = "k=f32,w=f16"}, KVASIR_INVALID, "KV cache format");
    refuse_engine((struct kvasir_engine_options){.kv_cache_dtype = "k="}, KVASIR_INVALID, "KV cache format");
    refuse_engine((struct kvasir_engine_options){.block_size = 24}, KVASIR_INVALID, "block size 24");
    refuse_engine((struct kvasir_engine_options){.context = 1}, KVASIR_INVALID, "context");
    refuse_engine((struct kvasir_engine_options){.context = 4096, .kv_cache_bytes = 100000}, KVASIR_LIMIT, "100000");
    refuse_engine((struct kvasir_engine_options){.kv_cache_bytes = 1}, KVASIR_LIMIT, "bytes of KV cache");
    refuse_engine((struct kvasir_engine_options){.kv_cache_bytes = UINT64_MAX}, KVASIR_LIMIT, "free memory");
    refuse_engine((struct kvasir_engine_options){.context = 1u << 29}, KVASIR_LIMIT, "bytes a token");
}

static void test_sizes(void **state)
{
    (void)state;
    struct kvasir_engine_stats stats;
    struct kvasir_engine *engine = open_engine(model, (struct kvasir_engine_options){.context = 200});
    kvasir_engine_stats(engine, &stats);
    assert_int_equal(stats.context, 200);
    assert_int_equal(stats.block_size, 32);
    assert_int_equal(stats.kv_blocks_used, 0);
    kvasir_engine_close(engine);
    /* A budget alone shrinks the context until it fits, in whole blocks, and no further. */
    struct kvasir_error error;
    assert_int_equal(
        kvasir_engine_open(model, &(struct kvasir_engine_options){.kv_cache_bytes = 300000}, &engine, &error),
        KVASIR_OK);
    kvasir_engine_stats(engine, &stats);
    assert_int_equal(stats.kv_bytes_budget, 300000);
    assert_true(stats.context >= 32 && stats.context < 4096 && stats.context % 32 == 0);
    const struct kv_config *kv = &engine->plan.kv;
    assert_true(kv_bytes_needed(kv, stats.context, engine->plan.max_batched_tokens) <= 300000);
    assert_true(kv_bytes_needed(kv, stats.context + 32, stats.context + 32) > 300000);
    kvasir_engine_close(engine);
    /* Without a budget: half of free memory, of which one request is kept free; one whose context needs more gets it. */
    engine = open_engine(model, (struct kvasir_engine_options){.context = 200});
    kv = &engine->plan.kv;
    uint64_t need = kv_bytes_needed(kv, 200, 200), half = mem_available_bytes() / 2;
    assert_int_equal(engine->plan.request_bytes, need);
    assert_int_equal(kv->bytes_pinned_max, kv->bytes_max - need);
    assert_true(kv->bytes_max > half / 2 && kv->bytes_max < half + half / 2);
    uint64_t per_token = (kv_bytes_needed(kv, 64000, 512) - kv_bytes_needed(kv, 32000, 512)) / 32000;
    uint32_t context = (uint32_t)(half * 5 / 4 / per_token);
    kvasir_engine_close(engine);
    struct engine_plan plan;
    assert_int_equal(engine_plan_init(model->model, &(struct kvasir_engine_options){.context = context}, &plan, NULL),
                     ST_OK);
    assert_true(plan.kv.bytes_max == plan.request_bytes && plan.request_bytes > half);
    engine_plan_release(&plan);
    const struct model_config wide = {.head_dim = 64, .value_dim = 96}, narrow = {.head_dim = 16, .value_dim = 80};
    enum number_format k, v;
    assert_int_equal(engine_kv_formats(NULL, &wide, &k, &v, NULL), ST_OK);
    assert_true(k == NF_INT8 && v == NF_INT8);
    assert_int_equal(engine_kv_formats("auto", &narrow, &k, &v, NULL), ST_OK);
    assert_true(k == NF_F16 && v == NF_F16);
    assert_int_equal(engine_kv_formats("f32", &wide, &k, &v, NULL), ST_OK);
    assert_true(k == NF_F32 && v == NF_F32);
    assert_int_equal(engine_kv_formats("k=f32,v=f16", &wide, &k, &v, NULL), ST_OK);
    assert_true(k == NF_F32 && v == NF_F16);
    assert_int_equal(engine_kv_formats("v=f32", &narrow, &k, &v, NULL), ST_OK);
    assert_true(k == NF_F16 && v == NF_F32);
    assert_int_equal(engine_kv_formats("k=auto,v=int4", &wide, &k, &v, NULL), ST_OK);
    assert_true(k == NF_INT8 && v == NF_INT4);
}

/* ---- selective caching ------------------------------------------------------------------------------------------------- */

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_batched_is_alone),
        cmocka_unit_test(test_any_chunk),
        cmocka_unit_test(test_any_block_size),
        cmocka_unit_test(test_one_thread_is_two),
        cmocka_unit_test(test_without_cache),
        cmocka_unit_test(test_blocks_given_up),
        cmocka_unit_test(test_places),
        cmocka_unit_test(test_warm_prefix),
        cmocka_unit_test(test_ends),
        cmocka_unit_test(test_cancel),
        cmocka_unit_test(test_refused_requests),
        cmocka_unit_test(test_refused_engines),
        cmocka_unit_test(test_sizes),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
