/* throughput_internal.h - shared by throughput.c, which drives an engine, throughput_load.c, which knows what is due when and
 * keeps the records, throughput_figures.c, which sums these up, and the report and the plot. */
#ifndef EVAL_THROUGHPUT_INTERNAL_H
#define EVAL_THROUGHPUT_INTERNAL_H
#include "eval/eval_internal.h"

/* ---- throughput_load.c: the load, and the records of one level -------------------------------------------------- */

enum load_state { LOAD_WAITING, LOAD_IN_FLIGHT, LOAD_DONE, LOAD_FAILED, LOAD_CUT };

/* One turn of a conversation. Times are seconds since the level began. */
struct load_request {
    uint32_t fresh, output; /* drawn: new prompt tokens, tokens of the answer */
    uint32_t prompt;        /* all prompt tokens */
    enum load_state state;
    double due_s, first_s, last_s; /* it should be submitted; its first and last tokens came */
    uint32_t received, cached;     /* tokens of the answer so far; prompt tokens found in the prefix cache */
};

struct load {
    const struct eval_throughput_options *options;
    struct load_request *requests; /* [options->requests], a conversation's turns in a row */
    uint32_t conversations;
    double *arrivals;   /* [conversations] at one conversation per second */
    uint32_t *prefixes; /* [conversations] which of the shared prefixes */
    uint64_t prompt_tokens, output_tokens;
    uint32_t longest; /* tokens of the longest conversation */
    /* Of the level: */
    uint32_t concurrency; /* 0: an open loop */
    double rate;          /* conversations per second, of an open loop */
    uint32_t begun, held; /* conversations; held: begun and not ended */
    uint32_t in_flight, ended;
    uint32_t *thinking; /* [conversations] requests whose time is known and has not come */
    uint32_t thinking_count;
    double *gaps; /* [output_tokens] seconds between two deliveries to one request */
    uint64_t gap_count, received;
};
#define LOAD_NONE UINT32_MAX

/* Draws everything. ST_INVALID: see eval_throughput_check. */
MUST_CHECK enum status load_init(struct load *load, const struct eval_throughput_options *options, struct error *error);
void load_release(struct load *load); /* also one that is all zero */

/* A level begins, with no records: level `index` of the options'. */
void load_begin(struct load *load, size_t index);
/* The request that was due first of those that are due `now`: from here on it is in flight. Or LOAD_NONE, and when to ask
 * again unless an answer ends before: INFINITY if only that can make one due. */
uint32_t load_due(struct load *load, double now, double *next_s);
/* A request in flight got so many tokens in one step, or ended; one that failed takes the rest of its conversation with it. */
void load_delivered(struct load *load, uint32_t request, uint32_t tokens, double now);
void load_ended(struct load *load, uint32_t request, bool failed, double now);
/* The level ends here: what is in flight is cut. */
void load_cut(struct load *load);
bool load_over(const struct load *load);

static inline uint32_t load_conversation(const struct load *load, uint32_t request)
{
    return request / load->options->turns;
}
/* Whether it is the last turn of its conversation. */
bool load_is_last(const struct load *load, uint32_t request);
static inline size_t load_levels(const struct eval_throughput_options *options)
{
    return options->concurrency_count + options->rate_count;
}

/* ---- throughput_figures.c ---------------------------------------------------------------------------------------- */

struct distribution {
    double mean, p50, p90, p99, max; /* NAN: of nothing */
};

/* Of one level. What is unknown is NAN. */
struct throughput_level {
    double at; /* concurrency, or requests per second */
    double seconds, requests_done, requests_failed, requests_cut;
    double requests_per_s, output_tokens_per_s, total_tokens_per_s;
    double prefix_hit_rate;
    double kv_use_mean, kv_use_peak; /* shares of the budget */
    double kv_bytes_peak;
    double preemptions, preemptions_swapped, prefix_waits;
    double steps, input_share, schedule_share, execute_share,
        output_share; /* shares of `seconds`, by stage of a step */
    struct distribution ttft_s, tpot_s, itl_s, e2e_s;
};

/* Sorts the values. A percentile between two values is interpolated linearly. */
struct distribution distribution_of(double *values, uint64_t count);
/* What the records say; the fields that the engine tells are left as they are. Sorts the gaps. */
MUST_CHECK enum status figures_take(struct load *load, double seconds, struct throughput_level *out,
                                    struct error *error);

/* ---- the report and the plot ------------------------------------------------------------------------------------- */

struct throughput {
    const struct eval_throughput_options *options;
    struct kvasir_model_info model;
    struct load load;
    struct throughput_level *levels; /* [level_count] that were measured */
    size_t level_count;
};

MUST_CHECK enum status throughput_report(const struct throughput *throughput, enum eval_output output,
                                         struct buffer *out, struct error *error);
MUST_CHECK enum status throughput_plot(const struct throughput *throughput, struct buffer *out, struct error *error);

#endif
