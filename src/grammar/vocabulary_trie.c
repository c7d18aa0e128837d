/* vocabulary_trie.c - made once for a vocabulary, in some hundredths of a second. */
#include "grammar/vocabulary_trie.h"
#include <stdlib.h>
#include <string.h>

const uint32_t TRIE_BYTES[TRIE_LEVELS] = {16, 32, 64, TOKEN_BYTES_MAX};

struct word {
    uint64_t key; /* the first eight bytes, as a number: most words differ there */
    const unsigned char *bytes;
    uint32_t count, id;
};

static struct word make_word(const unsigned char *bytes, uint32_t count, uint32_t id)
{
    struct word word = {.bytes = bytes, .count = count, .id = id};
    for (uint32_t i = 0; i < 8; i++) word.key = word.key << 8 | (i < count ? bytes[i] : 0);
    return word;
}

static int compare_words(const void *left, const void *right)
{
    const struct word *a = left, *b = right;
    if (a->key != b->key) return a->key > b->key ? 1 : -1;
    int order = memcmp(a->bytes, b->bytes, a->count < b->count ? a->count : b->count);
    if (order) return order;
    return a->count != b->count ? (a->count > b->count) - (a->count < b->count) : (a->id > b->id) - (a->id < b->id);
}

/* ---- bytes ------------------------------------------------------------------------------------------------------------ */

/* What the detokenizer makes of a token in the middle of a text. Where a space is dropped after a user-defined token, such
 * tokens are left out: what one says would depend on the one before. */
static bool is_text(const struct vocabulary_trie *trie, const struct tokenizer *tokenizer, uint32_t id)
{
    enum token_kind kind = tokenizer_kind(tokenizer, id);
    return kind == TOKEN_NORMAL || kind == TOKEN_BYTE || (kind == TOKEN_USER_DEFINED && !trie->drops_space);
}

static void put_token(struct buffer *out, const struct tokenizer *tokenizer, uint32_t id, bool first)
{
    struct detokenizer detokenizer;
    detokenizer_init(&detokenizer, tokenizer, false);
    detokenizer.first = first;
    detokenizer_put(&detokenizer, id, out);
    detokenizer_finish(&detokenizer, out);
}

/* Whether some token gives less at the beginning of a text than in its middle. */
static bool drops_space(const struct tokenizer *tokenizer)
{
    struct buffer first, later;
    buffer_init(&first, 0);
    buffer_init(&later, 0);
    uint32_t id = tokenizer_find(tokenizer, "\xe2\x96\x81", 3);
    if (id != TOKEN_NONE) {
        put_token(&first, tokenizer, id, true);
        put_token(&later, tokenizer, id, false);
    }
    bool drops = first.length != later.length;
    buffer_release(&first);
    buffer_release(&later);
    return drops;
}

static enum status list_bytes(struct vocabulary_trie *trie, const struct tokenizer *tokenizer)
{
    struct buffer bytes;
    buffer_init(&bytes, UINT32_MAX / 2);
    for (uint32_t id = 0; id < trie->token_count; id++) {
        trie->begin[id] = (uint32_t)bytes.length;
        if (is_text(trie, tokenizer, id)) put_token(&bytes, tokenizer, id, false);
        if (bytes.length - trie->begin[id] > TOKEN_BYTES_MAX) bytes.length = trie->begin[id];
    }
    trie->begin[trie->token_count] = (uint32_t)bytes.length;
    buffer_append(&bytes, "", 1); /* there is some memory, whatever the tokens */
    trie->bytes = (unsigned char *)buffer_take(&bytes);
    return trie->bytes ? ST_OK : ST_NOMEM;
}

/* ---- tries ------------------------------------------------------------------------------------------------------------ */

static uint32_t common(const struct word *a, const struct word *b)
{
    uint32_t count = 0;
    while (count < a->count && count < b->count && a->bytes[count] == b->bytes[count]) count++;
    return count;
}

/* Of words that ascend. */
static enum status make_trie(struct trie *trie, const struct word *words, uint32_t count)
{
    uint32_t open[TOKEN_BYTES_MAX + 1], depth = 0, nodes = 0;
    for (uint32_t i = 0; i < count; i++) nodes += words[i].count - (i ? common(&words[i - 1], &words[i]) : 0);
    trie->nodes = mem_zero(nodes + 1, sizeof *trie->nodes);
    trie->tokens = mem_alloc((count ? count : 1) * sizeof *trie->tokens);
    if (!trie->nodes || !trie->tokens) return ST_NOMEM;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t shared = i ? common(&words[i - 1], &words[i]) : 0;
        while (depth > shared) trie->nodes[open[--depth]].end = trie->count;
        for (; depth < words[i].count; depth++) {
            open[depth] = trie->count;
            trie->nodes[trie->count++] =
                (struct trie_node){.first_token = i, .byte = words[i].bytes[depth], .depth = (uint8_t)(depth + 1)};
        }
        trie->tokens[i] = words[i].id;
    }
    while (depth > 0) trie->nodes[open[--depth]].end = trie->count;
    trie->nodes[trie->count] = (struct trie_node){.end = trie->count, .first_token = count};
    return ST_OK;
}

enum status vocabulary_trie_index(struct vocabulary_trie *trie)
{
    struct word *words = mem_alloc(((size_t)trie->token_count + 1) * sizeof *words);
    if (!words) return ST_NOMEM;
    enum status status = ST_OK;
    uint32_t least = 1;
    for (uint32_t level = 0; level < TRIE_LEVELS && status == ST_OK; level++) {
        uint32_t count = 0;
        for (uint32_t id = 0; id < trie->token_count; id++) {
            uint32_t bytes = trie->begin[id + 1] - trie->begin[id];
            if (bytes >= least && bytes <= TRIE_BYTES[level])
                words[count++] = make_word(trie->bytes + trie->begin[id], bytes, id);
        }
        qsort(words, count, sizeof *words, compare_words);
        status = make_trie(&trie->levels[level], words, count);
        least = TRIE_BYTES[level] + 1;
    }
    mem_free(words);
    return status;
}

enum status vocabulary_trie_init(struct vocabulary_trie *trie, const struct tokenizer *tokenizer)
{
    *trie = (struct vocabulary_trie){.token_count = tokenizer_vocabulary_size(tokenizer),
                                     .drops_space = drops_space(tokenizer)};
    trie->begin = mem_zero((size_t)trie->token_count + 1, sizeof *trie->begin);
    enum status status = trie->begin ? list_bytes(trie, tokenizer) : ST_NOMEM;
    if (status == ST_OK) status = vocabulary_trie_index(trie);
    if (status != ST_OK) vocabulary_trie_release(trie);
    return status;
}

void vocabulary_trie_release(struct vocabulary_trie *trie)
{
    mem_free(trie->begin);
    mem_free(trie->bytes);
    for (uint32_t level = 0; level < TRIE_LEVELS; level++) {
        mem_free(trie->levels[level].nodes);
        mem_free(trie->levels[level].tokens);
    }
    *trie = (struct vocabulary_trie){0};
}
