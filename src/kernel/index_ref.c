/* index_ref.c - the index for retrieval in plain C: the reference of the other instruction sets. */
#include "kernel/index_internal.h"
#include "kernel/kernel_internal.h"

#include <math.h>

void kernel_index_score_ref(const struct kernel_index *index, uint32_t begin, uint32_t end, float *scores,
                            uint64_t stride, float *scratch)
{
    (void)scratch;
    for (uint32_t g = begin; g < end; g++) {
        const void *entry = index_entry(index, g);
        const uint16_t *means = entry;
        const uint8_t *spreads = index_spreads(entry, index->head_dim);
        const float scale = index_scale(entry, index->head_dim);
        for (uint32_t h = 0; h < index->group; h++) {
            const float *q = index->q + (uint64_t)h * index->head_dim;
            float mean = 0, spread = 0;
            for (uint32_t d = 0; d < index->head_dim; d++) {
                mean += q[d] * f16_to_f32(means[d]);
                spread += q[d] * q[d] * (float)spreads[d];
            }
            float score = mean * index->scale + KERNEL_INDEX_SPREAD * index->scale * index->scale * spread * scale;
            if (index->softcap > 0) score = index->softcap * tanhf(score / index->softcap);
            scores[h * stride + g] = score * 1.44269504f;
        }
    }
}

void kernel_index_shares_ref(float *scores, uint32_t heads, uint64_t stride, uint32_t count, float *shares)
{
    for (uint32_t g = 0; g < count; g++) shares[g] = 0;
    for (uint32_t h = 0; h < heads; h++, scores += stride) {
        float top = -INFINITY, sum = 0;
        for (uint32_t g = 0; g < count; g++) top = scores[g] > top ? scores[g] : top;
        for (uint32_t g = 0; g < count; g++) sum += scores[g] = exp2f(scores[g] - top);
        for (uint32_t g = 0; g < count; g++) shares[g] += scores[g] / sum;
    }
}
