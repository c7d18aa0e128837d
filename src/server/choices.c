/* choices.c - the frame of completions and chats: {"id", "object", "choices": […], "usage"}, whole or in chunks. */
#include "server/reply.h"
#include <stdio.h>
#include <string.h>

/* ---- what updates bring ------------------------------------------------------------------------------------------------- */

void choice_take_text(struct choice *choice, const char *text, size_t bytes, bool ended)
{
    if (!choice->tools) {
        buffer_append(&choice->text, text, bytes);
        return;
    }
    tool_parser_put(choice->tools, text, bytes, &choice->text);
    if (ended) tool_parser_finish(choice->tools, &choice->text);
}

void choice_call_id(const struct choice *choice, uint32_t call, struct buffer *out)
{
    const char *dash = strrchr(choice->reply->id, '-');
    buffer_printf(out, "call_%.16s%04x%04x", dash ? dash + 1 : choice->reply->id, choice->index, call);
}

static void take(struct choice *choice, const struct kvasir_event *event)
{
    const struct reply *reply = choice->reply;
    choice_take_text(choice, event->text, event->text_bytes, event->finish != KVASIR_RUNNING);
    for (size_t i = 0; i < event->token_count && reply->body.logprobs; i++)
        reply->api->format->logprob(reply->server->model, reply->body.alternatives, &event->tokens[i], choice);
}

static bool failed(const struct choice *choice)
{
    const struct logprobs *logprobs = &choice->logprobs;
    return choice->text.failed || logprobs->tokens.failed || logprobs->values.failed || logprobs->tops.failed ||
           logprobs->offsets.failed || (choice->tools && tool_parser_failed(choice->tools));
}

/* ---- frames ------------------------------------------------------------------------------------------------------------- */

static void write_head(const struct reply *reply, const char *object, struct buffer *out)
{
    buffer_printf(out, "{\"id\":\"%s\",\"object\":\"%s\",\"created\":%lld,\"model\":", reply->id, object,
                  (long long)reply->created);
    json_out_text(out, reply->server->config.model_name, strlen(reply->server->config.model_name));
    buffer_text(out, ",\"choices\":[");
}

/* A call of a tool is an end by itself; that of the one tool that had to be called is not, as OpenAI has it. */
static void write_finish(const struct choice *choice, struct buffer *out)
{
    bool called = choice->finish == KVASIR_STOP && choice->tools && tool_parser_count(choice->tools) &&
                  choice->reply->body.tool_choice != TOOL_CHOICE_NAMED;
    buffer_text(out, ",\"finish_reason\":");
    if (called)
        buffer_text(out, "\"tool_calls\"");
    else
        json_finish(choice->finish, out);
}

static void begin_chunk(const struct choice *choice, struct buffer *out)
{
    buffer_text(out, "data: ");
    write_head(choice->reply, choice->reply->api->format->chunk_object, out);
    buffer_printf(out, "{\"index\":%u,", choice->index);
}

static void end_chunk(const struct choice *choice, struct buffer *out)
{
    buffer_printf(out, "}]%s}\n\n", choice->reply->body.include_usage ? ",\"usage\":null" : "");
}

/* ---- streams ------------------------------------------------------------------------------------------------------------- */

static void open_stream(struct reply *reply, struct buffer *out)
{
    for (uint32_t i = 0; i < reply->count && reply->api->format->opening; i++) {
        begin_chunk(&reply->choices[i], out);
        buffer_printf(out, "%s,\"finish_reason\":null", reply->api->format->opening);
        end_chunk(&reply->choices[i], out);
    }
}

static void write_calls(struct choice *choice, struct buffer *out)
{
    struct buffer inside;
    buffer_init(&inside, 0);
    while (choice->reply->api->format->call_delta(choice, &inside)) {
        begin_chunk(choice, out);
        buffer_append(out, inside.data, inside.length);
        buffer_text(out, ",\"finish_reason\":null");
        end_chunk(choice, out);
        inside.length = 0;
    }
    out->failed |= inside.failed;
    buffer_release(&inside);
}

static void piece(struct choice *choice, struct buffer *out)
{
    struct logprobs *logprobs = &choice->logprobs;
    if (choice->text.length || logprobs->tokens.length) {
        begin_chunk(choice, out);
        choice->reply->api->format->delta(choice, out);
        buffer_text(out, ",\"finish_reason\":null");
        end_chunk(choice, out);
    }
    if (choice->tools) write_calls(choice, out);
    choice->text.length = logprobs->tokens.length = logprobs->values.length = 0;
    logprobs->tops.length = logprobs->offsets.length = 0;
}

static void close_choice(struct choice *choice, struct buffer *out)
{
    begin_chunk(choice, out);
    buffer_text(out, choice->reply->api->format->closing);
    write_finish(choice, out);
    end_chunk(choice, out);
}

static void last(struct reply *reply, struct buffer *out)
{
    if (reply->body.include_usage) {
        buffer_text(out, "data: ");
        write_head(reply, reply->api->format->chunk_object, out);
        buffer_text(out, "],\"usage\":");
        json_usage(&reply->usage, out);
        buffer_text(out, "}\n\n");
    }
    buffer_text(out, "data: [DONE]\n\n");
}

static void fail(struct reply *reply, const struct refusal *refusal, struct buffer *out)
{
    (void)reply;
    buffer_text(out, "data: ");
    json_error(refusal, out);
    buffer_text(out, "\n\ndata: [DONE]\n\n");
}

/* ---- whole --------------------------------------------------------------------------------------------------------------- */

static void whole(const struct reply *reply, struct buffer *out)
{
    write_head(reply, reply->api->format->object, out);
    for (uint32_t i = 0; i < reply->count; i++) {
        buffer_printf(out, "%s{\"index\":%u,", i ? "," : "", i);
        reply->api->format->whole(&reply->choices[i], out);
        write_finish(&reply->choices[i], out);
        buffer_text(out, "}");
    }
    buffer_text(out, "],\"usage\":");
    json_usage(&reply->usage, out);
    buffer_text(out, "}");
}

const struct framing CHOICES = {.take = take,
                                .failed = failed,
                                .whole = whole,
                                .open = open_stream,
                                .piece = piece,
                                .close = close_choice,
                                .last = last,
                                .fail = fail};
