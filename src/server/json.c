/* json.c - pieces of JSON that several replies have, and the refusals. */
#include "server/server_internal.h"
#include <stdio.h>
#include <string.h>

bool refuse(struct refusal *out, int status, const char *param, const char *format, ...)
{
    *out = (struct refusal){.status = status};
    snprintf(out->param, sizeof out->param, "%s", param);
    va_list args;
    va_start(args, format);
    vsnprintf(out->message, sizeof out->message, format, args);
    va_end(args);
    return false;
}

bool refuse_no_memory(struct refusal *out, const char *what)
{
    return refuse(out, 503, "", "there is no memory for the %s now: try again later", what);
}

bool refuse_library(struct refusal *out, const char *param, const struct kvasir_error *error)
{
    int status = error->status == KVASIR_FULL    ? 429
                 : error->status == KVASIR_NOMEM ? 503
                 : error->status == KVASIR_IO    ? 500
                                                 : 400;
    refuse(out, status, status == 400 ? param : "", "%s", error->text);
    if (error->status == KVASIR_LIMIT) out->code = "context_length_exceeded";
    return false;
}

const char *refusal_reason(int status)
{
    static const struct {
        int status;
        const char *reason;
    } reasons[] = {{400, "Bad Request"},
                   {401, "Unauthorized"},
                   {403, "Forbidden"},
                   {404, "Not Found"},
                   {405, "Method Not Allowed"},
                   {408, "Request Timeout"},
                   {413, "Content Too Large"},
                   {414, "URI Too Long"},
                   {429, "Too Many Requests"},
                   {431, "Request Header Fields Too Large"},
                   {500, "Internal Server Error"},
                   {503, "Service Unavailable"}};
    for (size_t i = 0; i < ARRAY_COUNT(reasons); i++)
        if (reasons[i].status == status) return reasons[i].reason;
    return "Error";
}

static const char *error_type(int status)
{
    return status == 401   ? "authentication_error"
           : status == 403 ? "permission_error"
           : status == 429 ? "rate_limit_error"
           : status >= 500 ? "server_error"
                           : "invalid_request_error";
}

void json_counts(const struct json_count *counts, size_t count, struct buffer *out)
{
    for (size_t i = 0; i < count; i++)
        buffer_printf(out, "%s\"%s\":%llu", i ? "," : "", counts[i].name, (unsigned long long)counts[i].value);
}

void json_error(const struct refusal *refusal, struct buffer *out)
{
    buffer_text(out, "{\"error\":{\"message\":");
    json_out_text(out, refusal->message, strlen(refusal->message));
    buffer_printf(out, ",\"type\":\"%s\",\"param\":", error_type(refusal->status));
    if (refusal->param[0])
        json_out_text(out, refusal->param, strlen(refusal->param));
    else
        buffer_text(out, "null");
    if (refusal->code)
        buffer_printf(out, ",\"code\":\"%s\"}}", refusal->code);
    else
        buffer_text(out, ",\"code\":null}}");
}

void json_usage(const struct usage *usage, struct buffer *out)
{
    buffer_printf(out,
                  "{\"prompt_tokens\":%llu,\"completion_tokens\":%llu,\"total_tokens\":%llu,"
                  "\"prompt_tokens_details\":{\"cached_tokens\":%llu}}",
                  (unsigned long long)usage->prompt, (unsigned long long)usage->output,
                  (unsigned long long)(usage->prompt + usage->output), (unsigned long long)usage->cached);
}

void json_token_bytes(const struct kvasir_model *model, uint32_t id, struct buffer *out)
{
    char *text;
    size_t bytes;
    if (kvasir_detokenize(model, &id, 1, KVASIR_SHOW_CONTROL, &text, &bytes, NULL) != KVASIR_OK) return;
    buffer_append(out, text, bytes);
    kvasir_free(text);
}

void json_finish(enum kvasir_finish finish, struct buffer *out)
{
    if (finish == KVASIR_RUNNING)
        buffer_text(out, "null");
    else
        buffer_printf(out, "\"%s\"", kvasir_finish_name(finish));
}

void json_stats(const struct kvasir_engine_stats *s, struct buffer *out)
{
    const struct json_count members[] = {{"context", s->context},
                                         {"block_size", s->block_size},
                                         {"bytes_per_token", s->kv_bytes_per_token},
                                         {"bytes_budget", s->kv_bytes_budget},
                                         {"bytes_held", s->kv_bytes_used},
                                         {"blocks_held", s->kv_blocks_used},
                                         {"bytes_wasted", s->kv_bytes_wasted},
                                         {"bytes_cached", s->kv_bytes_cached},
                                         {"blocks_cached", s->kv_blocks_cached},
                                         {"bytes_pinned", s->kv_bytes_pinned},
                                         {"bytes_mapped", s->kv_bytes_mapped},
                                         {"bytes_swapped", s->kv_bytes_swapped},
                                         {"bytes_offloaded", s->kv_bytes_offloaded},
                                         {"queried_tokens", s->kv_queried_tokens},
                                         {"hit_tokens", s->kv_hit_tokens},
                                         {"evicted_blocks", s->kv_evicted_blocks},
                                         {"running", s->running},
                                         {"waiting", s->waiting},
                                         {"paused", s->paused},
                                         {"preemptions", s->preemptions},
                                         {"prompt_tokens", s->prompt_tokens},
                                         {"output_tokens", s->output_tokens}};
    json_counts(members, ARRAY_COUNT(members), out);
}
