/* test_safetensors.c - one safetensors file: what is read, and every way in which its header may lie. */
#include "format/format_internal.h"
#include "support.h"

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

/* A file of this header and `data_bytes` bytes of data: 0, 1, 2 … */
static void write_file(const char *header, size_t data_bytes)
{
    uint64_t bytes = strlen(header);
    buffer_release(&file);
    buffer_init(&file, 0);
    buffer_append(&file, &bytes, sizeof bytes);
    buffer_text(&file, header);
    for (size_t i = 0; i < data_bytes; i++) buffer_append(&file, &(unsigned char){(unsigned char)i}, 1);
    assert_false(file.failed);
}

/* Opens a copy of exactly `count` bytes, so that a read beyond them is seen by the address sanitizer. */
static enum status open_copy(size_t count, struct format **format, unsigned char **copy)
{
    *copy = malloc(count ? count : 1);
    assert_non_null(*copy);
    memcpy(*copy, file.data, count);
    error = (struct error){0};
    enum status status = format_open_bytes(FORMAT_HUGGING_FACE, *copy, count, false, format, &error);
    if (status != ST_OK) {
        assert_true(error.text[0] != 0);
        assert_null(strchr(error.text, '\n'));
    }
    return status;
}

static void refused(enum status wanted, const char *text)
{
    struct format *format = NULL;
    unsigned char *copy;
    enum status status = open_copy(file.length, &format, &copy);
    if (!strstr(error.text, text)) fail_msg("\"%s\" does not say \"%s\"", error.text, text);
    assert_int_equal(status, wanted);
    free(copy);
}

static const char small[] =
    "{\"__metadata__\":{\"format\":\"pt\"},"
    "\"model.embed_tokens.weight\":{\"dtype\":\"BF16\",\"shape\":[3,2],\"data_offsets\":[4,16]},"
    "\"scale\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]},"
    "\"model.layers.1.mlp.up_proj.bias\":{\"dtype\":\"F16\",\"shape\":[1,2,1,2],"
    "\"data_offsets\":[16,24]}}   ";

static void test_tensors(void **state)
{
    (void)state;
    struct format *format = NULL;
    write_file(small, 24);
    assert_int_equal(format_open_bytes(FORMAT_HUGGING_FACE, file.data, file.length, false, &format, &error), ST_OK);
    const unsigned char *data = (const unsigned char *)file.data + file.length - 24;
    assert_int_equal(format_kind(format), FORMAT_HUGGING_FACE);
    assert_int_equal(format_tensor_count(format), 3);
    const struct format_tensor *matrix = format_tensor_find(format, "token_embd.weight");
    const struct format_tensor *number = format_tensor_find(format, "scale");
    const struct format_tensor *four = format_tensor_find(format, "blk.1.ffn_up.bias");
    assert_true(matrix && number && four);
    assert_int_equal(matrix->format, NF_BF16);
    assert_int_equal(matrix->dimensions, 2);
    assert_int_equal(matrix->shape[0], 3);
    assert_int_equal(matrix->shape[1], 2);
    assert_int_equal(matrix->elements, 6);
    assert_int_equal(matrix->bytes, 12);
    assert_ptr_equal(matrix->data, data + 4);
    assert_int_equal(number->format, NF_F32);
    assert_int_equal(number->dimensions, 1);
    assert_int_equal(number->elements, 1);
    assert_ptr_equal(number->data, data);
    assert_int_equal(four->format, NF_F16);
    assert_int_equal(four->dimensions, 4);
    assert_int_equal(four->shape[3], 2);
    assert_ptr_equal(four->data, data + 16);
    format_close(format);
}

static void test_empty_header(void **state)
{
    (void)state;
    struct format *format = NULL;
    write_file("{}", 0);
    assert_int_equal(format_open_bytes(FORMAT_HUGGING_FACE, file.data, file.length, false, &format, &error), ST_OK);
    assert_int_equal(format_tensor_count(format), 0);
    format_close(format);
}

/* Headers that lie, each over 8 bytes of data; one tensor "w" where not said otherwise. */
static void test_lies(void **state)
{
    (void)state;
    static const struct {
        const char *header, *text;
        enum status status;
    } cases[] = {
        {"", "JSON, line 1", ST_INVALID},
        {"[]", "not a JSON object", ST_INVALID},
        {"{\"w\":1}", "no valid data_offsets", ST_INVALID},
        {"{\"w\":{}", "JSON, line 1", ST_INVALID},
        {"{\"w\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}} x", "JSON, line 1", ST_INVALID},
        {"{\"w\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0]}}", "data_offsets", ST_INVALID},
        {"{\"w\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[8,0]}}", "data_offsets", ST_INVALID},
        {"{\"w\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[-8,0]}}", "data_offsets", ST_INVALID},
        {"{\"w\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0.0,8.0]}}", "data_offsets", ST_INVALID},
        {"{\"w\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,18446744073709551615]}}", "JSON", ST_INVALID},
        {"{\"w\":{\"dtype\":\"F32\",\"shape\":[3],\"data_offsets\":[0,12]}}", "end at byte 12 of 8", ST_INVALID},
        {"{\"w\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", "end at byte 4 of 8", ST_INVALID},
        {"{\"w\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}", "gap of 4 bytes", ST_INVALID},
        {"{\"w\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[9223372036854775807,9223372036854775807]}}", "gap",
         ST_INVALID},
        {"{\"v\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},"
         "\"w\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}",
         "overlaps", ST_INVALID},
        {"{\"w\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},"
         "\"w\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}",
         "duplicate", ST_INVALID},
        {"{\"lm_head.weight\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},"
         "\"output.weight\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}",
         "'output.weight' appears twice", ST_INVALID},
        {"{\"w\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,8]}}", "4 bytes by its shape, 8 by", ST_INVALID},
        {"{\"w\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0,8]}}", "'w'", ST_INVALID},
        {"{\"w\":{\"dtype\":\"F32\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,8]}}", "64 bits", ST_INVALID},
        {"{\"w\":{\"dtype\":\"F32\",\"shape\":[4611686018427387906],\"data_offsets\":[0,8]}}", "64 bits", ST_INVALID},
        {"{\"w\":{\"dtype\":\"F32\",\"shape\":[0,2],\"data_offsets\":[0,8]}}", "dimension of size 0", ST_INVALID},
        {"{\"w\":{\"dtype\":\"F32\",\"shape\":[-2],\"data_offsets\":[0,8]}}", "whole numbers", ST_INVALID},
        {"{\"w\":{\"dtype\":\"F32\",\"shape\":[\"2\"],\"data_offsets\":[0,8]}}", "whole numbers", ST_INVALID},
        {"{\"w\":{\"dtype\":\"F32\",\"shape\":[1,1,1,1,2],\"data_offsets\":[0,8]}}", "at most 4 dimensions",
         ST_INVALID},
        {"{\"w\":{\"dtype\":\"F32\",\"data_offsets\":[0,8]}}", "shape", ST_INVALID},
        {"{\"w\":{\"shape\":[2],\"data_offsets\":[0,8]}}", "no dtype", ST_INVALID},
        {"{\"w\":{\"dtype\":\"I64\",\"shape\":[1],\"data_offsets\":[0,8]}}", "'w' is kept as I64", ST_UNSUPPORTED},
        {"{\"w\":{\"dtype\":\"F8_E4M3\",\"shape\":[8],\"data_offsets\":[0,8]}}", "'w' is kept as F8_E4M3",
         ST_UNSUPPORTED},
        {"{\"\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", "a tensor's name", ST_INVALID},
        {"{\"a\\nb\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", "a tensor's name", ST_INVALID},
        {"{\"a\\u0000b\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", "JSON", ST_INVALID},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        write_file(cases[i].header, 8);
        refused(cases[i].status, cases[i].text);
    }
}

static void test_header_lengths(void **state)
{
    (void)state;
    static const struct {
        uint64_t length;
        const char *text;
    } cases[] = {{UINT64_MAX, "not a safetensors file"},
                 {(uint64_t)1 << 63, "not a safetensors file"},
                 {100000001, "not a safetensors file"},
                 {100000000, "the file ends inside its header"},
                 {10000, "the file ends inside its header"}};
    write_file(small, 24);
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        memcpy(file.data, &cases[i].length, 8);
        refused(ST_INVALID, cases[i].text);
    }
    file.length = 7;
    refused(ST_INVALID, "too short");
}

/* Two bytes of JSON that cost a hundred of memory, three million times. */
static void test_memory_is_bounded(void **state)
{
    (void)state;
    struct buffer header;
    buffer_init(&header, 0);
    buffer_text(&header, "{\"w\":[");
    for (int i = 0; i < 3000000; i++) buffer_text(&header, "[],");
    buffer_text(&header, "[]]}");
    write_file(header.data, 0);
    buffer_release(&header);
    refused(ST_LIMIT, "JSON values");
}

static void test_nesting_is_bounded(void **state)
{
    (void)state;
    struct buffer header;
    buffer_init(&header, 0);
    buffer_text(&header, "{\"w\":");
    for (int i = 0; i < 100000; i++) buffer_text(&header, "[");
    write_file(header.data, 0);
    buffer_release(&header);
    refused(ST_INVALID, "JSON");
}

static void test_truncated_anywhere(void **state)
{
    (void)state;
    write_file(small, 24);
    for (size_t bytes = 1; bytes < file.length; bytes++) {
        struct format *format = NULL;
        unsigned char *copy;
        assert_int_not_equal(open_copy(bytes, &format, &copy), ST_OK);
        free(copy);
    }
}

static void test_bit_flips(void **state)
{
    (void)state;
    const uint32_t count = test_count(10000, 200000);
    struct random random;
    uint32_t opened = 0;
    volatile unsigned char sink = 0;
    random_seed(&random, 77);
    write_file(small, 24);
    for (uint32_t i = 0; i < count; i++) {
        struct format *format = NULL;
        unsigned char *copy;
        uint64_t place = random_below(&random, (file.length - 24) * 8);
        file.data[place / 8] ^= (char)(1 << place % 8);
        if (open_copy(file.length, &format, &copy) == ST_OK) {
            for (uint32_t t = 0; t < format_tensor_count(format); t++) {
                const struct format_tensor *tensor = format_tensor_at(format, t);
                for (uint64_t b = 0; b < tensor->bytes; b++) sink = ((const unsigned char *)tensor->data)[b];
            }
            format_close(format);
            opened++;
        }
        free(copy);
        file.data[place / 8] ^= (char)(1 << place % 8);
    }
    (void)sink;
    assert_true(opened > 0 && opened < count);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, begin, end)
int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_tensors),
        TEST(test_empty_header),
        TEST(test_lies),
        TEST(test_header_lengths),
        TEST(test_memory_is_bounded),
        TEST(test_nesting_is_bounded),
        TEST(test_truncated_anywhere),
        TEST(test_bit_flips),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
