/* kv_internal.h - shared by kv's own files only; grouped by file. */
#ifndef KV_KV_INTERNAL_H
#define KV_KV_INTERNAL_H
#include "kv/kv.h"

#define BLOCK_NONE UINT32_MAX
#define KEY_BYTES 32

struct kv_key {
    unsigned char bytes[KEY_BYTES];
};

enum block_state { BLOCK_FREE, BLOCK_HELD, BLOCK_CACHED };

struct kv_block {
    enum block_state state;
    bool published;          /* in the group's prefix index */
    uint32_t refs;           /* tables that hold it */
    uint32_t previous, next; /* free: next of the free list; cached: LRU list, oldest first */
    uint32_t chain;          /* next block in its bucket of the index */
    uint64_t freed_at;       /* cached: when its last holder let go; orders LRU lists across groups */
    struct kv_key key;       /* published */
};

/* Layers of one kind and the blocks that hold them. */
struct kv_group {
    enum kv_layer_kind kind;
    uint32_t window;
    uint64_t block_bytes;
    uint32_t blocks_max;     /* as many as the whole budget could hold */
    uint32_t blocks_touched; /* blocks [0, touched) were taken at least once */
    unsigned char *memory;   /* [blocks_max * block_bytes] of address space */
    uint64_t memory_bytes;
    struct kv_block *blocks; /* [blocks_max] */
    uint32_t *tokens;        /* [blocks_max, block_tokens]: of published blocks */
    uint32_t free_head, cached_oldest, cached_newest;
    uint32_t held_count, cached_count;
    uint32_t *buckets; /* prefix index: heads of chains, power-of-two count; NULL when nothing is shared */
    uint32_t bucket_mask;
};

/* Where a layer's rows lie inside a block of its group. */
struct kv_place {
    uint32_t group;
    uint64_t offset;     /* of head 0's K */
    uint64_t head_bytes; /* from one head's K to the next head's */
    uint64_t k_bytes;    /* from a head's K to its V */
};

struct kv_cache {
    struct kv_layer *layers;
    struct kv_place *places;
    uint32_t layer_count;
    struct kv_group *groups;
    uint32_t group_count;
    uint32_t block_tokens;
    uint64_t bytes_max, bytes_taken; /* taken: held and cached blocks of all groups */
    const struct kernel *kernel;
    bool share_prefixes;
    struct kv_seq *first_seq; /* all open sequences */
    struct kv_batch *pinned;  /* the batch between pin and unpin, or NULL */
    struct kv_batch *batch;   /* its storage */
    uint64_t clock;           /* counts releases, for LRU order */
    uint64_t queried_tokens, hit_tokens, evicted_blocks;
};

struct kv_table {
    uint32_t *blocks; /* [capacity]; entries below `first` are BLOCK_NONE */
    uint32_t first, count, capacity;
};

struct kv_seq {
    struct kv_cache *cache;
    struct kv_seq *previous_seq, *next_seq;
    struct kv_table *tables; /* [group_count] */
    uint32_t count;          /* committed tokens */
    uint32_t reserved;       /* tokens for which the tables have blocks */
    uint32_t *tail;          /* [block_tokens]: tokens of the block that is not full yet */
    struct kv_key parent;    /* key of the last full block (or the salt's) */
    bool pinned;
};

struct kv_batch {
    struct kv_cache *cache;
    struct kv_seq **seqs;
    uint32_t count, capacity;
};

/* ---- block.c: the pool ---- */
uint32_t block_take(struct kv_cache *cache,
                    struct kv_group *group); /* held, refs 1; BLOCK_NONE: budget is used up by held blocks */
void block_hold(struct kv_cache *cache, struct kv_group *group, uint32_t block);    /* one more table */
void block_release(struct kv_cache *cache, struct kv_group *group, uint32_t block); /* one table less */
void block_trim(struct kv_group *group); /* gives the memory of free blocks back */
unsigned char *block_address(const struct kv_group *group, uint32_t block);

/* ---- prefix.c: the index ---- */
void prefix_root(uint64_t salt, struct kv_key *out);
void prefix_child(const struct kv_key *parent, const uint32_t *tokens, uint32_t count, struct kv_key *out);
uint32_t prefix_find(const struct kv_cache *cache, const struct kv_group *group, const struct kv_key *key,
                     const uint32_t *tokens);
void prefix_publish(struct kv_cache *cache, struct kv_group *group, uint32_t block, const struct kv_key *key,
                    const uint32_t *tokens);
void prefix_forget(struct kv_group *group, uint32_t block);
/* First block that a sliding group still needs when the next token is at `position`; 0 for a full group. */
uint32_t group_first_block(const struct kv_cache *cache, const struct kv_group *group, uint32_t position);

#endif
