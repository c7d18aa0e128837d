/* schema.h - what the files of the JSON Schema front end share. */
#ifndef GRAMMAR_SCHEMA_H
#define GRAMMAR_SCHEMA_H
#include "grammar/automaton.h"
#include <jansson.h>

#define SCHEMA_DEPTH_MAX 96u    /* schemas inside each other, references followed */
#define SCHEMA_WORK_MAX 100000u /* schemas, and keywords merged */
#define NAME_BYTES_MAX 1024u    /* of a property, where other properties may stand beside it */

/* Where one is, for errors: a JSON pointer, from the end up. */
struct path {
    const struct path *up;
    const char *key; /* NULL: index */
    size_t index;
};

struct schema {
    struct builder *builder;
    json_t *root;
    json_t *made; /* an array of all schemas that merging made: they live as long as their rules are looked up */
    uint32_t depth, work;
    struct memo {
        const json_t *schema;
        uint32_t rule;
    } * memo; /* [MEMO_SIZE] by hash */
    uint32_t memo_count;
    /* Rules that many schemas share, or RULES_MAX: not made yet. */
    uint32_t space, value, string, number, integer, object, array;
};

/* ---- schema.c ---- */

/* schema_build() of a text that was parsed; borrows it. */
struct fragment schema_build_json(struct builder *builder, json_t *json);

/* Fails the building with an error that begins with where it is. */
struct fragment schema_fail(struct schema *schema, const struct path *path, enum status status, const char *format, ...)
    PRINTF_LIKE(4, 5);
bool schema_is_annotation(const char *keyword); /* changes nothing */
/* A value that satisfies `json`. */
struct fragment schema_value(struct schema *schema, const json_t *json, const struct path *path);
struct fragment schema_any(struct schema *schema); /* any JSON value */
struct fragment
schema_space(struct schema *schema); /* between brackets and values: nothing, a space, or a line's end and indent */
struct fragment schema_text(struct schema *schema, const char *text);
/* A whole number of a keyword, or `missing`. */
uint32_t schema_count(struct schema *schema, const json_t *json, const char *keyword, uint32_t missing,
                      const struct path *path);

/* ---- schema_merge.c ---- */

/* What satisfies both; owned by schema->made. `outer`: the one that the other stands in, or that refers to it. */
const json_t *schema_merge(struct schema *schema, const json_t *outer, const json_t *inner, const struct path *path);
/* Without the keywords (a list that NULL ends). */
const json_t *schema_without(struct schema *schema, const json_t *json, const char *const *keywords);
const json_t *schema_resolve(struct schema *schema, const char *reference, const struct path *path);
/* The schemas, each with the constant property required that tells all of them apart; NULL: there is none. */
const json_t *schema_require_tag(struct schema *schema, const json_t *list, const struct path *path);
/* Whether a value could satisfy both; said to be so where that is not sure. */
bool schema_may_overlap(struct schema *schema, const json_t *one, const json_t *other, const struct path *path);

/* ---- schema_container.c, schema_text.c, schema_number.c: one type each ---- */

struct fragment schema_object(struct schema *schema, const json_t *json, const struct path *path);
struct fragment schema_array(struct schema *schema, const json_t *json, const struct path *path);
struct fragment schema_string(struct schema *schema, const json_t *json, const struct path *path);
struct fragment schema_number(struct schema *schema, const json_t *json, bool integer, const struct path *path);
/* A JSON value as it is, but for white space. */
struct fragment schema_constant(struct schema *schema, const json_t *value, const struct path *path);
struct fragment schema_free_string(struct schema *schema); /* any string */

#endif
