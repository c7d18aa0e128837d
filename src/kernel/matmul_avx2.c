/* matmul_avx2.c - AVX2 without VNNI: products of bytes are added in pairs to int16 (vpmaddubsw), as many of them as
 * cannot overflow, then in pairs to int32.
 *
 * A pair is at most 2 * (2^bits - 1) * 127: eight pairs of 4-bit bytes fit int16, four of 5-bit, two of 6-bit. Bytes of
 * 8 bits do not fit even once, so these are made signed again (xor 128) and |byte| meets the quant with the byte's
 * sign: at most 2 * 128 * 127. Then the offset's start value is dropped. */
#include "kernel/matmul_avx2.h"

MICRO_INLINE __m256i widen(__m256i pairs)
{
    return _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
}

MICRO_INLINE void dot_signed(__m256i (*sums)[2], const struct micro_kind kind, const uint32_t (*quants)[TILE_ROWS],
                             const struct micro_tokens *tokens)
{
    const __m256i flip = _mm256_set1_epi8(-128);
    UNROLL
    for (uint32_t t = 0; t < tokens->count; t++) sums[t][0] = sums[t][1] = _mm256_setzero_si256();
    UNROLL
    for (uint32_t w = 0; w < kind.words; w++) {
        UNROLL
        for (uint32_t h = 0; h < 2; h++) {
            const __m256i bytes = _mm256_xor_si256(load_words(quants[w] + 8 * h), flip);
            const __m256i magnitude = _mm256_abs_epi8(bytes);
            UNROLL
            for (uint32_t t = 0; t < tokens->count; t++) {
                const __m256i x = _mm256_sign_epi8(token_word(kind, tokens, w, t), bytes);
                sums[t][h] = _mm256_add_epi32(sums[t][h], widen(_mm256_maddubs_epi16(magnitude, x)));
                KEEP_SUM(sums[t][h]);
            }
        }
    }
}

MICRO_INLINE void dot_group(__m256i (*sums)[2], const struct micro_kind kind, const uint32_t (*quants)[TILE_ROWS],
                            const struct micro_tokens *tokens)
{
    if (kind.bits == 8) {
        dot_signed(sums, kind, quants, tokens);
        return;
    }
    const uint32_t depth = kind.bits <= 4 ? kind.words : kind.bits == 5 ? 4 : 2;
    UNROLL
    for (uint32_t begin = 0; begin < kind.words; begin += depth) {
        __m256i pairs[TOKENS_MAX][2];
        UNROLL
        for (uint32_t t = 0; t < tokens->count; t++) pairs[t][0] = pairs[t][1] = _mm256_setzero_si256();
        UNROLL
        for (uint32_t w = begin; w < begin + depth; w++) {
            const __m256i low = load_words(quants[w]), high = load_words(quants[w] + 8);
            UNROLL
            for (uint32_t t = 0; t < tokens->count; t++) {
                const __m256i x = token_word(kind, tokens, w, t);
                pairs[t][0] = _mm256_add_epi16(pairs[t][0], _mm256_maddubs_epi16(low, x));
                pairs[t][1] = _mm256_add_epi16(pairs[t][1], _mm256_maddubs_epi16(high, x));
                KEEP_SUM(pairs[t][0]);
                KEEP_SUM(pairs[t][1]);
            }
        }
        UNROLL
        for (uint32_t t = 0; t < tokens->count; t++) {
            UNROLL
            for (uint32_t h = 0; h < 2; h++)
                sums[t][h] = _mm256_add_epi32(begin ? sums[t][h] : start_sum(kind, tokens, t), widen(pairs[t][h]));
        }
    }
}

void kernel_matmul_avx2(const struct kernel_matrix *weights, const struct kernel_input *input, uint32_t token_begin,
                        uint32_t token_end, uint32_t row_begin, uint32_t row_end, float *out, uint64_t out_stride)
{
    matmul_run(&matmul_set, weights, input, token_begin, token_end, row_begin, row_end, out, out_stride);
}
