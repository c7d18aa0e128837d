/* character.c - kinds of characters: a table for ASCII, utf8proc for the rest. */
#include "text/character.h"
#include <utf8proc.h>

#define L CHARACTER_LETTER
#define N CHARACTER_NUMBER
#define P CHARACTER_PUNCTUATION
#define S CHARACTER_SYMBOL
#define W CHARACTER_SPACE
#define O CHARACTER_OTHER

const uint8_t character_kinds_ascii[128] = {
    O, O, O, O, O, O, O, O, O, W, W, W, W, W, O, O, O, O, O, O, O, O, O, O, O, O, O, O, O, O, O, O, /* controls */
    W, P, P, P, S, P, P, P, P, P, P, S, P, P, P, P, N, N, N, N, N, N, N, N, N, N, P, P, S, S, S, P, /* space … ? */
    P, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, P, P, P, S, P, /* @ … _ */
    S, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, P, S, P, S, O, /* ` … DEL */
};

static uint8_t kind_of(uint32_t code_point)
{
    if (code_point == 0x85) return CHARACTER_SPACE;
    if ((code_point >= 0x2FFC && code_point <= 0x2FFF) || code_point == 0x31EF) return CHARACTER_SYMBOL;
    if (code_point >= 0x2EBF0 && code_point <= 0x2EE5D) return CHARACTER_LETTER;
    switch (utf8proc_category((utf8proc_int32_t)code_point)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
        return CHARACTER_LETTER;
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_NO:
        return CHARACTER_NUMBER;
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
        return CHARACTER_MARK;
    case UTF8PROC_CATEGORY_PC:
    case UTF8PROC_CATEGORY_PD:
    case UTF8PROC_CATEGORY_PS:
    case UTF8PROC_CATEGORY_PE:
    case UTF8PROC_CATEGORY_PI:
    case UTF8PROC_CATEGORY_PF:
    case UTF8PROC_CATEGORY_PO:
        return CHARACTER_PUNCTUATION;
    case UTF8PROC_CATEGORY_SM:
    case UTF8PROC_CATEGORY_SC:
    case UTF8PROC_CATEGORY_SK:
    case UTF8PROC_CATEGORY_SO:
        return CHARACTER_SYMBOL;
    case UTF8PROC_CATEGORY_ZS:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
        return CHARACTER_SPACE;
    default:
        return CHARACTER_OTHER;
    }
}

struct character character_decode(const char *text, size_t at, size_t end)
{
    uint32_t code_point, bytes = utf8_decode(text + at, end - at, &code_point, NULL);
    if (!bytes) return (struct character){0xFFFD, CHARACTER_SYMBOL, 1};
    return (struct character){code_point, kind_of(code_point), (uint8_t)bytes};
}
