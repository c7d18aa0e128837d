/* index_ref.c - the index for retrieval in plain C: the reference of the other instruction sets, which round queries where
 * this does not. */
#include "kernel/index_internal.h"
#include "kernel/kernel_internal.h"

#include <math.h>

static const void *index_entry(const struct kernel_index *index, uint64_t bytes, uint32_t group)
{
    return (const char *)index->blocks[group / index->per_block] + group % index->per_block * bytes;
}

/* What the estimated keys of an entry give: the mean's part, and each key's own. */
static float key_score(const struct kernel_index *index, const float *q, const void *entry, uint32_t key)
{
    const uint16_t *means = entry;
    const uint8_t *codes = index_codes(entry, index->head_dim);
    const float scale = index_scale(entry, index->head_dim);
    const uint32_t coded = index_units(index->head_dim) * INDEX_UNIT;
    float sum = 0, own = 0;
    for (uint32_t d = 0; d < index_means(index->head_dim); d++) sum += q[d] * f16_to_f32(means[d]);
    for (uint32_t d = 0; d < coded && d < index->head_dim; d++) {
        const uint8_t byte = codes[d / INDEX_UNIT * INDEX_UNIT_BYTES + key * INDEX_UNIT / 2 + d % (INDEX_UNIT / 2)];
        own += q[d] * ((float)(byte >> (d % INDEX_UNIT / 4 * 4) & 15) - INDEX_MIDDLE);
    }
    float score = (sum + own * scale) * index->scale;
    return index->softcap > 0 ? index->softcap * tanhf(score / index->softcap) : score;
}

void kernel_index_shares_ref(const struct kernel_index *index, uint32_t count, float *shares, float *scratch)
{
    const uint64_t bytes = kernel_index_bytes(index->head_dim);
    for (uint32_t g = 0; g < count; g++) shares[g] = 0;
    for (uint32_t h = 0; h < index->group; h++) {
        const float *q = index->q + (uint64_t)h * index->head_dim;
        float top = -INFINITY, sum = 0;
        for (uint32_t pass = 0; pass < 2; pass++)
            for (uint32_t g = 0; g < count; g++) {
                float weight = 0;
                for (uint32_t key = 0; key < KERNEL_GROUP_TOKENS; key++) {
                    const float score = key_score(index, q, index_entry(index, bytes, g), key);
                    if (pass == 0 && score > top) top = score;
                    if (pass == 1) weight += expf(score - top);
                }
                scratch[g] = weight;
                sum += weight;
            }
        for (uint32_t g = 0; g < count; g++) shares[g] += scratch[g] / sum;
    }
}
