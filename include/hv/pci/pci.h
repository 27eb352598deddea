/*
 * PCI functions, and the one bus they sit on (PCI Local Bus 3.0 §6; "PCI" below).
 *
 * A function is 256 bytes of configuration space and up to six windows (BARs), whose addresses the
 * guest chooses. A device that is one embeds struct pci_dev, and says which of its register spaces
 * each BAR shows. The bus gives the guest the way in, configuration mechanism #1: an address
 * written to port 0xcf8, the data at 0xcfc to 0xcff (PCI §3.2.2.3.2).
 *
 * A window is on the bus of memory or of ports while the command register allows it and its place
 * is free: a BAR that was moved onto another device's window, or onto RAM, is nowhere until it is
 * moved away, as if something else answered first.
 *
 * Threads: configuration accesses come from vCPU threads, under the host bridge's lock, which
 * guards everything here. Devices are added before the first vCPU runs.
 */
#ifndef HV_PCI_PCI_H
#define HV_PCI_PCI_H

#include <linux/pci_regs.h>
#include <stdbool.h>
#include <stdint.h>

#include "hv/base/codec.h"
#include "hv/base/log.h"
#include "hv/bus/bus.h"
#include "hv/bus/irq.h"
#include "hv/mem/mem.h"

#define PCI_SLOTS 32 /* of the bus; one function each */
#define PCI_BARS 6
#define PCI_CONFIG_SIZE 256
#define PCI_CONFIG_PORT 0xcf8 /* address, 4 bytes; then data, 4 bytes */
#define PCI_CONFIG_PORTS 8

struct pci_bus;
struct pci_dev;

struct pci_ops {
    /* After the guest wrote `size` bytes at `offset`, of which the writable bits were stored. NULL:
     * nothing follows from it. */
    void (*config_written)(struct pci_dev *p, unsigned offset, unsigned size);
    /* Before the guest reads there: the device may bring config up to date. NULL likewise. */
    void (*config_reading)(struct pci_dev *p, unsigned offset, unsigned size);
    /* BAR `index` appeared at bar->mapped, or is about to go from there (`there` is false). For
     * what must know addresses: doorbells in KVM. NULL: nothing must. */
    void (*bar_moved)(struct pci_dev *p, unsigned index, bool there);
};

struct pci_bar {
    uint64_t size; /* bytes, a power of two, at least 16; 0: there is no such BAR */
    bool is_io;    /* ports, else memory */
    bool is_64;    /* the BAR after it holds the upper half of its address, and is none itself */
    struct device
        *window;     /* borrowed: answers accesses; outlives the function's place on the bus */
    uint64_t offset; /* of the BAR's first byte in the window's register space */
    uint64_t mapped; /* where it is on its bus now; 0: nowhere (no BAR lies at 0) */
};

struct pci_dev {
    const struct pci_ops *ops;
    const char *name;    /* static, for messages */
    struct pci_bus *bus; /* borrowed; NULL until it is added */
    unsigned slot;
    uint8_t config[PCI_CONFIG_SIZE];
    uint8_t writable[PCI_CONFIG_SIZE]; /* 1: the guest may set and clear this bit */
    struct pci_bar bars[PCI_BARS];
    uint8_t cap_end; /* where the next capability goes */
};

struct pci_id {
    uint16_t vendor, device;
    uint16_t subsystem_vendor, subsystem;
    uint32_t class_code; /* class, subclass, interface: 24 bits */
    uint8_t revision;
};

/* --- functions --- */

void pci_init(struct pci_dev *p, const struct pci_ops *ops, const char *name,
              const struct pci_id *id);

/* Declares BAR `index`. A 64-bit one takes index + 1, too. */
void pci_set_bar(struct pci_dev *p, unsigned index, const struct pci_bar *bar);

/* Adds a capability of `size` bytes (its id and link included) and returns its offset; its body is
 * zero and cannot be written. 0: there is no room. PCI §6.7. */
unsigned pci_add_capability(struct pci_dev *p, uint8_t id, unsigned size);

/* Little-endian words of the configuration space. */
uint16_t pci_get16(const struct pci_dev *p, unsigned offset);
uint32_t pci_get32(const struct pci_dev *p, unsigned offset);
void pci_put16(struct pci_dev *p, unsigned offset, uint16_t value);
void pci_put32(struct pci_dev *p, unsigned offset, uint32_t value);
void pci_allow(struct pci_dev *p, unsigned offset, unsigned size,
               uint32_t mask); /* writable bits */

/* --- the bus --- */

struct pci_bus_config {
    struct bus *ports;     /* borrowed: where ports are mapped */
    struct bus *memory;    /* borrowed: where device memory is */
    const struct mem *mem; /* borrowed: RAM, over which no BAR is mapped */
    const struct log *log; /* borrowed; may be NULL */
    /* Device memory that BARs are given at the start: below 4 GiB, and for 64-bit BARs too. */
    uint64_t window, window_end;
    /* The reset register, in the middle of the address: a byte at 0xcf9 is an access of this
     * device's at `reset_offset` (ICH). NULL: nobody's. Borrowed. */
    struct device *reset;
    uint64_t reset_offset;
};

/* The host bridge: device of the ports 0xcf8 to 0xcff, and function 0 of slot 0. */
int pci_bus_create(const char *name, const struct pci_bus_config *cfg, struct pci_bus **out,
                   struct device **out_dev) HV_MUST_CHECK;

/* Puts p (borrowed until pci_remove()) into the lowest free slot, and gives its BARs addresses, as
 * firmware would; the command register leaves them off. -ENOSPC: no slot, or no room for a BAR. */
int pci_add(struct pci_bus *bus, struct pci_dev *p) HV_MUST_CHECK;
void pci_remove(struct pci_dev *p); /* nothing if it was never added */

/* The interrupt pin of a slot, INTA# to D# in turn, and which of the four lines it reaches: PCI
 * §2.2.6. */
#define PCI_LINES 4
unsigned pci_line_of(unsigned slot);

/* State of a function: its configuration space. pci_load() reads it into `config`, which
 * pci_restore() takes once the whole section has been judged: its BARs are then where they were.
 * -EINVAL: bits that no guest could have set. */
void pci_save(const struct pci_dev *p, struct codec_writer *w);
int pci_load(const struct pci_dev *p, struct codec_reader *r,
             uint8_t config[PCI_CONFIG_SIZE]) HV_MUST_CHECK;
void pci_restore(struct pci_dev *p, const uint8_t config[PCI_CONFIG_SIZE]);

#endif
