/* retrieve.c - which keys a token with retrieval reads of one layer and KV head: the first ones, a local window, and between them
 * the key groups whose entries in the index promise most.
 *
 * The index estimates each query head's softmax over all whole groups, and the shares of the heads that read one KV head are
 * added: a head that looks at the window anyway has little to say about the rest. Groups are taken by their sum, the
 * earlier one where two are equal. Where only a small part of the groups can be taken, sketches of the entries tell first which many times
 * as many are looked at closely. All of it follows from the token's query and the keys before it, so the choice depends on
 * nothing else (docs/retrieval.md has what was measured).
 *
 * The groups that are chosen are then read as if they were consecutive: softmax does not know positions. What a key's position gives
 * beside its row, the offsets of its bias, is looked up by the group's number (kernel_offset.order). So every kernel and every cache format reads them as it reads all. */
#include "attend_internal.h"
#include <math.h>
#include <string.h>

/* Of the groups that sketches promise most of, for each one that can be taken at least so many are looked at closely, and one of so many. */
#define CANDIDATES_LEAST 8u
#define CANDIDATES_SHARE 8u

/* Groups go in pairs where K closes. */
static uint32_t unit_groups(const struct model_run *run)
{
    return run->treatment.closes ? KERNEL_CLOSED_TOKENS / KERNEL_GROUP_TOKENS : 1;
}

static uint32_t groups_for(uint32_t tokens, uint32_t unit)
{
    return (uint32_t)round_up(((uint64_t)tokens + KERNEL_GROUP_TOKENS - 1) / KERNEL_GROUP_TOKENS, unit);
}

/* A head's channels in the order that the index wants: those that rope turns least first. Frequencies fall with the pair's number. */
static void slowest_first(const struct model_config *c, const float *row, float *out)
{
    const uint32_t half = c->rope_dimensions / 2, step = c->rope_neighbours ? 2 : 1,
                   apart = c->rope_neighbours ? 1 : half;
    for (uint32_t d = c->rope_dimensions; d < c->head_dim; d++) *out++ = row[d];
    for (uint32_t pair = half; pair-- > 0;) {
        *out++ = row[pair * step];
        *out++ = row[pair * step + apart];
    }
}

/* What a token reads: groups [0, initial), `recalled` of [initial, local), and [local, end), the last one perhaps only in part. */
struct reading {
    uint32_t initial, local, end, recalled, unit;
    uint32_t whole; /* groups that have an entry: of a pair that is not closed neither has */
};

uint64_t retrieve_stride(const struct model_run *run)
{
    return (uint64_t)run->segments_max * KERNEL_SEGMENT_GROUPS;
}

static struct reading reading_of(const struct model_run *run, const struct tile *tile)
{
    const struct model_retrieval *retrieval = run->entries[tile->entry].retrieval;
    const uint32_t unit = unit_groups(run), keys = run->treatment.closes ? open_begin(tile) : tile->position + 1;
    const uint32_t near =
        tile->position + 1 > retrieval->local_tokens ? tile->position + 1 - retrieval->local_tokens : 0;
    struct reading reading = {.initial = groups_for(retrieval->initial_tokens, unit),
                              .local = near / KERNEL_GROUP_TOKENS / unit * unit,
                              .end = (keys + KERNEL_GROUP_TOKENS - 1) / KERNEL_GROUP_TOKENS,
                              .unit = unit,
                              .whole = tile->position / KERNEL_GROUP_TOKENS / unit * unit};
    /* The group that the token is in is always local. */
    if (reading.local > reading.whole) reading.local = reading.whole;
    if (reading.initial > reading.local) reading.initial = reading.local;
    const uint32_t recalled = groups_for(retrieval->recall_tokens, unit), between = reading.local - reading.initial;
    reading.recalled = recalled < between ? recalled : between;
    return reading;
}

bool retrieves(const struct model_run *run, const struct tile *tile, uint32_t head)
{
    const struct model_entry *entry = &run->entries[tile->entry];
    return entry->retrieval && run->layer >= entry->retrieval->dense_layers &&
           kv_seq_indexed(entry->seq, run->layer, head);
}

uint32_t retrieve_groups_max(const struct model_run *run, const struct tile *tile)
{
    const struct reading reading = reading_of(run, tile);
    return reading.end - (reading.local - reading.initial) + reading.recalled;
}

static struct chosen *chosen_of(const struct model_run *run, const struct tile *tile, uint32_t head)
{
    return &run->chosen[(tile - run->tiles) * run->model->config.kv_heads + head];
}

/* ---- choosing ---------------------------------------------------------------------------------------------------- */

static uint32_t bits_of(float share) /* orders as the shares do, which are not negative */
{
    uint32_t bits;
    memcpy(&bits, &share, sizeof bits);
    return bits;
}

/* The least share of the `take` largest of `count`, as bits, and how many of those that are equal to it are among them. Not `exact`: some
 * more are taken, all that are as large in the highest bits as the least one. `left` has room for `count`: those that are still equal to
 * the wanted one in the bits that were looked at. */
static uint32_t threshold(const float *shares, uint32_t count, uint32_t take, bool exact, uint32_t *left,
                          uint32_t *equal)
{
    enum { DIGIT = 11, DIGITS = 1 << DIGIT };
    uint32_t least = 0;
    for (uint32_t i = 0; i < count; i++) left[i] = bits_of(shares[i]);
    /* The highest bits first; the last digit has a bit of the one before. */
    for (int shift = 32 - DIGIT; shift > -DIGIT; shift -= DIGIT) {
        const uint32_t low = shift > 0 ? (uint32_t)shift : 0;
        uint32_t counts[DIGITS] = {0}, digit = DIGITS - 1, kept = 0;
        for (uint32_t i = 0; i < count; i++) counts[left[i] >> low & (DIGITS - 1)]++;
        while (counts[digit] < take) take -= counts[digit--];
        least |= digit << low;
        if (!exact) {
            *equal = count;
            return least;
        }
        for (uint32_t i = 0; i < count; i++) {
            const uint32_t bits = left[i];
            left[kept] = bits;
            kept += (bits >> low & (DIGITS - 1)) == digit;
        }
        count = kept;
    }
    *equal = take;
    return least;
}

/* Of `count` groups those that promise most, `take` of them (at least, if not `exact`), into `out`, in their order; both go in units. `groups`
 * may be `out`. `left` has room for `count`. */
static uint32_t take_best(const struct reading *reading, float *shares, const uint32_t *groups, uint32_t count,
                          uint32_t take, bool exact, uint32_t *left, uint32_t *out)
{
    const uint32_t unit = reading->unit, units = count / unit;
    uint32_t taken = 0, equal = 0;
    take /= unit;
    for (uint32_t i = 0; i < units && unit > 1; i++) shares[i] = shares[2 * i] + shares[2 * i + 1];
    const uint32_t least = take ? threshold(shares, units, take, exact, left, &equal) : 0;
    for (uint32_t i = 0; i < units && take; i++) { /* without a branch: nobody could predict it */
        const uint32_t bits = bits_of(shares[i]), last = (bits == least) & (equal > 0);
        out[taken] = groups[i * unit];
        out[taken + unit - 1] = groups[i * unit + unit - 1];
        taken += unit * ((bits > least) | last);
        equal -= last;
    }
    return taken;
}

/* The queries that read one KV head, and the entries of its first `groups` groups. */
static struct kernel_index index_of(const struct model_run *run, const struct tile *tile, uint32_t head,
                                    uint32_t groups, struct worker *worker)
{
    const struct model_config *c = &run->model->config;
    const uint32_t heads = c->heads / c->kv_heads;
    const float *q = run->q + ((uint64_t)tile->row * c->heads + (uint64_t)head * heads) * c->head_dim;
    float *row = worker->queries, *sorted = worker->queries + c->head_dim;
    for (uint32_t h = 0; h < heads; h++, q += c->head_dim) {
        memcpy(row, q, c->head_dim * sizeof *row);
        if (run->treatment.turn_k) run->model->kernel->hadamard(row, c->head_dim); /* it is its own inverse */
        slowest_first(c, row, sorted + (uint64_t)h * c->head_dim);
    }
    return (struct kernel_index){
        .q = sorted,
        .group = heads,
        .head_dim = c->head_dim,
        .scale = c->attention_scale,
        .softcap = c->attention_softcap,
        .blocks = worker->entries,
        .per_block = kv_seq_index(run->entries[tile->entry].seq, run->layer, head, groups, worker->entries)};
}

/* Of the groups between the first and the local ones those that are looked at closely. */
static uint32_t candidates(const struct reading *reading)
{
    const uint32_t between = reading->local - reading->initial;
    uint32_t count = CANDIDATES_LEAST * reading->recalled;
    if (count < between / CANDIDATES_SHARE) count = between / CANDIDATES_SHARE / reading->unit * reading->unit;
    return count <= between / 2 ? count : between;
}

/* The first groups, and those between them and the local ones that promise most, ascending. `out` has room for all groups. */
static uint32_t choose(const struct model_run *run, const struct tile *tile, uint32_t head,
                       const struct reading *reading, uint32_t *out, struct worker *worker)
{
    const struct kernel *kernel = run->model->kernel;
    struct kernel_index index = index_of(run, tile, head, reading->whole, worker);
    float *shares = worker->promises, *scratch = worker->promises + retrieve_stride(run);
    const uint32_t between = reading->local - reading->initial;
    uint32_t close = candidates(reading);
    uint32_t *const looked = out + reading->initial;
    uint32_t *const left = (uint32_t *)(void *)scratch; /* between the kernel's calls */
    uint32_t count = reading->whole;
    for (uint32_t g = 0; g < count; g++) out[g] = g;
    if (close < between) {
        kernel->index_sketch(&index, count, shares, scratch);
        close = take_best(reading, shares + reading->initial, looked, between, close, false, left, looked);
        count = reading->initial + close;
        for (uint32_t g = reading->local; g < reading->whole; g++) out[count++] = g;
        index.order = out;
    }
    kernel->index_shares(&index, count, shares, scratch);
    return reading->initial +
           take_best(reading, shares + reading->initial, looked, close, reading->recalled, true, left, looked);
}

static void count_rows(struct model_run *run, uint64_t read, uint64_t dense)
{
    __atomic_fetch_add(&run->tally.rows_read, read, __ATOMIC_RELAXED);
    __atomic_fetch_add(&run->tally.rows_dense, dense, __ATOMIC_RELAXED);
}

void model_run_attention_tally(const struct model_run *run, struct model_attention_tally *out)
{
    *out = run->tally;
}

void model_run_observe(struct model_run *run, void (*observe)(void *data, const struct model_choice *choice),
                       void *data)
{
    run->observe = observe;
    run->observe_data = data;
}

void retrieve_choose(struct model_run *run, const struct tile *tile, uint32_t head, struct worker *worker)
{
    const struct model_entry *entry = &run->entries[tile->entry];
    const uint64_t keys = (uint64_t)tile->position + 1;
    if (!entry->retrieval || !kv_seq_indexed(entry->seq, run->layer, head)) return;
    if (!retrieves(run, tile, head)) {
        count_rows(run, keys, keys);
        return;
    }
    const struct reading reading = reading_of(run, tile);
    struct chosen *chosen = chosen_of(run, tile, head);
    uint32_t count = 0, *groups = run->chosen_groups + (chosen - run->chosen) * retrieve_stride(run);
    if (reading.recalled && reading.recalled < reading.local - reading.initial)
        count = choose(run, tile, head, &reading, groups, worker);
    else
        for (uint32_t g = 0; g < reading.initial + reading.recalled; g++) groups[count++] = g;
    for (uint32_t g = reading.local; g < reading.end; g++) groups[count++] = g;
    *chosen = (struct chosen){.groups = groups, .count = count};
    kv_seq_recall(entry->seq, run->layer, head, groups, count);
    const uint64_t skipped = reading.local - reading.initial - reading.recalled;
    count_rows(run, keys - skipped * KERNEL_GROUP_TOKENS, keys);
}

/* ---- reading ----------------------------------------------------------------------------------------------------- */

/* In attention's phase: what a layer's tiles have in common is then made. */
static void show(const struct model_run *run, const struct tile *tile, uint32_t head, struct worker *worker)
{
    const struct chosen *chosen = chosen_of(run, tile, head);
    const struct reading reading = reading_of(run, tile);
    struct kernel_attend attend;
    attend_describe(run, tile, head, &attend);
    attend.key_end = run->treatment.closes ? open_begin(tile) : tile->position + 1;
    attend.spans = worker->spans;
    attend.span_count = kv_seq_spans(run->entries[tile->entry].seq, run->layer, head, 0, attend.key_end, worker->spans);
    const struct model_choice choice = {.entry = tile->entry,
                                        .layer = run->layer,
                                        .head = head,
                                        .position = tile->position,
                                        .groups = chosen->groups,
                                        .group_count = chosen->count,
                                        .initial = reading.initial,
                                        .recalled = reading.recalled,
                                        .attend = &attend,
                                        .scratch = worker->scratch};
    run->observe(run->observe_data, &choice);
}

void retrieve_attend(const struct model_run *run, const struct tile *tile, uint32_t head, uint32_t part,
                     struct kernel_attend *attend, float *state, struct worker *worker)
{
    const struct kv_seq *seq = run->entries[tile->entry].seq;
    const struct chosen *chosen = chosen_of(run, tile, head);
    const uint32_t most = KERNEL_SEGMENT_GROUPS, first = part * most;
    const uint32_t count = first >= chosen->count ? 0 : chosen->count - first < most ? chosen->count - first : most;
    const uint32_t *groups = chosen->groups + first, unit = unit_groups(run);
    uint32_t keys = count * KERNEL_GROUP_TOKENS;
    if (run->observe && part == 0) show(run, tile, head, worker);
    if (count && groups[count - 1] == tile->position / KERNEL_GROUP_TOKENS)
        keys -= KERNEL_GROUP_TOKENS - 1 - tile->position % KERNEL_GROUP_TOKENS;
    attend->spans = worker->spans;
    attend->span_count = 0;
    for (uint32_t i = 0; i < count; i += unit) {
        struct kernel_span *span = &worker->spans[attend->span_count++];
        kv_seq_group_rows(seq, run->layer, head, groups[i] * KERNEL_GROUP_TOKENS, &span->k, &span->v);
        span->position = i * KERNEL_GROUP_TOKENS;
        span->count =
            keys - span->position < unit * KERNEL_GROUP_TOKENS ? keys - span->position : unit * KERNEL_GROUP_TOKENS;
    }
    attend->position = keys ? keys - 1 : 0;
    attend->offset.order = groups;
    run->model->kernel->attend(attend, 0, count > 0, state, worker->scratch);
}

/* ---- writing ----------------------------------------------------------------------------------------------------- */

void retrieve_index(const struct model_run *run, const struct tile *tile, uint32_t head, struct worker *worker)
{
    const struct model_config *c = &run->model->config;
    struct kv_seq *seq = run->entries[tile->entry].seq;
    const uint32_t unit = unit_groups(run) * KERNEL_GROUP_TOKENS, end = tile->position + tile->count;
    float *key = worker->queries, *keys = key + c->head_dim;
    if (!kv_seq_indexed(seq, run->layer, head)) return;
    for (uint32_t at = tile->position / unit * unit; at + unit <= end; at += unit)
        for (uint32_t first = at; first < at + unit; first += KERNEL_GROUP_TOKENS) {
            const void *k, *v;
            kv_seq_group_rows(seq, run->layer, head, at, &k, &v);
            for (uint32_t i = 0; i < KERNEL_GROUP_TOKENS; i++) {
                rows_key(run, tile, head, first + i, k, first - at + i, key);
                slowest_first(c, key, keys + (uint64_t)i * c->head_dim);
            }
            uint32_t per_block;
            void *block = kv_seq_index_block(seq, run->layer, head, first, &per_block);
            kernel_index_write(keys, c->head_dim, c->head_dim, block, per_block,
                               first / KERNEL_GROUP_TOKENS % per_block);
        }
}
