/* kind_window.c - attention over the last `window` tokens, and over the first `sinks` too (0 for a sliding window): memory
 * stays constant once the window has moved on.
 *
 *   blocks    | sinks |     hole     |   window   | next token |
 *             0     begin           end        position */
#include "kv_internal.h"

static struct kv_hole hole(const struct kv_reach *reach, uint32_t position, uint32_t block_tokens)
{
    if (position < reach->window) return (struct kv_hole){0};
    uint32_t begin = (uint32_t)(((uint64_t)reach->sinks + block_tokens - 1) / block_tokens);
    uint32_t end = (position - reach->window + 1) / block_tokens;
    return begin < end ? (struct kv_hole){begin, end} : (struct kv_hole){0};
}

/* The next token is its own window's last: it reads window - 1 tokens before it. */
static uint32_t live_tokens(const struct kv_reach *reach, uint32_t position)
{
    uint64_t most = (uint64_t)reach->sinks + reach->window - 1;
    return position < most ? position : (uint32_t)most;
}

/* A window and the chunk being written may begin and end inside a block. */
static uint64_t blocks(const struct kv_reach *reach, uint32_t tokens, uint32_t chunk, uint32_t block_tokens)
{
    uint64_t all = ((uint64_t)tokens + block_tokens - 1) / block_tokens;
    uint64_t window = ((uint64_t)reach->window + chunk + block_tokens - 1) / block_tokens + 1;
    uint64_t most = ((uint64_t)reach->sinks + block_tokens - 1) / block_tokens + window;
    return most < all ? most : all;
}

const struct kind kind_sliding = {
    .name = "sliding", .rows = ROWS_OWN, .windowed = true, .hole = hole, .live_tokens = live_tokens, .blocks = blocks};
const struct kind kind_sinks = {.name = "sinks",
                                .rows = ROWS_OWN,
                                .windowed = true,
                                .sinks = true,
                                .hole = hole,
                                .live_tokens = live_tokens,
                                .blocks = blocks};
