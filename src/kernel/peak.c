/* peak.c - which table has which loops of peak.h, and the read loop of plain C. */
#include "kernel/peak_internal.h"
#include <string.h>

static void read_ref(const void *data, uint64_t bytes, uint32_t ahead)
{
    const volatile uint64_t *words = data;
    for (uint64_t i = 0; i < bytes / 8; i += 8) {
        if (ahead) __builtin_prefetch((const void *)((uintptr_t)(words + i) + ahead), 0, 2);
        for (uint64_t w = 0; w < 8; w++) (void)words[i + w];
    }
}

static const struct {
    const char *isa;
    uint64_t (*multiply[KERNEL_PEAK_TILE + 1])(uint64_t turns); /* by enum kernel_peak */
    void (*read)(const void *data, uint64_t bytes, uint32_t ahead);
} loops[] = {
    {"ref", {NULL, NULL, NULL}, read_ref},
    {"avx2", {kernel_peak_int8_avx2, kernel_peak_int16_avx2, kernel_peak_f32_avx2}, kernel_read_avx2},
    {"avxvnni", {kernel_peak_int8_avxvnni, kernel_peak_int16_avxvnni, kernel_peak_f32_avx2}, kernel_read_avx2},
    {"avx512", {kernel_peak_int8_avx512, kernel_peak_int16_avx512, kernel_peak_f32_avx512}, kernel_read_avx512},
    {"avx512vnni",
     {kernel_peak_int8_avx512vnni, kernel_peak_int16_avx512vnni, kernel_peak_f32_avx512},
     kernel_read_avx512},
    {"amx",
     {kernel_peak_int8_avx512vnni, kernel_peak_int16_avx512vnni, kernel_peak_f32_avx512, kernel_peak_tile_amx},
     kernel_read_avx512},
};

static size_t find(const struct kernel *kernel)
{
    size_t i = 0;
    while (i < ARRAY_COUNT(loops) && strcmp(loops[i].isa, kernel->name) != 0) i++;
    ASSERT(i < ARRAY_COUNT(loops));
    return i;
}

uint64_t kernel_peak_run(const struct kernel *kernel, enum kernel_peak peak, uint64_t turns)
{
    ASSERT(turns > 0);
    uint64_t (*multiply)(uint64_t) = loops[find(kernel)].multiply[peak];
    return multiply ? multiply(turns) : 0;
}

void kernel_read_run(const struct kernel *kernel, const void *data, uint64_t bytes, uint32_t ahead)
{
    ASSERT(bytes % 64 == 0 && (uintptr_t)data % 64 == 0);
    loops[find(kernel)].read(data, bytes, ahead);
}
