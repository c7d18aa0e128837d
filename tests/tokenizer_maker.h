/* tokenizer_maker.h - tokenizers for tests: GGUF metadata in memory from a list of tokens, opened. */
#ifndef TESTS_TOKENIZER_MAKER_H
#define TESTS_TOKENIZER_MAKER_H
#include "format/format_internal.h"
#include "gguf_writer.h"
#include "support.h"
#include "text/text.h"

struct maker {
    const char *model, *pre;                  /* pre NULL: no such key */
    json_t *tokens, *types, *merges, *scores; /* arrays, NULL: no such key */
    int bos, eos, adds_bos, adds_space;       /* -1: no such key */
    const char *name;                         /* general.name, or NULL */
};

static inline void maker_texts(struct buffer *file, const char *key, json_t *texts)
{
    size_t i;
    json_t *text;
    gguf_key_array(file, key, GGUF_TEXT, json_array_size(texts));
    json_array_foreach(texts, i, text) gguf_text_bytes(file, json_string_value(text), json_string_length(text));
}

static inline void maker_flag(struct buffer *file, const char *key, int flag)
{
    const unsigned char value = flag > 0;
    gguf_key(file, key, GGUF_BOOL, &value, 1);
}

/* The file's bytes: 13 keys at most, no tensors. */
static inline void maker_write(const struct maker *maker, struct buffer *file)
{
    size_t i;
    json_t *item;
    const unsigned keys = 3u + (maker->pre != NULL) + (maker->types != NULL) + (maker->merges != NULL) +
                          (maker->scores != NULL) + (maker->bos >= 0) + (maker->eos >= 0) + (maker->adds_bos >= 0) +
                          (maker->adds_space >= 0) + (maker->name != NULL);
    gguf_header(file, 3, 0, keys);
    gguf_key_text(file, "general.architecture", "unheard-of");
    gguf_key_text(file, "tokenizer.ggml.model", maker->model);
    maker_texts(file, "tokenizer.ggml.tokens", maker->tokens);
    if (maker->pre) gguf_key_text(file, "tokenizer.ggml.pre", maker->pre);
    if (maker->merges) maker_texts(file, "tokenizer.ggml.merges", maker->merges);
    if (maker->types) {
        gguf_key_array(file, "tokenizer.ggml.token_type", GGUF_I32, json_array_size(maker->types));
        json_array_foreach(maker->types, i, item) gguf_u32(file, (uint32_t)json_integer_value(item));
    }
    if (maker->scores) {
        gguf_key_array(file, "tokenizer.ggml.scores", GGUF_F32, json_array_size(maker->scores));
        json_array_foreach(maker->scores, i, item)
        {
            float score = (float)json_number_value(item);
            buffer_append(file, &score, sizeof score);
        }
    }
    if (maker->bos >= 0) gguf_key_u32(file, "tokenizer.ggml.bos_token_id", (uint32_t)maker->bos);
    if (maker->eos >= 0) gguf_key_u32(file, "tokenizer.ggml.eos_token_id", (uint32_t)maker->eos);
    if (maker->adds_bos >= 0) maker_flag(file, "tokenizer.ggml.add_bos_token", maker->adds_bos);
    if (maker->adds_space >= 0) maker_flag(file, "tokenizer.ggml.add_space_prefix", maker->adds_space);
    if (maker->name) gguf_key_text(file, "general.name", maker->name);
}

/* Opens the tokenizer; nothing of the file is left behind. */
static inline enum status maker_open(const struct maker *maker, struct tokenizer **out, struct error *error)
{
    struct buffer file;
    struct format *format = NULL;
    *out = NULL;
    buffer_init(&file, 0);
    maker_write(maker, &file);
    enum status status = format_open_bytes(FORMAT_GGUF, file.data, file.length, true, &format, error);
    if (status == ST_OK) status = tokenizer_open(format, out, error);
    format_close(format);
    buffer_release(&file);
    return status;
}

static inline json_t *maker_load(const char *name)
{
    char path[600];
    json_error_t why;
    snprintf(path, sizeof path, TEST_DATA "/tokenizer/%s", name);
    json_t *json = json_load_file(path, JSON_ALLOW_NUL, &why);
    if (!json) fail_msg("%s: %s", path, why.text);
    return json;
}

/* A tokenizer over a vocabulary of tests/data/tokenizer: {"tokens", "types", "merges" or "scores", "bos", "eos"}. */
static inline struct maker maker_of(json_t *vocabulary, const char *model, const char *pre)
{
    return (struct maker){.model = model,
                          .pre = pre,
                          .tokens = json_object_get(vocabulary, "tokens"),
                          .types = json_object_get(vocabulary, "types"),
                          .merges = json_object_get(vocabulary, "merges"),
                          .scores = json_object_get(vocabulary, "scores"),
                          .bos = (int)json_integer_value(json_object_get(vocabulary, "bos")),
                          .eos = (int)json_integer_value(json_object_get(vocabulary, "eos")),
                          .adds_bos = -1,
                          .adds_space = -1};
}

static inline struct token_list encode_all(const struct tokenizer *tokenizer, const char *text, size_t bytes,
                                           unsigned flags)
{
    struct token_list list = {0};
    struct error error = {0};
    enum status status = tokenizer_encode(tokenizer, text, bytes, NULL, 0, flags, &list, &error);
    if (status != ST_OK) fail_msg("%s", error.text);
    return list;
}

/* The bytes that the ids stand for; the caller releases the buffer. */
static inline struct buffer decode_all(const struct tokenizer *tokenizer, const struct token_list *list, bool control)
{
    struct buffer text;
    struct detokenizer detokenizer;
    buffer_init(&text, 0);
    detokenizer_init(&detokenizer, tokenizer, control);
    for (size_t i = 0; i < list->count; i++) detokenizer_put(&detokenizer, list->ids[i], &text);
    detokenizer_finish(&detokenizer, &text);
    return text;
}

/* "COUNT:FNV-1a of the ids", as the vectors of tests/data/tokenizer have it. */
static inline void ids_digest(const struct token_list *list, char out[32])
{
    uint32_t hash = 0x811c9dc5;
    for (size_t i = 0; i < list->count; i++)
        for (int byte = 0; byte < 4; byte++) hash = (hash ^ (list->ids[i] >> byte * 8 & 255)) * 0x01000193;
    snprintf(out, 32, "%zu:%08x", list->count, hash);
}

/* Every text of texts.json against the reference's digests, which `digests` holds separated by spaces. */
static inline void check_digests(const struct tokenizer *tokenizer, json_t *texts, const char *digests, unsigned flags,
                                 const char *what)
{
    size_t i;
    json_t *text;
    json_array_foreach(texts, i, text)
    {
        char got[32];
        size_t length = strcspn(digests, " ");
        struct token_list list = encode_all(tokenizer, json_string_value(text), json_string_length(text), flags);
        ids_digest(&list, got);
        if (strlen(got) != length || memcmp(got, digests, length) != 0)
            fail_msg("%s, text %zu: ids %s, the reference has %.*s", what, i, got, (int)length, digests);
        token_list_release(&list);
        digests += length + (digests[length] == ' ');
    }
    assert_int_equal(*digests, 0);
}
#endif
