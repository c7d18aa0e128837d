/* json_out.c - JSON written straight into a buffer. jansson is not used for output because it refuses strings that are
 * not UTF-8, which a model may well produce. */
#include "base/base.h"
#include <math.h>
#include <string.h>

/* Bytes of the maximal part of a character at `text` (at least 1), where no whole one is: Unicode 15, section 3.9. */
static size_t broken_length(const char *text, size_t bytes)
{
    uint32_t code = 0;
    for (size_t length = bytes < 3 ? bytes : 3; length > 1; length--) {
        bool incomplete = false;
        if (utf8_decode(text, length, &code, &incomplete) == 0 && incomplete) return length;
    }
    return 1;
}

void json_out_text(struct buffer *out, const char *text, size_t bytes)
{
    buffer_text(out, "\"");
    for (size_t at = 0; at < bytes;) {
        uint32_t code = 0, length = utf8_decode(text + at, bytes - at, &code, NULL);
        if (length == 0) {
            buffer_text(out, "\\ufffd");
            at += broken_length(text + at, bytes - at);
            continue;
        }
        if (code == '"' || code == '\\')
            buffer_printf(out, "\\%c", (char)code);
        else if (code == '\n')
            buffer_text(out, "\\n");
        else if (code < 32 || code == 127)
            buffer_printf(out, "\\u%04x", code);
        else
            buffer_append(out, text + at, length);
        at += length;
    }
    buffer_text(out, "\"");
}

void json_out_ids(struct buffer *out, const uint32_t *ids, size_t count)
{
    buffer_text(out, "[");
    for (size_t i = 0; i < count; i++) buffer_printf(out, "%s%u", i ? "," : "", ids[i]);
    buffer_text(out, "]");
}

void json_out_real(struct buffer *out, double value)
{
    if (isfinite(value))
        buffer_printf(out, "%.9g", value);
    else
        buffer_text(out, "null");
}
