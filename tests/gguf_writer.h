/* gguf_writer.h - writes GGUF bytes for tests, well-formed or not: nothing is checked here. */
#ifndef TESTS_GGUF_WRITER_H
#define TESTS_GGUF_WRITER_H
#include "base/base.h"
#include <string.h>

enum {
    GGUF_U8,
    GGUF_I8,
    GGUF_U16,
    GGUF_I16,
    GGUF_U32,
    GGUF_I32,
    GGUF_F32,
    GGUF_BOOL,
    GGUF_TEXT,
    GGUF_ARRAY,
    GGUF_U64,
    GGUF_I64,
    GGUF_F64
};

static inline void gguf_u32(struct buffer *out, uint32_t value)
{
    buffer_append(out, &value, sizeof value);
}

static inline void gguf_u64(struct buffer *out, uint64_t value)
{
    buffer_append(out, &value, sizeof value);
}

static inline void gguf_text_bytes(struct buffer *out, const void *text, size_t bytes)
{
    gguf_u64(out, bytes);
    buffer_append(out, text, bytes);
}

static inline void gguf_text(struct buffer *out, const char *text)
{
    gguf_text_bytes(out, text, strlen(text));
}

static inline void gguf_header(struct buffer *out, uint32_t version, uint64_t tensors, uint64_t keys)
{
    buffer_append(out, "GGUF", 4);
    gguf_u32(out, version);
    gguf_u64(out, tensors);
    gguf_u64(out, keys);
}

/* A key and its type; the value's `bytes` follow, already in file layout. */
static inline void gguf_key(struct buffer *out, const char *key, uint32_t type, const void *value, size_t bytes)
{
    gguf_text(out, key);
    gguf_u32(out, type);
    buffer_append(out, value, bytes);
}

static inline void gguf_key_u32(struct buffer *out, const char *key, uint32_t value)
{
    gguf_key(out, key, GGUF_U32, &value, sizeof value);
}

static inline void gguf_key_u16(struct buffer *out, const char *key, uint16_t value)
{
    gguf_key(out, key, GGUF_U16, &value, sizeof value);
}

static inline void gguf_key_text(struct buffer *out, const char *key, const char *value)
{
    gguf_key(out, key, GGUF_TEXT, "", 0);
    gguf_text(out, value);
}

/* An array's beginning; `count` items follow. */
static inline void gguf_key_array(struct buffer *out, const char *key, uint32_t item_type, uint64_t count)
{
    gguf_key(out, key, GGUF_ARRAY, "", 0);
    gguf_u32(out, item_type);
    gguf_u64(out, count);
}

/* A matrix of `rows` rows (0: a vector of `columns`). */
static inline void gguf_tensor(struct buffer *out, const char *name, uint32_t type, uint64_t rows, uint64_t columns,
                               uint64_t offset)
{
    gguf_text(out, name);
    gguf_u32(out, rows ? 2 : 1);
    gguf_u64(out, columns);
    if (rows) gguf_u64(out, rows);
    gguf_u32(out, type);
    gguf_u64(out, offset);
}

static inline void gguf_zeros(struct buffer *out, size_t count)
{
    static const char zeros[64];
    for (; count > sizeof zeros; count -= sizeof zeros) buffer_append(out, zeros, sizeof zeros);
    buffer_append(out, zeros, count);
}

static inline void gguf_pad(struct buffer *out, size_t alignment)
{
    gguf_zeros(out, (alignment - out->length % alignment) % alignment);
}

/* A small valid model that has every value type: architecture "llama", 14 keys, two tensors (f32 [2, 4], values 0…7,
 * and q8_0 [2, 32]). Returns the length of what stands before the tensor data. */
static inline size_t gguf_small_model(struct buffer *out)
{
    const int8_t i8 = -8;
    const int16_t i16 = -1600;
    const int32_t i32 = -320000, numbers[3] = {-1, 0, 1};
    const int64_t i64 = -6400000000;
    const uint64_t u64 = UINT64_MAX;
    const float f32 = 0.5f;
    const double f64 = 0.25;
    gguf_header(out, 3, 2, 14);
    gguf_key_text(out, "general.architecture", "llama");
    gguf_key_u32(out, "llama.block_count", 7);
    gguf_key(out, "a.u8", GGUF_U8, "\xff", 1);
    gguf_key(out, "a.i8", GGUF_I8, &i8, sizeof i8);
    gguf_key_u16(out, "a.u16", 65535);
    gguf_key(out, "a.i16", GGUF_I16, &i16, sizeof i16);
    gguf_key(out, "a.i32", GGUF_I32, &i32, sizeof i32);
    gguf_key(out, "a.f32", GGUF_F32, &f32, sizeof f32);
    gguf_key(out, "a.bool", GGUF_BOOL, "\1", 1);
    gguf_key(out, "a.u64", GGUF_U64, &u64, sizeof u64);
    gguf_key(out, "a.i64", GGUF_I64, &i64, sizeof i64);
    gguf_key(out, "a.f64", GGUF_F64, &f64, sizeof f64);
    gguf_key_array(out, "a.numbers", GGUF_I32, 3);
    buffer_append(out, numbers, sizeof numbers);
    gguf_key_array(out, "a.texts", GGUF_TEXT, 3);
    gguf_text(out, "one");
    gguf_text(out, "");
    gguf_text_bytes(out, "t\0o", 3);
    gguf_tensor(out, "token_embd.weight", 0, 2, 4, 0);
    gguf_tensor(out, "blk.0.attn_q.weight", 8, 2, 32, 32);
    size_t header = out->length;
    gguf_pad(out, 32);
    for (int i = 0; i < 8; i++) {
        float value = (float)i;
        buffer_append(out, &value, sizeof value);
    }
    gguf_zeros(out, 2 * 34);
    return header;
}
#endif
