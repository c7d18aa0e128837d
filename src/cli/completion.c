/* completion.c - completion scripts for bash and zsh, from the tables: commands, options, files, choices, models of the cache. */
#include "cli/cli.h"
#include <stdio.h>
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

static void bash_write(struct buffer *out)
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

/* ---- zsh ---------------------------------------------------------------------------------------------------------------- */

/* The first clause of a help text, without what zsh's specifications or a quoted word would trip over. */
static void zsh_text(struct buffer *out, const char *text)
{
    size_t length = strcspn(text, ";:");
    for (size_t i = 0; i < length; i++) {
        char c = text[i];
        c = c == '[' ? '(' : c == ']' ? ')' : c == '\'' || c == '\\' || c == '`' ? ' ' : c;
        buffer_append(out, &c, 1);
    }
}

static void zsh_name(struct buffer *out, const struct option_row *row, const char *name, size_t length)
{
    bool repeats = row->kind == OPTION_TEXTS || row->kind == OPTION_VALUES || row->kind == OPTION_BIASES;
    buffer_printf(out, "            '%s%.*s[", repeats ? "*" : "", (int)length, name);
    zsh_text(out, row->help);
    buffer_text(out, "]");
    if (row->kind != OPTION_FLAG) {
        buffer_printf(out, ":%s:", row->argument);
        if (row->kind == OPTION_FILE) buffer_text(out, strcmp(row->name, "model") == 0 ? "_kvasir_models" : "_files");
        if (row->kind == OPTION_CHOICE) {
            buffer_text(out, "(");
            for (const char *p = row->choices; *p; p++) buffer_append(out, *p == '|' ? " " : p, 1);
            buffer_text(out, ")");
        }
    }
    buffer_text(out, "' \\\n");
}

static void zsh_command(struct buffer *out, const struct command *command)
{
    unsigned bit = 1u << (command - COMMANDS);
    buffer_printf(out, "    '%s') _arguments -A '-*' \\\n", command->name);
    for (const struct option_row *row = OPTION_ROWS; row < OPTION_ROWS + OPTION_ROW_COUNT; row++) {
        if (!(row->commands & bit)) continue;
        char name[80];
        int length = snprintf(name, sizeof name, "--%s", row->name);
        zsh_name(out, row, name, (size_t)length);
        if (!row->letter) continue;
        length = snprintf(name, sizeof name, "-%c", row->letter);
        zsh_name(out, row, name, (size_t)length);
    }
    bool model = command->arguments != ARGUMENTS_NONE && command->arguments != ARGUMENTS_REST;
    buffer_printf(out, "            '*: :%s' ;;\n", model ? "_kvasir_models" : "_files");
}

static void zsh_write(struct buffer *out)
{
    buffer_text(out, "#compdef kvasir\n"
                     "# zsh completion for kvasir: a file named _kvasir in a folder of fpath\n"
                     "_kvasir_models() {\n"
                     "    local folder=${KVASIR_HOME:-${XDG_CACHE_HOME:-$HOME/.cache}/kvasir}/models\n"
                     "    compadd -- $folder/*.gguf(N:t:r)\n"
                     "    _files\n"
                     "}\n"
                     "_kvasir() {\n"
                     "    local -a commands\n"
                     "    commands=(\n");
    for (int i = 0; i < COMMAND_COUNT; i++) {
        buffer_printf(out, "        '%s:", COMMANDS[i].name);
        zsh_text(out, COMMANDS[i].summary);
        buffer_text(out, "'\n");
    }
    buffer_text(out, "    )\n"
                     "    if (( CURRENT == 2 )); then\n"
                     "        compadd -- ${(u)${commands%%:*}%% *}\n"
                     "        return\n"
                     "    fi\n"
                     "    local command=$words[2] two=\"$words[2] $words[3]\"\n"
                     "    if (( CURRENT == 3 )); then\n"
                     "        compadd -- ${${(M)${commands%%:*}:#$command *}#* }\n"
                     "    elif [[ -n ${(M)${commands%%:*}:#$two} ]]; then\n"
                     "        command=$two\n"
                     "    fi\n"
                     "    case $command in\n");
    for (int i = 0; i < COMMAND_COUNT; i++) zsh_command(out, &COMMANDS[i]);
    buffer_text(out, "    esac\n}\ncompdef _kvasir kvasir\n");
}

int completion_main(const struct options *options)
{
    const char *shell = options->rest.count == 1 ? options->rest.items[0] : "";
    struct buffer out;
    struct error error;
    buffer_init(&out, 0);
    if (strcmp(shell, "bash") == 0)
        bash_write(&out);
    else if (strcmp(shell, "zsh") == 0)
        zsh_write(&out);
    else
        return fail_usage("completion: which shell: bash or zsh?");
    enum status status = out.failed ? error_set(&error, ST_NOMEM, "not enough memory for the script")
                                    : output_write(out.data, out.length, &error);
    buffer_release(&out);
    return status == ST_OK ? EXIT_OK : fail(&error);
}
