/* text.c - UTF-8 (RFC 3629). */
#include "base/base.h"

uint32_t utf8_decode(const char *text, size_t bytes, uint32_t *code_point, bool *incomplete)
{
    const unsigned char *s = (const unsigned char *)text;
    if (incomplete) *incomplete = false;
    if (bytes == 0) return 0;
    if (s[0] < 0x80) {
        *code_point = s[0];
        return 1;
    }
    uint32_t length = s[0] >= 0xC2 && s[0] <= 0xDF   ? 2
                      : (s[0] & 0xF0) == 0xE0        ? 3
                      : s[0] >= 0xF0 && s[0] <= 0xF4 ? 4
                                                     : 0;
    if (!length) return 0;
    uint32_t value = s[0] & (0x7Fu >> length);
    for (uint32_t i = 1; i < length; i++) {
        if (i == bytes) {
            if (incomplete) *incomplete = true;
            return 0;
        }
        /* The second byte alone decides against overlong forms, surrogates and values past 0x10FFFF. */
        unsigned low = 0x80, high = 0xBF;
        if (i == 1 && s[0] == 0xE0) low = 0xA0;
        if (i == 1 && s[0] == 0xED) high = 0x9F;
        if (i == 1 && s[0] == 0xF0) low = 0x90;
        if (i == 1 && s[0] == 0xF4) high = 0x8F;
        if (s[i] < low || s[i] > high) return 0;
        value = value << 6 | (s[i] & 0x3F);
    }
    *code_point = value;
    return length;
}

uint32_t utf8_encode(uint32_t code, char out[4])
{
    if (code < 0x80) {
        out[0] = (char)code;
        return 1;
    }
    if (code < 0x800) {
        out[0] = (char)(0xC0 | code >> 6);
        out[1] = (char)(0x80 | (code & 0x3F));
        return 2;
    }
    if (code > 0x10FFFF || (code >= 0xD800 && code <= 0xDFFF)) return 0;
    if (code < 0x10000) {
        out[0] = (char)(0xE0 | code >> 12);
        out[1] = (char)(0x80 | (code >> 6 & 0x3F));
        out[2] = (char)(0x80 | (code & 0x3F));
        return 3;
    }
    out[0] = (char)(0xF0 | code >> 18);
    out[1] = (char)(0x80 | (code >> 12 & 0x3F));
    out[2] = (char)(0x80 | (code >> 6 & 0x3F));
    out[3] = (char)(0x80 | (code & 0x3F));
    return 4;
}
