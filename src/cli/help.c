/* help.c - --help and `kvasir help`, from the tables. */
#include "cli/cli.h"
#include <stdio.h>
#include <string.h>

#define WIDTH 96
#define HELP_COLUMN 28

/* Appends words of `text`, the first line beginning at column `at`, the others at `indent`; ends with a newline. */
static void wrapped(struct buffer *out, const char *text, size_t at, size_t indent)
{
    bool first = true;
    while (*text) {
        size_t length = strcspn(text, " ");
        if (!first && at + 1 + length > WIDTH) {
            buffer_printf(out, "\n%*s", (int)indent, "");
            at = indent;
            first = true;
        }
        buffer_printf(out, "%s%.*s", first ? "" : " ", (int)length, text);
        at += length + !first;
        first = false;
        text += length;
        while (*text == ' ') text++;
    }
    buffer_text(out, "\n");
}

void option_names(const struct option_row *row, const char *separator, struct buffer *out)
{
    if (row->letter) buffer_printf(out, "-%c%s", row->letter, separator);
    buffer_printf(out, "--%s", row->name);
    for (const char *p = row->aliases; p && *p;) {
        size_t length = strcspn(p, " ");
        buffer_printf(out, "%s%.*s", separator, (int)length, p);
        p += length + (p[length] == ' ');
    }
}

static void fact(struct buffer *out, bool *any, const char *format, const char *text)
{
    buffer_text(out, *any ? "; " : " (");
    buffer_printf(out, format, text);
    *any = true;
}

void option_facts(const struct option_row *row, struct buffer *out)
{
    bool any = false;
    char range[80];
    bool number = row->kind == OPTION_WHOLE || row->kind == OPTION_REAL;
    if (number && row->high <= 65536) {
        snprintf(range, sizeof range, "%.10g to %.10g", row->low, row->high);
        fact(out, &any, "%s", range);
    }
    if (row->fallback) fact(out, &any, "default %s", row->fallback);
    if (row->unset) fact(out, &any, "without it: %s", row->unset);
    if (row->environment) fact(out, &any, "%s", row->environment);
    if (row->published) {
        snprintf(range, sizeof range, row->member ? "%s with %s in it" : "%s", row->published, row->member);
        fact(out, &any, "%s", range);
    }
    if (any) buffer_text(out, ")");
}

static void option_describe(const struct option_row *row, struct buffer *out)
{
    struct buffer names, text;
    buffer_init(&names, 0);
    buffer_init(&text, 0);
    buffer_text(&names, row->letter ? "  " : "      ");
    option_names(row, ", ", &names);
    if (row->argument) buffer_printf(&names, " %s", row->argument);
    buffer_text(&text, row->help);
    option_facts(row, &text);
    buffer_append(out, names.data, names.length);
    if (names.length + 2 > HELP_COLUMN)
        buffer_printf(out, "\n%*s", HELP_COLUMN, "");
    else
        buffer_printf(out, "%*s", HELP_COLUMN - (int)names.length, "");
    wrapped(out, text.data ? text.data : "", HELP_COLUMN, HELP_COLUMN);
    out->failed |= names.failed || text.failed;
    buffer_release(&names);
    buffer_release(&text);
}

static void paragraphs(struct buffer *out, const char *text)
{
    while (*text) {
        const char *end = strstr(text, "\n\n");
        size_t length = end ? (size_t)(end - text) : strlen(text);
        char *paragraph = mem_strndup(text, length);
        out->failed |= !paragraph;
        if (paragraph) wrapped(out, paragraph, 0, 0);
        mem_free(paragraph);
        buffer_text(out, "\n");
        text += length + (end ? 2 : 0);
    }
}

static void command_describe(const struct command *command, struct buffer *out)
{
    unsigned bit = 1u << (command - COMMANDS);
    buffer_printf(out, "kvasir %s [OPTION]...%s%s\n%s\n\n", command->name, *command->synopsis ? " " : "",
                  command->synopsis, command->summary);
    paragraphs(out, command->text);
    const char *group = "";
    for (const struct option_row *row = OPTION_ROWS; row < OPTION_ROWS + OPTION_ROW_COUNT; row++) {
        if (!(row->commands & bit)) continue;
        if (strcmp(group, row->group) != 0) buffer_printf(out, "%s%s:\n", *group ? "\n" : "", row->group);
        group = row->group;
        option_describe(row, out);
    }
    for (const char *p = command->examples; p && *p;) {
        size_t length = strcspn(p, "\t"), all = strcspn(p, "\n");
        buffer_printf(out, "%s  %.*s\n      %.*s\n", p == command->examples ? "\nExamples:\n" : "", (int)length, p,
                      (int)(all - length - 1), p + length + 1);
        p += all + 1;
    }
}

static void overview(struct buffer *out)
{
    buffer_printf(out, "kvasir %s: run large language models from a paged KV cache\n\n", kvasir_version());
    buffer_text(out, "kvasir COMMAND [OPTION]... [ARGUMENT]...\n\n");
    for (int i = 0; i < COMMAND_COUNT; i++) buffer_printf(out, "  %-18s%s\n", COMMANDS[i].name, COMMANDS[i].summary);
    buffer_text(out, "\nkvasir COMMAND --help describes a command; kvasir run begins a chat.\n");
}

/* Is the command the topic, or one of its two-word commands? These only where no command has the one word alone. */
static bool topic_is(const struct command *command, const char *topic)
{
    size_t length = strlen(topic);
    return strncmp(command->name, topic, length) == 0 && (!command->name[length] || command->name[length] == ' ');
}

static enum status topic_write(const struct options *options, const char *topic, struct buffer *out,
                               struct error *error)
{
    bool found = false, exact = false;
    for (int i = 0; i < COMMAND_COUNT; i++) exact |= strcmp(COMMANDS[i].name, topic) == 0;
    for (int i = 0; i < COMMAND_COUNT; i++) {
        if (!topic_is(&COMMANDS[i], topic) || (exact && strcmp(COMMANDS[i].name, topic) != 0)) continue;
        if (options->manual)
            manual_write(&COMMANDS[i], out);
        else
            command_describe(&COMMANDS[i], out);
        found = true;
    }
    return found ? ST_OK : error_set(error, ST_INVALID, "help: no command '%s'", topic);
}

int help_main(const struct options *options)
{
    struct error error;
    struct buffer out, topic;
    buffer_init(&out, 0);
    buffer_init(&topic, 0);
    enum status status = ST_OK;
    if (options->help) buffer_text(&topic, COMMANDS[options->command].name);
    for (size_t i = 0; i < options->rest.count; i++)
        buffer_printf(&topic, "%s%s", i ? " " : "", options->rest.items[i]);
    if (topic.length)
        status = topic_write(options, topic.data, &out, &error);
    else if (options->manual)
        manual_write(NULL, &out);
    else
        overview(&out);
    if (status == ST_OK && (out.failed || topic.failed)) status = error_set(&error, ST_NOMEM, "not enough memory");
    if (status == ST_OK) status = output_write(out.data, out.length, &error);
    buffer_release(&out);
    buffer_release(&topic);
    return status == ST_OK ? EXIT_OK : status == ST_INVALID ? fail_usage("%s", error.text) : fail(&error);
}
