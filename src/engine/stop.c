/* stop.c - one Knuth-Morris-Pratt automaton a stop text, all fed byte by byte. The longest current match is exactly the
 * end of the stream that could become a stop text, so that much is held back and no more. Time is bytes times texts. */
#include "engine/stop.h"
#include <string.h>

static void fill_failure(struct stop_text *stop)
{
    stop->failure[0] = 0;
    for (uint16_t i = 1, match = 0; i < stop->length; i++) {
        while (match && stop->text[i] != stop->text[match]) match = stop->failure[match - 1];
        if (stop->text[i] == stop->text[match]) match++;
        stop->failure[i] = match;
    }
}

enum status stopper_init(struct stopper *stopper, const char *const *texts, size_t count, struct error *error)
{
    *stopper = (struct stopper){0};
    buffer_init(&stopper->held, 0);
    if (count > STOP_COUNT_MAX)
        return error_set(error, ST_INVALID, "%zu stop texts: at most %u", count, STOP_COUNT_MAX);
    if (!count) return ST_OK;
    stopper->texts = mem_zero(count, sizeof *stopper->texts);
    if (!stopper->texts) return error_set(error, ST_NOMEM, "not enough memory for stop texts");
    for (size_t i = 0; i < count; i++) {
        struct stop_text *stop = &stopper->texts[i];
        size_t bytes = texts[i] ? strnlen(texts[i], STOP_BYTES_MAX + 1) : 0;
        stopper->count++;
        if (bytes < 1 || bytes > STOP_BYTES_MAX) {
            stopper_release(stopper);
            return error_set(error, ST_INVALID, "stop text %zu: must be 1 to %u bytes long", i + 1, STOP_BYTES_MAX);
        }
        stop->length = (uint16_t)bytes;
        stop->text = mem_strndup(texts[i], bytes);
        stop->failure = mem_alloc(bytes * sizeof *stop->failure);
        if (!stop->text || !stop->failure) {
            stopper_release(stopper);
            return error_set(error, ST_NOMEM, "not enough memory for stop texts");
        }
        fill_failure(stop);
    }
    return ST_OK;
}

void stopper_release(struct stopper *stopper)
{
    for (uint32_t i = 0; i < stopper->count; i++) {
        mem_free(stopper->texts[i].text);
        mem_free(stopper->texts[i].failure);
    }
    mem_free(stopper->texts);
    buffer_release(&stopper->held);
    *stopper = (struct stopper){0};
}

/* One byte on: whether the text is complete. */
static bool stop_text_step(struct stop_text *stop, char byte)
{
    while (stop->matched && stop->text[stop->matched] != byte) stop->matched = stop->failure[stop->matched - 1];
    if (stop->text[stop->matched] == byte) stop->matched++;
    return stop->matched == stop->length;
}

void stopper_put(struct stopper *stopper, const char *text, size_t bytes, struct buffer *out)
{
    if (stopper->stopped) return;
    if (!stopper->count) {
        buffer_append(out, text, bytes);
        return;
    }
    struct buffer *held = &stopper->held;
    uint32_t longest = 0; /* current match of any text */
    for (size_t at = 0; at < bytes && !stopper->stopped; at++) {
        uint32_t complete = 0;
        longest = 0;
        buffer_append(held, text + at, 1);
        for (uint32_t i = 0; i < stopper->count; i++) {
            struct stop_text *stop = &stopper->texts[i];
            if (stop_text_step(stop, text[at]) && stop->length > complete) complete = stop->length;
            if (stop->matched > longest) longest = stop->matched;
        }
        if (complete) longest = complete;
        stopper->stopped = complete > 0;
    }
    if (held->failed) {
        out->failed = true;
        return;
    }
    if (!bytes) return;
    if (stopper->stopped && stopper->include) longest = 0;
    size_t free_bytes = held->length - longest;
    buffer_append(out, held->data, free_bytes);
    memmove(held->data, held->data + free_bytes, longest);
    held->length = stopper->stopped ? 0 : longest;
}

void stopper_finish(struct stopper *stopper, struct buffer *out)
{
    if (!stopper->stopped && stopper->held.length) buffer_append(out, stopper->held.data, stopper->held.length);
    if (stopper->held.failed) out->failed = true;
    stopper->held.length = 0;
}
