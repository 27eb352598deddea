/*
 * What function.c (configuration space), bars.c (windows) and host.c (the bus) share.
 */
#ifndef PCI_PRIV_H
#define PCI_PRIV_H

#include "hv/pci/pci.h"

struct pci_bus {
    struct device dev; /* the host bridge; its lock guards everything below it */
    struct pci_bus_config cfg;
    uint32_t address; /* what was written to 0xcf8 */
    uint64_t next;    /* where the next BAR goes */
    struct pci_dev bridge;
    struct pci_dev *slots[PCI_SLOTS]; /* borrowed */
    struct log_limit misplaced;
};

/* function.c: accesses that lie wholly in the configuration space. */
uint32_t pci_config_read(struct pci_dev *p, unsigned offset, unsigned size);
void pci_config_write(struct pci_dev *p, unsigned offset, unsigned size, uint32_t value);

/* bars.c */
static inline unsigned bar_offset(unsigned index)
{
    return PCI_BASE_ADDRESS_0 + 4 * index;
}

/* Makes the buses show each BAR where the guest has put it, if they can. */
void pci_update_bars(struct pci_dev *p);
void pci_unmap_bars(struct pci_dev *p);
/* Gives every BAR an address of its own. -ENOSPC. */
int pci_place_bars(struct pci_dev *p);

#endif
