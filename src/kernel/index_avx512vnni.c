/* index_avx512vnni.c - index_simd.h for AVX-512 with VNNI. */
#include "kernel/simd_avx512.h"

#define INDEX_NAME(function) kernel_##function##_avx512vnni
#include "kernel/index_simd.h"
