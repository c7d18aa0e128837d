/* test_store_archive.c - a folder's blobs checked and carried in a file: what comes out is what went in, what is damaged stays out. */
#include "eval/eval.h"
#include "scratch.h"
#include "store_blobs.h"
#include <jansson.h>

#define BLOBS 12u

static struct store *open_folder(struct scratch *scratch, const char *name)
{
    struct store *store;
    struct error error;
    if (store_open_folder(scratch_path(scratch, name), 1 << 24, &store, &error) != ST_OK) fail_msg("%s", error.text);
    return store;
}

static void make_folder(struct scratch *scratch)
{
    struct store *store = open_folder(scratch, "from");
    for (uint32_t i = 0; i < BLOBS; i++) assert_int_equal(blob_put_sized(store, i, 100 + 300 * i), ST_OK);
    struct error error;
    struct store_work work = {0};
    if (store_export(store, scratch_path(scratch, "archive"), &work, &error) != ST_OK) fail_msg("%s", error.text);
    assert_true(work.blobs == BLOBS && work.damaged == 0 && work.unreadable == 0);
    store_close(store);
}

/* Every blob is there and right, or absent; how many are there. */
static uint32_t count_right(struct store *store)
{
    uint32_t right = 0;
    for (uint32_t i = 0; i < BLOBS; i++) {
        enum status status = blob_get_sized(store, i, 100 + 300 * i);
        assert_true(status == ST_OK || status == ST_NOT_FOUND);
        right += status == ST_OK;
    }
    return right;
}

static void count_progress(void *data, double fraction)
{
    double *last = data;
    assert_true(fraction >= *last && fraction <= 1);
    *last = fraction;
}

static void test_round_trip(void **state)
{
    (void)state;
    struct scratch scratch;
    struct error error;
    scratch_init(&scratch);
    make_folder(&scratch);
    struct store *store = open_folder(&scratch, "to");
    assert_int_equal(blob_put_sized(store, 3, 1000), ST_OK);
    double fraction = 0;
    struct store_work work = {.progress = count_progress, .data = &fraction};
    assert_int_equal(store_import(store, scratch_path(&scratch, "archive"), &work, &error), ST_OK);
    assert_true(work.blobs == BLOBS - 1 && work.there == 1 && work.damaged == 0 && fraction == 1);
    assert_int_equal(count_right(store), BLOBS);
    struct store_listed *listed;
    uint64_t count;
    assert_int_equal(store_list(store, &listed, &count), ST_OK);
    assert_int_equal(count, BLOBS);
    for (uint64_t i = 1; i < count; i++) assert_true(listed[i].used_ns <= listed[i - 1].used_ns);
    mem_free(listed);
    store_close(store);
    store = open_folder(&scratch, "empty"); /* no blobs are an archive, too */
    work = (struct store_work){0};
    assert_int_equal(store_export(store, scratch_path(&scratch, "none"), &work, &error), ST_OK);
    assert_int_equal(store_import(store, scratch_path(&scratch, "none"), &work, &error), ST_OK);
    assert_int_equal(store_import(store, scratch_path(&scratch, "absent"), &work, &error), ST_IO);
    store_close(store);
    scratch_release(&scratch);
}

/* Least recently used first, so that the limit of the other folder keeps the best. */
static void test_limit_keeps_the_last_used(void **state)
{
    (void)state;
    struct scratch scratch;
    struct error error;
    struct store_work work = {0};
    struct store *store;
    scratch_init(&scratch);
    make_folder(&scratch);
    assert_int_equal(store_open_folder(scratch_path(&scratch, "to"), 4 * 4096, &store, &error), ST_OK);
    assert_int_equal(store_import(store, scratch_path(&scratch, "archive"), &work, &error), ST_OK);
    for (uint32_t i = 0; i < BLOBS; i++) assert_int_equal(blob_has(store, i), i >= BLOBS - 4);
    store_close(store);
    scratch_release(&scratch);
}

static enum status import_bytes(struct scratch *scratch, const void *bytes, size_t count, uint32_t *right)
{
    struct error error = {0};
    struct store_work work = {0};
    scratch_write(scratch, "hostile", bytes, count);
    struct store *store = open_folder(scratch, "to");
    enum status status = store_import(store, scratch_path(scratch, "hostile"), &work, &error);
    if (status != ST_OK && !error.text[0]) fail_msg("no words for status %d", (int)status);
    *right = count_right(store);
    assert_int_equal(store_stats_of(store).damaged, 0); /* nothing bad came in */
    assert_int_equal(work.blobs, *right);
    for (uint32_t i = 0; i < BLOBS; i++) {
        struct store_key key = blob_key(i);
        store_remove(store, &key);
    }
    store_close(store);
    return status;
}

/* Whatever is done to the file, what is imported is right, and the rest is refused with words. */
static void test_damaged_files(void **state)
{
    (void)state;
    struct scratch scratch;
    struct buffer file;
    struct random random;
    uint32_t right, at_least = 0, partly = 0;
    scratch_init(&scratch);
    make_folder(&scratch);
    random_seed(&random, 3);
    assert_int_equal(file_read(scratch_path(&scratch, "archive"), 0, &file, NULL), ST_OK);
    for (uint32_t i = 0; i < test_count(200, 3000); i++) {
        uint64_t bit = random_below(&random, (i % 4 ? file.length : 150) * 8);
        file.data[bit / 8] ^= (char)(1 << bit % 8);
        enum status status = import_bytes(&scratch, file.data, file.length, &right);
        file.data[bit / 8] ^= (char)(1 << bit % 8);
        assert_true(status == ST_INVALID || status == ST_UNSUPPORTED);
        partly += right > 0 && right < BLOBS;
        at_least += right;
    }
    assert_true(partly > 20 && at_least > 100); /* what stands before the damage, or beside it, is had */
    for (uint32_t i = 0; i < test_count(100, 1000); i++) {
        assert_int_equal(import_bytes(&scratch, file.data, random_below(&random, file.length), &right), ST_INVALID);
        assert_true(right < BLOBS || file.length > 0);
    }
    buffer_append(&file, "x", 1);
    assert_int_equal(import_bytes(&scratch, file.data, file.length, &right), ST_INVALID);
    assert_int_equal(right, BLOBS);
    buffer_release(&file);
    scratch_release(&scratch);
}

static void test_faults(void **state)
{
    (void)state;
    struct scratch scratch;
    scratch_init(&scratch);
    make_folder(&scratch);
    for (uint64_t nth = 1, fired = 1; fired; nth += 3) {
        struct error error = {0};
        struct store_work work = {0};
        struct store *from = open_folder(&scratch, "from"), *to = open_folder(&scratch, "to");
        fault_arm(nth & 1 ? FAULT_WRITE : FAULT_ALLOC, nth);
        enum status out = store_export(from, scratch_path(&scratch, "again"), &work, &error);
        if (out == ST_OK) out = store_import(to, scratch_path(&scratch, "again"), &work, &error);
        fired = fault_count(nth & 1 ? FAULT_WRITE : FAULT_ALLOC) >= nth;
        fault_arm(FAULT_NONE, 0);
        assert_true(fired ? out == ST_OK || error.text[0] : out == ST_OK);
        (void)count_right(to);
        assert_int_equal(count_right(from), BLOBS);
        for (uint32_t i = 0; i < BLOBS; i++) {
            struct store_key key = blob_key(i);
            store_remove(to, &key);
        }
        store_close(from);
        store_close(to);
    }
    scratch_release(&scratch);
}

/* ---- the reports ----------------------------------------------------------------------------------------------------- */

static json_t *report(const struct eval_folder_options *options, enum status expected)
{
    struct buffer out;
    struct error error = {0};
    buffer_init(&out, 0);
    enum status status = eval_folder(options, EVAL_TEXT, &out, &error);
    assert_int_equal(status, expected);
    assert_true(status == ST_NOT_FOUND || out.length > 10);
    buffer_release(&out);
    buffer_init(&out, 0);
    assert_int_equal(eval_folder(options, EVAL_JSON, &out, &error), expected == ST_INVALID ? ST_OK : expected);
    json_t *json = out.length ? json_loads(out.data, 0, NULL) : NULL;
    buffer_release(&out);
    return json;
}

static json_int_t number(const json_t *json, const char *name)
{
    return json_integer_value(json_object_get(json, name));
}

static void test_reports(void **state)
{
    (void)state;
    struct scratch scratch;
    char folder[600], file[600];
    scratch_init(&scratch);
    make_folder(&scratch);
    snprintf(folder, sizeof folder, "%s", scratch_path(&scratch, "from"));
    snprintf(file, sizeof file, "%s", scratch_path(&scratch, "archive"));
    struct eval_folder_options options = {.action = EVAL_FOLDER_STAT, .path = folder, .file = file};
    json_t *json = report(&options, ST_OK);
    assert_int_equal(number(json, "blobs"), BLOBS);
    assert_int_equal(number(json, "bytes"), BLOBS * 4096);
    json_decref(json);
    options.action = EVAL_FOLDER_LIST;
    json = report(&options, ST_OK);
    assert_int_equal(json_array_size(json_object_get(json, "blobs")), BLOBS);
    assert_int_equal(json_string_length(json_object_get(json_array_get(json_object_get(json, "blobs"), 0), "key")), 64);
    json_decref(json);
    struct store *store = open_folder(&scratch, "from");
    struct store_key key = blob_key(5);
    char name[200], text[STORE_KEY_TEXT_BYTES];
    store_key_text(&key, text);
    snprintf(name, sizeof name, "from/kvasir-blobs/%.2s/%s.kvb", text, text);
    scratch_write(&scratch, name, "KVASIRBL", 8);
    store_close(store);
    options.action = EVAL_FOLDER_VERIFY;
    json = report(&options, ST_INVALID); /* the text says it, and then it is gone */
    assert_int_equal(number(json, "blobs"), BLOBS - 1);
    assert_int_equal(number(json, "damaged"), 0);
    json_decref(json);
    options.action = EVAL_FOLDER_IMPORT;
    options.bytes_max = 1 << 24;
    json = report(&options, ST_OK);
    assert_int_equal(number(json, "there"), BLOBS);
    json_decref(json);
    options.action = EVAL_FOLDER_EXPORT;
    json = report(&options, ST_OK);
    assert_int_equal(number(json, "blobs"), BLOBS);
    json_decref(json);
    scratch_write(&scratch, "foreign", "just a text that is long enough to be an archive", 48);
    options.action = EVAL_FOLDER_IMPORT;
    options.file = scratch_path(&scratch, "foreign");
    struct buffer out;
    struct error error;
    buffer_init(&out, 0);
    assert_int_equal(eval_folder(&options, EVAL_JSON, &out, &error), ST_INVALID);
    assert_int_equal(out.length, 0);
    assert_non_null(strstr(error.text, "foreign: is no file of `kvasir cache export`"));
    options.action = EVAL_FOLDER_EXPORT;
    options.path = scratch_path(&scratch, "none");
    assert_null(report(&options, ST_NOT_FOUND));
    assert_false(file_exists(options.path));
    scratch_release(&scratch);
}

int main(void)
{
    log_set_level(LOG_ERROR);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),    cmocka_unit_test(test_limit_keeps_the_last_used),
        cmocka_unit_test(test_damaged_files), cmocka_unit_test(test_faults),
        cmocka_unit_test(test_reports),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
