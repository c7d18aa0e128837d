/* character.c - classes of characters as automata over the bytes of UTF-8, plain or as JSON strings spell them. Only
 * well-formed UTF-8 ever matches: no surrogates, no overlong forms (RFC 3629). */
#include "grammar/automaton.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- sets of code points ---------------------------------------------------------------------------------------------- */

void code_set_put(struct builder *builder, struct code_set *set, uint32_t low, uint32_t high)
{
    if (set->count == set->capacity) {
        uint32_t wanted = set->capacity ? set->capacity * 2 : 8;
        struct code_range *ranges = arena_alloc(&builder->arena, wanted * sizeof *ranges);
        if (!ranges) {
            build_fail(builder, ST_NOMEM, "not enough memory for a grammar");
            return;
        }
        if (set->count) memcpy(ranges, set->ranges, set->count * sizeof *ranges);
        set->ranges = ranges;
        set->capacity = wanted;
    }
    set->ranges[set->count++] = (struct code_range){low, high};
}

void code_set_put_all(struct builder *builder, struct code_set *set, const struct code_range *ranges, size_t count)
{
    for (size_t i = 0; i < count; i++) code_set_put(builder, set, ranges[i].low, ranges[i].high);
}

static int compare_ranges(const void *left, const void *right)
{
    const struct code_range *a = left, *b = right;
    return a->low != b->low ? (a->low > b->low) - (a->low < b->low) : (a->high > b->high) - (a->high < b->high);
}

void code_set_normalize(struct code_set *set)
{
    uint32_t kept = 0;
    if (set->count) qsort(set->ranges, set->count, sizeof *set->ranges, compare_ranges);
    for (uint32_t i = 0; i < set->count; i++) {
        const struct code_range range = set->ranges[i];
        struct code_range *last = kept ? &set->ranges[kept - 1] : NULL;
        if (!last || range.low > last->high + 1)
            set->ranges[kept++] = range;
        else if (range.high > last->high)
            last->high = range.high;
    }
    set->count = kept;
}

void code_set_invert(struct builder *builder, struct code_set *set)
{
    struct code_set out = {0};
    uint32_t low = 0;
    for (uint32_t i = 0; i < set->count; i++) {
        if (set->ranges[i].low > low) code_set_put(builder, &out, low, set->ranges[i].low - 1);
        low = set->ranges[i].high + 1;
    }
    if (low <= CODE_MAX) code_set_put(builder, &out, low, CODE_MAX);
    *set = out;
}

/* ---- UTF-8 ------------------------------------------------------------------------------------------------------------ */

#define TAILS_MAX 64u /* remembered, so that alternatives share what follows their first byte */
#define HEADS_MAX 64u

struct encoder {
    struct builder *builder;
    uint32_t end;
    struct fragment out;
    struct tail {
        uint32_t next, node;
        unsigned char low, high;
    } tails[TAILS_MAX];
    struct head {
        uint32_t next;
        struct byte_set bytes;
    } heads[HEADS_MAX]; /* first bytes, by what follows them */
    uint32_t tail_count, head_count;
};

static struct fragment bytes_before(struct builder *builder, const struct byte_set *bytes, uint32_t next)
{
    struct fragment fragment = build_byte_set(builder, bytes);
    if (builder->status == ST_OK) builder->automaton.nodes[fragment.end].next = next;
    return fragment;
}

static uint32_t tail(struct encoder *e, unsigned char low, unsigned char high, uint32_t next)
{
    for (uint32_t i = 0; i < e->tail_count; i++)
        if (e->tails[i].low == low && e->tails[i].high == high && e->tails[i].next == next) return e->tails[i].node;
    struct byte_set bytes = {{0}};
    byte_set_put(&bytes, low, high);
    uint32_t node = bytes_before(e->builder, &bytes, next).start;
    if (e->tail_count < TAILS_MAX) e->tails[e->tail_count++] = (struct tail){next, node, low, high};
    return node;
}

/* The heads so far become alternatives of the fragment. */
static void flush_heads(struct encoder *e)
{
    for (uint32_t i = 0; i < e->head_count; i++) {
        struct fragment one = bytes_before(e->builder, &e->heads[i].bytes, e->heads[i].next);
        one.end = build_empty(e->builder).start; /* its own end leads on already */
        e->out = build_either(e->builder, one, e->out);
    }
    e->head_count = 0;
}

static void head(struct encoder *e, unsigned char low, unsigned char high, uint32_t next)
{
    uint32_t i = 0;
    while (i < e->head_count && e->heads[i].next != next) i++;
    if (i == HEADS_MAX) {
        flush_heads(e);
        i = 0;
    }
    if (i == e->head_count) e->heads[e->head_count++] = (struct head){.next = next};
    byte_set_put(&e->heads[i].bytes, low, high);
}

/* The code points [low, high], all of `length` bytes, which differ in their last bytes only as far as whole ranges of bytes. */
static void encode_block(struct encoder *e, uint32_t low, uint32_t high)
{
    char first[4], last[4];
    uint32_t length = utf8_encode(low, first), node = e->end;
    utf8_encode(high, last);
    while (--length > 0) node = tail(e, (unsigned char)first[length], (unsigned char)last[length], node);
    head(e, (unsigned char)first[0], (unsigned char)last[0], node);
}

/* Splits until every byte's range is independent of the others'. */
static void encode_range(struct encoder *e, uint32_t low, uint32_t high)
{
    static const uint32_t lasts[] = {0x7f, 0x7ff, 0xffff};
    for (size_t i = 0; i < ARRAY_COUNT(lasts); i++) {
        if (low > lasts[i] || high <= lasts[i]) continue;
        encode_range(e, low, lasts[i]);
        encode_range(e, lasts[i] + 1, high);
        return;
    }
    for (uint32_t bits = 6; bits < 24 && low > 0x7f; bits += 6) {
        uint32_t mask = (1u << bits) - 1;
        if ((low & ~mask) == (high & ~mask)) break;
        if (low & mask) {
            encode_range(e, low, low | mask);
            encode_range(e, (low | mask) + 1, high);
            return;
        }
        if ((high & mask) != mask) {
            encode_range(e, low, (high & ~mask) - 1);
            encode_range(e, high & ~mask, high);
            return;
        }
    }
    encode_block(e, low, high);
}

static void encode_without_surrogates(struct encoder *e, uint32_t low, uint32_t high)
{
    if (low < 0xd800) encode_range(e, low, high < 0xd800 ? high : 0xd7ff);
    if (high > 0xdfff) encode_range(e, low > 0xdfff ? low : 0xe000, high);
}

/* ---- characters ------------------------------------------------------------------------------------------------------- */

static size_t spell_character(uint32_t code, char out[8])
{
    static const char shorts[] = "\b\f\n\r\t\"\\", letters[] = "bfnrt\"\\";
    const char *found = code ? memchr(shorts, (int)code, code < 0x80 ? sizeof shorts - 1 : 0) : NULL;
    if (found) {
        out[0] = '\\';
        out[1] = letters[found - shorts];
        return 2;
    }
    if (code >= 0x20) return utf8_encode(code, out);
    return (size_t)snprintf(out, 8, "\\u%04x", code);
}

static bool is_escaped(uint32_t code)
{
    return code < 0x20 || code == '"' || code == '\\';
}

void json_spell(const char *text, size_t bytes, struct buffer *out)
{
    for (size_t i = 0; i < bytes; i++) { /* what is escaped is one byte */
        char spelled[8];
        size_t count = is_escaped((unsigned char)text[i]) ? spell_character((unsigned char)text[i], spelled) : 0;
        buffer_append(out, count ? spelled : &text[i], count ? count : 1);
    }
}

/* Those of the set that need an escape. */
static struct fragment escaped_characters(struct builder *builder, const struct code_set *set)
{
    struct text texts[34];
    char spelled[34][8];
    size_t count = 0;
    for (uint32_t i = 0; i < set->count; i++)
        for (uint32_t code = set->ranges[i].low; code <= set->ranges[i].high && code <= '\\'; code++) {
            if (!is_escaped(code)) continue;
            texts[count].count = spell_character(code, spelled[count]);
            texts[count].bytes = spelled[count];
            count++;
        }
    return build_choice(builder, texts, count);
}

struct fragment build_characters(struct builder *builder, struct code_set *set, bool json)
{
    static const struct code_range plain[] = {{0x20, '"' - 1}, {'"' + 1, '\\' - 1}, {'\\' + 1, CODE_MAX}};
    static const struct code_range all[] = {{0, CODE_MAX}};
    const struct code_range *within = json ? plain : all;
    code_set_normalize(set);
    struct encoder encoder = {.builder = builder};
    encoder.end = build_empty(builder).start;
    encoder.out = json ? escaped_characters(builder, set) : build_nothing(builder);
    for (uint32_t i = 0; i < set->count && builder->status == ST_OK; i++)
        for (size_t w = 0; w < (json ? ARRAY_COUNT(plain) : ARRAY_COUNT(all)); w++) {
            uint32_t low = set->ranges[i].low > within[w].low ? set->ranges[i].low : within[w].low;
            uint32_t high = set->ranges[i].high < within[w].high ? set->ranges[i].high : within[w].high;
            if (low <= high) encode_without_surrogates(&encoder, low, high);
        }
    flush_heads(&encoder);
    /* What ended at encoder.end goes on where the alternatives end. */
    uint32_t end = build_empty(builder).start;
    if (builder->status == ST_OK) {
        builder->automaton.nodes[encoder.out.end].next = end;
        builder->automaton.nodes[encoder.end].next = end;
    }
    return (struct fragment){encoder.out.start, end};
}

/* ---- all texts but some ----------------------------------------------------------------------------------------------- */

struct others {
    struct builder *builder;
    const struct text *texts;
    uint32_t any; /* rule: any rest */
};

static struct fragment other_text(struct others *o, size_t begin, size_t end, size_t depth)
{
    struct builder *builder = o->builder;
    struct code_set known = {0};
    struct fragment out = build_nothing(builder);
    if (begin < end && o->texts[begin].count == depth)
        begin++;
    else
        out = build_empty(builder);
    while (begin < end && builder->status == ST_OK) {
        uint32_t code = 0;
        const char *at = o->texts[begin].bytes + depth;
        uint32_t bytes = utf8_decode(at, o->texts[begin].count - depth, &code, NULL);
        size_t own = begin;
        while (own < end && o->texts[own].count >= depth + bytes && memcmp(o->texts[own].bytes + depth, at, bytes) == 0)
            own++;
        ASSERT(bytes > 0 && own > begin);
        struct code_set one = {0};
        code_set_put(builder, &one, code, code);
        code_set_put(builder, &known, code, code);
        struct fragment character = build_characters(builder, &one, true);
        out = build_either(builder, out, build_then(builder, character, other_text(o, begin, own, depth + bytes)));
        begin = own;
    }
    code_set_normalize(&known);
    code_set_invert(builder, &known);
    struct fragment unknown = build_characters(builder, &known, true);
    return build_either(builder, out, build_then(builder, unknown, build_call(builder, o->any)));
}

struct fragment build_other_text(struct builder *builder, const struct text *texts, size_t count)
{
    struct others others = {.builder = builder, .texts = texts};
    struct code_set all = {0};
    code_set_put(builder, &all, 0, CODE_MAX);
    others.any = build_rule(builder, "any text", strlen("any text"));
    build_define(builder, others.any, build_star(builder, build_characters(builder, &all, true)));
    return other_text(&others, 0, count, 0);
}
