/* schema.c - JSON Schema (draft 2020-12) to fragments: which keywords there are, references, alternatives, types.
 *
 * What is generated always satisfies the schema; not everything that satisfies it is generated. Where a schema leaves a choice of form
 * one is taken: properties come in the order of the schema, those that it does not name only where it says so
 * (additionalProperties), strings without needless escapes where a pattern or name tells them apart, numbers of bounded
 * length, and between brackets a space, or a line's end and an indent. A keyword of JSON Schema that is not supported is refused by
 * name; others are comments, as it says itself (draft 2020-12, core, section 4.3.1). */
#include "grammar/schema.h"
#include <stdio.h>
#include <string.h>
#include <strings.h>

#define MEMO_SIZE (2 * RULES_MAX)
#define NOT_MADE RULES_MAX

/* ---- errors --------------------------------------------------------------------------------------------------------------- */

static void path_write(const struct path *path, struct buffer *out)
{
    if (!path) {
        buffer_text(out, "#");
        return;
    }
    path_write(path->up, out);
    if (path->key)
        buffer_printf(out, "/%.60s", path->key);
    else
        buffer_printf(out, "/%zu", path->index);
}

struct fragment schema_fail(struct schema *s, const struct path *path, enum status status, const char *format, ...)
{
    char text[300];
    struct buffer where;
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    buffer_init(&where, 180); /* a longer path is left out */
    path_write(path, &where);
    build_fail(s->builder, status, "at %s: %s", where.failed || !where.data ? "a place deep inside" : where.data, text);
    buffer_release(&where);
    return build_nothing(s->builder);
}

/* ---- keywords ------------------------------------------------------------------------------------------------------------- */

enum { OBJECT = 1, ARRAY = 2, STRING = 4, NUMBER = 8, INTEGER = 16, BOOLEAN = 32, NIL = 64, ANY = 127 };

/* What the schema's types are where it does not say: those that its keywords are about. */
static const struct {
    const char *name;
    unsigned types;
} KEYWORDS[] = {
    {"type", 0},
    {"enum", 0},
    {"const", 0},
    {"$ref", 0},
    {"allOf", 0},
    {"anyOf", 0},
    {"oneOf", 0},
    {"nullable", 0},
    {"properties", OBJECT},
    {"required", OBJECT},
    {"additionalProperties", OBJECT},
    {"unevaluatedProperties", OBJECT},
    {"patternProperties", OBJECT},
    {"propertyNames", OBJECT},
    {"minProperties", OBJECT},
    {"maxProperties", OBJECT},
    {"items", ARRAY},
    {"prefixItems", ARRAY},
    {"additionalItems", ARRAY},
    {"unevaluatedItems", ARRAY},
    {"minItems", ARRAY},
    {"maxItems", ARRAY},
    {"uniqueItems", ARRAY},
    {"minLength", STRING},
    {"maxLength", STRING},
    {"pattern", STRING},
    {"format", STRING},
    {"minimum", NUMBER},
    {"maximum", NUMBER},
    {"exclusiveMinimum", NUMBER},
    {"exclusiveMaximum", NUMBER},
    {"multipleOf", NUMBER},
};

static const struct {
    const char *name;
    unsigned type;
} TYPES[] = {{"object", OBJECT},   {"array", ARRAY},     {"string", STRING}, {"number", NUMBER},
             {"integer", INTEGER}, {"boolean", BOOLEAN}, {"null", NIL}};

/* What JSON Schema's drafts have beside those, and an automaton cannot hold. */
static const char *const UNSUPPORTED[] = {"not",
                                          "if",
                                          "then",
                                          "else",
                                          "contains",
                                          "minContains",
                                          "maxContains",
                                          "dependentRequired",
                                          "dependentSchemas",
                                          "dependencies",
                                          "$dynamicRef",
                                          "$recursiveRef",
                                          "disallow",
                                          "extends",
                                          "divisibleBy"};

static const unsigned *keyword_types(const char *name)
{
    for (size_t i = 0; i < ARRAY_COUNT(KEYWORDS); i++)
        if (strcmp(KEYWORDS[i].name, name) == 0) return &KEYWORDS[i].types;
    return NULL;
}

/* One of them, or another with its letters' case mistaken. */
static bool is_unsupported(const char *name)
{
    for (size_t i = 0; i < ARRAY_COUNT(KEYWORDS); i++)
        if (strcasecmp(KEYWORDS[i].name, name) == 0 && strcmp(KEYWORDS[i].name, name) != 0) return true;
    for (size_t i = 0; i < ARRAY_COUNT(UNSUPPORTED); i++)
        if (strcmp(UNSUPPORTED[i], name) == 0) return true;
    return false;
}

bool schema_is_annotation(const char *keyword)
{
    return !keyword_types(keyword) && !is_unsupported(keyword);
}

/* Refuses keywords that are not supported. The types that the others are about. */
static unsigned check_keywords(struct schema *s, const json_t *json, const struct path *path)
{
    const char *name;
    json_t *value;
    unsigned types = 0;
    json_object_foreach((json_t *)(uintptr_t)json, name, value)
    {
        const unsigned *about = keyword_types(name);
        if (about) types |= *about;
        if (is_unsupported(name)) schema_fail(s, path, ST_UNSUPPORTED, "the keyword '%.60s' is not supported", name);
    }
    return types;
}

static unsigned type_by_name(struct schema *s, const json_t *name, const struct path *path)
{
    const char *text = json_string_value(name);
    for (size_t i = 0; text && i < ARRAY_COUNT(TYPES); i++)
        if (strcmp(TYPES[i].name, text) == 0) return TYPES[i].type;
    schema_fail(s, path, ST_INVALID, "type: there is no type '%.60s'", text ? text : "(no string)");
    return 0;
}

static unsigned types_of(struct schema *s, const json_t *json, unsigned about, const struct path *path)
{
    const json_t *type = json_object_get(json, "type");
    unsigned types = 0;
    if (json_is_array(type)) {
        for (size_t i = 0; i < json_array_size(type); i++) types |= type_by_name(s, json_array_get(type, i), path);
    } else {
        types = type ? type_by_name(s, type, path) : about ? about : ANY;
    }
    if (types & NUMBER) types &= ~(unsigned)INTEGER;
    if (json_is_true(json_object_get(json, "nullable"))) types |= NIL;
    return types;
}

uint32_t schema_count(struct schema *s, const json_t *json, const char *keyword, uint32_t missing,
                      const struct path *path)
{
    const json_t *value = json_object_get(json, keyword);
    double number = json_number_value(value);
    if (!value) return missing;
    if (!json_is_number(value) || !(number >= 0) || number != (double)(uint64_t)(number < 1e18 ? number : 1e18)) {
        schema_fail(s, path, ST_INVALID, "%s must be a whole number, 0 or more", keyword);
        return missing;
    }
    return number < REPEAT_MAX ? (uint32_t)number : REPEAT_MAX;
}

/* ---- what many schemas share ------------------------------------------------------------------------------------------------ */

struct fragment schema_text(struct schema *s, const char *text)
{
    return build_text(s->builder, text, strlen(text));
}

/* Calls the rule; true: it is new, and to be defined. */
static bool shared_rule(struct schema *s, uint32_t *rule, const char *name)
{
    bool fresh = *rule == NOT_MADE;
    if (fresh) *rule = build_rule(s->builder, name, strlen(name));
    return fresh && s->builder->status == ST_OK;
}

#define INDENT_SPACES_MAX 32u
#define INDENT_TABS_MAX 8u

struct fragment schema_space(struct schema *s)
{
    if (shared_rule(s, &s->space, "white space")) {
        struct fragment indent =
            build_either(s->builder, build_repeat(s->builder, schema_text(s, " "), 0, INDENT_SPACES_MAX),
                         build_repeat(s->builder, schema_text(s, "\t"), 1, INDENT_TABS_MAX));
        struct fragment line = build_then(s->builder, schema_text(s, "\n"), indent);
        build_define(s->builder, s->space,
                     build_optional(s->builder, build_either(s->builder, schema_text(s, " "), line)));
    }
    return build_call(s->builder, s->space);
}

static struct fragment shared_value(struct schema *s, uint32_t *rule, const char *name,
                                    struct fragment (*make)(struct schema *s))
{
    if (shared_rule(s, rule, name)) {
        struct fragment made = make(s);
        build_define(s->builder, *rule, made);
    }
    return build_call(s->builder, *rule);
}

static struct fragment plain_string(struct schema *s)
{
    return schema_string(s, NULL, NULL);
}

static struct fragment plain_number(struct schema *s)
{
    return schema_number(s, NULL, false, NULL);
}

static struct fragment plain_integer(struct schema *s)
{
    return schema_number(s, NULL, true, NULL);
}

static struct fragment plain_object(struct schema *s)
{
    return schema_object(s, NULL, NULL);
}

static struct fragment plain_array(struct schema *s)
{
    return schema_array(s, NULL, NULL);
}

struct fragment schema_free_string(struct schema *s)
{
    return shared_value(s, &s->string, "a string", plain_string);
}

/* One of the types, as far as keywords say nothing of it. */
static struct fragment plain_type(struct schema *s, unsigned type)
{
    switch (type) {
    case OBJECT:
        return shared_value(s, &s->object, "an object", plain_object);
    case ARRAY:
        return shared_value(s, &s->array, "an array", plain_array);
    case STRING:
        return schema_free_string(s);
    case NUMBER:
        return shared_value(s, &s->number, "a number", plain_number);
    case INTEGER:
        return shared_value(s, &s->integer, "an integer", plain_integer);
    case BOOLEAN:
        return build_either(s->builder, schema_text(s, "true"), schema_text(s, "false"));
    default:
        return schema_text(s, "null");
    }
}

static struct fragment any_value(struct schema *s)
{
    struct fragment out = build_nothing(s->builder);
    for (size_t i = 0; i < ARRAY_COUNT(TYPES); i++)
        if (TYPES[i].type != INTEGER) out = build_either(s->builder, out, plain_type(s, TYPES[i].type));
    return out;
}

struct fragment schema_any(struct schema *s)
{
    return shared_value(s, &s->value, "a value", any_value);
}

/* ---- a schema --------------------------------------------------------------------------------------------------------------- */

static struct fragment typed(struct schema *s, const json_t *json, const struct path *path)
{
    unsigned about = check_keywords(s, json, path), types = types_of(s, json, about, path);
    struct fragment out = build_nothing(s->builder);
    if (!about && types == (ANY & ~(unsigned)INTEGER)) return schema_any(s);
    for (size_t i = 0; i < ARRAY_COUNT(TYPES) && s->builder->status == ST_OK; i++) {
        unsigned type = TYPES[i].type & types, wanted = type == INTEGER ? NUMBER : type;
        struct fragment one;
        if (!type) continue;
        if (!(about & wanted))
            one = plain_type(s, type);
        else if (type == OBJECT)
            one = schema_object(s, json, path);
        else if (type == ARRAY)
            one = schema_array(s, json, path);
        else if (type == STRING)
            one = schema_string(s, json, path);
        else
            one = schema_number(s, json, type == INTEGER, path);
        out = build_either(s->builder, out, one);
    }
    return out;
}

static bool has_type(const json_t *value, unsigned types)
{
    return (types & OBJECT && json_is_object(value)) || (types & ARRAY && json_is_array(value)) ||
           (types & STRING && json_is_string(value)) || (types & NUMBER && json_is_number(value)) ||
           (types & INTEGER && json_is_integer(value)) || (types & BOOLEAN && json_is_boolean(value)) ||
           (types & NIL && json_is_null(value));
}

/* enum and const: the values that both name and that are of the type. */
static struct fragment constants(struct schema *s, const json_t *json, const struct path *path)
{
    const json_t *list = json_object_get(json, "enum"), *constant = json_object_get(json, "const");
    unsigned types = json_object_get(json, "type") ? types_of(s, json, 0, path) : ANY;
    struct fragment out = build_nothing(s->builder);
    if (check_keywords(s, json, path))
        return schema_fail(s, path, ST_UNSUPPORTED,
                           "bounds beside enum or const are not supported: leave out what they "
                           "exclude");
    if (list && !json_is_array(list)) return schema_fail(s, path, ST_INVALID, "enum must be an array");
    size_t count = list ? json_array_size(list) : 1, texts = 0;
    struct text *strings = arena_alloc(&s->builder->arena, (count + 1) * sizeof *strings);
    if (!strings) return schema_fail(s, path, ST_NOMEM, "not enough memory for a grammar");
    for (size_t i = 0; i < count && s->builder->status == ST_OK; i++) {
        const json_t *value = list ? json_array_get(list, i) : constant;
        if (list && constant && !json_equal(value, constant)) continue;
        if (!has_type(value, types)) continue;
        if (json_is_string(value)) {
            strings[texts].bytes = json_string_value(value);
            strings[texts++].count = json_string_length(value);
        } else {
            out = build_either(s->builder, out, schema_constant(s, value, path));
        }
    }
    for (size_t i = 0; i < texts; i++) { /* a trie of all of them */
        struct buffer spelled;
        buffer_init(&spelled, 0);
        json_spell(strings[i].bytes, strings[i].count, &spelled);
        strings[i].count = spelled.length;
        strings[i].bytes = arena_strndup(&s->builder->arena, spelled.data ? spelled.data : "", spelled.length);
        if (spelled.failed || !strings[i].bytes) schema_fail(s, path, ST_NOMEM, "not enough memory for a grammar");
        buffer_release(&spelled);
    }
    if (!texts || s->builder->status != ST_OK) return out;
    struct fragment quoted = build_then(s->builder, schema_text(s, "\""), build_choice(s->builder, strings, texts));
    return build_either(s->builder, out, build_then(s->builder, quoted, schema_text(s, "\"")));
}

/* Whether some value may match two of them, and which. */
static bool may_overlap(struct schema *s, const json_t *branches, const struct path *path, size_t *one, size_t *other)
{
    size_t count = json_array_size(branches);
    for (*one = 0; *one < count && s->builder->status == ST_OK; ++*one)
        for (*other = 0; *other < count && s->builder->status == ST_OK; ++*other)
            if (*one != *other &&
                schema_may_overlap(s, json_array_get(branches, *one), json_array_get(branches, *other), path))
                return true;
    return false;
}

/* One branch must match and no other: branches that exclude each other. A constant property that tells them apart is made a required one
 * where it is not, as Pydantic's tags that have a default. */
static const json_t *exclusive(struct schema *s, const json_t *list, const struct path *path)
{
    size_t one, other, i, j;
    if (!may_overlap(s, list, path, &one, &other)) return list;
    const json_t *tagged = schema_require_tag(s, list, path);
    if (tagged && !may_overlap(s, tagged, path, &i, &j)) return tagged;
    schema_fail(s, path, ST_UNSUPPORTED,
                "oneOf: its branches %zu and %zu may both match, which an automaton cannot exclude: use "
                "anyOf, or a required constant property that tells them apart",
                one, other);
    return list;
}

static struct fragment branches(struct schema *s, const json_t *json, const char *keyword, const struct path *path)
{
    const struct path at = {path, keyword, 0};
    const json_t *list = json_object_get(json, keyword),
                 *rest = schema_without(s, json, (const char *[]){keyword, NULL});
    struct fragment out = build_nothing(s->builder);
    if (!json_is_array(list) || !json_array_size(list))
        return schema_fail(s, path, ST_INVALID, "%s must be an array of schemas", keyword);
    if (keyword[0] == 'o') list = exclusive(s, list, &at);
    for (size_t i = 0; i < json_array_size(list) && s->builder->status == ST_OK; i++) {
        const struct path inner = {&at, NULL, i};
        const json_t *both = schema_merge(s, rest, json_array_get(list, i), &inner);
        out = build_either(s->builder, out, schema_value(s, both, &inner));
    }
    return out;
}

static struct fragment all_of(struct schema *s, const json_t *json, const struct path *path)
{
    const struct path at = {path, "allOf", 0};
    const json_t *list = json_object_get(json, "allOf");
    const json_t *both = schema_without(s, json, (const char *[]){"allOf", NULL});
    if (!json_is_array(list)) return schema_fail(s, path, ST_INVALID, "allOf must be an array of schemas");
    for (size_t i = 0; i < json_array_size(list) && s->builder->status == ST_OK; i++) {
        const struct path inner = {&at, NULL, i};
        both = schema_merge(s, both, json_array_get(list, i), &inner);
    }
    return schema_value(s, both, path);
}

static struct fragment referred(struct schema *s, const json_t *json, const struct path *path)
{
    const struct path at = {path, "$ref", 0};
    const json_t *target = schema_resolve(s, json_string_value(json_object_get(json, "$ref")), &at);
    const json_t *rest = schema_without(s, json, (const char *[]){"$ref", NULL});
    return target ? schema_value(s, schema_merge(s, rest, target, path), &at) : build_nothing(s->builder);
}

/* As Zod writes z.never(). */
static bool excludes_all(const json_t * not )
{
    return json_is_true(not ) || (json_is_object(not ) && !json_object_size(not ));
}

static struct fragment compile(struct schema *s, const json_t *json, const struct path *path)
{
    if (json_is_true(json)) return schema_any(s);
    if (json_is_false(json)) return build_nothing(s->builder);
    if (!json_is_object(json)) return schema_fail(s, path, ST_INVALID, "a schema must be an object, true or false");
    if (excludes_all(json_object_get(json, "not"))) return build_nothing(s->builder);
    if (json_object_get(json, "$ref")) return referred(s, json, path);
    if (json_object_get(json, "allOf")) return all_of(s, json, path);
    if (json_object_get(json, "anyOf")) return branches(s, json, "anyOf", path);
    if (json_object_get(json, "oneOf")) return branches(s, json, "oneOf", path);
    if (json_object_get(json, "enum") || json_object_get(json, "const")) return constants(s, json, path);
    return typed(s, json, path);
}

/* Where the rule of a schema is remembered. NULL: there are too many. */
static struct memo *memo_of(struct schema *s, const json_t *json)
{
    uint32_t at = (uint32_t)((uint64_t)(uintptr_t)json * 0x9e3779b97f4a7c15u >> 40) % MEMO_SIZE;
    while (s->memo[at].schema && s->memo[at].schema != json) at = (at + 1) % MEMO_SIZE;
    if (!s->memo[at].schema && s->memo_count >= RULES_MAX) return NULL;
    return &s->memo[at];
}

struct fragment schema_value(struct schema *s, const json_t *json, const struct path *path)
{
    if (s->builder->status != ST_OK) return build_nothing(s->builder);
    if (json_is_boolean(json)) return compile(s, json, path);
    struct memo *memo = memo_of(s, json);
    if (!memo || ++s->work > SCHEMA_WORK_MAX)
        return schema_fail(s, path, ST_LIMIT, "the schema has too many parts, or parts of parts");
    if (!memo->schema) {
        if (s->depth >= SCHEMA_DEPTH_MAX)
            return schema_fail(s, path, ST_LIMIT, "more than %u schemas inside each other", SCHEMA_DEPTH_MAX);
        uint32_t rule = build_rule(s->builder, "a schema", strlen("a schema"));
        *memo = (struct memo){json, rule};
        s->memo_count++;
        s->depth++;
        struct fragment value = compile(s, json, path);
        s->depth--;
        build_define(s->builder, rule, value);
        return build_call(s->builder, rule);
    }
    return build_call(s->builder, memo->rule);
}

/* ---- the front ends ----------------------------------------------------------------------------------------------------------- */

static bool schema_init(struct schema *s, struct builder *builder)
{
    *s = (struct schema){.builder = builder, .space = NOT_MADE, .value = NOT_MADE, .string = NOT_MADE};
    s->number = s->integer = s->object = s->array = NOT_MADE;
    s->memo = mem_zero(MEMO_SIZE, sizeof *s->memo);
    s->made = json_array();
    if (!s->memo || !s->made) build_fail(builder, ST_NOMEM, "not enough memory for a grammar");
    return builder->status == ST_OK;
}

static void schema_release(struct schema *s)
{
    mem_free(s->memo);
    json_decref(s->made);
    json_decref(s->root);
}

struct fragment schema_build_json(struct builder *builder, json_t *json)
{
    struct schema schema;
    struct fragment out = {0};
    if (schema_init(&schema, builder)) {
        schema.root = json_incref(json);
        out = schema_value(&schema, json, NULL);
    }
    schema_release(&schema);
    return out;
}

struct fragment schema_build(struct builder *builder, const char *text, size_t bytes)
{
    json_error_t error;
    struct fragment out = {0};
    json_t *json = json_loadb(text, bytes, JSON_DECODE_ANY | JSON_REJECT_DUPLICATES, &error);
    if (json)
        out = schema_build_json(builder, json);
    else
        build_fail(builder, ST_INVALID, "no valid JSON: line %d, column %d: %s", error.line, error.column, error.text);
    json_decref(json);
    return out;
}

struct fragment schema_build_object(struct builder *builder)
{
    struct schema schema;
    struct fragment out = {0};
    if (schema_init(&schema, builder)) out = plain_type(&schema, OBJECT);
    schema_release(&schema);
    return out;
}

struct fragment choice_build(struct builder *builder, const char *text, size_t bytes)
{
    json_error_t error;
    struct fragment out = {0};
    json_t *list = json_loadb(text, bytes, 0, &error);
    size_t count = json_array_size(list);
    struct text *texts = arena_alloc(&builder->arena, (count + 1) * sizeof *texts);
    if (!texts) build_fail(builder, ST_NOMEM, "not enough memory for a grammar");
    if (!json_is_array(list) || !count) build_fail(builder, ST_INVALID, "must be an array of strings, at least one");
    for (size_t i = 0; i < count && builder->status == ST_OK; i++) {
        const json_t *one = json_array_get(list, i);
        if (!json_string_length(one)) build_fail(builder, ST_INVALID, "entry %zu is no string, or an empty one", i);
        texts[i] = (struct text){json_string_value(one), json_string_length(one)};
    }
    if (builder->status == ST_OK) out = build_choice(builder, texts, count);
    json_decref(list);
    return out;
}
