/* chat.c - /v1/chat/completions: messages become a prompt by the model's chat template; the answer is the assistant's. */
#include "server/server_internal.h"
#include <stdlib.h>
#include <string.h>

/* ---- prompts ------------------------------------------------------------------------------------------------------- */

/* Content as an array of {"type": "text", "text"} becomes their joined text, which is what templates know. */
static bool flatten(json_t *message, size_t index, struct refusal *refusal)
{
    json_t *parts = json_object_get(message, "content");
    if (!json_is_array(parts)) return true;
    struct buffer text;
    buffer_init(&text, 0);
    size_t i;
    json_t *part;
    json_array_foreach(parts, i, part)
    {
        const char *type = json_string_value(json_object_get(part, "type"));
        const json_t *content = json_object_get(part, "text");
        if (!type || strcmp(type, "text") != 0 || !json_is_string(content)) {
            buffer_release(&text);
            return refuse(refusal, 400, "messages", "messages[%zu].content[%zu] must be {\"type\":\"text\",\"text\":…}",
                          index, i);
        }
        buffer_append(&text, json_string_value(content), json_string_length(content));
    }
    bool done = !text.failed &&
                json_object_set_new(message, "content", json_stringn(text.data ? text.data : "", text.length)) == 0;
    buffer_release(&text);
    return done || refuse(refusal, 503, "", "there is no memory for the messages now: try again later");
}

/* A copy in which every content is a text. */
static json_t *read_messages(const json_t *messages, struct refusal *refusal)
{
    json_t *copy = json_deep_copy(messages), *message;
    size_t i;
    if (!copy) refuse(refusal, 503, "", "there is no memory for the messages now: try again later");
    json_array_foreach(copy, i, message)
    {
        const char *role = json_string_value(json_object_get(message, "role"));
        const json_t *content = json_object_get(message, "content");
        bool right = role && (json_is_string(content) || json_is_array(content) || strcmp(role, "assistant") == 0);
        if (!right) refuse(refusal, 400, "messages", "messages[%zu] must be an object with a role and a content", i);
        if (!right || !flatten(message, i, refusal)) {
            json_decref(copy);
            return NULL;
        }
    }
    return copy;
}

static bool prompts(const struct kvasir_model *model, const struct body *body, struct prompts *out,
                    struct refusal *refusal)
{
    json_t *messages = read_messages(body->messages, refusal);
    if (!messages) return false;
    char *text = json_dumps(messages, JSON_COMPACT);
    json_decref(messages);
    if (!text) return refuse(refusal, 503, "", "there is no memory for the messages now: try again later");
    struct kvasir_error error;
    struct kvasir_chat chat = {.messages = text};
    int status = kvasir_chat_tokenize(model, &chat, &out->items[0].ids, &out->items[0].count, &error);
    free(text); /* jansson's */
    if (status != KVASIR_OK) return refuse_library(refusal, "messages", &error);
    out->count = 1;
    return true;
}

/* ---- answers ------------------------------------------------------------------------------------------------------- */

/* "token":…,"logprob":…,"bytes":[…] */
static void token_inside(const struct kvasir_model *model, uint32_t id, float value, struct buffer *out)
{
    struct buffer spelling;
    buffer_init(&spelling, 0);
    json_token_bytes(model, id, &spelling);
    buffer_text(out, "\"token\":");
    json_out_text(out, spelling.data, spelling.length);
    buffer_text(out, ",\"logprob\":");
    json_out_real(out, value);
    buffer_text(out, ",\"bytes\":[");
    for (size_t i = 0; i < spelling.length; i++)
        buffer_printf(out, "%s%u", i ? "," : "", (unsigned)(unsigned char)spelling.data[i]);
    buffer_text(out, "]");
    out->failed |= spelling.failed;
    buffer_release(&spelling);
}

static void logprob(const struct kvasir_model *model, uint32_t alternatives, const struct kvasir_token *token,
                    struct choice *choice)
{
    struct buffer *out = &choice->logprobs.tokens;
    buffer_text(out, out->length ? ",{" : "{");
    token_inside(model, token->id, token->logprob, out);
    buffer_text(out, ",\"top_logprobs\":[");
    for (uint32_t i = 0; i < token->top_count && i < alternatives; i++) {
        buffer_text(out, i ? ",{" : "{");
        token_inside(model, token->top[i].id, token->top[i].logprob, out);
        buffer_text(out, "}");
    }
    buffer_text(out, "]}");
}

static void logprobs_inside(const struct choice *choice, struct buffer *out)
{
    const struct buffer *tokens = &choice->logprobs.tokens;
    if (!tokens->length) {
        buffer_text(out, ",\"logprobs\":null");
        return;
    }
    buffer_text(out, ",\"logprobs\":{\"content\":[");
    buffer_append(out, tokens->data, tokens->length);
    buffer_text(out, "],\"refusal\":null}");
}

static void whole(const struct choice *choice, struct buffer *out)
{
    buffer_text(out, "\"message\":{\"role\":\"assistant\",\"content\":");
    json_out_text(out, choice->text.data, choice->text.length);
    buffer_text(out, ",\"refusal\":null}");
    logprobs_inside(choice, out);
}

static void delta(const struct choice *choice, struct buffer *out)
{
    buffer_text(out, "\"delta\":{");
    if (choice->text.length) {
        buffer_text(out, "\"content\":");
        json_out_text(out, choice->text.data, choice->text.length);
    }
    buffer_text(out, "}");
    logprobs_inside(choice, out);
}

const struct api CHAT = {.path = "/v1/chat/completions",
                         .bit = API_CHAT,
                         .id_prefix = "chatcmpl",
                         .object = "chat.completion",
                         .chunk_object = "chat.completion.chunk",
                         .opening = "\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"logprobs\":null",
                         .closing = "\"delta\":{},\"logprobs\":null",
                         .prompts = prompts,
                         .whole = whole,
                         .delta = delta,
                         .logprob = logprob};
