/* matmul_avx2.h - the 256-bit micro kernels: two registers are 16 rows; up to 4 tokens, broadcast from memory.
 *
 * Included by matmul_avx2.c and matmul_avxvnni.c, which differ in dot_group(): how a scale group becomes int32 sums.
 * Sixteen registers hold the sums of 4 tokens; their chains wait in memory (first-level cache) from scale group to
 * scale group. */
#ifndef KERNEL_MATMUL_AVX2_H
#define KERNEL_MATMUL_AVX2_H
#include "kernel/kernel_internal.h"
#include "kernel/number_format.h"

#include <immintrin.h>
#include <string.h>

static inline void unpack_halves(float *out, const uint16_t *in)
{
    for (int h = 0; h < 16; h += 8)
        _mm256_storeu_ps(out + h, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(in + h))));
}
static inline void unpack_levels(uint32_t *out, const uint32_t *in)
{
    __m128i levels = _mm_loadu_si128((const __m128i *)number_iq4_levels);
    __m256i table = _mm256_broadcastsi128_si256(_mm_xor_si128(levels, _mm_set1_epi8(-128)));
    for (int h = 0; h < 16; h += 8)
        _mm256_storeu_si256((__m256i *)(out + h),
                            _mm256_shuffle_epi8(table, _mm256_loadu_si256((const __m256i *)(in + h))));
}
#define UNPACK_VECTOR_BYTES 32
#include "kernel/matmul_unpack.h"

#define MICRO_INLINE static inline __attribute__((always_inline))
#define TOKENS_MAX 4

struct micro_kind {
    uint32_t words;        /* of 4 columns a scale group: 8 or 4 */
    uint32_t offset_shift; /* offset = 1 << offset_shift; 0 = no offset */
    uint32_t bits;         /* of the panel's bytes */
    bool minimum;
};

/* A scale group of up to 4 tokens: first lane, which half of the 32 columns (0 where words is 8). */
struct micro_tokens {
    const struct kernel_input_group *input;
    uint32_t count, lane, half;
};

/* Where token t's integer chain begins: -offset * its sum. */
MICRO_INLINE __m256i start_sum(const struct micro_kind kind, const struct micro_tokens *tokens, uint32_t t)
{
    const struct kernel_input_group *in = tokens->input;
    const uint32_t l = tokens->lane + t;
    if (!kind.offset_shift) return _mm256_setzero_si256();
    const __m256i sum = _mm256_set1_epi32(kind.words == 8 ? in->sums[l] : in->half_sums[tokens->half][l]);
    return (__m256i)((__v8su)sum << kind.offset_shift);
}
/* Token t's four quants that meet row `word` of the scale group, in every lane. */
MICRO_INLINE __m256i token_word(const struct micro_kind kind, const struct micro_tokens *tokens, uint32_t word,
                                uint32_t t)
{
    int32_t quants;
    memcpy(&quants, tokens->input->quants[tokens->half * kind.words + word][tokens->lane + t], 4);
    return _mm256_set1_epi32(quants);
}
MICRO_INLINE __m256i load_words(const uint32_t *at)
{
    return _mm256_load_si256((const __m256i *)at);
}

/* sums[t][h] = sum over the scale group of (byte - offset) * quant of token t, rows of half h. Defined by the includer. */
MICRO_INLINE void dot_group(__m256i (*sums)[2], const struct micro_kind kind, const uint32_t (*quants)[TILE_ROWS],
                            const struct micro_tokens *tokens);

/* One scale group: chains[t] goes on. */
MICRO_INLINE void micro_group(float (*chains)[TILE_ROWS], const struct matmul_panel *panel, uint32_t s,
                              const struct micro_kind kind, const struct micro_tokens *tokens)
{
    const struct kernel_input_group *in = tokens->input;
    __m256i sums[TOKENS_MAX][2];
    dot_group(sums, kind, panel->quants + s * kind.words, tokens);
    UNROLL
    for (uint32_t h = 0; h < 2; h++) {
        const __m256 scale = _mm256_load_ps(panel->scales[s] + 8 * h);
        UNROLL
        for (uint32_t t = 0; t < tokens->count; t++) {
            const uint32_t l = tokens->lane + t;
            __m256 chain = _mm256_load_ps(chains[t] + 8 * h);
            chain = _mm256_fmadd_ps(_mm256_mul_ps(_mm256_cvtepi32_ps(sums[t][h]), scale), _mm256_set1_ps(in->scales[l]),
                                    chain);
            if (kind.minimum) {
                const float weighted =
                    kind.words == 8 ? in->weighted[l] : (float)in->half_sums[tokens->half][l] * in->scales[l];
                chain = _mm256_fmadd_ps(_mm256_load_ps(panel->minima[s] + 8 * h), _mm256_set1_ps(weighted), chain);
            }
            _mm256_store_ps(chains[t] + 8 * h, chain);
        }
    }
}

/* `count` is a constant, 1...4. */
MICRO_INLINE void micro_tokens(const struct matmul_call *call, const struct micro_kind kind, const uint32_t count)
{
    _Alignas(32) float chains[TOKENS_MAX][TILE_ROWS];
    struct micro_tokens tokens = {.input = call->input, .count = count, .lane = count < INPUT_TOKENS ? call->lane : 0};
    memset(chains, 0, sizeof chains);
    for (uint32_t t = 0; t < count && !call->first; t++)
        memcpy(chains[t], call->out + t * call->out_stride, call->rows * sizeof(float));
    for (uint32_t g = 0; g < call->groups; g++, tokens.input++) {
        prefetch_share(call, g);
        UNROLL
        for (uint32_t half = 0; half < 8 / kind.words; half++) {
            tokens.half = half;
            micro_group(chains, call->panel, g * (8 / kind.words) + half, kind, &tokens);
        }
    }
    for (uint32_t t = 0; t < count; t++)
        memcpy(call->out + t * call->out_stride, chains[t], call->rows * sizeof(float));
}

MICRO_INLINE void micro_any(const struct matmul_call *call, const struct micro_kind kind)
{
    switch (call->tokens) {
    case 1:
        micro_tokens(call, kind, 1);
        break;
    case 2:
        micro_tokens(call, kind, 2);
        break;
    case 3:
        micro_tokens(call, kind, 3);
        break;
    default:
        micro_tokens(call, kind, TOKENS_MAX);
        break;
    }
}

static void micro_offset_8(const struct matmul_call *call)
{
    micro_any(call, (struct micro_kind){.words = 8, .offset_shift = 3, .bits = 4});
}
static void micro_offset_16(const struct matmul_call *call)
{
    micro_any(call, (struct micro_kind){.words = 8, .offset_shift = 4, .bits = 5});
}
static void micro_offset_128(const struct matmul_call *call)
{
    micro_any(call, (struct micro_kind){.words = 8, .offset_shift = 7, .bits = 8});
}
static void micro_minimum_4(const struct matmul_call *call)
{
    micro_any(call, (struct micro_kind){.words = 8, .bits = 4, .minimum = true});
}
static void micro_minimum_5(const struct matmul_call *call)
{
    micro_any(call, (struct micro_kind){.words = 8, .bits = 5, .minimum = true});
}
static void micro_half_offset_4(const struct matmul_call *call)
{
    micro_any(call, (struct micro_kind){.words = 4, .offset_shift = 2, .bits = 3});
}
static void micro_half_offset_32(const struct matmul_call *call)
{
    micro_any(call, (struct micro_kind){.words = 4, .offset_shift = 5, .bits = 6});
}
static void micro_half_minimum(const struct matmul_call *call)
{
    micro_any(call, (struct micro_kind){.words = 4, .bits = 2, .minimum = true});
}

/* ---- float weights --------------------------------------------------------------------------------------------------
 */

MICRO_INLINE __m256 float_column(const void *tile, uint64_t element, enum number_format format)
{
    if (format == NF_F32) return _mm256_loadu_ps((const float *)tile + element);
    __m128i halves = _mm_loadu_si128((const __m128i *)((const uint16_t *)tile + element));
    if (format == NF_F16) return _mm256_cvtph_ps(halves);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
}

MICRO_INLINE void float_tokens(const struct matmul_float_call *call, const enum number_format format,
                               const uint32_t tokens)
{
    __m256 chains[TOKENS_MAX][2];
    UNROLL
    for (uint32_t t = 0; t < tokens; t++) chains[t][0] = chains[t][1] = _mm256_setzero_ps();
    for (uint64_t c = 0; c < call->columns; c++) {
        const __m256 low = float_column(call->tile, c * TILE_ROWS, format);
        const __m256 high = float_column(call->tile, c * TILE_ROWS + 8, format);
        UNROLL
        for (uint32_t t = 0; t < tokens; t++) {
            const __m256 x = _mm256_set1_ps(call->input[t * call->input_stride + c]);
            chains[t][0] = _mm256_fmadd_ps(low, x, chains[t][0]);
            chains[t][1] = _mm256_fmadd_ps(high, x, chains[t][1]);
        }
    }
    UNROLL
    for (uint32_t t = 0; t < tokens; t++)
        memcpy(call->out + t * call->out_stride, chains[t], call->rows * sizeof(float));
}

MICRO_INLINE void float_any(const struct matmul_float_call *call, const enum number_format format)
{
    switch (call->tokens) {
    case 1:
        float_tokens(call, format, 1);
        break;
    case 2:
        float_tokens(call, format, 2);
        break;
    case 3:
        float_tokens(call, format, 3);
        break;
    default:
        float_tokens(call, format, TOKENS_MAX);
        break;
    }
}
static void float_f32(const struct matmul_float_call *call)
{
    float_any(call, NF_F32);
}
static void float_f16(const struct matmul_float_call *call)
{
    float_any(call, NF_F16);
}
static void float_bf16(const struct matmul_float_call *call)
{
    float_any(call, NF_BF16);
}

static const struct matmul_set matmul_set = {
    .tokens_max = TOKENS_MAX,
    .unpack = unpack_table,
    .micro = {[KIND_OFFSET_8] = micro_offset_8,
              [KIND_OFFSET_16] = micro_offset_16,
              [KIND_OFFSET_128] = micro_offset_128,
              [KIND_MINIMUM_4] = micro_minimum_4,
              [KIND_MINIMUM_5] = micro_minimum_5,
              [KIND_HALF_OFFSET_4] = micro_half_offset_4,
              [KIND_HALF_OFFSET_32] = micro_half_offset_32,
              [KIND_HALF_MINIMUM] = micro_half_minimum},
    .float_f32 = float_f32,
    .float_f16 = float_f16,
    .float_bf16 = float_bf16,
};

#endif
