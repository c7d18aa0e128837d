/* attention_avx2.c - attention_simd.h for AVX2, FMA and F16C. */
#include "kernel/simd_avx2.h"

#define ATTEND_NAME(function) kernel_##function##_avx2
#include "kernel/attention_simd.h"
