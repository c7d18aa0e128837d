/* folder.c - the disk tier's folder, for whoever looks after it: what the blobs in it are, whether they are sound, and one file of
 * them. What a blob holds is not looked at. */
#include "eval/eval_internal.h"
#include "kv/kv.h"
#include <time.h>

static json_int_t seconds(uint64_t ns)
{
    return (json_int_t)(ns / 1000000000u);
}

static const char *time_text(uint64_t ns, char out[32])
{
    time_t when = (time_t)seconds(ns);
    struct tm parts;
    if (!gmtime_r(&when, &parts) || !strftime(out, 32, "%Y-%m-%dT%H:%M:%SZ", &parts)) out[0] = 0;
    return out;
}

/* ---- reports ----------------------------------------------------------------------------------------------------------- */

static enum status report_list(const struct store_listed *blobs, uint64_t count, enum eval_output output,
                               struct buffer *out, struct error *error)
{
    char key[STORE_KEY_TEXT_BYTES], when[32];
    if (output == EVAL_JSON) {
        json_t *list = json_array();
        for (uint64_t i = 0; i < count; i++)
            json_array_append_new(list, json_pack("{s:s, s:I, s:I}", "key", store_key_text(&blobs[i].key, key), "bytes",
                                                  (json_int_t)blobs[i].bytes, "used_s", seconds(blobs[i].used_ns)));
        return report_json(json_pack("{s:o}", "blobs", list), out, error);
    }
    buffer_printf(out, "%-20s %12s  %s\n", "LAST USED", "BYTES", "KEY");
    for (uint64_t i = 0; i < count; i++)
        buffer_printf(out, "%-20s %12llu  %s\n", time_text(blobs[i].used_ns, when), (unsigned long long)blobs[i].bytes,
                      store_key_text(&blobs[i].key, key));
    return report_done(out, error);
}

static enum status report_stat(const struct store_listed *blobs, uint64_t count, enum eval_output output,
                               struct buffer *out, struct error *error)
{
    char first[32] = "-", last[32] = "-";
    uint64_t bytes = 0;
    for (uint64_t i = 0; i < count; i++) bytes += blobs[i].bytes;
    uint64_t newest_ns = count ? blobs[0].used_ns : 0, oldest_ns = count ? blobs[count - 1].used_ns : 0;
    if (output == EVAL_JSON)
        return report_json(json_pack("{s:I, s:I, s:I, s:I}", "blobs", (json_int_t)count, "bytes", (json_int_t)bytes,
                                     "oldest_used_s", seconds(oldest_ns), "newest_used_s", seconds(newest_ns)),
                           out, error);
    buffer_printf(out, "blobs    %llu, %llu bytes on disk\n", (unsigned long long)count, (unsigned long long)bytes);
    buffer_printf(out, "used     from %s to %s\n", count ? time_text(oldest_ns, first) : first,
                  count ? time_text(newest_ns, last) : last);
    return report_done(out, error);
}

static enum status report_work(const char *done, const struct store_work *work, enum eval_output output,
                               struct buffer *out, struct error *error)
{
    if (output == EVAL_JSON)
        return report_json(json_pack("{s:I, s:I, s:I, s:I, s:I}", "blobs", (json_int_t)work->blobs, "bytes",
                                     (json_int_t)work->bytes, "there", (json_int_t)work->there, "damaged",
                                     (json_int_t)work->damaged, "unreadable", (json_int_t)work->unreadable),
                           out, error);
    buffer_printf(out, "%s %llu blobs, %llu bytes", done, (unsigned long long)work->blobs,
                  (unsigned long long)work->bytes);
    if (work->there) buffer_printf(out, "; %llu were there already", (unsigned long long)work->there);
    if (work->damaged) buffer_printf(out, "; %llu are damaged", (unsigned long long)work->damaged);
    if (work->unreadable) buffer_printf(out, "; %llu cannot be read", (unsigned long long)work->unreadable);
    buffer_text(out, "\n");
    return report_done(out, error);
}

/* ---- what is done ------------------------------------------------------------------------------------------------------ */

static enum status look(struct store *store, const struct eval_folder_options *folder, enum eval_output output,
                        struct buffer *out, struct error *error)
{
    struct store_listed *blobs;
    uint64_t count;
    if (store_list(store, &blobs, &count) != ST_OK)
        return error_set(error, ST_NOMEM, "%s: not enough memory to list it", folder->path);
    enum status status =
        (folder->action == EVAL_FOLDER_LIST ? report_list : report_stat)(blobs, count, output, out, error);
    mem_free(blobs);
    return status;
}

static enum status unsound(const struct eval_folder_options *folder, const struct store_work *work, struct error *error)
{
    if (!work->damaged && !work->unreadable) return ST_OK;
    return error_set(error, ST_INVALID, "%s: %llu blobs were damaged and are removed, %llu cannot be read",
                     folder->path, (unsigned long long)work->damaged, (unsigned long long)work->unreadable);
}

static enum status act(struct store *store, const struct eval_folder_options *folder, enum eval_output output,
                       struct buffer *out, struct error *error)
{
    struct store_work work = {.progress = folder->progress, .data = folder->progress_data};
    enum status status;
    if (folder->action == EVAL_FOLDER_IMPORT)
        status = store_import(store, folder->file, &work, error);
    else if (folder->action == EVAL_FOLDER_EXPORT)
        status = store_export(store, folder->file, &work, error);
    else
        status = store_verify(store, &work, error);
    if (status == ST_OK && folder->action != EVAL_FOLDER_IMPORT) status = unsound(folder, &work, error);
    bool found = work.blobs || work.there || work.damaged || work.unreadable;
    if (status != ST_OK && (status != ST_INVALID || !found)) return status;
    static const char *const done[] = {
        [EVAL_FOLDER_VERIFY] = "sound:", [EVAL_FOLDER_EXPORT] = "exported:", [EVAL_FOLDER_IMPORT] = "imported:"};
    enum status reported = report_work(done[folder->action], &work, output, out, status == ST_OK ? error : NULL);
    return status == ST_OK ? reported : status;
}

enum status eval_folder(const struct eval_folder_options *folder, enum eval_output output, struct buffer *out,
                        struct error *error)
{
    struct store *store;
    bool import = folder->action == EVAL_FOLDER_IMPORT;
    if (!import && !store_folder_exists(folder->path))
        return error_set(error, ST_NOT_FOUND, "%s: holds no blocks of a KV cache: name what --kv-disk named",
                         folder->path);
    enum status status = store_open_folder(folder->path, import ? folder->bytes_max : UINT64_MAX / 2, &store, error);
    if (status != ST_OK) return status;
    status = folder->action == EVAL_FOLDER_LIST || folder->action == EVAL_FOLDER_STAT
                 ? look(store, folder, output, out, error)
                 : act(store, folder, output, out, error);
    store_close(store);
    return status;
}
