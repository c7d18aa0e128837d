/* response_input.c - what /v1/responses is asked, in the form of chats: items become messages, and flat tools those with a
 * "function" of their own. Knows no sockets and no model. */
#include "server/server_internal.h"
#include "server/tools.h"
#include <string.h>

static bool add(json_t *messages, json_t *message, struct refusal *refusal)
{
    return json_array_append_new(messages, message) == 0 || refuse_no_memory(refusal, "request");
}

/* A string stays one; parts, {"type": "input_text" | "output_text", "text"}, become those of chats. A new value, or NULL. */
static json_t *content_of(const json_t *content, size_t index, struct refusal *refusal)
{
    size_t i;
    json_t *part, *parts;
    if (json_is_string(content)) return json_copy((json_t *)(uintptr_t)content);
    parts = json_is_array(content) ? json_array() : NULL;
    if (!parts) {
        refuse(refusal, 400, "input", "input[%zu]: the content must be a string or an array of parts", index);
        return NULL;
    }
    json_array_foreach(content, i, part)
    {
        const char *type = json_string_value(json_object_get(part, "type"));
        json_t *text = json_object_get(part, "text");
        bool right = type && json_is_string(text) &&
                     (strcmp(type, "input_text") == 0 || strcmp(type, "output_text") == 0 || strcmp(type, "text") == 0);
        if (right && json_array_append_new(parts, json_pack("{s:s,s:O}", "type", "text", "text", text)) == 0) continue;
        if (right)
            refuse_no_memory(refusal, "request");
        else
            refuse(refusal, 400, "input",
                   "input[%zu], part %zu must be {\"type\":\"input_text\",\"text\":…}: others are not supported", index,
                   i);
        json_decref(parts);
        return NULL;
    }
    return parts;
}

static bool add_message(json_t *messages, const json_t *item, size_t index, struct refusal *refusal)
{
    const char *role = json_string_value(json_object_get(item, "role"));
    if (!role) return refuse(refusal, 400, "input", "input[%zu] must be an object with a role and a content", index);
    json_t *content = content_of(json_object_get(item, "content"), index, refusal);
    return content && add(messages, json_pack("{s:s,s:o}", "role", role, "content", content), refusal);
}

/* Calls of one answer are one message, as a chat has them; what the assistant said before them belongs to it. */
static bool add_call(json_t *messages, const json_t *item, size_t index, struct refusal *refusal)
{
    const char *id = json_string_value(json_object_get(item, "call_id"));
    const char *name = json_string_value(json_object_get(item, "name"));
    const char *arguments = json_string_value(json_object_get(item, "arguments"));
    if (!id || !name || !arguments)
        return refuse(refusal, 400, "input", "input[%zu] must have the strings call_id, name and arguments", index);
    json_t *last = json_array_get(messages, json_array_size(messages) - 1);
    const char *role = json_string_value(json_object_get(last, "role"));
    if (!role || strcmp(role, "assistant") != 0) {
        last = json_pack("{s:s,s:n}", "role", "assistant", "content");
        if (!add(messages, last, refusal)) return false;
    }
    json_t *calls = json_object_get(last, "tool_calls");
    if (!calls && json_object_set_new(last, "tool_calls", calls = json_array()) != 0)
        return refuse_no_memory(refusal, "request");
    json_t *call = json_pack("{s:s,s:s,s:{s:s,s:s}}", "id", id, "type", "function", "function", "name", name,
                             "arguments", arguments);
    return json_array_append_new(calls, call) == 0 || refuse_no_memory(refusal, "request");
}

static bool add_output(json_t *messages, const json_t *item, size_t index, struct refusal *refusal)
{
    const char *id = json_string_value(json_object_get(item, "call_id"));
    if (!id) return refuse(refusal, 400, "input", "input[%zu] must have the string call_id", index);
    json_t *content = content_of(json_object_get(item, "output"), index, refusal);
    return content &&
           add(messages, json_pack("{s:s,s:s,s:o}", "role", "tool", "tool_call_id", id, "content", content), refusal);
}

static bool add_item(json_t *messages, const json_t *item, size_t index, struct refusal *refusal)
{
    const char *type = json_string_value(json_object_get(item, "type"));
    if (!type || strcmp(type, "message") == 0) return add_message(messages, item, index, refusal);
    if (strcmp(type, "function_call") == 0) return add_call(messages, item, index, refusal);
    if (strcmp(type, "function_call_output") == 0) return add_output(messages, item, index, refusal);
    if (strcmp(type, "reasoning") == 0) return true; /* is not shown to the model again */
    return refuse(refusal, 400, "input", "input[%zu]: items of the type %.40s are not supported", index, type);
}

static bool convert_input(const struct body *body, json_t *messages, struct refusal *refusal)
{
    if (body->instructions &&
        !add(messages, json_pack("{s:s,s:s}", "role", "system", "content", body->instructions), refusal))
        return false;
    if (json_is_string(body->prompt))
        return add(messages, json_pack("{s:s,s:O}", "role", "user", "content", body->prompt), refusal);
    for (size_t i = 0; i < json_array_size(body->prompt); i++)
        if (!add_item(messages, json_array_get(body->prompt, i), i, refusal)) return false;
    return true;
}

static bool convert_tools(const json_t *flat, json_t *tools, struct refusal *refusal)
{
    for (size_t i = 0; i < json_array_size(flat); i++) {
        json_t *tool = json_array_get(flat, i), *type = json_object_get(tool, "type"), *copy = json_deep_copy(tool);
        json_object_del(copy, "type");
        if (json_array_append_new(tools, json_pack("{s:O*,s:o}", "type", type, "function", copy)) != 0)
            return refuse_no_memory(refusal, "request");
    }
    return tools_check(tools, refusal);
}

bool response_input_convert(struct body *body, struct refusal *refusal)
{
    json_t *messages = json_array(), *tools = json_array();
    body->converted = json_pack("{s:o,s:o}", "messages", messages, "tools", tools);
    if (!body->converted) return refuse_no_memory(refusal, "request");
    if (!convert_input(body, messages, refusal) || (body->tools && !convert_tools(body->tools, tools, refusal)))
        return false;
    body->messages = messages;
    if (body->tools) body->tools = tools;
    return true;
}
