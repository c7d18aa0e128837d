/* run_internal.h - the working memory of a pass, shared by run.c (its life), forward.c (the order of things), rows.c, attend.c
 * (queries against the cache) and retrieve.c (which of it they read). */
#ifndef MODEL_RUN_INTERNAL_H
#define MODEL_RUN_INTERNAL_H
#include "model/model_internal.h"

/* Tokens of one sequence that one worker handles at a time: a tile of queries in attention, a run of rows to rotate. */
#define TILE_TOKENS 32u
/* Tiles that attend in one call at most, where prompts are multiplied in tiles of AMX: keys are converted once for all. */
#define STRIP_TILES 4u

/* Products with quantised weights see activations in int8, 32 to a scale. Two kinds of rows are worth a second int8 row
 * for what the first one lost (kernel_input_residual), at twice their cost: the first tokens of a sequence, attention
 * sinks that every later token reads and whose activations are the most extreme (Xiao et al. 2023, Sun et al. 2024); and
 * the rows that give logits, of which logits.c multiplies the second by the best of the vocabulary only. Both are told by
 * position alone: a token's numbers do not depend on its company. Rows that
 * are multiplied in tiles of bf16 have a fifth of int8's error and need no second one, but the first four tokens are not (with them in
 * tiles the mean nll of gemma3's short golden text is 0.6 % off, without 0.2 %; with one it is 0.4 %, with 16 no better than 4). */
#define PRECISE_TOKENS 16u
#define UNTILED_TOKENS 4u

/* The feed-forward's gate and up are multiplied for a few columns of all tokens at a time, so many that each takes about
 * FEED_FLOATS: they stay in the second-level cache until the activation has joined them. */
#define FEED_COLUMNS 32u /* unit of a worker's share: a quantisation group */
#define FEED_FLOATS (576u * 64u)

/* What one worker needs for itself. */
struct worker {
    float *rows;               /* [KERNEL_INPUT_BLOCK, widest] prepared rows */
    float *residual;           /* [widest] what quantising one of them lost */
    float *gate, *up;          /* [feed_floats] some columns of gate and up for all tokens */
    void *input_storage;       /* kernel_input of two rows */
    struct kernel_input input; /* of the rows that give logits, here or of all workers */
    struct kernel_span *spans; /* [kv_spans_max] */
    float *state;              /* softmax states of a strip: of all keys, or of a tile, the closed groups */
    float *open_state;         /* the same of the open group */
    float *scratch;            /* the kernels' */
    float *queries;            /* [TILE_TOKENS] tokens' queries of one KV head, then their coefficients of offsets */
    /* retrieve.c: what the index promises, [retrieve_stride], then the kernel's scratch; and where its entries lie, one pointer a
     * block */
    float *promises;
    const void **entries;
};

/* A run of at most TILE_TOKENS tokens of one entry. */
struct tile {
    uint32_t entry, first, count;    /* first: token index inside the entry */
    uint32_t row;                    /* of `first` in the batch */
    uint32_t position;               /* of `first` in its sequence */
    uint32_t brief_begin, brief_end; /* tokens of it that are multiplied in tiles, and attend so: kernel_attend.brief */
};

/* Whether all its tokens are multiplied in tiles, or some. */
static inline bool tile_is_brief(const struct tile *tile)
{
    return tile->brief_end - tile->brief_begin == tile->count;
}
static inline bool tile_is_mixed(const struct tile *tile)
{
    return tile->brief_end > tile->brief_begin && !tile_is_brief(tile);
}

/* The key groups that a token with retrieval reads of one KV head, ascending: [count] of [retrieve_stride]. */
struct chosen {
    const uint32_t *groups;
    uint32_t count;
};

/* How a row of activations is made ready for a matmul. */
struct preparation {
    const float *source; /* [tokens, columns] */
    uint32_t columns;
    const float *norm;          /* rms norm with these weights, or NULL: as it is */
    const float *residual_norm; /* first: x_next = x + rms_norm(projected, this); source is then x_next. Or NULL */
};

/* Consecutive rows of a pass whose products are in one arithmetic: kernel.tile_matmul, or kernel.matmul. */
struct row_run {
    uint32_t begin, end;
    bool tiles;
};

/* One output of a matmul phase. */
struct product {
    const struct linear *linear;
    float *out;
    uint32_t stride;
    bool add; /* out += */
};
#define PRODUCTS_MAX 3

/* What is done to a layer's rows beside norm and rope, the same for all sequences: a Hadamard transform of q and k, and of v; keys
 * stored less their bias. */
struct row_treatment {
    bool turn_k, turn_v, offset, closes; /* closes: K's rows are quantised a group at a time */
    enum number_format k_format, v_format;
    uint32_t group_dims, fast_pairs; /* rows_group_dims, rows_fast_pairs */
};

struct attend_plan; /* attend_internal.h */
struct model_run;
/* A worker's share of what is done with a prepared input. */
typedef void run_consume_fn(struct model_run *run, const struct kernel_input *input, uint32_t worker, uint32_t workers);

struct model_run {
    const struct model *model;
    struct pool *pool;
    uint32_t tokens_max, logits_max, context, widest, segments_max;
    uint32_t precise_tokens; /* of each sequence: PRECISE_TOKENS, or all */

    /* Address space that becomes memory as it is used. What products write is [2 * tokens_max, ...]: the products of
     * residual rows follow the tokens'. */
    float *x, *x_next, *projected, *q, *k, *v;
    float *prepared, *attended, *activated; /* [tokens_max, ...] */
    float *hidden;                          /* [tokens_max, embedding] normed rows, for model_run_hidden() */
    float *cosines[2], *sines[2];           /* [tokens_max, rope_dimensions / 2] for full and sliding layers */
    void *input_storage, *fed_storage;      /* of 2 * tokens_max rows */
    uint64_t feed_floats;                   /* of a worker's gate, and of its up */
    float *states;            /* [kv_heads, tokens_max, segments_max + 1] of one token's group: attend_plan.c */
    float *logits;            /* [logits_max, vocabulary] */
    float *tops;              /* [logits_max, vocabulary / 16] greatest logit of each tile */
    uint32_t *precise;        /* [tokens_max] rows of this pass that are multiplied precisely */
    struct row_run *row_runs; /* [tokens_max + 1]: the pass's rows, ascending, then those of residuals */
    float *bias;              /* [tokens_max, kv_heads, head_dim] the bias that a tile's keys are stored less */
    float *offset_q; /* [tokens_max, heads, rows_group_dims + 2 * rows_fast_pairs]; none of a tile that is brief */
    float *
        offset_basis; /* [kv_heads, rows_group_dims + 2 * rows_fast_pairs, head_dim] of the layer at hand, where tiles are brief */
    /* For full and sliding layers, as struct kernel_offset has them: [segments_max][rows_group_dims][64], the same as [groups][rows_group_dims],
     * and [groups][2 * rows_fast_pairs][16]; of the first offset_groups groups */
    float *offset_table[2], *offset_rows[2], *key_table[2];
    uint32_t offset_groups[2];
    unsigned char *exact; /* [tokens_max tiles at most, kv_heads, kernel_k_exact_bytes] */
    struct tile *tiles;
    struct attend_plan *plans;       /* [plan_count] of this pass's layers; see attend_internal.h */
    struct attend_plan **head_plans; /* [kv_heads] of the layer at hand */
    uint32_t plan_count;
    struct chosen *chosen;              /* [tokens_max tiles at most, kv_heads] of the layer at hand */
    uint32_t *chosen_groups;            /* [tokens_max, kv_heads, retrieve_stride] */
    struct model_attention_tally tally; /* rows: atomic while a phase runs */
    void (*observe)(void *data, const struct model_choice *choice); /* may be NULL */
    void *observe_data;
    struct worker *workers;
    struct run_block {
        void *memory;
        uint64_t bytes;
    } blocks[48]; /* what the pointers above lie in */
    uint32_t block_count;

    /* the pass that runs now */
    const struct model_entry *entries;
    uint32_t entry_count, tokens, precise_count, row_run_count, tile_count, layer;
    const struct kv_seq *copied; /* of model_run_extend: rows from token copied_begin on */
    uint32_t copied_begin;
    struct row_treatment treatment; /* of the layer at hand */
    struct kernel_input input;      /* of all tokens, where there are several */
    struct kernel_input fed;        /* what the feed-forward's last product reads */
    struct preparation preparation;
    run_consume_fn *consume;
    struct product products[PRODUCTS_MAX];
    uint32_t product_count;
    void (*task)(struct model_run *, uint32_t, uint32_t);
    /* How many units of the phase were taken (atomic); alone on its cache line, since the others are read all the time. */
    _Alignas(64) uint32_t next_unit;
};

void run_phase(struct model_run *run, void (*task)(struct model_run *run, uint32_t worker, uint32_t workers));
/* Of the units of a phase, which workers take as they come: the next one; or the next [*begin, *end) of `units`, large parts
 * first and smaller ones towards the end (guided self-scheduling: Polychronopoulos and Kuck, IEEE Trans. Computers 1987), so
 * that a worker that was held up has little left when the others are done. False: all are taken. */
uint32_t run_take_unit(struct model_run *run);
bool run_take_part(struct model_run *run, uint32_t units, uint32_t workers, uint32_t *begin, uint32_t *end);

/* ---- forward.c ---- */
/* Columns [begin, end) of a linear layer for all tokens: [tokens and residuals, end - begin] into `out`. */
void run_multiply_columns(const struct model_run *run, const struct linear *linear, const struct kernel_input *input,
                          uint32_t begin, uint32_t end, float *out);

/* ---- logits.c ---- */
void logits_multiply(struct model_run *run, const struct kernel_input *input, uint32_t worker,
                     uint32_t workers); /* run->logits from the first int8 row of each token */
void logits_refine_task(struct model_run *run, uint32_t worker, uint32_t workers); /* after it: adds the second */

/* ---- rows.c ---- */

/* Exact K rows of the closing group that a tile lies in, two f16 key groups. */
void *rows_exact(const struct model_run *run, const struct tile *tile, uint32_t head);
void rows_treatment(const struct model_run *run, struct row_treatment *out); /* of run->layer */
/* The key in slot `slot` of `k_groups` as queries meet it: rotated, with its bias, not turned; [head_dim]. For whoever has the tile and
 * head. Not fast. */
void rows_key(const struct model_run *run, const struct tile *tile, uint32_t head, uint32_t position,
              const void *k_groups, uint32_t slot, float *out);
uint32_t rows_group_dims(const struct model_config *config);
uint32_t rows_fast_pairs(const struct model_config *config, uint32_t kind);
uint32_t
rows_offset_dims(const struct model_run *run); /* coefficients of the offsets of a query of the layer at hand */
void rows_begin(struct model_run *run);        /* tables for the positions of a pass; once a pass */
void rows_write_task(struct model_run *run, uint32_t worker,
                     uint32_t workers); /* q, k, v of run->layer: ready, written */
/* Of one tile and KV head: keys (rotated, with their bias) and values in run->k and run->v are made fit for their format and written. */
void rows_write(const struct model_run *run, const struct tile *tile, uint32_t head);
/* What the tile leaves of a group that is not full yet, when all tiles are written: the sequence's first one reads what the open group
 * held before. */
void rows_leave_open(const struct model_run *run, const struct tile *tile, uint32_t head);
void rows_finish(const struct model_run *run, const struct tile *tile,
                 uint32_t head); /* that, and turns `attended` back */

/* ---- forward.c ---- */
/* Tokens [begin, end) of an entry are multiplied in tiles (UNTILED_TOKENS, model_entry.answered); maybe none. */
void forward_tiled(const struct model_run *run, const struct model_entry *entry, uint32_t *begin, uint32_t *end);

/* ---- attend.c ---- */
uint64_t attend_state_floats(const struct model_run *run, uint32_t tokens);
uint64_t attend_scratch_floats(const struct model_run *run);
uint32_t attend_strip_tokens(const struct model_run *run); /* of one call of the kernel, at most */
uint64_t attend_query_floats(const struct model_run *run); /* of worker.queries */
void attend_tiles(struct model_run *run);                  /* cuts the batch into tiles; once a pass */
/* The kernels' view of one tile and KV head. */
void attend_describe(const struct model_run *run, const struct tile *tile, uint32_t head, struct kernel_attend *out);
void attend_layer(struct model_run *run); /* q, k, v of run->layer -> attended: rotates, writes the cache, attends */

/* ---- retrieve.c ---- */
uint64_t retrieve_stride(const struct model_run *run); /* key groups of the longest sequence, in whole vectors */
/* Whether the tile, one token, reads only a part of the keys of the head in run->layer. */
bool retrieves(const struct model_run *run, const struct tile *tile, uint32_t head);
uint32_t retrieve_groups_max(const struct model_run *run, const struct tile *tile); /* that it then reads, at most */
/* Entries of the groups that the tile has completed; its rows are written. */
void retrieve_index(const struct model_run *run, const struct tile *tile, uint32_t head, struct worker *worker);
/* Which groups an entry with retrieval reads: its queries are ready. Nothing for other entries. */
void retrieve_choose(struct model_run *run, const struct tile *tile, uint32_t head, struct worker *worker);
/* The keys of chosen groups 64 * part and on, as many as a segment has, into `state`. `attend` describes the tile and head. */
struct kernel_attend;
void retrieve_attend(const struct model_run *run, const struct tile *tile, uint32_t head, uint32_t part,
                     struct kernel_attend *attend, float *state, struct worker *worker);

#endif
