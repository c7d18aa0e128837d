/* lower.c - the tiers below RAM: what is published goes to every store, written by a thread of each tier.
 *
 *               lower_publish: copied out         (the tier's writer)          kv_lower_poll
 *   published ───────────────────────────▶ waiting ─────────────────▶ written ───────────────▶ idle again, told
 *   block           no room: skipped
 *
 * The copies lie in memory of their own, of a fixed size, so a block is never held for a store's sake and a slow store costs
 * nothing but what it misses. A store's key is the block's key, mixed with its group's fingerprint: what another model,
 * configuration, build or block size has written is not found. fetch.c has the way back. */
#include "kv/lower_internal.h"
#include <openssl/sha.h>
#include <string.h>

#define DESCENTS_LEAST 2u
#define DESCENTS_MOST 1024u
#define REFRESH_S 600u     /* copying a prefix of 8,192 tokens takes 10 ms */
#define MEASURES_KEPT 0.95 /* of the older measurements, when one is added */
#define VERSION 1u
static const char magic[8] = {'K', 'V', 'A', 'S', 'I', 'R', 'K', 'B'};

/* ---- what rows depend on, and what a block looks like -------------------------------------------------------------- */

static void add(struct buffer *out, const uint64_t *numbers, size_t count)
{
    buffer_append(out, numbers, count * sizeof *numbers);
}

/* Of one group, whatever the others are: with other heads elsewhere, or an index for retrieval, its rows are the same. */
static enum status fingerprint(const struct kv_cache *cache, uint32_t g, struct kv_key *out)
{
    const struct kv_group *group = &cache->groups[g];
    struct buffer bytes;
    buffer_init(&bytes, 0);
    buffer_append(&bytes, cache->provenance, sizeof cache->provenance);
    add(&bytes,
        (const uint64_t[]){cache->block_tokens, group->block_bytes, (uint64_t)group->reach.kind, group->reach.window,
                           group->reach.sinks},
        5);
    for (uint32_t i = 0; i < cache->layer_count; i++) {
        const struct kv_layer *layer = &cache->layers[i];
        for (uint32_t h = 0; h < layer->kv_heads; h++) {
            const struct kv_place *place = &cache->places[cache->first_place[i] + h];
            if (place->group != g && place->index_group != g) continue;
            bool index = place->group != g;
            add(&bytes,
                (const uint64_t[]){i, h, index, index ? place->index_offset : place->k_offset,
                                   index ? 0 : place->v_offset, layer->head_dim, layer->value_dim,
                                   (uint64_t)layer->k_format, (uint64_t)layer->v_format},
                9);
        }
    }
    if (!bytes.failed) SHA256((const unsigned char *)bytes.data, bytes.length, out->bytes);
    enum status status = bytes.failed ? ST_NOMEM : ST_OK;
    buffer_release(&bytes);
    return status;
}

/* ---- rows in a store --------------------------------------------------------------------------------------------- */

void lower_head_make(const struct kv_cache *cache, uint32_t group, const struct kv_key *parent, const uint32_t *tokens,
                     unsigned char *out)
{
    struct lower_head head = {
        .version = VERSION, .token_count = cache->block_tokens, .fingerprint = cache->lower->fingerprints[group]};
    memcpy(head.magic, magic, sizeof magic);
    memcpy(head.parent, parent->bytes, sizeof head.parent);
    memset(out, 0, cache->lower->head_bytes);
    memcpy(out, &head, sizeof head);
    memcpy(out + sizeof head, tokens, cache->block_tokens * sizeof *tokens);
}

void lower_key(const struct kv_lower *lower, const struct kv_key *key, uint32_t group, struct store_key *out)
{
    unsigned char bytes[2 * KV_KEY_BYTES];
    _Static_assert(STORE_KEY_BYTES == SHA256_DIGEST_LENGTH, "a store's key is a SHA-256");
    memcpy(bytes, lower->fingerprints[group].bytes, KV_KEY_BYTES);
    memcpy(bytes + KV_KEY_BYTES, key->bytes, KV_KEY_BYTES);
    SHA256(bytes, sizeof bytes, out->bytes);
}

/* ---- going down -------------------------------------------------------------------------------------------------- */

static void write_rows(struct background_task *task)
{
    struct descent *descent = (struct descent *)(void *)task; /* its first member */
    descent->status = ST_CANCELLED;
    if (task->cancelled) return;
    descent->status = store_put(descent->tier->store, &descent->store_key, descent->blob, descent->bytes);
    store_stats(descent->tier->store, &descent->store_stats); /* here: the owner must not wait for a store's lock */
}

static bool send(struct kv_cache *cache, struct lower_tier *tier, uint32_t node, uint32_t g, uint32_t block)
{
    struct descent *descent = tier->idle;
    if (!descent) {
        tier->stats.skipped_blocks++;
        return false;
    }
    const struct kv_group *group = &cache->groups[g];
    struct kv_node *own = prefix_node(cache, node);
    tier->idle = descent->next;
    tier->underway++;
    descent->key = own->key;
    descent->group = g;
    descent->bytes = cache->lower->head_bytes + group->block_bytes;
    lower_key(cache->lower, &own->key, g, &descent->store_key);
    lower_head_make(cache, g, &prefix_node(cache, own->parent)->key, prefix_tokens(cache, own), descent->blob);
    memcpy(descent->blob + cache->lower->head_bytes, block_address(group, block), group->block_bytes);
    background_put(tier->writer, &descent->task);
    return true;
}

static uint32_t now_s(void)
{
    return 1 + (uint32_t)clock_seconds();
}

void lower_publish(struct kv_cache *cache, uint32_t node, uint32_t group, uint32_t block)
{
    struct kv_lower *lower = cache->lower;
    struct kv_node *own = prefix_node(cache, node);
    bool sent = own->rows_count == 1 || own->sent_s; /* of the groups before this one too */
    for (uint32_t t = 0; t < lower->source; t++) sent &= send(cache, &lower->tiers[t], node, group, block);
    own->sent_s = sent ? now_s() : 0;
}

void lower_refresh(struct kv_cache *cache, uint32_t node)
{
    struct kv_node *own = prefix_node(cache, node);
    bool sent = true;
    if (own->sent_s && now_s() - own->sent_s < REFRESH_S) return;
    for (uint32_t t = 0; t < cache->lower->tier_count; t++)
        for (uint32_t g = 0; g < cache->group_count && sent; g++)
            if (prefix_rows(own)[g] != BLOCK_NONE)
                sent = send(cache, &cache->lower->tiers[t], node, g, prefix_rows(own)[g]);
    own->sent_s = sent ? now_s() : 0;
}

void tier_tell(const struct kv_cache *cache, enum kv_event_kind kind, const struct lower_tier *tier,
               const struct kv_key *key, uint32_t group, const unsigned char *blob)
{
    struct lower_head head;
    uint32_t tokens[128];
    if (!cache->event) return;
    memcpy(&head, blob, sizeof head);
    memcpy(tokens, blob + sizeof head, cache->block_tokens * sizeof *tokens);
    const struct kv_event event = {.kind = kind,
                                   .tier = tier->name,
                                   .group = group,
                                   .bytes = cache->groups[group].block_bytes,
                                   .key = key->bytes,
                                   .parent = head.parent,
                                   .tokens = tokens,
                                   .token_count = cache->block_tokens};
    cache->event(cache->event_data, &event);
}

static void written(struct kv_cache *cache, struct descent *descent)
{
    struct lower_tier *tier = descent->tier;
    if (descent->status == ST_OK) {
        tier->stats.written_blocks++;
        tier->stats.written_bytes += descent->bytes;
        tier_tell(cache, KV_EVENT_STORED, tier, &descent->key, descent->group, descent->blob);
    } else {
        tier->stats.refused_blocks++;
    }
    if (descent->status != ST_CANCELLED) tier_filled(tier, &descent->store_stats);
    descent->next = tier->idle;
    tier->idle = descent;
    tier->underway--;
}

static void take_written(struct kv_cache *cache)
{
    for (uint32_t t = 0; t < cache->lower->tier_count; t++) {
        struct lower_tier *tier = &cache->lower->tiers[t];
        for (struct background_task *task; tier->underway && (task = background_take(tier->writer, false));)
            written(cache, (struct descent *)(void *)task);
    }
}

/* ---- the owner's calls ------------------------------------------------------------------------------------------- */

void kv_lower_poll(struct kv_cache *cache, double wait_s)
{
    ASSERT(!cache->pinned);
    if (!cache->lower) return;
    take_written(cache);
    fetch_poll(cache, wait_s);
}

bool kv_lower_flush(struct kv_cache *cache, double wait_s)
{
    bool all = true;
    double until_s = clock_seconds() + wait_s;
    for (uint32_t t = 0; cache->lower && t < cache->lower->tier_count; t++) {
        struct lower_tier *tier = &cache->lower->tiers[t];
        double left_s;
        while (tier->underway && (left_s = until_s - clock_seconds()) > 0) {
            background_wait(tier->writer, left_s);
            take_written(cache);
        }
        all &= !tier->underway;
    }
    return all;
}

uint32_t kv_lower_stats(const struct kv_cache *cache, struct kv_lower_stats out[KV_LOWER_TIERS_MAX])
{
    if (!cache->lower) return 0;
    for (uint32_t t = 0; t < cache->lower->tier_count; t++) out[t] = cache->lower->tiers[t].stats;
    return cache->lower->tier_count;
}

void tier_filled(struct lower_tier *tier, const struct store_stats *stats)
{
    tier->stats.bytes = stats->bytes;
    tier->stats.bytes_max = stats->bytes_max;
    tier->stats.blobs = stats->entries;
}

void tier_measured(struct lower_tier *tier, uint64_t bytes, double seconds)
{
    tier->read_s = MEASURES_KEPT * tier->read_s + seconds;
    tier->read_bytes = MEASURES_KEPT * tier->read_bytes + (double)bytes;
}

/* ---- opening and closing ----------------------------------------------------------------------------------------- */

static enum status tier_open(struct lower_tier *tier, uint64_t queue_bytes, uint64_t blob_bytes, struct error *error)
{
    uint64_t count = queue_bytes / blob_bytes;
    if (count < DESCENTS_LEAST) count = DESCENTS_LEAST;
    if (count > DESCENTS_MOST) count = DESCENTS_MOST;
    tier->memory_bytes = count * blob_bytes;
    tier->memory = mem_map_reserve(tier->memory_bytes);
    tier->descents = mem_zero(count, sizeof *tier->descents);
    if (!tier->memory || !tier->descents) return error_set(error, ST_NOMEM, "not enough memory for a tier below RAM");
    tier->descent_count = (uint32_t)count;
    for (uint32_t i = tier->descent_count; i > 0; i--) { /* those with the lowest addresses are used first */
        struct descent *descent = &tier->descents[i - 1];
        *descent = (struct descent){
            .task.run = write_rows, .tier = tier, .next = tier->idle, .blob = tier->memory + (i - 1) * blob_bytes};
        tier->idle = descent;
    }
    return background_open(&tier->writer, error);
}

/* What is not written in time is not written. */
static void tier_close(struct lower_tier *tier)
{
    for (uint32_t i = 0; i < tier->descent_count; i++) tier->descents[i].task.cancelled = true;
    background_close(tier->writer);
    if (tier->memory) mem_unmap(tier->memory, tier->memory_bytes);
    mem_free(tier->descents);
}

static enum status place_blobs(struct kv_cache *cache, uint64_t *largest)
{
    struct kv_lower *lower = cache->lower;
    lower->head_bytes = round_up(sizeof(struct lower_head) + cache->block_tokens * sizeof(uint32_t), ROWS_ALIGNMENT);
    lower->blob_offset = mem_zero(cache->group_count + 1, sizeof *lower->blob_offset);
    if (!lower->blob_offset) return ST_NOMEM;
    lower->fingerprints = mem_zero(cache->group_count, sizeof *lower->fingerprints);
    if (!lower->fingerprints) return ST_NOMEM;
    *largest = 0;
    for (uint32_t g = 0; g < cache->group_count; g++) {
        if (fingerprint(cache, g, &lower->fingerprints[g]) != ST_OK) return ST_NOMEM;
        uint64_t bytes = lower->head_bytes + cache->groups[g].block_bytes;
        lower->blob_offset[g + 1] = lower->blob_offset[g] + bytes;
        if (bytes > *largest) *largest = bytes;
    }
    return ST_OK;
}

enum status lower_open(struct kv_cache *cache, const struct kv_config *config, struct error *error)
{
    uint64_t largest;
    ASSERT(config->lower_count <= KV_LOWER_TIERS_MAX && cache->share_prefixes);
    ASSERT(!config->key_bits); /* in a store a key is all there is to tell one prefix from another */
    struct kv_lower *lower = cache->lower = mem_zero(1, sizeof *lower);
    if (!lower || place_blobs(cache, &largest) != ST_OK)
        return error_set(error, ST_NOMEM, "not enough memory for the tiers below RAM");
    lower->close_s = config->lower_close_s;
    enum status status = ST_OK;
    for (uint32_t t = 0; t < config->lower_count && status == ST_OK; t++) {
        struct lower_tier *tier = &lower->tiers[lower->tier_count++];
        tier->store = config->lower[t].store;
        tier->name = tier->stats.tier = config->lower[t].tier;
        status = tier_open(tier, config->lower_queue_bytes, largest, error);
    }
    lower->source = lower->tier_count;
    return status == ST_OK ? fetch_init(cache, config->lower_queue_bytes, error) : status;
}

void lower_close(struct kv_cache *cache)
{
    struct kv_lower *lower = cache->lower;
    if (!lower) return;
    fetch_release(cache);
    kv_lower_flush(cache, lower->close_s);
    for (uint32_t t = 0; t < lower->tier_count; t++) tier_close(&lower->tiers[t]);
    mem_free(lower->blob_offset);
    mem_free(lower->fingerprints);
    mem_free(lower);
    cache->lower = NULL;
}
