/* index.c - entries of the index for retrieval: their size, and how they are made. */
#include "kernel/index_internal.h"
#include <math.h>

uint64_t kernel_index_bytes(uint32_t head_dim)
{
    return (uint64_t)index_sketch_bytes(head_dim) + index_codes_bytes(head_dim);
}

uint64_t kernel_index_scratch_floats(const struct kernel_index *index, uint32_t count)
{
    const struct index_sizes sizes = index_sizes(index->group, index->head_dim);
    return sizes.queries + sizes.sizes + INDEX_HEAD_NUMBERS * sizes.heads + sizes.lanes +
           2 * index->group * round_up(count, 16);
}

void kernel_index_blank(void *block, uint32_t head_dim, uint32_t per_block, uint32_t first)
{
    uint8_t *bytes = block;
    const uint64_t groups = per_block - first;
    memset(bytes + index_sketch_at(head_dim, first), 0, groups * index_sketch_bytes(head_dim));
    memset(bytes + index_codes_at(head_dim, per_block, first), 0, groups * index_codes_bytes(head_dim));
}

/* The least scale that there is of at least `scale`, or the largest one. */
static uint8_t scale_code(float scale)
{
    uint32_t bits;
    if (!(scale > index_scale_of(0))) return 0;
    memcpy(&bits, &scale, sizeof bits);
    bits = (bits - INDEX_SCALE_LEAST + (1u << INDEX_SCALE_SHIFT) - 1) >> INDEX_SCALE_SHIFT;
    return (uint8_t)(bits < UINT8_MAX ? bits : UINT8_MAX);
}

/* The nearest whole number of [0, most]; 0 of what is no number. */
static uint8_t whole(float number, uint32_t most)
{
    const float up = number + 0.5f;
    return (uint8_t)(!(up > 0) ? 0 : up < (float)most ? (uint32_t)up : most);
}

static float mean_of(const float *keys, uint64_t stride)
{
    float sum = 0;
    for (uint32_t i = 0; i < KERNEL_GROUP_TOKENS; i++) sum += keys[i * stride];
    return sum / KERNEL_GROUP_TOKENS;
}

/* Of `means` those that a sketch has; what is behind them is 0. */
static void write_means(const float *means, uint32_t head_dim, uint8_t *sketch)
{
    const uint32_t channels = index_part_channels(head_dim), count = index_means(head_dim);
    for (uint32_t part = 0; part < INDEX_PARTS; part++) {
        const uint32_t begin = part * channels, end = begin + channels;
        float top = 0;
        for (uint32_t d = begin; d < end && d < count; d++)
            if (fabsf(means[d]) > top) top = fabsf(means[d]);
        uint8_t *code = &sketch[index_scales_offset(head_dim) + part];
        *code = scale_code(top / (INDEX_ZERO - 1));
        for (uint32_t d = begin; d < end; d++)
            sketch[d] = whole((d < count ? means[d] / index_scale_of(*code) : 0) + INDEX_ZERO, 2 * INDEX_ZERO - 1);
    }
}

static void put_nibble(uint8_t *bytes, uint32_t d, uint8_t nibble)
{
    uint8_t *byte = &bytes[d % (INDEX_UNIT / 2)];
    *byte = (uint8_t)(*byte | nibble << (d % INDEX_UNIT / 4 * 4));
}

/* What the 16 keys of channel `d` differ from their mean by, as codes, and its spread. */
static void write_channel(const float *keys, uint64_t stride, uint32_t d, float mean, float scale, uint8_t *spreads,
                          uint8_t *codes)
{
    float squares = 0;
    for (uint32_t i = 0; i < KERNEL_GROUP_TOKENS; i++) {
        const float apart = (keys[i * stride] - mean) / scale;
        squares += apart * apart;
        put_nibble(codes + d / INDEX_UNIT * INDEX_UNIT_BYTES + i * INDEX_UNIT / 2, d, whole(apart + INDEX_MIDDLE, 15));
    }
    put_nibble(spreads + d / INDEX_UNIT * INDEX_UNIT / 2, d,
               whole(sqrtf(squares / KERNEL_GROUP_TOKENS) / INDEX_SPREAD, 15));
}

void kernel_index_write(const float *keys, uint64_t stride, uint32_t head_dim, void *block, uint32_t per_block,
                        uint32_t group)
{
    static const float middle[KERNEL_GROUP_TOKENS];
    const uint32_t coded = index_units(head_dim) * INDEX_UNIT, known = coded < head_dim ? coded : head_dim;
    uint8_t *sketch = (uint8_t *)block + index_sketch_at(head_dim, group),
            *codes = (uint8_t *)block + index_codes_at(head_dim, per_block, group),
            *spreads = sketch + index_spreads_offset(head_dim);
    float means[INDEX_CHANNELS_MAX], top = 0;
    ASSERT(head_dim <= ARRAY_COUNT(means));
    memset(sketch, 0, index_sketch_bytes(head_dim));
    memset(codes, 0, index_codes_bytes(head_dim));
    for (uint32_t d = 0; d < known || d < index_means(head_dim); d++) means[d] = mean_of(keys + d, stride);
    write_means(means, head_dim, sketch);
    for (uint32_t d = 0; d < known; d++)
        for (uint32_t i = 0; i < KERNEL_GROUP_TOKENS; i++) {
            const float apart = fabsf(keys[i * stride + d] - means[d]);
            if (apart > top) top = apart;
        }
    uint8_t *code = &sketch[index_scales_offset(head_dim) + INDEX_PARTS];
    *code = scale_code(top / INDEX_MIDDLE);
    for (uint32_t d = 0; d < coded; d++)
        if (d < known)
            write_channel(keys + d, stride, d, means[d], index_scale_of(*code), spreads, codes);
        else
            write_channel(middle, 1, d, 0, 1, spreads, codes);
}
