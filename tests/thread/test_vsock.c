/*
 * A socket device that is reset again and again by its driver, on one thread, while another serves
 * it and a third makes calls: connections are the loop's alone, whoever wants them gone. Every
 * driver has its packets served, and in the end nothing is left.
 */
#include <endian.h>
#include <linux/virtio_vsock.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "crew.h"
#include "hv/base/iothread.h"
#include "hv/virtio/vsock.h"

#define ROUNDS 2000
#define CALLS 4000
#define RAM 0x40000
#define STRIDE 0x4000 /* from one queue to the next */
#define AVAIL 0x2000
#define USED 0x3000
#define BUFFERS 0x20000
#define BUFFER 256 /* bytes */
#define RECEIVES 32
#define CID 3
#define PORT 1000

struct rig {
    struct mem mem;
    struct iothread *thread;
    struct virtio_dev *v;
    char directory[32], path[64];
    int listener; /* at path_PORT */
};

static struct sockaddr_un address(const char *path)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};

    (void)snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", path);
    return addr;
}

/* --- programs on the host --- */

/* Calls, some of them whole, and takes what calls come. */
static void call(void *ctx, unsigned index)
{
    struct rig *r = ctx;
    const struct sockaddr_un addr = address(r->path);

    (void)index;
    for (unsigned i = 0; i < CALLS; i++) {
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
        CHECK(fd >= 0);
        if (connect(fd, (const struct sockaddr *)&addr, sizeof(addr)) == 0)
            (void)!send(fd, "CONNECT 52\ntext", i % 16, MSG_NOSIGNAL);
        int other = accept4(r->listener, NULL, NULL, SOCK_NONBLOCK);
        if (other >= 0) {
            (void)!send(other, "text", 4, MSG_NOSIGNAL);
            (void)close(other);
        }
        (void)close(fd);
        struct virtio_vsock_stats stats;
        virtio_vsock_stats(r->v, &stats);
        CHECK(stats.connections <= VIRTIO_VSOCK_CONNECTIONS);
    }
}

/* --- the driver --- */

static void *at(struct rig *r, uint64_t gpa)
{
    void *p = mem_ptr(&r->mem, gpa, 1, true);

    CHECK(p != NULL);
    return p;
}

static void place(struct rig *r, unsigned index)
{
    struct virtio_queue *q = virtio_queue(r->v, index);
    uint64_t base = (uint64_t)index * STRIDE;

    CHECK(mem_zero(&r->mem, base, STRIDE) == 0);
    q->vq.at = (struct vq_layout){q->vq.size_max < 64 ? 16 : 64, base, base + AVAIL, base + USED};
    virtio_enable_queue(q);
    CHECK(q->vq.enabled);
}

static void offer(struct rig *r, unsigned queue, uint16_t index, uint64_t gpa, uint16_t flags)
{
    struct vring_desc *desc = at(r, (uint64_t)queue * STRIDE);
    struct vring_avail *avail = at(r, (uint64_t)queue * STRIDE + AVAIL);

    desc[index] =
        (struct vring_desc){gpa, flags ? BUFFER : sizeof(struct virtio_vsock_hdr), flags, 0};
    avail->ring[index] = index;
    __atomic_store_n(&avail->idx, (uint16_t)(index + 1), __ATOMIC_SEQ_CST);
}

static void send_packet(struct rig *r, uint16_t index, uint16_t op)
{
    uint64_t gpa = BUFFERS + (uint64_t)(RECEIVES + index) * BUFFER;
    const struct virtio_vsock_hdr h = {
        .src_cid = htole64(CID),
        .dst_cid = htole64(2),
        .src_port = htole32(52),
        .dst_port = htole32(PORT),
        .type = htole16(VIRTIO_VSOCK_TYPE_STREAM),
        .op = htole16(op),
        .buf_alloc = htole32(4096),
    };

    CHECK(mem_write(&r->mem, gpa, &h, sizeof(h)) == 0);
    offer(r, 1, index, gpa, 0);
    virtio_kick(virtio_queue(r->v, 1));
}

static void come_up(struct rig *r)
{
    uint8_t status = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER;

    virtio_set_status(r->v, 0);
    virtio_set_status(r->v, status);
    virtio_accept(r->v, 1, 1U << (VIRTIO_F_VERSION_1 - 32));
    virtio_set_status(r->v, status |= VIRTIO_CONFIG_S_FEATURES_OK);
    for (unsigned q = 0; q < 3; q++)
        place(r, q);
    virtio_set_status(r->v, status | VIRTIO_CONFIG_S_DRIVER_OK);
    for (uint16_t i = 0; i < RECEIVES; i++)
        offer(r, 0, i, BUFFERS + (uint64_t)i * BUFFER, VRING_DESC_F_WRITE);
    virtio_kick(virtio_queue(r->v, 0));
}

static void drive(void *ctx, unsigned index)
{
    struct rig *r = ctx;
    const struct vring_used *used = at(r, STRIDE + USED);

    (void)index;
    for (unsigned round = 0; round < ROUNDS; round++) {
        come_up(r);
        send_packet(r, 0, VIRTIO_VSOCK_OP_REQUEST);
        send_packet(r, 1, VIRTIO_VSOCK_OP_CREDIT_REQUEST);
        if (round % 2)
            continue; /* a reset with packets on their way */
        send_packet(r, 2, VIRTIO_VSOCK_OP_RST);
        while (__atomic_load_n(&used->idx, __ATOMIC_SEQ_CST) != 3)
            (void)sched_yield();
    }
    virtio_set_status(r->v, 0);
}

/* --- both --- */

static void init(struct rig *r)
{
    struct virtio_vsock_setup setup = {.mem = &r->mem, .cid = CID, .path = r->path};

    strcpy(r->directory, "/tmp/hv-thread-XXXXXX");
    CHECK(mkdtemp(r->directory) != NULL);
    (void)snprintf(r->path, sizeof(r->path), "%s/v", r->directory);
    mem_init(&r->mem);
    CHECK(mem_add(&r->mem, 0, RAM, MEM_RAM, MEM_ANONYMOUS, NULL) == 0);
    CHECK(iothread_create("io", &r->thread) == 0);
    setup.loop = iothread_loop(r->thread);
    CHECK(virtio_vsock_listen(r->path, &setup.listener, NULL) == 0);
    CHECK(virtio_vsock_create("vsock", &setup, &r->v) == 0);
    char served[80];
    (void)snprintf(served, sizeof(served), "%s_%d", r->path, PORT);
    const struct sockaddr_un addr = address(served);
    r->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
    CHECK(bind(r->listener, (const struct sockaddr *)&addr, sizeof(addr)) == 0);
    CHECK(listen(r->listener, 8) == 0);
    CHECK(iothread_start(r->thread) == 0);
}

static void fini(struct rig *r)
{
    char served[80];

    iothread_stop(r->thread);
    virtio_destroy(r->v);
    iothread_destroy(r->thread);
    mem_fini(&r->mem);
    (void)close(r->listener);
    (void)snprintf(served, sizeof(served), "%s_%d", r->path, PORT);
    CHECK(unlink(served) == 0);
    CHECK(rmdir(r->directory) == 0);
}

int main(void)
{
    static struct rig r;
    struct crew crew = {0};
    struct virtio_vsock_stats stats;

    init(&r);
    crew_start(&crew, 1, drive, &r);
    crew_start(&crew, 2, call, &r);
    crew_join(&crew);
    do {
        virtio_vsock_stats(r.v, &stats);
        (void)sched_yield();
    } while (stats.connections > 0);
    CHECK(stats.opened > 0);
    fini(&r);
    return 0;
}
