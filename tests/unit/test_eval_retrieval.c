/* test_eval_retrieval.c - the tasks of `eval retrieval`: texts that follow from their seed and fit their length, answers that are judged
 * exactly; and the evaluation itself, on a model of bytes and, where it is there, on a real one. */
#include "engine_byte_model.h"
#include "eval/eval.h"
#include "eval/haystack.h"
#include <jansson.h>
#include <math.h>

/* ---- texts --------------------------------------------------------------------------------------------------------- */

static struct haystack make(enum haystack_family family, uint32_t length, uint64_t seed)
{
    struct haystack haystack;
    struct error error = {0};
    if (haystack_make(bytes, family, length, seed, &haystack, &error) != ST_OK) fail_msg("%s", error.text);
    return haystack;
}

static char *text_of(const uint32_t *ids, uint32_t count)
{
    char *text;
    size_t length;
    assert_int_equal(kvasir_detokenize(bytes, ids, count, 0, &text, &length, NULL), KVASIR_OK);
    return text;
}

static const uint32_t LENGTHS[HAYSTACK_FAMILIES] = {4096, 1500, 1500, 700};

static void test_text_fits(void **state)
{
    (void)state;
    for (unsigned family = 0; family < HAYSTACK_FAMILIES; family++) {
        struct haystack haystack = make(family, LENGTHS[family], 7);
        unsigned tasks = 0;
        assert_true(haystack.item_count > 2 && haystack.count > LENGTHS[family] / 2);
        for (uint32_t i = 0; i < haystack.item_count; i++) {
            const struct haystack_item *item = &haystack.items[i];
            tasks |= 1u << item->task;
            assert_true(haystack.count + item->question_count + item->answer_tokens <= LENGTHS[family]);
            assert_true(item->depth >= 0 && item->depth < 1 && item->value_count > 0);
        }
        assert_int_equal(tasks, haystack_family_tasks(family));
        haystack_release(&haystack);
    }
}

/* What is asked stands in the text, where the item says. */
static void test_needles_are_there(void **state)
{
    (void)state;
    for (unsigned family = 0; family < HAYSTACK_FAMILIES; family++) {
        struct haystack haystack = make(family, LENGTHS[family], 3);
        char *whole = text_of(haystack.ids, haystack.count);
        for (uint32_t i = 0; i < haystack.item_count; i++) {
            const struct haystack_item *item = &haystack.items[i];
            uint32_t at = (uint32_t)(item->depth * haystack.count + 0.5);
            char *needle = text_of(haystack.ids + at, haystack.count - at < 200 ? haystack.count - at : 200);
            assert_non_null(strstr(needle, item->values[0]));
            for (uint32_t v = 0; v < item->value_count; v++) assert_non_null(strstr(whole, item->values[v]));
            kvasir_free(needle);
        }
        kvasir_free(whole);
        haystack_release(&haystack);
    }
}

static void test_text_follows_from_seed(void **state)
{
    (void)state;
    for (unsigned family = 0; family < HAYSTACK_FAMILIES; family++) {
        struct haystack a = make(family, LENGTHS[family], 5), same = make(family, LENGTHS[family], 5),
                        other = make(family, LENGTHS[family], 6);
        assert_int_equal(a.count, same.count);
        assert_memory_equal(a.ids, same.ids, a.count * sizeof *a.ids);
        assert_int_equal(a.item_count, same.item_count);
        for (uint32_t i = 0; i < a.item_count; i++) {
            assert_string_equal(a.items[i].values[0], same.items[i].values[0]);
            assert_int_equal(a.items[i].question_count, same.items[i].question_count);
            assert_memory_equal(a.items[i].question, same.items[i].question,
                                a.items[i].question_count * sizeof *a.items[i].question);
        }
        assert_true(a.count != other.count || memcmp(a.ids, other.ids, a.count * sizeof *a.ids) != 0);
        haystack_release(&a);
        haystack_release(&same);
        haystack_release(&other);
    }
}

static void test_text_too_short(void **state)
{
    (void)state;
    struct haystack haystack;
    struct error error = {0};
    for (unsigned family = 0; family < HAYSTACK_FAMILIES; family++) {
        assert_int_equal(haystack_make(bytes, family, 60, 1, &haystack, &error), ST_LIMIT);
        assert_non_null(strstr(error.text, "60 tokens"));
        haystack_release(&haystack); /* of one that was not made, too */
    }
}

/* ---- answers --------------------------------------------------------------------------------------------------------- */

static void test_answers(void **state)
{
    (void)state;
    const struct haystack_item one = {.values = {"48213"}, .value_count = 1},
                               two = {.values = {"48213", "10567"}, .value_count = 2},
                               any = {.values = {"48213", "10567"}, .value_count = 2, .any_order = true},
                               name = {.values = {"X4821"}, .value_count = 1},
                               word = {.values = {"candle"}, .value_count = 1};
    const struct {
        const struct haystack_item *item;
        const char *answer;
        bool right;
    } answers[] = {
        {&one, " 48213. The", true},
        {&one, "48213", true},
        {&one, " number 48213", true},
        {&one, " 482134", false},
        {&one, " 4821", false},
        {&one, " 48213b", false},
        {&one, " 48214 or 48213", false},
        {&one, "", false},
        {&two, " 48213, mellow-oven: 10567.", true},
        {&two, " 10567 and 48213", false},
        {&two, " 48213", false},
        {&any, " 10567 and 48213", true},
        {&any, " 48213 and 10567", true},
        {&any, " 48213 and 48213", false},
        {&any, " 48213, 99999, 10567", false},
        {&name, " X4821. What", true},
        {&name, " X48210", false},
        {&name, " 4821", false},
        {&word, " \"candle\"", true},
        {&word, " candles", false},
        {&word, " the candle", false},
    };
    for (size_t i = 0; i < ARRAY_COUNT(answers); i++)
        if (haystack_correct(answers[i].item, answers[i].answer, strlen(answers[i].answer)) != answers[i].right)
            fail_msg("'%s' was judged %s", answers[i].answer, answers[i].right ? "wrong" : "right");
}

/* ---- the evaluation -------------------------------------------------------------------------------------------------- */

static json_t *evaluate(struct kvasir_model *of, const struct eval_retrieval_options *options, struct buffer *plot)
{
    struct buffer out;
    struct error error = {0};
    buffer_init(&out, 0);
    if (eval_retrieval(of, options, EVAL_JSON, &out, plot, &error) != ST_OK) fail_msg("%s", error.text);
    json_t *report = json_loads(out.data, 0, NULL);
    buffer_release(&out);
    assert_non_null(report);
    return report;
}

static json_int_t whole(const json_t *cell, const char *key)
{
    json_t *value = json_object_get(cell, key);
    if (!json_is_integer(value)) fail_msg("%s is no whole number", key);
    return json_integer_value(value);
}

static double real(const json_t *row, const char *key)
{
    json_t *value = json_object_get(row, key);
    if (!json_is_number(value)) fail_msg("%s is no number", key);
    return json_number_value(value);
}

static void check_cells(const json_t *report, const struct eval_retrieval_options *options, size_t tasks)
{
    json_t *cells = json_object_get(report, "cells");
    assert_int_equal(json_array_size(cells), options->length_count * options->budget_count * tasks);
    for (size_t i = 0; i < json_array_size(cells); i++) {
        const json_t *cell = json_array_get(cells, i);
        json_int_t items = whole(cell, "items"), dense = whole(cell, "dense_correct");
        assert_int_equal(json_object_size(cell), 7);
        assert_true(json_is_string(json_object_get(cell, "task")));
        assert_int_equal(whole(cell, "length"), options->lengths[i / (tasks * options->budget_count)]);
        assert_true(real(cell, "budget") == options->budgets[i % options->budget_count]);
        assert_true(items > 0 && dense <= items && whole(cell, "both_correct") <= dense);
        assert_true(whole(cell, "window_correct") <= dense);
        assert_true(dense >= options->items || items >= options->items);
    }
}

/* With all of the budget retrieval is dense attention to the last bit; with less it is not, and says what it has read. */
static void test_evaluation(void **state)
{
    (void)state;
    static const uint32_t lengths[] = {600, 700};
    static const double budgets[] = {0.25, 1};
    struct eval_retrieval_options options = {.lengths = lengths,
                                             .length_count = ARRAY_COUNT(lengths),
                                             .budgets = budgets,
                                             .budget_count = ARRAY_COUNT(budgets),
                                             .items = 3,
                                             .seed = 11,
                                             .tasks = "multi-key,code"};
    struct buffer plot;
    for (unsigned sparse = 0; sparse < 2; sparse++) {
        options.question_sparse = sparse;
        buffer_init(&plot, 0);
        json_t *report = evaluate(bytes, &options, &plot), *again = evaluate(bytes, &options, NULL);
        assert_true(json_equal(report, again));
        check_cells(report, &options, 2);
        assert_string_equal(json_string_value(json_object_get(report, "question")), sparse ? "sparse" : "dense");
        json_t *part = json_array_get(json_object_get(report, "budgets"), 0),
               *all = json_array_get(json_object_get(report, "budgets"), 1);
        assert_true(real(all, "top1_agreement") == 1 && real(all, "mean_kl") == 0 && real(all, "p99_kl") == 0);
        assert_true(real(all, "rows_read") == 1);
        assert_true(real(part, "rows_read") > 0.1 && real(part, "rows_read") <= 0.25);
        assert_true(real(part, "mean_kl") > 0);
        assert_true(real(part, "attention_mass") > 0 && real(part, "attention_mass") < 1);
        assert_true(real(part, "recall_at_k") > 0 && real(part, "recall_at_k") <= 1);
        assert_true(fabs(real(all, "attention_mass") - 1) < 1e-5);
        assert_true(json_is_null(json_object_get(all, "recall_at_k"))); /* nothing is chosen */
        assert_int_equal(json_array_size(json_object_get(part, "heads")), TINY_GGUF_LAYERS);
        assert_true(real(part, "top1_agreement") == real(report, "top1_agreement"));
        assert_true(real(part, "mean_kl") == real(report, "mean_kl"));
        assert_int_equal(strncmp(plot.data, "<svg ", 5), 0);
        assert_string_equal(plot.data + plot.length - 7, "</svg>\n");
        json_decref(report);
        json_decref(again);
        buffer_release(&plot);
    }
}

static void refuse(struct eval_retrieval_options options, const char *why)
{
    static const uint32_t length = 600;
    static const double budget = 0.2;
    struct buffer out;
    struct error error = {0};
    if (!options.lengths) options.lengths = &length;
    if (!options.budgets) options.budgets = &budget;
    options.length_count = options.budget_count = 1;
    buffer_init(&out, 0);
    assert_int_not_equal(eval_retrieval(bytes, &options, EVAL_JSON, &out, NULL, &error), ST_OK);
    if (!strstr(error.text, why)) fail_msg("'%s' does not say '%s'", error.text, why);
    assert_int_equal(out.length, 0);
    buffer_release(&out);
}

static void test_refused(void **state)
{
    (void)state;
    refuse((struct eval_retrieval_options){.items = 0}, "0 items");
    refuse((struct eval_retrieval_options){.items = 1, .tasks = "code,needle"}, "task 'needle'");
    refuse((struct eval_retrieval_options){.items = 1, .lengths = &(uint32_t){100}}, "a length of 100");
    refuse((struct eval_retrieval_options){.items = 1, .budgets = &(double){0}}, "a budget of 0");
    refuse((struct eval_retrieval_options){.items = 1, .budgets = &(double){1.5}}, "a budget of 1.5");
    refuse((struct eval_retrieval_options){.items = 1, .cache.no_kv_cache = true}, "without one");
    refuse((struct eval_retrieval_options){.items = 1, .tasks = "single"}, "600 tokens are too few");
}

/* Single needles in a short text, at a quarter of the rows: for real models. */
static struct eval_retrieval_options short_text(uint32_t items, uint64_t seed)
{
    static const uint32_t length = 1024;
    static const double budget = 0.25;
    return (struct eval_retrieval_options){.lengths = &length,
                                           .length_count = 1,
                                           .budgets = &budget,
                                           .budget_count = 1,
                                           .items = items,
                                           .seed = seed,
                                           .tasks = "single"};
}

/* On a real model the needles are found, and not by the window. */
static void test_real_model(void **state)
{
    (void)state;
    const struct eval_retrieval_options options = short_text(test_count(8, 40), 2);
    char path[512];
    struct kvasir_model *smollm2;
    if (TEST_THREAD_SANITIZED || !test_model_path("smollm2", path, sizeof path)) skip();
    assert_int_equal(kvasir_model_open(path, NULL, &smollm2, NULL), KVASIR_OK);
    json_t *report = evaluate(smollm2, &options, NULL), *cell = json_array_get(json_object_get(report, "cells"), 0);
    check_cells(report, &options, 1);
    assert_true(whole(cell, "dense_correct") >= options.items);
    assert_true(whole(cell, "both_correct") * 10 >= whole(cell, "dense_correct") * 8);
    assert_true(whole(cell, "window_correct") * 5 <= whole(cell, "dense_correct"));
    assert_true(real(report, "attention_mass") > 0.5 && real(report, "attention_mass") < 1);
    assert_true(real(report, "recall_at_k") > 0.3 && real(report, "recall_at_k") < 1);
    json_decref(report);
    kvasir_model_close(smollm2);
}

/* All figures are the same whatever thread computes what: so too where keys have a bias, which all tiles of a layer have in common. */
static void test_same_figures(void **state)
{
    (void)state;
    const struct eval_retrieval_options options = short_text(2, 1);
    char path[512];
    json_t *reports[3];
    if (TEST_THREAD_SANITIZED || !test_model_path("qwen2", path, sizeof path)) skip();
    for (uint32_t i = 0; i < ARRAY_COUNT(reports); i++) {
        struct kvasir_model_options with = {.threads = i + 1};
        struct kvasir_model *qwen2;
        assert_int_equal(kvasir_model_open(path, &with, &qwen2, NULL), KVASIR_OK);
        reports[i] = evaluate(qwen2, &options, NULL);
        assert_true(json_equal(reports[i], reports[0]));
        kvasir_model_close(qwen2);
    }
    for (uint32_t i = 0; i < ARRAY_COUNT(reports); i++) json_decref(reports[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_text_fits),
        cmocka_unit_test(test_needles_are_there),
        cmocka_unit_test(test_text_follows_from_seed),
        cmocka_unit_test(test_text_too_short),
        cmocka_unit_test(test_answers),
        cmocka_unit_test(test_evaluation),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_real_model),
        cmocka_unit_test(test_same_figures),
    };
    return cmocka_run_group_tests(tests, setup_both, teardown_both);
}
