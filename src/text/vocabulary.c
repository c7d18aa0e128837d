/* vocabulary.c - building the table of spellings. Look-ups are in vocabulary.h: they are the hot path. */
#include "text/vocabulary.h"

static enum status no_memory(struct error *error)
{
    return error_set(error, ST_NOMEM, "no memory for the tokenizer's vocabulary");
}

static enum status too_large(struct error *error)
{
    return error_set(error, ST_LIMIT, "the tokenizer's vocabulary is larger than 4 GiB");
}

/* An empty table, at most half full with `count` spellings. */
static bool renew_slots(struct vocabulary *vocabulary, uint64_t count)
{
    uint64_t slots = 64;
    while (slots < count * 2) slots *= 2;
    struct vocabulary_slot *table = mem_alloc(slots * sizeof *table);
    if (!table) return false;
    memset(table, 0xFF, slots * sizeof *table);
    mem_free(vocabulary->slots);
    vocabulary->slots = table;
    vocabulary->mask = slots - 1;
    return true;
}

enum status vocabulary_init(struct vocabulary *vocabulary, uint32_t count, uint64_t bytes, struct error *error)
{
    memset(vocabulary, 0, sizeof *vocabulary);
    if (bytes > UINT32_MAX) return too_large(error);
    vocabulary->capacity = count;
    vocabulary->bytes_capacity = bytes;
    vocabulary->bytes = mem_alloc(bytes);
    vocabulary->offsets = mem_alloc(((uint64_t)count + 1) * sizeof *vocabulary->offsets);
    if (!vocabulary->bytes || !vocabulary->offsets || !renew_slots(vocabulary, count)) {
        vocabulary_release(vocabulary);
        return no_memory(error);
    }
    vocabulary->offsets[0] = 0;
    return ST_OK;
}

void vocabulary_release(struct vocabulary *vocabulary)
{
    mem_free(vocabulary->bytes);
    mem_free(vocabulary->offsets);
    mem_free(vocabulary->slots);
    memset(vocabulary, 0, sizeof *vocabulary);
}

/* Twice the room, in both arrays. */
static enum status grow(struct vocabulary *vocabulary, size_t bytes, struct error *error)
{
    uint64_t bytes_capacity = (vocabulary->bytes_capacity + bytes) * 2,
             capacity = (uint64_t)vocabulary->capacity * 2 + 1;
    if (bytes_capacity > UINT32_MAX || capacity >= UINT32_MAX) return too_large(error);
    char *text = mem_resize(vocabulary->bytes, bytes_capacity);
    if (!text) return no_memory(error);
    vocabulary->bytes = text;
    vocabulary->bytes_capacity = bytes_capacity;
    uint32_t *offsets = mem_resize(vocabulary->offsets, (capacity + 1) * sizeof *offsets);
    if (!offsets) return no_memory(error);
    vocabulary->offsets = offsets;
    vocabulary->capacity = (uint32_t)capacity;
    return ST_OK;
}

enum status vocabulary_append(struct vocabulary *vocabulary, const char *text, size_t bytes, struct error *error)
{
    uint32_t end = vocabulary->offsets[vocabulary->count];
    if (vocabulary->count == vocabulary->capacity || bytes > vocabulary->bytes_capacity - end) {
        enum status status = grow(vocabulary, bytes, error);
        if (status != ST_OK) return status;
    }
    if (bytes) memcpy(vocabulary->bytes + end, text, bytes);
    vocabulary->offsets[++vocabulary->count] = end + (uint32_t)bytes;
    return ST_OK;
}

/* Puts one id into its slot. */
static enum status insert(struct vocabulary *vocabulary, uint32_t id, uint64_t hash, struct error *error)
{
    uint32_t bytes, other_bytes;
    const char *text = vocabulary_spelling(vocabulary, id, &bytes);
    if (!bytes) return ST_OK;
    const uint32_t tag = (uint32_t)(hash >> 32);
    uint64_t at = hash & vocabulary->mask;
    for (uint32_t probes = 0; probes < VOCABULARY_PROBES_MAX; probes++, at = (at + 1) & vocabulary->mask) {
        struct vocabulary_slot *slot = &vocabulary->slots[at];
        if (slot->id == TOKEN_NONE) {
            *slot = (struct vocabulary_slot){tag, id};
            return ST_OK;
        }
        if (slot->tag != tag) continue;
        const char *other = vocabulary_spelling(vocabulary, slot->id, &other_bytes);
        if (other_bytes == bytes && memcmp(other, text, bytes) == 0) return ST_OK;
    }
    return error_set(error, ST_INVALID, "the tokenizer's vocabulary was made to collide (token %u)", id);
}

enum status vocabulary_index(struct vocabulary *vocabulary, uint32_t begin, uint32_t end, struct error *error)
{
    if ((uint64_t)end * 4 > (vocabulary->mask + 1) * 3) {
        if (!renew_slots(vocabulary, (uint64_t)end * 2)) return no_memory(error);
        begin = 0;
    }
    enum { BATCH = 32 }; /* the slots of a batch are on their way while the next spellings are hashed */
    uint64_t hashes[BATCH];
    for (uint32_t first = begin; first < end; first += BATCH) {
        uint32_t count = end - first < BATCH ? end - first : BATCH, bytes;
        for (uint32_t i = 0; i < count; i++) {
            const char *text = vocabulary_spelling(vocabulary, first + i, &bytes);
            hashes[i] = vocabulary_hash(text, bytes);
            vocabulary_prefetch(vocabulary, hashes[i]);
        }
        for (uint32_t i = 0; i < count; i++) {
            enum status status = insert(vocabulary, first + i, hashes[i], error);
            if (status != ST_OK) return status;
        }
    }
    return ST_OK;
}
