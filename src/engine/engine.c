/* engine.c - the engine handle: opening, submitting, cancelling, and what can be asked of it. step.c does the work. */
#include "engine/engine_internal.h"
#include <string.h>

/* ---- open, close ------------------------------------------------------------------------------------------------- */

static enum status open_lists(struct kvasir_engine *engine, struct error *error)
{
    uint32_t most = engine->plan.max_sequences;
    engine->seqs = mem_zero(most, sizeof *engine->seqs);
    engine->entries = mem_zero(most, sizeof *engine->entries);
    engine->retrievals = mem_zero(most, sizeof *engine->retrievals);
    engine->rows = mem_zero(most, sizeof *engine->rows);
    engine->finished_kept = most < FINISHED_KEPT_MIN ? FINISHED_KEPT_MIN : most;
    engine->finished = mem_zero(engine->finished_kept, sizeof *engine->finished);
    if (engine->seqs && engine->entries && engine->retrievals && engine->rows && engine->finished) return ST_OK;
    return error_set(error, ST_NOMEM, "not enough memory for %u sequences", most);
}

/* One for each worker: requests of a step are sampled side by side. */
static enum status open_samplers(struct kvasir_engine *engine, struct error *error)
{
    enum status status = ST_OK;
    engine->vocabulary = model_config(engine->model->model)->vocabulary;
    engine->samplers = mem_zero(pool_workers(engine->pool), sizeof *engine->samplers);
    if (!engine->samplers) return error_set(error, ST_NOMEM, "not enough memory for an engine");
    for (uint32_t i = 0; i < pool_workers(engine->pool) && status == ST_OK; i++)
        status = sampler_init(&engine->samplers[i], engine->vocabulary, error);
    return status;
}

static double unit_least_s(const struct kvasir_engine *engine)
{
    return cost_unit_least_s(engine->model->model, engine->plan.kv.layers, pool_workers(engine->pool));
}

static bool closes(const struct kv_config *kv)
{
    for (uint32_t i = 0; i < kv->layer_count; i++)
        if (kernel_k_closes(kv->layers[i].k_format)) return true;
    return false;
}

static enum status open_scheduler(struct kvasir_engine *engine, struct error *error)
{
    const struct engine_plan *plan = &engine->plan;
    const bool cached = !plan->kv.one_layer_at_a_time;
    const struct scheduler_limits limits = {.sequences = plan->max_sequences,
                                            .prompt_tokens = plan->max_batched_tokens,
                                            .step_s = cached ? plan->max_step_s : 0,
                                            .aging_s = plan->priority_aging_s,
                                            .context = plan->context,
                                            .reserve = plan->kv_reserve,
                                            .one_layer_at_a_time = !cached,
                                            .block_tokens = plan->kv.block_tokens,
                                            .tile_tokens = KERNEL_CLOSED_TOKENS,
                                            .draft_tokens = cached ? plan->draft_tokens : 0,
                                            .closed_tokens = closes(&plan->kv) ? KERNEL_CLOSED_TOKENS : 0,
                                            .lower_tiers = plan->kv.lower_count > 0,
                                            .unit_least_s = plan->kv.lower_count ? unit_least_s(engine) : 0};
    struct cost cost;
    cost_init(&cost, engine->model->model, plan->kv.layers);
    enum status status = scheduler_init(&engine->scheduler, engine->kv, &cost, &limits);
    return status == ST_OK ? status : error_set(error, status, "not enough memory for an engine");
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
    struct kv_lower_tier tiers[KV_LOWER_TIERS_MAX];
    enum status status = engine_plan_init(model->model, options, plan, error);
    if (status == ST_OK && engine_provenance(model, &plan->kv, plan->kv.provenance) != ST_OK)
        status = error_set(error, ST_NOMEM, "not enough memory for an engine");
    if (status == ST_OK) status = tiers_open(engine, options, tiers, error);
    if (status == ST_OK) status = pool_open(model->threads, &engine->pool, error);
    if (status == ST_OK) status = kv_open(&plan->kv, &engine->kv, error);
    plan->kv.lower = NULL;
    plan->kv.offload_folder = NULL;
    /* A sequence that decodes adds one token to the prompt tokens of the pass; some add drafted ones. */
    uint32_t answers = plan->max_sequences + DRAFT_ROWS_MAX;
    if (status == ST_OK)
        status = model_run_open(model->model, engine->pool, plan->max_batched_tokens + answers,
                                answers + PROMPT_ROWS_MAX, plan->context, &engine->run, error);
    if (status == ST_OK) status = open_samplers(engine, error);
    if (status == ST_OK) status = open_lists(engine, error);
    if (status == ST_OK) status = open_scheduler(engine, error);
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
    struct scheduler *scheduler = &engine->scheduler;
    while (scheduler_count(scheduler)) {
        struct request *r = scheduler_at(scheduler, 0);
        scheduler_remove(scheduler, r);
        request_close(r);
    }
    scheduler_release(scheduler);
    settle_release(engine);
    mem_free(engine->seqs);
    mem_free(engine->entries);
    mem_free(engine->retrievals);
    mem_free(engine->events);
    mem_free(engine->ended);
    for (uint32_t i = 0; engine->samplers && i < pool_workers(engine->pool); i++) sampler_release(&engine->samplers[i]);
    mem_free(engine->samplers);
    mem_free(engine->rows);
    mem_free(engine->finished);
    model_run_close(engine->run);
    kv_close(engine->kv);
    tiers_close(engine);
    pool_close(engine->pool);
    engine_plan_release(&engine->plan);
    mem_free(engine);
}

/* ---- requests ---------------------------------------------------------------------------------------------------- */

enum status engine_enqueue(struct kvasir_engine *engine, struct request *leader, struct error *error)
{
    enum status status = ST_OK;
    struct request *r = leader;
    for (; r && status == ST_OK; r = status == ST_OK ? r->next_answer : r) {
        r->id = engine->next_id;
        status = scheduler_add(&engine->scheduler, r);
    }
    if (status == ST_OK) {
        engine->next_id++;
        return ST_OK;
    }
    for (struct request *added = leader; added != r; added = added->next_answer)
        scheduler_remove(&engine->scheduler, added);
    return error_set(error, status, "not enough memory for a request");
}

static enum status submit(struct kvasir_engine *engine, const struct kvasir_request *wanted, uint64_t *id,
                          struct error *error)
{
    struct request *leader;
    uint32_t waiting = engine->scheduler.waiting_count;
    if (waiting >= engine->plan.max_waiting)
        return error_set(error, ST_FULL, "%u requests are waiting already: try again later", waiting);
    enum status status = request_open(engine, wanted, &leader, error);
    if (status != ST_OK) return status;
    status = engine_enqueue(engine, leader, error);
    if (status == ST_OK)
        *id = leader->id;
    else
        request_close_all(leader);
    return status;
}

int kvasir_engine_submit(struct kvasir_engine *engine, const struct kvasir_request *wanted, uint64_t *id,
                         struct kvasir_error *public_error)
{
    double began = clock_seconds();
    *id = 0;
    enum status status = submit(engine, wanted, id, private_error(public_error));
    engine->stage_s[KVASIR_INPUT] += clock_seconds() - began;
    return (int)status;
}

/* The first of the request's answers that has not ended. */
static struct request *find(const struct kvasir_engine *engine, uint64_t id)
{
    const struct scheduler *s = &engine->scheduler;
    struct request *found = NULL;
    for (uint32_t i = 0; i < scheduler_count(s); i++) {
        struct request *r = scheduler_at(s, i);
        if (r->id == id && (!found || r->index < found->index)) found = r;
    }
    return found;
}

int kvasir_engine_cancel(struct kvasir_engine *engine, uint64_t id)
{
    struct scheduler *s = &engine->scheduler;
    bool found = false;
    for (uint32_t i = 0; i < scheduler_count(s); i++) {
        struct request *r = scheduler_at(s, i);
        if (r->id != id) continue;
        r->cancelled = found = true;
        scheduler_pause(s, r, false);
    }
    return found ? KVASIR_OK : KVASIR_NOT_FOUND;
}

bool engine_pause(struct kvasir_engine *engine, uint64_t id, uint32_t index, bool paused)
{
    struct scheduler *s = &engine->scheduler;
    for (uint32_t i = 0; i < scheduler_count(s); i++) {
        struct request *r = scheduler_at(s, i);
        if (r->id != id || r->index != index) continue;
        bool may = r->first_token_s > 0 && !r->group && !r->cancelled;
        if (may) scheduler_pause(s, r, paused);
        return may;
    }
    return false;
}

bool kvasir_engine_busy(const struct kvasir_engine *engine)
{
    return scheduler_count(&engine->scheduler) > engine->scheduler.paused || settle_idle(engine);
}

/* ---- asking ------------------------------------------------------------------------------------------------------ */

const char *kvasir_finish_name(enum kvasir_finish finish)
{
    static const char *const names[] = {"", "stop", "length", "cancelled", "error"};
    return (unsigned)finish < ARRAY_COUNT(names) ? names[finish] : "";
}

const char *kvasir_stage_name(enum kvasir_stage stage)
{
    static const char *const names[KVASIR_STAGES] = {"input", "schedule", "execute", "output"};
    return (unsigned)stage < KVASIR_STAGES ? names[stage] : "";
}

int kvasir_engine_timings(const struct kvasir_engine *engine, uint64_t id, struct kvasir_timings *out)
{
    const struct request *request = find(engine, id);
    *out = (struct kvasir_timings){0};
    if (request && !request->index) {
        request_timings(request, out);
        return KVASIR_OK;
    }
    for (uint32_t i = 0; i < engine->finished_kept; i++) {
        if (engine->finished[i].id != id || id == 0) continue;
        *out = engine->finished[i].timings;
        return KVASIR_OK;
    }
    return KVASIR_NOT_FOUND;
}

void kvasir_engine_stats(const struct kvasir_engine *engine, struct kvasir_engine_stats *out)
{
    struct kv_stats kv;
    struct model_attention_tally tally;
    kv_stats(engine->kv, &kv);
    model_run_attention_tally(engine->run, &tally);
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
                                        .kv_bytes_offloaded = kv.bytes_offloaded,
                                        .kv_recalled_slices = kv.recalled_slices,
                                        .kv_read_slices = kv.read_slices,
                                        .kv_swaps_out = kv.swaps_out,
                                        .kv_swaps_in = kv.swaps_in,
                                        .kv_swap_copied_bytes = kv.swap_copied_bytes,
                                        .running = scheduler_active_count(&engine->scheduler),
                                        .paused = engine->scheduler.paused,
                                        .preemptions = engine->scheduler.preemptions,
                                        .preemptions_swapped = engine->scheduler.swapped,
                                        .prefix_waits = engine->scheduler.deferrals,
                                        .retrieval_answers = engine->sparse_answers,
                                        .retrieval_rows_read = tally.rows_read,
                                        .retrieval_rows_dense = tally.rows_dense,
                                        .attention_s = tally.attention_s,
                                        .drafted_tokens = engine->drafted_tokens,
                                        .accepted_tokens = engine->accepted_tokens,
                                        .steps = engine->steps,
                                        .prompt_tokens = engine->prompt_tokens,
                                        .output_tokens = engine->output_tokens};
    out->waiting = scheduler_count(&engine->scheduler) - out->running - out->paused;
    memcpy(out->stage_s, engine->stage_s, sizeof out->stage_s);
    out->fetches_late = engine->scheduler.fetches_late;
    tiers_stats(engine, out);
}
