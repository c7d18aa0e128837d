/* async.c - an engine on a thread of its own, given requests from any thread.
 *
 *            kvasir_queue_submit            the engine's thread, before a step       in a step, with a last event
 *   ticket ───────────────────────▶ inbox ─────────────────────────────────▶ active ─────────────────────────────▶ ended
 *
 * A ticket is the place of one answer to a request in its queue. Requests are checked and copied on the submitter's thread; the engine's thread
 * takes the inbox, the cancellations and the calls between two steps. One lock guards all that several threads see; it is
 * never held while the model runs. What a step gave is copied once, into its tickets (async_queue.c).
 *
 * An answer whose reader leaves more than its bytes_max untaken is paused in the engine (deliver), until the reader has taken half
 * (take_resumptions): so what waits is bounded, and no thread waits for another.
 *
 * A ticket is in its queue's list from submit until its last event was taken. A queue that closes leaves its unfinished
 * tickets behind, cancelled and without a queue: the engine's thread frees those when they end. */
#include "engine/async_internal.h"
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <time.h>

#define SETTLE_AFTER_S 0.5 /* without requests, answers that have ended are made ready for the next turn (settle.c) */
#define RETRY_S 0.01       /* after a step that failed for lack of memory */

/* ---- between two steps, with the lock ---------------------------------------------------------------------------- */

static void ticket_end(struct ticket *ticket, enum kvasir_finish finish)
{
    ticket->finish = finish;
    ticket->async->unfinished--;
    if (ticket->queue)
        ticket_ready(ticket);
    else
        ticket_free(ticket);
}

/* The tickets of one request lie side by side, the one with the request first. */
static void take_inbox(struct kvasir_async *async)
{
    uint64_t engine_id = 0;
    for (struct ticket *ticket = async->inbox, *next; ticket; ticket = next) {
        next = ticket->next_inbox;
        if (ticket->index == 0) {
            bool taken = !ticket->cancelled && engine_enqueue(async->engine, ticket->request, NULL) == ST_OK;
            engine_id = taken ? ticket->request->id : 0;
            if (taken) ticket->request = NULL; /* the engine's */
        }
        if (engine_id) {
            ticket->engine_id = engine_id;
            async->active[async->active_count++] = ticket;
        } else {
            ticket_end(ticket, ticket->cancelled ? KVASIR_CANCELLED_BY_CALLER : KVASIR_ERROR);
        }
    }
    async->inbox = NULL;
    async->inbox_end = &async->inbox;
}

static void take_cancellations(struct kvasir_async *async)
{
    if (!async->cancelling) return;
    for (uint32_t i = 0; i < async->active_count; i++)
        if (async->active[i]->cancelled) kvasir_engine_cancel(async->engine, async->active[i]->engine_id);
    async->cancelling = false;
}

/* Paused answers whose readers have caught up go on. */
static void take_resumptions(struct kvasir_async *async)
{
    if (!async->resuming) return;
    for (uint32_t i = 0; i < async->active_count; i++) {
        struct ticket *ticket = async->active[i];
        if (!ticket->paused || ticket->bytes > ticket->bytes_max / 2) continue;
        engine_pause(async->engine, ticket->engine_id, ticket->index, false);
        ticket->paused = false;
    }
    async->resuming = false;
}

/* Without the lock while they run: a call may take long. */
static void take_calls(struct kvasir_async *async)
{
    if (!async->calls) return;
    struct call *calls = async->calls;
    async->calls = NULL;
    pthread_mutex_unlock(&async->lock);
    for (struct call *call = calls; call; call = call->next) call->function(call->data, async->engine);
    pthread_mutex_lock(&async->lock);
    for (struct call *call = calls; call; call = call->next) call->done = true;
    kvasir_engine_stats(async->engine, &async->stats);
    pthread_cond_broadcast(&async->called);
}

/* ---- what a step gave, with the lock ----------------------------------------------------------------------------- */

static struct ticket *find_active(const struct kvasir_async *async, uint64_t engine_id, uint32_t index)
{
    uint32_t low = 0, high = async->active_count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        const struct ticket *at = async->active[middle];
        if (at->engine_id < engine_id || (at->engine_id == engine_id && at->index < index))
            low = middle + 1;
        else
            high = middle;
    }
    struct ticket *found = low < async->active_count ? async->active[low] : NULL;
    ASSERT(found && found->engine_id == engine_id && found->index == index);
    return found;
}

static void deliver(struct kvasir_async *async, const struct kvasir_event *event)
{
    struct ticket *ticket = find_active(async, event->id, event->index);
    ticket->last = event->finish;
    ticket->output_tokens += (uint32_t)event->token_count;
    if (!ticket->queue) return;
    if (!ticket_append(ticket, event)) ticket->broken = ticket->cancelled = async->cancelling = true;
    ticket_ready(ticket);
    if (!ticket->bytes_max || ticket->bytes <= ticket->bytes_max || ticket->paused) return;
    ticket->paused = engine_pause(async->engine, event->id, event->index, true);
}

/* Those whose last event this was leave the active ones. */
static void end_finished(struct kvasir_async *async)
{
    uint32_t kept = 0;
    for (uint32_t i = 0; i < async->active_count; i++) {
        struct ticket *ticket = async->active[i];
        if (ticket->last == KVASIR_RUNNING) {
            async->active[kept++] = ticket;
            continue;
        }
        if (kvasir_engine_timings(async->engine, ticket->engine_id, &ticket->timings) != KVASIR_OK)
            ticket->timings = (struct kvasir_timings){0}; /* more ended at once than the engine remembers */
        ticket->timings.prompt_tokens = ticket->prompt_count;
        ticket->timings.output_tokens = ticket->output_tokens;
        ticket_end(ticket, ticket->broken ? KVASIR_ERROR : ticket->last);
    }
    async->active_count = kept;
}

/* ---- the engine's thread ----------------------------------------------------------------------------------------- */

/* Until there is something to do, for `seconds` at most. */
static void wait_for_work(struct kvasir_async *async, double seconds)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += (long)(seconds * 1e9);
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    pthread_cond_timedwait(&async->work, &async->lock, &until);
}

/* One step, without the lock; then what it gave. */
static void step(struct kvasir_async *async)
{
    const struct kvasir_event *events;
    size_t count;
    struct kvasir_error error;
    pthread_mutex_unlock(&async->lock);
    bool failed = kvasir_engine_step(async->engine, &events, &count, &error) != KVASIR_OK;
    if (failed) log_line(LOG_ERROR, "%s; trying again", error.text);
    pthread_mutex_lock(&async->lock);
    for (size_t i = 0; i < count; i++) deliver(async, &events[i]);
    end_finished(async);
    kvasir_engine_stats(async->engine, &async->stats);
    if (failed && !async->closing) wait_for_work(async, RETRY_S);
}

static bool has_work(const struct kvasir_async *async)
{
    return async->inbox || async->calls || async->cancelling || async->resuming || async->closing;
}

static void *async_main(void *argument)
{
    struct kvasir_async *async = argument;
    bool settles = false; /* nobody has come for a while */
    pthread_mutex_lock(&async->lock);
    while (!async->closing) {
        take_inbox(async);
        take_cancellations(async);
        take_resumptions(async);
        take_calls(async);
        const bool busy = kvasir_engine_busy(async->engine), idle = settle_idle(async->engine);
        if (busy && (!idle || settles)) {
            settles = idle;
            step(async);
        } else if (!has_work(async)) {
            if (busy)
                wait_for_work(async, SETTLE_AFTER_S);
            else
                pthread_cond_wait(&async->work, &async->lock);
            settles = busy && !has_work(async);
        }
    }
    pthread_mutex_unlock(&async->lock);
    return NULL;
}

/* ---- the handle -------------------------------------------------------------------------------------------------- */

/* Signals are for the program's own threads. */
static enum status start(struct kvasir_async *async, struct error *error)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int failed = pthread_create(&async->thread, NULL, async_main, async);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (failed) return error_set(error, ST_IO, "cannot start the engine's thread: %s", strerror(failed));
    pthread_mutex_lock(&async->lock); /* compilers read what lies beside it with it */
    async->started = true;
    pthread_mutex_unlock(&async->lock);
    return ST_OK;
}

int kvasir_async_open(struct kvasir_model *model, const struct kvasir_engine_options *options,
                      struct kvasir_async **out, struct kvasir_error *public_error)
{
    struct error *error = private_error(public_error);
    *out = NULL;
    struct kvasir_async *async = mem_zero(1, sizeof *async);
    if (!async) return (int)error_set(error, ST_NOMEM, "not enough memory for an engine");
    pthread_mutex_init(&async->lock, NULL);
    pthread_cond_init(&async->work, NULL);
    pthread_cond_init(&async->called, NULL);
    async->inbox_end = &async->inbox;
    async->next_id = 1;
    int status = kvasir_engine_open(model, options, &async->engine, public_error);
    if (status == KVASIR_OK) {
        kvasir_engine_stats(async->engine, &async->stats);
        status = (int)start(async, error);
    }
    if (status != KVASIR_OK) {
        kvasir_async_close(async);
        return status;
    }
    *out = async;
    return KVASIR_OK;
}

void kvasir_async_close(struct kvasir_async *async)
{
    if (!async) return;
    ASSERT(async->queue_count == 0);
    pthread_mutex_lock(&async->lock);
    async->closing = true;
    pthread_cond_signal(&async->work);
    pthread_mutex_unlock(&async->lock);
    if (async->started) pthread_join(async->thread, NULL);
    /* Of queues that were closed. */
    for (uint32_t i = 0; i < async->active_count; i++) ticket_free(async->active[i]);
    for (struct ticket *ticket = async->inbox, *next; ticket; ticket = next) {
        next = ticket->next_inbox;
        ticket_free(ticket);
    }
    kvasir_engine_close(async->engine);
    pthread_cond_destroy(&async->called);
    pthread_cond_destroy(&async->work);
    pthread_mutex_destroy(&async->lock);
    mem_free(async);
}

void kvasir_async_stats(struct kvasir_async *async, struct kvasir_engine_stats *out)
{
    pthread_mutex_lock(&async->lock);
    *out = async->stats;
    pthread_mutex_unlock(&async->lock);
}

void kvasir_async_call(struct kvasir_async *async, void (*function)(void *data, struct kvasir_engine *engine),
                       void *data)
{
    struct call call = {.function = function, .data = data};
    pthread_mutex_lock(&async->lock);
    struct call **last = &async->calls;
    while (*last) last = &(*last)->next;
    *last = &call;
    pthread_cond_signal(&async->work);
    while (!call.done) pthread_cond_wait(&async->called, &async->lock);
    pthread_mutex_unlock(&async->lock);
}
