/* attention_avx512.c - attention_simd.h for AVX-512 (F, BW, VL, DQ). */
#include "kernel/simd_avx512.h"

#define ATTEND_NAME(function) kernel_##function##_avx512
#include "kernel/attention_simd.h"
