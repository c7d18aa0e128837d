/* kvasir.h - run large language models on a CPU from a paged KV cache.
 *
 * The rules, on one page
 *  1. A model is immutable once open: many engines and threads may use one. An engine belongs to one thread.
 *  2. A request is submitted with token ids (kvasir_tokenize, kvasir_chat_tokenize make them) and then served step by
 *     step: every kvasir_engine_step() runs one pass over the model for all running requests and returns what each got.
 *  3. For one build, instruction set and request the tokens are the same alone or in any batch, with any number of
 *     threads, with or without the KV cache, in whatever chunks the prompt was computed.
 *  4. Functions return KVASIR_OK or a status; where a struct kvasir_error is passed (it may be NULL) it gets one line
 *     that says what is wrong, where, and what to do.
 *  5. What `open` returned is closed by `close`; `**out` texts and ids are the caller's, to be given to kvasir_free.
 *     Pointers inside events are borrowed until the next step. All text is bytes, normally UTF-8.
 *  6. The KV cache never takes more memory than its budget; what does not fit is refused when submitted, by name.
 *
 *  struct kvasir_model *model;   struct kvasir_engine *engine;   uint64_t id;
 *  kvasir_model_open("model.gguf", NULL, &model, &error);
 *  kvasir_engine_open(model, NULL, &engine, &error);
 *  kvasir_tokenize(model, "Once upon", 9, KVASIR_ADD_SPECIAL, &ids, &count, &error);
 *  kvasir_engine_submit(engine, &(struct kvasir_request){.prompt = ids, .prompt_count = count, .max_tokens = 32}, &id, &error);
 *  while (kvasir_engine_busy(engine) && kvasir_engine_step(engine, &events, &n, &error) == KVASIR_OK) …print events[i].text…
 */
#ifndef KVASIR_H
#define KVASIR_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum kvasir_status {
    KVASIR_OK = 0,
    KVASIR_NOMEM,       /* memory could not be had */
    KVASIR_IO,          /* the operating system refused */
    KVASIR_INVALID,     /* input breaks its format, or an argument its range */
    KVASIR_UNSUPPORTED, /* well-formed, but not something Kvasir does */
    KVASIR_FULL,        /* no room now */
    KVASIR_NOT_FOUND,
    KVASIR_LIMIT, /* a stated limit was passed */
    KVASIR_CANCELLED,
};

struct kvasir_error {
    int status;
    char text[500]; /* one line */
};

const char *kvasir_version(void);
void kvasir_free(void *block);

/* ---- models -------------------------------------------------------------------------------------------------------- */

struct kvasir_model;

struct kvasir_model_options {
    uint32_t threads;     /* 0 = every processor this process may use */
    const char *isa;      /* NULL or "auto": the best; else ref avx2 avxvnni avx512 avx512vnni */
    bool vocabulary_only; /* tokenize and render only: any architecture, no tensors needed */
    /* Precision of rope's inverse frequencies: "f32", "bf16" (as PyTorch's model.to(torch.bfloat16) leaves them), or NULL or
     * "auto": bf16 for Hugging Face checkpoints of bf16 weights, else f32. */
    const char *rope_frequencies;
    void (*progress)(void *data, double fraction); /* while loading, 0…1; may be NULL */
    void *progress_data;
    const char *
        chat_template; /* Jinja source in place of the model's own, copied; one that cannot be used is an error. NULL: its own */
};
/* `path`: a .gguf file or a Hugging Face folder (config.json, *.safetensors). `options` may be NULL. */
int kvasir_model_open(const char *path, const struct kvasir_model_options *options, struct kvasir_model **out,
                      struct kvasir_error *error);
void kvasir_model_close(struct kvasir_model *model); /* every engine of it already closed */

struct kvasir_model_info {
    const char *architecture, *name; /* borrowed from the model */
    const char *isa;                 /* of the kernels chosen; NULL when vocabulary_only */
    uint32_t context_length;         /* what the model was trained for (with its rope scaling); 0 = unknown */
    uint32_t vocabulary_size, threads;
    uint32_t embedding_length; /* of hidden rows, and of embeddings; 0 when vocabulary_only */
    bool has_tokenizer, adds_bos;
    const char *
        chat_template; /* the source of the one in use, borrowed from the model; NULL = none, or one that cannot be used */
    uint32_t bos, eos; /* UINT32_MAX = none */
    double load_s;
};
void kvasir_model_info(const struct kvasir_model *model, struct kvasir_model_info *out);

/* ---- text ---------------------------------------------------------------------------------------------------------- */

enum { KVASIR_ADD_SPECIAL = 1, KVASIR_PARSE_SPECIAL = 2, KVASIR_SHOW_CONTROL = 4 };

int kvasir_tokenize(const struct kvasir_model *model, const char *text, size_t bytes, unsigned flags, uint32_t **ids,
                    size_t *count, struct kvasir_error *error);
int kvasir_detokenize(const struct kvasir_model *model, const uint32_t *ids, size_t count, unsigned flags, char **text,
                      size_t *bytes, struct kvasir_error *error);

/* A chat, as JSON: `messages` is an array of {"role","content",…}; `tools` an array or NULL; `values` an object of more
 * template variables (enable_thinking, …), or NULL. The model's template, or `template_source` where that is not NULL. */
struct kvasir_chat {
    const char *messages, *tools, *values;
    const char *template_source;
    bool no_generation_prompt;
    /* The text ends with the last message's content, less white space at its ends where the template takes that away: the answer
     * goes on with it. There is no generation prompt. As with transformers. */
    bool continue_final_message;
};
/* The text the template gives. `model` may be NULL when template_source is there. */
int kvasir_render(const struct kvasir_model *model, const struct kvasir_chat *chat, char **text, size_t *bytes,
                  struct kvasir_error *error);
/* Rendered and tokenised; control tokens spelled in the user's own text stay text. */
int kvasir_chat_tokenize(const struct kvasir_model *model, const struct kvasir_chat *chat, uint32_t **ids,
                         size_t *count, struct kvasir_error *error);

/* ---- engine -------------------------------------------------------------------------------------------------------- */

struct kvasir_engine;

/* Retrieval attention ("look up instead of compute"). Where a KV head keeps every token, a token of the answer to a long prompt
 * reads the first tokens, those of a local window, and of all between them the ones that an index, kept beside K and V,
 * promises the most attention. So a token costs about what it does in a short context. Prompts are always computed exactly;
 * answers are near those of full attention, not the same (docs/retrieval.md), but as reproducible: rule 3 holds. What such an answer leaves
 * in the KV cache no other request finds, and nothing is drafted for it. */
enum kvasir_retrieval_mode {
    KVASIR_RETRIEVAL_DEFAULT, /* of an engine: off; of a request: as the engine was opened */
    KVASIR_RETRIEVAL_OFF,
    KVASIR_RETRIEVAL_ON,   /* as published: a share of the tokens between the first and the local ones */
    KVASIR_RETRIEVAL_AUTO, /* measured defaults: a share of all tokens is read, the first and the local ones included */
};
#define KVASIR_RETRIEVAL_NONE UINT32_MAX /* 0, where 0 stands for the default */
struct kvasir_retrieval {
    enum kvasir_retrieval_mode mode;
    /* Each: 0 = the mode's default, here in the order on, auto. */
    uint32_t initial_tokens; /* the first tokens, always read: 1024, 64 */
    uint32_t local_tokens;   /* the last ones, the token itself among them, always read: 7192, 512 */
    double topk; /* share of the tokens between them that are read, up to 1: 0.2; auto: so many that a fifth of
                                  all tokens is read, but at least 2048 */
    uint32_t dense_boundary; /* the answer to a shorter prompt reads everything: 32768, 8192 */
    /* The answer to a prompt of so many tokens keeps in memory what lies in its first and local tokens and the index, and has the rest
     * of K and V in files without a name in kvasir_engine_options.kv_disk (none: all stays), half of whose bytes are for that. It
     * reads the same. 65536, or dense_boundary where that is more. */
    uint32_t offload_boundary;
    uint32_t dense_layers; /* the first so many layers read everything: none */
};

struct kvasir_engine_options {
    /* Most tokens of one request, prompt and answer; 0 = the model's, or less if its K and V do not fit the budget. */
    uint32_t context;
    /* Budget; 0 = half of free memory, or what one request of a stated `context` needs where that is more. It is address
     * space, which becomes memory as it is used; what finished requests leave stays cached within it. */
    uint64_t kv_cache_bytes;
    /* Memory beside the budget, taken as it is used, where requests that have to give up their blocks wait with their K and V
     * if copying is measured to be cheaper than computing again; 0 = none: they are computed again. Answers are the same. */
    uint64_t swap_bytes;
    /* Tiers below RAM, where K and V of every full block are kept beyond this process, and taken from where that is predicted to be
     * sooner done than computing them: a private folder, and how much may lie in it (0 = 50 GiB; the least recently used goes first);
     * and a server that speaks Redis' protocol, "redis://[user:password@]host[:port][/database]". NULL = none. Answers are the same
     * bits. A full disk, a lost server or a damaged file is a miss, and counted. Both hold what prompts say: keep them private. */
    const char *kv_disk, *kv_remote;
    uint64_t kv_disk_bytes;
    uint32_t block_size; /* tokens a block; 0 = default (32); a multiple of 16, 16…128 */
    /* Number format of K and V: NULL or "auto" (int8; f16 where heads are no multiple of 32 wide), "f32", "f16", "bf16", "fp8_e4m3", "fp8_e5m2", "int8", "int4", or
     * "k=int8,v=int4". */
    const char *kv_cache_dtype;
    /* Selective caching: which tokens each layer and KV head keeps, as JSON (docs/kv-policy.md); NULL = as the model says. What
     * a head does not keep it does not see: answers change. A whole layer or head that slides keeps memory constant. */
    const char *kv_policy;
    /* Mode on or auto: K and V get an index, and requests that do not say otherwise use it. Refused with no_kv_cache. */
    struct kvasir_retrieval retrieval;
    bool no_kv_cache;            /* recompute everything each step: for comparison only */
    uint32_t max_batched_tokens; /* prompt tokens computed in one step; 0 = 512 */
    uint32_t max_sequences;      /* running at once; 0 = 64 */
    /* Most tokens that are drafted for an answer from what came before (prompt lookup), and verified in one pass; 0 = 8, at most
     * 16. It is done where it is measured to pay; the tokens are the same. */
    uint32_t draft_tokens;
    bool no_drafts;
    uint32_t max_waiting; /* submitted and not running; more are refused with KVASIR_FULL; 0 = 4096 */
    /* Most seconds, as predicted, of a step in which answers go on: a prompt's chunk is made to fit. 0 = automatic: for every
     * prompt that waits, but for 8 at most, about as much time as the answers of that step take. */
    double max_step_s;
    /* After each so many seconds of waiting a request counts as one priority higher, so that none starves; 0 = 10 */
    double priority_aging_s;
    /* Every running request holds room for the whole context, as engines without paging do: for comparison only. */
    bool kv_reserve;
};
int kvasir_engine_open(struct kvasir_model *model, const struct kvasir_engine_options *options,
                       struct kvasir_engine **out, struct kvasir_error *error);
void kvasir_engine_close(struct kvasir_engine *engine);

struct kvasir_logit_bias {
    uint32_t id;
    float bias;
};

/* A sequence of tokens that an answer never contains: its last token is forbidden where the answer, without the prompt, ends
 * with its others. The same text spelled by other tokens is not noticed. */
struct kvasir_bad_word {
    const uint32_t *ids;
    size_t count; /* 1…256 */
};
/* Texts as bad words: each once as it is, without leading spaces, and once after a space, where that gives other tokens. The
 * caller gives *out to kvasir_free; the ids lie in the same block. */
int kvasir_tokenize_bad_words(const struct kvasir_model *model, const char *const *texts, size_t text_count,
                              struct kvasir_bad_word **out, size_t *count, struct kvasir_error *error);

/* Zero-initialised means greedy (ties: the lower id). Filters see what the one before left, renormalised; one random number a
 * token, from a stream of the request's own: it does not depend on what else the engine serves. Ranges: temperature 0…100, the
 * p's 0…1, repetition 0…100, frequency and presence -100…100. The order is: what is allowed (a structure, allowed_ids, bad_words,
 * end tokens before min_tokens), bias, penalties, then (unless greedy) temperature, top-k, typical-p, top-p, min-p, draw. Settings
 * under which no token could begin an answer are refused; where bad words leave none later, the answer ends with "stop". */
struct kvasir_sampling {
    float temperature; /* 0 = greedy */
    uint32_t top_k;    /* 0 = off */
    float top_p;       /* 0 or 1 = off; the smallest set whose probability reaches it (Holtzman et al. 2019) */
    float min_p;       /* 0 = off; below min_p * the best's probability is dropped */
    float typical_p;   /* 0 or 1 = off; Meister et al. 2022 */
    float
        repetition_penalty; /* 0 or 1 = off; Keskar et al. 2019; over the last penalty_window tokens, prompt included */
    float frequency_penalty, presence_penalty; /* 0 = off; OpenAI's, over generated tokens */
    uint32_t penalty_window;                   /* 0 = all tokens */
    uint64_t seed;
    bool has_seed;                        /* else a random seed is taken */
    const struct kvasir_logit_bias *bias; /* -1e6…1e6; -inf: never */
    size_t bias_count;
    const uint32_t *allowed_ids; /* NULL = all tokens; else only these, at least one */
    size_t allowed_id_count;
    const struct kvasir_bad_word *bad_words; /* at most 1024 */
    size_t bad_word_count;
};

/* What a request for an embedding makes of its prompt's hidden rows (after the final norm, before the output matrix). */
enum kvasir_pooling {
    KVASIR_POOLING_NONE, /* no embedding: an answer */
    KVASIR_POOLING_LAST, /* the last token's row: in a causal model the only one that has seen all of the text */
    KVASIR_POOLING_MEAN, /* the mean of all tokens' rows, which all have to run: such a request shares no cached prefix */
};

/* What the text of an answer has to be, as its `structure_text` says; docs/structured-output.md has what of it is supported. */
enum kvasir_structure {
    KVASIR_ANY_TEXT,
    KVASIR_JSON_SCHEMA, /* JSON that satisfies this JSON Schema (draft 2020-12) */
    KVASIR_JSON_OBJECT, /* any JSON object; there is no text */
    KVASIR_REGEX,       /* all of it matches this regular expression of ECMA-262 */
    KVASIR_CHOICE,      /* one of these texts, a JSON array of strings */
    KVASIR_GRAMMAR,     /* a text of this grammar, in llama.cpp's GBNF; its rule `root` */
    /* Calls of tools, as models write them: {"schema": …, "open": "<tool_call>\n", "close": "\n</tool_call>", "between": "\n", "most": 8}: one
     * to "most" (128) JSON values that satisfy the schema, each between two marks; or one value without any. */
    KVASIR_JSON_CALLS,
};

struct kvasir_request {
    const uint32_t *prompt; /* all arrays are copied by submit */
    size_t prompt_count;    /* at least 1, less than the engine's context */
    uint32_t max_tokens;    /* 0 = until an end token or the context is full */
    /* Before so many tokens of the answer nothing but the context's end ends it: end tokens and stop_ids are not chosen, and stop
     * texts are looked for in the text after them. At most max_tokens. */
    uint32_t min_tokens;
    struct kvasir_sampling sampling;
    /* An answer ends with "stop" at an end token (not in the tokens, not in the text) or a stop text (not in the text, but
     * the tokens that spelled it are in the tokens); with "length" at max_tokens or when the context is full. */
    const char *const *stop; /* at most 64 texts of 1024 bytes; also found across token boundaries */
    size_t stop_count;
    bool include_stop;        /* the stop text that was found ends the text */
    const uint32_t *stop_ids; /* at most 1024 more end tokens */
    size_t stop_id_count;
    bool ignore_eos;
    /* Tokens that would leave the structure are not chosen, nor control tokens; end tokens (and stop_ids) are where it is
     * complete, and the answer ends by itself where nothing but its end can follow, also before min_tokens and with ignore_eos. So
     * with "stop" the text satisfies it, unless a stop text cut it off; where no token is left that could go on, or by the
     * context's end, or max_tokens, it is "length". White space in JSON is bounded. Refused by submit in at most about a tenth of a
     * second: KVASIR_INVALID what is broken, KVASIR_UNSUPPORTED by name and place what is not supported, KVASIR_LIMIT what is too
     * large; KVASIR_FULL: the structures of waiting requests take too much memory. */
    enum kvasir_structure structure;
    const char *structure_text; /* at most 512 KiB */
    size_t structure_bytes;
    uint32_t logprobs; /* alternatives reported for each token, 0…128 */
    /* The same for each token of the prompt but the first, 0 = none. Their rows all have to run: such a request shares no
     * cached prefix, and its prompt runs in chunks of at most 32 tokens. Of several answers, the first one's events have them. */
    uint32_t prompt_logprobs;
    /* Answers to the same prompt, 0 or 1…128: the prompt is computed once and its K and V are shared. The answers are those of
     * requests alone with seed, seed + 1, …; each has its own events, told apart by event.index. */
    uint32_t n;
    /* More answers than are reported, 0 or n…128: so many are run, as those of n, and when all have ended the n best come, one
     * event each with all its tokens and text; index 0 is the best. Before that its events tell the prompt's progress only. The
     * score is the sum of the log-probabilities of an answer's tokens, the end token's too, divided by (their
     * number)^length_penalty. Answers that were cancelled or failed come behind all others. */
    uint32_t best_of;
    float
        length_penalty; /* -100…100; without has_length_penalty 1: the mean. Below 1 shorter answers are favoured, 0: the sum */
    bool has_length_penalty;
    /* Beam search, 0 = off, or n…16: the answers are the n best hypotheses by that score, and come like those of best_of. At
     * every token the beam_width likeliest continuations go on; as Hugging Face transformers' generate(num_beams) it is over when
     * beam_width hypotheses have ended and the likeliest beam, scored as if it ended now, is no better than the worst of them
     * (its early_stopping=False), or with early_stopping as soon as there are as many. Log-probabilities are the model's own;
     * allowed_ids, bad_words, min_tokens and a structure forbid tokens; ties go to the likelier beam, then to the lower token, so the
     * answers depend on nothing else. Refused with it: temperature, bias, penalties, best_of, stop texts (stop_ids end a
     * hypothesis), no_kv_cache (KVASIR_UNSUPPORTED). Where fewer than n tokens could be chosen, the last answers are empty. */
    uint32_t beam_width;
    bool early_stopping;
    /* Lower ones are served first, and when blocks or places run out a higher one gives way to a lower one. */
    int32_t priority;
    /* Whom the request is served for: among requests of one priority, tenants get equal shares of computed tokens (Sheng et
     * al. 2024, Fairness in Serving Large Language Models), whatever they submit. 0 = common. */
    uint64_t tenant;
    /* Of kvasir_queue_submit, 0 = no limit: an answer of which more bytes than this wait to be taken is paused, until half of them or
     * less are left. A paused answer takes no time of others, and gives its place and its blocks to whoever wants them; its tokens are
     * the same. What waits is then at most so much, what one step gives, and log-probabilities of the prompt. Answers that are chosen
     * among (best_of, beam_width) come whole. */
    size_t unread_bytes_max;
    bool show_control; /* control tokens appear in the text by their spelling */
    /* Other than off and default: KVASIR_UNSUPPORTED where the engine was opened without it. retrieval_topk: a share of its own in place
     * of the engine's, 0 = none. */
    enum kvasir_retrieval_mode retrieval;
    double retrieval_topk;
    /* Other than KVASIR_POOLING_NONE: there is no answer, and none of the settings for one counts (n above 1 and prompt_logprobs
     * are refused). The last event, with finish "stop", comes with the prompt's last token and has the embedding. It runs
     * beside other requests, in chunks like every prompt, and has the same bits alone, in any batch and in any chunks. */
    enum kvasir_pooling pooling;
    bool normalize; /* the embedding is divided by its Euclidean length */
    uint64_t
        cache_salt; /* requests share prefixes with those of the same salt only, so that tenants learn nothing of each
                            other's prompts from time; 0 = common */
};
/* Compiles a structure, so that what is wrong with it is told apart from what is wrong with a request; errors as above. A
 * request with it that is submitted soon finds it compiled. Any thread. */
int kvasir_structure_check(struct kvasir_model *model, enum kvasir_structure structure, const char *text, size_t bytes,
                           struct kvasir_error *error);
/* KVASIR_LIMIT: the prompt is longer than the context (which always fits the KV cache's budget). KVASIR_FULL: max_waiting
 * requests wait already. */
int kvasir_engine_submit(struct kvasir_engine *engine, const struct kvasir_request *request, uint64_t *id,
                         struct kvasir_error *error);
int kvasir_engine_cancel(struct kvasir_engine *engine, uint64_t id); /* its last event comes with the next step */
/* Whether a step has something to do: there are requests, not all of them with slow readers, or an answer that has ended is still to
 * be cached as the next prompt will want it. Whoever waits for one request stops at its last event. */
bool kvasir_engine_busy(const struct kvasir_engine *engine);

enum kvasir_finish { KVASIR_RUNNING, KVASIR_STOP, KVASIR_LENGTH, KVASIR_CANCELLED_BY_CALLER, KVASIR_ERROR };
const char *kvasir_finish_name(enum kvasir_finish finish); /* "stop" "length" "cancelled" "error", "" while running */

struct kvasir_logprob {
    uint32_t id;
    float logprob; /* natural logarithm, of the model's own distribution (before bias, penalties and temperature) */
};
struct kvasir_token {
    uint32_t id;
    float logprob;                    /* as above; only where logprobs (of the prompt: prompt_logprobs) > 0 */
    const struct kvasir_logprob *top; /* [top_count], best first */
    uint32_t top_count;
};

struct kvasir_event {
    uint64_t id;                       /* of the request */
    uint32_t index;                    /* of the answer, 0…n - 1 */
    const struct kvasir_token *tokens; /* new in this step */
    size_t token_count;
    const char *text; /* new text, whole UTF-8 characters; what could become a stop text is held back */
    size_t text_bytes;
    uint32_t prompt_done, prompt_count;         /* progress of the prefill */
    const struct kvasir_token *prompt_logprobs; /* new in this step: prompt tokens from the second on, in order */
    size_t prompt_logprob_count;
    const float
        *embedding; /* [embedding_count], the model's hidden size; with the last event of a request with pooling */
    size_t embedding_count; /* 0: none */
    enum kvasir_finish finish;
};
/* One pass. Events are borrowed until the next step or close, and are given also when the step fails. KVASIR_NOMEM: try
 * again or close; a request that could not keep its text has ended with KVASIR_ERROR. */
int kvasir_engine_step(struct kvasir_engine *engine, const struct kvasir_event **events, size_t *count,
                       struct kvasir_error *error);

/* Of one request (its first answer), also after its last event (the last 64, or max_sequences, finished are kept). KVASIR_NOT_FOUND when it is not known. */
struct kvasir_timings {
    uint32_t prompt_tokens, cached_tokens, output_tokens;
    uint32_t tier_tokens; /* of cached_tokens, those that were read from a tier below RAM for this request */
    double ttft_s;        /* submit to first token, or to the embedding */
    double tpot_s;        /* mean time per output token after the first */
    double prefill_s, decode_s;
    double prefill_tokens_per_s, decode_tokens_per_s;
    uint64_t kv_bytes, kv_blocks; /* held by the request (at its end) */
};
int kvasir_engine_timings(const struct kvasir_engine *engine, uint64_t id, struct kvasir_timings *out);

/* What becomes of a request in the engine: it is checked and copied; chosen for a step and given blocks; run through the
 * model; and its next token is sampled, turned into text and reported. */
enum kvasir_stage { KVASIR_INPUT, KVASIR_SCHEDULE, KVASIR_EXECUTE, KVASIR_OUTPUT, KVASIR_STAGES };
const char *kvasir_stage_name(enum kvasir_stage stage); /* "input" "schedule" "execute" "output" */

/* Of a tier below RAM, since the engine was opened. Blocks are those of one group of layers; their bytes are not compressed. */
struct kvasir_tier_stats {
    const char *name;                 /* "disk", "remote" */
    uint64_t bytes, bytes_max, blobs; /* in the folder, compressed, when it was last written to; 0 of a server */
    uint64_t tokens;                  /* of prompts: found cached because they were read from here */
    uint64_t written_blocks, written_bytes, read_blocks, read_bytes;
    /* Not written, because it did not keep up; because it is full or does not answer. */
    uint64_t skipped_blocks, refused_blocks;
    uint64_t missed_blocks, bad_blocks; /* said to be there, and gone or damaged; of something else */
    double read_s;                      /* that reading took */
};
#define KVASIR_TIERS_MAX 2

struct kvasir_engine_stats {
    uint32_t context, block_size;
    uint64_t kv_bytes_per_token;   /* all layers, K and V, for a token that every layer still holds */
    uint64_t kv_bytes_per_request; /* that one request of the whole context needs: it always fits */
    uint64_t kv_bytes_budget;
    /* Held by requests, sequences and pins; wasted: the part of it without rows that a next token can read (the empty ends of
     * last blocks, what windows have passed). */
    uint64_t kv_bytes_used, kv_blocks_used, kv_bytes_wasted;
    /* Held by none, found by the next prompt that begins so, until evicted; protected: that a second one has used. */
    uint64_t kv_bytes_cached, kv_blocks_cached, kv_bytes_protected;
    uint64_t kv_bytes_pinned;   /* by name */
    uint64_t kv_bytes_mapped;   /* real memory, at most the budget; it is given back when idle */
    uint64_t kv_bytes_metadata; /* of the prefix index, beside the budget */
    /* Since the engine was opened: prompt tokens looked up and found, blocks evicted for others, and copied because a
     * sequence went on from the middle of a shared one. */
    uint64_t kv_queried_tokens, kv_hit_tokens, kv_evicted_blocks, kv_copied_blocks;
    /* Of the swap tier, beside the budget: bytes there now; sequences moved there and back; bytes copied both ways. */
    uint64_t kv_bytes_swapped, kv_swaps_out, kv_swaps_in, kv_swap_copied_bytes;
    /* K and V of running answers that are in files (retrieval.offload_boundary); rows of one head and 16 or 32 tokens that were wanted of
     * it and were in memory still, and that had to be read. */
    uint64_t kv_bytes_offloaded, kv_recalled_slices, kv_read_slices;
    uint32_t running, waiting;
    uint32_t paused; /* in neither of them: what they have given waits to be taken (unread_bytes_max) */
    /* Since the engine was opened: requests that gave up their blocks to others and went on later, of which some kept their
     * rows in the swap tier; requests that waited for another one to compute a prefix they share. */
    uint64_t preemptions, preemptions_swapped, prefix_waits;
    struct kvasir_tier_stats tiers[KVASIR_TIERS_MAX]; /* [tier_count] the fastest first */
    uint32_t tier_count;
    uint64_t fetches_late; /* prompts that did not wait for a tier, since computing was sooner done */
    /* Of retrieval attention: answers that have used it; K and V rows (of one head and token) that they have read where a head
     * keeps every token, and that they would have read without it. */
    uint64_t retrieval_answers, retrieval_rows_read, retrieval_rows_dense;
    uint64_t drafted_tokens, accepted_tokens;     /* of prompt lookup; accepted: that were what the model chose */
    uint64_t steps, prompt_tokens, output_tokens; /* computed: prompt tokens found in the cache are not in it */
    double stage_s[KVASIR_STAGES];                /* time in each stage */
    double attention_s; /* of KVASIR_STAGE_EXECUTION: from q, k and v to what the heads give, of all layers */
};
void kvasir_engine_stats(const struct kvasir_engine *engine, struct kvasir_engine_stats *out);

/* ---- what stays in the KV cache ------------------------------------------------------------------------------------ */

/* Every request leaves its tokens' K and V cached until they are evicted, and every prompt that begins with the same tokens
 * (and has the same salt) takes them from there: nothing need be called for that. The calls below are for what must not be
 * evicted, or goes elsewhere. All of them are called between two steps, on the engine's thread.
 *
 * A sequence is a handle on the cached K and V of a run of tokens: a document that many questions will be about, the state
 * of a conversation. While it is open nothing of it is evicted, and requests whose prompt begins with its tokens find them,
 * to the token. It costs only blocks: sequences, requests and pins with common tokens share them. With K in int4 or fp8_e4m3,
 * which is quantised 32 tokens at a time, it has the whole groups of 32: what is left of the last one is run again.
 *
 *   struct kvasir_seq *book;
 *   kvasir_seq_open(engine, ids, count, 0, &book, &error);          runs what is not cached yet, as a request would
 *   …submit requests whose prompt is ids and a question: their timings say cached_tokens == count…
 *   kvasir_seq_truncate(book, chapter_one, &error);                 keeps the first tokens only
 *   kvasir_seq_close(book);                                         stays cached until evicted
 *
 * Sequences and pins together may hold the budget less kv_bytes_per_request, so that a request always fits; each counts in
 * full, shared blocks too. Errors, each with its line in `error`:
 *   KVASIR_LIMIT        more than that; more tokens than the engine's context; kvasir_seq_truncate: a sliding window has passed
 *                       rows that the next token would read
 *   KVASIR_FULL         running requests hold the blocks now: try again when some have ended
 *   KVASIR_INVALID      no tokens, or one that is not in the vocabulary
 *   KVASIR_UNSUPPORTED  the engine was opened with no_kv_cache
 *   KVASIR_NOMEM
 * After an error nothing has changed. */
struct kvasir_seq;
int kvasir_seq_open(struct kvasir_engine *engine, const uint32_t *ids, size_t count, uint64_t salt,
                    struct kvasir_seq **out, struct kvasir_error *error);
/* A second handle on the same tokens: nothing is copied. */
int kvasir_seq_fork(struct kvasir_seq *seq, struct kvasir_seq **out, struct kvasir_error *error);
int kvasir_seq_truncate(struct kvasir_seq *seq, size_t count, struct kvasir_error *error); /* 1…tokens */
void kvasir_seq_close(struct kvasir_seq *seq); /* before its engine; NULL is allowed */
struct kvasir_seq_info {
    uint32_t tokens;
    uint32_t cached;        /* of these, how many were there when it was opened, also those in a tier below RAM */
    uint64_t bytes, blocks; /* that it holds, shared ones too; windows hold their last tokens only */
};
void kvasir_seq_info(const struct kvasir_seq *seq, struct kvasir_seq_info *out);

/* Its first `capacity` tokens; returns how many there are. */
size_t kvasir_seq_tokens(const struct kvasir_seq *seq, uint32_t *ids, size_t capacity);

/* Tokens, K and V to a file and back, byte for byte, in this process or another: what was saved need not be run again. A file
 * is of one model file, KV cache format, policy, block size, instruction set and version of Kvasir; every other one is
 * refused, like a file that was cut or changed. Checksums find accidents: load no file from somebody you do not trust.
 * Save: KVASIR_IO. Load: KVASIR_IO, KVASIR_INVALID (the file is broken), KVASIR_UNSUPPORTED (it is of something else),
 * and the errors above. */
int kvasir_seq_save(const struct kvasir_seq *seq, const char *path, struct kvasir_error *error);
int kvasir_seq_load(struct kvasir_engine *engine, const char *path, uint64_t salt, struct kvasir_seq **out,
                    struct kvasir_error *error);

/* A prefix pinned by name, such as a system prompt when a program starts: it is run if need be, and kept until it is
 * unpinned or the engine closes. A pin of the same name is replaced. Errors as above. */
int kvasir_engine_pin(struct kvasir_engine *engine, const char *name, const uint32_t *ids, size_t count, uint64_t salt,
                      struct kvasir_error *error);
int kvasir_engine_unpin(struct kvasir_engine *engine, const char *name); /* or KVASIR_NOT_FOUND */
struct kvasir_pin {
    const char *name; /* borrowed until it is unpinned */
    uint32_t tokens;
    uint64_t bytes;
};
/* The first `capacity` pins in order of name; returns how many there are. */
size_t kvasir_engine_pins(const struct kvasir_engine *engine, struct kvasir_pin *out, size_t capacity);

/* ---- looking into the KV cache ------------------------------------------------------------------------------------- */

/* The blocks as they are now, as JSON (the caller's, kvasir_free):
 *   {"block_size", "bytes_budget",
 *    "groups": [{"kind","window","sinks","block_bytes","bytes_per_token"}, …],     heads that keep the same tokens; kind index:
 *                                                                                    what retrieval attention looks up
 *    "requests": [{"id","owner"}, …],                                               that run: their blocks' owner
 *    "blocks_in_use",
 *    "blocks": [[group, index, state, references, tokens, position, owner, age, key], …]}   by group and index, then the swap tier, then files
 * state: the sum of 1 (in the swap tier; 0: in memory), 2 (cached: found by the next prompt that begins so, evicted when
 * room is needed; 0: held by `references` sequences and pins, the oldest is `owner`), 4 (pinned by name), 8 (moving between
 * tiers), 16 (protected: a second sequence has used it), 32 (offloaded: in a file, of an answer that runs). tokens: with rows, from `position` on. age: of a cached block, blocks let
 * go since. key: the first 16 hexadecimal digits of the key that events have, null while the prefix index does not have it.
 * With more than `blocks_max` in use (0: no limit) there are those that are held, swapped or offloaded, and of the others the youngest: a
 * block is about 50 bytes, so the limit bounds size and time. */
int kvasir_engine_kv_snapshot(const struct kvasir_engine *engine, size_t blocks_max, char **json, size_t *bytes,
                              struct kvasir_error *error);

/* From now on `event` gets a line of JSON for every block that the prefix index gains or loses:
 *   {"event": "stored" | "removed", "tier", "group", "bytes", "key", "parent", "tokens": […]}
 * tier: "memory"; "disk", "remote": the block was written there, or found to be damaged (what a folder drops to make room is not
 * told). `key` names the block's tokens and all before it (and all that rows depend on), `parent` the tokens before the block; of a
 * first block, its salt. A partial block has fewer tokens than others. `json` ends without a newline, is borrowed for the
 * time of the call, and comes on the engine's thread from inside a call of the engine: do not call the engine from there.
 * NULL: no more. */
void kvasir_engine_kv_events(struct kvasir_engine *engine, void (*event)(void *data, const char *json, size_t bytes),
                             void *data);

/* ---- asynchronous engine ------------------------------------------------------------------------------------------- */

/* An engine on a thread of its own, for programs that do other things meanwhile: it steps while there is work, sleeps while
 * there is none, and is given requests from any thread. What comes of them is read from a completion queue: one for each
 * thread or event loop that waits, each with a descriptor for poll().
 *
 *   struct kvasir_async *async;   struct kvasir_queue *queue;   struct kvasir_update update;
 *   kvasir_async_open(model, NULL, &async, &error);
 *   kvasir_queue_open(async, &queue, &error);
 *   kvasir_queue_submit(queue, &request, my_data, &id, &error);
 *   struct pollfd wait = {.fd = kvasir_queue_fd(queue), .events = POLLIN};
 *   while (!done && poll(&wait, 1, -1) > 0)
 *       while (kvasir_queue_take(queue, &update)) …print update.event.text; done = update.event.finish != KVASIR_RUNNING…
 *
 * The engine never waits for a reader. What a request gets while nobody takes it is gathered, so that a slow reader finds
 * more at once, never too late; unread_bytes_max says how much. */
struct kvasir_async;
int kvasir_async_open(struct kvasir_model *model, const struct kvasir_engine_options *options,
                      struct kvasir_async **out, struct kvasir_error *error);
void kvasir_async_close(struct kvasir_async *async); /* every queue of it already closed; NULL is allowed */
/* As they were after the last step. */
void kvasir_async_stats(struct kvasir_async *async, struct kvasir_engine_stats *out);
/* Runs `function` on the engine's thread between two steps, and returns when it has: for all else that an engine can be asked
 * (kvasir_engine_kv_snapshot, kvasir_engine_pin, …). It must not call kvasir_async_* or kvasir_queue_*, and must not step. */
void kvasir_async_call(struct kvasir_async *async, void (*function)(void *data, struct kvasir_engine *engine),
                       void *data);

struct kvasir_queue;
int kvasir_queue_open(struct kvasir_async *async, struct kvasir_queue **out, struct kvasir_error *error);
/* Cancels what it still waits for. */
void kvasir_queue_close(struct kvasir_queue *queue); /* NULL is allowed */
/* Readable (POLLIN) while kvasir_queue_take has something to give. Not to be read or closed. */
int kvasir_queue_fd(const struct kvasir_queue *queue);

/* Any thread, at once: does not wait for a step. Errors as kvasir_engine_submit's; KVASIR_FULL: 4096 answers are
 * running or waiting. */
int kvasir_queue_submit(struct kvasir_queue *queue, const struct kvasir_request *request, void *data, uint64_t *id,
                        struct kvasir_error *error);
/* Any thread, all answers of the request. Its last event comes when the step that runs now, or at the latest the next one, is done. KVASIR_NOT_FOUND: its
 * last event was taken. */
int kvasir_queue_cancel(struct kvasir_queue *queue, uint64_t id);
/* Any thread. While a request is held kvasir_queue_take passes over it, and what it gets is gathered: for a reader who cannot
 * take more now. */
int kvasir_queue_hold(struct kvasir_queue *queue, uint64_t id, bool held);

struct kvasir_update {
    void *data; /* of kvasir_queue_submit */
    /* All since the last one of this answer (event.index), or of a long backlog the next 64 tokens and alternatives, or 2 KiB of text:
     * what is left is given by later calls. */
    struct kvasir_event event;
    struct kvasir_timings timings; /* once event.finish is not KVASIR_RUNNING */
};
/* The next update of any request, in turn; false: none now. Arrays are borrowed until the next call. One thread at a time. */
bool kvasir_queue_take(struct kvasir_queue *queue, struct kvasir_update *out);

#ifdef __cplusplus
}
#endif
#endif
