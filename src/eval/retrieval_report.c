/* retrieval_report.c - what `eval retrieval` found, as JSON or text. */
#include "eval/retrieval_internal.h"
#include <stdlib.h>

/* Of one budget, over all tokens of all answers. */
struct summary {
    double agreement, mean, p99, rows_read, mass, recall;
    uint64_t positions, masses, recalls;
};

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static struct summary summarise(const struct retrieval *r, size_t budget)
{
    struct retrieval_distance *d = &r->distances[budget];
    struct summary s = {.positions = d->positions};
    for (uint32_t i = 0; i < r->config->layers * r->config->kv_heads; i++) {
        s.masses += d->masses[i].count;
        s.recalls += d->masses[i].recalls;
        s.mass += d->masses[i].mass;
        s.recall += d->masses[i].recall;
    }
    if (s.masses) s.mass /= (double)s.masses;
    if (s.recalls) s.recall /= (double)s.recalls;
    if (!d->positions) return s;
    for (uint64_t i = 0; i < d->positions; i++) s.mean += d->kl[i];
    s.mean /= (double)d->positions;
    s.agreement = (double)d->agreed / (double)d->positions;
    qsort(d->kl, d->positions, sizeof *d->kl, ascending);
    s.p99 = d->kl[(d->positions * 99 + 99) / 100 - 1]; /* the least that 99 % do not exceed */
    if (d->tally.rows_dense) s.rows_read = (double)d->tally.rows_read / (double)d->tally.rows_dense;
    return s;
}

static json_t *known(double value, bool is_known)
{
    return is_known ? json_real(value) : json_null();
}

static json_t *summary_json(const struct summary *s)
{
    const bool any = s->positions > 0;
    return json_pack("{s:o, s:o, s:o, s:o, s:o}", "top1_agreement", known(s->agreement, any), "mean_kl",
                     known(s->mean, any), "p99_kl", known(s->p99, any), "attention_mass", known(s->mass, s->masses > 0),
                     "recall_at_k", known(s->recall, s->recalls > 0));
}

static json_t *cell_json(const struct retrieval *r, const struct retrieval_cell *cell)
{
    return json_pack("{s:s, s:i, s:i, s:f, s:i, s:i, s:i}", "task", haystack_task_name(cell->task), "length",
                     (int)cell->length, "items", (int)cell->items, "budget", r->options->budgets[cell->budget],
                     "dense_correct", (int)cell->dense_correct, "both_correct", (int)cell->both_correct,
                     "window_correct", (int)cell->window_correct);
}

static json_t *budget_json(const struct retrieval *r, size_t budget)
{
    struct retrieval_distance *d = &r->distances[budget];
    struct summary s = summarise(r, budget);
    json_t *row = json_pack("{s:f, s:o, s:I}", "budget", r->options->budgets[budget], "rows_read",
                            known(s.rows_read, d->tally.rows_dense > 0), "positions", (json_int_t)s.positions);
    json_t *rest = summary_json(&s), *heads = json_array();
    bool failed = false;
    for (uint32_t i = 0; i < r->config->layers * r->config->kv_heads; i++) {
        const struct retrieval_masses *of = &d->masses[i];
        if (of->count)
            failed |=
                json_array_append_new(heads, json_pack("{s:i, s:i, s:f, s:o}", "layer", (int)(i / r->config->kv_heads),
                                                       "head", (int)(i % r->config->kv_heads), "attention_mass",
                                                       of->mass / (double)of->count, "recall_at_k",
                                                       known(of->recall / (double)of->recalls, of->recalls > 0))) != 0;
    }
    if (rest && json_object_set_new(rest, "heads", heads) != 0) failed = true;
    if (failed || !row || !rest || json_object_update(row, rest) != 0) {
        json_decref(row);
        row = NULL;
    }
    json_decref(rest);
    return row;
}

static enum status write_json(const struct retrieval *r, struct buffer *out, struct error *error)
{
    const struct eval_retrieval_options *o = r->options;
    json_t *cells = json_array(), *budgets = json_array();
    struct summary first = summarise(r, 0);
    bool failed = false;
    for (size_t i = 0; i < o->length_count; i++)
        for (uint32_t task = 0; task < TASK_COUNT; task++)
            for (size_t b = 0; b < o->budget_count && retrieval_tests(r, task); b++)
                failed |= json_array_append_new(cells, cell_json(r, retrieval_cell(r, i, task, b))) != 0;
    for (size_t b = 0; b < o->budget_count; b++) failed |= json_array_append_new(budgets, budget_json(r, b)) != 0;
    json_t *root = summary_json(&first);
    failed |= json_object_set_new(root, "cells", cells) != 0;
    failed |= json_object_set_new(root, "budgets", budgets) != 0;
    failed |= json_object_set_new(root, "question", json_string(o->question_sparse ? "sparse" : "dense")) != 0;
    if (failed) {
        json_decref(root);
        root = NULL;
    }
    return report_json(root, out, error);
}

/* "99.2 %", or nothing of nothing. */
static void append_share(struct buffer *out, uint32_t part, uint32_t whole)
{
    if (whole)
        buffer_printf(out, " %7.1f %%", 100.0 * part / whole);
    else
        buffer_text(out, "         -");
}

static void write_text(const struct retrieval *r, struct buffer *out)
{
    const struct eval_retrieval_options *o = r->options;
    buffer_text(out, "                                         of these answered by\n"
                     "task         length  budget  dense right  retrieval     window\n");
    for (size_t i = 0; i < o->length_count; i++)
        for (uint32_t task = 0; task < TASK_COUNT; task++)
            for (size_t b = 0; b < o->budget_count && retrieval_tests(r, task); b++) {
                const struct retrieval_cell *cell = retrieval_cell(r, i, task, b);
                buffer_printf(out, "%-11s %7u %6.1f %% %5u/%-5u ", haystack_task_name(task), cell->length,
                              100 * o->budgets[b], cell->dense_correct, cell->items);
                append_share(out, cell->both_correct, cell->dense_correct);
                append_share(out, cell->window_correct, cell->dense_correct);
                buffer_text(out, "\n");
            }
    for (size_t b = 0; b < o->budget_count; b++) {
        struct summary s = summarise(r, b);
        buffer_printf(out,
                      "budget %.1f %%: %.1f %% of the rows read; same best token at %.2f %% of %llu positions, mean KL "
                      "%.3e, 99th percentile %.3e\n",
                      100 * o->budgets[b], 100 * s.rows_read, 100 * s.agreement, (unsigned long long)s.positions,
                      s.mean, s.p99);
        buffer_printf(out, "    %.2f %% of the attention, %.1f %% of the best groups\n", 100 * s.mass, 100 * s.recall);
    }
}

enum status retrieval_report(struct retrieval *r, enum eval_output output, struct buffer *out, struct error *error)
{
    if (output == EVAL_JSON) return write_json(r, out, error);
    write_text(r, out);
    return report_done(out, error);
}
