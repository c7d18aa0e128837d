/* cache_folder.c - `kvasir cache ls|stat|verify|export|import --kv-disk DIR`: the disk tier's folder, without a server. */
#include "cli/cache_folder.h"
#include "cli/measure.h"

int cache_folder(const struct options *options, enum eval_folder_action action)
{
    struct error error;
    struct buffer report;
    struct progress progress;
    buffer_init(&report, 0);
    progress_begin(&progress, options, "blobs");
    struct eval_folder_options folder = {.action = action,
                                         .path = options->kv_disk,
                                         .file = options->rest.count ? options->rest.items[0] : NULL,
                                         .bytes_max = options->kv_disk_bytes,
                                         .progress = progress_update,
                                         .progress_data = &progress};
    enum status status = eval_folder(&folder, report_kind(options), &report, &error);
    progress_end(&progress);
    /* What was found is told even where it was not good. */
    enum status printed = report_print(status == ST_INVALID ? ST_OK : status, &report, &error);
    if (status != ST_INVALID) status = printed;
    return status == ST_OK ? EXIT_OK : fail(&error);
}

static int cache_folder_with_file(const struct options *options, const char *command, enum eval_folder_action action)
{
    if (!options->kv_disk || options->rest.count != 1)
        return fail_usage("%s: --kv-disk DIR and FILE are needed", command);
    return cache_folder(options, action);
}

int cache_verify_main(const struct options *options)
{
    if (!options->kv_disk) return fail_usage("cache verify: --kv-disk DIR is needed");
    return cache_folder(options, EVAL_FOLDER_VERIFY);
}

int cache_export_main(const struct options *options)
{
    return cache_folder_with_file(options, "cache export", EVAL_FOLDER_EXPORT);
}

int cache_import_main(const struct options *options)
{
    return cache_folder_with_file(options, "cache import", EVAL_FOLDER_IMPORT);
}
