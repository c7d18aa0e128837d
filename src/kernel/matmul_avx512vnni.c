/* matmul_avx512vnni.c - AVX-512 with VNNI: four unsigned bytes times four signed ones, added to int32, in one
 * instruction (vpdpbusd). Nothing saturates: a scale group's sum is at most 32 * 255 * 127. */
#define TOKENS_MAX 12     /* 12 chains, 12 sums, and what is at hand: 32 registers */
#define HALF_TOKENS_MAX 8 /* 8 chains, 8 sums, 8 products */
#define UNPACK_FLIP 128
#include "kernel/matmul_avx512.h"

MICRO_INLINE void dot_group(__m512i *sums, const struct micro_kind kind, const struct matmul_panel *panel,
                            uint32_t scale_group, const struct micro_tokens *tokens)
{
    UNROLL
    for (uint32_t t = 0; t < tokens->count; t++) sums[t] = start_sum(kind, tokens, t);
    UNROLL
    for (uint32_t w = 0; w < kind.words; w++) {
        const __m512i bytes = _mm512_load_si512(panel->quants[scale_group * kind.words + w]);
        UNROLL
        for (uint32_t t = 0; t < tokens->count; t++)
            sums[t] = _mm512_dpbusd_epi32(sums[t], bytes, token_word(kind, tokens, w, t));
    }
}

void kernel_matmul_avx512vnni(const struct kernel_matrix *weights, const struct kernel_input *input,
                              uint32_t token_begin, uint32_t token_end, uint32_t row_begin, uint32_t row_end,
                              const struct kernel_output *output)
{
    matmul_run(&matmul_set, weights, input, token_begin, token_end, row_begin, row_end, output);
}
