/* attend.c - one layer's attention for a batch: rows.c makes q, k and v ready and writes the cache, here queries are held
 * against it.
 *
 * Work is cut into units that do not depend on the number of threads: (tile of tokens, KV head), and, where a single
 * token looks back over more than one segment, (tile, KV head, segment), whose states are folded in ascending order. So
 * the bits are the same however the units are handed out. */
#include "run_internal.h"
#include <string.h>

/* The kernels' view of one tile and KV head; reach and formats as the cache has them. */
static void describe(const struct model_run *run, const struct tile *tile, uint32_t head, struct kernel_attend *out)
{
    const struct model_config *c = &run->model->config;
    const struct kv_seq *seq = run->entries[tile->entry].seq;
    const struct kv_reach reach = kv_seq_reach(seq, run->layer, head);
    uint32_t group = c->heads / c->kv_heads;
    struct row_treatment treatment;
    rows_treatment(run, seq, &treatment);
    *out = (struct kernel_attend){
        .head_dim = c->head_dim,
        .value_dim = c->value_dim,
        .group = group,
        .tokens = tile->count,
        .position = tile->position,
        .window = reach.window,
        .sinks = reach.sinks,
        .scale = c->attention_scale,
        .softcap = c->attention_softcap,
        .q = run->q + (uint64_t)tile->row * c->heads * c->head_dim + (uint64_t)head * group * c->head_dim,
        .q_token_stride = (uint64_t)c->heads * c->head_dim,
        .out = run->attended + (uint64_t)tile->row * c->heads * c->value_dim + (uint64_t)head * group * c->value_dim,
        .out_token_stride = (uint64_t)c->heads * c->value_dim,
    };
    kv_seq_formats(seq, run->layer, &out->k_format, &out->v_format);
    struct kernel_offset *offset = &out->offset;
    offset->group_dims = rows_group_dims(c);
    offset->key_dims = 2 * rows_fast_pairs(c, c->sliding[run->layer]);
    if (!treatment.offset) return;
    const uint32_t dims = offset->group_dims + offset->key_dims;
    offset->q = run->offset_q + ((uint64_t)tile->row * c->heads + (uint64_t)head * group) * dims;
    offset->q_token_stride = (uint64_t)c->heads * dims;
    offset->keys = run->key_table[c->sliding[run->layer]];
    offset->groups = run->offset_table[c->sliding[run->layer]];
}

static struct kernel_attend shape_of(const struct model_run *run, uint32_t tokens)
{
    const struct model_config *c = &run->model->config;
    return (struct kernel_attend){.head_dim = c->head_dim,
                                  .value_dim = c->value_dim,
                                  .group = c->heads / c->kv_heads,
                                  .tokens = tokens,
                                  .offset.group_dims = rows_group_dims(c),
                                  .offset.key_dims = KERNEL_OFFSET_KEY_DIMS};
}

uint64_t attend_state_floats(const struct model_run *run, uint32_t tokens)
{
    struct kernel_attend attend = shape_of(run, tokens);
    return round_up(kernel_attend_state_floats(&attend), 16);
}

uint64_t attend_scratch_floats(const struct model_run *run)
{
    struct kernel_attend attend = shape_of(run, TILE_TOKENS);
    return round_up(kernel_attend_scratch_floats(&attend), 16);
}

/* The first segment in which a query of the tile sees a key, of any head of the layer. */
static uint32_t first_segment(const struct model_run *run, const struct tile *tile)
{
    uint32_t first = UINT32_MAX;
    for (uint32_t head = 0; head < run->model->config.kv_heads; head++) {
        const struct kv_reach reach = kv_seq_reach(run->entries[tile->entry].seq, run->layer, head);
        bool passed = reach.window && !reach.sinks && tile->position >= reach.window;
        uint32_t begin = passed ? (tile->position - reach.window + 1) / KERNEL_SEGMENT_TOKENS : 0;
        if (begin < first) first = begin;
    }
    return first;
}

static uint32_t end_segment(const struct tile *tile)
{
    return (tile->position + tile->count - 1) / KERNEL_SEGMENT_TOKENS + 1;
}

/* A tile lies within one group of positions: whatever the chunk, the same tokens share a group that closes. */
_Static_assert(TILE_TOKENS == KERNEL_CLOSED_TOKENS, "the tokens of a tile see the same closed groups");

void attend_tiles(struct model_run *run)
{
    run->tile_count = 0;
    uint32_t row = 0;
    for (uint32_t e = 0; e < run->entry_count; e++) {
        const struct model_entry *entry = &run->entries[e];
        for (uint32_t first = 0, count; first < entry->count; first += count, row += count) {
            uint32_t position = kv_seq_count(entry->seq) + first, room = TILE_TOKENS - position % TILE_TOKENS;
            count = entry->count - first < room ? entry->count - first : room;
            run->tiles[run->tile_count++] =
                (struct tile){.entry = e, .first = first, .count = count, .row = row, .position = position};
        }
    }
}

/* ---- attend ------------------------------------------------------------------------------------------------------ */

static bool closes(const struct model_run *run, const struct tile *tile)
{
    struct row_treatment treatment;
    rows_treatment(run, run->entries[tile->entry].seq, &treatment);
    return treatment.closes;
}

/* First position of the closing group that the tile lies in. */
static uint32_t open_begin(const struct tile *tile)
{
    return tile->position / KERNEL_CLOSED_TOKENS * KERNEL_CLOSED_TOKENS;
}

/* What the cache holds of segments [begin, end), for one tile and head, into `state`. */
static void attend_cached(struct model_run *run, const struct tile *tile, uint32_t head, uint32_t begin, uint32_t end,
                          float *state, struct worker *worker, struct kernel_attend *attend)
{
    const struct kv_seq *seq = run->entries[tile->entry].seq;
    describe(run, tile, head, attend);
    uint32_t from = begin * KERNEL_SEGMENT_TOKENS, to = tile->position + tile->count;
    if (end * KERNEL_SEGMENT_TOKENS < to) to = end * KERNEL_SEGMENT_TOKENS;
    if (attend->window && !attend->sinks && tile->position >= attend->window &&
        tile->position - attend->window + 1 > from)
        from = tile->position - attend->window + 1;
    if (closes(run, tile)) {
        attend->key_end = open_begin(tile);
        if (attend->key_end < to) to = attend->key_end;
        if (attend->key_end == 0) end = begin; /* nothing is closed yet */
    }
    attend->spans = worker->spans;
    attend->span_count = from < to ? kv_seq_spans(seq, run->layer, head, from, to, worker->spans) : 0;
    run->model->kernel->attend(attend, begin, end, state, worker->scratch);
}

/* The exact keys of the group that the tile lies in; their V rows are in the cache like all others. */
static void attend_open(struct model_run *run, const struct tile *tile, uint32_t head, float *state,
                        struct worker *worker)
{
    const struct kv_seq *seq = run->entries[tile->entry].seq;
    struct kernel_attend attend;
    struct kernel_span span;
    uint32_t begin = open_begin(tile), end = tile->position + tile->count, segment = begin / KERNEL_SEGMENT_TOKENS;
    describe(run, tile, head, &attend);
    attend.k_format = NF_F16;
    attend.key_begin = begin;
    attend.span_count = kv_seq_spans(seq, run->layer, head, begin, end, &span);
    ASSERT(attend.span_count == 1);
    uint64_t groups = (begin - span.position) / KERNEL_GROUP_TOKENS;
    span = (struct kernel_span){.k = rows_exact(run, tile, head),
                                .v = (const char *)span.v +
                                     groups * kernel_v_group_bytes(attend.v_format, attend.value_dim),
                                .position = begin,
                                .count = end - begin};
    attend.spans = &span;
    run->model->kernel->attend(&attend, segment, segment + 1, state, worker->scratch);
}

static uint64_t take_unit(struct model_run *run)
{
    return __atomic_fetch_add(&run->next_unit, 1, __ATOMIC_RELAXED);
}

/* Whole tiles, latest first: they see the most keys, and the small ones fill the gaps at the end. */
static void tile_task(struct model_run *run, uint32_t index, uint32_t workers)
{
    (void)workers;
    const struct kernel *kernel = run->model->kernel;
    struct worker *worker = &run->workers[index];
    uint64_t heads = run->model->config.kv_heads, units = run->tile_count * heads;
    for (uint64_t unit = take_unit(run); unit < units; unit = take_unit(run)) {
        const struct tile *tile = &run->tiles[run->tile_count - 1 - unit / heads];
        uint32_t head = (uint32_t)(unit % heads);
        struct kernel_attend attend;
        attend_cached(run, tile, head, first_segment(run, tile), end_segment(tile), worker->state, worker, &attend);
        if (closes(run, tile)) {
            attend_open(run, tile, head, worker->open_state, worker);
            kernel->attend_fold(&attend, worker->state, worker->open_state);
        }
        kernel->attend_finish(&attend, worker->state);
        rows_finish(run, tile, head);
    }
}

/* The parts of a tile whose states are folded in this order: its segments, and what is open. */
static uint32_t part_count(const struct model_run *run, const struct tile *tile)
{
    return end_segment(tile) - first_segment(run, tile) + closes(run, tile);
}

/* State of one part of one tile and head. */
static float *split_state(const struct model_run *run, const struct tile *tile, uint32_t head, uint32_t part)
{
    uint64_t index = ((uint64_t)(tile->first_state + part)) * run->model->config.kv_heads + head;
    return run->states + index * attend_state_floats(run, 1);
}

/* All tiles are single tokens: (part, head) units, each with a state of its own. */
static void segment_task(struct model_run *run, uint32_t index, uint32_t workers)
{
    (void)workers;
    struct worker *worker = &run->workers[index];
    uint32_t heads = run->model->config.kv_heads;
    uint64_t units = (uint64_t)run->split_segments * heads;
    for (uint64_t unit = take_unit(run); unit < units; unit = take_unit(run)) {
        uint32_t place = (uint32_t)(unit / heads), head = (uint32_t)(unit % heads), t = run->tile_count - 1;
        while (run->tiles[t].first_state > place) t--;
        const struct tile *tile = &run->tiles[t];
        uint32_t part = place - tile->first_state, segment = first_segment(run, tile) + part;
        float *state = split_state(run, tile, head, part);
        struct kernel_attend attend;
        if (segment < end_segment(tile))
            attend_cached(run, tile, head, segment, segment + 1, state, worker, &attend);
        else
            attend_open(run, tile, head, state, worker);
    }
}

static void fold_task(struct model_run *run, uint32_t index, uint32_t workers)
{
    const struct kernel *kernel = run->model->kernel;
    uint64_t begin, end, heads = run->model->config.kv_heads;
    pool_share(run->tile_count * heads, 1, index, workers, &begin, &end);
    for (uint64_t unit = begin; unit < end; unit++) {
        const struct tile *tile = &run->tiles[unit / heads];
        uint32_t head = (uint32_t)(unit % heads), parts = part_count(run, tile);
        struct kernel_attend attend;
        describe(run, tile, head, &attend);
        float *state = split_state(run, tile, head, 0);
        for (uint32_t p = 1; p < parts; p++) kernel->attend_fold(&attend, state, split_state(run, tile, head, p));
        kernel->attend_finish(&attend, state);
        rows_finish(run, tile, head);
    }
}

/* Whether splitting pays: only single tokens, and one of them sees more than one segment. Sets the states' places. */
static bool plan_split(struct model_run *run)
{
    bool several = false;
    run->split_segments = 0;
    for (uint32_t t = 0; t < run->tile_count; t++) {
        struct tile *tile = &run->tiles[t];
        if (tile->count != 1) return false;
        tile->first_state = run->split_segments;
        several |= end_segment(tile) - first_segment(run, tile) > 1;
        run->split_segments += part_count(run, tile);
    }
    return several;
}

void attend_layer(struct model_run *run)
{
    run_phase(run, rows_write_task);
    run->next_unit = 0;
    if (plan_split(run)) {
        run_phase(run, segment_task);
        run_phase(run, fold_task);
    } else {
        run_phase(run, tile_task);
    }
}
