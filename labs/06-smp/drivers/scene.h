/*
 * What the drivers with threads share: a scene that is played with a machine, and somebody who
 * looks whether it comes to its end.
 *
 * play() runs on a thread of its own, which is the machine's main thread; the driver's main() waits
 * for it. A learner's function that never returns costs PATIENCE_S, and the report says which.
 *
 * The last argument of every driver is the patience to have, 1 on an idle host. Waits for what has
 * to happen are stretched by it; nothing waits longer than it takes to happen.
 */
#ifndef SCENE_H
#define SCENE_H

#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

#include "hv/base/loop.h"
#include "hv/machine/machine.h"
#include "machine/machine_priv.h"
#include "observe.h"

#define PATIENCE_S 6

static const char *volatile stage = "its start"; /* what the scene is doing */
static double patience = 1;                      /* by what waits are stretched on a busy host */

struct scene {
    void (*play)(int argc, char **argv);
    int argc;
    char **argv;
};

static inline void *scene_main(void *arg)
{
    struct scene *scene = arg;

    scene->play(scene->argc, scene->argv);
    return NULL;
}

static inline struct timespec in_seconds(double seconds)
{
    struct timespec t;
    long ns = (long)(seconds * patience * 1e9);

    (void)clock_gettime(CLOCK_REALTIME, &t);
    t.tv_sec += ns / 1000000000;
    t.tv_nsec += ns % 1000000000;
    if (t.tv_nsec >= 1000000000) {
        t.tv_sec++;
        t.tv_nsec -= 1000000000;
    }
    return t;
}

static inline double seconds_now(void)
{
    struct timespec t;

    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static inline void sleep_ms(unsigned ms)
{
    struct timespec left = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L};

    while (nanosleep(&left, &left) < 0) {
    }
}

/* Waits at most `ms`, stretched, for *flag to reach `value`. */
static inline bool reaches(const _Atomic int *flag, int value, unsigned ms)
{
    const struct timespec nap = {.tv_nsec = 200000};
    double end = seconds_now() + ms * patience / 1e3;

    while (atomic_load(flag) < value && seconds_now() < end)
        (void)nanosleep(&nap, NULL);
    return atomic_load(flag) >= value;
}

static inline int scene_run(void (*play)(int, char **), int argc, char **argv)
{
    struct scene scene = {play, argc - 1, argv};
    pthread_t thread;

    patience = argc > 1 ? atof(argv[argc - 1]) : 1;
    struct timespec until = in_seconds(PATIENCE_S);
    if (pthread_create(&thread, NULL, scene_main, &scene) != 0)
        return 2;
    if (pthread_timedjoin_np(thread, NULL, &until) != 0) {
        report_length = 0;
        report_cases = 0;
        report_inside = false;
        report_string("stuck_in", stage);
    }
    return report_end();
}

/* A step that has to succeed before there is anything to observe. */
static inline bool scene_needs(int rc, const char *step, const struct error *err)
{
    if (rc >= 0)
        return true;
    report_string("stopped_at", step);
    report_int("rc", rc);
    report_string("error", err->text);
    return false;
}

/* All vCPUs that have a thread are parked. */
static inline bool all_parked(struct machine *m)
{
    bool all = true;

    pthread_mutex_lock(&m->world_lock);
    for (unsigned i = 0; i < m->cfg.cpus; i++)
        all = all && (!m->cpus[i].started || m->cpus[i].parked);
    pthread_mutex_unlock(&m->world_lock);
    return all;
}

static inline bool become_parked(struct machine *m, unsigned ms)
{
    double end = seconds_now() + ms * patience / 1e3;

    while (!all_parked(m) && seconds_now() < end)
        sleep_ms(1);
    return all_parked(m);
}

static inline void no_log(void *ctx, enum log_level level, const char *text)
{
    (void)ctx;
    (void)level;
    (void)text;
}

#endif
