/* jinja_lookup.c - what `a.b`, `a["b"]` and `a[1:2]` give: Python's attributes and items in Jinja's order, as the immutable
 * sandbox allows them. A method that would change its object, or a name with __, is there but fails when used. */
#include "text/jinja.h"

static struct value unsafe(struct jinja *j, struct value object, const struct string *name)
{
    struct builder b;
    jinja_builder_init(&b, j);
    jinja_put_text(&b, "access to attribute '");
    jinja_put_string(&b, name);
    jinja_put_text(&b, "' of '");
    jinja_put_text(&b, jinja_type_name(object));
    jinja_put_text(&b, "' object is unsafe");
    jinja_put_char(&b, '\0', 1);
    return jinja_undefined(j, b.data);
}

static const struct builtin *methods_of(struct value object)
{
    switch (object.kind) {
    case VALUE_STRING:
        return jinja_string_methods;
    case VALUE_DICT:
        return jinja_dict_methods;
    case VALUE_LIST:
        return jinja_list_methods;
    case VALUE_TUPLE:
        return jinja_tuple_methods;
    case VALUE_RANGE:
        return jinja_range_methods;
    case VALUE_CYCLER:
        return jinja_cycler_methods;
    case VALUE_LOOP:
        return jinja_loop_methods;
    default:
        return NULL;
    }
}

static struct value bind_method(struct jinja *j, struct value object, const struct builtin *builtin)
{
    struct method *method = jinja_alloc(j, sizeof *method);
    *method = (struct method){.self = object, .builtin = builtin};
    return (struct value){.kind = VALUE_METHOD, .method = method};
}

static struct value macro_attribute(struct jinja *j, const struct macro *macro, const struct string *name)
{
    const struct signature *s = macro->signature;
    if (jinja_string_is(name, "name")) return s->name ? jinja_of_string(s->name) : jinja_none();
    if (jinja_string_is(name, "catch_kwargs")) return jinja_bool(s->uses_kwargs);
    if (jinja_string_is(name, "catch_varargs")) return jinja_bool(s->uses_varargs);
    if (jinja_string_is(name, "caller")) return jinja_bool(s->uses_caller);
    if (!jinja_string_is(name, "arguments")) return (struct value){.kind = VALUE_ABSENT};
    struct list *list = jinja_list_new(j, 0);
    for (uint32_t i = 0; i < s->count; i++)
        jinja_list_put(j, list, jinja_of_string(j->template->names[s->parameters[i]]));
    return jinja_of_list(list, VALUE_TUPLE);
}

/* The Python attribute `name` of the object, VALUE_ABSENT when it has none. */
static struct value attribute(struct jinja *j, struct value object, const struct string *name)
{
    const struct value absent = {.kind = VALUE_ABSENT};
    const struct builtin *methods = methods_of(object), *method;
    if (object.kind == VALUE_NAMESPACE) {
        const struct value *found = jinja_dict_find(j, object.dict, name);
        if (found) return name->data[0] == '_' ? unsafe(j, object, name) : *found;
        return absent;
    }
    if (name->bytes > 4 && memcmp(name->data, "__", 2) == 0 && memcmp(name->data + name->bytes - 2, "__", 2) == 0)
        return unsafe(j, object, name);
    if (object.kind == VALUE_LOOP) {
        struct value found = jinja_loop_attribute(j, object.loop, name);
        if (found.kind != VALUE_ABSENT) return found;
    }
    if (object.kind == VALUE_MACRO) return macro_attribute(j, object.macro, name);
    if ((object.kind == VALUE_LIST || object.kind == VALUE_TUPLE) && object.list->group) {
        if (jinja_string_is(name, "grouper")) return object.list->items[0];
        if (jinja_string_is(name, "list")) return object.list->items[1];
    }
    if (object.kind == VALUE_CYCLER && jinja_string_is(name, "current"))
        return object.cycler->items->items[object.cycler->next];
    if (object.kind == VALUE_RANGE) {
        if (jinja_string_is(name, "start")) return jinja_int(object.range->start);
        if (jinja_string_is(name, "step")) return jinja_int(object.range->step);
        if (jinja_string_is(name, "stop")) return jinja_int(object.range->stop);
    }
    if (object.kind == VALUE_FUNCTION && strcmp(object.function->name, "dict") == 0 &&
        jinja_string_is(name, "fromkeys"))
        return bind_method(j, object, jinja_builtin_find(jinja_dict_methods, name));
    if (!methods || !(method = jinja_builtin_find(methods, name))) return absent;
    return method->mutates ? unsafe(j, object, name) : bind_method(j, object, method);
}

/* obj[key] in Python, VALUE_ABSENT where it raises TypeError or LookupError. */
static struct value item(struct jinja *j, struct value object, struct value key)
{
    const struct value absent = {.kind = VALUE_ABSENT};
    if (object.kind == VALUE_DICT) {
        const struct value *found = jinja_hashable(key) ? jinja_dict_get(j, object.dict, key) : NULL;
        return found ? *found : absent;
    }
    if ((key.kind != VALUE_INT && key.kind != VALUE_BOOL) || !jinja_has_length(object) || object.kind == VALUE_VIEW ||
        object.kind == VALUE_LOOP)
        return absent;
    int64_t count = jinja_length(j, object), at = key.kind == VALUE_INT ? key.integer : key.boolean;
    if (at < 0) at += count;
    if (at < 0 || at >= count) return absent;
    if (object.kind == VALUE_STRING) return jinja_string_slice(j, object.string, at, 1, 1);
    if (object.kind == VALUE_RANGE) return jinja_int(object.range->start + at * object.range->step);
    return object.list->items[at];
}

static const char *owner_name(struct jinja *j, struct value object)
{
    if (object.kind == VALUE_NONE) return "None";
    struct builder b;
    jinja_builder_init(&b, j);
    jinja_put_text(&b, jinja_type_name(object));
    jinja_put_text(&b, " object");
    jinja_put_char(&b, '\0', 1);
    return b.data;
}

struct value jinja_get_attribute(struct jinja *j, struct value object, const struct string *name)
{
    if (object.kind == VALUE_UNDEFINED) jinja_fail_undefined(j, object);
    struct value found = attribute(j, object, name);
    if (found.kind == VALUE_ABSENT) found = item(j, object, jinja_of_string(name));
    if (found.kind == VALUE_ABSENT) return jinja_undefined_name(j, owner_name(j, object), name);
    return found;
}

struct value jinja_get_item(struct jinja *j, struct value object, struct value key)
{
    if (object.kind == VALUE_UNDEFINED) jinja_fail_undefined(j, object);
    struct value found = item(j, object, key);
    if (found.kind == VALUE_ABSENT && key.kind == VALUE_STRING) found = attribute(j, object, key.string);
    if (found.kind == VALUE_ABSENT) return jinja_undefined_name(j, owner_name(j, object), jinja_to_string(j, key));
    return found;
}

/* ---- slices ---------------------------------------------------------------------------------------------------------------- */

static int64_t bound(struct jinja *j, struct value v, int64_t count, int64_t step, int64_t missing)
{
    if (v.kind == VALUE_ABSENT || v.kind == VALUE_NONE) return missing;
    int64_t at = jinja_to_int(j, v, "a slice's index"), low = step < 0 ? -1 : 0, high = step < 0 ? count - 1 : count;
    if (at < 0) at += count;
    return at < low ? low : at > high ? high : at;
}

struct value jinja_get_slice(struct jinja *j, struct value object, const struct value bounds[3])
{
    if (object.kind == VALUE_UNDEFINED) jinja_fail_undefined(j, object);
    if (object.kind != VALUE_STRING && object.kind != VALUE_LIST && object.kind != VALUE_TUPLE &&
        object.kind != VALUE_RANGE)
        jinja_fail(j, ST_INVALID, "'%s' object cannot be sliced", jinja_type_name(object));
    int64_t step = bounds[2].kind == VALUE_ABSENT || bounds[2].kind == VALUE_NONE
                       ? 1
                       : jinja_to_int(j, bounds[2], "a slice's step");
    int64_t length = jinja_length(j, object);
    if (step == 0) jinja_fail(j, ST_INVALID, "slice step cannot be zero");
    if (step < -INT32_MAX) step = -INT32_MAX;
    if (step > INT32_MAX) step = INT32_MAX;
    int64_t start = bound(j, bounds[0], length, step, step < 0 ? length - 1 : 0);
    int64_t stop = bound(j, bounds[1], length, step, step < 0 ? -1 : length);
    int64_t distance = step > 0 ? stop - start : start - stop, stride = step > 0 ? step : -step;
    int64_t count = distance > 0 ? (distance + stride - 1) / stride : 0;
    if (object.kind == VALUE_STRING) return jinja_string_slice(j, object.string, start, step, count);
    if (object.kind == VALUE_RANGE) {
        struct range *part = jinja_alloc(j, sizeof *part);
        const struct range *r = object.range;
        *part = (struct range){r->start + start * r->step, r->step * step, count, r->start + stop * r->step};
        return (struct value){.kind = VALUE_RANGE, .range = part};
    }
    struct list *list = jinja_list_new(j, (uint32_t)count);
    for (int64_t i = 0; i < count; i++) jinja_list_put(j, list, object.list->items[start + i * step]);
    return jinja_of_list(list, object.kind);
}

/* ---- paths ------------------------------------------------------------------------------------------------------------------- */

static struct value path_part(const struct string *part)
{
    int64_t index = 0;
    bool overflow, digits = part->bytes > 0;
    for (uint32_t i = 0; i < part->bytes; i++) digits = digits && part->data[i] >= '0' && part->data[i] <= '9';
    if (digits && jinja_parse_int(part, 10, &index, &overflow)) return jinja_int(index);
    return jinja_of_string(part);
}

struct value jinja_get_path(struct jinja *j, struct value object, struct value path, struct value fallback)
{
    if (path.kind == VALUE_ABSENT || path.kind == VALUE_NONE) return object;
    if (path.kind != VALUE_STRING) {
        object = jinja_get_item(j, object, path);
        return object.kind == VALUE_UNDEFINED && fallback.kind > VALUE_NONE ? fallback : object;
    }
    for (size_t begin = 0; begin <= path.string->bytes;) {
        const char *dot = memchr(path.string->data + begin, '.', path.string->bytes - begin);
        size_t end = dot ? (size_t)(dot - path.string->data) : path.string->bytes;
        object = jinja_get_item(j, object, path_part(jinja_string_part(j, path.string, begin, end)));
        if (object.kind == VALUE_UNDEFINED && fallback.kind > VALUE_NONE) object = fallback;
        jinja_charge(j, 1);
        begin = end + 1;
    }
    return object;
}
