/* text_source.c - where a command's text, ids and template values come from. Bytes are taken as they are: no newline is
 * added or dropped, no encoding assumed. */
#include "cli/cli.h"
#include <jansson.h>
#include <string.h>
#include <unistd.h>

#define TEXT_BYTES_MAX (1ull << 30)

bool source_is_given(const struct options *options)
{
    return options->prompt || options->file || options->prompt_ids || !terminal_is(STDIN_FILENO);
}

enum status source_text(const struct options *options, struct buffer *out, bool *standard_input, struct error *error)
{
    *standard_input = false;
    bool dash = options->prompt && strcmp(options->prompt, "-") == 0;
    if (options->prompt && !dash) {
        buffer_init(out, 0);
        buffer_text(out, options->prompt);
        return out->failed ? error_set(error, ST_NOMEM, "not enough memory for the text") : ST_OK;
    }
    if (options->file) return file_read(options->file, TEXT_BYTES_MAX, out, error);
    *standard_input = true;
    enum status status = file_read("-", TEXT_BYTES_MAX, out, error);
    if (status != ST_OK) error_prefix(error, "standard input");
    return status;
}

enum status source_ids(const char *what, const char *text, struct id_list *out, struct error *error)
{
    if (text[0] != '@') return ids_parse(what, text, UINT32_MAX - 1, out, error);
    struct buffer file;
    enum status status = file_read(text + 1, TEXT_BYTES_MAX, &file, error);
    if (status != ST_OK) return status;
    if (memchr(file.data, 0, file.length))
        status = error_set(error, ST_INVALID, "%s: not a list of whole numbers", text + 1);
    else
        status = ids_parse(text + 1, file.data, UINT32_MAX - 1, out, error);
    buffer_release(&file);
    return status;
}

/* Adds KEY=JSON, which options_parse has checked. */
static bool value_add(json_t *values, const char *text)
{
    const char *equals = strchr(text, '=');
    char *key = mem_strndup(text, (size_t)(equals - text));
    bool added =
        key && json_object_set_new(values, key, json_loads(equals + 1, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL)) == 0;
    mem_free(key);
    return added;
}

enum status source_values(const struct options *options, char **out, struct error *error)
{
    *out = NULL;
    if (!options->values.count) return ST_OK;
    json_t *values = json_object();
    bool good = values != NULL;
    for (size_t i = 0; i < options->values.count && good; i++) good = value_add(values, options->values.items[i]);
    if (good) *out = json_dumps(values, JSON_COMPACT);
    json_decref(values);
    return *out ? ST_OK : error_set(error, ST_NOMEM, "not enough memory for --set");
}
