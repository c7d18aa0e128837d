/* engine_internal.h - shared by engine's own files only; grouped by file. */
#ifndef ENGINE_ENGINE_INTERNAL_H
#define ENGINE_ENGINE_INTERNAL_H
#include "engine/engine.h"
#include "engine/sampler.h"
#include "engine/stop.h"
#include "format/format.h"
#include "text/text.h"

/* ---- kvasir.c: what is open -------------------------------------------------------------------------------------- */

/* The public names are the private ones: the same numbers, the same bytes. */
_Static_assert((int)KVASIR_OK == (int)ST_OK && (int)KVASIR_NOMEM == (int)ST_NOMEM && (int)KVASIR_IO == (int)ST_IO &&
                   (int)KVASIR_INVALID == (int)ST_INVALID && (int)KVASIR_UNSUPPORTED == (int)ST_UNSUPPORTED &&
                   (int)KVASIR_FULL == (int)ST_FULL && (int)KVASIR_NOT_FOUND == (int)ST_NOT_FOUND &&
                   (int)KVASIR_LIMIT == (int)ST_LIMIT && (int)KVASIR_CANCELLED == (int)ST_CANCELLED,
               "enum kvasir_status is enum status");
_Static_assert(sizeof(struct kvasir_error) == sizeof(struct error) && sizeof(enum status) == sizeof(int) &&
                   offsetof(struct kvasir_error, status) == offsetof(struct error, status) &&
                   offsetof(struct kvasir_error, text) == offsetof(struct error, text),
               "struct kvasir_error is struct error");

static inline struct error *private_error(struct kvasir_error *error)
{
    return (struct error *)(void *)error;
}

struct kvasir_model {
    struct format *format;
    struct tokenizer *tokenizer;    /* NULL: tokenizer_error says why */
    struct template *chat_template; /* NULL: template_error says why */
    struct model *model;            /* NULL: vocabulary only */
    const struct kernel *kernel;
    struct error tokenizer_error, template_error;
    unsigned char fingerprint[KV_KEY_BYTES]; /* of the file; all zero with the vocabulary only */
    uint32_t threads, bos, eos;              /* TOKEN_NONE = none */
    double load_s;
};
/* ST_OK, or why this model has no tokenizer. */
MUST_CHECK enum status model_needs_tokenizer(const struct kvasir_model *model, struct error *error);
bool model_token_ends(const struct kvasir_model *model, uint32_t id);

/* ---- provenance.c ------------------------------------------------------------------------------------------------ */

MUST_CHECK enum status model_fingerprint(const struct format *format, unsigned char out[KV_KEY_BYTES]);

/* ---- request.c: one request from submit to its last event ---------------------------------------------------------- */

struct request {
    uint64_t id;
    uint32_t *tokens; /* [capacity], prompt then answer; owned, as all below */
    uint32_t count, prompt_count, capacity;
    uint32_t count_max; /* where the answer ends with "length" */
    struct kvasir_sampling sampling;
    struct kvasir_logit_bias *bias;
    struct random random;
    uint32_t *stop_ids;
    size_t stop_id_count;
    bool ignore_eos, cancelled;
    uint32_t logprobs;
    uint64_t cache_salt;
    struct detokenizer detokenizer;
    struct stopper stopper;

    struct kv_seq *seq; /* while running; while waiting, if it was swapped out */
    uint32_t planned;   /* tokens of this step */

    struct kvasir_token token; /* new in this step, with top[logprobs] */
    struct kvasir_logprob *top;
    struct buffer piece, text; /* scratch of the detokenizer; new text of this step */
    enum kvasir_finish finish;

    double submitted_s, started_s, first_token_s, last_token_s; /* clock_seconds; 0 = not yet */
    uint32_t cached_tokens;
    uint64_t kv_bytes, kv_blocks; /* as last measured */
};
/* Checks and copies. */
MUST_CHECK enum status request_open(const struct kvasir_engine *engine, const struct kvasir_request *wanted,
                                    struct request **out, struct error *error);
void request_close(struct request *request);                       /* its sequence is already closed */
MUST_CHECK enum status request_make_room(struct request *request); /* for one more token */
/* Samples from the row and takes the token in: into tokens, text, logprobs; sets finish. ST_NOMEM: finish is
 * KVASIR_ERROR. */
MUST_CHECK enum status request_take(struct kvasir_engine *engine, struct request *request, const float *logits);
/* Sets `finish` and gives out the text that is still held. */
void request_end(struct request *request, enum kvasir_finish finish);
void request_timings(const struct request *request, struct kvasir_timings *out);

/* ---- engine.c: the handle ------------------------------------------------------------------------------------------- */

#define WAITING_MAX 4096u
#define FINISHED_KEPT 64u

struct kvasir_engine {
    struct kvasir_model *model;
    struct pool *pool;
    struct engine_plan plan;
    struct kv_cache *kv;
    void (*kv_event)(void *data, const char *json, size_t bytes); /* or NULL */
    void *kv_event_data;
    uint64_t held_bytes; /* of kv, by handles of callers (sequence.c) */
    struct model_run *run;
    struct sampler sampler;

    /* By ascending id: the first `running` ones hold a sequence, which may be on its way in from the swap tier; the rest
     * wait, some with a sequence that is swapped out. So the youngest running one is the last of the first part, and one
     * that gave up its blocks is the first of the second. */
    struct request **requests;
    uint32_t count, running, capacity;
    uint64_t next_id;

    /* The step that runs now, or ran last. */
    struct request **batch;      /* [max_sequences] requests with planned > 0 */
    struct kv_seq **seqs;        /* [max_sequences] */
    struct model_entry *entries; /* [max_sequences] */
    uint32_t batch_count;
    double prefill_tokens, prefill_s; /* of late, in passes that are mostly prompts: their ratio is the rate */
    struct kvasir_event *events;      /* [event_capacity] */
    struct request **ended;           /* [event_capacity] with an event borrowed from them: closed by the next step */
    uint32_t event_count, ended_count, event_capacity;

    struct finished {
        uint64_t id;
        struct kvasir_timings timings;
    } finished[FINISHED_KEPT]; /* a ring */
    uint32_t finished_count;
};
void engine_forget_ended(struct kvasir_engine *engine); /* closes the requests whose last event was borrowed */

#endif
