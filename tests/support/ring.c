#include "support/ring.h"

#include <criterion/criterion.h>
#include <stddef.h>

static void put16(const struct ring *ring, uint64_t gpa, uint16_t value)
{
    cr_assert_eq(mem_write_u16(ring->mem, gpa, value), 0);
}

static uint16_t get16(const struct ring *ring, uint64_t gpa)
{
    uint16_t value;

    cr_assert_eq(mem_read_u16(ring->mem, gpa, &value), 0);
    return value;
}

void ring_init(struct ring *ring, const struct mem *mem, uint64_t base, uint16_t size)
{
    *ring = (struct ring){
        .mem = mem,
        .at = {.size = size,
               .desc = base,
               .driver = base + RING_STRIDE,
               .device = base + (uint64_t)2 * RING_STRIDE},
    };
}

void ring_desc(const struct ring *ring, uint64_t table, uint16_t index, struct vring_desc desc)
{
    cr_assert_eq(mem_write(ring->mem, table + index * sizeof(desc), &desc, sizeof(desc)), 0);
}

uint16_t ring_add(struct ring *ring, const struct ring_buf *bufs, unsigned count)
{
    uint16_t head = ring->next_desc;

    for (unsigned i = 0; i < count; i++) {
        uint16_t index = ring->next_desc;
        bool last = i == count - 1;

        ring->next_desc = (uint16_t)((index + 1) % ring->at.size);
        ring_desc(ring, ring->at.desc, index,
                  (struct vring_desc){
                      .addr = bufs[i].gpa,
                      .len = bufs[i].len,
                      .flags = (uint16_t)((last ? 0 : VRING_DESC_F_NEXT) |
                                          (bufs[i].write ? VRING_DESC_F_WRITE : 0)),
                      .next = last ? 0 : ring->next_desc,
                  });
    }
    return head;
}

void ring_offer(struct ring *ring, uint16_t head)
{
    uint16_t slot = ring->avail_idx % ring->at.size;

    put16(ring, ring->at.driver + offsetof(struct vring_avail, ring) + slot * 2U, head);
    ring_set_avail_idx(ring, (uint16_t)(ring->avail_idx + 1));
}

uint16_t ring_send(struct ring *ring, const struct ring_buf *bufs, unsigned count)
{
    uint16_t head = ring_add(ring, bufs, count);

    ring_offer(ring, head);
    return head;
}

bool ring_take_used(struct ring *ring, struct vring_used_elem *out)
{
    if (get16(ring, ring->at.device + offsetof(struct vring_used, idx)) == ring->used_idx)
        return false;

    uint64_t slot = ring->used_idx % ring->at.size;
    cr_assert_eq(mem_read(ring->mem,
                          ring->at.device + offsetof(struct vring_used, ring) + slot * sizeof(*out),
                          out, sizeof(*out)),
                 0);
    ring->used_idx++;
    return true;
}

void ring_set_avail_idx(struct ring *ring, uint16_t idx)
{
    ring->avail_idx = idx;
    put16(ring, ring->at.driver + offsetof(struct vring_avail, idx), idx);
}

void ring_set_avail_flags(const struct ring *ring, uint16_t flags)
{
    put16(ring, ring->at.driver + offsetof(struct vring_avail, flags), flags);
}

void ring_set_used_event(const struct ring *ring, uint16_t idx)
{
    put16(ring, ring->at.driver + offsetof(struct vring_avail, ring) + ring->at.size * 2U, idx);
}

uint16_t ring_used_flags(const struct ring *ring)
{
    return get16(ring, ring->at.device + offsetof(struct vring_used, flags));
}

uint16_t ring_avail_event(const struct ring *ring)
{
    return get16(ring, ring->at.device + offsetof(struct vring_used, ring) +
                           ring->at.size * sizeof(struct vring_used_elem));
}
