/* attention.c - sizes of states and scratch; which keys of a segment a call sees, and where their groups
 * lie among the spans. */
#include "kernel/attention_internal.h"

#include <math.h>

uint64_t kernel_attend_state_floats(const struct kernel_attend *attend)
{
    return (uint64_t)attend->tokens * attend->group * (2 + (uint64_t)attend->value_dim);
}

/* Of each row its coefficients of the offsets and its groups' offsets of a segment; and some groups' numbers, lane by lane. `rows`: a
 * multiple of 4. */
static uint64_t offset_scratch(const struct kernel_attend *attend, uint64_t rows)
{
    const struct kernel_offset *offset = &attend->offset;
    const uint64_t dims = round_up(offset->group_dims, 16), groups = dims ? dims + KERNEL_SEGMENT_GROUPS : 0;
    return dims * ATTEND_OFFSET_GROUPS + rows * (groups + (offset->key_dims ? KERNEL_OFFSET_KEY_DIMS : 0));
}

/* What a tile of attention_simd.h needs: its queries, scores and weighted values, each a whole number of cache lines. */
static uint64_t float_scratch(const struct kernel_attend *attend)
{
    uint64_t row = round_up(attend->head_dim, 16) + ATTEND_SCORE_STRIDE + round_up(attend->value_dim, 16);
    return ATTEND_TILE_ROWS * row + offset_scratch(attend, ATTEND_TILE_ROWS);
}

/* What a call of attention_fixed.h needs: a chunk's K and V, a tile's scores and weights, all rows' queries and sums. */
static uint64_t fixed_scratch(const struct kernel_attend *attend)
{
    uint64_t rows = round_up((uint64_t)attend->tokens * attend->group, 16), pairs = (attend->head_dim + 1) / 2;
    uint64_t columns = round_up(attend->value_dim, 16), keys = CHUNK_KEYS;
    uint64_t chunk = keys * (4 + pairs) + keys / 2 * columns + 3 * round_up(attend->head_dim, 32),
             tile = ATTEND_TILE_ROWS * (keys + keys / 2);
    return chunk + tile + rows * (3 + columns + pairs) + offset_scratch(attend, rows);
}

/* What attention_tiles.h needs beyond that: a chunk's K, which may take two for a number, its V and all queries in bf16; scores and
 * weights of two tiles; what a chunk's groups of keys were stored less. */
static uint64_t brief_scratch(const struct kernel_attend *attend)
{
    const uint64_t rows = round_up((uint64_t)attend->tokens * attend->group, 16), keys = CHUNK_KEYS;
    const uint64_t dims = round_up(attend->head_dim, 32), columns = round_up(attend->value_dim, 16);
    const uint64_t numbers = (2 * keys + rows) * dims + keys * columns + 2 * 16 * keys;
    return numbers / 2 + 2 * 16 * keys + CHUNK_KEYS / KERNEL_GROUP_TOKENS * dims + 16;
}

uint64_t kernel_attend_scratch_floats(const struct kernel_attend *attend)
{
    uint64_t a = float_scratch(attend), b = fixed_scratch(attend) + brief_scratch(attend);
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

/* Sets the groups of `keys`, some of a segment that begins at `base`, and marks them as seen. */
static void groups_fill(const struct kernel_attend *attend, uint32_t base, struct attend_range keys,
                        struct attend_groups *groups)
{
    if (keys.begin >= keys.end) return;
    const uint32_t unit = kernel_k_closes(attend->k_format) ? KERNEL_CLOSED_TOKENS : KERNEL_GROUP_TOKENS;
    uint64_t k_bytes = kernel_k_group_bytes(attend->k_format, attend->head_dim);
    uint64_t v_bytes = kernel_v_group_bytes(attend->v_format, attend->value_dim);
    const struct kernel_span *span = attend->spans + span_find(attend, base + keys.begin);
    const struct kernel_span *spans_end = attend->spans + attend->span_count;
    for (uint32_t g = keys.begin / KERNEL_GROUP_TOKENS; g * KERNEL_GROUP_TOKENS < keys.end; g++) {
        uint32_t position = base + g * KERNEL_GROUP_TOKENS;
        while (span < spans_end && position >= span->position + span->count) span++;
        ASSERT(span < spans_end && span->position % unit == 0 && span->position <= position);
        uint32_t index = (position - span->position) / KERNEL_GROUP_TOKENS;
        groups->k[g] = (const char *)span->k + index * k_bytes;
        groups->v[g] = (const char *)span->v + index * v_bytes;
        groups->seen |= (uint64_t)1 << g;
    }
    ASSERT(base + keys.end <= span->position + span->count);
}

bool attend_segment_groups(const struct kernel_attend *attend, uint32_t segment, struct attend_groups *groups)
{
    ASSERT(attend->tokens && attend->offset.key_dims <= KERNEL_OFFSET_KEY_DIMS);
    /* Positions are consecutive, so together their windows are one range, and the last token's sinks hold the others'. */
    struct attend_range sinks = attend_visible(attend, attend->tokens - 1, segment).part[ATTEND_SINKS];
    struct attend_range window =
        attend_bounded(attend, attend_window_begin(attend, 0), (uint64_t)attend->position + attend->tokens, segment);
    const bool some_sinks = sinks.begin < sinks.end, some_window = window.begin < window.end;
    ASSERT(attend->span_count || !(some_sinks || some_window));
    groups->seen = 0;
    groups->range = some_sinks ? sinks : window;
    if (some_window) {
        if (window.begin < groups->range.begin) groups->range.begin = window.begin;
        if (window.end > groups->range.end) groups->range.end = window.end;
    }
    groups_fill(attend, segment * KERNEL_SEGMENT_TOKENS, sinks, groups);
    groups_fill(attend, segment * KERNEL_SEGMENT_TOKENS, window, groups);
    for (uint32_t g = groups->range.begin / KERNEL_GROUP_TOKENS; g * KERNEL_GROUP_TOKENS < groups->range.end; g++)
        if (!(groups->seen >> g & 1)) {
            groups->k[g] = groups->k[g - 1];
            groups->v[g] = groups->v[g - 1];
        }
    return some_sinks || some_window;
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
