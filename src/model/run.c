/* run.c - the life of a pass's working memory. It is taken as address space for the largest pass and becomes real as
 * passes use it, so a small one costs little. */
#include "attend_internal.h"
#include <string.h>

/* Of a worker's even share of the units that are left, so much is taken at a time, and of few tokens no less than so many
 * units times tokens: taking costs some hundred nanoseconds. */
#define PART_SHARE 0.6
#define PART_TOKENS 8u

static void phase_task(void *data, uint32_t worker, uint32_t workers)
{
    struct model_run *run = data;
    run->task(run, worker, workers);
}

void run_phase(struct model_run *run, void (*task)(struct model_run *, uint32_t, uint32_t))
{
    run->task = task;
    run->next_unit = 0;
    pool_run(run->pool, phase_task, run);
}

uint32_t run_take_unit(struct model_run *run)
{
    return __atomic_fetch_add(&run->next_unit, 1, __ATOMIC_RELAXED);
}

bool run_take_part(struct model_run *run, uint32_t units, uint32_t workers, uint32_t *begin, uint32_t *end)
{
    uint32_t least = 1 + PART_TOKENS / run->tokens;
    *begin = __atomic_load_n(&run->next_unit, __ATOMIC_RELAXED);
    do {
        if (*begin >= units) return false;
        uint32_t left = units - *begin, part = workers == 1 ? left : (uint32_t)(left * PART_SHARE / workers);
        *end = *begin + (part > least ? part : left < least ? left : least);
    } while (!__atomic_compare_exchange_n(&run->next_unit, begin, *end, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
    return true;
}

/* NULL once memory ran out: the caller asks `failed` at the end. */
static void *take(struct model_run *run, uint64_t count, uint64_t size, bool *failed)
{
    uint64_t bytes;
    ASSERT(run->block_count < ARRAY_COUNT(run->blocks));
    void *memory = !*failed && checked_mul(count, size, &bytes) && bytes ? mem_map_reserve(bytes) : NULL;
    if (!memory)
        *failed = true;
    else
        run->blocks[run->block_count++] = (struct run_block){.memory = memory, .bytes = bytes};
    return memory;
}

static uint32_t most(uint32_t a, uint32_t b)
{
    return a > b ? a : b;
}

/* Room for the least columns of all tokens, or what is good for the cache. */
static uint64_t feed_floats(const struct model_run *run)
{
    uint64_t least = 2 * (uint64_t)run->tokens_max * FEED_COLUMNS;
    return least > FEED_FLOATS ? least : FEED_FLOATS;
}

static void take_workers(struct model_run *run, uint32_t workers, bool *failed)
{
    uint64_t spans = (uint64_t)run->context / KERNEL_GROUP_TOKENS + 2; /* no block is smaller than a group */
    uint64_t state = attend_state_floats(run, attend_strip_tokens(run)), scratch = attend_scratch_floats(run);
    uint64_t input = round_up(kernel_input_bytes(2, run->widest), 64);
    run->workers = mem_zero(workers, sizeof *run->workers);
    if (!run->workers) *failed = true;
    /* One page-aligned block each, so that no two workers write to one cache line. */
    uint64_t row_bytes = round_up(KERNEL_INPUT_BLOCK * run->widest * sizeof(float), 64),
             residual_bytes = round_up(run->widest * sizeof(float), 64), feed_bytes = run->feed_floats * sizeof(float),
             state_bytes = round_up(state * sizeof(float), 64);
    uint64_t scratch_bytes = round_up(scratch * sizeof(float), 64);
    uint64_t query_bytes = round_up(attend_query_floats(run) * sizeof(float), 64);
    const struct kernel_index index = {.group = run->model->config.heads / run->model->config.kv_heads,
                                       .head_dim = run->model->config.head_dim};
    const uint64_t stride = retrieve_stride(run);
    uint64_t promise_bytes =
        round_up((stride + kernel_index_scratch_floats(&index, (uint32_t)stride)) * sizeof(float), 64);
    uint64_t bytes =
        round_up(row_bytes + residual_bytes + 2 * feed_bytes + 2 * state_bytes + scratch_bytes + query_bytes +
                     promise_bytes + input + spans * sizeof(struct kernel_span) + stride * sizeof(void *),
                 4096);
    unsigned char *memory = take(run, workers, bytes, failed);
    for (uint32_t i = 0; !*failed && i < workers; i++) {
        unsigned char *own = memory + i * bytes;
        run->workers[i].rows = (float *)(void *)own;
        run->workers[i].residual = (float *)(void *)(own += row_bytes);
        run->workers[i].gate = (float *)(void *)(own += residual_bytes);
        run->workers[i].up = (float *)(void *)(own += feed_bytes);
        run->workers[i].state = (float *)(void *)(own += feed_bytes);
        run->workers[i].open_state = (float *)(void *)(own += state_bytes);
        run->workers[i].scratch = (float *)(void *)(own += state_bytes);
        run->workers[i].queries = (float *)(void *)(own += scratch_bytes);
        run->workers[i].promises = (float *)(void *)(own += query_bytes);
        run->workers[i].input_storage = own += promise_bytes;
        run->workers[i].spans = (struct kernel_span *)(void *)(own += input);
        run->workers[i].entries = (const void **)(void *)(own + spans * sizeof(struct kernel_span));
    }
}

/* For all layers of a model with one or two kinds of them, and for any layer, whose heads may each be of its own kind. */
static void take_plans(struct model_run *run, bool *failed)
{
    const uint32_t heads = run->model->config.kv_heads, count = run->plan_count = heads + 1;
    const uint64_t tokens = run->tokens_max, places = tokens * (run->segments_max + 1);
    run->plans = take(run, count, sizeof *run->plans, failed);
    run->head_plans = take(run, heads, sizeof *run->head_plans, failed);
    struct tile_plan *tiles = take(run, count * tokens, sizeof *tiles, failed);
    struct share *shares = take(run, count * tokens, sizeof *shares, failed);
    struct place *all_places = take(run, count * places, sizeof *all_places, failed);
    uint32_t *lists = take(run, 2 * count * tokens, sizeof *lists, failed);
    for (uint32_t i = 0; i < count && !*failed; i++)
        run->plans[i] = (struct attend_plan){.tiles = tiles + i * tokens,
                                             .shares = shares + i * tokens,
                                             .places = all_places + i * places,
                                             .order = lists + 2 * i * tokens,
                                             .folded = lists + (2 * i + 1) * tokens};
}

enum status model_run_open(const struct model *model, struct pool *pool, uint32_t tokens_max, uint32_t logits_max,
                           uint32_t context, struct model_run **out, struct error *error)
{
    *out = NULL;
    ASSERT(tokens_max > 0 && logits_max > 0 && context > 0);
    struct model_run *run = mem_aligned(64, sizeof *run);
    if (!run) return error_set(error, ST_NOMEM, "not enough memory to run a model");
    memset(run, 0, sizeof *run);
    const struct model_config *c = &model->config;
    run->model = model;
    run->pool = pool;
    run->tokens_max = tokens_max;
    run->logits_max = logits_max;
    run->context = context;
    run->precise_tokens = PRECISE_TOKENS;
    run->segments_max = (context - 1) / KERNEL_SEGMENT_TOKENS + 1;
    run->widest = most(most(c->embedding, c->feed_forward), c->heads * c->value_dim);
    uint64_t n = 2 * (uint64_t)tokens_max, half = c->rope_dimensions / 2;
    run->feed_floats = feed_floats(run);
    bool failed = false;
    run->x = take(run, n * c->embedding, sizeof(float), &failed);
    run->x_next = take(run, n * c->embedding, sizeof(float), &failed);
    run->projected = take(run, n * c->embedding, sizeof(float), &failed);
    run->prepared = take(run, (uint64_t)tokens_max * c->embedding, sizeof(float), &failed);
    run->hidden = take(run, (uint64_t)tokens_max * c->embedding, sizeof(float), &failed);
    run->q = take(run, n * c->heads * c->head_dim, sizeof(float), &failed);
    run->k = take(run, n * c->kv_heads * c->head_dim, sizeof(float), &failed);
    run->v = take(run, n * c->kv_heads * c->value_dim, sizeof(float), &failed);
    run->attended = take(run, (uint64_t)tokens_max * c->heads * c->value_dim, sizeof(float), &failed);
    run->activated = take(run, (uint64_t)tokens_max * c->feed_forward, sizeof(float), &failed);
    for (int kind = 0; kind < 2; kind++) {
        run->cosines[kind] = take(run, n * half, sizeof(float), &failed);
        run->sines[kind] = take(run, n * half, sizeof(float), &failed);
    }
    run->input_storage = take(run, kernel_input_bytes(2 * tokens_max, run->widest), 1, &failed);
    run->fed_storage = take(run, kernel_input_bytes(2 * tokens_max, c->feed_forward), 1, &failed);
    run->states = take(run, (uint64_t)tokens_max * c->kv_heads * (run->segments_max + 1),
                       attend_state_floats(run, 1) * sizeof(float), &failed);
    run->logits = take(run, (uint64_t)logits_max * c->vocabulary, sizeof(float), &failed);
    run->tops = take(run, (uint64_t)logits_max * ((c->vocabulary + 15) / 16), sizeof(float), &failed);
    run->precise = take(run, tokens_max, sizeof *run->precise, &failed);
    run->row_runs = take(run, (uint64_t)tokens_max + 1, sizeof *run->row_runs, &failed);
    run->bias = take(run, (uint64_t)tokens_max * c->kv_heads * c->head_dim, sizeof(float), &failed);
    run->offset_q = take(run, (uint64_t)tokens_max * c->heads * (rows_group_dims(c) + KERNEL_OFFSET_KEY_DIMS),
                         sizeof(float), &failed);
    run->offset_basis = take(run, (uint64_t)c->kv_heads * (rows_group_dims(c) + KERNEL_OFFSET_KEY_DIMS) * c->head_dim,
                             sizeof(float), &failed);
    for (int kind = 0; kind < 2; kind++) {
        uint64_t segments = run->segments_max;
        run->offset_table[kind] =
            take(run, segments * KERNEL_SEGMENT_GROUPS * rows_group_dims(c), sizeof(float), &failed);
        run->offset_rows[kind] =
            take(run, segments * KERNEL_SEGMENT_GROUPS * rows_group_dims(c), sizeof(float), &failed);
        run->key_table[kind] =
            take(run, segments * KERNEL_SEGMENT_TOKENS * KERNEL_OFFSET_KEY_DIMS, sizeof(float), &failed);
    }
    run->exact = take(run, (uint64_t)tokens_max * c->kv_heads, kernel_k_exact_bytes(c->head_dim), &failed);
    run->tiles = take(run, tokens_max, sizeof *run->tiles, &failed); /* at worst every token is an entry of its own */
    run->chosen = take(run, (uint64_t)tokens_max * c->kv_heads, sizeof *run->chosen, &failed);
    run->chosen_groups =
        take(run, (uint64_t)tokens_max * c->kv_heads * retrieve_stride(run), sizeof *run->chosen_groups, &failed);
    take_plans(run, &failed);
    take_workers(run, pool_workers(pool), &failed);
    if (failed) {
        model_run_close(run);
        return error_set(error, ST_NOMEM, "not enough memory for passes of %u tokens and a context of %u", tokens_max,
                         context);
    }
    *out = run;
    return ST_OK;
}

void model_run_precise(struct model_run *run)
{
    run->precise_tokens = UINT32_MAX;
}

const float *model_run_hidden(const struct model_run *run)
{
    return run->hidden;
}

void model_run_close(struct model_run *run)
{
    if (!run) return;
    for (uint32_t i = 0; i < run->block_count; i++) mem_unmap(run->blocks[i].memory, run->blocks[i].bytes);
    mem_free(run->workers);
    mem_free(run);
}
