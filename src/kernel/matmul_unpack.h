/* matmul_unpack.h - packed words to unsigned bytes and f32 scales, the same text for every instruction set.
 *
 * Included once by the matmul file of each instruction set, which first defines
 *     UNPACK_VECTOR_BYTES                                                   16, 32 or 64
 *     static inline void unpack_halves(float *out, const uint16_t *in)      16 f16 to f32
 *     static inline void unpack_levels(uint32_t *out, const uint32_t *in)   16 words of four nibbles (one a byte) to
 *                                                                           IQ4 levels ^ UNPACK_FLIP
 *     UNPACK_FLIP                                                           128: quants of 8 bits become unsigned
 *                                                                           (quant + 128); 0: they stay signed
 * LANES works on one 64-byte row of 16 words; bytes of a word never carry into each other because each
 * shift is followed by a mask. Which word holds which element: decoders in number_format.c. */
#ifndef KERNEL_MATMUL_UNPACK_H
#define KERNEL_MATMUL_UNPACK_H
#include "kernel/matmul_internal.h"

/* Vectors of the includer's width (UNPACK_VECTOR_BYTES), as the compilers' own vector types: LANES() walks the 16 lanes of
 * a row, WORDS(at) and FLOATS(at) are the vector there. */
typedef uint32_t unpack_words __attribute__((vector_size(UNPACK_VECTOR_BYTES), aligned(4), may_alias));
typedef int32_t unpack_ints __attribute__((vector_size(UNPACK_VECTOR_BYTES), aligned(4), may_alias));
typedef float unpack_floats __attribute__((vector_size(UNPACK_VECTOR_BYTES), aligned(4), may_alias));
typedef uint16_t unpack_shorts __attribute__((vector_size(UNPACK_VECTOR_BYTES / 2), aligned(2), may_alias));
#define LANES UNROLL for (uint32_t l = 0; l < TILE_ROWS; l += UNPACK_VECTOR_BYTES / 4)
#define WORDS(at) (*(unpack_words *)((at) + l))
#define IN(at) (*(const unpack_words *)((at) + l))
#define FLOATS(at) (*(unpack_floats *)((at) + l))
#define TO_FLOATS(words) __builtin_convertvector((unpack_ints)(words), unpack_floats)
#define NIBBLES 0x0f0f0f0fu
#define UNPACK_INLINE static inline __attribute__((always_inline))

UNPACK_INLINE void low_nibbles(uint32_t *out, const uint32_t *in)
{
    LANES WORDS(out) = IN(in) & NIBBLES;
}
UNPACK_INLINE void high_nibbles(uint32_t *out, const uint32_t *in)
{
    LANES WORDS(out) = IN(in) >> 4 & NIBBLES;
}
/* Nibbles and, above them, bit `bit` of each byte of `fifth`. */
UNPACK_INLINE unpack_words fifth_bits(unpack_words fifth, uint32_t bit)
{
    return (bit < 4 ? fifth << (4 - bit) : fifth >> (bit - 4)) & 0x10101010u;
}
UNPACK_INLINE void low_and_fifth(uint32_t *out, const uint32_t *in, const uint32_t *fifth, uint32_t bit)
{
    LANES WORDS(out) = (IN(in) & NIBBLES) | fifth_bits(IN(fifth), bit);
}
UNPACK_INLINE void high_and_fifth(uint32_t *out, const uint32_t *in, const uint32_t *fifth, uint32_t bit)
{
    LANES WORDS(out) = (IN(in) >> 4 & NIBBLES) | fifth_bits(IN(fifth), bit);
}
/* scale * (byte `index` of each word + bias) */
UNPACK_INLINE void scale_by_byte(float *out, const float *scale, const uint32_t *bytes, uint32_t index, int32_t bias)
{
    LANES FLOATS(out) =
        *(const unpack_floats *)(scale + l) * TO_FLOATS((IN(bytes) >> (8 * index) & 0xffu) + (uint32_t)bias);
}

/* ---- scales of a block, quants of one of its groups ------------------------------------------------------------------
 * A block's words begin at `w`. */

#define BLOCK_GROUPS 8u /* where blocks have 256 columns */

UNPACK_INLINE void group_nibbles(const uint32_t *w, uint32_t (*quants)[TILE_ROWS])
{
    UNROLL
    for (uint32_t j = 0; j < 4; j++) {
        low_nibbles(quants[j], w + j * TILE_ROWS);
        high_nibbles(quants[4 + j], w + j * TILE_ROWS);
    }
}

UNPACK_INLINE void group_five_bits(const uint32_t *w, uint32_t (*quants)[TILE_ROWS])
{
    UNROLL
    for (uint32_t j = 0; j < 4; j++) {
        low_and_fifth(quants[j], w + (1 + j) * TILE_ROWS, w, j);
        high_and_fifth(quants[4 + j], w + (1 + j) * TILE_ROWS, w, 4 + j);
    }
}

UNPACK_INLINE void group_bytes(const uint32_t *w, uint32_t (*quants)[TILE_ROWS])
{
    UNROLL
    for (uint32_t j = 0; j < 8; j++) LANES WORDS(quants[j]) = IN(w + j * TILE_ROWS) ^ UNPACK_FLIP * 0x01010101u;
}

UNPACK_INLINE void unpack_iq4(const uint32_t *w, uint32_t (*quants)[TILE_ROWS])
{
    _Alignas(64) uint32_t nibbles[TILE_ROWS];
    UNROLL
    for (uint32_t j = 0; j < 4; j++) {
        low_nibbles(nibbles, w + j * TILE_ROWS);
        unpack_levels(quants[j], nibbles);
        high_nibbles(nibbles, w + j * TILE_ROWS);
        unpack_levels(quants[4 + j], nibbles);
    }
}

/* Q4_K's and Q5_K's d, dmin and 12 bytes of 6-bit scales and minima, to 8 rows of each. The minima are subtracted. */
UNPACK_INLINE void unpack_scales_k4(const uint16_t *halves, const uint32_t *w, float (*scales)[TILE_ROWS],
                                    float (*minima)[TILE_ROWS])
{
    _Alignas(64) float d[TILE_ROWS], dmin[TILE_ROWS];
    _Alignas(64) uint32_t s[2][TILE_ROWS], m[2][TILE_ROWS];
    const uint32_t *w1 = w + TILE_ROWS, *w2 = w + 2 * TILE_ROWS;
    unpack_halves(d, halves);
    unpack_halves(dmin, halves + TILE_ROWS);
    LANES
    {
        WORDS(s[0]) = IN(w) & 0x3f3f3f3fu;
        WORDS(m[0]) = IN(w1) & 0x3f3f3f3fu;
        WORDS(s[1]) = (IN(w2) & NIBBLES) | (IN(w) >> 2 & 0x30303030u);
        WORDS(m[1]) = (IN(w2) >> 4 & NIBBLES) | (IN(w1) >> 2 & 0x30303030u);
        FLOATS(dmin) = -FLOATS(dmin);
    }
    UNROLL
    for (uint32_t i = 0; i < BLOCK_GROUPS; i++) {
        scale_by_byte(scales[i], d, s[i / 4], i % 4, 0);
        scale_by_byte(minima[i], dmin, m[i / 4], i % 4, 0);
    }
}

/* Quants of group `i` of a block, whose words begin at `w`. */
UNPACK_INLINE void group_q4_k(const uint32_t *w, const uint32_t i, uint32_t (*quants)[TILE_ROWS])
{
    w += (3 + 8 * (i / 2)) * TILE_ROWS;
    UNROLL
    for (uint32_t j = 0; j < 8; j++, w += TILE_ROWS)
        if (i % 2)
            high_nibbles(quants[j], w);
        else
            low_nibbles(quants[j], w);
}

UNPACK_INLINE void group_q5_k(const uint32_t *w, const uint32_t i, uint32_t (*quants)[TILE_ROWS])
{
    const uint32_t *fifth = w + 3 * TILE_ROWS;
    w += (11 + 8 * (i / 2)) * TILE_ROWS;
    UNROLL
    for (uint32_t j = 0; j < 8; j++, w += TILE_ROWS, fifth += TILE_ROWS)
        if (i % 2)
            high_and_fifth(quants[j], w, fifth, i);
        else
            low_and_fifth(quants[j], w, fifth, i);
}

/* Q6_K words: 32 of low nibbles, 16 of high bit pairs, 4 of signed scales. */
UNPACK_INLINE void scales_q6_k(const uint16_t *halves, const uint32_t *w, float (*scales)[TILE_ROWS])
{
    _Alignas(64) float d[TILE_ROWS];
    unpack_halves(d, halves);
    UNROLL
    for (uint32_t s = 0; s < 16; s++) {
        const uint32_t *bytes = w + (48 + s / 4) * TILE_ROWS;
        LANES FLOATS(scales[s]) = FLOATS(d) * TO_FLOATS((unpack_ints)(IN(bytes) << (24 - 8 * (s % 4))) >> 24);
    }
}

UNPACK_INLINE void group_q6_k(const uint32_t *w, const uint32_t i, uint32_t (*quants)[TILE_ROWS])
{
    const uint32_t *low = w + (16 * (i / 4) + 8 * (i % 2)) * TILE_ROWS, *high = w + (32 + 8 * (i / 4)) * TILE_ROWS;
    UNROLL
    for (uint32_t j = 0; j < 8; j++, low += TILE_ROWS, high += TILE_ROWS) LANES
        {
            const unpack_words pairs = i % 4 < 2 ? IN(high) << (4 - 2 * (i % 4)) : IN(high) >> (2 * (i % 4) - 4);
            WORDS(quants[j]) = ((i % 4 < 2 ? IN(low) : IN(low) >> 4) & NIBBLES) | (pairs & 0x30303030u);
        }
}

/* What the functions below unpack; constants, so that nothing of it is left. */
struct unpack_format {
    enum number_format format;
    uint32_t groups, halves, words; /* of a block; halves and words of 16 lanes */
    uint32_t scales;                /* of a group */
};

UNPACK_INLINE void block_scales(const struct unpack_format f, const uint16_t *halves, const uint32_t *w,
                                float (*scales)[TILE_ROWS], float (*minima)[TILE_ROWS])
{
    if (f.format == NF_Q6_K) {
        scales_q6_k(halves, w, scales);
    } else if (f.groups == BLOCK_GROUPS) {
        unpack_scales_k4(halves, w, scales, minima);
    } else {
        unpack_halves(scales[0], halves);
        if (f.halves == 2) unpack_halves(minima[0], halves + TILE_ROWS);
    }
}

UNPACK_INLINE void block_group(const struct unpack_format f, const uint32_t *w, const uint32_t i,
                               uint32_t (*quants)[TILE_ROWS])
{
    switch (f.format) {
    case NF_Q6_K:
        group_q6_k(w, i, quants);
        break;
    case NF_Q5_K:
        group_q5_k(w, i, quants);
        break;
    case NF_Q4_K:
        group_q4_k(w, i, quants);
        break;
    case NF_IQ4_NL:
        unpack_iq4(w, quants);
        break;
    case NF_Q8_0:
        group_bytes(w, quants);
        break;
    case NF_Q5_0:
    case NF_Q5_1:
        group_five_bits(w, quants);
        break;
    default:
        group_nibbles(w, quants);
        break;
    }
}

UNPACK_INLINE void unpack_blocks(const struct unpack_format f, const uint16_t *halves, const uint32_t *words,
                                 uint32_t group_begin, uint32_t groups, struct matmul_panel *panel)
{
    halves += (uint64_t)group_begin / f.groups * f.halves * TILE_ROWS;
    words += (uint64_t)group_begin / f.groups * f.words * TILE_ROWS;
    for (uint32_t g = 0; g < groups; g += f.groups) {
        block_scales(f, halves, words, panel->scales + f.scales * g, panel->minima + g);
        UNROLL
        for (uint32_t i = 0; i < f.groups; i++) block_group(f, words, i, panel->quants + (g + i) * 8);
        halves += f.halves * TILE_ROWS;
        words += f.words * TILE_ROWS;
    }
}

/* clang-format off */
#define UNPACK_Q4_0     ((struct unpack_format){NF_Q4_0,   .groups = 1, .halves = 1, .words =  4, .scales = 1})
#define UNPACK_Q4_1     ((struct unpack_format){NF_Q4_1,   .groups = 1, .halves = 2, .words =  4, .scales = 1})
#define UNPACK_Q5_0     ((struct unpack_format){NF_Q5_0,   .groups = 1, .halves = 1, .words =  5, .scales = 1})
#define UNPACK_Q5_1     ((struct unpack_format){NF_Q5_1,   .groups = 1, .halves = 2, .words =  5, .scales = 1})
#define UNPACK_Q8_0     ((struct unpack_format){NF_Q8_0,   .groups = 1, .halves = 1, .words =  8, .scales = 1})
#define UNPACK_IQ4_NL   ((struct unpack_format){NF_IQ4_NL, .groups = 1, .halves = 1, .words =  4, .scales = 1})
#define UNPACK_Q4_K     ((struct unpack_format){NF_Q4_K,   .groups = 8, .halves = 2, .words = 35, .scales = 1})
#define UNPACK_Q5_K     ((struct unpack_format){NF_Q5_K,   .groups = 8, .halves = 2, .words = 43, .scales = 1})
#define UNPACK_Q6_K     ((struct unpack_format){NF_Q6_K,   .groups = 8, .halves = 1, .words = 52, .scales = 2})
/* clang-format on */

static void unpack_q4_0(const uint16_t *halves, const uint32_t *words, uint32_t group_begin, uint32_t groups,
                        struct matmul_panel *panel)
{
    unpack_blocks(UNPACK_Q4_0, halves, words, group_begin, groups, panel);
}
static void unpack_q4_1(const uint16_t *halves, const uint32_t *words, uint32_t group_begin, uint32_t groups,
                        struct matmul_panel *panel)
{
    unpack_blocks(UNPACK_Q4_1, halves, words, group_begin, groups, panel);
}
static void unpack_q5_0(const uint16_t *halves, const uint32_t *words, uint32_t group_begin, uint32_t groups,
                        struct matmul_panel *panel)
{
    unpack_blocks(UNPACK_Q5_0, halves, words, group_begin, groups, panel);
}
static void unpack_q5_1(const uint16_t *halves, const uint32_t *words, uint32_t group_begin, uint32_t groups,
                        struct matmul_panel *panel)
{
    unpack_blocks(UNPACK_Q5_1, halves, words, group_begin, groups, panel);
}
static void unpack_q8_0(const uint16_t *halves, const uint32_t *words, uint32_t group_begin, uint32_t groups,
                        struct matmul_panel *panel)
{
    unpack_blocks(UNPACK_Q8_0, halves, words, group_begin, groups, panel);
}
static void unpack_iq4_nl(const uint16_t *halves, const uint32_t *words, uint32_t group_begin, uint32_t groups,
                          struct matmul_panel *panel)
{
    unpack_blocks(UNPACK_IQ4_NL, halves, words, group_begin, groups, panel);
}
static void unpack_q4_k(const uint16_t *halves, const uint32_t *words, uint32_t group_begin, uint32_t groups,
                        struct matmul_panel *panel)
{
    unpack_blocks(UNPACK_Q4_K, halves, words, group_begin, groups, panel);
}
static void unpack_q5_k(const uint16_t *halves, const uint32_t *words, uint32_t group_begin, uint32_t groups,
                        struct matmul_panel *panel)
{
    unpack_blocks(UNPACK_Q5_K, halves, words, group_begin, groups, panel);
}
static void unpack_q6_k(const uint16_t *halves, const uint32_t *words, uint32_t group_begin, uint32_t groups,
                        struct matmul_panel *panel)
{
    unpack_blocks(UNPACK_Q6_K, halves, words, group_begin, groups, panel);
}

/* ---- formats that are unpacked by the panel only ------------------------------------------------------------------- */

/* Q3_K words: 8 of third bits, 16 of bit pairs, 3 of 6-bit scales less 32. */
static void unpack_q3_k(const uint16_t *halves, const uint32_t *words, uint32_t group_begin, uint32_t groups,
                        struct matmul_panel *panel)
{
    _Alignas(64) float d[TILE_ROWS];
    _Alignas(64) uint32_t s[4][TILE_ROWS];
    for (uint32_t g = 0; g < groups; g += BLOCK_GROUPS) {
        uint64_t block = (group_begin + g) / BLOCK_GROUPS;
        const uint32_t *w = words + block * 27 * TILE_ROWS;
        unpack_halves(d, halves + block * TILE_ROWS);
        LANES
        {
            const unpack_words a = IN(w + 24 * TILE_ROWS), b = IN(w + 25 * TILE_ROWS), high = IN(w + 26 * TILE_ROWS);
            WORDS(s[0]) = (a & NIBBLES) | (high << 4 & 0x30303030u);
            WORDS(s[1]) = (b & NIBBLES) | (high << 2 & 0x30303030u);
            WORDS(s[2]) = (a >> 4 & NIBBLES) | (high & 0x30303030u);
            WORDS(s[3]) = (b >> 4 & NIBBLES) | (high >> 2 & 0x30303030u);
        }
        UNROLL
        for (uint32_t i = 0; i < 16; i++) scale_by_byte(panel->scales[2 * g + i], d, s[i / 4], i % 4, -32);
        UNROLL
        for (uint32_t i = 0; i < BLOCK_GROUPS; i++) UNROLL
        for (uint32_t j = 0; j < 8; j++) {
            const uint32_t *low = w + (8 + 8 * (i / 4) + j) * TILE_ROWS, *third = w + j * TILE_ROWS;
            uint32_t *q = panel->quants[(g + i) * 8 + j];
            LANES WORDS(q) = (IN(low) >> (2 * (i % 4)) & 0x03030303u) | (IN(third) >> i & 0x01010101u) << 2;
        }
    }
}

/* Q2_K words: 4 of 4-bit scales and minima, 16 of bit pairs. */
static void unpack_q2_k(const uint16_t *halves, const uint32_t *words, uint32_t group_begin, uint32_t groups,
                        struct matmul_panel *panel)
{
    _Alignas(64) float d[TILE_ROWS], dmin[TILE_ROWS];
    for (uint32_t g = 0; g < groups; g += BLOCK_GROUPS) {
        uint64_t block = (group_begin + g) / BLOCK_GROUPS;
        const uint32_t *w = words + block * 20 * TILE_ROWS;
        unpack_halves(d, halves + block * 2 * TILE_ROWS);
        unpack_halves(dmin, halves + (block * 2 + 1) * TILE_ROWS);
        LANES FLOATS(dmin) = -FLOATS(dmin);
        UNROLL
        for (uint32_t s = 0; s < 16; s++) {
            const uint32_t *bytes = w + s / 4 * TILE_ROWS;
            LANES
            {
                const unpack_words both = IN(bytes) >> (8 * (s % 4));
                FLOATS(panel->scales[2 * g + s]) = FLOATS(d) * TO_FLOATS(both & 15u);
                FLOATS(panel->minima[2 * g + s]) = FLOATS(dmin) * TO_FLOATS(both >> 4 & 15u);
            }
        }
        UNROLL
        for (uint32_t i = 0; i < BLOCK_GROUPS; i++) UNROLL
        for (uint32_t j = 0; j < 8; j++) {
            const uint32_t *low = w + (4 + 8 * (i / 4) + j) * TILE_ROWS;
            LANES WORDS(panel->quants[(g + i) * 8 + j]) = IN(low) >> (2 * (i % 4)) & 0x03030303u;
        }
    }
}

/* IQ4_XS halves: d, two high bits of each scale; words: four low bits of each scale, then 4 of nibbles a group. */
static void unpack_iq4_xs(const uint16_t *halves, const uint32_t *words, uint32_t group_begin, uint32_t groups,
                          struct matmul_panel *panel)
{
    _Alignas(64) float d[TILE_ROWS];
    for (uint32_t g = 0; g < groups; g += BLOCK_GROUPS) {
        uint64_t block = (group_begin + g) / BLOCK_GROUPS;
        const uint32_t *w = words + block * 33 * TILE_ROWS;
        const uint16_t *high = halves + (block * 2 + 1) * TILE_ROWS;
        unpack_halves(d, halves + block * 2 * TILE_ROWS);
        UNROLL
        for (uint32_t i = 0; i < BLOCK_GROUPS; i++) {
            LANES
            {
                const unpack_words two = __builtin_convertvector(*(const unpack_shorts *)(high + l), unpack_words);
                const unpack_words scale = (IN(w) >> (4 * i) & 15u) | (two >> (2 * i) & 3u) << 4;
                FLOATS(panel->scales[g + i]) = FLOATS(d) * TO_FLOATS(scale - 32u);
            }
            unpack_iq4(w + (1 + 4 * i) * TILE_ROWS, panel->quants + (g + i) * 8);
        }
    }
}

static matmul_unpack_fn *const unpack_table[NF_COUNT] = {
    [NF_Q4_0] = unpack_q4_0, [NF_Q4_1] = unpack_q4_1, [NF_Q5_0] = unpack_q5_0,     [NF_Q5_1] = unpack_q5_1,
    [NF_Q8_0] = unpack_q8_0, [NF_Q2_K] = unpack_q2_k, [NF_Q3_K] = unpack_q3_k,     [NF_Q4_K] = unpack_q4_k,
    [NF_Q5_K] = unpack_q5_k, [NF_Q6_K] = unpack_q6_k, [NF_IQ4_NL] = unpack_iq4_nl, [NF_IQ4_XS] = unpack_iq4_xs,
};

#endif
