/* index_internal.h - the layout of the index for retrieval. The entries of a block come in two parts, the sketches of all groups and behind
 * them the codes of all, so that a scan of sketches reads memory without gaps. Channels slowest first:
 *
 *   sketches [groups of the block], each
 *     means    [INDEX_PARTS][index_part_channels] bytes: (byte - INDEX_ZERO) * the part's scale; those behind index_means are 0
 *     spreads  [index_units * 4] bytes: of eight channels the first four in the low nibbles, the others in the high ones; the root mean
 *              square of what keys differ from the mean by, in INDEX_SPREAD of the codes' scale
 *     scales   [4] bytes: of the parts of the means, and of the codes (index_scale_of)
 *              to a multiple of 16 bytes: one cache line for heads of 64 channels
 *   codes    [groups of the block][index_units][16 keys][4 bytes]: nibbles as in spreads; (code - INDEX_MIDDLE) * scale is what a key
 *            differs from the mean by; channels behind the last one are in the middle */
#ifndef KERNEL_INDEX_INTERNAL_H
#define KERNEL_INDEX_INTERNAL_H
#include "kernel/kernel.h"
#include <string.h>

#define INDEX_UNIT 8u /* channels */
#define INDEX_CHANNELS_MAX 1365u
#define INDEX_BATCH_MAX 16u /* groups whose entries are read together, at most */
#define INDEX_PARTS 3u
#define INDEX_ZERO 128
#define INDEX_MIDDLE 7.5f
#define INDEX_SPREAD 0.25f
#define INDEX_UNIT_BYTES (KERNEL_GROUP_TOKENS * INDEX_UNIT / 2)
/* The keys of a group but the one that is nearest to the query weigh as if they were their mean. */
#define INDEX_OTHERS (KERNEL_GROUP_TOKENS - 1.0f)
/* What a head may find above the mean, told from the spreads s of a group: this part of the sum of |q| s. */
#define INDEX_REACH 0.75f

static inline uint32_t index_means(uint32_t head_dim)
{
    return head_dim - head_dim / 4;
}

static inline uint32_t index_part_channels(uint32_t head_dim)
{
    return (uint32_t)round_up((index_means(head_dim) + INDEX_PARTS - 1) / INDEX_PARTS, 4);
}

static inline uint32_t index_units(uint32_t head_dim)
{
    return (head_dim * 3 / 8 + INDEX_UNIT - 1) / INDEX_UNIT;
}

static inline uint32_t index_spreads_offset(uint32_t head_dim)
{
    return INDEX_PARTS * index_part_channels(head_dim);
}

static inline uint32_t index_scales_offset(uint32_t head_dim)
{
    return index_spreads_offset(head_dim) + index_units(head_dim) * (INDEX_UNIT / 2);
}

static inline uint32_t index_sketch_bytes(uint32_t head_dim)
{
    return (uint32_t)round_up(index_scales_offset(head_dim) + INDEX_PARTS + 1, 16);
}

static inline uint32_t index_codes_bytes(uint32_t head_dim)
{
    return index_units(head_dim) * INDEX_UNIT_BYTES;
}

/* Where in a block the sketch, and the codes, of one of its groups begin. */
static inline uint64_t index_sketch_at(uint32_t head_dim, uint32_t group)
{
    return (uint64_t)group * index_sketch_bytes(head_dim);
}

static inline uint64_t index_codes_at(uint32_t head_dim, uint32_t per_block, uint32_t group)
{
    return index_sketch_at(head_dim, per_block) + (uint64_t)group * index_codes_bytes(head_dim);
}

/* Scales are the upper bits of a float, three of its fraction: 2^-24 to 240. One that is a little too large costs little precision. */
#define INDEX_SCALE_SHIFT 20u
#define INDEX_SCALE_LEAST ((127u - 24u) << 23)
static inline float index_scale_of(uint8_t code)
{
    const uint32_t bits = ((uint32_t)code << INDEX_SCALE_SHIFT) + INDEX_SCALE_LEAST;
    float scale;
    memcpy(&scale, &bits, sizeof scale);
    return scale;
}

/* What index_simd.h keeps of a head: its query's scale, what its numbers add up to, and its shares' factor. */
#define INDEX_HEAD_NUMBERS (3 + INDEX_PARTS)

/* Floats of the parts of index_simd.h's scratch that do not depend on the number of groups, each a whole number of lines. */
struct index_sizes {
    uint64_t queries,
        sizes; /* of all heads, in bytes: of every channel that an entry knows, and of the coded ones without their signs */
    uint64_t heads; /* one number of each */
    uint64_t lanes; /* of a batch the sketches, or the codes */
};

/* Channels of a query in bytes: as many as there are means, or codes. */
static inline uint32_t index_channels(uint32_t head_dim)
{
    const uint32_t means = index_spreads_offset(head_dim), coded = index_units(head_dim) * INDEX_UNIT;
    return means > coded ? means : coded;
}

static inline struct index_sizes index_sizes(uint32_t heads, uint32_t head_dim)
{
    const uint64_t sketch = round_up(index_sketch_bytes(head_dim) / 4, INDEX_BATCH_MAX),
                   codes = index_codes_bytes(head_dim) / 4;
    return (struct index_sizes){
        .queries = round_up(heads * index_channels(head_dim) / sizeof(float), 16),
        .sizes = round_up(heads * index_units(head_dim) * INDEX_UNIT / sizeof(float), 16),
        .heads = round_up(heads, 16),
        .lanes = INDEX_BATCH_MAX * (sketch > codes ? sketch : codes),
    };
}

#endif
