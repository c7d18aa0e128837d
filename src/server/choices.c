/* choices.c - the frame of completions and chats: {"id", "object", "choices": […], "usage"}, whole or in chunks. */
#include "server/reply.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

/* ---- what updates bring ------------------------------------------------------------------------------------------------- */

static void take_text(struct choice *choice, const char *text, size_t bytes, bool ended)
{
    if (!choice->tools) {
        buffer_append(&choice->text, text, bytes);
        return;
    }
    tool_parser_put(choice->tools, text, bytes, &choice->text);
    if (ended) tool_parser_finish(choice->tools, &choice->text);
    choice->enough = tool_parser_done(choice->tools);
}

void choice_call_id(const struct choice *choice, uint32_t call, struct buffer *out)
{
    const struct reply *reply = choice->reply;
    buffer_printf(out, "call_%.16s%04x%04x", reply->id + strlen(reply->api->id_prefix), choice->index, call);
}

/* What is echoed: the text as it was given, or that of the tokens. */
static void take_prompt_text(struct choice *choice, const struct prompt *prompt)
{
    char *text = NULL;
    size_t bytes;
    if (prompt->text) {
        buffer_append(&choice->text, json_string_value(prompt->text), json_string_length(prompt->text));
    } else if (kvasir_detokenize(choice->reply->server->model, prompt->ids, prompt->count, 0, &text, &bytes, NULL) ==
               KVASIR_OK) {
        buffer_append(&choice->text, text, bytes);
    }
    kvasir_free(text);
}

static bool start(struct choice *choice, const struct prompt *prompt)
{
    const struct reply *reply = choice->reply;
    const struct body *body = &reply->body;
    if (body->tools) {
        choice->tools = tool_parser_open(reply->server->tools, body->tools, body->stream, body->one_call);
        if (!choice->tools) return false;
    }
    if (body->echo) take_prompt_text(choice, prompt);
    if (body->echo && body->logprobs)
        reply->api->format->logprob(reply->server->model, 0,
                                    &(struct kvasir_token){.id = prompt->ids[0], .logprob = NAN}, choice);
    if (body->token_ids) json_out_ids(&choice->prompt_ids, prompt->ids, prompt->count);
    return true;
}

/* "id": {"logprob", "rank", "decoded_token"}; rank 0: it is not known. */
static void write_ranked(const struct kvasir_model *model, uint32_t id, float logprob, uint32_t rank,
                         struct buffer *out)
{
    struct buffer spelling;
    buffer_init(&spelling, 0);
    json_token_bytes(model, id, &spelling);
    buffer_printf(out, "\"%u\":{\"logprob\":", id);
    json_out_real(out, logprob);
    if (rank)
        buffer_printf(out, ",\"rank\":%u,\"decoded_token\":", rank);
    else
        buffer_text(out, ",\"rank\":null,\"decoded_token\":");
    json_out_text(out, spelling.data, spelling.length);
    buffer_text(out, "}");
    out->failed |= spelling.failed;
    buffer_release(&spelling);
}

/* As vLLM has it: the prompt's own token first, then the likeliest others. The first token has none. */
static void take_prompt_logprob(struct choice *choice, const struct kvasir_token *token)
{
    const struct reply *reply = choice->reply;
    struct buffer *out = &choice->prompt_logprobs;
    uint32_t rank = 0, shown = token->top_count;
    if (shown > reply->body.prompt_alternatives) shown = reply->body.prompt_alternatives;
    for (uint32_t i = 0; i < token->top_count && !rank; i++)
        if (token->top[i].id == token->id) rank = i + 1;
    buffer_text(out, out->length ? ",{" : "null,{");
    write_ranked(reply->server->model, token->id, token->logprob, rank, out);
    for (uint32_t i = 0; i < shown; i++) {
        if (token->top[i].id == token->id) continue;
        buffer_text(out, ",");
        write_ranked(reply->server->model, token->top[i].id, token->top[i].logprob, i + 1, out);
    }
    buffer_text(out, "}");
}

static void take_prompt(struct choice *choice, const struct kvasir_event *event)
{
    const struct reply *reply = choice->reply;
    for (size_t i = 0; i < event->prompt_logprob_count; i++) {
        const struct kvasir_token *token = &event->prompt_logprobs[i];
        if (reply->body.prompt_logprobs) take_prompt_logprob(choice, token);
        if (reply->body.echo && reply->body.logprobs)
            reply->api->format->logprob(reply->server->model, reply->body.alternatives, token, choice);
    }
}

void choice_take(struct choice *choice, const struct kvasir_event *event)
{
    const struct reply *reply = choice->reply;
    take_prompt(choice, event);
    if (reply->body.no_answer) return;
    take_text(choice, event->text, event->text_bytes, event->finish != KVASIR_RUNNING);
    for (size_t i = 0; i < event->token_count && reply->body.logprobs; i++)
        reply->api->format->logprob(reply->server->model, reply->body.alternatives, &event->tokens[i], choice);
    for (size_t i = 0; i < event->token_count && reply->body.token_ids; i++)
        buffer_printf(&choice->token_ids, "%s%u", choice->token_ids.length ? "," : "", event->tokens[i].id);
}

static bool failed(const struct choice *choice)
{
    const struct logprobs *logprobs = &choice->logprobs;
    return choice->text.failed || logprobs->tokens.failed || logprobs->values.failed || logprobs->tops.failed ||
           logprobs->offsets.failed || choice->prompt_logprobs.failed || choice->prompt_ids.failed ||
           choice->token_ids.failed || (choice->tools && tool_parser_failed(choice->tools));
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

static void write_array(const char *name, const char *begin, const struct buffer *inside, const char *end,
                        struct buffer *out)
{
    buffer_printf(out, ",\"%s\":%s", name, begin);
    buffer_append(out, inside->data, inside->length);
    buffer_text(out, end);
}

/* What was asked for of the prompt. */
static void write_prompt(const struct choice *choice, struct buffer *out)
{
    const struct body *body = &choice->reply->body;
    if (choice->prompt_ids.length) write_array("prompt_token_ids", "", &choice->prompt_ids, "", out);
    if (choice->prompt_logprobs.length)
        write_array("prompt_logprobs", "[", &choice->prompt_logprobs, "]", out);
    else if (body->prompt_logprobs)
        buffer_text(out, ",\"prompt_logprobs\":null");
}

static void write_usage_so_far(const struct reply *reply, struct buffer *out)
{
    struct usage usage = {0};
    for (uint32_t i = 0; i < reply->count; i++) {
        usage.prompt += reply->choices[i].prompt_tokens;
        usage.output += reply->choices[i].output_tokens;
    }
    buffer_text(out, ",\"usage\":");
    json_usage(&usage, out);
}

/* What is told of the prompt comes with a choice's first chunk. */
static void end_chunk(struct choice *choice, struct buffer *out)
{
    const struct reply *reply = choice->reply;
    if (choice->token_ids.length) write_array("token_ids", "[", &choice->token_ids, "]", out);
    choice->token_ids.length = 0;
    if (reply->api->format->prompt_inside) write_prompt(choice, out);
    buffer_text(out, "}]");
    if (!reply->api->format->prompt_inside) write_prompt(choice, out);
    choice->prompt_ids.length = 0;
    if (reply->body.continuous_usage)
        write_usage_so_far(reply, out);
    else if (reply->body.include_usage)
        buffer_text(out, ",\"usage\":null");
    buffer_text(out, "}\n\n");
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
    if (choice->text.length || logprobs->tokens.length || choice->token_ids.length) {
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

static void whole(struct reply *reply, struct buffer *out)
{
    const struct choice_format *format = reply->api->format;
    write_head(reply, format->object, out);
    for (uint32_t i = 0; i < reply->count; i++) {
        const struct choice *choice = &reply->choices[i];
        buffer_printf(out, "%s{\"index\":%u,", i ? "," : "", i);
        format->whole(choice, out);
        write_finish(choice, out);
        if (reply->body.token_ids) write_array("token_ids", "[", &choice->token_ids, "]", out);
        if (format->prompt_inside) write_prompt(choice, out);
        buffer_text(out, "}");
    }
    buffer_text(out, "]");
    if (!format->prompt_inside) write_prompt(&reply->choices[0], out);
    buffer_text(out, ",\"usage\":");
    json_usage(&reply->usage, out);
    buffer_text(out, "}");
}

const struct framing CHOICES = {.start = start,
                                .take = choice_take,
                                .failed = failed,
                                .whole = whole,
                                .open = open_stream,
                                .piece = piece,
                                .close = close_choice,
                                .last = last,
                                .fail = fail};
