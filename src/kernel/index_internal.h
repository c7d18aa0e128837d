/* index_internal.h - the layout of an entry of the index for retrieval, channels slowest first:
 *
 *   means   [index_means] f16, then to a multiple of 4 bytes
 *   scale   f32
 *   codes   [index_coded / 8][16 keys][4 bytes]: of eight channels the first four in the low nibbles, the others in the high ones;
 *           (code - INDEX_MIDDLE) * scale is what a key differs from the mean by; channels behind the last one are in the middle */
#ifndef KERNEL_INDEX_INTERNAL_H
#define KERNEL_INDEX_INTERNAL_H
#include "kernel/kernel.h"
#include <string.h>

#define INDEX_UNIT 8u /* channels */
#define INDEX_MIDDLE 7.5f
#define INDEX_UNIT_BYTES (KERNEL_GROUP_TOKENS * INDEX_UNIT / 2)

static inline uint32_t index_means(uint32_t head_dim)
{
    return head_dim - head_dim / 4;
}

static inline uint32_t index_units(uint32_t head_dim)
{
    return (head_dim * 3 / 8 + INDEX_UNIT - 1) / INDEX_UNIT;
}

static inline uint64_t index_scale_offset(uint32_t head_dim)
{
    return round_up(index_means(head_dim) * sizeof(uint16_t), sizeof(float));
}

static inline const uint8_t *index_codes(const void *entry, uint32_t head_dim)
{
    return (const uint8_t *)entry + index_scale_offset(head_dim) + sizeof(float);
}

static inline float index_scale(const void *entry, uint32_t head_dim)
{
    float scale;
    memcpy(&scale, (const char *)entry + index_scale_offset(head_dim), sizeof scale);
    return scale;
}

static inline const void *index_entry(const struct kernel_index *index, uint64_t bytes, uint32_t group)
{
    return (const char *)index->blocks[group / index->per_block] + group % index->per_block * bytes;
}

/* Queries of the coded channels in 8 bits with one scale a head: codes and they are multiplied as integers. */
#define INDEX_QUERY_TOP 127.0f

#endif
