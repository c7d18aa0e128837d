/* detokenizer.c - token ids back to bytes, a stream that never splits a UTF-8 character.
 *
 * Invariant: `pending` holds the beginning of one character that more bytes could complete (at most three bytes), or
 * nothing. Bytes that cannot become a character go out at once, as they are. */
#include "text/tokenizer_internal.h"

void detokenizer_init(struct detokenizer *detokenizer, const struct tokenizer *tokenizer, bool show_control)
{
    *detokenizer = (struct detokenizer){.tokenizer = tokenizer, .show_control = show_control, .first = true};
}

static void put_byte(struct detokenizer *detokenizer, char byte, struct buffer *out)
{
    detokenizer->pending[detokenizer->held++] = byte;
    while (detokenizer->held) { /* a byte that breaks a character off lets out what was held, then begins anew */
        uint32_t code_point;
        bool incomplete;
        uint32_t bytes = utf8_decode(detokenizer->pending, detokenizer->held, &code_point, &incomplete);
        if (!bytes && incomplete) return;
        if (!bytes) bytes = 1;
        buffer_append(out, detokenizer->pending, bytes);
        detokenizer->held -= bytes;
        memmove(detokenizer->pending, detokenizer->pending + bytes, detokenizer->held);
    }
}

static void put_bytes(struct detokenizer *detokenizer, const char *text, size_t bytes, struct buffer *out)
{
    for (size_t i = 0; i < bytes; i++) put_byte(detokenizer, text[i], out);
}

/* A spelling in the byte alphabet; characters that are not of it stay themselves. */
static void put_alphabet(struct detokenizer *detokenizer, const char *text, size_t bytes, struct buffer *out)
{
    for (size_t at = 0; at < bytes;) {
        uint32_t code_point, length = utf8_decode(text + at, bytes - at, &code_point, NULL);
        int byte = length ? byte_alphabet_decode(code_point) : -1;
        if (!length) length = 1;
        if (byte >= 0)
            put_byte(detokenizer, (char)byte, out);
        else
            put_bytes(detokenizer, text + at, length, out);
        at += length;
    }
}

/* A spelling with U+2581 for spaces; `first`: without the space that was put before the text. */
static void put_marked(struct detokenizer *detokenizer, const char *text, size_t bytes, bool first, struct buffer *out)
{
    for (size_t at = 0; at < bytes;) {
        bool mark = bytes - at >= SPACE_MARK_BYTES && memcmp(text + at, SPACE_MARK, SPACE_MARK_BYTES) == 0;
        if (!mark)
            put_byte(detokenizer, text[at], out);
        else if (!first || at)
            put_byte(detokenizer, ' ', out);
        at += mark ? SPACE_MARK_BYTES : 1;
    }
}

static int byte_of(const char *spelling, uint32_t bytes)
{
    int value = 0;
    if (bytes != 6 || memcmp(spelling, "<0x", 3) != 0 || spelling[5] != '>') return -1;
    for (int i = 3; i < 5; i++) {
        char digit = spelling[i];
        if (digit >= '0' && digit <= '9')
            value = value * 16 + digit - '0';
        else if (digit >= 'A' && digit <= 'F')
            value = value * 16 + digit - 'A' + 10;
        else
            return -1;
    }
    return value;
}

void detokenizer_put(struct detokenizer *detokenizer, uint32_t id, struct buffer *out)
{
    const struct tokenizer *tokenizer = detokenizer->tokenizer;
    if (id >= tokenizer->count) return;
    uint32_t bytes;
    const char *spelling = vocabulary_spelling(&tokenizer->vocabulary, id, &bytes);
    const uint8_t kind = tokenizer->kinds[id];
    const bool first = detokenizer->first && tokenizer->adds_space;
    const int byte = kind == TOKEN_BYTE ? byte_of(spelling, bytes) : -1;
    /* A space stands before the text after each special token (tokenizer_encode.c). */
    detokenizer->first = kind == TOKEN_CONTROL || kind == TOKEN_UNKNOWN || kind == TOKEN_USER_DEFINED;
    if (kind == TOKEN_USER_DEFINED || (detokenizer->first && detokenizer->show_control)) {
        put_bytes(detokenizer, spelling, bytes, out);
    } else if (detokenizer->first) {
        return;
    } else if (byte >= 0) {
        if (!first || byte != ' ') put_byte(detokenizer, (char)byte, out);
    } else if (tokenizer->algorithm == TOKENIZER_BYTES) {
        put_alphabet(detokenizer, spelling, bytes, out);
    } else {
        put_marked(detokenizer, spelling, bytes, first, out);
    }
}

void detokenizer_finish(struct detokenizer *detokenizer, struct buffer *out)
{
    buffer_append(out, detokenizer->pending, detokenizer->held);
    detokenizer->held = 0;
}
