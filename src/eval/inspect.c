/* inspect.c - what a model file is and what its KV cache costs, read from metadata and the list of tensors; no weights are
 * loaded. An architecture that is not in the table is shown with all its tensors and metadata, and why it cannot run.
 *
 * The KV figures come from the same functions that size an engine (kv_bytes_needed, kv_layer_bytes_per_token), for one
 * sequence that decodes: whole blocks; sliding layers hold their window and at most two partly used blocks. */
#include "eval/inspect_internal.h"
#include <string.h>

const struct inspect_format INSPECT_FORMATS[INSPECT_FORMAT_COUNT] = {
    {"f32", NF_F32, NF_F32},
    {"f16", NF_F16, NF_F16},
    {"bf16", NF_BF16, NF_BF16},
    {"fp8_e4m3", NF_FP8_E4M3, NF_FP8_E4M3},
    {"fp8_e5m2", NF_FP8_E5M2, NF_FP8_E5M2},
    {"int8", NF_INT8, NF_INT8},
    {"int4", NF_INT4, NF_INT4},
    {"k=int8,v=int4", NF_INT8, NF_INT4},
};

/* ---- the KV cache's cost ------------------------------------------------------------------------------------------- */

static bool same_kind(const struct kv_layer *a, const struct kv_layer *b)
{
    return a->kind == b->kind && a->window == b->window && a->kv_heads == b->kv_heads && a->head_dim == b->head_dim &&
           a->value_dim == b->value_dim;
}

static void add_kind(struct inspection *in, const struct kv_layer *layer)
{
    uint32_t k = 0;
    while (k < in->kind_count && !same_kind(&in->kinds[k].layer, layer)) k++;
    if (k == INSPECT_KINDS_MAX) return;
    if (k == in->kind_count) in->kinds[in->kind_count++].layer = *layer;
    in->kinds[k].layers++;
}

static void measure_rows(const struct kv_config *config, uint64_t bytes[INSPECT_ROWS])
{
    for (uint32_t row = 0; row < INSPECT_ROWS; row++) bytes[row] = kv_bytes_needed(config, 1024u << row, 1);
}

/* The columns of format `f`; `list` is the layers', `heads` scratch for a policy. */
static enum status measure_format(struct inspection *in, uint32_t f, struct kv_layer *list, struct kv_reach *heads,
                                  struct error *error)
{
    uint32_t layers = in->config.layers;
    struct kv_config config = {.layers = list, .layer_count = layers, .block_tokens = INSPECT_BLOCK_TOKENS};
    model_kv_layers(&in->config, INSPECT_FORMATS[f].k, INSPECT_FORMATS[f].v, list);
    for (uint32_t i = 0; i < layers; i++) in->bytes_per_token[f] += kv_layer_bytes_per_token(&list[i]);
    for (uint32_t i = 0; i < layers && f == 0; i++) {
        struct kv_layer indexed = list[i];
        indexed.index = true;
        in->index_bytes_per_token += kv_layer_bytes_per_token(&indexed) - kv_layer_bytes_per_token(&list[i]);
        add_kind(in, &list[i]);
    }
    measure_rows(&config, in->cached[f]);
    config.one_layer_at_a_time = true;
    measure_rows(&config, in->uncached[f]);
    if (!in->policy) return ST_OK;
    config.one_layer_at_a_time = false;
    enum status status = engine_kv_policy(in->policy, &in->config, list, heads, error);
    if (status == ST_OK) measure_rows(&config, in->with_policy[f]);
    return status;
}

static enum status measure_cache(struct inspection *in, struct error *error)
{
    enum status status = ST_OK;
    struct kv_layer *list = mem_zero(in->config.layers, sizeof *list);
    struct kv_reach *heads = mem_zero((uint64_t)in->config.layers * in->config.kv_heads, sizeof *heads);
    if (!list || !heads) status = error_set(error, ST_NOMEM, "not enough memory for %u layers", in->config.layers);
    for (uint32_t f = 0; f < INSPECT_FORMAT_COUNT && status == ST_OK; f++)
        status = measure_format(in, f, list, heads, error);
    mem_free(list);
    mem_free(heads);
    return status;
}

uint64_t inspect_kind_bytes(const struct inspect_kind *kind, uint32_t format)
{
    struct kv_layer layer = kind->layer;
    layer.k_format = INSPECT_FORMATS[format].k;
    layer.v_format = INSPECT_FORMATS[format].v;
    return kv_layer_bytes_per_token(&layer);
}

/* ---- reading --------------------------------------------------------------------------------------------------------- */

static void count_tensors(struct inspection *in)
{
    for (uint32_t i = 0; i < format_tensor_count(in->format); i++) {
        const struct format_tensor *tensor = format_tensor_at(in->format, i);
        struct inspect_tensors *of = &in->tensors[tensor->format];
        of->count++;
        of->elements += tensor->elements;
        of->bytes += tensor->bytes;
        in->parameters += tensor->elements;
    }
}

static enum status read_model(const char *path, struct inspection *in, struct error *error)
{
    enum status status = format_open(path, false, &in->format, error);
    if (status == ST_UNSUPPORTED) { /* a tensor format that is not known: metadata can still be shown */
        in->why = *error;
        status = format_open(path, true, &in->format, error);
    }
    if (status != ST_OK) return status;
    count_tensors(in);
    struct error why = {0};
    enum status readable = model_config_read(in->format, &in->config, &why);
    in->known = readable == ST_OK;
    if (readable == ST_NOMEM) return error_set(error, ST_NOMEM, "%s", why.text);
    if (!in->known && !in->why.text[0]) in->why = why;
    return in->known ? measure_cache(in, error) : ST_OK;
}

enum status eval_inspect(const char *path, const char *kv_policy, enum eval_output output, struct buffer *out,
                         struct error *error)
{
    struct inspection in = {.policy = kv_policy};
    struct error own = {0};
    enum status status = read_model(path, &in, error ? error : &own);
    if (status == ST_OK) status = output == EVAL_JSON ? inspect_json(&in, out, error) : inspect_text(&in, out, error);
    model_config_release(&in.config);
    format_close(in.format);
    return status;
}
