/*
 * The memory-mapped transport of virtio devices (VIRTIO 1.2 §4.2).
 *
 * A window of 4 KiB with registers, one interrupt. The guest learns of it from ACPI (LNRO0005). A
 * window without a device is one too: its device id is 0, and drivers leave it alone.
 */
#ifndef HV_VIRTIO_MMIO_H
#define HV_VIRTIO_MMIO_H

#include "hv/bus/device.h"
#include "hv/bus/irq.h"
#include "hv/virtio/virtio.h"

#define VIRTIO_MMIO_SIZE 0x1000 /* bytes of the window */

/* A transport on an edge-triggered line, carrying v (owned once this has succeeded), or nothing if
 * v is NULL. `name`: static, of the transport's saved section. */
int virtio_mmio_create(const char *name, struct virtio_dev *v, const struct irq_line *irq,
                       struct device **out) HV_MUST_CHECK;

#endif
