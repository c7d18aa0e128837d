/* test_tokenizer_models.c - the three real vocabularies against llama.cpp's ids for hard texts (models.json, made with its
 * release of November 2026) and against the prompts of the goldens. A model that is not fetched is skipped. */
#include "tokenizer_maker.h"

static const char *const names[] = {"smollm2", "qwen2", "gemma3"};
static struct tokenizer *tokenizer;

static int open_model(void **state)
{
    char path[600];
    struct format *format;
    struct error error = {0};
    tokenizer = NULL;
    if (!test_model_path(*state, path, sizeof path)) return 0;
    if (format_open(path, true, &format, &error) != ST_OK || tokenizer_open(format, &tokenizer, &error) != ST_OK)
        print_error("%s\n", error.text);
    format_close(format);
    return tokenizer == NULL;
}

static int close_model(void **state)
{
    (void)state;
    tokenizer_close(tokenizer);
    return 0;
}

static void test_vectors(void **state)
{
    if (!tokenizer) skip();
    json_t *texts = maker_load("texts.json"), *models = maker_load("models.json");
    json_t *vectors = json_object_get(models, *state);
    check_digests(tokenizer, texts, json_string_value(json_object_get(vectors, "plain")), 0, *state);
    check_digests(tokenizer, texts, json_string_value(json_object_get(vectors, "special")),
                  TOKENIZE_ADD_SPECIAL | TOKENIZE_PARSE_SPECIAL, *state);
    json_decref(texts);
    json_decref(models);
}

/* Every byte comes back; smollm2's vocabulary lacks 21 bytes that no UTF-8 text of its training had. */
static void test_round_trip(void **state)
{
    if (!tokenizer) skip();
    const bool lacks = strcmp(*state, "smollm2") == 0;
    struct random random;
    random_seed(&random, 7);
    for (uint32_t round = 0; round < test_count(300, 20000); round++) {
        char text[64];
        size_t bytes = random_below(&random, sizeof text);
        for (size_t i = 0; i < bytes; i++)
            text[i] = (char)(lacks ? 0x20 + random_below(&random, 0xA0) : random_next(&random));
        struct token_list list = encode_all(tokenizer, text, bytes, 0);
        struct buffer back = decode_all(tokenizer, &list, false);
        assert_int_equal(back.length, bytes);
        if (bytes) assert_memory_equal(back.data, text, bytes);
        buffer_release(&back);
        token_list_release(&list);
    }
}

static void test_ends(void **state)
{
    if (!tokenizer) skip();
    static const char *const ends[] = {"<|im_end|>", "<|im_end|>", "<end_of_turn>"};
    for (size_t i = 0; i < ARRAY_COUNT(names); i++) {
        if (strcmp(names[i], *state) != 0) continue;
        uint32_t id = tokenizer_find(tokenizer, ends[i], strlen(ends[i]));
        assert_true(id != TOKEN_NONE);
        assert_true(tokenizer_is_end(tokenizer, id));
        assert_int_equal(tokenizer_kind(tokenizer, id), TOKEN_CONTROL);
    }
    assert_true(tokenizer_is_end(tokenizer, tokenizer_eos(tokenizer)));
    assert_false(tokenizer_is_end(tokenizer, tokenizer_find(tokenizer, "a", 1)));
}

int main(void)
{
    struct CMUnitTest tests[3 * ARRAY_COUNT(names)];
    size_t found = 0;
    for (size_t i = 0; i < ARRAY_COUNT(names); i++) {
        char path[600];
        void *name = (void *)(uintptr_t)names[i];
        found += test_model_path(names[i], path, sizeof path) != 0;
        tests[3 * i] = (struct CMUnitTest){"vectors", test_vectors, open_model, close_model, name};
        tests[3 * i + 1] = (struct CMUnitTest){"round trip", test_round_trip, open_model, close_model, name};
        tests[3 * i + 2] = (struct CMUnitTest){"ends", test_ends, open_model, close_model, name};
    }
    if (!found) {
        print_message("no model is fetched\n");
        return TEST_SKIPPED;
    }
    return cmocka_run_group_tests_name("tokenizers of real models", tests, NULL, NULL);
}
