/* bench_rows.h - the rows of a benchmark's JSON, for the tests of eval. */
#ifndef TESTS_BENCH_ROWS_H
#define TESTS_BENCH_ROWS_H
#include "eval/eval.h"
#include "support.h"
#include <jansson.h>

static inline double real_at(json_t *row, const char *key)
{
    json_t *value = json_object_get(row, key);
    if (!json_is_number(value)) fail_msg("%s is no number", key);
    return json_number_value(value);
}

/* Runs the benchmark: one row for each of `names`, each with a rate. The caller's (json_decref). */
static inline json_t *bench_rows(struct kvasir_model *model, const struct eval_bench_options *options,
                                 const char *const *names, size_t count)
{
    struct buffer out;
    struct error error = {0};
    buffer_init(&out, 0);
    if (eval_bench(model, options, EVAL_JSON, &out, &error) != ST_OK) fail_msg("%s", error.text);
    json_t *list = json_loads(out.data, 0, NULL);
    buffer_release(&out);
    assert_int_equal(json_array_size(list), count);
    for (size_t i = 0; i < count; i++) {
        json_t *row = json_array_get(list, i);
        assert_string_equal(json_string_value(json_object_get(row, "test")), names[i]);
        assert_true(real_at(row, "tokens_per_s") > 0);
    }
    return list;
}
#endif
