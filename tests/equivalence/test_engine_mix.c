/* test_engine_mix.c - random mixes of requests give each the tokens it gets alone: whatever runs beside it, in whatever chunks,
 * preempted or not, swapped, read from disk or computed again, forked from another answer, with drafts, on any number of threads,
 * some with retrieval attention and some without.
 *
 * On tiny checkpoints (gemma3: sliding and full layers; qwen2: biases) and, where it is fetched, on SmolLM2-135M. */
#include "engine/engine_internal.h"
#include "scratch.h"
#include "support.h"

#define KINDS 10u /* different requests a mix draws from */
#define DRAWN 14u
#define ANSWERS_MAX 3u
#define ANSWER 40u
#define PROMPT_MAX 150u
#define CONTEXT 224u

struct kind {
    uint32_t prompt[PROMPT_MAX], count, tokens[ANSWERS_MAX][ANSWER];
    struct kvasir_request request;
};

struct drawn {
    uint64_t id;
    uint32_t kind, counts[ANSWERS_MAX], due;
    bool cancelled;
};

/* Of all engines: most prompts are long enough for it. */
static const struct kvasir_retrieval retrieval = {
    .mode = KVASIR_RETRIEVAL_ON, .initial_tokens = 16, .local_tokens = 32, .topk = 0.3, .dense_boundary = 32};

static struct random seeds;

static uint32_t below(uint32_t limit)
{
    return (uint32_t)random_below(&seeds, limit);
}

static struct kvasir_engine *open_engine(struct kvasir_model *model, const struct kvasir_engine_options *options)
{
    struct kvasir_engine *engine;
    struct kvasir_error error = {0};
    if (kvasir_engine_open(model, options, &engine, &error) != KVASIR_OK) fail_msg("%s", error.text);
    return engine;
}

/* Prompts of all lengths, some of which begin alike; every second one samples. */
static void make_kinds(struct kind kinds[KINDS], uint32_t vocabulary)
{
    for (uint32_t i = 0; i < KINDS; i++) {
        struct kind *kind = &kinds[i];
        uint32_t common = i && i % 3 == 0 ? below(100) : 0;
        kind->count = 1 + below(PROMPT_MAX);
        for (uint32_t t = 0; t < kind->count; t++) {
            kind->prompt[t] = 3 + below(vocabulary - 3);
            if (t < common && t < kinds[i - 1].count) kind->prompt[t] = kinds[i - 1].prompt[t];
        }
        kind->request = (struct kvasir_request){.prompt = kind->prompt,
                                                .prompt_count = kind->count,
                                                .max_tokens = 1 + below(ANSWER),
                                                .ignore_eos = true,
                                                .priority = (int32_t)below(3),
                                                .tenant = below(2),
                                                .n = i % 4 == 3 ? ANSWERS_MAX : 1,
                                                .retrieval = i % 3 ? KVASIR_RETRIEVAL_DEFAULT : KVASIR_RETRIEVAL_OFF,
                                                .retrieval_topk = i % 3 && i % 5 == 4 ? 0.6 : 0};
        if (i % 2)
            kind->request.sampling =
                (struct kvasir_sampling){.temperature = 0.8f, .top_p = 0.95f, .seed = i, .has_seed = true};
    }
}

/* Each answer by itself, as a request of its own. */
static void run_alone(struct kvasir_model *model, struct kind kinds[KINDS], const char *dtype)
{
    for (uint32_t i = 0; i < KINDS; i++)
        for (uint32_t index = 0; index < kinds[i].request.n; index++) {
            struct kvasir_engine *engine =
                open_engine(model, &(struct kvasir_engine_options){.context = CONTEXT,
                                                                   .kv_cache_bytes = 64u << 20,
                                                                   .kv_cache_dtype = dtype,
                                                                   .retrieval = retrieval,
                                                                   .no_drafts = true});
            struct kvasir_request request = kinds[i].request;
            const struct kvasir_event *events;
            size_t count;
            uint64_t id;
            uint32_t got = 0;
            request.n = 0;
            request.sampling.seed += index;
            assert_int_equal(kvasir_engine_submit(engine, &request, &id, NULL), KVASIR_OK);
            while (kvasir_engine_busy(engine)) {
                assert_int_equal(kvasir_engine_step(engine, &events, &count, NULL), KVASIR_OK);
                for (size_t t = 0; count && t < events[0].token_count; t++)
                    kinds[i].tokens[index][got++] = events[0].tokens[t].id;
            }
            assert_int_equal(got, request.max_tokens);
            kvasir_engine_close(engine);
        }
}

static void take(const struct kvasir_event *event, const struct kind *kinds, struct drawn *drawn)
{
    for (uint32_t i = 0; i < DRAWN; i++) {
        struct drawn *d = &drawn[i];
        if (d->id != event->id) continue;
        for (size_t t = 0; t < event->token_count; t++) {
            uint32_t at = d->counts[event->index]++;
            assert_true(at < kinds[d->kind].request.max_tokens);
            assert_int_equal(event->tokens[t].id, kinds[d->kind].tokens[event->index][at]);
        }
        return;
    }
    fail_msg("an event of no request");
}

static void check(const struct kvasir_engine *engine)
{
    struct error error = {0};
    if (kv_check(engine->kv, &error) != ST_OK) fail_msg("%s", error.text);
}

static struct totals {
    uint64_t preemptions, drafted, accepted, sparse, from_disk;
} totals;

/* Makes drafts seem to cost nothing, so that many are tried, and many are wrong. */
static void make_drafts_cheap(struct kvasir_engine *engine)
{
    for (uint32_t i = 0; i <= COST_ROWS; i++) engine->scheduler.cost.rows_s[i] = 1e9;
}

static void run_mix(struct kvasir_engine *engine, const struct kind *kinds)
{
    struct drawn drawn[DRAWN] = {0};
    struct kvasir_engine_stats stats;
    uint32_t due = 0;
    for (uint32_t i = 0; i < DRAWN; i++)
        drawn[i] = (struct drawn){.kind = below(KINDS), .due = due += below(3) ? 0 : below(12), .cancelled = !below(8)};
    for (uint32_t step = 0; step <= due || kvasir_engine_busy(engine); step++) {
        const struct kvasir_event *events;
        size_t count;
        for (uint32_t i = 0; i < DRAWN; i++) {
            if (drawn[i].due == step)
                assert_int_equal(kvasir_engine_submit(engine, &kinds[drawn[i].kind].request, &drawn[i].id, NULL),
                                 KVASIR_OK);
            if (drawn[i].cancelled && drawn[i].due + 5 == step) kvasir_engine_cancel(engine, drawn[i].id);
        }
        assert_int_equal(kvasir_engine_step(engine, &events, &count, NULL), KVASIR_OK);
        for (size_t e = 0; e < count; e++) take(&events[e], kinds, drawn);
        check(engine);
    }
    for (uint32_t i = 0; i < DRAWN; i++)
        for (uint32_t index = 0; index < kinds[drawn[i].kind].request.n && !drawn[i].cancelled; index++)
            assert_int_equal(drawn[i].counts[index], kinds[drawn[i].kind].request.max_tokens);
    kvasir_engine_stats(engine, &stats);
    assert_int_equal(stats.kv_blocks_used, 0);
    totals.preemptions += stats.preemptions;
    totals.drafted += stats.drafted_tokens;
    totals.accepted += stats.accepted_tokens;
    totals.sparse += stats.retrieval_answers;
    if (stats.tier_count) totals.from_disk += stats.tiers[0].tokens;
}

static void run_mixes(const char *path, uint32_t dtype_count, uint32_t mixes)
{
    static struct kind kinds[KINDS];
    static const char *const dtypes[] = {"auto", "int4", "f16"};
    struct kvasir_model *models[2];
    struct kvasir_model_info info;
    struct kvasir_error error = {0};
    for (uint32_t i = 0; i < 2; i++)
        if (kvasir_model_open(path, &(struct kvasir_model_options){.threads = i + 1}, &models[i], &error) != KVASIR_OK)
            fail_msg("%s", error.text);
    kvasir_model_info(models[0], &info);
    struct scratch scratch;
    scratch_init(&scratch);
    for (uint32_t d = 0; d < dtype_count; d++) {
        make_kinds(kinds, info.vocabulary_size);
        run_alone(models[1], kinds, dtypes[d]);
        for (uint32_t m = 0; m < mixes; m++) {
            struct kvasir_engine_options options = {.context = CONTEXT,
                                                    .kv_cache_dtype = dtypes[d],
                                                    .retrieval = retrieval,
                                                    .block_size = 32u * (1 + below(4)),
                                                    .max_batched_tokens = 8u << below(6),
                                                    .max_sequences = 1 + below(12),
                                                    .max_step_s = below(2) ? 0.002 * below(10) : 0};
            struct kvasir_engine *engine = open_engine(models[0], &options);
            options.kv_cache_bytes = engine->plan.request_bytes * (2 + below(5)) / 2;
            if (below(3)) options.kv_disk = scratch.folder; /* what earlier mixes have computed */
            if (below(2)) options.swap_bytes = 2 * engine->plan.request_bytes;
            kvasir_engine_close(engine);
            engine = open_engine(models[below(2)], &options);
            if (below(2)) make_drafts_cheap(engine);
            engine->scheduler.cost.unit_s = engine->scheduler.limits.unit_least_s = 1; /* so that the disk is read */
            run_mix(engine, kinds);
            kvasir_engine_close(engine);
        }
    }
    scratch_release(&scratch);
    print_message(
        "%llu preemptions, %llu tokens drafted, %llu accepted, %llu sparse answers, %llu prompt tokens from disk\n",
        (unsigned long long)totals.preemptions, (unsigned long long)totals.drafted, (unsigned long long)totals.accepted,
        (unsigned long long)totals.sparse, (unsigned long long)totals.from_disk);
    assert_true(totals.from_disk > 0 || mixes < 4);
    assert_true(totals.preemptions > 0 && totals.sparse > 10);
    for (uint32_t i = 0; i < 2; i++) kvasir_model_close(models[i]);
}

static void test_tiny_models(void **state)
{
    (void)state;
    random_seed(&seeds, 1);
    totals = (struct totals){0};
    run_mixes(TEST_DATA "/tiny/gemma3", 3, test_count(4, 100));
    run_mixes(TEST_DATA "/tiny/qwen2", 3, test_count(4, 100));
    /* Of both: how much is drafted depends on what steps are measured to take, and of the second alone it may be nothing. */
    assert_true(totals.accepted > 0 && totals.drafted > totals.accepted);
}

static void test_real_model(void **state)
{
    (void)state;
    char path[1024];
    if (!test_model_path("smollm2", path, sizeof path)) {
        print_message("%s is not fetched: skipped\n", path);
        skip();
    }
    random_seed(&seeds, 2);
    totals = (struct totals){0};
    run_mixes(path, 1, test_count(2, 20));
    assert_true(totals.accepted > 0 && totals.drafted > totals.accepted);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_tiny_models), cmocka_unit_test(test_real_model)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
