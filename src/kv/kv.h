/* kv.h - every computed token's K and V, in fixed blocks, shared by prefix.
 *
 * The rules, the states and the invariants are in README.md beside this file; in short:
 * 1. Rows are readable only while pinned (kv_batch_pin … kv_batch_unpin). A pinned block never moves, is never evicted.
 * 2. A block that is shared (held twice, or published) is immutable: kv_seq_reserve copies a shared tail first.
 * 3. A block is published to the prefix index only when every layer wrote it; a hit is the longest boundary, in tokens,
 *    that all groups of heads can serve.
 * 4. One thread, the step loop, owns the cache; only kv_seq_write, kv_seq_spans, kv_seq_recall, kv_seq_reach and kv_seq_formats may run
 *    on pool threads, between pin and unpin, writers on disjoint heads.
 * 5. The budgets in bytes are never exceeded; memory is taken in kv_open, kv_seq_open, kv_seq_fork, kv_seq_reserve,
 *    kv_seq_swap_out, kv_seq_load, kv_batch_pin, kv_prefix_pin, kv_fetch_open and kv_fetch_start only (blocks in kv_lower_poll too).
 * kv chooses memory, not timing: nothing here waits, schedules or retries. */
#ifndef KV_KV_H
#define KV_KV_H
#include "base/base.h"
#include "kernel/kernel.h"
#include "kv/store.h"

/* ---- what a layer caches ----------------------------------------------------------------------------------------- */

/* A kind is a row of the table in kind.c; README.md says how to add one. */
enum kv_layer_kind {
    KV_FULL,    /* every token */
    KV_SLIDING, /* the last `window` tokens: token p reads [p - window + 1, p] */
    KV_SINKS,   /* these and the first `sinks` tokens (StreamingLLM, Xiao et al. 2023) */
    KV_SHARED,  /* stores nothing: reads the rows of layer `source`, which lies before it and stores its own */
    KV_NONE,    /* caches nothing, and is neither written nor read */
};

/* What one KV head caches, and so what its queries may read. */
struct kv_reach {
    enum kv_layer_kind kind;
    uint32_t window; /* KV_SLIDING, KV_SINKS: at least 1 */
    uint32_t sinks;  /* KV_SINKS: at least 1 */
};

struct kv_layer {
    enum kv_layer_kind kind;
    uint32_t window, sinks; /* as in kv_reach */
    uint32_t source;        /* KV_SHARED: whose shape and formats are the same */
    /* A policy for each KV head (selective caching: DuoAttention, Xiao et al. 2024), [kv_heads], or NULL: all as the
     * layer. Only of a layer that stores rows, and only kinds that do. Copied. */
    const struct kv_reach *heads;
    uint32_t kv_heads, head_dim, value_dim;
    enum number_format k_format, v_format;
    bool index; /* heads of kind KV_FULL have entries in the index for retrieval, in a group of blocks of its own; of a
                 * layer that stores rows */
};

/* Bytes of one token's K and V in one layer, all heads; 0 for a layer that stores nothing. */
uint64_t kv_layer_bytes_per_token(const struct kv_layer *layer);

#define KV_KEY_BYTES 32
#define KV_PROTECTED_PERCENT 80 /* a good protected_percent */

enum kv_tier {
    KV_TIER_MEMORY,
    KV_TIER_SWAP,
    KV_TIER_DISK,   /* a store (store.h): a folder */
    KV_TIER_REMOTE, /* a store: a server that others use too */
};
#define KV_LOWER_TIERS_MAX 2u

/* A tier below RAM. */
struct kv_lower_tier {
    enum kv_tier tier;
    struct store *store; /* borrowed: it outlives the cache */
};

struct kv_config {
    const struct kv_layer *layers; /* copied */
    uint32_t layer_count;
    uint32_t block_tokens;     /* a multiple of 16, 16…128 */
    uint64_t bytes_max;        /* of block memory */
    uint64_t bytes_pinned_max; /* of these, for prefixes pinned by name; one sequence must fit beside them */
    uint64_t swap_bytes_max;   /* beside bytes_max, for the blocks of sequences that are swapped out; 0 = none */
    const struct kv_lower_tier *lower; /* copied; the fastest first. With share_prefixes only */
    uint32_t lower_count;              /* at most KV_LOWER_TIERS_MAX */
    uint64_t lower_queue_bytes; /* beside bytes_max, for blocks on their way: into each tier, and back; taken as used */
    const char
        *offload_folder; /* where files without a name take the rows that kv_seq_offload puts out; NULL: nothing does */
    uint64_t offload_bytes_max;  /* of them */
    double lower_close_s;        /* kv_close waits so long for blocks on their way down, and a store's patience */
    uint32_t protected_percent;  /* of bytes_max, for cached blocks that a second sequence has used; 0 = plain LRU */
    const struct kernel *kernel; /* borrowed: lays rows out inside a block */
    bool share_prefixes;         /* publish blocks, serve hits */
    bool one_layer_at_a_time;    /* no cache: layers of one shape overwrite each other's rows (--no-kv-cache) */
    /* Digest of all that rows depend on beside tokens: weights, adapter, rope, formats, policy, instruction set, version
     * of the arithmetic. Part of every key. */
    unsigned char provenance[KV_KEY_BYTES];
    uint32_t key_bits; /* 0 = all 256; tests use fewer, so that keys collide */
};

struct kv_cache;
struct kv_seq;
struct kv_batch;

MUST_CHECK enum status kv_open(const struct kv_config *config, struct kv_cache **out, struct error *error);
void kv_close(struct kv_cache *cache); /* every sequence already closed; unpins all prefixes */

/* Bytes that one sequence of `tokens` tokens, computed `chunk` tokens at a time, takes at its largest: whole blocks. A
 * sequence that is alone can always reserve within it. UINT64_MAX: no memory to find out. */
uint64_t kv_bytes_needed(const struct kv_config *config, uint32_t tokens, uint32_t chunk);

/* ---- sequences --------------------------------------------------------------------------------------------------- */

/* Opens a sequence that will begin with `tokens`, sharing the longest cached prefix, to the token: *cached tokens are
 * there already, always fewer than `count` (the last token must run to give logits). `salt` isolates tenants (0 = common).
 * ST_NOMEM leaves nothing behind. */
MUST_CHECK enum status kv_seq_open(struct kv_cache *cache, const uint32_t *tokens, uint32_t count, uint64_t salt,
                                   struct kv_seq **out, uint32_t *cached);
/* The same for whoever goes on with what a sequence of his has just left there: all `count` tokens may be shared, what is cached does not
 * count as used a second time, and nothing is counted. */
MUST_CHECK enum status kv_seq_reopen(struct kv_cache *cache, const uint32_t *tokens, uint32_t count, uint64_t salt,
                                     struct kv_seq **out);
/* From the next token on the sequence's rows are no longer what its tokens alone give (retrieval attention; answers where prompts
 * have tiles): nobody may find them. What it has is cached like a closing sequence's, the partial block too; what was reserved beyond
 * it is given up, and the next reserve copies a shared tail. From then on nothing is published, nor after a cut or in a fork; such a
 * sequence cannot be saved. */
void kv_seq_stop_publishing(struct kv_seq *seq);
/* A second sequence with the same tokens, which shares every block: parallel samples, beams. Nothing is copied now; who
 * goes on first copies the block that is not full. What `seq` had reserved beyond its tokens is given up: both reserve
 * again. ST_UNSUPPORTED with one_layer_at_a_time. */
MUST_CHECK enum status kv_seq_fork(struct kv_seq *seq, struct kv_seq **out);
/* Blocks for `count` more tokens, evicting unpinned cached blocks where needed; a shared tail is copied. All or nothing;
 * ST_FULL: preempt, retry. */
MUST_CHECK enum status kv_seq_reserve(struct kv_seq *seq, uint32_t count);
/* Rows of heads [head_begin, head_end) for `count` tokens from `position` (>= kv_seq_count, reserved, pinned). K row of
 * head h of token i: k + i * k_stride + h * head_dim; V likewise. What is written is final. */
void kv_seq_write(struct kv_seq *seq, uint32_t layer, uint32_t head_begin, uint32_t head_end, uint32_t position,
                  uint32_t count, const float *k, uint64_t k_stride, const float *v, uint64_t v_stride);
/* Every layer wrote `count` tokens after kv_seq_count(): they are part of the sequence. Full blocks are published;
 * blocks that the windows have passed are let go. Not while pinned. */
void kv_seq_commit(struct kv_seq *seq, const uint32_t *tokens, uint32_t count);
/* Keeps the first `count` tokens (at most kv_seq_count) and what they need, and gives up all that was reserved. A block
 * that is cut and shared is copied by the next reserve. ST_LIMIT, and nothing changed: a window has passed rows that the
 * next token would read, and they are cached no longer; or a closed group of K rows would be cut (a multiple of 32 never
 * does). */
MUST_CHECK enum status kv_seq_truncate(struct kv_seq *seq, uint32_t count);
uint32_t kv_seq_count(const struct kv_seq *seq);
void kv_seq_close(struct kv_seq *seq); /* its blocks, the partial one too, stay cached until evicted; NULL is allowed */
/* Block bytes and blocks that the sequence holds now (shared ones counted in full). */
void kv_seq_usage(const struct kv_seq *seq, uint64_t *bytes, uint64_t *blocks);
/* Bytes of the blocks that it would have to take to hold `tokens` tokens (at least kv_seq_count), computed `chunk` at a time:
 * what it holds or has reserved counts. Not of a sequence that is swapped out: that takes kv_bytes_needed. */
uint64_t kv_seq_bytes_missing(const struct kv_seq *seq, uint32_t tokens, uint32_t chunk);
/* Bytes of blocks that nobody holds: free ones, and cached ones, which kv_seq_reserve evicts. */
uint64_t kv_bytes_free(const struct kv_cache *cache);
uint64_t kv_evictions(const struct kv_cache *cache); /* so far: as long as it is the same, what was cached still is */

/* ---- reading ----------------------------------------------------------------------------------------------------- */

/* Once per step: what the step writes and reads stays where it is until unpin. */
MUST_CHECK enum status kv_batch_pin(struct kv_cache *cache, struct kv_seq *const *seqs, uint32_t count,
                                    struct kv_batch **out);
void kv_batch_unpin(struct kv_batch *batch);
/* Spans of one KV head that cover positions [begin, end): one a block, ascending, the first one beginning at a block
 * boundary at or before `begin`. A head with sinks has a gap where its window has passed; there may then be no span at
 * all. A head without them must not be asked for what its window has passed. Returns their number, at most
 * kv_spans_max(). Borrowed until unpin. */
uint32_t kv_seq_spans(const struct kv_seq *seq, uint32_t layer, uint32_t head, uint32_t begin, uint32_t end,
                      struct kernel_span *out);
/* K of a format that closes groups (kernel_k_closes: int4, fp8_e4m3) is written 32 tokens at a time: kv_seq_write leaves it alone, and the
 * rows of the group that is not full yet are kept exact (f16), beside the blocks. They are lost once their group is closed.
 *   kv_seq_open_rows()    where they are, between pins too: two f16 key groups; NULL for a format that closes none. To be
 *                         read and written by whoever has the head
 *   kv_seq_close_group()  quantises a full group of exact rows, laid out like these, into its block; position: a multiple of 32 */
void *kv_seq_open_rows(const struct kv_seq *seq, uint32_t layer, uint32_t head);
void kv_seq_close_group(struct kv_seq *seq, uint32_t layer, uint32_t head, uint32_t position, const void *exact);
/* One KV head's rows of the key group (16 tokens) that holds `position`, which the head still keeps. Borrowed until unpin. */
void kv_seq_group_rows(const struct kv_seq *seq, uint32_t layer, uint32_t head, uint32_t position, const void **k,
                       const void **v);
/* Entries of the index for retrieval (kv_layer.index): one for each key group of a head that keeps every token, to be written by whoever has
 * the head (kernel_index_write) when the group's rows are all there.
 *   kv_seq_indexed()      whether the head has entries
 *   kv_seq_index_block()  where those of the block lie that holds `position`; *per_block: how many they are, block_tokens / 16
 *   kv_seq_index()        where those of key groups [0, count) lie: a pointer for each block into `out`; returns how many a block has */
bool kv_seq_indexed(const struct kv_seq *seq, uint32_t layer, uint32_t head);
void *kv_seq_index_block(const struct kv_seq *seq, uint32_t layer, uint32_t head, uint32_t position,
                         uint32_t *per_block);
uint32_t kv_seq_index(const struct kv_seq *seq, uint32_t layer, uint32_t head, uint32_t count, const void **out);
/* Index in kv_groups() of the group whose blocks hold the head's rows. */
uint32_t kv_seq_group(const struct kv_seq *seq, uint32_t layer, uint32_t head);
/* An order of sequences of one cache in which those that share blocks of the head's group stand together: negative when `a` comes
 * before `b`, positive when after, 0 when either will do. Of sorted sequences each pair of neighbours has *shared: that many
 * positions, from 0 on, are the same memory in both. Looks at no more blocks than these. */
int kv_seq_compare(const struct kv_seq *a, const struct kv_seq *b, uint32_t layer, uint32_t head, uint32_t *shared);
/* What one KV head's queries may read; of a shared layer, what its source caches. */
struct kv_reach kv_seq_reach(const struct kv_seq *seq, uint32_t layer, uint32_t head);
/* How that layer's rows are stored. */
void kv_seq_formats(const struct kv_seq *seq, uint32_t layer, enum number_format *k, enum number_format *v);
uint32_t kv_spans_max(const struct kv_cache *cache, uint32_t tokens); /* for `tokens` positions, however aligned */

/* ---- swapping a sequence out and in ------------------------------------------------------------------------------ */

/* A sequence's blocks move to the swap tier, memory of its own budget (swap_bytes_max), and back, byte for byte. A thread
 * of the cache, the mover, copies; what it has done takes effect in kv_swap_poll, so the owner never waits for a copy:
 *
 *                 kv_seq_swap_out                    kv_swap_poll
 *   KV_RESIDENT ──────────────────▶ KV_SWAPPING_OUT ─────────────▶ KV_SWAPPED
 *     ▲     ▲                          │                             │     ▲
 *     │     └──── kv_seq_swap_in ──────┘             kv_seq_swap_in  │     │ kv_seq_swap_out
 *     │            (at once)             kv_swap_poll                ▼     │ (at once)
 *     └────────────────────────────────────────────────────── KV_SWAPPING_IN
 *
 * Until the way out is done the blocks are still held. Every block is copied, those that others share too: the way back
 * depends on nothing but free blocks, though what is still cached then is shared and not copied.
 * Unless it is resident, a sequence may only be counted, asked for its usage, swapped and closed. */
enum kv_residence { KV_RESIDENT, KV_SWAPPING_OUT, KV_SWAPPED, KV_SWAPPING_IN };
enum kv_residence kv_seq_residence(const struct kv_seq *seq);
/* What was reserved beyond its tokens is given up. ST_FULL: the tier has no room. ST_NOMEM. */
MUST_CHECK enum status kv_seq_swap_out(struct kv_seq *seq);
/* ST_FULL: not enough blocks, even if all that are cached are evicted. */
MUST_CHECK enum status kv_seq_swap_in(struct kv_seq *seq);
/* Takes in what the mover has done; `wait`: first waits until it has nothing left to do. Returns whether sequences are
 * still on their way. Not while pinned. */
bool kv_swap_poll(struct kv_cache *cache, bool wait);

/* ---- offloading what retrieval attention seldom reads ------------------------------------------------------------ */

/* Of a sequence whose tokens read only some of their keys, all heads with entries in the index and nothing else in their group, the
 * rows of tokens [from, to), in whole blocks, may wait in a file: at most `most` blocks are written in a call. When all of them are
 * there their blocks are given up, and then those that follow as `to` grows; `from` stays. The entries of the index stay in memory. What one token recalls of a head, at most
 * `recall_tokens` of these, as of the first call, is read back into blocks that the sequence keeps for it.
 *
 * The sequence has stopped publishing (in a cache that shares prefixes). Once its rows are away it cannot be forked, nor be cut
 * below `to`; it can be swapped. Its rows are the same bytes, so whoever reads them finds no difference.
 * ST_UNSUPPORTED: no offload_folder, or no such heads; ST_LIMIT: offload_bytes_max; ST_IO: the disk is full, or fails; ST_FULL: no
 * blocks now; ST_NOMEM. After an error it goes on with what is in memory, and may try again. */
MUST_CHECK enum status kv_seq_offload(struct kv_seq *seq, uint32_t from, uint32_t to, uint32_t recall_tokens,
                                      uint32_t most);
/* While pinned, by whoever has the head, once a pass: of these key groups, ascending (pairs where K closes), kv_seq_group_rows gives
 * the rows until unpin. What is in memory already costs nothing. */
void kv_seq_recall(struct kv_seq *seq, uint32_t layer, uint32_t head, const uint32_t *groups, uint32_t count);
/* A disk failed: what was computed since it was last false is wrong, and the sequence of no more use. */
bool kv_seq_lost(const struct kv_seq *seq);

/* ---- tiers below RAM --------------------------------------------------------------------------------------------- */

/* A full block that is published goes to every store: its rows are copied out at once (a block costs the time of one copy, the
 * computing of its rows a thousand times that), and a thread of each tier writes them. Where a store does not keep up, blocks
 * are skipped. So the stores have what was computed up to a moment ago, also if the program is killed.
 *
 * On the way back a caller that has a prompt asks for what the stores have of it beyond what is cached. A thread looks
 * and reads; what it has done takes effect in kv_lower_poll, so the owner never waits for a disk or a server unless it
 * wants to. What comes is published and cached like what was computed:
 *
 *   kv_fetch_open            kv_lower_poll            kv_fetch_start            kv_lower_poll
 *  ──────────────▶ LOOKING ───────────────▶ FOUND ─────────────────▶ READING ──────────────────▶ DONE
 *                     │                       ▲                         │                          ▲
 *                     │ nothing there         └─ a block was not there, or damaged: a shorter prefix ┤
 *                     └────────────────────────────────────────────────────────────────────────────┘
 *
 * Each block comes with its parent's key and its tokens, which are compared; a bad, late or vanished one is a miss. */
struct kv_fetch;
enum kv_fetch_state { KV_FETCH_LOOKING, KV_FETCH_FOUND, KV_FETCH_READING, KV_FETCH_DONE };

/* Looks for the prefix of `tokens` (of which the last must run, as in kv_seq_open). *out is NULL where nothing can be found: no
 * tier, or all whole blocks are cached. ST_NOMEM. */
MUST_CHECK enum status kv_fetch_open(struct kv_cache *cache, const uint32_t *tokens, uint32_t count, uint64_t salt,
                                     struct kv_fetch **out);
/* FOUND to READING, or to DONE where all is cached by now. One fetch reads at a time: ST_FULL, another one does. ST_NOMEM. */
MUST_CHECK enum status kv_fetch_start(struct kv_fetch *fetch);
/* At any time; what has come stays cached. What is still being read is not waited for. */
void kv_fetch_close(struct kv_fetch *fetch); /* NULL is allowed */

struct kv_fetch_info {
    enum kv_fetch_state state;
    uint32_t cached;  /* FOUND and later: tokens that were cached when it was FOUND, … */
    uint32_t found;   /* … that will be when all has been read, … */
    uint32_t arrived; /* … and that are now */
    uint64_t bytes_left;
    double left_s; /* that reading them takes, by what was measured of the tiers; 0: nothing was measured yet */
    uint32_t from[KV_LOWER_TIERS_MAX]; /* tokens that came from each tier */
};
void kv_fetch_info(const struct kv_fetch *fetch, struct kv_fetch_info *out);

/* Takes in what the threads have done; first waits at most `wait_s` seconds for a fetch to get on, if one can. Not while
 * pinned. */
void kv_lower_poll(struct kv_cache *cache, double wait_s);
/* Waits until all blocks on their way down are written, at most so long; whether they are. */
bool kv_lower_flush(struct kv_cache *cache, double wait_s);

struct kv_lower_stats {
    enum kv_tier tier;
    uint64_t bytes, bytes_max, blobs;        /* in a folder, when it was last written to; 0 of a server */
    uint64_t written_blocks, written_bytes;  /* as rows, not compressed */
    uint64_t skipped_blocks, refused_blocks; /* not written: the queue was full; the store did not take them */
    uint64_t read_blocks, read_bytes;
    uint64_t missed_blocks, bad_blocks; /* that were said to be there: gone, late or damaged; of something else */
    double read_s;                      /* the reader's time for them */
};
/* Of the tiers in their order; returns how many there are. */
uint32_t kv_lower_stats(const struct kv_cache *cache, struct kv_lower_stats out[KV_LOWER_TIERS_MAX]);

/* ---- files ------------------------------------------------------------------------------------------------------- */

/* Writes the sequence's tokens and all rows it holds to `path`, under a temporary name first: there is a whole file or
 * none. The format is in save.c. The bytes depend on the tokens and the cache's configuration only. ST_UNSUPPORTED in a
 * cache that does not share prefixes: it does not know its sequences' tokens; and of a sequence that has stopped publishing. ST_IO, ST_NOMEM. Needs a resident sequence;
 * nothing is changed. */
MUST_CHECK enum status kv_seq_save(const struct kv_seq *seq, const char *path, struct error *error);
/* A sequence as it was saved, from a file that may hold anything: it is checked against this cache's fingerprint
 * (provenance, layers, formats, block size) and every record against its checksum before anything is published. A
 * checksum is no signature: who can write the file can choose the rows. Full blocks are shared as by kv_seq_commit, under
 * `salt`. ST_INVALID, ST_IO: the file; ST_UNSUPPORTED: another model, configuration or version; ST_FULL: no blocks now;
 * ST_NOMEM. */
MUST_CHECK enum status kv_seq_load(struct kv_cache *cache, const char *path, uint64_t salt, struct kv_seq **out,
                                   struct error *error);
/* The tokens [begin, begin + count) of the sequence, which must be in a cache that shares prefixes, and publish. */
void kv_seq_tokens(const struct kv_seq *seq, uint32_t begin, uint32_t count, uint32_t *out);

/* ---- prefixes pinned by name ------------------------------------------------------------------------------------- */

/* Keeps what is cached of `tokens` from being evicted: *pinned tokens of it, at most `count`; a pin of the same name is
 * replaced. To preload a prefix, run it first. ST_NOT_FOUND: nothing of it is cached. ST_LIMIT: more than
 * bytes_pinned_max. After an error the old pin is still there. */
MUST_CHECK enum status kv_prefix_pin(struct kv_cache *cache, const char *name, const uint32_t *tokens, uint32_t count,
                                     uint64_t salt, uint32_t *pinned);
MUST_CHECK enum status kv_prefix_unpin(struct kv_cache *cache, const char *name); /* ST_NOT_FOUND */
struct kv_prefix {
    const char *name; /* borrowed until it is unpinned */
    uint32_t tokens;
    uint64_t bytes; /* of its blocks, also those that another pin or a sequence shares */
};
/* The first `capacity` pins in order of name; returns how many there are. */
uint32_t kv_prefix_list(const struct kv_cache *cache, struct kv_prefix *out, uint32_t capacity);

/* ---- looking in -------------------------------------------------------------------------------------------------- */

struct kv_stats {
    /* mapped: block memory that may be real; used: blocks held by sequences; cached: published, held by none, of which
     * protected: used by a second sequence. */
    uint64_t bytes_max, bytes_mapped, bytes_used, bytes_cached, bytes_protected, bytes_pinned;
    uint64_t bytes_wasted;   /* of bytes_used: rows that no token's next step can read; a shared block's are divided */
    uint64_t bytes_metadata; /* of the prefix index and of sequences' open K rows, beside the budget */
    uint64_t blocks_used, blocks_cached;
    uint64_t bytes_per_token; /* all layers, for a token that every layer still holds */
    uint64_t prefix_queried_tokens, prefix_hit_tokens, evicted_blocks, copied_blocks;
    uint64_t bytes_offload_max, bytes_offloaded; /* in files: rows of sequences that run */
    uint64_t recalled_slices,
        read_slices; /* that were still in memory, and that were read: one head's rows of 16 or 32 tokens */
    uint64_t bytes_swap_max, bytes_swapped; /* of the swap tier, beside bytes_max; on their way out, in or there */
    uint64_t swaps_out, swaps_in;           /* begun; those that were called back before they were done, too */
    uint64_t swap_copied_bytes;             /* in both directions */
    double swap_copy_s;                     /* the mover's time for them */
    uint32_t block_tokens, sequences, pinned_prefixes;
};
void kv_stats(const struct kv_cache *cache, struct kv_stats *out);

/* 1, 2, … in the order of opening: names a sequence in a snapshot. */
uint64_t kv_seq_number(const struct kv_seq *seq);

/* Heads of one kind, window and sinks, of whatever layers: what one block holds for its tokens. */
struct kv_group_info {
    struct kv_reach reach;
    bool index; /* what it holds for its tokens are entries of the index for retrieval */
    uint64_t block_bytes, token_bytes;
};
/* The first `capacity` groups; returns how many there are. */
uint32_t kv_groups(const struct kv_cache *cache, struct kv_group_info *out, uint32_t capacity);

enum kv_block_state {
    KV_BLOCK_HELD,   /* by a sequence, or a prefix pinned by name */
    KV_BLOCK_CACHED, /* published, held by none: may be evicted */
};
/* One block in use, or one of a sequence that is swapped out or offloaded. */
struct kv_block_info {
    uint32_t group,
        index; /* of kv_groups; within the group, in the swap tier within its sequence, or offloaded within the file */
    enum kv_tier tier;
    enum kv_block_state state;
    bool published;      /* in the prefix index: others can share it */
    bool pinned;         /* held by a prefix pinned by name */
    bool moving;         /* being copied to or from the swap tier */
    bool is_protected;   /* a second sequence has used it: evicted last */
    uint32_t references; /* sequences and pins that hold it */
    uint32_t tokens;     /* with rows; less than block_tokens: a partial block, 0: only reserved */
    uint32_t position;   /* of its first token */
    uint64_t owner;      /* kv_seq_number of the oldest holder; 0: none */
    uint64_t key;        /* the first 8 bytes of its key, as a big-endian number; 0: not published */
    uint64_t age;        /* cached: releases of cached blocks since its own, 0 = the last one released */
};
/* Every block in use, by group and index, then those in the swap tier, then those offloaded (KV_TIER_DISK): the first `capacity` of them; returns how many there
 * are. Two snapshots without a call between them are the same. */
uint32_t kv_snapshot(const struct kv_cache *cache, struct kv_block_info *out, uint32_t capacity);

/* What the prefix index gains and loses, block by block: enough for somebody outside to know what is cached. Of the tiers below
 * RAM, what was written there, and what was found to be damaged; what a store drops to make room it does not tell. */
enum kv_event_kind { KV_EVENT_STORED, KV_EVENT_REMOVED };
struct kv_event {
    enum kv_event_kind kind;
    enum kv_tier tier;
    uint32_t group; /* of kv_groups: a prefix can be served where all groups have what they need of it */
    uint64_t bytes; /* of the block */
    const unsigned char *key, *parent; /* [KV_KEY_BYTES]; the parent of a first block is the root of its salt */
    const uint32_t *tokens;
    uint32_t token_count; /* fewer than block_tokens: a partial block */
};
/* `event` is called by the owner's thread, inside the call that causes it, and must not call this cache; its pointers are
 * borrowed for that time. NULL: nobody. kv_close reports nothing. */
void kv_events_set(struct kv_cache *cache, void (*event)(void *data, const struct kv_event *event), void *data);

/* Checks every invariant of README.md; the first one broken is described in `error`. For tests and debug builds. */
MUST_CHECK enum status kv_check(const struct kv_cache *cache, struct error *error);

#endif
