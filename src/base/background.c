/* background.c - a thread of its own that runs tasks in order while its owner goes on.
 *
 *            put                   (thread)                  take
 *   owner ─────────▶ waiting ─────▶ running ─────▶ done ─────────────▶ owner
 *     ▲                 │              │            │
 *     └──── cancel ─────┴──────────────┴────────────┘
 *
 * A task is the owner's storage, in one of the lists between put and take (or cancel), and handed over under the lock: what
 * one side wrote before, the other sees. */
#include "base/base_internal.h"
#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>

struct task_list {
    struct background_task *first, *last;
};

struct background {
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t work, idle; /* something waits, or it closes; a task has ended */
    struct task_list waiting, done;
    struct background_task *running;
    bool closing;
};

static void append(struct task_list *list, struct background_task *task)
{
    task->next = NULL;
    if (list->last)
        list->last->next = task;
    else
        list->first = task;
    list->last = task;
}

static bool remove_from(struct task_list *list, struct background_task *task)
{
    struct background_task *before = NULL, *at = list->first;
    for (; at && at != task; at = at->next) before = at;
    if (!at) return false;
    if (before)
        before->next = task->next;
    else
        list->first = task->next;
    if (list->last == task) list->last = before;
    return true;
}

static void *background_main(void *argument)
{
    struct background *background = argument;
    pthread_mutex_lock(&background->lock);
    for (;;) {
        while (!background->waiting.first && !background->closing)
            pthread_cond_wait(&background->work, &background->lock);
        struct background_task *task = background->waiting.first;
        if (!task) break;
        remove_from(&background->waiting, task);
        background->running = task;
        pthread_mutex_unlock(&background->lock);
        task->run(task);
        pthread_mutex_lock(&background->lock);
        background->running = NULL;
        append(&background->done, task);
        pthread_cond_broadcast(&background->idle);
    }
    pthread_mutex_unlock(&background->lock);
    return NULL;
}

enum status background_open(struct background **out, struct error *error)
{
    *out = NULL;
    struct background *background = mem_zero(1, sizeof *background);
    if (!background) return error_set(error, ST_NOMEM, "not enough memory for a thread");
    pthread_mutex_init(&background->lock, NULL);
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&background->work, NULL);
    pthread_cond_init(&background->idle, &monotonic);
    pthread_condattr_destroy(&monotonic);
    sigset_t all, before;
    sigfillset(&all); /* as the pool's workers: a signal must end the wait of the thread that waits for it */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int reason =
        fault_now(FAULT_ALLOC) ? EAGAIN : pthread_create(&background->thread, NULL, background_main, background);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (!reason) {
        *out = background;
        return ST_OK;
    }
    pthread_cond_destroy(&background->idle);
    pthread_cond_destroy(&background->work);
    pthread_mutex_destroy(&background->lock);
    mem_free(background);
    return error_set(error, ST_NOMEM, "cannot start a thread: %s", strerror(reason));
}

void background_close(struct background *background)
{
    if (!background) return;
    pthread_mutex_lock(&background->lock);
    background->closing = true;
    pthread_cond_broadcast(&background->work);
    pthread_mutex_unlock(&background->lock);
    pthread_join(background->thread, NULL);
    pthread_cond_destroy(&background->idle);
    pthread_cond_destroy(&background->work);
    pthread_mutex_destroy(&background->lock);
    mem_free(background);
}

void background_put(struct background *background, struct background_task *task)
{
    atomic_store(&task->cancelled, false);
    pthread_mutex_lock(&background->lock);
    append(&background->waiting, task);
    pthread_cond_broadcast(&background->work);
    pthread_mutex_unlock(&background->lock);
}

struct background_task *background_take(struct background *background, bool wait)
{
    pthread_mutex_lock(&background->lock);
    while (wait && !background->done.first && (background->waiting.first || background->running))
        pthread_cond_wait(&background->idle, &background->lock);
    struct background_task *task = background->done.first;
    if (task) remove_from(&background->done, task);
    pthread_mutex_unlock(&background->lock);
    return task;
}

bool background_wait(struct background *background, double seconds)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    double whole = floor(seconds);
    until.tv_sec += (time_t)whole;
    until.tv_nsec += (long)((seconds - whole) * 1e9);
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    pthread_mutex_lock(&background->lock);
    int reason = 0;
    while (!reason && !background->done.first && (background->waiting.first || background->running))
        reason = pthread_cond_timedwait(&background->idle, &background->lock, &until);
    bool any = background->done.first != NULL;
    pthread_mutex_unlock(&background->lock);
    return any;
}

void background_cancel(struct background *background, struct background_task *task)
{
    atomic_store(&task->cancelled, true);
    pthread_mutex_lock(&background->lock);
    while (background->running == task) pthread_cond_wait(&background->idle, &background->lock);
    bool found = remove_from(&background->waiting, task) || remove_from(&background->done, task);
    pthread_mutex_unlock(&background->lock);
    ASSERT(found);
}
