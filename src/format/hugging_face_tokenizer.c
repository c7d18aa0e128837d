/* hugging_face_tokenizer.c - a tokenizer.json in GGUF's vocabulary, and what GGUF has no key for as tokenizer.kvasir.*.
 *
 * Read are the two kinds of byte-pair encoding that language models use: over bytes (pre-tokenizer ByteLevel) and over
 * characters with U+2581 for a space and byte tokens for what the vocabulary lacks (SentencePiece's, byte_fallback). A part that
 * would change token ids and is not known here is refused by its name.
 *
 * Sources: the file format and the behaviour of the `tokenizers` library (huggingface/tokenizers); the keys of
 * tokenizer_config.json and generation_config.json are transformers'. */
#include "format/format_internal.h"
#include <stdio.h>
#include <string.h>

#define TOKENS_MAX (1u << 24)
#define PATTERNS_MAX 6u
#define PATTERN_BYTES_MAX 4096u

/* GGUF's numbers of kinds of tokens. */
enum { KIND_NORMAL = 1, KIND_CONTROL = 3, KIND_USER_DEFINED = 4, KIND_UNUSED = 5 };
enum { TAKES_BEFORE = 1, TAKES_AFTER = 2 }; /* tokenizer.kvasir.token_strip: white space that a token takes */

struct reading {
    struct format *format;
    const json_t *root, *model, *config, *generation;
    struct error *error;
    uint32_t count; /* of tokens */
    struct format_text *texts;
    uint8_t *kinds, *strips;
    bool strip;           /* some token takes white space */
    struct buffer made;   /* texts that stand in for ids that nothing has */
    struct buffer joined; /* merges */
    bool bytes;           /* byte-level, else SentencePiece's */
    const char *space;    /* that is put before a text; or NULL */
    const char *normal;   /* Unicode normalisation, or NULL */
    struct format_text patterns[PATTERNS_MAX];
    uint8_t drops[PATTERNS_MAX]; /* what a pattern does not match */
    uint32_t pattern_count;
};

static enum status refuse(const struct reading *reading, const char *what, const char *name)
{
    return error_set(reading->error, ST_UNSUPPORTED, "%s \"%.60s\" is not supported", what, name ? name : "?");
}

static enum status no_memory(const struct reading *reading)
{
    return error_set(reading->error, ST_NOMEM, "not enough memory for the tokenizer");
}

static const char *type_of(const json_t *part)
{
    return json_string_value(json_object_get(part, "type"));
}

static bool is_type(const json_t *part, const char *type)
{
    const char *own = type_of(part);
    return own && strcmp(own, type) == 0;
}

static bool is_text(const json_t *text, const char *wanted)
{
    const char *own = json_string_value(text);
    return own && strcmp(own, wanted) == 0;
}

/* Calls `one` for a part, or for each part of a Sequence, whose list is called `list`. */
static enum status each_part(struct reading *reading, const json_t *part, const char *list,
                             enum status (*one)(struct reading *reading, const json_t *part))
{
    if (!part || json_is_null(part)) return ST_OK;
    if (!is_type(part, "Sequence")) return one(reading, part);
    size_t i;
    const json_t *item;
    json_array_foreach(json_object_get(part, list), i, item)
    {
        enum status status =
            is_type(item, "Sequence") ? refuse(reading, "a sequence in the sequence", list) : one(reading, item);
        if (status != ST_OK) return status;
    }
    return ST_OK;
}

/* ---- the vocabulary ---- */

/* An id; false: it is none. */
static bool id_of(const json_t *value, uint32_t *id)
{
    if (!json_is_integer(value) || json_integer_value(value) < 0 || json_integer_value(value) >= TOKENS_MAX)
        return false;
    *id = (uint32_t)json_integer_value(value);
    return true;
}

static enum status bad_id(const struct reading *reading, const char *token)
{
    return error_set(reading->error, ST_INVALID, "the token '%.60s' has no id between 0 and %u", token, TOKENS_MAX - 1);
}

/* How many tokens there are: the largest id, and one. */
static enum status count_tokens(struct reading *reading, const json_t *vocabulary, const json_t *added)
{
    const char *text;
    const json_t *item;
    uint32_t id;
    size_t i;
    uint64_t named = json_object_size(vocabulary) + json_array_size(added);
    json_object_foreach((json_t *)(uintptr_t)vocabulary, text, item)
    {
        if (!id_of(item, &id)) return bad_id(reading, text);
        if (id >= reading->count) reading->count = id + 1;
    }
    json_array_foreach(added, i, item)
    {
        text = json_string_value(json_object_get(item, "content"));
        if (!text || !id_of(json_object_get(item, "id"), &id)) return bad_id(reading, text ? text : "");
        if (id >= reading->count) reading->count = id + 1;
    }
    if (!reading->count || reading->count > 4 * named + 1024)
        return error_set(reading->error, ST_INVALID, "a vocabulary of %u tokens with %llu names cannot be right",
                         reading->count, (unsigned long long)named);
    return ST_OK;
}

static void put_token(struct reading *reading, uint32_t id, const json_t *text, uint8_t kind)
{
    reading->texts[id] = (struct format_text){json_string_value(text), json_string_length(text)};
    reading->kinds[id] = kind;
}

/* Ids without a token are padding, as in converted files. */
static enum status fill_holes(struct reading *reading)
{
    for (uint32_t id = 0; id < reading->count; id++)
        if (!reading->texts[id].text) buffer_printf(&reading->made, "[PAD%u]", id);
    if (reading->made.failed) return no_memory(reading);
    const char *at = reading->made.data;
    for (uint32_t id = 0; id < reading->count; id++) {
        char name[24];
        if (reading->texts[id].text) continue;
        size_t bytes = (size_t)snprintf(name, sizeof name, "[PAD%u]", id);
        reading->texts[id] = (struct format_text){at, bytes};
        reading->kinds[id] = KIND_UNUSED;
        at += bytes;
    }
    return ST_OK;
}

static enum status read_vocabulary(struct reading *reading)
{
    const json_t *vocabulary = json_object_get(reading->model, "vocab"), *item;
    const json_t *added = json_object_get(reading->root, "added_tokens");
    const char *text;
    size_t i;
    if (!json_is_object(vocabulary)) return error_set(reading->error, ST_INVALID, "the model has no \"vocab\"");
    enum status status = count_tokens(reading, vocabulary, added);
    if (status != ST_OK) return status;
    reading->texts = mem_zero(reading->count, sizeof *reading->texts);
    reading->kinds = mem_zero(reading->count, 1);
    reading->strips = mem_zero(reading->count, 1);
    if (!reading->texts || !reading->kinds || !reading->strips) return no_memory(reading);
    json_object_foreach((json_t *)(uintptr_t)vocabulary, text, item)
    {
        uint32_t id = (uint32_t)json_integer_value(item);
        reading->texts[id] = (struct format_text){text, strlen(text)};
        reading->kinds[id] = KIND_NORMAL;
    }
    json_array_foreach(added, i, item)
    {
        uint32_t id = (uint32_t)json_integer_value(json_object_get(item, "id"));
        put_token(reading, id, json_object_get(item, "content"),
                  json_is_true(json_object_get(item, "special")) ? KIND_CONTROL : KIND_USER_DEFINED);
        if (json_is_true(json_object_get(item, "lstrip"))) reading->strips[id] |= TAKES_BEFORE;
        if (json_is_true(json_object_get(item, "rstrip"))) reading->strips[id] |= TAKES_AFTER;
        reading->strip |= reading->strips[id];
    }
    return fill_holes(reading);
}

/* The id of a token by its text. */
static bool find_token(const struct reading *reading, const char *text, uint32_t *id)
{
    size_t i;
    const json_t *item;
    json_array_foreach(json_object_get(reading->root, "added_tokens"), i, item)
    {
        if (is_text(json_object_get(item, "content"), text)) return id_of(json_object_get(item, "id"), id);
    }
    return id_of(json_object_get(json_object_get(reading->model, "vocab"), text), id);
}

/* ---- merges ---- */

/* The two halves of a merge: "a b", or ["a", "b"]. */
static bool halves_of(const json_t *merge, struct format_text halves[2])
{
    if (json_is_array(merge)) {
        for (size_t i = 0; i < 2; i++) {
            const json_t *half = json_array_get(merge, i);
            halves[i] = (struct format_text){json_string_value(half), json_string_length(half)};
            if (!halves[i].bytes || memchr(halves[i].text, ' ', halves[i].bytes)) return false;
        }
        return json_array_size(merge) == 2;
    }
    const char *text = json_string_value(merge), *space = text ? strchr(text, ' ') : NULL;
    if (!space || space == text || !space[1] || strchr(space + 1, ' ')) return false;
    halves[0] = (struct format_text){text, (size_t)(space - text)};
    halves[1] = (struct format_text){space + 1, strlen(space + 1)};
    return true;
}

static enum status read_merges(struct reading *reading)
{
    const json_t *merges = json_object_get(reading->model, "merges"), *merge;
    const size_t count = json_array_size(merges);
    if (!json_is_array(merges)) return error_set(reading->error, ST_INVALID, "the model has no \"merges\"");
    struct format_text *texts = mem_alloc((count + 1) * sizeof *texts);
    if (!texts) return no_memory(reading);
    size_t i, at = 0;
    enum status status = ST_OK;
    json_array_foreach(merges, i, merge)
    {
        struct format_text halves[2];
        if (!halves_of(merge, halves)) {
            status = error_set(reading->error, ST_INVALID, "merge %zu is not two texts without spaces", i);
            break;
        }
        texts[i] = (struct format_text){.bytes = halves[0].bytes + 1 + halves[1].bytes};
        buffer_append(&reading->joined, halves[0].text, halves[0].bytes);
        buffer_append(&reading->joined, " ", 1);
        buffer_append(&reading->joined, halves[1].text, halves[1].bytes);
    }
    if (status == ST_OK && reading->joined.failed) status = no_memory(reading);
    for (i = 0; i < count && status == ST_OK; at += texts[i++].bytes) texts[i].text = reading->joined.data + at;
    if (status == ST_OK)
        status = format_set_texts(reading->format, "tokenizer.ggml.merges", texts, count, reading->error);
    mem_free(texts);
    return status;
}

/* ---- what is done to a text before ---- */

static enum status read_normalizer(struct reading *reading, const json_t *part)
{
    const json_t *pattern = json_object_get(part, "pattern");
    if (is_type(part, "NFC") || is_type(part, "NFKC")) {
        reading->normal = type_of(part);
        return ST_OK;
    }
    if (is_type(part, "Prepend") && is_text(json_object_get(part, "prepend"), "\xE2\x96\x81")) {
        reading->space = "prepend";
        return ST_OK;
    }
    if (is_type(part, "Replace") && is_text(json_object_get(pattern, "String"), " ") &&
        is_text(json_object_get(part, "content"), "\xE2\x96\x81"))
        return ST_OK; /* what SentencePiece's merges are over anyway */
    return refuse(reading, "the normalizer", type_of(part));
}

static enum status add_pattern(struct reading *reading, const char *text, bool drops)
{
    if (strlen(text) > PATTERN_BYTES_MAX || strstr(text, "&&") || reading->pattern_count == PATTERNS_MAX)
        return refuse(reading, "the pre-tokenizer's pattern", text);
    reading->drops[reading->pattern_count] = drops;
    reading->patterns[reading->pattern_count++] = (struct format_text){text, strlen(text)};
    return ST_OK;
}

static enum status read_split(struct reading *reading, const json_t *part)
{
    const json_t *pattern = json_object_get(part, "pattern"), *behaviour = json_object_get(part, "behavior");
    const char *regex = json_string_value(json_object_get(pattern, "Regex"));
    /* Gemma's, which finds nothing: spaces are U+2581 by then. */
    if (!reading->bytes && is_text(json_object_get(pattern, "String"), " ")) return ST_OK;
    const bool matches = is_text(behaviour, "Removed") && json_is_true(json_object_get(part, "invert"));
    if (!regex || (!is_text(behaviour, "Isolated") && !matches))
        return refuse(reading, "the pre-tokenizer's Split", json_string_value(behaviour));
    return add_pattern(reading, regex, matches);
}

static enum status read_byte_level(struct reading *reading, const json_t *part)
{
    const json_t *regex = json_object_get(part, "use_regex");
    if (json_is_true(json_object_get(part, "add_prefix_space")))
        return refuse(reading, "the pre-tokenizer ByteLevel's", "add_prefix_space");
    if (json_is_false(regex)) return ST_OK;
    return add_pattern(reading, "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+",
                       false);
}

static enum status read_metaspace(struct reading *reading, const json_t *part)
{
    const json_t *scheme = json_object_get(part, "prepend_scheme");
    const char *character = json_string_value(json_object_get(part, "replacement"));
    if (!character || strcmp(character, "\xE2\x96\x81") != 0 || reading->bytes)
        return refuse(reading, "the pre-tokenizer Metaspace with", character);
    if (is_text(scheme, "always") || (!scheme && json_is_true(json_object_get(part, "add_prefix_space"))))
        reading->space = "always";
    else if (is_text(scheme, "first"))
        reading->space = "first";
    /* Before each U+2581, that is each space. */
    return json_is_false(json_object_get(part, "split")) ? ST_OK : add_pattern(reading, " [^ ]*|[^ ]+", false);
}

static enum status read_pre_tokenizer(struct reading *reading, const json_t *part)
{
    const json_t *behaviour = json_object_get(part, "behavior");
    if (is_type(part, "ByteLevel")) return read_byte_level(reading, part);
    if (is_type(part, "Split")) return read_split(reading, part);
    if (is_type(part, "Metaspace")) return read_metaspace(reading, part);
    if (is_type(part, "Digits"))
        return add_pattern(reading, json_is_true(json_object_get(part, "individual_digits")) ? "\\p{N}" : "\\p{N}+",
                           false);
    if (is_type(part, "Punctuation") && is_text(behaviour, "Isolated"))
        return add_pattern(reading, "[\\p{P}$+<=>^`|~]", false);
    if (is_type(part, "Punctuation") && is_text(behaviour, "Contiguous"))
        return add_pattern(reading, "[\\p{P}$+<=>^`|~]+", false);
    return refuse(reading, "the pre-tokenizer", type_of(part));
}

static enum status find_byte_level(struct reading *reading, const json_t *part)
{
    reading->bytes |= is_type(part, "ByteLevel");
    return ST_OK;
}

static enum status read_model(struct reading *reading)
{
    static const char *const unused[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    reading->model = json_object_get(reading->root, "model");
    const json_t *dropout = json_object_get(reading->model, "dropout");
    if (!is_type(reading->model, "BPE") && type_of(reading->model))
        return refuse(reading, "the tokenizer model", type_of(reading->model));
    for (size_t i = 0; i < ARRAY_COUNT(unused); i++)
        if (json_string_length(json_object_get(reading->model, unused[i])))
            return refuse(reading, "the tokenizer model with", unused[i]);
    if (json_is_number(dropout) && json_number_value(dropout) > 0)
        return refuse(reading, "the tokenizer model with", "dropout");
    enum status status =
        each_part(reading, json_object_get(reading->root, "pre_tokenizer"), "pretokenizers", find_byte_level);
    if (status == ST_OK && !reading->bytes && !json_is_true(json_object_get(reading->model, "byte_fallback")))
        return refuse(reading, "the tokenizer: neither ByteLevel, nor", "byte_fallback");
    if (status == ST_OK)
        status = each_part(reading, json_object_get(reading->root, "normalizer"), "normalizers", read_normalizer);
    if (status == ST_OK)
        status =
            each_part(reading, json_object_get(reading->root, "pre_tokenizer"), "pretokenizers", read_pre_tokenizer);
    return status;
}

/* ---- what is put around a text, and what ends an answer ---- */

/* The token at the begin or the end of a template of "$A"; false: there is none. */
static bool template_token(const struct reading *reading, const json_t *processor, bool last, uint32_t *id)
{
    const json_t *single = json_object_get(processor, "single");
    const size_t count = json_array_size(single);
    const json_t *special =
        count ? json_object_get(json_array_get(single, last ? count - 1 : 0), "SpecialToken") : NULL;
    const char *name = json_string_value(json_object_get(special, "id"));
    if (!name) return false;
    const json_t *ids = json_object_get(json_object_get(json_object_get(processor, "special_tokens"), name), "ids");
    return id_of(json_array_get(ids, 0), id) || find_token(reading, name, id);
}

static const json_t *template_processor(const json_t *processor)
{
    size_t i;
    const json_t *item;
    if (is_type(processor, "TemplateProcessing")) return processor;
    json_array_foreach(json_object_get(processor, "processors"), i, item)
    {
        if (is_type(item, "TemplateProcessing")) return item;
    }
    return NULL;
}

/* Whether transformers' own class of the tokenizer puts the tokens there, as it does whatever tokenizer.json says. */
static bool class_adds(const struct reading *reading, const char *key, bool otherwise)
{
    const char *class = json_string_value(json_object_get(reading->config, "tokenizer_class"));
    const json_t *flag = json_object_get(reading->config, key);
    if (!class || !json_is_boolean(flag) || (!strstr(class, "Llama") && !strstr(class, "Gemma"))) return otherwise;
    return json_is_true(flag);
}

/* A token that tokenizer_config.json names; TOKENS_MAX where it says that there is none. */
static enum status put_named(struct reading *reading, const char *name, const char *key, bool given, uint32_t id)
{
    const json_t *token = json_object_get(reading->config, name);
    const char *text = json_string_value(json_is_object(token) ? json_object_get(token, "content") : token);
    if (!given && text) given = find_token(reading, text, &id);
    if (!given && json_is_null(token)) id = TOKENS_MAX, given = true;
    return given ? format_set_u64(reading->format, key, id, reading->error) : ST_OK;
}

static enum status read_around(struct reading *reading)
{
    struct format *format = reading->format;
    const json_t *processor = template_processor(json_object_get(reading->root, "post_processor"));
    uint32_t begin = 0, end = 0;
    bool has_begin = template_token(reading, processor, false, &begin);
    bool has_end = template_token(reading, processor, true, &end);
    bool adds_begin = class_adds(reading, "add_bos_token", has_begin);
    bool adds_end = class_adds(reading, "add_eos_token", has_end);
    enum status status = format_set_bool(format, "tokenizer.ggml.add_bos_token", adds_begin, reading->error);
    if (status == ST_OK) status = format_set_bool(format, "tokenizer.ggml.add_eos_token", adds_end, reading->error);
    if (status == ST_OK) status = put_named(reading, "bos_token", "tokenizer.kvasir.bos_token_id", has_begin, begin);
    if (status == ST_OK) status = put_named(reading, "eos_token", "tokenizer.kvasir.eos_token_id", has_end, end);
    return status;
}

/* generation_config.json's eos_token_id: a number or a list. */
static enum status read_ends(struct reading *reading)
{
    uint32_t ids[64], count = 0;
    const json_t *given = json_object_get(reading->generation, "eos_token_id"), *item;
    size_t i;
    if (json_is_integer(given)) count += id_of(given, &ids[0]);
    json_array_foreach(given, i, item)
    {
        if (count < ARRAY_COUNT(ids)) count += id_of(item, &ids[count]);
    }
    return count ? format_set_u32s(reading->format, "tokenizer.kvasir.end_token_ids", ids, count, reading->error)
                 : ST_OK;
}

/* ---- all of it ---- */

static enum status put_text(struct reading *reading, const char *key, const char *text)
{
    return text ? format_set_text(reading->format, key, text, strlen(text), reading->error) : ST_OK;
}

static enum status put_all(struct reading *reading)
{
    struct format *format = reading->format;
    struct error *error = reading->error;
    enum status status = put_text(reading, "tokenizer.ggml.model", reading->bytes ? "gpt2" : "sentencepiece-bpe");
    if (status == ST_OK)
        status = format_set_texts(format, "tokenizer.ggml.tokens", reading->texts, reading->count, error);
    if (status == ST_OK)
        status = format_set_u8s(format, "tokenizer.ggml.token_type", reading->kinds, reading->count, error);
    if (status == ST_OK && reading->strip)
        status = format_set_u8s(format, "tokenizer.kvasir.token_strip", reading->strips, reading->count, error);
    if (status == ST_OK)
        status =
            format_set_texts(format, "tokenizer.kvasir.patterns", reading->patterns, reading->pattern_count, error);
    if (status == ST_OK)
        status =
            format_set_bools(format, "tokenizer.kvasir.pattern_drops", reading->drops, reading->pattern_count, error);
    if (status == ST_OK)
        status = format_set_bool(format, "tokenizer.kvasir.word_is_token",
                                 json_is_true(json_object_get(reading->model, "ignore_merges")), error);
    if (status == ST_OK) status = put_text(reading, "tokenizer.kvasir.space", reading->space);
    if (status == ST_OK) status = put_text(reading, "tokenizer.kvasir.normalization", reading->normal);
    return status;
}

enum status hugging_face_tokenizer(struct format *format, const json_t *root, const json_t *config,
                                   const json_t *generation, struct error *error)
{
    struct reading reading = {
        .format = format, .root = root, .config = config, .generation = generation, .error = error};
    buffer_init(&reading.made, 0);
    buffer_init(&reading.joined, 0);
    enum status status = read_model(&reading);
    if (status == ST_OK) status = read_vocabulary(&reading);
    if (status == ST_OK) status = put_all(&reading);
    if (status == ST_OK) status = read_merges(&reading);
    if (status == ST_OK) status = read_around(&reading);
    if (status == ST_OK) status = read_ends(&reading);
    buffer_release(&reading.made);
    buffer_release(&reading.joined);
    mem_free(reading.texts);
    mem_free(reading.kinds);
    mem_free(reading.strips);
    return status;
}
