/* test_golden_tiny.c - seven tiny checkpoints against transformers' float32 (tests/data/tiny/NAME/golden*.json): logits
 * within 1e-3, 16 greedy tokens, mean negative log-likelihood; with the KV cache in f32 and without a cache. */
#include "engine/engine.h"
#include "eval/eval.h"
#include "support.h"
#include <jansson.h>
#include <math.h>

#define LOGIT_BOUND 1e-3

static const char *const NAMES[] = {"llama", "llama3-rope", "mistral-swa", "qwen2", "qwen2-yarn", "qwen3", "gemma3"};

struct golden {
    const char *name;
    struct kvasir_model *model;
    json_t *json;
    uint32_t *prompt, prompt_count;
};

/* Two references of each checkpoint, by the precision of rope's frequencies: golden.json, computed after a cast to bf16 (what
 * auto chooses for such checkpoints), and golden_f32.json, transformers' from_pretrained in float32. */
static const struct reference {
    const char *file, *rope_frequencies;
} REFERENCES[] = {{"golden.json", NULL}, {"golden_f32.json", "f32"}};
#define CASES (ARRAY_COUNT(NAMES) * ARRAY_COUNT(REFERENCES))

static void golden_open(size_t index, struct golden *out)
{
    const struct reference *reference = &REFERENCES[index % ARRAY_COUNT(REFERENCES)];
    char path[512];
    struct kvasir_error error = {0};
    const struct kvasir_model_options options = {.rope_frequencies = reference->rope_frequencies};
    out->name = NAMES[index / ARRAY_COUNT(REFERENCES)];
    snprintf(path, sizeof path, "%s/tiny/%s", TEST_DATA, out->name);
    if (kvasir_model_open(path, &options, &out->model, &error) != KVASIR_OK) fail_msg("%s: %s", out->name, error.text);
    snprintf(path, sizeof path, "%s/tiny/%s/%s", TEST_DATA, out->name, reference->file);
    out->json = json_load_file(path, 0, NULL);
    assert_non_null(out->json);
    json_t *prompt = json_object_get(out->json, "prompt");
    out->prompt_count = (uint32_t)json_array_size(prompt);
    out->prompt = malloc(out->prompt_count * sizeof *out->prompt);
    for (uint32_t i = 0; i < out->prompt_count; i++)
        out->prompt[i] = (uint32_t)json_integer_value(json_array_get(prompt, i));
}

static void golden_close(struct golden *golden)
{
    free(golden->prompt);
    json_decref(golden->json);
    kvasir_model_close(golden->model);
}

/* The largest difference of the logits after the prompt, computed in passes of `chunk` tokens. */
static double logits_difference(const struct golden *golden, bool no_kv_cache, uint32_t chunk)
{
    struct engine_plan plan;
    struct kv_cache *cache;
    struct model_run *run;
    struct pool *pool;
    struct kv_seq *seq;
    struct kv_batch *batch;
    uint32_t cached, count = golden->prompt_count;
    const float *logits = NULL;
    const struct kvasir_engine_options options = {
        .context = count + 1, .kv_cache_dtype = "f32", .no_kv_cache = no_kv_cache, .max_batched_tokens = chunk};
    assert_int_equal(engine_plan_init(engine_model(golden->model), &options, &plan, NULL), ST_OK);
    assert_int_equal(pool_open(2, &pool, NULL), ST_OK);
    assert_int_equal(kv_open(&plan.kv, &cache, NULL), ST_OK);
    assert_int_equal(model_run_open(engine_model(golden->model), pool, count, 1, count + 1, &run, NULL), ST_OK);
    assert_int_equal(kv_seq_open(cache, golden->prompt, count, 0, &seq, &cached), ST_OK);
    if (no_kv_cache) chunk = count;
    for (uint32_t done = 0; done < count; done += chunk) {
        uint32_t part = count - done < chunk ? count - done : chunk;
        const struct model_entry entry = {
            .seq = seq, .tokens = golden->prompt + done, .count = part, .logits_count = done + part == count};
        assert_int_equal(kv_seq_reserve(seq, part), ST_OK);
        assert_int_equal(kv_batch_pin(cache, &seq, 1, &batch), ST_OK);
        model_forward(run, &entry, 1, &logits);
        kv_batch_unpin(batch);
        kv_seq_commit(seq, entry.tokens, part);
    }
    json_t *expected = json_object_get(golden->json, "logits");
    assert_int_equal(json_array_size(expected), model_config(engine_model(golden->model))->vocabulary);
    double worst = 0;
    for (size_t i = 0; i < json_array_size(expected); i++)
        worst = fmax(worst, fabs((double)logits[i] - json_number_value(json_array_get(expected, i))));
    kv_seq_close(seq);
    model_run_close(run);
    kv_close(cache);
    pool_close(pool);
    engine_plan_release(&plan);
    return worst;
}

static void test_logits(void **state)
{
    (void)state;
    for (size_t m = 0; m < CASES; m++) {
        struct golden golden;
        golden_open(m, &golden);
        double whole = logits_difference(&golden, false, golden.prompt_count);
        double chunked = logits_difference(&golden, false, 7), uncached = logits_difference(&golden, true, 0);
        print_message("%-12s largest difference of a logit: %.2e\n", golden.name, whole);
        assert_true(whole <= LOGIT_BOUND);
        assert_true(chunked == whole && uncached == whole); /* the same bits, so the same difference */
        golden_close(&golden);
    }
}

/* Exact equality: an f32 engine stays well below the reference's narrowest margin (0.0023). */
static void check_greedy(const struct golden *golden, const char *name, bool no_kv_cache)
{
    struct kvasir_engine *engine;
    struct kvasir_error error = {0};
    const struct kvasir_engine_options options = {.context = 128, .kv_cache_dtype = "f32", .no_kv_cache = no_kv_cache};
    const struct kvasir_request request = {
        .prompt = golden->prompt, .prompt_count = golden->prompt_count, .max_tokens = 16, .ignore_eos = true};
    const struct kvasir_event *events;
    size_t count, got = 0;
    uint64_t id;
    assert_int_equal(kvasir_engine_open(golden->model, &options, &engine, &error), KVASIR_OK);
    assert_int_equal(kvasir_engine_submit(engine, &request, &id, &error), KVASIR_OK);
    json_t *greedy = json_object_get(golden->json, "greedy");
    while (kvasir_engine_busy(engine)) {
        assert_int_equal(kvasir_engine_step(engine, &events, &count, &error), KVASIR_OK);
        for (size_t i = 0; i < count; i++)
            for (size_t t = 0; t < events[i].token_count; t++, got++) {
                json_int_t expected = json_integer_value(json_array_get(greedy, got));
                if (events[i].tokens[t].id != (uint32_t)expected)
                    fail_msg("%s%s: greedy token %zu is %u, the reference has %lld", name,
                             no_kv_cache ? " without a cache" : "", got, events[i].tokens[t].id, (long long)expected);
            }
    }
    assert_int_equal(got, 16);
    kvasir_engine_close(engine);
}

static void test_greedy(void **state)
{
    (void)state;
    for (size_t m = 0; m < CASES; m++) {
        struct golden golden;
        golden_open(m, &golden);
        check_greedy(&golden, golden.name, false);
        check_greedy(&golden, golden.name, true);
        golden_close(&golden);
    }
}

static void test_nll(void **state)
{
    (void)state;
    for (size_t m = 0; m < CASES; m++) {
        struct golden golden;
        golden_open(m, &golden);
        double expected = json_number_value(json_object_get(golden.json, "nll")), with_cache = 0;
        for (int without = 0; without < 2; without++) {
            const struct eval_text options = {.ids = golden.prompt,
                                              .count = golden.prompt_count,
                                              .cache = {.kv_cache_dtype = "f32", .no_kv_cache = without != 0}};
            struct buffer out;
            buffer_init(&out, 0);
            assert_int_equal(eval_nll(golden.model, &options, EVAL_JSON, &out, NULL), ST_OK);
            json_t *report = json_loads(out.data, 0, NULL);
            double mean = json_number_value(json_object_get(report, "mean_nll"));
            assert_int_equal(json_integer_value(json_object_get(report, "tokens")), golden.prompt_count - 1);
            if (fabs(mean - expected) > 1e-4 * expected) fail_msg("%s: nll %.6f, %.6f", golden.name, mean, expected);
            if (without) assert_true(mean == with_cache);
            with_cache = mean;
            json_decref(report);
            buffer_release(&out);
        }
        golden_close(&golden);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_logits),
        cmocka_unit_test(test_greedy),
        cmocka_unit_test(test_nll),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
