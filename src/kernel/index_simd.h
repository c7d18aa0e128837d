/* index_simd.h - the index for retrieval, written once in the vector operations of simd_*.h. The tables of attention_simd.h each
 * include it, with INDEX_NAME(function) giving the names of their own.
 *
 * Entries are read once, SIMD_LANES groups at a time: turned in registers so that lanes are groups, no sum goes across lanes. Queries
 * are bytes, with one scale a head, so that all sums are of integers:
 *   means    scores[head][group] = the mean's part of the scores
 *   codes    weights[head][group] = 2^(the greatest of what the keys' own parts add) + INDEX_OTHERS; a sketch takes the spreads
 *            for it instead, and never reads the codes
 * When all scores are known a group's weight is multiplied by 2^(score - the head's greatest). A key's own part is held within
 * INDEX_HIGHEST of its group's mean; a needle is some 2^20 times as heavy. Every number is made from one entry and one head, and
 * folded in the order of groups. */
#include "kernel/index_internal.h"
#include "kernel/kernel_internal.h"
#include "kernel/simd_math.h"

#include <math.h>

#define INDEX_HIGHEST 60.0f /* of a key above its group's mean, in base 2 */
#define INDEX_HEADS 7u      /* at once, at most: what is added up for them stays in registers */
#define INDEX_QUERY_TOP 127.0f
/* What sums of codes begin at: the bits of a float whose last place is 1, so that the sum is read as a float. */
#define INDEX_START 0x1.8p23f
#define INDEX_AHEAD 4u /* batches whose entries are asked for before they are read */

struct index_pass {
    const struct kernel_index *index;
    uint64_t sketch_bytes, codes_bytes, stride;
    uint32_t units;      /* of coded channels */
    uint32_t part_words; /* of a part of the means: four channels each */
    /* Parts of at most INDEX_HEADS heads, so that a step takes those of all heads from one place: of each part */
    int8_t *queries; /* [index_channels / 4][heads][4] */
    int8_t *sizes;   /* [units * 2][heads][4]: of the coded channels, without sign */
    /* [group] each */
    float *scale;         /* of a query's bytes, times the scale of scores */
    float *code_sum;      /* of its coded channels' bytes */
    int32_t *part_starts; /* [INDEX_PARTS] what products with means begin at, whose bytes are INDEX_ZERO too high */
    float *factors;       /* of weights, when these are shares */
    /* A batch's sketches, [words][SIMD_LANES]; then its codes, [units][KERNEL_GROUP_TOKENS][SIMD_LANES] */
    float *lanes;
    float *scores, *weights; /* [group][stride] */
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
    const uint32_t dim = index->head_dim, channels = index_channels(dim), known = channels < dim ? channels : dim,
                   coded = pass->units * INDEX_UNIT;
    const float *q = index->q + (uint64_t)h * dim;
    int8_t *bytes = pass->queries + (uint64_t)first * channels + 4 * (h - first),
           *sizes = pass->sizes + (uint64_t)first * coded + 4 * (h - first);
    float top = 0;
    for (uint32_t d = 0; d < known; d++) top = fabsf(q[d]) > top ? fabsf(q[d]) : top;
    const float step = top / INDEX_QUERY_TOP;
    for (uint32_t d = 0; d < known && step > 0; d++) {
        const int8_t number = (int8_t)roundf(q[d] / step);
        const uint32_t at = d / 4 * part * 4 + d % 4, mean_part = d / 4 / pass->part_words;
        bytes[at] = number;
        if (mean_part < INDEX_PARTS) pass->part_starts[h * INDEX_PARTS + mean_part] -= INDEX_ZERO * number;
        if (d >= coded) continue;
        sizes[at] = (int8_t)abs(number);
        pass->code_sum[h] += number;
    }
    pass->scale[h] =
        step * (float)(index->softcap > 0 ? (double)index->scale / index->softcap : index->scale * SIMD_LOG2_E);
}

static void index_open(struct index_pass *pass, const struct kernel_index *index, uint32_t count, float *scratch)
{
    const uint32_t heads = index->group, dim = index->head_dim;
    *pass = (struct index_pass){.index = index,
                                .sketch_bytes = index_sketch_bytes(dim),
                                .codes_bytes = index_codes_bytes(dim),
                                .stride = round_up(count, 16),
                                .units = index_units(dim),
                                .part_words = index_part_channels(dim) / 4};
    const struct index_sizes sizes = index_sizes(heads, dim);
    pass->queries = (int8_t *)(void *)scratch;
    pass->sizes = (int8_t *)(void *)(scratch + sizes.queries);
    pass->scale = scratch + sizes.queries + sizes.sizes;
    pass->code_sum = pass->scale + sizes.heads;
    pass->part_starts = (int32_t *)(void *)(pass->code_sum + sizes.heads);
    pass->factors = pass->code_sum + (1 + INDEX_PARTS) * sizes.heads;
    pass->lanes = pass->factors + sizes.heads;
    pass->scores = pass->lanes + sizes.lanes;
    pass->weights = pass->scores + heads * pass->stride;
    memset(scratch, 0, (uint64_t)(pass->lanes - scratch) * sizeof *scratch);
    for (uint32_t first = 0, part; first < heads; first += part) {
        part = index_part(heads - first);
        for (uint32_t h = first; h < first + part; h++) index_query(pass, h, first, part);
    }
}

/* A batch of groups: where their sketches and codes lie. Of groups that are not there some other's are taken. */
struct index_places {
    const char *sketches[SIMD_LANES], *codes[SIMD_LANES];
};

/* Batches of groups, one after the other. They lie blocks apart, where no hardware expects them: those of a later batch are asked for
 * while this one's are read. */
struct index_walk {
    const struct index_pass *pass;
    uint32_t group, count; /* the next one that is asked for, and how many there are */
    uint32_t block, inner; /* its place, if groups have no order of their own */
    uint32_t at;           /* this batch among the places; behind it the next ones, in a ring */
    struct index_places places[INDEX_AHEAD + 1];
};

/* The batch that is asked for while this one is read. */
static uint32_t index_ahead(const struct index_walk *walk)
{
    return (walk->at + INDEX_AHEAD) % (INDEX_AHEAD + 1);
}

/* `closely` is a constant: whether codes are wanted, too. */
SIMD_INLINE void index_walk_step(struct index_walk *walk, const bool closely)
{
    const struct kernel_index *index = walk->pass->index;
    const uint64_t sketch_bytes = walk->pass->sketch_bytes, codes_bytes = walk->pass->codes_bytes;
    const uint32_t per_block = index->per_block, left = walk->count - walk->group,
                   count = left < SIMD_LANES ? left : SIMD_LANES;
    const uint32_t *order = index->order ? index->order + walk->group : NULL;
    uint32_t block = walk->block, inner = walk->inner;
    walk->at = (walk->at + 1) % (INDEX_AHEAD + 1);
    struct index_places *ahead = &walk->places[index_ahead(walk)];
    for (uint32_t i = 0; i < count; i++) {
        if (order) {
            block = order[i] / per_block;
            inner = order[i] % per_block;
        }
        const char *base = index->blocks[block];
        ahead->sketches[i] = base + inner * sketch_bytes;
        if (closely) ahead->codes[i] = base + per_block * sketch_bytes + inner * codes_bytes;
        if (++inner < per_block) continue;
        inner = 0;
        block++;
    }
    walk->group += count;
    walk->block = block;
    walk->inner = inner;
}

SIMD_INLINE void index_ask(const char *place, uint64_t bytes)
{
    for (uint64_t at = 0; at < bytes; at += 64) __builtin_prefetch(place + at, 0, 3);
}

/* Stands before the first batch: the next step leads there. */
SIMD_INLINE void index_walk_open(struct index_walk *walk, const struct index_pass *pass, uint32_t count,
                                 const bool closely)
{
    *walk = (struct index_walk){.pass = pass, .count = count};
    for (uint32_t b = 0; b <= INDEX_AHEAD; b++)
        for (uint32_t i = 0; i < SIMD_LANES; i++)
            walk->places[b].sketches[i] = walk->places[b].codes[i] = pass->index->blocks[0];
    for (uint32_t b = 0; b < INDEX_AHEAD; b++) {
        index_walk_step(walk, closely);
        for (uint32_t i = 0; i < SIMD_LANES; i++)
            index_ask(walk->places[index_ahead(walk)].sketches[i], pass->sketch_bytes);
    }
}

/* Rows to lanes: `words` of four bytes at each of `places`, and behind them what makes whole vectors. */
static void index_turn(const struct index_pass *pass, const char *const *places, uint32_t words)
{
    simd rows[SIMD_LANES];
    for (uint32_t w = 0; w < words; w += SIMD_LANES) {
#pragma GCC unroll 16
        for (uint32_t i = 0; i < SIMD_LANES; i++) rows[i] = simd_load((const float *)(const void *)places[i] + w);
        simd_transpose(rows);
#pragma GCC unroll 16
        for (uint32_t i = 0; i < SIMD_LANES; i++) simd_store(pass->lanes + (w + i) * SIMD_LANES, rows[i]);
    }
}

/* Scale `which` of a batch's entries, whose words before the codes lie in lanes. */
SIMD_INLINE simd index_entry_scales(const struct index_pass *pass, uint32_t which)
{
    const uint32_t word = index_scales_offset(pass->index->head_dim) / 4;
    const simd_int codes = simd_int_and(
        simd_int_shift_right(simd_bits(simd_load(pass->lanes + word * SIMD_LANES)), 8 * which), simd_int_set(0xFF));
    return simd_from_bits(
        simd_int_add(simd_int_shift_left(codes, INDEX_SCALE_SHIFT), simd_int_set((int32_t)INDEX_SCALE_LEAST)));
}

/* acc + the products of each lane's four unsigned bytes with the four signed ones at `q`, none of which is -128. */
SIMD_INLINE simd_int index_dot_bytes(simd_int acc, simd_int bytes, const int8_t *q)
{
#if defined __AVX512VNNI__ || defined __AVXVNNI__
    return simd_int_dot_codes(acc, bytes, q);
#else /* pairs of products of 8 bits do not fit in 16: the highest bits are added apart */
    const simd_int top = simd_int_and(simd_int_shift_right(bytes, 7), simd_int_set(0x01010101));
    acc = simd_int_dot_codes(acc, simd_int_and(bytes, simd_int_set(0x7F7F7F7F)), q);
    return simd_int_add(acc, simd_int_shift_left(simd_int_dot_codes(simd_int_zero(), top, q), 7));
#endif
}

/* acc[h] + the products of a unit's nibbles, eight of each lane, with those at `q`: [2][heads][4]. */
SIMD_INLINE void index_dot_unit(simd_int *acc, const uint32_t heads, simd_int both, const int8_t *q)
{
    const simd_int nibble = simd_int_set(0x0F0F0F0F), low = simd_int_and(both, nibble),
                   high = simd_int_and(simd_int_shift_right(both, 4), nibble);
#pragma GCC unroll 8
    for (uint32_t h = 0; h < heads; h++) acc[h] = simd_int_dot_codes(acc[h], low, q + 4 * h);
#pragma GCC unroll 8
    for (uint32_t h = 0; h < heads; h++) acc[h] = simd_int_dot_codes(acc[h], high, q + 4 * (heads + h));
}

/* Scores of a batch that begins at `group`. Asks for the sketches of a later one, bit by bit: all at once they would be more than
 * a core can wait for. */
SIMD_INLINE void index_score(const struct index_pass *pass, const struct index_walk *walk, const uint32_t heads,
                             uint32_t head, uint32_t group)
{
    const int8_t *q = pass->queries + (uint64_t)head * index_channels(pass->index->head_dim);
    const float *lanes = pass->lanes;
    simd sum[INDEX_HEADS];
#pragma GCC unroll 8
    for (uint32_t h = 0; h < heads; h++) sum[h] = simd_set(0);
    for (uint32_t part = 0; part < INDEX_PARTS; part++) {
        simd_int acc[INDEX_HEADS];
        for (uint32_t i = part * SIMD_LANES / INDEX_PARTS; head == 0 && i < (part + 1) * SIMD_LANES / INDEX_PARTS; i++)
            index_ask(walk->places[index_ahead(walk)].sketches[i], pass->sketch_bytes);
#pragma GCC unroll 8
        for (uint32_t h = 0; h < heads; h++) acc[h] = simd_int_set(pass->part_starts[(head + h) * INDEX_PARTS + part]);
        for (uint32_t w = 0; w < pass->part_words; w++, lanes += SIMD_LANES, q += 4 * heads) {
            const simd_int means = simd_bits(simd_load(lanes));
#pragma GCC unroll 8
            for (uint32_t h = 0; h < heads; h++) acc[h] = index_dot_bytes(acc[h], means, q + 4 * h);
        }
        const simd scale = index_entry_scales(pass, part);
#pragma GCC unroll 8
        for (uint32_t h = 0; h < heads; h++) sum[h] = simd_fma(simd_from_int(acc[h]), scale, sum[h]);
    }
#pragma GCC unroll 8
    for (uint32_t h = 0; h < heads; h++)
        simd_store(pass->scores + (head + h) * pass->stride + group, simd_mul(sum[h], simd_set(pass->scale[head + h])));
}

/* 2^t within 3 % (the estimate of t is not as good): the number whose bits are (t + 127) * 2^23, exponent and fraction in one
 * (N. Schraudolph, "A Fast, Compact Approximation of the Exponential Function", Neural Computation 1999). */
#define INDEX_BITS_UNIT 0x1p23f
#define INDEX_BITS_ZERO ((127.0f - 0.0436f) * INDEX_BITS_UNIT) /* of t = 0: errors to both sides are alike */
SIMD_INLINE simd index_exp2(simd t)
{
    t = simd_max(simd_min(t, simd_set(INDEX_HIGHEST)), simd_set(-INDEX_HIGHEST));
    return simd_from_bits(simd_to_int(simd_fma(t, simd_set(INDEX_BITS_UNIT), simd_set(INDEX_BITS_ZERO))));
}

/* The weight of a batch's groups for `head`, whose key nearest to the query adds `own`. With a cap scores were divided by it. */
SIMD_INLINE void index_weigh(const struct index_pass *pass, uint32_t head, uint32_t group, simd own)
{
    float *score = pass->scores + head * pass->stride + group;
    if (pass->index->softcap > 0) {
        const simd cap = simd_set((float)(pass->index->softcap * SIMD_LOG2_E)),
                   level = simd_mul(simd_tanh(simd_load(score)), cap);
        own = simd_sub(simd_mul(simd_tanh(simd_add(simd_load(score), own)), cap), level);
        simd_store(score, level);
    }
    simd_store(pass->weights + head * pass->stride + group, simd_add(index_exp2(own), simd_set(INDEX_OTHERS)));
}

/* Weights of a batch whose codes lie in lanes; `scales` are its entries'. */
SIMD_INLINE void index_nearest(const struct index_pass *pass, const struct index_walk *walk, const uint32_t heads,
                               uint32_t head, uint32_t group, simd scales)
{
    const simd_int start = simd_bits(simd_set(INDEX_START));
    const int8_t *all_q = pass->queries + (uint64_t)head * index_channels(pass->index->head_dim);
    simd top[INDEX_HEADS];
#pragma GCC unroll 8
    for (uint32_t h = 0; h < heads; h++) top[h] = simd_set(0);
    for (uint32_t key = 0; key < KERNEL_GROUP_TOKENS; key++) {
        const float *lanes = pass->lanes + key * SIMD_LANES;
        const int8_t *q = all_q;
        simd_int acc[INDEX_HEADS];
        if (head == 0 && key < SIMD_LANES) index_ask(walk->places[index_ahead(walk)].codes[key], pass->codes_bytes);
#pragma GCC unroll 8
        for (uint32_t h = 0; h < heads; h++) acc[h] = start;
        for (uint32_t u = 0; u < pass->units; u++, lanes += KERNEL_GROUP_TOKENS * SIMD_LANES, q += INDEX_UNIT * heads)
            index_dot_unit(acc, heads, simd_bits(simd_load(lanes)), q);
#pragma GCC unroll 8
        for (uint32_t h = 0; h < heads; h++) top[h] = simd_max(top[h], simd_from_bits(acc[h]));
    }
#pragma GCC unroll 8
    for (uint32_t h = 0; h < heads; h++) {
        const float middle = INDEX_START + INDEX_MIDDLE * pass->code_sum[head + h];
        const simd own = simd_mul(simd_sub(top[h], simd_set(middle)), scales);
        index_weigh(pass, head + h, group, simd_mul(own, simd_set(pass->scale[head + h])));
    }
}

/* Weights of a batch as its spreads tell them. */
SIMD_INLINE void index_reach(const struct index_pass *pass, const uint32_t heads, uint32_t head, uint32_t group,
                             simd scales)
{
    const int8_t *q = pass->sizes + (uint64_t)head * pass->units * INDEX_UNIT;
    const float *lanes = pass->lanes + index_spreads_offset(pass->index->head_dim) / 4 * SIMD_LANES;
    simd_int acc[INDEX_HEADS];
#pragma GCC unroll 8
    for (uint32_t h = 0; h < heads; h++) acc[h] = simd_int_zero();
    for (uint32_t u = 0; u < pass->units; u++, lanes += SIMD_LANES, q += INDEX_UNIT * heads)
        index_dot_unit(acc, heads, simd_bits(simd_load(lanes)), q);
#pragma GCC unroll 8
    for (uint32_t h = 0; h < heads; h++) {
        const simd own = simd_mul(simd_from_int(acc[h]), scales);
        index_weigh(pass, head + h, group, simd_mul(own, simd_set(INDEX_REACH * INDEX_SPREAD * pass->scale[head + h])));
    }
}

#define INDEX_SCORE(heads, head) index_score(pass, walk, heads, head, group)
#define INDEX_NEAREST(heads, head) index_nearest(pass, walk, heads, head, group, scales)
#define INDEX_REACHES(heads, head) index_reach(pass, heads, head, group, scales)
static void index_batch(const struct index_pass *pass, const struct index_walk *walk, uint32_t group)
{
    index_turn(pass, walk->places[walk->at].sketches, (uint32_t)pass->sketch_bytes / 4);
    INDEX_EACH_HEADS(pass->index->group, INDEX_SCORE)
    const simd scales = index_entry_scales(pass, INDEX_PARTS);
    index_turn(pass, walk->places[walk->at].codes, (uint32_t)pass->codes_bytes / 4);
    INDEX_EACH_HEADS(pass->index->group, INDEX_NEAREST)
}

static void index_sketch_batch(const struct index_pass *pass, const struct index_walk *walk, uint32_t group)
{
    index_turn(pass, walk->places[walk->at].sketches, (uint32_t)pass->sketch_bytes / 4);
    INDEX_EACH_HEADS(pass->index->group, INDEX_SCORE)
    const simd scales = index_entry_scales(pass, INDEX_PARTS);
    INDEX_EACH_HEADS(pass->index->group, INDEX_REACHES)
}

/* Weights of a head become its groups' parts of the softmax, but for a factor that all have in common, which is returned. */
static float index_soften(const struct index_pass *pass, uint32_t head, uint32_t count)
{
    float *score = pass->scores + head * pass->stride, *weight = pass->weights + head * pass->stride;
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
    return sum > 0 ? 1 / sum : 0;
}

static void index_add_shares(const struct index_pass *pass, uint32_t count, float *shares)
{
    const uint32_t heads = pass->index->group;
    for (uint32_t h = 0; h < heads; h++) pass->factors[h] = index_soften(pass, h, count);
    for (uint32_t g = 0; g < pass->stride; g += SIMD_LANES) {
        simd sum = simd_set(0);
        for (uint32_t h = 0; h < heads; h++)
            sum = simd_fma(simd_load(pass->weights + h * pass->stride + g), simd_set(pass->factors[h]), sum);
        simd_store(shares + g, sum);
    }
}

SIMD_INLINE void index_run(const struct kernel_index *index, uint32_t count, float *shares, float *scratch,
                           const bool closely)
{
    struct index_pass pass;
    struct index_walk walk;
    index_open(&pass, index, count, scratch);
    index_walk_open(&walk, &pass, count, closely);
    for (uint32_t g = 0; g < count; g += SIMD_LANES) {
        index_walk_step(&walk, closely);
        if (closely)
            index_batch(&pass, &walk, g);
        else
            index_sketch_batch(&pass, &walk, g);
    }
    index_add_shares(&pass, count, shares);
}

void INDEX_NAME(index_shares)(const struct kernel_index *index, uint32_t count, float *shares, float *scratch)
{
    index_run(index, count, shares, scratch, true);
}

void INDEX_NAME(index_sketch)(const struct kernel_index *index, uint32_t count, float *shares, float *scratch)
{
    index_run(index, count, shares, scratch, false);
}
