/*
 * The PCI transport of virtio devices (VIRTIO 1.2 §4.1), modern only.
 *
 * A function with one 64-bit BAR, in which all structures lie, and a capability for each that says
 * where. Interrupts are MSI-X messages, one vector for the configuration and one for each queue, or
 * the function's pin while the guest has not switched MSI-X on.
 */
#ifndef HV_VIRTIO_PCI_H
#define HV_VIRTIO_PCI_H

#include "hv/bus/irq.h"
#include "hv/pci/msix.h"
#include "hv/pci/pci.h"
#include "hv/virtio/virtio.h"

#define VIRTIO_PCI_BAR 0
#define VIRTIO_PCI_NOTIFY_SIZE 4 /* bytes of each queue's doorbell */

struct virtio_pci_setup {
    struct pci_bus *bus;   /* borrowed, outlives the device */
    struct irq_line pin;   /* level-triggered; copied */
    struct msix_sink msix; /* copied */
    /* A queue's doorbell, of VIRTIO_PCI_NOTIFY_SIZE bytes, is at this guest-physical address now,
     * or no longer: whoever can turns writes to it into signals of `kick` without an exit. NULL:
     * writes come here. Under the host bridge's lock. */
    void (*doorbell)(void *ctx, uint64_t gpa, int kick, bool there);
    void *doorbell_ctx; /* borrowed */
};

/* Puts v (owned once this has succeeded) into a slot of the bus. -ENOSPC: there is none. */
int virtio_pci_create(const char *name, struct virtio_dev *v, const struct virtio_pci_setup *cfg,
                      struct device **out) HV_MUST_CHECK;

#endif
