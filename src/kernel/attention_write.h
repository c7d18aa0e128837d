/* attention_write.h - rows to codes and into their places, in C that a compiler makes vectors of: included by the kv_write of
 * every instruction set, with the same bytes in all of them (no sum's order and no rounding is the compiler's choice).
 *
 * A row's scale is an f16 not below what its largest magnitude asks for, and the codes are rounded (to nearest, ties to even)
 * with that f16 itself. The codes of int4 come from the scale, of 8 sizes and both signs, that misses the row least, those of
 * fp8_e4m3 from the one of 16 that does; those of K in int4 from such a range of the channel, of 16. */
#ifndef KERNEL_ATTENTION_WRITE_H
#define KERNEL_ATTENTION_WRITE_H
#include "kernel/attention_internal.h"

#include <float.h>
#include <math.h>
#include <string.h>

#define F16_MAX_BITS 0x7BFFu
#define STRIP 64u               /* elements encoded at a time; a multiple of 4 */
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

/* Eight elements as one vector of the compiler's, which makes what the instruction set has of it. */
#define WRITE_LANES 8u
typedef float write_lanes __attribute__((vector_size(WRITE_LANES * sizeof(float))));
typedef int32_t write_mask __attribute__((vector_size(WRITE_LANES * sizeof(int32_t))));

/* The `count` elements at `row` times `inverse`; `missing` in the lanes that are left. */
static inline __attribute__((always_inline)) void lanes_load(const float *row, uint32_t count, float inverse,
                                                             float missing, write_lanes *out)
{
    if (count >= WRITE_LANES) {
        memcpy(out, row, sizeof *out);
        *out *= inverse;
        return;
    }
    for (uint32_t i = 0; i < WRITE_LANES; i++) (*out)[i] = i < count ? row[i] * inverse : missing;
}

/* Between the levels. */
static inline float int4_middle(uint32_t i)
{
    return 0.5f * (float)(cache_int4_levels[i] + cache_int4_levels[i + 1]);
}

static void encode_int4(const float *row, uint32_t count, float inverse, uint8_t *codes)
{
    for (uint32_t at = 0; at < count; at += WRITE_LANES) {
        const uint32_t some = count - at < WRITE_LANES ? count - at : WRITE_LANES;
        write_lanes x;
        write_mask code = {0};
        lanes_load(row + at, some, inverse, 0, &x);
        for (uint32_t level = 0; level < 15; level++) code -= x > int4_middle(level);
        for (uint32_t i = 0; i < some; i++) codes[at + i] = (uint8_t)code[i];
    }
}

/* The squared error of a row, in units of its scale, summed in a fixed order. */
static float int4_error(const float *row, uint32_t count, float inverse)
{
    const float lowest = cache_int4_levels[0];
    write_lanes sums = {0};
    for (uint32_t at = 0; at < count; at += WRITE_LANES) {
        write_lanes x, nearest = {0};
        lanes_load(row + at, count - at, inverse, lowest, &x); /* what is missing has no error */
        nearest += lowest;
        for (uint32_t level = 0; level < 15; level++) {
            const int32_t step = (int32_t)float_bits((float)(cache_int4_levels[level + 1] - cache_int4_levels[level]));
            nearest += (write_lanes)((x > int4_middle(level)) & step);
        }
        sums += (x - nearest) * (x - nearest);
    }
    for (uint32_t half = WRITE_LANES / 2; half; half /= 2)
        for (uint32_t i = 0; i < half; i++) sums[i] += sums[i + half];
    return sums[0];
}

/* The best scale of a row so far. */
struct int4_choice {
    uint16_t scale;
    float size, error;
};

/* Tries a scale of `size` times what the largest element asks for, negative for the mirrored levels. */
static void int4_try(const float *row, uint32_t count, float largest, float size, struct int4_choice *best)
{
    uint16_t scale = scale_at_least(largest * fabsf(size), (float)-cache_int4_levels[0]);
    if (size < 0) scale |= 0x8000u;
    const float value = f16_to_f32(scale), error = int4_error(row, count, 1.0f / value) * value * value;
    if (best->scale && !(error < best->error)) return;
    *best = (struct int4_choice){scale, size, error};
}

/* Four sizes of both signs, then the two next to the best. */
static uint16_t int4_scale(const float *row, uint32_t count, float largest)
{
    static const float sizes[] = {0.80f, 0.91f, 1.02f, 1.13f};
    struct int4_choice best = {0};
    if (largest == 0) return 0;
    for (uint32_t i = 0; i < ARRAY_COUNT(sizes); i++) {
        int4_try(row, count, largest, sizes[i], &best);
        int4_try(row, count, largest, -sizes[i], &best);
    }
    const float size = best.size, step = 0.055f;
    int4_try(row, count, largest, size - step, &best);
    int4_try(row, count, largest, size + step, &best);
    return best.scale;
}

#define F16_NORMAL 0x1p-14f /* the least normal f16; those below are multiples of 2^-24 */

/* Each lane to the nearest f16, ties to even; none may be larger than an f16 can be. */
static inline __attribute__((always_inline)) void lanes_to_f16(write_lanes *x)
{
    write_mask bits = (write_mask)*x, sizes = bits & 0x7FFFFFFF;
    write_mask small = (write_lanes)sizes < F16_NORMAL;
    write_mask normal = (bits + 0xFFF + (bits >> 13 & 1)) & ~0x1FFF;
    write_lanes subnormal = (*x + 0.75f) - 0.75f; /* whose last place is 2^-24 */
    *x = (write_lanes)((small & (write_mask)subnormal) | (~small & normal));
}

#define E4M3_NORMAL 0x1p-6f   /* the least normal e4m3 number; those below are multiples of 2^-9 */
#define E4M3_SMALL 0x1.8p14f  /* x + this has the last place 2^-9 */
#define E4M3_FRACTION 0xFFFFF /* the bits of an f32 that an e4m3 number has not */

/* Each lane to the nearest e4m3 number, ties to even. */
static inline __attribute__((always_inline)) void lanes_to_e4m3(write_lanes *x)
{
    const write_lanes top = CACHE_E4M3_TOP + (write_lanes){0};
    write_mask bits = (write_mask)*x, sizes = bits & 0x7FFFFFFF;
    write_mask large = (write_lanes)sizes > top, small = (write_lanes)sizes < E4M3_NORMAL;
    write_mask normal = (bits + E4M3_FRACTION / 2 + (bits >> 20 & 1)) & ~E4M3_FRACTION;
    write_lanes subnormal = (*x + E4M3_SMALL) - E4M3_SMALL;
    normal = (large & ((bits & INT32_MIN) | (write_mask)top)) | (~large & normal);
    *x = (write_lanes)((small & (write_mask)subnormal) | (~small & normal));
}

/* Of 16 scales, from that for which the largest of `count` numbers is e4m3's largest to 1.4 times as much, an f16 that misses them
 * least in squares. All miss a number by a part of it that depends on where between two codes it comes to lie. Lanes are
 * tries. */
#define E4M3_TRIES 16u
#define E4M3_CLIPPED 477.0f /* e4m3's largest misses what is larger by more than a 16th */
static float e4m3_fit(const float *x, uint32_t count, float largest)
{
    static const float sizes[E4M3_TRIES] = {/* 2^(i / 32) / 448 */
                                            0x1.24924ap-9f, 0x1.2afa58p-9f, 0x1.318650p-9f, 0x1.3836fcp-9f,
                                            0x1.3f0d28p-9f, 0x1.4609a8p-9f, 0x1.4d2d52p-9f, 0x1.547900p-9f,
                                            0x1.5bed94p-9f, 0x1.638bf2p-9f, 0x1.6b5506p-9f, 0x1.7349bep-9f,
                                            0x1.7b6b10p-9f, 0x1.83b9f4p-9f, 0x1.8c376cp-9f, 0x1.94e47ap-9f};
    float best = 0, best_error = FLT_MAX;
    for (uint32_t first = 0; first < E4M3_TRIES; first += WRITE_LANES) {
        write_lanes scale, inverse, error = {0};
        for (uint32_t i = 0; i < WRITE_LANES; i++) scale[i] = clamped(sizes[first + i] * largest, KERNEL_F16_MAX);
        lanes_to_f16(&scale);
        scale += (write_lanes)((scale == 0) & (int32_t)float_bits(0x1p-24f));
        inverse = 1 / scale;
        for (uint32_t i = 0; i < count; i++) {
            write_lanes y = x[i] * inverse, number = y;
            lanes_to_e4m3(&number);
            y = (y - number) * scale;
            error += y * y;
        }
        for (uint32_t i = 0; i < WRITE_LANES; i++) {
            if (best > 0 && (largest * inverse[i] > E4M3_CLIPPED || !(error[i] < best_error))) continue;
            best_error = largest * inverse[i] > E4M3_CLIPPED ? FLT_MAX : error[i];
            best = scale[i];
        }
    }
    return best;
}

static uint16_t row_scale(enum number_format format, const float *row, uint32_t count)
{
    float largest = row_largest(row, count);
    switch (format) {
    case NF_FP8_E4M3:
        return largest > 0 ? f16_from_f32(e4m3_fit(row, count, largest)) : 0;
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

/* Elements [d, d + count) of a K row of codes of 8 bits, d even, all of them or up to an even one. */
static void k_place(uint8_t *out, uint32_t token, uint32_t d, uint32_t count, const uint8_t *codes)
{
    uint32_t i = 0;
    for (; i + 2 <= count; i += 2) memcpy(out + (uint64_t)(d + i) * KERNEL_GROUP_TOKENS + token * 2, codes + i, 2);
    if (i < count) out[(uint64_t)(d + i) * KERNEL_GROUP_TOKENS + token] = codes[i];
}

/* Columns [c, c + count) of a V row of `dim`. A byte of int4 holds another token's code too. */
static void v_place(enum number_format format, uint8_t *out, uint32_t token, uint32_t dim, uint32_t c, uint32_t count,
                    const uint8_t *codes)
{
    const struct cache_place first = cache_v_place(format, dim, token, c);
    const uint8_t others = (uint8_t) ~(15u << first.shift);
    out += first.byte;
    if (format == NF_INT4)
        for (uint32_t i = 0; i < count; i++) out[2 * i] = (uint8_t)((out[2 * i] & others) | codes[i] << first.shift);
    else
        for (uint32_t i = 0; i < count; i++) out[2 * i] = codes[i];
}

/* The row of one token, of K or of V, of a coded format. */
static void row_write(enum number_format format, bool is_k, uint8_t *group, uint32_t token, const float *row,
                      uint32_t dim)
{
    const uint16_t scale = row_scale(format, row, dim);
    const float inverse = scale ? 1.0f / f16_to_f32(scale) : 0;
    uint8_t codes[STRIP];
    memcpy(group + token * sizeof scale, &scale, sizeof scale);
    for (uint32_t first = 0; first < dim; first += STRIP) {
        const uint32_t some = dim - first < STRIP ? dim - first : STRIP;
        encode(format, row + first, some, inverse, codes);
        if (is_k)
            k_place(group + CACHE_SCALE_BYTES, token, first, some, codes);
        else
            v_place(format, group + CACHE_SCALE_BYTES, token, dim, first, some, codes);
    }
}

/* `count` rows of K (of a format that closes none) or of V, of a coded format, from slot `first_slot` on. */
static void coded_rows_write(enum number_format format, bool is_k, void *groups, uint32_t first_slot, uint32_t count,
                             const float *rows, uint64_t stride, uint32_t dim)
{
    const uint64_t bytes = kernel_v_group_bytes(format, dim); /* those of K have as many */
    for (uint32_t i = 0; i < count; i++) {
        uint32_t slot = first_slot + i;
        row_write(format, is_k, (uint8_t *)groups + slot / KERNEL_GROUP_TOKENS * bytes, slot % KERNEL_GROUP_TOKENS,
                  rows + i * stride, dim);
    }
}

/* ---- K of 32 tokens --------------------------------------------------------------------------------------------------- */

#define AFFINE_TRIES 16u
#define AFFINE_LEAST 0.7f  /* of the half width, the least that is tried */
#define AFFINE_CODES 15.0f /* steps between the lowest code and the highest */

/* The nearest codes, as f32, of numbers that lie `y` above the least. */
static inline __attribute__((always_inline)) void affine_codes(const write_lanes *y, const write_lanes *inverse,
                                                               write_lanes *codes)
{
    write_lanes code = (*y * *inverse + WRITE_ROUNDER) - WRITE_ROUNDER;
    code = (write_lanes)((write_mask)code & (code > 0));
    write_lanes below = AFFINE_CODES - code;
    *codes = AFFINE_CODES - (write_lanes)((write_mask)below & (below > 0));
}

/* What a channel's codes stand for: code * step + base. */
struct affine {
    float step, base; /* f16 numbers */
};

/* The best of AFFINE_TRIES ranges for a channel of numbers from `low` to `high`, which differ; lanes are tries. */
static struct affine affine_fit(const float *x, float low, float high)
{
    struct affine best = {0, low};
    float best_error = FLT_MAX;
    const float half = (high - low) * 0.5f, middle = low + half;
    for (uint32_t first = 0; first < AFFINE_TRIES; first += WRITE_LANES) {
        write_lanes part, step, least, inverse, error = {0};
        for (uint32_t i = 0; i < WRITE_LANES; i++)
            part[i] = half * (1 - (1 - AFFINE_LEAST) / (float)(AFFINE_TRIES - 1) * (float)(first + i));
        step = part * (2 / AFFINE_CODES);
        least = middle - part;
        lanes_to_f16(&step);
        lanes_to_f16(&least);
        step += (write_lanes)((step == 0) & (int32_t)float_bits(0x1p-24f));
        inverse = 1 / step;
        for (uint32_t token = 0; token < KERNEL_CLOSED_TOKENS; token++) {
            write_lanes y = x[token] - least, codes;
            affine_codes(&y, &inverse, &codes);
            y -= codes * step;
            error += y * y;
        }
        for (uint32_t i = 0; i < WRITE_LANES; i++) {
            if (!(error[i] < best_error)) continue;
            best_error = error[i];
            best = (struct affine){step[i], least[i]};
        }
    }
    return best;
}

/* A channel in int4: codes of 0...15. */
static struct affine affine_close(const float *x, float low, float high, uint8_t *codes)
{
    const struct affine fit = affine_fit(x, low, high);
    const write_lanes inverse = 1 / (fit.step + (write_lanes){0});
    for (uint32_t token = 0; token < KERNEL_CLOSED_TOKENS; token += WRITE_LANES) {
        write_lanes y;
        memcpy(&y, x + token, sizeof y);
        y -= fit.base;
        affine_codes(&y, &inverse, &y);
        for (uint32_t i = 0; i < WRITE_LANES; i++) codes[token + i] = (uint8_t)y[i];
    }
    return fit;
}

/* A channel in fp8_e4m3: its numbers less their mean. */
static struct affine e4m3_close(const float *x, uint8_t *codes)
{
    float less[KERNEL_CLOSED_TOKENS], sum = 0;
    for (uint32_t token = 0; token < KERNEL_CLOSED_TOKENS; token++) sum += x[token];
    const float middle = f16_to_f32(f16_from_f32(sum / (float)KERNEL_CLOSED_TOKENS));
    for (uint32_t token = 0; token < KERNEL_CLOSED_TOKENS; token++) less[token] = x[token] - middle;
    const float scale = e4m3_fit(less, KERNEL_CLOSED_TOKENS, row_largest(less, KERNEL_CLOSED_TOKENS));
    encode(NF_FP8_E4M3, less, KERNEL_CLOSED_TOKENS, 1 / scale, codes);
    return (struct affine){scale, middle};
}

/* One channel of a pair of groups, whose bytes were zeros. x: of its KERNEL_CLOSED_TOKENS tokens. */
static void channel_close(enum number_format format, const float *x, uint8_t *pair, uint32_t dim, uint32_t d)
{
    const uint64_t bytes = kernel_k_group_bytes(format, dim),
                   numbers = cache_k_code_bytes(format, dim) + d * sizeof(uint16_t);
    uint8_t codes[KERNEL_CLOSED_TOKENS] = {0};
    float low = x[0], high = x[0];
    for (uint32_t token = 1; token < KERNEL_CLOSED_TOKENS; token++) {
        low = x[token] < low ? x[token] : low;
        high = x[token] > high ? x[token] : high;
    }
    struct affine fit = {0, low};
    if (low < high) fit = format == NF_INT4 ? affine_close(x, low, high, codes) : e4m3_close(x, codes);
    const uint16_t step = f16_from_f32(fit.step), base = f16_from_f32(fit.base);
    memcpy(pair + numbers, &step, sizeof step);
    memcpy(pair + bytes + numbers, &base, sizeof base);
    for (uint32_t token = 0; token < KERNEL_CLOSED_TOKENS; token++) {
        const struct cache_place place = cache_k_place(format, dim, token % KERNEL_GROUP_TOKENS, d);
        uint8_t *at = pair + token / KERNEL_GROUP_TOKENS * bytes + place.byte;
        *at = (uint8_t)(*at | codes[token] << place.shift);
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
