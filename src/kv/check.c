/* check.c - every invariant of README.md, by its number there, as code: 1 to 5 and 10 to 14 here, 6 to 9 in check_tree.c.
 * Slow (it walks everything): tests call it after each operation, debug builds may. It changes nothing and trusts nothing
 * but array bounds. */
#include "check_internal.h"

/* ---- 1 to 3: tables against blocks ------------------------------------------------------------------------------- */

static enum status check_entry(const struct kv_seq *seq, uint32_t g, uint32_t b, struct error *error)
{
    const struct kv_cache *cache = seq->cache;
    const struct kv_group *group = &cache->groups[g];
    uint32_t block = seq->tables[g].blocks[b];
    if (seq_lacks(seq, g, b)) {
        if (block != BLOCK_NONE)
            BROKEN("1: group %u: block %u is behind the window, or offloaded, but still held", g, block);
        return ST_OK;
    }
    if (block == BLOCK_NONE && seq->coming) return ST_OK;
    if (block >= group->blocks_max || group->blocks[block].state != BLOCK_HELD)
        BROKEN("1: group %u: a table names block %u, which is not held", g, block);
    bool written = (b + 1) * cache->block_tokens > seq->count && seq->reserved > seq->count;
    if (written && (group->blocks[block].node != NODE_NONE || group->blocks[block].refs != 1))
        BROKEN("3: group %u: block %u may be written to, but is shared", g, block);
    return ST_OK;
}

/* 14: blocks that offloaded rows are recalled to. */
static enum status check_slots(const struct kv_seq *seq, uint32_t g, uint32_t *refs, struct error *error)
{
    const struct kv_group *group = &seq->cache->groups[g];
    const struct kv_offloaded *o = seq->offloaded;
    if (!o || !seq->cache->offload->files[g].block_bytes) return ST_OK;
    if (o->has_slots != (o->away && seq->residence != KV_SWAPPED))
        BROKEN("14: a sequence at %d %s blocks to recall rows to", (int)seq->residence, o->has_slots ? "has" : "lacks");
    for (uint32_t i = 0; i < o->slot_blocks; i++) {
        uint32_t block = o->groups[g].slots[i];
        if (!o->has_slots && block == BLOCK_NONE) continue;
        if (!o->has_slots || block >= group->blocks_max || group->blocks[block].state != BLOCK_HELD ||
            group->blocks[block].node != NODE_NONE || group->blocks[block].refs != 1)
            BROKEN("14: group %u: block %u, for rows that are recalled, is not the sequence's own", g, block);
        refs[block]++;
    }
    return ST_OK;
}

/* `refs` (scratch, [blocks_max]) counts what the tables hold. */
static enum status check_tables(const struct kv_cache *cache, uint32_t g, uint32_t *refs, struct error *error)
{
    for (const struct kv_seq *seq = cache->first_seq; seq; seq = seq->next_seq) {
        const struct kv_table *table = &seq->tables[g];
        if (seq->count > seq->reserved)
            BROKEN("1: sequence: %u committed tokens, %u reserved", seq->count, seq->reserved);
        if (table->count != (seq->residence == KV_SWAPPED ? 0 : blocks_for(cache, seq->reserved)))
            BROKEN("1: group %u: table of %u blocks for %u reserved tokens", g, table->count, seq->reserved);
        if (table->passed != group_hole(cache, &cache->groups[g], seq->count).end)
            BROKEN("1: group %u: %u blocks passed at %u tokens", g, table->passed, seq->count);
        for (uint32_t b = 0; b < table->count; b++) {
            enum status status = check_entry(seq, g, b, error);
            if (status != ST_OK) return status;
            if (table->blocks[b] != BLOCK_NONE) refs[table->blocks[b]]++;
        }
        enum status status = check_slots(seq, g, refs, error);
        if (status != ST_OK) return status;
    }
    return ST_OK;
}

/* ---- 2, 4 and 11: blocks ----------------------------------------------------------------------------------------- */

static enum status check_block(const struct kv_cache *cache, uint32_t g, uint32_t b, uint32_t refs, struct error *error)
{
    const struct kv_block *block = &cache->groups[g].blocks[b];
    bool published = block->node != NODE_NONE;
    if (block->refs != refs) BROKEN("2: group %u: block %u has %u references, tables hold %u", g, b, block->refs, refs);
    if ((block->state == BLOCK_HELD) != (refs > 0) || (block->state == BLOCK_FREE && published) ||
        (block->state == BLOCK_CACHED && !published))
        BROKEN("4: group %u: block %u: state %d, %u references, %s", g, b, (int)block->state, refs,
               published ? "published" : "not published");
    if (block->state != BLOCK_FREE && !block->warm) BROKEN("11: group %u: block %u is taken but cold", g, b);
    if (published && (block->node >= check_nodes(cache) || prefix_rows(prefix_node(cache, block->node))[g] != b))
        BROKEN("6: group %u: block %u is published, but its node has not its rows", g, b);
    return ST_OK;
}

static enum status check_blocks(const struct kv_cache *cache, uint32_t g, const uint32_t *refs, uint64_t *taken,
                                uint64_t *mapped, struct error *error)
{
    const struct kv_group *group = &cache->groups[g];
    uint32_t held = 0, cached = 0, listed = 0, touched = group->slabs_touched * group->slab_blocks;
    if (touched > group->blocks_max) touched = group->blocks_max;
    for (uint32_t b = 0; b < touched; b++) {
        enum status status = check_block(cache, g, b, refs[b], error);
        if (status != ST_OK) return status;
        held += group->blocks[b].state == BLOCK_HELD;
        cached += group->blocks[b].state == BLOCK_CACHED;
        *mapped += group->blocks[b].warm * group->block_bytes;
    }
    for (enum segment segment = 0; segment < SEGMENTS; segment++) listed += group->cached[segment].count;
    if (held != group->held_count || cached != listed)
        BROKEN("4: group %u: %u held and %u cached blocks are counted as %u and %u", g, held, cached, group->held_count,
               listed);
    *taken += (uint64_t)(held + cached) * group->block_bytes;
    return ST_OK;
}

/* ---- 5: LRU lists ------------------------------------------------------------------------------------------------ */

static enum status check_lru(const struct kv_cache *cache, uint32_t g, enum segment segment, uint64_t *bytes,
                             struct error *error)
{
    const struct kv_group *group = &cache->groups[g];
    const struct kv_lru *lru = &group->cached[segment];
    uint32_t listed = 0, previous = BLOCK_NONE;
    for (uint32_t b = lru->oldest; b != BLOCK_NONE; b = group->blocks[b].next, listed++) {
        if (b >= group->blocks_max || listed == lru->count) BROKEN("5: group %u: an LRU list is too long", g);
        const struct kv_block *block = &group->blocks[b];
        if (block->state != BLOCK_CACHED || block->segment != segment || block->previous != previous)
            BROKEN("5: group %u: an LRU list is broken at block %u", g, b);
        if (previous != BLOCK_NONE && block->released_at <= group->blocks[previous].released_at)
            BROKEN("5: group %u: an LRU list is out of order at block %u", g, b);
        previous = b;
    }
    if (listed != lru->count || lru->newest != previous)
        BROKEN("5: group %u: %u blocks on an LRU list of %u", g, listed, lru->count);
    bytes[segment] += listed * group->block_bytes;
    return ST_OK;
}

/* ---- 10: slabs --------------------------------------------------------------------------------------------------- */

static enum status check_slab(const struct kv_group *group, uint32_t g, uint32_t s, struct error *error)
{
    const struct kv_slab *slab = &group->slabs[s];
    uint32_t first = s * group->slab_blocks, taken = 0, warm = 0, listed = 0, blocks = 0;
    for (uint32_t b = first; b < first + group->slab_blocks && b < group->blocks_max; b++, blocks++) {
        taken += group->blocks[b].state != BLOCK_FREE;
        warm += group->blocks[b].warm;
    }
    for (uint32_t b = slab->free_head; b != BLOCK_NONE; b = group->blocks[b].next, listed++)
        if (b / group->slab_blocks != s || group->blocks[b].state != BLOCK_FREE || listed == blocks)
            BROKEN("10: group %u: slab %u: its free list is broken at block %u", g, s, b);
    if (taken != slab->used || listed != blocks - taken)
        BROKEN("10: group %u: slab %u of %u blocks: %u taken, counted as %u, %u free", g, s, blocks, taken, slab->used,
               listed);
    if (slab->listed ? !listed : taken && listed) BROKEN("10: group %u: slab %u is in the wrong list", g, s);
    if (!slab->listed && !taken && warm) BROKEN("10: group %u: slab %u is cold, %u of its blocks are not", g, s, warm);
    return ST_OK;
}

static enum status check_slabs(const struct kv_group *group, uint32_t g, struct error *error)
{
    uint32_t open = 0, cold = 0, full = 0;
    for (uint32_t s = 0; s < group->slabs_touched; s++) {
        enum status status = check_slab(group, g, s, error);
        if (status != ST_OK) return status;
        full += !group->slabs[s].listed && group->slabs[s].used;
    }
    for (uint32_t s = group->open_first; s != SLAB_NONE && open <= group->slabs_touched; s = group->slabs[s].next)
        open += group->slabs[s].listed;
    for (uint32_t s = group->cold_head; s != SLAB_NONE && cold <= group->slabs_touched; s = group->slabs[s].next)
        cold++;
    if (open + cold + full != group->slabs_touched)
        BROKEN("10: group %u: %u open, %u cold and %u full slabs of %u", g, open, cold, full, group->slabs_touched);
    return ST_OK;
}

/* ---- 13: the swap tier ------------------------------------------------------------------------------------------- */

/* While its rows are on their way in, a block is the sequence's own, and nobody can find it. */
static enum status check_moving_in(const struct kv_seq *seq, struct error *error)
{
    const struct kv_cache *cache = seq->cache;
    uint32_t own = 0;
    for (uint32_t g = 0; g < cache->group_count; g++)
        for (uint32_t b = 0; b < seq->tables[g].count; b++) {
            uint32_t block = seq->tables[g].blocks[b];
            if (block == BLOCK_NONE || cache->groups[g].blocks[block].node != NODE_NONE) continue;
            own++;
            if (cache->groups[g].blocks[block].refs != 1)
                BROKEN("13: group %u: block %u is swapped in, but shared", g, block);
        }
    if (own != seq->swap->copy_count)
        BROKEN("13: %u blocks are swapped in, %u copies are made", own, seq->swap->copy_count);
    return ST_OK;
}

static enum status check_swap(const struct kv_cache *cache, struct error *error)
{
    uint64_t bytes = cache->swap_bytes_going;
    uint32_t moving = 0;
    for (const struct kv_seq *seq = cache->first_seq; seq; seq = seq->next_seq) {
        if ((seq->residence == KV_RESIDENT) == (seq->swap != NULL) || (seq->swap && seq->reserved != seq->count))
            BROKEN("13: a sequence is at %d, its place in the swap tier %s", (int)seq->residence,
                   seq->swap ? "taken" : "not");
        if (!seq->swap) continue;
        moving += seq->residence != KV_SWAPPED;
        bytes += seq->swap->bytes;
        enum status status = seq->residence == KV_SWAPPING_IN ? check_moving_in(seq, error) : ST_OK;
        if (status != ST_OK) return status;
    }
    if (bytes != cache->swap_bytes || bytes > cache->swap_bytes_max || moving != cache->swaps_moving)
        BROKEN(
            "13: %llu bytes are swapped out, counted as %llu, at most %llu; %u sequences on their way, counted as %u",
            (unsigned long long)bytes, (unsigned long long)cache->swap_bytes, (unsigned long long)cache->swap_bytes_max,
            moving, cache->swaps_moving);
    return ST_OK;
}

/* ---- 14: what is offloaded --------------------------------------------------------------------------------------- */

/* `seen` (scratch, zeroed): one a place in the file. */
static enum status check_places(const struct kv_cache *cache, uint32_t g, unsigned char *seen, struct error *error)
{
    const struct kv_offload_file *file = &cache->offload->files[g];
    uint32_t taken = 0;
    for (uint32_t i = 0; i < file->free_count; i++) {
        if (file->free[i] >= file->ever || seen[file->free[i]]++)
            BROKEN("14: group %u: place %u of the file is free twice", g, file->free[i]);
    }
    for (const struct kv_seq *seq = cache->first_seq; seq; seq = seq->next_seq)
        for (uint32_t b = 0; seq->offloaded && b < seq->offloaded->end - seq->offloaded->begin; b++, taken++) {
            uint32_t place = seq->offloaded->groups[g].places[b];
            if (place >= file->ever || seen[place]++)
                BROKEN("14: group %u: place %u of the file is not one block's alone", g, place);
        }
    if (taken != file->taken || taken + file->free_count != file->ever)
        BROKEN("14: group %u: %u places of the file are taken, %u free, of %u; counted as %u taken", g, taken,
               file->free_count, file->ever, file->taken);
    return ST_OK;
}

/* Units and slots name each other. */
static enum status check_recalled(const struct kv_seq *seq, uint32_t h, struct error *error)
{
    const struct kv_offloaded *o = seq->offloaded;
    const struct kv_recalled *recalled = &o->recalled[h];
    const uint32_t units = o->capacity * seq->cache->offload->block_units;
    uint32_t in_slots = 0, of_units = 0;
    for (uint32_t s = 0; s < o->slots; s++) {
        if (recalled->unit_of[s] == UINT32_MAX) continue;
        in_slots++;
        if (recalled->unit_of[s] >= units || recalled->slot_of[recalled->unit_of[s]] != s)
            BROKEN("14: slot %u has unit %u, which is not there", s, recalled->unit_of[s]);
    }
    for (uint32_t u = 0; u < units; u++) of_units += recalled->slot_of[u] != UINT32_MAX;
    if (in_slots != of_units || (in_slots && !o->has_slots))
        BROKEN("14: %u units in slots, %u slots of units", of_units, in_slots);
    return ST_OK;
}

static enum status check_offload(const struct kv_cache *cache, struct error *error)
{
    uint64_t bytes = 0;
    enum status status = ST_OK;
    for (uint32_t g = 0; cache->offload && g < cache->group_count && status == ST_OK; g++) {
        const struct kv_offload_file *file = &cache->offload->files[g];
        if (!file->block_bytes) continue;
        unsigned char *seen = mem_zero(file->ever + 1, 1);
        if (!seen) return error_set(error, ST_NOMEM, "not enough memory to check the KV cache");
        status = check_places(cache, g, seen, error);
        mem_free(seen);
        bytes += file->taken * file->block_bytes;
    }
    for (const struct kv_seq *seq = cache->first_seq; seq; seq = seq->next_seq)
        for (uint32_t h = 0; seq->offloaded && h < cache->offload->head_count && status == ST_OK; h++)
            status = check_recalled(seq, h, error);
    if (status == ST_OK && cache->offload && (bytes != cache->offload->bytes || bytes > cache->offload->bytes_max))
        BROKEN("14: %llu bytes are offloaded, counted as %llu, at most %llu", (unsigned long long)bytes,
               (unsigned long long)cache->offload->bytes, (unsigned long long)cache->offload->bytes_max);
    return status;
}

/* ---- all --------------------------------------------------------------------------------------------------------- */

/* 11: what is counted, and the budget. */
static enum status check_bytes(const struct kv_cache *cache, uint64_t taken, uint64_t mapped,
                               const uint64_t cached[SEGMENTS], struct error *error)
{
    const struct {
        const char *name;
        uint64_t bytes, counted, most;
    } sums[] = {{"taken", taken, cache->bytes_taken, cache->bytes_max},
                {"mapped", mapped, cache->bytes_mapped, cache->bytes_max},
                {"protected", cached[PROTECTED], cache->bytes_cached[PROTECTED], cache->bytes_protected_max},
                {"on probation", cached[PROBATION], cache->bytes_cached[PROBATION], cache->bytes_max},
                {"passed", cached[PASSED], cache->bytes_cached[PASSED], cache->bytes_max}};
    for (size_t i = 0; i < ARRAY_COUNT(sums); i++)
        if (sums[i].bytes != sums[i].counted || sums[i].bytes > sums[i].most)
            BROKEN("11: %llu bytes %s, counted as %llu, at most %llu", (unsigned long long)sums[i].bytes, sums[i].name,
                   (unsigned long long)sums[i].counted, (unsigned long long)sums[i].most);
    if (taken > mapped) BROKEN("11: more bytes are taken than mapped");
    uint64_t pinned = 0, bytes, blocks;
    for (const struct kv_pin *pin = cache->first_pin; pin; pin = pin->next, pinned += bytes)
        kv_seq_usage(pin->seq, &bytes, &blocks);
    if (pinned > cache->bytes_pinned_max) BROKEN("12: %llu bytes are pinned by name", (unsigned long long)pinned);
    return ST_OK;
}

enum status kv_check(const struct kv_cache *cache, struct error *error)
{
    uint64_t taken = 0, mapped = 0, cached[SEGMENTS] = {0};
    enum status status = ST_OK;
    for (uint32_t g = 0; g < cache->group_count && status == ST_OK; g++) {
        uint32_t *refs = mem_zero(cache->groups[g].blocks_max, sizeof *refs);
        if (!refs) return error_set(error, ST_NOMEM, "not enough memory to check the KV cache");
        status = check_tables(cache, g, refs, error);
        if (status == ST_OK) status = check_blocks(cache, g, refs, &taken, &mapped, error);
        mem_free(refs);
        for (enum segment segment = 0; segment < SEGMENTS && status == ST_OK; segment++)
            status = check_lru(cache, g, segment, cached, error);
        if (status == ST_OK) status = check_slabs(&cache->groups[g], g, error);
    }
    if (status == ST_OK) status = check_bytes(cache, taken, mapped, cached, error);
    if (status == ST_OK) status = check_swap(cache, error);
    if (status == ST_OK) status = check_offload(cache, error);
    if (status != ST_OK || !cache->share_prefixes) return status;
    uint32_t *stands = mem_zero(check_nodes(cache), sizeof *stands);
    if (!stands) return error_set(error, ST_NOMEM, "not enough memory to check the KV cache");
    status = check_tree(cache, stands, error);
    mem_free(stands);
    return status;
}
