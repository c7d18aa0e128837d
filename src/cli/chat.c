/* chat.c - the conversation at a terminal. The messages are the state, as JSON; every turn renders and tokenises all of
 * them and asks the same engine, whose KV cache finds what it computed before. Nothing is shifted out of a full context:
 * the user is told. */
#include "cli/cli.h"
#include <ctype.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FILE_BYTES_MAX (64u << 20)

struct chat {
    struct session *session;
    struct line_editor *editor;
    json_t *messages;
    struct kvasir_request request; /* all but the prompt */
    uint64_t seed;                 /* of the first answer; later ones count up */
    uint64_t answers;
    struct answer last; /* of the last turn, for /stats */
    bool colour;
};

static void notice(const struct chat *chat, const char *format, ...) PRINTF_LIKE(2, 3);

/* A line that is not the model's: dimmed. */
static void notice(const struct chat *chat, const char *format, ...)
{
    struct error line; /* masks control characters */
    char text[sizeof line.text];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    error_set(&line, ST_OK, "%s", text);
    fprintf(stderr, "%s%s%s\n", chat->colour ? "\033[2m" : "", line.text, chat->colour ? "\033[0m" : "");
}

/* ---- messages -------------------------------------------------------------------------------------------------------- */

static enum status message_append(json_t *messages, const char *role, const char *text, size_t bytes,
                                  struct error *error)
{
    struct buffer json;
    buffer_init(&json, 0);
    buffer_printf(&json, "{\"role\":\"%s\",\"content\":", role);
    json_out_text(&json, text, bytes); /* so that any bytes become a JSON string */
    buffer_text(&json, "}");
    json_t *message = json.failed ? NULL : json_loadb(json.data, json.length, JSON_ALLOW_NUL, NULL);
    buffer_release(&json);
    if (!message || json_array_append_new(messages, message) != 0)
        return error_set(error, ST_NOMEM, "not enough memory for the message");
    return ST_OK;
}

static void message_drop_last(json_t *messages)
{
    json_array_remove(messages, json_array_size(messages) - 1);
}

static bool last_role_is(const json_t *messages, const char *role)
{
    const json_t *last = json_array_get(messages, json_array_size(messages) - 1);
    const char *value = json_string_value(json_object_get(last, "role"));
    return value && strcmp(value, role) == 0;
}

static enum status messages_clear(struct chat *chat, struct error *error)
{
    const char *system = chat->session->options->system;
    json_array_clear(chat->messages);
    return system ? message_append(chat->messages, "system", system, strlen(system), error) : ST_OK;
}

static enum status messages_save(const struct chat *chat, const char *path, struct error *error)
{
    char *json = json_dumps(chat->messages, JSON_INDENT(2));
    struct buffer text;
    buffer_init(&text, 0);
    if (json) buffer_printf(&text, "%s\n", json);
    enum status status = json && !text.failed ? file_write(path, text.data, text.length, error)
                                              : error_set(error, ST_NOMEM, "not enough memory for the messages");
    buffer_release(&text);
    free(json);
    return status;
}

/* Are these an array of {"role": text, "content": …}? */
static bool messages_valid(const json_t *messages)
{
    size_t index;
    const json_t *message;
    if (!json_is_array(messages)) return false;
    json_array_foreach((json_t *)(uintptr_t)messages, index, message)
    {
        if (!json_is_string(json_object_get(message, "role")) || !json_object_get(message, "content")) return false;
    }
    return true;
}

static enum status messages_load(struct chat *chat, const char *path, struct error *error)
{
    struct buffer text;
    enum status status = file_read(path, FILE_BYTES_MAX, &text, error);
    if (status != ST_OK) return status;
    json_error_t reason;
    json_t *root = json_loadb(text.data, text.length, JSON_ALLOW_NUL, &reason);
    json_t *messages = json_is_object(root) ? json_object_get(root, "messages") : root;
    if (!root)
        status = error_set(error, ST_INVALID, "%s: not JSON: line %d, column %d: %s", path, reason.line, reason.column,
                           reason.text);
    else if (!messages_valid(messages))
        status = error_set(error, ST_INVALID, "%s: not an array of {\"role\", \"content\"}", path);
    if (status == ST_OK) {
        json_decref(chat->messages);
        chat->messages = json_incref(messages);
    }
    json_decref(root);
    buffer_release(&text);
    return status;
}

/* ---- a turn ---------------------------------------------------------------------------------------------------------- */

static enum status prompt_make(struct chat *chat, uint32_t **ids, size_t *count, struct error *error)
{
    char *messages = json_dumps(chat->messages, JSON_COMPACT);
    if (!messages) return error_set(error, ST_NOMEM, "not enough memory for the messages");
    struct kvasir_chat whole = {.messages = messages, .values = chat->session->values};
    struct kvasir_error reason;
    int got = kvasir_chat_tokenize(chat->session->model, &whole, ids, count, &reason);
    free(messages);
    return got == KVASIR_OK ? ST_OK : library_error(&reason, error);
}

/* Says why an answer ended before its end, where the user can do something about it. */
static void context_report(const struct chat *chat, const struct answer *answer)
{
    uint32_t used = answer->timings.prompt_tokens + answer->timings.output_tokens;
    if (answer->finish == KVASIR_LENGTH && used >= answer->stats.context)
        notice(chat, "The context of %u tokens is full: the answer stops here. /clear begins anew, -c asks for more.",
               answer->stats.context);
    else if (answer->finish == KVASIR_LENGTH)
        notice(chat, "The answer stops after %u tokens (-n).", answer->timings.output_tokens);
}

/* Answers the messages as they are and appends what was said. ST_NOT_FOUND: nothing was. */
static enum status turn_answer(struct chat *chat, struct error *error)
{
    uint32_t *ids = NULL;
    size_t count = 0;
    enum status status = prompt_make(chat, &ids, &count, error);
    if (status != ST_OK) return status;
    struct answer answer;
    chat->request.prompt = ids;
    chat->request.prompt_count = count;
    chat->request.sampling.seed = chat->seed + chat->answers++;
    interrupt_watch(2);
    status = session_answer(chat->session, &chat->request, true, &answer, error);
    kvasir_free(ids);
    chat->request.prompt = NULL;
    const struct buffer *text = &answer.text;
    if (text->length && text->data[text->length - 1] != '\n' && status != ST_CANCELLED) {
        struct error unread;
        enum status written = output_write("\n", 1, &unread);
        if (status == ST_OK && written != ST_OK) status = error_set(error, written, "%s", unread.text);
    }
    if (status == ST_OK) {
        context_report(chat, &answer);
        status = text->length ? message_append(chat->messages, "assistant", text->data, text->length, error)
                              : error_set(error, ST_NOT_FOUND, "no answer");
        answer_release(&chat->last);
        chat->last = answer;
    } else {
        answer_release(&answer);
    }
    return status;
}

/* Is there no use in going on? Otherwise says what went wrong. */
static bool turn_failed(const struct chat *chat, enum status status, const struct error *error)
{
    if (status == ST_OK || status == ST_NOT_FOUND) return false;
    if (status == ST_LIMIT)
        notice(chat, "%s. /clear begins anew.", error->text);
    else if (status != ST_CANCELLED)
        notice(chat, "kvasir: %s", error->text);
    return status == ST_CANCELLED;
}

/* False: leave. */
static bool turn(struct chat *chat, const char *text, size_t bytes)
{
    struct error error;
    enum status status = message_append(chat->messages, "user", text, bytes, &error);
    if (status != ST_OK) return !turn_failed(chat, status, &error);
    status = turn_answer(chat, &error);
    if (status != ST_OK) message_drop_last(chat->messages);
    return !turn_failed(chat, status, &error);
}

static bool turn_again(struct chat *chat)
{
    struct error error;
    if (!last_role_is(chat->messages, "assistant")) {
        notice(chat, "There is no answer yet that could be given again.");
        return true;
    }
    json_t *before = json_incref(json_array_get(chat->messages, json_array_size(chat->messages) - 1));
    message_drop_last(chat->messages);
    enum status status = turn_answer(chat, &error);
    if (status != ST_OK) json_array_append(chat->messages, before);
    json_decref(before);
    return !turn_failed(chat, status, &error);
}

/* ---- commands -------------------------------------------------------------------------------------------------------- */

static void stats_print(const struct chat *chat)
{
    struct kvasir_engine_stats stats;
    struct buffer lines;
    kvasir_engine_stats(chat->session->engine, &stats);
    if (chat->last.timings.output_tokens) answer_report(chat->session, &chat->request, &chat->last);
    notice(chat, "%zu messages; context %u tokens, of which the last turn used %u", json_array_size(chat->messages),
           stats.context, chat->last.timings.prompt_tokens + chat->last.timings.output_tokens);
    buffer_init(&lines, 0);
    kv_report_text(&stats, &chat->last.most, &lines);
    for (char *line = lines.failed ? NULL : lines.data, *end; line && (end = strchr(line, '\n')); line = end + 1) {
        *end = 0;
        notice(chat, "%s", line);
    }
    buffer_release(&lines);
}

static void help_print(const struct chat *chat)
{
    static const char *const lines[] = {"/clear       forget the conversation",
                                        "/regen       answer the last message again",
                                        "/stats       time and memory of the last answer",
                                        "/save FILE   write the messages as JSON",
                                        "/load FILE   go on from messages in a JSON file",
                                        "/quit        leave; so does Ctrl-D",
                                        "\"\"\"          begins and ends a message of several lines",
                                        "Ctrl-C       stops an answer; at an empty prompt, leaves"};
    for (size_t i = 0; i < ARRAY_COUNT(lines); i++) notice(chat, "%s", lines[i]);
}

static void file_command(struct chat *chat, bool save, const char *path)
{
    struct error error;
    if (!*path) {
        notice(chat, "Which file? %s FILE", save ? "/save" : "/load");
        return;
    }
    enum status status = save ? messages_save(chat, path, &error) : messages_load(chat, path, &error);
    if (status != ST_OK)
        notice(chat, "kvasir: %s", error.text);
    else
        notice(chat, "%zu messages %s %s", json_array_size(chat->messages), save ? "written to" : "read from", path);
}

/* False: leave. */
static bool command(struct chat *chat, const char *line)
{
    struct error error;
    size_t length = strcspn(line, " \t");
    const char *rest = line + length + strspn(line + length, " \t");
    char name[16] = "";
    if (length < sizeof name) memcpy(name, line, length);
    if (strcmp(name, "/quit") == 0 || strcmp(name, "/exit") == 0 || strcmp(name, "/bye") == 0) return false;
    if (strcmp(name, "/help") == 0 || strcmp(name, "/?") == 0) {
        help_print(chat);
    } else if (strcmp(name, "/clear") == 0) {
        enum status status = messages_clear(chat, &error);
        if (status != ST_OK) return !turn_failed(chat, status, &error);
        notice(chat, "The conversation is forgotten.");
    } else if (strcmp(name, "/regen") == 0) {
        return turn_again(chat);
    } else if (strcmp(name, "/stats") == 0) {
        stats_print(chat);
    } else if (strcmp(name, "/save") == 0 || strcmp(name, "/load") == 0) {
        file_command(chat, name[1] == 's', rest);
    } else {
        notice(chat, "No command %.*s; /help lists them.", (int)length, line);
    }
    return true;
}

/* ---- the loop -------------------------------------------------------------------------------------------------------- */

/* Appends a message that began with """ on `line`, up to the next """. False: it was broken off. */
static bool message_read(struct chat *chat, const char *line, struct buffer *out)
{
    line += 3;
    for (bool first = true;; first = false) {
        const char *end = strstr(line, "\"\"\"");
        size_t bytes = end ? (size_t)(end - line) : strlen(line);
        if (!first && (bytes || !end)) buffer_text(out, "\n");
        /* A first line of nothing but the quotes begins no line of its own. */
        buffer_append(out, line, bytes);
        if (end) break;
        if (line_editor_read(chat->editor, "... ", &line, &bytes) != LINE_READ) return false;
    }
    if (out->length && out->data[0] == '\n') {
        memmove(out->data, out->data + 1, out->length);
        out->length--;
    }
    return !out->failed;
}

/* False: leave. */
static bool line_take(struct chat *chat, const char *line, size_t bytes)
{
    while (isspace((unsigned char)*line)) line++, bytes--;
    if (!bytes) return true;
    if (*line == '/') return command(chat, line);
    if (strncmp(line, "\"\"\"", 3) != 0) return turn(chat, line, bytes);
    struct buffer message;
    buffer_init(&message, 0);
    bool go_on = true;
    if (message_read(chat, line, &message) && message.length) go_on = turn(chat, message.data, message.length);
    buffer_release(&message);
    return go_on;
}

static void converse(struct chat *chat)
{
    const char *prompt = chat->colour ? "\1\033[1m\1>>> \1\033[0m\1" : ">>> ";
    for (;;) {
        const char *line;
        size_t bytes;
        enum line_result result = line_editor_read(chat->editor, prompt, &line, &bytes);
        if (result == LINE_END) fputc('\n', stderr);
        if (result == LINE_END || result == LINE_INTERRUPTED_EMPTY) return;
        if (result == LINE_READ && !line_take(chat, line, bytes)) return;
    }
}

static void greet(const struct chat *chat)
{
    const struct kvasir_model_info *info = &chat->session->info;
    struct kvasir_engine_stats stats;
    kvasir_engine_stats(chat->session->engine, &stats);
    const char *name = info->name && *info->name ? info->name : chat->session->options->model;
    if (!chat->session->options->quiet)
        notice(chat, "%s, a context of %u tokens. /help lists the commands, Ctrl-D leaves.", name, stats.context);
}

/* Why there is no template to chat with: none in the file, or one that cannot be used. */
static enum status template_missing(const struct session *session, struct error *error)
{
    char *text = NULL;
    size_t bytes;
    struct kvasir_error reason;
    int got = kvasir_render(session->model, &(struct kvasir_chat){.messages = "[]"}, &text, &bytes, &reason);
    kvasir_free(text);
    if (got != KVASIR_OK && got != KVASIR_NOT_FOUND) return library_error(&reason, error);
    return error_set(error, ST_UNSUPPORTED,
                     "%s has no chat template, so it cannot chat: give it a text to continue with -p",
                     session->options->model);
}

int chat_main(const struct options *options)
{
    struct error error;
    struct session session;
    struct chat chat = {.session = &session, .colour = terminal_has_colour(options, STDERR_FILENO)};
    enum status status = session_open(&session, options, &error);
    if (status != ST_OK) return fail(&error);
    if (!session.info.chat_template) status = template_missing(&session, &error);
    if (status == ST_OK && !(chat.messages = json_array())) status = error_set(&error, ST_NOMEM, "not enough memory");
    if (status == ST_OK) status = messages_clear(&chat, &error);
    if (status == ST_OK) status = line_editor_open(options, &chat.editor, &error);
    if (status == ST_OK) {
        request_prepare(&session, true, &chat.request);
        chat.seed = chat.request.sampling.seed;
        greet(&chat);
        converse(&chat);
    }
    line_editor_close(chat.editor);
    answer_release(&chat.last);
    json_decref(chat.messages);
    session_close(&session);
    return status == ST_OK ? EXIT_OK : fail(&error);
}
