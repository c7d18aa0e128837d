/* test_kv_swap.c - sequences that are swapped out and in: the same bytes, limits, moves that are called back, and what can
 * be seen of it. test_kv_sim.c mixes swaps with everything else. */
#include "kv/kv_internal.h"
#include "kv_requests.h"
#include "scratch.h"

static struct kv_config config_for(bool windows)
{
    struct kv_config config = windows ? config_of(hybrid, ARRAY_COUNT(hybrid), 16) : config_of(full, 1, 16);
    config.bytes_max = kv_bytes_needed(&config, 1000, 48);
    config.swap_bytes_max = 1 << 20;
    return config;
}

static struct buffer saved_bytes(const struct fake_seq *s, struct scratch *scratch)
{
    struct buffer bytes;
    struct error error;
    if (kv_seq_save(s->seq, scratch_path(scratch, "s.kv"), &error) != ST_OK) fail_msg("%s", error.text);
    assert_int_equal(file_read(scratch->path, 0, &bytes, &error), ST_OK);
    return bytes;
}

static void start(struct fake_seq *s, struct kv_cache *cache, const struct kv_config *config, uint32_t kind,
                  uint32_t count)
{
    say(s, kind, 0, FAKE_TOKENS_MAX);
    open_fake(s, cache, count);
    assert_true(run_to(s, cache, config, count));
}

/* Whatever happens to the blocks meanwhile: nothing, part or all of them evicted, or the prefix published by another. */
static void test_swapped_is_resident(void **state)
{
    (void)state;
    static struct fake_seq s, other;
    struct scratch scratch;
    scratch_init(&scratch);
    for (uint32_t variant = 0; variant < 16; variant++) {
        struct kv_config config = config_for(variant & 1);
        config.share_prefixes = variant < 8 || variant > 11;
        struct kv_cache *cache = open_cache(&config);
        start(&s, cache, &config, 0, 333);
        struct buffer before = {0}, after = {0};
        if (config.share_prefixes) before = saved_bytes(&s, &scratch);
        assert_int_equal(kv_seq_reserve(s.seq, 50), ST_OK); /* given up on the way out */
        assert_int_equal(kv_seq_swap_out(s.seq), ST_OK);
        assert_int_equal(kv_seq_residence(s.seq), KV_SWAPPING_OUT);
        stats_of(cache);
        assert_false(kv_swap_poll(cache, true));
        assert_int_equal(kv_seq_residence(s.seq), KV_SWAPPED);
        assert_int_equal(kv_seq_count(s.seq), 333);
        struct kv_stats away = stats_of(cache);
        assert_int_equal(away.blocks_used, 0);
        assert_true(away.bytes_swapped > 0 && away.swap_copied_bytes > 0);
        uint32_t flood = (variant / 2 % 4) * 320; /* tokens of somebody else */
        if (flood) {
            say(&other, variant < 12 ? 1 : 0, 0, FAKE_TOKENS_MAX);
            open_fake(&other, cache, 1);
            assert_true(run_to(&other, cache, &config, flood > 960 ? 960 : flood));
            kv_seq_close(other.seq);
        }
        uint64_t cached = stats_of(cache).bytes_cached;
        assert_int_equal(kv_seq_swap_in(s.seq), ST_OK);
        stats_of(cache);
        assert_false(kv_swap_poll(cache, true));
        assert_int_equal(kv_seq_residence(s.seq), KV_RESIDENT);
        struct kv_stats back = stats_of(cache);
        assert_true(back.bytes_swapped == 0 && back.swaps_out == 1 && back.swaps_in == 1);
        uint64_t copied = back.swap_copied_bytes - away.swap_copied_bytes;
        if (!flood && config.share_prefixes) /* all but the tail was still there */
            assert_int_equal(copied, (variant & 1 ? 6 : 1) * 16 * kv_layer_bytes_per_token(&full[0]));
        else
            assert_true(copied > 0 && copied <= away.swap_copied_bytes && cached <= config.bytes_max);
        if (config.share_prefixes) {
            after = saved_bytes(&s, &scratch);
            assert_int_equal(before.length, after.length);
            assert_memory_equal(before.data, after.data, before.length);
        }
        assert_true(run_to(&s, cache, &config, 400)); /* every head reads back what it must see */
        kv_seq_close(s.seq);
        stats_of(cache);
        kv_close(cache);
        buffer_release(&before);
        buffer_release(&after);
    }
    scratch_release(&scratch);
}

/* Others run, fork and end while rows are on their way; and a move ends, is called back, or its sequence closes. */
static void test_nobody_waits(void **state)
{
    (void)state;
    static struct fake_seq s, other, fork;
    for (uint32_t variant = 0; variant < 24; variant++) {
        struct kv_config config = config_for(variant & 1);
        config.bytes_max = 3 * kv_bytes_needed(&config, 1000, 48);
        struct kv_cache *cache = open_cache(&config);
        start(&s, cache, &config, 0, 310);
        fork = s;
        assert_int_equal(kv_seq_fork(s.seq, &fork.seq), ST_OK);
        assert_int_equal(kv_seq_swap_out(s.seq), ST_OK);
        assert_true(run_to(&fork, cache, &config, 330)); /* copies the block that is on its way */
        start(&other, cache, &config, 0, 200);
        stats_of(cache);
        if (variant & 2) kv_swap_poll(cache, true);
        if (variant & 4) {
            assert_int_equal(kv_seq_swap_in(s.seq), ST_OK);
            assert_int_equal(kv_seq_residence(s.seq), variant & 2 ? KV_SWAPPING_IN : KV_RESIDENT);
            stats_of(cache);
            assert_true(run_to(&other, cache, &config, 400)); /* publishes what is on its way in */
        }
        if (variant / 8 == 1) kv_swap_poll(cache, true);
        if (variant / 8 == 2) {
            enum kv_residence residence = kv_seq_residence(s.seq);
            if (residence == KV_SWAPPING_IN || residence == KV_RESIDENT) {
                assert_int_equal(kv_seq_swap_out(s.seq), ST_OK);
                stats_of(cache);
                kv_swap_poll(cache, true);
                assert_int_equal(kv_seq_residence(s.seq), KV_SWAPPED);
                assert_int_equal(kv_seq_swap_in(s.seq), ST_OK);
            }
            kv_swap_poll(cache, true);
        }
        if (kv_seq_residence(s.seq) == KV_RESIDENT) assert_true(run_to(&s, cache, &config, 350));
        kv_seq_close(s.seq); /* wherever it is */
        stats_of(cache);
        kv_seq_close(other.seq);
        kv_seq_close(fork.seq);
        kv_swap_poll(cache, true);
        assert_int_equal(stats_of(cache).bytes_swapped, 0);
        kv_close(cache);
    }
}

static void test_limits(void **state)
{
    (void)state;
    static struct fake_seq s, other;
    struct kv_config config = config_for(false);
    config.swap_bytes_max = 3 * 4096;
    struct kv_cache *cache = open_cache(&config);
    start(&s, cache, &config, 0, 700); /* 44 blocks of 256 bytes: three pages */
    assert_int_equal(kv_seq_swap_out(s.seq), ST_OK);
    kv_swap_poll(cache, true);
    start(&other, cache, &config, 1, 400);
    assert_int_equal(kv_seq_swap_out(other.seq), ST_FULL); /* no room in the tier, and nothing changed */
    assert_int_equal(kv_seq_residence(other.seq), KV_RESIDENT);
    uint64_t cached = stats_of(cache).bytes_cached;
    assert_int_equal(kv_seq_swap_in(s.seq), ST_FULL); /* 25 blocks are held, 63 is all there is: nothing is evicted */
    assert_int_equal(kv_seq_residence(s.seq), KV_SWAPPED);
    assert_int_equal(stats_of(cache).bytes_cached, cached);
    kv_seq_close(other.seq);
    assert_int_equal(kv_seq_swap_in(s.seq), ST_OK);
    kv_swap_poll(cache, true);
    for (uint64_t nth = 1; nth < 3; nth++) {
        fault_arm(FAULT_ALLOC, nth);
        assert_int_equal(kv_seq_swap_out(s.seq), ST_NOMEM);
        fault_arm(FAULT_NONE, 0);
        assert_int_equal(kv_seq_residence(s.seq), KV_RESIDENT);
        stats_of(cache);
    }
    assert_true(run_to(&s, cache, &config, 720));
    kv_seq_close(s.seq);
    kv_close(cache);
    config.swap_bytes_max = 0;
    cache = open_cache(&config);
    start(&s, cache, &config, 0, 30);
    assert_int_equal(kv_seq_swap_out(s.seq), ST_FULL);
    assert_false(kv_swap_poll(cache, true));
    kv_seq_close(s.seq);
    kv_close(cache);
}

static void test_snapshot_shows_tiers(void **state)
{
    (void)state;
    static struct fake_seq s;
    static struct kv_block_info blocks[64];
    struct kv_config config = config_for(true);
    struct kv_cache *cache = open_cache(&config);
    start(&s, cache, &config, 0, 40);
    assert_int_equal(kv_seq_swap_out(s.seq), ST_OK);
    for (uint32_t done = 0; done < 2; done++) {
        uint32_t count = kv_snapshot(cache, blocks, ARRAY_COUNT(blocks)), swapped = 0, held = 0;
        for (uint32_t i = 0; i < count; i++) {
            assert_int_equal(blocks[i].moving, !done);
            held += blocks[i].tier == KV_TIER_MEMORY && blocks[i].state == KV_BLOCK_HELD;
            if (blocks[i].tier == KV_TIER_MEMORY) continue;
            assert_int_equal(blocks[i].index, swapped++);
            assert_int_equal(blocks[i].owner, kv_seq_number(s.seq));
            assert_int_equal(blocks[i].tokens, blocks[i].position == 32 ? 8 : 16);
        }
        assert_true(swapped == 6 && held == (done ? 0 : 6));
        kv_swap_poll(cache, true);
    }
    kv_seq_close(s.seq);
    kv_close(cache);
}

/* What a sequence has when it stops publishing is found by others, to the token; what comes after by nobody, before a swap, after
 * it, in a fork or from a cut sequence; all of it is the sequence's own, and comes back. */
static void test_stopped_is_private(void **state)
{
    (void)state;
    static struct fake_seq s, fork, other;
    struct scratch scratch;
    struct error error;
    scratch_init(&scratch);
    for (uint32_t windows = 0; windows < 2; windows++) {
        struct kv_config config = config_for(windows);
        config.bytes_max = 2 * kv_bytes_needed(&config, 1000, 48);
        struct kv_cache *cache = open_cache(&config);
        s.sparse_from = 0;
        start(&s, cache, &config, 0, 203);
        assert_int_equal(kv_seq_reserve(s.seq, 40), ST_OK); /* given up */
        s.sparse_from = 203;
        kv_seq_stop_publishing(s.seq);
        kv_seq_stop_publishing(s.seq);
        assert_int_equal(stats_of(cache).copied_blocks, 0);
        assert_true(run_to(&s, cache, &config, 203 + 60));
        assert_int_equal(stats_of(cache).copied_blocks, windows ? 2 : 1); /* of the tail that is published */
        assert_int_equal(kv_seq_save(s.seq, scratch_path(&scratch, "p.kv"), &error), ST_UNSUPPORTED);
        fork = s;
        assert_int_equal(kv_seq_fork(s.seq, &fork.seq), ST_OK);
        assert_int_equal(kv_seq_swap_out(s.seq), ST_OK);
        kv_swap_poll(cache, true);
        assert_int_equal(kv_seq_swap_in(s.seq), ST_OK);
        kv_swap_poll(cache, true);
        stats_of(cache);
        assert_true(run_to(&s, cache, &config, 300) && run_to(&fork, cache, &config, 290));
        assert_int_equal(kv_seq_truncate(fork.seq, 280), windows ? ST_LIMIT : ST_OK); /* passed rows are gone */
        if (!windows) fork.count = 280;
        assert_true(run_to(&fork, cache, &config, 290));
        say(&other, 0, 0, FAKE_TOKENS_MAX);
        assert_int_equal(open_fake(&other, cache, 300), 203);
        assert_true(run_to(&other, cache, &config, 210)); /* exact rows, beside the others */
        stats_of(cache);
        kv_seq_close(fork.seq);
        kv_seq_close(s.seq);
        stats_of(cache);
        kv_seq_close(other.seq);
        assert_int_equal(request(&other, cache, &config, 300, 300), 210);
        kv_close(cache);
    }
    scratch_release(&scratch);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_swapped_is_resident),
        cmocka_unit_test(test_nobody_waits),
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_snapshot_shows_tiers),
        cmocka_unit_test(test_stopped_is_private),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
