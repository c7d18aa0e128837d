/* kl.c - what a KV cache format costs: the model's distributions over a text with that cache against those with an f32
 * cache, position by position.
 *
 * Kullback-Leibler divergence of a position: sum over tokens t of p(t) * (log p(t) - log q(t)), p with the f32 cache, q with
 * the other; in nats, summed in double.
 *
 * Both passes multiply precisely (model_run_precise). With activations in int8, a difference of 1e-6 in one layer moves some of
 * the next layer's roundings by whole steps: any change at all, be it another instruction set, costs a KL of about 1e-3 with the
 * models tried, in which what a cache format costs would drown. */
#include "eval/eval_internal.h"
#include <math.h>
#include <stdlib.h>

enum { REFERENCE, TESTED, PASSES };

struct kl {
    uint32_t vocabulary;
    struct pool *pool;
    double *divergence; /* [predictions], in the order of the text */
    uint8_t *agrees;    /* [predictions] */
    uint64_t done;
    /* the slab at hand */
    const float *logits[PASSES];
    uint32_t rows;
};

struct summary {
    double mean, p99, agreement;
};

/* log of the sum of exponentials, and the first of the largest. */
static double log_sum(const float *logits, uint32_t count, uint32_t *best)
{
    *best = 0;
    for (uint32_t i = 1; i < count; i++)
        if (logits[i] > logits[*best]) *best = i;
    double sum = 0;
    for (uint32_t i = 0; i < count; i++) sum += (double)expf(logits[i] - logits[*best]);
    return (double)logits[*best] + log(sum);
}

static double divergence(const float *reference, const float *tested, uint32_t count, uint8_t *agrees)
{
    uint32_t best[PASSES];
    double sum = 0, p_sum = log_sum(reference, count, &best[REFERENCE]), q_sum = log_sum(tested, count, &best[TESTED]);
    for (uint32_t i = 0; i < count; i++) {
        double log_p = (double)reference[i] - p_sum, log_q = (double)tested[i] - q_sum;
        if (log_p > -60) sum += exp(log_p) * (log_p - log_q); /* less counts for nothing, even 10^6 of them */
    }
    *agrees = best[REFERENCE] == best[TESTED];
    return sum > 0 ? sum : 0; /* rounding may leave -1e-16 */
}

static void kl_task(void *data, uint32_t worker, uint32_t workers)
{
    struct kl *kl = data;
    uint64_t begin, end;
    pool_share(kl->rows, 1, worker, workers, &begin, &end);
    for (uint64_t i = begin; i < end; i++)
        kl->divergence[kl->done + i] =
            divergence(kl->logits[REFERENCE] + i * kl->vocabulary, kl->logits[TESTED] + i * kl->vocabulary,
                       kl->vocabulary, &kl->agrees[kl->done + i]);
}

static void kl_rows(void *data, const uint32_t *next, uint32_t rows, const float *const *logits)
{
    (void)next;
    struct kl *kl = data;
    for (int p = 0; p < PASSES; p++) kl->logits[p] = logits[p];
    kl->rows = rows;
    pool_run(kl->pool, kl_task, kl);
    kl->done += rows;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

/* Sorts the divergences. */
static struct summary summarise(struct kl *kl)
{
    struct summary s = {0};
    for (uint64_t i = 0; i < kl->done; i++) {
        s.mean += kl->divergence[i];
        s.agreement += kl->agrees[i];
    }
    s.mean /= (double)kl->done;
    s.agreement /= (double)kl->done;
    qsort(kl->divergence, kl->done, sizeof *kl->divergence, ascending);
    s.p99 = kl->divergence[(kl->done * 99 + 99) / 100 - 1]; /* the least that 99 % do not exceed */
    return s;
}

static enum status report(const struct summary *s, uint64_t tokens, enum eval_output output, struct buffer *out,
                          struct error *error)
{
    if (output == EVAL_JSON)
        return report_json(json_pack("{s:f, s:f, s:f, s:I}", "mean_kl", s->mean, "p99_kl", s->p99, "top1_agreement",
                                     s->agreement, "tokens", (json_int_t)tokens),
                           out, error);
    buffer_printf(out, "mean KL %.3e, 99th percentile %.3e, same best token at %.2f %% of %llu positions\n", s->mean,
                  s->p99, 100 * s->agreement, (unsigned long long)tokens);
    return report_done(out, error);
}

enum status eval_kl(struct kvasir_model *opened, const struct eval_text *text, enum eval_output output,
                    struct buffer *out, struct error *error)
{
    struct eval_pass passes[PASSES] = {0};
    struct kl kl = {0};
    struct kvasir_engine_options reference = text->cache;
    reference.kv_cache_dtype = "f32";
    reference.kv_policy = NULL;
    enum status status = ST_OK;
    if (text->cache.no_kv_cache)
        status = error_set(error, ST_INVALID, "a KV cache format cannot be measured without a KV cache");
    if (status == ST_OK) status = pool_open(engine_threads(opened), &kl.pool, error);
    if (status == ST_OK) status = pass_open(opened, text, &reference, kl.pool, &passes[REFERENCE], error);
    if (status == ST_OK) status = pass_open(opened, text, &text->cache, kl.pool, &passes[TESTED], error);
    for (int p = 0; status == ST_OK && p < PASSES; p++) model_run_precise(passes[p].run);
    if (status == ST_OK) {
        kl.vocabulary = passes[REFERENCE].vocabulary;
        kl.divergence = mem_alloc(text->count * sizeof *kl.divergence);
        kl.agrees = mem_alloc(text->count * sizeof *kl.agrees);
        if (!kl.divergence || !kl.agrees) status = error_set(error, ST_NOMEM, "not enough memory for the report");
    }
    struct eval_walk walk = {.text = text, .passes = passes, .pass_count = PASSES, .rows = kl_rows, .data = &kl};
    if (status == ST_OK) status = pass_walk(&walk, error);
    if (status == ST_OK) {
        struct summary summary = summarise(&kl);
        status = report(&summary, kl.done, output, out, error);
    }
    mem_free(kl.divergence);
    mem_free(kl.agrees);
    for (int p = 0; p < PASSES; p++) pass_close(&passes[p]);
    pool_close(kl.pool);
    return status;
}
