/* input_simd.h - what the quantisers of AVX2 and AVX-512 share: the order of groups, and where results go. Each includes it
 * once and defines group_scales() and group_quants(). */
#ifndef KERNEL_INPUT_SIMD_H
#define KERNEL_INPUT_SIMD_H
#include "kernel/input_internal.h"
#include "kernel/kernel_internal.h"

#include <immintrin.h>

#define QUANTISE_INLINE static inline __attribute__((always_inline))

/* Four lanes, or (tokens = 1) one of them. */
QUANTISE_INLINE void put(void *at, __m128 values, const uint32_t tokens, uint32_t lane)
{
    if (tokens == 1)
        _mm_store_ss((float *)at + lane, values);
    else
        _mm_storeu_ps(at, values);
}
/* DOT_START - (sums << shift) */
QUANTISE_INLINE __m128 starts(__m128i sums, const int shift)
{
    return _mm_castsi128_ps(_mm_sub_epi32(_mm_set1_epi32(DOT_START), _mm_slli_epi32(sums, shift)));
}

/* What formats with an offset or a minimum need: `sums` are those of each half's quants, a lane a token. */
QUANTISE_INLINE void put_sums(const __m128i *sums, __m128 scale, const uint32_t tokens, uint32_t lane,
                              struct kernel_input_group *group, struct kernel_input_halves *halves)
{
    UNROLL
    for (uint32_t half = 0; half < 2; half++) {
        put(halves->weighted[half], _mm_mul_ps(_mm_cvtepi32_ps(sums[half]), scale), tokens, lane);
        put(halves->starts_4[half], starts(sums[half], 2), tokens, lane);
        put(halves->starts_32[half], starts(sums[half], 5), tokens, lane);
    }
    const __m128i sum = _mm_add_epi32(sums[0], sums[1]);
    put(group->scales, scale, tokens, lane);
    put(group->weighted, _mm_mul_ps(_mm_cvtepi32_ps(sum), scale), tokens, lane);
    put(group->starts_8, starts(sum, 3), tokens, lane);
    put(group->starts_16, starts(sum, 4), tokens, lane);
    put(group->starts_128, starts(sum, 7), tokens, lane);
}

/* Scales of 32 columns of four tokens, and what to multiply with; their quants and sums. Defined by the includer. */
QUANTISE_INLINE void group_scales(const float *x, uint64_t stride, float *scales, float *inverses);
QUANTISE_INLINE void group_quants(const float *x, uint64_t stride, const uint32_t tokens, uint32_t lane,
                                  const float *scales, const float *inverses, struct kernel_input_group *group,
                                  struct kernel_input_halves *halves);

/* `tokens` is a constant, 1 or 4; one token is computed in every lane and stored in its own. */
QUANTISE_INLINE void quantise(const float *x, uint64_t stride, const uint32_t tokens, uint32_t lane, uint32_t count,
                              struct kernel_input_group *groups, struct kernel_input_halves *halves)
{
    float scales[INPUT_CHUNK][INPUT_TOKENS], inverses[INPUT_CHUNK][INPUT_TOKENS];
    for (uint32_t g = 0; g < count; g++)
        group_scales(x + g * GROUP_COLUMNS, tokens == 1 ? 0 : stride, scales[g], inverses[g]);
    for (uint32_t g = 0; g < count; g++)
        group_quants(x + g * GROUP_COLUMNS, tokens == 1 ? 0 : stride, tokens, lane, scales[g], inverses[g], &groups[g],
                     &halves[g]);
}

static void quantise_one(const float *x, uint64_t stride, uint32_t lane, uint32_t count,
                         struct kernel_input_group *groups, struct kernel_input_halves *halves)
{
    quantise(x, stride, 1, lane, count, groups, halves);
}
static void quantise_four(const float *x, uint64_t stride, uint32_t lane, uint32_t count,
                          struct kernel_input_group *groups, struct kernel_input_halves *halves)
{
    quantise(x, stride, 4, lane, count, groups, halves);
}

#endif
