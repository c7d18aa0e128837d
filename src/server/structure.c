/* structure.c - the fields that say what an answer has to be: OpenAI's response_format, vLLM's structured_outputs and what that was
 * called before, guided_…. One of them at most. Whether the engine can do it is asked when there is a model (structure_check). */
#include "server/structure.h"
#include "server/field.h"
#include "server/tools.h"
#include <stdlib.h>
#include <string.h>

/* A JSON value as text, or, where `plain`, a string's own characters. */
static bool set(struct body *body, const char *name, enum kvasir_structure kind, const json_t *value, bool plain,
                struct refusal *refusal)
{
    if (body->structure_field)
        return refuse(refusal, 400, name, "an answer cannot have both %s and %s", body->structure_field, name);
    body->structure_field = name;
    body->request.structure = kind;
    if (!value) return true;
    if (plain) {
        if (!json_is_string(value)) return refuse(refusal, 400, name, "%s must be a string", name);
        body->request.structure_text = json_string_value(value);
        body->request.structure_bytes = json_string_length(value);
        return true;
    }
    body->structure_text = json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY);
    if (!body->structure_text) return refuse_no_memory(refusal, "request");
    body->request.structure_text = body->structure_text;
    body->request.structure_bytes = strlen(body->structure_text);
    return true;
}

/* A schema is an object, true or false, or such a thing written in a string. */
static bool set_schema(struct body *body, const char *name, const json_t *schema, struct refusal *refusal)
{
    if (!json_is_object(schema) && !json_is_boolean(schema) && !json_is_string(schema))
        return refuse(refusal, 400, name, "%s: the schema must be an object", name);
    return set(body, name, KVASIR_JSON_SCHEMA, schema, json_is_string(schema), refusal);
}

/* {"type": "text" | "json_object" | "json_schema"}; `inside` has the schema, where the type wants one. */
static bool read_format(const char *name, const json_t *format, const json_t *inside, struct body *body,
                        struct refusal *refusal)
{
    const char *type = json_string_value(json_object_get(format, "type"));
    if (!type) return refuse(refusal, 400, name, "%s must be an object with a type", name);
    if (strcmp(type, "text") == 0) return true;
    if (strcmp(type, "json_object") == 0) return set(body, name, KVASIR_JSON_OBJECT, NULL, false, refusal);
    if (strcmp(type, "json_schema") != 0)
        return refuse(refusal, 400, name,
                      "%s: the type '%.40s' is not supported: text, json_object and json_schema are", name, type);
    return set_schema(body, name, json_object_get(inside, "schema"), refusal);
}

static bool read_response_format(const struct field *field, const json_t *value, struct body *body,
                                 struct refusal *refusal)
{
    return read_format(field->name, value, json_object_get(value, "json_schema"), body, refusal);
}

/* {"format": …}, of responses. */
static bool read_response_text(const struct field *field, const json_t *value, struct body *body,
                               struct refusal *refusal)
{
    const json_t *format = json_object_get(value, "format");
    if (!json_is_object(value)) return refuse(refusal, 400, field->name, "%s must be an object", field->name);
    return !format || json_is_null(format) || read_format(field->name, format, format, body, refusal);
}

static bool set_choice(struct body *body, const char *name, const json_t *value, struct refusal *refusal)
{
    if (!json_is_array(value)) return refuse(refusal, 400, name, "%s must be an array of strings", name);
    return set(body, name, KVASIR_CHOICE, value, false, refusal);
}

/* {"json": …} and so on. Of what only directs vLLM's own compilers nothing is refused. */
static bool read_structured(const struct field *field, const json_t *value, struct body *body, struct refusal *refusal)
{
    static const char *const ignored[] = {"disable_any_whitespace", "disable_additional_properties", "disable_fallback",
                                          "whitespace_pattern", "_backend"};
    const char *key;
    json_t *item;
    if (!json_is_object(value)) return refuse(refusal, 400, field->name, "%s must be an object", field->name);
    json_object_foreach((json_t *)(uintptr_t)value, key, item)
    {
        bool known = json_is_null(item), good = true;
        for (size_t i = 0; i < ARRAY_COUNT(ignored); i++) known |= strcmp(key, ignored[i]) == 0;
        if (known) continue;
        if (strcmp(key, "json") == 0)
            good = set_schema(body, field->name, item, refusal);
        else if (strcmp(key, "regex") == 0)
            good = set(body, field->name, KVASIR_REGEX, item, true, refusal);
        else if (strcmp(key, "choice") == 0)
            good = set_choice(body, field->name, item, refusal);
        else if (strcmp(key, "grammar") == 0)
            good = set(body, field->name, KVASIR_GRAMMAR, item, true, refusal);
        else if (strcmp(key, "json_object") == 0)
            good = !json_is_true(item) || set(body, field->name, KVASIR_JSON_OBJECT, NULL, false, refusal);
        else
            good = refuse(refusal, 400, field->name, "%s: %.40s is not supported", field->name, key);
        if (!good) return false;
    }
    return true;
}

static bool read_guided_json(const struct field *field, const json_t *value, struct body *body, struct refusal *refusal)
{
    return set_schema(body, field->name, value, refusal);
}

static bool read_guided_regex(const struct field *field, const json_t *value, struct body *body,
                              struct refusal *refusal)
{
    return set(body, field->name, KVASIR_REGEX, value, true, refusal);
}

static bool read_guided_choice(const struct field *field, const json_t *value, struct body *body,
                               struct refusal *refusal)
{
    return set_choice(body, field->name, value, refusal);
}

static bool read_guided_grammar(const struct field *field, const json_t *value, struct body *body,
                                struct refusal *refusal)
{
    return set(body, field->name, KVASIR_GRAMMAR, value, true, refusal);
}

bool structure_allow_calls(struct body *body, const struct tool_format *format, struct refusal *refusal)
{
    struct kvasir_request *request = &body->request;
    bool demanded = body->tool_choice == TOOL_CHOICE_REQUIRED || body->tool_choice == TOOL_CHOICE_NAMED;
    bool schema = request->structure == KVASIR_JSON_SCHEMA, object = request->structure == KVASIR_JSON_OBJECT;
    if (!demanded && !body->structure_field) return true;
    if (body->structure_field && !schema && !object)
        return refuse(refusal, 400, body->structure_field, "an answer cannot both call tools and satisfy this %s",
                      body->structure_field);
    json_t *answer = NULL;
    if (!demanded && object) answer = json_pack("{s:s}", "type", "object");
    if (!demanded && schema)
        answer = json_loadb(request->structure_text, request->structure_bytes, JSON_DECODE_ANY, NULL);
    if (!demanded && !answer) return true; /* no JSON: structure_check says so */
    const bool one = body->one_call || body->tool_choice == TOOL_CHOICE_NAMED;
    char *text = demanded ? tools_calls(body->tools, body->tool_name, format, one ? 1 : CALLS_MAX)
                          : tools_schema(body->tools, body->tool_name, format, answer);
    json_decref(answer);
    if (!text) return refuse_no_memory(refusal, "request");
    structure_release(body);
    body->structure_text = text;
    if (demanded) body->structure_field = "tools";
    request->structure = demanded ? KVASIR_JSON_CALLS : KVASIR_JSON_SCHEMA;
    request->structure_text = text;
    request->structure_bytes = strlen(text);
    return true;
}

bool structure_check(struct kvasir_model *model, const struct body *body, struct refusal *refusal)
{
    struct kvasir_error error;
    const struct kvasir_request *request = &body->request;
    if (kvasir_structure_check(model, request->structure, request->structure_text, request->structure_bytes, &error) ==
        KVASIR_OK)
        return true;
    refuse_library(refusal, body->structure_field, &error);
    refusal->code = NULL; /* no context was exceeded */
    return false;
}

void structure_release(struct body *body)
{
    free(body->structure_text); /* jansson's */
    body->structure_text = NULL;
}

#define FORMAT_TYPE "\"type\":{\"enum\":[\"text\",\"json_object\",\"json_schema\"]}"
#define FORMAT_SCHEMA \
    "\"name\":{\"type\":\"string\"},\"schema\":{\"type\":\"object\"},\"strict\":{\"type\":\"boolean\"}"

const struct field_kind FIELD_RESPONSE_FORMAT = {
    read_response_format,
    "\"type\":\"object\",\"required\":[\"type\"],\"properties\":{" FORMAT_TYPE
    ",\"json_schema\":{\"type\":\"object\",\"properties\":{" FORMAT_SCHEMA "}}}",
    false};
const struct field_kind FIELD_RESPONSE_TEXT = {read_response_text,
                                               "\"type\":\"object\",\"properties\":{\"format\":{\"type\":\"object\","
                                               "\"required\":[\"type\"],\"properties\":{" FORMAT_TYPE "," FORMAT_SCHEMA
                                               "}}}",
                                               false};
const struct field_kind FIELD_STRUCTURED_OUTPUTS = {
    read_structured,
    "\"type\":\"object\",\"properties\":{\"json\":{\"type\":\"object\"},\"json_object\":{\"type\":\"boolean\"},"
    "\"regex\":{\"type\":\"string\"},\"grammar\":{\"type\":\"string\"},\"choice\":{\"type\":\"array\",\"items\":{"
    "\"type\":\"string\"}}}",
    false};
const struct field_kind FIELD_GUIDED_JSON = {read_guided_json, "\"type\":\"object\"", false};
const struct field_kind FIELD_GUIDED_REGEX = {read_guided_regex, "\"type\":\"string\"", false};
const struct field_kind FIELD_GUIDED_GRAMMAR = {read_guided_grammar, "\"type\":\"string\"", false};
const struct field_kind FIELD_GUIDED_CHOICE = {read_guided_choice, "\"type\":\"array\",\"items\":{\"type\":\"string\"}",
                                               false};
