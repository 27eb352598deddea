/*
 * The calls into a network back end.
 */
#include "hv/net/net.h"

#include <errno.h>
#include <string.h>

#include "net/net_priv.h"

ssize_t net_send(struct net *n, const struct iovec *iov, unsigned count)
{
    return n->ops->send(n, iov, count);
}

ssize_t net_receive(struct net *n, const struct iovec *iov, unsigned count)
{
    return n->ops->receive(n, iov, count);
}

int net_watch(struct net *n, const struct net_watch *watch)
{
    static const struct net_watch nobody;

    return n->ops->watch(n, watch ? watch : &nobody);
}

void net_listen(struct net *n, bool readable, bool writable)
{
    n->ops->listen(n, readable, writable);
}

int net_set_offloads(struct net *n, unsigned header, unsigned offloads)
{
    if (offloads & ~n->offloads)
        return -ENOTSUP;
    if (n->ops->set_offloads == NULL)
        return header == 0 ? 0 : -ENOTSUP;
    return n->ops->set_offloads(n, header, offloads);
}

int net_set_active(struct net *n, bool active)
{
    return n->ops->set_active ? n->ops->set_active(n, active) : 0;
}

void net_destroy(struct net *n)
{
    if (n != NULL)
        n->ops->destroy(n);
}

ssize_t net_scatter(const struct iovec *iov, unsigned count, const void *frame, size_t size)
{
    const uint8_t *from = frame;
    size_t left = size;

    for (unsigned i = 0; i < count && left > 0; i++) {
        size_t here = iov[i].iov_len < left ? iov[i].iov_len : left;
        memcpy(iov[i].iov_base, from, here);
        from += here;
        left -= here;
    }
    return left == 0 ? (ssize_t)size : -EMSGSIZE;
}
