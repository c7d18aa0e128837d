/* extend.c - a sequence made longer without computing it (model_run_extend): its new tokens get the rows of another one, each key turned
 * from its own position to the new one.
 *
 * A key was written as R(p) k; R(p' - p) makes it R(p') k. Angles are those that a pass computes in f32 for p and p', so that a copy is
 * what the pass would have written at p'. Rows are read as attention reads them and written as rows.c writes all: a copy loses
 * what its format loses once more. */
#include "run_internal.h"
#include <math.h>

/* The token of `copied` whose row the one at `position` gets; kind: 1 of layers with a window. */
static uint32_t copied_position(const struct model_run *run, uint32_t kind, uint32_t position)
{
    const uint32_t count = kv_seq_count(run->copied), window = run->model->config.window;
    const uint32_t kept = kind && count >= window ? count - window + 1 : 0; /* what the next token would read */
    const uint32_t first = kept > run->copied_begin ? kept : run->copied_begin;
    return first + (position - first) % (count - first);
}

/* The rotations that take copies to their positions. Rope's own factor is in the keys already. */
static void turns_task(struct model_run *run, uint32_t worker, uint32_t workers)
{
    const struct model_config *c = &run->model->config;
    const uint32_t half = c->rope_dimensions / 2;
    uint64_t begin, end;
    pool_share(run->tokens, 1, worker, workers, &begin, &end);
    for (uint64_t t = begin; t < end; t++)
        for (uint32_t kind = 0; kind < 2; kind++) {
            const uint32_t to = kv_seq_count(run->entries[0].seq) + (uint32_t)t, from = copied_position(run, kind, to);
            for (uint32_t i = 0; i < half; i++) {
                const float frequency = c->rope_frequencies[kind][i];
                const float angle_to = (float)to * frequency, angle_from = (float)from * frequency;
                const double angle = (double)angle_to - (double)angle_from;
                run->cosines[kind][t * half + i] = (float)cos(angle);
                run->sines[kind][t * half + i] = (float)sin(angle);
            }
        }
}

/* K and V of one head for row `row` of the pass, which is the token at `position`. */
static void copy_row(const struct model_run *run, const struct tile *tile, uint32_t head, uint32_t row,
                     uint32_t position)
{
    const struct model_config *c = &run->model->config;
    const struct kernel *kernel = run->model->kernel;
    const uint32_t kind = c->sliding[run->layer], half = c->rope_dimensions / 2,
                   from = copied_position(run, kind, position);
    const uint32_t unit = run->treatment.closes ? KERNEL_CLOSED_TOKENS : KERNEL_GROUP_TOKENS;
    float *k = run->k + ((uint64_t)row * c->kv_heads + head) * c->head_dim;
    float *v = run->v + ((uint64_t)row * c->kv_heads + head) * c->value_dim;
    const void *k_groups, *v_groups;
    kv_seq_group_rows(run->copied, run->layer, head, from / unit * unit, &k_groups, &v_groups);
    rows_key(run, tile, head, from, k_groups, from % unit, k);
    kernel->rope(k, run->cosines[kind] + (uint64_t)row * half, run->sines[kind] + (uint64_t)row * half,
                 c->rope_dimensions, c->rope_neighbours);
    kernel_v_row_decode(run->treatment.v_format, v_groups, from % unit, c->value_dim, v);
    if (run->treatment.turn_v) kernel->hadamard(v, c->value_dim); /* it is its own inverse */
}

static void copy_task(struct model_run *run, uint32_t worker, uint32_t workers)
{
    const uint32_t heads = run->model->config.kv_heads;
    uint64_t begin, end;
    pool_share((uint64_t)run->tile_count * heads, 1, worker, workers, &begin, &end);
    for (uint64_t unit = begin; unit < end; unit++) {
        const struct tile *tile = &run->tiles[unit / heads];
        const uint32_t head = (uint32_t)(unit % heads);
        for (uint32_t i = 0; i < tile->count; i++) copy_row(run, tile, head, tile->row + i, tile->position + i);
        rows_write(run, tile, head);
        retrieve_index(run, tile, head, &run->workers[worker]);
    }
}

void model_run_extend(struct model_run *run, struct kv_seq *seq, const struct kv_seq *source, uint32_t begin,
                      uint32_t count)
{
    const struct model_config *c = &run->model->config;
    const struct model_entry entry = {.seq = seq, .count = count};
    const uint32_t copied = kv_seq_count(source);
    ASSERT(count > 0 && count <= run->tokens_max && kv_seq_count(seq) + count <= run->context);
    ASSERT(copied % KERNEL_CLOSED_TOKENS == 0 && begin < copied && copied <= kv_seq_count(seq) && c->window != 1);
    run->entries = &entry;
    run->entry_count = 1;
    run->tokens = count;
    run->copied = source;
    run->copied_begin = begin;
    attend_tiles(run);
    rows_begin(run);
    run_phase(run, turns_task);
    for (run->layer = 0; run->layer < c->layers; run->layer++) {
        rows_treatment(run, &run->treatment);
        run_phase(run, copy_task);
        for (uint32_t head = 0; head < c->kv_heads; head++)
            rows_leave_open(run, &run->tiles[run->tile_count - 1], head);
    }
    run->entries = NULL;
}
