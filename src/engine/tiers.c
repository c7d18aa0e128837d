/* tiers.c - the stores below RAM that an engine was told of: a folder, a server. */
#include "engine/engine_internal.h"

#define DISK_BYTES_DEFAULT (50ull << 30)
#define TIER_QUEUE_BYTES (64ull << 20)
#define TIER_CLOSE_S 10.0
#define OFFLOAD_SHARE 2u

enum status tiers_open(struct kvasir_engine *engine, const struct kvasir_engine_options *options,
                       struct kv_lower_tier tiers[KV_LOWER_TIERS_MAX], struct error *error)
{
    struct kv_config *kv = &engine->plan.kv;
    enum status status = ST_OK;
    if (!options || (!options->kv_disk && !options->kv_remote)) return ST_OK;
    if (!kv->share_prefixes)
        return error_set(error, ST_INVALID, "without a KV cache there is nothing to keep in a folder or on a server");
    if (options->kv_disk) {
        uint64_t bytes = options->kv_disk_bytes ? options->kv_disk_bytes : DISK_BYTES_DEFAULT;
        if (engine->plan
                .indexed) { /* retrieval attention's answers have a part of it for the rows that they seldom read */
            kv->offload_folder = options->kv_disk;
            kv->offload_bytes_max = bytes / OFFLOAD_SHARE;
            bytes -= kv->offload_bytes_max;
            engine->plan.offloads = true;
        }
        status = store_open_folder(options->kv_disk, bytes, &engine->stores[kv->lower_count], error);
        tiers[kv->lower_count++].tier = KV_TIER_DISK;
    }
    if (status == ST_OK && options->kv_remote) {
        status = store_open_redis(options->kv_remote, &engine->stores[kv->lower_count], error);
        tiers[kv->lower_count++].tier = KV_TIER_REMOTE;
    }
    for (uint32_t t = 0; t < kv->lower_count; t++) tiers[t].store = engine->stores[t];
    kv->lower = tiers;
    kv->lower_queue_bytes = TIER_QUEUE_BYTES;
    kv->lower_close_s = TIER_CLOSE_S;
    return status;
}

void tiers_close(struct kvasir_engine *engine)
{
    for (uint32_t t = 0; t < KV_LOWER_TIERS_MAX; t++) store_close(engine->stores[t]);
}

void tiers_stats(const struct kvasir_engine *engine, struct kvasir_engine_stats *out)
{
    struct kv_lower_stats tiers[KV_LOWER_TIERS_MAX];
    _Static_assert(KVASIR_TIERS_MAX == KV_LOWER_TIERS_MAX, "as many tiers outside as inside");
    out->tier_count = kv_lower_stats(engine->kv, tiers);
    for (uint32_t t = 0; t < out->tier_count; t++) {
        const struct kv_lower_stats *tier = &tiers[t];
        out->tiers[t] = (struct kvasir_tier_stats){.name = tier->tier == KV_TIER_DISK ? "disk" : "remote",
                                                   .bytes = tier->bytes,
                                                   .bytes_max = tier->bytes_max,
                                                   .blobs = tier->blobs,
                                                   .tokens = engine->scheduler.lower_tokens[t],
                                                   .written_blocks = tier->written_blocks,
                                                   .written_bytes = tier->written_bytes,
                                                   .read_blocks = tier->read_blocks,
                                                   .read_bytes = tier->read_bytes,
                                                   .skipped_blocks = tier->skipped_blocks,
                                                   .refused_blocks = tier->refused_blocks,
                                                   .missed_blocks = tier->missed_blocks,
                                                   .bad_blocks = tier->bad_blocks,
                                                   .read_s = tier->read_s};
    }
}
