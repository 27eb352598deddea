/*
 * Two ends of a wire, in memory: a pair of datagram sockets, so that either end has a descriptor
 * that a loop can wait for, and the kernel keeps frames apart.
 *
 * A header that one end asked for goes over the wire with the frame, so both ends ask for the same.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "hv/base/fd.h"
#include "hv/base/num.h"
#include "hv/net/net.h"

#define BUFFER (4 * 1024 * 1024) /* bytes that wait on the wire; as much as the host allows */

struct wire_end {
    struct net net;
    int fd;          /* owned */
    uint32_t events; /* what it is listened to for */
    struct net_watch watch;
};

static struct wire_end *end_of(struct net *n)
{
    return container_of(n, struct wire_end, net);
}

static ssize_t pair_send(struct net *n, const struct iovec *iov, unsigned count)
{
    const struct msghdr msg = {.msg_iov = (struct iovec *)iov, .msg_iovlen = count};
    ssize_t sent = sendmsg(end_of(n)->fd, &msg, MSG_NOSIGNAL);

    if (sent >= 0)
        return sent;
    return errno == ENOBUFS ? -EAGAIN : -errno;
}

/* The other end is gone. epoll would say so again and again, whatever it is asked for. */
static void unwatch(struct wire_end *e)
{
    if (e->watch.loop)
        loop_remove(e->watch.loop, e->fd);
    e->watch.loop = NULL;
}

static ssize_t pair_receive(struct net *n, const struct iovec *iov, unsigned count)
{
    struct wire_end *e = end_of(n);
    struct msghdr msg = {.msg_iov = (struct iovec *)iov, .msg_iovlen = count};
    ssize_t got = recvmsg(e->fd, &msg, 0);

    if (got < 0)
        return -errno;
    if (got == 0) { /* no frame is so short */
        unwatch(e);
        return -ENOTCONN;
    }
    return msg.msg_flags & MSG_TRUNC ? -EMSGSIZE : got;
}

static void on_event(void *ctx, uint32_t events)
{
    struct wire_end *e = ctx;

    if ((events & EPOLLOUT) && e->watch.writable)
        e->watch.writable(e->watch.ctx);
    if ((events & EPOLLHUP) && !(e->events & EPOLLIN))
        unwatch(e);
    else if (events & ~(uint32_t)EPOLLOUT)
        e->watch.readable(e->watch.ctx);
}

static int pair_watch(struct net *n, const struct net_watch *watch)
{
    struct wire_end *e = end_of(n);

    unwatch(e);
    e->watch = *watch;
    e->events = 0;
    if (watch->loop == NULL)
        return 0;
    int rc = loop_add(watch->loop, e->fd, 0, on_event, e);
    if (rc < 0)
        e->watch.loop = NULL;
    return rc;
}

static void pair_listen(struct net *n, bool readable, bool writable)
{
    struct wire_end *e = end_of(n);

    e->events = (readable ? EPOLLIN : 0U) | (writable ? EPOLLOUT : 0U);
    if (e->watch.loop) /* the descriptor is watched: changing what for cannot fail */
        (void)!loop_change(e->watch.loop, e->fd, e->events);
}

static int pair_set_offloads(struct net *n, unsigned header, unsigned offloads)
{
    (void)n;
    (void)header; /* part of the frame, for us */
    (void)offloads;
    return 0;
}

static void pair_destroy(struct net *n)
{
    struct wire_end *e = end_of(n);

    unwatch(e);
    fd_close(&e->fd);
    free(e);
}

static const struct net_ops pair_ops = {
    .send = pair_send,
    .receive = pair_receive,
    .watch = pair_watch,
    .listen = pair_listen,
    .set_offloads = pair_set_offloads,
    .destroy = pair_destroy,
};

static struct wire_end *create_end(int fd)
{
    struct wire_end *e = calloc(1, sizeof(*e));
    const int buffer = BUFFER;

    if (e == NULL)
        return NULL;
    (void)setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &buffer, sizeof(buffer)); /* a wish */
    e->net.ops = &pair_ops;
    e->net.offloads = NET_OFFLOAD_CSUM | NET_OFFLOAD_TSO4 | NET_OFFLOAD_TSO6;
    e->fd = fd;
    return e;
}

int net_pair_create(struct net **a, struct net **b)
{
    int fds[2];

    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds) < 0)
        return -errno;
    struct wire_end *one = create_end(fds[0]), *two = create_end(fds[1]);
    if (one == NULL || two == NULL) {
        free(one);
        free(two);
        fd_close(&fds[0]);
        fd_close(&fds[1]);
        return -ENOMEM;
    }
    *a = &one->net;
    *b = &two->net;
    return 0;
}
