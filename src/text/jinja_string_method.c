/* jinja_string_method.c - the methods of Python's str. Each result keeps track of the user's bytes. */
#include "text/jinja.h"

static const struct string *text_argument(struct jinja *j, struct value v, const char *method)
{
    if (v.kind == VALUE_STRING) return v.string;
    if (v.kind == VALUE_UNDEFINED) jinja_fail_undefined(j, v);
    jinja_fail(j, ST_INVALID, "%s needs a str, not %s", method, jinja_type_name(v));
}

/* A result of a method of Markup is Markup. */
static struct value like(struct value self, struct value result)
{
    if (self.string->markup && !result.string->markup && result.string != self.string)
        ((struct string *)result.string)->markup = true; /* just made, not yet shared */
    return result;
}

/* ---- strip ---------------------------------------------------------------------------------------------------------------------- */

static bool stripped(struct jinja *j, const struct string *chars, uint32_t code)
{
    struct cursor c;
    if (!chars) return jinja_is_space(code);
    jinja_charge(j, 1 + chars->bytes / 8);
    for (jinja_cursor_init(&c, chars); jinja_cursor_next(&c);)
        if (c.code_point == code) return true;
    return false;
}

static uint32_t last_char(const struct string *s, size_t begin, size_t end, size_t *at)
{
    uint32_t code = 0;
    *at = end - 1;
    while (*at > begin && (s->data[*at] & 0xC0) == 0x80) (*at)--;
    utf8_decode(s->data + *at, end - *at, &code, NULL);
    return code;
}

static struct value strip(struct jinja *j, struct value self, struct value chars, bool left, bool right)
{
    const struct string *s = self.string, *set = chars.kind <= VALUE_NONE && chars.kind != VALUE_UNDEFINED
                                                     ? NULL
                                                     : text_argument(j, chars, "strip()");
    struct cursor c;
    size_t begin = left ? s->bytes : 0, end = s->bytes, at;
    for (jinja_cursor_init(&c, s); left && jinja_cursor_next(&c);) {
        if (stripped(j, set, c.code_point)) continue;
        begin = c.begin;
        break;
    }
    while (right && end > begin && stripped(j, set, last_char(s, begin, end, &at))) end = at;
    jinja_charge(j, (begin + s->bytes - end) / 16);
    return jinja_of_string(jinja_string_part(j, s, begin, end));
}

static struct value str_strip(struct jinja *j, struct value self, const struct value *arguments)
{
    return strip(j, self, arguments[0], true, true);
}

static struct value str_lstrip(struct jinja *j, struct value self, const struct value *arguments)
{
    return strip(j, self, arguments[0], true, false);
}

static struct value str_rstrip(struct jinja *j, struct value self, const struct value *arguments)
{
    return strip(j, self, arguments[0], false, true);
}

/* ---- split ---------------------------------------------------------------------------------------------------------------------- */

static void put_part(struct jinja *j, struct list *list, const struct string *s, size_t begin, size_t end)
{
    jinja_list_put(j, list, jinja_of_string(jinja_string_part(j, s, begin, end)));
}

static struct list *split_space(struct jinja *j, const struct string *s, int64_t most)
{
    struct list *list = jinja_list_new(j, 0);
    struct cursor c;
    size_t begin = SIZE_MAX;
    jinja_cursor_init(&c, s);
    while (jinja_cursor_next(&c)) {
        bool space = jinja_is_space(c.code_point);
        if (space && begin != SIZE_MAX) {
            put_part(j, list, s, begin, c.begin);
            begin = SIZE_MAX;
        } else if (!space && begin == SIZE_MAX) {
            begin = c.begin;
            if (most >= 0 && list->count >= most) break;
        }
    }
    jinja_charge(j, s->bytes / 16);
    if (begin == SIZE_MAX) return list;
    size_t end = s->bytes, at; /* the rest, when the most is reached, keeps its inner space only */
    if (most >= 0 && list->count >= most) {
        put_part(j, list, s, begin, end);
        return list;
    }
    while (end > begin && jinja_is_space(last_char(s, begin, end, &at))) end = at;
    put_part(j, list, s, begin, end);
    return list;
}

static void reverse_list(struct list *list)
{
    for (uint32_t i = 0, k = list->count; i + 1 < k; i++) {
        struct value v = list->items[i];
        list->items[i] = list->items[--k];
        list->items[k] = v;
    }
}

static struct list *rsplit_space(struct jinja *j, const struct string *s, int64_t most)
{
    struct list *list = jinja_list_new(j, 0);
    size_t end = s->bytes, at;
    for (;;) {
        while (end > 0 && jinja_is_space(last_char(s, 0, end, &at))) end = at;
        if (end == 0) break;
        size_t begin = end;
        if (most >= 0 && list->count >= most) begin = 0;
        while (begin > 0 && !jinja_is_space(last_char(s, 0, begin, &at))) begin = at;
        put_part(j, list, s, begin, end);
        end = begin;
    }
    jinja_charge(j, s->bytes / 16);
    reverse_list(list);
    return list;
}

static struct list *split_by(struct jinja *j, const struct string *s, const struct string *by, int64_t most)
{
    struct list *list = jinja_list_new(j, 0);
    size_t begin = 0;
    for (size_t at; most < 0 || list->count < most; begin = at + by->bytes) {
        at = jinja_string_find(j, s, by, begin, s->bytes);
        if (at == SIZE_MAX) break;
        put_part(j, list, s, begin, at);
    }
    put_part(j, list, s, begin, s->bytes);
    return list;
}

static struct list *rsplit_by(struct jinja *j, const struct string *s, const struct string *by, int64_t most)
{
    struct list *list = jinja_list_new(j, 0);
    size_t end = s->bytes;
    for (size_t at; most < 0 || list->count < most; end = at) {
        at = jinja_string_find_last(j, s, by, 0, end);
        if (at == SIZE_MAX) break;
        put_part(j, list, s, at + by->bytes, end);
    }
    put_part(j, list, s, 0, end);
    reverse_list(list);
    return list;
}

static struct value split(struct jinja *j, struct value self, const struct value *arguments, bool right)
{
    int64_t most = arguments[1].kind == VALUE_ABSENT ? -1 : jinja_to_int(j, arguments[1], "maxsplit");
    bool spaces = arguments[0].kind == VALUE_ABSENT || arguments[0].kind == VALUE_NONE;
    if (spaces)
        return jinja_of_list(right ? rsplit_space(j, self.string, most) : split_space(j, self.string, most),
                             VALUE_LIST);
    const struct string *by = text_argument(j, arguments[0], "split()");
    if (by->bytes == 0) jinja_fail(j, ST_INVALID, "empty separator");
    return jinja_of_list(right ? rsplit_by(j, self.string, by, most) : split_by(j, self.string, by, most), VALUE_LIST);
}

static struct value str_split(struct jinja *j, struct value self, const struct value *arguments)
{
    return split(j, self, arguments, false);
}

static struct value str_rsplit(struct jinja *j, struct value self, const struct value *arguments)
{
    return split(j, self, arguments, true);
}

static struct value partition(struct jinja *j, struct value self, struct value separator, bool right)
{
    const struct string *s = self.string, *by = text_argument(j, separator, "partition()");
    struct list *list = jinja_list_new(j, 3);
    if (by->bytes == 0) jinja_fail(j, ST_INVALID, "empty separator");
    size_t at = right ? jinja_string_find_last(j, s, by, 0, s->bytes) : jinja_string_find(j, s, by, 0, s->bytes);
    if (at == SIZE_MAX) {
        for (int i = 0; i < 3; i++) jinja_list_put(j, list, i == (right ? 2 : 0) ? self : jinja_text(j, ""));
    } else {
        put_part(j, list, s, 0, at);
        put_part(j, list, s, at, at + by->bytes);
        put_part(j, list, s, at + by->bytes, s->bytes);
    }
    return jinja_of_list(list, VALUE_TUPLE);
}

static struct value str_partition(struct jinja *j, struct value self, const struct value *arguments)
{
    return partition(j, self, arguments[0], false);
}

static struct value str_rpartition(struct jinja *j, struct value self, const struct value *arguments)
{
    return partition(j, self, arguments[0], true);
}

static struct value str_splitlines(struct jinja *j, struct value self, const struct value *arguments)
{
    const struct string *s = self.string;
    struct list *list = jinja_list_new(j, 0);
    struct cursor c;
    size_t begin = 0;
    bool keep = jinja_truth(arguments[0]);
    for (jinja_cursor_init(&c, s); jinja_cursor_next(&c);) {
        if (!jinja_is_line_end(c.code_point)) continue;
        size_t end = c.begin;
        if (c.code_point == '\r' && c.at < s->bytes && s->data[c.at] == '\n') c.at++;
        put_part(j, list, s, begin, keep ? c.at : end);
        begin = c.at;
    }
    jinja_charge(j, s->bytes / 16);
    if (begin < s->bytes) put_part(j, list, s, begin, s->bytes);
    return jinja_of_list(list, VALUE_LIST);
}

/* ---- find ------------------------------------------------------------------------------------------------------------------------ */

/* Python's s[start:end] as bytes; false when start lies beyond the end. */
static bool byte_range(struct jinja *j, const struct string *s, struct value start, struct value end, size_t *from,
                       size_t *to)
{
    int64_t begin = start.kind == VALUE_ABSENT || start.kind == VALUE_NONE ? 0 : jinja_to_int(j, start, "start");
    int64_t stop = end.kind == VALUE_ABSENT || end.kind == VALUE_NONE ? s->chars : jinja_to_int(j, end, "end");
    if (begin < 0) begin = begin + s->chars < 0 ? 0 : begin + s->chars;
    if (stop < 0) stop = stop + s->chars < 0 ? 0 : stop + s->chars;
    *from = jinja_string_offset(j, s, begin);
    *to = jinja_string_offset(j, s, stop);
    return begin <= s->chars && *from <= *to;
}

static int64_t char_index(struct jinja *j, const struct string *s, size_t byte)
{
    int64_t chars = 0;
    if (s->chars == s->bytes) return (int64_t)byte;
    for (size_t i = 0; i < byte; i++) chars += (s->data[i] & 0xC0) != 0x80;
    jinja_charge(j, byte / 64);
    return chars;
}

static int64_t find(struct jinja *j, struct value self, const struct value *arguments, bool last)
{
    const struct string *part = text_argument(j, arguments[0], "find()");
    size_t from, to, at = SIZE_MAX;
    if (byte_range(j, self.string, arguments[1], arguments[2], &from, &to))
        at = last ? jinja_string_find_last(j, self.string, part, from, to)
                  : jinja_string_find(j, self.string, part, from, to);
    return at == SIZE_MAX ? -1 : char_index(j, self.string, at);
}

static struct value str_find(struct jinja *j, struct value self, const struct value *arguments)
{
    return jinja_int(find(j, self, arguments, false));
}

static struct value str_rfind(struct jinja *j, struct value self, const struct value *arguments)
{
    return jinja_int(find(j, self, arguments, true));
}

static struct value found_or_fail(struct jinja *j, int64_t at)
{
    if (at < 0) jinja_fail(j, ST_INVALID, "substring not found");
    return jinja_int(at);
}

static struct value str_index(struct jinja *j, struct value self, const struct value *arguments)
{
    return found_or_fail(j, find(j, self, arguments, false));
}

static struct value str_rindex(struct jinja *j, struct value self, const struct value *arguments)
{
    return found_or_fail(j, find(j, self, arguments, true));
}

static struct value str_count(struct jinja *j, struct value self, const struct value *arguments)
{
    const struct string *part = text_argument(j, arguments[0], "count()"), *s = self.string;
    size_t from, to;
    int64_t count = 0;
    if (!byte_range(j, s, arguments[1], arguments[2], &from, &to)) return jinja_int(0);
    if (part->bytes == 0) return jinja_int(char_index(j, s, to) - char_index(j, s, from) + 1);
    for (size_t at; (at = jinja_string_find(j, s, part, from, to)) != SIZE_MAX; from = at + part->bytes, count++)
        jinja_charge(j, 1);
    return jinja_int(count);
}

static bool has_end(struct jinja *j, const struct string *s, size_t from, size_t to, struct value part, bool at_end)
{
    if (part.kind != VALUE_STRING)
        jinja_fail(j, ST_INVALID, "startswith() and endswith() need a str or a tuple of str");
    size_t bytes = part.string->bytes;
    return bytes <= to - from && memcmp(s->data + (at_end ? to - bytes : from), part.string->data, bytes) == 0;
}

static struct value ends(struct jinja *j, struct value self, const struct value *arguments, bool at_end)
{
    size_t from, to;
    if (!byte_range(j, self.string, arguments[1], arguments[2], &from, &to)) return jinja_bool(false);
    if (arguments[0].kind != VALUE_TUPLE) return jinja_bool(has_end(j, self.string, from, to, arguments[0], at_end));
    for (uint32_t i = 0; i < arguments[0].list->count; i++) {
        jinja_charge(j, 1);
        if (has_end(j, self.string, from, to, arguments[0].list->items[i], at_end)) return jinja_bool(true);
    }
    return jinja_bool(false);
}

static struct value str_startswith(struct jinja *j, struct value self, const struct value *arguments)
{
    return ends(j, self, arguments, false);
}

static struct value str_endswith(struct jinja *j, struct value self, const struct value *arguments)
{
    return ends(j, self, arguments, true);
}

static struct value str_removeprefix(struct jinja *j, struct value self, const struct value *arguments)
{
    const struct string *s = self.string, *part = text_argument(j, arguments[0], "removeprefix()");
    return has_end(j, s, 0, s->bytes, arguments[0], false)
               ? jinja_of_string(jinja_string_part(j, s, part->bytes, s->bytes))
               : self;
}

static struct value str_removesuffix(struct jinja *j, struct value self, const struct value *arguments)
{
    const struct string *s = self.string, *part = text_argument(j, arguments[0], "removesuffix()");
    bool there = part->bytes && has_end(j, s, 0, s->bytes, arguments[0], true);
    return there ? jinja_of_string(jinja_string_part(j, s, 0, s->bytes - part->bytes)) : self;
}

/* ---- making others ----------------------------------------------------------------------------------------------------------------- */

static struct value str_replace(struct jinja *j, struct value self, const struct value *arguments)
{
    const struct string *s = self.string, *from = text_argument(j, arguments[0], "replace()");
    const struct string *to = text_argument(j, arguments[1], "replace()");
    int64_t most = arguments[2].kind == VALUE_ABSENT ? -1 : jinja_to_int(j, arguments[2], "count"), done = 0;
    struct builder b;
    size_t begin = 0;
    bool found = false;
    if (s->markup && !to->markup) to = jinja_string_escape(j, to);
    jinja_builder_init(&b, j);
    for (size_t search = 0; most < 0 || done < most; done++) {
        size_t at = jinja_string_find(j, s, from, search, s->bytes);
        if (at == SIZE_MAX) break;
        found = true;
        jinja_charge(j, 1);
        jinja_put_part(&b, s, begin, at);
        jinja_put_string(&b, to);
        begin = at + from->bytes;
        search = begin;
        if (from->bytes) continue;
        if (at >= s->bytes) break; /* between all characters, and at both ends */
        search = at + 1;
        while (search < s->bytes && (s->data[search] & 0xC0) == 0x80) search++;
    }
    if (!found) return self;
    jinja_put_part(&b, s, begin, s->bytes);
    return like(self, jinja_built(&b));
}

static struct value str_join(struct jinja *j, struct value self, const struct value *arguments)
{
    struct iterator it;
    struct value item;
    struct builder b;
    bool first = true;
    jinja_builder_init(&b, j);
    for (jinja_iterate(j, arguments[0], &it); jinja_next(j, &it, &item); first = false) {
        if (!first) jinja_put_string(&b, self.string);
        const struct string *text = text_argument(j, item, "join()");
        jinja_put_string(&b, self.string->markup && !text->markup ? jinja_string_escape(j, text) : text);
    }
    return like(self, jinja_built(&b));
}

typedef uint32_t case_mapping(uint32_t code_point, uint32_t out[3]);

static void put_mapped(struct builder *b, const struct cursor *c, case_mapping *map)
{
    uint32_t out[3], count = map(c->code_point, out);
    b->user = c->user;
    for (uint32_t i = 0; i < count; i++) jinja_put_code_point(b, out[i]);
}

/* Greek sigma becomes its final form at the end of a word. */
static uint32_t final_sigma(const struct string *s, const struct cursor *c)
{
    struct cursor next = *c;
    size_t at;
    if (c->begin == 0 || !jinja_is_cased(last_char(s, 0, c->begin, &at))) return 0x3C3;
    return jinja_cursor_next(&next) && jinja_is_cased(next.code_point) ? 0x3C3 : 0x3C2;
}

static void put_lower(struct builder *b, const struct string *s, const struct cursor *c)
{
    if (c->code_point != 0x3A3) {
        put_mapped(b, c, jinja_to_lower);
        return;
    }
    b->user = c->user;
    jinja_put_code_point(b, final_sigma(s, c));
}

static struct value map_case(struct jinja *j, struct value self, bool upper)
{
    struct builder b;
    struct cursor c;
    jinja_builder_init(&b, j);
    for (jinja_cursor_init(&c, self.string); jinja_cursor_next(&c);) {
        if (upper)
            put_mapped(&b, &c, jinja_to_upper);
        else
            put_lower(&b, self.string, &c);
    }
    jinja_charge(j, self.string->bytes / 3);
    return like(self, jinja_built(&b));
}

static struct value str_upper(struct jinja *j, struct value self, const struct value *arguments)
{
    (void)arguments;
    return map_case(j, self, true);
}

static struct value str_lower(struct jinja *j, struct value self, const struct value *arguments)
{
    (void)arguments;
    return map_case(j, self, false);
}

static struct value str_casefold(struct jinja *j, struct value self, const struct value *arguments)
{
    struct builder b;
    struct cursor c;
    (void)arguments;
    jinja_builder_init(&b, j);
    for (jinja_cursor_init(&c, self.string); jinja_cursor_next(&c);) put_mapped(&b, &c, jinja_to_folded);
    jinja_charge(j, self.string->bytes / 3);
    return like(self, jinja_built(&b));
}

static struct value str_capitalize(struct jinja *j, struct value self, const struct value *arguments)
{
    struct builder b;
    struct cursor c;
    (void)arguments;
    jinja_builder_init(&b, j);
    for (jinja_cursor_init(&c, self.string); jinja_cursor_next(&c);) {
        if (c.begin == 0)
            put_mapped(&b, &c, jinja_to_title);
        else
            put_lower(&b, self.string, &c);
    }
    jinja_charge(j, self.string->bytes / 3);
    return like(self, jinja_built(&b));
}

static struct value str_title(struct jinja *j, struct value self, const struct value *arguments)
{
    struct builder b;
    struct cursor c;
    bool inside = false;
    (void)arguments;
    jinja_builder_init(&b, j);
    for (jinja_cursor_init(&c, self.string); jinja_cursor_next(&c); inside = jinja_is_cased(c.code_point)) {
        if (inside)
            put_lower(&b, self.string, &c);
        else
            put_mapped(&b, &c, jinja_to_title);
    }
    jinja_charge(j, self.string->bytes / 3);
    return like(self, jinja_built(&b));
}

static struct value str_swapcase(struct jinja *j, struct value self, const struct value *arguments)
{
    struct builder b;
    struct cursor c;
    (void)arguments;
    jinja_builder_init(&b, j);
    for (jinja_cursor_init(&c, self.string); jinja_cursor_next(&c);) {
        if (jinja_is_upper(c.code_point))
            put_lower(&b, self.string, &c);
        else
            put_mapped(&b, &c, jinja_is_lower(c.code_point) ? jinja_to_upper : jinja_to_lower);
    }
    jinja_charge(j, self.string->bytes / 3);
    return like(self, jinja_built(&b));
}

static struct value pad(struct jinja *j, struct value self, const struct value *arguments, int64_t left_share)
{
    const struct string *fill =
        arguments[1].kind == VALUE_ABSENT ? NULL : text_argument(j, arguments[1], "fill character");
    int64_t width = jinja_to_int(j, arguments[0], "width"), missing = width - self.string->chars;
    if (fill && fill->chars != 1) jinja_fail(j, ST_INVALID, "the fill character must be exactly one character long");
    if (missing <= 0) return self;
    if (missing > (int64_t)j->bytes_max) jinja_fail(j, ST_LIMIT, "a text grows beyond %zu bytes", j->bytes_max);
    int64_t left = left_share == 1 ? missing / 2 + (missing & width & 1) : left_share == 2 ? missing : 0;
    struct builder b;
    jinja_builder_init(&b, j);
    jinja_charge(j, (uint64_t)missing / 16);
    for (int64_t i = 0; i < missing; i++) {
        if (i == left) jinja_put_string(&b, self.string);
        if (fill)
            jinja_put_string(&b, fill);
        else
            jinja_put_char(&b, ' ', 1);
    }
    if (left == missing) jinja_put_string(&b, self.string);
    return like(self, jinja_built(&b));
}

static struct value str_ljust(struct jinja *j, struct value self, const struct value *arguments)
{
    return pad(j, self, arguments, 0);
}

static struct value str_center(struct jinja *j, struct value self, const struct value *arguments)
{
    return pad(j, self, arguments, 1);
}

static struct value str_rjust(struct jinja *j, struct value self, const struct value *arguments)
{
    return pad(j, self, arguments, 2);
}

static struct value str_zfill(struct jinja *j, struct value self, const struct value *arguments)
{
    const struct string *s = self.string;
    int64_t missing = jinja_to_int(j, arguments[0], "width") - s->chars;
    if (missing <= 0) return self;
    size_t sign = s->bytes && (s->data[0] == '-' || s->data[0] == '+');
    struct builder b;
    jinja_builder_init(&b, j);
    jinja_put_part(&b, s, 0, sign);
    jinja_put_char(&b, '0', (size_t)missing);
    jinja_put_part(&b, s, sign, s->bytes);
    return like(self, jinja_built(&b));
}

static struct value str_expandtabs(struct jinja *j, struct value self, const struct value *arguments)
{
    int64_t size = arguments[0].kind == VALUE_ABSENT ? 8 : jinja_to_int(j, arguments[0], "tabsize"), column = 0;
    struct builder b;
    struct cursor c;
    jinja_builder_init(&b, j);
    for (jinja_cursor_init(&c, self.string); jinja_cursor_next(&c);) {
        b.user = c.user;
        if (c.code_point == '\t') {
            int64_t step = size > 0 ? size - column % size : 0;
            jinja_put_char(&b, ' ', (size_t)step);
            column += step;
        } else {
            jinja_put(&b, self.string->data + c.begin, c.at - c.begin);
            column = c.code_point == '\n' || c.code_point == '\r' ? 0 : column + 1;
        }
    }
    jinja_charge(j, self.string->bytes / 8);
    return like(self, jinja_built(&b));
}

static struct value str_format(struct jinja *j, struct value self, const struct call *call)
{
    return jinja_brace(j, self.string, call);
}

/* ---- asking ---------------------------------------------------------------------------------------------------------------------- */

static bool all_chars(struct jinja *j, const struct string *s, bool (*is)(uint32_t c))
{
    struct cursor c;
    jinja_charge(j, s->bytes / 16);
    for (jinja_cursor_init(&c, s); jinja_cursor_next(&c);)
        if (!is(c.code_point)) return false;
    return s->bytes > 0;
}

/* Every cased character is of the wanted case, and there is one. */
static bool all_cased(struct jinja *j, const struct string *s, bool (*is)(uint32_t c))
{
    struct cursor c;
    bool any = false;
    jinja_charge(j, s->bytes / 16);
    for (jinja_cursor_init(&c, s); jinja_cursor_next(&c);) {
        if (is(c.code_point))
            any = true;
        else if (jinja_is_cased(c.code_point))
            return false;
    }
    return any;
}

static bool is_alnum(uint32_t c)
{
    return jinja_is_alpha(c) || jinja_is_numeric(c);
}

static bool is_ascii(uint32_t c)
{
    return c < 0x80;
}

#define ASKING(name, all, is)                                                                         \
    static struct value str_##name(struct jinja *j, struct value self, const struct value *arguments) \
    {                                                                                                 \
        (void)arguments;                                                                              \
        return jinja_bool(all(j, self.string, is));                                                   \
    }
ASKING(isspace, all_chars, jinja_is_space)
ASKING(isalpha, all_chars, jinja_is_alpha)
ASKING(isalnum, all_chars, is_alnum)
ASKING(isdecimal, all_chars, jinja_is_decimal)
ASKING(isdigit, all_chars, jinja_is_digit)
ASKING(isnumeric, all_chars, jinja_is_numeric)
ASKING(isupper, all_cased, jinja_is_upper)
ASKING(islower, all_cased, jinja_is_lower)

static struct value str_isprintable(struct jinja *j, struct value self, const struct value *arguments)
{
    (void)arguments;
    return jinja_bool(self.string->bytes == 0 || all_chars(j, self.string, jinja_is_printable));
}

static struct value str_isascii(struct jinja *j, struct value self, const struct value *arguments)
{
    (void)arguments;
    return jinja_bool(self.string->bytes == 0 || all_chars(j, self.string, is_ascii));
}

static struct value str_istitle(struct jinja *j, struct value self, const struct value *arguments)
{
    struct cursor c;
    bool inside = false, any = false;
    (void)arguments;
    jinja_charge(j, self.string->bytes / 16);
    for (jinja_cursor_init(&c, self.string); jinja_cursor_next(&c);) {
        bool upper = jinja_is_upper(c.code_point), cased = jinja_is_cased(c.code_point);
        if (cased && upper == inside) return jinja_bool(false);
        any = any || cased;
        inside = cased;
    }
    return jinja_bool(any);
}

const struct builtin jinja_string_methods[] = {
    {.name = "strip", .fixed = str_strip, .parameters = "/chars"},
    {.name = "split", .fixed = str_split, .parameters = "sep maxsplit"},
    {.name = "startswith", .fixed = str_startswith, .parameters = "/prefix start end", .required = 1},
    {.name = "endswith", .fixed = str_endswith, .parameters = "/suffix start end", .required = 1},
    {.name = "replace", .fixed = str_replace, .parameters = "/old new count", .required = 2},
    {.name = "rstrip", .fixed = str_rstrip, .parameters = "/chars"},
    {.name = "lstrip", .fixed = str_lstrip, .parameters = "/chars"},
    {.name = "upper", .fixed = str_upper, .parameters = ""},
    {.name = "lower", .fixed = str_lower, .parameters = ""},
    {.name = "casefold", .fixed = str_casefold, .parameters = ""},
    {.name = "title", .fixed = str_title, .parameters = ""},
    {.name = "capitalize", .fixed = str_capitalize, .parameters = ""},
    {.name = "swapcase", .fixed = str_swapcase, .parameters = ""},
    {.name = "format", .variadic = str_format},
    {.name = "join", .fixed = str_join, .parameters = "/iterable", .required = 1},
    {.name = "find", .fixed = str_find, .parameters = "/sub start end", .required = 1},
    {.name = "rfind", .fixed = str_rfind, .parameters = "/sub start end", .required = 1},
    {.name = "index", .fixed = str_index, .parameters = "/sub start end", .required = 1},
    {.name = "rindex", .fixed = str_rindex, .parameters = "/sub start end", .required = 1},
    {.name = "count", .fixed = str_count, .parameters = "/sub start end", .required = 1},
    {.name = "rsplit", .fixed = str_rsplit, .parameters = "sep maxsplit"},
    {.name = "splitlines", .fixed = str_splitlines, .parameters = "keepends"},
    {.name = "partition", .fixed = str_partition, .parameters = "/sep", .required = 1},
    {.name = "rpartition", .fixed = str_rpartition, .parameters = "/sep", .required = 1},
    {.name = "removeprefix", .fixed = str_removeprefix, .parameters = "/prefix", .required = 1},
    {.name = "removesuffix", .fixed = str_removesuffix, .parameters = "/suffix", .required = 1},
    {.name = "ljust", .fixed = str_ljust, .parameters = "/width fillchar", .required = 1},
    {.name = "center", .fixed = str_center, .parameters = "/width fillchar", .required = 1},
    {.name = "rjust", .fixed = str_rjust, .parameters = "/width fillchar", .required = 1},
    {.name = "zfill", .fixed = str_zfill, .parameters = "/width", .required = 1},
    {.name = "expandtabs", .fixed = str_expandtabs, .parameters = "tabsize"},
    {.name = "isspace", .fixed = str_isspace, .parameters = ""},
    {.name = "isalpha", .fixed = str_isalpha, .parameters = ""},
    {.name = "isalnum", .fixed = str_isalnum, .parameters = ""},
    {.name = "isdecimal", .fixed = str_isdecimal, .parameters = ""},
    {.name = "isdigit", .fixed = str_isdigit, .parameters = ""},
    {.name = "isnumeric", .fixed = str_isnumeric, .parameters = ""},
    {.name = "isupper", .fixed = str_isupper, .parameters = ""},
    {.name = "islower", .fixed = str_islower, .parameters = ""},
    {.name = "isprintable", .fixed = str_isprintable, .parameters = ""},
    {.name = "isascii", .fixed = str_isascii, .parameters = ""},
    {.name = "istitle", .fixed = str_istitle, .parameters = ""},
    {.name = NULL},
};
