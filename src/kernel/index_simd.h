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

#define INDEX_HIGHEST 60.0f /* of a key above its head's greatest group, in base 2 */
#define INDEX_VECTORS (KERNEL_GROUP_TOKENS / SIMD_LANES)
#define INDEX_HEADS 8u         /* at once, at most: their scores stay in registers */
#define INDEX_UNITS_MAX 64u    /* heads of 1,365 channels */
#define INDEX_BATCH SIMD_LANES /* groups whose sums over lanes are made together */

struct index_pass {
    const struct kernel_index *index;
    uint64_t bytes, stride;
    uint32_t means, units; /* mean channels, in whole vectors; units of coded ones */
    /* Parts of at most INDEX_HEADS heads, so that a step takes those of all heads from one place: of each part */
    float *mean_q;     /* [means / SIMD_LANES][heads][SIMD_LANES], times the scale of scores */
    int8_t *code_q;    /* [units * 2][heads][4] */
    float *code_scale; /* [group] of code_q, times the scale of scores */
    float *code_sum;   /* [group] of code_q */
    float *top;        /* [group] greatest score of a group */
    float *mean_row;   /* [means] an entry's */
    float *scores;     /* [group][stride] */
};

/* Heads that are taken together, of `left`. */
static uint32_t index_part(uint32_t left)
{
    return left >= 7 ? 7 : left >= 4 ? 4 : left >= 2 ? 2 : left;
}

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
    for (uint32_t h = 0, first = 0, part = index_part(heads); h < heads; h++) {
        const float *q = index->q + (uint64_t)h * dim;
        if (h == first + part) {
            first = h;
            part = index_part(heads - h);
        }
        float top = 0, sum = 0;
        float *mean_q = pass->mean_q + (uint64_t)first * pass->means;
        int8_t *code_q = pass->code_q + first * coded;
        for (uint32_t d = 0; d < index_means(dim); d++)
            mean_q[(d / SIMD_LANES * part + h - first) * SIMD_LANES + d % SIMD_LANES] = q[d] * scale;
        for (uint32_t d = 0; d < coded && d < dim; d++) top = fabsf(q[d]) > top ? fabsf(q[d]) : top;
        const float step = top / INDEX_QUERY_TOP;
        for (uint32_t d = 0; d < coded && d < dim && step > 0; d++) {
            const float number = roundf(q[d] / step);
            code_q[(d / 4 * part + h - first) * 4 + d % 4] = (int8_t)number;
            sum += number;
        }
        pass->code_scale[h] = step * scale;
        pass->code_sum[h] = sum;
        pass->top[h] = -INFINITY;
    }
}

/* The entries of a batch of groups. They lie a block apart, where no hardware expects them: those of the next batch are asked for
 * while this one's are read. */
struct index_walk {
    const struct index_pass *pass;
    uint32_t block, inner,
        left; /* of the batch after the next: its first entry's place, and how many groups there are */
    const char *entries[2][INDEX_BATCH];
    uint32_t counts[2];
};

static void index_walk_step(struct index_walk *walk)
{
    const struct kernel_index *index = walk->pass->index;
    uint32_t count = walk->left < INDEX_BATCH ? walk->left : INDEX_BATCH;
    memcpy(walk->entries[0], walk->entries[1], sizeof walk->entries[0]);
    walk->counts[0] = walk->counts[1];
    walk->counts[1] = count;
    walk->left -= count;
    for (uint32_t i = 0; i < count; i++) {
        const char *entry = (const char *)index->blocks[walk->block] + walk->inner * walk->pass->bytes;
        walk->entries[1][i] = entry;
        if (++walk->inner < index->per_block) continue;
        walk->inner = 0;
        walk->block++;
    }
}

static void index_walk_open(struct index_walk *walk, const struct index_pass *pass, uint32_t count)
{
    *walk = (struct index_walk){.pass = pass, .left = count};
    index_walk_step(walk);
}

/* Bytes [from, to) of the entry that comes a batch after entry `i` of this one. */
SIMD_INLINE void index_ahead(const struct index_walk *walk, uint32_t i, uint64_t from, uint64_t to)
{
    if (i >= walk->counts[1]) return;
    for (uint64_t at = from; at < to; at += 64) __builtin_prefetch(walk->entries[1][i] + at, 0, 3);
}

/* Calls call(heads, head) for all heads, part by part. */
#define INDEX_EACH_HEADS(group, call)                          \
    do {                                                       \
        uint32_t head = 0, more = (group);                     \
        for (; more >= 7; head += 7, more -= 7) call(7, head); \
        for (; more >= 4; head += 4, more -= 4) call(4, head); \
        for (; more >= 2; head += 2, more -= 2) call(2, head); \
        for (; more; head++, more--) call(1, head);            \
    } while (0)

/* An entry's means times the queries', of each head a vector to be summed, at rows + h * INDEX_BATCH. */
SIMD_INLINE void index_mean_dots(const struct index_pass *pass, const uint32_t heads, uint32_t head, simd *rows)
{
    const float *q = pass->mean_q + (uint64_t)head * pass->means;
    simd acc[INDEX_HEADS];
#pragma GCC unroll 8
    for (uint32_t h = 0; h < heads; h++) acc[h] = simd_set(0);
    for (uint32_t d = 0; d < pass->means; d += SIMD_LANES, q += heads * SIMD_LANES) {
        const simd mean = simd_load(pass->mean_row + d);
#pragma GCC unroll 8
        for (uint32_t h = 0; h < heads; h++) acc[h] = simd_fma(mean, simd_load(q + h * SIMD_LANES), acc[h]);
    }
#pragma GCC unroll 8
    for (uint32_t h = 0; h < heads; h++) rows[(head + h) * INDEX_BATCH] = acc[h];
}

/* 2^t within 3 % (the estimate of t is not as good): the number whose bits are (t + 127) * 2^23, exponent and fraction in one
 * (N. Schraudolph, "A Fast, Compact Approximation of the Exponential Function", Neural Computation 1999). `bits` is that product. */
#define INDEX_BITS_UNIT 0x1p23f
#define INDEX_BITS_ZERO ((127.0f - 0.0436f) * INDEX_BITS_UNIT) /* of t = 0: errors to both sides are alike */
SIMD_INLINE simd index_exp2(simd bits)
{
    bits = simd_min(bits, simd_set(INDEX_BITS_ZERO + INDEX_HIGHEST * INDEX_BITS_UNIT));
    return simd_from_bits(simd_to_int(simd_max(bits, simd_set(0))));
}

/* The weights of a group's keys, of each head a vector to be summed. `codes`: [units * 2][INDEX_VECTORS] of four channels. */
SIMD_INLINE void index_code_dots(const struct index_pass *pass, const uint32_t heads, uint32_t head, uint32_t group,
                                 float entry_scale, const simd_int *codes, simd *rows)
{
    const bool capped = pass->index->softcap > 0;
    const uint32_t dwords = pass->units * 2;
    const int8_t *q = pass->code_q + (uint64_t)head * dwords * 4;
    simd_int acc[INDEX_HEADS][INDEX_VECTORS];
#pragma GCC unroll 8
    for (uint32_t h = 0; h < heads; h++)
#pragma GCC unroll 2
        for (uint32_t v = 0; v < INDEX_VECTORS; v++) acc[h][v] = simd_int_zero();
    for (uint32_t d = 0; d < dwords; d++, q += 4 * heads, codes += INDEX_VECTORS) {
#pragma GCC unroll 8
        for (uint32_t h = 0; h < heads; h++)
#pragma GCC unroll 2
            for (uint32_t v = 0; v < INDEX_VECTORS; v++) acc[h][v] = simd_int_dot_codes(acc[h][v], codes[v], q + 4 * h);
    }
#pragma GCC unroll 8
    for (uint32_t h = 0; h < heads; h++) {
        const float factor = pass->code_scale[head + h] * entry_scale, top = pass->top[head + h];
        const float first =
            pass->scores[(head + h) * pass->stride + group] - INDEX_MIDDLE * pass->code_sum[head + h] * factor;
        const float scale = capped ? factor : factor * INDEX_BITS_UNIT;
        const float offset = capped ? first : (first - top) * INDEX_BITS_UNIT + INDEX_BITS_ZERO;
        simd sum = simd_set(0);
#pragma GCC unroll 2
        for (uint32_t v = 0; v < INDEX_VECTORS; v++) {
            simd t = simd_fma(simd_from_int(acc[h][v]), simd_set(scale), simd_set(offset));
            if (capped)
                t = simd_fma(simd_tanh(t), simd_set((float)(pass->index->softcap * SIMD_LOG2_E) * INDEX_BITS_UNIT),
                             simd_set(INDEX_BITS_ZERO - top * INDEX_BITS_UNIT));
            sum = simd_add(sum, index_exp2(t));
        }
        rows[(head + h) * INDEX_BATCH] = sum;
    }
}

/* Sums the rows of a batch into the scores of its groups. Rows of groups that are not there are anything. */
static void index_sum(const struct index_pass *pass, uint32_t group, const simd *rows)
{
    for (uint32_t h = 0; h < pass->index->group; h++)
        simd_store(pass->scores + h * pass->stride + group, simd_sums(rows + h * INDEX_BATCH));
}

#define INDEX_MEANS(heads, head) index_mean_dots(pass, heads, head, rows + i)
static void index_score_means(const struct index_pass *pass, uint32_t count, simd *rows)
{
    const uint32_t means = index_means(pass->index->head_dim);
    struct index_walk walk;
    index_walk_open(&walk, pass, count);
    for (uint32_t g = 0; g < count; g += INDEX_BATCH) {
        index_walk_step(&walk);
        for (uint32_t i = 0; i < walk.counts[0]; i++) {
            const uint16_t *entry = (const uint16_t *)(const void *)walk.entries[0][i];
            uint32_t d = 0;
            index_ahead(&walk, i, 0, means * sizeof *entry);
            for (; d + SIMD_LANES <= means; d += SIMD_LANES) simd_store(pass->mean_row + d, simd_load_f16(entry + d));
            if (d < means) simd_store(pass->mean_row + d, simd_load_f16_first(entry + d, means - d));
            INDEX_EACH_HEADS(pass->index->group, INDEX_MEANS);
        }
        index_sum(pass, g, rows);
    }
}

/* Each head's greatest group score, in the unit of what is exponentiated. */
static void index_tops(const struct index_pass *pass, uint32_t count)
{
    for (uint32_t h = 0; h < pass->index->group; h++) {
        float *score = pass->scores + h * pass->stride;
        simd top = simd_set(-INFINITY);
        for (uint32_t g = count; g < pass->stride; g++) score[g] = -INFINITY;
        for (uint32_t g = 0; g < count; g += SIMD_LANES) top = simd_max(top, simd_load(score + g));
        pass->top[h] = simd_top(top);
        if (pass->index->softcap > 0) pass->top[h] = (float)(pass->index->softcap * SIMD_LOG2_E) * tanhf(pass->top[h]);
    }
}

#define INDEX_CODES(heads, head) index_code_dots(pass, heads, head, g + i, scale, codes, rows + i)
static void index_weigh_codes(const struct index_pass *pass, uint32_t count, simd *rows)
{
    const uint64_t from = index_scale_offset(pass->index->head_dim);
    const simd_int nibble = simd_int_set(0x0F0F0F0F);
    struct index_walk walk;
    simd_int codes[2 * INDEX_UNITS_MAX * INDEX_VECTORS];
    ASSERT(pass->units <= INDEX_UNITS_MAX);
    index_walk_open(&walk, pass, count);
    for (uint32_t g = 0; g < count; g += INDEX_BATCH) {
        index_walk_step(&walk);
        for (uint32_t i = 0; i < walk.counts[0]; i++) {
            const char *entry = walk.entries[0][i];
            const uint8_t *bytes = (const uint8_t *)entry + from + sizeof(float);
            float scale;
            memcpy(&scale, entry + from, sizeof scale);
            index_ahead(&walk, i, from, pass->bytes);
            for (uint32_t u = 0; u < pass->units; u++)
                for (uint32_t v = 0; v < INDEX_VECTORS; v++, bytes += INDEX_UNIT_BYTES / INDEX_VECTORS) {
                    const simd_int both = simd_int_load((const int32_t *)(const void *)bytes);
                    codes[2 * u * INDEX_VECTORS + v] = simd_int_and(both, nibble);
                    codes[(2 * u + 1) * INDEX_VECTORS + v] = simd_int_and(simd_int_shift_right(both, 4), nibble);
                }
            INDEX_EACH_HEADS(pass->index->group, INDEX_CODES);
        }
        index_sum(pass, g, rows);
    }
}

void INDEX_NAME(index_shares)(const struct kernel_index *index, uint32_t count, float *shares, float *scratch)
{
    struct index_pass pass;
    index_open(&pass, index, count, scratch);
    simd *rows = (simd *)(void *)(pass.scores + index->group * pass.stride); /* [group][INDEX_BATCH] */
    index_score_means(&pass, count, rows);
    index_tops(&pass, count);
    index_weigh_codes(&pass, count, rows);
    memset(shares, 0, pass.stride * sizeof *shares);
    for (uint32_t h = 0; h < index->group; h++) {
        const float *weight = pass.scores + h * pass.stride;
        float sum = 0;
        for (uint32_t g = 0; g < count; g++) sum += weight[g];
        const simd part = simd_set(sum > 0 ? 1 / sum : 0);
        for (uint32_t g = 0; g < pass.stride; g += SIMD_LANES)
            simd_store(shares + g, simd_fma(simd_load(weight + g), part, simd_load(shares + g)));
    }
}
