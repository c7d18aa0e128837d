/* jinja_method.c - methods of dicts, lists, tuples, ranges and cyclers. Those that would change their object are named, as the
 * sandbox does, and hidden. */
#include "text/jinja.h"

static struct value view_of(struct jinja *j, struct value self, enum view_kind kind)
{
    struct view *view = jinja_alloc(j, sizeof *view);
    *view = (struct view){.dict = self.dict, .kind = kind};
    return (struct value){.kind = VALUE_VIEW, .view = view};
}

static struct value dict_keys(struct jinja *j, struct value self, const struct value *arguments)
{
    (void)arguments;
    return view_of(j, self, VIEW_KEYS);
}

static struct value dict_values(struct jinja *j, struct value self, const struct value *arguments)
{
    (void)arguments;
    return view_of(j, self, VIEW_VALUES);
}

static struct value dict_items(struct jinja *j, struct value self, const struct value *arguments)
{
    (void)arguments;
    return view_of(j, self, VIEW_ITEMS);
}

static struct value dict_get(struct jinja *j, struct value self, const struct value *arguments)
{
    if (!jinja_hashable(arguments[0]))
        jinja_fail(j, ST_INVALID, "unhashable type: '%s'", jinja_type_name(arguments[0]));
    const struct value *found = jinja_dict_get(j, self.dict, arguments[0]);
    return found ? *found : arguments[1].kind == VALUE_ABSENT ? jinja_none() : arguments[1];
}

static struct value dict_copy(struct jinja *j, struct value self, const struct value *arguments)
{
    struct dict *copy = jinja_dict_new(j);
    (void)arguments;
    jinja_dict_update(j, copy, self);
    return jinja_of_dict(copy);
}

static struct value dict_fromkeys(struct jinja *j, struct value self, const struct value *arguments)
{
    struct dict *dict = jinja_dict_new(j);
    struct iterator it;
    struct value key;
    (void)self;
    for (jinja_iterate(j, arguments[0], &it); jinja_next(j, &it, &key);)
        jinja_dict_set(j, dict, key, arguments[1].kind == VALUE_ABSENT ? jinja_none() : arguments[1]);
    return jinja_of_dict(dict);
}

static struct value sequence_index(struct jinja *j, struct value self, const struct value *arguments)
{
    struct iterator it;
    struct value item;
    int64_t count = jinja_length(j, self), at = 0;
    int64_t begin = arguments[1].kind == VALUE_ABSENT ? 0 : jinja_to_int(j, arguments[1], "index()");
    int64_t end = arguments[2].kind == VALUE_ABSENT ? count : jinja_to_int(j, arguments[2], "index()");
    if (begin < 0) begin += count;
    if (end < 0) end += count;
    for (jinja_iterate(j, self, &it); jinja_next(j, &it, &item); at++)
        if (at >= begin && at < end && jinja_equal(j, item, arguments[0])) return jinja_int(at);
    jinja_fail(j, ST_INVALID, "the value is not in the %s", jinja_type_name(self));
}

static struct value sequence_count(struct jinja *j, struct value self, const struct value *arguments)
{
    struct iterator it;
    struct value item;
    int64_t count = 0;
    for (jinja_iterate(j, self, &it); jinja_next(j, &it, &item);) count += jinja_equal(j, item, arguments[0]);
    return jinja_int(count);
}

static struct value list_copy(struct jinja *j, struct value self, const struct value *arguments)
{
    (void)arguments;
    return jinja_of_list(jinja_to_list(j, self), VALUE_LIST);
}

static struct value cycler_next(struct jinja *j, struct value self, const struct value *arguments)
{
    struct cycler *cycler = self.cycler;
    struct value item = cycler->items->items[cycler->next];
    (void)j, (void)arguments;
    cycler->next = (cycler->next + 1) % cycler->items->count;
    return item;
}

static struct value cycler_reset(struct jinja *j, struct value self, const struct value *arguments)
{
    (void)j, (void)arguments;
    self.cycler->next = 0;
    return jinja_none();
}

const struct builtin jinja_dict_methods[] = {
    {.name = "get", .fixed = dict_get, .parameters = "/key default", .required = 1},
    {.name = "items", .fixed = dict_items, .parameters = ""},
    {.name = "keys", .fixed = dict_keys, .parameters = ""},
    {.name = "values", .fixed = dict_values, .parameters = ""},
    {.name = "copy", .fixed = dict_copy, .parameters = ""},
    {.name = "fromkeys", .fixed = dict_fromkeys, .parameters = "/iterable value", .required = 1},
    {.name = "clear", .mutates = true},
    {.name = "pop", .mutates = true},
    {.name = "popitem", .mutates = true},
    {.name = "setdefault", .mutates = true},
    {.name = "update", .mutates = true},
    {.name = NULL},
};

const struct builtin jinja_list_methods[] = {
    {.name = "index", .fixed = sequence_index, .parameters = "/value start stop", .required = 1},
    {.name = "count", .fixed = sequence_count, .parameters = "/value", .required = 1},
    {.name = "copy", .fixed = list_copy, .parameters = ""},
    {.name = "append", .mutates = true},
    {.name = "clear", .mutates = true},
    {.name = "pop", .mutates = true},
    {.name = "reverse", .mutates = true},
    {.name = "insert", .mutates = true},
    {.name = "sort", .mutates = true},
    {.name = "extend", .mutates = true},
    {.name = "remove", .mutates = true},
    {.name = NULL},
};

const struct builtin jinja_tuple_methods[] = {
    {.name = "index", .fixed = sequence_index, .parameters = "/value start stop", .required = 1},
    {.name = "count", .fixed = sequence_count, .parameters = "/value", .required = 1},
    {.name = NULL},
};

const struct builtin jinja_range_methods[] = {
    {.name = "index", .fixed = sequence_index, .parameters = "/value", .required = 1},
    {.name = "count", .fixed = sequence_count, .parameters = "/value", .required = 1},
    {.name = NULL},
};

const struct builtin jinja_cycler_methods[] = {
    {.name = "next", .fixed = cycler_next, .parameters = ""},
    {.name = "reset", .fixed = cycler_reset, .parameters = ""},
    {.name = NULL},
};
