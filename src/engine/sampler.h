/* sampler.h - from one row of logits to one token id. */
#ifndef ENGINE_SAMPLER_H
#define ENGINE_SAMPLER_H
#include "base/base.h"
#include "engine/logprobs.h"
#include "kvasir.h"

/* Working memory of one vocabulary; holds nothing between two picks. */
struct sampler {
    uint32_t vocabulary;
    float *logits;    /* [vocabulary] the row after bias and penalties, then perhaps its weights */
    uint32_t *counts; /* [vocabulary] all zero between picks */
    struct sampler_candidate *kept, *sorted; /* [vocabulary] each */
    void *memory;
    uint64_t memory_bytes;
};
MUST_CHECK enum status sampler_init(struct sampler *sampler, uint32_t vocabulary, struct error *error);
void sampler_release(struct sampler *sampler);

/* Every value in its range; the error names the field and the range. */
MUST_CHECK enum status sampling_check(const struct kvasir_sampling *sampling, uint32_t vocabulary, struct error *error);

#define SAMPLER_NONE UINT32_MAX

/* One token. `allowed`: a set of ids as constraint.h has it, NULL = any; others are never picked, and where nothing is left
 * the answer is SAMPLER_NONE. `tokens` is the sequence so far, of which the first `prompt_count` are the prompt; all ids are
 * below the vocabulary. Unless greedy it takes exactly one number from `random`, so a request's stream does not depend on
 * what was kept. The row is not changed. Several samplers may work at once, each on one thread. */
uint32_t sampler_pick(struct sampler *sampler, const struct kvasir_sampling *sampling, const uint64_t *allowed,
                      struct random *random, const float *logits, const uint32_t *tokens, uint32_t count,
                      uint32_t prompt_count);

#endif
