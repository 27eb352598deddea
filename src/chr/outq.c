#include "chr/outq_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "chr/chr_priv.h"
#include "hv/base/fd.h"

/*
 * A second, non-blocking way to the same terminal or pipe. O_NONBLOCK belongs to the open file,
 * which descriptors 0 to 2 share with the shell that started us: setting it there would break the
 * shell, so we open the file anew. Returns -1 where that is impossible (a socket, a terminal that
 * is not ours) or pointless (a regular file, whose position we would lose, never blocks).
 */
static int open_nonblocking(int fd)
{
    char path[32];
    struct stat st;

    if (fstat(fd, &st) < 0 || !(S_ISFIFO(st.st_mode) || isatty(fd)))
        return -1;
    (void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    return open(path, O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
}

void outq_init(struct outq *q, struct chr *chr, int fd, int stall_ms)
{
    int flags = fcntl(fd, F_GETFL);

    q->chr = chr;
    q->nonblock = flags >= 0 && (flags & O_NONBLOCK);
    q->own_fd = q->nonblock ? -1 : open_nonblocking(fd);
    if (q->own_fd >= 0)
        q->nonblock = true;
    q->fd = q->own_fd >= 0 ? q->own_fd : fd;
    q->stall_ms = stall_ms;
    (void)pthread_mutex_init(&q->lock, NULL); /* cannot fail on Linux */
    q->stalled = q->waiting = q->hungry = false;
    q->head = q->used = 0;
}

void outq_fini(struct outq *q)
{
    chr_count_dropped(q->chr, q->used);
    fd_close(&q->own_fd);
    (void)pthread_mutex_destroy(&q->lock); /* fails only for a locked mutex: a bug of ours */
}

/* Waits until fd takes bytes, or reports an error, which the next write will see. */
static bool wait_writable(int fd, int timeout_ms)
{
    struct pollfd p = {.fd = fd, .events = POLLOUT};
    uint64_t start = timeout_ms > 0 ? now_ns() : 0;
    int left = timeout_ms;

    for (;;) {
        int n = poll(&p, 1, left);

        if (n >= 0 || errno != EINTR)
            return n > 0;
        uint64_t passed_ms = timeout_ms > 0 ? (now_ns() - start) / 1000000 : 0;
        left = passed_ms < (uint64_t)timeout_ms ? timeout_ms - (int)passed_ms : 0;
    }
}

/* The bytes written, or -errno; -EAGAIN: it would block. */
static ssize_t write_some(const struct outq *q, const void *data, size_t len)
{
    ssize_t n;

    if (!q->nonblock) {
        /* A pipe or socket that is writable takes PIPE_BUF bytes without blocking. */
        if (!wait_writable(q->fd, 0))
            return -EAGAIN;
        if (len > PIPE_BUF)
            len = PIPE_BUF;
    }
    do
        n = write(q->fd, data, len);
    while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : n;
}

/* Output has ended: nobody will read what is left. */
static void fail_locked(struct outq *q, int err)
{
    chr_set_error(q->chr, err);
    chr_count_dropped(q->chr, q->used);
    q->head = q->used = 0;
}

/* Writes from the ring until it is empty or the descriptor would block. */
static void drain_locked(struct outq *q)
{
    while (q->used > 0) {
        size_t to_end = CHR_OUTPUT_MAX - q->head;
        ssize_t n = write_some(q, q->ring + q->head, q->used < to_end ? q->used : to_end);

        if (n == -EAGAIN)
            return;
        if (n < 0) {
            fail_locked(q, (int)n);
            return;
        }
        q->head = (q->head + (size_t)n) % CHR_OUTPUT_MAX;
        q->used -= (size_t)n;
        q->stalled = false;
    }
}

/* Copies what fits into the ring; returns how much that was. */
static size_t append_locked(struct outq *q, const uint8_t *data, size_t len)
{
    size_t room = CHR_OUTPUT_MAX - q->used;
    size_t tail = (q->head + q->used) % CHR_OUTPUT_MAX;
    size_t to_end = CHR_OUTPUT_MAX - tail;

    if (len > room)
        len = room;
    size_t first = len < to_end ? len : to_end;
    memcpy(q->ring + tail, data, first);
    memcpy(q->ring, data + first, len - first);
    q->used += len;
    return len;
}

/*
 * Waits for the other side, unless it has shown that it does not move. Every wait counts as a stall
 * until drain_locked() has moved a byte: a terminal may well be called writable and take nothing.
 * The lock stays held: who wants it has output for the same descriptor, and must wait as well.
 */
static bool wait_for_progress_locked(struct outq *q)
{
    if (q->stall_ms == 0 || q->stalled)
        return false;
    q->stalled = true;
    return wait_writable(q->fd, q->stall_ms);
}

ssize_t outq_put(struct outq *q, const void *data, size_t len, bool *wake)
{
    const uint8_t *bytes = data;
    size_t taken = 0;

    pthread_mutex_lock(&q->lock);
    do {
        taken += append_locked(q, bytes + taken, len - taken);
        drain_locked(q);
    } while (taken < len && !chr_error(q->chr) && wait_for_progress_locked(q));
    *wake = q->used > 0 && !q->waiting;
    q->waiting = q->used > 0;
    pthread_mutex_unlock(&q->lock);
    return (ssize_t)taken;
}

ssize_t outq_offer(struct outq *q, const void *data, size_t len, bool *wake)
{
    const uint8_t *bytes = data;
    size_t taken = 0, n;

    pthread_mutex_lock(&q->lock);
    do {
        n = append_locked(q, bytes + taken, len - taken);
        taken += n;
        drain_locked(q);
    } while (n > 0 && taken < len);
    if (taken < len)
        q->hungry = true;
    *wake = q->hungry || (q->used > 0 && !q->waiting);
    q->waiting = q->used > 0;
    pthread_mutex_unlock(&q->lock);
    return (ssize_t)taken;
}

bool outq_feed(struct outq *q)
{
    pthread_mutex_lock(&q->lock);
    bool now = q->hungry && q->used <= CHR_OUTPUT_MAX / 2;
    if (now)
        q->hungry = false;
    pthread_mutex_unlock(&q->lock);
    return now;
}

bool outq_flush(struct outq *q)
{
    pthread_mutex_lock(&q->lock);
    drain_locked(q);
    bool left = q->waiting = q->used > 0;
    pthread_mutex_unlock(&q->lock);
    return left;
}

void outq_finish(struct outq *q)
{
    pthread_mutex_lock(&q->lock);
    do
        drain_locked(q);
    while (q->used > 0 && wait_for_progress_locked(q));
    pthread_mutex_unlock(&q->lock);
}
