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

/* What the 16 keys of channel `d` differ from `mean` by, in units of `scale`, as codes; 0: they do not, and are not read. */
static void write_codes(const float *keys, uint64_t stride, uint32_t d, float mean, float scale, uint8_t *codes)
{
    for (uint32_t i = 0; i < KERNEL_GROUP_TOKENS; i++) {
        const float apart = scale > 0 ? (keys[i * stride] - mean) / scale : 0;
        const uint32_t code = (uint32_t)(apart + INDEX_MIDDLE + 0.5f);
        uint8_t *byte = codes + d / INDEX_UNIT * INDEX_UNIT_BYTES + i * INDEX_UNIT / 2 + d % (INDEX_UNIT / 2);
        *byte = (uint8_t)(*byte | (code < 15 ? code : 15) << (d % INDEX_UNIT / 4 * 4));
    }
}

void kernel_index_write(const float *keys, uint64_t stride, uint32_t head_dim, void *entry)
{
    const uint32_t coded = index_units(head_dim) * INDEX_UNIT, count = index_means(head_dim);
    uint16_t *means = entry;
    uint8_t *codes = (uint8_t *)entry + index_codes_offset(head_dim);
    float known[INDEX_UNITS_MAX * INDEX_UNIT], top = 0; /* means of the coded channels that there are */
    ASSERT(coded <= ARRAY_COUNT(known));
    memset(entry, 0, kernel_index_bytes(head_dim));
    for (uint32_t d = 0; d < count || (d < coded && d < head_dim); d++) {
        const float mean = mean_of(keys + d, stride);
        if (d < count) means[d] = f16_from_f32(mean);
        if (d >= coded) continue;
        known[d] = mean;
        for (uint32_t i = 0; i < KERNEL_GROUP_TOKENS; i++) {
            const float apart = fabsf(keys[i * stride + d] - mean);
            if (apart > top) top = apart;
        }
    }
    const float scale = top / INDEX_MIDDLE;
    memcpy((char *)entry + index_scale_offset(head_dim), &scale, sizeof scale);
    for (uint32_t d = 0; d < coded; d++)
        write_codes(keys + d, stride, d, d < head_dim ? known[d] : 0, d < head_dim ? scale : 0, codes);
}
