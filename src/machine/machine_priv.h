/*
 * What the machine's own files share: machine.c (life and death), board.c (the wiring), cpu.c (vCPU
 * threads and the run loop), exit.c (what the guest asks of us).
 */
#ifndef HV_MACHINE_PRIV_H
#define HV_MACHINE_PRIV_H

#include <linux/kvm.h>
#include <pthread.h>
#include <stdatomic.h>

#include "hv/base/iothread.h" // lab 07
#include "hv/bus/bus.h"
#include "hv/bus/irq.h"     // lab 04
#include "hv/kvm/eventfd.h" // lab 09
#include "hv/kvm/irqchip.h" // lab 04
#include "hv/kvm/kvm.h"
#include "hv/machine/debug.h" // lab 04
#include "hv/machine/machine.h"
#include "hv/machine/manage.h" // lab 10
#include "hv/pci/msix.h"       // lab 09
#include "hv/pci/pci.h"        // lab 09
#include "hv/virtio/virtio.h"  // lab 07

// lab 05 {
#define EXIT_REASONS 64 /* counted one by one; larger numbers together in the last */
#define LAST_EXITS 32   /* kept in memory for the report, a power of two */
// }
#define BOARD_DEVICES_MAX 64

/* What every vCPU is asked to do; read at the top of its loop. */
enum world {
    WORLD_RUN,
    WORLD_PAUSE, // lab 04
    WORLD_STOP,
};

struct cpu {
    struct machine *m; /* borrowed */
    struct vcpu vcpu;
    pthread_t thread;
    bool started; /* thread is valid; main thread only */
    // lab 04 {
    /* Guarded by machine.world_lock. */
    bool parked;            /* out of the guest, waiting */
    bool held;              /* stays parked while the world runs; changes only while it is parked */
    bool has_stop;          /* stop waits to be reported to the debugger */
    struct debug_stop stop; /* written by the vCPU's thread, read by others while it is parked */
    bool dying;             /* it stopped with DEBUG_DYING: it must not enter the guest again */
    // }
    // lab 05 {
    /* Written by the vCPU's thread alone; statistics are read at any time. */
    _Atomic uint64_t exits[EXIT_REASONS];
    _Atomic uint64_t exit_count;
    /* Likewise; read by others only while it is parked or gone. */
    struct trace_ring trace; /* events NULL: not traced */
    struct trace_ring last;  /* the last exits, always */
    _Atomic uint64_t last_written;
    struct trace_event last_events[LAST_EXITS];
    struct kvm_sync_regs sample; /* registers as of exit number sample_at */
    uint64_t sample_at;          /* 0: no sample yet */
    // }
};

// lab 07 {
#define IO_THREADS_MAX 64
#define VIRTIO_DEVICES_MAX 31
#define VIRTIO_NAME_MAX 16
#define WINDOWS 8

/* virtio.c: the devices, and who serves them. */
struct virtio_wiring {
    struct iothread *threads[IO_THREADS_MAX]; /* owned; the first is shared by slow devices */
    unsigned thread_count;
    bool started;                                /* at least one of them runs */
    struct virtio_dev *devs[VIRTIO_DEVICES_MAX]; /* borrowed: of the machine's devices */
    unsigned dev_count;
    char names[VIRTIO_DEVICES_MAX][VIRTIO_NAME_MAX];
    unsigned name_count;
    struct virtio_dev *console; /* borrowed likewise; NULL: none */
};

/* An edge-triggered GSI behind an eventfd: KVM turns each write to it into an interrupt. */
struct edge_line {
    int event; /* owned; -1: none */
};

/* windows.c: memory-mapped devices. */
struct windows {
    struct edge_line lines[WINDOWS];
    unsigned used;
};
// }

// lab 09 {
/* A line of PCI's: high while any of its functions raises it. */
struct pci_line {
    struct machine *m;    /* borrowed */
    pthread_mutex_t lock; /* guards raised; innermost */
    uint32_t raised;      /* a bit for each slot */
};

/* The end of one function's pin. */
struct pci_pin {
    struct pci_line *line; /* borrowed */
    unsigned slot;
};

/* msi.c: the messages of all functions. */
struct msi_pool {
    const struct vm *vm;  /* borrowed */
    pthread_mutex_t lock; /* guards messages */
    struct vm_msi messages[VM_MSI_ROUTES_MAX];
    int events[VM_MSI_ROUTES_MAX]; /* owned; `count` of them, each an irqfd of KVM's */
    unsigned count;
};

/* One function's vectors in it. */
struct msi_range {
    struct msi_pool *pool; /* borrowed */
    unsigned first;
};

/* bridge.c: the bus, and how its functions interrupt. */
struct pci_wiring {
    struct pci_bus *bus; /* borrowed: one of the machine's devices; NULL: none */
    struct msi_pool msi;
    struct pci_line lines[PCI_LINES];
    struct pci_pin pins[VIRTIO_DEVICES_MAX];
    struct msi_range ranges[VIRTIO_DEVICES_MAX];
    unsigned functions;
};
// }

struct machine {
    struct machine_config cfg; /* copied; the pointers of cfg.boot are gone after creation */
    struct kvm kvm;
    struct vm vm;
    struct mem mem;
    struct bus pio;
    struct bus mmio;                           // lab 02
    struct device *devices[BOARD_DEVICES_MAX]; /* owned, in order of creation */
    unsigned device_count;
    // lab 05 {
    struct device *power; /* the ACPI power registers, one of devices; NULL without irqchip */
    uint64_t created_ns;
    bool can_sample; /* KVM_CAP_SYNC_REGS has registers and segments */
    // }
    // lab 07 {
    struct virtio_wiring virtio;
    struct windows windows;
    // }
    struct pci_wiring pci; // lab 09
    struct boot_entry entry;

    struct cpu *cpus; /* cfg.cpus of them */

    _Atomic int world; /* enum world */
    // lab 04 {
    pthread_mutex_t world_lock; /* guards a cpu's fields that say so, and changes of world */
    pthread_cond_t world_change;
    struct debugger {
        const struct debug_ops *ops; /* borrowed */
        void *ctx;                   /* borrowed */
        bool has_turn;               /* main thread only */
        _Atomic bool attached;       /* set: ops and ctx are valid, and dying is put off */
        _Atomic bool called;         /* a cpu has_stop; pairs with the load in debug_deliver() */
    } debugger;
    // }

    pthread_mutex_t
        end_lock; /* guards ended and outcome; innermost: taken last, no call made under it */
    bool ended;
    struct machine_outcome outcome;

    // lab 10 {
    /* holds.c. Main thread only. */
    struct holds {
        unsigned why; /* enum machine_hold: who wants the world to stand still */
        bool lent;    /* the user's was there before the debugger, whose first turn ends it */
        machine_hold_fn *changed; /* NULL: nobody listens */
        void *ctx;                /* borrowed */
    } holds;
    // }
};

/* Lock order: a device's lock, then end_lock. */
/* world_lock is never held with either. */ // lab 04

/* board.c */
int board_wire(struct machine *m, struct error *err) HV_MUST_CHECK;
void board_unwire(struct machine *m);

/* cpu.c */
int cpu_create(struct machine *m, struct cpu *cpu, unsigned id, struct error *err) HV_MUST_CHECK;
void cpu_destroy(struct cpu *cpu);
/* Sets the registers for the start at `entry`. */
int cpu_enter(const struct cpu *cpu, const struct boot_entry *entry,
              struct error *err) HV_MUST_CHECK;
int cpu_start_thread(struct cpu *cpu, struct error *err) HV_MUST_CHECK;
/* The vCPU whose thread this is, or NULL. */
struct cpu *cpu_current(void);
/* Enters the guest once and has its exit served. False: there was none, something else wanted the
 * vCPU out. On its own thread only. */
bool cpu_run_once(struct cpu *cpu);
/* machine_end(), with the vCPU that brought it about. */
void cpu_end_machine(struct cpu *cpu, enum machine_end end, uint32_t value);

/* exit.c: answers the exit that cpu->vcpu.run describes. */
void serve_exit(struct cpu *cpu);

// lab 03 {
/* explain.c: last exits, registers, page walks, instruction bytes, likely cause. */
void explain(const struct machine *m, const struct machine_outcome *outcome, FILE *out);
// }

// lab 04 {
/* world.c. Asks all vCPUs for something, and brings them out of the guest for it. */
void world_set(struct machine *m, enum world world);
/* For a vCPU that finds that machine.world is not WORLD_RUN: parks until it changes. False: the
 * thread has to end. */
bool world_obey(struct cpu *cpu);
/* Before a vCPU's thread is made: sets what is blocked in it, and the kick's handler. *old: what
 * was blocked before, for afterwards. */
void world_prepare_thread(sigset_t *old);

/* debug.c. For the vCPU's thread: an exit was a debugger's trap. */
void debug_trap(struct cpu *cpu);
/* Likewise, if this port access is one. */
bool debug_is_trap(struct cpu *cpu);
/* The same, when the guest is about to die. False: there is no debugger to look at it. */
bool debug_delay_death(struct cpu *cpu, const struct machine_outcome *outcome);
/* For the main thread: calls the debugger if a vCPU has stopped for it. */
void debug_deliver(struct machine *m);
/* For KVM_SET_GUEST_DEBUG; `known`: the flags that this KVM has. */
void debug_encode(const struct debug_traps *traps, uint32_t known, struct kvm_guest_debug *out);

/* debug_probe.c */
struct debug_means debug_probe(const char *kvm_path);
// }

// lab 07 {
/* virtio.c: devices of the configuration, and the threads that serve them. Part of board_wire() and
 * board_unwire(). */
int virtio_wire(struct machine *m, struct error *err) HV_MUST_CHECK;
void virtio_unwire(struct machine *m);
int virtio_start_threads(struct machine *m, struct error *err) HV_MUST_CHECK;
void virtio_stop_threads(struct machine *m);
/* windows.c: puts v into the next window, or nothing if it is NULL. *out, if set, is to be added to
 * the board also after a failure, and owns v then. -ENOSPC: there is no window left. */
void windows_init(struct windows *w);
void windows_fini(struct windows *w);
int windows_add(struct machine *m, const char *name, struct virtio_dev *v,
                struct device **out) HV_MUST_CHECK;
int windows_add_empty(struct machine *m) HV_MUST_CHECK;
/* board.c: takes ownership of a device, also when it fails. */
int board_add(struct machine *m, struct device *dev) HV_MUST_CHECK;
// }

// lab 09 {
/* bridge.c: the bus is there, with no function; puts v into the next slot, otherwise as
 * windows_add().
 */
int bridge_wire(struct machine *m) HV_MUST_CHECK;
void bridge_unwire(struct machine *m);
int bridge_add(struct machine *m, const char *name, struct virtio_dev *v,
               struct device **out) HV_MUST_CHECK;

/* msi.c */
void msi_init(struct msi_pool *pool, const struct vm *vm);
void msi_fini(struct msi_pool *pool);
/* Gives `vectors` messages to a function: *out and *sink, of which the second points at the first.
 */
int msi_take(struct msi_pool *pool, unsigned vectors, struct msi_range *out,
             struct msix_sink *sink) HV_MUST_CHECK;
// }

// lab 05 {
/* stats.c: bytes of guest memory that are resident in the host's memory. */
uint64_t stats_resident(const struct machine *m);

/* observe.c: to be called around an entry, and around the exit's service. */
void observe_init(struct cpu *cpu);
void observe_entry(struct cpu *cpu);
struct trace_event *observe_exit(struct cpu *cpu);
void observe_answer(struct cpu *cpu, struct trace_event *e);

/* firmware.c, identity.c */
int write_firmware_tables(struct machine *m, struct error *err) HV_MUST_CHECK;
int identify_cpus(struct machine *m, struct error *err) HV_MUST_CHECK;
// }

// lab 10 {
/* holds.c. Does anybody want the world to stand still, the debugger included? */
bool holds_any(const struct machine *m);
/* A debugger has come; and it is about to let the guest go on, or to go. */
void holds_lend(struct machine *m);
void holds_end_loan(struct machine *m);
// }

#endif
