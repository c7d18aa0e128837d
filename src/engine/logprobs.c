/* logprobs.c - best, top-N and log-softmax over one row of logits. Sums are doubles; NaN never wins and never spreads.
 *
 * A vocabulary has up to 262,144 entries, so the loops over it are written for the compiler's vectors: LANES values side by
 * side, the same ones whatever the instruction set, so that sums do not depend on it. */
#include "engine/logprobs.h"
#include "engine/engine.h"
#include <float.h>
#include <math.h>
#include <string.h>

#define LANES 16u  /* a multiple of 4, the width of the vectors below */
#define BLOCK 128u /* a multiple of LANES */

float logit_clean(float logit)
{
    if (isnan(logit)) return -INFINITY;
    return logit > FLT_MAX ? FLT_MAX : logit;
}

/* ---- loops over a row -------------------------------------------------------------------------------------------- */

typedef float floats __attribute__((vector_size(16)));
typedef int32_t wholes __attribute__((vector_size(16)));

/* e^x = 2^n * e^f with n whole and |f| <= ln 2 / 2; e^f by its Taylor polynomial of degree 7 (remainder 6e-9). Written with
 * vector types: a compiler must not turn the comparison into a vector's, since NaN could trap. */
static inline floats exp_negative(floats x)
{
    wholes in_range = x > -87.0f; /* all ones or zero; not for NaN */
    floats clipped = (floats)((wholes)x & in_range);
    wholes whole = __builtin_convertvector(clipped * 1.44269504f - 0.5f, wholes);
    floats n = __builtin_convertvector(whole, floats);
    floats f = (clipped - n * 0.693359375f) + n * 2.12194440e-4f; /* ln 2 in two parts (Cody, Waite 1980) */
    floats e = f * (1.0f / 5040) + 1.0f / 720;
    e = e * f + 1.0f / 120;
    e = e * f + 1.0f / 24;
    e = e * f + 1.0f / 6;
    e = e * f + 0.5f;
    e = e * f + 1.0f;
    e = e * f + 1.0f;
    e *= (floats)((whole + 127) << 23);
    return (floats)((wholes)e & in_range);
}

void exp_row(const float *x, uint32_t count, float *out)
{
    floats four = {0};
    uint32_t i = 0;
    for (; i + 4 <= count; i += 4) {
        memcpy(&four, x + i, sizeof four); /* unaligned load */
        four = exp_negative(four);
        memcpy(out + i, &four, sizeof four);
    }
    if (i == count) return;
    memcpy(&four, x + i, (count - i) * sizeof *x);
    four = exp_negative(four);
    memcpy(out + i, &four, (count - i) * sizeof *x);
}

/* Of x[0, BLOCK); NaN loses. */
static float block_highest(const float *x)
{
    float lanes[LANES], highest = -INFINITY;
    for (uint32_t l = 0; l < LANES; l++) lanes[l] = -INFINITY;
    for (uint32_t i = 0; i < BLOCK; i += LANES)
        for (uint32_t l = 0; l < LANES; l++) lanes[l] = x[i + l] > lanes[l] ? x[i + l] : lanes[l];
    for (uint32_t l = 0; l < LANES; l++) highest = lanes[l] > highest ? lanes[l] : highest;
    return highest;
}

uint32_t logits_best(const float *logits, uint32_t count)
{
    uint32_t best = 0;
    float highest = -INFINITY;
    for (uint32_t begin = 0; begin < count; begin += BLOCK) {
        uint32_t end = count - begin < BLOCK ? count : begin + BLOCK;
        if (end - begin == BLOCK && !(block_highest(logits + begin) > highest)) continue;
        for (uint32_t i = begin; i < end; i++) {
            if (!(logits[i] > highest)) continue;
            highest = logits[i];
            best = i;
        }
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
    for (uint32_t begin = kept; begin < count; begin += BLOCK) {
        uint32_t end = count - begin < BLOCK ? count : begin + BLOCK;
        if (end - begin == BLOCK && !(block_highest(logits + begin) > out[0].logprob)) continue;
        for (uint32_t i = begin; i < end; i++) {
            struct kvasir_logprob next = {i, logit_clean(logits[i])};
            if (!(next.logprob > out[0].logprob)) continue; /* an equal logit of a higher id is worse */
            out[0] = next;
            sift_down(out, kept, 0);
        }
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
    double lanes[LANES] = {0}, sum = 0;
    for (uint32_t begin = 0; begin < count; begin += BLOCK) {
        float x[BLOCK], e[BLOCK];
        uint32_t own = count - begin < BLOCK ? count - begin : BLOCK;
        for (uint32_t i = 0; i < own; i++) x[i] = logits[begin + i] - highest;
        for (uint32_t i = own; i < BLOCK; i++) x[i] = -INFINITY;
        for (uint32_t i = 0; i < own && highest == FLT_MAX; i++) /* which may stand for +inf */
            x[i] = logit_clean(logits[begin + i]) - highest;
        exp_row(x, BLOCK, e);
        for (uint32_t i = 0; i < BLOCK; i += LANES)
            for (uint32_t l = 0; l < LANES; l++) lanes[l] += (double)e[i + l];
    }
    for (uint32_t l = 0; l < LANES; l++) sum += lanes[l];
    return highest + log(sum);
}

float logits_logprob(float logit, double log_sum)
{
    float clean = logit_clean(logit);
    return clean == -INFINITY ? -INFINITY : (float)((double)clean - log_sum);
}

void logits_describe(const float *logits, uint32_t count, uint32_t most, struct kvasir_logprob *top,
                     struct kvasir_token *token)
{
    double log_sum = logits_log_sum(logits, count);
    token->logprob = logits_logprob(logits[token->id], log_sum);
    token->top = top;
    token->top_count = logits_top(logits, count, most, top);
    for (uint32_t i = 0; i < token->top_count; i++) top[i].logprob = logits_logprob(top[i].logprob, log_sum);
}

double engine_token_nll(const float *logits, uint32_t vocabulary, uint32_t token)
{
    return logits_log_sum(logits, vocabulary) - (double)logit_clean(logits[token]);
}
