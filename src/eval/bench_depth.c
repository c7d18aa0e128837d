/* bench_depth.c - decode tests at depths that nobody waits for: the first tokens of a depth are a text, which is computed; all others get
 * the text's rows again and again, its first ones left out, of which every text has one set (attention sinks). So a query finds at 512K
 * tokens what it finds in the text, many times over: random rows would give it a uniform softmax, whose cost says nothing.
 *
 *   source  [ text ]
 *   seq     [ text | copies | copies | … | cop ]      grows from depth to depth
 *   branch  [ …                                | decoded ]      one run of a test: a fork, so that the depth stays as it is
 *
 * With a folder (kvasir_engine_options.kv_disk) what lies between a depth's first and last tokens waits there, like an answer's rows
 * (kv_seq_offload), from the moment it is copied: memory holds the text, the entries of the index, and what one token recalls. Such a
 * sequence cannot be forked: it is cut back after each run.
 *
 * The tokens that are fed are the text's: left to itself a model would soon repeat itself, and want the same rows again. Timed are
 * passes and picks, without the engine's step around them (docs/figures.md: under 1 % of it). */
#include "eval/bench_internal.h"
#include "eval/haystack.h"
#include <string.h>

#define TEXT_SEED 1u
#define TEXT_ROOM 4096u /* a haystack is shorter than its length, by room for questions; at worst a token is a byte */
#define SINK_TOKENS 64u
#define FORK_TOKENS 512u /* in the plan: a fork copies the blocks that are not full */

struct bench_depth {
    const struct eval_bench_options *options;
    const struct model *model;
    struct engine_plan plan;
    struct pool *pool;
    struct kv_cache *cache;
    struct model_run *run;
    struct kv_seq *source, *seq; /* seq: NULL, or at the depth of the last test */
    uint32_t computed;           /* tokens of source */
    uint32_t *ids;               /* [max_batched_tokens or more] the text; which tokens copies stand for, nobody asks */
    uint32_t recall_tokens;      /* that any token of the tests recalls, at most */
    uint32_t fed;                /* tokens so far */
};

static enum status explain(enum status status, uint32_t tokens, struct error *error)
{
    if (status == ST_IO) return error_set(error, status, "the disk of the folder for the KV cache is full, or fails");
    if (status == ST_UNSUPPORTED)
        return error_set(error, status,
                         "heads that keep every token share their blocks with others, so none of their rows can leave "
                         "memory: leave out the folder");
    return error_set(error, status,
                     "no room for a depth of %u tokens: state more memory for the KV cache, or more bytes on the disk",
                     tokens);
}

/* What the token at `position` reads in a test with retrieval; false: all of it. */
static bool reads(const struct bench_test *test, uint32_t position, struct model_retrieval *out)
{
    const struct kvasir_retrieval stated = {
        .initial_tokens = BENCH_INITIAL_TOKENS, .local_tokens = BENCH_LOCAL_TOKENS, .topk = bench_topk(test)};
    struct engine_retrieval retrieval;
    engine_retrieval_init(&stated, KVASIR_RETRIEVAL_ON, &retrieval);
    return engine_retrieval_at(&retrieval, position, out);
}

/* ---- the computed beginning ------------------------------------------------------------------------------------------ */

static enum status open_source(struct bench_depth *d, const struct kvasir_model *opened, struct error *error)
{
    struct haystack text;
    const float *logits;
    uint32_t cached;
    enum status status = haystack_make(opened, HAYSTACK_PROSE, d->computed + TEXT_ROOM, TEXT_SEED, &text, error);
    if (status != ST_OK) return status;
    ASSERT(text.count >= d->computed);
    memcpy(d->ids, text.ids, d->computed * sizeof *d->ids);
    haystack_release(&text);
    status = kv_seq_open(d->cache, d->ids, 0, 0, &d->source, &cached); /* 0 tokens: nothing is shared */
    if (status == ST_OK)
        status = pass_tokens(d->cache, d->run, d->plan.max_batched_tokens, d->source, d->ids, d->computed, &logits);
    return status == ST_OK ? ST_OK : explain(status, d->computed, error);
}

static enum status open_cache(struct bench_depth *d, uint32_t context, struct error *error)
{
    const struct kvasir_engine_options *stated = &d->options->cache;
    struct kvasir_engine_options wanted = *stated;
    wanted.context = (stated->kv_disk ? d->computed : context) + FORK_TOKENS; /* in memory */
    wanted.max_batched_tokens = 0;
    wanted.max_sequences = 1;
    if (d->options->budget_count || d->options->recall_count) wanted.retrieval.mode = KVASIR_RETRIEVAL_ON;
    enum status status = engine_plan_init(d->model, &wanted, &d->plan, error);
    if (status != ST_OK) return status;
    d->plan.context = context + FORK_TOKENS;
    d->plan.kv.share_prefixes = false; /* copies are nobody else's */
    d->plan.kv.offload_folder = stated->kv_disk;
    d->plan.kv.offload_bytes_max = stated->kv_disk_bytes;
    d->ids = mem_zero(most(d->plan.max_batched_tokens, d->computed), sizeof *d->ids);
    if (!d->ids) return error_set(error, ST_NOMEM, "not enough memory for a benchmark");
    status = kv_open(&d->plan.kv, &d->cache, error);
    if (status == ST_OK)
        status = model_run_open(d->model, d->pool, d->plan.max_batched_tokens, 1, d->plan.context, &d->run, error);
    return status;
}

enum status bench_depth_open(struct bench *bench, struct kvasir_model *model, uint32_t context, struct error *error)
{
    struct bench_depth *d = bench->depth = mem_zero(1, sizeof *d);
    if (!d) return error_set(error, ST_NOMEM, "not enough memory for a benchmark");
    d->options = bench->options;
    d->model = engine_model(model);
    d->computed = bench->computed;
    for (uint32_t i = 0; i < bench->test_count; i++) {
        const struct bench_test *test = &bench->tests[i];
        struct model_retrieval last;
        if (bench_retrieves(test) && reads(test, test->prompt + test->generate, &last))
            d->recall_tokens = most(d->recall_tokens, last.recall_tokens);
    }
    if (model_config(d->model)->window == 1)
        return error_set(error, ST_UNSUPPORTED, "layers with a window of one token have no rows to copy");
    enum status status = pool_open(engine_threads(model), &d->pool, error);
    if (status == ST_OK) status = open_cache(d, context, error);
    if (status == ST_OK) status = open_source(d, model, error);
    return status;
}

static void forget(struct bench_depth *d)
{
    kv_seq_close(d->seq);
    d->seq = NULL;
}

void bench_depth_close(struct bench_depth *d)
{
    if (!d) return;
    forget(d);
    kv_seq_close(d->source);
    model_run_close(d->run);
    kv_close(d->cache);
    engine_plan_release(&d->plan);
    pool_close(d->pool);
    mem_free(d->ids);
    mem_free(d);
}

/* ---- copies ---------------------------------------------------------------------------------------------------------- */

static enum status extend(struct bench_depth *d, uint32_t count)
{
    struct kv_seq *both[] = {d->source, d->seq};
    struct kv_batch *batch;
    enum status status = kv_seq_reserve(d->seq, count);
    if (status == ST_OK) status = kv_batch_pin(d->cache, both, ARRAY_COUNT(both), &batch);
    if (status != ST_OK) return status;
    model_run_extend(d->run, d->seq, d->source, SINK_TOKENS, count);
    kv_batch_unpin(batch);
    kv_seq_commit(d->seq, d->ids, count);
    if (!d->options->cache.kv_disk) return ST_OK;
    status = kv_seq_offload(d->seq, BENCH_INITIAL_TOKENS, kv_seq_count(d->seq) - BENCH_LOCAL_TOKENS, d->recall_tokens,
                            UINT32_MAX);
    return status == ST_FULL ? ST_OK : status; /* it stays in memory for now */
}

static enum status go_to(struct bench_depth *d, uint32_t depth)
{
    const struct eval_bench_options *o = d->options;
    enum status status = ST_OK;
    if (d->seq && kv_seq_count(d->seq) > depth) forget(d);
    if (!d->seq) status = kv_seq_fork(d->source, &d->seq);
    while (status == ST_OK && kv_seq_count(d->seq) < depth) {
        if (o->progress) o->progress(o->progress_data, "depth", kv_seq_count(d->seq), depth);
        status = extend(d, least(depth - kv_seq_count(d->seq), d->plan.max_batched_tokens));
    }
    return status;
}

/* ---- decoding -------------------------------------------------------------------------------------------------------- */

static enum status decode(struct bench_depth *d, struct kv_seq *seq, const struct bench_test *test, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        struct model_retrieval read;
        struct kv_batch *batch;
        const float *logits;
        const uint32_t token = d->ids[d->fed++ % d->computed];
        const bool sparse = bench_retrieves(test) && reads(test, kv_seq_count(seq), &read);
        const struct model_entry entry = {.seq = seq,
                                          .tokens = &token,
                                          .count = 1,
                                          .logits_count = 1,
                                          .answered = 1,
                                          .retrieval = sparse ? &read : NULL};
        enum status status = kv_seq_reserve(seq, 1);
        if (status == ST_OK) status = kv_batch_pin(d->cache, &seq, 1, &batch);
        if (status != ST_OK) return status;
        model_forward(d->run, &entry, 1, &logits);
        kv_batch_unpin(batch);
        kv_seq_commit(seq, &token, 1);
        pass_best(logits, model_config(d->model)->vocabulary); /* as who decodes would */
    }
    return kv_seq_lost(seq) ? ST_IO : ST_OK;
}

/* What a run goes on with. */
static enum status branch_off(struct bench_depth *d, struct kv_seq **branch)
{
    *branch = d->seq;
    return d->options->cache.kv_disk ? ST_OK : kv_seq_fork(d->seq, branch);
}

static void cut_off(struct bench_depth *d, uint32_t depth, struct kv_seq *branch)
{
    if (branch != d->seq)
        kv_seq_close(branch);
    else if (branch && kv_seq_truncate(branch, depth) != ST_OK) /* a window has passed what was there */
        forget(d);
}

enum status bench_depth_decode(struct bench_depth *d, struct bench_test *test, uint32_t generate,
                               struct bench_times *out, struct error *error)
{
    struct kv_seq *branch = NULL;
    struct kv_stats stats;
    struct model_attention_tally before, after;
    enum status status = go_to(d, test->prompt);
    if (status == ST_OK) status = branch_off(d, &branch);
    bench_depth_tally(d, &before);
    const double began = clock_seconds();
    if (status == ST_OK) status = decode(d, branch, test, generate);
    out->decode = clock_seconds() - began;
    bench_depth_tally(d, &after);
    out->attention = after.attention_s - before.attention_s;
    kv_stats(d->cache, &stats);
    test->kv_bytes = stats.bytes_used;
    test->kv_bytes_offloaded = stats.bytes_offloaded;
    cut_off(d, test->prompt, branch);
    return status == ST_OK ? ST_OK : explain(status, test->prompt, error);
}

void bench_depth_tally(const struct bench_depth *d, struct model_attention_tally *out)
{
    model_run_attention_tally(d->run, out);
}
