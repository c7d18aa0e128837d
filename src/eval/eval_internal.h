/* eval_internal.h - shared by eval's own files only. */
#ifndef EVAL_EVAL_INTERNAL_H
#define EVAL_EVAL_INTERNAL_H
#include "engine/engine.h"
#include "eval/eval.h"
#include <jansson.h>

/* Writes `json` (taken, NULL when it could not be built) and a newline. */
MUST_CHECK enum status report_json(json_t *json, struct buffer *out, struct error *error);
/* ST_NOMEM when the report does not hold all that was appended. */
MUST_CHECK enum status report_done(const struct buffer *out, struct error *error);

/* ---- pass.c: a text through a KV cache --------------------------------------------------------------------------- */

struct eval_pass {
    struct engine_plan plan;
    struct kv_cache *cache;
    struct model_run *run;
    struct kv_seq *seq;        /* of the window at hand, or NULL */
    uint32_t rows, vocabulary; /* rows: of logits, at most, at a time */
    bool no_kv_cache;
};
/* Checks the text and opens what a pass over it needs; `options`: as eval_text.cache. `pool` is
 * borrowed. On failure nothing is left open. */
MUST_CHECK enum status pass_open(const struct kvasir_model *model, const struct eval_text *text,
                                 const struct kvasir_engine_options *options, struct pool *pool, struct eval_pass *out,
                                 struct error *error);
void pass_close(struct eval_pass *pass); /* also one that is all zero */
/* Logits of tokens [begin, begin + rows) of a window, [rows, vocabulary], borrowed until the next slab. Slabs of a window
 * come in order; pass_restart() ends it. */
MUST_CHECK enum status pass_slab(struct eval_pass *pass, const uint32_t *tokens, uint32_t begin, uint32_t rows,
                                 const float **logits, struct error *error);
void pass_restart(struct eval_pass *pass);

/* Passes side by side over all windows of a text (as many tokens as the smallest context takes). */
#define EVAL_PASSES_MAX 2
struct eval_walk {
    const struct eval_text *text;
    struct eval_pass *passes;
    uint32_t pass_count;
    /* For each slab: next[i] is the token that row i of every pass's logits predicts. */
    void (*rows)(void *data, const uint32_t *next, uint32_t rows, const float *const *logits);
    void *data;
    uint64_t predictions; /* rows so far */
};
MUST_CHECK enum status pass_walk(struct eval_walk *walk, struct error *error);

#endif
