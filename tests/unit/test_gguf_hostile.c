/* test_gguf_hostile.c - GGUF files made to harm: the published attacks on other loaders, truncation, bit flips, absurd
 * counts, failing memory. Each must end in one clear line. Run under the address sanitizer to see reads outside. */
#include "format/format_internal.h"
#include "gguf_writer.h"
#include "scratch.h"

static struct buffer file;
static struct error error;

static int begin(void **state)
{
    (void)state;
    buffer_init(&file, 0);
    error = (struct error){0};
    return 0;
}

static int end(void **state)
{
    (void)state;
    buffer_release(&file);
    return 0;
}

static void assert_one_line(void)
{
    assert_true(error.text[0] != 0);
    for (const char *at = error.text; *at; at++) assert_true((unsigned char)*at >= 0x20);
}

/* Opens a copy of exactly `count` bytes, so that a read beyond them is seen. */
static enum status open_copy(const void *bytes, size_t count, struct format **format, unsigned char **copy)
{
    *copy = malloc(count ? count : 1);
    assert_non_null(*copy);
    memcpy(*copy, bytes, count);
    error = (struct error){0};
    enum status status = format_open_bytes(FORMAT_GGUF, *copy, count, false, format, &error);
    if (status != ST_OK) assert_one_line();
    return status;
}

static void refused(enum status wanted, const char *text)
{
    struct format *format = NULL;
    unsigned char *copy;
    enum status status = open_copy(file.data, file.length, &format, &copy);
    if (!strstr(error.text, text)) fail_msg("\"%s\" does not say \"%s\"", error.text, text);
    assert_int_equal(status, wanted);
    free(copy);
    buffer_release(&file);
}

static volatile unsigned char sink;

/* Touches everything that an opened model offers. */
static void use_all(const struct format *format)
{
    for (uint32_t i = 0; i < format_key_count(format); i++) {
        struct buffer text;
        uint64_t count;
        buffer_init(&text, 0);
        const char *key = format_key_at(format, i, &text);
        buffer_release(&text);
        if (format_get_array(format, key, &count, NULL) != ST_OK) continue;
        for (uint64_t k = 0; k < count; k++) {
            const char *item;
            size_t bytes;
            int64_t number;
            if (format_get_array_text(format, key, k, &item, &bytes, NULL) == ST_OK) {
                for (size_t b = 0; b < bytes; b++) sink = (unsigned char)item[b];
            } else if (format_get_array_i64(format, key, k, &number, NULL) == ST_OK) {
                sink = (unsigned char)number;
            }
        }
    }
    for (uint32_t i = 0; i < format_tensor_count(format); i++) {
        const struct format_tensor *tensor = format_tensor_at(format, i);
        for (uint64_t b = 0; b < tensor->bytes; b++) sink = ((const unsigned char *)tensor->data)[b];
    }
}

/* ---- published attacks on loaders of GGUF files: what each does, and that it is refused here ---- */

static void model_with_one_tensor(void)
{
    gguf_header(&file, 3, 1, 1);
    gguf_key_text(&file, "general.architecture", "llama");
}

/* CVE-2024-21802 (TALOS-2024-1914): more dimensions than ggml's fixed array of four overran it. */
static void test_cve_2024_21802_dimensions(void **state)
{
    (void)state;
    static const uint32_t counts[] = {0, 5, 8, 0x7fffffff, UINT32_MAX};
    for (size_t i = 0; i < ARRAY_COUNT(counts); i++) {
        model_with_one_tensor();
        gguf_text(&file, "weight");
        gguf_u32(&file, counts[i]);
        for (int k = 0; k < 64; k++) gguf_u64(&file, 0x4141414141414141);
        refused(ST_INVALID, "dimensions");
    }
}

/* CVE-2024-23496 (TALOS-2024-1913): a text's length of 2^64 - 1, whose length + 1 is allocated as 0 bytes. */
static void test_cve_2024_23496_text_length(void **state)
{
    (void)state;
    static const uint64_t lengths[] = {UINT64_MAX, UINT64_MAX - 7, (uint64_t)1 << 63, (uint64_t)1 << 32, 4097};
    for (size_t i = 0; i < ARRAY_COUNT(lengths); i++) {
        gguf_header(&file, 3, 0, 1); /* as a key's name */
        gguf_u64(&file, lengths[i]);
        gguf_zeros(&file, 4096);
        refused(ST_INVALID, "the file ends inside metadata key 0");
        gguf_header(&file, 3, 0, 1); /* as a value */
        gguf_key(&file, "general.architecture", GGUF_TEXT, &lengths[i], 8);
        gguf_zeros(&file, 4096);
        refused(ST_INVALID, "the file ends inside metadata key 'general.architecture'");
        gguf_header(&file, 3, 0, 1); /* as an array's item */
        gguf_key_array(&file, "tokenizer.ggml.tokens", GGUF_TEXT, 2);
        gguf_text(&file, "ok");
        gguf_u64(&file, lengths[i]);
        gguf_zeros(&file, 4096);
        refused(ST_INVALID, "the file ends inside metadata key 'tokenizer.ggml.tokens'");
        model_with_one_tensor(); /* as a tensor's name */
        gguf_u64(&file, lengths[i]);
        gguf_zeros(&file, 4096);
        refused(ST_INVALID, "the file ends inside entry 0 of the tensor list");
    }
}

/* CVE-2024-21825 (TALOS-2024-1912): an array's count times its item size wraps to a small allocation. */
static void test_cve_2024_21825_array_count(void **state)
{
    (void)state;
    for (uint32_t item = GGUF_U8; item <= GGUF_F64; item++) {
        static const uint64_t counts[] = {((uint64_t)1 << 60) + 1, ((uint64_t)1 << 61) + 1, ((uint64_t)1 << 62) + 1,
                                          UINT64_MAX, 4097};
        for (size_t i = 0; item != GGUF_ARRAY && i < ARRAY_COUNT(counts); i++) {
            gguf_header(&file, 3, 0, 1);
            gguf_key_array(&file, "tokenizer.ggml.scores", item, counts[i]);
            gguf_zeros(&file, 4096);
            refused(ST_INVALID, "items, more than the file has room for");
        }
    }
}

/* CVE-2024-21836 (TALOS-2024-1915): the header's tensor count times an entry's size wraps. */
static void test_cve_2024_21836_tensor_count(void **state)
{
    (void)state;
    static const uint64_t counts[] = {UINT64_MAX, 0x02e8ba2e8ba2e8bb /* * 88 wraps */, (uint64_t)1 << 32, 1000};
    for (size_t i = 0; i < ARRAY_COUNT(counts); i++) {
        gguf_header(&file, 3, counts[i], 1);
        gguf_key_text(&file, "general.architecture", "llama");
        gguf_zeros(&file, 4096);
        refused(ST_INVALID, "tensors, more than the file can hold");
    }
}

/* CVE-2024-23605 (TALOS-2024-1916): the header's key count times an entry's size wraps. */
static void test_cve_2024_23605_key_count(void **state)
{
    (void)state;
    static const uint64_t counts[] = {UINT64_MAX, 0x0555555555555556 /* * 48 wraps */, (uint64_t)1 << 32, 1000};
    for (size_t i = 0; i < ARRAY_COUNT(counts); i++) {
        gguf_header(&file, 3, 0, counts[i]);
        gguf_key_text(&file, "general.architecture", "llama");
        gguf_zeros(&file, 4096);
        refused(ST_INVALID, "metadata keys, more than the file can hold");
    }
}

/* CVE-2025-53630: the tensors' sizes, each possible, add up past 2^64, so the data that is read is allocated small. */
static void test_cve_2025_53630_sum_of_sizes(void **state)
{
    (void)state;
    gguf_header(&file, 3, 3, 1);
    gguf_key_text(&file, "general.architecture", "llama");
    gguf_tensor(&file, "first", 0, (uint64_t)1 << 30, (uint64_t)1 << 31, 0);                  /* 2^63 bytes */
    gguf_tensor(&file, "second", 0, (uint64_t)1 << 30, (uint64_t)1 << 31, (uint64_t)1 << 63); /* and 2^63 */
    gguf_tensor(&file, "third", 0, 0, 8, 0);
    gguf_pad(&file, 32);
    gguf_zeros(&file, 64);
    refused(ST_INVALID, "tensor 'first' (9223372036854775808 bytes at offset");
}

/* CVE-2026-27940: past that fix's check, the padding and overhead that are added to the sum wrap it. */
static void test_cve_2026_27940_size_near_the_top(void **state)
{
    (void)state;
    static const uint64_t elements[] = {UINT64_MAX / 4, UINT64_MAX / 4 - 8, UINT64_MAX / 4 - 100};
    for (size_t i = 0; i < ARRAY_COUNT(elements); i++) {
        model_with_one_tensor();
        gguf_tensor(&file, "weight", 0, 0, elements[i], 0);
        gguf_pad(&file, 32);
        gguf_zeros(&file, 64);
        refused(ST_INVALID, "does not lie inside the file");
    }
}

/* CVE-2026-33298: a tensor's own byte count wraps: by its dimensions' product, or by elements times block bytes. */
static void test_cve_2026_33298_byte_count(void **state)
{
    (void)state;
    static const struct {
        uint32_t type;
        uint64_t rows, columns;
        const char *text;
    } cases[] = {
        {0, (uint64_t)1 << 32, (uint64_t)1 << 32, "more elements than 64 bits"},
        {0, ((uint64_t)1 << 42) + 1, (uint64_t)1 << 22, "more elements than 64 bits"},
        {0, 1, (uint64_t)1 << 62, "larger than 64 bits"},
        {2, 1, 5124095576030431008, "does not lie inside"}, /* * 18 wraps to 64 before the division by 32 */
        {8, 1, UINT64_MAX - 31, "larger than 64 bits"},
        {0, UINT64_MAX, UINT64_MAX, "more elements than 64 bits"},
        {0, 1, 0, "dimension of size 0"},
        {12, 4, 128, "not a whole number"}, /* rows of half a block: 512 elements are two whole ones */
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        model_with_one_tensor();
        gguf_tensor(&file, "weight", cases[i].type, cases[i].rows, cases[i].columns, 0);
        gguf_pad(&file, 32);
        gguf_zeros(&file, 4096);
        refused(ST_INVALID, cases[i].text);
        assert_non_null(strstr(error.text, "'weight'"));
    }
}

/* CVE-2025-49847: a vocabulary entry of more than 2^31 bytes, whose length became negative when a token was copied. The
 * file is real in size (sparse), so its length field is not simply beyond the end. */
static void test_cve_2025_49847_long_token(void **state)
{
    (void)state;
    struct scratch scratch;
    struct format *format = NULL;
    const uint64_t bytes = ((uint64_t)1 << 31) + 16;
    gguf_header(&file, 3, 0, 2);
    gguf_key_text(&file, "general.architecture", "llama");
    gguf_key_array(&file, "tokenizer.ggml.tokens", GGUF_TEXT, 1);
    gguf_u64(&file, bytes);
    scratch_init(&scratch);
    scratch_write(&scratch, "long.gguf", file.data, file.length);
    assert_int_equal(truncate(scratch_path(&scratch, "long.gguf"), (off_t)(file.length + bytes)), 0);
    assert_int_equal(format_open(scratch.path, true, &format, &error), ST_LIMIT);
    assert_one_line();
    assert_non_null(strstr(error.text, "'tokenizer.ggml.tokens' holds a text of 2147483664 bytes"));
    scratch_release(&scratch);
}

/* CVE-2026-7482: a tensor whose shape or offset reaches beyond the file, so that its reader took what lay behind. */
static void test_cve_2026_7482_tensor_beyond_the_file(void **state)
{
    (void)state;
    static const struct {
        uint64_t columns, offset;
    } cases[] = {{16, 64}, {17, 0}, {1u << 30, 0}, {8, 4096}, {8, (uint64_t)1 << 62}, {8, UINT64_MAX - 63}};
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        model_with_one_tensor();
        gguf_tensor(&file, "weight", 0, 0, cases[i].columns, cases[i].offset);
        gguf_pad(&file, 32);
        gguf_zeros(&file, 64); /* room for 16 elements at offset 0 */
        refused(ST_INVALID, "'weight'");
    }
}

/* ---- damage of every kind ---- */

static void test_truncated_anywhere(void **state)
{
    (void)state;
    gguf_small_model(&file);
    for (size_t bytes = 1; bytes < file.length; bytes++) {
        struct format *format = NULL;
        unsigned char *copy;
        assert_int_not_equal(open_copy(file.data, bytes, &format, &copy), ST_OK);
        free(copy);
    }
}

static void test_bit_flips(void **state)
{
    (void)state;
    const size_t header = gguf_small_model(&file);
    const uint32_t count = test_count(10000, 500000);
    struct random random;
    uint32_t opened = 0;
    random_seed(&random, 20240);
    for (uint32_t i = 0; i < count; i++) {
        struct format *format = NULL;
        unsigned char *copy;
        uint64_t flips = 1 + random_below(&random, 3), places[3];
        for (uint64_t k = 0; k < flips; k++) {
            places[k] = random_below(&random, header * 8);
            file.data[places[k] / 8] ^= (char)(1 << places[k] % 8);
        }
        if (open_copy(file.data, file.length, &format, &copy) == ST_OK) {
            use_all(format);
            format_close(format);
            opened++;
        }
        free(copy);
        for (uint64_t k = 0; k < flips; k++) file.data[places[k] / 8] ^= (char)(1 << places[k] % 8);
    }
    assert_true(opened > 0 && opened < count); /* a flip in a value is still a file; one in a length is not */
}

static void test_absurd_numbers_anywhere(void **state)
{
    (void)state;
    static const uint64_t values[] = {0,
                                      1,
                                      0x7f,
                                      0xff,
                                      0x7fff,
                                      0xffff,
                                      0x7fffffff,
                                      0x80000000,
                                      0xffffffff,
                                      (uint64_t)1 << 32,
                                      INT64_MAX,
                                      (uint64_t)1 << 63,
                                      UINT64_MAX - 8,
                                      UINT64_MAX};
    const size_t header = gguf_small_model(&file);
    for (size_t at = 0; at + 8 <= header; at++) {
        for (size_t i = 0; i < ARRAY_COUNT(values); i++) {
            for (size_t width = 4; width <= 8; width += 4) {
                char saved[8];
                struct format *format = NULL;
                unsigned char *copy;
                memcpy(saved, file.data + at, 8);
                memcpy(file.data + at, &values[i], width);
                if (open_copy(file.data, file.length, &format, &copy) == ST_OK) {
                    use_all(format);
                    format_close(format);
                }
                free(copy);
                memcpy(file.data + at, saved, 8);
            }
        }
    }
}

static void test_every_allocation_may_fail(void **state)
{
    (void)state;
    gguf_small_model(&file);
    for (uint64_t nth = 1;; nth++) {
        struct format *format = NULL;
        error = (struct error){0};
        fault_arm(FAULT_ALLOC, nth);
        enum status status = format_open_bytes(FORMAT_GGUF, file.data, file.length, false, &format, &error);
        uint64_t calls = fault_count(FAULT_ALLOC);
        fault_arm(FAULT_NONE, 0);
        if (status == ST_OK) {
            assert_true(calls < nth && nth > 3);
            format_close(format);
            break;
        }
        assert_int_equal(status, ST_NOMEM);
        assert_one_line();
    }
}

/* A megabyte of empty texts must not cost more than its offsets; a key count in the millions is refused. */
static void test_counts_that_fit_the_file(void **state)
{
    (void)state;
    const uint64_t count = 1 << 17;
    struct format *format = NULL;
    gguf_header(&file, 3, 0, 2);
    gguf_key_text(&file, "general.architecture", "llama");
    gguf_key_array(&file, "tokenizer.ggml.tokens", GGUF_TEXT, count);
    gguf_zeros(&file, count * 8);
    assert_int_equal(format_open_bytes(FORMAT_GGUF, file.data, file.length, false, &format, &error), ST_OK);
    use_all(format);
    format_close(format);
    buffer_release(&file);
    gguf_header(&file, 3, 0, 100000);
    gguf_zeros(&file, 100000 * 14);
    refused(ST_INVALID, "100000 metadata keys");
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, begin, end)
int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_cve_2024_21802_dimensions),
        TEST(test_cve_2024_23496_text_length),
        TEST(test_cve_2024_21825_array_count),
        TEST(test_cve_2024_21836_tensor_count),
        TEST(test_cve_2024_23605_key_count),
        TEST(test_cve_2025_53630_sum_of_sizes),
        TEST(test_cve_2026_27940_size_near_the_top),
        TEST(test_cve_2026_33298_byte_count),
        TEST(test_cve_2025_49847_long_token),
        TEST(test_cve_2026_7482_tensor_beyond_the_file),
        TEST(test_truncated_anywhere),
        TEST(test_bit_flips),
        TEST(test_absurd_numbers_anywhere),
        TEST(test_every_allocation_may_fail),
        TEST(test_counts_that_fit_the_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
