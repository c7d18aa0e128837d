/* eval_internal.h - shared by eval's own files only. */
#ifndef EVAL_EVAL_INTERNAL_H
#define EVAL_EVAL_INTERNAL_H
#include "engine/engine.h"
#include "eval/eval.h"
#include <jansson.h>

static inline uint32_t least(uint64_t a, uint32_t b)
{
    return a < b ? (uint32_t)a : b;
}
static inline uint32_t most(uint32_t a, uint32_t b)
{
    return a > b ? a : b;
}

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
    bool no_kv_cache, borrows_run;
};
/* Checks the text and opens what a pass over it needs; `options`: as eval_text.cache. `pool` is
 * borrowed, and so is the working memory of `lender`, if not NULL: its logits are then overwritten by this pass'. On failure
 * nothing is left open. */
MUST_CHECK enum status pass_open(const struct kvasir_model *model, const struct eval_text *text,
                                 const struct kvasir_engine_options *options, struct pool *pool,
                                 const struct eval_pass *lender, struct eval_pass *out, struct error *error);
void pass_close(struct eval_pass *pass); /* also one that is all zero */
/* Logits of tokens [begin, begin + rows) of a window, [rows, vocabulary], borrowed until the next slab. Slabs of a window
 * come in order; pass_restart() ends it. */
MUST_CHECK enum status pass_slab(struct eval_pass *pass, const uint32_t *tokens, uint32_t begin, uint32_t rows,
                                 const float **logits, struct error *error);
void pass_restart(struct eval_pass *pass);

/* `tokens` after those of `seq`, densely, at most `tokens_max` in a pass. *logits: of the last one,
 * borrowed until the next pass. */
MUST_CHECK enum status pass_tokens(struct kv_cache *cache, struct model_run *run, uint32_t tokens_max,
                                   struct kv_seq *seq, const uint32_t *tokens, uint32_t count, const float **logits);
uint32_t pass_best(const float *logits, uint32_t vocabulary); /* the first token with the greatest */

/* Passes side by side over all windows of a text (as many tokens as the smallest context takes). */
struct eval_walk {
    const struct eval_text *text;
    struct eval_pass *passes;
    uint32_t pass_count;
    /* For each slab, pass after pass: next[i] is the token that row i of the pass's logits predicts. */
    void (*rows)(void *data, uint32_t pass, const uint32_t *next, uint32_t rows, const float *logits);
    void *data;
    uint64_t predictions; /* rows so far, of one pass */
};
MUST_CHECK enum status pass_walk(struct eval_walk *walk, struct error *error);

/* ---- kl.c -------------------------------------------------------------------------------------------------------- */

#define KL_CACHES_MAX 8u
struct kl_summary {
    double mean, p99; /* nats */
    double agreement; /* share of positions with the same best token */
    uint64_t tokens;  /* positions */
};
/* Of one position: the second row of logits' distribution from the first one's, in nats; *agrees: the same best token. */
double kl_divergence(const float *reference, const float *tested, uint32_t count, uint8_t *agrees);
/* Divergence of the distributions with each of `count` caches from those with text->cache: out[count]. */
MUST_CHECK enum status kl_measure(struct kvasir_model *model, const struct eval_text *text,
                                  const struct kvasir_engine_options *caches, uint32_t count, struct kl_summary *out,
                                  struct error *error);

#endif
