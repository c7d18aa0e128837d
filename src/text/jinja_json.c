/* jinja_json.c - Python's json.dumps with the arguments that transformers' tojson passes on: ensure_ascii, indent, separators,
 * sort_keys. A text that holds any of the user's is the user's as a whole. */
#include "text/jinja.h"
#include <inttypes.h>
#include <math.h>
#include <stdio.h>

struct dumper {
    struct builder b;
    bool ascii, sorted;
    const struct string *indent; /* NULL: on one line */
    const struct string *item_separator, *key_separator;
    uint32_t level;
};

static void put_escaped(struct builder *b, uint32_t code)
{
    char text[16];
    if (code >= 0x10000) {
        code -= 0x10000;
        snprintf(text, sizeof text, "\\u%04x\\u%04x", 0xD800 + (code >> 10), 0xDC00 + (code & 0x3FF));
    } else {
        snprintf(text, sizeof text, "\\u%04x", code);
    }
    jinja_put_text(b, text);
}

/* Bytes from `begin` on that JSON shows as they are. */
static size_t plain_run(const struct dumper *d, const struct string *s, size_t begin)
{
    size_t end = begin;
    for (; end < s->bytes; end++) {
        unsigned char c = (unsigned char)s->data[end];
        if (c < 0x20 || c == '"' || c == '\\' || (d->ascii && c >= 0x7F)) break;
    }
    return end;
}

static void put_json_string(struct dumper *d, const struct string *s)
{
    static const char letters[] = "\"\\\n\r\t\f\b", meanings[] = "\"\\nrtfb";
    struct builder *b = &d->b;
    struct cursor c;
    jinja_put_char(b, '"', 1);
    for (jinja_cursor_init(&c, s);;) {
        size_t run = plain_run(d, s, c.at);
        jinja_put_part(b, s, c.at, run);
        c.at = run;
        if (!jinja_cursor_next(&c)) break;
        const char *letter = c.code_point && c.code_point < 0x80 ? strchr(letters, (int)c.code_point) : NULL;
        b->user = c.user;
        if (letter)
            jinja_put(b, (char[2]){'\\', meanings[letter - letters]}, 2);
        else
            put_escaped(b, c.code_point);
        b->user = false;
        jinja_charge(b->j, 1);
    }
    jinja_put_char(b, '"', 1);
}

static void put_json_float(struct builder *b, double real)
{
    char text[JINJA_FLOAT_TEXT_BYTES];
    if (isnan(real) || isinf(real)) {
        jinja_put_text(b, isnan(real) ? "NaN" : real > 0 ? "Infinity" : "-Infinity");
        return;
    }
    jinja_float_text(real, text);
    jinja_put_text(b, text);
}

static void put_line(struct dumper *d)
{
    if (!d->indent) return;
    jinja_put_char(&d->b, '\n', 1);
    for (uint32_t i = 0; i < d->level; i++) jinja_put_string(&d->b, d->indent);
}

static void put_json(struct dumper *d, struct value v);

static void put_array(struct dumper *d, const struct list *list)
{
    jinja_put_char(&d->b, '[', 1);
    d->level++;
    for (uint32_t i = 0; i < list->count; i++) {
        if (i) jinja_put_string(&d->b, d->item_separator);
        put_line(d);
        put_json(d, list->items[i]);
    }
    d->level--;
    if (list->count) put_line(d);
    jinja_put_char(&d->b, ']', 1);
}

static void put_key(struct dumper *d, struct value key)
{
    struct jinja *j = d->b.j;
    if (key.kind == VALUE_STRING) {
        put_json_string(d, key.string);
        return;
    }
    if (!jinja_is_number(key) && key.kind != VALUE_NONE)
        jinja_fail(j, ST_INVALID, "keys must be str, int, float, bool or None, not %s", jinja_type_name(key));
    jinja_put_char(&d->b, '"', 1);
    put_json(d, key);
    jinja_put_char(&d->b, '"', 1);
}

static const struct list *sorted_keys(struct jinja *j, const struct dict *dict)
{
    struct view view = {.dict = dict, .kind = VIEW_KEYS};
    struct call call = {0};
    static const struct string sort = {.data = "sort", .bytes = 4, .chars = 4},
                               sensitive = {.data = "case_sensitive", .bytes = 14, .chars = 14};
    struct keyword exact = {.name = &sensitive, .value = jinja_bool(true)};
    call.named = &exact;
    call.named_count = 1;
    return jinja_call_builtin(j, jinja_filter_find(&sort), (struct value){.kind = VALUE_VIEW, .view = &view}, &call)
        .list;
}

static void put_object(struct dumper *d, const struct dict *dict)
{
    struct jinja *j = d->b.j;
    const struct list *order = d->sorted ? sorted_keys(j, dict) : NULL;
    jinja_put_char(&d->b, '{', 1);
    d->level++;
    for (uint32_t i = 0; i < dict->count; i++) {
        struct value key = order ? order->items[i] : dict->entries[i].key;
        if (i) jinja_put_string(&d->b, d->item_separator);
        put_line(d);
        put_key(d, key);
        jinja_put_string(&d->b, d->key_separator);
        put_json(d, order ? *jinja_dict_get(j, dict, key) : dict->entries[i].value);
    }
    d->level--;
    if (dict->count) put_line(d);
    jinja_put_char(&d->b, '}', 1);
}

static void put_json(struct dumper *d, struct value v)
{
    struct jinja *j = d->b.j;
    char text[32];
    jinja_enter(j);
    jinja_charge(j, 1);
    switch (v.kind) {
    case VALUE_NONE:
        jinja_put_text(&d->b, "null");
        break;
    case VALUE_BOOL:
        jinja_put_text(&d->b, v.boolean ? "true" : "false");
        break;
    case VALUE_INT:
        snprintf(text, sizeof text, "%" PRId64, v.integer);
        jinja_put_text(&d->b, text);
        break;
    case VALUE_FLOAT:
        put_json_float(&d->b, v.real);
        break;
    case VALUE_STRING:
        put_json_string(d, v.string);
        break;
    case VALUE_LIST:
    case VALUE_TUPLE:
        put_array(d, v.list);
        break;
    case VALUE_DICT:
        put_object(d, v.dict);
        break;
    default:
        jinja_fail(j, ST_INVALID, "Object of type %s is not JSON serializable", jinja_type_name(v));
    }
    jinja_leave(j);
}

static const struct string *indent_of(struct jinja *j, struct value v)
{
    if (v.kind == VALUE_ABSENT || v.kind == VALUE_NONE) return NULL;
    if (v.kind == VALUE_STRING) return v.string;
    struct builder b;
    jinja_builder_init(&b, j);
    int64_t width = jinja_to_int(j, v, "indent");
    jinja_put_char(&b, ' ', width > 0 ? (size_t)width : 0);
    return jinja_built(&b).string;
}

struct value jinja_to_json(struct jinja *j, struct value v, const struct value *arguments)
{
    struct dumper d = {.ascii = jinja_truth(arguments[0]), .sorted = jinja_truth(arguments[3])};
    jinja_builder_init(&d.b, j);
    d.indent = indent_of(j, arguments[1]);
    d.item_separator = jinja_text(j, d.indent ? "," : ", ").string;
    d.key_separator = jinja_text(j, ": ").string;
    if (arguments[2].kind != VALUE_ABSENT && arguments[2].kind != VALUE_NONE) {
        const struct list *pair = jinja_to_list(j, arguments[2]);
        if (pair->count != 2 || pair->items[0].kind != VALUE_STRING || pair->items[1].kind != VALUE_STRING)
            jinja_fail(j, ST_INVALID, "separators must be two strings");
        d.item_separator = pair->items[0].string;
        d.key_separator = pair->items[1].string;
    }
    put_json(&d, v);
    jinja_put_spread(&d.b, 0);
    return jinja_built(&d.b);
}
