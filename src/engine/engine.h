/* engine.h - what eval may see of the engine beyond kvasir.h: the parts of an opened model, and how a KV cache is sized.
 * server and cli see kvasir.h only. Everything here is borrowed from the model and lives as long as it. */
#ifndef ENGINE_ENGINE_H
#define ENGINE_ENGINE_H
#include "base/base.h"
#include "engine/logprobs.h"
#include "kv/kv.h"
#include "kvasir.h"
#include "model/model.h"

/* NULL when the model was opened with vocabulary_only. */
const struct model *engine_model(const struct kvasir_model *model);
uint32_t engine_threads(const struct kvasir_model *model);

/* -log of the probability that the row's softmax gives `token`; sums in double. */
double engine_token_nll(const float *logits, uint32_t vocabulary, uint32_t token);

/* "f32", "f16", …, "k=…,v=…"; what is not named, or is "auto": int8 where the model's heads are a multiple of 32 wide, else
 * f16. NULL is "auto". */
MUST_CHECK enum status engine_kv_formats(const char *text, const struct model_config *config, enum number_format *k,
                                         enum number_format *v, struct error *error);

/* Applies a KV policy (kvasir_engine_options.kv_policy) to the model's layers, which model_kv_layers() made. `heads`, [layers *
 * kv_heads], is the caller's: layers borrow from it. ST_INVALID: one line says what is wrong where. */
MUST_CHECK enum status engine_kv_policy(const char *json, const struct model_config *config, struct kv_layer *layers,
                                        struct kv_reach *heads, struct error *error);

/* Retrieval attention's settings: what was stated, and a mode's defaults for the rest (retrieval.c has the table). */
struct engine_retrieval {
    uint32_t initial_tokens, local_tokens, dense_layers; /* as in struct model_retrieval */
    double topk;            /* share of the tokens between the initial and the local ones that are recalled; 0: */
    double budget;          /* share of all tokens that are read, initial and local ones included, */
    uint32_t budget_tokens; /* but at least so many */
    uint32_t dense_boundary, offload_boundary; /* tokens of a prompt */
};
/* `mode`: on or auto. */
void engine_retrieval_init(const struct kvasir_retrieval *stated, enum kvasir_retrieval_mode mode,
                           struct engine_retrieval *out);
/* What the token at `position` reads. False: all of it, here and at every position before; true at one: at all after it. */
bool engine_retrieval_at(const struct engine_retrieval *retrieval, uint32_t position, struct model_retrieval *out);

/* Sizes of an engine, decided once: the formula is in plan.c. kv.provenance is left zero: engine_provenance. */
struct engine_plan {
    struct kv_config kv;         /* kv.layers is owned by the plan */
    struct kv_reach *heads;      /* owned; of the policy, or NULL */
    uint32_t context;            /* tokens of one request, prompt and answer */
    uint64_t request_bytes;      /* of the KV cache, that such a request needs */
    uint32_t max_batched_tokens; /* prompt tokens of one pass */
    uint32_t max_sequences, max_waiting, draft_tokens;
    double max_step_s, priority_aging_s;
    bool kv_reserve;
    struct kvasir_retrieval retrieval; /* as stated */
    bool indexed;                      /* retrieval is on, and there are heads that it concerns */
    bool offloads;                     /* and a folder for rows that it seldom reads */
};
/* `options` may be NULL. ST_LIMIT: a stated context or budget does not fit; the error says bytes needed and available. */
MUST_CHECK enum status engine_plan_init(const struct model *model, const struct kvasir_engine_options *options,
                                        struct engine_plan *out, struct error *error);
void engine_plan_release(struct engine_plan *plan);

/* Digest of all that the cache's rows depend on beside tokens (provenance.c). ST_NOMEM. */
MUST_CHECK enum status engine_provenance(const struct kvasir_model *model, const struct kv_config *kv,
                                         unsigned char out[KV_KEY_BYTES]);

#endif
