/* async_queue.c - completion queues: requests go in, updates come out, with a descriptor to wait on.
 *
 * What a step gives a request goes into its ticket's last segment, or a new one when that is full. A ticket that has
 * something to give, and is not held, is in its queue's ready list once; taking gives its first segment and puts it at the
 * end of the list if there is more, so that a long backlog delays no other request. The descriptor is readable exactly while
 * the list is not empty. */
#include "engine/async_internal.h"
#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* ---- segments ---------------------------------------------------------------------------------------------------- */

void segment_free(struct segment *segment)
{
    if (!segment) return;
    buffer_release(&segment->text);
    mem_free(segment->answer.tokens);
    mem_free(segment->answer.tops);
    mem_free(segment->prompt.tokens);
    mem_free(segment->prompt.tops);
    mem_free(segment->embedding);
    mem_free(segment);
}

size_t segment_bytes(const struct segment *s)
{
    return sizeof *s + s->text.capacity + s->embedding_count * sizeof *s->embedding +
           (s->answer.capacity + s->prompt.capacity) * sizeof *s->answer.tokens +
           (s->answer.top_capacity + s->prompt.top_capacity) * sizeof *s->answer.tops;
}

/* `items` with room for `more` of `size` bytes behind `count`; NULL when there is none, and `items` stays. */
static void *grow(void *items, size_t count, size_t more, size_t *capacity, size_t size)
{
    if (count + more <= *capacity) return items;
    size_t wanted = (count + more) * 3 / 2 + 4;
    void *grown = mem_resize(items, wanted * size);
    if (grown) *capacity = wanted;
    return grown;
}

static size_t top_count(const struct kvasir_token *tokens, size_t count)
{
    size_t tops = 0;
    for (size_t i = 0; i < count; i++) tops += tokens[i].top_count;
    return tops;
}

static bool list_append(struct gathered_tokens *list, const struct kvasir_token *added, size_t count)
{
    size_t more = top_count(added, count);
    if (!count) return true;
    struct kvasir_token *tokens = grow(list->tokens, list->count, count, &list->capacity, sizeof *tokens);
    if (tokens) list->tokens = tokens;
    struct kvasir_logprob *tops = grow(list->tops, list->top_count, more, &list->top_capacity, sizeof *tops);
    if (tops) list->tops = tops;
    if (!tokens || (more && !tops)) return false;
    for (size_t i = 0; i < count; i++) {
        if (added[i].top_count) memcpy(tops + list->top_count, added[i].top, added[i].top_count * sizeof *tops);
        tokens[list->count++] = added[i];
        list->top_count += added[i].top_count;
    }
    return true;
}

/* The tokens, each with its alternatives. */
static const struct kvasir_token *list_tokens(struct gathered_tokens *list)
{
    const struct kvasir_logprob *top = list->tops;
    for (size_t i = 0; i < list->count; i++) {
        list->tokens[i].top = list->tokens[i].top_count ? top : NULL;
        top += list->tokens[i].top_count;
    }
    return list->tokens;
}

static bool segment_has_room(const struct segment *segment, size_t entries, size_t text_bytes)
{
    const struct gathered_tokens *answer = &segment->answer, *prompt = &segment->prompt;
    size_t there = answer->count + answer->top_count + prompt->count + prompt->top_count;
    return there + entries <= SEGMENT_ENTRIES_MAX && segment->text.length + text_bytes <= SEGMENT_TEXT_MAX;
}

static struct segment *last_segment(struct ticket *ticket, size_t entries, size_t text_bytes)
{
    struct segment *last = ticket->last_segment;
    if (last && segment_has_room(last, entries, text_bytes)) return last;
    struct segment *added = mem_zero(1, sizeof *added);
    if (!added) return NULL;
    buffer_init(&added->text, 0);
    *(ticket->first ? &last->next : &ticket->first) = added;
    return ticket->last_segment = added;
}

/* False: there was no memory for all of it. */
static bool segment_append(struct segment *s, const struct kvasir_event *event)
{
    if (event->embedding_count) {
        s->embedding = mem_alloc(event->embedding_count * sizeof *s->embedding);
        if (!s->embedding) return false;
        memcpy(s->embedding, event->embedding, event->embedding_count * sizeof *s->embedding);
        s->embedding_count = event->embedding_count;
    }
    buffer_append(&s->text, event->text, event->text_bytes);
    return list_append(&s->answer, event->tokens, event->token_count) &&
           list_append(&s->prompt, event->prompt_logprobs, event->prompt_logprob_count) && !s->text.failed;
}

bool ticket_append(struct ticket *ticket, const struct kvasir_event *event)
{
    ticket->prompt_done = event->prompt_done;
    ticket->prompt_count = event->prompt_count;
    size_t entries = event->token_count + event->prompt_logprob_count;
    if (!entries && !event->text_bytes && !event->embedding_count) return true;
    entries += top_count(event->tokens, event->token_count);
    entries += top_count(event->prompt_logprobs, event->prompt_logprob_count);
    struct segment *before = ticket->last_segment, *s = last_segment(ticket, entries, event->text_bytes);
    if (!s) return false;
    if (s == before) ticket->bytes -= segment_bytes(s);
    bool kept = segment_append(s, event);
    ticket->bytes += segment_bytes(s);
    return kept;
}

/* ---- tickets, with the lock -------------------------------------------------------------------------------------- */

void ticket_free(struct ticket *ticket)
{
    request_close_all(ticket->request);
    for (struct segment *segment = ticket->first, *next; segment; segment = next) {
        next = segment->next;
        segment_free(segment);
    }
    mem_free(ticket);
}

/* The counter is 1 while something is ready: neither call can block or fail. */
static void signal_set(const struct kvasir_queue *queue)
{
    int failed = eventfd_write(queue->fd, 1);
    ASSERT(!failed);
}

static void signal_clear(const struct kvasir_queue *queue)
{
    eventfd_t value;
    int failed = eventfd_read(queue->fd, &value);
    ASSERT(!failed);
}

void ticket_ready(struct ticket *ticket)
{
    struct kvasir_queue *queue = ticket->queue;
    ticket->news = true;
    if (ticket->ready || ticket->held) return;
    if (!queue->ready) signal_set(queue);
    ticket->ready = true;
    ticket->next_ready = NULL;
    *queue->ready_end = ticket;
    queue->ready_end = &ticket->next_ready;
}

/* Takes the ticket that `*link` points to out of the ready list. */
static void unready(struct kvasir_queue *queue, struct ticket **link)
{
    struct ticket *ticket = *link;
    *link = ticket->next_ready;
    if (!*link) queue->ready_end = link;
    ticket->ready = false;
    if (!queue->ready) signal_clear(queue);
}

static void hold(struct kvasir_queue *queue, struct ticket *ticket, bool held)
{
    ticket->held = held;
    if (!held && ticket->news) ticket_ready(ticket);
    if (!held || !ticket->ready) return;
    struct ticket **link = &queue->ready;
    while (*link != ticket) link = &(*link)->next_ready;
    unready(queue, link);
}

static void enlist(struct kvasir_queue *queue, struct ticket *ticket)
{
    ticket->after = queue->tickets;
    if (ticket->after) ticket->after->before = ticket;
    queue->tickets = ticket;
}

static void delist(struct kvasir_queue *queue, struct ticket *ticket)
{
    *(ticket->before ? &ticket->before->after : &queue->tickets) = ticket->after;
    if (ticket->after) ticket->after->before = ticket->before;
}

/* The first ticket of the request in the list, or behind `ticket`. */
static struct ticket *find(struct ticket *ticket, uint64_t id)
{
    while (ticket && ticket->id != id) ticket = ticket->after;
    return ticket;
}

/* ---- the queue --------------------------------------------------------------------------------------------------- */

int kvasir_queue_open(struct kvasir_async *async, struct kvasir_queue **out, struct kvasir_error *public_error)
{
    struct error *error = private_error(public_error);
    *out = NULL;
    struct kvasir_queue *queue = mem_zero(1, sizeof *queue);
    if (!queue) return (int)error_set(error, ST_NOMEM, "not enough memory for a queue");
    queue->async = async;
    queue->ready_end = &queue->ready;
    queue->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (queue->fd < 0) {
        int reason = errno;
        mem_free(queue);
        return (int)error_set(error, ST_IO, "cannot make a descriptor for a queue: %s", strerror(reason));
    }
    pthread_mutex_lock(&async->lock);
    async->queue_count++;
    pthread_mutex_unlock(&async->lock);
    *out = queue;
    return KVASIR_OK;
}

void kvasir_queue_close(struct kvasir_queue *queue)
{
    if (!queue) return;
    struct kvasir_async *async = queue->async;
    pthread_mutex_lock(&async->lock);
    for (struct ticket *ticket = queue->tickets, *after; ticket; ticket = after) {
        after = ticket->after;
        ticket->queue = NULL;
        ticket->cancelled = async->cancelling = true;
        if (ticket->finish != KVASIR_RUNNING) ticket_free(ticket);
    }
    async->queue_count--;
    pthread_cond_signal(&async->work);
    pthread_mutex_unlock(&async->lock);
    segment_free(queue->given);
    close(queue->fd);
    mem_free(queue);
}

int kvasir_queue_fd(const struct kvasir_queue *queue)
{
    return queue->fd;
}

/* A ticket for each answer, the first one with the request; in a list by next_inbox. */
static enum status make_tickets(struct kvasir_queue *queue, const struct kvasir_request *wanted, void *data,
                                struct ticket **first, struct error *error)
{
    uint32_t count = wanted->n ? wanted->n : 1;
    struct request *request = NULL;
    enum status status = request_open(queue->async->engine, wanted, &request, error);
    struct ticket **end = first;
    *first = NULL;
    for (uint32_t i = 0; i < count && status == ST_OK; i++, end = &(*end)->next_inbox) {
        *end = mem_zero(1, sizeof **end);
        if (!*end) {
            status = error_set(error, ST_NOMEM, "not enough memory for a request");
            break;
        }
        **end = (struct ticket){.async = queue->async,
                                .queue = queue,
                                .data = data,
                                .index = i,
                                .request = i ? NULL : request,
                                .bytes_max = wanted->unread_bytes_max,
                                .prompt_count = (uint32_t)wanted->prompt_count};
    }
    if (status != ST_OK && !*first) request_close_all(request);
    return status;
}

static void free_tickets(struct ticket *first)
{
    for (struct ticket *next; first; first = next) {
        next = first->next_inbox;
        ticket_free(first);
    }
}

int kvasir_queue_submit(struct kvasir_queue *queue, const struct kvasir_request *request, void *data, uint64_t *id,
                        struct kvasir_error *public_error)
{
    struct kvasir_async *async = queue->async;
    struct error *error = private_error(public_error);
    struct ticket *first;
    uint32_t count = request->n ? request->n : 1;
    *id = 0;
    enum status status = make_tickets(queue, request, data, &first, error);
    if (status != ST_OK) {
        free_tickets(first);
        return (int)status;
    }
    pthread_mutex_lock(&async->lock);
    bool full = async->unfinished + count > TICKETS_MAX;
    if (!full) {
        async->unfinished += count;
        *id = async->next_id++;
        *async->inbox_end = first;
        for (struct ticket *ticket = first; ticket; ticket = ticket->next_inbox) {
            ticket->id = *id;
            enlist(queue, ticket);
            async->inbox_end = &ticket->next_inbox;
        }
        pthread_cond_signal(&async->work);
    }
    pthread_mutex_unlock(&async->lock);
    if (!full) return KVASIR_OK;
    free_tickets(first);
    return (int)error_set(error, ST_FULL, "%u answers are running or waiting already: try again later", TICKETS_MAX);
}

int kvasir_queue_cancel(struct kvasir_queue *queue, uint64_t id)
{
    struct kvasir_async *async = queue->async;
    pthread_mutex_lock(&async->lock);
    struct ticket *first = find(queue->tickets, id);
    for (struct ticket *ticket = first; ticket; ticket = find(ticket->after, id))
        ticket->cancelled = async->cancelling = true;
    pthread_cond_signal(&async->work);
    pthread_mutex_unlock(&async->lock);
    return first ? KVASIR_OK : KVASIR_NOT_FOUND;
}

int kvasir_queue_hold(struct kvasir_queue *queue, uint64_t id, bool held)
{
    struct kvasir_async *async = queue->async;
    pthread_mutex_lock(&async->lock);
    struct ticket *first = find(queue->tickets, id);
    for (struct ticket *ticket = first; ticket; ticket = find(ticket->after, id)) hold(queue, ticket, held);
    pthread_mutex_unlock(&async->lock);
    return first ? KVASIR_OK : KVASIR_NOT_FOUND;
}

/* The ticket's first segment leaves it; a paused answer goes on when half of what there may be is left. */
static void shift(struct ticket *ticket)
{
    struct segment *s = ticket->first;
    if (!s) return;
    ticket->first = s->next;
    ticket->bytes -= segment_bytes(s);
    if (!ticket->paused || ticket->bytes > ticket->bytes_max / 2) return;
    ticket->async->resuming = true;
    pthread_cond_signal(&ticket->async->work);
}

/* The first segment of the ticket as an event; the queue keeps it while it is borrowed. */
static void give(struct kvasir_queue *queue, struct ticket *ticket, struct kvasir_update *out)
{
    struct segment *s = queue->given = ticket->first;
    shift(ticket);
    if (!ticket->first) ticket->last_segment = NULL;
    bool last = !ticket->first;
    *out = (struct kvasir_update){.data = ticket->data,
                                  .event = {.id = ticket->id,
                                            .index = ticket->index,
                                            .tokens = s ? list_tokens(&s->answer) : NULL,
                                            .token_count = s ? s->answer.count : 0,
                                            .prompt_logprobs = s ? list_tokens(&s->prompt) : NULL,
                                            .prompt_logprob_count = s ? s->prompt.count : 0,
                                            .text = s && s->text.data ? s->text.data : "",
                                            .text_bytes = s ? s->text.length : 0,
                                            .embedding = s ? s->embedding : NULL,
                                            .embedding_count = s ? s->embedding_count : 0,
                                            .prompt_done = ticket->prompt_done,
                                            .prompt_count = ticket->prompt_count,
                                            .finish = last ? ticket->finish : KVASIR_RUNNING},
                                  .timings = ticket->timings};
    ticket->news = !last;
}

bool kvasir_queue_take(struct kvasir_queue *queue, struct kvasir_update *out)
{
    struct kvasir_async *async = queue->async;
    segment_free(queue->given);
    queue->given = NULL;
    pthread_mutex_lock(&async->lock);
    struct ticket *ticket = queue->ready;
    if (ticket) {
        give(queue, ticket, out);
        unready(queue, &queue->ready);
        if (out->event.finish != KVASIR_RUNNING) {
            delist(queue, ticket);
            ticket_free(ticket);
        } else if (ticket->news) {
            ticket_ready(ticket);
        }
    }
    pthread_mutex_unlock(&async->lock);
    return ticket != NULL;
}
