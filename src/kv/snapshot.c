/* snapshot.c - what is in every block, for whoever draws it. Walks everything, changes and allocates nothing. */
#include "kv_internal.h"

uint32_t kv_groups(const struct kv_cache *cache, struct kv_group_info *out, uint32_t capacity)
{
    for (uint32_t g = 0; g < cache->group_count && g < capacity; g++)
        out[g] = (struct kv_group_info){.reach = cache->groups[g].reach,
                                        .index = cache->groups[g].index,
                                        .block_bytes = cache->groups[g].block_bytes,
                                        .token_bytes = cache->groups[g].token_bytes};
    return cache->group_count;
}

struct snapshot {
    struct kv_block_info *out;
    uint32_t count, capacity; /* count may be the larger */
};

static uint64_t key_number(const struct kv_key *key)
{
    uint64_t number = 0;
    for (uint32_t i = 0; i < sizeof number; i++) number = number << 8 | key->bytes[i];
    return number;
}

static void add_block(const struct kv_cache *cache, uint32_t g, uint32_t b, struct snapshot *snapshot)
{
    const struct kv_block *block = &cache->groups[g].blocks[b];
    if (block->state == BLOCK_FREE || snapshot->count++ >= snapshot->capacity) return;
    bool cached = block->state == BLOCK_CACHED;
    struct kv_block_info *info = &snapshot->out[snapshot->count - 1];
    *info = (struct kv_block_info){.group = g,
                                   .index = b,
                                   .tier = KV_TIER_MEMORY,
                                   .state = cached ? KV_BLOCK_CACHED : KV_BLOCK_HELD,
                                   .is_protected = block->segment == PROTECTED,
                                   .references = block->refs,
                                   .age = cached ? cache->clock - 1 - block->released_at : 0};
    if (block->node == NODE_NONE) return;
    const struct kv_node *node = prefix_node(cache, block->node);
    info->published = true;
    info->tokens = node->token_count;
    info->key = key_number(&node->key);
    if (cached) info->position = node->position;
}

/* Of a block that is in use; NULL: beyond the capacity. */
static struct kv_block_info *find_block(const struct snapshot *snapshot, uint32_t g, uint32_t b)
{
    uint32_t low = 0, high = snapshot->count < snapshot->capacity ? snapshot->count : snapshot->capacity;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        const struct kv_block_info *info = &snapshot->out[middle];
        if (info->group < g || (info->group == g && info->index < b))
            low = middle + 1;
        else
            high = middle;
    }
    bool found = low < snapshot->count && low < snapshot->capacity && snapshot->out[low].group == g &&
                 snapshot->out[low].index == b;
    return found ? &snapshot->out[low] : NULL;
}

static void add_holder(const struct kv_seq *seq, bool pinned, const struct snapshot *snapshot)
{
    uint32_t size = seq->cache->block_tokens;
    for (uint32_t g = 0; g < seq->cache->group_count; g++)
        for (uint32_t b = 0; b < seq->tables[g].count; b++) {
            if (seq->tables[g].blocks[b] == BLOCK_NONE) continue;
            struct kv_block_info *info = find_block(snapshot, g, seq->tables[g].blocks[b]);
            if (!info) continue;
            uint32_t left = seq->count > b * size ? seq->count - b * size : 0;
            if (left > size) left = size;
            if (info->tokens < left) info->tokens = left;
            if (!info->owner || info->owner > seq->number) info->owner = seq->number;
            info->position = b * size;
            info->pinned |= pinned;
            info->moving |= seq->residence != KV_RESIDENT;
        }
    for (uint32_t g = 0; seq->offloaded && seq->offloaded->has_slots && g < seq->cache->group_count; g++)
        for (uint32_t i = 0; i < offload_slot_blocks(seq, g); i++) {
            struct kv_block_info *info = find_block(snapshot, g, seq->offloaded->groups[g].slots[i]);
            if (info) info->owner = seq->number;
        }
}

static void add_offloaded(const struct kv_seq *seq, struct snapshot *snapshot)
{
    const struct kv_cache *cache = seq->cache;
    const struct kv_offloaded *o = seq->offloaded;
    for (uint32_t g = 0; g < cache->group_count; g++)
        for (uint32_t b = 0; b < offload_blocks(seq, g); b++) {
            if (snapshot->count++ >= snapshot->capacity) continue;
            snapshot->out[snapshot->count - 1] =
                (struct kv_block_info){.group = g,
                                       .index = o->groups[g].places[b],
                                       .tier = KV_TIER_DISK,
                                       .state = KV_BLOCK_HELD,
                                       .references = 1,
                                       .tokens = cache->block_tokens,
                                       .position = (o->begin + b) * cache->block_tokens,
                                       .owner = seq->number};
        }
}

static void add_swapped(const struct kv_seq *seq, struct snapshot *snapshot)
{
    const struct kv_cache *cache = seq->cache;
    uint32_t size = cache->block_tokens, full = seq->count / size, index = 0;
    for (uint32_t g = 0; g < cache->group_count; g++)
        for (uint32_t b = 0; b < blocks_for(cache, seq->count); b++) {
            if (seq_lacks(seq, g, b) || snapshot->count++ >= snapshot->capacity) continue;
            snapshot->out[snapshot->count - 1] =
                (struct kv_block_info){.group = g,
                                       .index = index++,
                                       .tier = KV_TIER_SWAP,
                                       .state = KV_BLOCK_HELD,
                                       .moving = seq->residence != KV_SWAPPED,
                                       .references = 1,
                                       .tokens = b < full ? size : seq->count - full * size,
                                       .position = b * size,
                                       .owner = seq->number};
        }
}

uint32_t kv_snapshot(const struct kv_cache *cache, struct kv_block_info *out, uint32_t capacity)
{
    struct snapshot snapshot = {.out = out, .capacity = capacity};
    for (uint32_t g = 0; g < cache->group_count; g++) {
        const struct kv_group *group = &cache->groups[g];
        for (uint32_t b = 0; b < group->blocks_max && b / group->slab_blocks < group->slabs_touched; b++)
            add_block(cache, g, b, &snapshot);
    }
    for (const struct kv_seq *seq = cache->first_seq; seq; seq = seq->next_seq) add_holder(seq, false, &snapshot);
    for (const struct kv_pin *pin = cache->first_pin; pin; pin = pin->next) add_holder(pin->seq, true, &snapshot);
    for (const struct kv_seq *seq = cache->first_seq; seq; seq = seq->next_seq)
        if (seq->swap) add_swapped(seq, &snapshot);
    for (const struct kv_seq *seq = cache->first_seq; seq; seq = seq->next_seq)
        if (seq->offloaded) add_offloaded(seq, &snapshot);
    return snapshot.count;
}
