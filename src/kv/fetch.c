/* fetch.c - the way back from the tiers below RAM: what the stores have of a prompt is looked up, read, checked and published.
 *
 * The reader, a thread, looks and reads; it knows keys, tokens and bytes only. Rows wait in arrivals, memory of a fixed size,
 * until the owner, in kv_lower_poll, copies them into blocks and publishes them. So a fetch can be given up at any time, and
 * what can be seen of the cache never depends on how far the reader is.
 *
 * While it reads, a fetch holds what is cached of its prefix, and what has come, by a sequence that stands on the nodes of the
 * whole prefix, like one that is swapped out; its tables lack what is still to come. Blocks come in ascending order, all groups
 * of a node together: so at any moment the tree is as if the prefix had been computed that far and partly evicted. Of a window's
 * rows only those are read that the prefix' end needs. Where all groups keep everything each block that has come can be used.
 * When others need its memory, a fetch lets go of it. */
#include "kv/lower_internal.h"
#include <openssl/sha.h>
#include <string.h>

#define ARRIVALS_LEAST 2u
#define ARRIVALS_MOST 1024u
#define LOOKED_UP_TOGETHER 64u /* blocks */
#define PROBES 3u

/* Where a block's rows are: 1 + the number of the tier, or */
#define NOWHERE 0u

struct kv_fetch {
    struct background_task look; /* first */
    struct kv_cache *cache;
    struct kv_fetch *next;
    enum kv_fetch_state state;
    bool closed, looking; /* the owner's handle is closed; the reader looks */
    bool failed;          /* a block did not come: reading ends when nothing is underway */
    uint32_t blocks;      /* whole ones of the prompt, of which those from `first` on are looked for */
    uint32_t first;
    uint32_t *tokens; /* [blocks * block_tokens] */
    uint32_t salt[SALT_TOKENS];
    struct kv_key root, *keys;             /* [blocks] */
    unsigned char *where;                  /* [blocks, group_count] */
    uint32_t *absent;                      /* [group_count, blocks + 1] scratch */
    uint32_t *nodes;                       /* [blocks] of seq */
    struct kv_seq *seq;                    /* READING: holds what is there */
    uint32_t cached, found;                /* blocks, when it was FOUND */
    uint32_t next_read, arrived, underway; /* blocks: to be asked for next; there without a gap; with the reader */
    uint64_t bytes_left[KV_LOWER_TIERS_MAX];
    uint32_t from[KV_LOWER_TIERS_MAX];
};

/* A block on its way back: the reader's between put and take. */
struct fetched {
    struct background_task task; /* first */
    struct fetched *next;        /* of the idle ones */
    struct kv_fetch *fetch;
    uint32_t block;
    unsigned char *wanted; /* [group_count] where; afterwards: where it was found */
    unsigned char *blobs;  /* the groups', at lower->blob_offset */
    uint32_t group;        /* that was read last */
    unsigned char *head;   /* [head_bytes] as it should be there */
    bool complete;
    struct {
        uint64_t bytes;
        double seconds;
        uint32_t blocks, missed, bad;
    } of[KV_LOWER_TIERS_MAX];
};

/* Tells how fast each tier is, before anything was read. */
struct probe {
    struct background_task task; /* first */
    struct kv_lower *lower;
    uint64_t bytes;
    unsigned char *blob;
    double seconds[KV_LOWER_TIERS_MAX]; /* 0: not known */
    struct store_stats stats[KV_LOWER_TIERS_MAX];
};

/* ---- the reader's side ------------------------------------------------------------------------------------------- */

/* Where rows of the blocks [begin, end) are, of those that are not known to be anywhere yet. */
static void look_in(struct kv_fetch *fetch, uint32_t t, uint32_t begin, uint32_t end)
{
    const struct kv_lower *lower = fetch->cache->lower;
    uint32_t groups = fetch->cache->group_count;
    struct store_key keys[LOOKED_UP_TOGETHER];
    bool have[LOOKED_UP_TOGETHER];
    for (uint32_t g = 0; g < groups; g++) {
        uint32_t count = 0;
        for (uint32_t b = begin; b < end; b++)
            if (fetch->where[b * groups + g] == NOWHERE) lower_key(lower, &fetch->keys[b], g, &keys[count++]);
        if (!count || fetch->look.cancelled) continue;
        store_have(lower->tiers[t].store, keys, count, have);
        count = 0;
        for (uint32_t b = begin; b < end; b++)
            if (fetch->where[b * groups + g] == NOWHERE && have[count++])
                fetch->where[b * groups + g] = (unsigned char)(t + 1);
    }
}

static void look(struct background_task *task)
{
    struct kv_fetch *fetch = (struct kv_fetch *)(void *)task;
    const struct kv_cache *cache = fetch->cache;
    bool more = true;
    for (uint32_t begin = fetch->first; begin < fetch->blocks && more && !task->cancelled;
         begin += LOOKED_UP_TOGETHER) {
        uint32_t end = begin + LOOKED_UP_TOGETHER < fetch->blocks ? begin + LOOKED_UP_TOGETHER : fetch->blocks;
        for (uint32_t t = 0; t < cache->lower->tier_count; t++) look_in(fetch, t, begin, end);
        for (uint32_t g = 0; g < cache->group_count; g++) /* without this one nothing behind it is of use */
            more &= !cache->groups[g].kind->keeps_all || fetch->where[(end - 1) * cache->group_count + g] != NOWHERE;
    }
}

/* The first of the tiers from `t` on that has the rows; false: none. */
static bool read_rows(struct fetched *fetched, uint32_t g, uint32_t t)
{
    struct kv_fetch *fetch = fetched->fetch;
    const struct kv_cache *cache = fetch->cache;
    const struct kv_lower *lower = cache->lower;
    const uint32_t b = fetched->block;
    const uint64_t bytes = lower->head_bytes + cache->groups[g].block_bytes;
    unsigned char *blob = fetched->blobs + lower->blob_offset[g];
    struct store_key key;
    fetched->group = g;
    lower_key(lower, &fetch->keys[b], g, &key);
    lower_head_make(cache, g, b ? &fetch->keys[b - 1] : &fetch->root, fetch->tokens + (uint64_t)b * cache->block_tokens,
                    fetched->head);
    for (; t < lower->tier_count && !fetched->task.cancelled; t++) {
        double began = clock_seconds();
        enum status status = store_get(lower->tiers[t].store, &key, blob, bytes);
        if (status == ST_OK && memcmp(blob, fetched->head, lower->head_bytes) == 0) {
            fetched->of[t].seconds += clock_seconds() - began;
            fetched->of[t].bytes += bytes;
            fetched->of[t].blocks++;
            fetched->wanted[g] = (unsigned char)(t + 1);
            return true;
        }
        if (status == ST_OK) store_remove(lower->tiers[t].store, &key);
        *(status == ST_OK ? &fetched->of[t].bad : &fetched->of[t].missed) += 1;
    }
    return false;
}

static void read_block(struct background_task *task)
{
    struct fetched *fetched = (struct fetched *)(void *)task;
    fetched->complete = true;
    for (uint32_t g = 0; g < fetched->fetch->cache->group_count && fetched->complete; g++)
        if (fetched->wanted[g] != NOWHERE) fetched->complete = read_rows(fetched, g, fetched->wanted[g] - 1u);
}

/* The best of a few: a server is connected to first, a disk's folder looked up. */
static void probe_run(struct background_task *task)
{
    struct probe *probe = (struct probe *)(void *)task;
    struct random random;
    random_seed(&random, (uint64_t)(clock_seconds() * 1e9) ^ (uintptr_t)probe);
    for (uint64_t i = 0; i + 8 <= probe->bytes; i += 8) memcpy(probe->blob + i, &(uint64_t){random_next(&random)}, 8);
    struct store_key key;
    SHA256(probe->blob, probe->bytes, key.bytes);
    for (uint32_t t = 0; t < probe->lower->tier_count && !task->cancelled; t++) {
        struct store *store = probe->lower->tiers[t].store;
        store_stats(store, &probe->stats[t]);
        if (store_put(store, &key, probe->blob, probe->bytes) != ST_OK) continue;
        for (uint32_t i = 0; i < PROBES && !task->cancelled; i++) {
            double began = clock_seconds();
            if (store_get(store, &key, probe->blob, probe->bytes) != ST_OK) break;
            double seconds = clock_seconds() - began;
            if (i == 0 || seconds < probe->seconds[t]) probe->seconds[t] = seconds;
        }
        store_remove(store, &key);
    }
}

/* ---- how far a prefix goes --------------------------------------------------------------------------------------- */

/* What the tree has of the prefix, for the moment. */
static void find_nodes(struct kv_fetch *fetch)
{
    const struct kv_cache *cache = fetch->cache;
    const uint32_t size = cache->block_tokens;
    uint32_t node = prefix_find(cache, NODE_NONE, &fetch->root, fetch->salt, SALT_TOKENS);
    for (uint32_t b = 0; b < fetch->blocks; b++) {
        const uint32_t *tokens = fetch->tokens + (uint64_t)b * size;
        if (node != NODE_NONE) node = prefix_find(cache, node, &fetch->keys[b], tokens, size);
        fetch->nodes[b] = node;
    }
}

static bool is_cached(const struct kv_fetch *fetch, uint32_t b, uint32_t g)
{
    uint32_t node = fetch->nodes[b];
    return node != NODE_NONE && prefix_rows(prefix_node(fetch->cache, node))[g] != BLOCK_NONE;
}

static unsigned char where_is(const struct kv_fetch *fetch, uint32_t b, uint32_t g)
{
    return fetch->where[(uint64_t)b * fetch->cache->group_count + g];
}

static bool in_hole(const struct kv_fetch *fetch, uint32_t depth, uint32_t b, uint32_t g)
{
    const struct kv_cache *cache = fetch->cache;
    return hole_has(group_hole(cache, &cache->groups[g], depth * cache->block_tokens), b);
}

/* The most whole blocks that the cache can serve, with what the stores have too where `stored`. */
static uint32_t boundary(struct kv_fetch *fetch, bool stored)
{
    const struct kv_cache *cache = fetch->cache;
    const uint32_t row = fetch->blocks + 1; /* absent[g * row + b]: of the blocks before b */
    for (uint32_t g = 0; g < cache->group_count; g++)
        for (uint32_t b = 0; b < fetch->blocks; b++) {
            bool there = is_cached(fetch, b, g) || (stored && where_is(fetch, b, g) != NOWHERE);
            fetch->absent[g * row + b + 1] = fetch->absent[g * row + b] + !there;
        }
    for (uint32_t depth = fetch->blocks; depth > 0; depth--) {
        bool served = true;
        for (uint32_t g = 0; g < cache->group_count && served; g++) {
            const uint32_t *absent = fetch->absent + g * row;
            struct kv_hole hole = group_hole(cache, &cache->groups[g], depth * cache->block_tokens);
            uint32_t in_it = hole.begin < hole.end ? absent[hole.end] - absent[hole.begin] : 0;
            served = absent[depth] == in_it;
        }
        if (served) return depth;
    }
    return 0;
}

/* The tier from which rows are to be read; NOWHERE: they are cached, or the prefix' end does not need them. */
static unsigned char wanted(const struct kv_fetch *fetch, uint32_t b, uint32_t g)
{
    bool needed = !in_hole(fetch, fetch->found, b, g) && !is_cached(fetch, b, g);
    return needed ? where_is(fetch, b, g) : NOWHERE;
}

/* While the nodes are sure: when they were just found, or are held. */
static void count_left(const struct kv_fetch *fetch, uint64_t out[KV_LOWER_TIERS_MAX])
{
    const struct kv_cache *cache = fetch->cache;
    memset(out, 0, KV_LOWER_TIERS_MAX * sizeof *out);
    for (uint32_t b = 0; b < fetch->found; b++)
        for (uint32_t g = 0; g < cache->group_count; g++) {
            unsigned char where = wanted(fetch, b, g);
            if (where != NOWHERE) out[where - 1] += cache->groups[g].block_bytes;
        }
}

static void choose(struct kv_fetch *fetch)
{
    find_nodes(fetch);
    fetch->cached = fetch->arrived = boundary(fetch, false);
    fetch->found = boundary(fetch, true);
    fetch->state = fetch->found > fetch->cached ? KV_FETCH_FOUND : KV_FETCH_DONE;
    fetch->failed = false;
    count_left(fetch, fetch->bytes_left);
}

/* ---- reading ----------------------------------------------------------------------------------------------------- */

/* Puts the sequence on the nodes of the prefix, those that are not there yet too. */
static enum status stand(struct kv_fetch *fetch)
{
    struct kv_cache *cache = fetch->cache;
    struct kv_seq *seq = fetch->seq;
    const uint32_t size = cache->block_tokens;
    if (prefix_grow(cache, fetch->found) != ST_OK) return ST_NOMEM;
    uint32_t node = seq->node;
    for (uint32_t b = 0; b < fetch->found; b++) {
        const uint32_t *tokens = fetch->tokens + (uint64_t)b * size;
        uint32_t next = prefix_find(cache, node, &fetch->keys[b], tokens, size);
        if (next == NODE_NONE) {
            next = prefix_take(cache);
            prefix_insert(cache, next, node, &fetch->keys[b], tokens, size);
        }
        fetch->nodes[b] = node = next;
    }
    prefix_ref(cache, node);
    prefix_unref(cache, seq->node);
    seq->node = node;
    seq->count = seq->reserved = fetch->found * size;
    return ST_OK;
}

/* The table has what is cached; what comes fills it up. */
static void hold(struct kv_fetch *fetch, uint32_t b, uint32_t g)
{
    struct kv_cache *cache = fetch->cache;
    struct kv_group *group = &cache->groups[g];
    uint32_t row = prefix_rows(prefix_node(cache, fetch->nodes[b]))[g];
    block_hold(cache, group, row);
    if (group->blocks[row].segment == PASSED) group->blocks[row].segment = PROBATION;
    fetch->seq->tables[g].blocks[b] = row;
}

static enum status open_seq(struct kv_fetch *fetch)
{
    struct kv_cache *cache = fetch->cache;
    enum status status = seq_new(cache, &fetch->seq);
    if (status != ST_OK) return status;
    struct kv_seq *seq = fetch->seq;
    seq->coming = true;
    for (uint32_t g = 0; g < cache->group_count && status == ST_OK; g++)
        status = table_grow(&seq->tables[g], fetch->found);
    if (status == ST_OK) status = seq_stand_on_root(seq, (uint64_t)fetch->salt[1] << 32 | fetch->salt[0]);
    if (status == ST_OK) status = stand(fetch);
    for (uint32_t g = 0; g < cache->group_count && status == ST_OK; g++) {
        struct kv_table *table = &seq->tables[g];
        table->passed = group_hole(cache, &cache->groups[g], seq->count).end;
        for (; table->count < fetch->found; table->count++) {
            table->blocks[table->count] = BLOCK_NONE;
            if (!in_hole(fetch, fetch->found, table->count, g) && is_cached(fetch, table->count, g))
                hold(fetch, table->count, g);
        }
    }
    if (status == ST_OK) return ST_OK;
    kv_seq_close(seq);
    fetch->seq = NULL;
    return status;
}

/* What is there stays cached; what is still underway is of no use. */
static void stop_reading(struct kv_fetch *fetch)
{
    struct kv_lower *lower = fetch->cache->lower;
    if (!fetch->seq) return;
    for (uint32_t i = 0; i < lower->arrival_count; i++)
        if (lower->arrivals[i].fetch == fetch) lower->arrivals[i].task.cancelled = true;
    kv_seq_close(fetch->seq);
    fetch->seq = NULL;
    fetch->state = KV_FETCH_DONE;
}

/* Asks for the next blocks, as many as have a place to arrive at. */
static void ask(struct kv_fetch *fetch)
{
    const struct kv_cache *cache = fetch->cache;
    struct kv_lower *lower = cache->lower;
    for (; fetch->next_read < fetch->found && lower->idle_arrivals && !fetch->failed; fetch->next_read++) {
        struct fetched *fetched = lower->idle_arrivals;
        bool any = false;
        for (uint32_t g = 0; g < cache->group_count; g++) {
            fetched->wanted[g] = wanted(fetch, fetch->next_read, g);
            any |= fetched->wanted[g] != NOWHERE;
        }
        if (!any) continue;
        lower->idle_arrivals = fetched->next;
        fetched->fetch = fetch;
        fetched->block = fetch->next_read;
        memset(fetched->of, 0, sizeof fetched->of);
        fetch->underway++;
        background_put(lower->reader, &fetched->task);
    }
}

/* Nothing is underway any more: all has come, or what did not come is found nowhere from now on. */
static void end_reading(struct kv_fetch *fetch)
{
    bool failed = fetch->failed;
    fetch->arrived = failed ? fetch->arrived : fetch->found;
    stop_reading(fetch);
    if (failed) choose(fetch);
}

/* Holds all that is cached of block `b`; false: rows that everything after them needs are missing, but for those that are
 * about to be published. */
static bool hold_cached(struct kv_fetch *fetch, uint32_t b, const unsigned char *published)
{
    const struct kv_cache *cache = fetch->cache;
    bool complete = true;
    for (uint32_t g = 0; g < cache->group_count; g++) {
        if (fetch->seq->tables[g].blocks[b] != BLOCK_NONE || in_hole(fetch, fetch->found, b, g)) continue;
        if (is_cached(fetch, b, g))
            hold(fetch, b, g);
        else if (cache->groups[g].kind->keeps_all && (!published || published[g] == NOWHERE))
            complete = false;
    }
    return complete;
}

/* Publishes what has come of a block, after those before it. False: there is no room for it, or what others had computed of
 * the prefix has been evicted again. */
static bool publish(struct kv_fetch *fetch, const struct fetched *fetched)
{
    struct kv_cache *cache = fetch->cache;
    struct kv_lower *lower = cache->lower;
    const uint32_t b = fetched->block;
    uint64_t bytes = 0;
    for (; fetch->arrived < b; fetch->arrived++)
        if (!hold_cached(fetch, fetch->arrived, NULL)) return false;
    if (!hold_cached(fetch, b, fetched->wanted)) return false;
    for (uint32_t g = 0; g < cache->group_count; g++)
        if (fetched->wanted[g] != NOWHERE && !is_cached(fetch, b, g)) bytes += cache->groups[g].block_bytes;
    if (bytes > kv_bytes_free(cache)) return false;
    for (uint32_t g = 0; g < cache->group_count; g++) {
        struct kv_group *group = &cache->groups[g];
        if (fetched->wanted[g] == NOWHERE || is_cached(fetch, b, g)) continue; /* computed by others meanwhile */
        uint32_t block = block_take(cache, group);
        memcpy(block_address(group, block), fetched->blobs + lower->blob_offset[g] + lower->head_bytes,
               group->block_bytes);
        fetch->seq->tables[g].blocks[b] = block;
        lower->source = fetched->wanted[g] - 1u; /* what came from afar is also put near */
        prefix_attach(cache, fetch->nodes[b], g, block);
        lower->source = lower->tier_count;
    }
    fetch->arrived = b + 1;
    return true;
}

/* ---- taking in what the reader has done -------------------------------------------------------------------------- */

static void fetch_free(struct kv_fetch *fetch)
{
    struct kv_fetch **link = &fetch->cache->lower->first_fetch;
    while (*link != fetch) link = &(*link)->next;
    *link = fetch->next;
    mem_free(fetch->tokens);
    mem_free(fetch->keys);
    mem_free(fetch->where);
    mem_free(fetch->absent);
    mem_free(fetch->nodes);
    mem_free(fetch);
}

/* Of what was asked for in vain: the same is not asked for again. */
static void miss(struct kv_fetch *fetch, const struct fetched *fetched)
{
    const struct kv_cache *cache = fetch->cache;
    fetch->where[(uint64_t)fetched->block * cache->group_count + fetched->group] = NOWHERE;
    for (uint32_t t = 0; t < cache->lower->tier_count; t++)
        if (fetched->of[t].missed || fetched->of[t].bad)
            tier_tell(cache, KV_EVENT_REMOVED, &cache->lower->tiers[t], &fetch->keys[fetched->block], fetched->group,
                      fetched->head);
}

static void count(struct kv_fetch *fetch, const struct fetched *fetched)
{
    struct kv_lower *lower = fetch->cache->lower;
    uint32_t from = 0;
    for (uint32_t t = 0; t < lower->tier_count; t++) {
        struct lower_tier *tier = &lower->tiers[t];
        tier->stats.read_blocks += fetched->of[t].blocks;
        tier->stats.read_bytes += fetched->of[t].bytes;
        tier->stats.read_s += fetched->of[t].seconds;
        tier->stats.missed_blocks += fetched->of[t].missed;
        tier->stats.bad_blocks += fetched->of[t].bad;
        if (fetched->of[t].bytes) tier_measured(tier, fetched->of[t].bytes, fetched->of[t].seconds);
        if (fetched->of[t].blocks) from = t;
    }
    if (fetched->complete && fetch->seq) fetch->from[from] += fetch->cache->block_tokens;
}

static void arrive(struct fetched *fetched)
{
    struct kv_fetch *fetch = fetched->fetch;
    struct kv_lower *lower = fetch->cache->lower;
    fetched->fetch = NULL;
    fetched->next = lower->idle_arrivals;
    lower->idle_arrivals = fetched;
    fetch->underway--;
    count(fetch, fetched);
    if (fetch->seq && fetched->complete && !fetch->failed) {
        if (!publish(fetch, fetched)) stop_reading(fetch);
    } else if (fetch->seq && !fetched->task.cancelled) {
        if (!fetched->complete) miss(fetch, fetched);
        fetch->failed = true;
    }
    if (fetch->seq) ask(fetch);
    if (fetch->seq && !fetch->underway) end_reading(fetch);
    if (fetch->closed && !fetch->underway && !fetch->looking) fetch_free(fetch);
}

static void looked(struct kv_fetch *fetch)
{
    fetch->looking = false;
    if (fetch->closed)
        fetch_free(fetch);
    else
        choose(fetch);
}

static void probed(struct kv_lower *lower)
{
    struct probe *probe = lower->probe;
    for (uint32_t t = 0; t < lower->tier_count; t++) {
        struct lower_tier *tier = &lower->tiers[t];
        if (probe->seconds[t] > 0) tier_measured(tier, probe->bytes, probe->seconds[t]);
        if (!tier->stats.bytes_max) tier_filled(tier, &probe->stats[t]); /* nothing was written before */
    }
    lower->probe = NULL;
    mem_free(probe->blob);
    mem_free(probe);
}

static void take(struct kv_lower *lower, struct background_task *task)
{
    if (task->run == look)
        looked((struct kv_fetch *)(void *)task);
    else if (task->run == read_block)
        arrive((struct fetched *)(void *)task);
    else
        probed(lower);
}

void fetch_poll(struct kv_cache *cache, double wait_s)
{
    struct kv_lower *lower = cache->lower;
    if (wait_s > 0) background_wait(lower->reader, wait_s);
    for (struct background_task *task; (task = background_take(lower->reader, false));) take(lower, task);
}

bool fetch_let_go(struct kv_cache *cache)
{
    bool any = false;
    for (struct kv_fetch *fetch = cache->lower ? cache->lower->first_fetch : NULL; fetch; fetch = fetch->next) {
        any |= fetch->seq != NULL;
        stop_reading(fetch);
    }
    return any;
}

/* ---- the owner's calls ------------------------------------------------------------------------------------------- */

static enum status fetch_new(struct kv_cache *cache, const uint32_t *tokens, uint32_t blocks, uint64_t salt,
                             struct kv_fetch **out)
{
    const uint32_t size = cache->block_tokens, groups = cache->group_count;
    struct kv_fetch *fetch = mem_zero(1, sizeof *fetch);
    if (!fetch) return ST_NOMEM;
    *fetch = (struct kv_fetch){.look.run = look,
                               .cache = cache,
                               .next = cache->lower->first_fetch,
                               .blocks = blocks,
                               .salt = {(uint32_t)salt, (uint32_t)(salt >> 32)},
                               .tokens = mem_alloc((uint64_t)blocks * size * sizeof *tokens),
                               .keys = mem_alloc(blocks * sizeof *fetch->keys),
                               .where = mem_zero(blocks, groups),
                               .absent = mem_zero((blocks + 1ull) * groups, sizeof *fetch->absent),
                               .nodes = mem_alloc(blocks * sizeof *fetch->nodes)};
    cache->lower->first_fetch = fetch;
    if (!fetch->tokens || !fetch->keys || !fetch->where || !fetch->absent || !fetch->nodes) {
        fetch_free(fetch);
        return ST_NOMEM;
    }
    memcpy(fetch->tokens, tokens, (uint64_t)blocks * size * sizeof *tokens);
    prefix_key_after(cache, NULL, fetch->salt, SALT_TOKENS, &fetch->root);
    for (uint32_t b = 0; b < blocks; b++)
        prefix_key_after(cache, b ? &fetch->keys[b - 1] : &fetch->root, tokens + (uint64_t)b * size, size,
                         &fetch->keys[b]);
    *out = fetch;
    return ST_OK;
}

enum status kv_fetch_open(struct kv_cache *cache, const uint32_t *tokens, uint32_t count, uint64_t salt,
                          struct kv_fetch **out)
{
    const uint32_t blocks = count ? (count - 1) / cache->block_tokens : 0;
    struct kv_fetch *fetch;
    *out = NULL;
    if (!cache->lower || !blocks) return ST_OK;
    enum status status = fetch_new(cache, tokens, blocks, salt, &fetch);
    if (status != ST_OK) return status;
    find_nodes(fetch);
    fetch->first = fetch->cached = fetch->arrived = boundary(fetch, false);
    if (fetch->first == blocks) {
        fetch_free(fetch);
        return ST_OK;
    }
    fetch->looking = true;
    background_put(cache->lower->reader, &fetch->look);
    *out = fetch;
    return ST_OK;
}

enum status kv_fetch_start(struct kv_fetch *fetch)
{
    struct kv_cache *cache = fetch->cache;
    ASSERT(!cache->pinned && fetch->state == KV_FETCH_FOUND);
    for (const struct kv_fetch *other = cache->lower->first_fetch; other; other = other->next)
        if (other->seq) return ST_FULL;
    choose(fetch); /* what is cached may be others' by now */
    if (fetch->state == KV_FETCH_DONE) return ST_OK;
    enum status status = open_seq(fetch);
    if (status != ST_OK) return status;
    fetch->state = KV_FETCH_READING;
    fetch->next_read = 0;
    ask(fetch);
    return ST_OK;
}

void kv_fetch_close(struct kv_fetch *fetch)
{
    if (!fetch) return;
    stop_reading(fetch);
    fetch->closed = true;
    if (fetch->looking)
        fetch->look.cancelled = true;
    else if (!fetch->underway)
        fetch_free(fetch);
}

void kv_fetch_info(const struct kv_fetch *fetch, struct kv_fetch_info *out)
{
    const struct kv_cache *cache = fetch->cache;
    bool steps = true; /* what has come can be used at once */
    for (uint32_t g = 0; g < cache->group_count; g++) steps &= cache->groups[g].kind->keeps_all;
    uint32_t arrived = !steps && fetch->state == KV_FETCH_READING ? fetch->cached : fetch->arrived;
    *out = (struct kv_fetch_info){.state = fetch->state,
                                  .cached = fetch->cached * cache->block_tokens,
                                  .found = fetch->found * cache->block_tokens,
                                  .arrived = arrived * cache->block_tokens};
    memcpy(out->from, fetch->from, sizeof out->from);
    uint64_t left[KV_LOWER_TIERS_MAX] = {0};
    if (fetch->state == KV_FETCH_READING) count_left(fetch, left);
    if (fetch->state == KV_FETCH_FOUND) memcpy(left, fetch->bytes_left, sizeof left);
    for (uint32_t t = 0; t < cache->lower->tier_count; t++) {
        const struct lower_tier *tier = &cache->lower->tiers[t];
        out->bytes_left += left[t];
        if (tier->read_bytes > 0) out->left_s += (double)left[t] * tier->read_s / tier->read_bytes;
    }
}

/* ---- opening and closing ----------------------------------------------------------------------------------------- */

static enum status arrivals_open(struct kv_cache *cache, uint64_t queue_bytes)
{
    struct kv_lower *lower = cache->lower;
    uint64_t node_bytes = lower->blob_offset[cache->group_count] + lower->head_bytes;
    uint64_t bytes = node_bytes + round_up(cache->group_count, ROWS_ALIGNMENT), number = queue_bytes / bytes;
    if (number < ARRIVALS_LEAST) number = ARRIVALS_LEAST;
    if (number > ARRIVALS_MOST) number = ARRIVALS_MOST;
    lower->memory_bytes = number * bytes;
    lower->memory = mem_map_reserve(lower->memory_bytes);
    lower->arrivals = mem_zero(number, sizeof *lower->arrivals);
    if (!lower->memory || !lower->arrivals) return ST_NOMEM;
    lower->arrival_count = (uint32_t)number;
    for (uint32_t i = lower->arrival_count; i > 0; i--) {
        unsigned char *memory = lower->memory + (i - 1) * bytes;
        lower->arrivals[i - 1] = (struct fetched){.task.run = read_block,
                                                  .next = lower->idle_arrivals,
                                                  .blobs = memory,
                                                  .head = memory + lower->blob_offset[cache->group_count],
                                                  .wanted = memory + node_bytes};
        lower->idle_arrivals = &lower->arrivals[i - 1];
    }
    return ST_OK;
}

static enum status probe_open(struct kv_lower *lower, uint64_t bytes)
{
    struct probe *probe = lower->probe = mem_zero(1, sizeof *probe);
    if (!probe) return ST_NOMEM;
    *probe = (struct probe){.task.run = probe_run, .lower = lower, .bytes = bytes, .blob = mem_alloc(bytes)};
    if (probe->blob) {
        background_put(lower->reader, &probe->task);
        return ST_OK;
    }
    mem_free(probe);
    lower->probe = NULL;
    return ST_NOMEM;
}

enum status fetch_init(struct kv_cache *cache, uint64_t queue_bytes, struct error *error)
{
    struct kv_lower *lower = cache->lower;
    enum status status = arrivals_open(cache, queue_bytes);
    if (status != ST_OK) return error_set(error, status, "not enough memory for the tiers below RAM");
    status = background_open(&lower->reader, error);
    if (status != ST_OK) return status;
    status = probe_open(lower, lower->blob_offset[1]);
    return status == ST_OK ? status : error_set(error, status, "not enough memory for the tiers below RAM");
}

void fetch_release(struct kv_cache *cache)
{
    struct kv_lower *lower = cache->lower;
    if (lower->probe) lower->probe->task.cancelled = true;
    for (struct background_task *task; lower->reader && (task = background_take(lower->reader, true));)
        take(lower, task);
    ASSERT(!lower->first_fetch);
    background_close(lower->reader);
    if (lower->memory) mem_unmap(lower->memory, lower->memory_bytes);
    mem_free(lower->arrivals);
}
