/* test_kv_offload.c - rows of a running sequence in a file: the same bytes, what they cost in memory, what is refused, and disks that
 * are full, fail or lie. test_kv_sim.c mixes it with everything else. */
#include "kv/kv_internal.h"
#include "kv_requests.h"
#include "scratch.h"

#define RECALL 6u
#define PROMPT 500u
#define FROM 32u

/* Sliding layers beside full ones, one of which reads another one's rows. */
static const struct kv_layer layers[] = {
    {.kind = KV_SLIDING, .window = 64, .kv_heads = 1, ROWS(2, 2)},
    {.kind = KV_FULL, .kv_heads = 2, ROWS(2, 3), .index = true},
    {.kind = KV_SHARED, .source = 1, .kv_heads = 2, ROWS(2, 3)},
    {.kind = KV_FULL, .kv_heads = 1, ROWS(1, 2), .index = true},
};

static struct kv_config config_for(struct scratch *scratch, uint32_t block_tokens)
{
    struct kv_config config = config_of(layers, ARRAY_COUNT(layers), block_tokens);
    config.bytes_max = kv_bytes_needed(&config, FAKE_TOKENS_MAX, 48);
    config.swap_bytes_max = 1 << 20;
    config.offload_folder = scratch->folder;
    config.offload_bytes_max = 1 << 20;
    return config;
}

/* A prompt that was computed, and a first token that does not read all of it. */
static void start(struct fake_seq *s, struct kv_cache *cache, const struct kv_config *config, uint32_t kind)
{
    *s = (struct fake_seq){0};
    say(s, kind, 0, FAKE_TOKENS_MAX);
    open_fake(s, cache, PROMPT);
    assert_true(run_to(s, cache, config, PROMPT));
    s->sparse_from = PROMPT;
    s->recall = RECALL;
    kv_seq_stop_publishing(s->seq);
}

static enum status offload(const struct fake_seq *s, uint32_t local, uint32_t most)
{
    return kv_seq_offload(s->seq, FROM, s->count - local, RECALL * 16, most);
}

static void test_same_rows(void **state)
{
    (void)state;
    static struct fake_seq s, other;
    struct scratch scratch;
    scratch_init(&scratch);
    for (uint32_t size = 16; size <= 64; size *= 2)
        for (uint32_t shared = 0; shared < 2; shared++) {
            struct kv_config config = config_for(&scratch, size);
            config.bytes_max *= 2;
            config.share_prefixes = shared;
            struct kv_cache *cache = open_cache(&config);
            start(&s, cache, &config, 0);
            uint64_t before = stats_of(cache).bytes_used, bytes, blocks;
            uint32_t steps = 0;
            for (; stats_of(cache).bytes_used == before; steps++) assert_int_equal(offload(&s, 64, 2), ST_OK);
            assert_int_equal(steps, ((PROMPT - 64) / size - FROM / size - (FROM % size != 0) + 1) / 2);
            struct kv_stats away = stats_of(cache);
            assert_true(away.bytes_used < before && away.bytes_used + away.bytes_offloaded >= before);
            kv_seq_usage(s.seq, &bytes, &blocks);
            assert_int_equal(bytes, away.bytes_used);
            assert_true(run_to(&s, cache, &config, PROMPT + 200));
            assert_int_equal(offload(&s, 64, 100), ST_OK);
            assert_true(stats_of(cache).bytes_offloaded > away.bytes_offloaded);
            assert_true(run_to(&s, cache, &config, PROMPT + 300));
            /* Out and in again: what it has recalled is recalled anew. */
            assert_int_equal(kv_seq_swap_out(s.seq), ST_OK);
            assert_false(kv_swap_poll(cache, true));
            assert_int_equal(stats_of(cache).bytes_used, 0);
            assert_int_equal(kv_seq_swap_in(s.seq), ST_OK);
            assert_false(kv_swap_poll(cache, true));
            assert_true(run_to(&s, cache, &config, PROMPT + 400));
            struct kv_stats stats = stats_of(cache);
            assert_true(stats.recalled_slices > 0 && stats.read_slices > 0);
            /* What the prompt left is found, until it is evicted; what came after is not. */
            say(&other, 0, 0, FAKE_TOKENS_MAX);
            if (shared) assert_int_equal(request(&other, cache, &config, PROMPT + 100, PROMPT + 120), PROMPT);
            kv_seq_close(s.seq);
            assert_int_equal(stats_of(cache).bytes_offloaded, 0);
            kv_close(cache);
        }
    scratch_release(&scratch);
}

/* The most memory that it needs is what it has before its rows are away. */
static void test_budget(void **state)
{
    (void)state;
    static struct fake_seq s, other;
    struct scratch scratch;
    scratch_init(&scratch);
    struct kv_config config = config_for(&scratch, 16);
    config.bytes_max = kv_bytes_needed(&config, PROMPT + 150, 48);
    struct kv_cache *cache = open_cache(&config);
    start(&s, cache, &config, 0);
    say(&other, 1, 0, FAKE_TOKENS_MAX);
    open_fake(&other, cache, PROMPT);
    while (kv_seq_reserve(other.seq, 16) == ST_OK) fake_pass(&other, cache, &config, 16);
    /* There is no room for what it would recall: it stays as it is, and may try again. */
    assert_int_equal(offload(&s, 64, 100), ST_FULL);
    assert_true(stats_of(cache).bytes_offloaded > 0);
    kv_seq_close(other.seq);
    assert_int_equal(offload(&s, 64, 100), ST_OK);
    assert_true(stats_of(cache).bytes_used < config.bytes_max * 2 / 3);
    assert_true(run_to(&s, cache, &config, PROMPT + 300)); /* longer than the budget */
    for (uint32_t i = 0; i < 20; i++) assert_int_equal(offload(&s, 64, 1), ST_OK);
    open_fake(&other, cache, 100);
    assert_true(run_to(&other, cache, &config, 100));
    kv_seq_close(other.seq);
    kv_seq_close(s.seq);
    kv_close(cache);
    scratch_release(&scratch);
}

static void test_refusals(void **state)
{
    (void)state;
    static struct fake_seq s;
    struct scratch scratch;
    struct kv_seq *fork;
    struct kv_cache *cache;
    struct error error = {0};
    scratch_init(&scratch);
    struct kv_config config = config_for(&scratch, 16);
    config.offload_folder = "/nowhere/at/all";
    assert_int_equal(kv_open(&config, &cache, &error), ST_IO);
    assert_non_null(strstr(error.text, "/nowhere/at/all"));
    config = config_for(&scratch, 16);
    cache = open_cache(&config);
    start(&s, cache, &config, 0);
    assert_int_equal(offload(&s, 64, 3), ST_OK); /* on its way: nothing is different */
    assert_int_equal(kv_seq_fork(s.seq, &fork), ST_OK);
    kv_seq_close(fork);
    assert_int_equal(kv_seq_truncate(s.seq, s.count - 16), ST_OK);
    s.count -= 16;
    assert_int_equal(stats_of(cache).bytes_offloaded, 0);
    assert_true(run_to(&s, cache, &config, PROMPT));
    assert_int_equal(offload(&s, 64, 100), ST_OK);
    assert_int_equal(kv_seq_fork(s.seq, &fork), ST_UNSUPPORTED);
    assert_null(fork);
    assert_int_equal(kv_seq_truncate(s.seq, PROMPT - 80), ST_LIMIT);
    assert_int_equal(kv_seq_truncate(s.seq, PROMPT - 30),
                     ST_LIMIT); /* what its windows passed is not its own any more */
    assert_int_equal(kv_seq_truncate(s.seq, PROMPT - 4), ST_OK);
    s.count = PROMPT - 4;
    assert_true(run_to(&s, cache, &config, PROMPT + 10));
    stats_of(cache);
    kv_seq_close(s.seq);
    kv_close(cache);
    /* No folder; no head with entries; a head without them among the others. */
    const struct kv_layer plain[] = {{.kind = KV_FULL, .kv_heads = 1, ROWS(2, 2)}}, both[] = {layers[1], plain[0]};
    for (int i = 0; i < 3; i++) {
        config = config_of(i ? both : plain, i ? 2 : 1, 16);
        config.offload_folder = i == 1 ? NULL : scratch.folder;
        config.offload_bytes_max = 1 << 20;
        cache = open_cache(&config);
        start(&s, cache, &config, 0);
        assert_int_equal(offload(&s, 64, 3), ST_UNSUPPORTED);
        kv_seq_close(s.seq);
        kv_close(cache);
    }
    scratch_release(&scratch);
}

/* A write that fails, or an allocation, whichever: the rows stay, and it goes on. */
static void test_full_disk(void **state)
{
    (void)state;
    static struct fake_seq s;
    struct scratch scratch;
    scratch_init(&scratch);
    for (uint32_t nth = 1; nth < 40; nth++) {
        struct kv_config config = config_for(&scratch, 16);
        if (nth % 3 == 0) config.offload_bytes_max = nth * 1000;
        struct kv_cache *cache = open_cache(&config);
        start(&s, cache, &config, 0);
        uint32_t failed = 0;
        for (uint32_t i = 0; i < 8; i++) {
            fault_arm(nth % 3 == 1 ? FAULT_WRITE : nth % 3 == 2 ? FAULT_ALLOC : FAULT_NONE, nth / 3 + 1);
            enum status status = offload(&s, 64, 7);
            fault_arm(FAULT_NONE, 0);
            assert_true(status == ST_OK || status == (nth % 3 == 1 ? ST_IO : nth % 3 == 2 ? ST_NOMEM : ST_LIMIT));
            failed += status != ST_OK;
            stats_of(cache);
            assert_true(run_to(&s, cache, &config, s.count + 20));
        }
        assert_true(failed > 0 || nth / 3 >= 7);
        assert_true(stats_of(cache).bytes_offloaded <= config.offload_bytes_max);
        kv_seq_close(s.seq);
        kv_close(cache);
    }
    scratch_release(&scratch);
}

/* A bit that the disk turned, wherever: nobody reads it as a row. */
static void test_damage(void **state)
{
    (void)state;
    static struct fake_seq s;
    struct scratch scratch;
    struct kv_batch *batch;
    const void *k, *v;
    scratch_init(&scratch);
    struct kv_config config = config_for(&scratch, 32);
    struct kv_cache *cache = open_cache(&config);
    start(&s, cache, &config, 0);
    assert_int_equal(offload(&s, 64, 100), ST_OK);
    int fd = scratch_nameless(&scratch);
    struct random random;
    random_seed(&random, 1);
    uint64_t bytes = cache->offload->files[cache->offload->heads[0].group].block_bytes;
    uint32_t lost = 0, count = test_count(300, 10000);
    for (uint32_t i = 0; i < count; i++) {
        /* One of the blocks that are away, of which all is recalled by each head in turn. */
        uint64_t at = random_below(&random, 8 * bytes), bit = random_below(&random, 8);
        unsigned char byte, turned;
        assert_int_equal(pread(fd, &byte, 1, (off_t)at), 1);
        turned = byte ^ (unsigned char)(1u << bit);
        assert_int_equal(pwrite(fd, &turned, 1, (off_t)at), 1);
        offload_release_slots(s.seq); /* nothing is in memory still */
        assert_int_equal(offload_take_slots(s.seq), ST_OK);
        assert_int_equal(kv_batch_pin(cache, &s.seq, 1, &batch), ST_OK);
        uint32_t first = 2 + (uint32_t)(at / bytes) * 2;
        for (uint32_t layer = 1; layer < 4; layer += 2)
            for (uint32_t head = 0; head < layers[layer].kv_heads; head++) {
                const uint32_t groups[] = {first, first + 1};
                kv_seq_recall(s.seq, layer, head, groups, 2);
                for (uint32_t g = 0; g < 2 && !kv_seq_lost(s.seq); g++) {
                    kv_seq_group_rows(s.seq, layer, head, groups[g] * 16, &k, &v);
                    fake_verify_rows(&s, &layers[layer], layer, head, groups[g] * 16, groups[g] * 16 + 16, k, v);
                }
            }
        kv_batch_unpin(batch);
        lost += kv_seq_lost(s.seq);
        for (uint32_t h = 0; h < cache->offload->head_count; h++) s.seq->offloaded->recalled[h].lost = false;
        assert_int_equal(pwrite(fd, &byte, 1, (off_t)at), 1);
    }
    assert_int_equal(lost, count);
    /* A file that lost its end. */
    assert_int_equal(ftruncate(fd, (off_t)bytes / 2), 0);
    offload_release_slots(s.seq);
    assert_int_equal(offload_take_slots(s.seq), ST_OK);
    assert_int_equal(kv_batch_pin(cache, &s.seq, 1, &batch), ST_OK);
    kv_seq_recall(s.seq, 1, 0, (const uint32_t[]){4}, 1);
    kv_batch_unpin(batch);
    assert_true(kv_seq_lost(s.seq));
    kv_seq_close(s.seq);
    kv_close(cache);
    scratch_release(&scratch);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_same_rows), cmocka_unit_test(test_budget),
                                       cmocka_unit_test(test_refusals), cmocka_unit_test(test_full_disk),
                                       cmocka_unit_test(test_damage)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
