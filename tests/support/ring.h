/*
 * The driver's side of a split virtqueue, for tests: well-behaved by default, and able to write
 * anything at all.
 *
 * Layout from `base` on: descriptors, available ring, used ring, each on pages of its own.
 */
#ifndef SUPPORT_RING_H
#define SUPPORT_RING_H

#include <stdbool.h>
#include <stdint.h>

#include "hv/mem/mem.h"
#include "hv/virtio/queue.h"

struct ring {
    const struct mem *mem; /* borrowed */
    struct vq_layout at;
    uint16_t next_desc; /* the descriptor that ring_add() takes next */
    uint16_t avail_idx; /* entries made available so far */
    uint16_t used_idx;  /* used entries seen so far */
};

struct ring_buf {
    uint64_t gpa;
    uint32_t len;
    bool write; /* the device writes it */
};

#define RING_STRIDE 0x8000 /* bytes from one area to the next */

void ring_init(struct ring *ring, const struct mem *mem, uint64_t base, uint16_t size);

/* Writes one descriptor of the table at guest-physical address `table`. */
void ring_desc(const struct ring *ring, uint64_t table, uint16_t index, struct vring_desc desc);

/* Chains descriptors for BUFS and returns the head; the driver has not offered it yet. */
uint16_t ring_add(struct ring *ring, const struct ring_buf *bufs, unsigned count);

/* Makes a chain available. */
void ring_offer(struct ring *ring, uint16_t head);

/* Both at once. */
uint16_t ring_send(struct ring *ring, const struct ring_buf *bufs, unsigned count);

/* Takes the next used element; false: there is none. */
bool ring_take_used(struct ring *ring, struct vring_used_elem *out);

/* The words of either side. */
void ring_set_avail_idx(struct ring *ring, uint16_t idx);
void ring_set_avail_flags(const struct ring *ring, uint16_t flags);
void ring_set_used_event(const struct ring *ring, uint16_t idx);
uint16_t ring_used_flags(const struct ring *ring);
uint16_t ring_avail_event(const struct ring *ring);

#endif
