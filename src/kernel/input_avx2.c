/* input_avx2.c - activations to int8, 32 columns of 4 tokens at a time (AVX2). Same bits as input.c.
 *
 * Two saturating packs of four tokens' int32 leave, in each 128 bits, four bytes of each token: a row of
 * kernel_input_group.quants. So nothing is transposed. */
#include "kernel/input_simd.h"

/* The largest lane of each of four vectors. */
QUANTISE_INLINE __m128 four_maxima(const __m256 *v)
{
    __m256 a = _mm256_max_ps(_mm256_unpacklo_ps(v[0], v[1]), _mm256_unpackhi_ps(v[0], v[1]));
    __m256 b = _mm256_max_ps(_mm256_unpacklo_ps(v[2], v[3]), _mm256_unpackhi_ps(v[2], v[3]));
    a = _mm256_max_ps(_mm256_shuffle_ps(a, b, 0x44), _mm256_shuffle_ps(a, b, 0xee));
    return _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
}
/* The sums of four tokens' signed bytes: four of each token in every 128 bits. */
QUANTISE_INLINE __m128i four_sums(__m256i a, __m256i b)
{
    const __m256i one = _mm256_set1_epi8(1);
    __m256i pairs = _mm256_add_epi16(_mm256_maddubs_epi16(one, a), _mm256_maddubs_epi16(one, b));
    __m256i sums = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
    return _mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1));
}

QUANTISE_INLINE void group_scales(const float *x, uint64_t stride, float *scales, float *inverses)
{
    const __m256 magnitude = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
    __m256 magnitudes[INPUT_TOKENS];
    UNROLL
    for (uint32_t t = 0; t < INPUT_TOKENS; t++) {
        magnitudes[t] = _mm256_setzero_ps();
        UNROLL
        for (uint32_t i = 0; i < GROUP_COLUMNS; i += 8)
            magnitudes[t] = _mm256_max_ps(magnitudes[t], _mm256_and_ps(_mm256_loadu_ps(x + t * stride + i), magnitude));
    }
    const __m128 most = four_maxima(magnitudes), steps = _mm_set1_ps(127.0f);
    const __m128 large = _mm_cmp_ps(most, _mm_set1_ps(INPUT_TINY), _CMP_GE_OQ);
    _mm_storeu_ps(scales, _mm_and_ps(large, _mm_div_ps(most, steps)));
    _mm_storeu_ps(inverses, _mm_and_ps(large, _mm_div_ps(steps, most)));
}

/* Two rows of quants. */
QUANTISE_INLINE void put_bytes(int8_t (*quants)[INPUT_TOKENS][4], __m256i bytes, const uint32_t tokens, uint32_t lane)
{
    put(quants[0], _mm_castsi128_ps(_mm256_castsi256_si128(bytes)), tokens, lane);
    put(quants[1], _mm_castsi128_ps(_mm256_extracti128_si256(bytes, 1)), tokens, lane);
}

QUANTISE_INLINE void group_quants(const float *x, uint64_t stride, const uint32_t tokens, uint32_t lane,
                                  const float *scales, const float *inverses, struct kernel_input_group *group,
                                  struct kernel_input_halves *halves)
{
    const __m128 scale = _mm_loadu_ps(scales);
    __m256i bytes[4];
    __m128i sums[2];
    UNROLL
    for (uint32_t i = 0; i < 4; i++) {
        __m256i q[INPUT_TOKENS];
        UNROLL
        for (uint32_t t = 0; t < INPUT_TOKENS; t++)
            q[t] =
                _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + t * stride + 8 * i), _mm256_set1_ps(inverses[t])));
        bytes[i] = _mm256_packs_epi16(_mm256_packs_epi32(q[0], q[1]), _mm256_packs_epi32(q[2], q[3]));
        put_bytes(group->quants + 2 * i, bytes[i], tokens, lane);
    }
    UNROLL
    for (uint32_t half = 0; half < 2; half++) {
        sums[half] = four_sums(bytes[2 * half], bytes[2 * half + 1]);
    }
    put_sums(sums, scale, tokens, lane, group, halves);
}

void kernel_input_prepare_avx2(const struct kernel_input *input, uint32_t begin, uint32_t end)
{
    input_quantise_rows(input, begin, end, quantise_one, quantise_four);
}
