/* jinja_string.c - strings that know which of their bytes the user wrote, and the builder that every new string and the output
 * go through. A part of a string shares its bytes; nothing here changes a string once made. */
#include "text/jinja.h"

/* ---- builder --------------------------------------------------------------------------------------------------------- */

void jinja_builder_init(struct builder *b, struct jinja *j)
{
    memset(b, 0, sizeof *b);
    b->j = j;
}

static void make_room(struct builder *b, size_t bytes)
{
    struct jinja *j = b->j;
    if (bytes > j->bytes_max - b->bytes) jinja_fail(j, ST_LIMIT, "a text grows beyond %zu bytes", j->bytes_max);
    if (bytes <= b->capacity - b->bytes) return;
    size_t wanted = b->capacity ? b->capacity * 2 : 64;
    while (wanted < b->bytes + bytes) wanted *= 2;
    char *grown = jinja_alloc(j, wanted);
    if (b->bytes) memcpy(grown, b->data, b->bytes);
    b->data = grown;
    b->capacity = wanted;
}

static void mark_user(struct builder *b, size_t begin, size_t end)
{
    if (begin == end) return;
    if (b->span_count && b->spans[b->span_count - 1].end == begin) {
        b->spans[b->span_count - 1].end = end;
        return;
    }
    b->spans = jinja_grow(b->j, b->spans, b->span_count, &b->span_capacity, sizeof *b->spans);
    b->spans[b->span_count++] = (struct text_range){begin, end};
}

static void put_bytes(struct builder *b, const void *data, size_t bytes)
{
    if (bytes == 0) return;
    make_room(b, bytes);
    memcpy(b->data + b->bytes, data, bytes);
    b->bytes += bytes;
    jinja_charge(b->j, bytes / 64);
}

void jinja_put(struct builder *b, const void *data, size_t bytes)
{
    size_t begin = b->bytes;
    put_bytes(b, data, bytes);
    if (b->user) mark_user(b, begin, b->bytes);
}

void jinja_put_text(struct builder *b, const char *text)
{
    jinja_put(b, text, strlen(text));
}

void jinja_put_char(struct builder *b, char c, size_t count)
{
    size_t begin = b->bytes;
    if (count == 0) return;
    make_room(b, count);
    memset(b->data + b->bytes, c, count);
    b->bytes += count;
    jinja_charge(b->j, count / 64);
    if (b->user) mark_user(b, begin, b->bytes);
}

void jinja_put_code_point(struct builder *b, uint32_t code_point)
{
    char bytes[4];
    uint32_t count = utf8_encode(code_point, bytes);
    if (count == 0) jinja_fail(b->j, ST_INVALID, "U+%04X is not a character", code_point);
    jinja_put(b, bytes, count);
}

void jinja_put_part(struct builder *b, const struct string *s, size_t begin, size_t end)
{
    size_t at = b->bytes;
    put_bytes(b, s->data + begin, end - begin);
    if (b->user) mark_user(b, at, b->bytes);
    if (b->user || s->span_count == 0) return;
    for (uint32_t i = 0; i < s->span_count && s->spans[i].begin < end; i++) {
        if (s->spans[i].end <= begin) continue;
        size_t from = s->spans[i].begin > begin ? s->spans[i].begin : begin;
        size_t to = s->spans[i].end < end ? s->spans[i].end : end;
        mark_user(b, at + (from - begin), at + (to - begin));
    }
    jinja_charge(b->j, s->span_count / 16);
}

void jinja_put_string(struct builder *b, const struct string *s)
{
    jinja_put_part(b, s, 0, s->bytes);
}

void jinja_put_spread(struct builder *b, size_t begin)
{
    uint32_t first = b->span_count;
    while (first > 0 && b->spans[first - 1].end > begin) first--;
    if (first == b->span_count) return;
    if (b->spans[first].begin > begin) b->spans[first].begin = begin;
    b->spans[first].end = b->bytes;
    b->span_count = first + 1;
    if (first > 0 && b->spans[first - 1].end == b->spans[first].begin) {
        b->spans[first - 1].end = b->bytes;
        b->span_count = first;
    }
}

static uint32_t count_chars(const char *data, size_t bytes)
{
    uint32_t chars = 0;
    for (size_t i = 0; i < bytes; i++) chars += (data[i] & 0xC0) != 0x80;
    return chars;
}

struct value jinja_built(struct builder *b)
{
    struct string *s = jinja_alloc(b->j, sizeof *s);
    s->data = b->data ? b->data : "";
    s->bytes = (uint32_t)b->bytes;
    s->chars = count_chars(s->data, s->bytes);
    s->spans = b->spans;
    s->span_count = b->span_count;
    s->owner = b->j->renders ? s : NULL; /* a template's own texts are shared by threads */
    s->used = s->bytes;
    s->capacity = (uint32_t)b->capacity;
    s->tail_spans = b->spans;
    s->span_used = b->span_count;
    s->span_capacity = b->span_capacity;
    return jinja_of_string(s);
}

/* The spans of `joined` = a + b. The owner's array is extended where only `a` ends in it; a span that would grow is copied, since
 * `a` still shows its old end. */
static void append_spans(struct jinja *j, struct string *joined, const struct string *a, const struct string *b)
{
    struct string *owner = joined->owner;
    bool grows =
        a->span_count && b->span_count && a->spans[a->span_count - 1].end == a->bytes && b->spans[0].begin == 0;
    bool shared = a->spans != owner->tail_spans || a->span_count != owner->span_used;
    joined->spans = a->spans;
    joined->span_count = a->span_count;
    if (b->span_count == 0) return;
    if (grows || shared || b->span_count > owner->span_capacity - owner->span_used) {
        uint32_t room = (a->span_count + b->span_count) * 2;
        struct text_range *spans = jinja_array(j, room, sizeof *spans);
        if (a->span_count) memcpy(spans, a->spans, a->span_count * sizeof *spans);
        owner->tail_spans = spans;
        owner->span_used = a->span_count;
        owner->span_capacity = room;
    }
    struct builder spans = {.j = j, .spans = (struct text_range *)owner->tail_spans, .span_count = owner->span_used};
    spans.span_capacity = owner->span_capacity;
    for (uint32_t i = 0; i < b->span_count; i++)
        mark_user(&spans, b->spans[i].begin + a->bytes, b->spans[i].end + a->bytes);
    jinja_charge(j, b->span_count / 16);
    owner->span_used = spans.span_count;
    joined->spans = owner->tail_spans;
    joined->span_count = spans.span_count;
}

const struct string *jinja_string_append(struct jinja *j, const struct string *a, const struct string *b)
{
    struct string *owner = a->owner;
    if (!owner || a->data != owner->data || a->bytes != owner->used || b->bytes > owner->capacity - owner->used) {
        struct builder both;
        jinja_builder_init(&both, j);
        jinja_put_string(&both, a);
        jinja_put_string(&both, b);
        return jinja_built(&both).string;
    }
    if (a->bytes + (size_t)b->bytes > j->bytes_max)
        jinja_fail(j, ST_LIMIT, "a text grows beyond %zu bytes", j->bytes_max);
    memcpy((char *)owner->data + owner->used, b->data, b->bytes);
    owner->used += b->bytes;
    struct string *joined = jinja_alloc(j, sizeof *joined);
    *joined =
        (struct string){.data = a->data, .bytes = a->bytes + b->bytes, .chars = a->chars + b->chars, .owner = owner};
    append_spans(j, joined, a, b);
    jinja_charge(j, b->bytes / 64);
    return joined;
}

/* ---- cursor ---------------------------------------------------------------------------------------------------------- */

void jinja_cursor_init(struct cursor *c, const struct string *s)
{
    memset(c, 0, sizeof *c);
    c->s = s;
}

bool jinja_cursor_next(struct cursor *c)
{
    if (c->at >= c->s->bytes) return false;
    c->begin = c->at;
    uint32_t bytes = utf8_decode(c->s->data + c->at, c->s->bytes - c->at, &c->code_point, NULL);
    if (bytes == 0) bytes = 1, c->code_point = 0xFFFD;
    while (c->span < c->s->span_count && c->s->spans[c->span].end <= c->at) c->span++;
    c->user = c->span < c->s->span_count && c->s->spans[c->span].begin <= c->at;
    c->at += bytes;
    return true;
}

/* ---- strings --------------------------------------------------------------------------------------------------------- */

const struct string *jinja_string_new(struct jinja *j, const char *data, size_t bytes, bool user)
{
    if (bytes > UINT32_MAX / 2) jinja_fail(j, ST_LIMIT, "a text of %zu bytes is too long", bytes);
    struct string *s = jinja_alloc(j, sizeof *s);
    s->data = data;
    s->bytes = (uint32_t)bytes;
    s->chars = count_chars(data, bytes);
    if (user && bytes) {
        struct text_range *span = jinja_alloc(j, sizeof *span);
        span->end = bytes;
        s->spans = span;
        s->span_count = 1;
    }
    return s;
}

struct value jinja_text(struct jinja *j, const char *text)
{
    struct builder b;
    jinja_builder_init(&b, j);
    jinja_put_text(&b, text);
    return jinja_built(&b);
}

const struct string *jinja_string_part(struct jinja *j, const struct string *s, size_t begin, size_t end)
{
    if (begin == 0 && end == s->bytes) return s;
    struct string *part = jinja_alloc(j, sizeof *part);
    *part = (struct string){.data = s->data + begin, .bytes = (uint32_t)(end - begin), .markup = s->markup};
    part->chars = s->chars == s->bytes ? part->bytes : count_chars(part->data, part->bytes);
    if (s->chars != s->bytes) jinja_charge(j, part->bytes / 64);
    uint32_t first = 0, last = s->span_count;
    while (first < last && s->spans[first].end <= begin) first++;
    while (last > first && s->spans[last - 1].begin >= end) last--;
    jinja_charge(j, s->span_count / 16);
    if (first == last) return part;
    struct text_range *spans = jinja_array(j, last - first, sizeof *spans);
    for (uint32_t i = first; i < last; i++) {
        size_t from = s->spans[i].begin > begin ? s->spans[i].begin : begin;
        size_t to = s->spans[i].end < end ? s->spans[i].end : end;
        spans[i - first] = (struct text_range){from - begin, to - begin};
    }
    part->spans = spans;
    part->span_count = last - first;
    return part;
}

size_t jinja_string_offset(struct jinja *j, const struct string *s, int64_t index)
{
    if (index <= 0) return 0;
    if (index >= s->chars) return s->bytes;
    if (s->chars == s->bytes) return (size_t)index;
    size_t at = 0;
    for (int64_t left = index; left > 0; left--) {
        at++;
        while (at < s->bytes && (s->data[at] & 0xC0) == 0x80) at++;
    }
    jinja_charge(j, at / 64);
    return at;
}

struct value jinja_string_slice(struct jinja *j, const struct string *s, int64_t start, int64_t step, int64_t count)
{
    if (step == 1) {
        size_t begin = jinja_string_offset(j, s, start);
        const struct string *rest = jinja_string_part(j, s, begin, s->bytes);
        return jinja_of_string(jinja_string_part(j, rest, 0, jinja_string_offset(j, rest, count)));
    }
    size_t *offsets = jinja_array(j, (size_t)s->chars + 1, sizeof *offsets);
    size_t chars = 0;
    for (size_t i = 0; i < s->bytes; i++)
        if ((s->data[i] & 0xC0) != 0x80) offsets[chars++] = i;
    offsets[chars] = s->bytes;
    struct builder b;
    jinja_builder_init(&b, j);
    for (int64_t i = 0, at = start; i < count; i++, at += step) {
        jinja_charge(j, 1);
        jinja_put_part(&b, s, offsets[at], offsets[at + 1]);
    }
    return jinja_built(&b);
}

const struct string *jinja_string_plain(struct jinja *j, const struct string *s)
{
    if (!s->markup) return s;
    struct string *plain = jinja_alloc(j, sizeof *plain);
    *plain = *s;
    plain->markup = false;
    return plain;
}

bool jinja_string_is(const struct string *s, const char *text)
{
    return s->bytes == strlen(text) && memcmp(s->data, text, s->bytes) == 0;
}

bool jinja_string_equal(const struct string *a, const struct string *b)
{
    return a->bytes == b->bytes && (a->data == b->data || memcmp(a->data, b->data, a->bytes) == 0);
}

int jinja_string_compare(const struct string *a, const struct string *b)
{
    size_t common = a->bytes < b->bytes ? a->bytes : b->bytes; /* UTF-8 orders as its code points do */
    int order = memcmp(a->data, b->data, common);
    return order ? order : (a->bytes > b->bytes) - (a->bytes < b->bytes);
}

size_t jinja_string_find(struct jinja *j, const struct string *s, const struct string *part, size_t begin, size_t end)
{
    if (begin > end) return SIZE_MAX;
    if (part->bytes == 0) return begin;
    const char *at = memmem(s->data + begin, end - begin, part->data, part->bytes);
    jinja_charge(j, (at ? (size_t)(at - s->data) - begin : end - begin) / 64 + part->bytes / 64);
    return at ? (size_t)(at - s->data) : SIZE_MAX;
}

size_t jinja_string_find_last(struct jinja *j, const struct string *s, const struct string *part, size_t begin,
                              size_t end)
{
    if (begin > end || part->bytes > end - begin) return SIZE_MAX;
    for (size_t at = end - part->bytes;; at--) {
        if (memcmp(s->data + at, part->data, part->bytes) == 0) return at;
        jinja_charge(j, part->bytes / 256 + (at % 16 == 0));
        if (at == begin) return SIZE_MAX;
    }
}

const struct string *jinja_string_escape(struct jinja *j, const struct string *s)
{
    struct builder b;
    jinja_builder_init(&b, j);
    struct cursor c;
    for (jinja_cursor_init(&c, s); jinja_cursor_next(&c);) {
        const char *to = c.code_point == '&'    ? "&amp;"
                         : c.code_point == '<'  ? "&lt;"
                         : c.code_point == '>'  ? "&gt;"
                         : c.code_point == '"'  ? "&#34;"
                         : c.code_point == '\'' ? "&#39;"
                                                : NULL;
        b.user = c.user;
        if (to)
            jinja_put_text(&b, to);
        else
            jinja_put(&b, s->data + c.begin, c.at - c.begin);
    }
    jinja_charge(j, s->bytes / 8);
    struct string *escaped = jinja_alloc(j, sizeof *escaped);
    *escaped = *jinja_built(&b).string;
    escaped->markup = true;
    return escaped;
}
