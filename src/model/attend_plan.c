/* attend_plan.c - which work there is in a layer's attention, and which sequences do some of it together.
 *
 * - A tile is one unit; where all tiles are single tokens and one of them looks back over more than one segment, segments are,
 *   so that a few long sequences keep all threads busy.
 * - Tiles whose sequences begin with the same blocks share the reading of these: each segment is a unit of all their queries, and
 *   what is left of the last one is each tile's own again. Keys are read and converted once for all, and the kernels' tiles of
 *   query rows are full (Juravsky et al., "Hydragen", arXiv:2402.05099, for the idea; here each query's numbers are those that it
 *   has alone, since its softmax state is left and resumed where the kernel folds it anyway).
 *
 * How work is cut is no part of any number, so it may follow from what runs together. */
#include "attend_internal.h"
#include <string.h>

/* Query rows (token, head) of a share: enough to pay for the conversion of keys, and few enough that a prefix of one segment gives
 * work to several threads. */
#define SHARE_ROWS 48u
/* Keys for which a second call is worth while. */
#define SHARE_KEYS 64u

static uint32_t share_tokens_max(const struct model_config *c)
{
    uint32_t tokens = SHARE_ROWS / (c->heads / c->kv_heads);
    if (tokens < 2) tokens = 2;
    return tokens < TILE_TOKENS ? tokens : TILE_TOKENS;
}

static const struct kv_seq *seq_of(const struct model_run *run, uint32_t tile)
{
    return run->entries[run->tiles[tile].entry].seq;
}

/* ---- shares ------------------------------------------------------------------------------------------------------ */

/* Keys from 0 on that all of the tile's queries see, closed ones. */
static uint32_t keys_seen(const struct attend_plan *plan, const struct tile *tile)
{
    if (plan->reach.window && tile->position + tile->count > plan->reach.window) return 0;
    uint32_t keys = plan->closes ? open_begin(tile) : tile->position;
    return keys / plan->unit * plan->unit;
}

/* Order of tiles: of one arithmetic, then of sequences that begin alike. `shared`: positions that they have in common. */
static int tile_compare(const struct model_run *run, uint32_t a, uint32_t b, uint32_t head, uint32_t *shared)
{
    const int kind = tile_is_brief(&run->tiles[a]) - tile_is_brief(&run->tiles[b]);
    *shared = 0;
    return kind ? kind : kv_seq_compare(seq_of(run, a), seq_of(run, b), run->layer, head, shared);
}

/* The tiles that might share, sorted so that those that can are neighbours; returns how many there are. */
static uint32_t sort_tiles(const struct model_run *run, const struct attend_plan *plan, uint32_t head)
{
    const uint32_t tokens_max = share_tokens_max(&run->model->config);
    uint32_t count = 0, shared;
    for (uint32_t t = 0; t < run->tile_count; t++) {
        uint32_t low = 0, high = count;
        if (plan->tiles[t].retrieves || tile_is_mixed(&run->tiles[t])) continue;
        if (run->tiles[t].count >= tokens_max || keys_seen(plan, &run->tiles[t]) < SHARE_KEYS) continue;
        while (low < high) {
            uint32_t middle = low + (high - low) / 2;
            if (tile_compare(run, t, plan->order[middle], head, &shared) < 0)
                high = middle;
            else
                low = middle + 1;
        }
        memmove(plan->order + low + 1, plan->order + low, (count++ - low) * sizeof *plan->order);
        plan->order[low] = t;
    }
    return count;
}

/* Adds a tile, which shares `shared` positions with the one before it, if no fewer keys are saved from being read again. */
static bool share_add(const struct model_run *run, const struct attend_plan *plan, struct share *share, uint32_t tile,
                      uint32_t shared)
{
    uint32_t keys = keys_seen(plan, &run->tiles[tile]), saved = (share->count - 1) * share->keys;
    if (shared / plan->unit * plan->unit < keys) keys = shared / plan->unit * plan->unit;
    if (share->keys < keys) keys = share->keys;
    if (share->tokens + run->tiles[tile].count > share_tokens_max(&run->model->config) || keys < SHARE_KEYS ||
        (uint64_t)share->count * keys < saved)
        return false;
    share->tokens += run->tiles[tile].count;
    share->keys = keys;
    share->count++;
    return true;
}

static void find_shares(const struct model_run *run, struct attend_plan *plan, uint32_t head)
{
    const uint32_t count = sort_tiles(run, plan, head);
    plan->share_count = 0;
    for (uint32_t first = 0, next; first < count; first = next) {
        const struct tile *tile = &run->tiles[plan->order[first]];
        struct share share = {.first = first, .count = 1, .tokens = tile->count, .keys = keys_seen(plan, tile)};
        for (next = first + 1; next < count; next++) {
            uint32_t shared;
            tile_compare(run, plan->order[next - 1], plan->order[next], head, &shared);
            if (!share_add(run, plan, &share, plan->order[next], shared)) break;
        }
        if (share.count > 1) plan->shares[plan->share_count++] = share;
    }
}

/* ---- work -------------------------------------------------------------------------------------------------------- */

/* The segments in which the tile's queries see keys that it does not share. */
static void own_segments(const struct model_run *run, const struct attend_plan *plan, const struct tile *tile,
                         struct tile_plan *own)
{
    if (own->retrieves) {
        own->end = (retrieve_groups_max(run, tile) + KERNEL_SEGMENT_GROUPS - 1) / KERNEL_SEGMENT_GROUPS;
        return;
    }
    const struct kv_reach *reach = &plan->reach;
    bool passed = reach->window && !reach->sinks && tile->position >= reach->window;
    own->begin = passed ? (tile->position - reach->window + 1) / KERNEL_SEGMENT_TOKENS : 0;
    own->end = (tile->position + tile->count - 1) / KERNEL_SEGMENT_TOKENS + 1;
    if (own->share != SHARE_NONE) own->begin = share_segments(&plan->shares[own->share]);
}

/* Whether tiles that share nothing are split by segments: only single tokens, and one of them sees more than one. */
static bool splits(const struct model_run *run, const struct attend_plan *plan)
{
    bool several = false;
    for (uint32_t t = 0; t < run->tile_count; t++) {
        if (run->tiles[t].count != 1) return false;
        several |= plan->tiles[t].end > plan->tiles[t].begin + 1;
    }
    return several;
}

static void add_place(struct attend_plan *plan, enum place_kind kind, uint32_t index, uint32_t segment)
{
    plan->places[plan->place_count++] = (struct place){.kind = kind, .index = index, .segment = segment, .tiles = 1};
}

/* What tiles share comes first: it is the largest, and no tile that is whole waits for it. */
static uint64_t add_shared(const struct model_run *run, struct attend_plan *plan, uint64_t state)
{
    for (uint32_t s = 0; s < plan->share_count; s++) {
        struct share *share = &plan->shares[s];
        uint32_t token = 0;
        for (uint32_t i = 0; i < share->count; i++) {
            struct tile_plan *own = &plan->tiles[plan->order[share->first + i]];
            own->share = s;
            own->token = token;
            token += run->tiles[plan->order[share->first + i]].count;
        }
        share->state = state;
        state += share_segments(share) * attend_state_floats(run, share->tokens);
        for (uint32_t i = 0; i < share_segments(share); i++) add_place(plan, PLACE_SHARED, s, i);
    }
    return state;
}

/* Tiles that may go in one call: no more than leave every worker some. */
static uint32_t strip_tiles(const struct model_run *run)
{
    const uint32_t units = run->tile_count * run->model->config.kv_heads / (4 * pool_workers(run->pool));
    return units < 1 ? 1 : units < STRIP_TILES ? units : STRIP_TILES;
}

/* Whether tile `t` and the one after it may go in one call: of one prompt, whose K has no group that is still open. */
static bool strip_joins(const struct model_run *run, const struct attend_plan *plan, uint32_t t)
{
    return !plan->closes && run->tiles[t].entry == run->tiles[t + 1].entry && tile_is_brief(&run->tiles[t]) &&
           tile_is_brief(&run->tiles[t + 1]);
}

/* Later tiles come first: they see the most keys, and the small ones fill the gaps at the end. */
static void add_own(const struct model_run *run, struct attend_plan *plan, uint64_t state)
{
    const bool split = splits(run, plan);
    const uint32_t strip = strip_tiles(run);
    for (uint32_t t = run->tile_count; t-- > 0;) {
        struct tile_plan *own = &plan->tiles[t];
        own->whole = !split && own->share == SHARE_NONE && !own->retrieves;
        if (own->whole) {
            struct place *after = plan->place_count ? &plan->places[plan->place_count - 1] : NULL;
            if (after && after->kind == PLACE_TILE && after->index == t + 1 && after->tiles < strip &&
                strip_joins(run, plan, t)) {
                after->index = t;
                after->tiles++;
            } else {
                add_place(plan, PLACE_TILE, t, 0);
            }
            continue;
        }
        plan->folded[plan->folded_count++] = t;
        own->state = state;
        for (uint32_t i = own->begin; i < own->end; i++)
            add_place(plan, own->retrieves ? PLACE_CHOSEN : PLACE_SEGMENT, t, i);
        if (plan->closes) add_place(plan, PLACE_OPEN, t, 0);
        state += (own->end - own->begin + plan->closes) * attend_state_floats(run, run->tiles[t].count);
    }
}

static void plan_fill(const struct model_run *run, struct attend_plan *plan, uint32_t head)
{
    for (uint32_t t = 0; t < run->tile_count; t++)
        plan->tiles[t] = (struct tile_plan){.share = SHARE_NONE, .retrieves = retrieves(run, &run->tiles[t], head)};
    find_shares(run, plan, head);
    plan->place_count = plan->folded_count = 0;
    uint64_t state = add_shared(run, plan, 0);
    for (uint32_t t = 0; t < run->tile_count; t++) own_segments(run, plan, &run->tiles[t], &plan->tiles[t]);
    add_own(run, plan, state);
}

struct attend_plan *attend_plan(struct model_run *run, uint32_t head)
{
    const struct kv_seq *seq = run->entries[0].seq;
    const struct row_treatment *rows = &run->treatment;
    const uint32_t group = kv_seq_group(seq, run->layer, head), stamp = run->layer + 1;
    const struct kv_reach reach = kv_seq_reach(seq, run->layer, head);
    const uint32_t unit = run->model->kernel->attend_unit(rows->k_format, rows->v_format);
    struct attend_plan *oldest = &run->plans[0];
    uint32_t retrieving = 0;
    for (uint32_t t = 0; t < run->tile_count; t++) retrieving += retrieves(run, &run->tiles[t], head);
    for (uint32_t i = 0; i < run->plan_count; i++) {
        struct attend_plan *plan = &run->plans[i];
        if (plan->stamp && plan->group == group && plan->reach.window == reach.window &&
            plan->reach.sinks == reach.sinks && plan->closes == rows->closes && plan->retrieving == retrieving &&
            plan->unit == unit) {
            plan->stamp = stamp;
            return plan;
        }
        if (plan->stamp < oldest->stamp)
            oldest = plan; /* there are more plans than heads: no head of this layer has it */
    }
    oldest->group = group;
    oldest->reach = reach;
    oldest->closes = rows->closes;
    oldest->retrieving = retrieving;
    oldest->unit = unit;
    oldest->stamp = stamp;
    plan_fill(run, oldest, head);
    return oldest;
}
