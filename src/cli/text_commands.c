/* text_commands.c - tokenize, detokenize, render: text and ids without a forward pass. The model is opened for its
 * vocabulary only, so any architecture will do. */
#include "cli/cli.h"
#include <ctype.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define JSON_BYTES_MAX (256u << 20)
#define IDS_BYTES_MAX (1ull << 30)

static enum status vocabulary_open(const struct options *options, struct kvasir_model **out, struct error *error)
{
    struct buffer path;
    enum status status = model_locate(options, &path, error);
    if (status != ST_OK) return status;
    struct kvasir_model_options vocabulary = {.vocabulary_only = true};
    struct kvasir_error reason;
    if (kvasir_model_open(path.data, &vocabulary, out, &reason) != KVASIR_OK) status = library_error(&reason, error);
    buffer_release(&path);
    return status;
}

/* ---- tokenize -------------------------------------------------------------------------------------------------------- */

/* A piece for people: quoted, one line, every byte told. */
static void piece_write(struct buffer *out, const char *text, size_t bytes)
{
    buffer_text(out, "\"");
    for (size_t at = 0; at < bytes;) {
        uint32_t code = 0, length = utf8_decode(text + at, bytes - at, &code, NULL);
        if (length == 0)
            buffer_printf(out, "\\x%02x", (unsigned char)text[at]);
        else if (code == '\n')
            buffer_text(out, "\\n");
        else if (code == '"' || code == '\\')
            buffer_printf(out, "\\%c", (char)code);
        else if (code < 32 || (code >= 127 && code < 160))
            buffer_printf(out, "\\u%04x", code);
        else
            buffer_append(out, text + at, length);
        at += length ? length : 1;
    }
    buffer_text(out, "\"");
}

/* What ids[at] adds to the text of the token before it: a token's text can depend on being the first. */
static enum status piece_append(const struct kvasir_model *model, const uint32_t *ids, size_t at, struct buffer *out,
                                struct error *error)
{
    struct kvasir_error reason;
    char *before = NULL, *both = NULL;
    size_t before_bytes = 0, both_bytes = 0, first = at ? at - 1 : 0;
    enum status status = ST_OK;
    if (kvasir_detokenize(model, ids + first, at - first, KVASIR_SHOW_CONTROL, &before, &before_bytes, &reason) ||
        kvasir_detokenize(model, ids + first, at - first + 1, KVASIR_SHOW_CONTROL, &both, &both_bytes, &reason))
        status = library_error(&reason, error);
    else if (both_bytes >= before_bytes)
        piece_write(out, both + before_bytes, both_bytes - before_bytes);
    kvasir_free(before);
    kvasir_free(both);
    return status;
}

static enum status ids_print(const struct options *options, const struct kvasir_model *model, const uint32_t *ids,
                             size_t count, struct error *error)
{
    struct buffer out;
    buffer_init(&out, 0);
    enum status status = ST_OK;
    if (strcmp(options->output, "json") == 0) {
        buffer_text(&out, "{\"ids\":");
        json_out_ids(&out, ids, count);
        buffer_text(&out, "}\n");
    } else {
        for (size_t i = 0; i < count && status == ST_OK; i++) {
            buffer_printf(&out, "%6u  ", ids[i]);
            status = piece_append(model, ids, i, &out, error);
            buffer_text(&out, "\n");
        }
    }
    if (status == ST_OK && out.failed) status = error_set(error, ST_NOMEM, "not enough memory for the ids");
    if (status == ST_OK) status = output_write(out.data, out.length, error);
    buffer_release(&out);
    return status;
}

int tokenize_main(const struct options *options)
{
    struct error error;
    if (!source_is_given(options))
        return fail_usage("tokenize: no text: give one as the second argument, with -p, -f or on standard input");
    struct buffer text = {0};
    struct kvasir_model *model = NULL;
    uint32_t *ids = NULL;
    size_t count = 0;
    bool standard_input;
    unsigned flags =
        (options->no_special ? 0 : KVASIR_ADD_SPECIAL) | (options->no_parse_special ? 0 : KVASIR_PARSE_SPECIAL);
    struct kvasir_error reason;
    enum status status = source_text(options, &text, &standard_input, &error);
    if (status == ST_OK) status = vocabulary_open(options, &model, &error);
    /* No text, no ids: also where the model would put a BOS in front. */
    if (status == ST_OK && text.length &&
        kvasir_tokenize(model, text.data, text.length, flags, &ids, &count, &reason) != KVASIR_OK)
        status = library_error(&reason, &error);
    if (status == ST_OK) status = ids_print(options, model, ids, count, &error);
    kvasir_free(ids);
    if (model) kvasir_model_close(model);
    buffer_release(&text);
    return status == ST_OK ? EXIT_OK : fail(&error);
}

/* ---- detokenize ------------------------------------------------------------------------------------------------------ */

/* Numbers, or what `tokenize --output json` printed. */
static enum status ids_text_parse(const char *what, struct buffer *text, struct id_list *out, struct error *error)
{
    if (memchr(text->data, 0, text->length))
        return error_set(error, ST_INVALID, "%s: not a list of whole numbers", what);
    const char *p = text->data;
    while (isspace((unsigned char)*p)) p++;
    if (*p != '{') return ids_parse(what, p, UINT32_MAX - 1, out, error);
    json_error_t reason;
    json_t *root = json_loads(p, 0, &reason), *ids = json_object_get(root, "ids");
    char *list = json_is_array(ids) ? json_dumps(ids, JSON_COMPACT) : NULL;
    enum status status = list ? ids_parse(what, list, UINT32_MAX - 1, out, error)
                              : error_set(error, ST_INVALID, "%s: not JSON with an array \"ids\"", what);
    free(list);
    json_decref(root);
    return status;
}

static enum status ids_read(const struct options *options, struct id_list *out, struct error *error)
{
    enum status status = ST_OK;
    if (options->ids) return source_ids("--ids", options->ids, out, error);
    for (size_t i = 0; i < options->rest.count && status == ST_OK; i++)
        status = ids_parse("detokenize", options->rest.items[i], UINT32_MAX - 1, out, error);
    if (options->rest.count) return status;
    const char *path = options->file ? options->file : "-";
    struct buffer text;
    status = file_read(path, IDS_BYTES_MAX, &text, error);
    if (status != ST_OK) return status;
    status = ids_text_parse(strcmp(path, "-") ? path : "standard input", &text, out, error);
    buffer_release(&text);
    return status;
}

int detokenize_main(const struct options *options)
{
    struct error error;
    if (options->rest.count && (options->ids || options->file))
        return fail_usage("detokenize: ids are given twice: by option and '%s'", options->rest.items[0]);
    if (!options->rest.count && !options->ids && !options->file && terminal_is(STDIN_FILENO))
        return fail_usage("detokenize: no ids: give them as arguments, with --ids, -f or on standard input");
    struct id_list ids = {0};
    struct kvasir_model *model = NULL;
    char *text = NULL;
    size_t bytes = 0;
    struct kvasir_error reason;
    enum status status = ids_read(options, &ids, &error);
    bool usage = status == ST_INVALID && options->rest.count; /* ids on the command line */
    if (status == ST_OK) status = vocabulary_open(options, &model, &error);
    if (status == ST_OK) {
        struct kvasir_model_info info;
        kvasir_model_info(model, &info);
        /* The inverse of tokenize: the BOS that it added goes, control tokens of the text itself stay. */
        size_t skip = ids.count && info.adds_bos && ids.items[0] == info.bos && !options->no_special;
        unsigned flags = options->skip_special ? 0 : KVASIR_SHOW_CONTROL;
        if (ids.count > skip &&
            kvasir_detokenize(model, ids.items + skip, ids.count - skip, flags, &text, &bytes, &reason) != KVASIR_OK)
            status = library_error(&reason, &error);
    }
    if (status == ST_OK) status = output_write(text, bytes, &error);
    kvasir_free(text);
    if (model) kvasir_model_close(model);
    mem_free(ids.items);
    if (usage) return fail_usage("%s", error.text);
    return status == ST_OK ? EXIT_OK : fail(&error);
}

/* ---- render ---------------------------------------------------------------------------------------------------------- */

/* The chat's parts as JSON texts, from the files. */
struct chat_files {
    char *messages, *tools, *values; /* jansson's */
    struct buffer template_source;
};

static void chat_files_release(struct chat_files *files)
{
    free(files->messages);
    free(files->tools);
    free(files->values);
    buffer_release(&files->template_source);
}

static enum status json_read(const char *path, json_t **out, struct error *error)
{
    struct buffer text;
    enum status status = file_read(path, JSON_BYTES_MAX, &text, error);
    if (status != ST_OK) return status;
    json_error_t reason;
    *out = json_loadb(text.data, text.length, JSON_ALLOW_NUL, &reason);
    if (!*out)
        status = error_set(error, ST_INVALID, "%s: not JSON: line %d, column %d: %s", path, reason.line, reason.column,
                           reason.text);
    buffer_release(&text);
    return status;
}

static enum status array_dump(const char *path, const char *what, const json_t *array, char **out, struct error *error)
{
    if (!json_is_array(array)) return error_set(error, ST_INVALID, "%s: no array of %s", path, what);
    free(*out);
    *out = json_dumps(array, JSON_COMPACT);
    return *out ? ST_OK : error_set(error, ST_NOMEM, "%s: not enough memory", path);
}

static enum status messages_read(const char *path, struct chat_files *files, struct error *error)
{
    json_t *root;
    enum status status = json_read(path, &root, error);
    if (status != ST_OK) return status;
    const json_t *tools = json_object_get(root, "tools"); /* NULL too where the root is an array */
    status = array_dump(path, "messages", json_is_object(root) ? json_object_get(root, "messages") : root,
                        &files->messages, error);
    if (status == ST_OK && tools && !json_is_null(tools))
        status = array_dump(path, "tools", tools, &files->tools, error);
    json_decref(root);
    return status;
}

static enum status tools_read(const char *path, struct chat_files *files, struct error *error)
{
    json_t *root;
    enum status status = json_read(path, &root, error);
    if (status != ST_OK) return status;
    if (!json_is_null(root)) status = array_dump(path, "tools", root, &files->tools, error);
    json_decref(root);
    return status;
}

int render_main(const struct options *options)
{
    struct error error;
    if (!options->messages_file) return fail_usage("render: --messages FILE is needed");
    struct chat_files files = {0};
    struct kvasir_model *model = NULL;
    char *text = NULL;
    size_t bytes = 0;
    enum status status = messages_read(options->messages_file, &files, &error);
    if (status == ST_OK && options->tools_file) status = tools_read(options->tools_file, &files, &error);
    if (status == ST_OK) status = source_values(options, &files.values, &error);
    if (status == ST_OK) status = template_read(options->template_file, &files.template_source, &error);
    /* A template needs no model, unless one is asked for its BOS and EOS. */
    if (status == ST_OK && (!options->template_file || options->model_chosen))
        status = vocabulary_open(options, &model, &error);
    struct kvasir_chat chat = {.messages = files.messages,
                               .tools = files.tools,
                               .values = files.values,
                               .template_source = files.template_source.data,
                               .no_generation_prompt = options->no_generation_prompt};
    struct kvasir_error reason;
    if (status == ST_OK && kvasir_render(model, &chat, &text, &bytes, &reason) != KVASIR_OK)
        status = library_error(&reason, &error);
    if (status == ST_OK) status = output_write(text, bytes, &error);
    kvasir_free(text);
    if (model) kvasir_model_close(model);
    chat_files_release(&files);
    return status == ST_OK ? EXIT_OK : fail(&error);
}
