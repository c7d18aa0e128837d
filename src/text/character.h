/* character.h - what kind of character a code point is, as the published pre-tokenizer patterns ask it (\p{L}, \p{N},
 * \s …).
 *
 * General categories are utf8proc's (Unicode 15.0) and, on top, the characters that Unicode 15.1 added, so that they
 * are those of the reference implementation, whose tables are of 15.1. A byte that is not part of a well-formed
 * character counts as U+FFFD, a symbol: it is in no word and in no number. */
#ifndef TEXT_CHARACTER_H
#define TEXT_CHARACTER_H
#include "base/base.h"

enum {
    CHARACTER_LETTER = 1,
    CHARACTER_NUMBER = 2,
    CHARACTER_MARK = 4,
    CHARACTER_PUNCTUATION = 8,
    CHARACTER_SYMBOL = 16,
    CHARACTER_SPACE = 32, /* White_Space: not a category, but every such character is in none of the above */
    CHARACTER_OTHER = 64
};

/* The character at a place in a text; at the end of the text `bytes` and `kind` are 0. */
struct character {
    uint32_t code_point;
    uint8_t kind; /* one bit of the above */
    uint8_t bytes;
};

extern const uint8_t character_kinds_ascii[128];
struct character character_decode(const char *text, size_t at, size_t end); /* not ASCII, not at the end */

static inline struct character character_at(const char *text, size_t at, size_t end)
{
    if (at >= end) return (struct character){UINT32_MAX, 0, 0};
    unsigned char byte = (unsigned char)text[at];
    if (byte < 0x80) return (struct character){byte, character_kinds_ascii[byte], 1};
    return character_decode(text, at, end);
}

#endif
