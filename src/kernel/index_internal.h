/* index_internal.h - the layout of an entry of the index for retrieval: [head_dim] f16 means, [head_dim] 8-bit variances in units
 * of the scale, then the scale, f32, at the next multiple of 4. */
#ifndef KERNEL_INDEX_INTERNAL_H
#define KERNEL_INDEX_INTERNAL_H
#include "kernel/kernel.h"
#include <string.h>

static inline const uint8_t *index_spreads(const void *entry, uint32_t head_dim)
{
    return (const uint8_t *)entry + head_dim * sizeof(uint16_t);
}

static inline uint64_t index_scale_offset(uint32_t head_dim)
{
    return round_up(head_dim * (sizeof(uint16_t) + 1), sizeof(float));
}

static inline float index_scale(const void *entry, uint32_t head_dim)
{
    float scale;
    memcpy(&scale, (const char *)entry + index_scale_offset(head_dim), sizeof scale);
    return scale;
}

static inline const void *index_entry(const struct kernel_index *index, uint32_t group)
{
    return (const char *)index->blocks[group / index->per_block] +
           group % index->per_block * kernel_index_bytes(index->head_dim);
}

#endif
