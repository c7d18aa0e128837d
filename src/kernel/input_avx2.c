/* input_avx2.c - activations to int8, 32 at a time (AVX2). Same bits as input.c. */
#include "kernel/input_internal.h"
#include "kernel/kernel_internal.h"

#include <immintrin.h>
#include <string.h>

static inline float reduce_max(__m256 v)
{
    __m128 m = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    m = _mm_max_ps(m, _mm_movehl_ps(m, m));
    return _mm_cvtss_f32(_mm_max_ss(m, _mm_movehdup_ps(m)));
}
static inline int32_t reduce_add(__m256i v)
{
    __m128i s = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1)));
}

void kernel_input_prepare_avx2(const struct kernel_input *input, uint32_t begin, uint32_t end)
{
    if (input->columns % GROUP_COLUMNS) return;
    const __m256 magnitude = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7); /* undoes the packs' lanes */
    uint32_t groups = input->columns / GROUP_COLUMNS;
    for (uint32_t token = begin; token < end; token++) {
        const float *x = input->rows + token * input->stride;
        uint32_t lane = token % INPUT_TOKENS;
        struct kernel_input_group *out = input->groups + (uint64_t)(token / INPUT_TOKENS) * groups;
        for (uint32_t g = 0; g < groups; g++, x += GROUP_COLUMNS, out++) {
            __m256 v[4], m = _mm256_setzero_ps();
            for (int i = 0; i < 4; i++) {
                v[i] = _mm256_loadu_ps(x + 8 * i);
                m = _mm256_max_ps(m, _mm256_and_ps(v[i], magnitude));
            }
            float most = reduce_max(m);
            bool tiny = !(most >= INPUT_TINY);
            float scale = tiny ? 0.0f : most / 127.0f;
            __m256 inverse = _mm256_set1_ps(tiny ? 0.0f : 127.0f / most);
            __m256i q[4];
            for (int i = 0; i < 4; i++) q[i] = _mm256_cvtps_epi32(_mm256_mul_ps(v[i], inverse));
            __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(q[0], q[1]), _mm256_packs_epi32(q[2], q[3]));
            _Alignas(32) uint32_t words[8];
            _mm256_store_si256((__m256i *)words, _mm256_permutevar8x32_epi32(bytes, order));
            for (uint32_t w = 0; w < 8; w++) memcpy(out->quants[w][lane], &words[w], 4);
            input_group_finish(out, lane, scale, reduce_add(_mm256_add_epi32(q[0], q[1])),
                               reduce_add(_mm256_add_epi32(q[2], q[3])));
        }
    }
}
