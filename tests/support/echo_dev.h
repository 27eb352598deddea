/*
 * A virtio device for tests of what all have in common.
 */
#ifndef SUPPORT_ECHO_DEV_H
#define SUPPORT_ECHO_DEV_H

#include "hv/virtio/virtio.h"
#include "support/virtio_rig.h"

#define ECHO_FEATURE 5      /* its own feature bit */
#define ECHO_BAD_VALUE 0xee /* a value of its configuration that it refuses to load */

/* Gives back what it gets: queue 0 at once, queue 1 when it is told to. */
struct echo {
    struct virtio_dev v;
    unsigned starts, resets;
    struct vq_chain later;
    struct iovec iov[4];
    bool has_later;
    uint8_t value; /* its configuration space */
};

/* A device with queues of 16 and 8 entries, in RIG, which owns it. */
struct echo *echo_create(struct virtio_rig *rig);

/* Answers the chain that waits in queue 1. From any thread. */
void echo_answer(struct echo *e);

#endif
