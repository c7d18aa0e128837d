/* check.c - every rule of README.md that can be seen in the data, as code. Slow (it walks everything): tests call it
 * after each operation, debug builds may. It changes nothing and trusts nothing but array bounds. */
#include "kv_internal.h"
#include <string.h>

#define BROKEN(...) return error_set(error, ST_INVALID, __VA_ARGS__)

/* Tables against blocks: `refs` (scratch, [blocks_max]) counts what the tables hold. */
static enum status check_tables(const struct kv_cache *cache, uint32_t g, uint32_t *refs, struct error *error)
{
    const struct kv_group *group = &cache->groups[g];
    for (const struct kv_seq *seq = cache->first_seq; seq; seq = seq->next_seq) {
        const struct kv_table *table = &seq->tables[g];
        if (seq->count > seq->reserved) BROKEN("sequence: %u committed tokens, %u reserved", seq->count, seq->reserved);
        uint32_t blocks = (seq->reserved + cache->block_tokens - 1) / cache->block_tokens;
        if (table->count != blocks)
            BROKEN("group %u: table of %u blocks for %u reserved tokens", g, table->count, seq->reserved);
        if (table->first != group_first_block(cache, group, seq->count))
            BROKEN("group %u: first block %u at %u tokens", g, table->first, seq->count);
        for (uint32_t b = 0; b < table->count; b++) {
            uint32_t block = table->blocks[b];
            if (b < table->first) {
                if (block != BLOCK_NONE) BROKEN("group %u: block %u is behind the window but still held", g, block);
                continue;
            }
            if (block >= group->blocks_touched)
                BROKEN("group %u: table names block %u of %u", g, block, group->blocks_touched);
            refs[block]++;
            bool full = (b + 1) * cache->block_tokens <= seq->count;
            if (!full && (group->blocks[block].published || group->blocks[block].refs != 1))
                BROKEN("group %u: block %u is still written to, but shared", g, block);
        }
    }
    return ST_OK;
}

static enum status check_blocks(const struct kv_cache *cache, uint32_t g, const uint32_t *refs, uint64_t *bytes,
                                struct error *error)
{
    const struct kv_group *group = &cache->groups[g];
    uint32_t held = 0, cached = 0, free_blocks = 0, listed = 0;
    for (uint32_t b = 0; b < group->blocks_touched; b++) {
        const struct kv_block *block = &group->blocks[b];
        if (block->refs != refs[b] && block->state != BLOCK_FREE)
            BROKEN("group %u: block %u has %u references, tables hold %u", g, b, block->refs, refs[b]);
        if (block->state == BLOCK_FREE && (refs[b] || block->published))
            BROKEN("group %u: free block %u is in use", g, b);
        if (block->state == BLOCK_HELD && !refs[b]) BROKEN("group %u: block %u is held by no table", g, b);
        if (block->state == BLOCK_CACHED && (refs[b] || !block->published))
            BROKEN("group %u: cached block %u is held or not published", g, b);
        held += block->state == BLOCK_HELD;
        cached += block->state == BLOCK_CACHED;
        free_blocks += block->state == BLOCK_FREE;
        if (!block->published) continue;
        const uint32_t *tokens = group->tokens + (uint64_t)b * cache->block_tokens;
        if (prefix_find(cache, group, &block->key, tokens) != b)
            BROKEN("group %u: published block %u is not found by its key", g, b);
    }
    if (held != group->held_count || cached != group->cached_count)
        BROKEN("group %u: %u held and %u cached blocks, counted as %u and %u", g, held, cached, group->held_count,
               group->cached_count);
    for (uint32_t b = group->free_head; b != BLOCK_NONE; b = group->blocks[b].next, listed++)
        if (b >= group->blocks_touched || group->blocks[b].state != BLOCK_FREE || listed > free_blocks)
            BROKEN("group %u: the free list is broken at block %u", g, b);
    if (listed != free_blocks) BROKEN("group %u: %u free blocks, %u on the free list", g, free_blocks, listed);
    uint64_t last = 0;
    listed = 0;
    for (uint32_t b = group->cached_oldest; b != BLOCK_NONE; b = group->blocks[b].next, listed++) {
        if (b >= group->blocks_touched || group->blocks[b].state != BLOCK_CACHED || listed > cached)
            BROKEN("group %u: the LRU list is broken at block %u", g, b);
        if (listed && group->blocks[b].freed_at <= last)
            BROKEN("group %u: the LRU list is out of order at block %u", g, b);
        last = group->blocks[b].freed_at;
    }
    if (listed != cached) BROKEN("group %u: %u cached blocks, %u on the LRU list", g, cached, listed);
    *bytes += (uint64_t)(held + cached) * group->block_bytes;
    return ST_OK;
}

static enum status check_index(const struct kv_cache *cache, uint32_t g, struct error *error)
{
    const struct kv_group *group = &cache->groups[g];
    uint32_t published = 0, indexed = 0;
    for (uint32_t b = 0; b < group->blocks_touched; b++) published += group->blocks[b].published;
    for (uint64_t i = 0; group->buckets && i <= group->bucket_mask; i++)
        for (uint32_t b = group->buckets[i]; b != BLOCK_NONE; b = group->blocks[b].chain)
            if (b >= group->blocks_touched || !group->blocks[b].published || ++indexed > published)
                BROKEN("group %u: the prefix index is broken at block %u", g, b);
    if (indexed != published) BROKEN("group %u: %u published blocks, %u in the index", g, published, indexed);
    return ST_OK;
}

enum status kv_check(const struct kv_cache *cache, struct error *error)
{
    uint64_t bytes = 0;
    for (uint32_t g = 0; g < cache->group_count; g++) {
        uint32_t *refs = mem_zero(cache->groups[g].blocks_touched, sizeof *refs);
        if (!refs) return error_set(error, ST_NOMEM, "not enough memory to check the KV cache");
        enum status status = check_tables(cache, g, refs, error);
        if (status == ST_OK) status = check_blocks(cache, g, refs, &bytes, error);
        if (status == ST_OK) status = check_index(cache, g, error);
        mem_free(refs);
        if (status != ST_OK) return status;
    }
    if (bytes != cache->bytes_taken)
        BROKEN("%llu bytes of blocks, counted as %llu", (unsigned long long)bytes,
               (unsigned long long)cache->bytes_taken);
    if (bytes > cache->bytes_max)
        BROKEN("%llu bytes of blocks, more than the budget of %llu", (unsigned long long)bytes,
               (unsigned long long)cache->bytes_max);
    return ST_OK;
}
