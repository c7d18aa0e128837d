/* safetensors.c - one mapped safetensors file: header and tensors, from hostile bytes.
 *
 *   header length u64 | JSON {"name": {"dtype": "BF16", "shape": [rows, columns], "data_offsets": [begin, end]}, …,
 *   "__metadata__": {…}} | data, which the offsets count from and must fill without gap or overlap
 *
 * Does not look at __metadata__. Source: the format description in the safetensors repository's README. */
#include "format/format_internal.h"
#include <stdlib.h>
#include <string.h>

/* A tensor's JSON has 2 objects' worth of separators: some 16. */
#define VALUES_PER_TENSOR 20u

struct entry {
    const char *name; /* the JSON's */
    const json_t *json;
    uint64_t begin, end;
};

static enum status number_format_of(const char *name, const json_t *dtype, enum number_format *out, struct error *error)
{
    static const struct {
        const char *dtype;
        enum number_format format;
    } known[] = {{"F32", NF_F32}, {"F16", NF_F16}, {"BF16", NF_BF16}};
    if (!json_is_string(dtype)) return error_set(error, ST_INVALID, "tensor '%s' has no dtype", name);
    for (size_t i = 0; i < ARRAY_COUNT(known); i++) {
        if (strcmp(json_string_value(dtype), known[i].dtype) == 0) {
            *out = known[i].format;
            return ST_OK;
        }
    }
    return error_set(error, ST_UNSUPPORTED,
                     "tensor '%s' is kept as %.40s, which Kvasir does not read (F32, F16 and BF16 are)", name,
                     json_string_value(dtype));
}

/* A JSON integer from 0. */
static bool count_of(const json_t *json, uint64_t *out)
{
    if (!json_is_integer(json) || json_integer_value(json) < 0) return false;
    *out = (uint64_t)json_integer_value(json);
    return true;
}

static enum status read_entry(const char *name, const json_t *json, struct entry *entry, struct error *error)
{
    const json_t *offsets = json_object_get(json, "data_offsets");
    *entry = (struct entry){.name = name, .json = json};
    if (!format_name_valid(name, strlen(name), FORMAT_NAME_BYTES_MAX))
        return error_set(error, ST_INVALID, "a tensor's name (%zu bytes) is empty, too long or not printable",
                         strlen(name));
    if (!json_is_array(offsets) || json_array_size(offsets) != 2 ||
        !count_of(json_array_get(offsets, 0), &entry->begin) || !count_of(json_array_get(offsets, 1), &entry->end) ||
        entry->end < entry->begin)
        return error_set(error, ST_INVALID, "tensor '%s' has no valid data_offsets", name);
    return ST_OK;
}

static enum status add_tensor(struct format *format, uint32_t part, const struct entry *entry, uint64_t data,
                              bool sandwich_norms, struct error *error)
{
    const json_t *shape = json_object_get(entry->json, "shape");
    char name[FORMAT_NAME_BYTES_MAX + 1];
    struct format_tensor tensor = {.name = name};
    hugging_face_tensor_name(sandwich_norms, entry->name, name);
    enum status status = number_format_of(entry->name, json_object_get(entry->json, "dtype"), &tensor.format, error);
    if (status != ST_OK) return status;
    if (!json_is_array(shape) || json_array_size(shape) > FORMAT_DIMENSIONS_MAX)
        return error_set(error, ST_INVALID, "tensor '%s' has no shape of at most %u dimensions", entry->name,
                         FORMAT_DIMENSIONS_MAX);
    for (size_t i = 0; i < json_array_size(shape); i++) {
        if (!count_of(json_array_get(shape, i), &tensor.shape[i]))
            return error_set(error, ST_INVALID, "tensor '%s' has a shape that is not of whole numbers from 0",
                             entry->name);
    }
    tensor.dimensions = (uint32_t)json_array_size(shape);
    if (tensor.dimensions == 0) tensor.dimensions = 1, tensor.shape[0] = 1; /* a single number */
    status =
        format_tensor_add(format, &tensor, part, data + entry->begin, error); /* begin <= the file's size: checked */
    if (status != ST_OK) return status;
    const struct format_tensor *added = &format->tensors[format->tensor_count - 1];
    if (added->bytes != entry->end - entry->begin)
        return error_set(error, ST_INVALID, "tensor '%s' has %llu bytes by its shape, %llu by its data_offsets",
                         entry->name, (unsigned long long)added->bytes,
                         (unsigned long long)(entry->end - entry->begin));
    return ST_OK;
}

static int by_begin(const void *a, const void *b)
{
    const struct entry *x = a, *y = b;
    return x->begin != y->begin ? (x->begin < y->begin ? -1 : 1) : (x->end > y->end) - (x->end < y->end);
}

/* The entries in file order must cover [0, data_bytes) exactly. */
static enum status check_places(struct entry *entries, size_t count, uint64_t data_bytes, struct error *error)
{
    uint64_t at = 0;
    qsort(entries, count, sizeof *entries, by_begin);
    for (size_t i = 0; i < count; i++) {
        if (entries[i].begin < at) return error_set(error, ST_INVALID, "tensor '%s' overlaps another", entries[i].name);
        if (entries[i].begin > at)
            return error_set(error, ST_INVALID, "a gap of %llu bytes before tensor '%s'",
                             (unsigned long long)(entries[i].begin - at), entries[i].name);
        at = entries[i].end;
    }
    if (at != data_bytes)
        return error_set(error, ST_INVALID,
                         "the tensors end at byte %llu of %llu: the file is damaged or its download is incomplete",
                         (unsigned long long)at, (unsigned long long)data_bytes);
    return ST_OK;
}

static enum status read_tensors(struct format *format, uint32_t part, json_t *header, uint64_t data,
                                bool sandwich_norms, struct error *error)
{
    struct entry *entries = mem_alloc(json_object_size(header) * sizeof *entries + 1);
    if (!entries) return error_set(error, ST_NOMEM, "not enough memory for the list of tensors");
    size_t count = 0;
    const char *name;
    json_t *json;
    enum status status = ST_OK;
    json_object_foreach(header, name, json)
    {
        if (strcmp(name, "__metadata__") == 0) continue;
        status = read_entry(name, json, &entries[count++], error);
        if (status != ST_OK) goto done;
    }
    status = check_places(entries, count, format->parts[part].map.bytes - data, error);
    for (size_t i = 0; i < count && status == ST_OK; i++)
        status = add_tensor(format, part, &entries[i], data, sandwich_norms, error);
done:
    mem_free(entries);
    return status;
}

enum status safetensors_read(struct format *format, uint32_t part, bool sandwich_norms, struct error *error)
{
    const struct file_map *map = &format->parts[part].map;
    uint64_t bytes;
    if (map->bytes < sizeof bytes) return error_set(error, ST_INVALID, "too short for a safetensors file");
    memcpy(&bytes, map->data, sizeof bytes);
    if (bytes > FORMAT_HEADER_BYTES_MAX)
        return error_set(error, ST_INVALID,
                         "not a safetensors file: a header of %llu bytes (at most %llu are possible)",
                         (unsigned long long)bytes, (unsigned long long)FORMAT_HEADER_BYTES_MAX);
    if (bytes > map->bytes - sizeof bytes)
        return error_set(error, ST_INVALID, "the file ends inside its header of %llu bytes: its download is incomplete",
                         (unsigned long long)bytes);
    json_t *header;
    enum status status = json_read(map->data + sizeof bytes, (size_t)bytes,
                                   (uint64_t)VALUES_PER_TENSOR * (FORMAT_TENSORS_MAX / 4), &header, error);
    if (status != ST_OK) {
        error_prefix(error, "safetensors header");
        return status;
    }
    status = read_tensors(format, part, header, sizeof bytes + bytes, sandwich_norms, error);
    json_decref(header);
    return status;
}
