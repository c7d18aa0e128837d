/* test_engine_group.c - answers that are chosen among, through the engine: best_of against requests alone, beam search against
 * Hugging Face transformers' (data/tiny/beams.json) and itself in other company. */
#include "engine_byte_model.h"
#include <jansson.h>
#include <math.h>

#define TOKENS 64u
#define ANSWERS 6u
#define BEAMS 8u

static const uint32_t prompt[] = {72, 101, 108, 108, 111, 32, 119, 111, 114, 108, 100, 33, 32, 65, 66, 67, 68, 69, 70};

struct result {
    uint32_t tokens[TOKENS], count;
    float logprobs[TOKENS], first_top[2];
    char text[4 * TOKENS];
    size_t text_bytes;
    enum kvasir_finish finish;
    double score;
};

static void take_tokens(const struct kvasir_event *event, struct result *out)
{
    for (size_t t = 0; t < event->token_count; t++) {
        assert_true(out->count < TOKENS);
        out->logprobs[out->count] = event->tokens[t].logprob;
        if (event->tokens[t].top_count) assert_true(event->tokens[t].top[0].logprob >= event->tokens[t].logprob);
        if (event->tokens[t].top_count && !out->count)
            for (uint32_t i = 0; i < 2; i++) out->first_top[i] = event->tokens[t].top[i].logprob;
        out->tokens[out->count++] = event->tokens[t].id;
    }
    assert_true(out->text_bytes + event->text_bytes < sizeof out->text);
    memcpy(out->text + out->text_bytes, event->text, event->text_bytes);
    out->text_bytes += event->text_bytes;
    out->finish = event->finish;
}

/* Until the request has ended. All its last events come in one step, in order, and nothing but progress before. */
static void run_group(struct kvasir_engine *engine, uint64_t id, uint32_t n, struct result *out)
{
    uint32_t ended = 0;
    memset(out, 0, n * sizeof *out);
    for (uint32_t step = 0; kvasir_engine_busy(engine); step++) {
        const struct kvasir_event *events;
        size_t count;
        assert_int_equal(kvasir_engine_step(engine, &events, &count, NULL), KVASIR_OK);
        assert_true(ended == 0 || ended == n);
        for (size_t e = 0; e < count; e++) {
            if (events[e].id != id) continue;
            if (events[e].finish == KVASIR_RUNNING) {
                assert_true(!events[e].index && !events[e].token_count && !events[e].text_bytes);
                continue;
            }
            assert_int_equal(events[e].index, ended);
            assert_true(ended < n);
            assert_int_equal(events[e].prompt_done, events[e].prompt_count);
            take_tokens(&events[e], &out[ended++]);
        }
        check_rules(engine);
        check_requests(engine);
        assert_true(step < 4000);
    }
    assert_int_equal(ended, n);
}

static uint64_t submit(struct kvasir_engine *engine, const struct kvasir_request *request)
{
    struct kvasir_error error = {0};
    uint64_t id;
    if (kvasir_engine_submit(engine, request, &id, &error) != KVASIR_OK) fail_msg("%s", error.text);
    return id;
}

static struct kvasir_request base(void)
{
    return (struct kvasir_request){.prompt = prompt,
                                   .prompt_count = ARRAY_COUNT(prompt),
                                   .max_tokens = 30,
                                   .ignore_eos = true,
                                   .logprobs = 2,
                                   .sampling = {.temperature = 1.5f, .seed = 11, .has_seed = true}};
}

/* ---- best_of ------------------------------------------------------------------------------------------------------- */

static bool is_one_of(const uint32_t *ids, uint32_t count, uint32_t id)
{
    for (uint32_t i = 0; i < count; i++)
        if (ids[i] == id) return true;
    return false;
}

static bool is_stop(const struct kvasir_request *request, uint32_t id)
{
    return is_one_of(request->stop_ids, (uint32_t)request->stop_id_count, id);
}

/* What the request means: its answers alone without stop tokens, which are looked for here, and their scores; best first. */
static void define(struct kvasir_model *of, const struct kvasir_request *request, uint32_t answers, double penalty,
                   struct result *out)
{
    struct kvasir_engine *engine = open_engine(of, (struct kvasir_engine_options){0});
    struct kvasir_request alone = *request;
    alone.best_of = alone.n = alone.beam_width = 0;
    alone.stop_id_count = 0;
    memset(out, 0, answers * sizeof *out);
    for (uint32_t i = 0; i < answers; i++, alone.sampling.seed++) {
        submit(engine, &alone);
        while (kvasir_engine_busy(engine)) {
            const struct kvasir_event *events;
            size_t count;
            assert_int_equal(kvasir_engine_step(engine, &events, &count, NULL), KVASIR_OK);
            for (size_t e = 0; e < count; e++) take_tokens(&events[e], &out[i]);
        }
        uint32_t scored = 0, length = 0;
        while (scored < out[i].count && length == scored) {
            out[i].score += (double)out[i].logprobs[scored];
            length += !is_stop(request, out[i].tokens[scored++]);
        }
        out[i].finish = length < out[i].count ? KVASIR_STOP : KVASIR_LENGTH;
        out[i].count = length;
        out[i].score /= pow(scored, penalty);
    }
    kvasir_engine_close(engine);
    for (uint32_t i = 1; i < answers; i++) {
        struct result moving = out[i];
        uint32_t at = i;
        for (; at > 0 && moving.score > out[at - 1].score; at--) out[at] = out[at - 1];
        out[at] = moving;
    }
}

static void check_results(const struct result *expected, const struct result *got, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        assert_int_equal(expected[i].finish, got[i].finish);
        assert_int_equal(expected[i].count, got[i].count);
        assert_memory_equal(expected[i].tokens, got[i].tokens, got[i].count * sizeof *got[i].tokens);
        assert_memory_equal(expected[i].logprobs, got[i].logprobs, got[i].count * sizeof *got[i].logprobs);
        assert_memory_equal(expected[i].first_top, got[i].first_top, sizeof got[i].first_top);
    }
}

static void check_group(struct kvasir_engine *engine, const struct kvasir_request *request,
                        const struct result *expected)
{
    static struct result got[ANSWERS];
    struct kvasir_timings timings;
    uint64_t id = submit(engine, request);
    run_group(engine, id, request->n, got);
    check_results(expected, got, request->n);
    assert_int_equal(kvasir_engine_timings(engine, id, &timings), KVASIR_OK);
    assert_true(timings.ttft_s > 0);
    struct kvasir_engine_stats stats;
    kvasir_engine_stats(engine, &stats);
    assert_int_equal(stats.kv_bytes_used, 0);
}

/* Ends of different lengths: the best sum is not the best mean. */
static void test_best_of(void **state)
{
    (void)state;
    static struct result expected[ANSWERS], sums[ANSWERS];
    uint32_t stops[60];
    for (uint32_t i = 0; i < ARRAY_COUNT(stops); i++) stops[i] = 3 + 8 * i;
    struct kvasir_request request = base();
    request.n = 2;
    request.best_of = ANSWERS;
    request.stop_ids = stops;
    request.stop_id_count = ARRAY_COUNT(stops);
    define(model, &request, ANSWERS, 1, expected);
    define(model, &request, ANSWERS, 0, sums);
    assert_true(expected[0].score > expected[ANSWERS - 1].score);
    assert_true(sums[0].count != expected[0].count || memcmp(sums[0].tokens, expected[0].tokens, 4 * sums[0].count));
    const struct kvasir_engine_options options[] = {
        {0}, {.max_sequences = 2}, {.max_batched_tokens = 5}, {.max_sequences = 1}, {.no_kv_cache = true}};
    for (size_t i = 0; i < ARRAY_COUNT(options); i++) {
        struct kvasir_engine *engine = open_engine(model, options[i]);
        request.n = ANSWERS;
        check_group(engine, &request, expected);
        request.n = 2;
        check_group(engine, &request, expected);
        request.has_length_penalty = true;
        check_group(engine, &request, sums);
        request.has_length_penalty = false;
        kvasir_engine_close(engine);
    }
}

/* Blocks for one request of the context: answers give them up to each other, by swap or recompute. */
static void test_best_of_preempted(void **state)
{
    (void)state;
    static struct result expected[ANSWERS];
    struct kvasir_request request = base();
    request.max_tokens = 60;
    request.n = request.best_of = ANSWERS;
    define(model, &request, ANSWERS, 1, expected);
    struct kvasir_engine_options options = {.context = 80, .block_size = 16, .max_batched_tokens = 32};
    struct kvasir_engine *engine = open_engine(model, options);
    options.kv_cache_bytes = 2 * engine->plan.request_bytes;
    kvasir_engine_close(engine);
    for (uint32_t swap = 0; swap < 2; swap++) {
        options.swap_bytes = swap * options.kv_cache_bytes;
        engine = open_engine(model, options);
        check_group(engine, &request, expected);
        struct kvasir_engine_stats stats;
        kvasir_engine_stats(engine, &stats);
        assert_true(stats.preemptions > 0);
        kvasir_engine_close(engine);
    }
}

static void test_best_of_text(void **state)
{
    (void)state;
    static struct result got[3];
    struct kvasir_request request = base();
    request.n = ARRAY_COUNT(got);
    request.best_of = ANSWERS;
    struct kvasir_engine *engine = open_engine(bytes, (struct kvasir_engine_options){0});
    run_group(engine, submit(engine, &request), request.n, got);
    kvasir_engine_close(engine);
    for (uint32_t i = 0; i < ARRAY_COUNT(got); i++) {
        char *text;
        size_t count;
        assert_int_equal(kvasir_detokenize(bytes, got[i].tokens, got[i].count, 0, &text, &count, NULL), KVASIR_OK);
        assert_int_equal(got[i].text_bytes, count);
        assert_memory_equal(got[i].text, text, count);
        kvasir_free(text);
    }
}

/* ---- beam search --------------------------------------------------------------------------------------------------- */

static uint32_t read_ids(const json_t *array, uint32_t *out, uint32_t most)
{
    uint32_t count = (uint32_t)json_array_size(array);
    assert_true(count <= most);
    for (uint32_t i = 0; i < count; i++) out[i] = (uint32_t)json_integer_value(json_array_get(array, i));
    return count;
}

static struct kvasir_request beams(uint32_t width)
{
    struct kvasir_request request = base();
    request.sampling = (struct kvasir_sampling){0};
    request.beam_width = request.n = width;
    return request;
}

/* Its hypotheses are our answers, and their last token ends them or max_tokens does. */
static void check_case(const json_t *one, struct kvasir_model *of)
{
    uint32_t own[TOKENS], ends[256], expected[TOKENS];
    static struct result got[BEAMS];
    struct kvasir_request request = beams((uint32_t)json_integer_value(json_object_get(one, "beam_width")));
    request.prompt = own;
    request.prompt_count = read_ids(json_object_get(one, "prompt"), own, ARRAY_COUNT(own));
    request.stop_ids = ends;
    request.stop_id_count = read_ids(json_object_get(one, "stop_ids"), ends, ARRAY_COUNT(ends));
    request.max_tokens = (uint32_t)json_integer_value(json_object_get(one, "max_tokens"));
    request.early_stopping = json_is_true(json_object_get(one, "early_stopping"));
    request.length_penalty = (float)json_number_value(json_object_get(one, "length_penalty"));
    request.has_length_penalty = true;
    struct kvasir_engine *engine = open_engine(of, (struct kvasir_engine_options){0});
    run_group(engine, submit(engine, &request), request.n, got);
    kvasir_engine_close(engine);
    for (uint32_t i = 0; i < request.n; i++) {
        uint32_t count = read_ids(json_array_get(json_object_get(one, "sequences"), i), expected, TOKENS);
        bool ended = is_one_of(ends, (uint32_t)request.stop_id_count, expected[count - 1]);
        double sum = 0;
        assert_int_equal(got[i].count, count - ended);
        assert_memory_equal(got[i].tokens, expected, got[i].count * sizeof *expected);
        assert_int_equal(got[i].finish, ended ? KVASIR_STOP : KVASIR_LENGTH);
        for (uint32_t t = 0; t < got[i].count; t++) sum += (double)got[i].logprobs[t];
        double score = json_number_value(json_array_get(json_object_get(one, "scores"), i));
        if (!ended) assert_true(fabs(sum / pow(count, (double)request.length_penalty) - score) < 0.02 * fabs(score));
    }
}

static void test_beams_as_transformers(void **state)
{
    (void)state;
    char path[512];
    json_error_t why;
    snprintf(path, sizeof path, "%s/tiny/beams.json", TEST_DATA);
    json_t *cases = json_load_file(path, 0, &why);
    if (!cases) fail_msg("%s: %s", path, why.text);
    assert_true(json_array_size(cases) >= 12);
    for (size_t i = 0; i < json_array_size(cases); i++) {
        const json_t *one = json_array_get(cases, i);
        struct kvasir_model *of;
        struct kvasir_error error = {0};
        const char *name = json_string_value(json_object_get(one, "model"));
        if (kvasir_model_open(model_path(name), &(struct kvasir_model_options){.threads = 1}, &of, &error) != KVASIR_OK)
            fail_msg("%s", error.text);
        check_case(one, of);
        kvasir_model_close(of);
    }
    json_decref(cases);
}

/* One beam that never ends is greedy. */
static void test_one_beam(void **state)
{
    (void)state;
    static struct result expected, got;
    struct kvasir_request request = beams(1);
    struct kvasir_engine *engine = open_engine(model, (struct kvasir_engine_options){0});
    run_group(engine, submit(engine, &request), 1, &got);
    kvasir_engine_close(engine);
    define(model, &request, 1, 1, &expected);
    check_results(&expected, &got, 1);
}

static struct kvasir_request ending_beams(void)
{
    static uint32_t stops[40];
    struct kvasir_request request = beams(ANSWERS);
    for (uint32_t i = 0; i < ARRAY_COUNT(stops); i++) stops[i] = 3 + 12 * i;
    request.stop_ids = stops;
    request.stop_id_count = ARRAY_COUNT(stops);
    request.max_tokens = 50;
    return request;
}

/* The same hypotheses with fewer places than beams, other chunks and block sizes, and blocks for hardly more than one. */
static void test_beams_preempted(void **state)
{
    (void)state;
    static struct result expected[ANSWERS];
    struct kvasir_request request = ending_beams();
    struct kvasir_engine *engine = open_engine(model, (struct kvasir_engine_options){0});
    run_group(engine, submit(engine, &request), ANSWERS, expected);
    kvasir_engine_close(engine);
    struct kvasir_engine_options tight = {.context = 80, .block_size = 16, .max_batched_tokens = 32};
    engine = open_engine(model, tight);
    tight.kv_cache_bytes = engine->plan.request_bytes;
    kvasir_engine_close(engine);
    struct kvasir_engine_options swapping = tight;
    swapping.swap_bytes = 8 * tight.kv_cache_bytes;
    const struct kvasir_engine_options options[] = {
        {.max_sequences = 1}, {.max_sequences = 4}, {.max_batched_tokens = 5}, {.block_size = 64}, tight, swapping};
    for (size_t i = 0; i < ARRAY_COUNT(options); i++) {
        engine = open_engine(model, options[i]);
        check_group(engine, &request, expected);
        check_group(engine, &request, expected); /* its prompt's prefix is cached now */
        kvasir_engine_close(engine);
    }
}

/* Beside other requests, which keep their tokens too, for fewer places and blocks than all want. */
static void test_beams_in_company(void **state)
{
    (void)state;
    static struct result expected[ANSWERS], got[ANSWERS];
    struct kvasir_request request = ending_beams();
    struct answer alone[REQUESTS], answers[REQUESTS];
    run_alone(alone);
    struct kvasir_engine *engine = open_engine(model, (struct kvasir_engine_options){0});
    run_group(engine, submit(engine, &request), ANSWERS, expected);
    uint64_t request_bytes = engine->plan.request_bytes;
    kvasir_engine_close(engine);
    for (uint32_t places = 5; places < 20; places += 7) {
        engine =
            open_engine(model, (struct kvasir_engine_options){
                                   .max_sequences = places, .block_size = 16, .kv_cache_bytes = 2 * request_bytes});
        uint64_t ids[REQUESTS + 1];
        memset(answers, 0, sizeof answers);
        memset(got, 0, sizeof got);
        for (uint32_t r = 0; r < REQUESTS; r++) {
            uint32_t own[128];
            struct kvasir_request other;
            make_request(r, own, &other);
            ids[r] = submit(engine, &other);
            if (r == 2) ids[REQUESTS] = submit(engine, &request);
        }
        while (kvasir_engine_busy(engine)) {
            const struct kvasir_event *events;
            size_t count;
            assert_int_equal(kvasir_engine_step(engine, &events, &count, NULL), KVASIR_OK);
            for (size_t e = 0; e < count; e++)
                if (events[e].id == ids[REQUESTS])
                    take_tokens(&events[e], &got[events[e].index]);
                else
                    take_events(&events[e], 1, ids, answers, REQUESTS);
            check_rules(engine);
            check_requests(engine);
        }
        check_same(alone, answers);
        check_results(expected, got, ANSWERS);
        kvasir_engine_close(engine);
    }
}

/* Fewer tokens than beams: what is allowed bounds the beams, and the answers that there cannot be are empty. */
static void test_beams_of_few_tokens(void **state)
{
    (void)state;
    static struct result got[4];
    const uint32_t allowed[] = {65}, two[] = {65, 66};
    struct kvasir_request request = beams(4);
    struct kvasir_engine *engine = open_engine(bytes, (struct kvasir_engine_options){0});
    request.max_tokens = 2;
    request.sampling.allowed_ids = allowed;
    request.sampling.allowed_id_count = 1;
    run_group(engine, submit(engine, &request), 4, got);
    assert_true(got[0].count == 2 && got[0].finish == KVASIR_LENGTH && got[0].text_bytes == 2);
    assert_memory_equal(got[0].text, "AA", 2);
    for (uint32_t i = 1; i < 4; i++) assert_true(!got[i].count && got[i].finish == KVASIR_STOP);
    request.sampling.allowed_ids = two;
    request.sampling.allowed_id_count = 2;
    run_group(engine, submit(engine, &request), 4, got); /* all four answers there are */
    for (uint32_t i = 0; i < 4; i++) {
        assert_int_equal(got[i].count, 2);
        for (uint32_t other = 0; other < i; other++) assert_memory_not_equal(got[i].tokens, got[other].tokens, 8);
    }
    request.sampling.bad_words = &(struct kvasir_bad_word){two, 2}; /* AB */
    request.sampling.bad_word_count = 1;
    request.stop_ids = two + 1;
    request.stop_id_count = 1;
    request.min_tokens = 1; /* A, then only A: nothing else is left */
    run_group(engine, submit(engine, &request), 4, got);
    assert_true(got[0].count == 2 && got[0].tokens[1] == 65 && !got[1].count);
    kvasir_engine_close(engine);
}

/* ---- ends ---------------------------------------------------------------------------------------------------------- */

/* Steps until the request is cancelled, then one more, which ends it. */
static void cancel_after(struct kvasir_engine *engine, const struct kvasir_request *request, uint32_t steps)
{
    const struct kvasir_event *events;
    struct kvasir_engine_stats stats;
    size_t count;
    uint64_t id = submit(engine, request);
    for (uint32_t i = 0; i < steps; i++) assert_int_equal(kvasir_engine_step(engine, &events, &count, NULL), KVASIR_OK);
    assert_int_equal(kvasir_engine_cancel(engine, id), KVASIR_OK);
    assert_int_equal(kvasir_engine_step(engine, &events, &count, NULL), KVASIR_OK);
    assert_int_equal(count, request->n);
    for (uint32_t i = 0; i < count; i++) {
        assert_true(events[i].id == id && events[i].index == i);
        assert_true(events[i].finish == KVASIR_CANCELLED_BY_CALLER || (!i && events[i].finish == KVASIR_STOP));
        assert_int_equal(events[i].prompt_done, steps < 4 ? 0 : events[i].prompt_count);
    }
    assert_false(kvasir_engine_busy(engine));
    assert_int_equal(kvasir_engine_cancel(engine, id), KVASIR_NOT_FOUND);
    kvasir_engine_stats(engine, &stats);
    assert_int_equal(stats.kv_bytes_used, 0);
    check_rules(engine);
}

/* At any point, with answers that have ended already, and with some that were never begun. */
static void check_cancel(struct kvasir_request request)
{
    const uint32_t steps[] = {0, 1, 3, 5, 9, 20};
    for (uint32_t places = 2; places <= ANSWERS; places += ANSWERS - 2)
        for (size_t i = 0; i < ARRAY_COUNT(steps); i++) {
            struct kvasir_engine_options options = {.max_sequences = places, .max_batched_tokens = 5};
            struct kvasir_engine *engine = open_engine(model, options);
            cancel_after(engine, &request, steps[i]);
            kvasir_engine_close(engine);
        }
}

static void test_cancel(void **state)
{
    (void)state;
    struct kvasir_request request = base();
    request.n = 3;
    request.best_of = ANSWERS;
    check_cancel(request);
    request = beams(ANSWERS);
    request.n = 3;
    check_cancel(request);
}

/* Closed while some answers have ended and others have not: asan finds what is left. */
static void check_close(const struct kvasir_request *request)
{
    for (uint32_t steps = 0; steps < 80; steps += 7) {
        const struct kvasir_event *events;
        size_t count;
        struct kvasir_engine *engine = open_engine(model, (struct kvasir_engine_options){.max_sequences = 2});
        submit(engine, request);
        for (uint32_t i = 0; i < steps; i++)
            assert_int_equal(kvasir_engine_step(engine, &events, &count, NULL), KVASIR_OK);
        kvasir_engine_close(engine);
    }
}

static void test_close_in_between(void **state)
{
    (void)state;
    struct kvasir_request request = base();
    request.best_of = ANSWERS;
    check_close(&request);
    request = ending_beams();
    check_close(&request);
}

/* The first answer ends long before the last, and more requests in between than an engine remembers: its timings are there. */
static void test_timings(void **state)
{
    (void)state;
    struct kvasir_engine *engine = open_engine(bytes, (struct kvasir_engine_options){.max_sequences = 1});
    struct kvasir_request request = base(), urgent = base();
    const struct kvasir_event *events;
    struct kvasir_timings timings;
    size_t count;
    request.best_of = 2;
    request.max_tokens = 4;
    urgent.max_tokens = 1;
    urgent.priority = -1;
    uint64_t id = submit(engine, &request);
    for (uint32_t i = 0; i < 4; i++) assert_int_equal(kvasir_engine_step(engine, &events, &count, NULL), KVASIR_OK);
    for (uint32_t i = 0; i < FINISHED_KEPT_MIN + 1; i++) submit(engine, &urgent);
    while (kvasir_engine_busy(engine)) assert_int_equal(kvasir_engine_step(engine, &events, &count, NULL), KVASIR_OK);
    assert_true(count == 1 && events[0].id == id && events[0].token_count == 4);
    assert_int_equal(kvasir_engine_timings(engine, id, &timings), KVASIR_OK);
    assert_int_equal(timings.output_tokens, 4);
    kvasir_engine_close(engine);
}

/* Whichever allocation fails, the request is refused or ends, with as many events as it has answers. */
static void check_no_memory(struct kvasir_request request)
{
    struct kvasir_engine *engine = open_engine(bytes, (struct kvasir_engine_options){.max_sequences = 4});
    uint32_t survived = 0;
    for (uint64_t nth = 1; survived < 2; nth++) {
        uint32_t ended = 0;
        uint64_t id;
        fault_arm(FAULT_ALLOC, nth);
        int status = kvasir_engine_submit(engine, &request, &id, NULL);
        assert_true(status == KVASIR_OK || status == KVASIR_NOMEM);
        for (uint32_t step = 0; kvasir_engine_busy(engine); step++) {
            const struct kvasir_event *events;
            size_t count;
            kvasir_engine_step(engine, &events, &count, NULL);
            for (size_t e = 0; e < count; e++) ended += events[e].finish != KVASIR_RUNNING;
            assert_true(step < 500);
        }
        survived += fault_count(FAULT_ALLOC) < nth;
        fault_arm(FAULT_NONE, 0);
        assert_int_equal(ended, status == KVASIR_OK ? request.n : 0);
        check_rules(engine);
    }
    kvasir_engine_close(engine);
}

static void test_no_memory(void **state)
{
    (void)state;
    struct kvasir_request request = base();
    request.n = 2;
    request.best_of = 3;
    request.max_tokens = 6;
    check_no_memory(request);
    request = ending_beams();
    request.n = 2;
    request.beam_width = 3;
    request.stop_id_count = 20; /* those in this vocabulary */
    request.max_tokens = 6;
    check_no_memory(request);
}

static void refuse(struct kvasir_engine *engine, const struct kvasir_request *request, const char *why)
{
    struct kvasir_error error = {0};
    uint64_t id;
    assert_int_equal(kvasir_engine_submit(engine, request, &id, &error), KVASIR_INVALID);
    if (!strstr(error.text, why)) fail_msg("'%s' does not say '%s'", error.text, why);
}

static void test_refused(void **state)
{
    (void)state;
    struct kvasir_engine *engine = open_engine(bytes, (struct kvasir_engine_options){0});
    struct kvasir_request request = base();
    request.n = 3;
    request.best_of = 2;
    refuse(engine, &request, "best_of is 2: must be n, which is 3");
    request.best_of = REQUEST_ANSWERS_MAX + 1;
    refuse(engine, &request, "best_of is 129");
    request.best_of = 4;
    request.has_length_penalty = true;
    request.length_penalty = NAN;
    refuse(engine, &request, "length_penalty is nan");
    const char *const stop[] = {"x"};
    request = beams(3);
    request.n = 4;
    refuse(engine, &request, "beam_width is 3: must be n, which is 4");
    request.beam_width = 17;
    refuse(engine, &request, "beam_width is 17");
    request = beams(3);
    request.best_of = 3;
    refuse(engine, &request, "best_of is of samples");
    request = beams(3);
    request.sampling.presence_penalty = 1;
    refuse(engine, &request, "leave temperature, bias and penalties 0");
    request = beams(3);
    request.stop = stop;
    request.stop_count = 1;
    refuse(engine, &request, "give stop_ids");
    kvasir_engine_close(engine);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_best_of),          cmocka_unit_test(test_best_of_preempted),
        cmocka_unit_test(test_best_of_text),     cmocka_unit_test(test_beams_as_transformers),
        cmocka_unit_test(test_one_beam),         cmocka_unit_test(test_beams_preempted),
        cmocka_unit_test(test_beams_in_company), cmocka_unit_test(test_beams_of_few_tokens),
        cmocka_unit_test(test_cancel),           cmocka_unit_test(test_close_in_between),
        cmocka_unit_test(test_timings),          cmocka_unit_test(test_no_memory),
        cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests(tests, setup_both, teardown_both);
}
