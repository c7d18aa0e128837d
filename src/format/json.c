/* json.c - parsing JSON objects from outside bytes with jansson, bounded in memory.
 *
 * jansson takes some hundred bytes for a two-byte value such as "[]," so a header's byte limit alone bounds little: the
 * separators are counted first. jansson itself bounds nesting (2,048) and refuses invalid UTF-8 and \u0000. */
#include "format/format_internal.h"
#include <string.h>

/* No fewer than the values of the text: every value follows one of these bytes. (Bytes inside strings count too.) */
static uint64_t count_separators(const unsigned char *text, size_t bytes)
{
    uint64_t count = 0;
    for (size_t i = 0; i < bytes; i++) {
        unsigned char byte = text[i];
        count += byte == ',' || byte == '[' || byte == '{' || byte == ':';
    }
    return count;
}

enum status json_read(const void *text, size_t bytes, uint64_t values_max, json_t **out, struct error *error)
{
    *out = NULL;
    if (count_separators(text, bytes) > values_max)
        return error_set(error, ST_LIMIT, "more than %llu JSON values", (unsigned long long)values_max);
    json_error_t reason;
    json_t *root = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &reason);
    if (!root) {
        bool memory = json_error_code(&reason) == json_error_out_of_memory;
        return error_set(error, memory ? ST_NOMEM : ST_INVALID, "JSON, line %d, column %d: %s", reason.line,
                         reason.column, reason.text);
    }
    if (!json_is_object(root)) {
        json_decref(root);
        return error_set(error, ST_INVALID, "not a JSON object");
    }
    *out = root;
    return ST_OK;
}

enum status json_read_file(const char *path, uint64_t bytes_max, uint64_t values_max, json_t **out, struct error *error)
{
    struct buffer text;
    *out = NULL;
    enum status status = file_read(path, bytes_max, &text, error);
    if (status != ST_OK) return status;
    status = json_read(text.data, text.length, values_max, out, error);
    if (status != ST_OK) error_prefix(error, "%s", path);
    buffer_release(&text);
    return status;
}
