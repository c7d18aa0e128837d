/* attention_avx512vnni.c - attention_simd.h for AVX-512 with VNNI. */
#include "kernel/simd_avx512.h"

#define ATTEND_NAME(function) kernel_##function##_avx512vnni
#include "kernel/attention_simd.h"
