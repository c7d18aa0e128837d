/* attend.c - one layer's attention for a batch: rows.c makes q, k and v ready and writes the cache, here queries are held
 * against it.
 *
 * attend_plan.c cuts the work. Softmax states of segments are folded in ascending order, whoever computed them, so the bits
 * are the same however the units are cut and handed out. */
#include "attend_internal.h"
#include <string.h>

/* What the kernels are told of one KV head, whatever the queries. */
static void describe(const struct model_run *run, uint32_t head, struct kernel_attend *out)
{
    const struct model_config *c = &run->model->config;
    const struct row_treatment *rows = &run->treatment;
    const struct kv_reach *reach = &run->head_plans[head]->reach;
    *out = (struct kernel_attend){
        .k_format = rows->k_format,
        .v_format = rows->v_format,
        .head_dim = c->head_dim,
        .value_dim = c->value_dim,
        .group = c->heads / c->kv_heads,
        .window = reach->window,
        .sinks = reach->sinks,
        .scale = c->attention_scale,
        .softcap = c->attention_softcap,
        .offset = {.group_dims = rows->group_dims, .key_dims = 2 * rows->fast_pairs},
    };
    if (!rows->offset) return;
    out->offset.keys = run->key_table[c->sliding[run->layer]];
    out->offset.groups = run->offset_table[c->sliding[run->layer]];
    out->offset.rows = run->offset_rows[c->sliding[run->layer]];
    out->offset.basis = run->offset_basis + (uint64_t)head * rows_offset_dims(run) * c->head_dim;
}

void attend_describe(const struct model_run *run, const struct tile *tile, uint32_t head, struct kernel_attend *out)
{
    const struct model_config *c = &run->model->config;
    describe(run, head, out);
    const uint64_t row = (uint64_t)tile->row * c->heads + (uint64_t)head * out->group;
    out->tokens = tile->count;
    out->position = tile->position;
    out->brief = tile_is_brief(tile);
    out->q = run->q + row * c->head_dim;
    out->q_token_stride = (uint64_t)c->heads * c->head_dim;
    out->out = run->attended + row * c->value_dim;
    out->out_token_stride = (uint64_t)c->heads * c->value_dim;
    if (!run->treatment.offset) return;
    out->offset.q = run->offset_q + row * rows_offset_dims(run);
    out->offset.q_token_stride = (uint64_t)c->heads * rows_offset_dims(run);
}

/* Rows of `floats` floats of all the share's tokens from `rows`, which has `stride` floats a token, side by side. */
static void gather(const struct model_run *run, const struct attend_plan *plan, const struct share *share,
                   const float *rows, uint64_t stride, uint64_t floats, float *out)
{
    for (uint32_t i = 0; i < share->count; i++) {
        const struct tile *tile = &run->tiles[plan->order[share->first + i]];
        for (uint32_t t = 0; t < tile->count; t++, out += floats)
            memcpy(out, rows + (tile->row + t) * stride, floats * sizeof *out);
    }
}

/* All queries of a share, of one KV head: wherever they stand, they see all the keys that are shared. */
static void describe_share(const struct model_run *run, const struct share *share, uint32_t head, struct worker *worker,
                           struct kernel_attend *out)
{
    const struct model_config *c = &run->model->config;
    const struct attend_plan *plan = run->head_plans[head];
    describe(run, head, out);
    out->window = out->sinks = 0;
    out->tokens = share->tokens;
    out->position = out->key_end = share->keys;
    out->brief = tile_is_brief(&run->tiles[plan->order[share->first]]);
    out->q = worker->queries;
    out->q_token_stride = (uint64_t)out->group * c->head_dim;
    gather(run, plan, share, run->q + head * out->q_token_stride, (uint64_t)c->heads * c->head_dim, out->q_token_stride,
           worker->queries);
    if (!run->treatment.offset) return;
    float *offset_q = worker->queries + TILE_TOKENS * out->q_token_stride;
    out->offset.q = offset_q;
    out->offset.q_token_stride = (uint64_t)out->group * rows_offset_dims(run);
    gather(run, plan, share, run->offset_q + head * out->offset.q_token_stride,
           (uint64_t)c->heads * rows_offset_dims(run), out->offset.q_token_stride, offset_q);
}

/* ---- sizes ------------------------------------------------------------------------------------------------------- */

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

uint32_t attend_strip_tokens(const struct model_run *run)
{
    return TILE_TOKENS * (model_has_tiles(run->model) ? STRIP_TILES : 1);
}

uint64_t attend_scratch_floats(const struct model_run *run)
{
    struct kernel_attend attend = shape_of(run, attend_strip_tokens(run));
    return round_up(kernel_attend_scratch_floats(&attend), 16);
}

uint64_t attend_query_floats(const struct model_run *run)
{
    struct kernel_attend attend = shape_of(run, TILE_TOKENS);
    uint64_t row = attend.head_dim + attend.offset.group_dims + attend.offset.key_dims;
    return TILE_TOKENS * attend.group * row;
}

/* ---- tiles ------------------------------------------------------------------------------------------------------- */

/* A tile lies within one group of positions: whatever the chunk, the same tokens share a group that closes. */
_Static_assert(TILE_TOKENS == KERNEL_CLOSED_TOKENS, "the tokens of a tile see the same closed groups");

/* Token `index` of an entry counted from a tile's first, as far as it is in the tile. */
static uint32_t within(uint32_t index, uint32_t first, uint32_t count)
{
    return index <= first ? 0 : index - first < count ? index - first : count;
}

void attend_tiles(struct model_run *run)
{
    run->tile_count = 0;
    for (uint32_t i = 0; i < run->plan_count; i++) run->plans[i].stamp = 0;
    uint32_t row = 0;
    for (uint32_t e = 0; e < run->entry_count; e++) {
        const struct model_entry *entry = &run->entries[e];
        uint32_t begin, end;
        forward_tiled(run, entry, &begin, &end);
        for (uint32_t first = 0, count; first < entry->count; first += count, row += count) {
            uint32_t position = kv_seq_count(entry->seq) + first, room = TILE_TOKENS - position % TILE_TOKENS;
            count = entry->count - first < room ? entry->count - first : room;
            run->tiles[run->tile_count++] = (struct tile){.entry = e,
                                                          .first = first,
                                                          .count = count,
                                                          .row = row,
                                                          .position = position,
                                                          .brief_begin = within(begin, first, count),
                                                          .brief_end = within(end, first, count)};
        }
    }
}

/* ---- calls of the kernel ----------------------------------------------------------------------------------------- */

/* Queries [first, end) of the tile that `attend` describes. */
static void attend_some(const struct model_run *run, const struct kernel_attend *attend, uint32_t first, uint32_t end,
                        bool brief, uint32_t segment_begin, uint32_t segment_end, float *state, struct worker *worker)
{
    struct kernel_attend some = *attend;
    if (first >= end) return;
    some.brief = brief;
    some.tokens = end - first;
    some.position += first;
    some.q += first * some.q_token_stride;
    if (some.offset.q) some.offset.q += first * some.offset.q_token_stride;
    state += first * (uint64_t)some.group * (2 + (uint64_t)some.value_dim);
    run->model->kernel->attend(&some, segment_begin, segment_end, state, worker->scratch);
}

/* All queries of the tile, those that are multiplied in tiles and the others apart. */
static void attend_queries(const struct model_run *run, const struct tile *tile, const struct kernel_attend *attend,
                           uint32_t segment_begin, uint32_t segment_end, float *state, struct worker *worker)
{
    const uint32_t bounds[] = {0, tile->brief_begin, tile->brief_end, tile->count};
    for (uint32_t i = 0; i < 3; i++)
        attend_some(run, attend, bounds[i], bounds[i + 1], i == 1, segment_begin, segment_end, state, worker);
}

/* What the cache holds of segments [begin, end), for one tile and head, into `state`; key_from > 0: going on with the state of
 * keys before it. */
static void attend_cached(const struct model_run *run, const struct tile *tile, uint32_t head, uint32_t begin,
                          uint32_t end, uint32_t key_from, float *state, struct worker *worker)
{
    const struct kv_seq *seq = run->entries[tile->entry].seq;
    struct kernel_attend attend;
    attend_describe(run, tile, head, &attend);
    uint32_t from = begin * KERNEL_SEGMENT_TOKENS, to = tile->position + tile->count;
    if (end * KERNEL_SEGMENT_TOKENS < to) to = end * KERNEL_SEGMENT_TOKENS;
    if (attend.window && !attend.sinks && tile->position >= attend.window && tile->position - attend.window + 1 > from)
        from = tile->position - attend.window + 1;
    if (run->treatment.closes) {
        attend.key_end = open_begin(tile);
        if (attend.key_end < to) to = attend.key_end;
        if (attend.key_end == 0) end = begin; /* nothing is closed yet */
    }
    if (key_from) {
        if (key_from >= to) return;
        from = attend.key_begin = key_from;
        attend.resume = true;
    }
    attend.spans = worker->spans;
    attend.span_count = from < to ? kv_seq_spans(seq, run->layer, head, from, to, worker->spans) : 0;
    attend_queries(run, tile, &attend, begin, end, state, worker);
}

/* The exact keys of the group that the tile lies in; their V rows are in the cache like all others. */
static void attend_open(const struct model_run *run, const struct tile *tile, uint32_t head, float *state,
                        struct worker *worker)
{
    const struct kv_seq *seq = run->entries[tile->entry].seq;
    struct kernel_attend attend;
    struct kernel_span span;
    uint32_t begin = open_begin(tile), end = tile->position + tile->count, segment = begin / KERNEL_SEGMENT_TOKENS;
    attend_describe(run, tile, head, &attend);
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
    attend_queries(run, tile, &attend, segment, segment + 1, state, worker);
}

/* The keys of one segment that are shared, for all queries of the share. */
static void attend_shared(const struct model_run *run, const struct share *share, uint32_t head, uint32_t segment,
                          float *state, struct worker *worker)
{
    const struct tile *tile = &run->tiles[run->head_plans[head]->order[share->first]];
    struct kernel_attend attend;
    uint32_t from = segment * KERNEL_SEGMENT_TOKENS, to = from + KERNEL_SEGMENT_TOKENS;
    if (share->keys < to) to = share->keys;
    describe_share(run, share, head, worker, &attend);
    attend.spans = worker->spans;
    attend.span_count = kv_seq_spans(run->entries[tile->entry].seq, run->layer, head, from, to, worker->spans);
    run->model->kernel->attend(&attend, segment, segment + 1, state, worker->scratch);
}

/* ---- units ------------------------------------------------------------------------------------------------------- */

static float *head_states(const struct model_run *run, uint32_t head)
{
    return run->states + (uint64_t)head * run->tokens_max * (run->segments_max + 1) * attend_state_floats(run, 1);
}

static float *shared_state(const struct model_run *run, const struct share *share, uint32_t head, uint32_t segment)
{
    return head_states(run, head) + share->state + segment * attend_state_floats(run, share->tokens);
}

/* State `part` of a tile's own: of its segments from own->begin on, then of the open group. */
static float *own_state(const struct model_run *run, uint32_t tile, uint32_t head, uint32_t part)
{
    return head_states(run, head) + run->head_plans[head]->tiles[tile].state +
           part * attend_state_floats(run, run->tiles[tile].count);
}

/* `count` tiles side by side, all keys that they see. */
static void attend_whole(const struct model_run *run, uint32_t first, uint32_t count, uint32_t head,
                         struct worker *worker)
{
    const struct tile_plan *own = &run->head_plans[head]->tiles[first];
    struct tile strip = run->tiles[first];
    struct kernel_attend attend;
    for (uint32_t t = first + 1; t < first + count; t++) strip.count += run->tiles[t].count;
    if (count > 1) strip.brief_end = strip.count; /* strip_joins */
    attend_cached(run, &strip, head, own[0].begin, own[count - 1].end, 0, worker->state, worker);
    attend_describe(run, &strip, head, &attend);
    if (run->treatment.closes) {
        attend_open(run, &run->tiles[first], head, worker->open_state, worker);
        run->model->kernel->attend_fold(&attend, worker->state, worker->open_state);
    }
    run->model->kernel->attend_finish(&attend, worker->state);
    for (uint32_t t = first; t < first + count; t++) rows_finish(run, &run->tiles[t], head);
}

static void attend_place(const struct model_run *run, const struct place *place, uint32_t head, struct worker *worker)
{
    const struct attend_plan *plan = run->head_plans[head];
    const uint32_t i = place->index, segment = place->segment;
    struct kernel_attend attend;
    switch (place->kind) {
    case PLACE_SHARED:
        attend_shared(run, &plan->shares[i], head, segment, shared_state(run, &plan->shares[i], head, segment), worker);
        return;
    case PLACE_TILE:
        attend_whole(run, i, place->tiles, head, worker);
        return;
    case PLACE_SEGMENT:
        attend_cached(run, &run->tiles[i], head, segment, segment + 1, 0,
                      own_state(run, i, head, segment - plan->tiles[i].begin), worker);
        return;
    case PLACE_CHOSEN:
        attend_describe(run, &run->tiles[i], head, &attend);
        retrieve_attend(run, &run->tiles[i], head, segment, &attend, own_state(run, i, head, segment), worker);
        return;
    case PLACE_OPEN:
        attend_open(run, &run->tiles[i], head, own_state(run, i, head, plan->tiles[i].end - plan->tiles[i].begin),
                    worker);
        return;
    }
}

/* All states of a tile, in ascending order, into the first one. Of the segment that a share has begun, the rest is its own. */
static void fold_tile(const struct model_run *run, uint32_t index, uint32_t head, struct worker *worker)
{
    const struct kernel *kernel = run->model->kernel;
    const struct tile *tile = &run->tiles[index];
    const struct attend_plan *plan = run->head_plans[head];
    const struct tile_plan *own = &plan->tiles[index];
    const uint32_t parts = own->end - own->begin + run->treatment.closes;
    struct kernel_attend attend;
    attend_describe(run, tile, head, &attend);
    float *state = NULL;
    if (own->share != SHARE_NONE) {
        const struct share *share = &plan->shares[own->share];
        const uint64_t row = own->token * (uint64_t)attend.group * (2 + (uint64_t)attend.value_dim);
        for (uint32_t i = 0; i < share_segments(share); i++) {
            float *next = shared_state(run, share, head, i) + row;
            if (share->keys < (i + 1) * KERNEL_SEGMENT_TOKENS)
                attend_cached(run, tile, head, i, i + 1, share->keys, next, worker);
            if (state)
                kernel->attend_fold(&attend, state, next);
            else
                state = next;
        }
    }
    for (uint32_t part = 0; part < parts; part++) {
        if (state)
            kernel->attend_fold(&attend, state, own_state(run, index, head, part));
        else
            state = own_state(run, index, head, part);
    }
    kernel->attend_finish(&attend, state);
    rows_finish(run, tile, head);
}

static void place_task(struct model_run *run, uint32_t index, uint32_t workers)
{
    (void)workers;
    uint32_t unit = run_take_unit(run);
    for (uint32_t head = 0, first = 0; head < run->model->config.kv_heads; head++) {
        const struct attend_plan *plan = run->head_plans[head];
        for (; unit - first < plan->place_count; unit = run_take_unit(run))
            attend_place(run, &plan->places[unit - first], head, &run->workers[index]);
        first += plan->place_count;
    }
}

static void fold_task(struct model_run *run, uint32_t index, uint32_t workers)
{
    (void)workers;
    uint32_t unit = run_take_unit(run);
    for (uint32_t head = 0, first = 0; head < run->model->config.kv_heads; head++) {
        const struct attend_plan *plan = run->head_plans[head];
        for (; unit - first < plan->folded_count; unit = run_take_unit(run))
            fold_tile(run, plan->folded[unit - first], head, &run->workers[index]);
        first += plan->folded_count;
    }
}

void attend_layer(struct model_run *run)
{
    const double began = clock_seconds();
    bool folds = false;
    rows_treatment(run, &run->treatment);
    run_phase(run, rows_write_task);
    for (uint32_t head = 0; head < run->model->config.kv_heads; head++) {
        run->head_plans[head] = attend_plan(run, head);
        folds |= run->head_plans[head]->folded_count > 0;
    }
    run_phase(run, place_task);
    if (folds) run_phase(run, fold_task);
    run->tally.attention_s += clock_seconds() - began;
}
