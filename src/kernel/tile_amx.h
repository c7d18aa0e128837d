/* tile_amx.h - the eight tile registers of AMX, all of 16 rows of 64 bytes, for the files that are compiled for it. */
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

#endif
