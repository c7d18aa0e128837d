/* vector_avx512.c - vector_simd.h for AVX-512 (F, BW, VL, DQ). */
#include "kernel/simd_avx512.h"

#define VECTOR_NAME(function) kernel_##function##_avx512
#include "kernel/vector_simd.h"
