/* cache_options.c - what the command line says of the KV cache, as the engine and the evaluations take it. */
#include "cli/cli.h"
#include <string.h>

/* What -ctk, -ctv and --kv-cache-dtype name together. */
static enum status dtype_text(const struct options *options, char **out, struct error *error)
{
    const char *both = options->kv_cache_dtype, *k = options->cache_type_k, *v = options->cache_type_v;
    const char *other = strcmp(both, "auto") ? both : "f16";
    struct buffer text;
    buffer_init(&text, 0);
    if ((k || v) && strchr(both, '='))
        return error_set(error, ST_INVALID, "--kv-cache-dtype %s already names K and V: leave out -ctk and -ctv", both);
    if (k || v)
        buffer_printf(&text, "k=%s,v=%s", k ? k : other, v ? v : other);
    else
        buffer_text(&text, both);
    *out = buffer_take(&text);
    return *out ? ST_OK : error_set(error, ST_NOMEM, "not enough memory for the command line");
}

enum status cache_options_read(const struct options *options, struct cache_options *out, struct error *error)
{
    *out = (struct cache_options){0};
    enum status status = dtype_text(options, &out->dtype, error);
    if (status != ST_OK) return status;
    out->engine = (struct kvasir_engine_options){.context = (uint32_t)options->context,
                                                 .kv_cache_bytes = options->kv_cache_bytes,
                                                 .block_size = (uint32_t)options->block_size,
                                                 .kv_cache_dtype = out->dtype,
                                                 .no_kv_cache = options->no_kv_cache,
                                                 .max_batched_tokens = (uint32_t)options->max_batched_tokens};
    return ST_OK;
}

void cache_options_release(struct cache_options *options)
{
    mem_free(options->dtype);
    *options = (struct cache_options){0};
}
