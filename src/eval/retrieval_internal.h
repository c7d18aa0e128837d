/* retrieval_internal.h - what `eval retrieval` has found, shared by retrieval.c (the order of things), retrieval_ask.c (questions
 * answered), retrieval_report.c and retrieval_plot.c. */
#ifndef EVAL_RETRIEVAL_INTERNAL_H
#define EVAL_RETRIEVAL_INTERNAL_H
#include "eval/eval_internal.h"
#include "eval/haystack.h"
#include <stdatomic.h>

#define RETRIEVAL_DEPTHS 10u
#define RETRIEVAL_ITEMS_AT_ONCE 8u
#define RETRIEVAL_ROWS_MAX (3u * RETRIEVAL_ITEMS_AT_ONCE) /* tokens of a pass of branches */

/* Items of one task, length and budget. Of those that dense attention answers right: how many with retrieval, with the window alone. */
struct retrieval_cell {
    enum haystack_task task;
    uint32_t length, budget; /* index of options->budgets */
    uint32_t items, dense_correct, both_correct, window_correct;
    uint32_t dense_at[RETRIEVAL_DEPTHS], both_at[RETRIEVAL_DEPTHS]; /* the same by depth of the needle */
};

/* What the keys that were read have of the attention: of one token, layer and KV head; its query heads' mean. */
struct retrieval_slot {
    bool measured, recalls; /* recalls: keys were recalled, so there is a recall */
    double mass, recall;
};
/* The same, summed over tokens. */
struct retrieval_masses {
    uint64_t count, recalls;
    double mass, recall;
};

/* Of one budget, over all items: tokens after the question, each given the answer of dense attention before it. */
struct retrieval_distance {
    double *kl; /* [positions], nats; sorted by the report */
    uint64_t positions, capacity, agreed;
    struct model_attention_tally tally;
    struct retrieval_masses *masses; /* [layers, kv_heads] of the first token after each question */
};

struct retrieval {
    const struct eval_retrieval_options *options;
    const struct kvasir_model *opened;
    const struct model_config *config;
    struct pool *pool;
    struct engine_plan plan;
    struct kv_cache *cache;
    struct model_run *run;
    unsigned tasks;                       /* bit 1 << task: is asked */
    uint32_t full_layers, dense_layers;   /* that keep every token */
    struct retrieval_cell *cells;         /* [lengths][TASK_COUNT][budgets] */
    struct retrieval_distance *distances; /* [budgets] */
    struct retrieval_slot *slots;         /* [RETRIEVAL_ROWS_MAX, layers, kv_heads] of one pass */
    _Atomic bool observe_failed;          /* no memory */
};
static inline struct retrieval_slot *retrieval_slot(const struct retrieval *r, uint32_t row, uint32_t layer,
                                                    uint32_t head)
{
    return &r->slots[((uint64_t)row * r->config->layers + layer) * r->config->kv_heads + head];
}
static inline struct retrieval_cell *retrieval_cell(const struct retrieval *r, size_t length, uint32_t task,
                                                    size_t budget)
{
    return &r->cells[(length * TASK_COUNT + task) * r->options->budget_count + budget];
}
static inline bool retrieval_tests(const struct retrieval *r, uint32_t task)
{
    return r->tasks >> task & 1;
}
/* What a budget allows where `tokens` tokens are cached; window: without recall. */
struct model_retrieval retrieval_settings(const struct retrieval *r, double budget, uint32_t tokens, bool window);

/* ---- retrieval_ask.c ---------------------------------------------------------------------------------------------- */

/* Runs `tokens` tokens after those of `seq`, densely. *logits: of the last one, borrowed until the next pass. */
MUST_CHECK enum status retrieval_prefill(struct retrieval *r, struct kv_seq *seq, const uint32_t *tokens,
                                         uint32_t count, const float **logits, struct error *error);
/* Asks `count` items, at most RETRIEVAL_ITEMS_AT_ONCE, of a haystack that is in `seq`, and counts the answers in the cells of
 * options->lengths[length]. */
MUST_CHECK enum status retrieval_ask(struct retrieval *r, size_t length, struct kv_seq *seq,
                                     const struct haystack_item *const *items, uint32_t count, struct error *error);

/* ---- retrieval_mass.c ---------------------------------------------------------------------------------------------- */

/* For model_run_observe, with the retrieval as data: into the slots. */
void retrieval_observe(void *data, const struct model_choice *choice);
/* The slots of a pass are added to a budget's masses, and emptied. */
MUST_CHECK enum status retrieval_gather(struct retrieval *r, size_t budget, struct error *error);

/* ---- reports ------------------------------------------------------------------------------------------------------ */

MUST_CHECK enum status retrieval_report(struct retrieval *r, enum eval_output output, struct buffer *out,
                                        struct error *error);
MUST_CHECK enum status retrieval_plot(const struct retrieval *r, struct buffer *out, struct error *error);

#endif
