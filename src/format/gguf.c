/* gguf.c - one GGUF v2 or v3 file: header, metadata and tensor list, from hostile bytes.
 *
 *   "GGUF" | version u32 | tensors u64 | keys u64 | key: text, type u32, value … | tensor: name text, dimensions u32,
 *   sizes u64 (innermost first), type u32, offset u64 … | padding to general.alignment | tensor data
 *   (text = length u64, bytes; array = item type u32, count u64, items)
 *
 * Invariants: every read goes through take(), which knows the file's end; every stated count is bounded by the bytes
 * that are left before anything is allocated for it. It does not know what a key means, except general.alignment.
 * Version 1 (32-bit lengths, replaced within days in 2023) and big-endian files are refused by name. Source:
 * docs/gguf.md of the ggml repository. */
#include "format/format_internal.h"
#include <stdio.h>
#include <string.h>

struct reader {
    const unsigned char *data;
    uint64_t bytes, at;
    char what[96]; /* being read, for the error line */
    struct error *error;
};

static const unsigned char *take(struct reader *reader, uint64_t bytes)
{
    if (bytes > reader->bytes - reader->at) {
        (void)error_set(reader->error, ST_INVALID,
                        "the file ends inside %s (at byte %llu of %llu): it is damaged or its download is incomplete",
                        reader->what, (unsigned long long)reader->at, (unsigned long long)reader->bytes);
        return NULL;
    }
    const unsigned char *begin = reader->data + reader->at;
    reader->at += bytes;
    return begin;
}

static bool take_u32(struct reader *reader, uint32_t *out)
{
    const unsigned char *from = take(reader, sizeof *out);
    if (from) memcpy(out, from, sizeof *out);
    return from != NULL;
}

static bool take_u64(struct reader *reader, uint64_t *out)
{
    const unsigned char *from = take(reader, sizeof *out);
    if (from) memcpy(out, from, sizeof *out);
    return from != NULL;
}

/* A text's bytes, borrowed from the file. */
static bool take_text(struct reader *reader, const unsigned char **text, uint64_t *bytes)
{
    if (!take_u64(reader, bytes)) return false;
    if (*bytes > FORMAT_TEXT_BYTES_MAX && *bytes <= reader->bytes - reader->at) {
        (void)error_set(reader->error, ST_LIMIT, "%s holds a text of %llu bytes (at most %llu are read)", reader->what,
                        (unsigned long long)*bytes, (unsigned long long)FORMAT_TEXT_BYTES_MAX);
        return false;
    }
    *text = take(reader, *bytes);
    return *text != NULL;
}

/* ---- metadata ---- */

static enum status read_number(struct reader *reader, struct format_value *value)
{
    const unsigned char *from = take(reader, value_type_bytes(value->type));
    if (!from) return ST_INVALID;
    value_load(value, from);
    if (value->type == VALUE_BOOL && value->u64 > 1)
        return error_set(reader->error, ST_INVALID, "%s is a bool of value %u", reader->what, *from);
    return ST_OK;
}

/* Walks the texts once, noting where each begins: later access is O(1) and trusts only these offsets. */
static enum status read_text_items(struct format *format, struct reader *reader, struct format_value *value)
{
    uint64_t count = value->count;
    if (count > FORMAT_TEXT_ITEMS_MAX - format->text_items)
        return error_set(reader->error, ST_LIMIT, "%s: more than %u texts in arrays", reader->what,
                         FORMAT_TEXT_ITEMS_MAX);
    format->text_items += count;
    uint32_t *offsets = arena_alloc(&format->arena, (size_t)(count + 1) * sizeof *offsets);
    if (!offsets) return error_set(reader->error, ST_NOMEM, "not enough memory for %s", reader->what);
    const uint64_t begin = reader->at;
    value->data = reader->data + begin;
    value->offsets = offsets;
    for (uint64_t i = 0; i < count; i++) {
        const unsigned char *text;
        uint64_t bytes;
        if (!take_text(reader, &text, &bytes)) return ST_INVALID;
        if (reader->at - begin > UINT32_MAX - 8)
            return error_set(reader->error, ST_LIMIT, "%s: texts of more than 4 GiB", reader->what);
        offsets[i] = (uint32_t)(reader->at - begin - bytes);
    }
    offsets[count] = (uint32_t)(reader->at - begin + 8);
    return ST_OK;
}

static enum status read_array(struct format *format, struct reader *reader, struct format_value *value)
{
    uint32_t item;
    uint64_t count;
    if (!take_u32(reader, &item) || !take_u64(reader, &count)) return ST_INVALID;
    if (item == VALUE_ARRAY)
        return error_set(reader->error, ST_UNSUPPORTED, "%s is an array of arrays, which is not supported",
                         reader->what);
    if (item >= VALUE_TYPE_COUNT)
        return error_set(reader->error, ST_INVALID, "%s is an array of unknown type %u", reader->what, item);
    uint32_t item_bytes = item == VALUE_TEXT ? 8 : value_type_bytes((enum value_type)item); /* at least */
    if (count > (reader->bytes - reader->at) / item_bytes)
        return error_set(reader->error, ST_INVALID, "%s claims %llu items, more than the file has room for",
                         reader->what, (unsigned long long)count);
    value->item_type = (enum value_type)item;
    value->count = count;
    if (item == VALUE_TEXT) return read_text_items(format, reader, value);
    value->data = take(reader, count * item_bytes); /* no overflow: count was bounded above */
    if (!value->data) return ST_INVALID;
    for (uint64_t i = 0; item == VALUE_BOOL && i < count; i++) {
        if (value->data[i] > 1)
            return error_set(reader->error, ST_INVALID, "%s holds a bool of value %u", reader->what, value->data[i]);
    }
    return ST_OK;
}

static enum status read_single_text(struct format *format, struct reader *reader, struct format_value *value)
{
    const unsigned char *text;
    if (!take_text(reader, &text, &value->count)) return ST_INVALID;
    value->data = (const unsigned char *)arena_strndup(&format->arena, (const char *)text, (size_t)value->count);
    return value->data ? ST_OK : error_set(reader->error, ST_NOMEM, "not enough memory for %s", reader->what);
}

static enum status read_key(struct format *format, struct reader *reader, uint64_t index)
{
    const unsigned char *key;
    uint64_t bytes;
    uint32_t type;
    snprintf(reader->what, sizeof reader->what, "metadata key %llu", (unsigned long long)index);
    if (!take_text(reader, &key, &bytes)) return reader->error->status;
    if (!format_name_valid(key, bytes, FORMAT_KEY_BYTES_MAX))
        return error_set(reader->error, ST_INVALID, "the name of %s (%llu bytes) is empty, too long or not printable",
                         reader->what, (unsigned long long)bytes);
    struct format_value *value = format_value_add(format, key, (size_t)bytes, reader->error);
    if (!value) return reader->error->status;
    snprintf(reader->what, sizeof reader->what, "metadata key '%.70s'", value->key);
    if (!take_u32(reader, &type)) return ST_INVALID;
    if (type >= VALUE_TYPE_COUNT)
        return error_set(reader->error, ST_INVALID, "%s has unknown type %u", reader->what, type);
    value->type = (enum value_type)type;
    enum status status = type == VALUE_ARRAY  ? read_array(format, reader, value)
                         : type == VALUE_TEXT ? read_single_text(format, reader, value)
                                              : read_number(reader, value);
    return status == ST_OK ? ST_OK : reader->error->status;
}

/* ---- tensors ---- */

#define KNOWN(number, name, nf) [number] = {name, nf}
#define REFUSED(number, name) [number] = {name, NF_COUNT}
/* ggml's type numbers. Refused ones are listed so that the error can name them. */
static const struct tensor_type {
    const char *name;
    enum number_format format;
} tensor_types[] = {
    KNOWN(0, "F32", NF_F32),    KNOWN(1, "F16", NF_F16),    KNOWN(2, "Q4_0", NF_Q4_0),
    KNOWN(3, "Q4_1", NF_Q4_1),  REFUSED(4, "Q4_2"),         REFUSED(5, "Q4_3"),
    KNOWN(6, "Q5_0", NF_Q5_0),  KNOWN(7, "Q5_1", NF_Q5_1),  KNOWN(8, "Q8_0", NF_Q8_0),
    REFUSED(9, "Q8_1"),         KNOWN(10, "Q2_K", NF_Q2_K), KNOWN(11, "Q3_K", NF_Q3_K),
    KNOWN(12, "Q4_K", NF_Q4_K), KNOWN(13, "Q5_K", NF_Q5_K), KNOWN(14, "Q6_K", NF_Q6_K),
    REFUSED(15, "Q8_K"),        REFUSED(16, "IQ2_XXS"),     REFUSED(17, "IQ2_XS"),
    REFUSED(18, "IQ3_XXS"),     REFUSED(19, "IQ1_S"),       KNOWN(20, "IQ4_NL", NF_IQ4_NL),
    REFUSED(21, "IQ3_S"),       REFUSED(22, "IQ2_S"),       KNOWN(23, "IQ4_XS", NF_IQ4_XS),
    REFUSED(24, "I8"),          REFUSED(25, "I16"),         REFUSED(26, "I32"),
    REFUSED(27, "I64"),         REFUSED(28, "F64"),         REFUSED(29, "IQ1_M"),
    KNOWN(30, "BF16", NF_BF16), REFUSED(31, "Q4_0_4_4"),    REFUSED(32, "Q4_0_4_8"),
    REFUSED(33, "Q4_0_8_8"),    REFUSED(34, "TQ1_0"),       REFUSED(35, "TQ2_0"),
    REFUSED(36, "IQ4_NL_4_4"),  REFUSED(37, "IQ4_NL_4_8"),  REFUSED(38, "IQ4_NL_8_8"),
    REFUSED(39, "MXFP4"),       REFUSED(40, "NVFP4"),
};

static enum status tensor_format(const struct reader *reader, const char *name, uint32_t type, enum number_format *out)
{
    if (type >= ARRAY_COUNT(tensor_types))
        return error_set(reader->error, ST_UNSUPPORTED, "tensor '%s' has the unknown tensor format number %u", name,
                         type);
    if (tensor_types[type].format == NF_COUNT)
        return error_set(
            reader->error, ST_UNSUPPORTED,
            "tensor '%s' is kept as %s, which Kvasir does not read: take the model in another quantisation, such "
            "as Q4_K_M or Q8_0",
            name, tensor_types[type].name);
    *out = tensor_types[type].format;
    return ST_OK;
}

/* One entry of the tensor list; *offset is relative to the data section. `name` keeps the tensor's name. */
static enum status read_tensor(struct reader *reader, uint64_t index, char name[FORMAT_NAME_BYTES_MAX + 1],
                               struct format_tensor *tensor, uint64_t *offset)
{
    const unsigned char *text;
    uint64_t bytes;
    uint32_t type;
    snprintf(reader->what, sizeof reader->what, "entry %llu of the tensor list", (unsigned long long)index);
    if (!take_text(reader, &text, &bytes)) return reader->error->status;
    if (!format_name_valid(text, bytes, FORMAT_NAME_BYTES_MAX))
        return error_set(reader->error, ST_INVALID, "the name in %s (%llu bytes) is empty, too long or not printable",
                         reader->what, (unsigned long long)bytes);
    memcpy(name, text, (size_t)bytes);
    name[bytes] = 0;
    *tensor = (struct format_tensor){.name = name};
    if (!take_u32(reader, &tensor->dimensions)) return ST_INVALID;
    if (tensor->dimensions == 0 || tensor->dimensions > FORMAT_DIMENSIONS_MAX)
        return error_set(reader->error, ST_INVALID, "tensor '%s' has %u dimensions (1 to %u are possible)", name,
                         tensor->dimensions, FORMAT_DIMENSIONS_MAX);
    for (uint32_t i = tensor->dimensions; i-- > 0;) {
        if (!take_u64(reader, &tensor->shape[i])) return ST_INVALID;
    }
    if (!take_u32(reader, &type) || !take_u64(reader, offset)) return ST_INVALID;
    return tensor_format(reader, name, type, &tensor->format);
}

static enum status read_alignment(const struct format *format, uint32_t first_value, struct error *error, uint64_t *out)
{
    *out = 32; /* the specification's default */
    for (uint32_t i = first_value; i < format->value_count; i++) {
        const struct format_value *value = &format->values[i];
        if (strcmp(value->key, "general.alignment") != 0) continue;
        if (value->type != VALUE_U32 || value->u64 == 0 || (value->u64 & (value->u64 - 1)) || value->u64 > 1u << 20)
            return error_set(error, ST_INVALID, "general.alignment is not a power of two of type u32, at most 1048576");
        *out = value->u64;
    }
    return ST_OK;
}

/* The list is walked twice, because the data section's place is known only at its end: first to find that, then to
 * check each tensor against it. */
static enum status read_tensors(struct format *format, struct reader *reader, uint32_t part, uint64_t count,
                                uint64_t alignment)
{
    char name[FORMAT_NAME_BYTES_MAX + 1];
    struct format_tensor tensor;
    uint64_t offset;
    const uint64_t list = reader->at;
    enum status status = ST_OK;
    for (uint64_t i = 0; i < count && status == ST_OK; i++) status = read_tensor(reader, i, name, &tensor, &offset);
    if (status != ST_OK) return status;
    const uint64_t data = round_up(reader->at, alignment); /* no overflow: both are small against 2^63 */
    reader->at = list;
    for (uint64_t i = 0; i < count; i++) {
        status = read_tensor(reader, i, name, &tensor, &offset);
        if (status != ST_OK) return status;
        if (offset % alignment != 0)
            return error_set(reader->error, ST_INVALID,
                             "tensor '%s' begins at %llu, not a multiple of the alignment %llu", name,
                             (unsigned long long)offset, (unsigned long long)alignment);
        if (!checked_add(offset, data, &offset))
            return error_set(reader->error, ST_INVALID, "tensor '%s' begins beyond the file's end", name);
        status = format_tensor_add(format, &tensor, part, offset, reader->error);
        if (status != ST_OK) return status;
    }
    return ST_OK;
}

/* ---- the file ---- */

static enum status read_header(struct reader *reader, uint64_t *tensors, uint64_t *keys)
{
    uint32_t magic, version;
    snprintf(reader->what, sizeof reader->what, "its header");
    if (!take_u32(reader, &magic) || !take_u32(reader, &version)) return ST_INVALID;
    if (magic != 0x46554747u)
        return error_set(reader->error, ST_INVALID, "not a GGUF file: it does not begin with \"GGUF\"");
    if (version != 0 && (version & 0xffff) == 0)
        return error_set(reader->error, ST_UNSUPPORTED,
                         "a big-endian GGUF file, which is not supported: take a little-endian one");
    if (version != 2 && version != 3)
        return error_set(reader->error, ST_UNSUPPORTED, "GGUF version %u is not supported (2 and 3 are)", version);
    if (!take_u64(reader, tensors) || !take_u64(reader, keys)) return ST_INVALID;
    /* The least that a key (length, a character, type, a byte) and a tensor (length, a character, count, size, type,
     * offset) take in the file. */
    const uint64_t left = reader->bytes - reader->at, key_least = 8 + 1 + 4 + 1, tensor_least = 8 + 1 + 4 + 8 + 4 + 8;
    if (*keys > left / key_least || *keys > FORMAT_KEYS_MAX)
        return error_set(reader->error, ST_INVALID,
                         "the header claims %llu metadata keys, more than the file can hold or %u",
                         (unsigned long long)*keys, FORMAT_KEYS_MAX);
    if (*tensors > left / tensor_least || *tensors > FORMAT_TENSORS_MAX)
        return error_set(reader->error, ST_INVALID, "the header claims %llu tensors, more than the file can hold or %u",
                         (unsigned long long)*tensors, FORMAT_TENSORS_MAX);
    return ST_OK;
}

enum status gguf_read(struct format *format, uint32_t part, struct error *error)
{
    const struct file_map *map = &format->parts[part].map;
    struct error local = {0};
    struct reader reader = {.data = map->data, .bytes = map->bytes, .error = error ? error : &local};
    const uint32_t first_value = format->value_count;
    uint64_t tensors = 0, keys = 0, alignment = 0;
    enum status status = read_header(&reader, &tensors, &keys);
    for (uint64_t i = 0; status == ST_OK && i < keys; i++) status = read_key(format, &reader, i);
    if (status == ST_OK) status = read_alignment(format, first_value, reader.error, &alignment);
    if (status == ST_OK && !format->vocabulary_only) status = read_tensors(format, &reader, part, tensors, alignment);
    return status;
}
