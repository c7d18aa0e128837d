/* throughput.c - a load of requests through an engine's step loop, level after level.
 *
 *   until the load is over: submit what is due ─▶ one step ─▶ note what each request got        (or sleep until one is due)
 *
 * Everything happens on one thread, between two steps, so a request that becomes due during a step is submitted after it; its
 * times count from when it was due. Prompts are made when they are submitted, from the seed and the request's number. */
#include "eval/throughput_internal.h"
#include <math.h>
#include <time.h>

#define WARM_UP_PROMPT 16u
#define WARM_UP_OUTPUT 4u
#define WARM_UP_SALT 1u   /* its blocks are found by no request */
#define SLEEP_MOST_S 0.02 /* so that Ctrl-C is noticed */

struct flight {
    uint64_t id; /* the engine's */
    uint32_t request;
};

/* A conversation's tokens so far: shared prefix, prompts, answers. */
struct transcript {
    uint32_t *tokens;
    uint32_t count;
};

struct driver {
    struct throughput *throughput;
    struct load *load;
    const struct eval_throughput_options *options;
    struct kvasir_engine *engine;
    uint32_t *ordinary; /* [ordinary_count] ids of no control tokens */
    uint32_t ordinary_count;
    uint32_t *prefixes;             /* [shared_prefixes, shared_prefix] */
    struct transcript *transcripts; /* [conversations] tokens NULL: not begun, or over */
    struct flight *flights;         /* [requests] of which load->in_flight, in the order of submission */
    size_t level;
    double began_s; /* of the level, by the clock */
    double kv_byte_seconds, step_seconds;
    uint64_t kv_bytes_peak;
    bool warned;
};

static bool stopped(const struct driver *driver)
{
    return driver->options->stop && driver->options->stop(driver->options->data);
}

static double level_time(const struct driver *driver)
{
    return clock_seconds() - driver->began_s;
}

/* ---- tokens ------------------------------------------------------------------------------------------------------ */

static bool is_ordinary(const struct kvasir_model *model, const struct kvasir_model_info *info, uint32_t id)
{
    char *text;
    size_t bytes;
    if (id == info->bos || id == info->eos) return false;
    if (!info->has_tokenizer) return true;
    if (kvasir_detokenize(model, &id, 1, 0, &text, &bytes, NULL) != KVASIR_OK) return false;
    kvasir_free(text);
    return bytes > 0; /* control tokens have no text */
}

static void draw_tokens(const struct driver *driver, uint64_t stream, uint32_t count, uint32_t *out)
{
    struct random random;
    random_seed(&random, driver->options->seed + stream * 0x9e3779b97f4a7c15u);
    for (uint32_t i = 0; i < count; i++) out[i] = driver->ordinary[random_below(&random, driver->ordinary_count)];
}

/* Streams of draw_tokens: 1 … requests, and the prefixes behind. */
static uint64_t request_stream(uint32_t request)
{
    return 1 + (uint64_t)request;
}

static uint64_t prefix_stream(const struct driver *driver, uint32_t prefix)
{
    return 1 + (uint64_t)driver->options->requests + prefix;
}

static enum status make_tokens(struct driver *driver, const struct kvasir_model *model, struct error *error)
{
    const struct eval_throughput_options *o = driver->options;
    const struct kvasir_model_info *info = &driver->throughput->model;
    driver->ordinary = mem_zero(info->vocabulary_size, sizeof *driver->ordinary);
    driver->prefixes = mem_zero((size_t)o->shared_prefixes * o->shared_prefix, sizeof *driver->prefixes);
    if (!driver->ordinary || !driver->prefixes)
        return error_set(error, ST_NOMEM, "not enough memory for %u shared prefixes of %u tokens", o->shared_prefixes,
                         o->shared_prefix);
    for (uint32_t id = 0; id < info->vocabulary_size; id++)
        if (is_ordinary(model, info, id)) driver->ordinary[driver->ordinary_count++] = id;
    if (!driver->ordinary_count) return error_set(error, ST_UNSUPPORTED, "the vocabulary has no ordinary tokens");
    for (uint32_t p = 0; p < o->shared_prefixes; p++)
        draw_tokens(driver, prefix_stream(driver, p), o->shared_prefix,
                    driver->prefixes + (size_t)p * o->shared_prefix);
    return ST_OK;
}

/* The conversation's transcript begins, with its shared prefix. */
static enum status transcript_begin(struct driver *driver, uint32_t request, struct error *error)
{
    const struct eval_throughput_options *o = driver->options;
    uint32_t conversation = load_conversation(driver->load, request), last = request;
    while (!load_is_last(driver->load, last)) last++;
    const struct load_request *r = &driver->load->requests[last];
    struct transcript *transcript = &driver->transcripts[conversation];
    transcript->tokens = mem_zero((size_t)r->prompt + r->output, sizeof *transcript->tokens);
    if (!transcript->tokens)
        return error_set(error, ST_NOMEM, "not enough memory for a prompt of %u tokens", r->prompt);
    const uint32_t *prefix = driver->prefixes + (size_t)driver->load->prefixes[conversation] * o->shared_prefix;
    for (uint32_t i = 0; i < o->shared_prefix; i++) transcript->tokens[i] = prefix[i];
    transcript->count = o->shared_prefix;
    return ST_OK;
}

static void transcript_end(struct transcript *transcript)
{
    mem_free(transcript->tokens);
    *transcript = (struct transcript){0};
}

/* ---- requests ---------------------------------------------------------------------------------------------------- */

static void end_request(struct driver *driver, uint32_t request, const char *reason, double now)
{
    if (reason && !driver->warned) log_line(LOG_WARNING, "request %u of the load failed: %s", request + 1, reason);
    driver->warned = driver->warned || reason;
    load_ended(driver->load, request, reason != NULL, now);
    if (reason || load_is_last(driver->load, request))
        transcript_end(&driver->transcripts[load_conversation(driver->load, request)]);
}

/* A request that the engine refuses has failed; that is no error of the measurement, unless memory ran out. */
static enum status submit(struct driver *driver, uint32_t request, struct error *error)
{
    struct load_request *r = &driver->load->requests[request];
    struct transcript *transcript = &driver->transcripts[load_conversation(driver->load, request)];
    enum status status = transcript->tokens ? ST_OK : transcript_begin(driver, request, error);
    if (status != ST_OK) return status;
    draw_tokens(driver, request_stream(request), r->fresh, transcript->tokens + transcript->count);
    transcript->count += r->fresh;
    struct flight *flight = &driver->flights[driver->load->in_flight - 1];
    flight->request = request;
    const struct kvasir_request submitted = {
        .prompt = transcript->tokens, .prompt_count = transcript->count, .max_tokens = r->output, .ignore_eos = true};
    struct kvasir_error reason;
    int refused = kvasir_engine_submit(driver->engine, &submitted, &flight->id, &reason);
    if (refused == KVASIR_NOMEM) return error_set(error, ST_NOMEM, "%s", reason.text);
    if (refused != KVASIR_OK) end_request(driver, request, reason.text, level_time(driver));
    return ST_OK;
}

static enum status submit_due(struct driver *driver, double *next_s, struct error *error)
{
    for (;;) {
        uint32_t request = load_due(driver->load, level_time(driver), next_s);
        if (request == LOAD_NONE) return ST_OK;
        enum status status = submit(driver, request, error);
        if (status != ST_OK) return status;
    }
}

/* Events come in about the order of submission, so the search goes on where the last one ended. */
static struct flight *find_flight(struct driver *driver, uint64_t id, uint32_t *from)
{
    for (uint32_t i = 0; i < driver->load->in_flight; i++) {
        uint32_t at = (*from + i) % driver->load->in_flight;
        if (driver->flights[at].id != id) continue;
        *from = at;
        return &driver->flights[at];
    }
    return NULL;
}

static void take_tokens(struct driver *driver, uint32_t request, const struct kvasir_event *event, double now)
{
    struct transcript *transcript = &driver->transcripts[load_conversation(driver->load, request)];
    for (size_t i = 0; i < event->token_count; i++) transcript->tokens[transcript->count++] = event->tokens[i].id;
    load_delivered(driver->load, request, (uint32_t)event->token_count, now);
}

static void take_end(struct driver *driver, struct flight *flight, const struct kvasir_event *event, double now)
{
    uint32_t request = flight->request;
    struct load_request *r = &driver->load->requests[request];
    struct kvasir_timings timings;
    const char *reason = NULL;
    if (event->finish == KVASIR_ERROR) reason = "the engine could not finish the answer";
    if (!reason && r->received < r->output) reason = "the answer ended early";
    if (kvasir_engine_timings(driver->engine, event->id, &timings) == KVASIR_OK) r->cached = timings.cached_tokens;
    struct flight *end = driver->flights + driver->load->in_flight;
    for (; flight + 1 < end; flight++) flight[0] = flight[1];
    end_request(driver, request, reason, now);
}

static void measure_kv_use(struct driver *driver, double seconds)
{
    struct kvasir_engine_stats stats;
    kvasir_engine_stats(driver->engine, &stats);
    driver->kv_byte_seconds += (double)stats.kv_bytes_used * seconds;
    driver->step_seconds += seconds;
    if (stats.kv_bytes_used > driver->kv_bytes_peak) driver->kv_bytes_peak = stats.kv_bytes_used;
}

static enum status step(struct driver *driver, struct error *error)
{
    const struct kvasir_event *events;
    size_t count;
    uint32_t from = 0;
    double before = level_time(driver);
    int status = kvasir_engine_step(driver->engine, &events, &count, (struct kvasir_error *)(void *)error);
    double now = level_time(driver);
    if (status != KVASIR_OK) return (enum status)status;
    for (size_t i = 0; i < count; i++) {
        struct flight *flight = find_flight(driver, events[i].id, &from);
        if (!flight) continue;
        if (events[i].token_count) take_tokens(driver, flight->request, &events[i], now);
        if (events[i].finish != KVASIR_RUNNING) take_end(driver, flight, &events[i], now);
    }
    measure_kv_use(driver, now - before);
    return ST_OK;
}

static void sleep_until(const struct driver *driver, double next_s)
{
    double seconds = next_s - level_time(driver);
    if (!(seconds > 0)) return;
    if (seconds > SLEEP_MOST_S) seconds = SLEEP_MOST_S;
    nanosleep(&(struct timespec){.tv_nsec = (long)(seconds * 1e9)}, NULL);
}

/* ---- levels ------------------------------------------------------------------------------------------------------ */

/* Touches weights and working memory. */
static enum status warm_up(struct driver *driver, struct error *error)
{
    uint32_t prompt[WARM_UP_PROMPT];
    struct kvasir_error *public_error = (struct kvasir_error *)(void *)error;
    const struct kvasir_event *events;
    size_t count;
    uint64_t id;
    uint32_t longest = driver->load->longest, tokens = longest - 1 < WARM_UP_PROMPT ? longest - 1 : WARM_UP_PROMPT;
    draw_tokens(driver, 0, tokens, prompt);
    int status = kvasir_engine_submit(driver->engine,
                                      &(struct kvasir_request){.prompt = prompt,
                                                               .prompt_count = tokens,
                                                               .max_tokens = WARM_UP_OUTPUT,
                                                               .ignore_eos = true,
                                                               .cache_salt = WARM_UP_SALT},
                                      &id, public_error);
    while (status == KVASIR_OK && kvasir_engine_busy(driver->engine))
        status = kvasir_engine_step(driver->engine, &events, &count, public_error);
    return (enum status)status;
}

static enum status run_load(struct driver *driver, struct error *error)
{
    const struct eval_throughput_options *o = driver->options;
    struct load *load = driver->load;
    enum status status = ST_OK;
    while (status == ST_OK && !load_over(load)) {
        double next_s;
        if (o->progress)
            o->progress(o->data, ((double)driver->level + (double)load->received / (double)load->output_tokens) /
                                     (double)load_levels(o));
        if (stopped(driver)) {
            load_cut(load);
            return ST_OK;
        }
        status = submit_due(driver, &next_s, error);
        if (status != ST_OK || load_over(load)) break;
        if (kvasir_engine_busy(driver->engine))
            status = step(driver, error);
        else if (load->in_flight)
            status = error_set(error, ST_NOT_FOUND, "the engine has lost %u requests", load->in_flight);
        else
            sleep_until(driver, next_s);
    }
    return status;
}

static enum status take_figures(struct driver *driver, const struct kvasir_engine_stats *before, struct error *error)
{
    const struct eval_throughput_options *o = driver->options;
    struct throughput_level *level = &driver->throughput->levels[driver->level];
    struct kvasir_engine_stats after;
    double seconds = level_time(driver);
    kvasir_engine_stats(driver->engine, &after);
    level->at = o->concurrency_count ? o->concurrency[driver->level] : o->rate[driver->level];
    double budget = (double)after.kv_bytes_budget;
    level->kv_use_mean = driver->step_seconds > 0 ? driver->kv_byte_seconds / driver->step_seconds / budget : NAN;
    level->kv_use_peak = (double)driver->kv_bytes_peak / budget;
    level->kv_bytes_peak = (double)driver->kv_bytes_peak;
    level->preemptions = (double)(after.preemptions - before->preemptions);
    level->preemptions_swapped = (double)(after.preemptions_swapped - before->preemptions_swapped);
    level->prefix_waits = (double)(after.prefix_waits - before->prefix_waits);
    level->steps = (double)(after.steps - before->steps);
    double *const shares[KVASIR_STAGES] = {[KVASIR_INPUT] = &level->input_share,
                                           [KVASIR_SCHEDULE] = &level->schedule_share,
                                           [KVASIR_EXECUTE] = &level->execute_share,
                                           [KVASIR_OUTPUT] = &level->output_share};
    for (int i = 0; i < KVASIR_STAGES; i++)
        *shares[i] = seconds > 0 ? (after.stage_s[i] - before->stage_s[i]) / seconds : NAN;
    driver->throughput->level_count++;
    return figures_take(driver->load, seconds, level, error);
}

static enum status run_level(struct driver *driver, struct kvasir_model *model, struct error *error)
{
    struct kvasir_engine_options engine = driver->options->engine;
    struct kvasir_engine_stats before;
    engine.context = driver->load->longest;
    enum status status =
        (enum status)kvasir_engine_open(model, &engine, &driver->engine, (struct kvasir_error *)(void *)error);
    if (status != ST_OK) return status;
    driver->kv_byte_seconds = driver->step_seconds = 0;
    driver->kv_bytes_peak = 0;
    status = warm_up(driver, error);
    kvasir_engine_stats(driver->engine, &before);
    load_begin(driver->load, driver->level);
    driver->began_s = clock_seconds();
    if (status == ST_OK) status = run_load(driver, error);
    if (status == ST_OK) status = take_figures(driver, &before, error);
    for (uint32_t c = 0; c < driver->load->conversations; c++) transcript_end(&driver->transcripts[c]);
    kvasir_engine_close(driver->engine);
    return status;
}

static enum status run_levels(struct driver *driver, struct kvasir_model *model, struct error *error)
{
    enum status status = make_tokens(driver, model, error);
    for (size_t i = 0; i < load_levels(driver->options) && status == ST_OK && !stopped(driver); i++) {
        driver->level = i;
        status = run_level(driver, model, error);
    }
    return status;
}

enum status eval_throughput(struct kvasir_model *model, const struct eval_throughput_options *options,
                            enum eval_output output, struct buffer *out, struct buffer *plot, struct error *error)
{
    struct throughput throughput = {.options = options};
    struct driver driver = {.throughput = &throughput, .load = &throughput.load, .options = options};
    kvasir_model_info(model, &throughput.model);
    enum status status = load_init(&throughput.load, options, error);
    if (status != ST_OK) return status;
    throughput.levels = mem_zero(load_levels(options), sizeof *throughput.levels);
    driver.transcripts = mem_zero(throughput.load.conversations, sizeof *driver.transcripts);
    driver.flights = mem_zero(options->requests, sizeof *driver.flights);
    if (throughput.levels && driver.transcripts && driver.flights)
        status = run_levels(&driver, model, error);
    else
        status = error_set(error, ST_NOMEM, "not enough memory for a load of %u requests", options->requests);
    if (status == ST_OK) status = throughput_report(&throughput, output, out, error);
    if (status == ST_OK && plot) status = throughput_plot(&throughput, plot, error);
    mem_free(driver.ordinary);
    mem_free(driver.prefixes);
    mem_free(driver.transcripts);
    mem_free(driver.flights);
    mem_free(throughput.levels);
    load_release(&throughput.load);
    return status;
}
