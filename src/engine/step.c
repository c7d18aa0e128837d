/* step.c - one step: what was cancelled ends; the scheduler chooses a batch; it runs; every row of logits becomes a token, and
 * every request of the batch gets an event.
 *
 * Input (kvasir_engine_submit), schedule, execute and output are the stages whose times kvasir_engine_stats() gives.
 *
 * Whatever fails for lack of memory fails before the pass, with every request as it was: the step can be tried again. */
#include "engine/engine_internal.h"

/* ---- the pass ---------------------------------------------------------------------------------------------------- */

static enum status run_batch(struct kvasir_engine *engine, const float **logits)
{
    struct scheduler *s = &engine->scheduler;
    for (uint32_t i = 0; i < s->batch_count; i++) {
        struct request *r = s->batch[i];
        uint32_t done = kv_seq_count(r->seq);
        engine->seqs[i] = r->seq;
        engine->entries[i] = (struct model_entry){.seq = r->seq,
                                                  .tokens = r->tokens + done,
                                                  .count = r->planned,
                                                  .logits_count = request_logits_rows(r, done, r->planned)};
        engine->prompt_tokens += done < r->prompt_count ? r->planned : 0;
    }
    struct kv_batch *pinned;
    enum status status = kv_batch_pin(engine->kv, engine->seqs, s->batch_count, &pinned);
    if (status != ST_OK) return status;
    double began = clock_seconds();
    model_forward(engine->run, engine->entries, s->batch_count, logits);
    kv_batch_unpin(pinned);
    for (uint32_t i = 0; i < s->batch_count; i++)
        kv_seq_commit(engine->seqs[i], engine->entries[i].tokens, engine->entries[i].count);
    scheduler_ran(s, clock_seconds() - began);
    engine->steps++;
    return ST_OK;
}

/* ---- events ------------------------------------------------------------------------------------------------------ */

static uint32_t least(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

static void add_event(struct kvasir_engine *engine, struct request *r, bool token)
{
    uint32_t computed = r->seq ? kv_seq_count(r->seq) : 0;
    engine->events[engine->event_count++] = (struct kvasir_event){
        .id = r->id,
        .index = r->index,
        .tokens = &r->token,
        .token_count = token,
        .text = r->text.data ? r->text.data : "",
        .text_bytes = r->text.length,
        .prompt_done = least(computed, r->prompt_count),
        .prompt_count = r->prompt_count,
        .prompt_logprobs = r->prompt_tokens,
        .prompt_logprob_count = r->prompt_new,
        .finish = r->finish,
    };
}

static void remember(struct kvasir_engine *engine, const struct request *r)
{
    if (r->index) return;
    struct finished *slot = &engine->finished[engine->finished_count++ % FINISHED_KEPT];
    slot->id = r->id;
    request_timings(r, &slot->timings);
}

/* The request ended: its blocks are free at once; it lives on until its event is no longer borrowed. */
static void retire(struct kvasir_engine *engine, struct request *r)
{
    remember(engine, r);
    scheduler_remove(&engine->scheduler, r);
    engine->ended[engine->ended_count++] = r;
}

static void end_cancelled(struct kvasir_engine *engine)
{
    struct scheduler *s = &engine->scheduler;
    for (uint32_t i = s->running_count + s->waiting_count; i-- > 0;) {
        struct request *r = i < s->running_count ? s->running[i] : s->waiting[i - s->running_count];
        request_forget_news(r);
        if (!r->cancelled) continue;
        request_end(r, KVASIR_CANCELLED_BY_CALLER);
        add_event(engine, r, false);
        retire(engine, r);
    }
}

/* The rows of the request's last `count` tokens, if it has any, and its event. */
static enum status take(struct kvasir_engine *engine, struct request *r, uint32_t count, const float *logits)
{
    uint32_t before = r->count, done = kv_seq_count(r->seq);
    kv_seq_usage(r->seq, &r->kv_bytes, &r->kv_blocks);
    enum status status = logits ? request_take(r, &engine->sampler, done - count, count, logits) : ST_OK;
    engine->output_tokens += r->count > before;
    add_event(engine, r, r->count > before);
    return status;
}

/* The other answers to a prompt that was just computed begin with the same row of logits: each that there is room for on a
 * fork of the sequence, the rest later with what is cached. */
static enum status take_followers(struct kvasir_engine *engine, struct request *leader, const float *logits)
{
    struct scheduler *s = &engine->scheduler;
    enum status worst = ST_OK;
    for (uint32_t i = s->waiting_count; i-- > 0 && leader->followers;) {
        struct request *r = s->waiting[i];
        if (r->leader != leader) continue;
        r->leader = NULL;
        leader->followers--;
        if (!scheduler_fork(s, leader, r)) continue;
        enum status status = take(engine, r, 1, logits);
        if (status != ST_OK) worst = status;
    }
    return worst;
}

/* Each request of the batch takes its row of logits, if it has one. */
static enum status take_batch(struct kvasir_engine *engine, const float *logits)
{
    struct scheduler *s = &engine->scheduler;
    enum status worst = ST_OK;
    for (uint32_t i = 0; i < s->batch_count; i++) {
        struct request *r = s->batch[i];
        const float *rows = engine->entries[i].logits_count ? logits : NULL;
        logits += (size_t)engine->entries[i].logits_count * engine->sampler.vocabulary;
        bool leads = r->followers && kv_seq_count(r->seq) == r->count;
        enum status status = leads ? take_followers(engine, r, logits - engine->sampler.vocabulary) : ST_OK;
        if (status != ST_OK) worst = status;
        status = take(engine, r, r->planned, rows);
        if (status != ST_OK) worst = status;
    }
    for (uint32_t i = s->running_count; i-- > 0;)
        if (s->running[i]->finish != KVASIR_RUNNING) retire(engine, s->running[i]);
    return worst;
}

/* ---- the step ---------------------------------------------------------------------------------------------------- */

/* Lists for an event of every request; nobody borrows the old ones any more. */
static enum status make_room(struct kvasir_engine *engine)
{
    uint32_t count = engine->scheduler.running_count + engine->scheduler.waiting_count;
    if (count <= engine->event_capacity) return ST_OK;
    uint32_t capacity = count < 8 ? 16 : 2 * count;
    struct kvasir_event *events = mem_resize(engine->events, capacity * sizeof *events);
    if (events) engine->events = events;
    struct request **ended = mem_resize(engine->ended, capacity * sizeof(struct request *));
    if (ended) engine->ended = ended;
    if (!events || !ended) return ST_NOMEM;
    engine->event_capacity = capacity;
    return ST_OK;
}

/* Adds the time since *began to a stage; the next one begins. */
static void end_stage(struct kvasir_engine *engine, enum kvasir_stage stage, double *began)
{
    double now = clock_seconds();
    engine->stage_s[stage] += now - *began;
    *began = now;
}

static enum status step(struct kvasir_engine *engine)
{
    const float *logits;
    double began = clock_seconds();
    end_cancelled(engine);
    kv_swap_poll(engine->kv, false);
    enum status status = scheduler_plan(&engine->scheduler, began);
    end_stage(engine, KVASIR_SCHEDULE, &began);
    if (status != ST_OK || !engine->scheduler.batch_count) return status;
    status = run_batch(engine, &logits);
    end_stage(engine, KVASIR_EXECUTE, &began);
    if (status != ST_OK) return status;
    status = take_batch(engine, logits);
    end_stage(engine, KVASIR_OUTPUT, &began);
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
    return (int)error_set(private_error(public_error), status, "a step of %u requests failed: %s",
                          engine->scheduler.batch_count, status_name(status));
}
