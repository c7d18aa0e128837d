/* index_simd.h - the index for retrieval, written once in the vector operations of simd_*.h. The tables of attention_simd.h each
 * include it, with INDEX_NAME(function) giving the names of their own.
 *
 * Entries are read once, SIMD_LANES groups at a time: turned in registers so that lanes are groups, no sum goes across lanes.
 *   means   scores[head][group] = the mean's part of the scores, d ascending
 *   codes   sums[head][group] = the sum over the keys of 2^(what a key's own part adds), the parts being integers until then
 * When all scores are known a group's weight is 2^(score - the head's greatest) * sum. A key's own part is held within INDEX_HIGHEST of
 * its group's mean; a needle is some 2^20 times as heavy. Every number is made from one entry and one head, and folded in the order of
 * groups. */
#include "kernel/index_internal.h"
#include "kernel/kernel_internal.h"
#include "kernel/simd_math.h"

#include <math.h>

#define INDEX_HIGHEST 60.0f /* of a key above its group's mean, in base 2 */
#define INDEX_HEADS 7u      /* at once, at most: what is added up for them stays in registers */
/* Queries of the coded channels in 8 bits with one scale a head: codes and they are multiplied as integers. */
#define INDEX_QUERY_TOP 127.0f
/* What sums of these products begin at: the bits of a float whose last place is 1, so that the sum is read as a float. */
#define INDEX_START 0x1.8p23f

struct index_pass {
    const struct kernel_index *index;
    uint64_t bytes, stride;
    uint32_t means, units; /* mean channels, in whole vectors; units of coded ones */
    /* Parts of at most INDEX_HEADS heads, so that a step takes those of all heads from one place: of each part */
    float *mean_q;     /* [means][heads], times the scale of scores */
    int8_t *code_q;    /* [units * 2][heads][4] */
    float *code_scale; /* [group] of code_q, times the scale of scores */
    float *code_sum;   /* [group] of code_q */
    float
        *lanes; /* a batch's [means][SIMD_LANES]; then its codes, [units][KERNEL_GROUP_TOKENS][SIMD_LANES] of 4 bytes */
    float *scores, *sums; /* [group][stride] */
};

/* Heads that are taken together, of `left`. */
static uint32_t index_part(uint32_t left)
{
    return left % INDEX_HEADS == 0 ? INDEX_HEADS : left >= 4 ? 4 : left >= 2 ? 2 : 1;
}

/* Calls call(heads, head) for all heads, part by part; `heads` is a constant. */
#define INDEX_EACH_HEADS(group, call)                                                                      \
    for (uint32_t head = 0, part; head < (group); head += part) switch (part = index_part((group)-head)) { \
        case INDEX_HEADS:                                                                                  \
            call(INDEX_HEADS, head);                                                                       \
            break;                                                                                         \
        case 4:                                                                                            \
            call(4, head);                                                                                 \
            break;                                                                                         \
        case 2:                                                                                            \
            call(2, head);                                                                                 \
            break;                                                                                         \
        default:                                                                                           \
            call(1, head);                                                                                 \
        }

/* Query `h` in its place among those of its part, which begins at head `first`. */
static void index_query(const struct index_pass *pass, uint32_t h, uint32_t first, uint32_t part)
{
    const struct kernel_index *index = pass->index;
    const uint32_t dim = index->head_dim, coded = pass->units * INDEX_UNIT, known = coded < dim ? coded : dim;
    const float scale =
        (float)(index->softcap > 0 ? (double)index->scale / index->softcap : index->scale * SIMD_LOG2_E);
    const float *q = index->q + (uint64_t)h * dim;
    float *mean_q = pass->mean_q + (uint64_t)first * pass->means + h - first;
    int8_t *code_q = pass->code_q + (uint64_t)first * coded + 4 * (h - first);
    float top = 0, sum = 0;
    for (uint32_t d = 0; d < index_means(dim); d++) mean_q[d * part] = q[d] * scale;
    for (uint32_t d = 0; d < known; d++) top = fabsf(q[d]) > top ? fabsf(q[d]) : top;
    const float step = top / INDEX_QUERY_TOP;
    for (uint32_t d = 0; d < known && step > 0; d++) {
        const float number = roundf(q[d] / step);
        code_q[d / 4 * part * 4 + d % 4] = (int8_t)number;
        sum += number;
    }
    pass->code_scale[h] = step * scale;
    pass->code_sum[h] = sum;
}

static void index_open(struct index_pass *pass, const struct kernel_index *index, uint32_t count, float *scratch)
{
    const uint32_t heads = index->group, dim = index->head_dim;
    *pass = (struct index_pass){.index = index,
                                .bytes = kernel_index_bytes(dim),
                                .stride = round_up(count, 16),
                                .means = (uint32_t)round_up(index_means(dim), 16),
                                .units = index_units(dim)};
    const struct index_sizes sizes = index_sizes(heads, dim);
    pass->mean_q = scratch;
    pass->code_q = (int8_t *)(void *)(pass->mean_q + sizes.means);
    pass->code_scale = pass->mean_q + sizes.means + sizes.codes;
    pass->code_sum = pass->code_scale + sizes.heads;
    pass->lanes = pass->code_sum + sizes.heads;
    pass->scores = pass->lanes + sizes.lanes;
    pass->sums = pass->scores + heads * pass->stride;
    memset(scratch, 0, (sizes.means + sizes.codes) * sizeof *scratch);
    for (uint32_t first = 0, part; first < heads; first += part) {
        part = index_part(heads - first);
        for (uint32_t h = first; h < first + part; h++) index_query(pass, h, first, part);
    }
}

/* The entries of a batch of groups, SIMD_LANES of them. They lie a block apart, where no hardware expects them: those of the next batch
 * are asked for while this one's are read. Of groups that are not there some other entry is taken. */
struct index_walk {
    const struct index_pass *pass;
    uint32_t block, inner,
        left; /* of the batch after the next: its first entry's place, and how many groups there are */
    const char *entries[2][SIMD_LANES]; /* of this batch and of the next */
};

static void index_walk_step(struct index_walk *walk)
{
    const struct kernel_index *index = walk->pass->index;
    memcpy(walk->entries[0], walk->entries[1], sizeof walk->entries[0]);
    for (uint32_t i = 0; i < SIMD_LANES && walk->left; i++, walk->left--) {
        walk->entries[1][i] = (const char *)index->blocks[walk->block] + walk->inner * walk->pass->bytes;
        if (++walk->inner < index->per_block) continue;
        walk->inner = 0;
        walk->block++;
    }
}

static void index_walk_open(struct index_walk *walk, const struct index_pass *pass, uint32_t count)
{
    *walk = (struct index_walk){.pass = pass, .left = count};
    for (uint32_t i = 0; i < SIMD_LANES; i++) walk->entries[1][i] = pass->index->blocks[0];
    index_walk_step(walk);
}

SIMD_INLINE void index_ahead(const struct index_walk *walk, uint32_t i)
{
    for (uint64_t at = 0; at < walk->pass->bytes; at += 64) __builtin_prefetch(walk->entries[1][i] + at, 0, 3);
}

/* Rows to lanes. */
SIMD_INLINE void index_turn(simd *rows, float *lanes)
{
    simd_transpose(rows);
#pragma GCC unroll 16
    for (uint32_t i = 0; i < SIMD_LANES; i++) simd_store(lanes + i * SIMD_LANES, rows[i]);
}

static void index_turn_means(const struct index_pass *pass, const char *const *entries)
{
    const uint32_t means = index_means(pass->index->head_dim);
    simd rows[SIMD_LANES];
    for (uint32_t d = 0; d < means; d += SIMD_LANES) {
#pragma GCC unroll 16
        for (uint32_t i = 0; i < SIMD_LANES; i++) {
            const uint16_t *mean = (const uint16_t *)(const void *)entries[i] + d;
            rows[i] = means - d < SIMD_LANES ? simd_load_f16_first(mean, means - d) : simd_load_f16(mean);
        }
        index_turn(rows, pass->lanes + d * SIMD_LANES);
    }
}

static void index_turn_codes(const struct index_pass *pass, const char *const *entries)
{
    simd rows[SIMD_LANES];
    for (uint32_t d = 0; d < pass->units * KERNEL_GROUP_TOKENS; d += SIMD_LANES) {
#pragma GCC unroll 16
        for (uint32_t i = 0; i < SIMD_LANES; i++)
            rows[i] = simd_load((const float *)(const void *)index_codes(entries[i], pass->index->head_dim) + d);
        index_turn(rows, pass->lanes + d * SIMD_LANES);
    }
}

/* Scores of a batch that begins at `group`. */
SIMD_INLINE void index_score(const struct index_pass *pass, const uint32_t heads, uint32_t head, uint32_t group)
{
    const float *q = pass->mean_q + (uint64_t)head * pass->means, *lanes = pass->lanes;
    simd acc[INDEX_HEADS];
#pragma GCC unroll 8
    for (uint32_t h = 0; h < heads; h++) acc[h] = simd_set(0);
    for (uint32_t d = 0; d < pass->means; d++, q += heads, lanes += SIMD_LANES) {
        const simd mean = simd_load(lanes);
#pragma GCC unroll 8
        for (uint32_t h = 0; h < heads; h++) acc[h] = simd_fma(mean, simd_set(q[h]), acc[h]);
    }
#pragma GCC unroll 8
    for (uint32_t h = 0; h < heads; h++) simd_store(pass->scores + (head + h) * pass->stride + group, acc[h]);
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

/* Sums of a batch whose codes lie in lanes; `entry_scales` are its entries'. */
SIMD_INLINE void index_sum(const struct index_pass *pass, const struct index_walk *walk, const uint32_t heads,
                           uint32_t head, uint32_t group, const bool capped, simd entry_scales)
{
    const float unit = capped ? 1 : INDEX_BITS_UNIT;
    const simd cap = simd_set((float)(pass->index->softcap * SIMD_LOG2_E) * INDEX_BITS_UNIT);
    const simd_int nibble = simd_int_set(0x0F0F0F0F), start = simd_bits(simd_set(INDEX_START));
    const int8_t *all_q = pass->code_q + (uint64_t)head * pass->units * INDEX_UNIT;
    simd scale[INDEX_HEADS], offset[INDEX_HEADS], level[INDEX_HEADS], sum[INDEX_HEADS];
#pragma GCC unroll 8
    for (uint32_t h = 0; h < heads; h++) {
        const float middle = INDEX_START + INDEX_MIDDLE * pass->code_sum[head + h];
        sum[h] = simd_set(0);
        scale[h] = simd_mul(entry_scales, simd_set(pass->code_scale[head + h] * unit));
        offset[h] = simd_mul(scale[h], simd_set(-middle));
        if (capped) {
            float *score = pass->scores + (head + h) * pass->stride + group;
            offset[h] = simd_add(offset[h], simd_load(score));
            level[h] = simd_mul(simd_tanh(simd_load(score)), cap);
            simd_store(score, simd_mul(level[h], simd_set(1 / INDEX_BITS_UNIT)));
            level[h] = simd_sub(simd_set(INDEX_BITS_ZERO), level[h]);
        } else {
            offset[h] = simd_add(offset[h], simd_set(INDEX_BITS_ZERO));
        }
    }
    for (uint32_t key = 0; key < KERNEL_GROUP_TOKENS; key++) {
        const float *lanes = pass->lanes + key * SIMD_LANES;
        const int8_t *q = all_q;
        simd_int acc[INDEX_HEADS];
        if (head == 0 && key < SIMD_LANES) index_ahead(walk, key);
#pragma GCC unroll 8
        for (uint32_t h = 0; h < heads; h++) acc[h] = start;
        for (uint32_t u = 0; u < pass->units; u++, lanes += KERNEL_GROUP_TOKENS * SIMD_LANES, q += INDEX_UNIT * heads) {
            const simd_int both = simd_bits(simd_load(lanes)), low = simd_int_and(both, nibble),
                           high = simd_int_and(simd_int_shift_right(both, 4), nibble);
#pragma GCC unroll 8
            for (uint32_t h = 0; h < heads; h++) acc[h] = simd_int_dot_codes(acc[h], low, q + 4 * h);
#pragma GCC unroll 8
            for (uint32_t h = 0; h < heads; h++) acc[h] = simd_int_dot_codes(acc[h], high, q + 4 * (heads + h));
        }
#pragma GCC unroll 8
        for (uint32_t h = 0; h < heads; h++) {
            simd t = simd_fma(simd_from_bits(acc[h]), scale[h], offset[h]);
            if (capped) t = simd_fma(simd_tanh(t), cap, level[h]);
            sum[h] = simd_add(sum[h], index_exp2(t));
        }
    }
#pragma GCC unroll 8
    for (uint32_t h = 0; h < heads; h++) simd_store(pass->sums + (head + h) * pass->stride + group, sum[h]);
}

#define INDEX_SCORE(heads, head) index_score(pass, heads, head, group)
#define INDEX_SUM(heads, head) index_sum(pass, walk, heads, head, group, false, entry_scales)
#define INDEX_SUM_CAPPED(heads, head) index_sum(pass, walk, heads, head, group, true, entry_scales)
static void index_batch(const struct index_pass *pass, const struct index_walk *walk, uint32_t group)
{
    const char *const *entries = walk->entries[0];
    float scales[SIMD_LANES];
    index_turn_means(pass, entries);
    INDEX_EACH_HEADS(pass->index->group, INDEX_SCORE)
    index_turn_codes(pass, entries);
    for (uint32_t i = 0; i < SIMD_LANES; i++) scales[i] = index_scale(entries[i], pass->index->head_dim);
    const simd entry_scales = simd_load(scales);
    if (pass->index->softcap > 0)
        INDEX_EACH_HEADS(pass->index->group, INDEX_SUM_CAPPED)
    else
        INDEX_EACH_HEADS(pass->index->group, INDEX_SUM)
}

/* Adds a head's shares. */
static void index_share(const struct index_pass *pass, uint32_t head, uint32_t count, float *shares)
{
    float *score = pass->scores + head * pass->stride, *weight = pass->sums + head * pass->stride;
    simd top = simd_set(-INFINITY), all = simd_set(0);
    for (uint32_t g = count; g < pass->stride; g++) { /* there are none */
        score[g] = -INFINITY;
        weight[g] = 0;
    }
    for (uint32_t g = 0; g < pass->stride; g += SIMD_LANES) top = simd_max(top, simd_load(score + g));
    top = simd_set(simd_top(top));
    for (uint32_t g = 0; g < pass->stride; g += SIMD_LANES) {
        const simd own = simd_mul(simd_load(weight + g), simd_exp2_below_160(simd_sub(simd_load(score + g), top)));
        all = simd_add(all, own);
        simd_store(weight + g, own);
    }
    const float sum = simd_sum(all);
    const simd part = simd_set(sum > 0 ? 1 / sum : 0);
    for (uint32_t g = 0; g < pass->stride; g += SIMD_LANES)
        simd_store(shares + g, simd_fma(simd_load(weight + g), part, simd_load(shares + g)));
}

void INDEX_NAME(index_shares)(const struct kernel_index *index, uint32_t count, float *shares, float *scratch)
{
    struct index_pass pass;
    struct index_walk walk;
    index_open(&pass, index, count, scratch);
    index_walk_open(&walk, &pass, count);
    for (uint32_t g = 0; g < count; g += SIMD_LANES) {
        index_walk_step(&walk);
        index_batch(&pass, &walk, g);
    }
    memset(shares, 0, pass.stride * sizeof *shares);
    for (uint32_t h = 0; h < index->group; h++) index_share(&pass, h, count, shares);
}
