/* fuzz_stream.c - tokens of any bytes as a stream of server-sent events, of each API that streams text: through the detokenizer, the
 * search for a stop text and the parser of calls, as the engine and the server do it.
 *
 * The input is read as: a byte for the API and the format of calls; one for the end and the length of the stop text; eight lengths of
 * pieces, in turn; the stop text; the bytes, a token each. Whatever they are: the stream is valid UTF-8 without a control character, each
 * "data:" is one line of JSON, and where no calls are looked for the joined deltas are the text, broken characters replaced. */
#include "../gguf_writer.h"
#include "engine/stop.h"
#include "format/format_internal.h"
#include "server/reply.h"
#include "text/tokenizer_internal.h"
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define LENGTHS 8
#define TOKENS_MAX 256u /* a piece may be one token, and is read back as JSON */
#define TOOLS "[{\"function\":{\"name\":\"f\"}},{\"function\":{\"name\":\"get_weather\"}}]"

struct input {
    const struct api *api;
    const struct tool_format *format; /* NULL: no calls */
    bool cut, usage;                  /* it ends by its length; usage in every chunk */
    const uint8_t *lengths, *tokens;
    size_t count;
    char stop[16]; /* "": none */
};

static bool is_text(const char *text, size_t bytes, uint32_t lowest)
{
    for (size_t at = 0; at < bytes;) {
        uint32_t code = 0, length = utf8_decode(text + at, bytes - at, &code, NULL);
        if (!length || (code < lowest && code != '\n')) return false;
        at += length;
    }
    return true;
}

static bool read_input(const uint8_t *data, size_t size, struct input *out)
{
    static const struct api *const APIS[] = {&CHAT, &COMPLETIONS, &RESPONSES};
    static const char *const FORMATS[] = {"hermes", "llama3_json"};
    if (size < 2 + LENGTHS) return false;
    size_t stop = data[1] >> 4, at = 2 + LENGTHS;
    if (stop > size - at) stop = size - at;
    *out = (struct input){.api = APIS[data[0] % 3], .cut = data[1] & 1, .usage = data[1] & 2, .lengths = data + 2};
    if (out->api != &COMPLETIONS && data[0] / 3 % 3) out->format = tool_format_find(FORMATS[data[0] / 3 % 3 - 1]);
    /* A request's stop texts are JSON's: whole characters. */
    if (is_text((const char *)data + at, stop, 1)) memcpy(out->stop, data + at, stop);
    out->tokens = data + at + stop;
    out->count = size - at - stop < TOKENS_MAX ? size - at - stop : TOKENS_MAX;
    return true;
}

/* Of 256 tokens, each a byte. */
static const struct tokenizer *byte_tokenizer(void)
{
    static struct tokenizer *tokenizer;
    struct buffer file;
    struct format *format = NULL;
    if (tokenizer) return tokenizer;
    buffer_init(&file, 0);
    gguf_header(&file, 3, 0, 5);
    gguf_key_text(&file, "general.architecture", "llama");
    gguf_key_text(&file, "tokenizer.ggml.model", "gpt2");
    gguf_key_text(&file, "tokenizer.ggml.pre", "llama-bpe");
    gguf_key_array(&file, "tokenizer.ggml.merges", GGUF_TEXT, 0);
    gguf_key_array(&file, "tokenizer.ggml.tokens", GGUF_TEXT, 256);
    for (unsigned byte = 0; byte < 256; byte++) {
        char text[8];
        gguf_text_bytes(&file, text, utf8_encode(byte_alphabet_encode((unsigned char)byte), text));
    }
    ASSERT(format_open_bytes(FORMAT_GGUF, file.data, file.length, true, &format, NULL) == ST_OK);
    ASSERT(tokenizer_open(format, &tokenizer, NULL) == ST_OK);
    format_close(format);
    buffer_release(&file);
    return tokenizer;
}

/* ---- the way of the tokens ---------------------------------------------------------------------------------------------- */

struct way {
    struct detokenizer detokenizer;
    struct stopper stopper;
};

static void open_way(const struct input *input, struct way *way)
{
    const char *const stop = input->stop;
    detokenizer_init(&way->detokenizer, byte_tokenizer(), false);
    ASSERT(stopper_init(&way->stopper, &stop, *stop != 0, NULL) == ST_OK);
}

/* The next tokens; with the last ones also what was held back. */
static void put_tokens(const struct input *input, struct way *way, size_t begin, size_t end, struct buffer *out)
{
    struct buffer text;
    buffer_init(&text, 0);
    for (size_t i = begin; i < end; i++)
        detokenizer_put(&way->detokenizer, byte_tokenizer()->byte_ids[input->tokens[i]], &text);
    if (end == input->count) detokenizer_finish(&way->detokenizer, &text);
    stopper_put(&way->stopper, text.data ? text.data : "", text.length, out);
    if (end == input->count) stopper_finish(&way->stopper, out);
    buffer_release(&text);
}

static void write_update(struct choice *choice, const struct buffer *text, enum kvasir_finish finish,
                         struct buffer *out)
{
    const struct framing *framing = choice->reply->api->framing;
    const struct kvasir_event event = {
        .text = text->data ? text->data : "", .text_bytes = text->length, .finish = finish};
    choice->finish = finish;
    framing->take(choice, &event);
    ASSERT(!framing->failed(choice));
    framing->piece(choice, out);
    if (finish != KVASIR_RUNNING) framing->close(choice, out);
}

static void write_pieces(const struct input *input, struct choice *choice, struct buffer *out)
{
    struct way way;
    struct buffer text;
    bool ended = false;
    buffer_init(&text, 0);
    open_way(input, &way);
    for (size_t at = 0, i = 0; !ended; i++) {
        size_t end = at + input->lengths[i % LENGTHS] + 1;
        if (end > input->count) end = input->count;
        text.length = 0;
        put_tokens(input, &way, at, end, &text);
        ended = end == input->count || way.stopper.stopped;
        enum kvasir_finish finish = input->cut && !way.stopper.stopped ? KVASIR_LENGTH : KVASIR_STOP;
        write_update(choice, &text, ended ? finish : KVASIR_RUNNING, out);
        at = end;
    }
    buffer_release(&text);
    stopper_release(&way.stopper);
}

static void write_stream(const struct input *input, struct buffer *out)
{
    struct server server = {.config = {.model_name = "a \"model\""}, .tools = input->format};
    struct reply *reply = mem_zero(1, sizeof *reply + sizeof reply->choices[0]);
    ASSERT(reply);
    struct choice *choice = &reply->choices[0];
    json_t *tools = json_loads(TOOLS, 0, NULL);
    reply->server = &server;
    reply->api = input->api;
    reply->count = 1;
    reply->body = (struct body){.stream = true, .include_usage = input->usage, .continuous_usage = input->usage};
    if (input->format) reply->body.tools = tools;
    snprintf(reply->id, sizeof reply->id, "%s%032d", input->api->id_prefix, 0);
    choice->reply = reply;
    ASSERT(input->api->framing->start(choice, NULL));
    input->api->framing->open(reply, out);
    write_pieces(input, choice, out);
    input->api->framing->last(reply, out);
    ASSERT(!out->failed);
    buffer_release(&choice->text);
    tool_parser_close(choice->tools);
    response_writer_close(choice->writer);
    json_decref(tools);
    mem_free(reply);
}

/* ---- what a client reads -------------------------------------------------------------------------------------------------- */

static const json_t *find_delta(const struct api *api, const json_t *event)
{
    const json_t *choice = json_array_get(json_object_get(event, "choices"), 0);
    if (api == &CHAT) return json_object_get(json_object_get(choice, "delta"), "content");
    if (api == &COMPLETIONS) return json_object_get(choice, "text");
    const char *type = json_string_value(json_object_get(event, "type"));
    ASSERT(type);
    return strcmp(type, "response.output_text.delta") == 0 ? json_object_get(event, "delta") : NULL;
}

static void read_data(const struct api *api, const char *text, size_t bytes, struct buffer *joined)
{
    json_t *event = json_loadb(text, bytes, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, NULL);
    ASSERT(json_is_object(event));
    const json_t *delta = find_delta(api, event);
    buffer_append(joined, json_string_value(delta), json_string_length(delta));
    json_decref(event);
}

/* Lines "event: …", "data: …", each event ended by an empty one. */
static void read_stream(const struct api *api, const struct buffer *stream, struct buffer *joined)
{
    const char *line = stream->data, *end = stream->data + stream->length;
    ASSERT(is_text(stream->data, stream->length, ' ') && stream->length > 2 && memcmp(end - 2, "\n\n", 2) == 0);
    for (const char *next; line < end; line = next + 1) {
        next = memchr(line, '\n', (size_t)(end - line));
        size_t bytes = (size_t)(next - line);
        ASSERT(!bytes || strncmp(line, "data: ", 6) == 0 || strncmp(line, "event: ", 7) == 0);
        if (!bytes || *line == 'e') continue;
        ASSERT(next[1] == '\n');
        if (bytes != 12 || memcmp(line, "data: [DONE]", 12) != 0) read_data(api, line + 6, bytes - 6, joined);
    }
}

/* The text as a whole, as JSON can say it. */
static json_t *expected_text(const struct input *input)
{
    struct way way;
    struct buffer text, json;
    buffer_init(&text, 0);
    buffer_init(&json, 0);
    open_way(input, &way);
    put_tokens(input, &way, 0, input->count, &text);
    json_out_text(&json, text.data ? text.data : "", text.length);
    json_t *value = json_loadb(json.data, json.length, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
    ASSERT(json_is_string(value));
    stopper_release(&way.stopper);
    buffer_release(&text);
    buffer_release(&json);
    return value;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input input;
    struct buffer stream, joined;
    if (!read_input(data, size, &input)) return 0;
    buffer_init(&stream, 0);
    buffer_init(&joined, 0);
    write_stream(&input, &stream);
    read_stream(input.api, &stream, &joined);
    json_t *expected = expected_text(&input);
    if (!input.format) {
        ASSERT(joined.length == json_string_length(expected));
        ASSERT(!joined.length || memcmp(joined.data, json_string_value(expected), joined.length) == 0);
    }
    json_decref(expected);
    buffer_release(&stream);
    buffer_release(&joined);
    return 0;
}
