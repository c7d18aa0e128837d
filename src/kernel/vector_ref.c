/* vector_ref.c - norm, rope, Hadamard transform, activations and add in plain C: the reference of the other instruction sets. */
#include "kernel/kernel_internal.h"

#include <math.h>

void kernel_rms_norm_ref(const float *x, const float *weight, float eps, uint32_t count, float *out)
{
    float sum = 0;
    for (uint32_t i = 0; i < count; i++) sum += x[i] * x[i];
    float factor = 1.0f / sqrtf(sum / (float)count + eps);
    for (uint32_t i = 0; i < count; i++) out[i] = x[i] * factor * weight[i];
}

void kernel_rope_ref(float *head, const float *cosines, const float *sines, uint32_t dim, bool neighbours)
{
    uint32_t half = dim / 2, step = neighbours ? 2 : 1, other = neighbours ? 1 : half;
    for (uint32_t i = 0; i < half; i++) {
        float *a = head + i * step, *b = a + other, x = *a, y = *b;
        *a = x * cosines[i] - y * sines[i];
        *b = x * sines[i] + y * cosines[i];
    }
}

void kernel_hadamard_ref(float *row, uint32_t count)
{
    const uint32_t size = count & (~count + 1);
    for (uint32_t half = 1; half < size; half *= 2)
        for (uint32_t i = 0; i < count; i++) {
            if (i & half) continue;
            float x = row[i], y = row[i + half];
            row[i] = x + y;
            row[i + half] = x - y;
        }
    const float scale = 1.0f / sqrtf((float)size);
    for (uint32_t i = 0; i < count && size > 1; i++) row[i] *= scale;
}

void kernel_silu_mul_ref(const float *gate, const float *up, uint32_t count, float *out)
{
    for (uint32_t i = 0; i < count; i++) out[i] = gate[i] / (1.0f + expf(-gate[i])) * up[i];
}

/* gelu(x) ~ x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3))), Hendrycks and Gimpel, arXiv:1606.08415. */
void kernel_gelu_mul_ref(const float *gate, const float *up, uint32_t count, float *out)
{
    for (uint32_t i = 0; i < count; i++) {
        float x = gate[i], inner = 0.79788456080286536f * (x + 0.044715f * x * x * x);
        out[i] = 0.5f * x * (1.0f + tanhf(inner)) * up[i];
    }
}

void kernel_add_ref(float *x, const float *y, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) x[i] += y[i];
}
