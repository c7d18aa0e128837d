/* pass.c - a text through a KV cache, for evaluations that look at the logits of every token.
 *
 * The text is cut into windows of at most `context` tokens that overlap by one, so that every token but the first is
 * predicted exactly once, from what its window holds before it. Within a window logits are taken a slab of rows at a time.
 * With a cache a slab is a chunk of prefill; without one the window is computed again from its beginning up to the slab's
 * end. The kernels' results do not depend on that cut: attention reads every key, also those of its own slab, as the cache
 * holds it. */
#include "eval/eval_internal.h"

#define SLAB_BYTES (128ull << 20) /* of logits */
#define SLAB_ROWS_MAX 512u

static enum status check(const struct model *model, const struct eval_text *text, struct error *error)
{
    if (!model) return error_set(error, ST_INVALID, "the model was opened with its vocabulary only: it cannot run");
    if (text->count < 2)
        return error_set(error, ST_INVALID, "%zu tokens: at least 2 are needed to predict one", text->count);
    uint32_t vocabulary = model_config(model)->vocabulary;
    for (size_t i = 0; i < text->count; i++)
        if (text->ids[i] >= vocabulary)
            return error_set(error, ST_INVALID, "token %zu is %u: the vocabulary ends at %u", i, text->ids[i],
                             vocabulary - 1);
    return ST_OK;
}

enum status pass_open(const struct kvasir_model *opened, const struct eval_text *text,
                      const struct kvasir_engine_options *options, struct pool *pool, const struct eval_pass *lender,
                      struct eval_pass *out, struct error *error)
{
    const struct model *model = engine_model(opened);
    *out = (struct eval_pass){0};
    enum status status = check(model, text, error);
    if (status != ST_OK) return status;
    const struct model_config *config = model_config(model);
    out->vocabulary = config->vocabulary;
    out->rows = least(SLAB_BYTES / (config->vocabulary * sizeof(float)), SLAB_ROWS_MAX);
    if (!out->rows) out->rows = 1;
    /* Not stated and longer than the model's: as much context as fits. */
    uint32_t context = options->context ? options->context : config->context_length;
    bool whole = options->context || text->count <= context;
    struct kvasir_engine_options wanted = *options;
    wanted.context = whole ? least(text->count, context) : 0;
    wanted.max_batched_tokens = out->rows;
    status = engine_plan_init(model, &wanted, &out->plan, error);
    if (status != ST_OK) return status;
    out->plan.kv.share_prefixes = false; /* what a window leaves is not read again */
    out->no_kv_cache = options->no_kv_cache;
    status = kv_open(&out->plan.kv, &out->cache, error);
    out->borrows_run = lender != NULL;
    if (lender) out->run = lender->run;
    if (status == ST_OK && !lender)
        status = model_run_open(model, pool, out->no_kv_cache ? out->plan.context : out->rows, out->rows,
                                out->plan.context, &out->run, error);
    if (status != ST_OK) pass_close(out);
    return status;
}

void pass_close(struct eval_pass *pass)
{
    kv_seq_close(pass->seq);
    if (!pass->borrows_run) model_run_close(pass->run);
    kv_close(pass->cache);
    engine_plan_release(&pass->plan);
    *pass = (struct eval_pass){0};
}

void pass_restart(struct eval_pass *pass)
{
    kv_seq_close(pass->seq);
    pass->seq = NULL;
}

enum status pass_slab(struct eval_pass *pass, const uint32_t *tokens, uint32_t begin, uint32_t rows,
                      const float **logits, struct error *error)
{
    struct kv_batch *batch;
    uint32_t cached;
    enum status status = ST_OK;
    if (pass->no_kv_cache) pass_restart(pass);
    if (!pass->seq)
        status = kv_seq_open(pass->cache, tokens, 0, 0, &pass->seq, &cached); /* 0 tokens: nothing is shared */
    uint32_t done = status == ST_OK ? kv_seq_count(pass->seq) : 0, count = begin + rows - done;
    if (status == ST_OK) status = kv_seq_reserve(pass->seq, count);
    if (status == ST_OK) status = kv_batch_pin(pass->cache, &pass->seq, 1, &batch);
    if (status != ST_OK) return error_set(error, status, "not enough memory for %u tokens", begin + rows);
    const struct model_entry entry = {.seq = pass->seq, .tokens = tokens + done, .count = count, .logits_count = rows};
    model_forward(pass->run, &entry, 1, logits);
    kv_batch_unpin(batch);
    kv_seq_commit(pass->seq, entry.tokens, count);
    return ST_OK;
}

enum status pass_tokens(struct kv_cache *cache, struct model_run *run, uint32_t tokens_max, struct kv_seq *seq,
                        const uint32_t *tokens, uint32_t count, const float **logits)
{
    for (uint32_t done = 0; done < count;) {
        struct kv_batch *batch;
        const uint32_t part = least(count - done, tokens_max);
        enum status status = kv_seq_reserve(seq, part);
        if (status == ST_OK) status = kv_batch_pin(cache, &seq, 1, &batch);
        if (status != ST_OK) return status;
        const struct model_entry entry = {
            .seq = seq, .tokens = tokens + done, .count = part, .logits_count = done + part == count};
        model_forward(run, &entry, 1, logits);
        kv_batch_unpin(batch);
        kv_seq_commit(seq, entry.tokens, part);
        done += part;
    }
    return ST_OK;
}

uint32_t pass_best(const float *logits, uint32_t vocabulary)
{
    uint32_t best = 0;
    for (uint32_t i = 1; i < vocabulary; i++)
        if (logits[i] > logits[best]) best = i;
    return best;
}

/* Predictions of tokens[1 … count-1] of one window. */
static enum status run_window(struct eval_walk *walk, const uint32_t *tokens, uint32_t count, uint32_t rows_max,
                              struct error *error)
{
    for (uint32_t begin = 0; begin + 1 < count;) {
        const float *logits;
        uint32_t rows = least(count - 1 - begin, rows_max);
        for (uint32_t p = 0; p < walk->pass_count; p++) {
            enum status status = pass_slab(&walk->passes[p], tokens, begin, rows, &logits, error);
            if (status != ST_OK) return status;
            walk->rows(walk->data, p, tokens + begin + 1, rows, logits);
        }
        begin += rows;
        walk->predictions += rows;
        if (walk->text->progress)
            walk->text->progress(walk->text->progress_data,
                                 (double)walk->predictions / (double)(walk->text->count - 1));
    }
    for (uint32_t p = 0; p < walk->pass_count; p++) pass_restart(&walk->passes[p]);
    return ST_OK;
}

enum status pass_walk(struct eval_walk *walk, struct error *error)
{
    const struct eval_text *text = walk->text;
    uint32_t context = walk->passes[0].plan.context, rows_max = walk->passes[0].rows;
    for (uint32_t p = 1; p < walk->pass_count; p++) context = least(walk->passes[p].plan.context, context);
    for (size_t begin = 0; begin + 1 < text->count; begin += context - 1) {
        enum status status = run_window(walk, text->ids + begin, least(text->count - begin, context), rows_max, error);
        if (status != ST_OK) return status;
    }
    return ST_OK;
}
