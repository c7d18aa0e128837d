/* throughput_load.c - which requests there are, when each is due, and what became of it. No clock and no engine: the caller
 * says what time it is, so that the same load can be tried on any.
 *
 *   waiting ──load_due──▶ in flight ──load_ended──▶ done | failed          the next turn waits for its think time
 *                             └──────load_cut─────▶ cut
 *
 * Lengths, prefixes and arrivals are drawn once, from the seed alone: every level has the same ones. */
#include "eval/throughput_internal.h"
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define REQUESTS_MAX 1000000u
#define LENGTH_MAX 1048576u

/* ---- lengths ----------------------------------------------------------------------------------------------------- */

struct length {
    enum { LENGTH_UNIFORM, LENGTH_LOGNORMAL, LENGTH_EXPONENTIAL } kind; /* a fixed one: uniform from a to a */
    double a, b;                                                        /* least and most; median and sigma; mean */
};

/* A number at *text, which moves behind it. */
static bool number_take(const char **text, double least, double most, double *out)
{
    char *end;
    *out = strtod(*text, &end);
    bool begins = (**text >= '0' && **text <= '9') || **text == '.'; /* no sign, no blank, no name */
    bool good = begins && end != *text && *out >= least && *out <= most;
    *text = end;
    return good;
}

static bool separator_take(const char **text, char separator)
{
    bool there = **text == separator;
    *text += there;
    return there;
}

static bool word_take(const char **text, const char *word)
{
    size_t length = strlen(word);
    bool there = strncmp(*text, word, length) == 0;
    *text += there ? length : 0;
    return there;
}

static enum status length_parse(const char *what, const char *text, struct length *out, struct error *error)
{
    const char *p = text;
    bool good;
    *out = (struct length){0};
    if (word_take(&p, "uniform:")) {
        good = number_take(&p, 1, LENGTH_MAX, &out->a) && separator_take(&p, '-') &&
               number_take(&p, out->a, LENGTH_MAX, &out->b);
        good = good && out->a == floor(out->a) && out->b == floor(out->b);
    } else if (word_take(&p, "lognormal:")) {
        out->kind = LENGTH_LOGNORMAL;
        good = number_take(&p, 1, LENGTH_MAX, &out->a) && separator_take(&p, ',') && number_take(&p, 0, 10, &out->b);
    } else if (word_take(&p, "exp:")) {
        out->kind = LENGTH_EXPONENTIAL;
        good = number_take(&p, 1, LENGTH_MAX, &out->a);
    } else {
        good = number_take(&p, 1, LENGTH_MAX, &out->a) && out->a == floor(out->a);
        out->b = out->a;
    }
    if (good && !*p) return ST_OK;
    return error_set(error, ST_INVALID,
                     "%s: '%s' is not a length: N, uniform:A-B, lognormal:MEDIAN,SIGMA or exp:MEAN, 1 to %u tokens",
                     what, text, LENGTH_MAX);
}

/* Of mean 1. */
static double draw_exponential(struct random *random)
{
    return -log1p(-random_unit(random));
}

/* Box, Muller 1958. */
static double draw_normal(struct random *random)
{
    double radius = sqrt(2 * draw_exponential(random));
    return radius * cos(6.283185307179586 * random_unit(random));
}

static uint32_t draw_length(const struct length *length, struct random *random)
{
    double value = length->a;
    if (length->kind == LENGTH_UNIFORM)
        return (uint32_t)(value + (double)random_below(random, (uint64_t)(length->b - value) + 1));
    if (length->kind == LENGTH_LOGNORMAL) value *= exp(length->b * draw_normal(random));
    if (length->kind == LENGTH_EXPONENTIAL) value *= draw_exponential(random);
    value = round(value);
    return value < 1 ? 1 : value > LENGTH_MAX ? LENGTH_MAX : (uint32_t)value;
}

/* ---- options ----------------------------------------------------------------------------------------------------- */

static enum status check_levels(const struct eval_throughput_options *o, struct error *error)
{
    if (!o->concurrency_count == !o->rate_count)
        return error_set(error, ST_INVALID, "a load has either a list of concurrencies or one of arrival rates");
    for (size_t i = 0; i < o->concurrency_count; i++)
        if (!o->concurrency[i]) return error_set(error, ST_INVALID, "a concurrency of 0: must be at least 1");
    for (size_t i = 0; i < o->rate_count; i++)
        if (!(o->rate[i] > 0 && o->rate[i] <= 1e6))
            return error_set(error, ST_INVALID,
                             "an arrival rate of %g requests per second: must be above 0, at most 1e6", o->rate[i]);
    return ST_OK;
}

static enum status check(const struct eval_throughput_options *o, struct length *prompt, struct length *output,
                         struct error *error)
{
    if (o->requests < 1 || o->requests > REQUESTS_MAX)
        return error_set(error, ST_INVALID, "%u requests: must be 1 to %u", o->requests, REQUESTS_MAX);
    if (o->turns < 1 || o->turns > o->requests)
        return error_set(error, ST_INVALID, "%u turns: must be 1 to the number of requests, %u", o->turns, o->requests);
    if (o->shared_prefixes < 1 || o->shared_prefixes > REQUESTS_MAX)
        return error_set(error, ST_INVALID, "%u shared prefixes: must be 1 to %u", o->shared_prefixes, REQUESTS_MAX);
    if (o->shared_prefix > LENGTH_MAX)
        return error_set(error, ST_INVALID, "a shared prefix of %u tokens: at most %u", o->shared_prefix, LENGTH_MAX);
    if (!(o->think_s >= 0 && o->think_s <= 1e6))
        return error_set(error, ST_INVALID, "a think time of %g s: must be 0 to 1e6", o->think_s);
    enum status status = length_parse("prompt tokens", o->prompt_tokens, prompt, error);
    if (status == ST_OK) status = length_parse("output tokens", o->output_tokens, output, error);
    return status == ST_OK ? check_levels(o, error) : status;
}

enum status eval_throughput_check(const struct eval_throughput_options *options, struct error *error)
{
    struct length prompt, output;
    return check(options, &prompt, &output, error);
}

/* ---- the load ---------------------------------------------------------------------------------------------------- */

bool load_is_last(const struct load *load, uint32_t request)
{
    return request + 1 == load->options->requests || (request + 1) % load->options->turns == 0;
}

/* The stream of each kind of number is its own: what one draws moves no other. */
static void draw_load(struct load *load, const struct length *prompt, const struct length *output)
{
    const struct eval_throughput_options *o = load->options;
    struct random prompts, outputs, arrivals, prefixes;
    random_seed(&prompts, o->seed);
    random_seed(&outputs, o->seed + 1);
    random_seed(&arrivals, o->seed + 2);
    random_seed(&prefixes, o->seed + 3);
    double at = 0;
    for (uint32_t c = 0; c < load->conversations; c++) {
        load->arrivals[c] = at += draw_exponential(&arrivals);
        load->prefixes[c] = (uint32_t)random_below(&prefixes, o->shared_prefixes);
    }
    uint64_t tokens = 0, longest = 0;
    for (uint32_t i = 0; i < o->requests; i++) {
        struct load_request *r = &load->requests[i];
        if (i % o->turns == 0) tokens = o->shared_prefix;
        r->fresh = draw_length(prompt, &prompts);
        r->output = draw_length(output, &outputs);
        r->prompt = (uint32_t)(tokens + r->fresh);
        tokens += (uint64_t)r->fresh + r->output;
        longest = tokens > longest ? tokens : longest;
        load->prompt_tokens += r->prompt;
        load->output_tokens += r->output;
    }
    load->longest = longest < UINT32_MAX ? (uint32_t)longest : UINT32_MAX;
}

enum status load_init(struct load *load, const struct eval_throughput_options *options, struct error *error)
{
    struct length prompt, output;
    *load = (struct load){.options = options};
    enum status status = check(options, &prompt, &output, error);
    if (status != ST_OK) return status;
    load->conversations = (options->requests + options->turns - 1) / options->turns;
    load->requests = mem_zero(options->requests, sizeof *load->requests);
    load->arrivals = mem_zero(load->conversations, sizeof *load->arrivals);
    load->prefixes = mem_zero(load->conversations, sizeof *load->prefixes);
    load->thinking = mem_zero(load->conversations, sizeof *load->thinking);
    if (load->requests && load->arrivals && load->prefixes) draw_load(load, &prompt, &output);
    load->gaps = mem_zero(load->output_tokens, sizeof *load->gaps);
    if (load->requests && load->arrivals && load->prefixes && load->thinking && load->gaps) return ST_OK;
    load_release(load);
    return error_set(error, ST_NOMEM, "not enough memory for the records of %u requests", options->requests);
}

void load_release(struct load *load)
{
    mem_free(load->requests);
    mem_free(load->arrivals);
    mem_free(load->prefixes);
    mem_free(load->thinking);
    mem_free(load->gaps);
    *load = (struct load){0};
}

/* ---- a level ----------------------------------------------------------------------------------------------------- */

void load_begin(struct load *load, size_t index)
{
    const struct eval_throughput_options *o = load->options;
    load->concurrency = o->concurrency_count ? o->concurrency[index] : 0;
    load->rate = o->rate_count ? o->rate[index] / o->turns : 0;
    load->begun = load->held = load->in_flight = load->ended = load->thinking_count = 0;
    load->gap_count = load->received = 0;
    for (uint32_t i = 0; i < o->requests; i++) {
        struct load_request *r = &load->requests[i];
        *r = (struct load_request){.fresh = r->fresh, .output = r->output, .prompt = r->prompt};
    }
}

/* When the next conversation begins: now or later, or only after an answer. */
static double next_begins(const struct load *load, double now)
{
    if (load->begun == load->conversations) return INFINITY;
    if (load->concurrency) return load->held < load->concurrency ? now : INFINITY;
    return load->arrivals[load->begun] / load->rate;
}

uint32_t load_due(struct load *load, double now, double *next_s)
{
    double begins_s = next_begins(load, now), due_s = begins_s;
    uint32_t chosen = LOAD_NONE; /* of those that think */
    for (uint32_t i = 0; i < load->thinking_count; i++)
        if (load->requests[load->thinking[i]].due_s < due_s) {
            due_s = load->requests[load->thinking[i]].due_s;
            chosen = i;
        }
    *next_s = due_s;
    if (!(due_s <= now)) return LOAD_NONE;
    uint32_t request;
    if (chosen == LOAD_NONE) {
        request = load->begun++ * load->options->turns;
        load->held++;
    } else {
        request = load->thinking[chosen];
        load->thinking[chosen] = load->thinking[--load->thinking_count];
    }
    load->requests[request].due_s = due_s;
    load->requests[request].state = LOAD_IN_FLIGHT;
    load->in_flight++;
    return request;
}

void load_delivered(struct load *load, uint32_t request, uint32_t tokens, double now)
{
    struct load_request *r = &load->requests[request];
    ASSERT(r->state == LOAD_IN_FLIGHT && tokens && r->received + tokens <= r->output);
    if (r->received)
        load->gaps[load->gap_count++] = now - r->last_s;
    else
        r->first_s = now;
    r->last_s = now;
    r->received += tokens;
    load->received += tokens;
}

void load_ended(struct load *load, uint32_t request, bool failed, double now)
{
    struct load_request *r = &load->requests[request];
    ASSERT(r->state == LOAD_IN_FLIGHT);
    r->state = failed ? LOAD_FAILED : LOAD_DONE;
    load->in_flight--;
    load->ended++;
    while (failed && !load_is_last(load, request)) { /* there is no prompt for the turns after it */
        load->requests[++request].state = LOAD_FAILED;
        load->ended++;
    }
    if (load_is_last(load, request)) {
        load->held--;
        return;
    }
    load->requests[request + 1].due_s = now + load->options->think_s;
    load->thinking[load->thinking_count++] = request + 1;
}

void load_cut(struct load *load)
{
    for (uint32_t i = 0; i < load->options->requests; i++)
        if (load->requests[i].state == LOAD_IN_FLIGHT) load->requests[i].state = LOAD_CUT;
    load->in_flight = 0;
}

bool load_over(const struct load *load)
{
    return load->ended == load->options->requests;
}
