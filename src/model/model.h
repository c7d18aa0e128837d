/* model.h - architectures as rows of one table, weights, and one forward pass over a batch of tokens from many
 * sequences.
 *
 * The model knows no policy and no requests: it is told which tokens of which sequences to run and gives logits. It is
 * immutable once open; everything a pass writes lies in a `struct model_run`, of which each engine has its own.
 *
 * Only causal models whose old tokens never change are accepted: a bidirectional (encoder) model, or a position scheme
 * that re-rotates old tokens (ReRoPE, dynamic NTK, self-extend), would change a token's K and V when later tokens
 * arrive, so they could not be cached: model_open refuses them and says so. */
#ifndef MODEL_MODEL_H
#define MODEL_MODEL_H
#include "base/base.h"
#include "format/format.h"
#include "kernel/kernel.h"
#include "kv/kv.h"

struct model;

/* What the metadata says, checked; readable without weights (model_config_read). */
struct model_config {
    const char *architecture; /* "llama", "qwen2", "qwen3", "gemma3" (the table's own string) */
    uint32_t layers, embedding, heads, kv_heads, head_dim, value_dim, feed_forward, vocabulary;
    uint32_t context_length; /* trained, with the rope scaling of the file */
    uint32_t window;         /* 0 = no sliding layers */
    bool *sliding;           /* [layers], owned */
    float norm_eps, attention_scale, attention_softcap, final_softcap, embedding_scale;
    uint32_t rope_dimensions;
    bool rope_neighbours;                 /* pairs (2i, 2i+1); else (i, i + n/2) */
    float rope_attention_factor;          /* yarn: multiplies cos and sin */
    float *rope_frequencies[2];           /* [rope_dimensions / 2], owned: full layers, sliding layers */
    const struct model_architecture *row; /* private to model */
};
MUST_CHECK enum status model_config_read(const struct format *format, struct model_config *out, struct error *error);
void model_config_release(struct model_config *config);
/* What each layer caches, [layers], in the given number formats. */
void model_kv_layers(const struct model_config *config, enum number_format k_format, enum number_format v_format,
                     struct kv_layer *out);

/* Reads and packs the weights; `format` stays open and outlives the model (embedding rows are read from it). ST_LIMIT:
 * larger than the memory there is, said before loading. `options` may be NULL; its `progress` is called with 0…1. */
/* The precision of rope's inverse frequencies. A PyTorch model that was cast (model.to(torch.bfloat16)) has them in bf16,
 * because the cast takes buffers along; from_pretrained computes them anew in f32. Auto: bf16 for Hugging Face checkpoints
 * of bf16 weights, which are run as the model that was saved; f32 for all others. */
enum model_rope_frequencies { MODEL_ROPE_AUTO, MODEL_ROPE_F32, MODEL_ROPE_BF16 };

struct model_options {
    void (*progress)(void *data, double fraction);
    void *progress_data;
    enum model_rope_frequencies rope_frequencies;
};
MUST_CHECK enum status model_open(const struct format *format, const struct kernel *kernel, struct pool *pool,
                                  const struct model_options *options, struct model **out, struct error *error);
void model_close(struct model *model);
const struct model_config *model_config(const struct model *model);
const struct kernel *model_kernel(const struct model *model);
/* Whether some of its matrices are multiplied in tiles for prompts (model_entry.answered): where not, all tokens are alike. */
bool model_has_tiles(const struct model *model);
uint64_t model_bytes(const struct model *model); /* packed weights in memory */

/* Working memory of a pass: at most `tokens_max` tokens and `logits_max` rows of logits a pass, sequences of at most
 * `context` tokens. `pool` is borrowed. */
struct model_run;
MUST_CHECK enum status model_run_open(const struct model *model, struct pool *pool, uint32_t tokens_max,
                                      uint32_t logits_max, uint32_t context, struct model_run **out,
                                      struct error *error);
void model_run_close(struct model_run *run);
/* From now on activations are quantised with a second int8 row for what the first one lost, for all tokens (it is done anyway
 * for a sequence's first ones and for those that give logits): twice the time of prefill, products within some 1e-4 of those
 * with f32 activations. For measurements that are to see something smaller than the rounding of int8. */
void model_run_precise(struct model_run *run);

/* Retrieval attention ("look up instead of compute"): which keys a token reads in place of all. Where a KV head keeps every token, it
 * reads the first tokens, those of a local window, and between them the key groups (16 tokens; 32 where K closes) whose entries
 * in the index (kv_layer.index) promise the most attention. Layers with a window of their own are read as ever. */
struct model_retrieval {
    uint32_t initial_tokens,
        local_tokens; /* always read; rounded up to whole groups, the token itself is a local one */
    uint32_t
        recall_tokens; /* of those between them, at most, rounded up to whole groups; as many as there are: all are read */
    uint32_t dense_layers; /* the first so many layers of the model read everything */
};

/* `count` tokens of one sequence, from position kv_seq_count(seq) on; rows reserved and the sequence pinned. Logits are
 * computed for its last `logits_count` tokens (0 while a prompt is still being prefilled), hidden rows are kept of its last
 * `hidden_count` (for embeddings; 0 otherwise). */
struct model_entry {
    struct kv_seq *seq;
    const uint32_t *tokens;
    uint32_t count, logits_count, hidden_count;
    /* So many of them, the last ones, are an answer's. With kernels that have tiles (kernel.tile_matmul) those before are computed with
     * them, and these as ever: with few tokens a pass tiles are slower. It changes bits, so a token must be the one or the other
     * whenever it is computed. Without tiles it is all the same. */
    uint32_t answered;
    /* NULL: every key is read. Else `count` is 1 and the sequence's cache has an index. What follows from such a token's rows is no
     * longer what all keys would have given: whoever keeps them apart is the caller. */
    const struct model_retrieval *retrieval;
};
/* One pass, layer by layer: project, write K and V, attend over spans, feed-forward. The entries' tokens together are
 * at most tokens_max. *logits: [sum of logits_count, vocabulary], rows in the order of entries and tokens, borrowed
 * until the next pass. Token ids must be below the vocabulary size (asserted). The caller commits. */
void model_forward(struct model_run *run, const struct model_entry *entries, uint32_t entry_count,
                   const float **logits);
/* The hidden rows of the last pass, after the final norm, which the output matrix makes logits of: [sum of hidden_count,
 * embedding], rows in the order of entries and tokens, borrowed until the next pass. */
const float *model_run_hidden(const struct model_run *run);

/* Since the run was opened: K and V rows (of one KV head and one token) that entries with retrieval have read, in layers that keep
 * every token, and those that they would have read without it; and the time that attention has taken, of all entries: from q, k and v to
 * what the heads give, rows written, looked up and fetched included. */
struct model_attention_tally {
    uint64_t rows_read, rows_dense;
    double attention_s;
};
void model_run_attention_tally(const struct model_run *run, struct model_attention_tally *out);

/* For measurements at depths that nobody waits for: `count` tokens after those of `seq` get, in place of being computed, the rows of
 * tokens [begin, kv_seq_count(source)) of `source`, again and again, in every layer: values as they are, keys turned from their own
 * position to the new one, entries of the index as always. So attention finds what it finds in a text, many times over; what such a
 * sequence goes on to say means nothing. Layers with a window (of two tokens or more) copy what `source` still has. Both sequences are pinned, `seq` has reserved
 * `count` tokens, at most tokens_max; it may be a fork of `source`, and is no shorter; a multiple of KERNEL_CLOSED_TOKENS tokens is in `source`,
 * more than `begin`. The caller commits, and nobody else may find these rows. */
void model_run_extend(struct model_run *run, struct kv_seq *seq, const struct kv_seq *source, uint32_t begin,
                      uint32_t count);

/* For measurements: what one KV head of one layer was chosen to read for a token with retrieval. Borrowed until the call returns. */
struct model_choice {
    uint32_t entry, layer, head;
    uint32_t position; /* of the token */
    /* Key groups (16 tokens) read, ascending: [0, initial) and the last ones always, of those between `recalled`. */
    const uint32_t *groups;
    uint32_t group_count, initial, recalled;
    /* The call of the kernel that reads all keys which lie in the cache, [0, key_end): for the softmax state of any part of them. It
     * has nowhere to write; `scratch` is free to be used with it. */
    const struct kernel_attend *attend;
    float *scratch;
};
/* From now on `observe` gets every choice, on the pool's threads, several at a time; NULL: nobody. */
void model_run_observe(struct model_run *run, void (*observe)(void *data, const struct model_choice *choice),
                       void *data);

/* What any pass over `count` tokens of one sequence, from `position` on, has to do, `logits_count` of them with logits:
 * the figures that a limit of speed is made of. Only matrices and attention count; norms, rotations, activations, the
 * embedding's rows and what is done a second time for precision do not. `kv_layers`: as model_kv_layers() gives them. */
struct model_work {
    uint64_t int8_macs;      /* multiply-adds with quantised matrices */
    uint64_t f32_macs;       /* with float matrices */
    uint64_t attention_macs; /* of attention: q.k and p.v for every key a query sees */
    /* Those of attention where K or V is narrower than f32: kernels compute them in 16-bit fixed point. */
    uint64_t attention_int16_macs;
    uint64_t weight_bytes; /* all packed matrices, read once for the pass; the output matrix only if there are logits */
    uint64_t kv_bytes;     /* K and V rows that the tokens see, read anew for every token */
};
void model_work(const struct model *model, const struct kv_layer *kv_layers, uint32_t position, uint32_t count,
                uint32_t logits_count, struct model_work *out);

#endif
