/* fuzz_tool_parser.c - any text of an answer, in any pieces, in each format of calls. The first byte chooses the format, the next eight
 * the lengths of the pieces, in turn.
 *
 * Whatever the pieces: the same content and the same calls. A call is one that was offered, with arguments that are a JSON object.
 * Eager or not, whole calls are the same as long as none breaks. */
#include "server/tools.h"
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define LENGTHS 8
#define NAMES "[{\"function\":{\"name\":\"f\"}},{\"function\":{\"name\":\"get_weather\"}}]"

struct result {
    struct buffer content;
    struct tool_parser *parser;
};

static struct result parse(const struct tool_format *format, const json_t *tools, bool eager, const uint8_t *lengths,
                           const char *text, size_t bytes)
{
    struct result result = {.parser = tool_parser_open(format, tools, eager, false)};
    ASSERT(result.parser);
    buffer_init(&result.content, 0);
    for (size_t at = 0, i = 0; at < bytes; i++) {
        size_t length = lengths ? (size_t)lengths[i % LENGTHS] + 1 : bytes;
        if (length > bytes - at) length = bytes - at;
        tool_parser_put(result.parser, text + at, length, &result.content);
        at += length;
    }
    tool_parser_finish(result.parser, &result.content);
    ASSERT(!tool_parser_failed(result.parser) && !result.content.failed);
    return result;
}

static void release(struct result *result)
{
    tool_parser_close(result->parser);
    buffer_release(&result->content);
}

static bool same(const struct buffer *a, const struct buffer *b)
{
    return a->length == b->length && (!a->length || memcmp(a->data, b->data, a->length) == 0);
}

static void check_calls(struct tool_parser *parser, const json_t *tools)
{
    ASSERT(tool_parser_count(parser) <= CALLS_MAX);
    for (uint32_t i = 0; i < tool_parser_count(parser); i++) {
        const struct tool_call *call = tool_parser_call(parser, i);
        ASSERT(tools_have(tools, call->name.data));
        json_t *json = json_loadb(call->arguments.data, call->arguments.length, 0, NULL);
        ASSERT(json_is_object(json));
        json_decref(json);
    }
}

static void check_same(const struct result *a, const struct result *b)
{
    ASSERT(same(&a->content, &b->content) && tool_parser_count(a->parser) == tool_parser_count(b->parser));
    for (uint32_t i = 0; i < tool_parser_count(a->parser); i++) {
        const struct tool_call *call = tool_parser_call(a->parser, i), *other = tool_parser_call(b->parser, i);
        ASSERT(same(&call->name, &other->name) && same(&call->arguments, &other->arguments));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1 + LENGTHS) return 0;
    const struct tool_format *format = tool_format_find(data[0] & 1 ? "hermes" : "llama3_json");
    const char *text = (const char *)data + 1 + LENGTHS;
    size_t bytes = size - 1 - LENGTHS;
    json_t *tools = json_loads(NAMES, 0, NULL);
    struct result whole = parse(format, tools, false, NULL, text, bytes);
    struct result pieces = parse(format, tools, false, data + 1, text, bytes);
    struct result eager = parse(format, tools, true, data + 1, text, bytes);
    check_calls(whole.parser, tools);
    check_same(&whole, &pieces);
    ASSERT(tool_parser_count(eager.parser) >= tool_parser_count(whole.parser));
    release(&whole);
    release(&pieces);
    release(&eager);
    json_decref(tools);
    return 0;
}
