/* fuzz_tokenizer.c - hostile vocabularies and hostile texts.
 *
 * The input is read as: a byte for the algorithm and the flags; then records of a length byte and that many bytes, each a
 * token (its first byte: type and score) or a merge, until a record of length 255; the rest is the text. Bytes 0…255 are in
 * the vocabulary already where the input asks for it. Whatever was opened must encode, decode, and keep its word: no control
 * tokens from text that is not to be parsed, and with all bytes in the vocabulary the same bytes back. */
#include "../gguf_writer.h"
#include "format/format_internal.h"
#include "text/tokenizer_internal.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { ALPHABET = 4, SPACE = 8, PARSE = 16 }; /* bits of the first byte; its low two: the algorithm */

struct recipe {
    struct buffer tokens, types, scores, merges;
    uint64_t token_count, merge_count;
    unsigned choice;
};

static void add_token(struct recipe *recipe, const char *text, size_t bytes, uint8_t head)
{
    float score = (float)(int8_t)head;
    gguf_text_bytes(&recipe->tokens, text, bytes);
    gguf_u32(&recipe->types, head % 8);
    buffer_append(&recipe->scores, &score, sizeof score);
    recipe->token_count++;
}

static void add_alphabet(struct recipe *recipe)
{
    for (unsigned byte = 0; byte < 256; byte++) {
        char text[8];
        bool pieces = recipe->choice % 4 >= 2;
        int bytes = pieces ? snprintf(text, sizeof text, "<0x%02X>", byte)
                           : (int)utf8_encode(byte_alphabet_encode((unsigned char)byte), text);
        add_token(recipe, text, (size_t)bytes, pieces ? 6 : 1);
    }
}

static void write_file(struct recipe *recipe, struct buffer *file)
{
    static const char *const pres[] = {"llama-bpe", "deepseek-v3", "gemma4", "default"};
    const unsigned char space = (recipe->choice & SPACE) != 0;
    gguf_header(file, 3, 0, 10);
    gguf_key_text(file, "general.architecture", "llama");
    gguf_key_text(file, "tokenizer.ggml.model", recipe->choice % 4 == 3 ? "llama" : "gpt2");
    gguf_key_text(file, "tokenizer.ggml.pre", pres[recipe->choice % 4]);
    gguf_key_array(file, "tokenizer.ggml.tokens", GGUF_TEXT, recipe->token_count);
    buffer_append(file, recipe->tokens.data, recipe->tokens.length);
    gguf_key_array(file, "tokenizer.ggml.token_type", GGUF_I32, recipe->token_count);
    buffer_append(file, recipe->types.data, recipe->types.length);
    gguf_key_array(file, "tokenizer.ggml.scores", GGUF_F32, recipe->token_count);
    buffer_append(file, recipe->scores.data, recipe->scores.length);
    gguf_key_array(file, "tokenizer.ggml.merges", GGUF_TEXT, recipe->merge_count);
    buffer_append(file, recipe->merges.data, recipe->merges.length);
    gguf_key_u32(file, "tokenizer.ggml.bos_token_id", recipe->choice >> 5);
    gguf_key_text(file, "general.name", recipe->choice & 128 ? "phi-3" : "");
    gguf_key(file, "tokenizer.ggml.add_space_prefix", GGUF_BOOL, &space, 1);
}

/* The records; returns how many bytes of the input they took. */
static size_t read_records(struct recipe *recipe, const uint8_t *data, size_t size)
{
    size_t at = 0;
    while (at < size && data[at] != 255) {
        size_t bytes = data[at++];
        if (bytes > size - at) bytes = size - at;
        const char *text = (const char *)data + at;
        if (bytes > 1 && data[at] & 128) {
            gguf_text_bytes(&recipe->merges, text + 1, bytes - 1);
            recipe->merge_count++;
        } else if (bytes) {
            add_token(recipe, text + 1, bytes - 1, data[at]);
        }
        at += bytes;
    }
    return at < size ? at + 1 : at;
}

static void check(const struct tokenizer *tokenizer, const char *text, size_t bytes, unsigned choice)
{
    const unsigned flags = TOKENIZE_ADD_SPECIAL | (choice & PARSE ? TOKENIZE_PARSE_SPECIAL : 0);
    const struct text_range all = {0, bytes};
    struct token_list list = {0}, literal = {0}, bare = {0};
    struct buffer back;
    struct detokenizer detokenizer;
    buffer_init(&back, 0);
    ASSERT(tokenizer_encode(tokenizer, text, bytes, NULL, 0, flags, &list, NULL) == ST_OK);
    ASSERT(tokenizer_encode(tokenizer, text, bytes, &all, 1, TOKENIZE_PARSE_SPECIAL, &literal, NULL) == ST_OK);
    ASSERT(tokenizer_encode(tokenizer, text, bytes, NULL, 0, 0, &bare, NULL) == ST_OK);
    ASSERT(literal.count == bare.count);
    bool strips = false;
    detokenizer_init(&detokenizer, tokenizer, true);
    for (size_t i = 0; i < bare.count; i++) {
        ASSERT(literal.ids[i] == bare.ids[i]);
        ASSERT(tokenizer_kind(tokenizer, bare.ids[i]) != TOKEN_CONTROL);
        strips = strips || tokenizer->traits[bare.ids[i]] & (TRAIT_LSTRIP | TRAIT_RSTRIP);
        detokenizer_put(&detokenizer, bare.ids[i], &back);
    }
    detokenizer_finish(&detokenizer, &back);
    bool every_byte = true;
    for (int byte = 0; byte < 256; byte++) every_byte = every_byte && tokenizer->byte_ids[byte] != TOKEN_NONE;
    if (every_byte && !strips) {
        ASSERT(back.length == bytes);
        ASSERT(!bytes || memcmp(back.data, text, bytes) == 0);
    }
    token_list_release(&list);
    token_list_release(&literal);
    token_list_release(&bare);
    buffer_release(&back);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!size) return 0;
    struct recipe recipe = {.choice = data[0]};
    struct buffer file;
    struct format *format = NULL;
    struct tokenizer *tokenizer = NULL;
    buffer_init(&file, 0);
    if (recipe.choice & ALPHABET) add_alphabet(&recipe);
    size_t at = 1 + read_records(&recipe, data + 1, size - 1);
    write_file(&recipe, &file);
    ASSERT(format_open_bytes(FORMAT_GGUF, file.data, file.length, true, &format, NULL) == ST_OK);
    if (tokenizer_open(format, &tokenizer, NULL) == ST_OK)
        check(tokenizer, (const char *)data + at, size - at, recipe.choice);
    tokenizer_close(tokenizer);
    format_close(format);
    buffer_release(&file);
    buffer_release(&recipe.tokens);
    buffer_release(&recipe.types);
    buffer_release(&recipe.scores);
    buffer_release(&recipe.merges);
    return 0;
}
