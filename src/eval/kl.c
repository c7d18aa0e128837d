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

struct kl {
    uint32_t vocabulary, count; /* count: of caches */
    struct pool *pool;
    double *divergence; /* [count][positions], in the order of the text */
    uint8_t *agrees;    /* [count][positions] */
    uint64_t positions, done;
    /* the slab at hand */
    const float *reference, *tested;
    uint64_t first; /* place of its first row in the arrays */
    uint32_t rows;
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

double kl_divergence(const float *reference, const float *tested, uint32_t count, uint8_t *agrees)
{
    uint32_t best, other;
    double sum = 0, p_sum = log_sum(reference, count, &best), q_sum = log_sum(tested, count, &other);
    for (uint32_t i = 0; i < count; i++) {
        double log_p = (double)reference[i] - p_sum, log_q = (double)tested[i] - q_sum;
        if (log_p > -60) sum += exp(log_p) * (log_p - log_q); /* less counts for nothing, even 10^6 of them */
    }
    *agrees = best == other;
    return sum > 0 ? sum : 0; /* rounding may leave -1e-16 */
}

static void kl_task(void *data, uint32_t worker, uint32_t workers)
{
    struct kl *kl = data;
    uint64_t begin, end;
    pool_share(kl->rows, 1, worker, workers, &begin, &end);
    for (uint64_t i = begin; i < end; i++)
        kl->divergence[kl->first + i] =
            kl_divergence(kl->reference + i * kl->vocabulary, kl->tested + i * kl->vocabulary, kl->vocabulary,
                          &kl->agrees[kl->first + i]);
}

/* Pass 0 is the reference, whose logits stay until its next slab. */
static void kl_rows(void *data, uint32_t pass, const uint32_t *next, uint32_t rows, const float *logits)
{
    (void)next;
    struct kl *kl = data;
    if (pass == 0) {
        kl->reference = logits;
        return;
    }
    kl->tested = logits;
    kl->rows = rows;
    kl->first = (pass - 1) * kl->positions + kl->done;
    pool_run(kl->pool, kl_task, kl);
    if (pass == kl->count) kl->done += rows;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

/* Sorts the divergences. */
static struct kl_summary summarise(const struct kl *kl, uint32_t cache)
{
    struct kl_summary s = {.tokens = kl->done};
    double *divergences = kl->divergence + cache * kl->positions;
    for (uint64_t i = 0; i < kl->done; i++) {
        s.mean += divergences[i];
        s.agreement += kl->agrees[cache * kl->positions + i];
    }
    s.mean /= (double)kl->done;
    s.agreement /= (double)kl->done;
    qsort(divergences, kl->done, sizeof *divergences, ascending);
    s.p99 = divergences[(kl->done * 99 + 99) / 100 - 1]; /* the least that 99 % do not exceed */
    return s;
}

enum status kl_measure(struct kvasir_model *opened, const struct eval_text *text,
                       const struct kvasir_engine_options *caches, uint32_t count, struct kl_summary *out,
                       struct error *error)
{
    struct eval_pass passes[1 + KL_CACHES_MAX] = {0};
    struct kl kl = {.count = count, .positions = text->count};
    ASSERT(count > 0 && count <= KL_CACHES_MAX);
    enum status status = ST_OK;
    if (text->cache.no_kv_cache)
        status = error_set(error, ST_INVALID, "what a KV cache costs cannot be measured without one");
    if (status == ST_OK) status = pool_open(engine_threads(opened), &kl.pool, error);
    if (status == ST_OK) status = pass_open(opened, text, &text->cache, kl.pool, NULL, &passes[0], error);
    for (uint32_t i = 1; status == ST_OK && i <= count; i++)
        status = pass_open(opened, text, &caches[i - 1], kl.pool, i > 1 ? &passes[1] : NULL, &passes[i], error);
    for (uint32_t i = 0; status == ST_OK && i < 2; i++) model_run_precise(passes[i].run);
    if (status == ST_OK) {
        kl.vocabulary = passes[0].vocabulary;
        kl.divergence = mem_zero(text->count * count, sizeof *kl.divergence);
        kl.agrees = mem_zero(text->count * count, sizeof *kl.agrees);
        if (!kl.divergence || !kl.agrees) status = error_set(error, ST_NOMEM, "not enough memory for the report");
    }
    struct eval_walk walk = {.text = text, .passes = passes, .pass_count = 1 + count, .rows = kl_rows, .data = &kl};
    if (status == ST_OK) status = pass_walk(&walk, error);
    for (uint32_t i = 0; status == ST_OK && i < count; i++) out[i] = summarise(&kl, i);
    mem_free(kl.divergence);
    mem_free(kl.agrees);
    for (uint32_t i = count + 1; i-- > 0;) pass_close(&passes[i]);
    pool_close(kl.pool);
    return status;
}

/* ---- eval kl ----------------------------------------------------------------------------------------------------- */

static enum status report(const struct kl_summary *s, enum eval_output output, struct buffer *out, struct error *error)
{
    if (output == EVAL_JSON)
        return report_json(json_pack("{s:f, s:f, s:f, s:I}", "mean_kl", s->mean, "p99_kl", s->p99, "top1_agreement",
                                     s->agreement, "tokens", (json_int_t)s->tokens),
                           out, error);
    buffer_printf(out, "mean KL %.3e, 99th percentile %.3e, same best token at %.2f %% of %llu positions\n", s->mean,
                  s->p99, 100 * s->agreement, (unsigned long long)s->tokens);
    return report_done(out, error);
}

enum status eval_kl(struct kvasir_model *model, const struct eval_text *text, enum eval_output output,
                    struct buffer *out, struct error *error)
{
    struct kl_summary summary;
    struct eval_text reference = *text;
    reference.cache.kv_cache_dtype = "f32";
    reference.cache.kv_policy = NULL;
    enum status status = kl_measure(model, &reference, &text->cache, 1, &summary, error);
    return status == ST_OK ? report(&summary, output, out, error) : status;
}
