/*
 * A virtual machine: memory, buses, devices and vCPU threads, owned by one object.
 *
 * Life: machine_create() builds everything and loads the kernel, machine_start() lets the vCPUs go,
 * machine_run() is the main thread's event loop until the machine ends, machine_destroy(). A
 * machine that the guest reset is destroyed and created again: every start is a cold start.
 *
 * Threads: one per vCPU, made by machine_start(). The functions here are for the thread that
 * created the machine, except machine_end().
 */
#ifndef HV_MACHINE_MACHINE_H
#define HV_MACHINE_MACHINE_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "hv/base/err.h"
#include "hv/base/log.h"
#include "hv/base/loop.h"   // lab 04
#include "hv/block/block.h" // lab 08
#include "hv/boot/boot.h"
#include "hv/chr/chr.h"
#include "hv/machine/trace.h" // lab 05
#include "hv/mem/mem.h"
#include "hv/net/net.h"   // lab 09
#include "hv/x86/cpuid.h" // lab 05

#define MACHINE_SERIAL_PORTS 2 // lab 02

// lab 08 {
#define MACHINE_DISKS_MAX 16

struct machine_disk {
    struct block *block; /* borrowed */
    unsigned queues;     /* 1..VIRTIO_BLK_QUEUES_MAX, each with a thread of its own */
    const char *serial;  /* borrowed; NULL: none */
    uint64_t iops, bps;  /* limits per second; 0: none */
    bool no_event_idx;   /* without the event index (VIRTIO 1.2 §2.7.10) */
};
// }

// lab 09 {
#define MACHINE_NICS_MAX 8

struct machine_nic {
    struct net *const *nets; /* borrowed, both: one for each pair of queues */
    unsigned queues;         /* pairs: 1..NET_QUEUES_MAX, each with a thread of its own */
    uint8_t mac[6];
    uint64_t packets, bytes; /* limits per second and direction; 0: none */
    bool no_event_idx;       /* as for disks */
};
// }

// lab 09 {
#define MACHINE_CONSOLES_MAX 8

struct machine_console {
    struct chr *chr;  /* borrowed */
    const char *name; /* borrowed; NULL: none */
};
// }

struct machine_config {
    uint64_t memory; /* bytes */
    enum mem_backing backing;
    unsigned cpus; /* 1..X86_CPUS_MAX */
    // lab 04 {
    bool irqchip; /* false: no interrupt controllers, and HLT ends the machine */
    // }
    const char *kvm_path;     /* KVM_DEVICE, or another for tests */
    struct boot_request boot; /* layout is filled in by the machine; its pointers need to live
                                 until machine_create() returns */
    struct chr *serial[MACHINE_SERIAL_PORTS]; /* borrowed; NULL: no such port */ // lab 02
    struct chr *debug;                /* borrowed; port 0xe9 */
    struct loop *loop; /* borrowed */ // lab 04
    const struct log *log;            /* borrowed */
    const struct trace *trace; /* borrowed, for at least `cpus` vCPUs; NULL: none */ // lab 05
    // lab 07 {
    bool rng; /* an entropy device */
    // }
    // lab 08 {
    struct machine_disk disks[MACHINE_DISKS_MAX];
    unsigned disk_count;
    // }
    // lab 09 {
    struct machine_nic nics[MACHINE_NICS_MAX];
    unsigned nic_count;
    struct machine_console consoles[MACHINE_CONSOLES_MAX]; /* ports of one console device */
    unsigned console_count;
    bool balloon;           /* a balloon device … */
    uint64_t balloon_size;  /* … that asks for so many bytes at first */
    const char *vsock_path; /* borrowed; NULL: no socket device */
    uint64_t vsock_cid;     /* the guest's */
    bool virtio_mmio;       /* virtio devices are in the memory-mapped windows, not on PCI */
    // }
};

enum machine_end {
    // lab 05 {
    MACHINE_POWER_OFF, /* ACPI S5 */
    MACHINE_RESET,     /* the guest asked for a reset */
    // }
    MACHINE_DEBUG_EXIT, /* isa-debug-exit; value: what was written */
    MACHINE_HALTED,     /* HLT without an interrupt controller */
    // lab 04 {
    MACHINE_QUIT, /* the user's wish */
    // }
    MACHINE_TRIPLE_FAULT, /* KVM_EXIT_SHUTDOWN */
    MACHINE_CRASH,        /* KVM could not go on: FAIL_ENTRY, INTERNAL_ERROR, or an unknown exit */
    MACHINE_HOST_ERROR,   /* an ioctl failed; value: errno */
};

struct machine_outcome {
    enum machine_end end;
    unsigned cpu; /* which vCPU brought it about */
    uint32_t value;
};

struct machine;

int machine_create(const struct machine_config *cfg, struct machine **out,
                   struct error *err) HV_MUST_CHECK;
void machine_destroy(struct machine *m); /* takes NULL; stops the vCPUs first */

/* Creates the vCPU threads, which start running; or parked, if the machine was paused before. */
int machine_start(struct machine *m, struct error *err) HV_MUST_CHECK;

/* Runs the event loop until the machine ends; then all vCPU threads have ended too. */
int machine_run(struct machine *m, struct machine_outcome *out, struct error *err) HV_MUST_CHECK;

/* Ends the machine with `outcome`, unless it has ended already. Any thread; returns at once. */
void machine_end(struct machine *m, const struct machine_outcome *outcome);

/* Why the machine died, for a person. For an outcome that is TRIPLE_FAULT or CRASH, after
 * machine_run(). */
void machine_report(struct machine *m, const struct machine_outcome *outcome, FILE *out);

// lab 04 {
/* Stops the world: returns once every vCPU is out of the guest, with no I/O half done. And lets it
 * go on. Both may be called any number of times. */
void machine_pause(struct machine *m);
/* Not while somebody holds it: see machine_hold(). */ // lab 10
void machine_resume(struct machine *m);
bool machine_is_paused(const struct machine *m);
// }

// lab 09 {
/* The screen of a console's port has another size. Any thread. */
void machine_resize_console(struct machine *m, unsigned port, uint16_t cols, uint16_t rows);
// }

// lab 05 {
/* Presses the power button: a guest with ACPI shuts down. */
void machine_power_button(struct machine *m);

/* Which boot protocol was used. */
enum boot_protocol machine_protocol(const struct machine *m);

/* Exits by reason and vCPU, guest memory touched, time since creation. */
void machine_print_stats(const struct machine *m, FILE *out);
// }

// lab 10 {
/* --- the parts of the machine's state that must be saved, in order; see machine/board.c --- */
struct device;
unsigned machine_device_count(const struct machine *m);
struct device *machine_device(const struct machine *m, unsigned index);
// }

#endif
