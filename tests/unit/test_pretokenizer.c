/* test_pretokenizer.c - the hand-written passes against PCRE2 running the patterns that the models' authors published, on
 * random texts. (What whole types make of texts is held against llama.cpp's ids in test_tokenizer.c.) */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "support.h"
#include "text/pretokenizer_internal.h"
#include <pcre2.h>

#define TEXT_BYTES 512

/* A type, the pass of it that is tested, and its pattern. */
static const struct {
    const char *type;
    uint32_t pass;
    const char *pattern;
} cases[] = {
    {"gpt-2", 0, "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"},
    {"starcoder", 0, "\\p{N}"},
    {"starcoder", 1, "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)"},
    {"llama-bpe", 0,
     "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}|"
     " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"},
    {"qwen2", 0,
     "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}|"
     " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"},
    {"qwen35", 0,
     "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}|"
     " ?[^\\s\\p{L}\\p{M}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"},
    {"minicpm5", 1,
     "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}+|"
     " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"},
    {"falcon", 0, "[\\p{P}\\$\\+<=>\\^~\\|`]+"},
    {"falcon", 2, "[0-9][0-9][0-9]"},
    {"default", 0, "[\\p{P}\\$\\+<=>\\^~\\|]+"},
    {"default", 2, "\\p{N}+"},
    {"deepseek-llm", 0, "[\\r\\n]"},
    {"deepseek-llm", 2, "\\s?[!-/:-~！-／：-～‘-‟\\x{3001}\\x{3002}]+"},
    {"deepseek-llm", 3, "\\s+\\z"},
    {"deepseek-llm", 4, "(?:(?!\\s)[一-龥ࠀ-一가-\\x{D7FF}])+"},
    {"deepseek-coder", 1, "\\s?\\p{L}+"},
    {"deepseek-coder", 2, "\\s?\\p{P}+"},
    {"deepseek-v3", 0, "\\p{N}{1,3}"},
    {"gemma4", 0, "[^\\n]+|\\n+"},
};

/* Characters where PCRE2 (Unicode 14, and U+180E as white space) and the published tables are of one mind. */
static uint32_t random_character(struct random *random)
{
    static const char often[] = "aAsStTdDmMrReEvVlLzZ''''''  \n\n\r\t\v019.!<=`^_-$+";
    static const uint32_t odd[] = {0xA0,   0x85,   0x3000, 0x2003, 0x2028, 0xE9,   0x301,   0x93F,   0x4E00,
                                   0x9FA5, 0x9FA6, 0xAC00, 0xBD,   0x2167, 0x660,  0x1F999, 0x200D,  0x2019,
                                   0x3002, 0xFF01, 0x17F,  0x130,  0x7FF,  0x800,  0xD7FB,  0x10400, 0xE000,
                                   0xAD,   0x200B, 0xFEFF, 0xFFFD, 0x378,  0x1D7CE};
    uint64_t choice = random_below(random, 10);
    if (choice < 6) return (unsigned char)often[random_below(random, sizeof often - 1)];
    if (choice < 8) return odd[random_below(random, ARRAY_COUNT(odd))];
    for (;;) {
        uint32_t code_point = (uint32_t)random_below(random, choice == 8 ? 0x600 : 0xAC00);
        bool disputed = code_point == 0x180E || code_point == 0xCF3 || code_point == 0xECE || code_point == 0x31EF ||
                        (code_point >= 0x2FFC && code_point <= 0x2FFF) || code_point == 0;
        if (!disputed) return code_point;
    }
}

static size_t random_text(struct random *random, char *text)
{
    size_t bytes = 0, wanted = random_below(random, 2) ? 12 : TEXT_BYTES - 100;
    while (bytes < wanted) {
        uint32_t character = random_character(random);
        for (uint64_t repeat = random_below(random, 8) ? 1 : random_below(random, 9); repeat && bytes < TEXT_BYTES - 8;
             repeat--)
            bytes += utf8_encode(character, text + bytes);
        if (random_below(random, 10) == 0) break;
    }
    return bytes;
}

/* Where PCRE2 cuts text[0, bytes): after each match, and before it. */
static size_t cut_by_pattern(const pcre2_code *pattern, pcre2_match_data *match, const char *text, size_t bytes,
                             size_t *ends)
{
    size_t count = 0;
    for (size_t at = 0; at < bytes;) {
        int code = pcre2_match(pattern, (PCRE2_SPTR)text, bytes, at, 0, match, NULL);
        if (code == PCRE2_ERROR_NOMATCH) {
            ends[count++] = bytes;
            break;
        }
        assert_true(code > 0);
        const PCRE2_SIZE *places = pcre2_get_ovector_pointer(match);
        assert_true(places[1] > places[0]);
        if (places[0] > at) ends[count++] = places[0];
        ends[count++] = at = places[1];
    }
    return count;
}

static void test_against_pcre2(void **state)
{
    (void)state;
    struct random random;
    random_seed(&random, 5);
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        const struct pretokenizer_type *type = pretokenizer_type_find(cases[i].type, strlen(cases[i].type));
        assert_non_null(type);
        int code;
        PCRE2_SIZE offset;
        pcre2_code *pattern = pcre2_compile((PCRE2_SPTR)cases[i].pattern, PCRE2_ZERO_TERMINATED, PCRE2_UTF | PCRE2_UCP,
                                            &code, &offset, NULL);
        assert_non_null(pattern);
        pcre2_match_data *match = pcre2_match_data_create(1, NULL);
        for (uint32_t round = 0; round < test_count(2000, 100000); round++) {
            char text[TEXT_BYTES];
            size_t ends[TEXT_BYTES], at = 0;
            const size_t bytes = random_text(&random, text);
            const size_t count = cut_by_pattern(pattern, match, text, bytes, ends);
            for (size_t piece = 0; piece < count; piece++) {
                at = pass_next(&type->passes[cases[i].pass], text, at, bytes);
                if (at != ends[piece])
                    fail_msg("%s, pass %u: \"%.*s\" is cut at %zu, PCRE2 cuts at %zu", cases[i].type, cases[i].pass,
                             (int)bytes, text, at, ends[piece]);
            }
            assert_int_equal(at, bytes);
        }
        pcre2_match_data_free(match);
        pcre2_code_free(pattern);
    }
}

struct words {
    size_t end, count;
};

static enum status follow(void *data, size_t begin, size_t end)
{
    struct words *words = data;
    assert_int_equal(begin, words->end);
    assert_true(end > begin);
    words->end = end;
    words->count++;
    return words->count == 1000 ? ST_CANCELLED : ST_OK;
}

/* Any bytes: the words are the text, none is empty. */
static void test_any_bytes(void **state)
{
    (void)state;
    static const char *const names[] = {"gpt-2",   "qwen2",        "qwen35",         "llama-bpe",   "falcon",
                                        "default", "deepseek-llm", "deepseek-coder", "deepseek-v3", "gemma4",
                                        "tekken",  "gpt-4o",       "viking",         "jais-2"};
    struct random random;
    random_seed(&random, 6);
    for (size_t i = 0; i < ARRAY_COUNT(names); i++) {
        struct pretokenizer *pretokenizer;
        assert_int_equal(pretokenizer_open(names[i], strlen(names[i]), &pretokenizer, NULL), ST_OK);
        for (uint32_t round = 0; round < test_count(500, 20000); round++) {
            char text[TEXT_BYTES];
            size_t bytes = random_text(&random, text);
            for (uint64_t strays = random_below(&random, 5); strays && bytes; strays--)
                text[random_below(&random, bytes)] = (char)random_next(&random);
            struct words words = {0};
            assert_int_equal(pretokenizer_split(pretokenizer, text, bytes, follow, &words, NULL), ST_OK);
            assert_int_equal(words.end, bytes);
        }
        pretokenizer_close(pretokenizer);
    }
}

static void test_stop(void **state)
{
    (void)state;
    struct pretokenizer *pretokenizer;
    struct words words = {0};
    char text[2000];
    for (size_t i = 0; i < sizeof text; i++) text[i] = "a."[i % 2];
    assert_int_equal(pretokenizer_open("gpt-2", 5, &pretokenizer, NULL), ST_OK);
    assert_int_equal(pretokenizer_split(pretokenizer, text, sizeof text, follow, &words, NULL), ST_CANCELLED);
    assert_int_equal(words.count, 1000);
    pretokenizer_close(pretokenizer);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_against_pcre2),
        cmocka_unit_test(test_any_bytes),
        cmocka_unit_test(test_stop),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
