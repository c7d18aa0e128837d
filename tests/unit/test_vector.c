/* test_vector.c - norm, rope, Hadamard transform, activations and add of every instruction set this machine runs, against double precision
 * within stated bounds; odd counts, with what lies after the last element left alone; a lane's result the same in a
 * whole vector and in a partial one. */
#include "kernel/kernel.h"
#include "support.h"

#include <math.h>
#include <string.h>

#define COUNT_MAX 300u
#define GUARD 12345.0f

static uint64_t seed = 3;

static void fill(float *x, uint32_t count, float size)
{
    for (uint32_t i = 0; i < count; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        x[i] = size * (float)((double)(seed >> 11) / (double)(1ull << 52) - 1.0);
    }
    x[count] = GUARD;
}

static const struct kernel *table(uint32_t index)
{
    static const char *const names[] = {"ref", "avx2", "avx512"};
    const struct kernel *kernel = NULL;
    return kernel_select(names[index], &kernel, NULL) == ST_OK ? kernel : NULL;
}
#define EACH_TABLE(kernel)                                         \
    for (uint32_t table_index = 0; table_index < 3; table_index++) \
        for (const struct kernel *kernel = table(table_index); kernel; kernel = NULL)

/* |value - exact| within `relative` of |exact|, or within `absolute`. */
static void expect_near(const struct kernel *kernel, const char *what, uint32_t index, float value, double exact,
                        double relative, double absolute)
{
    if (!(fabs(value - exact) <= fmax(relative * fabs(exact), absolute)))
        fail_msg("%s: %s element %u is %.9g, not %.9g", kernel->name, what, index, value, exact);
}

static void test_rms_norm(void **unused)
{
    (void)unused;
    float x[COUNT_MAX + 1], weight[COUNT_MAX + 1], out[COUNT_MAX + 1];
    EACH_TABLE(kernel)
    for (uint32_t count = 1; count <= COUNT_MAX; count++) {
        fill(x, count, 5);
        fill(weight, count, 2);
        out[count] = GUARD;
        kernel->rms_norm(x, weight, 1e-5f, count, out);
        double sum = 0;
        for (uint32_t i = 0; i < count; i++) sum += (double)x[i] * x[i];
        double factor = 1 / sqrt(sum / count + 1e-5f);
        for (uint32_t i = 0; i < count; i++)
            expect_near(kernel, "rms_norm", i, out[i], x[i] * factor * weight[i], 3e-6, 1e-30);
        assert_true(out[count] == GUARD);
        kernel->rms_norm(x, weight, 1e-5f, count, x); /* in place: the same */
        assert_memory_equal(x, out, count * sizeof *x);
    }
}

static void test_rope(void **unused)
{
    (void)unused;
    float head[COUNT_MAX + 1], turned[COUNT_MAX + 1], cosines[COUNT_MAX + 1], sines[COUNT_MAX + 1];
    EACH_TABLE(kernel)
    for (uint32_t dim = 2; dim <= COUNT_MAX; dim += 2)
        for (uint32_t neighbours = 0; neighbours < 2; neighbours++) {
            fill(head, dim, 3);
            fill(cosines, dim / 2, 1);
            for (uint32_t i = 0; i < dim / 2; i++) sines[i] = sqrtf(1 - cosines[i] * cosines[i]);
            memcpy(turned, head, sizeof head);
            kernel->rope(turned, cosines, sines, dim, neighbours);
            for (uint32_t i = 0; i < dim / 2; i++) {
                uint32_t a = neighbours ? 2 * i : i, b = neighbours ? a + 1 : i + dim / 2;
                double x = head[a], y = head[b];
                expect_near(kernel, "rope", a, turned[a], x * cosines[i] - y * sines[i], 0, 1e-6);
                expect_near(kernel, "rope", b, turned[b], x * sines[i] + y * cosines[i], 0, 1e-6);
            }
            assert_true(turned[dim] == GUARD);
        }
}

/* Every table gives ref's bits; ref is compared with the sum over a block of the signs (-1)^(ones of row & column). */
static void test_hadamard(void **unused)
{
    (void)unused;
    float row[COUNT_MAX + 1], first[COUNT_MAX + 1], turned[COUNT_MAX + 1];
    EACH_TABLE(kernel)
    for (uint32_t count = 1; count <= COUNT_MAX; count++) {
        const uint32_t size = count & (~count + 1);
        fill(row, count, 3);
        memcpy(turned, row, sizeof row);
        memcpy(first, row, sizeof row);
        kernel->hadamard(turned, count);
        table(0)->hadamard(first, count);
        assert_memory_equal(turned, first, count * sizeof *row);
        assert_true(turned[count] == GUARD);
        for (uint32_t i = 0; i < count; i++) {
            double sum = 0;
            for (uint32_t j = 0; j < size; j++)
                sum += (__builtin_popcount(i % size & j) % 2 ? -1.0 : 1.0) * row[i - i % size + j];
            expect_near(kernel, "hadamard", i, turned[i], sum / sqrt(size), 0, 4e-6);
        }
        kernel->hadamard(turned, count);
        for (uint32_t i = 0; i < count; i++) expect_near(kernel, "hadamard twice", i, turned[i], row[i], 0, 4e-6);
    }
}

static double silu(double x)
{
    return x / (1 + exp(-x));
}

static double gelu(double x)
{
    return x / (1 + exp(-2 * sqrt(2 / acos(-1)) * (x + 0.044715 * x * x * x)));
}

struct activation {
    const char *name;
    double (*exact)(double x);
    bool gelu;
};

static void test_activations(void **unused)
{
    (void)unused;
    static const struct activation activations[] = {{"silu_mul", silu, false}, {"gelu_mul", gelu, true}};
    float gate[COUNT_MAX + 1], up[COUNT_MAX + 1], out[COUNT_MAX + 1];
    EACH_TABLE(kernel)
    for (uint32_t which = 0; which < ARRAY_COUNT(activations); which++)
        for (uint32_t count = 1; count <= COUNT_MAX; count++) {
            const struct activation *activation = &activations[which];
            fill(gate, count, count % 7 ? 9 : 120);
            fill(up, count, 2);
            out[count] = GUARD;
            (activation->gelu ? kernel->gelu_mul : kernel->silu_mul)(gate, up, count, out);
            for (uint32_t i = 0; i < count; i++)
                expect_near(kernel, activation->name, i, out[i], activation->exact(gate[i]) * up[i], 6e-6, 1.2e-6);
            assert_true(out[count] == GUARD);
            if (table_index == 0) continue; /* ref's lanes are the compiler's affair */
            float alone;
            (activation->gelu ? kernel->gelu_mul : kernel->silu_mul)(gate + count - 1, up + count - 1, 1, &alone);
            assert_memory_equal(&alone, out + count - 1, sizeof alone);
        }
}

/* Large gates saturate; a NaN is not lost. */
static void test_activation_limits(void **unused)
{
    (void)unused;
    const float gate[] = {0, 1000, -1000, 3e38f, -3e38f, NAN}, up[] = {1, 1, 1, 1, 1, 1};
    float silu_out[6], gelu_out[6];
    EACH_TABLE(kernel)
    {
        kernel->silu_mul(gate, up, 6, silu_out);
        kernel->gelu_mul(gate, up, 6, gelu_out);
        assert_true(silu_out[0] == 0 && silu_out[1] == 1000 && silu_out[3] == 3e38f);
        assert_true(gelu_out[0] == 0 && gelu_out[1] == 1000 && gelu_out[3] == 3e38f);
        assert_true(fabsf(silu_out[2]) < 1e-30f && fabsf(gelu_out[2]) < 1e-30f);
        assert_true(isnan(silu_out[5]) && isnan(gelu_out[5]));
    }
}

static void test_add(void **unused)
{
    (void)unused;
    float x[COUNT_MAX + 1], y[COUNT_MAX + 1], sum[COUNT_MAX + 1];
    EACH_TABLE(kernel)
    for (uint32_t count = 1; count <= COUNT_MAX; count++) {
        fill(x, count, 3);
        fill(y, count, 3);
        for (uint32_t i = 0; i < count; i++) sum[i] = x[i] + y[i];
        kernel->add(x, y, count);
        assert_memory_equal(x, sum, count * sizeof *x);
        assert_true(x[count] == GUARD);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rms_norm),          cmocka_unit_test(test_rope),
        cmocka_unit_test(test_hadamard),          cmocka_unit_test(test_activations),
        cmocka_unit_test(test_activation_limits), cmocka_unit_test(test_add),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
