/* cache.c - opens and closes the cache: sorts layers into groups, lays out blocks, takes the address space; statistics.
 */
#include "kv_internal.h"
#include <string.h>
#include <sys/mman.h>

uint64_t kv_layer_bytes_per_token(const struct kv_layer *layer)
{
    return layer->kv_heads * (number_format_bytes(layer->k_format, layer->head_dim) +
                              number_format_bytes(layer->v_format, layer->value_dim));
}

static bool same_shape(const struct kv_layer *a, const struct kv_layer *b)
{
    return a->kv_heads == b->kv_heads && a->head_dim == b->head_dim && a->value_dim == b->value_dim &&
           a->k_format == b->k_format && a->v_format == b->v_format;
}

static enum status config_check(const struct kv_config *config, struct error *error)
{
    if (config->block_tokens < 16 || config->block_tokens > 128 || config->block_tokens % KERNEL_GROUP_TOKENS)
        return error_set(error, ST_INVALID, "block size %u: must be a multiple of %u from 16 to 128",
                         config->block_tokens, KERNEL_GROUP_TOKENS);
    if (!config->layer_count) return error_set(error, ST_INVALID, "a KV cache needs at least one layer");
    for (uint32_t i = 0; i < config->layer_count; i++) {
        const struct kv_layer *layer = &config->layers[i];
        bool formats = (layer->k_format == NF_F32 || layer->k_format == NF_F16) &&
                       (layer->v_format == NF_F32 || layer->v_format == NF_F16);
        if (!formats) return error_set(error, ST_UNSUPPORTED, "layer %u: the KV cache holds f32 or f16", i);
        if (!layer->kv_heads || !layer->head_dim || !layer->value_dim || (layer->kind == KV_SLIDING && !layer->window))
            return error_set(error, ST_INVALID, "layer %u: a KV cache layer without heads, dimensions or window", i);
    }
    return ST_OK;
}

/* Groups and places of `config` into arrays of layer_count; returns the number of groups. The one place that decides
 * what a block looks like: kv_open and kv_bytes_needed both ask it. */
static uint32_t lay_out(const struct kv_config *config, struct kv_group *groups, struct kv_place *places)
{
    uint32_t group_count = 0, groups_of_block = config->block_tokens / KERNEL_GROUP_TOKENS;
    for (uint32_t i = 0; i < config->layer_count; i++) {
        const struct kv_layer *layer = &config->layers[i];
        /* Without a cache every layer needs all tokens, whatever its window: attention masks, and one shape is one
         * group. */
        enum kv_layer_kind kind = config->one_layer_at_a_time ? KV_FULL : layer->kind;
        uint32_t window = kind == KV_SLIDING ? layer->window : 0, g = 0;
        const struct kv_place *twin = NULL;
        if (config->one_layer_at_a_time) {
            for (uint32_t j = 0; j < i && !twin; j++)
                if (same_shape(&config->layers[j], layer)) twin = &places[j];
        }
        if (twin) {
            places[i] = *twin;
            continue;
        }
        while (g < group_count && (groups[g].kind != kind || groups[g].window != window)) g++;
        if (g == group_count) groups[group_count++] = (struct kv_group){.kind = kind, .window = window};
        uint64_t k_bytes = groups_of_block * kernel_k_group_bytes(layer->k_format, layer->head_dim);
        uint64_t v_bytes = groups_of_block * kernel_v_group_bytes(layer->v_format, layer->value_dim);
        places[i] = (struct kv_place){
            .group = g, .offset = groups[g].block_bytes, .head_bytes = k_bytes + v_bytes, .k_bytes = k_bytes};
        groups[g].block_bytes += layer->kv_heads * (k_bytes + v_bytes);
    }
    for (uint32_t g = 0; g < group_count; g++) groups[g].block_bytes = round_up(groups[g].block_bytes, 64);
    return group_count;
}

uint64_t kv_bytes_needed(const struct kv_config *config, uint32_t tokens, uint32_t chunk)
{
    struct kv_group *groups = mem_zero(config->layer_count, sizeof *groups);
    struct kv_place *places = mem_zero(config->layer_count, sizeof *places);
    uint64_t bytes = 0, size = config->block_tokens;
    if (groups && places) {
        uint32_t group_count = lay_out(config, groups, places);
        for (uint32_t g = 0; g < group_count; g++) {
            uint64_t blocks = (tokens + size - 1) / size;
            /* A window and the chunk being written may begin and end inside a block. */
            uint64_t window_blocks = (groups[g].window + (uint64_t)chunk + size - 1) / size + 1;
            if (groups[g].kind == KV_SLIDING && window_blocks < blocks) blocks = window_blocks;
            bytes += blocks * groups[g].block_bytes;
        }
    } else {
        bytes = UINT64_MAX; /* no memory for this small sum: nothing will fit */
    }
    mem_free(groups);
    mem_free(places);
    return bytes;
}

static enum status group_open(struct kv_cache *cache, struct kv_group *group, struct error *error)
{
    uint64_t blocks = cache->bytes_max / group->block_bytes;
    if (blocks == 0)
        return error_set(error, ST_LIMIT, "a KV cache of %llu bytes is less than one block (%llu bytes)",
                         (unsigned long long)cache->bytes_max, (unsigned long long)group->block_bytes);
    if (blocks > UINT32_MAX / 2) blocks = UINT32_MAX / 2;
    group->blocks_max = (uint32_t)blocks;
    group->free_head = group->cached_oldest = group->cached_newest = BLOCK_NONE;
    group->memory_bytes = blocks * group->block_bytes;
    group->memory = mem_map_reserve(group->memory_bytes);
    /* Zeroed pages that are never touched cost nothing: these arrays become real as blocks are taken. */
    group->blocks = mem_map_reserve(blocks * sizeof *group->blocks);
    if (cache->share_prefixes) {
        uint32_t buckets = 1;
        while (buckets < blocks) buckets *= 2;
        group->tokens = mem_map_reserve(blocks * cache->block_tokens * sizeof *group->tokens);
        group->buckets = mem_alloc(buckets * sizeof *group->buckets);
        group->bucket_mask = buckets - 1;
        if (group->buckets) memset(group->buckets, 0xff, buckets * sizeof *group->buckets);
    }
    if (!group->memory || !group->blocks || (cache->share_prefixes && (!group->tokens || !group->buckets)))
        return error_set(error, ST_NOMEM,
                         "no address space for a KV cache of %llu bytes: use a smaller --kv-cache-memory",
                         (unsigned long long)cache->bytes_max);
    return ST_OK;
}

enum status kv_open(const struct kv_config *config, struct kv_cache **out, struct error *error)
{
    *out = NULL;
    enum status status = config_check(config, error);
    if (status != ST_OK) return status;
    struct kv_cache *cache = mem_zero(1, sizeof *cache);
    if (!cache) return error_set(error, ST_NOMEM, "not enough memory for a KV cache");
    cache->layers = mem_zero(config->layer_count, sizeof *cache->layers);
    cache->places = mem_zero(config->layer_count, sizeof *cache->places);
    cache->groups = mem_zero(config->layer_count, sizeof *cache->groups);
    cache->batch = mem_zero(1, sizeof *cache->batch);
    if (!cache->layers || !cache->places || !cache->groups || !cache->batch) {
        status = error_set(error, ST_NOMEM, "not enough memory for a KV cache");
        goto done;
    }
    memcpy(cache->layers, config->layers, config->layer_count * sizeof *cache->layers);
    cache->layer_count = config->layer_count;
    cache->block_tokens = config->block_tokens;
    cache->bytes_max = config->bytes_max;
    cache->kernel = config->kernel;
    cache->share_prefixes = config->share_prefixes && !config->one_layer_at_a_time;
    cache->batch->cache = cache;
    cache->group_count = lay_out(config, cache->groups, cache->places);
    for (uint32_t g = 0; g < cache->group_count && status == ST_OK; g++)
        status = group_open(cache, &cache->groups[g], error);
done:
    if (status == ST_OK)
        *out = cache;
    else
        kv_close(cache);
    return status;
}

void kv_close(struct kv_cache *cache)
{
    if (!cache) return;
    ASSERT(!cache->first_seq && !cache->pinned);
    for (uint32_t g = 0; g < cache->group_count; g++) {
        struct kv_group *group = &cache->groups[g];
        mem_unmap(group->memory, group->memory_bytes);
        mem_unmap(group->blocks, group->blocks_max * sizeof *group->blocks);
        mem_unmap(group->tokens, (uint64_t)group->blocks_max * cache->block_tokens * sizeof *group->tokens);
        mem_free(group->buckets);
    }
    if (cache->batch) mem_free(cache->batch->seqs);
    mem_free(cache->batch);
    mem_free(cache->groups);
    mem_free(cache->places);
    mem_free(cache->layers);
    mem_free(cache);
}

void kv_stats(const struct kv_cache *cache, struct kv_stats *out)
{
    *out = (struct kv_stats){.bytes_max = cache->bytes_max,
                             .prefix_queried_tokens = cache->queried_tokens,
                             .prefix_hit_tokens = cache->hit_tokens,
                             .evicted_blocks = cache->evicted_blocks,
                             .block_tokens = cache->block_tokens};
    for (uint32_t g = 0; g < cache->group_count; g++) {
        const struct kv_group *group = &cache->groups[g];
        out->bytes_mapped += group->blocks_touched * group->block_bytes;
        out->blocks_used += group->held_count;
        out->blocks_cached += group->cached_count;
        out->bytes_used += group->held_count * group->block_bytes;
        out->bytes_cached += group->cached_count * group->block_bytes;
    }
    for (uint32_t i = 0; i < cache->layer_count; i++)
        out->bytes_per_token += kv_layer_bytes_per_token(&cache->layers[i]);
    for (const struct kv_seq *seq = cache->first_seq; seq; seq = seq->next_seq) out->sequences++;
}
