/* seq.c - a sequence: its block tables, from opening on a cached prefix to giving the blocks back; pins and spans.
 *
 *   open (shares a prefix) -> reserve -> pin -> write every layer, read spans -> unpin -> commit -> … -> close
 *
 * Invariants (checked by check.c): tables have blocks for positions [first block the window needs, reserved); tokens
 * [0, count) are committed; full committed blocks are published or have a published twin. Nothing here decides when. */
#include "kv_internal.h"
#include <string.h>

static uint32_t blocks_for(const struct kv_cache *cache, uint32_t tokens)
{
    return (uint32_t)(((uint64_t)tokens + cache->block_tokens - 1) / cache->block_tokens);
}

static enum status table_grow(struct kv_table *table, uint32_t count)
{
    if (count <= table->capacity) return ST_OK;
    uint32_t capacity = table->capacity ? table->capacity : 16;
    while (capacity < count) capacity *= 2;
    uint32_t *blocks = mem_resize(table->blocks, capacity * sizeof *blocks);
    if (!blocks) return ST_NOMEM;
    table->blocks = blocks;
    table->capacity = capacity;
    return ST_OK;
}

/* ---- opening on a cached prefix ---------------------------------------------------------------------------------- */

/* Whether `group` holds the blocks that a sequence of `boundary` full blocks would need to go on. `present[b]` counts
 * the unbroken run of cached blocks that ends with block b. */
static bool group_serves(const struct kv_cache *cache, const struct kv_group *group, const uint32_t *present,
                         uint32_t boundary)
{
    uint32_t first = group_first_block(cache, group, boundary * cache->block_tokens);
    return present[boundary - 1] >= boundary - first;
}

/* The longest boundary, in blocks, that all groups can serve; keys[b] of the blocks before it. `runs` is scratch,
 * [group_count, limit]. */
static uint32_t prefix_boundary(const struct kv_cache *cache, const struct kv_key *root, const uint32_t *tokens,
                                uint32_t limit, struct kv_key *keys, uint32_t *runs)
{
    uint32_t reach = 0; /* every full group holds blocks [0, reach) */
    for (; reach < limit; reach++) {
        const uint32_t *own = tokens + (uint64_t)reach * cache->block_tokens;
        prefix_child(reach ? &keys[reach - 1] : root, own, cache->block_tokens, &keys[reach]);
        bool full = true; /* sliding groups may lack early blocks: their windows have passed those */
        for (uint32_t g = 0; g < cache->group_count; g++) {
            const struct kv_group *group = &cache->groups[g];
            uint32_t *run = runs + (uint64_t)g * limit;
            bool there = prefix_find(cache, group, &keys[reach], own) != BLOCK_NONE;
            run[reach] = there ? 1 + (reach ? run[reach - 1] : 0) : 0;
            full &= there || group->kind != KV_FULL;
        }
        if (!full) break;
    }
    for (uint32_t boundary = reach; boundary > 0; boundary--) {
        bool served = true;
        for (uint32_t g = 0; g < cache->group_count && served; g++)
            served = group_serves(cache, &cache->groups[g], runs + (uint64_t)g * limit, boundary);
        if (served) return boundary;
    }
    return 0;
}

static enum status share_prefix(struct kv_seq *seq, const uint32_t *tokens, uint32_t count)
{
    struct kv_cache *cache = seq->cache;
    uint32_t limit = count ? (count - 1) / cache->block_tokens : 0; /* the last token must run */
    if (!cache->share_prefixes || !limit) return ST_OK;
    cache->queried_tokens += count;
    struct kv_key *keys = mem_alloc(limit * sizeof *keys);
    uint32_t *runs = mem_alloc((uint64_t)cache->group_count * limit * sizeof *runs);
    enum status status = keys && runs ? ST_OK : ST_NOMEM;
    uint32_t boundary = status == ST_OK ? prefix_boundary(cache, &seq->parent, tokens, limit, keys, runs) : 0;
    for (uint32_t g = 0; g < cache->group_count && status == ST_OK; g++) status = table_grow(&seq->tables[g], boundary);
    if (status == ST_OK && boundary) {
        for (uint32_t g = 0; g < cache->group_count; g++) {
            struct kv_group *group = &cache->groups[g];
            struct kv_table *table = &seq->tables[g];
            table->first = group_first_block(cache, group, boundary * cache->block_tokens);
            for (uint32_t b = 0; b < boundary; b++) {
                table->blocks[b] = BLOCK_NONE;
                if (b < table->first) continue;
                table->blocks[b] = prefix_find(cache, group, &keys[b], tokens + (uint64_t)b * cache->block_tokens);
                block_hold(cache, group, table->blocks[b]);
            }
            table->count = boundary;
        }
        seq->parent = keys[boundary - 1];
        seq->count = seq->reserved = boundary * cache->block_tokens;
        cache->hit_tokens += seq->count;
    }
    mem_free(keys);
    mem_free(runs);
    return status;
}

enum status kv_seq_open(struct kv_cache *cache, const uint32_t *tokens, uint32_t count, uint64_t salt,
                        struct kv_seq **out, uint32_t *cached)
{
    ASSERT(!cache->pinned);
    *out = NULL;
    *cached = 0;
    struct kv_seq *seq = mem_zero(1, sizeof *seq);
    if (!seq) return ST_NOMEM;
    seq->cache = cache;
    seq->tables = mem_zero(cache->group_count, sizeof *seq->tables);
    seq->tail = mem_zero(cache->block_tokens, sizeof *seq->tail);
    seq->next_seq = cache->first_seq;
    if (cache->first_seq) cache->first_seq->previous_seq = seq;
    cache->first_seq = seq;
    enum status status = seq->tables && seq->tail ? ST_OK : ST_NOMEM;
    if (status == ST_OK) {
        prefix_root(salt, &seq->parent);
        status = share_prefix(seq, tokens, count);
    }
    if (status != ST_OK) {
        kv_seq_close(seq);
        return status;
    }
    *out = seq;
    *cached = seq->count;
    return ST_OK;
}

void kv_seq_close(struct kv_seq *seq)
{
    if (!seq) return;
    struct kv_cache *cache = seq->cache;
    ASSERT(!seq->pinned);
    for (uint32_t g = 0; seq->tables && g < cache->group_count; g++) {
        struct kv_table *table = &seq->tables[g];
        /* Later blocks first: so that they are evicted before the prefixes they depend on. */
        for (uint32_t b = table->count; b > table->first; b--)
            block_release(cache, &cache->groups[g], table->blocks[b - 1]);
        mem_free(table->blocks);
    }
    if (seq->previous_seq)
        seq->previous_seq->next_seq = seq->next_seq;
    else
        cache->first_seq = seq->next_seq;
    if (seq->next_seq) seq->next_seq->previous_seq = seq->previous_seq;
    mem_free(seq->tables);
    mem_free(seq->tail);
    mem_free(seq);
    for (uint32_t g = 0; !cache->first_seq && g < cache->group_count; g++) block_trim(&cache->groups[g]);
}

/* ---- growing ----------------------------------------------------------------------------------------------------- */

enum status kv_seq_reserve(struct kv_seq *seq, uint32_t count)
{
    struct kv_cache *cache = seq->cache;
    ASSERT(!cache->pinned);
    uint64_t tokens = (uint64_t)seq->count + count;
    if (tokens > UINT32_MAX / 2) return ST_LIMIT;
    uint32_t want = blocks_for(cache, (uint32_t)tokens), before = blocks_for(cache, seq->reserved);
    enum status status = ST_OK;
    for (uint32_t g = 0; g < cache->group_count && status == ST_OK; g++) status = table_grow(&seq->tables[g], want);
    for (uint32_t g = 0; g < cache->group_count && status == ST_OK; g++) {
        struct kv_table *table = &seq->tables[g];
        while (table->count < want && status == ST_OK) {
            uint32_t block = block_take(cache, &cache->groups[g]);
            if (block == BLOCK_NONE)
                status = ST_FULL;
            else
                table->blocks[table->count++] = block;
        }
    }
    if (status == ST_OK) {
        if (tokens > seq->reserved) seq->reserved = (uint32_t)tokens;
        return ST_OK;
    }
    for (uint32_t g = 0; g < cache->group_count; g++) { /* all or nothing */
        struct kv_table *table = &seq->tables[g];
        while (table->count > before) block_release(cache, &cache->groups[g], table->blocks[--table->count]);
    }
    return status;
}

void kv_seq_write(struct kv_seq *seq, uint32_t layer, uint32_t head_begin, uint32_t head_end, uint32_t position,
                  uint32_t count, const float *k, uint64_t k_stride, const float *v, uint64_t v_stride)
{
    const struct kv_cache *cache = seq->cache;
    const struct kv_place *place = &cache->places[layer];
    const struct kv_layer *shape = &cache->layers[layer];
    const struct kv_group *group = &cache->groups[place->group];
    const struct kv_table *table = &seq->tables[place->group];
    ASSERT(seq->pinned && position >= seq->count && position + count <= seq->reserved && head_end <= shape->kv_heads);
    for (uint32_t done = 0; done < count;) {
        uint32_t at = position + done, slot = at % cache->block_tokens;
        uint32_t part = cache->block_tokens - slot < count - done ? cache->block_tokens - slot : count - done;
        unsigned char *base = block_address(group, table->blocks[at / cache->block_tokens]) + place->offset;
        for (uint32_t head = head_begin; head < head_end; head++) {
            unsigned char *k_groups = base + head * place->head_bytes;
            cache->kernel->kv_write(shape->k_format, shape->v_format, k_groups, k_groups + place->k_bytes, slot, part,
                                    k + done * k_stride + (uint64_t)head * shape->head_dim, k_stride, shape->head_dim,
                                    v + done * v_stride + (uint64_t)head * shape->value_dim, v_stride,
                                    shape->value_dim);
        }
        done += part;
    }
}

/* The block that ends at `seq->count` is full: its tokens are in the tail. */
static void publish_block(struct kv_seq *seq)
{
    struct kv_cache *cache = seq->cache;
    struct kv_key key;
    prefix_child(&seq->parent, seq->tail, cache->block_tokens, &key);
    uint32_t index = seq->count / cache->block_tokens - 1;
    for (uint32_t g = 0; g < cache->group_count; g++)
        prefix_publish(cache, &cache->groups[g], seq->tables[g].blocks[index], &key, seq->tail);
    seq->parent = key;
}

void kv_seq_commit(struct kv_seq *seq, const uint32_t *tokens, uint32_t count)
{
    struct kv_cache *cache = seq->cache;
    ASSERT(!cache->pinned && seq->count + count <= seq->reserved);
    for (uint32_t i = 0; i < count; i++) {
        seq->tail[seq->count % cache->block_tokens] = tokens[i];
        seq->count++;
        if (cache->share_prefixes && seq->count % cache->block_tokens == 0) publish_block(seq);
    }
    for (uint32_t g = 0; g < cache->group_count; g++) {
        struct kv_table *table = &seq->tables[g];
        uint32_t first = group_first_block(cache, &cache->groups[g], seq->count);
        for (; table->first < first; table->first++) {
            block_release(cache, &cache->groups[g], table->blocks[table->first]);
            table->blocks[table->first] = BLOCK_NONE;
        }
    }
}

uint32_t kv_seq_count(const struct kv_seq *seq)
{
    return seq->count;
}

void kv_seq_usage(const struct kv_seq *seq, uint64_t *bytes, uint64_t *blocks)
{
    *bytes = *blocks = 0;
    for (uint32_t g = 0; g < seq->cache->group_count; g++) {
        uint64_t held = seq->tables[g].count - seq->tables[g].first;
        *blocks += held;
        *bytes += held * seq->cache->groups[g].block_bytes;
    }
}

/* ---- pins and spans ---------------------------------------------------------------------------------------------- */

enum status kv_batch_pin(struct kv_cache *cache, struct kv_seq *const *seqs, uint32_t count, struct kv_batch **out)
{
    struct kv_batch *batch = cache->batch;
    *out = NULL;
    ASSERT(!cache->pinned);
    if (count > batch->capacity) {
        struct kv_seq **list = mem_resize(batch->seqs, count * sizeof *list);
        if (!list) return ST_NOMEM;
        batch->seqs = list;
        batch->capacity = count;
    }
    for (uint32_t i = 0; i < count; i++) {
        ASSERT(seqs[i]->cache == cache && !seqs[i]->pinned);
        batch->seqs[i] = seqs[i];
        seqs[i]->pinned = true;
    }
    batch->count = count;
    cache->pinned = batch;
    *out = batch;
    return ST_OK;
}

void kv_batch_unpin(struct kv_batch *batch)
{
    for (uint32_t i = 0; i < batch->count; i++) batch->seqs[i]->pinned = false;
    batch->count = 0;
    batch->cache->pinned = NULL;
}

void kv_seq_formats(const struct kv_seq *seq, uint32_t layer, enum number_format *k, enum number_format *v)
{
    *k = seq->cache->layers[layer].k_format;
    *v = seq->cache->layers[layer].v_format;
}

uint32_t kv_spans_max(const struct kv_cache *cache, uint32_t tokens)
{
    return blocks_for(cache, tokens) + 1;
}

uint32_t kv_seq_spans(const struct kv_seq *seq, uint32_t layer, uint32_t head, uint32_t begin, uint32_t end,
                      struct kernel_span *out)
{
    const struct kv_cache *cache = seq->cache;
    const struct kv_place *place = &cache->places[layer];
    const struct kv_group *group = &cache->groups[place->group];
    const struct kv_table *table = &seq->tables[place->group];
    ASSERT(seq->pinned && begin < end && end <= seq->reserved);
    uint32_t size = cache->block_tokens, count = 0;
    ASSERT(begin / size >= table->first);
    for (uint32_t b = begin / size; b * size < end; b++) {
        const unsigned char *k = block_address(group, table->blocks[b]) + place->offset + head * place->head_bytes;
        uint32_t tokens = end - b * size < size ? end - b * size : size;
        out[count++] = (struct kernel_span){.k = k, .v = k + place->k_bytes, .position = b * size, .count = tokens};
    }
    return count;
}
