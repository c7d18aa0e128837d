/* index_simd.h - the index for retrieval, written once in the vector operations of simd_*.h. attention_simd.h's tables each
 * include it, with INDEX_NAME(function) giving the names of their own.
 *
 * Two passes over the entries. The first takes the means: a score for each head and group, and each head's greatest. The second takes
 * the codes, lanes being keys, in integers: a key's score is its group's and its own part, and its weight is 2^(score - greatest).
 * A key may well have a greater score than any group; it would have to be 2^127 times as heavy to overflow, and is held there.
 * Every number is made from one entry and one head, and folded in the order of groups. */
#include "kernel/index_internal.h"
#include "kernel/kernel_internal.h"
#include "kernel/simd_math.h"

#include <math.h>

#define INDEX_AHEAD 16u       /* entries: they lie a block apart, where no hardware expects them */
#define INDEX_HIGHEST 60.0f   /* of a key above its head's greatest group, in base 2 */
#define INDEX_LOWEST (-30.0f) /* below it a key weighs nothing */
#define INDEX_VECTORS (KERNEL_GROUP_TOKENS / SIMD_LANES)
#define INDEX_HEADS 8u /* at once, at most: their scores stay in registers */

struct index_pass {
    const struct kernel_index *index;
    uint64_t bytes, stride;
    uint32_t means, units; /* mean channels, in whole vectors; units of coded ones */
    float *mean_q;         /* [group][means] times the scale of scores */
    int8_t *code_q;        /* [group][units * INDEX_UNIT] */
    float *code_scale;     /* [group] of code_q, times the scale of scores */
    float *code_sum;       /* [group] of code_q */
    float *top;            /* [group] greatest score of a group */
    float *mean_row;       /* [means] an entry's */
    float *scores;         /* [group][stride] */
};

static void index_open(struct index_pass *pass, const struct kernel_index *index, uint32_t count, float *scratch)
{
    const uint32_t heads = index->group, dim = index->head_dim;
    *pass = (struct index_pass){.index = index,
                                .bytes = kernel_index_bytes(dim),
                                .stride = round_up(count, 16),
                                .means = (uint32_t)round_up(index_means(dim), 16),
                                .units = index_units(dim)};
    const uint64_t coded = pass->units * INDEX_UNIT;
    pass->mean_q = scratch;
    pass->code_q = (int8_t *)(void *)(pass->mean_q + (uint64_t)heads * pass->means);
    pass->code_scale = (float *)(void *)(pass->code_q + heads * coded);
    pass->code_sum = pass->code_scale + heads;
    pass->top = pass->code_sum + heads;
    pass->mean_row = scratch + round_up(heads * (pass->means + coded / sizeof(float) + 4), 16);
    pass->scores = pass->mean_row + pass->means;
    memset(scratch, 0, (size_t)((char *)pass->scores - (char *)scratch));
    const float scale =
        (float)(index->softcap > 0 ? (double)index->scale / index->softcap : index->scale * SIMD_LOG2_E);
    for (uint32_t h = 0; h < heads; h++) {
        const float *q = index->q + (uint64_t)h * dim;
        float top = 0, sum = 0;
        for (uint32_t d = 0; d < index_means(dim); d++) pass->mean_q[(uint64_t)h * pass->means + d] = q[d] * scale;
        for (uint32_t d = 0; d < coded && d < dim; d++) top = fabsf(q[d]) > top ? fabsf(q[d]) : top;
        const float step = top / INDEX_QUERY_TOP;
        for (uint32_t d = 0; d < coded && d < dim && step > 0; d++) {
            const float number = roundf(q[d] / step);
            pass->code_q[h * coded + d] = (int8_t)number;
            sum += number;
        }
        pass->code_scale[h] = step * scale;
        pass->code_sum[h] = sum;
        pass->top[h] = -INFINITY;
    }
}

static void index_ahead(const struct index_pass *pass, uint32_t group, uint32_t count, uint64_t from, uint64_t to)
{
    if (group + INDEX_AHEAD >= count) return;
    const char *entry = index_entry(pass->index, pass->bytes, group + INDEX_AHEAD);
    for (uint64_t at = from; at < to + 63; at += 64) __builtin_prefetch(entry + (at < to ? at : to - 1), 0, 2);
}

SIMD_INLINE void index_mean_dots(const struct index_pass *pass, const uint32_t heads, uint32_t head, uint32_t group)
{
    const float *q = pass->mean_q + (uint64_t)head * pass->means;
    simd acc[INDEX_HEADS];
#pragma GCC unroll 8
    for (uint32_t h = 0; h < heads; h++) acc[h] = simd_set(0);
    for (uint32_t d = 0; d < pass->means; d += SIMD_LANES) {
        const simd mean = simd_load(pass->mean_row + d);
#pragma GCC unroll 8
        for (uint32_t h = 0; h < heads; h++)
            acc[h] = simd_fma(mean, simd_load(q + (uint64_t)h * pass->means + d), acc[h]);
    }
#pragma GCC unroll 8
    for (uint32_t h = 0; h < heads; h++) pass->scores[(head + h) * pass->stride + group] = simd_sum(acc[h]);
}

/* The weights of a group's keys, summed, in place of the group's score. `codes`: [units * 2][INDEX_VECTORS] of four channels. */
SIMD_INLINE void index_code_dots(const struct index_pass *pass, const uint32_t heads, uint32_t head, uint32_t group,
                                 float entry_scale, const simd_int *codes)
{
    const uint32_t dwords = pass->units * 2;
    const int8_t *q = pass->code_q + (uint64_t)head * dwords * 4;
    simd_int acc[INDEX_HEADS][INDEX_VECTORS];
#pragma GCC unroll 8
    for (uint32_t h = 0; h < heads; h++)
#pragma GCC unroll 2
        for (uint32_t v = 0; v < INDEX_VECTORS; v++) acc[h][v] = simd_int_zero();
    for (uint32_t d = 0; d < dwords; d++) {
#pragma GCC unroll 8
        for (uint32_t h = 0; h < heads; h++)
#pragma GCC unroll 2
            for (uint32_t v = 0; v < INDEX_VECTORS; v++)
                acc[h][v] =
                    simd_int_dot_codes(acc[h][v], codes[d * INDEX_VECTORS + v], q + ((uint64_t)h * dwords + d) * 4);
    }
#pragma GCC unroll 8
    for (uint32_t h = 0; h < heads; h++) {
        float *score = &pass->scores[(head + h) * pass->stride + group];
        const float factor = pass->code_scale[head + h] * entry_scale, top = pass->top[head + h];
        const float first = *score - INDEX_MIDDLE * pass->code_sum[head + h] * factor;
        simd sum = simd_set(0);
#pragma GCC unroll 2
        for (uint32_t v = 0; v < INDEX_VECTORS; v++) {
            simd t = simd_fma(simd_from_int(acc[h][v]), simd_set(factor), simd_set(first));
            if (pass->index->softcap > 0)
                t = simd_mul(simd_tanh(t), simd_set((float)(pass->index->softcap * SIMD_LOG2_E)));
            t = simd_sub(t, simd_set(top));
            if (simd_top(t) > INDEX_LOWEST)
                sum = simd_add(sum, simd_exp2_below_160(simd_min(t, simd_set(INDEX_HIGHEST))));
        }
        *score = simd_sum(sum);
    }
}

#define INDEX_EACH_HEADS(call)                           \
    do {                                                 \
        uint32_t head = 0, left = pass.index->group;     \
        for (; left >= 7; head += 7, left -= 7) call(7); \
        for (; left >= 4; head += 4, left -= 4) call(4); \
        for (; left >= 2; head += 2, left -= 2) call(2); \
        for (; left; head++, left--) call(1);            \
    } while (0)
#define INDEX_MEANS(heads) index_mean_dots(&pass, heads, head, g)
#define INDEX_CODES(heads) index_code_dots(&pass, heads, head, g, scale, codes)
#define INDEX_UNITS_MAX 64u /* heads of 1,365 channels */

void INDEX_NAME(index_shares)(const struct kernel_index *index, uint32_t count, float *shares, float *scratch)
{
    struct index_pass pass;
    index_open(&pass, index, count, scratch);
    const uint32_t means = index_means(index->head_dim);
    const uint64_t codes_at = index_scale_offset(index->head_dim);
    ASSERT(pass.units <= INDEX_UNITS_MAX);
    for (uint32_t g = 0; g < count; g++) {
        const uint16_t *entry = index_entry(index, pass.bytes, g);
        uint32_t d = 0;
        index_ahead(&pass, g, count, 0, codes_at);
        for (; d + SIMD_LANES <= means; d += SIMD_LANES) simd_store(pass.mean_row + d, simd_load_f16(entry + d));
        if (d < means) simd_store(pass.mean_row + d, simd_load_f16_first(entry + d, means - d));
        INDEX_EACH_HEADS(INDEX_MEANS);
    }
    for (uint32_t h = 0; h < index->group; h++) {
        const float *score = pass.scores + h * pass.stride;
        for (uint32_t g = 0; g < count; g++) pass.top[h] = score[g] > pass.top[h] ? score[g] : pass.top[h];
        if (index->softcap > 0) pass.top[h] = (float)(index->softcap * SIMD_LOG2_E) * tanhf(pass.top[h]);
    }
    for (uint32_t g = 0; g < count; g++) {
        const void *entry = index_entry(index, pass.bytes, g);
        const uint8_t *bytes = index_codes(entry, index->head_dim);
        const float scale = index_scale(entry, index->head_dim);
        simd_int codes[2 * INDEX_UNITS_MAX * INDEX_VECTORS];
        index_ahead(&pass, g, count, codes_at, pass.bytes);
        for (uint32_t u = 0; u < pass.units; u++)
            for (uint32_t v = 0; v < INDEX_VECTORS; v++, bytes += INDEX_UNIT_BYTES / INDEX_VECTORS) {
                const simd_int both = simd_int_load((const int32_t *)(const void *)bytes),
                               nibble = simd_int_set(0x0F0F0F0F);
                codes[2 * u * INDEX_VECTORS + v] = simd_int_and(both, nibble);
                codes[(2 * u + 1) * INDEX_VECTORS + v] = simd_int_and(simd_int_shift_right(both, 4), nibble);
            }
        INDEX_EACH_HEADS(INDEX_CODES);
    }
    memset(shares, 0, pass.stride * sizeof *shares);
    for (uint32_t h = 0; h < index->group; h++) {
        const float *weight = pass.scores + h * pass.stride;
        float sum = 0;
        for (uint32_t g = 0; g < count; g++) sum += weight[g];
        if (!(sum > 0)) continue;
        for (uint32_t g = 0; g < count; g++) shares[g] += weight[g] / sum;
    }
}
