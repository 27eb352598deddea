/*
 * What the machine's own files share: machine.c (life and death), board.c (the wiring), cpu.c (vCPU
 * threads and the run loop), report.c (explanations).
 */
#ifndef HV_MACHINE_PRIV_H
#define HV_MACHINE_PRIV_H

#include <linux/kvm.h>
#include <pthread.h>
#include <stdatomic.h>

#include "hv/bus/bus.h"
#include "hv/bus/irq.h"
#include "hv/kvm/irqchip.h"
#include "hv/kvm/kvm.h"
#include "hv/kvm/vcpu_state.h"
#include "hv/machine/machine.h"

#define EXIT_REASONS 64 /* counted one by one; larger numbers together in the last */
#define LAST_EXITS 32   /* kept in memory for the report, a power of two */
#define BOARD_DEVICES_MAX 16

/* What every vCPU is asked to do; read at the top of its loop. */
enum world { WORLD_RUN, WORLD_PAUSE, WORLD_STOP };

struct cpu {
    struct machine *m; /* borrowed */
    struct vcpu vcpu;
    pthread_t thread;
    bool started; /* thread is valid; main thread only */
    bool parked;  /* out of the guest, waiting; guarded by machine.world_lock */

    /* Written by the vCPU's thread; read by others only while it is parked or gone. */
    uint64_t exits[EXIT_REASONS];
    uint64_t exit_count;
    struct trace_ring trace; /* events NULL: not traced */
    struct trace_ring last;  /* the last exits, always */
    _Atomic uint64_t last_written;
    struct trace_event last_events[LAST_EXITS];
    struct kvm_sync_regs sample; /* registers as of exit number sample_at */
    uint64_t sample_at;          /* 0: no sample yet */
};

struct machine {
    struct machine_config cfg; /* copied; the pointers of cfg.boot are gone after creation */
    struct kvm kvm;
    struct vm vm;
    struct mem mem;
    struct bus pio;
    struct bus mmio;
    struct device *devices[BOARD_DEVICES_MAX]; /* owned, in order of creation */
    unsigned device_count;
    struct device *power; /* the ACPI power registers, one of devices; NULL without irqchip */
    struct boot_entry entry;
    uint64_t created_ns;
    bool can_sample; /* KVM_CAP_SYNC_REGS has registers and segments */

    struct cpu *cpus; /* cfg.cpus of them */

    _Atomic int world;          /* enum world */
    pthread_mutex_t world_lock; /* guards parked of all cpus, and changes of world */
    pthread_cond_t world_change;

    pthread_mutex_t
        end_lock; /* guards ended and outcome; innermost: taken last, no call made under it */
    bool ended;
    struct machine_outcome outcome;
    struct log_limit unclaimed_limit;
};

/* Lock order: a device's lock, then end_lock. world_lock is never held with either. */

/* board.c */
int board_wire(struct machine *m, struct error *err) HV_MUST_CHECK;
void board_unwire(struct machine *m);

/* cpu.c */
int cpu_create(struct machine *m, struct cpu *cpu, unsigned id, const struct kvm_cpuid2 *supported,
               struct error *err) HV_MUST_CHECK;
void cpu_destroy(struct cpu *cpu);
int cpu_start_thread(struct cpu *cpu, struct error *err) HV_MUST_CHECK;
/* Makes the vCPU leave the guest soon, or not enter it, so that it looks at machine.world. */
void cpu_kick(struct cpu *cpu);
/* The vCPU whose thread this is, or NULL. */
struct cpu *cpu_current(void);

#endif
