/* matmul_unpack.h - packed words to unsigned bytes and f32 scales, in plain C that compilers turn into vectors.
 *
 * Included once by the matmul file of each instruction set, which first defines
 *     static inline void unpack_halves(float *out, const uint16_t *in)      16 f16 to f32
 *     static inline void unpack_levels(uint32_t *out, const uint32_t *in)   16 words of four nibbles (one a byte) to
 *                                                                           IQ4 levels + 128
 * Every loop over LANES works on one 64-byte row of 16 words; bytes of a word never carry into each other because each
 * shift is followed by a mask. Which word holds which element: decoders in number_format.c. */
#ifndef KERNEL_MATMUL_UNPACK_H
#define KERNEL_MATMUL_UNPACK_H
#include "kernel/matmul_internal.h"

#define LANES(l) for (uint32_t l = 0; l < TILE_ROWS; l++)
#define NIBBLES 0x0f0f0f0fu
#define UNPACK_INLINE static inline __attribute__((always_inline))

UNPACK_INLINE void low_nibbles(uint32_t *restrict out, const uint32_t *restrict in)
{
    LANES(l) out[l] = in[l] & NIBBLES;
}
UNPACK_INLINE void high_nibbles(uint32_t *restrict out, const uint32_t *restrict in)
{
    LANES(l) out[l] = in[l] >> 4 & NIBBLES;
}
/* Nibbles and, above them, bit `bit` of each byte of `fifth`. */
UNPACK_INLINE void low_and_fifth(uint32_t *restrict out, const uint32_t *restrict in, const uint32_t *restrict fifth,
                                 uint32_t bit)
{
    LANES(l) out[l] = (in[l] & NIBBLES) | (fifth[l] >> bit & 0x01010101u) << 4;
}
UNPACK_INLINE void high_and_fifth(uint32_t *restrict out, const uint32_t *restrict in, const uint32_t *restrict fifth,
                                  uint32_t bit)
{
    LANES(l) out[l] = (in[l] >> 4 & NIBBLES) | (fifth[l] >> bit & 0x01010101u) << 4;
}
/* scale * (byte `index` of each word + bias) */
UNPACK_INLINE void scale_by_byte(float *restrict out, const float *restrict scale, const uint32_t *restrict bytes,
                                 uint32_t index, uint32_t mask, int32_t bias)
{
    LANES(l) out[l] = scale[l] * (float)((int32_t)(bytes[l] >> (8 * index) & mask) + bias);
}

/* ---- formats with 32 columns a block -------------------------------------------------------------------------------
 */

static void unpack_q4_0(const uint16_t *halves, const uint32_t *words, uint32_t group_begin, uint32_t groups,
                        struct matmul_panel *panel)
{
    for (uint32_t g = 0; g < groups; g++) {
        const uint32_t *w = words + (uint64_t)(group_begin + g) * 4 * TILE_ROWS;
        unpack_halves(panel->scales[g], halves + (uint64_t)(group_begin + g) * TILE_ROWS);
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
        for (uint32_t j = 0; j < 4; j++) {
            low_nibbles(panel->quants[g * 8 + j], w + j * TILE_ROWS);
            high_nibbles(panel->quants[g * 8 + 4 + j], w + j * TILE_ROWS);
        }
    }
}

UNPACK_INLINE void unpack_five_bits(const uint32_t *w, uint32_t (*quants)[TILE_ROWS])
{
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
        for (uint32_t j = 0; j < 8; j++) LANES(l) panel->quants[g * 8 + j][l] = w[j * TILE_ROWS + l] ^ 0x80808080u;
    }
}

UNPACK_INLINE void unpack_iq4(const uint32_t *w, uint32_t (*quants)[TILE_ROWS])
{
    _Alignas(64) uint32_t nibbles[TILE_ROWS];
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
    LANES(l)
    {
        s[0][l] = w[l] & 0x3f3f3f3fu;
        m[0][l] = w1[l] & 0x3f3f3f3fu;
        s[1][l] = (w2[l] & NIBBLES) | (w[l] >> 2 & 0x30303030u);
        m[1][l] = (w2[l] >> 4 & NIBBLES) | (w1[l] >> 2 & 0x30303030u);
        dmin[l] = -dmin[l];
    }
    for (uint32_t i = 0; i < BLOCK_GROUPS; i++) {
        scale_by_byte(scales[i], d, s[i / 4], i % 4, 0xff, 0);
        scale_by_byte(minima[i], dmin, m[i / 4], i % 4, 0xff, 0);
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
        for (uint32_t pair = 0; pair < 4; pair++) {
            uint32_t(*q)[TILE_ROWS] = panel->quants + (g + 2 * pair) * 8;
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
        for (uint32_t pair = 0; pair < 4; pair++) {
            uint32_t(*q)[TILE_ROWS] = panel->quants + (g + 2 * pair) * 8;
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
        for (uint32_t s = 0; s < 16; s++) {
            const uint32_t *bytes = w + (48 + s / 4) * TILE_ROWS;
            LANES(l) panel->scales[2 * g + s][l] = d[l] * (float)((int32_t)(bytes[l] << (24 - 8 * (s % 4))) >> 24);
        }
        for (uint32_t half = 0; half < 2; half++) {
            uint32_t(*q)[TILE_ROWS] = panel->quants + (g + 4 * half) * 8;
            for (uint32_t j = 0; j < 8; j++) {
                const uint32_t *a = w + (16 * half + j) * TILE_ROWS, *b = a + 8 * TILE_ROWS;
                const uint32_t *high = w + (32 + 8 * half + j) * TILE_ROWS;
                LANES(l)
                {
                    q[j][l] = (a[l] & NIBBLES) | (high[l] << 4 & 0x30303030u);
                    q[8 + j][l] = (b[l] & NIBBLES) | (high[l] << 2 & 0x30303030u);
                    q[16 + j][l] = (a[l] >> 4 & NIBBLES) | (high[l] & 0x30303030u);
                    q[24 + j][l] = (b[l] >> 4 & NIBBLES) | (high[l] >> 2 & 0x30303030u);
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
        LANES(l)
        {
            uint32_t a = w[24 * TILE_ROWS + l], b = w[25 * TILE_ROWS + l], high = w[26 * TILE_ROWS + l];
            s[0][l] = (a & NIBBLES) | (high << 4 & 0x30303030u);
            s[1][l] = (b & NIBBLES) | (high << 2 & 0x30303030u);
            s[2][l] = (a >> 4 & NIBBLES) | (high & 0x30303030u);
            s[3][l] = (b >> 4 & NIBBLES) | (high >> 2 & 0x30303030u);
        }
        for (uint32_t i = 0; i < 16; i++) scale_by_byte(panel->scales[2 * g + i], d, s[i / 4], i % 4, 0xff, -32);
        for (uint32_t i = 0; i < BLOCK_GROUPS; i++)
            for (uint32_t j = 0; j < 8; j++) {
                const uint32_t *low = w + (8 + 8 * (i / 4) + j) * TILE_ROWS, *third = w + j * TILE_ROWS;
                uint32_t *q = panel->quants[(g + i) * 8 + j];
                LANES(l) q[l] = (low[l] >> (2 * (i % 4)) & 0x03030303u) | (third[l] >> i & 0x01010101u) << 2;
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
        for (uint32_t s = 0; s < 16; s++) {
            const uint32_t *bytes = w + s / 4 * TILE_ROWS;
            LANES(l)
            {
                uint32_t both = bytes[l] >> (8 * (s % 4));
                panel->scales[2 * g + s][l] = d[l] * (float)(int32_t)(both & 15);
                panel->minima[2 * g + s][l] = dmin[l] * (float)(int32_t)(both >> 4 & 15);
            }
        }
        for (uint32_t i = 0; i < BLOCK_GROUPS; i++)
            for (uint32_t j = 0; j < 8; j++) {
                const uint32_t *low = w + (4 + 8 * (i / 4) + j) * TILE_ROWS;
                LANES(l) panel->quants[(g + i) * 8 + j][l] = low[l] >> (2 * (i % 4)) & 0x03030303u;
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
        for (uint32_t i = 0; i < BLOCK_GROUPS; i++) {
            LANES(l)
            {
                uint32_t scale = (w[l] >> (4 * i) & 15) | ((uint32_t)high[l] >> (2 * i) & 3) << 4;
                panel->scales[g + i][l] = d[l] * (float)((int32_t)scale - 32);
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
