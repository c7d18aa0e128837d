/* merge.h - merging the symbols of one word: the pair with the lowest key first, the leftmost of equals, until no pair of
 * neighbours merges. Shared by byte-pair encoding (the key is a merge's rank) and SentencePiece (its score, turned
 * around).
 *
 * Short words are scanned; longer ones keep their pairs in a heap, so that n symbols take O(n log n) whatever they are. */
#ifndef TEXT_MERGE_H
#define TEXT_MERGE_H
#include "text/text.h"
#include <string.h>

#define MERGE_NONE UINT32_MAX /* a key: the pair does not merge */
#define MERGE_SHORT_MAX 32u

/* A symbol without a token of its own (TOKEN_NONE) may still merge where pairs are looked up by text; a raw one never
 * does. */
#define SYMBOL_RAW (UINT32_MAX - 1)

struct merge_symbol {
    uint32_t id;     /* token, or TOKEN_NONE, or SYMBOL_RAW */
    uint32_t begin;  /* in the text it was cut from; it ends where the next begins */
    uint32_t key;    /* of the pair with the next symbol */
    uint32_t merged; /* what that pair becomes */
    uint32_t previous, next;
};

/* Looks up the pair of left (id, text [begin, middle)) and right: its key, or MERGE_NONE, and what it becomes. */
struct merge_pair {
    uint32_t left, right;
    uint32_t begin, end; /* of both together */
};
typedef uint32_t merge_lookup(const void *data, const struct merge_pair *pair, uint32_t *merged);

/* Reused from word to word. symbols[count] is a sentinel whose `begin` is the word's end. */
struct merge_work {
    struct merge_symbol *symbols;
    uint32_t count, capacity;
    uint64_t *heap; /* key << 32 | symbol */
    size_t heap_count, heap_capacity;
};

void merge_work_release(struct merge_work *work);
/* Room for `count` symbols and the sentinel; what `symbols` held is kept. */
MUST_CHECK enum status merge_work_reserve(struct merge_work *work, uint64_t count, struct error *error);
/* Merges symbols[0, count) (id and begin are set) and packs what is left to the front. */
MUST_CHECK enum status merge_run(struct merge_work *work, merge_lookup *lookup, const void *data, struct error *error);

/* Ascending keys for descending scores: a float's order as an unsigned integer's, turned around. Never MERGE_NONE. */
static inline uint32_t merge_key_of_score(float score)
{
    uint32_t bits;
    if (!(score == score)) score = -__builtin_inff(); /* NaN: last */
    if (score == 0) score = 0;                        /* -0 is 0 */
    memcpy(&bits, &score, sizeof bits);
    bits = bits >> 31 ? ~bits : bits | 0x80000000u;
    return ~bits;
}

/* ---- the table of merges: (left id, right id) -> rank and id ---- */

struct merge_slot {
    uint32_t left, right, rank, merged; /* rank MERGE_NONE: empty */
};
struct merge_table {
    struct merge_slot *slots;
    uint64_t mask;
};

static inline uint64_t merge_hash(uint32_t left, uint32_t right)
{
    uint64_t hash = ((uint64_t)left << 32 | right) * 0x9E3779B97F4A7C15u;
    return hash ^ hash >> 32;
}

static inline const struct merge_slot *merge_find(const struct merge_table *table, uint32_t left, uint32_t right)
{
    for (uint64_t at = merge_hash(left, right) & table->mask;; at = (at + 1) & table->mask) {
        const struct merge_slot *slot = &table->slots[at];
        if (slot->rank == MERGE_NONE || (slot->left == left && slot->right == right)) return slot;
    }
}

#endif
