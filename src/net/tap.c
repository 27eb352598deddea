/*
 * Tap: an interface of the host's whose other end is a descriptor of ours.
 *
 * The kernel puts struct virtio_net_hdr_v1 before each frame, so that frames whose checksum is
 * still to be made, and segments that are still to be cut, pass as they are. Who asked for no
 * header does not see it.
 *
 * With several queues an interface has a descriptor for each. The kernel keeps a flow's frames
 * together: they come to the queue that the flow's last frame was sent through, or to any, chosen
 * by a hash. A queue that nobody reads must not be among these: it is detached (TUNSETQUEUE).
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <linux/virtio_net.h>
#include <net/if.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "hv/base/fd.h"
#include "hv/base/num.h"
#include "hv/net/net.h"

#define PIECES 1024 /* what readv() takes */

struct tap {
    struct net net;
    int fd;          /* owned */
    bool strips;     /* the user wants no header */
    bool detached;   /* the kernel puts no frames here */
    uint32_t events; /* what it is listened to for */
    struct net_watch watch;
};

static struct tap *tap_of(struct net *n)
{
    return container_of(n, struct tap, net);
}

static ssize_t tap_send(struct net *n, const struct iovec *iov, unsigned count)
{
    struct tap *t = tap_of(n);
    struct virtio_net_hdr_v1 none = {0};
    struct iovec with[PIECES];

    if (t->strips) {
        if (count >= PIECES)
            return -EMSGSIZE;
        with[0] = (struct iovec){&none, sizeof(none)};
        memcpy(with + 1, iov, count * sizeof(*iov));
        iov = with;
        count++;
    }
    ssize_t sent = writev(t->fd, iov, (int)count);
    if (sent < 0 && errno == EBADFD)
        return -ENOTCONN; /* the interface was deleted */
    if (sent < 0)
        return errno == ENOBUFS ? -EAGAIN : -errno;
    return t->strips ? sent - (ssize_t)sizeof(none) : sent;
}

static uint64_t bytes_of(const struct iovec *iov, unsigned count)
{
    uint64_t sum = 0;

    for (unsigned i = 0; i < count; i++)
        sum += iov[i].iov_len;
    return sum;
}

/* The interface was deleted. epoll would say so again and again, whatever it is asked for. */
static void unwatch(struct tap *t)
{
    if (t->watch.loop)
        loop_remove(t->watch.loop, t->fd);
    t->watch.loop = NULL;
}

/* The kernel cuts a frame that is too long, and does not say so: one byte more than there is room
 * for tells. */
static ssize_t tap_receive(struct net *n, const struct iovec *iov, unsigned count)
{
    struct tap *t = tap_of(n);
    struct virtio_net_hdr_v1 header;
    struct iovec all[PIECES];
    unsigned used = 0;
    uint8_t beyond;

    if (count + 2 > PIECES)
        return -EMSGSIZE;
    if (t->strips)
        all[used++] = (struct iovec){&header, sizeof(header)};
    memcpy(all + used, iov, count * sizeof(*iov));
    used += count;
    all[used++] = (struct iovec){&beyond, 1};

    ssize_t got = readv(t->fd, all, (int)used);
    if (got < 0 && errno == EBADFD) {
        unwatch(t);
        return -ENOTCONN;
    }
    if (got < 0)
        return -errno;
    if (t->strips)
        got -= (ssize_t)sizeof(header);
    return (uint64_t)got > bytes_of(iov, count) ? -EMSGSIZE : got;
}

static void on_event(void *ctx, uint32_t events)
{
    struct tap *t = ctx;

    if ((events & EPOLLOUT) && t->watch.writable)
        t->watch.writable(t->watch.ctx);
    if ((events & EPOLLERR) && !(t->events & EPOLLIN))
        unwatch(t);
    else if (events & ~(uint32_t)EPOLLOUT)
        t->watch.readable(t->watch.ctx);
}

static int tap_watch(struct net *n, const struct net_watch *watch)
{
    struct tap *t = tap_of(n);

    unwatch(t);
    t->watch = *watch;
    t->events = 0;
    if (watch->loop == NULL)
        return 0;
    int rc = loop_add(watch->loop, t->fd, 0, on_event, t);
    if (rc < 0)
        t->watch.loop = NULL;
    return rc;
}

static void tap_listen(struct net *n, bool readable, bool writable)
{
    struct tap *t = tap_of(n);

    t->events = (readable ? EPOLLIN : 0U) | (writable ? EPOLLOUT : 0U);
    if (t->watch.loop) /* the descriptor is watched: changing what for cannot fail */
        (void)!loop_change(t->watch.loop, t->fd, t->events);
}

static int tap_set_offloads(struct net *n, unsigned header, unsigned offloads)
{
    struct tap *t = tap_of(n);
    unsigned flags = (offloads & NET_OFFLOAD_CSUM ? TUN_F_CSUM : 0U) |
                     (offloads & NET_OFFLOAD_TSO4 ? TUN_F_TSO4 : 0U) |
                     (offloads & NET_OFFLOAD_TSO6 ? TUN_F_TSO6 : 0U);

    if (header != 0 && header != sizeof(struct virtio_net_hdr_v1))
        return -ENOTSUP;
    if (ioctl(t->fd, TUNSETOFFLOAD, flags) < 0)
        return -errno;
    t->strips = header == 0;
    return 0;
}

static int tap_set_active(struct net *n, bool active)
{
    struct tap *t = tap_of(n);
    struct ifreq ifr = {.ifr_flags = active ? IFF_ATTACH_QUEUE : IFF_DETACH_QUEUE};

    if (active != t->detached)
        return 0;
    if (ioctl(t->fd, TUNSETQUEUE, &ifr) < 0)
        return errno == EINVAL ? -ENOTCONN : -errno; /* the interface was deleted */
    t->detached = !active;
    return 0;
}

static void tap_destroy(struct net *n)
{
    struct tap *t = tap_of(n);

    unwatch(t);
    fd_close(&t->fd);
    free(t);
}

static const struct net_ops tap_ops = {
    .send = tap_send,
    .receive = tap_receive,
    .watch = tap_watch,
    .listen = tap_listen,
    .set_offloads = tap_set_offloads,
    .set_active = tap_set_active,
    .destroy = tap_destroy,
};

/* Why the kernel refused, and what to do. */
static int explain(const char *name, unsigned queues, int rc, struct error *err)
{
    if (rc == -EPERM)
        return error_set(err, rc,
                         "you may not use the interface %s: let root make it for you, with "
                         "ip tuntap add %s mode tap%s user $USER",
                         name, name, queues > 1 ? " multi_queue" : "");
    if (rc == -EBUSY)
        return error_set(err, rc, "the interface %s is in use", name);
    if (rc == -EINVAL && queues > 1)
        return error_set(err, rc,
                         "the interface %s is none with several queues: make it with "
                         "ip tuntap add %s mode tap multi_queue",
                         name, name);
    if (rc == -EINVAL)
        return error_set(err, rc,
                         "the interface %s is no tap interface, or one with several queues: "
                         "then say queues=2, or more",
                         name);
    return error_sys(err, rc, "cannot use the interface %s", name);
}

static int attach(int fd, const char *name, unsigned queues, struct error *err)
{
    struct ifreq ifr = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};
    int header = sizeof(struct virtio_net_hdr_v1);

    if (queues > 1)
        ifr.ifr_flags |= IFF_MULTI_QUEUE;
    memcpy(ifr.ifr_name, name, strlen(name));
    if (ioctl(fd, TUNSETIFF, &ifr) < 0)
        return explain(name, queues, -errno, err);
    if (ioctl(fd, TUNSETVNETHDRSZ, &header) < 0)
        return error_sys(err, -errno, "the interface %s does not know virtio's header", name);
    return 0;
}

/* One of the interface's queues. */
static int open_queue(const char *name, unsigned queues, struct net **out, struct error *err)
{
    struct tap *t = calloc(1, sizeof(*t));

    if (t == NULL)
        return error_sys(err, -ENOMEM, "interface %s", name);
    t->net.ops = &tap_ops;
    t->net.offloads = NET_OFFLOAD_CSUM | NET_OFFLOAD_TSO4 | NET_OFFLOAD_TSO6;
    t->strips = true;
    t->fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    int rc = t->fd < 0 ? error_sys(err, -errno, "/dev/net/tun") : attach(t->fd, name, queues, err);
    if (rc < 0) {
        tap_destroy(&t->net);
        return rc;
    }
    *out = &t->net;
    return 0;
}

/* All but the first begin detached. */
static int open_further(const char *name, unsigned queues, struct net **out, struct error *err)
{
    int rc = open_queue(name, queues, out, err);

    if (rc < 0)
        return rc;
    rc = net_set_active(*out, false);
    if (rc == 0)
        return 0;
    net_destroy(*out);
    return error_sys(err, rc, "cannot detach a queue of the interface %s", name);
}

int net_tap_create(const char *name, unsigned queues, struct net **out, struct error *err)
{
    struct net *made[NET_QUEUES_MAX];

    if (name[0] == '\0' || strlen(name) >= IFNAMSIZ || strchr(name, '/'))
        return error_set(err, -EINVAL, "'%s' is no name of a network interface", name);
    int rc = open_queue(name, queues, &made[0], err);
    if (rc < 0)
        return rc;
    for (unsigned i = 1; i < queues; i++) {
        rc = open_further(name, queues, &made[i], err);
        if (rc < 0) {
            while (i-- > 0)
                net_destroy(made[i]);
            return rc;
        }
    }
    memcpy(out, made, queues * sizeof(made[0]));
    return 0;
}
