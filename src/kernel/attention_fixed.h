/* attention_fixed.h - attention over a cache that is narrower than f32, in 16-bit fixed point. Included by attention_simd.h.
 *
 * An f16 row carries 11 bits, so its products need no f32 multiply-adds: two products of 16-bit integers, added to 32
 * bits, are one instruction (vpdpwssd; vpmaddwd and an add without VNNI), twice the multiply-adds. Rows of elements (f32, f16,
 * bf16) are multiplied by powers of two, so that most f16 numbers are converted exactly; codes (int8, the levels of int4, fp8)
 * are the integers, or stand for numbers that are, and their row's scale is applied afterwards. Sums of products are exact.
 *
 *   q      each row times 2^m so that its Euclidean norm lies in [2^14, 2^15)
 *   k      elements: each row times 2^n so that its largest magnitude lies in [2^(b - 1), 2^b), where
 *          2^b * sqrt(head_dim) <= 2^16: by Cauchy and Schwarz no partial sum of q.k reaches 2^31
 *          fp8_e5m2: the largest number that is written, times a power of two, is 1.75 * 2^(b - 1)
 *          int8: at most 127, so that q.k stays below 2^15 * 127 * sqrt(head_dim), 2^31 from head_dim 266,000 on
 *          int4: code * step + least, the step with 4 more bits, and fp8_e4m3: number * scale + middle, times the power of
 *          two for which the largest magnitude that any channel of the pair of groups can have is just below 2^b
 *   v      elements: each row times 2^n so that its largest magnitude lies in [2^12, 2^13); fp8: 1.75 * 2^12; int8 and
 *          int4: at most 127
 *   p      2^n leaves the integers of V through the weights: with t = score - n in base 2, the weight of a key is
 *          2^(t - top + 12), top being the largest t of its chunk: weights of keys with small V rows are not lost. A scale
 *          that is no power of two is f * 2^-n with f in [0.5, 1) (fp8) or [2, 4) (int8, int4), of either sign; the weight
 *          is then multiplied by f before it is rounded.
 *
 * Keys go in chunks of 64 absolute positions: 64 * 2^12 * 2^13 = 2^31 (elements; fp8 less), or 64 * 2^14 * 127 (int8, int4),
 * bounds the weighted sum. A chunk's K and V are converted once into scratch, for all queries of the call (in the first-level cache: 16 KB at dimension 64); queries
 * follow in tiles of ATTEND_TILE_ROWS rows. A row's partial of the segment is
 *     values = values * 2^(maximum - new) + chunk's values * 2^(top - new),  new = max(maximum, top)
 * and the partials are folded into the state at the end of each segment, as everywhere. All of a row's numbers follow
 * from its own query and the keys it sees, so no trace of tile, call or thread is left. Keys that a row may not see get
 * the weight 0; integers hold no NaN that 0 would not cancel. */
#define CHUNK_GROUPS (CHUNK_KEYS / KERNEL_GROUP_TOKENS)
#define CHUNK_VECTORS (CHUNK_KEYS / SIMD_LANES)
#define P_BITS 12
#define NOTHING (-3e38f)        /* score of a key that is not seen; a maximum over none */
#define ALMOST_NOTHING (-1e30f) /* above NOTHING, below every score */
/* Keeps the loops over keys apart from each other and from what runs once a segment: 2 % at dimension 64, gcc 12. */
#define OUT_OF_LINE __attribute__((noinline))
#define NORM_LEAST 1e-30f /* a query of a smaller squared norm counts as zeros */
#define AHEAD_GROUPS 2u   /* at least; 4 of f16 are slower, and so are requests spread over the products */
#define AHEAD_BYTES 4096u /* of K, of smaller groups */

/* attention_tiles.h */
struct brief_call {
    uint32_t depth, k_parts;     /* tiles that a head's columns fill; how many bf16 a number of K becomes, 1 or 2 */
    uint32_t row_tiles, columns; /* tiles of q, of V */
    uint16_t *q;                 /* [row_tiles][depth][16 rows][32] */
    uint16_t *k;                 /* [k_parts][depth][KEY_TILES][16 pairs of columns][16 keys][2] */
    uint16_t *v;   /* [columns][KEY_BLOCKS][16 pairs of keys][16][2]; pairs in the order of weights_order */
    uint16_t *p;   /* [2][KEY_BLOCKS][16 rows][32 keys] */
    float *scores; /* [2][KEY_TILES][16 rows][16 keys] */
    float *bias;   /* [CHUNK_GROUPS][depth * 32] what each group of keys was stored less */
};

struct fixed_call {
    const struct kernel_attend *attend;
    bool resume;                     /* the segment's partial is in the state */
    uint32_t rows, q_pairs, columns; /* (token, head) rows; ceil(head_dim / 2); value_dim in whole vectors */
    int32_t k_bits;                  /* magnitudes of K's integers are below 2^k_bits */
    int32_t *q;                      /* tiles of at most ATTEND_TILE_ROWS rows, each part [q_pairs][rows]: two int16 */
    float *q_scale;                  /* [rows] what a row's integers are to be multiplied with */
    float *maximum, *sum, *values;   /* the segment's partial: [rows], [rows], [rows in whole tiles][columns] */
    /* the chunk */
    int32_t *k;                 /* [q_pairs][CHUNK_KEYS] two int16 of d each */
    int32_t *v;                 /* [CHUNK_KEYS / 2][columns] two int16 of adjacent keys each */
    float *k_scale;             /* [CHUNK_KEYS] */
    int16_t *k_step, *k_least;  /* [head_dim in whole vectors] of a pair of groups in int4 */
    float *k_factor, *k_middle; /* [head_dim in whole vectors] of a pair of groups in fp8_e4m3 */
    float *v_power;             /* [CHUNK_KEYS] n */
    float *v_scale;             /* [CHUNK_KEYS] 2^n */
    float *v_factor;            /* [CHUNK_KEYS] f; 1 for elements */
    float *scores;              /* [ATTEND_TILE_ROWS][CHUNK_KEYS] */
    int16_t *p;                 /* [ATTEND_TILE_ROWS][CHUNK_KEYS] */
    float *offset_q;            /* tiles like q, each part [group_dims][rows], times the scale of scores; or NULL */
    float *offsets;             /* [rows][KERNEL_SEGMENT_GROUPS] of a segment; or NULL */
    float *turned_offsets;      /* for offset_rows(); or NULL */
    float *key_q;               /* [rows][KERNEL_OFFSET_KEY_DIMS], times the scale of scores; or NULL */
    void (*chunk)(const struct fixed_call *call, const struct segment *segment, uint32_t index, uint32_t chunk);
    struct brief_call brief; /* of the rest, where prompts go through tiles */
};

#include "kernel/attention_convert.h"

/* ---- queries ----------------------------------------------------------------------------------------------------- */

/* m such that a row whose squared norm is given has a norm times 2^m in [2^14, 2^15). */
static int32_t norm_power(float squared)
{
    uint32_t bits;
    if (!(squared >= NORM_LEAST)) squared = NORM_LEAST;
    memcpy(&bits, &squared, sizeof bits);
    int32_t exponent = (int32_t)(bits >> 23) - 127; /* the norm is in [2^(exponent / 2), 2^((exponent + 1) / 2)) */
    return 15 - (exponent + 2 + 256) / 2 + 128;     /* 15 - ceil((exponent + 1) / 2), whatever the sign */
}

/* One query row into lane `r` of `rows` interleaved rows. */
static void convert_query(const struct fixed_call *call, uint32_t row, int32_t *out, uint32_t rows)
{
    const struct kernel_attend *a = call->attend;
    const float *q = a->q + row / a->group * a->q_token_stride + (uint64_t)(row % a->group) * a->head_dim;
    simd squared = simd_set(0);
    for (uint32_t d = 0; d < a->head_dim; d += SIMD_LANES) {
        simd part = simd_load_first(q + d, a->head_dim - d < SIMD_LANES ? a->head_dim - d : SIMD_LANES);
        squared = simd_fma(part, part, squared);
    }
    const int32_t power = norm_power(simd_sum(squared));
    const simd scale = simd_set(power_of_2(power));
    for (uint32_t d = 0; d < a->head_dim; d += SIMD_LANES) {
        int32_t lanes[SIMD_LANES];
        uint32_t count = a->head_dim - d < SIMD_LANES ? a->head_dim - d : SIMD_LANES;
        /* A single element may be rounded up to 2^15. */
        simd part = simd_min(simd_mul(simd_load_first(q + d, count), scale), simd_set(32767.0f));
        simd_int_store(lanes, simd_to_int(part));
        for (uint32_t i = 0; i < count; i += 2, out += rows)
            *out = (int32_t)((uint32_t)(lanes[i] & 0xFFFF) | (uint32_t)lanes[i + 1] << 16);
    }
    call->q_scale[row] = power_of_2(-power) * score_scale(a);
}

/* ---- one tile of rows against the chunk -------------------------------------------------------------------------- */

struct fixed_tile {
    const struct fixed_call *call;
    uint32_t row, rows;              /* first row, and how many */
    uint32_t group_begin, group_end; /* groups of the chunk that any row sees, and those between */
    uint32_t first_group;            /* of the chunk, in its segment */
    const float *const *key_offsets; /* of the chunk's groups */
    uint64_t seen[ATTEND_TILE_ROWS]; /* bit i: whether each row sees key i of the chunk */
};

SIMD_INLINE void fixed_score_tile(const uint32_t rows, const uint32_t vectors, const int32_t *q, const int32_t *k,
                                  uint32_t pairs, const float *q_scale, float *scores)
{
    simd_int acc[SIMD_TILE_ROWS][2];
#pragma GCC unroll 12
    for (uint32_t r = 0; r < rows; r++)
#pragma GCC unroll 2
        for (uint32_t j = 0; j < vectors; j++) acc[r][j] = simd_int_zero();
    for (uint32_t d = 0; d < pairs; d++, k += CHUNK_KEYS, q += rows) {
        simd_int key[2];
#pragma GCC unroll 2
        for (uint32_t j = 0; j < vectors; j++) key[j] = simd_int_load(k + j * SIMD_LANES);
#pragma GCC unroll 12
        for (uint32_t r = 0; r < rows; r++) {
#pragma GCC unroll 2
            for (uint32_t j = 0; j < vectors; j++) acc[r][j] = simd_int_dot(acc[r][j], key[j], q + r);
        }
    }
#pragma GCC unroll 12
    for (uint32_t r = 0; r < rows; r++)
#pragma GCC unroll 2
        for (uint32_t j = 0; j < vectors; j++)
            simd_store(scores + r * CHUNK_KEYS + j * SIMD_LANES,
                       simd_mul(simd_from_int(acc[r][j]), simd_set(q_scale[r])));
}

#define FIXED_SCORE_CASE(rows, vectors) \
    fixed_score_tile(rows, vectors, q, call->k + lane, call->q_pairs, call->q_scale + row, scores)

static void fixed_scores(const struct fixed_tile *tile)
{
    const struct fixed_call *call = tile->call;
    uint32_t parts = (tile->rows + SIMD_TILE_ROWS - 1) / SIMD_TILE_ROWS, some;
    for (uint32_t part = 0; part < parts; part++) {
        uint32_t first = part_begin(tile->rows, parts, part), rows = part_begin(tile->rows, parts, part + 1) - first;
        uint32_t row = tile->row + first;
        const int32_t *q = call->q + (uint64_t)row * call->q_pairs;
        for (uint32_t g = tile->group_begin; g < tile->group_end; g += some) {
            uint32_t lane = g * KERNEL_GROUP_TOKENS;
            float *scores = call->scores + first * CHUNK_KEYS + lane;
            some = tile->group_end - g < SCORE_GROUPS ? tile->group_end - g : SCORE_GROUPS;
            if (some == SCORE_GROUPS)
                ROWS_SWITCH(rows, FIXED_SCORE_CASE, 2)
            else
                ROWS_SWITCH(rows, FIXED_SCORE_CASE, GROUP_VECTORS)
        }
    }
}

/* 2^(t + P_BITS) for t <= 0, within 3e-6 of itself; from t = -100 down a number too small to count. 2^t = 2^n * 2^r with n
 * the nearest whole number, found by adding ROUNDER; 2^r = 1 + r * P(r), P of degree 3 (Remez for the relative error). */
SIMD_INLINE simd fixed_exp2(simd t)
{
    t = simd_max(simd_set(-100.0f), t);
    const simd rounder = simd_set(ROUNDER + P_BITS), rounded = simd_add(t, rounder);
    const simd r = simd_sub(t, simd_sub(rounded, rounder));
    simd p = simd_set(0x1.3a02ccp-7f);
    p = simd_fma(p, r, simd_set(0x1.c9fc46p-5f));
    p = simd_fma(p, r, simd_set(0x1.ec0378p-3f));
    p = simd_fma(p, r, simd_set(0x1.62e12cp-1f));
    p = simd_fma(p, r, simd_set(1.0f));
    return simd_from_bits(simd_int_add(simd_bits(p), simd_int_shift_left(simd_bits(rounded), 23)));
}

/* Scores in vectors [begin, end) of a row to weights; the largest score, and the sum of the weights. `offsets`: what is added
 * to the scores, or NULL; `keyed` false: the same to all of a group. `factors` false: all are 1. */
SIMD_INLINE float softmax_vectors(const struct fixed_call *call, const uint32_t begin, const uint32_t end,
                                  const bool edges, const uint64_t seen, const bool factors,
                                  const struct row_offsets *offsets, const bool keyed, const float *scores,
                                  int16_t *weights, float *top)
{
    const float softcap = call->attend->softcap;
    simd t[CHUNK_VECTORS], added[CHUNK_VECTORS], most = simd_set(ALMOST_NOTHING), sum = simd_set(0);
    if (offsets && keyed) offsets_at(offsets, 0, begin, end, added);
#pragma GCC unroll 8
    for (uint32_t i = begin; i < end; i++) {
        const uint32_t lane = i * SIMD_LANES;
        simd score = simd_load(scores + lane), n = simd_load(call->v_power + lane),
             scale = simd_load(call->k_scale + lane);
        if (offsets && !keyed) added[i] = simd_set(offsets->groups[i / GROUP_VECTORS]);
        if (softcap > 0) {
            score = offsets ? simd_fma(score, scale, added[i]) : simd_mul(score, scale);
            score = simd_fms(simd_tanh(score), simd_set((float)((double)softcap * SIMD_LOG2_E)), n);
        } else {
            if (offsets) n = simd_sub(n, added[i]);
            score = simd_fms(score, scale, n);
        }
        if (edges) score = simd_where_bits(seen >> lane, score, simd_set(NOTHING));
        most = simd_max(most, score);
        t[i] = score;
    }
    *top = simd_top(most);
    const simd offset = simd_set(*top);
#pragma GCC unroll 8
    for (uint32_t i = begin; i < end; i++) {
        const uint32_t lane = i * SIMD_LANES;
        simd p = fixed_exp2(simd_sub(t[i], offset));
        if (edges) p = simd_where_bits(seen >> lane, p, simd_set(0));
        sum = simd_fma(p, simd_load(call->v_scale + lane), sum);
        if (factors) p = simd_mul(p, simd_load(call->v_factor + lane));
        simd_store_i16(weights + lane, simd_to_int(p));
    }
    return simd_sum(sum);
}

static float fixed_softmax(const struct fixed_tile *tile, uint32_t r, float *top)
{
    const uint64_t seen = tile->seen[r];
    const struct fixed_call *call = tile->call;
    const float *scores = call->scores + r * CHUNK_KEYS;
    const struct row_offsets all = {
        .groups = call->offsets ? call->offsets + (uint64_t)(tile->row + r) * KERNEL_SEGMENT_GROUPS + tile->first_group
                                : NULL,
        .keys = tile->key_offsets,
        .key_q = call->key_q ? call->key_q + (uint64_t)(tile->row + r) * KERNEL_OFFSET_KEY_DIMS : NULL,
        .key_dims = call->attend->offset.key_dims};
    const struct row_offsets *offsets = call->attend->offset.q ? &all : NULL;
    int16_t *weights = call->p + r * CHUNK_KEYS;
    if (~seen) /* a chunk at an edge */
        return softmax_vectors(call, tile->group_begin * GROUP_VECTORS, tile->group_end * GROUP_VECTORS, true, seen,
                               true, offsets, true, scores, weights, top);
    if (offsets && all.key_dims)
        return softmax_vectors(call, 0, CHUNK_VECTORS, false, seen, true, &all, true, scores, weights, top);
    if (offsets) return softmax_vectors(call, 0, CHUNK_VECTORS, false, seen, true, &all, false, scores, weights, top);
    if (cache_coded(call->attend->v_format))
        return softmax_vectors(call, 0, CHUNK_VECTORS, false, seen, true, NULL, false, scores, weights, top);
    return softmax_vectors(call, 0, CHUNK_VECTORS, false, seen, false, NULL, false, scores, weights, top);
}

/* values = values * keep + (sum over the pairs of p * v) * take, for two vectors of columns at most. */
SIMD_INLINE void fixed_value_tile(const uint32_t rows, const uint32_t vectors, const int16_t *p, const int32_t *v,
                                  uint32_t pair_begin, uint32_t pair_end, uint32_t columns, const float *keep,
                                  const float *take, float *values)
{
    simd_int acc[SIMD_TILE_ROWS][2];
#pragma GCC unroll 12
    for (uint32_t r = 0; r < rows; r++)
#pragma GCC unroll 2
        for (uint32_t j = 0; j < vectors; j++) acc[r][j] = simd_int_zero();
    v += (uint64_t)pair_begin * columns;
    for (uint32_t pair = pair_begin; pair < pair_end; pair++, v += columns) {
        simd_int value[2];
#pragma GCC unroll 2
        for (uint32_t j = 0; j < vectors; j++) value[j] = simd_int_load(v + j * SIMD_LANES);
#pragma GCC unroll 12
        for (uint32_t r = 0; r < rows; r++) {
            const int16_t *weight = p + r * CHUNK_KEYS + 2 * pair;
#pragma GCC unroll 2
            for (uint32_t j = 0; j < vectors; j++) acc[r][j] = simd_int_dot(acc[r][j], value[j], weight);
        }
    }
#pragma GCC unroll 12
    for (uint32_t r = 0; r < rows; r++)
#pragma GCC unroll 2
        for (uint32_t j = 0; j < vectors; j++) {
            float *at = values + (uint64_t)r * columns + j * SIMD_LANES;
            simd kept = simd_mul(simd_load(at), simd_set(keep[r]));
            simd_store(at, simd_fma(simd_from_int(acc[r][j]), simd_set(take[r]), kept));
        }
}

#define FIXED_VALUE_CASE(rows, vectors)                                                                         \
    fixed_value_tile(rows, vectors, p, call->v + column, begin, end, call->columns, keep + first, take + first, \
                     values + column)

OUT_OF_LINE static void fixed_values(const struct fixed_tile *tile, const float *keep, const float *take)
{
    const struct fixed_call *call = tile->call;
    uint32_t parts = (tile->rows + SIMD_TILE_ROWS - 1) / SIMD_TILE_ROWS;
    uint32_t begin = tile->group_begin * KERNEL_GROUP_TOKENS / 2, end = tile->group_end * KERNEL_GROUP_TOKENS / 2;
    for (uint32_t part = 0; part < parts; part++) {
        uint32_t first = part_begin(tile->rows, parts, part), rows = part_begin(tile->rows, parts, part + 1) - first;
        const int16_t *p = call->p + first * CHUNK_KEYS;
        float *values = call->values + (uint64_t)(tile->row + first) * call->columns;
        uint32_t column = 0;
        for (; column + 2 * SIMD_LANES <= call->columns; column += 2 * SIMD_LANES)
            ROWS_SWITCH(rows, FIXED_VALUE_CASE, 2)
        for (; column < call->columns; column += SIMD_LANES) ROWS_SWITCH(rows, FIXED_VALUE_CASE, 1)
    }
}

static void fixed_tile_attend(const struct fixed_tile *tile)
{
    const struct fixed_call *call = tile->call;
    _Alignas(64) float top[16] = {0}, sum[16] = {0}, keep[16], take[16], maximum[16] = {0};
    fixed_scores(tile);
    for (uint32_t r = 0; r < tile->rows; r++) sum[r] = fixed_softmax(tile, r, &top[r]);
    memcpy(maximum, call->maximum + tile->row, tile->rows * sizeof *maximum);
    for (uint32_t i = 0; i < 16; i += SIMD_LANES) {
        simd old = simd_load(maximum + i), now = simd_load(top + i), next = simd_max(old, now);
        simd_store(maximum + i, next);
        simd_store(keep + i, simd_exp2_below_160(simd_sub(old, next)));
        simd_store(take + i, simd_exp2_below_160(simd_sub(now, next)));
    }
    for (uint32_t r = 0; r < tile->rows; r++) {
        float *total = &call->sum[tile->row + r];
        *total = *total * keep[r] + sum[r] * take[r];
    }
    memcpy(call->maximum + tile->row, maximum, tile->rows * sizeof *maximum);
    fixed_values(tile, keep, take);
}

/* ---- a call ------------------------------------------------------------------------------------------------------ */

/* Which keys of the chunk that begins at `key` of the segment the rows of a tile see; false for none. */
static bool fixed_seen(struct fixed_tile *tile, uint32_t segment, uint32_t key)
{
    const struct kernel_attend *a = tile->call->attend;
    uint64_t any = 0, seen = 0;
    for (uint32_t r = 0; r < tile->rows; r++) {
        if (r == 0 || (tile->row + r) % a->group == 0) { /* the heads of a token see the same keys */
            struct attend_keys keys = attend_visible(a, (tile->row + r) / a->group, segment);
            any |= seen = attend_bits(&keys, key);
        }
        tile->seen[r] = seen;
    }
    if (!any) return false;
    tile->group_begin = (uint32_t)__builtin_ctzll(any) / KERNEL_GROUP_TOKENS;
    tile->group_end = (63 - (uint32_t)__builtin_clzll(any)) / KERNEL_GROUP_TOKENS + 1;
    return true;
}

/* A walk over the groups that are seen of a segment, then of the next. */
struct ahead {
    const struct attend_groups *groups, *next;
    uint64_t left;
};

static void ahead_step(struct ahead *ahead)
{
    ahead->left &= ahead->left - 1;
    if (ahead->left || !ahead->next) return;
    ahead->groups = ahead->next;
    ahead->left = ahead->next->seen;
    ahead->next = NULL;
}

/* The groups to ask for while one is converted: the next but some, and after the last the next segment's first. */
OUT_OF_LINE static void fixed_ahead(const struct kernel_attend *attend, struct segment *segment,
                                    const struct attend_groups *next)
{
    const uint64_t groups = AHEAD_BYTES / kernel_k_group_bytes(attend->k_format, attend->head_dim);
    const struct attend_groups *now = &segment->groups;
    struct ahead ahead = {now, next, now->seen};
    for (uint32_t i = 0; i < AHEAD_GROUPS || (i < groups && i < KERNEL_SEGMENT_GROUPS); i++) ahead_step(&ahead);
    for (uint64_t left = now->seen; left; left &= left - 1) {
        uint32_t g = (uint32_t)__builtin_ctzll(left), far = ahead.left ? (uint32_t)__builtin_ctzll(ahead.left) : g;
        segment->k_ahead[g] = ahead.left ? ahead.groups->k[far] : now->k[g];
        segment->v_ahead[g] = ahead.left ? ahead.groups->v[far] : now->v[g];
        if (ahead.left) ahead_step(&ahead);
    }
}

/* An empty partial of the segment, or the one that the state holds, which is then empty. */
static void fixed_begin(const struct fixed_call *call, float *state)
{
    const uint32_t value_dim = call->attend->value_dim;
    memset(call->values, 0, (uint64_t)call->rows * call->columns * sizeof *call->values);
    for (uint32_t row = 0; row < call->rows; row++, state += 2 + (uint64_t)value_dim) {
        call->maximum[row] = NOTHING;
        call->sum[row] = 0;
        if (!call->resume || state[0] == -INFINITY) continue;
        call->maximum[row] = state[0];
        call->sum[row] = state[1];
        memcpy(call->values + (uint64_t)row * call->columns, state + 2, value_dim * sizeof *state);
        state[0] = -INFINITY;
    }
}

/* All rows against a chunk. */
static void fixed_chunk(const struct fixed_call *call, const struct segment *segment, uint32_t index, uint32_t chunk)
{
    const uint32_t tiles = (call->rows + ATTEND_TILE_ROWS - 1) / ATTEND_TILE_ROWS;
    convert_chunk(call, segment, chunk);
    for (uint32_t t = 0; t < tiles; t++) {
        struct fixed_tile tile = {.call = call,
                                  .row = part_begin(call->rows, tiles, t),
                                  .first_group = chunk * CHUNK_GROUPS,
                                  .key_offsets = segment->key_offsets + chunk * CHUNK_GROUPS};
        tile.rows = part_begin(call->rows, tiles, t + 1) - tile.row;
        if (fixed_seen(&tile, index, chunk * CHUNK_KEYS)) fixed_tile_attend(&tile);
    }
}

#ifdef ATTEND_TILES
#include "kernel/attention_tiles.h"
#endif

static void fixed_segment(struct fixed_call *call, struct segment *segment, const struct attend_groups *next,
                          uint32_t index, float *state)
{
    const struct kernel_attend *a = call->attend;
    fixed_ahead(a, segment, next);
    fixed_begin(call, state);
    if (a->offset.q) find_offsets(a, index, segment);
    if (call->offsets) offset_rows(a, segment, call->rows, call->offset_q, call->turned_offsets, call->offsets);
    for (uint32_t chunk = 0; chunk < KERNEL_SEGMENT_TOKENS / CHUNK_KEYS; chunk++)
        if (chunk_groups(segment, chunk)) call->chunk(call, segment, index, chunk);
    uint64_t stride = 2 + (uint64_t)a->value_dim;
    for (uint32_t row = 0; row < call->rows; row++)
        fold_row(state + row * stride, call->maximum[row] > ALMOST_NOTHING ? call->maximum[row] : -INFINITY,
                 call->sum[row], call->values + (uint64_t)row * call->columns, a->value_dim);
}

/* Coefficients of offsets, if there are any. */
static void fixed_offsets(const struct fixed_call *call)
{
    if (call->key_q) key_queries(call->attend, 0, call->rows, call->key_q);
    if (!call->offset_q) return;
    const uint32_t tiles = (call->rows + ATTEND_TILE_ROWS - 1) / ATTEND_TILE_ROWS;
    for (uint32_t t = 0; t < tiles; t++) {
        const uint32_t row = part_begin(call->rows, tiles, t), rows = part_begin(call->rows, tiles, t + 1) - row;
        offset_queries(call->attend, row, rows, call->offset_q + (uint64_t)row * call->attend->offset.group_dims);
    }
}

static void fixed_queries(const struct fixed_call *call)
{
    uint32_t tiles = (call->rows + ATTEND_TILE_ROWS - 1) / ATTEND_TILE_ROWS;
    for (uint32_t t = 0; t < tiles; t++) {
        uint32_t row = part_begin(call->rows, tiles, t), tile_rows = part_begin(call->rows, tiles, t + 1) - row;
        uint32_t parts = (tile_rows + SIMD_TILE_ROWS - 1) / SIMD_TILE_ROWS;
        for (uint32_t part = 0; part < parts; part++) {
            uint32_t first = part_begin(tile_rows, parts, part), rows = part_begin(tile_rows, parts, part + 1) - first;
            int32_t *out = call->q + (uint64_t)(row + first) * call->q_pairs;
            for (uint32_t r = 0; r < rows; r++) convert_query(call, row + first + r, out + r, rows);
        }
    }
}

/* Lays `call` out in `scratch` and converts the queries. */
static void fixed_open(struct fixed_call *call, const struct kernel_attend *attend, float *scratch)
{
    *call = (struct fixed_call){.attend = attend,
                                .rows = attend->tokens * attend->group,
                                .chunk = fixed_chunk,
                                .q_pairs = (attend->head_dim + 1) / 2,
                                .columns = (uint32_t)round_up(attend->value_dim, SIMD_LANES)};
    for (call->k_bits = 15; (uint64_t)1 << (2 * (16 - call->k_bits)) < attend->head_dim;) call->k_bits--;
    if (attend->k_format == NF_INT4 && call->k_bits > AFFINE_BITS_MAX) call->k_bits = AFFINE_BITS_MAX;
    /* Sizes as in kernel_attend_scratch_floats. */
    uint64_t rows = round_up(call->rows, 16), columns = round_up(attend->value_dim, 16);
    call->k_scale = scratch;
    call->v_power = call->k_scale + CHUNK_KEYS;
    call->v_scale = call->v_power + CHUNK_KEYS;
    call->v_factor = call->v_scale + CHUNK_KEYS;
    call->scores = call->v_factor + CHUNK_KEYS;
    call->p = (int16_t *)(void *)(call->scores + ATTEND_TILE_ROWS * CHUNK_KEYS);
    call->k = (int32_t *)(void *)(call->p + ATTEND_TILE_ROWS * CHUNK_KEYS);
    call->v = call->k + CHUNK_KEYS * (uint64_t)call->q_pairs;
    call->k_step = (int16_t *)(void *)(call->v + CHUNK_KEYS / 2 * columns);
    call->k_least = call->k_step + round_up(attend->head_dim, 32);
    call->k_factor = (float *)(void *)(call->k_least + round_up(attend->head_dim, 32));
    call->k_middle = call->k_factor + round_up(attend->head_dim, 32);
    call->q_scale = call->k_middle + round_up(attend->head_dim, 32);
    call->maximum = call->q_scale + rows;
    call->sum = call->maximum + rows;
    call->values = call->sum + rows;
    call->q = (int32_t *)(void *)(call->values + rows * columns);
    /* Groups between the sinks and the window are not converted: what they hold is multiplied by 0, so it has to be finite. */
    memset(call->v_scale, 0, 2 * CHUNK_KEYS * sizeof *call->v_scale);
#ifdef ATTEND_TILES
    if (attend->brief) {
        call->chunk = brief_chunk;
        brief_open(call, (float *)(void *)call->q);
        return;
    }
#endif
    float *left = (float *)(void *)(call->q + rows * call->q_pairs);
    if (attend->offset.q && attend->offset.key_dims) {
        call->key_q = left;
        left += rows * KERNEL_OFFSET_KEY_DIMS;
    }
    if (attend->offset.q && attend->offset.group_dims) {
        call->offsets = left;
        call->offset_q = call->offsets + rows * KERNEL_SEGMENT_GROUPS;
        call->turned_offsets = call->offset_q + rows * round_up(attend->offset.group_dims, 16);
    }
    fixed_offsets(call);
    fixed_queries(call);
}
