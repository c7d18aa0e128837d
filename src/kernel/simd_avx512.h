/* simd_avx512.h - the handful of vector operations that the templates attention_simd.h and vector_simd.h are written
 * in, for AVX-512 (F, BW, VL, DQ): one vector is 16 f32 lanes. simd_avx2.h has the same names for AVX2. */
#ifndef KERNEL_SIMD_AVX512_H
#define KERNEL_SIMD_AVX512_H
#include "kernel/kernel.h"

#include <immintrin.h>

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
/* Lane i of `inside` where begin <= i < end, else of `outside`. */
SIMD_INLINE simd simd_between(uint32_t begin, uint32_t end, simd inside, simd outside)
{
    return _mm512_mask_mov_ps(outside, (__mmask16)(simd_first(end) & ~simd_first(begin)), inside);
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
/* Nearest whole number, and p * 2^n for whole n: what simd_exp2 is made of. t is within [-160, 160]. */
SIMD_INLINE simd simd_round(simd t)
{
    return _mm512_roundscale_ps(t, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
SIMD_INLINE simd simd_scale2(simd p, simd n)
{
    return _mm512_scalef_ps(p, n);
}

#endif
