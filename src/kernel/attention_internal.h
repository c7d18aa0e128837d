/* attention_internal.h - what the attention of every instruction set shares: the layout of a key group, which keys a token
 * sees, and where the key groups of a segment lie. Plain C; a span is looked up once a segment, so that the inner loops
 * see pointers only.
 *
 * A key group, per KV head; lanes of K are keys, those of V columns:
 *   f32 f16 bf16  K [head_dim][16 tokens]                V [16 tokens][value_dim]
 *   int8 fp8      16 f16 scales, then
 *                 K [head_dim / 2][16 tokens][2]         V [8][value_dim][2 tokens]: pairs of d, or of tokens, as
 *                 and [16 tokens] of an odd last d       vpdpwssd takes them once they are widened
 *                 K in fp8_e4m3 has no such scales, but after the codes [head_dim] f16: in even groups the scales of
 *                 the pair's channels, in odd ones their middles
 *   int4          K [head_dim / 4][16 tokens][2]: of     V 16 f16 scales, then [4][value_dim][2 tokens]: of four
 *                 four d the first two in the low        tokens the first two in the low nibbles, the others in
 *                 nibbles, the others in the high ones;  the high ones (for an odd value_dim 8 bytes are left)
 *                 of the last: three d the same, one or
 *                 two [16 tokens], the second d high;
 *                 then [head_dim] f16: in even groups the
 *                 steps of the pair, in odd ones the least */
#ifndef KERNEL_ATTENTION_INTERNAL_H
#define KERNEL_ATTENTION_INTERNAL_H
#include "kernel/kernel.h"

/* Query rows (token, head) that go through a segment together: their scores stay in the nearer caches. */
#define ATTEND_TILE_ROWS 12u
/* Floats from one row's scores to the next: a segment, and a line more so that the rows of a tile do not fall into the
 * same cache set. */
#define ATTEND_SCORE_STRIDE (KERNEL_SEGMENT_TOKENS + 16u)

/* Groups of which offsets are made at a time, at most. */
#define ATTEND_OFFSET_GROUPS 32u

/* What an f16 cache can hold; larger numbers are written as this one. */
#define KERNEL_F16_MAX 65504.0f

/* Keys that attention_fixed.h handles at a time: chunks of absolute positions. */
#define CHUNK_KEYS 64u

/* The scales of a group, before its codes. */
#define CACHE_SCALE_BYTES (KERNEL_GROUP_TOKENS * (uint32_t)sizeof(uint16_t))
/* The largest magnitudes that fp8 rows are scaled to: all of e4m3, and 1.75 in e5m2, which has exponents to spare below. */
#define CACHE_E4M3_TOP 448.0f
#define CACHE_E5M2_TOP 1.75f
#define CACHE_INT8_TOP 127.0f

/* The sixteen levels of int4: found by Lloyd's iteration over Gaussian rows of 64 whose scale, sign included, is searched as
 * attention_write.h does; mean squared error 0.0066 of a row's, against 0.0079 with the symmetric Lloyd-Max levels. */
extern const int8_t cache_int4_levels[16];

/* Whether rows are codes of 8 or 4 bits with a scale. */
static inline bool cache_coded(enum number_format format)
{
    return format > NF_COUNT;
}

/* Of K in a format that closes: bytes of a group before the numbers of its channels. */
static inline uint64_t cache_k_code_bytes(enum number_format format, uint32_t dim)
{
    return (uint64_t)KERNEL_GROUP_TOKENS * (format == NF_INT4 ? (dim + 1) / 2 : dim);
}

/* Where a code lies: the byte, counted from the group's first code, and for int4 by how much it is shifted there. */
struct cache_place {
    uint64_t byte;
    uint32_t shift;
};

static inline struct cache_place cache_k_place(enum number_format format, uint32_t dim, uint32_t token, uint32_t d)
{
    if (format != NF_INT4) {
        if (d + 1 == dim && dim % 2) return (struct cache_place){(uint64_t)d * KERNEL_GROUP_TOKENS + token, 0};
        return (struct cache_place){((uint64_t)(d / 2) * KERNEL_GROUP_TOKENS + token) * 2 + d % 2, 0};
    }
    uint64_t unit = (uint64_t)(d / 4) * KERNEL_GROUP_TOKENS * 2;
    if (dim - d / 4 * 4 < 3) return (struct cache_place){unit + token, d % 4 * 4};
    return (struct cache_place){unit + (uint64_t)token * 2 + d % 2, d % 4 / 2 * 4};
}

static inline struct cache_place cache_v_place(enum number_format format, uint32_t dim, uint32_t token, uint32_t column)
{
    if (format != NF_INT4) return (struct cache_place){((uint64_t)(token / 2) * dim + column) * 2 + token % 2, 0};
    return (struct cache_place){((uint64_t)(token / 4) * dim + column) * 2 + token % 2, token % 4 / 2 * 4};
}

/* Keys [begin, end) of a segment, counted from the segment's first position; empty when begin >= end. */
struct attend_range {
    uint32_t begin, end;
};

/* The keys of a segment that a query sees: sinks that its window does not reach, then its window. They do not overlap. */
#define ATTEND_SINKS 0u
#define ATTEND_WINDOW 1u
#define ATTEND_PARTS 2u
struct attend_keys {
    struct attend_range part[ATTEND_PARTS];
};

/* The key groups of one segment. */
struct attend_groups {
    struct attend_range range; /* from the first key that some query of the call sees to the last */
    uint64_t seen;             /* bit g: some query sees a key of group g */
    const char *k[KERNEL_SEGMENT_GROUPS],
        *v[KERNEL_SEGMENT_GROUPS]; /* within range; a group not seen repeats one that is */
};
_Static_assert(KERNEL_SEGMENT_GROUPS == 64, "a bit for each group of a segment");

/* Keys [first, end), absolute, as far as they are in `segment`. */
static inline struct attend_range attend_in_segment(uint64_t first, uint64_t end, uint32_t segment)
{
    uint64_t base = (uint64_t)segment * KERNEL_SEGMENT_TOKENS;
    struct attend_range range = {0, 0};
    if (end <= base || first >= base + KERNEL_SEGMENT_TOKENS || first >= end) return range;
    range.begin = first > base ? (uint32_t)(first - base) : 0;
    range.end = end - base < KERNEL_SEGMENT_TOKENS ? (uint32_t)(end - base) : KERNEL_SEGMENT_TOKENS;
    return range;
}

/* The first key of the window of query token `token` (counted from attend->position). */
static inline uint64_t attend_window_begin(const struct kernel_attend *attend, uint32_t token)
{
    uint64_t keys = (uint64_t)attend->position + token + 1;
    return attend->window && keys > attend->window ? keys - attend->window : 0;
}

/* Of keys [first, end), absolute, those in `segment` that the call may see. */
static inline struct attend_range attend_bounded(const struct kernel_attend *attend, uint64_t first, uint64_t end,
                                                 uint32_t segment)
{
    if (first < attend->key_begin) first = attend->key_begin;
    if (attend->key_end && end > attend->key_end) end = attend->key_end;
    return attend_in_segment(first, end, segment);
}

/* The keys of `segment` that query token `token` sees. */
static inline struct attend_keys attend_visible(const struct kernel_attend *attend, uint32_t token, uint32_t segment)
{
    uint64_t first = attend_window_begin(attend, token), end = (uint64_t)attend->position + token + 1;
    return (struct attend_keys){
        {[ATTEND_SINKS] = attend_bounded(attend, 0, attend->sinks < first ? attend->sinks : first, segment),
         [ATTEND_WINDOW] = attend_bounded(attend, first, end, segment)}};
}

/* From the first key to the last, those between the sinks and the window included; empty when there are none. */
static inline struct attend_range attend_hull(const struct attend_keys *keys)
{
    struct attend_range sinks = keys->part[ATTEND_SINKS], window = keys->part[ATTEND_WINDOW];
    if (sinks.begin >= sinks.end) return window;
    return (struct attend_range){sinks.begin, window.begin < window.end ? window.end : sinks.end};
}

/* The lowest `count` bits, all from 64 on. */
static inline uint64_t attend_bits_below(uint32_t count)
{
    return count < 64 ? ((uint64_t)1 << count) - 1 : ~(uint64_t)0;
}

/* Bit i: whether key `first` + i of the segment is one of `keys`. */
static inline uint64_t attend_bits(const struct attend_keys *keys, uint32_t first)
{
    uint64_t bits = 0;
    for (uint32_t part = 0; part < ATTEND_PARTS; part++) {
        uint32_t begin = keys->part[part].begin, end = keys->part[part].end;
        bits |=
            attend_bits_below(end > first ? end - first : 0) & ~attend_bits_below(begin > first ? begin - first : 0);
    }
    return bits;
}

/* Where the tables of offsets have the numbers of group `g` of a segment. */
static inline uint64_t attend_offset_group(const struct kernel_attend *attend, uint32_t segment, uint32_t g)
{
    const uint64_t group = (uint64_t)segment * KERNEL_SEGMENT_GROUPS + g;
    return attend->offset.order ? attend->offset.order[group] : group;
}

/* The even group of the pair that group `g` of the segment, seen, is one of: they lie side by side. */
static inline const char *attend_k_pair(const struct kernel_attend *attend, const struct attend_groups *groups,
                                        uint32_t g)
{
    return groups->k[g] - g % 2 * kernel_k_group_bytes(attend->k_format, attend->head_dim);
}

/* Fills the groups of the keys of `segment` that any query of the call sees. Asserts that the spans hold them all.
 * False when no query sees a key of it: the range is empty. */
bool attend_segment_groups(const struct kernel_attend *attend, uint32_t segment, struct attend_groups *groups);
/* Sets every (token, head) of `state` to "no keys yet". */
void attend_state_init(const struct kernel_attend *attend, float *state);

#endif
