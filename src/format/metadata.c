/* metadata.c - reading the values of an opened model: typed getters, array items, and a printable rendering.
 *
 * A getter never reads a length from the file: counts and offsets were proved when the model was opened. */
#include "format/format_internal.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

static const struct {
    const char *name;
    uint32_t bytes;
} types[VALUE_TYPE_COUNT] = {
    [VALUE_U8] = {"u8", 1},     [VALUE_I8] = {"i8", 1},       [VALUE_U16] = {"u16", 2}, [VALUE_I16] = {"i16", 2},
    [VALUE_U32] = {"u32", 4},   [VALUE_I32] = {"i32", 4},     [VALUE_F32] = {"f32", 4}, [VALUE_BOOL] = {"bool", 1},
    [VALUE_TEXT] = {"text", 0}, [VALUE_ARRAY] = {"array", 0}, [VALUE_U64] = {"u64", 8}, [VALUE_I64] = {"i64", 8},
    [VALUE_F64] = {"f64", 8},
};

const char *value_type_name(enum value_type type)
{
    return types[type].name;
}

uint32_t value_type_bytes(enum value_type type)
{
    return types[type].bytes;
}

/* ---- finding ---- */

static const struct format_value *find_exact(const struct format *format, const char *key)
{
    uint32_t begin = 0, end = format->value_count;
    while (begin < end) {
        uint32_t middle = begin + (end - begin) / 2;
        const struct format_value *value = &format->values[format->value_order[middle]];
        int order = strcmp(value->key, key);
        if (order == 0) return value;
        if (order < 0)
            begin = middle + 1;
        else
            end = middle;
    }
    return NULL;
}

const struct format_value *format_value_find(const struct format *format, const char *key)
{
    if (key[0] != '.') return find_exact(format, key);
    const struct format_value *architecture = find_exact(format, "general.architecture");
    char full[512];
    size_t bytes = strlen(key);
    if (!architecture || architecture->type != VALUE_TEXT || architecture->count + bytes >= sizeof full) return NULL;
    memcpy(full, architecture->data, (size_t)architecture->count);
    memcpy(full + architecture->count, key, bytes + 1);
    return find_exact(format, full);
}

bool format_has(const struct format *format, const char *key)
{
    return format_value_find(format, key) != NULL;
}

/* The value, or why there is none. */
static enum status find(const struct format *format, const char *key, const struct format_value **out,
                        struct error *error)
{
    *out = format_value_find(format, key);
    return *out ? ST_OK : error_set(error, ST_NOT_FOUND, "the model's metadata has no key '%s'", key);
}

static enum status wrong(const char *key, const struct format_value *value, const char *wanted, struct error *error)
{
    bool array = value->type == VALUE_ARRAY;
    return error_set(error, ST_INVALID, "metadata key '%s' (%s%s) is not %s", key, array ? "array of " : "",
                     value_type_name(array ? value->item_type : value->type), wanted);
}

/* ---- conversions: lossless or refused ---- */

void value_load(struct format_value *value, const unsigned char *from)
{
    union {
        uint16_t u16;
        uint32_t u32;
        uint64_t u64;
        float f32;
        double f64;
    } raw = {0};
    memcpy(&raw, from, types[value->type].bytes);
    switch (value->type) {
    case VALUE_I8:
        value->i64 = (int8_t)*from;
        break;
    case VALUE_I16:
        value->i64 = (int16_t)raw.u16;
        break;
    case VALUE_I32:
        value->i64 = (int32_t)raw.u32;
        break;
    case VALUE_F32:
        value->f64 = (double)raw.f32;
        break;
    case VALUE_F64:
        value->f64 = raw.f64;
        break;
    default:
        value->u64 = raw.u64;
        break; /* unsigned and i64: zero-extended little-endian bytes */
    }
}

static bool is_signed(enum value_type type)
{
    return type == VALUE_I8 || type == VALUE_I16 || type == VALUE_I32 || type == VALUE_I64;
}

static bool is_unsigned(enum value_type type)
{
    return type == VALUE_U8 || type == VALUE_U16 || type == VALUE_U32 || type == VALUE_U64;
}

static bool to_i64(const struct format_value *value, int64_t *out)
{
    *out = value->i64;
    return is_signed(value->type) || value->type == VALUE_BOOL || (is_unsigned(value->type) && value->u64 <= INT64_MAX);
}

static bool to_double(const struct format_value *value, double *out)
{
    const double exact = 9007199254740992.0; /* 2^53: integers up to it are doubles */
    if (value->type == VALUE_F32 || value->type == VALUE_F64)
        *out = value->f64;
    else if (is_signed(value->type))
        *out = (double)value->i64;
    else if (is_unsigned(value->type))
        *out = (double)value->u64;
    else
        return false;
    return value->type == VALUE_F32 || value->type == VALUE_F64 || fabs(*out) <= exact;
}

/* ---- single values ---- */

enum status format_get_u64(const struct format *format, const char *key, uint64_t *out, struct error *error)
{
    const struct format_value *value;
    enum status status = find(format, key, &value, error);
    if (status != ST_OK) return status;
    if (!is_unsigned(value->type) && !(is_signed(value->type) && value->i64 >= 0))
        return wrong(key, value, "a number from 0", error);
    *out = value->u64; /* of a signed value >= 0 the same bits */
    return ST_OK;
}

enum status format_get_i64(const struct format *format, const char *key, int64_t *out, struct error *error)
{
    const struct format_value *value;
    enum status status = find(format, key, &value, error);
    if (status != ST_OK) return status;
    if (value->type == VALUE_BOOL || !to_i64(value, out)) return wrong(key, value, "an integer of 63 bits", error);
    return ST_OK;
}

enum status format_get_double(const struct format *format, const char *key, double *out, struct error *error)
{
    const struct format_value *value;
    enum status status = find(format, key, &value, error);
    if (status != ST_OK) return status;
    return to_double(value, out) ? ST_OK : wrong(key, value, "a number", error);
}

enum status format_get_bool(const struct format *format, const char *key, bool *out, struct error *error)
{
    const struct format_value *value;
    enum status status = find(format, key, &value, error);
    if (status != ST_OK) return status;
    if (value->type != VALUE_BOOL) return wrong(key, value, "true or false", error);
    *out = value->u64 != 0;
    return ST_OK;
}

enum status format_get_text(const struct format *format, const char *key, const char **text, size_t *bytes,
                            struct error *error)
{
    const struct format_value *value;
    enum status status = find(format, key, &value, error);
    if (status != ST_OK) return status;
    if (value->type != VALUE_TEXT) return wrong(key, value, "a text", error);
    *text = (const char *)value->data;
    *bytes = (size_t)value->count;
    return ST_OK;
}

/* ---- arrays ---- */

enum status format_get_array(const struct format *format, const char *key, uint64_t *count, struct error *error)
{
    const struct format_value *value;
    enum status status = find(format, key, &value, error);
    if (status != ST_OK) return status;
    if (value->type != VALUE_ARRAY) return wrong(key, value, "an array", error);
    *count = value->count;
    return ST_OK;
}

/* The array `key`, which has an item `index`. */
static enum status find_item(const struct format *format, const char *key, uint64_t index,
                             const struct format_value **out, struct error *error)
{
    enum status status = find(format, key, out, error);
    if (status != ST_OK) return status;
    if ((*out)->type != VALUE_ARRAY) return wrong(key, *out, "an array", error);
    if (index >= (*out)->count)
        return error_set(error, ST_INVALID, "metadata key '%s' has %llu items, no item %llu", key,
                         (unsigned long long)(*out)->count, (unsigned long long)index);
    return ST_OK;
}

static void item_text(const struct format_value *value, uint64_t index, const char **text, size_t *bytes)
{
    *text = (const char *)value->data + value->offsets[index];
    *bytes = value->offsets[index + 1] - value->offsets[index] - 8;
}

static struct format_value item_number(const struct format_value *value, uint64_t index)
{
    struct format_value item = {.type = value->item_type};
    value_load(&item, value->data + index * value_type_bytes(item.type));
    return item;
}

enum status format_get_array_text(const struct format *format, const char *key, uint64_t index, const char **text,
                                  size_t *bytes, struct error *error)
{
    const struct format_value *value;
    enum status status = find_item(format, key, index, &value, error);
    if (status != ST_OK) return status;
    if (value->item_type != VALUE_TEXT) return wrong(key, value, "an array of texts", error);
    item_text(value, index, text, bytes);
    return ST_OK;
}

enum status format_get_array_i64(const struct format *format, const char *key, uint64_t index, int64_t *out,
                                 struct error *error)
{
    const struct format_value *value;
    enum status status = find_item(format, key, index, &value, error);
    if (status != ST_OK) return status;
    if (value->item_type == VALUE_TEXT) return wrong(key, value, "an array of integers", error);
    struct format_value item = item_number(value, index);
    return to_i64(&item, out) ? ST_OK : wrong(key, value, "an array of integers of 63 bits", error);
}

enum status format_get_array_double(const struct format *format, const char *key, uint64_t index, double *out,
                                    struct error *error)
{
    const struct format_value *value;
    enum status status = find_item(format, key, index, &value, error);
    if (status != ST_OK) return status;
    if (value->item_type == VALUE_TEXT) return wrong(key, value, "an array of numbers", error);
    struct format_value item = item_number(value, index);
    return to_double(&item, out) ? ST_OK : wrong(key, value, "an array of numbers", error);
}

/* ---- rendering, for inspection ---- */

/* At most `bytes_max` bytes of text between quotes; what a terminal should not get becomes '?'. */
static void render_text(struct buffer *out, const char *text, size_t bytes, size_t bytes_max)
{
    buffer_text(out, "\"");
    size_t at = 0;
    while (at < bytes && at < bytes_max) {
        uint32_t code_point, length = utf8_decode(text + at, bytes - at, &code_point, NULL);
        bool control = length == 0 || code_point < 0x20 || (code_point >= 0x7f && code_point < 0xa0);
        if (control)
            buffer_text(out, code_point == '\n' && length ? "\\n" : "?");
        else
            buffer_append(out, text + at, length);
        at += length ? length : 1;
    }
    buffer_text(out, "\"");
    if (at < bytes) buffer_printf(out, "… (%zu bytes)", bytes);
}

static void render_number(struct buffer *out, const struct format_value *value)
{
    if (value->type == VALUE_BOOL)
        buffer_text(out, value->u64 ? "true" : "false");
    else if (is_unsigned(value->type))
        buffer_printf(out, "%llu", (unsigned long long)value->u64);
    else if (is_signed(value->type))
        buffer_printf(out, "%lld", (long long)value->i64);
    else
        buffer_printf(out, value->type == VALUE_F32 ? "%.7g" : "%.15g", value->f64);
}

static void render_array(struct buffer *out, const struct format_value *value)
{
    const uint64_t shown = value->count > 8 ? 8 : value->count;
    buffer_text(out, "[");
    for (uint64_t i = 0; i < shown; i++) {
        if (i) buffer_text(out, ", ");
        if (value->item_type == VALUE_TEXT) {
            const char *text;
            size_t bytes;
            item_text(value, i, &text, &bytes);
            render_text(out, text, bytes, 40);
        } else {
            struct format_value item = item_number(value, i);
            render_number(out, &item);
        }
    }
    buffer_text(out, shown < value->count ? ", …]" : "]");
    if (shown < value->count) buffer_printf(out, " (%llu items)", (unsigned long long)value->count);
}

uint32_t format_key_count(const struct format *format)
{
    return format->value_count;
}

const char *format_key_at(const struct format *format, uint32_t index, struct buffer *out)
{
    ASSERT(index < format->value_count);
    const struct format_value *value = &format->values[index];
    if (value->type == VALUE_ARRAY)
        render_array(out, value);
    else if (value->type == VALUE_TEXT)
        render_text(out, (const char *)value->data, (size_t)value->count, 200);
    else
        render_number(out, value);
    return value->key;
}
