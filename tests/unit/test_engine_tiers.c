/* test_engine_tiers.c - an engine's tiers below RAM: what one engine has computed the next one reads, with the same answers to the
 * bit; a slow tier is not waited for; what cannot be opened, a server that is not there, and a folder full of damage. On a tiny
 * gemma3: sliding and full layers. */
#include "engine_requests.h"
#include "scratch.h"

#define FLUSH_S 60.0 /* that writing a few blocks may take */

static struct kvasir_engine_options options_for(const char *folder)
{
    return (struct kvasir_engine_options){.kv_disk = folder, .block_size = 16, .max_batched_tokens = 64};
}

static struct kvasir_engine_stats stats_of(const struct kvasir_engine *engine)
{
    struct kvasir_engine_stats stats;
    kvasir_engine_stats(engine, &stats);
    return stats;
}

/* Small models compute their prompts faster than any disk reads: so that they read all the same. */
static void make_slow(struct kvasir_engine *engine)
{
    engine->scheduler.limits.unit_least_s = engine->scheduler.cost.unit_s = 1;
}

/* The same requests in a new engine on the same folder, after the last one has closed. */
static void test_restart(void **state)
{
    (void)state;
    static struct answer alone[REQUESTS], answers[REQUESTS];
    struct scratch scratch;
    scratch_init(&scratch);
    run_alone(alone);
    for (uint32_t gap = 0; gap < 3; gap++) {
        char folder[400];
        snprintf(folder, sizeof folder, "%s/%u", scratch.folder, gap);
        for (uint32_t round = 0; round < 3; round++) {
            struct kvasir_engine *engine = open_engine(model, options_for(folder));
            make_slow(engine);
            run_all(engine, gap, answers);
            check_same(alone, answers);
            struct kvasir_engine_stats stats = stats_of(engine);
            assert_int_equal(stats.tier_count, 1);
            assert_string_equal(stats.tiers[0].name, "disk");
            assert_true(stats.tiers[0].refused_blocks + stats.tiers[0].missed_blocks + stats.tiers[0].bad_blocks == 0);
            assert_true(round ? stats.tiers[0].tokens > 200 : stats.tiers[0].tokens == 0);
            assert_true(stats.kv_hit_tokens >= stats.tiers[0].tokens);
            kvasir_engine_close(engine);
        }
    }
    scratch_release(&scratch);
}

/* One prompt: all whole blocks but its last token come from the disk, and its timings say so. */
static void test_timings(void **state)
{
    (void)state;
    struct scratch scratch;
    scratch_init(&scratch);
    for (uint32_t round = 0; round < 2; round++) {
        struct kvasir_engine *engine = open_engine(model, options_for(scratch.folder));
        make_slow(engine);
        uint32_t prompt[128];
        struct kvasir_request request;
        struct kvasir_timings timings;
        uint64_t id;
        make_request(3, prompt, &request);
        assert_int_equal(kvasir_engine_submit(engine, &request, &id, NULL), KVASIR_OK);
        while (kvasir_engine_busy(engine)) {
            const struct kvasir_event *events;
            size_t count;
            assert_int_equal(kvasir_engine_step(engine, &events, &count, NULL), KVASIR_OK);
            assert_true(count > 0);
        }
        assert_int_equal(kvasir_engine_timings(engine, id, &timings), KVASIR_OK);
        uint32_t whole = round ? ((uint32_t)request.prompt_count - 1) / 16 * 16 : 0;
        assert_int_equal(timings.cached_tokens, whole);
        assert_int_equal(timings.tier_tokens, whole);
        assert_int_equal(stats_of(engine).tiers[0].tokens, whole);
        kvasir_engine_close(engine);
    }
    scratch_release(&scratch);
}

/* Sequences and pins take what the disk has, too. */
static void test_sequences(void **state)
{
    (void)state;
    struct scratch scratch;
    uint32_t prompt[128];
    struct kvasir_request request;
    make_request(3, prompt, &request);
    scratch_init(&scratch);
    for (uint32_t round = 0; round < 3; round++) {
        struct kvasir_engine *engine = open_engine(model, options_for(scratch.folder));
        struct kvasir_seq *seq;
        struct kvasir_seq_info info = {0};
        struct kvasir_pin pin;
        const uint32_t whole = (uint32_t)request.prompt_count / 16 * 16;
        make_slow(engine);
        if (round < 2) {
            assert_int_equal(kvasir_seq_open(engine, prompt, request.prompt_count, 0, &seq, NULL), KVASIR_OK);
            kvasir_seq_info(seq, &info);
            assert_int_equal(info.cached, round ? whole : 0);
            kvasir_seq_close(seq);
        } else {
            assert_int_equal(kvasir_engine_pin(engine, "system", prompt, request.prompt_count, 0, NULL), KVASIR_OK);
            assert_int_equal(kvasir_engine_pins(engine, &pin, 1), 1);
            assert_int_equal(pin.tokens, request.prompt_count);
        }
        assert_int_equal(stats_of(engine).tiers[0].tokens, round ? whole : 0);
        check_rules(engine);
        kvasir_engine_close(engine);
    }
    scratch_release(&scratch);
}

/* Where computing is predicted to be sooner done nothing is read. */
static void test_not_slower_than_computing(void **state)
{
    (void)state;
    static struct answer alone[REQUESTS], answers[REQUESTS];
    struct scratch scratch;
    scratch_init(&scratch);
    run_alone(alone);
    for (uint32_t round = 0; round < 2; round++) {
        struct kvasir_engine *engine = open_engine(model, options_for(scratch.folder));
        engine->scheduler.limits.unit_least_s = engine->scheduler.cost.unit_s = 1e-12;
        const struct kvasir_event *events;
        size_t count;
        uint32_t prompt[128];
        struct kvasir_request request;
        uint64_t id;
        make_request(4, prompt, &request);
        assert_int_equal(kvasir_engine_submit(engine, &request, &id, NULL), KVASIR_OK);
        assert_int_equal(kvasir_engine_step(engine, &events, &count, NULL), KVASIR_OK);
        assert_int_equal(events[0].prompt_done, 64); /* at once */
        while (kvasir_engine_busy(engine))
            assert_int_equal(kvasir_engine_step(engine, &events, &count, NULL), KVASIR_OK);
        run_all(engine, 1, answers);
        check_same(alone, answers);
        kvasir_engine_close(engine);
    }
    scratch_release(&scratch);
}

/* A server that nobody runs is misses; it costs no answer. */
static void test_no_server(void **state)
{
    (void)state;
    static struct answer alone[REQUESTS], answers[REQUESTS];
    run_alone(alone);
    struct kvasir_engine *engine =
        open_engine(model, (struct kvasir_engine_options){.kv_remote = "redis://127.0.0.1:1", .block_size = 16});
    run_all(engine, 1, answers);
    check_same(alone, answers);
    struct kvasir_engine_stats stats = stats_of(engine);
    assert_int_equal(stats.tier_count, 1);
    assert_string_equal(stats.tiers[0].name, "remote");
    assert_true(stats.tiers[0].written_blocks == 0 && stats.tiers[0].tokens == 0);
    kvasir_engine_close(engine);
}

static void test_refusals(void **state)
{
    (void)state;
    struct scratch scratch;
    scratch_init(&scratch);
    scratch_write(&scratch, "file", "x", 1);
    refuse_engine(options_for(scratch_path(&scratch, "file")), KVASIR_IO, "file");
    refuse_engine(options_for(scratch_path(&scratch, "no/such/folder")), KVASIR_IO, "no/such/folder");
    refuse_engine((struct kvasir_engine_options){.kv_remote = "http://127.0.0.1"}, KVASIR_INVALID, "redis://");
    refuse_engine((struct kvasir_engine_options){.kv_disk = scratch.folder, .no_kv_cache = true}, KVASIR_INVALID,
                  "without a KV cache");
    scratch_release(&scratch);
}

/* In a budget for one request each is more urgent than those before it and makes them give way: what they had, and others have
 * evicted, comes back from the disk, with the same answers. */
static void test_preempted(void **state)
{
    (void)state;
    static struct answer alone[REQUESTS], answers[REQUESTS];
    struct scratch scratch;
    scratch_init(&scratch);
    run_alone(alone);
    struct kvasir_engine_options options = options_for(scratch.folder);
    options.context = 140;
    struct kvasir_engine *engine = open_engine(model, options);
    options.kv_cache_bytes = engine->plan.request_bytes;
    kvasir_engine_close(engine);
    engine = open_engine(model, options);
    make_slow(engine);
    uint64_t ids[REQUESTS] = {0};
    memset(answers, 0, sizeof answers);
    for (uint32_t step = 0; step < 4 * REQUESTS || kvasir_engine_busy(engine); step++) {
        uint32_t prompt[128];
        struct kvasir_request request;
        if (step % 4 == 0 && step / 4 < REQUESTS) {
            assert_true(kv_lower_flush(engine->kv, FLUSH_S)); /* or a busy machine may not have written anything yet */
            make_request(step / 4, prompt, &request);
            request.priority = -(int32_t)step;
            assert_int_equal(kvasir_engine_submit(engine, &request, &ids[step / 4], NULL), KVASIR_OK);
        }
        const struct kvasir_event *events;
        size_t count;
        assert_int_equal(kvasir_engine_step(engine, &events, &count, NULL), KVASIR_OK);
        assert_true(count > 0);
        take_events(events, count, ids, answers, REQUESTS);
        check_rules(engine);
    }
    check_same(alone, answers);
    struct kvasir_engine_stats stats = stats_of(engine);
    assert_true(stats.preemptions > 0 && stats.kv_evicted_blocks > 0 && stats.tiers[0].tokens > 0);
    kvasir_engine_close(engine);
    scratch_release(&scratch);
}

/* Cancelled, or their engine closed, wherever a fetch is. */
static void test_fetching_requests_end(void **state)
{
    (void)state;
    static struct answer answers[REQUESTS];
    struct scratch scratch;
    scratch_init(&scratch);
    struct kvasir_engine *engine = open_engine(model, options_for(scratch.folder));
    run_all(engine, 0, answers);
    kvasir_engine_close(engine);
    for (uint32_t steps = 0; steps < 8; steps++) {
        struct kvasir_engine_options options = options_for(scratch.folder);
        options.max_sequences = 1;
        engine = open_engine(model, options);
        make_slow(engine);
        uint64_t ids[REQUESTS];
        const struct kvasir_event *events;
        size_t count;
        for (uint32_t r = 0; r < REQUESTS; r++) {
            uint32_t prompt[128];
            struct kvasir_request request;
            make_request(r, prompt, &request);
            assert_int_equal(kvasir_engine_submit(engine, &request, &ids[r], NULL), KVASIR_OK);
        }
        for (uint32_t i = 0; i < steps; i++)
            assert_int_equal(kvasir_engine_step(engine, &events, &count, NULL), KVASIR_OK);
        for (uint32_t r = 0; r < REQUESTS && steps % 2; r++) kvasir_engine_cancel(engine, ids[r]);
        assert_int_equal(kvasir_engine_step(engine, &events, &count, NULL), KVASIR_OK);
        check_rules(engine);
        kvasir_engine_close(engine);
    }
    scratch_release(&scratch);
}

/* One request, whatever fails: its answer, or a status that says why not. */
static int run_once(const char *folder, struct answer *answer)
{
    struct kvasir_engine_options options = options_for(folder);
    struct kvasir_engine *engine;
    struct kvasir_request request;
    struct kvasir_error error = {0};
    uint32_t prompt[128];
    uint64_t id;
    options.context = 256;
    make_request(3, prompt, &request);
    memset(answer, 0, sizeof *answer);
    int status = kvasir_engine_open(model, &options, &engine, &error);
    if (status != KVASIR_OK) return status;
    make_slow(engine);
    status = kvasir_engine_submit(engine, &request, &id, &error);
    while (status == KVASIR_OK && kvasir_engine_busy(engine)) {
        const struct kvasir_event *events;
        size_t count;
        status = kvasir_engine_step(engine, &events, &count, &error);
        take_events(events, count, &id, answer, 1);
    }
    kvasir_engine_close(engine);
    return status;
}

/* Any allocation, read or write of the engine and its tier fails once: an engine that opens answers the same. */
static void test_faults(void **state)
{
    (void)state;
    static const struct {
        enum fault_kind kind;
        uint32_t first, count; /* 256 reads are of the folder's parts: one or none of them tells enough */
    } faults[] = {{FAULT_ALLOC, 1, 160}, {FAULT_READ, 255, 20}, {FAULT_WRITE, 1, 20}};
    struct scratch scratch;
    struct answer whole, answer;
    uint32_t answered = 0, failed = 0;
    scratch_init(&scratch);
    assert_int_equal(run_once(scratch.folder, &whole), KVASIR_OK);
    for (uint32_t k = 0; k < ARRAY_COUNT(faults); k++)
        for (uint32_t n = 0; n < test_count(faults[k].count, 500); n++) {
            fault_arm(faults[k].kind, faults[k].first + n);
            int status = run_once(scratch.folder, &answer);
            fault_arm(FAULT_NONE, 0);
            assert_true(status == KVASIR_OK || status == KVASIR_NOMEM || status == KVASIR_IO);
            failed += status != KVASIR_OK;
            if (status != KVASIR_OK || answer.finish == KVASIR_ERROR) continue;
            answered++;
            assert_memory_equal(answer.tokens, whole.tokens, sizeof answer.tokens);
        }
    assert_true(answered > 50 && failed > 10);
    scratch_release(&scratch);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_restart),   cmocka_unit_test(test_timings),
        cmocka_unit_test(test_sequences), cmocka_unit_test(test_not_slower_than_computing),
        cmocka_unit_test(test_no_server), cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_preempted), cmocka_unit_test(test_fetching_requests_end),
        cmocka_unit_test(test_faults),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
