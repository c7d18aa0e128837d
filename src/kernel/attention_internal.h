/* attention_internal.h - what the attention of every instruction set shares: which keys a token sees, and where the key
 * groups of a segment lie. Plain C; a span is looked up once a segment, so that the inner loops see pointers only. */
#ifndef KERNEL_ATTENTION_INTERNAL_H
#define KERNEL_ATTENTION_INTERNAL_H
#include "kernel/kernel.h"

#define ATTEND_SEGMENT_GROUPS (KERNEL_SEGMENT_TOKENS / KERNEL_GROUP_TOKENS)
/* Query rows (token, head) that go through a segment together: their scores stay in the nearer caches. */
#define ATTEND_TILE_ROWS 12u
/* Floats from one row's scores to the next: a segment, and a line more so that the rows of a tile do not fall into the
 * same cache set. */
#define ATTEND_SCORE_STRIDE (KERNEL_SEGMENT_TOKENS + 16u)

/* What an f16 cache can hold; larger numbers are written as this one. */
#define KERNEL_F16_MAX 65504.0f

/* Keys that attention_fixed.h handles at a time: chunks of absolute positions. */
#define CHUNK_KEYS 64u

/* Keys [begin, end) of a segment, counted from the segment's first position; empty when begin >= end. */
struct attend_range {
    uint32_t begin, end;
};

/* The key groups of one segment. Only those that some query of the call sees are set. */
struct attend_groups {
    struct attend_range range; /* the keys that some query sees */
    const char *k[ATTEND_SEGMENT_GROUPS], *v[ATTEND_SEGMENT_GROUPS];
};

/* The keys of `segment` that query token `token` (counted from attend->position) sees. */
static inline struct attend_range attend_visible(const struct kernel_attend *attend, uint32_t token, uint32_t segment)
{
    uint64_t last = (uint64_t)attend->position + token, first = 0, base = (uint64_t)segment * KERNEL_SEGMENT_TOKENS;
    if (attend->window && last + 1 > attend->window) first = last + 1 - attend->window;
    struct attend_range range = {0, 0};
    if (last < base || first >= base + KERNEL_SEGMENT_TOKENS) return range;
    range.begin = first > base ? (uint32_t)(first - base) : 0;
    range.end = last - base < KERNEL_SEGMENT_TOKENS ? (uint32_t)(last - base) + 1 : KERNEL_SEGMENT_TOKENS;
    return range;
}

/* Fills the groups of the keys of `segment` that any query of the call sees. Asserts that the spans hold them all.
 * False when no query sees a key of it: the range is empty. */
bool attend_segment_groups(const struct kernel_attend *attend, uint32_t segment, struct attend_groups *groups);
/* Sets every (token, head) of `state` to "no keys yet". */
void attend_state_init(const struct kernel_attend *attend, float *state);

#endif
