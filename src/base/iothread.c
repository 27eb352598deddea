#include "hv/base/iothread.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

struct iothread {
    struct loop *loop; /* owned */
    pthread_t thread;
    bool started; /* thread is valid */
    _Atomic bool stop;
    char name[16];
    pthread_mutex_t lock; /* guards the rest */
    pthread_cond_t done;  /* is_behind became false */
    bool is_behind;       /* somebody waits for all that is ready now */
    bool has_ended;       /* or ends, and nobody needs to wait */
};

int iothread_create(const char *name, struct iothread **out)
{
    struct iothread *t = calloc(1, sizeof(*t));

    if (t == NULL)
        return -ENOMEM;
    int rc = loop_create(&t->loop);
    if (rc < 0) {
        free(t);
        return rc;
    }
    (void)snprintf(t->name, sizeof(t->name), "%s", name);
    (void)pthread_mutex_init(&t->lock, NULL); /* neither fails on Linux */
    (void)pthread_cond_init(&t->done, NULL);
    *out = t;
    return 0;
}

struct loop *iothread_loop(const struct iothread *t)
{
    return t->loop;
}

const char *iothread_name(const struct iothread *t)
{
    return t->name;
}

uint64_t thread_cpu_ns(pthread_t thread)
{
    struct timespec used;
    clockid_t clock;

    if (pthread_getcpuclockid(thread, &clock) != 0 || clock_gettime(clock, &used) < 0)
        return 0;
    return (uint64_t)used.tv_sec * 1000000000 + (uint64_t)used.tv_nsec;
}

uint64_t iothread_cpu_ns(const struct iothread *t)
{
    return t->started ? thread_cpu_ns(t->thread) : 0;
}

/* Whoever waits is told, once what was ready when it began to is handled. */
static int catch_up(struct iothread *t)
{
    pthread_mutex_lock(&t->lock);
    bool is_behind = t->is_behind;
    pthread_mutex_unlock(&t->lock);
    int rc = is_behind ? loop_run_ready(t->loop) : 0;
    if (!is_behind || rc < 0)
        return rc;
    pthread_mutex_lock(&t->lock);
    t->is_behind = false;
    (void)pthread_cond_broadcast(&t->done);
    pthread_mutex_unlock(&t->lock);
    return 0;
}

static void *run(void *arg)
{
    struct iothread *t = arg;
    int rc = 0;

    /* epoll_wait() fails only for a bad descriptor: a bug of ours, not worth a spin. */
    while (rc == 0 && !atomic_load(&t->stop)) {
        rc = loop_run_once(t->loop, -1);
        if (rc == 0)
            rc = catch_up(t);
    }
    pthread_mutex_lock(&t->lock);
    t->has_ended = true;
    (void)pthread_cond_broadcast(&t->done);
    pthread_mutex_unlock(&t->lock);
    return NULL;
}

int iothread_start(struct iothread *t)
{
    sigset_t all, old;

    atomic_store(&t->stop, false);
    t->is_behind = t->has_ended = false;
    sigfillset(&all);
    (void)pthread_sigmask(SIG_BLOCK, &all, &old); /* cannot fail with these arguments */
    int rc = -pthread_create(&t->thread, NULL, run, t);
    (void)pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (rc < 0)
        return rc;
    t->started = true;
    (void)pthread_setname_np(t->thread, t->name);
    return 0;
}

void iothread_catch_up(struct iothread *t)
{
    if (!t->started)
        return;
    pthread_mutex_lock(&t->lock);
    t->is_behind = true;
    loop_wake(t->loop);
    while (t->is_behind && !t->has_ended)
        pthread_cond_wait(&t->done, &t->lock);
    pthread_mutex_unlock(&t->lock);
}

void iothread_stop(struct iothread *t)
{
    if (!t->started)
        return;
    atomic_store(&t->stop, true);
    loop_wake(t->loop);
    (void)pthread_join(t->thread, NULL); /* fails only for a bug of ours */
    t->started = false;
}

void iothread_destroy(struct iothread *t)
{
    if (t == NULL)
        return;
    iothread_stop(t);
    loop_destroy(t->loop);
    (void)pthread_cond_destroy(&t->done);
    (void)pthread_mutex_destroy(&t->lock);
    free(t);
}
