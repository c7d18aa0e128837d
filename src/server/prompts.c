/* prompts.c - what a model reads: texts and token ids as they are, messages by its chat template. */
#include "server/reply.h"
#include <stdlib.h>
#include <string.h>

static bool make_room(struct prompts *out, size_t count, struct refusal *refusal)
{
    out->items = mem_zero(count, sizeof *out->items);
    return out->items || refuse_no_memory(refusal, "prompt");
}

void prompts_release(struct prompts *prompts)
{
    for (uint32_t i = 0; i < prompts->count; i++) kvasir_free(prompts->items[i].ids);
    mem_free(prompts->items);
    *prompts = (struct prompts){0};
}

/* ---- texts and token ids ------------------------------------------------------------------------------------------- */

static bool add_text(const struct kvasir_model *model, const char *name, const json_t *text, unsigned flags,
                     struct prompts *out, struct refusal *refusal)
{
    struct kvasir_error error;
    struct prompt *prompt = &out->items[out->count];
    if (kvasir_tokenize(model, json_string_value(text), json_string_length(text), flags, &prompt->ids, &prompt->count,
                        &error) != KVASIR_OK)
        return refuse_library(refusal, name, &error);
    prompt->text = text;
    out->count++;
    return true;
}

static bool add_ids(const char *name, const json_t *array, struct prompts *out, struct refusal *refusal)
{
    size_t count = json_array_size(array);
    uint32_t *ids = mem_alloc(count * sizeof *ids);
    if (!ids) return refuse_no_memory(refusal, "prompt");
    out->items[out->count++] = (struct prompt){.ids = ids, .count = count};
    for (size_t i = 0; i < count; i++) {
        const json_t *item = json_array_get(array, i);
        json_int_t id = json_integer_value(item);
        if (!json_is_integer(item) || id < 0 || id > UINT32_MAX)
            return refuse(refusal, 400, name, "%s: item %zu is no token id", name, i);
        ids[i] = (uint32_t)id;
    }
    return true;
}

void prompts_truncate(const struct body *body, struct prompts *prompts)
{
    for (uint32_t i = 0; i < prompts->count && body->truncate_prompt_tokens; i++) {
        struct prompt *prompt = &prompts->items[i];
        size_t most = body->truncate_prompt_tokens;
        if (prompt->count <= most) continue;
        memmove(prompt->ids, prompt->ids + prompt->count - most, most * sizeof *prompt->ids);
        prompt->count = most;
        prompt->text = NULL;
    }
}

bool prompts_read(const struct server *server, const struct body *body, const char *name, uint32_t high,
                  struct prompts *out, struct refusal *refusal)
{
    const json_t *value = body->prompt;
    unsigned flags = KVASIR_PARSE_SPECIAL | (body->add_special_tokens ? KVASIR_ADD_SPECIAL : 0);
    const json_t *first = json_array_get(value, 0);
    bool single = json_is_string(value) || json_is_integer(first);
    size_t count = single ? 1 : json_array_size(value);
    if (!single && !first)
        return refuse(refusal, 400, name, "%s must be a string, an array of token ids, or an array of either", name);
    if (count > high)
        return refuse(refusal, 400, name, "%s has %zu items: at most %u in one request", name, count, high);
    if (!make_room(out, count, refusal)) return false;
    for (size_t i = 0; i < count; i++) {
        const json_t *item = single ? value : json_array_get(value, i);
        if (json_is_string(item) ? !add_text(server->model, name, item, flags, out, refusal)
            : json_is_array(item)
                ? !add_ids(name, item, out, refusal)
                : !refuse(refusal, 400, name, "%s: item %zu is neither a string nor an array of token ids", name, i))
            return false;
    }
    return true;
}

/* ---- messages -------------------------------------------------------------------------------------------------------- */

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
    return done || refuse_no_memory(refusal, "prompt");
}

/* Calls that the assistant made: templates want the arguments as an object, clients send its text. */
static bool unpack_calls(json_t *message, size_t index, struct refusal *refusal)
{
    json_t *calls = json_object_get(message, "tool_calls"), *call;
    size_t i;
    if (!calls || json_is_null(calls)) return true;
    if (!json_is_array(calls))
        return refuse(refusal, 400, "messages", "messages[%zu].tool_calls must be an array", index);
    json_array_foreach(calls, i, call)
    {
        json_t *function = json_object_get(call, "function"), *arguments = json_object_get(function, "arguments");
        if (!json_is_string(json_object_get(function, "name")) || (arguments && !json_is_string(arguments)))
            return refuse(
                refusal, 400, "messages",
                "messages[%zu].tool_calls[%zu] must be "
                "{\"id\",\"type\":\"function\",\"function\":{\"name\",\"arguments\"}}, the arguments a string",
                index, i);
        json_t *object = json_loadb(json_string_value(arguments), json_string_length(arguments), 0, NULL);
        if (json_is_object(object)) json_object_set(function, "arguments", object);
        json_decref(object);
    }
    return true;
}

static bool read_message(json_t *message, size_t index, struct refusal *refusal)
{
    const char *role = json_string_value(json_object_get(message, "role"));
    const json_t *content = json_object_get(message, "content");
    if (!role || (!json_is_string(content) && !json_is_array(content) && strcmp(role, "assistant") != 0))
        return refuse(refusal, 400, "messages", "messages[%zu] must be an object with a role and a content", index);
    /* OpenAI's newer name; templates know the older one. */
    if (strcmp(role, "developer") == 0 && json_object_set_new(message, "role", json_string("system")) != 0)
        return refuse_no_memory(refusal, "prompt");
    return flatten(message, index, refusal) && unpack_calls(message, index, refusal);
}

/* A copy as templates want it. */
static json_t *read_messages(const json_t *messages, struct refusal *refusal)
{
    json_t *copy = json_deep_copy(messages), *message;
    size_t i;
    if (!copy) refuse_no_memory(refusal, "prompt");
    json_array_foreach(copy, i, message)
    {
        if (read_message(message, i, refusal)) continue;
        json_decref(copy);
        return NULL;
    }
    return copy;
}

/* Values that the request may not set: they are its own fields. */
static bool check_values(const json_t *values, struct refusal *refusal)
{
    static const char *const FIELDS[] = {"messages", "tools", "add_generation_prompt"};
    for (size_t i = 0; i < ARRAY_COUNT(FIELDS); i++)
        if (json_object_get(values, FIELDS[i]))
            return refuse(refusal, 400, "chat_template_kwargs", "chat_template_kwargs: %s is a field of the request",
                          FIELDS[i]);
    return true;
}

bool prompts_render(const struct server *server, const struct body *body, struct prompts *out, struct refusal *refusal)
{
    if (body->chat_template && !server->config.trust_chat_template)
        return refuse(
            refusal, 400, "chat_template",
            "chat_template is not allowed here: the server was started without --trust-request-chat-template");
    if (!check_values(body->template_values, refusal) || !make_room(out, 1, refusal)) return false;
    json_t *messages = read_messages(body->messages, refusal);
    if (!messages) return false;
    char *text = json_dumps(messages, JSON_COMPACT),
         *tools = body->tools ? json_dumps(body->tools, JSON_COMPACT) : NULL;
    char *values = body->template_values ? json_dumps(body->template_values, JSON_COMPACT) : NULL;
    json_decref(messages);
    struct kvasir_error error;
    const struct kvasir_chat chat = {.messages = text,
                                     .tools = tools,
                                     .values = values,
                                     .template_source = body->chat_template,
                                     .no_generation_prompt = !body->add_generation_prompt,
                                     .continue_final_message = body->continue_final_message};
    bool done =
        (text && (tools || !body->tools) && (values || !body->template_values)) || refuse_no_memory(refusal, "prompt");
    if (done &&
        kvasir_chat_tokenize(server->model, &chat, &out->items[0].ids, &out->items[0].count, &error) != KVASIR_OK)
        done = refuse_library(refusal, body->chat_template ? "chat_template" : "messages", &error);
    free(text); /* jansson's */
    free(tools);
    free(values);
    if (done) out->count = 1;
    return done;
}
