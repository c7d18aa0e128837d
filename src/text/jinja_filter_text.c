/* jinja_filter_text.c - Jinja's filters that give texts or numbers. */
#include "text/jinja.h"
#include <inttypes.h>
#include <math.h>
#include <stdio.h>

static struct value as_text(struct jinja *j, struct value v)
{
    return jinja_of_string(jinja_to_string(j, v));
}

/* The str method of that name, on str(self). */
static struct value by_method(struct jinja *j, struct value self, const char *method, const struct value *arguments,
                              uint32_t count)
{
    struct call call = {.positional = (struct value *)arguments, .count = 0};
    while (call.count < count && arguments[call.count].kind != VALUE_ABSENT) call.count++;
    const struct string name = {.data = method, .bytes = (uint32_t)strlen(method), .chars = (uint32_t)strlen(method)};
    return jinja_call_builtin(j, jinja_builtin_find(jinja_string_methods, &name), as_text(j, self), &call);
}

static struct value filter_upper(struct jinja *j, struct value self, const struct value *arguments)
{
    return by_method(j, self, "upper", arguments, 0);
}

static struct value filter_lower(struct jinja *j, struct value self, const struct value *arguments)
{
    return by_method(j, self, "lower", arguments, 0);
}

static struct value filter_capitalize(struct jinja *j, struct value self, const struct value *arguments)
{
    return by_method(j, self, "capitalize", arguments, 0);
}

static struct value filter_trim(struct jinja *j, struct value self, const struct value *arguments)
{
    return by_method(j, self, "strip", arguments, 1);
}

static struct value filter_center(struct jinja *j, struct value self, const struct value *arguments)
{
    struct value width = arguments[0].kind == VALUE_ABSENT ? jinja_int(80) : arguments[0];
    return by_method(j, self, "center", &width, 1);
}

static struct value filter_replace(struct jinja *j, struct value self, const struct value *arguments)
{
    struct value text = jinja_of_string(jinja_string_plain(j, jinja_to_string(j, self)));
    struct value parts[3] = {as_text(j, arguments[0]), as_text(j, arguments[1]), arguments[2]};
    bool all = arguments[2].kind == VALUE_ABSENT || arguments[2].kind == VALUE_NONE;
    return by_method(j, text, "replace", parts, all ? 2 : 3);
}

static struct value filter_string(struct jinja *j, struct value self, const struct value *arguments)
{
    (void)arguments;
    return as_text(j, self);
}

static struct value filter_safe(struct jinja *j, struct value self, const struct value *arguments)
{
    struct string *s = jinja_alloc(j, sizeof *s);
    (void)arguments;
    *s = *jinja_to_string(j, self);
    s->markup = true;
    return jinja_of_string(s);
}

static struct value filter_escape(struct jinja *j, struct value self, const struct value *arguments)
{
    const struct string *s = jinja_to_string(j, self);
    (void)arguments;
    return jinja_of_string(s->markup ? s : jinja_string_escape(j, s));
}

static struct value filter_forceescape(struct jinja *j, struct value self, const struct value *arguments)
{
    (void)arguments;
    return jinja_of_string(jinja_string_escape(j, jinja_to_string(j, self)));
}

static struct value filter_title(struct jinja *j, struct value self, const struct value *arguments)
{
    const struct string *s = jinja_to_string(j, self);
    struct builder b;
    struct cursor c;
    bool begins = true;
    (void)arguments;
    jinja_builder_init(&b, j);
    for (jinja_cursor_init(&c, s); jinja_cursor_next(&c);) {
        bool separates =
            jinja_is_space(c.code_point) || (c.code_point < 0x80 && c.code_point && strchr("-({[<", (int)c.code_point));
        uint32_t out[3], count = begins ? jinja_to_upper(c.code_point, out) : jinja_to_lower(c.code_point, out);
        b.user = c.user;
        for (uint32_t i = 0; i < count; i++) jinja_put_code_point(&b, out[i]);
        begins = separates;
    }
    jinja_charge(j, s->bytes / 4);
    return jinja_built(&b);
}

static struct value filter_join(struct jinja *j, struct value self, const struct value *arguments)
{
    struct iterator it;
    struct value item, none = {.kind = VALUE_ABSENT};
    struct builder b;
    bool first = true;
    const struct string *separator = arguments[0].kind == VALUE_ABSENT ? NULL : jinja_to_string(j, arguments[0]);
    jinja_builder_init(&b, j);
    for (jinja_iterate(j, self, &it); jinja_next(j, &it, &item); first = false) {
        if (!first && separator) jinja_put_string(&b, separator);
        jinja_put_str(&b, jinja_get_path(j, item, arguments[1], none));
    }
    return jinja_built(&b);
}

static struct value filter_format(struct jinja *j, struct value self, const struct call *call)
{
    const struct string *format = jinja_to_string(j, self);
    if (call->count && call->named_count)
        jinja_fail(j, ST_INVALID, "can't handle positional and keyword arguments at the same time");
    if (call->named_count) {
        struct dict *named = jinja_dict_new(j);
        for (uint32_t i = 0; i < call->named_count; i++)
            jinja_dict_set(j, named, jinja_of_string(call->named[i].name), call->named[i].value);
        return jinja_percent(j, format, jinja_of_dict(named));
    }
    struct list *list = jinja_list_new(j, call->count);
    for (uint32_t i = 0; i < call->count; i++) jinja_list_put(j, list, call->positional[i]);
    return jinja_percent(j, format, jinja_of_list(list, VALUE_TUPLE));
}

static const struct list *lines_of(struct jinja *j, struct value text)
{
    return by_method(j, text, "splitlines", NULL, 0).list;
}

static struct value filter_indent(struct jinja *j, struct value self, const struct value *arguments)
{
    struct builder b, indent;
    if (self.kind != VALUE_STRING) {
        if (self.kind == VALUE_UNDEFINED) jinja_fail_undefined(j, self);
        jinja_fail(j, ST_INVALID, "indent needs a str, not %s", jinja_type_name(self));
    }
    jinja_builder_init(&indent, j);
    if (arguments[0].kind == VALUE_STRING) {
        jinja_put_string(&indent, arguments[0].string);
    } else {
        int64_t width = arguments[0].kind == VALUE_ABSENT ? 4 : jinja_to_int(j, arguments[0], "width");
        jinja_put_char(&indent, ' ', width > 0 ? (size_t)width : 0);
    }
    const struct string *space = jinja_built(&indent).string;
    struct value whole =
        jinja_arithmetic(j, OPERATOR_ADD, self, jinja_text(j, "\n")); /* as Jinja: a last empty line counts */
    const struct list *lines = lines_of(j, whole);
    jinja_builder_init(&b, j);
    for (uint32_t i = 0; i < lines->count; i++) {
        const struct string *line = lines->items[i].string;
        if (i) jinja_put_char(&b, '\n', 1);
        bool blank = jinja_truth(arguments[2]) && i > 0, filled = line->bytes && i > 0;
        if (blank || filled || (i == 0 && jinja_truth(arguments[1]))) jinja_put_string(&b, space);
        jinja_put_string(&b, line);
    }
    struct value indented = jinja_built(&b);
    ((struct string *)indented.string)->markup = self.string->markup; /* just made */
    return indented;
}

static struct value filter_truncate(struct jinja *j, struct value self, const struct value *arguments)
{
    int64_t length = arguments[0].kind == VALUE_ABSENT ? 255 : jinja_to_int(j, arguments[0], "length");
    int64_t leeway = arguments[3].kind <= VALUE_NONE ? 5 : jinja_to_int(j, arguments[3], "leeway");
    struct value end = arguments[2].kind == VALUE_ABSENT ? jinja_text(j, "...") : arguments[2];
    if (end.kind != VALUE_STRING) jinja_fail(j, ST_INVALID, "truncate needs a str as its end");
    if (length < end.string->chars) jinja_fail(j, ST_INVALID, "expected length >= %u", end.string->chars);
    if (leeway < 0) jinja_fail(j, ST_INVALID, "expected leeway >= 0");
    int64_t chars = jinja_length(j, self);
    if (chars <= length || chars - length <= leeway) return self;
    if (self.kind != VALUE_STRING) jinja_fail(j, ST_INVALID, "truncate needs a str, not %s", jinja_type_name(self));
    size_t cut = jinja_string_offset(j, self.string, length - end.string->chars);
    const struct string space = {.data = " ", .bytes = 1, .chars = 1};
    size_t word = jinja_truth(arguments[1]) ? SIZE_MAX : jinja_string_find_last(j, self.string, &space, 0, cut);
    struct builder b;
    jinja_builder_init(&b, j);
    jinja_put_part(&b, self.string, 0, word == SIZE_MAX ? cut : word);
    jinja_put_string(&b, end.string);
    return jinja_built(&b);
}

static struct value filter_wordcount(struct jinja *j, struct value self, const struct value *arguments)
{
    const struct string *s = jinja_to_string(j, self);
    struct cursor c;
    int64_t words = 0;
    bool inside = false;
    (void)arguments;
    for (jinja_cursor_init(&c, s); jinja_cursor_next(&c); inside = jinja_is_word(c.code_point))
        words += !inside && jinja_is_word(c.code_point);
    jinja_charge(j, s->bytes / 16);
    return jinja_int(words);
}

static struct value filter_striptags(struct jinja *j, struct value self, const struct value *arguments)
{
    const struct string *s = jinja_to_string(j, self);
    struct builder b;
    bool space = false;
    (void)arguments;
    jinja_builder_init(&b, j);
    struct cursor c;
    for (jinja_cursor_init(&c, s); jinja_cursor_next(&c);) {
        bool comment = c.code_point == '<' && s->bytes - c.begin >= 4 && memcmp(s->data + c.begin, "<!--", 4) == 0;
        const char *end = c.code_point != '<' ? NULL
                          : comment           ? memmem(s->data + c.at, s->bytes - c.at, "-->", 3)
                                              : memchr(s->data + c.at, '>', s->bytes - c.at);
        jinja_charge(j, c.code_point == '<' ? 1 + (s->bytes - c.at) / 256 : 0);
        if (end) {
            c.at = (size_t)(end - s->data) + (comment ? 3 : 1);
            continue;
        }
        if (jinja_is_space(c.code_point)) {
            space = true;
            continue;
        }
        b.user = c.user;
        if (space && b.bytes) jinja_put_char(&b, ' ', 1);
        space = false;
        jinja_put(&b, s->data + c.begin, c.at - c.begin);
    }
    jinja_charge(j, s->bytes / 8);
    return jinja_built(&b);
}

static void put_quoted(struct builder *b, const struct string *s, bool query)
{
    char text[4];
    struct cursor c;
    for (jinja_cursor_init(&c, s); jinja_cursor_next(&c);) {
        b->user = c.user;
        for (size_t i = c.begin; i < c.at; i++) {
            unsigned char byte = (unsigned char)s->data[i];
            bool plain = byte < 0x80 && ((jinja_is_word(byte)) || strchr("-.~", byte)) && byte;
            if (plain || (byte == '/' && !query))
                jinja_put_char(b, (char)byte, 1);
            else if (byte == ' ' && query)
                jinja_put_char(b, '+', 1);
            else
                snprintf(text, sizeof text, "%%%02X", byte), jinja_put(b, text, 3);
        }
    }
    jinja_charge(b->j, s->bytes / 4);
    b->user = false;
}

static struct value filter_urlencode(struct jinja *j, struct value self, const struct value *arguments)
{
    struct builder b;
    struct iterator it;
    struct value item;
    bool first = true;
    (void)arguments;
    jinja_builder_init(&b, j);
    if (self.kind == VALUE_STRING || !jinja_iterable(self)) {
        put_quoted(&b, jinja_to_string(j, self), false);
        return jinja_built(&b);
    }
    struct view view = {.dict = self.dict, .kind = VIEW_ITEMS};
    if (self.kind == VALUE_DICT) self = (struct value){.kind = VALUE_VIEW, .view = &view};
    for (jinja_iterate(j, self, &it); jinja_next(j, &it, &item); first = false) {
        const struct list *pair = jinja_to_list(j, item);
        if (pair->count != 2) jinja_fail(j, ST_INVALID, "urlencode needs pairs");
        if (!first) jinja_put_char(&b, '&', 1);
        put_quoted(&b, jinja_to_string(j, pair->items[0]), true);
        jinja_put_char(&b, '=', 1);
        put_quoted(&b, jinja_to_string(j, pair->items[1]), true);
    }
    return jinja_built(&b);
}

static struct value filter_xmlattr(struct jinja *j, struct value self, const struct value *arguments)
{
    struct builder b;
    if (self.kind != VALUE_DICT) jinja_fail(j, ST_INVALID, "xmlattr needs a mapping");
    bool lead = arguments[0].kind == VALUE_ABSENT || jinja_truth(arguments[0]);
    jinja_builder_init(&b, j);
    for (uint32_t i = 0; i < self.dict->count; i++) {
        struct value key = self.dict->entries[i].key, item = self.dict->entries[i].value;
        if (item.kind == VALUE_NONE || item.kind == VALUE_UNDEFINED) continue;
        if (key.kind != VALUE_STRING) jinja_fail(j, ST_INVALID, "attribute names must be str");
        for (uint32_t k = 0; k < key.string->bytes; k++)
            if (strchr(" \t\n\r\v\f/>=", key.string->data[k]))
                jinja_fail(j, ST_INVALID, "invalid character in attribute name");
        jinja_charge(j, 1 + key.string->bytes / 8);
        if (b.bytes || lead) jinja_put_char(&b, ' ', 1);
        jinja_put_string(&b, jinja_string_escape(j, key.string));
        jinja_put_text(&b, "=\"");
        const struct string *text = jinja_to_string(j, item);
        jinja_put_string(&b, text->markup ? text : jinja_string_escape(j, text));
        jinja_put_char(&b, '"', 1);
    }
    return jinja_built(&b);
}

static struct value filter_tojson(struct jinja *j, struct value self, const struct value *arguments)
{
    return jinja_to_json(j, self, arguments);
}

static struct value filter_pprint(struct jinja *j, struct value self, const struct value *arguments)
{
    struct builder b;
    (void)arguments;
    jinja_builder_init(&b, j);
    jinja_put_repr(&b, self);
    return jinja_built(&b);
}

/* ---- numbers --------------------------------------------------------------------------------------------------------------------- */

static struct value filter_abs(struct jinja *j, struct value self, const struct value *arguments)
{
    (void)arguments;
    if (self.kind == VALUE_UNDEFINED) jinja_fail_undefined(j, self);
    if (!jinja_is_number(self)) jinja_fail(j, ST_INVALID, "bad operand type for abs(): '%s'", jinja_type_name(self));
    if (self.kind == VALUE_FLOAT) return jinja_float(fabs(self.real));
    struct value whole = self.kind == VALUE_BOOL ? jinja_int(self.boolean) : self;
    return whole.integer < 0 ? jinja_negate(j, whole) : whole;
}

static struct value whole_of(struct jinja *j, double real, struct value otherwise)
{
    if (isnan(real) || isinf(real)) return otherwise;
    if (fabs(real) >= 9.2e18) jinja_fail(j, ST_LIMIT, "an integer beyond 64 bits");
    return jinja_int((int64_t)real);
}

static struct value filter_int(struct jinja *j, struct value self, const struct value *arguments)
{
    struct value otherwise = arguments[0].kind == VALUE_ABSENT ? jinja_int(0) : arguments[0];
    int64_t base = arguments[1].kind == VALUE_ABSENT ? 10 : jinja_to_int(j, arguments[1], "base"), whole = 0;
    double real = 0;
    bool overflow = false;
    if (self.kind == VALUE_UNDEFINED) jinja_fail_undefined(j, self);
    if (self.kind == VALUE_INT || self.kind == VALUE_BOOL)
        return jinja_int(self.kind == VALUE_INT ? self.integer : self.boolean);
    if (self.kind == VALUE_FLOAT) return whole_of(j, self.real, otherwise);
    if (self.kind != VALUE_STRING) return otherwise;
    if (jinja_parse_int(self.string, base, &whole, &overflow)) return jinja_int(whole);
    if (overflow) jinja_fail(j, ST_LIMIT, "an integer beyond 64 bits");
    return jinja_parse_float(self.string, &real) ? whole_of(j, real, otherwise) : otherwise;
}

static struct value filter_float(struct jinja *j, struct value self, const struct value *arguments)
{
    double real = 0;
    if (self.kind == VALUE_UNDEFINED) jinja_fail_undefined(j, self);
    if (jinja_is_number(self)) return jinja_float(jinja_real(self));
    if (self.kind == VALUE_STRING && jinja_parse_float(self.string, &real)) return jinja_float(real);
    return arguments[0].kind == VALUE_ABSENT ? jinja_float(0) : arguments[0];
}

/* Python's round(): correct in decimal, half to even for integers. */
static struct value round_common(struct jinja *j, struct value v, int64_t precision)
{
    char text[400];
    if (v.kind != VALUE_FLOAT) {
        int64_t whole = v.kind == VALUE_INT ? v.integer : v.boolean, unit = 1;
        for (int64_t i = precision; i < 0; i++)
            if (__builtin_mul_overflow(unit, 10, &unit)) return jinja_int(0);
        if (unit == 1) return jinja_int(whole);
        int64_t low = whole - ((whole % unit) + unit) % unit, rest = whole - low;
        bool up = rest * 2 > unit || (rest * 2 == unit && (low / unit) % 2 != 0);
        return jinja_arithmetic(j, OPERATOR_ADD, jinja_int(low), jinja_int(up ? unit : 0));
    }
    if (isnan(v.real) || isinf(v.real) || precision > 60) return v;
    if (precision < 0) {
        double unit = pow(10, (double)-precision);
        return jinja_float(isinf(unit) ? 0.0 * v.real : nearbyint(v.real / unit) * unit);
    }
    snprintf(text, sizeof text, "%.*f", (int)precision, v.real);
    const struct string digits = {.data = text, .bytes = (uint32_t)strlen(text)};
    double real = v.real;
    return jinja_parse_float(&digits, &real) ? jinja_float(real) : v;
}

static struct value filter_round(struct jinja *j, struct value self, const struct value *arguments)
{
    int64_t precision = arguments[0].kind == VALUE_ABSENT ? 0 : jinja_to_int(j, arguments[0], "precision");
    const struct string *method = arguments[1].kind == VALUE_ABSENT ? NULL : jinja_to_string(j, arguments[1]);
    if (self.kind == VALUE_UNDEFINED) jinja_fail_undefined(j, self);
    if (!jinja_is_number(self)) jinja_fail(j, ST_INVALID, "type %s cannot be rounded", jinja_type_name(self));
    if (!method || jinja_string_is(method, "common")) return round_common(j, self, precision);
    double unit = pow(10, (double)precision), real = jinja_real(self) * unit;
    bool up = jinja_string_is(method, "ceil");
    if (!up && !jinja_string_is(method, "floor")) jinja_fail(j, ST_INVALID, "method must be common, ceil or floor");
    return jinja_float((up ? ceil(real) : floor(real)) / unit);
}

static struct value filter_filesizeformat(struct jinja *j, struct value self, const struct value *arguments)
{
    static const char units[] = "kMGTPEZY";
    struct value real = filter_float(j, self, (struct value[1]){jinja_none()});
    if (real.kind != VALUE_FLOAT) jinja_fail(j, ST_INVALID, "'%s' is no size", jinja_type_name(self));
    bool binary = jinja_truth(arguments[0]);
    double base = binary ? 1024 : 1000, bytes = real.real, unit = base;
    char text[400];
    size_t i = 0;
    if (bytes == 1) return jinja_text(j, "1 Byte");
    if (bytes < base) {
        snprintf(text, sizeof text, "%" PRId64 " Bytes", (int64_t)bytes);
        return jinja_text(j, text);
    }
    for (; i + 1 < strlen(units) && bytes >= unit * base; i++) unit *= base;
    snprintf(text, sizeof text, "%.1f %c%s", bytes / unit, i == 0 && binary ? 'K' : units[i], binary ? "iB" : "B");
    return jinja_text(j, text);
}

const struct builtin jinja_text_filters[] = {
    {.name = "trim", .fixed = filter_trim, .parameters = "chars"},
    {.name = "tojson", .fixed = filter_tojson, .parameters = "ensure_ascii indent separators sort_keys"},
    {.name = "join", .fixed = filter_join, .parameters = "d attribute"},
    {.name = "string", .fixed = filter_string, .parameters = ""},
    {.name = "replace", .fixed = filter_replace, .parameters = "old new count", .required = 2},
    {.name = "upper", .fixed = filter_upper, .parameters = ""},
    {.name = "lower", .fixed = filter_lower, .parameters = ""},
    {.name = "capitalize", .fixed = filter_capitalize, .parameters = ""},
    {.name = "title", .fixed = filter_title, .parameters = ""},
    {.name = "center", .fixed = filter_center, .parameters = "width"},
    {.name = "safe", .fixed = filter_safe, .parameters = ""},
    {.name = "e", .fixed = filter_escape, .parameters = ""},
    {.name = "escape", .fixed = filter_escape, .parameters = ""},
    {.name = "forceescape", .fixed = filter_forceescape, .parameters = ""},
    {.name = "format", .variadic = filter_format},
    {.name = "indent", .fixed = filter_indent, .parameters = "width first blank"},
    {.name = "truncate", .fixed = filter_truncate, .parameters = "length killwords end leeway"},
    {.name = "wordcount", .fixed = filter_wordcount, .parameters = ""},
    {.name = "wordwrap", .fixed = jinja_word_wrap, .parameters = "width break_long_words wrapstring break_on_hyphens"},
    {.name = "striptags", .fixed = filter_striptags, .parameters = ""},
    {.name = "urlencode", .fixed = filter_urlencode, .parameters = ""},
    {.name = "xmlattr", .fixed = filter_xmlattr, .parameters = "autospace"},
    {.name = "pprint", .fixed = filter_pprint, .parameters = ""},
    {.name = "abs", .fixed = filter_abs, .parameters = ""},
    {.name = "int", .fixed = filter_int, .parameters = "default base"},
    {.name = "float", .fixed = filter_float, .parameters = "default"},
    {.name = "round", .fixed = filter_round, .parameters = "precision method"},
    {.name = "filesizeformat", .fixed = filter_filesizeformat, .parameters = "binary"},
    {.name = NULL},
};
