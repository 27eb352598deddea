/*
 * A statistic: written by one thread at a time, read by anyone at any moment.
 */
#ifndef HV_BASE_COUNTER_H
#define HV_BASE_COUNTER_H

#include <stdatomic.h>
#include <stdint.h>

/* As there is one writer at a time, adding need be no operation on the bus, which an atomic
 * addition is: that would be dear on a path that counts every exit and every request. */
static inline void counter_add(_Atomic uint64_t *counter, uint64_t n)
{
    uint64_t now = atomic_load_explicit(counter, memory_order_relaxed);

    atomic_store_explicit(counter, now + n, memory_order_relaxed);
}

#endif
