/* peak_amx.c - the bf16 multiply-add loop with tiles of AMX. The rest is avx512vnni's. A compiler cannot spill tiles: they are named. */
#include "kernel/peak_internal.h"
#include "kernel/tile_amx.h"

uint64_t kernel_peak_tile_amx(uint64_t turns)
{
    uint32_t factors[16][16];
    for (uint32_t i = 0; i < 16; i++)
        for (uint32_t j = 0; j < 16; j++) factors[i][j] = 0x3f803f80; /* 1, 1 */
    _tile_loadconfig(&tile_shapes_whole);
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    _tile_loadd(4, factors, 64);
    _tile_loadd(5, factors, 64);
    for (uint64_t turn = 0; turn < turns; turn++) {
        _tile_dpbf16ps(0, 4, 5);
        _tile_dpbf16ps(1, 4, 5);
        _tile_dpbf16ps(2, 4, 5);
        _tile_dpbf16ps(3, 4, 5);
    }
    _tile_release();
    return turns * 4 * 16 * 16 * 32;
}
