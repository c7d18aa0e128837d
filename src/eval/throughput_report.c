/* throughput_report.c - the figures of every level as JSON, csv or markdown, all from the two tables below. */
#include "eval/throughput_internal.h"
#include <math.h>

/* A figure of a level. A new one is a row here and a field of struct throughput_level. */
static const struct figure {
    int table; /* of markdown, 0 or 1 */
    const char *key, *heading;
    size_t at;  /* of a double in struct throughput_level */
    bool whole; /* in JSON and csv; markdown has the number times `scale`: */
    double scale;
    int decimals;
    const char *unit;
} FIGURES[] = {
    /* clang-format off */
    {0, "output_tokens_per_s",  "output tok/s",  offsetof(struct throughput_level, output_tokens_per_s), false, 1,    1, ""},
    {0, "total_tokens_per_s",   "total tok/s",   offsetof(struct throughput_level, total_tokens_per_s),  false, 1,    1, ""},
    {0, "requests_per_s",       "requests/s",    offsetof(struct throughput_level, requests_per_s),      false, 1,    2, ""},
    {0, "prefix_hit_rate",      "prefix hits",   offsetof(struct throughput_level, prefix_hit_rate),     false, 100,  1, " %"},
    {0, "seconds",              "seconds",       offsetof(struct throughput_level, seconds),             false, 1,    2, ""},
    {0, "requests_done",        "done",          offsetof(struct throughput_level, requests_done),       true,  1,    0, ""},
    {0, "requests_failed",      "failed",        offsetof(struct throughput_level, requests_failed),     true,  1,    0, ""},
    {0, "requests_cut",         "cut",           offsetof(struct throughput_level, requests_cut),        true,  1,    0, ""},
    {1, "kv_use_mean",          "KV use, mean",  offsetof(struct throughput_level, kv_use_mean),         false, 100,  2, " %"},
    {1, "kv_use_peak",          "peak",          offsetof(struct throughput_level, kv_use_peak),         false, 100,  2, " %"},
    {1, "kv_bytes_peak",        "peak, MB",      offsetof(struct throughput_level, kv_bytes_peak),       true,  1e-6, 1, ""},
    {1, "preemptions",          "preemptions",   offsetof(struct throughput_level, preemptions),         true,  1,    0, ""},
    {1, "preemptions_swapped",  "swapped",       offsetof(struct throughput_level, preemptions_swapped), true,  1,    0, ""},
    {1, "prefix_waits",         "prefix waits",  offsetof(struct throughput_level, prefix_waits),        true,  1,    0, ""},
    {1, "steps",                "steps",         offsetof(struct throughput_level, steps),               true,  1,    0, ""},
    {1, "input_share",          "input",         offsetof(struct throughput_level, input_share),         false, 100,  2, " %"},
    {1, "schedule_share",       "schedule",      offsetof(struct throughput_level, schedule_share),      false, 100,  2, " %"},
    {1, "execute_share",        "execute",       offsetof(struct throughput_level, execute_share),       false, 100,  2, " %"},
    {1, "output_share",         "output",        offsetof(struct throughput_level, output_share),        false, 100,  2, " %"},
    /* clang-format on */
};

/* Times, each a distribution in seconds. */
static const struct spread {
    const char *key, *heading;
    size_t at;
} SPREADS[] = {
    {"ttft_s", "TTFT", offsetof(struct throughput_level, ttft_s)},
    {"tpot_s", "TPOT", offsetof(struct throughput_level, tpot_s)},
    {"itl_s", "ITL", offsetof(struct throughput_level, itl_s)},
    {"e2e_s", "end to end", offsetof(struct throughput_level, e2e_s)},
};

static const struct part {
    const char *key;
    size_t at;
} PARTS[] = {
    {"mean", offsetof(struct distribution, mean)}, {"p50", offsetof(struct distribution, p50)},
    {"p90", offsetof(struct distribution, p90)},   {"p99", offsetof(struct distribution, p99)},
    {"max", offsetof(struct distribution, max)},
};

static double at(const void *base, size_t offset)
{
    return *(const double *)(const void *)((const char *)base + offset);
}

static double part_of(const struct throughput_level *level, const struct spread *spread, const struct part *part)
{
    return at(level, spread->at + part->at);
}

static const char *level_key(const struct throughput *throughput)
{
    return throughput->options->concurrency_count ? "concurrency" : "arrival_rate";
}

/* ---- JSON -------------------------------------------------------------------------------------------------------- */

static json_t *known(double value)
{
    return isnan(value) ? json_null() : json_real(value);
}

static json_t *json_load(const struct throughput *throughput)
{
    const struct eval_throughput_options *o = throughput->options;
    return json_pack("{s:I, s:s, s:s, s:I, s:I, s:I, s:f, s:I, s:I, s:I}", "requests", (json_int_t)o->requests,
                     "prompt_tokens", o->prompt_tokens, "output_tokens", o->output_tokens, "shared_prefix",
                     (json_int_t)o->shared_prefix, "shared_prefixes", (json_int_t)o->shared_prefixes, "turns",
                     (json_int_t)o->turns, "think_time_s", o->think_s, "seed", (json_int_t)o->seed,
                     "prompt_tokens_total", (json_int_t)throughput->load.prompt_tokens, "output_tokens_total",
                     (json_int_t)throughput->load.output_tokens);
}

static int json_spread(json_t *row, const struct throughput_level *level, const struct spread *spread)
{
    json_t *parts = json_object();
    int failed = 0;
    for (size_t i = 0; i < ARRAY_COUNT(PARTS); i++)
        failed |= json_object_set_new(parts, PARTS[i].key, known(part_of(level, spread, &PARTS[i])));
    return json_object_set_new(row, spread->key, parts) | failed;
}

static json_t *json_level(const struct throughput *throughput, const struct throughput_level *level)
{
    json_t *row = json_object();
    int failed = json_object_set_new(row, level_key(throughput), json_real(level->at));
    for (size_t i = 0; i < ARRAY_COUNT(FIGURES); i++) {
        double value = at(level, FIGURES[i].at);
        json_t *number = FIGURES[i].whole ? json_integer((json_int_t)value) : known(value);
        failed |= json_object_set_new(row, FIGURES[i].key, number);
    }
    for (size_t i = 0; i < ARRAY_COUNT(SPREADS); i++) failed |= json_spread(row, level, &SPREADS[i]);
    if (!failed) return row;
    json_decref(row);
    return NULL;
}

static enum status write_json(const struct throughput *throughput, struct buffer *out, struct error *error)
{
    json_t *levels = json_array();
    int failed = 0;
    for (size_t i = 0; i < throughput->level_count; i++)
        failed |= json_array_append_new(levels, json_level(throughput, &throughput->levels[i]));
    if (failed) {
        json_decref(levels);
        levels = NULL;
    }
    return report_json(json_pack("{s:o, s:o}", "load", json_load(throughput), "levels", levels), out, error);
}

/* ---- csv --------------------------------------------------------------------------------------------------------- */

static void csv_number(struct buffer *out, double value, bool whole)
{
    if (isnan(value))
        buffer_text(out, ",");
    else
        buffer_printf(out, whole ? ",%.0f" : ",%.9g", value);
}

static void write_csv(const struct throughput *throughput, struct buffer *out)
{
    buffer_text(out, level_key(throughput));
    for (size_t i = 0; i < ARRAY_COUNT(FIGURES); i++) buffer_printf(out, ",%s", FIGURES[i].key);
    for (size_t i = 0; i < ARRAY_COUNT(SPREADS); i++)
        for (size_t p = 0; p < ARRAY_COUNT(PARTS); p++) buffer_printf(out, ",%s_%s", SPREADS[i].key, PARTS[p].key);
    buffer_text(out, "\n");
    for (const struct throughput_level *level = throughput->levels;
         level < throughput->levels + throughput->level_count; level++) {
        buffer_printf(out, "%.9g", level->at);
        for (size_t i = 0; i < ARRAY_COUNT(FIGURES); i++) csv_number(out, at(level, FIGURES[i].at), FIGURES[i].whole);
        for (size_t i = 0; i < ARRAY_COUNT(SPREADS); i++)
            for (size_t p = 0; p < ARRAY_COUNT(PARTS); p++)
                csv_number(out, part_of(level, &SPREADS[i], &PARTS[p]), false);
        buffer_text(out, "\n");
    }
}

/* ---- markdown ---------------------------------------------------------------------------------------------------- */

/* "avx512vnni, 2 threads; 48 requests of 125 + 64 tokens, seed 1" */
static void write_load(const struct throughput *throughput, struct buffer *out)
{
    const struct eval_throughput_options *o = throughput->options;
    buffer_printf(out, "%s, %u thread%s; %u requests of %s + %s tokens", throughput->model.isa,
                  throughput->model.threads, throughput->model.threads == 1 ? "" : "s", o->requests, o->prompt_tokens,
                  o->output_tokens);
    if (o->shared_prefix && o->shared_prefixes == 1)
        buffer_printf(out, " after a shared prefix of %u", o->shared_prefix);
    if (o->shared_prefix && o->shared_prefixes > 1)
        buffer_printf(out, " after one of %u shared prefixes of %u", o->shared_prefixes, o->shared_prefix);
    if (o->turns > 1) buffer_printf(out, ", %u turns to a conversation, %g s apart", o->turns, o->think_s);
    buffer_printf(out, ", seed %llu\n\n", (unsigned long long)o->seed);
}

static void markdown_number(struct buffer *out, double value, int decimals, const char *unit)
{
    if (isnan(value))
        buffer_text(out, " - |");
    else
        buffer_printf(out, " %.*f%s |", decimals, value, unit);
}

static void write_figures(const struct throughput *throughput, const char *key, int table, struct buffer *out)
{
    buffer_printf(out, "| %s |", key);
    for (size_t i = 0; i < ARRAY_COUNT(FIGURES); i++)
        if (FIGURES[i].table == table) buffer_printf(out, " %s |", FIGURES[i].heading);
    buffer_text(out, "\n|---:|");
    for (size_t i = 0; i < ARRAY_COUNT(FIGURES); i++)
        if (FIGURES[i].table == table) buffer_text(out, "---:|");
    for (size_t l = 0; l < throughput->level_count; l++) {
        const struct throughput_level *level = &throughput->levels[l];
        buffer_printf(out, "\n| %g |", level->at);
        for (const struct figure *f = FIGURES; f < FIGURES + ARRAY_COUNT(FIGURES); f++)
            if (f->table == table) markdown_number(out, at(level, f->at) * f->scale, f->decimals, f->unit);
    }
    buffer_text(out, "\n");
}

static void write_times(const struct throughput *throughput, const char *key, struct buffer *out)
{
    buffer_printf(out, "| %s | ms | mean | p50 | p90 | p99 | max |\n|---:|---|---:|---:|---:|---:|---:|\n", key);
    for (size_t l = 0; l < throughput->level_count; l++)
        for (size_t i = 0; i < ARRAY_COUNT(SPREADS); i++) {
            const struct throughput_level *level = &throughput->levels[l];
            buffer_printf(out, "| %g | %s |", level->at, SPREADS[i].heading);
            for (size_t p = 0; p < ARRAY_COUNT(PARTS); p++)
                markdown_number(out, part_of(level, &SPREADS[i], &PARTS[p]) * 1e3, 1, "");
            buffer_text(out, "\n");
        }
}

static void write_markdown(const struct throughput *throughput, struct buffer *out)
{
    const char *key = throughput->options->concurrency_count ? "concurrency" : "requests/s";
    write_load(throughput, out);
    write_figures(throughput, key, 0, out);
    buffer_text(out, "\n");
    write_times(throughput, key, out);
    buffer_text(out, "\n");
    write_figures(throughput, key, 1, out);
}

enum status throughput_report(const struct throughput *throughput, enum eval_output output, struct buffer *out,
                              struct error *error)
{
    if (output == EVAL_JSON) return write_json(throughput, out, error);
    if (output == EVAL_CSV)
        write_csv(throughput, out);
    else
        write_markdown(throughput, out);
    return report_done(out, error);
}
