/* gbnf.c - llama.cpp's grammars: `name ::= alternatives`, literals, classes, groups, * + ? {m} {m,} {m,n}, comments.
 *
 * A rule ends where the next one begins, so alternatives may stand on lines of their own. */
#include "grammar/automaton.h"
#include <string.h>

#define GROUPS_MAX 64u
#define TIMES_MAX 1000000u
#define NAME_BYTES_MAX 128u

struct gbnf {
    struct builder *builder;
    const char *text;
    size_t bytes, at;
    uint32_t depth;
    struct named {
        size_t at; /* where it was first used */
        uint32_t rule;
        bool defined;
    } * names;       /* [name_count], room for RULES_MAX */
    uint32_t *table; /* [TABLE_SIZE] places in names, + 1, by hash */
    uint32_t name_count;
};
#define TABLE_SIZE (2 * RULES_MAX)

/* ---- characters ----------------------------------------------------------------------------------------------------------- */

static uint32_t line_of(const struct gbnf *g, size_t at)
{
    uint32_t line = 1;
    for (size_t i = 0; i < at && i < g->bytes; i++) line += g->text[i] == '\n';
    return line;
}

static void broken(struct gbnf *g, const char *what)
{
    if (g->builder->status == ST_OK) build_fail(g->builder, ST_INVALID, "line %u: %s", line_of(g, g->at), what);
}

static bool ended(const struct gbnf *g)
{
    return g->at >= g->bytes || g->builder->status != ST_OK;
}

static char peek(const struct gbnf *g)
{
    return ended(g) ? '\0' : g->text[g->at];
}

static bool take(struct gbnf *g, char c)
{
    if (ended(g) || g->text[g->at] != c) return false;
    g->at++;
    return true;
}

static void skip_space(struct gbnf *g)
{
    while (peek(g) && (strchr(" \t\r\n", peek(g)) || peek(g) == '#')) {
        if (peek(g) == '#')
            while (!ended(g) && peek(g) != '\n') g->at++;
        else
            g->at++;
    }
}

static bool is_name(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_';
}

static uint32_t take_hex(struct gbnf *g, uint32_t digits)
{
    uint32_t code = 0;
    for (uint32_t i = 0; i < digits; i++, g->at++) {
        char c = peek(g), lower = (char)(c | 0x20);
        bool decimal = c >= '0' && c <= '9', letter = lower >= 'a' && lower <= 'f';
        if (!decimal && !letter) {
            broken(g, "a hexadecimal digit is missing");
            return 0;
        }
        code = code * 16 + (uint32_t)(decimal ? c - '0' : lower - 'a' + 10);
    }
    if (code > CODE_MAX) broken(g, "an escape is beyond U+10FFFF");
    return code > CODE_MAX ? 0 : code;
}

/* A character of a literal or class. */
static uint32_t take_code(struct gbnf *g)
{
    static const char letters[] = "tnr\"\\[]-^'", meant[] = "\t\n\r\"\\[]-^'";
    if (take(g, '\\')) {
        char c = peek(g);
        g->at += !ended(g);
        if (c == 'x') return take_hex(g, 2);
        if (c == 'u') return take_hex(g, 4);
        if (c == 'U') return take_hex(g, 8);
        const char *found = c ? strchr(letters, c) : NULL;
        if (!found) broken(g, "an unknown escape");
        return found ? (unsigned char)meant[found - letters] : 0;
    }
    uint32_t code = 0, bytes = utf8_decode(g->text + g->at, g->bytes - g->at, &code, NULL);
    if (!bytes) broken(g, g->at < g->bytes ? "there is a byte that is no UTF-8" : "it ends too early");
    g->at += bytes;
    return code;
}

static struct fragment take_literal(struct gbnf *g)
{
    struct buffer text;
    buffer_init(&text, 0);
    while (!ended(g) && peek(g) != '"') {
        char bytes[4];
        uint32_t code = take_code(g), count = utf8_encode(code, bytes);
        if (!count) broken(g, "a surrogate is no character");
        buffer_append(&text, bytes, count);
    }
    if (!take(g, '"')) broken(g, "a literal without its closing \"");
    if (text.failed) build_fail(g->builder, ST_NOMEM, "not enough memory for a grammar");
    struct fragment out = build_text(g->builder, text.data, text.length);
    buffer_release(&text);
    return out;
}

static struct fragment take_class(struct gbnf *g)
{
    struct code_set set = {0};
    bool inverted = take(g, '^');
    while (!ended(g) && peek(g) != ']') {
        uint32_t low = take_code(g), high = low;
        if (peek(g) == '-' && g->at + 1 < g->bytes && g->text[g->at + 1] != ']') {
            g->at++;
            high = take_code(g);
            if (high < low) broken(g, "a range ends before it begins");
        }
        code_set_put(g->builder, &set, low, high);
    }
    if (!take(g, ']')) broken(g, "a class without its closing ]");
    code_set_normalize(&set);
    if (inverted) code_set_invert(g->builder, &set);
    return build_characters(g->builder, &set, false);
}

/* ---- rules ---------------------------------------------------------------------------------------------------------------- */

/* NULL: it could not be added. */
static struct named *find_rule(struct gbnf *g, const char *name, size_t bytes)
{
    uint64_t hash = 0xcbf29ce484222325u; /* FNV-1a */
    for (size_t i = 0; i < bytes; i++) hash = (hash ^ (unsigned char)name[i]) * 0x100000001b3u;
    uint32_t place = (uint32_t)(hash ^ hash >> 32) % TABLE_SIZE;
    for (; g->table[place]; place = (place + 1) % TABLE_SIZE) {
        struct named *named = &g->names[g->table[place] - 1];
        const char *known = g->builder->automaton.rules[named->rule].name;
        if (strlen(known) == bytes && memcmp(known, name, bytes) == 0) return named;
    }
    uint32_t rule = build_rule(g->builder, name, bytes); /* fails at RULES_MAX */
    if (g->builder->status != ST_OK) return NULL;
    g->names[g->name_count] = (struct named){.rule = rule, .at = g->at};
    g->table[place] = ++g->name_count;
    return &g->names[g->name_count - 1];
}

static size_t name_length(struct gbnf *g)
{
    size_t bytes = 0;
    while (g->at + bytes < g->bytes && is_name(g->text[g->at + bytes])) bytes++;
    if (bytes > NAME_BYTES_MAX) broken(g, "a name of more than 128 characters");
    return bytes;
}

/* Whether a rule's definition begins here. */
static bool defines(struct gbnf *g)
{
    size_t begin = g->at;
    g->at += name_length(g);
    bool named = g->at > begin;
    skip_space(g);
    bool found = named && g->bytes - g->at >= 3 && memcmp(g->text + g->at, "::=", 3) == 0;
    g->at = begin;
    return found;
}

static struct fragment take_alternatives(struct gbnf *g);

static struct fragment take_group(struct gbnf *g)
{
    if (g->depth >= GROUPS_MAX) build_fail(g->builder, ST_LIMIT, "more than %u groups inside each other", GROUPS_MAX);
    if (g->builder->status != ST_OK) return build_empty(g->builder);
    g->depth++;
    struct fragment out = take_alternatives(g);
    g->depth--;
    if (!take(g, ')')) broken(g, "a group without its )");
    return out;
}

static struct fragment take_atom(struct gbnf *g)
{
    static const struct code_range all[] = {{0, CODE_MAX}};
    if (take(g, '"')) return take_literal(g);
    if (take(g, '[')) return take_class(g);
    if (take(g, '(')) return take_group(g);
    if (take(g, '.')) {
        struct code_set set = {0};
        code_set_put_all(g->builder, &set, all, 1);
        return build_characters(g->builder, &set, false);
    }
    size_t bytes = name_length(g);
    if (!bytes) {
        broken(g, peek(g) == '<' ? "a token by its name or id (<…>) is not supported"
                                 : "expected a literal, a class, a group or a rule's name");
        return build_empty(g->builder);
    }
    const struct named *named = find_rule(g, g->text + g->at, bytes);
    g->at += bytes;
    return named ? build_call(g->builder, named->rule) : build_empty(g->builder);
}

static uint32_t take_number(struct gbnf *g)
{
    uint64_t value = 0;
    if (peek(g) < '0' || peek(g) > '9') broken(g, "a repetition without its number");
    for (; peek(g) >= '0' && peek(g) <= '9'; g->at++)
        if (value <= TIMES_MAX) value = value * 10 + (uint64_t)(peek(g) - '0');
    if (value > TIMES_MAX) build_fail(g->builder, ST_LIMIT, "a repetition of more than %u times", TIMES_MAX);
    return (uint32_t)value;
}

/* After the {. */
static void take_times(struct gbnf *g, uint32_t *least, uint32_t *most)
{
    skip_space(g);
    *least = peek(g) == ',' ? 0 : take_number(g);
    *most = *least;
    skip_space(g);
    if (take(g, ',')) {
        skip_space(g);
        *most = peek(g) == '}' ? REPEAT_ENDLESS : take_number(g);
        skip_space(g);
    }
    if (!take(g, '}')) broken(g, "a repetition without its }");
    if (*most < *least) broken(g, "a repetition whose bounds are the wrong way round");
}

static struct fragment take_repeated(struct gbnf *g)
{
    struct fragment out = take_atom(g);
    for (skip_space(g); !ended(g); skip_space(g)) {
        uint32_t least = 0, most = REPEAT_ENDLESS;
        if (take(g, '?'))
            most = 1;
        else if (take(g, '+'))
            least = 1;
        else if (take(g, '{'))
            take_times(g, &least, &most);
        else if (!take(g, '*'))
            break;
        out = build_repeat(g->builder, out, least, most);
    }
    return out;
}

static struct fragment take_sequence(struct gbnf *g)
{
    struct fragment out = build_empty(g->builder);
    for (skip_space(g); !ended(g) && peek(g) != '|' && peek(g) != ')' && !defines(g); skip_space(g))
        out = build_then(g->builder, out, take_repeated(g));
    return out;
}

static struct fragment take_alternatives(struct gbnf *g)
{
    struct fragment out = take_sequence(g);
    while (take(g, '|')) out = build_either(g->builder, out, take_sequence(g));
    return out;
}

static void take_rule(struct gbnf *g)
{
    size_t bytes = name_length(g);
    if (!defines(g)) {
        broken(g, "expected a rule: name ::= …");
        return;
    }
    struct named *named = find_rule(g, g->text + g->at, bytes);
    if (!named) return;
    if (named->defined) broken(g, "a second rule of the same name");
    named->defined = true;
    g->at += bytes;
    skip_space(g);
    g->at += strlen("::=");
    build_define(g->builder, named->rule, take_alternatives(g));
    if (peek(g) == ')') broken(g, "a ) without its (");
}

static void check_rules(struct gbnf *g)
{
    for (uint32_t i = 0; i < g->name_count; i++)
        if (!g->names[i].defined)
            build_fail(g->builder, ST_INVALID, "line %u: the rule '%s' is not defined", line_of(g, g->names[i].at),
                       g->builder->automaton.rules[g->names[i].rule].name);
}

uint32_t gbnf_build(struct builder *builder, const char *text, size_t bytes)
{
    struct gbnf gbnf = {.builder = builder, .text = text, .bytes = bytes};
    gbnf.names = mem_alloc(RULES_MAX * sizeof *gbnf.names);
    gbnf.table = mem_zero(TABLE_SIZE, sizeof *gbnf.table);
    if (!gbnf.names || !gbnf.table) build_fail(builder, ST_NOMEM, "not enough memory for a grammar");
    const struct named *named = builder->status == ST_OK ? find_rule(&gbnf, "root", strlen("root")) : NULL;
    uint32_t root = named ? named->rule : 0;
    for (skip_space(&gbnf); !ended(&gbnf); skip_space(&gbnf)) take_rule(&gbnf);
    if (builder->status == ST_OK) check_rules(&gbnf);
    mem_free(gbnf.names);
    mem_free(gbnf.table);
    return root;
}
