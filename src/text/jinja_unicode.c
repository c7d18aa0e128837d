/* jinja_unicode.c - Python's classes of characters and its full case mappings, over utf8proc's tables. Does not normalise;
 * language-dependent mappings are left out, as in Python. */
#include "text/jinja.h"
#include <utf8proc.h>

static utf8proc_category_t category(uint32_t c)
{
    return utf8proc_category((utf8proc_int32_t)c);
}

bool jinja_is_space(uint32_t c)
{
    if (c < 0x80) return (c >= 9 && c <= 13) || (c >= 0x1C && c <= 0x20);
    return c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 ||
           c == 0x202F || c == 0x205F || c == 0x3000;
}

bool jinja_is_line_end(uint32_t c)
{
    return (c >= 10 && c <= 13) || (c >= 0x1C && c <= 0x1E) || c == 0x85 || c == 0x2028 || c == 0x2029;
}

bool jinja_is_alpha(uint32_t c)
{
    utf8proc_category_t k = category(c);
    return k >= UTF8PROC_CATEGORY_LU && k <= UTF8PROC_CATEGORY_LO;
}

bool jinja_is_decimal(uint32_t c)
{
    return category(c) == UTF8PROC_CATEGORY_ND;
}

bool jinja_is_digit(uint32_t c)
{
    return jinja_is_decimal(c) || c == 0xB2 || c == 0xB3 || c == 0xB9 || c == 0x2070 || (c >= 0x2074 && c <= 0x2079) ||
           (c >= 0x2080 && c <= 0x2089) || (c >= 0x2460 && c <= 0x2468);
}

bool jinja_is_numeric(uint32_t c)
{
    utf8proc_category_t k = category(c);
    return k == UTF8PROC_CATEGORY_ND || k == UTF8PROC_CATEGORY_NL || k == UTF8PROC_CATEGORY_NO;
}

bool jinja_is_upper(uint32_t c)
{
    return category(c) == UTF8PROC_CATEGORY_LU || (c >= 0x2160 && c <= 0x216F) || (c >= 0x24B6 && c <= 0x24CF);
}

bool jinja_is_lower(uint32_t c)
{
    return category(c) == UTF8PROC_CATEGORY_LL || c == 0xAA || c == 0xBA || (c >= 0x2170 && c <= 0x217F) ||
           (c >= 0x24D0 && c <= 0x24E9);
}

bool jinja_is_cased(uint32_t c)
{
    return jinja_is_upper(c) || jinja_is_lower(c) || category(c) == UTF8PROC_CATEGORY_LT;
}

bool jinja_is_printable(uint32_t c)
{
    if (c == ' ') return true;
    utf8proc_category_t k = category(c);
    return k != UTF8PROC_CATEGORY_CN && k < UTF8PROC_CATEGORY_ZS;
}

bool jinja_is_word(uint32_t c)
{
    if (c < 0x80) return c == '_' || (c >= '0' && c <= '9') || ((c | 0x20) >= 'a' && (c | 0x20) <= 'z');
    return jinja_is_alpha(c) || jinja_is_numeric(c);
}

/* The unconditional entries of SpecialCasing.txt that templates can meet in Western text. */
static const struct {
    uint32_t from, upper[3], title[3];
} special_cases[] = {
    {0xDF, {'S', 'S'}, {'S', 's'}},
    {0x149, {0x2BC, 'N'}, {0x2BC, 'N'}},
    {0x1F0, {'J', 0x30C}, {'J', 0x30C}},
    {0xFB00, {'F', 'F'}, {'F', 'f'}},
    {0xFB01, {'F', 'I'}, {'F', 'i'}},
    {0xFB02, {'F', 'L'}, {'F', 'l'}},
    {0xFB03, {'F', 'F', 'I'}, {'F', 'f', 'i'}},
    {0xFB04, {'F', 'F', 'L'}, {'F', 'f', 'l'}},
    {0xFB05, {'S', 'T'}, {'S', 't'}},
    {0xFB06, {'S', 'T'}, {'S', 't'}},
};

static uint32_t special_case(uint32_t c, bool title, uint32_t out[3])
{
    for (size_t i = 0; i < ARRAY_COUNT(special_cases); i++) {
        if (special_cases[i].from != c) continue;
        memcpy(out, title ? special_cases[i].title : special_cases[i].upper, 3 * sizeof *out);
        return out[2] ? 3 : 2;
    }
    return 0;
}

uint32_t jinja_to_upper(uint32_t c, uint32_t out[3])
{
    uint32_t count = c < 0x80 ? 0 : special_case(c, false, out);
    if (count) return count;
    out[0] = (uint32_t)utf8proc_toupper((utf8proc_int32_t)c);
    return 1;
}

uint32_t jinja_to_title(uint32_t c, uint32_t out[3])
{
    uint32_t count = c < 0x80 ? 0 : special_case(c, true, out);
    if (count) return count;
    out[0] = (uint32_t)utf8proc_totitle((utf8proc_int32_t)c);
    return 1;
}

uint32_t jinja_to_lower(uint32_t c, uint32_t out[3])
{
    if (c == 0x130) {
        out[0] = 'i', out[1] = 0x307;
        return 2;
    }
    out[0] = (uint32_t)utf8proc_tolower((utf8proc_int32_t)c);
    return 1;
}

uint32_t jinja_to_folded(uint32_t c, uint32_t out[3])
{
    utf8proc_int32_t folded[3];
    int boundary = 0;
    utf8proc_ssize_t count = utf8proc_decompose_char((utf8proc_int32_t)c, folded, 3, UTF8PROC_CASEFOLD, &boundary);
    if (count < 1 || count > 3) return jinja_to_lower(c, out);
    for (utf8proc_ssize_t i = 0; i < count; i++) out[i] = (uint32_t)folded[i];
    return (uint32_t)count;
}
