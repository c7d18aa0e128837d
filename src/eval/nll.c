/* nll.c - mean negative log-likelihood of a text under the model, computed through the KV cache.
 *
 * The text is cut into windows of at most `context` tokens that overlap by one, so that every token but the first is
 * predicted exactly once, from what its window holds before it. Within a window logits are taken a slab of rows at a time.
 * With a cache a slab is a chunk of prefill; without one the window is computed again from its beginning up to the slab's
 * end. The kernels' results do not depend on that cut, so both give the same bits. */
#include "eval/eval_internal.h"

#define SLAB_BYTES (128ull << 20) /* of logits */
#define SLAB_ROWS_MAX 512u

struct nll {
    const struct eval_nll_options *options;
    uint32_t context, rows, vocabulary; /* rows: of a slab */
    bool no_kv_cache;
    struct kv_cache *cache;
    struct model_run *run;
    struct kv_seq *seq;
    double sum;
    uint64_t predictions;
};

static uint32_t least(uint64_t a, uint32_t b)
{
    return a < b ? (uint32_t)a : b;
}

/* Logits of the slab [begin, begin + rows) of a window of `tokens`. */
static enum status run_slab(struct nll *nll, const uint32_t *tokens, uint32_t begin, uint32_t rows,
                            const float **logits, struct error *error)
{
    struct kv_batch *batch;
    uint32_t cached;
    enum status status = ST_OK;
    if (!nll->seq || nll->no_kv_cache) {
        kv_seq_close(nll->seq);
        nll->seq = NULL;
        status = kv_seq_open(nll->cache, tokens, 0, 0, &nll->seq, &cached); /* 0 tokens: nothing is shared */
    }
    uint32_t done = status == ST_OK ? kv_seq_count(nll->seq) : 0, count = begin + rows - done;
    if (status == ST_OK) status = kv_seq_reserve(nll->seq, count);
    if (status == ST_OK) status = kv_batch_pin(nll->cache, &nll->seq, 1, &batch);
    if (status != ST_OK) return error_set(error, status, "not enough memory for %u tokens", begin + rows);
    const struct model_entry entry = {.seq = nll->seq, .tokens = tokens + done, .count = count, .logits_count = rows};
    model_forward(nll->run, &entry, 1, logits);
    kv_batch_unpin(batch);
    kv_seq_commit(nll->seq, entry.tokens, count);
    return ST_OK;
}

/* Predictions of tokens[1 … count-1]. */
static enum status run_window(struct nll *nll, const uint32_t *tokens, uint32_t count, struct error *error)
{
    for (uint32_t begin = 0; begin + 1 < count;) {
        const float *logits = NULL;
        uint32_t rows = least(count - 1 - begin, nll->rows);
        enum status status = run_slab(nll, tokens, begin, rows, &logits, error);
        if (status != ST_OK) return status;
        for (uint32_t i = 0; i < rows; i++, logits += nll->vocabulary)
            nll->sum += engine_token_nll(logits, nll->vocabulary, tokens[begin + i + 1]);
        begin += rows;
        nll->predictions += rows;
        if (nll->options->progress)
            nll->options->progress(nll->options->progress_data,
                                   (double)nll->predictions / (double)(nll->options->count - 1));
    }
    kv_seq_close(nll->seq);
    nll->seq = NULL;
    return ST_OK;
}

static enum status run_all(struct nll *nll, struct error *error)
{
    const struct eval_nll_options *o = nll->options;
    for (size_t begin = 0; begin + 1 < o->count; begin += nll->context - 1) {
        enum status status = run_window(nll, o->ids + begin, least(o->count - begin, nll->context), error);
        if (status != ST_OK) return status;
    }
    return ST_OK;
}

static enum status check(const struct model *model, const struct eval_nll_options *options, struct error *error)
{
    if (!model) return error_set(error, ST_INVALID, "the model was opened with its vocabulary only: it cannot run");
    if (options->count < 2)
        return error_set(error, ST_INVALID, "%zu tokens: at least 2 are needed to predict one", options->count);
    uint32_t vocabulary = model_config(model)->vocabulary;
    for (size_t i = 0; i < options->count; i++)
        if (options->ids[i] >= vocabulary)
            return error_set(error, ST_INVALID, "token %zu is %u: the vocabulary ends at %u", i, options->ids[i],
                             vocabulary - 1);
    return ST_OK;
}

static enum status report(const struct nll *nll, enum eval_output output, struct buffer *out, struct error *error)
{
    double mean = nll->sum / (double)nll->predictions;
    if (output == EVAL_JSON)
        return report_json(json_pack("{s:f, s:I}", "mean_nll", mean, "tokens", (json_int_t)nll->predictions), out,
                           error);
    buffer_printf(out, "mean NLL %.6f over %llu predictions\n", mean, (unsigned long long)nll->predictions);
    return report_done(out, error);
}

enum status eval_nll(struct kvasir_model *opened, const struct eval_nll_options *options, enum eval_output output,
                     struct buffer *out, struct error *error)
{
    const struct model *model = engine_model(opened);
    enum status status = check(model, options, error);
    if (status != ST_OK) return status;
    const struct model_config *config = model_config(model);
    struct engine_plan plan;
    struct pool *pool = NULL;
    struct nll nll = {.options = options, .vocabulary = config->vocabulary, .no_kv_cache = options->no_kv_cache};
    nll.rows = least(SLAB_BYTES / (config->vocabulary * sizeof(float)), SLAB_ROWS_MAX);
    if (!nll.rows) nll.rows = 1;
    /* Not stated and longer than the model's: as much context as fits. */
    uint32_t context = options->context ? options->context : config->context_length;
    bool whole = options->context || options->count <= context;
    status = engine_plan_init(model,
                              &(struct kvasir_engine_options){.context = whole ? least(options->count, context) : 0,
                                                              .kv_cache_dtype = options->kv_cache_dtype,
                                                              .no_kv_cache = options->no_kv_cache,
                                                              .max_batched_tokens = nll.rows},
                              &plan, error);
    if (status != ST_OK) return status;
    nll.context = plan.context;
    status = pool_open(engine_threads(opened), &pool, error);
    if (status == ST_OK) status = kv_open(&plan.kv, &nll.cache, error);
    if (status == ST_OK)
        status = model_run_open(model, pool, nll.no_kv_cache ? plan.context : nll.rows, nll.rows, plan.context,
                                &nll.run, error);
    if (status == ST_OK) status = run_all(&nll, error);
    if (status == ST_OK) status = report(&nll, output, out, error);
    kv_seq_close(nll.seq);
    model_run_close(nll.run);
    kv_close(nll.cache);
    pool_close(pool);
    engine_plan_release(&plan);
    return status;
}
