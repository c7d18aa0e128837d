/* sequence.c - what callers keep in the KV cache: sequences by handle, and prefixes pinned by name.
 *
 * A handle's tokens are run once, then published and held: it is a holder of shared blocks and never goes on, so that
 * requests share all of it, the last partial block too. What is held so, by handles and pins together, stays within
 * kv_config.bytes_pinned_max, and one request always fits beside it; a handle counts with all its blocks, also with those
 * that it shares. */
#include "engine/engine_internal.h"
#include <string.h>

struct kvasir_seq {
    struct kvasir_engine *engine;
    struct kv_seq *seq;
    uint32_t cached; /* tokens that were there when it was opened */
    uint64_t bytes, blocks;
};

/* ---- running tokens ---------------------------------------------------------------------------------------------- */

static enum status check(const struct kvasir_engine *engine, const uint32_t *ids, size_t count, struct error *error)
{
    uint32_t vocabulary = model_config(engine->model->model)->vocabulary;
    if (engine->plan.kv.one_layer_at_a_time)
        return error_set(error, ST_UNSUPPORTED, "the engine was opened without a KV cache: nothing can be kept in it");
    if (!count || !ids) return error_set(error, ST_INVALID, "the sequence has no tokens");
    if (count > engine->plan.context)
        return error_set(error, ST_LIMIT, "a sequence of %zu tokens: the context is %u", count, engine->plan.context);
    for (size_t i = 0; i < count; i++)
        if (ids[i] >= vocabulary)
            return error_set(error, ST_INVALID, "token %zu of the sequence is %u: the vocabulary ends at %u", i, ids[i],
                             vocabulary - 1);
    return ST_OK;
}

/* Whether `bytes` more may be held, when `freed` of what is held now goes. */
static enum status check_held(const struct kvasir_engine *engine, uint64_t bytes, uint64_t freed, struct error *error)
{
    struct kv_stats stats;
    kv_stats(engine->kv, &stats);
    uint64_t held = engine->held_bytes + stats.bytes_pinned - freed, most = engine->plan.kv.bytes_pinned_max;
    if (bytes <= most && held <= most - bytes) return ST_OK;
    return error_set(error, ST_LIMIT,
                     "%llu bytes of KV cache to keep, where %llu are kept: at most %llu (the budget of %llu less what "
                     "one request needs): open the engine with a larger kv_cache_bytes or a smaller context",
                     (unsigned long long)bytes, (unsigned long long)held, (unsigned long long)most,
                     (unsigned long long)engine->plan.kv.bytes_max);
}

static enum status run_chunk(struct kvasir_engine *engine, struct kv_seq *seq, const uint32_t *ids, uint32_t count)
{
    const struct model_entry entry = {.seq = seq, .tokens = ids, .count = count};
    const float *logits;
    struct kv_batch *batch;
    enum status status = kv_seq_reserve(seq, count);
    if (status == ST_OK) status = kv_batch_pin(engine->kv, &seq, 1, &batch);
    if (status != ST_OK) return status;
    model_forward(engine->run, &entry, 1, &logits);
    kv_batch_unpin(batch);
    kv_seq_commit(seq, ids, count);
    return ST_OK;
}

/* A sequence of all that is cached of ids[0 … count-1]; ids[count] is there, whatever it is: kv leaves one token to run. */
static enum status open_cached(struct kvasir_engine *engine, const uint32_t *ids, uint32_t count, uint64_t salt,
                               struct kv_seq **out, uint32_t *cached)
{
    return kv_seq_open(engine->kv, ids, count + 1, salt, out, cached);
}

enum status sequence_extend(struct kvasir_engine *engine, const uint32_t *ids, uint32_t count, uint64_t salt,
                            uint32_t chunk, uint32_t *done)
{
    struct kv_seq *seq;
    enum status status = kv_seq_reopen(engine->kv, ids, count, salt, &seq);
    if (status != ST_OK) return status;
    const uint32_t begin = kv_seq_count(seq);
    if (begin < *done)
        status = ST_NOT_FOUND;
    else if (begin < count)
        status = run_chunk(engine, seq, ids + begin, least(count - begin, chunk - begin % chunk));
    *done = kv_seq_count(seq);
    kv_seq_close(seq);
    return status;
}

/* Has all of ids[0 … count-1] cached, evictable like anything else: *cached of them were there before. */
static enum status run_tokens(struct kvasir_engine *engine, const uint32_t *ids, uint32_t count, uint64_t salt,
                              uint32_t *cached, struct error *error)
{
    struct kv_seq *seq;
    prefetch_now(&engine->scheduler, ids, count + 1, salt);
    enum status status = open_cached(engine, ids, count, salt, &seq, cached);
    if (status != ST_OK) return error_set(error, status, "not enough memory for a sequence");
    while (status == ST_OK && kv_seq_count(seq) < count) {
        uint32_t done = kv_seq_count(seq);
        status = run_chunk(engine, seq, ids + done, least(count - done, engine->plan.max_batched_tokens));
    }
    kv_seq_close(seq);
    if (status == ST_FULL)
        return error_set(error, status, "running requests hold the KV cache: try again when some have ended");
    return status == ST_OK ? status : error_set(error, status, "not enough memory for a sequence of %u tokens", count);
}

/* ---- handles ----------------------------------------------------------------------------------------------------- */

static void measure(struct kvasir_seq *handle)
{
    handle->engine->held_bytes -= handle->bytes;
    kv_seq_usage(handle->seq, &handle->bytes, &handle->blocks);
    handle->engine->held_bytes += handle->bytes;
}

/* A handle that holds ids[0 … count-1], which are cached, as far as they can be shared; ids[count] is there. */
static enum status hold(struct kvasir_engine *engine, const uint32_t *ids, uint32_t count, uint64_t salt,
                        uint32_t cached, struct kvasir_seq **out, struct error *error)
{
    struct kvasir_seq *handle = mem_zero(1, sizeof *handle);
    uint32_t held = 0;
    enum status status = handle ? open_cached(engine, ids, count, salt, &handle->seq, &held) : ST_NOMEM;
    if (status != ST_OK) {
        mem_free(handle);
        return error_set(error, status, "not enough memory for a sequence");
    }
    /* Nothing was evicted since they were published; where K closes in groups, the open one's exact rows are not shared. */
    ASSERT(held <= count && count - held < KERNEL_CLOSED_TOKENS);
    handle->engine = engine;
    handle->cached = cached;
    measure(handle);
    *out = handle;
    return ST_OK;
}

int kvasir_seq_open(struct kvasir_engine *engine, const uint32_t *ids, size_t count, uint64_t salt,
                    struct kvasir_seq **out, struct kvasir_error *public_error)
{
    struct error *error = private_error(public_error);
    uint32_t cached, tokens = (uint32_t)count;
    *out = NULL;
    enum status status = check(engine, ids, count, error);
    if (status == ST_OK)
        status =
            check_held(engine, kv_bytes_needed(&engine->plan.kv, tokens, engine->plan.max_batched_tokens), 0, error);
    if (status != ST_OK) return (int)status;
    uint32_t *copy = mem_zero(count + 1, sizeof *copy);
    if (!copy) return (int)error_set(error, ST_NOMEM, "not enough memory for a sequence");
    memcpy(copy, ids, count * sizeof *copy);
    status = run_tokens(engine, copy, tokens, salt, &cached, error);
    if (status == ST_OK) status = hold(engine, copy, tokens, salt, cached, out, error);
    mem_free(copy);
    return (int)status;
}

int kvasir_seq_save(const struct kvasir_seq *seq, const char *path, struct kvasir_error *error)
{
    return (int)kv_seq_save(seq->seq, path, private_error(error));
}

/* The loaded sequence is closed, so that its last partial block is published too, and held like any other. */
int kvasir_seq_load(struct kvasir_engine *engine, const char *path, uint64_t salt, struct kvasir_seq **out,
                    struct kvasir_error *public_error)
{
    struct error *error = private_error(public_error);
    struct kv_seq *seq;
    uint64_t bytes, blocks;
    *out = NULL;
    if (engine->plan.kv.one_layer_at_a_time)
        return (int)error_set(error, ST_UNSUPPORTED, "the engine was opened without a KV cache: nothing can be loaded");
    enum status status = kv_seq_load(engine->kv, path, salt, &seq, error);
    if (status != ST_OK) return (int)status;
    uint32_t count = kv_seq_count(seq);
    uint32_t *ids = mem_zero((size_t)count + 1, sizeof *ids);
    if (ids) kv_seq_tokens(seq, 0, count, ids);
    kv_seq_usage(seq, &bytes, &blocks);
    kv_seq_close(seq);
    status = ids ? check(engine, ids, count, error) : error_set(error, ST_NOMEM, "not enough memory for a sequence");
    if (status == ST_OK) status = check_held(engine, bytes, 0, error);
    if (status == ST_OK) status = hold(engine, ids, count, salt, count, out, error);
    if (status != ST_OK) error_prefix(error, "%s", path);
    mem_free(ids);
    return (int)status;
}

size_t kvasir_seq_tokens(const struct kvasir_seq *seq, uint32_t *ids, size_t capacity)
{
    uint32_t count = kv_seq_count(seq->seq);
    kv_seq_tokens(seq->seq, 0, least(count, capacity < UINT32_MAX ? (uint32_t)capacity : UINT32_MAX), ids);
    return count;
}

int kvasir_seq_fork(struct kvasir_seq *seq, struct kvasir_seq **out, struct kvasir_error *public_error)
{
    struct error *error = private_error(public_error);
    *out = NULL;
    enum status status = check_held(seq->engine, seq->bytes, 0, error);
    if (status != ST_OK) return (int)status;
    struct kvasir_seq *fork = mem_zero(1, sizeof *fork);
    status = fork ? kv_seq_fork(seq->seq, &fork->seq) : ST_NOMEM;
    if (status != ST_OK) {
        mem_free(fork);
        return (int)error_set(error, status, "not enough memory for a sequence");
    }
    fork->engine = seq->engine;
    fork->cached = kv_seq_count(seq->seq);
    measure(fork);
    *out = fork;
    return KVASIR_OK;
}

int kvasir_seq_truncate(struct kvasir_seq *seq, size_t count, struct kvasir_error *public_error)
{
    struct error *error = private_error(public_error);
    uint32_t tokens = kv_seq_count(seq->seq);
    if (!count || count > tokens)
        return (int)error_set(error, ST_INVALID, "%zu tokens to keep of a sequence: must be 1 to %u", count, tokens);
    enum status status = kv_seq_truncate(seq->seq, (uint32_t)count);
    if (status == ST_LIMIT)
        return (int)error_set(error, status,
                              "a sliding window has passed what the first %zu of %u tokens need, and it is cached no "
                              "longer: open the sequence anew",
                              count, tokens);
    if (status != ST_OK) return (int)error_set(error, status, "not enough memory to cut a sequence");
    measure(seq);
    return KVASIR_OK;
}

void kvasir_seq_info(const struct kvasir_seq *seq, struct kvasir_seq_info *out)
{
    *out = (struct kvasir_seq_info){
        .tokens = kv_seq_count(seq->seq), .cached = seq->cached, .bytes = seq->bytes, .blocks = seq->blocks};
}

void kvasir_seq_close(struct kvasir_seq *seq)
{
    if (!seq) return;
    seq->engine->held_bytes -= seq->bytes;
    kv_seq_close(seq->seq);
    mem_free(seq);
}

/* ---- pins -------------------------------------------------------------------------------------------------------- */

/* Bytes of the pin of that name, or 0. */
static enum status pin_bytes(const struct kvasir_engine *engine, const char *name, uint64_t *out)
{
    uint32_t count = kv_prefix_list(engine->kv, NULL, 0);
    struct kv_prefix *pins = mem_alloc(count * sizeof *pins);
    *out = 0;
    if (!pins) return ST_NOMEM;
    kv_prefix_list(engine->kv, pins, count);
    for (uint32_t i = 0; i < count; i++)
        if (strcmp(pins[i].name, name) == 0) *out = pins[i].bytes;
    mem_free(pins);
    return ST_OK;
}

int kvasir_engine_pin(struct kvasir_engine *engine, const char *name, const uint32_t *ids, size_t count, uint64_t salt,
                      struct kvasir_error *public_error)
{
    struct error *error = private_error(public_error);
    uint64_t replaced;
    uint32_t cached, tokens = (uint32_t)count;
    if (!name || !*name) return (int)error_set(error, ST_INVALID, "a pinned prefix needs a name");
    enum status status = check(engine, ids, count, error);
    if (status != ST_OK) return (int)status;
    uint32_t *copy = mem_zero(count + 1, sizeof *copy);
    if (!copy || pin_bytes(engine, name, &replaced) != ST_OK) {
        mem_free(copy);
        return (int)error_set(error, ST_NOMEM, "not enough memory to pin a prefix");
    }
    memcpy(copy, ids, count * sizeof *copy);
    uint64_t bytes = kv_bytes_needed(&engine->plan.kv, tokens, engine->plan.max_batched_tokens);
    status = check_held(engine, bytes, replaced, error);
    if (status == ST_OK) status = run_tokens(engine, copy, tokens, salt, &cached, error);
    if (status == ST_OK) {
        status = kv_prefix_pin(engine->kv, name, copy, tokens, salt, &cached);
        if (status != ST_OK)
            error_set(error, status, "the prefix '%.60s' cannot be pinned: %s", name, status_name(status));
    }
    mem_free(copy);
    return (int)status;
}

int kvasir_engine_unpin(struct kvasir_engine *engine, const char *name)
{
    return (int)kv_prefix_unpin(engine->kv, name);
}

size_t kvasir_engine_pins(const struct kvasir_engine *engine, struct kvasir_pin *out, size_t capacity)
{
    uint32_t most = capacity < UINT32_MAX ? (uint32_t)capacity : UINT32_MAX;
    _Static_assert(sizeof(struct kvasir_pin) == sizeof(struct kv_prefix) &&
                       offsetof(struct kvasir_pin, tokens) == offsetof(struct kv_prefix, tokens) &&
                       offsetof(struct kvasir_pin, bytes) == offsetof(struct kv_prefix, bytes),
                   "struct kvasir_pin is struct kv_prefix");
    return kv_prefix_list(engine->kv, (struct kv_prefix *)(void *)out, most);
}
