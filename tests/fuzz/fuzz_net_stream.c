/*
 * The framing of a stream socket, against a peer that says anything: what is received is what a
 * reading of all its bytes from the first on gives, up to the first impossible length, and what is
 * sent arrives whole, once, and in order.
 */
#include <endian.h>
#include <errno.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "fuzz/dev_fuzz.h"
#include "hv/base/loop.h"
#include "net/net_priv.h"

#define BYTES_MAX (1U << 20) /* that are kept of either direction */
#define PIECES 4

/* All bytes of one direction. */
struct tape {
    uint8_t bytes[BYTES_MAX];
    size_t written, read;
};

static struct {
    struct net *net;
    struct loop *loop;
    int peer;
    struct tape in, out; /* as the device sees them */
    bool is_over;        /* the peer hung up, or said something impossible */
    unsigned wakes;
} s;

static uint8_t room[NET_FRAME_MAX + 64];

static void on_event(void *ctx)
{
    (void)ctx;
    s.wakes++;
}

/* --- the peer --- */

/* Writes as much as the socket takes. */
static void peer_write(const uint8_t *bytes, size_t len)
{
    if (s.in.written + len > BYTES_MAX)
        return;
    ssize_t n = send(s.peer, bytes, len, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n <= 0)
        return;
    memcpy(s.in.bytes + s.in.written, bytes, (size_t)n);
    s.in.written += (size_t)n;
}

static void peer_read(size_t len)
{
    ssize_t n = recv(s.peer, room, len < sizeof(room) ? len : sizeof(room), MSG_DONTWAIT);

    if (n <= 0)
        return;
    fuzz_check(s.out.read + (size_t)n <= s.out.written);
    fuzz_check(memcmp(s.out.bytes + s.out.read, room, (size_t)n) == 0);
    s.out.read += (size_t)n;
}

static void peer_frame(struct fuzz_input *in)
{
    uint32_t len = (uint32_t)fuzz_u64(in, fuzz_u8(in) % 4), wire = htobe32(len);

    memset(room, fuzz_u8(in), sizeof(room));
    peer_write((uint8_t *)&wire, sizeof(wire));
    if (len <= NET_FRAME_MAX)
        peer_write(room, len);
}

/* --- the device --- */

/* The frame that comes next on the tape. 0: it is not whole; -1: it cannot be. */
static ssize_t expected(void)
{
    uint32_t len;

    if (s.in.written - s.in.read < sizeof(len))
        return 0;
    memcpy(&len, s.in.bytes + s.in.read, sizeof(len));
    len = be32toh(len);
    if (len == 0 || len > NET_FRAME_MAX)
        return -1;
    return s.in.written - s.in.read - sizeof(len) >= len ? (ssize_t)len : 0;
}

static void receive(struct fuzz_input *in)
{
    struct iovec iov[PIECES];
    unsigned count = 1 + fuzz_u8(in) % PIECES;
    size_t total = 0;

    for (unsigned i = 0; i < count; i++) {
        size_t left = sizeof(room) - total, len = fuzz_u64(in, 2) % (left / (count - i) + 1);
        iov[i] = (struct iovec){room + total, len};
        total += len;
    }
    if (fuzz_u8(in) & 1) { /* room for every frame */
        iov[0] = (struct iovec){room, sizeof(room)};
        count = 1;
        total = sizeof(room);
    }
    ssize_t want = expected(), got = net_receive(s.net, iov, count);
    if (want > 0 && got != -ENOTCONN) {
        const uint8_t *frame = s.in.bytes + s.in.read + sizeof(uint32_t);
        fuzz_check(got == ((size_t)want <= total ? want : -EMSGSIZE));
        fuzz_check(got < 0 || memcmp(room, frame, (size_t)got) == 0);
        s.in.read += sizeof(uint32_t) + (size_t)want;
        return;
    }
    fuzz_check(got == -ENOTCONN || (want == 0 && got == -EAGAIN));
    fuzz_check(got != -ENOTCONN || want < 0 || s.is_over);
    s.is_over = s.is_over || got == -ENOTCONN;
}

static void keep_sent(const uint8_t *frame, size_t len)
{
    uint32_t wire = htobe32((uint32_t)len);

    memcpy(s.out.bytes + s.out.written, &wire, sizeof(wire));
    memcpy(s.out.bytes + s.out.written + sizeof(wire), frame, len);
    s.out.written += sizeof(wire) + len;
}

static void transmit(struct fuzz_input *in)
{
    uint8_t what = fuzz_u8(in);
    size_t len = 1 + fuzz_u64(in, what % 4) % sizeof(room), first = len / 3;
    const struct iovec iov[] = {{room, first}, {room + first, 0}, {room + first, len - first}};

    if (s.out.written + sizeof(uint32_t) + len > BYTES_MAX)
        return;
    memset(room, what, len);
    ssize_t sent = net_send(s.net, iov, 3);
    if (sent >= 0) {
        fuzz_check((size_t)sent == len && len <= NET_FRAME_MAX);
        keep_sent(room, len);
        return;
    }
    fuzz_check(sent == -EAGAIN || sent == -ENOTCONN || (sent == -EMSGSIZE && len > NET_FRAME_MAX));
    fuzz_check(sent != -ENOTCONN || s.is_over);
}

static void turn(void)
{
    for (unsigned i = 0; i < 3; i++)
        fuzz_check(loop_run_once(s.loop, 0) == 0);
}

/* A frame that came along with another one is told of, though the socket has nothing more. */
static void check_told(void)
{
    if (s.is_over || expected() <= 0)
        return;
    s.wakes = 0;
    net_listen(s.net, true, false);
    turn();
    fuzz_check(s.wakes > 0);
}

static void hang_up(void)
{
    if (s.peer >= 0)
        close(s.peer);
    s.peer = -1;
    s.is_over = true;
}

static void step(struct fuzz_input *in)
{
    uint8_t what = fuzz_u8(in), bytes[32];

    switch (what % 16) {
    case 0:
    case 1:
    case 2:
        peer_frame(in);
        break;
    case 3:
        for (unsigned i = 0; i < what / 16U; i++)
            bytes[i] = fuzz_u8(in);
        peer_write(bytes, what / 16U);
        break;
    case 4:
    case 5:
        peer_read((size_t)1 << what / 16);
        break;
    case 6:
    case 7:
        transmit(in);
        break;
    case 8:
        net_listen(s.net, what & 0x10, what & 0x20);
        break;
    case 9:
        turn();
        break;
    case 10:
        check_told();
        break;
    case 11:
        if (what >= 0xe0)
            hang_up();
        break;
    default:
        receive(in);
        break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input in = {data, size};
    const struct net_watch watch = {.readable = on_event, .writable = on_event};
    struct net_watch with_loop = watch;
    int fds[2];

    s.in.read = s.in.written = s.out.read = s.out.written = 0;
    s.is_over = false;
    fuzz_check(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) == 0);
    fuzz_check(loop_create(&s.loop) == 0);
    fuzz_check(net_stream_adopt(fds[0], &s.net) == 0);
    s.peer = fds[1];
    with_loop.loop = s.loop;
    fuzz_check(net_watch(s.net, &with_loop) == 0);
    for (unsigned i = 0; in.left > 0 && i < 256; i++)
        step(&in);
    net_destroy(s.net);
    loop_destroy(s.loop);
    if (s.peer >= 0)
        close(s.peer);
    return 0;
}
