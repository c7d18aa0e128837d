/* jinja_print.c - Python's str() and repr(). A container that holds any of the user's text is the user's as a whole. */
#include "text/jinja.h"
#include <inttypes.h>
#include <stdio.h>

static void put_repr_string(struct builder *b, const struct string *s)
{
    bool single = memchr(s->data, '\'', s->bytes) != NULL, twice = memchr(s->data, '"', s->bytes) != NULL;
    uint32_t quote = single && !twice ? '"' : '\'';
    bool user = b->user;
    char text[16];
    struct cursor c;
    if (s->markup) jinja_put_text(b, "Markup(");
    jinja_put_char(b, (char)quote, 1);
    for (jinja_cursor_init(&c, s); jinja_cursor_next(&c);) {
        uint32_t code = c.code_point;
        const char *simple = code == '\n'   ? "\\n"
                             : code == '\r' ? "\\r"
                             : code == '\t' ? "\\t"
                             : code == '\\' ? "\\\\"
                                            : NULL;
        b->user = user || c.user;
        if (simple) {
            jinja_put_text(b, simple);
        } else if (code == quote) {
            jinja_put_char(b, '\\', 1);
            jinja_put_char(b, (char)code, 1);
        } else if (jinja_is_printable(code)) {
            jinja_put(b, s->data + c.begin, c.at - c.begin);
        } else {
            snprintf(text, sizeof text, code < 0x100 ? "\\x%02x" : code < 0x10000 ? "\\u%04x" : "\\U%08x", code);
            jinja_put_text(b, text);
        }
    }
    jinja_charge(b->j, s->bytes / 8);
    b->user = user;
    jinja_put_char(b, (char)quote, 1);
    if (s->markup) jinja_put_char(b, ')', 1);
}

static void put_items(struct builder *b, const struct list *list)
{
    for (uint32_t i = 0; i < list->count; i++) {
        if (i) jinja_put_text(b, ", ");
        jinja_put_repr(b, list->items[i]);
    }
}

static void put_dict(struct builder *b, const struct dict *dict)
{
    jinja_put_char(b, '{', 1);
    for (uint32_t i = 0; i < dict->count; i++) {
        if (i) jinja_put_text(b, ", ");
        jinja_put_repr(b, dict->entries[i].key);
        jinja_put_text(b, ": ");
        jinja_put_repr(b, dict->entries[i].value);
    }
    jinja_put_char(b, '}', 1);
}

static void put_view(struct builder *b, struct value v)
{
    struct list *items = jinja_to_list(b->j, v);
    jinja_put_text(b, jinja_type_name(v));
    jinja_put_text(b, "([");
    put_items(b, items);
    jinja_put_text(b, "])");
}

static void put_container(struct builder *b, struct value v)
{
    size_t begin = b->bytes;
    jinja_enter(b->j);
    if (v.kind == VALUE_LIST || v.kind == VALUE_TUPLE) {
        jinja_put_char(b, v.kind == VALUE_LIST ? '[' : '(', 1);
        put_items(b, v.list);
        if (v.kind == VALUE_TUPLE && v.list->count == 1) jinja_put_char(b, ',', 1);
        jinja_put_char(b, v.kind == VALUE_LIST ? ']' : ')', 1);
    } else if (v.kind == VALUE_VIEW) {
        put_view(b, v);
    } else {
        if (v.kind == VALUE_NAMESPACE) jinja_put_text(b, "<Namespace ");
        put_dict(b, v.dict);
        if (v.kind == VALUE_NAMESPACE) jinja_put_char(b, '>', 1);
    }
    jinja_leave(b->j);
    jinja_put_spread(b, begin);
}

static void put_macro(struct builder *b, const struct macro *macro)
{
    jinja_put_text(b, "<Macro ");
    if (macro->signature->name)
        put_repr_string(b, macro->signature->name);
    else
        jinja_put_text(b, "'caller'");
    jinja_put_char(b, '>', 1);
}

void jinja_put_repr(struct builder *b, struct value v)
{
    char text[JINJA_FLOAT_TEXT_BYTES + 64];
    jinja_charge(b->j, 1);
    switch (v.kind) {
    case VALUE_UNDEFINED:
        jinja_put_text(b, "Undefined");
        return;
    case VALUE_NONE:
        jinja_put_text(b, "None");
        return;
    case VALUE_BOOL:
        jinja_put_text(b, v.boolean ? "True" : "False");
        return;
    case VALUE_INT:
        snprintf(text, sizeof text, "%" PRId64, v.integer);
        break;
    case VALUE_FLOAT:
        jinja_float_text(v.real, text);
        break;
    case VALUE_STRING:
        put_repr_string(b, v.string);
        return;
    case VALUE_LIST:
    case VALUE_TUPLE:
    case VALUE_DICT:
    case VALUE_VIEW:
    case VALUE_NAMESPACE:
        put_container(b, v);
        return;
    case VALUE_RANGE: {
        const struct range *r = v.range;
        if (r->step == 1)
            snprintf(text, sizeof text, "range(%" PRId64 ", %" PRId64 ")", r->start, r->stop);
        else
            snprintf(text, sizeof text, "range(%" PRId64 ", %" PRId64 ", %" PRId64 ")", r->start, r->stop, r->step);
        break;
    }
    case VALUE_MACRO:
        put_macro(b, v.macro);
        return;
    case VALUE_LOOP:
        snprintf(text, sizeof text, "<LoopContext %u/%" PRId64 ">", v.loop->index0 + 1, jinja_length(b->j, v));
        break;
    default:
        snprintf(text, sizeof text, "<%s object>", jinja_type_name(v));
        break;
    }
    jinja_put_text(b, text);
}

void jinja_put_str(struct builder *b, struct value v)
{
    if (v.kind == VALUE_STRING)
        jinja_put_string(b, v.string);
    else if (v.kind != VALUE_UNDEFINED)
        jinja_put_repr(b, v);
}

const struct string *jinja_to_string(struct jinja *j, struct value v)
{
    if (v.kind == VALUE_STRING) return v.string;
    struct builder b;
    jinja_builder_init(&b, j);
    jinja_put_str(&b, v);
    return jinja_built(&b).string;
}
