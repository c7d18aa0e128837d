/* input.c - activations made ready for matmul: int8 with a scale per 32, interleaved by 4 tokens (matmul_internal.h).
 * Here: the storage, and the plain C quantiser whose bits the others give. Numbers that are not finite are not looked
 * for: they give some finite or non-finite output, never undefined behaviour. */
#include "kernel/input_internal.h"
#include "kernel/kernel_internal.h"

#include <math.h>

uint64_t kernel_input_bytes(uint32_t tokens, uint32_t columns)
{
    uint64_t blocks = ((uint64_t)tokens + INPUT_TOKENS - 1) / INPUT_TOKENS;
    return round_up(blocks * (columns / GROUP_COLUMNS) * sizeof(struct kernel_input_group), 64);
}

void kernel_input_init(struct kernel_input *input, void *storage, const float *rows, uint64_t stride, uint32_t tokens,
                       uint32_t columns)
{
    *input =
        (struct kernel_input){.rows = rows, .stride = stride, .tokens = tokens, .columns = columns, .groups = storage};
}

void kernel_input_prepare_ref(const struct kernel_input *input, uint32_t begin, uint32_t end)
{
    if (input->columns % GROUP_COLUMNS) return;
    uint32_t groups = input->columns / GROUP_COLUMNS;
    for (uint32_t token = begin; token < end; token++) {
        const float *x = input->rows + token * input->stride;
        struct kernel_input_group *out = input->groups + (uint64_t)(token / INPUT_TOKENS) * groups;
        for (uint32_t g = 0; g < groups; g++, x += GROUP_COLUMNS, out++) {
            float most = 0.0f;
            for (uint32_t i = 0; i < GROUP_COLUMNS; i++) most = fmaxf(most, fabsf(x[i]));
            bool tiny = !(most >= INPUT_TINY);
            float scale = tiny ? 0.0f : most / 127.0f, inverse = tiny ? 0.0f : 127.0f / most;
            int32_t sums[2] = {0, 0};
            for (uint32_t i = 0; i < GROUP_COLUMNS; i++) {
                float scaled = x[i] * inverse;
                int32_t quant = scaled >= -128.0f && scaled <= 127.5f ? (int32_t)nearbyintf(scaled) : -127;
                out->quants[i / 4][token % INPUT_TOKENS][i % 4] = (int8_t)quant;
                sums[i / 16] += quant;
            }
            input_group_finish(out, token % INPUT_TOKENS, scale, sums[0], sums[1]);
        }
    }
}
