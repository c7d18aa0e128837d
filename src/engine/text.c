/* text.c - tokenize, bad words and detokenize, as the public library gives them: the tokenizer's own answers, handed to the caller. */
#include "engine/engine_internal.h"
#include <string.h>

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

/* Appends the tokens of `text`, with or without a space before it; those of a text that gives none, or `same` again, are not
 * kept. Returns how many they are. */
static enum status put_variant(const struct tokenizer *tokenizer, const char *text, bool space, size_t same,
                               struct token_list *list, size_t *count, struct error *error)
{
    struct buffer spelled;
    size_t begin = list->count;
    buffer_init(&spelled, 0);
    buffer_text(&spelled, space ? " " : "");
    buffer_text(&spelled, text);
    enum status status = spelled.failed ? error_set(error, ST_NOMEM, "not enough memory for bad words") : ST_OK;
    if (status == ST_OK) status = tokenizer_encode(tokenizer, spelled.data, spelled.length, NULL, 0, 0, list, error);
    buffer_release(&spelled);
    *count = status == ST_OK ? list->count - begin : 0;
    if (*count && *count == same && !memcmp(list->ids + begin - same, list->ids + begin, same * sizeof *list->ids)) {
        list->count = begin;
        *count = 0;
    }
    return status;
}

/* Both variants of every text: their tokens in a row, and counts[2 * text_count], 0 where one is left out. */
static enum status put_variants(const struct tokenizer *tokenizer, const char *const *texts, size_t text_count,
                                struct token_list *list, size_t *counts, struct error *error)
{
    for (size_t i = 0; i < text_count; i++) {
        const char *text = texts[i] ? texts[i] + strspn(texts[i], " ") : "";
        if (!*text) return error_set(error, ST_INVALID, "bad word %zu is empty", i + 1);
        enum status status = put_variant(tokenizer, text, false, 0, list, &counts[2 * i], error);
        if (status == ST_OK)
            status = put_variant(tokenizer, text, true, counts[2 * i], list, &counts[2 * i + 1], error);
        if (status != ST_OK) return status;
    }
    return ST_OK;
}

int kvasir_tokenize_bad_words(const struct kvasir_model *model, const char *const *texts, size_t text_count,
                              struct kvasir_bad_word **out, size_t *count, struct kvasir_error *public_error)
{
    struct error *error = private_error(public_error);
    struct token_list list = {0};
    *out = NULL;
    *count = 0;
    enum status status = model_needs_tokenizer(model, error);
    size_t *counts = mem_zero(2 * text_count, sizeof *counts);
    if (status == ST_OK && !counts) status = error_set(error, ST_NOMEM, "not enough memory for bad words");
    if (status == ST_OK) status = put_variants(model->tokenizer, texts, text_count, &list, counts, error);
    size_t list_bytes = list.count * sizeof *list.ids;
    struct kvasir_bad_word *words = status == ST_OK ? mem_alloc(2 * text_count * sizeof *words + list_bytes) : NULL;
    if (status == ST_OK && !words) status = error_set(error, ST_NOMEM, "not enough memory for bad words");
    if (status == ST_OK) {
        uint32_t *ids = (uint32_t *)(void *)(words + 2 * text_count);
        if (list_bytes) memcpy(ids, list.ids, list_bytes);
        for (size_t i = 0; i < 2 * text_count; ids += counts[i++])
            if (counts[i]) words[(*count)++] = (struct kvasir_bad_word){ids, counts[i]};
        *out = words;
    }
    mem_free(counts);
    token_list_release(&list);
    return (int)status;
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
