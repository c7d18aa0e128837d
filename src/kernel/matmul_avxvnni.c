/* matmul_avxvnni.c - AVX2 with VNNI (VEX vpdpbusd): four unsigned bytes times four signed ones, added to int32. */
#include "kernel/matmul_avx2.h"

MICRO_INLINE void dot_words(__m256i (*sums)[2], const uint32_t (*quants)[TILE_ROWS], uint32_t words, uint32_t bits,
                            const struct kernel_input_group *input, uint32_t input_word, uint32_t lane, uint32_t tokens)
{
    (void)bits;
    for (uint32_t w = 0; w < words; w++) {
        const __m256i low = load_words(quants[w]), high = load_words(quants[w] + 8);
        for (uint32_t t = 0; t < tokens; t++) {
            const __m256i x = broadcast_word(input->quants[input_word + w][lane + t]);
            sums[t][0] = _mm256_dpbusd_avx_epi32(sums[t][0], low, x);
            sums[t][1] = _mm256_dpbusd_avx_epi32(sums[t][1], high, x);
        }
    }
}

void kernel_matmul_avxvnni(const struct kernel_matrix *weights, const struct kernel_input *input, uint32_t token_begin,
                           uint32_t token_end, uint32_t row_begin, uint32_t row_end, float *out, uint64_t out_stride)
{
    matmul_run(&matmul_set, weights, input, token_begin, token_end, row_begin, row_end, out, out_stride);
}
