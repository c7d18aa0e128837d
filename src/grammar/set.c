/* set.c - sets of stacks: one number for one set. */
#include "grammar/machine.h"
#include <stdlib.h>
#include <string.h>

static bool make_room(struct machine *m, void **items, uint64_t needed, uint32_t *capacity, size_t size)
{
    if (m->failed || needed > UINT32_MAX / 2) m->failed = true;
    if (m->failed) return false;
    if (needed <= *capacity) return true;
    uint64_t wanted = needed < 64 ? 128 : needed + needed / 2;
    void *grown = mem_resize(*items, wanted * size);
    m->failed = !grown;
    if (!grown) return false;
    *items = grown;
    *capacity = (uint32_t)wanted;
    return true;
}

/* ---- one number for one set ---------------------------------------------------------------------------------------- */

static uint64_t hash_of(const struct entry *entries, uint32_t count)
{
    uint64_t hash = count;
    for (uint32_t i = 0; i < count; i++) {
        hash = (hash ^ ((uint64_t)entries[i].node << 32 | entries[i].below)) * 0x9e3779b97f4a7c15u;
        hash = (hash ^ hash >> 29 ^ entries[i].count) * 0xbf58476d1ce4e5b9u;
    }
    return hash ^ hash >> 32;
}

static bool grow_table(struct machine *m)
{
    uint32_t size = m->table_size ? m->table_size * 2 : 256;
    uint32_t *table = mem_zero(size, sizeof *table);
    m->failed |= !table;
    if (!table) return false;
    for (uint32_t s = 1; s < m->set_count; s++) {
        uint64_t at = hash_of(m->entries + m->sets[s].first, m->sets[s].count);
        while (table[at & (size - 1)]) at++;
        table[at & (size - 1)] = s;
    }
    mem_free(m->table);
    m->table = table;
    m->table_size = size;
    return true;
}

static bool add_set(struct machine *m, const struct entry *entries, uint32_t count)
{
    if (!make_room(m, (void **)&m->entries, (uint64_t)m->entry_count + count, &m->entry_capacity, sizeof *entries) ||
        !make_room(m, (void **)&m->sets, (uint64_t)m->set_count + 1, &m->set_capacity, sizeof *m->sets))
        return false;
    struct set *set = &m->sets[m->set_count];
    *set = (struct set){.first = m->entry_count, .count = count, .transitions = NOTHING};
    for (uint32_t level = 0; level < TRIE_LEVELS; level++) set->normals[level] = set->masks[level] = NOTHING;
    for (uint32_t i = 0; i < count; i++) {
        uint16_t depth = m->sets[entries[i].below].depth;
        if (depth >= set->depth) set->depth = (uint16_t)(depth + 1);
    }
    if (count) memcpy(m->entries + m->entry_count, entries, count * sizeof *entries);
    m->entry_count += count;
    m->set_count++;
    return true;
}

/* The number of a set of entries that ascend and differ in node and count. */
static uint32_t find_set(struct machine *m, const struct entry *entries, uint32_t count)
{
    if (!count || m->failed) return 0;
    if (2 * m->set_count >= m->table_size && !grow_table(m)) return 0;
    uint64_t at = hash_of(entries, count);
    for (; m->table[at & (m->table_size - 1)]; at++) {
        const struct set *set = &m->sets[m->table[at & (m->table_size - 1)]];
        if (set->count == count && memcmp(m->entries + set->first, entries, count * sizeof *entries) == 0)
            return m->table[at & (m->table_size - 1)];
    }
    if (!add_set(m, entries, count)) return 0;
    m->table[at & (m->table_size - 1)] = m->set_count - 1;
    return m->set_count - 1;
}

/* ---- joining -------------------------------------------------------------------------------------------------------- */

static int compare(const struct entry *a, const struct entry *b)
{
    return a->node != b->node ? (a->node > b->node) - (a->node < b->node)
                              : (a->count > b->count) - (a->count < b->count);
}

static int compare_all(const void *left, const void *right)
{
    const struct entry *a = left, *b = right;
    int order = compare(a, b);
    return order ? order : (a->below > b->below) - (a->below < b->below);
}

static void put_result(struct machine *m, struct entry entry)
{
    if (make_room(m, (void **)&m->result, (uint64_t)m->result_count + 1, &m->result_capacity, sizeof entry))
        m->result[m->result_count++] = entry;
}

/* The stacks of both; as deep as the deepest of them. */
static uint32_t join(struct machine *m, uint32_t one, uint32_t other)
{
    if (one == other || !other || m->failed) return one;
    if (!one) return other;
    uint32_t begin = m->result_count, i = 0, j = 0;
    for (; (i < m->sets[one].count || j < m->sets[other].count) && !m->failed; m->work++) {
        const struct set *a = &m->sets[one], *b = &m->sets[other];
        const struct entry *left = i < a->count ? &m->entries[a->first + i] : NULL;
        const struct entry *right = j < b->count ? &m->entries[b->first + j] : NULL;
        int order = !left ? 1 : !right ? -1 : compare(left, right);
        struct entry entry = order <= 0 ? *left : *right;
        uint32_t second = order == 0 ? right->below : 0;
        i += order <= 0;
        j += order >= 0;
        if (second && m->work < ITEMS_MAX) entry.below = join(m, entry.below, second);
        put_result(m, entry);
    }
    uint32_t set = m->failed ? 0 : find_set(m, m->result + begin, m->result_count - begin);
    m->result_count = begin;
    return set;
}

/* The set of the results from `begin` on, which are in no order; they are taken away. */
static uint32_t settle(struct machine *m, uint32_t begin)
{
    uint32_t count = m->result_count - begin, kept = 0;
    if (!count || m->failed) return 0;
    qsort(m->result + begin, count, sizeof *m->result, compare_all);
    for (uint32_t i = 0; i < count && !m->failed; i++) {
        struct entry entry = m->result[begin + i];
        if (kept && compare(&m->result[begin + kept - 1], &entry) == 0) {
            uint32_t below = join(m, m->result[begin + kept - 1].below, entry.below);
            m->result[begin + kept - 1].below = below;
        } else {
            m->result[begin + kept++] = entry;
        }
    }
    uint32_t set = m->failed ? 0 : find_set(m, m->result + begin, kept);
    m->result_count = begin;
    return set;
}

/* ---- one byte ------------------------------------------------------------------------------------------------------- */

#define SEEN_SIZE (2 * ITEMS_MAX)

static uint32_t item_place(const struct item *item)
{
    uint64_t mixed = ((uint64_t)item->node << 33 ^ (uint64_t)item->below << 1 ^ item->fresh) * 0x9e3779b97f4a7c15u;
    return (uint32_t)(mixed >> 40) % SEEN_SIZE;
}

static void push(struct machine *m, uint32_t node, uint32_t below, bool fresh)
{
    if (node == NODE_NONE) return;
    const struct item item = {node, below, fresh};
    uint32_t at = item_place(&item);
    for (; m->seen[at]; at = (at + 1) % SEEN_SIZE) {
        const struct item *other = &m->items[m->seen[at] - 1];
        if (other->node == node && other->below == below && other->fresh == fresh) return;
    }
    m->work++;
    if (m->item_count == ITEMS_MAX) return; /* too much work: the transition will be dead */
    m->items[m->item_count] = item;
    m->seen[at] = ++m->item_count;
}

/* Into a rule, to come back to `node` with `count` on top of `below`. */
static void enter(struct machine *m, uint32_t rule, uint32_t node, uint32_t count, uint32_t below)
{
    const struct entry entry = {node, count, below};
    uint32_t start = m->automaton->rules[rule].start;
    if (m->sets[below].depth >= DEPTH_MAX) return;
    uint32_t set = find_set(m, &entry, 1);
    if (set) push(m, start, set, true);
}

/* A repetition of which `count` are done; saturated where more make no difference. */
static void repeat(struct machine *m, uint32_t node, uint32_t count, uint32_t below, bool fresh)
{
    const struct repeat *r = &m->automaton->repeats[m->automaton->nodes[node].other];
    if (r->most == REPEAT_ENDLESS && count > r->least) count = r->least;
    if (count >= r->least) push(m, m->automaton->nodes[node].next, below, fresh);
    if (count < r->most) enter(m, r->rule, node, count, below);
}

/* A rule has ended on top of `set`: on with whatever called it. */
static void leave(struct machine *m, uint32_t set)
{
    for (uint32_t i = 0; i < m->sets[set].count; i++) {
        const struct entry entry = m->entries[m->sets[set].first + i];
        const struct node *node = &m->automaton->nodes[entry.node];
        if (node->kind == NODE_BOTTOM)
            put_result(m, entry);
        else if (node->kind == NODE_CALL)
            push(m, node->next, entry.below, false);
        else
            repeat(m, entry.node, entry.count + 1, entry.below, false);
    }
}

static void follow(struct machine *m, const struct item *item)
{
    const struct node *node = &m->automaton->nodes[item->node];
    switch ((enum node_kind)node->kind) {
    case NODE_SPLIT:
        push(m, node->next, item->below, item->fresh);
        push(m, node->other, item->below, item->fresh);
        break;
    case NODE_BYTES:
        put_result(m, (struct entry){item->node, 0, item->below});
        break;
    case NODE_CALL:
        if (node->skip) push(m, node->next, item->below, item->fresh);
        if (node->tail)
            push(m, m->automaton->rules[node->other].start, item->below, true);
        else
            enter(m, node->other, item->node, 0, item->below);
        break;
    case NODE_REPEAT:
        repeat(m, item->node, 0, item->below, item->fresh);
        break;
    case NODE_FINAL: /* what is empty was passed by where it was called (skip) */
        if (!item->fresh) leave(m, item->below);
        break;
    case NODE_DEAD:
    case NODE_BOTTOM:
        break;
    }
}

/* What waits for a byte, from the items on. */
static uint32_t close_items(struct machine *m)
{
    while (m->next_item < m->item_count && !m->failed) {
        const struct item item = m->items[m->next_item++];
        follow(m, &item);
    }
    uint32_t set = settle(m, 0);
    return m->failed || m->work >= ITEMS_MAX ? 0 : set;
}

static void begin_items(struct machine *m)
{
    for (uint32_t i = 0; i < m->item_count; i++) {
        uint32_t at = item_place(&m->items[i]);
        while (m->seen[at] != i + 1) at = (at + 1) % SEEN_SIZE;
        m->seen[at] = 0;
    }
    m->item_count = m->next_item = m->result_count = m->work = 0;
}

static uint32_t make_transition(struct machine *m, uint32_t set, uint8_t byte_class)
{
    unsigned char byte = m->automaton->member[byte_class];
    begin_items(m);
    for (uint32_t i = 0; i < m->sets[set].count; i++) {
        const struct entry *entry = &m->entries[m->sets[set].first + i];
        const struct node *node = &m->automaton->nodes[entry->node];
        m->work++;
        if (node->kind == NODE_BYTES && byte_set_has(&m->automaton->byte_sets[node->other], byte))
            push(m, node->next, entry->below, false);
    }
    return close_items(m);
}

static struct transition *transition_of(struct machine *m, uint32_t set, uint8_t byte_class)
{
    uint32_t classes = m->automaton->class_count;
    if (m->sets[set].transitions == NOTHING) {
        if (!make_room(m, (void **)&m->transitions, (uint64_t)m->transition_count + classes, &m->transition_capacity,
                       sizeof *m->transitions))
            return NULL;
        m->sets[set].transitions = m->transition_count;
        for (uint32_t i = 0; i < classes; i++)
            m->transitions[m->transition_count++] = (struct transition){.next = TRANSITION_UNKNOWN};
    }
    return &m->transitions[m->sets[set].transitions + byte_class];
}

uint32_t machine_next(struct machine *m, uint32_t set, uint8_t byte_class)
{
    struct transition *transition = set ? transition_of(m, set, byte_class) : NULL;
    if (!transition) return 0;
    if (transition->next != TRANSITION_UNKNOWN) return transition->next;
    uint32_t next = make_transition(m, set, byte_class);
    if (m->failed) return 0;
    transition = transition_of(m, set, byte_class);
    transition->next = next;
    transition->cost = (uint16_t)(m->work < UINT16_MAX ? m->work : UINT16_MAX);
    return next;
}

void machine_begin_walk(struct machine *m)
{
    if (++m->walk) return;
    for (uint32_t i = 0; i < m->transition_count; i++) m->transitions[i].stamp = 0; /* stamps begin anew */
    for (uint32_t s = 0; s < m->set_count; s++) m->sets[s].stamp = 0;
    m->walk = 1;
}

uint32_t machine_walk(struct machine *m, uint32_t set, uint8_t byte_class, uint64_t *cost)
{
    uint32_t next = machine_next(m, set, byte_class);
    if (m->failed || !set) return 0;
    struct transition *transition = transition_of(m, set, byte_class);
    if (transition->stamp == m->walk) return next;
    transition->stamp = m->walk;
    *cost += transition->cost;
    if (m->sets[next].stamp != m->walk) *cost += m->automaton->class_count + SET_COST;
    m->sets[next].stamp = m->walk;
    return next;
}

struct grammar_next machine_ends(const struct machine *m, uint32_t set)
{
    struct grammar_next next = {.must_end = m->sets[set].count == 1};
    for (uint32_t i = 0; i < m->sets[set].count; i++) next.may_end |= m->entries[m->sets[set].first + i].node == 1;
    next.must_end &= next.may_end;
    return next;
}

/* ---- counts that do not matter yet ---------------------------------------------------------------------------------- */

/* Within so many more repetitions the count passes no bound: as any other such count between the same bounds. */
static uint32_t normal_count(const struct repeat *r, uint32_t count, uint32_t more)
{
    if (count + more < r->least) return 0;
    if (count >= r->least && r->most != REPEAT_ENDLESS && count + more < r->most) return r->least;
    return count;
}

uint32_t machine_normal(struct machine *m, uint32_t set, uint32_t level)
{
    if (set <= 1 || m->failed) return set;
    if (m->sets[set].normals[level] != NOTHING) return m->sets[set].normals[level];
    uint32_t begin = m->result_count;
    for (uint32_t i = 0; i < m->sets[set].count && !m->failed; i++) {
        struct entry entry = m->entries[m->sets[set].first + i];
        const struct node *node = &m->automaton->nodes[entry.node];
        if (node->kind == NODE_REPEAT)
            entry.count = normal_count(&m->automaton->repeats[node->other], entry.count, TRIE_BYTES[level]);
        entry.below = machine_normal(m, entry.below, level);
        put_result(m, entry);
    }
    m->work = 0;
    uint32_t normal = settle(m, begin);
    if (!m->failed) m->sets[set].normals[level] = normal;
    return normal;
}

/* ---- memory --------------------------------------------------------------------------------------------------------- */

static bool add_list(struct machine *m)
{
    if (!make_room(m, (void **)&m->listed, (uint64_t)m->listed_count + m->scratch_count, &m->listed_capacity,
                   sizeof *m->listed))
        return false;
    for (uint32_t word = 0; word < m->mask_words && m->scratch_count; word++)
        for (uint64_t bits = m->scratch[word]; bits; bits &= bits - 1)
            m->listed[m->listed_count++] = word * 64 + (uint32_t)__builtin_ctzll(bits);
    m->masks[m->mask_count] = (struct mask){m->listed_count - m->scratch_count, m->scratch_count};
    return true;
}

static bool add_bits(struct machine *m)
{
    size_t bytes = m->mask_words * sizeof *m->bits;
    if (!make_room(m, (void **)&m->bits, (uint64_t)m->bits_count + 1, &m->bits_capacity, bytes)) return false;
    memcpy(m->bits + (size_t)m->bits_count * m->mask_words, m->scratch, bytes);
    m->masks[m->mask_count] = (struct mask){m->bits_count++, NOTHING};
    return true;
}

uint32_t machine_add_mask(struct machine *m)
{
    if (!make_room(m, (void **)&m->masks, (uint64_t)m->mask_count + 1, &m->mask_capacity, sizeof *m->masks))
        return NOTHING;
    bool listed = m->scratch_count <= m->mask_words; /* then a list takes less room than the bits */
    return (listed ? add_list(m) : add_bits(m)) ? m->mask_count++ : NOTHING;
}

uint64_t machine_bytes(const struct machine *m)
{
    return m->entry_count * sizeof *m->entries + m->set_count * sizeof *m->sets + m->table_size * sizeof *m->table +
           m->transition_count * sizeof *m->transitions + m->mask_count * sizeof *m->masks +
           m->listed_count * sizeof *m->listed + (uint64_t)m->bits_count * m->mask_words * sizeof *m->bits;
}

uint64_t machine_fixed_bytes(const struct machine *m)
{
    return ITEMS_MAX * sizeof *m->items + SEEN_SIZE * sizeof *m->seen + 2 * m->mask_words * sizeof *m->scratch;
}

/* Lets go of the tables without freeing them: they are somebody else's, or were freed. */
static void empty(struct machine *m)
{
    m->entries = m->result = NULL;
    m->sets = NULL;
    m->table = NULL;
    m->transitions = NULL;
    m->masks = NULL;
    m->listed = NULL;
    m->bits = NULL;
    m->entry_count = m->entry_capacity = m->set_count = m->set_capacity = m->table_size = 0;
    m->transition_count = m->transition_capacity = m->mask_count = m->mask_capacity = m->result_capacity = 0;
    m->listed_count = m->listed_capacity = m->bits_count = m->bits_capacity = 0;
}

static void forget(struct machine *m)
{
    mem_free(m->entries);
    mem_free(m->sets);
    mem_free(m->table);
    mem_free(m->transitions);
    mem_free(m->masks);
    mem_free(m->listed);
    mem_free(m->bits);
    mem_free(m->result);
    empty(m);
}

enum status machine_reset(struct machine *m)
{
    const struct entry bottom = {.node = 1};
    forget(m);
    m->failed = false;
    m->walk = 0;
    m->epoch++;
    begin_items(m);
    if (add_set(m, NULL, 0)) find_set(m, &bottom, 1); /* sets 0 and 1 */
    push(m, m->automaton->rules[m->automaton->root].start, 1, false);
    m->start = close_items(m);
    return m->failed ? ST_NOMEM : ST_OK;
}

/* A set of `from`, and all below it, in `to`; memo: by old number, the new one. Depth is at most DEPTH_MAX. */
static uint32_t move_set(struct machine *to, const struct machine *from, uint32_t set, uint32_t *memo)
{
    if (set <= 1 || memo[set] || to->failed) return set <= 1 ? set : memo[set];
    uint32_t begin = to->result_count;
    for (uint32_t i = 0; i < from->sets[set].count && !to->failed; i++) {
        struct entry entry = from->entries[from->sets[set].first + i];
        entry.below = move_set(to, from, entry.below, memo);
        put_result(to, entry);
    }
    if (!to->failed) memo[set] = find_set(to, to->result + begin, to->result_count - begin);
    to->result_count = begin;
    return memo[set];
}

enum status machine_compact(struct machine *m, uint32_t *set)
{
    struct machine old = *m;
    uint32_t *memo = mem_zero(m->set_count, sizeof *memo);
    if (!memo) return ST_NOMEM;
    empty(m);
    enum status status = machine_reset(m);
    if (status == ST_OK) *set = move_set(m, &old, *set, memo);
    forget(&old);
    mem_free(memo);
    return status == ST_OK && m->failed ? ST_NOMEM : status;
}

enum status machine_init(struct machine *m, const struct automaton *automaton, uint32_t mask_words)
{
    *m = (struct machine){.automaton = automaton, .mask_words = mask_words};
    m->items = mem_alloc(ITEMS_MAX * sizeof *m->items);
    m->seen = mem_zero(SEEN_SIZE, sizeof *m->seen);
    m->scratch = mem_zero(2 * (size_t)mask_words, sizeof *m->scratch);
    m->tokens = m->scratch ? m->scratch + mask_words : NULL;
    if (m->items && m->seen && m->scratch && machine_reset(m) == ST_OK) return ST_OK;
    machine_release(m);
    return ST_NOMEM;
}

void machine_release(struct machine *m)
{
    forget(m);
    mem_free(m->items);
    mem_free(m->seen);
    mem_free(m->scratch);
    *m = (struct machine){0};
}
