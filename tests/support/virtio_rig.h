/*
 * A virtio device for tests, between a driver of ours and a transport of ours: RAM, a loop that the
 * test runs itself, and counted interrupts.
 */
#ifndef SUPPORT_VIRTIO_RIG_H
#define SUPPORT_VIRTIO_RIG_H

#include "hv/base/loop.h"
#include "hv/virtio/virtio.h"
#include "support/ring.h"

#define VIRTIO_RIG_RAM (1U << 20)
#define VIRTIO_RIG_RINGS                                                                           \
    0x10000 /* the first queue's areas; others follow, VIRTIO_RIG_STRIDE apart */
#define VIRTIO_RIG_STRIDE 0x20000
#define VIRTIO_RIG_QUEUES 3

struct virtio_rig {
    struct mem mem;
    struct loop *loop;
    struct virtio_dev *v; /* owned once it is given */
    struct ring rings[VIRTIO_RIG_QUEUES];
    _Atomic unsigned used[VIRTIO_RIG_QUEUES]; /* interrupts of each queue */
    _Atomic unsigned config;                  /* and of the configuration */
};

void virtio_rig_init(struct virtio_rig *rig);
void virtio_rig_fini(struct virtio_rig *rig);

/* Takes the device, and attaches the counters. */
void virtio_rig_take(struct virtio_rig *rig, struct virtio_dev *v);

/* What a driver does at the start (§3.1.1), with all of `features` that the device offers, and
 * every queue at its largest size, up to VIRTIO_RIG_QUEUES. */
void virtio_rig_start(struct virtio_rig *rig, uint64_t features);

/* The same for a device with more queues than that: those behind lie in `far` (indexed by queue), a
 * queue's areas in `stride` bytes from `base` on. Then the device works. */
void virtio_rig_start_all(struct virtio_rig *rig, uint64_t features, struct ring *far,
                          unsigned queues, uint64_t base, uint64_t stride);

/* Notifies a queue and lets the device work. */
void virtio_rig_kick(struct virtio_rig *rig, unsigned queue);

/* Lets the device work until it has nothing to do. */
void virtio_rig_work(struct virtio_rig *rig);

#endif
