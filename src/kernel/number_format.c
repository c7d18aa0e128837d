/* number_format.c - the table of number formats, f16, and decoding from file layout to f32.
 *
 * The layouts are those of gguf files (ggml's block formats). A block's fields are little-endian and unaligned;
 * decoding multiplies in the order of the format's own description (scale times sub-scale, times quant, then minus or
 * plus the minimum), every step rounded to f32, so that the result is the same number as other readers of these files
 * get. Nothing here is used by matmul, which reads packed weights: this is the independent reading that tests compare
 * with. */
#include "kernel/number_format.h"
#include "kernel/kernel.h"

#include <string.h>

static const struct number_format_info formats[NF_CACHE_END] = {
    [NF_F32] = {"f32", 1, 4},           [NF_F16] = {"f16", 1, 2},           [NF_BF16] = {"bf16", 1, 2},
    [NF_Q4_0] = {"q4_0", 32, 18},       [NF_Q4_1] = {"q4_1", 32, 20},       [NF_Q5_0] = {"q5_0", 32, 22},
    [NF_Q5_1] = {"q5_1", 32, 24},       [NF_Q8_0] = {"q8_0", 32, 34},       [NF_Q2_K] = {"q2_K", 256, 84},
    [NF_Q3_K] = {"q3_K", 256, 110},     [NF_Q4_K] = {"q4_K", 256, 144},     [NF_Q5_K] = {"q5_K", 256, 176},
    [NF_Q6_K] = {"q6_K", 256, 210},     [NF_IQ4_NL] = {"iq4_nl", 32, 18},   [NF_IQ4_XS] = {"iq4_xs", 256, 136},
    [NF_FP8_E4M3] = {"fp8_e4m3", 0, 0}, [NF_FP8_E5M2] = {"fp8_e5m2", 0, 0}, [NF_INT8] = {"int8", 0, 0},
    [NF_INT4] = {"int4", 0, 0},
};

/* The sixteen levels of IQ4_NL and IQ4_XS. */
const int8_t number_iq4_levels[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

const struct number_format_info *number_format_info(enum number_format format)
{
    ASSERT((unsigned)format < NF_CACHE_END && format != NF_COUNT);
    return &formats[format];
}

uint64_t number_format_bytes(enum number_format format, uint64_t elements)
{
    const struct number_format_info *info = number_format_info(format);
    uint64_t bytes;
    ASSERT(info->block_elements);
    if (elements % info->block_elements || !checked_mul(elements / info->block_elements, info->block_bytes, &bytes))
        return 0;
    return bytes;
}

float f16_to_f32(uint16_t value)
{
    uint32_t sign = (uint32_t)(value & 0x8000u) << 16, exponent = (value >> 10) & 31u, fraction = value & 0x3ffu, bits;
    float out;
    if (exponent == 31) {
        bits = sign | 0x7f800000u | fraction << 13 | (fraction ? 0x00400000u : 0);
    } else if (exponent) {
        bits = sign | (exponent + 112) << 23 | fraction << 13;
    } else {
        out = (float)fraction * 0x1p-24f;
        return sign ? -out : out;
    }
    memcpy(&out, &bits, 4);
    return out;
}

uint16_t f16_from_f32(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, 4);
    uint16_t sign = (uint16_t)(bits >> 16 & 0x8000u);
    bits &= 0x7fffffffu;
    if (bits > 0x7f800000u) return (uint16_t)(sign | 0x7e00u | (bits >> 13 & 0x3ffu)); /* a quiet NaN, payload kept */
    if (bits >= 0x477ff000u) return (uint16_t)(sign | 0x7c00u);                        /* rounds to 65536 or more */
    if (bits < 0x38800000u) { /* subnormal: adding 0.5 puts the unit 2^-24 at the last bit, rounded to nearest even */
        float magnitude;
        memcpy(&magnitude, &bits, 4);
        magnitude += 0.5f;
        memcpy(&bits, &magnitude, 4);
        return (uint16_t)(sign | (bits - 0x3f000000u));
    }
    bits += 0xfffu + (bits >> 13 & 1u);
    return (uint16_t)(sign | (bits - 0x38000000u) >> 13);
}

static float half_at(const uint8_t *at)
{
    return f16_to_f32((uint16_t)(at[0] | at[1] << 8));
}
static uint32_t word_at(const uint8_t *at)
{
    return at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

static void decode_f32(const uint8_t *b, float *out)
{
    uint32_t bits = word_at(b);
    memcpy(out, &bits, 4);
}
static void decode_f16(const uint8_t *b, float *out)
{
    *out = half_at(b);
}
static void decode_bf16(const uint8_t *b, float *out)
{
    uint32_t bits = (uint32_t)(b[0] | b[1] << 8) << 16;
    memcpy(out, &bits, 4);
}

static void decode_q4_0(const uint8_t *b, float *out)
{
    float d = half_at(b);
    for (int i = 0; i < 16; i++) {
        out[i] = d * (float)((b[2 + i] & 15) - 8);
        out[i + 16] = d * (float)((b[2 + i] >> 4) - 8);
    }
}
static void decode_q4_1(const uint8_t *b, float *out)
{
    float d = half_at(b), m = half_at(b + 2);
    for (int i = 0; i < 16; i++) {
        out[i] = d * (float)(b[4 + i] & 15) + m;
        out[i + 16] = d * (float)(b[4 + i] >> 4) + m;
    }
}
static int fifth_bit(uint32_t high, int i)
{
    return (int)(high >> i & 1u) << 4;
}
static void decode_q5_0(const uint8_t *b, float *out)
{
    float d = half_at(b);
    uint32_t high = word_at(b + 2);
    for (int i = 0; i < 16; i++) {
        out[i] = d * (float)(((b[6 + i] & 15) | fifth_bit(high, i)) - 16);
        out[i + 16] = d * (float)(((b[6 + i] >> 4) | fifth_bit(high, i + 16)) - 16);
    }
}
static void decode_q5_1(const uint8_t *b, float *out)
{
    float d = half_at(b), m = half_at(b + 2);
    uint32_t high = word_at(b + 4);
    for (int i = 0; i < 16; i++) {
        out[i] = d * (float)((b[8 + i] & 15) | fifth_bit(high, i)) + m;
        out[i + 16] = d * (float)((b[8 + i] >> 4) | fifth_bit(high, i + 16)) + m;
    }
}
static void decode_q8_0(const uint8_t *b, float *out)
{
    float d = half_at(b);
    for (int i = 0; i < 32; i++) out[i] = d * (float)(int8_t)b[2 + i];
}
static void decode_iq4_nl(const uint8_t *b, float *out)
{
    float d = half_at(b);
    for (int i = 0; i < 16; i++) {
        out[i] = d * (float)number_iq4_levels[b[2 + i] & 15];
        out[i + 16] = d * (float)number_iq4_levels[b[2 + i] >> 4];
    }
}

/* Block: 16 scales and minima of 4 bits each, 64 bytes of 2-bit quants, d, dmin. */
static void decode_q2_k(const uint8_t *b, float *out)
{
    float d = half_at(b + 80), dmin = half_at(b + 82);
    for (int e = 0; e < 256; e++) {
        uint8_t scale = b[e / 16];
        int q = b[16 + e / 128 * 32 + e % 32] >> (e % 128 / 32 * 2) & 3;
        out[e] = d * (float)(scale & 15) * (float)q - dmin * (float)(scale >> 4);
    }
}
/* Block: 32 bytes of third bits (clear means minus 4), 64 bytes of 2-bit quants, 16 scales of 6 bits, d. */
static void decode_q3_k(const uint8_t *b, float *out)
{
    float d = half_at(b + 108);
    const uint8_t *scales = b + 96;
    for (int e = 0; e < 256; e++) {
        int s = e / 16, low = scales[s % 8] >> (s / 8 * 4) & 15, high = scales[8 + s % 4] >> (s / 4 * 2) & 3;
        int q = b[32 + e / 128 * 32 + e % 32] >> (e % 128 / 32 * 2) & 3;
        q -= b[e % 32] >> (e / 32) & 1 ? 0 : 4;
        out[e] = d * (float)((low | high << 4) - 32) * (float)q;
    }
}
/* The 12 bytes that hold eight 6-bit scales and eight 6-bit minima (Q4_K, Q5_K). */
static void scale_and_minimum(const uint8_t *s, int i, int *scale, int *minimum)
{
    if (i < 4) {
        *scale = s[i] & 63;
        *minimum = s[i + 4] & 63;
    } else {
        *scale = (s[i + 4] & 15) | (s[i - 4] >> 6) << 4;
        *minimum = s[i + 4] >> 4 | (s[i] >> 6) << 4;
    }
}
static void decode_q4_k(const uint8_t *b, float *out)
{
    float d = half_at(b), dmin = half_at(b + 2);
    for (int s = 0; s < 8; s++) {
        int scale, minimum;
        scale_and_minimum(b + 4, s, &scale, &minimum);
        float ds = d * (float)scale, ms = dmin * (float)minimum;
        for (int i = 0; i < 32; i++) out[s * 32 + i] = ds * (float)(b[16 + s / 2 * 32 + i] >> (s % 2 * 4) & 15) - ms;
    }
}
static void decode_q5_k(const uint8_t *b, float *out)
{
    float d = half_at(b), dmin = half_at(b + 2);
    for (int s = 0; s < 8; s++) {
        int scale, minimum;
        scale_and_minimum(b + 4, s, &scale, &minimum);
        float ds = d * (float)scale, ms = dmin * (float)minimum;
        for (int i = 0; i < 32; i++) {
            int q = (b[48 + s / 2 * 32 + i] >> (s % 2 * 4) & 15) | (b[16 + i] >> s & 1) << 4;
            out[s * 32 + i] = ds * (float)q - ms;
        }
    }
}
/* Block: 128 bytes of low nibbles, 64 bytes of high bit pairs, 16 signed scales, d. */
static void decode_q6_k(const uint8_t *b, float *out)
{
    float d = half_at(b + 208);
    for (int e = 0; e < 256; e++) {
        int half = e / 128, quarter = e % 128 / 32, i = e % 32;
        int low = b[half * 64 + quarter % 2 * 32 + i] >> (quarter / 2 * 4) & 15;
        int high = b[128 + half * 32 + i] >> (quarter * 2) & 3;
        out[e] = d * (float)(int8_t)b[192 + e / 16] * (float)((low | high << 4) - 32);
    }
}
static void decode_iq4_xs(const uint8_t *b, float *out)
{
    float d = half_at(b);
    for (int s = 0; s < 8; s++) {
        int low = b[4 + s / 2] >> (s % 2 * 4) & 15, high = (b[2] | b[3] << 8) >> (s * 2) & 3;
        float ds = d * (float)((low | high << 4) - 32);
        for (int i = 0; i < 16; i++) {
            out[s * 32 + i] = ds * (float)number_iq4_levels[b[8 + s * 16 + i] & 15];
            out[s * 32 + i + 16] = ds * (float)number_iq4_levels[b[8 + s * 16 + i] >> 4];
        }
    }
}

void number_format_decode(enum number_format format, const void *source, float *out, uint64_t count)
{
    static void (*const decoders[NF_COUNT])(const uint8_t *, float *) = {
        [NF_F32] = decode_f32,   [NF_F16] = decode_f16,       [NF_BF16] = decode_bf16,     [NF_Q4_0] = decode_q4_0,
        [NF_Q4_1] = decode_q4_1, [NF_Q5_0] = decode_q5_0,     [NF_Q5_1] = decode_q5_1,     [NF_Q8_0] = decode_q8_0,
        [NF_Q2_K] = decode_q2_k, [NF_Q3_K] = decode_q3_k,     [NF_Q4_K] = decode_q4_k,     [NF_Q5_K] = decode_q5_k,
        [NF_Q6_K] = decode_q6_k, [NF_IQ4_NL] = decode_iq4_nl, [NF_IQ4_XS] = decode_iq4_xs,
    };
    const struct number_format_info *info = number_format_info(format);
    const uint8_t *block = source;
    ASSERT(info->block_elements && count % info->block_elements == 0);
    if (format == NF_F32) {
        memcpy(out, source, count * 4);
        return;
    }
    for (uint64_t done = 0; done < count; done += info->block_elements, block += info->block_bytes)
        decoders[format](block, out + done);
}
