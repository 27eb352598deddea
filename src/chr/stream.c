#include "chr/stream_priv.h"

#include <errno.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "chr/chr_priv.h"
#include "hv/base/fd.h"
#include "hv/base/num.h"
#include "hv/base/todo.h"

#define CTRL_A 0x01
#define READ_MAX 256 /* bytes at a time */

static void on_readable(void *ctx, uint32_t events);
static void on_writable(void *ctx, uint32_t events);

/* Makes the loop's thread look at the stream. */
static void wake_loop_thread(struct stream *s)
{
    uint64_t one = 1;

    (void)!write(s->wake_fd, &one, sizeof(one)); /* EAGAIN: it is about to look anyway */
}

/* --- Output --- */

/* Watches for room while something is left. */
static void watch_output(struct stream *s, bool left)
{
    if (left == s->out_watched)
        return;
    s->out_watched = left;
    if (!left)
        loop_remove(s->loop, s->out.fd);
    else if (loop_add(s->loop, s->out.fd, EPOLLOUT, on_writable, s) < 0)
        s->out_watched = false; /* no memory for a watch: the next write flushes */
}

/* Writes what can be written, and tells the device if it waits for that. */
static void push_output(struct stream *s)
{
    watch_output(s, outq_flush(&s->out));
    if (outq_feed(&s->out) && s->chr.front.writable)
        s->chr.front.writable(s->chr.front.ctx);
}

static void on_writable(void *ctx, uint32_t events)
{
    (void)events; /* an error shows in write() */
    push_output(ctx);
}

ssize_t stream_write(struct chr *chr, const void *data, size_t len)
{
    struct stream *s = container_of(chr, struct stream, chr);
    bool wake;
    ssize_t n = outq_put(&s->out, data, len, &wake);

    if (wake)
        wake_loop_thread(s);
    return n;
}

ssize_t stream_offer(struct chr *chr, const void *data, size_t len)
{
    struct stream *s = container_of(chr, struct stream, chr);
    bool wake;
    ssize_t n = outq_offer(&s->out, data, len, &wake);

    if (wake)
        wake_loop_thread(s);
    return n;
}

void stream_flush(struct chr *chr)
{
    outq_finish(&container_of(chr, struct stream, chr)->out);
}

/* --- Input --- */

static void unwatch_input(struct stream *s)
{
    if (s->in_watched)
        loop_remove(s->loop, s->in_fd);
    s->in_watched = false;
}

static void end_input(struct stream *s)
{
    unwatch_input(s);
    s->in_fd = -1;
}

static void read_ahead(struct stream *s, uint8_t byte)
{
    if (s->ahead_first + s->ahead_len == CHR_TYPED_MAX) {
        memmove(s->ahead, s->ahead + s->ahead_first, s->ahead_len);
        s->ahead_first = 0;
    }
    if (s->ahead_len < CHR_TYPED_MAX) /* else a terminal's user types to a deaf guest */
        s->ahead[s->ahead_first + s->ahead_len++] = byte;
}

/* One character typed: an escape, part of one, or input. */
static void take_byte(struct stream *s, uint8_t byte)
{
    if (!s->escape) {
        read_ahead(s, byte);
    } else if (!s->escaped) {
        if (byte == CTRL_A)
            s->escaped = true;
        else
            read_ahead(s, byte);
    } else {
        s->escaped = false;
        if (byte == CTRL_A || byte == 'a')
            read_ahead(s, CTRL_A);
        else
            s->escape(s->escape_ctx, (char)byte);
    }
}

/* How much to read now. */
static size_t want_bytes(const struct stream *s)
{
    size_t room = s->in_always ? READ_MAX : CHR_AHEAD_MAX - s->ahead_len;

    return room < READ_MAX ? room : READ_MAX;
}

static void read_input(struct stream *s)
{
    uint8_t buf[READ_MAX];
    ssize_t n = read(s->in_fd, buf, want_bytes(s));

    if (n < 0 && (errno == EINTR || errno == EAGAIN))
        return;
    if (n <= 0) { /* end of file, or a terminal that went away */
        end_input(s);
        return;
    }
    for (ssize_t i = 0; i < n; i++)
        take_byte(s, buf[i]);
}

/* EXERCISE 4.8: no key is lost. front_room(): how many bytes the device takes now, 0 where none is
 * attached. When it has no room, the loop's thread goes to sleep, and it is a vCPU's thread that
 * makes room and calls chr_resume(): see stream_resume() below, which wakes only who said
 * `starved`. Between the question and that word there may be room already, and the wake has gone
 * unheard. deliver_input(): gives the device the bytes that were read ahead, in their order, never
 * more than it has room for, until there are no more of them or no more room. What it does not take
 * waits at ahead + ahead_first; when nothing waits, ahead_first is 0. */
// SOLUTION 4.8
static size_t ask_room(const struct stream *s)
{
    return s->chr.front.room ? s->chr.front.room(s->chr.front.ctx) : 0;
}

/* The device's room. If it has none, chr_resume() will wake us. */
static size_t front_room(struct stream *s)
{
    size_t room = ask_room(s);

    if (room > 0)
        return room;
    atomic_store(&s->starved, true);
    return ask_room(s); /* it may have made room before it could see `starved` */
}

/* Gives the device what was read ahead, as far as it has room. */
static void deliver_input(struct stream *s)
{
    size_t room;

    while (s->ahead_len > 0 && (room = front_room(s)) > 0) {
        size_t n = room < s->ahead_len ? room : s->ahead_len;

        s->chr.front.input(s->chr.front.ctx, s->ahead + s->ahead_first, n);
        s->ahead_len -= n;
        s->ahead_first = s->ahead_len > 0 ? s->ahead_first + n : 0;
    }
}
// ELSE
// static size_t front_room(struct stream *s)
// {
//     (void)todo("4.8");
//     return 0;
// }
//
// static void deliver_input(struct stream *s)
// {
//     (void)front_room(s);
// }
// END 4.8

/* Reads a file that is always readable for as long as the device takes its bytes. */
static void pull_always_readable(struct stream *s)
{
    while (s->in_fd >= 0 && s->ahead_len == 0 && front_room(s) > 0) {
        read_input(s);
        deliver_input(s);
    }
}

/* Watches for input exactly while it is wanted: a watch that nobody serves would spin. */
static void watch_input(struct stream *s)
{
    bool want = s->in_always || (s->chr.front.room && s->ahead_len < CHR_AHEAD_MAX);

    if (want == s->in_watched)
        return;
    if (!want)
        unwatch_input(s);
    else if (loop_add(s->loop, s->in_fd, EPOLLIN, on_readable, s) < 0)
        end_input(s);
    else
        s->in_watched = true;
}

static void pull_input(struct stream *s)
{
    deliver_input(s);
    if (s->in_fd < 0)
        return;
    if (s->in_polled)
        watch_input(s);
    else
        pull_always_readable(s);
}

static void on_readable(void *ctx, uint32_t events)
{
    struct stream *s = ctx;

    (void)events; /* a hang-up shows in read(), after the bytes that came before it */
    read_input(s);
    pull_input(s);
}

void stream_resume(struct chr *chr)
{
    struct stream *s = container_of(chr, struct stream, chr);

    /* Devices call this for every byte their guest reads: wake the loop only if it waits. */
    if (atomic_exchange(&s->starved, false))
        wake_loop_thread(s);
}

static void on_wake(void *ctx, uint32_t events)
{
    struct stream *s = ctx;
    uint64_t n;

    (void)events;
    (void)!read(s->wake_fd, &n, sizeof(n)); /* empties the eventfd */
    push_output(s);
    pull_input(s);
}

/* --- Life --- */

/* Finds out whether epoll takes the descriptor. */
static int probe_input(struct stream *s)
{
    if (s->in_fd < 0)
        return 0;
    int err = loop_add(s->loop, s->in_fd, EPOLLIN, on_readable, s);
    if (err && err != -EPERM)
        return err;
    s->in_polled = err == 0;
    loop_remove(s->loop, s->in_fd);
    return 0;
}

int stream_init(struct stream *s, const struct chr_ops *ops, struct loop *loop, int in_fd,
                int out_fd, int stall_ms)
{
    int err;

    chr_init(&s->chr, ops);
    s->loop = loop;
    s->in_fd = in_fd;
    atomic_init(&s->starved, true); /* until a device is attached */
    s->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (s->wake_fd < 0)
        return -errno;
    err = probe_input(s);
    if (err)
        goto fail;
    err = loop_add(loop, s->wake_fd, EPOLLIN, on_wake, s);
    if (err)
        goto fail;
    outq_init(&s->out, &s->chr, out_fd, stall_ms);
    return 0;
fail:
    fd_close(&s->wake_fd);
    return err;
}

void stream_fini(struct stream *s)
{
    unwatch_input(s);
    if (s->out_watched)
        loop_remove(s->loop, s->out.fd);
    loop_remove(s->loop, s->wake_fd);
    fd_close(&s->wake_fd);
    outq_fini(&s->out);
}

void stream_set_escape(struct stream *s, chr_escape_fn *escape, void *ctx)
{
    s->escape = escape;
    s->escape_ctx = ctx;
    s->in_always = escape && s->in_polled && isatty(s->in_fd);
    if (s->in_always)
        watch_input(s);
}
