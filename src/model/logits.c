/* logits.c - the last product of a pass, by far its largest: the whole vocabulary from one int8 row a token, then the
 * second int8 row (what the first one lost, kernel_input_residual) for the tokens of the vocabulary that matter.
 *
 * Those are the REFINED_TILES tiles of 16 that hold the greatest of the row's first logits, ties by lowest: so the best
 * REFINED_TILES tokens are among them, and which they are follows from the row alone. The sum of exponentials under a
 * softmax takes the others as they are: there errors of many small terms cancel. With model_run_precise() and with few
 * tiles nothing is left out. */
#include "run_internal.h"
#include <string.h>

/* Against transformers (golden tests) the mean difference of the ten best log-probabilities is the same with 16, 32 and 64
 * tiles as with all; with 8 it is 5 % larger. */
#define REFINED_TILES 32u

struct candidate {
    float top; /* greatest first logit of the tile */
    uint32_t tile;
};

static uint32_t tile_count(const struct model_run *run)
{
    return (run->model->config.vocabulary + 15) / 16;
}

static float top_of(const float *logits, uint32_t count)
{
    float tops[8];
    if (count < 16) {
        float top = logits[0];
        for (uint32_t i = 1; i < count; i++) top = logits[i] > top ? logits[i] : top;
        return top;
    }
    for (uint32_t i = 0; i < 8; i++) tops[i] = logits[i] > logits[i + 8] ? logits[i] : logits[i + 8];
    for (uint32_t i = 0; i < 4; i++) tops[i] = tops[i] > tops[i + 4] ? tops[i] : tops[i + 4];
    for (uint32_t i = 0; i < 2; i++) tops[i] = tops[i] > tops[i + 2] ? tops[i] : tops[i + 2];
    return tops[0] > tops[1] ? tops[0] : tops[1];
}

/* All of a precise run's logits in rows [begin, end) of the matrix, some columns at a time through the worker's memory. */
static void multiply_precisely(struct model_run *run, const struct kernel_input *input, struct worker *worker,
                               uint32_t begin, uint32_t end)
{
    const struct linear *output = &run->model->output;
    for (uint32_t columns; begin < end; begin += columns) {
        columns = end - begin < FEED_COLUMNS ? end - begin : FEED_COLUMNS;
        run_multiply_columns(run, output, input, begin, begin + columns, worker->gate);
        for (uint32_t t = 0; t < run->tokens; t++)
            memcpy(run->logits + (uint64_t)t * output->weights.rows + begin, worker->gate + (uint64_t)t * columns,
                   columns * sizeof *worker->gate);
    }
}

/* All logits in rows [begin, end) of the matrix, and the greatest of each tile. */
static void multiply_once(struct model_run *run, const struct kernel_input *input, uint32_t begin, uint32_t end)
{
    const struct linear *linear = &run->model->output;
    const uint32_t vocabulary = linear->weights.rows;
    struct kernel_output output = {
        .out = run->logits, .stride = vocabulary, .bias = linear->bias, .tokens = run->tokens};
    run->model->kernel->matmul(&linear->weights, input, 0, run->tokens, begin, end, &output);
    for (uint32_t t = 0; t < run->tokens; t++)
        for (uint32_t row = begin; row < end; row += 16)
            run->tops[(uint64_t)t * tile_count(run) + row / 16] =
                top_of(run->logits + (uint64_t)t * vocabulary + row, end - row < 16 ? end - row : 16);
}

void logits_multiply(struct model_run *run, const struct kernel_input *input, uint32_t index, uint32_t workers)
{
    const uint32_t vocabulary = run->model->output.weights.rows;
    uint32_t begin, end;
    run->workers[index].input = *input;
    while (run_take_part(run, tile_count(run), workers, &begin, &end)) {
        const uint32_t last = end * 16 < vocabulary ? end * 16 : vocabulary;
        if (run->precise_tokens == UINT32_MAX)
            multiply_precisely(run, input, &run->workers[index], begin * 16, last);
        else
            multiply_once(run, input, begin * 16, last);
    }
}

static bool before(struct candidate a, struct candidate b)
{
    return a.top > b.top || (a.top == b.top && a.tile < b.tile);
}

/* The best tiles of one row, best first; how many. */
static uint32_t choose(const float *tops, uint32_t tiles, struct candidate best[REFINED_TILES])
{
    uint32_t count = 0;
    for (uint32_t tile = 0; tile < tiles; tile++) {
        const struct candidate one = {.top = tops[tile], .tile = tile};
        if (count == REFINED_TILES && !before(one, best[count - 1])) continue;
        uint32_t at = count < REFINED_TILES ? count++ : count - 1;
        for (; at > 0 && before(one, best[at - 1]); at--) best[at] = best[at - 1];
        best[at] = one;
    }
    return count;
}

/* Adds the second row's products of one tile to token `token`'s logits. */
static void refine_tile(struct model_run *run, const struct kernel_input *input, uint32_t token, uint32_t tile)
{
    const struct kernel_matrix *weights = &run->model->output.weights;
    const uint32_t row = run->tokens + token, lane = row % KERNEL_INPUT_BLOCK, begin = tile * 16;
    const uint32_t rows = weights->rows - begin < 16 ? weights->rows - begin : 16;
    _Alignas(64) float products[KERNEL_INPUT_BLOCK][16];
    struct kernel_input part;
    struct kernel_matrix part_weights;
    kernel_input_part(input, row - lane, lane + 1, 0, input->columns, input->rows, input->stride, &part);
    kernel_matrix_rows(weights, begin, begin + rows, &part_weights);
    const struct kernel_output output = {.out = products[0], .stride = 16, .tokens = KERNEL_INPUT_BLOCK};
    run->model->kernel->matmul(&part_weights, &part, lane, lane + 1, 0, rows, &output);
    run->model->kernel->add(run->logits + (uint64_t)token * weights->rows + begin, products[lane], rows);
}

void logits_refine_task(struct model_run *run, uint32_t index, uint32_t workers)
{
    const uint32_t tiles = tile_count(run), most = tiles < REFINED_TILES ? tiles : REFINED_TILES;
    uint64_t begin, end;
    pool_share((uint64_t)run->tokens * most, 1, index, workers, &begin, &end);
    while (begin < end) {
        struct candidate best[REFINED_TILES];
        uint32_t token = (uint32_t)(begin / most);
        uint64_t next = (uint64_t)(token + 1) * most < end ? (uint64_t)(token + 1) * most : end;
        choose(run->tops + (uint64_t)token * tiles, tiles, best);
        for (; begin < next; begin++) refine_tile(run, &run->workers[index].input, token, best[begin % most].tile);
    }
}
