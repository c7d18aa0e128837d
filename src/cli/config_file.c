/* config_file.c - --config: a YAML file that gives options by their long names, without dashes:
 *
 *   model: qwen2
 *   max-num-seqs: 16              # or max_num_seqs
 *   allowed-origins: [https://chat.example, https://wiki.example]
 *
 * A mapping of names to scalars or lists of them, nothing deeper; no anchors. Values mean what they mean on the command line. */
#include "cli/options.h"
#include <stdio.h>
#include <string.h>
#include <yaml.h>

#define CONFIG_BYTES_MAX (1u << 20)

struct reader {
    yaml_parser_t parser;
    yaml_event_t event; /* the one being looked at */
    const char *path;
    struct config *out;
    struct error *error;
};

static enum status wrong(const struct reader *reader, const char *what)
{
    return error_set(reader->error, ST_INVALID, "%s, line %zu: %s", reader->path, reader->event.start_mark.line + 1,
                     what);
}

static enum status next(struct reader *reader)
{
    yaml_event_delete(&reader->event);
    if (yaml_parser_parse(&reader->parser, &reader->event)) return ST_OK;
    return error_set(reader->error, ST_INVALID, "%s, line %zu: %s", reader->path, reader->parser.problem_mark.line + 1,
                     reader->parser.problem ? reader->parser.problem : "not enough memory");
}

/* The scalar being looked at, as a text of the config's own. */
static enum status take_text(struct reader *reader, char **out)
{
    const char *text = (const char *)reader->event.data.scalar.value;
    size_t bytes = reader->event.data.scalar.length;
    if (strlen(text) != bytes) return wrong(reader, "a zero byte");
    *out = arena_strndup(&reader->out->texts, text, bytes);
    return *out ? ST_OK : error_set(reader->error, ST_NOMEM, "%s: not enough memory", reader->path);
}

static bool is_null(const yaml_event_t *event)
{
    const char *text = (const char *)event->data.scalar.value;
    return event->data.scalar.style == YAML_PLAIN_SCALAR_STYLE &&
           (!*text || strcmp(text, "~") == 0 || strcmp(text, "null") == 0);
}

static enum status add(struct reader *reader, const char *name)
{
    struct config *config = reader->out;
    struct config_entry *entries = mem_resize(config->entries, (config->count + 1) * sizeof *entries);
    if (!entries) return error_set(reader->error, ST_NOMEM, "%s: not enough memory", reader->path);
    config->entries = entries;
    char *value;
    enum status status = take_text(reader, &value);
    if (status == ST_OK)
        entries[config->count++] = (struct config_entry){name, value, (unsigned)reader->event.start_mark.line + 1};
    return status;
}

static enum status read_value(struct reader *reader, const char *name)
{
    enum status status = next(reader);
    if (status != ST_OK) return status;
    if (reader->event.type == YAML_SCALAR_EVENT) return is_null(&reader->event) ? ST_OK : add(reader, name);
    if (reader->event.type != YAML_SEQUENCE_START_EVENT)
        return wrong(reader, "a value is a scalar or a list of scalars");
    while ((status = next(reader)) == ST_OK && reader->event.type != YAML_SEQUENCE_END_EVENT) {
        if (reader->event.type != YAML_SCALAR_EVENT) return wrong(reader, "a list is of scalars only");
        status = add(reader, name);
        if (status != ST_OK) return status;
    }
    return status;
}

static enum status read_pairs(struct reader *reader)
{
    enum status status;
    while ((status = next(reader)) == ST_OK && reader->event.type != YAML_MAPPING_END_EVENT) {
        if (reader->event.type != YAML_SCALAR_EVENT) return wrong(reader, "the name of an option is expected");
        char *name;
        status = take_text(reader, &name);
        if (status != ST_OK) return status;
        for (char *p = name; *p; p++)
            if (*p == '_') *p = '-';
        for (size_t i = 0; i < reader->out->count; i++)
            if (strcmp(reader->out->entries[i].name, name) == 0) return wrong(reader, "this option is there twice");
        status = read_value(reader, name);
        if (status != ST_OK) return status;
    }
    return status;
}

static enum status read_stream(struct reader *reader)
{
    enum status status = next(reader);                                                 /* its start */
    if (status == ST_OK) status = next(reader);                                        /* a document */
    if (status != ST_OK || reader->event.type == YAML_STREAM_END_EVENT) return status; /* an empty file */
    status = next(reader);
    if (status == ST_OK && reader->event.type == YAML_SCALAR_EVENT && is_null(&reader->event))
        return ST_OK; /* comments */
    if (status == ST_OK && reader->event.type != YAML_MAPPING_START_EVENT)
        return wrong(reader, "lines NAME: VALUE are expected");
    if (status == ST_OK) status = read_pairs(reader);
    if (status == ST_OK) status = next(reader); /* the document's end */
    if (status == ST_OK) status = next(reader);
    if (status == ST_OK && reader->event.type != YAML_STREAM_END_EVENT) return wrong(reader, "one document is enough");
    return status;
}

enum status config_read(const char *path, struct config *out, struct error *error)
{
    *out = (struct config){.path = path};
    arena_init(&out->texts);
    struct buffer text;
    struct reader reader = {.path = path, .out = out, .error = error};
    enum status status = file_read(path, CONFIG_BYTES_MAX, &text, error);
    if (status != ST_OK) return status;
    if (yaml_parser_initialize(&reader.parser)) {
        yaml_parser_set_input_string(&reader.parser, (const unsigned char *)text.data, text.length);
        status = read_stream(&reader);
        yaml_event_delete(&reader.event);
        yaml_parser_delete(&reader.parser);
    } else {
        status = error_set(error, ST_NOMEM, "%s: not enough memory", path);
    }
    buffer_release(&text);
    return status;
}

void config_release(struct config *config)
{
    mem_free(config->entries);
    arena_release(&config->texts);
    *config = (struct config){.path = NULL};
}
