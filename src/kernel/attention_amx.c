/* attention_amx.c - attention_simd.h for AVX-512 with VNNI, and tiles of AMX for prompts. */
#include "kernel/simd_avx512.h"

#define ATTEND_TILES
#define ATTEND_NAME(function) kernel_##function##_amx
#include "kernel/attention_simd.h"
