/* mask.c - token sets: the trie of the vocabulary is walked, each node a byte, and left where the automaton is dead.
 *
 * In a string of at most 100 characters every place is another set of stacks. But as long as the bound is far, the tokens that may
 * come are the same; only long tokens can tell the places apart, and there are few of those. So what short tokens may come
 * is found once for all such places (machine_normal), and the long ones are walked for each place. */
#include "grammar/machine.h"
#include "grammar/vocabulary_trie.h"
#include <string.h>

static void put_tokens(const struct trie *trie, uint32_t node, uint64_t *mask)
{
    for (uint32_t t = trie->nodes[node].first_token; t < trie->nodes[node + 1].first_token; t++)
        mask[trie->tokens[t] / 64] |= 1ull << trie->tokens[t] % 64;
}

/* Adds the tokens of nodes [begin, end), where `set` is what stands at depth `depth` above them. A walk that is too much work
 * finds nothing. */
static void walk(struct machine *m, const struct trie *trie, uint32_t begin, uint32_t end, uint32_t set, uint32_t depth,
                 uint64_t *mask)
{
    uint32_t sets[TOKEN_BYTES_MAX + 1];
    uint64_t cost = 0;
    sets[depth] = set;
    machine_begin_walk(m);
    for (uint32_t i = begin; i < end && !m->failed;) {
        const struct trie_node *node = &trie->nodes[i];
        uint32_t above = sets[node->depth - 1];
        uint32_t next = machine_walk(m, above, m->automaton->class_of[node->byte], &cost);
        if (cost > WALK_COST_MAX) {
            memset(mask, 0, m->mask_words * sizeof *mask);
            return;
        }
        if (!next) {
            i = node->end;
            continue;
        }
        sets[node->depth] = next;
        put_tokens(trie, i++, mask);
    }
}

static void walk_all(struct machine *m, const struct trie *trie, uint32_t set, uint64_t *mask)
{
    walk(m, trie, 0, trie->count, set, 0, mask);
}

static uint32_t short_mask(struct machine *m, const struct vocabulary_trie *vocabulary, uint32_t normal)
{
    if (m->sets[normal].short_mask != NOTHING) return m->sets[normal].short_mask;
    uint32_t mask = machine_add_mask(m);
    if (mask == NOTHING) return NOTHING;
    walk_all(m, &vocabulary->shorts, normal, machine_mask(m, mask));
    if (!m->failed) m->sets[normal].short_mask = mask;
    return mask;
}

/* At the beginning of an answer whose first token loses the space that it begins with. */
static void walk_first(struct machine *m, const struct trie *trie, uint32_t set, uint64_t *mask)
{
    uint32_t space = 0;
    while (space < trie->count && trie->nodes[space].byte != ' ') space = trie->nodes[space].end;
    walk(m, trie, 0, space, set, 0, mask);
    if (space == trie->count) return;
    walk(m, trie, space + 1, trie->nodes[space].end, set, 1, mask);
    walk(m, trie, trie->nodes[space].end, trie->count, set, 0, mask);
}

const uint64_t *machine_tokens(struct machine *m, const struct vocabulary_trie *vocabulary, uint32_t set, bool first)
{
    size_t bytes = m->mask_words * sizeof *m->scratch;
    memset(m->scratch, 0, bytes);
    if (!set) return m->scratch;
    if (first && vocabulary->drops_space) {
        walk_first(m, &vocabulary->shorts, set, m->scratch);
        walk_first(m, &vocabulary->longs, set, m->scratch);
        return m->failed ? NULL : m->scratch;
    }
    if (m->sets[set].mask != NOTHING) return machine_mask(m, m->sets[set].mask);
    uint32_t normal = machine_normal(m, set), shorts = normal ? short_mask(m, vocabulary, normal) : NOTHING;
    if (m->failed || shorts == NOTHING) return NULL;
    memcpy(m->scratch, machine_mask(m, shorts), bytes);
    walk_all(m, &vocabulary->longs, set, m->scratch);
    if (m->failed || normal != set) return m->failed ? NULL : m->scratch;
    uint32_t mask = machine_add_mask(m);
    if (mask == NOTHING) return NULL;
    memcpy(machine_mask(m, mask), m->scratch, bytes);
    m->sets[set].mask = mask;
    return m->scratch;
}
