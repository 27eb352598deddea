/*
 * I/O threads: work arrives, who waits for it to be done sees it done, the end waits for the
 * callback, and a thread can begin again.
 */
#include <stdatomic.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "crew.h"
#include "hv/base/iothread.h"

#define ROUNDS 200
#define KICKS 50

static _Atomic unsigned served;

static void on_kick(void *ctx, uint32_t events)
{
    eventfd_t count;

    (void)events;
    CHECK(eventfd_read(*(int *)ctx, &count) == 0);
    atomic_fetch_add(&served, (unsigned)count);
}

static void kick(void *ctx, unsigned index)
{
    (void)index;
    for (unsigned i = 0; i < KICKS; i++)
        CHECK(eventfd_write(*(int *)ctx, 1) == 0);
}

int main(void)
{
    struct iothread *t;
    int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);

    CHECK(fd >= 0);
    CHECK(iothread_create("a-name-that-is-too-long", &t) == 0);
    CHECK(strcmp(iothread_name(t), "a-name-that-is-") == 0);
    CHECK(loop_add(iothread_loop(t), fd, EPOLLIN, on_kick, &fd) == 0);
    for (unsigned round = 1; round <= ROUNDS; round++) {
        struct crew crew = {0};

        CHECK(iothread_start(t) == 0);
        crew_start(&crew, 2, kick, &fd);
        crew_join(&crew);
        iothread_catch_up(t);
        CHECK(atomic_load(&served) == round * 2 * KICKS);
        CHECK(iothread_cpu_ns(t) > 0);
        iothread_stop(t);
        CHECK(iothread_cpu_ns(t) == 0);
        iothread_stop(t); /* harmless */
        CHECK(atomic_load(&served) == round * 2 * KICKS);
    }
    loop_remove(iothread_loop(t), fd);
    iothread_destroy(t);
    iothread_destroy(NULL);
    close(fd);
    return 0;
}
