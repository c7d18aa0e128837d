/* matmul_avx512.h - the AVX-512 micro kernels: one register is 16 rows; tokens are broadcast from memory.
 *
 * Included by matmul_avx512.c and matmul_avx512vnni.c, which differ in TOKENS_MAX (8 or 12), in UNPACK_FLIP and in
 * dot_group(): how a scale group becomes int32 sums. Each micro kernel is one inline function, specialised by constants
 * (tokens, struct micro_kind). */
#ifndef KERNEL_MATMUL_AVX512_H
#define KERNEL_MATMUL_AVX512_H
#include "kernel/kernel_internal.h"
#include "kernel/unpack_avx512.h"

#include <string.h>

/* clang leaves some of these loops rolled (at -O1, and the one over a Q6_K block's 8 groups always) and warns; it is right without
 * unrolling, only slower. */
#ifdef __clang__
#pragma clang diagnostic ignored "-Wpass-failed"
#endif

#define MICRO_INLINE static inline __attribute__((always_inline))

struct micro_kind {
    enum matmul_kind kind;
    uint32_t words; /* of 4 columns a scale group: 8 or 4 */
    uint32_t bits;  /* of the panel's bytes */
    bool minimum;
};

/* clang-format off */
#define MICRO_OFFSET_8       ((struct micro_kind){KIND_OFFSET_8, .words = 8, .bits = 4})
#define MICRO_OFFSET_16      ((struct micro_kind){KIND_OFFSET_16, .words = 8, .bits = 5})
#define MICRO_OFFSET_128     ((struct micro_kind){KIND_OFFSET_128, .words = 8, .bits = 8})
#define MICRO_MINIMUM_4      ((struct micro_kind){KIND_MINIMUM_4, .words = 8, .bits = 4, .minimum = true})
#define MICRO_MINIMUM_5      ((struct micro_kind){KIND_MINIMUM_5, .words = 8, .bits = 5, .minimum = true})
#define MICRO_HALF_OFFSET_4  ((struct micro_kind){KIND_HALF_OFFSET_4, .words = 4, .bits = 3})
#define MICRO_HALF_OFFSET_32 ((struct micro_kind){KIND_HALF_OFFSET_32, .words = 4, .bits = 6})
#define MICRO_HALF_MINIMUM   ((struct micro_kind){KIND_HALF_MINIMUM, .words = 4, .bits = 2, .minimum = true})
/* clang-format on */

/* A scale group of up to 12 tokens: blocks of input, first lane, which half of the 32 columns (0 where words is 8). */
struct micro_tokens {
    const struct kernel_input_group *input[TOKENS_MAX / INPUT_TOKENS];
    const struct kernel_input_halves *halves[TOKENS_MAX / INPUT_TOKENS];
    uint32_t count, lane, half;
};

/* Where token t's integer chain starts. */
MICRO_INLINE __m512i start_sum(const struct micro_kind kind, const struct micro_tokens *tokens, uint32_t t)
{
    const struct kernel_input_group *in = tokens->input[t / INPUT_TOKENS];
    const struct kernel_input_halves *halves = tokens->halves[t / INPUT_TOKENS];
    const uint32_t l = tokens->lane + t % INPUT_TOKENS;
    switch (kind.kind) {
    case KIND_OFFSET_8:
        return _mm512_set1_epi32(in->starts_8[l]);
    case KIND_OFFSET_16:
        return _mm512_set1_epi32(in->starts_16[l]);
    case KIND_OFFSET_128:
        return _mm512_set1_epi32(in->starts_128[l]);
    case KIND_HALF_OFFSET_4:
        return _mm512_set1_epi32(halves->starts_4[tokens->half][l]);
    case KIND_HALF_OFFSET_32:
        return _mm512_set1_epi32(halves->starts_32[tokens->half][l]);
    default:
        return _mm512_set1_epi32(DOT_START);
    }
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

/* sums[t] = DOT_START + the scale group's dot of token t. Defined by the includer. */
MICRO_INLINE void dot_group(__m512i *sums, const struct micro_kind kind, const struct matmul_panel *panel,
                            uint32_t scale_group, const struct micro_tokens *tokens);

MICRO_INLINE __m512 first_chain(const struct matmul_call *call, __mmask16 rows, uint32_t t)
{
    if (call->first) return _mm512_setzero_ps();
    return _mm512_maskz_loadu_ps(rows, call->result.out + t * call->result.out_stride);
}
/* A finished chain, or one that waits for the next panel. */
MICRO_INLINE void put_chain(const struct matmul_result *result, __mmask16 rows, uint32_t t, __m512 chain)
{
    float *out = result->out + t * result->out_stride;
    if (result->bias) chain = _mm512_add_ps(chain, _mm512_maskz_loadu_ps(rows, result->bias));
    if (result->sum) {
        out = result->sum + t * result->sum_stride;
        chain = _mm512_add_ps(_mm512_maskz_loadu_ps(rows, out), chain);
    }
    _mm512_mask_storeu_ps(out, rows, chain);
}

/* chains[t] = fma(products[t], x_scale, chains[t]) */
MICRO_INLINE void add_products(__m512 *chains, const __m512 *products, const struct micro_tokens *tokens)
{
    UNROLL
    for (uint32_t t = 0; t < tokens->count; t++) {
        const float x_scale = tokens->input[t / INPUT_TOKENS]->scales[tokens->lane + t % INPUT_TOKENS];
        chains[t] = _mm512_fmadd_ps(products[t], _mm512_set1_ps(x_scale), chains[t]);
    }
}
MICRO_INLINE void add_minima(__m512 *chains, const struct micro_kind kind, const float *minima,
                             const struct micro_tokens *tokens)
{
    const __m512 minimum = _mm512_load_ps(minima);
    UNROLL
    for (uint32_t t = 0; t < tokens->count; t++) {
        const uint32_t b = t / INPUT_TOKENS, l = tokens->lane + t % INPUT_TOKENS;
        const float weighted =
            kind.words == 8 ? tokens->input[b]->weighted[l] : tokens->halves[b]->weighted[tokens->half][l];
        chains[t] = _mm512_fmadd_ps(minimum, _mm512_set1_ps(weighted), chains[t]);
    }
}

/* 32 columns: the chains go on. */
MICRO_INLINE void micro_group(__m512 *chains, const struct micro_kind kind, const struct matmul_panel *panel,
                              uint32_t g, struct micro_tokens *tokens)
{
    const uint32_t halves = 8 / kind.words;
    __m512 products[TOKENS_MAX];
    UNROLL
    for (uint32_t half = 0; half < halves; half++) {
        tokens->half = half;
        __m512i sums[TOKENS_MAX];
        dot_group(sums, kind, panel, g * halves + half, tokens);
        const __m512 scale = _mm512_load_ps(panel->scales[g * halves + half]), zero = _mm512_set1_ps(DOT_ZERO);
        const __m512 base = _mm512_mul_ps(scale, _mm512_set1_ps(-DOT_ZERO));
        UNROLL
        for (uint32_t t = 0; t < tokens->count; t++) {
            const __m512 dot = _mm512_castsi512_ps(sums[t]);
            products[t] = half ? _mm512_fmadd_ps(_mm512_sub_ps(dot, zero), scale, products[t])
                               : _mm512_fmadd_ps(dot, scale, base);
        }
    }
    add_products(chains, products, tokens);
    if (!kind.minimum) return;
    UNROLL
    for (uint32_t half = 0; half < halves; half++) {
        tokens->half = half;
        add_minima(chains, kind, panel->minima[g * halves + half], tokens);
    }
}

/* One instance for each number of tokens, so that it is a constant. */
#define COUNT_CASE(count, function, ...) \
    case count:                          \
        function(__VA_ARGS__, count);    \
        break;

/* `count` is a constant: 1...4, 8 or 12. */
MICRO_INLINE void micro_tokens(const struct matmul_call *call, const struct micro_kind kind, const uint32_t count)
{
    const __mmask16 rows = (__mmask16)((1u << call->result.rows) - 1);
    struct micro_tokens tokens = {.count = count, .lane = count < INPUT_TOKENS ? call->lane : 0};
    __m512 chains[TOKENS_MAX];
    for (uint32_t b = 0; b * INPUT_TOKENS < count; b++) {
        tokens.input[b] = call->input + b * call->block_stride;
        tokens.halves[b] = call->halves + b * call->block_stride;
    }
    UNROLL
    for (uint32_t t = 0; t < count; t++) chains[t] = first_chain(call, rows, t);
    for (uint32_t g = 0; g < call->groups; g++) {
        prefetch_share(call, g);
        micro_group(chains, kind, call->panel, g, &tokens);
        for (uint32_t b = 0; b * INPUT_TOKENS < count; b++) tokens.input[b]++, tokens.halves[b]++;
    }
    UNROLL
    for (uint32_t t = 0; t < count; t++) put_chain(&call->result, rows, t, chains[t]);
}

MICRO_INLINE void micro_any(const struct matmul_call *call, const struct micro_kind kind)
{
    switch (call->tokens) {
        COUNT_CASE(1, micro_tokens, call, kind)
        COUNT_CASE(2, micro_tokens, call, kind)
        COUNT_CASE(3, micro_tokens, call, kind)
        COUNT_CASE(4, micro_tokens, call, kind)
        COUNT_CASE(8, micro_tokens, call, kind)
    default:
        micro_tokens(call, kind, kind.words == 8 ? TOKENS_MAX : HALF_TOKENS_MAX);
        break;
    }
}

static void micro_offset_8(const struct matmul_call *call)
{
    micro_any(call, MICRO_OFFSET_8);
}
static void micro_offset_16(const struct matmul_call *call)
{
    micro_any(call, MICRO_OFFSET_16);
}
static void micro_offset_128(const struct matmul_call *call)
{
    micro_any(call, MICRO_OFFSET_128);
}
static void micro_minimum_4(const struct matmul_call *call)
{
    micro_any(call, MICRO_MINIMUM_4);
}
static void micro_minimum_5(const struct matmul_call *call)
{
    micro_any(call, MICRO_MINIMUM_5);
}
static void micro_half_offset_4(const struct matmul_call *call)
{
    micro_any(call, MICRO_HALF_OFFSET_4);
}
static void micro_half_offset_32(const struct matmul_call *call)
{
    micro_any(call, MICRO_HALF_OFFSET_32);
}
static void micro_half_minimum(const struct matmul_call *call)
{
    micro_any(call, MICRO_HALF_MINIMUM);
}

/* ---- few tokens ----------------------------------------------------------------------------------------------
 */

/* `format`, `kind` and `count` are constants, and so are all indices into the panel of one block: its quants exist in
 * registers only. */
MICRO_INLINE void sweep_tokens(const uint16_t *halves, const uint32_t *words, const struct matmul_call *call,
                               const struct unpack_format format, const struct micro_kind kind, const uint32_t count)
{
    const __mmask16 rows = (__mmask16)((1u << call->result.rows) - 1);
    struct micro_tokens tokens = {.count = count, .lane = count < INPUT_TOKENS ? call->lane : 0};
    __m512 chains[TOKENS_MAX];
    for (uint32_t b = 0; b * INPUT_TOKENS < count; b++) {
        tokens.input[b] = call->input + b * call->block_stride;
        tokens.halves[b] = call->halves + b * call->block_stride;
    }
    UNROLL
    for (uint32_t t = 0; t < count; t++) chains[t] = _mm512_setzero_ps();
    for (uint32_t g = 0; g < call->groups; g += format.groups) {
        struct matmul_panel panel;
        block_scales(format, halves, words, panel.scales, panel.minima);
        UNROLL
        for (uint32_t i = 0; i < format.groups; i++) {
            prefetch_share(call, g + i);
            __asm__("" : "+r"(words)); /* or gcc keeps words that two groups share in registers, and spills */
            block_group(format, words, i, panel.quants + 8 * i);
            micro_group(chains, kind, &panel, i, &tokens);
            for (uint32_t b = 0; b * INPUT_TOKENS < count; b++) tokens.input[b]++, tokens.halves[b]++;
        }
        halves += format.halves * TILE_ROWS;
        words += format.words * TILE_ROWS;
    }
    UNROLL
    for (uint32_t t = 0; t < count; t++) put_chain(&call->result, rows, t, chains[t]);
}

MICRO_INLINE void sweep_any(const uint16_t *halves, const uint32_t *words, const struct matmul_call *call,
                            const struct unpack_format format, const struct micro_kind kind)
{
    switch (call->tokens) {
        COUNT_CASE(1, sweep_tokens, halves, words, call, format, kind)
        COUNT_CASE(2, sweep_tokens, halves, words, call, format, kind)
        COUNT_CASE(3, sweep_tokens, halves, words, call, format, kind)
        COUNT_CASE(4, sweep_tokens, halves, words, call, format, kind)
        COUNT_CASE(5, sweep_tokens, halves, words, call, format, kind)
        COUNT_CASE(6, sweep_tokens, halves, words, call, format, kind)
        COUNT_CASE(7, sweep_tokens, halves, words, call, format, kind)
    default:
        sweep_tokens(halves, words, call, format, kind, SWEEP_TOKENS);
        break;
    }
}

static void sweep_q4_0(const uint16_t *halves, const uint32_t *words, const struct matmul_call *call)
{
    sweep_any(halves, words, call, UNPACK_Q4_0, MICRO_OFFSET_8);
}
static void sweep_q4_1(const uint16_t *halves, const uint32_t *words, const struct matmul_call *call)
{
    sweep_any(halves, words, call, UNPACK_Q4_1, MICRO_MINIMUM_4);
}
static void sweep_q5_0(const uint16_t *halves, const uint32_t *words, const struct matmul_call *call)
{
    sweep_any(halves, words, call, UNPACK_Q5_0, MICRO_OFFSET_16);
}
static void sweep_q5_1(const uint16_t *halves, const uint32_t *words, const struct matmul_call *call)
{
    sweep_any(halves, words, call, UNPACK_Q5_1, MICRO_MINIMUM_5);
}
static void sweep_q8_0(const uint16_t *halves, const uint32_t *words, const struct matmul_call *call)
{
    sweep_any(halves, words, call, UNPACK_Q8_0, MICRO_OFFSET_128);
}
static void sweep_iq4_nl(const uint16_t *halves, const uint32_t *words, const struct matmul_call *call)
{
    sweep_any(halves, words, call, UNPACK_IQ4_NL, MICRO_OFFSET_128);
}
static void sweep_q4_k(const uint16_t *halves, const uint32_t *words, const struct matmul_call *call)
{
    sweep_any(halves, words, call, UNPACK_Q4_K, MICRO_MINIMUM_4);
}
static void sweep_q5_k(const uint16_t *halves, const uint32_t *words, const struct matmul_call *call)
{
    sweep_any(halves, words, call, UNPACK_Q5_K, MICRO_MINIMUM_5);
}
static void sweep_q6_k(const uint16_t *halves, const uint32_t *words, const struct matmul_call *call)
{
    sweep_any(halves, words, call, UNPACK_Q6_K, MICRO_HALF_OFFSET_32);
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
    const __mmask16 rows = (__mmask16)((1u << call->result.rows) - 1);
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
    for (uint32_t t = 0; t < tokens; t++) put_chain(&call->result, rows, t, chains[t]);
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
    .unpack = unpack_table,
    .micro =
        {
            [KIND_OFFSET_8] = {micro_offset_8, TOKENS_MAX},
            [KIND_OFFSET_16] = {micro_offset_16, TOKENS_MAX},
            [KIND_OFFSET_128] = {micro_offset_128, TOKENS_MAX},
            [KIND_MINIMUM_4] = {micro_minimum_4, TOKENS_MAX},
            [KIND_MINIMUM_5] = {micro_minimum_5, TOKENS_MAX},
            [KIND_HALF_OFFSET_4] = {micro_half_offset_4, HALF_TOKENS_MAX},
            [KIND_HALF_OFFSET_32] = {micro_half_offset_32, HALF_TOKENS_MAX},
            [KIND_HALF_MINIMUM] = {micro_half_minimum, HALF_TOKENS_MAX},
        },
    .sweep =
        {
            [NF_Q4_0] = sweep_q4_0,
            [NF_Q4_1] = sweep_q4_1,
            [NF_Q5_0] = sweep_q5_0,
            [NF_Q5_1] = sweep_q5_1,
            [NF_Q8_0] = sweep_q8_0,
            [NF_IQ4_NL] = sweep_iq4_nl,
            [NF_Q4_K] = sweep_q4_k,
            [NF_Q5_K] = sweep_q5_k,
            [NF_Q6_K] = sweep_q6_k,
        },
    .float_f32 = float_f32,
    .float_f16 = float_f16,
    .float_bf16 = float_bf16,
    .float_tokens_max = TOKENS_MAX,
};

#endif
