/* test_grammar.c - what grammars of every kind accept and refuse; token sets against their definition; places in answers; and
 * hostile sources, which are refused or run within stated bounds. */
#include "grammar/machine.h"
#include "grammar/vocabulary_trie.h"
#include "tokenizer_maker.h"
#include <math.h>

static const char *const KINDS[] = {"none", "schema", "object", "regex", "choice", "grammar", "calls"};

static json_t *vocabularies[2];
static struct tokenizer *tokenizers[2]; /* of bytes; of pieces, which drops a first space */
static struct grammar_store *stores[2];

static int load(void **state)
{
    (void)state;
    struct maker makers[2];
    vocabularies[0] = maker_load("bytes.json");
    vocabularies[1] = maker_load("pieces.json");
    makers[0] = maker_of(json_object_get(vocabularies[0], "vocabulary"), "gpt2", "qwen2");
    makers[1] = maker_of(json_object_get(vocabularies[1], "vocabulary"), "llama", NULL);
    makers[1].adds_space = 1;
    for (int i = 0; i < 2; i++)
        if (maker_open(&makers[i], &tokenizers[i], NULL) != ST_OK ||
            grammar_store_open(tokenizers[i], &stores[i]) != ST_OK)
            return 1;
    return 0;
}

static int unload(void **state)
{
    (void)state;
    for (int i = 0; i < 2; i++) {
        grammar_store_close(stores[i]);
        tokenizer_close(tokenizers[i]);
        json_decref(vocabularies[i]);
    }
    return 0;
}

/* ---- accepted and refused --------------------------------------------------------------------------------------------- */

static json_t *load_vectors(void)
{
    json_error_t why;
    json_t *vectors = json_load_file(TEST_DATA "/grammar/vectors.json", 0, &why);
    if (!vectors) fail_msg("vectors.json:%d: %s", why.line, why.text);
    return vectors;
}

static enum grammar_kind kind_of(const json_t *vector)
{
    const char *name = json_string_value(json_object_get(vector, "kind"));
    enum grammar_kind kind = GRAMMAR_NONE;
    while (strcmp(KINDS[kind], name) != 0) kind++;
    return kind;
}

static void check_texts(struct grammar *grammar, const json_t *vector, const char *list, bool expected)
{
    size_t i;
    json_t *text;
    json_array_foreach(json_object_get(vector, list), i, text)
    {
        bool matches;
        assert_int_equal(grammar_match(grammar, json_string_value(text), json_string_length(text), &matches), ST_OK);
        if (matches != expected)
            fail_msg("%s: %s: %.200s", json_string_value(json_object_get(vector, "source")), list,
                     json_string_value(text));
    }
}

static void test_vectors(void **state)
{
    (void)state;
    json_t *vectors = load_vectors(), *vector;
    size_t i;
    json_array_foreach(vectors, i, vector)
    {
        struct grammar *grammar;
        struct error error = {0};
        const json_t *source = json_object_get(vector, "source");
        const char *text = json_string_value(source), *reason = json_string_value(json_object_get(vector, "error"));
        enum status status =
            grammar_open(stores[0], kind_of(vector), text, json_string_length(source), &grammar, &error);
        if (reason) {
            const char *name = json_string_value(json_object_get(vector, "status"));
            enum status expected = strcmp(name, "invalid") == 0 ? ST_INVALID
                                   : strcmp(name, "limit") == 0 ? ST_LIMIT
                                                                : ST_UNSUPPORTED;
            if (status != expected || !strstr(error.text, reason))
                fail_msg("%.200s: status %d: %s", text, status, error.text);
            continue;
        }
        if (status != ST_OK) fail_msg("%.200s: %s", text, error.text);
        check_texts(grammar, vector, "accept", true);
        check_texts(grammar, vector, "reject", false);
        grammar_close(grammar);
    }
    json_decref(vectors);
}

/* ---- token sets ------------------------------------------------------------------------------------------------------- */

static void compile(enum grammar_kind kind, const char *text, size_t bytes, struct automaton *out)
{
    struct builder builder;
    struct error error = {0};
    build_init(&builder, &error);
    uint32_t root = kind == GRAMMAR_GBNF ? gbnf_build(&builder, text, bytes) : build_rule(&builder, "root", 4);
    struct fragment fragment = {0};
    if (kind == GRAMMAR_JSON_SCHEMA) fragment = schema_build(&builder, text, bytes);
    if (kind == GRAMMAR_JSON_OBJECT) fragment = schema_build_object(&builder);
    if (kind == GRAMMAR_REGEX) fragment = regex_build(&builder, text, bytes, false);
    if (kind == GRAMMAR_CHOICE) fragment = choice_build(&builder, text, bytes);
    if (kind == GRAMMAR_JSON_CALLS) fragment = calls_build(&builder, text, bytes);
    if (kind != GRAMMAR_GBNF) build_define(&builder, root, fragment);
    if (build_finish(&builder, root, out) != ST_OK) fail_msg("%.200s: %s", text, error.text);
    build_release(&builder);
}

/* Where the bytes of a token lead, one by one. */
static uint32_t after(struct machine *machine, const struct vocabulary_trie *vocabulary, uint32_t set, uint32_t id,
                      bool first)
{
    uint32_t begin = vocabulary->begin[id], end = vocabulary->begin[id + 1];
    if (begin == end) return 0;
    if (first && vocabulary->drops_space && vocabulary->bytes[begin] == ' ' && ++begin == end) return 0;
    for (; begin < end; begin++)
        set = machine_next(machine, set, machine->automaton->class_of[vocabulary->bytes[begin]]);
    return set;
}

/* Random tokens that are allowed, and after each the whole set against its definition. */
static void check_sets(const struct automaton *automaton, const struct vocabulary_trie *vocabulary, uint32_t tokens,
                       struct random *random)
{
    struct machine masked, plain;
    uint32_t words = (vocabulary->token_count + 63) / 64;
    assert_int_equal(machine_init(&masked, automaton, words), ST_OK);
    assert_int_equal(machine_init(&plain, automaton, words), ST_OK);
    uint32_t set = masked.start, other = plain.start;
    for (uint32_t count = 0; count < tokens; count++) {
        const uint64_t *mask = machine_tokens(&masked, vocabulary, set, count == 0);
        uint32_t allowed = 0, chosen = 0;
        assert_non_null(mask);
        for (uint32_t id = 0; id < vocabulary->token_count; id++) {
            bool expected = after(&plain, vocabulary, other, id, count == 0) != 0, got = mask[id / 64] >> id % 64 & 1;
            if (expected != got) fail_msg("token %u after %u tokens: %d", id, count, got);
            if (got && random_below(random, ++allowed) == 0) chosen = id;
        }
        if (!allowed) break;
        set = after(&masked, vocabulary, set, chosen, count == 0);
        other = after(&plain, vocabulary, other, chosen, count == 0);
        assert_int_equal(machine_ends(&masked, set).may_end, machine_ends(&plain, other).may_end);
    }
    machine_release(&masked);
    machine_release(&plain);
}

static void test_sets(void **state)
{
    (void)state;
    json_t *vectors = load_vectors(), *vector;
    struct random random;
    size_t i;
    random_seed(&random, 5);
    for (int v = 0; v < 2; v++) {
        struct vocabulary_trie vocabulary;
        assert_int_equal(vocabulary_trie_init(&vocabulary, tokenizers[v]), ST_OK);
        assert_int_equal(vocabulary.drops_space, v == 1);
        json_array_foreach(vectors, i, vector)
        {
            if (json_object_get(vector, "error") || i % 3 != random_below(&random, test_count(3, 1)) % 3) continue;
            struct automaton automaton;
            const json_t *source = json_object_get(vector, "source");
            compile(kind_of(vector), json_string_value(source), json_string_length(source), &automaton);
            check_sets(&automaton, &vocabulary, test_count(12, 100), &random);
            automaton_release(&automaton);
        }
        vocabulary_trie_release(&vocabulary);
    }
    json_decref(vectors);
}

/* ---- places ------------------------------------------------------------------------------------------------------------ */

static struct grammar *open_text(enum grammar_kind kind, const char *text)
{
    struct grammar *grammar;
    struct error error;
    if (grammar_open(stores[0], kind, text, strlen(text), &grammar, &error) != ST_OK)
        fail_msg("%s: %s", text, error.text);
    return grammar;
}

/* A place that went on, one that went back, one of another answer and a new one say the same of the same tokens. */
static void test_places(void **state)
{
    (void)state;
    static const char text[] = "{\"name\": \"ab\", \"n\": [1, 23]}";
    struct grammar *grammar = open_text(
        GRAMMAR_JSON_SCHEMA, "{\"properties\":{\"name\":{\"type\":\"string\",\"maxLength\":9},\"n\":{\"type\":"
                             "\"array\",\"items\":{\"type\":\"integer\"}}},\"required\":[\"name\",\"n\"]}");
    assert_ptr_equal(grammar,
                     open_text(GRAMMAR_JSON_SCHEMA,
                               "{\"properties\":{\"name\":{\"type\":\"string\",\"maxLength\":9},\"n\":{\"type\":"
                               "\"array\",\"items\":{\"type\":\"integer\"}}},\"required\":[\"name\",\"n\"]}"));
    grammar_close(grammar);
    struct token_list list = encode_all(tokenizers[0], text, strlen(text), 0);
    uint32_t words = (tokenizer_vocabulary_size(tokenizers[0]) + 63) / 64;
    uint64_t *one = malloc(words * sizeof *one), *other = malloc(words * sizeof *other);
    struct grammar_place on = {0};
    for (uint32_t count = 0; count <= list.count; count++) {
        struct grammar_next next, again;
        struct grammar_place fresh = {0}, back;
        memset(one, 0xff, words * sizeof *one);
        memset(other, 0xff, words * sizeof *other);
        assert_int_equal(grammar_ends(grammar, &on, list.ids, (uint32_t)list.count, &next), ST_OK);
        assert_true(next.may_end && next.must_end);
        back = on;
        assert_int_equal(grammar_mask(grammar, &back, list.ids, count, one, words, &next), ST_OK);
        assert_int_equal(grammar_mask(grammar, &fresh, list.ids, count, other, words, &again), ST_OK);
        assert_memory_equal(one, other, words * sizeof *one);
        assert_true(next.may_end == again.may_end && next.must_end == again.must_end);
        if (count < list.count) assert_true(one[list.ids[count] / 64] >> list.ids[count] % 64 & 1);
        assert_int_equal(next.may_end, count == list.count);
        uint32_t end = tokenizer_eos(tokenizers[0]);
        assert_true(end == TOKEN_NONE || !(one[end / 64] >> end % 64 & 1));
    }
    free(one);
    free(other);
    token_list_release(&list);
    grammar_close(grammar);
}

/* What is remembered is forgotten when it takes too much room; places are found again. */
static void test_forgetting(void **state)
{
    (void)state;
    struct grammar *grammar = open_text(GRAMMAR_REGEX, "(a[b-d]?|x){0,100000}(yes|no)?");
    struct grammar_place place = {0};
    uint32_t answer[30000], words = (tokenizer_vocabulary_size(tokenizers[0]) + 63) / 64;
    uint64_t *one = malloc(words * sizeof *one), *other = malloc(words * sizeof *other);
    const uint32_t letter = tokenizer_find(tokenizers[0], "a", 1);
    struct grammar_next next;
    for (uint32_t count = 0; count < ARRAY_COUNT(answer); count++) {
        memset(one, 0xff, words * sizeof *one);
        assert_int_equal(grammar_mask(grammar, &place, answer, count, one, words, &next), ST_OK);
        assert_true(next.may_end && !next.must_end);
        assert_true(one[letter / 64] >> letter % 64 & 1);
        answer[count] = letter;
        if (count % 5000) continue;
        struct grammar_place fresh = {0};
        memset(other, 0xff, words * sizeof *other);
        assert_int_equal(grammar_mask(grammar, &fresh, answer, count, other, words, &next), ST_OK);
        assert_memory_equal(one, other, words * sizeof *one);
    }
    assert_true(place.epoch > 1); /* it was */
    free(one);
    free(other);
    grammar_close(grammar);
}

/* Of SentencePiece's first token the text lacks the space that it begins with. */
static void test_first_space(void **state)
{
    (void)state;
    struct grammar *grammar;
    struct grammar_next next;
    struct grammar_place place = {0};
    uint32_t words = (tokenizer_vocabulary_size(tokenizers[1]) + 63) / 64;
    uint64_t *set = malloc(words * sizeof *set);
    struct token_list list = encode_all(tokenizers[1], "the one the", 11, 0);
    assert_int_equal(grammar_open(stores[1], GRAMMAR_REGEX, "the one the", 11, &grammar, NULL), ST_OK);
    assert_true(list.count > 1);
    for (uint32_t count = 0; count < list.count; count++) {
        memset(set, 0xff, words * sizeof *set);
        assert_int_equal(grammar_mask(grammar, &place, list.ids, count, set, words, &next), ST_OK);
        assert_true(set[list.ids[count] / 64] >> list.ids[count] % 64 & 1);
        assert_false(next.may_end);
    }
    assert_int_equal(grammar_ends(grammar, &place, list.ids, (uint32_t)list.count, &next), ST_OK);
    assert_true(next.must_end);
    grammar_close(grammar);
    token_list_release(&list);
    free(set);
}

/* ---- hostile sources ---------------------------------------------------------------------------------------------------- */

static void repeat(struct buffer *out, const char *text, uint32_t times)
{
    for (uint32_t i = 0; i < times; i++) buffer_text(out, text);
}

#define SECONDS_MAX 2.0 /* of processor time, with sanitizers on a slow machine; a tenth is what is promised */

/* Refused with a line, or it runs: both within bounds. */
static void attack(enum grammar_kind kind, const char *text, size_t bytes)
{
    struct grammar *grammar;
    struct error error = {0};
    double began = clock_thread_seconds();
    enum status status = grammar_open(stores[0], kind, text, bytes, &grammar, &error);
    double opened = clock_thread_seconds() - began;
    if (opened > SECONDS_MAX) fail_msg("%.60s…: %.2f s to compile", text, opened);
    if (status != ST_OK) {
        assert_true(error.text[0] && !strchr(error.text, '\n'));
        return;
    }
    uint32_t words = (tokenizer_vocabulary_size(tokenizers[0]) + 63) / 64, answer[40], count = 0;
    uint64_t *set = malloc(words * sizeof *set);
    struct grammar_place place = {0};
    for (; count < ARRAY_COUNT(answer); count++) {
        struct grammar_next next;
        memset(set, 0xff, words * sizeof *set);
        began = clock_thread_seconds();
        assert_int_equal(grammar_mask(grammar, &place, answer, count, set, words, &next), ST_OK);
        double took = clock_thread_seconds() - began;
        if (took > SECONDS_MAX) fail_msg("%.60s…: %.2f s for a token set", text, took);
        uint32_t id = 0;
        while (id < 64 * words && !(set[id / 64] >> id % 64 & 1)) id++;
        if (id == 64 * words) break;
        answer[count] = id;
    }
    free(set);
    grammar_close(grammar);
}

static void attack_with(enum grammar_kind kind, const char *before, const char *inside, uint32_t times,
                        const char *after_all)
{
    struct buffer text;
    buffer_init(&text, 0);
    buffer_text(&text, before);
    repeat(&text, inside, times);
    buffer_text(&text, after_all);
    attack(kind, text.data, text.length);
    buffer_release(&text);
}

static void test_hostile(void **state)
{
    (void)state;
    static const char *const expressions[] = {"((a{1000}){1000}){1000}",
                                              "((a{0,1000}){0,1000}){0,1000}",
                                              "(a|a|aa|aaa){1,100000}",
                                              "(a*)*(a*)*(a*)*b",
                                              "(.*a){40}",
                                              "(a|b)*a(a|b){500}",
                                              "((((a?)*)*)*)*",
                                              "(\\w{1,50}\\s{1,50}){1,500}.*",
                                              "(.{0,900}x){0,900}|(.{0,901}y){0,901}",
                                              "(a{0,999}b{0,999}){0,99}",
                                              "[^\\x00-\\x{10ffff}]",
                                              "((a|b|ab|ba){0,50}){0,50}"};
    for (size_t i = 0; i < ARRAY_COUNT(expressions); i++) attack(GRAMMAR_REGEX, expressions[i], strlen(expressions[i]));
    attack_with(GRAMMAR_REGEX, "", "(a?){9}", 60000, "");
    attack_with(GRAMMAR_REGEX, "", "[^a]", 120000, "");
    attack_with(GRAMMAR_REGEX, "[", "aéz", 100000, "]");
    attack_with(GRAMMAR_REGEX, "", "a|", 200000, "");
    attack_with(GRAMMAR_REGEX, "", "(", 500000, "");
    attack_with(GRAMMAR_JSON_SCHEMA, "", "{\"items\":", 50000, "");
    attack_with(GRAMMAR_JSON_SCHEMA, "", "[", 500000, "");
    attack_with(GRAMMAR_JSON_SCHEMA, "{\"enum\":[1", ",\"aaaa\"", 60000, "]}");
    attack_with(GRAMMAR_JSON_SCHEMA, "{\"anyOf\":[{}", ",{\"maxLength\":5}", 25000, "]}");
    attack_with(GRAMMAR_JSON_SCHEMA, "{\"allOf\":[{}", ",{\"anyOf\":[{\"minimum\":1},{\"type\":\"string\"}]}", 5000,
                "]}");
    attack_with(GRAMMAR_JSON_SCHEMA, "{\"allOf\":[{\"$ref\":\"#\"}", ",{\"$ref\":\"#\"}", 100, "]}");
    attack_with(GRAMMAR_JSON_SCHEMA, "{\"oneOf\":[{}", ",{\"$ref\":\"#\"}", 2000, "]}");
    attack_with(GRAMMAR_JSON_SCHEMA, "{\"prefixItems\":[{}", ",{\"multipleOf\":997}", 1000, "]}");
    attack_with(GRAMMAR_GBNF, "root ::= a\na ::= \"x\"", " | \"x\" a | a2", 3000, "\na2 ::= \"x\" a \"y\"?");
    attack_with(GRAMMAR_GBNF, "root ::= e\ne ::= \"x\" e \"a\"? | \"x\" e \"b\"? | \"x\" e e | \"x\"", "", 0, "");
    attack_with(GRAMMAR_GBNF, "root ::= ", "(", 400000, "");
    attack_with(GRAMMAR_GBNF, "root ::= ", "undefined-rule ", 30000, "");
    struct buffer many; /* 20,000 optional properties; 20,000 rules */
    buffer_init(&many, 0);
    buffer_text(&many, "{\"additionalProperties\":{},\"properties\":{\"a\":{}");
    for (int i = 0; i < 20000; i++) buffer_printf(&many, ",\"p%d\":{}", i);
    buffer_text(&many, "}}");
    attack(GRAMMAR_JSON_SCHEMA, many.data, many.length);
    many.length = 0;
    buffer_text(&many, "root ::= r0");
    for (int i = 0; i < 20000; i++) buffer_printf(&many, "\nr%d ::= r%d? r%d?", i, i + 1, i + 2);
    buffer_text(&many, "\nr20000 ::= \"x\"\nr20001 ::= \"y\"");
    attack(GRAMMAR_GBNF, many.data, many.length);
    buffer_release(&many);
}

static void test_limits(void **state)
{
    (void)state;
    struct grammar *grammar;
    struct error error;
    char *large = malloc(GRAMMAR_SOURCE_BYTES_MAX + 1);
    memset(large, 'a', GRAMMAR_SOURCE_BYTES_MAX + 1);
    assert_int_equal(grammar_open(stores[0], GRAMMAR_REGEX, large, GRAMMAR_SOURCE_BYTES_MAX + 1, &grammar, &error),
                     ST_LIMIT);
    assert_null(grammar);
    assert_int_equal(grammar_open(stores[0], GRAMMAR_REGEX, large, GRAMMAR_SOURCE_BYTES_MAX, &grammar, &error),
                     ST_LIMIT);
    struct grammar *held[200];
    uint32_t count = 0;
    enum status status = ST_OK;
    for (; count < ARRAY_COUNT(held) && status == ST_OK; count++) { /* each of some megabytes */
        large[40000] = '\0';
        snprintf(large, 8, "%u", count);
        large[strlen(large)] = 'a';
        status = grammar_open(stores[0], GRAMMAR_REGEX, large, 40000, &held[count], &error);
    }
    assert_int_equal(status, ST_FULL);
    assert_true(count > 10);
    for (uint32_t i = 0; i + 1 < count; i++) grammar_close(held[i]);
    assert_int_equal(grammar_open(stores[0], GRAMMAR_REGEX, large, 40000, &grammar, &error), ST_OK);
    grammar_close(grammar);
    free(large);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_vectors),    cmocka_unit_test(test_sets),        cmocka_unit_test(test_places),
        cmocka_unit_test(test_forgetting), cmocka_unit_test(test_first_space), cmocka_unit_test(test_hostile),
        cmocka_unit_test(test_limits),
    };
    return cmocka_run_group_tests(tests, load, unload);
}
