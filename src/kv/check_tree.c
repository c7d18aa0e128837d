/* check_tree.c - the invariants of the prefix index, README.md's 6 to 9. */
#include "check_internal.h"
#include <string.h>

uint32_t check_nodes(const struct kv_cache *cache)
{
    return (uint32_t)(cache->tree.slab_count * PREFIX_SLAB_NODES);
}

/* ---- 6: a node, its links and its rows --------------------------------------------------------------------------- */

static enum status check_links(const struct kv_cache *cache, uint32_t n, struct error *error)
{
    struct kv_node *node = prefix_node(cache, n);
    uint32_t nodes = check_nodes(cache), seen = 0, previous = NODE_NONE;
    for (uint32_t c = node->first_child; c != NODE_NONE; c = prefix_node(cache, c)->next_sibling) {
        if (c >= nodes || ++seen > nodes || prefix_node(cache, c)->parent != n ||
            prefix_node(cache, c)->previous_sibling != previous || !prefix_node(cache, c)->token_count)
            BROKEN("6: node %u: its children are broken at %u", n, c);
        previous = c;
    }
    bool root = node->parent == NODE_NONE;
    if (!root && (node->parent >= nodes || !prefix_node(cache, node->parent)->token_count))
        BROKEN("6: node %u: its parent %u is none", n, node->parent);
    bool first = root || prefix_node(cache, node->parent)->parent == NODE_NONE;
    if (node->position != (first ? 0 : prefix_node(cache, node->parent)->position + cache->block_tokens))
        BROKEN("6: node %u: its tokens do not begin at %u", n, node->position);
    bool partial = !root && node->token_count < cache->block_tokens;
    if (node->token_count > cache->block_tokens || (root && node->token_count != SALT_TOKENS) ||
        (partial && (seen || node->refs)))
        BROKEN("6: node %u: %u tokens are too many, or something follows them", n, node->token_count);
    if (!node->rows_count && !node->refs && !seen) BROKEN("6: node %u is of no use", n);
    return ST_OK;
}

static enum status check_key(const struct kv_cache *cache, uint32_t n, struct error *error)
{
    struct kv_node *node = prefix_node(cache, n);
    const uint32_t *tokens = prefix_tokens(cache, node);
    struct kv_key key;
    prefix_key(cache, node->parent, tokens, node->token_count, &key);
    if (memcmp(&key, &node->key, sizeof key) != 0) BROKEN("6: node %u: not its key", n);
    if (prefix_find(cache, node->parent, &key, tokens, node->token_count) != n)
        BROKEN("6: node %u is not found by its key", n);
    return ST_OK;
}

/* 8 and 9 are about what evictions would do to the prefixes below this node. */
static enum status check_rows(const struct kv_cache *cache, uint32_t n, struct error *error)
{
    struct kv_node *node = prefix_node(cache, n);
    uint32_t rows = 0;
    bool full = true;
    for (uint32_t g = 0; g < cache->group_count; g++) {
        const struct kv_group *group = &cache->groups[g];
        uint32_t row = prefix_rows(node)[g];
        rows += row != BLOCK_NONE;
        full &= row != BLOCK_NONE || !group->kind->keeps_all;
        if (row == BLOCK_NONE) continue;
        if (row >= group->blocks_max || group->blocks[row].node != n)
            BROKEN("6: node %u: block %u of group %u is not published under it", n, row, g);
        if (!group->kind->keeps_all || prefix_node(cache, node->parent)->parent == NODE_NONE) continue;
        uint32_t above = prefix_rows(prefix_node(cache, node->parent))[g];
        if (above == BLOCK_NONE) BROKEN("8: node %u has rows for full attention, its parent %u none", n, node->parent);
        const struct kv_block *own = &group->blocks[row], *parent = &group->blocks[above];
        if (parent->state == BLOCK_HELD) continue;
        if (own->state == BLOCK_HELD) BROKEN("9: node %u is held, its parent %u is not", n, node->parent);
        if (own->segment > parent->segment ||
            (own->segment == parent->segment && own->released_at > parent->released_at))
            BROKEN("9: node %u would be evicted after its parent %u", n, node->parent);
    }
    if (rows != node->rows_count) BROKEN("6: node %u has rows of %u groups, counted as %u", n, rows, node->rows_count);
    if (rows && !full) BROKEN("8: node %u has rows, but none for full attention", n);
    return ST_OK;
}

/* ---- 7: sequences on the tree ------------------------------------------------------------------------------------ */

static enum status check_path(const struct kv_seq *seq, struct error *error)
{
    const struct kv_cache *cache = seq->cache;
    uint32_t node = seq->node, full = seq->count / cache->block_tokens;
    for (uint32_t g = 0; g < cache->group_count; g++)
        for (uint32_t b = seq_published(seq); b < full && b < seq->tables[g].count; b++) {
            uint32_t block = seq->tables[g].blocks[b];
            if (block != BLOCK_NONE && cache->groups[g].blocks[block].node != NODE_NONE)
                BROKEN("7: group %u: block %u is published, its sequence has stopped that", g, block);
        }
    for (uint32_t b = seq_published(seq); b > 0; b--) {
        struct kv_node *own = prefix_node(cache, node);
        if (own->parent == NODE_NONE) BROKEN("7: a sequence of %u tokens stands too high", seq->count);
        for (uint32_t g = 0; g < cache->group_count; g++) {
            uint32_t block = b <= seq->tables[g].count ? seq->tables[g].blocks[b - 1] : BLOCK_NONE;
            bool coming = seq->residence == KV_SWAPPING_IN && block != BLOCK_NONE &&
                          cache->groups[g].blocks[block].node == NODE_NONE; /* 13 */
            if (block != BLOCK_NONE && !coming && block != prefix_rows(own)[g])
                BROKEN("7: group %u: full block %u is not its node's", g, block);
        }
        node = own->parent;
    }
    if (prefix_node(cache, node)->parent != NODE_NONE) BROKEN("7: a sequence of %u tokens stands too low", seq->count);
    return ST_OK;
}

static enum status check_seqs(const struct kv_cache *cache, uint32_t *stands, uint32_t *spares, struct error *error)
{
    uint32_t nodes = check_nodes(cache);
    for (const struct kv_seq *seq = cache->first_seq; seq; seq = seq->next_seq) {
        if (seq->node >= nodes || !prefix_node(cache, seq->node)->token_count)
            BROKEN("7: a sequence stands on node %u, which is none", seq->node);
        stands[seq->node]++;
        enum status status = check_path(seq, error);
        if (status != ST_OK) return status;
        uint32_t listed = 0, need = blocks_for(cache, seq->reserved) - seq->count / cache->block_tokens;
        if (seq->publish_max != UINT32_MAX) need = 0;
        for (uint32_t n = seq->spare_head; n != NODE_NONE && listed <= nodes; n = prefix_node(cache, n)->chain)
            listed++;
        if (listed != seq->spare_count || (seq->reserved > seq->count && listed < need))
            BROKEN("7: a sequence has %u spare nodes, counted as %u, and may need %u", listed, seq->spare_count, need);
        *spares += listed;
    }
    return ST_OK;
}

/* ---- all --------------------------------------------------------------------------------------------------------- */

enum status check_tree(const struct kv_cache *cache, uint32_t *stands, struct error *error)
{
    uint32_t nodes = check_nodes(cache), in_tree = 0, indexed = 0, free_nodes = 0, spares = 0;
    enum status status = check_seqs(cache, stands, &spares, error);
    for (uint32_t n = 0; n < nodes && status == ST_OK; n++) {
        struct kv_node *node = prefix_node(cache, n);
        if (!node->token_count) continue;
        in_tree++;
        if (node->refs != stands[n])
            BROKEN("7: %u sequences stand on node %u, counted as %u", stands[n], n, node->refs);
        status = check_links(cache, n, error);
        if (status == ST_OK) status = check_key(cache, n, error);
        if (status == ST_OK && node->parent != NODE_NONE) status = check_rows(cache, n, error);
    }
    if (status != ST_OK) return status;
    for (uint32_t b = 0; b < cache->tree.bucket_count; b++)
        for (uint32_t n = cache->tree.buckets[b]; n != NODE_NONE && indexed <= nodes; n = prefix_node(cache, n)->chain)
            indexed++;
    for (uint32_t n = nodes ? cache->tree.free_head : NODE_NONE; n != NODE_NONE && free_nodes <= nodes;
         n = prefix_node(cache, n)->chain)
        free_nodes++;
    if (indexed != in_tree || free_nodes != cache->tree.free_count || in_tree + free_nodes + spares != nodes)
        BROKEN("6: %u nodes: %u in the tree, %u in the index, %u free (counted as %u), %u spare", nodes, in_tree,
               indexed, free_nodes, cache->tree.free_count, spares);
    return ST_OK;
}
