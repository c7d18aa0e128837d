/* kv_view.c - the KV cache as JSON: a snapshot of every block, and events line by line. Numbers only, so it is printed. */
#include "engine/engine_internal.h"
#include <stdio.h>

static const char *const kinds[] = {
    [KV_FULL] = "full", [KV_SLIDING] = "sliding", [KV_SINKS] = "sinks", [KV_SHARED] = "shared", [KV_NONE] = "none"};
static const char *const tiers[] = {[KV_TIER_MEMORY] = "memory", [KV_TIER_SWAP] = "swap"};
static const char *const states[] = {[KV_BLOCK_HELD] = "held", [KV_BLOCK_CACHED] = "cached"};

/* ---- snapshot ---------------------------------------------------------------------------------------------------- */

static const char *truth(bool value)
{
    return value ? "true" : "false";
}

static void write_block(const struct kv_block_info *block, struct buffer *out)
{
    buffer_printf(out, "{\"group\":%u,\"index\":%u,\"tier\":\"%s\",\"state\":\"%s\",", block->group, block->index,
                  tiers[block->tier], states[block->state]);
    buffer_printf(out, "\"published\":%s,\"pinned\":%s,\"moving\":%s,\"protected\":%s,", truth(block->published),
                  truth(block->pinned), truth(block->moving), truth(block->is_protected));
    buffer_printf(out, "\"references\":%u,\"tokens\":%u,\"position\":%u,\"owner\":%llu,\"age\":%llu,",
                  block->references, block->tokens, block->position, (unsigned long long)block->owner,
                  (unsigned long long)block->age);
    if (block->published)
        buffer_printf(out, "\"key\":\"%016llx\"}", (unsigned long long)block->key);
    else
        buffer_text(out, "\"key\":null}");
}

static void write_groups(const struct kv_group_info *groups, uint32_t count, struct buffer *out)
{
    for (uint32_t g = 0; g < count; g++)
        buffer_printf(out,
                      "%s{\"kind\":\"%s\",\"window\":%u,\"sinks\":%u,\"block_bytes\":%llu,\"bytes_per_token\":%llu}",
                      g ? "," : "", kinds[groups[g].reach.kind], groups[g].reach.window, groups[g].reach.sinks,
                      (unsigned long long)groups[g].block_bytes, (unsigned long long)groups[g].token_bytes);
}

int kvasir_engine_kv_snapshot(const struct kvasir_engine *engine, char **json, size_t *bytes,
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
        buffer_printf(&out, "{\"block_size\":%u,\"bytes_budget\":%llu,\"groups\":[", engine->plan.kv.block_tokens,
                      (unsigned long long)engine->plan.kv.bytes_max);
        write_groups(groups, group_count, &out);
        buffer_text(&out, "],\"requests\":[");
        for (uint32_t i = 0; i < engine->scheduler.running_count; i++)
            buffer_printf(&out, "%s{\"id\":%llu,\"owner\":%llu}", i ? "," : "",
                          (unsigned long long)engine->scheduler.running[i]->id,
                          (unsigned long long)kv_seq_number(engine->scheduler.running[i]->seq));
        buffer_text(&out, "],\"blocks\":[");
        for (uint32_t i = 0; i < count; i++) {
            buffer_text(&out, i ? ",\n" : "\n");
            write_block(&blocks[i], &out);
        }
        buffer_text(&out, "]}");
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
