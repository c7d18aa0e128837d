/* attention_ref.c - the cache's rows and attention over them in plain C: the reference of the other instruction sets.
 *
 * One (token, head) at a time and nothing clever: scores with d ascending, maximum, exp and sum over the keys of a
 * segment ascending, values with keys ascending, segments folded ascending. No multiply is fused with its add here, and
 * exp and tanh are the C library's, so that a mistake in the vector code's own is seen. Not meant to be fast. */
#include "kernel/attention_internal.h"
#include "kernel/attention_write.h"
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
        ((uint16_t *)base)[index] = f16_from_f32(clamped(value, KERNEL_F16_MAX));
        return;
    case NF_BF16:
        ((uint16_t *)base)[index] = bf16_from_f32(value);
        return;
    default:
        ASSERT(!"a cache format");
    }
}

void kernel_kv_write_ref(enum number_format k_format, enum number_format v_format, void *k_groups, void *v_groups,
                         uint32_t first_slot, uint32_t count, const float *k, uint64_t k_stride, uint32_t head_dim,
                         const float *v, uint64_t v_stride, uint32_t value_dim)
{
    ASSERT(kernel_cache_format(k_format) && kernel_cache_format(v_format));
    if (cache_coded(k_format) && !kernel_k_closes(k_format))
        coded_rows_write(k_format, true, k_groups, first_slot, count, k, k_stride, head_dim);
    if (cache_coded(v_format)) coded_rows_write(v_format, false, v_groups, first_slot, count, v, v_stride, value_dim);
    for (uint32_t i = 0; i < count; i++) {
        uint64_t group = (first_slot + i) / KERNEL_GROUP_TOKENS, lane = (first_slot + i) % KERNEL_GROUP_TOKENS;
        for (uint32_t d = 0; d < head_dim && !cache_coded(k_format); d++)
            element_store(k_format, k_groups, (group * head_dim + d) * KERNEL_GROUP_TOKENS + lane, k[i * k_stride + d]);
        for (uint32_t d = 0; d < value_dim && !cache_coded(v_format); d++)
            element_store(v_format, v_groups, (group * KERNEL_GROUP_TOKENS + lane) * value_dim + d,
                          v[i * v_stride + d]);
    }
}

void kernel_k_close_ref(enum number_format format, void *k_groups, const void *exact_groups, uint32_t head_dim)
{
    ASSERT(kernel_k_closes(format));
    const uint64_t exact_bytes = kernel_k_group_bytes(NF_F16, head_dim);
    memset(k_groups, 0, 2 * kernel_k_group_bytes(format, head_dim));
    for (uint32_t d = 0; d < head_dim; d++) {
        const char *from = (const char *)exact_groups + number_format_bytes(NF_F16, KERNEL_GROUP_TOKENS) * d;
        float x[KERNEL_CLOSED_TOKENS];
        number_format_decode(NF_F16, from, x, KERNEL_GROUP_TOKENS);
        number_format_decode(NF_F16, from + exact_bytes, x + KERNEL_GROUP_TOKENS, KERNEL_GROUP_TOKENS);
        channel_close(format, x, k_groups, head_dim, d);
    }
}

/* One query row: token and head of the call. */
struct query {
    const struct kernel_attend *attend;
    uint32_t token, head, segment;
};

static float key_offset(const struct query *query, uint32_t key)
{
    const struct kernel_offset *o = &query->attend->offset;
    const float *q = o->q + query->token * o->q_token_stride + (uint64_t)query->head * (o->group_dims + o->key_dims);
    const uint64_t group = attend_offset_group(query->attend, query->segment, key / KERNEL_GROUP_TOKENS);
    float sum = 0;
    for (uint32_t i = 0; i < o->group_dims; i++)
        sum += q[i] * (o->order ? o->rows[group * o->group_dims + i]
                                : o->groups[((uint64_t)query->segment * o->group_dims + i) * KERNEL_SEGMENT_GROUPS +
                                            key / KERNEL_GROUP_TOKENS]);
    for (uint32_t i = 0; i < o->key_dims; i++)
        sum +=
            q[o->group_dims + i] * o->keys[(group * o->key_dims + i) * KERNEL_GROUP_TOKENS + key % KERNEL_GROUP_TOKENS];
    return sum;
}

static float score(const struct query *query, const struct attend_groups *groups, uint32_t key, float *row)
{
    const struct kernel_attend *a = query->attend;
    const float *q = a->q + query->token * a->q_token_stride + (uint64_t)query->head * a->head_dim;
    float dot = 0;
    if (kernel_k_closes(a->k_format))
        kernel_k_row_decode(a->k_format, attend_k_pair(a, groups, key / KERNEL_GROUP_TOKENS),
                            key % KERNEL_CLOSED_TOKENS, a->head_dim, row);
    else
        kernel_k_row_decode(a->k_format, groups->k[key / KERNEL_GROUP_TOKENS], key % KERNEL_GROUP_TOKENS, a->head_dim,
                            row);
    for (uint32_t d = 0; d < a->head_dim; d++) dot += q[d] * row[d];
    if (a->offset.q) dot += key_offset(query, key);
    dot *= a->scale;
    return a->softcap > 0 ? a->softcap * tanhf(dot / a->softcap) : dot;
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

/* One (token, head) over the keys of a segment that it sees, folded into its row of the state. */
static void attend_row(const struct query *query, const struct attend_groups *groups, float *state, float *scratch)
{
    const struct kernel_attend *a = query->attend;
    const struct attend_keys keys = attend_visible(a, query->token, query->segment);
    float *scores = scratch, *values = scratch + ATTEND_SCORE_STRIDE, *row = values + a->value_dim;
    float maximum = -INFINITY, sum = 0;
    for (uint32_t part = 0; part < ATTEND_PARTS; part++)
        for (uint32_t key = keys.part[part].begin; key < keys.part[part].end; key++) {
            scores[key] = score(query, groups, key, row);
            if (scores[key] > maximum) maximum = scores[key];
        }
    for (uint32_t d = 0; d < a->value_dim; d++) values[d] = 0;
    for (uint32_t part = 0; part < ATTEND_PARTS; part++)
        for (uint32_t key = keys.part[part].begin; key < keys.part[part].end; key++) {
            float p = expf(scores[key] - maximum);
            const char *v = groups->v[key / KERNEL_GROUP_TOKENS];
            sum += p;
            kernel_v_row_decode(a->v_format, v, key % KERNEL_GROUP_TOKENS, a->value_dim, row);
            for (uint32_t d = 0; d < a->value_dim; d++) values[d] += p * row[d];
        }
    fold_row(state, maximum, sum, values, a->value_dim);
}

void kernel_attend_ref(const struct kernel_attend *attend, uint32_t segment_begin, uint32_t segment_end, float *state,
                       float *scratch)
{
    struct attend_groups groups;
    ASSERT(!attend->resume);
    attend_state_init(attend, state);
    for (uint32_t segment = segment_begin; segment < segment_end; segment++) {
        if (!attend_segment_groups(attend, segment, &groups)) continue;
        float *row = state;
        for (uint32_t token = 0; token < attend->tokens; token++)
            for (uint32_t head = 0; head < attend->group; head++, row += 2 + attend->value_dim)
                attend_row(&(struct query){attend, token, head, segment}, &groups, row, scratch);
    }
}

uint32_t kernel_attend_unit_ref(enum number_format k_format, enum number_format v_format)
{
    (void)k_format;
    (void)v_format;
    return KERNEL_SEGMENT_TOKENS;
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
