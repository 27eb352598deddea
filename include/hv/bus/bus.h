/*
 * An address space of device windows: the 64 KiB of I/O ports, or guest-physical memory outside
 * RAM.
 *
 * The bus finds the window of an access, splits what is wider than the device takes or crosses a
 * window's end, and gives all ones for reads that nobody answers, as an undriven bus does. Writes
 * that nobody answers are dropped and counted.
 *
 * Threads: accesses come from all vCPU threads at once. Windows are mapped and unmapped by one
 * thread at a time, which may be a vCPU thread (a BAR that moves, even through this bus), while
 * others access the bus.
 */
#ifndef HV_BUS_BUS_H
#define HV_BUS_BUS_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "hv/base/err.h"
#include "hv/bus/device.h"

#define BUS_WINDOWS_MAX 128

struct bus_window {
    uint64_t base;      /* first bus address */
    uint64_t size;      /* bytes, > 0 */
    struct device *dev; /* borrowed: unmap it before destroying it */
    uint64_t offset;    /* of the window's first byte in the device's register space */
};

struct bus {
    pthread_rwlock_t lock;                      /* guards windows and count */
    struct bus_window windows[BUS_WINDOWS_MAX]; /* sorted by base, never overlapping */
    unsigned count;
    uint64_t limit;             /* last valid bus address: 0xffff for ports */
    _Atomic uint64_t unclaimed; /* bytes of accesses that no window answered */
};

void bus_init(struct bus *bus, uint64_t limit);
void bus_fini(struct bus *bus);

/* -EINVAL: empty, or past the bus's limit; -EEXIST: overlaps a window; -ENOSPC. */
int bus_map(struct bus *bus, uint64_t base, uint64_t size, struct device *dev,
            uint64_t offset) HV_MUST_CHECK;
/* Removes the window that starts at `base`. An access that another thread has under way may still
 * reach the device. -ENOENT. */
int bus_unmap(struct bus *bus, uint64_t base) HV_MUST_CHECK;

/* One access of 1 to 8 bytes at any alignment. `data` is little-endian guest bytes, as KVM's run
 * structure holds them; bytes beyond the bus's limit read as 0xff. */
void bus_read(struct bus *bus, uint64_t addr, void *data, unsigned size);
void bus_write(struct bus *bus, uint64_t addr, const void *data, unsigned size);

/* The device at `addr`, or NULL; for explanations. */
struct device *bus_find(struct bus *bus, uint64_t addr);

#endif
