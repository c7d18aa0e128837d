/* peak_avxvnni.c - the int8 and int16 multiply-add loops with 256-bit VNNI. The rest is avx2's. */
#include "kernel/peak_internal.h"

#define MULTIPLY_BYTES(n) "%{vex%} vpdpbusd %%ymm13, %%ymm12, %%ymm" #n "\n\t"
#define MULTIPLY_WORDS(n) "%{vex%} vpdpwssd %%ymm13, %%ymm12, %%ymm" #n "\n\t"

uint64_t kernel_peak_int8_avxvnni(uint64_t turns)
{
    const uint32_t a = PEAK_INTEGERS_A, b = PEAK_INTEGERS_B;
    uint64_t macs = turns * PEAK_CHAINS * 32;
    PEAK_LOOP("ymm", MULTIPLY_BYTES, turns, a, b);
    return macs;
}

uint64_t kernel_peak_int16_avxvnni(uint64_t turns)
{
    const uint32_t a = PEAK_INTEGERS_A, b = PEAK_INTEGERS_B;
    uint64_t macs = turns * PEAK_CHAINS * 16;
    PEAK_LOOP("ymm", MULTIPLY_WORDS, turns, a, b);
    return macs;
}
