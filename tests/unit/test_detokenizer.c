/* test_detokenizer.c - streams of ids: whole characters only, stray bytes as they are, control tokens, SentencePiece's
 * leading space. */
#include "tokenizer_maker.h"

static json_t *bytes_json, *pieces_json, *texts_json;
static struct tokenizer *bytes_tokenizer, *pieces_tokenizer, *prefix_tokenizer;

static int load(void **state)
{
    (void)state;
    bytes_json = maker_load("bytes.json");
    pieces_json = maker_load("pieces.json");
    texts_json = maker_load("texts.json");
    struct maker bytes = maker_of(json_object_get(bytes_json, "vocabulary"), "gpt2", "qwen2");
    struct maker pieces = maker_of(json_object_get(pieces_json, "vocabulary"), "llama", NULL);
    pieces.adds_space = 0;
    int failed = maker_open(&bytes, &bytes_tokenizer, NULL) != ST_OK;
    failed |= maker_open(&pieces, &pieces_tokenizer, NULL) != ST_OK;
    pieces.adds_space = 1;
    return failed | (maker_open(&pieces, &prefix_tokenizer, NULL) != ST_OK);
}

static int unload(void **state)
{
    (void)state;
    tokenizer_close(bytes_tokenizer);
    tokenizer_close(pieces_tokenizer);
    tokenizer_close(prefix_tokenizer);
    json_decref(bytes_json);
    json_decref(pieces_json);
    json_decref(texts_json);
    return 0;
}

static bool is_whole(const char *text, size_t bytes)
{
    for (size_t at = 0; at < bytes;) {
        uint32_t code_point, length = utf8_decode(text + at, bytes - at, &code_point, NULL);
        if (!length) return false;
        at += length;
    }
    return true;
}

/* Of a well-formed text every chunk is well-formed, and the chunks are the text. */
static void check_stream(const struct tokenizer *tokenizer, const char *text, size_t bytes)
{
    struct token_list list = encode_all(tokenizer, text, bytes, 0);
    struct detokenizer detokenizer;
    size_t at = 0;
    detokenizer_init(&detokenizer, tokenizer, false);
    for (size_t i = 0; i <= list.count; i++) {
        struct buffer chunk;
        buffer_init(&chunk, 0);
        if (i < list.count)
            detokenizer_put(&detokenizer, list.ids[i], &chunk);
        else
            detokenizer_finish(&detokenizer, &chunk);
        assert_true(is_whole(chunk.data, chunk.length));
        assert_true(chunk.length <= bytes - at);
        if (chunk.length) assert_memory_equal(chunk.data, text + at, chunk.length);
        at += chunk.length;
        buffer_release(&chunk);
    }
    assert_int_equal(at, bytes);
    token_list_release(&list);
}

static void test_whole_characters(void **state)
{
    (void)state;
    size_t i;
    json_t *text;
    json_array_foreach(texts_json, i, text)
    {
        check_stream(bytes_tokenizer, json_string_value(text), json_string_length(text));
        check_stream(pieces_tokenizer, json_string_value(text), json_string_length(text));
        check_stream(prefix_tokenizer, json_string_value(text), json_string_length(text));
    }
}

static void put_bytes(struct detokenizer *detokenizer, const char *bytes, struct buffer *out)
{
    for (; *bytes; bytes++) {
        char spelling[8];
        snprintf(spelling, sizeof spelling, "<0x%02X>", (unsigned char)*bytes);
        uint32_t id = tokenizer_find(detokenizer->tokenizer, spelling, 6);
        assert_int_equal(tokenizer_kind(detokenizer->tokenizer, id), TOKEN_BYTE);
        detokenizer_put(detokenizer, id, out);
    }
}

static void test_stray_bytes(void **state)
{
    (void)state;
    /* what is put, and what must be out before the stream is finished */
    static const struct {
        const char *put, *out;
    } cases[] = {
        {"\xE2\x82", ""},
        {"\xE2\x82\xAC", "\xE2\x82\xAC"},
        {"\xE2\x82q", "\xE2\x82q"},
        {"\xFF", "\xFF"},
        {"\x80\x80", "\x80\x80"},
        {"\xF0\x9F\x98", ""},
        {"\xC3\xC3\xA9", "\xC3\xC3\xA9"},
        {"\xF0\x80", "\xF0\x80"},
        {"\xED\xA0\x80", "\xED\xA0\x80"},
        {"\xF0\x9F\xE2\x82\xAC", "\xF0\x9F\xE2\x82\xAC"},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        struct detokenizer detokenizer;
        struct buffer out;
        buffer_init(&out, 0);
        detokenizer_init(&detokenizer, pieces_tokenizer, false);
        put_bytes(&detokenizer, cases[i].put, &out);
        assert_string_equal(out.data ? out.data : "", cases[i].out);
        detokenizer_finish(&detokenizer, &out);
        assert_string_equal(out.data, cases[i].put);
        buffer_release(&out);
    }
}

static void expect(const struct tokenizer *tokenizer, const uint32_t *ids, size_t count, bool control,
                   const char *wanted)
{
    struct token_list list = {.ids = (uint32_t *)(uintptr_t)ids, .count = count};
    struct buffer text = decode_all(tokenizer, &list, control);
    assert_string_equal(text.data ? text.data : "", wanted);
    buffer_release(&text);
}

static void test_control_tokens(void **state)
{
    (void)state;
    const uint32_t a = tokenizer_find(bytes_tokenizer, "a", 1);
    const uint32_t start = tokenizer_find(bytes_tokenizer, "<|im_start|>", 12);
    const uint32_t ids[] = {a, start, a, TOKEN_NONE};
    expect(bytes_tokenizer, ids, 4, false, "aa");
    expect(bytes_tokenizer, ids, 4, true, "a<|im_start|>a");
}

static void test_leading_space(void **state)
{
    (void)state;
    const uint32_t mark = tokenizer_find(prefix_tokenizer, "\xE2\x96\x81", 3),
                   a = tokenizer_find(prefix_tokenizer, "a", 1);
    const uint32_t bos = tokenizer_bos(prefix_tokenizer);
    const uint32_t ids[] = {mark, a, mark, a}, spaced[] = {mark, mark, a}, after[] = {bos, mark, a, bos, mark, mark, a};
    expect(prefix_tokenizer, ids, 4, false, "a a");
    expect(prefix_tokenizer, spaced, 3, false, " a");
    expect(prefix_tokenizer, after, 7, true, "<bos>a<bos> a");
    expect(prefix_tokenizer, after, 7, false, "a a");
    expect(pieces_tokenizer, ids, 4, false, " a a");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_whole_characters),
        cmocka_unit_test(test_stray_bytes),
        cmocka_unit_test(test_control_tokens),
        cmocka_unit_test(test_leading_space),
    };
    return cmocka_run_group_tests(tests, load, unload);
}
