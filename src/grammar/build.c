/* build.c - fragments of an automaton: Thompson's construction (1968), with calls and counted repetitions. */
#include "grammar/automaton.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void build_init(struct builder *builder, struct error *error)
{
    *builder = (struct builder){.error = error};
    arena_init(&builder->arena);
}

void automaton_release(struct automaton *automaton)
{
    mem_free(automaton->nodes);
    mem_free(automaton->rules);
    mem_free(automaton->repeats);
    mem_free(automaton->byte_sets);
    *automaton = (struct automaton){0};
}

uint64_t automaton_bytes(const struct automaton *a)
{
    return sizeof *a + a->node_count * sizeof *a->nodes + a->rule_count * sizeof *a->rules +
           a->repeat_count * sizeof *a->repeats + a->byte_set_count * sizeof *a->byte_sets;
}

void build_release(struct builder *builder)
{
    automaton_release(&builder->automaton);
    arena_release(&builder->arena);
}

void build_fail(struct builder *builder, enum status status, const char *format, ...)
{
    char text[sizeof builder->error->text];
    if (builder->status != ST_OK) return;
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    builder->status = error_set(builder->error, status, "%s", text);
}

/* Room for one more item of `size` bytes. */
static bool make_room(struct builder *builder, void **items, uint32_t count, uint32_t *capacity, size_t size)
{
    if (builder->status != ST_OK) return false;
    if (count < *capacity) return true;
    uint32_t wanted = *capacity < 32 ? 64 : *capacity * 2;
    void *grown = mem_resize(*items, wanted * size);
    if (!grown) {
        build_fail(builder, ST_NOMEM, "not enough memory for a grammar");
        return false;
    }
    *items = grown;
    *capacity = wanted;
    return true;
}

#define MAKE_ROOM(builder, list)                                                                  \
    make_room(builder, (void **)&(builder)->automaton.list##s, (builder)->automaton.list##_count, \
              &(builder)->list##_capacity, sizeof *(builder)->automaton.list##s)

/* ---- nodes ------------------------------------------------------------------------------------------------------------ */

static uint32_t add_node(struct builder *builder, enum node_kind kind, uint32_t next, uint32_t other)
{
    struct automaton *a = &builder->automaton;
    if (a->node_count >= NODES_MAX)
        build_fail(builder, ST_LIMIT, "the grammar is too large: more than %u states", NODES_MAX);
    while (!a->node_count) { /* the two fixed ones */
        if (!MAKE_ROOM(builder, node)) return 0;
        a->nodes[a->node_count++] = (struct node){.kind = NODE_DEAD};
        a->nodes[a->node_count++] = (struct node){.kind = NODE_BOTTOM};
    }
    if (!MAKE_ROOM(builder, node)) return 0;
    a->nodes[a->node_count] = (struct node){.kind = (uint8_t)kind, .next = next, .other = other};
    return a->node_count++;
}

static uint32_t add_split(struct builder *builder, uint32_t next, uint32_t other)
{
    return add_node(builder, NODE_SPLIT, next, other);
}

static uint32_t add_end(struct builder *builder)
{
    return add_split(builder, NODE_NONE, NODE_NONE);
}

/* The fragment's way out leads to `node`. */
static void lead(struct builder *builder, struct fragment fragment, uint32_t node)
{
    if (builder->status == ST_OK) builder->automaton.nodes[fragment.end].next = node;
}

static uint32_t add_byte_set(struct builder *builder, const struct byte_set *set)
{
    struct automaton *a = &builder->automaton;
    for (uint32_t i = a->byte_set_count; i-- > 0 && i + 512 > a->byte_set_count;) /* the latest are the likeliest */
        if (memcmp(&a->byte_sets[i], set, sizeof *set) == 0) return i;
    if (!MAKE_ROOM(builder, byte_set)) return 0;
    a->byte_sets[a->byte_set_count] = *set;
    return a->byte_set_count++;
}

/* ---- fragments -------------------------------------------------------------------------------------------------------- */

struct fragment build_empty(struct builder *builder)
{
    uint32_t end = add_end(builder);
    return (struct fragment){end, end};
}

struct fragment build_nothing(struct builder *builder)
{
    return (struct fragment){0, add_end(builder)};
}

struct fragment build_byte_set(struct builder *builder, const struct byte_set *set)
{
    uint32_t end = add_end(builder);
    return (struct fragment){add_node(builder, NODE_BYTES, end, add_byte_set(builder, set)), end};
}

static uint32_t add_byte(struct builder *builder, unsigned char byte, uint32_t next)
{
    struct byte_set set = {{0}};
    byte_set_put(&set, byte, byte);
    return add_node(builder, NODE_BYTES, next, add_byte_set(builder, &set));
}

struct fragment build_text(struct builder *builder, const char *bytes, size_t count)
{
    uint32_t end = add_end(builder), start = end;
    while (count-- > 0) start = add_byte(builder, (unsigned char)bytes[count], start);
    return (struct fragment){start, end};
}

struct fragment build_then(struct builder *builder, struct fragment first, struct fragment second)
{
    lead(builder, first, second.start);
    return (struct fragment){first.start, second.end};
}

struct fragment build_either(struct builder *builder, struct fragment one, struct fragment other)
{
    uint32_t end = add_end(builder);
    lead(builder, one, end);
    lead(builder, other, end);
    return (struct fragment){add_split(builder, one.start, other.start), end};
}

struct fragment build_optional(struct builder *builder, struct fragment fragment)
{
    uint32_t end = add_end(builder);
    lead(builder, fragment, end);
    return (struct fragment){add_split(builder, fragment.start, end), end};
}

struct fragment build_star(struct builder *builder, struct fragment fragment)
{
    uint32_t end = add_end(builder), loop = add_split(builder, fragment.start, end);
    lead(builder, fragment, loop);
    return (struct fragment){loop, end};
}

struct fragment build_repeat(struct builder *builder, struct fragment fragment, uint32_t least, uint32_t most)
{
    struct automaton *a = &builder->automaton;
    if (most == 0) return build_empty(builder);
    if (least == 1 && most == 1) return fragment;
    if (least == 0 && most == 1) return build_optional(builder, fragment);
    if (least == 0 && most == REPEAT_ENDLESS) return build_star(builder, fragment);
    uint32_t rule = build_rule(builder, "a repetition", strlen("a repetition"));
    build_define(builder, rule, fragment);
    if (!MAKE_ROOM(builder, repeat)) return build_empty(builder);
    a->repeats[a->repeat_count] = (struct repeat){.rule = rule, .least = least, .most = most};
    uint32_t end = add_end(builder);
    return (struct fragment){add_node(builder, NODE_REPEAT, end, a->repeat_count++), end};
}

uint32_t build_rule(struct builder *builder, const char *name, size_t bytes)
{
    struct automaton *a = &builder->automaton;
    if (a->rule_count >= RULES_MAX)
        build_fail(builder, ST_LIMIT, "the grammar is too large: more than %u rules", RULES_MAX);
    if (!MAKE_ROOM(builder, rule)) return 0;
    const char *copy = arena_strndup(&builder->arena, name, bytes);
    if (!copy) build_fail(builder, ST_NOMEM, "not enough memory for a grammar");
    a->rules[a->rule_count] = (struct rule){.start = NODE_NONE, .name = copy};
    return a->rule_count++;
}

void build_define(struct builder *builder, uint32_t rule, struct fragment fragment)
{
    lead(builder, fragment, add_node(builder, NODE_FINAL, 0, 0));
    if (builder->status == ST_OK) builder->automaton.rules[rule].start = fragment.start;
}

struct fragment build_call(struct builder *builder, uint32_t rule)
{
    uint32_t end = add_end(builder);
    return (struct fragment){add_node(builder, NODE_CALL, end, rule), end};
}

/* ---- choices ---------------------------------------------------------------------------------------------------------- */

static int compare_texts(const void *left, const void *right)
{
    const struct text *a = left, *b = right;
    int order = memcmp(a->bytes, b->bytes, a->count < b->count ? a->count : b->count);
    return order ? order : (a->count > b->count) - (a->count < b->count);
}

/* The node from which texts[begin, end), which have their first `depth` bytes in common, go on to `out`: a trie, so that
 * running it follows one text, not all. */
static uint32_t choice_node(struct builder *builder, const struct text *texts, size_t begin, size_t end, size_t depth,
                            uint32_t out)
{
    uint32_t node = NODE_NONE;
    while (begin < end && texts[begin].count == depth) node = out, begin++;
    while (begin < end && builder->status == ST_OK) {
        size_t own = begin, common = depth + 1;
        while (own < end && texts[own].bytes[depth] == texts[begin].bytes[depth]) own++;
        const struct text *first = &texts[begin], *last = &texts[own - 1]; /* sorted: all between share their prefix */
        while (common < first->count && common < last->count && first->bytes[common] == last->bytes[common]) common++;
        uint32_t branch = choice_node(builder, texts, begin, own, common, out);
        while (common-- > depth) branch = add_byte(builder, (unsigned char)first->bytes[common], branch);
        node = node == NODE_NONE ? branch : add_split(builder, branch, node);
        begin = own;
    }
    return node == NODE_NONE ? 0 : node;
}

struct fragment build_choice(struct builder *builder, struct text *texts, size_t count)
{
    qsort(texts, count, sizeof *texts, compare_texts);
    uint32_t end = add_end(builder);
    return (struct fragment){choice_node(builder, texts, 0, count, 0, end), end};
}
