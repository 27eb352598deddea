/*
 * A vCPU: its thread, and the loop that enters the guest and serves its exits.
 *
 * Every exit is served on the vCPU's own thread, synchronously: the guest's instruction is not
 * finished until the device has answered. Stopping a vCPU is a hand-shake in two parts, because a
 * signal alone could arrive just before KVM_RUN and be lost: the one who wants it out sets
 * machine.world and run->immediate_exit, then sends a signal; the vCPU looks at machine.world
 * before each entry, and an entry with immediate_exit set returns at once.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "hv/base/fd.h"
#include "hv/base/num.h"
#include "hv/x86/flat_modes.h"
#include "machine_priv.h"

#define KICK_SIGNAL SIGUSR1

/* Every one of the first exits is sampled, then one in so many: a guest that dies young, as most
 * do, is seen exactly, and a long-lived one pays nothing. */
#define SAMPLE_ALL_UNTIL 64
#define SAMPLE_EVERY 64

/* The vCPU whose thread this is; NULL on every other thread. */
static _Thread_local struct cpu *this_cpu;

/* The signal only has to end KVM_RUN; it needs a handler so as not to end the process. */
static void on_kick(int signal)
{
    (void)signal;
}

void cpu_kick(struct cpu *cpu)
{
    __atomic_store_n(&cpu->vcpu.run->immediate_exit, 1, __ATOMIC_SEQ_CST);
    if (cpu->started)
        (void)pthread_kill(cpu->thread, KICK_SIGNAL); /* ESRCH: it has ended, which is as good */
}

struct cpu *cpu_current(void)
{
    return this_cpu;
}

/* --- initial state --- */

/* vCPU 0 starts where the loader says; the others wait in KVM for INIT and SIPI (SDM 3A §8.4.4). */
static int set_entry(const struct cpu *cpu, const struct boot_entry *entry)
{
    struct kvm_sregs sregs;
    struct kvm_regs regs = {
        .rip = entry->rip,
        .rsp = entry->rsp,
        .rax = entry->rax,
        .rbx = entry->rbx,
        .rsi = entry->rsi,
        .rflags = 1U << 1, /* always set, SDM 1 §3.4.3 */
    };
    int rc = vcpu_get_sregs(&cpu->vcpu, &sregs);

    if (rc < 0)
        return rc;
    switch (entry->mode) {
    case X86_REAL:
        x86_real_mode(&sregs, entry->cs);
        break;
    case X86_PROTECTED:
        x86_protected_mode(&sregs, entry->gdt);
        break;
    case X86_LONG:
        x86_long_mode(&sregs, entry->gdt, entry->cr3);
        break;
    }
    rc = vcpu_set_sregs(&cpu->vcpu, &sregs);
    return rc < 0 ? rc : vcpu_set_regs(&cpu->vcpu, &regs);
}

static int set_cpuid(const struct cpu *cpu, const struct kvm_cpuid2 *supported, struct error *err)
{
    const struct machine *m = cpu->m;
    const struct cpu_policy policy = {
        .cpus = m->cfg.cpus,
        .x2apic = m->cfg.irqchip,
        .tsc_khz = vcpu_tsc_khz(&cpu->vcpu),
        .tsc_deadline = m->cfg.irqchip && kvm_check(&m->kvm, KVM_CAP_TSC_DEADLINE_TIMER) > 0,
    };
    struct kvm_cpuid2 *table;
    int rc = cpuid_for_vcpu(supported, &policy, cpu->vcpu.id, &table);

    if (rc < 0)
        return error_sys(err, rc, "cannot make the CPUID table of vCPU %u", cpu->vcpu.id);
    rc = vcpu_set_cpuid(&cpu->vcpu, table, err);
    free(table);
    return rc;
}

int cpu_create(struct machine *m, struct cpu *cpu, unsigned id, const struct kvm_cpuid2 *supported,
               struct error *err)
{
    unsigned msr_count;
    const struct kvm_msr_entry *msrs = x86_initial_msrs(&msr_count);

    *cpu = (struct cpu){.m = m, .vcpu = {.fd = -1}};
    cpu->last = (struct trace_ring){
        .written = &cpu->last_written, .events = cpu->last_events, .capacity = LAST_EXITS};
    if (m->cfg.trace != NULL)
        cpu->trace = trace_ring(m->cfg.trace, id);
    int rc = vcpu_create(&m->kvm, &m->vm, id, &cpu->vcpu, err);
    if (rc == 0)
        rc = set_cpuid(cpu, supported, err);
    if (rc == 0)
        rc = vcpu_set_msrs(&cpu->vcpu, msrs, msr_count, err);
    if (rc == 0 && id == 0) {
        rc = set_entry(cpu, &m->entry);
        if (rc < 0)
            return error_sys(err, rc, "cannot set the registers of vCPU %u", id);
    }
    return rc;
}

void cpu_destroy(struct cpu *cpu)
{
    vcpu_close(&cpu->vcpu);
}

/* --- exits --- */

static void end_machine(struct cpu *cpu, enum machine_end end, uint32_t value)
{
    const struct machine_outcome outcome = {.end = end, .cpu = cpu->vcpu.id, .value = value};

    machine_end(cpu->m, &outcome);
}

/* A string instruction comes as one exit with `count` elements. All of them go to the same port: it
 * is the data that advances. KVM API §5, "KVM_EXIT_IO". */
static void serve_io(struct cpu *cpu)
{
    struct kvm_run *run = cpu->vcpu.run;
    uint8_t *data = (uint8_t *)run + run->io.data_offset;

    for (uint32_t i = 0; i < run->io.count; i++, data += run->io.size) {
        if (run->io.direction == KVM_EXIT_IO_OUT)
            bus_write(&cpu->m->pio, run->io.port, data, run->io.size);
        else
            bus_read(&cpu->m->pio, run->io.port, data, run->io.size);
    }
}

static void serve_mmio(struct cpu *cpu)
{
    struct kvm_run *run = cpu->vcpu.run;

    if (run->mmio.is_write)
        bus_write(&cpu->m->mmio, run->mmio.phys_addr, run->mmio.data, run->mmio.len);
    else
        bus_read(&cpu->m->mmio, run->mmio.phys_addr, run->mmio.data, run->mmio.len);
}

static void serve_system_event(struct cpu *cpu)
{
    switch (cpu->vcpu.run->system_event.type) {
    case KVM_SYSTEM_EVENT_SHUTDOWN:
        end_machine(cpu, MACHINE_POWER_OFF, 0);
        break;
    case KVM_SYSTEM_EVENT_RESET:
        end_machine(cpu, MACHINE_RESET, 0);
        break;
    default:
        end_machine(cpu, MACHINE_CRASH, KVM_EXIT_SYSTEM_EVENT);
    }
}

static void serve_exit(struct cpu *cpu)
{
    uint32_t reason = cpu->vcpu.run->exit_reason;

    switch (reason) {
    case KVM_EXIT_IO:
        serve_io(cpu);
        break;
    case KVM_EXIT_MMIO:
        serve_mmio(cpu);
        break;
    case KVM_EXIT_INTR:
    case KVM_EXIT_IRQ_WINDOW_OPEN:
        break;
    case KVM_EXIT_HLT:
        end_machine(cpu, MACHINE_HALTED, 0);
        break;
    case KVM_EXIT_SHUTDOWN:
        end_machine(cpu, MACHINE_TRIPLE_FAULT, 0);
        break;
    case KVM_EXIT_SYSTEM_EVENT:
        serve_system_event(cpu);
        break;
    default:
        end_machine(cpu, MACHINE_CRASH, reason);
    }
}

/* --- bookkeeping --- */

/* Fills an event from the run structure. Before the exit is served, so a write's data is there; a
 * read's comes later. */
static void describe_exit(const struct kvm_run *run, struct trace_event *e)
{
    const uint8_t *data;

    *e = (struct trace_event){.reason = (uint16_t)run->exit_reason, .count = 1};
    switch (run->exit_reason) {
    case KVM_EXIT_IO:
        data = (const uint8_t *)run + run->io.data_offset;
        e->addr = run->io.port;
        e->size = run->io.size;
        e->count = run->io.count;
        e->flags = run->io.direction == KVM_EXIT_IO_OUT ? TRACE_WRITE : 0;
        if (e->flags & TRACE_WRITE)
            memcpy(&e->data, data, e->size);
        break;
    case KVM_EXIT_MMIO:
        e->addr = run->mmio.phys_addr;
        e->size = (uint8_t)run->mmio.len;
        e->flags = run->mmio.is_write ? TRACE_WRITE : 0;
        if (e->flags & TRACE_WRITE)
            memcpy(&e->data, run->mmio.data, e->size);
        break;
    case KVM_EXIT_INTERNAL_ERROR:
        e->data = run->internal.suberror;
        break;
    case KVM_EXIT_FAIL_ENTRY:
        e->data = run->fail_entry.hardware_entry_failure_reason;
        break;
    default:
        break;
    }
}

/* What the device answered, after the exit was served. */
static void describe_answer(const struct kvm_run *run, struct trace_event *e)
{
    if (e->flags & TRACE_WRITE)
        return;
    if (run->exit_reason == KVM_EXIT_IO)
        memcpy(&e->data, (const uint8_t *)run + run->io.data_offset, e->size);
    else if (run->exit_reason == KVM_EXIT_MMIO)
        memcpy(&e->data, run->mmio.data, e->size);
}

/* Which registers KVM copies to the run structure at the next exit; KVM API,
 * "KVM_CAP_SYNC_REGS". */
static void choose_sample(struct cpu *cpu)
{
    uint64_t next = cpu->exit_count + 1;
    bool whole = next <= SAMPLE_ALL_UNTIL || next % SAMPLE_EVERY == 0;
    uint64_t wanted = 0;

    if (cpu->m->can_sample && whole)
        wanted = KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS;
    else if (cpu->m->can_sample && cpu->trace.events != NULL)
        wanted = KVM_SYNC_X86_REGS;
    cpu->vcpu.run->kvm_valid_regs = wanted;
}

static void keep_sample(struct cpu *cpu)
{
    const struct kvm_run *run = cpu->vcpu.run;
    const uint64_t both = KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS;

    /* A triple fault leaves an AMD processor with reset values; the state before it is worth more.
     */
    if ((run->kvm_valid_regs & both) != both || run->exit_reason == KVM_EXIT_SHUTDOWN)
        return;
    cpu->sample = run->s.regs;
    cpu->sample_at = cpu->exit_count;
}

static void count_exit(struct cpu *cpu)
{
    uint32_t reason = cpu->vcpu.run->exit_reason;

    cpu->exits[reason < EXIT_REASONS ? reason : EXIT_REASONS - 1]++;
    cpu->exit_count++;
}

/* One exit, from KVM_RUN's return to the next entry. */
static void handle_exit(struct cpu *cpu)
{
    struct trace_event *e = trace_next(&cpu->last);
    const struct kvm_run *run = cpu->vcpu.run;
    uint64_t start = cpu->trace.events != NULL ? now_ns() : 0;

    count_exit(cpu);
    describe_exit(run, e);
    keep_sample(cpu);
    if (run->kvm_valid_regs & KVM_SYNC_X86_REGS) {
        e->rip = run->s.regs.regs.rip;
        e->flags |= TRACE_HAS_RIP;
    }
    trace_commit(&cpu->last);
    serve_exit(cpu);
    describe_answer(run, e);
    if (start != 0) {
        uint64_t took = now_ns() - start;
        e->ns = start;
        e->handle_ns = took < UINT32_MAX ? (uint32_t)took : UINT32_MAX;
        *trace_next(&cpu->trace) = *e;
        trace_commit(&cpu->trace);
    }
}

/* --- the thread --- */

/* Finishes the instruction whose exit was served last: KVM completes port and memory reads at the
 * next entry, so a vCPU that parks without one would be saved half-way through an instruction. KVM
 * API §5. */
static void complete_pending_io(struct cpu *cpu)
{
    __atomic_store_n(&cpu->vcpu.run->immediate_exit, 1, __ATOMIC_SEQ_CST);
    (void)!vcpu_run(&cpu->vcpu); /* -EINTR, by design */
}

/* Called when machine.world is not WORLD_RUN: parks until it changes. False: the thread has to end.
 */
static bool obey_world(struct cpu *cpu)
{
    struct machine *m = cpu->m;

    if (atomic_load(&m->world) == WORLD_PAUSE)
        complete_pending_io(cpu);
    pthread_mutex_lock(&m->world_lock);
    cpu->parked = true;
    pthread_cond_broadcast(&m->world_change);
    while (m->world == WORLD_PAUSE)
        pthread_cond_wait(&m->world_change, &m->world_lock);
    cpu->parked = m->world != WORLD_RUN;
    /* Under the lock: a pause that comes after this sets it again. */
    __atomic_store_n(&cpu->vcpu.run->immediate_exit, 0, __ATOMIC_SEQ_CST);
    bool go_on = m->world == WORLD_RUN;
    pthread_mutex_unlock(&m->world_lock);
    return go_on;
}

static void *cpu_main(void *arg)
{
    struct cpu *cpu = arg;
    struct machine *m = cpu->m;

    this_cpu = cpu;
    for (;;) {
        if (atomic_load(&m->world) != WORLD_RUN && !obey_world(cpu))
            return NULL;
        choose_sample(cpu);
        int rc = vcpu_run(&cpu->vcpu);
        if (rc == 0)
            handle_exit(cpu);
        else if (rc != -EINTR)
            end_machine(cpu, MACHINE_HOST_ERROR, (uint32_t)-rc);
        if (rc < 0 && rc != -EINTR)
            return NULL;
    }
}

/* All signals but the kick belong to the main thread. */
static void block_signals(sigset_t *old)
{
    sigset_t all;

    sigfillset(&all);
    sigdelset(&all, KICK_SIGNAL);
    (void)pthread_sigmask(SIG_BLOCK, &all, old); /* cannot fail with these arguments */
}

int cpu_start_thread(struct cpu *cpu, struct error *err)
{
    struct sigaction sa = {.sa_handler = on_kick};
    char name[16];
    sigset_t old;

    (void)sigaction(KICK_SIGNAL, &sa, NULL); /* no SA_RESTART: KVM_RUN has to return */
    block_signals(&old);
    int rc = -pthread_create(&cpu->thread, NULL, cpu_main, cpu);
    (void)pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (rc < 0)
        return error_sys(err, rc, "cannot start the thread of vCPU %u", cpu->vcpu.id);
    cpu->started = true;
    (void)snprintf(name, sizeof(name), "vcpu%u", cpu->vcpu.id);
    (void)pthread_setname_np(cpu->thread, name); /* for top and gdb only */
    return 0;
}
