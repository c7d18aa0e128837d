/* engine.c - the engine handle: opening, submitting, cancelling, and what can be asked of it. step.c does the work. */
#include "engine/engine_internal.h"
#include <string.h>

/* ---- open, close ------------------------------------------------------------------------------------------------- */

static enum status open_lists(struct kvasir_engine *engine, struct error *error)
{
    uint32_t most = engine->plan.max_sequences;
    engine->batch = mem_zero(most, sizeof *engine->batch);
    engine->seqs = mem_zero(most, sizeof *engine->seqs);
    engine->entries = mem_zero(most, sizeof *engine->entries);
    if (engine->batch && engine->seqs && engine->entries) return ST_OK;
    return error_set(error, ST_NOMEM, "not enough memory for %u sequences", most);
}

int kvasir_engine_open(struct kvasir_model *model, const struct kvasir_engine_options *options,
                       struct kvasir_engine **out, struct kvasir_error *public_error)
{
    struct error *error = private_error(public_error);
    *out = NULL;
    if (!model->model)
        return (int)error_set(error, ST_INVALID, "the model was opened with its vocabulary only: it cannot run");
    struct kvasir_engine *engine = mem_zero(1, sizeof *engine);
    if (!engine) return (int)error_set(error, ST_NOMEM, "not enough memory for an engine");
    engine->model = model;
    engine->next_id = 1;
    struct engine_plan *plan = &engine->plan;
    enum status status = engine_plan_init(model->model, options, plan, error);
    if (status == ST_OK && engine_provenance(model, &plan->kv, plan->kv.provenance) != ST_OK)
        status = error_set(error, ST_NOMEM, "not enough memory for an engine");
    if (status == ST_OK) status = pool_open(model->threads, &engine->pool, error);
    if (status == ST_OK) status = kv_open(&plan->kv, &engine->kv, error);
    /* A sequence that decodes adds one token to the prompt tokens of the pass. */
    if (status == ST_OK)
        status = model_run_open(model->model, engine->pool, plan->max_batched_tokens + plan->max_sequences,
                                plan->max_sequences, plan->context, &engine->run, error);
    if (status == ST_OK) status = sampler_init(&engine->sampler, model_config(model->model)->vocabulary, error);
    if (status == ST_OK) status = open_lists(engine, error);
    if (status != ST_OK) {
        kvasir_engine_close(engine);
        return (int)status;
    }
    *out = engine;
    return KVASIR_OK;
}

void engine_forget_ended(struct kvasir_engine *engine)
{
    for (uint32_t i = 0; i < engine->ended_count; i++) request_close(engine->ended[i]);
    engine->ended_count = engine->event_count = 0;
}

void kvasir_engine_close(struct kvasir_engine *engine)
{
    if (!engine) return;
    engine_forget_ended(engine);
    for (uint32_t i = 0; i < engine->count; i++) {
        kv_seq_close(engine->requests[i]->seq);
        request_close(engine->requests[i]);
    }
    mem_free(engine->requests);
    mem_free(engine->batch);
    mem_free(engine->seqs);
    mem_free(engine->entries);
    mem_free(engine->events);
    mem_free(engine->ended);
    sampler_release(&engine->sampler);
    model_run_close(engine->run);
    kv_close(engine->kv);
    pool_close(engine->pool);
    engine_plan_release(&engine->plan);
    mem_free(engine);
}

/* ---- requests ---------------------------------------------------------------------------------------------------- */

static enum status make_room(struct kvasir_engine *engine, struct error *error)
{
    if (engine->count < engine->capacity) return ST_OK;
    uint32_t capacity = engine->capacity ? engine->capacity * 2 : 16;
    struct request **requests = mem_resize(engine->requests, capacity * sizeof *requests);
    if (!requests) return error_set(error, ST_NOMEM, "not enough memory for a request");
    engine->requests = requests;
    engine->capacity = capacity;
    return ST_OK;
}

int kvasir_engine_submit(struct kvasir_engine *engine, const struct kvasir_request *wanted, uint64_t *id,
                         struct kvasir_error *public_error)
{
    struct error *error = private_error(public_error);
    struct request *request = NULL;
    *id = 0;
    if (engine->count - engine->running >= WAITING_MAX)
        return (int)error_set(error, ST_FULL, "%u requests are waiting already: try again later", WAITING_MAX);
    enum status status = make_room(engine, error);
    if (status == ST_OK) status = request_open(engine, wanted, &request, error);
    if (status != ST_OK) return (int)status;
    request->id = *id = engine->next_id++;
    engine->requests[engine->count++] = request;
    return KVASIR_OK;
}

static struct request *find(const struct kvasir_engine *engine, uint64_t id)
{
    for (uint32_t i = 0; i < engine->count; i++)
        if (engine->requests[i]->id == id) return engine->requests[i];
    return NULL;
}

int kvasir_engine_cancel(struct kvasir_engine *engine, uint64_t id)
{
    struct request *request = find(engine, id);
    if (!request) return KVASIR_NOT_FOUND;
    request->cancelled = true;
    return KVASIR_OK;
}

bool kvasir_engine_busy(const struct kvasir_engine *engine)
{
    return engine->count > 0;
}

/* ---- asking ------------------------------------------------------------------------------------------------------ */

const char *kvasir_finish_name(enum kvasir_finish finish)
{
    static const char *const names[] = {"", "stop", "length", "cancelled", "error"};
    return (unsigned)finish < ARRAY_COUNT(names) ? names[finish] : "";
}

int kvasir_engine_timings(const struct kvasir_engine *engine, uint64_t id, struct kvasir_timings *out)
{
    const struct request *request = find(engine, id);
    *out = (struct kvasir_timings){0};
    if (request) {
        request_timings(request, out);
        return KVASIR_OK;
    }
    for (uint32_t i = 0; i < FINISHED_KEPT; i++) {
        if (engine->finished[i].id != id || id == 0) continue;
        *out = engine->finished[i].timings;
        return KVASIR_OK;
    }
    return KVASIR_NOT_FOUND;
}

void kvasir_engine_stats(const struct kvasir_engine *engine, struct kvasir_engine_stats *out)
{
    struct kv_stats kv;
    kv_stats(engine->kv, &kv);
    *out = (struct kvasir_engine_stats){.context = engine->plan.context,
                                        .block_size = kv.block_tokens,
                                        .kv_bytes_per_token = kv.bytes_per_token,
                                        .kv_bytes_per_request = engine->plan.request_bytes,
                                        .kv_bytes_budget = kv.bytes_max,
                                        .kv_bytes_used = kv.bytes_used,
                                        .kv_blocks_used = kv.blocks_used,
                                        .kv_bytes_wasted = kv.bytes_wasted,
                                        .kv_bytes_cached = kv.bytes_cached,
                                        .kv_blocks_cached = kv.blocks_cached,
                                        .kv_bytes_protected = kv.bytes_protected,
                                        .kv_bytes_pinned = kv.bytes_pinned,
                                        .kv_bytes_mapped = kv.bytes_mapped,
                                        .kv_bytes_metadata = kv.bytes_metadata,
                                        .kv_queried_tokens = kv.prefix_queried_tokens,
                                        .kv_hit_tokens = kv.prefix_hit_tokens,
                                        .kv_evicted_blocks = kv.evicted_blocks,
                                        .kv_copied_blocks = kv.copied_blocks,
                                        .kv_bytes_swapped = kv.bytes_swapped,
                                        .kv_swaps_out = kv.swaps_out,
                                        .kv_swaps_in = kv.swaps_in,
                                        .kv_swap_copied_bytes = kv.swap_copied_bytes,
                                        .running = engine->running,
                                        .waiting = engine->count - engine->running};
}
