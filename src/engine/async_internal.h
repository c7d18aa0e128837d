/* async_internal.h - between async.c (the engine's thread) and async_queue.c (what a reader sees). */
#ifndef ENGINE_ASYNC_INTERNAL_H
#define ENGINE_ASYNC_INTERNAL_H
#include "engine/engine_internal.h"
#include <pthread.h>

#define TICKETS_MAX 4096u           /* unfinished, of all queues */
#define SEGMENT_ENTRIES_MAX 64u     /* tokens and their alternatives in one update */
#define SEGMENT_TEXT_MAX (2u << 10) /* bytes of text in one update */

struct gathered_tokens {
    struct kvasir_token *tokens; /* [count]; `top` is set when it is taken: `tops` moves as it grows */
    struct kvasir_logprob *tops; /* [top_count], all tokens' in a row */
    size_t count, capacity, top_count, top_capacity;
};
/* Gathered events of one answer: what one kvasir_queue_take gives. Larger than the limits only if one event is. */
struct segment {
    struct segment *next;
    struct buffer text;
    struct gathered_tokens answer, prompt; /* prompt: its log-probabilities */
    float *embedding;                      /* [embedding_count] */
    size_t embedding_count;
};
size_t segment_bytes(const struct segment *segment);
void segment_free(struct segment *segment);

/* The place of one answer to a request in its queue. `request`, `next_inbox` and `last` are the engine's thread's once it has left the
 * inbox; everything else is under async->lock. */
struct ticket {
    struct kvasir_async *async;
    struct kvasir_queue *queue; /* NULL: it was closed */
    void *data;
    uint64_t id, engine_id;  /* those of one request have the same, */
    uint32_t index;          /* and are told apart by this */
    struct request *request; /* of the first answer, until the engine has it */
    struct ticket *next_inbox;
    enum kvasir_finish last; /* of the engine's last event */

    struct ticket *before, *after; /* in the queue's list of all */
    struct ticket *next_ready;
    bool ready;     /* in the queue's list of those that have something to give */
    bool held;      /* stays out of that list */
    bool cancelled; /* by its owner, or because it is broken */
    bool broken;    /* a part of its answer could not be kept */
    bool news;      /* something to give: a segment, progress or the end */
    bool paused;    /* the answer is, because `bytes` were more than `bytes_max` (0: no limit) */
    size_t bytes, bytes_max;
    struct segment *first, *last_segment; /* of so many bytes */
    uint32_t prompt_done, prompt_count, output_tokens;
    enum kvasir_finish finish; /* not KVASIR_RUNNING: the engine's thread knows it no more */
    struct kvasir_timings timings;
};
/* Takes the event in. False: there is no memory for it. */
MUST_CHECK bool ticket_append(struct ticket *ticket, const struct kvasir_event *event);
void ticket_ready(struct ticket *ticket); /* has something to give; of an open queue */
void ticket_free(struct ticket *ticket);

struct kvasir_queue {
    struct kvasir_async *async;
    int fd; /* an eventfd, 1 while `ready` is not empty */
    struct ticket *tickets;
    struct ticket *ready, **ready_end;
    struct segment *given; /* borrowed by the reader; only its thread uses it */
};

/* Of kvasir_async_call, on its caller's stack. */
struct call {
    void (*function)(void *data, struct kvasir_engine *engine);
    void *data;
    struct call *next;
    bool done;
};

struct kvasir_async {
    struct kvasir_engine *engine; /* the thread's, once that runs */
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t work, called; /* there is something to do; calls are done */
    bool started, closing;
    bool cancelling; /* some active ticket was cancelled, */
    bool resuming;   /* or is paused, and was read */
    struct ticket *inbox, **inbox_end;
    struct call *calls;
    uint64_t next_id;
    uint32_t unfinished, queue_count;
    struct ticket *active[TICKETS_MAX]; /* by ascending engine_id and index; the engine's thread's */
    uint32_t active_count;
    struct kvasir_engine_stats stats;
};

#endif
