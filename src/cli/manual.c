/* manual.c - the manual pages as roff source (man macros, groff_man(7)), from the tables. */
#include "cli/cli.h"
#include <ctype.h>
#include <string.h>

/* Text in which nothing is a request or an escape: a leading dot or quote, backslashes, and minus signs as such. */
static void roff_bytes(struct buffer *out, const char *text, size_t bytes)
{
    bool line_start = !out->length || out->data[out->length - 1] == '\n';
    for (size_t i = 0; i < bytes; i++) {
        if (line_start && (text[i] == '.' || text[i] == '\'')) buffer_text(out, "\\&");
        line_start = text[i] == '\n';
        if (text[i] == '\\')
            buffer_text(out, "\\e");
        else if (text[i] == '-')
            buffer_text(out, "\\-");
        else
            buffer_append(out, text + i, 1);
    }
}

static void roff_text(struct buffer *out, const char *text)
{
    roff_bytes(out, text, strlen(text));
}

/* "EVAL-NLL" of "eval nll". */
static void page_name(struct buffer *out, const char *name, bool upper)
{
    for (; *name; name++)
        buffer_printf(out, "%s%c", *name == ' ' ? "\\" : "",
                      *name == ' ' ? '-'
                      : upper      ? toupper((unsigned char)*name)
                                   : *name);
}

static void page_begin(struct buffer *out, const struct command *command)
{
    buffer_text(out, ".TH KVASIR");
    if (command) buffer_text(out, "\\-");
    if (command) page_name(out, command->name, true);
    buffer_printf(out, " 1 \"\" \"kvasir %s\" \"Kvasir\"\n.SH NAME\nkvasir", kvasir_version());
    if (command) buffer_text(out, "\\-");
    if (command) page_name(out, command->name, false);
    buffer_text(out, " \\- ");
    roff_text(out, command ? command->summary : "run large language models from a paged KV cache");
    buffer_text(out, "\n.SH SYNOPSIS\n");
}

static void option_page(struct buffer *out, const struct option_row *row)
{
    struct buffer text;
    buffer_init(&text, 0);
    option_names(row, ", ", &text);
    buffer_text(out, ".TP\n.B ");
    roff_text(out, text.data ? text.data : "");
    if (row->argument) buffer_text(out, " ");
    if (row->argument) roff_text(out, row->argument);
    text.length = 0;
    buffer_text(&text, row->help);
    option_facts(row, &text);
    buffer_text(&text, ".\n");
    buffer_text(out, "\n");
    roff_text(out, text.data ? text.data : "");
    out->failed |= text.failed;
    buffer_release(&text);
}

static void options_page(struct buffer *out, const struct command *command)
{
    unsigned bit = 1u << (command - COMMANDS);
    const char *group = "";
    buffer_text(out, ".SH OPTIONS\n");
    for (const struct option_row *row = OPTION_ROWS; row < OPTION_ROWS + OPTION_ROW_COUNT; row++) {
        if (!(row->commands & bit)) continue;
        if (strcmp(group, row->group) != 0) buffer_printf(out, ".SS %s\n", row->group);
        group = row->group;
        option_page(out, row);
    }
}

static void paragraphs_page(struct buffer *out, const char *text)
{
    while (*text) {
        const char *end = strstr(text, "\n\n");
        size_t length = end ? (size_t)(end - text) : strlen(text);
        buffer_text(out, ".PP\n");
        roff_bytes(out, text, length);
        buffer_text(out, "\n");
        text += length + (end ? 2 : 0);
    }
}

static void examples_page(struct buffer *out, const char *examples)
{
    buffer_text(out, ".SH EXAMPLES\n");
    for (const char *p = examples; *p;) {
        size_t length = strcspn(p, "\t"), all = strcspn(p, "\n");
        buffer_text(out, ".TP\n.B ");
        roff_bytes(out, p, length);
        buffer_text(out, "\n");
        roff_bytes(out, p + length + 1, all - length);
        p += all + 1;
    }
}

static void surroundings_page(struct buffer *out)
{
    buffer_text(out, ".SH ENVIRONMENT\nAn option given on the command line outweighs its variable.\n"
                     ".TP\n.B KVASIR_HOME\nThe cache folder; models lie in its folder models. Without it, kvasir in "
                     "XDG_CACHE_HOME or in ~/.cache.\n"
                     ".TP\n.B XDG_STATE_HOME\nWhere the chat keeps its history, in kvasir/history; without it "
                     "~/.local/state.\n"
                     ".TP\n.B NO_COLOR\nNo colours.\n");
    for (const struct option_row *row = OPTION_ROWS; row < OPTION_ROWS + OPTION_ROW_COUNT; row++) {
        if (row->environment) buffer_printf(out, ".TP\n.B %s\nas \\-\\-%s.\n", row->environment, row->name);
        if (row->published && row->member)
            buffer_printf(out, ".TP\n.B %s\na list by commas: %s in it is as \\-\\-%s on.\n", row->published,
                          row->member, row->name);
        if (row->published && !row->member) buffer_printf(out, ".TP\n.B %s\nas \\-\\-%s.\n", row->published, row->name);
    }
    buffer_text(
        out, ".SH EXIT STATUS\n0 when done, 1 on failure, 2 on wrong usage, 130 when Ctrl\\-C stopped the answer, 141 "
             "when nobody reads standard output any more.\n");
}

static void program_page(struct buffer *out)
{
    buffer_text(out, ".B kvasir\n.I COMMAND\n.RI [ OPTION ]...\n.RI [ ARGUMENT ]...\n.SH COMMANDS\n");
    for (int i = 0; i < COMMAND_COUNT; i++) {
        buffer_text(out, ".TP\n.B ");
        roff_text(out, COMMANDS[i].name);
        buffer_text(out, "\n");
        roff_text(out, COMMANDS[i].summary);
        buffer_text(out, "\n");
    }
    surroundings_page(out);
}

void manual_write(const struct command *command, struct buffer *out)
{
    page_begin(out, command);
    if (!command) {
        program_page(out);
        return;
    }
    buffer_text(out, ".B kvasir ");
    roff_text(out, command->name);
    buffer_text(out, "\n.RI [ OPTION ]...\n.I ");
    roff_text(out, command->synopsis);
    buffer_text(out, "\n.SH DESCRIPTION\n");
    paragraphs_page(out, command->text);
    options_page(out, command);
    if (command->examples) examples_page(out, command->examples);
    buffer_text(out, ".SH SEE ALSO\n.BR kvasir (1)\n");
}
