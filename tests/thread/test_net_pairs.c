/*
 * Two pairs of queues, each on a thread of its own, with frames coming to both without a pause,
 * while the driver uses the second pair and does not, again and again. Frames come when it does,
 * and none after the answer that it does not (VIRTIO 1.2 §5.1.6.5.5).
 */
#include <linux/virtio_net.h>
#include <stdatomic.h>
#include <string.h>

#include "driver.h"
#include "hv/base/iothread.h"
#include "hv/virtio/net.h"

#define PAIRS 2U
#define ROUNDS 300
#define RX(pair) (2 * (pair))
#define CTRL (2 * PAIRS)
#define QUEUES (CTRL + 1)
#define LOOKS 20 /* for what must not come */

static struct mem mem;
static struct iothread *threads[PAIRS];
static struct net *near_ends[PAIRS], *far_ends[PAIRS];
static struct virtio_dev *v;
static struct driver_queue queues[QUEUES];
static _Atomic unsigned received[PAIRS];
static _Atomic bool is_over;

static uint16_t used_idx(unsigned queue)
{
    return __atomic_load_n(&queues[queue].used->idx, __ATOMIC_SEQ_CST);
}

/* --- frames --- */

static void send(void *ctx, unsigned pair)
{
    uint8_t frame[sizeof(struct virtio_net_hdr_v1) + 60] = {0};
    const struct iovec iov = {frame, sizeof(frame)};

    (void)ctx;
    memset(frame + sizeof(struct virtio_net_hdr_v1), 0xff, 6);
    while (!atomic_load(&is_over))
        if (net_send(far_ends[pair], &iov, 1) < 0) /* the wire is full */
            (void)sched_yield();
}

static void receive(void *ctx, unsigned pair)
{
    struct driver_queue *q = &queues[RX(pair)];

    (void)ctx;
    while (!atomic_load(&is_over)) {
        while ((uint16_t)(q->offered - q->seen) < DRIVER_SLOTS / 2)
            driver_offer(q, DRIVER_SLOT, VRING_DESC_F_WRITE);
        if (used_idx(RX(pair)) == q->seen) {
            (void)sched_yield();
            continue;
        }
        q->seen++;
        atomic_fetch_add(&received[pair], 1);
    }
}

/* --- commands --- */

static void set_pairs(uint8_t pairs)
{
    struct driver_queue *q = &queues[CTRL];
    const uint8_t command[] = {VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, pairs, 0};
    uint8_t *ack = driver_slot(q, 1);

    memcpy(driver_slot(q, 0), command, sizeof(command));
    *ack = 0xaa;
    q->desc[0] = (struct vring_desc){q->data, sizeof(command), VRING_DESC_F_NEXT, 1};
    q->desc[1] = (struct vring_desc){q->data + DRIVER_SLOT, 1, VRING_DESC_F_WRITE, 0};
    __atomic_store_n(&q->avail->ring[q->offered % DRIVER_SLOTS], 0, __ATOMIC_RELAXED);
    __atomic_store_n(&q->avail->idx, ++q->offered, __ATOMIC_SEQ_CST);
    virtio_kick(q->q);
    CHECK(driver_await(q) == 1);
    CHECK(*ack == VIRTIO_NET_OK);
}

static void change(void *ctx, unsigned index)
{
    (void)ctx;
    (void)index;
    for (unsigned round = 0; round < ROUNDS; round++) {
        unsigned before = atomic_load(&received[1]);
        set_pairs(2);
        while (atomic_load(&received[1]) == before)
            (void)sched_yield();
        set_pairs(1);
        uint16_t then = used_idx(RX(1));
        for (unsigned look = 0; look < LOOKS; look++) {
            (void)sched_yield();
            CHECK(used_idx(RX(1)) == then);
        }
    }
    atomic_store(&is_over, true);
}

/* --- life --- */

static void create(void)
{
    struct virtio_net_pair pairs[PAIRS];
    const struct virtio_net_setup setup = {.mem = &mem, .pairs = pairs, .pair_count = PAIRS};

    for (unsigned i = 0; i < PAIRS; i++) {
        CHECK(iothread_create("net", &threads[i]) == 0);
        CHECK(net_pair_create(&near_ends[i], &far_ends[i]) == 0);
        pairs[i] = (struct virtio_net_pair){near_ends[i], iothread_loop(threads[i])};
    }
    CHECK(virtio_net_create("net", &setup, &v) == 0);
    for (unsigned i = 0; i < PAIRS; i++)
        CHECK(iothread_start(threads[i]) == 0);
}

int main(void)
{
    struct crew crew = {0};

    mem_init(&mem);
    CHECK(mem_add(&mem, 0, DRIVER_RAM, MEM_RAM, MEM_ANONYMOUS, NULL) == 0);
    create();
    driver_begin(
        v, (uint32_t)(VIRTIO_FEATURE(VIRTIO_NET_F_MQ) | VIRTIO_FEATURE(VIRTIO_NET_F_CTRL_VQ)));
    for (unsigned i = 0; i < QUEUES; i++)
        driver_place(&queues[i], &mem, v, i);
    driver_ok(v);

    crew_start(&crew, PAIRS, send, NULL);
    crew_start(&crew, PAIRS, receive, NULL);
    crew_start(&crew, 1, change, NULL);
    crew_join(&crew);
    CHECK(atomic_load(&received[0]) > 0);

    virtio_set_status(v, 0); /* with frames on their way */
    for (unsigned i = 0; i < PAIRS; i++)
        iothread_stop(threads[i]);
    virtio_destroy(v);
    for (unsigned i = 0; i < PAIRS; i++) {
        iothread_destroy(threads[i]);
        net_destroy(near_ends[i]);
        net_destroy(far_ends[i]);
    }
    mem_fini(&mem);
    return 0;
}
