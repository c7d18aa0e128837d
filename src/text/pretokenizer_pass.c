/* pretokenizer_pass.c - the hand-written passes: the patterns that most models use, at a nanosecond or two a byte where a
 * regular-expression engine takes ten times that. tests/unit/test_pretokenizer.c holds each against PCRE2 running the
 * published pattern.
 *
 * Every function here is linear in the piece it returns (PASS_TRAILING: in what it was given). */
#include "text/pretokenizer_internal.h"
#include <string.h>

/* ---- a run of one set ---- */

/* The end of the match that begins at `at`, or `at`. */
static size_t run_match(const struct pass *pass, const char *text, size_t at, size_t end)
{
    const size_t begin = at;
    struct character character = character_at(text, at, end);
    if (pass->space && character.kind == CHARACTER_SPACE) {
        at += character.bytes;
        character = character_at(text, at, end);
    }
    uint32_t count = 0;
    while (character.bytes && (!pass->most || count < pass->most) && pass->member(character)) {
        at += character.bytes;
        count++;
        character = character_at(text, at, end);
    }
    return count >= pass->least ? at : begin;
}

static size_t run_next(const struct pass *pass, const char *text, size_t at, size_t end)
{
    size_t match = run_match(pass, text, at, end);
    if (match > at) return match;
    do {
        at += character_at(text, at, end).bytes;
    } while (at < end && run_match(pass, text, at, end) == at);
    return at;
}

/* ---- words ---- */

/* Bytes of an English contraction ('s 't 'm 'd 're 've 'll) that begins with the apostrophe at `at`; 0: none. */
static size_t contraction(const char *text, size_t at, size_t end, bool any_case)
{
    if (end - at < 2) return 0;
    const char fold = any_case ? 0x20 : 0;
    char first = text[at + 1] | fold;
    if (first == 's' || first == 't' || first == 'm' || first == 'd') return 2;
    if (end - at < 3) return 0;
    char second = text[at + 2] | fold;
    if ((first == 'r' && second == 'e') || (first == 'v' && second == 'e') || (first == 'l' && second == 'l')) return 3;
    return 0;
}

/* The end of the characters whose kind is one of `kinds`. */
static size_t skip(const char *text, size_t at, size_t end, unsigned kinds)
{
    for (;;) {
        struct character character = character_at(text, at, end);
        if (!(character.kind & kinds)) return at;
        at += character.bytes;
    }
}

/* \s+(?!\S)|\s+ : white space but its last character, which belongs to the word after it; all when nothing follows. */
static size_t space_next(const char *text, size_t at, size_t end)
{
    size_t last = at, next = at;
    for (;;) {
        struct character character = character_at(text, next, end);
        if (character.kind != CHARACTER_SPACE) break;
        last = next;
        next += character.bytes;
    }
    return next < end && last > at ? last : next;
}

/* 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+ (Radford et al. 2019) */
static size_t words_next(const char *text, size_t at, size_t end)
{
    struct character character = character_at(text, at, end);
    if (character.code_point == '\'') {
        size_t bytes = contraction(text, at, end, false);
        if (bytes) return at + bytes;
    }
    size_t body = at;
    if (character.code_point == ' ') character = character_at(text, ++body, end);
    switch (character.kind) {
    case CHARACTER_LETTER:
    case CHARACTER_NUMBER:
        return skip(text, body, end, character.kind);
    case CHARACTER_SPACE:
    case 0:
        return space_next(text, at, end);
    default:
        return skip(text, body, end, (uint8_t) ~(CHARACTER_LETTER | CHARACTER_NUMBER | CHARACTER_SPACE));
    }
}

/* \s*[\r\n]+|\s+(?!\S)|\s+ : through the last line break of the white space when it has one. */
static size_t terms_space_next(const char *text, size_t at, size_t end)
{
    size_t broken = 0;
    for (size_t next = at;;) {
        struct character character = character_at(text, next, end);
        if (character.kind != CHARACTER_SPACE) break;
        next += character.bytes;
        if (character.code_point == '\n' || character.code_point == '\r') broken = next;
    }
    return broken ? broken : space_next(text, at, end);
}

static size_t skip_digits(const char *text, size_t at, size_t end, uint32_t most)
{
    for (uint32_t count = 0; !most || count < most; count++) {
        struct character character = character_at(text, at, end);
        if (character.kind != CHARACTER_NUMBER) break;
        at += character.bytes;
    }
    return at;
}

/* (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+
 * with `digits` for 3, and [\p{L}\p{M}] for \p{L} after the first bracket when marks are letters (which takes them out
 * of the fourth alternative too). The case folding is ASCII's. */
static size_t terms_next(const struct pass *pass, const char *text, size_t at, size_t end)
{
    const unsigned letters = CHARACTER_LETTER | (pass->marks ? CHARACTER_MARK : 0);
    const struct character first = character_at(text, at, end);
    if (first.code_point == '\'') {
        size_t bytes = contraction(text, at, end, true);
        if (bytes) return at + bytes;
    }
    if (first.kind & letters) return skip(text, at, end, letters);
    if (first.kind == CHARACTER_NUMBER) return skip_digits(text, at, end, pass->digits);
    const struct character second = character_at(text, at + first.bytes, end);
    const bool line_break = first.code_point == '\n' || first.code_point == '\r';
    if (!line_break && (second.kind & letters)) return skip(text, at + first.bytes, end, letters);

    const unsigned others = (uint8_t) ~(letters | CHARACTER_NUMBER | CHARACTER_SPACE);
    const bool spaced = first.code_point == ' ' && (second.kind & others);
    if (!spaced && first.kind == CHARACTER_SPACE) return terms_space_next(text, at, end);
    at = skip(text, at + (spaced ? 1 : 0), end, others);
    while (at < end && (text[at] == '\n' || text[at] == '\r')) at++;
    return at;
}

/* ---- lines ---- */

static size_t lines_next(const char *text, size_t at, size_t end)
{
    if (text[at] != '\n') {
        const char *line_break = memchr(text + at, '\n', end - at);
        return line_break ? (size_t)(line_break - text) : end;
    }
    while (at < end && text[at] == '\n') at++;
    return at;
}

static size_t trailing_next(const char *text, size_t at, size_t end)
{
    size_t spaces = at; /* where the white space that reaches up to `next` begins */
    for (size_t next = at; next < end;) {
        struct character character = character_at(text, next, end);
        next += character.bytes;
        if (character.kind != CHARACTER_SPACE) spaces = next;
    }
    return spaces > at ? spaces : end;
}

size_t pass_next(const struct pass *pass, const char *text, size_t at, size_t end)
{
    switch (pass->kind) {
    case PASS_RUN:
        return run_next(pass, text, at, end);
    case PASS_WORDS:
        return words_next(text, at, end);
    case PASS_TERMS:
        return terms_next(pass, text, at, end);
    case PASS_LINES:
        return lines_next(text, at, end);
    default:
        return trailing_next(text, at, end);
    }
}
