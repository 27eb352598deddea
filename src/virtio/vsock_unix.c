/*
 * The host's side of the socket device: UNIX sockets.
 *
 * Sockets are watched for changes (EPOLLET), not for states: that a program has sent something is
 * told once, and noted in is_readable until a read finds nothing. So a program that sends what the
 * guest does not take, or that hangs up while the guest is paused, wakes nobody again and again.
 *
 * A listener without descriptors for a caller would be woken for ever, for the caller still waits:
 * it looks away for a moment.
 */
#include <errno.h>
#include <linux/vm_sockets.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "hv/base/fd.h"
#include "hv/base/listen.h"
#include "hv/base/num.h"
#include "virtio/vsock_priv.h"

#define GREETING_MAX 32 /* characters of "CONNECT 4294967295\n", and some to spare */
#define DEAF_NS UINT64_C(100000000)
#define PATH_LEN_MAX (sizeof(((struct vsock *)0)->path) - 1) /* ports are appended to it */

/* --- events --- */

static void on_event(void *ctx, uint32_t events);

#define EVENTS (EPOLLIN | EPOLLRDHUP | EPOLLET)

int vsock_watch(struct vsock_conn *c)
{
    return loop_add(c->d->loop, c->fd, EVENTS, on_event, c);
}

static int watch_room(struct vsock_conn *c, bool wants)
{
    if (c->wants_room == wants)
        return 0;
    c->wants_room = wants;
    return loop_change(c->d->loop, c->fd, EVENTS | (wants ? EPOLLOUT : 0U));
}

void vsock_hang_up(struct vsock_conn *c)
{
    if (c->fd >= 0)
        loop_remove(c->d->loop, c->fd);
    fd_close(&c->fd);
    c->is_readable = false;
    vsock_buf_drop(&c->in, c->in.len);
}

/* --- to the program --- */

/* Bytes sent, 0: no room now, or -EPIPE: never again. */
static ssize_t send_pieces(int fd, struct iovec *iov, unsigned count)
{
    const struct msghdr msg = {.msg_iov = iov, .msg_iovlen = count};
    ssize_t n;

    do
        n = sendmsg(fd, &msg, MSG_NOSIGNAL);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        return errno == EAGAIN || errno == ENOBUFS || errno == ENOMEM ? 0 : -EPIPE;
    return n;
}

int vsock_give(struct vsock_conn *c, const struct vq_chain *payload)
{
    ssize_t n = 0;

    if (c->in.len == 0 && payload->out_size > 0)
        n = send_pieces(c->fd, payload->iov, payload->out_count);
    if (n < 0)
        return (int)n;
    c->forwarded += (uint32_t)n;
    if ((uint64_t)n == payload->out_size)
        return 0;
    int rc = vsock_buf_put(&c->in, payload, (uint64_t)n);
    return rc < 0 ? rc : watch_room(c, true);
}

/* Sends what waits, as much as there is room for. The connection may be gone afterwards. */
static void flush(struct vsock_conn *c)
{
    struct iovec iov[2];
    unsigned count = vsock_buf_pieces(&c->in, iov);
    ssize_t n = count > 0 ? send_pieces(c->fd, iov, count) : 0;

    if (n < 0) {
        vsock_host_gone(c);
        return;
    }
    c->forwarded += (uint32_t)n;
    vsock_buf_drop(&c->in, (uint32_t)n);
    if (c->in.len > 0) {
        if (n > 0 && c->state == VSOCK_LINGERING)
            vsock_enter(c, VSOCK_LINGERING); /* it goes on: more time */
        vsock_offer_credit(c);
        return;
    }
    (void)watch_room(c, false); /* if it fails, we are woken for nothing */
    vsock_offer_credit(c);
    vsock_drained(c);
}

void vsock_shut(struct vsock_conn *c)
{
    if (c->fd < 0)
        return;
    /* Neither fails but for a program that is gone, which will be told of in its own way. */
    if ((c->guest_shut & VIRTIO_VSOCK_SHUTDOWN_SEND) && c->in.len == 0)
        (void)shutdown(c->fd, SHUT_WR);
    if (c->guest_shut & VIRTIO_VSOCK_SHUTDOWN_RCV)
        (void)shutdown(c->fd, SHUT_RD);
}

int vsock_greet(struct vsock_conn *c)
{
    char line[GREETING_MAX];
    int len = snprintf(line, sizeof(line), "OK %u\n", c->host_port);
    ssize_t n = send(c->fd, line, (size_t)len, MSG_NOSIGNAL);

    return n == len ? 0 : -EPIPE; /* nothing was sent before: there is room */
}

/* --- from the program --- */

ssize_t vsock_take(struct vsock_conn *c, const struct iovec *iov, unsigned count)
{
    ssize_t n;

    do
        n = readv(c->fd, iov, (int)count);
    while (n < 0 && errno == EINTR);
    if (n < 0 && errno != EAGAIN)
        return 0; /* reset: nothing will come any more */
    return n < 0 ? -EAGAIN : n;
}

/* "CONNECT <port>", NUL-terminated. */
static bool parse_greeting(const char *line, uint32_t *port)
{
    static const char word[] = "CONNECT ";
    uint64_t n;

    if (strncmp(line, word, strlen(word)) != 0 ||
        parse_u64(line + strlen(word), VMADDR_PORT_ANY - UINT64_C(1), &n) < 0)
        return false;
    *port = (uint32_t)n;
    return true;
}

/* Looks whether the line is whole, and takes no byte that comes after it: those are the guest's. */
static void read_greeting(struct vsock_conn *c, bool has_ended)
{
    char line[GREETING_MAX];
    uint32_t port;
    ssize_t n = recv(c->fd, line, sizeof(line), MSG_PEEK);
    char *end = n > 0 ? memchr(line, '\n', (size_t)n) : NULL;

    if (end == NULL) {
        bool may_come = n < 0 ? errno == EAGAIN || errno == EINTR : n < GREETING_MAX;
        if (!may_come || has_ended)
            vsock_conn_destroy(c);
        return;
    }
    (void)!recv(c->fd, line, (size_t)(end - line) + 1, 0); /* it is there, we saw it */
    *end = '\0';
    if (parse_greeting(line, &port))
        vsock_ask(c, port);
    else
        vsock_conn_destroy(c);
}

static void on_event(void *ctx, uint32_t events)
{
    struct vsock_conn *c = ctx;

    (void)vsock_settle(c->d);
    if (c->fd >= 0 && (events & EPOLLOUT))
        flush(c);
    if (c->fd >= 0 && c->state == VSOCK_GREETING) {
        read_greeting(c, events & (EPOLLRDHUP | EPOLLHUP));
    } else if (c->fd >= 0 && (events & ~(uint32_t)EPOLLOUT)) {
        c->is_readable = true;
        vsock_offer_data(c);
    }
    if (c->fd >= 0 && (events & (EPOLLHUP | EPOLLERR)))
        vsock_host_gone(c);
}

/* --- coming and going --- */

int vsock_dial(const struct vsock *d, uint32_t port)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    if (fd < 0)
        return -errno;
    (void)snprintf(addr.sun_path, sizeof(addr.sun_path), "%s_%u", d->path, port); /* it fits */
    /* At once, or not at all: with a full backlog it fails with EAGAIN. */
    if (connect(fd, (const struct sockaddr *)&addr, sizeof(addr)) < 0) {
        int rc = -errno;
        fd_close(&fd);
        return rc;
    }
    return fd;
}

static void set_deaf(struct vsock *d, bool deaf)
{
    (void)!loop_change(d->loop, d->listener, deaf ? 0 : EPOLLIN); /* it is watched: cannot fail */
    if (deaf)
        timer_set(&d->hear, DEAF_NS);
}

void vsock_on_hear(void *ctx)
{
    set_deaf(ctx, false);
}

/* One at a time: if there are more, we are called again. */
static void on_caller(void *ctx, uint32_t events)
{
    struct vsock *d = ctx;
    int fd = accept4(d->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

    (void)events;
    (void)vsock_settle(d);
    if (fd >= 0) {
        if (vsock_conn_create(d, fd, VSOCK_GREETING) == NULL)
            vsock_count(&d->refused);
    } else if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED) {
        set_deaf(d, true); /* EMFILE, ENFILE, ENOMEM, … */
    }
}

int virtio_vsock_listen(const char *path, int *out, struct error *err)
{
    if (*path == '\0' || strlen(path) > PATH_LEN_MAX)
        return error_set(err, -ENAMETOOLONG, "%s: the path of a vsock has 1 to %zu characters",
                         path, PATH_LEN_MAX);
    int fd = listen_unix(path, err);
    if (fd < 0)
        return fd;
    *out = fd;
    return 0;
}

int vsock_listen_on(struct vsock *d)
{
    return loop_add(d->loop, d->listener, EPOLLIN, on_caller, d);
}
