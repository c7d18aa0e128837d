/* prefix.c - the prefix index: a tree of published blocks, one for all groups.
 *
 *   root (salt) ── node: 32 tokens ── node: 32 tokens ── node: 9 tokens (partial: always a leaf)
 *                    │ rows: a block in each group, or none │
 *                    └─ node: 32 other tokens               └─ node: 32 tokens
 *
 * A node's key is SHA-256 over its parent's key and its tokens, so that it names the whole prefix, the same in every tier.
 * In this index it is only a hash: a child is found by its parent's identity and its tokens, so no collision of keys can
 * serve wrong rows. A node stays while a group has its rows, a child hangs on it or a sequence stands on it. */
#include "kv_internal.h"
#include <openssl/sha.h>
#include <string.h>

#define CHILDREN_LOOKED_AT 1024u /* the newest, for a partial match: bounds the time of an open */

/* ---- nodes ------------------------------------------------------------------------------------------------------- */

struct kv_node *prefix_node(const struct kv_cache *cache, uint32_t node)
{
    const struct kv_tree *tree = &cache->tree;
    return (struct kv_node *)(void *)(tree->slabs[node / PREFIX_SLAB_NODES] +
                                      node % PREFIX_SLAB_NODES * tree->node_bytes);
}

uint32_t *prefix_rows(struct kv_node *node)
{
    return node->data;
}

uint32_t *prefix_tokens(const struct kv_cache *cache, struct kv_node *node)
{
    return node->data + cache->group_count;
}

static uint32_t *bucket_of(const struct kv_tree *tree, const struct kv_key *key)
{
    uint32_t hash;
    memcpy(&hash, key->bytes, sizeof hash);
    return &tree->buckets[hash & (tree->bucket_count - 1)];
}

static enum status buckets_grow(struct kv_cache *cache, uint32_t nodes)
{
    struct kv_tree *tree = &cache->tree;
    if (nodes <= tree->bucket_count) return ST_OK;
    struct kv_tree grown = *tree;
    grown.bucket_count = tree->bucket_count ? tree->bucket_count : PREFIX_SLAB_NODES;
    while (grown.bucket_count < nodes) grown.bucket_count *= 2;
    grown.buckets = mem_alloc(grown.bucket_count * sizeof *grown.buckets);
    if (!grown.buckets) return ST_NOMEM;
    memset(grown.buckets, 0xff, grown.bucket_count * sizeof *grown.buckets);
    for (uint32_t b = 0; b < tree->bucket_count; b++)
        for (uint32_t n = tree->buckets[b], next; n != NODE_NONE; n = next) {
            struct kv_node *node = prefix_node(cache, n);
            uint32_t *bucket = bucket_of(&grown, &node->key);
            next = node->chain;
            node->chain = *bucket;
            *bucket = n;
        }
    mem_free(tree->buckets);
    *tree = grown;
    return ST_OK;
}

static enum status slab_add(struct kv_cache *cache)
{
    struct kv_tree *tree = &cache->tree;
    enum status status = buckets_grow(cache, (tree->slab_count + 1) * PREFIX_SLAB_NODES);
    if (status != ST_OK) return status;
    unsigned char **slabs = mem_resize(tree->slabs, (tree->slab_count + 1) * sizeof *slabs);
    if (!slabs) return ST_NOMEM;
    tree->slabs = slabs;
    tree->node_bytes =
        round_up(sizeof(struct kv_node) + (cache->group_count + (uint64_t)cache->block_tokens) * sizeof(uint32_t), 16);
    slabs[tree->slab_count] = mem_zero(PREFIX_SLAB_NODES, tree->node_bytes);
    if (!slabs[tree->slab_count]) return ST_NOMEM;
    uint32_t first = tree->slab_count++ * PREFIX_SLAB_NODES;
    for (uint32_t n = PREFIX_SLAB_NODES; n > 0; n--) prefix_give(cache, first + n - 1);
    return ST_OK;
}

enum status prefix_grow(struct kv_cache *cache, uint32_t count)
{
    enum status status = ST_OK;
    if (!cache->tree.slab_count) cache->tree.free_head = NODE_NONE;
    while (status == ST_OK && cache->tree.free_count < count) status = slab_add(cache);
    return status;
}

void prefix_release(struct kv_tree *tree)
{
    for (uint32_t s = 0; s < tree->slab_count; s++) mem_free(tree->slabs[s]);
    mem_free(tree->slabs);
    mem_free(tree->buckets);
}

uint64_t prefix_bytes(const struct kv_tree *tree)
{
    return tree->slab_count * PREFIX_SLAB_NODES * tree->node_bytes + tree->bucket_count * sizeof *tree->buckets;
}

uint32_t prefix_take(struct kv_cache *cache)
{
    struct kv_tree *tree = &cache->tree;
    uint32_t node = tree->free_head;
    ASSERT(tree->free_count > 0);
    tree->free_head = prefix_node(cache, node)->chain;
    tree->free_count--;
    return node;
}

void prefix_give(struct kv_cache *cache, uint32_t node)
{
    struct kv_tree *tree = &cache->tree;
    prefix_node(cache, node)->chain = tree->free_head;
    tree->free_head = node;
    tree->free_count++;
}

/* ---- keys -------------------------------------------------------------------------------------------------------- */

void prefix_key_after(const struct kv_cache *cache, const struct kv_key *parent, const uint32_t *tokens, uint32_t count,
                      struct kv_key *out)
{
    unsigned char bytes[KV_KEY_BYTES + 128 * sizeof *tokens]; /* a block is at most 128 tokens */
    ASSERT(count <= 128);
    memcpy(bytes, parent ? parent->bytes : cache->provenance, KV_KEY_BYTES);
    memcpy(bytes + KV_KEY_BYTES, tokens, count * sizeof *tokens);
    SHA256(bytes, KV_KEY_BYTES + count * sizeof *tokens, out->bytes);
    for (uint32_t bit = cache->key_bits; bit && bit < 8 * KV_KEY_BYTES; bit++)
        out->bytes[bit / 8] &= (unsigned char)~(1u << bit % 8);
}

void prefix_key(const struct kv_cache *cache, uint32_t parent, const uint32_t *tokens, uint32_t count,
                struct kv_key *out)
{
    prefix_key_after(cache, parent == NODE_NONE ? NULL : &prefix_node(cache, parent)->key, tokens, count, out);
}

/* ---- finding ----------------------------------------------------------------------------------------------------- */

uint32_t prefix_find(const struct kv_cache *cache, uint32_t parent, const struct kv_key *key, const uint32_t *tokens,
                     uint32_t count)
{
    if (!cache->tree.bucket_count) return NODE_NONE;
    for (uint32_t n = *bucket_of(&cache->tree, key); n != NODE_NONE;) {
        struct kv_node *node = prefix_node(cache, n);
        if (node->parent == parent && node->token_count == count && memcmp(&node->key, key, sizeof *key) == 0 &&
            memcmp(prefix_tokens(cache, node), tokens, count * sizeof *tokens) == 0)
            return n;
        n = node->chain;
    }
    return NODE_NONE;
}

uint32_t prefix_best(const struct kv_cache *cache, uint32_t parent, const uint32_t *tokens, uint32_t count,
                     uint32_t *matched)
{
    uint32_t best = NODE_NONE, looked_at = 0, next;
    *matched = 0;
    for (uint32_t n = prefix_node(cache, parent)->first_child; n != NODE_NONE; n = next) {
        struct kv_node *node = prefix_node(cache, n);
        const uint32_t *own = prefix_tokens(cache, node);
        uint32_t same = 0;
        while (same < count && same < node->token_count && own[same] == tokens[same]) same++;
        if (same > *matched && node->rows_count == cache->group_count) {
            best = n;
            *matched = same;
        }
        next = ++looked_at < CHILDREN_LOOKED_AT ? node->next_sibling : NODE_NONE;
    }
    return best;
}

/* ---- the tree ---------------------------------------------------------------------------------------------------- */

void prefix_insert(struct kv_cache *cache, uint32_t spare, uint32_t parent, const struct kv_key *key,
                   const uint32_t *tokens, uint32_t count)
{
    struct kv_node *node = prefix_node(cache, spare);
    uint32_t *bucket = bucket_of(&cache->tree, key);
    *node = (struct kv_node){.key = *key,
                             .parent = parent,
                             .first_child = NODE_NONE,
                             .previous_sibling = NODE_NONE,
                             .next_sibling = NODE_NONE,
                             .chain = *bucket,
                             .token_count = count};
    *bucket = spare;
    memset(prefix_rows(node), 0xff, cache->group_count * sizeof(uint32_t));
    memcpy(prefix_tokens(cache, node), tokens, count * sizeof *tokens);
    if (parent == NODE_NONE) return;
    struct kv_node *above = prefix_node(cache, parent);
    if (above->parent != NODE_NONE) node->position = above->position + cache->block_tokens;
    node->next_sibling = above->first_child;
    if (above->first_child != NODE_NONE) prefix_node(cache, above->first_child)->previous_sibling = spare;
    above->first_child = spare;
}

static void remove_node(struct kv_cache *cache, uint32_t n)
{
    struct kv_node *node = prefix_node(cache, n);
    uint32_t *link = bucket_of(&cache->tree, &node->key);
    while (*link != n) link = &prefix_node(cache, *link)->chain;
    *link = node->chain;
    if (node->previous_sibling != NODE_NONE)
        prefix_node(cache, node->previous_sibling)->next_sibling = node->next_sibling;
    else if (node->parent != NODE_NONE)
        prefix_node(cache, node->parent)->first_child = node->next_sibling;
    if (node->next_sibling != NODE_NONE)
        prefix_node(cache, node->next_sibling)->previous_sibling = node->previous_sibling;
    node->token_count = 0;
    prefix_give(cache, n);
}

void prefix_prune(struct kv_cache *cache, uint32_t node)
{
    while (node != NODE_NONE) {
        const struct kv_node *own = prefix_node(cache, node);
        if (own->rows_count || own->refs || own->first_child != NODE_NONE) return;
        uint32_t parent = own->parent;
        remove_node(cache, node);
        node = parent;
    }
}

/* ---- a node's rows ----------------------------------------------------------------------------------------------- */

void kv_events_set(struct kv_cache *cache, void (*event)(void *data, const struct kv_event *event), void *data)
{
    cache->event = event;
    cache->event_data = data;
}

static void tell(const struct kv_cache *cache, enum kv_event_kind kind, uint32_t n, uint32_t group)
{
    if (!cache->event) return;
    struct kv_node *node = prefix_node(cache, n);
    const struct kv_event event = {.kind = kind,
                                   .tier = KV_TIER_MEMORY,
                                   .group = group,
                                   .bytes = cache->groups[group].block_bytes,
                                   .key = node->key.bytes,
                                   .parent = prefix_node(cache, node->parent)->key.bytes,
                                   .tokens = prefix_tokens(cache, node),
                                   .token_count = node->token_count};
    cache->event(cache->event_data, &event);
}

void prefix_attach(struct kv_cache *cache, uint32_t node, uint32_t group, uint32_t block)
{
    struct kv_node *own = prefix_node(cache, node);
    struct kv_block *b = &cache->groups[group].blocks[block];
    ASSERT(prefix_rows(own)[group] == BLOCK_NONE && b->node == NODE_NONE);
    prefix_rows(own)[group] = block;
    own->rows_count++;
    b->node = node;
    tell(cache, KV_EVENT_STORED, node, group);
    if (cache->lower && own->token_count == cache->block_tokens) lower_publish(cache, node, group, block);
}

void prefix_detach(struct kv_cache *cache, uint32_t group, uint32_t block)
{
    struct kv_block *b = &cache->groups[group].blocks[block];
    struct kv_node *own = prefix_node(cache, b->node);
    tell(cache, KV_EVENT_REMOVED, b->node, group);
    prefix_rows(own)[group] = BLOCK_NONE;
    own->rows_count--;
    b->node = NODE_NONE;
}

void prefix_ref(struct kv_cache *cache, uint32_t node)
{
    prefix_node(cache, node)->refs++;
}

void prefix_unref(struct kv_cache *cache, uint32_t node)
{
    prefix_node(cache, node)->refs--;
    prefix_prune(cache, node);
}
