/* format_internal.h - what the files of this room share: the opened model, and the calls that fill it.
 *
 * Invariants, once format_open has answered ST_OK
 * - values and tensors have unique names; *_order lists them sorted by name (strcmp), for binary search: no hash, so
 *   no crafted collisions;
 * - names, keys and single texts are zero-terminated copies in the arena; array items and tensor data point into the
 *   mapped parts (or the arena, for a Hugging Face folder) and were bounds-checked once. Nothing is read again from the
 *   file to learn a length: an array of texts keeps its own offsets.
 * Counts that a file states are checked against its size and against the limits below before anything is allocated. */
#ifndef FORMAT_FORMAT_INTERNAL_H
#define FORMAT_FORMAT_INTERNAL_H
#include "format/format.h"
#include <jansson.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "model files are little-endian and are read in place"
#endif

/* Far above real models (the largest have some 100,000 tensors, 60 keys and 500,000 merges). */
#define FORMAT_TENSORS_MAX (1u << 20)
#define FORMAT_KEYS_MAX (1u << 16)
#define FORMAT_PARTS_MAX 4096u
#define FORMAT_TEXT_ITEMS_MAX (1u << 24)                 /* items of all arrays of texts together */
#define FORMAT_TEXT_BYTES_MAX ((uint64_t)16 << 20)       /* one text */
#define FORMAT_KEY_BYTES_MAX 65535u                      /* the GGUF specification's limit */
#define FORMAT_NAME_BYTES_MAX 255u                       /* a tensor's name */
#define FORMAT_LAYERS_MAX 65536u                         /* of a config.json */
#define FORMAT_CONFIG_BYTES_MAX ((uint64_t)16 << 20)     /* config.json, tokenizer_config.json, chat_template.jinja */
#define FORMAT_TOKENIZER_BYTES_MAX ((uint64_t)128 << 20) /* tokenizer.json: the largest have 35 MB */
#define FORMAT_TOKENIZER_VALUES_MAX ((uint64_t)8 << 20)
#define FORMAT_HEADER_BYTES_MAX ((uint64_t)100000000) /* a safetensors header: the reference reader's limit */

/* The numbers are GGUF's. */
enum value_type {
    VALUE_U8,
    VALUE_I8,
    VALUE_U16,
    VALUE_I16,
    VALUE_U32,
    VALUE_I32,
    VALUE_F32,
    VALUE_BOOL,
    VALUE_TEXT,
    VALUE_ARRAY,
    VALUE_U64,
    VALUE_I64,
    VALUE_F64,
    VALUE_TYPE_COUNT
};

struct format_value {
    const char *key;
    enum value_type type;
    enum value_type item_type; /* of an array; never VALUE_ARRAY */
    union {
        uint64_t u64; /* unsigned types and bool */
        int64_t i64;
        double f64;
        uint64_t count; /* of an array's items, or a text's bytes */
    };
    const unsigned char *data; /* a text's bytes, or an array's items in file layout (unaligned) */
    const uint32_t *offsets;   /* array of texts, [count + 1]: item i is at data + offsets[i], and
                                  offsets[i + 1] - offsets[i] - 8 bytes long (8 = the next item's length field) */
};

struct format_part {
    struct file_map map;
    char *path;    /* owned */
    bool borrowed; /* the bytes belong to the caller of format_open_bytes */
};

struct format {
    enum format_kind kind;
    bool vocabulary_only;
    char *path;
    struct arena arena;
    struct format_part *parts;
    uint32_t part_count, part_capacity;
    struct format_value *values;
    uint32_t value_count, value_capacity;
    uint32_t *value_order;
    struct format_tensor *tensors;
    uint32_t *tensor_parts; /* index of the part that holds the tensor */
    uint32_t tensor_count, tensor_capacity;
    uint32_t *tensor_order;
    uint64_t text_items; /* in all arrays of texts so far */
};

/* ---- build.c: filling an opened model ---- */
MUST_CHECK enum status format_part_add(struct format *format, const char *path, uint32_t *part, struct error *error);
/* Appends a value whose key is copied; the caller fills type and contents. NULL: `error` says why. */
struct format_value *format_value_add(struct format *format, const void *key, size_t key_bytes, struct error *error);
MUST_CHECK enum status format_set_u64(struct format *format, const char *key, uint64_t value, struct error *error);
MUST_CHECK enum status format_set_f64(struct format *format, const char *key, double value, struct error *error);
MUST_CHECK enum status format_set_bool(struct format *format, const char *key, bool value, struct error *error);
MUST_CHECK enum status format_set_text(struct format *format, const char *key, const void *text, size_t bytes,
                                       struct error *error);
/* `items` is one byte an item, copied. */
MUST_CHECK enum status format_set_bools(struct format *format, const char *key, const unsigned char *items,
                                        uint64_t count, struct error *error);
MUST_CHECK enum status format_set_u8s(struct format *format, const char *key, const uint8_t *items, uint64_t count,
                                      struct error *error);
MUST_CHECK enum status format_set_u32s(struct format *format, const char *key, const uint32_t *items, uint64_t count,
                                       struct error *error);
struct format_text {
    const char *text;
    size_t bytes;
};
MUST_CHECK enum status format_set_texts(struct format *format, const char *key, const struct format_text *texts,
                                        uint64_t count, struct error *error);
/* Checks shape and format of `tensor` (name, format, dimensions and shape are set), computes elements and bytes, and
 * that [offset, offset + bytes) lies inside the part; then sets data and appends. The name is copied. */
MUST_CHECK enum status format_tensor_add(struct format *format, const struct format_tensor *tensor, uint32_t part,
                                         uint64_t offset, struct error *error);
/* True for 1…bytes_max printable ASCII characters: what keys and tensor names may be. */
bool format_name_valid(const void *name, uint64_t bytes, uint64_t bytes_max);
/* 1 to 63 letters, digits, '.', '_' and '-', the first not a '.': it becomes the beginning of keys. */
bool format_architecture_valid(const char *text, size_t bytes);
/* Sorts; refuses duplicate keys and tensor names, overlapping tensors, and a missing or odd general.architecture. */
MUST_CHECK enum status format_finish(struct format *format, struct error *error);

/* ---- metadata.c ---- */
const struct format_value *format_value_find(const struct format *format, const char *key);
/* Reads one number of value->type from its file layout, into the member of the union that fits. */
void value_load(struct format_value *value, const unsigned char *from);
const char *value_type_name(enum value_type type);
uint32_t value_type_bytes(enum value_type type); /* of one item; 0 for texts and arrays */

/* ---- gguf.c, gguf_split.c ---- */
/* Reads the part's header into `format`: values (also of later parts; see gguf_split.c) and tensors. */
MUST_CHECK enum status gguf_read(struct format *format, uint32_t part, struct error *error);
MUST_CHECK enum status gguf_open(struct format *format, const char *path, struct error *error);

/* ---- json.c ---- */
/* Parses an object. `values_max` bounds the memory that a hostile text can cost: it is refused before it is parsed when
 * it has more separators than that. Duplicate keys are refused. */
MUST_CHECK enum status json_read(const void *text, size_t bytes, uint64_t values_max, json_t **out,
                                 struct error *error);
/* The same for a file of at most `bytes_max` bytes; errors begin with the path. */
MUST_CHECK enum status json_read_file(const char *path, uint64_t bytes_max, uint64_t values_max, json_t **out,
                                      struct error *error);

/* ---- Hugging Face folders ---- */
struct hugging_face_row; /* what is particular to one model_type (hugging_face_config.c) */
/* Reads a parsed config.json into `format`; *row is static. */
MUST_CHECK enum status hugging_face_config(struct format *format, const json_t *config,
                                           const struct hugging_face_row **row, struct error *error);
/* Whether post_attention_layernorm comes after attention's output (gemma), not before the feed-forward (llama). */
bool hugging_face_sandwich_norms(const struct hugging_face_row *row);
/* The GGUF name of a checkpoint's tensor, or the name itself when there is none. */
void hugging_face_tensor_name(bool sandwich_norms, const char *name, char out[FORMAT_NAME_BYTES_MAX + 1]);
MUST_CHECK enum status hugging_face_open(struct format *format, const char *folder, struct error *error);
/* Reads a parsed tokenizer.json, and what tokenizer_config.json and generation_config.json say (each may be NULL). */
MUST_CHECK enum status hugging_face_tokenizer(struct format *format, const json_t *root, const json_t *config,
                                              const json_t *generation, struct error *error);
/* Adds the tensors of a mapped safetensors part, under their GGUF names. */
MUST_CHECK enum status safetensors_read(struct format *format, uint32_t part, bool sandwich_norms, struct error *error);

/* ---- for the unit tests and the fuzz targets ---- */
/* As format_open for one unsplit file whose bytes the caller keeps until format_close: GGUF, or safetensors without a
 * config.json (architecture "llama"). */
MUST_CHECK enum status format_open_bytes(enum format_kind kind, const void *bytes, size_t count, bool vocabulary_only,
                                         struct format **out, struct error *error);
/* A folder of nothing but this tokenizer.json. */
MUST_CHECK enum status format_open_tokenizer(const void *bytes, size_t count, struct format **out, struct error *error);
#endif
