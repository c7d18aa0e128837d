/* test_model.c - what the architecture table accepts and refuses, and that every tensor is held against the configuration
 * before it is used. Models are written here, as small as they can be. */
#include "gguf_writer.h"
#include "model/model.h"
#include "scratch.h"
#include "support.h"
#include <math.h>

/* A llama of one layer: 2 heads of 16, embedding 32, feed-forward 64, 16 tokens. */
struct tensor {
    const char *name;
    uint64_t columns, rows; /* rows 0: a vector */
};
static const struct tensor whole[] = {
    {"token_embd.weight", 32, 16},    {"output_norm.weight", 32, 0},        {"blk.0.attn_norm.weight", 32, 0},
    {"blk.0.ffn_norm.weight", 32, 0}, {"blk.0.attn_q.weight", 32, 32},      {"blk.0.attn_k.weight", 32, 32},
    {"blk.0.attn_v.weight", 32, 32},  {"blk.0.attn_output.weight", 32, 32}, {"blk.0.ffn_gate.weight", 32, 64},
    {"blk.0.ffn_up.weight", 32, 64},  {"blk.0.ffn_down.weight", 64, 32},
};

struct change {
    const char *architecture; /* NULL: llama */
    const char *key;          /* an integer key to add or to replace */
    uint32_t value;
    const char *text_key, *text; /* and a text key */
    int tensor;                  /* index into `whole`, or -1 */
    bool missing;                /* that tensor is left out */
    uint64_t rows;               /* or has other rows */
};

static void write_model(struct scratch *scratch, const struct change *change)
{
    const char *architecture = change->architecture ? change->architecture : "llama";
    const struct {
        const char *key;
        uint32_t value;
    } sizes[] = {{"block_count", 1},          {"context_length", 64},      {"embedding_length", 32},
                 {"feed_forward_length", 64}, {"attention.head_count", 2}, {"attention.head_count_kv", 2}};
    bool replaced = false;
    uint64_t keys = 1 + ARRAY_COUNT(sizes) + (change->text_key != NULL), tensors = ARRAY_COUNT(whole), offset = 0;
    for (size_t i = 0; i < ARRAY_COUNT(sizes); i++) replaced |= change->key && strcmp(sizes[i].key, change->key) == 0;
    keys += change->key && !replaced;
    tensors -= change->missing;
    struct buffer out;
    buffer_init(&out, 0);
    gguf_header(&out, 3, tensors, keys);
    gguf_key_text(&out, "general.architecture", architecture);
    char key[128];
    for (size_t i = 0; i < ARRAY_COUNT(sizes); i++) {
        snprintf(key, sizeof key, "%s.%s", architecture, sizes[i].key);
        gguf_key_u32(&out, key, change->key && strcmp(sizes[i].key, change->key) == 0 ? change->value : sizes[i].value);
    }
    snprintf(key, sizeof key, "%s.%s", architecture, change->key ? change->key : "");
    if (change->key && !replaced) gguf_key_u32(&out, key, change->value);
    snprintf(key, sizeof key, "%s.%s", architecture, change->text_key ? change->text_key : "");
    if (change->text_key) gguf_key_text(&out, key, change->text);
    for (int i = 0; i < (int)ARRAY_COUNT(whole); i++) {
        if (change->missing && i == change->tensor) continue;
        uint64_t rows = i == change->tensor ? change->rows : whole[i].rows;
        gguf_tensor(&out, whole[i].name, 0, rows, whole[i].columns, offset); /* 0: f32 */
        offset += whole[i].columns * (rows ? rows : 1) * 4;
    }
    gguf_pad(&out, 32);
    for (uint64_t i = 0; i < offset / 4; i++) {
        float value = (float)(i % 7) * 0.01f;
        buffer_append(&out, &value, sizeof value);
    }
    assert_false(out.failed);
    scratch_write(scratch, "model.gguf", out.data, out.length);
    buffer_release(&out);
}

static enum status open_model(struct scratch *scratch, const struct change *change, struct error *error)
{
    write_model(scratch, change);
    struct format *format;
    const struct kernel *kernel;
    struct pool *pool;
    struct model *model = NULL;
    *error = (struct error){0};
    enum status status = format_open(scratch_path(scratch, "model.gguf"), false, &format, error);
    if (status != ST_OK) fail_msg("%s", error->text);
    assert_int_equal(kernel_select("ref", &kernel, NULL), ST_OK);
    assert_int_equal(pool_open(1, &pool, NULL), ST_OK);
    status = model_open(format, kernel, pool, NULL, &model, error);
    assert_true((status == ST_OK) == (model != NULL));
    model_close(model);
    pool_close(pool);
    format_close(format);
    return status;
}

static void test_a_whole_model_opens(void **state)
{
    (void)state;
    struct scratch scratch;
    struct error error;
    scratch_init(&scratch);
    struct change change = {.tensor = -1};
    if (open_model(&scratch, &change, &error) != ST_OK) fail_msg("%s", error.text);
    scratch_release(&scratch);
}

static void test_refusals_name_their_reason(void **state)
{
    (void)state;
    static const struct {
        struct change change;
        enum status status;
        const char *says;
    } cases[] = {
        {{.architecture = "bert", .tensor = -1}, ST_UNSUPPORTED, "bidirectional"},
        {{.architecture = "nomic-bert", .tensor = -1}, ST_UNSUPPORTED, "cannot be cached"},
        {{.architecture = "mamba", .tensor = -1}, ST_UNSUPPORTED, "'mamba' is not known"},
        {{.text_key = "rope.scaling.type", .text = "dynamic", .tensor = -1},
         ST_UNSUPPORTED,
         "rotates old tokens again"},
        {{.text_key = "rope.scaling.type", .text = "rerope", .tensor = -1}, ST_UNSUPPORTED, "rotates old tokens again"},
        {{.text_key = "rope.scaling.type", .text = "longrope", .tensor = -1},
         ST_UNSUPPORTED,
         "'longrope' is not known"},
        {{.key = "block_count", .value = 0, .tensor = -1}, ST_INVALID, "block_count"},
        {{.key = "block_count", .value = 4000000000u, .tensor = -1}, ST_INVALID, "block_count"},
        {{.key = "block_count", .value = 2, .tensor = -1}, ST_INVALID, "blk.1."},
        {{.key = "attention.head_count", .value = 3, .tensor = -1}, ST_INVALID, "cannot share"},
        {{.key = "attention.head_count", .value = 0, .tensor = -1}, ST_INVALID, "head_count"},
        {{.key = "attention.key_length", .value = 15, .tensor = -1}, ST_INVALID, "not even"},
        {{.key = "embedding_length", .value = 64, .tensor = -1}, ST_INVALID, "token_embd.weight"},
        {{.key = "feed_forward_length", .value = 128, .tensor = -1}, ST_INVALID, "ffn_gate"},
        {{.key = "rope.dimension_count", .value = 17, .tensor = -1}, ST_INVALID, "rope.dimension_count"},
    };
    struct scratch scratch;
    scratch_init(&scratch);
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        struct error error;
        enum status status = open_model(&scratch, &cases[i].change, &error);
        if (status != cases[i].status || !strstr(error.text, cases[i].says) || !strstr(error.text, "model.gguf"))
            fail_msg("case %zu: status %s, \"%s\", without \"%s\"", i, status_name(status), error.text, cases[i].says);
    }
    scratch_release(&scratch);
}

static void test_every_tensor_is_checked(void **state)
{
    (void)state;
    struct scratch scratch;
    struct error error;
    scratch_init(&scratch);
    for (int i = 0; i < (int)ARRAY_COUNT(whole); i++) {
        struct change missing = {.tensor = i, .missing = true};
        assert_int_equal(open_model(&scratch, &missing, &error), ST_INVALID);
        assert_non_null(strstr(error.text, whole[i].name));
        if (i == 0) continue; /* its rows are the vocabulary */
        struct change wrong = {.tensor = i, .rows = whole[i].rows + 2};
        assert_int_equal(open_model(&scratch, &wrong, &error), ST_INVALID);
        assert_non_null(strstr(error.text, whole[i].name));
    }
    scratch_release(&scratch);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_whole_model_opens),
        cmocka_unit_test(test_refusals_name_their_reason),
        cmocka_unit_test(test_every_tensor_is_checked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
