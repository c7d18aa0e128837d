/* tokenizer.c - opens a tokenizer from a model's metadata (hostile bytes: every id, length and merge is checked), and
 * answers what is asked of its vocabulary. Nothing is borrowed from the file afterwards.
 *
 * Other tokenizer models (WordPiece, Unigram, RWKV, …) are refused by name. */
#include "text/tokenizer_internal.h"

#define TOKENS_MAX (1u << 26)

/* ---- vocabulary ---- */

static enum status read_tokens(struct tokenizer *tokenizer, const struct format *format, struct error *error)
{
    uint64_t count, total = 0;
    const char *text;
    size_t bytes;
    enum status status = format_get_array(format, "tokenizer.ggml.tokens", &count, error);
    if (status == ST_NOT_FOUND)
        return error_set(error, ST_INVALID, "the tokenizer has no vocabulary (key 'tokenizer.ggml.tokens')");
    if (status != ST_OK) return status;
    if (count == 0 || count > TOKENS_MAX)
        return error_set(error, ST_INVALID, "a vocabulary of %llu tokens cannot be right", (unsigned long long)count);
    if ((status = format_get_array_text(format, "tokenizer.ggml.tokens", 0, &text, &bytes, error)) != ST_OK)
        return status;
    tokenizer->count = (uint32_t)count;
    tokenizer->kinds = mem_zero(count, 1);
    tokenizer->traits = mem_zero(count, 1);
    if (!tokenizer->kinds || !tokenizer->traits) return error_set(error, ST_NOMEM, "no memory for the vocabulary");
    status = vocabulary_init(&tokenizer->vocabulary, tokenizer->count, count * 8, error);
    for (uint64_t id = 0; id < count && status == ST_OK; id++) {
        status = format_get_array_text(format, "tokenizer.ggml.tokens", id, &text, &bytes, error);
        if (status != ST_OK) break;
        total += bytes;
        if (bytes > tokenizer->longest) tokenizer->longest = (uint32_t)bytes;
        if (total > UINT32_MAX) return error_set(error, ST_LIMIT, "the tokenizer's vocabulary is larger than 4 GiB");
        status = vocabulary_append(&tokenizer->vocabulary, text, bytes, error);
    }
    return status == ST_OK ? vocabulary_index(&tokenizer->vocabulary, 0, tokenizer->count, error) : status;
}

/* An array that, where it is there, has an item for every token. */
static enum status check_array(const struct tokenizer *tokenizer, const struct format *format, const char *key,
                               bool *there, struct error *error)
{
    uint64_t count;
    *there = format_has(format, key);
    if (!*there) return ST_OK;
    enum status status = format_get_array(format, key, &count, error);
    if (status != ST_OK) return status;
    if (count < tokenizer->count)
        return error_set(error, ST_INVALID, "'%s' has %llu items for %u tokens", key, (unsigned long long)count,
                         tokenizer->count);
    return ST_OK;
}

static enum status read_kinds(struct tokenizer *tokenizer, const struct format *format, struct error *error)
{
    static const uint8_t kinds[] = {TOKEN_NORMAL,       TOKEN_NORMAL, TOKEN_UNKNOWN, TOKEN_CONTROL,
                                    TOKEN_USER_DEFINED, TOKEN_UNUSED, TOKEN_BYTE}; /* by GGUF's numbers */
    const char *key = "tokenizer.ggml.token_type";
    bool there;
    enum status status = check_array(tokenizer, format, key, &there, error);
    if (status != ST_OK || !there) return status; /* all TOKEN_NORMAL */
    for (uint32_t id = 0; id < tokenizer->count; id++) {
        int64_t type;
        if ((status = format_get_array_i64(format, key, id, &type, error)) != ST_OK) return status;
        if (type >= 0 && type < (int64_t)ARRAY_COUNT(kinds)) tokenizer->kinds[id] = kinds[type];
    }
    return ST_OK;
}

static enum status read_scores(struct tokenizer *tokenizer, const struct format *format, struct error *error)
{
    const char *key = "tokenizer.ggml.scores";
    bool there;
    enum status status = check_array(tokenizer, format, key, &there, error);
    if (status != ST_OK) return status;
    tokenizer->scores = mem_zero(tokenizer->count, sizeof *tokenizer->scores); /* no scores: all the same */
    if (!tokenizer->scores) return error_set(error, ST_NOMEM, "no memory for the tokenizer's scores");
    if (!there) return ST_OK;
    for (uint32_t id = 0; id < tokenizer->count; id++) {
        double score;
        if ((status = format_get_array_double(format, key, id, &score, error)) != ST_OK) return status;
        tokenizer->scores[id] = merge_key_of_score((float)score);
    }
    return ST_OK;
}

/* ---- special ids and flags ---- */

/* The id a key names; TOKEN_NONE when there is no such key or the vocabulary has no such token. */
static enum status read_id(const struct tokenizer *tokenizer, const struct format *format, const char *key,
                           uint32_t *id, struct error *error)
{
    uint64_t value;
    *id = TOKEN_NONE;
    if (!format_has(format, key)) return ST_OK;
    enum status status = format_get_u64(format, key, &value, error);
    if (status == ST_INVALID) return ST_OK; /* -1: none */
    if (status == ST_OK && value < tokenizer->count) *id = (uint32_t)value;
    return status;
}

static enum status read_flag(const struct format *format, const char *key, bool *flag, struct error *error)
{
    return format_has(format, key) ? format_get_bool(format, key, flag, error) : ST_OK;
}

/* A key that only a Hugging Face folder's own files give, before the one that config.json gives too. */
static const char *tokenizer_key(const struct format *format, const char *key, const char *otherwise)
{
    return format_has(format, key) ? key : otherwise;
}

/* config.json's list, or generation_config.json's. */
static enum status read_listed_ends(struct tokenizer *tokenizer, const struct format *format, const char *key,
                                    struct error *error)
{
    uint64_t count = 0;
    enum status status = format_has(format, key) ? format_get_array(format, key, &count, error) : ST_OK;
    for (uint64_t i = 0; i < count && status == ST_OK; i++) {
        int64_t id = 0;
        status = format_get_array_i64(format, key, i, &id, error);
        if (status == ST_OK && id >= 0 && id < (int64_t)tokenizer->count) tokenizer->traits[id] |= TRAIT_END;
    }
    return status;
}

static enum status read_special_ids(struct tokenizer *tokenizer, const struct format *format, struct error *error)
{
    static const char *const end_keys[] = {"tokenizer.ggml.eos_token_id",     "tokenizer.ggml.eot_token_id",
                                           "tokenizer.ggml.eom_token_id",     "tokenizer.ggml.fim_pad_token_id",
                                           "tokenizer.ggml.fim_rep_token_id", "tokenizer.ggml.fim_sep_token_id"};
    const bool scores = tokenizer->algorithm == TOKENIZER_SCORES;
    const struct {
        const char *key;
        uint32_t *id, otherwise;
    } keys[] = {
        {tokenizer_key(format, "tokenizer.kvasir.bos_token_id", "tokenizer.ggml.bos_token_id"), &tokenizer->bos, 1},
        {tokenizer_key(format, "tokenizer.kvasir.eos_token_id", "tokenizer.ggml.eos_token_id"), &tokenizer->eos, 2},
        {"tokenizer.ggml.unknown_token_id", &tokenizer->unknown, 0}};
    uint32_t ends[ARRAY_COUNT(end_keys) + 1];
    enum status status;
    for (size_t i = 0; i < ARRAY_COUNT(keys); i++) {
        if ((status = read_id(tokenizer, format, keys[i].key, keys[i].id, error)) != ST_OK) return status;
        if (*keys[i].id == TOKEN_NONE && scores && keys[i].otherwise < tokenizer->count)
            *keys[i].id = keys[i].otherwise; /* SentencePiece's own numbers */
    }
    for (size_t i = 0; i < ARRAY_COUNT(end_keys); i++)
        if ((status = read_id(tokenizer, format, end_keys[i], &ends[i], error)) != ST_OK) return status;
    ends[ARRAY_COUNT(end_keys)] = tokenizer->eos;
    tokenizer_mark_ends(tokenizer, ends, ARRAY_COUNT(ends));
    status = read_listed_ends(tokenizer, format, "tokenizer.kvasir.eos_token_ids", error);
    if (status == ST_OK) status = read_listed_ends(tokenizer, format, "tokenizer.kvasir.end_token_ids", error);
    if (status != ST_OK) return status;
    if (tokenizer->unknown != TOKEN_NONE && tokenizer->kinds[tokenizer->unknown] == TOKEN_CONTROL)
        tokenizer->unknown = TOKEN_NONE; /* a character that the vocabulary lacks is no control token */
    return ST_OK;
}

static bool contains(const char *text, size_t bytes, const char *part)
{
    const size_t length = strlen(part);
    for (size_t at = 0; at + length <= bytes; at++) {
        size_t same = 0;
        while (same < length && (text[at + same] | 0x20) == part[same]) same++; /* parts hold no upper case */
        if (same == length) return true;
    }
    return false;
}

/* GGUF has no place for it, but Phi-3's special tokens take the white space after them. */
static void mark_phi3(struct tokenizer *tokenizer, const struct format *format)
{
    static const char *const others[] = {"<unk>", "<s>", "<|endoftext|>"};
    const char *name;
    size_t bytes;
    if (format_get_text(format, "general.name", &name, &bytes, NULL) != ST_OK) return;
    if (!contains(name, bytes, "phi-3") && !contains(name, bytes, "phi3")) return;
    for (uint32_t i = 0; i < tokenizer->special_count; i++) tokenizer->traits[tokenizer->specials[i]] |= TRAIT_RSTRIP;
    for (size_t i = 0; i < ARRAY_COUNT(others); i++) {
        uint32_t id = tokenizer_find(tokenizer, others[i], strlen(others[i]));
        if (id != TOKEN_NONE) tokenizer->traits[id] &= (uint8_t)~TRAIT_RSTRIP;
    }
}

/* What tokenizer.json says of single tokens: the white space that each takes. */
static enum status read_strips(struct tokenizer *tokenizer, const struct format *format, struct error *error)
{
    const char *key = "tokenizer.kvasir.token_strip";
    bool there;
    enum status status = check_array(tokenizer, format, key, &there, error);
    for (uint32_t id = 0; id < tokenizer->count && there && status == ST_OK; id++) {
        int64_t strip = 0;
        status = format_get_array_i64(format, key, id, &strip, error);
        if (strip & 1) tokenizer->traits[id] |= TRAIT_LSTRIP;
        if (strip & 2) tokenizer->traits[id] |= TRAIT_RSTRIP;
    }
    return status;
}

static bool text_is(const struct format *format, const char *key, const char *wanted)
{
    const char *text;
    size_t bytes;
    return format_get_text(format, key, &text, &bytes, NULL) == ST_OK && bytes == strlen(wanted) &&
           memcmp(text, wanted, bytes) == 0;
}

/* What tokenizer.json says of texts before they are cut. */
static void read_preparation(struct tokenizer *tokenizer, const struct format *format)
{
    tokenizer->compatible = text_is(format, "tokenizer.kvasir.normalization", "NFKC");
    tokenizer->normalizes = tokenizer->compatible || text_is(format, "tokenizer.kvasir.normalization", "NFC");
    if (tokenizer->algorithm != TOKENIZER_PLAIN) return;
    tokenizer->mark_is_space = text_is(format, "tokenizer.ggml.model", "sentencepiece-bpe");
    tokenizer->adds_space = format_has(format, "tokenizer.kvasir.space");
    tokenizer->adds_space_first = text_is(format, "tokenizer.kvasir.space", "first");
    tokenizer->adds_space_missing = tokenizer->adds_space && !text_is(format, "tokenizer.kvasir.space", "prepend");
}

static enum status read_flags(struct tokenizer *tokenizer, const struct format *format, struct error *error)
{
    enum status status = read_flag(format, "tokenizer.ggml.add_bos_token", &tokenizer->adds_bos, error);
    if (status == ST_OK) status = read_flag(format, "tokenizer.ggml.add_eos_token", &tokenizer->adds_eos, error);
    if (status == ST_OK && tokenizer->algorithm == TOKENIZER_SCORES)
        status = read_flag(format, "tokenizer.ggml.add_space_prefix", &tokenizer->adds_space, error);
    if (tokenizer->pretokenizer) { /* Gemma 4's files say no and mean yes */
        const struct pretokenizer_traits *traits = pretokenizer_traits(tokenizer->pretokenizer);
        if (traits->plain && traits->adds_bos) tokenizer->adds_bos = true;
    }
    if (tokenizer->bos == TOKEN_NONE) tokenizer->adds_bos = false;
    if (tokenizer->eos == TOKEN_NONE) tokenizer->adds_eos = false;
    return status;
}

/* ---- what may merge ---- */

/* Would the token, given out as text, be the very bytes that merged into it? */
static bool is_text(const struct tokenizer *tokenizer, uint32_t id)
{
    uint8_t kind = tokenizer->kinds[id];
    uint32_t bytes;
    const char *spelling = vocabulary_spelling(&tokenizer->vocabulary, id, &bytes);
    if (kind == TOKEN_NORMAL || kind == TOKEN_UNUSED) return true;
    if (kind != TOKEN_USER_DEFINED) return false;
    if (tokenizer->algorithm != TOKENIZER_BYTES) return !memmem(spelling, bytes, SPACE_MARK, SPACE_MARK_BYTES);
    for (uint32_t i = 0; i < bytes; i++)
        if (spelling[i] <= ' ' || spelling[i] == 0x7F) return false;
    return true;
}

static void mark_text(struct tokenizer *tokenizer)
{
    for (uint32_t id = 0; id < tokenizer->count; id++)
        if (is_text(tokenizer, id)) tokenizer->traits[id] |= TRAIT_TEXT;
}

static void find_bytes(struct tokenizer *tokenizer)
{
    static const char hex[] = "0123456789ABCDEF";
    for (unsigned byte = 0; byte < 256; byte++) {
        char spelling[6] = {'<', '0', 'x', hex[byte >> 4], hex[byte & 15], '>'};
        const bool alphabet = tokenizer->algorithm == TOKENIZER_BYTES;
        size_t bytes = alphabet ? utf8_encode(byte_alphabet_encode((unsigned char)byte), spelling) : sizeof spelling;
        uint32_t id = tokenizer_find(tokenizer, spelling, bytes);
        if (id != TOKEN_NONE && !alphabet) {
            tokenizer->kinds[id] = TOKEN_BYTE;
            tokenizer->traits[id] &= (uint8_t)~TRAIT_TEXT;
        }
        if (id != TOKEN_NONE && alphabet && !(tokenizer->traits[id] & TRAIT_TEXT)) id = TOKEN_NONE;
        tokenizer->byte_ids[byte] = id;
    }
    uint32_t id = tokenizer_find(tokenizer, SPACE_MARK, SPACE_MARK_BYTES);
    tokenizer->space_id = id != TOKEN_NONE && tokenizer_may_merge_into(tokenizer, id) ? id : TOKEN_NONE;
}

/* Which neighbours does some spelling hold? A text can be cut between any others: no token goes on there. */
static void find_joins(struct tokenizer *tokenizer)
{
    const struct vocabulary *vocabulary = &tokenizer->vocabulary;
    for (uint32_t id = 0; id < vocabulary->count; id++) {
        uint32_t bytes;
        const unsigned char *text = (const unsigned char *)vocabulary_spelling(vocabulary, id, &bytes);
        if (!tokenizer_may_merge_into(tokenizer, id)) continue;
        for (uint32_t at = 0, before = 0; at < bytes;) {
            bool mark = text[at] == 0xE2 && bytes - at >= SPACE_MARK_BYTES &&
                        memcmp(text + at, SPACE_MARK, SPACE_MARK_BYTES) == 0;
            unsigned first = mark ? ' ' : text[at];
            if (at && (first & 0xC0) != 0x80) tokenizer->joins[before][first] = true;
            before = first;
            at += mark ? SPACE_MARK_BYTES : 1;
        }
    }
}

/* ---- open and close ---- */

static bool is_named(const char *text, size_t bytes, const char *name)
{
    return bytes == strlen(name) && memcmp(text, name, bytes) == 0;
}

/* tokenizer.json's passes. */
static enum status open_patterns(struct tokenizer *tokenizer, const struct format *format, bool plain,
                                 struct error *error)
{
    const char *key = "tokenizer.kvasir.patterns";
    struct pretokenizer_pattern patterns[PRETOKENIZER_PATTERNS_MAX];
    struct pretokenizer_traits traits = {.plain = plain};
    uint64_t count;
    enum status status = read_flag(format, "tokenizer.kvasir.word_is_token", &traits.word_is_token, error);
    if (status == ST_OK) status = format_get_array(format, key, &count, error);
    if (status == ST_OK && count > ARRAY_COUNT(patterns))
        status = error_set(error, ST_LIMIT, "the pre-tokenizer has more than %zu patterns", ARRAY_COUNT(patterns));
    for (uint64_t i = 0; status == ST_OK && i < count; i++)
        status = format_get_array_text(format, key, i, &patterns[i].text, &patterns[i].bytes, error);
    for (uint64_t i = 0; status == ST_OK && i < count; i++) {
        int64_t drops = 0;
        status = format_get_array_i64(format, "tokenizer.kvasir.pattern_drops", i, &drops, error);
        patterns[i].drops = drops;
    }
    if (status != ST_OK) return status;
    return pretokenizer_open_patterns(patterns, (uint32_t)count, &traits, &tokenizer->pretokenizer, error);
}

/* tokenizer.ggml.model and tokenizer.ggml.pre: which algorithm, cut how. */
static enum status read_algorithm(struct tokenizer *tokenizer, const struct format *format, struct error *error)
{
    const char *model, *pre = "default";
    size_t model_bytes, pre_bytes = strlen(pre);
    enum status status = format_get_text(format, "tokenizer.ggml.model", &model, &model_bytes, error);
    if (status == ST_NOT_FOUND ||
        (status == ST_OK && (is_named(model, model_bytes, "none") || is_named(model, model_bytes, "no_vocab"))))
        return error_set(
            error, ST_NOT_FOUND,
            "the model has no tokenizer, so it takes token ids only (--prompt-ids, or lists of them over the API)");
    if (status != ST_OK) return status;
    if (is_named(model, model_bytes, "llama")) {
        tokenizer->algorithm = TOKENIZER_SCORES;
        tokenizer->adds_bos = tokenizer->adds_space = true;
        return ST_OK;
    }
    if (is_named(model, model_bytes, "gemma4")) {
        pre = "gemma4";
        pre_bytes = strlen(pre);
    } else if (!is_named(model, model_bytes, "gpt2") && !is_named(model, model_bytes, "sentencepiece-bpe")) {
        return error_set(error, ST_UNSUPPORTED, "the tokenizer model '%.*s' is not one of gpt2, llama, gemma4",
                         model_bytes < 64 ? (int)model_bytes : 64, model);
    } else if (format_has(format, "tokenizer.ggml.pre")) {
        if ((status = format_get_text(format, "tokenizer.ggml.pre", &pre, &pre_bytes, error)) != ST_OK) return status;
    }
    if (format_has(format, "tokenizer.kvasir.patterns"))
        status = open_patterns(tokenizer, format, is_named(model, model_bytes, "sentencepiece-bpe"), error);
    else
        status = pretokenizer_open(pre, pre_bytes, &tokenizer->pretokenizer, error);
    if (status != ST_OK) return status;
    const struct pretokenizer_traits *traits = pretokenizer_traits(tokenizer->pretokenizer);
    tokenizer->algorithm = traits->plain ? TOKENIZER_PLAIN : TOKENIZER_BYTES;
    tokenizer->word_is_token = traits->word_is_token;
    tokenizer->line_is_token = traits->lines;
    tokenizer->adds_bos = traits->adds_bos;
    return ST_OK;
}

/* The order matters: kinds are settled before it is said what may merge, and that before merges are read. */
static enum status read_all(struct tokenizer *tokenizer, const struct format *format, struct error *error)
{
    enum status status = read_algorithm(tokenizer, format, error);
    if (status == ST_OK) status = read_tokens(tokenizer, format, error);
    if (status == ST_OK) status = read_kinds(tokenizer, format, error);
    if (status == ST_OK) status = read_special_ids(tokenizer, format, error);
    if (status == ST_OK) status = read_flags(tokenizer, format, error);
    if (status == ST_OK) status = read_strips(tokenizer, format, error);
    if (status != ST_OK) return status;
    read_preparation(tokenizer, format);
    mark_text(tokenizer);
    find_bytes(tokenizer);
    status = tokenizer_list_specials(tokenizer, error);
    if (status != ST_OK) return status;
    mark_phi3(tokenizer, format);
    status = tokenizer->algorithm == TOKENIZER_SCORES ? read_scores(tokenizer, format, error)
                                                      : tokenizer_read_merges(tokenizer, format, error);
    if (status == ST_OK && tokenizer->algorithm != TOKENIZER_BYTES) find_joins(tokenizer);
    return status;
}

enum status tokenizer_open(const struct format *format, struct tokenizer **out, struct error *error)
{
    *out = NULL;
    struct tokenizer *tokenizer = mem_zero(1, sizeof *tokenizer);
    if (!tokenizer) return error_set(error, ST_NOMEM, "no memory for the tokenizer");
    enum status status = read_all(tokenizer, format, error);
    if (status != ST_OK) {
        tokenizer_close(tokenizer);
        return status;
    }
    *out = tokenizer;
    return ST_OK;
}

void tokenizer_close(struct tokenizer *tokenizer)
{
    if (!tokenizer) return;
    vocabulary_release(&tokenizer->vocabulary);
    pretokenizer_close(tokenizer->pretokenizer);
    mem_free(tokenizer->kinds);
    mem_free(tokenizer->traits);
    mem_free(tokenizer->scores);
    mem_free(tokenizer->merges.slots);
    mem_free(tokenizer->specials);
    mem_free(tokenizer);
}

/* ---- questions ---- */

uint32_t tokenizer_vocabulary_size(const struct tokenizer *tokenizer)
{
    return tokenizer->count;
}

uint32_t tokenizer_bos(const struct tokenizer *tokenizer)
{
    return tokenizer->bos;
}

uint32_t tokenizer_eos(const struct tokenizer *tokenizer)
{
    return tokenizer->eos;
}

bool tokenizer_adds_bos(const struct tokenizer *tokenizer)
{
    return tokenizer->adds_bos;
}

bool tokenizer_is_end(const struct tokenizer *tokenizer, uint32_t id)
{
    return id < tokenizer->count && tokenizer->traits[id] & TRAIT_END;
}

enum token_kind tokenizer_kind(const struct tokenizer *tokenizer, uint32_t id)
{
    return id < tokenizer->count ? (enum token_kind)tokenizer->kinds[id] : TOKEN_UNKNOWN;
}

const char *tokenizer_spelling(const struct tokenizer *tokenizer, uint32_t id, size_t *bytes)
{
    uint32_t length = 0;
    const char *spelling = id < tokenizer->count ? vocabulary_spelling(&tokenizer->vocabulary, id, &length) : "";
    *bytes = length;
    return spelling;
}

uint32_t tokenizer_find(const struct tokenizer *tokenizer, const char *spelling, size_t bytes)
{
    uint32_t id = vocabulary_find(&tokenizer->vocabulary, spelling, bytes);
    return id < tokenizer->count ? id : TOKEN_NONE;
}
