#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "hv/base/fd.h"
#include "hv/base/loop.h"
#include "support/tmp.h"

#define PAIRS 3

/* Socket pairs; the loop watches `near`, the tests write to `far`. */
struct end {
    int near, far;
    unsigned calls;
    uint32_t events; /* of the last call */
};

static struct loop *loop;
static struct end ends[PAIRS];

static void count(void *ctx, uint32_t events)
{
    struct end *end = ctx;
    char byte;

    end->calls++;
    end->events = events;
    (void)!read(end->near, &byte, 1);
}

static void setup(void)
{
    cr_assert_eq(loop_create(&loop), 0);
    for (int i = 0; i < PAIRS; i++) {
        int fds[2];
        cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds), 0);
        ends[i] = (struct end){.near = fds[0], .far = fds[1]};
    }
}

static void teardown(void)
{
    loop_destroy(loop);
    for (int i = 0; i < PAIRS; i++) {
        fd_close(&ends[i].near);
        fd_close(&ends[i].far);
    }
}

TestSuite(loop, .init = setup, .fini = teardown, .timeout = 30);

static void watch(int i, loop_fn *fn)
{
    cr_assert_eq(loop_add(loop, ends[i].near, EPOLLIN, fn, &ends[i]), 0);
}

static void send_byte(int i)
{
    cr_assert_eq(write(ends[i].far, "x", 1), 1);
}

static void run(int timeout_ms)
{
    cr_assert_eq(loop_run_once(loop, timeout_ms), 0);
}

Test(loop, runs_what_is_ready_and_waits_for_nothing)
{
    for (int i = 0; i < PAIRS; i++) {
        watch(i, count);
        cr_assert_eq(write(ends[i].far, "x", 1), 1);
    }
    for (int turn = 0; turn < 2; turn++) {
        cr_assert_eq(loop_run_ready(loop), 0);
        for (int i = 0; i < PAIRS; i++)
            cr_assert_eq(ends[i].calls, 1);
    }
}

Test(loop, calls_the_watch_that_is_ready)
{
    watch(0, count);
    watch(1, count);
    send_byte(1);
    run(-1);
    cr_assert_eq(ends[0].calls, 0);
    cr_assert_eq(ends[1].calls, 1);
    cr_assert_eq(ends[1].events, EPOLLIN);
}

Test(loop, handles_everything_that_is_ready_at_once)
{
    for (int i = 0; i < PAIRS; i++) {
        watch(i, count);
        send_byte(i);
    }
    run(-1);
    for (int i = 0; i < PAIRS; i++)
        cr_assert_eq(ends[i].calls, 1);
}

Test(loop, returns_when_nothing_came_in_time)
{
    watch(0, count);
    run(0);
    run(1);
    cr_assert_eq(ends[0].calls, 0);
}

Test(loop, reports_hangups)
{
    watch(0, count);
    fd_close(&ends[0].far);
    run(-1);
    cr_assert_eq(ends[0].calls, 1);
    cr_assert(ends[0].events & EPOLLHUP);
}

Test(loop, changes_what_it_waits_for)
{
    watch(0, count);
    cr_assert_eq(loop_change(loop, ends[0].near, EPOLLOUT), 0);
    send_byte(0);
    run(-1);
    cr_assert_eq(ends[0].events, EPOLLOUT);
    cr_assert_eq(loop_change(loop, ends[0].near, 0), 0);
    run(0);
    cr_assert_eq(ends[0].calls, 1);
}

Test(loop, a_removed_watch_is_not_called)
{
    watch(0, count);
    send_byte(0);
    loop_remove(loop, ends[0].near);
    run(0);
    cr_assert_eq(ends[0].calls, 0);
    watch(0, count);
    run(-1);
    cr_assert_eq(ends[0].calls, 1);
}

Test(loop, refuses_the_same_descriptor_twice)
{
    watch(0, count);
    cr_assert_eq(loop_add(loop, ends[0].near, EPOLLIN, count, &ends[1]), -EEXIST);
    send_byte(0);
    run(-1);
    cr_assert_eq(ends[0].calls, 1, "the first watch is still the one");
}

Test(loop, refuses_what_cannot_be_watched)
{
    struct tmp_dir tmp;

    tmp_init(&tmp);
    int file = open(tmp_path(&tmp, "f"), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    cr_assert_eq(loop_add(loop, file, EPOLLIN, count, &ends[0]), -EPERM);
    fd_close(&file);
    tmp_fini(&tmp);
    cr_assert_eq(loop_add(loop, -1, EPOLLIN, count, &ends[0]), -EBADF);
    run(0);
}

Test(loop, does_not_know_what_was_never_added)
{
    cr_assert_eq(loop_change(loop, ends[0].near, EPOLLIN), -ENOENT);
    cr_assert_eq(loop_change(loop, -1, EPOLLIN), -ENOENT);
    loop_remove(loop, ends[0].near);
    loop_remove(loop, -1);
}

/* --- callbacks that change the set of watches --- */

static void remove_all(void *ctx, uint32_t events)
{
    count(ctx, events);
    for (int i = 0; i < PAIRS; i++)
        loop_remove(loop, ends[i].near);
}

Test(loop, a_callback_may_remove_watches_that_are_ready_too)
{
    unsigned calls = 0;

    for (int i = 0; i < PAIRS; i++) {
        watch(i, remove_all);
        send_byte(i);
    }
    run(-1);
    for (int i = 0; i < PAIRS; i++)
        calls += ends[i].calls;
    cr_assert_eq(calls, 1);
}

static void remove_and_misuse(void *ctx, uint32_t events)
{
    struct end *end = ctx;

    count(ctx, events);
    loop_remove(loop, end->near);
    /* The removed watch still lies in the list, marked -1; nobody may find it. */
    cr_assert_eq(loop_add(loop, -1, EPOLLIN, count, end), -EBADF);
    cr_assert_eq(loop_change(loop, -1, EPOLLIN), -ENOENT);
}

Test(loop, a_removed_watch_cannot_be_found_by_a_bad_descriptor)
{
    watch(0, remove_and_misuse);
    send_byte(0);
    run(-1);
    cr_assert_eq(ends[0].calls, 1);
}

static void replace_by_count(void *ctx, uint32_t events)
{
    struct end *end = ctx;

    (void)events;
    loop_remove(loop, end->near);
    cr_assert_eq(loop_add(loop, end->near, EPOLLIN, count, end), 0);
}

Test(loop, a_callback_may_replace_its_own_watch)
{
    watch(0, replace_by_count);
    send_byte(0);
    run(-1);
    cr_assert_eq(ends[0].calls, 0, "the old event is not the new watch's");
    run(-1);
    cr_assert_eq(ends[0].calls, 1);
}

static void destroy_far_end(void *ctx, uint32_t events)
{
    count(ctx, events);
    for (int i = 0; i < PAIRS; i++) {
        if (&ends[i] == ctx)
            continue;
        loop_remove(loop, ends[i].near);
        fd_close(&ends[i].near);
    }
}

Test(loop, a_callback_may_close_others)
{
    unsigned calls = 0;

    for (int i = 0; i < PAIRS; i++) {
        watch(i, destroy_far_end);
        send_byte(i);
    }
    run(-1);
    for (int i = 0; i < PAIRS; i++)
        calls += ends[i].calls;
    cr_assert_eq(calls, 1);
}

/* --- waking --- */

Test(loop, a_wake_before_the_run_is_not_lost)
{
    loop_wake(loop);
    run(-1);
    run(0);
}

Test(loop, many_wakes_end_one_wait)
{
    for (int i = 0; i < 1000; i++)
        loop_wake(loop);
    run(-1);
    watch(0, count);
    send_byte(0);
    run(-1);
    cr_assert_eq(ends[0].calls, 1, "and the next wait is for something else");
}

static void wake_from_signal(int number)
{
    (void)number;
    errno = 4711;
    loop_wake(loop);
    cr_assert_eq(errno, 4711);
}

Test(loop, a_signal_handler_may_wake)
{
    struct sigaction action = {.sa_handler = wake_from_signal};
    struct itimerval soon = {.it_value = {.tv_usec = 1000}};

    cr_assert_eq(sigaction(SIGALRM, &action, NULL), 0);
    cr_assert_eq(setitimer(ITIMER_REAL, &soon, NULL), 0);
    run(-1); /* ends with EINTR, which is no error, or by the wake */
}

/* --- life --- */

Test(loop, destroy_leaves_descriptors_open_and_leaks_none)
{
    struct loop *other = NULL;
    unsigned before = count_open_fds();

    cr_assert_eq(loop_create(&other), 0);
    cr_assert_eq(loop_add(other, ends[0].near, EPOLLIN, count, &ends[0]), 0);
    loop_destroy(other);
    cr_assert_eq(count_open_fds(), before);
    cr_assert_geq(fcntl(ends[0].near, F_GETFD), 0);
    loop_destroy(NULL);
}
