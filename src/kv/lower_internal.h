/* lower_internal.h - between lower.c (what goes down) and fetch.c (what comes back). */
#ifndef KV_LOWER_INTERNAL_H
#define KV_LOWER_INTERNAL_H
#include "kv/kv_internal.h"

/* ---- rows in a store --------------------------------------------------------------------------------------------- */

/* What a store has under a key: this head, the block's tokens, zeros up to ROWS_ALIGNMENT, the block's rows. All but the rows
 * follows from the prefix and the cache's configuration, and is compared on the way back. */
struct lower_head {
    char magic[8];
    uint32_t version, token_count;
    struct kv_key fingerprint;          /* of the group: what its block looks like, and what rows depend on */
    unsigned char parent[KV_KEY_BYTES]; /* key of the block before it, which names all tokens before it */
};
#define ROWS_ALIGNMENT 64u

/* The head and the tokens of a block, [lower->head_bytes]. */
void lower_head_make(const struct kv_cache *cache, uint32_t group, const struct kv_key *parent, const uint32_t *tokens,
                     unsigned char *out);
/* The store's key of a group's rows of the block that `key` names. */
void lower_key(const struct kv_lower *lower, const struct kv_key *key, uint32_t group, struct store_key *out);

/* ---- one tier ---------------------------------------------------------------------------------------------------- */

/* A block's rows on their way down: the writer's between put and take. */
struct descent {
    struct background_task task;
    struct lower_tier *tier;
    struct descent *next; /* of the free ones */
    struct kv_key key;    /* of the block; the parent's is in the blob */
    struct store_key store_key;
    uint32_t group;
    uint64_t bytes;
    unsigned char *blob;
    enum status status;
    struct store_stats store_stats; /* after it was written */
};

struct lower_tier {
    enum kv_tier name;
    struct store *store;
    struct background *writer;
    struct descent *descents; /* [descent_count] */
    struct descent *idle;
    uint32_t descent_count, underway;
    unsigned char *memory; /* [memory_bytes] of all blobs */
    uint64_t memory_bytes;
    double read_s; /* of read_bytes, both faded: how fast it is */
    double read_bytes;
    struct kv_lower_stats stats; /* with the store's of when it was last used */
};

struct fetched; /* fetch.c */

struct kv_lower {
    struct lower_tier tiers[KV_LOWER_TIERS_MAX];
    uint32_t tier_count;
    uint32_t source; /* of what is published just now: the tier that it came from; tier_count: it was computed */
    struct kv_key *fingerprints; /* [group_count] */
    uint64_t head_bytes;         /* of a block's head and tokens, a multiple of ROWS_ALIGNMENT */
    uint64_t *blob_offset;       /* [group_count + 1] of the groups' blobs of one node, one after the other */
    double close_s;

    struct background *reader;
    struct fetched *arrivals, *idle_arrivals; /* [arrival_count]; those that are not underway */
    uint32_t arrival_count;
    unsigned char *memory; /* [memory_bytes] of all arrivals */
    uint64_t memory_bytes;
    struct kv_fetch *first_fetch; /* all that are open, or still underway */
    struct probe *probe;          /* underway, or NULL */
};

void tier_filled(struct lower_tier *tier, const struct store_stats *stats);
void tier_measured(struct lower_tier *tier, uint64_t bytes, double seconds);
void tier_tell(const struct kv_cache *cache, enum kv_event_kind kind, const struct lower_tier *tier,
               const struct kv_key *key, uint32_t group, const unsigned char *head);

/* ---- fetch.c ----------------------------------------------------------------------------------------------------- */

MUST_CHECK enum status fetch_init(struct kv_cache *cache, uint64_t queue_bytes, struct error *error);
void fetch_release(struct kv_cache *cache); /* every fetch already closed */
void fetch_poll(struct kv_cache *cache, double wait_s);

#endif
