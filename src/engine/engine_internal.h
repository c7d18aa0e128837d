/* engine_internal.h - shared by engine's own files only; grouped by file. */
#ifndef ENGINE_ENGINE_INTERNAL_H
#define ENGINE_ENGINE_INTERNAL_H
#include "engine/constraint.h"
#include "engine/engine.h"
#include "engine/sampler.h"
#include "engine/stop.h"
#include "format/format.h"
#include "grammar/grammar.h"
#include "text/text.h"

/* ---- kvasir.c: what is open -------------------------------------------------------------------------------------- */

/* The public names are the private ones: the same numbers, the same bytes. */
_Static_assert((int)KVASIR_OK == (int)ST_OK && (int)KVASIR_NOMEM == (int)ST_NOMEM && (int)KVASIR_IO == (int)ST_IO &&
                   (int)KVASIR_INVALID == (int)ST_INVALID && (int)KVASIR_UNSUPPORTED == (int)ST_UNSUPPORTED &&
                   (int)KVASIR_FULL == (int)ST_FULL && (int)KVASIR_NOT_FOUND == (int)ST_NOT_FOUND &&
                   (int)KVASIR_LIMIT == (int)ST_LIMIT && (int)KVASIR_CANCELLED == (int)ST_CANCELLED,
               "enum kvasir_status is enum status");
_Static_assert((int)KVASIR_ANY_TEXT == (int)GRAMMAR_NONE && (int)KVASIR_JSON_SCHEMA == (int)GRAMMAR_JSON_SCHEMA &&
                   (int)KVASIR_JSON_OBJECT == (int)GRAMMAR_JSON_OBJECT && (int)KVASIR_REGEX == (int)GRAMMAR_REGEX &&
                   (int)KVASIR_CHOICE == (int)GRAMMAR_CHOICE && (int)KVASIR_GRAMMAR == (int)GRAMMAR_GBNF &&
                   (int)KVASIR_JSON_CALLS == (int)GRAMMAR_JSON_CALLS,
               "enum kvasir_structure is enum grammar_kind");
_Static_assert(sizeof(struct kvasir_error) == sizeof(struct error) && sizeof(enum status) == sizeof(int) &&
                   offsetof(struct kvasir_error, status) == offsetof(struct error, status) &&
                   offsetof(struct kvasir_error, text) == offsetof(struct error, text),
               "struct kvasir_error is struct error");

static inline uint32_t least(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

static inline struct error *private_error(struct kvasir_error *error)
{
    return (struct error *)(void *)error;
}

struct kvasir_model {
    struct format *format;
    struct tokenizer *tokenizer;    /* NULL: tokenizer_error says why */
    struct grammar_store *grammars; /* NULL without a tokenizer */
    struct template *chat_template; /* NULL: template_error says why */
    char *template_given;           /* its source, owned; NULL: it is the file's */
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

/* ---- draft.c: prompt lookup ---------------------------------------------------------------------------------------- */

#define DRAFT_TOKENS_MAX 16u /* of one request in one step */
#define DRAFT_ROWS_MAX 32u   /* of all requests in one step */

struct cost;
struct draft {
    double chance;           /* that a drafted token is right, of late */
    uint64_t drafted, right; /* tokens so far */
};
void draft_init(struct draft *draft);
/* At most `most` tokens that may follow tokens[0 … count-1]; returns how many. */
uint32_t draft_find(const uint32_t *tokens, uint32_t count, uint32_t most, uint32_t *out);
/* How many of `most` drafted tokens to try in a pass that without them has `rows` rows and is expected to give `tokens` tokens:
 * as many as give the most tokens a second, or 0. */
uint32_t draft_worthwhile(struct draft *draft, const struct cost *cost, double tokens, uint32_t rows, uint32_t most);
void draft_verified(struct draft *draft, uint32_t drafted, uint32_t right);

/* ---- embedding.c: hidden rows of a prompt, pooled ------------------------------------------------------------------ */

struct embedding {
    enum kvasir_pooling pooling;
    bool normalize;
    uint32_t columns;
    uint32_t taken; /* rows of the prompt's first `taken` tokens are not wanted any more */
    double *sum;    /* [columns] of the rows taken so far, by ascending position */
    float *pooled;  /* [columns], once all were taken */
};
MUST_CHECK enum status embedding_check(const struct kvasir_request *wanted, struct error *error);
MUST_CHECK enum status embedding_init(struct embedding *embedding, const struct kvasir_request *wanted,
                                      uint32_t columns);
void embedding_release(struct embedding *embedding); /* also one that is all zero */

/* ---- retrieval.c: what a token of a long context reads -------------------------------------------------------------- */

#define RETRIEVAL_TOKENS_MAX (1u << 30)

struct request;
MUST_CHECK enum status retrieval_check_engine(const struct kvasir_engine_options *options, struct error *error);
/* Marks the layers that get an index; whether there is one. */
bool retrieval_index(const struct kvasir_retrieval *stated, struct kv_layer *layers, uint32_t count);
MUST_CHECK enum status retrieval_check_request(const struct engine_plan *plan, const struct kvasir_request *wanted,
                                               struct error *error);
/* Sets the request's `retrieval`, `sparse_from` and `offloads`; its prompt and `count_max` are known. */
void retrieval_prepare(const struct engine_plan *plan, const struct kvasir_request *wanted, struct request *request);
/* What has left the window of a running request takes a step to where its tokens seldom read it. Before it is reserved. */
void retrieval_offload(struct request *request);

/* ---- request.c: one request from submit to its last event ---------------------------------------------------------- */

/* Rows of logits of prompt tokens in one step, of all requests together, beside one a request to sample from. */
#define PROMPT_ROWS_MAX 32u

struct request {
    uint64_t id;
    const struct kvasir_model *model;
    uint32_t *tokens; /* [capacity], prompt then answer; owned, as all below */
    uint32_t count, prompt_count, capacity;
    uint32_t count_max; /* where the answer ends with "length" */
    struct kvasir_sampling sampling;
    struct kvasir_logit_bias *bias;
    struct random random;
    uint32_t *stop_ids;
    size_t stop_id_count;
    bool ignore_eos, cancelled;
    uint32_t min_tokens, logprobs, prompt_logprobs;
    struct constraint constraint;
    struct embedding embedding; /* pooling NONE: a request for an answer */
    uint64_t cache_salt;
    /* Retrieval attention: tokens of the answer from position sparse_from on (0: none) do not read everything. They run one a step and
     * without drafts, and their rows are the sequence's own (kv_seq_stop_publishing). */
    struct engine_retrieval retrieval;
    uint32_t sparse_from;
    uint32_t own_from; /* rows from here on are the sequence's own: sparse ones, or with tiles the answer's; 0: none */
    bool offloads;     /* rows that sparse tokens seldom read go to a file: kv_seq_offload */
    bool counted_sparse; /* in kvasir_engine.sparse_answers */
    struct detokenizer detokenizer;
    struct stopper stopper;

    struct kv_seq *seq; /* while running; while waiting, if it was swapped out */
    uint32_t planned;   /* tokens of this step */
    uint32_t drafts;    /* and so many after them, tokens[count …], which nobody has sampled yet */
    uint32_t right;     /* of these, how many were sampled */
    struct draft draft;

    /* scheduler.c */
    bool running;
    bool paused;        /* its reader has to take what there is first: not planned, and the first to give way */
    int32_t priority;   /* lower first */
    uint32_t tenant;    /* place in scheduler.tenants */
    uint64_t tenant_id; /* as submitted */
    uint64_t admission; /* 1, 2, … in the order of first admission; 0 = never yet */
    uint64_t awaited; /* while waiting: id of a running request whose prompt begins alike and is being computed, or 0 */
    uint32_t awaited_count; /* tokens of it that are wanted */
    uint64_t passed_over;   /* the plan in which it was found to await another one */

    /* prefetch.c */
    struct prefetch {
        struct kv_fetch *fetch;    /* or NULL */
        bool late;                 /* it was not worth waiting for: never again while the request waits */
        bool done;                 /* all was fetched that was worth it, … */
        uint64_t evictions;        /* … and is there as long as kv_evictions is this */
        enum kv_fetch_state state; /* as last seen, with: */
        uint64_t bytes_left;
        double moved_s;                    /* when that changed */
        uint32_t from[KV_LOWER_TIERS_MAX]; /* tokens that have come, and that it has not started on yet */
    } prefetch;

    /* group.c: one of `n` answers to one prompt */
    struct request *next_answer; /* of the same request, until they are enqueued */
    struct request *leader;      /* whose prompt is computed for this one too; NULL: its own, or that is done */
    uint32_t index, followers;   /* followers: requests whose leader this is */
    struct group *group;         /* whose answers are chosen among, or NULL; with it: */
    struct kvasir_token
        *kept; /* [capacity - prompt_count] the answer's tokens, owned; their `top` is set when reported */
    struct kvasir_logprob *kept_tops; /* [capacity - prompt_count, logprobs] */
    double score;                     /* sum of log-probabilities of `scored` tokens, an end token's too */
    uint32_t scored;
    uint32_t row_tops; /* beam.c: entries of `top`, of the row of a settled beam */
    bool settled;      /* beam.c: it does not run, because it waits for others of its group */

    struct kvasir_token news[1 + DRAFT_TOKENS_MAX]; /* [news_count] new in this step, each with logprobs of top */
    uint32_t news_count;
    struct kvasir_logprob *top; /* [1 + DRAFT_TOKENS_MAX, logprobs] */
    struct kvasir_token
        *prompt_tokens; /* [PROMPT_ROWS_MAX] prompt_new of them new in this step; prompt_top: their top */
    struct kvasir_logprob *prompt_top; /* [PROMPT_ROWS_MAX, prompt_logprobs] */
    uint32_t prompt_taken, prompt_new; /* rows taken so far: of the first prompt_taken tokens; in this step */
    struct buffer piece, text;         /* scratch of the detokenizer; new text of this step */
    enum kvasir_finish finish;

    double submitted_s, started_s, first_token_s, last_token_s; /* clock_seconds; 0 = not yet */
    uint32_t cached_tokens, lower_tokens;                       /* lower_tokens: of them, from the tiers below RAM */
    uint64_t kv_bytes, kv_blocks;                               /* as last measured */
};
static inline bool request_is_sparse(const struct request *request, uint32_t position)
{
    return request->sparse_from && position >= request->sparse_from;
}
#define REQUEST_ANSWERS_MAX 128u
/* Checks and copies: all answers of one request, of which *out is the first and leads the others (next_answer). On any thread:
 * of the engine it reads only what never changes. */
MUST_CHECK enum status request_open(const struct kvasir_engine *engine, const struct kvasir_request *wanted,
                                    struct request **out, struct error *error);
/* Memory of its own with `count` things of `size` bytes; NULL for none, or, with *failed set, where memory could not be had. */
void *copy_of(const void *source, size_t count, size_t size, bool *failed);
/* The token's bytes, as far as they are whole characters, are added. */
void put_token(struct detokenizer *detokenizer, uint32_t id, struct buffer *out);
void request_close(struct request *request);    /* its sequence is already closed */
void request_close_all(struct request *leader); /* with the other answers; never enqueued */
MUST_CHECK enum status request_make_room(struct request *request,
                                         uint32_t more); /* for so many more tokens, at most 32 */
MUST_CHECK enum status request_resize(struct request *request, uint32_t capacity); /* at least its tokens */
/* The tokens that end an answer: how many, and where `out` is not NULL, which. */
size_t request_list_ends(const struct kvasir_model *model, const struct kvasir_request *wanted, uint32_t *out);
void request_forget_news(struct request *request); /* tokens, text and prompt logprobs of the last step */
/* The tokens whose rows may be taken from the cache, as kv_seq_open counts: the last one runs. All of them, but with
 * prompt_logprobs, and for a mean embedding, every row must run once, and with retrieval attention those of tokens that did not read
 * everything were never published: what others have there is not theirs. */
uint32_t request_match_count(const struct request *request);
/* When tokens [first, first + count) are run: how many rows of logits of prompt tokens it wants (prompt_logprobs); how many
 * it wants together, which are those of the last tokens; the most tokens, at most `count`, that want `rows` prompt rows. */
uint32_t request_prompt_rows(const struct request *request, uint32_t first, uint32_t count);
/* Of the tokens [first, first + count) those that are the answer's (model_entry.answered). */
uint32_t request_answered(const struct request *request, uint32_t first, uint32_t count);
uint32_t request_logits_rows(const struct request *request, uint32_t first, uint32_t count);
uint32_t request_fit_rows(const struct request *request, uint32_t first, uint32_t count, uint32_t rows);
/* Tokens [first, first + count) were run; `logits` are the rows it wanted. Takes prompt logprobs, and if the last token was
 * among them samples the next and takes it in: into tokens, text, logprobs; sets finish. ST_NOMEM: finish is KVASIR_ERROR.
 * Touches the request, the rows and the sampler only, so requests of a step may be taken on several threads, each with a
 * sampler of its own. */
MUST_CHECK enum status request_take(struct request *request, struct sampler *sampler, uint32_t first, uint32_t count,
                                    const float *logits);
/* When tokens [first, first + count) are run: how many hidden rows it wants, which are those of the last tokens. */
uint32_t request_hidden_rows(const struct request *request, uint32_t first, uint32_t count);
/* They were run: takes these rows, and with the prompt's last one ends with the embedding. */
void request_take_hidden(struct request *request, uint32_t count, const float *rows);
/* Sets `finish` and gives out the text that is still held. */
void request_end(struct request *request, enum kvasir_finish finish);
void request_timings(const struct request *request, struct kvasir_timings *out);

/* ---- group.c: several answers of which the best are reported ------------------------------------------------------- */

struct hypothesis {
    double score;   /* sum of log-probabilities / (their number)^length_penalty */
    uint32_t order; /* among equals the lower comes first */
    enum kvasir_finish finish;
    struct kvasir_token *tokens; /* [count] owned, as all below */
    struct kvasir_logprob *tops; /* [count, logprobs] or NULL */
    uint32_t count;
    struct buffer text;
};
struct group {
    uint32_t references; /* requests that are not closed yet, and who opens it */
    uint32_t unended;    /* requests */
    uint32_t n;          /* that are reported */
    double length_penalty;
    bool prompt_done;
    struct kvasir_timings timings; /* of the first request, once it has ended */
    struct beams *beams;           /* NULL: best_of */
    struct hypothesis
        *hypotheses; /* [capacity] count of them, best first: those that ended by themselves before all others */
    uint32_t count, capacity;
};
/* *out is NULL if the request wants no choice; else its capacity is the number of requests it is made of. ST_INVALID,
 * ST_UNSUPPORTED. */
MUST_CHECK enum status group_open(const struct kvasir_engine *engine, const struct kvasir_request *wanted,
                                  struct group **out, struct error *error);
void group_join(struct group *group, struct request *request); /* which takes a reference */
void group_release(struct group *group);                       /* gives up a reference; NULL is allowed */
/* What request.c tells of a request in a group: its tokens get a new capacity; a token was chosen, which may end it; the
 * token was taken in. */
MUST_CHECK enum status group_make_room(struct request *request, uint32_t capacity);
void group_score(struct request *request, uint32_t id, const float *logits, uint32_t vocabulary);
void group_keep(struct request *request, const struct kvasir_token *token, const struct kvasir_logprob *top);
/* The request ended: the group takes its answer. True: it was the last, and events 0…n - 1 are due, which borrow from the
 * group, and so from this request. */
bool group_leave(struct request *request);
void group_event(const struct request *last, uint32_t place, struct kvasir_event *event);
/* Shares of a group's requests that have not ended add up to n events or more. */
uint32_t group_event_share(const struct request *request);

double group_mean(const struct group *group, double sum, uint32_t tokens);
/* The `capacity` best are kept: takes the hypothesis if it is one of them, which is to be asked first. */
bool group_accepts(const struct group *group, const struct hypothesis *hypothesis);
void group_insert(struct group *group, const struct hypothesis *hypothesis);
void hypothesis_release(struct hypothesis *hypothesis);

/* ---- beam.c: a group grown by beam search -------------------------------------------------------------------------- */

#define BEAM_WIDTH_MAX 16u

struct scheduler;
struct beam_candidate {
    uint32_t id;
    float logprob;
    bool ends;
};
struct beam_candidates {
    struct beam_candidate items[2 * BEAM_WIDTH_MAX];
    uint32_t count;
};
struct beams {
    uint32_t width, live;                  /* live: beams, at most width */
    struct request *ranks[BEAM_WIDTH_MAX]; /* [width] the live ones, likeliest first; then requests that have no beam */
    struct beam_candidates candidates[BEAM_WIDTH_MAX]; /* by request.index; of those that are settled */
    uint32_t *ends;                                    /* [end_count] owned */
    size_t end_count;
    uint32_t concluded; /* hypotheses so far */
    bool early_stopping, done;
};
MUST_CHECK enum status beams_check(const struct kvasir_engine *engine, const struct kvasir_request *wanted,
                                   struct error *error);
MUST_CHECK enum status beams_open(const struct kvasir_model *model, const struct kvasir_request *wanted,
                                  struct beams **out); /* ST_NOMEM: *out is to be closed too */
void beams_close(struct beams *beams);
void beams_join(struct beams *beams, struct request *request);
/* The row of the beam's last token: the beam waits for the others. Touches nothing that others touch. */
void beam_settle(struct request *request, struct sampler *sampler, const uint64_t *allowed, const float *logits);
/* Whether all live beams of the group have settled; never of a group without beams. */
bool beams_settled(const struct group *group);
/* One token on, or the end: then every request of the group has a `finish`. ST_NOMEM: that is KVASIR_ERROR. */
MUST_CHECK enum status beams_advance(struct group *group, struct scheduler *scheduler);
/* The request ended before its group was done: what it has is a hypothesis. */
void beam_conclude(struct request *request);

/* ---- cost.c: how long a pass will take ---------------------------------------------------------------------------- */

#define COST_ROWS 64u

struct cost {
    double key_units, logits_units; /* of the work on one token: attention to one key, a row of logits */
    double fixed_s, unit_s;         /* measured; 0 = not yet */
    double rows_s[COST_ROWS + 1];   /* of a pass with so many rows, all of answers; 0 = not yet */
};
void cost_init(struct cost *cost, const struct model *model, const struct kv_layer *layers);
/* The work on `count` tokens of a sequence from position `depth` on, in units. */
double cost_units(const struct cost *cost, uint32_t depth, uint32_t count);
/* The most tokens from position `depth` on that are within `units`. */
uint32_t cost_tokens(const struct cost *cost, double units, uint32_t depth);
double cost_seconds(const struct cost *cost, double units);
/* Seconds that a unit takes at least, by the kernel's peak, which is measured: some 10 ms. 0: there is no peak to measure. */
double cost_unit_least_s(const struct model *model, const struct kv_layer *layers, uint32_t threads);
void cost_measure(struct cost *cost, double units, double seconds);
/* Of a pass with so many rows, each of an answer, with logits; of one that was never measured what the nearest below it took,
 * and the arithmetic of the others. */
double cost_rows_seconds(const struct cost *cost, uint32_t rows);
void cost_measure_rows(struct cost *cost, uint32_t rows, double seconds);

/* ---- scheduler.c: who runs in the next step ----------------------------------------------------------------------- */

struct scheduler_limits {
    uint32_t sequences;     /* running at once */
    uint32_t prompt_tokens; /* of one step */
    double step_s;          /* of one step that decodes, as predicted; 0 = scheduler.c's own rule */
    double aging_s;         /* after so long a wait a request counts as one priority higher */
    uint32_t context;
    bool reserve;             /* every request holds room for the whole context: for comparison */
    bool one_layer_at_a_time; /* no cache: one request at a time, computed whole in every step */
    uint32_t block_tokens;
    uint32_t
        tile_tokens; /* attention handles so many tokens of aligned positions together, at little more than one's cost */
    uint32_t draft_tokens;  /* of one request in one step; 0 = none */
    uint32_t closed_tokens; /* K rows are quantised in groups of so many, which drafts must not fill; 0 = one by one */
    bool lower_tiers;       /* below RAM: there are some */
    double unit_least_s;    /* until cost.unit_s was measured: less than it will be; 0: not known */
};

struct tenant {
    uint64_t id;
    double served;     /* tokens, weighted; never less than the least of the active ones when it became active */
    uint32_t requests; /* 0: not active */
};

struct scheduler {
    struct kv_cache *kv;
    struct scheduler_limits limits;
    struct cost cost;
    /* Every request is in one of them. Running: has a sequence, which may be on its way in; in order of admission. Waiting:
     * some with a sequence that is swapped out or on its way; in no order that counts. */
    struct request **running, **waiting; /* [limits.sequences], [waiting_capacity] */
    uint32_t running_count, waiting_count, waiting_capacity;
    struct request **batch; /* [limits.sequences] of this step: planned > 0 */
    struct request **order; /* [limits.sequences] scratch */
    uint32_t batch_count;
    struct tenant *tenants;
    uint32_t tenant_count, tenant_capacity;
    double served_floor; /* of the active tenants, or of those that were last */
    uint32_t paused;     /* requests, running or waiting */
    uint64_t admissions, plans;
    uint64_t blocked; /* id of the request that had no room when last tried, and the bytes free then */
    uint64_t blocked_free;
    double now, units;             /* of the step that is planned: its time, and all of its work (cost.c) */
    uint64_t preemptions, swapped; /* since it was opened; swapped: those of the preemptions whose rows were kept */
    uint32_t draft_rows;           /* of this step */
    uint64_t deferrals;            /* requests that waited for another one's blocks rather than compute them again */
    uint64_t lower_tokens[KV_LOWER_TIERS_MAX]; /* that requests found cached because they were read from there */
    uint64_t fetches_late;                     /* given up: to compute was sooner done */
};
MUST_CHECK enum status scheduler_init(struct scheduler *scheduler, struct kv_cache *kv, const struct cost *cost,
                                      const struct scheduler_limits *limits);
void scheduler_release(struct scheduler *scheduler); /* all requests already removed */
/* Every request there is, running ones first. */
static inline uint32_t scheduler_count(const struct scheduler *scheduler)
{
    return scheduler->running_count + scheduler->waiting_count;
}
static inline struct request *scheduler_at(const struct scheduler *scheduler, uint32_t i)
{
    return i < scheduler->running_count ? scheduler->running[i] : scheduler->waiting[i - scheduler->running_count];
}
/* The request waits from now on. ST_NOMEM. */
MUST_CHECK enum status scheduler_add(struct scheduler *scheduler, struct request *request);
/* Closes its sequence and forgets it: it ended. */
void scheduler_remove(struct scheduler *scheduler, struct request *request);
/* Chooses the batch; it is empty only if there is nothing to do. `now`: clock_seconds(). Reserved are rows of every planned
 * token. ST_NOMEM: every request is as it was or waits, and it can be tried again. */
MUST_CHECK enum status scheduler_plan(struct scheduler *scheduler, double now);
/* The batch ran and was committed, in so many seconds. */
void scheduler_ran(struct scheduler *scheduler, double seconds);
/* Puts a waiting request beside the running one whose prompt it shares, on a fork of its sequence. False: no room now. */
bool scheduler_fork(struct scheduler *scheduler, const struct request *from, struct request *waiting);
/* A paused request gets no tokens, but keeps its place and its blocks for as long as nobody wants them. Only of one whose prompt was
 * computed: others may wait for it. */
void scheduler_pause(struct scheduler *scheduler, struct request *request, bool paused);
uint32_t scheduler_active_count(const struct scheduler *scheduler); /* of running requests that are not paused */
/* Closes its sequence: it waits. */
void scheduler_park(struct scheduler *scheduler, struct request *request);

/* Whether there are blocks of so many bytes beside what the running requests will take. */
bool scheduler_has_room(const struct scheduler *scheduler, uint64_t bytes);

/* ---- prefetch.c: what the tiers below RAM have of prompts that wait --------------------------------------------------- */

/* Takes the fetches of waiting requests on, as far as they go now. */
void prefetch_drive(struct scheduler *scheduler);
/* The same of one waiting request: whether it waits for what is being fetched for it. */
bool prefetch_holds_up(struct scheduler *scheduler, struct request *request);
bool prefetch_reads(const struct scheduler *scheduler); /* whether prefetch_wait() has something to wait for */
void prefetch_wait(struct scheduler *scheduler);        /* not long; the scheduler's time goes on */
void prefetch_end(struct request *request);             /* whatever there is: nothing more is fetched for it */
/* The same of tokens that are run by themselves, of which the last must run: returns when what is worth it is cached. */
void prefetch_now(struct scheduler *scheduler, const uint32_t *tokens, uint32_t count, uint64_t salt);
/* The request starts on so many cached tokens. */
void prefetch_used(struct scheduler *scheduler, struct request *request, uint32_t cached);

/* ---- engine.c: the handle ------------------------------------------------------------------------------------------- */

#define FINISHED_KEPT_MIN 64u

#define SETTLING_MAX 16u
struct settling {
    struct settling_answer {
        uint32_t *tokens; /* [count], owned */
        uint32_t count, done;
        uint64_t salt;
    } answers[SETTLING_MAX]; /* the oldest first */
    uint32_t count;
};

struct kvasir_engine {
    struct kvasir_model *model;
    struct pool *pool;
    struct engine_plan plan;
    struct store *stores[KV_LOWER_TIERS_MAX]; /* of kv */
    struct kv_cache *kv;
    void (*kv_event)(void *data, const char *json, size_t bytes); /* or NULL */
    void *kv_event_data;
    uint64_t held_bytes; /* of kv, by handles of callers (sequence.c) */
    struct model_run *run;
    struct sampler *samplers; /* [pool_workers] */
    uint32_t vocabulary;

    struct scheduler scheduler;
    uint64_t next_id;
    struct settling settling;

    /* The step that runs now, or ran last. */
    struct kv_seq **seqs;               /* [max_sequences] */
    struct model_entry *entries;        /* [max_sequences] */
    struct model_retrieval *retrievals; /* [max_sequences] of entries whose token does not read everything */
    const float **rows;                 /* [max_sequences] of logits of each entry, or NULL */
    struct kvasir_event *events;        /* [event_capacity] */
    struct request **ended;             /* [event_capacity] with an event borrowed from them: closed by the next step */
    uint32_t event_count, ended_count, event_capacity;
    uint64_t steps, prompt_tokens, output_tokens, drafted_tokens, accepted_tokens; /* since it was opened */
    uint64_t sparse_answers;                                                       /* since it was opened */
    double stage_s[KVASIR_STAGES];                                                 /* since it was opened */

    struct finished {
        uint64_t id;
        struct kvasir_timings timings;
    } * finished; /* [finished_kept], a ring: all that can end in one step, at least */
    uint32_t finished_kept, finished_count;
};
/* settle.c: an answer that has ended is to be cached as a prompt would have it; some tokens of such an answer are, if it is time (then
 * nothing else is done in this step); or never. */
void settle_later(struct kvasir_engine *engine, const struct request *request);
bool settle_step(struct kvasir_engine *engine);
bool settle_idle(const struct kvasir_engine *engine); /* there is such an answer, and no request */
void settle_release(struct kvasir_engine *engine);
/* sequence.c: at most `chunk` more of ids[0 … count-1], of which *done at least should be cached, are, evictable like anything else: then
 * *done of them. ST_NOT_FOUND: fewer are. ST_FULL: there is no room. */
MUST_CHECK enum status sequence_extend(struct kvasir_engine *engine, const uint32_t *ids, uint32_t count, uint64_t salt,
                                       uint32_t chunk, uint32_t *done);
/* tiers.c: opens the stores, and has plan.kv tell the cache of them; `tiers` is the caller's, until it has opened the cache. */
MUST_CHECK enum status tiers_open(struct kvasir_engine *engine, const struct kvasir_engine_options *options,
                                  struct kv_lower_tier tiers[KV_LOWER_TIERS_MAX], struct error *error);
void tiers_close(struct kvasir_engine *engine); /* the cache already closed */
void tiers_stats(const struct kvasir_engine *engine, struct kvasir_engine_stats *out);
/* Takes the request, which waits from now on. ST_NOMEM: it is still the caller's. */
MUST_CHECK enum status engine_enqueue(struct kvasir_engine *engine, struct request *leader, struct error *error);
/* Answer `index` of a request stops, or goes on. False: it has ended, or has not begun, or is one that is chosen among. */
bool engine_pause(struct kvasir_engine *engine, uint64_t id, uint32_t index, bool paused);
void engine_forget_ended(struct kvasir_engine *engine); /* closes the requests whose last event was borrowed */

#endif
