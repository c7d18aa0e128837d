/* attention_rows.c - the cache's rows: their sizes, and each decoded by itself in plain C, element by element. What the vector
 * code reads is compared with this; `ref` computes with it. attention_internal.h has the layouts. */
#include "kernel/attention_internal.h"

#include <string.h>

const int8_t cache_int4_levels[16] = {-127, -98, -77, -61, -46, -33, -21, -9, 2, 13, 24, 36, 49, 64, 83, 108};

bool kernel_k_closes(enum number_format format)
{
    return format == NF_INT4 || format == NF_FP8_E4M3;
}

bool kernel_cache_format(enum number_format format)
{
    return format == NF_F32 || format == NF_F16 || format == NF_BF16 || (cache_coded(format) && format < NF_CACHE_END);
}

uint64_t kernel_v_row_bytes(enum number_format format, uint32_t value_dim)
{
    ASSERT(kernel_cache_format(format));
    if (!cache_coded(format)) return number_format_bytes(format, value_dim);
    return (format == NF_INT4 ? ((uint64_t)value_dim + 1) / 2 : value_dim) + sizeof(uint16_t);
}

uint64_t kernel_v_group_bytes(enum number_format format, uint32_t value_dim)
{
    return KERNEL_GROUP_TOKENS * kernel_v_row_bytes(format, value_dim);
}

uint64_t kernel_k_group_bytes(enum number_format format, uint32_t head_dim)
{
    if (kernel_k_closes(format)) return cache_k_code_bytes(format, head_dim) + head_dim * sizeof(uint16_t);
    return kernel_v_group_bytes(format, head_dim);
}

uint64_t kernel_k_exact_bytes(uint32_t head_dim)
{
    return KERNEL_CLOSED_TOKENS / KERNEL_GROUP_TOKENS * kernel_k_group_bytes(NF_F16, head_dim);
}

uint64_t kernel_k_row_bytes(enum number_format format, uint32_t head_dim)
{
    return (kernel_k_group_bytes(format, head_dim) + KERNEL_GROUP_TOKENS - 1) / KERNEL_GROUP_TOKENS;
}

static float code_value(enum number_format format, uint8_t code)
{
    switch (format) {
    case NF_FP8_E4M3: /* with f16's exponent it is 2^8 smaller */
        return 256 * f16_to_f32((uint16_t)((code & 0x80u) << 8 | (code & 0x7Fu) << 7));
    case NF_FP8_E5M2: /* the upper half of an f16 */
        return f16_to_f32((uint16_t)(code << 8));
    case NF_INT8:
        return (int8_t)code;
    default:
        return cache_int4_levels[code & 15];
    }
}

static float f16_at(const uint8_t *numbers, uint32_t index)
{
    uint16_t number;
    memcpy(&number, numbers + index * sizeof number, sizeof number);
    return f16_to_f32(number);
}

/* A row of K whose group is closed: code * step + base, of each channel. */
static void closed_row_decode(enum number_format format, const uint8_t *group, uint32_t token, const uint8_t *steps,
                              const uint8_t *bases, uint32_t dim, float *out)
{
    for (uint32_t d = 0; d < dim; d++) {
        struct cache_place place = cache_k_place(format, dim, token, d);
        const uint8_t byte = group[place.byte];
        const float code = format == NF_INT4 ? (float)(byte >> place.shift & 15) : code_value(format, byte);
        out[d] = code * f16_at(steps, d) + f16_at(bases, d);
    }
}

void kernel_k_row_decode(enum number_format format, const void *k_groups, uint32_t slot, uint32_t head_dim, float *out)
{
    const uint64_t bytes = kernel_k_group_bytes(format, head_dim);
    const uint8_t *group = (const uint8_t *)k_groups + slot / KERNEL_GROUP_TOKENS * bytes;
    const uint32_t token = slot % KERNEL_GROUP_TOKENS;
    if (kernel_k_closes(format)) {
        const uint8_t *steps = (const uint8_t *)k_groups + slot / KERNEL_CLOSED_TOKENS * 2 * bytes;
        steps += cache_k_code_bytes(format, head_dim);
        closed_row_decode(format, group, token, steps, steps + bytes, head_dim, out);
        return;
    }
    for (uint32_t d = 0; d < head_dim; d++) {
        if (cache_coded(format)) {
            struct cache_place place = cache_k_place(format, head_dim, token, d);
            uint8_t code = (uint8_t)(group[CACHE_SCALE_BYTES + place.byte] >> place.shift);
            out[d] = f16_at(group, token) * code_value(format, code);
        } else {
            uint64_t element = (uint64_t)d * KERNEL_GROUP_TOKENS + token;
            number_format_decode(format, group + number_format_bytes(format, element), out + d, 1);
        }
    }
}

void kernel_v_row_decode(enum number_format format, const void *v_groups, uint32_t slot, uint32_t value_dim, float *out)
{
    const uint64_t bytes = kernel_v_group_bytes(format, value_dim);
    const uint8_t *group = (const uint8_t *)v_groups + slot / KERNEL_GROUP_TOKENS * bytes;
    const uint32_t token = slot % KERNEL_GROUP_TOKENS;
    if (!cache_coded(format)) {
        number_format_decode(format, group + number_format_bytes(format, (uint64_t)token * value_dim), out, value_dim);
        return;
    }
    for (uint32_t column = 0; column < value_dim; column++) {
        struct cache_place place = cache_v_place(format, value_dim, token, column);
        uint8_t code = (uint8_t)(group[CACHE_SCALE_BYTES + place.byte] >> place.shift);
        out[column] = f16_at(group, token) * code_value(format, code);
    }
}
