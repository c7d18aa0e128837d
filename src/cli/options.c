/* options.c - from argv and the environment to one struct options, by the table of option_table.c. */
#include "cli/options.h"
#include <ctype.h>
#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

struct parser {
    struct options *options;
    const struct command *command;
    bool typed[OPTION_ROWS_MAX]; /* seen on the command line: its lists append */
    struct text_list arguments;
    struct error *error;
};

/* ---- values --------------------------------------------------------------------------------------------------------- */

static enum status range_check(const char *what, const char *text, double value, double low, double high,
                               struct error *error)
{
    if (value >= low && value <= high) return ST_OK;
    if (high >= 1e15) return error_set(error, ST_INVALID, "%s: '%s' is less than %.10g", what, text, low);
    return error_set(error, ST_INVALID, "%s: '%s' is not in the range %.10g to %.10g", what, text, low, high);
}

static enum status whole_parse(const char *what, const char *text, double low, double high, int64_t *out,
                               struct error *error)
{
    char *end;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    if (isspace((unsigned char)text[0]) || end == text || *end)
        return error_set(error, ST_INVALID, "%s: '%s' is not a whole number", what, text);
    if (errno == ERANGE) return error_set(error, ST_INVALID, "%s: '%s' is out of range", what, text);
    *out = value;
    return range_check(what, text, (double)value, low, high, error);
}

static enum status tokens_parse(const char *what, const char *text, double low, double high, int64_t *out,
                                struct error *error)
{
    char *end;
    errno = 0;
    long long value = strtoll(text, &end, 10), unit = *end == 'K' || *end == 'k' ? 1024 : 1;
    bool ended = !end[unit > 1];
    if (isspace((unsigned char)text[0]) || end == text || !ended)
        return error_set(error, ST_INVALID, "%s: '%s' is not a number of tokens such as 32768 or 32K", what, text);
    if (errno == ERANGE || value > INT64_MAX / 1024 || value < INT64_MIN / 1024)
        return error_set(error, ST_INVALID, "%s: '%s' is out of range", what, text);
    *out = value * unit;
    return range_check(what, text, (double)*out, low, high, error);
}

static enum status real_parse(const char *what, const char *text, double low, double high, double *out,
                              struct error *error)
{
    char *end;
    double value = strtod(text, &end);
    if (isspace((unsigned char)text[0]) || end == text || *end || isnan(value))
        return error_set(error, ST_INVALID, "%s: '%s' is not a number", what, text);
    *out = value;
    return range_check(what, text, value, low, high, error);
}

/* K M G T and KiB … are powers of 1024, KB … of 1000, as the units are meant where memory is sold and where it is used. */
static enum status size_parse(const char *what, const char *text, double low, double high, uint64_t *out,
                              struct error *error)
{
    char *end;
    double value = strtod(text, &end), unit = 1;
    bool is_number = isdigit((unsigned char)text[0]) && end != text;
    const char *letters = "KMGT", *letter = *end ? strchr(letters, toupper((unsigned char)*end)) : NULL;
    if (letter) {
        bool decimal = toupper((unsigned char)end[1]) == 'B' && !end[2];
        for (const char *p = letters; p <= letter; p++) unit *= decimal ? 1000 : 1024;
        end += decimal ? 2 : strcasecmp(end + 1, "iB") == 0 ? 3 : 1;
    } else if (toupper((unsigned char)*end) == 'B') {
        end++;
    }
    if (!is_number || *end)
        return error_set(error, ST_INVALID, "%s: '%s' is not a size such as 512MiB or 2GiB", what, text);
    value *= unit;
    enum status status = range_check(what, text, value, low, high, error);
    if (status == ST_OK) *out = (uint64_t)value;
    return status;
}

static enum status out_of_memory(struct error *error)
{
    return error_set(error, ST_NOMEM, "not enough memory for the command line");
}

static enum status texts_append(struct text_list *list, const char *text, struct error *error)
{
    const char **items = mem_resize(list->items, (list->count + 1) * sizeof *items);
    if (!items) return out_of_memory(error);
    list->items = items;
    items[list->count++] = text;
    return ST_OK;
}

static bool id_separates(char c)
{
    return c == ',' || c == '[' || c == ']' || isspace((unsigned char)c);
}

enum status ids_parse(const char *what, const char *text, uint32_t high, struct id_list *out, struct error *error)
{
    size_t capacity = out->count;
    for (const char *p = text;;) {
        while (id_separates(*p)) p++;
        if (!*p) return ST_OK;
        size_t length = 0;
        while (p[length] && !id_separates(p[length])) length++;
        uint64_t value = 0;
        for (size_t i = 0; i < length; i++) {
            bool digit = isdigit((unsigned char)p[i]);
            value = value * 10 + (digit ? (uint64_t)(p[i] - '0') : 0);
            if (!digit || value > high)
                return error_set(error, ST_INVALID, "%s: '%.*s' is not a whole number from 0 to %u", what,
                                 (int)(length < 60 ? length : 60), p, high);
        }
        if (out->count == capacity) {
            capacity = capacity < 16 ? 16 : capacity * 2;
            uint32_t *items = mem_resize(out->items, capacity * sizeof *items);
            if (!items) return error_set(error, ST_NOMEM, "%s: not enough memory", what);
            out->items = items;
        }
        out->items[out->count++] = (uint32_t)value;
        p += length;
    }
}

static enum status ids_check(const char *what, const char *text, struct error *error)
{
    struct id_list ids = {0};
    enum status status = text[0] == '@' ? ST_OK : ids_parse(what, text, UINT32_MAX - 1, &ids, error);
    mem_free(ids.items);
    return status;
}

static enum status value_check(const char *what, const char *text, struct error *error)
{
    const char *equals = strchr(text, '=');
    if (!equals || equals == text) return error_set(error, ST_INVALID, "%s: '%s' is not KEY=JSON", what, text);
    json_t *value = json_loads(equals + 1, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
    json_decref(value);
    if (value) return ST_OK;
    return error_set(error, ST_INVALID, "%s: '%s' is not JSON (a text needs quotes: '%.*s=\"...\"')", what, equals + 1,
                     (int)(equals - text), text);
}

/* ID=BIAS, or llama.cpp's ID+BIAS and ID-BIAS; several by commas. */
static enum status biases_append(const char *what, const char *text, struct bias_list *list, struct error *error)
{
    for (const char *p = text;;) {
        char *end;
        errno = 0;
        unsigned long long id = strtoull(p, &end, 10);
        bool good = isdigit((unsigned char)*p) && errno == 0 && id < UINT32_MAX && *end && strchr("=+-", *end);
        const char *number = good && *end == '=' ? end + 1 : end;
        double bias = good ? strtod(number, &end) : 0;
        if (!good || isspace((unsigned char)*number) || end == number || isnan(bias) || bias > 1e30 ||
            (*end && *end != ','))
            return error_set(error, ST_INVALID, "%s: '%s' is not ID=BIAS, as in 50256=-inf", what, p);
        struct kvasir_logit_bias *items = mem_resize(list->items, (list->count + 1) * sizeof *items);
        if (!items) return out_of_memory(error);
        list->items = items;
        items[list->count++] = (struct kvasir_logit_bias){.id = (uint32_t)id, .bias = (float)bias};
        if (!*end) return ST_OK;
        p = end + 1;
    }
}

static enum status reals_append(const struct option_row *row, const char *what, const char *text,
                                struct real_list *list, struct error *error)
{
    for (const char *p = text;; p++) {
        char one[64];
        size_t length = strcspn(p, ",");
        if (length >= sizeof one) return error_set(error, ST_INVALID, "%s: '%s' is not a list of numbers", what, text);
        snprintf(one, sizeof one, "%.*s", (int)length, p);
        double *items = mem_resize(list->items, (list->count + 1) * sizeof *items);
        if (!items) return out_of_memory(error);
        list->items = items;
        enum status status = real_parse(what, one, row->low, row->high, &items[list->count], error);
        if (status != ST_OK) return status;
        list->count++;
        p += length;
        if (!*p) return ST_OK;
    }
}

static bool choice_is(const char *choices, const char *text)
{
    size_t length = strlen(text);
    for (const char *p = choices; p; p = strchr(p, '|')) {
        if (*p == '|') p++;
        if (length && strncmp(p, text, length) == 0 && (p[length] == '|' || !p[length])) return true;
    }
    return false;
}

static enum status flag_parse(const char *what, const char *text, bool *out, struct error *error)
{
    *out = strcmp(text, "1") == 0 || strcmp(text, "true") == 0;
    if (*out || strcmp(text, "0") == 0 || strcmp(text, "false") == 0) return ST_OK;
    return error_set(error, ST_INVALID, "%s: '%s' is not 1, true, 0 or false", what, text);
}

/* Stores `text` as the row's value. `what` is how the user named it. A list starts anew unless `append`. */
static enum status value_store(const struct option_row *row, const char *what, const char *text, bool append,
                               struct options *options, struct error *error)
{
    void *at = (char *)options + row->offset;
    switch (row->kind) {
    case OPTION_FLAG:
        return flag_parse(what, text, at, error);
    case OPTION_TEXT:
    case OPTION_FILE:
        *(const char **)at = text;
        return ST_OK;
    case OPTION_CHOICE:
        *(const char **)at = text;
        if (choice_is(row->choices, text)) return ST_OK;
        return error_set(error, ST_INVALID, "%s: '%s' is not one of %s", what, text, row->choices);
    case OPTION_WHOLE:
        return whole_parse(what, text, row->low, row->high, at, error);
    case OPTION_TOKENS:
        return tokens_parse(what, text, row->low, row->high, at, error);
    case OPTION_REAL:
        return real_parse(what, text, row->low, row->high, at, error);
    case OPTION_SIZE:
        return size_parse(what, text, row->low, row->high, at, error);
    case OPTION_TEXTS:
        if (!append) ((struct text_list *)at)->count = 0;
        return texts_append(at, text, error);
    case OPTION_IDS:
        *(const char **)at = text;
        return ids_check(what, text, error);
    case OPTION_VALUES: {
        enum status status = value_check(what, text, error);
        return status == ST_OK ? texts_append(at, text, error) : status;
    }
    case OPTION_WHOLES:
        if (!append) ((struct id_list *)at)->count = 0;
        return ids_parse(what, text, (uint32_t)row->high, at, error);
    case OPTION_REALS:
        if (!append) ((struct real_list *)at)->count = 0;
        return reals_append(row, what, text, at, error);
    case OPTION_BIASES:
        if (!append) ((struct bias_list *)at)->count = 0;
        return biases_append(what, text, at, error);
    }
    return ST_OK;
}

/* ---- names ---------------------------------------------------------------------------------------------------------- */

static bool alias_is(const char *aliases, const char *name, size_t length)
{
    for (const char *p = aliases; p; p = strchr(p, ' ')) {
        if (*p == ' ') p++;
        if (strncmp(p, name, length) == 0 && (p[length] == ' ' || !p[length])) return true;
    }
    return false;
}

/* The command's row for `name`, written with its dashes, `length` bytes long. */
static const struct option_row *row_find(enum command_id command, const char *name, size_t length)
{
    for (const struct option_row *row = OPTION_ROWS; row < OPTION_ROWS + OPTION_ROW_COUNT; row++) {
        if (!(row->commands & 1u << command)) continue;
        if (length == 2 && row->letter && name[1] == row->letter) return row;
        if (length > 2 && name[1] == '-' && strlen(row->name) == length - 2 &&
            memcmp(name + 2, row->name, length - 2) == 0)
            return row;
        if (alias_is(row->aliases, name, length)) return row;
    }
    return NULL;
}

/* Edits (insert, delete, replace) between two short texts; texts longer than the table are cut. */
static unsigned edit_distance(const char *a, size_t a_length, const char *b, size_t b_length)
{
    unsigned row[64];
    if (a_length > 63) a_length = 63;
    if (b_length > 63) b_length = 63;
    for (size_t j = 0; j <= b_length; j++) row[j] = (unsigned)j;
    for (size_t i = 1; i <= a_length; i++) {
        unsigned diagonal = row[0];
        row[0] = (unsigned)i;
        for (size_t j = 1; j <= b_length; j++) {
            unsigned replace = diagonal + (a[i - 1] != b[j - 1]),
                     other = 1 + (row[j] < row[j - 1] ? row[j] : row[j - 1]);
            diagonal = row[j];
            row[j] = replace < other ? replace : other;
        }
    }
    return row[b_length];
}

struct nearest {
    const char *name;
    size_t length;
    unsigned distance;
};

static void nearest_offer(struct nearest *nearest, const char *typed, size_t typed_length, const char *name,
                          size_t length)
{
    unsigned distance = edit_distance(typed, typed_length, name, length);
    if (distance < nearest->distance) *nearest = (struct nearest){name, length, distance};
}

static enum status unknown_option(struct parser *parser, const char *typed, size_t length)
{
    struct nearest nearest = {"--help", 6, UINT32_MAX};
    char names[OPTION_ROWS_MAX][40];
    for (size_t i = 0; i < OPTION_ROW_COUNT; i++) {
        const struct option_row *row = &OPTION_ROWS[i];
        if (!(row->commands & 1u << parser->options->command)) continue;
        int name_length = snprintf(names[i], sizeof names[i], "--%s", row->name);
        nearest_offer(&nearest, typed, length, names[i], (size_t)name_length);
        for (const char *p = row->aliases; p && *p;) {
            size_t alias_length = strcspn(p, " ");
            nearest_offer(&nearest, typed, length, p, alias_length);
            p += alias_length + (p[alias_length] == ' ');
        }
    }
    return error_set(parser->error, ST_INVALID, "%s: unknown option %.*s; the nearest is %.*s", parser->command->name,
                     (int)length, typed, (int)nearest.length, nearest.name);
}

static enum status unknown_command(const char *typed, struct error *error)
{
    struct nearest nearest = {"help", 4, UINT32_MAX};
    for (int i = 0; i < COMMAND_COUNT; i++)
        nearest_offer(&nearest, typed, strlen(typed), COMMANDS[i].name, strlen(COMMANDS[i].name));
    return error_set(error, ST_INVALID, "unknown command '%s'; the nearest is '%s'", typed, nearest.name);
}

/* ---- the command line ----------------------------------------------------------------------------------------------- */

/* One option at argv[*at]; takes its value from the same or the next argument. */
static enum status option_take(struct parser *parser, int argc, char *const *argv, int *at)
{
    const char *typed = argv[*at], *value = NULL;
    size_t length = strcspn(typed, "=");
    enum command_id command = parser->options->command;
    const struct option_row *row = row_find(command, typed, length);
    if (row && typed[length]) value = typed + length + 1; /* --flag=value */
    if (!row && typed[1] != '-') {
        row = row_find(command, typed, 2); /* -n5 */
        if (row && row->kind == OPTION_FLAG) row = NULL;
        length = row ? 2 : length;
        value = typed + 2;
    }
    if (!row) return unknown_option(parser, typed, length);
    char what[80];
    snprintf(what, sizeof what, "%s: %.*s", parser->command->name, (int)length, typed);
    if (row->kind == OPTION_FLAG) {
        if (value) return error_set(parser->error, ST_INVALID, "%s takes no value", what);
        value = "1";
    } else if (!value) {
        if (*at + 1 >= argc) return error_set(parser->error, ST_INVALID, "%s needs %s", what, row->argument);
        value = argv[++*at];
    }
    size_t index = (size_t)(row - OPTION_ROWS);
    enum status status = value_store(row, what, value, parser->typed[index], parser->options, parser->error);
    parser->typed[index] = parser->options->given[index] = true;
    return status;
}

static enum status command_line_take(struct parser *parser, int argc, char *const *argv, int first)
{
    enum status status = ST_OK;
    bool options_end = false;
    for (int i = first; i < argc && status == ST_OK && !parser->options->help; i++) {
        if (!options_end && strcmp(argv[i], "--") == 0)
            options_end = true;
        else if (!options_end && argv[i][0] == '-' && argv[i][1])
            status = option_take(parser, argc, argv, &i);
        else
            status = texts_append(&parser->arguments, argv[i], parser->error);
    }
    return status;
}

/* The variable that gives a row's value to this command; false: there is none. */
static bool variable_of(const struct option_row *row, enum command_id command, char out[80])
{
    if (row->environment) {
        snprintf(out, 80, "%s", row->environment);
        return true;
    }
    if (command != COMMAND_SERVE || strcmp(row->name, "help") == 0) return false;
    int length = snprintf(out, 80, "KVASIR_%s", row->name);
    for (int i = 0; i < length; i++) out[i] = out[i] == '-' ? '_' : (char)toupper((unsigned char)out[i]);
    return true;
}

static enum status config_take(struct parser *parser)
{
    struct options *options = parser->options;
    for (size_t i = 0; i < options->config.count; i++) {
        const struct config_entry *entry = &options->config.entries[i];
        char name[80], what[400];
        int length = snprintf(name, sizeof name, "--%s", entry->name);
        snprintf(what, sizeof what, "%.200s, line %u: %.80s", options->config.path, entry->line, entry->name);
        const struct option_row *row =
            length < (int)sizeof name ? row_find(options->command, name, (size_t)length) : NULL;
        if (!row || row->offset == offsetof(struct options, config_path) ||
            row->offset == offsetof(struct options, help))
            return error_set(parser->error, ST_INVALID, "%s: there is no such option of %s", what,
                             parser->command->name);
        bool append = i && entry[-1].name == entry->name; /* of one list */
        enum status status = value_store(row, what, entry->value, append, options, parser->error);
        if (status != ST_OK) return status;
        options->given[row - OPTION_ROWS] = true;
    }
    return ST_OK;
}

/* --config has to be known before all others. */
static const char *config_path(const struct parser *parser, int argc, char *const *argv, int first,
                               const char *(*environment)(const char *))
{
    if (!row_find(parser->options->command, "--config", 8)) return NULL;
    for (int i = first; i < argc && strcmp(argv[i], "--") != 0; i++) {
        if (strncmp(argv[i], "--config=", 9) == 0) return argv[i] + 9;
        if (strcmp(argv[i], "--config") == 0 && i + 1 < argc) return argv[i + 1];
    }
    const char *path = environment("KVASIR_CONFIG");
    return path && *path ? path : NULL;
}

static enum status fallbacks_take(struct parser *parser)
{
    for (size_t i = 0; i < OPTION_ROW_COUNT; i++) {
        const struct option_row *row = &OPTION_ROWS[i];
        if (!(row->commands & 1u << parser->options->command) || !row->fallback) continue;
        enum status status = value_store(row, row->name, row->fallback, false, parser->options, parser->error);
        ASSERT(status != ST_INVALID); /* the table's own text */
        if (status != ST_OK) return status;
    }
    return ST_OK;
}

static bool list_names(const char *list, const char *member)
{
    size_t length = strlen(member);
    for (const char *p = list;; p++) {
        p += strspn(p, " ");
        size_t bytes = strcspn(p, ",");
        const char *end = p + bytes;
        while (bytes && p[bytes - 1] == ' ') bytes--;
        if (bytes == length && memcmp(p, member, length) == 0) return true;
        if (!*end) return false;
        p = end;
    }
}

/* What the environment says of a row, and the variable that does; NULL: nothing. */
static const char *environment_value(const struct option_row *row, enum command_id command,
                                     const char *(*environment)(const char *), char name[80])
{
    const char *value = variable_of(row, command, name) ? environment(name) : NULL;
    if ((value && *value) || !row->published) return value && *value ? value : NULL;
    snprintf(name, 80, "%s", row->published);
    value = environment(name);
    if (value && row->member) return list_names(value, row->member) ? "on" : NULL;
    return value && *value ? value : NULL;
}

static enum status environment_take(struct parser *parser, const char *(*environment)(const char *))
{
    struct options *options = parser->options;
    for (size_t i = 0; i < OPTION_ROW_COUNT; i++) {
        const struct option_row *row = &OPTION_ROWS[i];
        char name[80];
        if (!(row->commands & 1u << options->command)) continue;
        const char *value = environment_value(row, options->command, environment, name);
        if (!value) continue;
        enum status status = value_store(row, name, value, false, options, parser->error);
        if (status != ST_OK) return status;
        options->given[i] = true;
    }
    return ST_OK;
}

/* Gives the arguments that are no options their meaning. */
static enum status arguments_assign(struct parser *parser)
{
    struct options *options = parser->options;
    const struct text_list *given = &parser->arguments;
    enum arguments kind = parser->command->arguments;
    size_t next = 0;
    bool names_model = kind == ARGUMENTS_MODEL || kind == ARGUMENTS_MODEL_TEXT || kind == ARGUMENTS_MODEL_REST;
    const struct option_row *model = names_model ? row_find(options->command, "--model", 7) : NULL;
    options->model_chosen = model && parser->typed[model - OPTION_ROWS];
    if (model && !options->model_chosen && given->count) {
        options->model = given->items[next++];
        options->model_chosen = true;
    }
    if (kind == ARGUMENTS_MODEL_TEXT && next < given->count) {
        const struct option_row *text = row_find(options->command, "--prompt", 8);
        if (parser->typed[text - OPTION_ROWS])
            return error_set(parser->error, ST_INVALID, "%s: the text is given twice: -p and '%s'",
                             parser->command->name, given->items[next]);
        options->prompt = given->items[next++];
        options->given[text - OPTION_ROWS] = true;
    }
    if (kind == ARGUMENTS_REST || kind == ARGUMENTS_MODEL_REST)
        for (; next < given->count; next++) {
            enum status status = texts_append(&options->rest, given->items[next], parser->error);
            if (status != ST_OK) return status;
        }
    if (next == given->count) return ST_OK;
    return error_set(parser->error, ST_INVALID, "%s: unexpected argument '%s'", parser->command->name,
                     given->items[next]);
}

static enum status exclusions_check(const struct parser *parser)
{
    const struct options *options = parser->options;
    for (size_t i = 0; i < OPTION_ROW_COUNT; i++)
        for (size_t j = i + 1; j < OPTION_ROW_COUNT; j++) {
            const struct option_row *a = &OPTION_ROWS[i], *b = &OPTION_ROWS[j];
            if (options->given[i] && options->given[j] && a->exclusive && b->exclusive &&
                strcmp(a->exclusive, b->exclusive) == 0)
                return error_set(parser->error, ST_INVALID, "%s: --%s and --%s exclude each other",
                                 parser->command->name, a->name, b->name);
        }
    return ST_OK;
}

/* The command of two words that argv begins with; it outweighs one of its first word. */
static bool command_of_two_words(int argc, char *const *argv, enum command_id *out)
{
    size_t length = strlen(argv[1]);
    for (int i = 0; i < COMMAND_COUNT && argc > 2; i++) {
        const char *name = COMMANDS[i].name;
        if (strncmp(name, argv[1], length) != 0 || name[length] != ' ' || strcmp(argv[2], name + length + 1) != 0)
            continue;
        *out = (enum command_id)i;
        return true;
    }
    return false;
}

/* Which command argv names, and where its own arguments begin. */
static enum status command_find(int argc, char *const *argv, enum command_id *out, int *first, struct error *error)
{
    *first = 2;
    if (argc < 2 || strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0) {
        *out = COMMAND_HELP;
        return ST_OK;
    }
    if (strcmp(argv[1], "--version") == 0 || strcmp(argv[1], "-V") == 0) {
        *out = COMMAND_VERSION;
        return ST_OK;
    }
    if (command_of_two_words(argc, argv, out)) {
        *first = 3;
        return ST_OK;
    }
    size_t length = strlen(argv[1]);
    const char *half = NULL; /* a command of two words that begins with this one */
    char all[200] = "";      /* such commands: "eval nll, eval kl" */
    for (int i = 0; i < COMMAND_COUNT; i++) {
        const char *name = COMMANDS[i].name;
        if (strncmp(name, argv[1], length) != 0 || (name[length] && name[length] != ' ')) continue;
        *out = (enum command_id)i;
        if (!name[length]) return ST_OK;
        half = name;
        snprintf(all + strlen(all), sizeof all - strlen(all), "%s%s", *all ? ", " : "", name);
    }
    if (half && argc > 2 && (strcmp(argv[2], "--help") == 0 || strcmp(argv[2], "-h") == 0)) return ST_OK;
    if (half) return error_set(error, ST_INVALID, "%s: say what: %s", argv[1], all);
    return unknown_command(argv[1], error);
}

static void environment_read(const char *(*environment)(const char *), struct environment *out)
{
    const struct {
        const char *name;
        const char **at;
    } variables[] = {{"HOME", &out->home},
                     {"KVASIR_HOME", &out->kvasir_home},
                     {"XDG_CACHE_HOME", &out->cache_home},
                     {"XDG_STATE_HOME", &out->state_home},
                     {"TERM", &out->terminal},
                     {"NOTIFY_SOCKET", &out->notify_socket}};
    for (size_t i = 0; i < ARRAY_COUNT(variables); i++) {
        const char *value = environment(variables[i].name);
        *variables[i].at = value && *value ? value : NULL;
    }
    const char *no_colour = environment("NO_COLOR"); /* no-color.org: set and not empty */
    out->no_colour = no_colour && *no_colour;
}

enum status options_parse(int argc, char *const *argv, const char *(*environment)(const char *), struct options *out,
                          struct error *error)
{
    *out = (struct options){0};
    environment_read(environment, &out->environment);
    int first;
    enum status status = command_find(argc, argv, &out->command, &first, error);
    if (status != ST_OK) return status;
    struct parser parser = {.options = out, .command = &COMMANDS[out->command], .error = error};
    const char *path = config_path(&parser, argc, argv, first, environment);
    status = fallbacks_take(&parser);
    if (status == ST_OK && path) status = config_read(path, &out->config, error);
    if (status == ST_OK) status = config_take(&parser);
    if (status == ST_OK) status = environment_take(&parser, environment);
    if (status == ST_OK) status = command_line_take(&parser, argc, argv, first);
    if (status == ST_OK && !out->help) status = arguments_assign(&parser);
    if (status == ST_OK && !out->help) status = exclusions_check(&parser);
    mem_free(parser.arguments.items);
    return status;
}

void options_release(struct options *options)
{
    config_release(&options->config);
    mem_free(options->rest.items);
    mem_free(options->values.items);
    mem_free(options->stop.items);
    mem_free(options->stop_ids.items);
    mem_free(options->bad_words.items);
    mem_free(options->choices.items);
    mem_free(options->allowed_ids.items);
    mem_free(options->bias.items);
    mem_free(options->bench_prompt.items);
    mem_free(options->bench_generate.items);
    mem_free(options->bench_depth.items);
    mem_free(options->recall_tokens.items);
    mem_free(options->concurrency.items);
    mem_free(options->arrival_rate.items);
    mem_free(options->lengths.items);
    mem_free(options->budgets.items);
    mem_free(options->api_keys.items);
    mem_free(options->allowed_hosts.items);
    mem_free(options->allowed_origins.items);
    *options = (struct options){0};
}

enum kvasir_pooling options_pooling(const struct options *options)
{
    return strcmp(options->pooling, "mean") == 0 ? KVASIR_POOLING_MEAN : KVASIR_POOLING_LAST;
}

bool options_given(const struct options *options, const char *name)
{
    for (size_t i = 0; i < OPTION_ROW_COUNT; i++)
        if (OPTION_ROWS[i].commands & 1u << options->command && strcmp(OPTION_ROWS[i].name, name) == 0)
            return options->given[i];
    ASSERT(!"the option is in the table");
    return false;
}
