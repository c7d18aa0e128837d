/* schema_container.c - objects, arrays and constants of JSON Schema. */
#include "grammar/schema.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- pieces ------------------------------------------------------------------------------------------------------------------- */

static struct fragment then(struct schema *s, struct fragment one, struct fragment other)
{
    return build_then(s->builder, one, other);
}

static struct fragment comma(struct schema *s)
{
    return then(s, schema_text(s, ","), schema_space(s));
}

static struct fragment quoted(struct schema *s, const char *text, size_t bytes)
{
    struct buffer spelled;
    buffer_init(&spelled, 0);
    buffer_text(&spelled, "\"");
    json_spell(text, bytes, &spelled);
    buffer_text(&spelled, "\"");
    if (spelled.failed) build_fail(s->builder, ST_NOMEM, "not enough memory for a grammar");
    struct fragment out = build_text(s->builder, spelled.data, spelled.failed ? 0 : spelled.length);
    buffer_release(&spelled);
    return out;
}

/* `inside` in brackets, with white space where there is something. */
static struct fragment bracketed(struct schema *s, const char *open, struct fragment inside, const char *close,
                                 bool may_be_empty)
{
    struct fragment full = then(s, schema_space(s), then(s, inside, schema_space(s)));
    if (may_be_empty) full = build_optional(s->builder, full);
    return then(s, schema_text(s, open), then(s, full, schema_text(s, close)));
}

/* `item`, between `least` and `most` times with commas between; most > 0. Nothing at all is for the caller to allow. */
static struct fragment listed(struct schema *s, struct fragment item, struct fragment again, uint32_t least,
                              uint32_t most)
{
    uint32_t rest = most == REPEAT_ENDLESS ? most : most - 1;
    return then(s, item, build_repeat(s->builder, then(s, comma(s), again), least ? least - 1 : 0, rest));
}

/* ---- objects: pairs that may be many ---------------------------------------------------------------------------------------------- */

static struct fragment pair(struct schema *s, struct fragment key, struct fragment value)
{
    struct fragment colon = then(s, schema_text(s, ":"), build_optional(s->builder, schema_text(s, " ")));
    return then(s, key, then(s, colon, value));
}

struct property {
    const char *name;
    const json_t *schema; /* NULL: of the additional ones */
    bool required;
};

struct object {
    const json_t *json;
    const struct path *path;
    struct property *properties; /* [count] */
    size_t count;
    const json_t *additional; /* schema, or NULL: none */
    const json_t *names;      /* schema of their names, or NULL */
    const char *pattern;      /* of their names, or NULL */
    bool closed;              /* all additional ones are among the properties, by their names */
};

static int compare_texts(const void *left, const void *right)
{
    const struct text *a = left, *b = right;
    int order = memcmp(a->bytes, b->bytes, a->count < b->count ? a->count : b->count);
    return order ? order : (a->count > b->count) - (a->count < b->count);
}

/* The name of an additional property, in quotes. */
static struct fragment other_name(struct schema *s, const struct object *o)
{
    const struct path at = {o->path, o->names ? "propertyNames" : "patternProperties", 0};
    struct fragment name;
    if (o->names) {
        const json_t *type = json_pack("{s:s}", "type", "string");
        if (!type || json_array_append_new(s->made, (json_t *)(uintptr_t)type) != 0)
            return schema_fail(s, o->path, ST_NOMEM, "not enough memory for a grammar");
        return schema_value(s, schema_merge(s, o->names, type, &at), &at);
    }
    if (!o->pattern && !o->count) return schema_free_string(s);
    if (o->pattern) {
        bool failed = s->builder->status != ST_OK;
        name = regex_build(s->builder, o->pattern, strlen(o->pattern), true);
        if (!failed && s->builder->status != ST_OK) error_prefix(s->builder->error, "patternProperties");
    } else {
        struct text *names = arena_alloc(&s->builder->arena, o->count * sizeof *names);
        if (!names) return schema_fail(s, o->path, ST_NOMEM, "not enough memory for a grammar");
        for (size_t i = 0; i < o->count; i++) {
            names[i] = (struct text){o->properties[i].name, strlen(o->properties[i].name)};
            if (names[i].count > NAME_BYTES_MAX)
                return schema_fail(s, o->path, ST_LIMIT, "a property's name is longer than %u bytes", NAME_BYTES_MAX);
        }
        qsort(names, o->count, sizeof *names, compare_texts);
        name = build_other_text(s->builder, names, o->count);
    }
    return then(s, schema_text(s, "\""), then(s, name, schema_text(s, "\"")));
}

static struct fragment other_pair(struct schema *s, const struct object *o)
{
    const struct path at = {o->path, o->pattern ? "patternProperties" : "additionalProperties", 0};
    return pair(s, other_name(s, o), schema_value(s, o->additional, &at));
}

static uint32_t shared_other_pair(struct schema *s, const struct object *o)
{
    uint32_t rule = build_rule(s->builder, "a property", strlen("a property"));
    build_define(s->builder, rule, other_pair(s, o));
    return rule;
}

/* ---- objects: pairs that are named ------------------------------------------------------------------------------------------------- */

/* In their order, each at most once: two rows of states, before and after the first that is there, as a comma stands before all
 * but the first. `rest`: any number of further pairs. */
struct rows {
    struct fragment first, later;
};

static struct fragment named_pair(struct schema *s, const struct object *o, const struct property *property)
{
    const struct path properties = {o->path, "properties", 0}, at = {&properties, property->name, 0};
    const json_t *schema = property->schema ? property->schema : o->additional;
    return pair(s, quoted(s, property->name, strlen(property->name)), schema_value(s, schema, &at));
}

static struct fragment named_pairs(struct schema *s, const struct object *o, bool more)
{
    uint32_t rule = more ? shared_other_pair(s, o) : 0;
    struct fragment first = build_empty(s->builder), later = build_empty(s->builder);
    if (more) {
        first = build_optional(
            s->builder, listed(s, build_call(s->builder, rule), build_call(s->builder, rule), 0, REPEAT_ENDLESS));
        later = build_star(s->builder, then(s, comma(s), build_call(s->builder, rule)));
    }
    for (size_t i = o->count; i-- > 0 && s->builder->status == ST_OK;) {
        const struct property *property = &o->properties[i];
        uint32_t own = build_rule(s->builder, property->name, strlen(property->name));
        build_define(s->builder, own, named_pair(s, o, property));
        /* Both rows go on in the later one: a rule of its own, as a fragment has one way in. */
        uint32_t rest = build_rule(s->builder, "the rest", strlen("the rest"));
        build_define(s->builder, rest, later);
        struct fragment begin = then(s, build_call(s->builder, own), build_call(s->builder, rest));
        struct fragment on = then(s, comma(s), then(s, build_call(s->builder, own), build_call(s->builder, rest)));
        first = property->required ? begin : build_either(s->builder, begin, first);
        later = property->required ? on : build_either(s->builder, on, build_call(s->builder, rest));
    }
    return first;
}

/* ---- objects: reading the keywords --------------------------------------------------------------------------------------------------- */

static bool is_required(const json_t *required, const char *name)
{
    for (size_t i = 0; i < json_array_size(required); i++) {
        const char *one = json_string_value(json_array_get(required, i));
        if (one && strcmp(one, name) == 0) return true;
    }
    return false;
}

/* The names that propertyNames lists where some are required and nothing else names properties, as of Zod's records: then they are
 * properties like others. NULL: there is no such list. */
static const json_t *listed_names(const struct object *o)
{
    static const char *const others[] = {"properties", "patternProperties", "minProperties", "maxProperties"};
    const json_t *names = json_object_get(o->json, "propertyNames"), *list = json_object_get(names, "enum");
    const json_t *required = json_object_get(o->json, "required");
    const char *keyword;
    json_t *value;
    if (!json_array_size(required)) return NULL;
    for (size_t i = 0; i < ARRAY_COUNT(others); i++)
        if (json_object_get(o->json, others[i])) return NULL;
    json_object_foreach((json_t *)(uintptr_t)names, keyword, value)
    {
        if (value != list && strcmp(keyword, "type") != 0 && !schema_is_annotation(keyword)) return NULL;
    }
    for (size_t i = 0; i < json_array_size(required); i++) {
        const char *name = json_string_value(json_array_get(required, i));
        if (!name || !is_required(list, name)) return NULL;
    }
    return list;
}

static void read_properties(struct schema *s, struct object *o)
{
    json_t *properties = json_object_get(o->json, "properties"), *required = json_object_get(o->json, "required");
    json_t *value;
    const char *name;
    if ((properties && !json_is_object(properties)) || (required && !json_is_array(required))) {
        schema_fail(s, o->path, ST_INVALID, "properties must be an object, required an array of names");
        return;
    }
    const json_t *names = listed_names(o);
    size_t most = json_object_size(properties) + json_array_size(required) + json_array_size(names);
    s->work += (uint32_t)most;
    if (most * json_array_size(required) > (1u << 24)) {
        schema_fail(s, o->path, ST_LIMIT, "the object has too many properties");
        return;
    }
    o->properties = arena_alloc(&s->builder->arena, (most + 1) * sizeof *o->properties);
    if (!o->properties) {
        schema_fail(s, o->path, ST_NOMEM, "not enough memory for a grammar");
        return;
    }
    json_object_foreach(properties, name, value) o->properties[o->count++] =
        (struct property){name, value, is_required(required, name)};
    for (size_t i = 0; i < json_array_size(required); i++) {
        name = json_string_value(json_array_get(required, i));
        if (!name) {
            schema_fail(s, o->path, ST_INVALID, "required must be an array of names");
            return;
        }
        if (json_object_get(properties, name)) continue;
        bool twice = false;
        for (size_t j = json_object_size(properties); j < o->count; j++) twice |= !strcmp(o->properties[j].name, name);
        if (!twice) o->properties[o->count++] = (struct property){name, NULL, true};
    }
    o->closed = json_array_size(names) > 0;
    for (size_t i = 0; i < json_array_size(names); i++) {
        name = json_string_value(json_array_get(names, i));
        if (name && !is_required(required, name)) o->properties[o->count++] = (struct property){name, NULL, false};
    }
}

static void read_patterns(struct schema *s, struct object *o)
{
    json_t *patterns = json_object_get(o->json, "patternProperties"), *value;
    const char *pattern;
    if (!json_object_size(patterns)) return;
    if (json_object_size(patterns) > 1 || o->count || o->names || (o->additional && !json_is_false(o->additional))) {
        schema_fail(s, o->path, ST_UNSUPPORTED,
                    "patternProperties is supported with one pattern, and without other "
                    "properties, additionalProperties and propertyNames");
        return;
    }
    json_object_foreach(patterns, pattern, value)
    {
        o->pattern = pattern;
        o->additional = value;
    }
}

static void read_additional(struct schema *s, struct object *o)
{
    const json_t *additional = json_object_get(o->json, "additionalProperties");
    if (!additional) additional = json_object_get(o->json, "unevaluatedProperties");
    o->names = o->closed ? NULL : json_object_get(o->json, "propertyNames");
    o->additional = additional;
    if (!additional && !o->count) o->additional = json_object_get(o->json, "patternProperties") ? NULL : json_true();
    if (o->names && o->count)
        schema_fail(s, o->path, ST_UNSUPPORTED, "propertyNames beside properties is not supported");
    for (size_t i = 0; i < o->count;
         i++) { /* of the additional ones, though they are required: anything, if nothing is said */
        if (o->properties[i].schema) continue;
        if (!additional) o->properties[i].schema = json_true();
        if (json_object_get(o->json, "patternProperties"))
            schema_fail(s, o->path, ST_UNSUPPORTED, "required names beside patternProperties are not supported");
    }
}

struct fragment schema_object(struct schema *s, const json_t *json, const struct path *path)
{
    struct object o = {.json = json, .path = path};
    uint32_t least = schema_count(s, json, "minProperties", 0, path), required = 0;
    uint32_t most = schema_count(s, json, "maxProperties", REPEAT_ENDLESS, path);
    read_properties(s, &o);
    read_additional(s, &o);
    read_patterns(s, &o);
    if (s->builder->status != ST_OK) return build_nothing(s->builder);
    bool more = o.additional && !json_is_false(o.additional) && !o.closed;
    for (size_t i = 0; i < o.count; i++) required += o.properties[i].required;
    if (o.count) {
        if (least > required || most < o.count || (more && most != REPEAT_ENDLESS))
            return schema_fail(s, path, ST_UNSUPPORTED,
                               "minProperties or maxProperties beside properties is not supported: say which are "
                               "required");
        return bracketed(s, "{", named_pairs(s, &o, more), "}", required == 0);
    }
    if (!more || most == 0) return least ? build_nothing(s->builder) : schema_text(s, "{}");
    if (most < least) return build_nothing(s->builder);
    uint32_t rule = shared_other_pair(s, &o);
    struct fragment pairs = listed(s, build_call(s->builder, rule), build_call(s->builder, rule), least, most);
    return bracketed(s, "{", pairs, "}", least == 0);
}

/* ---- arrays ---------------------------------------------------------------------------------------------------------------------------- */

struct fragment schema_array(struct schema *s, const json_t *json, const struct path *path)
{
    const struct path at = {path, "items", 0}, prefix_at = {path, "prefixItems", 0};
    const json_t *prefix = json_object_get(json, "prefixItems"), *items = json_object_get(json, "items");
    if (!prefix && json_is_array(items)) { /* as it was before draft 2020-12 */
        prefix = items;
        items = json_object_get(json, "additionalItems");
    }
    if (prefix && !json_is_array(prefix)) return schema_fail(s, path, ST_INVALID, "prefixItems must be an array");
    if (json_is_true(json_object_get(json, "uniqueItems")))
        return schema_fail(s, path, ST_UNSUPPORTED, "the keyword 'uniqueItems' is not supported");
    uint32_t least = schema_count(s, json, "minItems", 0, path);
    uint32_t most = schema_count(s, json, "maxItems", REPEAT_ENDLESS, path);
    size_t fixed = json_array_size(prefix);
    if (!items) items = fixed || json_object_get(json, "unevaluatedItems") ? json_false() : json_true();
    if (most < least) return build_nothing(s->builder);
    if (fixed > most) fixed = most;
    bool more = !json_is_false(items) && most > fixed;
    if (!more && least > fixed) return build_nothing(s->builder);
    if (!more && !fixed) return schema_text(s, "[]");
    uint32_t rule = 0;
    if (more) {
        rule = build_rule(s->builder, "an item", strlen("an item"));
        build_define(s->builder, rule, schema_value(s, items, &at));
    }
    uint32_t rest_least = least > fixed ? least - (uint32_t)fixed : 0;
    uint32_t rest_most = most == REPEAT_ENDLESS ? most : most - (uint32_t)fixed;
    if (!fixed) {
        struct fragment all = listed(s, build_call(s->builder, rule), build_call(s->builder, rule), least, rest_most);
        return bracketed(s, "[", all, "]", least == 0);
    }
    struct fragment out = build_empty(s->builder);
    if (more) out = build_repeat(s->builder, then(s, comma(s), build_call(s->builder, rule)), rest_least, rest_most);
    for (size_t i = fixed; i-- > 0 && s->builder->status == ST_OK;) {
        const struct path item_at = {&prefix_at, NULL, i};
        out = then(s, schema_value(s, json_array_get(prefix, i), &item_at), out);
        if (i > 0) out = then(s, comma(s), out);
        if (i > 0 && i >= least) out = build_optional(s->builder, out);
    }
    return bracketed(s, "[", out, "]", least == 0);
}

/* ---- constants --------------------------------------------------------------------------------------------------------------------------- */

static struct fragment constant_inside(struct schema *s, const json_t *value, const struct path *path)
{
    struct fragment out = build_empty(s->builder);
    const char *name;
    json_t *item;
    bool some = false;
    for (size_t i = 0; i < json_array_size(value); i++) {
        if (i > 0) out = then(s, out, comma(s));
        out = then(s, out, schema_constant(s, json_array_get(value, i), path));
    }
    json_object_foreach((json_t *)(uintptr_t)value, name, item)
    {
        if (some) out = then(s, out, comma(s));
        out = then(s, out, pair(s, quoted(s, name, strlen(name)), schema_constant(s, item, path)));
        some = true;
    }
    return out;
}

struct fragment schema_constant(struct schema *s, const json_t *value, const struct path *path)
{
    if (++s->depth > SCHEMA_DEPTH_MAX || ++s->work > SCHEMA_WORK_MAX) {
        s->depth--;
        return schema_fail(s, path, ST_LIMIT, "the constant is too large or too deep");
    }
    struct fragment out = {0};
    if (json_is_string(value)) {
        out = quoted(s, json_string_value(value), json_string_length(value));
    } else if (json_is_array(value) && json_array_size(value)) {
        out = bracketed(s, "[", constant_inside(s, value, path), "]", false);
    } else if (json_is_object(value) && json_object_size(value)) {
        out = bracketed(s, "{", constant_inside(s, value, path), "}", false);
    } else {
        char text[64] = "";
        size_t bytes = json_dumpb(value, text, sizeof text, JSON_ENCODE_ANY | JSON_COMPACT);
        if (!bytes || bytes > sizeof text) schema_fail(s, path, ST_NOMEM, "not enough memory for a grammar");
        out = build_text(s->builder, text, bytes <= sizeof text ? bytes : 0);
    }
    s->depth--;
    return out;
}
