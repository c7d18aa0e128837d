/* eval.h - measurement and inspection: nll, kl, heads, retrieval, bench, throughput, inspect, the folder of a cache. Each writes its report (one of the formats it names) to a
 * buffer; the cli prints it. These look at every room to the left; the cli sees only this header. */
#ifndef EVAL_EVAL_H
#define EVAL_EVAL_H
#include "base/base.h"
#include "kvasir.h"

enum eval_output { EVAL_TEXT, EVAL_JSON, EVAL_MARKDOWN, EVAL_CSV };

/* What a model is and what its KV cache costs, without loading weights: architecture, parameters, tensors by format,
 * context length, KV bytes per token by layer kind with the formula, and the table for 1K…128K tokens in each KV format
 * beside the figure without a cache (one layer's K and V at a time). `kv_policy`: as in kvasir_engine_options, or NULL: the
 * table with that policy too. EVAL_TEXT or EVAL_JSON. */
MUST_CHECK enum status eval_inspect(const char *path, const char *kv_policy, enum eval_output output,
                                    struct buffer *out, struct error *error);

/* A text to look at token by token; one longer than the context is taken in context-sized windows. */
struct eval_text {
    const uint32_t *ids;
    size_t count;
    struct kvasir_engine_options cache; /* its context, and all that says how K and V are kept; the rest is not read */
    void (*progress)(void *data, double fraction); /* may be NULL */
    void *progress_data;
};

/* Mean negative log-likelihood (natural logarithm) of ids[1…count-1], each given all before it in its window. JSON:
 * {"mean_nll","tokens"}: tokens = predictions. */
MUST_CHECK enum status eval_nll(struct kvasir_model *model, const struct eval_text *text, enum eval_output output,
                                struct buffer *out, struct error *error);

/* What the KV cache format and policy of `text` cost: Kullback-Leibler divergence (nats) of the distribution that predicts ids[i], from
 * the one with an f32 cache that keeps all, over i of 1…count-1. At every position attention reads only rows that came back from the cache
 * in that format. JSON: {"mean_kl","p99_kl","top1_agreement","tokens"}: the mean, the 99th percentile, the share of positions
 * whose most probable token is the same, the number of positions. Takes memory for both caches. */
MUST_CHECK enum status eval_kl(struct kvasir_model *model, const struct eval_text *text, enum eval_output output,
                               struct buffer *out, struct error *error);

/* Which KV heads need the whole past (heads.c says how it is measured), and a KV policy that limits the others to `sinks` and
 * `window`: into `policy`, as kvasir_engine_options.kv_policy takes it. JSON report: {"heads": [{"layer","head","mean_kl",
 * "full"}, …] (worst first: what the head costs when it alone is limited), "kept", "limited", "sinks", "window", "mean_kl",
 * "p99_kl", "top1_agreement", "tokens" (of the policy, against the same cache that keeps all), "context", "bytes",
 * "bytes_with_policy" (of one sequence of the model's context)}. A pass over the text for each head. */
struct eval_heads_options {
    struct eval_text text; /* its cache without a policy */
    double keep;           /* share of the heads that stay full, 0…1 */
    double loss;           /* 0, or the mean KL that the policy may cost: as few heads stay full as it allows */
    uint32_t sinks, window;
};
MUST_CHECK enum status eval_heads(struct kvasir_model *model, const struct eval_heads_options *options,
                                  enum eval_output output, struct buffer *out, struct buffer *policy,
                                  struct error *error);

/* What retrieval attention loses (docs/retrieval.md): questions about texts made here from `seed`, in which there are many needles, each
 * answered greedily three times from the same prefill: by dense attention, by retrieval, and by the first and last tokens alone, of the
 * same budget. JSON: {"cells": [{"task","length","items","budget","dense_correct","both_correct","window_correct"}, …]:
 * items asked; of them answered right by dense attention; of these by retrieval, and by the window alone; and of the first budget
 * "top1_agreement","mean_kl","p99_kl" (of the tokens of all answers, given dense's before them), "attention_mass" (share of the
 * softmax that the keys read have, over all heads of layers that keep every token), "recall_at_k" (of the groups of 16 keys
 * recalled, the share that are among as many with the most attention); "budgets": the same of each, with "budget",
 * "rows_read" (share of the K and V rows that dense attention reads), "positions"}. What was not measured is null.
 * Asked is for what the window alone does not hold. A task is asked until so many items are answered right by dense attention, or
 * three times as many were asked. */
struct eval_retrieval_options {
    const uint32_t *lengths; /* tokens: text, question and answer */
    const double *budgets;   /* shares of the K and V rows that dense attention reads, above 0, at most 1 */
    size_t length_count, budget_count;
    uint32_t items; /* of each task and length that dense attention answers right */
    uint64_t seed;
    const char *tasks;                  /* names by commas; NULL: all */
    bool question_sparse;               /* the question's tokens, too, run one at a time with retrieval */
    uint32_t dense_layers;              /* the first so many layers read all that they keep, within the budget */
    struct kvasir_engine_options cache; /* how K and V are kept; its context is not read */
    void (*progress)(void *data, double fraction); /* may be NULL */
    void *progress_data;
};
/* `plot`, if not NULL, gets an SVG picture: a map of task, depth and length. */
MUST_CHECK enum status eval_retrieval(struct kvasir_model *model, const struct eval_retrieval_options *options,
                                      enum eval_output output, struct buffer *out, struct buffer *plot,
                                      struct error *error);

/* Prefill of `prompt` tokens (test "ppN") and decode of `generate` tokens after `depth` tokens of context ("tgN" or
 * "tgN@D"), `repetitions` times after one untimed warm-up. Each of the three lists may hold several values. JSON: a list of
 * {"test","tokens_per_s","stddev"}; also markdown and csv. With `roofline`, each test is set against what this machine
 * could do with these threads and kernels (docs/roofline.md), and has besides "limit_tokens_per_s" and "share" (of the
 * limit; both null where it is not known), "int8_macs_per_token" and "f32_macs_per_token" (of matrices),
 * "attention_macs_per_token" and "attention_int16_macs_per_token" (those of them in 16-bit fixed point), "bytes_per_token",
 * and "machine": {"isa","threads","int8_gmac_per_s","int16_gmac_per_s","f32_gmac_per_s","tile_gmac_per_s","read_gb_per_s",
 * "read_sizes":[{"bytes","gb_per_s"}]}, measured just before and after the test (read_sizes: once, at the beginning).
 * Takes memory for a buffer of the test's working set meanwhile. */
/* With `budgets` or `recall_tokens` every decode test is run again with retrieval attention for each of them ("tg64@32768/20%",
 * "tg64@32768/4096"), nothing is drafted in any, and the JSON of these has besides "budget" or "recall_tokens", and "rows_read" (K and V
 * rows read, of those that dense attention reads).
 * With `computed` decode tests are at depths that nobody waits for, also past what the model was trained for ("tg64@~524288"): of each depth
 * the first so many tokens are a text that is computed, the others' K and V rows copies of theirs, turned to their positions
 * (model_run_extend). With cache.kv_disk, a folder that is there, most of these wait in it until they are looked up (kv_seq_offload), and memory
 * need not hold them. Their JSON has "computed", "kv_bytes" (in memory, the text's and the index's too) and "kv_bytes_offloaded". Tokens and their times are true, what the model says there is not. */
struct eval_bench_options {
    const uint32_t *prompt, *generate, *depth; /* a 0 in prompt or generate: no such test */
    size_t prompt_count, generate_count, depth_count;
    const double
        *budgets; /* shares of the K and V rows that dense attention reads; each depth holds 192 rows or more of them */
    size_t budget_count;
    const uint32_t
        *recall_tokens; /* looked up beside the first 64 and the last 128; each depth holds more than all of these */
    size_t recall_count;
    bool skip_dense;   /* decode tests with retrieval only; where there are budgets or recall_tokens */
    uint32_t computed; /* 0: each depth is computed; else no more than any depth, rounded down to 32 */
    uint32_t repetitions;
    struct kvasir_engine_options cache; /* all that says how K and V are kept; the rest is not read */
    bool roofline; /* not with no_kv_cache, kv_policy, budgets, recall_tokens or computed: ST_INVALID */
    /* May be NULL. While the machine is measured, `test` is "machine", while a cache is filled with copies "depth". */
    void (*progress)(void *data, const char *test, uint32_t done, uint32_t total);
    void *progress_data;
};
MUST_CHECK enum status eval_bench(struct kvasir_model *model, const struct eval_bench_options *options,
                                  enum eval_output output, struct buffer *out, struct error *error);

/* A load of many requests on one engine (docs/throughput.md defines every figure): `requests` of them, `turns` to a
 * conversation, whose next prompt is the former prompt, its answer and new tokens. Prompts are random ordinary tokens, answers
 * have their stated length, and all of it follows from `seed`. Lengths are texts: "125", "uniform:50-950",
 * "lognormal:MEDIAN,SIGMA", "exp:MEAN", drawn anew for each request, rounded, 1 to 1048576.
 * Every value of `concurrency` is a level: a closed loop, in which so many conversations are held at a time. Every value of
 * `rate` is one too: an open loop, whose conversations arrive as a Poisson process of so many requests a second, whatever has
 * been answered. Each level is the same load on a new engine of its own, after a few untimed tokens.
 * JSON: {"load": {…the options…, "prompt_tokens_total", "output_tokens_total"}, "levels": [{"concurrency" | "arrival_rate",
 * "seconds", "requests_done", "requests_failed", "requests_cut", "requests_per_s", "output_tokens_per_s",
 * "total_tokens_per_s", "prefix_hit_rate", "kv_use_mean", "kv_use_peak", "kv_bytes_peak", "preemptions",
 * "preemptions_swapped", "prefix_waits", "steps", "input_share", "schedule_share", "execute_share", "output_share",
 * "ttft_s", "tpot_s", "itl_s", "e2e_s"}]},
 * the last four each {"mean", "p50", "p90", "p99", "max"}; null where nothing was measured. EVAL_JSON, EVAL_MARKDOWN or
 * EVAL_CSV; csv has a column for each of them ("ttft_s_p50"). */
struct eval_throughput_options {
    uint32_t requests, turns;                  /* 1 to 1000000; 1 to `requests` */
    const char *prompt_tokens, *output_tokens; /* of a turn: new prompt tokens beside the shared prefix; the answer */
    uint32_t shared_prefix,
        shared_prefixes;         /* tokens that begin a conversation's first prompt: one of so many, at least 1 */
    double think_s;              /* from an answer's last token to the next turn */
    const uint32_t *concurrency; /* either these, each at least 1… */
    const double *rate;          /* …or these, requests per second, each above 0 */
    size_t concurrency_count, rate_count;
    uint64_t seed;
    struct kvasir_engine_options engine; /* its context is not read: the longest conversation's is taken */
    bool (*stop)(void *data);            /* asked between steps: ends it with what was measured; may be NULL */
    void (*progress)(void *data, double fraction); /* may be NULL */
    void *data;                                    /* of both */
};
/* ST_INVALID: what is wrong with the options. */
MUST_CHECK enum status eval_throughput_check(const struct eval_throughput_options *options, struct error *error);
/* `plot`, if not NULL, gets an SVG picture: throughput and TTFT of every level. */
MUST_CHECK enum status eval_throughput(struct kvasir_model *model, const struct eval_throughput_options *options,
                                       enum eval_output output, struct buffer *out, struct buffer *plot,
                                       struct error *error);

/* The folder that a server keeps its cached blocks in (kv/store.h: their files are "blobs"), without a server or beside one.
 * - LIST: {"blobs": [{"key", "bytes" (on disk), "used_s" (since 1970)}, …]}, most recently used first.
 * - STAT: {"blobs", "bytes", "oldest_used_s", "newest_used_s"}.
 * - VERIFY reads and checks all, and removes the damaged ones, as their first use would; EXPORT does the same, and writes the
 *   sound ones to `file`, which appears when it is whole; IMPORT puts those of such a file into the folder, made if absent, within
 *   bytes_max. {"blobs", "bytes" (sound, written, new), "there" (needed not be imported), "damaged", "unreadable"}.
 * ST_NOT_FOUND: no such folder. ST_INVALID: something was damaged; `out` has the report all the same. EVAL_TEXT or EVAL_JSON. */
enum eval_folder_action {
    EVAL_FOLDER_LIST,
    EVAL_FOLDER_STAT,
    EVAL_FOLDER_VERIFY,
    EVAL_FOLDER_EXPORT,
    EVAL_FOLDER_IMPORT,
};
struct eval_folder_options {
    enum eval_folder_action action;
    const char *path, *file;
    uint64_t bytes_max;
    void (*progress)(void *data, double fraction); /* may be NULL */
    void *progress_data;
};
MUST_CHECK enum status eval_folder(const struct eval_folder_options *folder, enum eval_output output,
                                   struct buffer *out, struct error *error);

#endif
