/* test_work.c - the work of a pass, against sums done by hand from the configurations of the tiny checkpoints: embedding
 * 128, feed-forward 256, vocabulary 512, 8 heads on 2 KV heads; bf16 but for one model of q8_0. */
#include "format/format.h"
#include "model/model.h"
#include "scratch.h"
#include "tiny_gguf.h"

#define LAYERS_MAX 8u

struct cache {
    enum number_format k, v;
};
static const struct cache F16 = {NF_F16, NF_F16}, F32 = {NF_F32, NF_F32};

static void work_of(const char *path, struct cache cache, uint32_t position, uint32_t count, uint32_t logits_count,
                    struct model_work *out)
{
    struct format *format;
    struct model *model;
    struct pool *pool;
    const struct kernel *kernel;
    struct kv_layer layers[LAYERS_MAX];
    assert_int_equal(kernel_select("ref", &kernel, NULL), ST_OK);
    struct error error = {0};
    assert_int_equal(pool_open(1, &pool, NULL), ST_OK);
    if (format_open(path, false, &format, &error) != ST_OK) fail_msg("%s", error.text);
    if (model_open(format, kernel, pool, NULL, &model, &error) != ST_OK) fail_msg("%s", error.text);
    assert_in_range(model_config(model)->layers, 1, LAYERS_MAX);
    model_kv_layers(model_config(model), cache.k, cache.v, layers);
    model_work(model, layers, position, count, logits_count, out);
    model_close(model);
    format_close(format);
    pool_close(pool);
}

static const char *tiny(const char *name)
{
    static char path[512];
    snprintf(path, sizeof path, "%s/tiny/%s", TEST_DATA, name);
    return path;
}

static void check(const struct model_work *work, uint64_t int8, uint64_t f32, uint64_t attention, uint64_t weight_bytes,
                  uint64_t kv_bytes)
{
    assert_int_equal(work->int8_macs, int8);
    assert_int_equal(work->f32_macs, f32);
    assert_int_equal(work->attention_macs, attention);
    assert_int_equal(work->weight_bytes, weight_bytes);
    assert_int_equal(work->kv_bytes, kv_bytes);
}

/* q and output 128 x 128, k and v 32 x 128, gate, up and down 256 x 128. */
#define LLAMA_LAYER (2 * 16384 + 2 * 4096 + 3 * 32768)
#define OUTPUT (512 * 128)

static void test_llama(void **state)
{
    (void)state;
    struct model_work work;
    work_of(tiny("llama"), F16, 0, 1, 1, &work); /* one key: 8 heads x (16 + 16) */
    check(&work, 0, 4 * LLAMA_LAYER + OUTPUT, 4 * 256, 2 * (4 * LLAMA_LAYER + OUTPUT), 4 * 2 * (16 + 16) * 2);
    work_of(tiny("llama"), F16, 0, 5, 1, &work); /* 1 + 2 + 3 + 4 + 5 keys, one row of logits */
    check(&work, 0, 5 * 4 * LLAMA_LAYER + OUTPUT, 4 * 15 * 256, 2 * (4 * LLAMA_LAYER + OUTPUT), 4 * 15 * 128);
    work_of(tiny("llama"), F32, 40, 2, 2, &work); /* 41 + 42 keys */
    check(&work, 0, 2 * (4 * LLAMA_LAYER + OUTPUT), 4 * 83 * 256, 2 * (4 * LLAMA_LAYER + OUTPUT), 4 * 83 * 256);
    work_of(tiny("llama"), F16, 40, 2, 0, &work); /* the output matrix is not needed */
    check(&work, 0, 2 * 4 * LLAMA_LAYER, 4 * 83 * 256, 2 * 4 * LLAMA_LAYER, 4 * 83 * 128);
}

/* One of K and V narrower than f32 is enough for fixed point. */
static void test_attention_formats(void **state)
{
    (void)state;
    const struct {
        struct cache cache;
        uint64_t int16, kv_bytes; /* 41 + 42 keys */
    } cases[] = {{F16, 4 * 83 * 256, 4 * 83 * 2 * (16 + 16) * 2},
                 {{NF_F16, NF_F32}, 4 * 83 * 256, 4 * 83 * 2 * (16 * 2 + 16 * 4)},
                 {{NF_F32, NF_F16}, 4 * 83 * 256, 4 * 83 * 2 * (16 * 4 + 16 * 2)},
                 {F32, 0, 4 * 83 * 2 * (16 + 16) * 4}};
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        struct model_work work;
        work_of(tiny("llama"), cases[i].cache, 40, 2, 0, &work);
        check(&work, 0, 2 * 4 * LLAMA_LAYER, 4 * 83 * 256, 2 * 4 * LLAMA_LAYER, cases[i].kv_bytes);
        assert_int_equal(work.attention_int16_macs, cases[i].int16);
    }
}

/* Heads of 32: q and output 256 x 128, k and v 64 x 128. */
#define GEMMA_LAYER (2 * 32768 + 2 * 8192 + 3 * 32768)

static void test_windows(void **state)
{
    (void)state;
    struct model_work work;
    work_of(tiny("mistral-swa"), F16, 0, 20, 1, &work); /* all slide over 16: 1 + … + 16, then 4 x 16 */
    check(&work, 0, 20 * 4 * LLAMA_LAYER + OUTPUT, 4 * 200 * 256, 2 * (4 * LLAMA_LAYER + OUTPUT), 4 * 200 * 128);
    work_of(tiny("mistral-swa"), F16, 14, 3, 3, &work); /* 15 + 16 + 16 */
    check(&work, 0, 3 * (4 * LLAMA_LAYER + OUTPUT), 4 * 47 * 256, 2 * (4 * LLAMA_LAYER + OUTPUT), 4 * 47 * 128);
    work_of(tiny("gemma3"), F16, 100, 1, 1, &work); /* six layers see 16 keys, one sees 101 */
    check(&work, 0, 7 * GEMMA_LAYER + OUTPUT, (6 * 16 + 101) * 8 * 64, 2 * (7 * GEMMA_LAYER + OUTPUT),
          (6 * 16 + 101) * 2 * 64 * 2);
    work_of(tiny("qwen3"), F16, 0, 1, 1, &work);
    check(&work, 0, 4 * GEMMA_LAYER + OUTPUT, 4 * 512, 2 * (4 * GEMMA_LAYER + OUTPUT), 4 * 256);
    work_of(tiny("qwen2"), F16, 0, 1, 1, &work); /* its biases are no matrices */
    check(&work, 0, 4 * LLAMA_LAYER + OUTPUT, 4 * 256, 2 * (4 * LLAMA_LAYER + OUTPUT), 4 * 128);
}

/* 2 layers of q and output 32 x 32, k and v 16 x 32, three of 64 x 32; 266 tokens, packed as 17 tiles of 16 rows. q8_0:
 * 34 bytes for 32 weights, the scales of a tile padded to 64 bytes. */
static void test_quantised(void **state)
{
    (void)state;
    struct scratch scratch;
    struct buffer file;
    struct model_work work;
    const uint64_t layer = 2 * 1024 + 2 * 512 + 3 * 2048, tile = 64 + 16 * 32; /* one block wide */
    scratch_init(&scratch);
    buffer_init(&file, 0);
    tiny_gguf_write(&file);
    scratch_write(&scratch, "model.gguf", file.data, file.length);
    buffer_release(&file);
    work_of(scratch_path(&scratch, "model.gguf"), F16, 9, 2, 1, &work); /* 10 + 11 keys of 2 heads */
    check(&work, 2 * 2 * layer + 266 * 32, 0, 2 * 21 * 2 * 32,
          2 * (2 * 2 * tile + 2 * tile + 2 * 4 * tile + 2 * (64 + 2 * 16 * 32)) + 17 * tile, 2 * 21 * 32 * 2);
    scratch_release(&scratch);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_llama),
        cmocka_unit_test(test_attention_formats),
        cmocka_unit_test(test_windows),
        cmocka_unit_test(test_quantised),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
