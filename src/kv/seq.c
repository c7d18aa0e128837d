/* seq.c - a sequence: its block tables, from opening on a cached prefix to giving the blocks back.
 *
 *   open, fork -> reserve -> pin -> write every layer, read spans -> unpin -> commit -> … -> close
 *                   ▲                                                          │
 *                   └──────────────────────── truncate ◀───────────────────────┘
 *
 * A sequence stands on the node of its last full block; its table holds that node's rows, and those of all nodes above that
 * no window has passed. The block that is not full is its own, or (after an open, fork or truncate) shared until the next
 * reserve. What happens while pinned is in batch.c. Nothing here decides when. */
#include "kv_internal.h"
#include <string.h>

uint32_t blocks_for(const struct kv_cache *cache, uint32_t tokens)
{
    return (uint32_t)(((uint64_t)tokens + cache->block_tokens - 1) / cache->block_tokens);
}

uint32_t seq_published(const struct kv_seq *seq)
{
    uint32_t full = seq->count / seq->cache->block_tokens;
    return full < seq->publish_max ? full : seq->publish_max;
}

static bool publishes(const struct kv_seq *seq)
{
    return seq->cache->share_prefixes && seq->publish_max == UINT32_MAX;
}

enum status table_grow(struct kv_table *table, uint32_t count)
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

struct kv_hole group_hole(const struct kv_cache *cache, const struct kv_group *group, uint32_t position)
{
    return group->kind->hole(&group->reach, position, cache->block_tokens);
}

bool seq_lacks(const struct kv_seq *seq, uint32_t g, uint32_t b)
{
    return hole_has(group_hole(seq->cache, &seq->cache->groups[g], seq->count), b) || offload_has(seq, g, b);
}

/* ---- opening and closing ----------------------------------------------------------------------------------------- */

enum status seq_new(struct kv_cache *cache, struct kv_seq **out)
{
    ASSERT(!cache->pinned);
    *out = NULL;
    struct kv_seq *seq = mem_zero(1, sizeof *seq);
    if (!seq) return ST_NOMEM;
    seq->cache = cache;
    seq->number = ++cache->opened_seqs;
    seq->node = seq->spare_head = NODE_NONE;
    seq->publish_max = UINT32_MAX;
    seq->tables = mem_zero(cache->group_count, sizeof *seq->tables);
    seq->tail = mem_zero(cache->block_tokens, sizeof *seq->tail);
    seq->open_rows = cache->open_bytes ? mem_aligned(64, cache->open_bytes) : NULL;
    if (seq->open_rows) memset(seq->open_rows, 0, cache->open_bytes); /* a file will have all of it */
    seq->next_seq = cache->first_seq;
    if (cache->first_seq) cache->first_seq->previous_seq = seq;
    cache->first_seq = seq;
    if (!seq->tables || !seq->tail || (cache->open_bytes && !seq->open_rows)) {
        kv_seq_close(seq);
        return ST_NOMEM;
    }
    *out = seq;
    return ST_OK;
}

enum status seq_stand_on_root(struct kv_seq *seq, uint64_t salt)
{
    struct kv_cache *cache = seq->cache;
    const uint32_t tokens[SALT_TOKENS] = {(uint32_t)salt, (uint32_t)(salt >> 32)};
    struct kv_key key;
    prefix_key(cache, NODE_NONE, tokens, SALT_TOKENS, &key);
    uint32_t root = prefix_find(cache, NODE_NONE, &key, tokens, SALT_TOKENS);
    if (root == NODE_NONE) {
        if (prefix_grow(cache, 1) != ST_OK) return ST_NOMEM;
        root = prefix_take(cache);
        prefix_insert(cache, root, NODE_NONE, &key, tokens, SALT_TOKENS);
    }
    prefix_ref(cache, root);
    seq->node = root;
    return ST_OK;
}

enum status seq_open(struct kv_cache *cache, const uint32_t *tokens, uint32_t limit, uint64_t salt, bool again,
                     struct kv_seq **out)
{
    enum status status = seq_new(cache, out);
    if (status != ST_OK || !cache->share_prefixes) return status;
    status = seq_stand_on_root(*out, salt);
    if (status == ST_OK && limit) status = match_prefix(*out, tokens, limit, again);
    if (status == ST_OK) return ST_OK;
    kv_seq_close(*out);
    *out = NULL;
    return status;
}

enum status kv_seq_open(struct kv_cache *cache, const uint32_t *tokens, uint32_t count, uint64_t salt,
                        struct kv_seq **out, uint32_t *cached)
{
    *cached = 0;
    enum status status = seq_open(cache, tokens, count ? count - 1 : 0, salt, false, out); /* the last token must run */
    if (status != ST_OK) return status;
    *cached = (*out)->count;
    if (cache->share_prefixes) cache->queried_tokens += count;
    cache->hit_tokens += *cached;
    return ST_OK;
}

enum status kv_seq_reopen(struct kv_cache *cache, const uint32_t *tokens, uint32_t count, uint64_t salt,
                          struct kv_seq **out)
{
    return seq_open(cache, tokens, count, salt, true, out);
}

void seq_release_from(struct kv_seq *seq, uint32_t count)
{
    struct kv_cache *cache = seq->cache;
    for (uint32_t b = seq->tables[0].count; b > count; b--)
        for (uint32_t g = 0; g < cache->group_count; g++) {
            struct kv_table *table = &seq->tables[g];
            if (table->blocks[b - 1] != BLOCK_NONE) block_release(cache, &cache->groups[g], table->blocks[b - 1]);
            table->count = b - 1;
        }
    if (!count) offload_release_slots(seq);
}

/* The block that a sequence leaves unfinished can serve others, unless what is published serves as well. `closing`: it lets go of
 * all its blocks now, so that some of them may complete a node; forks that still share it may publish it when they close. */
static void publish_tail(struct kv_seq *seq, bool closing)
{
    struct kv_cache *cache = seq->cache;
    uint32_t count = seq->count % cache->block_tokens, index = seq->count / cache->block_tokens, matched;
    count -= count % cache->closed_tokens;
    if (!count || !seq->spare_count || seq->tables[0].count <= index) return; /* the last: it was swapped out */
    for (uint32_t g = 0; g < cache->group_count; g++) {
        const struct kv_block *block = &cache->groups[g].blocks[seq->tables[g].blocks[index]];
        if ((block->refs > 1 && closing) || block->node != NODE_NONE) return;
    }
    prefix_best(cache, seq->node, seq->tail, count, &matched);
    if (matched == count) return;
    struct kv_key key;
    prefix_key(cache, seq->node, seq->tail, count, &key);
    uint32_t node = prefix_find(cache, seq->node, &key, seq->tail, count);
    if (node != NODE_NONE && !closing) return;
    if (node == NODE_NONE) {
        node = seq->spare_head;
        seq->spare_head = prefix_node(cache, node)->chain;
        seq->spare_count--;
        prefix_insert(cache, node, seq->node, &key, seq->tail, count);
    }
    for (uint32_t g = 0; g < cache->group_count; g++)
        if (prefix_rows(prefix_node(cache, node))[g] == BLOCK_NONE)
            prefix_attach(cache, node, g, seq->tables[g].blocks[index]);
}

static void give_spares(struct kv_seq *seq)
{
    while (seq->spare_head != NODE_NONE) {
        uint32_t spare = seq->spare_head;
        seq->spare_head = prefix_node(seq->cache, spare)->chain;
        prefix_give(seq->cache, spare);
    }
    seq->spare_count = 0;
}

void kv_seq_close(struct kv_seq *seq)
{
    if (!seq) return;
    struct kv_cache *cache = seq->cache;
    ASSERT(!seq->pinned);
    swap_forget(seq);
    if (publishes(seq)) publish_tail(seq, true);
    if (seq->tables) seq_release_from(seq, 0);
    offload_forget(seq);
    for (uint32_t g = 0; seq->tables && g < cache->group_count; g++) mem_free(seq->tables[g].blocks);
    if (seq->node != NODE_NONE) prefix_unref(cache, seq->node);
    give_spares(seq);
    if (seq->previous_seq)
        seq->previous_seq->next_seq = seq->next_seq;
    else
        cache->first_seq = seq->next_seq;
    if (seq->next_seq) seq->next_seq->previous_seq = seq->previous_seq;
    mem_free(seq->tables);
    mem_free(seq->tail);
    mem_free(seq->open_rows);
    mem_free(seq);
    pool_trim(cache);
}

void kv_seq_stop_publishing(struct kv_seq *seq)
{
    struct kv_cache *cache = seq->cache;
    ASSERT(!cache->pinned && seq->residence == KV_RESIDENT);
    if (!publishes(seq)) return;
    seq_release_from(seq, blocks_for(cache, seq->count));
    seq->reserved = seq->count;
    publish_tail(seq, false);
    give_spares(seq);
    seq->publish_max = seq->count / cache->block_tokens;
}

enum status kv_seq_fork(struct kv_seq *seq, struct kv_seq **out)
{
    struct kv_cache *cache = seq->cache;
    *out = NULL;
    ASSERT(seq->residence == KV_RESIDENT);
    if (cache->one_layer_at_a_time || offload_away(seq)) return ST_UNSUPPORTED;
    struct kv_seq *fork;
    enum status status = seq_new(cache, &fork);
    uint32_t blocks = blocks_for(cache, seq->count);
    for (uint32_t g = 0; g < cache->group_count && status == ST_OK; g++) status = table_grow(&fork->tables[g], blocks);
    if (status != ST_OK) {
        kv_seq_close(fork);
        return status;
    }
    seq_release_from(seq, blocks);
    seq->reserved = fork->reserved = fork->count = seq->count;
    for (uint32_t g = 0; g < cache->group_count; g++) {
        struct kv_table *from = &seq->tables[g], *to = &fork->tables[g];
        to->count = blocks;
        to->passed = from->passed;
        for (uint32_t b = 0; b < blocks; b++) {
            to->blocks[b] = from->blocks[b];
            if (to->blocks[b] != BLOCK_NONE) block_hold(cache, &cache->groups[g], to->blocks[b]);
        }
    }
    if (cache->open_bytes) memcpy(fork->open_rows, seq->open_rows, cache->open_bytes);
    memcpy(fork->tail, seq->tail, cache->block_tokens * sizeof *fork->tail);
    fork->node = seq->node;
    fork->publish_max = seq->publish_max;
    if (fork->node != NODE_NONE) prefix_ref(cache, fork->node);
    *out = fork;
    return ST_OK;
}

/* ---- growing ----------------------------------------------------------------------------------------------------- */

static bool tail_shared(const struct kv_seq *seq, uint32_t g)
{
    const struct kv_cache *cache = seq->cache;
    if (seq->count % cache->block_tokens == 0) return false;
    const struct kv_block *block = &cache->groups[g].blocks[seq->tables[g].blocks[seq->count / cache->block_tokens]];
    return block->refs > 1 || block->node != NODE_NONE;
}

/* A published tail that nobody else holds and nothing follows is taken out of the index and becomes the sequence's own,
 * without a copy. `exact`: only if all its tokens are the sequence's, so that nothing is lost: it is published again,
 * longer. False: it stays shared. */
static bool tail_take_over(struct kv_seq *seq, bool exact)
{
    struct kv_cache *cache = seq->cache;
    uint32_t index = seq->count / cache->block_tokens, part = seq->count % cache->block_tokens;
    if (!part) return false;
    uint32_t id = cache->groups[0].blocks[seq->tables[0].blocks[index]].node;
    if (id == NODE_NONE) return false;
    struct kv_node *node = prefix_node(cache, id);
    if (node->first_child != NODE_NONE || (exact && node->token_count != part)) return false;
    for (uint32_t g = 0; g < cache->group_count; g++) {
        uint32_t block = seq->tables[g].blocks[index];
        if (prefix_rows(node)[g] != block || cache->groups[g].blocks[block].refs != 1) return false;
    }
    for (uint32_t g = 0; g < cache->group_count; g++) {
        uint32_t block = seq->tables[g].blocks[index];
        prefix_detach(cache, g, block);
        cache->groups[g].blocks[block].segment = PROBATION;
    }
    prefix_prune(cache, id);
    return true;
}

/* Blocks up to table index `want`, and one for each group's shared tail to be copied to. All or nothing. */
static enum status take_blocks(struct kv_seq *seq, uint32_t want)
{
    struct kv_cache *cache = seq->cache;
    enum status status = ST_OK;
    uint32_t before = seq->tables[0].count;
    for (uint32_t g = 0; g < cache->group_count; g++) seq->tables[g].copy = BLOCK_NONE;
    for (uint32_t g = 0; g < cache->group_count && status == ST_OK; g++) {
        struct kv_table *table = &seq->tables[g];
        struct kv_group *group = &cache->groups[g];
        bool copies = tail_shared(seq, g);
        if (copies) table->copy = block_take(cache, group);
        if (copies && table->copy == BLOCK_NONE) status = ST_FULL;
        while (table->count < want && status == ST_OK) {
            uint32_t block = block_take(cache, group);
            if (block == BLOCK_NONE)
                status = ST_FULL;
            else
                table->blocks[table->count++] = block;
        }
    }
    for (uint32_t g = 0; g < cache->group_count && status != ST_OK; g++) {
        struct kv_table *table = &seq->tables[g];
        while (table->count > before) block_release(cache, &cache->groups[g], table->blocks[--table->count]);
        if (table->copy != BLOCK_NONE) block_release(cache, &cache->groups[g], table->copy);
    }
    return status;
}

enum status seq_take_kept(struct kv_seq *seq, uint32_t count)
{
    struct kv_cache *cache = seq->cache;
    uint32_t blocks = blocks_for(cache, count);
    enum status status = ST_OK;
    for (uint32_t g = 0; g < cache->group_count && status == ST_OK; g++) status = table_grow(&seq->tables[g], blocks);
    if (status != ST_OK) return status;
    for (uint32_t g = 0; g < cache->group_count; g++) {
        struct kv_table *table = &seq->tables[g];
        for (; table->count < blocks; table->count++) table->blocks[table->count] = BLOCK_NONE;
        table->passed = group_hole(cache, &cache->groups[g], count).end;
    }
    for (uint32_t g = 0; g < cache->group_count && status == ST_OK; g++) {
        struct kv_hole hole = group_hole(cache, &cache->groups[g], count);
        for (uint32_t b = 0; b < blocks && status == ST_OK; b++) {
            uint32_t *own = &seq->tables[g].blocks[b];
            if (*own != BLOCK_NONE || hole_has(hole, b) || offload_has(seq, g, b)) continue;
            *own = block_take(cache, &cache->groups[g]);
            if (*own == BLOCK_NONE) status = ST_FULL;
        }
    }
    if (status == ST_OK && offload_away(seq)) status = offload_take_slots(seq);
    if (status != ST_OK) seq_release_from(seq, 0);
    return status;
}

/* Each shared tail gives way to its copy. */
static void copy_tail(struct kv_seq *seq)
{
    struct kv_cache *cache = seq->cache;
    uint32_t index = seq->count / cache->block_tokens;
    for (uint32_t g = 0; g < cache->group_count; g++) {
        struct kv_table *table = &seq->tables[g];
        struct kv_group *group = &cache->groups[g];
        if (table->copy == BLOCK_NONE) continue;
        memcpy(block_address(group, table->copy), block_address(group, table->blocks[index]), group->block_bytes);
        block_release(cache, group, table->blocks[index]);
        table->blocks[index] = table->copy;
        cache->copied_blocks++;
    }
}

enum status seq_take_spares(struct kv_seq *seq, uint32_t want)
{
    struct kv_cache *cache = seq->cache;
    uint32_t need = want - seq->count / cache->block_tokens;
    if (!publishes(seq) || seq->spare_count >= need) return ST_OK;
    if (prefix_grow(cache, need - seq->spare_count) != ST_OK) return ST_NOMEM;
    for (; seq->spare_count < need; seq->spare_count++) {
        uint32_t spare = prefix_take(cache);
        prefix_node(cache, spare)->chain = seq->spare_head;
        seq->spare_head = spare;
    }
    return ST_OK;
}

enum status kv_seq_reserve(struct kv_seq *seq, uint32_t count)
{
    struct kv_cache *cache = seq->cache;
    ASSERT(!cache->pinned && seq->residence == KV_RESIDENT);
    uint64_t tokens = (uint64_t)seq->count + count;
    if (tokens > UINT32_MAX / 2) return ST_LIMIT;
    if (tokens <= seq->reserved) return ST_OK;
    uint32_t want = blocks_for(cache, (uint32_t)tokens);
    enum status status = ST_OK;
    for (uint32_t g = 0; g < cache->group_count && status == ST_OK; g++) status = table_grow(&seq->tables[g], want);
    if (status == ST_OK) status = seq_take_spares(seq, want);
    if (status != ST_OK) return status;
    if (publishes(seq)) tail_take_over(seq, true);
    status = take_blocks(seq, want);
    /* No room for a copy: a sequence that is alone must get by without. */
    if (status == ST_FULL && tail_take_over(seq, false)) status = take_blocks(seq, want);
    if (status != ST_OK) return status;
    copy_tail(seq);
    seq->reserved = (uint32_t)tokens;
    return ST_OK;
}

/* ---- committing -------------------------------------------------------------------------------------------------- */

/* Sequences part before block `index`, which this one is about to publish: who comes next will branch off there too, and
 * need the prefix, with the windows as they were there. */
static void protect_branch(struct kv_seq *seq, uint32_t index)
{
    struct kv_cache *cache = seq->cache;
    uint32_t node = seq->node;
    bool more = true; /* what is protected for full attention is so up to the root */
    for (uint32_t b = index; b > 0 && more; b--) {
        const uint32_t *rows = prefix_rows(prefix_node(cache, node));
        more = false;
        for (uint32_t g = 0; g < cache->group_count; g++) {
            struct kv_group *group = &cache->groups[g];
            struct kv_hole hole = group_hole(cache, group, index * cache->block_tokens);
            bool passed = hole_has(hole, b - 1);
            more |= passed ? hole.begin > 0 : !group->kind->keeps_all;
            if (passed) continue;
            more |= rows[g] != BLOCK_NONE && group->blocks[rows[g]].segment != PROTECTED;
            if (rows[g] != BLOCK_NONE) block_protect(cache, group, rows[g]);
        }
        node = prefix_node(cache, node)->parent;
    }
}

/* Whether sequences go on otherwise than with the full block that this one is about to publish. Beginnings of it do not count. */
static bool parts_here(const struct kv_seq *seq)
{
    const struct kv_cache *cache = seq->cache;
    for (uint32_t c = prefix_node(cache, seq->node)->first_child; c != NODE_NONE;
         c = prefix_node(cache, c)->next_sibling) {
        struct kv_node *child = prefix_node(cache, c);
        if (memcmp(prefix_tokens(cache, child), seq->tail, child->token_count * sizeof *seq->tail)) return true;
    }
    return false;
}

void seq_share_rows(struct kv_seq *seq, uint32_t index, uint32_t node)
{
    struct kv_cache *cache = seq->cache;
    for (uint32_t g = 0; g < cache->group_count; g++) {
        uint32_t *own = &seq->tables[g].blocks[index], row = prefix_rows(prefix_node(cache, node))[g];
        if (*own == BLOCK_NONE || *own == row) continue;
        if (row == BLOCK_NONE) {
            prefix_attach(cache, node, g, *own);
            continue;
        }
        block_hold(cache, &cache->groups[g], row);
        block_release(cache, &cache->groups[g], *own);
        *own = row;
    }
}

void seq_publish_block(struct kv_seq *seq)
{
    struct kv_cache *cache = seq->cache;
    uint32_t index = seq->count / cache->block_tokens - 1;
    struct kv_key key;
    prefix_key(cache, seq->node, seq->tail, cache->block_tokens, &key);
    uint32_t node = prefix_find(cache, seq->node, &key, seq->tail, cache->block_tokens);
    if (node == NODE_NONE) {
        ASSERT(seq->spare_count > 0);
        if (parts_here(seq)) protect_branch(seq, index);
        node = seq->spare_head;
        seq->spare_head = prefix_node(cache, node)->chain;
        seq->spare_count--;
        prefix_insert(cache, node, seq->node, &key, seq->tail, cache->block_tokens);
    }
    seq_share_rows(seq, index, node);
    prefix_ref(cache, node);
    prefix_unref(cache, seq->node);
    seq->node = node;
}

/* Blocks that the windows have passed are let go; published, they stay cached for those who branch off there. */
static void pass_windows(struct kv_seq *seq)
{
    struct kv_cache *cache = seq->cache;
    for (uint32_t g = 0; g < cache->group_count; g++) {
        struct kv_table *table = &seq->tables[g];
        struct kv_hole hole = group_hole(cache, &cache->groups[g], seq->count);
        for (uint32_t b = table->passed > hole.begin ? table->passed : hole.begin; b < hole.end; b++) {
            block_pass(cache, &cache->groups[g], table->blocks[b]);
            table->blocks[b] = BLOCK_NONE;
        }
        table->passed = hole.end;
    }
}

void kv_seq_commit(struct kv_seq *seq, const uint32_t *tokens, uint32_t count)
{
    struct kv_cache *cache = seq->cache;
    ASSERT(!cache->pinned && seq->count + count <= seq->reserved);
    for (uint32_t i = 0; i < count; i++) {
        seq->tail[seq->count % cache->block_tokens] = tokens[i];
        seq->count++;
        if (publishes(seq) && seq->count % cache->block_tokens == 0) seq_publish_block(seq);
    }
    pass_windows(seq);
}

/* ---- truncating -------------------------------------------------------------------------------------------------- */

/* Rows that the windows had passed and that a sequence of `count` tokens reads again: whether the index still has all of
 * them; with `hold` they are put back into the tables. */
static bool find_passed(struct kv_seq *seq, uint32_t count, bool hold)
{
    struct kv_cache *cache = seq->cache;
    uint32_t blocks = blocks_for(cache, count), node = seq->node;
    for (uint32_t b = seq->count / cache->block_tokens; b > 0; b--) {
        bool above = false; /* whether a table lacks a block at or before this one */
        for (uint32_t g = 0; g < cache->group_count; g++) {
            struct kv_table *table = &seq->tables[g];
            struct kv_hole hole = group_hole(cache, &cache->groups[g], count);
            above |= hole.end < table->passed && hole.end < b;
            if (b > blocks || table->blocks[b - 1] != BLOCK_NONE || hole_has(hole, b - 1) || offload_has(seq, g, b - 1))
                continue;
            uint32_t row =
                node == NODE_NONE || b > seq_published(seq) ? BLOCK_NONE : prefix_rows(prefix_node(cache, node))[g];
            if (row == BLOCK_NONE) return false;
            if (!hold) continue;
            block_hold(cache, &cache->groups[g], row);
            table->blocks[b - 1] = row;
        }
        if (!above) break;
        if (node != NODE_NONE && b <= seq_published(seq)) node = prefix_node(cache, node)->parent;
    }
    return true;
}

enum status kv_seq_truncate(struct kv_seq *seq, uint32_t count)
{
    struct kv_cache *cache = seq->cache;
    ASSERT(!cache->pinned && count <= seq->count && seq->residence == KV_RESIDENT);
    bool cut = count % cache->closed_tokens && count / cache->closed_tokens != seq->count / cache->closed_tokens;
    if (cut) return ST_LIMIT; /* a closed group: its exact rows are no longer there */
    if (offload_away(seq) && count < seq->offloaded->end * cache->block_tokens) return ST_LIMIT;
    if (!find_passed(seq, count, false)) return ST_LIMIT;
    find_passed(seq, count, true);
    if (seq->offloaded && !seq->offloaded->away) offload_forget(seq); /* others will be written there */
    seq_release_from(seq, blocks_for(cache, count));
    uint32_t node = seq->node, before = node;
    for (uint32_t up = seq_published(seq); node != NODE_NONE && up > count / cache->block_tokens; up--) {
        before = node;
        node = prefix_node(cache, node)->parent;
    }
    if (node != seq->node) {
        if (count % cache->block_tokens)
            memcpy(seq->tail, prefix_tokens(cache, prefix_node(cache, before)),
                   cache->block_tokens * sizeof *seq->tail);
        prefix_ref(cache, node);
        prefix_unref(cache, seq->node);
        seq->node = node;
    }
    seq->count = seq->reserved = count;
    if (seq->publish_max != UINT32_MAX) seq->publish_max = seq_published(seq);
    for (uint32_t g = 0; g < cache->group_count; g++)
        seq->tables[g].passed = group_hole(cache, &cache->groups[g], count).end;
    return ST_OK;
}

/* ---- asking ------------------------------------------------------------------------------------------------------ */

uint32_t kv_seq_count(const struct kv_seq *seq)
{
    return seq->count;
}

uint64_t kv_seq_number(const struct kv_seq *seq)
{
    return seq->number;
}

void kv_seq_tokens(const struct kv_seq *seq, uint32_t begin, uint32_t count, uint32_t *out)
{
    const struct kv_cache *cache = seq->cache;
    uint32_t size = cache->block_tokens, full = seq->count / size, node = seq->node;
    ASSERT(publishes(seq) && begin <= seq->count && count <= seq->count - begin);
    for (uint32_t b = blocks_for(cache, seq->count); b > begin / size; b--) {
        const uint32_t *tokens = b > full ? seq->tail : prefix_tokens(cache, prefix_node(cache, node));
        uint32_t first = (b - 1) * size; /* position of tokens[0] */
        uint32_t from = first > begin ? first : begin, to = first + size < begin + count ? first + size : begin + count;
        if (from < to) memcpy(out + (from - begin), tokens + (from - first), (to - from) * sizeof *out);
        if (b <= full) node = prefix_node(cache, node)->parent;
    }
}

void kv_seq_usage(const struct kv_seq *seq, uint64_t *bytes, uint64_t *blocks)
{
    *bytes = *blocks = 0;
    for (uint32_t g = 0; g < seq->cache->group_count; g++) {
        struct kv_hole hole = group_hole(seq->cache, &seq->cache->groups[g], seq->count);
        if (!seq->tables[g].count) continue; /* swapped out */
        uint64_t held =
            seq->tables[g].count - (hole.end - hole.begin) - offload_blocks(seq, g) + offload_slot_blocks(seq, g);
        *blocks += held;
        *bytes += held * seq->cache->groups[g].block_bytes;
    }
}

uint64_t kv_seq_bytes_missing(const struct kv_seq *seq, uint32_t tokens, uint32_t chunk)
{
    const struct kv_cache *cache = seq->cache;
    uint64_t bytes = 0;
    ASSERT(tokens >= seq->count && seq->residence == KV_RESIDENT);
    for (uint32_t g = 0; g < cache->group_count; g++) {
        const struct kv_group *group = &cache->groups[g];
        struct kv_hole hole = group_hole(cache, group, seq->count);
        uint64_t held = seq->tables[g].count - (hole.end - hole.begin); /* or is in a file, and stays there */
        uint64_t need = group->kind->blocks(&group->reach, tokens, chunk, cache->block_tokens);
        if (tail_shared(seq, g)) need++; /* it will be copied */
        if (need > held) bytes += (need - held) * group->block_bytes;
    }
    return bytes;
}
