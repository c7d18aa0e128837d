/* index_avx2.c - index_simd.h for AVX2, FMA and F16C. */
#include "kernel/simd_avx2.h"

#define INDEX_NAME(function) kernel_##function##_avx2
#include "kernel/index_simd.h"
