/* test_kv_sim.c - seeded simulation of the KV cache under a fake scheduler and a fake model (kv_fake.h): requests that share
 * beginnings and continue earlier ones, forks, truncation, preemption, swaps, sequences that stop publishing, prefixes pinned by
 * name, allocations that fail, tiers below RAM that are slow, full, forgetful or mix things up. In the quick run kv_check() follows
 * every operation; in the full one, of ten million, every 16th. A seed is always the same trace, but where it has tiers below RAM:
 * how far their threads are then changes what is found, never what is right. */
#include "kv_fake.h"
#include "store_fake.h"

#define SEQS 6
#define TOKENS_MAX 400u
#define CHUNK_MAX 70u
#define HISTORY 4
#define FETCHES 3

#define ROWS(dim, value) .head_dim = dim, .value_dim = value, .k_format = NF_F32, .v_format = NF_F32
static const struct kv_reach one_by_one[] = {
    {.kind = KV_FULL}, {.kind = KV_SINKS, .window = 33, .sinks = 5}, {.kind = KV_SLIDING, .window = 40}};
/* Everything at once: windows, sinks that end inside a block and beyond one, a policy by head, shared layers, none, an index. */
static const struct kv_layer mixed[] = {
    {.kind = KV_FULL, .kv_heads = 2, ROWS(2, 2), .index = true},
    {.kind = KV_SLIDING, .window = 40, .kv_heads = 1, ROWS(2, 4)},
    {.kind = KV_SLIDING, .window = 7, .kv_heads = 1, ROWS(2, 2)},
    {.kind = KV_NONE},
    {.kind = KV_SINKS, .window = 20, .sinks = 21, .kv_heads = 1, ROWS(1, 2)},
    {.kind = KV_FULL, .heads = one_by_one, .kv_heads = 3, ROWS(1, 1), .index = true},
    {.kind = KV_SHARED, .source = 1, .kv_heads = 1, ROWS(2, 4)},
    {.kind = KV_SHARED, .source = 5, .kv_heads = 3, ROWS(1, 1)},
};
static const struct kv_layer full[] = {{.kind = KV_FULL, .kv_heads = 2, ROWS(2, 1)}};
/* No head sees everything: nodes outlive their rows. */
static const struct kv_layer windows[] = {{.kind = KV_SLIDING, .window = 50, .kv_heads = 1, ROWS(2, 1)},
                                          {.kind = KV_SLIDING, .window = 1, .kv_heads = 1, ROWS(1, 1)},
                                          {.kind = KV_SINKS, .window = 16, .sinks = 40, .kv_heads = 1, ROWS(1, 1)}};
static const struct {
    const struct kv_layer *layers;
    uint32_t count;
} models[] = {{mixed, ARRAY_COUNT(mixed)}, {full, ARRAY_COUNT(full)}, {windows, ARRAY_COUNT(windows)}};

struct totals {
    uint64_t operations, shared, inside_blocks, full, failed, copied, refused_cuts, swaps_out, swaps_in, stopped;
    uint64_t offloaded, offload_refused, recalled, slices_read;
    uint64_t fetches, written, read, missed, bad, refused;
};

struct sim {
    struct kv_cache *cache;
    struct random random;
    struct kv_config config;
    struct sim_seq {
        struct fake_seq fake;
        uint32_t target;
        uint64_t opened, salt;
    } seqs[SEQS];
    struct past {
        uint32_t tokens[TOKENS_MAX], count;
    } history[HISTORY];
    struct fake_store stores[KV_LOWER_TIERS_MAX];
    struct kv_lower_tier lower[KV_LOWER_TIERS_MAX];
    struct kv_fetch *fetches[FETCHES];
    uint64_t clock;
    uint32_t check_every;
    bool thorough; /* every head verified, not one of them */
    struct totals *totals;
};

static uint32_t below(struct sim *sim, uint32_t limit)
{
    return (uint32_t)random_below(&sim->random, limit);
}

/* After each operation. */
static void check(struct sim *sim)
{
    struct error error = {0};
    if (sim->totals->operations++ % sim->check_every == 0 && kv_check(sim->cache, &error) != ST_OK)
        fail_msg("operation %llu: %s", (unsigned long long)sim->totals->operations, error.text);
}

/* `CALL`, now and then first with an allocation that fails: then nothing has changed, and it can be tried again. */
#define TRY(sim, status, call)                                 \
    do {                                                       \
        bool fails_ = below(sim, 12) == 0;                     \
        if (fails_) fault_arm(FAULT_ALLOC, 1 + below(sim, 8)); \
        status = call;                                         \
        fault_arm(FAULT_NONE, 0);                              \
        check(sim);                                            \
        if (status == ST_NOMEM) {                              \
            assert_true(fails_);                               \
            (sim)->totals->failed++;                           \
            status = call;                                     \
            check(sim);                                        \
        }                                                      \
    } while (0)

static struct sim_seq *free_slot(struct sim *sim)
{
    for (int i = 0; i < SEQS; i++)
        if (!sim->seqs[i].fake.seq) return &sim->seqs[i];
    return NULL;
}

static void open_fake(struct sim *sim, struct sim_seq *s, uint32_t prompt)
{
    enum status status;
    uint32_t cached;
    if (below(sim, 4)) {
        TRY(sim, status, kv_seq_open(sim->cache, s->fake.tokens, prompt, s->salt, &s->fake.seq, &cached));
        assert_int_equal(status, ST_OK);
    } else {
        TRY(sim, status, kv_seq_reopen(sim->cache, s->fake.tokens, prompt - 1, s->salt, &s->fake.seq));
        assert_int_equal(status, ST_OK);
        cached = kv_seq_count(s->fake.seq);
    }
    assert_true(cached < prompt && cached == kv_seq_count(s->fake.seq));
    s->fake.count = cached;
    s->fake.sparse_from = s->fake.recall = 0;
    s->opened = sim->clock++;
    fake_hash(&s->fake, 0, cached);
    sim->totals->shared += cached;
    sim->totals->inside_blocks += cached % sim->config.block_tokens != 0;
}

/* Prompts come from a few common beginnings, so that prefixes are shared, diverge, and come back after eviction; then
 * runs of one token: equal blocks after different prefixes. Or they continue what was closed before. */
static void open_seq(struct sim *sim, struct sim_seq *s)
{
    uint32_t family = below(sim, 4), same = below(sim, 200), first = 0;
    s->target = 1 + below(sim, TOKENS_MAX - 1);
    s->salt = below(sim, 8) == 0;
    const struct past *past = &sim->history[below(sim, HISTORY)];
    if (past->count && below(sim, 2)) {
        first = past->count - (below(sim, 2) ? 0 : below(sim, past->count < 40 ? past->count : 40));
        memcpy(s->fake.tokens, past->tokens, first * sizeof *s->fake.tokens);
        if (s->target <= first) s->target = first + 1 < TOKENS_MAX ? first + 1 : TOKENS_MAX;
    }
    for (uint32_t i = first; i < s->target; i++) {
        bool fresh = i == 0 || i == same || i % 64 == 0;
        s->fake.tokens[i] = i < same && !first    ? family * 1000 + i
                            : fresh || i == first ? below(sim, 3)
                                                  : s->fake.tokens[i - 1];
    }
    open_fake(sim, s, 1 + below(sim, s->target));
}

static void close_seq(struct sim *sim, struct sim_seq *s)
{
    if (!s->fake.seq) return;
    struct past *past = &sim->history[below(sim, HISTORY)];
    memcpy(past->tokens, s->fake.tokens, s->fake.count * sizeof *past->tokens);
    past->count = s->fake.count;
    kv_seq_close(s->fake.seq);
    s->fake.seq = NULL;
    check(sim);
}

static void fork_seq(struct sim *sim, struct sim_seq *s, struct sim_seq *to)
{
    enum status status;
    *to = *s;
    TRY(sim, status, kv_seq_fork(s->fake.seq, &to->fake.seq));
    assert_true(status == ST_OK || (status == ST_UNSUPPORTED && s->fake.recall && !to->fake.seq));
    if (status != ST_OK) return;
    to->opened = sim->clock++;
    for (uint32_t i = to->fake.count; i < to->target && below(sim, 2); i++) to->fake.tokens[i] = below(sim, 2);
}

/* What comes after is often the same again: a cut block meets its own continuation. */
static void truncate_seq(struct sim *sim, struct sim_seq *s)
{
    uint32_t count = below(sim, 2) ? below(sim, s->fake.count + 1) : s->fake.count - below(sim, s->fake.count % 8 + 1);
    if (kv_seq_truncate(s->fake.seq, count) == ST_OK) {
        s->fake.count = count;
        if (below(sim, 2) && count < s->target) s->fake.tokens[count] = below(sim, 3);
    } else {
        sim->totals->refused_cuts++;
    }
    assert_int_equal(kv_seq_count(s->fake.seq), s->fake.count);
    check(sim);
}

/* Its rows are others from now on: whoever found one of them would see it by value. */
static void stop_publishing(struct sim *sim, struct sim_seq *s)
{
    if (!s->fake.sparse_from && s->fake.count) s->fake.sparse_from = s->fake.count;
    if (s->fake.sparse_from) kv_seq_stop_publishing(s->fake.seq);
    sim->totals->stopped++;
    check(sim);
}

/* A step further out of what lies behind a sparse sequence's window, now and then on a disk that is full. */
static void offload_seq(struct sim *sim, struct sim_seq *s)
{
    uint64_t before = below(sim, 4) ? 0 : 1 + below(sim, 6);
    enum status status;
    if (!s->fake.sparse_from) s->fake.sparse_from = s->fake.count;
    kv_seq_stop_publishing(s->fake.seq); /* one that was opened again has not */
    if (!s->fake.recall) s->fake.recall = 1 + below(sim, 6);
    uint32_t to = s->fake.count - below(sim, s->fake.count < 60 ? s->fake.count + 1 : 60), most = 1 + below(sim, 8);
    fault_arm(before ? FAULT_WRITE : FAULT_ALLOC, before ? before : below(sim, 12));
    status = kv_seq_offload(s->fake.seq, 20, to, s->fake.recall * 16, most);
    fault_arm(FAULT_NONE, 0);
    check(sim);
    assert_true(status == ST_OK || status == ST_IO || status == ST_FULL || status == ST_LIMIT || status == ST_NOMEM ||
                status == ST_UNSUPPORTED);
    *(status == ST_OK ? &sim->totals->offloaded : &sim->totals->offload_refused) += 1;
}

static void pin_prefix(struct sim *sim)
{
    static const char *const names[] = {"system", "tools", "a long document"};
    const char *name = names[below(sim, ARRAY_COUNT(names))];
    const struct past *past = &sim->history[below(sim, HISTORY)];
    struct kv_prefix list[ARRAY_COUNT(names)];
    enum status status;
    uint32_t pinned;
    if (below(sim, 2)) {
        status = kv_prefix_unpin(sim->cache, name);
        assert_true(status == ST_OK || status == ST_NOT_FOUND);
        check(sim);
    } else {
        TRY(sim, status, kv_prefix_pin(sim->cache, name, past->tokens, past->count, 0, &pinned));
        assert_true(status == ST_OK ? pinned && pinned <= past->count : status == ST_NOT_FOUND || status == ST_LIMIT);
    }
    assert_true(kv_prefix_list(sim->cache, list, ARRAY_COUNT(list)) <= ARRAY_COUNT(list));
}

/* Writes and verifies; of all heads when thorough, else one. */
static void pass(struct sim *sim, struct sim_seq *s, uint32_t chunk)
{
    enum status status;
    struct kv_batch *batch;
    fake_hash(&s->fake, s->fake.count, s->fake.count + chunk);
    TRY(sim, status, kv_batch_pin(sim->cache, &s->fake.seq, 1, &batch));
    assert_int_equal(status, ST_OK);
    for (uint32_t layer = 0; layer < sim->config.layer_count; layer++) {
        fake_write_layer(&s->fake, &sim->config, layer, chunk);
        for (uint32_t i = 0; i < chunk && sim->thorough; i += 1 + chunk / 3)
            for (uint32_t h = 0; h < sim->config.layers[layer].kv_heads; h++)
                fake_verify_head(&s->fake, &sim->config, layer, h, s->fake.count + i);
    }
    uint32_t layer = below(sim, sim->config.layer_count), heads = sim->config.layers[layer].kv_heads;
    if (!sim->thorough && heads)
        fake_verify_head(&s->fake, &sim->config, layer, below(sim, heads), s->fake.count + chunk - 1);
    kv_batch_unpin(batch);
    kv_seq_commit(s->fake.seq, s->fake.tokens + s->fake.count, chunk);
    s->fake.count += chunk;
    check(sim);
}

/* Out or in, whichever it is not; also while it is on its way. */
static void swap_seq(struct sim *sim, struct sim_seq *s)
{
    enum status status;
    enum kv_residence residence = kv_seq_residence(s->fake.seq);
    if (residence == KV_RESIDENT || residence == KV_SWAPPING_IN)
        TRY(sim, status, kv_seq_swap_out(s->fake.seq));
    else
        TRY(sim, status, kv_seq_swap_in(s->fake.seq));
    assert_true(status == ST_OK || status == ST_FULL);
    assert_int_equal(kv_seq_count(s->fake.seq), s->fake.count);
}

/* What the mover did is seen here only, and all of it: so that a seed is always the same trace. */
static void poll(struct sim *sim)
{
    assert_false(kv_swap_poll(sim->cache, true));
    check(sim);
    kv_lower_poll(sim->cache, below(sim, 4) ? 0 : 0.001);
    check(sim);
}

/* A fetch of what was closed before, of what it goes on with, or of what nobody ever had, opened, taken on, or given up. */
static void fetch_any(struct sim *sim)
{
    struct kv_fetch **fetch = &sim->fetches[below(sim, FETCHES)];
    const struct past *past = &sim->history[below(sim, HISTORY)];
    struct kv_fetch_info info;
    enum status status;
    if (!*fetch) {
        TRY(sim, status, kv_fetch_open(sim->cache, past->tokens, past->count, below(sim, 8) == 0, fetch));
        assert_int_equal(status, ST_OK);
        sim->totals->fetches += *fetch != NULL;
        return;
    }
    for (uint32_t i = below(sim, 40); i > 0; i--) kv_lower_poll(sim->cache, 0.001);
    check(sim);
    kv_fetch_info(*fetch, &info);
    assert_true(info.cached <= info.found || info.state == KV_FETCH_LOOKING || info.state == KV_FETCH_DONE);
    if (info.state == KV_FETCH_FOUND) {
        TRY(sim, status, kv_fetch_start(*fetch));
        assert_true(status == ST_OK || status == ST_FULL);
    } else if (info.state == KV_FETCH_DONE || below(sim, 8) == 0) {
        kv_fetch_close(*fetch);
        *fetch = NULL;
        check(sim);
    }
}

static uint32_t open_count(const struct sim *sim)
{
    uint32_t count = 0;
    for (int i = 0; i < SEQS; i++)
        count += sim->seqs[i].fake.seq && kv_seq_residence(sim->seqs[i].fake.seq) != KV_SWAPPED;
    return count;
}

/* Preempts the youngest that holds blocks, at last `s` itself: false. Some are swapped out, some are opened again at once,
 * on what they left in the cache. */
static bool preempt(struct sim *sim, struct sim_seq *s)
{
    struct sim_seq *youngest = s;
    assert_true(open_count(sim) > 1); /* one alone always fits */
    sim->totals->full++;
    for (int i = 0; i < SEQS; i++) {
        struct sim_seq *other = &sim->seqs[i];
        if (other->fake.seq && kv_seq_residence(other->fake.seq) != KV_SWAPPED && other->opened > youngest->opened)
            youngest = other;
    }
    if (below(sim, 2) && kv_seq_residence(youngest->fake.seq) == KV_RESIDENT) {
        swap_seq(sim, youngest);
        poll(sim);
        if (kv_seq_residence(youngest->fake.seq) == KV_SWAPPED) return youngest != s;
    }
    uint32_t count = youngest->fake.count;
    close_seq(sim, youngest);
    if (count && below(sim, 4) == 0) open_fake(sim, youngest, count + (count < youngest->target));
    return youngest != s;
}

static void step(struct sim *sim, struct sim_seq *s)
{
    uint32_t chunk = 1 + below(sim, below(sim, 2) ? 2 : CHUNK_MAX);
    if (chunk > s->target - s->fake.count) chunk = s->target - s->fake.count;
    enum status status;
    for (;;) {
        TRY(sim, status, kv_seq_reserve(s->fake.seq, chunk));
        if (status == ST_OK) break;
        assert_int_equal(status, ST_FULL);
        if (!preempt(sim, s)) return;
    }
    if (below(sim, 30) == 0) return; /* the step did not come to its pass */
    pass(sim, s, chunk);
    if (s->fake.count == s->target) close_seq(sim, s);
}

static void operate(struct sim *sim)
{
    struct sim_seq *slot = free_slot(sim), *any = &sim->seqs[below(sim, SEQS)];
    uint32_t dice = below(sim, 240);
    if (below(sim, 6) == 0) poll(sim);
    if (sim->config.lower_count && below(sim, 3) == 0) fetch_any(sim);
    if (slot && dice < 30) {
        open_seq(sim, slot);
    } else if (!any->fake.seq) {
        if (dice < 60) pin_prefix(sim);
    } else if (dice < 34) {
        close_seq(sim, any);
    } else if (dice < 40 || kv_seq_residence(any->fake.seq) != KV_RESIDENT) {
        if (dice < 100) swap_seq(sim, any);
    } else if (dice < 50) {
        if (slot) fork_seq(sim, any, slot);
    } else if (dice < 60) {
        truncate_seq(sim, any);
    } else if (dice < 64) {
        stop_publishing(sim, any);
    } else if (dice < 150 && sim->config.layers == mixed && any->fake.count >= 80) {
        offload_seq(sim, any);
    } else if (any->fake.count < any->target) {
        step(sim, any);
    }
}

static void add_lower(struct sim *sim)
{
    struct kv_lower_stats stats[KV_LOWER_TIERS_MAX];
    uint32_t count = kv_lower_stats(sim->cache, stats);
    assert_int_equal(count, sim->config.lower_count);
    for (uint32_t t = 0; t < count; t++) {
        sim->totals->written += stats[t].written_blocks;
        sim->totals->refused += stats[t].refused_blocks;
        sim->totals->read += stats[t].read_blocks;
        sim->totals->missed += stats[t].missed_blocks;
        sim->totals->bad += stats[t].bad_blocks;
    }
}

/* Closes everything; the stores stay. */
static void shut(struct sim *sim)
{
    struct error error;
    struct kv_stats stats;
    for (int i = 0; i < SEQS; i++) close_seq(sim, &sim->seqs[i]);
    for (int i = 0; i < FETCHES; i++) {
        kv_fetch_close(sim->fetches[i]);
        sim->fetches[i] = NULL;
    }
    add_lower(sim);
    kv_stats(sim->cache, &stats);
    sim->totals->swaps_out += stats.swaps_out;
    sim->totals->swaps_in += stats.swaps_in;
    sim->totals->recalled += stats.recalled_slices;
    sim->totals->slices_read += stats.read_slices;
    assert_true(stats.bytes_swapped <= stats.bytes_swap_max && stats.bytes_offloaded == 0);
    assert_true(stats.sequences == 0 && (stats.blocks_used == 0) == (stats.pinned_prefixes == 0));
    assert_true(stats.bytes_used + stats.bytes_cached <= stats.bytes_mapped && stats.bytes_mapped <= stats.bytes_max);
    if (!sim->config.share_prefixes) assert_int_equal(stats.bytes_mapped, 0); /* idle: all is given back */
    sim->totals->copied += stats.copied_blocks;
    assert_int_equal(kv_check(sim->cache, &error), ST_OK);
    kv_close(sim->cache);
}

static void configure(struct sim *sim, uint64_t seed)
{
    static const uint32_t key_bits[] = {0, 16, 0, 2}; /* with 2 bits keys collide all the time */
    uint32_t model = below(sim, ARRAY_COUNT(models));
    sim->config = (struct kv_config){.layers = models[model].layers,
                                     .layer_count = models[model].count,
                                     .block_tokens = 16u << below(sim, 3),
                                     .protected_percent = below(sim, 3) ? KV_PROTECTED_PERCENT : 5 * below(sim, 3),
                                     .kernel = &fake_kernel,
                                     .share_prefixes = below(sim, 8) > 0,
                                     .key_bits = key_bits[seed % ARRAY_COUNT(key_bits)]};
    bool lower = sim->config.share_prefixes && !sim->config.key_bits && below(sim, 4);
    sim->config.lower = sim->lower;
    sim->config.lower_count = lower ? 1 + below(sim, 2) : 0;
    sim->config.lower_queue_bytes = 1u << (10 + below(sim, 12));
    sim->config.lower_close_s = 0.01 * below(sim, 2);
    for (uint32_t t = 0; t < KV_LOWER_TIERS_MAX; t++) {
        struct fake_store *store = &sim->stores[t];
        fake_store_init(store);
        sim->lower[t] = (struct kv_lower_tier){t ? KV_TIER_REMOTE : KV_TIER_DISK, &store->store};
        store->seed = seed;
        store->refused = below(sim, 2) ? 0 : below(sim, 64);
        store->vanished = below(sim, 2) ? 0 : below(sim, 64);
        store->damaged = below(sim, 2) ? 0 : below(sim, 64);
        store->mixed = below(sim, 2) ? 0 : below(sim, 64);
        store->blobs_max = below(sim, 4) ? 0 : below(sim, 200);
        store->delay_s = below(sim, 4) ? 0 : 1e-5 * below(sim, 20);
    }
    uint64_t one = kv_bytes_needed(&sim->config, TOKENS_MAX, CHUNK_MAX);
    sim->config.offload_folder = below(sim, 4) ? "." : NULL;
    sim->config.offload_bytes_max = below(sim, 4) ? UINT64_MAX : random_below(&sim->random, one);
    sim->config.bytes_pinned_max = below(sim, 2) ? one / 2 : 0;
    sim->config.swap_bytes_max = below(sim, 4) ? random_below(&sim->random, 3 * one) : 0;
    sim->config.bytes_max = one + sim->config.bytes_pinned_max + random_below(&sim->random, 2 * one);
}

static void run_seed(uint64_t seed, uint64_t operations, struct sim *sim)
{
    random_seed(&sim->random, seed);
    configure(sim, seed);
    struct error error;
    assert_int_equal(kv_open(&sim->config, &sim->cache, &error), ST_OK);
    for (int i = 0; i < HISTORY; i++) sim->history[i].count = 0;
    for (uint64_t end = sim->totals->operations + operations; sim->totals->operations < end;) {
        operate(sim);
        if (!sim->config.lower_count || below(sim, 150)) continue;
        shut(sim); /* a restart: what was computed is below RAM only */
        assert_int_equal(kv_open(&sim->config, &sim->cache, &error), ST_OK);
    }
    shut(sim);
    for (uint32_t t = 0; t < KV_LOWER_TIERS_MAX; t++) fake_store_release(&sim->stores[t]);
}

static void test_simulation(void **state)
{
    (void)state;
    static struct sim sim;
    struct totals totals = {0};
    uint32_t total = test_count(40000, 10000000);
    sim = (struct sim){.totals = &totals, .check_every = test_count(1, 16), .thorough = test_count(1, 0)};
    for (uint64_t seed = 1; totals.operations < total; seed++) run_seed(seed, 1000, &sim);
    print_message(
        "%llu operations: %llu tokens shared, %llu times inside a block, %llu blocks copied, %llu times full, "
        "%llu failed allocations, %llu cuts refused, %llu swaps out, %llu in, %llu times told to stop publishing\n",
        (unsigned long long)totals.operations, (unsigned long long)totals.shared,
        (unsigned long long)totals.inside_blocks, (unsigned long long)totals.copied, (unsigned long long)totals.full,
        (unsigned long long)totals.failed, (unsigned long long)totals.refused_cuts,
        (unsigned long long)totals.swaps_out, (unsigned long long)totals.swaps_in, (unsigned long long)totals.stopped);
    print_message("below RAM: %llu fetches, %llu blocks written, %llu refused, %llu read, %llu gone, %llu bad\n",
                  (unsigned long long)totals.fetches, (unsigned long long)totals.written,
                  (unsigned long long)totals.refused, (unsigned long long)totals.read,
                  (unsigned long long)totals.missed, (unsigned long long)totals.bad);
    print_message("offloaded %llu times, not %llu times; slices: %llu read, %llu still there\n",
                  (unsigned long long)totals.offloaded, (unsigned long long)totals.offload_refused,
                  (unsigned long long)totals.slices_read, (unsigned long long)totals.recalled);
    /* The trace did all that it is there for. */
    assert_true(totals.shared > 10000 && totals.inside_blocks > 100 && totals.copied > 100 && totals.full > 100);
    assert_true(totals.failed > 100 && totals.refused_cuts > 10);
    assert_true(totals.swaps_out > 150 && totals.swaps_in > 100 && totals.stopped > 100);
    assert_true(totals.offloaded > 100 && totals.offload_refused > 100);
    assert_true(totals.slices_read > 100 && totals.recalled > 100);
    assert_true(totals.fetches > 100 && totals.written > 500 && totals.read > 50);
    assert_true(totals.refused > 20 && totals.missed > 0 && totals.bad > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_simulation)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
