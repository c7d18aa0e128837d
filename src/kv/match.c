/* match.c - what a new sequence finds in the cache: the longest prefix, in tokens, that all groups can serve.
 *
 * 1. Walk down the tree as far as whole blocks of tokens match: the path.
 * 2. A boundary at position p is served when every group has rows for all blocks before p but those of its hole at p: a
 *    full group all of them, a sliding one those that the next token's window reaches.
 * 3. The first choice is the end of the path plus the tokens that its best child begins with (a block that goes on
 *    differently, or a partial one); then the end of the path, then one block less, and so on. A part of a block on the
 *    path is no choice: what serves it serves the whole block. */
#include "kv_internal.h"
#include <string.h>

struct walk {
    uint32_t *path;  /* [depth] nodes */
    uint32_t *runs;  /* [group_count, limit / block_tokens] unbroken run of rows that ends with this block */
    uint32_t *leads; /* [group_count] unbroken run of rows from the first block on */
    uint32_t depth, room;
};

/* Takes the path as far as tokens match; `limit` tokens may be shared. */
static void walk_down(const struct kv_cache *cache, uint32_t root, const uint32_t *tokens, struct walk *walk)
{
    uint32_t parent = root, size = cache->block_tokens;
    for (; walk->depth < walk->room; walk->depth++) {
        struct kv_key key;
        const uint32_t *own = tokens + (uint64_t)walk->depth * size;
        prefix_key(cache, parent, own, size, &key);
        parent = prefix_find(cache, parent, &key, own, size);
        if (parent == NODE_NONE) return;
        walk->path[walk->depth] = parent;
        const uint32_t *rows = prefix_rows(prefix_node(cache, parent));
        for (uint32_t g = 0; g < cache->group_count; g++) {
            uint32_t *run = walk->runs + (uint64_t)g * walk->room + walk->depth;
            *run = rows[g] == BLOCK_NONE ? 0 : walk->depth ? run[-1] + 1 : 1;
            if (*run == walk->depth + 1) walk->leads[g] = *run;
        }
    }
}

/* Whether every group can go on at `position`, given rows for what lies after `depth` whole blocks. */
static bool served(const struct kv_cache *cache, const struct walk *walk, uint32_t depth, uint32_t position)
{
    for (uint32_t g = 0; g < cache->group_count; g++) {
        struct kv_hole hole = group_hole(cache, &cache->groups[g], position);
        const uint32_t *runs = walk->runs + (uint64_t)g * walk->room;
        if (hole.begin >= hole.end) hole.begin = hole.end = depth;
        if (walk->leads[g] < hole.begin) return false;
        if (hole.end < depth && runs[depth - 1] < depth - hole.end) return false;
    }
    return true;
}

/* Whether the boundary is a place where sequences part, or one that was simply left off and is continued, as in a chat.
 * Only there are a window's rows worth protecting: others will branch off too. */
static bool parts(const struct kv_cache *cache, uint32_t last, uint32_t child, uint32_t part)
{
    return part ? part < prefix_node(cache, child)->token_count : prefix_node(cache, last)->first_child != NODE_NONE;
}

/* Shares the path's first `depth` blocks and, where there is one, the first `part` tokens of `child`. `again`: it is no second use. */
static void share(struct kv_seq *seq, const struct walk *walk, uint32_t depth, uint32_t child, uint32_t part,
                  bool again)
{
    struct kv_cache *cache = seq->cache;
    bool branch = parts(cache, depth ? walk->path[depth - 1] : seq->node, child, part);
    seq->count = seq->reserved = depth * cache->block_tokens + part;
    for (uint32_t g = 0; g < cache->group_count; g++) {
        struct kv_group *group = &cache->groups[g];
        struct kv_table *table = &seq->tables[g];
        struct kv_hole hole = group_hole(cache, group, seq->count);
        table->count = depth + (part > 0);
        table->passed = hole.end;
        for (uint32_t b = 0; b < table->count; b++) {
            table->blocks[b] = BLOCK_NONE;
            if (hole_has(hole, b)) continue;
            table->blocks[b] = prefix_rows(prefix_node(cache, b < depth ? walk->path[b] : child))[g];
            block_hold(cache, group, table->blocks[b]);
            if (!again && (branch || group->kind->keeps_all))
                block_protect(cache, group, table->blocks[b]);
            else if (group->blocks[table->blocks[b]].segment == PASSED)
                group->blocks[table->blocks[b]].segment = PROBATION;
        }
    }
    if (part) memcpy(seq->tail, prefix_tokens(cache, prefix_node(cache, child)), part * sizeof *seq->tail);
    for (uint32_t b = 0; b < depth && cache->lower; b++) lower_refresh(cache, walk->path[b]);
    if (!depth) return;
    prefix_ref(cache, walk->path[depth - 1]);
    prefix_unref(cache, seq->node);
    seq->node = walk->path[depth - 1];
}

static enum status choose(struct kv_seq *seq, const uint32_t *tokens, uint32_t limit, const struct walk *walk,
                          bool again)
{
    const struct kv_cache *cache = seq->cache;
    uint32_t depth = walk->depth, whole = depth * cache->block_tokens, part;
    uint32_t child =
        prefix_best(cache, depth ? walk->path[depth - 1] : seq->node, tokens + whole, limit - whole, &part);
    part -= part % cache->closed_tokens; /* the exact rows of a group that is not closed are not kept */
    if (!part || !served(cache, walk, depth, whole + part)) {
        part = 0;
        while (depth && !served(cache, walk, depth, depth * cache->block_tokens)) depth--;
    }
    enum status status = ST_OK;
    for (uint32_t g = 0; g < cache->group_count && status == ST_OK; g++)
        status = table_grow(&seq->tables[g], depth + (part > 0));
    if (status == ST_OK && depth + part) share(seq, walk, depth, child, part, again);
    return status;
}

enum status match_prefix(struct kv_seq *seq, const uint32_t *tokens, uint32_t limit, bool again)
{
    const struct kv_cache *cache = seq->cache;
    struct walk walk = {.room = limit / cache->block_tokens};
    walk.path = mem_alloc(walk.room * sizeof *walk.path);
    walk.runs = mem_alloc((uint64_t)cache->group_count * walk.room * sizeof *walk.runs);
    walk.leads = mem_zero(cache->group_count, sizeof *walk.leads);
    enum status status = walk.path && walk.runs && walk.leads ? ST_OK : ST_NOMEM;
    if (status == ST_OK) {
        walk_down(cache, seq->node, tokens, &walk);
        status = choose(seq, tokens, limit, &walk, again);
    }
    mem_free(walk.path);
    mem_free(walk.runs);
    mem_free(walk.leads);
    return status;
}
