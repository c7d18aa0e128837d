/* cache_options.c - what the command line says of the KV cache, as the engine and the evaluations take it. */
#include "cli/cli.h"
#include <string.h>

#define POLICY_BYTES_MAX (4u << 20)

/* What -ctk, -ctv and --kv-cache-dtype name together. */
static enum status dtype_text(const struct options *options, char **out, struct error *error)
{
    const char *k = options->cache_type_k, *v = options->cache_type_v;
    const char *both = options->kv_cache_dtype ? options->kv_cache_dtype : "auto"; /* inspect shows them all */
    struct buffer text;
    buffer_init(&text, 0);
    if ((k || v) && strchr(both, '='))
        return error_set(error, ST_INVALID, "--kv-cache-dtype %s already names K and V: leave out -ctk and -ctv", both);
    if (k || v)
        buffer_printf(&text, "k=%s,v=%s", k ? k : both, v ? v : both);
    else
        buffer_text(&text, both);
    *out = buffer_take(&text);
    return *out ? ST_OK : error_set(error, ST_NOMEM, "not enough memory for the command line");
}

/* A number that was given: the library's 0 is its default. */
static uint32_t stated(const struct options *options, const char *name, int64_t value)
{
    if (!options_given(options, name)) return 0;
    return value ? (uint32_t)value : KVASIR_RETRIEVAL_NONE;
}

static struct kvasir_retrieval retrieval_read(const struct options *o)
{
    struct kvasir_retrieval off = {0};
    if (!o->retrieval) return off; /* a command without it */
    return (struct kvasir_retrieval){
        .mode = strcmp(o->retrieval, "on") == 0     ? KVASIR_RETRIEVAL_ON
                : strcmp(o->retrieval, "auto") == 0 ? KVASIR_RETRIEVAL_AUTO
                                                    : KVASIR_RETRIEVAL_OFF,
        .initial_tokens = stated(o, "retrieval-init-tokens", o->retrieval_initial),
        .local_tokens = (uint32_t)o->retrieval_local,
        .topk = o->retrieval_topk,
        .dense_boundary = stated(o, "retrieval-dense-boundary", o->retrieval_dense_boundary),
        .offload_boundary = stated(o, "retrieval-offload-boundary", o->retrieval_offload_boundary),
        .dense_layers = stated(o, "retrieval-dense-layers", o->retrieval_dense_layers)};
}

enum status cache_options_read(const struct options *options, struct cache_options *out, struct error *error)
{
    *out = (struct cache_options){0};
    struct buffer policy;
    enum status status = dtype_text(options, &out->dtype, error);
    if (status == ST_OK && options->kv_policy) {
        status = file_read(options->kv_policy, POLICY_BYTES_MAX, &policy, error);
        if (status == ST_OK) out->policy = buffer_take(&policy);
    }
    if (status != ST_OK) {
        cache_options_release(out);
        return status;
    }
    out->engine = (struct kvasir_engine_options){.context = (uint32_t)options->context,
                                                 .kv_cache_bytes = options->kv_cache_bytes,
                                                 .swap_bytes = options->swap_bytes,
                                                 .kv_disk = options->kv_disk,
                                                 .kv_remote = options->kv_remote,
                                                 .kv_disk_bytes = options->kv_disk_bytes,
                                                 .block_size = (uint32_t)options->block_size,
                                                 .kv_cache_dtype = out->dtype,
                                                 .kv_policy = out->policy,
                                                 .retrieval = retrieval_read(options),
                                                 .no_kv_cache = options->no_kv_cache,
                                                 .max_batched_tokens = (uint32_t)options->max_batched_tokens,
                                                 .max_sequences = (uint32_t)options->max_sequences,
                                                 .draft_tokens = (uint32_t)options->draft_max,
                                                 .no_drafts = options->draft_max == 0,
                                                 .max_step_s = options->max_step_ms / 1e3,
                                                 .kv_reserve = options->kv_reserve};
    return ST_OK;
}

void cache_options_release(struct cache_options *options)
{
    mem_free(options->dtype);
    mem_free(options->policy);
    *options = (struct cache_options){0};
}
