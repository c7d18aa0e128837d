/* matmul_avx2.h - the 256-bit micro kernels: two registers are 16 rows; up to 4 tokens, broadcast from memory.
 *
 * Included by matmul_avx2.c and matmul_avxvnni.c, which differ in UNPACK_FLIP and in dot_group(): how a scale group
 * becomes int32 sums.
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
    __m256i table = _mm256_broadcastsi128_si256(_mm_xor_si128(levels, _mm_set1_epi8((char)UNPACK_FLIP)));
    for (int h = 0; h < 16; h += 8)
        _mm256_storeu_si256((__m256i *)(out + h),
                            _mm256_shuffle_epi8(table, _mm256_loadu_si256((const __m256i *)(in + h))));
}
#define UNPACK_VECTOR_BYTES 32
#include "kernel/matmul_unpack.h"

#define MICRO_INLINE static inline __attribute__((always_inline))
#define TOKENS_MAX 4

struct micro_kind {
    enum matmul_kind kind;
    uint32_t words; /* of 4 columns a scale group: 8 or 4 */
    uint32_t bits;  /* of the panel's bytes */
    bool minimum;
};

/* A scale group of up to 4 tokens: first lane, which half of the 32 columns (0 where words is 8). */
struct micro_tokens {
    const struct kernel_input_group *input;
    const struct kernel_input_halves *halves;
    const struct wide_group *wide; /* of `input`, in KIND_WIDE */
    uint32_t count, lane, half;
};

/* A kernel_input_group's quants as int16: the first and third of each four, then the second and fourth. */
struct wide_group {
    _Alignas(32) int32_t pairs[2][8][INPUT_TOKENS];
};
MICRO_INLINE void widen_groups(const struct kernel_input_group *input, uint32_t groups, struct wide_group *wide)
{
    for (uint32_t g = 0; g < groups; g++)
        for (uint32_t i = 0; i < 8; i += 2) {
            const __m256i bytes = _mm256_loadu_si256((const __m256i *)input[g].quants[i]);
            const __m256i even = _mm256_srai_epi16(_mm256_slli_epi16(bytes, 8), 8);
            _mm256_store_si256((__m256i *)wide[g].pairs[0][i], even);
            _mm256_store_si256((__m256i *)wide[g].pairs[1][i], _mm256_srai_epi16(bytes, 8));
        }
}

/* Where token t's integer chain starts. */
MICRO_INLINE __m256i start_sum(const struct micro_kind kind, const struct micro_tokens *tokens, uint32_t t)
{
    const uint32_t l = tokens->lane + t;
    switch (kind.kind) {
    case KIND_OFFSET_8:
        return _mm256_set1_epi32(tokens->input->starts_8[l]);
    case KIND_OFFSET_16:
        return _mm256_set1_epi32(tokens->input->starts_16[l]);
    case KIND_OFFSET_128:
        return _mm256_set1_epi32(tokens->input->starts_128[l]);
    case KIND_HALF_OFFSET_4:
        return _mm256_set1_epi32(tokens->halves->starts_4[tokens->half][l]);
    case KIND_HALF_OFFSET_32:
        return _mm256_set1_epi32(tokens->halves->starts_32[tokens->half][l]);
    default:
        return _mm256_set1_epi32(DOT_START);
    }
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

/* sums[t][h] = DOT_START + the scale group's dot of token t, rows of half h. Defined by the includer. */
MICRO_INLINE void dot_group(__m256i (*sums)[2], const struct micro_kind kind, const struct matmul_panel *panel,
                            uint32_t scale_group, const struct micro_tokens *tokens);

/* The first `rows` of 8 floats, the others 0; and back. */
MICRO_INLINE __m256 load_rows(const float *at, uint32_t rows)
{
    if (rows >= 8) return _mm256_loadu_ps(at);
    float some[8] = {0};
    memcpy(some, at, rows * sizeof *at);
    return _mm256_loadu_ps(some);
}
MICRO_INLINE void store_rows(float *at, uint32_t rows, __m256 values)
{
    float some[8];
    if (rows >= 8) {
        _mm256_storeu_ps(at, values);
        return;
    }
    _mm256_storeu_ps(some, values);
    memcpy(at, some, rows * sizeof *at);
}
/* Of the tile's rows, those from 8 * h on. */
MICRO_INLINE uint32_t rows_from(const struct matmul_result *result, uint32_t h)
{
    return result->rows > 8 * h ? result->rows - 8 * h : 0;
}
/* Finished chains of half h, or ones that wait for the next panel. */
MICRO_INLINE void put_chains(const struct matmul_result *result, uint32_t t, uint32_t h, __m256 chains)
{
    const uint32_t rows = rows_from(result, h);
    float *out = result->out + t * result->out_stride + 8 * h;
    if (result->bias) chains = _mm256_add_ps(chains, load_rows(result->bias + 8 * h, rows));
    if (result->sum) {
        out = result->sum + t * result->sum_stride + 8 * h;
        chains = _mm256_add_ps(load_rows(out, rows), chains);
    }
    store_rows(out, rows, chains);
}

MICRO_INLINE __m256 add_minima(__m256 chain, const struct micro_kind kind, const float (*minima)[TILE_ROWS], uint32_t h,
                               const struct micro_tokens *tokens, uint32_t lane)
{
    if (kind.words == 8)
        return _mm256_fmadd_ps(_mm256_load_ps(minima[0] + 8 * h), _mm256_set1_ps(tokens->input->weighted[lane]), chain);
    UNROLL
    for (uint32_t half = 0; half < 2; half++)
        chain = _mm256_fmadd_ps(_mm256_load_ps(minima[half] + 8 * h),
                                _mm256_set1_ps(tokens->halves->weighted[half][lane]), chain);
    return chain;
}

/* 32 columns: chains[t] goes on. */
MICRO_INLINE void micro_group(float (*chains)[TILE_ROWS], const struct micro_kind kind,
                              const struct matmul_panel *panel, uint32_t g, struct micro_tokens *tokens)
{
    const struct kernel_input_group *in = tokens->input;
    const uint32_t halves = 8 / kind.words;
    __m256 products[TOKENS_MAX][2];
    UNROLL
    for (uint32_t half = 0; half < halves; half++) {
        const uint32_t s = g * halves + half;
        __m256i sums[TOKENS_MAX][2];
        tokens->half = half;
        dot_group(sums, kind, panel, s, tokens);
        UNROLL
        for (uint32_t h = 0; h < 2; h++) {
            const __m256 scale = _mm256_load_ps(panel->scales[s] + 8 * h), zero = _mm256_set1_ps(DOT_ZERO);
            const __m256 base = _mm256_mul_ps(scale, _mm256_set1_ps(-DOT_ZERO));
            UNROLL
            for (uint32_t t = 0; t < tokens->count; t++) {
                const __m256 dot = _mm256_castsi256_ps(sums[t][h]);
                products[t][h] = half ? _mm256_fmadd_ps(_mm256_sub_ps(dot, zero), scale, products[t][h])
                                      : _mm256_fmadd_ps(dot, scale, base);
            }
        }
    }
    UNROLL
    for (uint32_t t = 0; t < tokens->count; t++) {
        const uint32_t l = tokens->lane + t;
        UNROLL
        for (uint32_t h = 0; h < 2; h++) {
            __m256 chain = _mm256_load_ps(chains[t] + 8 * h);
            chain = _mm256_fmadd_ps(products[t][h], _mm256_set1_ps(in->scales[l]), chain);
            if (kind.minimum) chain = add_minima(chain, kind, panel->minima + g * halves, h, tokens, l);
            _mm256_store_ps(chains[t] + 8 * h, chain);
        }
    }
}

/* `count` is a constant, 1...4. */
MICRO_INLINE void micro_tokens(const struct matmul_call *call, const struct micro_kind kind, const uint32_t count)
{
    const struct matmul_result *result = &call->result;
    struct wide_group wide[PANEL_GROUPS];
    _Alignas(32) float chains[TOKENS_MAX][TILE_ROWS] = {{0}};
    struct micro_tokens tokens = {.input = call->input,
                                  .halves = call->halves,
                                  .wide = wide,
                                  .count = count,
                                  .lane = count < INPUT_TOKENS ? call->lane : 0};
    if (kind.kind == KIND_WIDE) widen_groups(call->input, call->groups, wide);
    for (uint32_t t = 0; t < count && !call->first; t++)
        for (uint32_t h = 0; h < 2; h++)
            _mm256_store_ps(chains[t] + 8 * h,
                            load_rows(result->out + t * result->out_stride + 8 * h, rows_from(result, h)));
    for (uint32_t g = 0; g < call->groups; g++, tokens.input++, tokens.halves++, tokens.wide++) {
        prefetch_share(call, g);
        micro_group(chains, kind, call->panel, g, &tokens);
    }
    for (uint32_t t = 0; t < count; t++)
        for (uint32_t h = 0; h < 2; h++) put_chains(result, t, h, _mm256_load_ps(chains[t] + 8 * h));
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
    micro_any(call, (struct micro_kind){KIND_OFFSET_8, .words = 8, .bits = 4});
}
static void micro_offset_16(const struct matmul_call *call)
{
    micro_any(call, (struct micro_kind){KIND_OFFSET_16, .words = 8, .bits = 5});
}
static void micro_offset_128(const struct matmul_call *call)
{
    micro_any(call, (struct micro_kind){KIND_OFFSET_128, .words = 8, .bits = 8});
}
static void micro_minimum_4(const struct matmul_call *call)
{
    micro_any(call, (struct micro_kind){KIND_MINIMUM_4, .words = 8, .bits = 4, .minimum = true});
}
static void micro_minimum_5(const struct matmul_call *call)
{
    micro_any(call, (struct micro_kind){KIND_MINIMUM_5, .words = 8, .bits = 5, .minimum = true});
}
static void micro_half_offset_4(const struct matmul_call *call)
{
    micro_any(call, (struct micro_kind){KIND_HALF_OFFSET_4, .words = 4, .bits = 3});
}
static void micro_half_offset_32(const struct matmul_call *call)
{
    micro_any(call, (struct micro_kind){KIND_HALF_OFFSET_32, .words = 4, .bits = 6});
}
static void micro_half_minimum(const struct matmul_call *call)
{
    micro_any(call, (struct micro_kind){KIND_HALF_MINIMUM, .words = 4, .bits = 2, .minimum = true});
}

#if !UNPACK_FLIP
static void micro_wide(const struct matmul_call *call)
{
    micro_any(call, (struct micro_kind){KIND_WIDE, .words = 8});
}
/* From the last row on, because rows move up. */
static void widen(struct matmul_panel *panel, uint32_t groups)
{
    for (uint32_t row = groups * 8; row-- > 0;) {
        const __m256i low = load_words(panel->quants[row]), high = load_words(panel->quants[row] + 8);
        __m256i *out = (__m256i *)panel->quants[2 * row];
        out[3] = _mm256_srai_epi16(high, 8);
        out[2] = _mm256_srai_epi16(low, 8);
        out[1] = _mm256_srai_epi16(_mm256_slli_epi16(high, 8), 8);
        out[0] = _mm256_srai_epi16(_mm256_slli_epi16(low, 8), 8);
    }
}
#endif

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
    for (uint32_t t = 0; t < tokens; t++) {
        put_chains(&call->result, t, 0, chains[t][0]);
        put_chains(&call->result, t, 1, chains[t][1]);
    }
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
    .unpack = unpack_table,
    .micro =
        {
            [KIND_OFFSET_8] = {micro_offset_8, TOKENS_MAX},
            [KIND_OFFSET_16] = {micro_offset_16, TOKENS_MAX},
            [KIND_OFFSET_128] = {micro_offset_128, TOKENS_MAX},
            [KIND_MINIMUM_4] = {micro_minimum_4, TOKENS_MAX},
            [KIND_MINIMUM_5] = {micro_minimum_5, TOKENS_MAX},
            [KIND_HALF_OFFSET_4] = {micro_half_offset_4, TOKENS_MAX},
            [KIND_HALF_OFFSET_32] = {micro_half_offset_32, TOKENS_MAX},
            [KIND_HALF_MINIMUM] = {micro_half_minimum, TOKENS_MAX},
#if !UNPACK_FLIP
            [KIND_WIDE] = {micro_wide, TOKENS_MAX},
#endif
        },
#if !UNPACK_FLIP
    .widen = widen,
#endif
    .float_f32 = float_f32,
    .float_f16 = float_f16,
    .float_bf16 = float_bf16,
    .float_tokens_max = TOKENS_MAX,
};

#endif
