/* batch.c - what happens while pinned: rows are written, and read as spans. On pool threads; nothing here allocates, and
 * nothing but rows changes. */
#include "kv_internal.h"

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
        ASSERT(seqs[i]->cache == cache && !seqs[i]->pinned && seqs[i]->residence == KV_RESIDENT);
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

static const struct kv_place *place_of(const struct kv_cache *cache, uint32_t layer, uint32_t head)
{
    const struct kv_place *place = &cache->places[cache->first_place[layer] + head];
    ASSERT(head < cache->layers[layer].kv_heads && place->group != GROUP_NONE);
    return place;
}

/* Rows of one head in one block. */
static void write_rows(struct kv_seq *seq, uint32_t layer, uint32_t head, uint32_t position, uint32_t count,
                       const float *k, uint64_t k_stride, const float *v, uint64_t v_stride)
{
    const struct kv_cache *cache = seq->cache;
    const struct kv_layer *shape = &cache->layers[layer];
    const struct kv_place *place = place_of(cache, layer, head);
    uint32_t block = seq->tables[place->group].blocks[position / cache->block_tokens];
    unsigned char *base = block_address(&cache->groups[place->group], block);
    cache->kernel->kv_write(shape->k_format, shape->v_format, base + place->k_offset, base + place->v_offset,
                            position % cache->block_tokens, count, k, k_stride, shape->head_dim, v, v_stride,
                            shape->value_dim);
}

void kv_seq_write(struct kv_seq *seq, uint32_t layer, uint32_t head_begin, uint32_t head_end, uint32_t position,
                  uint32_t count, const float *k, uint64_t k_stride, const float *v, uint64_t v_stride)
{
    const struct kv_layer *shape = &seq->cache->layers[layer];
    uint32_t size = seq->cache->block_tokens;
    ASSERT(seq->pinned && position >= seq->count && position + count <= seq->reserved);
    ASSERT(kind_of(shape->kind)->rows == ROWS_OWN); /* a shared layer's rows are written by its source */
    for (uint32_t done = 0, part; done < count; done += part) {
        uint32_t left = size - (position + done) % size;
        part = left < count - done ? left : count - done;
        for (uint32_t head = head_begin; head < head_end; head++)
            write_rows(seq, layer, head, position + done, part, k + done * k_stride + (uint64_t)head * shape->head_dim,
                       k_stride, v + done * v_stride + (uint64_t)head * shape->value_dim, v_stride);
    }
}

void *kv_seq_open_rows(const struct kv_seq *seq, uint32_t layer, uint32_t head)
{
    const struct kv_layer *shape = &seq->cache->layers[layer];
    if (!kernel_k_closes(shape->k_format)) return NULL;
    return seq->open_rows + seq->cache->open_offset[layer] + head * kernel_k_exact_bytes(shape->head_dim);
}

void kv_seq_close_group(struct kv_seq *seq, uint32_t layer, uint32_t head, uint32_t position, const void *exact)
{
    const struct kv_cache *cache = seq->cache;
    const struct kv_layer *shape = &cache->layers[layer];
    const struct kv_place *place = place_of(cache, layer, head);
    ASSERT(seq->pinned && position % KERNEL_CLOSED_TOKENS == 0 && position + KERNEL_CLOSED_TOKENS > seq->count &&
           position + KERNEL_CLOSED_TOKENS <= seq->reserved);
    uint32_t block = seq->tables[place->group].blocks[position / cache->block_tokens];
    unsigned char *k = block_address(&cache->groups[place->group], block) + place->k_offset;
    uint32_t groups = position % cache->block_tokens / KERNEL_GROUP_TOKENS;
    cache->kernel->k_close(shape->k_format, k + groups * kernel_k_group_bytes(shape->k_format, shape->head_dim), exact,
                           shape->head_dim);
}

void kv_seq_group_rows(const struct kv_seq *seq, uint32_t layer, uint32_t head, uint32_t position, const void **k,
                       const void **v)
{
    const struct kv_cache *cache = seq->cache;
    const struct kv_layer *shape = &cache->layers[layer];
    const struct kv_place *place = place_of(cache, layer, head);
    const uint32_t block = seq->tables[place->group].blocks[position / cache->block_tokens],
                   group = position % cache->block_tokens / KERNEL_GROUP_TOKENS;
    ASSERT(seq->pinned && position < seq->reserved);
    if (offload_has(seq, place->group, position / cache->block_tokens)) {
        offload_rows(seq, place, position, k, v);
        return;
    }
    ASSERT(block != BLOCK_NONE);
    const unsigned char *base = block_address(&cache->groups[place->group], block);
    *k = base + place->k_offset + group * kernel_k_group_bytes(shape->k_format, shape->head_dim);
    *v = base + place->v_offset + group * kernel_v_group_bytes(shape->v_format, shape->value_dim);
}

bool kv_seq_indexed(const struct kv_seq *seq, uint32_t layer, uint32_t head)
{
    return place_of(seq->cache, layer, head)->index_group != GROUP_NONE;
}

static unsigned char *entries_of(const struct kv_seq *seq, uint32_t layer, uint32_t head, uint32_t block)
{
    const struct kv_place *place = place_of(seq->cache, layer, head);
    ASSERT(seq->pinned && place->index_group != GROUP_NONE);
    return block_address(&seq->cache->groups[place->index_group], seq->tables[place->index_group].blocks[block]) +
           place->index_offset;
}

void *kv_seq_index_block(const struct kv_seq *seq, uint32_t layer, uint32_t head, uint32_t position,
                         uint32_t *per_block)
{
    ASSERT(position < seq->reserved);
    *per_block = seq->cache->block_tokens / KERNEL_GROUP_TOKENS;
    return entries_of(seq, layer, head, position / seq->cache->block_tokens);
}

uint32_t kv_seq_index(const struct kv_seq *seq, uint32_t layer, uint32_t head, uint32_t count, const void **out)
{
    const uint32_t blocks = blocks_for(seq->cache, count * KERNEL_GROUP_TOKENS);
    for (uint32_t b = 0; b < blocks; b++) out[b] = entries_of(seq, layer, head, b);
    return seq->cache->block_tokens / KERNEL_GROUP_TOKENS;
}

struct kv_reach kv_seq_reach(const struct kv_seq *seq, uint32_t layer, uint32_t head)
{
    return place_of(seq->cache, layer, head)->reach;
}

void kv_seq_formats(const struct kv_seq *seq, uint32_t layer, enum number_format *k, enum number_format *v)
{
    *k = seq->cache->layers[layer].k_format;
    *v = seq->cache->layers[layer].v_format;
}

uint32_t kv_seq_group(const struct kv_seq *seq, uint32_t layer, uint32_t head)
{
    return place_of(seq->cache, layer, head)->group;
}

int kv_seq_compare(const struct kv_seq *a, const struct kv_seq *b, uint32_t layer, uint32_t head, uint32_t *shared)
{
    const uint32_t group = kv_seq_group(a, layer, head);
    const struct kv_table *first = &a->tables[group], *second = &b->tables[group];
    const uint32_t count = first->count < second->count ? first->count : second->count;
    uint32_t same = 0;
    ASSERT(a->cache == b->cache && a->pinned && b->pinned);
    while (same < count && first->blocks[same] == second->blocks[same] && first->blocks[same] != BLOCK_NONE) same++;
    *shared = same * a->cache->block_tokens;
    if (same == count) return (first->count > count) - (second->count > count);
    return (first->blocks[same] > second->blocks[same]) - (first->blocks[same] < second->blocks[same]);
}

uint32_t kv_spans_max(const struct kv_cache *cache, uint32_t tokens)
{
    return blocks_for(cache, tokens) + 1;
}

uint32_t kv_seq_spans(const struct kv_seq *seq, uint32_t layer, uint32_t head, uint32_t begin, uint32_t end,
                      struct kernel_span *out)
{
    const struct kv_cache *cache = seq->cache;
    const struct kv_place *place = place_of(cache, layer, head);
    const struct kv_group *group = &cache->groups[place->group];
    const struct kv_table *table = &seq->tables[place->group];
    ASSERT(seq->pinned && begin < end && end <= seq->reserved);
    uint32_t size = cache->block_tokens, count = 0;
    ASSERT(begin / size >= table->passed || group->kind->sinks);
    for (uint32_t b = begin / size; b * size < end; b++) {
        ASSERT(!offload_has(seq, place->group, b));
        if (table->blocks[b] == BLOCK_NONE) continue;
        const unsigned char *base = block_address(group, table->blocks[b]);
        uint32_t tokens = end - b * size < size ? end - b * size : size;
        out[count++] = (struct kernel_span){
            .k = base + place->k_offset, .v = base + place->v_offset, .position = b * size, .count = tokens};
    }
    return count;
}
