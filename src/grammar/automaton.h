/* automaton.h - the compiled form of a grammar, and how the front ends build it.
 *
 * Rules are graphs of nodes; a node goes to others without a byte (split), by one byte (bytes), or by all that another rule
 * matches, once (call) or between `least` and `most` times (repeat). A fragment is a graph under construction with one way in and
 * one way out; every fragment is used once. A failure sticks: from then on the builder returns fragments of nothing, and
 * build_finish says why. */
#ifndef GRAMMAR_AUTOMATON_H
#define GRAMMAR_AUTOMATON_H
#include "base/base.h"

#define NODES_MAX (1u << 19)
#define RULES_MAX (1u << 15)
#define REPEAT_ENDLESS UINT32_MAX
#define REPEAT_MAX (1u << 30)
#define NODE_NONE UINT32_MAX

enum node_kind {
    NODE_DEAD,   /* leads nowhere */
    NODE_SPLIT,  /* to next and, unless NODE_NONE, to other */
    NODE_BYTES,  /* a byte of byte_sets[other], then next */
    NODE_CALL,   /* rules[other], then next */
    NODE_REPEAT, /* repeats[other], then next */
    NODE_FINAL,  /* the end of its rule */
    NODE_BOTTOM  /* below the root rule: the grammar is satisfied */
};
struct node {
    uint32_t next, other;
    uint8_t kind;
    bool tail; /* of a call: nothing follows in its rule, so it needs no place to come back to */
    bool skip; /* of a call or repeat: may match nothing */
};
struct byte_set {
    uint64_t bits[4];
};
struct rule {
    uint32_t start;
    const char *name; /* for errors; in the arena */
    bool nullable, productive;
};
struct repeat {
    uint32_t rule, least, most;
};
struct automaton {
    struct node *nodes; /* [node_count]; 0 is dead, 1 the bottom */
    struct rule *rules; /* [rule_count] */
    struct repeat *repeats;
    struct byte_set *byte_sets;
    uint32_t node_count, rule_count, repeat_count, byte_set_count;
    uint32_t root;         /* rule */
    uint32_t class_count;  /* bytes that no node tells apart */
    uint8_t class_of[256]; /* by byte */
    uint8_t member[256];   /* by class: one byte of it */
};
void automaton_release(struct automaton *automaton);
uint64_t automaton_bytes(const struct automaton *automaton);

static inline bool byte_set_has(const struct byte_set *set, unsigned char byte)
{
    return set->bits[byte / 64] >> byte % 64 & 1;
}
static inline void byte_set_put(struct byte_set *set, unsigned char low, unsigned char high)
{
    for (unsigned byte = low; byte <= high; byte++) set->bits[byte / 64] |= 1ull << byte % 64;
}

/* ---- build.c: fragments ------------------------------------------------------------------------------------------------- */

struct fragment {
    uint32_t start, end; /* end: a split whose next is still open */
};
struct builder {
    struct automaton automaton;
    uint32_t node_capacity, rule_capacity, repeat_capacity, byte_set_capacity;
    struct arena arena; /* of names, and of whatever lives as long as the building */
    enum status status;
    struct error *error;
};
void build_init(struct builder *builder, struct error *error);
void build_release(struct builder *builder);
/* Fails the building, unless it has failed already. */
void build_fail(struct builder *builder, enum status status, const char *format, ...) PRINTF_LIKE(3, 4);

struct fragment build_empty(struct builder *builder);   /* matches nothing but the empty text */
struct fragment build_nothing(struct builder *builder); /* matches no text at all */
struct fragment build_text(struct builder *builder, const char *bytes, size_t count);
struct fragment build_byte_set(struct builder *builder, const struct byte_set *set);
struct fragment build_then(struct builder *builder, struct fragment first, struct fragment second);
struct fragment build_either(struct builder *builder, struct fragment one, struct fragment other);
struct fragment build_optional(struct builder *builder, struct fragment fragment);
struct fragment build_star(struct builder *builder, struct fragment fragment);
/* Between `least` and `most` times; most may be REPEAT_ENDLESS. Takes room for one fragment, however many times. */
struct fragment build_repeat(struct builder *builder, struct fragment fragment, uint32_t least, uint32_t most);
/* A rule to be defined later, or now. `name` is copied. */
uint32_t build_rule(struct builder *builder, const char *name, size_t bytes);
void build_define(struct builder *builder, uint32_t rule, struct fragment fragment);
struct fragment build_call(struct builder *builder, uint32_t rule);

struct text {
    const char *bytes;
    size_t count;
};
/* One of the texts; `texts` is sorted in place. */
struct fragment build_choice(struct builder *builder, struct text *texts, size_t count);

/* ---- character.c: classes of characters, as UTF-8 --------------------------------------------------------------------------- */

struct code_range {
    uint32_t low, high;
};
#define CODE_MAX 0x10ffffu
struct code_set {
    struct code_range *ranges; /* [count] ascending and apart once normal; in the builder's arena */
    uint32_t count, capacity;
};
void code_set_put(struct builder *builder, struct code_set *set, uint32_t low, uint32_t high);
void code_set_put_all(struct builder *builder, struct code_set *set, const struct code_range *ranges, size_t count);
void code_set_normalize(struct code_set *set);
void code_set_invert(struct builder *builder, struct code_set *set); /* of all characters; normal before and after */
/* One character of the set, as it stands in a text or, `json`, between the quotes of a JSON string, where each character has
 * one spelling: as short as JSON has it. The set becomes normal. */
struct fragment build_characters(struct builder *builder, struct code_set *set, bool json);
/* A text between the quotes of a JSON string, in that spelling: appended to `out`. */
void json_spell(const char *text, size_t bytes, struct buffer *out);
/* Any text, so spelled, but these, which are not spelled; UTF-8, sorted and apart. */
struct fragment build_other_text(struct builder *builder, const struct text *texts, size_t count);

/* ---- finish.c ------------------------------------------------------------------------------------------------------------------ */

/* Checks the whole and readies it to run: refuses left recursion, and what matches nothing. The automaton is the caller's then. */
MUST_CHECK enum status build_finish(struct builder *builder, uint32_t root, struct automaton *out);

/* ---- front ends: from a source to a fragment --------------------------------------------------------------------------------------- */

/* regex.c. `search`: a match anywhere in a text is enough, as JSON Schema's `pattern` has it, and the text is one between the
 * quotes of a JSON string; else the expression matches all of the text. */
struct fragment regex_build(struct builder *builder, const char *text, size_t bytes, bool search);
/* A pattern of JSON Schema of which a text has at least and at most so many characters; refused where that is not seen to be
 * possible. */
struct fragment regex_build_held(struct builder *builder, const char *text, size_t bytes, uint32_t least,
                                 uint32_t most);
uint32_t gbnf_build(struct builder *builder, const char *text, size_t bytes); /* gbnf.c: the rule `root` */
struct fragment schema_build(struct builder *builder, const char *text, size_t bytes);
struct fragment schema_build_object(struct builder *builder); /* any JSON object */
struct fragment choice_build(struct builder *builder, const char *text, size_t bytes);
struct fragment calls_build(struct builder *builder, const char *text, size_t bytes); /* calls.c */

#endif
