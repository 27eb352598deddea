#include "hv/base/iothread.h"

#include <criterion/criterion.h>
#include <semaphore.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

#include "hv/base/fd.h"
#include "support/tmp.h"

#define KICKS 100 /* more than the loop takes at once */

static struct iothread *thread;
static int kicks[KICKS], slow;
static _Atomic unsigned served;
static sem_t entered, leave;
static unsigned fds;

static void on_kick(void *ctx, uint32_t events)
{
    eventfd_t count;

    (void)events;
    cr_assert_eq(eventfd_read(*(int *)ctx, &count), 0);
    served++;
}

/* Keeps the thread busy. */
static void on_slow(void *ctx, uint32_t events)
{
    eventfd_t count;

    (void)ctx;
    (void)events;
    cr_assert_eq(eventfd_read(slow, &count), 0);
    cr_assert_eq(sem_post(&entered), 0);
    cr_assert_eq(sem_wait(&leave), 0);
}

static int make_event(loop_fn *fn, void *ctx)
{
    int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);

    cr_assert_geq(fd, 0);
    cr_assert_eq(loop_add(iothread_loop(thread), fd, EPOLLIN, fn, ctx), 0);
    return fd;
}

static void setup(void)
{
    fds = count_open_fds();
    served = 0;
    cr_assert_eq(sem_init(&entered, 0, 0), 0);
    cr_assert_eq(sem_init(&leave, 0, 0), 0);
    cr_assert_eq(iothread_create("unit", &thread), 0);
    for (unsigned i = 0; i < KICKS; i++)
        kicks[i] = make_event(on_kick, &kicks[i]);
    slow = make_event(on_slow, NULL);
}

static void teardown(void)
{
    iothread_destroy(thread);
    for (unsigned i = 0; i < KICKS; i++)
        fd_close(&kicks[i]);
    fd_close(&slow);
    cr_assert_eq(count_open_fds(), fds);
}

TestSuite(iothread, .init = setup, .fini = teardown, .timeout = 60);

static void kick_all(void)
{
    for (unsigned i = 0; i < KICKS; i++)
        cr_assert_eq(eventfd_write(kicks[i], 1), 0);
}

Test(iothread, catches_up_with_all_that_is_ready)
{
    cr_assert_eq(iothread_start(thread), 0);
    cr_assert_eq(eventfd_write(slow, 1), 0);
    cr_assert_eq(sem_wait(&entered), 0);
    kick_all(); /* while the thread is busy */
    cr_assert_eq(served, 0);
    cr_assert_eq(sem_post(&leave), 0);
    iothread_catch_up(thread);
    cr_assert_eq(served, KICKS);
}

Test(iothread, catches_up_again_and_again_and_after_another_start)
{
    for (unsigned round = 1; round <= 20; round++) {
        if (round % 5 == 1)
            cr_assert_eq(iothread_start(thread), 0);
        kick_all();
        iothread_catch_up(thread);
        cr_assert_eq(served, round * KICKS);
        if (round % 5 == 0)
            iothread_stop(thread);
    }
}

static void on_always(void *ctx, uint32_t events)
{
    (void)ctx;
    (void)events;
}

Test(iothread, what_is_always_ready_delays_nobody_for_ever)
{
    int always = make_event(on_always, NULL);

    cr_assert_eq(eventfd_write(always, 1), 0); /* which nobody reads */
    cr_assert_eq(iothread_start(thread), 0);
    for (unsigned round = 1; round <= 20; round++) {
        kick_all();
        iothread_catch_up(thread);
        cr_assert_eq(served, round * KICKS);
    }
    iothread_stop(thread);
    fd_close(&always);
}

Test(iothread, a_thread_that_does_not_run_has_nothing_to_catch_up_with)
{
    kick_all();
    iothread_catch_up(thread);
    cr_assert_eq(served, 0);
    cr_assert_eq(iothread_start(thread), 0);
    iothread_stop(thread);
    iothread_catch_up(thread);
}
