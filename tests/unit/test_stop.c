/* test_stop.c - stop texts over a stream in pieces, against a plain search of the whole. */
#include "base/base.h"
#include "engine/stop.h"
#include "support.h"

/* Puts `text` in pieces of 1…most bytes; what passed is in `out`. */
static bool run(const char *const *stops, size_t count, const char *text, uint32_t most, struct random *random,
                struct buffer *out)
{
    struct stopper stopper;
    buffer_init(out, 0);
    assert_int_equal(stopper_init(&stopper, stops, count, NULL), ST_OK);
    for (size_t at = 0, bytes = strlen(text); at < bytes;) {
        size_t piece = 1 + random_below(random, most);
        if (piece > bytes - at) piece = bytes - at;
        stopper_put(&stopper, text + at, piece, out);
        at += piece;
    }
    stopper_finish(&stopper, out);
    buffer_append(out, "", 0);
    bool stopped = stopper.stopped;
    stopper_release(&stopper);
    return stopped;
}

/* The stop text that ends first, the longest of those: where it begins, or the whole length. */
static size_t search(const char *const *stops, size_t count, const char *text, bool *found)
{
    size_t bytes = strlen(text);
    *found = false;
    for (size_t end = 1; end <= bytes; end++) {
        size_t longest = 0;
        for (size_t i = 0; i < count; i++) {
            size_t length = strlen(stops[i]);
            if (length <= end && length > longest && memcmp(text + end - length, stops[i], length) == 0)
                longest = length;
        }
        *found = longest > 0;
        if (longest) return end - longest;
    }
    return bytes;
}

static void test_examples(void **state)
{
    (void)state;
    static const struct {
        const char *stops[3], *text, *shown;
        bool stopped;
    } cases[] = {
        {{"END"}, "some text END more", "some text ", true},
        {{"END"}, "some text EN", "some text EN", false},
        {{"aab"}, "aaaab", "aa", true},
        {{"abab"}, "abaabab", "aba", true},
        {{"\n\n", "User:"}, "Hi\nUser: x", "Hi\n", true},
        {{"x"}, "xyz", "", true},
        {{"bcd", "abcde"}, "zabcde", "za", true}, /* bcd is complete first */
        {{"cde", "abcde"}, "zabcde", "z", true},  /* both at once: the longest */
        {{"ü"}, "fünf", "f", true},
        {{"é"}, "è", "è", false}, /* one byte in common */
    };
    struct random random;
    random_seed(&random, 1);
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        size_t count = 0;
        while (count < 3 && cases[i].stops[count]) count++;
        for (uint32_t most = 1; most < 5; most++) {
            struct buffer out;
            assert_int_equal(run(cases[i].stops, count, cases[i].text, most, &random, &out), cases[i].stopped);
            assert_string_equal(out.data, cases[i].shown);
            buffer_release(&out);
        }
    }
}

static void random_text(struct random *random, char *text, size_t least, size_t most)
{
    size_t bytes = least + random_below(random, most - least + 1);
    for (size_t i = 0; i < bytes; i++) text[i] = (char)('a' + random_below(random, 2));
    text[bytes] = '\0';
}

static void test_random(void **state)
{
    (void)state;
    struct random random;
    random_seed(&random, 2);
    for (uint32_t c = 0; c < test_count(20000, 500000); c++) {
        char texts[3][16], text[60];
        const char *stops[3] = {texts[0], texts[1], texts[2]};
        size_t count = 1 + random_below(&random, 3);
        for (size_t i = 0; i < count; i++) random_text(&random, texts[i], 1, 9);
        random_text(&random, text, 0, 50);
        bool expected;
        size_t shown = search(stops, count, text, &expected);
        struct buffer out;
        assert_int_equal(run(stops, count, text, 6, &random, &out), expected);
        assert_int_equal(out.length, shown);
        assert_memory_equal(out.data, text, shown);
        buffer_release(&out);
    }
}

/* Held back is what could become a stop text, and no byte more. */
static void test_holds_no_more_than_needed(void **state)
{
    (void)state;
    const char *stops[] = {"<end>", "endless"};
    struct stopper stopper;
    struct buffer out;
    buffer_init(&out, 0);
    assert_int_equal(stopper_init(&stopper, stops, 2, NULL), ST_OK);
    stopper_put(&stopper, "weekend", 7, &out);
    assert_int_equal(out.length, 4); /* "end" could become "endless" */
    stopper_put(&stopper, "s <", 3, &out);
    assert_int_equal(out.length, 9);
    stopper_put(&stopper, "x", 1, &out);
    assert_string_equal(out.data, "weekends <x");
    stopper_put(&stopper, "<end>tail", 9, &out);
    assert_true(stopper.stopped);
    stopper_put(&stopper, "more", 4, &out);
    stopper_finish(&stopper, &out);
    assert_string_equal(out.data, "weekends <x");
    stopper_release(&stopper);
    buffer_release(&out);
}

static void test_the_stop_text_may_pass(void **state)
{
    (void)state;
    const char *stops[] = {"ab", "xab", "q"};
    for (size_t step = 1; step < 6; step++) {
        struct stopper stopper;
        struct buffer out;
        buffer_init(&out, 0);
        assert_int_equal(stopper_init(&stopper, stops, 3, NULL), ST_OK);
        stopper.include = true;
        for (size_t at = 0; at < 12; at += step)
            stopper_put(&stopper, &"one xa xab ab"[at], step < 12 - at ? step : 12 - at, &out);
        stopper_finish(&stopper, &out);
        assert_string_equal(out.data, "one xa xab");
        stopper_release(&stopper);
        buffer_release(&out);
    }
}

static void test_limits(void **state)
{
    (void)state;
    struct stopper stopper;
    struct error error = {0};
    char long_text[STOP_BYTES_MAX + 2];
    memset(long_text, 'a', sizeof long_text - 1);
    long_text[sizeof long_text - 1] = '\0';
    const char *empty[] = {"x", ""}, *too_long[] = {long_text}, *none[] = {NULL}, *most[STOP_COUNT_MAX + 1];
    assert_int_equal(stopper_init(&stopper, empty, 2, &error), ST_INVALID);
    assert_non_null(strstr(error.text, "stop text 2"));
    assert_int_equal(stopper_init(&stopper, too_long, 1, &error), ST_INVALID);
    assert_int_equal(stopper_init(&stopper, none, 1, &error), ST_INVALID);
    for (size_t i = 0; i < ARRAY_COUNT(most); i++) most[i] = long_text + 1; /* the longest allowed */
    assert_int_equal(stopper_init(&stopper, most, STOP_COUNT_MAX + 1, &error), ST_INVALID);
    assert_int_equal(stopper_init(&stopper, most, STOP_COUNT_MAX, &error), ST_OK);
    struct buffer out;
    buffer_init(&out, 0);
    for (uint32_t i = 0; i < 3 * STOP_BYTES_MAX; i++) stopper_put(&stopper, i % 1000 == 999 ? "b" : "a", 1, &out);
    assert_true(stopper.stopped == false);
    stopper_release(&stopper);
    buffer_release(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_examples),
        cmocka_unit_test(test_random),
        cmocka_unit_test(test_holds_no_more_than_needed),
        cmocka_unit_test(test_the_stop_text_may_pass),
        cmocka_unit_test(test_limits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
