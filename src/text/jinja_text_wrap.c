/* jinja_text_wrap.c - the wordwrap filter: Python's textwrap.wrap with drop_whitespace, line by line of the text. Words break after
 * hyphens between letters, and anywhere when they are longer than a line. */
#include "text/jinja.h"

struct chunk {
    size_t begin, end;
    int64_t chars;
    bool space;
};

static bool is_blank(char c)
{
    return c == ' ' || (c >= 9 && c <= 13);
}

static bool is_letter(char c)
{
    return (unsigned char)c >= 0x80 || jinja_is_alpha((unsigned char)c);
}

/* A hyphen inside a word, with two letters before and a letter after it: the word may break behind it. */
static bool breaks_after(const struct string *s, size_t begin, size_t at, size_t end)
{
    return s->data[at] == '-' && at >= begin + 2 && is_letter(s->data[at - 1]) && is_letter(s->data[at - 2]) &&
           at + 2 < end && is_letter(s->data[at + 1]) && is_letter(s->data[at + 2]);
}

static int64_t chars_of(const struct string *s, size_t begin, size_t end)
{
    int64_t chars = 0;
    for (size_t i = begin; i < end; i++) chars += (s->data[i] & 0xC0) != 0x80;
    return chars;
}

static struct chunk *split_chunks(struct jinja *j, const struct string *s, bool hyphens, uint32_t *count)
{
    struct chunk *chunks = NULL;
    uint32_t capacity = 0;
    for (size_t at = 0; at < s->bytes;) {
        size_t begin = at;
        bool space = is_blank(s->data[at]);
        while (at < s->bytes && is_blank(s->data[at]) == space) {
            at++;
            if (!space && hyphens && at < s->bytes && breaks_after(s, begin, at - 1, s->bytes)) break;
        }
        chunks = jinja_grow(j, chunks, *count, &capacity, sizeof *chunks);
        chunks[(*count)++] = (struct chunk){begin, at, chars_of(s, begin, at), space};
        jinja_charge(j, 1);
    }
    return chunks;
}

/* Takes the start of `chunk` that is `chars` long off it. */
static size_t cut(const struct string *s, struct chunk *chunk, int64_t chars)
{
    size_t end = chunk->begin;
    for (int64_t i = 0; i < chars; i++) {
        end++;
        while (end < chunk->end && (s->data[end] & 0xC0) == 0x80) end++;
    }
    chunk->begin = end;
    chunk->chars -= chars;
    return end;
}

static void wrap_line(struct builder *b, const struct string *s, int64_t width, bool breaks, bool hyphens,
                      const struct string *with)
{
    struct jinja *j = b->j;
    uint32_t count = 0, at = 0;
    struct chunk *chunks = split_chunks(j, s, hyphens, &count);
    for (bool first = true; at < count; first = false) {
        if (!first && chunks[at].space) at++;
        if (at >= count) break;
        size_t begin = chunks[at].begin, end = begin, solid = begin;
        int64_t length = 0;
        jinja_charge(j, 1);
        for (; at < count && length + chunks[at].chars <= width; at++) {
            length += chunks[at].chars;
            end = chunks[at].end;
            if (!chunks[at].space) solid = end;
        }
        if (at < count && chunks[at].chars > width) {
            int64_t room = width - length > 0 ? width - length : 0;
            if (breaks)
                solid = room ? cut(s, &chunks[at], room) : solid;
            else if (length == 0)
                solid = chunks[at++].end;
        }
        if (solid == begin) continue;
        if (b->bytes && !first) jinja_put_string(b, with);
        jinja_put_part(b, s, begin, solid);
    }
}

struct value jinja_word_wrap(struct jinja *j, struct value self, const struct value *arguments)
{
    static const struct string newline = {.data = "\n", .bytes = 1, .chars = 1},
                               splitlines = {.data = "splitlines", .bytes = 10, .chars = 10};
    int64_t width = arguments[0].kind == VALUE_ABSENT ? 79 : jinja_to_int(j, arguments[0], "width");
    bool breaks = arguments[1].kind == VALUE_ABSENT || jinja_truth(arguments[1]);
    bool hyphens = arguments[3].kind == VALUE_ABSENT || jinja_truth(arguments[3]);
    const struct string *with = arguments[2].kind == VALUE_STRING ? arguments[2].string : &newline;
    struct call none = {0};
    struct builder b;
    if (self.kind != VALUE_STRING) jinja_fail(j, ST_INVALID, "wordwrap needs a str, not %s", jinja_type_name(self));
    if (width <= 0) jinja_fail(j, ST_INVALID, "invalid width (must be > 0)");
    const struct list *lines =
        jinja_call_builtin(j, jinja_builtin_find(jinja_string_methods, &splitlines), self, &none).list;
    jinja_builder_init(&b, j);
    for (uint32_t i = 0; i < lines->count; i++) {
        if (i) jinja_put_string(&b, with);
        wrap_line(&b, lines->items[i].string, width, breaks, hyphens, with);
    }
    return jinja_built(&b);
}
