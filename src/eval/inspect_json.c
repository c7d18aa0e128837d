/* inspect_json.c - the inspection as one JSON object. Keys are stable; what is not known is null.
 *
 * Building never checks step by step: jansson's setters pass a NULL on as a failure, which `failed` collects. */
#include "eval/inspect_internal.h"
#include <string.h>

static void set(json_t *object, const char *key, json_t *value, bool *failed)
{
    if (json_object_set_new(object, key, value) != 0) *failed = true;
}

static void append(json_t *array, json_t *value, bool *failed)
{
    if (json_array_append_new(array, value) != 0) *failed = true;
}

static json_t *number(uint64_t value)
{
    return json_integer((json_int_t)value);
}

/* Outside bytes need not be UTF-8: what is not is shown as "?". */
static json_t *text(const char *bytes)
{
    struct buffer clean;
    buffer_init(&clean, 0);
    for (size_t at = 0, left = strlen(bytes); left;) {
        uint32_t code_point, length = utf8_decode(bytes + at, left, &code_point, NULL);
        buffer_append(&clean, length ? bytes + at : "?", length ? length : 1);
        at += length ? length : 1;
        left -= length ? length : 1;
    }
    json_t *value = clean.failed ? NULL : json_string(clean.data ? clean.data : "");
    buffer_release(&clean);
    return value;
}

/* {"f32": …, "f16": …} of values[format]. */
static json_t *by_format(const uint64_t *values, bool *failed)
{
    json_t *object = json_object();
    for (uint32_t f = 0; f < INSPECT_FORMAT_COUNT; f++) set(object, INSPECT_FORMATS[f].name, number(values[f]), failed);
    return object;
}

/* ---- parts --------------------------------------------------------------------------------------------------------- */

static json_t *shape_of(const struct format_tensor *tensor, bool *failed)
{
    json_t *shape = json_array();
    for (uint32_t d = 0; d < tensor->dimensions; d++) append(shape, number(tensor->shape[d]), failed);
    return shape;
}

static json_t *tensors(const struct inspection *in, bool *failed)
{
    json_t *object = json_object(), *formats = json_object(), *list = json_array();
    for (uint32_t f = 0; f < NF_COUNT; f++) {
        const struct inspect_tensors *of = &in->tensors[f];
        if (!of->count) continue;
        json_t *row = json_object();
        set(row, "tensors", number(of->count), failed);
        set(row, "elements", number(of->elements), failed);
        set(row, "bytes", number(of->bytes), failed);
        set(formats, number_format_info((enum number_format)f)->name, row, failed);
    }
    for (uint32_t i = 0; i < format_tensor_count(in->format); i++) {
        const struct format_tensor *tensor = format_tensor_at(in->format, i);
        json_t *row = json_object();
        set(row, "name", text(tensor->name), failed);
        set(row, "format", json_string(number_format_info(tensor->format)->name), failed);
        set(row, "shape", shape_of(tensor, failed), failed);
        set(row, "bytes", number(tensor->bytes), failed);
        append(list, row, failed);
    }
    set(object, "count", number(format_tensor_count(in->format)), failed);
    set(object, "by_format", formats, failed);
    set(object, "list", list, failed);
    return object;
}

static json_t *kinds(const struct inspection *in, bool *failed)
{
    json_t *list = json_array();
    for (uint32_t k = 0; k < in->kind_count; k++) {
        const struct inspect_kind *kind = &in->kinds[k];
        uint64_t bytes[INSPECT_FORMAT_COUNT];
        for (uint32_t f = 0; f < INSPECT_FORMAT_COUNT; f++) bytes[f] = inspect_kind_bytes(kind, f);
        bool slides = kind->layer.kind == KV_SLIDING;
        json_t *row = json_object();
        set(row, "kind", json_string(slides ? "sliding" : "full"), failed);
        set(row, "layers", number(kind->layers), failed);
        set(row, "window", slides ? number(kind->layer.window) : json_null(), failed);
        set(row, "kv_heads", number(kind->layer.kv_heads), failed);
        set(row, "head_dim", number(kind->layer.head_dim), failed);
        set(row, "value_dim", number(kind->layer.value_dim), failed);
        set(row, "bytes_per_token_per_layer", by_format(bytes, failed), failed);
        append(list, row, failed);
    }
    return list;
}

static json_t *table(const struct inspection *in, bool *failed)
{
    json_t *list = json_array();
    for (uint32_t row = 0; row < INSPECT_ROWS; row++) {
        uint64_t cached[INSPECT_FORMAT_COUNT], uncached[INSPECT_FORMAT_COUNT], with_policy[INSPECT_FORMAT_COUNT];
        for (uint32_t f = 0; f < INSPECT_FORMAT_COUNT; f++) {
            cached[f] = in->cached[f][row];
            uncached[f] = in->uncached[f][row];
            with_policy[f] = in->with_policy[f][row];
        }
        json_t *line = json_object();
        set(line, "tokens", number(1024u << row), failed);
        set(line, "bytes", by_format(cached, failed), failed);
        set(line, "bytes_without_cache", by_format(uncached, failed), failed);
        if (in->policy) set(line, "bytes_with_policy", by_format(with_policy, failed), failed);
        append(list, line, failed);
    }
    return list;
}

static json_t *cache(const struct inspection *in, bool *failed)
{
    if (!in->known) return json_null();
    json_t *object = json_object();
    set(object, "bytes_per_token", by_format(in->bytes_per_token, failed), failed);
    set(object, "index_bytes_per_token", json_integer((json_int_t)in->index_bytes_per_token), failed);
    set(object, "formula",
        json_string(
            "sum over layers of kv_heads * (head_dim + value_dim) * bytes per value, with the scales of small formats"),
        failed);
    set(object, "block_tokens", number(INSPECT_BLOCK_TOKENS), failed);
    set(object, "layer_kinds", kinds(in, failed), failed);
    set(object, "table", table(in, failed), failed);
    return object;
}

static json_t *metadata(const struct inspection *in, bool *failed)
{
    json_t *object = json_object();
    struct buffer value;
    buffer_init(&value, 0);
    for (uint32_t i = 0; i < format_key_count(in->format); i++) {
        value.length = 0;
        const char *key = format_key_at(in->format, i, &value);
        json_t *name = text(key);
        if (!name || value.failed)
            *failed = true;
        else
            set(object, json_string_value(name), text(value.length ? value.data : ""), failed);
        json_decref(name);
    }
    buffer_release(&value);
    return object;
}

static json_t *text_value(const struct inspection *in, const char *key)
{
    const char *value;
    size_t bytes;
    return format_get_text(in->format, key, &value, &bytes, NULL) == ST_OK ? text(value) : json_null();
}

enum status inspect_json(const struct inspection *in, struct buffer *out, struct error *error)
{
    const struct model_config *c = &in->config;
    const struct {
        const char *key;
        uint32_t value;
    } sizes[] = {
        {"context_length", c->context_length},
        {"layers", c->layers},
        {"embedding", c->embedding},
        {"heads", c->heads},
        {"kv_heads", c->kv_heads},
        {"head_dim", c->head_dim},
        {"value_dim", c->value_dim},
        {"feed_forward", c->feed_forward},
        {"vocabulary", c->vocabulary},
    };
    bool failed = false;
    json_t *object = json_object();
    set(object, "architecture", text_value(in, "general.architecture"), &failed);
    set(object, "name", text_value(in, "general.name"), &failed);
    set(object, "kind", json_string(format_kind(in->format) == FORMAT_GGUF ? "gguf" : "hugging_face"), &failed);
    set(object, "file_bytes", number(format_file_bytes(in->format)), &failed);
    set(object, "parameters", number(in->parameters), &failed);
    set(object, "runs", json_boolean(!in->why.text[0]), &failed);
    set(object, "reason", in->why.text[0] ? text(in->why.text) : json_null(), &failed);
    for (size_t i = 0; i < ARRAY_COUNT(sizes); i++)
        set(object, sizes[i].key, in->known ? number(sizes[i].value) : json_null(), &failed);
    set(object, "window", c->window ? number(c->window) : json_null(), &failed);
    set(object, "kv", cache(in, &failed), &failed);
    set(object, "tensors", tensors(in, &failed), &failed);
    set(object, "metadata", metadata(in, &failed), &failed);
    if (!failed) return report_json(object, out, error);
    json_decref(object);
    return report_json(NULL, out, error);
}
