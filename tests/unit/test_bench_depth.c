/* test_bench_depth.c - decode tests at depths of which only the beginning is computed, and with a fixed number of tokens looked up. */
#include "bench_rows.h"
#include "engine_byte_model.h"
#include <math.h>

static void refuse(struct eval_bench_options options, const char *why)
{
    struct buffer out;
    struct error error = {0};
    buffer_init(&out, 0);
    assert_int_equal(eval_bench(bytes, &options, EVAL_JSON, &out, &error), ST_INVALID);
    if (!strstr(error.text, why)) fail_msg("'%s' does not say '%s'", error.text, why);
    buffer_release(&out);
}

/* Depths of which the beginning is computed, deeper and less deep than the one before; a fixed number of tokens looked up. */
static void test_depths(void **state)
{
    (void)state;
    const uint32_t prompt = 20, generate = 4, at[] = {600, 2000, 1500}, recalls[] = {100, 333};
    static const char *const names[] = {"pp20",          "tg4@~600",      "tg4@~600/100",  "tg4@~600/333",
                                        "tg4@~2000",     "tg4@~2000/100", "tg4@~2000/333", "tg4@~1500",
                                        "tg4@~1500/100", "tg4@~1500/333"};
    struct eval_bench_options options = {.prompt = &prompt,
                                         .generate = &generate,
                                         .depth = at,
                                         .prompt_count = 1,
                                         .generate_count = 1,
                                         .depth_count = ARRAY_COUNT(at),
                                         .recall_tokens = recalls,
                                         .recall_count = ARRAY_COUNT(recalls),
                                         .computed = 300,
                                         .repetitions = 2};
    struct buffer out;
    struct error error = {0};
    buffer_init(&out, 0);
    json_t *list = bench_rows(bytes, &options, names, ARRAY_COUNT(names));
    for (size_t i = 0; i < ARRAY_COUNT(names); i++) {
        json_t *row = json_array_get(list, i);
        assert_true(i == 0 || json_integer_value(json_object_get(row, "computed")) == 288);
        if (i == 0 || (i - 1) % 3 == 0) continue;
        const uint32_t recalled = recalls[(i - 1) % 3 - 1], depth = at[(i - 1) / 3];
        assert_int_equal(json_integer_value(json_object_get(row, "recall_tokens")), recalled);
        assert_true(fabs(real_at(row, "rows_read") - (64.0 + 128 + recalled) / depth) < 32.0 / depth);
    }
    json_decref(list);
    options.recall_count = 0;
    assert_int_equal(eval_bench(bytes, &options, EVAL_MARKDOWN, &out, &error), ST_OK);
    assert_non_null(strstr(out.data, "The first 288 tokens are a text"));
    options.recall_count = 1;
    options.skip_dense = true;
    out.length = 0;
    assert_int_equal(eval_bench(bytes, &options, EVAL_CSV, &out, &error), ST_OK);
    assert_non_null(strstr(out.data, "tg4@~600/100"));
    assert_null(strstr(out.data, "tg4@~600,"));
    options.skip_dense = false;
    options.computed = 0; /* an engine's own retrieval, of a prompt that it computes */
    options.recall_count = 1;
    options.depth_count = 1;
    out.length = 0;
    assert_int_equal(eval_bench(bytes, &options, EVAL_JSON, &out, &error), ST_OK);
    list = json_loads(out.data, 0, NULL);
    assert_true(fabs(real_at(json_array_get(list, 2), "rows_read") - (64 + 128 + 100) / 600.0) < 32 / 600.0);
    json_decref(list);
    buffer_release(&out);
}

static json_t *measure(const struct eval_bench_options *options)
{
    struct buffer out;
    struct error error = {0};
    buffer_init(&out, 0);
    if (eval_bench(bytes, options, EVAL_JSON, &out, &error) != ST_OK) fail_msg("%s", error.text);
    json_t *list = json_loads(out.data, 0, NULL);
    buffer_release(&out);
    return list;
}

/* What a depth has beyond what memory holds waits in files, and no less is read. */
static void test_disk(void **state)
{
    (void)state;
    struct scratch folder;
    scratch_init(&folder);
    const uint32_t generate = 4, at[] = {2000, 8000, 5000}, recall = 100;
    struct eval_bench_options options = {.generate = &generate,
                                         .depth = at,
                                         .generate_count = 1,
                                         .depth_count = ARRAY_COUNT(at),
                                         .recall_tokens = &recall,
                                         .recall_count = 1,
                                         .skip_dense = true,
                                         .computed = 300,
                                         .repetitions = 3};
    json_t *memory = measure(&options);
    options.cache.kv_disk = folder.folder;
    options.cache.kv_disk_bytes = 1u << 30;
    json_t *disk = measure(&options);
    for (size_t i = 0; i < ARRAY_COUNT(at); i++) {
        json_t *all = json_array_get(memory, i), *some = json_array_get(disk, i);
        assert_true(real_at(all, "rows_read") == real_at(some, "rows_read"));
        assert_int_equal(json_integer_value(json_object_get(all, "kv_bytes_offloaded")), 0);
        const json_int_t away = json_integer_value(json_object_get(some, "kv_bytes_offloaded")),
                         held = json_integer_value(json_object_get(some, "kv_bytes"));
        assert_true(away > 0 && held < json_integer_value(json_object_get(all, "kv_bytes")));
    }
    json_decref(memory);
    json_decref(disk);
    options.cache.kv_disk_bytes = 1000;
    struct buffer out;
    struct error error = {0};
    buffer_init(&out, 0);
    assert_int_equal(eval_bench(bytes, &options, EVAL_JSON, &out, &error), ST_LIMIT);
    assert_non_null(strstr(error.text, "more bytes on the disk"));
    buffer_release(&out);
    options.skip_dense = false;
    refuse(options, "skip dense");
    scratch_release(&folder);
}

static void test_refused(void **state)
{
    (void)state;
    const uint32_t generate = 4, depth = 600, recall = 408;
    struct eval_bench_options options = {.generate = &generate,
                                         .depth = &depth,
                                         .generate_count = 1,
                                         .depth_count = 1,
                                         .recall_tokens = &recall,
                                         .repetitions = 1};
    options.computed = 100;
    refuse(options, "100 tokens computed");
    options.computed = 601;
    refuse(options, "601 tokens computed of a depth of 600");
    options.computed = 300;
    options.recall_count = 1;
    refuse(options, "408 tokens looked up at a depth of 600");
    options.recall_count = 0;
    options.cache.kv_policy = "{}";
    refuse(options, "leave out the KV policy");
    options.cache.kv_policy = NULL;
    options.roofline = true;
    refuse(options, "roofline");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_depths), cmocka_unit_test(test_disk),
                                       cmocka_unit_test(test_refused)};
    return cmocka_run_group_tests(tests, setup_both, teardown_both);
}
