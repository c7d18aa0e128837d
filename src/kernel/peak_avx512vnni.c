/* peak_avx512vnni.c - the int8 and int16 multiply-add loops with 512-bit VNNI. The rest is avx512's. */
#include "kernel/peak_internal.h"

#define MULTIPLY_BYTES(n) "vpdpbusd %%zmm13, %%zmm12, %%zmm" #n "\n\t"
#define MULTIPLY_WORDS(n) "vpdpwssd %%zmm13, %%zmm12, %%zmm" #n "\n\t"

uint64_t kernel_peak_int8_avx512vnni(uint64_t turns)
{
    const uint32_t a = PEAK_INTEGERS_A, b = PEAK_INTEGERS_B;
    uint64_t macs = turns * PEAK_CHAINS * 64;
    PEAK_LOOP("zmm", MULTIPLY_BYTES, turns, a, b);
    return macs;
}

uint64_t kernel_peak_int16_avx512vnni(uint64_t turns)
{
    const uint32_t a = PEAK_INTEGERS_A, b = PEAK_INTEGERS_B;
    uint64_t macs = turns * PEAK_CHAINS * 32;
    PEAK_LOOP("zmm", MULTIPLY_WORDS, turns, a, b);
    return macs;
}
