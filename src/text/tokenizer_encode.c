/* tokenizer_encode.c - one encoding: special tokens first, then the text between them, word by word. */
#include "text/tokenizer_internal.h"
#include <utf8proc.h>

/* Symbols are counted in 32 bits, and a space may be spelled with three bytes. */
#define TEXT_BYTES_MAX (UINT32_MAX / 8)
/* Below this many bytes a cache costs more than it saves. */
#define WORD_CACHE_WORTH_BYTES 4096u

enum status encoding_push(struct encoding *encoding, uint32_t id)
{
    struct token_list *out = encoding->out;
    if (out->count == out->capacity) {
        size_t capacity = out->capacity + out->capacity / 2 + 64;
        uint32_t *ids = mem_resize(out->ids, capacity * sizeof *ids);
        if (!ids) return error_set(encoding->error, ST_NOMEM, "no memory for the tokens of a text");
        out->ids = ids;
        out->capacity = capacity;
    }
    out->ids[out->count++] = id;
    return ST_OK;
}

enum status encoding_push_byte(struct encoding *encoding, unsigned char byte)
{
    const struct tokenizer *tokenizer = encoding->tokenizer;
    uint32_t id = tokenizer->byte_ids[byte];
    if (id == TOKEN_NONE && tokenizer->algorithm == TOKENIZER_SCORES) id = tokenizer->unknown;
    return id == TOKEN_NONE ? ST_OK : encoding_push(encoding, id);
}

size_t encoding_part(const struct encoding *encoding, size_t begin, size_t end)
{
    const unsigned char *text = (const unsigned char *)encoding->text;
    size_t at = begin + 1;
    while (at < end && ((text[at] & 0xC0) == 0x80 || encoding->tokenizer->joins[text[at - 1]][text[at]])) at++;
    return at;
}

enum status encoding_cached(struct encoding *encoding, size_t begin, size_t end,
                            enum status (*encode)(void *encoding, size_t begin, size_t end))
{
    const size_t bytes = end - begin, count = encoding->out->count;
    if (!encoding->cache || bytes > WORD_CACHE_BYTES_MAX) return encode(encoding, begin, end);
    char text[WORD_CACHE_BYTES_MAX] = {0};
    uint64_t halves[2];
    memcpy(text, encoding->text + begin, bytes);
    memcpy(halves, text, sizeof halves);
    uint64_t hash = vocabulary_mix(halves[0] ^ 0x9E3779B97F4A7C15u, halves[1] ^ 0xD6E8FEB86659FD93u ^ bytes);
    struct word_cache_entry *entry = &encoding->cache[hash % WORD_CACHE_ENTRIES];
    enum status status = ST_OK;
    if (entry->bytes == bytes && memcmp(entry->text, text, sizeof text) == 0) {
        for (uint32_t i = 0; i < entry->count && status == ST_OK; i++) status = encoding_push(encoding, entry->ids[i]);
        return status;
    }
    status = encode(encoding, begin, end);
    const size_t added = encoding->out->count - count;
    if (status != ST_OK || added > WORD_CACHE_IDS_MAX) return status;
    memcpy(entry->text, text, sizeof text);
    if (added) memcpy(entry->ids, encoding->out->ids + count, added * sizeof *entry->ids);
    entry->bytes = (uint8_t)bytes;
    entry->count = (uint8_t)added;
    return ST_OK;
}

/* The fragment in Unicode's normal form: the text itself where it has that or is not well-formed; *owned: mem_free. */
static enum status normalize(const struct encoding *encoding, const char **text, size_t *bytes, char **owned)
{
    const utf8proc_option_t form =
        UTF8PROC_STABLE | UTF8PROC_COMPOSE | (encoding->tokenizer->compatible ? UTF8PROC_COMPAT : 0);
    const utf8proc_uint8_t *from = (const utf8proc_uint8_t *)*text;
    const utf8proc_ssize_t length = (utf8proc_ssize_t)*bytes;
    size_t ascii = 0;
    while (ascii < *bytes && (unsigned char)(*text)[ascii] < 0x80) ascii++;
    if (ascii == *bytes) return ST_OK;
    const utf8proc_ssize_t most = utf8proc_decompose(from, length, NULL, 0, form);
    if (most <= 0) return ST_OK;
    utf8proc_int32_t *points = mem_alloc(((size_t)most + 1) * sizeof *points); /* and a zero after the bytes */
    if (!points) return error_set(encoding->error, ST_NOMEM, "no memory to normalize a text");
    utf8proc_ssize_t count = utf8proc_decompose(from, length, points, most, form);
    count = utf8proc_reencode(points, count, form);
    ASSERT(count >= 0);
    *text = *owned = (char *)points;
    *bytes = (size_t)count;
    return ST_OK;
}

/* In place of U+2581 a space, which it spells. */
static enum status spaces_for_marks(const struct encoding *encoding, const char **text, size_t *bytes, char **owned)
{
    if (!memmem(*text, *bytes, SPACE_MARK, SPACE_MARK_BYTES)) return ST_OK;
    char *out = mem_alloc(*bytes);
    if (!out) return error_set(encoding->error, ST_NOMEM, "no memory to tokenize a text");
    size_t count = 0;
    for (size_t at = 0; at < *bytes; count++) {
        bool mark = *bytes - at >= SPACE_MARK_BYTES && memcmp(*text + at, SPACE_MARK, SPACE_MARK_BYTES) == 0;
        out[count] = mark ? ' ' : (*text)[at];
        at += mark ? SPACE_MARK_BYTES : 1;
    }
    mem_free(*owned);
    *text = *owned = out;
    *bytes = count;
    return ST_OK;
}

/* What lies between special tokens; `first`: no text came before. */
static enum status encode_fragment(struct encoding *encoding, const char *text, size_t bytes, bool first)
{
    const struct tokenizer *tokenizer = encoding->tokenizer;
    char *owned = NULL;
    if (!bytes) return ST_OK;
    if (tokenizer->algorithm == TOKENIZER_SCORES) return encode_spm(encoding, text, bytes);
    enum status status = tokenizer->normalizes ? normalize(encoding, &text, &bytes, &owned) : ST_OK;
    if (status == ST_OK && tokenizer->mark_is_space) status = spaces_for_marks(encoding, &text, &bytes, &owned);
    encoding->spaced = tokenizer->adds_space && (first || !tokenizer->adds_space_first) &&
                       !(tokenizer->adds_space_missing && bytes && text[0] == ' ');
    if (status == ST_OK && bytes) status = encode_bpe(encoding, text, bytes);
    mem_free(owned);
    return status;
}

static enum status encode_text(struct encoding *encoding, const char *text, size_t bytes,
                               const struct special_match *specials, size_t special_count)
{
    size_t at = 0;
    enum status status = ST_OK;
    for (size_t i = 0; i < special_count && status == ST_OK; i++) {
        status = encode_fragment(encoding, text + at, specials[i].taken_begin - at, at == 0);
        if (status == ST_OK) status = encoding_push(encoding, specials[i].id);
        at = specials[i].taken_end;
    }
    return status == ST_OK ? encode_fragment(encoding, text + at, bytes - at, at == 0) : status;
}

enum status tokenizer_encode(const struct tokenizer *tokenizer, const char *text, size_t bytes,
                             const struct text_range *literal, size_t literal_count, unsigned flags,
                             struct token_list *out, struct error *error)
{
    if (!bytes) return ST_OK;
    if (bytes > TEXT_BYTES_MAX)
        return error_set(error, ST_LIMIT, "a text of %zu bytes is too long to tokenize (at most %u)", bytes,
                         TEXT_BYTES_MAX);
    const size_t count = out->count;
    struct special_match *specials;
    size_t special_count;
    enum status status = tokenizer_find_specials(tokenizer, text, bytes, literal, literal_count,
                                                 flags & TOKENIZE_PARSE_SPECIAL, &specials, &special_count, error);
    if (status != ST_OK) return status;
    struct encoding encoding = {.tokenizer = tokenizer, .out = out, .error = error};
    buffer_init(&encoding.spelled, 0);
    if (bytes >= WORD_CACHE_WORTH_BYTES)
        encoding.cache = mem_zero(WORD_CACHE_ENTRIES, sizeof *encoding.cache); /* none: only slower */
    if (flags & TOKENIZE_ADD_SPECIAL && tokenizer->adds_bos) status = encoding_push(&encoding, tokenizer->bos);
    if (status == ST_OK) status = encode_text(&encoding, text, bytes, specials, special_count);
    if (status == ST_OK && flags & TOKENIZE_ADD_SPECIAL && tokenizer->adds_eos)
        status = encoding_push(&encoding, tokenizer->eos);
    if (status != ST_OK) out->count = count;
    merge_work_release(&encoding.work);
    buffer_release(&encoding.spelled);
    mem_free(encoding.cache);
    mem_free(specials);
    return status;
}

void token_list_release(struct token_list *list)
{
    mem_free(list->ids);
    *list = (struct token_list){0};
}
