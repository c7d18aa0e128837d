/* index_ref.c - the index for retrieval in plain C: the reference of the other instruction sets, which round queries where
 * this does not. */
#include "kernel/index_internal.h"
#include "kernel/kernel_internal.h"

#include <math.h>

static const uint8_t *index_block(const struct kernel_index *index, uint32_t group, uint32_t *in_block)
{
    const uint32_t number = index->order ? index->order[group] : group;
    *in_block = number % index->per_block;
    return index->blocks[number / index->per_block];
}

static const uint8_t *index_sketch_of(const struct kernel_index *index, uint32_t group)
{
    uint32_t at;
    const uint8_t *block = index_block(index, group, &at);
    return block + index_sketch_at(index->head_dim, at);
}

static const uint8_t *index_codes_of(const struct kernel_index *index, uint32_t group)
{
    uint32_t at;
    const uint8_t *block = index_block(index, group, &at);
    return block + index_codes_at(index->head_dim, index->per_block, at);
}

static float nibble_of(const uint8_t *bytes, uint32_t d)
{
    return (float)(bytes[d % (INDEX_UNIT / 2)] >> (d % INDEX_UNIT / 4 * 4) & 15);
}

/* The mean's part of a score. */
static float mean_score(const struct kernel_index *index, const float *q, const uint8_t *sketch)
{
    const uint32_t channels = index_part_channels(index->head_dim);
    const uint8_t *scales = sketch + index_scales_offset(index->head_dim);
    float sum = 0;
    for (uint32_t d = 0; d < index_means(index->head_dim); d++)
        sum += q[d] * (float)(sketch[d] - INDEX_ZERO) * index_scale_of(scales[d / channels]);
    return sum * index->scale;
}

static uint32_t known_channels(const struct kernel_index *index)
{
    const uint32_t coded = index_units(index->head_dim) * INDEX_UNIT;
    return coded < index->head_dim ? coded : index->head_dim;
}

static float codes_scale(const struct kernel_index *index, uint32_t group)
{
    return index_scale_of(index_sketch_of(index, group)[index_scales_offset(index->head_dim) + INDEX_PARTS]) *
           index->scale;
}

/* What the key that is nearest to the query adds to it. */
static float nearest_key(const struct kernel_index *index, const float *q, uint32_t group)
{
    const uint8_t *codes = index_codes_of(index, group);
    float top = -INFINITY;
    for (uint32_t key = 0; key < KERNEL_GROUP_TOKENS; key++) {
        float own = 0;
        for (uint32_t d = 0; d < known_channels(index); d++)
            own +=
                q[d] * (nibble_of(codes + d / INDEX_UNIT * INDEX_UNIT_BYTES + key * INDEX_UNIT / 2, d) - INDEX_MIDDLE);
        if (own > top) top = own;
    }
    return top * codes_scale(index, group);
}

/* What it may add, by the spreads. */
static float reach(const struct kernel_index *index, const float *q, uint32_t group)
{
    const uint8_t *spreads = index_sketch_of(index, group) + index_spreads_offset(index->head_dim);
    float sum = 0;
    for (uint32_t d = 0; d < known_channels(index); d++)
        sum += fabsf(q[d]) * nibble_of(spreads + d / INDEX_UNIT * INDEX_UNIT / 2, d);
    return sum * INDEX_REACH * INDEX_SPREAD * codes_scale(index, group);
}

static void add_shares(const struct kernel_index *index, uint32_t count, float *shares, float *scratch,
                       float (*own)(const struct kernel_index *index, const float *q, uint32_t group))
{
    for (uint32_t g = 0; g < count; g++) shares[g] = 0;
    for (uint32_t h = 0; h < index->group; h++) {
        const float *q = index->q + (uint64_t)h * index->head_dim;
        float *score = scratch, *nearest = scratch + count, top = -INFINITY, sum = 0;
        for (uint32_t g = 0; g < count; g++) {
            score[g] = mean_score(index, q, index_sketch_of(index, g));
            nearest[g] = score[g] + own(index, q, g);
            if (index->softcap > 0) {
                score[g] = index->softcap * tanhf(score[g] / index->softcap);
                nearest[g] = index->softcap * tanhf(nearest[g] / index->softcap);
            }
            if (nearest[g] > top) top = nearest[g];
            if (score[g] > top) top = score[g];
        }
        for (uint32_t g = 0; g < count; g++) {
            score[g] = INDEX_OTHERS * expf(score[g] - top) + expf(nearest[g] - top);
            sum += score[g];
        }
        for (uint32_t g = 0; g < count; g++) shares[g] += score[g] / sum;
    }
}

void kernel_index_shares_ref(const struct kernel_index *index, uint32_t count, float *shares, float *scratch)
{
    add_shares(index, count, shares, scratch, nearest_key);
}

void kernel_index_sketch_ref(const struct kernel_index *index, uint32_t count, float *shares, float *scratch)
{
    add_shares(index, count, shares, scratch, reach);
}
