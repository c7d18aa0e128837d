/* roofline.c - measures a machine by loops that do nothing else (kernel/peak.h) and sets a benchmark's work against it.
 *
 * A figure comes from passes of all threads together that take at least MEASURE_S in all. A pass of multiply-adds takes as
 * long as its slowest thread ran, so that other work on the same processors does not count. Memory is read as decoding reads
 * it: each thread its own contiguous part, which it touched first, in huge pages where the machine allows them, round and
 * round, so that a cache keeps of the buffer what it would keep of the weights. */
#include "eval/roofline.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MEASURE_S 0.1
#define PASS_S 2e-3 /* so that starting and ending a pass do not count */
#define PASSES_MIN 3u
#define PASSES_MAX 64u

/* How far ahead a read loop asks for memory: not at all, and what helps one machine or another. The fastest counts. */
static const uint32_t AHEAD_BYTES[] = {0, 2048, 8192};
static const uint64_t SIZES[ROOFLINE_SIZES] = {1u << 20, 16u << 20, 256u << 20};

/* ---- passes ------------------------------------------------------------------------------------------------------ */

/* What all threads do in a pass, `turns` times. */
struct pass {
    const struct kernel *kernel;
    enum kernel_peak peak;
    double *cpu_seconds; /* [threads] of multiply-adds: what each thread ran */
    char *buffer;        /* NULL: multiply and add */
    uint64_t bytes;
    uint32_t ahead;
    uint64_t turns;
};

static void share_of_buffer(const struct pass *pass, uint32_t worker, uint32_t workers, uint64_t *begin, uint64_t *end)
{
    pool_share(pass->bytes, 64, worker, workers, begin, end);
}

static void touch_task(void *data, uint32_t worker, uint32_t workers)
{
    const struct pass *pass = data;
    uint64_t begin, end;
    share_of_buffer(pass, worker, workers, &begin, &end);
    memset(pass->buffer + begin, 1, end - begin);
}

static void pass_task(void *data, uint32_t worker, uint32_t workers)
{
    const struct pass *pass = data;
    if (!pass->buffer) {
        double begin_s = clock_thread_seconds();
        kernel_peak_run(pass->kernel, pass->peak, pass->turns);
        pass->cpu_seconds[worker] = clock_thread_seconds() - begin_s;
        return;
    }
    uint64_t begin, end;
    share_of_buffer(pass, worker, workers, &begin, &end);
    for (uint64_t i = 0; i < pass->turns; i++)
        kernel_read_run(pass->kernel, pass->buffer + begin, end - begin, pass->ahead);
}

static double pass_seconds(struct pool *pool, struct pass *pass)
{
    double begin = clock_seconds();
    pool_run(pool, pass_task, pass);
    if (pass->buffer) return clock_seconds() - begin;
    double slowest = 0;
    for (uint32_t i = 0; i < pool_workers(pool); i++) slowest = fmax(slowest, pass->cpu_seconds[i]);
    return slowest;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Turns per second: of a peak the fastest pass, of reading the median. A pass that is too short doubles all to come, and
 * those before it do not count: they were as short, or disturbed by others. */
static double turns_per_s(struct pool *pool, struct pass *pass)
{
    double seconds[PASSES_MAX], total = 0;
    uint32_t count = 0;
    pass->turns = 1;
    while (count < PASSES_MIN || (total < MEASURE_S && count < PASSES_MAX)) {
        double time = pass_seconds(pool, pass);
        total += time;
        seconds[count++] = time;
        if (time >= PASS_S) continue;
        pass->turns *= 2;
        count = 0;
        total = 0;
    }
    qsort(seconds, count, sizeof *seconds, ascending);
    return (double)pass->turns / seconds[pass->buffer ? count / 2 : 0];
}

/* ---- the machine ------------------------------------------------------------------------------------------------- */

/* Of all threads; of more threads than processors, of as many as can run at a time. */
static double measure_peak(const struct roofline *roofline, enum kernel_peak peak)
{
    const struct kernel *kernel = model_kernel(roofline->model);
    struct pass pass = {.kernel = kernel, .peak = peak, .cpu_seconds = roofline->cpu_seconds};
    uint32_t threads = pool_workers(roofline->pool), processors = cpu_count();
    uint64_t macs = kernel_peak_run(kernel, peak, 1);
    if (!macs) return 0;
    return turns_per_s(roofline->pool, &pass) * (double)macs * (threads < processors ? threads : processors);
}

/* A buffer of `bytes`, or as much of it as half of free memory gives: what is read from memory takes as long a byte. */
static enum status measure_read(const struct roofline *roofline, uint64_t bytes, double *out, struct error *error)
{
    uint64_t most = mem_available_bytes() / 2, page = 4096;
    if (bytes > most) bytes = most;
    struct pass pass = {.kernel = model_kernel(roofline->model), .bytes = round_up(bytes ? bytes : 1, page)};
    pass.buffer = mem_map(pass.bytes);
    if (!pass.buffer)
        return error_set(error, ST_NOMEM, "not enough memory to measure reading %llu bytes",
                         (unsigned long long)pass.bytes);
    pool_run(roofline->pool, touch_task, &pass);
    *out = 0;
    for (size_t i = 0; i < ARRAY_COUNT(AHEAD_BYTES); i++) {
        pass.ahead = AHEAD_BYTES[i];
        double rate = turns_per_s(roofline->pool, &pass) * (double)pass.bytes;
        if (rate > *out) *out = rate;
    }
    mem_unmap(pass.buffer, pass.bytes);
    return ST_OK;
}

enum status roofline_init(struct roofline *roofline, const struct kvasir_model *model, const char *kv_cache_dtype,
                          struct error *error)
{
    *roofline = (struct roofline){.model = engine_model(model)};
    if (!roofline->model)
        return error_set(error, ST_INVALID, "the model was opened for its vocabulary only: there is nothing to bound");
    const struct model_config *config = model_config(roofline->model);
    enum number_format k, v;
    enum status status = engine_kv_formats(kv_cache_dtype, config, &k, &v, error);
    if (status == ST_OK) status = pool_open(engine_threads(model), &roofline->pool, error);
    if (status != ST_OK) return status;
    roofline->layers = mem_zero(config->layers, sizeof *roofline->layers);
    roofline->cpu_seconds = mem_zero(pool_workers(roofline->pool), sizeof *roofline->cpu_seconds);
    if (!roofline->layers || !roofline->cpu_seconds)
        status = error_set(error, ST_NOMEM, "not enough memory for %u layers", config->layers);
    if (status == ST_OK) model_kv_layers(config, k, v, roofline->layers);
    if (status == ST_OK) roofline->int8_macs_per_s = measure_peak(roofline, KERNEL_PEAK_INT8);
    if (status == ST_OK) roofline->int16_macs_per_s = measure_peak(roofline, KERNEL_PEAK_INT16);
    if (status == ST_OK) roofline->f32_macs_per_s = measure_peak(roofline, KERNEL_PEAK_F32);
    if (status == ST_OK) roofline->tile_macs_per_s = measure_peak(roofline, KERNEL_PEAK_TILE);
    for (size_t i = 0; i < ROOFLINE_SIZES && status == ST_OK; i++) {
        roofline->read_bytes[i] = SIZES[i];
        status = measure_read(roofline, SIZES[i], &roofline->read_bytes_per_s[i], error);
    }
    if (status != ST_OK) roofline_release(roofline);
    return status;
}

void roofline_release(struct roofline *roofline)
{
    pool_close(roofline->pool);
    mem_free(roofline->layers);
    mem_free(roofline->cpu_seconds);
    *roofline = (struct roofline){0};
}

/* ---- limits ------------------------------------------------------------------------------------------------------ */

/* The multiply-adds of `tokens` tokens, as those of one. */
static struct roofline_cell arithmetic_of(const struct model_work *work, uint32_t tokens)
{
    return (struct roofline_cell){.int8_macs = (double)work->int8_macs / tokens,
                                  .f32_macs = (double)work->f32_macs / tokens,
                                  .attention_macs = (double)work->attention_macs / tokens,
                                  .attention_int16_macs = (double)work->attention_int16_macs / tokens};
}

void roofline_prefill(const struct roofline *roofline, uint32_t tokens, struct roofline_cell *out)
{
    struct model_work work;
    model_work(roofline->model, roofline->layers, 0, tokens, 1, &work);
    *out = arithmetic_of(&work, tokens);
    out->bytes = (double)work.weight_bytes / tokens;
    out->working_set = work.weight_bytes;
}

void roofline_decode(const struct roofline *roofline, uint32_t depth, uint32_t tokens, struct roofline_cell *out)
{
    struct model_work work; /* of all tokens: their means are a token's, but for the weights, which each reads */
    model_work(roofline->model, roofline->layers, depth, tokens, tokens, &work);
    *out = arithmetic_of(&work, tokens);
    out->decode = true;
    out->bytes = (double)work.weight_bytes + (double)work.kv_bytes / tokens;
    out->working_set = work.weight_bytes + work.kv_bytes / tokens;
}

/* Endless where there are multiply-adds and no peak is known. */
static double seconds_of(double macs, double macs_per_s)
{
    if (macs <= 0) return 0;
    return macs_per_s > 0 ? macs / macs_per_s : INFINITY;
}

double roofline_limit(const struct roofline_cell *cell)
{
    const struct roofline_machine *m = &cell->machine;
    double memory_s = cell->bytes / m->read_bytes_per_s;
    if (cell->decode) return 1 / memory_s;
    double attention_f32_macs = cell->attention_macs - cell->attention_int16_macs;
    double arithmetic_s =
        seconds_of(cell->int8_macs, m->tile_macs_per_s > 0 ? m->tile_macs_per_s : m->int8_macs_per_s) +
        seconds_of(cell->attention_int16_macs, m->int16_macs_per_s) +
        seconds_of(cell->f32_macs + attention_f32_macs, m->f32_macs_per_s);
    return 1 / fmax(arithmetic_s, memory_s); /* 0 of endless */
}

/* The mean of `count` values, and of one more. */
static void add_to_mean(double *mean, uint32_t count, double value)
{
    *mean += (value - *mean) / (count + 1);
}

enum status roofline_measure(const struct roofline *roofline, struct roofline_cell *cell, struct error *error)
{
    double read;
    enum status status = measure_read(roofline, cell->working_set, &read, error);
    if (status != ST_OK) return status;
    add_to_mean(&cell->machine.read_bytes_per_s, cell->measurements, read);
    add_to_mean(&cell->machine.int8_macs_per_s, cell->measurements, measure_peak(roofline, KERNEL_PEAK_INT8));
    add_to_mean(&cell->machine.int16_macs_per_s, cell->measurements, measure_peak(roofline, KERNEL_PEAK_INT16));
    add_to_mean(&cell->machine.f32_macs_per_s, cell->measurements, measure_peak(roofline, KERNEL_PEAK_F32));
    add_to_mean(&cell->machine.tile_macs_per_s, cell->measurements, measure_peak(roofline, KERNEL_PEAK_TILE));
    cell->measurements++;
    cell->limit_tokens_per_s = roofline_limit(cell);
    return ST_OK;
}
