/* responses.c - /v1/responses: an answer is a list of items, a message or a call of a tool each, and a stream tells of every item's
 * beginning, pieces and end.
 *
 * The server keeps no responses: who goes on with one sends its items again, and the KV cache knows them.
 *
 *   created, in_progress,
 *     for a message:  output_item.added, content_part.added, output_text.delta …, output_text.done, content_part.done, output_item.done
 *     for a call:     output_item.added, function_call_arguments.delta …, function_call_arguments.done, output_item.done
 *   completed | incomplete
 *
 * One writer makes the items in both cases; a reply that is not streamed drops its events.
 * Specification: OpenAI's API reference (server.h says where). */
#include "server/reply.h"
#include <stdlib.h>
#include <string.h>

enum item { ITEM_NONE, ITEM_MESSAGE, ITEM_CALL };

struct response_writer {
    uint64_t events;              /* so far: the next one's number */
    uint32_t items;               /* that were opened */
    enum item open;               /* the last one is */
    uint32_t call;                /* if it is a call: which */
    struct buffer text, logprobs; /* of the open message; logprobs: the inside of an array */
    struct buffer done;           /* the items that are, separated by commas */
    size_t sent;                  /* bytes of text, in all messages */
};

void response_writer_close(struct response_writer *writer)
{
    if (!writer) return;
    buffer_release(&writer->text);
    buffer_release(&writer->logprobs);
    buffer_release(&writer->done);
    mem_free(writer);
}

/* ---- pieces of JSON ---------------------------------------------------------------------------------------------------- */

/* An item's id, from its kind and its place. */
static void write_item_id(const struct reply *reply, const char *prefix, uint32_t place, struct buffer *out)
{
    buffer_printf(out, "\"%s_%.24s%08x\"", prefix, reply->id + strlen(reply->api->id_prefix), place);
}

static void write_part(const char *text, size_t bytes, const struct buffer *logprobs, struct buffer *out)
{
    buffer_text(out, "{\"type\":\"output_text\",\"text\":");
    json_out_text(out, text, bytes);
    buffer_text(out, ",\"annotations\":[],\"logprobs\":[");
    if (logprobs) buffer_append(out, logprobs->data, logprobs->length);
    buffer_text(out, "]}");
}

static void write_message(const struct reply *reply, const char *status, bool with_text, struct buffer *out)
{
    const struct response_writer *writer = reply->choices[0].writer;
    buffer_text(out, "{\"type\":\"message\",\"id\":");
    write_item_id(reply, "msg", writer->items - 1, out);
    buffer_printf(out, ",\"status\":\"%s\",\"role\":\"assistant\",\"content\":[", status);
    if (with_text) write_part(writer->text.data, writer->text.length, &writer->logprobs, out);
    buffer_text(out, "]}");
}

static void write_call(const struct reply *reply, const char *status, size_t bytes, struct buffer *out)
{
    const struct choice *choice = &reply->choices[0];
    const struct tool_call *call = tool_parser_call(choice->tools, choice->writer->call);
    buffer_text(out, "{\"type\":\"function_call\",\"id\":");
    write_item_id(reply, "fc", choice->writer->items - 1, out);
    buffer_text(out, ",\"call_id\":\"");
    choice_call_id(choice, choice->writer->call, out);
    buffer_text(out, "\",\"name\":");
    json_out_text(out, call->name.data, call->name.length);
    buffer_text(out, ",\"arguments\":");
    json_out_text(out, call->arguments.data, bytes);
    buffer_printf(out, ",\"status\":\"%s\"}", status);
}

/* A field of the request as it was, or what it means to leave it out. */
static void write_field(const struct reply *reply, const char *name, const char *absent, struct buffer *out)
{
    const json_t *value = json_object_get(reply->body.json, name);
    char *text = value && !json_is_null(value) ? json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY) : NULL;
    buffer_printf(out, ",\"%s\":", name);
    buffer_text(out, text ? text : absent);
    free(text); /* jansson's */
}

static void write_usage(const struct usage *usage, struct buffer *out)
{
    buffer_printf(
        out,
        ",\"usage\":{\"input_tokens\":%llu,\"input_tokens_details\":{\"cached_tokens\":%llu},\"output_tokens\":%llu,"
        "\"output_tokens_details\":{\"reasoning_tokens\":0},\"total_tokens\":%llu}",
        (unsigned long long)usage->prompt, (unsigned long long)usage->cached, (unsigned long long)usage->output,
        (unsigned long long)(usage->prompt + usage->output));
}

static const char *status_of(const struct reply *reply)
{
    enum kvasir_finish finish = reply->choices[0].finish;
    return finish == KVASIR_RUNNING ? "in_progress" : finish == KVASIR_LENGTH ? "incomplete" : "completed";
}

/* `failure`: why it failed, or NULL. */
static void write_response(const struct reply *reply, const struct refusal *failure, struct buffer *out)
{
    static const struct {
        const char *name, *absent;
    } FIELDS[] = {{"instructions", "null"},
                  {"max_output_tokens", "null"},
                  {"metadata", "{}"},
                  {"parallel_tool_calls", "true"},
                  {"temperature", "1.0"},
                  {"text", "{\"format\":{\"type\":\"text\"}}"},
                  {"tool_choice", "\"auto\""},
                  {"tools", "[]"},
                  {"top_logprobs", "0"},
                  {"top_p", "1.0"},
                  {"user", "null"}};
    const struct response_writer *writer = reply->choices[0].writer;
    bool ended = reply->choices[0].finish != KVASIR_RUNNING;
    buffer_printf(out,
                  "{\"id\":\"%s\",\"object\":\"response\",\"created_at\":%lld,\"status\":\"%s\",\"model\":", reply->id,
                  (long long)reply->created, failure ? "failed" : status_of(reply));
    json_out_text(out, reply->server->config.model_name, strlen(reply->server->config.model_name));
    buffer_text(out, ",\"output\":[");
    buffer_append(out, writer->done.data, writer->done.length);
    buffer_text(out, "],\"error\":");
    if (failure) {
        buffer_text(out, "{\"code\":\"server_error\",\"message\":");
        json_out_text(out, failure->message, strlen(failure->message));
        buffer_text(out, "}");
    } else {
        buffer_text(out, "null");
    }
    buffer_printf(out, ",\"incomplete_details\":%s",
                  ended && reply->choices[0].finish == KVASIR_LENGTH ? "{\"reason\":\"max_output_tokens\"}" : "null");
    for (size_t i = 0; i < ARRAY_COUNT(FIELDS); i++) write_field(reply, FIELDS[i].name, FIELDS[i].absent, out);
    buffer_text(out, ",\"background\":false,\"store\":false,\"previous_response_id\":null,\"truncation\":\"disabled\","
                     "\"reasoning\":{\"effort\":null,\"summary\":null}");
    if (ended && !failure)
        write_usage(&reply->usage, out);
    else
        buffer_text(out, ",\"usage\":null");
    buffer_text(out, "}");
}

/* ---- events ----------------------------------------------------------------------------------------------------------------- */

static void begin_event(struct reply *reply, const char *name, struct buffer *out)
{
    buffer_printf(out, "event: response.%s\ndata: {\"type\":\"response.%s\",\"sequence_number\":%llu", name, name,
                  (unsigned long long)reply->choices[0].writer->events++);
}

static void end_event(struct buffer *out)
{
    buffer_text(out, "}\n\n");
}

static void response_event(struct reply *reply, const char *name, const struct refusal *failure, struct buffer *out)
{
    begin_event(reply, name, out);
    buffer_text(out, ",\"response\":");
    write_response(reply, failure, out);
    end_event(out);
}

/* Of the open item. */
static void begin_item_event(struct reply *reply, const char *name, struct buffer *out)
{
    const struct response_writer *writer = reply->choices[0].writer;
    begin_event(reply, name, out);
    buffer_text(out, ",\"item_id\":");
    write_item_id(reply, writer->open == ITEM_CALL ? "fc" : "msg", writer->items - 1, out);
    buffer_printf(out, ",\"output_index\":%u%s", writer->items - 1,
                  writer->open == ITEM_CALL ? "" : ",\"content_index\":0");
}

static void item_event(struct reply *reply, const char *name, const char *status, bool whole, struct buffer *out)
{
    const struct choice *choice = &reply->choices[0];
    begin_event(reply, name, out);
    buffer_printf(out, ",\"output_index\":%u,\"item\":", choice->writer->items - 1);
    if (choice->writer->open == ITEM_MESSAGE)
        write_message(reply, status, whole, out);
    else
        write_call(reply, status, whole ? tool_parser_call(choice->tools, choice->writer->call)->arguments.length : 0,
                   out);
    end_event(out);
}

/* ---- items --------------------------------------------------------------------------------------------------------------- */

static void close_message(struct reply *reply, struct buffer *out)
{
    const struct response_writer *writer = reply->choices[0].writer;
    begin_item_event(reply, "output_text.done", out);
    buffer_text(out, ",\"text\":");
    json_out_text(out, writer->text.data, writer->text.length);
    buffer_text(out, ",\"logprobs\":[");
    buffer_append(out, writer->logprobs.data, writer->logprobs.length);
    buffer_text(out, "]");
    end_event(out);
    begin_item_event(reply, "content_part.done", out);
    buffer_text(out, ",\"part\":");
    write_part(writer->text.data, writer->text.length, &writer->logprobs, out);
    end_event(out);
}

static void close_call(struct reply *reply, struct buffer *out)
{
    const struct choice *choice = &reply->choices[0];
    const struct tool_call *call = tool_parser_call(choice->tools, choice->writer->call);
    begin_item_event(reply, "function_call_arguments.done", out);
    buffer_text(out, ",\"name\":");
    json_out_text(out, call->name.data, call->name.length);
    buffer_text(out, ",\"arguments\":");
    json_out_text(out, call->arguments.data, call->arguments.length);
    end_event(out);
}

/* The open item is done: it joins the others. Only the last one can have been cut off. */
static void close_item(struct reply *reply, struct buffer *out)
{
    const struct choice *choice = &reply->choices[0];
    struct response_writer *writer = choice->writer;
    const char *status = choice->finish == KVASIR_LENGTH ? "incomplete" : "completed";
    if (writer->open == ITEM_NONE) return;
    buffer_text(&writer->done, writer->items > 1 ? "," : "");
    if (writer->open == ITEM_MESSAGE) {
        close_message(reply, out);
        write_message(reply, status, true, &writer->done);
    } else {
        close_call(reply, out);
        write_call(reply, status, tool_parser_call(choice->tools, writer->call)->arguments.length, &writer->done);
    }
    item_event(reply, "output_item.done", status, true, out);
    writer->open = ITEM_NONE;
    writer->text.length = writer->logprobs.length = 0;
}

static void open_item(struct reply *reply, enum item kind, struct buffer *out)
{
    struct response_writer *writer = reply->choices[0].writer;
    close_item(reply, out);
    writer->open = kind;
    writer->items++;
    item_event(reply, "output_item.added", "in_progress", false, out);
    if (kind == ITEM_CALL) return;
    begin_item_event(reply, "content_part.added", out);
    buffer_text(out, ",\"part\":");
    write_part("", 0, NULL, out);
    end_event(out);
}

/* The first bytes of what is unsent, with all log-probabilities. */
static void add_text(struct choice *choice, size_t bytes, struct buffer *out)
{
    struct reply *reply = choice->reply;
    struct response_writer *writer = choice->writer;
    struct buffer *logprobs = &choice->logprobs.tokens, *text = &choice->text;
    if (writer->open != ITEM_MESSAGE) open_item(reply, ITEM_MESSAGE, out);
    begin_item_event(reply, "output_text.delta", out);
    buffer_text(out, ",\"delta\":");
    json_out_text(out, text->data, bytes);
    buffer_text(out, ",\"logprobs\":[");
    buffer_append(out, logprobs->data, logprobs->length);
    buffer_text(out, "]");
    end_event(out);
    buffer_append(&writer->text, text->data, bytes);
    if (writer->logprobs.length && logprobs->length) buffer_text(&writer->logprobs, ",");
    buffer_append(&writer->logprobs, logprobs->data, logprobs->length);
    writer->sent += bytes;
    if (bytes) memmove(text->data, text->data + bytes, text->length - bytes);
    text->length -= bytes;
    logprobs->length = 0;
}

static void add_call(struct choice *choice, uint32_t index, struct buffer *out)
{
    struct tool_call *call = tool_parser_call(choice->tools, index);
    if (!call->announced) {
        if (call->content > choice->writer->sent) add_text(choice, call->content - choice->writer->sent, out);
        close_item(choice->reply, out);
        choice->writer->call = index;
        open_item(choice->reply, ITEM_CALL, out);
        call->announced = true;
    }
    if (call->sent == call->arguments.length) return;
    begin_item_event(choice->reply, "function_call_arguments.delta", out);
    buffer_text(out, ",\"delta\":");
    json_out_text(out, call->arguments.data + call->sent, call->arguments.length - call->sent);
    end_event(out);
    call->sent = call->arguments.length;
}

/* ---- the framing --------------------------------------------------------------------------------------------------------- */

static bool start(struct choice *choice, const struct prompt *prompt)
{
    choice->writer = mem_zero(1, sizeof *choice->writer);
    return choice->writer && CHOICES.start(choice, prompt);
}

static bool failed(const struct choice *choice)
{
    return CHOICES.failed(choice) || choice->writer->text.failed || choice->writer->done.failed;
}

static void open_stream(struct reply *reply, struct buffer *out)
{
    response_event(reply, "created", NULL, out);
    response_event(reply, "in_progress", NULL, out);
}

static void piece(struct choice *choice, struct buffer *out)
{
    for (uint32_t i = 0; choice->tools && i < tool_parser_count(choice->tools); i++) add_call(choice, i, out);
    if (choice->text.length || choice->logprobs.tokens.length) add_text(choice, choice->text.length, out);
}

/* An answer of nothing is an empty message. */
static void close_answer(struct choice *choice, struct buffer *out)
{
    if (!choice->writer->items) open_item(choice->reply, ITEM_MESSAGE, out);
    close_item(choice->reply, out);
}

static void last(struct reply *reply, struct buffer *out)
{
    response_event(reply, status_of(reply), NULL, out);
}

static void fail(struct reply *reply, const struct refusal *refusal, struct buffer *out)
{
    response_event(reply, "failed", refusal, out);
}

static void whole(struct reply *reply, struct buffer *out)
{
    struct buffer events;
    buffer_init(&events, 0);
    piece(&reply->choices[0], &events);
    close_answer(&reply->choices[0], &events);
    buffer_release(&events);
    write_response(reply, NULL, out);
    out->failed |= failed(&reply->choices[0]);
}

static bool prompts(const struct server *server, struct body *body, struct prompts *out, struct refusal *refusal)
{
    return prompts_render(server, body, out, refusal);
}

static const struct choice_format FORMAT = {.logprob = chat_logprob};
static const struct framing FRAMING = {.start = start,
                                       .take = choice_take,
                                       .failed = failed,
                                       .whole = whole,
                                       .open = open_stream,
                                       .piece = piece,
                                       .close = close_answer,
                                       .last = last,
                                       .fail = fail};
const struct api RESPONSES = {.path = "/v1/responses",
                              .bit = API_RESPONSES,
                              .id_prefix = "resp_",
                              .param = "input",
                              .answers_max = 1,
                              .prompts = prompts,
                              .framing = &FRAMING,
                              .format = &FORMAT};
