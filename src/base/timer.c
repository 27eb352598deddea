#include "hv/base/timer.h"

#include <errno.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "hv/base/fd.h"

#define NS_PER_S UINT64_C(1000000000)
#define SECONDS_MAX INT32_MAX /* 68 years: nobody waits for more */

static void on_expiry(void *ctx, uint32_t events)
{
    struct timer *t = ctx;
    uint64_t count;

    (void)events;
    /* EAGAIN: it was set again, or cancelled, after it had expired. */
    if (read(t->fd, &count, sizeof(count)) == (ssize_t)sizeof(count))
        t->fn(t->ctx);
}

int timer_init(struct timer *t, struct loop *loop, void (*fn)(void *ctx), void *ctx)
{
    *t = (struct timer){.loop = loop, .fn = fn, .ctx = ctx};
    t->fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    if (t->fd < 0)
        return -errno;
    int rc = loop_add(loop, t->fd, EPOLLIN, on_expiry, t);
    if (rc < 0)
        fd_close(&t->fd);
    return rc;
}

static void arm(struct timer *t, time_t seconds, long ns)
{
    struct itimerspec spec = {.it_value = {.tv_sec = seconds, .tv_nsec = ns}};

    (void)timerfd_settime(t->fd, 0, &spec, NULL); /* fails for bad arguments only */
}

void timer_set(struct timer *t, uint64_t ns)
{
    uint64_t seconds = ns / NS_PER_S;

    if (ns == 0)
        ns = 1; /* 0 would cancel it */
    arm(t, (time_t)(seconds < SECONDS_MAX ? seconds : SECONDS_MAX), (long)(ns % NS_PER_S));
}

void timer_cancel(struct timer *t)
{
    arm(t, 0, 0);
}

void timer_fini(struct timer *t)
{
    if (t->fd < 0)
        return;
    loop_remove(t->loop, t->fd);
    fd_close(&t->fd);
}
