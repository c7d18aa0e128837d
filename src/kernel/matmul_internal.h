/* matmul_internal.h - layouts and contracts that packing, input_prepare and the matmuls share.
 *
 * A packed matrix is a row of tiles of 16 rows. The tile of a quantised matrix is the file's own blocks, transposed:
 *
 *     halves [blocks][h][16]   the h f16 fields of each block (scale, minimum), padded to 64 bytes
 *     words  [blocks][w][16]   the other fields of each block as w 32-bit words: lane = row
 *
 * so that nothing grows and nothing is requantised, and one 64-byte register holds the same word of 16 rows. (The only
 * bytes changed are Q5_0's and Q5_1's fifth bits, which are put in the order in which Q5_K has them.) The tile of a
 * float matrix is [columns][16] elements.
 *
 * matmul walks a tile in panels of at most PANEL_GROUPS groups of 32 columns: `unpack` (plain C, matmul_unpack.h,
 * compiled once per instruction set) turns packed words into unsigned bytes and f32 scales, which a `micro` kernel
 * multiplies with the tokens, continuing the chains that `out` holds. The bytes are quant + offset; the chain of one
 * output is, from f = 0,
 *
 *     for each 32 columns, ascending:
 *         dot = sum of byte * x - offset * sum of x               exact, int32; of each 16 where those have scales
 *         p   = dot * scale                                       or, with two scales: fma(dot[1], scale[1],
 *                                                                                          dot[0] * scale[0])
 *         f   = fma(p, x_scale, f)
 *         f   = fma(minimum, (float)(sum of x) * x_scale, f)      only in formats with minima; of each 16 likewise
 *
 * then, where the call asks for it, f + bias, and that added to the sum. It is the same for every instruction set: all
 * tables give the same bits for quantised weights, and for float weights (f = fma(w, x, f), columns ascending).
 *
 * dot becomes a float without a conversion: the integer chain starts at DOT_START less offset * sum of x, so that its
 * bits, read as f32, are DOT_ZERO + dot (|dot| < 2^22). And dot * scale is fma(DOT_ZERO + dot, scale, -DOT_ZERO *
 * scale), with the one rounding of the product, because DOT_ZERO * scale is exact: a scale is an f16 times a small
 * integer, 19 bits at most, and DOT_ZERO is 3 * 2^22. (Where a hostile file's scale is not finite the result is a NaN,
 * in every table.) */
#ifndef KERNEL_MATMUL_INTERNAL_H
#define KERNEL_MATMUL_INTERNAL_H
#include "kernel/kernel.h"

#define TILE_ROWS 16u
#define GROUP_COLUMNS 32u
#define PANEL_GROUPS 16u
#define BRIEF_TOKENS 16u                /* of a tile of AMX */
#define INPUT_TOKENS KERNEL_INPUT_BLOCK /* tokens that a kernel_input_group interleaves */

/* Before a loop of constant count whose arrays of vectors must become registers. Sanitizers put calls into loops, which
 * then cannot be unrolled; compilers would warn. */
#ifdef __has_feature
#define UNROLL_HINDERED (__has_feature(address_sanitizer) || __has_feature(thread_sanitizer))
#elif defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define UNROLL_HINDERED 1
#else
#define UNROLL_HINDERED 0
#endif
#if !defined(__OPTIMIZE__) || UNROLL_HINDERED
#define UNROLL
#elif defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif
/* Keeps a running integer sum in one register: without it gcc turns the chain of adds into a tree of spilled terms. */
#define KEEP_SUM(vector) __asm__("" : "+v"(vector))

#define DOT_START 0x4b400000 /* the bits of DOT_ZERO */
#define DOT_ZERO 12582912.0f

/* 32 elements of 4 tokens, interleaved so that the bytes of a tile's tokens lie at constant distances, and where their
 * integer chains start: DOT_START - offset * (sum of quants), for each offset in use. */
struct kernel_input_group {
    int8_t quants[8][INPUT_TOKENS][4];
    float scales[INPUT_TOKENS];
    float weighted[INPUT_TOKENS]; /* (sum of 32 quants) * scale */
    int32_t starts_8[INPUT_TOKENS], starts_16[INPUT_TOKENS], starts_128[INPUT_TOKENS];
};
/* The same of each 16 elements, for formats with a scale per 16. Apart, so that the others need not read past it. */
struct kernel_input_halves {
    float weighted[2][INPUT_TOKENS];
    int32_t starts_4[2][INPUT_TOKENS], starts_32[2][INPUT_TOKENS];
};

/* Where a block's fields are in the file: `halves` f16 from half_at, `words` 32-bit words from word_at. */
struct tile_format {
    uint8_t halves, half_at, words, word_at;
};
const struct tile_format *tile_format(enum number_format format);    /* all zero for float formats */
uint64_t tile_words_at(enum number_format format, uint32_t columns); /* bytes of a tile's halves, padded */
uint64_t tile_bytes(enum number_format format, uint32_t columns);

/* One panel of a tile, unpacked. Scales and (negative) minima: one row of 16 lanes per scale group. */
struct matmul_panel {
    /* Rows of four bytes each, columns ascending: 8 a group. In KIND_WIDE 16 rows of two int16: of each four columns
     * the first and third, then the second and fourth. */
    _Alignas(64) uint32_t quants[PANEL_GROUPS * 16][TILE_ROWS];
    float scales[PANEL_GROUPS * 2][TILE_ROWS];
    float minima[PANEL_GROUPS * 2][TILE_ROWS];
};
/* Unpacks `groups` groups of 32 columns beginning with group_begin (a multiple of the block's groups). */
typedef void matmul_unpack_fn(const uint16_t *halves, const uint32_t *words, uint32_t group_begin, uint32_t groups,
                              struct matmul_panel *panel);

/* How a format's bytes become a chain. */
enum matmul_kind {
    KIND_OFFSET_8,       /* Q4_0, 4 bits */
    KIND_OFFSET_16,      /* Q5_0, 5 bits */
    KIND_OFFSET_128,     /* Q8_0, IQ4_NL, IQ4_XS, 8 bits */
    KIND_MINIMUM_4,      /* Q4_1, Q4_K, 4 bits */
    KIND_MINIMUM_5,      /* Q5_1, Q5_K, 5 bits */
    KIND_HALF_OFFSET_4,  /* Q3_K, 3 bits, a scale per 16 */
    KIND_HALF_OFFSET_32, /* Q6_K, 6 bits, a scale per 16 */
    KIND_HALF_MINIMUM,   /* Q2_K, 2 bits, a scale and a minimum per 16 */
    KIND_WIDE,           /* KIND_OFFSET_128 for many tokens, where `widen` makes int16 of its bytes */
    KIND_COUNT
};

enum matmul_kind matmul_kind(enum number_format format); /* a quantised one */

/* Where the chains of a tile's rows go: `out`, or, when there is a `sum`, added to that. */
struct matmul_result {
    float *out; /* [tokens, out_stride] */
    uint64_t out_stride;
    uint32_t rows;     /* 16, or fewer in the last tile */
    const float *bias; /* [rows], or NULL */
    float *sum;        /* [tokens, sum_stride], or NULL */
    uint64_t sum_stride;
};

/* One call of a micro kernel: a panel times 1...tokens_max tokens. Tokens are `lane`, lane + 1 ... of the first block
 * of 4; a count of 4 or more begins at lane 0 and is a multiple of 4. */
struct matmul_call {
    const struct matmul_panel *panel;
    uint32_t groups;
    const struct kernel_input_group *input;   /* first group of the panel, first block of tokens */
    const struct kernel_input_halves *halves; /* the same */
    uint64_t block_stride;                    /* groups from one block of 4 tokens to the next */
    uint32_t lane, tokens;
    bool first; /* the chains begin at 0, not at what `result.out` holds */
    struct matmul_result result;
    /* Bytes that will be wanted soon: `prefetch_lines` cache lines for every group of this call, 0 for none. */
    uintptr_t prefetch;
    uint32_t prefetch_lines;
};
/* Called once a group: spreads the requests over the arithmetic, for the second-level cache. */
static inline void prefetch_share(const struct matmul_call *call, uint32_t group)
{
    uintptr_t at = call->prefetch + (uintptr_t)group * call->prefetch_lines * 64;
    for (uint32_t i = 0; i < call->prefetch_lines; i++, at += 64) __builtin_prefetch((const void *)at, 0, 2);
}
typedef void matmul_micro_fn(const struct matmul_call *call);
/* A whole tile times 1...SWEEP_TOKENS tokens: what a panel would hold stays in registers. `call` has no panel. */
#define SWEEP_TOKENS 8u
typedef void matmul_sweep_fn(const uint16_t *halves, const uint32_t *words, const struct matmul_call *call);

/* A whole tile of float weights times 1...tokens_max tokens. */
struct matmul_float_call {
    const void *tile; /* [columns][16] */
    const float *input;
    uint64_t input_stride;
    uint32_t columns, tokens;
    struct matmul_result result;
};
typedef void matmul_float_fn(const struct matmul_float_call *call);

/* What a call takes at most is 4, 8 or 12 tokens. */
struct matmul_set {
    matmul_unpack_fn *const *unpack;                            /* [NF_COUNT] */
    void (*widen)(struct matmul_panel *panel, uint32_t groups); /* KIND_OFFSET_128's bytes to int16, or NULL */
    struct {
        matmul_micro_fn *run;
        uint32_t tokens_max;
    } micro[KIND_COUNT];
    matmul_sweep_fn *sweep[NF_COUNT]; /* or NULL */
    matmul_float_fn *float_f32, *float_f16, *float_bf16;
    uint32_t float_tokens_max;
};
/* kernel_matmul_* of the set. */
void matmul_run(const struct matmul_set *set, const struct kernel_matrix *weights, const struct kernel_input *input,
                uint32_t token_begin, uint32_t token_end, uint32_t row_begin, uint32_t row_end,
                const struct kernel_output *output);

#endif
