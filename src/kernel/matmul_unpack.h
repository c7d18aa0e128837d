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

/* ---- formats with 32 columns a block -------------------------------------------------------------------------------
 */

static void unpack_q4_0(const uint16_t *halves, const uint32_t *words, uint32_t group_begin, uint32_t groups,
                        struct matmul_panel *panel)
{
    for (uint32_t g = 0; g < groups; g++) {
        const uint32_t *w = words + (uint64_t)(group_begin + g) * 4 * TILE_ROWS;
        unpack_halves(panel->scales[g], halves + (uint64_t)(group_begin + g) * TILE_ROWS);
        UNROLL
        for (uint32_t j = 0; j < 4; j++) {
            low_nibbles(panel->quants[g * 8 + j], w + j * TILE_ROWS);
            high_nibbles(panel->quants[g * 8 + 4 + j], w + j * TILE_ROWS);
        }
    }
}

static void unpack_q4_1(const uint16_t *halves, const uint32_t *words, uint32_t group_begin, uint32_t groups,
                        struct matmul_panel *panel)
{
    for (uint32_t g = 0; g < groups; g++) {
        const uint32_t *w = words + (uint64_t)(group_begin + g) * 4 * TILE_ROWS;
        const uint16_t *h = halves + (uint64_t)(group_begin + g) * 2 * TILE_ROWS;
        unpack_halves(panel->scales[g], h);
        unpack_halves(panel->minima[g], h + TILE_ROWS);
        UNROLL
        for (uint32_t j = 0; j < 4; j++) {
            low_nibbles(panel->quants[g * 8 + j], w + j * TILE_ROWS);
            high_nibbles(panel->quants[g * 8 + 4 + j], w + j * TILE_ROWS);
        }
    }
}

UNPACK_INLINE void unpack_five_bits(const uint32_t *w, uint32_t (*quants)[TILE_ROWS])
{
    UNROLL
    for (uint32_t j = 0; j < 4; j++) {
        low_and_fifth(quants[j], w + (1 + j) * TILE_ROWS, w, j);
        high_and_fifth(quants[4 + j], w + (1 + j) * TILE_ROWS, w, 4 + j);
    }
}

static void unpack_q5_0(const uint16_t *halves, const uint32_t *words, uint32_t group_begin, uint32_t groups,
                        struct matmul_panel *panel)
{
    for (uint32_t g = 0; g < groups; g++) {
        unpack_halves(panel->scales[g], halves + (uint64_t)(group_begin + g) * TILE_ROWS);
        unpack_five_bits(words + (uint64_t)(group_begin + g) * 5 * TILE_ROWS, panel->quants + g * 8);
    }
}

static void unpack_q5_1(const uint16_t *halves, const uint32_t *words, uint32_t group_begin, uint32_t groups,
                        struct matmul_panel *panel)
{
    for (uint32_t g = 0; g < groups; g++) {
        const uint16_t *h = halves + (uint64_t)(group_begin + g) * 2 * TILE_ROWS;
        unpack_halves(panel->scales[g], h);
        unpack_halves(panel->minima[g], h + TILE_ROWS);
        unpack_five_bits(words + (uint64_t)(group_begin + g) * 5 * TILE_ROWS, panel->quants + g * 8);
    }
}

static void unpack_q8_0(const uint16_t *halves, const uint32_t *words, uint32_t group_begin, uint32_t groups,
                        struct matmul_panel *panel)
{
    for (uint32_t g = 0; g < groups; g++) {
        const uint32_t *w = words + (uint64_t)(group_begin + g) * 8 * TILE_ROWS;
        unpack_halves(panel->scales[g], halves + (uint64_t)(group_begin + g) * TILE_ROWS);
        UNROLL
        for (uint32_t j = 0; j < 8; j++)
            LANES WORDS(panel->quants[g * 8 + j]) = IN(w + j * TILE_ROWS) ^ UNPACK_FLIP * 0x01010101u;
    }
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

static void unpack_iq4_nl(const uint16_t *halves, const uint32_t *words, uint32_t group_begin, uint32_t groups,
                          struct matmul_panel *panel)
{
    for (uint32_t g = 0; g < groups; g++) {
        unpack_halves(panel->scales[g], halves + (uint64_t)(group_begin + g) * TILE_ROWS);
        unpack_iq4(words + (uint64_t)(group_begin + g) * 4 * TILE_ROWS, panel->quants + g * 8);
    }
}

/* ---- formats with 256 columns a block ------------------------------------------------------------------------------
 */

#define BLOCK_GROUPS 8u

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

static void unpack_q4_k(const uint16_t *halves, const uint32_t *words, uint32_t group_begin, uint32_t groups,
                        struct matmul_panel *panel)
{
    for (uint32_t g = 0; g < groups; g += BLOCK_GROUPS) {
        uint64_t block = (group_begin + g) / BLOCK_GROUPS;
        const uint32_t *w = words + block * 35 * TILE_ROWS;
        unpack_scales_k4(halves + block * 2 * TILE_ROWS, w, panel->scales + g, panel->minima + g);
        w += 3 * TILE_ROWS;
        UNROLL
        for (uint32_t pair = 0; pair < 4; pair++) {
            uint32_t(*q)[TILE_ROWS] = panel->quants + (g + 2 * pair) * 8;
            UNROLL
            for (uint32_t j = 0; j < 8; j++, w += TILE_ROWS) {
                low_nibbles(q[j], w);
                high_nibbles(q[8 + j], w);
            }
        }
    }
}

static void unpack_q5_k(const uint16_t *halves, const uint32_t *words, uint32_t group_begin, uint32_t groups,
                        struct matmul_panel *panel)
{
    for (uint32_t g = 0; g < groups; g += BLOCK_GROUPS) {
        uint64_t block = (group_begin + g) / BLOCK_GROUPS;
        const uint32_t *w = words + block * 43 * TILE_ROWS, *fifth = w + 3 * TILE_ROWS;
        unpack_scales_k4(halves + block * 2 * TILE_ROWS, w, panel->scales + g, panel->minima + g);
        w += 11 * TILE_ROWS;
        UNROLL
        for (uint32_t pair = 0; pair < 4; pair++) {
            uint32_t(*q)[TILE_ROWS] = panel->quants + (g + 2 * pair) * 8;
            UNROLL
            for (uint32_t j = 0; j < 8; j++, w += TILE_ROWS) {
                low_and_fifth(q[j], w, fifth + j * TILE_ROWS, 2 * pair);
                high_and_fifth(q[8 + j], w, fifth + j * TILE_ROWS, 2 * pair + 1);
            }
        }
    }
}

/* Q6_K words: 32 of low nibbles, 16 of high bit pairs, 4 of signed scales. */
static void unpack_q6_k(const uint16_t *halves, const uint32_t *words, uint32_t group_begin, uint32_t groups,
                        struct matmul_panel *panel)
{
    _Alignas(64) float d[TILE_ROWS];
    for (uint32_t g = 0; g < groups; g += BLOCK_GROUPS) {
        uint64_t block = (group_begin + g) / BLOCK_GROUPS;
        const uint32_t *w = words + block * 52 * TILE_ROWS;
        unpack_halves(d, halves + block * TILE_ROWS);
        UNROLL
        for (uint32_t s = 0; s < 16; s++) {
            const uint32_t *bytes = w + (48 + s / 4) * TILE_ROWS;
            LANES FLOATS(panel->scales[2 * g + s]) =
                FLOATS(d) * TO_FLOATS((unpack_ints)(IN(bytes) << (24 - 8 * (s % 4))) >> 24);
        }
        UNROLL
        for (uint32_t half = 0; half < 2; half++) {
            uint32_t(*q)[TILE_ROWS] = panel->quants + (g + 4 * half) * 8;
            UNROLL
            for (uint32_t j = 0; j < 8; j++) {
                const uint32_t *a = w + (16 * half + j) * TILE_ROWS, *b = a + 8 * TILE_ROWS;
                const uint32_t *high = w + (32 + 8 * half + j) * TILE_ROWS;
                LANES
                {
                    WORDS(q[j]) = (IN(a) & NIBBLES) | (IN(high) << 4 & 0x30303030u);
                    WORDS(q[8 + j]) = (IN(b) & NIBBLES) | (IN(high) << 2 & 0x30303030u);
                    WORDS(q[16 + j]) = (IN(a) >> 4 & NIBBLES) | (IN(high) & 0x30303030u);
                    WORDS(q[24 + j]) = (IN(b) >> 4 & NIBBLES) | (IN(high) >> 2 & 0x30303030u);
                }
            }
        }
    }
}

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
