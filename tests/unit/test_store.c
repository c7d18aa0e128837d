/* test_store.c - blobs in a folder: what is put comes back, what was damaged does not, limits hold, strangers are left alone. */
#include "scratch.h"
#include "store_blobs.h"
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/wait.h>

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
    char name[200], text[STORE_KEY_TEXT_BYTES];
    struct store_key key = blob_key(number);
    store_key_text(&key, text);
    snprintf(name, sizeof name, "%.60s/kvasir-blobs/%.2s/%s.kvb", folder, text, text);
    return scratch_path(scratch, name);
}

static uint64_t walked_bytes;
static uint32_t walked_files;

static int walk_one(const char *path, const struct stat *info, int type, struct FTW *walk)
{
    (void)path, (void)walk;
    walked_bytes += type == FTW_F ? round_up((uint64_t)info->st_size, 4096) : 0;
    walked_files += type == FTW_F;
    return 0;
}

/* Of all files in the folder. */
static uint64_t bytes_on_disk(struct scratch *scratch)
{
    walked_bytes = walked_files = 0;
    assert_int_equal(nftw(scratch->folder, walk_one, 16, FTW_PHYS), 0);
    return walked_bytes;
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

/* Four processes at once: what one stores the others find, what one evicts they miss, and together they keep the limit but for
 * what the header allows. */
static void test_processes_share_a_folder(void **state)
{
    (void)state;
    enum { PROCESSES = 4, ROUNDS = 150 };
    struct scratch scratch;
    scratch_init(&scratch);
    uint64_t limit = 64 * round_up(BLOB_BYTES, 4096);
    for (uint32_t p = 0; p < PROCESSES; p++)
        if (fork() == 0) {
            struct store *store = open_folder(scratch.folder, limit);
            for (uint32_t i = 0; i < ROUNDS; i++) {
                if (blob_put(store, 2 * (p * ROUNDS + i)) != ST_OK) _exit(1);
                uint32_t other = (p + i) % PROCESSES;
                enum status status = blob_get(store, 2 * (other * ROUNDS + i / 2));
                if (status != ST_OK && status != ST_NOT_FOUND) _exit(1);
            }
            struct store_stats stats = store_stats_of(store);
            store_close(store);
            _exit(stats.damaged || stats.failed ? 2 : 0);
        }
    for (uint32_t p = 0; p < PROCESSES; p++) {
        int result;
        assert_true(wait(&result) > 0);
        assert_int_equal(result, 0);
    }
    uint64_t bytes = bytes_on_disk(&scratch);
    assert_true(bytes > limit / 2 && bytes <= limit + PROCESSES * limit / 16);
    struct store *store = open_folder(scratch.folder, limit), *second = open_folder(scratch.folder, limit);
    assert_int_equal(blob_put(store, 5), ST_OK);
    assert_true(blob_has(second, 5));
    assert_int_equal(blob_get(second, 5), ST_OK);
    struct store_key key = blob_key(5);
    store_remove(store, &key);
    assert_int_equal(blob_get(second, 5), ST_NOT_FOUND); /* it thought otherwise */
    assert_false(blob_has(second, 5));
    store_close(store);
    store_close(second);
    scratch_release(&scratch);
}

struct crew {
    struct store *store;
    _Atomic uint32_t next;
    _Atomic uint64_t hits;
};

static void *work(void *data)
{
    struct crew *crew = data;
    unsigned char *bytes = malloc(BLOB_BYTES), *expected = malloc(BLOB_BYTES);
    for (uint32_t n; (n = crew->next++) < test_count(400, 4000);) {
        struct store_key key = blob_key(n % 40);
        blob_fill(expected, BLOB_BYTES, n % 40);
        if (store_get(crew->store, &key, bytes, BLOB_BYTES) == ST_OK) {
            crew->hits++;
            if (memcmp(bytes, expected, BLOB_BYTES) != 0) abort();
        } else if (store_put(crew->store, &key, expected, BLOB_BYTES) != ST_OK) {
            abort();
        }
        if (n % 20 == 19) store_remove(crew->store, &key);
        (void)store_has(crew->store, &key);
    }
    free(bytes);
    free(expected);
    return NULL;
}

static void test_threads(void **state)
{
    (void)state;
    struct scratch scratch;
    pthread_t threads[4];
    scratch_init(&scratch);
    struct crew crew = {.store = open_folder(scratch.folder, 30 * round_up(BLOB_BYTES, 4096))};
    for (uint32_t i = 0; i < ARRAY_COUNT(threads); i++)
        assert_int_equal(pthread_create(&threads[i], NULL, work, &crew), 0);
    for (uint32_t i = 0; i < ARRAY_COUNT(threads); i++) pthread_join(threads[i], NULL);
    struct store_stats stats = store_stats_of(crew.store);
    assert_true(stats.hits == crew.hits && stats.damaged == 0 && stats.failed == 0 && stats.puts > 0);
    assert_true(bytes_on_disk(&scratch) <= stats.bytes_max);
    store_close(crew.store);
    scratch_release(&scratch);
}

struct newcomer {
    struct store *store;
    pthread_barrier_t *together;
    uint64_t number;
    enum status status;
};

static void *put_one(void *data)
{
    struct newcomer *newcomer = data;
    struct store_key key = blob_key(newcomer->number);
    unsigned char *bytes = malloc(BLOB_BYTES);
    blob_fill(bytes, BLOB_BYTES, newcomer->number);
    pthread_barrier_wait(newcomer->together);
    newcomer->status = store_put(newcomer->store, &key, bytes, BLOB_BYTES);
    free(bytes);
    return NULL;
}

/* The first files of one subfolder at once: nobody writes into it before it is there. */
static void test_threads_begin_a_subfolder(void **state)
{
    (void)state;
    uint64_t same[4] = {0};
    uint32_t found = 1;
    for (uint64_t n = 1; found < ARRAY_COUNT(same); n++)
        if (blob_key(n).bytes[0] == blob_key(0).bytes[0]) same[found++] = n;
    for (uint32_t round = 0; round < test_count(50, 500); round++) {
        struct scratch scratch;
        struct newcomer newcomers[ARRAY_COUNT(same)];
        pthread_t threads[ARRAY_COUNT(same)];
        pthread_barrier_t together;
        scratch_init(&scratch);
        struct store *store = open_folder(scratch.folder, 1 << 24);
        pthread_barrier_init(&together, NULL, ARRAY_COUNT(same));
        for (uint32_t i = 0; i < ARRAY_COUNT(same); i++) {
            newcomers[i] = (struct newcomer){.store = store, .together = &together, .number = same[i]};
            assert_int_equal(pthread_create(&threads[i], NULL, put_one, &newcomers[i]), 0);
        }
        for (uint32_t i = 0; i < ARRAY_COUNT(same); i++) pthread_join(threads[i], NULL);
        for (uint32_t i = 0; i < ARRAY_COUNT(same); i++) assert_int_equal(newcomers[i].status, ST_OK);
        pthread_barrier_destroy(&together);
        store_close(store);
        scratch_release(&scratch);
    }
}

/* ---- the folder ------------------------------------------------------------------------------------------------------ */

/* What is not ours stays: beside our folder, in it, and under names that are nearly ours. */
static void test_strangers_are_left_alone(void **state)
{
    (void)state;
    static const char *const strangers[] = {
        "notes.txt",
        "kvasir-blobs/notes.txt",
        "kvasir-blobs/00/notes.txt",
        "kvasir-blobs/00/0000.kvb",
        "kvasir-blobs/00/00000000000000000000000000000000000000000000000000000000000000zz.kvb",
        "kvasir-blobs/00/0000000000000000000000000000000000000000000000000000000000000000.kvb.old",
        "kvasir-blobs/00/1100000000000000000000000000000000000000000000000000000000000000.kvb", /* not its place */
        "kvasir-blobs/00/0000000000000000000000000000000000000000000000000000000000000000",
    };
    struct scratch scratch;
    struct stat info;
    scratch_init(&scratch);
    assert_int_equal(mkdir(scratch_path(&scratch, "kvasir-blobs"), 0755), 0);
    assert_int_equal(mkdir(scratch_path(&scratch, "kvasir-blobs/00"), 0755), 0);
    assert_int_equal(chmod(scratch.folder, 0755), 0);
    for (uint32_t i = 0; i < ARRAY_COUNT(strangers); i++) scratch_write(&scratch, strangers[i], "x", 1);
    assert_int_equal(symlink("/etc/passwd", scratch_path(&scratch, "kvasir-blobs/00/link")), 0);
    struct store *store = open_folder(scratch.folder, 3 * round_up(BLOB_BYTES, 4096));
    assert_int_equal(store_stats_of(store).entries, 0);
    for (uint32_t i = 0; i < 20; i++) assert_int_equal(blob_put(store, 2 * i), ST_OK);
    assert_int_equal(store_stats_of(store).entries, 3);
    store_close(store);
    for (uint32_t i = 0; i < ARRAY_COUNT(strangers); i++)
        assert_int_equal(stat(scratch_path(&scratch, strangers[i]), &info), 0);
    assert_int_equal(lstat(scratch_path(&scratch, "kvasir-blobs/00/link"), &info), 0);
    assert_int_equal(mode_of(scratch.folder), 0755); /* it holds other things, too */
    assert_int_equal(mode_of(scratch_path(&scratch, "kvasir-blobs")), 0700);
    scratch_release(&scratch);
}

static void expect_unopened(const char *path, const char *words)
{
    struct store *store;
    struct error error = {0};
    assert_int_equal(store_open_folder(path, 1 << 20, &store, &error), ST_IO);
    assert_null(store);
    if (!strstr(error.text, words)) fail_msg("'%s' does not say '%s'", error.text, words);
}

static void test_folders_that_cannot_be(void **state)
{
    (void)state;
    struct scratch scratch;
    scratch_init(&scratch);
    scratch_write(&scratch, "file", "x", 1);
    expect_unopened(scratch_path(&scratch, "file"), "cannot open the folder");
    expect_unopened(scratch_path(&scratch, "none/none"), "cannot make the folder");
    expect_unopened("/proc", "/proc/kvasir-blobs: cannot make the folder");
    char other[600];
    snprintf(other, sizeof other, "%s", scratch_path(&scratch, "other"));
    assert_int_equal(mkdir(other, 0700), 0);
    assert_int_equal(mkdir(scratch_path(&scratch, "other/kvasir-blobs"), 0700), 0);
    if (chown(scratch.path, 12345, 12345) == 0) /* as root only */
        expect_unopened(other, "is another user's folder");
    assert_int_equal(mkdir(scratch_path(&scratch, "empty"), 0755), 0);
    store_close(open_folder(scratch.path, 1 << 20));
    assert_int_equal(mode_of(scratch_path(&scratch, "empty")), 0700);
    scratch_release(&scratch);
}

/* What a writer that is gone left is removed; what one is writing is not. */
static void test_temporary_files(void **state)
{
    (void)state;
    struct scratch scratch;
    struct stat info;
    struct file_writer writer;
    scratch_init(&scratch);
    struct store *store = open_folder(scratch.folder, 1 << 20);
    assert_int_equal(blob_put(store, 1), ST_OK);
    store_close(store);
    assert_int_equal(file_writer_open_cached(file_of(&scratch, ".", 1), &writer, NULL), ST_OK);
    char abandoned[600];
    snprintf(abandoned, sizeof abandoned, "%.500s.1.0.tmp", file_of(&scratch, ".", 1));
    assert_int_equal(file_write(abandoned, "x", 1, NULL), ST_OK);
    store_close(open_folder(scratch.folder, 1 << 20));
    assert_int_equal(stat(writer.temporary, &info), 0);
    assert_int_equal(stat(abandoned, &info), -1);
    assert_int_equal(file_writer_close(&writer, true, NULL), ST_OK);
    store_close(open_folder(scratch.folder, 1 << 20));
    assert_int_equal(stat(file_of(&scratch, ".", 1), &info), 0);
    scratch_release(&scratch);
}

/* 10,000 blobs are listed in time for a start. */
static void test_many_are_listed_soon(void **state)
{
    (void)state;
    struct scratch scratch;
    scratch_init(&scratch);
    store_close(open_folder(scratch.folder, 1 << 20));
    for (uint32_t i = 0; i < 256; i++) {
        char name[40];
        snprintf(name, sizeof name, "kvasir-blobs/%02x", i);
        assert_int_equal(mkdir(scratch_path(&scratch, name), 0700), 0);
    }
    for (uint32_t i = 0; i < 10000; i++) {
        char name[200];
        snprintf(name, sizeof name, "kvasir-blobs/%02x/%02x%062x.kvb", i % 256, i % 256, i);
        scratch_write(&scratch, name, "", 1);
    }
    double begun = clock_seconds();
    struct store *store = open_folder(scratch.folder, 1 << 30);
    double seconds = clock_seconds() - begun;
    print_message("a folder of 10,000 blobs opens in %.0f ms\n", seconds * 1e3);
    assert_int_equal(store_stats_of(store).entries, 10000);
    assert_true(seconds < 2);
    store_close(store);
    scratch_release(&scratch);
}

/* ---- damage ---------------------------------------------------------------------------------------------------------- */

static void damage(struct scratch *scratch, uint64_t number, struct random *random)
{
    struct buffer file;
    const char *path = file_of(scratch, ".", number);
    assert_int_equal(file_read(path, 0, &file, NULL), ST_OK);
    uint64_t at = random_below(random, file.length);
    size_t length = file.length;
    switch (random_below(random, 8)) {
    case 0: /* torn */
        length = random_below(random, file.length);
        break;
    case 1: /* torn by a loss of power: the length is right, some pages are not */
        file.data[at] ^= 1;
        memset(file.data + at / 4096 * 4096, 0, file.length - at / 4096 * 4096);
        break;
    case 2:
        buffer_append(&file, "x", 1);
        length = file.length;
        break;
    default:
        file.data[at] ^= (char)(1 << random_below(random, 8));
    }
    FILE *out = fopen(path, "wb");
    assert_true(out && fwrite(file.data, 1, length, out) == length && fclose(out) == 0);
    buffer_release(&file);
}

/* One bit is enough. */
static void test_damage_is_found(void **state)
{
    (void)state;
    struct scratch scratch;
    struct random random;
    scratch_init(&scratch);
    random_seed(&random, 1);
    struct store *store = open_folder(scratch.folder, 1 << 24);
    uint32_t count = test_count(500, 10000);
    for (uint32_t i = 0; i < count; i++) {
        uint64_t number = i % 16;
        uint32_t bytes = number < 8 ? 300 : BLOB_BYTES; /* in small ones the head is hit often */
        assert_int_equal(blob_put_sized(store, number, bytes), ST_OK);
        damage(&scratch, number, &random);
        assert_int_equal(blob_get_sized(store, number, bytes), ST_NOT_FOUND);
        assert_int_equal(store_stats_of(store).damaged, i + 1);
        assert_false(blob_has(store, number)); /* and can be stored anew */
    }
    store_close(store);
    scratch_release(&scratch);
}

/* A whole blob, but of another key or length. */
static void test_exchanged_files(void **state)
{
    (void)state;
    struct scratch scratch;
    char from[600];
    scratch_init(&scratch);
    struct store *store = open_folder(scratch.folder, 1 << 24);
    for (uint32_t i = 0; i < 4; i++) assert_int_equal(blob_put(store, i), ST_OK);
    snprintf(from, sizeof from, "%s", file_of(&scratch, ".", 0));
    assert_int_equal(rename(from, file_of(&scratch, ".", 1)), 0);
    assert_int_equal(blob_get(store, 0), ST_NOT_FOUND);
    assert_int_equal(blob_get(store, 1), ST_NOT_FOUND);
    assert_int_equal(blob_get_sized(store, 2, BLOB_BYTES - 1), ST_NOT_FOUND);
    assert_int_equal(blob_get_sized(store, 3, BLOB_BYTES + 1), ST_NOT_FOUND);
    assert_int_equal(store_stats_of(store).damaged, 3);
    assert_int_equal(store_stats_of(store).misses, 1);
    assert_int_equal(store_stats_of(store).entries, 0);
    store_close(store);
    scratch_release(&scratch);
}

/* ---- faults ---------------------------------------------------------------------------------------------------------- */

static uint32_t files_in(struct scratch *scratch)
{
    bytes_on_disk(scratch);
    return walked_files;
}

/* Whichever write, read or allocation fails: a miss and a counter, nothing is left behind, and then all is well again. */
static void test_faults(void **state)
{
    (void)state;
    static const enum fault_kind kinds[] = {FAULT_WRITE, FAULT_READ, FAULT_ALLOC};
    struct scratch scratch;
    scratch_init(&scratch);
    for (uint32_t k = 0; k < ARRAY_COUNT(kinds); k++)
        for (uint64_t nth = 1, fired = 1; fired; nth++) {
            struct store *store = open_folder(scratch.folder, 1 << 24);
            uint64_t number = k * 1000 + nth;
            fault_arm(kinds[k], nth);
            enum status put = blob_put(store, number), got = blob_get(store, number);
            fired = fault_count(kinds[k]) >= nth;
            fault_arm(FAULT_NONE, 0);
            assert_int_equal(got == ST_OK, put == ST_OK && !(fired && kinds[k] != FAULT_WRITE && got != ST_OK));
            if (fired && kinds[k] != FAULT_ALLOC) assert_int_equal(store_stats_of(store).failed, 1);
            if (put == ST_OK) assert_int_equal(blob_get(store, number), ST_OK);
            assert_int_equal(files_in(&scratch), store_stats_of(store).entries);
            if (put == ST_IO) assert_int_equal(blob_put(store, number), ST_IO); /* not so soon */
            store_close(store);
            store = open_folder(scratch.folder, 1 << 24);
            assert_int_equal(blob_put(store, number), ST_OK);
            assert_int_equal(blob_get(store, number), ST_OK);
            store_close(store);
        }
    scratch_release(&scratch);
}

/* A disk that was full is written to again after a while. */
static void test_full_disk(void **state)
{
    (void)state;
    struct scratch scratch;
    scratch_init(&scratch);
    struct store *store = open_folder(scratch.folder, 1 << 24);
    assert_int_equal(blob_put(store, 1), ST_OK);
    fault_arm(FAULT_WRITE, 1);
    assert_int_equal(blob_put(store, 2), ST_IO);
    fault_arm(FAULT_NONE, 0);
    assert_int_equal(blob_put(store, 2), ST_IO);
    assert_int_equal(blob_get(store, 1), ST_OK); /* reading goes on */
    assert_int_equal(store_stats_of(store).failed, 2);
    usleep(1050000);
    assert_int_equal(blob_put(store, 2), ST_OK);
    store_close(store);
    scratch_release(&scratch);
}

static bool say(const char *path, const char *format, unsigned number)
{
    FILE *file = fopen(path, "w");
    return file && fprintf(file, format, number) > 0 && fclose(file) == 0;
}

/* On a disk of 4 MiB of its own; false: that is not allowed here. */
static bool on_a_small_disk(const char *path)
{
    unsigned user = geteuid(), group = getegid();
    return unshare(CLONE_NEWUSER | CLONE_NEWNS) == 0 && say("/proc/self/setgroups", "deny%.0u", 0) &&
           say("/proc/self/uid_map", "0 %u 1", user) && say("/proc/self/gid_map", "0 %u 1", group) &&
           mount("small", path, "tmpfs", 0, "size=4m") == 0;
}

static void fill_small_disk(struct scratch *scratch)
{
    struct store *store = open_folder(scratch->folder, 1 << 30);
    for (uint32_t i = 0; i < 1000; i++) {
        assert_int_equal(blob_put(store, 2 * i), ST_OK);
        assert_int_equal(blob_get(store, 2 * i), ST_OK);
    }
    struct store_stats stats = store_stats_of(store);
    assert_true(stats.failed == 0 && stats.bytes > 3 << 20);
    uint64_t free_bytes, all_bytes;
    file_disk_bytes(scratch->folder, &free_bytes, &all_bytes);
    assert_true(free_bytes >= all_bytes / 64);
    struct buffer rest; /* somebody else takes what is left: we give way */
    buffer_init(&rest, 0);
    for (uint32_t i = 0; i < 400; i++) buffer_text(&rest, "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx");
    for (uint32_t i = 0; i < 150; i++) {
        char name[16];
        snprintf(name, sizeof name, "other%u", i);
        assert_int_equal(file_write(scratch_path(scratch, name), rest.data, rest.length, NULL), ST_OK);
        assert_int_equal(blob_put(store, 3000 + 2 * i), ST_OK);
    }
    assert_true(store_stats_of(store).bytes < 1 << 20);
    assert_int_equal(store_stats_of(store).failed, 0);
    buffer_release(&rest);
    store_close(store);
}

/* A small disk gets fuller than is good for it by nobody's hand but others', for whom we make room. */
static void test_small_disk(void **state)
{
    (void)state;
    struct scratch scratch;
    int result;
    scratch_init(&scratch);
    pid_t pid = fork();
    if (pid == 0) {
        if (!on_a_small_disk(scratch.folder)) _exit(TEST_SKIPPED);
        fill_small_disk(&scratch);
        _exit(0);
    }
    assert_true(waitpid(pid, &result, 0) == pid);
    scratch_release(&scratch);
    if (WIFEXITED(result) && WEXITSTATUS(result) == TEST_SKIPPED) {
        print_message("no disk can be mounted here\n");
        skip();
    }
    assert_int_equal(result, 0);
}

/* Somebody removes everything under our feet. */
static void test_emptied_folder(void **state)
{
    (void)state;
    struct scratch scratch;
    scratch_init(&scratch);
    struct store *store = open_folder(scratch_path(&scratch, "a"), 1 << 24);
    for (uint32_t i = 0; i < 20; i++) assert_int_equal(blob_put(store, i), ST_OK);
    assert_int_equal(nftw(scratch_path(&scratch, "a"), scratch_remove_one, 16, FTW_DEPTH | FTW_PHYS), 0);
    for (uint32_t i = 0; i < 20; i++) assert_int_equal(blob_get(store, i), ST_NOT_FOUND);
    assert_int_equal(blob_put(store, 1), ST_IO);
    struct store_stats stats = store_stats_of(store);
    assert_true(stats.entries == 0 && stats.bytes == 0 && stats.damaged == 0);
    store_close(store);
    scratch_release(&scratch);
}

/* ---- kill -9 --------------------------------------------------------------------------------------------------------- */

/* Says so on `busy` when it has opened the folder, and again with each blob that is there. */
static void write_until_killed(const char *folder, uint64_t limit, uint64_t seed, int busy)
{
    struct random random;
    random_seed(&random, seed);
    struct store *store = open_folder(folder, limit);
    for (;;) {
        (void)!write(busy, "", 1); /* nobody may listen any more */
        uint64_t number = random_below(&random, 24);
        if (blob_get_sized(store, number, 1 << 17) != ST_OK && blob_put_sized(store, number, 1 << 17) != ST_OK)
            _exit(1);
        if (random_below(&random, 8) == 0) {
            struct store_key key = blob_key(number);
            store_remove(store, &key);
        }
    }
}

/* Killed at any moment, a process leaves whole blobs, and what the next one clears away. */
static void test_killed_at_any_moment(void **state)
{
    (void)state;
    struct scratch scratch;
    struct random random;
    uint64_t limit = 16 * ((1 << 17) + 4096), found = 0, kept = 0;
    scratch_init(&scratch);
    random_seed(&random, 7);
    for (uint32_t i = 0; i < test_count(50, 1000); i++) {
        int busy[2], result = 0;
        char byte;
        assert_int_equal(pipe(busy), 0);
        pid_t pid = fork();
        if (pid == 0) write_until_killed(scratch.folder, limit, i, busy[1]);
        close(busy[1]);
        /* It may be killed while it opens, before it has written anything, and later. */
        for (uint32_t heard = 0; heard < i % 4; heard++) assert_int_equal(read(busy[0], &byte, 1), 1);
        usleep((useconds_t)random_below(&random, 20000));
        assert_true(pid > 0 && kill(pid, SIGKILL) == 0 && waitpid(pid, &result, 0) == pid);
        assert_true(WIFSIGNALED(result) && WTERMSIG(result) == SIGKILL); /* it had served nothing wrong */
        close(busy[0]);
        struct store *store = open_folder(scratch.folder, limit);
        struct store_stats stats = store_stats_of(store);
        assert_int_equal(files_in(&scratch), stats.entries);
        assert_true(bytes_on_disk(&scratch) <= limit);
        for (uint64_t number = 0; number < 24; number++) {
            enum status got = blob_get_sized(store, number, 1 << 17);
            assert_true(got == ST_OK || got == ST_NOT_FOUND);
            found += got == ST_OK;
        }
        stats = store_stats_of(store);
        assert_true(stats.damaged == 0 && stats.failed == 0);
        kept += stats.entries;
        store_close(store);
    }
    assert_true(found == kept && found > 0);
    scratch_release(&scratch);
}

int main(void)
{
    log_set_level(LOG_ERROR); /* faults are meant here */
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_many_at_once_and_removed),
        cmocka_unit_test(test_least_recently_used_go),
        cmocka_unit_test(test_processes_share_a_folder),
        cmocka_unit_test(test_threads),
        cmocka_unit_test(test_threads_begin_a_subfolder),
        cmocka_unit_test(test_strangers_are_left_alone),
        cmocka_unit_test(test_folders_that_cannot_be),
        cmocka_unit_test(test_temporary_files),
        cmocka_unit_test(test_many_are_listed_soon),
        cmocka_unit_test(test_damage_is_found),
        cmocka_unit_test(test_exchanged_files),
        cmocka_unit_test(test_faults),
        cmocka_unit_test(test_full_disk),
        cmocka_unit_test(test_small_disk),
        cmocka_unit_test(test_emptied_folder),
        cmocka_unit_test(test_killed_at_any_moment),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
