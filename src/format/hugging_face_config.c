/* hugging_face_config.c - config.json as GGUF metadata.
 *
 * Reads transformers 5's style (rope_parameters, maybe one object a layer type; layer_types) and the older one
 * (rope_theta, rope_scaling with "type" or "rope_type", sliding_window with use_sliding_window, max_window_layers or
 * sliding_window_pattern). What a model_type's own class assumes when a key is absent is in its row's `defaults`. An
 * unknown model_type is read as far as it goes and keeps its name: the model refuses it, not the file reader. It does
 * not check that values make sense together: the model does, for GGUF files as well. */
#include "format/format_internal.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

enum window_rule { /* which layers slide, when layer_types does not say */
                   WINDOW_NEVER,
                   WINDOW_ALWAYS,  /* every layer, when sliding_window is set */
                   WINDOW_FROM,    /* use_sliding_window: layers from max_window_layers on */
                   WINDOW_PATTERN, /* all but every sliding_window_pattern-th */
};

struct hugging_face_row {
    const char *model_type, *architecture;
    const char *activation; /* the only one that the architecture has in GGUF; NULL: not checked */
    enum window_rule window;
    bool sandwich_norms, local_rope; /* local_rope: sliding layers have their own base */
    const char *defaults;            /* JSON: what the class assumes (transformers, configuration_*.py) */
};

#define GEMMA_ACTIVATION "gelu_pytorch_tanh"
static const struct hugging_face_row rows[] = {
    {"llama", "llama", "silu", WINDOW_NEVER, false, false, "{\"max_position_embeddings\":2048,\"rms_norm_eps\":1e-6}"},
    {"mistral", "llama", "silu", WINDOW_ALWAYS, false, false,
     "{\"max_position_embeddings\":131072,\"rms_norm_eps\":1e-6,\"sliding_window\":4096}"},
    {"qwen2", "qwen2", "silu", WINDOW_FROM, false, false,
     "{\"max_position_embeddings\":32768,\"rms_norm_eps\":1e-6,\"sliding_window\":4096,\"max_window_layers\":28}"},
    {"qwen3", "qwen3", "silu", WINDOW_FROM, false, false,
     "{\"max_position_embeddings\":32768,\"rms_norm_eps\":1e-6,\"head_dim\":128,\"sliding_window\":4096,"
     "\"max_window_layers\":28}"},
    {"gemma3_text", "gemma3", GEMMA_ACTIVATION, WINDOW_PATTERN, true, true,
     "{\"vocab_size\":262208,\"hidden_size\":2304,\"intermediate_size\":9216,\"num_hidden_layers\":26,"
     "\"num_attention_heads\":8,\"num_key_value_heads\":4,\"head_dim\":256,\"max_position_embeddings\":131072,"
     "\"rms_norm_eps\":1e-6,\"rope_theta\":1000000.0,\"query_pre_attn_scalar\":256,\"sliding_window\":4096,"
     "\"sliding_window_pattern\":6,\"rope_local_base_freq\":10000.0,\"bos_token_id\":2,\"eos_token_id\":1}"},
    /* Not in the model's table yet; listed because their windows or norms differ from the rule for unknown ones. */
    {"gemma2", "gemma2", GEMMA_ACTIVATION, WINDOW_PATTERN, true, false,
     "{\"head_dim\":256,\"max_position_embeddings\":8192,\"rms_norm_eps\":1e-6,\"query_pre_attn_scalar\":256,"
     "\"sliding_window\":4096,\"sliding_window_pattern\":2,\"attn_logit_softcapping\":50.0,"
     "\"final_logit_softcapping\":30.0}"},
    {"olmo2", "olmo2", NULL, WINDOW_NEVER, true, false, "{}"},
};
static const struct hugging_face_row unknown_row = {NULL, NULL, NULL, WINDOW_FROM, false, false, "{}"};

bool hugging_face_sandwich_norms(const struct hugging_face_row *row)
{
    return row->sandwich_norms;
}

struct config {
    struct format *format;
    const json_t *outer; /* config.json */
    json_t *text;        /* the text model's part of it (a copy): itself, or its text_config; with the defaults */
    const struct hugging_face_row *row;
    const char *architecture;
    uint64_t layers, heads, embedding, head_dim, context; /* 0 = absent */
    struct error *error;
};

/* ---- reading; null counts as absent ---- */

static const json_t *lookup(const struct config *config, const char *name)
{
    const json_t *found = json_object_get(config->text, name);
    if (!found || json_is_null(found)) found = json_object_get(config->outer, name);
    return json_is_null(found) ? NULL : found;
}

static enum status read_count(const struct config *config, const json_t *from, const char *name, uint64_t *out)
{
    if (!from) return ST_OK; /* *out stays */
    if (!json_is_integer(from) || json_integer_value(from) < 0 || json_integer_value(from) > INT32_MAX)
        return error_set(config->error, ST_INVALID, "\"%s\" is not a whole number from 0 to 2147483647", name);
    *out = (uint64_t)json_integer_value(from);
    return ST_OK;
}

static enum status read_number(const struct config *config, const json_t *from, const char *name, double *out)
{
    if (!from) return ST_OK; /* *out stays */
    if (!json_is_number(from) || !isfinite(json_number_value(from)))
        return error_set(config->error, ST_INVALID, "\"%s\" is not a number", name);
    *out = json_number_value(from);
    return ST_OK;
}

static bool is_true(const json_t *value)
{
    return json_is_true(value);
}

/* ---- writing under "<architecture>" ---- */

static const char *full_key(const struct config *config, const char *suffix, char out[160])
{
    snprintf(out, 160, "%s%s", config->architecture, suffix);
    return out;
}

static enum status put_u64(const struct config *config, const char *suffix, uint64_t value)
{
    char key[160];
    return format_set_u64(config->format, full_key(config, suffix, key), value, config->error);
}

static enum status put_f64(const struct config *config, const char *suffix, double value)
{
    char key[160];
    return format_set_f64(config->format, full_key(config, suffix, key), value, config->error);
}

static enum status put_text(const struct config *config, const char *suffix, const char *text)
{
    char key[160];
    return format_set_text(config->format, full_key(config, suffix, key), text, strlen(text), config->error);
}

/* ---- sizes ---- */

static enum status copy_counts(struct config *config)
{
    static const struct {
        const char *name, *suffix;
        bool required; /* of a model_type that has a row with an activation, i.e. that is fully known */
        size_t field;  /* in struct config; 0: none */
    } counts[] = {
        {"num_hidden_layers", ".block_count", true, offsetof(struct config, layers)},
        {"max_position_embeddings", ".context_length", true, offsetof(struct config, context)},
        {"hidden_size", ".embedding_length", true, offsetof(struct config, embedding)},
        {"intermediate_size", ".feed_forward_length", true, 0},
        {"num_attention_heads", ".attention.head_count", true, offsetof(struct config, heads)},
        {"vocab_size", ".vocab_size", true, 0},
    };
    for (size_t i = 0; i < ARRAY_COUNT(counts); i++) {
        uint64_t value = 0;
        const json_t *from = lookup(config, counts[i].name);
        enum status status = read_count(config, from, counts[i].name, &value);
        if (status != ST_OK) return status;
        if (!from && counts[i].required && config->row->activation)
            return error_set(config->error, ST_INVALID, "\"%s\" is missing", counts[i].name);
        if (!from) continue;
        if (counts[i].field) memcpy((char *)config + counts[i].field, &value, sizeof value);
        status = put_u64(config, counts[i].suffix, value);
        if (status != ST_OK) return status;
    }
    if (config->layers > FORMAT_LAYERS_MAX)
        return error_set(config->error, ST_INVALID, "\"num_hidden_layers\" is more than %u", FORMAT_LAYERS_MAX);
    return ST_OK;
}

static enum status copy_heads(struct config *config)
{
    uint64_t kv_heads = config->heads;
    enum status status = read_count(config, lookup(config, "num_key_value_heads"), "num_key_value_heads", &kv_heads);
    if (status == ST_OK && config->heads) status = put_u64(config, ".attention.head_count_kv", kv_heads);
    config->head_dim = config->heads ? config->embedding / config->heads : 0;
    if (status == ST_OK) status = read_count(config, lookup(config, "head_dim"), "head_dim", &config->head_dim);
    if (status != ST_OK || config->head_dim == 0) return status;
    status = put_u64(config, ".attention.key_length", config->head_dim);
    return status == ST_OK ? put_u64(config, ".attention.value_length", config->head_dim) : status;
}

static enum status copy_numbers(const struct config *config)
{
    static const char *const numbers[][2] = {
        {"rms_norm_eps", ".attention.layer_norm_rms_epsilon"},
        {"attn_logit_softcapping", ".attn_logit_softcapping"},
        {"final_logit_softcapping", ".final_logit_softcapping"},
    };
    for (size_t i = 0; i < ARRAY_COUNT(numbers); i++) {
        double value = 0;
        const json_t *from = lookup(config, numbers[i][0]);
        enum status status = read_number(config, from, numbers[i][0], &value);
        if (status == ST_OK && from) status = put_f64(config, numbers[i][1], value);
        if (status != ST_OK) return status;
    }
    double scalar = 0;
    enum status status = read_number(config, lookup(config, "query_pre_attn_scalar"), "query_pre_attn_scalar", &scalar);
    if (status != ST_OK || !lookup(config, "query_pre_attn_scalar")) return status;
    if (!(scalar > 0)) return error_set(config->error, ST_INVALID, "\"query_pre_attn_scalar\" is not above 0");
    return put_f64(config, ".attention.scale", 1.0 / sqrt(scalar));
}

/* ---- rope ---- */

static const char *rope_type(const json_t *rope)
{
    const char *type = json_string_value(json_object_get(rope, "rope_type"));
    return type ? type : json_string_value(json_object_get(rope, "type"));
}

/* transformers' attention_factor is all of what cos and sin are multiplied by; GGUF's attn_factor multiplies yarn's own
 * 0.1 ln(factor) + 1. mscale and mscale_all_dim are another way to give it. */
static enum status put_attention_factor(const struct config *config, const json_t *rope, double factor)
{
    const json_t *direct = json_object_get(rope, "attention_factor");
    double value = 0, scale = 0, scale_all = 0, own = factor > 1 ? 0.1 * log(factor) + 1 : 1;
    enum status status = read_number(config, json_is_null(direct) ? NULL : direct, "attention_factor", &value);
    if (status == ST_OK) status = read_number(config, json_object_get(rope, "mscale"), "mscale", &scale);
    if (status == ST_OK)
        status = read_number(config, json_object_get(rope, "mscale_all_dim"), "mscale_all_dim", &scale_all);
    if (status != ST_OK) return status;
    if (!direct || json_is_null(direct)) {
        if (scale == 0 || scale_all == 0) return ST_OK; /* yarn's own */
        value = factor > 1 ? (0.1 * scale * log(factor) + 1) / (0.1 * scale_all * log(factor) + 1) : 1;
    }
    return put_f64(config, ".rope.scaling.attn_factor", value / own);
}

static enum status put_rope_numbers(const struct config *config, const json_t *rope)
{
    static const char *const numbers[][2] = {
        {"low_freq_factor", ".rope.scaling.low_freq_factor"},
        {"high_freq_factor", ".rope.scaling.high_freq_factor"},
        {"beta_fast", ".rope.scaling.yarn_beta_fast"},
        {"beta_slow", ".rope.scaling.yarn_beta_slow"},
    };
    for (size_t i = 0; i < ARRAY_COUNT(numbers); i++) {
        double value = 0;
        const json_t *from = json_object_get(rope, numbers[i][0]);
        if (!from || json_is_null(from)) continue;
        enum status status = read_number(config, from, numbers[i][0], &value);
        if (status == ST_OK) status = put_f64(config, numbers[i][1], value);
        if (status != ST_OK) return status;
    }
    const json_t *truncate = json_object_get(rope, "truncate");
    char key[160];
    return json_is_boolean(truncate) ? format_set_bool(config->format, full_key(config, ".rope.scaling.truncate", key),
                                                       json_is_true(truncate), config->error)
                                     : ST_OK;
}

/* The trained context that scaling stretches: the object's own, else the config's. */
static enum status put_original_context(const struct config *config, const json_t *rope)
{
    const char *name = "original_max_position_embeddings";
    const json_t *from = json_object_get(rope, name);
    uint64_t original = config->context;
    if (!from || json_is_null(from)) from = lookup(config, name);
    enum status status = read_count(config, from, name, &original);
    if (status != ST_OK || original == 0) return status;
    return put_u64(config, ".rope.scaling.original_context_length", original);
}

/* `rope`: rope_parameters or rope_scaling, or the full layers' part of it. */
static enum status put_rope_scaling(const struct config *config, const json_t *rope)
{
    const char *type = rope_type(rope);
    if (!type && json_object_get(rope, "factor"))
        return error_set(config->error, ST_INVALID, "the rope scaling has no type");
    if (!type || strcmp(type, "default") == 0) return ST_OK;
    double factor = 0;
    const json_t *given = json_object_get(rope, "factor");
    enum status status = put_text(config, ".rope.scaling.type", type);
    if (status == ST_OK && given && !json_is_null(given)) {
        status = read_number(config, given, "factor", &factor);
        if (status == ST_OK && !(factor > 0))
            status = error_set(config->error, ST_INVALID, "rope's \"factor\" is not above 0");
        if (status == ST_OK) status = put_f64(config, ".rope.scaling.factor", factor);
    }
    if (status == ST_OK && strcmp(type, "linear") != 0) status = put_original_context(config, rope);
    if (status == ST_OK && strcmp(type, "yarn") == 0) status = put_attention_factor(config, rope, factor);
    return status == ST_OK ? put_rope_numbers(config, rope) : status;
}

/* The base of one kind of layer: `rope`'s own rope_theta, else the config's `name`, else the usual one. */
static enum status put_rope_base(const struct config *config, const json_t *rope, const char *name, const char *suffix)
{
    double base = 10000.0;
    const json_t *own = json_object_get(rope, "rope_theta");
    enum status status = read_number(config, own && !json_is_null(own) ? own : lookup(config, name), name, &base);
    if (status == ST_OK && !(base > 0)) status = error_set(config->error, ST_INVALID, "\"%s\" is not above 0", name);
    return status == ST_OK ? put_f64(config, suffix, base) : status;
}

/* How much of a head is rotated. */
static enum status put_rope_dimensions(const struct config *config, const json_t *rope)
{
    double part = 1.0;
    const json_t *own = json_object_get(rope, "partial_rotary_factor");
    enum status status = read_number(config, own && !json_is_null(own) ? own : lookup(config, "partial_rotary_factor"),
                                     "partial_rotary_factor", &part);
    if (status != ST_OK || config->head_dim == 0) return status;
    if (!(part > 0 && part <= 1))
        return error_set(config->error, ST_INVALID, "\"partial_rotary_factor\" is not in (0, 1]");
    return put_u64(config, ".rope.dimension_count", (uint64_t)((double)config->head_dim * part));
}

static enum status copy_rope(const struct config *config)
{
    const json_t *rope = lookup(config, "rope_parameters"), *full = NULL, *sliding = NULL;
    if (!rope) rope = lookup(config, "rope_scaling");
    if (rope && !json_is_object(rope))
        return error_set(config->error, ST_INVALID, "the rope parameters are not a JSON object");
    full = json_object_get(rope, "full_attention");
    sliding = json_object_get(rope, "sliding_attention");
    bool nested = json_is_object(full) || json_is_object(sliding);
    if (nested && !json_is_object(full)) full = sliding;
    const char *sliding_type = rope_type(sliding);
    if (nested && full != sliding && sliding_type && strcmp(sliding_type, "default") != 0)
        return error_set(config->error, ST_UNSUPPORTED, "rope scaling \"%.40s\" of sliding layers is not supported",
                         sliding_type);
    if (!nested) full = rope;
    enum status status = put_rope_base(config, full, "rope_theta", ".rope.freq_base");
    if (status == ST_OK && (config->row->local_rope || (nested && full != sliding)))
        status = put_rope_base(config, sliding, "rope_local_base_freq", ".rope.freq_base_swa");
    if (status == ST_OK) status = put_rope_dimensions(config, full);
    return status == ST_OK ? put_rope_scaling(config, full) : status;
}

/* ---- windows ---- */

/* sliding[i] = 1 where layer i slides, from layer_types. */
static enum status windows_from_types(const struct config *config, const json_t *types, unsigned char *sliding)
{
    if (!json_is_array(types) || json_array_size(types) != config->layers)
        return error_set(config->error, ST_INVALID, "\"layer_types\" is not a list of num_hidden_layers entries");
    for (size_t i = 0; i < config->layers; i++) {
        const char *type = json_string_value(json_array_get(types, i));
        if (type && strcmp(type, "sliding_attention") == 0)
            sliding[i] = 1;
        else if (!type || strcmp(type, "full_attention") != 0)
            return error_set(config->error, ST_UNSUPPORTED, "layer %zu is of type \"%.40s\", which is not supported", i,
                             type ? type : "?");
    }
    return ST_OK;
}

static enum status windows_from_rule(const struct config *config, unsigned char *sliding)
{
    uint64_t first = 0, pattern = 0;
    enum status status = ST_OK;
    switch (config->row->window) {
    case WINDOW_NEVER:
        return ST_OK;
    case WINDOW_ALWAYS:
        break;
    case WINDOW_FROM:
        if (lookup(config, "use_sliding_window") ? !is_true(lookup(config, "use_sliding_window"))
                                                 : config->row != &unknown_row)
            return ST_OK;
        status = read_count(config, lookup(config, "max_window_layers"), "max_window_layers", &first);
        break;
    case WINDOW_PATTERN: {
        const json_t *given = lookup(config, "sliding_window_pattern");
        const json_t *private_name = lookup(config, "_sliding_window_pattern"); /* as transformers 4.5x saved it */
        status = read_count(config, private_name ? private_name : given, "sliding_window_pattern", &pattern);
        break;
    }
    }
    for (uint64_t i = first; i < config->layers && status == ST_OK; i++)
        sliding[i] = !pattern || (i + 1) % pattern != 0;
    return status;
}

static enum status copy_windows(const struct config *config)
{
    uint64_t window = 0, count = 0;
    const json_t *types = lookup(config, "layer_types");
    enum status status = read_count(config, lookup(config, "sliding_window"), "sliding_window", &window);
    if (status != ST_OK || config->layers == 0) return status;
    unsigned char *sliding = mem_zero(config->layers, 1);
    if (!sliding) return error_set(config->error, ST_NOMEM, "not enough memory to open it");
    if (types)
        status = windows_from_types(config, types, sliding);
    else if (window)
        status = windows_from_rule(config, sliding);
    for (uint64_t i = 0; i < config->layers; i++) count += sliding[i];
    if (status == ST_OK && count && !window)
        status = error_set(config->error, ST_INVALID,
                           "\"layer_types\" has sliding layers, but \"sliding_window\" is missing");
    if (status == ST_OK && count) {
        char key[160];
        status = put_u64(config, ".attention.sliding_window", window);
        if (status == ST_OK)
            status = format_set_bools(config->format, full_key(config, ".attention.sliding_window_pattern", key),
                                      sliding, config->layers, config->error);
    }
    mem_free(sliding);
    return status;
}

/* ---- the rest ---- */

/* What GGUF has no key for must be what the architecture means. */
static enum status check_assumptions(const struct config *config)
{
    const json_t *quantised = lookup(config, "quantization_config");
    if (quantised) {
        const char *method = json_string_value(json_object_get(quantised, "quant_method"));
        return error_set(config->error, ST_UNSUPPORTED,
                         "the weights are quantised by \"%.40s\", which is not supported: take F32, F16 or BF16 "
                         "weights, or a GGUF file",
                         method ? method : "?");
    }
    const char *names[] = {"hidden_activation", "hidden_act"}; /* gemma's own key comes first */
    for (size_t i = 0; i < ARRAY_COUNT(names) && config->row->activation; i++) {
        const char *activation = json_string_value(lookup(config, names[i]));
        if (!activation) continue;
        if (strcmp(activation, config->row->activation) == 0) break;
        return error_set(config->error, ST_UNSUPPORTED, "\"%s\": \"%.40s\" is not supported for %s (\"%s\" is)",
                         names[i], activation, config->architecture, config->row->activation);
    }
    return ST_OK;
}

/* An embedding checkpoint whose tokens see later ones. */
static enum status copy_causality(const struct config *config)
{
    const json_t *bidirectional = lookup(config, "use_bidirectional_attention"), *causal = lookup(config, "is_causal");
    const char *which = json_string_value(bidirectional);
    if (!is_true(bidirectional) && !(which && strcmp(which, "all") == 0) && !json_is_false(causal)) return ST_OK;
    char key[160];
    return format_set_bool(config->format, full_key(config, ".attention.causal", key), false, config->error);
}

/* A token id, or the first of a list. */
static enum status copy_token(const struct config *config, const char *name, const char *key)
{
    const json_t *from = lookup(config, name);
    uint64_t id = 0;
    if (json_is_array(from)) from = json_array_get(from, 0);
    if (!from) return ST_OK;
    if (json_is_integer(from) && json_integer_value(from) < 0) return ST_OK; /* -1: none */
    enum status status = read_count(config, from, name, &id);
    return status == ST_OK ? format_set_u64(config->format, key, id, config->error) : status;
}

/* All of a list of end tokens: the first has the key that GGUF has. */
static enum status copy_ends(const struct config *config)
{
    uint32_t ids[64], count = 0;
    const json_t *list = lookup(config, "eos_token_id"), *item;
    size_t i;
    json_array_foreach(list, i, item)
    {
        const json_int_t id = json_integer_value(item);
        if (json_is_integer(item) && id >= 0 && id < UINT32_MAX && count < ARRAY_COUNT(ids))
            ids[count++] = (uint32_t)id;
    }
    if (!count) return ST_OK;
    return format_set_u32s(config->format, "tokenizer.kvasir.eos_token_ids", ids, count, config->error);
}

static enum status find_row(struct config *config)
{
    const char *type = json_string_value(json_object_get(config->text, "model_type"));
    if (!type) type = json_string_value(json_object_get(config->outer, "model_type"));
    if (!type || !format_architecture_valid(type, strlen(type)))
        return error_set(config->error, ST_INVALID, "\"model_type\" is missing or not a name");
    config->row = &unknown_row;
    config->architecture = type;
    for (size_t i = 0; i < ARRAY_COUNT(rows); i++) {
        if (strcmp(rows[i].model_type, type) == 0) config->row = &rows[i], config->architecture = rows[i].architecture;
    }
    json_t *defaults = json_loads(config->row->defaults, 0, NULL);
    bool merged = defaults && json_object_update_missing(config->text, defaults) == 0;
    json_decref(defaults);
    return merged ? ST_OK : error_set(config->error, ST_NOMEM, "not enough memory to open it");
}

enum status hugging_face_config(struct format *format, const json_t *root, const struct hugging_face_row **row,
                                struct error *error)
{
    const json_t *text = json_object_get(root, "text_config");
    struct config config = {.format = format, .outer = root, .error = error};
    config.text = json_copy((json_t *)(uintptr_t)(json_is_object(text) ? text : root)); /* shallow */
    if (!config.text) return error_set(error, ST_NOMEM, "not enough memory to open it");
    enum status status = find_row(&config);
    if (status == ST_OK)
        status =
            format_set_text(format, "general.architecture", config.architecture, strlen(config.architecture), error);
    if (status == ST_OK) status = check_assumptions(&config);
    if (status == ST_OK) status = copy_counts(&config);
    if (status == ST_OK) status = copy_heads(&config);
    if (status == ST_OK) status = copy_numbers(&config);
    if (status == ST_OK) status = copy_rope(&config);
    if (status == ST_OK) status = copy_windows(&config);
    if (status == ST_OK) status = copy_causality(&config);
    if (status == ST_OK) status = copy_token(&config, "bos_token_id", "tokenizer.ggml.bos_token_id");
    if (status == ST_OK) status = copy_token(&config, "eos_token_id", "tokenizer.ggml.eos_token_id");
    if (status == ST_OK) status = copy_ends(&config);
    *row = config.row;
    json_decref(config.text);
    return status;
}
