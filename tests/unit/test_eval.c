/* test_eval.c - nll over windows, the list of benchmarks, and what inspect says, against sums made here. */
#include "bench_rows.h"
#include "gguf_writer.h"
#include "scratch.h"
#include <math.h>

static struct kvasir_model *model;

static const char *tiny_path(const char *name)
{
    static char path[512];
    snprintf(path, sizeof path, "%s/tiny/%s", TEST_DATA, name);
    return path;
}

static int setup(void **state)
{
    (void)state;
    struct kvasir_error error;
    return kvasir_model_open(tiny_path("gemma3"), NULL, &model, &error);
}

static int teardown(void **state)
{
    (void)state;
    kvasir_model_close(model);
    return 0;
}

/* ---- nll ----------------------------------------------------------------------------------------------------------- */

static double mean_nll(const uint32_t *ids, size_t count, uint32_t context, bool no_kv_cache, size_t *tokens)
{
    struct buffer out;
    struct error error = {0};
    const struct eval_text options = {
        .ids = ids, .count = count, .cache = {.context = context, .no_kv_cache = no_kv_cache}};
    buffer_init(&out, 0);
    if (eval_nll(model, &options, EVAL_JSON, &out, &error) != ST_OK) fail_msg("%s", error.text);
    json_t *report = json_loads(out.data, 0, NULL);
    double mean = json_real_value(json_object_get(report, "mean_nll"));
    *tokens = (size_t)json_integer_value(json_object_get(report, "tokens"));
    json_decref(report);
    buffer_release(&out);
    return mean;
}

static void test_nll_windows(void **state)
{
    (void)state;
    uint32_t ids[61];
    size_t tokens, part_tokens;
    for (uint32_t i = 0; i < ARRAY_COUNT(ids); i++) ids[i] = 3 + i * i % 500;
    const uint32_t contexts[] = {2, 9, 16, 60, 61, 100};
    for (size_t c = 0; c < ARRAY_COUNT(contexts); c++) {
        double whole = mean_nll(ids, ARRAY_COUNT(ids), contexts[c], false, &tokens), sum = 0;
        assert_int_equal(tokens, ARRAY_COUNT(ids) - 1); /* each token but the first, once */
        for (size_t begin = 0; begin + 1 < ARRAY_COUNT(ids); begin += contexts[c] - 1) {
            size_t left = ARRAY_COUNT(ids) - begin, count = left < contexts[c] ? left : contexts[c];
            double part = mean_nll(ids + begin, count, 0, false, &part_tokens);
            sum += part * (double)part_tokens;
        }
        assert_true(fabs(whole - sum / (double)tokens) < 1e-7); /* the report has nine digits */
        assert_true(mean_nll(ids, ARRAY_COUNT(ids), contexts[c], true, &tokens) == whole);
    }
}

static void refuse_nll(struct kvasir_model *of, struct eval_text options, const char *why)
{
    struct buffer out;
    struct error error = {0};
    buffer_init(&out, 0);
    assert_int_not_equal(eval_nll(of, &options, EVAL_JSON, &out, &error), ST_OK);
    if (!strstr(error.text, why)) fail_msg("'%s' does not say '%s'", error.text, why);
    assert_int_equal(out.length, 0);
    buffer_release(&out);
}

static void test_nll_refused(void **state)
{
    (void)state;
    const uint32_t ids[] = {1, 512};
    struct kvasir_model *vocabulary;
    refuse_nll(model, (struct eval_text){.ids = ids, .count = 1}, "at least 2");
    refuse_nll(model, (struct eval_text){.ids = ids, .count = 2}, "512");
    refuse_nll(model, (struct eval_text){.ids = ids, .count = 2, .cache.context = 1}, "token 1 is 512");
    refuse_nll(model, (struct eval_text){.ids = (uint32_t[]){1, 2}, .count = 2, .cache.context = 1}, "context");
    refuse_nll(model, (struct eval_text){.ids = (uint32_t[]){1, 2}, .count = 2, .cache.kv_cache_dtype = "f9"}, "f9");
    assert_int_equal(kvasir_model_open(tiny_path("gemma3"), &(struct kvasir_model_options){.vocabulary_only = true},
                                       &vocabulary, NULL),
                     KVASIR_OK);
    refuse_nll(vocabulary, (struct eval_text){.ids = ids, .count = 2}, "vocabulary only");
    kvasir_model_close(vocabulary);
}

/* ---- reports --- */

static json_int_t number_at(json_t *object, const char *key, const char *format)
{
    json_t *value = json_object_get(object, key);
    if (format) value = json_object_get(value, format);
    assert_true(json_is_integer(value));
    return json_integer_value(value);
}

/* ---- kl ------------------------------------------------------------------------------------------------------------ */

struct kl {
    double mean, p99, agreement;
    size_t tokens;
};

static struct kl kl_of_text(const struct eval_text *text)
{
    struct buffer out;
    struct error error = {0};
    struct kl kl;
    buffer_init(&out, 0);
    if (eval_kl(model, text, EVAL_JSON, &out, &error) != ST_OK) fail_msg("%s", error.text);
    json_t *report = json_loads(out.data, 0, NULL);
    kl.mean = json_real_value(json_object_get(report, "mean_kl"));
    kl.p99 = json_real_value(json_object_get(report, "p99_kl"));
    kl.agreement = json_real_value(json_object_get(report, "top1_agreement"));
    kl.tokens = (size_t)json_integer_value(json_object_get(report, "tokens"));
    json_decref(report);
    buffer_release(&out);
    return kl;
}

static struct kl kl_of(const uint32_t *ids, size_t count, uint32_t context, const char *dtype)
{
    return kl_of_text(
        &(struct eval_text){.ids = ids, .count = count, .cache = {.context = context, .kv_cache_dtype = dtype}});
}

static void test_kl(void **state)
{
    (void)state;
    uint32_t ids[61];
    for (uint32_t i = 0; i < ARRAY_COUNT(ids); i++) ids[i] = 3 + i * i % 500;
    struct kl same = kl_of(ids, ARRAY_COUNT(ids), 0, "f32"), half = kl_of(ids, ARRAY_COUNT(ids), 0, "f16");
    assert_int_equal(same.tokens, ARRAY_COUNT(ids) - 1);
    assert_true(same.mean == 0 && same.p99 == 0 && same.agreement == 1);
    assert_int_equal(half.tokens, ARRAY_COUNT(ids) - 1);
    assert_true(half.mean > 0 && half.mean < 1e-5 && half.p99 >= half.mean && half.agreement > 0.9);
    /* windows: the mean of the windows' means, each for its positions */
    struct kl cut = kl_of(ids, ARRAY_COUNT(ids), 31, "f16"), first = kl_of(ids, 31, 0, "f16"),
              second = kl_of(ids + 30, 31, 0, "f16");
    assert_true(fabs(cut.mean - (first.mean + second.mean) / 2) < 1e-9);
    /* of the 30 positions of one window, 99 % are all: the largest, which of both windows is the larger */
    assert_true(cut.p99 == (first.p99 > second.p99 ? first.p99 : second.p99));
}

static void test_kl_without_cache(void **state)
{
    (void)state;
    const uint32_t ids[] = {1, 2, 3};
    const struct eval_text text = {.ids = ids, .count = ARRAY_COUNT(ids), .cache.no_kv_cache = true};
    struct buffer out;
    struct error error = {0};
    buffer_init(&out, 0);
    assert_int_equal(eval_kl(model, &text, EVAL_JSON, &out, &error), ST_INVALID);
    buffer_release(&out);
}

/* ---- heads ----------------------------------------------------------------------------------------------------------- */

/* The report; the policy is taken by the caller. */
static json_t *heads_of(struct eval_heads_options options, char **policy)
{
    struct buffer out, written;
    struct error error = {0};
    buffer_init(&out, 0);
    buffer_init(&written, 0);
    if (eval_heads(model, &options, EVAL_JSON, &out, &written, &error) != ST_OK) fail_msg("%s", error.text);
    json_t *report = json_loads(out.data, 0, NULL);
    assert_non_null(report);
    *policy = buffer_take(&written);
    buffer_release(&out);
    return report;
}

/* gemma3's one full layer is 5, of 2 KV heads. What is told of a policy is what eval kl finds of it. */
static void test_heads(void **state)
{
    (void)state;
    uint32_t ids[90];
    for (uint32_t i = 0; i < ARRAY_COUNT(ids); i++) ids[i] = 3 + i * i % 500;
    struct eval_heads_options options = {
        .text = {.ids = ids, .count = ARRAY_COUNT(ids), .cache.kv_cache_dtype = "f32"}, .sinks = 2, .window = 8};
    const double keeps[] = {0, 0.5, 1};
    for (size_t i = 0; i < ARRAY_COUNT(keeps); i++) {
        char *policy;
        options.keep = keeps[i];
        json_t *report = heads_of(options, &policy), *heads = json_object_get(report, "heads");
        assert_int_equal(json_array_size(heads), 2);
        assert_int_equal(number_at(report, "kept", NULL), i);
        for (size_t h = 0; h < 2; h++) {
            assert_int_equal(number_at(json_array_get(heads, h), "layer", NULL), 5);
            assert_true(json_is_true(json_object_get(json_array_get(heads, h), "full")) == (h < i));
            assert_true(real_at(json_array_get(heads, h), "mean_kl") > 0);
        }
        assert_true(real_at(json_array_get(heads, 0), "mean_kl") >= real_at(json_array_get(heads, 1), "mean_kl"));
        struct eval_text text = options.text;
        text.cache.kv_policy = policy;
        struct kl kl = kl_of_text(&text);
        assert_true(kl.mean == real_at(report, "mean_kl") && kl.p99 == real_at(report, "p99_kl"));
        assert_int_equal(number_at(report, "tokens", NULL), ARRAY_COUNT(ids) - 1);
        /* One head limited is what that head was measured to cost. */
        if (i == 1) assert_true(kl.mean == real_at(json_array_get(heads, 1), "mean_kl"));
        json_int_t bytes = number_at(report, "bytes", NULL), less = number_at(report, "bytes_with_policy", NULL);
        assert_true(i == 2 ? less == bytes && kl.mean == 0 : less < bytes && kl.mean > 0);
        json_decref(report);
        mem_free(policy);
    }
}

static void test_heads_by_loss(void **state)
{
    (void)state;
    uint32_t ids[60];
    char *policy;
    for (uint32_t i = 0; i < ARRAY_COUNT(ids); i++) ids[i] = 3 + i * i % 500;
    struct eval_heads_options options = {
        .text = {.ids = ids, .count = ARRAY_COUNT(ids)}, .sinks = 2, .window = 8, .loss = 100};
    json_t *report = heads_of(options, &policy);
    assert_int_equal(number_at(report, "kept", NULL), 0);
    options.loss = real_at(json_array_get(json_object_get(report, "heads"), 1), "mean_kl"); /* the better head may go */
    mem_free(policy);
    bool one = options.loss < real_at(report, "mean_kl");
    json_decref(report);
    report = heads_of(options, &policy);
    assert_int_equal(number_at(report, "kept", NULL), one);
    assert_true(real_at(report, "mean_kl") <= options.loss);
    mem_free(policy);
    json_decref(report);
    options.loss = 1e-15;
    report = heads_of(options, &policy);
    assert_int_equal(number_at(report, "kept", NULL), 2);
    assert_true(real_at(report, "mean_kl") == 0);
    mem_free(policy);
    json_decref(report);
}

static void refuse_heads(struct eval_heads_options options, const char *why)
{
    const uint32_t ids[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10};
    struct buffer out, policy;
    struct error error = {0};
    buffer_init(&out, 0);
    buffer_init(&policy, 0);
    options.text.ids = ids;
    options.text.count = ARRAY_COUNT(ids);
    assert_int_not_equal(eval_heads(model, &options, EVAL_JSON, &out, &policy, &error), ST_OK);
    if (!strstr(error.text, why)) fail_msg("'%s' does not say '%s'", error.text, why);
    assert_int_equal(out.length + policy.length, 0);
    buffer_release(&out);
    buffer_release(&policy);
}

static void test_heads_refused(void **state)
{
    (void)state;
    refuse_heads((struct eval_heads_options){.sinks = 2, .window = 8}, "never reach past 2 sinks and a window of 8");
    refuse_heads((struct eval_heads_options){.sinks = 2, .window = 6, .text.cache.context = 8}, "8 tokens at a time");
    refuse_heads((struct eval_heads_options){.sinks = 0, .window = 4}, "0 sinks");
    refuse_heads((struct eval_heads_options){.sinks = 1, .window = 0}, "a window of 0");
    refuse_heads((struct eval_heads_options){.sinks = 1, .window = 2, .keep = 1.5}, "keep must be");
    refuse_heads((struct eval_heads_options){.sinks = 1, .window = 2, .text.cache.no_kv_cache = true}, "without one");
}

/* ---- bench --------------------------------------------------------------------------------------------------------- */

static const uint32_t prompts[] = {20, 0, 3}, generates[] = {4, 0}, depths[] = {0, 40};
static const struct eval_bench_options all = {.prompt = prompts,
                                              .generate = generates,
                                              .depth = depths,
                                              .prompt_count = 3,
                                              .generate_count = 2,
                                              .depth_count = 2,
                                              .repetitions = 3};

static void test_bench(void **state)
{
    (void)state;
    const char *names[] = {"pp20", "pp3", "tg4", "tg4@40"};
    for (int no_kv_cache = 0; no_kv_cache < 2; no_kv_cache++) {
        struct buffer out;
        struct eval_bench_options options = all;
        options.cache.no_kv_cache = no_kv_cache != 0;
        buffer_init(&out, 0);
        assert_int_equal(eval_bench(model, &options, EVAL_JSON, &out, NULL), ST_OK);
        json_t *list = json_loads(out.data, 0, NULL);
        assert_int_equal(json_array_size(list), ARRAY_COUNT(names));
        for (size_t i = 0; i < ARRAY_COUNT(names); i++) {
            json_t *row = json_array_get(list, i);
            assert_string_equal(json_string_value(json_object_get(row, "test")), names[i]);
            assert_true(json_number_value(json_object_get(row, "tokens_per_s")) > 0);
            assert_true(json_number_value(json_object_get(row, "stddev")) >= 0);
            const double attention_s = json_number_value(json_object_get(row, "attention_ms")) / 1e3;
            if (names[i][0] == 't') /* a part of the step */
                assert_true(attention_s > 0 &&
                            attention_s * json_number_value(json_object_get(row, "tokens_per_s")) < 1.5);
            else
                assert_null(json_object_get(row, "attention_ms"));
        }
        json_decref(list);
        buffer_release(&out);
    }
}

static void test_bench_tables(void **state)
{
    (void)state;
    const struct {
        enum eval_output output;
        const char *first, *row;
    } tables[] = {{EVAL_MARKDOWN, "| test |", "\n| tg4@40 | "},
                  {EVAL_CSV, "test,tokens_per_s,stddev,attention_ms\n", "\ntg4@40,"}};
    for (size_t i = 0; i < ARRAY_COUNT(tables); i++) {
        struct buffer out;
        buffer_init(&out, 0);
        assert_int_equal(eval_bench(model, &all, tables[i].output, &out, NULL), ST_OK);
        assert_int_equal(strncmp(out.data, tables[i].first, strlen(tables[i].first)), 0);
        assert_non_null(strstr(out.data, tables[i].row));
        buffer_release(&out);
    }
    struct error error = {0};
    struct buffer out;
    struct eval_bench_options none = all;
    none.repetitions = 0;
    buffer_init(&out, 0);
    assert_int_equal(eval_bench(model, &none, EVAL_JSON, &out, &error), ST_INVALID);
    assert_non_null(strstr(error.text, "repetitions"));
    none = (struct eval_bench_options){.repetitions = 1};
    assert_int_equal(eval_bench(model, &none, EVAL_JSON, &out, &error), ST_OK);
    assert_string_equal(out.data, "[]\n");
    buffer_release(&out);
}

/* Every decode test dense, then with each budget, of which whole groups of 16 keys are read. */
static void test_bench_retrieval(void **state)
{
    (void)state;
    const uint32_t generate = 4, depth = 600;
    const double budgets[] = {0.4, 0.7};
    static const char *const names[] = {"tg4@600", "tg4@600/40%", "tg4@600/70%"};
    struct eval_bench_options options = {.generate = &generate,
                                         .depth = &depth,
                                         .generate_count = 1,
                                         .depth_count = 1,
                                         .budgets = budgets,
                                         .budget_count = ARRAY_COUNT(budgets),
                                         .repetitions = 2};
    struct buffer out;
    struct error error = {0};
    buffer_init(&out, 0);
    json_t *list = bench_rows(model, &options, names, ARRAY_COUNT(names));
    for (size_t i = 0; i < ARRAY_COUNT(names); i++) {
        json_t *row = json_array_get(list, i);
        assert_int_equal(json_object_size(row), i ? 6 : 4);
        if (!i) continue;
        assert_true(real_at(row, "budget") == budgets[i - 1]);
        assert_true(fabs(real_at(row, "rows_read") - budgets[i - 1]) < 0.05);
    }
    json_decref(list);
    options.budget_count = 1;
    options.budgets = (double[]){0.3};
    assert_int_equal(eval_bench(model, &options, EVAL_JSON, &out, &error), ST_INVALID);
    assert_non_null(strstr(error.text, "a depth of at least 641 tokens"));
    options.budgets = (double[]){1.5};
    assert_int_equal(eval_bench(model, &options, EVAL_JSON, &out, &error), ST_INVALID);
    assert_non_null(strstr(error.text, "a budget of 1.5"));
    options.budgets = (double[]){0.5};
    options.roofline = true;
    assert_int_equal(eval_bench(model, &options, EVAL_JSON, &out, &error), ST_INVALID);
    assert_non_null(strstr(error.text, "roofline"));
    buffer_release(&out);
}

/* What is measured is not known here, but how the figures hang together is. */
static void test_bench_roofline(void **state)
{
    (void)state;
    const uint32_t prompt = 20, generate = 4;
    const struct eval_bench_options options = {.prompt = &prompt,
                                               .generate = &generate,
                                               .prompt_count = 1,
                                               .generate_count = 1,
                                               .repetitions = 2,
                                               .roofline = true};
    struct buffer out;
    buffer_init(&out, 0);
    assert_int_equal(eval_bench(model, &options, EVAL_JSON, &out, NULL), ST_OK);
    json_t *list = json_loads(out.data, 0, NULL);
    assert_int_equal(json_array_size(list), 2);
    for (size_t i = 0; i < 2; i++) {
        json_t *row = json_array_get(list, i), *machine = json_object_get(row, "machine");
        double limit, bytes = real_at(row, "bytes_per_token"), read = real_at(machine, "read_gb_per_s") * 1e9;
        assert_string_equal(json_string_value(json_object_get(row, "test")), i ? "tg4" : "pp20");
        assert_true(real_at(row, "int8_macs_per_token") == 0 && bytes > 0 && read > 0); /* its weights are bf16 */
        assert_int_equal(json_integer_value(json_object_get(machine, "threads")), cpu_count());
        assert_int_equal(json_array_size(json_object_get(machine, "read_sizes")), 3);
        assert_true(real_at(json_array_get(json_object_get(machine, "read_sizes"), 2), "gb_per_s") > 0);
        if (strcmp(json_string_value(json_object_get(machine, "isa")), "ref") == 0) continue;
        double macs = real_at(row, "f32_macs_per_token"), f32 = real_at(machine, "f32_gmac_per_s") * 1e9;
        double int16 = real_at(machine, "int16_gmac_per_s") * 1e9, attention = real_at(row, "attention_macs_per_token");
        assert_true(attention > 0 &&
                    real_at(row, "attention_int16_macs_per_token") == attention); /* its cache is f16 */
        assert_true(real_at(machine, "int8_gmac_per_s") > 0);
        limit = i ? read / bytes : fmin(read / bytes, 1 / (macs / f32 + attention / int16));
        assert_true(fabs(real_at(row, "limit_tokens_per_s") / limit - 1) < 1e-6);
        assert_true(fabs(real_at(row, "share") * limit / real_at(row, "tokens_per_s") - 1) < 1e-6);
    }
    json_decref(list);
    buffer_release(&out);
}

static void test_bench_roofline_tables(void **state)
{
    (void)state;
    const uint32_t prompt = 20;
    struct eval_bench_options options = {.prompt = &prompt, .prompt_count = 1, .repetitions = 1, .roofline = true};
    struct kvasir_model *ref;
    struct buffer out;
    struct error error = {0};
    assert_int_equal(
        kvasir_model_open(tiny_path("gemma3"), &(struct kvasir_model_options){.isa = "ref", .threads = 1}, &ref, NULL),
        KVASIR_OK);
    buffer_init(&out, 0);
    assert_int_equal(eval_bench(ref, &options, EVAL_MARKDOWN, &out, NULL), ST_OK);
    assert_int_equal(
        strncmp(out.data, "ref, 1 thread: int8 - GMAC/s, int16 - GMAC/s, f32 - GMAC/s; reads 1 MiB at ", 75), 0);
    assert_non_null(strstr(
        out.data,
        "\n\n| test | tokens/s | stddev | attention ms | limit | share |\n|---|---:|---:|---:|---:|---:|\n| pp20 |"));
    assert_non_null(strstr(out.data, " | - | - |\n")); /* no limit of arithmetic is known */
    out.length = 0;
    assert_int_equal(eval_bench(ref, &options, EVAL_CSV, &out, NULL), ST_OK);
    assert_int_equal(strncmp(out.data, "test,tokens_per_s,stddev,attention_ms,limit_tokens_per_s,share,", 63), 0);
    assert_non_null(strchr(out.data, '\n'));
    const char *row = strchr(out.data, '\n') + 1;
    assert_int_equal(strncmp(row, "pp20,", 5), 0);
    int commas[2] = {0};
    for (const char *at = out.data; *at; at++) commas[at >= row] += *at == ',';
    assert_int_equal(commas[0], 15);
    assert_int_equal(commas[1], 15);
    options.cache.no_kv_cache = true;
    assert_int_equal(eval_bench(ref, &options, EVAL_CSV, &out, &error), ST_INVALID);
    assert_non_null(strstr(error.text, "roofline"));
    buffer_release(&out);
    kvasir_model_close(ref);
}

/* ---- inspect ------------------------------------------------------------------------------------------------------- */

static json_t *inspect(const char *path, const char *policy)
{
    struct buffer out;
    struct error error = {0};
    buffer_init(&out, 0);
    if (eval_inspect(path, policy, EVAL_JSON, &out, &error) != ST_OK) fail_msg("%s", error.text);
    json_t *report = json_loads(out.data, 0, NULL);
    assert_non_null(report);
    buffer_release(&out);
    return report;
}

/* gemma3: 7 layers of 2 KV heads; six slide over 16 tokens, one is full. */
static void test_inspect(void **state)
{
    (void)state;
    json_t *report = inspect(tiny_path("gemma3"), NULL), *kv = json_object_get(report, "kv");
    /* Bytes of a head's K and V for one token; a row of a small format begins with an f16 scale, but K in fp8_e4m3 has two f16
     * for each element of 32 tokens. */
    json_int_t dim = number_at(report, "head_dim", NULL);
    const struct {
        const char *name;
        json_int_t bytes;
    } formats[] = {{"f32", 8 * dim},      {"f16", 4 * dim},
                   {"bf16", 4 * dim},     {"fp8_e4m3", 2 * dim + 2 + dim / 8},
                   {"int8", 2 * dim + 4}, {"k=int8,v=int4", dim + dim / 2 + 4}};
    json_int_t layers = number_at(report, "layers", NULL), heads = number_at(report, "kv_heads", NULL);
    json_int_t sliding = 0;
    assert_string_equal(json_string_value(json_object_get(report, "architecture")), "gemma3");
    assert_true(json_is_true(json_object_get(report, "runs")));
    json_t *kinds = json_object_get(kv, "layer_kinds"), *table = json_object_get(kv, "table");
    assert_int_equal(json_array_size(kinds), 2);
    for (size_t k = 0; k < 2; k++) {
        json_t *kind = json_array_get(kinds, k);
        if (strcmp(json_string_value(json_object_get(kind, "kind")), "sliding") == 0)
            sliding = number_at(kind, "layers", NULL);
    }
    assert_true(sliding > 0 && sliding < layers);
    for (size_t f = 0; f < ARRAY_COUNT(formats); f++) {
        const char *name = formats[f].name;
        json_int_t layer = heads * formats[f].bytes;
        assert_int_equal(number_at(kv, "bytes_per_token", name), layers * layer);
        assert_int_equal(json_array_size(table), 8);
        for (size_t row = 0; row < 8; row++) {
            json_t *line = json_array_get(table, row);
            json_int_t tokens = 1024 << row;
            assert_int_equal(number_at(line, "tokens", NULL), tokens);
            /* full layers hold every token, sliding ones a window of 16 in at most two blocks of 32 */
            assert_int_equal(number_at(line, "bytes", name),
                             (layers - sliding) * layer * tokens + sliding * layer * 64);
            assert_int_equal(number_at(line, "bytes_without_cache", name), layer * tokens);
        }
    }
    json_t *tensors = json_object_get(report, "tensors");
    assert_int_equal(number_at(tensors, "count", NULL), json_array_size(json_object_get(tensors, "list")));
    json_int_t parameters = 0;
    const char *key;
    json_t *value;
    json_object_foreach(json_object_get(tensors, "by_format"), key, value) parameters +=
        number_at(value, "elements", NULL);
    assert_int_equal(number_at(report, "parameters", NULL), parameters);
    json_decref(report);

    struct buffer out;
    buffer_init(&out, 0);
    assert_int_equal(eval_inspect(tiny_path("gemma3"), NULL, EVAL_TEXT, &out, NULL), ST_OK);
    assert_non_null(strstr(out.data, "gemma3"));
    assert_non_null(strstr(out.data, "for the last 16 tokens"));
    assert_non_null(strstr(out.data, "128K"));
    buffer_release(&out);
}

/* The one full layer keeps 4 tokens and a window of 40: the first block, and at most three of the window. */
static void test_inspect_policy(void **state)
{
    (void)state;
    const char *policy = "{\"default\": {\"kind\": \"sinks\", \"sinks\": 4, \"window\": 40}}";
    json_t *report = inspect(tiny_path("gemma3"), policy), *kv = json_object_get(report, "kv");
    json_int_t layers = number_at(report, "layers", NULL), layer = number_at(kv, "bytes_per_token", "f16") / layers;
    for (size_t row = 0; row < 8; row++) {
        json_t *line = json_array_get(json_object_get(kv, "table"), row);
        assert_int_equal(number_at(line, "bytes_with_policy", "f16"), (layers - 1) * layer * 64 + layer * 4 * 32);
        assert_int_equal(number_at(line, "bytes", "f16"), (layers - 1) * layer * 64 + layer * (1024 << row));
    }
    json_decref(report);
    struct error error = {0};
    struct buffer out;
    buffer_init(&out, 0);
    assert_int_equal(eval_inspect(tiny_path("gemma3"), policy, EVAL_TEXT, &out, NULL), ST_OK);
    assert_non_null(strstr(out.data, "with the KV policy"));
    assert_int_equal(eval_inspect(tiny_path("gemma3"), "{\"layers\": 1}", EVAL_TEXT, &out, &error), ST_INVALID);
    assert_non_null(strstr(error.text, "KV policy: layers"));
    buffer_release(&out);
}

static void write_unknown(struct scratch *scratch, uint32_t tensor_type)
{
    struct buffer file;
    buffer_init(&file, 0);
    gguf_header(&file, 3, 1, 2);
    gguf_key_text(&file, "general.architecture", "unheard-of");
    gguf_key_text(&file, "general.name", "bad \xff name\x1b[31m");
    gguf_tensor(&file, "token_embd.weight", tensor_type, 2, 256, 0);
    gguf_pad(&file, 32);
    gguf_zeros(&file, 4096);
    scratch_write(scratch, "model.gguf", file.data, file.length);
    buffer_release(&file);
}

static void test_inspect_unknown(void **state)
{
    (void)state;
    struct scratch scratch;
    struct buffer out;
    struct error error = {0};
    scratch_init(&scratch);
    write_unknown(&scratch, 0); /* f32 */
    json_t *report = inspect(scratch_path(&scratch, "model.gguf"), NULL);
    assert_true(json_is_false(json_object_get(report, "runs")));
    assert_non_null(strstr(json_string_value(json_object_get(report, "reason")), "unheard-of"));
    assert_true(json_is_null(json_object_get(report, "kv")));
    assert_true(json_is_null(json_object_get(report, "layers")));
    assert_int_equal(number_at(report, "parameters", NULL), 512);
    json_decref(report);
    buffer_init(&out, 0);
    assert_int_equal(eval_inspect(scratch_path(&scratch, "model.gguf"), NULL, EVAL_TEXT, &out, &error), ST_OK);
    assert_non_null(strstr(out.data, "cannot run"));
    assert_null(strchr(out.data, '\x1b'));
    out.length = 0;
    write_unknown(&scratch, 39); /* a tensor format that is not known: the metadata is shown */
    report = inspect(scratch_path(&scratch, "model.gguf"), NULL);
    assert_true(json_is_false(json_object_get(report, "runs")));
    assert_non_null(strstr(json_string_value(json_object_get(report, "reason")), "token_embd.weight"));
    json_decref(report);
    assert_int_not_equal(eval_inspect(scratch_path(&scratch, "absent.gguf"), NULL, EVAL_TEXT, &out, &error), ST_OK);
    assert_non_null(strstr(error.text, "absent.gguf"));
    assert_int_equal(out.length, 0);
    buffer_release(&out);
    scratch_release(&scratch);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nll_windows),      cmocka_unit_test(test_kl),
        cmocka_unit_test(test_kl_without_cache), cmocka_unit_test(test_heads),
        cmocka_unit_test(test_heads_by_loss),    cmocka_unit_test(test_heads_refused),
        cmocka_unit_test(test_nll_refused),      cmocka_unit_test(test_bench),
        cmocka_unit_test(test_bench_tables),     cmocka_unit_test(test_bench_retrieval),
        cmocka_unit_test(test_bench_roofline),   cmocka_unit_test(test_bench_roofline_tables),
        cmocka_unit_test(test_inspect),          cmocka_unit_test(test_inspect_policy),
        cmocka_unit_test(test_inspect_unknown),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
