/* throughput_figures.c - from the records of a level to its figures, as docs/throughput.md defines them. */
#include "eval/throughput_internal.h"
#include <math.h>
#include <stdlib.h>

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static double percentile(const double *sorted, uint64_t count, double share)
{
    double at = share * (double)(count - 1);
    uint64_t below = (uint64_t)at;
    if (below + 1 == count) return sorted[below];
    return sorted[below] + (at - (double)below) * (sorted[below + 1] - sorted[below]);
}

struct distribution distribution_of(double *values, uint64_t count)
{
    if (!count) return (struct distribution){NAN, NAN, NAN, NAN, NAN};
    double sum = 0;
    qsort(values, count, sizeof *values, ascending);
    for (uint64_t i = 0; i < count; i++) sum += values[i];
    return (struct distribution){.mean = sum / (double)count,
                                 .p50 = percentile(values, count, 0.5),
                                 .p90 = percentile(values, count, 0.9),
                                 .p99 = percentile(values, count, 0.99),
                                 .max = values[count - 1]};
}

static double ttft_s(const struct load_request *r)
{
    return r->first_s - r->due_s;
}

static double tpot_s(const struct load_request *r)
{
    return r->received > 1 ? (r->last_s - r->first_s) / (r->received - 1) : NAN;
}

static double e2e_s(const struct load_request *r)
{
    return r->last_s - r->due_s;
}

/* Of the requests that are done and have one. */
static struct distribution over_requests(const struct load *load, double (*measure)(const struct load_request *),
                                         double *values)
{
    uint64_t count = 0;
    for (uint32_t i = 0; i < load->options->requests; i++) {
        double value = load->requests[i].state == LOAD_DONE ? measure(&load->requests[i]) : NAN;
        if (!isnan(value)) values[count++] = value;
    }
    return distribution_of(values, count);
}

enum status figures_take(struct load *load, double seconds, struct throughput_level *out, struct error *error)
{
    uint64_t prompt = 0, done_prompt = 0, cached = 0;
    double *values = mem_zero(load->options->requests, sizeof *values);
    if (!values) return error_set(error, ST_NOMEM, "not enough memory for the figures of a load");
    out->requests_done = out->requests_failed = out->requests_cut = 0;
    for (uint32_t i = 0; i < load->options->requests; i++) {
        const struct load_request *r = &load->requests[i];
        out->requests_done += r->state == LOAD_DONE;
        out->requests_failed += r->state == LOAD_FAILED;
        out->requests_cut += r->state == LOAD_CUT;
        if (r->received) prompt += r->prompt;
        if (r->state == LOAD_DONE) done_prompt += r->prompt;
        if (r->state == LOAD_DONE) cached += r->cached;
    }
    out->seconds = seconds;
    out->requests_per_s = seconds > 0 ? out->requests_done / seconds : NAN;
    out->output_tokens_per_s = seconds > 0 ? (double)load->received / seconds : NAN;
    out->total_tokens_per_s = seconds > 0 ? (double)(prompt + load->received) / seconds : NAN;
    out->prefix_hit_rate = done_prompt ? (double)cached / (double)done_prompt : NAN;
    out->ttft_s = over_requests(load, ttft_s, values);
    out->tpot_s = over_requests(load, tpot_s, values);
    out->e2e_s = over_requests(load, e2e_s, values);
    out->itl_s = distribution_of(load->gaps, load->gap_count);
    mem_free(values);
    return ST_OK;
}
