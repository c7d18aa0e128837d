/* retrieval_ask.c - questions about a haystack, each answered greedily by dense attention, by retrieval and by the window alone, from
 * forks of one prefill.
 *
 *   haystack ── fork ── question (dense) ─┬─ dense                 its own best tokens
 *                                         ├─ followed, a budget    retrieval, given dense's tokens: KL and agreement
 *                                         │     └─ free            from the first token on at which its best one is another
 *                                         └─ window, a budget      no recall, its own best tokens
 *
 * A branch that follows is the free answer as long as its best tokens are dense's, so retrieval's own answer costs a branch of its own
 * only after they part. With --question sparse the question's tokens, too, are run one at a time by the branches of retrieval. */
#include "eval/retrieval_internal.h"
#include <stdlib.h>
#include <string.h>

struct branch {
    struct kv_seq *seq; /* NULL: there is none, or it has ended */
    uint32_t *tokens;   /* [answer_max] its answer so far */
};

/* What one budget makes of an item. */
struct sparse {
    struct branch followed, free, window;
    bool parted; /* free has an answer of its own */
};

struct asked {
    const struct haystack_item *item;
    struct branch dense;
    struct sparse *sparse; /* [budgets] */
};

struct asking {
    struct retrieval *r;
    size_t length;
    struct asked asked[RETRIEVAL_ITEMS_AT_ONCE];
    uint32_t count, answer_max;
    float *dense_logits; /* [count, vocabulary] of the step at hand */
    void *memory;        /* branches and tokens */
};

/* One pass of one token for several branches. */
struct rows {
    struct kv_seq *seqs[RETRIEVAL_ROWS_MAX];
    struct model_entry entries[RETRIEVAL_ROWS_MAX];
    uint32_t tokens[RETRIEVAL_ROWS_MAX], count;
    struct model_retrieval settings[RETRIEVAL_ROWS_MAX];
};

static enum status no_room(enum status status, struct error *error)
{
    return error_set(error, status,
                     "not enough memory for a text and the answers about it: state a larger KV cache or "
                     "smaller lengths");
}

/* ---- passes --------------------------------------------------------------------------------------------------------- */

enum status retrieval_prefill(struct retrieval *r, struct kv_seq *seq, const uint32_t *tokens, uint32_t count,
                              const float **logits, struct error *error)
{
    enum status status = pass_tokens(r->cache, r->run, r->plan.max_batched_tokens, seq, tokens, count, logits);
    return status == ST_OK ? ST_OK : no_room(status, error);
}

/* retrieval: of what settings; NULL: dense. */
static void add_row(struct rows *rows, struct kv_seq *seq, uint32_t token, const struct model_retrieval *retrieval)
{
    uint32_t i = rows->count++;
    ASSERT(i < RETRIEVAL_ROWS_MAX);
    rows->seqs[i] = seq;
    rows->tokens[i] = token;
    rows->entries[i] = (struct model_entry){.seq = seq, .tokens = &rows->tokens[i], .count = 1, .logits_count = 1};
    if (!retrieval) return;
    rows->settings[i] = *retrieval;
    rows->entries[i].retrieval = &rows->settings[i];
}

static enum status run_rows(struct retrieval *r, struct rows *rows, const float **logits, struct error *error)
{
    struct kv_batch *batch;
    enum status status = ST_OK;
    if (!rows->count) return ST_OK;
    for (uint32_t i = 0; i < rows->count && status == ST_OK; i++) status = kv_seq_reserve(rows->seqs[i], 1);
    if (status == ST_OK) status = kv_batch_pin(r->cache, rows->seqs, rows->count, &batch);
    if (status != ST_OK) return no_room(status, error);
    model_forward(r->run, rows->entries, rows->count, logits);
    kv_batch_unpin(batch);
    for (uint32_t i = 0; i < rows->count; i++) kv_seq_commit(rows->seqs[i], &rows->tokens[i], 1);
    return ST_OK;
}

/* ---- distances ------------------------------------------------------------------------------------------------------ */

static enum status add_distance(struct retrieval *r, size_t budget, const float *dense, const float *sparse,
                                struct error *error)
{
    struct retrieval_distance *d = &r->distances[budget];
    uint8_t agrees;
    if (d->positions == d->capacity) {
        uint64_t capacity = d->capacity ? 2 * d->capacity : 1024;
        double *kl = mem_resize(d->kl, capacity * sizeof *kl);
        if (!kl) return error_set(error, ST_NOMEM, "not enough memory for the report");
        d->kl = kl;
        d->capacity = capacity;
    }
    d->kl[d->positions++] = kl_divergence(dense, sparse, r->config->vocabulary, &agrees);
    d->agreed += agrees;
    return ST_OK;
}

/* ---- branches ------------------------------------------------------------------------------------------------------- */

static enum status fork_branch(struct kv_seq *from, struct branch *branch, struct error *error)
{
    enum status status = kv_seq_fork(from, &branch->seq);
    return status == ST_OK ? ST_OK : no_room(status, error);
}

/* The branch that follows has chosen `best` where dense has chosen another token: from here on it also goes its own way. `step`:
 * index of that token in the answer. */
static enum status part(const struct asked *asked, struct sparse *sparse, uint32_t step, uint32_t best,
                        struct error *error)
{
    if (sparse->parted) return ST_OK;
    memcpy(sparse->free.tokens, asked->dense.tokens, step * sizeof *sparse->free.tokens);
    sparse->free.tokens[step] = best;
    sparse->parted = true;
    return fork_branch(sparse->followed.seq, &sparse->free, error);
}

/* Logits of dense and of the branch that follows, for token `step` of the answer. */
static enum status compare(struct asking *a, uint32_t index, size_t budget, uint32_t step, const float *sparse,
                           struct error *error)
{
    struct asked *asked = &a->asked[index];
    const uint32_t vocabulary = a->r->config->vocabulary;
    enum status status = add_distance(a->r, budget, a->dense_logits + (uint64_t)index * vocabulary, sparse, error);
    uint32_t best = pass_best(sparse, vocabulary);
    if (status != ST_OK || best == asked->dense.tokens[step]) return status;
    return part(asked, &asked->sparse[budget], step, best, error);
}

/* One token a row, of one budget: those that follow, those that are free, the windows'. */
static enum status step_sparse(struct asking *a, size_t budget, uint32_t step, struct error *error)
{
    struct retrieval *r = a->r;
    struct rows rows = {0};
    const uint32_t vocabulary = r->config->vocabulary;
    const double share = r->options->budgets[budget];
    struct model_attention_tally before, after;
    const float *logits;
    for (uint32_t i = 0; i < a->count; i++) {
        struct asked *asked = &a->asked[i];
        struct sparse *sparse = &asked->sparse[budget];
        if (step + 1 >= asked->item->answer_tokens) continue;
        uint32_t tokens = kv_seq_count(sparse->followed.seq) + 1;
        const struct model_retrieval recalled = retrieval_settings(r, share, tokens, false);
        add_row(&rows, sparse->followed.seq, asked->dense.tokens[step], &recalled);
        if (sparse->free.seq) add_row(&rows, sparse->free.seq, sparse->free.tokens[step], &recalled);
    }
    model_run_attention_tally(r->run, &before);
    model_run_observe(r->run, step == 0 ? retrieval_observe : NULL, r);
    enum status status = run_rows(r, &rows, &logits, error);
    model_run_observe(r->run, NULL, NULL);
    model_run_attention_tally(r->run, &after);
    if (status == ST_OK && step == 0) status = retrieval_gather(r, budget, error);
    r->distances[budget].tally.rows_read += after.rows_read - before.rows_read;
    r->distances[budget].tally.rows_dense += after.rows_dense - before.rows_dense;
    for (uint32_t i = 0; i < a->count && status == ST_OK; i++) {
        struct asked *asked = &a->asked[i];
        struct sparse *sparse = &asked->sparse[budget];
        if (step + 1 >= asked->item->answer_tokens) continue;
        const float *followed = logits, *own = sparse->free.seq ? logits + vocabulary : NULL;
        logits += sparse->free.seq ? 2 * vocabulary : vocabulary;
        if (own) sparse->free.tokens[step + 1] = pass_best(own, vocabulary);
        status = compare(a, i, budget, step + 1, followed, error);
    }
    return status;
}

static enum status step_windows(struct asking *a, size_t budget, uint32_t step, struct error *error)
{
    struct retrieval *r = a->r;
    struct rows rows = {0};
    const float *logits;
    for (uint32_t i = 0; i < a->count; i++) {
        struct branch *window = &a->asked[i].sparse[budget].window;
        if (step + 1 >= a->asked[i].item->answer_tokens) continue;
        const struct model_retrieval settings =
            retrieval_settings(r, r->options->budgets[budget], kv_seq_count(window->seq) + 1, true);
        add_row(&rows, window->seq, window->tokens[step], &settings);
    }
    enum status status = run_rows(r, &rows, &logits, error);
    for (uint32_t i = 0, row = 0; i < a->count && status == ST_OK; i++)
        if (step + 1 < a->asked[i].item->answer_tokens)
            a->asked[i].sparse[budget].window.tokens[step + 1] =
                pass_best(logits + (uint64_t)row++ * r->config->vocabulary, r->config->vocabulary);
    return status;
}

static enum status step_dense(struct asking *a, uint32_t step, struct error *error)
{
    struct retrieval *r = a->r;
    struct rows rows = {0};
    const float *logits;
    const uint32_t vocabulary = r->config->vocabulary;
    for (uint32_t i = 0; i < a->count; i++)
        if (step + 1 < a->asked[i].item->answer_tokens)
            add_row(&rows, a->asked[i].dense.seq, a->asked[i].dense.tokens[step], NULL);
    enum status status = run_rows(r, &rows, &logits, error);
    for (uint32_t i = 0; i < a->count && status == ST_OK; i++) {
        if (step + 1 >= a->asked[i].item->answer_tokens) continue;
        memcpy(a->dense_logits + (uint64_t)i * vocabulary, logits, vocabulary * sizeof *logits);
        a->asked[i].dense.tokens[step + 1] = pass_best(logits, vocabulary);
        logits += vocabulary;
    }
    return status;
}

/* ---- the question --------------------------------------------------------------------------------------------------- */

/* A question's tokens, one at a time by what `settings` allows. *logits: of the last one. */
static enum status question_sparsely(struct asking *a, const struct haystack_item *item, struct kv_seq *seq,
                                     double budget, bool window, const float **logits, struct error *error)
{
    enum status status = ST_OK;
    for (uint32_t i = 0; i < item->question_count && status == ST_OK; i++) {
        struct rows rows = {0};
        const struct model_retrieval settings = retrieval_settings(a->r, budget, kv_seq_count(seq) + 1, window);
        add_row(&rows, seq, item->question[i], &settings);
        status = run_rows(a->r, &rows, logits, error);
    }
    return status;
}

/* The branches of one budget, up to the answer's first token. */
static enum status begin_sparse(struct asking *a, uint32_t index, struct kv_seq *haystack, size_t budget,
                                struct error *error)
{
    struct asked *asked = &a->asked[index];
    struct sparse *sparse = &asked->sparse[budget];
    const bool question = a->r->options->question_sparse;
    const double share = a->r->options->budgets[budget];
    const float *logits;
    struct kv_seq *from = question ? haystack : asked->dense.seq;
    enum status status = fork_branch(from, &sparse->followed, error);
    if (status == ST_OK) status = fork_branch(from, &sparse->window, error);
    sparse->window.tokens[0] = asked->dense.tokens[0];
    if (!question || status != ST_OK) return status;
    status = question_sparsely(a, asked->item, sparse->window.seq, share, true, &logits, error);
    if (status == ST_OK) sparse->window.tokens[0] = pass_best(logits, a->r->config->vocabulary);
    if (status == ST_OK) status = question_sparsely(a, asked->item, sparse->followed.seq, share, false, &logits, error);
    return status == ST_OK ? compare(a, index, budget, 0, logits, error) : status;
}

static enum status begin(struct asking *a, uint32_t index, struct kv_seq *haystack, struct error *error)
{
    struct asked *asked = &a->asked[index];
    const uint32_t vocabulary = a->r->config->vocabulary;
    const float *logits;
    enum status status = fork_branch(haystack, &asked->dense, error);
    if (status == ST_OK)
        status = retrieval_prefill(a->r, asked->dense.seq, asked->item->question, asked->item->question_count, &logits,
                                   error);
    if (status != ST_OK) return status;
    memcpy(a->dense_logits + (uint64_t)index * vocabulary, logits, vocabulary * sizeof *logits);
    asked->dense.tokens[0] = pass_best(logits, vocabulary);
    for (size_t b = 0; b < a->r->options->budget_count && status == ST_OK; b++)
        status = begin_sparse(a, index, haystack, b, error);
    return status;
}

/* ---- counting ------------------------------------------------------------------------------------------------------- */

static enum status judge(const struct retrieval *r, const struct haystack_item *item, const uint32_t *tokens,
                         bool *right, struct error *error)
{
    char *text;
    size_t bytes;
    int status = kvasir_detokenize(r->opened, tokens, item->answer_tokens, 0, &text, &bytes,
                                   (struct kvasir_error *)(void *)error);
    if (status != KVASIR_OK) return (enum status)status;
    *right = haystack_correct(item, text, bytes);
    kvasir_free(text);
    return ST_OK;
}

static enum status count_item(struct asking *a, const struct asked *asked, struct error *error)
{
    struct retrieval *r = a->r;
    const struct haystack_item *item = asked->item;
    bool dense, right;
    uint32_t depth = (uint32_t)(item->depth * RETRIEVAL_DEPTHS);
    enum status status = judge(r, item, asked->dense.tokens, &dense, error);
    for (size_t b = 0; b < r->options->budget_count && status == ST_OK; b++) {
        struct retrieval_cell *cell = retrieval_cell(r, a->length, item->task, b);
        const struct sparse *sparse = &asked->sparse[b];
        cell->items++;
        if (!dense) continue;
        cell->dense_correct++;
        cell->dense_at[depth]++;
        right = true;
        if (sparse->parted) status = judge(r, item, sparse->free.tokens, &right, error);
        if (status == ST_OK && right) {
            cell->both_correct++;
            cell->both_at[depth]++;
        }
        if (status == ST_OK) status = judge(r, item, sparse->window.tokens, &right, error);
        if (status == ST_OK && right) cell->window_correct++;
    }
    return status;
}

/* ---- all of it ------------------------------------------------------------------------------------------------------ */

static bool init(struct asking *a, const struct haystack_item *const *items, uint32_t count)
{
    const size_t budgets = a->r->options->budget_count;
    for (uint32_t i = 0; i < count; i++)
        if (items[i]->answer_tokens > a->answer_max) a->answer_max = items[i]->answer_tokens;
    const size_t branches = 1 + 3 * budgets, tokens = branches * a->answer_max;
    a->dense_logits = mem_zero((uint64_t)count * a->r->config->vocabulary, sizeof *a->dense_logits);
    a->memory = mem_zero(count, budgets * sizeof(struct sparse) + tokens * sizeof(uint32_t));
    if (!a->memory || !a->dense_logits) return false;
    struct sparse *sparse = a->memory;
    uint32_t *next = (uint32_t *)(sparse + count * budgets);
    a->count = count;
    for (uint32_t i = 0; i < count; i++) {
        a->asked[i] = (struct asked){.item = items[i], .dense.tokens = next, .sparse = sparse + i * budgets};
        next += a->answer_max;
        for (size_t b = 0; b < budgets; b++) {
            a->asked[i].sparse[b].free.tokens = next;
            a->asked[i].sparse[b].window.tokens = next + a->answer_max;
            next += 2 * a->answer_max;
        }
    }
    return true;
}

static void release(struct asking *a)
{
    for (uint32_t i = 0; i < a->count; i++) {
        kv_seq_close(a->asked[i].dense.seq);
        for (size_t b = 0; b < a->r->options->budget_count; b++) {
            kv_seq_close(a->asked[i].sparse[b].followed.seq);
            kv_seq_close(a->asked[i].sparse[b].free.seq);
            kv_seq_close(a->asked[i].sparse[b].window.seq);
        }
    }
    mem_free(a->memory);
    mem_free(a->dense_logits);
}

enum status retrieval_ask(struct retrieval *r, size_t length, struct kv_seq *seq,
                          const struct haystack_item *const *items, uint32_t count, struct error *error)
{
    struct asking a = {.r = r, .length = length};
    enum status status = ST_OK;
    ASSERT(count <= RETRIEVAL_ITEMS_AT_ONCE);
    if (!init(&a, items, count)) status = error_set(error, ST_NOMEM, "not enough memory for %u questions", count);
    for (uint32_t i = 0; i < count && status == ST_OK; i++) status = begin(&a, i, seq, error);
    for (uint32_t step = 0; step + 1 < a.answer_max && status == ST_OK; step++) {
        status = step_dense(&a, step, error);
        for (size_t b = 0; b < r->options->budget_count && status == ST_OK; b++) {
            status = step_sparse(&a, b, step, error);
            if (status == ST_OK) status = step_windows(&a, b, step, error);
        }
    }
    for (uint32_t i = 0; i < count && status == ST_OK; i++) status = count_item(&a, &a.asked[i], error);
    release(&a);
    return status;
}
