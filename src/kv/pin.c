/* pin.c - prefixes kept by name: a pin is a sequence that holds a cached prefix and never runs. So its blocks are held like
 * any sequence's: never evicted, counted against the budget, shared by all who begin alike. */
#include "kv_internal.h"
#include <string.h>

/* Where the pin of this name hangs, or would. */
static struct kv_pin **pin_find(struct kv_cache *cache, const char *name)
{
    struct kv_pin **link = &cache->first_pin;
    while (*link && strcmp((*link)->name, name) < 0) link = &(*link)->next;
    return link;
}

static bool is_named(const struct kv_pin *pin, const char *name)
{
    return pin && strcmp(pin->name, name) == 0;
}

static void pin_close(struct kv_pin *pin)
{
    kv_seq_close(pin->seq);
    mem_free(pin->name);
    mem_free(pin);
}

/* Whether this pin's blocks, with those of all others, stay within what may be pinned. */
static bool within_limit(const struct kv_cache *cache, const struct kv_seq *seq, const char *name)
{
    uint64_t bytes, blocks, sum;
    kv_seq_usage(seq, &sum, &blocks);
    for (const struct kv_pin *pin = cache->first_pin; pin; pin = pin->next) {
        if (is_named(pin, name)) continue;
        kv_seq_usage(pin->seq, &bytes, &blocks);
        sum += bytes;
    }
    return sum <= cache->bytes_pinned_max;
}

enum status kv_prefix_pin(struct kv_cache *cache, const char *name, const uint32_t *tokens, uint32_t count,
                          uint64_t salt, uint32_t *pinned)
{
    *pinned = 0;
    struct kv_seq *seq;
    enum status status = seq_open(cache, tokens, count, salt, false, &seq);
    if (status == ST_OK && !seq->count) status = ST_NOT_FOUND;
    if (status == ST_OK && !within_limit(cache, seq, name)) status = ST_LIMIT;
    struct kv_pin *pin = status == ST_OK ? mem_zero(1, sizeof *pin) : NULL;
    char *copy = pin ? mem_strndup(name, strlen(name)) : NULL;
    if (status == ST_OK && !copy) status = ST_NOMEM;
    if (status != ST_OK) {
        mem_free(pin);
        kv_seq_close(seq);
        return status;
    }
    struct kv_pin **link = pin_find(cache, name), *old = is_named(*link, name) ? *link : NULL;
    *pin = (struct kv_pin){.next = old ? old->next : *link, .name = copy, .seq = seq};
    *link = pin;
    if (old) pin_close(old);
    *pinned = seq->count;
    return ST_OK;
}

enum status kv_prefix_unpin(struct kv_cache *cache, const char *name)
{
    struct kv_pin **link = pin_find(cache, name), *pin = *link;
    if (!is_named(pin, name)) return ST_NOT_FOUND;
    *link = pin->next;
    pin_close(pin);
    return ST_OK;
}

uint32_t kv_prefix_list(const struct kv_cache *cache, struct kv_prefix *out, uint32_t capacity)
{
    uint32_t count = 0;
    uint64_t blocks;
    for (const struct kv_pin *pin = cache->first_pin; pin; pin = pin->next, count++) {
        if (count >= capacity) continue;
        out[count] = (struct kv_prefix){.name = pin->name, .tokens = pin->seq->count};
        kv_seq_usage(pin->seq, &out[count].bytes, &blocks);
    }
    return count;
}
