/* fuzz_config.c - any bytes as a config.json. */
#include "format/format_internal.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct format format = {.kind = FORMAT_HUGGING_FACE, .vocabulary_only = true};
    const struct hugging_face_row *row;
    struct error error = {0};
    json_t *config = NULL;
    arena_init(&format.arena);
    enum status status = json_read(data, size, 1 << 16, &config, &error);
    if (status == ST_OK) status = hugging_face_config(&format, config, &row, &error);
    if (status == ST_OK) status = format_finish(&format, &error);
    for (uint32_t i = 0; status == ST_OK && i < format_key_count(&format); i++) {
        struct buffer text;
        buffer_init(&text, 0);
        ASSERT(format_has(&format, format_key_at(&format, i, &text)));
        buffer_release(&text);
    }
    ASSERT(status == ST_OK || error.text[0] != 0);
    json_decref(config);
    mem_free(format.values);
    mem_free(format.value_order);
    mem_free(format.tensor_order);
    arena_release(&format.arena);
    return 0;
}
