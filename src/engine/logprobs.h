/* logprobs.h - the model's own distribution, before any bias, penalty or temperature. */
#ifndef ENGINE_LOGPROBS_H
#define ENGINE_LOGPROBS_H
#include "kvasir.h"

/* A logit as a number to compare and subtract: NaN counts as -inf, +inf as the largest float. */
float logit_clean(float logit);

/* out[i] = e^x[i] for x[i] <= 0, within 3e-7 of the value; 0 below -87. NaN gives 0. */
void exp_row(const float *x, uint32_t count, float *out);

/* The highest logit's id; ties go to the lower id. */
uint32_t logits_best(const float *logits, uint32_t count);

/* The `most` highest logits (fewer when there are fewer), best first, ties by lower id, as {id, logit}; returns how many.
 * One pass over the logits with a heap of `most`. */
uint32_t logits_top(const float *logits, uint32_t count, uint32_t most, struct kvasir_logprob *out);

/* log(sum(exp(logits))); -inf where no logit is above -inf. logprob(i) = logit(i) - this. */
double logits_log_sum(const float *logits, uint32_t count);
float logits_logprob(float logit, double log_sum);

/* Fills in the log-probability of token->id and those of the `most` best, which go to top[most]. */
void logits_describe(const float *logits, uint32_t count, uint32_t most, struct kvasir_logprob *top,
                     struct kvasir_token *token);

#endif
