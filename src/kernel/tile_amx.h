/* tile_amx.h - the eight tile registers of AMX, all of 16 rows of 64 bytes, and the pairs of bf16 that their products take; for the
 * files that are compiled for it. */
#ifndef KERNEL_TILE_AMX_H
#define KERNEL_TILE_AMX_H
#include <immintrin.h>
#include <stdint.h>

struct tile_shapes {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
};
static const struct tile_shapes tile_shapes_whole = {
    .palette = 1, .row_bytes = {64, 64, 64, 64, 64, 64, 64, 64}, .rows = {16, 16, 16, 16, 16, 16, 16, 16}};

/* Of lane i of `low` and `high`, as bf16 to nearest even: the pair i of the result, low's first. */
static inline __attribute__((always_inline)) __m512i pairs_to_bf16(__m512 low, __m512 high)
{
    const __m512i interleave = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22,
                                                6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    return _mm512_permutexvar_epi16(interleave, (__m512i)_mm512_cvtne2ps_pbh(high, low));
}

#endif
