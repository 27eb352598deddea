/*
 * What the two transports share: 64-bit addresses that the driver writes in halves.
 */
#ifndef VIRTIO_TRANSPORT_PRIV_H
#define VIRTIO_TRANSPORT_PRIV_H

#include <stdint.h>

static inline void set_low(uint64_t *address, uint32_t value)
{
    *address = (*address & ~(uint64_t)UINT32_MAX) | value;
}

static inline void set_high(uint64_t *address, uint32_t value)
{
    *address = (*address & UINT32_MAX) | (uint64_t)value << 32;
}

#endif
