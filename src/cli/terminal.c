/* terminal.c - standard output, errors, the progress bar and Ctrl-C. Output is unbuffered on purpose: a token is shown
 * when it is made. Nothing here reads the environment: options.h did. */
#include "cli/cli.h"
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define BAR_DELAY_S 0.5
#define BAR_INTERVAL_S 0.1
#define BAR_WIDTH 30

int fail(const struct error *error)
{
    if (error->status == ST_CANCELLED) return EXIT_PIPE;
    fprintf(stderr, "kvasir: %s\n", error->text);
    return EXIT_FAILED;
}

enum status library_error(const struct kvasir_error *from, struct error *to)
{
    return error_set(to, (enum status)from->status, "%s", from->text);
}

int fail_usage(const char *format, ...)
{
    struct error error;
    char text[sizeof error.text];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    error_set(&error, ST_INVALID, "%s", text); /* masks control characters */
    fprintf(stderr, "kvasir: %s\n", error.text);
    return EXIT_USAGE;
}

enum status output_write(const char *bytes, size_t count, struct error *error)
{
    while (count) {
        ssize_t put = write(STDOUT_FILENO, bytes, count);
        if (put < 0 && errno == EINTR) continue;
        if (put < 0 && errno == EPIPE) return error_set(error, ST_CANCELLED, "standard output is closed");
        if (put < 0) return error_set(error, ST_IO, "cannot write to standard output: %s", strerror(errno));
        bytes += put;
        count -= (size_t)put;
    }
    return ST_OK;
}

/* C0 and C1 controls and DEL. */
static bool is_control(uint32_t code)
{
    return (code < 32 && code != '\n' && code != '\t') || (code >= 127 && code < 160);
}

enum status output_write_answer(const char *bytes, size_t count, struct error *error)
{
    if (!terminal_is(STDOUT_FILENO)) return output_write(bytes, count, error);
    enum status status = ST_OK;
    size_t begin = 0, at = 0;
    while (at < count && status == ST_OK) {
        uint32_t code = 0, length = utf8_decode(bytes + at, count - at, &code, NULL);
        bool hide = length == 0 || is_control(code);
        if (hide) {
            status = output_write(bytes + begin, at - begin, error);
            if (status == ST_OK) status = output_write("?", 1, error);
        }
        at += length ? length : 1;
        if (hide) begin = at;
    }
    return status == ST_OK ? output_write(bytes + begin, count - begin, error) : status;
}

bool terminal_is(int descriptor)
{
    return isatty(descriptor) == 1;
}

bool terminal_has_colour(const struct options *options, int descriptor)
{
    const struct environment *environment = &options->environment;
    return !environment->no_colour && environment->terminal && strcmp(environment->terminal, "dumb") != 0 &&
           terminal_is(descriptor);
}

void progress_begin(struct progress *progress, const struct options *options, const char *label)
{
    bool plain = options->environment.terminal && strcmp(options->environment.terminal, "dumb") == 0;
    *progress = (struct progress){
        .label = label, .begin_s = clock_seconds(), .enabled = !options->quiet && !plain && terminal_is(STDERR_FILENO)};
}

void progress_update(void *data, double fraction)
{
    struct progress *progress = data;
    if (!progress->enabled) return;
    double now = clock_seconds();
    if (now - progress->begin_s < BAR_DELAY_S || now - progress->drawn_s < BAR_INTERVAL_S) return;
    if (!(fraction > 0)) fraction = 0; /* NaN too */
    if (fraction > 1) fraction = 1;
    char bar[BAR_WIDTH + 1];
    int filled = (int)(fraction * BAR_WIDTH);
    memset(bar, '#', (size_t)filled);
    memset(bar + filled, '.', (size_t)(BAR_WIDTH - filled));
    bar[BAR_WIDTH] = 0;
    fprintf(stderr, "\r%s [%s] %3.0f %%", progress->label, bar, fraction * 100);
    progress->drawn = true;
    progress->drawn_s = now;
}

void progress_end(struct progress *progress)
{
    if (progress->drawn) fprintf(stderr, "\r%*s\r", (int)strlen(progress->label) + BAR_WIDTH + 12, "");
    progress->drawn = progress->enabled = false;
}

static volatile sig_atomic_t interrupts, interrupts_max;

static void interrupt_received(int number)
{
    (void)number;
    interrupts = interrupts + 1;
    if (interrupts < interrupts_max) return;
    signal(SIGINT, SIG_DFL); /* as if it had not been watched: the shell sees status 130 */
    raise(SIGINT);
}

void interrupt_watch(unsigned limit)
{
    interrupts = 0;
    interrupts_max = (sig_atomic_t)limit;
    struct sigaction action = {.sa_handler = interrupt_received}; /* no SA_RESTART: a waiting read returns */
    sigaction(SIGINT, &action, NULL);
}

void interrupt_unwatch(void)
{
    struct sigaction action = {.sa_handler = SIG_DFL};
    sigaction(SIGINT, &action, NULL);
}

unsigned interrupt_count(void)
{
    return (unsigned)interrupts;
}

void interrupt_clear(void)
{
    interrupts = 0;
}

const char *bytes_text(uint64_t bytes, char out[32])
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    double value = (double)bytes;
    size_t unit = 0;
    while (value >= 1024 && unit + 1 < ARRAY_COUNT(units)) value /= 1024, unit++;
    snprintf(out, 32, unit && value < 100 ? "%.1f %s" : "%.0f %s", value, units[unit]);
    return out;
}
