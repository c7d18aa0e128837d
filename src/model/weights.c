/* weights.c - reads, checks and packs the tensors of a model. Every tensor's shape is held against the configuration
 * before it is used, so that forward.c may trust all sizes. Packed weights are ours; the file's own pages are let go,
 * but for the embedding rows, which are read from the file as tokens need them. */
#include "model_internal.h"
#include <stdio.h>
#include <string.h>

struct loader {
    struct model *model;
    struct pool *pool;
    struct model_options options;
    uint64_t done_bytes, total_bytes;
    struct error *error;
};

bool weights_quantised(const struct kernel_matrix *matrix)
{
    return number_format_info(matrix->format)->block_elements > 1;
}

static const struct format_tensor *find(const struct loader *loader, uint32_t layer, const char *name)
{
    char full[96];
    if (layer == UINT32_MAX)
        snprintf(full, sizeof full, "%s", name);
    else
        snprintf(full, sizeof full, "blk.%u.%s", layer, name);
    return format_tensor_find(loader->model->format, full);
}

static enum status missing(const struct loader *loader, uint32_t layer, const char *name)
{
    const char *path = format_path(loader->model->format);
    if (layer == UINT32_MAX) return error_set(loader->error, ST_INVALID, "%s: tensor %s is missing", path, name);
    return error_set(loader->error, ST_INVALID, "%s: tensor blk.%u.%s is missing", path, layer, name);
}

/* A vector of `count` numbers as f32; absent optional ones are NULL. */
static enum status read_vector(struct loader *loader, uint32_t layer, const char *name, uint32_t count, bool optional,
                               float **out)
{
    const struct format_tensor *tensor = find(loader, layer, name);
    *out = NULL;
    if (!tensor) return optional ? ST_OK : missing(loader, layer, name);
    if (tensor->elements != count)
        return error_set(loader->error, ST_INVALID, "%s: tensor %s has %llu numbers, not %u",
                         format_path(loader->model->format), tensor->name, (unsigned long long)tensor->elements, count);
    float *values = arena_alloc(&loader->model->arena, count * sizeof *values);
    if (!values) return error_set(loader->error, ST_NOMEM, "not enough memory for tensor %s", tensor->name);
    number_format_decode(tensor->format, tensor->data, values, count);
    *out = values;
    loader->done_bytes += tensor->bytes;
    return ST_OK;
}

static enum status read_norm(struct loader *loader, uint32_t layer, const char *name, uint32_t count, float **out)
{
    enum status status = read_vector(loader, layer, name, count, false, out);
    bool plus_one =
        loader->model->config.row->norm_plus_one && format_kind(loader->model->format) == FORMAT_HUGGING_FACE;
    for (uint32_t i = 0; status == ST_OK && plus_one && i < count; i++) (*out)[i] += 1.0f;
    return status;
}

static enum status pack(struct loader *loader, const struct format_tensor *tensor, uint32_t rows, uint32_t columns,
                        struct linear *out)
{
    struct model *model = loader->model;
    if (tensor->dimensions != 2 || tensor->shape[0] != rows || tensor->shape[1] != columns)
        return error_set(loader->error, ST_INVALID, "%s: tensor %s is [%llu, %llu], not [%u, %u]",
                         format_path(model->format), tensor->name, (unsigned long long)tensor->shape[0],
                         (unsigned long long)tensor->shape[1], rows, columns);
    if (kernel_matrix_pack(model->kernel, tensor->format, tensor->data, rows, columns, loader->pool, &out->weights) !=
        ST_OK)
        return error_set(loader->error, ST_NOMEM, "not enough memory for tensor %s (%llu bytes)", tensor->name,
                         (unsigned long long)tensor->bytes);
    model->bytes += out->weights.bytes;
    format_tensor_drop(model->format, tensor);
    loader->done_bytes += tensor->bytes;
    if (loader->options.progress)
        loader->options.progress(loader->options.progress_data,
                                 (double)loader->done_bytes / (double)loader->total_bytes);
    return ST_OK;
}

/* "<name>.weight" [rows, columns] and, if there, "<name>.bias" [rows]. */
static enum status read_linear(struct loader *loader, uint32_t layer, const char *name, uint32_t rows, uint32_t columns,
                               struct linear *out)
{
    char full[64];
    snprintf(full, sizeof full, "%s.weight", name);
    const struct format_tensor *tensor = find(loader, layer, full);
    if (!tensor) return missing(loader, layer, full);
    enum status status = pack(loader, tensor, rows, columns, out);
    if (status != ST_OK) return status;
    snprintf(full, sizeof full, "%s.bias", name);
    return read_vector(loader, layer, full, rows, true, &out->bias);
}

static enum status read_layer(struct loader *loader, uint32_t index)
{
    const struct model_config *c = &loader->model->config;
    struct layer *layer = &loader->model->layers[index];
    enum status status = read_norm(loader, index, "attn_norm.weight", c->embedding, &layer->attention_norm);
    if (status == ST_OK) status = read_norm(loader, index, "ffn_norm.weight", c->embedding, &layer->feed_forward_norm);
    if (status == ST_OK && c->row->post_norms)
        status = read_norm(loader, index, "post_attention_norm.weight", c->embedding, &layer->post_attention_norm);
    if (status == ST_OK && c->row->post_norms)
        status = read_norm(loader, index, "post_ffw_norm.weight", c->embedding, &layer->post_feed_forward_norm);
    if (status == ST_OK && c->row->qk_norm)
        status = read_norm(loader, index, "attn_q_norm.weight", c->head_dim, &layer->q_norm);
    if (status == ST_OK && c->row->qk_norm)
        status = read_norm(loader, index, "attn_k_norm.weight", c->head_dim, &layer->k_norm);
    const struct {
        const char *name;
        uint32_t rows, columns;
        struct linear *out;
    } linears[] = {
        {"attn_q", c->heads * c->head_dim, c->embedding, &layer->q},
        {"attn_k", c->kv_heads * c->head_dim, c->embedding, &layer->k},
        {"attn_v", c->kv_heads * c->value_dim, c->embedding, &layer->v},
        {"attn_output", c->embedding, c->heads * c->value_dim, &layer->output},
        {"ffn_gate", c->feed_forward, c->embedding, &layer->gate},
        {"ffn_up", c->feed_forward, c->embedding, &layer->up},
        {"ffn_down", c->embedding, c->feed_forward, &layer->down},
    };
    for (size_t i = 0; i < ARRAY_COUNT(linears) && status == ST_OK; i++)
        status = read_linear(loader, index, linears[i].name, linears[i].rows, linears[i].columns, linears[i].out);
    return status;
}

static enum status read_all(struct loader *loader)
{
    struct model *model = loader->model;
    const struct model_config *c = &model->config;
    model->embedding =
        format_tensor_find(model->format, "token_embd.weight"); /* its shape is checked by the configuration */
    enum status status = read_norm(loader, UINT32_MAX, "output_norm.weight", c->embedding, &model->output_norm);
    for (uint32_t i = 0; i < c->layers && status == ST_OK; i++) status = read_layer(loader, i);
    if (status != ST_OK) return status;
    const struct format_tensor *output = format_tensor_find(model->format, "output.weight");
    return pack(loader, output ? output : model->embedding, c->vocabulary, c->embedding, &model->output);
}

/* Before anything is read: packed weights take about the file's bytes. */
static enum status check_memory(const struct loader *loader)
{
    uint64_t available = mem_available_bytes();
    if (loader->total_bytes <= available) return ST_OK;
    return error_set(
        loader->error, ST_LIMIT, "%s: the model's weights take %.1f GiB, but only %.1f GiB of memory are free",
        format_path(loader->model->format), (double)loader->total_bytes / 0x1p30, (double)available / 0x1p30);
}

static bool rounds_rope(const struct model *model, enum model_rope_frequencies wish)
{
    if (wish != MODEL_ROPE_AUTO) return wish == MODEL_ROPE_BF16;
    const struct format_tensor *embedding = format_tensor_find(model->format, "token_embd.weight");
    return format_kind(model->format) == FORMAT_HUGGING_FACE && embedding->format == NF_BF16;
}

/* The matrices of a layer. */
#define LAYER_LINEARS(layer)                                                                                  \
    {                                                                                                         \
        &(layer)->q, &(layer)->k, &(layer)->v, &(layer)->output, &(layer)->gate, &(layer)->up, &(layer)->down \
    }

static bool some_quantised(const struct model *model)
{
    for (uint32_t i = 0; i < model->config.layers; i++) {
        const struct linear *linears[] = LAYER_LINEARS(&model->layers[i]);
        for (size_t j = 0; j < ARRAY_COUNT(linears); j++)
            if (weights_quantised(&linears[j]->weights)) return true;
    }
    return false;
}

enum status model_open(const struct format *format, const struct kernel *kernel, struct pool *pool,
                       const struct model_options *options, struct model **out, struct error *error)
{
    *out = NULL;
    struct model *model = mem_zero(1, sizeof *model);
    if (!model) return error_set(error, ST_NOMEM, "not enough memory for a model");
    model->format = format;
    model->kernel = kernel;
    arena_init(&model->arena);
    struct loader loader = {.model = model, .pool = pool, .error = error};
    if (options) loader.options = *options;
    enum status status = model_config_read(format, &model->config, error);
    if (status != ST_OK) goto done;
    if (rounds_rope(model, loader.options.rope_frequencies)) rope_round_to_bf16(&model->config);
    for (uint32_t i = 0; i < format_tensor_count(format); i++) loader.total_bytes += format_tensor_at(format, i)->bytes;
    status = check_memory(&loader);
    if (status != ST_OK) goto done;
    model->layers = mem_zero(model->config.layers, sizeof *model->layers);
    model->shapes = mem_zero(model->config.layers, sizeof *model->shapes);
    if (!model->layers || !model->shapes) {
        status = error_set(error, ST_NOMEM, "not enough memory for %u layers", model->config.layers);
        goto done;
    }
    model_kv_layers(&model->config, NF_F32, NF_F32, model->shapes);
    status = read_all(&loader);
    model->tiles = status == ST_OK && kernel->tile_matmul && some_quantised(model);
    if (status == ST_OK && loader.options.progress) loader.options.progress(loader.options.progress_data, 1);
done:
    if (status == ST_OK)
        *out = model;
    else
        model_close(model);
    return status;
}

void model_close(struct model *model)
{
    if (!model) return;
    for (uint32_t i = 0; model->layers && i < model->config.layers; i++) {
        struct linear *linears[] = LAYER_LINEARS(&model->layers[i]);
        for (size_t j = 0; j < ARRAY_COUNT(linears); j++) kernel_matrix_release(&linears[j]->weights);
    }
    kernel_matrix_release(&model->output.weights);
    mem_free(model->layers);
    mem_free(model->shapes);
    arena_release(&model->arena);
    model_config_release(&model->config);
    mem_free(model);
}

const struct model_config *model_config(const struct model *model)
{
    return &model->config;
}

bool model_has_tiles(const struct model *model)
{
    return model->tiles;
}

const struct kernel *model_kernel(const struct model *model)
{
    return model->kernel;
}

uint64_t model_bytes(const struct model *model)
{
    return model->bytes;
}
