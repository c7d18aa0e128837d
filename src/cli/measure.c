/* measure.c - inspect, eval and bench: the reports are made by src/eval; here they get their inputs and are printed. */
#include "cli/measure.h"
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum eval_output report_kind(const struct options *options)
{
    const char *name = options->output;
    return strcmp(name, "json") == 0  ? EVAL_JSON
           : strcmp(name, "csv") == 0 ? EVAL_CSV
           : strcmp(name, "md") == 0  ? EVAL_MARKDOWN
                                      : EVAL_TEXT;
}

enum status report_print(enum status status, struct buffer *report, struct error *error)
{
    if (status == ST_OK && report->length && report->data[report->length - 1] != '\n') buffer_text(report, "\n");
    if (status == ST_OK && report->failed) status = error_set(error, ST_NOMEM, "not enough memory for the report");
    /* A hostile file names its parts: on a terminal they are shown harmless. */
    if (status == ST_OK) status = output_write_answer(report->data, report->length, error);
    buffer_release(report);
    return status;
}

int inspect_main(const struct options *options)
{
    struct error error;
    struct buffer path, report;
    buffer_init(&report, 0);
    enum status status = model_locate(options, &path, &error);
    if (status == ST_OK) {
        struct cache_options cache;
        status = cache_options_read(options, &cache, &error);
        if (status == ST_OK) status = eval_inspect(path.data, cache.policy, report_kind(options), &report, &error);
        cache_options_release(&cache);
        buffer_release(&path);
    }
    status = report_print(status, &report, &error);
    return status == ST_OK ? EXIT_OK : fail(&error);
}

/* ---- eval nll, kl, heads ----------------------------------------------------------------------------------------------- */

/* An evaluation that goes through a text token by token. */
struct text_evaluation {
    const char *command, *progress;
    enum status (*run)(const struct options *options, struct kvasir_model *model, const struct eval_text *text,
                       struct buffer *out, struct error *error);
};

/* The ids to be judged: given, or of the text. `library_ids` is set where the library owns them. */
static enum status text_ids(const struct options *options, const struct kvasir_model *model, const struct buffer *text,
                            struct id_list *ids, uint32_t **library_ids, struct error *error)
{
    if (options->prompt_ids) return ST_OK;
    unsigned flags =
        (options->no_special ? 0 : KVASIR_ADD_SPECIAL) | (options->no_parse_special ? 0 : KVASIR_PARSE_SPECIAL);
    struct kvasir_error reason;
    if (kvasir_tokenize(model, text->data, text->length, flags, library_ids, &ids->count, &reason) == KVASIR_OK)
        return ST_OK;
    return library_error(&reason, error);
}

static int text_evaluation_main(const struct options *options, const struct text_evaluation *evaluation)
{
    struct error error;
    if (!source_is_given(options))
        return fail_usage("%s: no text: give one with -f, -p, --prompt-ids or on standard input", evaluation->command);
    struct buffer text = {0}, report;
    struct id_list ids = {0};
    uint32_t *library_ids = NULL;
    struct kvasir_model *model = NULL;
    struct cache_options cache = {0};
    bool standard_input;
    buffer_init(&report, 0);
    enum status status = options->prompt_ids ? source_ids("--prompt-ids", options->prompt_ids, &ids, &error)
                                             : source_text(options, &text, &standard_input, &error);
    if (status == ST_OK) status = cache_options_read(options, &cache, &error);
    if (status == ST_OK) status = model_load(options, &model, &error);
    if (status == ST_OK) status = text_ids(options, model, &text, &ids, &library_ids, &error);
    if (status == ST_OK && ids.count < 2)
        status = error_set(&error, ST_INVALID, "%s: at least 2 tokens are needed, there are %zu", evaluation->command,
                           ids.count);
    if (status == ST_OK) {
        struct progress progress;
        progress_begin(&progress, options, evaluation->progress);
        struct eval_text judged = {.ids = library_ids ? library_ids : ids.items,
                                   .count = ids.count,
                                   .cache = cache.engine,
                                   .progress = progress_update,
                                   .progress_data = &progress};
        status = evaluation->run(options, model, &judged, &report, &error);
        progress_end(&progress);
    }
    status = report_print(status, &report, &error);
    kvasir_free(library_ids);
    mem_free(ids.items);
    cache_options_release(&cache);
    if (model) kvasir_model_close(model);
    buffer_release(&text);
    return status == ST_OK ? EXIT_OK : fail(&error);
}

static enum status nll_run(const struct options *options, struct kvasir_model *model, const struct eval_text *text,
                           struct buffer *out, struct error *error)
{
    return eval_nll(model, text, report_kind(options), out, error);
}

static enum status kl_run(const struct options *options, struct kvasir_model *model, const struct eval_text *text,
                          struct buffer *out, struct error *error)
{
    return eval_kl(model, text, report_kind(options), out, error);
}

static enum status heads_run(const struct options *options, struct kvasir_model *model, const struct eval_text *text,
                             struct buffer *out, struct error *error)
{
    const struct eval_heads_options heads = {.text = *text,
                                             .keep = options->keep,
                                             .loss = options->loss,
                                             .sinks = (uint32_t)options->sinks,
                                             .window = (uint32_t)options->window};
    struct buffer policy;
    buffer_init(&policy, 0);
    enum status status = eval_heads(model, &heads, report_kind(options), out, &policy, error);
    if (status == ST_OK) status = file_write(options->policy_out, policy.data, policy.length, error);
    buffer_release(&policy);
    return status;
}

int eval_nll_main(const struct options *options)
{
    return text_evaluation_main(options, &(struct text_evaluation){"eval nll", "nll    ", nll_run});
}

int eval_kl_main(const struct options *options)
{
    return text_evaluation_main(options, &(struct text_evaluation){"eval kl", "kl     ", kl_run});
}

int eval_heads_main(const struct options *options)
{
    if (!options->policy_out) return fail_usage("eval heads: say with -o FILE where the KV policy goes");
    return text_evaluation_main(options, &(struct text_evaluation){"eval heads", "heads  ", heads_run});
}

/* ---- bench ----------------------------------------------------------------------------------------------------------- */

static void bench_progress(void *data, const char *test, uint32_t done, uint32_t total)
{
    (void)test;
    progress_update(data, total ? (double)done / total : 0);
}

static bool any_positive(const struct id_list *list)
{
    for (size_t i = 0; i < list->count; i++)
        if (list->items[i]) return true;
    return false;
}

int bench_main(const struct options *options)
{
    struct error error;
    if (!any_positive(&options->bench_prompt) && !any_positive(&options->bench_generate))
        return fail_usage("bench: nothing to measure: both -p and -n are 0");
    const struct id_list *recall = &options->recall_tokens;
    const bool retrieves = options->bench_retrieval;
    if ((recall->count || options->skip_dense) && !retrieves)
        return fail_usage("bench: --recall-tokens and --skip-dense are of --retrieval: state it, too");
    struct kvasir_model *model = NULL;
    struct cache_options cache = {0};
    struct buffer report;
    buffer_init(&report, 0);
    enum status status = cache_options_read(options, &cache, &error);
    if (status == ST_OK) status = model_load(options, &model, &error);
    if (status == ST_OK) {
        struct progress progress;
        progress_begin(&progress, options, "bench  ");
        struct eval_bench_options bench = {.prompt = options->bench_prompt.items,
                                           .prompt_count = options->bench_prompt.count,
                                           .generate = options->bench_generate.items,
                                           .generate_count = options->bench_generate.count,
                                           .depth = options->bench_depth.items,
                                           .depth_count = options->bench_depth.count,
                                           .budgets = options->budgets.items,
                                           .budget_count = retrieves && !recall->count ? options->budgets.count : 0,
                                           .recall_tokens = recall->items,
                                           .recall_count = recall->count,
                                           .skip_dense = options->skip_dense,
                                           .computed = (uint32_t)options->depth_computed,
                                           .repetitions = (uint32_t)options->repetitions,
                                           .cache = cache.engine,
                                           .roofline = options->roofline,
                                           .progress = bench_progress,
                                           .progress_data = &progress};
        status = eval_bench(model, &bench, report_kind(options), &report, &error);
        progress_end(&progress);
    }
    status = report_print(status, &report, &error);
    cache_options_release(&cache);
    if (model) kvasir_model_close(model);
    return status == ST_OK ? EXIT_OK : fail(&error);
}
