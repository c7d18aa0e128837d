/* calls.c - JSON values between marks, as models write calls of tools: one, or several apart. */
#include "grammar/schema.h"

#define CALLS_MAX 128u

static struct fragment mark(struct builder *builder, const json_t *marks, const char *key)
{
    const json_t *text = json_object_get(marks, key);
    return build_text(builder, json_string_length(text) ? json_string_value(text) : "", json_string_length(text));
}

/* open value close */
static struct fragment marked(struct builder *builder, const json_t *marks, uint32_t value)
{
    struct fragment begin = build_then(builder, mark(builder, marks, "open"), build_call(builder, value));
    return build_then(builder, begin, mark(builder, marks, "close"));
}

static struct fragment build_marked(struct builder *builder, const json_t *marks)
{
    const json_t *given = json_object_get(marks, "most");
    const json_int_t most = json_is_integer(given) ? json_integer_value(given) : CALLS_MAX;
    json_t *schema = json_object_get(marks, "schema");
    if (!schema || most < 1 || most > CALLS_MAX) {
        build_fail(builder, ST_INVALID, "there have to be a \"schema\", and a \"most\" of 1 to %u", CALLS_MAX);
        return build_nothing(builder);
    }
    const uint32_t value = build_rule(builder, "a call", 6);
    build_define(builder, value, schema_build_json(builder, schema));
    struct fragment more = build_then(builder, mark(builder, marks, "between"), marked(builder, marks, value));
    struct fragment several =
        build_then(builder, marked(builder, marks, value), build_repeat(builder, more, 0, (uint32_t)most - 1));
    if (!json_string_length(json_object_get(marks, "open"))) return several;
    return build_either(builder, build_call(builder, value), several);
}

struct fragment calls_build(struct builder *builder, const char *text, size_t bytes)
{
    json_error_t error;
    json_t *marks = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &error);
    struct fragment out = {0};
    if (marks)
        out = build_marked(builder, marks);
    else
        build_fail(builder, ST_INVALID, "no valid JSON: line %d, column %d: %s", error.line, error.column, error.text);
    json_decref(marks);
    return out;
}
