/* unpack_avx512.h - packed words to panels with AVX-512 (matmul_unpack.h), for the files that define UNPACK_FLIP. */
#ifndef KERNEL_UNPACK_AVX512_H
#define KERNEL_UNPACK_AVX512_H
#include "kernel/number_format.h"

#include <immintrin.h>

static inline void unpack_halves(float *out, const uint16_t *in)
{
    _mm512_storeu_ps(out, _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)in)));
}
static inline void unpack_levels(uint32_t *out, const uint32_t *in)
{
    __m128i levels = _mm_loadu_si128((const __m128i *)number_iq4_levels);
    __m512i table = _mm512_broadcast_i32x4(_mm_xor_si128(levels, _mm_set1_epi8((char)UNPACK_FLIP)));
    _mm512_storeu_si512(out, _mm512_shuffle_epi8(table, _mm512_loadu_si512(in)));
}
#define UNPACK_VECTOR_BYTES 64
#include "kernel/matmul_unpack.h"

#endif
