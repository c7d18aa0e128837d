/* schema_number.c - numbers of JSON Schema: bounds and multipleOf, exactly, digit by digit.
 *
 * Bounds are whole numbers of the smallest decimal, so an exclusive bound is the next number. A number is read from its first digit, so
 * the number of its digits before the point is chosen first: for each there is an automaton that knows whether the digits so far are
 * those of the lower bound, or of the upper, and what remains when they are divided. Once they are neither, what may follow depends on
 * how many digits are left and on the remainder only, and is shared. Numbers with bounds have no exponent. */
#include "grammar/schema.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WHOLE_DIGITS_MAX 18u  /* of an integer: fits 64 bits */
#define NUMBER_DIGITS_MAX 15u /* before the point, and after it */
#define DIGITS_MAX (NUMBER_DIGITS_MAX * 2)
#define DIVISOR_MAX 1000u

typedef __int128 wide;

struct digits {
    struct schema *schema;
    uint32_t before, after;                   /* the point, at most */
    uint32_t divisor;                         /* of the digits as one whole number */
    wide low, high;                           /* of what is read now */
    char lows[DIGITS_MAX], highs[DIGITS_MAX]; /* of numbers of `count` digits before the point */
    uint32_t count;
    uint32_t *free_nodes; /* [before + after + 1][divisor] rules: places after which the bounds do not count */
};

/* ---- free numbers ------------------------------------------------------------------------------------------------------------------- */

static struct fragment digit(struct schema *s, char low, char high)
{
    struct byte_set set = {{0}};
    byte_set_put(&set, (unsigned char)low, (unsigned char)high);
    return build_byte_set(s->builder, &set);
}

static struct fragment digits(struct schema *s, uint32_t least, uint32_t most)
{
    return build_repeat(s->builder, digit(s, '0', '9'), least, most);
}

static struct fragment free_number(struct schema *s, bool integer)
{
    struct builder *b = s->builder;
    uint32_t more = (integer ? WHOLE_DIGITS_MAX : NUMBER_DIGITS_MAX) - 1;
    struct fragment whole = build_then(b, digit(s, '1', '9'), digits(s, 0, more));
    struct fragment out = build_optional(b, schema_text(s, "-"));
    if (integer) { /* -0 is none */
        out = build_either(b, schema_text(s, "0"), build_then(b, out, whole));
        return out;
    }
    struct fragment part = build_then(b, schema_text(s, "."), digits(s, 1, NUMBER_DIGITS_MAX));
    struct byte_set e = {{0}}, sign = {{0}};
    byte_set_put(&e, 'e', 'e');
    byte_set_put(&e, 'E', 'E');
    byte_set_put(&sign, '+', '+');
    byte_set_put(&sign, '-', '-');
    struct fragment power = build_then(b, build_optional(b, build_byte_set(b, &sign)), digits(s, 1, 2));
    power = build_then(b, build_byte_set(b, &e), power);
    out = build_then(b, out, build_either(b, schema_text(s, "0"), whole));
    return build_then(b, out, build_then(b, build_optional(b, part), build_optional(b, power)));
}

/* ---- digits between bounds ------------------------------------------------------------------------------------------------------------ */

struct place {
    uint32_t at; /* digits so far, with those after the point */
    bool on_low, on_high;
    uint32_t rest; /* of the digits so far, divided */
};

/* The number may end here: what is missing are zeros. */
static bool may_end(const struct digits *d, const struct place *p)
{
    uint64_t rest = p->rest;
    if (p->at < d->count) return false;
    for (uint32_t i = p->at; i < d->count + d->after; i++) {
        if (p->on_low && d->lows[i] > '0') return false;
        rest = rest * 10 % d->divisor;
    }
    return rest == 0;
}

static struct fragment from(struct digits *d, struct place place);

/* One more digit, then what follows it. */
static struct fragment next_digits(struct digits *d, const struct place *p)
{
    struct schema *s = d->schema;
    char low = p->on_low ? d->lows[p->at] : '0', high = p->on_high ? d->highs[p->at] : '9';
    struct fragment out = build_nothing(s->builder);
    if (p->at == 0 && d->count > 1 && low == '0') low = '1';
    for (char c = low; c <= high && s->builder->status == ST_OK; c++) {
        struct place next = {.at = p->at + 1,
                             .on_low = p->on_low && c == d->lows[p->at],
                             .on_high = p->on_high && c == d->highs[p->at],
                             .rest = (p->rest * 10 + (uint32_t)(c - '0')) % d->divisor};
        char last = c;
        bool alike = d->divisor == 1 && !next.on_low && !next.on_high; /* a run of digits that lead to the same */
        while (alike && last < high && !(p->on_high && last + 1 == d->highs[p->at])) last++;
        out = build_either(s->builder, out, build_then(s->builder, digit(s, c, last), from(d, next)));
        c = last;
    }
    return out;
}

static struct fragment make_from(struct digits *d, const struct place *p)
{
    struct schema *s = d->schema;
    bool end = may_end(d, p), more = p->at < d->count + d->after;
    struct fragment out = more ? next_digits(d, p) : build_nothing(s->builder);
    if (more && p->at == d->count) out = build_then(s->builder, schema_text(s, "."), out);
    return end ? build_optional(s->builder, out) : out;
}

static struct fragment from(struct digits *d, struct place place)
{
    struct schema *s = d->schema;
    if (place.on_low || place.on_high || s->builder->status != ST_OK) return make_from(d, &place);
    uint32_t left = d->count + d->after - place.at, *rule = &d->free_nodes[left * d->divisor + place.rest];
    if (*rule == RULES_MAX) {
        *rule = build_rule(s->builder, "digits", strlen("digits"));
        uint32_t own = *rule;
        struct fragment made = make_from(d, &place);
        build_define(s->builder, own, made);
    }
    return build_call(s->builder, *rule);
}

static wide power_of_ten(uint32_t exponent)
{
    wide out = 1;
    while (exponent-- > 0) out *= 10;
    return out;
}

static void spell(wide number, uint32_t count, char *out)
{
    while (count-- > 0) {
        out[count] = (char)('0' + (int)(number % 10));
        number /= 10;
    }
}

/* The numbers in [low, high], neither negative, in units of the last digit. */
static struct fragment between(struct digits *d, wide low, wide high)
{
    struct schema *s = d->schema;
    struct fragment out = build_nothing(s->builder);
    wide unit = power_of_ten(d->after);
    for (d->count = 1; d->count <= d->before; d->count++) {
        wide least = d->count > 1 ? power_of_ten(d->count - 1) * unit : 0, most = power_of_ten(d->count) * unit - 1;
        wide from_here = low > least ? low : least, to_here = high < most ? high : most;
        if (from_here > to_here) continue;
        spell(from_here, d->count + d->after, d->lows);
        spell(to_here, d->count + d->after, d->highs);
        out = build_either(s->builder, out, from(d, (struct place){.on_low = true, .on_high = true}));
    }
    return out;
}

/* ---- keywords ------------------------------------------------------------------------------------------------------------------------- */

/* A JSON number in units of 10^-after, rounded up or down. Its shortest decimal form is what is meant. False: it is out of any
 * range, on the side that the sign says. */
static bool to_units(const json_t *json, uint32_t after, bool up, wide *out, bool *exact)
{
    char text[64];
    double value = json_number_value(json);
    wide number = 0;
    bool inexact = false;
    *exact = true;
    if (json_is_integer(json)) {
        *out = (wide)json_integer_value(json) * power_of_ten(after);
        return llabs(json_integer_value(json) / 2) < INT64_MAX / 4;
    }
    if (!(fabs(value) < 1e18)) return false;
    for (int precision = 1; precision <= 17; precision++) {
        snprintf(text, sizeof text, "%.*e", precision - 1, fabs(value));
        if (strtod(text, NULL) == fabs(value)) break;
    }
    const char *e = strchr(text, 'e');
    int exponent = (int)strtol(e + 1, NULL, 10) + (int)after; /* of the first digit, in units */
    for (const char *p = text; p < e; p++) {
        if (*p == '.') continue;
        if (exponent >= 0)
            number = number * 10 + (*p - '0');
        else
            inexact |= *p != '0';
        exponent--;
    }
    while (exponent-- >= 0) number *= 10;
    if (value < 0) number = -number;
    if (inexact && up && value > 0) number++;
    if (inexact && !up && value < 0) number--;
    *exact = !inexact;
    *out = number;
    return true;
}

static void read_low(struct digits *d, const json_t *json, bool exclusive)
{
    wide units;
    bool exact;
    if (!json_is_number(json)) return;
    if (!to_units(json, d->after, true, &units, &exact)) {
        if (json_number_value(json) > 0) d->low = d->high + 1;
        return;
    }
    if (exclusive && exact) units++;
    if (units > d->low) d->low = units;
}

static void read_high(struct digits *d, const json_t *json, bool exclusive)
{
    wide units;
    bool exact;
    if (!json_is_number(json)) return;
    if (!to_units(json, d->after, false, &units, &exact)) {
        if (json_number_value(json) < 0) d->high = d->low - 1;
        return;
    }
    if (exclusive && exact) units--;
    if (units < d->high) d->high = units;
}

/* multipleOf as divisor / 10^after. */
static bool read_divisor(struct digits *d, const json_t *json, bool integer, const struct path *path)
{
    wide units = 0;
    bool exact = false;
    if (!json) return true;
    if (!json_is_number(json) || !(json_number_value(json) > 0)) {
        schema_fail(d->schema, path, ST_INVALID, "multipleOf must be a number above 0");
        return false;
    }
    uint32_t after = 0;
    bool found = to_units(json, after, false, &units, &exact);
    while (found && !exact && after < 6) found = to_units(json, ++after, false, &units, &exact);
    if (!found || !exact || units > DIVISOR_MAX || (integer && after > 0)) {
        schema_fail(d->schema, path, ST_UNSUPPORTED,
                    "multipleOf is supported up to %u, with at most 6 decimals, and whole for integers", DIVISOR_MAX);
        return false;
    }
    d->divisor = (uint32_t)units;
    d->after = after;
    return true;
}

/* draft 4 and OpenAPI 3.0 have flags beside minimum and maximum. */
static void check_bounds(struct schema *s, const json_t *json, const struct path *path)
{
    static const char *const keywords[] = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"};
    for (size_t i = 0; i < ARRAY_COUNT(keywords); i++) {
        const json_t *value = json_object_get(json, keywords[i]);
        if (value && !json_is_number(value) && !(i > 1 && json_is_boolean(value)))
            schema_fail(s, path, ST_INVALID, "%s must be a number", keywords[i]);
    }
}

static struct fragment within(struct digits *d)
{
    struct schema *s = d->schema;
    struct fragment out = build_nothing(s->builder);
    if (d->high >= 0) out = between(d, d->low > 0 ? d->low : 0, d->high);
    if (d->low >= 0 || d->low > d->high) return out;
    wide least = d->high < 0 ? -d->high : 1; /* -0 is none */
    struct fragment negative = between(d, least, -d->low);
    return build_either(s->builder, out, build_then(s->builder, schema_text(s, "-"), negative));
}

struct fragment schema_number(struct schema *s, const json_t *json, bool integer, const struct path *path)
{
    static const char *const bounds[] = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"};
    struct digits d = {.schema = s, .divisor = 1};
    bool bounded = false;
    for (size_t i = 0; i < ARRAY_COUNT(bounds); i++) bounded |= json_object_get(json, bounds[i]) != NULL;
    if (!bounded) return free_number(s, integer);
    check_bounds(s, json, path);
    d.before = integer ? WHOLE_DIGITS_MAX : NUMBER_DIGITS_MAX;
    d.after = integer ? 0 : NUMBER_DIGITS_MAX;
    if (!read_divisor(&d, json_object_get(json, "multipleOf"), integer, path)) return build_nothing(s->builder);
    d.high = power_of_ten(d.before + d.after) - 1;
    d.low = -d.high;
    const json_t *above = json_object_get(json, "exclusiveMinimum"), *below = json_object_get(json, "exclusiveMaximum");
    read_low(&d, json_object_get(json, "minimum"), json_is_true(above));
    if (json_is_number(above)) read_low(&d, above, true);
    read_high(&d, json_object_get(json, "maximum"), json_is_true(below));
    if (json_is_number(below)) read_high(&d, below, true);
    size_t places = (size_t)(d.before + d.after + 1) * d.divisor;
    d.free_nodes = mem_alloc(places * sizeof *d.free_nodes);
    if (!d.free_nodes) return schema_fail(s, path, ST_NOMEM, "not enough memory for a grammar");
    for (size_t i = 0; i < places; i++) d.free_nodes[i] = RULES_MAX;
    struct fragment out = within(&d);
    mem_free(d.free_nodes);
    return out;
}
