/*
 * What pci.c (the function, its BAR and its interrupts) and pci_common.c (the registers that every
 * device has) share.
 */
#ifndef VIRTIO_PCI_PRIV_H
#define VIRTIO_PCI_PRIV_H

#include <linux/virtio_pci.h>

#include "hv/virtio/pci.h"

#define NO_VECTOR VIRTIO_MSI_NO_VECTOR

struct virtio_pci {
    struct device dev; /* what the BAR shows; its lock guards what follows, up to pin_lock */
    struct pci_dev fn;
    struct virtio_dev *v; /* owned */
    struct msix msix;
    struct virtio_pci_setup cfg;
    unsigned cfg_cap; /* offset of the configuration access capability */
    uint32_t offered_sel, accepted_sel;
    uint16_t queue_sel;
    _Atomic uint16_t config_vector; /* read by any thread that interrupts */
    _Atomic uint16_t queue_vectors[VIRTIO_QUEUES_MAX];
    pthread_mutex_t pin_lock; /* guards isr, pin_masked and the level of cfg.pin */
    uint8_t isr;
    bool pin_masked; /* PCI_COMMAND_INTX_DISABLE */
};

/* pci.c. §4.1.4.5: reading acknowledges. */
uint8_t vpci_take_isr(struct virtio_pci *t);

/* pci_common.c, under t->dev's lock. The width of the field at `offset`, bytes; other accesses are
 * not for these. */
unsigned vpci_common_size(uint64_t offset);
uint32_t vpci_common_read(struct virtio_pci *t, uint64_t offset);
void vpci_common_write(struct virtio_pci *t, uint64_t offset, uint32_t value);
/* Nothing interrupts. */
void vpci_reset_vectors(struct virtio_pci *t);
/* §4.1.5.1.2.1: a vector that there is not reads back as none. */
uint16_t vpci_known_vector(const struct virtio_pci *t, uint32_t vector);

#endif
