/* forward.c - one pass over a batch of tokens, top to bottom: model_forward() reads as the architecture does.
 *
 * A pass is a chain of phases; within one, the workers of the pool share tokens, rows or units of attention. With a
 * single token each worker prepares its own copy of the row (some hundred nanoseconds) instead of waiting for another
 * to do it. Every number depends on its own token's values only, never on how work was shared (kernel.h,
 * "Determinism"). */
#include "run_internal.h"
#include <math.h>
#include <string.h>

/* ---- preparing rows ---------------------------------------------------------------------------------------------- */

/* Row `token` into `out` (or, when there is nothing to do, the source itself). */
static const float *prepare_row(const struct model_run *run, uint32_t token, bool store_residual, float *out)
{
    const struct model *model = run->model;
    const struct kernel *kernel = model->kernel;
    const struct model_config *c = &model->config;
    const struct preparation *p = &run->preparation;
    const float *source = p->source + (uint64_t)token * p->columns;
    if (p->residual_norm) {
        kernel->rms_norm(run->projected + (uint64_t)token * c->embedding, p->residual_norm, c->norm_eps, c->embedding,
                         out);
        kernel->add(out, run->x + (uint64_t)token * c->embedding, c->embedding);
        if (store_residual) memcpy(run->x_next + (uint64_t)token * c->embedding, out, c->embedding * sizeof *out);
        source = out;
    }
    if (!p->norm) return source;
    kernel->rms_norm(source, p->norm, c->norm_eps, p->columns, out);
    return out;
}

/* Whether a product of this phase has weights that are quantised, or that are not. */
static bool has_weights(const struct model_run *run, bool quantised)
{
    for (uint32_t i = 0; i < run->product_count; i++)
        if (weights_quantised(&run->products[i].linear->weights) == quantised) return true;
    return false;
}

/* What quantising row `token` of `input`, which is columns from `column` on of `to`, lost, as row `row` of `to`. */
static void quantise_residual(const struct model_run *run, const struct kernel_input *input, uint32_t token,
                              const struct kernel_input *to, uint32_t column, uint32_t row, float *residual)
{
    uint32_t lane = row % KERNEL_INPUT_BLOCK;
    struct kernel_input part;
    kernel_input_residual(input, token, residual);
    kernel_input_part(to, row - lane, lane + 1, column, input->columns, residual, 0, &part);
    run->model->kernel->input_prepare(&part, lane, lane + 1);
}

/* Rows [token, token + count) of `input`, whose part `part` begins there, made ready for products, each as its run wants it. */
static void prepare_input(const struct model_run *run, const struct kernel_input *part, uint32_t token, uint32_t count)
{
    const struct kernel *kernel = run->model->kernel;
    for (const struct row_run *r = run->row_runs; r < run->row_runs + run->row_run_count; r++) {
        if (r->end <= token || r->begin >= token + count) continue;
        uint32_t begin = r->begin > token ? r->begin - token : 0;
        uint32_t end = r->end - token < count ? r->end - token : count;
        (r->tiles ? kernel->tile_prepare : kernel->input_prepare)(part, begin, end);
    }
}

/* Where only quants are wanted, a block of four tokens is prepared in the worker's own rows, which stay in its cache:
 * the f32 rows of a long prompt are more bytes than all its quants. */
static void prepare_task(struct model_run *run, uint32_t index, uint32_t workers)
{
    const uint32_t columns = run->preparation.columns;
    const bool quantise = has_weights(run, true), keep = has_weights(run, false);
    uint64_t begin, end;
    uint32_t next = 0; /* of the precise rows, which ascend */
    pool_share(run->tokens, KERNEL_INPUT_BLOCK, index, workers, &begin, &end);
    while (next < run->precise_count && run->precise[next] < begin) next++;
    for (uint32_t t = (uint32_t)begin, count; t < end; t += count) {
        count = end - t < KERNEL_INPUT_BLOCK ? (uint32_t)end - t : KERNEL_INPUT_BLOCK;
        float *rows = keep ? run->prepared + (uint64_t)t * columns : run->workers[index].rows;
        const float *first = prepare_row(run, t, true, rows);
        for (uint32_t i = 1; i < count; i++) prepare_row(run, t + i, true, rows + (uint64_t)i * columns);
        if (!quantise) continue;
        struct kernel_input block;
        kernel_input_part(&run->input, t, count, 0, columns, first, columns, &block);
        prepare_input(run, &block, t, count);
        for (; next < run->precise_count && run->precise[next] < t + count; next++)
            quantise_residual(run, &block, run->precise[next] - t, &run->input, 0, run->tokens + next,
                              run->workers[index].residual);
    }
}

/* ---- products ---------------------------------------------------------------------------------------------------- */

/* Rows [begin, end) of a matrix for all rows of the pass, residuals too. */
static void multiply_runs(const struct model_run *run, const struct kernel_matrix *weights,
                          const struct kernel_input *input, uint32_t begin, uint32_t end,
                          const struct kernel_output *output)
{
    const struct kernel *kernel = run->model->kernel;
    if (!weights_quantised(weights)) {
        kernel->matmul(weights, input, 0, run->tokens, begin, end, output);
        return;
    }
    for (uint32_t i = 0; i < run->row_run_count; i++) {
        const struct row_run *r = &run->row_runs[i];
        (r->tiles ? kernel->tile_matmul : kernel->matmul)(weights, input, r->begin, r->end, begin, end, output);
    }
}

/* Rows [begin, end) of one product for all tokens, with its bias. One that adds has `projected` for scratch. */
static void multiply_rows(const struct model_run *run, const struct product *product, const struct kernel_input *input,
                          uint32_t begin, uint32_t end)
{
    const struct linear *linear = product->linear;
    uint32_t residuals = weights_quantised(&linear->weights) ? run->precise_count : 0;
    struct kernel_output output = {.out = product->add ? run->projected : product->out,
                                   .stride = product->stride,
                                   .bias = linear->bias,
                                   .sum = product->add ? product->out : NULL,
                                   .sum_stride = product->stride,
                                   .tokens = run->tokens};
    multiply_runs(run, &linear->weights, input, begin, end, &output);
    for (uint32_t i = 0; i < residuals; i++)
        run->model->kernel->add(product->out + (uint64_t)run->precise[i] * product->stride + begin,
                                output.out + (uint64_t)(run->tokens + i) * product->stride + begin, end - begin);
}

/* Tiles [begin, end) of 16 rows of all products, which are counted one after the other. */
static void multiply_tiles(const struct model_run *run, const struct kernel_input *input, uint32_t begin, uint32_t end)
{
    for (uint32_t i = 0; i < run->product_count && begin < end; i++) {
        uint32_t rows = run->products[i].linear->weights.rows, own = (rows + 15) / 16;
        if (begin < own) {
            uint32_t last = (end < own ? end : own) * 16;
            multiply_rows(run, &run->products[i], input, begin * 16, last < rows ? last : rows);
        }
        begin = begin > own ? begin - own : 0;
        end = end > own ? end - own : 0;
    }
}

static void multiply(struct model_run *run, const struct kernel_input *input, uint32_t worker, uint32_t workers)
{
    (void)worker;
    uint32_t tiles = 0, begin, end;
    for (uint32_t i = 0; i < run->product_count; i++) tiles += (run->products[i].linear->weights.rows + 15) / 16;
    while (run_take_part(run, tiles, workers, &begin, &end)) multiply_tiles(run, input, begin, end);
}

/* ---- feed-forward ------------------------------------------------------------------------------------------------ */

/* activation(gate) * up of tokens [token, token + count) and columns from `column` on, into `fed`: as quants, unless its
 * product wants the f32 rows. `next` of the precise rows are behind. */
static uint32_t activate(struct model_run *run, struct worker *worker, uint32_t token, uint32_t count, uint32_t column,
                         uint32_t columns, uint32_t next)
{
    const struct kernel *kernel = run->model->kernel;
    const struct model_config *c = &run->model->config;
    bool keep = !weights_quantised(&run->model->layers[run->layer].down.weights);
    uint64_t stride = keep ? c->feed_forward : columns;
    float *rows = keep ? run->activated + token * stride + column : worker->gate + token * stride;
    for (uint32_t i = 0; i < count; i++) {
        uint64_t at = (uint64_t)(token + i) * columns;
        (c->row->activation == ACTIVATION_GELU ? kernel->gelu_mul : kernel->silu_mul)(
            worker->gate + at, worker->up + at, columns, rows + i * stride);
    }
    if (keep) return next;
    struct kernel_input part;
    kernel_input_part(&run->fed, token, count, column, columns, rows, stride, &part);
    prepare_input(run, &part, token, count);
    for (; next < run->precise_count && run->precise[next] < token + count; next++)
        quantise_residual(run, &part, run->precise[next] - token, &run->fed, column, run->tokens + next,
                          worker->residual);
    return next;
}

void run_multiply_columns(const struct model_run *run, const struct linear *linear, const struct kernel_input *input,
                          uint32_t begin, uint32_t end, float *out)
{
    struct linear part = {.bias = linear->bias ? linear->bias + begin : NULL};
    kernel_matrix_rows(&linear->weights, begin, end, &part.weights);
    struct product product = {.linear = &part, .out = out, .stride = end - begin};
    multiply_rows(run, &product, input, 0, end - begin);
}

/* Columns [begin, end) of activation(gate) * up. */
static void feed_columns(struct model_run *run, const struct kernel_input *input, struct worker *worker, uint32_t begin,
                         uint32_t end)
{
    const struct layer *layer = &run->model->layers[run->layer];
    const uint32_t most =
        (uint32_t)(run->feed_floats / (run->tokens + run->precise_count) / FEED_COLUMNS) * FEED_COLUMNS;
    for (uint32_t columns; begin < end; begin += columns) {
        columns = end - begin < most ? end - begin : most;
        run_multiply_columns(run, &layer->gate, input, begin, begin + columns, worker->gate);
        run_multiply_columns(run, &layer->up, input, begin, begin + columns, worker->up);
        for (uint32_t token = 0, count, next = 0; token < run->tokens; token += count) {
            count = run->tokens - token < KERNEL_INPUT_BLOCK ? run->tokens - token : KERNEL_INPUT_BLOCK;
            next = activate(run, worker, token, count, begin, columns, next);
        }
    }
}

static void feed(struct model_run *run, const struct kernel_input *input, uint32_t index, uint32_t workers)
{
    const uint32_t columns = run->model->config.feed_forward, units = (columns + FEED_COLUMNS - 1) / FEED_COLUMNS;
    uint32_t begin, end;
    while (run_take_part(run, units, workers, &begin, &end))
        feed_columns(run, input, &run->workers[index], begin * FEED_COLUMNS,
                     end * FEED_COLUMNS < columns ? end * FEED_COLUMNS : columns);
}

/* ---- phases ------------------------------------------------------------------------------------------------------ */

static void consume_task(struct model_run *run, uint32_t worker, uint32_t workers)
{
    run->consume(run, &run->input, worker, workers);
}

static void multiply_fed_task(struct model_run *run, uint32_t worker, uint32_t workers)
{
    multiply(run, &run->fed, worker, workers);
}

static void prepare_and_consume_task(struct model_run *run, uint32_t index, uint32_t workers)
{
    struct worker *worker = &run->workers[index];
    uint32_t columns = run->preparation.columns;
    const float *row = prepare_row(run, 0, index == 0, worker->rows);
    struct kernel_input input;
    kernel_input_init(&input, worker->input_storage, row, columns, 1 + run->precise_count, columns);
    if (has_weights(run, true)) {
        prepare_input(run, &input, 0, 1);
        if (run->precise_count) quantise_residual(run, &input, 0, &input, 0, 1, worker->residual);
    }
    run->consume(run, &input, index, workers);
}

static void choose_products(struct model_run *run, const struct product *products, uint32_t count)
{
    memcpy(run->products, products, count * sizeof *products);
    run->product_count = count;
}

/* Has prepare(row) of every token consumed: products[i] = linear[i] . prepare(row), or what feed() does with them. */
static void project(struct model_run *run, struct preparation preparation, const struct product *products,
                    uint32_t count, run_consume_fn *consume)
{
    run->preparation = preparation;
    run->consume = consume;
    choose_products(run, products, count);
    if (run->tokens == 1) {
        run_phase(run, prepare_and_consume_task);
    } else {
        bool as_it_is = !preparation.norm && !preparation.residual_norm;
        const float *rows = as_it_is ? preparation.source : run->prepared;
        kernel_input_init(&run->input, run->input_storage, rows, preparation.columns, run->tokens + run->precise_count,
                          preparation.columns);
        run_phase(run, prepare_task);
        run_phase(run, consume_task);
    }
    if (preparation.residual_norm) {
        float *x = run->x;
        run->x = run->x_next;
        run->x_next = x;
    }
}

/* ---- the pass ---------------------------------------------------------------------------------------------------- */

static uint32_t entry_of(const struct model_run *run, uint32_t row, uint32_t *first)
{
    uint32_t e = 0;
    *first = 0;
    while (row - *first >= run->entries[e].count) *first += run->entries[e++].count;
    return e;
}

/* Embedding rows, and the rotations of every position (of both kinds, where sliding layers have their own). */
static void embed_task(struct model_run *run, uint32_t worker, uint32_t workers)
{
    const struct model *model = run->model;
    const struct model_config *c = &model->config;
    uint64_t begin, end, row_bytes = model->embedding->bytes / model->embedding->shape[0];
    uint32_t half = c->rope_dimensions / 2;
    pool_share(run->tokens, 1, worker, workers, &begin, &end);
    for (uint64_t t = begin; t < end; t++) {
        uint32_t first, e = entry_of(run, (uint32_t)t, &first);
        uint32_t token = run->entries[e].tokens[t - first];
        ASSERT(token < c->vocabulary);
        float *x = run->x + t * c->embedding,
              position = (float)(kv_seq_count(run->entries[e].seq) + (uint32_t)t - first);
        number_format_decode(model->embedding->format, (const char *)model->embedding->data + token * row_bytes, x,
                             c->embedding);
        for (uint32_t i = 0; c->embedding_scale != 1.0f && i < c->embedding; i++) x[i] *= c->embedding_scale;
        for (int kind = 0; kind < 2; kind++) {
            const float factor = rope_factor(c, (uint32_t)kind);
            for (uint32_t i = 0; i < half; i++) {
                float angle = position * c->rope_frequencies[kind][i];
                run->cosines[kind][t * half + i] = cosf(angle) * factor;
                run->sines[kind][t * half + i] = sinf(angle) * factor;
            }
        }
    }
}

static void run_layer(struct model_run *run, const float *residual_norm)
{
    const struct model_config *c = &run->model->config;
    const struct layer *layer = &run->model->layers[run->layer];
    const struct product qkv[] = {
        {.linear = &layer->q, .out = run->q, .stride = c->heads * c->head_dim},
        {.linear = &layer->k, .out = run->k, .stride = c->kv_heads * c->head_dim},
        {.linear = &layer->v, .out = run->v, .stride = c->kv_heads * c->value_dim},
    };
    project(
        run,
        (struct preparation){
            .source = run->x, .columns = c->embedding, .norm = layer->attention_norm, .residual_norm = residual_norm},
        qkv, 3, multiply);
    attend_layer(run);
    bool post = c->row->post_norms;
    struct product output = {
        .linear = &layer->output, .out = post ? run->projected : run->x, .stride = c->embedding, .add = !post};
    project(run, (struct preparation){.source = run->attended, .columns = c->heads * c->value_dim}, &output, 1,
            multiply);
    const struct product gate_up[] = {
        {.linear = &layer->gate},
        {.linear = &layer->up},
    };
    kernel_input_init(&run->fed, run->fed_storage, run->activated, c->feed_forward, run->tokens + run->precise_count,
                      c->feed_forward);
    project(run,
            (struct preparation){.source = run->x,
                                 .columns = c->embedding,
                                 .norm = layer->feed_forward_norm,
                                 .residual_norm = layer->post_attention_norm},
            gate_up, 2, feed);
    struct product down = {
        .linear = &layer->down, .out = post ? run->projected : run->x, .stride = c->embedding, .add = !post};
    choose_products(run, &down, 1);
    run_phase(run, multiply_fed_task);
}

/* Rows [begin, end) are in the one arithmetic or the other. */
static void add_run(struct model_run *run, uint32_t begin, uint32_t end, bool tiles)
{
    if (begin == end) return;
    if (run->row_run_count && run->row_runs[run->row_run_count - 1].tiles == tiles)
        run->row_runs[run->row_run_count - 1].end = end;
    else
        run->row_runs[run->row_run_count++] = (struct row_run){.begin = begin, .end = end, .tiles = tiles};
}

void forward_tiled(const struct model_run *run, const struct model_entry *entry, uint32_t *begin, uint32_t *end)
{
    const uint32_t done = kv_seq_count(entry->seq);
    const bool tiles = model_has_tiles(run->model) && run->precise_tokens != UINT32_MAX;
    *begin = done < UNTILED_TOKENS ? UNTILED_TOKENS - done : 0;
    *end = tiles ? entry->count - entry->answered : 0;
    if (*end < *begin) *end = *begin;
}

/* Which rows are multiplied in tiles, and which of the others precisely: tokens at the beginning of their sequences. */
static void choose_arithmetic(struct model_run *run)
{
    run->precise_count = run->row_run_count = 0;
    for (uint32_t e = 0, row = 0; e < run->entry_count; row += run->entries[e++].count) {
        const struct model_entry *entry = &run->entries[e];
        const uint32_t done = kv_seq_count(entry->seq);
        uint32_t begin, end;
        forward_tiled(run, entry, &begin, &end);
        for (uint32_t i = 0; i < entry->count; i++) {
            const bool tiled = i >= begin && i < end;
            add_run(run, row + i, row + i + 1, tiled);
            if (!tiled && done + i < run->precise_tokens) run->precise[run->precise_count++] = row + i;
        }
    }
    add_run(run, run->tokens, run->tokens + run->precise_count, false);
}

/* This worker's share of the hidden rows, out of all tokens' rows. */
static void hidden_task(struct model_run *run, uint32_t worker, uint32_t workers)
{
    uint32_t columns = run->model->config.embedding, total = 0, row = 0;
    uint64_t begin, end, at = 0;
    for (uint32_t e = 0; e < run->entry_count; e++) total += run->entries[e].hidden_count;
    pool_share(total, 1, worker, workers, &begin, &end);
    for (uint32_t e = 0; e < run->entry_count && at < end; e++) {
        const struct model_entry *entry = &run->entries[e];
        row += entry->count;
        for (uint32_t i = entry->hidden_count; i > 0; i--, at++)
            if (at >= begin && at < end) prepare_row(run, row - i, false, run->hidden + at * columns);
    }
}

/* Gathers the rows that want logits to the front of x (and of `projected`, which may still wait to be added). */
static uint32_t gather(struct model_run *run)
{
    uint64_t row_bytes = run->model->config.embedding * sizeof *run->x;
    uint32_t end = 0, count = 0, columns = run->model->config.embedding;
    for (uint32_t e = 0; e < run->entry_count; e++) {
        end += run->entries[e].count;
        for (uint32_t row = end - run->entries[e].logits_count; row < end; row++, count++) {
            if (row == count) continue;
            memcpy(run->x + (uint64_t)count * columns, run->x + (uint64_t)row * columns, row_bytes);
            memcpy(run->projected + (uint64_t)count * columns, run->projected + (uint64_t)row * columns, row_bytes);
        }
    }
    return count;
}

static void softcap_task(struct model_run *run, uint32_t worker, uint32_t workers)
{
    float cap = run->model->config.final_softcap;
    uint64_t begin, end;
    pool_share((uint64_t)run->tokens * run->model->config.vocabulary, 16, worker, workers, &begin, &end);
    for (uint64_t i = begin; i < end; i++) run->logits[i] = cap * tanhf(run->logits[i] / cap);
}

void model_forward(struct model_run *run, const struct model_entry *entries, uint32_t entry_count, const float **logits)
{
    const struct model *model = run->model;
    const struct model_config *c = &model->config;
    uint32_t hidden = 0;
    run->entries = entries;
    run->entry_count = entry_count;
    run->tokens = 0;
    for (uint32_t e = 0; e < entry_count; e++) {
        ASSERT(entries[e].count > 0 && entries[e].logits_count <= entries[e].count);
        ASSERT(entries[e].hidden_count <= entries[e].count && entries[e].answered <= entries[e].count);
        hidden += entries[e].hidden_count;
        ASSERT(kv_seq_count(entries[e].seq) + entries[e].count <= run->context);
        run->tokens += entries[e].count;
    }
    ASSERT(run->tokens > 0 && run->tokens <= run->tokens_max);
    choose_arithmetic(run);
    attend_tiles(run);
    rows_begin(run);
    run_phase(run, embed_task);
    const float *residual_norm = NULL; /* of the layer before: its output still waits in `projected` */
    for (run->layer = 0; run->layer < c->layers; run->layer++) {
        run_layer(run, residual_norm);
        residual_norm = model->layers[run->layer].post_feed_forward_norm;
    }
    const struct preparation last = {
        .source = run->x, .columns = c->embedding, .norm = model->output_norm, .residual_norm = residual_norm};
    run->preparation = last;
    if (hidden) run_phase(run, hidden_task);
    run->tokens = gather(run);
    ASSERT(run->tokens <= run->logits_max);
    run->precise_count = run->tokens;
    run->row_run_count = 0;
    add_run(run, 0, 2 * run->tokens, false);
    for (uint32_t t = 0; t < run->tokens; t++) run->precise[t] = t;
    *logits = run->logits;
    if (!run->tokens) return;
    struct product output = {.linear = &model->output, .out = run->logits, .stride = c->vocabulary};
    project(run, last, &output, 1, logits_multiply);
    if (run->precise_tokens != UINT32_MAX && weights_quantised(&model->output.weights))
        run_phase(run, logits_refine_task);
    if (c->final_softcap > 0) run_phase(run, softcap_task);
}
