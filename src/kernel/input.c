/* input.c - activations made ready for matmul: int8 with a scale per 32, interleaved by 4 tokens (matmul_internal.h).
 * Here: the storage, and the plain C quantiser whose bits the others give. Numbers that are not finite are not looked
 * for: they give some finite or non-finite output, never undefined behaviour. */
#include "kernel/input_internal.h"
#include "kernel/kernel_internal.h"

#include <math.h>

static uint64_t input_groups(uint32_t tokens, uint32_t columns)
{
    return ((uint64_t)tokens + INPUT_TOKENS - 1) / INPUT_TOKENS * (columns / GROUP_COLUMNS);
}
/* Whole cache lines, an odd number of them: rows of one tile do not meet in a set of the cache. */
static uint64_t brief_stride(uint32_t columns)
{
    return (uint64_t)(columns / GROUP_COLUMNS | 1) * GROUP_COLUMNS;
}
static uint64_t quants_bytes(uint64_t groups)
{
    return round_up(groups * (sizeof(struct kernel_input_group) + sizeof(struct kernel_input_halves)), 64);
}

uint64_t kernel_input_bytes(uint32_t tokens, uint32_t columns)
{
    return quants_bytes(input_groups(tokens, columns)) +
           round_up(tokens, BRIEF_TOKENS) * brief_stride(columns) * sizeof(uint16_t);
}

void kernel_input_init(struct kernel_input *input, void *storage, const float *rows, uint64_t stride, uint32_t tokens,
                       uint32_t columns)
{
    uint64_t groups = input_groups(tokens, columns);
    *input = (struct kernel_input){.rows = rows,
                                   .stride = stride,
                                   .tokens = tokens,
                                   .columns = columns,
                                   .block_groups = columns / GROUP_COLUMNS,
                                   .groups = storage,
                                   .brief = (uint16_t *)((char *)storage + quants_bytes(groups)),
                                   .brief_stride = brief_stride(columns)};
    input->halves = (struct kernel_input_halves *)(input->groups + groups);
}

void kernel_input_part(const struct kernel_input *input, uint32_t token, uint32_t count, uint32_t column,
                       uint32_t columns, const float *rows, uint64_t stride, struct kernel_input *out)
{
    ASSERT(token % KERNEL_INPUT_BLOCK == 0 && token + count <= input->tokens);
    ASSERT(column % GROUP_COLUMNS == 0 && column + columns <= input->columns);
    uint64_t at = token / INPUT_TOKENS * input->block_groups + column / GROUP_COLUMNS;
    *out = *input;
    out->rows = rows;
    out->stride = stride;
    out->tokens = count;
    out->columns = columns;
    out->groups += at;
    out->halves += at;
    out->brief += token * input->brief_stride + column;
}

static void quantise(const float *x, uint32_t lane, struct kernel_input_group *group,
                     struct kernel_input_halves *halves)
{
    float most = 0.0f;
    for (uint32_t i = 0; i < GROUP_COLUMNS; i++) most = fmaxf(most, fabsf(x[i]));
    bool tiny = !(most >= INPUT_TINY);
    float scale = tiny ? 0.0f : most / 127.0f, inverse = tiny ? 0.0f : 127.0f / most;
    int32_t sums[2] = {0, 0};
    for (uint32_t i = 0; i < GROUP_COLUMNS; i++) {
        float scaled = x[i] * inverse;
        int32_t quant = scaled >= -128.0f && scaled <= 127.5f ? (int32_t)nearbyintf(scaled) : -127;
        group->quants[i / 4][lane][i % 4] = (int8_t)quant;
        sums[i / 16] += quant;
    }
    int32_t sum = sums[0] + sums[1];
    group->scales[lane] = scale;
    group->weighted[lane] = (float)sum * scale;
    group->starts_8[lane] = DOT_START - 8 * sum;
    group->starts_16[lane] = DOT_START - 16 * sum;
    group->starts_128[lane] = DOT_START - 128 * sum;
    for (int half = 0; half < 2; half++) {
        halves->weighted[half][lane] = (float)sums[half] * scale;
        halves->starts_4[half][lane] = DOT_START - 4 * sums[half];
        halves->starts_32[half][lane] = DOT_START - 32 * sums[half];
    }
}

void kernel_input_prepare_ref(const struct kernel_input *input, uint32_t begin, uint32_t end)
{
    if (input->columns % GROUP_COLUMNS) return;
    uint32_t groups = input->columns / GROUP_COLUMNS;
    for (uint32_t token = begin; token < end; token++) {
        const float *x = input->rows + token * input->stride;
        uint64_t at = token / INPUT_TOKENS * input->block_groups;
        for (uint32_t g = 0; g < groups; g++, x += GROUP_COLUMNS)
            quantise(x, token % INPUT_TOKENS, input->groups + at + g, input->halves + at + g);
    }
}
