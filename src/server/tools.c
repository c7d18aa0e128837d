/* tools.c - what a request says of the functions that the model may call. */
#include "server/tools.h"
#include "server/server_internal.h"
#include <stdio.h>
#include <string.h>

#define NAME_BYTES_MAX 64

static bool name_is_right(const char *name)
{
    size_t bytes = 0;
    for (; name[bytes]; bytes++) {
        char c = name[bytes];
        bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
        if (!letter && c != '_' && c != '-' && c != '.') return false;
    }
    return bytes >= 1 && bytes <= NAME_BYTES_MAX;
}

static const char *tool_name(const json_t *tool)
{
    return json_string_value(json_object_get(json_object_get(tool, "function"), "name"));
}

bool tools_check(const json_t *tools, struct refusal *refusal)
{
    size_t count = json_array_size(tools);
    if (!json_is_array(tools) || count > TOOLS_MAX)
        return refuse(refusal, 400, "tools", "tools must be an array of at most %u functions", TOOLS_MAX);
    for (size_t i = 0; i < count; i++) {
        const json_t *tool = json_array_get(tools, i), *function = json_object_get(tool, "function");
        const json_t *parameters = json_object_get(function, "parameters");
        const char *type = json_string_value(json_object_get(tool, "type")), *name = tool_name(tool);
        if (!type || strcmp(type, "function") != 0 || !name)
            return refuse(
                refusal, 400, "tools",
                "tools[%zu] must be {\"type\":\"function\",\"function\":{\"name\":…}}: others are not supported", i);
        if (!name_is_right(name))
            return refuse(refusal, 400, "tools", "tools[%zu]: the name must be 1 to %d of a-z, A-Z, 0-9, _, - and .", i,
                          NAME_BYTES_MAX);
        if (parameters && !json_is_object(parameters) && !json_is_null(parameters))
            return refuse(refusal, 400, "tools", "tools[%zu]: parameters must be a JSON schema", i);
    }
    return true;
}

bool tools_have(const json_t *tools, const char *name)
{
    for (size_t i = 0; i < json_array_size(tools); i++) {
        const char *other = tool_name(json_array_get(tools, i));
        if (other && strcmp(name, other) == 0) return true;
    }
    return false;
}

/* ---- a schema of calls --------------------------------------------------------------------------------------------- */

/* A schema that was a whole document lies at `place` of another one: its references to itself go there. */
static bool move_references(json_t *schema, const char *place)
{
    const char *key;
    json_t *value;
    size_t i;
    json_array_foreach(schema, i, value) if (!move_references(value, place)) return false;
    json_object_foreach(schema, key, value)
    {
        const char *target = json_string_value(value);
        if (!target || strcmp(key, "$ref") != 0 || target[0] != '#') {
            if (!move_references(value, place)) return false;
        } else if (json_object_set_new(schema, key, json_sprintf("#%s%s", place, target + 1)) != 0) {
            return false;
        }
    }
    return true;
}

/* What its arguments have to be: an object, and without parameters an empty one. */
static json_t *parameters_of(const json_t *tool, const char *place)
{
    json_t *given = json_object_get(json_object_get(tool, "function"), "parameters");
    json_t *schema = json_is_object(given) ? json_deep_copy(given)
                                           : json_pack("{s:s,s:b}", "type", "object", "additionalProperties", 0);
    bool done = schema && move_references(schema, place) &&
                (json_object_get(schema, "type") || json_object_set_new(schema, "type", json_string("object")) == 0);
    if (done) return schema;
    json_decref(schema);
    return NULL;
}

/* Adds a schema at `key`, and to the ways an answer may be. */
static bool add_way(json_t *definitions, const char *key, json_t *schema, json_t *ways, json_t *way)
{
    bool done = schema && json_object_set(definitions, key, schema) == 0 && json_array_append(ways, way) == 0;
    json_decref(schema);
    json_decref(way);
    return done;
}

static bool add_call(json_t *definitions, json_t *ways, const json_t *tool, size_t index, const char *arguments)
{
    char key[32], place[64];
    snprintf(key, sizeof key, "tool%zu", index);
    snprintf(place, sizeof place, "/$defs/%s", key);
    json_t *call = json_pack("{s:s,s:{s:{s:s},s:{s:o}},s:[s,s],s:b}", "type", "object", "properties", "name", "const",
                             tool_name(tool), arguments, "$ref", json_sprintf("#%s", place), "required", "name",
                             arguments, "additionalProperties", 0);
    return add_way(definitions, key, parameters_of(tool, place), ways, call);
}

static bool add_answer(json_t *definitions, json_t *ways, const json_t *answer)
{
    json_t *schema = json_deep_copy(answer);
    bool done = schema && move_references(schema, "/$defs/answer");
    return add_way(definitions, "answer", schema, ways, json_pack("{s:s}", "$ref", "#/$defs/answer")) && done;
}

static json_t *make_schema(const json_t *tools, const char *name, const struct tool_format *format,
                           const json_t *answer)
{
    json_t *ways = json_array(), *definitions = json_object();
    bool done = ways && definitions && (!answer || add_answer(definitions, ways, answer));
    for (size_t i = 0; done && i < json_array_size(tools); i++) {
        const json_t *tool = json_array_get(tools, i);
        if (!name || strcmp(tool_name(tool), name) == 0)
            done = add_call(definitions, ways, tool, i, tool_format_arguments(format));
    }
    json_t *schema = done ? json_pack("{s:O,s:O}", "anyOf", ways, "$defs", definitions) : NULL;
    json_decref(ways);
    json_decref(definitions);
    return schema;
}

/* The text of `json`, which is released. */
static char *text_of(json_t *json)
{
    char *text = json ? json_dumps(json, JSON_COMPACT) : NULL;
    json_decref(json);
    return text;
}

char *tools_schema(const json_t *tools, const char *name, const struct tool_format *format, const json_t *answer)
{
    return text_of(make_schema(tools, name, format, answer));
}

char *tools_calls(const json_t *tools, const char *name, const struct tool_format *format, unsigned most)
{
    const struct tool_marks *marks = tool_format_marks(format);
    json_t *schema = make_schema(tools, name, format, NULL);
    if (!schema) return NULL;
    return text_of(json_pack("{s:o,s:s,s:s,s:s,s:i}", "schema", schema, "open", marks->open, "close", marks->close,
                             "between", marks->between, "most", (int)most));
}
