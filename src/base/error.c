/* error.c - status codes and one-line errors. Text from outside may hold anything: control characters are masked here,
 * once, so that no file name or tensor name can garble a terminal. */
#include "base/base.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void mask_controls(char *text)
{
    for (; *text; text++)
        if ((unsigned char)*text < 32 || *text == 127) *text = '?';
}

enum status error_set(struct error *error, enum status status, const char *format, ...)
{
    if (!error) return status;
    char text[sizeof error->text]; /* the arguments may point into error->text */
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    memcpy(error->text, text, sizeof text);
    mask_controls(error->text);
    error->status = status;
    return status;
}

void error_prefix(struct error *error, const char *format, ...)
{
    if (!error) return;
    char text[sizeof error->text];
    va_list args;
    va_start(args, format);
    int length = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (length < 0 || (size_t)length + 3 >= sizeof text) return;
    snprintf(text + length, sizeof text - (size_t)length, ": %.*s", (int)(sizeof text - (size_t)length - 3),
             error->text);
    memcpy(error->text, text, sizeof text);
    mask_controls(error->text);
}

const char *status_name(enum status status)
{
    switch (status) {
    case ST_OK:
        return "ok";
    case ST_NOMEM:
        return "out of memory";
    case ST_IO:
        return "input/output error";
    case ST_INVALID:
        return "invalid";
    case ST_UNSUPPORTED:
        return "unsupported";
    case ST_FULL:
        return "full";
    case ST_NOT_FOUND:
        return "not found";
    case ST_LIMIT:
        return "limit exceeded";
    case ST_CANCELLED:
        return "cancelled";
    }
    return "unknown status";
}

_Noreturn void assert_failed(const char *condition, const char *file, int line)
{
    fprintf(stderr, "kvasir: %s:%d: assertion failed: %s\n", file, line, condition);
    abort();
}
