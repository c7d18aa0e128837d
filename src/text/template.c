/* template.c - the outward face of chat templates: compile once, render many times. Holds the bounds and the one setjmp of the
 * interpreter (jinja.h). Nothing is global: threads may render one compiled template at once. */
#include "text/jinja.h"

/* Bounds. Published templates take some 200 steps a message and nest less than 60 deep; a million steps are about 100 ms. */
#define SOURCE_BYTES_MAX (1u << 20)
#define COMPILE_DEPTH_MAX 400
#define COMPILE_STEPS_MAX 1000000   /* some 250,000 lexemes: the largest published template has 4,000 */
#define OUTPUT_BYTES_MIN (4u << 20) /* beyond it, the output may be OUTPUT_PER_INPUT as long as the input */
#define OUTPUT_PER_INPUT 4
#define BYTES_PER_STEP_OF_INPUT 4 /* a long conversation earns steps */

const struct template_limits TEMPLATE_LIMITS_DEFAULT = {.steps = 1000000, .bytes = OUTPUT_BYTES_MIN, .depth = 1000};

/* ---- compile ---------------------------------------------------------------------------------------------------------------------- */

static bool is_utf8(const char *text, size_t bytes)
{
    uint32_t code, step;
    for (size_t at = 0; at < bytes; at += step)
        if ((step = utf8_decode(text + at, bytes - at, &code, NULL)) == 0) return false;
    return true;
}

/* \r\n and \r become \n; one newline at the end is dropped, as Jinja does. */
static char *normalise(struct arena *arena, const char *source, size_t bytes, uint32_t *out_bytes)
{
    char *out = arena_alloc(arena, bytes + 1);
    uint32_t count = 0;
    if (!out) return NULL;
    for (size_t i = 0; i < bytes; i++) {
        if (source[i] == '\n' && i > 0 && source[i - 1] == '\r') continue;
        out[count++] = source[i] == '\r' ? '\n' : source[i];
    }
    if (count && out[count - 1] == '\n') count--;
    out[count] = '\0';
    *out_bytes = count;
    return out;
}

enum status template_compile(const char *source, size_t bytes, struct template **out, struct error *error)
{
    struct jinja j = {
        .error = error, .steps_max = COMPILE_STEPS_MAX, .bytes_max = SOURCE_BYTES_MAX, .depth_max = COMPILE_DEPTH_MAX};
    *out = NULL;
    if (bytes > SOURCE_BYTES_MAX)
        return error_set(error, ST_LIMIT, "template: %zu bytes, at most %u", bytes, SOURCE_BYTES_MAX);
    if (!is_utf8(source, bytes)) return error_set(error, ST_INVALID, "template: not UTF-8");
    struct template *t = mem_zero(1, sizeof *t);
    if (!t) return error_set(error, ST_NOMEM, "no memory for the template");
    arena_init(&t->arena);
    j.arena = &t->arena;
    j.template = t;
    t->source = normalise(&t->arena, source, bytes, &t->source_bytes);
    if (!t->source) {
        template_release(t);
        return error_set(error, ST_NOMEM, "no memory for the template");
    }
    if (setjmp(j.escape)) {
        template_release(t);
        return j.status;
    }
    jinja_parse(&j, t);
    *out = t;
    return ST_OK;
}

void template_release(struct template *template)
{
    if (!template) return;
    arena_release(&template->arena);
    mem_free(template);
}

/* ---- render ----------------------------------------------------------------------------------------------------------------------- */

/* Bytes of all texts, and a few for every value: what the bounds grow with. */
static uint64_t input_bytes(const json_t *json, unsigned depth)
{
    uint64_t bytes = 8;
    if (depth == 0) return 0;
    if (json_is_string(json)) bytes += json_string_length(json);
    for (size_t i = 0; json_is_array(json) && i < json_array_size(json); i++)
        bytes += input_bytes(json_array_get(json, i), depth - 1);
    for (void *at = json_object_iter((json_t *)json); at; at = json_object_iter_next((json_t *)json, at))
        bytes += strlen(json_object_iter_key(at)) + input_bytes(json_object_iter_value(at), depth - 1);
    return bytes;
}

static bool is_users(const struct string *name)
{
    return jinja_string_is(name, "messages") || jinja_string_is(name, "tools") || jinja_string_is(name, "documents");
}

static void set_globals(struct jinja *j, json_t *variables)
{
    const struct template *t = j->template;
    j->globals = jinja_array(j, t->name_count, sizeof *j->globals);
    for (uint32_t i = 0; i < t->name_count; i++) {
        const struct string *name = t->names[i];
        const json_t *variable = json_object_getn(variables, name->data, name->bytes);
        const struct builtin *function = variable ? NULL : jinja_builtin_find(jinja_globals, name);
        if (variable)
            j->globals[i] = jinja_from_json(j, variable, is_users(name));
        else if (function)
            j->globals[i] = (struct value){.kind = VALUE_FUNCTION, .function = function};
    }
    j->steps = 0; /* what the input costs is not the template's doing */
}

static enum status take_output(const struct builder *b, struct template_rendering *out, struct error *error)
{
    buffer_append(&out->text, b->data ? b->data : "", b->bytes);
    out->user = mem_alloc(b->span_count * sizeof *out->user);
    if (out->text.failed || !out->user) {
        template_rendering_release(out);
        return error_set(error, ST_NOMEM, "no memory for the rendered template");
    }
    if (b->span_count) memcpy(out->user, b->spans, b->span_count * sizeof *out->user);
    out->user_count = b->span_count;
    return ST_OK;
}

enum status template_render(const struct template *template, json_t *variables, const struct template_limits *limits,
                            struct template_rendering *out, struct error *error)
{
    struct arena arena;
    struct builder output;
    memset(out, 0, sizeof *out);
    buffer_init(&out->text, 0);
    if (!json_is_object(variables)) return error_set(error, ST_INVALID, "template: the variables are not an object");
    if (!limits) limits = &TEMPLATE_LIMITS_DEFAULT;
    uint64_t input = input_bytes(variables, limits->depth), bytes_max = limits->bytes;
    if (input > bytes_max / OUTPUT_PER_INPUT) bytes_max = input * OUTPUT_PER_INPUT;
    if (bytes_max > INT32_MAX) bytes_max = INT32_MAX;
    struct jinja j = {.error = error,
                      .depth_max = limits->depth,
                      .bytes_max = bytes_max,
                      .template = template,
                      .arena = &arena,
                      .renders = true};
    j.steps_max = limits->steps + input / BYTES_PER_STEP_OF_INPUT;
    arena_init(&arena);
    if (setjmp(j.escape)) {
        arena_release(&arena);
        return j.status;
    }
    set_globals(&j, variables);
    jinja_builder_init(&output, &j);
    j.output = &output;
    struct frame *frame = jinja_frame_new(&j, NULL);
    for (const struct node *s = template->body; s; s = s->next) jinja_run(&j, s, frame);
    enum status status = take_output(&output, out, error);
    arena_release(&arena);
    return status;
}

void template_rendering_release(struct template_rendering *rendering)
{
    buffer_release(&rendering->text);
    mem_free(rendering->user);
    memset(rendering, 0, sizeof *rendering);
}
