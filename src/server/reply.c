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
 * When more than HOLD_BYTES of a stream are unsent its choices are held in the queue until all was sent, and when more than
 * UNREAD_BYTES_MAX wait there they are paused. So a client that does not read costs what is unsent, one update (SEGMENT_… in
 * engine/async_internal.h), and that: less than 64 KiB in all, however long the answer is. */
#include "server/reply.h"
#include "server/metrics.h"
#include "server/structure.h"
#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/http_struct.h>
#include <stdio.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>

#define HOLD_BYTES (2u << 10)        /* small events take a KiB each of libevent's memory */
#define UNREAD_BYTES_MAX (12u << 10) /* of a stream, in the engine's queue */
#define HELD_S 0.1                   /* longer than an event loop's turn: the reader's time, not ours */
#define TOLD_BYTES_MAX (16u << 20)   /* of prompts, in one reply */
#define TOLD_BYTES_PER_TOKEN 8       /* an id and its comma; the text of one that was given by its id */
#define TOLD_LOGPROBS_MAX (1u << 18)
#define PROMPT_TOKENS_MAX (64u << 20) /* of all answers that run or wait: 256 MiB */

/* ---- simple replies -------------------------------------------------------------------------------------------------- */

static void reply_with(struct evhttp_request *http, int status, const char *type, struct buffer *text)
{
    struct evbuffer *body = evbuffer_new();
    bool fits = body && !text->failed && evbuffer_add(body, text->data, text->length) == 0;
    evhttp_add_header(evhttp_request_get_output_headers(http), "Content-Type", type);
    evhttp_send_reply(http, fits ? status : 503, NULL, fits ? body : NULL);
    if (body) evbuffer_free(body);
    buffer_release(text);
}

void reply_json(struct evhttp_request *http, int status, struct buffer *json)
{
    reply_with(http, status, "application/json", json);
}

void reply_text(struct evhttp_request *http, const char *type, struct buffer *text)
{
    reply_with(http, 200, type, text);
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
    refuse_no_memory(&refusal, "answer");
    reply_refuse(http, &refusal);
}

/* ---- life ------------------------------------------------------------------------------------------------------------ */

void reply_describe(const struct reply *reply, struct buffer *out)
{
    const struct exchange *exchange = reply->client ? connection_exchange(reply->client) : NULL;
    uint64_t prompt = 0, done = 0, output = 0;
    for (uint32_t i = 0; i < reply->count; i++) {
        const struct choice *choice = &reply->choices[i];
        if (choice->prompt_is_counted) prompt += choice->prompt_tokens, done += choice->prompt_done;
        output += choice->output_tokens;
    }
    const char *phase = !exchange ? "cancelled" : output ? "decode" : done ? "prefill" : "queue";
    buffer_printf(out, "{\"id\":\"%s\",\"route\":\"%s\",\"key\":", reply->id, reply->api->path);
    if (exchange && exchange->key)
        json_out_text(out, exchange->key->name, strlen(exchange->key->name));
    else
        buffer_text(out, "null");
    buffer_printf(out,
                  ",\"phase\":\"%s\",\"age_s\":%.3f,\"answers\":%u,\"prompt_tokens\":%llu,\"prompt_done\":%llu,"
                  "\"output_tokens\":%llu}",
                  phase, clock_seconds() - reply->began_s, reply->count, (unsigned long long)prompt,
                  (unsigned long long)done, (unsigned long long)output);
}

void reply_free(struct reply *reply)
{
    struct server *server = reply->server;
    *(reply->before ? &reply->before->after : &server->replies) = reply->after;
    if (reply->after) reply->after->before = reply->before;
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
    server->answers -= reply->held_answers;
    server->prompt_tokens -= reply->held_tokens;
    mem_free(reply);
    server_one_less(server);
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
    bool long_held = !held && clock_seconds() - reply->sent_s > HELD_S;
    for (uint32_t i = 0; i < reply->count && long_held; i++) reply->choices[i].told_s = 0;
    for (uint32_t i = 0; i < reply->count; i++)
        if (reply->choices[i].finish == KVASIR_RUNNING)
            kvasir_queue_hold(reply->server->queue, reply->choices[i].id, held);
}

/* There is no client any more; what its choices still get is thrown away. */
static void detach(struct reply *reply)
{
    reply->http = NULL;
    reply->connection = NULL;
    reply->client = NULL;
    cancel_all(reply);
    if (reply->held) hold_all(reply, false); /* so that their last updates come */
    if (!reply->unfinished) reply_free(reply);
}

static void on_all_written(void *data)
{
    detach(data);
}

/* For the log: what there is of an answer that will not be complete. */
static void tell_cut(struct reply *reply)
{
    struct exchange *exchange = connection_exchange(reply->client);
    exchange->cut = true;
    exchange->prompt_tokens = exchange->output_tokens = 0;
    for (uint32_t i = 0; i < reply->count; i++) {
        const struct choice *choice = &reply->choices[i];
        if (choice->prompt_is_counted) exchange->prompt_tokens += choice->prompt_tokens;
        exchange->output_tokens += choice->output_tokens;
    }
}

static void on_gone(void *data)
{
    struct reply *reply = data;
    if (!reply->ended) tell_cut(reply);
    if (!reply->ended && !evhttp_request_get_connection(reply->http)) evhttp_request_free(reply->http);
    detach(reply);
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
    struct evbuffer *unsent = bufferevent_get_output(evhttp_connection_get_bufferevent(reply->connection));
    bool slow = evbuffer_get_length(unsent) > HOLD_BYTES;
    struct evbuffer *chunk = text->length ? evbuffer_new() : NULL;
    bool fits = chunk && !text->failed && evbuffer_add(chunk, text->data, text->length) == 0;
    if (fits) evhttp_send_reply_chunk_with_cb(reply->http, chunk, on_written, reply);
    if (fits) reply->sent_s = clock_seconds();
    if (chunk) evbuffer_free(chunk);
    buffer_release(text);
    if (slow && !reply->held) hold_all(reply, true);
}

static void send_last(struct reply *reply)
{
    struct buffer out;
    buffer_init(&out, 0);
    reply->api->framing->last(reply, &out);
    send_text(reply, &out);
    reply->ended = true;
    evhttp_send_reply_end(reply->http);
}

static void send_whole(struct reply *reply)
{
    struct buffer out;
    buffer_init(&out, 0);
    reply->api->framing->whole(reply, &out);
    reply->ended = true;
    reply_json(reply->http, 200, &out);
}

void reply_fail(struct reply *reply, const struct refusal *refusal)
{
    cancel_all(reply);
    if (!reply->http || reply->ended) return;
    tell_cut(reply);
    reply->ended = true;
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
    struct exchange *exchange = connection_exchange(reply->client);
    if (choice->prompt_is_counted) {
        reply->usage.prompt += timings->prompt_tokens;
        reply->usage.cached += timings->cached_tokens;
    }
    if (!reply->body.no_answer) reply->usage.output += timings->output_tokens;
    exchange->prompt_tokens = reply->usage.prompt;
    exchange->cached_tokens = reply->usage.cached;
    exchange->output_tokens = reply->usage.output;
    if (exchange->ttft_s == 0 || timings->ttft_s < exchange->ttft_s) exchange->ttft_s = timings->ttft_s;
    kv_view_note(reply->server->kv_view, timings);
}

static void count_request(const struct reply *reply)
{
    uint64_t longest = 0;
    for (uint32_t i = 0; i < reply->count; i++)
        if (reply->choices[i].output_tokens > longest) longest = reply->choices[i].output_tokens;
    metrics_request(reply->server->metrics, reply->count, reply->body.request.max_tokens, longest);
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
    if (reply->api->bit != API_EMBEDDINGS) count_request(reply);
    if (reply->body.stream)
        send_last(reply);
    else
        send_whole(reply);
}

static void count(struct choice *choice, const struct kvasir_update *update)
{
    struct reply *reply = choice->reply;
    struct metrics *metrics = reply->server->metrics;
    double now_s = clock_seconds();
    choice->prompt_done = update->event.prompt_done;
    choice->output_tokens += update->event.token_count;
    if (update->event.token_count) {
        if (choice->told_s > 0) metrics_tokens(metrics, now_s - choice->told_s, update->event.token_count);
        choice->told_s = now_s;
    }
    if (choice->finish != KVASIR_RUNNING)
        metrics_answer(metrics, choice->finish, &update->timings, now_s - reply->began_s);
}

void reply_update(const struct kvasir_update *update)
{
    struct choice *choice = (struct choice *)update->data + update->event.index; /* data: of the prompt's first */
    struct reply *reply = choice->reply;
    choice->finish = update->event.finish;
    if (choice->enough && choice->finish == KVASIR_CANCELLED_BY_CALLER) choice->finish = KVASIR_STOP;
    if (choice->finish != KVASIR_RUNNING) reply->unfinished--;
    count(choice, update);
    if (!reply->http) {
        if (!reply->unfinished) reply_free(reply);
        return;
    }
    if (reply->ended) return;
    reply->api->framing->take(choice, &update->event);
    if (choice->finish == KVASIR_ERROR || choice->finish == KVASIR_CANCELLED_BY_CALLER ||
        reply->api->framing->failed(choice)) {
        struct refusal refusal;
        refuse_no_memory(&refusal, "answer");
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

/* Is there room for these prompts among those that run or wait? Each answer has a copy of its own. */
static bool admit(struct reply *reply, const struct prompts *prompts, struct refusal *refusal)
{
    struct server *server = reply->server;
    uint64_t tokens = 0;
    for (uint32_t i = 0; i < prompts->count; i++) tokens += prompts->items[i].count;
    tokens *= reply->body.request.n;
    if (server->answers && server->answers + reply->count > server->config.answers_max)
        return refuse(refusal, 429, "", "%u answers run or wait already: try again later", server->answers);
    if (server->answers && server->prompt_tokens + tokens > PROMPT_TOKENS_MAX)
        return refuse(refusal, 429, "",
                      "the prompts of %u answers are waited for already, which is much: try again later",
                      server->answers);
    server->answers += reply->count;
    server->prompt_tokens += tokens;
    reply->held_answers = reply->count;
    reply->held_tokens = tokens;
    return true;
}

static bool submit_all(struct reply *reply, const struct prompts *prompts, struct refusal *refusal)
{
    struct kvasir_request *request = &reply->body.request;
    struct kvasir_error error;
    if (!admit(reply, prompts, refusal)) return false;
    if (reply->body.stream) request->unread_bytes_max = UNREAD_BYTES_MAX / reply->count;
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

/* The client is watched from here on. */
static void attach(struct reply *reply, struct evhttp_request *http)
{
    reply->http = http;
    reply->connection = evhttp_request_get_connection(http);
    reply->client = connection_of(reply->server, http);
    reply->began_s = connection_exchange(reply->client)->began_s;
    connection_watch(reply->client, on_gone, on_all_written, reply);
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
    bool parsed = body_parse(bytes ? bytes : "", evbuffer_get_length(input), api, body, refusal);
    evbuffer_drain(input, SIZE_MAX); /* not kept for as long as the answer takes */
    if (!parsed) return false;
    if (!body->model || strcmp(body->model, server->config.model_name) == 0) return true;
    refuse(refusal, 404, "model", "the model '%.100s' does not exist here: %s is served", body->model,
           server->config.model_name);
    refusal->code = "model_not_found";
    return false;
}

/* What is told of prompts is bounded before anything is kept: their text and ids once for each answer, log-probabilities once. */
static bool check_told(const struct body *body, const struct prompts *prompts, struct refusal *refusal)
{
    size_t bytes = 0, entries = 0;
    for (uint32_t i = 0; i < prompts->count; i++) {
        const struct prompt *prompt = &prompts->items[i];
        bytes += (prompt->text ? json_string_length(prompt->text) : 0) + prompt->count * TOLD_BYTES_PER_TOKEN;
        entries += prompt->count * (body->request.prompt_logprobs + 1);
    }
    if ((body->echo || body->token_ids) && bytes * body->request.n > TOLD_BYTES_MAX)
        return refuse(refusal, 400, body->echo ? "echo" : "return_token_ids",
                      "the prompts are too long to be told with each of so many answers: at most %u MiB in all",
                      TOLD_BYTES_MAX >> 20);
    if (body->request.prompt_logprobs && entries > TOLD_LOGPROBS_MAX)
        return refuse(refusal, 400, body->prompt_logprobs ? "prompt_logprobs" : "echo",
                      "the prompts are too long for so many log-probabilities: at most %u, alternatives included",
                      TOLD_LOGPROBS_MAX);
    return true;
}

/* What the request says of prompts and words that only the model can read. */
static bool prepare(const struct server *server, const struct api_key *key, const struct api *api, struct body *body,
                    struct prompts *prompts, struct kvasir_bad_word **bad_words, struct refusal *refusal)
{
    struct kvasir_error error;
    struct kvasir_sampling *sampling = &body->request.sampling;
    if (key && !server->config.share_cache) body->request.cache_salt = auth_salt(key, body->request.cache_salt);
    if (key) body->request.tenant = key->salt;
    if (!api->prompts(server, body, prompts, refusal)) return false;
    prompts_truncate(body, prompts);
    if (!check_told(body, prompts, refusal)) return false;
    if (prompts->count * body->request.n > api->answers_max)
        return refuse(refusal, 400, "n", "%u prompts with n = %u: at most %u answers in one request", prompts->count,
                      body->request.n, api->answers_max);
    if (body->bad_words.count && kvasir_tokenize_bad_words(server->model, body->bad_words.items, body->bad_words.count,
                                                           bad_words, &sampling->bad_word_count, &error) != KVASIR_OK)
        return refuse_library(refusal, "bad_words", &error);
    sampling->bad_words = *bad_words;
    return structure_check(server->model, body, refusal);
}

static bool check_tools(const struct server *server, struct body *body, struct refusal *refusal)
{
    if (!body->tools) return true;
    if (server->tools) return structure_allow_calls(body, server->tools, refusal);
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
    if (!reply || !start_all(reply, prompts)) {
        if (reply) reply_free(reply);
        refuse_no_memory(&refusal, "request");
        reply_refuse(http, &refusal);
        return;
    }
    attach(reply, http);
    if (!submit_all(reply, prompts, &refusal)) {
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
    const struct api_key *key = connection_exchange(connection_of(server, http))->key;
    if (reply_read_body(server, http, api->bit, &body, &refusal) && check_tools(server, &body, &refusal) &&
        prepare(server, key, api, &body, &prompts, &bad_words, &refusal)) {
        begin(server, http, api, &body, &prompts);
    } else {
        reply_refuse(http, &refusal);
        body_release(&body);
    }
    prompts_release(&prompts);
    kvasir_free(bad_words);
}
