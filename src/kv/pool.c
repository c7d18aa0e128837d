/* pool.c - memory for blocks: which of a group's blocks are free, and when their memory is real.
 *
 * Address space for the whole budget is taken at open; it costs nothing. A group grows by a slab, a run of blocks of a few
 * MB, so that huge pages fill. A block is warm from when it is taken until its memory is given back; warm blocks of all
 * groups together never exceed the budget:
 *
 *                  pool_take                 pool_give
 *   cold, free ──────────────▶ warm, taken ────────────▶ warm, free     (pool_take: back to taken)
 *       ▲                                                    │
 *       └── pool_trim: its slab is empty; or another group ──┘
 *           needs the bytes (make_room)
 *
 * Does not know what is in a block, who holds it, or when to evict. */
#include "kv_internal.h"
#include <sys/mman.h>

#define SLAB_BYTES (4u << 20)
#define SLABS_MIN 8u /* so that a small budget also comes in parts */
#define PAGE_BYTES 4096u

unsigned char *block_address(const struct kv_group *group, uint32_t block)
{
    return group->memory + (uint64_t)block * group->block_bytes;
}

enum status pool_init(struct kv_cache *cache, struct kv_group *group)
{
    uint64_t blocks = cache->bytes_max / group->block_bytes;
    if (blocks > UINT32_MAX / 2) blocks = UINT32_MAX / 2;
    uint64_t slab = SLAB_BYTES / group->block_bytes;
    if (slab > blocks / SLABS_MIN) slab = blocks / SLABS_MIN;
    group->blocks_max = (uint32_t)blocks;
    group->slab_blocks = slab ? (uint32_t)slab : 1;
    group->slab_count = (uint32_t)((blocks + group->slab_blocks - 1) / group->slab_blocks);
    group->open_first = group->open_last = group->cold_head = SLAB_NONE;
    group->memory_bytes = blocks * group->block_bytes;
    group->memory = mem_map_reserve(group->memory_bytes);
    /* Zeroed pages that are never touched cost nothing: these arrays become real as slabs are. */
    group->blocks = mem_map_reserve(blocks * sizeof *group->blocks);
    group->slabs = mem_map_reserve((uint64_t)group->slab_count * sizeof *group->slabs);
    return group->memory && group->blocks && group->slabs ? ST_OK : ST_NOMEM;
}

void pool_release(struct kv_group *group)
{
    mem_unmap(group->memory, group->memory_bytes);
    mem_unmap(group->blocks, (uint64_t)group->blocks_max * sizeof *group->blocks);
    mem_unmap(group->slabs, (uint64_t)group->slab_count * sizeof *group->slabs);
}

/* ---- the list of open slabs: partly used ones first, so that they fill and the others stay empty ----------------- */

static void open_unlink(struct kv_group *group, uint32_t s)
{
    struct kv_slab *slab = &group->slabs[s];
    if (slab->previous == SLAB_NONE)
        group->open_first = slab->next;
    else
        group->slabs[slab->previous].next = slab->next;
    if (slab->next == SLAB_NONE)
        group->open_last = slab->previous;
    else
        group->slabs[slab->next].previous = slab->previous;
    slab->listed = false;
}

static void open_link(struct kv_group *group, uint32_t s)
{
    struct kv_slab *slab = &group->slabs[s];
    bool last = slab->used == 0;
    slab->previous = last ? group->open_last : SLAB_NONE;
    slab->next = last ? SLAB_NONE : group->open_first;
    if (slab->previous == SLAB_NONE)
        group->open_first = s;
    else
        group->slabs[slab->previous].next = s;
    if (slab->next == SLAB_NONE)
        group->open_last = s;
    else
        group->slabs[slab->next].previous = s;
    slab->listed = true;
}

/* ---- giving memory back ------------------------------------------------------------------------------------------ */

static void give_pages(const struct kv_group *group, uint32_t block, uint32_t count)
{
    uintptr_t from = (uintptr_t)round_up((uintptr_t)block_address(group, block), PAGE_BYTES);
    uintptr_t to = (uintptr_t)block_address(group, block + count) / PAGE_BYTES * PAGE_BYTES;
    if (to > from) madvise((void *)from, to - from, MADV_DONTNEED);
}

static void cool(struct kv_cache *cache, struct kv_group *group, uint32_t block)
{
    if (!group->blocks[block].warm) return;
    group->blocks[block].warm = false;
    cache->bytes_mapped -= group->block_bytes;
}

static uint32_t slab_end(const struct kv_group *group, uint32_t s)
{
    uint32_t left = group->blocks_max - s * group->slab_blocks;
    return s * group->slab_blocks + (left < group->slab_blocks ? left : group->slab_blocks);
}

/* Empty slabs go cold, last ones first, until no more than `keep` bytes are mapped or none is left. */
static void cool_slabs(struct kv_cache *cache, struct kv_group *group, uint64_t keep)
{
    while (group->open_last != SLAB_NONE && cache->bytes_mapped > keep) {
        uint32_t s = group->open_last, first = s * group->slab_blocks;
        if (group->slabs[s].used) return;
        give_pages(group, first, slab_end(group, s) - first);
        for (uint32_t b = first; b < slab_end(group, s); b++) cool(cache, group, b);
        open_unlink(group, s);
        group->slabs[s].next = group->cold_head;
        group->cold_head = s;
    }
}

/* Free blocks of partly used slabs go cold: what a group had, and another needs now. */
static void cool_blocks(struct kv_cache *cache, struct kv_group *group, uint64_t keep)
{
    for (uint32_t s = group->open_first; s != SLAB_NONE; s = group->slabs[s].next)
        for (uint32_t b = group->slabs[s].free_head; b != BLOCK_NONE; b = group->blocks[b].next) {
            if (cache->bytes_mapped <= keep) return;
            if (group->blocks[b].warm) give_pages(group, b, 1);
            cool(cache, group, b);
        }
}

static void make_room(struct kv_cache *cache, uint64_t bytes)
{
    uint64_t keep = cache->bytes_max - bytes;
    for (uint32_t g = 0; g < cache->group_count; g++) cool_slabs(cache, &cache->groups[g], keep);
    for (uint32_t g = 0; g < cache->group_count; g++) cool_blocks(cache, &cache->groups[g], keep);
    ASSERT(cache->bytes_mapped <= keep); /* only taken blocks are warm now, and these are within the budget */
}

/* While sequences are open a part of what they have stays mapped, so that memory is not given and taken each step. */
void pool_trim(struct kv_cache *cache)
{
    uint64_t keep = cache->first_seq ? cache->bytes_taken + cache->bytes_taken / 4 : cache->bytes_taken;
    for (uint32_t g = 0; g < cache->group_count; g++) cool_slabs(cache, &cache->groups[g], keep);
}

/* ---- taking and giving ------------------------------------------------------------------------------------------- */

/* A cold slab, or one that was never used, becomes the open one. */
static uint32_t slab_open(struct kv_group *group)
{
    uint32_t s = group->cold_head;
    if (s != SLAB_NONE) {
        group->cold_head = group->slabs[s].next;
    } else {
        ASSERT(group->slabs_touched < group->slab_count); /* the budget holds no more than blocks_max blocks */
        s = group->slabs_touched++;
        group->slabs[s].free_head = BLOCK_NONE;
        for (uint32_t b = slab_end(group, s); b > s * group->slab_blocks; b--) {
            group->blocks[b - 1] = (struct kv_block){.node = NODE_NONE, .next = group->slabs[s].free_head};
            group->slabs[s].free_head = b - 1;
        }
    }
    open_link(group, s);
    return s;
}

uint32_t pool_take(struct kv_cache *cache, struct kv_group *group)
{
    uint32_t s = group->open_first != SLAB_NONE ? group->open_first : slab_open(group);
    struct kv_slab *slab = &group->slabs[s];
    uint32_t block = slab->free_head;
    slab->free_head = group->blocks[block].next;
    slab->used++; /* first, so that make_room leaves the slab alone */
    if (slab->free_head == BLOCK_NONE) open_unlink(group, s);
    if (!group->blocks[block].warm) {
        if (cache->bytes_mapped + group->block_bytes > cache->bytes_max) make_room(cache, group->block_bytes);
        group->blocks[block].warm = true;
        cache->bytes_mapped += group->block_bytes;
    }
    cache->bytes_taken += group->block_bytes;
    return block;
}

void pool_give(struct kv_cache *cache, struct kv_group *group, uint32_t block)
{
    uint32_t s = block / group->slab_blocks;
    struct kv_slab *slab = &group->slabs[s];
    group->blocks[block].next = slab->free_head;
    slab->free_head = block;
    slab->used--;
    if (slab->listed && !slab->used) open_unlink(group, s);
    if (!slab->listed) open_link(group, s);
    cache->bytes_taken -= group->block_bytes;
}
