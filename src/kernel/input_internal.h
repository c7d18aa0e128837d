/* input_internal.h - what the quantisers of activations share. */
#ifndef KERNEL_INPUT_INTERNAL_H
#define KERNEL_INPUT_INTERNAL_H
#include "kernel/matmul_internal.h"

/* A group whose largest magnitude is below this is zero: 127 / it would not be finite. */
#define INPUT_TINY 1e-30f

/* What quantises up to INPUT_CHUNK groups of `tokens` (1 or 4) rows at x, into lane `lane` on. In two passes, scales
 * and then quants: within one, a group would be a single chain of dependent operations, longer than what processors
 * look ahead. */
#define INPUT_CHUNK 16u
typedef void input_quantise_fn(const float *x, uint64_t stride, uint32_t lane, uint32_t count,
                               struct kernel_input_group *groups, struct kernel_input_halves *halves);

/* Rows [begin, end) of the input, four at once where they are one block's. */
static inline void input_quantise_rows(const struct kernel_input *input, uint32_t begin, uint32_t end,
                                       input_quantise_fn *one, input_quantise_fn *four)
{
    if (input->columns % GROUP_COLUMNS) return;
    uint32_t groups = input->columns / GROUP_COLUMNS;
    for (uint32_t token = begin, tokens; token < end; token += tokens) {
        const float *x = input->rows + token * input->stride;
        uint64_t at = token / INPUT_TOKENS * input->block_groups;
        uint32_t lane = token % INPUT_TOKENS;
        tokens = lane == 0 && end - token >= INPUT_TOKENS ? INPUT_TOKENS : 1;
        for (uint32_t g = 0, count; g < groups; g += count) {
            count = groups - g < INPUT_CHUNK ? groups - g : INPUT_CHUNK;
            (tokens == 1 ? one : four)(x + g * GROUP_COLUMNS, input->stride, lane, count, input->groups + at + g,
                                       input->halves + at + g);
        }
    }
}

#endif
