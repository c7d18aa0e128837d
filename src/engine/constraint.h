/* constraint.h - which tokens may come next, whatever their logits: one set of token ids for one request, as bits.
 *
 * In it are the allowed ids, or all; never those that a bias of -inf or a bad word of one token forbids; and at some
 * places not: the last token of a longer bad word where the answer ends with its others, end tokens while the answer
 * is shorter than min_tokens, and what a grammar does not allow there. A grammar's place in the answer is found from the answer's
 * tokens, so that it is right whatever became of the request in between: drafts that were wrong, blocks given up, another beam. */
#ifndef ENGINE_CONSTRAINT_H
#define ENGINE_CONSTRAINT_H
#include "base/base.h"
#include "grammar/grammar.h"
#include "kvasir.h"

#define BAD_WORDS_MAX 1024u
#define BAD_WORD_TOKENS_MAX 256u

struct constraint {
    uint64_t *
        allowed; /* [(vocabulary + 63) / 64] token id is bit id % 64 of word id / 64; NULL = any token; owned, as all */
    struct kvasir_bad_word *bad_words; /* [bad_word_count] those of two tokens or more; their ids lie in bad_ids */
    uint32_t *bad_ids;
    uint32_t *ends;    /* [end_count] not before min_tokens */
    uint32_t *cleared; /* [cleared_count] taken out of `allowed` for the place that was asked for last */
    size_t bad_word_count, end_count, cleared_count;
    uint32_t min_tokens;
    struct grammar *grammar; /* or NULL */
    struct grammar_place place;
    struct grammar_next next;
    uint64_t *masked; /* [(vocabulary + 63) / 64] what is allowed by the grammar too; NULL without one */
    uint32_t words;
    bool failed; /* there was no memory for the grammar's place */
};
/* Checks and copies what the settings say. `ends`: the tokens that would end the answer. `grammar`, which may be NULL, is taken,
 * also when it fails. ST_INVALID: an id outside the vocabulary, a limit passed, or no token left to choose. */
MUST_CHECK enum status constraint_init(struct constraint *constraint, const struct kvasir_sampling *sampling,
                                       uint32_t vocabulary, const uint32_t *ends, size_t end_count, uint32_t min_tokens,
                                       struct grammar *grammar, struct error *error);
void constraint_release(struct constraint *constraint);

/* The set for the token after the `count` tokens of `answer`: NULL = any. A function of these tokens alone. Borrowed until
 * the next call. */
const uint64_t *constraint_allowed(struct constraint *constraint, const uint32_t *answer, uint32_t count);
/* Whether nothing can follow this answer: it satisfies the grammar, and is complete. */
bool constraint_is_complete(struct constraint *constraint, const uint32_t *answer, uint32_t count);
/* How an answer ends that no token may follow: with "length" where it does not satisfy the grammar. */
enum kvasir_finish constraint_finish(const struct constraint *constraint);

#endif
