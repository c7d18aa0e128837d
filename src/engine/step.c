/* step.c - one step: what was cancelled ends; the scheduler chooses a batch; it runs; every row of logits becomes a token, and
 * every request of the batch gets an event.
 *
 * Input (kvasir_engine_submit), schedule, execute and output are the stages whose times kvasir_engine_stats() gives.
 *
 * Whatever fails for lack of memory fails before the pass, with every request as it was: the step can be tried again. */
#include "engine/engine_internal.h"

/* ---- the pass ---------------------------------------------------------------------------------------------------- */

/* What the token at `position` of the batch's `i`-th request reads; NULL: everything. */
static const struct model_retrieval *retrieval_of(struct kvasir_engine *engine, uint32_t i, uint32_t position)
{
    struct request *r = engine->scheduler.batch[i];
    if (!request_is_sparse(r, position)) return NULL;
    ASSERT(r->planned == 1 && !r->drafts);
    bool sparse = engine_retrieval_at(&r->retrieval, position, &engine->retrievals[i]);
    ASSERT(sparse);
    engine->sparse_answers += !r->counted_sparse;
    r->counted_sparse = true;
    return &engine->retrievals[i];
}

static enum status run_batch(struct kvasir_engine *engine)
{
    const float *logits;
    struct scheduler *s = &engine->scheduler;
    for (uint32_t i = 0; i < s->batch_count; i++) {
        struct request *r = s->batch[i];
        uint32_t done = kv_seq_count(r->seq);
        engine->seqs[i] = r->seq;
        engine->entries[i] = (struct model_entry){.seq = r->seq,
                                                  .tokens = r->tokens + done,
                                                  .count = r->planned + r->drafts,
                                                  .answered = request_answered(r, done, r->planned + r->drafts),
                                                  .logits_count = request_logits_rows(r, done, r->planned) + r->drafts,
                                                  .hidden_count = request_hidden_rows(r, done, r->planned),
                                                  .retrieval = retrieval_of(engine, i, done)};
        engine->prompt_tokens += done < r->prompt_count ? r->planned : 0;
    }
    struct kv_batch *pinned;
    enum status status = kv_batch_pin(engine->kv, engine->seqs, s->batch_count, &pinned);
    if (status != ST_OK) return status;
    double began = clock_seconds();
    model_forward(engine->run, engine->entries, s->batch_count, &logits);
    kv_batch_unpin(pinned);
    for (uint32_t i = 0; i < s->batch_count; i++) {
        bool lost = kv_seq_lost(engine->seqs[i]);
        engine->rows[i] = engine->entries[i].logits_count && !lost ? logits : NULL;
        logits += (size_t)engine->entries[i].logits_count * engine->vocabulary;
    }
    scheduler_ran(s, clock_seconds() - began);
    engine->steps++;
    return ST_OK;
}

/* ---- events ------------------------------------------------------------------------------------------------------ */

static void add_event(struct kvasir_engine *engine, struct request *r)
{
    if (r->group && r->first_token_s > 0 && !r->prompt_new) return; /* the rest comes when all have ended */
    uint32_t computed = r->seq ? kv_seq_count(r->seq) : 0;
    bool embedded = r->embedding.pooling && r->finish == KVASIR_STOP;
    engine->events[engine->event_count++] = (struct kvasir_event){
        .id = r->id,
        .index = r->index,
        .tokens = r->news,
        .token_count = r->group ? 0 : r->news_count,
        .text = r->text.data ? r->text.data : "",
        .text_bytes = r->group ? 0 : r->text.length,
        .prompt_done = least(computed, r->prompt_count),
        .prompt_count = r->prompt_count,
        .prompt_logprobs = r->prompt_tokens,
        .prompt_logprob_count = r->prompt_new,
        .embedding = embedded ? r->embedding.pooled : NULL,
        .embedding_count = embedded ? r->embedding.columns : 0,
        .finish = r->group ? KVASIR_RUNNING : r->finish,
    };
}

static void remember(struct kvasir_engine *engine, uint64_t id, const struct kvasir_timings *timings)
{
    engine->finished[engine->finished_count++ % engine->finished_kept] =
        (struct finished){.id = id, .timings = *timings};
}

/* All of them ended: the best are reported. */
static void end_group(struct kvasir_engine *engine, const struct request *last)
{
    const struct group *group = last->group;
    for (uint32_t i = 0; i < group->n; i++) group_event(last, i, &engine->events[engine->event_count++]);
    if (last->index) remember(engine, last->id, &group->timings); /* the first may have ended long ago */
}

/* The request ended: its blocks are free at once; it lives on until its event is no longer borrowed. */
static void retire(struct kvasir_engine *engine, struct request *r)
{
    struct kvasir_timings timings;
    request_timings(r, &timings);
    if (!r->index) remember(engine, r->id, &timings);
    if (!r->index && r->group) r->group->timings = timings;
    scheduler_remove(&engine->scheduler, r);
    settle_later(engine, r);
    engine->ended[engine->ended_count++] = r;
    if (r->group && group_leave(r)) end_group(engine, r);
}

static void end_cancelled(struct kvasir_engine *engine)
{
    struct scheduler *s = &engine->scheduler;
    for (uint32_t i = scheduler_count(s); i-- > 0;) {
        struct request *r = scheduler_at(s, i);
        request_forget_news(r);
        if (!r->cancelled) continue;
        request_end(r, KVASIR_CANCELLED_BY_CALLER);
        if (!r->group) add_event(engine, r);
        retire(engine, r);
    }
}

/* Takes the rows of one request; those of drafted tokens as long as what is sampled is what was drafted. */
static enum status take_rows(struct request *r, struct sampler *sampler, const float *row)
{
    r->right = 0;
    if (!row) return ST_OK;
    uint32_t drafted = r->drafts ? r->tokens[r->count] : 0;
    enum status status = request_take(r, sampler, kv_seq_count(r->seq), r->planned, row);
    while (status == ST_OK && r->finish == KVASIR_RUNNING && r->right < r->drafts &&
           r->tokens[r->count - 1] == drafted) {
        drafted = r->tokens[r->count];
        row += sampler->vocabulary;
        r->right++;
        status = request_take(r, sampler, r->count - 1, 1, row);
    }
    return status;
}

static void take_task(void *data, uint32_t worker, uint32_t workers)
{
    struct kvasir_engine *engine = data;
    for (uint32_t i = worker; i < engine->scheduler.batch_count; i += workers) {
        struct request *r = engine->scheduler.batch[i];
        enum status status = take_rows(r, &engine->samplers[worker], engine->rows[i]);
        ASSERT(status == ST_OK || r->finish == KVASIR_ERROR);
    }
}

/* What ran is part of the sequence, drafted tokens as far as they were right. */
static void commit(struct kvasir_engine *engine, uint32_t i)
{
    struct request *r = engine->scheduler.batch[i];
    if (kv_seq_lost(r->seq)) {
        log_line(LOG_WARNING, "request %llu: its K and V cannot be read back from the disk: they are computed again",
                 (unsigned long long)r->id);
        r->offloads = false;
        scheduler_park(&engine->scheduler, r);
        return;
    }
    kv_seq_commit(r->seq, engine->entries[i].tokens, r->planned + r->right);
    kv_seq_usage(r->seq, &r->kv_bytes, &r->kv_blocks);
    if (r->drafts) draft_verified(&r->draft, r->drafts, r->right);
    engine->drafted_tokens += r->drafts;
    engine->accepted_tokens += r->right;
    engine->output_tokens += r->news_count;
}

/* The other answers to a prompt that was just computed begin with the same row of logits: each that there is room for on a
 * fork of the sequence, the rest later with what is cached. */
static void take_followers(struct kvasir_engine *engine, struct request *leader, const float *row)
{
    struct scheduler *s = &engine->scheduler;
    for (uint32_t i = s->waiting_count; i-- > 0 && leader->followers;) {
        struct request *r = s->waiting[i];
        if (r->leader != leader) continue;
        r->leader = NULL;
        leader->followers--;
        if (!scheduler_fork(s, leader, r)) continue;
        kv_seq_usage(r->seq, &r->kv_bytes, &r->kv_blocks);
        enum status status = request_take(r, &engine->samplers[0], kv_seq_count(r->seq) - 1, 1, row);
        ASSERT(status == ST_OK || r->finish == KVASIR_ERROR);
        engine->output_tokens += r->news_count;
        add_event(engine, r);
    }
}

/* Requests for embeddings take their hidden rows. */
static void take_hidden(struct kvasir_engine *engine)
{
    const float *rows = model_run_hidden(engine->run);
    for (uint32_t i = 0; i < engine->scheduler.batch_count; i++) {
        uint32_t count = engine->entries[i].hidden_count;
        if (count) request_take_hidden(engine->scheduler.batch[i], count, rows);
        rows += (size_t)count * model_config(engine->model->model)->embedding;
    }
}

static bool advance_beams(struct kvasir_engine *engine)
{
    const struct scheduler *s = &engine->scheduler;
    bool failed = false;
    for (uint32_t i = 0; i < s->batch_count; i++) {
        struct group *group = s->batch[i]->group;
        if (!group || !beams_settled(group)) continue;
        engine->output_tokens += group->beams->live;
        failed |= beams_advance(group, &engine->scheduler) != ST_OK;
    }
    return !failed;
}

/* Each request of the batch takes its rows of logits, if it has any, and gets its event. */
static enum status take_batch(struct kvasir_engine *engine)
{
    struct scheduler *s = &engine->scheduler;
    enum status status = ST_OK;
    take_hidden(engine);
    if (s->batch_count > 1)
        pool_run(engine->pool, take_task, engine);
    else
        take_task(engine, 0, 1);
    for (uint32_t i = 0, count = s->batch_count; i < count; i++) {
        struct request *r = s->batch[i];
        bool sampled = r->news_count > 0 || r->finish != KVASIR_RUNNING;
        commit(engine, i);
        add_event(engine, r);
        if (sampled && r->followers)
            take_followers(engine, r,
                           engine->rows[i] + (engine->entries[i].logits_count - 1) * (size_t)engine->vocabulary);
    }
    if (!advance_beams(engine)) status = ST_NOMEM;
    for (uint32_t i = scheduler_count(s); i-- > 0;) { /* waiting ones: of groups of beams */
        struct request *r = scheduler_at(s, i);
        if (r->finish == KVASIR_RUNNING) continue;
        if (r->finish == KVASIR_ERROR) status = ST_NOMEM;
        retire(engine, r);
    }
    return status;
}

/* ---- the step ---------------------------------------------------------------------------------------------------- */

/* Lists for an event of every request; nobody borrows the old ones any more. */
static enum status make_room(struct kvasir_engine *engine)
{
    const struct scheduler *s = &engine->scheduler;
    uint32_t count = scheduler_count(s);
    for (uint32_t i = 0; i < scheduler_count(s); i++) count += group_event_share(scheduler_at(s, i));
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
    double began = clock_seconds();
    end_cancelled(engine);
    kv_swap_poll(engine->kv, false);
    kv_lower_poll(engine->kv, 0);
    if (settle_step(engine)) return ST_OK;
    enum status status = scheduler_plan(&engine->scheduler, began);
    end_stage(engine, KVASIR_SCHEDULE, &began);
    if (status != ST_OK || !engine->scheduler.batch_count) return status;
    status = run_batch(engine);
    end_stage(engine, KVASIR_EXECUTE, &began);
    if (status != ST_OK) return status;
    status = take_batch(engine);
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
