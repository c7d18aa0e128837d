/* jinja_call.c - calls: Python's rules for positional and named arguments, for builtins and for macros. */
#include "text/jinja.h"

const struct builtin *jinja_builtin_find(const struct builtin *table, const struct string *name)
{
    for (; table->name; table++)
        if (table->name[0] == (name->bytes ? name->data[0] : 0) && jinja_string_is(name, table->name)) return table;
    return NULL;
}

const struct builtin *jinja_filter_find(const struct string *name)
{
    const struct builtin *found = jinja_builtin_find(jinja_text_filters, name);
    return found ? found : jinja_builtin_find(jinja_list_filters, name);
}

/* Index of `name` in "a b c", or -1. */
static int parameter_index(const char *parameters, const struct string *name)
{
    int index = 0;
    for (const char *at = parameters; *at; index++) {
        size_t bytes = strcspn(at, " ");
        if (bytes == name->bytes && memcmp(at, name->data, bytes) == 0) return index;
        at += bytes + (at[bytes] == ' ');
    }
    return -1;
}

static uint32_t parameter_count(const char *parameters)
{
    uint32_t count = *parameters != '\0';
    for (const char *at = parameters; *at; at++) count += *at == ' ';
    return count;
}

static struct value call_fixed(struct jinja *j, const struct builtin *builtin, struct value self,
                               const struct call *call)
{
    struct value arguments[BUILTIN_PARAMETERS_MAX];
    bool positional = builtin->parameters[0] == '/';
    const char *parameters = builtin->parameters + positional;
    uint32_t count = parameter_count(parameters);
    memset(arguments, 0, sizeof arguments);
    if (call->count > count)
        jinja_fail(j, ST_INVALID, "%s() takes at most %u arguments, %u given", builtin->name, count, call->count);
    for (uint32_t i = 0; i < call->count; i++) arguments[i] = call->positional[i];
    for (uint32_t i = 0; i < call->named_count; i++) {
        const struct string *name = call->named[i].name;
        int at = positional ? -1 : parameter_index(parameters, name);
        int bytes = name->bytes < 100 ? (int)name->bytes : 100;
        if (at < 0)
            jinja_fail(j, ST_INVALID, "%s() got an unexpected argument '%.*s'", builtin->name, bytes, name->data);
        if (arguments[at].kind != VALUE_ABSENT)
            jinja_fail(j, ST_INVALID, "%s() got several values for '%.*s'", builtin->name, bytes, name->data);
        arguments[at] = call->named[i].value;
    }
    for (uint32_t i = 0; i < builtin->required; i++)
        if (arguments[i].kind == VALUE_ABSENT)
            jinja_fail(j, ST_INVALID, "%s() needs at least %u arguments", builtin->name, builtin->required);
    return builtin->fixed(j, self, arguments);
}

struct value jinja_call_builtin(struct jinja *j, const struct builtin *builtin, struct value self,
                                const struct call *call)
{
    jinja_charge(j, 1 + call->count + call->named_count);
    jinja_enter(j);
    struct value result = builtin->variadic ? builtin->variadic(j, self, call) : call_fixed(j, builtin, self, call);
    jinja_leave(j);
    return result;
}

/* ---- macros ------------------------------------------------------------------------------------------------------------------ */

static void check_macro_call(struct jinja *j, const struct signature *s, const struct call *call, uint32_t used,
                             bool has_caller)
{
    int bytes = s->name && s->name->bytes < 100 ? (int)s->name->bytes : 6;
    const char *name = s->name ? s->name->data : "caller";
    if (!s->uses_varargs && call->count > s->count)
        jinja_fail(j, ST_INVALID, "macro '%.*s' takes not more than %u arguments", bytes, name, s->count);
    if (!s->uses_kwargs && used + (has_caller && s->uses_caller) < call->named_count)
        jinja_fail(j, ST_INVALID, "macro '%.*s' takes no such keyword argument", bytes, name);
}

static struct value extra_arguments(struct jinja *j, const struct signature *s, const struct call *call)
{
    struct list *extra = jinja_list_new(j, 0);
    for (uint32_t i = s->count; i < call->count; i++) jinja_list_put(j, extra, call->positional[i]);
    return jinja_of_list(extra, VALUE_TUPLE);
}

/* Binds the parameters; those that were not given get their default, evaluated in the macro's own scope. */
static void bind_parameters(struct jinja *j, const struct signature *s, const struct call *call, struct frame *frame,
                            bool *taken)
{
    for (uint32_t i = 0; i < s->count; i++) {
        struct value v = {.kind = VALUE_ABSENT};
        if (i < call->count) v = call->positional[i];
        for (uint32_t k = 0; k < call->named_count && v.kind == VALUE_ABSENT; k++) {
            if (taken[k] || !jinja_string_equal(call->named[k].name, j->template->names[s->parameters[i]])) continue;
            v = call->named[k].value;
            taken[k] = true;
        }
        jinja_charge(j, 1 + call->named_count);
        if (v.kind == VALUE_ABSENT && s->defaults[i]) v = jinja_eval(j, s->defaults[i], frame);
        if (v.kind == VALUE_ABSENT) v = jinja_undefined(j, "a parameter was not provided");
        jinja_frame_set(j, frame, s->parameters[i], v);
    }
}

struct value jinja_call_macro(struct jinja *j, const struct macro *macro, const struct call *call)
{
    const struct signature *s = macro->signature;
    struct frame *frame = jinja_frame_new(j, macro->frame);
    bool *taken = jinja_alloc(j, call->named_count + 1);
    struct dict *named = jinja_dict_new(j);
    struct value caller = {.kind = VALUE_ABSENT};
    uint32_t used = 0;
    jinja_enter(j);
    bind_parameters(j, s, call, frame, taken);
    for (uint32_t i = 0; i < call->named_count; i++) {
        used += taken[i];
        if (taken[i]) continue;
        if (jinja_string_is(call->named[i].name, "caller") && s->uses_caller)
            caller = call->named[i].value;
        else
            jinja_dict_set(j, named, jinja_of_string(call->named[i].name), call->named[i].value);
    }
    check_macro_call(j, s, call, used, caller.kind != VALUE_ABSENT);
    if (s->uses_caller && !s->explicit_caller)
        jinja_frame_set(j, frame, j->template->name_caller,
                        caller.kind == VALUE_ABSENT ? jinja_undefined(j, "no caller defined") : caller);
    if (s->uses_kwargs) jinja_frame_set(j, frame, j->template->name_kwargs, jinja_of_dict(named));
    if (s->uses_varargs) jinja_frame_set(j, frame, j->template->name_varargs, extra_arguments(j, s, call));
    struct value text = jinja_capture(j, macro->body, frame);
    jinja_leave(j);
    return text;
}

/* ---- any value ---------------------------------------------------------------------------------------------------------------- */

static struct value call_joiner(struct joiner *joiner, struct jinja *j)
{
    if (joiner->used) return joiner->separator;
    joiner->used = true;
    return jinja_text(j, "");
}

struct value jinja_call_value(struct jinja *j, struct value callee, const struct call *call)
{
    switch (callee.kind) {
    case VALUE_MACRO:
        return jinja_call_macro(j, callee.macro, call);
    case VALUE_METHOD:
        return jinja_call_builtin(j, callee.method->builtin, callee.method->self, call);
    case VALUE_FUNCTION:
        return jinja_call_builtin(j, callee.function, callee, call);
    case VALUE_JOINER:
        return call_joiner(callee.joiner, j);
    case VALUE_LOOP:
        if (call->count != 1 || call->named_count) jinja_fail(j, ST_INVALID, "loop() takes one argument");
        return jinja_loop_recurse(j, callee.loop, call->positional[0]);
    case VALUE_UNDEFINED:
        jinja_fail_undefined(j, callee);
    default:
        jinja_fail(j, ST_INVALID, "'%s' object is not callable", jinja_type_name(callee));
    }
}
