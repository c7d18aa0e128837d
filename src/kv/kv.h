/* kv.h - every computed token's K and V, in fixed blocks, shared by prefix.
 *
 * The rules are in README.md beside this file; in short:
 * 1. Rows are readable only while pinned (kv_batch_pin … kv_batch_unpin). A pinned block never moves, is never evicted.
 * 2. A shared block is immutable.
 * 3. A full block is published to the prefix index only when every layer wrote it (kv_seq_commit); a hit is the longest
 *    boundary that all layer groups can serve.
 * 4. One thread, the step loop, owns the cache; only kv_seq_write and kv_seq_spans may run on pool threads, between pin
 *    and unpin, writers on disjoint heads.
 * 5. The budget in bytes is never exceeded; nothing is allocated between pin and unpin.
 * kv chooses memory, not timing: nothing here waits, schedules or retries. */
#ifndef KV_KV_H
#define KV_KV_H
#include "base/base.h"
#include "kernel/kernel.h"

/* ---- what a layer caches ----------------------------------------------------------------------------------------- */

enum kv_layer_kind {
    KV_FULL,    /* every token */
    KV_SLIDING, /* the last `window` tokens: token p reads [p - window + 1, p]; older blocks are freed */
};

struct kv_layer {
    enum kv_layer_kind kind;
    uint32_t window; /* KV_SLIDING */
    uint32_t kv_heads, head_dim, value_dim;
    enum number_format k_format, v_format; /* NF_F32 or NF_F16 */
};

/* Bytes of one token's K and V in one layer: kv_heads * (head_dim * bytes(k) + value_dim * bytes(v)). */
uint64_t kv_layer_bytes_per_token(const struct kv_layer *layer);

struct kv_config {
    const struct kv_layer *layers; /* copied */
    uint32_t layer_count;
    uint32_t block_tokens;       /* a multiple of 16, 16…128 */
    uint64_t bytes_max;          /* of block memory */
    const struct kernel *kernel; /* borrowed: lays rows out inside a block */
    bool share_prefixes;         /* publish full blocks, serve hits */
    bool one_layer_at_a_time;    /* no cache: layers of one shape overwrite each other's rows (--no-kv-cache) */
};

struct kv_cache;
struct kv_seq;
struct kv_batch;

MUST_CHECK enum status kv_open(const struct kv_config *config, struct kv_cache **out, struct error *error);
void kv_close(struct kv_cache *cache); /* every sequence already closed */

/* Bytes that one sequence of `tokens` tokens, computed `chunk` tokens at a time, takes at its largest: whole blocks. */
uint64_t kv_bytes_needed(const struct kv_config *config, uint32_t tokens, uint32_t chunk);

/* ---- sequences --------------------------------------------------------------------------------------------------- */

/* Opens a sequence that will begin with `tokens`, sharing the longest cached prefix: *cached tokens are there already,
 * always fewer than `count` (the last token must run to give logits). `salt` isolates tenants (0 = common). */
MUST_CHECK enum status kv_seq_open(struct kv_cache *cache, const uint32_t *tokens, uint32_t count, uint64_t salt,
                                   struct kv_seq **out, uint32_t *cached);
/* Blocks for `count` more tokens, evicting unpinned cached blocks where needed. All or nothing; ST_FULL: preempt,
 * retry. */
MUST_CHECK enum status kv_seq_reserve(struct kv_seq *seq, uint32_t count);
/* Rows of heads [head_begin, head_end) for `count` tokens from `position` (>= kv_seq_count, reserved, pinned). K row of
 * head h of token i: k + i * k_stride + h * head_dim; V likewise. What is written is final. */
void kv_seq_write(struct kv_seq *seq, uint32_t layer, uint32_t head_begin, uint32_t head_end, uint32_t position,
                  uint32_t count, const float *k, uint64_t k_stride, const float *v, uint64_t v_stride);
/* Every layer wrote `count` tokens after kv_seq_count(): they are part of the sequence. Full blocks are published;
 * blocks that the windows have passed are freed. Not while pinned. */
void kv_seq_commit(struct kv_seq *seq, const uint32_t *tokens, uint32_t count);
uint32_t kv_seq_count(const struct kv_seq *seq);
void kv_seq_close(struct kv_seq *seq); /* published blocks stay cached until evicted */
/* Block bytes and blocks that the sequence holds now (shared ones counted in full). */
void kv_seq_usage(const struct kv_seq *seq, uint64_t *bytes, uint64_t *blocks);

/* ---- reading ----------------------------------------------------------------------------------------------------- */

/* Once per step: what the step writes and reads stays where it is until unpin. */
MUST_CHECK enum status kv_batch_pin(struct kv_cache *cache, struct kv_seq *const *seqs, uint32_t count,
                                    struct kv_batch **out);
void kv_batch_unpin(struct kv_batch *batch);
/* Spans of one KV head that cover positions [begin, end): one a block, ascending, the first one beginning at a block
 * boundary at or before `begin`. Returns their number, at most kv_spans_max(). Borrowed until unpin. */
uint32_t kv_seq_spans(const struct kv_seq *seq, uint32_t layer, uint32_t head, uint32_t begin, uint32_t end,
                      struct kernel_span *out);
/* How that layer's rows are stored. */
void kv_seq_formats(const struct kv_seq *seq, uint32_t layer, enum number_format *k, enum number_format *v);
uint32_t kv_spans_max(const struct kv_cache *cache, uint32_t tokens); /* for `tokens` positions, however aligned */

/* ---- looking in -------------------------------------------------------------------------------------------------- */

struct kv_stats {
    uint64_t bytes_max, bytes_mapped, bytes_used; /* used: blocks held by sequences; cached: published, held by none */
    uint64_t bytes_cached, blocks_used, blocks_cached;
    uint64_t bytes_per_token; /* all layers, for a token that every layer still holds */
    uint64_t prefix_queried_tokens, prefix_hit_tokens, evicted_blocks;
    uint32_t block_tokens, sequences;
};
void kv_stats(const struct kv_cache *cache, struct kv_stats *out);

/* Checks every invariant (check.c lists them); the first one broken is described in `error`. For tests and debug
 * builds. */
MUST_CHECK enum status kv_check(const struct kv_cache *cache, struct error *error);

#endif
