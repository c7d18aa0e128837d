/* test_roofline.c - limits from given work and machines, by the formulas of docs/roofline.md, and the work of a benchmark's
 * tests; measured figures are only held against floors that no machine misses. */
#include "eval/roofline.h"
#include "support.h"
#include <math.h>

static struct kvasir_model *model;

static int setup(void **state)
{
    (void)state;
    char path[512];
    struct kvasir_error error;
    snprintf(path, sizeof path, "%s/tiny/llama", TEST_DATA);
    return kvasir_model_open(path, &(struct kvasir_model_options){.threads = 2}, &model, &error);
}

static int teardown(void **state)
{
    (void)state;
    kvasir_model_close(model);
    return 0;
}

static void assert_close(double value, double expected)
{
    if (!(fabs(value - expected) <= 1e-12 * fabs(expected))) fail_msg("%.17g is not %.17g", value, expected);
}

static void test_limits(void **state)
{
    (void)state;
    const struct roofline_machine machine = {
        .int8_macs_per_s = 400, .int16_macs_per_s = 200, .f32_macs_per_s = 100, .read_bytes_per_s = 50};
    const struct roofline_machine tiles = {
        .int8_macs_per_s = 400, .tile_macs_per_s = 1600, .f32_macs_per_s = 100, .read_bytes_per_s = 50};
    const struct roofline_machine no_integers = {.f32_macs_per_s = 100, .read_bytes_per_s = 50};
    const struct roofline_machine no_loops = {.read_bytes_per_s = 50};
    const struct {
        struct roofline_cell cell;
        double limit;
    } cases[] = {
        {{.int8_macs = 800, .f32_macs = 300, .bytes = 10, .machine = machine}, 1 / (800.0 / 400 + 300.0 / 100)},
        {{.int8_macs = 800, .f32_macs = 300, .bytes = 10, .machine = tiles}, 1 / (800.0 / 1600 + 300.0 / 100)},
        {{.int8_macs = 800, .f32_macs = 300, .bytes = 400, .machine = machine}, 50.0 / 400}, /* a short prompt */
        {{.f32_macs = 300, .bytes = 10, .machine = machine}, 100.0 / 300},
        {{.f32_macs = 300, .bytes = 10, .machine = no_integers}, 100.0 / 300}, /* float weights need no int8 peak */
        {{.int8_macs = 1, .f32_macs = 300, .bytes = 10, .machine = no_integers}, 0},
        /* attention: in 16 bits, in f32, and both */
        {{.int8_macs = 800, .attention_macs = 600, .attention_int16_macs = 600, .bytes = 10, .machine = machine},
         1 / (800.0 / 400 + 600.0 / 200)},
        {{.int8_macs = 800, .attention_macs = 600, .bytes = 10, .machine = machine}, 1 / (800.0 / 400 + 600.0 / 100)},
        {{.f32_macs = 300, .attention_macs = 600, .attention_int16_macs = 400, .bytes = 10, .machine = machine},
         1 / (300.0 / 100 + 400.0 / 200 + 200.0 / 100)},
        {{.attention_macs = 600, .bytes = 10, .machine = no_integers}, 100.0 / 600},
        {{.attention_macs = 600, .attention_int16_macs = 1, .bytes = 10, .machine = no_integers}, 0},
        {{.int8_macs = 1, .f32_macs = 1, .bytes = 10, .machine = no_loops}, 0},
        {{.decode = true, .int8_macs = 800, .f32_macs = 300, .bytes = 10, .machine = machine}, 50.0 / 10},
        {{.decode = true, .int8_macs = 800, .f32_macs = 300, .bytes = 10, .machine = no_loops}, 50.0 / 10},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) assert_close(roofline_limit(&cases[i].cell), cases[i].limit);
}

/* The tiny llama: 557,056 weights in layers and 65,536 in the output matrix, bf16; 4 x 8 heads x 32 multiply-adds and 4 x 128
 * bytes of f16 a key. */
static void test_cells(void **state)
{
    (void)state;
    struct roofline roofline;
    struct roofline_cell cell;
    struct error error = {0};
    if (roofline_init(&roofline, model, NULL, &error) != ST_OK) fail_msg("%s", error.text);
    for (size_t i = 0; i < ROOFLINE_SIZES; i++) {
        assert_true(roofline.read_bytes_per_s[i] > 1e7);
        assert_true(i == 0 || roofline.read_bytes[i] > roofline.read_bytes[i - 1]);
    }
    roofline_prefill(&roofline, 10, &cell); /* 55 keys; one row of logits; the weights once */
    assert_false(cell.decode);
    assert_close(cell.int8_macs, 0);
    assert_close(cell.f32_macs, (10 * 557056 + 65536) / 10.0);
    assert_close(cell.attention_macs, 55 * 1024 / 10.0);
    assert_close(cell.attention_int16_macs, 55 * 1024 / 10.0);
    assert_close(cell.bytes, 2 * (557056 + 65536) / 10.0);
    assert_int_equal(cell.working_set, 2 * (557056 + 65536));
    roofline_decode(&roofline, 40, 3, &cell); /* 41, 42 and 43 keys, 42 on the average */
    assert_true(cell.decode);
    assert_close(cell.f32_macs, 557056 + 65536);
    assert_close(cell.attention_macs, 42 * 1024);
    assert_close(cell.attention_int16_macs, 42 * 1024);
    assert_close(cell.bytes, 2 * (557056 + 65536) + 42 * 512);
    for (uint32_t i = 1; i <= 2; i++) {
        assert_int_equal(roofline_measure(&roofline, &cell, &error), ST_OK);
        assert_int_equal(cell.measurements, i);
        assert_true(cell.machine.read_bytes_per_s > 1e7);
        assert_close(cell.limit_tokens_per_s, cell.machine.read_bytes_per_s / cell.bytes);
        const bool has_loops = strcmp(model_kernel(roofline.model)->name, "ref") != 0;
        assert_true((cell.machine.int8_macs_per_s > 1e8) == has_loops);
        assert_true((cell.machine.int16_macs_per_s > 1e8) == has_loops);
        assert_true((cell.machine.f32_macs_per_s > 1e8) == has_loops);
    }
    roofline_release(&roofline);
    if (roofline_init(&roofline, model, "f32", &error) != ST_OK) fail_msg("%s", error.text);
    roofline_prefill(&roofline, 10, &cell);
    assert_close(cell.attention_macs, 55 * 1024 / 10.0);
    assert_close(cell.attention_int16_macs, 0);
    roofline_release(&roofline);
}

static void test_refused(void **state)
{
    (void)state;
    struct roofline roofline;
    struct error error = {0};
    assert_int_equal(roofline_init(&roofline, model, "f9", &error), ST_INVALID);
    assert_non_null(strstr(error.text, "f9"));
    char path[512];
    struct kvasir_model *vocabulary;
    snprintf(path, sizeof path, "%s/tiny/llama", TEST_DATA);
    assert_int_equal(
        kvasir_model_open(path, &(struct kvasir_model_options){.vocabulary_only = true}, &vocabulary, NULL), KVASIR_OK);
    assert_int_equal(roofline_init(&roofline, vocabulary, NULL, &error), ST_INVALID);
    assert_non_null(strstr(error.text, "vocabulary only"));
    kvasir_model_close(vocabulary);
}

/* No memory for any one of its allocations: an error, and nothing is left. */
static void test_no_memory(void **state)
{
    (void)state;
    struct roofline roofline;
    struct error error = {0};
    enum status status = ST_NOMEM;
    for (uint64_t nth = 1; status != ST_OK; nth++) {
        fault_arm(FAULT_ALLOC, nth);
        status = roofline_init(&roofline, model, NULL, &error);
        fault_arm(FAULT_NONE, 0);
        assert_true(status == ST_OK || status == ST_NOMEM);
        assert_in_range(nth, 1, 20);
    }
    struct roofline_cell cell;
    roofline_decode(&roofline, 1, 1, &cell);
    fault_arm(FAULT_ALLOC, 1);
    assert_int_equal(roofline_measure(&roofline, &cell, &error), ST_NOMEM);
    fault_arm(FAULT_NONE, 0);
    assert_int_equal(cell.measurements, 0);
    roofline_release(&roofline);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_cells),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
