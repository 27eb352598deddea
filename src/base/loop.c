/*
 * epoll, with one concern of its own: a callback may remove any watch, also one whose event is
 * still waiting in the batch being handled. So removed watches are only marked, and freed after the
 * batch.
 */
#include "hv/base/loop.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "hv/base/fd.h"

#define BATCH 16

struct watch {
    struct watch *next;
    int fd; /* -1 once removed */
    loop_fn *fn;
    void *ctx;
};

struct loop {
    int epoll_fd;
    int wake_fd;
    struct watch *watches; /* owned list, removed ones included until the batch ends */
};

/* Empties the eventfd; that it was readable has done the waking. */
static void drain_wake(void *ctx, uint32_t events)
{
    struct loop *loop = ctx;
    uint64_t n;

    (void)events;
    (void)!read(loop->wake_fd, &n, sizeof(n)); /* EAGAIN: another wake was drained already */
}

int loop_create(struct loop **out)
{
    struct loop *loop = calloc(1, sizeof(*loop));
    int rc;

    if (loop == NULL)
        return -ENOMEM;
    loop->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    loop->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (loop->epoll_fd < 0 || loop->wake_fd < 0) {
        rc = -errno;
        goto fail;
    }
    rc = loop_add(loop, loop->wake_fd, EPOLLIN, drain_wake, loop);
    if (rc < 0)
        goto fail;
    *out = loop;
    return 0;
fail:
    loop_destroy(loop);
    return rc;
}

static void free_removed(struct loop *loop)
{
    struct watch **link = &loop->watches;

    while (*link != NULL) {
        struct watch *w = *link;
        if (w->fd < 0) {
            *link = w->next;
            free(w);
        } else {
            link = &w->next;
        }
    }
}

void loop_destroy(struct loop *loop)
{
    if (loop == NULL)
        return;
    for (struct watch *w = loop->watches; w != NULL; w = w->next)
        w->fd = -1;
    free_removed(loop);
    fd_close(&loop->wake_fd);
    fd_close(&loop->epoll_fd);
    free(loop);
}

static struct watch *find(const struct loop *loop, int fd)
{
    if (fd < 0) /* that marks removed watches, which nobody may find */
        return NULL;
    struct watch *w = loop->watches;
    while (w != NULL && w->fd != fd)
        w = w->next;
    return w;
}

int loop_add(struct loop *loop, int fd, uint32_t events, loop_fn *fn, void *ctx)
{
    if (find(loop, fd) != NULL)
        return -EEXIST;
    struct watch *w = calloc(1, sizeof(*w));
    if (w == NULL)
        return -ENOMEM;
    *w = (struct watch){.next = loop->watches, .fd = fd, .fn = fn, .ctx = ctx};
    struct epoll_event ev = {.events = events, .data.ptr = w};
    if (epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, fd, &ev) < 0) {
        int rc = -errno;
        free(w);
        return rc;
    }
    loop->watches = w;
    return 0;
}

int loop_change(struct loop *loop, int fd, uint32_t events)
{
    struct watch *w = find(loop, fd);

    if (w == NULL)
        return -ENOENT;
    struct epoll_event ev = {.events = events, .data.ptr = w};
    return epoll_ctl(loop->epoll_fd, EPOLL_CTL_MOD, fd, &ev) < 0 ? -errno : 0;
}

void loop_remove(struct loop *loop, int fd)
{
    struct watch *w = find(loop, fd);

    if (w == NULL)
        return;
    (void)epoll_ctl(loop->epoll_fd, EPOLL_CTL_DEL, fd,
                    NULL); /* fails only if fd is closed already */
    w->fd = -1;
}

int loop_run_once(struct loop *loop, int timeout_ms)
{
    struct epoll_event events[BATCH];
    int n = epoll_wait(loop->epoll_fd, events, BATCH, timeout_ms);

    if (n < 0)
        return errno == EINTR ? 0 : -errno;
    for (int i = 0; i < n; i++) {
        struct watch *w = events[i].data.ptr;
        if (w->fd >= 0)
            w->fn(w->ctx, events[i].events);
    }
    free_removed(loop);
    return 0;
}

/* What was handled and is still ready goes to the end of epoll's queue: so many batches reach every
 * watch. */
int loop_run_ready(struct loop *loop)
{
    unsigned watches = 0;
    int rc = 0;

    for (const struct watch *w = loop->watches; w != NULL; w = w->next)
        watches++;
    for (unsigned seen = 0; rc == 0 && seen < watches; seen += BATCH)
        rc = loop_run_once(loop, 0);
    return rc;
}

void loop_wake(struct loop *loop)
{
    uint64_t one = 1;
    int saved = errno;

    (void)!write(loop->wake_fd, &one, sizeof(one)); /* EAGAIN: a wake is pending, which is enough */
    errno = saved;
}
