/* vector_avx2.c - vector_simd.h for AVX2, FMA and F16C. */
#include "kernel/simd_avx2.h"

#define VECTOR_NAME(function) kernel_##function##_avx2
#include "kernel/vector_simd.h"
