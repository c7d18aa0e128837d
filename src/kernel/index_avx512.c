/* index_avx512.c - index_simd.h for AVX-512. */
#include "kernel/simd_avx512.h"

#define INDEX_NAME(function) kernel_##function##_avx512
#include "kernel/index_simd.h"
