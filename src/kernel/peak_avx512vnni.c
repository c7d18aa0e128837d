/* peak_avx512vnni.c - the int8 multiply-add loop with 512-bit VNNI. The rest is avx512's. */
#include "kernel/peak_internal.h"

#define MULTIPLY_BYTES(n) "vpdpbusd %%zmm13, %%zmm12, %%zmm" #n "\n\t"

uint64_t kernel_peak_int8_avx512vnni(uint64_t turns)
{
    const uint32_t a = PEAK_BYTES_A, b = PEAK_BYTES_B;
    uint64_t macs = turns * PEAK_CHAINS * 64;
    PEAK_LOOP("zmm", MULTIPLY_BYTES, turns, a, b);
    return macs;
}
