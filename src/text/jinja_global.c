/* jinja_global.c - the functions that every template finds: those of Jinja and the two of transformers. */
#include "text/jinja.h"
#include <time.h>

static struct value global_raise(struct jinja *j, struct value self, const struct value *arguments)
{
    (void)self;
    jinja_raise(j, jinja_to_string(j, arguments[0]));
}

static struct value global_range(struct jinja *j, struct value self, const struct value *arguments)
{
    (void)self;
    bool single = arguments[1].kind == VALUE_ABSENT;
    int64_t start = single ? 0 : jinja_to_int(j, arguments[0], "range()");
    int64_t stop = jinja_to_int(j, arguments[single ? 0 : 1], "range()");
    int64_t step = arguments[2].kind == VALUE_ABSENT ? 1 : jinja_to_int(j, arguments[2], "range()");
    if (step == 0) jinja_fail(j, ST_INVALID, "range() arg 3 must not be zero");
    long double distance = step > 0 ? (long double)stop - start : (long double)start - stop;
    long double stride = step > 0 ? (long double)step : -(long double)step;
    long double count = distance > 0 ? distance / stride : 0;
    if (count > JINJA_RANGE_MAX)
        jinja_fail(j, ST_LIMIT, "range too big: the sandbox blocks ranges of more than %d items", JINJA_RANGE_MAX);
    struct range *range = jinja_alloc(j, sizeof *range);
    *range = (struct range){start, step, (int64_t)count + (count > (int64_t)count), stop};
    return (struct value){.kind = VALUE_RANGE, .range = range};
}

static struct dict *dict_of_call(struct jinja *j, const struct call *call)
{
    struct dict *dict = jinja_dict_new(j);
    if (call->count > 1) jinja_fail(j, ST_INVALID, "dict expected at most 1 argument, got %u", call->count);
    if (call->count) jinja_dict_update(j, dict, call->positional[0]);
    for (uint32_t i = 0; i < call->named_count; i++)
        jinja_dict_set(j, dict, jinja_of_string(call->named[i].name), call->named[i].value);
    return dict;
}

static struct value global_dict(struct jinja *j, struct value self, const struct call *call)
{
    (void)self;
    return jinja_of_dict(dict_of_call(j, call));
}

static struct value global_namespace(struct jinja *j, struct value self, const struct call *call)
{
    struct dict *dict = dict_of_call(j, call);
    (void)self;
    for (uint32_t i = 0; i < dict->count; i++) {
        struct value key = dict->entries[i].key;
        if (key.kind == VALUE_STRING && key.string->bytes && key.string->data[0] == '_')
            jinja_fail(j, ST_INVALID, "a namespace cannot store attributes that begin with '_'");
    }
    return (struct value){.kind = VALUE_NAMESPACE, .dict = dict};
}

static struct value global_cycler(struct jinja *j, struct value self, const struct call *call)
{
    (void)self;
    struct list *items = jinja_list_new(j, 0);
    if (call->count == 0) jinja_fail(j, ST_INVALID, "at least one item has to be provided");
    for (uint32_t i = 0; i < call->count; i++) jinja_list_put(j, items, call->positional[i]);
    struct cycler *cycler = jinja_alloc(j, sizeof *cycler);
    cycler->items = items;
    return (struct value){.kind = VALUE_CYCLER, .cycler = cycler};
}

static struct value global_joiner(struct jinja *j, struct value self, const struct value *arguments)
{
    (void)self;
    struct joiner *joiner = jinja_alloc(j, sizeof *joiner);
    joiner->separator = arguments[0].kind == VALUE_ABSENT ? jinja_text(j, ", ") : arguments[0];
    return (struct value){.kind = VALUE_JOINER, .joiner = joiner};
}

static struct value global_strftime_now(struct jinja *j, struct value self, const struct value *arguments)
{
    (void)self;
    char format[256], text[1024];
    struct tm now;
    time_t seconds = time(NULL);
    if (arguments[0].kind != VALUE_STRING || arguments[0].string->bytes >= sizeof format)
        jinja_fail(j, ST_INVALID, "strftime_now() needs a format of less than %zu bytes", sizeof format);
    memcpy(format, arguments[0].string->data, arguments[0].string->bytes);
    format[arguments[0].string->bytes] = '\0';
    localtime_r(&seconds, &now);
    struct builder b;
    jinja_builder_init(&b, j);
    b.user = arguments[0].string->span_count > 0;
    jinja_put(&b, text, strftime(text, sizeof text, format, &now));
    return jinja_built(&b);
}

const struct builtin jinja_globals[] = {
    {.name = "raise_exception", .fixed = global_raise, .parameters = "message", .required = 1},
    {.name = "strftime_now", .fixed = global_strftime_now, .parameters = "format", .required = 1},
    {.name = "range", .fixed = global_range, .parameters = "/start stop step", .required = 1},
    {.name = "dict", .variadic = global_dict},
    {.name = "namespace", .variadic = global_namespace},
    {.name = "cycler", .variadic = global_cycler},
    {.name = "joiner", .fixed = global_joiner, .parameters = "sep"},
    {.name = NULL},
};
