/* bench_report.c - what a benchmark found, as JSON, markdown or csv. A figure that is not known is null, "-" or nothing. */
#include "eval/bench_internal.h"

/* Of the limit; 0 where that is not known. */
static double share(const struct bench_test *test)
{
    return test->cell.limit_tokens_per_s > 0 ? test->mean / test->cell.limit_tokens_per_s : 0;
}

/* ---- JSON -------------------------------------------------------------------------------------------------------- */

static json_t *known(double value)
{
    return value > 0 ? json_real(value) : json_null();
}

static json_t *json_sizes(const struct roofline *roofline)
{
    json_t *list = json_array();
    for (size_t i = 0; i < ROOFLINE_SIZES; i++)
        if (json_array_append_new(list, json_pack("{s:I, s:f}", "bytes", (json_int_t)roofline->read_bytes[i],
                                                  "gb_per_s", roofline->read_bytes_per_s[i] / 1e9)) != 0) {
            json_decref(list);
            return NULL;
        }
    return list;
}

static json_t *json_machine(const struct roofline *roofline, const struct roofline_machine *machine)
{
    return json_pack("{s:s, s:i, s:o, s:o, s:o, s:o, s:f, s:o}", "isa", model_kernel(roofline->model)->name, "threads",
                     (int)pool_workers(roofline->pool), "int8_gmac_per_s", known(machine->int8_macs_per_s / 1e9),
                     "int16_gmac_per_s", known(machine->int16_macs_per_s / 1e9), "f32_gmac_per_s",
                     known(machine->f32_macs_per_s / 1e9), "tile_gmac_per_s", known(machine->tile_macs_per_s / 1e9),
                     "read_gb_per_s", machine->read_bytes_per_s / 1e9, "read_sizes", json_sizes(roofline));
}

static json_t *json_test(const struct bench *bench, const struct bench_test *test)
{
    json_t *row =
        json_pack("{s:s, s:f, s:f}", "test", test->name, "tokens_per_s", test->mean, "stddev", test->deviation);
    int failed = row ? 0 : -1;
    if (test->decode) failed |= json_object_set_new(row, "attention_ms", json_real(test->attention_ms));
    if (test->budget > 0) failed |= json_object_set_new(row, "budget", json_real(test->budget));
    if (test->recall_tokens)
        failed |= json_object_set_new(row, "recall_tokens", json_integer((json_int_t)test->recall_tokens));
    if (bench_retrieves(test)) failed |= json_object_set_new(row, "rows_read", json_real(test->rows_read));
    if (test->decode && bench->depth)
        failed |= json_object_set_new(row, "computed", json_integer((json_int_t)bench->computed)) |
                  json_object_set_new(row, "kv_bytes", json_integer((json_int_t)test->kv_bytes)) |
                  json_object_set_new(row, "kv_bytes_offloaded", json_integer((json_int_t)test->kv_bytes_offloaded));
    if (failed) {
        json_decref(row);
        return NULL;
    }
    if (!bench->options->roofline) return row;
    const struct roofline_cell *cell = &test->cell;
    json_t *more = json_pack("{s:o, s:o, s:f, s:f, s:f, s:f, s:f, s:o}", "limit_tokens_per_s",
                             known(cell->limit_tokens_per_s), "share", known(share(test)), "int8_macs_per_token",
                             cell->int8_macs, "f32_macs_per_token", cell->f32_macs, "attention_macs_per_token",
                             cell->attention_macs, "attention_int16_macs_per_token", cell->attention_int16_macs,
                             "bytes_per_token", cell->bytes, "machine", json_machine(&bench->roofline, &cell->machine));
    if (!more || json_object_update(row, more) != 0) {
        json_decref(row);
        row = NULL;
    }
    json_decref(more);
    return row;
}

static enum status write_json(const struct bench *bench, struct buffer *out, struct error *error)
{
    json_t *list = json_array();
    int failed = list ? 0 : -1;
    for (uint32_t i = 0; i < bench->test_count && !failed; i++)
        failed = json_array_append_new(list, json_test(bench, &bench->tests[i]));
    if (failed) {
        json_decref(list);
        list = NULL;
    }
    return report_json(list, out, error);
}

/* ---- tables ------------------------------------------------------------------------------------------------------ */

static void append_known(struct buffer *out, const char *before, int decimals, double value, const char *unknown)
{
    buffer_text(out, before);
    if (value > 0)
        buffer_printf(out, "%.*f", decimals, value);
    else
        buffer_text(out, unknown);
}

static void write_csv(const struct bench *bench, struct buffer *out)
{
    bool roofline = bench->options->roofline;
    buffer_text(out, "test,tokens_per_s,stddev,attention_ms");
    if (roofline)
        buffer_text(out, ",limit_tokens_per_s,share,int8_macs_per_token,f32_macs_per_token,attention_macs_per_token,"
                         "attention_int16_macs_per_token,bytes_per_token,"
                         "int8_gmac_per_s,int16_gmac_per_s,f32_gmac_per_s,tile_gmac_per_s,read_gb_per_s");
    buffer_text(out, "\n");
    for (uint32_t i = 0; i < bench->test_count; i++) {
        const struct bench_test *test = &bench->tests[i];
        const struct roofline_cell *cell = &test->cell;
        buffer_printf(out, "%s,%.3f,%.3f", test->name, test->mean, test->deviation);
        append_known(out, ",", 3, test->attention_ms, "");
        if (roofline) {
            append_known(out, ",", 3, cell->limit_tokens_per_s, "");
            append_known(out, ",", 4, share(test), "");
            buffer_printf(out, ",%.0f,%.0f,%.0f,%.0f,%.0f", cell->int8_macs, cell->f32_macs, cell->attention_macs,
                          cell->attention_int16_macs, cell->bytes);
            append_known(out, ",", 1, cell->machine.int8_macs_per_s / 1e9, "");
            append_known(out, ",", 1, cell->machine.int16_macs_per_s / 1e9, "");
            append_known(out, ",", 1, cell->machine.f32_macs_per_s / 1e9, "");
            append_known(out, ",", 1, cell->machine.tile_macs_per_s / 1e9, "");
            append_known(out, ",", 1, cell->machine.read_bytes_per_s / 1e9, "");
        }
        buffer_text(out, "\n");
    }
}

/* "avx512vnni, 2 threads: int8 470 GMAC/s, int16 235 GMAC/s, f32 118 GMAC/s; reads 1 MiB at 198 GB/s, 16 MiB at …" */
static void write_machine(const struct roofline *roofline, struct buffer *out)
{
    uint32_t threads = pool_workers(roofline->pool);
    buffer_printf(out, "%s, %u thread%s: ", model_kernel(roofline->model)->name, threads, threads == 1 ? "" : "s");
    append_known(out, "int8 ", 0, roofline->int8_macs_per_s / 1e9, "-");
    append_known(out, " GMAC/s, int16 ", 0, roofline->int16_macs_per_s / 1e9, "-");
    append_known(out, " GMAC/s, f32 ", 0, roofline->f32_macs_per_s / 1e9, "-");
    if (roofline->tile_macs_per_s > 0) append_known(out, " GMAC/s, tiles ", 0, roofline->tile_macs_per_s / 1e9, "-");
    buffer_text(out, " GMAC/s; reads");
    for (size_t i = 0; i < ROOFLINE_SIZES; i++)
        buffer_printf(out, "%s %llu MiB at %.1f GB/s", i ? "," : "",
                      (unsigned long long)(roofline->read_bytes[i] >> 20), roofline->read_bytes_per_s[i] / 1e9);
    buffer_text(out, "\n\n");
}

static void write_markdown(const struct bench *bench, struct buffer *out)
{
    bool roofline = bench->options->roofline;
    if (roofline) write_machine(&bench->roofline, out);
    if (bench->depth)
        buffer_printf(out,
                      "~: synthetic depths. The first %u tokens are a text that was computed, the other rows copies of "
                      "its rows, turned to their positions.\n\n",
                      bench->computed);
    buffer_printf(out, "| test | tokens/s | stddev | attention ms |%s\n", roofline ? " limit | share |" : "");
    buffer_printf(out, "|---|---:|---:|---:|%s\n", roofline ? "---:|---:|" : "");
    for (uint32_t i = 0; i < bench->test_count; i++) {
        const struct bench_test *test = &bench->tests[i];
        buffer_printf(out, "| %s | %.2f | %.2f |", test->name, test->mean, test->deviation);
        append_known(out, " ", 2, test->attention_ms, "-");
        buffer_text(out, " |");
        if (roofline) {
            append_known(out, " ", 1, test->cell.limit_tokens_per_s, "-");
            append_known(out, " | ", 1, share(test) * 100, "-");
            buffer_text(out, share(test) > 0 ? " % |" : " |");
        }
        buffer_text(out, "\n");
    }
}

enum status bench_report(const struct bench *bench, enum eval_output output, struct buffer *out, struct error *error)
{
    if (output == EVAL_JSON) return write_json(bench, out, error);
    if (output == EVAL_CSV)
        write_csv(bench, out);
    else
        write_markdown(bench, out);
    return report_done(out, error);
}
