/* log.c - one line for every request: what was asked and what came of it, never what was written in it. */
#include "server/connection.h"
#include <stdio.h>
#include <string.h>

/* Members where there is something to say. */
static void write_members(const struct exchange *exchange, struct log_members *out)
{
    log_text(out, "method", exchange->method);
    log_text(out, "route", exchange->route);
    log_number(out, "status", exchange->status);
    log_number(out, "duration_s", exchange->began_s > 0 ? clock_seconds() - exchange->began_s : 0);
    if (exchange->prompt_tokens) {
        log_number(out, "prompt_tokens", (double)exchange->prompt_tokens);
        if (!exchange->cut) log_number(out, "cached_tokens", (double)exchange->cached_tokens);
        log_number(out, "output_tokens", (double)exchange->output_tokens);
        if (!exchange->cut) log_number(out, "ttft_s", exchange->ttft_s);
    }
    if (exchange->key) log_text(out, "key", exchange->key->name);
    log_text(out, "id", exchange->id);
}

/* Whoever watches asks every second, and learns more than the log does: pages, probes, Prometheus. */
static bool is_routine(const struct exchange *exchange)
{
    return exchange->status < 400 && strcmp(exchange->method, "GET") == 0 && strncmp(exchange->route, "/v1/", 4) != 0;
}

void log_exchange(const struct exchange *exchange)
{
    struct log_members members;
    log_begin(&members, is_routine(exchange) ? LOG_DEBUG : LOG_INFO, "request");
    write_members(exchange, &members);
    log_end(&members);
}
