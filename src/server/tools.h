/* tools.h - functions that a model may call: what a request says of them (tools.c), and the calls in an answer's text
 * (tool_parser.c). No sockets, no model.
 *
 * A model writes a call as its chat template taught it, and a format is a row of a table:
 *   hermes       <tool_call>{"name": "f", "arguments": {…}}</tool_call>, any number, after any text (Hermes 2 Pro, Qwen 2.5, Qwen 3)
 *   llama3_json  <|python_tag|>{"name": "f", "parameters": {…}}, several separated by ";" (Llama 3.1 and later)
 * An answer that begins with such an object needs no mark: Llama 3 often writes none, nor do small models. */
#ifndef SERVER_TOOLS_H
#define SERVER_TOOLS_H
#include "base/base.h"
#include <jansson.h>

#define TOOLS_MAX 128u
#define CALLS_MAX 128u /* in one answer: what follows stays text */

struct refusal;
/* Is `tools` an array of {"type": "function", "function": {"name", …}}? */
MUST_CHECK bool tools_check(const json_t *tools, struct refusal *refusal);
bool tools_have(const json_t *tools, const char *name);

struct tool_format;
/* A JSON Schema of an object that calls one of them, or the one that is called `name` (NULL: any): {"name", ARGUMENTS}, where the
 * arguments satisfy the function's parameters; or of what satisfies the schema `answer`, where that is not NULL. jansson's text,
 * to be given to free(); NULL: no memory. */
char *tools_schema(const json_t *tools, const char *name, const struct tool_format *format, const json_t *answer);
/* The text of KVASIR_JSON_CALLS, whose schema it is: calls as the format writes them, at most `most`. Likewise. */
char *tools_calls(const json_t *tools, const char *name, const struct tool_format *format, unsigned most);
/* By name; NULL: there is no such format, as for "none". */
const struct tool_format *tool_format_find(const char *name);
const char *tool_format_arguments(const struct tool_format *format); /* the key that a call's arguments have */
/* What stands before a call, after it, and between two, where calls have to be made. */
struct tool_marks {
    const char *open, *close, *between;
};
const struct tool_marks *tool_format_marks(const struct tool_format *format);
/* The one that a chat template teaches, or NULL. */
const struct tool_format *tool_format_of_template(const char *template);

struct tool_call {
    struct buffer name, arguments; /* arguments: JSON text of an object, as the model wrote it */
    size_t content;                /* bytes of it that came before the call */
    size_t sent;                   /* of the arguments; for who streams them */
    bool announced;                /* its name was sent */
};

/* Text of an answer in, in any pieces; content and calls out. What only looks like a call (JSON that is broken, a function that
 * was not offered) stays text. `eager`: a call appears as soon as its name and the first brace of its arguments were read, and
 * its arguments grow; should it turn out to be broken later, it stays as it is, and the rest is text. */
struct tool_parser;
struct tool_parser *
tool_parser_open(const struct tool_format *format, const json_t *tools, bool eager,
                 bool one_call); /* `tools` is borrowed; one_call: what follows the first is dropped */
void tool_parser_close(struct tool_parser *parser); /* NULL is allowed */
void tool_parser_put(struct tool_parser *parser, const char *text, size_t bytes, struct buffer *content);
void tool_parser_finish(struct tool_parser *parser, struct buffer *content); /* no more will come */
bool tool_parser_done(const struct tool_parser *parser);   /* nothing that comes is looked at any more */
bool tool_parser_failed(const struct tool_parser *parser); /* there was no memory */
uint32_t tool_parser_count(const struct tool_parser *parser);
struct tool_call *tool_parser_call(struct tool_parser *parser, uint32_t index);

#endif
