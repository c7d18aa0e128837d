/* test_tokenizer_json.c - tokenizer.json of Hugging Face folders.
 *
 * tests/data/tokenizer/hugging_face.json holds small tokenizers of every shape that is read, trained and run by the
 * `tokenizers` library (0.23.3): what it made of each text is what we make of it. */
#include "scratch.h"
#include "tokenizer_maker.h"

static struct scratch scratch;
static struct error error;

static int begin(void **state)
{
    (void)state;
    scratch_init(&scratch);
    error = (struct error){0};
    return 0;
}

static int end(void **state)
{
    (void)state;
    scratch_release(&scratch);
    return 0;
}

static enum status open_text(const char *text, struct tokenizer **out)
{
    struct format *format = NULL;
    *out = NULL;
    enum status status = format_open_tokenizer(text, strlen(text), &format, &error);
    if (status == ST_OK) status = tokenizer_open(format, out, &error);
    format_close(format);
    return status;
}

static struct tokenizer *opened(json_t *root)
{
    struct tokenizer *tokenizer = NULL;
    char *text = json_dumps(root, 0);
    assert_non_null(text);
    if (open_text(text, &tokenizer) != ST_OK) fail_msg("%s", error.text);
    free(text);
    return tokenizer;
}

static void check_ids(const struct tokenizer *tokenizer, const json_t *text, const json_t *wanted, const char *name)
{
    struct token_list list = encode_all(tokenizer, json_string_value(text), json_string_length(text),
                                        TOKENIZE_ADD_SPECIAL | TOKENIZE_PARSE_SPECIAL);
    bool same = list.count == json_array_size(wanted);
    for (size_t i = 0; same && i < list.count; i++)
        same = list.ids[i] == (uint32_t)json_integer_value(json_array_get(wanted, i));
    if (!same) fail_msg("%s: '%s' is %zu tokens, or others", name, json_string_value(text), list.count);
    token_list_release(&list);
}

static void test_every_shape(void **state)
{
    (void)state;
    json_t *all = maker_load("hugging_face.json"), *texts = json_object_get(all, "texts"), *one;
    size_t i, k;
    json_array_foreach(json_object_get(all, "tokenizers"), i, one)
    {
        struct tokenizer *tokenizer = opened(json_object_get(one, "tokenizer"));
        const json_t *text;
        json_array_foreach(texts, k, text) check_ids(tokenizer, text, json_array_get(json_object_get(one, "ids"), k),
                                                     json_string_value(json_object_get(one, "name")));
        tokenizer_close(tokenizer);
    }
    assert_int_equal(i, 8);
    json_decref(all);
}

/* ---- a folder ---- */

#define CONFIG(ends)                                                                                 \
    "{\"model_type\":\"llama\",\"num_hidden_layers\":1,\"hidden_size\":64,\"intermediate_size\":96," \
    "\"num_attention_heads\":4,\"vocab_size\":99,\"bos_token_id\":1,\"eos_token_id\":" ends "}"
#define VOCABULARY(more)                                                                                     \
    "{\"added_tokens\":[{\"id\":3,\"content\":\"<end>\",\"special\":true},{\"id\":4,\"content\":\"<turn>\"," \
    "\"special\":true}],\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false}," more         \
    "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,\"ab\":2},\"merges\":[\"a b\"]}}"

static void write_text(const char *name, const char *text)
{
    scratch_write(&scratch, name, text, strlen(text));
}

static struct tokenizer *open_folder(void)
{
    struct format *format = NULL;
    struct tokenizer *tokenizer = NULL;
    enum status status = format_open(scratch.folder, true, &format, &error);
    if (status == ST_OK) status = tokenizer_open(format, &tokenizer, &error);
    if (status != ST_OK) fail_msg("%s", error.text);
    format_close(format);
    return tokenizer;
}

/* What begins and ends texts and answers: the folder's own files before config.json's numbers. */
static void test_ends(void **state)
{
    (void)state;
    write_text("config.json", CONFIG("2"));
    write_text("tokenizer.json", VOCABULARY(""));
    struct tokenizer *tokenizer = open_folder();
    assert_int_equal(tokenizer_vocabulary_size(tokenizer), 5);
    assert_int_equal(tokenizer_bos(tokenizer), 1);
    assert_int_equal(tokenizer_eos(tokenizer), 2);
    assert_false(tokenizer_adds_bos(tokenizer));
    tokenizer_close(tokenizer);

    write_text("config.json", CONFIG("[2,4]"));
    tokenizer = open_folder();
    assert_true(tokenizer_is_end(tokenizer, 2) && tokenizer_is_end(tokenizer, 4) && !tokenizer_is_end(tokenizer, 3));
    tokenizer_close(tokenizer);
    write_text("config.json", CONFIG("2"));

    write_text("tokenizer_config.json", "{\"bos_token\":null,\"eos_token\":{\"content\":\"<end>\"}}");
    write_text("generation_config.json", "{\"eos_token_id\":[4,3,-1,77]}");
    tokenizer = open_folder();
    assert_int_equal(tokenizer_bos(tokenizer), TOKEN_NONE);
    assert_int_equal(tokenizer_eos(tokenizer), 3);
    assert_true(tokenizer_is_end(tokenizer, 3) && tokenizer_is_end(tokenizer, 4) && !tokenizer_is_end(tokenizer, 0));
    tokenizer_close(tokenizer);

    write_text("tokenizer.json", VOCABULARY("\"post_processor\":{\"type\":\"Sequence\",\"processors\":[{\"type\":"
                                            "\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"<turn>\"}},"
                                            "{\"Sequence\":{\"id\":\"A\"}}],\"special_tokens\":{}}]},"));
    tokenizer = open_folder();
    assert_true(tokenizer_adds_bos(tokenizer));
    assert_int_equal(tokenizer_bos(tokenizer), 4);
    tokenizer_close(tokenizer);

    write_text("tokenizer_config.json", "{\"tokenizer_class\":\"LlamaTokenizerFast\",\"add_bos_token\":false}");
    tokenizer = open_folder();
    assert_false(tokenizer_adds_bos(tokenizer));
    tokenizer_close(tokenizer);
}

static void test_every_fault(void **state)
{
    (void)state;
    write_text("config.json", CONFIG("2"));
    write_text("tokenizer.json", VOCABULARY(""));
    write_text("tokenizer_config.json", "{}");
    write_text("generation_config.json", "{\"eos_token_id\":3}");
    for (enum fault_kind kind = FAULT_ALLOC; kind; kind = kind == FAULT_ALLOC ? FAULT_READ : FAULT_NONE) {
        for (uint64_t nth = 1;; nth++) {
            struct format *format = NULL;
            error = (struct error){0};
            fault_arm(kind, nth);
            enum status status = format_open(scratch.folder, true, &format, &error);
            fault_arm(FAULT_NONE, 0);
            if (status == ST_OK) {
                assert_true(nth > 4);
                format_close(format);
                break;
            }
            assert_int_equal(status, kind == FAULT_ALLOC ? ST_NOMEM : ST_IO);
            assert_true(error.text[0] != 0);
        }
    }
}

/* ---- what is refused, and says why ---- */

static void test_refused(void **state)
{
    (void)state;
#define BPE(more) "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1},\"merges\":[]" more "}"
#define BYTES "\"pre_tokenizer\":{\"type\":\"ByteLevel\"}"
    static const struct {
        const char *text, *says;
        enum status status;
    } cases[] = {
        {"{}", "byte_fallback", ST_UNSUPPORTED},
        {"{" BPE("") "}", "byte_fallback", ST_UNSUPPORTED},
        {"{\"model\":{\"type\":\"Unigram\"}}", "Unigram", ST_UNSUPPORTED},
        {"{\"model\":{\"type\":\"WordPiece\"}}", "WordPiece", ST_UNSUPPORTED},
        {"{" BYTES "," BPE(",\"dropout\":0.1") "}", "dropout", ST_UNSUPPORTED},
        {"{" BYTES "," BPE(",\"end_of_word_suffix\":\"</w>\"") "}", "end_of_word_suffix", ST_UNSUPPORTED},
        {"{" BYTES ",\"normalizer\":{\"type\":\"Lowercase\"}," BPE("") "}", "Lowercase", ST_UNSUPPORTED},
        {"{" BYTES ",\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Sequence\"}]}," BPE("") "}",
         "sequence", ST_UNSUPPORTED},
        {"{\"pre_tokenizer\":{\"type\":\"BertPreTokenizer\"}," BPE(",\"byte_fallback\":true") "}", "BertPreTokenizer",
         ST_UNSUPPORTED},
        {"{\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":true}," BPE("") "}", "add_prefix_space",
         ST_UNSUPPORTED},
        {"{\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":{\"Regex\":"
         "\"a\"},"
         "\"behavior\":\"MergedWithNext\"},{\"type\":\"ByteLevel\"}]}," BPE("") "}",
         "MergedWithNext", ST_UNSUPPORTED},
        {"{\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":{\"Regex\":\"("
         "a\"},"
         "\"behavior\":\"Isolated\"},{\"type\":\"ByteLevel\"}]}," BPE("") "}",
         "broken at byte 2", ST_INVALID},
        {"{" BYTES ",\"model\":{\"type\":\"BPE\",\"merges\":[]}}", "vocab", ST_INVALID},
        {"{" BYTES ",\"model\":{\"type\":\"BPE\",\"vocab\":{}}}", "cannot be right", ST_INVALID},
        {"{" BYTES ",\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0}}}", "merges", ST_INVALID},
        {"{" BYTES ",\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":-1},\"merges\":[]}}", "'a' has no id", ST_INVALID},
        {"{" BYTES ",\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":99999999},\"merges\":[]}}", "'a' has no id",
         ST_INVALID},
        {"{" BYTES ",\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":999999},\"merges\":[]}}", "cannot be right",
         ST_INVALID},
        {"{" BYTES ",\"added_tokens\":[{\"id\":1}]," BPE("") "}", "has no id", ST_INVALID},
        {"{" BYTES ",\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[\"aa\"]}}", "merge 0", ST_INVALID},
        {"{" BYTES ",\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[[\"a\",\"b c\"]]}}", "merge 0",
         ST_INVALID},
        {"{" BYTES ",\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[[\"a\",\"b\",\"c\"]]}}", "merge 0",
         ST_INVALID},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        struct tokenizer *tokenizer;
        error = (struct error){0};
        enum status status = open_text(cases[i].text, &tokenizer);
        if (status != cases[i].status || !strstr(error.text, cases[i].says))
            fail_msg("%s: status %d, %s", cases[i].text, (int)status, error.text);
    }
}

/* Patterns are a file's: one that takes for ever is an error of the text, one that matches nothing cuts nothing. */
static void test_patterns_are_bounded(void **state)
{
    (void)state;
    static const struct {
        const char *pattern;
        enum status status;
    } cases[] = {{"(a|aa|a?)+$", ST_LIMIT}, {"x*", ST_OK}, {"\\\\b", ST_OK}};
    char text[600], as[400];
    memset(as, 'a', sizeof as);
    as[sizeof as - 1] = 'b';
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        struct tokenizer *tokenizer;
        struct token_list list = {0};
        snprintf(
            text, sizeof text,
            "{\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":{\"Regex\":"
            "\"%s\"},\"behavior\":\"Isolated\"},{\"type\":\"ByteLevel\",\"use_regex\":false}]}," BPE("") "}",
            cases[i].pattern);
        if (open_text(text, &tokenizer) != ST_OK) fail_msg("%s", error.text);
        enum status status = tokenizer_encode(tokenizer, as, sizeof as, NULL, 0, 0, &list, &error);
        if (status != cases[i].status) fail_msg("%s: %d, %s", cases[i].pattern, (int)status, error.text);
        token_list_release(&list);
        tokenizer_close(tokenizer);
    }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, begin, end)
int main(void)
{
    const struct CMUnitTest tests[] = {TEST(test_every_shape), TEST(test_ends), TEST(test_every_fault),
                                       TEST(test_refused), TEST(test_patterns_are_bounded)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
