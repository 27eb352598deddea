/*
 * A UNIX stream socket that carries frames: each after its length, 4 bytes, big-endian. QEMU's
 * "-netdev stream" and passt speak so.
 *
 * A stream has no frames of its own, so both directions need a buffer: what has come of a frame
 * that is not whole yet, and what the socket did not take of one that is being sent. A peer that
 * says a length no frame has is talking something else; it is hung up on.
 *
 * Without a peer frames are dropped, as on a cable without an other end. Who listens waits for the
 * next peer; who connected tries again, once a second.
 */
#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "hv/base/fd.h"
#include "hv/base/listen.h"
#include "hv/base/num.h"
#include "hv/base/timer.h"
#include "hv/base/todo.h"
#include "hv/net/net.h"
#include "net/net_priv.h"

#define LENGTH sizeof(uint32_t)
#define RETRY_NS UINT64_C(1000000000)
#define PIECES 1024

struct stream {
    struct net net;
    int fd;       /* the peer, or -1; owned */
    int listener; /* or -1; owned */
    struct sockaddr_un addr;
    bool reconnects;
    struct net_watch watch;
    uint32_t events;           /* what fd is watched for */
    struct timer retry, again; /* while there is a loop */
    /* Received: whole frames and the beginning of one. */
    uint8_t in[2 * (LENGTH + NET_FRAME_MAX)];
    size_t in_first, in_end;
    /* The rest of a frame that is being sent. */
    uint8_t out[LENGTH + NET_FRAME_MAX];
    size_t out_first, out_end;
};

static struct stream *stream_of(struct net *n)
{
    return container_of(n, struct stream, net);
}

/* --- the peer --- */

static void on_peer(void *ctx, uint32_t events);

static void hang_up(struct stream *s)
{
    if (s->fd < 0)
        return;
    if (s->watch.loop)
        loop_remove(s->watch.loop, s->fd);
    fd_close(&s->fd);
    s->in_first = s->in_end = s->out_first = s->out_end = 0;
    if (s->watch.loop && s->reconnects)
        timer_set(&s->retry, RETRY_NS);
}

static void take_peer(struct stream *s, int fd)
{
    s->fd = fd;
    if (s->watch.loop && loop_add(s->watch.loop, fd, s->events, on_peer, s) < 0)
        fd_close(&s->fd);
}

static int dial(struct stream *s)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    if (fd < 0)
        return -errno;
    if (connect(fd, (const struct sockaddr *)&s->addr, sizeof(s->addr)) < 0) {
        int rc = -errno;
        fd_close(&fd);
        return rc;
    }
    take_peer(s, fd);
    return 0;
}

static void on_retry(void *ctx)
{
    struct stream *s = ctx;

    if (s->listener >= 0)
        (void)!loop_change(s->watch.loop, s->listener, EPOLLIN); /* it is watched: cannot fail */
    else if (s->fd < 0 && dial(s) < 0)
        timer_set(&s->retry, RETRY_NS);
}

/* One peer at a time: another one is told so by being closed. Who cannot be let in, for want of a
 * descriptor, would have epoll say so again and again: later. */
static void on_caller(void *ctx, uint32_t events)
{
    struct stream *s = ctx;
    int fd = accept4(s->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

    (void)events;
    if (fd < 0 && errno != EAGAIN && errno != EINTR && errno != ECONNABORTED) {
        (void)!loop_change(s->watch.loop, s->listener, 0); /* likewise */
        timer_set(&s->retry, RETRY_NS);
    } else if (fd >= 0 && s->fd < 0) {
        take_peer(s, fd);
    } else {
        fd_close(&fd);
    }
}

/* --- sending --- */

/* Sends what is left of the last frame. False: there is still some. */
static bool flush(struct stream *s)
{
    while (s->out_first < s->out_end) {
        ssize_t n = send(s->fd, s->out + s->out_first, s->out_end - s->out_first, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            return false;
        if (n < 0) {
            hang_up(s);
            return true;
        }
        s->out_first += (size_t)n;
    }
    s->out_first = s->out_end = 0;
    return true;
}

/* Keeps what the socket did not take: the bytes of iov from `sent` on. */
static void keep_rest(struct stream *s, const struct iovec *iov, unsigned count, size_t sent)
{
    for (unsigned i = 0; i < count; i++) {
        size_t skip = sent < iov[i].iov_len ? sent : iov[i].iov_len;
        memcpy(s->out + s->out_end, (const uint8_t *)iov[i].iov_base + skip, iov[i].iov_len - skip);
        s->out_end += iov[i].iov_len - skip;
        sent -= skip;
    }
}

static ssize_t stream_send(struct net *n, const struct iovec *iov, unsigned count)
{
    struct stream *s = stream_of(n);
    struct iovec all[PIECES];
    uint64_t size = 0;

    for (unsigned i = 0; i < count; i++)
        size += iov[i].iov_len;
    if (size > NET_FRAME_MAX || count >= PIECES)
        return -EMSGSIZE;
    if (s->fd >= 0 && !flush(s))
        return -EAGAIN;
    if (s->fd < 0)
        return -ENOTCONN;

    uint32_t length = htobe32((uint32_t)size);
    all[0] = (struct iovec){&length, sizeof(length)};
    memcpy(all + 1, iov, count * sizeof(*iov));
    const struct msghdr msg = {.msg_iov = all, .msg_iovlen = count + 1};
    ssize_t sent = sendmsg(s->fd, &msg, MSG_NOSIGNAL);
    if (sent < 0 && (errno == EAGAIN || errno == EINTR))
        return -EAGAIN;
    if (sent < 0) {
        hang_up(s);
        return -ENOTCONN;
    }
    if ((uint64_t)sent < size + LENGTH)
        keep_rest(s, all, count + 1, (size_t)sent);
    return (ssize_t)size;
}

/* --- receiving --- */

/* Reads more of the stream. False: nothing came. */
static bool read_more(struct stream *s)
{
    memmove(s->in, s->in + s->in_first, s->in_end - s->in_first);
    s->in_end -= s->in_first;
    s->in_first = 0;
    ssize_t n = recv(s->fd, s->in + s->in_end, sizeof(s->in) - s->in_end, 0);
    if (n > 0) {
        s->in_end += (size_t)n;
        return true;
    }
    if (n == 0 || (errno != EAGAIN && errno != EINTR))
        hang_up(s);
    return false;
}

/* EXERCISE 9.10: frames out of a stream. in[in_first … in_end) is what has come: whole frames, each
 * after its length (LENGTH bytes, big-endian), and the beginning of one. whole_frame(): the length
 * of the first frame if all of it is there; 0 if not; -1 for a length that no frame has: 0, or more
 * than NET_FRAME_MAX. stream_receive() reads more (read_more()) until there is one, takes it out of
 * `in` and copies it (net_scatter()). -EAGAIN: nothing more comes now; -ENOTCONN: there is no peer
 * (fd is -1 then), or no longer. A peer with a length of -1 is talking something else: hang_up().
 */
// SOLUTION 9.10
/* The length of the first frame, if all of it has come; 0: not yet; -1: no frame is so long. */
static ssize_t whole_frame(const struct stream *s)
{
    size_t have = s->in_end - s->in_first;
    uint32_t length;

    if (have < LENGTH)
        return 0;
    memcpy(&length, s->in + s->in_first, LENGTH);
    length = be32toh(length);
    if (length == 0 || length > NET_FRAME_MAX)
        return -1;
    return have - LENGTH >= length ? (ssize_t)length : 0;
}

static ssize_t stream_receive(struct net *n, const struct iovec *iov, unsigned count)
{
    struct stream *s = stream_of(n);
    ssize_t length = 0;

    while (s->fd >= 0 && (length = whole_frame(s)) == 0)
        if (!read_more(s))
            return s->fd >= 0 ? -EAGAIN : -ENOTCONN;
    if (length < 0)
        hang_up(s);
    if (s->fd < 0)
        return -ENOTCONN;

    const uint8_t *frame = s->in + s->in_first + LENGTH;
    s->in_first += LENGTH + (size_t)length;
    return net_scatter(iov, count, frame, (size_t)length);
}
// ELSE
// static ssize_t whole_frame(const struct stream *s)
// {
//     return 0;
// }
//
// static ssize_t stream_receive(struct net *n, const struct iovec *iov, unsigned count)
// {
//     struct stream *s = stream_of(n);
//
//     if (todo("9.10") == 0 && read_more(s))
//         return net_scatter(iov, count, s->in, (size_t)whole_frame(s));
//     return -EAGAIN;
// }
// END 9.10

/* --- wake-ups --- */

static void on_peer(void *ctx, uint32_t events)
{
    struct stream *s = ctx;

    if ((events & EPOLLOUT) && flush(s) && s->watch.writable)
        s->watch.writable(s->watch.ctx);
    if ((events & (EPOLLHUP | EPOLLERR)) && !(s->events & EPOLLIN))
        hang_up(s); /* nobody reads, and epoll would say it again and again */
    else if (events & ~(uint32_t)EPOLLOUT)
        s->watch.readable(s->watch.ctx);
}

static void on_again(void *ctx)
{
    struct stream *s = ctx;

    if (s->events & EPOLLIN)
        s->watch.readable(s->watch.ctx);
}

static void unwatch(struct stream *s)
{
    if (s->watch.loop == NULL)
        return;
    if (s->fd >= 0)
        loop_remove(s->watch.loop, s->fd);
    if (s->listener >= 0)
        loop_remove(s->watch.loop, s->listener);
    timer_fini(&s->retry);
    timer_fini(&s->again);
    s->watch.loop = NULL;
}

static int stream_watch(struct net *n, const struct net_watch *watch)
{
    struct stream *s = stream_of(n);
    int rc = 0;

    unwatch(s);
    if (watch->loop == NULL)
        return 0;
    s->watch = *watch;
    s->events = 0;
    s->again.fd = -1;
    rc = timer_init(&s->retry, watch->loop, on_retry, s);
    if (rc == 0)
        rc = timer_init(&s->again, watch->loop, on_again, s);
    if (rc == 0 && s->fd >= 0)
        rc = loop_add(watch->loop, s->fd, 0, on_peer, s);
    if (rc == 0 && s->listener >= 0)
        rc = loop_add(watch->loop, s->listener, EPOLLIN, on_caller, s);
    if (rc < 0)
        unwatch(s);
    return rc;
}

static void stream_listen(struct net *n, bool readable, bool writable)
{
    struct stream *s = stream_of(n);

    s->events = (readable ? EPOLLIN : 0U) | (writable ? EPOLLOUT : 0U);
    if (s->watch.loop && s->fd >= 0) /* it is watched: changing what for cannot fail */
        (void)!loop_change(s->watch.loop, s->fd, s->events);
    /* Frames that were read along with an earlier one: no event of the socket will tell of them. */
    if (s->watch.loop && readable && s->fd >= 0 && whole_frame(s) != 0)
        timer_set(&s->again, 0);
}

/* --- life --- */

static void stream_destroy(struct net *n)
{
    struct stream *s = stream_of(n);

    unwatch(s);
    fd_close(&s->fd);
    unlisten_unix(s->addr.sun_path, &s->listener);
    free(s);
}

static const struct net_ops stream_ops = {
    .send = stream_send,
    .receive = stream_receive,
    .watch = stream_watch,
    .listen = stream_listen,
    .destroy = stream_destroy,
};

static struct stream *create(void)
{
    struct stream *s = calloc(1, sizeof(*s));

    if (s == NULL)
        return NULL;
    s->net.ops = &stream_ops;
    s->fd = s->listener = -1;
    s->retry.fd = s->again.fd = -1;
    return s;
}

int net_stream_create(const char *path, bool listen, struct net **out, struct error *err)
{
    struct stream *s = create();

    if (s == NULL)
        return error_sys(err, -ENOMEM, "%s", path);
    s->addr.sun_family = AF_UNIX;
    if (path[0] == '\0' || strlen(path) >= sizeof(s->addr.sun_path)) {
        free(s);
        return error_set(err, -ENAMETOOLONG, "%s: a socket's path has 1 to %zu characters", path,
                         sizeof(s->addr.sun_path) - 1);
    }
    memcpy(s->addr.sun_path, path, strlen(path));
    s->reconnects = !listen;
    int rc = listen ? listen_unix(path, err) : dial(s);
    if (rc < 0) {
        stream_destroy(&s->net);
        return listen ? rc : error_sys(err, rc, "cannot connect to %s", path);
    }
    if (listen)
        s->listener = rc;
    *out = &s->net;
    return 0;
}

int net_stream_adopt(int fd, struct net **out)
{
    struct stream *s = create();
    int rc = s == NULL ? -ENOMEM : fd_set_nonblock(fd);

    if (rc < 0) {
        free(s);
        return rc;
    }
    s->fd = fd;
    *out = &s->net;
    return 0;
}
