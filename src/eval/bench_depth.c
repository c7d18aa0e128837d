/* bench_depth.c - decode tests at depths that nobody waits for: the first tokens of a depth are a text, which is computed; all others get
 * the text's rows again and again, its first ones left out, of which every text has one set (attention sinks). So a query finds at 512K
 * tokens what it finds in the text, many times over: random rows would give it a uniform softmax, whose cost says nothing.
 *
 *   source  [ text ]
 *   seq     [ text | copies | copies | … | cop ]      grows from depth to depth
 *   branch  [ …                                | decoded ]      one run of a test: a fork, so that the depth stays as it is
 *
 * Timed are passes and picks, without the engine's step around them (docs/figures.md: under 1 % of it). */
#include "eval/bench_internal.h"
#include "eval/haystack.h"

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
    uint32_t *ids;               /* [max_batched_tokens] all the same: which tokens copies stand for, nobody asks */
};

static enum status no_room(enum status status, uint32_t tokens, struct error *error)
{
    return error_set(error, status, "not enough memory for a depth of %u tokens: state a larger KV cache", tokens);
}

/* ---- the computed beginning ------------------------------------------------------------------------------------------ */

static enum status open_source(struct bench_depth *d, const struct kvasir_model *opened, uint32_t count,
                               struct error *error)
{
    struct haystack text;
    const float *logits;
    uint32_t cached;
    enum status status = haystack_make(opened, HAYSTACK_PROSE, count + TEXT_ROOM, TEXT_SEED, &text, error);
    if (status != ST_OK) return status;
    ASSERT(text.count >= count);
    status = kv_seq_open(d->cache, text.ids, 0, 0, &d->source, &cached); /* 0 tokens: nothing is shared */
    if (status == ST_OK)
        status = pass_tokens(d->cache, d->run, d->plan.max_batched_tokens, d->source, text.ids, count, &logits);
    haystack_release(&text);
    return status == ST_OK ? ST_OK : no_room(status, count, error);
}

static enum status open_cache(struct bench_depth *d, uint32_t context, struct error *error)
{
    struct kvasir_engine_options wanted = d->options->cache;
    wanted.context = context + FORK_TOKENS;
    wanted.max_batched_tokens = 0;
    wanted.max_sequences = 1;
    if (d->options->budget_count || d->options->recall_count) wanted.retrieval.mode = KVASIR_RETRIEVAL_ON;
    enum status status = engine_plan_init(d->model, &wanted, &d->plan, error);
    if (status != ST_OK) return status;
    d->plan.kv.share_prefixes = false; /* copies are nobody else's */
    d->ids = mem_zero(d->plan.max_batched_tokens, sizeof *d->ids);
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
    if (model_config(d->model)->window == 1)
        return error_set(error, ST_UNSUPPORTED, "layers with a window of one token have no rows to copy");
    enum status status = pool_open(engine_threads(model), &d->pool, error);
    if (status == ST_OK) status = open_cache(d, context, error);
    if (status == ST_OK) status = open_source(d, model, bench->computed, error);
    return status;
}

void bench_depth_close(struct bench_depth *d)
{
    if (!d) return;
    kv_seq_close(d->seq);
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
    return ST_OK;
}

static enum status go_to(struct bench_depth *d, uint32_t depth)
{
    const struct eval_bench_options *o = d->options;
    enum status status = ST_OK;
    if (d->seq && kv_seq_count(d->seq) > depth) {
        kv_seq_close(d->seq);
        d->seq = NULL;
    }
    if (!d->seq) status = kv_seq_fork(d->source, &d->seq);
    while (status == ST_OK && kv_seq_count(d->seq) < depth) {
        if (o->progress) o->progress(o->progress_data, "depth", kv_seq_count(d->seq), depth);
        status = extend(d, least(depth - kv_seq_count(d->seq), d->plan.max_batched_tokens));
    }
    return status;
}

/* ---- decoding -------------------------------------------------------------------------------------------------------- */

/* `retrieval`: NULL, or of what settings. */
static enum status decode(struct bench_depth *d, struct kv_seq *seq, const struct engine_retrieval *retrieval,
                          uint32_t count)
{
    const uint32_t vocabulary = model_config(d->model)->vocabulary;
    uint32_t token = 0;
    for (uint32_t i = 0; i < count; i++) {
        struct model_retrieval read;
        struct kv_batch *batch;
        const float *logits;
        const bool sparse = retrieval && engine_retrieval_at(retrieval, kv_seq_count(seq), &read);
        const struct model_entry entry = {
            .seq = seq, .tokens = &token, .count = 1, .logits_count = 1, .retrieval = sparse ? &read : NULL};
        enum status status = kv_seq_reserve(seq, 1);
        if (status == ST_OK) status = kv_batch_pin(d->cache, &seq, 1, &batch);
        if (status != ST_OK) return status;
        model_forward(d->run, &entry, 1, &logits);
        kv_batch_unpin(batch);
        kv_seq_commit(seq, &token, 1);
        token = pass_best(logits, vocabulary);
    }
    return ST_OK;
}

enum status bench_depth_decode(struct bench_depth *d, const struct bench_test *test, uint32_t generate,
                               double *decode_s, struct error *error)
{
    const struct kvasir_retrieval stated = {
        .initial_tokens = BENCH_INITIAL_TOKENS, .local_tokens = BENCH_LOCAL_TOKENS, .topk = bench_topk(test)};
    struct engine_retrieval retrieval;
    struct kv_seq *branch = NULL;
    engine_retrieval_init(&stated, KVASIR_RETRIEVAL_ON, &retrieval);
    enum status status = go_to(d, test->prompt);
    if (status == ST_OK) status = kv_seq_fork(d->seq, &branch);
    const double began = clock_seconds();
    if (status == ST_OK) status = decode(d, branch, bench_retrieves(test) ? &retrieval : NULL, generate);
    *decode_s = clock_seconds() - began;
    kv_seq_close(branch);
    return status == ST_OK ? ST_OK : no_room(status, test->prompt, error);
}

void bench_depth_tally(const struct bench_depth *d, struct model_retrieval_tally *out)
{
    model_run_retrieval_tally(d->run, out);
}
