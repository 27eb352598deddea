/*
 * What the one who manages a machine does to it while it runs: keep it still, look at its counters,
 * press its buttons.
 *
 * A machine can be kept still for several reasons at once: a person wants a pause, a job needs a
 * state that does not change, a debugger has its turn. It goes on when the last of them is gone.
 * The one exception is a person's pause that a debugger finds when it comes: the debugger takes it
 * over, and its first "continue" ends it. A pause that comes later is the person's to end.
 *
 * While the world stands still the vCPUs do; the I/O threads finish what they were asked for.
 *
 * Threads: all functions from the thread that runs machine_run().
 */
#ifndef HV_MACHINE_MANAGE_H
#define HV_MACHINE_MANAGE_H

#include <stdbool.h>
#include <stdint.h>

#include "hv/machine/machine.h"
#include "hv/virtio/virtio.h"

/* --- keeping it still --- */

enum machine_hold {
    HOLD_USER = 1 << 0,
    HOLD_JOB = 1 << 1,
    HOLD_DEBUGGER = 1 << 2, /* only told, by machine_holds(): see hv/machine/debug.h */
};

/* As machine_pause(), and it stays so until the same reason is released. A second hold for one
 * reason changes nothing, nor does a release without a hold. */
void machine_hold(struct machine *m, enum machine_hold why);
void machine_release(struct machine *m, enum machine_hold why);

/* All reasons there are now. */
unsigned machine_holds(const struct machine *m);

/* Called when the first hold came or the last one went; the turns of a debugger do not count. */
typedef void machine_hold_fn(void *ctx, bool held);
void machine_watch_holds(struct machine *m, machine_hold_fn *fn, void *ctx); /* NULL: no more */

/* --- counters --- */

#define MACHINE_EXIT_REASONS 64

struct machine_cpu_stats {
    uint64_t exits;                           /* all */
    uint64_t by_reason[MACHINE_EXIT_REASONS]; /* KVM_EXIT_…; those beyond, together in the last */
    uint64_t cpu_ns;                          /* processor time of its thread, the guest's too */
};

struct machine_stats {
    uint64_t memory, resident;                  /* bytes: the guest's, and of them in the host's */
    uint64_t unclaimed_ports, unclaimed_memory; /* bytes of accesses that no device answered */
};

struct machine_thread_stats {
    const char *name; /* borrowed */
    uint64_t cpu_ns;
};

uint64_t machine_age_ns(const struct machine *m);      /* since it was created */
uint64_t machine_memory_size(const struct machine *m); /* bytes */
/* Looks at every page of memory: some milliseconds for each GiB. */
void machine_stats(const struct machine *m, struct machine_stats *out);
unsigned machine_cpus(const struct machine *m);
void machine_cpu_stats(const struct machine *m, unsigned cpu, struct machine_cpu_stats *out);
unsigned machine_io_threads(const struct machine *m);
void machine_io_thread_stats(const struct machine *m, unsigned index,
                             struct machine_thread_stats *out);

/* --- its virtio devices: borrowed --- */

unsigned machine_virtio_count(const struct machine *m);
struct virtio_dev *machine_virtio(const struct machine *m, unsigned index);
/* The first one of this VIRTIO_ID_…, or NULL. */
struct virtio_dev *machine_virtio_of(const struct machine *m, uint32_t id);

#endif
