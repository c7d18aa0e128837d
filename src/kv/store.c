/* store.c - what all kinds of store have in common. */
#include "kv/store_internal.h"

#define PAUSE_LEAST_S 1.0
#define PAUSE_MOST_S 30.0

const char *store_key_text(const struct store_key *key, char *out)
{
    static const char digits[] = "0123456789abcdef";
    for (uint32_t i = 0; i < STORE_KEY_BYTES; i++) {
        out[2 * i] = digits[key->bytes[i] >> 4];
        out[2 * i + 1] = digits[key->bytes[i] & 15];
    }
    out[2 * STORE_KEY_BYTES] = 0;
    return out;
}

void store_close(struct store *store)
{
    if (store) store->kind->close(store);
}

bool store_has(struct store *store, const struct store_key *key)
{
    bool has;
    store->kind->have(store, key, 1, &has);
    return has;
}

void store_have(struct store *store, const struct store_key *keys, uint32_t count, bool *out)
{
    store->kind->have(store, keys, count, out);
}

enum status store_put(struct store *store, const struct store_key *key, const void *data, uint64_t bytes)
{
    return bytes > STORE_BLOB_BYTES_MAX ? ST_FULL : store->kind->put(store, key, data, bytes);
}

enum status store_get(struct store *store, const struct store_key *key, void *data, uint64_t bytes)
{
    return bytes > STORE_BLOB_BYTES_MAX ? ST_NOT_FOUND : store->kind->get(store, key, data, bytes);
}

void store_remove(struct store *store, const struct store_key *key)
{
    store->kind->remove(store, key);
}

void store_stats(struct store *store, struct store_stats *out)
{
    store->kind->stats(store, out);
}

bool backoff_waits(const struct backoff *backoff)
{
    return backoff->pause_s > 0 && clock_seconds() < backoff->until_s;
}

void backoff_failed(struct backoff *backoff)
{
    double longer = 2 * backoff->pause_s;
    backoff->pause_s = longer < PAUSE_LEAST_S ? PAUSE_LEAST_S : longer > PAUSE_MOST_S ? PAUSE_MOST_S : longer;
    backoff->until_s = clock_seconds() + backoff->pause_s;
}

void backoff_done(struct backoff *backoff)
{
    *backoff = (struct backoff){0};
}
