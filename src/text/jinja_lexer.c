/* jinja_lexer.c - template source to lexemes, with Jinja's rules of whitespace: trim_blocks (the newline after a block is
 * dropped), lstrip_blocks (blanks before a block on its own line are dropped), and the - and + that override them.
 * Follows Jinja's regular expressions one by one, their quirks included; builds no tree. */
#include "text/jinja.h"
#include <stdio.h>
#include <stdlib.h>

struct lexer {
    struct jinja *j;
    const char *source;
    uint32_t end, at;
    bool line_starting; /* the last match ended with a newline */
    char *open;         /* brackets to close: a tag ends only when all are */
    uint32_t open_count, open_capacity;
    struct lexed *out;
    uint32_t count, capacity;
};

static struct lexed *add(struct lexer *x, enum lexeme lexeme, uint32_t position)
{
    x->out = jinja_grow(x->j, x->out, x->count, &x->capacity, sizeof *x->out);
    x->out[x->count] = (struct lexed){.lexeme = lexeme, .position = position};
    jinja_charge(x->j, 1);
    return &x->out[x->count++];
}

static bool looking_at(const struct lexer *x, uint32_t at, const char *text)
{
    size_t bytes = strlen(text);
    return x->end - at >= bytes && memcmp(x->source + at, text, bytes) == 0;
}

/* The code point at `at` and its bytes; 0 bytes at the end. */
static uint32_t peek(const struct lexer *x, uint32_t at, uint32_t *code_point)
{
    *code_point = 0;
    return at < x->end ? utf8_decode(x->source + at, x->end - at, code_point, NULL) : 0;
}

static uint32_t skip_space(const struct lexer *x, uint32_t at)
{
    uint32_t c, bytes;
    while ((bytes = peek(x, at, &c)) && jinja_is_space(c)) at += bytes;
    return at;
}

/* ---- text between tags -------------------------------------------------------------------------------------------------- */

/* End of the text [begin, end) without trailing space. */
static uint32_t strip_end(const struct lexer *x, uint32_t begin, uint32_t end)
{
    while (end > begin) {
        uint32_t at = end - 1, c;
        while (at > begin && (x->source[at] & 0xC0) == 0x80) at--;
        if (utf8_decode(x->source + at, end - at, &c, NULL) == 0 || !jinja_is_space(c)) break;
        end = at;
    }
    return end;
}

/* Text [begin, end) comes before a tag whose sign is `sign` ('-', '+' or 0). */
static void add_data(struct lexer *x, uint32_t begin, uint32_t end, char sign, bool print)
{
    if (sign == '-') {
        end = strip_end(x, begin, end);
    } else if (sign != '+' && !print) {
        uint32_t line = end;
        while (line > begin && x->source[line - 1] != '\n') line--;
        if ((line > begin || x->line_starting) && skip_space(x, line) >= end) end = line;
    }
    if (end == begin) return;
    struct lexed *data = add(x, LEX_DATA, begin);
    data->value = jinja_of_string(jinja_string_new(x->j, x->source + begin, end - begin, false));
}

static char take_sign(struct lexer *x)
{
    if (x->at < x->end && (x->source[x->at] == '-' || x->source[x->at] == '+')) return x->source[x->at++];
    return 0;
}

/* After "%}" or "#}" at x->at: the end of a tag that was written with `sign` before it. */
static void take_tag_end(struct lexer *x, char sign, bool trims_newline)
{
    x->at += 2;
    if (sign == '-')
        x->at = skip_space(x, x->at);
    else if (sign != '+' && trims_newline && x->at < x->end && x->source[x->at] == '\n')
        x->at++;
    x->line_starting = x->source[x->at - 1] == '\n';
}

static void skip_comment(struct lexer *x, uint32_t position)
{
    uint32_t body = x->at;
    while (x->at < x->end && !looking_at(x, x->at, "#}")) x->at++;
    if (x->at >= x->end) {
        x->j->position = position;
        if (body < x->end) jinja_fail(x->j, ST_INVALID, "missing end of comment tag");
        return;
    }
    char before = x->at > body ? x->source[x->at - 1] : 0;
    take_tag_end(x, before, true);
}

/* "{% raw %}" at `at` (after its sign)? Then the byte after it, else 0. */
static uint32_t raw_begin(const struct lexer *x, uint32_t at)
{
    at = skip_space(x, at);
    if (!looking_at(x, at, "raw")) return 0;
    at = skip_space(x, at + 3);
    if (looking_at(x, at, "-%}")) return skip_space(x, at + 3);
    return looking_at(x, at, "%}") ? at + 2 : 0;
}

/* "{% endraw %}" at `at`? Leaves x->at behind it. */
static bool raw_end(struct lexer *x, uint32_t at, char *sign)
{
    if (!looking_at(x, at, "{%")) return false;
    uint32_t begin = at + 2;
    *sign = begin < x->end && (x->source[begin] == '-' || x->source[begin] == '+') ? x->source[begin++] : 0;
    begin = skip_space(x, begin);
    if (!looking_at(x, begin, "endraw")) return false;
    begin = skip_space(x, begin + 6);
    char end_sign = looking_at(x, begin, "-%}") || looking_at(x, begin, "+%}") ? x->source[begin++] : 0;
    return looking_at(x, begin, "%}") && (x->at = begin, take_tag_end(x, end_sign, true), true);
}

static void lex_raw(struct lexer *x, uint32_t position)
{
    uint32_t begin = x->at;
    x->line_starting = x->source[begin - 1] == '\n';
    bool started = x->line_starting;
    char sign = 0;
    for (uint32_t at = begin; at < x->end; at++) {
        if (x->source[at] != '{' || !raw_end(x, at, &sign)) continue;
        bool ended = x->line_starting;
        x->line_starting = started;
        add_data(x, begin, at, sign, false);
        x->line_starting = ended;
        return;
    }
    x->j->position = position;
    if (begin < x->end) jinja_fail(x->j, ST_INVALID, "missing end of raw directive");
}

/* ---- inside a tag --------------------------------------------------------------------------------------------------------- */

static void put_escape(struct lexer *x, struct builder *b, uint32_t *at, uint32_t end)
{
    static const char letters[] = "abfnrtv\\'\"", meanings[] = "\a\b\f\n\r\t\v\\'\"";
    uint32_t c, bytes = peek(x, *at, &c);
    const char *letter = c && c < 0x80 ? strchr(letters, (int)c) : NULL;
    uint32_t digits = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0, value = 0;
    *at += bytes;
    if (letter) {
        jinja_put_char(b, meanings[letter - letters], 1);
    } else if (c >= '0' && c <= '7') {
        value = c - '0';
        for (int i = 0; i < 2 && *at < end && x->source[*at] >= '0' && x->source[*at] <= '7'; i++)
            value = value * 8 + (uint32_t)(x->source[(*at)++] - '0');
        jinja_put_code_point(b, value);
    } else if (digits) {
        for (uint32_t i = 0; i < digits; i++, (*at)++) {
            char digit[2] = {*at < end ? x->source[*at] : '?', 0}, *stop = digit;
            unsigned long nibble = strtoul(digit, &stop, 16);
            if (!*digit || *stop) jinja_fail(x->j, ST_INVALID, "truncated \\%c escape in a string", (char)c);
            value = value << 4 | (uint32_t)nibble;
        }
        jinja_put_code_point(b, value);
    } else if (c == 'N') {
        jinja_fail(x->j, ST_UNSUPPORTED, "\\N{…} escapes are not supported");
    } else if (c >= 0x80) { /* Python writes it as \x.. first, whose backslash the one before then escapes */
        char text[16];
        snprintf(text, sizeof text, c < 0x100 ? "\\x%02x" : c < 0x10000 ? "\\u%04x" : "\\U%08x", c);
        jinja_put_text(b, text);
    } else if (c != '\n') {
        jinja_put_char(b, '\\', 1);
        jinja_put_char(b, (char)c, 1);
    }
}

static bool lex_string(struct lexer *x)
{
    char quote = x->source[x->at];
    uint32_t begin = x->at + 1, end = begin;
    while (end < x->end && x->source[end] != quote) end += x->source[end] == '\\' && end + 1 < x->end ? 2 : 1;
    if (end >= x->end) return false;
    struct lexed *token = add(x, LEX_STRING, x->at);
    struct builder b;
    jinja_builder_init(&b, x->j);
    for (uint32_t at = begin; at < end;) {
        if (x->source[at] == '\\') {
            at++;
            put_escape(x, &b, &at, end);
        } else {
            jinja_put_char(&b, x->source[at++], 1);
        }
    }
    token->value = jinja_built(&b);
    jinja_charge(x->j, (end - begin) / 8);
    x->at = end + 1;
    return true;
}

static bool is_digit_of(char c, int base)
{
    if (base == 16) return strchr("0123456789abcdefABCDEF", c) && c;
    return c >= '0' && c < '0' + (base > 10 ? 10 : base);
}

/* End of digits with single underscores between them (before the first too if `lead`), or `at` if there are none. */
static uint32_t scan_digits(const struct lexer *x, uint32_t at, int base, bool lead)
{
    uint32_t end = at;
    for (;;) {
        uint32_t next = end;
        if (next < x->end && x->source[next] == '_' && (lead || end > at)) next++;
        if (next >= x->end || !is_digit_of(x->source[next], base)) return end;
        end = next + 1;
    }
}

static uint32_t scan_exponent(const struct lexer *x, uint32_t at)
{
    if (at >= x->end || (x->source[at] != 'e' && x->source[at] != 'E')) return at;
    uint32_t digits = at + 1;
    if (digits < x->end && (x->source[digits] == '+' || x->source[digits] == '-')) digits++;
    uint32_t end = scan_digits(x, digits, 10, false);
    return end > digits ? end : at;
}

static uint32_t scan_float(const struct lexer *x)
{
    if (x->at > 0 && x->source[x->at - 1] == '.') return x->at;
    uint32_t whole = scan_digits(x, x->at, 10, false), fraction = whole;
    if (whole < x->end && x->source[whole] == '.') {
        uint32_t end = scan_digits(x, whole + 1, 10, false);
        if (end > whole + 1) fraction = end;
    }
    uint32_t end = scan_exponent(x, fraction);
    return end > whole ? end : x->at;
}

static void lex_number(struct lexer *x)
{
    uint32_t begin = x->at, end = scan_float(x);
    struct string text = {.data = x->source + begin};
    if (end > begin) {
        struct lexed *token = add(x, LEX_FLOAT, begin);
        double real = 0;
        text.bytes = text.chars = end - begin;
        if (!jinja_parse_float(&text, &real)) jinja_fail(x->j, ST_INVALID, "a number that cannot be read");
        token->value = jinja_float(real);
    } else {
        char kind = begin + 1 < x->end ? (char)(x->source[begin + 1] | 0x20) : 0;
        int base = x->source[begin] != '0' ? 10 : kind == 'b' ? 2 : kind == 'o' ? 8 : kind == 'x' ? 16 : 10;
        end = base != 10 ? scan_digits(x, begin + 2, base, true) : scan_digits(x, begin, 10, false);
        if (base != 10 && end == begin + 2) base = 10, end = begin + 1;
        if (base == 10 && x->source[begin] == '0') { /* decimal zeros only: 007 is 00 and 7 */
            end = begin + 1;
            while (end < x->end && (x->source[end] == '0' || looking_at(x, end, "_0")))
                end += x->source[end] == '_' ? 2 : 1;
        }
        int64_t integer = 0;
        bool overflow = false;
        text.bytes = text.chars = end - begin;
        struct lexed *token = add(x, LEX_INT, begin);
        if (!jinja_parse_int(&text, 0, &integer, &overflow)) jinja_fail(x->j, ST_LIMIT, "an integer beyond 64 bits");
        token->value = jinja_int(integer);
    }
    x->at = end;
}

static void lex_name(struct lexer *x)
{
    uint32_t begin = x->at, c, bytes;
    while ((bytes = peek(x, x->at, &c)) && jinja_is_word(c)) x->at += bytes;
    struct lexed *token = add(x, LEX_NAME, begin);
    token->value = jinja_of_string(jinja_string_new(x->j, x->source + begin, x->at - begin, false));
}

static const struct {
    char text[3];
    enum lexeme lexeme;
} operators[] = {
    {"//", LEX_FLOORDIV}, {"**", LEX_POW},   {"==", LEX_EQ},      {"!=", LEX_NE},      {">=", LEX_GE},
    {"<=", LEX_LE},       {"+", LEX_ADD},    {"-", LEX_SUB},      {"*", LEX_MUL},      {"/", LEX_DIV},
    {"%", LEX_MOD},       {"~", LEX_TILDE},  {"[", LEX_LBRACKET}, {"]", LEX_RBRACKET}, {"(", LEX_LPAREN},
    {")", LEX_RPAREN},    {"{", LEX_LBRACE}, {"}", LEX_RBRACE},   {">", LEX_GT},       {"<", LEX_LT},
    {"=", LEX_ASSIGN},    {".", LEX_DOT},    {":", LEX_COLON},    {"|", LEX_PIPE},     {",", LEX_COMMA},
    {";", LEX_SEMICOLON},
};

static void balance(struct lexer *x, char c)
{
    if (c == '(' || c == '[' || c == '{') {
        x->open = jinja_grow(x->j, x->open, x->open_count, &x->open_capacity, 1);
        x->open[x->open_count++] = c == '(' ? ')' : c == '[' ? ']' : '}';
    } else if (c == ')' || c == ']' || c == '}') {
        x->j->position = x->at;
        if (x->open_count == 0) jinja_fail(x->j, ST_INVALID, "unexpected '%c'", c);
        char expected = x->open[--x->open_count];
        if (expected != c) jinja_fail(x->j, ST_INVALID, "unexpected '%c', expected '%c'", c, expected);
    }
}

static bool lex_operator(struct lexer *x)
{
    for (size_t i = 0; i < ARRAY_COUNT(operators); i++) {
        const char *text = operators[i].text;
        if (text[0] != x->source[x->at] || (text[1] && (x->at + 1 >= x->end || text[1] != x->source[x->at + 1])))
            continue;
        balance(x, x->source[x->at]);
        add(x, operators[i].lexeme, x->at);
        x->at += text[1] ? 2 : 1;
        return true;
    }
    return false;
}

/* The end of the tag at x->at, if it is there. */
static bool lex_tag_end(struct lexer *x, bool print)
{
    const char *close = print ? "}}" : "%}";
    char sign = x->source[x->at] == '-' || (!print && x->source[x->at] == '+') ? x->source[x->at] : 0;
    if (x->open_count || !looking_at(x, x->at + (sign != 0), close)) return false;
    add(x, print ? LEX_PRINT_END : LEX_BLOCK_END, x->at);
    x->at += sign != 0;
    take_tag_end(x, sign, !print);
    return true;
}

static void lex_tag(struct lexer *x, bool print)
{
    while (x->at < x->end) {
        if (lex_tag_end(x, print)) return;
        uint32_t c, begin = x->at;
        peek(x, begin, &c);
        x->j->position = begin;
        if (jinja_is_space(c))
            x->at = skip_space(x, begin);
        else if (c >= '0' && c <= '9')
            lex_number(x);
        else if (c == '\'' || c == '"' ? lex_string(x) : jinja_is_word(c) ? (lex_name(x), true) : lex_operator(x))
            continue;
        else
            jinja_fail(x->j, ST_INVALID, "unexpected character U+%04X", c);
    }
}

static uint32_t find_tag(const struct lexer *x)
{
    for (uint32_t at = x->at; at + 1 < x->end; at++)
        if (x->source[at] == '{' && strchr("{%#", x->source[at + 1]) && x->source[at + 1]) return at;
    return UINT32_MAX;
}

static void lex_text(struct lexer *x)
{
    uint32_t begin = x->at, tag = find_tag(x);
    if (tag == UINT32_MAX) {
        add_data(x, begin, x->end, '+', true);
        x->at = x->end;
        return;
    }
    char kind = x->source[tag + 1];
    x->at = tag + 2;
    char sign = take_sign(x);
    add_data(x, begin, tag, sign, kind == '{');
    x->line_starting = false;
    uint32_t raw = kind == '%' ? raw_begin(x, x->at) : 0;
    if (raw) {
        x->at = raw;
        lex_raw(x, tag);
    } else if (kind == '#') {
        skip_comment(x, tag);
    } else {
        add(x, kind == '{' ? LEX_PRINT_BEGIN : LEX_BLOCK_BEGIN, tag);
        lex_tag(x, kind == '{');
    }
}

struct lexed *jinja_lex(struct jinja *j, const struct template *t, uint32_t *count)
{
    struct lexer x = {.j = j, .source = t->source, .end = t->source_bytes, .line_starting = true};
    while (x.at < x.end) lex_text(&x);
    add(&x, LEX_END, x.end);
    *count = x.count - 1;
    return x.out;
}
