#include "support/vsock_rig.h"

#include <criterion/criterion.h>
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/vm_sockets.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "hv/base/fd.h"

#define RX 0
#define TX 1
#define RX_DATA 0x80000
#define RX_SLOTS 64
#define RX_STRIDE 0x1800
#define TX_DATA 0xe0000
#define HEADER sizeof(struct virtio_vsock_hdr)

void vsock_rig_init(struct vsock_rig *r)
{
    struct virtio_dev *v = NULL;

    *r = (struct vsock_rig){.buffer = 4096, .alloc = VSOCK_ALLOC};
    virtio_rig_init(&r->rig);
    tmp_init(&r->tmp);
    (void)snprintf(r->path, sizeof(r->path), "%s", tmp_path(&r->tmp, "v"));
    struct virtio_vsock_setup setup = {
        .mem = &r->rig.mem, .loop = r->rig.loop, .cid = VSOCK_CID, .path = r->path};
    cr_assert_eq(virtio_vsock_listen(r->path, &setup.listener, NULL), 0);
    cr_assert_eq(virtio_vsock_create("vsock", &setup, &v), 0);
    virtio_rig_take(&r->rig, v);
    vsock_rig_start(r);
}

void vsock_rig_fini(struct vsock_rig *r)
{
    virtio_rig_fini(&r->rig);
    cr_assert_neq(access(r->path, F_OK), 0); /* the device has taken its socket away */
    tmp_fini(&r->tmp);
}

void vsock_rig_start(struct vsock_rig *r)
{
    r->offered = r->taken = 0;
    virtio_rig_start(&r->rig, UINT64_MAX);
}

/* --- the guest --- */

static uint64_t slot(unsigned n)
{
    return RX_DATA + (uint64_t)(n % RX_SLOTS) * RX_STRIDE;
}

/* As Linux does: the header's buffer, and one for the data. */
void vsock_offer(struct vsock_rig *r, unsigned count)
{
    cr_assert_leq(r->buffer, RX_STRIDE);
    while (count-- > 0) {
        uint64_t at = slot(r->offered++);
        const struct ring_buf bufs[] = {{at, HEADER, true},
                                        {at + HEADER, r->buffer - (uint32_t)HEADER, true}};
        ring_send(&r->rig.rings[RX], bufs, 2);
    }
    virtio_rig_kick(&r->rig, RX);
}

struct virtio_vsock_hdr vsock_make(const struct vsock_rig *r, unsigned op, uint32_t from,
                                   uint32_t to, uint32_t len)
{
    return (struct virtio_vsock_hdr){
        .src_cid = htole64(VSOCK_CID),
        .dst_cid = htole64(VMADDR_CID_HOST),
        .src_port = htole32(from),
        .dst_port = htole32(to),
        .len = htole32(len),
        .type = htole16(VIRTIO_VSOCK_TYPE_STREAM),
        .op = htole16((uint16_t)op),
        .buf_alloc = htole32(r->alloc),
        .fwd_cnt = htole32(r->forwarded),
    };
}

void vsock_send_header(struct vsock_rig *r, const struct virtio_vsock_hdr *h, const void *data,
                       uint32_t len)
{
    const struct ring_buf bufs[] = {{TX_DATA, HEADER, false}, {TX_DATA + HEADER, len, false}};
    struct vring_used_elem used = {.len = UINT32_MAX};

    cr_assert_eq(mem_write(&r->rig.mem, TX_DATA, h, HEADER), 0);
    if (len > 0)
        cr_assert_eq(mem_write(&r->rig.mem, TX_DATA + HEADER, data, len), 0);
    ring_send(&r->rig.rings[TX], bufs, len > 0 ? 2 : 1);
    virtio_rig_kick(&r->rig, TX);
    cr_assert(ring_take_used(&r->rig.rings[TX], &used));
    cr_assert_eq(used.len, 0);
}

void vsock_send(struct vsock_rig *r, unsigned op, uint32_t from, uint32_t to, const void *data,
                uint32_t len)
{
    const struct virtio_vsock_hdr h = vsock_make(r, op, from, to, len);

    vsock_send_header(r, &h, data, len);
}

void vsock_send_flags(struct vsock_rig *r, unsigned op, uint32_t from, uint32_t to, uint32_t flags)
{
    struct virtio_vsock_hdr h = vsock_make(r, op, from, to, 0);

    h.flags = htole32(flags);
    vsock_send_header(r, &h, NULL, 0);
}

bool vsock_receive_any(struct vsock_rig *r, struct vsock_got *out)
{
    struct vring_used_elem used;

    virtio_rig_work(&r->rig);
    if (!ring_take_used(&r->rig.rings[RX], &used))
        return false;
    uint64_t at = slot(r->taken++);
    cr_assert_eq(mem_read(&r->rig.mem, at, &out->h, HEADER), 0);
    cr_assert_eq(used.len, HEADER + le32toh(out->h.len));
    cr_assert_eq(le64toh(out->h.src_cid), VMADDR_CID_HOST);
    cr_assert_eq(le64toh(out->h.dst_cid), VSOCK_CID);
    out->data = mem_ptr(&r->rig.mem, at + HEADER, le32toh(out->h.len), false);
    return true;
}

struct vsock_got vsock_expect(struct vsock_rig *r, unsigned op)
{
    struct vsock_got got = {0};

    cr_assert(vsock_receive_any(r, &got), "operation %u has not come", op);
    cr_assert_eq(le16toh(got.h.op), op, "%u has come, not %u", le16toh(got.h.op), op);
    return got;
}

void vsock_expect_nothing(struct vsock_rig *r)
{
    struct vsock_got got = {0};

    cr_assert_not(vsock_receive_any(r, &got), "operation %u has come", le16toh(got.h.op));
}

struct virtio_vsock_stats vsock_rig_stats(const struct vsock_rig *r)
{
    struct virtio_vsock_stats stats;

    virtio_vsock_stats(r->rig.v, &stats);
    return stats;
}

/* --- the host --- */

static int unix_socket(const char *path, struct sockaddr_un *addr)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    *addr = (struct sockaddr_un){.sun_family = AF_UNIX};
    (void)snprintf(addr->sun_path, sizeof(addr->sun_path), "%s", path);
    cr_assert_geq(fd, 0);
    return fd;
}

int vsock_serve_port(struct vsock_rig *r, uint32_t port)
{
    char name[32];
    struct sockaddr_un addr;

    (void)snprintf(name, sizeof(name), "v_%u", port);
    int fd = unix_socket(tmp_path(&r->tmp, name), &addr);
    cr_assert_eq(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
    cr_assert_eq(listen(fd, 300), 0);
    return fd;
}

int vsock_call(struct vsock_rig *r)
{
    struct sockaddr_un addr;
    int fd = unix_socket(r->path, &addr);

    cr_assert_eq(connect(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
    return fd;
}

void vsock_say(int fd, const char *text)
{
    cr_assert_eq(fd_write_full(fd, text, strlen(text)), 0);
}

void vsock_hear(int fd, const char *text)
{
    char heard[256];
    ssize_t n = recv(fd, heard, sizeof(heard) - 1, MSG_DONTWAIT);

    cr_assert_geq(n, 0);
    heard[n] = '\0';
    cr_assert_str_eq(heard, text);
}

bool vsock_has_ended(int fd)
{
    char byte;
    ssize_t n = recv(fd, &byte, 1, MSG_DONTWAIT);

    return n == 0 || (n < 0 && errno == ECONNRESET);
}

/* --- both --- */

int vsock_connect_out(struct vsock_rig *r, uint32_t from, uint32_t port)
{
    int listener = vsock_serve_port(r, port);

    vsock_send(r, VIRTIO_VSOCK_OP_REQUEST, from, port, NULL, 0);
    int fd = accept(listener, NULL, NULL);
    cr_assert_geq(fd, 0);
    fd_close(&listener);
    struct vsock_got got = vsock_expect(r, VIRTIO_VSOCK_OP_RESPONSE);
    cr_assert_eq(le32toh(got.h.src_port), port);
    cr_assert_eq(le32toh(got.h.dst_port), from);
    return fd;
}

int vsock_connect_in(struct vsock_rig *r, uint32_t port, uint32_t *host_port)
{
    char line[32];
    int fd = vsock_call(r);

    (void)snprintf(line, sizeof(line), "CONNECT %u\n", port);
    vsock_say(fd, line);
    struct vsock_got got = vsock_expect(r, VIRTIO_VSOCK_OP_REQUEST);
    cr_assert_eq(le32toh(got.h.dst_port), port);
    *host_port = le32toh(got.h.src_port);
    vsock_send(r, VIRTIO_VSOCK_OP_RESPONSE, port, *host_port, NULL, 0);
    virtio_rig_work(&r->rig);
    (void)snprintf(line, sizeof(line), "OK %u\n", *host_port);
    vsock_hear(fd, line);
    return fd;
}
