/* engine_requests.h - requests to engines on a tiny checkpoint, and their answers, for the tests of the engine. */
#ifndef TESTS_ENGINE_REQUESTS_H
#define TESTS_ENGINE_REQUESTS_H
#include "engine/engine_internal.h"
#include "support.h"

#define REQUESTS 6u
#define ANSWER 24u

/* One model for all tests: loading takes most of the time. gemma3 has sliding and full layers. */
static struct kvasir_model *model;

static inline const char *model_path(const char *name)
{
    static char path[512];
    snprintf(path, sizeof path, "%s/tiny/%s", TEST_DATA, name);
    return path;
}

static inline struct kvasir_model *open_model(uint32_t threads)
{
    struct kvasir_model *opened;
    struct kvasir_error error = {0};
    if (kvasir_model_open(model_path("gemma3"), &(struct kvasir_model_options){.threads = threads}, &opened, &error) !=
        KVASIR_OK)
        fail_msg("%s", error.text);
    return opened;
}

static inline int setup(void **state)
{
    (void)state;
    model = open_model(2);
    return 0;
}

static inline int teardown(void **state)
{
    (void)state;
    kvasir_model_close(model);
    return 0;
}

static inline struct kvasir_engine *open_engine(struct kvasir_model *of, struct kvasir_engine_options options)
{
    struct kvasir_engine *engine;
    struct kvasir_error error = {0};
    if (!options.context) options.context = 256;
    if (kvasir_engine_open(of, &options, &engine, &error) != KVASIR_OK) fail_msg("%s", error.text);
    return engine;
}

/* Running requests have a sequence, in order of admission; of the waiting ones those that are swapped out. */
static inline void check_requests(const struct kvasir_engine *engine)
{
    const struct scheduler *s = &engine->scheduler;
    for (uint32_t i = 0; i < s->running_count; i++) {
        assert_true(s->running[i]->running && s->running[i]->seq);
        assert_true(s->running_count <= s->limits.sequences);
    }
    for (uint32_t i = 0; i < s->waiting_count; i++) {
        const struct request *r = s->waiting[i];
        assert_true(!r->running && (!r->seq || kv_seq_residence(r->seq) != KV_RESIDENT));
    }
}

/* ---- answers ------------------------------------------------------------------------------------------------------- */

struct answer {
    uint32_t tokens[ANSWER + 1], count;
    struct kvasir_token first; /* its logprob; top is not kept */
    enum kvasir_finish finish;
    char finished;
};

/* Prompts of different lengths; the last two share their first 70 tokens. Half of them sample. */
static inline void make_request(uint32_t index, uint32_t prompt[128], struct kvasir_request *out)
{
    struct random random;
    uint32_t count = index < REQUESTS - 2 ? 3 + 37 * index : 80;
    random_seed(&random, index < REQUESTS - 2 ? index : 99);
    for (uint32_t i = 0; i < count; i++) {
        if (i == 70 && index == REQUESTS - 1) random_seed(&random, 100);
        prompt[i] = 3 + (uint32_t)random_below(&random, 500);
    }
    *out = (struct kvasir_request){
        .prompt = prompt, .prompt_count = count, .max_tokens = ANSWER, .ignore_eos = true, .logprobs = 2};
    if (index % 2)
        out->sampling = (struct kvasir_sampling){.temperature = 0.9f,
                                                 .top_p = 0.95f,
                                                 .repetition_penalty = 1.1f,
                                                 .frequency_penalty = 0.2f,
                                                 .seed = index,
                                                 .has_seed = true};
}

static inline void take_events(const struct kvasir_event *events, size_t count, const uint64_t *ids,
                               struct answer *answers, uint32_t answer_count)
{
    for (size_t e = 0; e < count; e++) {
        uint32_t r = 0;
        while (r < answer_count && ids[r] != events[e].id) r++;
        assert_true(r < answer_count);
        struct answer *answer = &answers[r];
        assert_false(answer->finished);
        for (size_t t = 0; t < events[e].token_count; t++) {
            assert_true(answer->count < ANSWER);
            if (!answer->count) answer->first = events[e].tokens[t];
            answer->tokens[answer->count++] = events[e].tokens[t].id;
        }
        assert_true(events[e].prompt_done <= events[e].prompt_count);
        answer->finish = events[e].finish;
        answer->finished = events[e].finish != KVASIR_RUNNING;
    }
}

static inline void check_rules(const struct kvasir_engine *engine)
{
    struct error error = {0};
    struct kvasir_engine_stats stats;
    kvasir_engine_stats(engine, &stats);
    assert_true(stats.kv_bytes_used <= stats.kv_bytes_budget);
    if (kv_check(engine->kv, &error) != ST_OK) fail_msg("%s", error.text);
}

/* All requests, each submitted `gap` steps after the one before. */
static inline void run_all(struct kvasir_engine *engine, uint32_t gap, struct answer answers[REQUESTS])
{
    uint64_t ids[REQUESTS] = {0};
    uint32_t submitted = 0;
    memset(answers, 0, REQUESTS * sizeof *answers);
    for (uint32_t step = 0; submitted < REQUESTS || kvasir_engine_busy(engine); step++) {
        while (submitted < REQUESTS && (!gap || step >= submitted * gap)) {
            uint32_t prompt[128];
            struct kvasir_request request;
            make_request(submitted, prompt, &request);
            assert_int_equal(kvasir_engine_submit(engine, &request, &ids[submitted++], NULL), KVASIR_OK);
            memset(prompt, 0xff, sizeof prompt); /* submit copied it */
        }
        const struct kvasir_event *events;
        size_t count;
        assert_int_equal(kvasir_engine_step(engine, &events, &count, NULL), KVASIR_OK);
        take_events(events, count, ids, answers, REQUESTS);
        check_rules(engine);
        assert_true(step < 2000);
    }
    for (uint32_t r = 0; r < REQUESTS; r++) {
        assert_int_equal(answers[r].finish, KVASIR_LENGTH);
        assert_int_equal(answers[r].count, ANSWER);
    }
}

static inline void check_same(const struct answer *a, const struct answer *b)
{
    for (uint32_t r = 0; r < REQUESTS; r++) {
        assert_memory_equal(a[r].tokens, b[r].tokens, sizeof a[r].tokens);
        assert_true(a[r].first.logprob == b[r].first.logprob); /* the same bits, not only the same tokens */
    }
}

/* Each request in an engine of its own, the prompt in one pass. */
static inline void run_alone(struct answer answers[REQUESTS])
{
    memset(answers, 0, REQUESTS * sizeof *answers);
    for (uint32_t r = 0; r < REQUESTS; r++) {
        struct kvasir_engine *engine = open_engine(model, (struct kvasir_engine_options){0});
        uint32_t prompt[128];
        struct kvasir_request request;
        uint64_t id;
        make_request(r, prompt, &request);
        assert_int_equal(kvasir_engine_submit(engine, &request, &id, NULL), KVASIR_OK);
        while (kvasir_engine_busy(engine)) {
            const struct kvasir_event *events;
            size_t count;
            assert_int_equal(kvasir_engine_step(engine, &events, &count, NULL), KVASIR_OK);
            take_events(events, count, &id, &answers[r], 1);
        }
        kvasir_engine_close(engine);
    }
}

static inline void refuse_engine(struct kvasir_engine_options options, int status, const char *why)
{
    struct kvasir_engine *engine;
    struct kvasir_error error = {0};
    assert_int_equal(kvasir_engine_open(model, &options, &engine, &error), status);
    assert_null(engine);
    if (!strstr(error.text, why)) fail_msg("'%s' does not say '%s'", error.text, why);
}

#endif
