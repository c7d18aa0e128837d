/* vocabulary.h - the spellings of a tokenizer's tokens: one block of bytes, and a hash table from spelling to id.
 *
 * Open addressing, linear probing, at most three quarters full; a slot holds 32 bits of the hash, so that a miss rarely touches
 * the spelling. A file can be made so that its spellings collide: a run of more than VOCABULARY_PROBES_MAX slots is
 * refused when the table is built, so that no later look-up is longer. */
#ifndef TEXT_VOCABULARY_H
#define TEXT_VOCABULARY_H
#include "text/text.h"
#include <string.h>

#define VOCABULARY_PROBES_MAX 512u

struct vocabulary_slot {
    uint32_t tag, id; /* id TOKEN_NONE: empty */
};

struct vocabulary {
    char *bytes;       /* all spellings, one after another */
    uint32_t *offsets; /* [count + 1] */
    uint32_t count, capacity;
    uint64_t bytes_capacity;
    struct vocabulary_slot *slots;
    uint64_t mask;
};

/* Room for `count` spellings of `bytes` bytes in all; it grows when more are added. */
MUST_CHECK enum status vocabulary_init(struct vocabulary *vocabulary, uint32_t count, uint64_t bytes,
                                       struct error *error);
void vocabulary_release(struct vocabulary *vocabulary);
/* Appends a spelling as id `count`. It can be found once vocabulary_index was called for it. */
MUST_CHECK enum status vocabulary_append(struct vocabulary *vocabulary, const char *text, size_t bytes,
                                         struct error *error);
/* Makes ids [begin, end) findable; of equal spellings the lowest id is found, empty ones never. */
MUST_CHECK enum status vocabulary_index(struct vocabulary *vocabulary, uint32_t begin, uint32_t end,
                                        struct error *error);

static inline const char *vocabulary_spelling(const struct vocabulary *vocabulary, uint32_t id, uint32_t *bytes)
{
    *bytes = vocabulary->offsets[id + 1] - vocabulary->offsets[id];
    return vocabulary->bytes + vocabulary->offsets[id];
}

/* Multiply-and-fold over 8 bytes at a time. */
static inline uint64_t vocabulary_mix(uint64_t a, uint64_t b)
{
    __uint128_t product = (__uint128_t)a * b;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

static inline uint64_t vocabulary_hash(const char *text, size_t bytes)
{
    uint64_t hash = 0x9E3779B97F4A7C15u ^ bytes, word;
    for (; bytes > 8; text += 8, bytes -= 8) {
        memcpy(&word, text, 8);
        hash = vocabulary_mix(hash ^ word, 0xD6E8FEB86659FD93u);
    }
    word = 0;
    if (bytes >= 4) {
        uint32_t low, high;
        memcpy(&low, text, 4);
        memcpy(&high, text + bytes - 4, 4);
        word = (uint64_t)high << 32 | low;
    } else if (bytes) {
        word = (uint64_t)(unsigned char)text[0] << 16 | (uint64_t)(unsigned char)text[bytes / 2] << 8 |
               (unsigned char)text[bytes - 1];
    }
    return vocabulary_mix(hash ^ word, 0xA0761D6478BD642Fu);
}

static inline void vocabulary_prefetch(const struct vocabulary *vocabulary, uint64_t hash)
{
    __builtin_prefetch(&vocabulary->slots[hash & vocabulary->mask]);
}

/* The id of the spelling with this hash, or TOKEN_NONE. */
static inline uint32_t vocabulary_find_hashed(const struct vocabulary *vocabulary, const char *text, size_t bytes,
                                              uint64_t hash)
{
    const uint32_t tag = (uint32_t)(hash >> 32);
    for (uint64_t at = hash & vocabulary->mask;; at = (at + 1) & vocabulary->mask) {
        const struct vocabulary_slot *slot = &vocabulary->slots[at];
        if (slot->id == TOKEN_NONE) return TOKEN_NONE;
        if (slot->tag != tag) continue;
        uint32_t length;
        const char *spelling = vocabulary_spelling(vocabulary, slot->id, &length);
        if (length == bytes && memcmp(spelling, text, bytes) == 0) return slot->id;
    }
}

static inline uint32_t vocabulary_find(const struct vocabulary *vocabulary, const char *text, size_t bytes)
{
    return vocabulary_find_hashed(vocabulary, text, bytes, vocabulary_hash(text, bytes));
}

#endif
