/* constraint.h - which tokens may come next, whatever their logits: one set of token ids for one request, as bits.
 *
 * In it are the allowed ids, or all; never those that a bias of -inf or a bad word of one token forbids; and at some
 * places not: the last token of a longer bad word where the answer ends with its others, and end tokens while the answer
 * is shorter than min_tokens. */
#ifndef ENGINE_CONSTRAINT_H
#define ENGINE_CONSTRAINT_H
#include "base/base.h"
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
};
/* Checks and copies what the settings say. `ends`: the tokens that would end the answer. ST_INVALID: an id outside the
 * vocabulary, a limit passed, or no token left to choose. */
MUST_CHECK enum status constraint_init(struct constraint *constraint, const struct kvasir_sampling *sampling,
                                       uint32_t vocabulary, const uint32_t *ends, size_t end_count, uint32_t min_tokens,
                                       struct error *error);
void constraint_release(struct constraint *constraint);

/* The set for the token after the `count` tokens of `answer`: NULL = any. A function of these tokens alone. Borrowed until
 * the next call. */
const uint64_t *constraint_allowed(struct constraint *constraint, const uint32_t *answer, uint32_t count);

#endif
