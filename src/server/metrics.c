/* metrics.c - see metrics.h. */
#include "server/metrics.h"
#include "server/histogram.h"
#include <event2/buffer.h>
#include <string.h>

#define EXCHANGE_KINDS_MAX 512u /* routes, methods and statuses are few */

/* vLLM's buckets, so that its dashboards' quantiles mean the same. */
static const double TTFT[] = {0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75,
                              1,     2.5,   5,    7.5,  10,   20,   40,   80,  160,  640, 2560};
static const double PER_TOKEN[] = {0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5,
                                   0.75, 1,     2.5,  5,     7.5, 10,   20,  40,  80};
static const double LATENCY[] = {0.3, 0.5, 0.8, 1,  1.5, 2,   2.5, 5,   10,   15,  20,
                                 30,  40,  50,  60, 120, 240, 480, 960, 1920, 7680};
static const double TOKENS[] = {1,    2,    5,    10,    20,    50,    100,    200,    500,
                                1000, 2000, 5000, 10000, 20000, 50000, 100000, 200000, 500000};

static const double ANSWERS[] = {1, 2, 5, 10, 20};

struct metrics {
    struct histogram ttft, between, per_token, e2e, queue, prefill, decode, inference, prompt, computed, output;
    struct histogram longest, limit, answers; /* of a request's answers */
    uint64_t finished[KVASIR_ERROR + 1];
    struct {
        const char *route, *method;
        int status;
        uint64_t count;
    } exchanges[EXCHANGE_KINDS_MAX];
    uint32_t exchange_kinds;
};

struct metrics *metrics_open(void)
{
    struct metrics *m = mem_zero(1, sizeof *m);
    if (!m) return NULL;
    histogram_init(&m->ttft, TTFT, ARRAY_COUNT(TTFT));
    histogram_init(&m->between, PER_TOKEN, ARRAY_COUNT(PER_TOKEN));
    histogram_init(&m->per_token, PER_TOKEN, ARRAY_COUNT(PER_TOKEN));
    histogram_init(&m->e2e, LATENCY, ARRAY_COUNT(LATENCY));
    histogram_init(&m->queue, LATENCY, ARRAY_COUNT(LATENCY));
    histogram_init(&m->prefill, LATENCY, ARRAY_COUNT(LATENCY));
    histogram_init(&m->decode, LATENCY, ARRAY_COUNT(LATENCY));
    histogram_init(&m->inference, LATENCY, ARRAY_COUNT(LATENCY));
    histogram_init(&m->prompt, TOKENS, ARRAY_COUNT(TOKENS));
    histogram_init(&m->computed, TOKENS, ARRAY_COUNT(TOKENS));
    histogram_init(&m->output, TOKENS, ARRAY_COUNT(TOKENS));
    histogram_init(&m->longest, TOKENS, ARRAY_COUNT(TOKENS));
    histogram_init(&m->limit, TOKENS, ARRAY_COUNT(TOKENS));
    histogram_init(&m->answers, ANSWERS, ARRAY_COUNT(ANSWERS));
    return m;
}

void metrics_close(struct metrics *metrics)
{
    mem_free(metrics);
}

void metrics_exchange(struct metrics *m, const struct exchange *exchange)
{
    uint32_t i = 0;
    while (i < m->exchange_kinds &&
           !(m->exchanges[i].status == exchange->status && strcmp(m->exchanges[i].route, exchange->route) == 0 &&
             strcmp(m->exchanges[i].method, exchange->method) == 0))
        i++;
    if (i == EXCHANGE_KINDS_MAX) return;
    if (i == m->exchange_kinds) {
        m->exchange_kinds++;
        m->exchanges[i].route = exchange->route;
        m->exchanges[i].method = exchange->method;
        m->exchanges[i].status = exchange->status;
    }
    m->exchanges[i].count++;
}

void metrics_tokens(struct metrics *metrics, double seconds, size_t count)
{
    if (count) histogram_add(&metrics->between, seconds / (double)count, count);
}

void metrics_answer(struct metrics *m, enum kvasir_finish finish, const struct kvasir_timings *timings, double seconds)
{
    m->finished[finish]++;
    if (finish != KVASIR_STOP && finish != KVASIR_LENGTH) return;
    histogram_add(&m->e2e, seconds, 1);
    histogram_add(&m->ttft, timings->ttft_s, 1);
    histogram_add(&m->queue, timings->ttft_s - timings->prefill_s, 1);
    histogram_add(&m->prefill, timings->prefill_s, 1);
    histogram_add(&m->decode, timings->decode_s, 1);
    histogram_add(&m->inference, timings->prefill_s + timings->decode_s, 1);
    histogram_add(&m->prompt, timings->prompt_tokens, 1);
    histogram_add(&m->computed, timings->prompt_tokens - timings->cached_tokens, 1);
    histogram_add(&m->output, timings->output_tokens, 1);
    if (timings->output_tokens > 1) histogram_add(&m->per_token, timings->tpot_s, 1);
}

void metrics_request(struct metrics *m, uint32_t answers, uint32_t max_tokens, uint64_t longest)
{
    histogram_add(&m->answers, answers, 1);
    histogram_add(&m->longest, (double)longest, 1);
    if (max_tokens) histogram_add(&m->limit, max_tokens, 1);
}

/* ---- the text --------------------------------------------------------------------------------------------------------- */

struct writer {
    struct buffer *out;
    const char *prefix, *labels;
};

static void write_one(const struct writer *w, const char *name, const char *type, const char *help, double value)
{
    metric_head(w->out, w->prefix, name, type, help);
    metric_sample(w->out, w->prefix, name, w->labels, value);
}

/* A sample with one more label. */
static void write_labelled(const struct writer *w, const char *name, const char *label, const char *text, double value)
{
    struct buffer labels;
    buffer_init(&labels, 0);
    buffer_printf(&labels, "%s,", w->labels);
    metric_label(&labels, label, text);
    if (!labels.failed) metric_sample(w->out, w->prefix, name, labels.data, value);
    w->out->failed |= labels.failed;
    buffer_release(&labels);
}

static void write_gauges(const struct writer *w, const struct kvasir_engine_stats *s)
{
    const double held = s->kv_bytes_budget ? (double)s->kv_bytes_used / (double)s->kv_bytes_budget : 0;
    const struct {
        const char *state;
        uint64_t bytes;
    } bytes[] = {{"held", s->kv_bytes_used},           {"wasted", s->kv_bytes_wasted},
                 {"cached", s->kv_bytes_cached},       {"protected", s->kv_bytes_protected},
                 {"pinned", s->kv_bytes_pinned},       {"mapped", s->kv_bytes_mapped},
                 {"metadata", s->kv_bytes_metadata},   {"swapped", s->kv_bytes_swapped},
                 {"offloaded", s->kv_bytes_offloaded}, {"budget", s->kv_bytes_budget}};
    write_one(w, "num_requests_running", "gauge", "Answers that are being computed.", s->running);
    write_one(w, "num_requests_waiting", "gauge", "Answers that wait for their first step.", s->waiting);
    write_one(w, "num_requests_paused", "gauge", "Answers that stand still because their clients do not read them.",
              s->paused);
    write_one(w, "kv_cache_usage_perc", "gauge",
              "Part of the KV cache's budget that is held by requests, 0 to 1; what only stays cached is not in it.",
              held);
    write_one(w, "gpu_cache_usage_perc", "gauge", "The same, under its older name.", held);
    metric_head(
        w->out, w->prefix, "kv_cache_bytes", "gauge",
        "Bytes of the KV cache by state. held: by requests and pins (wasted, pinned: of it); cached: found by the next "
        "prompt that begins so (protected: of it).");
    for (size_t i = 0; i < ARRAY_COUNT(bytes); i++)
        write_labelled(w, "kv_cache_bytes", "state", bytes[i].state, (double)bytes[i].bytes);
}

static void write_counters(const struct writer *w, const struct kvasir_engine_stats *s)
{
    write_one(w, "prefix_cache_queries_total", "counter", "Prompt tokens that were looked up in the prefix cache.",
              (double)s->kv_queried_tokens);
    write_one(w, "prefix_cache_hits_total", "counter", "Prompt tokens that were found there.",
              (double)s->kv_hit_tokens);
    write_one(w, "gpu_prefix_cache_queries_total", "counter", "The same two, under their older names.",
              (double)s->kv_queried_tokens);
    write_one(w, "gpu_prefix_cache_hits_total", "counter", "Prompt tokens that were found there.",
              (double)s->kv_hit_tokens);
    write_one(w, "prefix_waits_total", "counter", "Requests that waited for another to compute a prefix they share.",
              (double)s->prefix_waits);
    write_one(w, "num_preemptions_total", "counter", "Requests that gave up their blocks and went on later.",
              (double)s->preemptions);
    write_one(w, "kv_cache_evicted_blocks_total", "counter", "Cached blocks that made room.",
              (double)s->kv_evicted_blocks);
    write_one(w, "prompt_tokens_total", "counter", "Prompt tokens, computed and found.",
              (double)(s->prompt_tokens + s->kv_hit_tokens));
    metric_head(w->out, w->prefix, "prompt_tokens_by_source_total", "counter",
                "Prompt tokens by where their K and V came from.");
    uint64_t below = 0;
    for (uint32_t t = 0; t < s->tier_count; t++) {
        write_labelled(w, "prompt_tokens_by_source_total", "source", s->tiers[t].name, (double)s->tiers[t].tokens);
        below += s->tiers[t].tokens;
    }
    write_labelled(w, "prompt_tokens_by_source_total", "source", "local_compute", (double)s->prompt_tokens);
    write_labelled(w, "prompt_tokens_by_source_total", "source", "local_cache_hit", (double)(s->kv_hit_tokens - below));
    write_one(w, "prompt_tokens_cached_total", "counter", "Prompt tokens that were found.", (double)s->kv_hit_tokens);
    write_one(w, "generation_tokens_total", "counter", "Tokens of answers.", (double)s->output_tokens);
    write_one(w, "spec_decode_num_draft_tokens_total", "counter", "Tokens drafted from earlier text.",
              (double)s->drafted_tokens);
    write_one(w, "spec_decode_num_accepted_tokens_total", "counter", "Drafted tokens that were right.",
              (double)s->accepted_tokens);
    write_one(w, "retrieval_answers_total", "counter", "Answers that have used retrieval attention.",
              (double)s->retrieval_answers);
    write_one(w, "retrieval_rows_read_total", "counter",
              "K and V rows that they have read where a head keeps every token.", (double)s->retrieval_rows_read);
    write_one(w, "retrieval_rows_dense_total", "counter", "Those that they would have read without it.",
              (double)s->retrieval_rows_dense);
    write_one(w, "kv_offload_found_total", "counter",
              "Rows of a head and 16 or 32 tokens that were wanted of what is offloaded, and were in memory still.",
              (double)s->kv_recalled_slices);
    write_one(w, "kv_offload_read_total", "counter", "Those that had to be read from the disk.",
              (double)s->kv_read_slices);
    write_one(w, "iterations_total", "counter", "Steps of the engine.", (double)s->steps);
}

/* The tiers below RAM. */
static void write_tiers(const struct writer *w, const struct kvasir_engine_stats *s)
{
#define AT(member) offsetof(struct kvasir_tier_stats, member)
    static const struct {
        const char *name, *type, *help;
        size_t offset;
    } rows[] = {
        {"kv_tier_bytes", "gauge", "Bytes in the folder, compressed; 0 of a server.", AT(bytes)},
        {"kv_tier_blobs", "gauge", "Files in the folder; 0 of a server.", AT(blobs)},
        {"kv_tier_written_blocks_total", "counter", "Blocks written to the tier.", AT(written_blocks)},
        {"kv_tier_written_bytes_total", "counter", "Their bytes, not compressed.", AT(written_bytes)},
        {"kv_tier_read_blocks_total", "counter", "Blocks read from the tier.", AT(read_blocks)},
        {"kv_tier_read_bytes_total", "counter", "Their bytes, not compressed.", AT(read_bytes)},
        {"kv_tier_skipped_blocks_total", "counter", "Blocks not written because the tier did not keep up.",
         AT(skipped_blocks)},
        {"kv_tier_refused_blocks_total", "counter", "Blocks that the tier could not take: full, failing or not there.",
         AT(refused_blocks)},
        {"kv_tier_missed_blocks_total", "counter", "Blocks that were said to be there and were gone or damaged.",
         AT(missed_blocks)},
        {"kv_tier_bad_blocks_total", "counter", "Whole blocks that were of something else.", AT(bad_blocks)},
    };
#undef AT
    if (!s->tier_count) return;
    for (size_t i = 0; i < ARRAY_COUNT(rows); i++) {
        metric_head(w->out, w->prefix, rows[i].name, rows[i].type, rows[i].help);
        for (uint32_t t = 0; t < s->tier_count; t++) {
            uint64_t value;
            memcpy(&value, (const char *)&s->tiers[t] + rows[i].offset, sizeof value);
            write_labelled(w, rows[i].name, "tier", s->tiers[t].name, (double)value);
        }
    }
    metric_head(w->out, w->prefix, "kv_tier_read_seconds_total", "counter", "Time that reading took.");
    for (uint32_t t = 0; t < s->tier_count; t++)
        write_labelled(w, "kv_tier_read_seconds_total", "tier", s->tiers[t].name, s->tiers[t].read_s);
    write_one(w, "kv_tier_late_total", "counter", "Prompts that did not wait for a tier: computing was sooner done.",
              (double)s->fetches_late);
}

static void write_histograms(const struct writer *w, const struct metrics *m)
{
    const struct {
        const char *name, *help;
        const struct histogram *histogram;
    } rows[] = {
        {"time_to_first_token_seconds", "From a request's submission to its first token.", &m->ttft},
        {"inter_token_latency_seconds", "Between two tokens of an answer.", &m->between},
        {"time_per_output_token_seconds", "The same, under its older name.", &m->between},
        {"request_time_per_output_token_seconds", "Mean time between tokens, by answer.", &m->per_token},
        {"e2e_request_latency_seconds", "From a request's first byte to the end of its answer.", &m->e2e},
        {"request_queue_time_seconds", "From submission to the first step.", &m->queue},
        {"request_prefill_time_seconds", "From the first step to the first token.", &m->prefill},
        {"request_decode_time_seconds", "From the first token to the last.", &m->decode},
        {"request_inference_time_seconds", "From the first step to the last token.", &m->inference},
        {"request_prompt_tokens", "Tokens of prompts.", &m->prompt},
        {"request_prefill_kv_computed_tokens", "Those that were not found in the cache.", &m->computed},
        {"request_generation_tokens", "Tokens of answers.", &m->output},
        {"request_max_num_generation_tokens", "Tokens of a request's longest answer.", &m->longest},
        {"request_params_max_tokens", "max_tokens, where a request says it.", &m->limit},
        {"request_params_n", "Answers to a request.", &m->answers},
    };
    for (size_t i = 0; i < ARRAY_COUNT(rows); i++) {
        metric_head(w->out, w->prefix, rows[i].name, "histogram", rows[i].help);
        metric_histogram(w->out, w->prefix, rows[i].name, w->labels, rows[i].histogram);
    }
}

static void write_ends(const struct writer *w, const struct metrics *m)
{
    static const char *const names[] = {[KVASIR_STOP] = "stop",
                                        [KVASIR_LENGTH] = "length",
                                        [KVASIR_CANCELLED_BY_CALLER] = "abort",
                                        [KVASIR_ERROR] = "error"};
    metric_head(w->out, w->prefix, "request_success_total", "counter", "Answers by how they ended.");
    for (size_t i = KVASIR_STOP; i < ARRAY_COUNT(names); i++)
        write_labelled(w, "request_success_total", "finished_reason", names[i], (double)m->finished[i]);
    metric_head(w->out, w->prefix, "http_requests_total", "counter",
                "Requests of HTTP; status 499: the client left; no route: none of ours, or no HTTP.");
    for (uint32_t i = 0; i < m->exchange_kinds; i++)
        buffer_printf(w->out, "%shttp_requests_total{route=\"%s\",method=\"%s\",status=\"%d\"} %llu\n", w->prefix,
                      m->exchanges[i].route, m->exchanges[i].method, m->exchanges[i].status,
                      (unsigned long long)m->exchanges[i].count);
}

/* Under the names that every Prometheus client uses. */
static void write_process(struct buffer *out, const struct server *server)
{
    struct process_usage usage;
    process_usage(&usage);
    const struct writer w = {out, "process_", ""};
    write_one(&w, "cpu_seconds_total", "counter", "Processor time, user and system.", usage.cpu_s);
    write_one(&w, "resident_memory_bytes", "gauge", "Real memory.", (double)usage.resident_bytes);
    write_one(&w, "virtual_memory_bytes", "gauge", "Address space.", (double)usage.virtual_bytes);
    write_one(&w, "open_fds", "gauge", "Open descriptors.", usage.descriptors);
    write_one(&w, "max_fds", "gauge", "Most descriptors that may be open.", (double)usage.descriptors_max);
    write_one(&w, "start_time_seconds", "gauge", "When the server began to answer, since 1970.",
              (double)server->started);
}

static void write_all(struct server *server, const char *labels, struct buffer *out)
{
    struct kvasir_engine_stats stats;
    kvasir_async_stats(server->async, &stats);
    const struct writer w = {out, server->config.metrics_prefix, labels};
    write_gauges(&w, &stats);
    write_counters(&w, &stats);
    write_tiers(&w, &stats);
    write_histograms(&w, server->metrics);
    write_ends(&w, server->metrics);
    metric_head(out, w.prefix, "cache_config_info", "gauge", "How the KV cache was opened.");
    buffer_printf(out, "%scache_config_info{%s,block_size=\"%u\",max_model_len=\"%u\",bytes_per_token=\"%llu\"} 1\n",
                  w.prefix, labels, stats.block_size, stats.context, (unsigned long long)stats.kv_bytes_per_token);
    write_one(&(struct writer){out, w.prefix, ""}, "http_connections", "gauge", "Open connections.",
              server->connection_count);
    write_process(out, server);
}

void metrics_reply(struct server *server, struct evhttp_request *http, const struct api *api)
{
    (void)api;
    struct buffer labels, out;
    buffer_init(&labels, 0);
    buffer_init(&out, 0);
    metric_label(&labels, "model_name", server->config.model_name);
    buffer_text(&labels, ",engine=\"0\"");
    if (!labels.failed) write_all(server, labels.data, &out);
    out.failed |= labels.failed;
    buffer_release(&labels);
    reply_text(http, "text/plain; version=0.0.4; charset=utf-8", &out);
}

bool metrics_prefix_is_valid(const char *prefix)
{
    for (const char *p = prefix; *p; p++) {
        bool letter = (*p >= 'a' && *p <= 'z') || (*p >= 'A' && *p <= 'Z') || *p == '_' || *p == ':';
        if (!letter && !(p > prefix && *p >= '0' && *p <= '9')) return false;
    }
    return strlen(prefix) <= 64;
}
