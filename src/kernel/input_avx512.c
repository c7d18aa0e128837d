/* input_avx512.c - activations to int8, 32 columns of 4 tokens at a time (AVX-512). Same bits as input.c.
 *
 * Two saturating packs of four tokens' int32 leave, in each 128 bits, four bytes of each token: a row of
 * kernel_input_group.quants. So nothing is transposed. */
#include "kernel/input_simd.h"

/* The largest lane of each of four vectors. */
QUANTISE_INLINE __m128 four_maxima(const __m512 *v)
{
    __m512 a = _mm512_max_ps(_mm512_unpacklo_ps(v[0], v[1]), _mm512_unpackhi_ps(v[0], v[1]));
    __m512 b = _mm512_max_ps(_mm512_unpacklo_ps(v[2], v[3]), _mm512_unpackhi_ps(v[2], v[3]));
    a = _mm512_max_ps(_mm512_shuffle_ps(a, b, 0x44), _mm512_shuffle_ps(a, b, 0xee));
    __m256 half = _mm256_max_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    return _mm_max_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
}
/* The sums of four tokens' signed bytes: four of each token in every 128 bits. */
QUANTISE_INLINE __m128i four_sums(__m512i bytes)
{
    __m512i sums = _mm512_madd_epi16(_mm512_maddubs_epi16(_mm512_set1_epi8(1), bytes), _mm512_set1_epi16(1));
    __m256i half = _mm256_add_epi32(_mm512_castsi512_si256(sums), _mm512_extracti32x8_epi32(sums, 1));
    return _mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
}

QUANTISE_INLINE void group_scales(const float *x, uint64_t stride, float *scales, float *inverses)
{
    __m512 magnitudes[INPUT_TOKENS];
    UNROLL
    for (uint32_t t = 0; t < INPUT_TOKENS; t++) {
        const __m512 low = _mm512_loadu_ps(x + t * stride), high = _mm512_loadu_ps(x + t * stride + 16);
        magnitudes[t] = _mm512_max_ps(_mm512_abs_ps(low), _mm512_abs_ps(high));
    }
    const __m128 most = four_maxima(magnitudes), steps = _mm_set1_ps(127.0f);
    const __mmask8 large = _mm_cmp_ps_mask(most, _mm_set1_ps(INPUT_TINY), _CMP_GE_OQ);
    _mm_storeu_ps(scales, _mm_maskz_div_ps(large, most, steps));
    _mm_storeu_ps(inverses, _mm_maskz_div_ps(large, steps, most));
}

QUANTISE_INLINE void group_quants(const float *x, uint64_t stride, const uint32_t tokens, uint32_t lane,
                                  const float *scales, const float *inverses, struct kernel_input_group *group,
                                  struct kernel_input_halves *halves)
{
    const __m128 scale = _mm_loadu_ps(scales);
    __m128i sums[2];
    UNROLL
    for (uint32_t half = 0; half < 2; half++) {
        __m512i q[INPUT_TOKENS];
        UNROLL
        for (uint32_t t = 0; t < INPUT_TOKENS; t++)
            q[t] = _mm512_cvtps_epi32(
                _mm512_mul_ps(_mm512_loadu_ps(x + t * stride + 16 * half), _mm512_set1_ps(inverses[t])));
        const __m512i bytes = _mm512_packs_epi16(_mm512_packs_epi32(q[0], q[1]), _mm512_packs_epi32(q[2], q[3]));
        if (tokens == 1)
            _mm512_mask_storeu_epi32(group->quants[4 * half], (__mmask16)(0x1111u << lane), bytes);
        else
            _mm512_storeu_si512(group->quants[4 * half], bytes);
        sums[half] = four_sums(bytes);
    }
    put_sums(sums, scale, tokens, lane, group, halves);
}

void kernel_input_prepare_avx512(const struct kernel_input *input, uint32_t begin, uint32_t end)
{
    input_quantise_rows(input, begin, end, quantise_one, quantise_four);
}
