/* swap.c - a sequence's blocks go to memory of another budget and come back, byte for byte; kv.h draws the states.
 *
 * The mover, a thread, runs one move at a time: the copies of one sequence, between blocks that the sequence holds (so
 * nobody writes to them, frees them or gives their memory back) and the sequence's place in the swap tier. It knows
 * addresses and bytes only. Everything else happens in the owner's thread, before a move is put and after it is taken back
 * in kv_swap_poll: so what can be seen of the cache never depends on how far a copy is.
 *
 * The place is taken whole on the way out and given back, by the mover too since unmapping is slow, once the sequence is
 * resident again or closed; its bytes count until then. A swapped sequence keeps its nodes: they hold its tokens, and on
 * the way back they say which rows are still cached, or cached again. */
#include "kv_internal.h"
#include <string.h>

#define PAGE_BYTES 4096u

/* ---- the mover's side -------------------------------------------------------------------------------------------- */

static struct kv_swap *swap_of(struct background_task *task)
{
    return (struct kv_swap *)(void *)task; /* its first member */
}

static void move(struct background_task *task)
{
    struct kv_swap *swap = swap_of(task);
    double began = clock_thread_seconds();
    for (uint32_t i = 0; i < swap->copy_count && !task->cancelled; i++) {
        const struct kv_copy *copy = &swap->copies[i];
        unsigned char *place = swap->memory + copy->offset;
        memcpy(swap->out ? place : copy->block, swap->out ? copy->block : place, copy->bytes);
        swap->copied_bytes += copy->bytes;
    }
    swap->copy_s += clock_thread_seconds() - began;
}

static void unmap(struct background_task *task)
{
    mem_unmap(swap_of(task)->memory, swap_of(task)->bytes);
}

/* ---- starting and ending a move ---------------------------------------------------------------------------------- */

static void start(struct kv_seq *seq, bool out)
{
    struct kv_cache *cache = seq->cache;
    seq->swap->out = out;
    seq->swap->task.run = move;
    seq->residence = out ? KV_SWAPPING_OUT : KV_SWAPPING_IN;
    cache->swaps_moving++;
    background_put(cache->mover, &seq->swap->task);
}

/* The move is the owner's again. */
static void ended(struct kv_swap *swap)
{
    struct kv_cache *cache = swap->seq->cache;
    cache->swaps_moving--;
    cache->swap_copied_bytes += swap->copied_bytes;
    cache->swap_copy_s += swap->copy_s;
    swap->copied_bytes = 0;
    swap->copy_s = 0;
}

static void call_back(struct kv_seq *seq)
{
    background_cancel(seq->cache->mover, &seq->swap->task);
    ended(seq->swap);
}

/* The place in the tier is no longer needed; kv_swap_poll frees the rest. */
static void give_place(struct kv_seq *seq)
{
    struct kv_swap *swap = seq->swap;
    seq->swap = NULL;
    swap->seq = NULL;
    swap->task.run = unmap;
    seq->cache->swap_bytes_going += swap->bytes;
    background_put(seq->cache->mover, &swap->task);
}

static void resident(struct kv_seq *seq)
{
    seq->residence = KV_RESIDENT;
    give_place(seq);
}

/* ---- out --------------------------------------------------------------------------------------------------------- */

/* A place for all blocks of the sequence, and room to list them and their nodes. */
static enum status take_place(struct kv_seq *seq)
{
    struct kv_cache *cache = seq->cache;
    uint32_t blocks = blocks_for(cache, seq->count), full = seq_published(seq), entries = 0;
    uint64_t bytes = 0;
    for (uint32_t g = 0; g < cache->group_count; g++)
        for (uint32_t b = 0; b < blocks; b++) {
            if (seq_lacks(seq, g, b)) continue;
            entries++;
            bytes += cache->groups[g].block_bytes;
        }
    bytes = round_up(bytes ? bytes : 1, PAGE_BYTES);
    if (bytes > cache->swap_bytes_max || cache->swap_bytes > cache->swap_bytes_max - bytes) return ST_FULL;
    struct kv_swap *swap = mem_zero(1, sizeof *swap + entries * sizeof *swap->copies + full * sizeof *swap->nodes);
    unsigned char *memory = swap ? mem_map_reserve(bytes) : NULL;
    if (!memory) {
        mem_free(swap);
        return ST_NOMEM;
    }
    swap->seq = seq;
    swap->memory = memory;
    swap->bytes = bytes;
    swap->nodes = (uint32_t *)(void *)(swap->copies + entries);
    for (uint32_t b = full, node = seq->node; b > 0 && node != NODE_NONE; b--, node = prefix_node(cache, node)->parent)
        swap->nodes[b - 1] = node;
    cache->swap_bytes += bytes;
    seq->swap = swap;
    return ST_OK;
}

/* Lists what is to be copied: of all blocks, or of those that are the sequence's own, each has its own place. */
static void list_copies(struct kv_seq *seq, bool own)
{
    struct kv_cache *cache = seq->cache;
    struct kv_swap *swap = seq->swap;
    uint64_t offset = 0;
    swap->copy_count = 0;
    for (uint32_t g = 0; g < cache->group_count; g++) {
        struct kv_group *group = &cache->groups[g];
        for (uint32_t b = 0; b < seq->tables[g].count; b++) {
            uint32_t block = seq->tables[g].blocks[b];
            if (block == BLOCK_NONE) continue;
            if (!own || group->blocks[block].node == NODE_NONE)
                swap->copies[swap->copy_count++] = (struct kv_copy){
                    .block = block_address(group, block), .offset = offset, .bytes = group->block_bytes};
            offset += group->block_bytes;
        }
    }
}

enum status kv_seq_swap_out(struct kv_seq *seq)
{
    struct kv_cache *cache = seq->cache;
    ASSERT(!cache->pinned && (seq->residence == KV_RESIDENT || seq->residence == KV_SWAPPING_IN));
    if (seq->residence == KV_SWAPPING_IN) {
        call_back(seq);
        seq_release_from(seq, 0);
        seq->residence = KV_SWAPPED;
    } else {
        enum status status = take_place(seq);
        if (status != ST_OK) return status;
        seq_release_from(seq, blocks_for(cache, seq->count));
        seq->reserved = seq->count;
        list_copies(seq, false);
        start(seq, true);
    }
    cache->swaps_out++;
    return ST_OK;
}

/* ---- in ---------------------------------------------------------------------------------------------------------- */

/* Holds what the index has of the sequence's rows; returns the bytes of what it has not. */
static uint64_t hold_cached(struct kv_seq *seq)
{
    struct kv_cache *cache = seq->cache;
    uint32_t blocks = blocks_for(cache, seq->count), full = seq_published(seq);
    uint64_t missing = 0;
    for (uint32_t g = 0; g < cache->group_count; g++) {
        struct kv_group *group = &cache->groups[g];
        struct kv_table *table = &seq->tables[g];
        for (table->count = 0; table->count < blocks; table->count++) {
            uint32_t b = table->count, row = BLOCK_NONE;
            if (b < full && seq->node != NODE_NONE && !seq_lacks(seq, g, b))
                row = prefix_rows(prefix_node(cache, seq->swap->nodes[b]))[g];
            table->blocks[b] = row;
            if (row == BLOCK_NONE) {
                missing += seq_lacks(seq, g, b) ? 0 : group->block_bytes;
                continue;
            }
            block_hold(cache, group, row);
            if (group->blocks[row].segment == PASSED) group->blocks[row].segment = PROBATION;
        }
        missing += offload_slot_blocks(seq, g) * group->block_bytes;
    }
    return missing;
}

/* Bytes that can be had without taking anything from a sequence. */
static uint64_t bytes_to_be_had(const struct kv_cache *cache)
{
    uint64_t cached = 0;
    for (enum segment segment = 0; segment < SEGMENTS; segment++) cached += cache->bytes_cached[segment];
    return cache->bytes_max - (cache->bytes_taken - cached);
}

enum status kv_seq_swap_in(struct kv_seq *seq)
{
    struct kv_cache *cache = seq->cache;
    ASSERT(!cache->pinned && (seq->residence == KV_SWAPPED || seq->residence == KV_SWAPPING_OUT));
    if (seq->residence == KV_SWAPPING_OUT) {
        call_back(seq);
        resident(seq);
    } else {
        uint64_t missing = hold_cached(seq);
        if (missing > bytes_to_be_had(cache)) { /* so that nothing is evicted for nothing */
            seq_release_from(seq, 0);
            return ST_FULL;
        }
        enum status status = seq_take_kept(seq, seq->count);
        if (status != ST_OK) return status;
        list_copies(seq, true);
        start(seq, false);
    }
    cache->swaps_in++;
    return ST_OK;
}

/* The rows are there: full blocks are published again, or give way to those that others have published meanwhile. */
static void take_rows(struct kv_seq *seq)
{
    uint32_t full = seq->node == NODE_NONE ? 0 : seq_published(seq);
    for (uint32_t b = 0; b < full; b++) seq_share_rows(seq, b, seq->swap->nodes[b]);
    resident(seq);
}

/* ---- polling, forgetting ----------------------------------------------------------------------------------------- */

bool kv_swap_poll(struct kv_cache *cache, bool wait)
{
    ASSERT(!cache->pinned);
    for (struct background_task *task; cache->mover && (task = background_take(cache->mover, wait));) {
        struct kv_swap *swap = swap_of(task);
        struct kv_seq *seq = swap->seq;
        if (!seq) {
            cache->swap_bytes -= swap->bytes;
            cache->swap_bytes_going -= swap->bytes;
            mem_free(swap);
            continue;
        }
        ended(swap);
        if (!swap->out) {
            take_rows(seq);
            continue;
        }
        seq_release_from(seq, 0);
        seq->residence = KV_SWAPPED;
        pool_trim(cache);
    }
    return cache->swaps_moving > 0;
}

enum kv_residence kv_seq_residence(const struct kv_seq *seq)
{
    return seq->residence;
}

void swap_forget(struct kv_seq *seq)
{
    if (seq->residence == KV_RESIDENT) return;
    if (seq->residence != KV_SWAPPED) call_back(seq);
    if (seq->residence == KV_SWAPPING_IN) seq_release_from(seq, 0); /* there are no rows in them yet */
    resident(seq);
}
