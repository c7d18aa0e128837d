/* tool_parser.c - finds the calls of tools in an answer's text, whatever the pieces it comes in.
 *
 *              the opening mark, or a bare "{"        "{"             its "}"
 *   CONTENT ───────────────────────────────▶ OPENED ──────▶ OBJECT ──────────▶ AFTER ──▶ OPENED, for one more
 *      ▲                                       │              │                  │
 *      └─── all that was held is content ──────┴── not JSON ──┘                  └──▶ CONTENT
 *
 * Every byte is looked at a bounded number of times: what turned out to be no call is given out up to the byte that said so,
 * and never searched again. The object is only followed by its depth and its strings; whether it is JSON is asked of jansson
 * once, at its end. */
#include "server/tools.h"
#include <string.h>

#define HELD_BYTES_MAX (8u << 20)
#define SPACE_BYTES_MAX 256 /* white space before a call that may be its own; before more of it there is content */

struct tool_format {
    const char *name, *open, *close;
    const char *arguments; /* the key */
    char separator;        /* between two calls, or 0 */
    struct tool_marks demanded;
};
static const struct tool_format FORMATS[] = {
    {"hermes", "<tool_call>", "</tool_call>", "arguments", 0, {"<tool_call>\n", "\n</tool_call>", "\n"}},
    {"llama3_json", "<|python_tag|>", "", "parameters", ';', {"", "", "; "}}, /* control tokens are not to be had */
};

enum state { CONTENT, OPENED, OBJECT, AFTER, DONE };

struct span {
    size_t begin, end; /* of held; end 0: not seen yet */
};

struct tool_parser {
    const struct tool_format *format;
    const json_t *tools;
    bool eager, one_call;
    bool begun; /* there was content: a bare object is none any more */
    enum state state;
    struct buffer held; /* given out neither as content nor as a call */
    size_t at;          /* how far it was looked at */
    size_t given;       /* as content, so far */
    /* Of the object that is followed. */
    size_t object;
    int depth;
    bool in_string, escaped;
    bool in_value;                   /* at depth 1, after the colon */
    struct span text;                /* the last string at depth 1, without its quotes */
    struct span key, name, argument; /* at depth 1; argument: the object, with its braces */
    bool in_argument, announced;
    size_t taken; /* of held, that is in the call's arguments already */
    bool failed;
    struct tool_call *calls;
    uint32_t count;
};

/* ---- formats ----------------------------------------------------------------------------------------------------------- */

const struct tool_format *tool_format_find(const char *name)
{
    for (size_t i = 0; i < ARRAY_COUNT(FORMATS); i++)
        if (strcmp(FORMATS[i].name, name) == 0) return &FORMATS[i];
    return NULL;
}

const char *tool_format_arguments(const struct tool_format *format)
{
    return format->arguments;
}

const struct tool_marks *tool_format_marks(const struct tool_format *format)
{
    return &format->demanded;
}

const struct tool_format *tool_format_of_template(const char *template)
{
    /* The first that is found says it. <function= is Qwen 3 Coder's, in XML: not among the formats. */
    static const struct {
        const char *text, *format;
    } SIGNS[] = {{"<function=", ""},
                 {"<tool_call>", "hermes"},
                 {"<|python_tag|>", "llama3_json"},
                 {"\"parameters\":", "llama3_json"}};
    for (size_t i = 0; template && i < ARRAY_COUNT(SIGNS); i++)
        if (strstr(template, SIGNS[i].text)) return tool_format_find(SIGNS[i].format);
    return NULL;
}

/* ---- life --------------------------------------------------------------------------------------------------------------- */

struct tool_parser *tool_parser_open(const struct tool_format *format, const json_t *tools, bool eager, bool one_call)
{
    struct tool_parser *parser = mem_zero(1, sizeof *parser);
    if (!parser) return NULL;
    *parser = (struct tool_parser){.format = format, .tools = tools, .eager = eager, .one_call = one_call};
    buffer_init(&parser->held, HELD_BYTES_MAX);
    return parser;
}

static void call_release(struct tool_call *call)
{
    buffer_release(&call->name);
    buffer_release(&call->arguments);
}

void tool_parser_close(struct tool_parser *parser)
{
    if (!parser) return;
    for (uint32_t i = 0; i < parser->count; i++) call_release(&parser->calls[i]);
    mem_free(parser->calls);
    buffer_release(&parser->held);
    mem_free(parser);
}

bool tool_parser_failed(const struct tool_parser *parser)
{
    bool failed = parser->failed || parser->held.failed;
    for (uint32_t i = 0; i < parser->count; i++)
        failed |= parser->calls[i].name.failed || parser->calls[i].arguments.failed;
    return failed;
}

bool tool_parser_done(const struct tool_parser *parser)
{
    return parser->state == DONE;
}

uint32_t tool_parser_count(const struct tool_parser *parser)
{
    return parser->count;
}

struct tool_call *tool_parser_call(struct tool_parser *parser, uint32_t index)
{
    return &parser->calls[index];
}

/* ---- what is held --------------------------------------------------------------------------------------------------------- */

static bool is_space(char c)
{
    return c == ' ' || c == '\n' || c == '\t' || c == '\r';
}

static void drop(struct tool_parser *parser, size_t bytes)
{
    if (!bytes) return;
    memmove(parser->held.data, parser->held.data + bytes, parser->held.length - bytes);
    parser->held.length -= bytes;
    parser->at = parser->at > bytes ? parser->at - bytes : 0;
}

/* Its first bytes are content. */
static void give(struct tool_parser *parser, size_t bytes, struct buffer *content)
{
    buffer_append(content, parser->held.data, bytes);
    parser->given += bytes;
    for (size_t i = 0; i < bytes && !parser->begun; i++) parser->begun = !is_space(parser->held.data[i]);
    drop(parser, bytes);
}

/* All up to here is no call. What an announced one has taken was given out as its arguments. */
static void give_up(struct tool_parser *parser, size_t bytes, struct buffer *content)
{
    if (parser->announced) {
        drop(parser, parser->taken);
        bytes -= parser->taken;
    }
    parser->announced = false;
    parser->begun = true;
    give(parser, bytes, content);
    parser->state = CONTENT;
    parser->at = 0;
}

/* How much of `mark` stands at `text`: all, or as far as the text goes; 0: it is something else. */
static size_t match(const char *text, size_t bytes, const char *mark)
{
    size_t length = strlen(mark), common = bytes < length ? bytes : length;
    return memcmp(text, mark, common) == 0 ? common : 0;
}

/* ---- calls ---------------------------------------------------------------------------------------------------------------- */

static struct tool_call *add_call(struct tool_parser *parser, const char *name)
{
    struct tool_call *calls = mem_resize(parser->calls, (parser->count + 1) * sizeof *calls);
    if (!calls) {
        parser->failed = true;
        return NULL;
    }
    parser->calls = calls;
    struct tool_call *call = &calls[parser->count++];
    *call = (struct tool_call){.content = parser->given};
    buffer_init(&call->name, 0);
    buffer_init(&call->arguments, 0);
    buffer_text(&call->name, name);
    return call;
}

/* Once name and arguments have begun an eager parser says so. */
static void announce(struct tool_parser *parser, size_t end)
{
    if (!parser->eager || !parser->argument.begin || !parser->name.end || parser->count >= CALLS_MAX) return;
    if (!parser->announced) {
        char name[128];
        size_t bytes = parser->name.end - parser->name.begin;
        if (bytes >= sizeof name) return;
        memcpy(name, parser->held.data + parser->name.begin, bytes);
        name[bytes] = '\0';
        if (!tools_have(parser->tools, name) || !add_call(parser, name)) return;
        parser->announced = true;
        parser->taken = parser->argument.begin;
    }
    if (parser->argument.end) end = parser->argument.end;
    if (end <= parser->taken) return;
    buffer_append(&parser->calls[parser->count - 1].arguments, parser->held.data + parser->taken, end - parser->taken);
    parser->taken = end;
}

/* The object is whole: is it a call? */
static bool conclude(struct tool_parser *parser)
{
    const char *text = parser->held.data;
    json_t *json = json_loadb(text + parser->object, parser->at - parser->object, JSON_REJECT_DUPLICATES, NULL);
    const char *name = json_string_value(json_object_get(json, "name"));
    bool right = name && json_is_object(json_object_get(json, parser->format->arguments)) &&
                 tools_have(parser->tools, name) && parser->argument.end;
    if (right && !parser->announced) {
        struct tool_call *call = parser->count < CALLS_MAX ? add_call(parser, name) : NULL;
        right = call != NULL;
        if (call)
            buffer_append(&call->arguments, text + parser->argument.begin,
                          parser->argument.end - parser->argument.begin);
    }
    json_decref(json);
    return right;
}

/* ---- the object ------------------------------------------------------------------------------------------------------------ */

static void begin_object(struct tool_parser *parser)
{
    parser->state = OBJECT;
    parser->object = parser->at;
    parser->depth = 0;
    parser->in_string = parser->escaped = parser->in_value = parser->in_argument = parser->announced = false;
    parser->text = parser->key = parser->name = parser->argument = (struct span){0};
    parser->taken = 0;
}

static bool key_is(const struct tool_parser *parser, const char *name)
{
    size_t bytes = parser->key.end - parser->key.begin;
    return parser->key.end && bytes == strlen(name) && memcmp(parser->held.data + parser->key.begin, name, bytes) == 0;
}

/* A value at depth 1 has ended before `at`. */
static void end_value(struct tool_parser *parser)
{
    if (parser->in_value && key_is(parser, "name") && parser->text.begin > parser->key.end) parser->name = parser->text;
    parser->in_value = parser->in_argument = false;
}

static void open_bracket(struct tool_parser *parser, char c)
{
    if (parser->depth == 1 && parser->in_value && c == '{' && key_is(parser, parser->format->arguments)) {
        parser->argument = (struct span){parser->at, 0};
        parser->in_argument = true;
    }
    parser->depth++;
}

static void close_bracket(struct tool_parser *parser)
{
    parser->depth--;
    if (parser->depth == 1 && parser->in_argument) parser->argument.end = parser->at + 1;
    if (parser->depth == 0) end_value(parser);
}

static void string_byte(struct tool_parser *parser, char c)
{
    if (parser->escaped) {
        parser->escaped = false;
    } else if (c == '\\') {
        parser->escaped = true;
    } else if (c == '"') {
        parser->in_string = false;
        if (parser->depth == 1) parser->text.end = parser->at;
    }
}

/* False: no JSON has this byte here. */
static bool object_byte(struct tool_parser *parser, char c)
{
    if ((unsigned char)c < ' ' && (parser->in_string || !is_space(c))) return false;
    if (parser->in_string) {
        string_byte(parser, c);
        return true;
    }
    if (c == '"') {
        parser->in_string = true;
        if (parser->depth == 1) parser->text = (struct span){parser->at + 1, 0};
    } else if (c == '{' || c == '[') {
        open_bracket(parser, c);
    } else if (c == '}' || c == ']') {
        close_bracket(parser);
    } else if (parser->depth == 1 && c == ':') {
        parser->key = parser->text;
        parser->in_value = true;
    } else if (parser->depth == 1 && c == ',') {
        end_value(parser);
    } else {
        return is_space(c) || strchr(",:+-.eE0123456789truefalsn", c);
    }
    return true;
}

/* ---- the states: each returns false when it needs more text ------------------------------------------------------------------- */

static bool in_content(struct tool_parser *parser, struct buffer *content)
{
    const char *text = parser->held.data;
    size_t length = parser->held.length, kept = 0, space = 0; /* space: that ends at i, counted to a limit */
    for (size_t i = 0; i < length; i++) {
        size_t mark = match(text + i, length - i, parser->format->open);
        bool bare = !parser->begun && text[i] == '{';
        if (mark == strlen(parser->format->open) || bare) {
            give(parser, i - space, content);
            parser->at = space + (bare ? 0 : mark);
            parser->state = OPENED;
            return true;
        }
        if (mark) {
            kept = length - i + space;
            break;
        }
        space = is_space(text[i]) ? space + (space < SPACE_BYTES_MAX) : 0;
        if (!space) parser->begun = true;
    }
    give(parser, length - (kept ? kept : space), content);
    return false;
}

static bool in_opened(struct tool_parser *parser, struct buffer *content)
{
    while (parser->at < parser->held.length && is_space(parser->held.data[parser->at])) parser->at++;
    if (parser->at == parser->held.length) return false;
    if (parser->held.data[parser->at] == '{')
        begin_object(parser);
    else
        give_up(parser, parser->at, content);
    return true;
}

static bool in_object(struct tool_parser *parser, struct buffer *content)
{
    while (parser->at < parser->held.length) {
        if (!object_byte(parser, parser->held.data[parser->at])) {
            give_up(parser, parser->at, content);
            return true;
        }
        parser->at++;
        if (parser->depth) continue;
        announce(parser, parser->at);
        if (conclude(parser)) {
            drop(parser, parser->at);
            parser->announced = false;
            parser->state = parser->one_call ? DONE : AFTER;
        } else {
            give_up(parser, parser->at, content);
        }
        return true;
    }
    announce(parser, parser->in_argument ? parser->at : 0);
    return false;
}

static bool in_after(struct tool_parser *parser)
{
    const char *text = parser->held.data, *close = parser->format->close;
    size_t length = parser->held.length, i = 0;
    while (i < length && (is_space(text[i]) || text[i] == parser->format->separator)) i++;
    drop(parser, i);
    length -= i;
    if (!length) return false;
    size_t mark = match(text, length, close);
    if (mark && mark < strlen(close)) return false;
    drop(parser, mark);
    if (mark) return true;
    parser->at = 0;
    parser->state = text[0] == '{' ? OPENED : CONTENT;
    return true;
}

static bool advance(struct tool_parser *parser, struct buffer *content)
{
    switch (parser->state) {
    case CONTENT:
        return in_content(parser, content);
    case OPENED:
        return in_opened(parser, content);
    case OBJECT:
        return in_object(parser, content);
    case AFTER:
        return in_after(parser);
    case DONE:
        drop(parser, parser->held.length);
    }
    return false;
}

void tool_parser_put(struct tool_parser *parser, const char *text, size_t bytes, struct buffer *content)
{
    buffer_append(&parser->held, text, bytes);
    while (parser->held.length && !parser->held.failed && advance(parser, content)) continue;
}

void tool_parser_finish(struct tool_parser *parser, struct buffer *content)
{
    if (parser->state == CONTENT || parser->state == OPENED || parser->state == OBJECT)
        give_up(parser, parser->held.length, content);
    parser->state = DONE;
    drop(parser, parser->held.length);
}
