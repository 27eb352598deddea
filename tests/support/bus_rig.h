/*
 * A workbench for devices: an I/O bus, a counted interrupt line, a character back end in memory.
 */
#ifndef SUPPORT_BUS_RIG_H
#define SUPPORT_BUS_RIG_H

#include <stdint.h>

#include "hv/bus/bus.h"
#include "hv/chr/chr.h"
#include "support/fake_irq.h"

#define RIG_DEVICES_MAX 8

struct bus_rig {
    struct bus bus;
    struct fake_irq irq;  /* the end of `line` */
    struct irq_line line; /* for the device under test */
    struct chr *chr;      /* chr_mem */
    struct device *devs[RIG_DEVICES_MAX];
    unsigned count;
};

void rig_init(struct bus_rig *rig);
void rig_fini(struct bus_rig *rig); /* destroys the devices, last one first */

/* The rig owns `dev` from here on. Fails the test if the bus refuses. */
void rig_add(struct bus_rig *rig, struct device *dev, uint16_t port, uint64_t size);
/* A second window of a device that the rig has. */
void rig_map(struct bus_rig *rig, struct device *dev, uint16_t port, uint64_t size,
             uint64_t offset);

uint8_t rig_in8(struct bus_rig *rig, uint16_t port);
uint16_t rig_in16(struct bus_rig *rig, uint16_t port);
uint32_t rig_in32(struct bus_rig *rig, uint16_t port);
void rig_out8(struct bus_rig *rig, uint16_t port, uint8_t value);
void rig_out16(struct bus_rig *rig, uint16_t port, uint16_t value);
void rig_out32(struct bus_rig *rig, uint16_t port, uint32_t value);

const char *rig_output(struct bus_rig *rig); /* what was written to the back end so far */

#endif
