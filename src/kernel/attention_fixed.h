/* attention_fixed.h - attention over a cache that is narrower than f32, in 16-bit fixed point. Included by attention_simd.h.
 *
 * An f16 row carries 11 bits, so its products need no f32 multiply-adds: two products of 16-bit integers, added to 32
 * bits, are one instruction (vpdpwssd; vpmaddwd and an add without VNNI), twice the multiply-adds. Every scale is a
 * power of two, so that most f16 numbers are converted exactly; the sums of products are exact.
 *
 *   q      each row times 2^m so that its Euclidean norm lies in [2^14, 2^15)
 *   k      each row times 2^n so that its largest magnitude lies in [2^(b - 1), 2^b), where 2^b * sqrt(head_dim) <= 2^16:
 *          by Cauchy and Schwarz no partial sum of q.k reaches 2^31
 *   v      each row times 2^n so that its largest magnitude lies in [2^12, 2^13)
 *   p      2^n leaves the integers of V through the weights: with t = score - n in base 2, the weight of a key is
 *          2^(t - top + 12), top being the largest t of its chunk: weights of keys with small V rows are not lost
 *
 * Keys go in chunks of 64 absolute positions: 64 * 2^12 * 2^13 = 2^31 bounds the weighted sum. A chunk's K and V are
 * converted once into scratch, for all queries of the call (in the first-level cache: 16 KB at dimension 64); queries
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
#define NORM_LEAST 1e-30f       /* a query of a smaller squared norm counts as zeros */
#define V_BITS 13
#define LINE_BYTES 64u
#define AHEAD_GROUPS 2u /* measured: 1 and 4 are slower, and so are requests spread over the arithmetic */

struct fixed_call {
    const struct kernel_attend *attend;
    uint32_t rows, q_pairs, columns; /* (token, head) rows; ceil(head_dim / 2); value_dim in whole vectors */
    int32_t k_bits;                  /* magnitudes of K's integers are below 2^k_bits */
    int32_t *q;                      /* tiles of at most ATTEND_TILE_ROWS rows, each part [q_pairs][rows]: two int16 */
    float *q_scale;                  /* [rows] what a row's integers are to be multiplied with */
    float *maximum, *sum, *values;   /* the segment's partial: [rows], [rows], [rows][columns] */
    /* the chunk */
    int32_t *k;     /* [q_pairs][CHUNK_KEYS] two int16 of d each */
    int32_t *v;     /* [CHUNK_KEYS / 2][columns] two int16 of adjacent keys each */
    float *k_scale; /* [CHUNK_KEYS] */
    float *v_power; /* [CHUNK_KEYS] n */
    float *v_scale; /* [CHUNK_KEYS] 2^n */
    float *scores;  /* [ATTEND_TILE_ROWS][CHUNK_KEYS] */
    int16_t *p;     /* [ATTEND_TILE_ROWS][CHUNK_KEYS] */
};

/* ---- conversion -------------------------------------------------------------------------------------------------- */

/* floor(log2) of the largest magnitude of each of a group's rows: from the exponent field, which is 31 where a row holds no
 * number (then the result is of no use, but finite). A row of zeros or subnormal numbers has the least. */
#define F16_EXPONENT_LEAST (-15)
#define F16_MAGNITUDE 0x7FFF

SIMD_INLINE __m256i f16_magnitudes(const uint16_t *p)
{
    return _mm256_and_si256(_mm256_loadu_si256((const __m256i *)p), _mm256_set1_epi16(F16_MAGNITUDE));
}

SIMD_INLINE void f16_exponents(__m256i most, int32_t *exponents)
{
    __m256i e = _mm256_srli_epi16(most, 10), least = _mm256_set1_epi32(F16_EXPONENT_LEAST);
    __m256i low = _mm256_cvtepu16_epi32(_mm256_castsi256_si128(e)),
            high = _mm256_cvtepu16_epi32(_mm256_extracti128_si256(e, 1));
    _mm256_store_si256((__m256i *)exponents, _mm256_add_epi32(low, least));
    _mm256_store_si256((__m256i *)(exponents + 8), _mm256_add_epi32(high, least));
}

static void f32_exponents(const float *most, int32_t *exponents)
{
    for (uint32_t i = 0; i < KERNEL_GROUP_TOKENS; i++) {
        uint32_t bits;
        memcpy(&bits, most + i, sizeof bits);
        exponents[i] = (int32_t)(bits >> 23) - 127;
        if (exponents[i] < F16_EXPONENT_LEAST) exponents[i] = F16_EXPONENT_LEAST;
        if (exponents[i] > 127 - V_BITS) exponents[i] = 127 - V_BITS;
    }
}

/* Of the 16 keys of a K group. */
SIMD_INLINE void k_exponents(enum number_format format, const char *k, uint32_t dim, int32_t *exponents)
{
    if (format == NF_F16) {
        const uint16_t *rows = (const uint16_t *)k;
        __m256i even = _mm256_setzero_si256(), odd = even;
        for (uint32_t d = 0; d + 2 <= dim; d += 2) {
            even = _mm256_max_epu16(even, f16_magnitudes(rows + d * KERNEL_GROUP_TOKENS));
            odd = _mm256_max_epu16(odd, f16_magnitudes(rows + (d + 1) * KERNEL_GROUP_TOKENS));
        }
        if (dim % 2) even = _mm256_max_epu16(even, f16_magnitudes(rows + (dim - 1) * KERNEL_GROUP_TOKENS));
        f16_exponents(_mm256_max_epu16(even, odd), exponents);
        return;
    }
    _Alignas(64) float most[KERNEL_GROUP_TOKENS];
    for (uint32_t i = 0; i < KERNEL_GROUP_TOKENS; i += SIMD_LANES) {
        simd top = simd_set(0);
        for (uint32_t d = 0; d < dim; d++)
            top = simd_max(simd_absolute(cache_load(format, k, (uint64_t)d * KERNEL_GROUP_TOKENS + i)), top);
        simd_store(most + i, top);
    }
    f32_exponents(most, exponents);
}

/* Of 2, 4 and 8 vectors a step: max of the halves, interleaved, until each of 16 rows has one lane. */
SIMD_INLINE __m256i max_16(__m256i a, __m256i b)
{
    return _mm256_max_epu16(_mm256_unpacklo_epi16(a, b), _mm256_unpackhi_epi16(a, b));
}
SIMD_INLINE __m256i max_32(__m256i a, __m256i b)
{
    return _mm256_max_epu16(_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
}
SIMD_INLINE __m256i max_64(__m256i a, __m256i b)
{
    return _mm256_max_epu16(_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b));
}

SIMD_INLINE __m256i f16_row_magnitudes(const uint16_t *row, uint32_t dim)
{
    __m256i most = _mm256_setzero_si256();
    uint32_t c = 0;
    for (; c + 16 <= dim; c += 16) most = _mm256_max_epu16(most, f16_magnitudes(row + c));
    if (c < dim) {
        uint16_t rest[16] = {0};
        memcpy(rest, row + c, (dim - c) * sizeof *rest);
        most = _mm256_max_epu16(most, f16_magnitudes(rest));
    }
    return most;
}

/* Of the 16 rows of a V group. */
SIMD_INLINE void v_exponents(enum number_format format, const char *v, uint32_t dim, int32_t *exponents)
{
    if (format == NF_F16) {
        const uint16_t *rows = (const uint16_t *)v;
        __m256i a[8];
#pragma GCC unroll 8
        for (uint32_t i = 0; i < 8; i++) {
            __m256i low = f16_row_magnitudes(rows + (uint64_t)i * dim, dim),
                    high = f16_row_magnitudes(rows + (uint64_t)(i + 8) * dim, dim);
            a[i] = _mm256_max_epu16(_mm256_permute2x128_si256(low, high, 0x20),
                                    _mm256_permute2x128_si256(low, high, 0x31));
        }
        f16_exponents(
            max_64(max_32(max_16(a[0], a[1]), max_16(a[2], a[3])), max_32(max_16(a[4], a[5]), max_16(a[6], a[7]))),
            exponents);
        return;
    }
    float most[KERNEL_GROUP_TOKENS];
    for (uint32_t i = 0; i < KERNEL_GROUP_TOKENS; i++) {
        most[i] = 0;
        for (uint32_t c = 0; c < dim; c++) {
            float size = fabsf(((const float *)v)[(uint64_t)i * dim + c]);
            if (size > most[i]) most[i] = size;
        }
    }
    f32_exponents(most, exponents);
}

/* 2^n for n of -126...127. */
static float power_of_2(int32_t n)
{
    uint32_t bits = (uint32_t)(n + 127) << 23;
    float power;
    memcpy(&power, &bits, sizeof power);
    return power;
}

/* base - exponents, and 2 to that power, of a group's rows. */
SIMD_INLINE void group_powers(int32_t base, const int32_t *exponents, uint32_t i, simd *n, simd *power)
{
    simd_int whole = simd_int_sub(simd_int_set(base), simd_int_load(exponents + i));
    *n = simd_from_int(whole);
    *power = simd_from_bits(simd_int_shift_left(simd_int_sub(whole, simd_int_set(-127)), 23));
}

/* x + ROUNDER * 2^-n has round(x * 2^n), to nearest even, in its low bits. */
#define ROUNDER 0x1.8p23f

SIMD_INLINE simd_int rounded_pair(simd low, simd low_rounder, simd high, simd high_rounder)
{
    return simd_int_pair(simd_bits(simd_add(low, low_rounder)), simd_bits(simd_add(high, high_rounder)));
}

/* K of one group: `lane` is its first key in the chunk. */
SIMD_INLINE void convert_k(const struct fixed_call *call, enum number_format format, const char *k, const char *ahead,
                           uint32_t lane)
{
    const uint32_t dim = call->attend->head_dim;
    _Alignas(64) int32_t exponents[KERNEL_GROUP_TOKENS];
    k_exponents(format, k, dim, exponents);
    for (uint32_t i = 0; i < KERNEL_GROUP_TOKENS; i += SIMD_LANES) {
        simd n, power;
        group_powers(call->k_bits - 1, exponents, i, &n, &power);
        const simd back = simd_div(simd_set(1.0f), power), round = simd_mul(simd_set(ROUNDER), back);
        int32_t *out = call->k + lane + i;
        uint64_t at = i;
        uint32_t d = 0;
        simd_store(call->k_scale + lane + i, back);
#pragma GCC unroll 4
        for (; d + 2 <= dim; d += 2, out += CHUNK_KEYS, at += 2 * KERNEL_GROUP_TOKENS) {
            PREFETCH(ahead + d / 2 * LINE_BYTES);
            simd_int_store(out, rounded_pair(cache_load(format, k, at), round,
                                             cache_load(format, k, at + KERNEL_GROUP_TOKENS), round));
        }
        if (d < dim) simd_int_store(out, rounded_pair(cache_load(format, k, at), round, simd_set(0), simd_set(0)));
    }
}

/* V of one group: `lane` is its first key in the chunk. */
SIMD_INLINE void convert_v(const struct fixed_call *call, enum number_format format, const char *v, const char *ahead,
                           uint32_t lane)
{
    const uint32_t dim = call->attend->value_dim, columns = call->columns;
    const uint64_t row_bytes = (uint64_t)dim * cache_element_bytes(format);
    int32_t *out = call->v + (uint64_t)lane / 2 * columns;
    _Alignas(64) int32_t exponents[KERNEL_GROUP_TOKENS];
    _Alignas(64) float rounders[KERNEL_GROUP_TOKENS];
    v_exponents(format, v, dim, exponents);
    for (uint32_t i = 0; i < KERNEL_GROUP_TOKENS; i += SIMD_LANES) {
        simd n, power;
        group_powers(V_BITS - 1, exponents, i, &n, &power);
        simd_store(call->v_power + lane + i, n);
        simd_store(call->v_scale + lane + i, power);
        simd_store(rounders + i, simd_div(simd_set(ROUNDER), power));
    }
    for (uint32_t i = 0; i < KERNEL_GROUP_TOKENS; i += 2, out += columns) {
        const char *even = v + i * row_bytes, *odd = even + row_bytes;
        const simd round_even = simd_set(rounders[i]), round_odd = simd_set(rounders[i + 1]);
        for (uint32_t line = 0; line < 2 * row_bytes; line += LINE_BYTES) PREFETCH(ahead + i * row_bytes + line);
        uint32_t c = 0;
#pragma GCC unroll 4
        for (; c + SIMD_LANES <= dim; c += SIMD_LANES)
            simd_int_store(
                out + c, rounded_pair(cache_load(format, even, c), round_even, cache_load(format, odd, c), round_odd));
        if (c < dim)
            simd_int_store(out + c, rounded_pair(cache_load_first(format, even, c, dim - c), round_even,
                                                 cache_load_first(format, odd, c, dim - c), round_odd));
    }
}

/* Groups [begin, end) of a segment, all of one chunk. */
static void convert_chunk(const struct fixed_call *call, const struct segment *segment, uint32_t begin, uint32_t end)
{
    const struct kernel_attend *a = call->attend;
    for (uint32_t g = begin; g < end; g++) {
        uint32_t lane = g % CHUNK_GROUPS * KERNEL_GROUP_TOKENS;
        if (a->k_format == NF_F16)
            convert_k(call, NF_F16, segment->groups.k[g], segment->k_ahead[g], lane);
        else
            convert_k(call, NF_F32, segment->groups.k[g], segment->k_ahead[g], lane);
        if (a->v_format == NF_F16)
            convert_v(call, NF_F16, segment->groups.v[g], segment->v_ahead[g], lane);
        else
            convert_v(call, NF_F32, segment->groups.v[g], segment->v_ahead[g], lane);
    }
}

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
    call->q_scale[row] =
        power_of_2(-power) * (float)(a->softcap > 0 ? (double)a->scale / a->softcap : a->scale * SIMD_LOG2_E);
}

/* ---- one tile of rows against the chunk -------------------------------------------------------------------------- */

struct fixed_tile {
    const struct fixed_call *call;
    uint32_t row, rows, group_begin, group_end;  /* first row; groups of the chunk that any row sees */
    struct attend_range range[ATTEND_TILE_ROWS]; /* keys of the chunk that each row sees */
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

/* Scores in vectors [begin, end) of a row to weights; the largest score, and the sum of the weights. */
SIMD_INLINE float softmax_vectors(const struct fixed_call *call, const uint32_t begin, const uint32_t end,
                                  const bool edges, struct attend_range range, const float *scores, int16_t *weights,
                                  float *top)
{
    const float softcap = call->attend->softcap;
    simd t[CHUNK_VECTORS], most = simd_set(ALMOST_NOTHING), sum = simd_set(0);
#pragma GCC unroll 8
    for (uint32_t i = begin; i < end; i++) {
        const uint32_t lane = i * SIMD_LANES;
        simd score = simd_load(scores + lane), n = simd_load(call->v_power + lane),
             scale = simd_load(call->k_scale + lane);
        if (softcap > 0)
            score = simd_fms(simd_tanh(simd_mul(score, scale)), simd_set((float)((double)softcap * SIMD_LOG2_E)), n);
        else
            score = simd_fms(score, scale, n);
        if (edges) score = simd_between(lane_of(range.begin, lane), lane_of(range.end, lane), score, simd_set(NOTHING));
        most = simd_max(most, score);
        t[i] = score;
    }
    *top = simd_top(most);
    const simd offset = simd_set(*top);
#pragma GCC unroll 8
    for (uint32_t i = begin; i < end; i++) {
        simd p = fixed_exp2(simd_sub(t[i], offset));
        sum = simd_fma(p, simd_load(call->v_scale + i * SIMD_LANES), sum);
        simd_store_i16(weights + i * SIMD_LANES, simd_to_int(p));
    }
    return simd_sum(sum);
}

static float fixed_softmax(const struct fixed_tile *tile, uint32_t r, float *top)
{
    const struct attend_range range = tile->range[r];
    const float *scores = tile->call->scores + r * CHUNK_KEYS;
    int16_t *weights = tile->call->p + r * CHUNK_KEYS;
    if (range.begin == 0 && range.end == CHUNK_KEYS)
        return softmax_vectors(tile->call, 0, CHUNK_VECTORS, false, range, scores, weights, top);
    return softmax_vectors(tile->call, tile->group_begin * GROUP_VECTORS, tile->group_end * GROUP_VECTORS, true, range,
                           scores, weights, top);
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

static void fixed_values(const struct fixed_tile *tile, const float *keep, const float *take)
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
static bool fixed_ranges(struct fixed_tile *tile, uint32_t segment, uint32_t key)
{
    uint32_t begin = CHUNK_KEYS, end = 0;
    for (uint32_t r = 0; r < tile->rows; r++) {
        struct attend_range range =
            attend_visible(tile->call->attend, (tile->row + r) / tile->call->attend->group, segment);
        range.begin = range.begin > key ? range.begin - key : 0;
        range.end = range.end < key ? 0 : range.end - key < CHUNK_KEYS ? range.end - key : CHUNK_KEYS;
        tile->range[r] = range;
        if (range.begin >= range.end) continue;
        if (range.begin < begin) begin = range.begin;
        if (range.end > end) end = range.end;
    }
    tile->group_begin = begin / KERNEL_GROUP_TOKENS;
    tile->group_end = (end + KERNEL_GROUP_TOKENS - 1) / KERNEL_GROUP_TOKENS;
    return begin < end;
}

/* The groups to ask for while one is converted: the next but one, and after the last the next segment's first. */
static void fixed_ahead(struct segment *segment, const struct attend_groups *next)
{
    const struct attend_groups *now = &segment->groups;
    uint32_t begin = now->range.begin / KERNEL_GROUP_TOKENS, first = next ? next->range.begin / KERNEL_GROUP_TOKENS : 0;
    uint32_t end = (now->range.end + KERNEL_GROUP_TOKENS - 1) / KERNEL_GROUP_TOKENS;
    uint32_t next_end = next ? (next->range.end + KERNEL_GROUP_TOKENS - 1) / KERNEL_GROUP_TOKENS : 0;
    for (uint32_t g = begin; g < end; g++) {
        uint32_t ahead = g + AHEAD_GROUPS, after = first + (ahead > end ? ahead - end : 0);
        segment->k_ahead[g] = ahead < end ? now->k[ahead] : after < next_end ? next->k[after] : now->k[g];
        segment->v_ahead[g] = ahead < end ? now->v[ahead] : after < next_end ? next->v[after] : now->v[g];
    }
}

static void fixed_segment(struct fixed_call *call, struct segment *segment, const struct attend_groups *next,
                          uint32_t index, float *state)
{
    fixed_ahead(segment, next);
    const struct kernel_attend *a = call->attend;
    const struct attend_range seen = segment->groups.range;
    uint32_t tiles = (call->rows + ATTEND_TILE_ROWS - 1) / ATTEND_TILE_ROWS;
    for (uint32_t row = 0; row < call->rows; row++) {
        call->maximum[row] = NOTHING;
        call->sum[row] = 0;
    }
    memset(call->values, 0, (uint64_t)call->rows * call->columns * sizeof *call->values);
    for (uint32_t key = seen.begin / CHUNK_KEYS * CHUNK_KEYS; key < seen.end; key += CHUNK_KEYS) {
        uint32_t begin = (key > seen.begin ? key : seen.begin) / KERNEL_GROUP_TOKENS;
        uint32_t stop = key + CHUNK_KEYS < seen.end ? key + CHUNK_KEYS : seen.end;
        convert_chunk(call, segment, begin, (stop + KERNEL_GROUP_TOKENS - 1) / KERNEL_GROUP_TOKENS);
        for (uint32_t t = 0; t < tiles; t++) {
            struct fixed_tile tile = {.call = call, .row = part_begin(call->rows, tiles, t)};
            tile.rows = part_begin(call->rows, tiles, t + 1) - tile.row;
            if (fixed_ranges(&tile, index, key)) fixed_tile_attend(&tile);
        }
    }
    uint64_t stride = 2 + (uint64_t)a->value_dim;
    for (uint32_t row = 0; row < call->rows; row++)
        fold_row(state + row * stride, call->maximum[row] > ALMOST_NOTHING ? call->maximum[row] : -INFINITY,
                 call->sum[row], call->values + (uint64_t)row * call->columns, a->value_dim);
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
                                .q_pairs = (attend->head_dim + 1) / 2,
                                .columns = (uint32_t)round_up(attend->value_dim, SIMD_LANES)};
    for (call->k_bits = 15; (uint64_t)1 << (2 * (16 - call->k_bits)) < attend->head_dim;) call->k_bits--;
    /* Sizes as in kernel_attend_scratch_floats. */
    uint64_t rows = round_up(call->rows, 16), columns = round_up(attend->value_dim, 16);
    call->k_scale = scratch;
    call->v_power = call->k_scale + CHUNK_KEYS;
    call->v_scale = call->v_power + CHUNK_KEYS;
    call->scores = call->v_scale + CHUNK_KEYS;
    call->p = (int16_t *)(void *)(call->scores + ATTEND_TILE_ROWS * CHUNK_KEYS);
    call->k = (int32_t *)(void *)(call->p + ATTEND_TILE_ROWS * CHUNK_KEYS);
    call->v = call->k + CHUNK_KEYS * (uint64_t)call->q_pairs;
    call->q_scale = (float *)(void *)(call->v + CHUNK_KEYS / 2 * columns);
    call->maximum = call->q_scale + rows;
    call->sum = call->maximum + rows;
    call->values = call->sum + rows;
    call->q = (int32_t *)(void *)(call->values + rows * columns);
    fixed_queries(call);
}
