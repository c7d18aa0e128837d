/* index_simd.h - the index for retrieval, written once in the vector operations of simd_*.h. index_avx2.c and index_avx512.c
 * include it, with INDEX_NAME(function) giving the names of their table.
 *
 * An entry becomes a row of floats, [mean, variance], and each query one like it, [q, q^2] with all constants: a score is
 * their product, one chain of multiply-adds a lane, then a sum over lanes in a fixed order. Heads share the entry's loads. */
#include "kernel/index_internal.h"
#include "kernel/kernel_internal.h"
#include "kernel/simd_math.h"

#include <math.h>

#define HEADS_AT_ONCE 8u
#define AHEAD 16u /* entries: they lie a block apart, where no hardware expects them */

/* Query rows, [2 * width] each: what means and variances are multiplied with. */
static void index_queries(const struct kernel_index *index, uint32_t width, float *out)
{
    const double log2_e = index->softcap > 0 ? 1 : SIMD_LOG2_E;
    const float first = (float)(index->scale * log2_e);
    const float second = (float)(KERNEL_INDEX_SPREAD * (double)index->scale * index->scale * log2_e);
    memset(out, 0, (uint64_t)index->group * 2 * width * sizeof *out);
    for (uint32_t h = 0; h < index->group; h++, out += 2 * (uint64_t)width)
        for (uint32_t d = 0; d < index->head_dim; d++) {
            const float q = index->q[(uint64_t)h * index->head_dim + d];
            out[d] = q * first;
            out[width + d] = q * q * second;
        }
}

/* An entry as a row of floats; behind head_dim zeros. */
static void index_row(const void *entry, uint32_t head_dim, uint32_t width, float *out)
{
    const uint16_t *means = entry;
    const uint8_t *spreads = index_spreads(entry, head_dim);
    const simd scale = simd_set(index_scale(entry, head_dim));
    uint32_t d = 0;
    for (; d + SIMD_LANES <= head_dim; d += SIMD_LANES) {
        simd_store(out + d, simd_load_f16(means + d));
        simd_store(out + width + d, simd_mul(simd_load_u8(spreads + d), scale));
    }
    for (; d < head_dim; d++) {
        out[d] = f16_to_f32(means[d]);
        out[width + d] = (float)spreads[d] * index_scale(entry, head_dim);
    }
}

SIMD_INLINE void index_dots(const uint32_t heads, const float *row, const float *queries, uint32_t width, float *scores,
                            uint64_t stride)
{
    simd acc[HEADS_AT_ONCE];
#pragma GCC unroll 8
    for (uint32_t h = 0; h < heads; h++) acc[h] = simd_set(0);
    for (uint32_t d = 0; d < width; d += SIMD_LANES) {
        const simd part = simd_load(row + d);
#pragma GCC unroll 8
        for (uint32_t h = 0; h < heads; h++)
            acc[h] = simd_fma(part, simd_load(queries + (uint64_t)h * width + d), acc[h]);
    }
#pragma GCC unroll 8
    for (uint32_t h = 0; h < heads; h++) scores[h * stride] = simd_sum(acc[h]);
}

void INDEX_NAME(index_score)(const struct kernel_index *index, uint32_t begin, uint32_t end, float *scores,
                             uint64_t stride, float *scratch)
{
    const uint32_t width = (uint32_t)round_up(index->head_dim, 16);
    float *row = scratch, *queries = scratch + 2 * (uint64_t)width;
    index_queries(index, width, queries);
    memset(row, 0, 2 * (uint64_t)width * sizeof *row);
    const uint64_t bytes = kernel_index_bytes(index->head_dim);
    for (uint32_t g = begin; g < end; g++) {
        const char *ahead = g + AHEAD < end ? index_entry(index, g + AHEAD) : NULL;
        for (uint64_t line = 0; ahead && line < bytes; line += 64) __builtin_prefetch(ahead + line, 0, 2);
        index_row(index_entry(index, g), index->head_dim, width, row);
        uint32_t h = 0;
        for (; index->group - h >= 7; h += 7) /* a GQA group of 7 or 14 is common */
            index_dots(7, row, queries + (uint64_t)h * 2 * width, 2 * width, scores + h * stride + g, stride);
        for (; index->group - h >= 4; h += 4)
            index_dots(4, row, queries + (uint64_t)h * 2 * width, 2 * width, scores + h * stride + g, stride);
        for (; index->group - h >= 2; h += 2)
            index_dots(2, row, queries + (uint64_t)h * 2 * width, 2 * width, scores + h * stride + g, stride);
        for (; h < index->group; h++)
            index_dots(1, row, queries + (uint64_t)h * 2 * width, 2 * width, scores + h * stride + g, stride);
    }
    if (index->softcap <= 0) return;
    for (uint32_t h = 0; h < index->group; h++)
        for (uint32_t g = begin; g < end; g++) {
            float *score = &scores[h * stride + g];
            *score = (float)(index->softcap * SIMD_LOG2_E) * tanhf(*score / index->softcap);
        }
}

void INDEX_NAME(index_shares)(float *scores, uint32_t heads, uint64_t stride, uint32_t count, float *shares)
{
    const uint32_t whole = (uint32_t)round_up(count, 16);
    memset(shares, 0, whole * sizeof *shares);
    for (uint32_t h = 0; h < heads; h++, scores += stride) {
        simd most = simd_set(-INFINITY), sum = simd_set(0);
        for (uint32_t g = count; g < whole; g++) scores[g] = -INFINITY;
        for (uint32_t g = 0; g < whole; g += SIMD_LANES) most = simd_max(most, simd_load(scores + g));
        const simd top = simd_set(simd_top(most));
        for (uint32_t g = 0; g < whole; g += SIMD_LANES) {
            simd share = simd_exp2_below_160(simd_sub(simd_load(scores + g), top));
            simd_store(scores + g, share);
            sum = simd_add(sum, share);
        }
        const simd part = simd_set(1.0f / simd_sum(sum));
        for (uint32_t g = 0; g < whole; g += SIMD_LANES)
            simd_store(shares + g, simd_fma(simd_load(scores + g), part, simd_load(shares + g)));
    }
}
