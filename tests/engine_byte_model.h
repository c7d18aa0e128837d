/* engine_byte_model.h - a second model beside that of engine_requests.h, whose tokens are bytes. */
#ifndef TESTS_ENGINE_BYTE_MODEL_H
#define TESTS_ENGINE_BYTE_MODEL_H
#include "engine_requests.h"
#include "scratch.h"
#include "tiny_gguf.h"

static struct kvasir_model *bytes; /* every byte is a token: texts are easily made and checked */

static inline int setup_both(void **state)
{
    struct scratch scratch;
    struct buffer file;
    struct kvasir_error error = {0};
    buffer_init(&file, 0);
    tiny_gguf_write(&file);
    scratch_init(&scratch);
    scratch_write(&scratch, "tiny.gguf", file.data, file.length);
    buffer_release(&file);
    if (kvasir_model_open(scratch_path(&scratch, "tiny.gguf"), &(struct kvasir_model_options){.threads = 2}, &bytes,
                          &error) != KVASIR_OK)
        fail_msg("%s", error.text);
    scratch_release(&scratch);
    return setup(state);
}

static inline int teardown_both(void **state)
{
    kvasir_model_close(bytes);
    return teardown(state);
}

#endif
