/* matmul_avx512.c - AVX-512 without VNNI: products of bytes are added in pairs to int16 (vpmaddubsw), as many of them
 * as cannot overflow, then in pairs to int32.
 *
 * A pair is at most 2 * (2^bits - 1) * 127: eight pairs of 4-bit bytes fit int16, four of 5-bit, two of 6-bit. Bytes of
 * 8 bits do not fit even once, so these weights are unpacked as signed int16, and so are the tokens, for each call:
 * vpmaddwd adds their products to int32 at once. */
#define TOKENS_MAX 8 /* 8 chains, 8 sums of int32, 8 of int16 */
#define HALF_TOKENS_MAX 8
#define UNPACK_WIDE 1
#include "kernel/matmul_avx512.h"

MICRO_INLINE void dot_wide(__m512i *sums, const struct matmul_panel *panel, uint32_t g,
                           const struct micro_tokens *tokens)
{
    UNROLL
    for (uint32_t t = 0; t < tokens->count; t++) sums[t] = _mm512_set1_epi32(DOT_START);
    UNROLL
    for (uint32_t i = 0; i < 16; i++) {
        const __m512i pairs = _mm512_load_si512(panel->quants[g * 16 + i]);
        UNROLL
        for (uint32_t t = 0; t < tokens->count; t++) {
            const int32_t *x = tokens->wide[t / INPUT_TOKENS]->pairs[i % 2][i / 2];
            const __m512i product = _mm512_madd_epi16(pairs, _mm512_set1_epi32(x[tokens->lane + t % INPUT_TOKENS]));
            sums[t] = _mm512_add_epi32(sums[t], product);
            KEEP_SUM(sums[t]);
        }
    }
}

MICRO_INLINE void dot_group(__m512i *sums, const struct micro_kind kind, const struct matmul_panel *panel,
                            uint32_t scale_group, const struct micro_tokens *tokens)
{
    if (kind.bits == 8) {
        dot_wide(sums, panel, scale_group, tokens);
        return;
    }
    const uint32_t depth = kind.bits <= 4 ? kind.words : kind.bits == 5 ? 4 : 2;
    UNROLL
    for (uint32_t begin = 0; begin < kind.words; begin += depth) {
        __m512i pairs[TOKENS_MAX];
        UNROLL
        for (uint32_t w = begin; w < begin + depth; w++) {
            const __m512i bytes = _mm512_load_si512(panel->quants[scale_group * kind.words + w]);
            UNROLL
            for (uint32_t t = 0; t < tokens->count; t++) {
                const __m512i product = _mm512_maddubs_epi16(bytes, token_word(kind, tokens, w, t));
                pairs[t] = w == begin ? product : _mm512_add_epi16(pairs[t], product);
                KEEP_SUM(pairs[t]);
            }
        }
        UNROLL
        for (uint32_t t = 0; t < tokens->count; t++) {
            const __m512i sum = _mm512_madd_epi16(pairs[t], _mm512_set1_epi16(1));
            sums[t] = _mm512_add_epi32(begin ? sums[t] : start_sum(kind, tokens, t), sum);
        }
    }
}

void kernel_matmul_avx512(const struct kernel_matrix *weights, const struct kernel_input *input, uint32_t token_begin,
                          uint32_t token_end, uint32_t row_begin, uint32_t row_end, float *out, uint64_t out_stride)
{
    matmul_run(&matmul_set, weights, input, token_begin, token_end, row_begin, row_end,
               &(struct kernel_output){.out = out, .stride = out_stride});
}
