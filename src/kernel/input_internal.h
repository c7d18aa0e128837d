/* input_internal.h - what the quantisers of activations share. */
#ifndef KERNEL_INPUT_INTERNAL_H
#define KERNEL_INPUT_INTERNAL_H
#include "kernel/matmul_internal.h"

/* A group whose largest magnitude is below this is zero: 127 / it would not be finite. */
#define INPUT_TINY 1e-30f

static inline void input_group_finish(struct kernel_input_group *group, uint32_t lane, float scale, int32_t sum_low,
                                      int32_t sum_high)
{
    int32_t sum = sum_low + sum_high;
    group->scales[lane] = scale;
    group->weighted[lane] = (float)sum * scale;
    group->sums[lane] = -sum;
    group->half_sums[0][lane] = -sum_low;
    group->half_sums[1][lane] = -sum_high;
}

#endif
