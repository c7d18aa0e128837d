/* architecture.c - the table of architectures, and the checked configuration that metadata and table make together.
 *
 * A new family that is llama with differences is a new row. What cannot be cached is refused here, with the reason. */
#include "model_internal.h"
#include <math.h>
#include <string.h>

static const struct model_architecture architectures[] = {
    {.name = "llama", .neighbour_rope = true}, /* and mistral: Touvron et al. 2023, Jiang et al. 2023 */
    {.name = "qwen2"},                         /* Qwen2.5 technical report, 2024: biases on q, k, v */
    {.name = "qwen3", .qk_norm = true},        /* Qwen3 technical report, 2025 */
    {.name = "gemma3",                         /* Gemma 3 technical report, 2025: five sliding layers to a full one */
     .activation = ACTIVATION_GELU,
     .qk_norm = true,
     .post_norms = true,
     .norm_plus_one = true,
     .scale_embedding = true,
     .full_period = 6,
     .sliding_base = 10000.0f},
};

/* Models whose tokens see later tokens: architecture names of GGUF and model_type of config.json. */
static const char *const bidirectional[] = {
    "bert",        "nomic-bert", "nomic-bert-moe", "nomic_bert",      "jina-bert-v2", "jina-bert-v3", "neo-bert",
    "modern-bert", "modernbert", "eurobert",       "roberta",         "xlm-roberta",  "distilbert",   "electra",
    "albert",      "mpnet",      "deberta",        "deberta-v2",      "t5encoder",    "t5",           "umt5",
    "bart",        "m2m_100",    "mbart",          "gemma-embedding", "llada",        "llada-moe",    "dream",
    "camembert",   "xlm",        "longformer",     "big_bird",        "ernie",        "new",          "gte",
};

const struct model_architecture *architecture_find(const char *name)
{
    for (size_t i = 0; i < ARRAY_COUNT(architectures); i++)
        if (strcmp(architectures[i].name, name) == 0) return &architectures[i];
    return NULL;
}

static enum status refuse_bidirectional(const char *name, struct error *error)
{
    return error_set(error, ST_UNSUPPORTED,
                     "architecture '%s' is bidirectional: each token attends to later ones, so a token's K and V would "
                     "change when later tokens arrive and cannot be cached; Kvasir runs causal models only",
                     name);
}

enum status architecture_refuse(const char *name, struct error *error)
{
    for (size_t i = 0; i < ARRAY_COUNT(bidirectional); i++)
        if (strcmp(bidirectional[i], name) == 0) return refuse_bidirectional(name, error);
    return error_set(error, ST_UNSUPPORTED,
                     "architecture '%s' is not known; Kvasir runs llama, mistral, qwen2, qwen3, gemma3", name);
}

/* ---- metadata ---------------------------------------------------------------------------------------------------- */

/* A required positive integer of at most `most`. */
static enum status read_size(const struct format *format, const char *key, uint64_t most, uint32_t *out,
                             struct error *error)
{
    uint64_t value;
    enum status status = format_get_u64(format, key, &value, error);
    if (status != ST_OK) return status;
    if (value < 1 || value > most)
        return error_set(error, ST_INVALID, "%s: %s is %llu, must be 1 to %llu", format_path(format), key,
                         (unsigned long long)value, (unsigned long long)most);
    *out = (uint32_t)value;
    return ST_OK;
}

static enum status read_size_or(const struct format *format, const char *key, uint64_t most, uint32_t fallback,
                                uint32_t *out, struct error *error)
{
    *out = fallback;
    return format_has(format, key) ? read_size(format, key, most, out, error) : ST_OK;
}

static enum status read_float_or(const struct format *format, const char *key, float fallback, float *out,
                                 struct error *error)
{
    double value = fallback;
    enum status status = format_has(format, key) ? format_get_double(format, key, &value, error) : ST_OK;
    if (status == ST_OK && !isfinite((float)value))
        return error_set(error, ST_INVALID, "%s: %s is not a finite number", format_path(format), key);
    *out = (float)value;
    return status;
}

/* The window and which layers slide: an array of bools a layer, a period (every n-th layer is full), or the family's
 * own. */
static enum status read_windows(const struct format *format, struct model_config *config, struct error *error)
{
    const char *pattern = ".attention.sliding_window_pattern";
    config->sliding = mem_zero(config->layers, sizeof *config->sliding);
    if (!config->sliding) return error_set(error, ST_NOMEM, "not enough memory for %u layers", config->layers);
    uint64_t window = 0, count = 0, period = config->row->full_period;
    if (format_has(format, ".attention.sliding_window")) {
        enum status status = format_get_u64(format, ".attention.sliding_window", &window, error);
        if (status != ST_OK) return status;
    }
    if (window == 0 || window > INT32_MAX) return ST_OK; /* no window, or one that no context reaches */
    bool array = format_has(format, pattern) && format_get_array(format, pattern, &count, NULL) == ST_OK;
    if (array && count < config->layers)
        return error_set(error, ST_INVALID, "%s: %s has %llu entries for %u layers", format_path(format), pattern,
                         (unsigned long long)count, config->layers);
    if (!array && format_has(format, pattern)) {
        enum status status = format_get_u64(format, pattern, &period, error);
        if (status != ST_OK) return status;
    }
    bool any = false;
    for (uint32_t i = 0; i < config->layers; i++) {
        int64_t slides = period == 0 || (i + 1) % period != 0;
        if (array) {
            enum status status = format_get_array_i64(format, pattern, i, &slides, error);
            if (status != ST_OK) return status;
        }
        config->sliding[i] = slides != 0;
        any |= config->sliding[i];
    }
    config->window = any ? (uint32_t)window : 0;
    return ST_OK;
}

static enum status read_attention(const struct format *format, struct model_config *config, struct error *error)
{
    enum status status = read_size(format, ".attention.head_count", 4096, &config->heads, error);
    if (status == ST_OK)
        status = read_size_or(format, ".attention.head_count_kv", 4096, config->heads, &config->kv_heads, error);
    if (status == ST_OK)
        status = read_size_or(format, ".attention.key_length", 4096, config->embedding / config->heads,
                              &config->head_dim, error);
    if (status == ST_OK)
        status = read_size_or(format, ".attention.value_length", 4096, config->head_dim, &config->value_dim, error);
    if (status != ST_OK) return status;
    if (config->heads % config->kv_heads)
        return error_set(error, ST_INVALID, "%s: %u heads cannot share %u KV heads", format_path(format), config->heads,
                         config->kv_heads);
    if (config->head_dim < 2 || config->head_dim % 2)
        return error_set(error, ST_INVALID, "%s: head dimension %u is not even", format_path(format), config->head_dim);
    /* Gemma 3 27B alone scales by the embedding's share of a head instead of the head's size. */
    bool gemma_27b = strcmp(config->row->name, "gemma3") == 0 && config->layers == 62;
    float dim = gemma_27b ? (float)config->embedding / (float)config->heads : (float)config->head_dim;
    status = read_float_or(format, ".attention.scale", 1.0f / sqrtf(dim), &config->attention_scale, error);
    if (status == ST_OK)
        status = read_float_or(format, ".attn_logit_softcapping", 0, &config->attention_softcap, error);
    if (status == ST_OK) status = read_float_or(format, ".final_logit_softcapping", 0, &config->final_softcap, error);
    return status;
}

static enum status read_all(const struct format *format, struct model_config *config, struct error *error)
{
    enum status status = read_size(format, ".block_count", 1024, &config->layers, error);
    if (status == ST_OK) status = read_size(format, ".embedding_length", 1u << 20, &config->embedding, error);
    if (status == ST_OK) status = read_size(format, ".feed_forward_length", 1u << 22, &config->feed_forward, error);
    if (status == ST_OK) status = read_size(format, ".context_length", 1u << 30, &config->context_length, error);
    if (status == ST_OK) status = read_attention(format, config, error);
    if (status == ST_OK) status = read_windows(format, config, error);
    if (status == ST_OK)
        status = read_float_or(format, ".attention.layer_norm_rms_epsilon", 1e-5f, &config->norm_eps, error);
    if (status == ST_OK) status = rope_read(format, config, error);
    if (status != ST_OK) return status;
    if (config->norm_eps < 0) return error_set(error, ST_INVALID, "%s: negative norm epsilon", format_path(format));
    const struct format_tensor *embedding = format_tensor_find(format, "token_embd.weight");
    if (!embedding)
        return error_set(error, ST_INVALID, "%s: no tensor token_embd.weight: not a whole model", format_path(format));
    if (embedding->dimensions != 2 || embedding->shape[0] > 1u << 24 || embedding->shape[1] != config->embedding)
        return error_set(error, ST_INVALID, "%s: tensor token_embd.weight is not [vocabulary, %u]", format_path(format),
                         config->embedding);
    config->vocabulary = (uint32_t)embedding->shape[0];
    config->embedding_scale = config->row->scale_embedding ? sqrtf((float)config->embedding) : 1.0f;
    return ST_OK;
}

enum status model_config_read(const struct format *format, struct model_config *out, struct error *error)
{
    *out = (struct model_config){0};
    const char *name;
    size_t bytes;
    enum status status = format_get_text(format, "general.architecture", &name, &bytes, error);
    if (status != ST_OK) return status;
    const struct model_architecture *row = architecture_find(name);
    if (!row) {
        status = architecture_refuse(name, error);
        error_prefix(error, "%s", format_path(format));
        return status;
    }
    bool causal = true;
    if (format_has(format, ".attention.causal")) {
        status = format_get_bool(format, ".attention.causal", &causal, error);
        if (status != ST_OK) return status;
    }
    if (!causal) {
        status = refuse_bidirectional(name, error);
        error_prefix(error, "%s", format_path(format));
        return status;
    }
    out->row = row;
    out->architecture = row->name;
    status = read_all(format, out, error);
    if (status != ST_OK) model_config_release(out);
    return status;
}

void model_config_release(struct model_config *config)
{
    mem_free(config->sliding);
    mem_free(config->rope_frequencies[0]);
    mem_free(config->rope_frequencies[1]);
    *config = (struct model_config){0};
}

void model_kv_layers(const struct model_config *config, enum number_format k_format, enum number_format v_format,
                     struct kv_layer *out)
{
    for (uint32_t i = 0; i < config->layers; i++)
        out[i] = (struct kv_layer){.kind = config->sliding[i] ? KV_SLIDING : KV_FULL,
                                   .window = config->sliding[i] ? config->window : 0,
                                   .kv_heads = config->kv_heads,
                                   .head_dim = config->head_dim,
                                   .value_dim = config->value_dim,
                                   .k_format = k_format,
                                   .v_format = v_format};
}
