/* jinja_test.c - Jinja's tests: what stands after `is`. */
#include "text/jinja.h"

static bool is_mapping(struct value v)
{
    return v.kind == VALUE_DICT;
}

static bool is_callable(struct value v)
{
    return v.kind == VALUE_MACRO || v.kind == VALUE_METHOD || v.kind == VALUE_FUNCTION || v.kind == VALUE_JOINER ||
           v.kind == VALUE_LOOP || v.kind == VALUE_UNDEFINED; /* Undefined has a __call__, which raises */
}

static bool is_sequence(struct value v)
{
    return v.kind == VALUE_STRING || v.kind == VALUE_LIST || v.kind == VALUE_TUPLE || v.kind == VALUE_DICT ||
           v.kind == VALUE_RANGE || v.kind == VALUE_UNDEFINED;
}

#define TEST(name, expression)                                                                         \
    static struct value test_##name(struct jinja *j, struct value self, const struct value *arguments) \
    {                                                                                                  \
        (void)j, (void)arguments;                                                                      \
        return jinja_bool(expression);                                                                 \
    }
TEST(defined, self.kind != VALUE_UNDEFINED)
TEST(undefined, self.kind == VALUE_UNDEFINED)
TEST(none, self.kind == VALUE_NONE)
TEST(boolean, self.kind == VALUE_BOOL)
TEST(true, self.kind == VALUE_BOOL && self.boolean)
TEST(false, self.kind == VALUE_BOOL && !self.boolean)
TEST(integer, self.kind == VALUE_INT)
TEST(float, self.kind == VALUE_FLOAT)
TEST(number, jinja_is_number(self))
TEST(string, self.kind == VALUE_STRING)
TEST(mapping, is_mapping(self))
TEST(sequence, is_sequence(self))
TEST(iterable, jinja_iterable(self) || self.kind == VALUE_LOOP)
TEST(callable, is_callable(self))
TEST(escaped, self.kind == VALUE_STRING && self.string->markup)
TEST(eq, jinja_equal(j, self, arguments[0]))
TEST(ne, !jinja_equal(j, self, arguments[0]))
TEST(lt, jinja_ordered(j, OPERATOR_LT, self, arguments[0]))
TEST(le, jinja_ordered(j, OPERATOR_LE, self, arguments[0]))
TEST(gt, jinja_ordered(j, OPERATOR_GT, self, arguments[0]))
TEST(ge, jinja_ordered(j, OPERATOR_GE, self, arguments[0]))
TEST(in, jinja_contains(j, arguments[0], self))
TEST(odd, jinja_equal(j, jinja_arithmetic(j, OPERATOR_MOD, self, jinja_int(2)), jinja_int(1)))
TEST(even, jinja_equal(j, jinja_arithmetic(j, OPERATOR_MOD, self, jinja_int(2)), jinja_int(0)))
TEST(divisibleby, jinja_equal(j, jinja_arithmetic(j, OPERATOR_MOD, self, arguments[0]), jinja_int(0)))

static bool same_object(struct value a, struct value b)
{
    if (a.kind != b.kind) return false;
    switch (a.kind) {
    case VALUE_NONE:
        return true;
    case VALUE_BOOL:
        return a.boolean == b.boolean;
    case VALUE_INT:
        return a.integer == b.integer; /* Python's small integers are single objects */
    case VALUE_FLOAT:
        return false;
    default:
        return a.macro == b.macro;
    }
}
TEST(sameas, same_object(self, arguments[0]))

static struct value ask(struct jinja *j, struct value self, const char *method)
{
    struct call none = {0};
    const struct string *name = jinja_text(j, method).string;
    struct value text = jinja_of_string(jinja_to_string(j, self));
    return jinja_call_builtin(j, jinja_builtin_find(jinja_string_methods, name), text, &none);
}

static struct value test_lower(struct jinja *j, struct value self, const struct value *arguments)
{
    (void)arguments;
    return ask(j, self, "islower");
}

static struct value test_upper(struct jinja *j, struct value self, const struct value *arguments)
{
    (void)arguments;
    return ask(j, self, "isupper");
}

static struct value test_filter(struct jinja *j, struct value self, const struct value *arguments)
{
    (void)j, (void)arguments;
    return jinja_bool(self.kind == VALUE_STRING && jinja_filter_find(self.string));
}

static struct value test_test(struct jinja *j, struct value self, const struct value *arguments)
{
    (void)j, (void)arguments;
    return jinja_bool(self.kind == VALUE_STRING && jinja_builtin_find(jinja_tests, self.string));
}

#define ONE "/other", .required = 1
const struct builtin jinja_tests[] = {
    {.name = "defined", .fixed = test_defined, .parameters = ""},
    {.name = "undefined", .fixed = test_undefined, .parameters = ""},
    {.name = "none", .fixed = test_none, .parameters = ""},
    {.name = "string", .fixed = test_string, .parameters = ""},
    {.name = "mapping", .fixed = test_mapping, .parameters = ""},
    {.name = "iterable", .fixed = test_iterable, .parameters = ""},
    {.name = "sequence", .fixed = test_sequence, .parameters = ""},
    {.name = "boolean", .fixed = test_boolean, .parameters = ""},
    {.name = "true", .fixed = test_true, .parameters = ""},
    {.name = "false", .fixed = test_false, .parameters = ""},
    {.name = "integer", .fixed = test_integer, .parameters = ""},
    {.name = "float", .fixed = test_float, .parameters = ""},
    {.name = "number", .fixed = test_number, .parameters = ""},
    {.name = "callable", .fixed = test_callable, .parameters = ""},
    {.name = "escaped", .fixed = test_escaped, .parameters = ""},
    {.name = "filter", .fixed = test_filter, .parameters = ""},
    {.name = "test", .fixed = test_test, .parameters = ""},
    {.name = "lower", .fixed = test_lower, .parameters = ""},
    {.name = "upper", .fixed = test_upper, .parameters = ""},
    {.name = "odd", .fixed = test_odd, .parameters = ""},
    {.name = "even", .fixed = test_even, .parameters = ""},
    {.name = "divisibleby", .fixed = test_divisibleby, .parameters = "num", .required = 1},
    {.name = "sameas", .fixed = test_sameas, .parameters = "other", .required = 1},
    {.name = "in", .fixed = test_in, .parameters = "seq", .required = 1},
    {.name = "eq", .fixed = test_eq, .parameters = ONE},
    {.name = "equalto", .fixed = test_eq, .parameters = ONE},
    {.name = "==", .fixed = test_eq, .parameters = ONE},
    {.name = "ne", .fixed = test_ne, .parameters = ONE},
    {.name = "!=", .fixed = test_ne, .parameters = ONE},
    {.name = "lt", .fixed = test_lt, .parameters = ONE},
    {.name = "lessthan", .fixed = test_lt, .parameters = ONE},
    {.name = "<", .fixed = test_lt, .parameters = ONE},
    {.name = "le", .fixed = test_le, .parameters = ONE},
    {.name = "<=", .fixed = test_le, .parameters = ONE},
    {.name = "gt", .fixed = test_gt, .parameters = ONE},
    {.name = "greaterthan", .fixed = test_gt, .parameters = ONE},
    {.name = ">", .fixed = test_gt, .parameters = ONE},
    {.name = "ge", .fixed = test_ge, .parameters = ONE},
    {.name = ">=", .fixed = test_ge, .parameters = ONE},
    {.name = NULL},
};
