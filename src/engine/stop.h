/* stop.h - finds stop texts in a stream of bytes, whatever the pieces it comes in. */
#ifndef ENGINE_STOP_H
#define ENGINE_STOP_H
#include "base/base.h"

#define STOP_COUNT_MAX 64u
#define STOP_BYTES_MAX 1024u

struct stop_text {
    char *text;        /* owned */
    uint16_t *failure; /* [length]: Knuth, Morris, Pratt 1977; owned */
    uint16_t length, matched;
};

/* Text that could still become a stop text is held back; all else passes at once. */
struct stopper {
    struct stop_text *texts;
    uint32_t count;
    struct buffer held;
    bool stopped; /* a stop text was found: nothing more passes */
    bool include; /* the stop text itself passes; for the caller to set */
};
/* Copies the texts. ST_INVALID: too many, too long, or an empty one. */
MUST_CHECK enum status stopper_init(struct stopper *stopper, const char *const *texts, size_t count,
                                    struct error *error);
void stopper_release(struct stopper *stopper);
/* Appends to `out` what may be shown. The stop text that ends first wins, of those that end together the longest; what
 * comes before it is given out, it (but for `include`) and what follows is not. */
void stopper_put(struct stopper *stopper, const char *text, size_t bytes, struct buffer *out);
void stopper_finish(struct stopper *stopper, struct buffer *out); /* no more will come: gives out what is held */

#endif
