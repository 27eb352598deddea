/*
 * A virtio driver without a transport, for threads that ThreadSanitizer watches.
 *
 * Each queue has DRIVER_SLOTS descriptors, one buffer of DRIVER_SLOT bytes each, used in turn.
 */
#ifndef THREAD_DRIVER_H
#define THREAD_DRIVER_H

#include <sched.h>

#include "crew.h"
#include "hv/mem/mem.h"
#include "hv/virtio/virtio.h"

#define DRIVER_RINGS 0x10000 /* a queue's areas, DRIVER_STRIDE for each queue */
#define DRIVER_STRIDE 0x3000
#define DRIVER_DATA 0x40000
#define DRIVER_SLOTS 64
#define DRIVER_SLOT 512
#define DRIVER_RAM 0x100000

struct driver_queue {
    struct virtio_queue *q;
    const struct mem *mem;
    uint64_t data;
    struct vring_desc *desc;
    struct vring_avail *avail;
    struct vring_used *used;
    uint16_t offered, seen;
};

static inline uint8_t *driver_slot(struct driver_queue *d, uint16_t number)
{
    return mem_ptr(d->mem, d->data + number % DRIVER_SLOTS * DRIVER_SLOT, DRIVER_SLOT, true);
}

/* Places a queue of a device that has FEATURES_OK, empty. */
static inline void driver_place(struct driver_queue *d, const struct mem *mem, struct virtio_dev *v,
                                unsigned index)
{
    uint64_t base = DRIVER_RINGS + (uint64_t)index * DRIVER_STRIDE;

    *d = (struct driver_queue){
        .q = virtio_queue(v, index),
        .mem = mem,
        .data = DRIVER_DATA + (uint64_t)index * DRIVER_SLOTS * DRIVER_SLOT,
        .desc = mem_ptr(mem, base, 0x1000, true),
        .avail = mem_ptr(mem, base + 0x1000, 0x1000, true),
        .used = mem_ptr(mem, base + 0x2000, 0x1000, true),
    };
    CHECK(mem_zero(mem, base, DRIVER_STRIDE) == 0);
    d->q->vq.at = (struct vq_layout){DRIVER_SLOTS, base, base + 0x1000, base + 0x2000};
    virtio_enable_queue(d->q);
    CHECK(d->q->vq.enabled);
}

/* From a reset to FEATURES_OK. */
static inline void driver_begin(struct virtio_dev *v, uint32_t features)
{
    virtio_set_status(v, 0);
    virtio_set_status(v, VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER);
    virtio_accept(v, 0, features);
    virtio_accept(v, 1, 1); /* VIRTIO_F_VERSION_1 */
    virtio_set_status(v, virtio_status(v) | VIRTIO_CONFIG_S_FEATURES_OK);
    CHECK(virtio_status(v) & VIRTIO_CONFIG_S_FEATURES_OK);
}

static inline void driver_ok(struct virtio_dev *v)
{
    virtio_set_status(v, virtio_status(v) | VIRTIO_CONFIG_S_DRIVER_OK);
}

/* Makes the next slot available. There is one; `flags` is 0 or VRING_DESC_F_WRITE. */
static inline void driver_offer(struct driver_queue *d, uint32_t len, uint16_t flags)
{
    uint16_t at = d->offered % DRIVER_SLOTS;

    d->desc[at] = (struct vring_desc){d->data + at * DRIVER_SLOT, len, flags, 0};
    __atomic_store_n(&d->avail->ring[at], at, __ATOMIC_RELAXED);
    __atomic_store_n(&d->avail->idx, ++d->offered, __ATOMIC_SEQ_CST);
    virtio_kick(d->q);
}

/* The next used element's length. Of a device that uses in order. */
static inline uint32_t driver_await(struct driver_queue *d)
{
    while (__atomic_load_n(&d->used->idx, __ATOMIC_SEQ_CST) == d->seen)
        (void)sched_yield();
    return d->used->ring[d->seen++ % DRIVER_SLOTS].len;
}

#endif
