/*
 * A vCPU: its first registers, its thread, and the loop that enters the guest and has its exits
 * served.
 */
#include <errno.h>
#include <signal.h> // lab 04
#include <stdio.h>

#include "hv/x86/flat_modes.h" // lab 03
#include "machine_priv.h"

/* The vCPU whose thread this is; NULL on every other thread. */
static _Thread_local struct cpu *this_cpu;

struct cpu *cpu_current(void)
{
    return this_cpu;
}

/* --- initial state --- */

static int set_registers(const struct cpu *cpu, const struct boot_entry *entry)
{
    struct kvm_sregs sregs;
    struct kvm_regs regs = {
        .rip = entry->rip,
        // lab 03 {
        .rsp = entry->rsp,
        .rax = entry->rax,
        .rbx = entry->rbx,
        .rsi = entry->rsi,
        // }
        .rflags = 1U << 1, /* always set, SDM 1 §3.4.3 */
    };
    int rc = vcpu_get_sregs(&cpu->vcpu, &sregs);

    if (rc < 0)
        return rc;
    if (entry->mode == X86_REAL)
        x86_real_mode(&sregs, entry->cs);
    if (entry->mode == X86_PROTECTED)                  // lab 03
        x86_protected_mode(&sregs, entry->gdt);        // lab 03
    if (entry->mode == X86_LONG)                       // lab 03
        x86_long_mode(&sregs, entry->gdt, entry->cr3); // lab 03
    rc = vcpu_set_sregs(&cpu->vcpu, &sregs);
    return rc < 0 ? rc : vcpu_set_regs(&cpu->vcpu, &regs);
}

int cpu_enter(const struct cpu *cpu, const struct boot_entry *entry, struct error *err)
{
    int rc = set_registers(cpu, entry);

    return rc < 0 ? error_sys(err, rc, "cannot set the registers of vCPU %u", cpu->vcpu.id) : 0;
}

/* --- life --- */

int cpu_create(struct machine *m, struct cpu *cpu, unsigned id, struct error *err)
{
    *cpu = (struct cpu){.m = m, .vcpu = {.fd = -1, .id = id}};
    observe_init(cpu); // lab 05
    return vcpu_create(&m->kvm, &m->vm, id, &cpu->vcpu, err);
}

void cpu_destroy(struct cpu *cpu)
{
    if (cpu->m != NULL) /* else it was never created, and 0 is no descriptor of ours */
        vcpu_close(&cpu->vcpu);
}

void cpu_end_machine(struct cpu *cpu, enum machine_end end, uint32_t value)
{
    const struct machine_outcome outcome = {.end = end, .cpu = cpu->vcpu.id, .value = value};

    if (debug_delay_death(cpu, &outcome)) // lab 04
        return;                           // lab 04
    machine_end(cpu->m, &outcome);
}

/* --- the thread --- */

static void handle_exit(struct cpu *cpu)
{
    struct trace_event *e = observe_exit(cpu); // lab 05

    serve_exit(cpu);
    observe_answer(cpu, e); // lab 05
}

bool cpu_run_once(struct cpu *cpu)
{
    observe_entry(cpu); // lab 05
    int rc = vcpu_run(&cpu->vcpu);

    if (rc == 0)
        handle_exit(cpu);
    else if (rc != -EINTR)
        cpu_end_machine(cpu, MACHINE_HOST_ERROR, (uint32_t)-rc);
    return rc == 0;
}

/* Looked at before every entry. */
static bool may_run(struct cpu *cpu)
{
    bool run = atomic_load(&cpu->m->world) == WORLD_RUN;

    if (!run)                  // lab 04
        run = world_obey(cpu); // lab 04
    return run;
}

static void *cpu_main(void *arg)
{
    struct cpu *cpu = arg;

    this_cpu = cpu;
    // lab 04 {
    /* A pause from before there was this thread has left it set, and may be over again. Whoever
     * kicks from now on has changed the world before, which may_run() sees. */
    __atomic_store_n(&cpu->vcpu.run->immediate_exit, 0, __ATOMIC_SEQ_CST);
    // }
    while (may_run(cpu))
        (void)cpu_run_once(cpu);
    return NULL;
}

int cpu_start_thread(struct cpu *cpu, struct error *err)
{
    char name[16];
    sigset_t old; // lab 04

    world_prepare_thread(&old); // lab 04
    int rc = -pthread_create(&cpu->thread, NULL, cpu_main, cpu);
    (void)pthread_sigmask(SIG_SETMASK, &old, NULL); // lab 04
    if (rc < 0)
        return error_sys(err, rc, "cannot start the thread of vCPU %u", cpu->vcpu.id);
    cpu->started = true;
    (void)snprintf(name, sizeof(name), "vcpu%u", cpu->vcpu.id);
    (void)pthread_setname_np(cpu->thread, name); /* for top and gdb only */
    return 0;
}
