/* test_tokenizer.c - tokenizers over small vocabularies (cut from real ones; tests/data/tokenizer): every pre-tokenizer
 * type against llama.cpp's ids, special tokens, literal ranges, round trips, merging, and metadata that is wrong. */
#include "text/tokenizer_internal.h"
#include "tokenizer_maker.h"

static json_t *bytes_json, *pieces_json, *plain_json, *texts_json;

static int load(void **state)
{
    (void)state;
    bytes_json = maker_load("bytes.json");
    pieces_json = maker_load("pieces.json");
    plain_json = maker_load("plain.json");
    texts_json = maker_load("texts.json");
    return 0;
}

static int unload(void **state)
{
    (void)state;
    json_decref(bytes_json);
    json_decref(pieces_json);
    json_decref(plain_json);
    json_decref(texts_json);
    return 0;
}

static struct tokenizer *open_maker(const struct maker *maker)
{
    struct tokenizer *tokenizer;
    struct error error = {0};
    if (maker_open(maker, &tokenizer, &error) != ST_OK) fail_msg("%s", error.text);
    return tokenizer;
}

static struct maker bytes_maker(const char *pre)
{
    struct maker maker = maker_of(json_object_get(bytes_json, "vocabulary"), "gpt2", pre);
    maker.adds_bos = 1;
    return maker;
}

static struct maker pieces_maker(bool space)
{
    struct maker maker = maker_of(json_object_get(pieces_json, "vocabulary"), "llama", NULL);
    maker.adds_space = space;
    return maker;
}

static struct maker plain_maker(void)
{
    struct maker maker = maker_of(json_object_get(pieces_json, "vocabulary"), "gpt2", "gemma4");
    maker.scores = NULL;
    maker.merges = json_object_get(plain_json, "merges");
    return maker;
}

static void check_vectors(const struct maker *maker, json_t *vectors, const char *what)
{
    struct tokenizer *tokenizer = open_maker(maker);
    check_digests(tokenizer, texts_json, json_string_value(json_object_get(vectors, "plain")), 0, what);
    check_digests(tokenizer, texts_json, json_string_value(json_object_get(vectors, "special")),
                  TOKENIZE_ADD_SPECIAL | TOKENIZE_PARSE_SPECIAL, what);
    tokenizer_close(tokenizer);
}

/* ---- against the reference ---- */

static void test_every_pretokenizer(void **state)
{
    (void)state;
    const char *pre;
    json_t *vectors;
    json_object_foreach(json_object_get(bytes_json, "vectors"), pre, vectors)
    {
        struct maker maker = bytes_maker(pre);
        check_vectors(&maker, vectors, pre);
    }
}

static void test_scores(void **state)
{
    (void)state;
    json_t *vectors = json_object_get(pieces_json, "vectors");
    struct maker prefix = pieces_maker(true), bare = pieces_maker(false);
    check_vectors(&prefix, json_object_get(vectors, "prefix"), "with a space before");
    check_vectors(&bare, json_object_get(vectors, "bare"), "without");
}

static void test_plain(void **state)
{
    (void)state;
    struct maker maker = plain_maker();
    check_vectors(&maker, json_object_get(json_object_get(plain_json, "vectors"), "gemma4"), "gemma4");
    maker.model = "gemma4"; /* the other way to say it */
    maker.pre = NULL;
    check_vectors(&maker, json_object_get(json_object_get(plain_json, "vectors"), "gemma4"), "gemma4");
}

/* ---- round trips ---- */

/* A character of any length, or a stray byte, or one of the spellings that matter to a vocabulary. */
static size_t random_piece(struct random *random, char *out)
{
    static const char *const odd[] = {"\xE2\x96\x81", "<0x0A>", "<|im_end|>", "  ",
                                      "\n\n",         "<bos>",  "\xE2\x96",   "</s>"};
    uint64_t choice = random_below(random, 10);
    if (choice == 0) {
        const char *text = odd[random_below(random, ARRAY_COUNT(odd))];
        memcpy(out, text, strlen(text));
        return strlen(text);
    }
    if (choice < 4) {
        out[0] = (char)random_next(random);
        return 1;
    }
    if (choice < 7) {
        out[0] = " abcdetho.\n'"[random_below(random, 12)];
        return 1;
    }
    return utf8_encode((uint32_t)random_below(random, choice == 7 ? 0x110000 : 0x3000), out);
}

static void check_round_trips(const struct maker *maker, uint64_t seed)
{
    struct tokenizer *tokenizer = open_maker(maker);
    struct random random;
    random_seed(&random, seed);
    for (uint32_t round = 0; round < test_count(3000, 100000); round++) {
        char text[1024];
        size_t bytes = 0;
        for (uint64_t pieces = random_below(&random, 60); pieces; pieces--)
            bytes += random_piece(&random, text + bytes);
        unsigned flags = random_below(&random, 2) ? TOKENIZE_PARSE_SPECIAL : 0;
        struct token_list list = encode_all(tokenizer, text, bytes, flags);
        struct buffer back = decode_all(tokenizer, &list, true);
        assert_int_equal(back.length, bytes);
        if (bytes) assert_memory_equal(back.data, text, bytes);
        for (size_t i = 0; i < list.count && !flags; i++)
            assert_int_not_equal(tokenizer_kind(tokenizer, list.ids[i]), TOKEN_CONTROL);
        buffer_release(&back);
        token_list_release(&list);
    }
    tokenizer_close(tokenizer);
}

static void test_round_trips(void **state)
{
    (void)state;
    static const char *const types[] = {"qwen2", "deepseek-llm", "falcon", "tekken", "deepseek-v3"};
    for (size_t i = 0; i < ARRAY_COUNT(types); i++) {
        struct maker maker = bytes_maker(types[i]);
        check_round_trips(&maker, i);
    }
    struct maker prefix = pieces_maker(true), bare = pieces_maker(false), plain = plain_maker();
    check_round_trips(&prefix, 10);
    check_round_trips(&bare, 11);
    check_round_trips(&plain, 12);
}

static void test_empty(void **state)
{
    (void)state;
    struct maker maker = pieces_maker(true);
    struct tokenizer *tokenizer = open_maker(&maker);
    assert_true(tokenizer_adds_bos(tokenizer));
    struct token_list list = encode_all(tokenizer, "", 0, TOKENIZE_ADD_SPECIAL);
    assert_int_equal(list.count, 0);
    list = encode_all(tokenizer, "a", 1, TOKENIZE_ADD_SPECIAL);
    assert_int_equal(list.ids[0], tokenizer_bos(tokenizer));
    token_list_release(&list);
    tokenizer_close(tokenizer);
}

/* The same words twice: the second time from the cache of words, which a short text does not have. */
static void test_cache(void **state)
{
    (void)state;
    struct maker makers[] = {bytes_maker("qwen2"), pieces_maker(false), plain_maker()};
    for (size_t m = 0; m < ARRAY_COUNT(makers); m++) {
        struct tokenizer *tokenizer = open_maker(&makers[m]);
        struct buffer text;
        struct token_list apart = {0};
        buffer_init(&text, 0);
        for (size_t i = 0; i < 3 * json_array_size(texts_json); i++) {
            json_t *item = json_array_get(texts_json, i % json_array_size(texts_json));
            struct buffer line;
            buffer_init(&line, 0);
            buffer_append(&line, json_string_value(item), json_string_length(item));
            buffer_text(&line, "<|im_start|>"); /* nothing merges across a special token */
            buffer_append(&text, line.data, line.length);
            assert_int_equal(
                tokenizer_encode(tokenizer, line.data, line.length, NULL, 0, TOKENIZE_PARSE_SPECIAL, &apart, NULL),
                ST_OK);
            buffer_release(&line);
        }
        if (m == 0) {
            struct token_list whole = encode_all(tokenizer, text.data, text.length, TOKENIZE_PARSE_SPECIAL);
            assert_int_equal(whole.count, apart.count);
            assert_memory_equal(whole.ids, apart.ids, whole.count * sizeof *whole.ids);
            token_list_release(&whole);
        } else { /* this vocabulary has no such token: only the round trip can be held against it */
            struct token_list whole = encode_all(tokenizer, text.data, text.length, TOKENIZE_PARSE_SPECIAL);
            struct buffer back = decode_all(tokenizer, &whole, true);
            assert_int_equal(back.length, text.length);
            assert_memory_equal(back.data, text.data, text.length);
            buffer_release(&back);
            token_list_release(&whole);
        }
        token_list_release(&apart);
        buffer_release(&text);
        tokenizer_close(tokenizer);
    }
}

/* ---- special tokens ---- */

static void expect_spellings(const struct tokenizer *tokenizer, const char *text, const struct text_range *literal,
                             size_t literal_count, unsigned flags, const char *wanted)
{
    struct token_list list = {0};
    struct buffer got;
    buffer_init(&got, 0);
    assert_int_equal(tokenizer_encode(tokenizer, text, strlen(text), literal, literal_count, flags, &list, NULL),
                     ST_OK);
    for (size_t i = 0; i < list.count; i++) {
        size_t bytes;
        const char *spelling = tokenizer_spelling(tokenizer, list.ids[i], &bytes);
        if (i) buffer_text(&got, " ");
        buffer_append(&got, spelling, bytes);
    }
    assert_string_equal(got.data ? got.data : "", wanted);
    buffer_release(&got);
    token_list_release(&list);
}

/* 256 bytes of the alphabet as ids 0…255, then `more`. */
static struct maker alphabet_maker(json_t *more, json_t *more_types)
{
    json_t *tokens = json_array(), *types = json_array(), *item;
    size_t i;
    for (int byte = 0; byte < 256; byte++) {
        char text[4];
        uint32_t bytes = utf8_encode(byte_alphabet_encode((unsigned char)byte), text);
        json_array_append_new(tokens, json_stringn(text, bytes));
        json_array_append_new(types, json_integer(1));
    }
    json_array_foreach(more, i, item) json_array_append(tokens, item);
    json_array_foreach(more_types, i, item) json_array_append(types, item);
    json_decref(more);
    json_decref(more_types);
    return (struct maker){.model = "gpt2",
                          .pre = "gpt-2",
                          .tokens = tokens,
                          .types = types,
                          .merges = json_array(),
                          .bos = -1,
                          .eos = -1,
                          .adds_bos = -1,
                          .adds_space = -1};
}

static void maker_release(struct maker *maker)
{
    json_decref(maker->tokens);
    json_decref(maker->types);
    json_decref(maker->merges);
}

static void test_specials(void **state)
{
    (void)state;
    /* control 3, user-defined 4; "ab" and "bcd" overlap, "a" begins "ab" */
    struct maker maker =
        alphabet_maker(json_pack("[ssssssss]", "<x>", "ab", "bcd", "a<x>", "<end_of_turn>", "qq", "qqq", "</s>"),
                       json_pack("[iiiiiiii]", 3, 4, 4, 3, 1, 4, 4, 4));
    struct tokenizer *tokenizer = open_maker(&maker);
    const unsigned parse = TOKENIZE_PARSE_SPECIAL;
    expect_spellings(tokenizer, "1<x>2", NULL, 0, parse, "1 <x> 2");
    expect_spellings(tokenizer, "1<x>2", NULL, 0, 0, "1 < x > 2");
    expect_spellings(tokenizer, "a<x>", NULL, 0, parse, "a<x>"); /* the longer one */
    expect_spellings(tokenizer, "abcd", NULL, 0, 0, "a bcd");    /* the longer one, though it begins later */
    expect_spellings(tokenizer, "abab", NULL, 0, 0, "ab ab");
    expect_spellings(tokenizer, "qqqqq", NULL, 0, 0,
                     "qqq qq"); /* what does not fit any more gives way to a shorter one */
    expect_spellings(tokenizer, "qqqqqqqq", NULL, 0, 0, "qqq qqq qq");
    expect_spellings(tokenizer, "</s>", NULL, 0, 0, "</s>"); /* a user-defined token like any other here */
    assert_false(tokenizer_is_end(tokenizer, tokenizer_find(tokenizer, "</s>", 4)));

    /* what the user typed */
    const struct text_range whole = {0, 5}, inside = {2, 3}, before = {0, 1}, two[] = {{0, 1}, {4, 5}};
    expect_spellings(tokenizer, "1<x>2", &whole, 1, parse, "1 < x > 2");
    expect_spellings(tokenizer, "1<x>2", &inside, 1, parse, "1 < x > 2");
    expect_spellings(tokenizer, "1<x>2", &before, 1, parse, "1 <x> 2");
    expect_spellings(tokenizer, "1<x>2", two, 2, parse, "1 <x> 2");
    expect_spellings(tokenizer, "a<x>", &before, 1, parse, "a <x>"); /* "a<x>" is touched, "<x>" is not */
    expect_spellings(tokenizer, "abab", &whole, 1, parse, "ab ab");  /* no control tokens */

    /* a turn's end is one whatever type the file gives it */
    uint32_t end = tokenizer_find(tokenizer, "<end_of_turn>", 13);
    assert_int_equal(tokenizer_kind(tokenizer, end), TOKEN_CONTROL);
    assert_true(tokenizer_is_end(tokenizer, end));
    expect_spellings(tokenizer, "<end_of_turn>", NULL, 0, parse, "<end_of_turn>");
    assert_int_equal(tokenizer_find(tokenizer, "absent", 6), TOKEN_NONE);
    assert_int_equal(tokenizer_bos(tokenizer), TOKEN_NONE);
    tokenizer_close(tokenizer);
    maker_release(&maker);
}

static void test_phi3_takes_white_space(void **state)
{
    (void)state;
    struct maker maker =
        alphabet_maker(json_pack("[sss]", "<|user|>", "<|end|>", "<|endoftext|>"), json_pack("[iii]", 3, 3, 3));
    maker.name = "Phi-3 mini";
    struct tokenizer *tokenizer = open_maker(&maker);
    expect_spellings(tokenizer, "<|user|> \n x <|end|>\n<|user|><|endoftext|>\n", NULL, 0, TOKENIZE_PARSE_SPECIAL,
                     "<|user|> x Ġ <|end|> <|user|> <|endoftext|> Ċ");
    tokenizer_close(tokenizer);
    maker_release(&maker);
}

static void test_harmony_ends(void **state)
{
    (void)state;
    struct maker maker =
        alphabet_maker(json_pack("[sss]", "<|end|>", "<|call|>", "<|return|>"), json_pack("[iii]", 3, 3, 3));
    struct tokenizer *tokenizer = open_maker(&maker);
    assert_false(tokenizer_is_end(tokenizer, 256));
    assert_true(tokenizer_is_end(tokenizer, 257));
    assert_true(tokenizer_is_end(tokenizer, 258));
    assert_false(tokenizer_is_end(tokenizer, 259));
    assert_false(tokenizer_is_end(tokenizer, TOKEN_NONE));
    tokenizer_close(tokenizer);
    maker_release(&maker);
}

/* Merges that spell a control token, and merges that pass through a spelling which is no token. */
static void test_merges_make_text_only(void **state)
{
    (void)state;
    struct maker maker = alphabet_maker(json_pack("[ss]", "<s", "<s>"), json_pack("[ii]", 1, 3));
    json_decref(maker.merges);
    maker.merges = json_pack("[ssssss]", "< s", "<s >", "x y", "xy z", "nonsense", " ");
    struct tokenizer *tokenizer = open_maker(&maker);
    expect_spellings(tokenizer, "s<s>", NULL, 0, 0, "s < s >"); /* words: "s", "<", "s", ">" */
    expect_spellings(tokenizer, "xyz", NULL, 0, 0, "x y z");
    tokenizer_close(tokenizer);
    maker_release(&maker);

    json_t *tokens = json_pack("[sssssss]", "<unk>", "<s>", "</s>", "<s", "<", "s", ">");
    json_t *types = json_pack("[iiiiiii]", 2, 3, 3, 1, 1, 1, 1);
    maker = (struct maker){.model = "llama",
                           .tokens = tokens,
                           .types = types,
                           .merges = json_array(),
                           .bos = 1,
                           .eos = 2,
                           .adds_bos = -1,
                           .adds_space = 0};
    tokenizer = open_maker(&maker);
    expect_spellings(tokenizer, "<s>", NULL, 0, 0, "<s >");
    expect_spellings(tokenizer, "<s>", NULL, 0, TOKENIZE_PARSE_SPECIAL, "<s>");
    expect_spellings(tokenizer, "?", NULL, 0, 0, "<unk>"); /* no byte tokens */
    tokenizer_close(tokenizer);
    maker_release(&maker);
}

/* ---- merging ---- */

struct pair_rule {
    uint32_t key, merged;
};
#define RULES 12u

static uint32_t look_up_rule(const void *data, const struct merge_pair *pair, uint32_t *merged)
{
    const struct pair_rule(*rules)[RULES] = data;
    if (pair->left >= RULES || pair->right >= RULES) return MERGE_NONE;
    *merged = rules[pair->left][pair->right].merged;
    return rules[pair->left][pair->right].key;
}

/* The definition: the lowest key, the leftmost of equals, one merge at a time. */
static uint32_t merge_slowly(struct pair_rule rules[RULES][RULES], uint32_t *ids, uint32_t count)
{
    for (;;) {
        uint32_t best = count, key = MERGE_NONE;
        for (uint32_t i = 0; i + 1 < count; i++) {
            if (ids[i] >= RULES || ids[i + 1] >= RULES || rules[ids[i]][ids[i + 1]].key >= key) continue;
            key = rules[ids[i]][ids[i + 1]].key;
            best = i;
        }
        if (best == count) return count;
        ids[best] = rules[ids[best]][ids[best + 1]].merged;
        memmove(ids + best + 1, ids + best + 2, (count - best - 2) * sizeof *ids);
        count--;
    }
}

static void test_merging(void **state)
{
    (void)state;
    struct random random;
    struct merge_work work = {0};
    random_seed(&random, 3);
    for (uint32_t round = 0; round < test_count(3000, 50000); round++) {
        struct pair_rule rules[RULES][RULES];
        uint32_t ids[200], count = 1 + (uint32_t)random_below(&random, round % 2 ? 200 : 40);
        for (uint32_t a = 0; a < RULES; a++)
            for (uint32_t b = 0; b < RULES; b++)
                rules[a][b] =
                    (struct pair_rule){random_below(&random, 2) ? (uint32_t)random_below(&random, 20) : MERGE_NONE,
                                       (uint32_t)random_below(&random, RULES)};
        assert_int_equal(merge_work_reserve(&work, count, NULL), ST_OK);
        for (uint32_t i = 0; i < count; i++) {
            ids[i] = random_below(&random, 30) ? (uint32_t)random_below(&random, RULES) : SYMBOL_RAW;
            work.symbols[i].id = ids[i];
            work.symbols[i].begin = i * 2;
        }
        work.count = count;
        work.symbols[count].begin = count * 2;
        assert_int_equal(merge_run(&work, look_up_rule, rules, NULL), ST_OK);
        count = merge_slowly(rules, ids, count);
        assert_int_equal(work.count, count);
        for (uint32_t i = 0; i < count; i++) {
            assert_int_equal(work.symbols[i].id, ids[i]);
            assert_true(work.symbols[i].begin < work.symbols[i + 1].begin);
        }
    }
    merge_work_release(&work);
}

static void test_score_keys(void **state)
{
    (void)state;
    const float ascending[] = {-__builtin_inff(), -1e30f, -2, -1, -1e-30f, 0, 1e-30f, 1, 1e30f, __builtin_inff()};
    for (size_t i = 1; i < ARRAY_COUNT(ascending); i++)
        assert_true(merge_key_of_score(ascending[i]) < merge_key_of_score(ascending[i - 1]));
    assert_int_equal(merge_key_of_score(-0.0f), merge_key_of_score(0.0f));
    assert_int_equal(merge_key_of_score(__builtin_nanf("")), merge_key_of_score(-__builtin_inff()));
    assert_int_not_equal(merge_key_of_score(-__builtin_inff()), MERGE_NONE);
}

/* One word of `bytes` bytes: the time must not grow with its square (it would take minutes here). */
static void test_long_words(void **state)
{
    (void)state;
    const size_t bytes = test_count(200000, 10000000);
    struct maker makers[] = {bytes_maker("qwen2"), pieces_maker(true), plain_maker()};
    char *text = mem_alloc(bytes);
    for (size_t m = 0; m < ARRAY_COUNT(makers); m++) {
        struct tokenizer *tokenizer = open_maker(&makers[m]);
        for (const char *letter = "a \n<\xFF"; *letter; letter++) {
            memset(text, *letter, bytes);
            double begin = clock_seconds();
            struct token_list list = encode_all(tokenizer, text, bytes, 0);
            assert_true(clock_seconds() - begin < (double)bytes * 20e-6);
            struct buffer back = decode_all(tokenizer, &list, true);
            assert_int_equal(back.length, bytes);
            assert_memory_equal(back.data, text, bytes);
            buffer_release(&back);
            token_list_release(&list);
        }
        tokenizer_close(tokenizer);
    }
    mem_free(text);
}

/* ---- what is refused ---- */

static void refuse(const struct maker *maker, enum status status, const char *text)
{
    struct tokenizer *tokenizer;
    struct error error = {0};
    assert_int_equal(maker_open(maker, &tokenizer, &error), status);
    assert_null(tokenizer);
    if (!strstr(error.text, text)) fail_msg("\"%s\" does not say \"%s\"", error.text, text);
}

static void test_refused(void **state)
{
    (void)state;
    struct maker maker = bytes_maker("qwen2");
    maker.model = "bert";
    refuse(&maker, ST_UNSUPPORTED, "'bert'");
    maker.model = "none";
    refuse(&maker, ST_NOT_FOUND, "no tokenizer");
    maker = bytes_maker("qwen-99");
    refuse(&maker, ST_UNSUPPORTED, "'qwen-99'");
    maker = bytes_maker("gpt-2 phi");
    refuse(&maker, ST_UNSUPPORTED, "'gpt-2 phi'");
    maker = bytes_maker("");
    refuse(&maker, ST_UNSUPPORTED, "''");
    maker = bytes_maker("qwen2");
    maker.merges = NULL;
    refuse(&maker, ST_INVALID, "no merges");
    maker = bytes_maker("qwen2");
    maker.types = json_pack("[iii]", 1, 1, 1);
    refuse(&maker, ST_INVALID, "3 items");
    json_decref(maker.types);
    maker.types = NULL;
    maker.tokens = json_array();
    refuse(&maker, ST_INVALID, "0 tokens");
    json_decref(maker.tokens);
}

/* Ids past the vocabulary are as if they were not there. */
static void test_wrong_ids(void **state)
{
    (void)state;
    struct maker maker = bytes_maker("qwen2");
    maker.bos = maker.eos = 1000000;
    struct tokenizer *tokenizer = open_maker(&maker);
    assert_int_equal(tokenizer_bos(tokenizer), TOKEN_NONE);
    assert_int_equal(tokenizer_eos(tokenizer), TOKEN_NONE);
    assert_false(tokenizer_adds_bos(tokenizer));
    struct token_list list = encode_all(tokenizer, "a", 1, TOKENIZE_ADD_SPECIAL);
    assert_int_equal(list.count, 1);
    size_t bytes;
    (void)tokenizer_spelling(tokenizer, TOKEN_NONE, &bytes);
    assert_int_equal(bytes, 0);
    token_list_release(&list);
    tokenizer_close(tokenizer);
}

/* The Nth allocation fails: an error or, where it only costs speed, success; never a crash or a half-done list. */
static void test_no_memory(void **state)
{
    (void)state;
    struct maker makers[] = {bytes_maker("tekken"), pieces_maker(true), plain_maker()};
    char text[5000];
    for (size_t i = 0; i < sizeof text; i++) text[i] = "the <|im_start|> \xC3"[i % 18];
    for (size_t m = 0; m < ARRAY_COUNT(makers); m++) {
        struct buffer file;
        struct format *format;
        struct tokenizer *tokenizer = NULL;
        buffer_init(&file, 0);
        maker_write(&makers[m], &file);
        assert_int_equal(format_open_bytes(FORMAT_GGUF, file.data, file.length, true, &format, NULL), ST_OK);
        for (uint64_t nth = 1; !tokenizer; nth++) {
            fault_arm(FAULT_ALLOC, nth);
            enum status status = tokenizer_open(format, &tokenizer, NULL);
            assert_true(status == ST_OK || status == ST_NOMEM);
            if (status == ST_OK && fault_count(FAULT_ALLOC) >= nth) { /* survived: go on until no allocation is left */
                tokenizer_close(tokenizer);
                tokenizer = NULL;
            }
        }
        for (uint64_t nth = 1, calls = nth; calls >= nth; nth++) {
            struct token_list list = {0};
            fault_arm(FAULT_ALLOC, nth);
            enum status status =
                tokenizer_encode(tokenizer, text, sizeof text, NULL, 0, TOKENIZE_PARSE_SPECIAL, &list, NULL);
            assert_true(status == ST_OK || status == ST_NOMEM);
            if (status != ST_OK) assert_int_equal(list.count, 0);
            calls = fault_count(FAULT_ALLOC);
            token_list_release(&list);
        }
        fault_arm(FAULT_NONE, 0);
        tokenizer_close(tokenizer);
        format_close(format);
        buffer_release(&file);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_pretokenizer),
        cmocka_unit_test(test_scores),
        cmocka_unit_test(test_plain),
        cmocka_unit_test(test_round_trips),
        cmocka_unit_test(test_empty),
        cmocka_unit_test(test_cache),
        cmocka_unit_test(test_specials),
        cmocka_unit_test(test_phi3_takes_white_space),
        cmocka_unit_test(test_harmony_ends),
        cmocka_unit_test(test_merges_make_text_only),
        cmocka_unit_test(test_merging),
        cmocka_unit_test(test_score_keys),
        cmocka_unit_test(test_long_words),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_wrong_ids),
        cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, load, unload);
}
