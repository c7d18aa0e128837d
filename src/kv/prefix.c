/* prefix.c - the prefix index: which full block holds these tokens after that prefix.
 *
 * A key is a SHA-256 chain (README.md, rule 4), so one lookup a block answers for the whole prefix. Tokens are compared
 * on a hit all the same. The index is a hash table a group; its chains run through the blocks themselves. */
#include "kv_internal.h"
#include <openssl/sha.h>
#include <string.h>

void prefix_root(uint64_t salt, struct kv_key *out)
{
    unsigned char bytes[sizeof salt];
    memcpy(bytes, &salt, sizeof salt);
    SHA256(bytes, sizeof bytes, out->bytes);
}

void prefix_child(const struct kv_key *parent, const uint32_t *tokens, uint32_t count, struct kv_key *out)
{
    unsigned char bytes[KEY_BYTES + 128 * sizeof *tokens]; /* a block is at most 128 tokens */
    ASSERT(count <= 128);
    memcpy(bytes, parent->bytes, KEY_BYTES);
    memcpy(bytes + KEY_BYTES, tokens, count * sizeof *tokens);
    SHA256(bytes, KEY_BYTES + count * sizeof *tokens, out->bytes);
}

static uint32_t *bucket_of(const struct kv_group *group, const struct kv_key *key)
{
    uint32_t hash;
    memcpy(&hash, key->bytes, sizeof hash);
    return &group->buckets[hash & group->bucket_mask];
}

uint32_t prefix_find(const struct kv_cache *cache, const struct kv_group *group, const struct kv_key *key,
                     const uint32_t *tokens)
{
    for (uint32_t block = *bucket_of(group, key); block != BLOCK_NONE; block = group->blocks[block].chain) {
        if (memcmp(group->blocks[block].key.bytes, key->bytes, KEY_BYTES) != 0) continue;
        const uint32_t *own = group->tokens + (uint64_t)block * cache->block_tokens;
        return memcmp(own, tokens, cache->block_tokens * sizeof *own) == 0 ? block : BLOCK_NONE;
    }
    return BLOCK_NONE;
}

/* Where another sequence has published the same tokens already, that one stays the block to share. */
void prefix_publish(struct kv_cache *cache, struct kv_group *group, uint32_t block, const struct kv_key *key,
                    const uint32_t *tokens)
{
    struct kv_block *b = &group->blocks[block];
    ASSERT(b->state == BLOCK_HELD && !b->published);
    if (prefix_find(cache, group, key, tokens) != BLOCK_NONE) return;
    memcpy(group->tokens + (uint64_t)block * cache->block_tokens, tokens, cache->block_tokens * sizeof *tokens);
    b->key = *key;
    b->published = true;
    uint32_t *bucket = bucket_of(group, key);
    b->chain = *bucket;
    *bucket = block;
}

void prefix_forget(struct kv_group *group, uint32_t block)
{
    struct kv_block *b = &group->blocks[block];
    ASSERT(b->published);
    uint32_t *link = bucket_of(group, &b->key);
    while (*link != block) link = &group->blocks[*link].chain;
    *link = b->chain;
    b->published = false;
}

uint32_t group_first_block(const struct kv_cache *cache, const struct kv_group *group, uint32_t position)
{
    if (group->kind == KV_FULL || position < group->window) return 0;
    return (position - group->window + 1) / cache->block_tokens;
}
