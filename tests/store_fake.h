/* store_fake.h - a store in memory (kv/store.h) that can be slow, full, forgetful, or give back what somebody else wrote: for
 * tests of the tiers below RAM. What goes wrong follows from a seed and the key, so that threads change nothing. */
#ifndef TESTS_STORE_FAKE_H
#define TESTS_STORE_FAKE_H
#include "kv/store_internal.h"
#include "support.h"
#include <pthread.h>
#include <time.h>

struct fake_blob {
    struct store_key key;
    unsigned char *data;
    uint64_t bytes;
};
struct fake_store {
    struct store store; /* first */
    pthread_mutex_t lock;
    struct fake_blob *blobs;
    uint32_t count, capacity;
    uint64_t seed;
    /* Of 256 keys so many: are refused; are said to be there and are not; come back with one byte of the head or the tokens
     * changed; come back as another blob of the same size. */
    uint32_t refused, vanished, damaged, mixed;
    uint32_t blobs_max;     /* 0: no limit; else it is full then */
    _Atomic double delay_s; /* of every get and put; may be changed at any time */
    uint64_t puts, gets;    /* that did what they should */
};

static inline uint32_t fake_dice(const struct fake_store *fake, const struct store_key *key, uint32_t salt)
{
    uint64_t hash;
    memcpy(&hash, key->bytes, sizeof hash);
    hash = (hash ^ fake->seed ^ salt * 0x9E3779B97F4A7C15u) * 0xD6E8FEB86659FD93u;
    return (uint32_t)(hash >> 40) & 255u;
}

static inline struct fake_blob *fake_find(struct fake_store *fake, const struct store_key *key)
{
    for (uint32_t i = 0; i < fake->count; i++)
        if (memcmp(&fake->blobs[i].key, key, sizeof *key) == 0) return &fake->blobs[i];
    return NULL;
}

static inline void fake_sleep(double seconds)
{
    if (seconds > 0) nanosleep(&(struct timespec){.tv_nsec = (long)(seconds * 1e9)}, NULL);
}

static void fake_close(struct store *store)
{
    (void)store; /* the test's storage: it outlives several openings of a cache */
}

static void fake_have(struct store *store, const struct store_key *keys, uint32_t count, bool *out)
{
    struct fake_store *fake = (struct fake_store *)(void *)store;
    pthread_mutex_lock(&fake->lock);
    for (uint32_t i = 0; i < count; i++) out[i] = fake_find(fake, &keys[i]) != NULL;
    pthread_mutex_unlock(&fake->lock);
}

static enum status fake_put(struct store *store, const struct store_key *key, const void *data, uint64_t bytes)
{
    struct fake_store *fake = (struct fake_store *)(void *)store;
    enum status status = ST_OK;
    fake_sleep(fake->delay_s);
    pthread_mutex_lock(&fake->lock);
    if (fake_dice(fake, key, 1) < fake->refused) status = ST_IO;
    if (status == ST_OK && fake->blobs_max && fake->count >= fake->blobs_max) status = ST_FULL;
    if (status == ST_OK && !fake_find(fake, key)) {
        if (fake->count == fake->capacity) {
            fake->capacity = fake->capacity ? 2 * fake->capacity : 64;
            fake->blobs = realloc(fake->blobs, fake->capacity * sizeof *fake->blobs);
        }
        struct fake_blob blob = {.key = *key, .data = malloc(bytes), .bytes = bytes};
        memcpy(blob.data, data, bytes);
        fake->blobs[fake->count++] = blob;
    }
    fake->puts += status == ST_OK;
    pthread_mutex_unlock(&fake->lock);
    return status;
}

static enum status fake_get(struct store *store, const struct store_key *key, void *data, uint64_t bytes)
{
    struct fake_store *fake = (struct fake_store *)(void *)store;
    enum status status = ST_NOT_FOUND;
    fake_sleep(fake->delay_s);
    pthread_mutex_lock(&fake->lock);
    const struct fake_blob *blob = fake_find(fake, key);
    if (blob && blob->bytes == bytes && fake_dice(fake, key, 2) >= fake->vanished) {
        if (fake_dice(fake, key, 3) < fake->mixed)
            for (uint32_t i = 0; i < fake->count; i++)
                if (fake->blobs[i].bytes == bytes && &fake->blobs[i] != blob) {
                    blob = &fake->blobs[i];
                    break;
                }
        memcpy(data, blob->data, bytes);
        if (fake_dice(fake, key, 4) < fake->damaged)
            ((unsigned char *)data)[fake_dice(fake, key, 5) % (bytes < 100 ? bytes : 100)] ^= 1;
        status = ST_OK;
    }
    fake->gets += status == ST_OK;
    pthread_mutex_unlock(&fake->lock);
    return status;
}

static void fake_remove(struct store *store, const struct store_key *key)
{
    struct fake_store *fake = (struct fake_store *)(void *)store;
    pthread_mutex_lock(&fake->lock);
    struct fake_blob *blob = fake_find(fake, key);
    if (blob) {
        free(blob->data);
        *blob = fake->blobs[--fake->count];
    }
    pthread_mutex_unlock(&fake->lock);
}

static void fake_stats(struct store *store, struct store_stats *out)
{
    struct fake_store *fake = (struct fake_store *)(void *)store;
    pthread_mutex_lock(&fake->lock);
    *out = (struct store_stats){.entries = fake->count};
    pthread_mutex_unlock(&fake->lock);
}

static const struct store_kind fake_kind = {fake_close, fake_have, fake_put, fake_get, fake_remove, fake_stats};

static inline void fake_store_init(struct fake_store *fake)
{
    *fake = (struct fake_store){.store.kind = &fake_kind};
    pthread_mutex_init(&fake->lock, NULL);
}

static inline void fake_store_release(struct fake_store *fake)
{
    for (uint32_t i = 0; i < fake->count; i++) free(fake->blobs[i].data);
    free(fake->blobs);
    pthread_mutex_destroy(&fake->lock);
}
#endif
