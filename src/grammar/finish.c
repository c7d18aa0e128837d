/* finish.c - the last pass over an automaton: what can match nothing, what can never be completed, left recursion, short cuts,
 * and the classes of bytes that it tells apart. Time and memory are linear in the number of nodes. */
#include "grammar/automaton.h"
#include <string.h>

struct finish {
    struct builder *builder;
    struct automaton *a;
    uint32_t *begin,
        *from;      /* predecessors of node n: from[begin[n] … begin[n + 1]); a rule's start has its calls too */
    bool *reached;  /* [node_count] */
    uint32_t *list; /* [node_count] work */
    uint32_t listed;
};

static bool enters(const struct node *node)
{
    return node->kind == NODE_CALL || node->kind == NODE_REPEAT;
}

static uint32_t rule_of(const struct automaton *a, const struct node *node)
{
    return node->kind == NODE_REPEAT ? a->repeats[node->other].rule : node->other;
}

/* Successors of a node, 0 to 2: for a call, what follows it and the start of the rule. */
static uint32_t successors(const struct automaton *a, const struct node *node, uint32_t out[2])
{
    uint32_t count = 0;
    if (node->kind == NODE_DEAD || node->kind == NODE_FINAL || node->kind == NODE_BOTTOM) return 0;
    if (node->next != NODE_NONE) out[count++] = node->next;
    if (node->kind == NODE_SPLIT && node->other != NODE_NONE) out[count++] = node->other;
    if (enters(node)) out[count++] = a->rules[rule_of(a, node)].start;
    return count;
}

static void link_back(struct finish *f)
{
    const struct automaton *a = f->a;
    uint32_t to[2];
    for (uint32_t n = 0; n < a->node_count; n++)
        for (uint32_t i = successors(a, &a->nodes[n], to); i-- > 0;) f->begin[to[i] + 1]++;
    for (uint32_t n = 0; n < a->node_count; n++) f->begin[n + 1] += f->begin[n];
    for (uint32_t n = a->node_count; n-- > 0;)
        for (uint32_t i = successors(a, &a->nodes[n], to); i-- > 0;) f->from[--f->begin[to[i] + 1]] = n;
    /* Each begin[n + 1] has become the beginning of n's own. */
    memmove(f->begin, f->begin + 1, a->node_count * sizeof *f->begin);
}

/* ---- what reaches the end of its rule --------------------------------------------------------------------------------- */

static void reach(struct finish *f, uint32_t node)
{
    if (f->reached[node]) return;
    f->reached[node] = true;
    f->list[f->listed++] = node;
}

/* Whether `node` reaches the end, given what is known to: `bytes`, by way of bytes too. */
static bool reaches(const struct finish *f, const struct node *node, bool bytes)
{
    static const struct byte_set none;
    const struct automaton *a = f->a;
    bool next = node->next != NODE_NONE && f->reached[node->next];
    if (node->kind == NODE_SPLIT) return next || (node->other != NODE_NONE && f->reached[node->other]);
    if (node->kind == NODE_BYTES) return bytes && next && memcmp(&a->byte_sets[node->other], &none, sizeof none) != 0;
    if (!enters(node) || !next) return false;
    bool optional = node->kind == NODE_REPEAT && a->repeats[node->other].least == 0;
    return optional || f->reached[a->rules[rule_of(a, node)].start];
}

static void reach_back(struct finish *f, uint32_t end, bool bytes)
{
    const struct automaton *a = f->a;
    memset(f->reached, 0, a->node_count * sizeof *f->reached);
    f->listed = 0;
    for (uint32_t n = 0; n < a->node_count; n++)
        if (a->nodes[n].kind == NODE_FINAL) reach(f, n);
    while (f->listed) {
        uint32_t node = f->list[--f->listed];
        uint32_t last = node + 1 < a->node_count ? f->begin[node + 1] : end;
        for (uint32_t i = f->begin[node]; i < last; i++)
            if (reaches(f, &a->nodes[f->from[i]], bytes)) reach(f, f->from[i]);
    }
}

static void mark(struct finish *f, uint32_t end)
{
    struct automaton *a = f->a;
    reach_back(f, end, false);
    for (uint32_t r = 0; r < a->rule_count; r++) a->rules[r].nullable = f->reached[a->rules[r].start];
    reach_back(f, end, true);
    for (uint32_t r = 0; r < a->rule_count; r++) a->rules[r].productive = f->reached[a->rules[r].start];
    for (uint32_t i = 0; i < a->repeat_count; i++)
        if (a->rules[a->repeats[i].rule].nullable) a->repeats[i].least = 0; /* some of them may be empty */
    for (uint32_t n = 0; n < a->node_count; n++) {
        struct node *node = &a->nodes[n];
        if (!f->reached[n] && node->kind != NODE_BOTTOM) *node = (struct node){.kind = NODE_DEAD};
        if (enters(node))
            node->skip = a->rules[rule_of(a, node)].nullable ||
                         (node->kind == NODE_REPEAT && a->repeats[node->other].least == 0);
    }
}

/* ---- short cuts ------------------------------------------------------------------------------------------------------- */

static bool is_dead(const struct automaton *a, uint32_t node)
{
    return node == NODE_NONE || a->nodes[node].kind == NODE_DEAD;
}

static uint32_t shorten(const struct automaton *a, uint32_t node)
{
    while (node != NODE_NONE && a->nodes[node].kind == NODE_SPLIT && a->nodes[node].other == NODE_NONE)
        node = a->nodes[node].next;
    return node;
}

static void shorten_all(struct automaton *a)
{
    for (uint32_t n = 0; n < a->node_count; n++) {
        struct node *node = &a->nodes[n];
        if (node->kind != NODE_SPLIT) continue;
        if (is_dead(a, node->other)) node->other = NODE_NONE;
        if (is_dead(a, node->next)) node->next = node->other, node->other = NODE_NONE;
    }
    for (uint32_t n = a->node_count; n-- > 0;) { /* ends were made before what leads to them, mostly: short chains */
        struct node *node = &a->nodes[n];
        if (node->kind == NODE_DEAD || node->kind == NODE_FINAL || node->kind == NODE_BOTTOM) continue;
        node->next = shorten(a, node->next);
        if (node->kind == NODE_SPLIT) node->other = shorten(a, node->other);
    }
    for (uint32_t r = 0; r < a->rule_count; r++) a->rules[r].start = shorten(a, a->rules[r].start);
    for (uint32_t n = 0; n < a->node_count; n++)
        if (a->nodes[n].kind == NODE_CALL) a->nodes[n].tail = a->nodes[a->nodes[n].next].kind == NODE_FINAL;
}

/* ---- left recursion ---------------------------------------------------------------------------------------------------- */

/* Where one can be without having taken a byte: a cycle through a rule's start would never end. Rules are searched in depth;
 * `state` of a rule: 0 not seen, 1 being searched, 2 done. */
struct search {
    uint32_t rule, first; /* first: of its part of the list */
};

static bool find_left_recursion(struct finish *f, uint8_t *state, struct search *stack, uint32_t root, uint32_t *found)
{
    const struct automaton *a = f->a;
    uint32_t depth = 0;
    stack[depth++] = (struct search){root, f->listed};
    state[root] = 1;
    reach(f, a->rules[root].start);
    while (depth) {
        struct search *top = &stack[depth - 1];
        if (f->listed == top->first) {
            state[top->rule] = 2;
            depth--;
            continue;
        }
        const struct node *node = &a->nodes[f->list[--f->listed]];
        bool on = node->kind == NODE_SPLIT || (enters(node) && node->skip);
        if (on && node->next != NODE_NONE) reach(f, node->next);
        if (node->kind == NODE_SPLIT && node->other != NODE_NONE) reach(f, node->other);
        if (!enters(node)) continue;
        uint32_t rule = rule_of(a, node);
        if (state[rule] == 1) {
            *found = rule;
            return true;
        }
        if (state[rule] == 2) continue;
        state[rule] = 1;
        stack[depth++] = (struct search){rule, f->listed};
        reach(f, a->rules[rule].start);
    }
    return false;
}

static void refuse_left_recursion(struct finish *f)
{
    const struct automaton *a = f->a;
    uint8_t *state = mem_zero(a->rule_count, sizeof *state);
    struct search *stack = mem_alloc(a->rule_count * sizeof *stack);
    uint32_t found;
    if (!state || !stack) build_fail(f->builder, ST_NOMEM, "not enough memory for a grammar");
    memset(f->reached, 0, a->node_count * sizeof *f->reached);
    f->listed = 0;
    for (uint32_t r = 0; r < a->rule_count && f->builder->status == ST_OK; r++)
        if (!state[r] && find_left_recursion(f, state, stack, r, &found))
            build_fail(f->builder, ST_UNSUPPORTED,
                       "%.80s is left-recursive: it can call itself before any character; write the recursion on the "
                       "right",
                       a->rules[found].name);
    mem_free(state);
    mem_free(stack);
}

/* ---- classes of bytes --------------------------------------------------------------------------------------------------- */

static void find_classes(struct automaton *a)
{
    a->class_count = 1;
    for (uint32_t s = 0; s < a->byte_set_count && a->class_count < 256; s++) {
        int split[256]; /* the class of those of class c that are in the set */
        bool outside[256] = {false};
        for (unsigned byte = 0; byte < 256; byte++)
            if (!byte_set_has(&a->byte_sets[s], (unsigned char)byte)) outside[a->class_of[byte]] = true;
        for (uint32_t c = 0; c < 256; c++) split[c] = outside[c] ? -1 : (int)c;
        for (unsigned byte = 0; byte < 256; byte++) {
            if (!byte_set_has(&a->byte_sets[s], (unsigned char)byte)) continue;
            int *to = &split[a->class_of[byte]];
            if (*to < 0) *to = (int)a->class_count++;
            a->class_of[byte] = (uint8_t)*to;
        }
    }
    for (unsigned byte = 0; byte < 256; byte++) a->member[a->class_of[byte]] = (uint8_t)byte;
}

/* ---- the whole --------------------------------------------------------------------------------------------------------- */

static void *shrink(void *items, size_t bytes)
{
    void *smaller = mem_resize(items, bytes ? bytes : 1);
    return smaller ? smaller : items;
}

static void finish(struct finish *f, uint32_t root)
{
    struct automaton *a = f->a;
    f->begin = mem_zero(a->node_count + 1, sizeof *f->begin);
    f->from = mem_alloc(2 * (size_t)a->node_count * sizeof *f->from);
    f->reached = mem_zero(a->node_count, sizeof *f->reached);
    f->list = mem_alloc(a->node_count * sizeof *f->list);
    if (!f->begin || !f->from || !f->reached || !f->list) {
        build_fail(f->builder, ST_NOMEM, "not enough memory for a grammar");
        return;
    }
    link_back(f);
    uint32_t edges = 0, to[2];
    for (uint32_t n = 0; n < a->node_count; n++) edges += successors(a, &a->nodes[n], to);
    mark(f, edges);
    if (!a->rules[root].productive) {
        build_fail(f->builder, ST_INVALID, "no text can satisfy it");
        return;
    }
    refuse_left_recursion(f);
    shorten_all(a);
    find_classes(a);
}

enum status build_finish(struct builder *builder, uint32_t root, struct automaton *out)
{
    struct automaton *a = &builder->automaton;
    struct finish f = {.builder = builder, .a = a};
    if (builder->status == ST_OK) finish(&f, root);
    mem_free(f.begin);
    mem_free(f.from);
    mem_free(f.reached);
    mem_free(f.list);
    if (builder->status != ST_OK) return builder->status;
    a->root = root;
    a->nodes = shrink(a->nodes, a->node_count * sizeof *a->nodes);
    a->rules = shrink(a->rules, a->rule_count * sizeof *a->rules);
    a->repeats = shrink(a->repeats, a->repeat_count * sizeof *a->repeats);
    a->byte_sets = shrink(a->byte_sets, a->byte_set_count * sizeof *a->byte_sets);
    for (uint32_t r = 0; r < a->rule_count; r++) a->rules[r].name = NULL; /* the arena's */
    *out = *a;
    *a = (struct automaton){0};
    return ST_OK;
}
