/* layout.c - sorts the heads of all layers into groups of one kind, window and sinks, and says where a head's rows lie
 * inside a block of its group. The one place that decides what a block looks like: kv_open and kv_bytes_needed ask it. */
#include "kv_internal.h"
#include <string.h>

static uint64_t head_bytes(const struct kv_layer *layer)
{
    return (kernel_k_group_bytes(layer->k_format, layer->head_dim) +
            kernel_v_group_bytes(layer->v_format, layer->value_dim)) /
           KERNEL_GROUP_TOKENS;
}

static bool same_shape(const struct kv_layer *a, const struct kv_layer *b)
{
    return a->kv_heads == b->kv_heads && a->head_dim == b->head_dim && a->value_dim == b->value_dim &&
           a->k_format == b->k_format && a->v_format == b->v_format;
}

static bool stores(const struct kv_layer *layer)
{
    return kind_of(layer->kind)->rows == ROWS_OWN;
}

static struct kv_reach reach_of(const struct kv_layer *layer, uint32_t head)
{
    struct kv_reach reach = {layer->kind, layer->window, layer->sinks};
    if (layer->heads) reach = layer->heads[head];
    if (!kind_of(reach.kind)->windowed) reach.window = 0; /* so that what a kind does not read makes no second group */
    if (!kind_of(reach.kind)->sinks) reach.sinks = 0;
    return reach;
}

/* Whether the head's keys have entries in the index: those that nothing lets go. */
static bool indexed(const struct kv_layer *layer, uint32_t head)
{
    return layer->index && stores(layer) && reach_of(layer, head).kind == KV_FULL;
}

uint64_t kv_layer_bytes_per_token(const struct kv_layer *layer)
{
    if (!stores(layer)) return 0;
    uint64_t bytes = layer->kv_heads * head_bytes(layer);
    for (uint32_t h = 0; h < layer->kv_heads; h++)
        if (indexed(layer, h)) bytes += kernel_index_bytes(layer->head_dim) / KERNEL_GROUP_TOKENS;
    return bytes;
}

/* ---- whether a configuration can be had -------------------------------------------------------------------------- */

static enum status reach_check(uint32_t layer, const struct kv_reach *reach, struct error *error)
{
    const struct kind *kind = kind_of(reach->kind);
    if (!kind)
        return error_set(error, ST_INVALID, "layer %u: no kind of KV cache layer has number %d", layer,
                         (int)reach->kind);
    if ((kind->windowed && !reach->window) || (kind->sinks && !reach->sinks))
        return error_set(error, ST_INVALID, "layer %u: a KV cache layer of kind %s without a window or sinks", layer,
                         kind->name);
    return ST_OK;
}

static enum status heads_check(const struct kv_layer *layer, uint32_t index, struct error *error)
{
    if (!layer->heads) return ST_OK;
    if (!stores(layer))
        return error_set(error, ST_INVALID, "layer %u: heads of a layer without rows have no policy", index);
    for (uint32_t h = 0; h < layer->kv_heads; h++) {
        enum status status = reach_check(index, &layer->heads[h], error);
        if (status != ST_OK) return status;
        if (kind_of(layer->heads[h].kind)->rows != ROWS_OWN)
            return error_set(error, ST_INVALID, "layer %u: head %u cannot be %s, only a whole layer can", index, h,
                             kind_of(layer->heads[h].kind)->name);
    }
    return ST_OK;
}

static enum status layer_check(const struct kv_config *config, uint32_t index, struct error *error)
{
    const struct kv_layer *layer = &config->layers[index];
    const struct kv_reach reach = {layer->kind, layer->window, layer->sinks};
    enum status status = reach_check(index, &reach, error);
    if (status != ST_OK || kind_of(layer->kind)->rows == ROWS_NONE) return status;
    if (!kernel_cache_format(layer->k_format) || !kernel_cache_format(layer->v_format))
        return error_set(error, ST_UNSUPPORTED, "layer %u: the KV cache cannot hold this number format", index);
    if (!layer->kv_heads || !layer->head_dim || !layer->value_dim)
        return error_set(error, ST_INVALID, "layer %u: a KV cache layer without heads or dimensions", index);
    if (kernel_k_closes(layer->k_format) && config->block_tokens % KERNEL_CLOSED_TOKENS)
        return error_set(error, ST_INVALID,
                         "block size %u: keys in %s close in groups of %u tokens: a multiple of that",
                         config->block_tokens, number_format_info(layer->k_format)->name, KERNEL_CLOSED_TOKENS);
    if (kind_of(layer->kind)->rows == ROWS_OF_SOURCE &&
        (layer->source >= index || !stores(&config->layers[layer->source]) ||
         !same_shape(layer, &config->layers[layer->source])))
        return error_set(error, ST_INVALID,
                         "layer %u: layer %u is no earlier layer of the same shape with rows of its own", index,
                         layer->source);
    return heads_check(layer, index, error);
}

enum status layout_check(const struct kv_config *config, struct error *error)
{
    if (config->block_tokens < 16 || config->block_tokens > 128 || config->block_tokens % KERNEL_GROUP_TOKENS)
        return error_set(error, ST_INVALID, "block size %u: must be a multiple of %u from 16 to 128",
                         config->block_tokens, KERNEL_GROUP_TOKENS);
    bool any = false;
    for (uint32_t i = 0; i < config->layer_count; i++) {
        enum status status = layer_check(config, i, error);
        if (status != ST_OK) return status;
        any |= stores(&config->layers[i]);
    }
    return any ? ST_OK : error_set(error, ST_INVALID, "a KV cache needs at least one layer that stores rows");
}

/* ---- groups and places ------------------------------------------------------------------------------------------- */

static uint32_t group_for(struct kv_layout *layout, const struct kv_reach *reach, bool index)
{
    for (uint32_t g = 0; g < layout->group_count; g++) {
        const struct kv_reach *own = &layout->groups[g].reach;
        if (own->kind == reach->kind && own->window == reach->window && own->sinks == reach->sinks &&
            layout->groups[g].index == index)
            return g;
    }
    layout->groups[layout->group_count] =
        (struct kv_group){.reach = *reach, .kind = kind_of(reach->kind), .index = index};
    return layout->group_count++;
}

/* A head's entries of the index, in a group of their own: they are read where K and V are not. */
static void place_entries(const struct kv_config *config, struct kv_layout *layout, const struct kv_layer *layer,
                          struct kv_place *place)
{
    const uint64_t bytes = kernel_index_bytes(layer->head_dim);
    place->index_group = group_for(layout, &(struct kv_reach){.kind = KV_FULL}, true);
    struct kv_group *group = &layout->groups[place->index_group];
    place->index_offset = group->block_bytes;
    group->block_bytes += config->block_tokens / KERNEL_GROUP_TOKENS * bytes;
    group->token_bytes += bytes / KERNEL_GROUP_TOKENS;
}

static void place_head(const struct kv_config *config, struct kv_layout *layout, const struct kv_layer *layer,
                       struct kv_place *place)
{
    /* Without a cache every layer needs all tokens, whatever its window: attention masks, and one shape is one group. */
    struct kv_reach stored = config->one_layer_at_a_time ? (struct kv_reach){.kind = KV_FULL} : place->reach;
    uint64_t groups_of_block = config->block_tokens / KERNEL_GROUP_TOKENS;
    place->group = group_for(layout, &stored, false);
    struct kv_group *group = &layout->groups[place->group];
    place->k_offset = group->block_bytes;
    place->v_offset = place->k_offset + groups_of_block * kernel_k_group_bytes(layer->k_format, layer->head_dim);
    group->block_bytes = place->v_offset + groups_of_block * kernel_v_group_bytes(layer->v_format, layer->value_dim);
    group->token_bytes += head_bytes(layer);
}

static bool is_source(const struct kv_config *config, uint32_t layer)
{
    for (uint32_t i = layer + 1; i < config->layer_count; i++)
        if (kind_of(config->layers[i].kind)->rows == ROWS_OF_SOURCE && config->layers[i].source == layer) return true;
    return false;
}

/* Without a cache: an earlier layer whose rows this one may overwrite, because nobody reads them again. */
static bool overwritten(const struct kv_config *config, uint32_t layer, uint32_t *earlier)
{
    if (!config->one_layer_at_a_time || is_source(config, layer)) return false;
    for (uint32_t i = 0; i < layer; i++) {
        *earlier = i;
        if (stores(&config->layers[i]) && same_shape(&config->layers[i], &config->layers[layer]) &&
            !is_source(config, i))
            return true;
    }
    return false;
}

static void place_layer(const struct kv_config *config, struct kv_layout *layout, uint32_t index)
{
    const struct kv_layer *layer = &config->layers[index];
    enum kv_rows rows = kind_of(layer->kind)->rows;
    uint32_t twin = layer->source;
    bool same_rows = rows == ROWS_OF_SOURCE || (rows == ROWS_OWN && overwritten(config, index, &twin));
    for (uint32_t h = 0; h < layer->kv_heads; h++) {
        struct kv_place *place = &layout->places[layout->first_place[index] + h];
        *place = (struct kv_place){
            .reach = reach_of(layer, h), .group = GROUP_NONE, .index_group = GROUP_NONE, .sliced = SLICED_NONE};
        if (same_rows) *place = layout->places[layout->first_place[twin] + h];
        if (same_rows && rows == ROWS_OWN) place->reach = reach_of(layer, h);
        if (same_rows || rows != ROWS_OWN) continue;
        place_head(config, layout, layer, place);
        if (indexed(layer, h) && !config->one_layer_at_a_time) place_entries(config, layout, layer, place);
    }
}

enum status layout_init(const struct kv_config *config, struct kv_layout *out)
{
    uint64_t heads = 0;
    *out = (struct kv_layout){0};
    for (uint32_t i = 0; i < config->layer_count; i++) heads += config->layers[i].kv_heads;
    out->places = mem_zero(heads, sizeof *out->places);
    out->first_place = mem_zero(config->layer_count, sizeof *out->first_place);
    out->groups = mem_zero(heads + 1, sizeof *out->groups); /* at worst one a head, and that of the index */
    if (!out->places || !out->first_place || !out->groups) {
        layout_release(out);
        return ST_NOMEM;
    }
    for (uint32_t i = 0; i < config->layer_count; i++) {
        out->first_place[i] = i ? out->first_place[i - 1] + config->layers[i - 1].kv_heads : 0;
        place_layer(config, out, i);
    }
    for (uint32_t g = 0; g < out->group_count; g++)
        out->groups[g].block_bytes = round_up(out->groups[g].block_bytes, 64);
    return ST_OK;
}

void layout_release(struct kv_layout *layout)
{
    mem_free(layout->places);
    mem_free(layout->first_place);
    mem_free(layout->groups);
}

uint64_t kv_bytes_needed(const struct kv_config *config, uint32_t tokens, uint32_t chunk)
{
    struct kv_layout layout;
    if (layout_init(config, &layout) != ST_OK) return UINT64_MAX;
    uint64_t bytes = 0;
    for (uint32_t g = 0; g < layout.group_count; g++) {
        const struct kv_group *group = &layout.groups[g];
        bytes += group->kind->blocks(&group->reach, tokens, chunk, config->block_tokens) * group->block_bytes;
    }
    layout_release(&layout);
    return bytes;
}
