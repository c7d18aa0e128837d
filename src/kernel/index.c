/* index.c - entries of the index for retrieval: their size, and how they are made. */
#include "kernel/index_internal.h"

#define SPREAD_TOP 255.0f

uint64_t kernel_index_bytes(uint32_t head_dim)
{
    return round_up(index_scale_offset(head_dim) + sizeof(float), 16);
}

uint64_t kernel_index_scratch_floats(const struct kernel_index *index)
{
    return (index->group + 1) * 2 * round_up(index->head_dim, 16);
}

static float mean_of(const float *keys, uint64_t stride)
{
    float sum = 0;
    for (uint32_t i = 0; i < KERNEL_GROUP_TOKENS; i++) sum += keys[i * stride];
    return sum / KERNEL_GROUP_TOKENS;
}

static float variance_of(const float *keys, uint64_t stride, float mean)
{
    float sum = 0;
    for (uint32_t i = 0; i < KERNEL_GROUP_TOKENS; i++) {
        float apart = keys[i * stride] - mean;
        sum += apart * apart;
    }
    return sum / KERNEL_GROUP_TOKENS;
}

void kernel_index_write(const float *keys, uint64_t stride, uint32_t head_dim, void *entry)
{
    uint16_t *means = entry;
    uint8_t *spreads = (uint8_t *)entry + head_dim * sizeof *means;
    float top = 0;
    memset(entry, 0, kernel_index_bytes(head_dim));
    for (uint32_t d = 0; d < head_dim; d++) {
        float variance = variance_of(keys + d, stride, mean_of(keys + d, stride));
        if (variance > top) top = variance;
    }
    const float scale = top / SPREAD_TOP;
    for (uint32_t d = 0; d < head_dim; d++) {
        float mean = mean_of(keys + d, stride);
        means[d] = f16_from_f32(mean);
        if (scale > 0) spreads[d] = (uint8_t)(variance_of(keys + d, stride, mean) / scale + 0.5f);
    }
    memcpy((char *)entry + index_scale_offset(head_dim), &scale, sizeof scale);
}
