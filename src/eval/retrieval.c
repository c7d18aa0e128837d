/* retrieval.c - what retrieval attention loses: haystacks are made and computed, their questions asked (retrieval_ask.c) until every
 * task has enough items that dense attention answers right.
 *
 * Boundaries of the settings that a server has are ignored. Of a budget's rows an eighth are first tokens (at most INITIAL_GROUPS
 * groups of 16), an eighth local ones, the others are recalled; dense layers are paid for first. */
#include "eval/retrieval_internal.h"
#include <string.h>

#define INITIAL_GROUPS 4u
#define LENGTH_MIN 128u
#define LENGTH_MAX (1u << 20)
#define LENGTHS_MAX 64u
#define BUDGETS_MAX 16u
#define ITEMS_MAX 10000u
#define WINDOW_BUDGET_MAX 0.5 /* of larger ones the window alone holds most needles */
#define WINDOW_MARGIN 0.05    /* of the text: a needle's own length, and the question's */
#define TRIES 3u              /* items asked for each that is wanted */

struct model_retrieval retrieval_settings(const struct retrieval *r, double budget, uint32_t tokens, bool window)
{
    const uint32_t dense = r->dense_layers, sparse = r->full_layers - dense;
    double share = sparse ? (budget * r->full_layers - dense) / sparse : 0;
    if (share < 0) share = 0;
    if (budget >= 1)
        return (struct model_retrieval){.initial_tokens = tokens, .local_tokens = tokens, .recall_tokens = tokens};
    uint32_t groups = (uint32_t)(share * tokens) / KERNEL_GROUP_TOKENS;
    uint32_t initial = most(least(groups / 8, INITIAL_GROUPS), 1), local = most(groups / 8, 1);
    uint32_t recalled = groups > initial + local ? groups - initial - local : 0;
    if (window) local += recalled;
    return (struct model_retrieval){.initial_tokens = initial * KERNEL_GROUP_TOKENS,
                                    .local_tokens = local * KERNEL_GROUP_TOKENS,
                                    .recall_tokens = window ? 0 : recalled * KERNEL_GROUP_TOKENS,
                                    .dense_layers = r->options->dense_layers};
}

/* ---- options -------------------------------------------------------------------------------------------------------- */

static enum status read_tasks(const char *names, unsigned *out, struct error *error)
{
    *out = 0;
    for (const char *at = names; at && *at;) {
        size_t bytes = strcspn(at, ",");
        uint32_t task = 0;
        while (task < TASK_COUNT &&
               (strlen(haystack_task_name(task)) != bytes || memcmp(haystack_task_name(task), at, bytes) != 0))
            task++;
        if (task == TASK_COUNT)
            return error_set(
                error, ST_INVALID,
                "task '%.*s': must be single, multi-value, multi-query, variables, multi-key, words or code",
                (int)least((uint32_t)bytes, 60), at);
        *out |= 1u << task;
        at += bytes + (at[bytes] == ',');
    }
    if (!*out) *out = (1u << TASK_COUNT) - 1;
    return ST_OK;
}

static enum status check(const struct retrieval *r, struct error *error)
{
    const struct eval_retrieval_options *o = r->options;
    if (o->cache.no_kv_cache)
        return error_set(error, ST_INVALID,
                         "retrieval attention reads the KV cache: it cannot be measured without one");
    if (!o->length_count || o->length_count > LENGTHS_MAX || !o->budget_count || o->budget_count > BUDGETS_MAX)
        return error_set(error, ST_INVALID, "%zu lengths and %zu budgets: must be 1 to %u and 1 to %u", o->length_count,
                         o->budget_count, LENGTHS_MAX, BUDGETS_MAX);
    if (!o->items || o->items > ITEMS_MAX)
        return error_set(error, ST_INVALID, "%u items: must be 1 to %u", o->items, ITEMS_MAX);
    for (size_t i = 0; i < o->length_count; i++)
        if (o->lengths[i] < LENGTH_MIN || o->lengths[i] > LENGTH_MAX)
            return error_set(error, ST_INVALID, "a length of %u tokens: must be %u to %u", o->lengths[i], LENGTH_MIN,
                             LENGTH_MAX);
    for (size_t i = 0; i < o->budget_count; i++)
        if (!(o->budgets[i] > 0 && o->budgets[i] <= 1))
            return error_set(error, ST_INVALID, "a budget of %g: must be above 0 and at most 1", o->budgets[i]);
    return ST_OK;
}

/* ---- the order of things -------------------------------------------------------------------------------------------- */

/* Whether more items of the task are to be asked: not enough were answered right, nor so many in vain. */
static bool wants(const struct retrieval *r, size_t length, uint32_t task)
{
    const struct retrieval_cell *cell = retrieval_cell(r, length, task, 0);
    const uint32_t wanted = r->options->items;
    if (!retrieval_tests(r, task) || cell->dense_correct >= wanted || cell->items >= TRIES * wanted) return false;
    return cell->items < wanted || cell->dense_correct >= cell->items / 10;
}

static bool wants_any(const struct retrieval *r, size_t length, unsigned tasks)
{
    for (uint32_t task = 0; task < TASK_COUNT; task++)
        if ((tasks >> task & 1) && wants(r, length, task)) return true;
    return false;
}

static void progress(const struct retrieval *r)
{
    const struct eval_retrieval_options *o = r->options;
    double sum = 0, count = 0;
    if (!o->progress) return;
    for (size_t i = 0; i < o->length_count; i++)
        for (uint32_t task = 0; task < TASK_COUNT; task++) {
            const struct retrieval_cell *cell = retrieval_cell(r, i, task, 0);
            if (!retrieval_tests(r, task)) continue;
            double right = (double)cell->dense_correct / o->items, asked = (double)cell->items / (TRIES * o->items);
            double done = !wants(r, i, task) || right > 1 ? 1 : right > asked ? right : asked;
            sum += done * o->lengths[i];
            count += o->lengths[i];
        }
    o->progress(o->progress_data, sum / count);
}

/* Needles from here on lie in, or near, what the window alone holds with the largest of the budgets: they would prove nothing. */
static double depth_end(const struct eval_retrieval_options *o)
{
    double largest = 0;
    for (size_t i = 0; i < o->budget_count; i++)
        if (o->budgets[i] > largest && o->budgets[i] < WINDOW_BUDGET_MAX) largest = o->budgets[i];
    return 1 - WINDOW_MARGIN - largest;
}

/* Whether the item is to be asked. */
static bool wants_item(const struct retrieval *r, size_t length, const struct haystack_item *item)
{
    return item->depth < depth_end(r->options) && wants(r, length, item->task);
}

static bool wants_haystack(const struct retrieval *r, size_t length, const struct haystack *haystack)
{
    for (uint32_t i = 0; i < haystack->item_count; i++)
        if (wants_item(r, length, &haystack->items[i])) return true;
    return false;
}

/* The haystack's items, as long as their task wants more. */
static enum status ask_items(struct retrieval *r, size_t length, const struct haystack *haystack, struct kv_seq *seq,
                             struct error *error)
{
    enum status status = ST_OK;
    for (uint32_t next = 0; next < haystack->item_count && status == ST_OK;) {
        const struct haystack_item *items[RETRIEVAL_ITEMS_AT_ONCE];
        uint32_t count = 0;
        for (; next < haystack->item_count && count < RETRIEVAL_ITEMS_AT_ONCE; next++)
            if (wants_item(r, length, &haystack->items[next])) items[count++] = &haystack->items[next];
        if (count) status = retrieval_ask(r, length, seq, items, count, error);
        progress(r);
    }
    return status;
}

static enum status run_haystack(struct retrieval *r, size_t length, enum haystack_family family, uint32_t number,
                                struct error *error)
{
    const struct eval_retrieval_options *o = r->options;
    struct haystack haystack;
    struct kv_seq *seq = NULL;
    const float *logits;
    uint32_t cached;
    uint64_t seed = (o->seed * 1048583 + o->lengths[length]) * 65537 + number;
    enum status status = haystack_make(r->opened, family, o->lengths[length], seed, &haystack, error);
    if (status != ST_OK) return status;
    if (!wants_haystack(r, length, &haystack)) {
        haystack_release(&haystack);
        return ST_OK;
    }
    status = kv_seq_open(r->cache, haystack.ids, 0, 0, &seq, &cached); /* 0 tokens: nothing is shared */
    if (status != ST_OK) status = error_set(error, status, "not enough memory for %u tokens", haystack.count);
    if (status == ST_OK) status = retrieval_prefill(r, seq, haystack.ids, haystack.count, &logits, error);
    if (status == ST_OK) status = ask_items(r, length, &haystack, seq, error);
    kv_seq_close(seq);
    haystack_release(&haystack);
    return status;
}

static enum status run_all(struct retrieval *r, struct error *error)
{
    enum status status = ST_OK;
    const uint32_t haystacks =
        TRIES * r->options->items; /* of a family and length: none has an item for less than one try */
    for (size_t i = 0; i < r->options->length_count; i++)
        for (uint32_t family = 0; family < HAYSTACK_FAMILIES; family++)
            for (uint32_t n = 0; n < haystacks && status == ST_OK && wants_any(r, i, haystack_family_tasks(family));
                 n++)
                status = run_haystack(r, i, family, n, error);
    return status;
}

/* ---- life ----------------------------------------------------------------------------------------------------------- */

static void count_layers(struct retrieval *r)
{
    for (uint32_t i = 0; i < r->plan.kv.layer_count; i++) {
        const bool indexed = r->plan.kv.layers[i].index;
        r->full_layers += indexed;
        r->dense_layers += indexed && i < r->options->dense_layers;
    }
}

static enum status open_cache(struct retrieval *r, struct error *error)
{
    const struct eval_retrieval_options *o = r->options;
    struct kvasir_engine_options wanted = o->cache;
    wanted.context = wanted.max_batched_tokens = 0;
    wanted.retrieval = (struct kvasir_retrieval){.mode = KVASIR_RETRIEVAL_ON};
    for (size_t i = 0; i < o->length_count; i++) wanted.context = most(wanted.context, o->lengths[i]);
    enum status status = engine_plan_init(engine_model(r->opened), &wanted, &r->plan, error);
    if (status != ST_OK) return status;
    r->plan.kv.share_prefixes = false; /* what a text leaves is not read again */
    count_layers(r);
    if (!r->full_layers)
        return error_set(error, ST_UNSUPPORTED,
                         "no layer of this model keeps every token: there is nothing to retrieve");
    status = kv_open(&r->plan.kv, &r->cache, error);
    if (status == ST_OK)
        status = model_run_open(engine_model(r->opened), r->pool, r->plan.max_batched_tokens, RETRIEVAL_ROWS_MAX,
                                r->plan.context, &r->run, error);
    return status;
}

static enum status open_results(struct retrieval *r, struct error *error)
{
    const struct eval_retrieval_options *o = r->options;
    r->cells = mem_zero(o->length_count * TASK_COUNT * o->budget_count, sizeof *r->cells);
    r->distances = mem_zero(o->budget_count, sizeof *r->distances);
    const uint64_t heads = (uint64_t)r->config->layers * r->config->kv_heads;
    r->slots = mem_zero(RETRIEVAL_ROWS_MAX * heads, sizeof *r->slots);
    bool failed = !r->cells || !r->distances || !r->slots;
    for (size_t b = 0; b < o->budget_count && !failed; b++) {
        r->distances[b].masses = mem_zero(heads, sizeof *r->distances[b].masses);
        failed = !r->distances[b].masses;
    }
    if (failed) return error_set(error, ST_NOMEM, "not enough memory for the report");
    for (size_t i = 0; i < o->length_count; i++)
        for (uint32_t task = 0; task < TASK_COUNT; task++)
            for (size_t b = 0; b < o->budget_count; b++) {
                struct retrieval_cell *cell = retrieval_cell(r, i, task, b);
                cell->task = (enum haystack_task)task;
                cell->length = o->lengths[i];
                cell->budget = (uint32_t)b;
            }
    return ST_OK;
}

static void release(struct retrieval *r)
{
    for (size_t b = 0; r->distances && b < r->options->budget_count; b++) {
        mem_free(r->distances[b].kl);
        mem_free(r->distances[b].masses);
    }
    mem_free(r->slots);
    mem_free(r->distances);
    mem_free(r->cells);
    model_run_close(r->run);
    kv_close(r->cache);
    engine_plan_release(&r->plan);
    pool_close(r->pool);
}

enum status eval_retrieval(struct kvasir_model *model, const struct eval_retrieval_options *options,
                           enum eval_output output, struct buffer *out, struct buffer *plot, struct error *error)
{
    if (!engine_model(model))
        return error_set(error, ST_INVALID, "the model was opened with its vocabulary only: it cannot run");
    struct retrieval r = {.options = options, .opened = model, .config = model_config(engine_model(model))};
    enum status status = read_tasks(options->tasks, &r.tasks, error);
    if (status == ST_OK) status = check(&r, error);
    if (status == ST_OK) status = pool_open(engine_threads(model), &r.pool, error);
    if (status == ST_OK) status = open_cache(&r, error);
    if (status == ST_OK) status = open_results(&r, error);
    if (status == ST_OK) status = run_all(&r, error);
    if (status == ST_OK) status = retrieval_report(&r, output, out, error);
    if (status == ST_OK && plot) status = retrieval_plot(&r, plot, error);
    release(&r);
    return status;
}
