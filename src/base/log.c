/* log.c - the log; see base.h. */
#include "base/base.h"
#include <errno.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define LINE_BYTES_MAX 4096 /* a pipe that is ready takes as much in one piece (PIPE_BUF) */

static _Atomic int level_shown = LOG_WARNING;
static _Atomic bool as_json;
static _Atomic unsigned lost;

void log_set_level(enum log_level level)
{
    atomic_store(&level_shown, (int)level);
}

void log_set_json(bool json)
{
    atomic_store(&as_json, json);
}

static void write_now(const char *line, size_t bytes)
{
    struct pollfd ready = {.fd = STDERR_FILENO, .events = POLLOUT};
    bool taken = poll(&ready, 1, 0) == 1 && ready.revents & POLLOUT && write(STDERR_FILENO, line, bytes) > 0;
    if (!taken) atomic_fetch_add(&lost, 1);
}

void log_begin(struct log_members *members, enum log_level level, const char *message)
{
    static const char *const names[] = {"error", "warning", "info", "debug"};
    struct buffer *out = &members->out;
    members->shown = (int)level <= atomic_load(&level_shown);
    buffer_init(out, LINE_BYTES_MAX - 2);
    if (!members->shown) return;
    if (!atomic_load(&as_json)) {
        buffer_printf(out, "kvasir: %s: %s", names[level], message);
        return;
    }
    struct timespec now;
    struct tm parts;
    char text[32];
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &parts);
    strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &parts);
    buffer_printf(out, "{\"time\":\"%s.%03ldZ\",\"level\":\"%s\",\"message\":", text, now.tv_nsec / 1000000,
                  names[level]);
    json_out_text(out, message, strlen(message));
}

void log_text(struct log_members *members, const char *name, const char *value)
{
    if (!members->shown) return;
    if (atomic_load(&as_json)) {
        buffer_printf(&members->out, ",\"%s\":", name);
        json_out_text(&members->out, value, strlen(value));
    } else {
        buffer_printf(&members->out, " %s=%s", name, value);
    }
}

void log_number(struct log_members *members, const char *name, double value)
{
    if (!members->shown) return;
    buffer_printf(&members->out, atomic_load(&as_json) ? ",\"%s\":%.6g" : " %s=%.6g", name, value);
}

void log_end(struct log_members *members)
{
    struct buffer *out = &members->out;
    if (members->shown && !out->failed) {
        unsigned before = atomic_exchange(&lost, 0);
        if (before) log_line(LOG_WARNING, "%u lines of the log could not be written", before);
        out->limit = 0;
        buffer_text(out, atomic_load(&as_json) ? "}\n" : "\n");
        if (!out->failed) write_now(out->data, out->length);
    }
    buffer_release(out);
}

void log_line(enum log_level level, const char *format, ...)
{
    if ((int)level > atomic_load(&level_shown)) return;
    char text[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    struct log_members members;
    log_begin(&members, level, text);
    log_end(&members);
}
