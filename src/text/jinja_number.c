/* jinja_number.c - Python's numbers: operators, int() and float() of texts, repr() of floats. Integers have 64 bits: where
 * Python's would grow beyond, rendering fails with ST_LIMIT. Booleans count as 0 and 1. */
#include "text/jinja.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

bool jinja_is_number(struct value v)
{
    return v.kind == VALUE_BOOL || v.kind == VALUE_INT || v.kind == VALUE_FLOAT;
}

double jinja_real(struct value v)
{
    return v.kind == VALUE_FLOAT ? v.real : v.kind == VALUE_INT ? (double)v.integer : v.boolean;
}

static int64_t whole(struct value v)
{
    return v.kind == VALUE_INT ? v.integer : v.boolean;
}

/* ---- texts ------------------------------------------------------------------------------------------------------------- */

void jinja_float_text(double value, char out[JINJA_FLOAT_TEXT_BYTES])
{
    if (isnan(value) || isinf(value)) {
        snprintf(out, JINJA_FLOAT_TEXT_BYTES, "%s", isnan(value) ? "nan" : value > 0 ? "inf" : "-inf");
        return;
    }
    char text[JINJA_FLOAT_TEXT_BYTES];
    int precision = 0; /* the shortest digits that read back as the same number */
    do snprintf(text, sizeof text, "%.*e", precision, value);
    while (strtod(text, NULL) != value && ++precision < 17);
    int exponent = (int)strtol(strchr(text, 'e') + 1, NULL, 10);
    if (exponent >= -4 && exponent < 16) {
        int decimals = precision > exponent ? precision - exponent : 0;
        snprintf(out, JINJA_FLOAT_TEXT_BYTES, "%.*f", decimals ? decimals : 1, value);
    } else {
        snprintf(out, JINJA_FLOAT_TEXT_BYTES, "%.*e", precision, value);
    }
}

/* Copies `s` without outer space and with single underscores between digits removed; false when it has other characters. */
static bool plain_number(const struct string *s, char *out, size_t bytes)
{
    size_t begin = 0, end = s->bytes, length = 0;
    while (begin < end && jinja_is_space((unsigned char)s->data[begin])) begin++;
    while (end > begin && jinja_is_space((unsigned char)s->data[end - 1])) end--;
    for (size_t i = begin; i < end; i++) {
        char c = s->data[i];
        if (c == '_') {
            if (i == begin || i + 1 == end || s->data[i - 1] == '_' || !jinja_is_word((unsigned char)s->data[i - 1]))
                return false;
            continue;
        }
        if (length + 1 >= bytes || (unsigned char)c >= 0x80 || c == 0) return false;
        out[length++] = c;
    }
    out[length] = '\0';
    return length > 0;
}

bool jinja_parse_int(const struct string *s, int64_t base, int64_t *out, bool *overflow)
{
    char text[200];
    *overflow = false;
    if (base != 0 && (base < 2 || base > 36)) return false;
    if (!plain_number(s, text, sizeof text)) return false;
    char *digits = text;
    bool negative = *digits == '-';
    if (*digits == '-' || *digits == '+') digits++;
    char kind = digits[0] == '0' ? (char)(digits[1] | 0x20) : 0;
    int64_t marked = kind == 'x' ? 16 : kind == 'o' ? 8 : kind == 'b' ? 2 : 0;
    if (marked && (base == 0 || base == marked))
        base = marked, digits += 2;
    else if (base == 0 && digits[0] == '0' && strspn(digits, "0") != strlen(digits))
        return false;
    if (base == 0) base = 10;
    if (!*digits) return false;
    int64_t value = 0;
    for (; *digits; digits++) {
        char c = (char)(*digits | 0x20);
        int64_t digit = *digits >= '0' && *digits <= '9' ? *digits - '0' : c >= 'a' && c <= 'z' ? c - 'a' + 10 : 99;
        if (digit >= base) return false;
        if (__builtin_mul_overflow(value, base, &value) || __builtin_sub_overflow(value, digit, &value))
            *overflow = true;
    }
    if (!negative && __builtin_sub_overflow((int64_t)0, value, &value)) *overflow = true;
    *out = value;
    return !*overflow;
}

bool jinja_parse_float(const struct string *s, double *out)
{
    char text[400], *end;
    if (!plain_number(s, text, sizeof text)) return false;
    const char *word = text + (*text == '-' || *text == '+');
    if (strcasecmp(word, "inf") && strcasecmp(word, "infinity") && strcasecmp(word, "nan") &&
        strspn(word, "0123456789.eE+-") != strlen(word))
        return false;
    *out = strtod(text, &end);
    return *end == '\0';
}

/* ---- operators ----------------------------------------------------------------------------------------------------------- */

static const char *const spelling[] = {"+", "-", "*", "/", "//", "%", "** or pow()"};

static _Noreturn void bad_operands(struct jinja *j, enum operator operator, struct value a, struct value b)
{
    if (a.kind == VALUE_UNDEFINED) jinja_fail_undefined(j, a);
    if (b.kind == VALUE_UNDEFINED) jinja_fail_undefined(j, b);
    jinja_fail(j, ST_INVALID, "unsupported operand types for %s: '%s' and '%s'", spelling[operator], jinja_type_name(a),
               jinja_type_name(b));
}

static _Noreturn void too_large(struct jinja *j)
{
    jinja_fail(j, ST_LIMIT, "an integer beyond 64 bits");
}

static int64_t floor_divide(struct jinja *j, int64_t a, int64_t b)
{
    if (b == 0) jinja_fail(j, ST_INVALID, "integer division or modulo by zero");
    if (b == -1) {
        int64_t negative;
        if (__builtin_sub_overflow((int64_t)0, a, &negative)) too_large(j);
        return negative;
    }
    return a / b - (a % b != 0 && (a < 0) != (b < 0));
}

static struct value power(struct jinja *j, int64_t base, int64_t exponent)
{
    if (exponent < 0) {
        if (base == 0) jinja_fail(j, ST_INVALID, "0.0 cannot be raised to a negative power");
        return jinja_float(pow((double)base, (double)exponent));
    }
    int64_t result = 1;
    for (; exponent; exponent >>= 1) {
        if ((exponent & 1) && __builtin_mul_overflow(result, base, &result)) too_large(j);
        if (exponent > 1 && __builtin_mul_overflow(base, base, &base)) too_large(j);
    }
    return jinja_int(result);
}

static struct value on_integers(struct jinja *j, enum operator operator, int64_t a, int64_t b)
{
    int64_t result = 0;
    bool overflow = false;
    switch (operator) {
    case OPERATOR_ADD:
        overflow = __builtin_add_overflow(a, b, &result);
        break;
    case OPERATOR_SUB:
        overflow = __builtin_sub_overflow(a, b, &result);
        break;
    case OPERATOR_MUL:
        overflow = __builtin_mul_overflow(a, b, &result);
        break;
    case OPERATOR_DIV:
        if (b == 0) jinja_fail(j, ST_INVALID, "division by zero");
        return jinja_float((double)((long double)a / (long double)b));
    case OPERATOR_FLOORDIV:
        result = floor_divide(j, a, b);
        break;
    case OPERATOR_MOD:
        result = b == -1 ? 0 : a - floor_divide(j, a, b) * b;
        break;
    default:
        return power(j, a, b);
    }
    if (overflow) too_large(j);
    return jinja_int(result);
}

static double modulo(double a, double b)
{
    double rest = fmod(a, b);
    if (rest != 0 && (rest < 0) != (b < 0)) rest += b;
    return rest != 0 ? rest : copysign(0, b);
}

static double floor_quotient(double a, double b)
{
    double quotient = (a - modulo(a, b)) / b, down = floor(quotient);
    if (quotient == 0) return copysign(0, a / b);
    return quotient - down > 0.5 ? down + 1 : down;
}

static struct value on_floats(struct jinja *j, enum operator operator, double a, double b)
{
    bool divides = operator== OPERATOR_DIV || operator== OPERATOR_FLOORDIV || operator== OPERATOR_MOD;
    if (divides && b == 0) jinja_fail(j, ST_INVALID, "float division by zero");
    switch (operator) {
    case OPERATOR_ADD:
        return jinja_float(a + b);
    case OPERATOR_SUB:
        return jinja_float(a - b);
    case OPERATOR_MUL:
        return jinja_float(a * b);
    case OPERATOR_DIV:
        return jinja_float(a / b);
    case OPERATOR_FLOORDIV:
        return jinja_float(floor_quotient(a, b));
    case OPERATOR_MOD:
        return jinja_float(modulo(a, b));
    default:
        break;
    }
    if (a == 0 && b < 0) jinja_fail(j, ST_INVALID, "0.0 cannot be raised to a negative power");
    if (a < 0 && b != floor(b)) jinja_fail(j, ST_UNSUPPORTED, "a complex number");
    double result = pow(a, b);
    if (isinf(result) && !isinf(a) && !isinf(b)) jinja_fail(j, ST_INVALID, "numerical result out of range");
    return jinja_float(result);
}

/* ---- sequences ------------------------------------------------------------------------------------------------------------- */

static struct value repeat(struct jinja *j, struct value v, int64_t times)
{
    if (times < 0) times = 0;
    if (v.kind == VALUE_STRING) {
        struct builder b;
        jinja_builder_init(&b, j);
        if (v.string->bytes == 0) return v;
        if ((uint64_t)times > j->bytes_max / v.string->bytes)
            jinja_fail(j, ST_LIMIT, "a text grows beyond %zu bytes", j->bytes_max);
        for (int64_t i = 0; i < times; i++) jinja_put_string(&b, v.string), jinja_charge(j, 1);
        struct value repeated = jinja_built(&b);
        ((struct string *)repeated.string)->markup = v.string->markup; /* just made */
        return repeated;
    }
    struct list *list = jinja_list_new(j, 0);
    if (v.list->count == 0) return jinja_of_list(list, v.kind);
    for (int64_t i = 0; i < times; i++)
        for (uint32_t k = 0; k < v.list->count; k++) jinja_list_put(j, list, v.list->items[k]);
    return jinja_of_list(list, v.kind);
}

static struct value join(struct jinja *j, struct value a, struct value b)
{
    if (a.kind == VALUE_STRING) {
        bool markup = a.string->markup || b.string->markup;
        const struct string *left = markup && !a.string->markup ? jinja_string_escape(j, a.string) : a.string;
        const struct string *right = markup && !b.string->markup ? jinja_string_escape(j, b.string) : b.string;
        struct value joined = jinja_of_string(jinja_string_append(j, left, right));
        ((struct string *)joined.string)->markup = markup; /* not yet shared */
        return joined;
    }
    struct list *list = jinja_list_new(j, a.list->count + b.list->count);
    for (uint32_t i = 0; i < a.list->count; i++) jinja_list_put(j, list, a.list->items[i]);
    for (uint32_t i = 0; i < b.list->count; i++) jinja_list_put(j, list, b.list->items[i]);
    return jinja_of_list(list, a.kind);
}

static bool is_sequence(struct value v)
{
    return v.kind == VALUE_STRING || v.kind == VALUE_LIST || v.kind == VALUE_TUPLE;
}

static bool is_whole(struct value v)
{
    return v.kind == VALUE_INT || v.kind == VALUE_BOOL;
}

struct value jinja_arithmetic(struct jinja *j, enum operator operator, struct value a, struct value b)
{
    if (operator== OPERATOR_MOD && a.kind == VALUE_STRING) return jinja_percent(j, a.string, b);
    if (is_whole(a) && is_whole(b)) return on_integers(j, operator, whole(a), whole(b));
    if (jinja_is_number(a) && jinja_is_number(b)) return on_floats(j, operator, jinja_real(a), jinja_real(b));
    if (operator== OPERATOR_ADD && is_sequence(a) && a.kind == b.kind) return join(j, a, b);
    if (operator== OPERATOR_MUL && is_sequence(a) && is_whole(b)) return repeat(j, a, whole(b));
    if (operator== OPERATOR_MUL && is_whole(a) && is_sequence(b)) return repeat(j, b, whole(a));
    bad_operands(j, operator, a, b);
}

struct value jinja_negate(struct jinja *j, struct value a)
{
    if (a.kind == VALUE_UNDEFINED) jinja_fail_undefined(j, a);
    if (a.kind == VALUE_FLOAT) return jinja_float(-a.real);
    if (!is_whole(a)) jinja_fail(j, ST_INVALID, "bad operand type for unary -: '%s'", jinja_type_name(a));
    return on_integers(j, OPERATOR_SUB, 0, whole(a));
}
