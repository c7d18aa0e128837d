/* model_name.c - from what the user calls a model to a path. The cache folder is $KVASIR_HOME, else $XDG_CACHE_HOME/kvasir,
 * else ~/.cache/kvasir; a model NAME lies there as models/NAME.gguf, or as the folder models/NAME. Nothing is downloaded
 * here: that is scripts/fetch-model.sh. */
#include "cli/cli.h"
#include <dirent.h>
#include <stdlib.h>
#include <string.h>

/* Those that scripts/fetch-model.sh fetches. */
static const char *const FETCHABLE[] = {"smollm2", "qwen2", "gemma3"};
#define LISTED_MAX 12

static bool ends_with(const char *text, const char *end)
{
    size_t length = strlen(text), end_length = strlen(end);
    return length > end_length && strcmp(text + length - end_length, end) == 0;
}

static void models_folder(const struct environment *environment, struct buffer *out)
{
    buffer_init(out, 0);
    if (environment->kvasir_home)
        buffer_printf(out, "%s/models", environment->kvasir_home);
    else if (environment->cache_home)
        buffer_printf(out, "%s/kvasir/models", environment->cache_home);
    else
        buffer_printf(out, "%s/.cache/kvasir/models", environment->home ? environment->home : "");
}

static int name_compare(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* "smollm2, qwen2", or "nothing". */
static void models_list(const char *folder, struct buffer *out)
{
    char *names[LISTED_MAX];
    size_t count = 0;
    DIR *stream = opendir(folder);
    for (struct dirent *entry; stream && count < LISTED_MAX && (entry = readdir(stream));) {
        size_t length = strlen(entry->d_name);
        if (entry->d_name[0] == '.') continue;
        if (ends_with(entry->d_name, ".gguf"))
            length -= strlen(".gguf");
        else if (entry->d_type != DT_DIR)
            continue;
        names[count] = mem_strndup(entry->d_name, length);
        if (names[count]) count++;
    }
    if (stream) closedir(stream);
    qsort(names, count, sizeof *names, name_compare);
    for (size_t i = 0; i < count; i++) {
        buffer_printf(out, "%s%s", i ? ", " : "", names[i]);
        mem_free(names[i]);
    }
    if (!count) buffer_text(out, "nothing");
}

static enum status model_missing(const char *model, const char *folder, struct error *error)
{
    struct buffer list;
    buffer_init(&list, 200);
    models_list(folder, &list);
    const char *there = list.data && !list.failed ? list.data : "many";
    bool fetchable = false;
    for (size_t i = 0; i < ARRAY_COUNT(FETCHABLE); i++) fetchable |= strcmp(model, FETCHABLE[i]) == 0;
    if (fetchable)
        error_set(error, ST_NOT_FOUND, "model '%s' is not in %s: scripts/fetch-model.sh %s fetches it (there: %s)",
                  model, folder, model, there);
    else if (strchr(model, ' '))
        error_set(error, ST_NOT_FOUND, "no model '%.60s': a prompt for the default model goes after -p", model);
    else
        error_set(error, ST_NOT_FOUND, "no file '%s', and no model of that name in %s (there: %s)", model, folder,
                  there);
    buffer_release(&list);
    return ST_NOT_FOUND;
}

enum status model_locate(const struct options *options, struct buffer *path, struct error *error)
{
    const char *model = options->model;
    enum status status = ST_OK;
    struct buffer folder;
    models_folder(&options->environment, &folder);
    buffer_init(path, 0);
    if (!*model) {
        status = error_set(error, ST_INVALID, "the model's name is empty");
    } else if (strchr(model, '/') || ends_with(model, ".gguf") || file_exists(model)) {
        buffer_text(path, model);
    } else {
        buffer_printf(path, "%s/%s.gguf", folder.data, model);
        if (path->data && !file_exists(path->data)) path->data[path->length -= strlen(".gguf")] = 0;
        if (path->data && !file_exists(path->data)) status = model_missing(model, folder.data, error);
    }
    if (status == ST_OK && (path->failed || folder.failed))
        status = error_set(error, ST_NOMEM, "not enough memory for a path");
    if (status != ST_OK) buffer_release(path);
    buffer_release(&folder);
    return status;
}
