/* attention_write.h - rows to codes and into their places, in C that a compiler makes vectors of: included by the kv_write of
 * every instruction set, with the same bytes in all of them (no sum's order and no rounding is the compiler's choice).
 *
 * A row's scale is an f16 not below what its largest magnitude asks for, and the codes are rounded (to nearest, ties to even)
 * with that f16 itself. The codes of int4 come from the scale, of 8 sizes and both signs, that misses the row least. */
#ifndef KERNEL_ATTENTION_WRITE_H
#define KERNEL_ATTENTION_WRITE_H
#include "kernel/attention_internal.h"

#include <float.h>
#include <math.h>
#include <string.h>

#define F16_MAX_BITS 0x7BFFu
#define STRIP 64u               /* elements encoded at a time; a multiple of 4 */
#define ERROR_LANES 16u         /* partial sums of a squared error */
#define WRITE_ROUNDER 0x1.8p23f /* x + this has the nearest whole number in its low bits */

static inline uint32_t float_bits(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static inline float bits_float(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static float row_largest(const float *row, uint32_t count)
{
    uint32_t most = 0;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t bits = float_bits(row[i]) & 0x7FFFFFFFu;
        most = bits > most ? bits : most;
    }
    float largest = bits_float(most);
    return largest <= FLT_MAX ? largest : FLT_MAX;
}

static inline float clamped(float x, float limit)
{
    x = x < limit ? x : limit;
    return x > -limit ? x : -limit;
}

/* The least f16 of `largest` / `top` or more. */
static uint16_t scale_at_least(float largest, float top)
{
    if (largest >= top * KERNEL_F16_MAX) return F16_MAX_BITS;
    uint16_t scale = f16_from_f32(largest / top);
    return (uint16_t)(scale + (f16_to_f32(scale) * top < largest));
}

/* ---- elements to codes; `inverse` is 1 / scale ------------------------------------------------------------------------- */

static inline void encode_int8(const float *row, uint32_t count, float inverse, uint8_t *codes)
{
    for (uint32_t i = 0; i < count; i++)
        codes[i] = (uint8_t)float_bits(clamped(row[i] * inverse, CACHE_INT8_TOP) + WRITE_ROUNDER);
}

/* `fraction` bits, `bias` of the exponent: rounds the f32's bits, or, below the least normal number, adds what has the last
 * place of a subnormal one as its own. */
static inline void encode_fp8(const float *row, uint32_t count, float inverse, float top, uint32_t fraction,
                              uint32_t bias, uint8_t *codes)
{
    const uint32_t shift = 23 - fraction, least_normal = (128 - bias) << 23, unit = (128 - bias + 23 - fraction) << 23;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t bits = float_bits(clamped(row[i] * inverse, top)), size = bits & 0x7FFFFFFFu;
        uint32_t normal = (size + ((1u << (shift - 1)) - 1) + (size >> shift & 1)) >> shift;
        uint32_t small = float_bits(bits_float(size) + bits_float(unit)) - unit;
        codes[i] = (uint8_t)(bits >> 24 & 0x80u) |
                   (uint8_t)(size < least_normal ? small : normal - ((127 - bias) << fraction));
    }
}

/* Between the levels. */
static inline float int4_middle(uint32_t i)
{
    return 0.5f * (float)(cache_int4_levels[i] + cache_int4_levels[i + 1]);
}

static inline void encode_int4(const float *row, uint32_t count, float inverse, uint8_t *codes)
{
    uint32_t lanes[STRIP] = {0};
    for (uint32_t level = 0; level < 15; level++) {
        const float middle = int4_middle(level);
        for (uint32_t i = 0; i < count; i++) lanes[i] += row[i] * inverse > middle;
    }
    for (uint32_t i = 0; i < count; i++) codes[i] = (uint8_t)lanes[i];
}

/* The squared error of a row, in units of its scale, summed in a fixed order. */
static float int4_error(const float *row, uint32_t count, float inverse)
{
    float sums[ERROR_LANES] = {0};
    for (uint32_t at = 0; at < count; at += ERROR_LANES) {
        float x[ERROR_LANES], nearest[ERROR_LANES];
        const uint32_t some = count - at < ERROR_LANES ? count - at : ERROR_LANES;
        for (uint32_t i = 0; i < ERROR_LANES; i++) nearest[i] = cache_int4_levels[0];
        if (some == ERROR_LANES)
            for (uint32_t i = 0; i < ERROR_LANES; i++) x[i] = row[at + i] * inverse;
        else /* what is missing has no error */
            for (uint32_t i = 0; i < ERROR_LANES; i++) x[i] = i < some ? row[at + i] * inverse : cache_int4_levels[0];
        for (uint32_t level = 0; level < 15; level++) {
            const float middle = int4_middle(level),
                        step = (float)(cache_int4_levels[level + 1] - cache_int4_levels[level]);
            for (uint32_t i = 0; i < ERROR_LANES; i++) nearest[i] += x[i] > middle ? step : 0;
        }
        for (uint32_t i = 0; i < ERROR_LANES; i++) sums[i] += (x[i] - nearest[i]) * (x[i] - nearest[i]);
    }
    for (uint32_t half = ERROR_LANES / 2; half; half /= 2)
        for (uint32_t i = 0; i < half; i++) sums[i] += sums[i + half];
    return sums[0];
}

static uint16_t int4_scale(const float *row, uint32_t count, float largest)
{
    static const float sizes[] = {0.75f, 0.81f, 0.87f, 0.92f, 0.98f, 1.04f, 1.09f, 1.15f};
    uint16_t best = 0;
    float least = INFINITY;
    if (largest == 0) return 0;
    for (uint32_t i = 0; i < ARRAY_COUNT(sizes); i++) {
        const uint16_t size = scale_at_least(largest * sizes[i], -cache_int4_levels[0]);
        const float scale = f16_to_f32(size);
        for (uint32_t sign = 0; sign < 2; sign++) {
            float error = int4_error(row, count, (sign ? -1 : 1) / scale) * scale * scale;
            if (best && !(error < least)) continue;
            least = error;
            best = (uint16_t)(size | sign << 15);
        }
    }
    return best;
}

static uint16_t row_scale(enum number_format format, const float *row, uint32_t count)
{
    float largest = row_largest(row, count);
    switch (format) {
    case NF_FP8_E4M3:
        return scale_at_least(largest, CACHE_E4M3_TOP);
    case NF_FP8_E5M2:
        return scale_at_least(largest, CACHE_E5M2_TOP);
    case NF_INT8:
        return scale_at_least(largest, CACHE_INT8_TOP);
    default:
        return int4_scale(row, count, largest);
    }
}

static void encode(enum number_format format, const float *row, uint32_t count, float inverse, uint8_t *codes)
{
    switch (format) {
    case NF_FP8_E4M3:
        encode_fp8(row, count, inverse, CACHE_E4M3_TOP, 3, 7, codes);
        return;
    case NF_FP8_E5M2:
        encode_fp8(row, count, inverse, CACHE_E5M2_TOP, 2, 15, codes);
        return;
    case NF_INT8:
        encode_int8(row, count, inverse, codes);
        return;
    default:
        encode_int4(row, count, inverse, codes);
    }
}

/* ---- codes into their places ------------------------------------------------------------------------------------- */

static inline void place_code(uint8_t *codes, struct cache_place place, bool nibble, uint8_t code)
{
    uint8_t *at = codes + place.byte;
    *at = nibble ? (uint8_t)((*at & ~(15u << place.shift)) | (uint32_t)code << place.shift) : code;
}

/* The row of one token, of K or of V, of a coded format. */
static void row_write(enum number_format format, bool is_k, uint8_t *group, uint32_t token, const float *row,
                      uint32_t dim)
{
    const uint16_t scale = row_scale(format, row, dim);
    const float inverse = scale ? 1.0f / f16_to_f32(scale) : 0;
    uint8_t codes[STRIP], *out = group + CACHE_SCALE_BYTES;
    memcpy(group + token * sizeof scale, &scale, sizeof scale);
    for (uint32_t first = 0; first < dim; first += STRIP) {
        const uint32_t some = dim - first < STRIP ? dim - first : STRIP;
        encode(format, row + first, some, inverse, codes);
        for (uint32_t i = 0; i < some; i++)
            if (is_k)
                place_code(out, cache_k_place(format, dim, token, first + i), format == NF_INT4, codes[i]);
            else
                place_code(out, cache_v_place(format, dim, token, first + i), format == NF_INT4, codes[i]);
    }
}

/* `count` rows of K or of V, of a coded format, from slot `first_slot` on. */
static void coded_rows_write(enum number_format format, bool is_k, void *groups, uint32_t first_slot, uint32_t count,
                             const float *rows, uint64_t stride, uint32_t dim)
{
    const uint64_t bytes = KERNEL_GROUP_TOKENS * kernel_row_bytes(format, dim);
    for (uint32_t i = 0; i < count; i++) {
        uint32_t slot = first_slot + i;
        row_write(format, is_k, (uint8_t *)groups + slot / KERNEL_GROUP_TOKENS * bytes, slot % KERNEL_GROUP_TOKENS,
                  rows + i * stride, dim);
    }
}

/* An f32 as a bf16, to nearest even, saturated. */
static inline uint16_t bf16_from_f32(float value)
{
    uint32_t bits = float_bits(value), size = bits & 0x7FFFFFFFu;
    size = size > 0x7F7F0000u ? 0x7F7F0000u : size;
    return (uint16_t)(((bits & 0x80000000u) | (size + 0x7FFFu + (size >> 16 & 1))) >> 16);
}

#endif
