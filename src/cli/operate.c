/* operate.c - `kvasir ps`, `stop`, `cache stat|ls|pin|drop`: looking at a running server, and stopping it. With --kv-disk, `cache`
 * looks at a folder of the cache instead, and needs no server (cache_folder.c). */
#include "cli/cache_folder.h"
#include "cli/remote.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Asks, writes the answer as JSON (-o json) or by `write`. */
static int ask(const struct options *options, const char *path, const json_t *body,
               void (*write)(const json_t *json, struct buffer *out))
{
    struct error error;
    struct buffer out;
    json_t *json;
    buffer_init(&out, 0);
    enum status status = remote_ask(options, path, body, &json, &error);
    if (status == ST_OK && !options->quiet && strcmp(options->output, "json") == 0) {
        char *text = json_dumps(json, JSON_COMPACT);
        buffer_printf(&out, "%s\n", text ? text : "null");
        free(text); /* jansson's */
    } else if (status == ST_OK) {
        write(json, &out);
    }
    if (status == ST_OK && out.failed) status = error_set(&error, ST_NOMEM, "not enough memory for the answer");
    if (status == ST_OK && out.length) status = output_write(out.data, out.length, &error);
    json_decref(json);
    buffer_release(&out);
    return status == ST_OK ? EXIT_OK : fail(&error);
}

static json_int_t number(const json_t *json, const char *name)
{
    return json_integer_value(json_object_get(json, name));
}

static const char *text(const json_t *json, const char *name)
{
    const char *value = json_string_value(json_object_get(json, name));
    return value ? value : "-";
}

static void write_requests(const json_t *json, struct buffer *out)
{
    size_t i;
    json_t *request;
    buffer_printf(out, "%-9s %8s %7s %15s %7s  %-20s %-10s %s\n", "PHASE", "AGE", "ANSWERS", "PROMPT", "OUTPUT",
                  "ROUTE", "KEY", "ID");
    json_array_foreach(json_object_get(json, "requests"), i, request)
    {
        char prompt[64];
        snprintf(prompt, sizeof prompt, "%lld/%lld", (long long)number(request, "prompt_done"),
                 (long long)number(request, "prompt_tokens"));
        buffer_printf(out, "%-9s %7.1fs %7lld %15s %7lld  %-20s %-10s %s\n", text(request, "phase"),
                      json_number_value(json_object_get(request, "age_s")), (long long)number(request, "answers"),
                      prompt, (long long)number(request, "output_tokens"), text(request, "route"), text(request, "key"),
                      text(request, "id"));
    }
}

static void write_nothing(const json_t *json, struct buffer *out)
{
    (void)json, (void)out;
}

int ps_main(const struct options *options)
{
    if (options->quiet) return ask(options, "/health", NULL, write_nothing);
    return ask(options, "/requests", NULL, write_requests);
}

static void write_stop(const json_t *json, struct buffer *out)
{
    buffer_printf(out, "the server is %s: it ends when its answers have\n", text(json, "status"));
}

int stop_main(const struct options *options)
{
    json_t *body = json_object();
    int result = ask(options, "/drain", body, write_stop);
    json_decref(body);
    return result;
}

static void write_stats(const json_t *json, struct buffer *out)
{
    char held[32], cached[32], pinned[32], budget[32], swapped[32];
    json_int_t queried = number(json, "queried_tokens"), hits = number(json, "hit_tokens");
    buffer_printf(out, "budget   %s, of it held by requests %s, cached %s, pinned %s; swapped out %s\n",
                  bytes_text((uint64_t)number(json, "bytes_budget"), budget),
                  bytes_text((uint64_t)number(json, "bytes_held"), held),
                  bytes_text((uint64_t)number(json, "bytes_cached"), cached),
                  bytes_text((uint64_t)number(json, "bytes_pinned"), pinned),
                  bytes_text((uint64_t)number(json, "bytes_swapped"), swapped));
    buffer_printf(out, "blocks   of %lld tokens: %lld held, %lld cached, %lld evicted so far\n",
                  (long long)number(json, "block_size"), (long long)number(json, "blocks_held"),
                  (long long)number(json, "blocks_cached"), (long long)number(json, "evicted_blocks"));
    buffer_printf(out, "hits     %lld of %lld prompt tokens (%.1f %%)\n", (long long)hits, (long long)queried,
                  queried ? 100.0 * (double)hits / (double)queried : 0.0);
    buffer_printf(out, "requests %lld running, %lld waiting, %lld not read by their clients, %lld preempted so far\n",
                  (long long)number(json, "running"), (long long)number(json, "waiting"),
                  (long long)number(json, "paused"), (long long)number(json, "preemptions"));
    size_t i;
    json_t *tier;
    json_array_foreach(json_object_get(json, "tiers"), i, tier)
    {
        char bytes[32], read[32];
        buffer_printf(out,
                      "%-8s %s; %lld prompt tokens came from there (%s read); blocks: %lld written, %lld skipped, %lld "
                      "refused, %lld gone or damaged\n",
                      text(tier, "tier"), bytes_text((uint64_t)number(tier, "bytes"), bytes),
                      (long long)number(tier, "tokens"), bytes_text((uint64_t)number(tier, "read_bytes"), read),
                      (long long)number(tier, "written_blocks"), (long long)number(tier, "skipped_blocks"),
                      (long long)number(tier, "refused_blocks"),
                      (long long)(number(tier, "missed_blocks") + number(tier, "bad_blocks")));
    }
}

int cache_stat_main(const struct options *options)
{
    if (options->kv_disk) return cache_folder(options, EVAL_FOLDER_STAT);
    return ask(options, "/kv/stats", NULL, write_stats);
}

static void write_pins(const json_t *json, struct buffer *out)
{
    size_t i;
    json_t *pin;
    buffer_printf(out, "%8s %12s  %s\n", "TOKENS", "MEMORY", "NAME");
    json_array_foreach(json_object_get(json, "pins"), i, pin)
    {
        char bytes[32];
        buffer_printf(out, "%8lld %12s  %s\n", (long long)number(pin, "tokens"),
                      bytes_text((uint64_t)number(pin, "bytes"), bytes), text(pin, "name"));
    }
}

int cache_ls_main(const struct options *options)
{
    if (options->kv_disk) return cache_folder(options, EVAL_FOLDER_LIST);
    return ask(options, "/kv/pins", NULL, write_pins);
}

/* A text is computed as a request's prompt first, beside all others: a pin by itself would keep the engine for so long. */
static bool compute(const struct options *options, const char *prompt)
{
    struct error error;
    json_t *json = NULL, *body = json_pack("{s:s, s:i}", "prompt", prompt, "max_tokens", 1);
    enum status status = body ? remote_ask(options, "/v1/completions", body, &json, &error)
                              : error_set(&error, ST_INVALID, "cache pin: the text must be UTF-8");
    json_decref(body);
    json_decref(json);
    return status == ST_OK || fail(&error) == EXIT_OK;
}

/* A chat's system prompt with --system, else a text. */
int cache_pin_main(const struct options *options)
{
    if (options->rest.count != (options->system ? 1 : 2))
        return fail_usage("cache pin: NAME and TEXT are needed, or NAME and --system TEXT");
    if (!options->system && !compute(options, options->rest.items[1])) return EXIT_FAILED;
    json_t *body = options->system
                       ? json_pack("{s:s, s:[{s:s, s:s}]}", "name", options->rest.items[0], "messages", "role",
                                   "system", "content", options->system)
                       : json_pack("{s:s, s:s}", "name", options->rest.items[0], "prompt", options->rest.items[1]);
    if (!body) return fail_usage("cache pin: the name and the text must be UTF-8");
    int result = ask(options, "/kv/pins", body, write_pins);
    json_decref(body);
    return result;
}

int cache_drop_main(const struct options *options)
{
    if (options->rest.count != 1) return fail_usage("cache drop: NAME is needed");
    json_t *body = json_pack("{s:s, s:b}", "name", options->rest.items[0], "unpin", 1);
    if (!body) return fail_usage("cache drop: the name must be UTF-8");
    int result = ask(options, "/kv/pins", body, write_pins);
    json_decref(body);
    return result;
}
