/* kv_fake.h - a fake model for tests of the KV cache: every row's value is a hash of all tokens up to its own, its layer,
 * head and position, so a block that is wrongly shared, stale, cut, evicted too early or overwritten shows by value,
 * whatever the policy. */
#ifndef TESTS_KV_FAKE_H
#define TESTS_KV_FAKE_H
#include "kernel/index_internal.h"
#include "kv/kv.h"
#include "support.h"

#define FAKE_TOKENS_MAX 1024u
#define FAKE_DIM_MAX 4u
#define FAKE_HEADS_MAX 4u

/* kernel.h's layout of groups: K [head_dim][16], V [16][value_dim], groups one after the other. */
static void fake_kv_write(enum number_format k_format, enum number_format v_format, void *k_groups, void *v_groups,
                          uint32_t first_slot, uint32_t count, const float *k, uint64_t k_stride, uint32_t head_dim,
                          const float *v, uint64_t v_stride, uint32_t value_dim)
{
    (void)k_format, (void)v_format;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t group = (first_slot + i) / 16, lane = (first_slot + i) % 16;
        float *to_k = (float *)k_groups + group * head_dim * 16, *to_v = (float *)v_groups + group * value_dim * 16;
        for (uint32_t d = 0; d < head_dim; d++) to_k[d * 16 + lane] = k[i * k_stride + d];
        for (uint32_t d = 0; d < value_dim; d++) to_v[lane * value_dim + d] = v[i * v_stride + d];
    }
}
static const struct kernel fake_kernel = {.name = "fake", .kv_write = fake_kv_write};

/* A sequence, its tokens, and the hash of each prefix of them. */
struct fake_seq {
    struct kv_seq *seq;
    uint32_t tokens[FAKE_TOKENS_MAX], count; /* count: as kv_seq_count */
    uint32_t sparse_from; /* rows from this position on are not those of a sequence that is exact; 0: all are */
    uint32_t recall; /* key groups that a token reads at most of those that may be offloaded; 0: it reads everything */
    uint64_t prefix[FAKE_TOKENS_MAX];
};

static inline uint64_t fake_mix(uint64_t a, uint64_t b)
{
    a = (a ^ b) * 0x9E3779B97F4A7C15u;
    return a ^ a >> 29;
}

/* Call when tokens [from, to) have changed. */
static inline void fake_hash(struct fake_seq *s, uint32_t from, uint32_t to)
{
    for (uint32_t i = from; i < to; i++) {
        bool sparse = s->sparse_from && i >= s->sparse_from;
        s->prefix[i] = fake_mix(i ? s->prefix[i - 1] : 0, s->tokens[i] + (sparse ? 1ull << 40 : 1));
    }
}

static inline float fake_value(uint64_t prefix, uint32_t layer, uint32_t head, uint32_t d)
{
    return (float)(fake_mix(prefix, ((uint64_t)layer << 32 | head << 8 | d) + 1) >> 40);
}

/* A group of 16 tokens that is full has an entry in the index, where its head has one. */
static inline bool fake_has_entry(const struct fake_seq *s, const struct kv_layer *layer, uint32_t index, uint32_t head,
                                  uint32_t position)
{
    return position % 16 == 15 && layer->index && kv_seq_indexed(s->seq, index, head);
}

static inline uint64_t fake_entry(const struct fake_seq *s, uint32_t index, uint32_t head, uint32_t position)
{
    return fake_mix(s->prefix[position], (uint64_t)index << 32 | (head + 1) << 8);
}

/* Where a fake entry's halves lie: where the sketch (part 0) and the codes (part 1) of the group of `position` begin; the narrowest
 * heads have no codes. */
static inline unsigned char *fake_entry_part(const struct fake_seq *s, const struct kv_layer *layer, uint32_t index,
                                             uint32_t head, uint32_t position, uint32_t part)
{
    uint32_t per_block;
    unsigned char *block = kv_seq_index_block(s->seq, index, head, position, &per_block);
    const uint32_t group = position / KERNEL_GROUP_TOKENS % per_block, dim = layer->head_dim;
    return part && index_codes_bytes(dim) ? block + index_codes_at(dim, per_block, group)
                                          : block + index_sketch_at(dim, group) + 4 * part;
}

/* What the forward pass does in one layer: K and V of `count` tokens after s->count. */
static inline void fake_write_layer(const struct fake_seq *s, const struct kv_config *config, uint32_t index,
                                    uint32_t count)
{
    const struct kv_layer *layer = &config->layers[index];
    float k[FAKE_HEADS_MAX * FAKE_DIM_MAX], v[FAKE_HEADS_MAX * FAKE_DIM_MAX];
    if (layer->kind == KV_SHARED || layer->kind == KV_NONE) return;
    for (uint32_t i = 0; i < count; i++) {
        uint64_t prefix = s->prefix[s->count + i];
        for (uint32_t h = 0; h < layer->kv_heads; h++) {
            for (uint32_t d = 0; d < layer->head_dim; d++) k[h * layer->head_dim + d] = fake_value(prefix, index, h, d);
            for (uint32_t d = 0; d < layer->value_dim; d++)
                v[h * layer->value_dim + d] = -fake_value(prefix, index, h, d);
        }
        kv_seq_write(s->seq, index, 0, layer->kv_heads, s->count + i, 1, k, layer->kv_heads * layer->head_dim, v,
                     layer->kv_heads * layer->value_dim);
        for (uint32_t h = 0; h < layer->kv_heads; h++) {
            if (!fake_has_entry(s, layer, index, h, s->count + i)) continue;
            uint64_t entry = fake_entry(s, index, h, s->count + i);
            uint32_t halves[2] = {(uint32_t)entry, (uint32_t)(entry >> 32)};
            for (uint32_t part = 0; part < 2; part++)
                memcpy(fake_entry_part(s, layer, index, h, s->count + i, part), &halves[part], sizeof halves[part]);
        }
    }
}

/* The row of the token at `at`, in slot `slot` of groups of 16. */
static inline void fake_verify_row(const struct fake_seq *s, const struct kv_layer *layer, uint32_t owner,
                                   uint32_t head, uint32_t at, const void *k_groups, const void *v_groups,
                                   uint32_t slot)
{
    const float *k = (const float *)k_groups + slot / 16 * layer->head_dim * 16;
    const float *v = (const float *)v_groups + slot / 16 * layer->value_dim * 16;
    for (uint32_t d = 0; d < layer->head_dim; d++)
        assert_true(k[d * 16 + slot % 16] == fake_value(s->prefix[at], owner, head, d));
    for (uint32_t d = 0; d < layer->value_dim; d++)
        assert_true(v[slot % 16 * layer->value_dim + d] == -fake_value(s->prefix[at], owner, head, d));
}

/* Rows of 16 tokens that begin at `position`, up to `end`. */
static inline void fake_verify_rows(const struct fake_seq *s, const struct kv_layer *layer, uint32_t owner,
                                    uint32_t head, uint32_t position, uint32_t end, const void *k, const void *v)
{
    for (uint32_t at = position; at < end; at++) fake_verify_row(s, layer, owner, head, at, k, v, at - position);
}

/* What a token with retrieval reads: some groups, the last ones among them, and never more than may be recalled. */
static inline void fake_verify_some(const struct fake_seq *s, const struct kv_layer *layer, uint32_t index,
                                    uint32_t owner, uint32_t head, uint32_t position)
{
    uint32_t groups[FAKE_TOKENS_MAX / 16], count = 0, last = position / 16;
    uint64_t dice = fake_mix(s->prefix[position], head + 1);
    for (uint32_t g = 0; g <= last; g++, dice = fake_mix(dice, g + 1))
        if ((dice >> 33) % (last + 1) < s->recall && count < s->recall) groups[count++] = g;
    kv_seq_recall(s->seq, index, head, groups, count);
    for (uint32_t i = 0; i < count; i++) {
        const void *k, *v;
        uint32_t first = groups[i] * 16, end = first + 16 < position + 1 ? first + 16 : position + 1;
        kv_seq_group_rows(s->seq, index, head, first, &k, &v);
        fake_verify_rows(s, layer, owner, head, first, end, k, v);
    }
}

static inline void fake_verify_spans(const struct fake_seq *s, const struct kv_layer *layer, uint32_t index,
                                     uint32_t owner, uint32_t head, uint32_t position)
{
    struct kv_reach reach = kv_seq_reach(s->seq, index, head);
    uint32_t from = 0, sinks = reach.sinks;
    if (reach.window && position >= reach.window) from = position - reach.window + 1;
    if (sinks > from) sinks = from; /* visible: [0, sinks) and [from, position] */
    struct kernel_span spans[FAKE_TOKENS_MAX / 16 + 2];
    uint32_t count = kv_seq_spans(s->seq, index, head, sinks ? 0 : from, position + 1, spans), next = sinks ? 0 : from;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t end = spans[i].position + spans[i].count;
        assert_true(i == 0 || spans[i].position >= spans[i - 1].position + spans[i - 1].count);
        if (next >= sinks && next < from) next = from;
        if (end <= next) continue;
        assert_true(spans[i].position <= next); /* nothing that is seen was left out */
        for (uint32_t at = next; at < end; at++) {
            if (at >= sinks && at < from) continue;
            fake_verify_row(s, layer, owner, head, at, spans[i].k, spans[i].v, at - spans[i].position);
        }
        next = end;
    }
    assert_int_equal(next, position + 1);
}

/* All that the token at `position` may see of this head is there and has its own prefix's value. */
static inline void fake_verify_head(const struct fake_seq *s, const struct kv_config *config, uint32_t index,
                                    uint32_t head, uint32_t position)
{
    const struct kv_layer *layer = &config->layers[index];
    if (layer->kind == KV_NONE) return;
    uint32_t owner = layer->kind == KV_SHARED ? layer->source : index;
    if (s->recall && kv_seq_indexed(s->seq, index, head))
        fake_verify_some(s, layer, index, owner, head, position);
    else
        fake_verify_spans(s, layer, index, owner, head, position);
    for (uint32_t at = 15; at <= position && layer->kind != KV_SHARED; at += 16) {
        if (!fake_has_entry(s, layer, index, head, at)) continue;
        uint64_t entry = fake_entry(s, index, head, at);
        uint32_t halves[2] = {(uint32_t)entry, (uint32_t)(entry >> 32)};
        for (uint32_t part = 0; part < 2; part++)
            assert_memory_equal(fake_entry_part(s, layer, index, head, at, part), &halves[part], sizeof halves[part]);
    }
}

/* One pass over `count` reserved tokens: all layers are written, every head of the last token verified. */
static inline void fake_pass(struct fake_seq *s, struct kv_cache *cache, const struct kv_config *config, uint32_t count)
{
    struct kv_batch *batch;
    fake_hash(s, s->count, s->count + count);
    assert_int_equal(kv_batch_pin(cache, &s->seq, 1, &batch), ST_OK);
    for (uint32_t layer = 0; layer < config->layer_count; layer++) {
        fake_write_layer(s, config, layer, count);
        for (uint32_t h = 0; h < config->layers[layer].kv_heads; h++)
            fake_verify_head(s, config, layer, h, s->count + count - 1);
    }
    kv_batch_unpin(batch);
    kv_seq_commit(s->seq, s->tokens + s->count, count);
    s->count += count;
}
#endif
