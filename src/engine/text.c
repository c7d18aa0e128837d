/* text.c - tokenize and detokenize, as the public library gives them: the tokenizer's own answers, handed to the caller. */
#include "engine/engine_internal.h"

_Static_assert((int)KVASIR_ADD_SPECIAL == (int)TOKENIZE_ADD_SPECIAL &&
                   (int)KVASIR_PARSE_SPECIAL == (int)TOKENIZE_PARSE_SPECIAL,
               "flags are the tokenizer's");

int kvasir_tokenize(const struct kvasir_model *model, const char *text, size_t bytes, unsigned flags, uint32_t **ids,
                    size_t *count, struct kvasir_error *public_error)
{
    struct error *error = private_error(public_error);
    struct token_list list = {0};
    *ids = NULL;
    *count = 0;
    enum status status = model_needs_tokenizer(model, error);
    if (status == ST_OK)
        status = tokenizer_encode(model->tokenizer, text, bytes, NULL, 0,
                                  flags & (KVASIR_ADD_SPECIAL | KVASIR_PARSE_SPECIAL), &list, error);
    if (status != ST_OK) {
        token_list_release(&list);
        return (int)status;
    }
    *ids = list.ids; /* ownership goes with the pointer */
    *count = list.count;
    return KVASIR_OK;
}

int kvasir_detokenize(const struct kvasir_model *model, const uint32_t *ids, size_t count, unsigned flags, char **text,
                      size_t *bytes, struct kvasir_error *public_error)
{
    struct error *error = private_error(public_error);
    *text = NULL;
    *bytes = 0;
    enum status status = model_needs_tokenizer(model, error);
    if (status != ST_OK) return (int)status;
    uint32_t size = tokenizer_vocabulary_size(model->tokenizer);
    for (size_t i = 0; i < count; i++)
        if (ids[i] >= size)
            return (int)error_set(error, ST_INVALID, "token %u: the vocabulary ends at %u", ids[i], size - 1);
    struct detokenizer detokenizer;
    struct buffer out;
    buffer_init(&out, 0);
    detokenizer_init(&detokenizer, model->tokenizer, (flags & KVASIR_SHOW_CONTROL) != 0);
    for (size_t i = 0; i < count; i++) detokenizer_put(&detokenizer, ids[i], &out);
    detokenizer_finish(&detokenizer, &out);
    *bytes = out.length;
    *text = buffer_take(&out);
    if (*text) return KVASIR_OK;
    *bytes = 0;
    return (int)error_set(error, ST_NOMEM, "not enough memory for the text of %zu tokens", count);
}
