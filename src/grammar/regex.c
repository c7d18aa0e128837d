/* regex.c - regular expressions of ECMA-262 (which JSON Schema's `pattern` is written in) to fragments.
 *
 * Classes are those of ASCII, as in ECMA-262: \d \w, and \s where a character is made; what a class excludes (\S, [^\s]) is all white space
 * of Unicode. Lazy quantifiers match what greedy ones do. What an automaton cannot do (back references, looking around) and
 * what is not done (boundaries, Unicode properties, flags) is refused by its name. */
#include "grammar/automaton.h"
#include <stdio.h>
#include <string.h>

#define GROUPS_MAX 64u     /* inside each other */
#define TIMES_MAX 1000000u /* in {m,n} */

/* A part of the expression, and how many characters it has. */
struct piece {
    struct fragment fragment;
    uint64_t least, most; /* most: LENGTH_ENDLESS */
};
#define LENGTH_ENDLESS (UINT64_C(1) << 40)

/* An expression between ^ and $ with one part that is repeated, and all others of fixed lengths, can be held to a length: the
 * repetitions follow from it. What there is to hold is found out first, by reading it once. */
struct holding {
    uint64_t fixed, unit; /* characters beside the repeated part, and in one repetition; unit 0: it cannot be held */
    uint32_t parts;       /* that vary */
    uint32_t least, most; /* repetitions; taken on the second reading */
    bool takes;
};

struct regex {
    struct builder *builder;
    const char *text;
    size_t bytes, at;
    bool json; /* the text that is matched stands between the quotes of a JSON string */
    bool search;
    uint32_t depth;
    struct holding holding;
};

static struct piece empty(struct regex *r)
{
    return (struct piece){.fragment = build_empty(r->builder)};
}

/* How much of the expression an error shows. */
static int shown(const struct regex *r)
{
    return r->bytes < 60 ? (int)r->bytes : 60;
}

static struct piece refuse(struct regex *r, size_t at, const char *what)
{
    build_fail(r->builder, ST_UNSUPPORTED, "%s, at byte %zu of '%.*s', is not supported", what, at, shown(r), r->text);
    return empty(r);
}

static struct piece broken(struct regex *r, size_t at, const char *what)
{
    build_fail(r->builder, ST_INVALID, "%s, at byte %zu of '%.*s'", what, at, shown(r), r->text);
    return empty(r);
}

static bool ended(const struct regex *r)
{
    return r->at >= r->bytes || r->builder->status != ST_OK;
}

static bool looks_at(const struct regex *r, const char *text)
{
    size_t count = strlen(text);
    ASSERT(r->at <= r->bytes);
    return r->bytes - r->at >= count && memcmp(r->text + r->at, text, count) == 0;
}

static bool take(struct regex *r, const char *text)
{
    bool found = looks_at(r, text);
    if (found) r->at += strlen(text);
    return found;
}

static uint32_t take_code(struct regex *r)
{
    uint32_t code = 0, bytes = utf8_decode(r->text + r->at, r->bytes - r->at, &code, NULL);
    if (!bytes) broken(r, r->at, r->at < r->bytes ? "there is a byte that is no UTF-8" : "it ends too early");
    r->at += bytes;
    return code;
}

/* ---- sets of characters ------------------------------------------------------------------------------------------------- */

static const struct code_range DIGITS[] = {{'0', '9'}}, WORD[] = {{'0', '9'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'}},
                               SPACE[] = {{'\t', '\r'}, {' ', ' '}},
                               ALL_SPACE[] = {{'\t', '\r'},     {0x1c, 0x20},     {0x85, 0x85},     {0xa0, 0xa0},
                                              {0x1680, 0x1680}, {0x2000, 0x200a}, {0x2028, 0x2029}, {0x202f, 0x202f},
                                              {0x205f, 0x205f}, {0x3000, 0x3000}, {0xfeff, 0xfeff}},
                               LINE_ENDS[] = {{'\n', '\n'}, {'\r', '\r'}, {0x2028, 0x2029}}, ALL[] = {{0, CODE_MAX}};

/* \d \D \w \W \s \S; `excluded`: the set will be inverted. False: the letter is none of them. */
static bool put_class(struct builder *builder, struct code_set *out, char letter, bool excluded)
{
    struct code_set set = {0};
    char lower = (char)(letter | 0x20);
    bool inverted = letter != lower;
    if (lower == 'd')
        code_set_put_all(builder, &set, DIGITS, ARRAY_COUNT(DIGITS));
    else if (lower == 'w')
        code_set_put_all(builder, &set, WORD, ARRAY_COUNT(WORD));
    else if (lower == 's' && (inverted || excluded))
        code_set_put_all(builder, &set, ALL_SPACE, ARRAY_COUNT(ALL_SPACE));
    else if (lower == 's')
        code_set_put_all(builder, &set, SPACE, ARRAY_COUNT(SPACE));
    else
        return false;
    code_set_normalize(&set);
    if (inverted) code_set_invert(builder, &set);
    code_set_put_all(builder, out, set.ranges, set.count);
    return true;
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9') return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static uint32_t take_hex(struct regex *r, uint32_t digits)
{
    uint32_t code = 0;
    for (uint32_t i = 0; i < digits; i++, r->at++) {
        int digit = r->at < r->bytes ? hex_digit(r->text[r->at]) : -1;
        if (digit < 0) {
            broken(r, r->at, "a hexadecimal digit is missing");
            return 0;
        }
        code = code * 16 + (uint32_t)digit;
    }
    return code;
}

static uint32_t take_braced_hex(struct regex *r)
{
    size_t digits = 0;
    while (r->at + digits < r->bytes && r->text[r->at + digits] != '}' && digits < 7) digits++;
    uint32_t code = take_hex(r, (uint32_t)digits);
    if (!take(r, "}") || code > CODE_MAX) broken(r, r->at, "\\u{…} is no character");
    return code;
}

/* \uD83D\uDE00 is one character, as in JavaScript. */
static uint32_t take_unicode(struct regex *r)
{
    if (take(r, "{")) return take_braced_hex(r);
    uint32_t code = take_hex(r, 4);
    if (code >= 0xd800 && code < 0xdc00 && take(r, "\\u")) {
        uint32_t low = take_hex(r, 4);
        if (low < 0xdc00 || low > 0xdfff) broken(r, r->at, "half a surrogate pair");
        code = 0x10000 + ((code - 0xd800) << 10) + ((low - 0xdc00) & 0x3ff);
    }
    return code;
}

static uint32_t unknown_escape(struct regex *r, size_t at, char letter)
{
    if (letter >= '1' && letter <= '9')
        refuse(r, at, "a back reference");
    else if (letter == 'k')
        refuse(r, at, "a back reference by name (\\k)");
    else if (letter == 'b' || letter == 'B')
        refuse(r, at, "a word boundary (\\b, \\B)");
    else if (letter == 'p' || letter == 'P')
        refuse(r, at, "a Unicode property (\\p, \\P)");
    else if (letter == 'A' || letter == 'Z' || letter == 'z')
        refuse(r, at, "an anchor \\A, \\Z or \\z (^ and $ are)");
    else
        broken(r, at, "an unknown escape");
    return 0;
}

/* After a backslash: the character that is meant. */
static uint32_t take_escape(struct regex *r, bool in_class)
{
    static const char letters[] = "tnrfv", meant[] = "\t\n\r\f\v";
    size_t at = r->at - 1;
    if (ended(r)) {
        broken(r, at, "a backslash at the end");
        return 0;
    }
    uint32_t code = take_code(r);
    const char *found = code && code < 0x80 ? strchr(letters, (int)code) : NULL;
    if (found) return (uint32_t)meant[found - letters];
    if (code == 'x') return take_hex(r, 2);
    if (code == 'u') return take_unicode(r);
    if (code == '0') return 0;
    if (code == 'b' && in_class) return '\b';
    if (code == 'c' && !ended(r)) return (uint32_t)r->text[r->at++] & 0x1f;
    bool letter = (code >= '0' && code <= '9') || ((code | 0x20) >= 'a' && (code | 0x20) <= 'z' && code < 0x80);
    return letter ? unknown_escape(r, at, (char)code) : code;
}

/* One item of a class: a character, of which there may be a range, or a class by its letter. True: a character. */
static bool take_member(struct regex *r, struct code_set *set, bool excluded, uint32_t *code)
{
    if (!take(r, "\\")) {
        *code = take_code(r);
        return true;
    }
    if (!ended(r) && put_class(r->builder, set, r->text[r->at], excluded)) {
        r->at++;
        return false;
    }
    *code = take_escape(r, true);
    return true;
}

static struct piece character(struct regex *r, struct code_set *set)
{
    return (struct piece){build_characters(r->builder, set, r->json), 1, 1};
}

static struct piece take_set(struct regex *r)
{
    struct code_set set = {0};
    size_t at = r->at - 1;
    bool excluded = take(r, "^");
    if (looks_at(r, "]")) return refuse(r, at, "an empty class");
    bool closed = false;
    while (!ended(r) && !(closed = take(r, "]"))) {
        uint32_t low, high;
        if (looks_at(r, "[:")) return refuse(r, r->at, "a POSIX class");
        if (!take_member(r, &set, excluded, &low)) continue;
        high = low;
        size_t dash = r->at;
        if (take(r, "-")) {
            if (looks_at(r, "]") || !take_member(r, &set, excluded, &high)) {
                code_set_put(r->builder, &set, '-', '-');
                high = low;
            } else if (high < low) {
                return broken(r, dash, "a range that ends before it begins");
            }
        }
        code_set_put(r->builder, &set, low, high);
    }
    if (!closed) return broken(r, at, "a class without its ]");
    code_set_normalize(&set);
    if (excluded) code_set_invert(r->builder, &set);
    return character(r, &set);
}

static struct piece one_of(struct regex *r, const struct code_range *ranges, size_t count, bool inverted)
{
    struct code_set set = {0};
    code_set_put_all(r->builder, &set, ranges, count);
    if (inverted) code_set_invert(r->builder, &set);
    return character(r, &set);
}

static struct piece one(struct regex *r, uint32_t code)
{
    const struct code_range range = {code, code};
    return one_of(r, &range, 1, false);
}

/* ---- the expression ------------------------------------------------------------------------------------------------------- */

static struct piece take_alternatives(struct regex *r);

static struct piece take_group(struct regex *r)
{
    size_t at = r->at - 1;
    if (take(r, "?")) {
        if (looks_at(r, "<=") || looks_at(r, "<!")) return refuse(r, at, "looking behind");
        if (looks_at(r, "=") || looks_at(r, "!")) return refuse(r, at, "looking ahead");
        if (looks_at(r, "P=")) return refuse(r, at, "a back reference by name");
        if (looks_at(r, ">")) return refuse(r, at, "an atomic group");
        if (take(r, "<") || take(r, "P<")) {
            while (!ended(r) && !looks_at(r, ">")) r->at++;
            if (!take(r, ">")) return broken(r, at, "a group's name without its >");
        } else if (!take(r, ":")) {
            return refuse(r, at, "a group with flags or conditions");
        }
    }
    if (r->depth >= GROUPS_MAX) {
        build_fail(r->builder, ST_LIMIT, "more than %u groups inside each other", GROUPS_MAX);
        return empty(r);
    }
    r->depth++;
    struct piece inside = take_alternatives(r);
    r->depth--;
    return take(r, ")") ? inside : broken(r, at, "a group without its )");
}

static struct piece take_atom(struct regex *r)
{
    size_t at = r->at;
    if (take(r, "(")) return take_group(r);
    if (take(r, "[")) return take_set(r);
    if (take(r, ".")) return one_of(r, LINE_ENDS, ARRAY_COUNT(LINE_ENDS), true);
    if (looks_at(r, "*") || looks_at(r, "+") || looks_at(r, "?")) return broken(r, at, "there is nothing to repeat");
    if (looks_at(r, "^") || looks_at(r, "$")) return refuse(r, at, "an anchor in the middle of an expression");
    if (!take(r, "\\")) return one(r, take_code(r));
    struct code_set set = {0};
    if (!ended(r) && put_class(r->builder, &set, r->text[r->at], false)) {
        r->at++;
        return character(r, &set);
    }
    return one(r, take_escape(r, false));
}

static bool take_number(struct regex *r, uint32_t *out)
{
    size_t begin = r->at;
    uint64_t value = 0;
    for (; r->at < r->bytes && r->text[r->at] >= '0' && r->text[r->at] <= '9'; r->at++)
        if (value <= TIMES_MAX) value = value * 10 + (uint64_t)(r->text[r->at] - '0');
    if (value > TIMES_MAX)
        build_fail(r->builder, ST_LIMIT, "a repetition of more than %u times, at byte %zu of '%.*s'", TIMES_MAX, begin,
                   shown(r), r->text);
    *out = (uint32_t)value;
    return r->at > begin;
}

/* {m} {m,} {m,n}; false: nothing of the kind, and nothing taken. */
static bool take_times(struct regex *r, uint32_t *least, uint32_t *most)
{
    size_t begin = r->at;
    if (take(r, "{") && take_number(r, least)) {
        *most = *least;
        if (take(r, ",") && !take_number(r, most)) *most = REPEAT_ENDLESS;
        if (take(r, "}")) {
            if (*most < *least) broken(r, begin, "a repetition whose bounds are the wrong way round");
            return true;
        }
    }
    r->at = begin;
    return false;
}

static uint64_t at_most(uint64_t length)
{
    return length < LENGTH_ENDLESS ? length : LENGTH_ENDLESS;
}

static struct piece repeated(struct regex *r, struct piece of, uint32_t least, uint32_t most)
{
    return (struct piece){build_repeat(r->builder, of.fragment, least, most), at_most(of.least * least),
                          most == REPEAT_ENDLESS && of.most ? LENGTH_ENDLESS
                                                            : at_most(of.most * (most == REPEAT_ENDLESS ? 1 : most))};
}

/* A part of the outermost sequence is counted in, or held. */
static void hold(struct regex *r, const struct piece *of, uint32_t *least, uint32_t *most)
{
    struct holding *h = &r->holding;
    if (h->takes) {
        *least = h->least;
        *most = h->most;
    }
    h->parts++;
    h->unit = of->least == of->most ? of->least : 0;
}

static struct piece take_repeated(struct regex *r)
{
    struct piece out = take_atom(r);
    for (uint32_t times = 0; !ended(r); times++) {
        uint32_t least = 0, most = REPEAT_ENDLESS;
        size_t at = r->at;
        if (take(r, "?"))
            most = 1;
        else if (take(r, "+"))
            least = 1;
        else if (!take(r, "*") && !take_times(r, &least, &most))
            break;
        if (times) return broken(r, at, "a repetition of a repetition");
        if (looks_at(r, "+")) return refuse(r, at, "a possessive quantifier");
        take(r, "?");
        if (r->depth == 0 && least != most) {
            if (!r->holding.takes) r->holding.least = least, r->holding.most = most;
            hold(r, &out, &least, &most);
        }
        out = repeated(r, out, least, most);
    }
    return out;
}

static struct piece joined(struct regex *r, struct piece one, struct piece other)
{
    return (struct piece){build_then(r->builder, one.fragment, other.fragment), at_most(one.least + other.least),
                          at_most(one.most + other.most)};
}

static struct piece anything(struct regex *r)
{
    return repeated(r, one_of(r, ALL, ARRAY_COUNT(ALL), false), 0, REPEAT_ENDLESS);
}

static struct piece take_sequence(struct regex *r)
{
    bool outer = r->depth == 0, from_start = false, to_end = false;
    while (outer && take(r, "^")) from_start = true;
    struct piece out = r->search && outer && !from_start ? anything(r) : empty(r);
    while (!ended(r) && !looks_at(r, "|") && !looks_at(r, ")")) {
        size_t at = r->at;
        if (outer && take(r, "$")) {
            to_end = true;
            if (!ended(r) && !looks_at(r, "|") && !looks_at(r, "$"))
                return refuse(r, at, "an anchor in the middle of an expression");
        } else {
            uint32_t parts = r->holding.parts;
            struct piece next = take_repeated(r);
            if (outer && parts == r->holding.parts) {
                r->holding.fixed += next.least;
                if (next.least != next.most) r->holding.parts += 2; /* it varies from inside */
            }
            out = joined(r, out, next);
        }
    }
    if (outer && !(from_start && to_end)) r->holding.parts += 2;
    return r->search && outer && !to_end ? joined(r, out, anything(r)) : out;
}

static struct piece take_alternatives(struct regex *r)
{
    struct piece out = take_sequence(r);
    while (!ended(r) && take(r, "|")) {
        struct piece other = take_sequence(r);
        if (r->depth == 0) r->holding.parts += 2;
        out = (struct piece){build_either(r->builder, out.fragment, other.fragment),
                             out.least < other.least ? out.least : other.least,
                             out.most > other.most ? out.most : other.most};
    }
    return out;
}

static struct piece take_all(struct regex *r)
{
    struct piece out = take_alternatives(r);
    return ended(r) ? out : broken(r, r->at, "a ) without its (");
}

struct fragment regex_build(struct builder *builder, const char *text, size_t bytes, bool search)
{
    struct regex regex = {.builder = builder, .text = text, .bytes = bytes, .search = search, .json = search};
    return take_all(&regex).fragment;
}

struct fragment regex_build_held(struct builder *builder, const char *text, size_t bytes, uint32_t least, uint32_t most)
{
    struct regex regex = {.builder = builder, .text = text, .bytes = bytes, .search = true, .json = true};
    struct piece all = take_all(&regex);
    struct holding h = regex.holding;
    uint64_t limit = most == REPEAT_ENDLESS ? LENGTH_ENDLESS : most;
    if (all.least >= least && all.most <= limit) return all.fragment; /* it is never shorter or longer */
    if (all.least > limit || all.most < least) return build_nothing(builder);
    if (h.parts != 1 || !h.unit) {
        build_fail(builder, ST_UNSUPPORTED,
                   "'%.*s' beside minLength or maxLength is supported between ^ and $ with one part that is repeated: "
                   "put the length into the pattern",
                   shown(&regex), text);
        return all.fragment;
    }
    uint64_t fewest = least > h.fixed ? (least - h.fixed + h.unit - 1) / h.unit : 0;
    uint64_t times = limit >= LENGTH_ENDLESS ? REPEAT_ENDLESS : limit >= h.fixed ? (limit - h.fixed) / h.unit : 0;
    h.least = fewest > h.least ? (uint32_t)fewest : h.least;
    h.most = times < h.most ? (uint32_t)times : h.most;
    if (limit < h.fixed || h.most < h.least) return build_nothing(builder);
    struct regex again = {.builder = builder, .text = text, .bytes = bytes, .search = true, .json = true};
    again.holding = (struct holding){.takes = true, .least = h.least, .most = h.most};
    return take_all(&again).fragment;
}
