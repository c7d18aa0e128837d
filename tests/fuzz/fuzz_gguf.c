/* fuzz_gguf.c - any bytes as a GGUF file: opened twice (with and without tensors) and read to the last item. */
#include "format/format_internal.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static volatile unsigned char sink;

static void use_items(const struct format *format, const char *key)
{
    uint64_t count;
    if (format_get_array(format, key, &count, NULL) != ST_OK) return;
    for (uint64_t i = 0; i < count; i++) {
        const char *text;
        size_t bytes;
        int64_t integer;
        double number;
        if (format_get_array_text(format, key, i, &text, &bytes, NULL) == ST_OK && bytes)
            sink = (unsigned char)(text[0] ^ text[bytes - 1]);
        if (format_get_array_i64(format, key, i, &integer, NULL) == ST_OK) sink = (unsigned char)integer;
        if (format_get_array_double(format, key, i, &number, NULL) == ST_OK) sink = number > 0;
    }
}

static void use(const struct format *format)
{
    for (uint32_t i = 0; i < format_key_count(format); i++) {
        struct buffer text;
        buffer_init(&text, 0);
        const char *key = format_key_at(format, i, &text);
        ASSERT(format_has(format, key));
        use_items(format, key);
        buffer_release(&text);
    }
    for (uint32_t i = 0; i < format_tensor_count(format); i++) {
        const struct format_tensor *tensor = format_tensor_at(format, i);
        const unsigned char *bytes = tensor->data;
        ASSERT(format_tensor_find(format, tensor->name) == tensor);
        sink = (unsigned char)(bytes[0] ^ bytes[tensor->bytes - 1]);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    for (int vocabulary_only = 0; vocabulary_only <= 1; vocabulary_only++) {
        struct format *format;
        struct error error = {0};
        if (format_open_bytes(FORMAT_GGUF, data, size, vocabulary_only, &format, &error) == ST_OK) {
            use(format);
            format_close(format);
        } else {
            ASSERT(error.text[0] != 0);
        }
    }
    return 0;
}
