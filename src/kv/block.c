/* block.c - who holds a block, and which cached block goes first when room is needed.
 *
 * The states are drawn in README.md. Eviction is segmented LRU (Karedla, Love, Wherry 1994): a published block that nobody
 * holds any more waits in its group's probation list, or, when a second sequence has used it, in the protected list,
 * whose bytes are bounded: the oldest beyond the bound go back to probation. The oldest on probation goes first, of any
 * group; protected ones only when probation is empty. So a prompt that is read once, however long, cannot push out
 * prefixes that are shared. Tables are let go from their end, so that blocks go before those they depend on.
 *
 * What a window has passed waits in a list of its own, and goes before anything else: only who branches off there wants
 * it, and on hybrid models it is most of what is computed. Where sequences are seen to part it is protected instead. */
#include "kv_internal.h"

static void cached_unlink(struct kv_cache *cache, struct kv_group *group, uint32_t block)
{
    struct kv_block *b = &group->blocks[block];
    struct kv_lru *lru = &group->cached[b->segment];
    if (b->previous == BLOCK_NONE)
        lru->oldest = b->next;
    else
        group->blocks[b->previous].next = b->next;
    if (b->next == BLOCK_NONE)
        lru->newest = b->previous;
    else
        group->blocks[b->next].previous = b->previous;
    lru->count--;
    cache->bytes_cached[b->segment] -= group->block_bytes;
}

static void cached_link(struct kv_cache *cache, struct kv_group *group, uint32_t block)
{
    struct kv_block *b = &group->blocks[block];
    struct kv_lru *lru = &group->cached[b->segment];
    b->released_at = cache->clock++;
    b->previous = lru->newest;
    b->next = BLOCK_NONE;
    if (lru->newest == BLOCK_NONE)
        lru->oldest = block;
    else
        group->blocks[lru->newest].next = block;
    lru->newest = block;
    lru->count++;
    cache->bytes_cached[b->segment] += group->block_bytes;
}

/* The group whose oldest block of this segment went unused the longest, or NULL. */
static struct kv_group *oldest_group(struct kv_cache *cache, enum segment segment)
{
    struct kv_group *oldest = NULL;
    for (uint32_t g = 0; g < cache->group_count; g++) {
        struct kv_group *group = &cache->groups[g];
        uint32_t block = group->cached[segment].oldest;
        if (block == BLOCK_NONE) continue;
        if (!oldest || group->blocks[block].released_at < oldest->blocks[oldest->cached[segment].oldest].released_at)
            oldest = group;
    }
    return oldest;
}

static void bound_protected(struct kv_cache *cache)
{
    while (cache->bytes_cached[PROTECTED] > cache->bytes_protected_max) {
        struct kv_group *group = oldest_group(cache, PROTECTED);
        uint32_t block = group->cached[PROTECTED].oldest;
        cached_unlink(cache, group, block);
        group->blocks[block].segment = PROBATION;
        cached_link(cache, group, block);
    }
}

static void drop(struct kv_cache *cache, uint32_t g, uint32_t block)
{
    struct kv_group *group = &cache->groups[g];
    ASSERT(group->blocks[block].state == BLOCK_CACHED);
    cached_unlink(cache, group, block);
    prefix_detach(cache, g, block);
    group->blocks[block].state = BLOCK_FREE;
    pool_give(cache, group, block);
    cache->evicted_blocks++;
}

/* Without its rows for full attention a node serves nobody: what other groups have of it goes too. */
static void block_evict(struct kv_cache *cache, struct kv_group *group, uint32_t block)
{
    uint32_t id = group->blocks[block].node;
    struct kv_node *node = prefix_node(cache, id);
    if (group->kind->keeps_all) {
        for (uint32_t g = 0; g < cache->group_count; g++)
            if (prefix_rows(node)[g] != BLOCK_NONE) drop(cache, g, prefix_rows(node)[g]);
    } else {
        drop(cache, (uint32_t)(group - cache->groups), block);
    }
    prefix_prune(cache, id);
}

static bool evict_oldest(struct kv_cache *cache)
{
    for (enum segment segment = 0; segment < SEGMENTS; segment++) {
        struct kv_group *group = oldest_group(cache, segment);
        if (!group) continue;
        block_evict(cache, group, group->cached[segment].oldest);
        return true;
    }
    return false;
}

uint32_t block_take(struct kv_cache *cache, struct kv_group *group)
{
    ASSERT(!cache->pinned);
    while (cache->bytes_taken + group->block_bytes > cache->bytes_max)
        if (!evict_oldest(cache) && !fetch_let_go(cache)) return BLOCK_NONE;
    uint32_t block = pool_take(cache, group);
    struct kv_block *b = &group->blocks[block];
    b->state = BLOCK_HELD;
    b->segment = PROBATION;
    b->refs = 1;
    group->held_count++;
    return block;
}

void block_hold(struct kv_cache *cache, struct kv_group *group, uint32_t block)
{
    ASSERT(!cache->pinned);
    struct kv_block *b = &group->blocks[block];
    ASSERT(b->state != BLOCK_FREE);
    if (b->state == BLOCK_CACHED) {
        cached_unlink(cache, group, block);
        b->state = BLOCK_HELD;
        group->held_count++;
    }
    b->refs++;
}

void block_release(struct kv_cache *cache, struct kv_group *group, uint32_t block)
{
    ASSERT(!cache->pinned);
    struct kv_block *b = &group->blocks[block];
    ASSERT(b->state == BLOCK_HELD && b->refs > 0);
    if (--b->refs) return;
    group->held_count--;
    if (b->node == NODE_NONE) {
        b->state = BLOCK_FREE;
        pool_give(cache, group, block);
        return;
    }
    b->state = BLOCK_CACHED;
    cached_link(cache, group, block);
    bound_protected(cache);
}

void block_pass(struct kv_cache *cache, struct kv_group *group, uint32_t block)
{
    struct kv_block *b = &group->blocks[block];
    if (b->refs == 1 && b->segment == PROBATION) b->segment = PASSED;
    block_release(cache, group, block);
}

void block_protect(struct kv_cache *cache, struct kv_group *group, uint32_t block)
{
    struct kv_block *b = &group->blocks[block];
    bool moves = b->state == BLOCK_CACHED && b->segment != PROTECTED;
    if (moves) cached_unlink(cache, group, block);
    b->segment = PROTECTED;
    if (moves) cached_link(cache, group, block);
    bound_protected(cache);
}
