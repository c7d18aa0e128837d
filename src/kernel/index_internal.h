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

#define INDEX_UNIT 8u       /* channels */
#define INDEX_UNITS_MAX 64u /* heads of 1,365 channels */
#define INDEX_BATCH_MAX 16u /* groups whose entries are read together, at most */
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

static inline uint64_t index_codes_offset(uint32_t head_dim)
{
    return index_scale_offset(head_dim) + sizeof(float);
}

static inline const uint8_t *index_codes(const void *entry, uint32_t head_dim)
{
    return (const uint8_t *)entry + index_codes_offset(head_dim);
}

static inline float index_scale(const void *entry, uint32_t head_dim)
{
    float scale;
    memcpy(&scale, (const char *)entry + index_scale_offset(head_dim), sizeof scale);
    return scale;
}

/* Floats of the parts of index_simd.h's scratch that do not depend on the number of groups, each a whole number of lines. */
struct index_sizes {
    uint64_t means, codes; /* of the queries of all heads */
    uint64_t heads;        /* one of each */
    uint64_t lanes;        /* entries of a batch, their means or their codes */
};

static inline struct index_sizes index_sizes(uint32_t heads, uint32_t head_dim)
{
    const uint64_t means = round_up(index_means(head_dim), 16), codes = index_units(head_dim) * KERNEL_GROUP_TOKENS;
    return (struct index_sizes){
        .means = heads * means,
        .codes = round_up(heads * index_units(head_dim) * INDEX_UNIT / sizeof(float), 16),
        .heads = round_up(heads, 16),
        .lanes = INDEX_BATCH_MAX * (means > codes ? means : codes),
    };
}

#endif
