/* tokenizer_special.c - special tokens: which there are, which of them end a generation, and where a text holds them. */
#include "text/tokenizer_internal.h"
#include <stdlib.h>

/* ---- ends of generation ---- */

/* Spellings that end a turn in the models that have them. Files do not say so in a key of their own, and some give these
 * tokens a type for ordinary text: they are control tokens all the same, but for those that other models use as text
 * (`plain_too`: HTML's end of strike-through). */
static const struct {
    const char *spelling;
    bool plain_too;
} ends[] = {
    {"<|eot_id|>", false},
    {"<|im_end|>", false},
    {"<|end|>", false},
    {"<|return|>", false},
    {"<|call|>", false},
    {"<|flush|>", false},
    {"<|calls|>", false},
    {"<end_of_turn>", false},
    {"<|endoftext|>", false},
    {"</s>", true},
    {"<|eom_id|>", false},
    {"<EOT>", false},
    {"_<EOT>", false},
    {"[EOT]", true},
    {"[EOS]", true},
    {"<|end_of_text|>", false},
    {"<end_of_utterance>", false},
    {"<eos>", true},
    {"<turn|>", false},
    {"<|tool_response>", false},
    {"<｜end▁of▁sentence｜>", false},
    {"[e~[", true},
    /* where a code model's file ends: fill in the middle */
    {"<|fim_pad|>", false},
    {"<fim-pad>", false},
    {"<fim_pad>", false},
    {"<|fim_repo|>", false},
    {"<|repo_name|>", false},
    {"<fim-repo>", false},
    {"<|file_sep|>", false},
    {"<reponame>", true},
    {"<REPO>", true},
    {"<PAD>", true},
    {"[PAD]", true},
};

static uint32_t find_text(const struct tokenizer *tokenizer, const char *text)
{
    return tokenizer_find(tokenizer, text, strlen(text));
}

static bool is_end_named(const struct tokenizer *tokenizer, const char *text)
{
    return tokenizer_is_end(tokenizer, find_text(tokenizer, text));
}

/* OpenAI's harmony format and its kin end a message with <|end|> and go on; the answer ends with another token. */
static void unmark_message_end(struct tokenizer *tokenizer)
{
    bool call = is_end_named(tokenizer, "<|call|>") || is_end_named(tokenizer, "<|calls|>");
    bool other = is_end_named(tokenizer, "<|return|>") || is_end_named(tokenizer, "<|flush|>");
    uint32_t id = find_text(tokenizer, "<|end|>");
    if (call && other && id != TOKEN_NONE) tokenizer->traits[id] &= (uint8_t)~TRAIT_END;
}

void tokenizer_mark_ends(struct tokenizer *tokenizer, const uint32_t *keys, size_t key_count)
{
    for (size_t i = 0; i < ARRAY_COUNT(ends); i++) {
        uint32_t id = find_text(tokenizer, ends[i].spelling);
        if (id == TOKEN_NONE) continue;
        if (!ends[i].plain_too) tokenizer->kinds[id] = TOKEN_CONTROL;
        if (tokenizer->kinds[id] == TOKEN_CONTROL) tokenizer->traits[id] |= TRAIT_END;
    }
    unmark_message_end(tokenizer);
    for (size_t i = 0; i < key_count; i++)
        if (keys[i] != TOKEN_NONE) tokenizer->traits[keys[i]] |= TRAIT_END;
}

/* ---- the list ---- */

static bool is_special(const struct tokenizer *tokenizer, uint32_t id)
{
    uint8_t kind = tokenizer->kinds[id];
    uint32_t bytes;
    vocabulary_spelling(&tokenizer->vocabulary, id, &bytes);
    return (kind == TOKEN_CONTROL || kind == TOKEN_UNKNOWN || kind == TOKEN_USER_DEFINED) && bytes > 0 &&
           bytes <= SPECIAL_BYTES_MAX;
}

static int compare_spellings(const void *a, const void *b, void *data)
{
    const struct vocabulary *vocabulary = data;
    uint32_t id_a = *(const uint32_t *)a, id_b = *(const uint32_t *)b, bytes_a, bytes_b;
    const char *text_a = vocabulary_spelling(vocabulary, id_a, &bytes_a);
    const char *text_b = vocabulary_spelling(vocabulary, id_b, &bytes_b);
    int order = memcmp(text_a, text_b, bytes_a < bytes_b ? bytes_a : bytes_b);
    if (order == 0 && bytes_a != bytes_b) order = bytes_a < bytes_b ? -1 : 1;
    return order ? order : (id_a > id_b) - (id_a < id_b);
}

enum status tokenizer_list_specials(struct tokenizer *tokenizer, struct error *error)
{
    uint32_t count = 0;
    for (uint32_t id = 0; id < tokenizer->count; id++) count += is_special(tokenizer, id);
    tokenizer->specials = mem_alloc(count * sizeof *tokenizer->specials);
    if (!tokenizer->specials) return error_set(error, ST_NOMEM, "no memory for the tokenizer's special tokens");
    for (uint32_t id = 0; id < tokenizer->count; id++) {
        if (!is_special(tokenizer, id)) continue;
        uint32_t bytes;
        unsigned char first = (unsigned char)vocabulary_spelling(&tokenizer->vocabulary, id, &bytes)[0];
        tokenizer->specials[tokenizer->special_count++] = id;
        tokenizer->special_begin[first + 1]++;
        tokenizer->special_first[1][first] = true;
        if (tokenizer->kinds[id] == TOKEN_USER_DEFINED) tokenizer->special_first[0][first] = true;
    }
    for (unsigned byte = 0; byte < 256; byte++) tokenizer->special_begin[byte + 1] += tokenizer->special_begin[byte];
    qsort_r(tokenizer->specials, count, sizeof *tokenizer->specials, compare_spellings, &tokenizer->vocabulary);
    return ST_OK;
}

/* ---- the search ----
 *
 * One pass finds the longest special token at each place. These candidates wait in a heap, longest first; one that
 * meets a token already taken gives way to a shorter one at its place, if there is one that fits. */

struct search {
    const struct tokenizer *tokenizer;
    const char *text;
    size_t bytes;
    const struct text_range *literal;
    size_t literal_count;
    bool parse;
    struct special_match *heap;
    size_t heap_count, heap_capacity;
    uint64_t *taken; /* a bit a byte of text */
    struct error *error;
};

static bool touches_literal(const struct search *search, size_t begin, size_t end)
{
    size_t low = 0, high = search->literal_count; /* the first range that ends after `begin` */
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (search->literal[middle].end > begin)
            high = middle;
        else
            low = middle + 1;
    }
    return low < search->literal_count && search->literal[low].begin < end;
}

static bool is_allowed(const struct search *search, uint32_t id, size_t begin, size_t end)
{
    if (search->tokenizer->kinds[id] == TOKEN_USER_DEFINED) return true;
    return search->parse && !touches_literal(search, begin, end);
}

/* The longest special token at `at`, of at most `most` bytes; *bytes 0: none. Walks down the sorted list: [low, high) are
 * the spellings that begin with the bytes walked so far. */
static uint32_t longest_at(const struct search *search, size_t at, size_t most, size_t *bytes)
{
    const struct tokenizer *tokenizer = search->tokenizer;
    const unsigned char *text = (const unsigned char *)search->text + at;
    uint32_t low = tokenizer->special_begin[text[0]], high = tokenizer->special_begin[text[0] + 1];
    uint32_t best = TOKEN_NONE;
    *bytes = 0;
    for (size_t depth = 1; low < high && depth <= most; depth++) {
        uint32_t length, id = tokenizer->specials[low];
        (void)vocabulary_spelling(&tokenizer->vocabulary, id, &length);
        if (length == depth) {
            if (is_allowed(search, id, at, at + depth)) {
                best = id;
                *bytes = depth;
            }
            while (low < high && length == depth) { /* the same spelling again: never found */
                if (++low == high) break;
                (void)vocabulary_spelling(&tokenizer->vocabulary, tokenizer->specials[low], &length);
            }
        }
        if (depth == most || low == high) break;
        for (uint32_t bound = 0; bound < 2; bound++) { /* narrows to text[depth]: first the low end, then the high */
            uint32_t from = low, to = high;
            while (from < to) {
                uint32_t middle = from + (to - from) / 2;
                unsigned char byte = (unsigned char)vocabulary_spelling(&tokenizer->vocabulary,
                                                                        tokenizer->specials[middle], &length)[depth];
                if (byte < text[depth] + bound)
                    from = middle + 1;
                else
                    to = middle;
            }
            if (bound)
                high = from;
            else
                low = from;
        }
    }
    return best;
}

static bool comes_first(const struct special_match *a, const struct special_match *b)
{
    size_t bytes_a = a->end - a->begin, bytes_b = b->end - b->begin;
    if (bytes_a != bytes_b) return bytes_a > bytes_b;
    return a->id != b->id ? a->id < b->id : a->begin < b->begin;
}

static enum status push_candidate(struct search *search, size_t at, size_t most)
{
    size_t bytes;
    uint32_t id = longest_at(search, at, most, &bytes);
    if (!bytes) return ST_OK;
    if (search->heap_count == search->heap_capacity) {
        size_t capacity = search->heap_capacity * 2 + 16;
        struct special_match *heap = mem_resize(search->heap, capacity * sizeof *heap);
        if (!heap) return error_set(search->error, ST_NOMEM, "no memory for the special tokens of a text");
        search->heap = heap;
        search->heap_capacity = capacity;
    }
    const struct special_match match = {at, at + bytes, at, at + bytes, id};
    size_t place = search->heap_count++;
    for (; place && comes_first(&match, &search->heap[(place - 1) / 2]); place = (place - 1) / 2)
        search->heap[place] = search->heap[(place - 1) / 2];
    search->heap[place] = match;
    return ST_OK;
}

static struct special_match pop_candidate(struct search *search)
{
    struct special_match *heap = search->heap, top = heap[0], last = heap[--search->heap_count];
    size_t place = 0;
    for (size_t child; (child = place * 2 + 1) < search->heap_count; place = child) {
        if (child + 1 < search->heap_count && comes_first(&heap[child + 1], &heap[child])) child++;
        if (!comes_first(&heap[child], &last)) break;
        heap[place] = heap[child];
    }
    heap[place] = last;
    return top;
}

static bool is_taken(const struct search *search, size_t at)
{
    return search->taken[at / 64] >> at % 64 & 1;
}

static void take(struct search *search, size_t at)
{
    search->taken[at / 64] |= (uint64_t)1 << at % 64;
}

static bool is_white(char byte)
{
    return byte == ' ' || (byte >= '\t' && byte <= '\r');
}

/* Takes the match, and the free white space beside it where its token does so. */
static void take_match(struct search *search, struct special_match *match)
{
    uint8_t traits = search->tokenizer->traits[match->id];
    if (traits & TRAIT_LSTRIP)
        while (match->taken_begin && is_white(search->text[match->taken_begin - 1]) &&
               !is_taken(search, match->taken_begin - 1))
            match->taken_begin--;
    if (traits & TRAIT_RSTRIP)
        while (match->taken_end < search->bytes && is_white(search->text[match->taken_end]) &&
               !is_taken(search, match->taken_end))
            match->taken_end++;
    for (size_t at = match->taken_begin; at < match->taken_end; at++) take(search, at);
}

static int compare_places(const void *a, const void *b)
{
    const struct special_match *x = a, *y = b;
    return (x->begin > y->begin) - (x->begin < y->begin);
}

/* Empties the heap into `out`, which has room for all. */
static enum status choose(struct search *search, struct special_match *out, size_t *count)
{
    *count = 0;
    while (search->heap_count) {
        struct special_match match = pop_candidate(search);
        size_t fits = match.begin; /* free bytes from there on */
        while (fits < match.end && !is_taken(search, fits)) fits++;
        if (fits == match.end) {
            take_match(search, &match);
            out[(*count)++] = match;
        } else if (fits > match.begin) {
            enum status status = push_candidate(search, match.begin, fits - match.begin);
            if (status != ST_OK) return status;
        }
    }
    qsort(out, *count, sizeof *out, compare_places);
    return ST_OK;
}

enum status tokenizer_find_specials(const struct tokenizer *tokenizer, const char *text, size_t bytes,
                                    const struct text_range *literal, size_t literal_count, bool parse,
                                    struct special_match **out, size_t *count, struct error *error)
{
    *out = NULL;
    *count = 0;
    struct search search = {.tokenizer = tokenizer,
                            .text = text,
                            .bytes = bytes,
                            .literal = literal,
                            .literal_count = literal_count,
                            .parse = parse,
                            .error = error};
    const bool *first = tokenizer->special_first[parse];
    enum status status = ST_OK;
    for (size_t at = 0; at < bytes && status == ST_OK; at++)
        if (first[(unsigned char)text[at]]) status = push_candidate(&search, at, bytes - at);
    if (status == ST_OK && search.heap_count) {
        *out = mem_alloc(search.heap_count * sizeof **out);
        search.taken = mem_zero(bytes / 64 + 1, sizeof *search.taken);
        status = *out && search.taken ? choose(&search, *out, count)
                                      : error_set(error, ST_NOMEM, "no memory for the special tokens of a text");
    }
    mem_free(search.heap);
    mem_free(search.taken);
    if (status != ST_OK) {
        mem_free(*out);
        *out = NULL;
    }
    return status;
}
