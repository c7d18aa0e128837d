/* test_peak.c - the loops that measure a machine: they count what they do, and every machine does at least so much. */
#include "kernel/kernel.h"
#include "support.h"
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#define BYTES (1u << 20)

/* The table, or NULL where this machine cannot run it. */
static const struct kernel *table(const char *name)
{
    const struct kernel *kernel;
    return kernel_select(name, &kernel, NULL) == ST_OK ? kernel : NULL;
}

/* Multiply-adds of a turn: 12 chains, as many lanes as the instruction has. */
static void test_counts(void **state)
{
    (void)state;
    const struct {
        const char *isa;
        uint64_t int8, int16, f32, tile;
    } turns[] = {{"ref", 0, 0, 0, 0},
                 {"avx2", 12 * 32, 12 * 16, 12 * 8, 0},
                 {"avxvnni", 12 * 32, 12 * 16, 12 * 8, 0},
                 {"avx512", 12 * 64, 12 * 32, 12 * 16, 0},
                 {"avx512vnni", 12 * 64, 12 * 32, 12 * 16, 0},
                 {"amx", 12 * 64, 12 * 32, 12 * 16, 4 * 16 * 16 * 32}};
    size_t names = 0;
    while (kernel_names()[names]) names++;
    assert_int_equal(names, ARRAY_COUNT(turns));
    for (size_t i = 0; i < ARRAY_COUNT(turns); i++) {
        const struct kernel *kernel = table(turns[i].isa);
        if (!kernel) continue;
        for (uint64_t n = 1; n < 1000; n = n * 3 + 1) {
            assert_int_equal(kernel_peak_run(kernel, KERNEL_PEAK_INT8, n), n * turns[i].int8);
            assert_int_equal(kernel_peak_run(kernel, KERNEL_PEAK_INT16, n), n * turns[i].int16);
            assert_int_equal(kernel_peak_run(kernel, KERNEL_PEAK_F32, n), n * turns[i].f32);
            assert_int_equal(kernel_peak_run(kernel, KERNEL_PEAK_TILE, n), n * turns[i].tile);
        }
    }
}

/* Tens to hundreds of times less than a slow processor does, so that a loaded machine passes too. */
static void test_floor(void **state)
{
    (void)state;
    const double floors[] = {[KERNEL_PEAK_INT8] = 2e9, [KERNEL_PEAK_INT16] = 1e9, [KERNEL_PEAK_F32] = 0.5e9};
    for (size_t i = 0; kernel_names()[i]; i++) {
        const struct kernel *kernel = table(kernel_names()[i]);
        if (!kernel || strcmp(kernel->name, "ref") == 0) continue;
        for (int peak = KERNEL_PEAK_INT8; peak <= KERNEL_PEAK_F32; peak++) {
            double best = 0;
            for (int pass = 0; pass < 20; pass++) {
                double begin = clock_seconds();
                double macs = (double)kernel_peak_run(kernel, (enum kernel_peak)peak, 20000);
                double rate = macs / (clock_seconds() - begin);
                if (rate > best) best = rate;
            }
            assert_true(best > floors[peak]);
            assert_true(best < 1e13);
        }
    }
}

/* What the loops are timed by: it goes on while this thread runs, and stands while it sleeps. */
static void test_thread_clock(void **state)
{
    (void)state;
    const struct timespec pause = {.tv_nsec = 50 * 1000 * 1000};
    volatile uint64_t turns = 0;
    double wall = clock_seconds(), begin = clock_thread_seconds();
    while (clock_thread_seconds() - begin < 2e-3) turns++;
    assert_true(turns > 0);
    double worked = clock_thread_seconds() - begin;
    assert_int_equal(nanosleep(&pause, NULL), 0);
    double slept = clock_thread_seconds() - begin - worked;
    assert_true(slept >= 0 && slept < 25e-3);
    assert_true(worked + slept < clock_seconds() - wall);
}

/* Every size of whole lines is read to its end and no further: the page behind the buffer cannot be. */
static void test_read(void **state)
{
    (void)state;
    const uint32_t ahead[] = {0, 64, 4096};
    char *buffer = mmap(NULL, BYTES + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(buffer != MAP_FAILED);
    assert_int_equal(mprotect(buffer + BYTES, 4096, PROT_NONE), 0);
    memset(buffer, 1, BYTES);
    for (size_t i = 0; kernel_names()[i]; i++) {
        const struct kernel *kernel = table(kernel_names()[i]);
        for (size_t a = 0; kernel && a < ARRAY_COUNT(ahead); a++) {
            double best = 0;
            for (uint64_t bytes = 0; bytes < 64 * 40; bytes += 64)
                kernel_read_run(kernel, buffer + BYTES - bytes, bytes, ahead[a]);
            for (int pass = 0; pass < 20; pass++) {
                double begin = clock_seconds();
                kernel_read_run(kernel, buffer, BYTES, ahead[a]);
                double rate = BYTES / (clock_seconds() - begin);
                if (rate > best) best = rate;
            }
            assert_true(best > 0.1e9);
        }
    }
    munmap(buffer, BYTES + 4096);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_counts),
        cmocka_unit_test(test_floor),
        cmocka_unit_test(test_thread_clock),
        cmocka_unit_test(test_read),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
