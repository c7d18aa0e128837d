/* fuzz_http_head.c - the first bytes of a connection, in two pieces: the head is found where it ends however they are cut, and
 * is accepted or refused with a status and a reason; an accepted one has no byte that another parser could stop at. */
#include "server/head.h"
#include <stdlib.h>
#include <string.h>

#define BODY_MAX 1000u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_refusal(const struct refusal *refusal)
{
    if (refusal->status < 400 || refusal->status > 599 || !refusal->message[0]) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!size) return 0;
    size_t cut = data[0] < size ? data[0] : size - 1, whole_bytes, bytes = 0, whole_checked = 0, checked = 0;
    const char *text = (const char *)data + 1;
    size--;
    struct refusal refusal;
    bool whole = head_find(text, size, &whole_checked, &whole_bytes, &refusal);
    if (!whole) check_refusal(&refusal);
    bool pieces = head_find(text, cut, &checked, &bytes, &refusal);
    if (pieces && !bytes) pieces = head_find(text, size, &checked, &bytes, &refusal);
    if (whole != pieces || (whole && bytes != whole_bytes)) abort();
    if (!whole || !bytes) return 0;
    if (!head_check(text, bytes, BODY_MAX, &refusal))
        check_refusal(&refusal);
    else if (memchr(text, 0, bytes) || memcmp(text + bytes - 4, "\r\n\r\n", 4) != 0)
        abort();
    return 0;
}
