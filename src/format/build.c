/* build.c - filling an opened model: parts, values, tensors, and the checks that hold for every file kind.
 *
 * Invariants: a tensor is appended only when its shape, byte count and place in its part are proved; format_finish is
 * called once, last. It does not parse anything. */
#include "format/format_internal.h"
#include <stdlib.h>
#include <string.h>

#define TEXT_LENGTH_BYTES 8u /* of a text's length field in a GGUF file: between the texts of an array */

/* Makes room for one more item in a growing array; `limit` is the stated maximum. */
static enum status grow(void **items, size_t item_bytes, uint32_t count, uint32_t *capacity)
{
    if (count < *capacity) return ST_OK;
    uint32_t larger = *capacity ? *capacity * 2 : 64;
    void *block = mem_resize(*items, (size_t)larger * item_bytes);
    if (!block) return ST_NOMEM;
    *items = block;
    *capacity = larger;
    return ST_OK;
}

enum status format_part_add(struct format *format, const char *path, uint32_t *part, struct error *error)
{
    if (format->part_count == FORMAT_PARTS_MAX)
        return error_set(error, ST_LIMIT, "the model has more than %u files", FORMAT_PARTS_MAX);
    if (grow((void **)&format->parts, sizeof *format->parts, format->part_count, &format->part_capacity) != ST_OK)
        return error_set(error, ST_NOMEM, "%s: not enough memory to open it", path);
    struct format_part *added = &format->parts[format->part_count];
    *added = (struct format_part){.path = mem_strndup(path, strlen(path))};
    if (!added->path) return error_set(error, ST_NOMEM, "%s: not enough memory to open it", path);
    enum status status = file_map_open(path, &added->map, error);
    if (status != ST_OK) {
        mem_free(added->path);
        return status;
    }
    *part = format->part_count++;
    return ST_OK;
}

/* ---- values ---- */

bool format_name_valid(const void *name, uint64_t bytes, uint64_t bytes_max)
{
    const unsigned char *at = name;
    if (bytes == 0 || bytes > bytes_max) return false;
    for (uint64_t i = 0; i < bytes; i++) {
        if (at[i] < 0x20 || at[i] > 0x7e) return false;
    }
    return true;
}

struct format_value *format_value_add(struct format *format, const void *key, size_t key_bytes, struct error *error)
{
    struct format_value *value = NULL;
    if (format->value_count == FORMAT_KEYS_MAX) {
        (void)error_set(error, ST_LIMIT, "more than %u metadata keys", FORMAT_KEYS_MAX);
        return NULL;
    }
    const char *copy = arena_strndup(&format->arena, key, key_bytes);
    if (copy && grow((void **)&format->values, sizeof *value, format->value_count, &format->value_capacity) == ST_OK) {
        value = &format->values[format->value_count++];
        *value = (struct format_value){.key = copy};
    } else {
        (void)error_set(error, ST_NOMEM, "not enough memory for the metadata");
    }
    return value;
}

/* Adds a value of `type`; *out is NULL when `error` (and the status) says why not. */
static enum status value_new(struct format *format, const char *key, enum value_type type, struct format_value **out,
                             struct error *error)
{
    struct error local = {0};
    struct error *reason = error ? error : &local;
    *out = format_value_add(format, key, strlen(key), reason);
    if (!*out) return reason->status;
    (*out)->type = type;
    return ST_OK;
}

enum status format_set_u64(struct format *format, const char *key, uint64_t value, struct error *error)
{
    struct format_value *added;
    enum status status = value_new(format, key, VALUE_U64, &added, error);
    if (status == ST_OK) added->u64 = value;
    return status;
}

enum status format_set_f64(struct format *format, const char *key, double value, struct error *error)
{
    struct format_value *added;
    enum status status = value_new(format, key, VALUE_F64, &added, error);
    if (status == ST_OK) added->f64 = value;
    return status;
}

enum status format_set_bool(struct format *format, const char *key, bool value, struct error *error)
{
    struct format_value *added;
    enum status status = value_new(format, key, VALUE_BOOL, &added, error);
    if (status == ST_OK) added->u64 = value;
    return status;
}

enum status format_set_text(struct format *format, const char *key, const void *text, size_t bytes, struct error *error)
{
    struct format_value *added;
    enum status status = value_new(format, key, VALUE_TEXT, &added, error);
    if (status != ST_OK) return status;
    added->data = (const unsigned char *)arena_strndup(&format->arena, text, bytes);
    added->count = bytes;
    return added->data ? ST_OK : error_set(error, ST_NOMEM, "not enough memory for the metadata");
}

/* An array of `count` items in file layout, copied. */
static enum status set_items(struct format *format, const char *key, enum value_type item_type, const void *items,
                             uint64_t count, struct error *error)
{
    struct format_value *added;
    enum status status = value_new(format, key, VALUE_ARRAY, &added, error);
    if (status != ST_OK) return status;
    added->item_type = item_type;
    added->count = count;
    added->data = (const unsigned char *)arena_strndup(&format->arena, items, count * value_type_bytes(item_type));
    return added->data ? ST_OK : error_set(error, ST_NOMEM, "not enough memory for the metadata");
}

enum status format_set_bools(struct format *format, const char *key, const unsigned char *items, uint64_t count,
                             struct error *error)
{
    return set_items(format, key, VALUE_BOOL, items, count, error);
}

enum status format_set_u8s(struct format *format, const char *key, const uint8_t *items, uint64_t count,
                           struct error *error)
{
    return set_items(format, key, VALUE_U8, items, count, error);
}

enum status format_set_u32s(struct format *format, const char *key, const uint32_t *items, uint64_t count,
                            struct error *error)
{
    return set_items(format, key, VALUE_U32, items, count, error);
}

enum status format_set_texts(struct format *format, const char *key, const struct format_text *texts, uint64_t count,
                             struct error *error)
{
    struct format_value *added;
    uint64_t bytes = 0;
    for (uint64_t i = 0; i < count; i++) bytes += texts[i].bytes + TEXT_LENGTH_BYTES;
    if (count >= FORMAT_TEXT_ITEMS_MAX - format->text_items || bytes >= UINT32_MAX)
        return error_set(error, ST_LIMIT, "'%s' has too many texts", key);
    enum status status = value_new(format, key, VALUE_ARRAY, &added, error);
    if (status != ST_OK) return status;
    char *data = arena_alloc(&format->arena, bytes + 1);
    uint32_t *offsets = arena_alloc(&format->arena, (count + 1) * sizeof *offsets), at = 0;
    if (!data || !offsets) return error_set(error, ST_NOMEM, "not enough memory for the metadata");
    for (uint64_t i = 0; i < count; i++) {
        offsets[i] = at;
        memcpy(data + at, texts[i].text, texts[i].bytes);
        memset(data + at + texts[i].bytes, 0, TEXT_LENGTH_BYTES);
        at += (uint32_t)(texts[i].bytes + TEXT_LENGTH_BYTES);
    }
    offsets[count] = at;
    format->text_items += count;
    added->item_type = VALUE_TEXT;
    added->count = count;
    added->data = (const unsigned char *)data;
    added->offsets = offsets;
    return ST_OK;
}

/* ---- tensors ---- */

/* Elements and bytes of a tensor from its shape and format, every product checked. */
static enum status tensor_measure(struct format_tensor *tensor, struct error *error)
{
    const struct number_format_info *info = number_format_info(tensor->format);
    ASSERT(tensor->dimensions >= 1 && tensor->dimensions <= FORMAT_DIMENSIONS_MAX);
    tensor->elements = 1;
    for (uint32_t i = 0; i < FORMAT_DIMENSIONS_MAX; i++) {
        if (i >= tensor->dimensions) tensor->shape[i] = 1;
        if (tensor->shape[i] == 0)
            return error_set(error, ST_INVALID, "tensor '%s' has a dimension of size 0", tensor->name);
        if (!checked_mul(tensor->elements, tensor->shape[i], &tensor->elements))
            return error_set(error, ST_INVALID, "tensor '%s' has more elements than 64 bits can count", tensor->name);
    }
    uint64_t columns = tensor->shape[tensor->dimensions - 1];
    if (columns % info->block_elements != 0)
        return error_set(error, ST_INVALID,
                         "tensor '%s' has rows of %llu elements, not a whole number of %s's blocks of %u", tensor->name,
                         (unsigned long long)columns, info->name, info->block_elements);
    tensor->bytes = number_format_bytes(tensor->format, tensor->elements);
    if (tensor->bytes == 0)
        return error_set(error, ST_INVALID, "tensor '%s' is larger than 64 bits can count", tensor->name);
    return ST_OK;
}

static enum status tensor_room(struct format *format)
{
    uint32_t capacity = format->tensor_capacity;
    if (grow((void **)&format->tensor_parts, sizeof *format->tensor_parts, format->tensor_count, &capacity) != ST_OK)
        return ST_NOMEM;
    return grow((void **)&format->tensors, sizeof *format->tensors, format->tensor_count, &format->tensor_capacity);
}

enum status format_tensor_add(struct format *format, const struct format_tensor *tensor, uint32_t part, uint64_t offset,
                              struct error *error)
{
    const struct file_map *map = &format->parts[part].map;
    struct format_tensor added = *tensor;
    enum status status = tensor_measure(&added, error);
    if (status != ST_OK) return status;
    uint64_t end;
    if (!checked_add(offset, added.bytes, &end) || end > map->bytes)
        return error_set(
            error, ST_INVALID,
            "tensor '%s' (%llu bytes at offset %llu) does not lie inside the file of %llu bytes: the file is "
            "damaged or its download is incomplete",
            added.name, (unsigned long long)added.bytes, (unsigned long long)offset, (unsigned long long)map->bytes);
    if (format->tensor_count == FORMAT_TENSORS_MAX)
        return error_set(error, ST_LIMIT, "more than %u tensors", FORMAT_TENSORS_MAX);
    added.data = map->data + offset;
    added.name = arena_strndup(&format->arena, tensor->name, strlen(tensor->name));
    if (!added.name || tensor_room(format) != ST_OK)
        return error_set(error, ST_NOMEM, "not enough memory for the list of tensors");
    format->tensors[format->tensor_count] = added;
    format->tensor_parts[format->tensor_count++] = part;
    return ST_OK;
}

/* ---- the last checks ---- */

static int by_key(const void *a, const void *b, void *format)
{
    const struct format_value *values = ((const struct format *)format)->values;
    return strcmp(values[*(const uint32_t *)a].key, values[*(const uint32_t *)b].key);
}

static int by_name(const void *a, const void *b, void *format)
{
    const struct format_tensor *tensors = ((const struct format *)format)->tensors;
    return strcmp(tensors[*(const uint32_t *)a].name, tensors[*(const uint32_t *)b].name);
}

static int by_place(const void *a, const void *b, void *format)
{
    const struct format_tensor *tensors = ((const struct format *)format)->tensors;
    uintptr_t x = (uintptr_t)tensors[*(const uint32_t *)a].data, y = (uintptr_t)tensors[*(const uint32_t *)b].data;
    return x < y ? -1 : x > y;
}

/* The indices 0 … count - 1 in the order of `compare`; NULL when there is no memory. */
static uint32_t *sorted(struct format *format, uint32_t count, int (*compare)(const void *, const void *, void *))
{
    uint32_t *order = mem_alloc((size_t)count * sizeof *order + 1);
    if (!order) return NULL;
    for (uint32_t i = 0; i < count; i++) order[i] = i;
    qsort_r(order, count, sizeof *order, compare, format);
    return order;
}

static enum status refuse_overlaps(struct format *format, struct error *error)
{
    uint32_t *order = sorted(format, format->tensor_count, by_place);
    if (!order) return error_set(error, ST_NOMEM, "not enough memory for the list of tensors");
    enum status status = ST_OK;
    for (uint32_t i = 1; i < format->tensor_count && status == ST_OK; i++) {
        const struct format_tensor *before = &format->tensors[order[i - 1]], *next = &format->tensors[order[i]];
        if ((uintptr_t)next->data - (uintptr_t)before->data < before->bytes)
            status = error_set(error, ST_INVALID, "tensors '%s' and '%s' overlap", before->name, next->name);
    }
    mem_free(order);
    return status;
}

bool format_architecture_valid(const char *text, size_t bytes)
{
    if (bytes == 0 || bytes > 63 || text[0] == '.') return false;
    for (size_t i = 0; i < bytes; i++) {
        if (!strchr("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-", text[i]) || !text[i])
            return false;
    }
    return true;
}

static enum status check_architecture(const struct format *format, struct error *error)
{
    const char *text;
    size_t bytes;
    enum status status = format_get_text(format, "general.architecture", &text, &bytes, error);
    if (status != ST_OK || format_architecture_valid(text, bytes)) return status;
    return error_set(error, ST_INVALID, "general.architecture is not a name of letters, digits, '.', '_' and '-'");
}

enum status format_finish(struct format *format, struct error *error)
{
    format->value_order = sorted(format, format->value_count, by_key);
    format->tensor_order = sorted(format, format->tensor_count, by_name);
    if (!format->value_order || !format->tensor_order)
        return error_set(error, ST_NOMEM, "not enough memory to open it");
    for (uint32_t i = 0; i < format->value_count; i++) {
        const char *key = format->values[format->value_order[i]].key;
        if (key[0] == '.') /* stands for "<architecture>." in the getters: it could not be asked for */
            return error_set(error, ST_INVALID, "metadata key '%s' begins with '.'", key);
        if (i > 0 && strcmp(format->values[format->value_order[i - 1]].key, key) == 0)
            return error_set(error, ST_INVALID, "metadata key '%s' appears twice", key);
    }
    for (uint32_t i = 1; i < format->tensor_count; i++) {
        const char *name = format->tensors[format->tensor_order[i]].name;
        if (strcmp(format->tensors[format->tensor_order[i - 1]].name, name) == 0)
            return error_set(error, ST_INVALID, "tensor '%s' appears twice", name);
    }
    enum status status = check_architecture(format, error);
    return status == ST_OK ? refuse_overlaps(format, error) : status;
}
