/* kv_internal.h - shared by kv's own files only; grouped by file. */
#ifndef KV_KV_INTERNAL_H
#define KV_KV_INTERNAL_H
#include "kv/kv.h"

#define BLOCK_NONE UINT32_MAX
#define NODE_NONE UINT32_MAX
#define GROUP_NONE UINT32_MAX
#define SLAB_NONE UINT32_MAX
#define SLICED_NONE UINT32_MAX

/* ---- kind.c: what a kind of layer keeps -------------------------------------------------------------------------- */

/* Blocks [begin, end) of a table, which nothing will read again; begin >= end: none. It only grows with the position. */
struct kv_hole {
    uint32_t begin, end;
};

static inline bool hole_has(struct kv_hole hole, uint32_t block)
{
    return block >= hole.begin && block < hole.end;
}

enum kv_rows { ROWS_OWN, ROWS_OF_SOURCE, ROWS_NONE };

struct kind {
    const char *name;
    enum kv_rows rows;
    bool windowed, sinks; /* which numbers of kv_reach it reads */
    bool keeps_all;       /* hole() is always empty: whatever follows a block needs it */
    /* ROWS_OWN only. When the next token is at `position`: the blocks that it and its successors do without, and how many
     * of the tokens before it they read. */
    struct kv_hole (*hole)(const struct kv_reach *reach, uint32_t position, uint32_t block_tokens);
    uint32_t (*live_tokens)(const struct kv_reach *reach, uint32_t position);
    /* The most blocks that `tokens` tokens, computed `chunk` at a time, ever hold. */
    uint64_t (*blocks)(const struct kv_reach *reach, uint32_t tokens, uint32_t chunk, uint32_t block_tokens);
};
extern const struct kind kind_full, kind_sliding, kind_sinks, kind_shared, kind_none;
const struct kind *kind_of(enum kv_layer_kind kind); /* NULL: there is none of that number */

/* ---- layout.c: groups of heads, and where their rows lie --------------------------------------------------------- */

/* Where one head's rows lie inside a block of its group. */
struct kv_place {
    struct kv_reach reach;
    uint32_t group, index_group; /* GROUP_NONE: nothing is cached, or there are no entries of the index */
    uint32_t sliced; /* its number in kv_offload_tier.heads, or SLICED_NONE: its rows always stay in memory */
    uint64_t k_offset, v_offset, index_offset;
};

struct kv_layout {
    struct kv_place *places; /* every head of every layer */
    uint32_t *first_place;   /* [layer_count] place of the layer's head 0 */
    struct kv_group *groups; /* only reach, kind and sizes are filled in */
    uint32_t group_count;
};
MUST_CHECK enum status layout_init(const struct kv_config *config, struct kv_layout *out);
void layout_release(struct kv_layout *layout);
MUST_CHECK enum status layout_check(const struct kv_config *config, struct error *error);

/* ---- pool.c: memory for blocks ----------------------------------------------------------------------------------- */

/* Consecutive blocks whose memory is taken and given back together. */
struct kv_slab {
    uint32_t used;           /* blocks taken */
    uint32_t free_head;      /* its blocks that are not taken */
    uint32_t previous, next; /* of the group's open list, or (next) of its cold list */
    bool listed;             /* in the open list: it has free blocks, and is not cold */
};

enum block_state { BLOCK_FREE, BLOCK_HELD, BLOCK_CACHED };
enum segment { PASSED, PROBATION, PROTECTED, SEGMENTS }; /* of cached blocks, first to go first: block.c */

struct kv_block {
    enum block_state state;
    enum segment segment;    /* where it goes, or is, when cached */
    bool warm;               /* its memory may be real */
    uint32_t refs;           /* tables that hold it */
    uint32_t node;           /* published under this node, or NODE_NONE */
    uint32_t previous, next; /* free: next of its slab's list; cached: LRU list, oldest first */
    uint64_t released_at;    /* cached: the clock when its last holder let go; orders LRU lists across groups */
};

struct kv_lru {
    uint32_t oldest, newest, count;
};

/* Heads of one kind, window and sinks, and the blocks that hold their rows, or their entries in the index. */
struct kv_group {
    struct kv_reach reach;
    const struct kind *kind;
    bool index; /* of entries for retrieval, not of rows */
    uint64_t token_bytes, block_bytes;
    uint32_t blocks_max;   /* as many as the whole budget could hold */
    unsigned char *memory; /* [blocks_max * block_bytes] of address space */
    uint64_t memory_bytes;
    struct kv_block *blocks; /* [blocks_max] */
    struct kv_slab *slabs;   /* [slab_count] */
    uint32_t slab_blocks, slab_count, slabs_touched;
    uint32_t open_first, open_last, cold_head; /* slabs: partly used ones before empty ones; given back */
    uint32_t held_count;
    struct kv_lru cached[SEGMENTS];
};

MUST_CHECK enum status pool_init(struct kv_cache *cache, struct kv_group *group);
void pool_release(struct kv_group *group);
uint32_t pool_take(struct kv_cache *cache, struct kv_group *group); /* within the budget: the caller has seen to it */
void pool_give(struct kv_cache *cache, struct kv_group *group, uint32_t block);
void pool_trim(struct kv_cache *cache); /* gives the memory of empty slabs back; some stay while sequences are open */
unsigned char *block_address(const struct kv_group *group, uint32_t block);

/* ---- block.c: who holds a block, and which goes first ------------------------------------------------------------ */

uint32_t block_take(struct kv_cache *cache,
                    struct kv_group *group); /* held, refs 1; BLOCK_NONE: all else is held too */
void block_hold(struct kv_cache *cache, struct kv_group *group, uint32_t block);    /* one more table */
void block_release(struct kv_cache *cache, struct kv_group *group, uint32_t block); /* one table less */
void block_protect(struct kv_cache *cache, struct kv_group *group, uint32_t block); /* a second sequence uses it */
void block_pass(struct kv_cache *cache, struct kv_group *group, uint32_t block);    /* the same, behind a window */

/* ---- prefix.c: the tree of published blocks ---------------------------------------------------------------------- */

struct kv_key {
    unsigned char bytes[KV_KEY_BYTES];
};

/* One block's tokens after its parent's. In the tree (token_count > 0), spare (a sequence's) or free. */
struct kv_node {
    struct kv_key key;
    uint32_t parent, first_child, previous_sibling, next_sibling;
    uint32_t chain;       /* in the tree: next in its bucket; else next of its list */
    uint32_t refs;        /* sequences whose full blocks end here */
    uint32_t rows_count;  /* groups that have its rows */
    uint32_t token_count; /* block_tokens, or fewer: a partial block, a leaf; a root: SALT_TOKENS */
    uint32_t position;    /* of its first token; a root: 0 */
    uint32_t sent_s;      /* clock: when its rows last went to the tiers below RAM; 0: not all of them, or never */
    uint32_t data[];      /* [group_count] blocks, then [block_tokens] tokens */
};
#define SALT_TOKENS 2u
#define PREFIX_SLAB_NODES 128u

struct kv_tree {
    unsigned char **slabs; /* [slab_count] of PREFIX_SLAB_NODES nodes */
    uint32_t slab_count;
    uint64_t node_bytes;
    uint32_t free_head, free_count;
    uint32_t *buckets; /* heads of chains, power-of-two count, at least one a node */
    uint32_t bucket_count;
};

MUST_CHECK enum status prefix_grow(struct kv_cache *cache, uint32_t count); /* so that `count` nodes can be taken */
void prefix_release(struct kv_tree *tree);
uint64_t prefix_bytes(const struct kv_tree *tree);
uint32_t prefix_take(struct kv_cache *cache); /* a spare node */
void prefix_give(struct kv_cache *cache, uint32_t node);
struct kv_node *prefix_node(const struct kv_cache *cache, uint32_t node);
uint32_t *prefix_rows(struct kv_node *node);                                 /* [group_count] */
uint32_t *prefix_tokens(const struct kv_cache *cache, struct kv_node *node); /* [token_count] */
void prefix_key(const struct kv_cache *cache, uint32_t parent, const uint32_t *tokens, uint32_t count,
                struct kv_key *out);
/* The same below a block that need not be in the tree; NULL: of a root. */
void prefix_key_after(const struct kv_cache *cache, const struct kv_key *parent, const uint32_t *tokens, uint32_t count,
                      struct kv_key *out);
/* The child of `parent` with exactly these tokens, or NODE_NONE. parent NODE_NONE: roots. */
uint32_t prefix_find(const struct kv_cache *cache, uint32_t parent, const struct kv_key *key, const uint32_t *tokens,
                     uint32_t count);
/* The child of `parent` that has rows in all groups and begins with the most of `tokens`: *matched of them. */
uint32_t prefix_best(const struct kv_cache *cache, uint32_t parent, const uint32_t *tokens, uint32_t count,
                     uint32_t *matched);
void prefix_insert(struct kv_cache *cache, uint32_t spare, uint32_t parent, const struct kv_key *key,
                   const uint32_t *tokens, uint32_t count);
void prefix_attach(struct kv_cache *cache, uint32_t node, uint32_t group, uint32_t block);
void prefix_detach(struct kv_cache *cache, uint32_t group, uint32_t block); /* the caller prunes the node */
void prefix_prune(struct kv_cache *cache, uint32_t node); /* takes it, and its like above it, out if it is of no use */
void prefix_ref(struct kv_cache *cache, uint32_t node);
void prefix_unref(struct kv_cache *cache, uint32_t node); /* and prunes */

/* ---- cache.c ----------------------------------------------------------------------------------------------------- */

struct kv_cache {
    struct kv_layer *layers;
    uint32_t layer_count;
    struct kv_place *places;
    uint32_t *first_place;
    struct kv_group *groups;
    uint32_t group_count;
    uint32_t block_tokens;
    uint32_t
        closed_tokens; /* K rows close in groups of so many tokens: the unit in which rows are shared; 1 = each by itself */
    uint64_t *open_offset; /* [layer_count] of a layer's rows in a sequence's open_rows */
    uint64_t open_bytes;   /* of a sequence's open_rows */
    uint64_t bytes_max, bytes_pinned_max, bytes_protected_max;
    uint64_t bytes_taken;  /* held and cached blocks of all groups */
    uint64_t bytes_mapped; /* warm blocks of all groups: taken, or free and not given back */
    uint64_t bytes_cached[SEGMENTS];
    const struct kernel *kernel;
    bool share_prefixes, one_layer_at_a_time;
    unsigned char provenance[KV_KEY_BYTES];
    uint32_t key_bits;
    struct kv_tree tree;
    struct kv_seq *first_seq; /* all open sequences, those of pins too */
    struct kv_pin *first_pin; /* in order of name */
    struct kv_batch *pinned;  /* the batch between pin and unpin, or NULL */
    struct kv_batch *batch;   /* its storage */
    uint64_t clock;           /* counts releases, for LRU order */
    uint64_t queried_tokens, hit_tokens, evicted_blocks, copied_blocks;
    uint64_t opened_seqs;
    struct background *mover; /* NULL: no swap tier */
    /* Places in the tier, of which `going`: no sequence's any more, given back when the mover has unmapped them. */
    uint64_t swap_bytes_max, swap_bytes, swap_bytes_going;
    uint32_t swaps_moving; /* sequences on their way */
    uint64_t swaps_out, swaps_in, swap_copied_bytes;
    double swap_copy_s;
    struct kv_offload_tier *offload;                         /* NULL: all rows of sequences that run stay in memory */
    struct kv_lower *lower;                                  /* NULL: no tiers below RAM */
    void (*event)(void *data, const struct kv_event *event); /* or NULL */
    void *event_data;
};

/* ---- seq.c, match.c ---------------------------------------------------------------------------------------------- */

struct kv_table {
    uint32_t *blocks; /* [capacity]; BLOCK_NONE in the hole */
    uint32_t count, capacity;
    uint32_t passed; /* end of the hole that is made: blocks before it are let go, but for the kind's first ones */
    uint32_t copy;   /* while reserving: the block that the shared tail is copied to */
};

struct kv_seq {
    struct kv_cache *cache;
    struct kv_seq *previous_seq, *next_seq;
    uint64_t number;         /* from 1, in the order of opening */
    struct kv_table *tables; /* [group_count] */
    uint32_t count;          /* committed tokens */
    uint32_t reserved;       /* tokens for which the tables have blocks, all after `count` its own */
    uint32_t *tail;          /* [block_tokens]: tokens of the block that is not full yet */
    uint32_t node;        /* of the last full block that is published, or the root; NODE_NONE when nothing is shared */
    uint32_t publish_max; /* full blocks that may be: UINT32_MAX, or those that were when it stopped publishing */
    uint32_t spare_head, spare_count; /* nodes for the blocks that are not published yet */
    unsigned char *open_rows;         /* exact K rows of the group that is not closed yet; NULL where none closes */
    bool pinned;
    bool coming; /* a fetch's: all rows that its tables lack are to be read from a tier below RAM */
    enum kv_residence residence;
    struct kv_swap *swap;           /* its place in the swap tier; NULL: resident */
    struct kv_offloaded *offloaded; /* rows that are in a file, or on their way there; NULL: none */
};

/* An empty sequence. Where prefixes are shared it must then stand on the root of its salt. */
MUST_CHECK enum status seq_new(struct kv_cache *cache, struct kv_seq **out);
MUST_CHECK enum status seq_stand_on_root(struct kv_seq *seq, uint64_t salt);
/* Blocks for all tables' entries that the kinds keep when the next token is at `count`, but for those that the tables have
 * already: the sequence's own, with no rows yet. All, or none is left in the tables. */
MUST_CHECK enum status seq_take_kept(struct kv_seq *seq, uint32_t count);
/* Gives up the blocks from table index `count` on, later ones first: so that they are evicted before those they depend
 * on, in all groups alike. */
void seq_release_from(struct kv_seq *seq, uint32_t count);
/* Nodes for all blocks up to `want` that are to be published, the partial one included: publishing cannot fail. */
MUST_CHECK enum status seq_take_spares(struct kv_seq *seq, uint32_t want);
/* The block that ends at `seq->count` is full: its tokens are in the tail. */
void seq_publish_block(struct kv_seq *seq);
/* Publishes the sequence's blocks of table index `index` under `node`. Where another sequence has published the same
 * tokens, its rows are the same, and the sequence's own copy is let go. */
void seq_share_rows(struct kv_seq *seq, uint32_t index, uint32_t node);
uint32_t blocks_for(const struct kv_cache *cache, uint32_t tokens);
/* Where prefixes are shared: the full blocks that have nodes, the last of which the sequence stands on. */
uint32_t seq_published(const struct kv_seq *seq);
MUST_CHECK enum status table_grow(struct kv_table *table, uint32_t count);
struct kv_hole group_hole(const struct kv_cache *cache, const struct kv_group *group, uint32_t position);
/* Whether the table has no block there: behind a window, or offloaded. */
bool seq_lacks(const struct kv_seq *seq, uint32_t g, uint32_t b);
/* An empty sequence that shares the longest cached prefix of at most `limit` tokens; `again`: which that does not protect. */
MUST_CHECK enum status seq_open(struct kv_cache *cache, const uint32_t *tokens, uint32_t limit, uint64_t salt,
                                bool again, struct kv_seq **out);
/* Lets a new sequence, which stands on its root, share the longest prefix of `tokens` that all groups can serve. */
MUST_CHECK enum status match_prefix(struct kv_seq *seq, const uint32_t *tokens, uint32_t limit, bool again);

struct kv_batch {
    struct kv_cache *cache;
    struct kv_seq **seqs;
    uint32_t count, capacity;
};

/* ---- swap.c ------------------------------------------------------------------------------------------------------ */

struct kv_copy {
    unsigned char *block;
    uint64_t offset, bytes; /* in the sequence's place */
};

/* A sequence's place in the swap tier: its blocks, one after the other, by group, then table index. The mover's between
 * start and poll. */
struct kv_swap {
    struct background_task task;
    struct kv_seq *seq;    /* NULL: the place is going */
    unsigned char *memory; /* [bytes] */
    uint64_t bytes;
    bool out;
    uint32_t *nodes; /* [seq_published()] of its full blocks; unset where nothing is shared */
    uint64_t copied_bytes;
    double copy_s;
    uint32_t copy_count;
    struct kv_copy copies[];
};
void swap_forget(struct kv_seq *seq); /* before closing: nothing of it is on its way or in the tier */

/* ---- offload.c: rows of a running sequence, in a file ------------------------------------------------------------ */

/* A head whose rows can wait in a file, in slices: a unit's K and V rows and a checksum. */
struct kv_sliced_head {
    uint32_t group;
    uint64_t k_offset, v_offset; /* of its rows within a block */
    uint64_t k_bytes, v_bytes;   /* of a unit's */
    uint64_t file_offset;        /* of its slices within a block in the file */
};

/* The blocks of one group. */
struct kv_offload_file {
    struct file_scratch file;
    uint64_t block_bytes; /* 0: the group's blocks never go there */
    uint32_t taken, ever; /* places: in use; that ever were since the file was last empty */
    uint32_t *free;       /* [free_count], of `capacity` */
    uint32_t free_count, capacity;
};

struct kv_offload_tier {
    struct kv_sliced_head *heads;
    uint32_t head_count;
    struct kv_offload_file *files;     /* [group_count] */
    uint32_t unit_tokens, block_units; /* tokens of a unit, units of a block */
    uint64_t bytes_max, bytes;
    unsigned char *block;               /* one on its way out */
    uint64_t found_slices, read_slices; /* of sequences that are closed */
};

/* What a sequence has recalled of one head. On pool threads while pinned, by whoever has the head. */
struct kv_recalled {
    uint32_t *slot_of;           /* [units from kv_offloaded.begin on], or UNREAD */
    uint32_t *unit_of, *used_at; /* [slots] */
    uint32_t *missing;           /* [slots] scratch */
    uint32_t hand, now;
    uint64_t found, read;
    bool lost; /* a slice could not be read */
};

struct kv_offloaded {
    uint32_t begin, end, capacity; /* blocks [begin, end) are in the file; … */
    bool away;                     /* … and no longer in the tables */
    bool has_slots;
    uint32_t slots, slot_blocks; /* units of each head; blocks of each group */
    struct {
        uint32_t *places;         /* [capacity] in the file */
        uint32_t *slots;          /* [slot_blocks] blocks */
    } * groups;                   /* [group_count] */
    struct kv_recalled *recalled; /* [head_count] */
};

MUST_CHECK enum status offload_open(struct kv_cache *cache, const struct kv_config *config, struct error *error);
void offload_close(struct kv_cache *cache);
static inline bool offload_away(const struct kv_seq *seq)
{
    return seq->offloaded && seq->offloaded->away;
}
/* Whether that entry of the sequence's table is away; how many of the group's are; blocks that it has, or had, to recall them to. */
bool offload_has(const struct kv_seq *seq, uint32_t g, uint32_t b);
uint32_t offload_blocks(const struct kv_seq *seq, uint32_t g);
uint32_t offload_slot_blocks(const struct kv_seq *seq, uint32_t g);
void offload_stats(const struct kv_cache *cache, struct kv_stats *out);
MUST_CHECK enum status offload_take_slots(struct kv_seq *seq); /* of one whose rows are away; all or none */
void offload_release_slots(struct kv_seq *seq);
void offload_forget(struct kv_seq *seq); /* nothing of it is in a file any more */
void offload_rows(const struct kv_seq *seq, const struct kv_place *place, uint32_t position, const void **k,
                  const void **v);

/* ---- lower.c, fetch.c: tiers below RAM --------------------------------------------------------------------------- */

MUST_CHECK enum status lower_open(struct kv_cache *cache, const struct kv_config *config, struct error *error);
void lower_close(struct kv_cache *cache);
/* The block was published under its node, which is full: its rows go down. */
void lower_publish(struct kv_cache *cache, uint32_t node, uint32_t group, uint32_t block);
/* A full node's rows were found in RAM: now and then they go down again, so that there, too, they count as used, and what was
 * skipped or lost there comes back. */
void lower_refresh(struct kv_cache *cache, uint32_t node);
/* Blocks are wanted, and all are held: a fetch lets go of what has come, which can be evicted then. False: there is none. */
bool fetch_let_go(struct kv_cache *cache);

/* ---- pin.c: prefixes kept by name -------------------------------------------------------------------------------- */

struct kv_pin {
    struct kv_pin *next;
    char *name;
    struct kv_seq *seq; /* holds the prefix, and never runs */
};

#endif
