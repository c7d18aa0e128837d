/* attend_internal.h - how the attention of a pass is cut into calls of the kernel: the plan that attend_plan.c makes and attend.c
 * follows. A plan holds for every KV head that reads the same group of blocks in the same way, so a pass makes one or two. */
#ifndef MODEL_ATTEND_INTERNAL_H
#define MODEL_ATTEND_INTERNAL_H
#include "run_internal.h"

#define SHARE_NONE UINT32_MAX

/* Tiles of different sequences that begin with the same blocks. One call reads these for all their queries, which gives the state
 * that each query would have reached alone (kernel_attend.resume). */
struct share {
    uint32_t first, count; /* of plan->order */
    uint32_t tokens;       /* of all its tiles, TILE_TOKENS at most */
    uint32_t keys;  /* all of its tokens see keys [0, keys), and these are the same memory; a multiple of attend_unit */
    uint64_t state; /* place of its states, one for each segment */
};

struct tile_plan {
    uint32_t share, token; /* or SHARE_NONE; its first token's place among the share's */
    bool whole;            /* one call for all keys; else its segments are places, and it is folded */
    bool retrieves;        /* its segments are of keys that are chosen: retrieve.c */
    uint32_t begin, end;   /* segments that are its own: of keys that it sees and no share has begun */
    uint64_t state;        /* place of its own states: of each of these segments, then of the open group */
};

/* A piece of work, for each KV head of the plan. */
enum place_kind { PLACE_SHARED, PLACE_TILE, PLACE_SEGMENT, PLACE_CHOSEN, PLACE_OPEN };
struct place {
    enum place_kind kind;
    uint32_t index;   /* share or tile */
    uint32_t tiles;   /* PLACE_TILE: from that on */
    uint32_t segment; /* of the others; PLACE_CHOSEN: of the keys that were chosen, as many as a segment has */
};

struct attend_plan {
    /* what it holds for */
    uint32_t group; /* kv_seq_group() */
    struct kv_reach reach;
    bool closes;
    uint32_t retrieving; /* tiles that retrieve: from layer to layer there are more, so the number says which */
    uint32_t unit;       /* attend_unit() */
    uint32_t stamp;      /* 1 + the last layer that used it; 0: it holds for nothing */

    struct tile_plan *tiles; /* [tile_count] */
    struct share *shares;
    uint32_t *order;      /* tiles, those of a share side by side */
    struct place *places; /* the largest first */
    uint32_t *folded;     /* tiles that are not whole: when all places are done, their states are folded */
    uint32_t share_count, place_count, folded_count;
};

/* The plan for one head of run->layer; its work may be done in any order, by any worker. */
struct attend_plan *attend_plan(struct model_run *run, uint32_t head);

/* First position of the closing group that the tile lies in. */
static inline uint32_t open_begin(const struct tile *tile)
{
    return tile->position / KERNEL_CLOSED_TOKENS * KERNEL_CLOSED_TOKENS;
}

/* Segments of which a share has read keys, the last one perhaps only in part. */
static inline uint32_t share_segments(const struct share *share)
{
    return (share->keys + KERNEL_SEGMENT_TOKENS - 1) / KERNEL_SEGMENT_TOKENS;
}

#endif
