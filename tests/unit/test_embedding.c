/* test_embedding.c - embeddings through the engine: the output matrix makes transformers' logits of them; the mean is that of the
 * rows of every prefix; the same bits alone, beside others, in any chunks, with and without a cache, after giving up blocks, and
 * through a completion queue. */
#include "engine_requests.h"
#include <jansson.h>
#include <math.h>
#include <poll.h>

#define LOGIT_BOUND 1e-3
#define COLUMNS_MAX 1024u

struct vector {
    float items[COLUMNS_MAX];
    uint32_t count; /* 0: none came */
};

static struct kvasir_request embed_request(const uint32_t *ids, uint32_t count, enum kvasir_pooling pooling)
{
    return (struct kvasir_request){.prompt = ids, .prompt_count = count, .pooling = pooling};
}

static void take_vector(const struct kvasir_event *event, struct vector *out)
{
    assert_int_equal(event->token_count, 0);
    assert_int_equal(event->text_bytes, 0);
    if (event->finish == KVASIR_RUNNING) assert_true(event->embedding_count == 0 && !event->embedding);
    if (event->finish != KVASIR_STOP) return;
    assert_int_equal(out->count, 0);
    assert_true(event->embedding_count > 0 && event->embedding_count <= COLUMNS_MAX);
    assert_int_equal(event->prompt_done, event->prompt_count);
    memcpy(out->items, event->embedding, event->embedding_count * sizeof *out->items);
    out->count = (uint32_t)event->embedding_count;
}

static void embed(struct kvasir_engine *engine, struct kvasir_request request, struct vector *out)
{
    const struct kvasir_event *events;
    size_t count;
    uint64_t id;
    *out = (struct vector){0};
    assert_int_equal(kvasir_engine_submit(engine, &request, &id, NULL), KVASIR_OK);
    while (kvasir_engine_busy(engine)) {
        assert_int_equal(kvasir_engine_step(engine, &events, &count, NULL), KVASIR_OK);
        for (size_t e = 0; e < count; e++) take_vector(&events[e], out);
        check_rules(engine);
    }
    assert_true(out->count > 0);
}

static void check_vectors(const struct vector *a, const struct vector *b)
{
    assert_true(a->count > 0 && a->count == b->count);
    assert_memory_equal(a->items, b->items, a->count * sizeof *a->items);
}

/* ---- against transformers ---------------------------------------------------------------------------------------------- */

/* The largest difference from the golden logits of: output matrix . embedding of the prompt's last token. */
static double logits_difference(const struct kvasir_model *of, const struct vector *last, json_t *expected)
{
    const struct format_tensor *matrix = format_tensor_find(of->format, "output.weight");
    if (!matrix) matrix = format_tensor_find(of->format, "token_embd.weight");
    assert_true(matrix && matrix->shape[1] == last->count && matrix->shape[0] == json_array_size(expected));
    double worst = 0;
    for (uint64_t row = 0; row < matrix->shape[0]; row++) {
        float weights[COLUMNS_MAX];
        double sum = 0;
        number_format_decode(matrix->format, (const char *)matrix->data + row * (matrix->bytes / matrix->shape[0]),
                             weights, last->count);
        for (uint32_t i = 0; i < last->count; i++) sum += (double)weights[i] * (double)last->items[i];
        worst = fmax(worst, fabs(sum - json_number_value(json_array_get(expected, row))));
    }
    return worst;
}

static void check_golden(const char *name)
{
    struct kvasir_model *opened;
    struct vector last;
    uint32_t prompt[128];
    char path[512];
    assert_int_equal(kvasir_model_open(model_path(name), NULL, &opened, NULL), KVASIR_OK);
    snprintf(path, sizeof path, "%s/tiny/%s/golden.json", TEST_DATA, name);
    json_t *golden = json_load_file(path, 0, NULL), *ids = json_object_get(golden, "prompt");
    uint32_t count = (uint32_t)json_array_size(ids);
    assert_true(count > 1 && count <= 128);
    for (uint32_t i = 0; i < count; i++) prompt[i] = (uint32_t)json_integer_value(json_array_get(ids, i));
    struct kvasir_engine *engine =
        open_engine(opened, (struct kvasir_engine_options){.kv_cache_dtype = "f32", .max_batched_tokens = 7});
    embed(engine, embed_request(prompt, count, KVASIR_POOLING_LAST), &last);
    double worst = logits_difference(opened, &last, json_object_get(golden, "logits"));
    print_message("%-12s largest difference of a logit: %.2e\n", name, worst);
    assert_true(worst <= LOGIT_BOUND);
    kvasir_engine_close(engine);
    json_decref(golden);
    kvasir_model_close(opened);
}

static void test_golden(void **state)
{
    (void)state;
    static const char *const names[] = {"llama",      "llama3-rope", "mistral-swa", "qwen2",
                                        "qwen2-yarn", "qwen3",       "gemma3"};
    for (size_t i = 0; i < ARRAY_COUNT(names); i++) check_golden(names[i]);
}

/* ---- what pooling is ----------------------------------------------------------------------------------------------------- */

static void test_mean(void **state)
{
    (void)state;
    enum { COUNT = 40 };
    struct kvasir_engine *engine = open_engine(model, (struct kvasir_engine_options){0});
    struct vector last, mean;
    uint32_t prompt[128];
    struct kvasir_request request;
    double sum[COLUMNS_MAX] = {0};
    make_request(4, prompt, &request);
    for (uint32_t count = 1; count <= COUNT; count++) { /* each finds the one before in the cache */
        embed(engine, embed_request(prompt, count, KVASIR_POOLING_LAST), &last);
        for (uint32_t i = 0; i < last.count; i++) sum[i] += (double)last.items[i];
    }
    embed(engine, embed_request(prompt, COUNT, KVASIR_POOLING_MEAN), &mean);
    assert_int_equal(mean.count, model_config(model->model)->embedding);
    for (uint32_t i = 0; i < mean.count; i++) assert_true(mean.items[i] == (float)(sum[i] / COUNT));
    kvasir_engine_close(engine);
}

static void test_normalize(void **state)
{
    (void)state;
    struct kvasir_engine *engine = open_engine(model, (struct kvasir_engine_options){0});
    uint32_t prompt[128];
    struct kvasir_request request;
    make_request(4, prompt, &request);
    for (int pooling = KVASIR_POOLING_LAST; pooling <= KVASIR_POOLING_MEAN; pooling++) {
        struct vector plain, unit;
        double length = 0, unit_length = 0;
        request = embed_request(prompt, 30, (enum kvasir_pooling)pooling);
        embed(engine, request, &plain);
        request.normalize = true;
        embed(engine, request, &unit);
        for (uint32_t i = 0; i < plain.count; i++) {
            length += (double)plain.items[i] * (double)plain.items[i];
            unit_length += (double)unit.items[i] * (double)unit.items[i];
        }
        assert_true(fabs(sqrt(unit_length) - 1) < 1e-6 && fabs(sqrt(length) - 1) > 0.01);
        for (uint32_t i = 0; i < plain.count; i++)
            assert_true(fabs((double)unit.items[i] * sqrt(length) - (double)plain.items[i]) < 1e-5);
    }
    kvasir_engine_close(engine);
}

static uint32_t cached_of(struct kvasir_engine *engine, struct kvasir_request request)
{
    struct kvasir_timings timings;
    const struct kvasir_event *events;
    size_t count;
    uint64_t id;
    assert_int_equal(kvasir_engine_submit(engine, &request, &id, NULL), KVASIR_OK);
    while (kvasir_engine_busy(engine)) assert_int_equal(kvasir_engine_step(engine, &events, &count, NULL), KVASIR_OK);
    assert_int_equal(kvasir_engine_timings(engine, id, &timings), KVASIR_OK);
    assert_int_equal(timings.prompt_tokens, request.prompt_count);
    assert_int_equal(timings.output_tokens, 0);
    assert_true(timings.ttft_s > 0 && timings.prefill_s > 0);
    return timings.cached_tokens;
}

/* A mean needs every row; the last token's row needs the others' K and V only. */
static void test_cached(void **state)
{
    (void)state;
    struct kvasir_engine *engine = open_engine(model, (struct kvasir_engine_options){0});
    uint32_t prompt[128];
    struct kvasir_request request;
    make_request(4, prompt, &request);
    assert_int_equal(cached_of(engine, embed_request(prompt, 80, KVASIR_POOLING_MEAN)), 0);
    assert_int_equal(cached_of(engine, embed_request(prompt, 80, KVASIR_POOLING_MEAN)), 0);
    assert_int_equal(cached_of(engine, embed_request(prompt, 80, KVASIR_POOLING_LAST)), 79);
    kvasir_engine_close(engine);
}

/* ---- the same bits ------------------------------------------------------------------------------------------------------- */

/* Embeddings of all prompts, last and mean, beside their answers: all at once, or each after `gap` steps and more urgent than
 * those before it. Returns how often blocks were given up. */
static uint64_t embed_crowd(struct kvasir_engine_options options, uint32_t gap, struct vector out[2 * REQUESTS])
{
    struct kvasir_engine *engine = open_engine(model, options);
    struct kvasir_engine_stats stats;
    uint64_t ids[3 * REQUESTS];
    const struct kvasir_event *events;
    size_t count;
    memset(out, 0, 2 * REQUESTS * sizeof *out);
    for (uint32_t step = 0, next = 0; next < 3 * REQUESTS || kvasir_engine_busy(engine); step++) {
        for (; next < 3 * REQUESTS && step >= next * gap; next++) {
            uint32_t prompt[128];
            struct kvasir_request request;
            make_request(next / 3, prompt, &request);
            request.pooling = (enum kvasir_pooling)((next + 1) % 3);
            request.priority = -(int32_t)(gap * next);
            assert_int_equal(kvasir_engine_submit(engine, &request, &ids[next], NULL), KVASIR_OK);
        }
        assert_int_equal(kvasir_engine_step(engine, &events, &count, NULL), KVASIR_OK);
        for (size_t e = 0; e < count; e++) {
            uint32_t i = 0;
            while (ids[i] != events[e].id) i++;
            if (i % 3 < 2) take_vector(&events[e], &out[i / 3 * 2 + i % 3]);
        }
        check_rules(engine);
    }
    kvasir_engine_stats(engine, &stats);
    kvasir_engine_close(engine);
    return stats.preemptions;
}

static void check_crowd(struct kvasir_engine_options options, uint32_t gap, const struct vector alone[2 * REQUESTS])
{
    static struct vector crowd[2 * REQUESTS];
    uint64_t preemptions = embed_crowd(options, gap, crowd);
    for (uint32_t i = 0; i < 2 * REQUESTS; i++) check_vectors(&alone[i], &crowd[i]);
    if (options.kv_cache_bytes) assert_true(preemptions > 0);
}

static void test_same_bits(void **state)
{
    (void)state;
    static struct vector alone[2 * REQUESTS];
    for (uint32_t i = 0; i < 2 * REQUESTS; i++) {
        uint32_t prompt[128];
        struct kvasir_request request;
        struct kvasir_engine *engine = open_engine(model, (struct kvasir_engine_options){0});
        make_request(i / 2, prompt, &request);
        embed(engine, embed_request(prompt, (uint32_t)request.prompt_count, (enum kvasir_pooling)(i % 2 + 1)),
              &alone[i]);
        kvasir_engine_close(engine);
    }
    const struct kvasir_engine_options ways[] = {
        {.max_batched_tokens = 512},
        {.max_batched_tokens = 5},
        {.block_size = 16, .max_batched_tokens = 33},
        {.no_kv_cache = true},
    };
    for (size_t w = 0; w < ARRAY_COUNT(ways); w++) check_crowd(ways[w], 0, alone);
    struct kvasir_engine_options little = {.context = 140, .block_size = 16, .max_batched_tokens = 32};
    struct kvasir_engine *engine = open_engine(model, little);
    little.kv_cache_bytes = engine->plan.request_bytes;
    kvasir_engine_close(engine);
    check_crowd(little, 2, alone);
    little.swap_bytes = 64u << 20;
    check_crowd(little, 2, alone);
}

/* Rows that were taken before blocks were given up are not wanted again, whatever the chunks they run in. */
static void test_rows(void **state)
{
    (void)state;
    struct request mean = {
        .prompt_count = 200, .count = 200, .embedding = {.pooling = KVASIR_POOLING_MEAN, .taken = 80}};
    struct request last = {.prompt_count = 200, .count = 200, .embedding = {.pooling = KVASIR_POOLING_LAST}};
    struct request answer = {.prompt_count = 200, .count = 200};
    assert_int_equal(request_hidden_rows(&mean, 0, 80), 0);
    assert_int_equal(request_hidden_rows(&mean, 75, 16), 11);
    assert_int_equal(request_hidden_rows(&mean, 80, 120), 120);
    assert_int_equal(request_match_count(&mean), 81);
    assert_int_equal(request_logits_rows(&mean, 80, 120), 0);
    assert_int_equal(request_hidden_rows(&last, 0, 199), 0);
    assert_int_equal(request_hidden_rows(&last, 150, 50), 1);
    assert_int_equal(request_match_count(&last), 200);
    assert_int_equal(request_hidden_rows(&answer, 0, 200), 0);
    assert_int_equal(request_logits_rows(&answer, 0, 200), 1);
}

/* A mean that gives up its blocks in the middle takes no row twice. */
static void test_preempted(void **state)
{
    (void)state;
    struct kvasir_engine *engine = open_engine(model, (struct kvasir_engine_options){0});
    struct kvasir_engine_stats stats;
    struct vector alone, preempted = {0};
    uint32_t prompt[250];
    struct random random;
    const struct kvasir_event *events;
    size_t count;
    uint64_t id, urgent;
    random_seed(&random, 5);
    for (uint32_t i = 0; i < 250; i++) prompt[i] = 3 + (uint32_t)random_below(&random, 500);
    embed(engine, embed_request(prompt, 200, KVASIR_POOLING_MEAN), &alone);
    kvasir_engine_close(engine);
    struct kvasir_engine_options little = {.block_size = 16, .max_batched_tokens = 16};
    engine = open_engine(model, little);
    little.kv_cache_bytes = engine->plan.request_bytes;
    kvasir_engine_close(engine);
    engine = open_engine(model, little);
    struct kvasir_request request = embed_request(prompt, 200, KVASIR_POOLING_MEAN);
    assert_int_equal(kvasir_engine_submit(engine, &request, &id, NULL), KVASIR_OK);
    for (int step = 0; step < 6; step++) assert_int_equal(kvasir_engine_step(engine, &events, &count, NULL), KVASIR_OK);
    request = (struct kvasir_request){
        .prompt = prompt + 7, .prompt_count = 240, .max_tokens = 4, .ignore_eos = true, .priority = -5};
    assert_int_equal(kvasir_engine_submit(engine, &request, &urgent, NULL), KVASIR_OK);
    while (kvasir_engine_busy(engine)) {
        assert_int_equal(kvasir_engine_step(engine, &events, &count, NULL), KVASIR_OK);
        for (size_t e = 0; e < count; e++)
            if (events[e].id == id) take_vector(&events[e], &preempted);
        check_rules(engine);
    }
    kvasir_engine_stats(engine, &stats);
    assert_true(stats.preemptions > 0);
    check_vectors(&alone, &preempted);
    kvasir_engine_close(engine);
}

/* ---- a completion queue, cancelling, refusing ------------------------------------------------------------------------------ */

static void test_queue(void **state)
{
    (void)state;
    struct kvasir_async *async;
    struct kvasir_queue *queue;
    struct kvasir_update update;
    struct vector alone, queued = {0};
    uint32_t prompt[128];
    struct kvasir_request request;
    uint64_t id;
    make_request(4, prompt, &request);
    request = embed_request(prompt, 80, KVASIR_POOLING_MEAN);
    const struct kvasir_engine_options options = {.context = 256, .max_batched_tokens = 16};
    struct kvasir_engine *engine = open_engine(model, options);
    embed(engine, request, &alone);
    kvasir_engine_close(engine);
    assert_int_equal(kvasir_async_open(model, &options, &async, NULL), KVASIR_OK);
    assert_int_equal(kvasir_queue_open(async, &queue, NULL), KVASIR_OK);
    assert_int_equal(kvasir_queue_submit(queue, &request, NULL, &id, NULL), KVASIR_OK);
    struct pollfd wait = {.fd = kvasir_queue_fd(queue), .events = POLLIN};
    while (!queued.count) {
        assert_int_equal(poll(&wait, 1, 60000), 1);
        while (kvasir_queue_take(queue, &update)) take_vector(&update.event, &queued);
    }
    check_vectors(&alone, &queued);
    kvasir_queue_close(queue);
    kvasir_async_close(async);
}

static void test_cancelled(void **state)
{
    (void)state;
    struct kvasir_engine *engine = open_engine(model, (struct kvasir_engine_options){.max_batched_tokens = 16});
    uint32_t prompt[128];
    struct kvasir_request request;
    const struct kvasir_event *events;
    size_t count;
    uint64_t id;
    make_request(4, prompt, &request);
    request = embed_request(prompt, 80, KVASIR_POOLING_MEAN);
    assert_int_equal(kvasir_engine_submit(engine, &request, &id, NULL), KVASIR_OK);
    assert_int_equal(kvasir_engine_step(engine, &events, &count, NULL), KVASIR_OK);
    assert_int_equal(kvasir_engine_cancel(engine, id), KVASIR_OK);
    assert_int_equal(kvasir_engine_step(engine, &events, &count, NULL), KVASIR_OK);
    assert_int_equal(count, 1);
    assert_int_equal(events[0].finish, KVASIR_CANCELLED_BY_CALLER);
    assert_true(events[0].embedding_count == 0 && !events[0].embedding);
    kvasir_engine_close(engine);
}

static void refused(struct kvasir_engine *engine, struct kvasir_request request, const char *says)
{
    struct kvasir_error error = {0};
    uint64_t id;
    assert_int_equal(kvasir_engine_submit(engine, &request, &id, &error), KVASIR_INVALID);
    if (!strstr(error.text, says)) fail_msg("'%s' does not say '%s'", error.text, says);
}

static void test_refused(void **state)
{
    (void)state;
    static const uint32_t ids[] = {5, 6, 7};
    struct kvasir_engine *engine = open_engine(model, (struct kvasir_engine_options){0});
    struct kvasir_request request = embed_request(ids, 3, KVASIR_POOLING_MEAN);
    request.n = 2;
    refused(engine, request, "n is 2");
    request.n = 1;
    request.prompt_logprobs = 4;
    refused(engine, request, "prompt_logprobs is 4");
    refused(engine, embed_request(ids, 3, (enum kvasir_pooling)3), "pooling is 3");
    refused(engine, embed_request(ids, 0, KVASIR_POOLING_LAST), "no tokens");
    kvasir_engine_close(engine);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden),    cmocka_unit_test(test_mean),      cmocka_unit_test(test_normalize),
        cmocka_unit_test(test_cached),    cmocka_unit_test(test_same_bits), cmocka_unit_test(test_rows),
        cmocka_unit_test(test_preempted), cmocka_unit_test(test_queue),     cmocka_unit_test(test_cancelled),
        cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
