/* connection.c - see connection.h.
 *
 * evhttp does not tell of a connection before it has a request, but asks us for its bufferevent (connection_new), whose
 * callbacks' argument is the connection: so, one turn of the loop later, we know it. */
#include "server/head.h"
#include "server/reply.h"
#include "server/tls.h"
#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/listener.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>

#define INPUT_BYTES_MAX (64u << 10) /* that a client sends before it was answered */
#define REFUSED_S 2                 /* to read why, before the connection is closed */
#define CONNECTIONS_OVER 64         /* above the limit, that are told so; more have to wait */

enum phase { PHASE_NEW, PHASE_HEAD, PHASE_BODY, PHASE_ANSWER, PHASE_ANSWERED, PHASE_REFUSED, PHASE_FLOOD };

struct connection {
    struct server *server;
    struct connection *before, *after; /* in server->connections */
    struct bufferevent *stream;        /* evhttp's; ours as well while PHASE_NEW */
    struct evhttp_connection *http;    /* NULL while PHASE_NEW */
    struct event *turn;                /* what cannot be done inside a callback is done in this */
    struct event *deadline;
    enum phase phase;
    bool moving, refusing; /* the head to evhttp; `refusal` is to be told */
    struct buffer head;    /* bytes that evhttp has not seen */
    size_t head_checked;
    bufferevent_data_cb on_read, on_write; /* evhttp's */
    bufferevent_event_cb on_event;
    size_t received; /* of this request */
    double began_s;  /* its first byte came; 0 = not yet */
    void (*gone)(void *data), (*written)(void *data);
    void *watcher; /* their data */
    struct exchange exchange;
    struct refusal refusal;
};

/* ---- the table of all ------------------------------------------------------------------------------------------------- */

static void set_listening(struct server *server)
{
    bool room = server->connection_count < server->config.connections_max + CONNECTIONS_OVER;
    if (!server->listener || room == server->listening) return;
    struct evconnlistener *listener = evhttp_bound_socket_get_listener(server->listener);
    server->listening = room;
    if (room)
        evconnlistener_enable(listener);
    else
        evconnlistener_disable(listener);
}

/* Bytes of requests that are not complete. */
static void set_received(struct connection *connection, size_t bytes)
{
    connection->server->incomplete_bytes += bytes - connection->received;
    connection->received = bytes;
}

static void list_insert(struct connection *connection)
{
    struct server *server = connection->server;
    connection->before = NULL;
    connection->after = server->connections;
    if (connection->after) connection->after->before = connection;
    server->connections = connection;
}

static void list_remove(struct connection *connection)
{
    *(connection->before ? &connection->before->after : &connection->server->connections) = connection->after;
    if (connection->after) connection->after->before = connection->before;
}

static void connection_free(struct connection *connection)
{
    struct server *server = connection->server;
    set_received(connection, 0);
    list_remove(connection);
    if (connection->turn) event_free(connection->turn);
    if (connection->deadline) event_free(connection->deadline);
    buffer_release(&connection->head);
    mem_free(connection);
    server->connection_count--;
    set_listening(server);
}

/* ---- ends ----------------------------------------------------------------------------------------------------------------- */

static void exchange_end(struct connection *connection, int status)
{
    connection->exchange.status = status;
    server_exchange_ended(connection->server, &connection->exchange);
}

static void answer_end(struct connection *connection, int status)
{
    exchange_end(connection, status);
    connection->server->answering--;
    server_one_less(connection->server);
}

/* evhttp frees the connection. */
static void on_closed(struct evhttp_connection *http, void *data)
{
    (void)http;
    struct connection *connection = data;
    if (connection->gone) connection->gone(connection->watcher);
    if (connection->phase == PHASE_ANSWER || connection->phase == PHASE_FLOOD) answer_end(connection, 499);
    connection_free(connection);
}

static void close_now(struct connection *connection)
{
    evhttp_connection_free(connection->http); /* and the request on it; calls on_closed */
}

static void arm(struct connection *connection, double seconds)
{
    struct timeval delay = {.tv_sec = (time_t)seconds,
                            .tv_usec = (suseconds_t)((seconds - (double)(time_t)seconds) * 1e6)};
    event_add(connection->deadline, &delay);
}

static void on_refused_read(struct bufferevent *stream, void *data)
{
    (void)data;
    evbuffer_drain(bufferevent_get_input(stream), SIZE_MAX);
}

static void on_refused_written(struct bufferevent *stream, void *data)
{
    (void)data;
    shutdown(bufferevent_getfd(stream), SHUT_WR); /* the client reads to the end, whatever it still sends */
}

static void on_event(struct bufferevent *stream, short what, void *data)
{
    (void)stream;
    if (what != BEV_EVENT_CONNECTED) close_now(data); /* CONNECTED: TLS is agreed on */
}

/* Answers over evhttp's head, which reads no more. */
static void refuse_now(struct connection *connection)
{
    struct buffer json, out;
    buffer_init(&json, 0);
    buffer_init(&out, 0);
    json_error(&connection->refusal, &json);
    int status = connection->refusal.status;
    buffer_printf(&out,
                  "HTTP/1.1 %d %s\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n%sConnection: "
                  "close\r\n\r\n",
                  status, refusal_reason(status), json.length,
                  status == 503   ? "Retry-After: 1\r\n"
                  : status == 405 ? "Allow: GET, POST\r\n"
                                  : "");
    buffer_append(&out, json.data, json.length);
    connection->phase = PHASE_REFUSED;
    set_received(connection, 0);
    bufferevent_setcb(connection->stream, on_refused_read, on_refused_written, on_event, connection);
    evbuffer_drain(bufferevent_get_input(connection->stream), SIZE_MAX);
    bool told = !out.failed && !json.failed && bufferevent_write(connection->stream, out.data, out.length) == 0;
    buffer_release(&out);
    buffer_release(&json);
    connection->exchange.began_s = connection->began_s;
    exchange_end(connection, status);
    bufferevent_enable(connection->stream, EV_READ | EV_WRITE);
    arm(connection, told ? REFUSED_S : 0);
}

/* ---- heads ------------------------------------------------------------------------------------------------------------------ */

/* A client that was slow to begin, or to say all, or that said nothing after its last answer. */
static void on_deadline(evutil_socket_t fd, short what, void *data)
{
    (void)fd, (void)what;
    struct connection *connection = data;
    bool idle = connection->phase == PHASE_HEAD && connection->began_s == 0;
    if (connection->phase == PHASE_REFUSED || connection->phase == PHASE_NEW || idle) {
        close_now(connection);
        return;
    }
    double limit = REQUEST_S + (double)(connection->received / REQUEST_BYTES_PER_S);
    double left = connection->began_s + limit - clock_seconds();
    if (left > 0) {
        arm(connection, left);
        return;
    }
    refuse(&connection->refusal, 408, "", "the request did not come within %.0f seconds", limit);
    refuse_now(connection);
}

/* The head is good: evhttp reads it, and what follows. */
static void pass(struct connection *connection)
{
    struct bufferevent *stream = connection->stream;
    struct buffer head = connection->head;
    buffer_init(&connection->head, 0);
    connection->phase = PHASE_BODY;
    connection->moving = true;
    bool moved = evbuffer_prepend(bufferevent_get_input(stream), head.data, head.length) == 0;
    connection->moving = false;
    buffer_release(&head);
    if (!moved) {
        close_now(connection);
        return;
    }
    bufferevent_setcb(stream, connection->on_read, connection->on_write, connection->on_event, connection->http);
    bufferevent_trigger(stream, EV_READ, BEV_TRIG_IGNORE_WATERMARKS); /* may end the connection */
}

/* Empty lines before a request are allowed (RFC 9112, section 2.2). */
static void skip_empty_lines(struct connection *connection)
{
    struct buffer *head = &connection->head;
    size_t empty = head->length ? strspn(head->data, "\r\n") : 0;
    if (!empty || connection->head_checked) return;
    memmove(head->data, head->data + empty, head->length - empty + 1);
    head->length -= empty;
}

static void look(struct connection *connection)
{
    size_t bytes = 0;
    skip_empty_lines(connection);
    struct buffer *head = &connection->head;
    bool good =
        head_find(head->data ? head->data : "", head->length, &connection->head_checked, &bytes, &connection->refusal);
    if (good && bytes)
        good = head_check(head->data, bytes, connection->server->config.body_bytes_max, &connection->refusal);
    if (!good)
        refuse_now(connection);
    else if (bytes)
        pass(connection);
}

/* Takes what has come, so that evhttp does not find it. */
static void gather(struct connection *connection)
{
    struct evbuffer *input = bufferevent_get_input(connection->stream);
    char piece[4096];
    for (int got; (got = evbuffer_remove(input, piece, sizeof piece)) > 0;)
        buffer_append(&connection->head, piece, (size_t)got);
}

static void on_head(struct bufferevent *stream, void *data)
{
    (void)stream;
    struct connection *connection = data;
    gather(connection);
    if (connection->head.failed) {
        close_now(connection);
        return;
    }
    look(connection);
}

/* The next request of this connection is awaited. */
static void begin(struct connection *connection, double patience_s)
{
    connection->phase = PHASE_HEAD;
    connection->head_checked = 0;
    connection->exchange = (struct exchange){.method = "", .route = ""};
    gather(connection);
    connection->began_s = connection->head.length ? clock_seconds() : 0;
    bufferevent_getcb(connection->stream, &connection->on_read, &connection->on_write, &connection->on_event, NULL);
    bufferevent_setcb(connection->stream, on_head, NULL, on_event, connection);
    arm(connection, connection->head.length ? REQUEST_S : patience_s);
    if (connection->head.length) look(connection);
}

/* ---- bytes -------------------------------------------------------------------------------------------------------------------- */

static void refuse_soon(struct connection *connection)
{
    connection->refusing = true;
    event_active(connection->turn, EV_TIMEOUT, 0);
}

static void on_input(struct evbuffer *input, const struct evbuffer_cb_info *change, void *data)
{
    struct connection *connection = data;
    const struct server *server = connection->server;
    if (!change->n_added || connection->moving || connection->refusing) return;
    if (connection->phase == PHASE_ANSWER && evbuffer_get_length(input) > INPUT_BYTES_MAX) {
        connection->phase = PHASE_FLOOD; /* a connection cannot be freed from inside its buffer */
        event_active(connection->turn, EV_TIMEOUT, 0);
    }
    if (connection->phase != PHASE_HEAD && connection->phase != PHASE_BODY) return;
    if (connection->began_s == 0) {
        connection->began_s = clock_seconds();
        arm(connection, REQUEST_S);
    }
    set_received(connection, connection->received + change->n_added);
    if (connection->received > server->config.body_bytes_max + HEAD_BYTES_MAX) {
        refuse(&connection->refusal, 413, "", "the body has more than %llu bytes",
               (unsigned long long)server->config.body_bytes_max);
        refuse_soon(connection);
    } else if (server->incomplete_bytes > INCOMPLETE_BODIES_MAX * server->config.body_bytes_max) {
        refuse(&connection->refusal, 503, "", "too much of other requests is waited for: try again later");
        refuse_soon(connection);
    }
}

/* ---- beginnings ------------------------------------------------------------------------------------------------------------- */

/* evhttp has taken the connection up, or has failed to. */
static void adopt(struct connection *connection)
{
    void *http;
    struct bufferevent *stream = connection->stream;
    struct server *server = connection->server;
    bufferevent_getcb(stream, NULL, NULL, NULL, &http);
    connection->http = http;
    if (!http) {
        connection_free(connection);
    } else {
        evhttp_connection_set_closecb(connection->http, on_closed, connection);
        bufferevent_set_timeouts(stream, NULL, &(struct timeval){.tv_sec = WRITE_TIMEOUT_S});
        begin(connection, REQUEST_S);
        if (server->connection_count > server->config.connections_max) {
            refuse(&connection->refusal, 503, "", "there are too many connections: try again later");
            refuse_now(connection);
        }
    }
    bufferevent_decref(stream);
}

static void on_turn(evutil_socket_t fd, short what, void *data)
{
    (void)fd, (void)what;
    struct connection *connection = data;
    if (connection->phase == PHASE_NEW)
        adopt(connection);
    else if (connection->phase == PHASE_FLOOD)
        close_now(connection);
    else if (connection->phase == PHASE_ANSWERED)
        begin(connection, connection->server->config.idle_s);
    else if (connection->phase == PHASE_HEAD || connection->phase == PHASE_BODY)
        refuse_now(connection);
}

struct bufferevent *connection_new(struct event_base *base, void *data)
{
    struct server *server = data;
    struct bufferevent *stream = tls_stream(base, server->tls);
    struct connection *connection = stream ? mem_zero(1, sizeof *connection) : NULL;
    if (!connection) return stream;
    connection->server = server;
    connection->stream = stream;
    buffer_init(&connection->head, 0);
    list_insert(connection);
    server->connection_count++;
    connection->turn = event_new(base, -1, 0, on_turn, connection);
    connection->deadline = evtimer_new(base, on_deadline, connection);
    if (!connection->turn || !connection->deadline ||
        !evbuffer_add_cb(bufferevent_get_input(stream), on_input, connection)) {
        connection_free(connection);
        bufferevent_free(stream);
        return NULL;
    }
    bufferevent_incref(stream);
    event_active(connection->turn, EV_TIMEOUT, 0);
    set_listening(server);
    return stream;
}

void connections_release(struct server *server)
{
    while (server->connections) {
        struct bufferevent *stream = server->connections->stream;
        connection_free(server->connections);
        bufferevent_decref(stream);
    }
}

/* ---- answers ------------------------------------------------------------------------------------------------------------------ */

struct connection *connection_of(struct server *server, struct evhttp_request *http)
{
    const struct evhttp_connection *wanted = evhttp_request_get_connection(http);
    struct connection *connection = server->connections;
    while (connection && connection->http != wanted) connection = connection->after;
    return connection;
}

struct exchange *connection_exchange(struct connection *connection)
{
    return &connection->exchange;
}

/* All was written. evhttp goes on to the next request, or closes. It must read nothing of that before begin: neither what is
 * here already, nor what the system has told us of in this turn of the loop. */
static void on_complete(struct evhttp_request *http, void *data)
{
    struct connection *connection = data;
    void (*written)(void *data) = connection->written;
    connection->phase = PHASE_ANSWERED;
    connection_unwatch(connection);
    if (written) written(connection->watcher);
    answer_end(connection, evhttp_request_get_response_code(http));
    bufferevent_disable(connection->stream, EV_READ);
    gather(connection);
    event_active(connection->turn, EV_TIMEOUT, 0);
}

struct connection *connection_answer(struct server *server, struct evhttp_request *http)
{
    struct connection *connection = connection_of(server, http);
    if (!connection || connection->phase != PHASE_BODY) return NULL; /* never one whose head was not checked */
    list_remove(connection);
    list_insert(connection); /* in front, where it is found again */
    event_del(connection->deadline);
    set_received(connection, 0);
    connection->phase = PHASE_ANSWER;
    server->answering++;
    connection->refusing = false;
    connection->exchange.began_s = connection->began_s;
    evhttp_request_set_on_complete_cb(http, on_complete, connection);
    return connection;
}

void connection_watch(struct connection *connection, void (*gone)(void *data), void (*written)(void *data), void *data)
{
    connection->gone = gone;
    connection->written = written;
    connection->watcher = data;
    bufferevent_data_cb on_write;
    bufferevent_event_cb on_stream_event;
    void *context;
    bufferevent_getcb(connection->stream, NULL, &on_write, &on_stream_event, &context);
    bufferevent_setcb(connection->stream, NULL, on_write, on_stream_event, context);
    bufferevent_enable(connection->stream, EV_READ);
}

void connection_unwatch(struct connection *connection)
{
    connection->gone = connection->written = NULL;
}
