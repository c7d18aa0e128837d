/* test_kv_lower.c - the tiers below RAM: what is published is found by another cache, the same bytes; what a store has lost,
 * mixed up or damaged is a miss; two tiers; limits. Stores are fakes (store_fake.h); test_kv_sim.c mixes them with everything
 * else. */
#include "kv/kv_internal.h"
#include "kv_requests.h"
#include "store_fake.h"

#define PATIENCE_S 20.0

struct fixture {
    struct fake_store fakes[2];
    struct kv_lower_tier tiers[2];
    struct kv_config config;
};

/* `s` has its text. */
static void fixture_init(struct fixture *f, struct fake_seq *s, bool windows, uint32_t tiers)
{
    say(s, 0, 0, FAKE_TOKENS_MAX);
    f->config = windows ? config_of(hybrid, ARRAY_COUNT(hybrid), 16) : config_of(full, 1, 16);
    for (uint32_t t = 0; t < 2; t++) {
        fake_store_init(&f->fakes[t]);
        f->tiers[t] = (struct kv_lower_tier){t ? KV_TIER_REMOTE : KV_TIER_DISK, &f->fakes[t].store};
    }
    f->config.lower = f->tiers;
    f->config.lower_count = tiers;
    f->config.lower_queue_bytes = 1 << 20;
    f->config.lower_close_s = PATIENCE_S;
}

static void fixture_release(struct fixture *f)
{
    for (uint32_t t = 0; t < 2; t++) fake_store_release(&f->fakes[t]);
}

/* One process computes the first `count` tokens; when it has ended, the stores have them. */
static void compute(struct fake_seq *s, struct fixture *f, uint32_t count)
{
    struct kv_cache *cache = open_cache(&f->config);
    request(s, cache, &f->config, count, count);
    assert_true(kv_lower_flush(cache, PATIENCE_S));
    kv_close(cache);
}

/* Until the fetch needs something of its owner. */
static struct kv_fetch_info wait_for(struct kv_cache *cache, struct kv_fetch *fetch)
{
    struct kv_fetch_info info;
    for (uint32_t i = 0; i < 100000; i++) {
        kv_fetch_info(fetch, &info);
        if (info.state == KV_FETCH_FOUND || info.state == KV_FETCH_DONE) break;
        kv_lower_poll(cache, 1);
        stats_of(cache);
    }
    return info;
}

/* All that the stores have of the first `count` tokens, read and cached; how many tokens are cached then. */
static uint32_t fetch_all(struct fake_seq *s, struct kv_cache *cache, uint32_t count)
{
    struct kv_fetch *fetch;
    struct kv_fetch_info info = {0};
    assert_int_equal(kv_fetch_open(cache, s->tokens, count, 0, &fetch), ST_OK);
    if (!fetch) return 0;
    while ((info = wait_for(cache, fetch)).state == KV_FETCH_FOUND) {
        assert_true(info.found > info.cached && info.bytes_left > 0);
        assert_int_equal(kv_fetch_start(fetch), ST_OK);
        stats_of(cache);
    }
    assert_int_equal(info.state, KV_FETCH_DONE);
    kv_fetch_close(fetch);
    stats_of(cache);
    return info.arrived;
}

/* One process computes, the next one finds it. */
static void test_restart(void **state)
{
    (void)state;
    static struct fake_seq s;
    static const uint32_t counts[] = {15, 16, 17, 333, 500, 1000};
    for (uint32_t windows = 0; windows < 2; windows++)
        for (uint32_t i = 0; i < ARRAY_COUNT(counts); i++) {
            struct fixture f;
            fixture_init(&f, &s, windows, 1);
            struct kv_cache *cache = open_cache(&f.config);
            assert_int_equal(request(&s, cache, &f.config, counts[i], counts[i]), 0);
            assert_true(kv_lower_flush(cache, PATIENCE_S));
            struct kv_lower_stats stats[KV_LOWER_TIERS_MAX];
            assert_int_equal(kv_lower_stats(cache, stats), 1);
            assert_true(stats[0].tier == KV_TIER_DISK && stats[0].skipped_blocks + stats[0].refused_blocks == 0);
            assert_int_equal(stats[0].written_blocks, counts[i] / 16 * (windows ? 2 : 1));
            kv_close(cache);
            cache = open_cache(&f.config);
            uint32_t whole = (counts[i] - 1) / 16 * 16;
            assert_int_equal(fetch_all(&s, cache, counts[i]), whole);
            kv_lower_stats(cache, stats);
            uint64_t needed = whole / 16 + (windows ? (whole < 64 ? whole / 16 : 4) : 0);
            assert_int_equal(stats[0].read_blocks, needed);
            assert_int_equal(stats[0].written_blocks, 0);                                 /* it is there already */
            assert_int_equal(request(&s, cache, &f.config, counts[i], counts[i]), whole); /* every row is verified */
            struct kv_fetch *fetch;                                                       /* another salt's */
            assert_int_equal(kv_fetch_open(cache, s.tokens, counts[i], 7, &fetch), ST_OK);
            if (fetch) assert_int_equal(wait_for(cache, fetch).state, KV_FETCH_DONE);
            kv_fetch_close(fetch);
            kv_close(cache);
            cache = open_cache(&f.config);
            s.tokens[counts[i] / 2] ^= 1; /* of a prompt that goes on differently the common part */
            assert_int_equal(fetch_all(&s, cache, counts[i]), counts[i] / 2 / 16 * 16);
            request(&s, cache, &f.config, counts[i], counts[i]);
            kv_close(cache);
            fixture_release(&f);
        }
}

/* Whatever a store does, what is served is right, and everything else is still to be computed. */
static void test_bad_stores(void **state)
{
    (void)state;
    static struct fake_seq s;
    uint32_t hits = 0;
    uint64_t bad = 0, missed = 0, refused = 0;
    for (uint32_t seed = 0; seed < 200; seed++) {
        struct fixture f;
        fixture_init(&f, &s, seed & 1, 1 + (seed >> 1 & 1));
        for (uint32_t t = 0; t < 2; t++) {
            f.fakes[t].seed = seed;
            f.fakes[t].refused = seed % 3 == 0 ? 8 : 0;
            f.fakes[t].vanished = seed % 5 == 0 ? 20 : 0;
            f.fakes[t].damaged = seed % 7 == 0 ? 20 : 0;
            f.fakes[t].mixed = seed % 11 == 0 ? 20 : 0;
            f.fakes[t].blobs_max = seed % 13 == 0 ? 40 : 0;
        }
        struct kv_lower_stats stats[KV_LOWER_TIERS_MAX];
        struct kv_cache *cache = open_cache(&f.config);
        request(&s, cache, &f.config, 600, 600);
        assert_true(kv_lower_flush(cache, PATIENCE_S));
        kv_lower_stats(cache, stats);
        refused += stats[0].refused_blocks;
        kv_close(cache);
        cache = open_cache(&f.config);
        uint32_t arrived = fetch_all(&s, cache, 600);
        assert_int_equal(request(&s, cache, &f.config, 600, 600), arrived);
        hits += arrived > 0;
        kv_lower_stats(cache, stats);
        bad += stats[0].bad_blocks;
        missed += stats[0].missed_blocks;
        kv_close(cache);
        fixture_release(&f);
    }
    assert_true(hits > 100 && bad > 20 && missed > 20 && refused > 50);
}

/* Found afar, put near; lost near, found afar. */
static void test_two_tiers(void **state)
{
    (void)state;
    static struct fake_seq s;
    for (uint32_t windows = 0; windows < 2; windows++) {
        struct fixture f;
        fixture_init(&f, &s, windows, 2);
        compute(&s, &f, 500);
        assert_true(f.fakes[0].count > 0 && f.fakes[0].count == f.fakes[1].count);
        fake_store_release(&f.fakes[0]);
        fake_store_init(&f.fakes[0]); /* an empty folder */
        struct kv_cache *cache = open_cache(&f.config);
        assert_int_equal(fetch_all(&s, cache, 500), 496);
        struct kv_lower_stats stats[KV_LOWER_TIERS_MAX];
        assert_true(kv_lower_flush(cache, PATIENCE_S));
        assert_int_equal(kv_lower_stats(cache, stats), 2);
        assert_true(stats[0].read_blocks == 0 && stats[1].read_blocks == stats[0].written_blocks);
        assert_int_equal(stats[1].written_blocks, 0);
        kv_close(cache);
        f.fakes[0].vanished = 128;
        cache = open_cache(&f.config);
        assert_int_equal(fetch_all(&s, cache, 500), 496);
        kv_lower_stats(cache, stats);
        assert_true(stats[0].read_blocks > 0 && stats[0].missed_blocks > 0 && stats[1].read_blocks > 0);
        assert_int_equal(request(&s, cache, &f.config, 500, 500), 496);
        kv_close(cache);
        fixture_release(&f);
    }
}

/* A store that is slower than what is computed is skipped, not waited for; and closing waits no longer than it was told. */
static void test_slow_store(void **state)
{
    (void)state;
    static struct fake_seq s;
    struct fixture f;
    fixture_init(&f, &s, false, 1);
    f.fakes[0].delay_s = 0.02;
    f.config.lower_queue_bytes = 4096; /* nine blocks */
    f.config.lower_close_s = 0.05;
    struct kv_cache *cache = open_cache(&f.config);
    double began = clock_seconds();
    request(&s, cache, &f.config, 1000, 1000);
    struct kv_lower_stats stats[KV_LOWER_TIERS_MAX];
    kv_lower_poll(cache, 0);
    kv_lower_stats(cache, stats);
    assert_true(stats[0].skipped_blocks > 40);
    kv_close(cache);
    assert_true(clock_seconds() - began < 0.7); /* to write 62 blocks would take 1.2 s */
    fixture_release(&f);
}

/* What was skipped, or lost below, goes down again when it is found in RAM; what is below does not, until it is long ago. */
static void test_refresh(void **state)
{
    (void)state;
    static struct fake_seq s;
    for (uint32_t windows = 0; windows < 2; windows++) {
        struct fixture f;
        struct kv_lower_stats stats[KV_LOWER_TIERS_MAX];
        fixture_init(&f, &s, windows, 1);
        f.config.lower_queue_bytes = 4096;
        struct kv_cache *cache = open_cache(&f.config);
        f.fakes[0].delay_s = 0.001;
        request(&s, cache, &f.config, 1000, 1000);
        kv_lower_stats(cache, stats);
        assert_true(stats[0].skipped_blocks > 0);
        f.fakes[0].delay_s = 0;
        for (uint32_t i = 0; i < 70; i++) { /* a few more each time */
            assert_true(kv_lower_flush(cache, PATIENCE_S));
            request(&s, cache, &f.config, 1000, 1000);
        }
        assert_true(kv_lower_flush(cache, PATIENCE_S));
        kv_lower_stats(cache, stats);
        uint64_t written = stats[0].written_blocks;
        assert_int_equal(f.fakes[0].count, (windows ? 2 : 1) * (1000 / 16));
        request(&s, cache, &f.config, 1000, 1000);
        assert_true(kv_lower_flush(cache, PATIENCE_S));
        kv_lower_stats(cache, stats);
        assert_int_equal(stats[0].written_blocks, written);
        for (uint32_t n = 0; n < cache->tree.slab_count * PREFIX_SLAB_NODES; n++)
            if (prefix_node(cache, n)->sent_s > 1) prefix_node(cache, n)->sent_s -= 601; /* ten minutes later */
        request(&s, cache, &f.config, 1000, 1000);
        assert_true(kv_lower_flush(cache, PATIENCE_S));
        kv_lower_stats(cache, stats);
        assert_true(stats[0].written_blocks > written);
        kv_close(cache);
        fixture_release(&f);
    }
}

/* Several fetches: one reads at a time; what one has read the next one finds; given up at any moment. */
static void test_fetches_together(void **state)
{
    (void)state;
    static struct fake_seq s;
    for (uint32_t variant = 0; variant < 64; variant++) {
        struct fixture f;
        fixture_init(&f, &s, variant & 1, 1);
        f.config.lower_queue_bytes = variant & 2 ? 4096 : 1 << 20;
        struct kv_cache *cache = open_cache(&f.config);
        request(&s, cache, &f.config, 1000, 1000);
        assert_true(kv_lower_flush(cache, PATIENCE_S) || variant & 2);
        kv_close(cache);
        f.fakes[0].delay_s = 0.0002;
        cache = open_cache(&f.config);
        struct kv_fetch *a, *b;
        assert_int_equal(kv_fetch_open(cache, s.tokens, 1000, 0, &a), ST_OK);
        assert_int_equal(kv_fetch_open(cache, s.tokens, 500, 0, &b), ST_OK);
        if (variant & 4) kv_fetch_close(a), a = NULL; /* while it looks */
        if (a && wait_for(cache, a).state == KV_FETCH_FOUND) assert_int_equal(kv_fetch_start(a), ST_OK);
        bool found = wait_for(cache, b).state == KV_FETCH_FOUND;
        if (a && found && !(variant & 2)) {
            enum status status = kv_fetch_start(b);
            assert_true(status == ST_FULL || status == ST_OK); /* OK: all of b's prefix had come already */
        }
        for (uint32_t i = 0; i < variant / 8; i++) kv_lower_poll(cache, 0.001);
        stats_of(cache);
        kv_fetch_close(a); /* while it reads */
        stats_of(cache);
        kv_fetch_close(b);
        request(&s, cache, &f.config, 1000, 1000);
        kv_close(cache); /* while the reader is still at it */
        fixture_release(&f);
    }
}

/* What a fetch holds is given up when it is needed: one sequence alone always fits. */
static void test_fetch_gives_way(void **state)
{
    (void)state;
    static struct fake_seq s, other;
    for (uint32_t windows = 0; windows < 2; windows++) {
        struct fixture f;
        fixture_init(&f, &s, windows, 1);
        f.config.bytes_max = kv_bytes_needed(&f.config, 1000, 48);
        f.config.lower_queue_bytes = 8192;
        say(&other, 1, 0, FAKE_TOKENS_MAX);
        struct kv_cache *cache = open_cache(&f.config);
        for (uint32_t done = 48; done < 960; done += 48) { /* so slowly that nothing is skipped */
            request(&s, cache, &f.config, done, done);
            assert_true(kv_lower_flush(cache, PATIENCE_S));
        }
        kv_close(cache);
        f.fakes[0].delay_s = 0.001;
        cache = open_cache(&f.config);
        open_fake(&other, cache, 1);
        assert_true(run_to(&other, cache, &f.config, 300));
        struct kv_fetch *fetch;
        assert_int_equal(kv_fetch_open(cache, s.tokens, 900, 0, &fetch), ST_OK);
        assert_int_equal(wait_for(cache, fetch).state, KV_FETCH_FOUND);
        assert_int_equal(kv_fetch_start(fetch), ST_OK);
        struct kv_fetch_info info;
        for (uint32_t i = 0; i < 100; i++) kv_lower_poll(cache, 0.001);
        assert_true(run_to(&other, cache, &f.config, 1000));
        kv_fetch_info(fetch, &info);
        assert_int_equal(info.state, KV_FETCH_DONE);
        kv_seq_close(other.seq);
        kv_fetch_close(fetch);
        stats_of(cache);
        request(&s, cache, &f.config, 1000, 1000);
        kv_close(cache);
        fixture_release(&f);
    }
}

struct seen {
    uint32_t stored[4], removed[4];
};

static void see(void *data, const struct kv_event *event)
{
    struct seen *seen = data;
    assert_true(event->group < 2 && event->token_count <= 16 && event->bytes > 0);
    ++*(event->kind == KV_EVENT_STORED ? &seen->stored[event->tier] : &seen->removed[event->tier]);
}

static void test_events(void **state)
{
    (void)state;
    static struct fake_seq s;
    struct fixture f;
    struct seen seen = {0};
    fixture_init(&f, &s, true, 2);
    struct kv_cache *cache = open_cache(&f.config);
    kv_events_set(cache, see, &seen);
    request(&s, cache, &f.config, 320, 320);
    assert_true(kv_lower_flush(cache, PATIENCE_S));
    assert_int_equal(seen.stored[KV_TIER_MEMORY], 40);
    assert_int_equal(seen.stored[KV_TIER_DISK], 40);
    assert_int_equal(seen.stored[KV_TIER_REMOTE], 40);
    kv_close(cache);
    f.fakes[0].damaged = 256;
    f.config.lower_count = 1;
    cache = open_cache(&f.config);
    kv_events_set(cache, see, &seen);
    assert_int_equal(fetch_all(&s, cache, 320), 0);
    assert_true(seen.removed[KV_TIER_DISK] > 0);
    kv_close(cache);
    fixture_release(&f);
}

/* A store that has never been read was measured when the cache opened. */
static void test_measured_at_open(void **state)
{
    (void)state;
    static struct fake_seq s;
    struct fixture f;
    fixture_init(&f, &s, false, 1);
    compute(&s, &f, 500);
    uint32_t blobs = f.fakes[0].count;
    f.fakes[0].delay_s = 0.002;
    struct kv_cache *cache = open_cache(&f.config);
    struct kv_fetch *fetch;
    assert_int_equal(kv_fetch_open(cache, s.tokens, 500, 0, &fetch), ST_OK);
    struct kv_fetch_info info = wait_for(cache, fetch);
    assert_int_equal(info.state, KV_FETCH_FOUND);
    assert_true(info.left_s > 0.5 * 0.002 * 496 / 16 && info.left_s < 100 * 0.002 * 496 / 16);
    assert_int_equal(f.fakes[0].count, blobs); /* what it was measured by is gone */
    kv_fetch_close(fetch);
    kv_close(cache);
    fixture_release(&f);
}

/* Another block size, another provenance: nothing is found, and nothing is refused. */
static void test_others_rows(void **state)
{
    (void)state;
    static struct fake_seq s;
    struct fixture f;
    fixture_init(&f, &s, false, 1);
    compute(&s, &f, 500);
    f.config.block_tokens = 32;
    struct kv_cache *cache = open_cache(&f.config);
    assert_int_equal(fetch_all(&s, cache, 500), 0);
    kv_close(cache);
    f.config.block_tokens = 16;
    /* Other heads beside them change nothing of a group's rows: they are there already. */
    const struct kv_layer wider[] = {full[0], {.kind = KV_SLIDING, .window = 40, .kv_heads = 1, ROWS(1, 1)}};
    f.config.layers = wider;
    f.config.layer_count = 2;
    cache = open_cache(&f.config);
    assert_int_equal(fetch_all(&s, cache, 500), 0);
    request(&s, cache, &f.config, 500, 500);
    kv_close(cache);
    assert_int_equal(f.fakes[0].count, 2 * (500 / 16));
    f.config.layers = full;
    f.config.layer_count = 1;
    f.config.provenance[5] = 1;
    cache = open_cache(&f.config);
    assert_int_equal(fetch_all(&s, cache, 500), 0);
    kv_close(cache);
    fixture_release(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_restart),          cmocka_unit_test(test_bad_stores),
        cmocka_unit_test(test_two_tiers),        cmocka_unit_test(test_slow_store),
        cmocka_unit_test(test_fetches_together), cmocka_unit_test(test_fetch_gives_way),
        cmocka_unit_test(test_refresh),          cmocka_unit_test(test_events),
        cmocka_unit_test(test_measured_at_open), cmocka_unit_test(test_others_rows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
