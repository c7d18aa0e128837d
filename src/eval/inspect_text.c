/* inspect_text.c - the inspection for people: what it is, what the KV cache costs, tensors by format, metadata. */
#include "eval/inspect_internal.h"
#include <stdio.h>
#include <string.h>

/* "1.5 MiB" in at most 15 characters. */
static const char *human(uint64_t bytes, char text[16])
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    double value = (double)bytes;
    size_t unit = 0;
    for (; value >= 1024 && unit + 1 < ARRAY_COUNT(units); unit++) value /= 1024;
    snprintf(text, 16, unit && value < 100 ? "%.1f %s" : "%.0f %s", value, units[unit]);
    return text;
}

static const char *text_of(const struct inspection *in, const char *key)
{
    const char *text;
    size_t bytes;
    return format_get_text(in->format, key, &text, &bytes, NULL) == ST_OK ? text : "unknown";
}

/* Control bytes of names and values must not reach a terminal. */
static void mask_controls(struct buffer *out, size_t from)
{
    for (size_t i = from; i < out->length; i++)
        if (((unsigned char)out->data[i] < 32 && out->data[i] != '\n') || out->data[i] == 127) out->data[i] = '?';
}

static void write_model(const struct inspection *in, struct buffer *out)
{
    const struct model_config *c = &in->config;
    char size[16];
    buffer_printf(out, "model         %s\n", text_of(in, "general.name"));
    buffer_printf(out, "architecture  %s\n", text_of(in, "general.architecture"));
    buffer_printf(out, "file          %s, %s\n", format_kind(in->format) == FORMAT_GGUF ? "GGUF" : "Hugging Face",
                  human(format_file_bytes(in->format), size));
    buffer_printf(out, "parameters    %.1f million\n", (double)in->parameters / 1e6);
    if (in->why.text[0]) buffer_printf(out, "cannot run    %s\n", in->why.text);
    if (!in->known) return;
    buffer_printf(out, "context       %u tokens\n", c->context_length);
    buffer_printf(out, "layers        %u of %u values, feed-forward %u\n", c->layers, c->embedding, c->feed_forward);
    buffer_printf(out, "attention     %u heads, %u KV heads, K %u and V %u values a head\n", c->heads, c->kv_heads,
                  c->head_dim, c->value_dim);
    buffer_printf(out, "vocabulary    %u tokens\n", c->vocabulary);
}

static void write_formula(const struct inspection *in, struct buffer *out)
{
    buffer_text(
        out,
        "\nKV cache, bytes a token = layers x KV heads x (K + V values) x bytes a value, with its part of a scale\n");
    for (uint32_t k = 0; k < in->kind_count; k++) {
        const struct inspect_kind *kind = &in->kinds[k];
        const struct kv_layer *layer = &kind->layer;
        for (uint32_t f = 0; f < INSPECT_FORMAT_COUNT; f++) {
            uint64_t bytes = inspect_kind_bytes(kind, f);
            buffer_printf(out, "  %-8s %-13s  %u x %u x (%u + %u) x %g = %llu",
                          layer->kind == KV_SLIDING ? "sliding" : "full", INSPECT_FORMATS[f].name, kind->layers,
                          layer->kv_heads, layer->head_dim, layer->value_dim,
                          (double)bytes / layer->kv_heads / (layer->head_dim + layer->value_dim),
                          (unsigned long long)(kind->layers * bytes));
            if (layer->kind == KV_SLIDING) buffer_printf(out, ", for the last %u tokens", layer->window);
            buffer_text(out, "\n");
        }
    }
    buffer_printf(out, "  with --retrieval an index of what full layers keep: %llu more\n",
                  (unsigned long long)in->index_bytes_per_token);
}

static void write_table(const char *title, const uint64_t bytes[][INSPECT_ROWS], struct buffer *out)
{
    char size[16];
    buffer_printf(out, "\n%s\n%8s", title, "tokens");
    for (uint32_t f = 0; f < INSPECT_FORMAT_COUNT; f++) buffer_printf(out, "  %8s", INSPECT_FORMATS[f].name);
    buffer_text(out, "\n");
    for (uint32_t row = 0; row < INSPECT_ROWS; row++) {
        buffer_printf(out, "%7uK", 1u << row);
        for (uint32_t f = 0; f < INSPECT_FORMAT_COUNT; f++)
            buffer_printf(out, "  %*s", (int)most((uint32_t)strlen(INSPECT_FORMATS[f].name), 8),
                          human(bytes[f][row], size));
        buffer_text(out, "\n");
    }
}

static void write_tables(const struct inspection *in, struct buffer *out)
{
    char title[100];
    snprintf(title, sizeof title, "bytes of one sequence, in whole blocks of %u tokens", INSPECT_BLOCK_TOKENS);
    write_table(title, in->cached, out);
    if (in->policy) write_table("with the KV policy", in->with_policy, out);
    write_table("without a cache: one layer's K and V at a time", in->uncached, out);
}

static void write_tensors(const struct inspection *in, struct buffer *out)
{
    char size[16];
    buffer_printf(out, "\n%u tensors\n", format_tensor_count(in->format));
    for (uint32_t f = 0; f < NF_COUNT; f++) {
        const struct inspect_tensors *of = &in->tensors[f];
        if (!of->count) continue;
        buffer_printf(out, "  %-8s %5llu tensors  %14llu values  %10s\n",
                      number_format_info((enum number_format)f)->name, (unsigned long long)of->count,
                      (unsigned long long)of->elements, human(of->bytes, size));
    }
}

static void write_metadata(const struct inspection *in, struct buffer *out)
{
    struct buffer value;
    buffer_init(&value, 0);
    buffer_printf(out, "\n%u metadata values\n", format_key_count(in->format));
    for (uint32_t i = 0; i < format_key_count(in->format); i++) {
        value.length = 0;
        const char *key = format_key_at(in->format, i, &value);
        for (char *at = value.data; at && *at; at++)
            if (*at == '\n') *at = ' ';
        buffer_printf(out, "  %s = %s\n", key, value.length ? value.data : "");
    }
    if (value.failed) out->failed = true;
    buffer_release(&value);
}

enum status inspect_text(const struct inspection *in, struct buffer *out, struct error *error)
{
    size_t from = out->length;
    write_model(in, out);
    if (in->known) {
        write_formula(in, out);
        write_tables(in, out);
    }
    write_tensors(in, out);
    write_metadata(in, out);
    if (!out->failed) mask_controls(out, from);
    return report_done(out, error);
}
