/* matmul_ref.c - the plain C matmul: the chains of matmul_internal.h written out. Every other table gives these bits.
 */
#include "kernel/kernel_internal.h"
#include "kernel/number_format.h"

#include <math.h>
#include <string.h>

#define UNPACK_FLIP 128
static inline void unpack_halves(float *out, const uint16_t *in)
{
    for (int l = 0; l < 16; l++) out[l] = f16_to_f32(in[l]);
}
static inline void unpack_levels(uint32_t *out, const uint32_t *in)
{
    for (int l = 0; l < 16; l++) {
        out[l] = 0;
        for (int i = 0; i < 32; i += 8) out[l] |= (uint32_t)(number_iq4_levels[in[l] >> i & 15] + UNPACK_FLIP) << i;
    }
}
#define UNPACK_VECTOR_BYTES 16
#include "kernel/matmul_unpack.h"

/* A scale group's dot: `words` words of four bytes times the token's quants from input_word on. */
static float dot(const struct matmul_panel *panel, uint32_t scale_group, uint32_t words, uint32_t row,
                 const struct kernel_input_group *input, uint32_t input_word, uint32_t lane, int32_t start)
{
    int32_t sum = start;
    for (uint32_t w = 0; w < words; w++)
        for (uint32_t i = 0; i < 4; i++)
            sum += (int32_t)(panel->quants[scale_group * words + w][row] >> (8 * i) & 0xff) *
                   input->quants[input_word + w][lane][i];
    return (float)(sum - DOT_START);
}

static float times_scale(float number, float scale)
{
    return fmaf(DOT_ZERO + number, scale, -DOT_ZERO * scale);
}

static float chain(const struct matmul_call *call, const struct kernel_input_group *input, uint32_t lane, uint32_t row,
                   int32_t offset, bool minimum, float f)
{
    const struct matmul_panel *panel = call->panel;
    for (uint32_t g = 0; g < call->groups; g++, input++) {
        int32_t start = offset == 8     ? input->starts_8[lane]
                        : offset == 16  ? input->starts_16[lane]
                        : offset == 128 ? input->starts_128[lane]
                                        : DOT_START;
        float p = times_scale(dot(panel, g, 8, row, input, 0, lane, start), panel->scales[g][row]);
        f = fmaf(p, input->scales[lane], f);
        if (minimum) f = fmaf(panel->minima[g][row], input->weighted[lane], f);
    }
    return f;
}

static float chain_halves(const struct matmul_call *call, const struct kernel_input_group *input,
                          const struct kernel_input_halves *halves, uint32_t lane, uint32_t row, int32_t offset,
                          bool minimum, float f)
{
    const struct matmul_panel *panel = call->panel;
    for (uint32_t g = 0; g < call->groups; g++, input++, halves++) {
        float p = 0.0f;
        for (uint32_t half = 0; half < 2; half++) {
            int32_t start = offset == 4    ? halves->starts_4[half][lane]
                            : offset == 32 ? halves->starts_32[half][lane]
                                           : DOT_START;
            float d = dot(panel, 2 * g + half, 4, row, input, half * 4, lane, start);
            const float scale = panel->scales[2 * g + half][row];
            p = half ? fmaf(d, scale, p) : times_scale(d, scale);
        }
        f = fmaf(p, input->scales[lane], f);
        for (uint32_t half = 0; half < 2 && minimum; half++)
            f = fmaf(panel->minima[2 * g + half][row], halves->weighted[half][lane], f);
    }
    return f;
}

/* A finished chain, or one that waits for the next panel. */
static void put(const struct matmul_result *result, uint32_t token, uint32_t row, float f)
{
    if (result->bias) f += result->bias[row];
    if (result->sum)
        result->sum[token * result->sum_stride + row] += f;
    else
        result->out[token * result->out_stride + row] = f;
}

static void micro(const struct matmul_call *call, bool halves, int32_t offset, bool minimum)
{
    for (uint32_t t = 0; t < call->tokens; t++) {
        uint32_t lane = (call->lane + t) % INPUT_TOKENS;
        uint64_t at = (call->lane + t) / INPUT_TOKENS * call->block_stride;
        for (uint32_t row = 0; row < call->result.rows; row++) {
            float f = call->first ? 0.0f : call->result.out[t * call->result.out_stride + row];
            f = halves ? chain_halves(call, call->input + at, call->halves + at, lane, row, offset, minimum, f)
                       : chain(call, call->input + at, lane, row, offset, minimum, f);
            put(&call->result, t, row, f);
        }
    }
}

static void micro_offset_8(const struct matmul_call *call)
{
    micro(call, false, 8, false);
}
static void micro_offset_16(const struct matmul_call *call)
{
    micro(call, false, 16, false);
}
static void micro_offset_128(const struct matmul_call *call)
{
    micro(call, false, 128, false);
}
static void micro_minimum(const struct matmul_call *call)
{
    micro(call, false, 0, true);
}
static void micro_half_offset_4(const struct matmul_call *call)
{
    micro(call, true, 4, false);
}
static void micro_half_offset_32(const struct matmul_call *call)
{
    micro(call, true, 32, false);
}
static void micro_half_minimum(const struct matmul_call *call)
{
    micro(call, true, 0, true);
}

static float f32_element(const void *tile, uint64_t index)
{
    return ((const float *)tile)[index];
}
static float f16_element(const void *tile, uint64_t index)
{
    return f16_to_f32(((const uint16_t *)tile)[index]);
}
static float bf16_element(const void *tile, uint64_t index)
{
    uint32_t bits = (uint32_t)((const uint16_t *)tile)[index] << 16;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

static inline void float_tile(const struct matmul_float_call *call, float (*element)(const void *, uint64_t))
{
    for (uint32_t t = 0; t < call->tokens; t++)
        for (uint32_t row = 0; row < call->result.rows; row++) {
            float f = 0.0f;
            for (uint64_t c = 0; c < call->columns; c++)
                f = fmaf(element(call->tile, c * TILE_ROWS + row), call->input[t * call->input_stride + c], f);
            put(&call->result, t, row, f);
        }
}
static void float_f32(const struct matmul_float_call *call)
{
    float_tile(call, f32_element);
}
static void float_f16(const struct matmul_float_call *call)
{
    float_tile(call, f16_element);
}
static void float_bf16(const struct matmul_float_call *call)
{
    float_tile(call, bf16_element);
}

void kernel_matmul_ref(const struct kernel_matrix *weights, const struct kernel_input *input, uint32_t token_begin,
                       uint32_t token_end, uint32_t row_begin, uint32_t row_end, const struct kernel_output *output)
{
    static const struct matmul_set set = {
        .unpack = unpack_table,
        .micro = {[KIND_OFFSET_8] = {micro_offset_8, 4},
                  [KIND_OFFSET_16] = {micro_offset_16, 4},
                  [KIND_OFFSET_128] = {micro_offset_128, 4},
                  [KIND_MINIMUM_4] = {micro_minimum, 4},
                  [KIND_MINIMUM_5] = {micro_minimum, 4},
                  [KIND_HALF_OFFSET_4] = {micro_half_offset_4, 4},
                  [KIND_HALF_OFFSET_32] = {micro_half_offset_32, 4},
                  [KIND_HALF_MINIMUM] = {micro_half_minimum, 4}},
        .float_f32 = float_f32,
        .float_f16 = float_f16,
        .float_bf16 = float_bf16,
        .float_tokens_max = 4,
    };
    matmul_run(&set, weights, input, token_begin, token_end, row_begin, row_end, output);
}
