/* simd_avx2.h - the vector operations of simd_avx512.h for AVX2, FMA and F16C: one vector is 8 f32 lanes. */
#ifndef KERNEL_SIMD_AVX2_H
#define KERNEL_SIMD_AVX2_H
#include "kernel/kernel.h"

#include <immintrin.h>
#include <string.h>

#define SIMD_LANES 8u
#define SIMD_TILE_ROWS 6u /* rows by 2 vectors of accumulators that fit the 16 registers beside their operands */
typedef __m256 simd;

#define SIMD_INLINE static inline __attribute__((always_inline))

/* All bits set in the lanes below `count`. */
SIMD_INLINE __m256i simd_first(uint32_t count)
{
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
SIMD_INLINE simd simd_set(float value)
{
    return _mm256_set1_ps(value);
}
SIMD_INLINE simd simd_load(const float *p)
{
    return _mm256_loadu_ps(p);
}
SIMD_INLINE simd simd_load_first(const float *p, uint32_t count)
{
    return _mm256_maskload_ps(p, simd_first(count));
}
SIMD_INLINE simd simd_load_f16(const uint16_t *p)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p));
}
SIMD_INLINE simd simd_load_f16_first(const uint16_t *p, uint32_t count)
{
    uint16_t lanes[SIMD_LANES] = {0};
    memcpy(lanes, p, count * sizeof *p);
    return simd_load_f16(lanes);
}
SIMD_INLINE simd simd_load_bf16(const uint16_t *p)
{
    __m256i words = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(words, 16));
}
SIMD_INLINE void simd_load_fp8_e5m2(const uint8_t *p, simd *first, simd *second)
{
    __m128i pairs = _mm_loadu_si128((const __m128i *)p);
    *first = _mm256_cvtph_ps(_mm_slli_epi16(pairs, 8));
    *second = _mm256_cvtph_ps(_mm_and_si128(pairs, _mm_set1_epi16((short)0xFF00)));
}
SIMD_INLINE void simd_load_fp8_e4m3(const uint8_t *p, simd *first, simd *second)
{
    const __m128i fields = _mm_set1_epi16((short)0xBF80);
    __m128i pairs = _mm_loadu_si128((const __m128i *)p);
    *first = _mm256_cvtph_ps(_mm_and_si128(_mm_srai_epi16(_mm_slli_epi16(pairs, 8), 1), fields));
    *second = _mm256_cvtph_ps(_mm_and_si128(_mm_srai_epi16(pairs, 1), fields));
}
SIMD_INLINE void simd_store(float *p, simd a)
{
    _mm256_storeu_ps(p, a);
}
SIMD_INLINE void simd_store_first(float *p, uint32_t count, simd a)
{
    _mm256_maskstore_ps(p, simd_first(count), a);
}
SIMD_INLINE void simd_store_f16(uint16_t *p, simd a)
{
    _mm_storeu_si128((__m128i *)p, _mm256_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
SIMD_INLINE simd simd_add(simd a, simd b)
{
    return _mm256_add_ps(a, b);
}
SIMD_INLINE simd simd_sub(simd a, simd b)
{
    return _mm256_sub_ps(a, b);
}
SIMD_INLINE simd simd_mul(simd a, simd b)
{
    return _mm256_mul_ps(a, b);
}
SIMD_INLINE simd simd_div(simd a, simd b)
{
    return _mm256_div_ps(a, b);
}
SIMD_INLINE simd simd_fma(simd a, simd b, simd c)
{
    return _mm256_fmadd_ps(a, b, c);
}
SIMD_INLINE simd simd_max(simd a, simd b)
{
    return _mm256_max_ps(a, b);
}
SIMD_INLINE simd simd_min(simd a, simd b)
{
    return _mm256_min_ps(a, b);
}
SIMD_INLINE simd simd_fms(simd a, simd b, simd c)
{
    return _mm256_fmsub_ps(a, b, c);
}
SIMD_INLINE simd simd_where_bits(uint64_t bits, simd inside, simd outside)
{
    const __m256i lanes = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    __m256i mask = _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32((int)bits), lanes), lanes);
    return _mm256_blendv_ps(outside, inside, _mm256_castsi256_ps(mask));
}
SIMD_INLINE simd simd_where_less(simd x, simd y, simd a, simd b)
{
    return _mm256_blendv_ps(b, a, _mm256_cmp_ps(x, y, _CMP_LT_OQ));
}
SIMD_INLINE simd simd_absolute(simd a)
{
    return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a);
}
SIMD_INLINE simd simd_copy_sign(simd a, simd b)
{
    return _mm256_or_ps(simd_absolute(a), _mm256_and_ps(_mm256_set1_ps(-0.0f), b));
}
SIMD_INLINE float simd_sum(simd a)
{
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
SIMD_INLINE float simd_top(simd a)
{
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}
SIMD_INLINE simd simd_sums(const simd *rows)
{
    simd low = _mm256_hadd_ps(_mm256_hadd_ps(rows[0], rows[1]), _mm256_hadd_ps(rows[2], rows[3]));
    simd high = _mm256_hadd_ps(_mm256_hadd_ps(rows[4], rows[5]), _mm256_hadd_ps(rows[6], rows[7]));
    return _mm256_add_ps(_mm256_permute2f128_ps(low, high, 0x20), _mm256_permute2f128_ps(low, high, 0x31));
}
SIMD_INLINE void simd_transpose(simd *rows)
{
    __m256 fours[8];
#pragma GCC unroll 2
    for (uint32_t i = 0; i < 8; i += 4) {
        simd *r = rows + i;
        __m256d low = _mm256_castps_pd(_mm256_unpacklo_ps(r[0], r[1])),
                high = _mm256_castps_pd(_mm256_unpackhi_ps(r[0], r[1]));
        __m256d next_low = _mm256_castps_pd(_mm256_unpacklo_ps(r[2], r[3])),
                next_high = _mm256_castps_pd(_mm256_unpackhi_ps(r[2], r[3]));
        fours[i] = _mm256_castpd_ps(_mm256_unpacklo_pd(low, next_low));
        fours[i + 1] = _mm256_castpd_ps(_mm256_unpackhi_pd(low, next_low));
        fours[i + 2] = _mm256_castpd_ps(_mm256_unpacklo_pd(high, next_high));
        fours[i + 3] = _mm256_castpd_ps(_mm256_unpackhi_pd(high, next_high));
    }
#pragma GCC unroll 4
    for (uint32_t i = 0; i < 4; i++) {
        rows[i] = _mm256_permute2f128_ps(fours[i], fours[4 + i], 0x20);
        rows[4 + i] = _mm256_permute2f128_ps(fours[i], fours[4 + i], 0x31);
    }
}
SIMD_INLINE void simd_unzip(simd a, simd b, simd *even, simd *odd)
{
    __m256 low = _mm256_permute2f128_ps(a, b, 0x20), high = _mm256_permute2f128_ps(a, b, 0x31);
    /* within 128-bit halves: low = a0-3 b0-3, high = a4-7 b4-7 */
    __m256 e = _mm256_shuffle_ps(low, high, 0x88), o = _mm256_shuffle_ps(low, high, 0xDD);
    *even = e;
    *odd = o;
}
SIMD_INLINE void simd_zip(simd even, simd odd, simd *a, simd *b)
{
    __m256 low = _mm256_unpacklo_ps(even, odd), high = _mm256_unpackhi_ps(even, odd);
    *a = _mm256_permute2f128_ps(low, high, 0x20);
    *b = _mm256_permute2f128_ps(low, high, 0x31);
}
SIMD_INLINE simd simd_butterfly(simd a, uint32_t size)
{
    const __m256 ones = _mm256_setr_ps(0, -0.0f, 0, -0.0f, 0, -0.0f, 0, -0.0f);
    const __m256 twos = _mm256_setr_ps(0, 0, -0.0f, -0.0f, 0, 0, -0.0f, -0.0f);
    const __m256 fours = _mm256_setr_ps(0, 0, 0, 0, -0.0f, -0.0f, -0.0f, -0.0f);
    if (size > 1) a = _mm256_add_ps(_mm256_permute_ps(a, 0xB1), _mm256_xor_ps(a, ones));
    if (size > 2) a = _mm256_add_ps(_mm256_permute_ps(a, 0x4E), _mm256_xor_ps(a, twos));
    if (size > 4) a = _mm256_add_ps(_mm256_permute2f128_ps(a, a, 0x01), _mm256_xor_ps(a, fours));
    return a;
}
SIMD_INLINE simd simd_round(simd t)
{
    return _mm256_round_ps(t, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
/* In two steps, so that neither 2^(n/2) leaves the exponent's range. */
SIMD_INLINE simd simd_scale2(simd p, simd n)
{
    __m256i whole = _mm256_cvtps_epi32(n), half = _mm256_srai_epi32(whole, 1), rest = _mm256_sub_epi32(whole, half);
    const __m256i bias = _mm256_set1_epi32(127);
    p = _mm256_mul_ps(p, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(half, bias), 23)));
    return _mm256_mul_ps(p, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(rest, bias), 23)));
}

typedef __m256i simd_int;

SIMD_INLINE simd_int simd_int_zero(void)
{
    return _mm256_setzero_si256();
}
SIMD_INLINE simd_int simd_int_set(int32_t value)
{
    return _mm256_set1_epi32(value);
}
SIMD_INLINE simd_int simd_int_add(simd_int a, simd_int b)
{
    return _mm256_add_epi32(a, b);
}
SIMD_INLINE simd_int simd_int_sub(simd_int a, simd_int b)
{
    return _mm256_sub_epi32(a, b);
}
SIMD_INLINE simd_int simd_int_shift_left(simd_int a, uint32_t bits)
{
    return _mm256_slli_epi32(a, (int)bits);
}
SIMD_INLINE simd_int simd_int_shift_right(simd_int a, uint32_t bits)
{
    return _mm256_srli_epi32(a, (int)bits);
}
SIMD_INLINE simd_int simd_int_and(simd_int a, simd_int b)
{
    return _mm256_and_si256(a, b);
}
SIMD_INLINE simd_int simd_int_or(simd_int a, simd_int b)
{
    return _mm256_or_si256(a, b);
}
SIMD_INLINE simd_int simd_int_load(const int32_t *p)
{
    return _mm256_loadu_si256((const __m256i *)p);
}
SIMD_INLINE void simd_int_store(int32_t *p, simd_int a)
{
    _mm256_storeu_si256((__m256i *)p, a);
}
SIMD_INLINE simd_int simd_int_load_i8(const uint8_t *p)
{
    return _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)p));
}
SIMD_INLINE void simd_int_load_levels(const int8_t *levels, const uint8_t *p, simd_int *low, simd_int *high)
{
    const __m128i table = _mm_loadu_si128((const __m128i *)levels), nibble = _mm_set1_epi8(15);
    const __m128i both = _mm_loadu_si128((const __m128i *)p);
    *low = _mm256_cvtepi8_epi16(_mm_shuffle_epi8(table, _mm_and_si128(both, nibble)));
    *high = _mm256_cvtepi8_epi16(_mm_shuffle_epi8(table, _mm_and_si128(_mm_srli_epi16(both, 4), nibble)));
}
SIMD_INLINE void simd_int_load_nibbles(const uint8_t *p, simd_int *low, simd_int *high)
{
    const __m256i places = _mm256_set1_epi16(15 << 11);
    const __m256i words = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)p));
    *low = _mm256_and_si256(_mm256_slli_epi16(words, 11), places);
    *high = _mm256_and_si256(_mm256_slli_epi16(words, 7), places);
}
SIMD_INLINE simd_int simd_int_affine(simd_int code, simd_int step, simd_int least)
{
    return _mm256_add_epi16(_mm256_mulhrs_epi16(code, step), least);
}
SIMD_INLINE simd simd_from_int(simd_int a)
{
    return _mm256_cvtepi32_ps(a);
}
SIMD_INLINE simd simd_from_bits(simd_int a)
{
    return _mm256_castsi256_ps(a);
}
SIMD_INLINE simd_int simd_bits(simd a)
{
    return _mm256_castps_si256(a);
}
SIMD_INLINE simd_int simd_to_int(simd a)
{
    return _mm256_cvtps_epi32(a);
}
SIMD_INLINE simd_int simd_int_pair(simd_int low, simd_int high)
{
    return _mm256_blend_epi16(low, _mm256_slli_epi32(high, 16), 0xAA);
}
SIMD_INLINE void simd_store_i16(int16_t *p, simd_int a)
{
    /* within 128-bit halves: words of lanes 0-3, and of 4-7; they saturate, which no lane needs */
    __m256i packed = _mm256_permute4x64_epi64(_mm256_packs_epi32(a, a), 0x08);
    _mm_storeu_si128((__m128i *)p, _mm256_castsi256_si128(packed));
}
SIMD_INLINE simd_int simd_int_dot(simd_int acc, simd_int a, const void *b)
{
    int32_t both;
    memcpy(&both, b, sizeof both);
    __m256i numbers = _mm256_set1_epi32(both);
#ifdef __AVXVNNI__
    __asm__("%{vex%} vpdpwssd %2, %1, %0" : "+x"(acc) : "x"(a), "x"(numbers));
    return acc;
#else
    acc = _mm256_add_epi32(acc, _mm256_madd_epi16(a, numbers));
    __asm__("" : "+x"(acc)); /* or gcc makes a tree of spilled terms of a chain of adds */
    return acc;
#endif
}

SIMD_INLINE simd_int simd_int_dot_codes(simd_int acc, simd_int a, const void *b)
{
    int32_t four;
    memcpy(&four, b, sizeof four);
    __m256i numbers = _mm256_set1_epi32(four);
#ifdef __AVXVNNI__
    __asm__("%{vex%} vpdpbusd %2, %1, %0" : "+x"(acc) : "x"(a), "x"(numbers));
    return acc;
#else
    return _mm256_add_epi32(acc, _mm256_madd_epi16(_mm256_maddubs_epi16(a, numbers), _mm256_set1_epi16(1)));
#endif
}

#endif
