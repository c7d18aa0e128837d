/* attention_ref.c - the cache's rows and attention over them in plain C: the reference of the other instruction sets.
 *
 * One (token, head) at a time and nothing clever: scores with d ascending, maximum, exp and sum over the keys of a
 * segment ascending, values with keys ascending, segments folded ascending. No multiply is fused with its add here, and
 * exp and tanh are the C library's, so that a mistake in the vector code's own is seen. Not meant to be fast. */
#include "kernel/attention_internal.h"
#include "kernel/kernel_internal.h"

#include <math.h>
#include <string.h>

static void element_store(enum number_format format, void *base, uint64_t index, float value)
{
    switch (format) {
    case NF_F32:
        ((float *)base)[index] = value;
        return;
    case NF_F16:
        ((uint16_t *)base)[index] = f16_from_f32(value > KERNEL_F16_MAX    ? KERNEL_F16_MAX
                                                 : value < -KERNEL_F16_MAX ? -KERNEL_F16_MAX
                                                                           : value);
        return;
    default:
        ASSERT(!"a cache format");
    }
}

static float element_load(enum number_format format, const void *base, uint64_t index)
{
    switch (format) {
    case NF_F32:
        return ((const float *)base)[index];
    case NF_F16:
        return f16_to_f32(((const uint16_t *)base)[index]);
    default:
        ASSERT(!"a cache format");
        return 0;
    }
}

void kernel_kv_write_ref(enum number_format k_format, enum number_format v_format, void *k_groups, void *v_groups,
                         uint32_t first_slot, uint32_t count, const float *k, uint64_t k_stride, uint32_t head_dim,
                         const float *v, uint64_t v_stride, uint32_t value_dim)
{
    for (uint32_t i = 0; i < count; i++) {
        uint64_t group = (first_slot + i) / KERNEL_GROUP_TOKENS, lane = (first_slot + i) % KERNEL_GROUP_TOKENS;
        for (uint32_t d = 0; d < head_dim; d++)
            element_store(k_format, k_groups, (group * head_dim + d) * KERNEL_GROUP_TOKENS + lane, k[i * k_stride + d]);
        for (uint32_t d = 0; d < value_dim; d++)
            element_store(v_format, v_groups, (group * KERNEL_GROUP_TOKENS + lane) * value_dim + d,
                          v[i * v_stride + d]);
    }
}

static float score(const struct kernel_attend *attend, const float *q, const struct attend_groups *groups, uint32_t key)
{
    const char *k = groups->k[key / KERNEL_GROUP_TOKENS];
    float dot = 0;
    for (uint32_t d = 0; d < attend->head_dim; d++)
        dot += q[d] * element_load(attend->k_format, k, (uint64_t)d * KERNEL_GROUP_TOKENS + key % KERNEL_GROUP_TOKENS);
    dot *= attend->scale;
    return attend->softcap > 0 ? attend->softcap * tanhf(dot / attend->softcap) : dot;
}

/* Folds (maximum, sum, values) into a row of the state, which may be empty; a partial without keys changes nothing. */
static void fold_row(float *row, float maximum, float sum, const float *values, uint32_t value_dim)
{
    if (maximum == -INFINITY) return;
    if (row[0] == -INFINITY) {
        row[0] = maximum;
        row[1] = sum;
        memcpy(row + 2, values, value_dim * sizeof *values);
        return;
    }
    float top = row[0] > maximum ? row[0] : maximum, old_weight = expf(row[0] - top), weight = expf(maximum - top);
    row[0] = top;
    row[1] = row[1] * old_weight + sum * weight;
    for (uint32_t d = 0; d < value_dim; d++) row[2 + d] = row[2 + d] * old_weight + values[d] * weight;
}

/* One (token, head) over the keys `range` of a segment, folded into its row of the state. */
static void attend_row(const struct kernel_attend *attend, const float *q, const struct attend_groups *groups,
                       struct attend_range range, float *row, float *scratch)
{
    float *scores = scratch, *values = scratch + ATTEND_SCORE_STRIDE, maximum = -INFINITY, sum = 0;
    if (range.begin >= range.end) return;
    for (uint32_t key = range.begin; key < range.end; key++) {
        scores[key] = score(attend, q, groups, key);
        if (scores[key] > maximum) maximum = scores[key];
    }
    for (uint32_t d = 0; d < attend->value_dim; d++) values[d] = 0;
    for (uint32_t key = range.begin; key < range.end; key++) {
        float p = expf(scores[key] - maximum);
        const char *v = groups->v[key / KERNEL_GROUP_TOKENS];
        sum += p;
        for (uint32_t d = 0; d < attend->value_dim; d++)
            values[d] +=
                p * element_load(attend->v_format, v, (uint64_t)(key % KERNEL_GROUP_TOKENS) * attend->value_dim + d);
    }
    fold_row(row, maximum, sum, values, attend->value_dim);
}

void kernel_attend_ref(const struct kernel_attend *attend, uint32_t segment_begin, uint32_t segment_end, float *state,
                       float *scratch)
{
    struct attend_groups groups;
    attend_state_init(attend, state);
    for (uint32_t segment = segment_begin; segment < segment_end; segment++) {
        if (!attend_segment_groups(attend, segment, &groups)) continue;
        float *row = state;
        for (uint32_t token = 0; token < attend->tokens; token++)
            for (uint32_t head = 0; head < attend->group; head++, row += 2 + attend->value_dim)
                attend_row(attend, attend->q + token * attend->q_token_stride + (uint64_t)head * attend->head_dim,
                           &groups, attend_visible(attend, token, segment), row, scratch);
    }
}

void kernel_attend_fold_ref(const struct kernel_attend *attend, float *state, const float *next)
{
    uint64_t rows = (uint64_t)attend->tokens * attend->group, stride = 2 + (uint64_t)attend->value_dim;
    for (uint64_t row = 0; row < rows; row++, state += stride, next += stride)
        fold_row(state, next[0], next[1], next + 2, attend->value_dim);
}

void kernel_attend_finish_ref(const struct kernel_attend *attend, const float *state)
{
    for (uint32_t token = 0; token < attend->tokens; token++)
        for (uint32_t head = 0; head < attend->group; head++, state += 2 + attend->value_dim) {
            float *out = attend->out + token * attend->out_token_stride + (uint64_t)head * attend->value_dim;
            for (uint32_t d = 0; d < attend->value_dim; d++) out[d] = state[2 + d] / state[1];
        }
}
