/* index.c - entries of the index for retrieval: their size, and how they are made. */
#include "kernel/index_internal.h"
#include <math.h>

uint64_t kernel_index_bytes(uint32_t head_dim)
{
    return round_up(index_scale_offset(head_dim) + sizeof(float) + index_units(head_dim) * INDEX_UNIT_BYTES, 16);
}

uint64_t kernel_index_scratch_floats(const struct kernel_index *index, uint32_t count)
{
    const struct index_sizes sizes = index_sizes(index->group, index->head_dim);
    return sizes.means + sizes.codes + 2 * sizes.heads + sizes.lanes + 2 * index->group * round_up(count, 16);
}

static float mean_of(const float *keys, uint64_t stride)
{
    float sum = 0;
    for (uint32_t i = 0; i < KERNEL_GROUP_TOKENS; i++) sum += keys[i * stride];
    return sum / KERNEL_GROUP_TOKENS;
}

void kernel_index_write(const float *keys, uint64_t stride, uint32_t head_dim, void *entry)
{
    const uint32_t coded = index_units(head_dim) * INDEX_UNIT, known = coded < head_dim ? coded : head_dim;
    uint16_t *means = entry;
    uint8_t *codes = (uint8_t *)entry + (index_codes(entry, head_dim) - (const uint8_t *)entry);
    float top = 0;
    memset(entry, 0, kernel_index_bytes(head_dim));
    for (uint32_t d = 0; d < index_means(head_dim); d++) means[d] = f16_from_f32(mean_of(keys + d, stride));
    for (uint32_t d = 0; d < known; d++) {
        const float mean = mean_of(keys + d, stride);
        for (uint32_t i = 0; i < KERNEL_GROUP_TOKENS; i++) {
            const float apart = fabsf(keys[i * stride + d] - mean);
            if (apart > top) top = apart;
        }
    }
    const float scale = top / INDEX_MIDDLE;
    memcpy((char *)entry + index_scale_offset(head_dim), &scale, sizeof scale);
    for (uint32_t d = 0; d < coded; d++) {
        const float mean = d < known ? mean_of(keys + d, stride) : 0;
        for (uint32_t i = 0; i < KERNEL_GROUP_TOKENS; i++) {
            const float apart = d < known && scale > 0 ? (keys[i * stride + d] - mean) / scale : 0;
            const uint32_t code = (uint32_t)(apart + INDEX_MIDDLE + 0.5f);
            uint8_t *byte = codes + d / INDEX_UNIT * INDEX_UNIT_BYTES + i * INDEX_UNIT / 2 + d % (INDEX_UNIT / 2);
            *byte = (uint8_t)(*byte | (code < 15 ? code : 15) << (d % INDEX_UNIT / 4 * 4));
        }
    }
}
