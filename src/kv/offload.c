/* offload.c - rows between a sequence's first tokens and its local window wait in a file, and the few that a token asks for are
 * read back, slice by slice, into blocks that the sequence keeps for that.
 *
 *   table     [ 0 | 1 | - | - | - | - | - | 7 | 8 ]      blocks [begin, end) are away
 *   file          slices of block 2, of block 3, …       slice: one head's K and V rows of a unit, and their checksum
 *   slots     [ a | b ]                                  blocks of the sequence's own; each head puts a unit into any unit's place
 *
 * A unit is a key group, or the two that close together. What a head has recalled stays in its slots until others want them, the
 * least lately used first, or nearly: so a token finds most of what the one before it asked for.
 *
 * The way out goes in small parts. Until all is written the sequence keeps its blocks, and nothing is different. Then it
 * parts from the prefix index: it stands on the node before `begin` from then on, has copies of its own of what it shares after `end`,
 * and gives the rest up, which stays cached like anything that was published. From then on blocks go as the window passes them. */
#include "kv_internal.h"
#include <string.h>
#include <xxhash.h>

#define UNREAD UINT32_MAX
#define SUM_BYTES 8u
#define SPARE_SHARE 4u /* so many slots, for one that is spare: for units that are asked for again a few tokens later */

/* ---- the tier ---------------------------------------------------------------------------------------------------- */

static uint64_t slice_bytes(const struct kv_sliced_head *head)
{
    return head->k_bytes + head->v_bytes + SUM_BYTES;
}

/* Whether all heads of a group have entries in the index, so that nobody ever reads all of it. */
static bool can_wait(const struct kv_cache *cache, uint32_t g)
{
    bool any = false;
    for (uint32_t i = 0; i < cache->layer_count; i++)
        for (uint32_t h = 0; h < cache->layers[i].kv_heads; h++) {
            const struct kv_place *place = &cache->places[cache->first_place[i] + h];
            if (place->group != g) continue;
            if (place->index_group == GROUP_NONE) return false;
            any = true;
        }
    return any;
}

static void add_head(struct kv_offload_tier *tier, const struct kv_layer *layer, struct kv_place *place)
{
    struct kv_offload_file *file = &tier->files[place->group];
    const uint64_t groups = tier->unit_tokens / KERNEL_GROUP_TOKENS;
    struct kv_sliced_head *head = &tier->heads[tier->head_count];
    place->sliced = tier->head_count++;
    *head = (struct kv_sliced_head){.group = place->group,
                                    .k_offset = place->k_offset,
                                    .v_offset = place->v_offset,
                                    .k_bytes = groups * kernel_k_group_bytes(layer->k_format, layer->head_dim),
                                    .v_bytes = groups * kernel_v_group_bytes(layer->v_format, layer->value_dim),
                                    .file_offset = file->block_bytes};
    file->block_bytes += tier->block_units * slice_bytes(head);
}

/* All heads of a group; those that read another layer's rows stand after it. */
static void add_group(struct kv_cache *cache, uint32_t g)
{
    for (uint32_t i = 0; i < cache->layer_count; i++)
        for (uint32_t h = 0; h < cache->layers[i].kv_heads; h++) {
            const struct kv_layer *layer = &cache->layers[i];
            struct kv_place *place = &cache->places[cache->first_place[i] + h];
            if (place->group != g) continue;
            if (kind_of(layer->kind)->rows == ROWS_OF_SOURCE)
                place->sliced = cache->places[cache->first_place[layer->source] + h].sliced;
            else
                add_head(cache->offload, layer, place);
        }
}

enum status offload_open(struct kv_cache *cache, const struct kv_config *config, struct error *error)
{
    uint64_t heads = 0, largest = 0;
    for (uint32_t i = 0; i < cache->layer_count; i++) heads += cache->layers[i].kv_heads;
    struct kv_offload_tier *tier = cache->offload = mem_zero(1, sizeof *tier);
    if (!tier) return error_set(error, ST_NOMEM, "not enough memory for a KV cache");
    tier->bytes_max = config->offload_bytes_max;
    tier->unit_tokens = cache->closed_tokens > KERNEL_GROUP_TOKENS ? cache->closed_tokens : KERNEL_GROUP_TOKENS;
    tier->block_units = cache->block_tokens / tier->unit_tokens;
    tier->heads = mem_zero(heads, sizeof *tier->heads);
    tier->files = mem_zero(cache->group_count, sizeof *tier->files);
    if (!tier->heads || !tier->files) return error_set(error, ST_NOMEM, "not enough memory for a KV cache");
    for (uint32_t g = 0; g < cache->group_count; g++) tier->files[g].file.fd = -1;
    for (uint32_t g = 0; g < cache->group_count; g++) {
        struct kv_offload_file *file = &tier->files[g];
        if (!can_wait(cache, g)) continue;
        add_group(cache, g);
        enum status status = file_scratch_open(config->offload_folder, &file->file, error);
        if (status != ST_OK) return status;
        if (file->block_bytes > largest) largest = file->block_bytes;
    }
    tier->block = mem_alloc(largest + 1);
    return tier->block ? ST_OK : error_set(error, ST_NOMEM, "not enough memory for a KV cache");
}

void offload_close(struct kv_cache *cache)
{
    struct kv_offload_tier *tier = cache->offload;
    if (!tier) return;
    for (uint32_t g = 0; tier->files && g < cache->group_count; g++) {
        file_scratch_close(&tier->files[g].file);
        mem_free(tier->files[g].free);
    }
    mem_free(tier->files);
    mem_free(tier->heads);
    mem_free(tier->block);
    mem_free(tier);
}

/* ---- places in a file -------------------------------------------------------------------------------------------- */

static enum status place_take(struct kv_offload_tier *tier, struct kv_offload_file *file, uint32_t *out)
{
    if (tier->bytes + file->block_bytes > tier->bytes_max) return ST_LIMIT;
    if (!file->free_count && file->ever == file->capacity) { /* so that all can be given back */
        uint32_t capacity = file->capacity ? 2 * file->capacity : 64;
        uint32_t *list = mem_resize(file->free, capacity * sizeof *list);
        if (!list) return ST_NOMEM;
        file->free = list;
        file->capacity = capacity;
    }
    *out = file->free_count ? file->free[--file->free_count] : file->ever++;
    file->taken++;
    tier->bytes += file->block_bytes;
    return ST_OK;
}

static void place_give(struct kv_offload_tier *tier, struct kv_offload_file *file, uint32_t place)
{
    tier->bytes -= file->block_bytes;
    file->free[file->free_count++] = place;
    if (--file->taken) return;
    file->free_count = file->ever = 0;
    file_scratch_empty(&file->file); /* the disk has its bytes back */
}

/* ---- out --------------------------------------------------------------------------------------------------------- */

/* The sum of a slice, that of no other one: what is read may have been lost on its way to the disk. */
static uint64_t slice_sum(const void *k, uint64_t k_bytes, const void *v, uint64_t v_bytes, uint64_t offset)
{
    return XXH3_64bits_withSeed(v, v_bytes, XXH3_64bits_withSeed(k, k_bytes, offset));
}

static bool write_block(const struct kv_cache *cache, uint32_t g, uint32_t block, uint32_t place)
{
    const struct kv_offload_tier *tier = cache->offload;
    const struct kv_offload_file *file = &tier->files[g];
    const unsigned char *base = block_address(&cache->groups[g], block);
    for (uint32_t i = 0; i < tier->head_count; i++) {
        const struct kv_sliced_head *head = &tier->heads[i];
        if (head->group != g) continue;
        for (uint32_t u = 0; u < tier->block_units; u++) {
            const uint64_t offset = head->file_offset + u * slice_bytes(head);
            unsigned char *slice = tier->block + offset;
            const unsigned char *k = base + head->k_offset + u * head->k_bytes,
                                *v = base + head->v_offset + u * head->v_bytes;
            const uint64_t sum = slice_sum(k, head->k_bytes, v, head->v_bytes, place * file->block_bytes + offset);
            memcpy(slice, k, head->k_bytes);
            memcpy(slice + head->k_bytes, v, head->v_bytes);
            memcpy(slice + head->k_bytes + head->v_bytes, &sum, sizeof sum);
        }
    }
    return file_scratch_write(&file->file, place * file->block_bytes, tier->block, file->block_bytes);
}

static bool is_sliced(const struct kv_cache *cache, uint32_t g)
{
    return cache->offload && cache->offload->files[g].block_bytes;
}

/* Room to note one more block, and its units for every head. */
static enum status grow(struct kv_seq *seq)
{
    struct kv_offloaded *o = seq->offloaded;
    const struct kv_cache *cache = seq->cache;
    const uint32_t units = cache->offload->block_units;
    if (o->end - o->begin < o->capacity) return ST_OK;
    const uint32_t capacity = o->capacity ? 2 * o->capacity : 64;
    for (uint32_t g = 0; g < cache->group_count; g++) {
        if (!is_sliced(cache, g)) continue;
        uint32_t *places = mem_resize(o->groups[g].places, capacity * sizeof *places);
        if (!places) return ST_NOMEM;
        o->groups[g].places = places;
    }
    for (uint32_t i = 0; i < cache->offload->head_count; i++) {
        uint32_t *slots = mem_resize(o->recalled[i].slot_of, capacity * units * sizeof *slots);
        if (!slots) return ST_NOMEM;
        o->recalled[i].slot_of = slots;
        for (uint32_t u = o->capacity * units; u < capacity * units; u++) slots[u] = UNREAD;
    }
    o->capacity = capacity;
    return ST_OK;
}

/* Block `o->end` of every group, all or none. */
static enum status write_next(struct kv_seq *seq)
{
    struct kv_cache *cache = seq->cache;
    struct kv_offload_tier *tier = cache->offload;
    struct kv_offloaded *o = seq->offloaded;
    enum status status = grow(seq);
    uint32_t done = 0;
    for (uint32_t g = 0; g < cache->group_count && status == ST_OK; g++) {
        uint32_t *place = is_sliced(cache, g) ? &o->groups[g].places[o->end - o->begin] : NULL;
        if (place) status = place_take(tier, &tier->files[g], place);
        if (place && status == ST_OK && !write_block(cache, g, seq->tables[g].blocks[o->end], *place)) {
            place_give(tier, &tier->files[g], *place);
            status = ST_IO;
        }
        if (status == ST_OK) done = g + 1;
    }
    if (status == ST_OK) {
        o->end++;
        return ST_OK;
    }
    for (uint32_t g = 0; g < done; g++)
        if (is_sliced(cache, g)) place_give(tier, &tier->files[g], o->groups[g].places[o->end - o->begin]);
    return status;
}

/* ---- slots ------------------------------------------------------------------------------------------------------- */

enum status offload_take_slots(struct kv_seq *seq)
{
    struct kv_cache *cache = seq->cache;
    struct kv_offloaded *o = seq->offloaded;
    ASSERT(o->away && !o->has_slots);
    o->has_slots = true;
    for (uint32_t g = 0; g < cache->group_count; g++)
        for (uint32_t i = 0; is_sliced(cache, g) && i < o->slot_blocks; i++) {
            o->groups[g].slots[i] = block_take(cache, &cache->groups[g]);
            if (o->groups[g].slots[i] != BLOCK_NONE) continue;
            offload_release_slots(seq);
            return ST_FULL;
        }
    return ST_OK;
}

void offload_release_slots(struct kv_seq *seq)
{
    struct kv_cache *cache = seq->cache;
    struct kv_offloaded *o = seq->offloaded;
    if (!o || !o->has_slots) return;
    o->has_slots = false;
    for (uint32_t g = 0; g < cache->group_count; g++)
        for (uint32_t i = 0; is_sliced(cache, g) && i < o->slot_blocks; i++) {
            if (o->groups[g].slots[i] != BLOCK_NONE) block_release(cache, &cache->groups[g], o->groups[g].slots[i]);
            o->groups[g].slots[i] = BLOCK_NONE;
        }
    for (uint32_t i = 0; i < cache->offload->head_count; i++) {
        struct kv_recalled *recalled = &o->recalled[i];
        for (uint32_t s = 0; s < o->slots; s++) {
            if (recalled->unit_of[s] != UNREAD) recalled->slot_of[recalled->unit_of[s]] = UNREAD;
            recalled->unit_of[s] = UNREAD;
        }
    }
}

/* ---- parting from the prefix index ------------------------------------------------------------------------------- */

static bool is_own(const struct kv_group *group, uint32_t block)
{
    return group->blocks[block].node == NODE_NONE && group->blocks[block].refs == 1;
}

static bool goes(const struct kv_seq *seq, uint32_t g, uint32_t b)
{
    return is_sliced(seq->cache, g) && hole_has((struct kv_hole){seq->offloaded->begin, seq->offloaded->end}, b);
}

/* Copies of all that is shared from `begin` on and stays; `copies`: [table count] of each group. */
static enum status take_copies(struct kv_seq *seq, uint32_t *copies)
{
    struct kv_cache *cache = seq->cache;
    const uint32_t count = seq->tables[0].count;
    for (uint32_t g = 0; g < cache->group_count; g++)
        for (uint32_t b = seq->offloaded->begin; b < count; b++) {
            const uint32_t block = seq->tables[g].blocks[b];
            if (block == BLOCK_NONE || goes(seq, g, b) || is_own(&cache->groups[g], block)) continue;
            uint32_t *copy = &copies[g * count + b];
            *copy = block_take(cache, &cache->groups[g]);
            if (*copy == BLOCK_NONE) return ST_FULL;
        }
    return ST_OK;
}

/* Every shared block from `begin` on gives way to its copy, or goes; later ones first, as in seq_release_from. */
static void let_go(struct kv_seq *seq, const uint32_t *copies)
{
    struct kv_cache *cache = seq->cache;
    const uint32_t count = seq->tables[0].count;
    for (uint32_t b = count; b > seq->offloaded->begin; b--)
        for (uint32_t g = 0; g < cache->group_count; g++) {
            struct kv_group *group = &cache->groups[g];
            uint32_t *block = &seq->tables[g].blocks[b - 1], copy = copies[g * count + b - 1];
            if (copy == BLOCK_NONE && (*block == BLOCK_NONE || !goes(seq, g, b - 1))) continue;
            if (copy != BLOCK_NONE) {
                memcpy(block_address(group, copy), block_address(group, *block), group->block_bytes);
                cache->copied_blocks++;
            }
            block_release(cache, group, *block);
            *block = copy;
        }
}

/* It stands on the last node that it still has all rows of. */
static void step_back(struct kv_seq *seq)
{
    struct kv_cache *cache = seq->cache;
    uint32_t node = seq->node, at = seq_published(seq);
    if (node == NODE_NONE) return;
    for (; at > seq->offloaded->begin; at--) node = prefix_node(cache, node)->parent;
    prefix_ref(cache, node);
    prefix_unref(cache, seq->node);
    seq->node = node;
    seq->publish_max = at;
}

/* Of the blocks that go, those that nobody else holds. */
static uint64_t bytes_gained(const struct kv_seq *seq)
{
    const struct kv_cache *cache = seq->cache;
    uint64_t bytes = 0;
    for (uint32_t g = 0; g < cache->group_count; g++)
        for (uint32_t b = seq->offloaded->begin; is_sliced(cache, g) && b < seq->offloaded->end; b++)
            if (cache->groups[g].blocks[seq->tables[g].blocks[b]].refs == 1) bytes += cache->groups[g].block_bytes;
    return bytes;
}

static uint64_t slot_bytes(const struct kv_seq *seq)
{
    uint64_t bytes = 0;
    for (uint32_t g = 0; g < seq->cache->group_count; g++)
        if (is_sliced(seq->cache, g)) bytes += seq->offloaded->slot_blocks * seq->cache->groups[g].block_bytes;
    return bytes;
}

static enum status part(struct kv_seq *seq)
{
    struct kv_cache *cache = seq->cache;
    struct kv_offloaded *o = seq->offloaded;
    const uint32_t count = seq->tables[0].count;
    /* In this order, so that it fits wherever the sequence did: copies are few, and what goes makes room for what it recalls. */
    uint32_t *copies = mem_alloc((uint64_t)cache->group_count * count * sizeof *copies + 1);
    if (!copies) return ST_NOMEM;
    for (uint32_t i = 0; i < cache->group_count * count; i++) copies[i] = BLOCK_NONE;
    enum status status = take_copies(seq, copies);
    if (status == ST_OK && kv_bytes_free(cache) + bytes_gained(seq) < slot_bytes(seq)) status = ST_FULL;
    if (status == ST_OK) {
        o->away = true;
        let_go(seq, copies);
        step_back(seq);
        ASSERT(offload_take_slots(seq) == ST_OK); /* there is room */
    } else {
        for (uint32_t i = 0; i < cache->group_count * count; i++)
            if (copies[i] != BLOCK_NONE) block_release(cache, &cache->groups[i / count], copies[i]);
    }
    mem_free(copies);
    return status;
}

/* ---- a sequence's --------------------------------------------------------------------------------------------------- */

static enum status begin(struct kv_seq *seq, uint32_t first, uint32_t recall_tokens)
{
    const struct kv_cache *cache = seq->cache;
    const struct kv_offload_tier *tier = cache->offload;
    const uint32_t per_block = tier->block_units,
                   units = (uint32_t)(round_up(recall_tokens, tier->unit_tokens) / tier->unit_tokens);
    struct kv_offloaded *o = seq->offloaded = mem_zero(1, sizeof *o);
    if (!o) return ST_NOMEM;
    o->begin = o->end = first;
    o->slot_blocks = (units + units / SPARE_SHARE + per_block) / per_block;
    o->slots = o->slot_blocks * per_block;
    o->groups = mem_zero(cache->group_count, sizeof *o->groups);
    o->recalled = mem_zero(tier->head_count, sizeof *o->recalled);
    bool all = o->groups && o->recalled;
    for (uint32_t g = 0; all && g < cache->group_count; g++) {
        if (!is_sliced(cache, g)) continue;
        all = (o->groups[g].slots = mem_alloc(o->slot_blocks * sizeof(uint32_t))) != NULL;
        for (uint32_t i = 0; all && i < o->slot_blocks; i++) o->groups[g].slots[i] = BLOCK_NONE;
    }
    for (uint32_t i = 0; all && i < tier->head_count; i++) {
        struct kv_recalled *recalled = &o->recalled[i];
        recalled->unit_of = mem_alloc(o->slots * sizeof *recalled->unit_of);
        recalled->used_at = mem_zero(o->slots, sizeof *recalled->used_at);
        recalled->missing = mem_alloc(o->slots * sizeof *recalled->missing);
        all = recalled->unit_of && recalled->used_at && recalled->missing;
        for (uint32_t s = 0; all && s < o->slots; s++) recalled->unit_of[s] = UNREAD;
    }
    if (all) return ST_OK;
    offload_forget(seq);
    return ST_NOMEM;
}

void offload_forget(struct kv_seq *seq)
{
    struct kv_cache *cache = seq->cache;
    struct kv_offloaded *o = seq->offloaded;
    if (!o) return;
    offload_release_slots(seq);
    for (uint32_t g = 0; o->groups && g < cache->group_count; g++) {
        for (uint32_t b = 0; is_sliced(cache, g) && b < o->end - o->begin; b++)
            place_give(cache->offload, &cache->offload->files[g], o->groups[g].places[b]);
        mem_free(o->groups[g].places);
        mem_free(o->groups[g].slots);
    }
    for (uint32_t i = 0; o->recalled && i < cache->offload->head_count; i++) {
        struct kv_recalled *recalled = &o->recalled[i];
        cache->offload->found_slices += recalled->found;
        cache->offload->read_slices += recalled->read;
        mem_free(recalled->slot_of);
        mem_free(recalled->unit_of);
        mem_free(recalled->used_at);
        mem_free(recalled->missing);
    }
    mem_free(o->groups);
    mem_free(o->recalled);
    mem_free(o);
    seq->offloaded = NULL;
}

bool offload_has(const struct kv_seq *seq, uint32_t g, uint32_t b)
{
    return offload_away(seq) && goes(seq, g, b);
}

uint32_t offload_blocks(const struct kv_seq *seq, uint32_t g)
{
    return offload_away(seq) && is_sliced(seq->cache, g) ? seq->offloaded->end - seq->offloaded->begin : 0;
}

uint32_t offload_slot_blocks(const struct kv_seq *seq, uint32_t g)
{
    return offload_away(seq) && is_sliced(seq->cache, g) ? seq->offloaded->slot_blocks : 0;
}

void offload_stats(const struct kv_cache *cache, struct kv_stats *out)
{
    const struct kv_offload_tier *tier = cache->offload;
    if (!tier) return;
    out->bytes_offload_max = tier->bytes_max;
    out->bytes_offloaded = tier->bytes;
    out->recalled_slices = tier->found_slices;
    out->read_slices = tier->read_slices;
    for (const struct kv_seq *seq = cache->first_seq; seq; seq = seq->next_seq)
        for (uint32_t i = 0; seq->offloaded && i < tier->head_count; i++) {
            const struct kv_offloaded *o = seq->offloaded;
            out->recalled_slices += o->recalled[i].found;
            out->read_slices += o->recalled[i].read;
            out->bytes_metadata += (o->capacity * (uint64_t)tier->block_units + 3ull * o->slots) * sizeof(uint32_t);
        }
}

enum status kv_seq_offload(struct kv_seq *seq, uint32_t from, uint32_t to, uint32_t recall_tokens, uint32_t most)
{
    struct kv_cache *cache = seq->cache;
    ASSERT(!cache->pinned && seq->residence == KV_RESIDENT && to <= seq->count);
    ASSERT(!cache->share_prefixes || seq->publish_max != UINT32_MAX);
    const uint32_t last = to / cache->block_tokens, first = blocks_for(cache, from);
    enum status status = ST_OK;
    if (!cache->offload || !cache->offload->head_count) return ST_UNSUPPORTED;
    if (last <= first) return ST_OK;
    if (!seq->offloaded) status = begin(seq, first, recall_tokens);
    if (status != ST_OK) return status;
    struct kv_offloaded *o = seq->offloaded;
    for (; o->end < last && most && status == ST_OK; most--) {
        status = write_next(seq);
        for (uint32_t g = 0; status == ST_OK && o->away && g < cache->group_count; g++) {
            uint32_t *block = &seq->tables[g].blocks[o->end - 1];
            if (!is_sliced(cache, g)) continue;
            block_release(cache, &cache->groups[g], *block);
            *block = BLOCK_NONE;
        }
    }
    /* Only where that gives more memory than it takes. */
    if (status == ST_OK && !o->away && o->end == last && o->end - o->begin > o->slot_blocks) status = part(seq);
    return status;
}

bool kv_seq_lost(const struct kv_seq *seq)
{
    bool lost = false;
    for (uint32_t i = 0; seq->offloaded && i < seq->cache->offload->head_count; i++)
        lost |= seq->offloaded->recalled[i].lost;
    return lost;
}

/* ---- back -------------------------------------------------------------------------------------------------------- */

/* Where a unit's rows lie once they are in a slot. */
static void slot_address(const struct kv_seq *seq, const struct kv_sliced_head *head, uint32_t slot, unsigned char **k,
                         unsigned char **v)
{
    const struct kv_cache *cache = seq->cache;
    const uint32_t per_block = cache->offload->block_units;
    unsigned char *base =
        block_address(&cache->groups[head->group], seq->offloaded->groups[head->group].slots[slot / per_block]);
    *k = base + head->k_offset + slot % per_block * head->k_bytes;
    *v = base + head->v_offset + slot % per_block * head->v_bytes;
}

/* A slot that this token has no use for, rather not one that the last token used. */
static uint32_t take_slot(const struct kv_offloaded *o, struct kv_recalled *recalled)
{
    for (uint32_t tried = 0;; tried++) {
        ASSERT(tried < 2 * o->slots);
        const uint32_t slot = recalled->hand, age = recalled->now - recalled->used_at[slot];
        recalled->hand = slot + 1 < o->slots ? slot + 1 : 0;
        if (recalled->unit_of[slot] == UNREAD || age >= 2 || (age && tried >= o->slots)) {
            if (recalled->unit_of[slot] != UNREAD) recalled->slot_of[recalled->unit_of[slot]] = UNREAD;
            return slot;
        }
    }
}

/* One unit into its slot. False: not without waiting, or (with `wait`) not at all. */
static bool read_slice(const struct kv_seq *seq, const struct kv_sliced_head *head, uint32_t unit, uint32_t slot,
                       bool wait)
{
    const struct kv_offload_tier *tier = seq->cache->offload;
    const struct kv_offload_file *file = &tier->files[head->group];
    const uint32_t per_block = tier->block_units;
    const uint64_t offset = seq->offloaded->groups[head->group].places[unit / per_block] * file->block_bytes +
                            head->file_offset + unit % per_block * slice_bytes(head);
    unsigned char *k, *v;
    uint64_t sum = 0;
    slot_address(seq, head, slot, &k, &v);
    const struct iovec parts[] = {{k, head->k_bytes}, {v, head->v_bytes}, {&sum, sizeof sum}};
    if (!file_scratch_read(&file->file, offset, parts, ARRAY_COUNT(parts), wait)) {
        if (!wait) file_scratch_expect(&file->file, offset, slice_bytes(head));
        return false;
    }
    return sum == slice_sum(k, head->k_bytes, v, head->v_bytes, offset);
}

/* The units that `recalled` has noted as missing. What the system has in memory comes at once; then the disk knows of all the rest
 * before any of it is waited for. */
static void read_missing(const struct kv_seq *seq, const struct kv_sliced_head *head, struct kv_recalled *recalled,
                         uint32_t count)
{
    uint32_t late = 0;
    for (uint32_t i = 0; i < count; i++) {
        const uint32_t unit = recalled->missing[i], slot = take_slot(seq->offloaded, recalled);
        recalled->slot_of[unit] = slot;
        recalled->unit_of[slot] = unit;
        recalled->used_at[slot] = recalled->now;
        if (!read_slice(seq, head, unit, slot, false)) recalled->missing[late++] = unit;
    }
    for (uint32_t i = 0; i < late; i++)
        if (!read_slice(seq, head, recalled->missing[i], recalled->slot_of[recalled->missing[i]], true))
            recalled->lost = true;
    recalled->read += count;
}

void kv_seq_recall(struct kv_seq *seq, uint32_t layer, uint32_t head, const uint32_t *groups, uint32_t count)
{
    const struct kv_cache *cache = seq->cache;
    struct kv_offloaded *o = seq->offloaded;
    ASSERT(seq->pinned);
    if (!offload_away(seq)) return;
    const struct kv_place *place = &cache->places[cache->first_place[layer] + head];
    const uint32_t first = o->begin * cache->block_tokens, end = o->end * cache->block_tokens,
                   unit_tokens = cache->offload->unit_tokens;
    uint32_t missing = 0;
    if (place->sliced == SLICED_NONE) return;
    struct kv_recalled *recalled = &o->recalled[place->sliced];
    recalled->now++;
    for (uint32_t i = 0, before = UNREAD; i < count; i++) {
        const uint32_t position = groups[i] * KERNEL_GROUP_TOKENS;
        if (position < first || position >= end) continue;
        const uint32_t unit = (position - first) / unit_tokens, slot = recalled->slot_of[unit];
        if (unit == before) continue; /* its other half */
        before = unit;
        if (slot == UNREAD) {
            ASSERT(missing < o->slots);
            recalled->missing[missing++] = unit;
            continue;
        }
        recalled->used_at[slot] = recalled->now;
        recalled->found++;
    }
    read_missing(seq, &cache->offload->heads[place->sliced], recalled, missing);
}

void offload_rows(const struct kv_seq *seq, const struct kv_place *place, uint32_t position, const void **k,
                  const void **v)
{
    const struct kv_offloaded *o = seq->offloaded;
    const uint32_t unit_tokens = seq->cache->offload->unit_tokens, groups = unit_tokens / KERNEL_GROUP_TOKENS,
                   at = position - o->begin * seq->cache->block_tokens;
    ASSERT(place->sliced != SLICED_NONE && o->recalled[place->sliced].slot_of[at / unit_tokens] != UNREAD);
    const struct kv_sliced_head *head = &seq->cache->offload->heads[place->sliced];
    unsigned char *k_rows, *v_rows;
    slot_address(seq, head, o->recalled[place->sliced].slot_of[at / unit_tokens], &k_rows, &v_rows);
    *k = k_rows + at % unit_tokens / KERNEL_GROUP_TOKENS * (head->k_bytes / groups);
    *v = v_rows + at % unit_tokens / KERNEL_GROUP_TOKENS * (head->v_bytes / groups);
}
