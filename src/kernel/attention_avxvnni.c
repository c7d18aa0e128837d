/* attention_avxvnni.c - attention_simd.h for AVX2, FMA and F16C with AVX-VNNI. */
#include "kernel/simd_avx2.h"

#define ATTEND_NAME(function) kernel_##function##_avxvnni
#include "kernel/attention_simd.h"
