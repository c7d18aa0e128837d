/* attention_convert.h - a chunk's K and V from the cache's formats to 16-bit integers in scratch, with the scales that
 * attention_fixed.h (which includes this, and says what the integers are) takes them with. attention_internal.h has the
 * layouts of the formats.
 *
 * Slots that were not written hold any bytes. What they become stays in their lanes: integers and 2^n are finite whatever the
 * bytes are; only k_scale may be no number, and a score that no row sees is dropped. */
#define V_BITS 13
#define LINE_BYTES 64u
#define F16_LEAST 0x1p-24f

/* ---- what is common ------------------------------------------------------------------------------------------------ */

/* SIMD_LANES elements from `index` on. */
SIMD_INLINE simd element_load(enum number_format format, const char *base, uint64_t index)
{
    switch (format) {
    case NF_F16:
        return simd_load_f16((const uint16_t *)base + index);
    case NF_BF16:
        return simd_load_bf16((const uint16_t *)base + index);
    default:
        return simd_load((const float *)base + index);
    }
}

SIMD_INLINE simd element_load_first(enum number_format format, const char *base, uint64_t index, uint32_t count)
{
    if (format == NF_F32) return simd_load_first((const float *)base + index, count);
    uint16_t lanes[SIMD_LANES] = {0};
    memcpy(lanes, (const uint16_t *)base + index, count * sizeof *lanes);
    return element_load(format, (const char *)lanes, 0);
}

/* floor(log2) of the largest magnitude of each of a group's rows: from the exponent field, which is 31 where a row holds no
 * number (then the result is of no use, but finite). A row of zeros or subnormal numbers has the least. */
#define EXPONENT_LEAST (-15)         /* that of f16's zeros and subnormal numbers, and the least of others */
#define EXPONENT_MOST (127 - V_BITS) /* so that 2^n is a number */
#define HALF_MAGNITUDE 0x7FFF

SIMD_INLINE __m256i half_magnitudes(const uint16_t *p)
{
    return _mm256_and_si256(_mm256_loadu_si256((const __m256i *)p), _mm256_set1_epi16(HALF_MAGNITUDE));
}

/* Exponent fields, less their bias, within the limits. */
SIMD_INLINE void store_exponents(__m256i fields, int32_t bias, int32_t *exponents)
{
    __m256i e = _mm256_sub_epi32(fields, _mm256_set1_epi32(bias));
    e = _mm256_max_epi32(_mm256_min_epi32(e, _mm256_set1_epi32(EXPONENT_MOST)), _mm256_set1_epi32(EXPONENT_LEAST));
    _mm256_store_si256((__m256i *)exponents, e);
}

/* Of f16 and bf16 numbers. */
SIMD_INLINE void half_exponents(enum number_format format, __m256i most, int32_t *exponents)
{
    const int32_t bias = format == NF_F16 ? 15 : 127;
    __m256i e = _mm256_srli_epi16(most, format == NF_F16 ? 10 : 7);
    store_exponents(_mm256_cvtepu16_epi32(_mm256_castsi256_si128(e)), bias, exponents);
    store_exponents(_mm256_cvtepu16_epi32(_mm256_extracti128_si256(e, 1)), bias, exponents + 8);
}

SIMD_INLINE void f32_exponents(const float *most, int32_t *exponents)
{
    for (uint32_t i = 0; i < KERNEL_GROUP_TOKENS; i += 8)
        store_exponents(_mm256_srli_epi32(_mm256_loadu_si256((const __m256i *)(most + i)), 23), 127, exponents + i);
}

/* Of the 16 keys of a K group. */
SIMD_INLINE void k_exponents(enum number_format format, const char *k, uint32_t dim, int32_t *exponents)
{
    if (format != NF_F32) {
        const uint16_t *rows = (const uint16_t *)k;
        __m256i even = _mm256_setzero_si256(), odd = even;
        for (uint32_t d = 0; d + 2 <= dim; d += 2) {
            even = _mm256_max_epu16(even, half_magnitudes(rows + d * KERNEL_GROUP_TOKENS));
            odd = _mm256_max_epu16(odd, half_magnitudes(rows + (d + 1) * KERNEL_GROUP_TOKENS));
        }
        if (dim % 2) even = _mm256_max_epu16(even, half_magnitudes(rows + (dim - 1) * KERNEL_GROUP_TOKENS));
        half_exponents(format, _mm256_max_epu16(even, odd), exponents);
        return;
    }
    _Alignas(64) float most[KERNEL_GROUP_TOKENS];
    for (uint32_t i = 0; i < KERNEL_GROUP_TOKENS; i += SIMD_LANES) {
        simd top = simd_set(0);
        for (uint32_t d = 0; d < dim; d++)
            top = simd_max(simd_absolute(element_load(format, k, (uint64_t)d * KERNEL_GROUP_TOKENS + i)), top);
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

SIMD_INLINE __m256i half_row_magnitudes(const uint16_t *row, uint32_t dim)
{
    __m256i most = _mm256_setzero_si256();
    uint32_t c = 0;
    for (; c + 16 <= dim; c += 16) most = _mm256_max_epu16(most, half_magnitudes(row + c));
    if (c < dim) {
        uint16_t rest[16] = {0};
        memcpy(rest, row + c, (dim - c) * sizeof *rest);
        most = _mm256_max_epu16(most, half_magnitudes(rest));
    }
    return most;
}

/* Of the 16 rows of a V group. */
SIMD_INLINE void v_exponents(enum number_format format, const char *v, uint32_t dim, int32_t *exponents)
{
    if (format != NF_F32) {
        const uint16_t *rows = (const uint16_t *)v;
        __m256i a[8];
#pragma GCC unroll 8
        for (uint32_t i = 0; i < 8; i++) {
            __m256i low = half_row_magnitudes(rows + (uint64_t)i * dim, dim),
                    high = half_row_magnitudes(rows + (uint64_t)(i + 8) * dim, dim);
            a[i] = _mm256_max_epu16(_mm256_permute2x128_si256(low, high, 0x20),
                                    _mm256_permute2x128_si256(low, high, 0x31));
        }
        half_exponents(
            format,
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

/* ---- rows of elements -------------------------------------------------------------------------------------------- */

/* K of one group: `lane` is its first key in the chunk. */
SIMD_INLINE void convert_k_elements(const struct fixed_call *call, enum number_format format, const char *k,
                                    const char *ahead, uint32_t lane)
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
            simd_int_store(out, rounded_pair(element_load(format, k, at), round,
                                             element_load(format, k, at + KERNEL_GROUP_TOKENS), round));
        }
        if (d < dim) simd_int_store(out, rounded_pair(element_load(format, k, at), round, simd_set(0), simd_set(0)));
    }
}

/* V of one group: `lane` is its first key in the chunk. */
SIMD_INLINE void convert_v_elements(const struct fixed_call *call, enum number_format format, const char *v,
                                    const char *ahead, uint32_t lane)
{
    const uint32_t dim = call->attend->value_dim, columns = call->columns;
    const uint64_t row_bytes = (uint64_t)dim * (format == NF_F32 ? 4 : 2);
    int32_t *out = call->v + (uint64_t)lane / 2 * columns;
    _Alignas(64) int32_t exponents[KERNEL_GROUP_TOKENS];
    _Alignas(64) float rounders[KERNEL_GROUP_TOKENS];
    v_exponents(format, v, dim, exponents);
    for (uint32_t i = 0; i < KERNEL_GROUP_TOKENS; i += SIMD_LANES) {
        simd n, power;
        group_powers(V_BITS - 1, exponents, i, &n, &power);
        simd_store(call->v_power + lane + i, n);
        simd_store(call->v_scale + lane + i, power);
        simd_store(call->v_factor + lane + i, simd_set(1));
        simd_store(rounders + i, simd_div(simd_set(ROUNDER), power));
    }
    for (uint32_t i = 0; i < KERNEL_GROUP_TOKENS; i += 2, out += columns) {
        const char *even = v + i * row_bytes, *odd = even + row_bytes;
        const simd round_even = simd_set(rounders[i]), round_odd = simd_set(rounders[i + 1]);
        for (uint32_t line = 0; line < 2 * row_bytes; line += LINE_BYTES) PREFETCH(ahead + i * row_bytes + line);
        uint32_t c = 0;
#pragma GCC unroll 4
        for (; c + SIMD_LANES <= dim; c += SIMD_LANES)
            simd_int_store(out + c, rounded_pair(element_load(format, even, c), round_even,
                                                 element_load(format, odd, c), round_odd));
        if (c < dim)
            simd_int_store(out + c, rounded_pair(element_load_first(format, even, c, dim - c), round_even,
                                                 element_load_first(format, odd, c, dim - c), round_odd));
    }
}

/* ---- rows of codes ------------------------------------------------------------------------------------------------- */

SIMD_INLINE void prefetch_group(const char *ahead, uint64_t bytes)
{
    for (uint64_t line = 0; line < bytes; line += LINE_BYTES) PREFETCH(ahead + line);
}

/* What fp8 numbers, as simd_load_fp8_* gives them, are multiplied with so that the largest becomes 1.75 * 2^(bits - 1); both
 * are 1.75 * 2^0 there (448 = 1.75 * 2^8). */
SIMD_INLINE float fp8_power(uint32_t bits)
{
    return power_of_2((int32_t)bits - 1);
}

/* What an integer is worth, in units of the row's scale. */
SIMD_INLINE float code_unit(enum number_format format, uint32_t bits)
{
    if (format == NF_FP8_E4M3) return 256 / fp8_power(bits);
    if (format == NF_FP8_E5M2) return 1 / fp8_power(bits);
    return 1;
}

/* SIMD_LANES pairs of codes as pairs of integers: of int4 two such, of which the second may be dropped. */
SIMD_INLINE void codes_load(enum number_format format, uint32_t bits, const uint8_t *codes, simd_int *first,
                            simd_int *second)
{
    if (format == NF_INT8) {
        *first = simd_int_load_i8(codes);
    } else if (format == NF_INT4) {
        simd_int_load_levels(cache_int4_levels, codes, first, second);
    } else {
        const simd round = simd_set(ROUNDER / fp8_power(bits));
        simd a, b;
        if (format == NF_FP8_E4M3)
            simd_load_fp8_e4m3(codes, &a, &b);
        else
            simd_load_fp8_e5m2(codes, &a, &b);
        *first = rounded_pair(a, round, b, round);
    }
}

/* The codes of the last d of a K group, which lie in 16 bytes, as pairs with zeros. */
SIMD_INLINE void last_pairs(const uint8_t *codes, uint8_t *pairs)
{
    for (uint32_t i = 0; i < KERNEL_GROUP_TOKENS; i++) {
        pairs[2 * i] = codes[i];
        pairs[2 * i + 1] = 0;
    }
}

SIMD_INLINE void convert_k_last(const struct fixed_call *call, enum number_format format, const uint8_t *codes,
                                int32_t *out)
{
    uint8_t pairs[2 * KERNEL_GROUP_TOKENS];
    last_pairs(codes, pairs);
    for (uint32_t i = 0; i < KERNEL_GROUP_TOKENS; i += SIMD_LANES) {
        simd_int pair, none;
        codes_load(format, (uint32_t)call->k_bits, pairs + 2 * i, &pair, &none);
        simd_int_store(out + i, pair);
    }
}

SIMD_INLINE void convert_k_codes(const struct fixed_call *call, enum number_format format, const char *k,
                                 const char *ahead, uint32_t lane)
{
    const uint32_t dim = call->attend->head_dim, bits = (uint32_t)call->k_bits;
    const uint8_t *codes = (const uint8_t *)k + CACHE_SCALE_BYTES;
    int32_t *out = call->k + lane;
    prefetch_group(ahead, kernel_k_group_bytes(format, dim));
    for (uint32_t i = 0; i < KERNEL_GROUP_TOKENS; i += SIMD_LANES)
        simd_store(call->k_scale + lane + i,
                   simd_mul(simd_load_f16((const uint16_t *)k + i), simd_set(code_unit(format, bits))));
    for (uint32_t d = 0; d + 2 <= dim; d += 2, codes += 2 * KERNEL_GROUP_TOKENS, out += CHUNK_KEYS) {
#pragma GCC unroll 2
        for (uint32_t i = 0; i < KERNEL_GROUP_TOKENS; i += SIMD_LANES) {
            simd_int first, none;
            codes_load(format, bits, codes + 2 * i, &first, &none);
            simd_int_store(out + i, first);
        }
    }
    if (dim % 2) convert_k_last(call, format, codes, out);
}

/* ---- K of 32 tokens ----------------------------------------------------------------------------------------------------- */

#define STEP_BITS 4        /* that a step has more than a number */
#define AFFINE_BITS_MAX 13 /* a step is at most 2 * 2^bits / 15, and has to fit 16 bits with those 4 */
#define AFFINE_ROOM 1.002f /* what rounding may add, of queries too, is less */

SIMD_INLINE simd f16_load_up_to(const char *numbers, uint32_t at, uint32_t dim)
{
    const uint16_t *p = (const uint16_t *)numbers + at;
    return dim - at < SIMD_LANES ? simd_load_f16_first(p, dim - at) : simd_load_f16(p);
}

/* n such that 2^n times what any channel of a pair can hold, `most`, is below 2^k_bits; the keys' scale follows. `lane`: the
 * pair's first key in the chunk. */
SIMD_INLINE int32_t pair_power(const struct fixed_call *call, simd most, uint32_t lane)
{
    const float top = simd_top(most) * AFFINE_ROOM;
    uint32_t bits;
    memcpy(&bits, &top, sizeof bits);
    const int32_t power = call->k_bits - 1 - ((int32_t)(bits >> 23) - 127);
    for (uint32_t i = 0; i < KERNEL_CLOSED_TOKENS; i += SIMD_LANES)
        simd_store(call->k_scale + lane + i, simd_set(power_of_2(-power)));
    return power;
}

/* Steps and least numbers of a pair of groups in int4 as integers. */
SIMD_INLINE void affine_open(const struct fixed_call *call, const char *pair, uint32_t lane)
{
    const uint32_t dim = call->attend->head_dim;
    const char *steps = pair + cache_k_code_bytes(NF_INT4, dim), *least = steps + kernel_k_group_bytes(NF_INT4, dim);
    simd most = simd_set(F16_LEAST);
    for (uint32_t d = 0; d < dim; d += SIMD_LANES) {
        simd low = f16_load_up_to(least, d, dim), high = simd_fma(f16_load_up_to(steps, d, dim), simd_set(15), low);
        most = simd_max(simd_max(simd_absolute(low), simd_absolute(high)), most);
    }
    const int32_t power = pair_power(call, most, lane);
    const simd low_scale = simd_set(power_of_2(power)), step_scale = simd_set(power_of_2(power + STEP_BITS));
    for (uint32_t d = 0; d < dim; d += SIMD_LANES) {
        simd_store_i16(call->k_step + d, simd_to_int(simd_mul(f16_load_up_to(steps, d, dim), step_scale)));
        simd_store_i16(call->k_least + d, simd_to_int(simd_mul(f16_load_up_to(least, d, dim), low_scale)));
    }
}

/* The numbers of two d in all lanes. */
SIMD_INLINE simd_int both_set(const int16_t *numbers)
{
    int32_t both;
    memcpy(&both, numbers, sizeof both);
    return simd_int_set(both);
}

/* Codes of 4 or less d, which lie in 32 bytes: of those that are not there the step and the least number are 0. */
SIMD_INLINE void affine_load(const struct fixed_call *call, const uint8_t *codes, uint32_t d, simd_int *first,
                             simd_int *second)
{
    const simd_int half = both_set(call->k_step + d), other = both_set(call->k_step + d + 2);
    simd_int_load_nibbles(codes, first, second);
    *first = simd_int_affine(*first, half, both_set(call->k_least + d));
    *second = simd_int_affine(*second, other, both_set(call->k_least + d + 2));
}

/* A group whose pair was opened. */
SIMD_INLINE void convert_k_affine(const struct fixed_call *call, enum number_format format, const char *k,
                                  const char *ahead, uint32_t lane)
{
    const uint32_t dim = call->attend->head_dim;
    const uint8_t *codes = (const uint8_t *)k;
    int32_t *out = call->k + lane;
    uint32_t d = 0;
    simd_int first, second;
    prefetch_group(ahead, kernel_k_group_bytes(format, dim));
    for (; d + 2 < dim; d += 4, codes += 2 * KERNEL_GROUP_TOKENS, out += 2 * CHUNK_KEYS) {
#pragma GCC unroll 2
        for (uint32_t i = 0; i < KERNEL_GROUP_TOKENS; i += SIMD_LANES) {
            affine_load(call, codes + 2 * i, d, &first, &second);
            simd_int_store(out + i, first);
            simd_int_store(out + CHUNK_KEYS + i, second);
        }
    }
    if (d >= dim) return;
    uint8_t pairs[2 * KERNEL_GROUP_TOKENS]; /* the last two d, or one */
    for (uint32_t i = 0; i < KERNEL_GROUP_TOKENS; i++) {
        pairs[2 * i] = codes[i] & 15;
        pairs[2 * i + 1] = codes[i] >> 4;
    }
    for (uint32_t i = 0; i < KERNEL_GROUP_TOKENS; i += SIMD_LANES) {
        affine_load(call, pairs + 2 * i, d, &first, &second);
        simd_int_store(out + i, first);
    }
}

/* Scales and middles of a pair of groups in fp8_e4m3, times what makes integers of numbers as simd_load_fp8_e4m3 gives them. */
SIMD_INLINE void channels_open(const struct fixed_call *call, const char *pair, uint32_t lane)
{
    const uint32_t dim = call->attend->head_dim;
    const char *scales = pair + cache_k_code_bytes(NF_FP8_E4M3, dim),
               *middles = scales + kernel_k_group_bytes(NF_FP8_E4M3, dim);
    simd most = simd_set(F16_LEAST);
    for (uint32_t d = 0; d < dim; d += SIMD_LANES) {
        simd middle = simd_absolute(f16_load_up_to(middles, d, dim));
        most = simd_max(simd_fma(f16_load_up_to(scales, d, dim), simd_set(CACHE_E4M3_TOP), middle), most);
    }
    const int32_t power = pair_power(call, most, lane);
    for (uint32_t d = 0; d < dim; d += SIMD_LANES) {
        simd_store(call->k_factor + d, simd_mul(f16_load_up_to(scales, d, dim), simd_set(256 * power_of_2(power))));
        simd_store(call->k_middle + d, simd_mul(f16_load_up_to(middles, d, dim), simd_set(power_of_2(power))));
    }
}

/* Codes of d and d + 1, in pairs: of a d that is not there the scale and the middle are 0. */
SIMD_INLINE simd_int channels_load(const struct fixed_call *call, const uint8_t *codes, uint32_t d)
{
    const simd round = simd_set(ROUNDER);
    simd a, b;
    simd_load_fp8_e4m3(codes, &a, &b);
    a = simd_fma(a, simd_set(call->k_factor[d]), simd_set(call->k_middle[d]));
    b = simd_fma(b, simd_set(call->k_factor[d + 1]), simd_set(call->k_middle[d + 1]));
    return rounded_pair(a, round, b, round);
}

/* A group whose pair was opened. */
SIMD_INLINE void convert_k_channels(const struct fixed_call *call, enum number_format format, const char *k,
                                    const char *ahead, uint32_t lane)
{
    const uint32_t dim = call->attend->head_dim;
    const uint8_t *codes = (const uint8_t *)k;
    int32_t *out = call->k + lane;
    uint32_t d = 0;
    prefetch_group(ahead, kernel_k_group_bytes(format, dim));
    for (; d + 2 <= dim; d += 2, codes += 2 * KERNEL_GROUP_TOKENS, out += CHUNK_KEYS) {
#pragma GCC unroll 2
        for (uint32_t i = 0; i < KERNEL_GROUP_TOKENS; i += SIMD_LANES)
            simd_int_store(out + i, channels_load(call, codes + 2 * i, d));
    }
    if (d >= dim) return;
    uint8_t pairs[2 * KERNEL_GROUP_TOKENS];
    last_pairs(codes, pairs);
    for (uint32_t i = 0; i < KERNEL_GROUP_TOKENS; i += SIMD_LANES)
        simd_int_store(out + i, channels_load(call, pairs + 2 * i, d));
}

/* ---- V of codes ---------------------------------------------------------------------------------------------------- */

/* A row's scale s as f * 2^-n, |f| in [least, 2 * least), for the 16 rows of a group; f is 0 for a row of zeros. */
SIMD_INLINE void v_scales(const struct fixed_call *call, const uint16_t *scales, float unit, float least, uint32_t lane)
{
    const simd_int fraction = simd_int_set(0x007FFFFF);
    for (uint32_t i = 0; i < KERNEL_GROUP_TOKENS; i += SIMD_LANES) {
        simd scale = simd_load_f16(scales + i), size = simd_min(simd_absolute(scale), simd_set(KERNEL_F16_MAX));
        simd whole = simd_mul(simd_max(size, simd_set(F16_LEAST)), simd_set(unit / least));
        simd_int exponent = simd_int_sub(simd_int_shift_right(simd_bits(whole), 23), simd_int_set(127));
        simd factor = simd_from_bits(simd_int_or(simd_int_and(simd_bits(whole), fraction), simd_bits(simd_set(least))));
        factor = simd_where_less(size, simd_set(F16_LEAST), simd_set(0), simd_copy_sign(factor, scale));
        simd_store(call->v_factor + lane + i, factor);
        simd_store(call->v_power + lane + i, simd_from_int(simd_int_sub(simd_int_zero(), exponent)));
        simd_store(call->v_scale + lane + i,
                   simd_from_bits(simd_int_shift_left(simd_int_sub(simd_int_set(127), exponent), 23)));
    }
}

SIMD_INLINE void convert_v_codes(const struct fixed_call *call, enum number_format format, const char *v,
                                 const char *ahead, uint32_t lane)
{
    const uint32_t dim = call->attend->value_dim, columns = call->columns, step = format == NF_INT4 ? 4 : 2;
    const uint8_t *codes = (const uint8_t *)v + CACHE_SCALE_BYTES;
    int32_t *out = call->v + (uint64_t)lane / 2 * columns;
    prefetch_group(ahead, kernel_v_group_bytes(format, dim));
    v_scales(call, (const uint16_t *)v, code_unit(format, V_BITS), format >= NF_INT8 ? 2.0f : 0.5f, lane);
    for (uint32_t token = 0; token < KERNEL_GROUP_TOKENS; token += step, codes += 2 * (uint64_t)dim) {
        simd_int first, second;
        uint32_t c = 0;
#pragma GCC unroll 4
        for (; c + SIMD_LANES <= dim; c += SIMD_LANES) {
            codes_load(format, V_BITS, codes + 2 * c, &first, &second);
            simd_int_store(out + c, first);
            if (format == NF_INT4) simd_int_store(out + columns + c, second);
        }
        if (c < dim) {
            uint8_t pairs[2 * SIMD_LANES] = {0};
            memcpy(pairs, codes + 2 * c, 2 * (dim - c));
            codes_load(format, V_BITS, pairs, &first, &second);
            simd_int_store(out + c, first);
            if (format == NF_INT4) simd_int_store(out + columns + c, second);
        }
        out += step / 2 * columns;
    }
}

/* ---- a chunk ----------------------------------------------------------------------------------------------------- */

/* One instance each, so that the format is a constant. */
#define CONVERT_CASE(format, convert, rows, ahead)          \
    case format:                                            \
        convert(call, format, (rows)[g], (ahead)[g], lane); \
        break;
#define CONVERT_SWITCH(wanted, elements, codes, e4m3, int4, rows, ahead) \
    switch (wanted) {                                                    \
        CONVERT_CASE(NF_F32, elements, rows, ahead)                      \
        CONVERT_CASE(NF_F16, elements, rows, ahead)                      \
        CONVERT_CASE(NF_BF16, elements, rows, ahead)                     \
        CONVERT_CASE(NF_FP8_E4M3, e4m3, rows, ahead)                     \
        CONVERT_CASE(NF_FP8_E5M2, codes, rows, ahead)                    \
        CONVERT_CASE(NF_INT8, codes, rows, ahead)                        \
        CONVERT_CASE(NF_INT4, int4, rows, ahead)                         \
    default:                                                             \
        ASSERT(!"a cache format");                                       \
    }

/* Group `i` of chunk `chunk` of a segment, of whose groups those in `groups` are seen. */
OUT_OF_LINE static void convert_k_group(const struct fixed_call *call, const struct segment *segment, uint32_t chunk,
                                        uint32_t groups, uint32_t i)
{
    const struct kernel_attend *a = call->attend;
    const uint32_t g = chunk * CHUNK_GROUPS + i, lane = i * KERNEL_GROUP_TOKENS;
    if (kernel_k_closes(a->k_format) && (i % 2 == 0 || !(groups >> (i - 1) & 1)))
        (a->k_format == NF_INT4 ? affine_open : channels_open)(call, attend_k_pair(a, &segment->groups, g),
                                                               lane / KERNEL_CLOSED_TOKENS * KERNEL_CLOSED_TOKENS);
    CONVERT_SWITCH(a->k_format, convert_k_elements, convert_k_codes, convert_k_channels, convert_k_affine,
                   segment->groups.k, segment->k_ahead)
}

OUT_OF_LINE static void convert_v_group(const struct fixed_call *call, const struct segment *segment, uint32_t chunk,
                                        uint32_t i)
{
    const uint32_t g = chunk * CHUNK_GROUPS + i, lane = i * KERNEL_GROUP_TOKENS;
    CONVERT_SWITCH(call->attend->v_format, convert_v_elements, convert_v_codes, convert_v_codes, convert_v_codes,
                   segment->groups.v, segment->v_ahead)
}

/* Of the groups of chunk `chunk` those that are seen, a bit each. */
static uint32_t chunk_groups(const struct segment *segment, uint32_t chunk)
{
    return segment->groups.seen >> chunk * CHUNK_GROUPS & ((1u << CHUNK_GROUPS) - 1);
}

static void convert_chunk(const struct fixed_call *call, const struct segment *segment, uint32_t chunk)
{
    const uint32_t groups = chunk_groups(segment, chunk);
    for (uint32_t i = 0; i < CHUNK_GROUPS; i++) {
        if (!(groups >> i & 1)) continue;
        convert_k_group(call, segment, chunk, groups, i);
        convert_v_group(call, segment, chunk, i);
    }
}
