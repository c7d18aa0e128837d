/* matmul_avx512.h - the AVX-512 micro kernels: one register is 16 rows; tokens are broadcast from memory.
 *
 * Included by matmul_avx512.c and matmul_avx512vnni.c, which differ in TOKENS_MAX (8 or 12) and in dot_group(): how a scale
 * group becomes int32 sums. Each micro kernel is one inline function, specialised by constants (tokens, struct
 * micro_kind). */
#ifndef KERNEL_MATMUL_AVX512_H
#define KERNEL_MATMUL_AVX512_H
#include "kernel/kernel_internal.h"
#include "kernel/number_format.h"

#include <immintrin.h>
#include <string.h>

static inline void unpack_halves(float *out, const uint16_t *in)
{
    _mm512_storeu_ps(out, _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)in)));
}
static inline void unpack_levels(uint32_t *out, const uint32_t *in)
{
    __m128i levels = _mm_loadu_si128((const __m128i *)number_iq4_levels);
    __m512i table = _mm512_broadcast_i32x4(_mm_xor_si128(levels, _mm_set1_epi8(-128)));
    _mm512_storeu_si512(out, _mm512_shuffle_epi8(table, _mm512_loadu_si512(in)));
}
#define UNPACK_VECTOR_BYTES 64
#include "kernel/matmul_unpack.h"

#define MICRO_INLINE static inline __attribute__((always_inline))

struct micro_kind {
    uint32_t words;        /* of 4 columns a scale group: 8 or 4 */
    uint32_t offset_shift; /* offset = 1 << offset_shift; 0 = no offset */
    uint32_t bits;         /* of the panel's bytes */
    bool minimum;
};

/* A scale group of up to 12 tokens: blocks of input, first lane, which half of the 32 columns (0 where words is 8). */
struct micro_tokens {
    const struct kernel_input_group *input[TOKENS_MAX / INPUT_TOKENS];
    uint32_t count, lane, half;
};

/* Where token t's integer chain begins: -offset * its sum. */
MICRO_INLINE __m512i start_sum(const struct micro_kind kind, const struct micro_tokens *tokens, uint32_t t)
{
    const struct kernel_input_group *in = tokens->input[t / INPUT_TOKENS];
    const uint32_t l = tokens->lane + t % INPUT_TOKENS;
    if (!kind.offset_shift) return _mm512_setzero_si512();
    const __m512i sum = _mm512_set1_epi32(kind.words == 8 ? in->sums[l] : in->half_sums[tokens->half][l]);
    return (__m512i)((__v16su)sum << kind.offset_shift);
}
/* Token t's four quants that meet row `word` of the scale group, in every lane. */
MICRO_INLINE __m512i token_word(const struct micro_kind kind, const struct micro_tokens *tokens, uint32_t word,
                                uint32_t t)
{
    int32_t quants;
    memcpy(&quants,
           tokens->input[t / INPUT_TOKENS]->quants[tokens->half * kind.words + word][tokens->lane + t % INPUT_TOKENS],
           4);
    return _mm512_set1_epi32(quants);
}

/* sums[t] = sum over the scale group of (byte - offset) * quant of token t. Defined by the includer. */
MICRO_INLINE void dot_group(__m512i *sums, const struct micro_kind kind, const uint32_t (*quants)[TILE_ROWS],
                            const struct micro_tokens *tokens);

/* `count` is a constant: 1...4, 8 or 12. */
MICRO_INLINE void micro_tokens(const struct matmul_call *call, const struct micro_kind kind, const uint32_t count)
{
    const struct matmul_panel *panel = call->panel;
    const __mmask16 rows = (__mmask16)((1u << call->rows) - 1);
    struct micro_tokens tokens = {.count = count, .lane = count < INPUT_TOKENS ? call->lane : 0};
    __m512 chains[TOKENS_MAX];
    for (uint32_t b = 0; b * INPUT_TOKENS < count; b++) tokens.input[b] = call->input + b * call->block_stride;
    UNROLL
    for (uint32_t t = 0; t < count; t++)
        chains[t] = call->first ? _mm512_setzero_ps() : _mm512_maskz_loadu_ps(rows, call->out + t * call->out_stride);
    for (uint32_t g = 0; g < call->groups; g++) {
        prefetch_share(call, g);
        UNROLL
        for (uint32_t half = 0; half < 8 / kind.words; half++) {
            const uint32_t s = g * (8 / kind.words) + half;
            tokens.half = half;
            __m512i sums[TOKENS_MAX];
            dot_group(sums, kind, panel->quants + s * kind.words, &tokens);
            const __m512 scale = _mm512_load_ps(panel->scales[s]);
            UNROLL
            for (uint32_t t = 0; t < count; t++) {
                const __m512 x_scale =
                    _mm512_set1_ps(tokens.input[t / INPUT_TOKENS]->scales[tokens.lane + t % INPUT_TOKENS]);
                chains[t] = _mm512_fmadd_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(sums[t]), scale), x_scale, chains[t]);
            }
            if (!kind.minimum) continue;
            const __m512 minimum = _mm512_load_ps(panel->minima[s]);
            UNROLL
            for (uint32_t t = 0; t < count; t++) {
                const struct kernel_input_group *in = tokens.input[t / INPUT_TOKENS];
                const uint32_t l = tokens.lane + t % INPUT_TOKENS;
                const float weighted =
                    kind.words == 8 ? in->weighted[l] : (float)in->half_sums[tokens.half][l] * in->scales[l];
                chains[t] = _mm512_fmadd_ps(minimum, _mm512_set1_ps(weighted), chains[t]);
            }
        }
        for (uint32_t b = 0; b * INPUT_TOKENS < count; b++) tokens.input[b]++;
    }
    UNROLL
    for (uint32_t t = 0; t < count; t++) _mm512_mask_storeu_ps(call->out + t * call->out_stride, rows, chains[t]);
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
    case 4:
        micro_tokens(call, kind, 4);
        break;
    case 8:
        micro_tokens(call, kind, 8);
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

MICRO_INLINE __m512 float_column(const void *tile, uint64_t column, enum number_format format)
{
    if (format == NF_F32) return _mm512_loadu_ps((const float *)tile + column * TILE_ROWS);
    __m256i halves = _mm256_loadu_si256((const __m256i *)((const uint16_t *)tile + column * TILE_ROWS));
    if (format == NF_F16) return _mm512_cvtph_ps(halves);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
}

MICRO_INLINE void float_tokens(const struct matmul_float_call *call, const enum number_format format,
                               const uint32_t tokens)
{
    const float *input[TOKENS_MAX];
    const __mmask16 rows = (__mmask16)((1u << call->rows) - 1);
    __m512 chains[TOKENS_MAX];
    UNROLL
    for (uint32_t t = 0; t < tokens; t++) {
        input[t] = call->input + t * call->input_stride;
        chains[t] = _mm512_setzero_ps();
    }
    for (uint64_t c = 0; c < call->columns; c++) {
        const __m512 column = float_column(call->tile, c, format);
        UNROLL
        for (uint32_t t = 0; t < tokens; t++)
            chains[t] = _mm512_fmadd_ps(column, _mm512_set1_ps(input[t][c]), chains[t]);
    }
    UNROLL
    for (uint32_t t = 0; t < tokens; t++) _mm512_mask_storeu_ps(call->out + t * call->out_stride, rows, chains[t]);
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
    case 4:
        float_tokens(call, format, 4);
        break;
    case 8:
        float_tokens(call, format, 8);
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
