/* completion.c - a bash completion script, from the tables: commands, options, files, choices, models of the cache. */
#include "cli/cli.h"
#include <string.h>

/* The words that complete the value of a row, as shell code in `out`. */
static void value_case(struct buffer *out, const struct option_row *row)
{
    const char *words = NULL;
    if (strcmp(row->name, "model") == 0)
        words = "_kvasir_models";
    else if (row->kind == OPTION_FILE)
        words = "COMPREPLY=($(compgen -f -- \"$cur\"))";
    if (!words && row->kind == OPTION_FLAG) return;
    buffer_text(out, "            ");
    option_names(row, "|", out);
    buffer_text(out, ") ");
    if (row->kind == OPTION_CHOICE) {
        buffer_text(out, "COMPREPLY=($(compgen -W '");
        for (const char *p = row->choices; *p; p++) buffer_append(out, *p == '|' ? " " : p, 1);
        buffer_text(out, "' -- \"$cur\"))");
    } else if (words) {
        buffer_text(out, words);
    } else {
        buffer_text(out, ":");
    }
    buffer_text(out, "; return ;;\n");
}

static void command_case(struct buffer *out, const struct command *command)
{
    unsigned bit = 1u << (command - COMMANDS);
    buffer_printf(out, "    '%s')\n        case $prev in\n", command->name);
    for (const struct option_row *row = OPTION_ROWS; row < OPTION_ROWS + OPTION_ROW_COUNT; row++)
        if (row->commands & bit) value_case(out, row);
    buffer_text(out, "        esac\n        case $cur in\n        -*) COMPREPLY=($(compgen -W '");
    for (const struct option_row *row = OPTION_ROWS; row < OPTION_ROWS + OPTION_ROW_COUNT; row++)
        if (row->commands & bit) buffer_printf(out, "--%s ", row->name);
    buffer_text(out, "' -- \"$cur\")) ;;\n");
    bool model = command->arguments != ARGUMENTS_NONE && command->arguments != ARGUMENTS_REST;
    if (model) buffer_text(out, "        *) _kvasir_models ;;\n");
    buffer_text(out, "        esac ;;\n");
}

void completion_write(struct buffer *out)
{
    buffer_text(out,
                "# bash completion for kvasir: source it, or install it as a completion file named kvasir\n"
                "_kvasir_models() {\n"
                "    local folder=${KVASIR_HOME:-${XDG_CACHE_HOME:-$HOME/.cache}/kvasir}/models name names=\n"
                "    for name in \"$folder\"/*.gguf; do\n"
                "        name=${name##*/}; [ \"$name\" = '*.gguf' ] || names+=\"${name%.gguf} \"\n"
                "    done\n"
                "    COMPREPLY=($(compgen -W \"$names\" -f -- \"$cur\"))\n"
                "}\n"
                "_kvasir() {\n"
                "    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} command=${COMP_WORDS[1]}\n"
                "    COMPREPLY=()\n"
                "    if [ \"$COMP_CWORD\" = 1 ]; then\n"
                "        COMPREPLY=($(compgen -W '");
    const char *last = "";
    for (int i = 0; i < COMMAND_COUNT; i++) {
        size_t length = strcspn(COMMANDS[i].name, " ");
        if (strncmp(last, COMMANDS[i].name, length + 1) != 0)
            buffer_printf(out, "%.*s ", (int)length, COMMANDS[i].name);
        last = COMMANDS[i].name;
    }
    buffer_text(out, "' -- \"$cur\")); return\n    fi\n");
    for (int i = 0; i < COMMAND_COUNT; i++) {
        const char *blank = strchr(COMMANDS[i].name, ' ');
        if (!blank) continue;
        int first = (int)(blank - COMMANDS[i].name);
        buffer_printf(
            out,
            "    if [ \"$command\" = %.*s ]; then\n        [ \"$COMP_CWORD\" = 2 ] && COMPREPLY+=($(compgen -W '%s' "
            "-- \"$cur\"))\n        [ \"${COMP_WORDS[2]}\" = %s ] && command='%s'\n    fi\n",
            first, COMMANDS[i].name, blank + 1, blank + 1, COMMANDS[i].name);
    }
    buffer_text(out, "    case $command in\n");
    for (int i = 0; i < COMMAND_COUNT; i++) command_case(out, &COMMANDS[i]);
    buffer_text(out, "    esac\n}\ncomplete -o filenames -F _kvasir kvasir\n");
}
