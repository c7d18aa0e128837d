/* vector_simd.h - norm, rope, Hadamard transform, activations and add, written once in the vector operations of simd_*.h. vector_avx2.c and
 * vector_avx512.c each include it, with VECTOR_NAME(function) giving the names of their table. Every lane's arithmetic
 * is the same in a whole vector and in a row's partial last one; rms_norm's sum depends on `count` alone. */
#include "kernel/kernel_internal.h"
#include "kernel/simd_math.h"

#include <math.h>

/* Lanes that are left of `count` at `i`. */
SIMD_INLINE uint32_t lanes_left(uint32_t count, uint32_t i)
{
    return count - i < SIMD_LANES ? count - i : SIMD_LANES;
}

void VECTOR_NAME(rms_norm)(const float *x, const float *weight, float eps, uint32_t count, float *out)
{
    simd sums[4] = {simd_set(0), simd_set(0), simd_set(0), simd_set(0)};
    uint32_t i = 0;
    for (; i + 4 * SIMD_LANES <= count; i += 4 * SIMD_LANES)
#pragma GCC unroll 4
        for (uint32_t j = 0; j < 4; j++) {
            simd part = simd_load(x + i + j * SIMD_LANES);
            sums[j] = simd_fma(part, part, sums[j]);
        }
    for (; i < count; i += SIMD_LANES) {
        simd part = simd_load_first(x + i, lanes_left(count, i));
        sums[0] = simd_fma(part, part, sums[0]);
    }
    float sum = simd_sum(simd_add(simd_add(sums[0], sums[1]), simd_add(sums[2], sums[3])));
    simd factor = simd_set(1.0f / sqrtf(sum / (float)count + eps));
    for (i = 0; i < count; i += SIMD_LANES) {
        uint32_t lanes = lanes_left(count, i);
        simd scaled = simd_mul(simd_load_first(x + i, lanes), factor);
        simd_store_first(out + i, lanes, simd_mul(scaled, simd_load_first(weight + i, lanes)));
    }
}

/* (x, y) turned by the angle whose cosine and sine are given. */
SIMD_INLINE void rotate(simd *x, simd *y, simd cosine, simd sine)
{
    simd a = *x, b = *y;
    *x = simd_sub(simd_mul(a, cosine), simd_mul(b, sine));
    *y = simd_add(simd_mul(a, sine), simd_mul(b, cosine));
}

static void rope_halves(float *head, const float *cosines, const float *sines, uint32_t half)
{
    for (uint32_t i = 0; i < half; i += SIMD_LANES) {
        uint32_t lanes = lanes_left(half, i);
        simd x = simd_load_first(head + i, lanes), y = simd_load_first(head + half + i, lanes);
        rotate(&x, &y, simd_load_first(cosines + i, lanes), simd_load_first(sines + i, lanes));
        simd_store_first(head + i, lanes, x);
        simd_store_first(head + half + i, lanes, y);
    }
}

static void rope_neighbours(float *head, const float *cosines, const float *sines, uint32_t half)
{
    for (uint32_t i = 0; i < half; i += SIMD_LANES) {
        uint32_t lanes = lanes_left(half, i), low = lanes_left(2 * half, 2 * i), high = 2 * lanes - low;
        float *at = head + 2 * i;
        simd x, y, a, b;
        simd_unzip(simd_load_first(at, low), simd_load_first(at + low, high), &x, &y);
        rotate(&x, &y, simd_load_first(cosines + i, lanes), simd_load_first(sines + i, lanes));
        simd_zip(x, y, &a, &b);
        simd_store_first(at, low, a);
        simd_store_first(at + low, high, b);
    }
}

void VECTOR_NAME(rope)(float *head, const float *cosines, const float *sines, uint32_t dim, bool neighbours)
{
    if (neighbours)
        rope_neighbours(head, cosines, sines, dim / 2);
    else
        rope_halves(head, cosines, sines, dim / 2);
}

/* The butterflies of `ref`, in its order: those within a vector, then those between vectors. */
void VECTOR_NAME(hadamard)(float *row, uint32_t count)
{
    const uint32_t size = count & (~count + 1);
    if (size < 2) return;
    const simd scale = simd_set(1.0f / sqrtf((float)size));
    for (uint32_t i = 0; i < count; i += SIMD_LANES) {
        const uint32_t lanes = lanes_left(count, i);
        simd x = simd_load_first(row + i, lanes);
        x = simd_butterfly(x, size < SIMD_LANES ? size : SIMD_LANES);
        simd_store_first(row + i, lanes, size <= SIMD_LANES ? simd_mul(x, scale) : x);
    }
    for (uint32_t half = SIMD_LANES; half < size; half *= 2) {
        const simd factor = 2 * half == size ? scale : simd_set(1);
        for (uint32_t begin = 0; begin < count; begin += 2 * half)
            for (uint32_t i = begin; i < begin + half; i += SIMD_LANES) {
                simd x = simd_load(row + i), y = simd_load(row + i + half);
                simd_store(row + i, simd_mul(simd_add(x, y), factor));
                simd_store(row + i + half, simd_mul(simd_sub(x, y), factor));
            }
    }
}

/* x / (1 + 2^t): x times the sigmoid of -t ln 2. */
SIMD_INLINE simd sigmoid_mul(simd x, simd t)
{
    return simd_div(x, simd_add(simd_set(1.0f), simd_exp2(t)));
}

void VECTOR_NAME(silu_mul)(const float *gate, const float *up, uint32_t count, float *out)
{
    for (uint32_t i = 0; i < count; i += SIMD_LANES) {
        uint32_t lanes = lanes_left(count, i);
        simd x = simd_load_first(gate + i, lanes);
        simd y = sigmoid_mul(x, simd_mul(x, simd_set((float)-SIMD_LOG2_E)));
        simd_store_first(out + i, lanes, simd_mul(y, simd_load_first(up + i, lanes)));
    }
}

/* x / 2 * (1 + tanh(u)) = x * sigmoid(2u), u = sqrt(2 / pi) * (x + 0.044715 x^3): see vector_ref.c. */
void VECTOR_NAME(gelu_mul)(const float *gate, const float *up, uint32_t count, float *out)
{
    const simd minus_2_u = simd_set((float)(-2 * SIMD_LOG2_E * 0.79788456080286536));
    for (uint32_t i = 0; i < count; i += SIMD_LANES) {
        uint32_t lanes = lanes_left(count, i);
        simd x = simd_load_first(gate + i, lanes);
        simd cubic = simd_fma(simd_mul(simd_mul(x, x), simd_set(0.044715f)), x, x);
        simd y = sigmoid_mul(x, simd_mul(cubic, minus_2_u));
        simd_store_first(out + i, lanes, simd_mul(y, simd_load_first(up + i, lanes)));
    }
}

void VECTOR_NAME(add)(float *x, const float *y, uint32_t count)
{
    for (uint32_t i = 0; i < count; i += SIMD_LANES) {
        uint32_t lanes = lanes_left(count, i);
        simd_store_first(x + i, lanes, simd_add(simd_load_first(x + i, lanes), simd_load_first(y + i, lanes)));
    }
}
