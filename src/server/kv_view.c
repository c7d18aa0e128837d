/* kv_view.c - GET /kv: every block of the KV cache, with the figures that tell what it does for its users.
 *
 *              no fresh snapshot             between two steps                    the event loop
 *   request ────────────────────▶ waiting ──────────────────────▶ taken ────────────────────────────▶ all waiting are answered
 *
 * A snapshot has to be taken between two steps, and a step may take a second: a background thread waits for that, never the
 * event loop. One snapshot serves all who ask while it is fresh, at least FRESH_S and as long as makes snapshots cost the engine
 * no more than a part in COST_PARTS of its time. A reply refers to its snapshot, and copies nothing of it; those that clients
 * have not read yet are SNAPSHOTS_MAX at most.
 *
 * In kvasir.h: the form of blocks, groups and requests. Before those come
 *   {"model", "time_s",                                       seconds since the server began
 *    "stats": {"running", "waiting", "context", …},           as GET /kv/stats
 *    "finished": [{"number", "prompt_tokens", "cached_tokens", "output_tokens", "ttft_s", "decode_tokens_per_s"}, …],
 * the last FINISHED_MAX answers that have ended, the newest last; number: how many had ended then. */
#include "server/reply.h"
#include <event2/buffer.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define BLOCKS_MAX 8192 /* in a reply, which is then about 400 KB */
#define FRESH_S 0.25
#define COST_PARTS 50
#define SNAPSHOTS_MAX 8
#define FINISHED_MAX 32

/* Counted: the view has one use of its last one, and each reply that is not written yet one. */
struct snapshot {
    struct server *server;
    uint32_t uses;
    struct kvasir_engine_stats stats;
    double taken_at, cost_s;
    struct buffer head; /* what comes before `json` without its first byte */
    char *json;         /* the library's; NULL: there was no memory */
    size_t bytes;
};

struct waiting {
    struct kv_view *view;
    struct evhttp_request *http;
    struct waiting *before, *after;
};

struct kv_view {
    struct server *server;
    struct background *background;
    struct background_task task; /* takes `next` */
    int fd;                      /* an eventfd: the task is done */
    struct event *done;
    struct snapshot *last, *next; /* next: NULL unless one is being taken */
    struct waiting *waiting;
    double began_at;
    uint64_t finished_count;
    struct kvasir_timings finished[FINISHED_MAX]; /* a ring: that of number n + 1 at n % FINISHED_MAX */
};

/* ---- snapshots ------------------------------------------------------------------------------------------------------ */

static void snapshot_release(struct snapshot *snapshot)
{
    if (!snapshot || --snapshot->uses) return;
    snapshot->server->kv_snapshots--; /* the view may have been closed: libevent can free a reply with its base */
    buffer_release(&snapshot->head);
    kvasir_free(snapshot->json);
    mem_free(snapshot);
}

/* The engine's thread. */
static void look(void *data, struct kvasir_engine *engine)
{
    struct snapshot *snapshot = data;
    double began = clock_seconds();
    kvasir_engine_stats(engine, &snapshot->stats);
    if (kvasir_engine_kv_snapshot(engine, BLOCKS_MAX, &snapshot->json, &snapshot->bytes, NULL) != KVASIR_OK)
        snapshot->json = NULL;
    snapshot->taken_at = clock_seconds();
    snapshot->cost_s = snapshot->taken_at - began;
}

/* The background thread. */
static void take(struct background_task *task)
{
    struct kv_view *view = (struct kv_view *)(void *)((char *)task - offsetof(struct kv_view, task));
    const uint64_t one = 1;
    kvasir_async_call(view->server->async, look, view->next);
    if (write(view->fd, &one, sizeof one) != sizeof one) log_line(LOG_ERROR, "an eventfd cannot be written");
}

static void write_finished(const struct kv_view *view, struct buffer *out)
{
    uint64_t first = view->finished_count > FINISHED_MAX ? view->finished_count - FINISHED_MAX : 0;
    for (uint64_t n = first; n < view->finished_count; n++) {
        const struct kvasir_timings *timings = &view->finished[n % FINISHED_MAX];
        buffer_printf(out,
                      "%s{\"number\":%llu,\"prompt_tokens\":%u,\"cached_tokens\":%u,\"output_tokens\":%u,\"ttft_s\":",
                      n > first ? "," : "", (unsigned long long)n + 1, timings->prompt_tokens, timings->cached_tokens,
                      timings->output_tokens);
        json_out_real(out, timings->ttft_s);
        buffer_text(out, ",\"decode_tokens_per_s\":");
        json_out_real(out, timings->decode_tokens_per_s);
        buffer_text(out, "}");
    }
}

static void write_head(const struct kv_view *view, struct snapshot *snapshot)
{
    struct buffer *out = &snapshot->head;
    const char *name = view->server->config.model_name;
    buffer_text(out, "{\"model\":");
    json_out_text(out, name, strlen(name));
    buffer_printf(out, ",\"time_s\":%.3f,\"stats\":{", snapshot->taken_at - view->began_at);
    json_stats(&snapshot->stats, out);
    buffer_text(out, "},\"finished\":[");
    write_finished(view, out);
    buffer_text(out, "],");
}

/* ---- replies -------------------------------------------------------------------------------------------------------- */

static void on_sent(const void *bytes, size_t count, void *data)
{
    (void)bytes, (void)count;
    snapshot_release(data);
}

static void send_snapshot(struct snapshot *snapshot, struct evhttp_request *http)
{
    struct evbuffer *body = evbuffer_new();
    bool fits = body && evbuffer_add(body, snapshot->head.data, snapshot->head.length) == 0;
    if (fits && evbuffer_add_reference(body, snapshot->json + 1, snapshot->bytes - 1, on_sent, snapshot) == 0) {
        snapshot->uses++;
        struct evkeyvalq *headers = evhttp_request_get_output_headers(http);
        evhttp_add_header(headers, "Content-Type", "application/json");
        evhttp_add_header(headers, "Cache-Control", "no-store");
        evhttp_send_reply(http, 200, NULL, body);
    } else {
        reply_no_memory(http);
    }
    if (body) evbuffer_free(body);
}

static void waiting_free(struct waiting *waiting)
{
    *(waiting->before ? &waiting->before->after : &waiting->view->waiting) = waiting->after;
    if (waiting->after) waiting->after->before = waiting->before;
    mem_free(waiting);
}

static void on_gone(void *data)
{
    struct waiting *waiting = data;
    if (!evhttp_request_get_connection(waiting->http)) evhttp_request_free(waiting->http);
    waiting_free(waiting);
}

static void answer_all(struct kv_view *view, struct snapshot *snapshot)
{
    while (view->waiting) {
        struct evhttp_request *http = view->waiting->http;
        connection_unwatch(connection_of(view->server, http));
        waiting_free(view->waiting);
        if (snapshot)
            send_snapshot(snapshot, http);
        else
            reply_no_memory(http);
    }
}

static void on_done(evutil_socket_t fd, short what, void *data)
{
    (void)what;
    struct kv_view *view = data;
    uint64_t count;
    if (read(fd, &count, sizeof count) != sizeof count || !background_take(view->background, true)) return;
    struct snapshot *snapshot = view->next;
    view->next = NULL;
    if (snapshot->json) write_head(view, snapshot);
    if (snapshot->json && !snapshot->head.failed) {
        snapshot_release(view->last);
        view->last = snapshot;
        answer_all(view, snapshot);
    } else {
        snapshot_release(snapshot);
        answer_all(view, NULL);
    }
}

static bool is_fresh(const struct snapshot *snapshot)
{
    double lasts = snapshot ? snapshot->cost_s * COST_PARTS : 0;
    return snapshot && clock_seconds() - snapshot->taken_at < (lasts > FRESH_S ? lasts : FRESH_S);
}

/* False: clients have not read those that were sent, or there is no memory. */
static bool begin_snapshot(struct kv_view *view)
{
    if (view->next) return true;
    if (view->server->kv_snapshots >= SNAPSHOTS_MAX) return false;
    struct snapshot *snapshot = mem_zero(1, sizeof *snapshot);
    if (!snapshot) return false;
    buffer_init(&snapshot->head, 0);
    snapshot->server = view->server;
    snapshot->uses = 1;
    view->server->kv_snapshots++;
    view->next = snapshot;
    background_put(view->background, &view->task);
    return true;
}

static bool wait_for_next(struct kv_view *view, struct evhttp_request *http)
{
    struct waiting *waiting = begin_snapshot(view) ? mem_alloc(sizeof *waiting) : NULL;
    if (!waiting) return false;
    *waiting = (struct waiting){.view = view, .http = http, .after = view->waiting};
    if (view->waiting) view->waiting->before = waiting;
    view->waiting = waiting;
    connection_watch(connection_of(view->server, http), on_gone, NULL, waiting);
    return true;
}

void kv_view_answer(struct server *server, struct evhttp_request *http, const struct api *api)
{
    (void)api;
    struct kv_view *view = server->kv_view;
    if (is_fresh(view->last))
        send_snapshot(view->last, http);
    else if (!wait_for_next(view, http))
        reply_no_memory(http);
}

void kv_view_note(struct kv_view *view, const struct kvasir_timings *timings)
{
    view->finished[view->finished_count++ % FINISHED_MAX] = *timings;
}

/* ---- life ------------------------------------------------------------------------------------------------------------ */

bool kv_view_open(struct server *server)
{
    struct kv_view *view = mem_zero(1, sizeof *view);
    if (!view) return false;
    server->kv_view = view;
    view->server = server;
    view->task.run = take;
    view->began_at = clock_seconds();
    view->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (view->fd < 0 || background_open(&view->background, NULL) != ST_OK) return false;
    view->done = event_new(server->base, view->fd, EV_READ | EV_PERSIST, on_done, view);
    return view->done && event_add(view->done, NULL) == 0;
}

void kv_view_close(struct kv_view *view)
{
    if (!view) return;
    while (view->waiting) waiting_free(view->waiting);
    background_close(view->background);
    if (view->done) event_free(view->done);
    if (view->fd >= 0) close(view->fd);
    snapshot_release(view->next);
    snapshot_release(view->last);
    mem_free(view);
}
