/* kind_full.c - full attention: every block is needed as long as the sequence lives. */
#include "kv_internal.h"

static struct kv_hole hole(const struct kv_reach *reach, uint32_t position, uint32_t block_tokens)
{
    (void)reach, (void)position, (void)block_tokens;
    return (struct kv_hole){0};
}

static uint32_t live_tokens(const struct kv_reach *reach, uint32_t position)
{
    (void)reach;
    return position;
}

static uint64_t blocks(const struct kv_reach *reach, uint32_t tokens, uint32_t chunk, uint32_t block_tokens)
{
    (void)reach, (void)chunk;
    return ((uint64_t)tokens + block_tokens - 1) / block_tokens;
}

const struct kind kind_full = {
    .name = "full", .rows = ROWS_OWN, .keeps_all = true, .hole = hole, .live_tokens = live_tokens, .blocks = blocks};
