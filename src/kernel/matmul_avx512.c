/* matmul_avx512.c - AVX-512 without VNNI: products of bytes are added in pairs to int16 (vpmaddubsw), as many of them
 * as cannot overflow, then in pairs to int32.
 *
 * A pair is at most 2 * (2^bits - 1) * 127: eight pairs of 4-bit bytes fit int16, four of 5-bit, two of 6-bit. Bytes of
 * 8 bits do not fit even once: they are unpacked as signed, and |byte| meets the quant with the byte's sign, at most
 * 2 * 128 * 127. */
#define TOKENS_MAX 8 /* 8 chains, 8 sums of int32, 8 of int16 */
#define HALF_TOKENS_MAX 8
#define UNPACK_FLIP 0
#include "kernel/matmul_avx512.h"

MICRO_INLINE void dot_signed(__m512i *sums, const struct micro_kind kind, const struct matmul_panel *panel, uint32_t g,
                             const struct micro_tokens *tokens)
{
    UNROLL
    for (uint32_t t = 0; t < tokens->count; t++) sums[t] = _mm512_set1_epi32(DOT_START);
    UNROLL
    for (uint32_t w = 0; w < 8; w++) {
        const __m512i bytes = _mm512_load_si512(panel->quants[g * 8 + w]);
        const __mmask64 negative = _mm512_movepi8_mask(bytes);
        const __m512i magnitude = _mm512_abs_epi8(bytes);
        UNROLL
        for (uint32_t t = 0; t < tokens->count; t++) {
            const __m512i x = token_word(kind, tokens, w, t);
            const __m512i signed_x = _mm512_mask_sub_epi8(x, negative, _mm512_setzero_si512(), x);
            const __m512i pairs = _mm512_maddubs_epi16(magnitude, signed_x);
            sums[t] = _mm512_add_epi32(sums[t], _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
            KEEP_SUM(sums[t]);
        }
    }
}

MICRO_INLINE void dot_group(__m512i *sums, const struct micro_kind kind, const struct matmul_panel *panel,
                            uint32_t scale_group, const struct micro_tokens *tokens)
{
    if (kind.bits == 8) {
        dot_signed(sums, kind, panel, scale_group, tokens);
        return;
    }
    const uint32_t depth = kind.bits <= 4 ? kind.words : kind.bits == 5 ? 4 : 2;
    UNROLL
    for (uint32_t begin = 0; begin < kind.words; begin += depth) {
        const uint32_t(*quants)[TILE_ROWS] = panel->quants + scale_group * kind.words + begin;
        __m512i bytes[8];
        UNROLL
        for (uint32_t w = 0; w < depth; w++) bytes[w] = _mm512_load_si512(quants[w]);
        UNROLL
        for (uint32_t t = 0; t < tokens->count; t++) {
            __m512i pairs = _mm512_maddubs_epi16(bytes[0], token_word(kind, tokens, begin, t));
            UNROLL
            for (uint32_t w = 1; w < depth; w++) {
                KEEP_SUM(pairs);
                pairs = _mm512_add_epi16(pairs, _mm512_maddubs_epi16(bytes[w], token_word(kind, tokens, begin + w, t)));
            }
            const __m512i sum = _mm512_madd_epi16(pairs, _mm512_set1_epi16(1));
            sums[t] = _mm512_add_epi32(begin ? sums[t] : start_sum(kind, tokens, t), sum);
        }
    }
}

void kernel_matmul_avx512(const struct kernel_matrix *weights, const struct kernel_input *input, uint32_t token_begin,
                          uint32_t token_end, uint32_t row_begin, uint32_t row_end, const struct kernel_output *output)
{
    matmul_run(&matmul_set, weights, input, token_begin, token_end, row_begin, row_end, output);
}
