/* pool.c - a fixed crew of threads that run one task together.
 *
 * A decode step runs hundreds of tasks of some microseconds, so a worker spins for a while before it sleeps, and the
 * caller works as worker 0. States of a worker: waiting (spins, then sleeps on a condition) -> running -> waiting.
 * Invariant: `epoch` grows by one a task; `running` counts workers that have not finished the current one. */
#include "base/base_internal.h"
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>

#define SPIN_SECONDS 200e-6 /* longer than the gap between two tasks of a step */

struct pool_thread {
    struct pool *pool;
    pthread_t handle;
    uint32_t worker;
};

struct pool {
    void (*task)(void *, uint32_t, uint32_t);
    void *data;
    uint32_t workers;
    _Alignas(64) _Atomic uint64_t epoch;
    _Alignas(64) _Atomic uint32_t running;
    _Alignas(64) _Atomic uint32_t sleeping;
    _Atomic bool closing;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    struct pool_thread *threads; /* [workers - 1] */
    uint32_t started;
};

#define SPINS_BEFORE_YIELD 256u

/* One turn of a spin loop. Now and then the processor is offered to others: with more threads than free processors, the
 * one that is waited for may be among them. */
static void relax(uint32_t turn)
{
    if (turn % SPINS_BEFORE_YIELD == SPINS_BEFORE_YIELD - 1)
        sched_yield();
    else
        __builtin_ia32_pause();
}

/* Waits until `epoch` is no longer `seen`; false when the pool closes. */
static bool wait_task(struct pool *pool, uint64_t seen)
{
    double until = 0;
    for (uint32_t i = 0;; i++) {
        if (atomic_load_explicit(&pool->epoch, memory_order_acquire) != seen) return !atomic_load(&pool->closing);
        relax(i);
        if (i % SPINS_BEFORE_YIELD != SPINS_BEFORE_YIELD - 1) continue;
        double now = clock_seconds();
        if (until == 0) until = now + SPIN_SECONDS;
        if (now >= until) break;
    }
    pthread_mutex_lock(&pool->lock);
    atomic_fetch_add(&pool->sleeping, 1); /* sequentially consistent with pool_run's epoch store and sleeping load */
    while (atomic_load(&pool->epoch) == seen) pthread_cond_wait(&pool->wake, &pool->lock);
    atomic_fetch_sub(&pool->sleeping, 1);
    pthread_mutex_unlock(&pool->lock);
    return !atomic_load(&pool->closing);
}

static void *worker_main(void *argument)
{
    struct pool_thread *thread = argument;
    struct pool *pool = thread->pool;
    for (uint64_t seen = 0; wait_task(pool, seen); seen++) {
        pool->task(pool->data, thread->worker, pool->workers);
        atomic_fetch_sub_explicit(&pool->running, 1, memory_order_release);
    }
    return NULL;
}

static void announce(struct pool *pool)
{
    atomic_fetch_add(&pool->epoch, 1);
    if (atomic_load(&pool->sleeping)) {
        pthread_mutex_lock(&pool->lock);
        pthread_cond_broadcast(&pool->wake);
        pthread_mutex_unlock(&pool->lock);
    }
}

/* Workers take no signals (they inherit this mask): a signal must end the wait of the thread that waits for it. */
static int start_workers(struct pool *pool)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int reason = 0;
    for (uint32_t i = 1; i < pool->workers && !reason; i++) {
        struct pool_thread *thread = &pool->threads[i - 1];
        *thread = (struct pool_thread){.pool = pool, .worker = i};
        reason = fault_now(FAULT_ALLOC) ? EAGAIN : pthread_create(&thread->handle, NULL, worker_main, thread);
        if (!reason) pool->started++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return reason;
}

enum status pool_open(uint32_t workers, struct pool **out, struct error *error)
{
    *out = NULL;
    if (workers < 1 || workers > 1024)
        return error_set(error, ST_INVALID, "threads must be 1 to 1024, not %u", workers);
    struct pool *pool = mem_aligned(64, sizeof *pool);
    struct pool_thread *threads = mem_zero(workers, sizeof *threads);
    if (!pool || !threads) {
        mem_free(pool);
        mem_free(threads);
        return error_set(error, ST_NOMEM, "not enough memory for %u threads", workers);
    }
    memset(pool, 0, sizeof *pool);
    pool->workers = workers;
    pool->threads = threads;
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->wake, NULL);
    int reason = start_workers(pool);
    if (reason) {
        uint32_t failed = pool->started + 2;
        pool_close(pool);
        return error_set(error, ST_NOMEM, "cannot start thread %u of %u: %s", failed, workers, strerror(reason));
    }
    *out = pool;
    return ST_OK;
}

void pool_close(struct pool *pool)
{
    if (!pool) return;
    atomic_store(&pool->closing, true);
    announce(pool);
    for (uint32_t i = 0; i < pool->started; i++) pthread_join(pool->threads[i].handle, NULL);
    pthread_cond_destroy(&pool->wake);
    pthread_mutex_destroy(&pool->lock);
    mem_free(pool->threads);
    mem_free(pool);
}

uint32_t pool_workers(const struct pool *pool)
{
    return pool->workers;
}

void pool_run(struct pool *pool, void (*task)(void *, uint32_t, uint32_t), void *data)
{
    if (pool->workers > 1) {
        pool->task = task;
        pool->data = data;
        atomic_store_explicit(&pool->running, pool->workers - 1, memory_order_relaxed);
        announce(pool);
    }
    task(data, 0, pool->workers);
    if (pool->workers == 1) return;
    for (uint32_t i = 0; atomic_load_explicit(&pool->running, memory_order_acquire); i++) relax(i);
}

void pool_share(uint64_t count, uint64_t unit, uint32_t worker, uint32_t workers, uint64_t *begin, uint64_t *end)
{
    uint64_t units = (count + unit - 1) / unit;
    *begin = units * worker / workers * unit;
    *end = units * (worker + 1) / workers * unit;
    if (*begin > count) *begin = count;
    if (*end > count) *end = count;
}
