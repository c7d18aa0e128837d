/* cost.c - how long a pass will take, so that a chunk of a prompt can be as large as its time allows.
 *
 *   seconds = fixed + unit * units
 *   units   = sum over tokens of 1 + keys_before * key_units, and logits_units for each row of logits
 *
 * What a unit contains follows from the model's multiply-adds. The two times are measured: `unit` by passes over much work,
 * `fixed` (reading and unpacking weights) by those over little. Old measurements fade, so that both follow the machine's load. */
#include "engine/engine_internal.h"
#include <math.h>

#define MUCH_WORK 48.0 /* units of a pass whose time is mostly arithmetic */
#define PEAK_RUNS 5u
#define PEAK_TURNS 100000u
#define FADE 0.2 /* weight of the newest measurement */
/* Attention's multiply-adds against those of matrices, by time: it computes in 16 bits, with softmax between. */
#define ATTENTION_WEIGHT 2.0

void cost_init(struct cost *cost, const struct model *model, const struct kv_layer *layers)
{
    struct model_work empty, deep, logits;
    model_work(model, layers, 0, 1, 0, &empty);
    model_work(model, layers, 1024, 1, 0, &deep);
    model_work(model, layers, 0, 1, 1, &logits);
    double token = (double)(empty.int8_macs + 4 * empty.f32_macs);
    double with_logits = (double)(logits.int8_macs + 4 * logits.f32_macs);
    *cost = (struct cost){.key_units =
                              ATTENTION_WEIGHT * (double)(deep.attention_macs - empty.attention_macs) / 1024 / token,
                          .logits_units = with_logits / token - 1};
}

double cost_unit_least_s(const struct model *model, const struct kv_layer *layers, uint32_t threads)
{
    struct model_work work;
    double rate = 0; /* multiply-adds a second, of one thread */
    model_work(model, layers, 0, 1, 0, &work);
    for (uint32_t i = 0; i < PEAK_RUNS; i++) {
        double began = clock_seconds();
        uint64_t macs = kernel_peak_run(model_kernel(model), KERNEL_PEAK_INT8, PEAK_TURNS);
        double seconds = clock_seconds() - began;
        if (macs && seconds > 0 && (double)macs / seconds > rate) rate = (double)macs / seconds;
    }
    return rate > 0 ? (double)(work.int8_macs + 4 * work.f32_macs) / (rate * threads) : 0;
}

double cost_units(const struct cost *cost, uint32_t depth, uint32_t count)
{
    return count + cost->key_units * count * (depth + 0.5 * count);
}

uint32_t cost_tokens(const struct cost *cost, double units, uint32_t depth)
{
    double linear = 1 + cost->key_units * depth, square = 0.5 * cost->key_units;
    if (!(units > 0)) return 0;
    /* square * n^2 + linear * n = units, in the form that also holds for square = 0 */
    double tokens = 2 * units / (linear + sqrt(linear * linear + 4 * square * units));
    return tokens < 1e9 ? (uint32_t)tokens : 1000000000u;
}

double cost_seconds(const struct cost *cost, double units)
{
    return cost->fixed_s + cost->unit_s * units;
}

double cost_rows_seconds(const struct cost *cost, uint32_t rows)
{
    uint32_t known = rows < COST_ROWS ? rows : COST_ROWS;
    while (known && cost->rows_s[known] == 0) known--;
    return cost->rows_s[known] + cost->unit_s * (1 + cost->logits_units) * (rows - known) + (known ? 0 : cost->fixed_s);
}

static void fade(double *value, double newest)
{
    *value = *value > 0 ? *value + FADE * (newest - *value) : newest;
}

void cost_measure(struct cost *cost, double units, double seconds)
{
    if (units >= MUCH_WORK) {
        double rest = seconds - cost->fixed_s;
        fade(&cost->unit_s, (rest > seconds / 2 ? rest : seconds / 2) / units);
    } else if (cost->unit_s > 0) {
        double rest = seconds - cost->unit_s * units;
        fade(&cost->fixed_s, rest > 0 ? rest : 0);
    }
}

void cost_measure_rows(struct cost *cost, uint32_t rows, double seconds)
{
    if (rows <= COST_ROWS) fade(&cost->rows_s[rows], seconds);
}
