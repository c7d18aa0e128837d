/* test_hugging_face.c - Hugging Face folders: what config.json becomes, tensor names, shards, chat templates. */
#include "format/format_internal.h"
#include "scratch.h"

static struct scratch scratch;
static struct error error;

static int begin(void **state)
{
    (void)state;
    scratch_init(&scratch);
    error = (struct error){0};
    return 0;
}

static int end(void **state)
{
    (void)state;
    scratch_release(&scratch);
    return 0;
}

static void write_text(const char *name, const char *text)
{
    scratch_write(&scratch, name, text, strlen(text));
}

/* ---- values as text, so that tables can hold them ---- */

static void check(const struct format *format, const char *key, const char *wanted)
{
    const struct format_value *value = format_value_find(format, key);
    if (!wanted) {
        if (value) fail_msg("%s is there", key);
        return;
    }
    if (!value) fail_msg("%s is missing", key);
    for (uint32_t i = 0; i < format_key_count(format); i++) {
        struct buffer text;
        buffer_init(&text, 0);
        bool found = strcmp(format_key_at(format, i, &text), value->key) == 0;
        if (found) assert_string_equal(text.data, wanted);
        buffer_release(&text);
        if (found) return;
    }
}

/* The folder with this config.json, metadata only. */
static struct format *open_config(const char *config)
{
    struct format *format = NULL;
    write_text("config.json", config);
    enum status status = format_open(scratch.folder, true, &format, &error);
    if (status != ST_OK) fail_msg("%s", error.text);
    return format;
}

static void config_refused(const char *config, enum status wanted, const char *text)
{
    struct format *format = NULL;
    write_text("config.json", config);
    enum status status = format_open(scratch.folder, true, &format, &error);
    if (!strstr(error.text, text)) fail_msg("\"%s\" does not say \"%s\"", error.text, text);
    assert_int_equal(status, wanted);
    assert_non_null(strstr(error.text, "config.json"));
}

struct wanted {
    const char *key, *value; /* NULL: not there */
};

static void config_gives(const char *config, const struct wanted *wanted, size_t count)
{
    struct format *format = open_config(config);
    for (size_t i = 0; i < count; i++) check(format, wanted[i].key, wanted[i].value);
    format_close(format);
}
#define GIVES(config, ...) \
    config_gives(config, (const struct wanted[]){__VA_ARGS__}, ARRAY_COUNT(((const struct wanted[]){__VA_ARGS__})))

/* The sizes that every known model_type must state. */
#define SIZES(layers)               \
    "\"num_hidden_layers\":" layers \
    ",\"hidden_size\":64,\"intermediate_size\":96,\"num_attention_heads\":4,\"vocab_size\":99"

/* ---- the checkpoints of transformers 5 ---- */

static void test_tiny_checkpoints(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        uint32_t tensors;
        struct wanted keys[9];
    } models[] = {
        {"llama",
         39,
         {{"general.architecture", "\"llama\""},
          {".block_count", "4"},
          {".context_length", "4096"},
          {".attention.head_count", "8"},
          {".attention.head_count_kv", "2"},
          {".attention.key_length", "16"},
          {".rope.freq_base", "10000"},
          {".rope.scaling.type", NULL},
          {".attention.sliding_window", NULL}}},
        {"llama3-rope",
         38,
         {{".rope.scaling.type", "\"llama3\""},
          {".rope.scaling.factor", "8"},
          {".rope.freq_base", "500000"},
          {".rope.scaling.low_freq_factor", "1"},
          {".rope.scaling.high_freq_factor", "4"},
          {".rope.scaling.original_context_length", "64"},
          {".vocab_size", "512"},
          {".feed_forward_length", "256"},
          {"tokenizer.ggml.bos_token_id", "1"}}},
        {"mistral-swa",
         39,
         {{"general.architecture", "\"llama\""},
          {".attention.sliding_window", "16"},
          {".attention.sliding_window_pattern", "[true, true, true, true]"},
          {".embedding_length", "128"},
          {".attention.value_length", "16"},
          {".rope.dimension_count", "16"},
          {".attention.layer_norm_rms_epsilon", "1e-06"},
          {"tokenizer.ggml.eos_token_id", "2"},
          {".attention.causal", NULL}}},
        {"qwen2",
         51,
         {{"general.architecture", "\"qwen2\""},
          {".attention.sliding_window", NULL},
          {".attention.sliding_window_pattern", NULL},
          {".attention.key_length", "16"},
          {".rope.freq_base", "10000"},
          {".rope.freq_base_swa", NULL},
          {".attention.scale", NULL},
          {".block_count", "4"},
          {".rope.scaling.type", NULL}}},
        {"qwen2-yarn",
         51,
         {{".rope.scaling.type", "\"yarn\""},
          {".rope.scaling.factor", "4"},
          {".rope.scaling.original_context_length", "32"},
          {".rope.scaling.attn_factor", NULL},
          {".rope.scaling.yarn_beta_fast", NULL},
          {".rope.scaling.truncate", NULL},
          {".context_length", "4096"},
          {".block_count", "4"},
          {".rope.freq_base", "10000"}}},
        {"qwen3",
         47,
         {{"general.architecture", "\"qwen3\""},
          {".attention.key_length", "32"},
          {".attention.head_count", "8"},
          {".attention.head_count_kv", "2"},
          {".embedding_length", "128"},
          {".rope.dimension_count", "32"},
          {".block_count", "4"},
          {".context_length", "4096"},
          {".attention.sliding_window", NULL}}},
        {"gemma3",
         93,
         {{"general.architecture", "\"gemma3\""},
          {".rope.freq_base", "1000000"},
          {".rope.freq_base_swa", "10000"},
          {".attention.sliding_window", "16"},
          {".attention.sliding_window_pattern", "[true, true, true, true, true, false, true]"},
          {".attention.scale", "0.176776695296637"},
          {".final_logit_softcapping", NULL},
          {".rope.scaling.type", NULL},
          {".attention.causal", NULL}}},
    };
    for (size_t i = 0; i < ARRAY_COUNT(models); i++) {
        char path[600];
        struct format *format = NULL;
        snprintf(path, sizeof path, "%s/tiny/%s", TEST_DATA, models[i].name);
        assert_int_equal(format_open(path, false, &format, &error), ST_OK);
        assert_int_equal(format_kind(format), FORMAT_HUGGING_FACE);
        assert_int_equal(format_tensor_count(format), models[i].tensors);
        for (size_t k = 0; k < ARRAY_COUNT(models[i].keys); k++)
            check(format, models[i].keys[k].key, models[i].keys[k].value);
        for (uint32_t t = 0; t < format_tensor_count(format); t++) /* every name of these is in the table */
            assert_null(strstr(format_tensor_at(format, t)->name, "model."));
        const struct format_tensor *tensor = format_tensor_find(format, "blk.3.ffn_down.weight");
        assert_non_null(tensor);
        assert_int_equal(tensor->shape[0], 128);
        assert_int_equal(tensor->shape[1], 256);
        assert_int_equal(tensor->format, NF_BF16);
        format_close(format);
    }
}

static void test_any_file_of_the_folder_opens_it(void **state)
{
    (void)state;
    static const char *const names[] = {"/", "/config.json", "/model.safetensors"};
    for (size_t i = 0; i < ARRAY_COUNT(names); i++) {
        char path[600];
        struct format *format = NULL;
        snprintf(path, sizeof path, "%s/tiny/llama%s", TEST_DATA, names[i]);
        assert_int_equal(format_open(path, false, &format, &error), ST_OK);
        assert_int_equal(format_tensor_count(format), 39);
        format_close(format);
    }
}

/* ---- the older style ---- */

static void test_older_rope(void **state)
{
    (void)state;
    GIVES("{\"model_type\":\"llama\"," SIZES(
              "2") ",\"rope_theta\":500000,\"max_position_embeddings\":131072,\"rope_scaling\":"
                   "{\"rope_type\":\"llama3\",\"factor\":8.0,\"low_freq_factor\":1.0,\"high_freq_factor\":4.0,"
                   "\"original_max_position_embeddings\":8192},\"head_dim\":null}",
          {".rope.freq_base", "500000"}, {".rope.scaling.type", "\"llama3\""}, {".rope.scaling.factor", "8"},
          {".rope.scaling.original_context_length", "8192"}, {".attention.head_count_kv", "4"},
          {".attention.key_length", "16"});
    GIVES("{\"model_type\":\"llama\"," SIZES("2") ",\"rope_scaling\":{\"type\":\"linear\",\"factor\":4}}",
          {".rope.scaling.type", "\"linear\""}, {".rope.scaling.factor", "4"}, {".rope.freq_base", "10000"},
          {".context_length", "2048"}, {".rope.scaling.original_context_length", NULL},
          {".attention.layer_norm_rms_epsilon", "1e-06"});
    GIVES("{\"model_type\":\"llama\"," SIZES("2") ",\"rope_scaling\":null}", {".rope.scaling.type", NULL});
    /* Passed on, for the model to refuse by name. */
    GIVES("{\"model_type\":\"qwen2\"," SIZES("2") ",\"rope_scaling\":{\"type\":\"dynamic\",\"factor\":2.0}}",
          {".rope.scaling.type", "\"dynamic\""}, {".rope.scaling.factor", "2"});
    GIVES("{\"model_type\":\"phi3\"," SIZES(
              "2") ",\"partial_rotary_factor\":0.5,\"rope_scaling\":{\"type\":\"longrope\","
                   "\"short_factor\":[1],\"long_factor\":[1]},\"original_max_position_embeddings\":512}",
          {"general.architecture", "\"phi3\""}, {".rope.scaling.type", "\"longrope\""}, {".rope.dimension_count", "8"},
          {".rope.scaling.original_context_length", "512"});
}

/* transformers' attention_factor is the whole factor, GGUF's attn_factor multiplies yarn's own 0.1 ln(factor) + 1. */
static void test_yarn_attention_factor(void **state)
{
    (void)state;
    static const struct {
        const char *given;
        double wanted;
    } cases[] = {{"\"attention_factor\":1.0", 1 / (0.1 * 1.3862943611198906 + 1)},
                 {"\"attention_factor\":1.1386294361119891", 1.0},
                 {"\"mscale\":1.0,\"mscale_all_dim\":1.0", 1 / (0.1 * 1.3862943611198906 + 1)},
                 {"\"mscale\":0.707,\"mscale_all_dim\":1.0",
                  (0.0707 * 1.3862943611198906 + 1) / (0.1 * 1.3862943611198906 + 1) / (0.1 * 1.3862943611198906 + 1)}};
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        char config[600];
        double factor;
        snprintf(config, sizeof config,
                 "{\"model_type\":\"qwen2\",%s,\"rope_scaling\":{\"type\":\"yarn\",\"factor\":4.0,%s}}", SIZES("2"),
                 cases[i].given);
        struct format *format = open_config(config);
        assert_int_equal(format_get_double(format, ".rope.scaling.attn_factor", &factor, &error), ST_OK);
        assert_true(factor > cases[i].wanted - 1e-12 && factor < cases[i].wanted + 1e-12);
        format_close(format);
    }
    GIVES("{\"model_type\":\"gpt_oss\"," SIZES(
              "2") ",\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":32,\"beta_fast\":32.0,"
                   "\"beta_slow\":1.0,\"truncate\":false,\"attention_factor\":null}}",
          {"general.architecture", "\"gpt_oss\""}, {".rope.scaling.yarn_beta_fast", "32"},
          {".rope.scaling.yarn_beta_slow", "1"}, {".rope.scaling.truncate", "false"},
          {".rope.scaling.attn_factor", NULL});
}

static void test_older_windows(void **state)
{
    (void)state;
    const char *pattern = ".attention.sliding_window_pattern";
    GIVES("{\"model_type\":\"qwen2\"," SIZES(
              "4") ",\"use_sliding_window\":true,\"sliding_window\":32,\"max_window_layers\":3}",
          {pattern, "[false, false, false, true]"}, {".attention.sliding_window", "32"});
    GIVES("{\"model_type\":\"qwen2\"," SIZES("4") ",\"use_sliding_window\":true,\"sliding_window\":32}",
          {pattern, NULL});
    GIVES("{\"model_type\":\"qwen2\"," SIZES("4") ",\"sliding_window\":32,\"max_window_layers\":0}", {pattern, NULL});
    GIVES("{\"model_type\":\"mistral\"," SIZES("2") "}", {pattern, "[true, true]"},
          {".attention.sliding_window", "4096"});
    GIVES("{\"model_type\":\"mistral\"," SIZES("2") ",\"sliding_window\":null}", {pattern, NULL});
    GIVES("{\"model_type\":\"llama\"," SIZES("2") ",\"sliding_window\":64}",
          {pattern, NULL}); /* llama has no windows */
    GIVES("{\"model_type\":\"gemma2\"," SIZES("4") "}", {pattern, "[true, false, true, false]"},
          {".attn_logit_softcapping", "50"}, {".attention.scale", "0.0625"});
    GIVES("{\"model_type\":\"gemma3_text\"," SIZES("4") ",\"sliding_window\":8,\"sliding_window_pattern\":3}",
          {pattern, "[true, true, false, true]"}, {".rope.freq_base", "1000000"}, {".rope.freq_base_swa", "10000"});
    GIVES("{\"model_type\":\"unheard_of\"," SIZES("2") ",\"sliding_window\":8}", {pattern, "[true, true]"});
    GIVES("{\"model_type\":\"llama\"," SIZES("2") ",\"sliding_window\":8,"
                                                  "\"layer_types\":[\"full_attention\",\"sliding_attention\"]}",
          {pattern, "[false, true]"});
}

/* A model of text and pictures states little about its text part: its class's defaults count. */
static void test_nested_text_config(void **state)
{
    (void)state;
    GIVES("{\"model_type\":\"gemma3\",\"eos_token_id\":[1,106],\"text_config\":{\"model_type\":\"gemma3_text\","
          "\"hidden_size\":2560,\"intermediate_size\":10240,\"num_hidden_layers\":34,\"sliding_window\":1024,"
          "\"rope_scaling\":{\"factor\":8.0,\"rope_type\":\"linear\"}},\"vision_config\":{\"hidden_size\":1152}}",
          {"general.architecture", "\"gemma3\""}, {".embedding_length", "2560"}, {".attention.head_count", "8"},
          {".attention.head_count_kv", "4"}, {".attention.key_length", "256"}, {".vocab_size", "262208"},
          {".rope.scaling.type", "\"linear\""}, {".rope.freq_base_swa", "10000"}, {".context_length", "131072"},
          {"tokenizer.ggml.eos_token_id", "1"}, {".attention.sliding_window", "1024"});
}

static void test_bidirectional(void **state)
{
    (void)state;
    GIVES("{\"model_type\":\"gemma3_text\"," SIZES("2") ",\"use_bidirectional_attention\":true}",
          {".attention.causal", "false"});
    GIVES("{\"model_type\":\"gemma3_text\"," SIZES("2") ",\"use_bidirectional_attention\":\"all\"}",
          {".attention.causal", "false"});
    GIVES("{\"model_type\":\"qwen2\"," SIZES("2") ",\"is_causal\":false}", {".attention.causal", "false"});
    GIVES("{\"model_type\":\"gemma3_text\"," SIZES("2") ",\"use_bidirectional_attention\":false}",
          {".attention.causal", NULL});
    GIVES("{\"model_type\":\"bert\",\"architectures\":[\"BertModel\"],\"hidden_size\":384,\"num_hidden_layers\":6}",
          {"general.architecture", "\"bert\""}, {".block_count", "6"});
}

static void test_configs_that_are_refused(void **state)
{
    (void)state;
    static const struct {
        const char *config, *text;
        enum status status;
    } cases[] = {
        {"", "JSON, line 1", ST_INVALID},
        {"[1]", "not a JSON object", ST_INVALID},
        {"{\"model_type\":\"llama\",\"model_type\":\"qwen2\"}", "duplicate", ST_INVALID},
        {"{}", "model_type", ST_INVALID},
        {"{\"model_type\":7}", "model_type", ST_INVALID},
        {"{\"model_type\":\".5\"}", "model_type", ST_INVALID},
        {"{\"model_type\":\"llama\"}", "\"num_hidden_layers\" is missing", ST_INVALID},
        {"{\"model_type\":\"llama\"," SIZES("-2") "}", "\"num_hidden_layers\" is not a whole number", ST_INVALID},
        {"{\"model_type\":\"llama\"," SIZES("2.5") "}", "\"num_hidden_layers\" is not a whole number", ST_INVALID},
        {"{\"model_type\":\"llama\"," SIZES("4294967296") "}", "\"num_hidden_layers\"", ST_INVALID},
        {"{\"model_type\":\"llama\"," SIZES("65537") "}", "\"num_hidden_layers\" is more than", ST_INVALID},
        {"{\"model_type\":\"llama\"," SIZES("2") ",\"num_key_value_heads\":\"2\"}", "num_key_value_heads", ST_INVALID},
        {"{\"model_type\":\"llama\"," SIZES("2") ",\"rms_norm_eps\":\"small\"}", "rms_norm_eps", ST_INVALID},
        {"{\"model_type\":\"llama\"," SIZES("2") ",\"rope_theta\":0}", "rope_theta", ST_INVALID},
        {"{\"model_type\":\"llama\"," SIZES("2") ",\"rope_scaling\":4}", "rope", ST_INVALID},
        {"{\"model_type\":\"llama\"," SIZES("2") ",\"rope_scaling\":{\"factor\":4}}", "no type", ST_INVALID},
        {"{\"model_type\":\"llama\"," SIZES("2") ",\"rope_scaling\":{\"type\":\"linear\",\"factor\":-1}}", "factor",
         ST_INVALID},
        {"{\"model_type\":\"llama\"," SIZES("2") ",\"hidden_act\":\"gelu\"}",
         "\"hidden_act\": \"gelu\" is not supported", ST_UNSUPPORTED},
        {"{\"model_type\":\"gemma3_text\"," SIZES("2") ",\"hidden_activation\":\"silu\"}", "\"silu\"", ST_UNSUPPORTED},
        {"{\"model_type\":\"llama\"," SIZES("2") ",\"quantization_config\":{\"quant_method\":\"gptq\"}}", "\"gptq\"",
         ST_UNSUPPORTED},
        {"{\"model_type\":\"qwen3\"," SIZES("2") ",\"layer_types\":[\"full_attention\"]}", "layer_types", ST_INVALID},
        {"{\"model_type\":\"qwen3\"," SIZES("2") ",\"layer_types\":[\"full_attention\",\"linear_attention\"]}",
         "layer 1 is of type \"linear_attention\"", ST_UNSUPPORTED},
        {"{\"model_type\":\"qwen3\"," SIZES("1") ",\"sliding_window\":null,\"layer_types\":[\"sliding_attention\"]}",
         "\"sliding_window\" is missing", ST_INVALID},
        {"{\"model_type\":\"gemma3_text\"," SIZES("2") ",\"query_pre_attn_scalar\":0}", "query_pre_attn_scalar",
         ST_INVALID},
        {"{\"model_type\":\"gemma3_text\"," SIZES(
             "2") ",\"rope_parameters\":{\"full_attention\":{\"rope_type\":\"default\"},"
                  "\"sliding_attention\":{\"rope_type\":\"yarn\",\"factor\":2}}}",
         "\"yarn\" of sliding layers", ST_UNSUPPORTED},
        {"{\"model_type\":\"llama\"," SIZES("2") ",\"partial_rotary_factor\":1.5}", "partial_rotary_factor",
         ST_INVALID},
        {"{\"model_type\":\"llama\"," SIZES("2") ",\"bos_token_id\":\"<s>\"}", "bos_token_id", ST_INVALID},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) config_refused(cases[i].config, cases[i].status, cases[i].text);
}

/* ---- chat templates ---- */

static void test_chat_templates(void **state)
{
    (void)state;
    const char *config = "{\"model_type\":\"llama\"," SIZES("1") "}", *key = "tokenizer.chat_template";
    GIVES(config, {key, NULL});
    write_text("tokenizer_config.json", "{\"chat_template\":\"{{ one }}\"}");
    GIVES(config, {key, "\"{{ one }}\""});
    write_text("tokenizer_config.json", "{\"chat_template\":[{\"name\":\"tool_use\",\"template\":\"{{ tools }}\"},"
                                        "{\"name\":\"default\",\"template\":\"{{ two }}\"}]}");
    GIVES(config, {key, "\"{{ two }}\""});
    write_text("chat_template.jinja", "{{ three }}");
    GIVES(config, {key, "\"{{ three }}\""});
}

/* ---- tensor names ---- */

static void test_tensor_names(void **state)
{
    (void)state;
    static const struct {
        const char *name, *llama, *gemma; /* NULL: as llama */
    } cases[] = {
        {"model.embed_tokens.weight", "token_embd.weight", NULL},
        {"lm_head.weight", "output.weight", NULL},
        {"model.norm.weight", "output_norm.weight", NULL},
        {"model.layers.0.self_attn.q_proj.weight", "blk.0.attn_q.weight", NULL},
        {"model.layers.10.self_attn.k_proj.bias", "blk.10.attn_k.bias", NULL},
        {"model.layers.1.self_attn.o_proj.weight", "blk.1.attn_output.weight", NULL},
        {"model.layers.1.self_attn.q_norm.weight", "blk.1.attn_q_norm.weight", NULL},
        {"model.layers.1.post_attention_layernorm.weight", "blk.1.ffn_norm.weight", "blk.1.post_attention_norm.weight"},
        {"model.layers.1.pre_feedforward_layernorm.weight", "blk.1.ffn_norm.weight", NULL},
        {"model.layers.1.post_feedforward_layernorm.weight", "blk.1.post_ffw_norm.weight", NULL},
        {"language_model.model.layers.3.mlp.gate_proj.weight", "blk.3.ffn_gate.weight", NULL},
        {"model.language_model.layers.3.mlp.gate_proj.weight", "blk.3.ffn_gate.weight", NULL},
        {"language_model.lm_head.weight", "output.weight", NULL},
        {"layers.3.input_layernorm.weight", "blk.3.attn_norm.weight", NULL},
        {"model.layers.3.self_attn.sinks", "model.layers.3.self_attn.sinks", NULL},
        {"model.layers.x.self_attn.q_proj.weight", "model.layers.x.self_attn.q_proj.weight", NULL},
        {"model.layers.99999999.self_attn.q_proj.weight", "model.layers.99999999.self_attn.q_proj.weight", NULL},
        {"model.layers.1.self_attn.q_proj.weight_scale", "model.layers.1.self_attn.q_proj.weight_scale", NULL},
        {"vision_tower.layers.1.self_attn.q_proj.weight", "vision_tower.layers.1.self_attn.q_proj.weight", NULL},
        {"model.", "model.", NULL},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        char name[FORMAT_NAME_BYTES_MAX + 1];
        hugging_face_tensor_name(false, cases[i].name, name);
        assert_string_equal(name, cases[i].llama);
        hugging_face_tensor_name(true, cases[i].name, name);
        assert_string_equal(name, cases[i].gemma ? cases[i].gemma : cases[i].llama);
    }
}

/* ---- weights: one file or shards ---- */

/* A safetensors file with one F32 vector of two elements for each of the names (up to two). */
static void write_shard(const char *file, const char *first, const char *second)
{
    struct buffer header, bytes;
    buffer_init(&header, 0);
    buffer_init(&bytes, 0);
    buffer_printf(&header, "{\"%s\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}", first);
    if (second) buffer_printf(&header, ",\"%s\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[8,16]}", second);
    buffer_text(&header, "}");
    uint64_t length = header.length;
    buffer_append(&bytes, &length, sizeof length);
    buffer_append(&bytes, header.data, header.length);
    buffer_append(&bytes, (const float[]){1, 2, 3, 4}, second ? 16 : 8);
    scratch_write(&scratch, file, bytes.data, bytes.length);
    buffer_release(&header);
    buffer_release(&bytes);
}

static void folder_refused(enum status wanted, const char *text)
{
    struct format *format = NULL;
    error = (struct error){0};
    enum status status = format_open(scratch.folder, false, &format, &error);
    if (!strstr(error.text, text)) fail_msg("\"%s\" does not say \"%s\"", error.text, text);
    assert_int_equal(status, wanted);
}

static void test_shards(void **state)
{
    (void)state;
    struct format *format = NULL;
    write_text("config.json", "{\"model_type\":\"llama\"," SIZES("1") "}");
    folder_refused(ST_NOT_FOUND, "neither model.safetensors nor");
    write_text("model.safetensors.index.json",
               "{\"metadata\":{},\"weight_map\":{\"model.embed_tokens.weight\":\"model-00001-of-00002.safetensors\","
               "\"lm_head.weight\":\"model-00002-of-00002.safetensors\",\"model.norm.weight\":\"model-00001-of-00002."
               "safetensors\"}}");
    write_shard("model-00001-of-00002.safetensors", "model.embed_tokens.weight", "model.norm.weight");
    folder_refused(ST_IO, "model-00002-of-00002.safetensors");
    write_shard("model-00002-of-00002.safetensors", "lm_head.weight", NULL);
    assert_int_equal(format_open(scratch.folder, false, &format, &error), ST_OK);
    assert_int_equal(format_tensor_count(format), 3);
    const struct format_tensor *norm = format_tensor_find(format, "output_norm.weight");
    float values[2];
    memcpy(values, norm->data, sizeof values);
    assert_true(values[0] == 3 && values[1] == 4);
    format_tensor_drop(format, norm);
    format_close(format);
    write_shard("model-00002-of-00002.safetensors", "model.layers.0.input_layernorm.weight", NULL);
    folder_refused(ST_INVALID, "'lm_head.weight' is not in model-00002");
    write_shard("model-00002-of-00002.safetensors", "lm_head.weight", "model.norm.weight");
    folder_refused(ST_INVALID, "'output_norm.weight' appears twice");
    write_text("model-00002-of-00002.safetensors", "short");
    folder_refused(ST_INVALID, "model-00002-of-00002.safetensors: too short");
}

static void test_shards_stay_in_the_folder(void **state)
{
    (void)state;
    static const char *const names[] = {"../model.safetensors",
                                        "/etc/passwd",
                                        "a/../../b.safetensors",
                                        "..",
                                        "",
                                        ".safetensors",
                                        ".hidden.safetensors",
                                        "weights.bin",
                                        "a\\\\b.safetensors",
                                        "a\\u0001.safetensors"};
    write_text("config.json", "{\"model_type\":\"llama\"," SIZES("1") "}");
    for (size_t i = 0; i < ARRAY_COUNT(names); i++) {
        char index[300];
        snprintf(index, sizeof index, "{\"weight_map\":{\"lm_head.weight\":\"%s\"}}", names[i]);
        write_text("model.safetensors.index.json", index);
        folder_refused(ST_INVALID, "not the name of a safetensors file of the folder");
    }
    write_text("model.safetensors.index.json", "{\"weight_map\":{\"lm_head.weight\":5}}");
    folder_refused(ST_INVALID, "not the name of a safetensors file of the folder");
    write_text("model.safetensors.index.json", "{\"weight_map\":[]}");
    folder_refused(ST_INVALID, "has no weight_map");
}

static void test_head(void **state)
{
    (void)state;
    struct format *format = NULL;
    write_shard("model.safetensors", "model.embed_tokens.weight", "model.norm.weight");
    write_text("config.json", "{\"model_type\":\"llama\"," SIZES("1") ",\"tie_word_embeddings\":false}");
    folder_refused(ST_INVALID, "no lm_head.weight");
    write_text("config.json", "{\"model_type\":\"llama\"," SIZES("1") ",\"tie_word_embeddings\":true}");
    assert_int_equal(format_open(scratch.folder, false, &format, &error), ST_OK);
    format_close(format);
}

static void test_every_allocation_may_fail(void **state)
{
    (void)state;
    write_text("config.json", "{\"model_type\":\"gemma3_text\"," SIZES("3") "}");
    write_text("chat_template.jinja", "{{ x }}");
    write_text("model.safetensors.index.json", "{\"weight_map\":{\"model.norm.weight\":\"a.safetensors\"}}");
    write_shard("a.safetensors", "model.embed_tokens.weight", "model.norm.weight");
    for (uint64_t nth = 1;; nth++) {
        struct format *format = NULL;
        error = (struct error){0};
        fault_arm(FAULT_ALLOC, nth);
        enum status status = format_open(scratch.folder, false, &format, &error);
        fault_arm(FAULT_NONE, 0);
        if (status == ST_OK) {
            assert_true(nth > 10);
            format_close(format);
            break;
        }
        assert_int_equal(status, ST_NOMEM);
        assert_true(error.text[0] != 0);
    }
}

static void test_every_read_may_fail(void **state)
{
    (void)state;
    write_text("config.json", "{\"model_type\":\"gemma3_text\"," SIZES("3") "}");
    write_text("tokenizer_config.json", "{}");
    write_shard("model.safetensors", "model.embed_tokens.weight", "model.norm.weight");
    for (uint64_t nth = 1;; nth++) {
        struct format *format = NULL;
        error = (struct error){0};
        fault_arm(FAULT_READ, nth);
        enum status status = format_open(scratch.folder, false, &format, &error);
        fault_arm(FAULT_NONE, 0);
        if (status == ST_OK) {
            assert_true(nth >= 5);
            format_close(format);
            break;
        }
        assert_int_equal(status, ST_IO);
        assert_non_null(strstr(error.text, scratch.folder));
    }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, begin, end)
int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_tiny_checkpoints),
        TEST(test_any_file_of_the_folder_opens_it),
        TEST(test_older_rope),
        TEST(test_yarn_attention_factor),
        TEST(test_older_windows),
        TEST(test_nested_text_config),
        TEST(test_bidirectional),
        TEST(test_configs_that_are_refused),
        TEST(test_chat_templates),
        TEST(test_tensor_names),
        TEST(test_shards),
        TEST(test_shards_stay_in_the_folder),
        TEST(test_head),
        TEST(test_every_allocation_may_fail),
        TEST(test_every_read_may_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
