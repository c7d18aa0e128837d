/* test_gguf.c - well-formed GGUF files, and those that are refused by name. Hostile ones: test_gguf_hostile.c. */
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

static struct format *open_file(void)
{
    struct format *format = NULL;
    enum status status = format_open_bytes(FORMAT_GGUF, file.data, file.length, false, &format, &error);
    if (status != ST_OK) print_error("%s\n", error.text);
    assert_int_equal(status, ST_OK);
    return format;
}

static void refused(enum status wanted, const char *text)
{
    struct format *format = NULL;
    assert_int_equal(format_open_bytes(FORMAT_GGUF, file.data, file.length, false, &format, &error), wanted);
    assert_null(format);
    if (!strstr(error.text, text)) fail_msg("\"%s\" does not say \"%s\"", error.text, text);
}

/* ---- values ---- */

static void test_single_values(void **state)
{
    (void)state;
    gguf_small_model(&file);
    struct format *format = open_file();
    uint64_t u64;
    int64_t i64;
    double number;
    bool flag;
    const char *text;
    size_t bytes;
    assert_int_equal(format_get_u64(format, "a.u8", &u64, &error), ST_OK);
    assert_int_equal(u64, 255);
    assert_int_equal(format_get_u64(format, "a.u64", &u64, &error), ST_OK);
    assert_true(u64 == UINT64_MAX);
    assert_int_equal(format_get_i64(format, "a.i8", &i64, &error), ST_OK);
    assert_int_equal(i64, -8);
    assert_int_equal(format_get_i64(format, "a.i16", &i64, &error), ST_OK);
    assert_int_equal(i64, -1600);
    assert_int_equal(format_get_i64(format, "a.i32", &i64, &error), ST_OK);
    assert_int_equal(i64, -320000);
    assert_int_equal(format_get_i64(format, "a.i64", &i64, &error), ST_OK);
    assert_true(i64 == -6400000000);
    assert_int_equal(format_get_i64(format, "a.u16", &i64, &error), ST_OK);
    assert_int_equal(i64, 65535);
    assert_int_equal(format_get_double(format, "a.f32", &number, &error), ST_OK);
    assert_true(number == 0.5);
    assert_int_equal(format_get_double(format, "a.f64", &number, &error), ST_OK);
    assert_true(number == 0.25);
    assert_int_equal(format_get_double(format, "a.i16", &number, &error), ST_OK);
    assert_true(number == -1600);
    assert_int_equal(format_get_bool(format, "a.bool", &flag, &error), ST_OK);
    assert_true(flag);
    assert_int_equal(format_get_text(format, "general.architecture", &text, &bytes, &error), ST_OK);
    assert_string_equal(text, "llama");
    assert_int_equal(bytes, 5);
    assert_int_equal(format_get_u64(format, ".block_count", &u64, &error), ST_OK);
    assert_int_equal(u64, 7);
    assert_true(format_has(format, "a.bool"));
    assert_false(format_has(format, "a.boo"));
    format_close(format);
}

static void test_conversions_that_lose_are_refused(void **state)
{
    (void)state;
    gguf_small_model(&file);
    struct format *format = open_file();
    uint64_t u64;
    int64_t i64;
    double number;
    bool flag;
    const char *text;
    size_t bytes;
    assert_int_equal(format_get_u64(format, "a.i8", &u64, &error), ST_INVALID);
    assert_non_null(strstr(error.text, "a.i8"));
    assert_int_equal(format_get_u64(format, "a.f32", &u64, &error), ST_INVALID);
    assert_int_equal(format_get_u64(format, "a.bool", &u64, &error), ST_INVALID);
    assert_int_equal(format_get_i64(format, "a.u64", &i64, &error), ST_INVALID);
    assert_int_equal(format_get_i64(format, "a.bool", &i64, &error), ST_INVALID);
    assert_int_equal(format_get_double(format, "a.u64", &number, &error), ST_INVALID);
    assert_int_equal(format_get_double(format, "a.bool", &number, &error), ST_INVALID);
    assert_int_equal(format_get_bool(format, "a.u8", &flag, &error), ST_INVALID);
    assert_int_equal(format_get_text(format, "a.u8", &text, &bytes, &error), ST_INVALID);
    assert_int_equal(format_get_array(format, "a.u8", &u64, &error), ST_INVALID);
    assert_int_equal(format_get_u64(format, "a.numbers", &u64, &error), ST_INVALID);
    assert_int_equal(format_get_u64(format, "a.nothing", &u64, &error), ST_NOT_FOUND);
    assert_non_null(strstr(error.text, "a.nothing"));
    assert_int_equal(format_get_u64(format, ".nothing", &u64, NULL), ST_NOT_FOUND);
    format_close(format);
}

static void test_arrays(void **state)
{
    (void)state;
    gguf_small_model(&file);
    struct format *format = open_file();
    uint64_t count;
    int64_t i64;
    double number;
    const char *text;
    size_t bytes;
    assert_int_equal(format_get_array(format, "a.numbers", &count, &error), ST_OK);
    assert_int_equal(count, 3);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(format_get_array_i64(format, "a.numbers", (uint64_t)i, &i64, &error), ST_OK);
        assert_int_equal(i64, i - 1);
        assert_int_equal(format_get_array_double(format, "a.numbers", (uint64_t)i, &number, &error), ST_OK);
        assert_true(number == i - 1);
    }
    assert_int_equal(format_get_array_i64(format, "a.numbers", 3, &i64, &error), ST_INVALID);
    assert_int_equal(format_get_array_text(format, "a.numbers", 0, &text, &bytes, &error), ST_INVALID);
    const char *const wanted[] = {"one", "", "t\0o"};
    const size_t wanted_bytes[] = {3, 0, 3};
    for (uint64_t i = 0; i < 3; i++) {
        assert_int_equal(format_get_array_text(format, "a.texts", i, &text, &bytes, &error), ST_OK);
        assert_int_equal(bytes, wanted_bytes[i]);
        assert_memory_equal(text, wanted[i], bytes);
    }
    assert_int_equal(format_get_array_text(format, "a.texts", 3, &text, &bytes, &error), ST_INVALID);
    assert_int_equal(format_get_array_text(format, "a.texts", UINT64_MAX, &text, &bytes, &error), ST_INVALID);
    assert_int_equal(format_get_array_i64(format, "a.texts", 0, &i64, &error), ST_INVALID);
    format_close(format);
}

static void test_rendering(void **state)
{
    (void)state;
    const char *const wanted[][2] = {{"general.architecture", "\"llama\""},
                                     {"a.i64", "-6400000000"},
                                     {"a.u64", "18446744073709551615"},
                                     {"a.bool", "true"},
                                     {"a.f32", "0.5"},
                                     {"a.numbers", "[-1, 0, 1]"},
                                     {"a.texts", "[\"one\", \"\", \"t?o\"]"}};
    gguf_small_model(&file);
    struct format *format = open_file();
    size_t found = 0;
    assert_int_equal(format_key_count(format), 14);
    for (uint32_t i = 0; i < format_key_count(format); i++) {
        struct buffer text;
        buffer_init(&text, 0);
        const char *key = format_key_at(format, i, &text);
        for (size_t k = 0; k < ARRAY_COUNT(wanted); k++) {
            if (strcmp(key, wanted[k][0]) != 0) continue;
            assert_string_equal(text.data, wanted[k][1]);
            found++;
        }
        buffer_release(&text);
    }
    assert_int_equal(found, ARRAY_COUNT(wanted));
    format_close(format);
}

/* ---- tensors ---- */

static void test_tensors(void **state)
{
    (void)state;
    gguf_small_model(&file);
    struct format *format = open_file();
    assert_int_equal(format_kind(format), FORMAT_GGUF);
    assert_int_equal(format_file_bytes(format), file.length);
    assert_int_equal(format_tensor_count(format), 2);
    const struct format_tensor *first = format_tensor_at(format, 0), *second = format_tensor_at(format, 1);
    assert_string_equal(first->name, "token_embd.weight");
    assert_int_equal(first->format, NF_F32);
    assert_int_equal(first->dimensions, 2);
    assert_int_equal(first->shape[0], 2);
    assert_int_equal(first->shape[1], 4);
    assert_int_equal(first->shape[2], 1);
    assert_int_equal(first->elements, 8);
    assert_int_equal(first->bytes, 32);
    float values[8];
    memcpy(values, first->data, sizeof values);
    for (int i = 0; i < 8; i++) assert_true(values[i] == (float)i);
    assert_int_equal(second->format, NF_Q8_0);
    assert_int_equal(second->bytes, 2 * 34);
    assert_ptr_equal((const char *)second->data, (const char *)first->data + 32);
    assert_ptr_equal(format_tensor_find(format, "blk.0.attn_q.weight"), second);
    assert_null(format_tensor_find(format, "blk.0.attn_q"));
    format_close(format);
}

static void test_vocabulary_only_ignores_tensors(void **state)
{
    (void)state;
    gguf_header(&file, 3, 1, 1);
    gguf_key_text(&file, "general.architecture", "llama");
    gguf_tensor(&file, "weight", 999, 2, 4, 123); /* unknown format, nowhere */
    struct format *format = NULL;
    assert_int_equal(format_open_bytes(FORMAT_GGUF, file.data, file.length, true, &format, &error), ST_OK);
    assert_int_equal(format_tensor_count(format), 0);
    assert_true(format_has(format, "general.architecture"));
    format_close(format);
}

/* One tensor of 256 elements of ggml's type number `type`, with data enough for any. */
static void file_of_type(uint32_t type)
{
    buffer_release(&file);
    buffer_init(&file, 0);
    gguf_header(&file, 3, 1, 1);
    gguf_key_text(&file, "general.architecture", "llama");
    gguf_tensor(&file, "blk.3.ffn_up.weight", type, 1, 256, 0);
    gguf_pad(&file, 32);
    gguf_zeros(&file, 2048);
}

static void test_formats(void **state)
{
    (void)state;
    static const struct {
        uint32_t type;
        const char *name;
        uint32_t bytes; /* of 256 elements, by the specification; 0: refused */
    } types[] = {
        {0, "f32", 1024},    {1, "f16", 512},      {2, "q4_0", 144},       {3, "q4_1", 160},
        {4, "Q4_2", 0},      {5, "Q4_3", 0},       {6, "q5_0", 176},       {7, "q5_1", 192},
        {8, "q8_0", 272},    {9, "Q8_1", 0},       {10, "q2_K", 84},       {11, "q3_K", 110},
        {12, "q4_K", 144},   {13, "q5_K", 176},    {14, "q6_K", 210},      {15, "Q8_K", 0},
        {16, "IQ2_XXS", 0},  {17, "IQ2_XS", 0},    {18, "IQ3_XXS", 0},     {19, "IQ1_S", 0},
        {20, "iq4_nl", 144}, {21, "IQ3_S", 0},     {22, "IQ2_S", 0},       {23, "iq4_xs", 136},
        {24, "I8", 0},       {25, "I16", 0},       {26, "I32", 0},         {27, "I64", 0},
        {28, "F64", 0},      {29, "IQ1_M", 0},     {30, "bf16", 512},      {31, "Q4_0_4_4", 0},
        {34, "TQ1_0", 0},    {35, "TQ2_0", 0},     {38, "IQ4_NL_8_8", 0},  {39, "MXFP4", 0},
        {40, "NVFP4", 0},    {41, "number 41", 0}, {137, "number 137", 0}, {UINT32_MAX, "number 4294967295", 0}};
    for (size_t i = 0; i < ARRAY_COUNT(types); i++) {
        file_of_type(types[i].type);
        if (types[i].bytes) {
            struct format *format = open_file();
            assert_int_equal(format_tensor_at(format, 0)->bytes, types[i].bytes);
            assert_string_equal(number_format_info(format_tensor_at(format, 0)->format)->name, types[i].name);
            format_close(format);
        } else {
            refused(ST_UNSUPPORTED, types[i].name);
            assert_non_null(strstr(error.text, "blk.3.ffn_up.weight"));
        }
    }
}

static void test_alignment(void **state)
{
    (void)state;
    const struct {
        uint32_t alignment;
        bool valid;
    } cases[] = {{1, true},  {8, true},   {64, true},        {4096, true},
                 {0, false}, {48, false}, {1u << 21, false}, {UINT32_MAX, false}};
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        buffer_release(&file);
        buffer_init(&file, 0);
        gguf_header(&file, 3, 1, 2);
        gguf_key_text(&file, "general.architecture", "llama");
        gguf_key_u32(&file, "general.alignment", cases[i].alignment);
        gguf_tensor(&file, "weight", 0, 0, 1, 0);
        gguf_pad(&file, cases[i].valid ? cases[i].alignment : 32);
        buffer_append(&file, "\0\0\x80\x3f", 4);
        if (cases[i].valid) {
            struct format *format = open_file();
            assert_memory_equal(format_tensor_at(format, 0)->data, "\0\0\x80\x3f", 4);
            format_close(format);
        } else {
            refused(ST_INVALID, "general.alignment");
        }
    }
}

/* ---- refused by name ---- */

static void test_versions(void **state)
{
    (void)state;
    gguf_small_model(&file);
    file.data[4] = 2;
    format_close(open_file());
    file.data[4] = 1;
    refused(ST_UNSUPPORTED, "version 1");
    file.data[4] = 4;
    refused(ST_UNSUPPORTED, "version 4");
    file.data[4] = 0;
    refused(ST_UNSUPPORTED, "version 0");
    memcpy(file.data + 4, "\0\0\0\3", 4);
    refused(ST_UNSUPPORTED, "big-endian");
    memcpy(file.data, "GGML", 4);
    refused(ST_INVALID, "not a GGUF file");
}

static void test_duplicates(void **state)
{
    (void)state;
    gguf_header(&file, 3, 0, 3);
    gguf_key_text(&file, "general.architecture", "llama");
    gguf_key_u32(&file, "llama.block_count", 1);
    gguf_key_u32(&file, "llama.block_count", 2);
    refused(ST_INVALID, "'llama.block_count' appears twice");
    buffer_release(&file);
    gguf_header(&file, 3, 2, 1);
    gguf_key_text(&file, "general.architecture", "llama");
    gguf_tensor(&file, "weight", 0, 0, 8, 0);
    gguf_tensor(&file, "weight", 0, 0, 8, 32);
    gguf_pad(&file, 32);
    gguf_zeros(&file, 64);
    refused(ST_INVALID, "'weight' appears twice");
}

static void test_places(void **state)
{
    (void)state;
    static const struct {
        uint64_t offset;
        const char *text;
    } cases[] = {{0, "overlap"},
                 {32, "overlap"},
                 {65, "alignment"},
                 {96, "does not lie inside the file"},
                 {UINT64_MAX - 31, "beyond the file's end"}};
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        buffer_release(&file);
        buffer_init(&file, 0);
        gguf_header(&file, 3, 2, 1);
        gguf_key_text(&file, "general.architecture", "llama");
        gguf_tensor(&file, "first", 0, 0, 16, 0); /* bytes 0…63 */
        gguf_tensor(&file, "second", 0, 0, 8, cases[i].offset);
        gguf_pad(&file, 32);
        gguf_zeros(&file, 96);
        refused(ST_INVALID, cases[i].text);
        assert_non_null(strstr(error.text, "second"));
    }
}

static void test_odd_values(void **state)
{
    (void)state;
    static const struct {
        uint32_t type, item;
        enum status status;
        const char *text;
    } cases[] = {{GGUF_ARRAY, GGUF_ARRAY, ST_UNSUPPORTED, "array of arrays"},
                 {GGUF_ARRAY, 13, ST_INVALID, "unknown type 13"},
                 {13, 0, ST_INVALID, "unknown type 13"},
                 {GGUF_BOOL, 2, ST_INVALID, "bool of value 2"}};
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        buffer_release(&file);
        buffer_init(&file, 0);
        gguf_header(&file, 3, 0, 2);
        gguf_key_text(&file, "general.architecture", "llama");
        gguf_key(&file, "odd.key", cases[i].type, &cases[i].item, sizeof cases[i].item);
        gguf_u64(&file, 1);
        gguf_zeros(&file, 64);
        refused(cases[i].status, cases[i].text);
        assert_non_null(strstr(error.text, "odd.key"));
    }
    buffer_release(&file);
    gguf_header(&file, 3, 0, 2);
    gguf_key_text(&file, "general.architecture", "llama");
    gguf_key_array(&file, "odd.key", GGUF_BOOL, 3);
    buffer_append(&file, "\0\1\3", 3);
    refused(ST_INVALID, "bool of value 3");
}

/* A key that begins with '.' means "<architecture>." to the getters. (Found by fuzz_gguf.) */
static void test_keys_that_cannot_be_asked_for(void **state)
{
    (void)state;
    static const char *const names[] = {".block_count", "", "a\nb", "a\x80"};
    for (size_t i = 0; i < ARRAY_COUNT(names); i++) {
        buffer_release(&file);
        buffer_init(&file, 0);
        gguf_header(&file, 3, 0, 2);
        gguf_key_text(&file, "general.architecture", "llama");
        gguf_key_u32(&file, names[i], 1);
        gguf_zeros(&file, 8);
        refused(ST_INVALID, "metadata key");
    }
}

static void test_architecture(void **state)
{
    (void)state;
    gguf_header(&file, 3, 0, 1);
    gguf_key_u32(&file, "llama.block_count", 1);
    refused(ST_NOT_FOUND, "general.architecture");
    static const char *const names[] = {
        "",       "lla ma",    "llama/..",
        ".llama", "l\x1b[31m", "a123456789012345678901234567890123456789012345678901234567890123456789"};
    for (size_t i = 0; i < ARRAY_COUNT(names); i++) {
        buffer_release(&file);
        buffer_init(&file, 0);
        gguf_header(&file, 3, 0, 1);
        gguf_key_text(&file, "general.architecture", names[i]);
        refused(ST_INVALID, "general.architecture");
    }
}

/* ---- files and split sets ---- */

static void test_files_that_are_none(void **state)
{
    (void)state;
    struct scratch scratch;
    struct format *format;
    scratch_init(&scratch);
    scratch_write(&scratch, "text.gguf", "hello, this is a text\n", 22);
    scratch_write(&scratch, "short.gguf", "GG", 2);
    scratch_write(&scratch, "empty.gguf", "", 0);
    assert_int_equal(format_open(scratch_path(&scratch, "text.gguf"), false, &format, &error), ST_INVALID);
    assert_non_null(strstr(error.text, "not a GGUF file"));
    assert_non_null(strstr(error.text, "text.gguf"));
    assert_int_equal(format_open(scratch_path(&scratch, "short.gguf"), false, &format, &error), ST_INVALID);
    assert_int_equal(format_open(scratch_path(&scratch, "empty.gguf"), false, &format, &error), ST_INVALID);
    assert_int_equal(format_open(scratch_path(&scratch, "nothing.gguf"), false, &format, &error), ST_IO);
    assert_non_null(strstr(error.text, "nothing.gguf"));
    scratch_release(&scratch);
}

/* Writes part `number` (from 1) of a set of three: each has one f32 tensor of 8 elements, all of value `number`. */
static void write_part(struct scratch *scratch, uint16_t number, uint16_t said_number, uint16_t said_count,
                       uint32_t tensors)
{
    char name[64];
    buffer_release(&file);
    buffer_init(&file, 0);
    gguf_header(&file, 3, 1, number == 1 ? 5 : 2);
    gguf_key_u16(&file, "split.no", said_number);
    gguf_key_u16(&file, "split.count", said_count);
    if (number == 1) {
        const int32_t total = (int32_t)tensors;
        gguf_key(&file, "split.tensors.count", GGUF_I32, &total, sizeof total);
        gguf_key_text(&file, "general.architecture", "llama");
        gguf_key_u32(&file, "llama.block_count", 3);
    }
    snprintf(name, sizeof name, "blk.%u.weight", number);
    gguf_tensor(&file, name, 0, 0, 8, 0);
    gguf_pad(&file, 32);
    for (int i = 0; i < 8; i++) {
        float value = number;
        buffer_append(&file, &value, sizeof value);
    }
    snprintf(name, sizeof name, "model-%05u-of-00003.gguf", number);
    scratch_write(scratch, name, file.data, file.length);
}

static void test_split_set(void **state)
{
    (void)state;
    struct scratch scratch;
    struct format *format = NULL;
    scratch_init(&scratch);
    for (uint16_t i = 1; i <= 3; i++) write_part(&scratch, i, i - 1, 3, 3);
    for (int from = 1; from <= 3; from++) { /* any part opens the set */
        char name[64];
        uint64_t blocks;
        snprintf(name, sizeof name, "model-%05d-of-00003.gguf", from);
        assert_int_equal(format_open(scratch_path(&scratch, name), false, &format, &error), ST_OK);
        assert_string_equal(format_path(format), scratch.path);
        assert_int_equal(format_tensor_count(format), 3);
        assert_int_equal(format_get_u64(format, ".block_count", &blocks, &error), ST_OK);
        for (int i = 1; i <= 3; i++) {
            snprintf(name, sizeof name, "blk.%d.weight", i);
            const struct format_tensor *tensor = format_tensor_find(format, name);
            assert_non_null(tensor);
            assert_true(((const float *)tensor->data)[7] == (float)i);
            format_tensor_drop(format, tensor);
            assert_true(((const float *)tensor->data)[7] == (float)i); /* read again from the file */
        }
        format_close(format);
    }
    scratch_release(&scratch);
}

static void split_refused(struct scratch *scratch, const char *name, enum status wanted, const char *text)
{
    struct format *format = NULL;
    assert_int_equal(format_open(scratch_path(scratch, name), false, &format, &error), wanted);
    if (!strstr(error.text, text)) fail_msg("\"%s\" does not say \"%s\"", error.text, text);
}

static void test_split_sets_that_do_not_fit(void **state)
{
    (void)state;
    struct scratch scratch;
    const char *first = "model-00001-of-00003.gguf";
    scratch_init(&scratch);
    write_part(&scratch, 1, 0, 3, 3);
    write_part(&scratch, 2, 1, 3, 3);
    split_refused(&scratch, first, ST_IO, "part 3 of 3");
    struct format *format = NULL; /* the metadata is all in the first part */
    assert_int_equal(format_open(scratch_path(&scratch, first), true, &format, &error), ST_OK);
    format_close(format);
    write_part(&scratch, 3, 1, 3, 3); /* says that it is part 2 */
    split_refused(&scratch, first, ST_INVALID, "named as part 3 of 3, but says split.no 1");
    write_part(&scratch, 3, 2, 4, 3);
    split_refused(&scratch, first, ST_INVALID, "split.count 4");
    write_part(&scratch, 3, 2, 3, 3);
    write_part(&scratch, 1, 0, 3, 5);
    split_refused(&scratch, first, ST_INVALID, "the parts hold 3 tensors, split.tensors.count says 5");
    scratch_write(&scratch, "renamed.gguf", file.data, file.length); /* part 1 under another name */
    split_refused(&scratch, "renamed.gguf", ST_INVALID, "part 1 of 3");
    split_refused(&scratch, "model-00001-of-99999.gguf", ST_LIMIT, "more than 4096 files");
    scratch_release(&scratch);
}

/* ---- the fetched models, where they are ---- */

static void test_real_models(void **state)
{
    (void)state;
    static const struct {
        const char *name, *architecture;
        uint32_t keys, tensors, tokens, index;
        const char *token;
    } models[] = {{"smollm2", "llama", 33, 272, 49152, 2, "<|im_end|>"},
                  {"qwen2", "qwen2", 26, 291, 151936, 0, "!"},
                  {"gemma3", "gemma3", 33, 236, 262144, 1, "<eos>"}};
    int opened = 0;
    for (size_t i = 0; i < ARRAY_COUNT(models); i++) {
        char path[512];
        struct format *format;
        uint64_t count;
        const char *text;
        size_t bytes;
        if (!test_model_path(models[i].name, path, sizeof path)) continue;
        assert_int_equal(format_open(path, false, &format, &error), ST_OK);
        assert_int_equal(format_get_text(format, "general.architecture", &text, &bytes, &error), ST_OK);
        assert_string_equal(text, models[i].architecture);
        assert_int_equal(format_key_count(format), models[i].keys);
        assert_int_equal(format_tensor_count(format), models[i].tensors);
        assert_int_equal(format_get_array(format, "tokenizer.ggml.tokens", &count, &error), ST_OK);
        assert_int_equal(count, models[i].tokens);
        assert_int_equal(format_get_array_text(format, "tokenizer.ggml.tokens", models[i].index, &text, &bytes, &error),
                         ST_OK);
        assert_int_equal(bytes, strlen(models[i].token));
        assert_memory_equal(text, models[i].token, bytes);
        format_close(format);
        opened++;
    }
    if (!opened) {
        print_message("no model is fetched\n");
        skip();
    }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, begin, end)
int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_single_values),
        TEST(test_conversions_that_lose_are_refused),
        TEST(test_arrays),
        TEST(test_rendering),
        TEST(test_tensors),
        TEST(test_vocabulary_only_ignores_tensors),
        TEST(test_formats),
        TEST(test_alignment),
        TEST(test_versions),
        TEST(test_duplicates),
        TEST(test_places),
        TEST(test_odd_values),
        TEST(test_keys_that_cannot_be_asked_for),
        TEST(test_architecture),
        TEST(test_files_that_are_none),
        TEST(test_split_set),
        TEST(test_split_sets_that_do_not_fit),
        TEST(test_real_models),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
