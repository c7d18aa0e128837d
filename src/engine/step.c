/* step.c - one step: plan, pass, take, report.
 *
 *            submit                  admit: kv_seq_open + reserve                     last token, stop, cancel
 *   caller ─────────▶ waiting ─────────────────────────────────────▶ running ─────────────────────────────▶ ended
 *                        ▲          give_up: kv_seq_close                │                        (closed by the next step)
 *                        └───────────────────────────────────────────────┘
 *
 * Plan. Oldest first: a running request that decodes gets its one token, one that prefills what is left of
 * max_batched_tokens; then waiting ones are admitted while prompt tokens are left. When blocks run out the youngest running
 * request gives up its own and goes back to the front of the queue; later it is computed again from its prompt and the
 * tokens it had, and continues as if nothing had happened (its random stream is its own). All running requests are older
 * than all waiting ones, so nobody overtakes. The oldest alone always fits: plan.c made the budget so.
 *
 * Without a KV cache (one layer at a time) a request's sequence is opened anew and computed whole in every step.
 *
 * Whatever fails for lack of memory fails before the pass, with every request as it was: the step can be tried again. */
#include "engine/engine_internal.h"

/* ---- plan -------------------------------------------------------------------------------------------------------- */

static uint32_t least(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

static void give_up(struct kvasir_engine *engine)
{
    struct request *youngest = engine->requests[--engine->running];
    kv_seq_close(youngest->seq);
    youngest->seq = NULL;
    log_line(LOG_DEBUG, "request %llu gives up its blocks after %u tokens", (unsigned long long)youngest->id,
             youngest->count);
}

/* This step's tokens of a request that has a sequence: the one to decode, or what `*prompt_left` allows. */
static enum status plan_tokens(struct request *r, uint32_t *prompt_left)
{
    uint32_t pending = r->count - kv_seq_count(r->seq);
    uint32_t tokens = pending == 1 ? 1 : least(pending, *prompt_left);
    enum status status = tokens == pending ? request_make_room(r) : ST_OK;
    if (status == ST_OK && tokens) status = kv_seq_reserve(r->seq, tokens);
    if (status != ST_OK) return status;
    if (pending != 1) *prompt_left -= tokens;
    r->planned = tokens;
    return ST_OK;
}

static void add_to_batch(struct kvasir_engine *engine, struct request *r)
{
    if (r->planned) engine->batch[engine->batch_count++] = r;
}

static enum status open_seq(struct kvasir_engine *engine, struct request *r)
{
    uint32_t cached;
    enum status status = kv_seq_open(engine->kv, r->tokens, r->count, r->cache_salt, &r->seq, &cached);
    if (status == ST_OK && r->started_s == 0) r->cached_tokens = cached;
    return status;
}

static enum status plan_running(struct kvasir_engine *engine, uint32_t *prompt_left)
{
    for (uint32_t i = 0; i < engine->running; i++) {
        struct request *r = engine->requests[i];
        if (engine->plan.kv.one_layer_at_a_time) {
            kv_seq_close(r->seq);
            r->seq = NULL;
            enum status status = open_seq(engine, r);
            if (status != ST_OK) {
                engine->running = i; /* this one and those after it wait: they have no sequence */
                return status;
            }
        }
        enum status status = plan_tokens(r, prompt_left);
        while (status == ST_FULL) {
            give_up(engine);
            if (i == engine->running) return ST_OK; /* it was the youngest itself */
            status = plan_tokens(r, prompt_left);
        }
        if (status != ST_OK) return status;
        add_to_batch(engine, r);
    }
    return ST_OK;
}

static enum status admit(struct kvasir_engine *engine, uint32_t *prompt_left)
{
    while (engine->running < engine->count && engine->running < engine->plan.max_sequences && *prompt_left) {
        struct request *r = engine->requests[engine->running];
        enum status status = open_seq(engine, r);
        if (status == ST_OK) status = plan_tokens(r, prompt_left);
        if (status != ST_OK) {
            kv_seq_close(r->seq);
            r->seq = NULL;
            return status == ST_FULL && engine->running ? ST_OK : status;
        }
        if (r->started_s == 0) r->started_s = clock_seconds();
        engine->running++;
        add_to_batch(engine, r);
    }
    return ST_OK;
}

/* ---- the pass ---------------------------------------------------------------------------------------------------- */

static enum status run_batch(struct kvasir_engine *engine, const float **logits)
{
    for (uint32_t i = 0; i < engine->batch_count; i++) {
        struct request *r = engine->batch[i];
        uint32_t done = kv_seq_count(r->seq);
        engine->seqs[i] = r->seq;
        engine->entries[i] = (struct model_entry){.seq = r->seq,
                                                  .tokens = r->tokens + done,
                                                  .count = r->planned,
                                                  .logits_count = done + r->planned == r->count};
    }
    struct kv_batch *pinned;
    enum status status = kv_batch_pin(engine->kv, engine->seqs, engine->batch_count, &pinned);
    if (status != ST_OK) return status;
    model_forward(engine->run, engine->entries, engine->batch_count, logits);
    kv_batch_unpin(pinned);
    for (uint32_t i = 0; i < engine->batch_count; i++)
        kv_seq_commit(engine->seqs[i], engine->entries[i].tokens, engine->entries[i].count);
    return ST_OK;
}

/* ---- events ------------------------------------------------------------------------------------------------------ */

static void add_event(struct kvasir_engine *engine, struct request *r, bool token)
{
    uint32_t computed = r->seq ? kv_seq_count(r->seq) : 0;
    engine->events[engine->event_count++] = (struct kvasir_event){
        .id = r->id,
        .tokens = &r->token,
        .token_count = token,
        .text = r->text.data ? r->text.data : "",
        .text_bytes = r->text.length,
        .prompt_done = least(computed, r->prompt_count),
        .prompt_count = r->prompt_count,
        .finish = r->finish,
    };
}

/* Moves what has ended out of the queue; it lives on until its event is no longer borrowed. */
static void remove_ended(struct kvasir_engine *engine)
{
    uint32_t kept = 0, running = 0;
    for (uint32_t i = 0; i < engine->count; i++) {
        struct request *r = engine->requests[i];
        if (r->finish == KVASIR_RUNNING) {
            running += i < engine->running;
            engine->requests[kept++] = r;
            continue;
        }
        struct finished *slot = &engine->finished[engine->finished_count++ % FINISHED_KEPT];
        slot->id = r->id;
        request_timings(r, &slot->timings);
        kv_seq_close(r->seq);
        r->seq = NULL;
        engine->ended[engine->ended_count++] = r;
    }
    engine->count = kept;
    engine->running = running;
}

static void end_cancelled(struct kvasir_engine *engine)
{
    for (uint32_t i = 0; i < engine->count; i++) {
        struct request *r = engine->requests[i];
        r->text.length = 0;
        if (!r->cancelled) continue;
        request_end(r, KVASIR_CANCELLED_BY_CALLER);
        add_event(engine, r, false);
    }
    remove_ended(engine);
}

/* Each request of the batch takes its row of logits, if it has one, and gets its event. */
static enum status take_batch(struct kvasir_engine *engine, const float *logits)
{
    enum status worst = ST_OK;
    for (uint32_t i = 0; i < engine->batch_count; i++) {
        struct request *r = engine->batch[i];
        uint32_t before = r->count;
        kv_seq_usage(r->seq, &r->kv_bytes, &r->kv_blocks);
        if (engine->entries[i].logits_count) {
            enum status status = request_take(engine, r, logits);
            logits += engine->sampler.vocabulary;
            if (status != ST_OK) worst = status;
        }
        add_event(engine, r, r->count > before);
    }
    remove_ended(engine);
    return worst;
}

/* ---- the step ---------------------------------------------------------------------------------------------------- */

/* Lists for an event of every request; nobody borrows the old ones any more. */
static enum status make_room(struct kvasir_engine *engine)
{
    if (engine->count <= engine->event_capacity) return ST_OK;
    uint32_t capacity = engine->capacity;
    struct kvasir_event *events = mem_resize(engine->events, capacity * sizeof *events);
    if (events) engine->events = events;
    struct request **ended = mem_resize(engine->ended, capacity * sizeof(struct request *));
    if (ended) engine->ended = ended;
    if (!events || !ended) return ST_NOMEM;
    engine->event_capacity = capacity;
    return ST_OK;
}

static enum status step(struct kvasir_engine *engine)
{
    uint32_t prompt_left = engine->plan.max_batched_tokens;
    const float *logits;
    end_cancelled(engine);
    for (uint32_t i = 0; i < engine->running; i++) engine->requests[i]->planned = 0;
    engine->batch_count = 0;
    enum status status = plan_running(engine, &prompt_left);
    if (status == ST_OK) status = admit(engine, &prompt_left);
    if (status == ST_OK && engine->batch_count) status = run_batch(engine, &logits);
    if (status == ST_OK && engine->batch_count) status = take_batch(engine, logits);
    return status;
}

int kvasir_engine_step(struct kvasir_engine *engine, const struct kvasir_event **events, size_t *count,
                       struct kvasir_error *public_error)
{
    engine_forget_ended(engine);
    enum status status = make_room(engine);
    if (status == ST_OK) status = step(engine);
    *events = engine->events;
    *count = engine->event_count;
    if (status == ST_OK) return KVASIR_OK;
    return (int)error_set(private_error(public_error), status, "a step of %u requests failed: %s", engine->count,
                          status_name(status));
}
