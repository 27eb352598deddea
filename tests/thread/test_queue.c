/*
 * A virtqueue between two threads that sleep whenever they may: a driver that asks to be told only
 * of the next used buffer, a device that asks to be told only of the next available one. A wake-up
 * that gets lost is a hang, and tests/run ends it.
 */
#include <linux/virtio_config.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "crew.h"
#include "hv/virtio/queue.h"

#define SIZE 16
#define REQUESTS 100000
#define RAM 0x10000
#define DESC 0x1000
#define AVAIL 0x2000
#define USED 0x3000
#define DATA 0x4000

struct pair {
    struct mem mem;
    struct vq vq;
    bool event_idx;
    int kick; /* driver to device */
    int call; /* device to driver */
    /* The driver's view of the same memory. */
    struct vring_desc *desc;
    struct vring_avail *avail;
    struct vring_used *used;
};

static void wait_on(int fd)
{
    eventfd_t n;

    CHECK(eventfd_read(fd, &n) == 0);
}

static void ring_bell(int fd)
{
    CHECK(eventfd_write(fd, 1) == 0);
}

static __virtio16 *used_event(struct pair *p)
{
    return &p->avail->ring[SIZE];
}

static uint16_t avail_event(struct pair *p)
{
    return __atomic_load_n((__virtio16 *)(void *)&p->used->ring[SIZE], __ATOMIC_SEQ_CST);
}

/* --- the driver --- */

static void offer(struct pair *p, uint16_t index)
{
    uint64_t *number = mem_ptr(&p->mem, DATA + index % SIZE * 8U, 8, true);
    uint16_t before = index;

    *number = index;
    p->desc[index % SIZE] = (struct vring_desc){DATA + index % SIZE * 8U, 8, VRING_DESC_F_WRITE, 0};
    __atomic_store_n(&p->avail->ring[index % SIZE], index % SIZE, __ATOMIC_RELAXED);
    __atomic_store_n(&p->avail->idx, (uint16_t)(index + 1), __ATOMIC_SEQ_CST);
    bool tell = p->event_idx ? avail_event(p) == before
                             : !__atomic_load_n(&p->used->flags, __ATOMIC_SEQ_CST);
    if (tell)
        ring_bell(p->kick);
}

/* Sleeps until the device has used more than `seen`. */
static uint16_t await_used(struct pair *p, uint16_t seen)
{
    for (;;) {
        if (p->event_idx)
            __atomic_store_n(used_event(p), seen, __ATOMIC_SEQ_CST);
        uint16_t now = __atomic_load_n(&p->used->idx, __ATOMIC_SEQ_CST);
        if (now != seen)
            return now;
        wait_on(p->call);
    }
}

static void drive(void *ctx, unsigned index)
{
    struct pair *p = ctx;
    uint16_t seen = 0;
    unsigned offered = 0, done = 0;

    (void)index;
    while (done < REQUESTS) {
        /* Mostly one or two at a time: then each side falls asleep, or nearly, at every request. */
        unsigned window = done / 1000 % 10 == 0 ? SIZE : 1 + done % 2;
        while (offered < REQUESTS && offered - done < window)
            offer(p, (uint16_t)offered++);
        for (uint16_t now = await_used(p, seen); seen != now; seen++, done++) {
            struct vring_used_elem e = p->used->ring[seen % SIZE];
            uint64_t *number = mem_ptr(&p->mem, DATA + e.id * 8U, 8, true);
            CHECK(e.id == seen % SIZE && e.len == 8);
            CHECK(*number == UINT64_C(1000000) + seen);
        }
    }
}

/* --- the device --- */

static void serve(void *ctx, unsigned index)
{
    struct pair *p = ctx;
    struct iovec iov[2];
    struct vq_chain chain = {.iov = iov, .iov_max = 2};
    unsigned done = 0;

    (void)index;
    while (done < REQUESTS) {
        vq_mute(&p->vq);
        for (int rc; (rc = vq_pop(&p->vq, &chain)) != 0; done++) {
            uint64_t number;
            CHECK(rc == 1);
            memcpy(&number, iov[0].iov_base, sizeof(number));
            number += 1000000;
            CHECK(vq_chain_write(&chain, 0, &number, sizeof(number)) == sizeof(number));
            vq_push(&p->vq, &chain, sizeof(number));
            if (done % 3 == 0 && vq_publish(&p->vq)) /* batches of one and of several */
                ring_bell(p->call);
        }
        if (vq_publish(&p->vq))
            ring_bell(p->call);
        if (!vq_unmute(&p->vq) && done < REQUESTS)
            wait_on(p->kick);
    }
}

static void run(bool event_idx)
{
    struct pair p = {.event_idx = event_idx, .kick = eventfd(0, 0), .call = eventfd(0, 0)};
    struct crew crew = {0};

    CHECK(p.kick >= 0 && p.call >= 0);
    mem_init(&p.mem);
    CHECK(mem_add(&p.mem, 0, RAM, MEM_RAM, MEM_ANONYMOUS, NULL) == 0);
    p.desc = mem_ptr(&p.mem, DESC, 0x1000, true);
    p.avail = mem_ptr(&p.mem, AVAIL, 0x1000, true);
    p.used = mem_ptr(&p.mem, USED, 0x1000, true);
    vq_init(&p.vq, &p.mem, SIZE);
    p.vq.at = (struct vq_layout){.size = SIZE, .desc = DESC, .driver = AVAIL, .device = USED};
    CHECK(vq_enable(&p.vq, event_idx ? UINT64_C(1) << VIRTIO_RING_F_EVENT_IDX : 0) == 0);
    crew_start(&crew, 1, drive, &p);
    crew_start(&crew, 1, serve, &p);
    crew_join(&crew);
    mem_fini(&p.mem);
    close(p.kick);
    close(p.call);
}

int main(void)
{
    run(false);
    run(true);
    return 0;
}
