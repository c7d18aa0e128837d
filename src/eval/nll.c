/* nll.c - mean negative log-likelihood of a text under the model, computed through the KV cache (pass.c says how). */
#include "eval/eval_internal.h"

struct nll {
    uint32_t vocabulary;
    double sum;
};

static void nll_rows(void *data, uint32_t pass, const uint32_t *next, uint32_t rows, const float *logits)
{
    (void)pass;
    struct nll *nll = data;
    for (uint32_t i = 0; i < rows; i++)
        nll->sum += engine_token_nll(logits + (uint64_t)i * nll->vocabulary, nll->vocabulary, next[i]);
}

static enum status report(double mean, uint64_t predictions, enum eval_output output, struct buffer *out,
                          struct error *error)
{
    if (output == EVAL_JSON)
        return report_json(json_pack("{s:f, s:I}", "mean_nll", mean, "tokens", (json_int_t)predictions), out, error);
    buffer_printf(out, "mean NLL %.6f over %llu predictions\n", mean, (unsigned long long)predictions);
    return report_done(out, error);
}

enum status eval_nll(struct kvasir_model *opened, const struct eval_text *text, enum eval_output output,
                     struct buffer *out, struct error *error)
{
    struct pool *pool = NULL;
    struct eval_pass pass = {0};
    enum status status = pool_open(engine_threads(opened), &pool, error);
    if (status == ST_OK) status = pass_open(opened, text, &text->cache, pool, NULL, &pass, error);
    struct nll nll = {.vocabulary = pass.vocabulary};
    struct eval_walk walk = {.text = text, .passes = &pass, .pass_count = 1, .rows = nll_rows, .data = &nll};
    if (status == ST_OK) status = pass_walk(&walk, error);
    if (status == ST_OK) status = report(nll.sum / (double)walk.predictions, walk.predictions, output, out, error);
    pass_close(&pass);
    pool_close(pool);
    return status;
}
