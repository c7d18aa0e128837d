/* jinja_filter_list.c - Jinja's filters over sequences and mappings. What Python makes lazily is made at once here and given out
 * as an iterator, which can be read once. Sorting is a stable merge sort, paid for by comparison. */
#include "text/jinja.h"

static const struct value absent = {.kind = VALUE_ABSENT};

static struct value generator(struct jinja *j, struct list *list)
{
    return jinja_iterator_of(j, list, "generator");
}

static struct value ignore_case(struct jinja *j, struct value v)
{
    struct call none = {0};
    static const struct string lower = {.data = "lower", .bytes = 5, .chars = 5};
    return v.kind == VALUE_STRING ? jinja_call_builtin(j, jinja_builtin_find(jinja_string_methods, &lower), v, &none)
                                  : v;
}

/* ---- sorting --------------------------------------------------------------------------------------------------------------------- */

struct sorted {
    struct value key, item;
};

struct order {
    bool reverse;
    bool as_lists; /* keys compare as lists of one do: equal ones need no order */
};

static bool goes_before(struct jinja *j, const struct sorted *a, const struct sorted *b, const struct order *order)
{
    jinja_charge(j, 1);
    if (order->as_lists && jinja_equal(j, a->key, b->key)) return false;
    return order->reverse ? jinja_ordered(j, OPERATOR_LT, b->key, a->key)
                          : jinja_ordered(j, OPERATOR_LT, a->key, b->key);
}

static void merge_sort(struct jinja *j, struct sorted *rows, struct sorted *spare, uint32_t count,
                       const struct order *order)
{
    if (count < 2) return;
    uint32_t half = count / 2, a = 0, b = half;
    merge_sort(j, rows, spare, half, order);
    merge_sort(j, rows + half, spare, count - half, order);
    for (uint32_t i = 0; i < count; i++) {
        bool second = a == half || (b < count && goes_before(j, &rows[b], &rows[a], order));
        spare[i] = second ? rows[b++] : rows[a++];
    }
    memcpy(rows, spare, count * sizeof *rows);
}

static struct list *sort_by(struct jinja *j, struct list *items, const struct value *keys, struct order order)
{
    struct sorted *rows = jinja_array(j, items->count + 1, sizeof *rows),
                  *spare = jinja_array(j, items->count + 1, sizeof *spare);
    for (uint32_t i = 0; i < items->count; i++) rows[i] = (struct sorted){keys[i], items->items[i]};
    merge_sort(j, rows, spare, items->count, &order);
    struct list *list = jinja_list_new(j, items->count);
    for (uint32_t i = 0; i < items->count; i++) jinja_list_put(j, list, rows[i].item);
    return list;
}

/* The sort key of one item: several attributes with commas make a list, as in Jinja. */
static struct value key_of(struct jinja *j, struct value item, struct value attribute, bool several, bool exact)
{
    if (!several || attribute.kind != VALUE_STRING || !memchr(attribute.string->data, ',', attribute.string->bytes)) {
        struct value key = jinja_get_path(j, item, attribute, absent);
        return exact ? key : ignore_case(j, key);
    }
    struct list *keys = jinja_list_new(j, 0);
    for (size_t begin = 0; begin <= attribute.string->bytes;) {
        const char *comma = memchr(attribute.string->data + begin, ',', attribute.string->bytes - begin);
        size_t end = comma ? (size_t)(comma - attribute.string->data) : attribute.string->bytes;
        struct value path = jinja_of_string(jinja_string_part(j, attribute.string, begin, end));
        struct value key = jinja_get_path(j, item, path, absent);
        jinja_list_put(j, keys, exact ? key : ignore_case(j, key));
        begin = end + 1;
    }
    return jinja_of_list(keys, VALUE_LIST);
}

static struct value *keys_of(struct jinja *j, const struct list *items, struct value attribute, bool several,
                             bool exact)
{
    struct value *keys = jinja_array(j, items->count + 1, sizeof *keys);
    for (uint32_t i = 0; i < items->count; i++) keys[i] = key_of(j, items->items[i], attribute, several, exact);
    return keys;
}

static struct value filter_sort(struct jinja *j, struct value self, const struct value *arguments)
{
    struct list *items = jinja_to_list(j, self);
    const struct value *keys = keys_of(j, items, arguments[2], true, jinja_truth(arguments[1]));
    return jinja_of_list(sort_by(j, items, keys, (struct order){jinja_truth(arguments[0]), true}), VALUE_LIST);
}

static struct list *dict_items(struct jinja *j, struct value self)
{
    struct view view = {.dict = self.dict, .kind = VIEW_ITEMS};
    if (self.kind == VALUE_UNDEFINED) jinja_fail_undefined(j, self);
    if (self.kind != VALUE_DICT) jinja_fail(j, ST_INVALID, "'%s' is not a mapping", jinja_type_name(self));
    return jinja_to_list(j, (struct value){.kind = VALUE_VIEW, .view = &view});
}

static struct value filter_dictsort(struct jinja *j, struct value self, const struct value *arguments)
{
    struct list *items = dict_items(j, self);
    const struct string *by = arguments[1].kind == VALUE_ABSENT ? NULL : jinja_to_string(j, arguments[1]);
    if (by && !jinja_string_is(by, "key") && !jinja_string_is(by, "value"))
        jinja_fail(j, ST_INVALID, "you can only sort by either \"key\" or \"value\"");
    struct value at = jinja_int(by && jinja_string_is(by, "value"));
    const struct value *keys = keys_of(j, items, at, false, jinja_truth(arguments[0]));
    return jinja_of_list(sort_by(j, items, keys, (struct order){jinja_truth(arguments[2]), false}), VALUE_LIST);
}

static struct value filter_unique(struct jinja *j, struct value self, const struct value *arguments)
{
    struct list *items = jinja_to_list(j, self), *list = jinja_list_new(j, 0);
    struct dict *seen = jinja_dict_new(j);
    for (uint32_t i = 0; i < items->count; i++) {
        struct value key = key_of(j, items->items[i], arguments[1], false, jinja_truth(arguments[0]));
        if (!jinja_hashable(key)) jinja_fail(j, ST_INVALID, "unhashable type: '%s'", jinja_type_name(key));
        if (jinja_dict_get(j, seen, key)) continue;
        jinja_dict_set(j, seen, key, jinja_none());
        jinja_list_put(j, list, items->items[i]);
    }
    return generator(j, list);
}

static struct value extreme(struct jinja *j, struct value self, const struct value *arguments, enum operator operator)
{
    struct list *items = jinja_to_list(j, self);
    if (items->count == 0) return jinja_undefined(j, "no aggregated item, sequence was empty");
    const struct value *keys = keys_of(j, items, arguments[1], false, jinja_truth(arguments[0]));
    uint32_t best = 0;
    for (uint32_t i = 1; i < items->count; i++)
        if (jinja_ordered(j, operator, keys[i], keys[best])) best = i;
    return items->items[best];
}

static struct value filter_min(struct jinja *j, struct value self, const struct value *arguments)
{
    return extreme(j, self, arguments, OPERATOR_LT);
}

static struct value filter_max(struct jinja *j, struct value self, const struct value *arguments)
{
    return extreme(j, self, arguments, OPERATOR_GT);
}

static struct value filter_groupby(struct jinja *j, struct value self, const struct value *arguments)
{
    struct list *items = jinja_to_list(j, self), *groups = jinja_list_new(j, 0), *group = NULL;
    bool exact = jinja_truth(arguments[2]);
    struct value *keys = jinja_array(j, items->count + 1, sizeof *keys), last = absent;
    for (uint32_t i = 0; i < items->count; i++) {
        keys[i] = jinja_get_path(j, items->items[i], arguments[0], arguments[1]);
        if (!exact) keys[i] = ignore_case(j, keys[i]);
    }
    items = sort_by(j, items, keys, (struct order){false, false});
    for (uint32_t i = 0; i < items->count; i++) {
        struct value name = jinja_get_path(j, items->items[i], arguments[0], arguments[1]);
        struct value key = exact ? name : ignore_case(j, name);
        if (!group || !jinja_equal(j, key, last)) {
            group = jinja_list_new(j, 0);
            struct value pair = jinja_pair(j, name, jinja_of_list(group, VALUE_LIST));
            pair.list->group = true;
            jinja_list_put(j, groups, pair);
        }
        jinja_list_put(j, group, items->items[i]);
        last = key;
    }
    return jinja_of_list(groups, VALUE_LIST);
}

/* ---- choosing ---------------------------------------------------------------------------------------------------------------------- */

static struct call rest_of(const struct call *call, uint32_t from)
{
    struct call rest = *call;
    rest.positional = call->positional ? call->positional + from : NULL;
    rest.count = call->count - from;
    return rest;
}

static struct value filter_map(struct jinja *j, struct value self, const struct call *call)
{
    struct list *list = jinja_list_new(j, 0);
    struct value path = absent, fallback = absent, item;
    const struct builtin *filter = NULL;
    struct iterator it;
    struct call rest = {0};
    if (!jinja_truth(self)) return generator(j, list);
    for (uint32_t i = 0; call->count == 0 && i < call->named_count; i++) {
        if (jinja_string_is(call->named[i].name, "attribute"))
            path = call->named[i].value;
        else if (jinja_string_is(call->named[i].name, "default"))
            fallback = call->named[i].value;
        else
            jinja_fail(j, ST_INVALID, "map: unexpected keyword argument");
    }
    if (path.kind == VALUE_ABSENT) {
        if (call->count == 0) jinja_fail(j, ST_INVALID, "map requires a filter argument");
        const struct string *name = jinja_to_string(j, call->positional[0]);
        filter = jinja_filter_find(name);
        if (!filter)
            jinja_fail(j, ST_INVALID, "no filter named '%.*s'", name->bytes < 60 ? (int)name->bytes : 60, name->data);
        rest = rest_of(call, 1);
    }
    for (jinja_iterate(j, self, &it); jinja_next(j, &it, &item);)
        jinja_list_put(j, list,
                       filter ? jinja_call_builtin(j, filter, item, &rest) : jinja_get_path(j, item, path, fallback));
    return generator(j, list);
}

static struct value choose(struct jinja *j, struct value self, const struct call *call, bool by_attribute, bool wanted)
{
    struct list *list = jinja_list_new(j, 0);
    const struct builtin *test = NULL;
    struct iterator it;
    struct value item;
    struct call rest = {0};
    uint32_t from = by_attribute;
    if (!jinja_truth(self)) return generator(j, list);
    if (call->count < from) jinja_fail(j, ST_INVALID, "missing parameter for attribute name");
    if (call->count > from) {
        const struct string *name = jinja_to_string(j, call->positional[from]);
        test = jinja_builtin_find(jinja_tests, name);
        if (!test)
            jinja_fail(j, ST_INVALID, "no test named '%.*s'", name->bytes < 60 ? (int)name->bytes : 60, name->data);
        rest = rest_of(call, from + 1);
    }
    for (jinja_iterate(j, self, &it); jinja_next(j, &it, &item);) {
        struct value v = by_attribute ? jinja_get_path(j, item, call->positional[0], absent) : item;
        if (jinja_truth(test ? jinja_call_builtin(j, test, v, &rest) : v) == wanted) jinja_list_put(j, list, item);
    }
    return generator(j, list);
}

static struct value filter_select(struct jinja *j, struct value self, const struct call *call)
{
    return choose(j, self, call, false, true);
}

static struct value filter_reject(struct jinja *j, struct value self, const struct call *call)
{
    return choose(j, self, call, false, false);
}

static struct value filter_selectattr(struct jinja *j, struct value self, const struct call *call)
{
    return choose(j, self, call, true, true);
}

static struct value filter_rejectattr(struct jinja *j, struct value self, const struct call *call)
{
    return choose(j, self, call, true, false);
}

static struct value filter_default(struct jinja *j, struct value self, const struct value *arguments)
{
    bool missing = self.kind == VALUE_UNDEFINED || (jinja_truth(arguments[1]) && !jinja_truth(self));
    if (!missing) return self;
    return arguments[0].kind == VALUE_ABSENT ? jinja_text(j, "") : arguments[0];
}

static struct value filter_attr(struct jinja *j, struct value self, const struct value *arguments)
{
    const struct string *name = jinja_to_string(j, arguments[0]);
    if (self.kind == VALUE_DICT && !jinja_builtin_find(jinja_dict_methods, name))
        return jinja_undefined_name(j, "dict object", name);
    return jinja_get_attribute(j, self, name);
}

/* ---- sequences ---------------------------------------------------------------------------------------------------------------------- */

static struct value filter_length(struct jinja *j, struct value self, const struct value *arguments)
{
    (void)arguments;
    return jinja_int(jinja_length(j, self));
}

static struct value filter_list(struct jinja *j, struct value self, const struct value *arguments)
{
    (void)arguments;
    return jinja_of_list(jinja_to_list(j, self), VALUE_LIST);
}

static struct value filter_items(struct jinja *j, struct value self, const struct value *arguments)
{
    (void)arguments;
    if (self.kind == VALUE_UNDEFINED) return generator(j, jinja_list_new(j, 0));
    if (self.kind != VALUE_DICT) jinja_fail(j, ST_INVALID, "can only get item pairs from a mapping");
    return generator(j, dict_items(j, self));
}

static struct value filter_first(struct jinja *j, struct value self, const struct value *arguments)
{
    struct iterator it;
    struct value item;
    (void)arguments;
    jinja_iterate(j, self, &it);
    return jinja_next(j, &it, &item) ? item : jinja_undefined(j, "no first item, sequence was empty");
}

static struct value filter_last(struct jinja *j, struct value self, const struct value *arguments)
{
    (void)arguments;
    if (self.kind == VALUE_ITERATOR) jinja_fail(j, ST_INVALID, "'%s' object is not reversible", jinja_type_name(self));
    if (self.kind == VALUE_STRING && self.string->chars)
        return jinja_string_slice(j, self.string, self.string->chars - 1, 1, 1);
    struct list *list = jinja_to_list(j, self);
    return list->count ? list->items[list->count - 1] : jinja_undefined(j, "no last item, sequence was empty");
}

static struct value filter_reverse(struct jinja *j, struct value self, const struct value *arguments)
{
    (void)arguments;
    if (self.kind == VALUE_STRING)
        return jinja_string_slice(j, self.string, (int64_t)self.string->chars - 1, -1, self.string->chars);
    struct list *items = jinja_to_list(j, self), *list = jinja_list_new(j, items->count);
    for (uint32_t i = items->count; i > 0; i--) jinja_list_put(j, list, items->items[i - 1]);
    if (self.kind == VALUE_ITERATOR) return jinja_of_list(list, VALUE_LIST);
    return jinja_iterator_of(j, list, self.kind == VALUE_LIST ? "list_reverseiterator" : "reversed");
}

static struct value filter_sum(struct jinja *j, struct value self, const struct value *arguments)
{
    struct iterator it;
    struct value item, sum = arguments[1].kind == VALUE_ABSENT ? jinja_int(0) : arguments[1];
    if (sum.kind == VALUE_STRING) jinja_fail(j, ST_INVALID, "sum() can't sum strings");
    for (jinja_iterate(j, self, &it); jinja_next(j, &it, &item);)
        sum = jinja_arithmetic(j, OPERATOR_ADD, sum, jinja_get_path(j, item, arguments[0], absent));
    return sum;
}

static struct value filter_batch(struct jinja *j, struct value self, const struct value *arguments)
{
    int64_t size = jinja_to_int(j, arguments[0], "linecount");
    struct list *batches = jinja_list_new(j, 0), *batch = jinja_list_new(j, 0);
    struct iterator it;
    struct value item;
    for (jinja_iterate(j, self, &it); jinja_next(j, &it, &item);) {
        if (batch->count == size) {
            jinja_list_put(j, batches, jinja_of_list(batch, VALUE_LIST));
            batch = jinja_list_new(j, 0);
        }
        jinja_list_put(j, batch, item);
    }
    if (batch->count == 0) return generator(j, batches);
    bool fills = arguments[1].kind != VALUE_ABSENT && arguments[1].kind != VALUE_NONE;
    while (fills && batch->count < size) jinja_list_put(j, batch, arguments[1]);
    jinja_list_put(j, batches, jinja_of_list(batch, VALUE_LIST));
    return generator(j, batches);
}

static struct value filter_slice(struct jinja *j, struct value self, const struct value *arguments)
{
    int64_t slices = jinja_to_int(j, arguments[0], "slices"), offset = 0;
    struct list *items = jinja_to_list(j, self), *list = jinja_list_new(j, 0);
    if (slices == 0) jinja_fail(j, ST_INVALID, "integer division or modulo by zero");
    if (slices < 0) return generator(j, list);
    int64_t each = items->count / slices, longer = items->count % slices;
    bool fills = arguments[1].kind != VALUE_ABSENT && arguments[1].kind != VALUE_NONE;
    for (int64_t i = 0; i < slices; i++) {
        struct list *part = jinja_list_new(j, 0);
        int64_t begin = offset + i * each, end = begin + each + (i < longer);
        offset += i < longer;
        for (int64_t k = begin; k < end; k++) jinja_list_put(j, part, items->items[k]);
        if (fills && i >= longer) jinja_list_put(j, part, arguments[1]);
        jinja_list_put(j, list, jinja_of_list(part, VALUE_LIST));
    }
    return generator(j, list);
}

const struct builtin jinja_list_filters[] = {
    {.name = "length", .fixed = filter_length, .parameters = ""},
    {.name = "count", .fixed = filter_length, .parameters = ""},
    {.name = "default", .fixed = filter_default, .parameters = "default_value boolean"},
    {.name = "d", .fixed = filter_default, .parameters = "default_value boolean"},
    {.name = "selectattr", .variadic = filter_selectattr},
    {.name = "rejectattr", .variadic = filter_rejectattr},
    {.name = "select", .variadic = filter_select},
    {.name = "reject", .variadic = filter_reject},
    {.name = "map", .variadic = filter_map},
    {.name = "list", .fixed = filter_list, .parameters = ""},
    {.name = "items", .fixed = filter_items, .parameters = ""},
    {.name = "first", .fixed = filter_first, .parameters = ""},
    {.name = "last", .fixed = filter_last, .parameters = ""},
    {.name = "reverse", .fixed = filter_reverse, .parameters = ""},
    {.name = "sort", .fixed = filter_sort, .parameters = "reverse case_sensitive attribute"},
    {.name = "dictsort", .fixed = filter_dictsort, .parameters = "case_sensitive by reverse"},
    {.name = "unique", .fixed = filter_unique, .parameters = "case_sensitive attribute"},
    {.name = "min", .fixed = filter_min, .parameters = "case_sensitive attribute"},
    {.name = "max", .fixed = filter_max, .parameters = "case_sensitive attribute"},
    {.name = "sum", .fixed = filter_sum, .parameters = "attribute start"},
    {.name = "groupby", .fixed = filter_groupby, .parameters = "attribute default case_sensitive", .required = 1},
    {.name = "batch", .fixed = filter_batch, .parameters = "linecount fill_with", .required = 1},
    {.name = "slice", .fixed = filter_slice, .parameters = "slices fill_with", .required = 1},
    {.name = "attr", .fixed = filter_attr, .parameters = "name", .required = 1},
    {.name = NULL},
};
