/* matmul_avx2.c - AVX2 without VNNI: products of bytes are added in pairs to int16 (vpmaddubsw), as many of them as
 * cannot overflow, then in pairs to int32.
 *
 * A pair is at most 2 * (2^bits - 1) * 127: eight pairs of 4-bit bytes fit int16, four of 5-bit, two of 6-bit. Bytes of
 * 8 bits do not fit even once: they are unpacked as signed, and |byte| meets the quant with the byte's sign, at most
 * 2 * 128 * 127. For many tokens the signs cost more than int16 weights and tokens, whose products vpmaddwd adds to
 * int32 at once. */
#define UNPACK_FLIP 0
#include "kernel/matmul_avx2.h"

MICRO_INLINE void dot_signed(__m256i (*sums)[2], const struct micro_kind kind, const struct matmul_panel *panel,
                             uint32_t g, const struct micro_tokens *tokens)
{
    UNROLL
    for (uint32_t t = 0; t < tokens->count; t++) sums[t][0] = sums[t][1] = _mm256_set1_epi32(DOT_START);
    UNROLL
    for (uint32_t w = 0; w < 8; w++) {
        UNROLL
        for (uint32_t h = 0; h < 2; h++) {
            const __m256i bytes = load_words(panel->quants[g * 8 + w] + 8 * h);
            const __m256i magnitude = _mm256_abs_epi8(bytes);
            UNROLL
            for (uint32_t t = 0; t < tokens->count; t++) {
                const __m256i x = _mm256_sign_epi8(token_word(kind, tokens, w, t), bytes);
                const __m256i pairs = _mm256_maddubs_epi16(magnitude, x);
                sums[t][h] = _mm256_add_epi32(sums[t][h], _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
                KEEP_SUM(sums[t][h]);
            }
        }
    }
}

MICRO_INLINE void dot_wide(__m256i (*sums)[2], const struct matmul_panel *panel, uint32_t g,
                           const struct micro_tokens *tokens)
{
    UNROLL
    for (uint32_t t = 0; t < tokens->count; t++) sums[t][0] = sums[t][1] = _mm256_set1_epi32(DOT_START);
    UNROLL
    for (uint32_t i = 0; i < 16; i++) {
        const uint32_t *words = panel->quants[g * 16 + i];
        const __m256i low = load_words(words), high = load_words(words + 8);
        UNROLL
        for (uint32_t t = 0; t < tokens->count; t++) {
            const __m256i x = _mm256_set1_epi32(tokens->wide->pairs[i % 2][i / 2][tokens->lane + t]);
            sums[t][0] = _mm256_add_epi32(sums[t][0], _mm256_madd_epi16(low, x));
            sums[t][1] = _mm256_add_epi32(sums[t][1], _mm256_madd_epi16(high, x));
            KEEP_SUM(sums[t][0]);
            KEEP_SUM(sums[t][1]);
        }
    }
}

MICRO_INLINE void dot_group(__m256i (*sums)[2], const struct micro_kind kind, const struct matmul_panel *panel,
                            uint32_t scale_group, const struct micro_tokens *tokens)
{
    if (kind.kind == KIND_WIDE) {
        dot_wide(sums, panel, scale_group, tokens);
        return;
    }
    if (kind.bits == 8) {
        dot_signed(sums, kind, panel, scale_group, tokens);
        return;
    }
    const uint32_t depth = kind.bits <= 4 ? kind.words : kind.bits == 5 ? 4 : 2;
    UNROLL
    for (uint32_t begin = 0; begin < kind.words; begin += depth) {
        __m256i pairs[TOKENS_MAX][2];
        UNROLL
        for (uint32_t w = begin; w < begin + depth; w++) {
            const uint32_t *words = panel->quants[scale_group * kind.words + w];
            const __m256i low = load_words(words), high = load_words(words + 8);
            UNROLL
            for (uint32_t t = 0; t < tokens->count; t++) {
                const __m256i x = token_word(kind, tokens, w, t);
                const __m256i product[2] = {_mm256_maddubs_epi16(low, x), _mm256_maddubs_epi16(high, x)};
                UNROLL
                for (uint32_t h = 0; h < 2; h++) {
                    pairs[t][h] = w == begin ? product[h] : _mm256_add_epi16(pairs[t][h], product[h]);
                    KEEP_SUM(pairs[t][h]);
                }
            }
        }
        UNROLL
        for (uint32_t t = 0; t < tokens->count; t++) {
            UNROLL
            for (uint32_t h = 0; h < 2; h++) {
                const __m256i sum = _mm256_madd_epi16(pairs[t][h], _mm256_set1_epi16(1));
                sums[t][h] = _mm256_add_epi32(begin ? sums[t][h] : start_sum(kind, tokens, t), sum);
            }
        }
    }
}

void kernel_matmul_avx2(const struct kernel_matrix *weights, const struct kernel_input *input, uint32_t token_begin,
                        uint32_t token_end, uint32_t row_begin, uint32_t row_end, const struct kernel_output *output)
{
    matmul_run(&matmul_set, weights, input, token_begin, token_end, row_begin, row_end, output);
}
