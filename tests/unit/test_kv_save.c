/* test_kv_save.c - sequences in files: what is loaded is what was saved, and everything else is a clear error. */
#include "kv/kv_internal.h"
#include "kv_requests.h"
#include "scratch.h"
#include <signal.h>
#include <sys/resource.h>

/* Where the budget of one cache and another differ, files do not. */
static struct kv_config config_for(bool windows)
{
    return windows ? config_of(hybrid, ARRAY_COUNT(hybrid), 16) : config_of(full, 1, 16);
}

static void save(const struct fake_seq *s, const char *path)
{
    struct error error;
    if (kv_seq_save(s->seq, path, &error) != ST_OK) fail_msg("%s", error.text);
}

/* Loads into s, whose tokens are forgotten before. */
static enum status load(struct fake_seq *s, struct kv_cache *cache, const char *path, struct error *error)
{
    enum status status = kv_seq_load(cache, path, 0, &s->seq, error);
    if (status != ST_OK) {
        assert_null(s->seq);
        return status;
    }
    s->count = kv_seq_count(s->seq);
    memset(s->tokens, 0xff, sizeof s->tokens);
    kv_seq_tokens(s->seq, 0, s->count, s->tokens);
    fake_hash(s, 0, s->count);
    return status;
}

static struct buffer bytes_of(const char *path)
{
    struct buffer bytes;
    struct error error;
    if (file_read(path, 0, &bytes, &error) != ST_OK) fail_msg("%s", error.text);
    return bytes;
}

/* In another cache, cold or with the same prefix, a loaded sequence has its tokens and rows, goes on, can be cut, saves
 * as the same bytes, and serves its prefix. */
static void test_loaded_is_live(void **state)
{
    (void)state;
    static struct fake_seq s, loaded, other;
    struct scratch scratch;
    scratch_init(&scratch);
    char path[600], again[600];
    snprintf(path, sizeof path, "%s", scratch_path(&scratch, "a.kv"));
    snprintf(again, sizeof again, "%s", scratch_path(&scratch, "b.kv"));
    static const uint32_t counts[] = {0, 1, 16, 75, 160, 333};
    for (uint32_t variant = 0; variant < 4 * ARRAY_COUNT(counts); variant++) {
        uint32_t count = counts[variant / 4];
        struct kv_config config = config_for(variant & 1);
        struct kv_cache *from = open_cache(&config), *to = open_cache(&config);
        say(&s, 0, 0, 400);
        assert_int_equal(open_fake(&s, from, 400), 0);
        assert_true(run_to(&s, from, &config, count));
        save(&s, path);
        if (variant & 2) { /* a part of it is there already */
            say(&other, 0, 0, 100);
            request(&other, to, &config, 100, 100);
        }
        struct error error;
        assert_int_equal(load(&loaded, to, path, &error), ST_OK);
        assert_int_equal(loaded.count, count);
        assert_memory_equal(loaded.tokens, s.tokens, count * sizeof *s.tokens);
        stats_of(to);
        save(&loaded, again);
        struct buffer first = bytes_of(path), second = bytes_of(again);
        assert_int_equal(first.length, second.length);
        assert_memory_equal(first.data, second.data, first.length);
        buffer_release(&first);
        buffer_release(&second);
        uint32_t middle[7];
        if (count > 40) kv_seq_tokens(loaded.seq, 29, 7, middle);
        if (count > 40) assert_memory_equal(middle, s.tokens + 29, sizeof middle);
        say(&loaded, 0, count, 400);
        assert_true(run_to(&loaded, to, &config, 400)); /* every head reads back what it must see */
        kv_seq_close(loaded.seq);
        say(&other, 0, 0, 400);
        assert_int_equal(request(&other, to, &config, 400, 400), 399);
        stats_of(to);
        kv_seq_close(s.seq);
        kv_close(from);
        kv_close(to);
    }
    scratch_release(&scratch);
}

/* Rows and entries of the index that lie behind the last token, another tenant's perhaps, are not in the file. */
static void test_nothing_else_is_saved(void **state)
{
    (void)state;
    static const struct kv_layer indexed[] = {{.kind = KV_FULL, .kv_heads = 2, ROWS(4, 2), .index = true}};
    static struct fake_seq s;
    struct scratch scratch;
    struct buffer files[2];
    scratch_init(&scratch);
    for (uint32_t variant = 0; variant < 2; variant++) {
        struct kv_config config = variant ? config_of(indexed, 1, 64) : config_for(false);
        const uint32_t count = variant ? 21 : 5, more = config.block_tokens - 1;
        for (uint32_t dirty = 0; dirty < 2; dirty++) {
            struct kv_cache *cache = open_cache(&config);
            say(&s, 0, 0, more);
            open_fake(&s, cache, more);
            assert_true(run_to(&s, cache, &config, dirty ? more : count));
            assert_int_equal(kv_seq_truncate(s.seq, count), ST_OK);
            save(&s, scratch_path(&scratch, "a.kv"));
            files[dirty] = bytes_of(scratch.path);
            kv_seq_close(s.seq);
            kv_close(cache);
        }
        assert_int_equal(files[0].length, files[1].length);
        assert_memory_equal(files[0].data, files[1].data, files[0].length);
        for (uint32_t i = 0; i < 2; i++) buffer_release(&files[i]);
    }
    scratch_release(&scratch);
}

/* ---- hostile files ----------------------------------------------------------------------------------------------- */

static void expect_refused(struct kv_cache *cache, const char *path, enum status least, const char *words)
{
    static struct fake_seq loaded;
    struct error error = {0};
    enum status status = load(&loaded, cache, path, &error);
    if (status == ST_OK) fail_msg("%s was loaded, expected: %s", path, words);
    if (least != ST_OK) assert_int_equal(status, least);
    assert_int_equal(error.status, status);
    if (!strstr(error.text, words)) fail_msg("'%s' does not say '%s'", error.text, words);
    struct kv_stats stats = stats_of(cache);
    assert_true(stats.sequences == 0 && stats.blocks_used == 0 && stats.blocks_cached == 0);
}

/* Every bit of a file flipped, and every length cut, is refused; so is what was added. */
static void test_damage_is_found(void **state)
{
    (void)state;
    static struct fake_seq s;
    struct scratch scratch;
    scratch_init(&scratch);
    struct kv_config config = config_for(true);
    struct kv_cache *cache = open_cache(&config);
    say(&s, 0, 0, 21);
    open_fake(&s, cache, 21);
    assert_true(run_to(&s, cache, &config, 21));
    save(&s, scratch_path(&scratch, "a.kv"));
    struct buffer file = bytes_of(scratch.path);
    kv_seq_close(s.seq);
    kv_close(cache);
    cache = open_cache(&config);
    for (size_t bit = 0; bit < file.length * 8; bit += bit < 72 * 8 ? 1 : test_count(13, 1)) {
        file.data[bit / 8] ^= (char)(1 << bit % 8);
        scratch_write(&scratch, "b.kv", file.data, file.length);
        file.data[bit / 8] ^= (char)(1 << bit % 8);
        expect_refused(cache, scratch_path(&scratch, "b.kv"), ST_OK, "b.kv: ");
    }
    for (size_t length = 0; length < file.length; length += test_count(97, 1)) {
        scratch_write(&scratch, "b.kv", file.data, length);
        expect_refused(cache, scratch_path(&scratch, "b.kv"), ST_INVALID, "b.kv: ");
    }
    buffer_append(&file, "", 1);
    scratch_write(&scratch, "b.kv", file.data, file.length);
    expect_refused(cache, scratch_path(&scratch, "b.kv"), ST_INVALID, "21 tokens need");
    buffer_release(&file);
    kv_close(cache);
    scratch_release(&scratch);
}

static void test_strange_files_are_refused(void **state)
{
    (void)state;
    static struct fake_seq s;
    struct scratch scratch;
    scratch_init(&scratch);
    char path[600];
    snprintf(path, sizeof path, "%s", scratch_path(&scratch, "a.kv"));
    struct kv_config config = config_for(true);
    struct kv_cache *cache = open_cache(&config);
    say(&s, 0, 0, 200);
    open_fake(&s, cache, 200);
    assert_true(run_to(&s, cache, &config, 200));
    save(&s, path);
    kv_seq_close(s.seq);
    kv_close(cache);

    struct kv_layer layers[ARRAY_COUNT(hybrid)];
    memcpy(layers, hybrid, sizeof layers);
    layers[2].window = 63;
    const struct {
        struct kv_config config;
        enum status status;
        const char *words;
    } others[] = {
        {config_of(full, 1, 16), ST_UNSUPPORTED, "another model"},
        {config_of(layers, ARRAY_COUNT(layers), 16), ST_UNSUPPORTED, "another model"},
        {config_of(hybrid, ARRAY_COUNT(hybrid), 32), ST_UNSUPPORTED, "block size of 16"},
        {config_of(hybrid, ARRAY_COUNT(hybrid), 16), ST_FULL, "close sequences"},
        {config_of(hybrid, ARRAY_COUNT(hybrid), 16), ST_UNSUPPORTED, "another model"},
        {config_of(hybrid, ARRAY_COUNT(hybrid), 16), ST_UNSUPPORTED, "shares no prefixes"},
    };
    for (uint32_t i = 0; i < ARRAY_COUNT(others); i++) {
        struct kv_config other = others[i].config;
        if (i == 3) other.bytes_max = kv_bytes_needed(&other, 64, 1);
        if (i == 4) other.provenance[5] = 1;
        if (i == 5) other.share_prefixes = false;
        cache = open_cache(&other);
        expect_refused(cache, path, others[i].status, others[i].words);
        kv_close(cache);
    }
    cache = open_cache(&config);
    expect_refused(cache, scratch_path(&scratch, "none.kv"), ST_IO, "cannot open");
    expect_refused(cache, scratch.folder, ST_IO, "is a folder");
    scratch_write(&scratch, "text.kv", "KVASIRK?, but this is only a text that somebody has named so, and longer", 72);
    expect_refused(cache, scratch_path(&scratch, "text.kv"), ST_INVALID, "is not a saved sequence");
    kv_close(cache);
    config.share_prefixes = false;
    cache = open_cache(&config);
    struct error error;
    open_fake(&s, cache, 5);
    assert_int_equal(kv_seq_save(s.seq, path, &error), ST_UNSUPPORTED);
    kv_seq_close(s.seq);
    kv_close(cache);
    scratch_release(&scratch);
}

/* ---- what the machine refuses ------------------------------------------------------------------------------------ */

static uint32_t files_in(const char *folder)
{
    char command[700];
    uint32_t count = 0;
    snprintf(command, sizeof command, "ls -A '%s' | wc -l", folder);
    FILE *pipe = popen(command, "r");
    assert_int_equal(fscanf(pipe, "%u", &count), 1);
    pclose(pipe);
    return count;
}

/* Every allocation, write and read fails once: a clear error, the old file as it was and no other, no sequence. */
static void test_every_failure_is_clean(void **state)
{
    (void)state;
    static struct fake_seq s, loaded;
    static const enum fault_kind kinds[] = {FAULT_ALLOC, FAULT_WRITE, FAULT_READ};
    struct scratch scratch;
    scratch_init(&scratch);
    struct kv_config config = config_for(true);
    struct kv_cache *cache = open_cache(&config), *cold = open_cache(&config);
    struct error error;
    say(&s, 0, 0, 100);
    open_fake(&s, cache, 100);
    assert_true(run_to(&s, cache, &config, 100));
    save(&s, scratch_path(&scratch, "a.kv"));
    struct buffer before = bytes_of(scratch.path);
    for (uint32_t k = 0; k < ARRAY_COUNT(kinds); k++)
        for (uint64_t nth = 1, calls = nth; calls >= nth; nth++) {
            fault_arm(kinds[k], nth);
            enum status saved = kv_seq_save(s.seq, scratch.path, &error);
            enum status status = saved == ST_OK ? load(&loaded, cold, scratch.path, &error) : saved;
            calls = fault_count(kinds[k]);
            fault_arm(FAULT_NONE, 0);
            stats_of(cold);
            if (calls < nth) assert_int_equal(status, ST_OK);
            if (status == ST_OK) {
                assert_true(calls < nth); /* no failure is passed over */
                kv_seq_close(loaded.seq);
                kv_close(cold);
                cold = open_cache(&config);
                continue;
            }
            assert_int_equal(status, kinds[k] == FAULT_ALLOC ? ST_NOMEM : ST_IO);
            assert_true(error.status == status && strstr(error.text, "a.kv: "));
            assert_int_equal(files_in(scratch.folder), 1);
            struct buffer after = bytes_of(scratch.path);
            assert_int_equal(after.length, before.length);
            assert_memory_equal(after.data, before.data, before.length);
            buffer_release(&after);
        }
    buffer_release(&before);
    kv_seq_close(s.seq);
    kv_close(cache);
    kv_close(cold);
    scratch_release(&scratch);
}

/* A write that the system cuts short, as a full disk does, and a folder that is not there. */
static void test_full_disk(void **state)
{
    (void)state;
    static struct fake_seq s;
    struct scratch scratch;
    scratch_init(&scratch);
    struct kv_config config = config_for(false);
    struct kv_cache *cache = open_cache(&config);
    struct error error;
    say(&s, 0, 0, 900);
    open_fake(&s, cache, 900);
    assert_true(run_to(&s, cache, &config, 900));
    struct rlimit before, small;
    getrlimit(RLIMIT_FSIZE, &before);
    small = before;
    small.rlim_cur = 5000;
    signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &small);
    enum status status = kv_seq_save(s.seq, scratch_path(&scratch, "a.kv"), &error);
    setrlimit(RLIMIT_FSIZE, &before);
    signal(SIGXFSZ, SIG_DFL);
    assert_int_equal(status, ST_IO);
    assert_non_null(strstr(error.text, "a.kv: cannot write: "));
    assert_int_equal(files_in(scratch.folder), 0);
    assert_int_equal(kv_seq_save(s.seq, scratch_path(&scratch, "no/folder.kv"), &error), ST_IO);
    kv_seq_close(s.seq);
    kv_close(cache);
    scratch_release(&scratch);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_loaded_is_live),         cmocka_unit_test(test_nothing_else_is_saved),
        cmocka_unit_test(test_damage_is_found),        cmocka_unit_test(test_strange_files_are_refused),
        cmocka_unit_test(test_every_failure_is_clean), cmocka_unit_test(test_full_disk),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
