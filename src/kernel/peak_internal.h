/* peak_internal.h - what the loops of peak.h share, and the functions of each instruction set. */
#ifndef KERNEL_PEAK_INTERNAL_H
#define KERNEL_PEAK_INTERNAL_H
#include "kernel/kernel.h"

/* Registers 0…11 accumulate, 12 and 13 are the factors, 14 and 15 hold products. Twelve chains cover the latency of two
 * such instructions a cycle on every machine there is. */
#define PEAK_CHAINS 12u
#define PEAK_FOR_CHAINS(step) \
    step(0) step(1) step(2) step(3) step(4) step(5) step(6) step(7) step(8) step(9) step(10) step(11)
#define PEAK_REGISTERS                                                                                         \
    "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", \
        "xmm13", "xmm14", "xmm15"
#define PEAK_CLEAR(n) "vpxor %%xmm" #n ", %%xmm" #n ", %%xmm" #n "\n\t"

/* Runs `step` for every chain, `turns` times, on registers of a kind ("ymm", "zmm") whose factors are 32-bit values. */
#define PEAK_LOOP(kind, step, turns, factor_a, factor_b)                                              \
    __asm__ volatile("vpbroadcastd %1, %%" kind "12\n\t"                                              \
                     "vpbroadcastd %2, %%" kind                                                       \
                     "13\n\t" PEAK_FOR_CHAINS(PEAK_CLEAR) ".p2align 5\n"                              \
                                                          "1:\n\t" PEAK_FOR_CHAINS(step) "dec %0\n\t" \
                                                                                         "jnz 1b\n\t" \
                                                                                         "vzeroupper" \
                     : "+r"(turns)                                                                    \
                     : "m"(factor_a), "m"(factor_b)                                                   \
                     : PEAK_REGISTERS, "cc")

/* Factors as numbers of no special form, so that the multipliers switch as they do in real work. */
#define PEAK_INTEGERS_A 0x35a4197eu
#define PEAK_INTEGERS_B 0x4bd2673cu
#define PEAK_FLOAT_A 1.2345f
#define PEAK_FLOAT_B 0.7654e-6f /* small: the sums stop growing long before they overflow */

#define READ_LINES 8u /* cache lines a turn of a read loop */

uint64_t kernel_peak_int8_avx2(uint64_t turns);
uint64_t kernel_peak_int8_avxvnni(uint64_t turns);
uint64_t kernel_peak_int8_avx512(uint64_t turns);
uint64_t kernel_peak_int8_avx512vnni(uint64_t turns);
uint64_t kernel_peak_tile_amx(uint64_t turns);
uint64_t kernel_peak_int16_avx2(uint64_t turns);
uint64_t kernel_peak_int16_avxvnni(uint64_t turns);
uint64_t kernel_peak_int16_avx512(uint64_t turns);
uint64_t kernel_peak_int16_avx512vnni(uint64_t turns);
uint64_t kernel_peak_f32_avx2(uint64_t turns);
uint64_t kernel_peak_f32_avx512(uint64_t turns);
void kernel_read_avx2(const void *data, uint64_t bytes, uint32_t ahead);
void kernel_read_avx512(const void *data, uint64_t bytes, uint32_t ahead);

#endif
