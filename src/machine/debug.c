/*
 * A debugger's hold on the machine.
 *
 * The vCPU that runs into a trap is on its own thread, the debugger on the main thread. The vCPU
 * notes what happened in its struct cpu, stops the world as machine_pause() does, wakes the main
 * thread and parks; debug_deliver() finds the note there once everyone is parked. So the debugger
 * never sees a vCPU that moves, and no lock is held while it is called.
 *
 * Without a debugger nothing of this is on the way of a vCPU: the loop looks at machine.world
 * alone.
 */
#include "hv/machine/debug.h"

#include <stdio.h>
#include <string.h>

#include "hv/kvm/guest_debug.h"
#include "hv/kvm/vcpu_state.h"
#include "machine_priv.h"

/* Debug registers, SDM 3B §17.2. */
#define DR6_SLOTS 0xfU
#define DR6_SINGLE_STEP (1U << 14)
#define DR7_FIXED (1U << 10)
#define DR7_GLOBAL(n) (2U << (2 * (n)))
#define DR7_ACCESS_SHIFT(n) (16 + 4 * (n))
#define DR7_LEN_SHIFT(n) (18 + 4 * (n))

#define VECTOR_DB 1
#define VECTOR_BP 3

/* --- on the vCPU's thread --- */

/* The note is complete before the vCPU parks, and read only after that. */
static void call_debugger(struct cpu *cpu, const struct debug_stop *stop)
{
    struct machine *m = cpu->m;

    pthread_mutex_lock(&m->world_lock);
    cpu->stop = *stop;
    cpu->has_stop = true;
    pthread_mutex_unlock(&m->world_lock);
    world_set(m, WORLD_PAUSE);
    atomic_store(&m->debugger.called, true);
    loop_wake(m->cfg.loop);
}

void debug_trap(struct cpu *cpu)
{
    const struct kvm_debug_exit_arch *arch = &cpu->vcpu.run->debug.arch;
    struct debug_stop stop = {.event = DEBUG_HARDWARE, .cpu = cpu->vcpu.id};

    if (!atomic_load(&cpu->m->debugger.attached))
        return;
    if (arch->exception == VECTOR_BP)
        stop.event = DEBUG_INT3;
    else if (arch->dr6 & DR6_SINGLE_STEP)
        stop.event = DEBUG_STEPPED;
    if (arch->exception == VECTOR_DB)
        stop.slots = (unsigned)arch->dr6 & DR6_SLOTS;
    call_debugger(cpu, &stop);
}

bool debug_is_trap(struct cpu *cpu)
{
    const struct kvm_run *run = cpu->vcpu.run;
    const struct debug_stop stop = {.event = DEBUG_OUT, .cpu = cpu->vcpu.id};

    if (run->io.port != DEBUG_TRAP_PORT || run->io.direction != KVM_EXIT_IO_OUT)
        return false;
    if (!atomic_load(&cpu->m->debugger.attached))
        return false;
    call_debugger(cpu, &stop);
    return true;
}

bool debug_delay_death(struct cpu *cpu, const struct machine_outcome *outcome)
{
    const struct debug_stop stop = {.event = DEBUG_DYING, .cpu = cpu->vcpu.id, .outcome = *outcome};

    if (!atomic_load(&cpu->m->debugger.attached))
        return false;
    if (outcome->end != MACHINE_TRIPLE_FAULT && outcome->end != MACHINE_CRASH)
        return false;
    cpu->dying = true;
    call_debugger(cpu, &stop);
    return true;
}

/* --- turns --- */

/* A vCPU that has something to report and is not held; NULL if there is none. */
static struct cpu *find_stop_locked(struct machine *m)
{
    for (unsigned i = 0; i < m->cfg.cpus; i++)
        if (m->cpus[i].has_stop && !m->cpus[i].held)
            return &m->cpus[i];
    return NULL;
}

void debug_deliver(struct machine *m)
{
    if (!atomic_exchange(&m->debugger.called, false) || m->debugger.has_turn)
        return;
    pthread_mutex_lock(&m->world_lock);
    struct cpu *cpu = find_stop_locked(m);
    if (cpu != NULL)
        cpu->has_stop = false;
    pthread_mutex_unlock(&m->world_lock);
    if (cpu == NULL)
        return;
    machine_debug_stop(m);
    m->debugger.ops->stopped(m->debugger.ctx, &cpu->stop);
}

void machine_debug_stop(struct machine *m)
{
    machine_pause(m);
    m->debugger.has_turn = true;
}

/* A dying vCPU whose death was reported, and which is to run; NULL if there is none. */
static const struct cpu *find_dead(const struct machine *m, const bool *run)
{
    for (unsigned i = 0; i < m->cfg.cpus; i++)
        if (m->cpus[i].dying && !m->cpus[i].has_stop && (run == NULL || run[i]))
            return &m->cpus[i];
    return NULL;
}

void machine_debug_resume(struct machine *m, const bool *run)
{
    const struct cpu *dead = find_dead(m, run);

    holds_end_loan(m); // lab 10
    m->debugger.has_turn = false;
    if (dead != NULL) {
        machine_end(m, &dead->stop.outcome);
        return;
    }
    pthread_mutex_lock(&m->world_lock);
    for (unsigned i = 0; i < m->cfg.cpus; i++)
        m->cpus[i].held = run != NULL && !run[i];
    bool report = find_stop_locked(m) != NULL;
    pthread_mutex_unlock(&m->world_lock);
    if (report) {
        atomic_store(&m->debugger.called, true);
        loop_wake(m->cfg.loop);
        return;
    }
    atomic_store(&m->debugger.called, false); /* by one that is held: its stop is kept */
    machine_resume(m);
}

/* --- coming and going --- */

void machine_debug_attach(struct machine *m, const struct debug_ops *ops, void *ctx)
{
    m->debugger.ops = ops;
    m->debugger.ctx = ctx;
    atomic_store(&m->debugger.attached, true);
    holds_lend(m); // lab 10
    machine_debug_stop(m);
}

void machine_debug_detach(struct machine *m)
{
    machine_debug_stop(m);
    atomic_store(&m->debugger.attached, false);
    for (unsigned i = 0; i < m->cfg.cpus; i++) {
        /* If it fails, there were no traps: a KVM that sets them also takes them away. */
        (void)!machine_debug_set(m, i, &(struct debug_traps){0});
        m->cpus[i].has_stop = false;
    }
    machine_debug_resume(m, NULL);
}

/* --- traps --- */

static uint64_t dr7_length(uint8_t len)
{
    return len == 8 ? 2 : len - 1U; /* 1, 2, 8, 4 bytes: 0, 1, 2, 3 */
}

static uint64_t dr7_access(enum debug_access access)
{
    return access == DEBUG_EXECUTE ? 0 : access == DEBUG_WRITE ? 1 : 3;
}

/* The four addresses and the control register that says what to do with them. */
static bool fill_debug_registers(const struct debug_slot *slots, struct kvm_guest_debug_arch *arch)
{
    uint64_t dr7 = 0;

    for (unsigned n = 0; n < DEBUG_SLOTS; n++) {
        if (slots[n].len == 0)
            continue;
        arch->debugreg[n] = slots[n].addr;
        dr7 |= DR7_GLOBAL(n) | dr7_access(slots[n].access) << DR7_ACCESS_SHIFT(n) |
               dr7_length(slots[n].len) << DR7_LEN_SHIFT(n);
    }
    if (dr7 == 0)
        return false;
    arch->debugreg[7] = dr7 | DR7_FIXED;
    return true;
}

void debug_encode(const struct debug_traps *traps, uint32_t known, struct kvm_guest_debug *out)
{
    *out = (struct kvm_guest_debug){0};
    if (traps->step)
        out->control |= KVM_GUESTDBG_SINGLESTEP | (known & KVM_GUESTDBG_BLOCKIRQ);
    if (traps->int3)
        out->control |= KVM_GUESTDBG_USE_SW_BP;
    if (traps->raise_bp)
        out->control |= KVM_GUESTDBG_INJECT_BP;
    if (fill_debug_registers(traps->slots, &out->arch))
        out->control |= KVM_GUESTDBG_USE_HW_BP;
    if (out->control != 0)
        out->control |= KVM_GUESTDBG_ENABLE;
}

int machine_debug_set(struct machine *m, unsigned cpu, const struct debug_traps *traps)
{
    struct kvm_guest_debug debug;

    debug_encode(traps, kvm_debug_flags(&m->kvm), &debug);
    return vcpu_set_debug(&m->cpus[cpu].vcpu, &debug);
}

struct debug_means machine_debug_means(const struct machine *m)
{
    return debug_probe(m->cfg.kvm_path);
}

/* --- registers --- */

int machine_debug_get_regs(const struct machine *m, unsigned cpu, struct debug_regs *out)
{
    const struct vcpu *vcpu = &m->cpus[cpu].vcpu;
    struct debug_regs regs;
    int rc = vcpu_get_regs(vcpu, &regs.regs);

    if (rc == 0)
        rc = vcpu_get_sregs(vcpu, &regs.sregs);
    if (rc == 0)
        rc = vcpu_get_fpu(vcpu, &regs.fpu);
    if (rc == 0)
        *out = regs;
    return rc;
}

/* Only what differs is set: KVM_SET_REGS forgets a pending exception, KVM_SET_SREGS more. */
int machine_debug_set_regs(struct machine *m, unsigned cpu, const struct debug_regs *regs)
{
    const struct vcpu *vcpu = &m->cpus[cpu].vcpu;
    struct debug_regs old;
    int rc = machine_debug_get_regs(m, cpu, &old);

    if (rc == 0 && memcmp(&old.sregs, &regs->sregs, sizeof(old.sregs)) != 0)
        rc = vcpu_set_sregs(vcpu, &regs->sregs);
    if (rc == 0 && memcmp(&old.regs, &regs->regs, sizeof(old.regs)) != 0)
        rc = vcpu_set_regs(vcpu, &regs->regs);
    if (rc == 0 && memcmp(&old.fpu, &regs->fpu, sizeof(old.fpu)) != 0)
        rc = vcpu_set_fpu(vcpu, &regs->fpu);
    return rc;
}

/* --- what else a debugger wants to know --- */

static uint32_t activity(const struct machine *m, unsigned cpu)
{
    uint32_t state;

    return vcpu_get_mp_state(&m->cpus[cpu].vcpu, &state) == 0 ? state : KVM_MP_STATE_RUNNABLE;
}

bool machine_debug_is_halted(const struct machine *m, unsigned cpu)
{
    return activity(m, cpu) == KVM_MP_STATE_HALTED;
}

static const char *activity_name(const struct machine *m, unsigned cpu)
{
    if (m->cpus[cpu].dying)
        return "dying";
    switch (activity(m, cpu)) {
    case KVM_MP_STATE_UNINITIALIZED:
    case KVM_MP_STATE_INIT_RECEIVED:
        return "waiting to be started";
    case KVM_MP_STATE_HALTED:
        return "halted";
    default:
        return "running";
    }
}

char *machine_debug_state_text(const struct machine *m, unsigned cpu, char *buf, size_t size)
{
    struct kvm_sregs sregs;
    const char *mode = "?";

    if (vcpu_get_sregs(&m->cpus[cpu].vcpu, &sregs) == 0)
        mode = x86_mode_name(x86_mode_of(&sregs));
    (void)snprintf(buf, size, "%s, %s", activity_name(m, cpu), mode);
    return buf;
}

void machine_print_exits(const struct machine *m, FILE *out)
{
    char text[DEBUG_STATE_TEXT_MAX];

    for (unsigned i = 0; i < m->cfg.cpus; i++)
        (void)fprintf(out, "vCPU %u: %s\n", i, machine_debug_state_text(m, i, text, sizeof(text)));
    machine_print_stats(m, out); // lab 05
}

unsigned machine_cpu_count(const struct machine *m)
{
    return m->cfg.cpus;
}

const struct mem *machine_memory(const struct machine *m)
{
    return &m->mem;
}
