/* kv_view.c - the KV cache as JSON: a snapshot of every block, and events line by line. Numbers only, so it is printed. */
#include "engine/engine_internal.h"
#include <stdio.h>
#include <string.h>

static const char *const kinds[] = {
    [KV_FULL] = "full", [KV_SLIDING] = "sliding", [KV_SINKS] = "sinks", [KV_SHARED] = "shared", [KV_NONE] = "none"};
static const char *const tiers[] = {
    [KV_TIER_MEMORY] = "memory", [KV_TIER_SWAP] = "swap", [KV_TIER_DISK] = "disk", [KV_TIER_REMOTE] = "remote"};

/* ---- snapshot ---------------------------------------------------------------------------------------------------- */

/* A snapshot is taken between two steps and has up to 10^5 blocks: hence no printf a block. */
static char *put_number(char *at, uint64_t number)
{
    char digits[20];
    uint32_t count = 0;
    do digits[count++] = (char)('0' + number % 10);
    while (number /= 10);
    while (count) *at++ = digits[--count];
    *at++ = ',';
    return at;
}

static char *put_key(char *at, uint64_t key)
{
    *at++ = '"';
    for (int shift = 60; shift >= 0; shift -= 4) *at++ = "0123456789abcdef"[key >> shift & 15];
    *at++ = '"';
    return at;
}

static void write_block(const struct kv_block_info *block, struct buffer *out)
{
    const uint64_t state = (block->tier == KV_TIER_SWAP ? 1u : 0) | (block->state == KV_BLOCK_CACHED ? 2u : 0) |
                           (block->pinned ? 4u : 0) | (block->moving ? 8u : 0) | (block->is_protected ? 16u : 0) |
                           (block->tier == KV_TIER_DISK ? 32u : 0);
    const uint64_t numbers[] = {block->group,  block->index,    state,        block->references,
                                block->tokens, block->position, block->owner, block->age};
    char line[ARRAY_COUNT(numbers) * 21 + 24], *at = line;
    *at++ = '[';
    for (size_t i = 0; i < ARRAY_COUNT(numbers); i++) at = put_number(at, numbers[i]);
    if (block->published) {
        at = put_key(at, block->key);
    } else {
        memcpy(at, "null", 4);
        at += 4;
    }
    *at++ = ']';
    buffer_append(out, line, (size_t)(at - line));
}

/* The age from which on cached blocks have no place beside all others, when there is place for `most`. */
static uint64_t age_limit(const struct kv_block_info *blocks, uint32_t count, size_t most)
{
    uint64_t low = 0, high = 1; /* blocks younger than `low` fit, those younger than `high` may not */
    for (uint32_t i = 0; i < count; i++)
        if (blocks[i].age >= high) high = blocks[i].age + 1;
    if (count <= most) return high;
    while (high - low > 1) {
        uint64_t middle = low + (high - low) / 2, fit = 0;
        for (uint32_t i = 0; i < count; i++) fit += blocks[i].state == KV_BLOCK_HELD || blocks[i].age < middle;
        *(fit <= most ? &low : &high) = middle;
    }
    return low;
}

static void write_blocks(const struct kv_block_info *blocks, uint32_t count, size_t most, struct buffer *out)
{
    uint64_t limit = age_limit(blocks, count, most);
    size_t written = 0;
    for (uint32_t i = 0; i < count && written < most; i++) {
        if (blocks[i].state == KV_BLOCK_CACHED && blocks[i].age >= limit) continue;
        buffer_text(out, written++ ? ",\n" : "\n");
        write_block(&blocks[i], out);
    }
}

static void write_groups(const struct kv_group_info *groups, uint32_t count, struct buffer *out)
{
    for (uint32_t g = 0; g < count; g++)
        buffer_printf(out,
                      "%s{\"kind\":\"%s\",\"window\":%u,\"sinks\":%u,\"block_bytes\":%llu,\"bytes_per_token\":%llu}",
                      g ? "," : "", groups[g].index ? "index" : kinds[groups[g].reach.kind], groups[g].reach.window,
                      groups[g].reach.sinks, (unsigned long long)groups[g].block_bytes,
                      (unsigned long long)groups[g].token_bytes);
}

static void write_snapshot(const struct kvasir_engine *engine, const struct kv_group_info *groups, uint32_t group_count,
                           const struct kv_block_info *blocks, uint32_t count, size_t most, struct buffer *out)
{
    buffer_printf(out, "{\"block_size\":%u,\"bytes_budget\":%llu,\"groups\":[", engine->plan.kv.block_tokens,
                  (unsigned long long)engine->plan.kv.bytes_max);
    write_groups(groups, group_count, out);
    buffer_text(out, "],\"requests\":[");
    for (uint32_t i = 0; i < engine->scheduler.running_count; i++)
        buffer_printf(out, "%s{\"id\":%llu,\"owner\":%llu}", i ? "," : "",
                      (unsigned long long)engine->scheduler.running[i]->id,
                      (unsigned long long)kv_seq_number(engine->scheduler.running[i]->seq));
    buffer_printf(out, "],\"blocks_in_use\":%u,\"blocks\":[", count);
    write_blocks(blocks, count, most ? most : count, out);
    buffer_text(out, "]}");
}

int kvasir_engine_kv_snapshot(const struct kvasir_engine *engine, size_t blocks_max, char **json, size_t *bytes,
                              struct kvasir_error *error)
{
    uint32_t group_count = kv_groups(engine->kv, NULL, 0), count = kv_snapshot(engine->kv, NULL, 0);
    struct kv_group_info *groups = mem_alloc(group_count * sizeof *groups);
    struct kv_block_info *blocks = mem_alloc(count * sizeof *blocks);
    struct buffer out;
    buffer_init(&out, 0);
    out.failed = !groups || !blocks;
    if (!out.failed) {
        kv_groups(engine->kv, groups, group_count);
        kv_snapshot(engine->kv, blocks, count);
        write_snapshot(engine, groups, group_count, blocks, count, blocks_max, &out);
    }
    mem_free(groups);
    mem_free(blocks);
    *bytes = out.length;
    *json = buffer_take(&out);
    if (*json) return KVASIR_OK;
    *bytes = 0;
    return (int)error_set(private_error(error), ST_NOMEM, "not enough memory for a snapshot of %u blocks", count);
}

/* ---- events ------------------------------------------------------------------------------------------------------ */

static void hex(const unsigned char key[KV_KEY_BYTES], char out[2 * KV_KEY_BYTES + 1])
{
    for (int i = 0; i < KV_KEY_BYTES; i++) snprintf(out + 2 * i, 3, "%02x", key[i]);
}

/* The longest line has 128 tokens of ten digits: it is built without taking memory, so that none is lost. */
static void tell(void *data, const struct kv_event *event)
{
    const struct kvasir_engine *engine = data;
    char line[2048], key[2 * KV_KEY_BYTES + 1], parent[2 * KV_KEY_BYTES + 1];
    hex(event->key, key);
    hex(event->parent, parent);
    int length =
        snprintf(line, sizeof line,
                 "{\"event\":\"%s\",\"tier\":\"%s\",\"group\":%u,\"bytes\":%llu,\"key\":\"%s\",\"parent\":\"%s\","
                 "\"tokens\":[",
                 event->kind == KV_EVENT_STORED ? "stored" : "removed", tiers[event->tier], event->group,
                 (unsigned long long)event->bytes, key, parent);
    for (uint32_t i = 0; i < event->token_count; i++)
        length += snprintf(line + length, sizeof line - (size_t)length, "%s%u", i ? "," : "", event->tokens[i]);
    length += snprintf(line + length, sizeof line - (size_t)length, "]}");
    ASSERT((size_t)length < sizeof line);
    engine->kv_event(engine->kv_event_data, line, (size_t)length);
}

void kvasir_engine_kv_events(struct kvasir_engine *engine, void (*event)(void *data, const char *json, size_t bytes),
                             void *data)
{
    engine->kv_event = event;
    engine->kv_event_data = data;
    kv_events_set(engine->kv, event ? tell : NULL, engine);
}
