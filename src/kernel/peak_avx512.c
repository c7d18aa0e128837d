/* peak_avx512.c - multiply-add and read loops in 512 bits. */
#include "kernel/peak_internal.h"

#define MULTIPLY_BYTES(n) "vpmaddubsw %%zmm13, %%zmm12, %%zmm14\n\tvpaddw %%zmm14, %%zmm" #n ", %%zmm" #n "\n\t"
#define MULTIPLY_WORDS(n) "vpmaddwd %%zmm13, %%zmm12, %%zmm14\n\tvpaddd %%zmm14, %%zmm" #n ", %%zmm" #n "\n\t"
#define MULTIPLY_FLOATS(n) "vfmadd231ps %%zmm13, %%zmm12, %%zmm" #n "\n\t"

uint64_t kernel_peak_int8_avx512(uint64_t turns)
{
    const uint32_t a = PEAK_INTEGERS_A, b = PEAK_INTEGERS_B;
    uint64_t macs = turns * PEAK_CHAINS * 64;
    PEAK_LOOP("zmm", MULTIPLY_BYTES, turns, a, b);
    return macs;
}

uint64_t kernel_peak_int16_avx512(uint64_t turns)
{
    const uint32_t a = PEAK_INTEGERS_A, b = PEAK_INTEGERS_B;
    uint64_t macs = turns * PEAK_CHAINS * 32;
    PEAK_LOOP("zmm", MULTIPLY_WORDS, turns, a, b);
    return macs;
}

uint64_t kernel_peak_f32_avx512(uint64_t turns)
{
    const float a = PEAK_FLOAT_A, b = PEAK_FLOAT_B;
    uint64_t macs = turns * PEAK_CHAINS * 16;
    PEAK_LOOP("zmm", MULTIPLY_FLOATS, turns, a, b);
    return macs;
}

static void read_line(const char *at)
{
    __asm__ volatile("vmovdqa64 (%0), %%zmm0" : : "r"(at) : "xmm0", "memory");
}

void kernel_read_avx512(const void *data, uint64_t bytes, uint32_t ahead)
{
    const char *at = data, *end = at + bytes;
    for (; (uint64_t)(end - at) >= READ_LINES * 64; at += READ_LINES * 64)
        for (uint32_t line = 0; line < READ_LINES; line++) {
            if (ahead) __builtin_prefetch((const void *)((uintptr_t)at + ahead + line * 64), 0, 2);
            read_line(at + line * 64);
        }
    for (; at < end; at += 64) read_line(at);
    __asm__ volatile("vzeroupper" : : : PEAK_REGISTERS);
}
