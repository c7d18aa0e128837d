/* cache.c - opens and closes the cache; statistics. */
#include "kv_internal.h"
#include <string.h>

static enum status groups_open(struct kv_cache *cache, struct error *error)
{
    for (uint32_t g = 0; g < cache->group_count; g++) {
        struct kv_group *group = &cache->groups[g];
        if (cache->bytes_max < group->block_bytes)
            return error_set(error, ST_LIMIT, "a KV cache of %llu bytes is less than one block (%llu bytes)",
                             (unsigned long long)cache->bytes_max, (unsigned long long)group->block_bytes);
        for (enum segment segment = 0; segment < SEGMENTS; segment++)
            group->cached[segment] = (struct kv_lru){BLOCK_NONE, BLOCK_NONE, 0};
        if (pool_init(cache, group) != ST_OK)
            return error_set(error, ST_NOMEM,
                             "no address space for a KV cache of %llu bytes: use a smaller --kv-cache-memory",
                             (unsigned long long)cache->bytes_max);
    }
    return ST_OK;
}

/* Takes the configuration's numbers, a copy of its layers, and the layout. */
static enum status take_config(struct kv_cache *cache, const struct kv_config *config)
{
    struct kv_layout layout;
    cache->batch = mem_zero(1, sizeof *cache->batch);
    cache->layers = mem_zero(config->layer_count, sizeof *cache->layers);
    if (!cache->batch || !cache->layers || layout_init(config, &layout) != ST_OK) return ST_NOMEM;
    cache->places = layout.places;
    cache->first_place = layout.first_place;
    cache->groups = layout.groups;
    cache->group_count = layout.group_count;
    cache->batch->cache = cache;
    memcpy(cache->layers, config->layers, config->layer_count * sizeof *cache->layers);
    for (uint32_t i = 0; i < config->layer_count; i++) cache->layers[i].heads = NULL; /* the places have them */
    cache->layer_count = config->layer_count;
    cache->block_tokens = config->block_tokens;
    cache->bytes_max = config->bytes_max;
    cache->bytes_pinned_max = config->bytes_pinned_max;
    cache->swap_bytes_max = config->swap_bytes_max;
    cache->bytes_protected_max = config->bytes_max / 100 * config->protected_percent;
    cache->kernel = config->kernel;
    cache->share_prefixes = config->share_prefixes && !config->one_layer_at_a_time;
    cache->one_layer_at_a_time = config->one_layer_at_a_time;
    memcpy(cache->provenance, config->provenance, sizeof cache->provenance);
    cache->key_bits = config->key_bits;
    return ST_OK;
}

/* Where the exact rows of each layer's open group lie in a sequence. */
static enum status place_open_rows(struct kv_cache *cache)
{
    cache->closed_tokens = 1;
    cache->open_offset = mem_zero(cache->layer_count, sizeof *cache->open_offset);
    if (!cache->open_offset) return ST_NOMEM;
    for (uint32_t i = 0; i < cache->layer_count; i++) {
        const struct kv_layer *layer = &cache->layers[i];
        enum kv_rows rows = kind_of(layer->kind)->rows;
        if (rows == ROWS_NONE || !kernel_k_closes(layer->k_format)) continue;
        cache->closed_tokens = KERNEL_CLOSED_TOKENS;
        cache->open_offset[i] = rows == ROWS_OF_SOURCE ? cache->open_offset[layer->source] : cache->open_bytes;
        if (rows == ROWS_OWN) cache->open_bytes += layer->kv_heads * kernel_k_exact_bytes(layer->head_dim);
    }
    return ST_OK;
}

enum status kv_open(const struct kv_config *config, struct kv_cache **out, struct error *error)
{
    *out = NULL;
    enum status status = layout_check(config, error);
    if (status != ST_OK) return status;
    struct kv_cache *cache = mem_zero(1, sizeof *cache);
    if (!cache || take_config(cache, config) != ST_OK || place_open_rows(cache) != ST_OK)
        status = error_set(error, ST_NOMEM, "not enough memory for a KV cache");
    if (status == ST_OK) status = groups_open(cache, error);
    if (status == ST_OK && cache->swap_bytes_max) status = background_open(&cache->mover, error);
    if (status == ST_OK && config->offload_folder && !cache->one_layer_at_a_time)
        status = offload_open(cache, config, error);
    if (status == ST_OK && config->lower_count) status = lower_open(cache, config, error);
    if (status == ST_OK)
        *out = cache;
    else
        kv_close(cache);
    return status;
}

void kv_close(struct kv_cache *cache)
{
    if (!cache) return;
    while (cache->first_pin) ASSERT(kv_prefix_unpin(cache, cache->first_pin->name) == ST_OK);
    lower_close(cache);
    ASSERT(!cache->first_seq && !cache->pinned && !kv_swap_poll(cache, true));
    background_close(cache->mover);
    offload_close(cache);
    for (uint32_t g = 0; g < cache->group_count; g++) pool_release(&cache->groups[g]);
    prefix_release(&cache->tree);
    if (cache->batch) mem_free(cache->batch->seqs);
    mem_free(cache->batch);
    mem_free(cache->groups);
    mem_free(cache->first_place);
    mem_free(cache->places);
    mem_free(cache->open_offset);
    mem_free(cache->layers);
    mem_free(cache);
}

/* ---- statistics -------------------------------------------------------------------------------------------------- */

/* How many of the tokens [begin, end) are among [first, last). */
static uint32_t overlap(uint32_t begin, uint32_t end, uint32_t first, uint32_t last)
{
    uint32_t from = begin > first ? begin : first, to = end < last ? end : last;
    return from < to ? to - from : 0;
}

/* Of the sequence's blocks in one group: bytes without a row that a next token could read. Of a shared block each holder
 * answers for its part. */
static uint64_t wasted_bytes(const struct kv_seq *seq, uint32_t g)
{
    const struct kv_group *group = &seq->cache->groups[g];
    const struct kv_table *table = &seq->tables[g];
    uint32_t size = seq->cache->block_tokens, live = group->kind->live_tokens(&group->reach, seq->count);
    uint32_t sinks = live < seq->count ? group->reach.sinks : 0; /* live: [0, sinks) and [begin, count) */
    uint32_t begin = seq->count - (live - sinks);
    uint64_t bytes = 0;
    for (uint32_t b = 0; b < table->count; b++) {
        if (table->blocks[b] == BLOCK_NONE) continue;
        uint64_t rows =
            overlap(b * size, (b + 1) * size, 0, sinks) + overlap(b * size, (b + 1) * size, begin, seq->count);
        bytes += (group->block_bytes - rows * group->token_bytes) / group->blocks[table->blocks[b]].refs;
    }
    return bytes;
}

void kv_stats(const struct kv_cache *cache, struct kv_stats *out)
{
    *out = (struct kv_stats){.bytes_max = cache->bytes_max,
                             .bytes_mapped = cache->bytes_mapped,
                             .bytes_protected = cache->bytes_cached[PROTECTED],
                             .bytes_metadata = prefix_bytes(&cache->tree),
                             .prefix_queried_tokens = cache->queried_tokens,
                             .prefix_hit_tokens = cache->hit_tokens,
                             .evicted_blocks = cache->evicted_blocks,
                             .copied_blocks = cache->copied_blocks,
                             .bytes_swap_max = cache->swap_bytes_max,
                             .bytes_swapped = cache->swap_bytes,
                             .swaps_out = cache->swaps_out,
                             .swaps_in = cache->swaps_in,
                             .swap_copied_bytes = cache->swap_copied_bytes,
                             .swap_copy_s = cache->swap_copy_s,
                             .block_tokens = cache->block_tokens};
    for (uint32_t g = 0; g < cache->group_count; g++) {
        const struct kv_group *group = &cache->groups[g];
        uint64_t cached = 0;
        for (enum segment segment = 0; segment < SEGMENTS; segment++) cached += group->cached[segment].count;
        out->blocks_used += group->held_count;
        out->blocks_cached += cached;
        out->bytes_used += group->held_count * group->block_bytes;
        out->bytes_cached += cached * group->block_bytes;
    }
    for (uint32_t i = 0; i < cache->layer_count; i++)
        out->bytes_per_token += kv_layer_bytes_per_token(&cache->layers[i]);
    for (const struct kv_seq *seq = cache->first_seq; seq; seq = seq->next_seq) {
        out->sequences += !seq->coming;
        out->bytes_metadata += cache->open_bytes;
        for (uint32_t g = 0; g < cache->group_count; g++) out->bytes_wasted += wasted_bytes(seq, g);
    }
    offload_stats(cache, out);
    for (const struct kv_pin *pin = cache->first_pin; pin; pin = pin->next) {
        uint64_t bytes, blocks;
        kv_seq_usage(pin->seq, &bytes, &blocks);
        out->bytes_pinned += bytes;
        out->pinned_prefixes++;
        out->sequences--;
    }
}

uint64_t kv_evictions(const struct kv_cache *cache)
{
    return cache->evicted_blocks;
}

uint64_t kv_bytes_free(const struct kv_cache *cache)
{
    uint64_t held = 0;
    for (uint32_t g = 0; g < cache->group_count; g++)
        held += cache->groups[g].held_count * cache->groups[g].block_bytes;
    return cache->bytes_max - held;
}
