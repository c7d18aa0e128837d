/* input_avx512.c - activations to int8, 32 at a time (AVX-512). Same bits as input.c. */
#include "kernel/input_internal.h"
#include "kernel/kernel_internal.h"

#include <immintrin.h>
#include <string.h>

void kernel_input_prepare_avx512(const struct kernel_input *input, uint32_t begin, uint32_t end)
{
    if (input->columns % GROUP_COLUMNS) return;
    uint32_t groups = input->columns / GROUP_COLUMNS;
    for (uint32_t token = begin; token < end; token++) {
        const float *x = input->rows + token * input->stride;
        uint32_t lane = token % INPUT_TOKENS;
        struct kernel_input_group *out = input->groups + (uint64_t)(token / INPUT_TOKENS) * groups;
        for (uint32_t g = 0; g < groups; g++, x += GROUP_COLUMNS, out++) {
            __m512 low = _mm512_loadu_ps(x), high = _mm512_loadu_ps(x + 16);
            float most = _mm512_reduce_max_ps(_mm512_max_ps(_mm512_abs_ps(low), _mm512_abs_ps(high)));
            bool tiny = !(most >= INPUT_TINY);
            float scale = tiny ? 0.0f : most / 127.0f;
            __m512 inverse = _mm512_set1_ps(tiny ? 0.0f : 127.0f / most);
            __m512i a = _mm512_cvtps_epi32(_mm512_mul_ps(low, inverse));
            __m512i b = _mm512_cvtps_epi32(_mm512_mul_ps(high, inverse));
            _Alignas(16) uint32_t words[8];
            _mm_store_si128((__m128i *)words, _mm512_cvtsepi32_epi8(a));
            _mm_store_si128((__m128i *)(words + 4), _mm512_cvtsepi32_epi8(b));
            for (uint32_t w = 0; w < 8; w++) memcpy(out->quants[w][lane], &words[w], 4);
            input_group_finish(out, lane, scale, _mm512_reduce_add_epi32(a), _mm512_reduce_add_epi32(b));
        }
    }
}
