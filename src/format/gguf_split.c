/* gguf_split.c - a GGUF model as one file or as a set NAME-00001-of-000NN.gguf.
 *
 * The first part's metadata is the model's; the others bring tensors only. Each part says in split.no and split.count
 * which it is: the names only help to find them. It does not search other folders. */
#include "format/format_internal.h"
#include <stdio.h>
#include <string.h>

/* "-00001-of-00003.gguf" */
#define SUFFIX_BYTES 20

static bool five_digits(const char *text, uint32_t *out)
{
    *out = 0;
    for (int i = 0; i < 5; i++) {
        if (text[i] < '0' || text[i] > '9') return false;
        *out = *out * 10 + (uint32_t)(text[i] - '0');
    }
    return true;
}

/* Whether `path` is named as part *number (from 1) of *count. */
static bool split_name(const char *path, uint32_t *number, uint32_t *count)
{
    size_t bytes = strlen(path);
    if (bytes < SUFFIX_BYTES) return false;
    const char *suffix = path + bytes - SUFFIX_BYTES;
    return suffix[0] == '-' && five_digits(suffix + 1, number) && memcmp(suffix + 6, "-of-", 4) == 0 &&
           five_digits(suffix + 10, count) && strcmp(suffix + 15, ".gguf") == 0 && *number >= 1 && *number <= *count;
}

/* An unsigned split.* value among the values from `first` on; `otherwise` when there is none. */
static enum status split_value(const struct format *format, uint32_t first, const char *key, uint64_t otherwise,
                               uint64_t *out, struct error *error)
{
    *out = otherwise;
    for (uint32_t i = first; i < format->value_count; i++) {
        const struct format_value *value = &format->values[i];
        if (strcmp(value->key, key) != 0) continue;
        bool is_signed =
            value->type == VALUE_I8 || value->type == VALUE_I16 || value->type == VALUE_I32 || value->type == VALUE_I64;
        bool is_unsigned =
            value->type == VALUE_U8 || value->type == VALUE_U16 || value->type == VALUE_U32 || value->type == VALUE_U64;
        if (!(is_unsigned || (is_signed && value->i64 >= 0)))
            return error_set(error, ST_INVALID, "%s is not a count", key);
        *out = value->u64;
    }
    return ST_OK;
}

/* Maps and reads part `number` of `count` and checks that it says so itself. */
static enum status part_open(struct format *format, const char *path, uint32_t number, uint32_t count,
                             struct error *error)
{
    const uint32_t first_value = format->value_count;
    uint32_t part = 0;
    uint64_t said_number = 0, said_count = 0;
    enum status status = format_part_add(format, path, &part, error);
    if (status != ST_OK) {
        if (count > 1) error_prefix(error, "part %u of %u", number, count);
        return status;
    }
    status = gguf_read(format, part, error);
    if (status == ST_OK) status = split_value(format, first_value, "split.no", 0, &said_number, error);
    if (status == ST_OK) status = split_value(format, first_value, "split.count", 1, &said_count, error);
    if (status == ST_OK && said_count <= 1 && count == 1) return ST_OK; /* unsplit: split.count is absent, 0 or 1 */
    if (status == ST_OK && count == 1)
        status = error_set(error, ST_INVALID,
                           "is part %llu of %llu: give it the name …-%05llu-of-%05llu.gguf, beside the others",
                           (unsigned long long)said_number + 1, (unsigned long long)said_count,
                           (unsigned long long)said_number + 1, (unsigned long long)said_count);
    else if (status == ST_OK && (said_number != number - 1 || said_count != count))
        status = error_set(error, ST_INVALID, "is named as part %u of %u, but says split.no %llu, split.count %llu",
                           number, count, (unsigned long long)said_number, (unsigned long long)said_count);
    if (number > 1) format->value_count = first_value; /* only the first part's metadata is the model's */
    if (status != ST_OK) error_prefix(error, "%s", path);
    return status;
}

static enum status set_open(struct format *format, const char *path, uint32_t count, struct error *error)
{
    if (count > FORMAT_PARTS_MAX)
        return error_set(error, ST_LIMIT, "%s: a model of more than %u files", path, FORMAT_PARTS_MAX);
    char *name = mem_strndup(path, strlen(path));
    if (!name) return error_set(error, ST_NOMEM, "%s: not enough memory to open it", path);
    enum status status = ST_OK;
    const uint32_t wanted = format->vocabulary_only ? 1 : count; /* the metadata is all in the first */
    for (uint32_t i = 1; i <= wanted && status == ST_OK; i++) {
        snprintf(name + strlen(path) - SUFFIX_BYTES, SUFFIX_BYTES + 1, "-%05u-of-%05u.gguf", i % 100000,
                 count % 100000);
        status = part_open(format, name, i, count, error);
    }
    mem_free(name);
    uint64_t tensors = 0;
    if (status == ST_OK) status = split_value(format, 0, "split.tensors.count", format->tensor_count, &tensors, error);
    if (status == ST_OK && !format->vocabulary_only && tensors != format->tensor_count)
        status = error_set(error, ST_INVALID, "%s: the parts hold %u tensors, split.tensors.count says %llu", path,
                           format->tensor_count, (unsigned long long)tensors);
    return status;
}

enum status gguf_open(struct format *format, const char *path, struct error *error)
{
    uint32_t number, count;
    bool set = split_name(path, &number, &count) && count > 1;
    enum status status = set ? set_open(format, path, count, error) : part_open(format, path, 1, 1, error);
    if (status != ST_OK) return status;
    status = format_finish(format, error);
    if (status != ST_OK) error_prefix(error, "%s", path);
    return status;
}
