/*
 * What a debugger can do to a machine.
 *
 * The debugger and the guest take turns. The guest has its turn from machine_debug_resume() until
 * something stops it: a step that is done, a breakpoint, the debugger's own machine_debug_stop(),
 * or a death that would otherwise end the machine. Then all vCPUs are out of the guest, and stay
 * out, and the debugger looks and changes what it likes. What stops a second vCPU in the same
 * moment is kept and reported when that one is resumed.
 *
 * Which instructions the traps are on is the debugger's business; here is only how they are set,
 * and the registers. It reaches memory through machine_memory().
 *
 * Threads: all functions from the thread that runs machine_run(), which also calls debug_ops.
 */
#ifndef HV_MACHINE_DEBUG_H
#define HV_MACHINE_DEBUG_H

#include <linux/kvm.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "hv/base/err.h"
#include "hv/machine/machine.h"

#define DEBUG_SLOTS 4 /* debug registers that hold an address */

enum debug_event {
    DEBUG_STEPPED,  /* one instruction is done */
    DEBUG_INT3,     /* at an int3, which has not been executed; the debugger's or the guest's own */
    DEBUG_OUT,      /* behind an `out` to DEBUG_TRAP_PORT, likewise, which did nothing */
    DEBUG_HARDWARE, /* debug registers, those in `slots` */
    DEBUG_DYING,    /* a triple fault, or KVM cannot go on: being resumed is the machine's end */
};

struct debug_stop {
    enum debug_event event;
    unsigned cpu;
    unsigned slots;                 /* bit n: debug register n; with DEBUG_STEPPED too */
    struct machine_outcome outcome; /* with DEBUG_DYING */
};

struct debug_ops {
    /* The guest's turn is over. */
    void (*stopped)(void *ctx, const struct debug_stop *stop);
};

enum debug_access { DEBUG_EXECUTE, DEBUG_WRITE, DEBUG_READ_WRITE };

/* An address in a debug register. It is a linear one, and a multiple of len. */
struct debug_slot {
    uint64_t addr;
    uint8_t len; /* 1, 2, 4 or 8 bytes; 1 with DEBUG_EXECUTE; 0: the register is free */
    enum debug_access access;
};

/* What is to stop a vCPU, and what is to happen to it first. */
struct debug_traps {
    bool step; /* after one instruction; interrupts wait meanwhile, if KVM can do that */
    bool int3;
    bool raise_bp; /* deliver the #BP of the int3 it stands at, which is the guest's own */
    struct debug_slot slots[DEBUG_SLOTS];
};

struct debug_regs {
    struct kvm_regs regs;
    struct kvm_sregs sregs;
    struct kvm_fpu fpu;
};

/* One debugger at a time. Stops the machine without a call of `stopped`. `ops` and `ctx` are
 * borrowed until the detach. */
void machine_debug_attach(struct machine *m, const struct debug_ops *ops, void *ctx);

/* Takes all traps away and lets the machine go on (or die, if it was dying). */
void machine_debug_detach(struct machine *m);

/* Ends the guest's turn, without a call of `stopped`. */
void machine_debug_stop(struct machine *m);

/* Begins the guest's turn: those vCPUs go on for which run[cpu] is true (all, if run is
 * NULL), the others stay where they are. A stop that was kept for one that is to run is reported
 * instead, and nothing runs. */
void machine_debug_resume(struct machine *m, const bool *run);

/* --- in the debugger's turn --- */

/* -errno as KVM gives it. */
int machine_debug_set(struct machine *m, unsigned cpu,
                      const struct debug_traps *traps) HV_MUST_CHECK;
int machine_debug_get_regs(const struct machine *m, unsigned cpu,
                           struct debug_regs *out) HV_MUST_CHECK;
int machine_debug_set_regs(struct machine *m, unsigned cpu,
                           const struct debug_regs *regs) HV_MUST_CHECK;

/* What the vCPU does, in a few words: "running, long mode", "halted, real mode". Written to buf
 * (of size bytes), always terminated; returns buf. */
#define DEBUG_STATE_TEXT_MAX 64
char *machine_debug_state_text(const struct machine *m, unsigned cpu, char *buf, size_t size);
bool machine_debug_is_halted(const struct machine *m, unsigned cpu);

/* Which traps do stop a guest here: int3, debug registers on instructions and on data. Steps do
 * everywhere. So does, in a guest's kernel, an instruction that writes to a port where no device
 * is: that is what DEBUG_TRAP_PORT is for. Tried out, which takes some milliseconds. */
struct debug_means {
    bool int3, execute, data;
};
struct debug_means machine_debug_means(const struct machine *m);

/* KVM moves past an `out` to this port before it tells us, and past one to another port only when
 * the guest goes on (KVM API, KVM_X86_QUIRK_OUT_7E_INC_RIP). */
#define DEBUG_TRAP_PORT 0x7e

unsigned machine_cpu_count(const struct machine *m);
const struct mem *machine_memory(const struct machine *m); /* borrowed */

/* For people, as in the report of a death: registers; exits so far; the page walk of a virtual
 * address. */
void machine_print_regs(const struct machine *m, unsigned cpu, FILE *out);
void machine_print_exits(const struct machine *m, FILE *out);
void machine_print_walk(const struct machine *m, unsigned cpu, uint64_t va, FILE *out);

#endif
