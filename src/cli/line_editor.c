/* line_editor.c - lines from a terminal by libedit, with a history that outlives the program.
 *
 * - Keys are read here, not by libedit, so that Ctrl-C and a return from the background are seen between two keys.
 * - The history is plain text, a line each, mode 0600, in $XDG_STATE_HOME/kvasir/history (or ~/.local/state); it is
 *   written after every line. A chat without a home goes without one: that is no error. */
#include "cli/cli.h"
#include <errno.h>
#include <histedit.h>
#include <langinfo.h>
#include <limits.h>
#include <locale.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <wchar.h>

#define HISTORY_LINES 1000
#define HISTORY_BYTES_MAX (4u << 20)
#define CONTROL_D 4

struct line_editor {
    EditLine *edit;
    History *history;
    char *history_path; /* NULL: no history is kept */
    const char *prompt;
    char *line; /* the last line read */
    bool interrupted, interrupted_empty;
};

static volatile sig_atomic_t continued;

static void continue_received(int number)
{
    (void)number;
    continued = 1;
}

static char *prompt_text(EditLine *edit)
{
    struct line_editor *editor = NULL;
    el_get(edit, EL_CLIENTDATA, &editor);
    return (char *)(uintptr_t)editor->prompt;
}

/* Returns when a key or a signal came. The signals are held back from the look at what they left until the wait, so that
 * none falls between the two and waits for the next key. */
static void key_wait(void)
{
    struct pollfd input = {.fd = STDIN_FILENO, .events = POLLIN};
    sigset_t held, before;
    sigemptyset(&held);
    sigaddset(&held, SIGINT);
    sigaddset(&held, SIGCONT);
    sigprocmask(SIG_BLOCK, &held, &before);
    if (!interrupt_count() && !continued) ppoll(&input, 1, NULL, &before);
    sigprocmask(SIG_SETMASK, &before, NULL);
}

/* One byte, or 0 at the end, or -1 on Ctrl-C. */
static int byte_read(struct line_editor *editor, unsigned char *out)
{
    for (;;) {
        key_wait();
        if (interrupt_count()) return -1;
        if (continued) {
            continued = 0;
            el_set(editor->edit, EL_PREP_TERM, 1);
            el_set(editor->edit, EL_REFRESH);
            continue;
        }
        ssize_t got = read(STDIN_FILENO, out, 1);
        if (got == 1 && !*out) *out = CONTROL_D; /* typed while the terminal was still in line mode */
        if (got >= 0) return (int)got;
        if (errno != EINTR) return 0;
    }
}

/* libedit's source of characters: UTF-8, whatever the locale; a broken character is a question mark. */
static int character_read(EditLine *edit, wchar_t *out)
{
    struct line_editor *editor = NULL;
    el_get(edit, EL_CLIENTDATA, &editor);
    char bytes[4];
    for (size_t count = 1; count <= sizeof bytes; count++) {
        unsigned char byte = 0;
        int got = byte_read(editor, &byte);
        if (got < 0) {
            const LineInfo *line = el_line(edit);
            editor->interrupted = true;
            editor->interrupted_empty = line->lastchar == line->buffer;
        }
        if (got <= 0) return got;
        bytes[count - 1] = (char)byte;
        uint32_t code = '?';
        bool incomplete = false;
        if (utf8_decode(bytes, count, &code, &incomplete) == 0 && incomplete) continue;
        *out = (wchar_t)code;
        return 1;
    }
    *out = L'?';
    return 1;
}

static bool folder_make(char *path)
{
    for (char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = 0;
        bool made = mkdir(path, 0700) == 0 || errno == EEXIST;
        *slash = '/';
        if (!made) return false;
    }
    return true;
}

static char *history_path(const struct environment *environment)
{
    struct buffer path;
    buffer_init(&path, 0);
    if (environment->state_home)
        buffer_printf(&path, "%s/kvasir/history", environment->state_home);
    else if (environment->home)
        buffer_printf(&path, "%s/.local/state/kvasir/history", environment->home);
    if (path.length && !path.failed && path.data[0] == '/' && folder_make(path.data)) return buffer_take(&path);
    buffer_release(&path);
    return NULL;
}

static void history_load(struct line_editor *editor)
{
    struct buffer text;
    HistEvent event;
    if (!editor->history_path || !file_exists(editor->history_path)) return;
    if (file_read(editor->history_path, HISTORY_BYTES_MAX, &text, NULL) != ST_OK) return;
    for (char *line = text.data, *end; (end = strchr(line, '\n')); line = end + 1) {
        *end = 0;
        if (*line) history(editor->history, &event, H_ENTER, line);
    }
    buffer_release(&text);
}

static void history_save(struct line_editor *editor)
{
    HistEvent event;
    struct buffer text;
    if (!editor->history_path) return;
    buffer_init(&text, HISTORY_BYTES_MAX);
    for (int got = history(editor->history, &event, H_LAST); got == 0; got = history(editor->history, &event, H_PREV))
        buffer_printf(&text, "%s\n", event.str);
    /* A history that cannot be kept must not stop a chat. */
    if (text.failed || file_write(editor->history_path, text.data, text.length, NULL) != ST_OK) {
        mem_free(editor->history_path);
        editor->history_path = NULL;
    }
    buffer_release(&text);
}

static void history_add(struct line_editor *editor, const char *line)
{
    HistEvent event;
    if (strspn(line, " \t") == strlen(line)) return;
    history(editor->history, &event, H_ENTER, line);
    history_save(editor);
}

enum status line_editor_open(const struct options *options, struct line_editor **out, struct error *error)
{
    struct line_editor *editor = mem_zero(1, sizeof *editor);
    if (!editor) return error_set(error, ST_NOMEM, "not enough memory for the line editor");
    /* libedit draws by the locale; without one (a bare container), a terminal of today still speaks UTF-8. */
    if (strcmp(nl_langinfo(CODESET), "UTF-8") != 0) setlocale(LC_CTYPE, "C.UTF-8");
    HistEvent event;
    editor->edit = el_init("kvasir", stdin, stdout, stderr);
    editor->history = history_init();
    if (!editor->edit || !editor->history) {
        line_editor_close(editor);
        return error_set(error, ST_IO, "the terminal cannot be used for line editing");
    }
    history(editor->history, &event, H_SETSIZE, HISTORY_LINES);
    history(editor->history, &event, H_SETUNIQUE, 1);
    editor->history_path = history_path(&options->environment);
    history_load(editor);
    el_set(editor->edit, EL_CLIENTDATA, editor);
    el_set(editor->edit, EL_PROMPT_ESC, prompt_text, '\1');
    el_set(editor->edit, EL_EDITOR, "emacs");
    el_set(editor->edit, EL_HIST, history, editor->history);
    el_set(editor->edit, EL_GETCFN, character_read);
    el_set(editor->edit, EL_BIND, "^R", "em-inc-search-prev", NULL);
    el_source(editor->edit, NULL); /* the user's own ~/.editrc, where there is one */
    struct sigaction action = {.sa_handler = continue_received};
    sigaction(SIGCONT, &action, NULL);
    *out = editor;
    return ST_OK;
}

void line_editor_close(struct line_editor *editor)
{
    if (!editor) return;
    if (editor->edit) el_end(editor->edit);
    if (editor->history) history_end(editor->history);
    mem_free(editor->history_path);
    mem_free(editor->line);
    mem_free(editor);
}

enum line_result line_editor_read(struct line_editor *editor, const char *prompt, const char **line, size_t *bytes)
{
    editor->prompt = prompt;
    editor->interrupted = false;
    interrupt_watch(INT_MAX);
    el_resize(editor->edit);
    el_set(editor->edit, EL_PREP_TERM, 1); /* before the prompt is seen, so that no key meets the line mode */
    int count = 0;
    const char *text = el_gets(editor->edit, &count);
    interrupt_clear();
    if (editor->interrupted) {
        fputc('\n', stdout);
        fflush(stdout);
        el_reset(editor->edit);
        return editor->interrupted_empty ? LINE_INTERRUPTED_EMPTY : LINE_INTERRUPTED;
    }
    if (!text || count <= 0) return LINE_END;
    size_t length = strcspn(text, "\n");
    mem_free(editor->line);
    editor->line = mem_strndup(text, length);
    if (!editor->line) return LINE_END;
    history_add(editor, editor->line);
    *line = editor->line;
    *bytes = length;
    return LINE_READ;
}
