/* fuzz_safetensors.c - any bytes as a safetensors file. */
#include "format/format_internal.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static volatile unsigned char sink;
    struct format *format;
    struct error error = {0};
    if (format_open_bytes(FORMAT_HUGGING_FACE, data, size, false, &format, &error) != ST_OK) {
        ASSERT(error.text[0] != 0);
        return 0;
    }
    for (uint32_t i = 0; i < format_tensor_count(format); i++) {
        const struct format_tensor *tensor = format_tensor_at(format, i);
        const unsigned char *bytes = tensor->data;
        ASSERT(format_tensor_find(format, tensor->name) == tensor);
        sink = (unsigned char)(bytes[0] ^ bytes[tensor->bytes - 1]);
    }
    (void)sink;
    format_close(format);
    return 0;
}
