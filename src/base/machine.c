/* machine.c - what this machine is: processor features, usable processors, the clock; and the random generator. */
#include "base/base.h"
#include <cpuid.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static struct cpu_features features;
static pthread_once_t features_once = PTHREAD_ONCE_INIT;

static uint64_t read_xcr0(void)
{
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
}

/* Linux gives a process the registers of AMX only when asked ("Using XSTATE features in user space applications",
 * Documentation/arch/x86/xstate.rst). */
static bool tiles_granted(void)
{
    const long request = 0x1023, tile_data = 18; /* ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA */
    return syscall(SYS_arch_prctl, request, tile_data) == 0;
}

/* A feature counts only when the operating system also saves its registers (XCR0). */
static void detect(void)
{
    uint32_t a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE)) return;
    uint64_t saved = read_xcr0();
    bool ymm = (saved & 0x6) == 0x6, zmm = (saved & 0xe6) == 0xe6, tiles = (saved & 0x60000) == 0x60000;
    bool fma = c & bit_FMA, f16c = c & bit_F16C;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return;
    features.avx2 = ymm && fma && f16c && (b & bit_AVX2) && (b & bit_BMI2);
    features.avx512 =
        features.avx2 && zmm && (b & bit_AVX512F) && (b & bit_AVX512BW) && (b & bit_AVX512VL) && (b & bit_AVX512DQ);
    features.avx512vnni = features.avx512 && (c & bit_AVX512VNNI);
    const bool vbmi = c & (1u << 1);
    const bool amx = tiles && vbmi && (d & (1u << 22)) && (d & (1u << 24)); /* AMX-BF16, AMX-TILE */
    if (__get_cpuid_count(7, 1, &a, &b, &c, &d)) {
        features.avxvnni = features.avx2 && (a & (1u << 4));
        features.avx512bf16 = features.avx512 && (a & (1u << 5));
        features.amxbf16 = features.avx512bf16 && features.avx512vnni && amx && tiles_granted();
    }
}

const struct cpu_features *cpu_features(void)
{
    pthread_once(&features_once, detect);
    return &features;
}

uint32_t cpu_count(void)
{
    cpu_set_t set;
    long count = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
    FILE *file = fopen("/sys/fs/cgroup/cpu.max", "r"); /* "<quota|max> <period>" */
    if (file) {
        long quota, period;
        if (fscanf(file, "%ld %ld", &quota, &period) == 2 && period > 0) {
            long whole = (quota + period - 1) / period;
            if (whole >= 1 && whole < count) count = whole;
        }
        fclose(file);
    }
    return (uint32_t)count;
}

static double read_clock(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

double clock_seconds(void)
{
    return read_clock(CLOCK_MONOTONIC);
}

uint64_t clock_wall_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

double clock_thread_seconds(void)
{
    return read_clock(CLOCK_THREAD_CPUTIME_ID);
}

static uint64_t rotate_left(uint64_t value, int count)
{
    return value << count | value >> (64 - count);
}

void random_seed(struct random *random, uint64_t seed)
{
    for (int i = 0; i < 4; i++) { /* splitmix64 */
        uint64_t z = seed += 0x9E3779B97F4A7C15u;
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
        z = (z ^ z >> 27) * 0x94D049BB133111EBu;
        random->state[i] = z ^ z >> 31;
    }
}

uint64_t random_next(struct random *random)
{
    uint64_t *s = random->state;
    uint64_t result = rotate_left(s[1] * 5, 7) * 9, t = s[1] << 17;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = rotate_left(s[3], 45);
    return result;
}

double random_unit(struct random *random)
{
    return (double)(random_next(random) >> 11) * 0x1p-53;
}

uint64_t random_below(struct random *random, uint64_t limit)
{
    ASSERT(limit > 0);
    uint64_t reject = -limit % limit, value; /* 2^64 mod limit */
    do value = random_next(random);
    while (value < reject);
    return value % limit;
}
