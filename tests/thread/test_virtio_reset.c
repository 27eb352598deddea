/*
 * A storm of resets while a disk and a net are at work: one vCPU brings the devices up and resets
 * them, another rings every bell and reads every register, a third rewrites descriptors that are
 * being followed, and the disk answers on its own threads. What nobody may see: an answer after
 * the reset it was waited for in, a hang, or a race.
 *
 * The one who rewrites is not watched by ThreadSanitizer: a guest may do so, and the device only
 * ever reads copies.
 */
#include <linux/virtio_blk.h>
#include <linux/virtio_mmio.h>
#include <linux/virtio_net.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "crew.h"
#include "hv/base/iothread.h"
#include "hv/base/num.h"
#include "hv/virtio/blk.h"
#include "hv/virtio/mmio.h"
#include "hv/virtio/net.h"

#define ROUNDS 600
#define REQUESTS 8 /* that each round leaves in flight */
#define SIZE 16    /* of every queue */
#define RAM 0x100000
#define RINGS 0x10000 /* of a device; DEVICE_STRIDE from one to the next */
#define DEVICE_STRIDE 0x20000
#define QUEUE_STRIDE 0x4000
#define DATA 0x80000

struct target {
    struct device *dev;
    struct virtio_dev *v;
    uint64_t rings;
    unsigned queues;
};

static struct mem mem;
static struct iothread *io;
static struct block *disk;
static struct net *near_end, *far_end;
static struct target targets[2];
static _Atomic bool is_over;
static _Atomic unsigned edges;

static void on_edge(void *ctx, uint32_t gsi, bool level)
{
    (void)ctx;
    (void)gsi;
    atomic_fetch_add(&edges, level);
}

static void set(const struct target *t, uint64_t reg, uint32_t value)
{
    dev_write(t->dev, reg, 4, value);
}

static uint32_t get(const struct target *t, uint64_t reg)
{
    return (uint32_t)dev_read(t->dev, reg, 4);
}

/* --- the driver --- */

static struct vring_avail *avail_of(const struct target *t, unsigned queue)
{
    return mem_ptr(&mem, t->rings + queue * QUEUE_STRIDE + 0x1000, 0x1000, true);
}

static const struct vring_used *used_of(const struct target *t, unsigned queue)
{
    return mem_ptr(&mem, t->rings + queue * QUEUE_STRIDE + 0x2000, 0x1000, false);
}

/* Every descriptor of every queue is a chain by pairs: a header, then a buffer. The device is down:
 * nobody else looks. */
static void write_rings(const struct target *t)
{
    for (unsigned q = 0; q < t->queues; q++) {
        uint64_t base = t->rings + q * QUEUE_STRIDE;
        CHECK(mem_zero(&mem, base, 0x3000) == 0);
        for (unsigned i = 0; i < SIZE; i++) {
            bool receives = t->queues > 1 && q == 0;
            const struct vring_desc d = {
                .addr = DATA + i * 0x1000U,
                .len = i % 2 || receives ? 513 : 16,
                .flags =
                    (uint16_t)((i % 2 ? 0 : VRING_DESC_F_NEXT) |
                               (receives || (i % 2 && t->queues == 1) ? VRING_DESC_F_WRITE : 0)),
                .next = (uint16_t)(i + 1),
            };
            CHECK(mem_write(&mem, base + i * sizeof(d), &d, sizeof(d)) == 0);
        }
    }
}

static void place(const struct target *t, unsigned queue)
{
    uint32_t base = (uint32_t)(t->rings + queue * QUEUE_STRIDE);

    set(t, VIRTIO_MMIO_QUEUE_SEL, queue);
    set(t, VIRTIO_MMIO_QUEUE_NUM, SIZE);
    set(t, VIRTIO_MMIO_QUEUE_DESC_LOW, base);
    set(t, VIRTIO_MMIO_QUEUE_AVAIL_LOW, base + 0x1000);
    set(t, VIRTIO_MMIO_QUEUE_USED_LOW, base + 0x2000);
    set(t, VIRTIO_MMIO_QUEUE_READY, 1);
}

static void reset(const struct target *t)
{
    set(t, VIRTIO_MMIO_STATUS, 0);
    CHECK(get(t, VIRTIO_MMIO_STATUS) == 0);
    for (unsigned q = 0; q < t->queues; q++)
        CHECK(t->v->queues[q].in_flight == 0);
}

static void come_up(const struct target *t)
{
    set(t, VIRTIO_MMIO_STATUS, 3);
    set(t, VIRTIO_MMIO_DRIVER_FEATURES_SEL, 1);
    set(t, VIRTIO_MMIO_DRIVER_FEATURES, 1); /* VERSION_1 alone */
    set(t, VIRTIO_MMIO_STATUS, 0xb);
    CHECK(get(t, VIRTIO_MMIO_STATUS) == 0xb);
    for (unsigned q = 0; q < t->queues; q++)
        place(t, q);
    set(t, VIRTIO_MMIO_STATUS, 0xf);
}

static void offer(const struct target *t, unsigned queue, unsigned count)
{
    struct vring_avail *avail = avail_of(t, queue);
    uint16_t idx = __atomic_load_n(&avail->idx, __ATOMIC_RELAXED);

    for (unsigned i = 0; i < count; i++, idx++)
        __atomic_store_n(&avail->ring[idx % SIZE], (uint16_t)(2 * idx % SIZE), __ATOMIC_RELAXED);
    __atomic_store_n(&avail->idx, idx, __ATOMIC_RELEASE);
    set(t, VIRTIO_MMIO_QUEUE_NOTIFY, queue);
}

static uint16_t used_idx(const struct target *t, unsigned queue)
{
    return __atomic_load_n(&used_of(t, queue)->idx, __ATOMIC_ACQUIRE);
}

/* Mostly the reset comes in the middle; now and then nothing has begun, or something is sure to
 * have: an answer, or the queue is broken by who rewrites it. */
static void let_begin(const struct target *t, unsigned how)
{
    if (how == 15)
        while (used_idx(t, 0) == 0 && !(get(t, VIRTIO_MMIO_STATUS) & VIRTIO_CONFIG_S_NEEDS_RESET))
            sched_yield();
    for (unsigned look = how * 4; look > 0 && used_idx(t, 0) < REQUESTS; look--)
        (void)get(t, VIRTIO_MMIO_STATUS);
}

static void storm(void *ctx, unsigned index)
{
    (void)ctx;
    (void)index;
    for (unsigned round = 0; round < ROUNDS; round++) {
        const struct target *t = &targets[round % 2];
        write_rings(t);
        come_up(t);
        for (unsigned q = 0; q < t->queues; q++)
            offer(t, q, REQUESTS);
        let_begin(t, round / 2 % 16);
        if (round % 3 == 0) { /* one queue alone, the others go on */
            set(t, VIRTIO_MMIO_QUEUE_SEL, 0);
            set(t, VIRTIO_MMIO_QUEUE_READY, 0);
        }
        reset(t);
        uint16_t then = used_idx(t, 0);
        sched_yield();
        CHECK(used_idx(t, 0) == then); /* nothing comes any more */
    }
    atomic_store(&is_over, true);
}

/* --- the others --- */

static void ring_bells(void *ctx, unsigned index)
{
    (void)ctx;
    (void)index;
    for (unsigned i = 0; !atomic_load(&is_over); i++) {
        const struct target *t = &targets[i % 2];
        set(t, VIRTIO_MMIO_QUEUE_NOTIFY, i % 5);
        (void)get(t, i % 0x40 * 4);
        set(t, VIRTIO_MMIO_INTERRUPT_ACK, get(t, VIRTIO_MMIO_INTERRUPT_STATUS));
    }
}

__attribute__((no_sanitize("thread"))) static void rewrite(void *ctx, unsigned index)
{
    uint8_t *bytes[2];

    (void)ctx;
    (void)index;
    for (unsigned i = 0; i < 2; i++)
        bytes[i] = mem_ptr(&mem, targets[i].rings, 16 * SIZE, true);
    for (unsigned i = 0; !atomic_load(&is_over); i++) {
        volatile uint8_t *desc = bytes[i % 2] + i / 2 % SIZE * 16;
        desc[12] = (uint8_t)(desc[12] ^ VRING_DESC_F_NEXT);
        desc[14] = (uint8_t)(i % (SIZE + 2));
        desc[12] = (uint8_t)(desc[12] ^ VRING_DESC_F_NEXT);
    }
}

/* A peer that sends, and takes what comes. */
static void chat(void *ctx, unsigned index)
{
    static uint8_t frame[300], other[4096]; /* the first fits a buffer of the driver's */
    const struct iovec out = {frame, sizeof(frame)}, in = {other, sizeof(other)};

    (void)ctx;
    (void)index;
    memset(frame + sizeof(struct virtio_net_hdr_v1), 0xff, 6);
    while (!atomic_load(&is_over)) {
        (void)net_send(far_end, &out, 1); /* the wire may be full */
        while (net_receive(far_end, &in, 1) > 0)
            ;
    }
}

/* --- afterwards --- */

static void await_used(const struct target *t, unsigned queue)
{
    while (used_idx(t, queue) == 0)
        set(t, VIRTIO_MMIO_QUEUE_NOTIFY, queue);
}

static void check_alive(void)
{
    for (unsigned i = 0; i < 2; i++) {
        reset(&targets[i]);
        write_rings(&targets[i]);
        come_up(&targets[i]);
        offer(&targets[i], targets[i].queues > 1, 1);
        await_used(&targets[i], targets[i].queues > 1);
    }
}

/* --- life --- */

static void create_target(struct target *t, struct virtio_dev *v, unsigned queues, uint64_t rings)
{
    struct irq_line line;

    irq_init(&line, on_edge, NULL, 5);
    *t = (struct target){.v = v, .rings = rings, .queues = queues};
    CHECK(virtio_mmio_create("mmio", v, &line, &t->dev) == 0);
}

/* A disk with threads of its own. */
static void create_disk(void)
{
    char path[64];
    int fd = memfd_create("disk", MFD_CLOEXEC);

    CHECK(fd >= 0 && ftruncate(fd, 1 << 20) == 0);
    (void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    const struct block_raw_config cfg = {.path = path, .no_uring = true};
    CHECK(block_raw_create(&cfg, &disk, NULL) == 0);
    close(fd);
}

static void create_targets(void)
{
    struct loop *loop = iothread_loop(io);
    const struct virtio_blk_setup blk = {.mem = &mem, .block = disk, .loops = &loop, .queues = 1};
    const struct virtio_net_pair pair = {near_end, loop};
    const struct virtio_net_setup net = {.mem = &mem, .pairs = &pair, .pair_count = 1};
    struct virtio_dev *v;

    CHECK(virtio_blk_create("blk", &blk, &v) == 0);
    create_target(&targets[0], v, 1, RINGS);
    CHECK(virtio_net_create("net", &net, &v) == 0);
    create_target(&targets[1], v, 3, RINGS + DEVICE_STRIDE);
}

int main(void)
{
    struct crew crew = {0};

    mem_init(&mem);
    CHECK(mem_add(&mem, 0, RAM, MEM_RAM, MEM_ANONYMOUS, NULL) == 0);
    CHECK(iothread_create("io", &io) == 0);
    CHECK(net_pair_create(&near_end, &far_end) == 0);
    create_disk();
    create_targets();
    CHECK(iothread_start(io) == 0);

    crew_start(&crew, 1, storm, NULL);
    crew_start(&crew, 1, ring_bells, NULL);
    crew_start(&crew, 1, rewrite, NULL);
    crew_start(&crew, 1, chat, NULL);
    crew_join(&crew);
    check_alive();

    for (unsigned i = 0; i < 2; i++)
        reset(&targets[i]);
    iothread_stop(io);
    for (unsigned i = 0; i < 2; i++)
        dev_destroy(targets[i].dev);
    net_destroy(near_end);
    net_destroy(far_end);
    block_destroy(disk);
    iothread_destroy(io);
    mem_fini(&mem);
    return 0;
}
