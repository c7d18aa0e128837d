/* step.c - one step: plan, pass, take, report.
 *
 *            submit                  admit: kv_seq_open + reserve                     last token, stop, cancel
 *   caller ─────────▶ waiting ─────────────────────────────────────▶ running ─────────────────────────────▶ ended
 *                        ▲          give_up: swapped out, or closed      │                        (closed by the next step)
 *                        └───────────────────────────────────────────────┘
 *
 * Plan. Oldest first: a running request that decodes gets its one token, one that prefills what is left of
 * max_batched_tokens; then waiting ones are admitted while prompt tokens are left. When blocks run out the youngest running
 * request gives up its own and goes back to the front of the queue: it is swapped out where the tier has room and that is
 * measured to be cheaper, else closed, and later computed again from its prompt and the tokens it had. Either way it
 * continues as if nothing had happened (its rows are the same, its random stream is its own). Rows on their way in or out
 * (kv_swap_poll) hold up nobody but those who need their blocks; a step waits for them only if it has nothing else to do. All running requests are older
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

/* Whether the rows of any request are there: KV_SWAPPING_OUT, KV_SWAPPING_IN. */
static bool any_at(const struct kvasir_engine *engine, enum kv_residence residence)
{
    for (uint32_t i = 0; i < engine->count; i++)
        if (engine->requests[i]->seq && kv_seq_residence(engine->requests[i]->seq) == residence) return true;
    return false;
}

/* Whether to copy a request's rows out and in takes less time than to compute them again, by what this engine has
 * measured; what it has not measured yet is tried. */
static bool swap_is_cheaper(const struct kvasir_engine *engine, const struct request *r)
{
    struct kv_stats kv;
    uint64_t bytes, blocks;
    kv_stats(engine->kv, &kv);
    kv_seq_usage(r->seq, &bytes, &blocks);
    if (!kv.swap_copied_bytes || engine->prefill_tokens == 0) return true;
    double swap_s = 2 * (double)bytes * kv.swap_copy_s / (double)kv.swap_copied_bytes;
    return swap_s < kv_seq_count(r->seq) * engine->prefill_s / engine->prefill_tokens;
}

static void give_up(struct kvasir_engine *engine)
{
    struct request *youngest = engine->requests[--engine->running];
    bool on_its_way = kv_seq_residence(youngest->seq) == KV_SWAPPING_IN;
    bool swapped = (on_its_way || swap_is_cheaper(engine, youngest)) && kv_seq_swap_out(youngest->seq) == ST_OK;
    if (!swapped) {
        kv_seq_close(youngest->seq);
        youngest->seq = NULL;
    }
    log_line(LOG_DEBUG, "request %llu %s after %u tokens", (unsigned long long)youngest->id,
             swapped ? "is swapped out" : "gives up its blocks", youngest->count);
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
        if (kv_seq_residence(r->seq) != KV_RESIDENT) continue; /* on its way in */
        enum status status = plan_tokens(r, prompt_left);
        while (status == ST_FULL) {
            if (any_at(engine, KV_SWAPPING_OUT)) break; /* blocks are about to be free */
            give_up(engine);
            if (i == engine->running) return ST_OK; /* it was the youngest itself */
            status = plan_tokens(r, prompt_left);
        }
        if (status != ST_OK && status != ST_FULL) return status;
        add_to_batch(engine, r);
    }
    return ST_OK;
}

/* Brings back a request that was swapped out; it runs once its rows are there. Not while others' blocks are about to be
 * free: these are for those that made it give up its own. */
static enum status resume(struct kvasir_engine *engine, struct request *r)
{
    enum status status = any_at(engine, KV_SWAPPING_OUT) ? ST_FULL : kv_seq_swap_in(r->seq);
    if (status == ST_OK) engine->running++;
    return status;
}

static enum status admit(struct kvasir_engine *engine, uint32_t *prompt_left)
{
    while (engine->running < engine->count && engine->running < engine->plan.max_sequences && *prompt_left) {
        struct request *r = engine->requests[engine->running];
        bool swapped = r->seq != NULL;
        enum status status = swapped ? resume(engine, r) : open_seq(engine, r);
        if (swapped && status == ST_OK) continue;
        if (!swapped && status == ST_OK) status = plan_tokens(r, prompt_left);
        if (status != ST_OK) {
            if (!swapped) kv_seq_close(r->seq);
            if (!swapped) r->seq = NULL;
            return status == ST_FULL && (engine->running || any_at(engine, KV_SWAPPING_OUT)) ? ST_OK : status;
        }
        if (r->started_s == 0) r->started_s = clock_seconds();
        engine->running++;
        add_to_batch(engine, r);
    }
    return ST_OK;
}

/* This step's batch. It is empty only if there is nothing to do. */
static enum status plan(struct kvasir_engine *engine)
{
    for (;;) {
        uint32_t prompt_left = engine->plan.max_batched_tokens;
        for (uint32_t i = 0; i < engine->running; i++) engine->requests[i]->planned = 0;
        engine->batch_count = 0;
        enum status status = plan_running(engine, &prompt_left);
        if (status == ST_OK) status = admit(engine, &prompt_left);
        if (status != ST_OK || engine->batch_count) return status;
        if (!any_at(engine, KV_SWAPPING_OUT) && !any_at(engine, KV_SWAPPING_IN)) return ST_OK;
        kv_swap_poll(engine->kv, true); /* nobody can run before rows have moved */
    }
}

/* ---- the pass ---------------------------------------------------------------------------------------------------- */

/* How fast prompts are computed, from passes that are mostly that; the past counts for less and less. */
static void measure_prefill(struct kvasir_engine *engine, uint32_t tokens, double seconds)
{
    if (tokens < 16 * engine->batch_count) return;
    engine->prefill_tokens = engine->prefill_tokens / 2 + tokens;
    engine->prefill_s = engine->prefill_s / 2 + seconds;
}

static enum status run_batch(struct kvasir_engine *engine, const float **logits)
{
    uint32_t tokens = 0;
    for (uint32_t i = 0; i < engine->batch_count; i++) {
        struct request *r = engine->batch[i];
        uint32_t done = kv_seq_count(r->seq);
        engine->seqs[i] = r->seq;
        engine->entries[i] = (struct model_entry){.seq = r->seq,
                                                  .tokens = r->tokens + done,
                                                  .count = r->planned,
                                                  .logits_count = done + r->planned == r->count};
        tokens += r->planned;
    }
    struct kv_batch *pinned;
    enum status status = kv_batch_pin(engine->kv, engine->seqs, engine->batch_count, &pinned);
    if (status != ST_OK) return status;
    double began = clock_seconds();
    model_forward(engine->run, engine->entries, engine->batch_count, logits);
    measure_prefill(engine, tokens, clock_seconds() - began);
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
    const float *logits;
    end_cancelled(engine);
    kv_swap_poll(engine->kv, false);
    enum status status = plan(engine);
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
