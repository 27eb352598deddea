/*
 * Any driver of the socket device, and any programs on the host: real sockets, in a directory of
 * their own. Packets are mostly such as a driver sends that knows its connections: for that
 * the target looks into the device. After each event it checks what the device believes of itself.
 */
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#include "fuzz/virtio_harness.h"
#include "hv/base/fd.h"
#include "hv/base/num.h"
#include "virtio/vsock_priv.h"

#define CID 7
#define PROGRAMS 12 /* on the host, of one device */
#define SERVED 2    /* ports of the host's that somebody listens at: from PORT on */
#define PORT 1000
#define CHUNK 4096 /* bytes that a program sends or reads at once */

struct host {
    struct vsock *d;
    int listeners[SERVED];
    int programs[PROGRAMS];
};

static char directory[32]; /* of this input */
static struct host hosts[2];

/* --- paths --- */

static struct sockaddr_un address(unsigned which, unsigned port)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};

    if (port == 0)
        (void)snprintf(addr.sun_path, sizeof(addr.sun_path), "%s/%u", directory, which);
    else
        (void)snprintf(addr.sun_path, sizeof(addr.sun_path), "%s/%u_%u", directory, which, port);
    return addr;
}

static int make_socket(void)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    fuzz_check(fd >= 0);
    return fd;
}

static int serve(unsigned which, unsigned port)
{
    const struct sockaddr_un addr = address(which, port);
    int fd = make_socket();

    fuzz_check(bind(fd, (const struct sockaddr *)&addr, sizeof(addr)) == 0);
    fuzz_check(listen(fd, 2) == 0);
    return fd;
}

/* --- the device --- */

static int create(void *ctx, unsigned which, const struct mem *mem, struct loop *loop,
                  struct virtio_dev **out)
{
    const struct sockaddr_un addr = address(which, 0);
    struct virtio_vsock_setup setup = {.mem = mem, .loop = loop, .cid = CID};
    struct host *host = &hosts[which];

    (void)ctx;
    setup.path = addr.sun_path;
    for (unsigned i = 0; i < SERVED; i++)
        host->listeners[i] = serve(which, PORT + i);
    for (unsigned i = 0; i < PROGRAMS; i++)
        host->programs[i] = -1;
    fuzz_check(virtio_vsock_listen(setup.path, &setup.listener, NULL) == 0);
    int rc = virtio_vsock_create("vsock", &setup, out);
    if (rc == 0)
        host->d = container_of(*out, struct vsock, v);
    return rc;
}

static void destroyed(void *ctx, unsigned which)
{
    struct host *host = &hosts[which];

    (void)ctx;
    for (unsigned i = 0; i < PROGRAMS; i++)
        fd_close(&host->programs[i]);
    for (unsigned i = 0; i < SERVED; i++) {
        fd_close(&host->listeners[i]);
        fuzz_check(unlink(address(which, PORT + i).sun_path) == 0);
    }
    host->d = NULL;
}

static void check_conn(const struct vsock_conn *c)
{
    fuzz_check(c->in.len <= VIRTIO_VSOCK_BUFFER);
    fuzz_check((c->in.bytes != NULL) == (c->in.len > 0));
    fuzz_check((c->due != 0) == c->is_ready);
    fuzz_check(!c->is_ready || c->is_named);
    fuzz_check((c->told_shut & ~c->host_shut) == 0);
    fuzz_check(c->received - c->told_forwarded <= VIRTIO_VSOCK_BUFFER);
    if (c->state == VSOCK_OPEN)
        fuzz_check(c->received - c->forwarded == c->in.len);
    if (c->in.len > 0)
        fuzz_check(c->fd >= 0 && c->wants_room);
    if (c->state == VSOCK_LINGERING)
        fuzz_check(c->in.len > 0 && !c->is_named);
}

static void check_device(const struct vsock *d)
{
    unsigned live = 0;

    for (unsigned i = 0; i < VIRTIO_VSOCK_CONNECTIONS; i++)
        if (d->conns[i].state != VSOCK_FREE) {
            check_conn(&d->conns[i]);
            live++;
        }
    fuzz_check(live == atomic_load(&d->connections));
    fuzz_check(d->reset_count <= VSOCK_RESETS_MAX);
}

/* --- packets --- */

/* A connection that the guest knows of, or NULL. */
static const struct vsock_conn *draw_conn(const struct vsock *d, struct fuzz_input *in)
{
    unsigned first = fuzz_u8(in);

    for (unsigned i = 0; i < 16; i++) {
        const struct vsock_conn *c = &d->conns[(first + i) % 16];
        if (c->state != VSOCK_FREE && c->is_named)
            return c;
    }
    return NULL;
}

/* What a driver would say on this connection. */
static unsigned draw_op(const struct vsock_conn *c, struct fuzz_input *in)
{
    static const uint8_t usual[] = {
        VIRTIO_VSOCK_OP_RW,       VIRTIO_VSOCK_OP_RW,
        VIRTIO_VSOCK_OP_RW,       VIRTIO_VSOCK_OP_CREDIT_UPDATE,
        VIRTIO_VSOCK_OP_SHUTDOWN, VIRTIO_VSOCK_OP_CREDIT_REQUEST,
        VIRTIO_VSOCK_OP_RST,      VIRTIO_VSOCK_OP_CREDIT_UPDATE,
    };
    uint8_t what = fuzz_u8(in);

    if (what >= 0xf0)
        return what & 15;
    if (c == NULL)
        return VIRTIO_VSOCK_OP_REQUEST;
    if (c->state == VSOCK_ASKED)
        return what % 8 == 0 ? VIRTIO_VSOCK_OP_RST : VIRTIO_VSOCK_OP_RESPONSE;
    return usual[what % ARRAY_LEN(usual)];
}

static struct virtio_vsock_hdr draw_header(const struct vsock *d, struct fuzz_input *in,
                                           uint32_t payload)
{
    uint8_t what = fuzz_u8(in);
    const struct vsock_conn *c = what & 3 ? draw_conn(d, in) : NULL;
    uint8_t port = fuzz_u8(in);

    return (struct virtio_vsock_hdr){
        .src_cid = htole64(CID),
        .dst_cid = htole64(2),
        .src_port = htole32(c ? c->guest_port : 50U + port % 4),
        .dst_port = htole32(c ? c->host_port : (uint32_t)PORT + port / 4 % (SERVED + 1)),
        .len = htole32(payload),
        .type = htole16(VIRTIO_VSOCK_TYPE_STREAM),
        .op = htole16((uint16_t)draw_op(c, in)),
        .flags = htole32(what >> 2 & 3),
        .buf_alloc = htole32(what & 0x10 ? 1U << (what >> 5) * 2 : VIRTIO_VSOCK_BUFFER),
        .fwd_cnt = htole32(c ? c->sent - (what & 0x20 ? 0 : port) : 0),
    };
}

static void request(void *ctx, unsigned queue, struct fuzz_input *in, uint8_t *bytes, uint32_t len)
{
    const struct vsock *d = hosts[0].d ? hosts[0].d : hosts[1].d;
    const uint32_t size = VSOCK_HEADER;

    (void)ctx;
    if (queue != VSOCK_TX)
        return;
    struct virtio_vsock_hdr h = draw_header(d, in, len > size ? len - size : 0);
    if (fuzz_u8(in) >= 0xf0)
        ((uint8_t *)&h)[fuzz_u8(in) % size] = fuzz_u8(in);
    memcpy(bytes, &h, len < size ? len : size);
}

/* --- programs --- */

static void call(struct host *host, unsigned which, int *program, struct fuzz_input *in)
{
    static const char *const lines[] = {"CONNECT 52\n",
                                        "CONNECT 53\nand more",
                                        "CONN",
                                        "ECT 54\n",
                                        "CONNECT 4294967295\n",
                                        "GET / HTTP/1.0\r\n\r\nxxxxxxxxxxxxxx",
                                        "CONNECT 0x34\n",
                                        ""};
    const struct sockaddr_un addr = address(which, 0);
    const char *line = lines[fuzz_u8(in) % ARRAY_LEN(lines)];

    (void)host;
    fd_close(program);
    *program = make_socket();
    (void)!connect(*program, (const struct sockaddr *)&addr, sizeof(addr)); /* or it is full */
    (void)!send(*program, line, strlen(line), MSG_NOSIGNAL);
}

static void say(int program, struct fuzz_input *in)
{
    static const uint8_t bytes[CHUNK];

    for (unsigned i = 1U << fuzz_u8(in) % 6; i > 0; i--)
        (void)!send(program, bytes, 1 + (size_t)fuzz_u8(in) % CHUNK, MSG_NOSIGNAL);
}

static void hear(int program, struct fuzz_input *in)
{
    static uint8_t bytes[CHUNK];

    for (unsigned i = 1U << fuzz_u8(in) % 8; i > 0; i--)
        (void)!recv(program, bytes, sizeof(bytes), 0);
}

/* All deadlines have come. */
static void pass_time(struct vsock *d)
{
    for (unsigned i = 0; i < VIRTIO_VSOCK_CONNECTIONS; i++)
        if (d->conns[i].deadline != 0)
            d->conns[i].deadline = 1;
    vsock_on_clock(d);
}

static void event(void *ctx, unsigned which, struct virtio_dev *v, struct fuzz_input *in)
{
    struct host *host = &hosts[which];
    uint8_t what = fuzz_u8(in);
    int *program = &host->programs[(what >> 4) % PROGRAMS];

    (void)ctx;
    (void)v;
    switch (what % 12) {
    case 0:
    case 1:
        call(host, which, program, in);
        break;
    case 2:
    case 3:
        fd_close(program);
        *program = accept4(host->listeners[what >> 7], NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        break;
    case 4:
        fd_close(program);
        break;
    case 5:
        (void)!shutdown(*program, what & 0x80 ? SHUT_WR : SHUT_RD);
        break;
    case 6:
        pass_time(host->d);
        break;
    case 7:
    case 8:
        hear(*program, in);
        break;
    default:
        say(*program, in);
        break;
    }
    check_device(host->d);
}

static void release(void *ctx)
{
    (void)ctx;
    for (unsigned i = 0; i < 2; i++)
        if (hosts[i].d)
            check_device(hosts[i].d);
}

/* --- the target --- */

/* A packet of no connection, which must be answered. */
static void make_probe(uint8_t *out)
{
    const struct virtio_vsock_hdr h = {
        .src_cid = htole64(CID),
        .dst_cid = htole64(2),
        .src_port = htole32(9),
        .dst_port = htole32(9),
        .type = htole16(VIRTIO_VSOCK_TYPE_STREAM),
        .op = htole16(VIRTIO_VSOCK_OP_RW),
    };

    memcpy(out, &h, sizeof(h));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct vfuzz_target target = {
        .create = create,
        .destroyed = destroyed,
        .request = request,
        .event = event,
        .release = release,
        .probe =
            {
                {.queue = VSOCK_TX, .out_len = VSOCK_HEADER},
                {.queue = VSOCK_RX, .in_len = 2048, .written = VSOCK_HEADER},
            },
        /* Buffers are taken when there is something to put into them. */
        .mutes = 1U << VSOCK_RX | 1U << VSOCK_EVENT,
    };

    make_probe(target.probe[0].out);
    strcpy(directory, "/tmp/hv-fuzz-XXXXXX");
    fuzz_check(mkdtemp(directory) != NULL);
    vfuzz_run(&target, data, size);
    fuzz_check(rmdir(directory) == 0); /* everybody has taken their sockets away */
    return 0;
}
