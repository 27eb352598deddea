/*
 * A cable that leads nowhere: what is sent is gone, and nothing ever comes. It is never full, so
 * a guest that sends into it is not held up.
 */
#include <errno.h>
#include <stdlib.h>

#include "hv/net/net.h"

static ssize_t nowhere_send(struct net *n, const struct iovec *iov, unsigned count)
{
    ssize_t size = 0;

    (void)n;
    for (unsigned i = 0; i < count; i++)
        size += (ssize_t)iov[i].iov_len;
    return size;
}

static ssize_t nowhere_receive(struct net *n, const struct iovec *iov, unsigned count)
{
    (void)n;
    (void)iov;
    (void)count;
    return -EAGAIN;
}

static int nowhere_watch(struct net *n, const struct net_watch *watch)
{
    (void)n;
    (void)watch; /* there will be nothing to hear of */
    return 0;
}

static void nowhere_listen(struct net *n, bool readable, bool writable)
{
    (void)n;
    (void)readable;
    (void)writable;
}

static int nowhere_set_offloads(struct net *n, unsigned header, unsigned offloads)
{
    (void)n;
    (void)header; /* gone with the frame */
    (void)offloads;
    return 0;
}

static void nowhere_destroy(struct net *n)
{
    free(n);
}

static const struct net_ops nowhere_ops = {
    .send = nowhere_send,
    .receive = nowhere_receive,
    .watch = nowhere_watch,
    .listen = nowhere_listen,
    .set_offloads = nowhere_set_offloads,
    .destroy = nowhere_destroy,
};

int net_nowhere_create(struct net **out)
{
    struct net *n = calloc(1, sizeof(*n));

    if (n == NULL)
        return -ENOMEM;
    n->ops = &nowhere_ops;
    n->offloads = NET_OFFLOAD_CSUM | NET_OFFLOAD_TSO4 | NET_OFFLOAD_TSO6;
    *out = n;
    return 0;
}
