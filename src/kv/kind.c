/* kind.c - the table of layer kinds. Everything else asks a kind what it keeps; nothing else knows what kinds there are. */
#include "kv_internal.h"

static const struct kind *const kinds[] = {
    [KV_FULL] = &kind_full,     [KV_SLIDING] = &kind_sliding, [KV_SINKS] = &kind_sinks,
    [KV_SHARED] = &kind_shared, [KV_NONE] = &kind_none,
};

const struct kind *kind_of(enum kv_layer_kind kind)
{
    return (uint32_t)kind < ARRAY_COUNT(kinds) ? kinds[kind] : NULL;
}
