/*
 * A device for bus tests: a register space of plain memory that records its accesses.
 */
#ifndef SUPPORT_SCRATCH_DEV_H
#define SUPPORT_SCRATCH_DEV_H

#include <stdbool.h>
#include <stdint.h>

#include "hv/bus/device.h"

#define SCRATCH_SIZE 256
#define SCRATCH_LOG_MAX 16

struct scratch_access {
    bool is_write;
    uint64_t offset;
    unsigned size;
    uint64_t value;
};

struct scratch_dev {
    struct device dev;
    struct dev_ops ops; /* a table of its own, so that max_access can differ */
    uint8_t mem[SCRATCH_SIZE];
    struct scratch_access log[SCRATCH_LOG_MAX]; /* the first accesses */
    unsigned accesses;
    unsigned destroyed;
    uint64_t junk; /* set in the high bytes of what reads return: the bus must mask it */
};

void scratch_init(struct scratch_dev *s, const char *name, unsigned max_access);
void scratch_fini(struct scratch_dev *s);

#endif
