/* test_store.c - blobs in a folder: what is put comes back, what was damaged does not, limits hold, strangers are left alone. */
#include "scratch.h"
#include "store_blobs.h"

static struct store *open_folder(const char *path, uint64_t bytes_max)
{
    struct store *store;
    struct error error;
    if (store_open_folder(path, bytes_max, &store, &error) != ST_OK) fail_msg("%s", error.text);
    return store;
}

/* The file of a number's blob, until the next call. */
static const char *file_of(struct scratch *scratch, const char *folder, uint64_t number)
{
    char name[200], *at = name;
    struct store_key key = blob_key(number);
    at += snprintf(name, sizeof name, "%s/kvasir-blobs/%02x/", folder, key.bytes[0]);
    for (uint32_t i = 0; i < STORE_KEY_BYTES; i++) at += snprintf(at, 3, "%02x", key.bytes[i]);
    snprintf(at, 5, ".kvb");
    return scratch_path(scratch, name);
}

static unsigned mode_of(const char *path)
{
    struct stat info;
    assert_int_equal(stat(path, &info), 0);
    return info.st_mode & 0777;
}

/* ---- what is put comes back -------------------------------------------------------------------------------------- */

static void test_round_trip(void **state)
{
    (void)state;
    struct scratch scratch;
    scratch_init(&scratch);
    static const uint32_t sizes[] = {0, 1, 15, 16, 17, 4096, BLOB_BYTES, 1 << 17};
    for (uint32_t reopened = 0; reopened < 2; reopened++) {
        struct store *store = open_folder(scratch_path(&scratch, "a"), 1 << 20);
        for (uint32_t i = 0; i < 2 * ARRAY_COUNT(sizes); i++) {
            uint32_t bytes = sizes[i / 2];
            assert_int_equal(blob_has(store, i), reopened);
            if (!reopened) assert_int_equal(blob_get_sized(store, i, bytes), ST_NOT_FOUND);
            assert_int_equal(blob_put_sized(store, i, bytes), ST_OK);
            assert_true(blob_has(store, i));
            assert_int_equal(blob_get_sized(store, i, bytes), ST_OK);
        }
        struct store_stats stats = store_stats_of(store);
        assert_int_equal(stats.entries, 2 * ARRAY_COUNT(sizes));
        assert_int_equal(stats.puts, reopened ? 0 : 2 * ARRAY_COUNT(sizes));
        assert_int_equal(stats.hits, 2 * ARRAY_COUNT(sizes));
        assert_true(stats.damaged == 0 && stats.failed == 0 && stats.evicted == 0);
        if (!reopened) assert_true(stats.bytes_written < 2 * ((1 << 17) + BLOB_BYTES) * 9 / 10); /* compressed */
        store_close(store);
    }
    assert_int_equal(mode_of(scratch_path(&scratch, "a")), 0700);
    assert_int_equal(mode_of(scratch_path(&scratch, "a/kvasir-blobs")), 0700);
    assert_int_equal(mode_of(file_of(&scratch, "a", 3)), 0600);
    scratch_release(&scratch);
}

static void test_many_at_once_and_removed(void **state)
{
    (void)state;
    struct scratch scratch;
    struct store_key keys[64];
    bool there[64];
    scratch_init(&scratch);
    struct store *store = open_folder(scratch.folder, 1 << 24);
    for (uint32_t i = 0; i < 64; i++) {
        keys[i] = blob_key(i);
        if (i % 3 == 0) assert_int_equal(blob_put(store, i), ST_OK);
    }
    store_have(store, keys, 64, there);
    for (uint32_t i = 0; i < 64; i++) assert_int_equal(there[i], i % 3 == 0);
    for (uint32_t i = 0; i < 64; i += 6) store_remove(store, &keys[i]);
    store_have(store, keys, 64, there);
    for (uint32_t i = 0; i < 64; i++) assert_int_equal(there[i], i % 6 == 3);
    assert_int_equal(store_stats_of(store).entries, 11);
    store_close(store);
    scratch_release(&scratch);
}

/* ---- limits ---------------------------------------------------------------------------------------------------------- */

/* Within the limit at any moment; the least recently used are gone, those in use not. */
static void test_least_recently_used_go(void **state)
{
    (void)state;
    struct scratch scratch;
    scratch_init(&scratch);
    uint64_t file_bytes = round_up(BLOB_BYTES, 4096), limit = 10 * file_bytes;
    struct store *store = open_folder(scratch.folder, limit);
    for (uint32_t i = 0; i < 40; i++) {
        assert_int_equal(blob_put(store, 2 * i), ST_OK);
        assert_int_equal(blob_get(store, 0), ST_OK);
        store_stats_of(store);
    }
    for (uint32_t i = 0; i < 40; i++) assert_int_equal(blob_has(store, 2 * i), i == 0 || i > 30);
    assert_int_equal(store_stats_of(store).evicted, 30);
    store_close(store);
    store = open_folder(scratch.folder, 3 * file_bytes);             /* a smaller limit from now on */
    assert_int_equal(blob_put_sized(store, 1000, 1 << 16), ST_FULL); /* and nothing is lost for it */
    for (uint32_t i = 0; i < 40; i++)
        assert_int_equal(blob_has(store, 2 * i), i > 36); /* files' times are not so exact */
    assert_int_equal(store_stats_of(store).entries, 3);
    store_close(store);
    scratch_release(&scratch);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_many_at_once_and_removed),
        cmocka_unit_test(test_least_recently_used_go),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
