/*
 * Messages that interrupt: who may send which.
 *
 * Every vector of every function has a number of its own here, and behind it an eventfd that KVM
 * listens to. Sending is a write to that; where it goes is in KVM's table of routes, which is
 * replaced as a whole whenever a guest changes a message.
 */
#include <errno.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "hv/base/fd.h"
#include "machine_priv.h"

void msi_init(struct msi_pool *pool, const struct vm *vm)
{
    *pool = (struct msi_pool){.vm = vm};
    (void)pthread_mutex_init(&pool->lock, NULL); /* does not fail on Linux */
}

void msi_fini(struct msi_pool *pool)
{
    for (unsigned i = 0; i < pool->count; i++)
        fd_close(&pool->events[i]);
    (void)pthread_mutex_destroy(&pool->lock);
}

static int route(void *ctx, unsigned v, uint64_t address, uint32_t data)
{
    const struct msi_range *r = ctx;
    struct msi_pool *pool = r->pool;

    pthread_mutex_lock(&pool->lock);
    pool->messages[r->first + v] = (struct vm_msi){true, address, data};
    int rc = vm_set_messages(pool->vm, pool->messages, pool->count);
    pthread_mutex_unlock(&pool->lock);
    return rc;
}

static void fire(void *ctx, unsigned v)
{
    const struct msi_range *r = ctx;

    (void)eventfd_write(r->pool->events[r->first + v], 1); /* EAGAIN: it is due already */
}

int msi_take(struct msi_pool *pool, unsigned vectors, struct msi_range *out, struct msix_sink *sink)
{
    if (vectors > VM_MSI_ROUTES_MAX - pool->count)
        return -ENOSPC;
    *out = (struct msi_range){.pool = pool, .first = pool->count};
    for (unsigned i = 0; i < vectors; i++) {
        int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
        if (fd < 0)
            return -errno;
        pool->events[pool->count] = fd;
        int rc = vm_irqfd(pool->vm, VM_MSI_GSI_FIRST + pool->count, fd, NULL);
        pool->count++; /* it is there, and msi_fini() closes it */
        if (rc < 0)
            return rc;
    }
    *sink = (struct msix_sink){.route = route, .fire = fire, .ctx = out};
    return 0;
}
