/* test_kv.c - what the KV cache promises, one promise a test; test_kv_sim.c mixes them all. */
#include "kv/kv_internal.h"
#include "kv_requests.h"

/* ---- sharing ----------------------------------------------------------------------------------------------------- */

/* Each turn computes only what is new, on models with windows too, and in a budget that holds no more than one sequence. */
static void test_chat_computes_what_is_new(void **state)
{
    (void)state;
    static struct fake_seq s;
    for (uint32_t variant = 0; variant < 8; variant++) {
        bool tight = variant & 1, windows = variant & 2;
        struct kv_config config = windows ? config_of(hybrid, ARRAY_COUNT(hybrid), 32) : config_of(full, 1, 32);
        if (tight) config.bytes_max = kv_bytes_needed(&config, 1000, 48);
        struct kv_cache *cache = open_cache(&config);
        uint32_t before = 0;
        for (uint32_t turn = 0; before < 900; turn++) {
            uint32_t prompt = before + 17 + 7 * turn, answer = prompt + 41 + turn;
            uint32_t parted = variant & 4 && before ? before - 5 : before; /* a template that renders the end anew */
            say(&s, turn, parted, answer);
            assert_int_equal(request(&s, cache, &config, prompt, answer), parted);
            before = answer;
            assert_true(stats_of(cache).copied_blocks == 0 || variant & 4); /* a partial block is taken over as it is */
        }
        kv_close(cache);
    }
}

/* The second user of a system prompt hits all of it, though the first one's windows are long past it; and from then on
 * long texts, read once, take it from nobody. Where others came between the first two, the second one shows where they
 * part, and the third hits all whole blocks. */
static void test_system_prompt_is_shared(void **state)
{
    (void)state;
    static struct fake_seq s;
    for (uint32_t crowded = 0; crowded < 2; crowded++) {
        struct kv_config config = config_of(hybrid, ARRAY_COUNT(hybrid), 32);
        config.bytes_max = kv_bytes_needed(&config, 960, 48) + kv_bytes_needed(&config, 600, 48);
        struct kv_cache *cache = open_cache(&config);
        for (uint32_t user = 0; user < 8; user++) {
            say(&s, 0, 0, 333);
            say(&s, 1 + user, 333, 600);
            uint32_t cached = request(&s, cache, &config, 350, 600);
            assert_true(user < 1 + crowded || cached >= 320);
            if (!crowded) assert_int_equal(cached, user ? 333 : 0);
            for (uint32_t text = 0; user + crowded && text < 2; text++) {
                uint32_t count = user ? 960 : 150; /* enough to push out what the first one's windows have passed */
                say(&s, 100 + 2 * user + text, 0, count);
                assert_int_equal(request(&s, cache, &config, count, count), 0);
            }
        }
        stats_of(cache);
        kv_close(cache);
    }
}

/* Chats that take turns, in a budget that has room for no more than what their next turns need: what windows have passed, most of what a
 * hybrid model computes, pushes out nothing that the next turn wants. */
static void test_chats_in_turn(void **state)
{
    (void)state;
    static struct fake_seq s;
    struct kv_config config = config_of(hybrid, ARRAY_COUNT(hybrid), 32);
    config.bytes_max = 4 * kv_bytes_needed(&config, 900, 48) * 92 / 100;
    struct kv_cache *cache = open_cache(&config);
    for (uint32_t turn = 0; turn < 12; turn++)
        for (uint32_t chat = 0; chat < 4; chat++) {
            uint32_t before = turn ? 160 + turn * 60 : 0;
            say(&s, 1 + chat, 0, 900);
            assert_int_equal(request(&s, cache, &config, 160 + turn * 60 + 30, 220 + turn * 60), before);
        }
    stats_of(cache);
    kv_close(cache);
}

/* A block that two have computed is kept once, the partial one too; one that goes on differently is kept beside it. */
static void test_nothing_is_kept_twice(void **state)
{
    (void)state;
    static struct fake_seq s[3];
    struct kv_config config = config_of(full, 1, 16);
    struct kv_cache *cache = open_cache(&config);
    for (uint32_t i = 0; i < 2; i++) {
        say(&s[i], 0, 0, 150);
        assert_int_equal(open_fake(&s[i], cache, 150), 0);
    }
    for (uint32_t i = 0; i < 2; i++) assert_true(run_to(&s[i], cache, &config, 150 - 2 * i));
    assert_int_equal(stats_of(cache).blocks_used, 9 + 2);
    for (uint32_t i = 0; i < 2; i++) kv_seq_close(s[i].seq);
    assert_int_equal(stats_of(cache).blocks_cached, 9 + 1);
    say(&s[2], 0, 0, 147);
    say(&s[2], 1, 147, 152);
    assert_int_equal(request(&s[2], cache, &config, 152, 152), 147);
    assert_int_equal(stats_of(cache).blocks_cached, 9 + 2);
    assert_int_equal(open_fake(&s[0], cache, 151), 150);
    kv_seq_close(s[0].seq);
    kv_close(cache);
}

static struct kv_key first_key(const struct kv_cache *cache)
{
    for (uint32_t n = 0;; n++)
        if (prefix_node(cache, n)->token_count == cache->block_tokens) return prefix_node(cache, n)->key;
}

static void test_salt_and_provenance(void **state)
{
    (void)state;
    static struct fake_seq s;
    struct kv_config config = config_of(full, 1, 16);
    struct kv_cache *plain = open_cache(&config);
    config.provenance[31] = 1;
    struct kv_cache *cache = open_cache(&config);
    uint32_t cached;
    say(&s, 0, 0, 100);
    request(&s, plain, &config, 100, 100);
    request(&s, cache, &config, 100, 100);
    struct kv_key keys[] = {first_key(plain), first_key(cache)};
    assert_memory_not_equal(&keys[0], &keys[1], sizeof keys[0]);
    kv_close(plain);
    for (uint64_t salt = 0; salt < 3; salt++) { /* another tenant sees nothing of it */
        assert_int_equal(kv_seq_open(cache, s.tokens, 100, salt << 32, &s.seq, &cached), ST_OK);
        assert_int_equal(cached, salt ? 0 : 99);
        kv_seq_close(s.seq);
    }
    kv_close(cache);
}

/* ---- forks and cuts ---------------------------------------------------------------------------------------------- */

static void test_forks_share_until_they_write(void **state)
{
    (void)state;
    static struct fake_seq s[4];
    struct kv_config config = config_of(hybrid, ARRAY_COUNT(hybrid), 32);
    for (uint32_t shared = 0; shared < 2; shared++) {
        config.share_prefixes = shared; /* forks share whether prefixes are published or not */
        struct kv_cache *cache = open_cache(&config);
        say(&s[0], 0, 0, 300);
        open_fake(&s[0], cache, 300);
        assert_true(run_to(&s[0], cache, &config, 300));
        assert_int_equal(kv_seq_reserve(s[0].seq, 100), ST_OK); /* given up by the fork */
        for (uint32_t i = 1; i < 4; i++) {
            s[i] = s[0];
            assert_int_equal(kv_seq_fork(s[0].seq, &s[i].seq), ST_OK);
        }
        struct kv_stats before = stats_of(cache);
        assert_int_equal(before.blocks_used,
                         10 + 3); /* 300 tokens; the window's last 64 and what shares their blocks */
        assert_int_equal(before.copied_blocks, 0);
        for (uint32_t i = 0; i < 4; i++) {
            say(&s[i], i, 300, 400);
            assert_true(run_to(&s[i], cache, &config, 400));
        }
        assert_int_equal(stats_of(cache).copied_blocks, 3 * 2); /* the last to write has the block to itself */
        for (uint32_t i = 0; i < 4; i++) kv_seq_close(s[i].seq);
        kv_close(cache);
    }
    config.one_layer_at_a_time = true;
    struct kv_cache *cache = open_cache(&config);
    open_fake(&s[0], cache, 300);
    assert_int_equal(kv_seq_fork(s[0].seq, &s[1].seq), ST_UNSUPPORTED);
    kv_seq_close(s[0].seq);
    kv_close(cache);
}

/* A cut sequence goes on with other tokens; what it had published stays as it was, for others and for itself. */
static void test_cuts(void **state)
{
    (void)state;
    static struct fake_seq s, other;
    struct kv_config config = config_of(full, 1, 16);
    struct kv_cache *cache = open_cache(&config);
    say(&s, 0, 0, 200);
    open_fake(&s, cache, 200);
    assert_true(run_to(&s, cache, &config, 200));
    assert_int_equal(kv_seq_truncate(s.seq, 107), ST_OK);
    assert_int_equal(kv_seq_count(s.seq), 107);
    say(&s, 1, 107, 150);
    s.count = 107;
    assert_true(run_to(&s, cache, &config, 150));
    assert_int_equal(stats_of(cache).copied_blocks, 1);
    kv_seq_close(s.seq);
    say(&other, 0, 0, 200); /* what was cut away */
    assert_int_equal(request(&other, cache, &config, 200, 200), 192);
    say(&other, 1, 107, 160); /* and what came instead, to its last token */
    assert_int_equal(request(&other, cache, &config, 160, 160), 150);
    kv_close(cache);
}

/* A window that moved on comes back while its rows are cached; without them a cut is refused and changes nothing. */
static void test_cuts_behind_windows(void **state)
{
    (void)state;
    static struct fake_seq s;
    for (uint32_t shared = 0; shared < 2; shared++) {
        struct kv_config config = config_of(hybrid, ARRAY_COUNT(hybrid), 16);
        config.share_prefixes = shared;
        struct kv_cache *cache = open_cache(&config);
        say(&s, 0, 0, 400);
        open_fake(&s, cache, 400);
        assert_true(run_to(&s, cache, &config, 400));
        assert_int_equal(kv_seq_truncate(s.seq, 399), ST_OK);
        assert_int_equal(kv_seq_truncate(s.seq, 200), shared ? ST_OK : ST_LIMIT);
        s.count = kv_seq_count(s.seq);
        assert_int_equal(s.count, shared ? 200 : 399);
        assert_true(run_to(&s, cache, &config, 420));
        kv_seq_close(s.seq);
        stats_of(cache);
        kv_close(cache);
    }
}

/* Where a copy would not fit, one that is alone does without; and it never loses what it has not changed. */
static void test_alone_in_the_budget(void **state)
{
    (void)state;
    static struct fake_seq s;
    struct kv_config config = config_of(full, 1, 16);
    config.bytes_max = kv_bytes_needed(&config, 160, 160);
    struct kv_cache *cache = open_cache(&config);
    say(&s, 0, 0, 160);
    request(&s, cache, &config, 160, 160);
    say(&s, 1, 153, 160); /* all ten blocks are held, and the last one is another's */
    assert_int_equal(request(&s, cache, &config, 160, 160), 153);
    assert_int_equal(stats_of(cache).copied_blocks, 0);
    kv_close(cache);
}

/* ---- layers ------------------------------------------------------------------------------------------------------ */

/* One sequence always fits into kv_bytes_needed, at every chunk size; and uses no more. */
static void test_needed_bytes_suffice(void **state)
{
    (void)state;
    static const struct kv_reach heads[] = {{.kind = KV_SINKS, .window = 30, .sinks = 40},
                                            {.kind = KV_FULL, .window = 9}};
    static const struct kv_layer layers[] = {{.kind = KV_FULL, .kv_heads = 2, ROWS(2, 2)},
                                             {.kind = KV_SLIDING, .window = 40, .kv_heads = 1, ROWS(2, 4)},
                                             {.kind = KV_FULL, .heads = heads, .kv_heads = 2, ROWS(2, 2)},
                                             {.kind = KV_SHARED, .source = 1, .kv_heads = 1, ROWS(2, 4)},
                                             {.kind = KV_NONE}};
    static struct fake_seq s;
    assert_int_equal(kv_layer_bytes_per_token(&layers[2]), 2 * 4 * 4);
    assert_int_equal(kv_layer_bytes_per_token(&layers[3]) + kv_layer_bytes_per_token(&layers[4]), 0);
    for (uint32_t chunk = 1; chunk <= 130; chunk += 9) {
        struct kv_config config = config_of(layers, ARRAY_COUNT(layers), 32);
        config.bytes_max = kv_bytes_needed(&config, 391, chunk);
        struct kv_cache *cache = open_cache(&config);
        say(&s, 0, 0, 391);
        open_fake(&s, cache, 391);
        while (s.count < 391) {
            uint32_t count = s.count + chunk <= 391 ? chunk : 391 - s.count;
            assert_int_equal(kv_seq_reserve(s.seq, count), ST_OK);
            fake_pass(&s, cache, &config, count);
        }
        kv_seq_close(s.seq);
        kv_close(cache);
    }
    /* Full heads: 391 tokens. The window's and the sinks' heads do not grow. */
    struct kv_config config = config_of(layers, ARRAY_COUNT(layers), 32);
    uint64_t grown = kv_bytes_needed(&config, 32 * 100, 1) - kv_bytes_needed(&config, 32 * 50, 1);
    assert_int_equal(grown, 50 * 32 * (2 + 1) * 4 * 4);
}

/* Of sequences in order, neighbours are told how much memory they share: whole blocks, none that one of them wrote itself. */
static void test_order_by_shared_blocks(void **state)
{
    (void)state;
    static const struct kv_layer layers[] = {{.kind = KV_FULL, .kv_heads = 1, ROWS(1, 1)},
                                             {.kind = KV_SLIDING, .window = 40, .kv_heads = 1, ROWS(1, 1)}};
    enum { SEQS = 4 };
    static const uint32_t common[SEQS] = {100, 64, 0, 100}; /* tokens of text 0 */
    static struct fake_seq s[SEQS];
    struct kv_config config = config_of(layers, 2, 16);
    struct kv_cache *cache = open_cache(&config);
    struct kv_seq *seqs[SEQS];
    struct kv_batch *batch;
    uint32_t shared;
    for (uint32_t i = 0; i < SEQS; i++) {
        say(&s[i], 0, 0, common[i]);
        say(&s[i], i + 1, common[i], 130);
        open_fake(&s[i], cache, 130);
        assert_true(run_to(&s[i], cache, &config, 120));
        assert_int_equal(kv_seq_reserve(s[i].seq, 8), ST_OK);
        seqs[i] = s[i].seq;
    }
    assert_int_equal(kv_batch_pin(cache, seqs, SEQS, &batch), ST_OK);
    assert_int_not_equal(kv_seq_group(seqs[0], 0, 0), kv_seq_group(seqs[0], 1, 0));
    for (uint32_t i = 0; i < SEQS; i++)
        for (uint32_t j = 0; j < SEQS; j++) {
            static const uint32_t expected[SEQS][SEQS] = {
                {128, 64, 0, 96}, {64, 128, 0, 64}, {0, 0, 128, 0}, {96, 64, 0, 128}};
            int order = kv_seq_compare(seqs[i], seqs[j], 0, 0, &shared), back;
            assert_int_equal(shared, expected[i][j]);
            back = kv_seq_compare(seqs[j], seqs[i], 0, 0, &shared);
            assert_true(i == j ? order == 0 : (order < 0) == (back > 0) && order != 0);
            kv_seq_compare(seqs[i], seqs[j], 1, 0, &shared);
            assert_int_equal(shared, 0); /* the window has passed the first blocks */
        }
    /* What 0 and 3 share is not further apart than what either shares with 1. */
    assert_true((kv_seq_compare(seqs[1], seqs[0], 0, 0, &shared) < 0) ==
                (kv_seq_compare(seqs[1], seqs[3], 0, 0, &shared) < 0));
    kv_batch_unpin(batch);
    for (uint32_t i = 0; i < SEQS; i++) kv_seq_close(s[i].seq);
    kv_close(cache);
}

static void test_reach(void **state)
{
    (void)state;
    static const struct kv_reach heads[] = {{.kind = KV_FULL, .window = 9},
                                            {.kind = KV_SINKS, .window = 64, .sinks = 20}};
    static const struct kv_layer layers[] = {{.kind = KV_FULL, .heads = heads, .kv_heads = 2, ROWS(1, 1)},
                                             {.kind = KV_SHARED, .source = 0, .kv_heads = 2, ROWS(1, 1)}};
    static struct fake_seq s;
    struct kv_config config = config_of(layers, 2, 16);
    struct kv_cache *cache = open_cache(&config);
    struct kernel_span spans[64];
    struct kv_batch *batch;
    say(&s, 0, 0, 500);
    open_fake(&s, cache, 500);
    assert_true(run_to(&s, cache, &config, 499));
    assert_int_equal(kv_seq_reserve(s.seq, 1), ST_OK);
    assert_int_equal(kv_batch_pin(cache, &s.seq, 1, &batch), ST_OK);
    for (uint32_t layer = 0; layer < 2; layer++) {
        assert_int_equal(kv_seq_reach(s.seq, layer, 0).window, 0);
        assert_int_equal(kv_seq_reach(s.seq, layer, 1).window, 64);
        assert_int_equal(kv_seq_reach(s.seq, layer, 1).sinks, 20);
        assert_int_equal(kv_seq_spans(s.seq, layer, 0, 0, 500, spans), 32);
        assert_int_equal(kv_seq_spans(s.seq, layer, 1, 0, 500, spans), 2 + 5);
        assert_int_equal(spans[1].position, 16);
        assert_int_equal(spans[2].position, 432); /* the gap */
        assert_int_equal(kv_seq_spans(s.seq, layer, 1, 100, 200, spans), 0);
    }
    kv_batch_unpin(batch);
    kv_seq_close(s.seq);
    kv_close(cache);
}

/* Without a cache layers of one shape overwrite each other, but not one that another still reads. */
static void test_one_layer_at_a_time(void **state)
{
    (void)state;
    static const struct kv_layer layers[] = {{.kind = KV_FULL, .kv_heads = 1, ROWS(2, 2)},
                                             {.kind = KV_SLIDING, .window = 40, .kv_heads = 1, ROWS(2, 2)},
                                             {.kind = KV_SLIDING, .window = 50, .kv_heads = 1, ROWS(2, 2)},
                                             {.kind = KV_FULL, .kv_heads = 1, ROWS(2, 2)},
                                             {.kind = KV_SHARED, .source = 1, .kv_heads = 1, ROWS(2, 2)}};
    static struct fake_seq s;
    struct kv_config config = config_of(layers, ARRAY_COUNT(layers), 16);
    config.one_layer_at_a_time = true;
    assert_int_equal(kv_bytes_needed(&config, 320, 320), 2 * 320 * kv_layer_bytes_per_token(&layers[0]));
    config.bytes_max = kv_bytes_needed(&config, 320, 320);
    struct kv_cache *cache = open_cache(&config);
    say(&s, 0, 0, 320);
    for (uint32_t count = 300; count <= 320; count += 20) {
        assert_int_equal(open_fake(&s, cache, count), 0);
        assert_int_equal(kv_seq_reserve(s.seq, count), ST_OK);
        fake_pass(&s, cache, &config, count);
        kv_seq_close(s.seq);
    }
    kv_close(cache);
}

static void test_bad_configurations_are_refused(void **state)
{
    (void)state;
    static const struct kv_reach none_head[] = {{.kind = KV_NONE}}, blind[] = {{.kind = KV_SINKS, .window = 5}};
    static const struct kv_layer bad[] = {
        {.kind = KV_SLIDING, .kv_heads = 1, ROWS(1, 1)},
        {.kind = KV_SINKS, .window = 5, .kv_heads = 1, ROWS(1, 1)},
        {.kind = KV_SHARED, .source = 1, .kv_heads = 1, ROWS(1, 1)}, /* itself */
        {.kind = KV_SHARED, .source = 0, .kv_heads = 2, ROWS(1, 1)}, /* another shape */
        {.kind = KV_FULL, .heads = none_head, .kv_heads = 1, ROWS(1, 1)},
        {.kind = KV_FULL, .heads = blind, .kv_heads = 1, ROWS(1, 1)},
        {.kind = (enum kv_layer_kind)77, .kv_heads = 1, ROWS(1, 1)},
        {.kind = KV_FULL, .kv_heads = 0, ROWS(1, 1)},
        {.kind = KV_SHARED, .source = 0, .heads = blind, .kv_heads = 1, ROWS(2, 2)},
    };
    struct kv_cache *cache;
    struct error error;
    for (uint32_t i = 0; i < ARRAY_COUNT(bad); i++) {
        const struct kv_layer layers[] = {full[0], bad[i]};
        struct kv_config config = config_of(layers, 2, 16);
        assert_int_equal(kv_open(&config, &cache, &error), ST_INVALID);
        assert_null(cache);
    }
    const struct kv_layer odd = {.kind = KV_FULL, .kv_heads = 1, .head_dim = 32, .value_dim = 32, .k_format = NF_Q4_K};
    struct kv_config config = config_of(&odd, 1, 16);
    assert_int_equal(kv_open(&config, &cache, &error), ST_UNSUPPORTED);
    config = config_of(&(struct kv_layer){.kind = KV_NONE}, 1, 16);
    assert_int_equal(kv_open(&config, &cache, &error), ST_INVALID);
    config = config_of(full, 1, 24);
    assert_int_equal(kv_open(&config, &cache, &error), ST_INVALID);
    config = config_of(full, 1, 16);
    config.bytes_max = 100;
    assert_int_equal(kv_open(&config, &cache, &error), ST_LIMIT);
    config.bytes_max = 1 << 20;
    for (uint64_t n = 1;; n++) { /* every allocation of kv_open fails once */
        fault_arm(FAULT_ALLOC, n);
        enum status status = kv_open(&config, &cache, &error);
        uint64_t calls = fault_count(FAULT_ALLOC);
        fault_arm(FAULT_NONE, 0);
        if (calls < n) {
            assert_int_equal(status, ST_OK);
            kv_close(cache);
            break;
        }
        assert_int_equal(status, ST_NOMEM);
        assert_null(cache);
    }
}

/* ---- eviction ---------------------------------------------------------------------------------------------------- */

/* Four system prompts, each asked by two users at first, then by one new user a round; after each round somebody has one
 * or two long texts read, once. The share of prompt tokens found in the cache. */
static double hit_rate(uint32_t protected_percent)
{
    static struct fake_seq s;
    struct kv_config config = config_of(full, 1, 32);
    config.protected_percent = protected_percent;
    config.bytes_max = kv_bytes_needed(&config, 2000, 1);
    struct kv_cache *cache = open_cache(&config);
    for (uint32_t round = 0; round < 30; round++) {
        for (uint32_t user = 0; user < (round ? 4 : 8); user++) {
            say(&s, user % 4, 0, 256);
            say(&s, 10 + round * 9 + user, 256, 300);
            request(&s, cache, &config, 290, 300);
        }
        say(&s, 18 + round * 9, 0, 960);
        request(&s, cache, &config, 960, 960);
        if (round % 2) { /* longer than what is left: with the next one it would push all else out */
            say(&s, 5000 + round, 0, 960);
            request(&s, cache, &config, 960, 960);
        }
    }
    struct kv_stats stats = stats_of(cache);
    kv_close(cache);
    return (double)stats.prefix_hit_tokens / (double)stats.prefix_queried_tokens;
}

static void test_long_prompts_do_not_flush_prefixes(void **state)
{
    (void)state;
    double lru = hit_rate(0), segmented = hit_rate(KV_PROTECTED_PERCENT), best = 4 * 256 / (4 * 290 + 1.5 * 960);
    print_message("hit rate of plain LRU %.1f %%, segmented %.1f %%, at most %.1f %%\n", 100 * lru, 100 * segmented,
                  100 * best);
    assert_true(segmented > 0.9 * best && segmented > 1.5 * lru);
}

static void test_pinned_prefixes_stay(void **state)
{
    (void)state;
    static struct fake_seq s;
    struct kv_config config = config_of(hybrid, ARRAY_COUNT(hybrid), 32);
    uint64_t one = kv_bytes_needed(&config, 1000, 48);
    config.bytes_pinned_max = kv_bytes_needed(&config, 250, 1);
    config.bytes_max = one + config.bytes_pinned_max;
    struct kv_cache *cache = open_cache(&config);
    uint32_t pinned;
    struct kv_prefix list[2];
    say(&s, 0, 0, 250);
    assert_int_equal(kv_prefix_pin(cache, "system", s.tokens, 250, 0, &pinned), ST_NOT_FOUND);
    request(&s, cache, &config, 250, 250);
    assert_int_equal(kv_prefix_pin(cache, "system", s.tokens, 250, 0, &pinned), ST_OK);
    assert_int_equal(pinned, 250);                                                      /* its last token too */
    assert_int_equal(kv_prefix_pin(cache, "system", s.tokens, 200, 0, &pinned), ST_OK); /* replaces it */
    assert_int_equal(kv_prefix_pin(cache, "system", s.tokens, 250, 0, &pinned), ST_OK);
    for (uint32_t i = 1; i < 6; i++) {
        say(&s, i, 0, 1000);
        assert_int_equal(request(&s, cache, &config, 1000, 1000), 0); /* takes all the rest */
        assert_int_equal(kv_prefix_pin(cache, "long", s.tokens, 1000, 0, &pinned), ST_LIMIT);
    }
    assert_int_equal(kv_prefix_list(cache, list, 2), 1);
    assert_string_equal(list[0].name, "system");
    assert_int_equal(list[0].tokens, 250);
    assert_int_equal(list[0].bytes, stats_of(cache).bytes_pinned);
    say(&s, 0, 0, 250);
    assert_int_equal(request(&s, cache, &config, 260, 260), 250);
    assert_int_equal(kv_prefix_unpin(cache, "system"), ST_OK);
    assert_int_equal(kv_prefix_unpin(cache, "system"), ST_NOT_FOUND);
    assert_int_equal(stats_of(cache).blocks_used, 0);
    kv_close(cache);
}

/* ---- memory ------------------------------------------------------------------------------------------------------ */

/* 100 sequences of uniform 50 to 950 tokens: blocks waste less than 4 % of the live tokens' bytes. */
static void test_waste(void **state)
{
    (void)state;
    static struct fake_seq s;
    static const double most[] = {0.02, 0.04, 0.08}; /* half a block of 500 tokens */
    for (uint32_t size = 16, i = 0; size <= 64; size *= 2, i++) {
        struct kv_config config = config_of(full, 1, size);
        struct kv_seq *seqs[100];
        struct random random;
        random_seed(&random, 5);
        config.bytes_max = 16 << 20;
        struct kv_cache *cache = open_cache(&config);
        uint64_t live = 0;
        for (uint32_t n = 0; n < 100; n++) {
            uint32_t tokens = 50 + (uint32_t)random_below(&random, 901);
            say(&s, n, 0, tokens);
            open_fake(&s, cache, tokens);
            assert_true(run_to(&s, cache, &config, tokens));
            seqs[n] = s.seq;
            live += tokens * kv_layer_bytes_per_token(&full[0]);
        }
        struct kv_stats stats = stats_of(cache);
        assert_int_equal(stats.bytes_used - stats.bytes_wasted, live);
        print_message("block size %u: waste %.2f %% of live bytes\n", size,
                      100.0 * (double)stats.bytes_wasted / (double)live);
        assert_true((double)stats.bytes_wasted < most[i] * (double)live);
        for (uint32_t n = 0; n < 100; n++) kv_seq_close(seqs[n]);
        kv_close(cache);
    }
}

static uint64_t resident_bytes(void)
{
    struct buffer text;
    unsigned long long pages = 0;
    assert_int_equal(file_read("/proc/self/statm", 4096, &text, NULL), ST_OK);
    assert_int_equal(sscanf(text.data, "%*u %llu", &pages), 1);
    buffer_release(&text);
    return pages * 4096;
}

/* Memory follows what is held, slab by slab, and goes back when nobody holds it; a part stays while others run. */
static void test_memory_is_given_back(void **state)
{
    (void)state;
    static struct fake_seq s[8];
    static const struct kv_layer wide[] = {{.kind = KV_FULL, .kv_heads = 4, ROWS(4, 4)},
                                           {.kind = KV_SLIDING, .window = 500, .kv_heads = 4, ROWS(4, 4)}};
    static struct kv_layer layers[64];
    for (uint32_t i = 0; i < ARRAY_COUNT(layers); i++) layers[i] = wide[i % 2];
    struct kv_config config = config_of(layers, ARRAY_COUNT(layers), 32);
    config.share_prefixes = false;
    config.bytes_max = 256 << 20;
    struct kv_cache *cache = open_cache(&config);
    uint64_t before = resident_bytes();
    for (uint32_t n = 0; n < 8; n++) {
        say(&s[n], n, 0, 640);
        open_fake(&s[n], cache, 640);
        for (uint32_t at = 0; at < 640; at += 64) {
            assert_int_equal(kv_seq_reserve(s[n].seq, 64), ST_OK);
            fake_pass(&s[n], cache, &config, 64);
        }
    }
    struct kv_stats most = stats_of(cache);
    uint64_t resident = resident_bytes();
    assert_true(most.bytes_mapped >= most.bytes_used && most.bytes_mapped < most.bytes_used + most.bytes_used / 4);
    for (uint32_t n = 0; n < 7; n++) kv_seq_close(s[n].seq);
    struct kv_stats one = stats_of(cache);
    assert_true(one.bytes_mapped < most.bytes_mapped / 2);
    kv_seq_close(s[7].seq);
    assert_int_equal(stats_of(cache).bytes_mapped, 0);
#ifndef __SANITIZE_ADDRESS__ /* it keeps memory of its own */
    assert_true(resident > before + most.bytes_used * 9 / 10);
    assert_true(resident_bytes() < before + most.bytes_used / 5);
#else
    (void)before, (void)resident;
#endif
    kv_close(cache);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_chat_computes_what_is_new),
        cmocka_unit_test(test_system_prompt_is_shared),
        cmocka_unit_test(test_chats_in_turn),
        cmocka_unit_test(test_nothing_is_kept_twice),
        cmocka_unit_test(test_salt_and_provenance),
        cmocka_unit_test(test_forks_share_until_they_write),
        cmocka_unit_test(test_cuts),
        cmocka_unit_test(test_cuts_behind_windows),
        cmocka_unit_test(test_alone_in_the_budget),
        cmocka_unit_test(test_needed_bytes_suffice),
        cmocka_unit_test(test_order_by_shared_blocks),
        cmocka_unit_test(test_reach),
        cmocka_unit_test(test_one_layer_at_a_time),
        cmocka_unit_test(test_bad_configurations_are_refused),
        cmocka_unit_test(test_long_prompts_do_not_flush_prefixes),
        cmocka_unit_test(test_pinned_prefixes_stay),
        cmocka_unit_test(test_waste),
        cmocka_unit_test(test_memory_is_given_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
