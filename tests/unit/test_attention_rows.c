/* test_attention_rows.c - rows of K and V in every format of the cache: the numbers that codes stand for, how far a written row
 * may be from what was given, and that neither the order of writing nor what lies around leaves a trace. */
#include "kernel/kernel.h"
#include "support.h"

#include <math.h>
#include <string.h>

#define DIM_MAX 200u

static uint64_t seed = 11;

static float uniform(void) /* [-1, 1) */
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (float)((double)(seed >> 11) / (double)(1ull << 52) - 1.0);
}

static float gaussian(void) /* nearly: a sum of twelve uniform numbers of variance 1/3, scaled to 1 */
{
    float sum = 0;
    for (uint32_t i = 0; i < 12; i++) sum += uniform();
    return sum / 2;
}

static const char *const tables[] = {"ref", "avx2", "avxvnni", "avx512", "avx512vnni"};
#define EACH_TABLE(kernel)                                                           \
    for (uint32_t table_index = 0; table_index < ARRAY_COUNT(tables); table_index++) \
        for (const struct kernel *kernel = table(table_index); kernel; kernel = NULL)

static const struct kernel *table(uint32_t index)
{
    const struct kernel *kernel = NULL;
    return kernel_select(tables[index], &kernel, NULL) == ST_OK ? kernel : NULL;
}

static const enum number_format formats[] = {NF_F32, NF_F16, NF_BF16, NF_FP8_E4M3, NF_FP8_E5M2, NF_INT8, NF_INT4};

/* Two groups of K and of V, each an allocation of its own size, of bytes `fill`. */
struct rows {
    enum number_format format;
    uint32_t dim;
    uint64_t k_bytes, v_bytes;
    uint8_t *k, *v;
};

static struct rows rows_open(enum number_format format, uint32_t dim, int fill)
{
    struct rows rows = {.format = format, .dim = dim};
    rows.k_bytes = 2 * kernel_k_group_bytes(format, dim);
    rows.v_bytes = 2 * kernel_v_group_bytes(format, dim);
    rows.k = malloc(rows.k_bytes);
    rows.v = malloc(rows.v_bytes);
    assert_true(rows.k && rows.v);
    memset(rows.k, fill, rows.k_bytes);
    memset(rows.v, fill, rows.v_bytes);
    return rows;
}

static void rows_close(struct rows *rows)
{
    free(rows->k);
    free(rows->v);
}

static void rows_write(const struct kernel *kernel, struct rows *rows, uint32_t slot, uint32_t count, const float *from)
{
    kernel->kv_write(rows->format, rows->format, rows->k, rows->v, slot, count, from, rows->dim, rows->dim, from,
                     rows->dim, rows->dim);
}

/* The row of slot `slot`, which must be the same in K and in V; K that closes is not written so. */
static void rows_read(const struct rows *rows, uint32_t slot, float *out)
{
    float v[DIM_MAX];
    kernel_v_row_decode(rows->format, rows->v, slot, rows->dim, out);
    if (kernel_k_closes(rows->format)) return;
    kernel_k_row_decode(rows->format, rows->k, slot, rows->dim, v);
    assert_memory_equal(out, v, rows->dim * sizeof *v);
}

static double largest_of(const float *row, uint32_t count)
{
    double largest = 0;
    for (uint32_t i = 0; i < count; i++) largest = fmax(largest, fabs(row[i]));
    return largest;
}

/* What an element may be off by; f16 scales are at most 2^-10 above what the largest element asks for, or 2^-24. */
static double error_max(enum number_format format, double x, double largest)
{
    const double more = 1 + 0x1p-10, least = 0x1p-24;
    switch (format) {
    case NF_F32:
        return 0;
    case NF_F16:
        return fmax(fabs(x) * 0x1p-11, 0x1p-25);
    case NF_BF16:
        return fabs(x) * 0x1p-8;
    case NF_FP8_E4M3:
        return fmax(fabs(x) * 0x1p-4, 0x1p-10 * (1.4 * largest / 448 * more + least)) * (1 + 1e-6);
    case NF_FP8_E5M2:
        return fmax(fabs(x) * 0x1p-3, 0x1p-17 * (largest / 1.75 * more + least)) * (1 + 1e-6);
    case NF_INT8:
        return 0.5 * (largest / 127 * more + least) * (1 + 1e-6);
    default: /* half the widest step of the levels, or what a scale of 0.75 of the largest leaves out of it */
        return 0.38 * largest + 127 * least;
    }
}

static void test_round_trip(void **unused)
{
    (void)unused;
    static const uint32_t dims[] = {64, 1, 2, 3, 7, 17, 65, 66, 80, 96, 130, 199};
    static const float sizes[] = {1, 1e-4f, 300, 1e-7f, 0};
    float row[DIM_MAX], read[DIM_MAX];
    EACH_TABLE(kernel)
    for (uint32_t f = 0; f < ARRAY_COUNT(formats); f++)
        for (uint32_t i = 0; i < ARRAY_COUNT(dims) * ARRAY_COUNT(sizes); i++) {
            struct rows rows = rows_open(formats[f], dims[i % ARRAY_COUNT(dims)], 0xFF);
            for (uint32_t slot = 0; slot < 32; slot += 5) {
                for (uint32_t d = 0; d < rows.dim; d++) row[d] = gaussian() * sizes[i / ARRAY_COUNT(dims)];
                rows_write(kernel, &rows, slot, 1, row);
                rows_read(&rows, slot, read);
                double largest = largest_of(row, rows.dim);
                for (uint32_t d = 0; d < rows.dim; d++)
                    if (!(fabs((double)read[d] - row[d]) <= error_max(rows.format, row[d], largest)))
                        fail_msg("%s: %s: %.9g of a row of at most %g, dim %u, is read as %.9g", kernel->name,
                                 number_format_info(rows.format)->name, row[d], largest, rows.dim, read[d]);
            }
            rows_close(&rows);
        }
}

/* Mean squared errors of Gaussian rows of 64: what the best scale and levels leave. */
static void test_mean_errors(void **unused)
{
    (void)unused;
    static const double most[] = {0, 1e-7, 4e-6, 4.8e-4, 4e-3, 5e-5, 7e-3};
    float row[64], read[64];
    EACH_TABLE(kernel)
    for (uint32_t f = 0; f < ARRAY_COUNT(formats); f++) {
        struct rows rows = rows_open(formats[f], 64, 0);
        double sum = 0;
        const uint32_t count = 300;
        seed = 5;
        for (uint32_t i = 0; i < count; i++) {
            for (uint32_t d = 0; d < 64; d++) row[d] = gaussian();
            rows_write(kernel, &rows, i % 32, 1, row);
            rows_read(&rows, i % 32, read);
            for (uint32_t d = 0; d < 64; d++) sum += ((double)read[d] - row[d]) * ((double)read[d] - row[d]);
        }
        if (getenv("KVASIR_TEST_VERBOSE"))
            print_message("%-10s %-8s %.3g\n", kernel->name, number_format_info(formats[f])->name, sum / count / 64);
        assert_true(sum / count / 64 <= most[f]);
        rows_close(&rows);
    }
}

/* Codes by themselves, with a scale of 1. */
static void test_codes(void **unused)
{
    (void)unused;
    static const struct {
        enum number_format format;
        uint8_t code;
        float value;
    } cases[] = {
        {NF_FP8_E4M3, 0x7E, 448},     {NF_FP8_E4M3, 0xFE, -448},
        {NF_FP8_E4M3, 0x38, 1},       {NF_FP8_E4M3, 0x39, 1.125f},
        {NF_FP8_E4M3, 0x08, 0x1p-6f}, {NF_FP8_E4M3, 0x01, 0x1p-9f},
        {NF_FP8_E4M3, 0x00, 0},       {NF_FP8_E4M3, 0x87, -7 * 0x1p-9f},
        {NF_FP8_E5M2, 0x7B, 57344},   {NF_FP8_E5M2, 0xBC, -1},
        {NF_FP8_E5M2, 0x3D, 1.25f},   {NF_FP8_E5M2, 0x01, 0x1p-16f},
        {NF_INT8, 0x7F, 127},         {NF_INT8, 0x81, -127},
        {NF_INT8, 0xFF, -1},
    };
    for (uint32_t i = 0; i < ARRAY_COUNT(cases); i++) {
        struct rows rows = rows_open(cases[i].format, 1, 0);
        float read;
        for (uint32_t token = 0; token < 16; token++) rows.v[2 * token + 1] = 0x3C;
        memset(rows.v + 32, cases[i].code, 16);
        if (kernel_k_closes(cases[i].format)) {
            memset(rows.k, cases[i].code, 16);
            rows.k[17] = 0x3C; /* the channel's scale; its middle is 0 */
            kernel_k_row_decode(cases[i].format, rows.k, i % 16, 1, &read);
            assert_true(read == cases[i].value);
        } else {
            memcpy(rows.k, rows.v, 48);
        }
        for (uint32_t token = 0; token < 16; token++) {
            rows_read(&rows, token, &read);
            assert_true(read == cases[i].value);
        }
        rows_close(&rows);
    }
}

/* Elements of a row whose scale is 1: ties go to the even neighbour, in subnormal numbers too. */
static void test_rounds_to_nearest_even(void **unused)
{
    (void)unused;
    static const float e4m3[][2] = {{448, 448},
                                    {1.0625f, 1},
                                    {1.1875f, 1.25f},
                                    {-1.06251f, -1.125f},
                                    {0x1p-10f, 0},
                                    {3 * 0x1p-10f, 0x1p-8f},
                                    {0x1.01p-10f, 0x1p-9f},
                                    {15 * 0x1p-10f, 0x1p-6f},
                                    {-416, -416},
                                    {0, 0}};
    static const float e5m2[][2] = {{1.75f, 1.75f},
                                    {1.125f, 1},
                                    {1.375f, 1.5f},
                                    {-0x1p-17f, 0},
                                    {3 * 0x1p-17f, 0x1p-15f},
                                    {0x1.Cp-14f, 0x1.Cp-14f},
                                    {-0x1.21p-3f, -0x1.4p-3f},
                                    {7 * 0x1p-17f, 0x1p-14f}};
    static const float int8[][2] = {{127, 127}, {0.5f, 0}, {1.5f, 2}, {-2.5f, -2}, {-126.6f, -127}, {0.49f, 0}};
    static const struct {
        enum number_format format;
        const float (*pairs)[2];
        uint32_t count;
    } cases[] = {{NF_FP8_E4M3, e4m3, ARRAY_COUNT(e4m3)},
                 {NF_FP8_E5M2, e5m2, ARRAY_COUNT(e5m2)},
                 {NF_INT8, int8, ARRAY_COUNT(int8)}};
    EACH_TABLE(kernel)
    for (uint32_t i = 0; i < ARRAY_COUNT(cases); i++) {
        struct rows rows = rows_open(cases[i].format, cases[i].count, 0);
        float row[16], read[16];
        for (uint32_t d = 0; d < rows.dim; d++) row[d] = cases[i].pairs[d][0];
        rows_write(kernel, &rows, 19, 1, row);
        rows_read(&rows, 19, read);
        for (uint32_t d = 0; d < rows.dim; d++)
            if (read[d] != cases[i].pairs[d][1])
                fail_msg("%s: %s: %a is read as %a, not %a", kernel->name, number_format_info(rows.format)->name,
                         row[d], read[d], cases[i].pairs[d][1]);
        rows_close(&rows);
    }
}

/* What a format cannot hold becomes its largest number; other elements of the row stay numbers. */
static void test_saturates(void **unused)
{
    (void)unused;
    static const double most[] = {0, 65504, 0x1.FEp127, 448 * 65504.0, 1.75 * 65504, 127 * 65504.0, 127 * 65504.0};
    EACH_TABLE(kernel)
    for (uint32_t f = 1; f < ARRAY_COUNT(formats); f++) {
        struct rows rows = rows_open(formats[f], 5, 0);
        const float row[5] = {3.4e38f, -3.4e38f, 1, 0, -1};
        float read[5];
        rows_write(kernel, &rows, 3, 1, row);
        rows_read(&rows, 3, read);
        assert_true(read[0] <= most[f] * (1 + 1e-6) && read[0] > most[f] * 0.8);
        assert_true(read[1] >= -most[f] * (1 + 1e-6) && read[1] < -most[f] * 0.8);
        for (uint32_t d = 2; d < 5; d++) assert_true(isfinite(read[d]));
        rows_close(&rows);
    }
}

/* Rows written one at a time, the last first, and over other rows: the bytes of one call. */
static void test_order_of_writing_leaves_no_trace(void **unused)
{
    (void)unused;
    static const uint32_t dims[] = {64, 5, 30, 67};
    float *from = malloc(32 * DIM_MAX * sizeof *from);
    assert_non_null(from);
    for (uint32_t i = 0; i < 32 * DIM_MAX; i++) from[i] = gaussian();
    EACH_TABLE(kernel)
    for (uint32_t f = 0; f < ARRAY_COUNT(formats); f++)
        for (uint32_t i = 0; i < ARRAY_COUNT(dims); i++) {
            struct rows once = rows_open(formats[f], dims[i], 0x5A), other = rows_open(formats[f], dims[i], 0x5A);
            rows_write(kernel, &once, 0, 32, from);
            rows_write(kernel, &other, 0, 31, from + 1);
            for (uint32_t slot = 32; slot--;) rows_write(kernel, &other, slot, 1, from + (uint64_t)slot * dims[i]);
            assert_memory_equal(once.k, other.k, once.k_bytes);
            assert_memory_equal(once.v, other.v, once.v_bytes);
            for (uint64_t at = 0; kernel_k_closes(formats[f]) && at < once.k_bytes; at++)
                assert_int_equal(once.k[at], 0x5A); /* only V is written */
            rows_close(&once);
            rows_close(&other);
        }
    free(from);
}

/* ---- K, closed --------------------------------------------------------------------------------------------------- */

static const enum number_format closing[] = {NF_INT4, NF_FP8_E4M3};

/* Closes `from` [32][dim] into a pair of groups; the numbers that f16 made of it into `exact` and what is read into `read`,
 * both [32][dim]. Bytes of the pair that are left alone have the value `fill`. */
static uint8_t *close_rows(const struct kernel *kernel, enum number_format format, const float *from, uint32_t dim,
                           int fill, float *exact, float *read)
{
    const uint64_t bytes = 2 * kernel_k_group_bytes(format, dim), exact_bytes = 2 * kernel_k_group_bytes(NF_F16, dim);
    uint8_t *pair = malloc(bytes), *groups = malloc(exact_bytes), none = 0;
    assert_true(pair && groups);
    memset(pair, fill, bytes);
    kernel->kv_write(NF_F16, NF_F16, groups, &none, 0, KERNEL_CLOSED_TOKENS, from, dim, dim, from, 0, 0);
    kernel->k_close(format, pair, groups, dim);
    for (uint32_t slot = 0; slot < KERNEL_CLOSED_TOKENS; slot++) {
        kernel_k_row_decode(NF_F16, groups, slot, dim, exact + (uint64_t)slot * dim);
        kernel_k_row_decode(format, pair, slot, dim, read + (uint64_t)slot * dim);
    }
    free(groups);
    return pair;
}

/* The nearest e4m3 number. */
static double e4m3_nearest(double x)
{
    const double size = fmin(fabs(x), 448);
    const int exponent = size < 0x1p-6 ? -6 : ilogb(size);
    return copysign(ldexp(rint(ldexp(size, 3 - exponent)), exponent - 3), x);
}

/* The squared error of one channel, and what a simple choice would leave: codes over its whole range (int4), or the scale for which its
 * largest number less the mean is e4m3's largest; of f16 numbers. */
static double channel_error(enum number_format format, const float *exact, const float *read, uint32_t dim,
                            double *simple)
{
    float low = exact[0], high = exact[0], mean = 0;
    double sum = 0;
    for (uint32_t i = 0; i < KERNEL_CLOSED_TOKENS; i++) {
        low = fminf(low, exact[(uint64_t)i * dim]);
        high = fmaxf(high, exact[(uint64_t)i * dim]);
        mean += exact[(uint64_t)i * dim];
    }
    mean = f16_to_f32(f16_from_f32(mean / (float)KERNEL_CLOSED_TOKENS));
    const float range = format == NF_INT4 ? (high - low) / 15 : fmaxf(high - mean, mean - low) / 448;
    const float step = fmaxf(f16_to_f32(f16_from_f32(range)), 0x1p-24f);
    *simple = 0;
    for (uint32_t i = 0; i < KERNEL_CLOSED_TOKENS; i++) {
        const double x = exact[(uint64_t)i * dim], off = read[(uint64_t)i * dim] - x;
        const double number = format == NF_INT4 ? low + fmin(rint((x - low) / step), 15) * step
                                                : mean + e4m3_nearest((x - mean) / step) * step;
        sum += off * off;
        *simple += (number - x) * (number - x);
    }
    return low < high ? sum : (assert_true(sum == 0), *simple = 0);
}

/* Channels of all sizes, some far from zero: no channel is worse than without a search, on the mean they are better, and
 * all tables write the same bytes, each of them. */
static void closed_errors(enum number_format format, double part_most, double error_most)
{
    static const uint32_t dims[] = {64, 1, 2, 3, 7, 17, 65, 66, 80, 130, 199};
    static const float sizes[] = {1, 1e-4f, 900, 3e-7f, 1}, middles[] = {0, 0, -3000, 0, 40};
    static float from[32 * DIM_MAX], exact[32 * DIM_MAX], read[32 * DIM_MAX], bound[32 * DIM_MAX];
    double sum = 0, simple_sum = 0;
    uint32_t channels = 0;
    for (uint32_t i = 0; i < ARRAY_COUNT(dims); i++) {
        const uint32_t dim = dims[i];
        const uint64_t bytes = 2 * kernel_k_group_bytes(format, dim);
        uint8_t *first = NULL;
        for (uint32_t at = 0; at < 32 * dim; at++) from[at] = gaussian() * sizes[at % dim % 5] + middles[at % dim % 5];
        EACH_TABLE(kernel)
        {
            uint8_t *pair =
                close_rows(kernel, format, from, dim, 0x5A + (int)table_index, exact, table_index ? bound : read);
            if (first) assert_memory_equal(first, pair, bytes);
            if (!first)
                first = pair;
            else
                free(pair);
        }
        free(first);
        for (uint32_t d = 0; d < dim; d++) {
            double simple, error = channel_error(format, exact + d, read + d, dim, &simple);
            assert_true(error <= simple * 1.00001 + 1e-20);
            if (d % 5) continue;
            sum += error / 32;
            simple_sum += simple / 32;
            channels++;
        }
    }
    if (getenv("KVASIR_TEST_VERBOSE"))
        print_message("closed %s: %.4g of %.4g, %.4g a number\n", number_format_info(format)->name, sum, simple_sum,
                      sum / channels);
    assert_true(sum < part_most * simple_sum);
    assert_true(sum / channels < error_most);
}

static void test_closed_errors(void **unused)
{
    (void)unused;
    closed_errors(NF_INT4, 0.92, 1.3e-2);
    closed_errors(NF_FP8_E4M3, 0.7, 4.5e-4);
}

static void test_closed_exactly(void **unused)
{
    (void)unused;
    enum { DIM = 7 };
    float from[32 * DIM], exact[32 * DIM], read[32 * DIM];
    for (uint32_t i = 0; i < 32; i++) {
        float *row = from + (uint64_t)i * DIM;
        row[0] = (float)(i % 16) * 0.5f - 3; /* 16 levels */
        row[1] = (float)(i * 7 % 16) * 0x1p-24f;
        row[2] = -700.5f; /* the same for all tokens */
        row[3] = i % 2 ? 0x1p-24f : 0;
        row[4] = 0;
        row[5] = i == 20 ? 3.4e38f : -3.4e38f; /* both saturate */
        row[6] = (float)(i * 5 % 16) * -1024;
    }
    EACH_TABLE(kernel)
    for (uint32_t f = 0; f < ARRAY_COUNT(closing); f++) {
        free(close_rows(kernel, closing[f], from, DIM, 0xFF, exact, read));
        for (uint32_t i = 0; i < 32 * DIM; i++)
            if (i % DIM == 5)
                assert_true(fabsf(read[i] - exact[i]) <= 65504 * (closing[f] == NF_INT4 ? 0.001f : 0.07f));
            else if (closing[f] == NF_FP8_E4M3 && i % DIM != 2 && i % DIM != 4)
                continue; /* 16 levels are no e4m3 numbers */
            else if (read[i] != exact[i])
                fail_msg("%s: %s: %a in channel %u is read as %a", kernel->name, number_format_info(closing[f])->name,
                         exact[i], i % DIM, read[i]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_codes),         cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_mean_errors),   cmocka_unit_test(test_rounds_to_nearest_even),
        cmocka_unit_test(test_saturates),     cmocka_unit_test(test_order_of_writing_leaves_no_trace),
        cmocka_unit_test(test_closed_errors), cmocka_unit_test(test_closed_exactly),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
