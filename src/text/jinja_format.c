/* jinja_format.c - Python's two ways to format: "%s" % x and "{}".format(x). Integers are formatted in base 2, 8, 10 and 16,
 * floats by C's printf; no locale, no dates. */
#include "text/jinja.h"
#include <inttypes.h>
#include <stdio.h>

struct spec {
    const struct string *fill; /* NULL: space */
    char align;                /* < > = ^ or 0 */
    char sign;                 /* + - space or 0 */
    bool alternate, zero;
    int64_t width, precision; /* precision -1: none */
    char grouping;            /* , _ or 0 */
    char type;
};

/* ---- numbers as text --------------------------------------------------------------------------------------------------------------- */

static void integer_digits(uint64_t magnitude, char type, char out[72])
{
    unsigned base = type == 'b' ? 2 : type == 'o' ? 8 : type == 'x' || type == 'X' ? 16 : 10;
    const char *digits = type == 'X' ? "0123456789ABCDEF" : "0123456789abcdef";
    char reversed[72];
    size_t count = 0;
    do reversed[count++] = digits[magnitude % base];
    while (magnitude /= base);
    for (size_t i = 0; i < count; i++) out[i] = reversed[count - 1 - i];
    out[count] = '\0';
}

static void group_digits(struct builder *b, const char *digits, char separator, unsigned every)
{
    size_t whole = strspn(digits, "0123456789abcdefABCDEF");
    if (strpbrk(digits, ".e")) whole = strspn(digits, "0123456789");
    for (size_t i = 0; digits[i]; i++) {
        if (separator && i > 0 && i < whole && (whole - i) % every == 0) jinja_put_char(b, separator, 1);
        jinja_put_char(b, digits[i], 1);
    }
}

static void put_padding(struct builder *b, const struct spec *spec, int64_t count)
{
    if (count <= 0) return;
    if (!spec->fill) {
        jinja_put_char(b, ' ', (size_t)count);
        return;
    }
    jinja_charge(b->j, (uint64_t)count / 16);
    if ((uint64_t)count > b->j->bytes_max) jinja_fail(b->j, ST_LIMIT, "a text grows beyond %zu bytes", b->j->bytes_max);
    for (int64_t i = 0; i < count; i++) jinja_put_string(b, spec->fill);
}

/* `head` (sign and prefix) and `body`, padded. */
static void put_padded(struct builder *b, const struct spec *spec, const char *head, const struct string *body,
                       char align)
{
    int64_t missing = spec->width - (int64_t)strlen(head) - body->chars;
    if (missing < 0) missing = 0;
    int64_t left = align == '>' ? missing : align == '^' ? missing / 2 : 0;
    put_padding(b, spec, left);
    jinja_put_text(b, head);
    if (align == '=') put_padding(b, spec, missing);
    jinja_put_string(b, body);
    if (align != '=') put_padding(b, spec, missing - left);
}

static void put_integer(struct builder *b, const struct spec *spec, int64_t integer)
{
    char digits[72], head[8];
    char type = spec->type ? spec->type : 'd';
    struct builder body;
    integer_digits(integer < 0 ? 0 - (uint64_t)integer : (uint64_t)integer, type, digits);
    const char *sign = integer < 0 ? "-" : spec->sign == '+' ? "+" : spec->sign == ' ' ? " " : "";
    const char *prefix = !spec->alternate ? ""
                         : type == 'b'    ? "0b"
                         : type == 'o'    ? "0o"
                         : type == 'x'    ? "0x"
                         : type == 'X'    ? "0X"
                                          : "";
    snprintf(head, sizeof head, "%s%s", sign, prefix);
    jinja_builder_init(&body, b->j);
    for (int64_t i = (int64_t)strlen(digits); i < spec->precision; i++) jinja_put_char(&body, '0', 1);
    group_digits(&body, digits, spec->grouping, type == 'd' ? 3 : 4);
    put_padded(b, spec, head, jinja_built(&body).string, spec->align ? spec->align : '>');
}

static void put_float(struct builder *b, const struct spec *spec, double real)
{
    char digits[512], format[16];
    int precision = spec->precision < 0 ? 6 : spec->precision > 100 ? 100 : (int)spec->precision;
    char type = spec->type == '%' ? 'f' : spec->type;
    struct builder body;
    double magnitude = __builtin_fabs(spec->type == '%' ? real * 100 : real);
    if (type == 0 && spec->precision < 0) {
        jinja_float_text(magnitude, digits);
    } else {
        snprintf(format, sizeof format, "%%%s.*%c", spec->alternate ? "#" : "", type ? type : 'g');
        snprintf(digits, sizeof digits, format, precision, magnitude); /* at most 309 + 102 bytes */
    }
    bool whole = type == 0 && spec->precision >= 0 && !strpbrk(digits, ".en");
    jinja_builder_init(&body, b->j);
    group_digits(&body, digits, spec->grouping, 3);
    jinja_put_text(&body, whole ? ".0" : spec->type == '%' ? "%" : "");
    const char *sign = __builtin_signbit(real) ? "-" : spec->sign == '+' ? "+" : spec->sign == ' ' ? " " : "";
    put_padded(b, spec, sign, jinja_built(&body).string, spec->align ? spec->align : '>');
}

static void put_text(struct builder *b, const struct spec *spec, const struct string *s, char align)
{
    if (spec->precision >= 0) s = jinja_string_slice(b->j, s, 0, 1, spec->precision).string;
    put_padded(b, spec, "", s, align);
}

/* ---- % ------------------------------------------------------------------------------------------------------------------------------ */

struct percent {
    struct jinja *j;
    struct builder b;
    const struct string *format;
    size_t at;
    struct value arguments;
    uint32_t used;
    bool named;
};

static char percent_char(const struct percent *p)
{
    return p->at < p->format->bytes ? p->format->data[p->at] : 0;
}

static struct value percent_argument(struct percent *p)
{
    bool tuple = p->arguments.kind == VALUE_TUPLE;
    if (p->used >= (tuple ? p->arguments.list->count : 1))
        jinja_fail(p->j, ST_INVALID, "not enough arguments for format string");
    p->used++;
    return tuple ? p->arguments.list->items[p->used - 1] : p->arguments;
}

static struct value percent_named(struct percent *p)
{
    size_t begin = ++p->at, depth = 1;
    for (; p->at < p->format->bytes; p->at++) {
        depth += percent_char(p) == '(';
        depth -= percent_char(p) == ')';
        if (depth == 0) break;
    }
    if (p->at >= p->format->bytes) jinja_fail(p->j, ST_INVALID, "incomplete format key");
    if (p->arguments.kind != VALUE_DICT) jinja_fail(p->j, ST_INVALID, "format requires a mapping");
    const struct string *name = jinja_string_part(p->j, p->format, begin, p->at++);
    const struct value *found = jinja_dict_find(p->j, p->arguments.dict, name);
    if (!found)
        jinja_fail(p->j, ST_INVALID, "format key '%.*s' is missing", name->bytes < 60 ? (int)name->bytes : 60,
                   name->data);
    p->named = true;
    return *found;
}

static int64_t percent_size(struct percent *p)
{
    int64_t size = 0;
    if (percent_char(p) == '*') {
        p->at++;
        return jinja_to_int(p->j, percent_argument(p), "* in a format");
    }
    for (; percent_char(p) >= '0' && percent_char(p) <= '9'; p->at++)
        if (size <= INT32_MAX) size = size * 10 + (percent_char(p) - '0');
    return size;
}

static int64_t percent_integer(struct percent *p, struct value v, char type)
{
    if (v.kind == VALUE_FLOAT && (type == 'd' || type == 'i' || type == 'u') && __builtin_fabs(v.real) < 9e18)
        return (int64_t)v.real;
    if (v.kind == VALUE_UNDEFINED) jinja_fail_undefined(p->j, v);
    if (v.kind != VALUE_INT && v.kind != VALUE_BOOL)
        jinja_fail(p->j, ST_INVALID, "%%%c format: a number is required, not %s", type, jinja_type_name(v));
    return v.kind == VALUE_INT ? v.integer : v.boolean;
}

static void percent_character(struct percent *p, struct spec *spec, struct value v)
{
    struct builder one;
    spec->precision = -1;
    if (v.kind == VALUE_STRING && v.string->chars == 1) {
        put_text(&p->b, spec, v.string, spec->align ? spec->align : '>');
        return;
    }
    if (v.kind != VALUE_INT || v.integer < 0 || v.integer > 0x10FFFF)
        jinja_fail(p->j, ST_INVALID, "%%c requires int or char");
    jinja_builder_init(&one, p->j);
    jinja_put_code_point(&one, (uint32_t)v.integer);
    put_text(&p->b, spec, jinja_built(&one).string, spec->align ? spec->align : '>');
}

static void percent_conversion(struct percent *p, struct spec *spec, struct value v)
{
    static const struct string zero = {.data = "0", .bytes = 1, .chars = 1};
    struct builder text;
    bool left = spec->align == '<';
    if (spec->zero && !left && strchr("diuxXofFeEgG", spec->type)) spec->fill = &zero, spec->align = '=';
    switch (spec->type) {
    case 's':
        put_text(&p->b, spec, jinja_to_string(p->j, v), left ? '<' : '>');
        return;
    case 'r':
    case 'a':
        jinja_builder_init(&text, p->j);
        jinja_put_repr(&text, v);
        put_text(&p->b, spec, jinja_built(&text).string, left ? '<' : '>');
        return;
    case 'c':
        percent_character(p, spec, v);
        return;
    case 'd':
    case 'i':
    case 'u':
    case 'x':
    case 'X':
    case 'o': {
        int64_t integer = percent_integer(p, v, spec->type);
        if (spec->type == 'i' || spec->type == 'u') spec->type = 'd';
        put_integer(&p->b, spec, integer);
        return;
    }
    default:
        break;
    }
    if (!spec->type || !strchr("fFeEgG", spec->type)) jinja_fail(p->j, ST_INVALID, "unsupported format character");
    if (v.kind == VALUE_UNDEFINED) jinja_fail_undefined(p->j, v);
    if (!jinja_is_number(v)) jinja_fail(p->j, ST_INVALID, "must be real number, not %s", jinja_type_name(v));
    put_float(&p->b, spec, jinja_real(v));
}

static void percent_one(struct percent *p)
{
    struct spec spec = {.precision = -1};
    struct value v = {.kind = VALUE_ABSENT};
    p->at++;
    if (percent_char(p) == '(') v = percent_named(p);
    for (; percent_char(p) && strchr("-+ 0#", percent_char(p)); p->at++) {
        char flag = percent_char(p);
        if (flag == '-')
            spec.align = '<';
        else if (flag == '0')
            spec.zero = true;
        else if (flag == '#')
            spec.alternate = true;
        else if (spec.sign != '+')
            spec.sign = flag;
    }
    spec.width = percent_size(p);
    if (spec.width < 0) spec.width = -spec.width, spec.align = '<';
    if (percent_char(p) == '.') {
        p->at++;
        spec.precision = percent_size(p);
        if (spec.precision < 0) spec.precision = 0;
    }
    while (percent_char(p) && strchr("hlL", percent_char(p))) p->at++;
    if (p->at >= p->format->bytes) jinja_fail(p->j, ST_INVALID, "incomplete format");
    spec.type = p->format->data[p->at++];
    if (spec.type == '%') {
        jinja_put_char(&p->b, '%', 1);
        return;
    }
    if (spec.precision > INT32_MAX || spec.width > INT32_MAX)
        jinja_fail(p->j, ST_LIMIT, "a format's width is too large");
    if (v.kind == VALUE_ABSENT) v = percent_argument(p);
    percent_conversion(p, &spec, v);
}

struct value jinja_percent(struct jinja *j, const struct string *format, struct value arguments)
{
    struct percent p = {.j = j, .format = format, .arguments = arguments};
    jinja_builder_init(&p.b, j);
    while (p.at < format->bytes) {
        size_t begin = p.at;
        while (p.at < format->bytes && format->data[p.at] != '%') p.at++;
        jinja_put_part(&p.b, format, begin, p.at);
        jinja_charge(j, 1);
        if (p.at < format->bytes) percent_one(&p);
    }
    bool mapping = arguments.kind == VALUE_DICT || arguments.kind == VALUE_LIST || arguments.kind == VALUE_RANGE ||
                   arguments.kind == VALUE_UNDEFINED;
    uint32_t given = arguments.kind == VALUE_TUPLE ? arguments.list->count : mapping ? 0 : 1;
    if (!p.named && p.used < given) jinja_fail(j, ST_INVALID, "not all arguments converted during string formatting");
    return jinja_built(&p.b);
}

/* ---- {} ------------------------------------------------------------------------------------------------------------------------------ */

struct brace {
    struct jinja *j;
    const struct call *call;
    uint32_t automatic;
    bool numbered;
};

static struct value brace_root(struct brace *x, const struct string *name)
{
    int64_t index = 0;
    bool overflow, digits = true;
    for (uint32_t i = 0; i < name->bytes; i++) digits = digits && name->data[i] >= '0' && name->data[i] <= '9';
    if (name->bytes == 0) {
        if (x->numbered)
            jinja_fail(x->j, ST_INVALID, "cannot switch from manual field specification to automatic field numbering");
        index = x->automatic++;
    } else if (digits) {
        if (x->automatic)
            jinja_fail(x->j, ST_INVALID, "cannot switch from automatic field numbering to manual field specification");
        x->numbered = true;
        if (!jinja_parse_int(name, 10, &index, &overflow)) index = INT32_MAX;
    } else {
        for (uint32_t i = 0; i < x->call->named_count; i++)
            if (jinja_string_equal(x->call->named[i].name, name)) return x->call->named[i].value;
        jinja_fail(x->j, ST_INVALID, "format: no argument named '%.*s'", name->bytes < 60 ? (int)name->bytes : 60,
                   name->data);
    }
    if (index >= x->call->count)
        jinja_fail(x->j, ST_INVALID, "replacement index %" PRId64 " out of range for positional args", index);
    return x->call->positional[index];
}

/* "name.attribute[item]" */
static struct value brace_field(struct brace *x, const struct string *field)
{
    size_t at = 0;
    while (at < field->bytes && field->data[at] != '.' && field->data[at] != '[') at++;
    struct value v = brace_root(x, jinja_string_part(x->j, field, 0, at));
    while (at < field->bytes) {
        char kind = field->data[at];
        size_t begin = at + 1, end = begin;
        if (kind != '.' && kind != '[')
            jinja_fail(x->j, ST_INVALID, "only '.' or '[' may follow ']' in format field specifier");
        while (end < field->bytes &&
               (kind == '[' ? field->data[end] != ']' : field->data[end] != '.' && field->data[end] != '['))
            end++;
        if (end == begin || (kind == '[' && end >= field->bytes))
            jinja_fail(x->j, ST_INVALID, "empty attribute in format string");
        const struct string *name = jinja_string_part(x->j, field, begin, end);
        int64_t index;
        bool overflow;
        if (kind == '.')
            v = jinja_get_attribute(x->j, v, name);
        else if (jinja_parse_int(name, 10, &index, &overflow))
            v = jinja_get_item(x->j, v, jinja_int(index));
        else
            v = jinja_get_item(x->j, v, jinja_of_string(name));
        at = end + (kind == '[');
        jinja_charge(x->j, 1);
    }
    return v;
}

static int64_t spec_number(const struct string *s, size_t *at)
{
    int64_t number = 0;
    for (; *at < s->bytes && s->data[*at] >= '0' && s->data[*at] <= '9'; (*at)++)
        if (number <= INT32_MAX) number = number * 10 + (s->data[*at] - '0');
    return number;
}

static bool spec_take(const struct string *s, size_t *at, const char *any, char *out)
{
    if (*at >= s->bytes || !s->data[*at] || !strchr(any, s->data[*at])) return false;
    *out = s->data[(*at)++];
    return true;
}

static struct spec parse_spec(struct jinja *j, const struct string *s)
{
    static const struct string zero = {.data = "0", .bytes = 1, .chars = 1};
    struct spec spec = {.precision = -1};
    struct cursor c;
    char found;
    size_t at = 0;
    jinja_cursor_init(&c, s);
    if (jinja_cursor_next(&c) && c.at < s->bytes && strchr("<>=^", s->data[c.at])) {
        spec.fill = jinja_string_part(j, s, 0, c.at);
        at = c.at;
    }
    spec_take(s, &at, "<>=^", &spec.align);
    spec_take(s, &at, "+- ", &spec.sign);
    spec.alternate = spec_take(s, &at, "#", &found);
    if (spec_take(s, &at, "0", &found)) {
        spec.zero = true;
        if (!spec.fill) spec.fill = &zero;
        if (!spec.align) spec.align = '=';
    }
    spec.width = spec_number(s, &at);
    spec_take(s, &at, ",_", &spec.grouping);
    if (spec_take(s, &at, ".", &found)) spec.precision = spec_number(s, &at);
    spec_take(s, &at, "bcdeEfFgGnosxX%", &spec.type);
    if (at != s->bytes || spec.width > INT32_MAX || spec.precision > INT32_MAX)
        jinja_fail(j, ST_INVALID, "invalid format specifier");
    return spec;
}

static void put_formatted(struct jinja *j, struct builder *b, struct value v, const struct string *text)
{
    if (text->bytes == 0) {
        jinja_put_str(b, v);
        return;
    }
    struct spec spec = parse_spec(j, text);
    bool text_type = spec.type == 0 || spec.type == 's', float_type = spec.type && strchr("eEfFgG%", spec.type);
    if (v.kind == VALUE_STRING && text_type) {
        if (spec.align == '=' && !spec.zero)
            jinja_fail(j, ST_INVALID, "'=' alignment not allowed in string format specifier");
        put_text(b, &spec, v.string, spec.align && spec.align != '=' ? spec.align : '<');
    } else if ((v.kind == VALUE_INT || v.kind == VALUE_BOOL) && !float_type && spec.type != 's') {
        if (spec.type == 'n' || spec.type == 'c') jinja_fail(j, ST_UNSUPPORTED, "format type '%c'", spec.type);
        if (spec.precision >= 0) jinja_fail(j, ST_INVALID, "precision not allowed in integer format specifier");
        put_integer(b, &spec, v.kind == VALUE_INT ? v.integer : v.boolean);
    } else if (jinja_is_number(v) && (float_type || spec.type == 0)) {
        put_float(b, &spec, jinja_real(v));
    } else {
        jinja_fail(j, ST_INVALID, "unsupported format for '%s'", jinja_type_name(v));
    }
}

static struct value converted(struct jinja *j, struct value v, char conversion)
{
    struct builder b;
    if (conversion == 0) return v;
    jinja_builder_init(&b, j);
    if (conversion == 's')
        jinja_put_str(&b, v);
    else if (conversion == 'r' || conversion == 'a')
        jinja_put_repr(&b, v);
    else
        jinja_fail(j, ST_INVALID, "unknown conversion specifier");
    return jinja_built(&b);
}

static struct value format_text(struct brace *x, const struct string *format, int depth);

/* One "{field!conversion:spec}" whose inside is [begin, end). */
static void brace_one(struct brace *x, struct builder *b, const struct string *format, size_t begin, size_t end,
                      int depth)
{
    size_t name = begin, bracket = 0;
    for (; name < end && (bracket || (format->data[name] != '!' && format->data[name] != ':')); name++)
        bracket = format->data[name] == '[' ? 1 : format->data[name] == ']' ? 0 : bracket;
    char conversion = 0;
    size_t spec = name;
    struct value v = brace_field(x, jinja_string_part(x->j, format, begin, name));
    if (name < end && format->data[name] == '!') {
        if (name + 1 >= end) jinja_fail(x->j, ST_INVALID, "end of string while looking for conversion specifier");
        conversion = format->data[name + 1];
        spec = name + 2;
        if (spec < end && format->data[spec] != ':')
            jinja_fail(x->j, ST_INVALID, "expected ':' after conversion specifier");
    }
    const struct string *text = jinja_string_part(x->j, format, spec < end ? spec + 1 : end, end);
    if (depth == 0) text = format_text(x, text, 1).string;
    put_formatted(x->j, b, converted(x->j, v, conversion), text);
}

static struct value format_text(struct brace *x, const struct string *format, int depth)
{
    struct builder b;
    jinja_builder_init(&b, x->j);
    for (size_t at = 0; at < format->bytes;) {
        size_t begin = at;
        while (at < format->bytes && format->data[at] != '{' && format->data[at] != '}') at++;
        jinja_put_part(&b, format, begin, at);
        jinja_charge(x->j, 1);
        if (at >= format->bytes) break;
        if (at + 1 < format->bytes && format->data[at] == format->data[at + 1]) {
            jinja_put_part(&b, format, at, at + 1);
            at += 2;
            continue;
        }
        if (format->data[at] == '}') jinja_fail(x->j, ST_INVALID, "single '}' encountered in format string");
        size_t end = at + 1, nested = 1;
        for (; end < format->bytes; end++) {
            nested += format->data[end] == '{';
            nested -= format->data[end] == '}';
            if (nested == 0) break;
        }
        if (end >= format->bytes) jinja_fail(x->j, ST_INVALID, "expected '}' before end of string");
        brace_one(x, &b, format, at + 1, end, depth);
        at = end + 1;
    }
    return jinja_built(&b);
}

struct value jinja_brace(struct jinja *j, const struct string *format, const struct call *call)
{
    struct brace x = {.j = j, .call = call};
    return format_text(&x, format, 0);
}
