/*
 * queue_loop: what hv does with a request, alone: no KVM, no guest, no other thread.
 *
 *   queue_loop [MILLISECONDS]     how long each case runs (30)
 *
 * A driver of ours and a device of hv's share 1 MiB of RAM. The driver costs next to nothing: its
 * chains are written once, the available ring as well, since it repeats itself; what it does for a
 * batch is to move one index, and to name the used entry that it waits for. The device is called
 * as its thread calls it, without the notification. So a number is what popping, serving and
 * giving back cost:
 *
 *   echo    a chain of 64 bytes to read and 64 to write, which no device looks at: the queue alone
 *   read    4 KiB of a disk in memory; its answers come from the loop, a system call or three for
 *           each batch
 *   send    a frame of 1,500 bytes to a network that takes everything
 *
 * with descriptors in the ring's table or in a table of their own, with the event index and
 * without, one request at a time or 32. One line for each case, for queues.py to read:
 *
 *   echo direct flags 32 21.9 0.031     ns a request, interrupts a request
 *
 * Exit status: 0; 1 with a line on stderr if a request was lost.
 */
#include <endian.h>
#include <err.h>
#include <errno.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_net.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "hv/base/iothread.h"
#include "hv/base/num.h"
#include "hv/block/block.h"
#include "hv/mem/mem.h"
#include "hv/net/net.h"
#include "hv/virtio/blk.h"
#include "hv/virtio/net.h"

#define RAM_SIZE (1U << 20)
#define DESC_AT 0x1000
#define AVAIL_AT 0x3000
#define USED_AT 0x4000
#define TABLES_AT 0x6000
#define DATA_AT 0x10000

#define QUEUE_SIZE 256 /* as disks and networks have it */
#define CHAINS 32 /* that the driver has; QUEUE_SIZE is a multiple, so the ring repeats itself */
#define PIECES_MAX 3
#define DATA_SIZE 0x2000 /* of a chain's buffers */
#define DISK_SIZE (1U << 20)
#define FRAME 1500

static void check(int rc, const char *what)
{
    if (rc < 0)
        errx(1, "%s: %s", what, strerror(-rc));
}

/* --- the driver --- */

struct piece {
    uint32_t len;
    bool write;
};

struct driver {
    struct mem mem;
    struct vq_layout at;
    struct vring_avail *avail;
    struct vring_used *used;
    uint16_t avail_idx;
    unsigned long interrupts;
};

static void *at(const struct driver *d, uint64_t gpa, uint64_t len)
{
    void *p = mem_ptr(&d->mem, gpa, len, true);

    if (p == NULL)
        errx(1, "there is no memory at %#llx", (unsigned long long)gpa);
    return p;
}

static uint64_t data_at(unsigned chain)
{
    return DATA_AT + (uint64_t)chain * DATA_SIZE;
}

/* One chain's descriptors, from `first` on in `table`. */
static void write_chain(struct vring_desc *table, uint16_t first, uint64_t data,
                        const struct piece *pieces, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        bool last = i == count - 1;
        table[first + i] = (struct vring_desc){
            .addr = htole64(data),
            .len = htole32(pieces[i].len),
            .flags = htole16((uint16_t)((last ? 0 : VRING_DESC_F_NEXT) |
                                        (pieces[i].write ? VRING_DESC_F_WRITE : 0))),
            .next = htole16((uint16_t)(last ? 0 : first + i + 1)),
        };
        data += pieces[i].len;
    }
}

/* All chains, and an available ring that names them over and over. */
static void write_rings(struct driver *d, const struct piece *pieces, unsigned count, bool indirect)
{
    struct vring_desc *desc = at(d, DESC_AT, QUEUE_SIZE * sizeof(*desc));
    struct vring_desc *tables = at(d, TABLES_AT, CHAINS * PIECES_MAX * sizeof(*tables));

    memset(at(d, 0, DATA_AT), 0, DATA_AT);
    for (unsigned i = 0; i < CHAINS; i++) {
        uint16_t first = (uint16_t)(i * PIECES_MAX);
        if (!indirect) {
            write_chain(desc, first, data_at(i), pieces, count);
            continue;
        }
        write_chain(tables + first, 0, data_at(i), pieces, count);
        desc[first] = (struct vring_desc){
            .addr = htole64(TABLES_AT + first * sizeof(*tables)),
            .len = htole32((uint32_t)(count * sizeof(*tables))),
            .flags = htole16(VRING_DESC_F_INDIRECT),
        };
    }
    for (unsigned i = 0; i < QUEUE_SIZE; i++)
        d->avail->ring[i] = htole16((uint16_t)(i % CHAINS * PIECES_MAX));
    d->avail_idx = 0;
    d->interrupts = 0;
}

static void init_driver(struct driver *d)
{
    struct error err;

    *d = (struct driver){.at = {QUEUE_SIZE, DESC_AT, AVAIL_AT, USED_AT}};
    mem_init(&d->mem);
    if (mem_add(&d->mem, 0, RAM_SIZE, MEM_RAM, MEM_ANONYMOUS, &err) < 0)
        errx(1, "%s", err.text);
    d->avail = at(d, AVAIL_AT, sizeof(*d->avail));
    d->used = at(d, USED_AT, sizeof(*d->used));
}

/* Makes `batch` more chains available, and asks to be told of the first one that comes back. */
static void offer(struct driver *d, unsigned batch)
{
    __atomic_store_n(&d->avail->ring[QUEUE_SIZE], htole16(d->avail_idx), __ATOMIC_RELAXED);
    d->avail_idx = (uint16_t)(d->avail_idx + batch);
    __atomic_store_n(&d->avail->idx, htole16(d->avail_idx), __ATOMIC_SEQ_CST);
}

static bool has_all_back(const struct driver *d)
{
    return le16toh(__atomic_load_n(&d->used->idx, __ATOMIC_ACQUIRE)) == d->avail_idx;
}

/* --- the devices --- */

struct bench;

struct kind {
    const char *name;
    struct piece pieces[PIECES_MAX]; /* of a request */
    unsigned piece_count;
    void (*create)(struct bench *b, uint64_t features);
    void (*serve)(struct bench *b); /* what was offered, up to the end */
    void (*destroy)(struct bench *b);
};

struct bench {
    const struct kind *kind;
    struct driver driver;
    struct vq echo;
    struct loop *loop;
    struct virtio_dev *v;
    struct virtio_queue *q; /* of v, the one that is measured */
    struct block *disk;
    struct net *net; /* owned; NULL: none */
};

static void echo_create(struct bench *b, uint64_t features)
{
    vq_init(&b->echo, &b->driver.mem, QUEUE_SIZE);
    b->echo.at = b->driver.at;
    check(vq_enable(&b->echo, features), "a queue");
}

/* The loop that queue.h shows. */
static void echo_serve(struct bench *b)
{
    struct iovec iov[PIECES_MAX];
    struct vq_chain chain = {.iov = iov, .iov_max = PIECES_MAX};

    do {
        vq_mute(&b->echo);
        while (vq_pop(&b->echo, &chain) > 0)
            vq_push(&b->echo, &chain, (uint32_t)chain.in_size);
    } while (vq_unmute(&b->echo));
    b->driver.interrupts += vq_publish(&b->echo);
}

static void echo_destroy(struct bench *b)
{
    vq_reset(&b->echo);
}

static void on_used(void *ctx, unsigned queue)
{
    (void)queue;
    ((struct bench *)ctx)->driver.interrupts++;
}

static void on_config(void *ctx)
{
    (void)ctx;
}

/* §3.1.1, and no more of it than a device needs. */
static void start_device(struct bench *b, unsigned queue, uint64_t features)
{
    const struct virtio_port port = {on_used, on_config, b};
    uint8_t status = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER;

    features |= VIRTIO_FEATURE(VIRTIO_F_VERSION_1);
    virtio_attach(b->v, &port);
    virtio_set_status(b->v, status);
    virtio_accept(b->v, 0, (uint32_t)features);
    virtio_accept(b->v, 1, (uint32_t)(features >> 32));
    virtio_set_status(b->v, status |= VIRTIO_CONFIG_S_FEATURES_OK);
    b->q = virtio_queue(b->v, queue);
    b->q->vq.at = b->driver.at;
    virtio_enable_queue(b->q);
    virtio_set_status(b->v, status | VIRTIO_CONFIG_S_DRIVER_OK);
    if (!b->q->vq.enabled)
        errx(1, "%s: the device did not start", b->kind->name);
}

/* What its thread does when it was notified. */
static void serve_queue(struct bench *b)
{
    pthread_mutex_lock(&b->q->lock);
    b->v->ops->serve(b->v, b->q);
    pthread_mutex_unlock(&b->q->lock);
}

static void read_create(struct bench *b, uint64_t features)
{
    const struct virtio_blk_setup setup = {
        .mem = &b->driver.mem, .loops = &b->loop, .queues = 1, .block = b->disk};

    for (unsigned i = 0; i < CHAINS; i++) {
        struct virtio_blk_outhdr header = {.type = htole32(VIRTIO_BLK_T_IN),
                                           .sector = htole64(i * (uint64_t)4096 / BLOCK_SECTOR)};
        memcpy(at(&b->driver, data_at(i), sizeof(header)), &header, sizeof(header));
    }
    check(virtio_blk_create("disk", &setup, &b->v), "a disk");
    start_device(b, 0, features);
}

static void read_serve(struct bench *b)
{
    serve_queue(b);
    while (!has_all_back(&b->driver))
        check(loop_run_once(b->loop, -1), "the loop");
}

static void send_create(struct bench *b, uint64_t features)
{
    struct virtio_net_pair pair = {.loop = b->loop};
    const struct virtio_net_setup setup = {.mem = &b->driver.mem, .pairs = &pair, .pair_count = 1};

    for (unsigned i = 0; i < CHAINS; i++) /* a header that asks for nothing */
        memset(at(&b->driver, data_at(i), DATA_SIZE), 0, DATA_SIZE);
    check(net_nowhere_create(&b->net), "a cable that leads nowhere");
    pair.net = b->net;
    check(virtio_net_create("net", &setup, &b->v), "a network");
    start_device(b, 1, features);
}

static void destroy_device(struct bench *b)
{
    virtio_set_status(b->v, 0);
    virtio_destroy(b->v);
    net_destroy(b->net);
    b->net = NULL;
}

static const struct kind kinds[] = {
    {"echo", {{64, false}, {64, true}}, 2, echo_create, echo_serve, echo_destroy},
    {"read",
     {{sizeof(struct virtio_blk_outhdr), false}, {4096, true}, {1, true}},
     3,
     read_create,
     read_serve,
     destroy_device},
    {"send",
     {{sizeof(struct virtio_net_hdr_v1), false}, {FRAME, false}},
     2,
     send_create,
     serve_queue,
     destroy_device},
};

/* --- measuring --- */

/* This thread's own time: neighbours slow it down, and are not counted. */
static uint64_t cpu_ns(void)
{
    return thread_cpu_ns(pthread_self());
}

static void run_batch(struct bench *b, unsigned batch)
{
    offer(&b->driver, batch);
    b->kind->serve(b);
    if (!has_all_back(&b->driver))
        errx(1, "%s: not all requests came back", b->kind->name);
}

static void measure(struct bench *b, bool indirect, bool event_idx, unsigned batch, uint64_t ns)
{
    uint64_t requests = 0, start, took, features = 0;

    features |= indirect ? VIRTIO_FEATURE(VIRTIO_RING_F_INDIRECT_DESC) : 0;
    features |= event_idx ? VIRTIO_FEATURE(VIRTIO_RING_F_EVENT_IDX) : 0;
    write_rings(&b->driver, b->kind->pieces, b->kind->piece_count, indirect);
    b->kind->create(b, features);
    for (unsigned i = 0; i < 1000; i++) /* into the caches */
        run_batch(b, batch);
    b->driver.interrupts = 0;
    start = cpu_ns();
    do {
        for (unsigned i = 0; i < 256; i++)
            run_batch(b, batch);
        requests += (uint64_t)256 * batch;
        took = cpu_ns() - start;
    } while (took < ns);
    b->kind->destroy(b);
    (void)printf("%s %s %s %u %.2f %.3f\n", b->kind->name, indirect ? "indirect" : "direct",
                 event_idx ? "event" : "flags", batch, (double)took / (double)requests,
                 (double)b->driver.interrupts / (double)requests);
}

static void run_kind(const struct kind *kind, uint64_t ns)
{
    struct bench b = {.kind = kind};

    init_driver(&b.driver);
    check(loop_create(&b.loop), "a loop");
    check(block_mem_create(DISK_SIZE, &b.disk), "a disk in memory");
    for (unsigned i = 0; i < 8; i++)
        measure(&b, i & 1, i & 2, i & 4 ? 32 : 1, ns);
    block_destroy(b.disk);
    loop_destroy(b.loop);
    mem_fini(&b.driver.mem);
}

int main(int argc, char **argv)
{
    uint64_t ms = argc > 1 ? strtoull(argv[1], NULL, 10) : 30;

    for (unsigned i = 0; i < ARRAY_LEN(kinds); i++)
        run_kind(&kinds[i], ms * 1000000);
    return 0;
}
