/* structure.c - what an answer has to be, from the options --json-schema, --grammar, … : one of them at most. */
#include "cli/cli.h"
#include <string.h>

#define SOURCE_BYTES_MAX (1u << 20)

struct source {
    const char *option, *text; /* text NULL: not given */
    bool is_file;
    enum kvasir_structure kind;
};

static enum status choices_write(const struct text_list *choices, struct buffer *out)
{
    for (size_t i = 0; i < choices->count; i++) {
        buffer_text(out, i ? "," : "[");
        json_out_text(out, choices->items[i], strlen(choices->items[i]));
    }
    buffer_text(out, "]");
    return out->failed ? ST_NOMEM : ST_OK;
}

enum status structure_read(const struct options *options, struct structure *out, struct error *error)
{
    const struct source sources[] = {
        {"--json-schema", options->json_schema, false, KVASIR_JSON_SCHEMA},
        {"--json-schema-file", options->json_schema_file, true, KVASIR_JSON_SCHEMA},
        {"--json-object", options->json_object ? "" : NULL, false, KVASIR_JSON_OBJECT},
        {"--grammar", options->grammar, false, KVASIR_GRAMMAR},
        {"--grammar-file", options->grammar_file, true, KVASIR_GRAMMAR},
        {"--regex", options->regex, false, KVASIR_REGEX},
        {"--choice", options->choices.count ? "" : NULL, false, KVASIR_CHOICE},
    };
    const struct source *found = NULL;
    enum status status = ST_OK;
    buffer_init(&out->text, 0);
    for (size_t i = 0; i < ARRAY_COUNT(sources); i++) {
        if (!sources[i].text) continue;
        if (found)
            return error_set(error, ST_INVALID, "an answer cannot have both %s and %s", found->option,
                             sources[i].option);
        found = &sources[i];
    }
    if (!found) return ST_OK;
    out->kind = found->kind;
    if (found->is_file) return file_read(found->text, SOURCE_BYTES_MAX, &out->text, error);
    if (found->kind == KVASIR_CHOICE)
        status = choices_write(&options->choices, &out->text);
    else
        buffer_text(&out->text, found->text);
    if (status == ST_OK && !out->text.failed) return ST_OK;
    return error_set(error, ST_NOMEM, "not enough memory for the command line");
}
