/* attention.c - sizes of key groups, states and scratch; which keys of a segment a call sees, and where their groups
 * lie among the spans. */
#include "kernel/attention_internal.h"

#include <math.h>

uint64_t kernel_k_group_bytes(enum number_format format, uint32_t head_dim)
{
    return number_format_bytes(format, (uint64_t)KERNEL_GROUP_TOKENS * head_dim);
}

uint64_t kernel_v_group_bytes(enum number_format format, uint32_t value_dim)
{
    return number_format_bytes(format, (uint64_t)KERNEL_GROUP_TOKENS * value_dim);
}

uint64_t kernel_attend_state_floats(const struct kernel_attend *attend)
{
    return (uint64_t)attend->tokens * attend->group * (2 + (uint64_t)attend->value_dim);
}

/* What a tile of attention_simd.h needs: its queries, scores and weighted values, each a whole number of cache lines. */
static uint64_t float_scratch(const struct kernel_attend *attend)
{
    return ATTEND_TILE_ROWS * (round_up(attend->head_dim, 16) + ATTEND_SCORE_STRIDE + round_up(attend->value_dim, 16));
}

/* What a call of attention_fixed.h needs: a chunk's K and V, a tile's scores and weights, all rows' queries and sums. */
static uint64_t fixed_scratch(const struct kernel_attend *attend)
{
    uint64_t rows = round_up((uint64_t)attend->tokens * attend->group, 16), pairs = (attend->head_dim + 1) / 2;
    uint64_t columns = round_up(attend->value_dim, 16), keys = CHUNK_KEYS;
    uint64_t chunk = keys * (3 + pairs) + keys / 2 * columns, tile = ATTEND_TILE_ROWS * (keys + keys / 2);
    return chunk + tile + rows * (3 + columns + pairs);
}

uint64_t kernel_attend_scratch_floats(const struct kernel_attend *attend)
{
    uint64_t a = float_scratch(attend), b = fixed_scratch(attend);
    return a > b ? a : b;
}

/* Index of the span that holds `position`, which the spans must cover. */
static uint32_t span_find(const struct kernel_attend *attend, uint32_t position)
{
    uint32_t low = 0, high = attend->span_count;
    while (high - low > 1) {
        uint32_t middle = low + (high - low) / 2;
        if (attend->spans[middle].position <= position)
            low = middle;
        else
            high = middle;
    }
    return low;
}

/* The keys of `segment` that any query sees: those of consecutive tokens are consecutive. */
static struct attend_range segment_range(const struct kernel_attend *attend, uint32_t segment)
{
    uint64_t base = (uint64_t)segment * KERNEL_SEGMENT_TOKENS, last = (uint64_t)attend->position + attend->tokens - 1;
    struct attend_range first_sees = attend_visible(attend, 0, segment),
                        last_sees = attend_visible(attend, attend->tokens - 1, segment);
    bool first_before = attend->position < base;
    if (last < base || (!first_before && first_sees.begin >= first_sees.end)) return (struct attend_range){0, 0};
    /* Positions are consecutive: if the first query is before the segment, one is at its first key; if the last one's
     * window is past it, an earlier one saw its end. */
    return (struct attend_range){first_before ? 0 : first_sees.begin,
                                 last_sees.begin < last_sees.end ? last_sees.end : KERNEL_SEGMENT_TOKENS};
}

bool attend_segment_groups(const struct kernel_attend *attend, uint32_t segment, struct attend_groups *groups)
{
    ASSERT(attend->tokens && attend->span_count);
    struct attend_range range = groups->range = segment_range(attend, segment);
    if (range.begin >= range.end) return false;
    uint32_t base = segment * KERNEL_SEGMENT_TOKENS;
    uint64_t k_bytes = kernel_k_group_bytes(attend->k_format, attend->head_dim);
    uint64_t v_bytes = kernel_v_group_bytes(attend->v_format, attend->value_dim);
    const struct kernel_span *span = attend->spans + span_find(attend, base + range.begin);
    const struct kernel_span *spans_end = attend->spans + attend->span_count;
    for (uint32_t g = range.begin / KERNEL_GROUP_TOKENS; g * KERNEL_GROUP_TOKENS < range.end; g++) {
        uint32_t position = base + g * KERNEL_GROUP_TOKENS;
        while (span < spans_end && position >= span->position + span->count) span++;
        ASSERT(span < spans_end && span->position % KERNEL_GROUP_TOKENS == 0 && span->position <= position);
        uint32_t index = (position - span->position) / KERNEL_GROUP_TOKENS;
        groups->k[g] = (const char *)span->k + index * k_bytes;
        groups->v[g] = (const char *)span->v + index * v_bytes;
    }
    ASSERT(base + range.end <= span->position + span->count);
    return true;
}

void attend_state_init(const struct kernel_attend *attend, float *state)
{
    uint64_t rows = (uint64_t)attend->tokens * attend->group, stride = 2 + (uint64_t)attend->value_dim;
    for (uint64_t row = 0; row < rows; row++) {
        float *at = state + row * stride;
        at[0] = -INFINITY;
        for (uint64_t i = 1; i < stride; i++) at[i] = 0;
    }
}
