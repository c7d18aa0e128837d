/* matmul_avxvnni.c - AVX2 with VNNI (VEX vpdpbusd): four unsigned bytes times four signed ones, added to int32. */
#define UNPACK_FLIP 128
#include "kernel/matmul_avx2.h"

MICRO_INLINE void dot_group(__m256i (*sums)[2], const struct micro_kind kind, const struct matmul_panel *panel,
                            uint32_t scale_group, const struct micro_tokens *tokens)
{
    UNROLL
    for (uint32_t t = 0; t < tokens->count; t++) sums[t][0] = sums[t][1] = start_sum(kind, tokens, t);
    UNROLL
    for (uint32_t w = 0; w < kind.words; w++) {
        const uint32_t *words = panel->quants[scale_group * kind.words + w];
        const __m256i low = load_words(words), high = load_words(words + 8);
        UNROLL
        for (uint32_t t = 0; t < tokens->count; t++) {
            const __m256i x = token_word(kind, tokens, w, t);
            sums[t][0] = _mm256_dpbusd_avx_epi32(sums[t][0], low, x);
            sums[t][1] = _mm256_dpbusd_avx_epi32(sums[t][1], high, x);
        }
    }
}

void kernel_matmul_avxvnni(const struct kernel_matrix *weights, const struct kernel_input *input, uint32_t token_begin,
                           uint32_t token_end, uint32_t row_begin, uint32_t row_end, const struct kernel_output *output)
{
    matmul_run(&matmul_set, weights, input, token_begin, token_end, row_begin, row_end, output);
}
