/* tokenizer_bpe.c - byte-pair encoding by rank: GPT-2's byte alphabet, the table of merges, and the words of a fragment.
 *
 * Merges work on ids, not on text: each merge of the file is resolved once, when the tokenizer is opened. A merge may
 * pass through a spelling that is no token; such a spelling gets an id past the vocabulary's end and, when it is left over, is
 * written as its bytes' tokens. */
#include "text/tokenizer_internal.h"

/* ---- the byte alphabet: printable bytes are themselves, the others U+0100 and up ---- */

static bool is_printable(unsigned byte)
{
    return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte != 0xAD);
}

uint32_t byte_alphabet_encode(unsigned char byte)
{
    if (is_printable(byte)) return byte;
    if (byte <= 0x20) return 0x100u + byte;
    return byte == 0xAD ? 0x143 : 0x121u + (byte - 0x7F); /* 0x7F … 0xA0 */
}

int byte_alphabet_decode(uint32_t code_point)
{
    if (code_point < 0x100) return is_printable(code_point) ? (int)code_point : -1;
    if (code_point <= 0x120) return (int)code_point - 0x100;
    if (code_point <= 0x142) return (int)code_point - 0x121 + 0x7F;
    return code_point == 0x143 ? 0xAD : -1;
}

/* ---- reading the merges ---- */

#define MERGE_BATCH 32u /* merges whose slots are fetched from memory at the same time */

struct merge_text {
    const char *left, *right;
    uint32_t left_bytes, right_bytes;
    const char *joined;
    uint64_t hashes[3]; /* left, right, joined */
    uint32_t ids[3];
};

static uint32_t find_or_add(struct vocabulary *vocabulary, const char *text, size_t bytes, uint64_t hash,
                            enum status *status, struct error *error)
{
    uint32_t id = vocabulary_find_hashed(vocabulary, text, bytes, hash);
    if (id != TOKEN_NONE || *status != ST_OK) return id;
    id = vocabulary->count;
    *status = vocabulary_append(vocabulary, text, bytes, error);
    if (*status == ST_OK) *status = vocabulary_index(vocabulary, id, id + 1, error);
    return id;
}

static enum status add_merge(struct tokenizer *tokenizer, const struct merge_text *merge, uint32_t rank,
                             struct error *error)
{
    for (int i = 0; i < 3; i++)
        if (!tokenizer_may_merge_into(tokenizer, merge->ids[i])) return ST_OK;
    struct merge_table *table = &tokenizer->merges;
    uint64_t at = merge_hash(merge->ids[0], merge->ids[1]) & table->mask;
    for (uint32_t probes = 0; probes < VOCABULARY_PROBES_MAX; probes++, at = (at + 1) & table->mask) {
        struct merge_slot *slot = &table->slots[at];
        if (slot->rank == MERGE_NONE) {
            *slot = (struct merge_slot){merge->ids[0], merge->ids[1], rank, merge->ids[2]};
            return ST_OK;
        }
        if (slot->left == merge->ids[0] && slot->right == merge->ids[1]) return ST_OK; /* the first has the say */
    }
    return error_set(error, ST_INVALID, "the tokenizer's merges were made to collide (merge %u)", rank);
}

/* Finds the two halves of "left right"; false: this is no merge, and is passed over. */
static bool parse_merge(const char *text, size_t bytes, struct merge_text *merge)
{
    const char *space = bytes > 1 ? memchr(text + 1, ' ', bytes - 1) : NULL;
    if (!space || space + 1 == text + bytes) return false;
    merge->left = text;
    merge->left_bytes = (uint32_t)(space - text);
    merge->right = space + 1;
    merge->right_bytes = (uint32_t)(text + bytes - merge->right);
    return true;
}

/* Merges [first, first + count) of the file. `joined` is scratch. */
static enum status read_batch(struct tokenizer *tokenizer, const struct format *format, uint64_t first, uint32_t count,
                              struct buffer *joined, struct error *error)
{
    struct vocabulary *vocabulary = &tokenizer->vocabulary;
    struct merge_text merges[MERGE_BATCH];
    const char *texts[MERGE_BATCH];
    size_t bytes[MERGE_BATCH], places[MERGE_BATCH];
    joined->length = 0;
    for (uint32_t i = 0; i < count; i++) {
        enum status status =
            format_get_array_text(format, "tokenizer.ggml.merges", first + i, &texts[i], &bytes[i], error);
        if (status != ST_OK) return status;
        places[i] = joined->length;
        merges[i].left = NULL;
        if (!parse_merge(texts[i], bytes[i], &merges[i])) continue;
        buffer_append(joined, merges[i].left, merges[i].left_bytes);
        buffer_append(joined, merges[i].right, merges[i].right_bytes);
    }
    if (joined->failed) return error_set(error, ST_NOMEM, "no memory for the tokenizer's merges");
    for (uint32_t i = 0; i < count; i++) {
        struct merge_text *merge = &merges[i];
        if (!merge->left) continue;
        merge->joined = joined->data + places[i];
        merge->hashes[0] = vocabulary_hash(merge->left, merge->left_bytes);
        merge->hashes[1] = vocabulary_hash(merge->right, merge->right_bytes);
        merge->hashes[2] = vocabulary_hash(merge->joined, merge->left_bytes + merge->right_bytes);
        for (int k = 0; k < 3; k++) vocabulary_prefetch(vocabulary, merge->hashes[k]);
    }
    enum status status = ST_OK;
    for (uint32_t i = 0; i < count && status == ST_OK; i++) {
        struct merge_text *merge = &merges[i];
        if (!merge->left) continue;
        merge->ids[0] = find_or_add(vocabulary, merge->left, merge->left_bytes, merge->hashes[0], &status, error);
        merge->ids[1] = find_or_add(vocabulary, merge->right, merge->right_bytes, merge->hashes[1], &status, error);
        merge->ids[2] = find_or_add(vocabulary, merge->joined, merge->left_bytes + merge->right_bytes, merge->hashes[2],
                                    &status, error);
        if (status == ST_OK)
            __builtin_prefetch(
                &tokenizer->merges.slots[merge_hash(merge->ids[0], merge->ids[1]) & tokenizer->merges.mask], 1);
    }
    for (uint32_t i = 0; i < count && status == ST_OK; i++)
        if (merges[i].left) status = add_merge(tokenizer, &merges[i], (uint32_t)(first + i), error);
    return status;
}

enum status tokenizer_read_merges(struct tokenizer *tokenizer, const struct format *format, struct error *error)
{
    uint64_t count, slots = 64;
    enum status status = format_get_array(format, "tokenizer.ggml.merges", &count, error);
    if (status == ST_NOT_FOUND)
        return error_set(error, ST_INVALID, "the tokenizer has no merges (key 'tokenizer.ggml.merges')");
    if (status != ST_OK) return status;
    if (count > UINT32_MAX / 4) return error_set(error, ST_LIMIT, "the tokenizer has too many merges");
    while (slots < count + count / 2) slots *= 2;
    tokenizer->merges.slots = mem_alloc(slots * sizeof *tokenizer->merges.slots);
    if (!tokenizer->merges.slots) return error_set(error, ST_NOMEM, "no memory for the tokenizer's merges");
    memset(tokenizer->merges.slots, 0xFF, slots * sizeof *tokenizer->merges.slots);
    tokenizer->merges.mask = slots - 1;
    struct buffer joined;
    buffer_init(&joined, 0);
    for (uint64_t first = 0; first < count && status == ST_OK; first += MERGE_BATCH)
        status = read_batch(tokenizer, format, first,
                            count - first < MERGE_BATCH ? (uint32_t)(count - first) : MERGE_BATCH, &joined, error);
    buffer_release(&joined);
    return status;
}

/* ---- encoding ---- */

static uint32_t look_up_rank(const void *data, const struct merge_pair *pair, uint32_t *merged)
{
    const struct tokenizer *tokenizer = data;
    const struct merge_slot *slot = merge_find(&tokenizer->merges, pair->left, pair->right);
    *merged = slot->merged;
    return slot->rank;
}

/* One symbol a byte. */
static void cut_bytes(struct encoding *encoding, size_t begin, size_t end)
{
    struct merge_symbol *symbols = encoding->work.symbols;
    uint32_t count = 0;
    for (size_t at = begin; at < end; at++, count++) {
        symbols[count].id = encoding->tokenizer->byte_ids[(unsigned char)encoding->text[at]];
        symbols[count].begin = (uint32_t)at;
    }
    symbols[count].begin = (uint32_t)end;
    encoding->work.count = count;
}

/* One symbol a character; stray bytes and U+2581 itself, which would come back as a space, are raw bytes. */
static void cut_characters(struct encoding *encoding, size_t begin, size_t end)
{
    const struct tokenizer *tokenizer = encoding->tokenizer;
    struct merge_symbol *symbols = encoding->work.symbols;
    uint32_t count = 0;
    if (encoding->spaced) symbols[count++] = (struct merge_symbol){.id = tokenizer->space_id, .begin = (uint32_t)begin};
    for (size_t at = begin; at < end; count++) {
        uint32_t code_point, bytes = utf8_decode(encoding->text + at, end - at, &code_point, NULL);
        uint32_t id = SYMBOL_RAW;
        if (bytes && code_point == ' ') {
            id = tokenizer->space_id;
        } else if (bytes && code_point != 0x2581) {
            id = vocabulary_find(&tokenizer->vocabulary, encoding->text + at, bytes);
            if (id != TOKEN_NONE && !tokenizer_may_merge_into(tokenizer, id)) id = TOKEN_NONE;
        } else {
            bytes = 1;
        }
        symbols[count].id = id;
        symbols[count].begin = (uint32_t)at;
        at += bytes;
    }
    symbols[count].begin = (uint32_t)end;
    encoding->work.count = count;
}

static enum status push_symbol(struct encoding *encoding, const struct merge_symbol *symbol)
{
    if (symbol->id < encoding->tokenizer->count) return encoding_push(encoding, symbol->id);
    for (uint32_t at = symbol[0].begin; at < symbol[1].begin; at++) {
        enum status status = encoding_push_byte(encoding, (unsigned char)encoding->text[at]);
        if (status != ST_OK) return status;
    }
    return ST_OK;
}

static enum status merge_word(struct encoding *encoding, size_t begin, size_t end)
{
    enum status status = merge_work_reserve(&encoding->work, end - begin + 1, encoding->error);
    if (status != ST_OK) return status;
    if (encoding->tokenizer->algorithm == TOKENIZER_BYTES)
        cut_bytes(encoding, begin, end);
    else
        cut_characters(encoding, begin, end);
    status = merge_run(&encoding->work, look_up_rank, encoding->tokenizer, encoding->error);
    for (uint32_t i = 0; i < encoding->work.count && status == ST_OK; i++)
        status = push_symbol(encoding, &encoding->work.symbols[i]);
    return status;
}

/* The token that spells the whole word, or TOKEN_NONE. */
static uint32_t find_word(struct encoding *encoding, size_t begin, size_t end)
{
    const struct tokenizer *tokenizer = encoding->tokenizer;
    const char *text = encoding->text + begin;
    size_t bytes = end - begin;
    if (tokenizer->algorithm == TOKENIZER_BYTES) {
        encoding->spelled.length = 0;
        for (size_t at = begin; at < end; at++) {
            char character[4];
            uint32_t length = utf8_encode(byte_alphabet_encode((unsigned char)encoding->text[at]), character);
            buffer_append(&encoding->spelled, character, length);
        }
        if (encoding->spelled.failed) return TOKEN_NONE;
        text = encoding->spelled.data;
        bytes = encoding->spelled.length;
    }
    uint32_t id = vocabulary_find(&tokenizer->vocabulary, text, bytes);
    return id < tokenizer->count && tokenizer_may_merge_into(tokenizer, id) ? id : TOKEN_NONE;
}

static enum status encode_word(void *data, size_t begin, size_t end)
{
    struct encoding *encoding = data;
    const struct tokenizer *tokenizer = encoding->tokenizer;
    bool whole = tokenizer->word_is_token;
    if (tokenizer->line_is_token && encoding->text[begin] == '\n') whole = true;
    if (whole) {
        uint32_t id = find_word(encoding, begin, end);
        if (encoding->spelled.failed) return error_set(encoding->error, ST_NOMEM, "no memory to tokenize a long word");
        if (id != TOKEN_NONE) return encoding_push(encoding, id);
    }
    return merge_word(encoding, begin, end);
}

static enum status encode_cached(void *data, size_t begin, size_t end)
{
    struct encoding *encoding = data;
    enum status status = ST_OK;
    while (begin < end && status == ST_OK) {
        size_t next = encoding->tokenizer->algorithm == TOKENIZER_PLAIN ? encoding_part(encoding, begin, end) : end;
        status =
            encoding->spaced ? merge_word(encoding, begin, next) : encoding_cached(encoding, begin, next, encode_word);
        encoding->spaced = false;
        begin = next;
    }
    return status;
}

enum status encode_bpe(struct encoding *encoding, const char *text, size_t bytes)
{
    encoding->text = text;
    return pretokenizer_split(encoding->tokenizer->pretokenizer, text, bytes, encode_cached, encoding, encoding->error);
}
