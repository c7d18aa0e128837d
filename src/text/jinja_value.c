/* jinja_value.c - making values, Python's truth, equality, order and iteration over them, and values from JSON. */
#include "text/jinja.h"

/* ---- making -------------------------------------------------------------------------------------------------------------- */

struct value jinja_undefined(struct jinja *j, const char *hint)
{
    struct undefined *undefined = jinja_alloc(j, sizeof *undefined);
    undefined->hint = hint;
    return (struct value){.kind = VALUE_UNDEFINED, .undefined = undefined};
}

struct value jinja_undefined_name(struct jinja *j, const char *owner, const struct string *name)
{
    struct undefined *undefined = jinja_alloc(j, sizeof *undefined);
    undefined->owner = owner;
    undefined->name = name;
    return (struct value){.kind = VALUE_UNDEFINED, .undefined = undefined};
}

void jinja_fail_undefined(struct jinja *j, struct value v)
{
    const struct undefined *u = v.undefined;
    if (u->hint) jinja_fail(j, ST_INVALID, "%s", u->hint);
    int bytes = u->name->bytes < 100 ? (int)u->name->bytes : 100;
    if (!u->owner) jinja_fail(j, ST_INVALID, "'%.*s' is undefined", bytes, u->name->data);
    jinja_fail(j, ST_INVALID, "'%s' has no attribute '%.*s'", u->owner, bytes, u->name->data);
}

struct value jinja_none(void)
{
    return (struct value){.kind = VALUE_NONE};
}

struct value jinja_bool(bool boolean)
{
    return (struct value){.kind = VALUE_BOOL, .boolean = boolean};
}

struct value jinja_int(int64_t integer)
{
    return (struct value){.kind = VALUE_INT, .integer = integer};
}

struct value jinja_float(double real)
{
    return (struct value){.kind = VALUE_FLOAT, .real = real};
}

struct value jinja_of_string(const struct string *s)
{
    return (struct value){.kind = VALUE_STRING, .string = s};
}

struct value jinja_of_list(struct list *list, enum value_kind kind)
{
    return (struct value){.kind = kind, .list = list};
}

struct value jinja_of_dict(struct dict *dict)
{
    return (struct value){.kind = VALUE_DICT, .dict = dict};
}

struct list *jinja_list_new(struct jinja *j, uint32_t capacity)
{
    struct list *list = jinja_alloc(j, sizeof *list);
    if (capacity) list->items = jinja_array(j, capacity, sizeof *list->items);
    list->capacity = capacity;
    return list;
}

void jinja_list_put(struct jinja *j, struct list *list, struct value v)
{
    jinja_charge(j, 1);
    list->items = jinja_grow(j, list->items, list->count, &list->capacity, sizeof *list->items);
    list->items[list->count++] = v;
}

struct value jinja_pair(struct jinja *j, struct value a, struct value b)
{
    struct list *pair = jinja_list_new(j, 2);
    pair->items[0] = a;
    pair->items[1] = b;
    pair->count = 2;
    return jinja_of_list(pair, VALUE_TUPLE);
}

struct value jinja_iterator_of(struct jinja *j, struct list *items, const char *type)
{
    struct sequence *sequence = jinja_alloc(j, sizeof *sequence);
    *sequence = (struct sequence){.items = items, .type = type};
    return (struct value){.kind = VALUE_ITERATOR, .iterator = sequence};
}

const char *jinja_type_name(struct value v)
{
    static const char *const names[] = {
        [VALUE_ABSENT] = "absent",
        [VALUE_UNDEFINED] = "Undefined",
        [VALUE_NONE] = "NoneType",
        [VALUE_BOOL] = "bool",
        [VALUE_INT] = "int",
        [VALUE_FLOAT] = "float",
        [VALUE_STRING] = "str",
        [VALUE_LIST] = "list",
        [VALUE_TUPLE] = "tuple",
        [VALUE_DICT] = "dict",
        [VALUE_VIEW] = "dict_items",
        [VALUE_RANGE] = "range",
        [VALUE_ITERATOR] = "generator",
        [VALUE_NAMESPACE] = "Namespace",
        [VALUE_MACRO] = "Macro",
        [VALUE_METHOD] = "method",
        [VALUE_FUNCTION] = "function",
        [VALUE_LOOP] = "LoopContext",
        [VALUE_CYCLER] = "Cycler",
        [VALUE_JOINER] = "Joiner",
    };
    if (v.kind == VALUE_ITERATOR) return v.iterator->type;
    if (v.kind == VALUE_VIEW && v.view->kind != VIEW_ITEMS)
        return v.view->kind == VIEW_KEYS ? "dict_keys" : "dict_values";
    return names[v.kind];
}

/* ---- truth, equality, order ------------------------------------------------------------------------------------------------ */

bool jinja_truth(struct value v)
{
    switch (v.kind) {
    case VALUE_ABSENT:
    case VALUE_UNDEFINED:
    case VALUE_NONE:
        return false;
    case VALUE_BOOL:
        return v.boolean;
    case VALUE_INT:
        return v.integer != 0;
    case VALUE_FLOAT:
        return v.real != 0;
    case VALUE_STRING:
        return v.string->bytes != 0;
    case VALUE_LIST:
    case VALUE_TUPLE:
        return v.list->count != 0;
    case VALUE_DICT:
        return v.dict->count != 0;
    case VALUE_VIEW:
        return v.view->dict->count != 0;
    case VALUE_RANGE:
        return v.range->count != 0;
    default:
        return true;
    }
}

static int compare_numbers(struct value a, struct value b, bool *ordered)
{
    /* long double holds every int64 and every double exactly where it has 64 bits of mantissa */
    long double x = a.kind == VALUE_INT ? (long double)a.integer : (long double)jinja_real(a);
    long double y = b.kind == VALUE_INT ? (long double)b.integer : (long double)jinja_real(b);
    *ordered = x == x && y == y;
    return (x > y) - (x < y);
}

static bool equal_lists(struct jinja *j, const struct list *a, const struct list *b)
{
    if (a->count != b->count) return false;
    for (uint32_t i = 0; i < a->count; i++) {
        jinja_charge(j, 1);
        if (!jinja_equal(j, a->items[i], b->items[i])) return false;
    }
    return true;
}

static bool equal_dicts(struct jinja *j, const struct dict *a, const struct dict *b)
{
    if (a->count != b->count) return false;
    for (uint32_t i = 0; i < a->count; i++) {
        const struct value *other = jinja_dict_get(j, b, a->entries[i].key);
        jinja_charge(j, 1);
        if (!other || !jinja_equal(j, a->entries[i].value, *other)) return false;
    }
    return true;
}

static bool equal_ranges(const struct range *a, const struct range *b)
{
    if (a->count != b->count) return false;
    return a->count == 0 || (a->start == b->start && (a->count == 1 || a->step == b->step));
}

static bool equal_same_kind(struct jinja *j, struct value a, struct value b)
{
    switch (a.kind) {
    case VALUE_UNDEFINED:
    case VALUE_NONE:
        return true;
    case VALUE_STRING:
        if (a.string->bytes == b.string->bytes) jinja_charge(j, a.string->bytes / 256);
        return jinja_string_equal(a.string, b.string);
    case VALUE_LIST:
    case VALUE_TUPLE:
        return equal_lists(j, a.list, b.list);
    case VALUE_DICT:
        return equal_dicts(j, a.dict, b.dict);
    case VALUE_RANGE:
        return equal_ranges(a.range, b.range);
    case VALUE_METHOD:
        return a.method->builtin == b.method->builtin && a.method->self.dict == b.method->self.dict;
    case VALUE_VIEW:
        return a.view->kind == b.view->kind && a.view->kind != VIEW_VALUES &&
               equal_dicts(j, a.view->dict, b.view->dict);
    default:
        return a.macro == b.macro; /* by identity: every other kind is one pointer */
    }
}

bool jinja_equal(struct jinja *j, struct value a, struct value b)
{
    bool ordered = true;
    if (jinja_is_number(a) && jinja_is_number(b)) return compare_numbers(a, b, &ordered) == 0 && ordered;
    if (a.kind != b.kind) return false;
    jinja_enter(j);
    bool equal = equal_same_kind(j, a, b);
    jinja_leave(j);
    return equal;
}

static bool holds(enum operator operator, int order)
{
    switch (operator) {
    case OPERATOR_LT:
        return order < 0;
    case OPERATOR_LE:
        return order <= 0;
    case OPERATOR_GT:
        return order > 0;
    default:
        return order >= 0;
    }
}

static bool ordered_lists(struct jinja *j, enum operator operator, const struct list * a, const struct list *b)
{
    uint32_t i = 0;
    for (; i < a->count && i < b->count; i++) {
        jinja_charge(j, 1);
        if (jinja_equal(j, a->items[i], b->items[i])) continue;
        jinja_enter(j);
        bool result = jinja_ordered(j, operator, a->items[i], b->items[i]);
        jinja_leave(j);
        return result;
    }
    return holds(operator,(a->count > b->count) - (a->count < b->count));
}

bool jinja_ordered(struct jinja *j, enum operator operator, struct value a, struct value b)
{
    static const char *const spelling[] = {
        [OPERATOR_LT] = "<", [OPERATOR_LE] = "<=", [OPERATOR_GT] = ">", [OPERATOR_GE] = ">="};
    bool ordered = true;
    if (jinja_is_number(a) && jinja_is_number(b)) {
        int order = compare_numbers(a, b, &ordered);
        return ordered && holds(operator, order);
    }
    if (a.kind == VALUE_STRING && b.kind == VALUE_STRING)
        return holds(operator, jinja_string_compare(a.string, b.string));
    if (a.kind == b.kind && (a.kind == VALUE_LIST || a.kind == VALUE_TUPLE))
        return ordered_lists(j, operator, a.list, b.list);
    if (a.kind == VALUE_UNDEFINED) jinja_fail_undefined(j, a);
    if (b.kind == VALUE_UNDEFINED) jinja_fail_undefined(j, b);
    jinja_fail(j, ST_INVALID, "'%s' not supported between instances of '%s' and '%s'", spelling[operator], jinja_type_name(a),
               jinja_type_name(b));
}

bool jinja_contains(struct jinja *j, struct value container, struct value item)
{
    struct iterator it;
    struct value at;
    if (container.kind == VALUE_STRING) {
        if (item.kind != VALUE_STRING)
            jinja_fail(j, ST_INVALID, "'in <string>' requires string as left operand, not %s", jinja_type_name(item));
        return jinja_string_find(j, container.string, item.string, 0, container.string->bytes) != SIZE_MAX;
    }
    if (container.kind == VALUE_DICT || (container.kind == VALUE_VIEW && container.view->kind == VIEW_KEYS)) {
        if (!jinja_hashable(item)) jinja_fail(j, ST_INVALID, "unhashable type: '%s'", jinja_type_name(item));
        return jinja_dict_get(j, container.kind == VALUE_DICT ? container.dict : container.view->dict, item) != NULL;
    }
    if (!jinja_iterable(container))
        jinja_fail(j, ST_INVALID, "argument of type '%s' is not iterable", jinja_type_name(container));
    for (jinja_iterate(j, container, &it); jinja_next(j, &it, &at);)
        if (jinja_equal(j, at, item)) return true;
    return false;
}

/* ---- iteration ------------------------------------------------------------------------------------------------------------- */

bool jinja_has_length(struct value v)
{
    switch (v.kind) {
    case VALUE_UNDEFINED:
    case VALUE_STRING:
    case VALUE_LIST:
    case VALUE_TUPLE:
    case VALUE_DICT:
    case VALUE_VIEW:
    case VALUE_RANGE:
    case VALUE_LOOP:
        return true;
    default:
        return false;
    }
}

int64_t jinja_length(struct jinja *j, struct value v)
{
    static const struct string length = {.data = "length", .bytes = 6, .chars = 6};
    switch (v.kind) {
    case VALUE_UNDEFINED:
        return 0;
    case VALUE_STRING:
        return v.string->chars;
    case VALUE_LIST:
    case VALUE_TUPLE:
        return v.list->count;
    case VALUE_DICT:
        return v.dict->count;
    case VALUE_VIEW:
        return v.view->dict->count;
    case VALUE_RANGE:
        return v.range->count;
    case VALUE_LOOP:
        return jinja_loop_attribute(j, v.loop, &length).integer;
    default:
        jinja_fail(j, ST_INVALID, "object of type '%s' has no len()", jinja_type_name(v));
    }
}

bool jinja_iterable(struct value v)
{
    return (jinja_has_length(v) && v.kind != VALUE_LOOP) || v.kind == VALUE_ITERATOR;
}

void jinja_iterate(struct jinja *j, struct value source, struct iterator *it)
{
    if (!jinja_iterable(source)) jinja_fail(j, ST_INVALID, "'%s' object is not iterable", jinja_type_name(source));
    *it = (struct iterator){.source = source};
}

static struct value view_item(struct jinja *j, const struct view *view, uint32_t at)
{
    const struct dict_entry *entry = &view->dict->entries[at];
    if (view->kind == VIEW_KEYS) return entry->key;
    return view->kind == VIEW_VALUES ? entry->value : jinja_pair(j, entry->key, entry->value);
}

static bool next_char(struct jinja *j, struct iterator *it, struct value *out)
{
    const struct string *s = it->source.string;
    if (it->offset >= s->bytes) return false;
    size_t end = it->offset + 1;
    while (end < s->bytes && (s->data[end] & 0xC0) == 0x80) end++;
    const struct string *part = jinja_string_part(j, s, it->offset, end);
    *out = jinja_of_string(part->markup ? jinja_string_plain(j, part) : part); /* a character of Markup is none */
    it->offset = end;
    return true;
}

bool jinja_next(struct jinja *j, struct iterator *it, struct value *out)
{
    uint32_t at = it->at++;
    jinja_charge(j, 1);
    switch (it->source.kind) {
    case VALUE_LIST:
    case VALUE_TUPLE:
        if (at >= it->source.list->count) return false;
        *out = it->source.list->items[at];
        return true;
    case VALUE_STRING:
        return next_char(j, it, out);
    case VALUE_DICT:
        if (at >= it->source.dict->count) return false;
        *out = it->source.dict->entries[at].key;
        return true;
    case VALUE_VIEW:
        if (at >= it->source.view->dict->count) return false;
        *out = view_item(j, it->source.view, at);
        return true;
    case VALUE_RANGE:
        if (at >= it->source.range->count) return false;
        *out = jinja_int(it->source.range->start + (int64_t)at * it->source.range->step);
        return true;
    case VALUE_ITERATOR: {
        struct sequence *sequence = it->source.iterator;
        if (sequence->next >= sequence->items->count) return false;
        *out = sequence->items->items[sequence->next++];
        return true;
    }
    default:
        return false;
    }
}

struct list *jinja_to_list(struct jinja *j, struct value source)
{
    struct iterator it;
    struct value item;
    struct list *list = jinja_list_new(j, 0);
    for (jinja_iterate(j, source, &it); jinja_next(j, &it, &item);) jinja_list_put(j, list, item);
    return list;
}

int64_t jinja_to_int(struct jinja *j, struct value v, const char *what)
{
    if (v.kind == VALUE_INT) return v.integer;
    if (v.kind == VALUE_BOOL) return v.boolean;
    if (v.kind == VALUE_UNDEFINED) jinja_fail_undefined(j, v);
    jinja_fail(j, ST_INVALID, "%s must be an integer, not %s", what, jinja_type_name(v));
}

/* ---- JSON ------------------------------------------------------------------------------------------------------------------ */

static struct value object_from_json(struct jinja *j, const json_t *json, bool user)
{
    struct dict *dict = jinja_dict_new(j);
    json_t *object = (json_t *)json; /* jansson's iterators take no const; nothing is changed */
    for (void *at = json_object_iter(object); at; at = json_object_iter_next(object, at)) {
        const char *key = json_object_iter_key(at);
        const struct string *name = jinja_string_new(j, key, strlen(key), user);
        jinja_dict_set(j, dict, jinja_of_string(name), jinja_from_json(j, json_object_iter_value(at), user));
    }
    return jinja_of_dict(dict);
}

struct value jinja_from_json(struct jinja *j, const json_t *json, bool user)
{
    struct value v = jinja_none();
    jinja_enter(j);
    switch (json_typeof(json)) {
    case JSON_OBJECT:
        v = object_from_json(j, json, user);
        break;
    case JSON_ARRAY: {
        struct list *list = jinja_list_new(j, (uint32_t)json_array_size(json));
        for (size_t i = 0; i < json_array_size(json); i++)
            jinja_list_put(j, list, jinja_from_json(j, json_array_get(json, i), user));
        v = jinja_of_list(list, VALUE_LIST);
        break;
    }
    case JSON_STRING:
        v = jinja_of_string(jinja_string_new(j, json_string_value(json), json_string_length(json), user));
        break;
    case JSON_INTEGER:
        v = jinja_int(json_integer_value(json));
        break;
    case JSON_REAL:
        v = jinja_float(json_real_value(json));
        break;
    case JSON_TRUE:
    case JSON_FALSE:
        v = jinja_bool(json_is_true(json));
        break;
    case JSON_NULL:
        break;
    }
    jinja_leave(j);
    return v;
}
