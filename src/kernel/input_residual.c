/* input_residual.c - what quantising a row of activations lost, for the rows that are worth a second one. */
#include "kernel/input_internal.h"

void kernel_input_residual(const struct kernel_input *input, uint32_t token, float *out)
{
    const float *x = input->rows + token * input->stride;
    uint32_t groups = input->columns / GROUP_COLUMNS, lane = token % INPUT_TOKENS;
    const struct kernel_input_group *group = input->groups + token / INPUT_TOKENS * input->block_groups;
    for (uint32_t g = 0; g < groups; g++, group++)
        for (uint32_t i = 0; i < GROUP_COLUMNS; i++, x++, out++)
            *out = *x - group->scales[lane] * (float)group->quants[i / 4][lane][i % 4];
}
