/* matmul_avx512vnni.c - AVX-512 with VNNI: four unsigned bytes times four signed ones, added to int32, in one
 * instruction (vpdpbusd). Nothing saturates: a scale group's sum is at most 32 * 255 * 127. */
#include "kernel/matmul_avx512.h"

MICRO_INLINE void dot_words(__m512i *sums, const uint32_t (*quants)[TILE_ROWS], uint32_t words, uint32_t bits,
                            const struct kernel_input_group *const *input, uint32_t input_word, uint32_t lane,
                            uint32_t tokens)
{
    (void)bits;
    for (uint32_t w = 0; w < words; w++) {
        const __m512i bytes = _mm512_load_si512(quants[w]);
        for (uint32_t t = 0; t < tokens; t++)
            sums[t] = _mm512_dpbusd_epi32(
                sums[t], bytes,
                broadcast_word(input[t / INPUT_TOKENS]->quants[input_word + w][lane + t % INPUT_TOKENS]));
    }
}

void kernel_matmul_avx512vnni(const struct kernel_matrix *weights, const struct kernel_input *input,
                              uint32_t token_begin, uint32_t token_end, uint32_t row_begin, uint32_t row_end,
                              float *out, uint64_t out_stride)
{
    matmul_run(&matmul_set, weights, input, token_begin, token_end, row_begin, row_end, out, out_stride);
}
