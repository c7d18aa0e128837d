/* provenance.c - a digest of all that a token's K and V depend on beside the tokens before it. It is part of every key of the
 * prefix index and of every saved sequence, so that rows are never given to a model, a build or a setting that would have
 * computed others:
 *
 *   the model file    size, metadata, and of each tensor its name, format, shape and some of its bytes
 *   how it is run     rope's frequencies, the kernels (instruction set), the version of the arithmetic
 *   the cache         of each layer its shape, formats and policy, head by head, and whether it has an index
 *
 * Not in it, because rows do not depend on them: threads, chunks, block size, budget. Reading all of a model would take as
 * long as loading it; two checkpoints of one family differ in every tensor, so that SAMPLES places of each tell them apart. */
#include "engine/engine_internal.h"
#include <openssl/sha.h>
#include <string.h>

/* To be raised by whoever changes what any kernel or the forward pass computes, be it by one bit, or how it lies in a block. */
#define NUMERICS_VERSION 6u

#define SAMPLES 5u
#define SAMPLE_BYTES 64u

static enum status digest(struct buffer *bytes, unsigned char out[KV_KEY_BYTES])
{
    bool failed = bytes->failed;
    if (!failed) SHA256((const unsigned char *)bytes->data, bytes->length, out);
    buffer_release(bytes);
    return failed ? ST_NOMEM : ST_OK;
}

static void add_u64(struct buffer *out, uint64_t value)
{
    buffer_append(out, &value, sizeof value);
}

static void add_tensor(const struct format *format, const struct format_tensor *tensor, struct buffer *out)
{
    buffer_append(out, tensor->name, strlen(tensor->name) + 1);
    add_u64(out, tensor->format);
    for (uint32_t d = 0; d < tensor->dimensions; d++) add_u64(out, tensor->shape[d]);
    add_u64(out, tensor->bytes);
    uint64_t sample = tensor->bytes < SAMPLE_BYTES ? tensor->bytes : SAMPLE_BYTES;
    for (uint32_t i = 0; i < SAMPLES; i++)
        buffer_append(out, (const char *)tensor->data + (tensor->bytes - sample) / (SAMPLES - 1) * i, sample);
    format_tensor_drop(format, tensor);
}

enum status model_fingerprint(const struct format *format, unsigned char out[KV_KEY_BYTES])
{
    struct buffer bytes, value;
    buffer_init(&bytes, 0);
    buffer_init(&value, 0);
    add_u64(&bytes, format_file_bytes(format));
    for (uint32_t i = 0; i < format_key_count(format); i++) {
        value.length = 0;
        const char *key = format_key_at(format, i, &value);
        buffer_append(&bytes, key, strlen(key) + 1);
        add_u64(&bytes, value.length);
        buffer_append(&bytes, value.data, value.length);
    }
    bytes.failed |= value.failed;
    buffer_release(&value);
    for (uint32_t i = 0; i < format_tensor_count(format); i++) add_tensor(format, format_tensor_at(format, i), &bytes);
    return digest(&bytes, out);
}

static void add_reach(struct buffer *out, enum kv_layer_kind kind, uint32_t window, uint32_t sinks)
{
    add_u64(out, kind);
    add_u64(out, window);
    add_u64(out, sinks);
}

enum status engine_provenance(const struct kvasir_model *model, const struct kv_config *kv,
                              unsigned char out[KV_KEY_BYTES])
{
    const struct model_config *c = model_config(model->model);
    struct buffer bytes;
    buffer_init(&bytes, 0);
    add_u64(&bytes, NUMERICS_VERSION);
    buffer_append(&bytes, model->fingerprint, sizeof model->fingerprint);
    buffer_text(&bytes, model->kernel->name);
    for (int kind = 0; kind < 2; kind++)
        buffer_append(&bytes, c->rope_frequencies[kind], c->rope_dimensions / 2 * sizeof *c->rope_frequencies[kind]);
    for (uint32_t i = 0; i < kv->layer_count; i++) {
        const struct kv_layer *layer = &kv->layers[i];
        const uint32_t shape[] = {layer->source,   layer->kv_heads, layer->head_dim, layer->value_dim,
                                  layer->k_format, layer->v_format, layer->index};
        buffer_append(&bytes, shape, sizeof shape);
        add_reach(&bytes, layer->kind, layer->window, layer->sinks);
        for (uint32_t h = 0; layer->heads && h < layer->kv_heads; h++)
            add_reach(&bytes, layer->heads[h].kind, layer->heads[h].window, layer->heads[h].sinks);
    }
    return digest(&bytes, out);
}
