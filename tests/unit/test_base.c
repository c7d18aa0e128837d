/* test_base.c - memory shim, buffers, files, pool, random, UTF-8. */
#include "base/base.h"
#include "support.h"
#include <stdatomic.h>
#include <unistd.h>

static void test_error_masks_control_characters(void **state)
{
    (void)state;
    struct error error;
    assert_int_equal(error_set(&error, ST_INVALID, "tensor %s", "a\033[31m\nb"), ST_INVALID);
    assert_string_equal(error.text, "tensor a?[31m?b");
    error_prefix(&error, "file %s", "x");
    assert_string_equal(error.text, "file x: tensor a?[31m?b");
}

static void test_buffer_limit_and_fault(void **state)
{
    (void)state;
    struct buffer buffer;
    buffer_init(&buffer, 10);
    buffer_text(&buffer, "0123456789");
    assert_false(buffer.failed);
    buffer_text(&buffer, "x");
    assert_true(buffer.failed);
    assert_null(buffer_take(&buffer));
    buffer_init(&buffer, 0);
    fault_arm(FAULT_ALLOC, 1);
    buffer_text(&buffer, "x");
    fault_arm(FAULT_NONE, 0);
    assert_true(buffer.failed);
    buffer_release(&buffer);
}

static void test_file_write_is_atomic(void **state)
{
    (void)state;
    char path[] = "/tmp/test_base_XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    struct error error;
    assert_int_equal(file_write(path, "old", 3, &error), ST_OK);
    fault_arm(FAULT_WRITE, 1);
    assert_int_equal(file_write(path, "newer", 5, &error), ST_IO);
    fault_arm(FAULT_NONE, 0);
    struct buffer text;
    assert_int_equal(file_read(path, 100, &text, &error), ST_OK);
    assert_string_equal(text.data, "old");
    buffer_release(&text);
    assert_int_equal(file_read(path, 2, &text, &error), ST_LIMIT);
    struct file_map map;
    assert_int_equal(file_map_open(path, &map, &error), ST_OK);
    assert_memory_equal(map.data, "old", 3);
    file_map_close(&map);
    unlink(path);
    assert_int_equal(file_map_open(path, &map, &error), ST_IO);
    assert_int_equal(file_map_open("/tmp", &map, &error), ST_IO);
}

struct count_task {
    _Atomic uint32_t calls[8];
    uint64_t covered[8];
};

static void count_worker(void *data, uint32_t worker, uint32_t workers)
{
    struct count_task *task = data;
    uint64_t begin, end;
    pool_share(1000, 16, worker, workers, &begin, &end);
    task->covered[worker] += end - begin;
    atomic_fetch_add(&task->calls[worker], 1);
}

static void test_pool_runs_every_worker_once(void **state)
{
    (void)state;
    for (uint32_t workers = 1; workers <= 5; workers += 2) {
        struct pool *pool;
        assert_int_equal(pool_open(workers, &pool, NULL), ST_OK);
        struct count_task task = {0};
        uint32_t runs = test_count(2000, 200000);
        for (uint32_t i = 0; i < runs; i++) {
            pool_run(pool, count_worker, &task);
            if (i % 500 == 0) usleep(1000); /* long enough that workers fall asleep */
        }
        uint64_t covered = 0;
        for (uint32_t i = 0; i < workers; i++) {
            assert_int_equal(task.calls[i], runs);
            covered += task.covered[i];
        }
        assert_int_equal(covered, 1000ull * runs);
        pool_close(pool);
    }
    struct pool *pool;
    assert_int_equal(pool_open(0, &pool, NULL), ST_INVALID);
}

struct counted {
    struct background_task task;
    uint32_t number, *runs; /* runs: how many ran, without a lock */
    uint32_t ran_as;
};

static void count_run(struct background_task *task)
{
    struct counted *counted = (struct counted *)(void *)task;
    if (counted->number % 64 == 5) usleep(300);
    for (uint32_t i = 0; i < 1000 && counted->number % 64 == 6 && !task->cancelled; i++) usleep(1000);
    counted->ran_as = ++*counted->runs;
}

/* Tasks run once each and in order, whatever is taken back between; what they wrote is seen. */
static void test_background_runs_in_order(void **state)
{
    (void)state;
    static struct counted tasks[512];
    struct background *background;
    uint32_t runs = 0, taken = 0;
    assert_int_equal(background_open(&background, NULL), ST_OK);
    assert_null(background_take(background, true));
    for (uint32_t i = 0; i < ARRAY_COUNT(tasks); i++) {
        tasks[i] = (struct counted){.task.run = count_run, .number = i, .runs = &runs};
        background_put(background, &tasks[i].task);
        if (i % 64 == 5) usleep(100);
        if (i % 64 == 6 || i % 64 == 8) background_cancel(background, &tasks[i].task); /* the first waits a second */
        if (i % 3) continue;
        struct counted *done = (struct counted *)(void *)background_take(background, i % 2);
        taken += done != NULL;
        if (done) assert_true(done->ran_as > 0);
    }
    for (struct background_task *task; (task = background_take(background, true));) {
        taken++;
        assert_true(((struct counted *)(void *)task)->ran_as > 0);
    }
    assert_int_equal(taken, ARRAY_COUNT(tasks) - 16);
    for (uint32_t i = 0, last = 0; i < ARRAY_COUNT(tasks); i++) {
        if (!tasks[i].ran_as) continue;
        assert_true(tasks[i].ran_as > last);
        last = tasks[i].ran_as;
    }
    assert_false(background_wait(background, 5)); /* at once: nothing is left */
    background_put(background, &tasks[0].task);
    assert_true(background_wait(background, 5));
    assert_ptr_equal(background_take(background, false), &tasks[0].task);
    background_put(background, &tasks[6].task);
    double began = clock_seconds();
    assert_false(background_wait(background, 0.02));
    assert_true(clock_seconds() - began >= 0.02);
    background_cancel(background, &tasks[6].task);
    background_put(background, &tasks[0].task);
    background_close(background);
    assert_int_equal(tasks[0].ran_as, runs); /* what waited was run */
    fault_arm(FAULT_ALLOC, 2);
    struct error error;
    assert_int_equal(background_open(&background, &error), ST_NOMEM);
    fault_arm(FAULT_NONE, 0);
    assert_null(background);
}

/* Blocks share regions: each is zeroed, apart from all others, and can go by itself. */
static void map_and_unmap(void *data, uint32_t worker, uint32_t workers)
{
    (void)workers;
    atomic_uint *wrong = data;
    unsigned char *blocks[24];
    size_t bytes[24];
    for (uint32_t i = 0; i < 24; i++) {
        bytes[i] = i == 23 ? (size_t)65 << 20 : 1 + i * 400009u; /* the last is larger than a region */
        blocks[i] = mem_map(bytes[i]);
        if (!blocks[i] || (uintptr_t)blocks[i] % 4096 || blocks[i][0] || blocks[i][bytes[i] - 1]) {
            atomic_fetch_add(wrong, 1);
            return;
        }
        blocks[i][0] = blocks[i][bytes[i] - 1] = (unsigned char)(1 + worker * 24 + i);
    }
    for (uint32_t pass = 0; pass < 2; pass++) /* odd ones first: their neighbours stay */
        for (uint32_t i = 1 - pass; i < 24; i += 2) {
            if (blocks[i][bytes[i] - 1] != 1 + worker * 24 + i) atomic_fetch_add(wrong, 1);
            if (blocks[i][0] != 1 + worker * 24 + i) atomic_fetch_add(wrong, 1);
            mem_unmap(blocks[i], bytes[i]);
        }
}

static void test_mapped_blocks_are_apart(void **state)
{
    (void)state;
    struct pool *pool;
    atomic_uint wrong = 0;
    assert_int_equal(pool_open(3, &pool, NULL), ST_OK);
    for (int i = 0; i < 3; i++) pool_run(pool, map_and_unmap, &wrong);
    assert_int_equal(wrong, 0);
    pool_close(pool);
    fault_arm(FAULT_ALLOC, 1);
    assert_null(mem_map(1));
    fault_arm(FAULT_NONE, 0);
    assert_null(mem_map(SIZE_MAX / 2));
    assert_null(mem_map(SIZE_MAX));
}

static void test_utf8_round_trip(void **state)
{
    (void)state;
    for (uint32_t code = 0; code < 0x110000; code++) {
        char text[4];
        uint32_t length = utf8_encode(code, text), back = 0;
        if (code >= 0xD800 && code <= 0xDFFF) {
            assert_int_equal(length, 0);
            continue;
        }
        assert_int_equal(utf8_decode(text, length, &back, NULL), length);
        assert_int_equal(back, code);
        bool incomplete;
        for (uint32_t part = 1; part < length; part++) {
            assert_int_equal(utf8_decode(text, part, &back, &incomplete), 0);
            assert_true(incomplete);
        }
    }
    const char *const bad[] = {"\x80",         "\xC0\x80",         "\xC1\xBF",         "\xE0\x80\x80",
                               "\xED\xA0\x80", "\xF0\x80\x80\x80", "\xF4\x90\x80\x80", "\xF5\x80\x80\x80",
                               "\xFF"};
    for (size_t i = 0; i < ARRAY_COUNT(bad); i++) {
        uint32_t code;
        assert_int_equal(utf8_decode(bad[i], strlen(bad[i]), &code, NULL), 0);
    }
}

static void test_random_is_uniform_and_seeded(void **state)
{
    (void)state;
    struct random a, b;
    random_seed(&a, 7);
    random_seed(&b, 7);
    uint32_t counts[10] = {0};
    for (int i = 0; i < 100000; i++) {
        assert_true(random_next(&a) == random_next(&b));
        double unit = random_unit(&a);
        random_unit(&b);
        assert_true(unit >= 0 && unit < 1);
        counts[random_below(&a, 10)]++;
        random_below(&b, 10);
    }
    for (int i = 0; i < 10; i++) assert_in_range(counts[i], 9500, 10500);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_error_masks_control_characters), cmocka_unit_test(test_buffer_limit_and_fault),
        cmocka_unit_test(test_file_write_is_atomic),           cmocka_unit_test(test_pool_runs_every_worker_once),
        cmocka_unit_test(test_mapped_blocks_are_apart),        cmocka_unit_test(test_utf8_round_trip),
        cmocka_unit_test(test_random_is_uniform_and_seeded),   cmocka_unit_test(test_background_runs_in_order),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
