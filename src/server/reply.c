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
#include "server/reply.h"
#include "server/structure.h"
#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/http_struct.h>
#include <stdio.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>

#define HOLD_BYTES (16u << 10)
#define INPUT_BYTES_MAX (64u << 10) /* that a client sends before it was answered */

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

void reply_no_memory(struct evhttp_request *http)
{
    struct refusal refusal;
    refuse(&refusal, 503, "", "there is no memory for the answer now: try again later");
    reply_refuse(http, &refusal);
}

/* ---- life ------------------------------------------------------------------------------------------------------------ */

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
        buffer_release(&choice->prompt_logprobs);
        buffer_release(&choice->prompt_ids);
        buffer_release(&choice->token_ids);
        buffer_release(&choice->embedding);
        tool_parser_close(choice->tools);
        response_writer_close(choice->writer);
    }
    body_release(&reply->body);
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

/* Events of the stream, if there are any; releases `text`. */
static void send_text(struct reply *reply, struct buffer *text)
{
    struct evbuffer *chunk = text->length ? evbuffer_new() : NULL;
    bool fits = chunk && !text->failed && evbuffer_add(chunk, text->data, text->length) == 0;
    if (fits) evhttp_send_reply_chunk_with_cb(reply->http, chunk, on_written, reply);
    if (fits) reply->sent_s = clock_seconds();
    if (chunk) evbuffer_free(chunk);
    buffer_release(text);
    struct evbuffer *unsent = bufferevent_get_output(evhttp_connection_get_bufferevent(reply->connection));
    if (!reply->held && evbuffer_get_length(unsent) > HOLD_BYTES) hold_all(reply, true);
}

static void send_last(struct reply *reply)
{
    struct buffer out;
    buffer_init(&out, 0);
    reply->api->framing->last(reply, &out);
    send_text(reply, &out);
    end(reply);
    evhttp_send_reply_end(reply->http);
}

static void send_whole(struct reply *reply)
{
    struct buffer out;
    buffer_init(&out, 0);
    reply->api->framing->whole(reply, &out);
    end(reply);
    reply_json(reply->http, 200, &out);
}

void reply_fail(struct reply *reply, const struct refusal *refusal)
{
    cancel_all(reply);
    if (!reply->http || reply->ended) return;
    end(reply);
    if (!reply->body.stream) {
        reply_refuse(reply->http, refusal);
        return;
    }
    struct buffer out;
    buffer_init(&out, 0);
    reply->api->framing->fail(reply, refusal, &out);
    send_text(reply, &out);
    evhttp_send_reply_end(reply->http);
}

/* ---- updates ------------------------------------------------------------------------------------------------------------ */

static void take_end(struct choice *choice, const struct kvasir_timings *timings)
{
    struct reply *reply = choice->reply;
    if (choice->prompt_is_counted) {
        reply->usage.prompt += timings->prompt_tokens;
        reply->usage.cached += timings->cached_tokens;
    }
    if (!reply->body.no_answer) reply->usage.output += timings->output_tokens;
    kv_view_note(reply->server->kv_view, timings);
}

static void write_update(struct choice *choice)
{
    struct reply *reply = choice->reply;
    if (reply->body.stream) {
        struct buffer out;
        buffer_init(&out, 0);
        reply->api->framing->piece(choice, &out);
        if (choice->finish != KVASIR_RUNNING) reply->api->framing->close(choice, &out);
        send_text(reply, &out);
    }
    if (reply->unfinished) return;
    if (reply->body.stream)
        send_last(reply);
    else
        send_whole(reply);
}

void reply_update(const struct kvasir_update *update)
{
    struct choice *choice = (struct choice *)update->data + update->event.index; /* data: of the prompt's first */
    struct reply *reply = choice->reply;
    choice->finish = update->event.finish;
    if (choice->enough && choice->finish == KVASIR_CANCELLED_BY_CALLER) choice->finish = KVASIR_STOP;
    if (choice->finish != KVASIR_RUNNING) reply->unfinished--;
    if (!reply->http) {
        if (!reply->unfinished) reply_free(reply);
        return;
    }
    if (reply->ended) return;
    choice->output_tokens += update->event.token_count;
    reply->api->framing->take(choice, &update->event);
    if (choice->finish == KVASIR_ERROR || choice->finish == KVASIR_CANCELLED_BY_CALLER ||
        reply->api->framing->failed(choice)) {
        struct refusal refusal;
        refuse(&refusal, 503, "", "there is no memory for the answer now: try again later");
        reply_fail(reply, &refusal);
        return;
    }
    if (choice->finish != KVASIR_RUNNING)
        take_end(choice, &update->timings);
    else if (choice->enough && reply->count == 1) /* other answers to the prompt would end with it */
        kvasir_queue_cancel(reply->server->queue, choice->id);
    write_update(choice);
}

void reply_keep_alive(struct reply *reply, double now_s)
{
    if (!reply->body.stream || reply->ended || reply->held || !reply->http ||
        now_s - reply->sent_s < reply->server->config.keep_alive_s)
        return;
    struct buffer out;
    buffer_init(&out, 0);
    buffer_text(&out, ": keep-alive\n\n");
    send_text(reply, &out);
}

/* ---- beginning ---------------------------------------------------------------------------------------------------------- */

static bool submit_all(struct reply *reply, const struct prompts *prompts, struct refusal *refusal)
{
    struct kvasir_request *request = &reply->body.request;
    struct kvasir_error error;
    for (uint32_t i = 0; i < prompts->count; i++) {
        struct choice *choice = &reply->choices[i * request->n];
        request->prompt = prompts->items[i].ids;
        request->prompt_count = prompts->items[i].count;
        uint64_t id;
        if (kvasir_queue_submit(reply->server->queue, request, choice, &id, &error) != KVASIR_OK)
            return refuse_library(refusal, reply->api->param, &error);
        for (uint32_t j = 0; j < request->n; j++) choice[j].id = id;
        choice->prompt_is_counted = true; /* once for its n answers */
        choice->prompt_tokens = prompts->items[i].count;
        reply->unfinished += request->n;
    }
    return true;
}

static void start_stream(struct reply *reply)
{
    reply->sent_s = clock_seconds();
    struct evkeyvalq *headers = evhttp_request_get_output_headers(reply->http);
    evhttp_add_header(headers, "Content-Type", "text/event-stream; charset=utf-8");
    evhttp_add_header(headers, "Cache-Control", "no-cache");
    evhttp_send_reply_start(reply->http, 200, NULL);
    struct buffer out;
    buffer_init(&out, 0);
    reply->api->framing->open(reply, &out);
    send_text(reply, &out);
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

static bool start_all(struct reply *reply, const struct prompts *prompts)
{
    for (uint32_t i = 0; i < reply->count && reply->api->framing->start; i++)
        if (!reply->api->framing->start(&reply->choices[i], &prompts->items[i / reply->body.request.n])) return false;
    return true;
}

/* Owns the body from here on. NULL: there is no memory for it, and the body is released. */
static struct reply *reply_new(struct server *server, const struct api *api, struct body *body, uint32_t count)
{
    struct reply *reply = mem_zero(1, sizeof *reply + count * sizeof reply->choices[0]);
    if (!reply) {
        body_release(body);
        return NULL;
    }
    reply->server = server;
    reply->api = api;
    reply->count = count;
    reply->body = *body;
    reply->created = (int64_t)time(NULL);
    snprintf(reply->id, sizeof reply->id, "%s%016llx%016llx", api->id_prefix,
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

bool reply_read_body(const struct server *server, struct evhttp_request *http, unsigned api, struct body *body,
                     struct refusal *refusal)
{
    struct evbuffer *input = evhttp_request_get_input_buffer(http);
    const char *bytes = (const char *)evbuffer_pullup(input, -1);
    if (!body_parse(bytes ? bytes : "", evbuffer_get_length(input), api, body, refusal)) return false;
    if (!body->model || strcmp(body->model, server->config.model_name) == 0) return true;
    refuse(refusal, 404, "model", "the model '%.100s' does not exist here: %s is served", body->model,
           server->config.model_name);
    refusal->code = "model_not_found";
    return false;
}

/* What the request says of prompts and words that only the model can read. */
static bool prepare(const struct server *server, const struct api *api, struct body *body, struct prompts *prompts,
                    struct kvasir_bad_word **bad_words, struct refusal *refusal)
{
    struct kvasir_error error;
    struct kvasir_sampling *sampling = &body->request.sampling;
    if (!api->prompts(server, body, prompts, refusal)) return false;
    prompts_truncate(body, prompts);
    if (prompts->count * body->request.n > api->answers_max)
        return refuse(refusal, 400, "n", "%u prompts with n = %u: at most %u answers in one request", prompts->count,
                      body->request.n, api->answers_max);
    if (body->bad_words.count && kvasir_tokenize_bad_words(server->model, body->bad_words.items, body->bad_words.count,
                                                           bad_words, &sampling->bad_word_count, &error) != KVASIR_OK)
        return refuse_library(refusal, "bad_words", &error);
    sampling->bad_words = *bad_words;
    return structure_check(server->model, body, refusal);
}

static bool check_tools(const struct server *server, const struct body *body, struct refusal *refusal)
{
    if (!body->tools || server->tools) return true;
    return refuse(refusal, 400, "tools", "tools are not supported here: %s",
                  strcmp(server->config.tool_call_parser, "auto") == 0
                      ? "the model's chat template teaches no format of calls that is known"
                      : "the server was started with --tool-call-parser none");
}

static void begin(struct server *server, struct evhttp_request *http, const struct api *api, struct body *body,
                  const struct prompts *prompts)
{
    struct refusal refusal;
    struct reply *reply = reply_new(server, api, body, prompts->count * body->request.n);
    if (!reply || !start_all(reply, prompts) || !attach(reply, http)) {
        if (reply) reply->http = NULL, reply_free(reply);
        refuse(&refusal, 503, "", "there is no memory for the request now: try again later");
        reply_refuse(http, &refusal);
    } else if (!submit_all(reply, prompts, &refusal)) {
        reply->body.stream = false; /* not begun yet */
        reply_fail(reply, &refusal);
    } else {
        body_forget_prompt(&reply->body);
        if (reply->body.stream) start_stream(reply);
    }
}

void reply_begin(struct server *server, struct evhttp_request *http, const struct api *api)
{
    struct body body = {0};
    struct prompts prompts = {0};
    struct kvasir_bad_word *bad_words = NULL;
    struct refusal refusal;
    if (reply_read_body(server, http, api->bit, &body, &refusal) && check_tools(server, &body, &refusal) &&
        prepare(server, api, &body, &prompts, &bad_words, &refusal)) {
        begin(server, http, api, &body, &prompts);
    } else {
        reply_refuse(http, &refusal);
        body_release(&body);
    }
    prompts_release(&prompts);
    kvasir_free(bad_words);
}
