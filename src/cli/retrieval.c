/* retrieval.c - eval retrieval: the options become the evaluation that src/eval runs. */
#include "cli/measure.h"
#include <string.h>

int eval_retrieval_main(const struct options *options)
{
    struct error error;
    struct kvasir_model *model = NULL;
    struct cache_options cache = {0};
    struct buffer report, plot;
    buffer_init(&report, 0);
    buffer_init(&plot, 0);
    enum status status = cache_options_read(options, &cache, &error);
    if (status == ST_OK) status = model_load(options, &model, &error);
    if (status == ST_OK) {
        struct progress progress;
        progress_begin(&progress, options, "ask    ");
        const struct eval_retrieval_options asked = {.lengths = options->lengths.items,
                                                     .length_count = options->lengths.count,
                                                     .budgets = options->budgets.items,
                                                     .budget_count = options->budgets.count,
                                                     .items = (uint32_t)options->items,
                                                     .seed = (uint64_t)options->seed,
                                                     .tasks = options->tasks,
                                                     .question_sparse = strcmp(options->question, "sparse") == 0,
                                                     .dense_layers = (uint32_t)options->dense_layers,
                                                     .cache = cache.engine,
                                                     .progress = progress_update,
                                                     .progress_data = &progress};
        status = eval_retrieval(model, &asked, report_kind(options), &report, options->plot ? &plot : NULL, &error);
        progress_end(&progress);
    }
    status = report_print(status, &report, &error);
    if (status == ST_OK && options->plot) status = file_write(options->plot, plot.data, plot.length, &error);
    buffer_release(&plot);
    cache_options_release(&cache);
    if (model) kvasir_model_close(model);
    return status == ST_OK ? EXIT_OK : fail(&error);
}
