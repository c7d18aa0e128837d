/* format.c - opening and closing a model of either kind, and its tensors.
 *
 * Decides only which reader a path belongs to: a folder, or a file of one, is Hugging Face's; all else must be GGUF. */
#include "format/format_internal.h"
#include <string.h>

static bool ends_with(const char *text, const char *suffix)
{
    size_t bytes = strlen(text), wanted = strlen(suffix);
    return bytes >= wanted && strcmp(text + bytes - wanted, suffix) == 0;
}

/* The folder that `path` is or lies in; owned by the caller. */
static char *folder_of(const char *path)
{
    if (file_is_folder(path)) return mem_strndup(path, strlen(path));
    const char *slash = strrchr(path, '/');
    if (!slash) return mem_strndup(".", 1);
    return mem_strndup(path, slash == path ? 1 : (size_t)(slash - path));
}

static enum status open_folder(struct format *format, const char *path, struct error *error)
{
    char *folder = folder_of(path);
    if (!folder) return error_set(error, ST_NOMEM, "%s: not enough memory to open it", path);
    enum status status = hugging_face_open(format, folder, error);
    mem_free(folder);
    return status;
}

static struct format *format_new(const char *path, enum format_kind kind, bool vocabulary_only)
{
    struct format *format = mem_zero(1, sizeof *format);
    if (!format) return NULL;
    arena_init(&format->arena);
    format->kind = kind;
    format->vocabulary_only = vocabulary_only;
    format->path = mem_strndup(path, strlen(path));
    if (format->path) return format;
    mem_free(format);
    return NULL;
}

enum status format_open(const char *path, bool vocabulary_only, struct format **out, struct error *error)
{
    *out = NULL;
    bool hugging_face = file_is_folder(path) || ends_with(path, ".safetensors") || ends_with(path, ".json");
    struct format *format = format_new(path, hugging_face ? FORMAT_HUGGING_FACE : FORMAT_GGUF, vocabulary_only);
    if (!format) return error_set(error, ST_NOMEM, "%s: not enough memory to open it", path);
    enum status status = hugging_face ? open_folder(format, path, error) : gguf_open(format, path, error);
    if (status == ST_OK)
        *out = format;
    else
        format_close(format);
    return status;
}

enum status format_open_bytes(enum format_kind kind, const void *bytes, size_t count, bool vocabulary_only,
                              struct format **out, struct error *error)
{
    *out = NULL;
    struct format *format = format_new("memory", kind, vocabulary_only);
    if (!format) return error_set(error, ST_NOMEM, "not enough memory");
    enum status status = ST_OK;
    format->parts = mem_zero(1, sizeof *format->parts);
    if (format->parts) {
        format->parts[0] = (struct format_part){.map = {.data = bytes, .bytes = count}, .borrowed = true};
        format->part_count = format->part_capacity = 1;
    } else {
        status = error_set(error, ST_NOMEM, "not enough memory");
    }
    if (status == ST_OK && kind == FORMAT_HUGGING_FACE)
        status = format_set_text(format, "general.architecture", "llama", 5, error);
    if (status == ST_OK)
        status = kind == FORMAT_GGUF ? gguf_read(format, 0, error) : safetensors_read(format, 0, false, error);
    if (status == ST_OK) status = format_finish(format, error);
    if (status == ST_OK)
        *out = format;
    else
        format_close(format);
    return status;
}

enum status format_open_tokenizer(const void *bytes, size_t count, struct format **out, struct error *error)
{
    json_t *root = NULL;
    *out = NULL;
    struct format *format = format_new("memory", FORMAT_HUGGING_FACE, true);
    if (!format) return error_set(error, ST_NOMEM, "not enough memory");
    enum status status = format_set_text(format, "general.architecture", "llama", 5, error);
    if (status == ST_OK) status = json_read(bytes, count, FORMAT_TOKENIZER_VALUES_MAX, &root, error);
    if (status == ST_OK) status = hugging_face_tokenizer(format, root, NULL, NULL, error);
    if (status == ST_OK) status = format_finish(format, error);
    json_decref(root);
    if (status == ST_OK)
        *out = format;
    else
        format_close(format);
    return status;
}

void format_close(struct format *format)
{
    if (!format) return;
    for (uint32_t i = 0; i < format->part_count; i++) {
        if (!format->parts[i].borrowed) file_map_close(&format->parts[i].map);
        mem_free(format->parts[i].path);
    }
    mem_free(format->parts);
    mem_free(format->values);
    mem_free(format->value_order);
    mem_free(format->tensors);
    mem_free(format->tensor_parts);
    mem_free(format->tensor_order);
    mem_free(format->path);
    arena_release(&format->arena);
    mem_free(format);
}

enum format_kind format_kind(const struct format *format)
{
    return format->kind;
}

const char *format_path(const struct format *format)
{
    return format->path;
}

uint64_t format_file_bytes(const struct format *format)
{
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < format->part_count; i++) bytes += format->parts[i].map.bytes;
    return bytes;
}

/* ---- tensors ---- */

uint32_t format_tensor_count(const struct format *format)
{
    return format->tensor_count;
}

const struct format_tensor *format_tensor_at(const struct format *format, uint32_t index)
{
    ASSERT(index < format->tensor_count);
    return &format->tensors[index];
}

const struct format_tensor *format_tensor_find(const struct format *format, const char *name)
{
    uint32_t begin = 0, end = format->tensor_count;
    while (begin < end) {
        uint32_t middle = begin + (end - begin) / 2;
        const struct format_tensor *tensor = &format->tensors[format->tensor_order[middle]];
        int order = strcmp(tensor->name, name);
        if (order == 0) return tensor;
        if (order < 0)
            begin = middle + 1;
        else
            end = middle;
    }
    return NULL;
}

void format_tensor_drop(const struct format *format, const struct format_tensor *tensor)
{
    ASSERT(tensor >= format->tensors && tensor < format->tensors + format->tensor_count);
    const struct format_part *part = &format->parts[format->tensor_parts[tensor - format->tensors]];
    if (!part->borrowed) file_map_drop(&part->map, tensor->data, tensor->bytes);
}
