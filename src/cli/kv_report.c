/* kv_report.c - the KV cache's statistics, as lines and as JSON. */
#include "cli/cli.h"

static double percent(uint64_t part, uint64_t whole)
{
    return whole ? 100.0 * (double)part / (double)whole : 0;
}

void kv_report_text(const struct kvasir_engine_stats *now, const struct kvasir_engine_stats *most, struct buffer *out)
{
    char a[32], b[32], c[32];
    buffer_printf(out, "KV cache   budget %s; %llu bytes a token, blocks of %u tokens, %s for a whole context of %u\n",
                  bytes_text(now->kv_bytes_budget, a), (unsigned long long)now->kv_bytes_per_token, now->block_size,
                  bytes_text(now->kv_bytes_per_request, b), now->context);
    buffer_printf(out, "  prefixes %llu prompt tokens looked up, %llu found (%.1f %%); index %s\n",
                  (unsigned long long)now->kv_queried_tokens, (unsigned long long)now->kv_hit_tokens,
                  percent(now->kv_hit_tokens, now->kv_queried_tokens), bytes_text(now->kv_bytes_metadata, a));
    buffer_printf(out, "  in use   at most %s in %llu blocks, %.1f %% of it without rows; %s of memory mapped\n",
                  bytes_text(most->kv_bytes_used, a), (unsigned long long)most->kv_blocks_used,
                  percent(most->kv_bytes_wasted, most->kv_bytes_used), bytes_text(most->kv_bytes_mapped, b));
    buffer_printf(out, "  cached   %s in %llu blocks, %s protected; %s pinned; %llu blocks evicted, %llu copied\n",
                  bytes_text(now->kv_bytes_cached, a), (unsigned long long)now->kv_blocks_cached,
                  bytes_text(now->kv_bytes_protected, b), bytes_text(now->kv_bytes_pinned, c),
                  (unsigned long long)now->kv_evicted_blocks, (unsigned long long)now->kv_copied_blocks);
    if (now->kv_swaps_out)
        buffer_printf(out, "  swapped  %s; %llu sequences went out, %llu came back\n",
                      bytes_text(now->kv_bytes_swapped, a), (unsigned long long)now->kv_swaps_out,
                      (unsigned long long)now->kv_swaps_in);
    if (now->kv_read_slices)
        buffer_printf(out, "  offload  at most %s on disk; of what was wanted of it %.1f %% was in memory still\n",
                      bytes_text(most->kv_bytes_offloaded, a),
                      percent(now->kv_recalled_slices, now->kv_recalled_slices + now->kv_read_slices));
    for (uint32_t t = 0; t < now->tier_count; t++) {
        const struct kvasir_tier_stats *tier = &now->tiers[t];
        buffer_printf(
            out, "  %-8s %llu prompt tokens came from there (%s read in %.3f s); %s written, %llu blocks skipped\n",
            tier->name, (unsigned long long)tier->tokens, bytes_text(tier->read_bytes, a), tier->read_s,
            bytes_text(tier->written_bytes, b), (unsigned long long)tier->skipped_blocks);
        if (tier->refused_blocks + tier->missed_blocks + tier->bad_blocks)
            buffer_printf(out, "           blocks: %llu refused, %llu gone or damaged, %llu of something else\n",
                          (unsigned long long)tier->refused_blocks, (unsigned long long)tier->missed_blocks,
                          (unsigned long long)tier->bad_blocks);
    }
}

void kv_report_json(const struct kvasir_engine_stats *now, const struct kvasir_engine_stats *most, struct buffer *out)
{
    const struct {
        const char *name;
        uint64_t value;
    } rows[] = {
        {"context", now->context},
        {"block_size", now->block_size},
        {"bytes_per_request", now->kv_bytes_per_request},
        {"bytes_budget", now->kv_bytes_budget},
        {"most_bytes_used", most->kv_bytes_used},
        {"most_blocks_used", most->kv_blocks_used},
        {"most_bytes_wasted", most->kv_bytes_wasted},
        {"most_bytes_mapped", most->kv_bytes_mapped},
        {"bytes_cached", now->kv_bytes_cached},
        {"blocks_cached", now->kv_blocks_cached},
        {"bytes_protected", now->kv_bytes_protected},
        {"bytes_pinned", now->kv_bytes_pinned},
        {"bytes_metadata", now->kv_bytes_metadata},
        {"queried_tokens", now->kv_queried_tokens},
        {"hit_tokens", now->kv_hit_tokens},
        {"evicted_blocks", now->kv_evicted_blocks},
        {"copied_blocks", now->kv_copied_blocks},
        {"bytes_swapped", now->kv_bytes_swapped},
        {"swaps_out", now->kv_swaps_out},
        {"swaps_in", now->kv_swaps_in},
        {"swap_copied_bytes", now->kv_swap_copied_bytes},
        {"most_bytes_offloaded", most->kv_bytes_offloaded},
        {"recalled_slices", now->kv_recalled_slices},
        {"read_slices", now->kv_read_slices},
    };
    for (size_t i = 0; i < ARRAY_COUNT(rows); i++)
        buffer_printf(out, ",\"%s\":%llu", rows[i].name, (unsigned long long)rows[i].value);
    buffer_printf(out, ",\"fetches_late\":%llu,\"tiers\":[", (unsigned long long)now->fetches_late);
    for (uint32_t t = 0; t < now->tier_count; t++) {
        const struct kvasir_tier_stats *tier = &now->tiers[t];
        buffer_printf(
            out,
            "%s{\"tier\":\"%s\",\"bytes\":%llu,\"tokens\":%llu,\"written_blocks\":%llu,\"written_bytes\":%llu,"
            "\"read_blocks\":%llu,\"read_bytes\":%llu,\"skipped_blocks\":%llu,\"refused_blocks\":%llu,"
            "\"missed_blocks\":%llu,\"bad_blocks\":%llu,\"read_s\":%.6f}",
            t ? "," : "", tier->name, (unsigned long long)tier->bytes, (unsigned long long)tier->tokens,
            (unsigned long long)tier->written_blocks, (unsigned long long)tier->written_bytes,
            (unsigned long long)tier->read_blocks, (unsigned long long)tier->read_bytes,
            (unsigned long long)tier->skipped_blocks, (unsigned long long)tier->refused_blocks,
            (unsigned long long)tier->missed_blocks, (unsigned long long)tier->bad_blocks, tier->read_s);
    }
    buffer_text(out, "]");
}
