/* scheduler.c - who runs in the next step, and with how many tokens.
 *
 *            scheduler_add          admit: kv_seq_open + reserve            scheduler_remove: ended, cancelled
 *   caller ────────────────▶ waiting ──────────────────────────▶ running ──────────────────────────────────────▶ gone
 *                               ▲     preempt: swapped out, or closed │
 *                               └─────────────────────────────────────┘
 *
 * Order. Requests of a lower priority number come first; waiting counts for one priority every aging_s, so that none starves.
 * Within one, those that have run before come first, then those of the tenant that was served least, then the oldest.
 *
 * Plan. Every running request that decodes gets its token. What time is left (prefill_units) goes to prompts: the first gets all
 * of it if that ends it or nobody else wants some, else half, and the rest goes to those with the least left to do, so that a
 * long prompt holds up neither answers nor short prompts. Then waiting requests are admitted, best first; the first that
 * has no room ends it, so that large ones are not overtaken for ever.
 *
 * Blocks. A request is admitted if the blocks of all its tokens are free beside what the running ones are about to need. When
 * blocks run out all the same, the worst running request gives up its own (the lowest priority, then the youngest): they are
 * swapped out where the tier has room and that is measured to be cheaper, else computed again, from the prompt and the tokens it
 * had. Either way it goes on as if nothing had happened: its rows are the same, its random stream is its own. Rows on their
 * way in or out (kv_swap_poll) hold up nobody but those who need their blocks. One request alone always fits (plan.c).
 *
 * Retrieval attention. Tokens from request.sparse_from on run one a step, as answers do, also when they are computed again: their rows
 * depend on how they were run. Such a request is swapped out whenever there is room for it.
 *
 * Tiles. Where prompts are multiplied in tiles (kernel.tile_matmul) an answer's rows are its sequence's own as well (request.own_from):
 * in a prompt the same tokens would have other bits. settle.c caches it as a prompt when it has ended.
 *
 * Pauses. A request whose reader is slow (scheduler_pause) is not planned. It keeps its place and its blocks, so that to go on costs
 * nothing, until another request wants them: it gives way before all others, whatever its priority.
 *
 * Prefixes. A request whose prompt begins like one that is being computed waits for those blocks rather than compute them too; and
 * while it is sooner done so, for what the tiers below RAM have of it (prefetch.c).
 *
 * Whatever fails for lack of memory fails with every request as it was, or waiting: the step can be tried again. Knows nothing
 * of models, clocks or texts; the simulator (tests/sim) drives it with its own. */
#include "engine/engine_internal.h"
#include <math.h>
#include <string.h>

#define PREFILL_SHARE 1.2 /* of the time that a step's answers take, for each prompt that waits */
#define WANTING_MAX 8u    /* of these prompts that count: with more, steps become no longer */
#define FIRST_UNITS 64.0  /* of prompts beside answers, before anything was measured */
#define PROMPT_WEIGHT 1.0 /* of what a tenant was served: a prompt's token, an answer's (the paper's) */
#define ANSWER_WEIGHT 2.0
#define HEADROOM_BLOCKS 2u /* that a running request is counted to need beside its tokens */

/* ---- tenants ----------------------------------------------------------------------------------------------------- */

static uint32_t find_tenant(const struct scheduler *s, uint64_t id)
{
    uint32_t free = UINT32_MAX;
    for (uint32_t i = 0; i < s->tenant_count; i++) {
        const struct tenant *t = &s->tenants[i];
        if (t->id == id) return i;
        if (t->requests == 0 && t->served <= s->served_floor) free = i; /* would be raised to it: nothing to remember */
    }
    return free == UINT32_MAX ? s->tenant_count : free;
}

static enum status tenant_enter(struct scheduler *s, struct request *r)
{
    uint32_t place = find_tenant(s, r->tenant_id);
    if (place == s->tenant_capacity) {
        uint32_t capacity = s->tenant_capacity ? 2 * s->tenant_capacity : 16;
        struct tenant *tenants = mem_resize(s->tenants, capacity * sizeof *tenants);
        if (!tenants) return ST_NOMEM;
        s->tenants = tenants;
        s->tenant_capacity = capacity;
    }
    if (place == s->tenant_count) s->tenants[s->tenant_count++] = (struct tenant){.id = r->tenant_id};
    struct tenant *t = &s->tenants[place];
    if (t->id != r->tenant_id) *t = (struct tenant){.id = r->tenant_id};
    if (t->requests++ == 0 && t->served < s->served_floor) t->served = s->served_floor;
    r->tenant = place;
    return ST_OK;
}

static void raise_floor(struct scheduler *s)
{
    double floor = INFINITY;
    for (uint32_t i = 0; i < s->tenant_count; i++)
        if (s->tenants[i].requests && s->tenants[i].served < floor) floor = s->tenants[i].served;
    if (floor > s->served_floor && floor < INFINITY) s->served_floor = floor;
}

/* ---- order ------------------------------------------------------------------------------------------------------- */

static double level_of(const struct scheduler *s, const struct request *r)
{
    return r->priority - floor((s->now - r->submitted_s) / s->limits.aging_s);
}

/* Whether waiting request `a` comes before `b`. */
static bool precedes(const struct scheduler *s, const struct request *a, const struct request *b)
{
    double level_a = level_of(s, a), level_b = level_of(s, b);
    if (level_a != level_b) return level_a < level_b;
    if (!a->admission != !b->admission) return a->admission > 0;
    double served_a = s->tenants[a->tenant].served, served_b = s->tenants[b->tenant].served;
    if (served_a != served_b) return served_a < served_b;
    return a->id != b->id ? a->id < b->id : a->index < b->index;
}

/* Whether running request `a` gives way sooner than `b`. */
static bool is_worse(const struct scheduler *s, const struct request *a, const struct request *b)
{
    if (a->paused != b->paused) return a->paused;
    double level_a = level_of(s, a), level_b = level_of(s, b);
    return level_a != level_b ? level_a > level_b : a->admission >= b->admission;
}

/* The running request that gives way first. */
static struct request *worst_running(const struct scheduler *s)
{
    struct request *worst = NULL;
    for (uint32_t i = 0; i < s->running_count; i++)
        if (!worst || is_worse(s, s->running[i], worst)) worst = s->running[i];
    return worst;
}

/* Whether `worst` gives up its place or its blocks to `r`, which waits: it is paused, or `r` has the lower number, as submitted, so
 * that requests that wait long do not push each other out, and still has, so that each is let finish at last. */
static bool gives_way(const struct scheduler *s, const struct request *worst, const struct request *r)
{
    if (!worst || worst->paused) return worst != NULL;
    return worst->priority > r->priority && level_of(s, worst) > level_of(s, r);
}

uint32_t scheduler_active_count(const struct scheduler *s)
{
    uint32_t count = s->running_count;
    for (uint32_t i = 0; i < s->running_count && s->paused; i++) count -= s->running[i]->paused;
    return count;
}

static bool may_start(const struct request *r)
{
    return !r->paused && !r->settled;
}

/* Waiting requests that would run if there were room. */
static uint32_t startable_count(const struct scheduler *s)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < s->waiting_count; i++) count += may_start(s->waiting[i]);
    return count;
}

/* ---- life -------------------------------------------------------------------------------------------------------- */

enum status scheduler_init(struct scheduler *s, struct kv_cache *kv, const struct cost *cost,
                           const struct scheduler_limits *limits)
{
    *s = (struct scheduler){.kv = kv, .cost = *cost, .limits = *limits};
    s->running = mem_zero(limits->sequences, sizeof *s->running);
    s->batch = mem_zero(limits->sequences, sizeof *s->batch);
    s->order = mem_zero(limits->sequences, sizeof *s->order);
    return s->running && s->batch && s->order ? ST_OK : ST_NOMEM;
}

void scheduler_release(struct scheduler *s)
{
    mem_free(s->running);
    mem_free(s->waiting);
    mem_free(s->batch);
    mem_free(s->order);
    mem_free(s->tenants);
    *s = (struct scheduler){0};
}

/* Room in `waiting` for all there are, so that a running one can always go back. */
static enum status make_room(struct scheduler *s)
{
    if (scheduler_count(s) < s->waiting_capacity) return ST_OK;
    uint32_t capacity = s->waiting_capacity ? 2 * s->waiting_capacity : 16;
    struct request **waiting = mem_resize(s->waiting, capacity * sizeof(struct request *));
    if (!waiting) return ST_NOMEM;
    s->waiting = waiting;
    s->waiting_capacity = capacity;
    return ST_OK;
}

enum status scheduler_add(struct scheduler *s, struct request *r)
{
    enum status status = make_room(s);
    if (status == ST_OK) status = tenant_enter(s, r);
    if (status == ST_OK) s->waiting[s->waiting_count++] = r;
    return status;
}

/* Whether it was there. Keeps the order. */
static bool take_out(struct request **list, uint32_t *count, const struct request *r)
{
    for (uint32_t i = 0; i < *count; i++) {
        if (list[i] != r) continue;
        memmove(list + i, list + i + 1, (--*count - i) * sizeof(struct request *));
        return true;
    }
    return false;
}

static void close_seq(struct request *r)
{
    kv_seq_close(r->seq);
    r->seq = NULL;
}

void scheduler_remove(struct scheduler *s, struct request *r)
{
    prefetch_end(r);
    scheduler_pause(s, r, false);
    if (!take_out(s->running, &s->running_count, r)) take_out(s->waiting, &s->waiting_count, r);
    close_seq(r);
    s->tenants[r->tenant].requests--;
}

static void enter_running(struct scheduler *s, struct request *r)
{
    take_out(s->waiting, &s->waiting_count, r);
    s->running[s->running_count++] = r;
    r->running = true;
    if (r->started_s == 0) r->started_s = s->now;
    if (!r->admission) r->admission = ++s->admissions;
}

static void leave_running(struct scheduler *s, struct request *r)
{
    take_out(s->running, &s->running_count, r);
    s->waiting[s->waiting_count++] = r;
    r->running = false;
    r->prefetch = (struct prefetch){0};
    r->planned = r->drafts = 0;
}

void scheduler_pause(struct scheduler *s, struct request *r, bool paused)
{
    s->paused += paused;
    s->paused -= r->paused;
    r->paused = paused;
}

void scheduler_park(struct scheduler *s, struct request *r)
{
    close_seq(r);
    if (r->running) leave_running(s, r);
}

/* ---- preemption -------------------------------------------------------------------------------------------------- */

static bool any_at(const struct scheduler *s, enum kv_residence residence)
{
    for (uint32_t i = 0; i < scheduler_count(s); i++) {
        const struct kv_seq *seq = scheduler_at(s, i)->seq;
        if (seq && kv_seq_residence(seq) == residence) return true;
    }
    return false;
}

/* Whether to copy a request's rows out and in takes less time than to compute them again, by what was measured; what was not
 * measured yet is tried. Rows that would be computed one a step are always copied. */
static bool swap_is_cheaper(const struct scheduler *s, const struct request *r)
{
    struct kv_stats kv;
    uint64_t bytes, blocks;
    if (r->sparse_from && kv_seq_count(r->seq) > r->sparse_from) return true;
    kv_stats(s->kv, &kv);
    kv_seq_usage(r->seq, &bytes, &blocks);
    if (!kv.swap_copied_bytes || s->cost.unit_s == 0) return true;
    double swap_s = 2 * (double)bytes * kv.swap_copy_s / (double)kv.swap_copied_bytes;
    return swap_s < s->cost.unit_s * cost_units(&s->cost, 0, kv_seq_count(r->seq));
}

static void preempt(struct scheduler *s, struct request *r)
{
    bool on_its_way = kv_seq_residence(r->seq) == KV_SWAPPING_IN;
    bool swapped = (on_its_way || swap_is_cheaper(s, r)) && kv_seq_swap_out(r->seq) == ST_OK;
    if (!swapped) close_seq(r);
    leave_running(s, r);
    s->preemptions++;
    s->swapped += swapped;
    log_line(LOG_DEBUG, "request %llu %s after %u tokens", (unsigned long long)r->id,
             swapped ? "is swapped out" : "gives up its blocks", r->count);
}

/* To be called before it is reserved. */
static void stop_publishing(struct request *r)
{
    if (r->own_from && kv_seq_count(r->seq) >= r->own_from) kv_seq_stop_publishing(r->seq);
}

/* Room for `tokens` more, for which worse requests give way. ST_FULL: not now, and `r` is the worst or blocks are about to be
 * free. */
static enum status reserve(struct scheduler *s, struct request *r, uint32_t tokens)
{
    enum status status = kv_seq_reserve(r->seq, tokens);
    while (status == ST_FULL && !any_at(s, KV_SWAPPING_OUT)) {
        struct request *worst = worst_running(s);
        if (worst == r) break;
        preempt(s, worst);
        status = kv_seq_reserve(r->seq, tokens);
    }
    return status;
}

/* ---- planning tokens --------------------------------------------------------------------------------------------- */

static uint32_t pending(const struct request *r)
{
    return r->count - kv_seq_count(r->seq);
}

/* The most tokens of one step: all that wait, but none that others may find with one that they may not, and none with a sparse
 * one, which is alone. */
static uint32_t runnable(const struct request *r)
{
    uint32_t done = kv_seq_count(r->seq), most = pending(r);
    if (request_is_sparse(r, done)) return least(most, 1);
    if (done < r->own_from) return least(most, r->own_from - done);
    return r->sparse_from ? least(most, r->sparse_from - done) : most;
}

/* The next token is the answer's, or one that has to run as that did. */
static bool decodes(const struct request *r)
{
    return pending(r) == 1 || (pending(r) && request_is_sparse(r, kv_seq_count(r->seq)));
}

static bool is_ready(const struct request *r)
{
    return kv_seq_residence(r->seq) == KV_RESIDENT; /* else: on its way in */
}

/* `tokens` more in this step. ST_FULL: it gets none now. */
static enum status plan_tokens(struct scheduler *s, struct request *r, uint32_t tokens)
{
    enum status status = r->planned + tokens == pending(r) ? request_make_room(r, 1) : ST_OK;
    stop_publishing(r);
    retrieval_offload(r);
    if (status == ST_OK) status = reserve(s, r, r->planned + tokens);
    if (status == ST_OK) r->planned += tokens;
    return status;
}

/* Like plan_tokens(), of a running request, which gives up its blocks if there is no worse one; ST_OK then too. */
static enum status plan_running(struct scheduler *s, struct request *r, uint32_t tokens)
{
    enum status status = tokens ? plan_tokens(s, r, tokens) : ST_OK;
    if (status != ST_FULL) return status;
    if (!any_at(s, KV_SWAPPING_OUT)) preempt(s, r);
    return ST_OK;
}

/* Running requests, best first, into `order`; some may be running no more when their turn comes. */
static uint32_t list_running(struct scheduler *s)
{
    for (uint32_t i = 0; i < s->running_count; i++) {
        struct request *r = s->running[i];
        double level = level_of(s, r);
        uint32_t at = i; /* they lie in order of admission */
        for (; at > 0 && level_of(s, s->order[at - 1]) > level; at--) s->order[at] = s->order[at - 1];
        s->order[at] = r;
    }
    return s->running_count;
}

static enum status plan_decodes(struct scheduler *s)
{
    uint32_t count = list_running(s);
    enum status status = ST_OK;
    for (uint32_t i = 0; i < count && status == ST_OK; i++) {
        struct request *r = s->order[i];
        if (r->running && !r->paused && is_ready(r) && decodes(r)) status = plan_running(s, r, 1);
    }
    return status;
}

/* Answers that go on in this step. */
static uint32_t planned_count(const struct scheduler *s)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < s->running_count; i++) count += s->running[i]->planned > 0;
    return count;
}

/* ---- drafts ------------------------------------------------------------------------------------------------------ */

/* The most tokens that may be drafted for `r`: their rows are thrown away if they were wrong, so they must not fill a group that
 * closes. Sparse tokens run alone. */
static uint32_t draft_limit(const struct scheduler *s, const struct request *r)
{
    if (r->group && r->group->beams) return 0;
    uint32_t most = least(s->limits.draft_tokens, DRAFT_ROWS_MAX - s->draft_rows);
    if (r->sparse_from) most = least(most, r->sparse_from > r->count ? r->sparse_from - r->count : 0);
    if (s->limits.closed_tokens) {
        uint32_t next = r->count % s->limits.closed_tokens; /* place of the first drafted row in its group */
        most = least(most, s->limits.closed_tokens - 1 - next);
    }
    return r->count_max > r->count + 1 ? least(most, r->count_max - r->count - 1) : 0;
}

/* Drafts for the answers of this step, if they pay: with a prompt to compute beside them they do not. */
static void plan_drafts(struct scheduler *s)
{
    const uint32_t answers = planned_count(s);
    double tokens = answers;
    for (uint32_t i = 0; i < s->running_count && answers <= DRAFT_ROWS_MAX; i++) {
        struct request *r = s->running[i];
        uint32_t most = r->planned ? draft_limit(s, r) : 0, found, wanted;
        if (!most || request_make_room(r, 1 + most) != ST_OK) continue;
        found = draft_find(r->tokens, r->count, most, r->tokens + r->count);
        wanted = found ? draft_worthwhile(&r->draft, &s->cost, tokens, answers + s->draft_rows, found) : 0;
        if (!wanted || kv_seq_reserve(r->seq, 1 + wanted) != ST_OK) continue;
        r->drafts = wanted;
        s->draft_rows += wanted;
        for (double right = r->draft.chance; wanted--; right *= r->draft.chance) tokens += right;
    }
}

/* ---- prompts ----------------------------------------------------------------------------------------------------- */

static bool prefills(const struct request *r)
{
    return r->running && !r->paused && is_ready(r) && runnable(r) - r->planned > 0;
}

/* Keys that a token after the first `done` reads. */
static uint32_t keys_read(const struct request *r, uint32_t done)
{
    struct model_retrieval read;
    if (!request_is_sparse(r, done)) return done;
    engine_retrieval_at(&r->retrieval, done, &read);
    return read.initial_tokens + read.local_tokens + read.recall_tokens;
}

static void count_units(struct scheduler *s)
{
    s->units = 0;
    for (uint32_t i = 0; i < s->running_count; i++) {
        const struct request *r = s->running[i];
        if (!r->planned) continue;
        uint32_t done = kv_seq_count(r->seq), rows = request_logits_rows(r, done, r->planned) + r->drafts;
        s->units += cost_units(&s->cost, keys_read(r, done), r->planned + r->drafts) + s->cost.logits_units * rows;
    }
}

/* Work on prompts that fits into this step beside its answers. */
static double prefill_units(const struct scheduler *s)
{
    const uint32_t answers = planned_count(s), places = s->limits.sequences - scheduler_active_count(s);
    uint32_t wanting = 0;
    for (uint32_t i = 0; i < s->running_count; i++) wanting += prefills(s->running[i]);
    const struct request *worst = places ? NULL : worst_running(s);
    wanting += least(places, startable_count(s));
    for (uint32_t i = 0; worst && i < s->waiting_count; i++) {
        if (!may_start(s->waiting[i]) || !gives_way(s, worst, s->waiting[i])) continue;
        wanting++; /* it will have a place all the same */
        break;
    }
    if (!answers && s->limits.step_s == 0) return INFINITY;
    if (s->cost.unit_s == 0) return FIRST_UNITS;
    /* As measured: what a unit of a small chunk of a long prompt takes would make the answers seem longer, and chunks grow. */
    double answers_s = cost_rows_seconds(&s->cost, answers);
    double spare_s = PREFILL_SHARE * answers_s * least(wanting, WANTING_MAX);
    if (s->limits.step_s > 0) spare_s = s->limits.step_s - cost_seconds(&s->cost, s->units);
    return spare_s > 0 ? spare_s / s->cost.unit_s : 0;
}

/* What is left of a step for prompts; rows: of logits, for requests with prompt_logprobs. */
struct allowance {
    double units;
    uint32_t tokens, rows;
};

/* A chunk of at most `tokens` (at least 1) from `depth` on that ends with a tile, or is one of few equal parts of what is left of
 * one. */
static uint32_t even_chunk(const struct scheduler *s, uint32_t depth, uint32_t tokens)
{
    uint32_t tile = s->limits.tile_tokens, room = tile - depth % tile;
    if (tokens >= room) return tokens - (depth + tokens) % tile;
    uint32_t parts = (room + tokens - 1) / tokens;
    return (room + parts - 1) / parts;
}

/* Tokens of a request that are within `share` (at most 1) of the allowance. */
static uint32_t within(const struct scheduler *s, const struct request *r, const struct allowance *left, double share)
{
    uint32_t depth = kv_seq_count(r->seq) + r->planned;
    double units = left->units * share - s->cost.logits_units; /* its last token will have logits */
    uint32_t tokens = least(cost_tokens(&s->cost, units, depth), (uint32_t)(left->tokens * share));
    uint32_t rest = runnable(r) - r->planned;
    if (tokens && tokens < rest && s->limits.tile_tokens) tokens = even_chunk(s, depth, tokens);
    return request_fit_rows(r, depth, least(tokens, rest), (uint32_t)(left->rows * share));
}

static void spend(const struct scheduler *s, const struct request *r, uint32_t tokens, struct allowance *left)
{
    uint32_t depth = kv_seq_count(r->seq) + r->planned - tokens, rows = request_prompt_rows(r, depth, tokens);
    if (r->planned == pending(r)) left->units -= s->cost.logits_units;
    left->units -= cost_units(&s->cost, depth, tokens) + s->cost.logits_units * rows;
    left->tokens -= least(left->tokens, tokens);
    left->rows -= rows;
}

static enum status plan_chunk(struct scheduler *s, struct request *r, uint32_t tokens, struct allowance *left)
{
    enum status status = plan_running(s, r, tokens);
    if (status == ST_OK && r->running && tokens) spend(s, r, tokens, left);
    return status;
}

/* The prompt that is being computed, not yet planned, with the least left to do. */
static struct request *shortest(const struct scheduler *s, const struct request *except)
{
    struct request *best = NULL;
    for (uint32_t i = 0; i < s->running_count; i++) {
        struct request *r = s->running[i];
        if (r == except || !prefills(r) || r->planned) continue;
        if (!best || pending(r) < pending(best)) best = r;
    }
    return best;
}

/* `*first` gets the rest, when all others had theirs. */
static enum status plan_prefills(struct scheduler *s, struct allowance *left, struct request **first)
{
    uint32_t count = list_running(s), wanting = startable_count(s) && scheduler_active_count(s) < s->limits.sequences;
    *first = NULL;
    for (uint32_t i = 0; i < count; i++) {
        wanting += prefills(s->order[i]);
        if (!*first && prefills(s->order[i])) *first = s->order[i];
    }
    if (!*first) return ST_OK;
    uint32_t all = runnable(*first), tokens = within(s, *first, left, 1);
    if (tokens < all && wanting > 1) tokens = within(s, *first, left, 0.5);
    enum status status = plan_chunk(s, *first, tokens ? tokens : 1, left); /* it always goes on */
    for (struct request *r = shortest(s, *first); r && status == ST_OK; r = shortest(s, *first)) {
        tokens = within(s, r, left, 1);
        if (!tokens) break;
        status = plan_chunk(s, r, tokens, left);
    }
    return status;
}

/* ---- admission --------------------------------------------------------------------------------------------------- */

/* Tokens that a running request is counted to hold soon. */
static uint32_t expected_tokens(const struct scheduler *s, const struct request *r)
{
    if (s->limits.reserve) return s->limits.context;
    uint32_t room = r->count_max - r->count, headroom = HEADROOM_BLOCKS * s->limits.block_tokens;
    return r->count + least(room, headroom);
}

static uint64_t missing(const struct scheduler *s, const struct request *r)
{
    return kv_seq_bytes_missing(r->seq, expected_tokens(s, r), s->limits.prompt_tokens);
}

bool scheduler_has_room(const struct scheduler *s, uint64_t bytes)
{
    for (uint32_t i = 0; i < s->running_count; i++)
        if (is_ready(s->running[i]) && !s->running[i]->paused) bytes += missing(s, s->running[i]);
    return bytes <= kv_bytes_free(s->kv);
}

static uint32_t common_prefix(const struct request *a, const struct request *b, uint32_t most)
{
    uint32_t count = 0;
    while (count < most && a->tokens[count] == b->tokens[count]) count++;
    return count;
}

static const struct request *find_running(const struct scheduler *s, uint64_t id)
{
    for (uint32_t i = 0; i < s->running_count; i++)
        if (s->running[i]->id == id && !s->running[i]->index) return s->running[i];
    return NULL;
}

/* Whether a running request is about to compute the blocks that this one's prompt begins with, or its very prompt. */
static bool awaits(struct scheduler *s, struct request *r)
{
    if (r->leader) return true;
    if (r->awaited) {
        const struct request *other = find_running(s, r->awaited);
        if (other && !other->paused && kv_seq_count(other->seq) < r->awaited_count) return true;
        r->awaited = 0;
    }
    if (s->limits.one_layer_at_a_time) return false;
    r->awaited_count = 0;
    for (uint32_t i = 0; i < s->running_count; i++) {
        const struct request *other = s->running[i];
        if (other->cache_salt != r->cache_salt || other->index || other->paused) continue;
        if (!is_ready(other) || pending(other) <= 1) continue;
        uint32_t published = least(other->count, other->own_from ? other->own_from : UINT32_MAX);
        uint32_t common = common_prefix(r, other, least(request_match_count(r) - 1, published));
        common -= common % s->limits.block_tokens;
        if (common <= kv_seq_count(other->seq) || common <= r->awaited_count) continue;
        r->awaited = other->id;
        r->awaited_count = common;
    }
    s->deferrals += r->awaited > 0;
    return r->awaited > 0;
}

static struct request *best_waiting(struct scheduler *s)
{
    struct request *best;
    do {
        best = NULL;
        for (uint32_t i = 0; i < s->waiting_count; i++) {
            struct request *r = s->waiting[i];
            if (r->passed_over == s->plans || !may_start(r)) continue;
            if (!best || precedes(s, r, best)) best = r;
        }
        if (!best || best->seq || (!awaits(s, best) && !prefetch_holds_up(s, best))) return best;
        best->passed_over = s->plans;
    } while (true);
}

static enum status open_seq(struct scheduler *s, struct request *r)
{
    uint32_t cached;
    enum status status = kv_seq_open(s->kv, r->tokens, request_match_count(r), r->cache_salt, &r->seq, &cached);
    if (status == ST_OK && r->started_s == 0) r->cached_tokens = cached;
    return status;
}

/* Brings back a request that was swapped out; it runs once its rows are there. Not while others' blocks are about to be free:
 * these are for those that made it give up its own. */
static enum status resume(struct scheduler *s, struct request *r)
{
    enum status status = any_at(s, KV_SWAPPING_OUT) ? ST_FULL : kv_seq_swap_in(r->seq);
    if (status == ST_OK) enter_running(s, r);
    return status;
}

/* A sequence on what is cached, and its first chunk. ST_FULL: no room now. */
static enum status start(struct scheduler *s, struct request *r, struct allowance *left)
{
    uint64_t free = kv_bytes_free(s->kv);
    if (s->blocked == r->id && free <= s->blocked_free && s->running_count) return ST_FULL;
    enum status status = open_seq(s, r);
    if (status != ST_OK) return status;
    if (s->running_count && !scheduler_has_room(s, missing(s, r))) status = ST_FULL;
    uint32_t tokens = within(s, r, left, 1);
    if (!tokens && !scheduler_active_count(s)) tokens = 1;
    bool no_time = status == ST_OK && !tokens;
    if (no_time) status = ST_FULL;
    if (status == ST_OK && tokens == pending(r)) status = request_make_room(r, 1);
    if (status == ST_OK) stop_publishing(r);
    if (status == ST_OK) status = kv_seq_reserve(r->seq, tokens);
    if (status == ST_OK) {
        r->planned = tokens;
        spend(s, r, tokens, left);
        prefetch_end(r);
        prefetch_used(s, r, kv_seq_count(r->seq));
        enter_running(s, r);
        return ST_OK;
    }
    close_seq(r);
    if (status == ST_FULL && !no_time) s->blocked = r->id, s->blocked_free = free;
    return status;
}

/* Whether a running request has given way to `r`. */
static bool displace(struct scheduler *s, const struct request *r)
{
    struct request *worst = worst_running(s);
    if (!gives_way(s, worst, r)) return false;
    preempt(s, worst);
    s->blocked = 0;
    return true;
}

static enum status admit(struct scheduler *s, struct allowance *left)
{
    while (left->tokens && (left->units > 0 || !scheduler_active_count(s)) && s->waiting_count) {
        struct request *r = best_waiting(s);
        if (!r) return ST_OK;
        if (s->running_count == s->limits.sequences) {
            if (!displace(s, r)) return ST_OK;
            continue;
        }
        enum status status = r->seq ? resume(s, r) : start(s, r, left);
        if (status == ST_FULL && any_at(s, KV_SWAPPING_OUT)) return ST_OK; /* blocks are about to be free */
        if (status == ST_FULL && displace(s, r)) continue;
        if (status == ST_FULL && s->running_count) return ST_OK;
        if (status != ST_OK) return status;
    }
    return ST_OK;
}

bool scheduler_fork(struct scheduler *s, const struct request *from, struct request *waiting)
{
    if (s->running_count == s->limits.sequences || request_make_room(waiting, 1) != ST_OK) return false;
    if (kv_seq_fork(from->seq, &waiting->seq) != ST_OK) return false;
    if (waiting->started_s == 0) waiting->cached_tokens = kv_seq_count(waiting->seq);
    prefetch_end(waiting);
    enter_running(s, waiting);
    return true;
}

/* ---- the plan ---------------------------------------------------------------------------------------------------- */

/* Without a cache the one request there may be is computed anew and whole. */
static enum status reopen(struct scheduler *s)
{
    for (uint32_t i = 0; i < s->running_count; i++) {
        struct request *r = s->running[i];
        close_seq(r);
        enum status status = open_seq(s, r);
        if (status != ST_OK) {
            leave_running(s, r);
            return status;
        }
    }
    return ST_OK;
}

static void collect(struct scheduler *s)
{
    for (uint32_t i = 0; i < s->running_count; i++)
        if (s->running[i]->planned) s->batch[s->batch_count++] = s->running[i];
    count_units(s);
}

/* Whether nothing but answers is planned. */
static bool only_answers(const struct scheduler *s)
{
    for (uint32_t i = 0; i < s->running_count; i++) {
        const struct request *r = s->running[i];
        if (r->planned > 1 || (r->planned && r->count == r->prompt_count)) return false;
    }
    return true;
}

static enum status plan_once(struct scheduler *s)
{
    struct request *first;
    s->plans++;
    s->batch_count = 0;
    s->draft_rows = 0;
    for (uint32_t i = 0; i < s->running_count; i++) s->running[i]->planned = s->running[i]->drafts = 0;
    enum status status = s->limits.one_layer_at_a_time ? reopen(s) : ST_OK;
    if (status == ST_OK) status = plan_decodes(s);
    count_units(s);
    struct allowance left = {.units = prefill_units(s), .tokens = s->limits.prompt_tokens, .rows = PROMPT_ROWS_MAX};
    if (status == ST_OK) status = plan_prefills(s, &left, &first);
    prefetch_drive(s);
    if (status == ST_OK) status = admit(s, &left);
    if (status == ST_OK && first && first->running) status = plan_chunk(s, first, within(s, first, &left, 1), &left);
    if (status == ST_OK && s->limits.draft_tokens && only_answers(s)) plan_drafts(s);
    return status;
}

/* Beams that have all they need make room for those they wait for. */
static bool park_settled(struct scheduler *s)
{
    uint32_t before = s->running_count;
    for (uint32_t i = before; i-- > 0;)
        if (s->running[i]->settled) scheduler_park(s, s->running[i]);
    return s->running_count < before;
}

enum status scheduler_plan(struct scheduler *s, double now)
{
    s->now = now;
    raise_floor(s);
    for (;;) {
        enum status status = plan_once(s);
        if (status != ST_OK) return status;
        collect(s);
        if (s->batch_count) return ST_OK;
        if (any_at(s, KV_SWAPPING_OUT) || any_at(s, KV_SWAPPING_IN))
            kv_swap_poll(s->kv, true); /* nobody can run before rows have moved */
        else if (prefetch_reads(s))
            prefetch_wait(s);
        else if (!park_settled(s))
            return ST_OK;
    }
}

void scheduler_ran(struct scheduler *s, double seconds)
{
    cost_measure(&s->cost, s->units, seconds);
    if (only_answers(s)) cost_measure_rows(&s->cost, s->batch_count + s->draft_rows, seconds);
    for (uint32_t i = 0; i < s->batch_count; i++) {
        const struct request *r = s->batch[i];
        bool answer = r->planned == 1 && r->count > r->prompt_count;
        s->tenants[r->tenant].served += answer ? ANSWER_WEIGHT : PROMPT_WEIGHT * r->planned;
    }
}
