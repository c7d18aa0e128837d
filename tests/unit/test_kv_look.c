/* test_kv_look.c - what can be seen of the KV cache from outside: its snapshot agrees with its statistics and tables, and who
 * follows its events knows what is published. */
#include "kv/kv_internal.h"
#include "kv_requests.h"
#include <openssl/sha.h>

/* ---- events ------------------------------------------------------------------------------------------------------ */

#define FOLLOWED_MAX 4096u

struct follower {
    const struct kv_cache *cache;
    struct entry {
        unsigned char key[KV_KEY_BYTES];
        uint32_t group;
    } entries[FOLLOWED_MAX];
    uint32_t count, stored, removed;
};

static struct entry *find(struct follower *follower, const struct kv_event *event)
{
    for (uint32_t i = 0; i < follower->count; i++)
        if (follower->entries[i].group == event->group &&
            memcmp(follower->entries[i].key, event->key, KV_KEY_BYTES) == 0)
            return &follower->entries[i];
    return NULL;
}

static void follow(void *data, const struct kv_event *event)
{
    struct follower *follower = data;
    struct entry *entry = find(follower, event);
    unsigned char bytes[KV_KEY_BYTES + 128 * sizeof(uint32_t)];
    struct kv_key key;
    memcpy(bytes, event->parent, KV_KEY_BYTES);
    memcpy(bytes + KV_KEY_BYTES, event->tokens, event->token_count * sizeof *event->tokens);
    SHA256(bytes, KV_KEY_BYTES + event->token_count * sizeof *event->tokens, key.bytes);
    assert_memory_equal(&key, event->key, sizeof key); /* anybody can compute the keys */
    assert_int_equal(event->bytes, follower->cache->groups[event->group].block_bytes);
    assert_int_equal(event->tier, KV_TIER_MEMORY);
    if (event->kind == KV_EVENT_STORED) {
        assert_null(entry);
        assert_true(follower->count < FOLLOWED_MAX);
        entry = &follower->entries[follower->count++];
        memcpy(entry->key, event->key, KV_KEY_BYTES);
        entry->group = event->group;
        follower->stored++;
    } else {
        assert_non_null(entry);
        *entry = follower->entries[--follower->count];
        follower->removed++;
    }
}

/* The follower has every published block, and no other. */
static void check_follower(struct follower *follower)
{
    uint32_t published = 0;
    for (uint32_t n = 0; n < follower->cache->tree.slab_count * PREFIX_SLAB_NODES; n++) {
        struct kv_node *node = prefix_node(follower->cache, n);
        for (uint32_t g = 0; node->token_count && node->rows_count && g < follower->cache->group_count; g++) {
            if (prefix_rows(node)[g] == BLOCK_NONE) continue;
            const struct kv_event event = {.group = g, .key = node->key.bytes};
            assert_non_null(find(follower, &event));
            published++;
        }
    }
    assert_int_equal(follower->count, published);
}

static void test_events_tell_what_is_cached(void **state)
{
    (void)state;
    static struct fake_seq s;
    static struct follower follower;
    struct kv_config config = config_of(hybrid, ARRAY_COUNT(hybrid), 16);
    config.bytes_max = 2 * kv_bytes_needed(&config, 600, 48);
    struct kv_cache *cache = open_cache(&config);
    follower = (struct follower){.cache = cache};
    kv_events_set(cache, follow, &follower);
    for (uint32_t n = 0; n < 12; n++) {
        say(&s, n % 3, 0, 150);
        say(&s, 10 + n, 150, 600);
        request(&s, cache, &config, 300, 555 + n);
        check_follower(&follower);
        stats_of(cache);
    }
    assert_true(follower.stored > 200 && follower.removed > 100);
    uint32_t before = follower.stored + follower.removed;
    kv_events_set(cache, NULL, NULL);
    say(&s, 99, 0, 300);
    request(&s, cache, &config, 300, 300);
    assert_int_equal(follower.stored + follower.removed, before);
    kv_close(cache);
}

/* ---- snapshot ---------------------------------------------------------------------------------------------------- */

static struct kv_block_info blocks[4096];

/* Takes a snapshot; it agrees with the statistics. */
static uint32_t snapshot(const struct kv_cache *cache)
{
    struct kv_stats stats = stats_of(cache);
    struct kv_group_info groups[4];
    uint64_t held = 0, cached = 0;
    uint32_t group_count = kv_groups(cache, groups, 4), count = kv_snapshot(cache, blocks, ARRAY_COUNT(blocks));
    assert_true(count <= ARRAY_COUNT(blocks));
    for (uint32_t i = 0; i < count; i++) {
        assert_true(blocks[i].group < group_count && blocks[i].tokens <= cache->block_tokens);
        assert_true(!i || blocks[i].group > blocks[i - 1].group || blocks[i].index > blocks[i - 1].index);
        assert_true((blocks[i].state == KV_BLOCK_HELD) == (blocks[i].references > 0));
        assert_true((blocks[i].owner > 0) == (blocks[i].references > 0));
        assert_true(blocks[i].published == (blocks[i].key != 0));
        assert_int_equal(blocks[i].position % cache->block_tokens, 0);
        *(blocks[i].state == KV_BLOCK_HELD ? &held : &cached) += groups[blocks[i].group].block_bytes;
    }
    assert_int_equal(held, stats.bytes_used);
    assert_int_equal(cached, stats.bytes_cached);
    struct kv_block_info few[3];
    assert_int_equal(kv_snapshot(cache, few, 3), count); /* too few: the first ones */
    for (uint32_t i = 0; i < 3 && i < count; i++) assert_int_equal(few[i].index, blocks[i].index);
    return count;
}

static void test_snapshot(void **state)
{
    (void)state;
    static struct fake_seq a, b;
    struct kv_config config = config_of(hybrid, ARRAY_COUNT(hybrid), 16);
    config.bytes_pinned_max = config.bytes_max / 4;
    struct kv_cache *cache = open_cache(&config);
    assert_int_equal(snapshot(cache), 0);
    say(&a, 0, 0, 100);
    open_fake(&a, cache, 100);
    assert_true(run_to(&a, cache, &config, 100)); /* seven blocks of full rows; of the window's, two passed, cached */
    assert_int_equal(kv_seq_reserve(a.seq, 20), ST_OK); /* one more each */
    uint32_t count = snapshot(cache), by_tokens[17] = {0}, cached = 0;
    for (uint32_t i = 0; i < count; i++) {
        by_tokens[blocks[i].tokens]++;
        cached += blocks[i].state == KV_BLOCK_CACHED;
        if (blocks[i].owner) assert_int_equal(blocks[i].owner, kv_seq_number(a.seq));
        assert_true(blocks[i].published == (blocks[i].tokens == 16));
        if (blocks[i].state == KV_BLOCK_CACHED) assert_true(blocks[i].position < 32 && blocks[i].age < 2);
    }
    assert_int_equal(by_tokens[16], 12);
    assert_int_equal(by_tokens[4], 2);
    assert_int_equal(by_tokens[0], 2);
    assert_int_equal(cached, 2);
    say(&b, 0, 0, 40); /* shares two blocks and a half with it, and is kept by name */
    uint32_t pinned, twice = 0, named = 0, most = 0;
    assert_int_equal(kv_prefix_pin(cache, "b", b.tokens, 40, 0, &pinned), ST_OK);
    count = snapshot(cache);
    for (uint32_t i = 0; i < count; i++) {
        twice += blocks[i].references == 2;
        named += blocks[i].pinned;
        if (blocks[i].references == 2) assert_int_equal(blocks[i].owner, kv_seq_number(a.seq)); /* the older */
        if (blocks[i].pinned) assert_true(blocks[i].position <= 32 && blocks[i].is_protected);
        if (blocks[i].pinned && blocks[i].position > most) most = blocks[i].position;
    }
    assert_true(named == 6 && twice == 4 && most == 32);
    assert_int_equal(kv_prefix_unpin(cache, "b"), ST_OK);
    kv_seq_close(a.seq);
    count = snapshot(cache);
    for (uint32_t i = 0; i < count; i++) assert_true(blocks[i].state == KV_BLOCK_CACHED && !blocks[i].owner);
    kv_close(cache);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_events_tell_what_is_cached),
        cmocka_unit_test(test_snapshot),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
