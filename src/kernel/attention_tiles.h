/* attention_tiles.h - attention over a cache that is narrower than f32 for the tokens of prompts (kernel_attend.brief), whose products
 * go through tiles of AMX in bf16. Included by attention_fixed.h, whose chunks and conversions it goes on with.
 *
 *   q       bf16, times the scale of scores and 128
 *   k       bf16, as it is; int8 and fp8_e5m2: the integers of attention_fixed.h, exact in one bf16, whose row's scale is applied to the sum,
 *           in f32. Others in two bf16, which are added: with one, a channel that is large in all keys (Qwen2's) would hide what tells
 *           them apart; also those that are stored less a bias, which is added to them here: offsets of scores, which integers need, take
 *           longer. What rounding does to q is the same for all keys.
 *   v       elements, and codes times their scale, as bf16
 *   p       2^t of a score t, as bf16: its bits are a whole number, 128 for each power of 2, of which the upper ones are the
 *           exponent; the lower 7 look the mantissa up. So a score is rounded to 1/128 of a power of 2, which is what bf16 does to p, and no
 *           polynomial is computed. The sum over p is of what p became.
 *
 * A row's p are relative to `maximum`, which need not be one: bf16 is as precise anywhere. It is the maximum of the first chunk in which
 * the row sees a key, and that of a later one which has a score more than LEAP above it. So scores are gone through once, not twice.
 *
 * A tile of scores has 16 queries and 16 keys, each 32 columns of their heads being one instruction; two tiles of queries go
 * together. Every number follows from its query, the chunk, and what the instruction is defined to do (tile_amx.c). */
#include "kernel/tile_amx.h"

#define BRIEF_ROWS 16u    /* of a tile */
#define BRIEF_COLUMNS 32u /* bf16 of a row of a tile */
#define BRIEF_TILE 512u   /* bf16 of a tile */
#define KEY_TILES (CHUNK_KEYS / BRIEF_ROWS)
#define KEY_BLOCKS (CHUNK_KEYS / BRIEF_COLUMNS)
#define UNITS 128.0f        /* of t, for each power of 2 */
#define UNITS_ZERO 16256.0f /* the bits of a bf16 of 1 */
#define LEAP 32             /* powers of 2 */

/* The tiles of a call's two row tiles on their way through a chunk. */
struct brief_rows {
    const struct fixed_call *call;
    uint32_t row, rows;   /* first row, and how many: one tile's */
    const uint64_t *seen; /* [rows] of the chunk's keys */
    bool edges;           /* some key is not seen by some row */
    const float *scores;
    uint16_t *p;
};

/* ---- conversion ----------------------------------------------------------------------------------------------------- */

SIMD_INLINE simd pair_low(__m512i pairs) /* as f32 */
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16));
}

SIMD_INLINE simd pair_high(__m512i pairs)
{
    return _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32((int32_t)0xFFFF0000)));
}

SIMD_INLINE simd integers_low(__m512i pairs)
{
    return _mm512_cvtepi32_ps(_mm512_srai_epi32(_mm512_slli_epi32(pairs, 16), 16));
}

SIMD_INLINE simd integers_high(__m512i pairs)
{
    return _mm512_cvtepi32_ps(_mm512_srai_epi32(pairs, 16));
}

/* What makes units of q.k; with a softcap what tanh takes. */
static float brief_scale(const struct kernel_attend *a)
{
    return score_scale(a) * (a->softcap > 0 ? 1 : UNITS);
}

static void brief_query(const struct fixed_call *call, uint32_t row)
{
    const struct kernel_attend *a = call->attend;
    const float *q = a->q + row / a->group * a->q_token_stride + (uint64_t)(row % a->group) * a->head_dim;
    uint16_t *out = call->brief.q + (uint64_t)(row / BRIEF_ROWS) * call->brief.depth * BRIEF_TILE +
                    row % BRIEF_ROWS * BRIEF_COLUMNS;
    const simd scale = simd_set(brief_scale(a));
    for (uint32_t tile = 0; tile < call->brief.depth; tile++) {
        simd x[2];
        for (uint32_t half = 0; half < 2; half++) {
            const uint32_t d = tile * BRIEF_COLUMNS + half * SIMD_LANES, left = d < a->head_dim ? a->head_dim - d : 0;
            x[half] = simd_mul(simd_load_first(q + (left ? d : 0), left < SIMD_LANES ? left : SIMD_LANES), scale);
        }
        _mm512_store_si512(out + tile * BRIEF_TILE, (__m512i)_mm512_cvtne2ps_pbh(x[1], x[0]));
    }
}

/* What a chunk's keys were stored less: numbers of each group, and of a few dimensions each key's. */
struct brief_bias {
    const float *groups;             /* [CHUNK_GROUPS][brief.depth * BRIEF_COLUMNS]; NULL: none */
    const float *keys[CHUNK_GROUPS]; /* [key_dims][KERNEL_GROUP_TOKENS] */
    const float *basis;              /* [key_dims][head_dim] */
};

static void brief_bias_of(const struct fixed_call *call, const struct segment *segment, uint32_t chunk,
                          struct brief_bias *out)
{
    const struct kernel_offset *o = &call->attend->offset;
    const uint32_t head_dim = call->attend->head_dim, stride = call->brief.depth * BRIEF_COLUMNS;
    const uint32_t first = chunk * CHUNK_GROUPS,
                   some = first + (uint32_t)__builtin_ctzll(segment->groups.seen >> first);
    float *groups = call->brief.bias;
    out->groups = groups;
    out->basis = o->basis + (uint64_t)o->group_dims * head_dim;
    for (uint32_t g = 0; g < CHUNK_GROUPS; g++, groups += stride) {
        const uint32_t group = segment->groups.seen >> (first + g) & 1 ? first + g : some; /* of one not seen: any */
        if (o->key_dims) out->keys[g] = segment->key_offsets[group];
        for (uint32_t d = 0; d < stride; d += SIMD_LANES) {
            const uint32_t left = d < head_dim ? head_dim - d : 0, count = left < SIMD_LANES ? left : SIMD_LANES;
            simd sum = simd_set(0);
            for (uint32_t i = 0; i < o->group_dims && count; i++)
                sum = simd_fma(simd_set(segment->group_rows[group][i]),
                               simd_load_first(o->basis + (uint64_t)i * head_dim + d, count), sum);
            simd_store(groups + d, sum);
        }
    }
}

/* Adds to 16 keys' numbers of dimension `d` what they were stored less. */
SIMD_INLINE simd brief_biased(const struct fixed_call *call, const struct brief_bias *bias, uint32_t group, uint32_t d,
                              simd numbers)
{
    const struct kernel_attend *a = call->attend;
    numbers = simd_add(numbers, simd_set(bias->groups[group * call->brief.depth * BRIEF_COLUMNS + d]));
    for (uint32_t i = 0; i < a->offset.key_dims && d < a->head_dim; i++)
        numbers = simd_fma(simd_load(bias->keys[group] + i * KERNEL_GROUP_TOKENS),
                           simd_set(bias->basis[i * a->head_dim + d]), numbers);
    return numbers;
}

/* Dimensions 2 * d and 2 * d + 1 of the 16 keys of group `i`, in one bf16 each or in two. */
SIMD_INLINE void brief_store_keys(const struct fixed_call *call, const bool two, const struct brief_bias *bias,
                                  uint32_t i, uint32_t d, simd low, simd high)
{
    const uint32_t tile_pairs = BRIEF_COLUMNS / 2;
    uint16_t *out =
        call->brief.k + ((uint64_t)(d / tile_pairs) * KEY_TILES + i) * BRIEF_TILE + d % tile_pairs * BRIEF_COLUMNS;
    if (two && bias->groups) {
        low = brief_biased(call, bias, i, 2 * d, low);
        high = brief_biased(call, bias, i, 2 * d + 1, high);
    }
    const __m512i brief = pairs_to_bf16(low, high);
    _mm512_store_si512(out, brief);
    if (!two) return;
    out += (uint64_t)call->brief.depth * KEY_TILES * BRIEF_TILE;
    _mm512_store_si512(out, pairs_to_bf16(simd_sub(low, pair_low(brief)), simd_sub(high, pair_high(brief))));
}

/* Codes, which were made integers: in one bf16 these, in two the numbers. */
SIMD_INLINE void brief_keys_of(const struct fixed_call *call, const bool two, const struct brief_bias *bias)
{
    for (uint32_t d = 0; d < call->brief.depth * BRIEF_COLUMNS / 2; d++)
        for (uint32_t i = 0; i < KEY_TILES; i++) {
            const __m512i integers =
                d < call->q_pairs ? _mm512_load_si512(call->k + d * CHUNK_KEYS + i * SIMD_LANES) : simd_int_zero();
            simd low = integers_low(integers), high = integers_high(integers);
            if (two) {
                const simd scale = simd_load(call->k_scale + i * SIMD_LANES);
                low = simd_mul(low, scale);
                high = simd_mul(high, scale);
            }
            brief_store_keys(call, two, bias, i, d, low, high);
        }
}

/* Formats whose numbers become bf16 at once: elements, and the codes of int8. Others go by way of attention_fixed.h's integers. */
static bool brief_direct(enum number_format format)
{
    return !cache_coded(format) || format == NF_INT8;
}

/* Dimensions 2 * d and 2 * d + 1 of a group's keys: elements, or codes that their scales are not applied to. */
SIMD_INLINE void brief_load_keys(enum number_format format, const char *k, uint32_t dim, uint32_t d, simd *low,
                                 simd *high)
{
    const uint64_t at = 2 * (uint64_t)d * KERNEL_GROUP_TOKENS;
    const bool both = 2 * d + 1 < dim;
    *low = *high = simd_set(0);
    if (2 * d >= dim) return;
    if (format == NF_INT8) {
        const uint8_t *codes = (const uint8_t *)k + CACHE_SCALE_BYTES + at;
        uint8_t pairs[2 * KERNEL_GROUP_TOKENS];
        if (!both) last_pairs(codes, pairs);
        const __m512i integers = simd_int_load_i8(both ? codes : pairs);
        *low = integers_low(integers);
        *high = integers_high(integers);
        return;
    }
    *low = element_load(format, k, at);
    if (both) *high = element_load(format, k, at + KERNEL_GROUP_TOKENS);
}

/* Group `i` of a format that is direct. */
SIMD_INLINE void brief_key_group(const struct fixed_call *call, const bool two, const struct brief_bias *bias,
                                 enum number_format format, const char *k, const char *ahead, uint32_t i)
{
    const bool coded = format == NF_INT8;
    const simd scale = coded ? simd_load_f16((const uint16_t *)(const void *)k) : simd_set(1);
    if (!two) simd_store(call->k_scale + i * SIMD_LANES, scale);
    prefetch_group(ahead, kernel_k_group_bytes(format, call->attend->head_dim));
#pragma GCC unroll 4
    for (uint32_t d = 0; d < call->brief.depth * BRIEF_COLUMNS / 2; d++) {
        simd low, high;
        brief_load_keys(format, k, call->attend->head_dim, d, &low, &high);
        if (two && coded) {
            low = simd_mul(low, scale);
            high = simd_mul(high, scale);
        }
        brief_store_keys(call, two, bias, i, d, low, high);
    }
}

/* Where two vectors of 16 weights become one of 32 (_mm512_packs_epi32), of each four lanes those of the first come before those of
 * the second: the pair of keys that pair `i` of the weights is of, among the 16 of a block. */
static uint32_t weights_order(uint32_t i)
{
    return i / 4 * 2 + i % 2 + (i % 4 < 2 ? 0 : BRIEF_ROWS / 2);
}

/* The row of a tile that a pair of keys of a block is in. */
static uint32_t weights_row(uint32_t pair)
{
    return pair % (BRIEF_ROWS / 2) / 2 * 4 + pair % 2 + (pair < BRIEF_ROWS / 2 ? 0 : 2);
}

/* Codes, which were made integers. */
static void brief_values_of(const struct fixed_call *call)
{
    _Alignas(64) float scales[CHUNK_KEYS];
    for (uint32_t i = 0; i < CHUNK_KEYS; i += SIMD_LANES) { /* 0 where no row was converted */
        const simd power = simd_load(call->v_scale + i);
        const simd scale = simd_div(simd_load(call->v_factor + i), power);
        simd_store(scales + i, simd_where_less(simd_set(0), power, scale, simd_set(0)));
    }
    for (uint32_t block = 0; block < KEY_BLOCKS; block++)
        for (uint32_t i = 0; i < BRIEF_ROWS; i++) {
            const uint32_t pair = block * BRIEF_ROWS + weights_order(i);
            const int32_t *integers = call->v + (uint64_t)pair * call->columns;
            const simd even = simd_set(scales[2 * pair]), odd = simd_set(scales[2 * pair + 1]);
            for (uint32_t c = 0; c < call->brief.columns; c++) {
                const __m512i both = _mm512_load_si512(integers + c * SIMD_LANES);
                _mm512_store_si512(
                    call->brief.v + (((uint64_t)c * KEY_BLOCKS + block) * BRIEF_ROWS + i) * BRIEF_COLUMNS,
                    pairs_to_bf16(simd_mul(integers_low(both), even), simd_mul(integers_high(both), odd)));
            }
        }
}

/* A slot that was not written may hold no number, and the weight 0 would not take it away. */
#define BRIEF_MOST 0x1.fep127f /* of bf16 */
SIMD_INLINE simd brief_finite(simd x)
{
    return simd_max(simd_min(x, simd_set(BRIEF_MOST)), simd_set(-BRIEF_MOST));
}

/* Columns [c, c + SIMD_LANES) of pair `pair` of a group's rows: elements, or codes times `scales`. */
SIMD_INLINE void brief_load_values(enum number_format format, const char *v, uint32_t dim, uint32_t pair, uint32_t c,
                                   const float *scales, simd *even, simd *odd)
{
    const uint32_t left = dim - c;
    if (format == NF_INT8) {
        const uint8_t *codes = (const uint8_t *)v + CACHE_SCALE_BYTES + 2 * ((uint64_t)pair * dim + c);
        uint8_t pairs[2 * SIMD_LANES] = {0};
        if (left < SIMD_LANES) memcpy(pairs, codes, 2 * (uint64_t)left);
        const __m512i integers = simd_int_load_i8(left < SIMD_LANES ? pairs : codes);
        *even = simd_mul(integers_low(integers), simd_set(scales[2 * pair]));
        *odd = simd_mul(integers_high(integers), simd_set(scales[2 * pair + 1]));
        return;
    }
    const uint64_t row_bytes = (uint64_t)dim * (format == NF_F32 ? 4 : 2);
    const char *row = v + 2 * pair * row_bytes;
    *even = left < SIMD_LANES ? element_load_first(format, row, c, left) : element_load(format, row, c);
    row += row_bytes;
    *odd = left < SIMD_LANES ? element_load_first(format, row, c, left) : element_load(format, row, c);
    *even = brief_finite(*even);
    *odd = brief_finite(*odd);
}

/* Group `i` of a format that is direct. */
SIMD_INLINE void brief_value_group(const struct fixed_call *call, enum number_format format, const char *v,
                                   const char *ahead, uint32_t i)
{
    const uint32_t dim = call->attend->value_dim, block = i / 2, first = i % 2 * BRIEF_ROWS / 2;
    _Alignas(64) float scales[KERNEL_GROUP_TOKENS];
    if (format == NF_INT8) {
        const simd most = simd_set(KERNEL_F16_MAX), scale = simd_load_f16((const uint16_t *)(const void *)v);
        simd_store(scales, simd_max(simd_min(scale, most), simd_sub(simd_set(0), most)));
    }
    prefetch_group(ahead, kernel_v_group_bytes(format, dim));
    for (uint32_t pair = 0; pair < KERNEL_GROUP_TOKENS / 2; pair++) {
        uint16_t *out = call->brief.v + ((uint64_t)block * BRIEF_ROWS + weights_row(first + pair)) * BRIEF_COLUMNS;
#pragma GCC unroll 4
        for (uint32_t c = 0; c < dim; c += SIMD_LANES, out += KEY_BLOCKS * BRIEF_TILE) {
            simd even, odd;
            brief_load_values(format, v, dim, pair, c, scales, &even, &odd);
            _mm512_store_si512(out, pairs_to_bf16(even, odd));
        }
    }
}

/* Of a group that is not seen. */
static void brief_no_values(const struct fixed_call *call, uint32_t i)
{
    const uint32_t block = i / 2, first = i % 2 * BRIEF_ROWS / 2;
    for (uint32_t c = 0; c < call->brief.columns; c++)
        for (uint32_t pair = 0; pair < KERNEL_GROUP_TOKENS / 2; pair++)
            memset(call->brief.v +
                       (((uint64_t)c * KEY_BLOCKS + block) * BRIEF_ROWS + weights_row(first + pair)) * BRIEF_COLUMNS,
                   0, BRIEF_COLUMNS * sizeof *call->brief.v);
}

/* One instance each, so that the format is a constant. */
#define DIRECT_SWITCH(wanted, group_of) \
    switch (wanted) {                   \
    case NF_INT8:                       \
        group_of(NF_INT8);              \
        break;                          \
    case NF_F16:                        \
        group_of(NF_F16);               \
        break;                          \
    case NF_BF16:                       \
        group_of(NF_BF16);              \
        break;                          \
    default:                            \
        group_of(NF_F32);               \
    }

OUT_OF_LINE static void brief_convert_keys(const struct fixed_call *call, const struct segment *segment, uint32_t chunk)
{
    const enum number_format wanted = call->attend->k_format;
    const uint32_t groups = chunk_groups(segment, chunk), first = chunk * CHUNK_GROUPS;
    const bool two = call->brief.k_parts == 2;
    struct brief_bias bias = {.groups = NULL};
    if (call->attend->offset.q) brief_bias_of(call, segment, chunk, &bias);
#define KEY_GROUP(format) \
    brief_key_group(call, two, &bias, format, segment->groups.k[first + i], segment->k_ahead[first + i], i)
    for (uint32_t i = 0; i < CHUNK_GROUPS; i++) {
        if (!(groups >> i & 1)) continue;
        if (brief_direct(wanted))
            DIRECT_SWITCH(wanted, KEY_GROUP)
        else
            convert_k_group(call, segment, chunk, groups, i);
    }
    if (brief_direct(wanted)) return;
    if (two)
        brief_keys_of(call, true, &bias);
    else
        brief_keys_of(call, false, &bias);
}

OUT_OF_LINE static void brief_convert_values(const struct fixed_call *call, const struct segment *segment,
                                             uint32_t chunk)
{
    const enum number_format wanted = call->attend->v_format;
    const uint32_t groups = chunk_groups(segment, chunk), first = chunk * CHUNK_GROUPS;
#define VALUE_GROUP(format) \
    brief_value_group(call, format, segment->groups.v[first + i], segment->v_ahead[first + i], i)
    for (uint32_t i = 0; i < CHUNK_GROUPS; i++) {
        const bool seen = groups >> i & 1;
        if (!brief_direct(wanted)) {
            if (seen) convert_v_group(call, segment, chunk, i);
        } else if (seen) {
            DIRECT_SWITCH(wanted, VALUE_GROUP)
        } else {
            brief_no_values(call, i);
        }
    }
    if (!brief_direct(wanted)) brief_values_of(call);
}

/* ---- products: tiles are named, a compiler cannot spill them ---------------------------------------------------------- */

/* The intrinsics do not tell that loads of tiles read what was stored. */
SIMD_INLINE void brief_stored(void)
{
    __asm__ volatile("" ::: "memory");
}

/* Scores of two tiles of keys by one or two of rows, of which the second lies behind the first. */
SIMD_INLINE void brief_score_tiles(const struct fixed_call *call, uint32_t row_tile, uint32_t key_tile, const bool two)
{
    const struct brief_call *b = &call->brief;
    const uint64_t part = (uint64_t)b->depth * KEY_TILES * BRIEF_TILE, next = (uint64_t)b->depth * BRIEF_TILE;
    const uint16_t *q = b->q + row_tile * next, *k = b->k + key_tile * BRIEF_TILE;
    float *out = b->scores + key_tile * BRIEF_ROWS * SIMD_LANES;
    _tile_zero(0);
    _tile_zero(1);
    if (two) _tile_zero(2);
    if (two) _tile_zero(3);
    for (uint32_t d = 0; d < b->depth; d++, q += BRIEF_TILE, k += KEY_TILES * BRIEF_TILE) {
        _tile_loadd(4, q, 64);
        if (two) _tile_loadd(5, q + next, 64);
        for (uint32_t i = 0; i < b->k_parts; i++) {
            _tile_loadd(6, k + i * part, 64);
            _tile_loadd(7, k + i * part + BRIEF_TILE, 64);
            _tile_dpbf16ps(0, 4, 6);
            _tile_dpbf16ps(1, 4, 7);
            if (two) _tile_dpbf16ps(2, 5, 6);
            if (two) _tile_dpbf16ps(3, 5, 7);
        }
    }
    _tile_stored(0, out, 64);
    _tile_stored(1, out + BRIEF_ROWS * SIMD_LANES, 64);
    out += KEY_TILES * BRIEF_ROWS * SIMD_LANES;
    if (two) _tile_stored(2, out, 64);
    if (two) _tile_stored(3, out + BRIEF_ROWS * SIMD_LANES, 64);
}

/* The same, in the same order, of all keys by two tiles of rows whose queries, of at most 64 columns, stay in registers: two loads for
 * four products. */
SIMD_INLINE void brief_score_held(const struct fixed_call *call, uint32_t row_tile, const bool deep)
{
    const struct brief_call *b = &call->brief;
    const uint64_t part = (uint64_t)b->depth * KEY_TILES * BRIEF_TILE, next = (uint64_t)b->depth * BRIEF_TILE;
    const uint16_t *q = b->q + row_tile * next, *k = b->k;
    float *out = b->scores;
    _tile_loadd(4, q, 64);
    _tile_loadd(5, q + next, 64);
    if (deep) _tile_loadd(6, q + BRIEF_TILE, 64);
    if (deep) _tile_loadd(7, q + next + BRIEF_TILE, 64);
    for (uint32_t i = 0; i < KEY_TILES; i++, k += BRIEF_TILE, out += BRIEF_ROWS * SIMD_LANES) {
        _tile_zero(0);
        _tile_zero(1);
        for (uint32_t p = 0; p < b->k_parts; p++) {
            _tile_loadd(2, k + p * part, 64);
            _tile_dpbf16ps(0, 4, 2);
            _tile_dpbf16ps(1, 5, 2);
        }
        for (uint32_t p = 0; deep && p < b->k_parts; p++) {
            _tile_loadd(3, k + p * part + KEY_TILES * BRIEF_TILE, 64);
            _tile_dpbf16ps(0, 6, 3);
            _tile_dpbf16ps(1, 7, 3);
        }
        _tile_stored(0, out, 64);
        _tile_stored(1, out + KEY_TILES * BRIEF_ROWS * SIMD_LANES, 64);
    }
}

OUT_OF_LINE static void brief_scores(const struct fixed_call *call, uint32_t row_tile, bool two)
{
    const uint32_t depth = call->brief.depth;
    brief_stored();
    if (two && depth == 2)
        brief_score_held(call, row_tile, true);
    else if (two && depth == 1)
        brief_score_held(call, row_tile, false);
    else
        for (uint32_t i = 0; i < KEY_TILES; i += 2)
            if (two)
                brief_score_tiles(call, row_tile, i, true);
            else
                brief_score_tiles(call, row_tile, i, false);
}

/* What is kept of the rows' values: all, but where a maximum has changed. */
static void brief_keep(const struct fixed_call *call, const struct brief_rows *rows, const float *keep)
{
    for (uint32_t r = 0; r < rows->rows; r++) {
        float *values = call->values + (uint64_t)(rows->row + r) * call->columns;
        for (uint32_t i = 0; keep[r] != 1 && i < call->columns; i += SIMD_LANES)
            simd_store(values + i, simd_mul(simd_load(values + i), simd_set(keep[r])));
    }
}

/* values += p.v, of one or two tiles of rows. */
OUT_OF_LINE static void brief_values(const struct fixed_call *call, uint32_t row_tile, const bool two)
{
    const uint16_t *v = call->brief.v, *p = call->brief.p;
    const uint64_t stride = call->columns * sizeof *call->values, next = (uint64_t)BRIEF_ROWS * call->columns;
    float *values = call->values + row_tile * next;
    brief_stored();
    _tile_loadd(4, p, 64);
    _tile_loadd(5, p + BRIEF_TILE, 64);
    if (two) _tile_loadd(6, p + 2 * BRIEF_TILE, 64);
    if (two) _tile_loadd(7, p + 3 * BRIEF_TILE, 64);
    for (uint32_t c = 0; c < call->brief.columns; c++, v += KEY_BLOCKS * BRIEF_TILE, values += SIMD_LANES) {
        _tile_loadd(0, values, stride);
        if (two) _tile_loadd(1, values + next, stride);
        _tile_loadd(2, v, 64);
        _tile_loadd(3, v + BRIEF_TILE, 64);
        _tile_dpbf16ps(0, 4, 2);
        if (two) _tile_dpbf16ps(1, 6, 2);
        _tile_dpbf16ps(0, 5, 3);
        if (two) _tile_dpbf16ps(1, 7, 3);
        _tile_stored(0, values, stride);
        if (two) _tile_stored(1, values + next, stride);
    }
    brief_stored();
}

/* ---- softmax -------------------------------------------------------------------------------------------------------- */

/* Scores of `count` rows from `r` on in units, plus `added`; of keys that are not seen NOTHING. `scaled`: each key has a scale, which rows
 * that go together load once. `plain`: no edges, no softcap. */
SIMD_INLINE void brief_units(const struct brief_rows *rows, uint32_t r, const uint32_t count, const bool scaled,
                             const bool plain, const float *added, simd (*out)[CHUNK_VECTORS])
{
    const struct fixed_call *call = rows->call;
    const float softcap = plain ? 0 : call->attend->softcap;
    const float *scores = rows->scores + r * SIMD_LANES;
#pragma GCC unroll 8
    for (uint32_t i = 0; i < CHUNK_VECTORS; i++, scores += BRIEF_ROWS * SIMD_LANES) {
        const simd scale = scaled ? simd_load(call->k_scale + i * SIMD_LANES) : simd_set(1);
#pragma GCC unroll 2
        for (uint32_t j = 0; j < count; j++) {
            const simd score = simd_load(scores + j * SIMD_LANES), start = simd_set(softcap > 0 ? 0 : added[j]);
            out[j][i] = scaled ? simd_fma(score, scale, start) : simd_add(score, start);
            if (softcap > 0)
                out[j][i] =
                    simd_fma(simd_tanh(out[j][i]), simd_set((float)((double)softcap * SIMD_LOG2_E * (double)UNITS)),
                             simd_set(added[j]));
            if (!plain && rows->edges)
                out[j][i] = simd_where_bits(rows->seen[r + j] >> i * SIMD_LANES, out[j][i], simd_set(NOTHING));
        }
    }
}

/* Each row's largest score, in powers of 2. */
OUT_OF_LINE static void brief_maxima(const struct brief_rows *rows, float *most)
{
    for (uint32_t r = 0; r < rows->rows; r++) {
        simd t[1][CHUNK_VECTORS];
        brief_units(rows, r, 1, rows->call->brief.k_parts == 1, false, &(float){0}, t);
        most[r] = simd_top(simd_max(simd_max(t[0][0], t[0][1]), simd_max(t[0][2], t[0][3]))) / UNITS;
    }
}

/* Mantissas of 2^(i / 128), 7 bits, to nearest. */
static const _Alignas(64) uint8_t brief_mantissas[128] = {
    0,   1,   1,   2,   3,   4,   4,   5,   6,   6,   7,   8,   9,   9,   10,  11,  12,  12,  13, 14,  15,  15,
    16,  17,  18,  19,  19,  20,  21,  22,  23,  23,  24,  25,  26,  27,  28,  28,  29,  30,  31, 32,  33,  34,
    34,  35,  36,  37,  38,  39,  40,  41,  42,  43,  43,  44,  45,  46,  47,  48,  49,  50,  51, 52,  53,  54,
    55,  56,  57,  58,  59,  60,  61,  62,  63,  64,  65,  66,  67,  68,  69,  70,  72,  73,  74, 75,  76,  77,
    78,  79,  80,  82,  83,  84,  85,  86,  87,  88,  90,  91,  92,  93,  94,  96,  97,  98,  99, 100, 102, 103,
    104, 105, 107, 108, 109, 111, 112, 113, 115, 116, 117, 118, 120, 121, 123, 124, 125, 127,
};

/* A row's weights from its scores in units, and their sum, lane by lane; `most`: the largest units that there were. */
SIMD_INLINE simd brief_weights_row(const simd *units, uint16_t *p, __m512i *most)
{
    const __m512i low = _mm512_load_si512(brief_mantissas), high = _mm512_load_si512(brief_mantissas + 64);
    const __m512i mantissa = _mm512_set1_epi16(0x7F);
    const __m512bh ones = (__m512bh)_mm512_set1_epi16(0x3F80);
    simd sum = simd_set(0);
#pragma GCC unroll 2
    for (uint32_t block = 0; block < KEY_BLOCKS; block++) {
        __m512i bits =
            _mm512_packs_epi32(_mm512_cvtps_epi32(units[2 * block]), _mm512_cvtps_epi32(units[2 * block + 1]));
        *most = _mm512_max_epi16(*most, bits);
        bits = _mm512_max_epi16(bits, _mm512_setzero_si512());
        const __m512i found = _mm512_permutex2var_epi8(low, bits, high);
        bits = _mm512_ternarylogic_epi32(mantissa, found, bits, 0xCA); /* where mantissa: found, else bits */
        _mm512_store_si512(p + block * BRIEF_TILE, bits);
        sum = _mm512_dpbf16_ps(sum, (__m512bh)bits, ones);
    }
    return sum;
}

/* Weights of `count` rows from `r` on, relative to `tops`, and the lanes of their sums. */
SIMD_INLINE void brief_weights_some(const struct brief_rows *rows, uint32_t r, const uint32_t count, const bool scaled,
                                    const bool plain, const float *tops, simd *sums, __m512i *most)
{
    const struct fixed_call *call = rows->call;
    simd units[2][CHUNK_VECTORS];
    float added[2];
#pragma GCC unroll 2
    for (uint32_t j = 0; j < count; j++) added[j] = tops[r + j] > ALMOST_NOTHING ? UNITS_ZERO - UNITS * tops[r + j] : 0;
    brief_units(rows, r, count, scaled, plain, added, units);
#pragma GCC unroll 2
    for (uint32_t j = 0; j < count; j++) {
        sums[r + j] = brief_weights_row(units[j], rows->p + (r + j) * BRIEF_COLUMNS, most);
        const float *values = call->values + (uint64_t)(rows->row + r + j) * call->columns;
        for (uint32_t i = 0; i < call->columns; i += SIMD_LANES) __builtin_prefetch(values + i, 1);
    }
}

/* Weights relative to `tops`, and each row's sum of them; false if a score is more than LEAP above its top. */
SIMD_INLINE bool brief_weights_rows(const struct brief_rows *rows, const bool scaled, const bool plain,
                                    const float *tops, float *sums)
{
    __m512i most = _mm512_setzero_si512();
    simd parts[BRIEF_ROWS];
    uint32_t r = 0;
    for (; r + 2 <= rows->rows; r += 2) brief_weights_some(rows, r, 2, scaled, plain, tops, parts, &most);
    if (r < rows->rows) brief_weights_some(rows, r++, 1, scaled, plain, tops, parts, &most);
    for (; r < BRIEF_ROWS; r++) parts[r] = simd_set(0);
    simd_store(sums, simd_sums(parts));
    return !_mm512_cmpgt_epi16_mask(most, _mm512_set1_epi16((int16_t)UNITS_ZERO + LEAP * (int16_t)UNITS));
}

OUT_OF_LINE static bool brief_weights(const struct brief_rows *rows, const float *tops, float *sums)
{
    const bool scaled = rows->call->brief.k_parts == 1, plain = !rows->edges && !(rows->call->attend->softcap > 0);
    if (scaled && plain) return brief_weights_rows(rows, true, true, tops, sums);
    if (scaled) return brief_weights_rows(rows, true, false, tops, sums);
    if (plain) return brief_weights_rows(rows, false, true, tops, sums);
    return brief_weights_rows(rows, false, false, tops, sums);
}

/* Scores to weights, and what of the rows' values is kept. */
SIMD_INLINE void brief_softmax(const struct brief_rows *rows, float *keep)
{
    const struct fixed_call *call = rows->call;
    _Alignas(64) float tops[BRIEF_ROWS], most[BRIEF_ROWS], sums[BRIEF_ROWS];
    const __mmask16 here = simd_first(rows->rows);
    const simd old = _mm512_mask_loadu_ps(simd_set(NOTHING), here, call->maximum + rows->row);
    __mmask16 seeing = here;
    simd top = old;
    for (uint32_t r = 0; rows->edges && r < rows->rows; r++)
        if (!rows->seen[r]) seeing &= (__mmask16) ~(1u << r);
    const __mmask16 fresh = _mm512_mask_cmp_ps_mask(seeing, top, simd_set(ALMOST_NOTHING), _CMP_LE_OQ);
    if (fresh) {
        brief_maxima(rows, most);
        top = _mm512_mask_loadu_ps(top, fresh, most);
    }
    simd_store(tops, top);
    if (!brief_weights(rows, tops, sums)) {
        brief_maxima(rows, most);
        const simd leap = simd_add(top, simd_set(LEAP));
        top = _mm512_mask_loadu_ps(top, _mm512_mask_cmp_ps_mask(seeing, simd_load(most), leap, _CMP_GT_OQ), most);
        simd_store(tops, top);
        brief_weights(rows, tops, sums);
    }
    const simd kept = simd_exp2_below_160(simd_sub(old, top));
    simd_store(keep, kept);
    simd_store_first(call->maximum + rows->row, rows->rows, top);
    simd_store_first(call->sum + rows->row, rows->rows,
                     simd_fma(simd_load_first(call->sum + rows->row, rows->rows), kept, simd_load(sums)));
}

/* ---- a chunk -------------------------------------------------------------------------------------------------------- */

static uint64_t brief_sees(const struct kernel_attend *a, uint32_t row, uint32_t segment, uint32_t key)
{
    struct attend_keys keys = attend_visible(a, row / a->group, segment);
    return attend_bits(&keys, key);
}

/* Which keys of the chunk the rows see; whether any. */
static bool brief_seen(struct brief_rows *rows, uint32_t segment, uint32_t key, uint64_t *seen)
{
    const struct kernel_attend *a = rows->call->attend;
    uint64_t any = 0;
    /* Keys that the first row and the last see, all see. */
    rows->edges =
        ~(brief_sees(a, rows->row, segment, key) & brief_sees(a, rows->row + rows->rows - 1, segment, key)) != 0;
    if (!rows->edges) return true;
    for (uint32_t r = 0; r < rows->rows; r++)
        any |= seen[r] = r && (rows->row + r) % a->group ? seen[r - 1] : brief_sees(a, rows->row + r, segment, key);
    rows->seen = seen;
    return any != 0;
}

/* All rows against a chunk. */
static void brief_chunk(const struct fixed_call *call, const struct segment *segment, uint32_t index, uint32_t chunk)
{
    uint64_t seen[2][BRIEF_ROWS];
    _Alignas(64) float keep[2][BRIEF_ROWS];
    brief_convert_keys(call, segment, chunk);
    brief_convert_values(call, segment, chunk);
    for (uint32_t tile = 0; tile < call->brief.row_tiles; tile += 2) {
        const bool two = tile + 1 < call->brief.row_tiles;
        struct brief_rows rows[2];
        bool any = false;
        for (uint32_t i = 0; i <= two; i++) {
            const uint32_t row = (tile + i) * BRIEF_ROWS, left = call->rows - row;
            rows[i] = (struct brief_rows){.call = call,
                                          .row = row,
                                          .rows = left < BRIEF_ROWS ? left : BRIEF_ROWS,
                                          .scores = call->brief.scores + i * KEY_TILES * BRIEF_ROWS * SIMD_LANES,
                                          .p = call->brief.p + i * KEY_BLOCKS * BRIEF_TILE};
            any |= brief_seen(&rows[i], index, chunk * CHUNK_KEYS, seen[i]);
        }
        if (!any) continue;
        brief_scores(call, tile, two);
        for (uint32_t i = 0; i <= two; i++) brief_softmax(&rows[i], keep[i]);
        for (uint32_t i = 0; i <= two; i++) brief_keep(call, &rows[i], keep[i]);
        brief_values(call, tile, two);
    }
}

/* ---- a call --------------------------------------------------------------------------------------------------------- */

/* Whether K needs more than the 8 bits of a bf16. */
static bool brief_two_parts(const struct kernel_attend *attend)
{
    const enum number_format format = attend->k_format;
    return (format != NF_INT8 && format != NF_FP8_E5M2 && format != NF_BF16) || attend->offset.q;
}

/* Lays the call out further, in what scratch fixed_open left, and converts the queries. */
static void brief_open(struct fixed_call *call, float *left)
{
    const struct kernel_attend *a = call->attend;
    struct brief_call *brief = &call->brief;
    *brief = (struct brief_call){.depth = (a->head_dim + BRIEF_COLUMNS - 1) / BRIEF_COLUMNS,
                                 .k_parts = brief_two_parts(a) ? 2 : 1,
                                 .row_tiles = (call->rows + BRIEF_ROWS - 1) / BRIEF_ROWS,
                                 .columns = call->columns / SIMD_LANES};
    brief->scores = (float *)(((uintptr_t)left + 63) & ~(uintptr_t)63);
    brief->p = (uint16_t *)(void *)(brief->scores + 2 * BRIEF_ROWS * CHUNK_KEYS);
    brief->bias = (float *)(void *)(brief->p + 2 * KEY_BLOCKS * BRIEF_TILE);
    brief->k = (uint16_t *)(void *)(brief->bias + CHUNK_GROUPS * brief->depth * BRIEF_COLUMNS);
    brief->v = brief->k + (uint64_t)brief->k_parts * brief->depth * KEY_TILES * BRIEF_TILE;
    brief->q = brief->v + (uint64_t)brief->columns * KEY_BLOCKS * BRIEF_TILE;
    for (uint32_t row = 0; row < call->rows; row++) brief_query(call, row);
    _tile_loadconfig(&tile_shapes_whole);
}
