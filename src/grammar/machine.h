/* machine.h - a compiled grammar at work: sets of stacks, transitions and token sets, made as they are needed and remembered.
 *
 * A stack is a node that waits for a byte, on top of the calls and repetitions that it is inside of. Many stacks are held as a
 * set of entries: a node (with a count, if it is a repetition), and the set of what may lie below it. Entries of a set differ in node
 * and count, and equal sets have the same number, so one set of stacks has one number. Set 0 is empty: dead. Set 1 holds
 * the bottom: a set that holds it is one in which the grammar is satisfied.
 *
 * What is remembered is forgotten when it takes more than MEMORY_BYTES, but for the place that is asked for; then the epoch
 * changes, and a place of an older epoch is found again from the answer's tokens. */
#ifndef GRAMMAR_MACHINE_H
#define GRAMMAR_MACHINE_H
#include "grammar/automaton.h"
#include "grammar/grammar.h"
#include "grammar/vocabulary_trie.h"

#define MEMORY_BYTES (6u << 20) /* remembered of one grammar, between two token sets */
#define DEPTH_MAX 512u          /* calls inside calls */
#define ITEMS_MAX 4096u         /* work of one transition */
#define WALK_COST_MAX \
    150000u          /* work of one level of a token set: about a hundredth of a second; real ones take a third */
#define SET_COST 32u /* of a set, beside that of what leads there and of its transitions' room */

struct entry {
    uint32_t node, count, below; /* below: a set */
};
struct transition {
    uint32_t next;  /* set; TRANSITION_UNKNOWN */
    uint16_t cost;  /* work that it was */
    uint16_t stamp; /* of the last walk that used it */
};
#define TRANSITION_UNKNOWN UINT32_MAX
#define NOTHING UINT32_MAX
struct set {
    uint32_t first, count;         /* entries */
    uint32_t transitions;          /* of class_count, or NOTHING */
    uint32_t normals[TRIE_LEVELS]; /* the set whose token set of the level is the same, or NOTHING */
    uint32_t masks[TRIE_LEVELS];   /* of a normal set: in masks, or NOTHING */
    uint16_t depth, stamp;
};
/* The tokens of one level: a set of bits, or a list if that is shorter. */
struct mask {
    uint32_t first, count; /* of a list: in listed; of a set: its number in bits, and NOTHING */
};
struct item {
    uint32_t node, below;
    bool fresh; /* no byte was taken since the node's rule was entered */
};

struct machine {
    const struct automaton *automaton;
    uint32_t start; /* set */
    uint64_t epoch;

    struct entry *entries;
    struct set *sets;
    uint32_t *table; /* [table_size] set numbers by hash; 0 = free */
    struct transition *transitions;
    struct mask *masks;
    uint32_t *listed;
    uint64_t *bits; /* [bits_count, mask_words] */
    uint32_t entry_count, entry_capacity, set_count, set_capacity, table_size;
    uint32_t transition_count, transition_capacity, mask_count, mask_capacity, listed_count, listed_capacity;
    uint32_t bits_count, bits_capacity, mask_words;
    uint32_t scratch_count;     /* tokens in scratch; 0: it is all zero */
    uint64_t *scratch, *tokens; /* [mask_words] of one level; of all */
    uint16_t walk;              /* stamp of the walk that goes on */

    /* Of the transition that is being made. */
    struct item *items;   /* [ITEMS_MAX] all so far; `next_item` is the first that is not done */
    uint32_t *seen;       /* [2 * ITEMS_MAX] places of items, + 1, by hash */
    struct entry *result; /* [result_capacity] a stack of entries that become sets */
    uint32_t item_count, next_item, result_count, result_capacity, work;
    bool failed; /* no memory */
};
MUST_CHECK enum status machine_init(struct machine *machine, const struct automaton *automaton, uint32_t mask_words);
void machine_release(struct machine *machine);
uint64_t machine_bytes(const struct machine *machine);       /* of what it remembers */
uint64_t machine_fixed_bytes(const struct machine *machine); /* of what it needs beside that */
/* Forgets everything: every set number is void, but for the start's. ST_NOMEM. */
MUST_CHECK enum status machine_reset(struct machine *machine);
/* Forgets all but what `set` is made of, which gets another number. ST_NOMEM: `set` is void. */
MUST_CHECK enum status machine_compact(struct machine *machine, uint32_t *set);

/* The set after one more byte of the class; 0: none, or no memory, and then `failed` is set. */
uint32_t machine_next(struct machine *machine, uint32_t set, uint8_t byte_class);
/* The same, and the work that it is, once in each walk. */
uint32_t machine_walk(struct machine *machine, uint32_t set, uint8_t byte_class, uint64_t *cost);
void machine_begin_walk(struct machine *machine);
/* Whether the grammar is satisfied there, and whether nothing can follow. */
struct grammar_next machine_ends(const struct machine *machine, uint32_t set);
/* The set in which counts that no token of the level can bring to their bounds are all the same; 0: no memory. */
uint32_t machine_normal(struct machine *machine, uint32_t set, uint32_t level);
/* Remembers machine->scratch as a mask; NOTHING: no memory. */
uint32_t machine_add_mask(struct machine *machine);

/* mask.c: the tokens that may follow in this set; `first`: at the beginning of an answer. Borrowed until the next call; NULL: no
 * memory. */
const uint64_t *machine_tokens(struct machine *machine, const struct vocabulary_trie *vocabulary, uint32_t set,
                               bool first);

#endif
