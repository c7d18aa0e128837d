/* logprobs.c - best, top-N and log-softmax over one row of logits. Sums are doubles; NaN never wins and never spreads. */
#include "engine/logprobs.h"
#include <float.h>
#include <math.h>

float logit_clean(float logit)
{
    if (isnan(logit)) return -INFINITY;
    return logit > FLT_MAX ? FLT_MAX : logit;
}

uint32_t logits_best(const float *logits, uint32_t count)
{
    uint32_t best = 0;
    float highest = -INFINITY;
    for (uint32_t i = 0; i < count; i++) {
        if (!(logits[i] > highest)) continue; /* false for NaN */
        highest = logits[i];
        best = i;
    }
    return best;
}

/* ---- a heap whose root is the worst kept ------------------------------------------------------------------------- */

static bool worse(struct kvasir_logprob a, struct kvasir_logprob b)
{
    return a.logprob < b.logprob || (a.logprob == b.logprob && a.id > b.id);
}

static void sift_down(struct kvasir_logprob *heap, uint32_t count, uint32_t at)
{
    struct kvasir_logprob moving = heap[at];
    for (uint32_t child; (child = 2 * at + 1) < count; at = child) {
        if (child + 1 < count && worse(heap[child + 1], heap[child])) child++;
        if (!worse(heap[child], moving)) break;
        heap[at] = heap[child];
    }
    heap[at] = moving;
}

uint32_t logits_top(const float *logits, uint32_t count, uint32_t most, struct kvasir_logprob *out)
{
    uint32_t kept = most < count ? most : count;
    if (!kept) return 0;
    for (uint32_t i = 0; i < kept; i++) out[i] = (struct kvasir_logprob){i, logit_clean(logits[i])};
    for (uint32_t i = kept / 2; i-- > 0;) sift_down(out, kept, i);
    float floor = out[0].logprob;
    for (uint32_t i = kept; i < count; i++) {
        if (!(logits[i] > floor)) continue; /* an equal logit of a higher id is worse */
        out[0] = (struct kvasir_logprob){i, logit_clean(logits[i])};
        sift_down(out, kept, 0);
        floor = out[0].logprob;
    }
    for (uint32_t end = kept; end > 1; end--) { /* the worst goes to the end: best first remains */
        struct kvasir_logprob last = out[0];
        out[0] = out[end - 1];
        out[end - 1] = last;
        sift_down(out, end - 1, 0);
    }
    return kept;
}

/* ---- log-softmax -------------------------------------------------------------------------------------------------- */

double logits_log_sum(const float *logits, uint32_t count)
{
    float highest = logit_clean(logits[logits_best(logits, count)]);
    if (highest == -INFINITY) return -INFINITY;
    double sum = 0;
    for (uint32_t i = 0; i < count; i++) sum += expf(logit_clean(logits[i]) - highest);
    return highest + log(sum);
}

float logits_logprob(float logit, double log_sum)
{
    float clean = logit_clean(logit);
    return clean == -INFINITY ? -INFINITY : (float)((double)clean - log_sum);
}
