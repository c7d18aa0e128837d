/* index_avxvnni.c - index_simd.h for AVX2 with VNNI. */
#include "kernel/simd_avx2.h"

#define INDEX_NAME(function) kernel_##function##_avxvnni
#include "kernel/index_simd.h"
