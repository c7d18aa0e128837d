/* schema_merge.c - schemas that hold together: allOf, what stands beside a reference or beside alternatives. */
#include "grammar/schema.h"
#include <stdio.h>
#include <string.h>

#define REFERENCES_MAX 32u /* one leading to the next */
#define ALTERNATIVES_MAX 256u

/* Takes over a schema that was made, until the end. NULL: there was no memory for it. */
static json_t *keep(struct schema *s, json_t *made, const struct path *path)
{
    if (made && json_array_append_new(s->made, made) == 0) return made;
    schema_fail(s, path, ST_NOMEM, "not enough memory for a grammar");
    return NULL;
}

static void put(struct schema *s, json_t *object, const char *key, json_t *value, const struct path *path)
{
    if (!value || json_object_set_new(object, key, value) != 0)
        schema_fail(s, path, ST_NOMEM, "not enough memory for a grammar");
}

static json_t *share(const json_t *value)
{
    return json_incref((json_t *)(uintptr_t)value);
}

/* ---- references ------------------------------------------------------------------------------------------------------------- */

static const json_t *step(const json_t *from, const char *part, size_t bytes)
{
    char key[256];
    size_t length = 0;
    for (size_t i = 0; i < bytes; i++) {
        if (length + 1 >= sizeof key) return NULL;
        char c = part[i];
        if (c == '~' && i + 1 < bytes && (part[i + 1] == '0' || part[i + 1] == '1')) c = part[++i] == '0' ? '~' : '/';
        if (c == '%' && i + 2 < bytes) { /* the pointer stands in a URI */
            char hex[3] = {part[i + 1], part[i + 2], '\0'};
            unsigned value;
            if (sscanf(hex, "%2x", &value) == 1 && value) c = (char)value, i += 2;
        }
        key[length++] = c;
    }
    key[length] = '\0';
    if (json_is_object(from)) return json_object_get(from, key);
    size_t index = 0;
    for (size_t i = 0; i < length; i++) {
        if (key[i] < '0' || key[i] > '9' || i > 6) return NULL;
        index = index * 10 + (size_t)(key[i] - '0');
    }
    return length ? json_array_get(from, index) : NULL;
}

const json_t *schema_resolve(struct schema *s, const char *reference, const struct path *path)
{
    const json_t *at = s->root;
    if (!reference || (reference[0] == '#' && reference[1] && reference[1] != '/')) {
        schema_fail(s, path, ST_UNSUPPORTED, "only references such as \"#/$defs/NAME\" are supported");
        return NULL;
    }
    if (reference[0] != '#') {
        schema_fail(s, path, ST_UNSUPPORTED, "the reference '%.80s' leads out of the schema", reference);
        return NULL;
    }
    for (const char *part = reference + 1; *part && at;) {
        size_t bytes = strcspn(++part, "/");
        at = step(at, part, bytes);
        part += bytes;
    }
    if (!at) schema_fail(s, path, ST_INVALID, "the reference '%.80s' leads nowhere", reference);
    return at;
}

/* Follows a schema that is a reference and nothing else that counts. */
static const json_t *follow(struct schema *s, const json_t *json, const struct path *path)
{
    for (uint32_t i = 0; json_object_get(json, "$ref") && s->builder->status == ST_OK; i++) {
        const json_t *rest = schema_without(s, json, (const char *[]){"$ref", NULL});
        const json_t *target = schema_resolve(s, json_string_value(json_object_get(json, "$ref")), path);
        if (i == REFERENCES_MAX) schema_fail(s, path, ST_LIMIT, "more than %u references in a row", REFERENCES_MAX);
        if (target && s->builder->status == ST_OK) json = schema_merge(s, rest, target, path);
    }
    return json;
}

/* ---- one keyword of two schemas ----------------------------------------------------------------------------------------------- */

static json_t *all_of_both(const json_t *one, const json_t *other)
{
    return json_pack("{s:[O,O]}", "allOf", one, other);
}

/* Each key of either; what both have must hold together. */
static json_t *both_maps(const json_t *one, const json_t *other)
{
    json_t *out = json_copy((json_t *)(uintptr_t)one);
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)other, key, value)
    {
        const json_t *own = json_object_get(one, key);
        if (json_object_set_new(out, key, own && !json_equal(own, value) ? all_of_both(own, value) : share(value)) == 0)
            continue;
        json_decref(out);
        return NULL;
    }
    return out;
}

/* Numbers are equal by value. */
static bool is_same(const json_t *one, const json_t *other)
{
    if (json_is_number(one) && json_is_number(other)) return json_number_value(one) == json_number_value(other);
    return json_equal(one, other);
}

static bool has(const json_t *array, const json_t *value)
{
    for (size_t i = 0; i < json_array_size(array); i++)
        if (is_same(json_array_get(array, i), value)) return true;
    return false;
}

static json_t *common_values(const json_t *one, const json_t *other)
{
    json_t *out = json_array();
    for (size_t i = 0; i < json_array_size(one); i++)
        if (has(other, json_array_get(one, i))) json_array_append(out, json_array_get(one, i));
    return out;
}

static json_t *all_values(const json_t *one, const json_t *other)
{
    json_t *out = json_copy((json_t *)(uintptr_t)one);
    for (size_t i = 0; i < json_array_size(other); i++)
        if (!has(out, json_array_get(other, i))) json_array_append(out, json_array_get(other, i));
    return out;
}

/* A type, or several; an integer is a number. */
static json_t *common_types(const json_t *one, const json_t *other)
{
    json_t *left = json_is_array(one) ? share(one) : json_pack("[O]", one);
    json_t *right = json_is_array(other) ? share(other) : json_pack("[O]", other);
    json_t *out = common_values(left, right), *number = json_string("number"), *integer = json_string("integer");
    bool narrows = (has(left, number) && has(right, integer)) || (has(left, integer) && has(right, number));
    if (narrows && !has(out, integer) && !has(out, number)) json_array_append(out, integer);
    json_decref(left);
    json_decref(right);
    json_decref(number);
    json_decref(integer);
    return out;
}

/* Every pair of alternatives. */
static json_t *pairs(struct schema *s, const json_t *one, const json_t *other, const struct path *path)
{
    json_t *out = json_array();
    size_t count = json_array_size(one) * json_array_size(other);
    if (count > ALTERNATIVES_MAX)
        schema_fail(s, path, ST_LIMIT, "anyOf with anyOf gives %zu alternatives, more than %u", count,
                    ALTERNATIVES_MAX);
    for (size_t i = 0; i < json_array_size(one) && s->builder->status == ST_OK; i++)
        for (size_t j = 0; j < json_array_size(other); j++)
            json_array_append_new(out, all_of_both(json_array_get(one, i), json_array_get(other, j)));
    s->work += (uint32_t)count;
    return out;
}

static json_t *further(const json_t *one, const json_t *other, bool greater)
{
    return share((json_number_value(one) > json_number_value(other)) == greater ? one : other);
}

static json_t *merge_keyword(struct schema *s, const char *key, const json_t *one, const json_t *other,
                             const struct path *path)
{
    static const char *const greatest[] = {"minimum",  "exclusiveMinimum", "minLength",
                                           "minItems", "minProperties",    NULL};
    static const char *const least[] = {"maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties", NULL};
    static const char *const schemas[] = {"items",         "additionalProperties", "unevaluatedProperties",
                                          "propertyNames", "unevaluatedItems",     NULL};
    if (json_equal(one, other)) return share(one);
    if (strncmp(key, "exclusive", 9) == 0 && json_is_boolean(one) && json_is_boolean(other)) return json_true();
    for (size_t i = 0; greatest[i]; i++)
        if (strcmp(key, greatest[i]) == 0) return further(one, other, true);
    for (size_t i = 0; least[i]; i++)
        if (strcmp(key, least[i]) == 0) return further(one, other, false);
    for (size_t i = 0; schemas[i]; i++)
        if (strcmp(key, schemas[i]) == 0) return all_of_both(one, other);
    if (strcmp(key, "properties") == 0) return both_maps(one, other);
    if (strcmp(key, "required") == 0 || strcmp(key, "allOf") == 0) return all_values(one, other);
    if (strcmp(key, "enum") == 0) return common_values(one, other);
    if (strcmp(key, "type") == 0) return common_types(one, other);
    if (strcmp(key, "anyOf") == 0) return pairs(s, one, other, path);
    if (strcmp(key, "uniqueItems") == 0) return json_true();
    if (strcmp(key, "nullable") == 0) return json_false();
    if (schema_is_annotation(key)) return share(one);
    if (strcmp(key, "const") != 0)
        schema_fail(s, path, ST_UNSUPPORTED, "two different values of '%.60s' that hold together are not supported",
                    key);
    return NULL; /* of const: nothing is equal to both */
}

/* ---- two schemas --------------------------------------------------------------------------------------------------------------- */

/* A property that one schema names is, for the other, one of the additional ones. */
static void restrict_properties(struct schema *s, json_t *out, const json_t *one, const json_t *other,
                                const struct path *path)
{
    const json_t *additional = json_object_get(other, "additionalProperties");
    if (!additional || json_is_true(additional)) return;
    if (json_object_get(other, "patternProperties"))
        schema_fail(s, path, ST_UNSUPPORTED,
                    "patternProperties and additionalProperties that hold together with other "
                    "properties are not supported");
    json_t *properties = json_copy(json_object_get(out, "properties"));
    const char *key;
    json_t *value;
    json_object_foreach(json_object_get(one, "properties"), key, value)
    {
        if (json_object_get(json_object_get(other, "properties"), key)) continue;
        s->work++;
        if (json_object_set_new(properties, key,
                                json_is_false(additional) ? json_false() : all_of_both(value, additional)) != 0)
            schema_fail(s, path, ST_NOMEM, "not enough memory for a grammar");
    }
    if (properties) put(s, out, "properties", properties, path);
}

static bool has_keyword(const json_t *json, const char *key)
{
    return json_object_get(json, key) != NULL;
}

/* `unevaluated…` of the inner schema does not see what the outer one names. */
static void check_unevaluated(struct schema *s, const json_t *outer, const json_t *inner, const struct path *path)
{
    bool properties = has_keyword(inner, "unevaluatedProperties") && has_keyword(outer, "properties");
    bool items = has_keyword(inner, "unevaluatedItems") && has_keyword(outer, "prefixItems");
    if (properties || items)
        schema_fail(s, path, ST_UNSUPPORTED,
                    "unevaluatedProperties or unevaluatedItems inside of a schema that has "
                    "properties or items of its own is not supported");
}

static void check_arrays(struct schema *s, const json_t *one, const json_t *other, const struct path *path)
{
    bool first = has_keyword(one, "prefixItems"), second = has_keyword(other, "prefixItems");
    if ((first && has_keyword(other, "items") && !second) || (second && has_keyword(one, "items") && !first))
        schema_fail(s, path, ST_UNSUPPORTED, "prefixItems and items of schemas that hold together are not supported");
}

const json_t *schema_merge(struct schema *s, const json_t *one, const json_t *other, const struct path *path)
{
    if (s->builder->status != ST_OK || json_is_false(one) || json_is_true(other)) return one;
    if (json_is_false(other) || json_is_true(one)) return other;
    if (!json_is_object(one) || !json_is_object(other)) {
        schema_fail(s, path, ST_INVALID, "a schema must be an object, true or false");
        return one;
    }
    if (!json_object_size(other)) return one;
    if (!json_object_size(one)) return other;
    one = follow(s, one, path);
    other = follow(s, other, path);
    if (!json_is_object(one) || !json_is_object(other) || s->builder->status != ST_OK)
        return s->builder->status != ST_OK ? one : schema_merge(s, one, other, path);
    s->work += (uint32_t)(json_object_size(one) + json_object_size(other));
    if (s->work > SCHEMA_WORK_MAX) schema_fail(s, path, ST_LIMIT, "the schema has too many parts that hold together");
    json_t *out = keep(s, json_copy((json_t *)(uintptr_t)one), path);
    const char *key;
    json_t *value;
    if (out) json_object_foreach((json_t *)(uintptr_t)other, key, value)
        {
            const json_t *own = json_object_get(one, key);
            json_t *merged = own ? merge_keyword(s, key, own, value, path) : share(value);
            if (s->builder->status != ST_OK) {
                json_decref(merged);
                return one;
            }
            if (!merged) return keep(s, json_false(), path);
            put(s, out, key, merged, path);
        }
    if (!out) return one;
    restrict_properties(s, out, one, other, path);
    restrict_properties(s, out, other, one, path);
    check_unevaluated(s, one, other, path);
    check_arrays(s, one, other, path);
    return out;
}

const json_t *schema_without(struct schema *s, const json_t *json, const char *const *keywords)
{
    json_t *out = keep(s, json_copy((json_t *)(uintptr_t)json), NULL);
    const char *key;
    json_t *value;
    void *next;
    if (!out) return json;
    for (size_t i = 0; keywords[i]; i++) json_object_del(out, keywords[i]);
    json_object_foreach_safe(out, next, key, value)
    {
        if (schema_is_annotation(key)) json_object_del(out, key);
    }
    return out;
}

/* ---- alternatives that exclude each other ---------------------------------------------------------------------------------------- */

#define LOOK_DEPTH 4u

static bool type_overlaps(const json_t *one, const json_t *other)
{
    const json_t *left = json_object_get(one, "type"), *right = json_object_get(other, "type");
    if (!left || !right) return true;
    json_t *common = common_types(left, right);
    bool overlaps = json_array_size(common) > 0;
    json_decref(common);
    return overlaps;
}

static bool has_value(const json_t *json, const json_t *value)
{
    const json_t *constant = json_object_get(json, "const");
    return constant ? is_same(constant, value) : has(json_object_get(json, "enum"), value);
}

static bool names_values(const json_t *json)
{
    return has_keyword(json, "const") || has_keyword(json, "enum");
}

static bool values_overlap(const json_t *one, const json_t *other)
{
    const json_t *constant = json_object_get(one, "const"), *list = json_object_get(one, "enum");
    if (!names_values(one) || !names_values(other)) return true;
    if (constant) return has_value(other, constant);
    for (size_t i = 0; i < json_array_size(list); i++)
        if (has_value(other, json_array_get(list, i))) return true;
    return false;
}

static bool may_overlap(struct schema *s, const json_t *one, const json_t *other, uint32_t depth,
                        const struct path *path);

static bool is_object(const json_t *json)
{
    const char *type = json_string_value(json_object_get(json, "type"));
    return type ? strcmp(type, "object") == 0 : !has_keyword(json, "type") && has_keyword(json, "properties");
}

/* Whether what is generated for `one`, an object, may satisfy `other`. */
static bool objects_overlap(struct schema *s, const json_t *one, const json_t *other, uint32_t depth,
                            const struct path *path)
{
    const json_t *own = json_object_get(one, "properties"), *wanted = json_object_get(other, "required");
    const json_t *additional = json_object_get(one, "additionalProperties");
    if (!is_object(one)) return true;
    bool closed = own && (!additional || json_is_false(additional)) && !has_keyword(one, "patternProperties");
    for (size_t i = 0; i < json_array_size(wanted); i++) {
        const char *name = json_string_value(json_array_get(wanted, i));
        const json_t *mine = name ? json_object_get(own, name) : NULL;
        const json_t *its = name ? json_object_get(json_object_get(other, "properties"), name) : NULL;
        bool required = has(json_object_get(one, "required"), json_array_get(wanted, i));
        if (name && !mine && closed && !required) return false;
        if (mine && its && !may_overlap(s, mine, its, depth + 1, path)) return false;
    }
    return true;
}

static bool may_overlap(struct schema *s, const json_t *one, const json_t *other, uint32_t depth,
                        const struct path *path)
{
    if (depth > LOOK_DEPTH) return true;
    if (++s->work > SCHEMA_WORK_MAX) {
        schema_fail(s, path, ST_LIMIT, "the schema has too many alternatives that have to exclude each other");
        return true;
    }
    one = follow(s, one, path);
    other = follow(s, other, path);
    if (!json_is_object(one) || !json_is_object(other)) return !json_is_false(one) && !json_is_false(other);
    return type_overlaps(one, other) && values_overlap(one, other) && objects_overlap(s, one, other, depth, path);
}

bool schema_may_overlap(struct schema *s, const json_t *one, const json_t *other, const struct path *path)
{
    return may_overlap(s, one, other, 0, path);
}

static bool tells_apart(struct schema *s, const json_t *list, const char *name, const struct path *path)
{
    for (size_t i = 0; i < json_array_size(list) && s->builder->status == ST_OK; i++) {
        const json_t *one = follow(s, json_array_get(list, i), path);
        const json_t *property = json_object_get(json_object_get(one, "properties"), name);
        if (!is_object(one) || !property || !names_values(property)) return false;
    }
    return s->builder->status == ST_OK;
}

const json_t *schema_require_tag(struct schema *s, const json_t *list, const struct path *path)
{
    const json_t *first = follow(s, json_array_get(list, 0), path);
    const char *name, *tag = NULL;
    json_t *value;
    json_object_foreach(json_object_get(first, "properties"), name, value)
    {
        if (!tag && names_values(value) && tells_apart(s, list, name, path)) tag = name;
    }
    json_t *out = tag ? keep(s, json_array(), path) : NULL;
    for (size_t i = 0; out && i < json_array_size(list); i++) {
        const json_t *required = keep(s, json_pack("{s:[s]}", "required", tag), path);
        if (!required) return NULL;
        json_array_append_new(out, share(schema_merge(s, json_array_get(list, i), required, path)));
    }
    return out;
}
