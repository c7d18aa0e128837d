/* constraint.c - the set of tokens that may come next. It is kept from token to token: what one place forbids is taken out,
 * remembered, and put back when the next place is asked for. */
#include "engine/constraint.h"
#include <math.h>
#include <string.h>

/* ---- checks ------------------------------------------------------------------------------------------------------ */

static enum status check_bad_words(const struct kvasir_sampling *s, uint32_t vocabulary, struct error *error)
{
    if (s->bad_word_count > BAD_WORDS_MAX || (s->bad_word_count && !s->bad_words))
        return error_set(error, ST_INVALID, "bad_words has %zu entries: must be at most %u", s->bad_word_count,
                         BAD_WORDS_MAX);
    for (size_t i = 0; i < s->bad_word_count; i++) {
        const struct kvasir_bad_word *word = &s->bad_words[i];
        if (!word->ids || word->count < 1 || word->count > BAD_WORD_TOKENS_MAX)
            return error_set(error, ST_INVALID, "bad word %zu has %zu tokens: must be 1 to %u", i, word->count,
                             BAD_WORD_TOKENS_MAX);
        for (size_t t = 0; t < word->count; t++)
            if (word->ids[t] >= vocabulary)
                return error_set(error, ST_INVALID, "bad word %zu has token %u: the vocabulary ends at %u", i,
                                 word->ids[t], vocabulary - 1);
    }
    return ST_OK;
}

static enum status check_allowed(const struct kvasir_sampling *s, uint32_t vocabulary, struct error *error)
{
    if (!s->allowed_ids && !s->allowed_id_count) return ST_OK;
    if (!s->allowed_ids || !s->allowed_id_count || s->allowed_id_count > vocabulary)
        return error_set(error, ST_INVALID, "allowed_ids has %zu entries: must be 1 to %u", s->allowed_id_count,
                         vocabulary);
    for (size_t i = 0; i < s->allowed_id_count; i++)
        if (s->allowed_ids[i] >= vocabulary)
            return error_set(error, ST_INVALID, "allowed_ids names token %u: the vocabulary ends at %u",
                             s->allowed_ids[i], vocabulary - 1);
    return ST_OK;
}

/* ---- the set ----------------------------------------------------------------------------------------------------- */

static void put(uint64_t *set, uint32_t id)
{
    set[id / 64] |= 1ull << id % 64;
}

static void take(uint64_t *set, uint32_t id)
{
    set[id / 64] &= ~(1ull << id % 64);
}

static bool is_forbidden(const struct kvasir_logit_bias *bias)
{
    return isinf(bias->bias) && bias->bias < 0;
}

/* Whether any token can ever be forbidden. */
static bool constrains(const struct kvasir_sampling *s, size_t end_count, uint32_t min_tokens, bool grammar)
{
    bool any = grammar || s->allowed_ids || s->bad_word_count || (end_count && min_tokens);
    for (size_t i = 0; i < s->bias_count && !any; i++) any = is_forbidden(&s->bias[i]);
    return any;
}

/* What is the same at every place. */
static void fill(uint64_t *set, const struct kvasir_sampling *s, uint32_t vocabulary)
{
    for (size_t i = 0; i < s->allowed_id_count; i++) put(set, s->allowed_ids[i]);
    for (uint32_t id = 0; id < vocabulary && !s->allowed_ids; id++) put(set, id);
    for (size_t i = 0; i < s->bias_count; i++)
        if (is_forbidden(&s->bias[i])) take(set, s->bias[i].id);
    for (size_t i = 0; i < s->bad_word_count; i++)
        if (s->bad_words[i].count == 1) take(set, s->bad_words[i].ids[0]);
}

static void copy_bad_words(struct constraint *c, const struct kvasir_sampling *s)
{
    uint32_t *ids = c->bad_ids;
    for (size_t i = 0; i < s->bad_word_count; i++) {
        const struct kvasir_bad_word *word = &s->bad_words[i];
        if (word->count == 1) continue;
        memcpy(ids, word->ids, word->count * sizeof *ids);
        c->bad_words[c->bad_word_count++] = (struct kvasir_bad_word){ids, word->count};
        ids += word->count;
    }
}

static enum status take_memory(struct constraint *c, const struct kvasir_sampling *s, uint32_t vocabulary,
                               size_t end_count, struct error *error)
{
    size_t id_count = 0;
    for (size_t i = 0; i < s->bad_word_count; i++) id_count += s->bad_words[i].count;
    c->allowed = mem_zero((vocabulary + 63) / 64, sizeof *c->allowed);
    c->bad_words = mem_alloc(s->bad_word_count * sizeof *c->bad_words);
    c->bad_ids = mem_alloc(id_count * sizeof *c->bad_ids);
    c->ends = mem_alloc(end_count * sizeof *c->ends);
    c->cleared = mem_alloc((s->bad_word_count + end_count) * sizeof *c->cleared);
    c->masked = c->grammar ? mem_alloc(c->words * sizeof *c->masked) : NULL;
    if (c->grammar && !c->masked) c->failed = true;
    if (!c->failed && c->allowed && c->bad_words && c->bad_ids && c->ends && c->cleared) return ST_OK;
    return error_set(error, ST_NOMEM, "not enough memory for a request");
}

static bool is_empty(const uint64_t *set, uint32_t vocabulary)
{
    uint64_t any = 0;
    for (uint32_t i = 0; i < (vocabulary + 63) / 64; i++) any |= set[i];
    return !any;
}

enum status constraint_init(struct constraint *c, const struct kvasir_sampling *s, uint32_t vocabulary,
                            const uint32_t *ends, size_t end_count, uint32_t min_tokens, struct grammar *grammar,
                            struct error *error)
{
    *c = (struct constraint){.min_tokens = min_tokens, .grammar = grammar, .words = (vocabulary + 63) / 64};
    enum status status = check_allowed(s, vocabulary, error);
    if (status == ST_OK) status = check_bad_words(s, vocabulary, error);
    if (status == ST_OK && !constrains(s, end_count, min_tokens, grammar)) return status;
    if (status == ST_OK) status = take_memory(c, s, vocabulary, end_count, error);
    if (status == ST_OK) {
        fill(c->allowed, s, vocabulary);
        copy_bad_words(c, s);
        if (end_count) memcpy(c->ends, ends, end_count * sizeof *ends);
        c->end_count = end_count;
        /* Every later place forbids fewer ends; only longer bad words can still take the last token away. */
        bool empty = is_empty(constraint_allowed(c, NULL, 0), vocabulary);
        if (c->failed)
            status = error_set(error, ST_NOMEM, "not enough memory for a request");
        else if (empty)
            status = error_set(
                error, ST_INVALID, "no token can be chosen: %sallowed_ids, bad_words, logit_bias%s leave none",
                grammar ? "the structure and " : "", min_tokens ? " and min_tokens (no end token before)" : "");
    }
    if (status != ST_OK) constraint_release(c);
    return status;
}

void constraint_release(struct constraint *c)
{
    grammar_close(c->grammar);
    mem_free(c->masked);
    mem_free(c->allowed);
    mem_free(c->bad_words);
    mem_free(c->bad_ids);
    mem_free(c->ends);
    mem_free(c->cleared);
    *c = (struct constraint){0};
}

/* ---- a place ----------------------------------------------------------------------------------------------------- */

static void clear(struct constraint *c, uint32_t id)
{
    if (!(c->allowed[id / 64] >> id % 64 & 1)) return;
    take(c->allowed, id);
    c->cleared[c->cleared_count++] = id;
}

/* What is allowed here and goes on in the grammar, and the ends where it is satisfied. Whatever ends an answer is no part of
 * its text, so it is never taken for text. */
static const uint64_t *allowed_by_grammar(struct constraint *c, const uint32_t *answer, uint32_t count)
{
    memcpy(c->masked, c->allowed, c->words * sizeof *c->masked);
    if (grammar_mask(c->grammar, &c->place, answer, count, c->masked, c->words, &c->next) != ST_OK) {
        memset(c->masked, 0, c->words * sizeof *c->masked);
        c->failed = true;
        return c->masked;
    }
    for (size_t i = 0; i < c->end_count; i++) {
        uint32_t id = c->ends[i];
        take(c->masked, id);
        if (c->next.may_end && c->allowed[id / 64] >> id % 64 & 1) put(c->masked, id);
    }
    return c->masked;
}

const uint64_t *constraint_allowed(struct constraint *c, const uint32_t *answer, uint32_t count)
{
    while (c->cleared_count) put(c->allowed, c->cleared[--c->cleared_count]);
    for (size_t i = 0; i < c->end_count && count < c->min_tokens; i++) clear(c, c->ends[i]);
    for (size_t i = 0; i < c->bad_word_count; i++) {
        size_t begun = c->bad_words[i].count - 1;
        const uint32_t *ids = c->bad_words[i].ids;
        if (begun <= count && memcmp(answer + count - begun, ids, begun * sizeof *ids) == 0) clear(c, ids[begun]);
    }
    return c->grammar ? allowed_by_grammar(c, answer, count) : c->allowed;
}

bool constraint_is_complete(struct constraint *c, const uint32_t *answer, uint32_t count)
{
    if (!c->grammar) return false;
    if (grammar_ends(c->grammar, &c->place, answer, count, &c->next) != ST_OK) c->failed = true;
    return c->next.must_end || c->failed;
}

enum kvasir_finish constraint_finish(const struct constraint *c)
{
    if (c->failed) return KVASIR_ERROR;
    return !c->grammar || c->next.may_end ? KVASIR_STOP : KVASIR_LENGTH;
}
