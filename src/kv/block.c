/* block.c - the block pool: takes, shares and releases fixed blocks of each group within one budget in bytes.
 *
 * The states are drawn in README.md. Address space for the whole budget is taken at open; a block's memory becomes real
 * when it is first written and is given back by block_trim. This file does not know what is in a block, or when to
 * evict for any reason but room. */
#include "kv_internal.h"
#include <sys/mman.h>

unsigned char *block_address(const struct kv_group *group, uint32_t block)
{
    return group->memory + (uint64_t)block * group->block_bytes;
}

static void cached_unlink(struct kv_group *group, uint32_t block)
{
    struct kv_block *b = &group->blocks[block];
    if (b->previous == BLOCK_NONE)
        group->cached_oldest = b->next;
    else
        group->blocks[b->previous].next = b->next;
    if (b->next == BLOCK_NONE)
        group->cached_newest = b->previous;
    else
        group->blocks[b->next].previous = b->previous;
    group->cached_count--;
}

static void block_free(struct kv_cache *cache, struct kv_group *group, uint32_t block)
{
    struct kv_block *b = &group->blocks[block];
    b->state = BLOCK_FREE;
    b->next = group->free_head;
    group->free_head = block;
    cache->bytes_taken -= group->block_bytes;
}

static void block_evict(struct kv_cache *cache, struct kv_group *group, uint32_t block)
{
    cached_unlink(group, block);
    prefix_forget(group, block);
    block_free(cache, group, block);
    cache->evicted_blocks++;
}

/* Evicts the block that went unused the longest, of any group; false when nothing is cached. */
static bool evict_oldest(struct kv_cache *cache)
{
    struct kv_group *oldest = NULL;
    for (uint32_t i = 0; i < cache->group_count; i++) {
        struct kv_group *group = &cache->groups[i];
        if (group->cached_oldest == BLOCK_NONE) continue;
        if (!oldest || group->blocks[group->cached_oldest].freed_at < oldest->blocks[oldest->cached_oldest].freed_at)
            oldest = group;
    }
    if (!oldest) return false;
    block_evict(cache, oldest, oldest->cached_oldest);
    return true;
}

uint32_t block_take(struct kv_cache *cache, struct kv_group *group)
{
    ASSERT(!cache->pinned);
    while (cache->bytes_taken + group->block_bytes > cache->bytes_max)
        if (!evict_oldest(cache)) return BLOCK_NONE;
    uint32_t block = group->free_head;
    if (block != BLOCK_NONE) {
        group->free_head = group->blocks[block].next;
    } else {
        ASSERT(group->blocks_touched < group->blocks_max); /* the budget holds no more than blocks_max of them */
        block = group->blocks_touched++;
    }
    group->blocks[block] =
        (struct kv_block){.state = BLOCK_HELD, .refs = 1, .previous = BLOCK_NONE, .next = BLOCK_NONE};
    group->held_count++;
    cache->bytes_taken += group->block_bytes;
    return block;
}

void block_hold(struct kv_cache *cache, struct kv_group *group, uint32_t block)
{
    ASSERT(!cache->pinned);
    struct kv_block *b = &group->blocks[block];
    ASSERT(b->state != BLOCK_FREE && b->published);
    if (b->state == BLOCK_CACHED) {
        cached_unlink(group, block);
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
    if (!b->published) {
        block_free(cache, group, block);
        return;
    }
    b->state = BLOCK_CACHED;
    b->freed_at = cache->clock++;
    b->previous = group->cached_newest;
    b->next = BLOCK_NONE;
    if (group->cached_newest == BLOCK_NONE)
        group->cached_oldest = block;
    else
        group->blocks[group->cached_newest].next = block;
    group->cached_newest = block;
    group->cached_count++;
}

/* Runs of free blocks go back to the machine; the blocks stay on the free list and become real again when written. */
void block_trim(struct kv_group *group)
{
    for (uint32_t begin = 0; begin < group->blocks_touched;) {
        uint32_t end = begin;
        while (end < group->blocks_touched && group->blocks[end].state == BLOCK_FREE) end++;
        if (end > begin) {
            uintptr_t from = (uintptr_t)round_up((uintptr_t)block_address(group, begin), 4096);
            uintptr_t to = (uintptr_t)block_address(group, end) / 4096 * 4096;
            if (to > from) madvise((void *)from, to - from, MADV_DONTNEED);
        }
        begin = end + 1;
    }
}
