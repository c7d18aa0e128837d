/* peak.h - loops that do nothing but what bounds a pass, to measure a machine by: multiply and add, or read memory.
 *
 * They are inline assembly with 12 independent accumulators (tiles: 4), because a loop that a compiler may spill measures spills.
 * Each table has those of its own instruction set; `ref` reads memory only. Part of kernel.h. */
#ifndef KERNEL_PEAK_H
#define KERNEL_PEAK_H
#include <stdint.h>

struct kernel;

enum kernel_peak {
    KERNEL_PEAK_INT8,  /* vpdpbusd; vpmaddubsw and vpaddw where there is no VNNI */
    KERNEL_PEAK_INT16, /* vpdpwssd; vpmaddwd and vpaddd where there is no VNNI */
    KERNEL_PEAK_F32,   /* vfmadd231ps */
    KERNEL_PEAK_TILE,  /* tdpbf16ps, of the table that has tiles (kernel.tile_matmul) */
};
/* Runs `turns` (at least 1) turns of the loop on this thread and returns the multiply-adds that were done; 0, at once,
 * where the table has no such loop. */
uint64_t kernel_peak_run(const struct kernel *kernel, enum kernel_peak peak, uint64_t turns);

/* Loads each of `bytes` bytes (a multiple of 64) at `data` (64-byte aligned) once, ascending. `ahead`: asks for the line
 * that many bytes later to be brought into the second-level cache; 0 leaves that to the machine. */
void kernel_read_run(const struct kernel *kernel, const void *data, uint64_t bytes, uint32_t ahead);

#endif
