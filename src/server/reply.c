/* reply.c - one request being answered: from its body to its last byte.
 *
 *              submitted                      every choice has ended,               written out
 *   body ─────────────────▶ being answered ───────────────────────────▶ ended ─────────────────────▶ freed
 *                                 │           or an error                 │                            ▲
 *                                 └────── the client goes away ───────────┴──▶ gone ───────────────────┘
 *                                                                                the engine lets go of its choices
 *
 * The engine's queue points to choices, so a reply without a client lives until their last updates have come. evhttp frees a
 * request that was answered, or is on a connection that it frees; only one whose connection broke meanwhile is ours to free.
 *
 * evhttp does not read while it has nothing to write, and so would not notice a client that goes away: we switch reading on,
 * without a reader. (An event for EV_CLOSED would miss resets: libevent's epoll reports those as readable.) Whoever closes
 * one direction only has gone away too. Who sends more than INPUT_BYTES_MAX before it was answered is sent away.
 *
 * When more than HOLD_BYTES are unsent the reply's choices are held in the queue until all was sent. So at most that, and one
 * update, lies here: see SEGMENT_… in engine/async_internal.h for how large that is. */
#include "server/server_internal.h"
#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/http_struct.h>
#include <stdio.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>

#define HOLD_BYTES (16u << 10)
#define INPUT_BYTES_MAX (64u << 10) /* that a client sends before it was answered */

struct reply {
    struct server *server;
    const struct api *api;
    struct reply *before, *after;         /* in server->replies */
    struct evhttp_request *http;          /* NULL: there is no client any more */
    struct evhttp_connection *connection; /* of it */
    struct evbuffer_cb_entry *input;      /* on_input */
    struct event *flood;                  /* on_flood */
    bool stream, include_usage, wants_logprobs;
    bool ended; /* all is handed to evhttp */
    bool held;  /* in the queue: too much is unsent */
    uint32_t alternatives;
    char id[64];
    int64_t created;
    struct usage usage;
    uint32_t unfinished, count;
    struct choice choices[]; /* [count] */
};

/* ---- simple replies -------------------------------------------------------------------------------------------------- */

void reply_json(struct evhttp_request *http, int status, struct buffer *json)
{
    struct evbuffer *body = evbuffer_new();
    bool fits = body && !json->failed && evbuffer_add(body, json->data, json->length) == 0;
    evhttp_add_header(evhttp_request_get_output_headers(http), "Content-Type", "application/json");
    evhttp_send_reply(http, fits ? status : 503, NULL, fits ? body : NULL);
    if (body) evbuffer_free(body);
    buffer_release(json);
}

void reply_refuse(struct evhttp_request *http, const struct refusal *refusal)
{
    struct buffer json;
    buffer_init(&json, 0);
    json_error(refusal, &json);
    if (refusal->status == 429 || refusal->status == 503)
        evhttp_add_header(evhttp_request_get_output_headers(http), "Retry-After", "1");
    reply_json(http, refusal->status, &json);
}

/* ---- life ------------------------------------------------------------------------------------------------------------ */

struct reply *reply_next(struct reply *reply)
{
    return reply->after;
}

void reply_free(struct reply *reply)
{
    struct server *server = reply->server;
    *(reply->before ? &reply->before->after : &server->replies) = reply->after;
    if (reply->after) reply->after->before = reply->before;
    if (reply->flood) event_free(reply->flood);
    for (uint32_t i = 0; i < reply->count; i++) {
        struct choice *choice = &reply->choices[i];
        buffer_release(&choice->text);
        buffer_release(&choice->logprobs.tokens);
        buffer_release(&choice->logprobs.values);
        buffer_release(&choice->logprobs.tops);
        buffer_release(&choice->logprobs.offsets);
    }
    mem_free(reply);
    server_reply_gone(server);
}

static void cancel_all(struct reply *reply)
{
    for (uint32_t i = 0; i < reply->count; i++)
        if (reply->choices[i].id && reply->choices[i].finish == KVASIR_RUNNING)
            kvasir_queue_cancel(reply->server->queue, reply->choices[i].id);
}

static void hold_all(struct reply *reply, bool held)
{
    reply->held = held;
    for (uint32_t i = 0; i < reply->count; i++)
        if (reply->choices[i].finish == KVASIR_RUNNING)
            kvasir_queue_hold(reply->server->queue, reply->choices[i].id, held);
}

/* There is no client any more; what its choices still get is thrown away. */
static void detach(struct reply *reply)
{
    reply->http = NULL;
    reply->connection = NULL;
    if (reply->flood) event_free(reply->flood);
    reply->flood = NULL;
    cancel_all(reply);
    if (reply->held) hold_all(reply, false); /* so that their last updates come */
    if (!reply->unfinished) reply_free(reply);
}

/* All was written. */
static void on_complete(struct evhttp_request *http, void *data)
{
    (void)http;
    struct reply *reply = data;
    struct bufferevent *stream = evhttp_connection_get_bufferevent(reply->connection);
    evhttp_connection_set_closecb(reply->connection, NULL, NULL);
    evbuffer_remove_cb_entry(bufferevent_get_input(stream), reply->input);
    bufferevent_set_timeouts(stream, &(struct timeval){.tv_sec = READ_TIMEOUT_S},
                             &(struct timeval){.tv_sec = WRITE_TIMEOUT_S});
    detach(reply);
}

/* evhttp frees the connection. */
static void on_connection_freed(struct evhttp_connection *connection, void *data)
{
    (void)connection;
    struct reply *reply = data;
    if (!reply->ended && !evhttp_request_get_connection(reply->http)) evhttp_request_free(reply->http);
    detach(reply);
}

static void on_flood(evutil_socket_t socket, short what, void *data)
{
    (void)socket, (void)what;
    struct reply *reply = data;
    evhttp_connection_set_closecb(reply->connection, NULL, NULL);
    evhttp_connection_free(reply->connection); /* and the request on it */
    detach(reply);
}

/* The connection cannot be freed from inside its buffer. */
static void on_input(struct evbuffer *input, const struct evbuffer_cb_info *change, void *data)
{
    (void)change;
    struct reply *reply = data;
    if (evbuffer_get_length(input) > INPUT_BYTES_MAX) event_active(reply->flood, EV_READ, 0);
}

/* From here on evhttp owns the request, and calls back once. */
static void end(struct reply *reply)
{
    reply->ended = true;
    evhttp_request_set_on_complete_cb(reply->http, on_complete, reply);
}

/* ---- writing ----------------------------------------------------------------------------------------------------------- */

static void on_written(struct evhttp_connection *connection, void *data)
{
    (void)connection;
    struct reply *reply = data;
    if (reply->held && reply->http) hold_all(reply, false);
}

/* One event of the stream; releases `text`. */
static void send_text(struct reply *reply, struct buffer *text)
{
    struct evbuffer *chunk = evbuffer_new();
    bool fits = chunk && !text->failed && evbuffer_add(chunk, text->data, text->length) == 0;
    if (fits) evhttp_send_reply_chunk_with_cb(reply->http, chunk, on_written, reply);
    if (chunk) evbuffer_free(chunk);
    buffer_release(text);
    struct evbuffer *unsent = bufferevent_get_output(evhttp_connection_get_bufferevent(reply->connection));
    if (!reply->held && evbuffer_get_length(unsent) > HOLD_BYTES) hold_all(reply, true);
}

static void write_head(const struct reply *reply, const char *object, struct buffer *out)
{
    buffer_printf(out, "{\"id\":\"%s\",\"object\":\"%s\",\"created\":%lld,\"model\":", reply->id, object,
                  (long long)reply->created);
    json_out_text(out, reply->server->config.model_name, strlen(reply->server->config.model_name));
    buffer_text(out, ",\"choices\":[");
}

/* A chunk with one choice: `inside`, or what the choice has unsent. */
static void send_chunk(struct reply *reply, const struct choice *choice, const char *inside, enum kvasir_finish finish)
{
    struct buffer out;
    buffer_init(&out, 0);
    buffer_text(&out, "data: ");
    write_head(reply, reply->api->chunk_object, &out);
    buffer_printf(&out, "{\"index\":%u,", choice->index);
    if (inside)
        buffer_text(&out, inside);
    else
        reply->api->delta(choice, &out);
    buffer_text(&out, ",\"finish_reason\":");
    json_finish(finish, &out);
    buffer_printf(&out, "}]%s}\n\n", reply->include_usage ? ",\"usage\":null" : "");
    send_text(reply, &out);
}

static void send_last(struct reply *reply)
{
    struct buffer out;
    buffer_init(&out, 0);
    if (reply->include_usage) {
        buffer_text(&out, "data: ");
        write_head(reply, reply->api->chunk_object, &out);
        buffer_text(&out, "],\"usage\":");
        json_usage(&reply->usage, &out);
        buffer_text(&out, "}\n\n");
    }
    buffer_text(&out, "data: [DONE]\n\n");
    send_text(reply, &out);
    end(reply);
    evhttp_send_reply_end(reply->http);
}

static void send_whole(struct reply *reply)
{
    struct buffer out;
    buffer_init(&out, 0);
    write_head(reply, reply->api->object, &out);
    for (uint32_t i = 0; i < reply->count; i++) {
        buffer_printf(&out, "%s{\"index\":%u,", i ? "," : "", i);
        reply->api->whole(&reply->choices[i], &out);
        buffer_text(&out, ",\"finish_reason\":");
        json_finish(reply->choices[i].finish, &out);
        buffer_text(&out, "}");
    }
    buffer_text(&out, "],\"usage\":");
    json_usage(&reply->usage, &out);
    buffer_text(&out, "}");
    end(reply);
    reply_json(reply->http, 200, &out);
}

void reply_fail(struct reply *reply, const struct refusal *refusal)
{
    cancel_all(reply);
    if (!reply->http || reply->ended) return;
    end(reply);
    if (!reply->stream) {
        reply_refuse(reply->http, refusal);
        return;
    }
    struct buffer out;
    buffer_init(&out, 0);
    buffer_text(&out, "data: ");
    json_error(refusal, &out);
    buffer_text(&out, "\n\ndata: [DONE]\n\n");
    send_text(reply, &out);
    evhttp_send_reply_end(reply->http);
}

/* ---- updates ------------------------------------------------------------------------------------------------------------ */

static void gather(struct choice *choice, const struct kvasir_event *event)
{
    struct reply *reply = choice->reply;
    buffer_append(&choice->text, event->text, event->text_bytes);
    for (size_t i = 0; i < event->token_count && reply->wants_logprobs; i++)
        reply->api->logprob(reply->server->model, reply->alternatives, &event->tokens[i], choice);
}

/* What was gathered is sent. */
static void flush(struct choice *choice)
{
    struct logprobs *logprobs = &choice->logprobs;
    if (choice->text.length || logprobs->tokens.length) send_chunk(choice->reply, choice, NULL, KVASIR_RUNNING);
    choice->text.length = logprobs->tokens.length = logprobs->values.length = 0;
    logprobs->tops.length = logprobs->offsets.length = 0;
}

static bool gather_failed(const struct choice *choice)
{
    const struct logprobs *logprobs = &choice->logprobs;
    return choice->text.failed || logprobs->tokens.failed || logprobs->values.failed || logprobs->tops.failed ||
           logprobs->offsets.failed;
}

static void take_end(struct choice *choice, const struct kvasir_timings *timings)
{
    struct reply *reply = choice->reply;
    if (choice->prompt_is_counted) {
        reply->usage.prompt += timings->prompt_tokens;
        reply->usage.cached += timings->cached_tokens;
    }
    reply->usage.output += timings->output_tokens;
    if (reply->stream) send_chunk(reply, choice, reply->api->closing, choice->finish);
    if (reply->unfinished) return;
    if (reply->stream)
        send_last(reply);
    else
        send_whole(reply);
}

void reply_update(const struct kvasir_update *update)
{
    struct choice *choice = (struct choice *)update->data + update->event.index; /* data: of the prompt's first */
    struct reply *reply = choice->reply;
    choice->finish = update->event.finish;
    if (choice->finish != KVASIR_RUNNING) reply->unfinished--;
    if (!reply->http) {
        if (!reply->unfinished) reply_free(reply);
        return;
    }
    if (reply->ended) return;
    gather(choice, &update->event);
    if (choice->finish == KVASIR_ERROR || choice->finish == KVASIR_CANCELLED_BY_CALLER || gather_failed(choice)) {
        struct refusal refusal;
        refuse(&refusal, 503, "", "there is no memory for the answer now: try again later");
        reply_fail(reply, &refusal);
        return;
    }
    if (reply->stream) flush(choice);
    if (choice->finish != KVASIR_RUNNING) take_end(choice, &update->timings);
}

/* ---- beginning ---------------------------------------------------------------------------------------------------------- */

static bool submit_all(struct reply *reply, struct body *body, const struct prompts *prompts, struct refusal *refusal)
{
    struct kvasir_error error;
    for (uint32_t i = 0; i < prompts->count; i++) {
        struct choice *choice = &reply->choices[i * body->request.n];
        body->request.prompt = prompts->items[i].ids;
        body->request.prompt_count = prompts->items[i].count;
        uint64_t id;
        if (kvasir_queue_submit(reply->server->queue, &body->request, choice, &id, &error) != KVASIR_OK)
            return refuse_library(refusal, reply->api->bit == API_CHAT ? "messages" : "prompt", &error);
        for (uint32_t j = 0; j < body->request.n; j++) choice[j].id = id;
        choice->prompt_is_counted = true; /* once for its n answers */
        reply->unfinished += body->request.n;
    }
    return true;
}

static void start_stream(struct reply *reply)
{
    struct evkeyvalq *headers = evhttp_request_get_output_headers(reply->http);
    evhttp_add_header(headers, "Content-Type", "text/event-stream; charset=utf-8");
    evhttp_add_header(headers, "Cache-Control", "no-cache");
    evhttp_send_reply_start(reply->http, 200, NULL);
    for (uint32_t i = 0; i < reply->count && reply->api->opening; i++)
        send_chunk(reply, &reply->choices[i], reply->api->opening, KVASIR_RUNNING);
}

/* The client is watched from here on. False: there is no memory for that. */
static bool attach(struct reply *reply, struct evhttp_request *http)
{
    reply->http = http;
    reply->connection = evhttp_request_get_connection(http);
    struct bufferevent *stream = evhttp_connection_get_bufferevent(reply->connection);
    reply->flood = event_new(reply->server->base, -1, 0, on_flood, reply);
    reply->input = reply->flood ? evbuffer_add_cb(bufferevent_get_input(stream), on_input, reply) : NULL;
    if (!reply->input) return false;
    evhttp_connection_set_closecb(reply->connection, on_connection_freed, reply);
    bufferevent_data_cb on_write;
    bufferevent_event_cb on_event;
    void *context;
    bufferevent_getcb(stream, NULL, &on_write, &on_event, &context);
    bufferevent_setcb(stream, NULL, on_write, on_event, context);
    bufferevent_enable(stream, EV_READ);
    /* Nothing has to come for as long as the answer takes. */
    bufferevent_set_timeouts(stream, NULL, &(struct timeval){.tv_sec = WRITE_TIMEOUT_S});
    return true;
}

static struct reply *reply_new(struct server *server, const struct api *api, const struct body *body, uint32_t count)
{
    struct reply *reply = mem_zero(1, sizeof *reply + count * sizeof reply->choices[0]);
    if (!reply) return NULL;
    reply->server = server;
    reply->api = api;
    reply->count = count;
    reply->stream = body->stream;
    reply->include_usage = body->include_usage;
    reply->wants_logprobs = body->logprobs;
    reply->alternatives = body->alternatives;
    reply->created = (int64_t)time(NULL);
    snprintf(reply->id, sizeof reply->id, "%s-%016llx%016llx", api->id_prefix,
             (unsigned long long)random_next(&server->random), (unsigned long long)random_next(&server->random));
    for (uint32_t i = 0; i < count; i++) {
        reply->choices[i].reply = reply;
        reply->choices[i].index = i;
    }
    reply->after = server->replies;
    if (reply->after) reply->after->before = reply;
    server->replies = reply;
    return reply;
}

static bool read_request(struct server *server, struct evhttp_request *http, const struct api *api, struct body *body,
                         struct prompts *prompts, struct refusal *refusal)
{
    struct evbuffer *input = evhttp_request_get_input_buffer(http);
    const char *bytes = (const char *)evbuffer_pullup(input, -1);
    if (!body_parse(bytes ? bytes : "", evbuffer_get_length(input), api->bit, body, refusal)) return false;
    if (body->model && strcmp(body->model, server->config.model_name) != 0) {
        refuse(refusal, 404, "model", "the model '%.100s' does not exist here: %s is served", body->model,
               server->config.model_name);
        refusal->code = "model_not_found";
        return false;
    }
    if (!api->prompts(server->model, body, prompts, refusal)) return false;
    if (prompts->count * body->request.n > ANSWERS_MAX)
        return refuse(refusal, 400, "n", "%u prompts with n = %u: at most %u answers in one request", prompts->count,
                      body->request.n, ANSWERS_MAX);
    return true;
}

void reply_begin(struct server *server, struct evhttp_request *http, const struct api *api)
{
    struct body body = {0};
    struct prompts prompts = {.count = 0};
    struct refusal refusal;
    bool read = read_request(server, http, api, &body, &prompts, &refusal);
    struct reply *reply = read ? reply_new(server, api, &body, prompts.count * body.request.n) : NULL;
    if (read && (!reply || !attach(reply, http))) {
        if (reply) reply->http = NULL, reply_free(reply);
        reply = NULL;
        refuse(&refusal, 503, "", "there is no memory for the request now: try again later");
    }
    if (!reply) {
        reply_refuse(http, &refusal);
    } else if (!submit_all(reply, &body, &prompts, &refusal)) {
        reply->stream = false; /* not begun yet */
        reply_fail(reply, &refusal);
    } else if (reply->stream) {
        start_stream(reply);
    }
    for (uint32_t i = 0; i < prompts.count; i++) kvasir_free(prompts.items[i].ids);
    body_release(&body);
}
