/* mask.c - token sets: the trie of the vocabulary is walked, each node a byte, and left where the automaton is dead.
 *
 * In a string of at most 100 characters every place is another set of stacks. But as long as the bound is farther than a token is
 * long, the tokens that may come are the same. So tokens are held in levels by their length, and the tokens of a level
 * that may come are found once for all places that they cannot tell apart (machine_normal). */
#include "grammar/machine.h"
#include <string.h>

static void put_tokens(struct machine *m, const struct trie *trie, uint32_t node)
{
    uint32_t begin = trie->nodes[node].first_token, end = trie->nodes[node + 1].first_token;
    for (uint32_t t = begin; t < end; t++) m->scratch[trie->tokens[t] / 64] |= 1ull << trie->tokens[t] % 64;
    m->scratch_count += end - begin;
}

static void clear_scratch(struct machine *m)
{
    if (m->scratch_count) memset(m->scratch, 0, m->mask_words * sizeof *m->scratch);
    m->scratch_count = 0;
}

/* machine_walk, for what this walk has seen before: most of it. */
static inline uint32_t next_set(struct machine *m, uint32_t set, uint8_t byte_class, uint64_t *cost)
{
    uint32_t transitions = m->sets[set].transitions;
    if (transitions != NOTHING) {
        const struct transition *transition = &m->transitions[transitions + byte_class];
        if (transition->stamp == m->walk) return transition->next;
    }
    return machine_walk(m, set, byte_class, cost);
}

/* Puts the tokens of nodes [begin, end) into machine->scratch, where `set` is what stands at depth `depth` above them. A walk
 * that is too much work finds nothing. */
static void walk(struct machine *m, const struct trie *trie, uint32_t begin, uint32_t end, uint32_t set, uint32_t depth)
{
    uint32_t sets[TOKEN_BYTES_MAX + 1];
    uint64_t cost = 0;
    sets[depth] = set;
    machine_begin_walk(m);
    for (uint32_t i = begin; i < end && !m->failed;) {
        const struct trie_node *node = &trie->nodes[i];
        uint32_t next = next_set(m, sets[node->depth - 1], m->automaton->class_of[node->byte], &cost);
        if (cost > WALK_COST_MAX) {
            clear_scratch(m);
            return;
        }
        if (!next) {
            i = node->end;
            continue;
        }
        sets[node->depth] = next;
        put_tokens(m, trie, i++);
    }
}

/* At the beginning of an answer whose first token loses the space that it begins with. */
static void walk_first(struct machine *m, const struct trie *trie, uint32_t set)
{
    uint32_t space = 0;
    while (space < trie->count && trie->nodes[space].byte != ' ') space = trie->nodes[space].end;
    walk(m, trie, 0, space, set, 0);
    if (space == trie->count) return;
    walk(m, trie, space + 1, trie->nodes[space].end, set, 1);
    walk(m, trie, trie->nodes[space].end, trie->count, set, 0);
}

/* The mask of a level; NOTHING: no memory. */
static uint32_t level_mask(struct machine *m, const struct trie *trie, uint32_t set, uint32_t level)
{
    uint32_t normal = machine_normal(m, set, level);
    if (m->failed) return NOTHING;
    if (m->sets[normal].masks[level] != NOTHING) return m->sets[normal].masks[level];
    clear_scratch(m);
    walk(m, trie, 0, trie->count, normal, 0);
    uint32_t mask = m->failed ? NOTHING : machine_add_mask(m);
    if (mask != NOTHING) m->sets[normal].masks[level] = mask;
    return mask;
}

static void add_tokens(struct machine *m, const struct mask *mask)
{
    if (mask->count == NOTHING) {
        const uint64_t *bits = m->bits + (size_t)mask->first * m->mask_words;
        for (uint32_t word = 0; word < m->mask_words; word++) m->tokens[word] |= bits[word];
        return;
    }
    for (uint32_t i = 0; i < mask->count; i++) {
        uint32_t id = m->listed[mask->first + i];
        m->tokens[id / 64] |= 1ull << id % 64;
    }
}

const uint64_t *machine_tokens(struct machine *m, const struct vocabulary_trie *vocabulary, uint32_t set, bool first)
{
    clear_scratch(m);
    memset(m->tokens, 0, m->mask_words * sizeof *m->tokens);
    if (first && set && vocabulary->drops_space) {
        for (uint32_t level = 0; level < TRIE_LEVELS; level++) walk_first(m, &vocabulary->levels[level], set);
        return m->failed ? NULL : m->scratch;
    }
    for (uint32_t level = 0; level < TRIE_LEVELS && set; level++) {
        uint32_t mask = level_mask(m, &vocabulary->levels[level], set, level);
        if (mask == NOTHING) return NULL;
        add_tokens(m, &m->masks[mask]);
    }
    return m->tokens;
}
