/*
 * MSI-X: interrupts as memory writes (PCI 3.0 §6.8.2).
 *
 * A function has a table of vectors, each an address and a datum that the guest chose, in one of
 * its BARs. A vector that is masked when its interrupt comes remembers it as pending, and delivers
 * it when it is unmasked.
 *
 * Threads: msix_notify() from any; everything else under the locks of whoever owns the BAR and the
 * configuration space. There is a lock inside, innermost but for the sink's own.
 */
#ifndef HV_PCI_MSIX_H
#define HV_PCI_MSIX_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "hv/base/codec.h"
#include "hv/pci/pci.h"

#define MSIX_VECTORS_MAX 64
#define MSIX_ENTRY_SIZE 16 /* bytes in the table */

/* Where messages go: KVM's local APICs, or a unit test's counter. */
struct msix_sink {
    /* Vector `v` of the function shall deliver this message from now on. -errno: it cannot. */
    int (*route)(void *ctx, unsigned v, uint64_t address, uint32_t data);
    /* Delivers it. Any thread, with the lock of the msix held. */
    void (*fire)(void *ctx, unsigned v);
    void *ctx; /* borrowed */
};

struct msix_entry {
    uint64_t address;
    uint32_t data;
    uint32_t control; /* PCI_MSIX_ENTRY_CTRL_MASKBIT */
};

struct msix {
    struct pci_dev *p; /* borrowed */
    struct msix_sink sink;
    unsigned cap; /* offset of the capability */
    unsigned vectors;
    pthread_mutex_t lock; /* guards the rest */
    struct msix_entry entries[MSIX_VECTORS_MAX];
    uint64_t pending; /* a bit for each vector */
    uint64_t routed;  /* the sink has the entry's message */
    bool enabled;
    bool masked; /* the whole function */
};

/* Adds the capability to p: table and pending bits lie in BAR `bar` at these offsets. */
void msix_init(struct msix *m, struct pci_dev *p, unsigned vectors, unsigned bar,
               uint32_t table_offset, uint32_t pba_offset, const struct msix_sink *sink);
void msix_fini(struct msix *m);

/* For config_written: the guest may have switched it on or off. */
void msix_config_written(struct msix *m);

/* Accesses of 4 bytes to the table, and to the pending bits (which can only be read). Others, and
 * what lies beyond, read 0 and write nothing. */
uint32_t msix_table_read(struct msix *m, uint64_t offset, unsigned size);
void msix_table_write(struct msix *m, uint64_t offset, unsigned size, uint32_t value);
uint32_t msix_pba_read(struct msix *m, uint64_t offset, unsigned size);

/* Does the guest use it? Otherwise the function has its interrupt pin. */
bool msix_is_enabled(struct msix *m);

/* An interrupt of this vector; nothing for one that there is not, or while it is not enabled. */
void msix_notify(struct msix *m, unsigned vector);

/* All entries masked, nothing pending; as after a reset of the bus. */
void msix_reset(struct msix *m);

/* State; the enable bits are in the configuration space, which is loaded first. load only reads and
 * judges (-EINVAL); msix_restore() takes it. */
struct msix_state {
    struct msix_entry entries[MSIX_VECTORS_MAX];
    uint64_t pending;
};
void msix_save(struct msix *m, struct codec_writer *w);
int msix_load(const struct msix *m, struct codec_reader *r, struct msix_state *out) HV_MUST_CHECK;
void msix_restore(struct msix *m, const struct msix_state *state);

#endif
