/* jinja_bounds.c - what keeps a hostile template small: every step and every byte is paid for here, and here is the one way
 * out when something fails. It does not decide how large the bounds are (template.c does). */
#include "text/jinja.h"
#include <stdio.h>

#define BYTES_PER_STEP 128 /* memory costs steps too: a million steps hold at most 128 MB */

void jinja_charge(struct jinja *j, uint64_t steps)
{
    j->steps += steps;
    if (j->steps > j->steps_max)
        jinja_fail(j, ST_LIMIT, "the template takes more than %llu steps", (unsigned long long)j->steps_max);
}

void *jinja_alloc(struct jinja *j, size_t bytes)
{
    jinja_charge(j, bytes / BYTES_PER_STEP);
    void *block = arena_alloc(j->arena, bytes);
    if (!block) jinja_fail(j, ST_NOMEM, "no memory for the template");
    return memset(block, 0, bytes);
}

void *jinja_array(struct jinja *j, size_t count, size_t size)
{
    uint64_t bytes = 0;
    if (!checked_mul(count, size, &bytes) || bytes > SIZE_MAX / 2)
        jinja_fail(j, ST_LIMIT, "a list of %zu items is too large", count);
    return jinja_alloc(j, (size_t)bytes);
}

void *jinja_grow(struct jinja *j, void *items, uint32_t count, uint32_t *capacity, size_t size)
{
    if (count < *capacity) return items;
    uint32_t wanted = *capacity ? *capacity * 2 : 4;
    if (wanted <= *capacity) jinja_fail(j, ST_LIMIT, "a list is too large");
    void *grown = jinja_array(j, wanted, size);
    if (count) memcpy(grown, items, count * size);
    *capacity = wanted;
    return grown;
}

void jinja_enter(struct jinja *j)
{
    if (++j->depth > j->depth_max) jinja_fail(j, ST_LIMIT, "the template nests deeper than %u", j->depth_max);
}

void jinja_leave(struct jinja *j)
{
    j->depth--;
}

/* Line and column, from 1, of the position being worked on. */
static void position_text(const struct jinja *j, char *out, size_t bytes)
{
    uint32_t line = 1, column = 1;
    for (uint32_t i = 0; i < j->position && i < j->template->source_bytes; i++) {
        column++;
        if (j->template->source[i] == '\n') line++, column = 1;
    }
    snprintf(out, bytes, "line %u, column %u", line, column);
}

void jinja_fail(struct jinja *j, enum status status, const char *format, ...)
{
    char text[400], position[48];
    va_list list;
    va_start(list, format);
    vsnprintf(text, sizeof text, format, list);
    va_end(list);
    position_text(j, position, sizeof position);
    j->status = error_set(j->error, status, "template, %s: %s", position, text);
    longjmp(j->escape, 1);
}

void jinja_raise(struct jinja *j, const struct string *text)
{
    j->status = error_set(j->error, ST_INVALID, "%.*s", (int)(text->bytes < 450 ? text->bytes : 450), text->data);
    longjmp(j->escape, 1);
}
