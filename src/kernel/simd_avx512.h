/* simd_avx512.h - the handful of vector operations that the templates attention_simd.h and vector_simd.h are written
 * in, for AVX-512 (F, BW, VL, DQ): one vector is 16 f32 lanes. simd_avx2.h has the same names for AVX2. */
#ifndef KERNEL_SIMD_AVX512_H
#define KERNEL_SIMD_AVX512_H
#include "kernel/kernel.h"

#include <immintrin.h>
#include <string.h>

#define SIMD_LANES 16u
#define SIMD_TILE_ROWS 12u /* rows by 2 vectors of accumulators that fit the 32 registers beside their operands */
typedef __m512 simd;

#define SIMD_INLINE static inline __attribute__((always_inline))

SIMD_INLINE __mmask16 simd_first(uint32_t count)
{
    return (__mmask16)((1u << count) - 1u);
}
SIMD_INLINE simd simd_set(float value)
{
    return _mm512_set1_ps(value);
}
SIMD_INLINE simd simd_load(const float *p)
{
    return _mm512_loadu_ps(p);
}
/* The first `count` lanes, the others zero; no byte after them is touched. */
SIMD_INLINE simd simd_load_first(const float *p, uint32_t count)
{
    return _mm512_maskz_loadu_ps(simd_first(count), p);
}
SIMD_INLINE simd simd_load_f16(const uint16_t *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}
SIMD_INLINE simd simd_load_f16_first(const uint16_t *p, uint32_t count)
{
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(simd_first(count), p));
}
SIMD_INLINE simd simd_load_bf16(const uint16_t *p)
{
    __m512i words = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(words, 16));
}
/* SIMD_LANES pairs of fp8 numbers: the first and the second of each pair. Those of e5m2 are the upper halves of f16 numbers;
 * those of e4m3, whose bits fit f16's fields, come out as 2^-8 of themselves. */
SIMD_INLINE void simd_load_fp8_e5m2(const uint8_t *p, simd *first, simd *second)
{
    __m256i pairs = _mm256_loadu_si256((const __m256i *)p);
    *first = _mm512_cvtph_ps(_mm256_slli_epi16(pairs, 8));
    *second = _mm512_cvtph_ps(_mm256_and_si256(pairs, _mm256_set1_epi16((short)0xFF00)));
}
SIMD_INLINE void simd_load_fp8_e4m3(const uint8_t *p, simd *first, simd *second)
{
    const __m256i fields = _mm256_set1_epi16((short)0xBF80);
    __m256i pairs = _mm256_loadu_si256((const __m256i *)p);
    *first = _mm512_cvtph_ps(_mm256_and_si256(_mm256_srai_epi16(_mm256_slli_epi16(pairs, 8), 1), fields));
    *second = _mm512_cvtph_ps(_mm256_and_si256(_mm256_srai_epi16(pairs, 1), fields));
}
SIMD_INLINE void simd_store(float *p, simd a)
{
    _mm512_storeu_ps(p, a);
}
SIMD_INLINE void simd_store_first(float *p, uint32_t count, simd a)
{
    _mm512_mask_storeu_ps(p, simd_first(count), a);
}
SIMD_INLINE void simd_store_f16(uint16_t *p, simd a) /* round to nearest even */
{
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
SIMD_INLINE simd simd_add(simd a, simd b)
{
    return _mm512_add_ps(a, b);
}
SIMD_INLINE simd simd_sub(simd a, simd b)
{
    return _mm512_sub_ps(a, b);
}
SIMD_INLINE simd simd_mul(simd a, simd b)
{
    return _mm512_mul_ps(a, b);
}
SIMD_INLINE simd simd_div(simd a, simd b)
{
    return _mm512_div_ps(a, b);
}
SIMD_INLINE simd simd_fma(simd a, simd b, simd c) /* a * b + c, rounded once */
{
    return _mm512_fmadd_ps(a, b, c);
}
/* The larger of the lanes; b where either is NaN. */
SIMD_INLINE simd simd_max(simd a, simd b)
{
    return _mm512_max_ps(a, b);
}
SIMD_INLINE simd simd_min(simd a, simd b) /* the smaller of the lanes; b where either is NaN */
{
    return _mm512_min_ps(a, b);
}
SIMD_INLINE simd simd_fms(simd a, simd b, simd c) /* a * b - c, rounded once */
{
    return _mm512_fmsub_ps(a, b, c);
}
/* Lane i of `inside` where bit i of `bits` is set, else of `outside`. */
SIMD_INLINE simd simd_where_bits(uint64_t bits, simd inside, simd outside)
{
    return _mm512_mask_mov_ps(outside, (__mmask16)bits, inside);
}
/* Lanes of a where x < y, else of b. */
SIMD_INLINE simd simd_where_less(simd x, simd y, simd a, simd b)
{
    return _mm512_mask_mov_ps(b, _mm512_cmp_ps_mask(x, y, _CMP_LT_OQ), a);
}
SIMD_INLINE simd simd_absolute(simd a)
{
    return _mm512_abs_ps(a);
}
/* |a| with the sign of b. */
SIMD_INLINE simd simd_copy_sign(simd a, simd b)
{
    return _mm512_castsi512_ps(
        _mm512_ternarylogic_epi32(_mm512_set1_epi32(INT32_MIN), _mm512_castps_si512(b), _mm512_castps_si512(a), 0xCA));
}
SIMD_INLINE float simd_sum(simd a) /* a fixed tree */
{
    return _mm512_reduce_add_ps(a);
}
SIMD_INLINE float simd_top(simd a)
{
    return _mm512_reduce_max_ps(a);
}
/* Lane i: the sum of the lanes of rows[i], in a fixed tree. */
SIMD_INLINE simd simd_sums(const simd *rows)
{
    simd fours[4], halves[2];
#pragma GCC unroll 4
    for (uint32_t i = 0; i < 4; i++) {
        const simd *r = rows + 4 * i;
        __m512d ab = _mm512_castps_pd(_mm512_add_ps(_mm512_unpacklo_ps(r[0], r[1]), _mm512_unpackhi_ps(r[0], r[1])));
        __m512d cd = _mm512_castps_pd(_mm512_add_ps(_mm512_unpacklo_ps(r[2], r[3]), _mm512_unpackhi_ps(r[2], r[3])));
        fours[i] =
            _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(ab, cd)), _mm512_castpd_ps(_mm512_unpackhi_pd(ab, cd)));
    }
#pragma GCC unroll 2
    for (uint32_t i = 0; i < 2; i++)
        halves[i] = _mm512_add_ps(_mm512_shuffle_f32x4(fours[2 * i], fours[2 * i + 1], 0x88),
                                  _mm512_shuffle_f32x4(fours[2 * i], fours[2 * i + 1], 0xDD));
    return _mm512_add_ps(_mm512_shuffle_f32x4(halves[0], halves[1], 0x88),
                         _mm512_shuffle_f32x4(halves[0], halves[1], 0xDD));
}
/* Lane i of row j becomes lane j of row i, of SIMD_LANES rows. */
SIMD_INLINE void simd_transpose(simd *rows)
{
    __m512 fours[16];
#pragma GCC unroll 4
    for (uint32_t i = 0; i < 16; i += 4) {
        simd *r = rows + i;
        __m512d low = _mm512_castps_pd(_mm512_unpacklo_ps(r[0], r[1])),
                high = _mm512_castps_pd(_mm512_unpackhi_ps(r[0], r[1]));
        __m512d next_low = _mm512_castps_pd(_mm512_unpacklo_ps(r[2], r[3])),
                next_high = _mm512_castps_pd(_mm512_unpackhi_ps(r[2], r[3]));
        fours[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(low, next_low));
        fours[i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(low, next_low));
        fours[i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(high, next_high));
        fours[i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(high, next_high));
    }
#pragma GCC unroll 4
    for (uint32_t i = 0; i < 4; i++) { /* of four rows each, lanes i, 4 + i, 8 + i and 12 + i */
        __m512 a = _mm512_shuffle_f32x4(fours[i], fours[4 + i], 0x88),
               b = _mm512_shuffle_f32x4(fours[8 + i], fours[12 + i], 0x88);
        __m512 c = _mm512_shuffle_f32x4(fours[i], fours[4 + i], 0xDD),
               d = _mm512_shuffle_f32x4(fours[8 + i], fours[12 + i], 0xDD);
        rows[i] = _mm512_shuffle_f32x4(a, b, 0x88);
        rows[4 + i] = _mm512_shuffle_f32x4(c, d, 0x88);
        rows[8 + i] = _mm512_shuffle_f32x4(a, b, 0xDD);
        rows[12 + i] = _mm512_shuffle_f32x4(c, d, 0xDD);
    }
}
/* (even lanes, odd lanes) of the 32 elements a, b; and back. */
SIMD_INLINE void simd_unzip(simd a, simd b, simd *even, simd *odd)
{
    const __m512i e = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    *even = _mm512_permutex2var_ps(a, e, b);
    *odd = _mm512_permutex2var_ps(a, _mm512_add_epi32(e, _mm512_set1_epi32(1)), b);
}
SIMD_INLINE void simd_zip(simd even, simd odd, simd *a, simd *b)
{
    const __m512i low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    *a = _mm512_permutex2var_ps(even, low, odd);
    *b = _mm512_permutex2var_ps(even, _mm512_add_epi32(low, _mm512_set1_epi32(8)), odd);
}
/* (x + y, x - y) of the lanes that are 1 apart, then 2, up to `size` / 2. */
SIMD_INLINE simd simd_butterfly(simd a, uint32_t size)
{
    const simd minus = simd_set(-0.0f);
    if (size > 1) a = _mm512_add_ps(_mm512_permute_ps(a, 0xB1), _mm512_mask_xor_ps(a, 0xAAAA, a, minus));
    if (size > 2) a = _mm512_add_ps(_mm512_permute_ps(a, 0x4E), _mm512_mask_xor_ps(a, 0xCCCC, a, minus));
    if (size > 4) a = _mm512_add_ps(_mm512_shuffle_f32x4(a, a, 0xB1), _mm512_mask_xor_ps(a, 0xF0F0, a, minus));
    if (size > 8) a = _mm512_add_ps(_mm512_shuffle_f32x4(a, a, 0x4E), _mm512_mask_xor_ps(a, 0xFF00, a, minus));
    return a;
}
/* Nearest whole number, and p * 2^n for whole n: what simd_exp2 is made of. t is within [-160, 160]. */
SIMD_INLINE simd simd_round(simd t)
{
    return _mm512_roundscale_ps(t, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
SIMD_INLINE simd simd_scale2(simd p, simd n)
{
    return _mm512_scalef_ps(p, n);
}
/* ---- integers: SIMD_LANES of 32 bits, or pairs of 16 bits -------------------------------------------------------- */

typedef __m512i simd_int;

SIMD_INLINE simd_int simd_int_zero(void)
{
    return _mm512_setzero_si512();
}
SIMD_INLINE simd_int simd_int_set(int32_t value)
{
    return _mm512_set1_epi32(value);
}
SIMD_INLINE simd_int simd_int_add(simd_int a, simd_int b)
{
    return _mm512_add_epi32(a, b);
}
SIMD_INLINE simd_int simd_int_sub(simd_int a, simd_int b)
{
    return _mm512_sub_epi32(a, b);
}
SIMD_INLINE simd_int simd_int_shift_left(simd_int a, uint32_t bits)
{
    return _mm512_slli_epi32(a, bits);
}
SIMD_INLINE simd_int simd_int_shift_right(simd_int a, uint32_t bits) /* of unsigned lanes */
{
    return _mm512_srli_epi32(a, bits);
}
SIMD_INLINE simd_int simd_int_and(simd_int a, simd_int b)
{
    return _mm512_and_si512(a, b);
}
SIMD_INLINE simd_int simd_int_or(simd_int a, simd_int b)
{
    return _mm512_or_si512(a, b);
}
SIMD_INLINE simd_int simd_int_load(const int32_t *p)
{
    return _mm512_loadu_si512(p);
}
SIMD_INLINE void simd_int_store(int32_t *p, simd_int a)
{
    _mm512_storeu_si512(p, a);
}
/* SIMD_LANES pairs of signed bytes, as pairs of 16 bits. */
SIMD_INLINE simd_int simd_int_load_i8(const uint8_t *p)
{
    return _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i *)p));
}
/* The same of bytes that are two indices into `levels` [16] each. */
SIMD_INLINE void simd_int_load_levels(const int8_t *levels, const uint8_t *p, simd_int *low, simd_int *high)
{
    const __m256i table = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)levels));
    const __m256i nibble = _mm256_set1_epi8(15), both = _mm256_loadu_si256((const __m256i *)p);
    *low = _mm512_cvtepi8_epi16(_mm256_shuffle_epi8(table, _mm256_and_si256(both, nibble)));
    *high = _mm512_cvtepi8_epi16(_mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi16(both, 4), nibble)));
}
/* The same of bytes that are two codes of 4 bits each, times 2^11. */
SIMD_INLINE void simd_int_load_nibbles(const uint8_t *p, simd_int *low, simd_int *high)
{
    const __m512i places = _mm512_set1_epi16(15 << 11);
    const __m512i words = _mm512_cvtepu8_epi16(_mm256_loadu_si256((const __m256i *)p));
    *low = _mm512_and_si512(_mm512_slli_epi16(words, 11), places);
    *high = _mm512_and_si512(_mm512_slli_epi16(words, 7), places);
}
/* In pairs of 16 bits: code * step / 16, rounded, + least, of codes as simd_int_load_nibbles gives them. */
SIMD_INLINE simd_int simd_int_affine(simd_int code, simd_int step, simd_int least)
{
    return _mm512_add_epi16(_mm512_mulhrs_epi16(code, step), least);
}
SIMD_INLINE simd simd_from_int(simd_int a)
{
    return _mm512_cvtepi32_ps(a);
}
SIMD_INLINE simd simd_from_bits(simd_int a)
{
    return _mm512_castsi512_ps(a);
}
SIMD_INLINE simd_int simd_bits(simd a)
{
    return _mm512_castps_si512(a);
}
SIMD_INLINE simd_int simd_to_int(simd a) /* round to nearest even */
{
    return _mm512_cvtps_epi32(a);
}
/* Of every lane the low 16 bits of `low`, then those of `high`. */
SIMD_INLINE simd_int simd_int_pair(simd_int low, simd_int high)
{
    return _mm512_mask_blend_epi16(0xAAAAAAAA, low, _mm512_slli_epi32(high, 16));
}
SIMD_INLINE void simd_store_i16(int16_t *p, simd_int a) /* the low 16 bits of the lanes */
{
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtepi32_epi16(a));
}
/* acc + the products of each lane's two signed 16-bit numbers with the two at `b`. Assembler, because gcc 12 copies the
 * accumulators of a loop around the instruction. */
SIMD_INLINE simd_int simd_int_dot(simd_int acc, simd_int a, const void *b)
{
#ifdef __AVX512VNNI__
    __asm__("vpdpwssd %2%{1to16%}, %1, %0" : "+v"(acc) : "v"(a), "m"(*(const int32_t *)b));
    return acc;
#else
    int32_t both;
    memcpy(&both, b, sizeof both);
    acc = _mm512_add_epi32(acc, _mm512_madd_epi16(a, _mm512_set1_epi32(both)));
    __asm__("" : "+v"(acc)); /* or gcc makes a tree of spilled terms of a chain of adds */
    return acc;
#endif
}

/* acc + the products of each lane's four unsigned bytes, at most 127, with the four signed ones at `b`. */
SIMD_INLINE simd_int simd_int_dot_codes(simd_int acc, simd_int a, const void *b)
{
#ifdef __AVX512VNNI__
    __asm__("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(acc) : "v"(a), "m"(*(const int32_t *)b));
    return acc;
#else
    int32_t four;
    memcpy(&four, b, sizeof four);
    __m512i pairs = _mm512_maddubs_epi16(a, _mm512_set1_epi32(four));
    return _mm512_add_epi32(acc, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
#endif
}

#endif
