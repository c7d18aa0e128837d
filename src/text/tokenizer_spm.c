/* tokenizer_spm.c - SentencePiece's byte-pair encoding (Kudo, Richardson 2018): two neighbours merge when their text
 * together is a token, the token with the highest score first; what is no token becomes byte tokens.
 *
 * A fragment is cut where no token goes on (tokenizer.c: find_joins): its parts merge apart from each other, with the
 * same result as all at once, and the parts of ordinary text are words that repeat. */
#include "text/tokenizer_internal.h"

static uint32_t look_up_score(const void *data, const struct merge_pair *pair, uint32_t *merged)
{
    const struct encoding *encoding = data;
    const struct tokenizer *tokenizer = encoding->tokenizer;
    if (pair->end - pair->begin > tokenizer->longest) return MERGE_NONE;
    uint32_t id =
        vocabulary_find(&tokenizer->vocabulary, encoding->spelled.data + pair->begin, pair->end - pair->begin);
    if (id == TOKEN_NONE || !tokenizer_may_merge_into(tokenizer, id)) return MERGE_NONE;
    *merged = id;
    return tokenizer->scores[id];
}

static void add_symbol(struct encoding *encoding, const char *spelled, uint32_t bytes, bool raw)
{
    const struct tokenizer *tokenizer = encoding->tokenizer;
    struct merge_symbol *symbol = &encoding->work.symbols[encoding->work.count++];
    symbol->begin = (uint32_t)encoding->spelled.length;
    symbol->id = SYMBOL_RAW;
    buffer_append(&encoding->spelled, spelled, bytes);
    if (raw) return;
    symbol->id = vocabulary_find(&tokenizer->vocabulary, spelled, bytes);
    if (symbol->id != TOKEN_NONE && !tokenizer_may_merge_into(tokenizer, symbol->id)) symbol->id = TOKEN_NONE;
}

/* Spells [begin, end) of the text, a symbol a character. Stray bytes, and U+2581 itself, which would come back as a
 * space, are raw bytes. */
static void cut(struct encoding *encoding, size_t begin, size_t end)
{
    for (size_t at = begin; at < end;) {
        uint32_t code_point, bytes = utf8_decode(encoding->text + at, end - at, &code_point, NULL);
        if (bytes && code_point == ' ') {
            add_symbol(encoding, SPACE_MARK, SPACE_MARK_BYTES, false);
        } else if (bytes && code_point != 0x2581) {
            add_symbol(encoding, encoding->text + at, bytes, false);
        } else {
            bytes = 1;
            add_symbol(encoding, encoding->text + at, 1, true);
        }
        at += bytes;
    }
}

static enum status push_symbol(struct encoding *encoding, const struct merge_symbol *symbol)
{
    if (symbol->id < encoding->tokenizer->count) return encoding_push(encoding, symbol->id);
    const char *spelled = encoding->spelled.data + symbol[0].begin;
    uint32_t bytes = symbol[1].begin - symbol[0].begin;
    if (bytes == SPACE_MARK_BYTES && memcmp(spelled, SPACE_MARK, bytes) == 0) return encoding_push_byte(encoding, ' ');
    enum status status = ST_OK;
    for (uint32_t i = 0; i < bytes && status == ST_OK; i++)
        status = encoding_push_byte(encoding, (unsigned char)spelled[i]);
    return status;
}

static enum status merge_part(struct encoding *encoding, size_t begin, size_t end, bool spaced)
{
    struct merge_work *work = &encoding->work;
    enum status status = merge_work_reserve(work, end - begin + 1, encoding->error);
    if (status != ST_OK) return status;
    work->count = 0;
    encoding->spelled.length = 0;
    if (spaced) add_symbol(encoding, SPACE_MARK, SPACE_MARK_BYTES, false);
    cut(encoding, begin, end);
    if (encoding->spelled.failed) return error_set(encoding->error, ST_NOMEM, "no memory to tokenize a long word");
    work->symbols[work->count].begin = (uint32_t)encoding->spelled.length;
    status = merge_run(work, look_up_score, encoding, encoding->error);
    for (uint32_t i = 0; i < work->count && status == ST_OK; i++) status = push_symbol(encoding, &work->symbols[i]);
    return status;
}

static enum status encode_part(void *data, size_t begin, size_t end)
{
    return merge_part(data, begin, end, false);
}

enum status encode_spm(struct encoding *encoding, const char *text, size_t bytes)
{
    encoding->text = text;
    enum status status = ST_OK;
    for (size_t at = 0, next; at < bytes && status == ST_OK; at = next) {
        next = encoding_part(encoding, at, bytes);
        status = at == 0 && encoding->tokenizer->adds_space ? merge_part(encoding, at, next, true)
                                                            : encoding_cached(encoding, at, next, encode_part);
    }
    return status;
}
