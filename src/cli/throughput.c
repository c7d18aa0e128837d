/* throughput.c - bench throughput: a preset and what the options say otherwise become the load that src/eval serves. */
#include "cli/measure.h"
#include <string.h>

/* The loads by name; --help and docs/throughput.md tell them too. */
static const struct preset {
    const char *name, *prompt_tokens, *output_tokens;
    uint32_t requests, concurrency, shared_prefix, turns;
} PRESETS[] = {
    {"independent", "125", "64", 48, 16, 0, 1},
    {"shared-prefix", "40", "64", 32, 16, 600, 1},
    {"conversation", "60", "64", 32, 8, 0, 4},
};

static const struct preset *find_preset(const char *name)
{
    for (size_t i = 0; i < ARRAY_COUNT(PRESETS); i++)
        if (strcmp(PRESETS[i].name, name) == 0) return &PRESETS[i];
    ASSERT(!"every choice of --preset is there");
    return NULL;
}

static uint32_t given_or(const struct options *options, const char *name, int64_t value, uint32_t preset)
{
    return options_given(options, name) ? (uint32_t)value : preset;
}

static struct eval_throughput_options load_options(const struct options *options)
{
    const struct preset *preset = find_preset(options->preset);
    struct eval_throughput_options load = {
        .requests = given_or(options, "requests", options->requests, preset->requests),
        .turns = given_or(options, "turns", options->turns, preset->turns),
        .prompt_tokens = options->prompt_tokens ? options->prompt_tokens : preset->prompt_tokens,
        .output_tokens = options->output_tokens ? options->output_tokens : preset->output_tokens,
        .shared_prefix = given_or(options, "shared-prefix", options->shared_prefix, preset->shared_prefix),
        .shared_prefixes = (uint32_t)options->shared_prefixes,
        .think_s = options->think_time,
        .concurrency = options->concurrency.items,
        .concurrency_count = options->concurrency.count,
        .rate = options->arrival_rate.items,
        .rate_count = options->arrival_rate.count,
        .seed = (uint64_t)options->seed};
    if (!load.concurrency_count && !load.rate_count) {
        load.concurrency = &preset->concurrency;
        load.concurrency_count = 1;
    }
    return load;
}

static bool interrupted(void *data)
{
    (void)data;
    return interrupt_count() > 0;
}

/* The first Ctrl-C ends the load, a second one the program. */
static enum status serve_load(const struct options *options, struct kvasir_model *model,
                              struct eval_throughput_options *load, struct buffer *report, struct buffer *plot,
                              struct error *error)
{
    struct progress progress;
    progress_begin(&progress, options, "load   ");
    load->stop = interrupted;
    load->progress = progress_update;
    load->data = &progress;
    interrupt_watch(2);
    enum status status = eval_throughput(model, load, report_kind(options), report, options->plot ? plot : NULL, error);
    interrupt_unwatch();
    progress_end(&progress);
    return status;
}

int bench_throughput_main(const struct options *options)
{
    struct error error;
    struct eval_throughput_options load = load_options(options);
    struct kvasir_model *model = NULL;
    struct cache_options cache = {0};
    struct buffer report, plot;
    buffer_init(&report, 0);
    buffer_init(&plot, 0);
    if (eval_throughput_check(&load, &error) != ST_OK) return fail_usage("bench throughput: %s", error.text);
    enum status status = cache_options_read(options, &cache, &error);
    if (status == ST_OK) status = model_load(options, &model, &error);
    load.engine = cache.engine;
    if (status == ST_OK) status = serve_load(options, model, &load, &report, &plot, &error);
    status = report_print(status, &report, &error);
    if (status == ST_OK && options->plot) status = file_write(options->plot, plot.data, plot.length, &error);
    buffer_release(&plot);
    cache_options_release(&cache);
    if (model) kvasir_model_close(model);
    if (status != ST_OK) return fail(&error);
    return interrupt_count() ? EXIT_INTERRUPTED : EXIT_OK;
}
