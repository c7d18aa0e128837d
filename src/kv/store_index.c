/* store_index.c - which blobs a folder holds, as far as this process knows: a hash table and a list in the order of use. */
#include "kv/store_internal.h"
#include <string.h>

#define CAPACITY_LEAST 256u

void blob_index_init(struct blob_index *index)
{
    *index = (struct blob_index){.free = ENTRY_NONE, .newest = ENTRY_NONE, .oldest = ENTRY_NONE};
}

void blob_index_release(struct blob_index *index)
{
    mem_free(index->entries);
    mem_free(index->buckets);
}

static uint32_t *bucket_of(const struct blob_index *index, const struct store_key *key)
{
    uint32_t hash; /* keys are SHA-256 */
    memcpy(&hash, key->bytes, sizeof hash);
    return &index->buckets[hash & (index->bucket_count - 1)];
}

uint32_t blob_index_find(const struct blob_index *index, const struct store_key *key)
{
    if (!index->bucket_count) return ENTRY_NONE;
    uint32_t at = *bucket_of(index, key);
    while (at != ENTRY_NONE && memcmp(index->entries[at].key.bytes, key->bytes, STORE_KEY_BYTES) != 0)
        at = index->entries[at].next;
    return at;
}

static bool grow(struct blob_index *index)
{
    if (index->capacity >= ENTRY_NONE / 2) return false;
    uint32_t capacity = index->capacity ? 2 * index->capacity : CAPACITY_LEAST;
    uint32_t *buckets = mem_alloc(capacity * sizeof *buckets);
    struct entry *entries = buckets ? mem_resize(index->entries, capacity * sizeof *entries) : NULL;
    if (!entries) {
        mem_free(buckets);
        return false;
    }
    mem_free(index->buckets);
    index->entries = entries;
    index->buckets = buckets;
    index->capacity = index->bucket_count = capacity;
    for (uint32_t i = 0; i < capacity; i++) buckets[i] = ENTRY_NONE;
    for (uint32_t at = index->newest; at != ENTRY_NONE; at = entries[at].older) {
        uint32_t *bucket = bucket_of(index, &entries[at].key);
        entries[at].next = *bucket;
        *bucket = at;
    }
    return true;
}

static void link_newest(struct blob_index *index, uint32_t at)
{
    index->entries[at].newer = ENTRY_NONE;
    index->entries[at].older = index->newest;
    if (index->newest != ENTRY_NONE) index->entries[index->newest].newer = at;
    index->newest = at;
    if (index->oldest == ENTRY_NONE) index->oldest = at;
}

static void unlink_entry(struct blob_index *index, uint32_t at)
{
    struct entry *entry = &index->entries[at];
    *(entry->newer == ENTRY_NONE ? &index->newest : &index->entries[entry->newer].older) = entry->older;
    *(entry->older == ENTRY_NONE ? &index->oldest : &index->entries[entry->older].newer) = entry->newer;
}

uint32_t blob_index_add(struct blob_index *index, const struct store_key *key, uint64_t bytes)
{
    if (index->free == ENTRY_NONE && index->used == index->capacity && !grow(index)) return ENTRY_NONE;
    uint32_t at = index->free;
    if (at != ENTRY_NONE)
        index->free = index->entries[at].older;
    else
        at = index->used++;
    uint32_t *bucket = bucket_of(index, key);
    index->entries[at] = (struct entry){.key = *key, .bytes = bytes, .next = *bucket};
    *bucket = at;
    link_newest(index, at);
    index->count++;
    index->bytes += bytes;
    return at;
}

void blob_index_use(struct blob_index *index, uint32_t at)
{
    unlink_entry(index, at);
    link_newest(index, at);
}

void blob_index_drop(struct blob_index *index, uint32_t at)
{
    struct entry *entry = &index->entries[at];
    uint32_t *link = bucket_of(index, &entry->key);
    while (*link != at) link = &index->entries[*link].next;
    *link = entry->next;
    unlink_entry(index, at);
    index->count--;
    index->bytes -= entry->bytes;
    entry->older = index->free;
    index->free = at;
}
