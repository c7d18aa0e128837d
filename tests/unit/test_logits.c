/* test_logits.c - which logits are multiplied precisely: those of the 32 tiles of 16 tokens that hold the best ones, all of a
 * precise run, and the same bits however rows are batched and threads share them. The model is written here: quantised, one
 * layer, sequences so short that all of their rows are precise; so what differs from a precise run are logits alone. */
#include "gguf_writer.h"
#include "model/model.h"
#include "scratch.h"
#include "support.h"

#define TOKENS 7u
#define TILES 32u /* REFINED_TILES */

struct tensor {
    const char *name;
    uint32_t columns, rows; /* rows 0: an f32 vector of ones; 1: the vocabulary's */
};
static const struct tensor TENSORS[] = {
    {"token_embd.weight", 64, 1},     {"output_norm.weight", 64, 0},        {"blk.0.attn_norm.weight", 64, 0},
    {"blk.0.ffn_norm.weight", 64, 0}, {"blk.0.attn_q.weight", 64, 64},      {"blk.0.attn_k.weight", 64, 64},
    {"blk.0.attn_v.weight", 64, 64},  {"blk.0.attn_output.weight", 64, 64}, {"blk.0.ffn_gate.weight", 64, 96},
    {"blk.0.ffn_up.weight", 64, 96},  {"blk.0.ffn_down.weight", 96, 64},
};

static void add_data(struct buffer *out, const struct tensor *tensor, uint32_t rows, struct random *random)
{
    const float one = 1;
    const uint16_t scale = f16_from_f32(0.002f);
    gguf_pad(out, 32);
    for (uint32_t c = 0; !tensor->rows && c < tensor->columns; c++) buffer_append(out, &one, sizeof one);
    for (uint32_t block = 0; tensor->rows && block < rows * (tensor->columns / 32); block++) {
        int8_t quants[32];
        for (int i = 0; i < 32; i++) quants[i] = (int8_t)((int)random_below(random, 255) - 127);
        buffer_append(out, &scale, sizeof scale);
        buffer_append(out, quants, sizeof quants);
    }
}

static void write_model(struct scratch *scratch, uint32_t vocabulary)
{
    struct buffer out;
    struct random random;
    uint64_t offset = 0;
    buffer_init(&out, 0);
    random_seed(&random, 3);
    gguf_header(&out, 3, ARRAY_COUNT(TENSORS), 7);
    gguf_key_text(&out, "general.architecture", "llama");
    gguf_key_u32(&out, "llama.block_count", 1);
    gguf_key_u32(&out, "llama.context_length", 64);
    gguf_key_u32(&out, "llama.embedding_length", 64);
    gguf_key_u32(&out, "llama.feed_forward_length", 96);
    gguf_key_u32(&out, "llama.attention.head_count", 4);
    gguf_key_u32(&out, "llama.attention.head_count_kv", 4);
    for (size_t i = 0; i < ARRAY_COUNT(TENSORS); i++) {
        const struct tensor *t = &TENSORS[i];
        uint64_t rows = t->rows == 1 ? vocabulary : t->rows;
        gguf_tensor(&out, t->name, rows ? 8 : 0, rows, t->columns, offset);
        offset += round_up(rows ? rows * (t->columns / 32) * 34 : t->columns * 4, 32);
    }
    for (size_t i = 0; i < ARRAY_COUNT(TENSORS); i++)
        add_data(&out, &TENSORS[i], TENSORS[i].rows == 1 ? vocabulary : TENSORS[i].rows, &random);
    gguf_pad(&out, 32);
    assert_false(out.failed);
    scratch_write(scratch, "model.gguf", out.data, out.length);
    buffer_release(&out);
}

/* The logits of all TOKENS tokens of one sequence, `chunk` of them a pass. */
static void logits_of(const struct model *model, uint32_t threads, uint32_t chunk, bool precise, float *out)
{
    const struct model_config *c = model_config(model);
    uint32_t ids[TOKENS] = {5, 17, 90, 3, 256, 200, 31}, cached;
    struct kv_layer layer;
    struct pool *pool;
    struct model_run *run;
    struct kv_cache *cache;
    struct kv_seq *seq;
    assert_int_equal(pool_open(threads, &pool, NULL), ST_OK);
    assert_int_equal(model_run_open(model, pool, TOKENS, TOKENS, 64, &run, NULL), ST_OK);
    if (precise) model_run_precise(run);
    model_kv_layers(c, NF_F16, NF_F16, &layer);
    const struct kv_config config = {
        .layers = &layer, .layer_count = 1, .block_tokens = 32, .bytes_max = 8u << 20, .kernel = model_kernel(model)};
    assert_int_equal(kv_open(&config, &cache, NULL), ST_OK);
    assert_int_equal(kv_seq_open(cache, NULL, 0, 0, &seq, &cached), ST_OK);
    for (uint32_t at = 0, count; at < TOKENS; at += count) {
        struct kv_batch *batch;
        const float *logits;
        count = TOKENS - at < chunk ? TOKENS - at : chunk;
        assert_int_equal(kv_seq_reserve(seq, count), ST_OK);
        assert_int_equal(kv_batch_pin(cache, &seq, 1, &batch), ST_OK);
        model_forward(run,
                      &(struct model_entry){
                          .seq = seq, .tokens = ids + at, .count = count, .logits_count = count, .answered = count},
                      1, &logits);
        kv_batch_unpin(batch);
        kv_seq_commit(seq, ids + at, count);
        memcpy(out + (uint64_t)at * c->vocabulary, logits, (uint64_t)count * c->vocabulary * sizeof *out);
    }
    kv_seq_close(seq);
    kv_close(cache);
    model_run_close(run);
    pool_close(pool);
}

/* How many tiles of a row are the precise ones; the tiles of the ten best tokens must be. */
static uint32_t precise_tiles(const float *row, const float *precise, uint32_t vocabulary)
{
    uint32_t same = 0;
    for (uint32_t begin = 0; begin < vocabulary; begin += 16) {
        uint32_t count = vocabulary - begin < 16 ? vocabulary - begin : 16;
        bool equal = memcmp(row + begin, precise + begin, count * sizeof *row) == 0;
        same += equal;
        for (uint32_t i = begin; i < begin + count && !equal; i++) {
            uint32_t better = 0;
            for (uint32_t j = 0; j < vocabulary; j++) better += precise[j] > precise[i];
            if (better < 10) fail_msg("the logit of token %u, which %u are better than, is not precise", i, better);
        }
    }
    return same;
}

static void check_vocabulary(const char *isa, uint32_t vocabulary)
{
    const struct kernel *kernel;
    struct scratch scratch;
    struct format *format;
    struct model *model;
    struct pool *pool;
    const uint64_t count = (uint64_t)TOKENS * vocabulary;
    if (kernel_select(isa, &kernel, NULL) != ST_OK) return; /* this machine cannot run it */
    scratch_init(&scratch);
    write_model(&scratch, vocabulary);
    assert_int_equal(format_open(scratch_path(&scratch, "model.gguf"), false, &format, NULL), ST_OK);
    assert_int_equal(pool_open(1, &pool, NULL), ST_OK);
    assert_int_equal(model_open(format, kernel, pool, NULL, &model, NULL), ST_OK);
    float *expected = malloc(count * sizeof *expected), *got = malloc(count * sizeof *got);
    logits_of(model, 1, TOKENS, true, expected);
    logits_of(model, 1, TOKENS, false, got);
    uint32_t tiles = (vocabulary + 15) / 16;
    for (uint32_t t = 0; t < TOKENS; t++)
        assert_int_equal(precise_tiles(got + t * vocabulary, expected + t * vocabulary, vocabulary),
                         tiles < TILES ? tiles : TILES);
    memcpy(expected, got, count * sizeof *got);
    const struct {
        uint32_t threads, chunk;
    } others[] = {{3, TOKENS}, {1, 1}, {2, 1}, {2, 3}};
    for (size_t i = 0; i < ARRAY_COUNT(others); i++) {
        logits_of(model, others[i].threads, others[i].chunk, false, got);
        assert_memory_equal(got, expected, count * sizeof *got);
    }
    free(expected);
    free(got);
    model_close(model);
    pool_close(pool);
    format_close(format);
    scratch_release(&scratch);
}

static void test_best_are_precise(void **state)
{
    (void)state;
    for (const char *const *isa = kernel_names(); *isa; isa++) check_vocabulary(*isa, 1000);
}

static void test_few_tiles_are_all_precise(void **state)
{
    (void)state;
    for (const char *const *isa = kernel_names(); *isa; isa++) check_vocabulary(*isa, 300);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_best_are_precise),
        cmocka_unit_test(test_few_tiles_are_all_precise),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
