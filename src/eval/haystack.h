/* haystack.h - long texts with known facts in them, and questions about these: the tasks of `eval retrieval`, made here from a seed,
 * in the manner of RULER (Hsieh et al. 2024, arXiv:2404.06654).
 *
 * One haystack holds many needles, so that it is computed once and asked often. Values are numbers of five digits, which take
 * several tokens, so that chance and the first token alone give none of them. */
#ifndef EVAL_HAYSTACK_H
#define EVAL_HAYSTACK_H
#include "base/base.h"
#include "kvasir.h"

enum haystack_task {
    TASK_SINGLE,      /* prose; "The locker number to remember is 48213.", each number of a kind of its own */
    TASK_MULTI_VALUE, /* in the same prose: two numbers for one name, both asked */
    TASK_MULTI_QUERY, /* in the same prose: a number each for many names, two of them asked */
    TASK_VARIABLES,   /* in the same prose: chains "VAR X1234 = VAR X5678."; asked is where a variable came from */
    TASK_MULTI_KEY,   /* every sentence is a needle, one is asked */
    TASK_WORDS,       /* lists of words: the most common word of one */
    TASK_CODE,        /* lines "def f_8231(): return 44173", asked by "assert f_8231() ==" */
    TASK_COUNT,
};
const char *haystack_task_name(enum haystack_task task); /* "multi-key" */

/* Tasks that share a haystack; the mask has bit 1 << task for each. */
enum haystack_family { HAYSTACK_PROSE, HAYSTACK_KEYS, HAYSTACK_WORDS, HAYSTACK_CODE, HAYSTACK_FAMILIES };
unsigned haystack_family_tasks(enum haystack_family family);

#define HAYSTACK_VALUES_MAX 2u

struct haystack_item {
    enum haystack_task task;
    double depth; /* of its first needle: 0…1 of the haystack's tokens */
    const uint32_t *question;
    uint32_t question_count;
    uint32_t answer_tokens; /* in which an answer has room */
    const char *values[HAYSTACK_VALUES_MAX];
    uint32_t value_count;
    bool any_order;
};

struct haystack {
    struct arena arena; /* all below lies there */
    const uint32_t *ids;
    uint32_t count;
    const struct haystack_item *items; /* in random order */
    uint32_t item_count;
};
/* A text of about `length` tokens with room for any of its questions and answers within `length`: the same for the same model,
 * family, length and seed. ST_LIMIT: `length` is too short for it. ST_UNSUPPORTED: the model has no tokenizer. */
MUST_CHECK enum status haystack_make(const struct kvasir_model *model, enum haystack_family family, uint32_t length,
                                     uint64_t seed, struct haystack *out, struct error *error);
void haystack_release(struct haystack *haystack); /* also one that is all zero */

/* Whether the answer is exactly right: its first values (numbers, or the first word) are those asked for. */
bool haystack_correct(const struct haystack_item *item, const char *answer, size_t bytes);

#endif
