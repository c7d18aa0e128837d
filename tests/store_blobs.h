/* store_blobs.h - blobs by number: the same key and bytes in every process, so that a wrong one is told from a right one. */
#ifndef TESTS_STORE_BLOBS_H
#define TESTS_STORE_BLOBS_H
#include "kv/store_internal.h"
#include "support.h"

#define BLOB_BYTES 20000u

static inline struct store_key blob_key(uint64_t number)
{
    struct store_key key;
    struct random random;
    random_seed(&random, number);
    for (uint32_t i = 0; i < STORE_KEY_BYTES; i++) key.bytes[i] = (unsigned char)random_next(&random);
    return key;
}

/* What belongs to a number; odd ones can be compressed. */
static inline void blob_fill(unsigned char *out, uint32_t bytes, uint64_t number)
{
    struct random random;
    random_seed(&random, number);
    for (uint32_t i = 0; i < bytes; i++) out[i] = (unsigned char)(random_next(&random) & (number & 1 ? 0x0f : 0xff));
}

static inline enum status blob_put_sized(struct store *store, uint64_t number, uint32_t bytes)
{
    static unsigned char data[1 << 17];
    struct store_key key = blob_key(number);
    blob_fill(data, bytes, number);
    return store_put(store, &key, data, bytes);
}

static inline enum status blob_put(struct store *store, uint64_t number)
{
    return blob_put_sized(store, number, BLOB_BYTES);
}

/* ST_INVALID: wrong bytes were served. */
static inline enum status blob_get_sized(struct store *store, uint64_t number, uint32_t bytes)
{
    static unsigned char data[1 << 17], expected[1 << 17];
    struct store_key key = blob_key(number);
    blob_fill(expected, bytes, number);
    memset(data, 0xa5, bytes);
    enum status status = store_get(store, &key, data, bytes);
    return status == ST_OK && memcmp(data, expected, bytes) != 0 ? ST_INVALID : status;
}

static inline enum status blob_get(struct store *store, uint64_t number)
{
    return blob_get_sized(store, number, BLOB_BYTES);
}

static inline bool blob_has(struct store *store, uint64_t number)
{
    struct store_key key = blob_key(number);
    return store_has(store, &key);
}

static inline struct store_stats store_stats_of(struct store *store)
{
    struct store_stats stats;
    store_stats(store, &stats);
    assert_true(stats.bytes <= stats.bytes_max);
    assert_true(stats.gets >= stats.hits + stats.misses + stats.damaged);
    return stats;
}
#endif
