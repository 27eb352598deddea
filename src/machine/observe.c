/*
 * What hv remembers of a vCPU's exits: counts, the last few for a report, all of them for a trace,
 * and now and then the registers.
 */
#include <string.h>

#include "hv/base/counter.h"
#include "hv/base/fd.h"
#include "machine_priv.h"

/* Every one of the first exits is sampled, then one in so many: a guest that dies young, as most
 * do, is seen exactly, and a long-lived one pays nothing. */
#define SAMPLE_ALL_UNTIL 64
#define SAMPLE_EVERY 64

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
void observe_entry(struct cpu *cpu)
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

    counter_add(&cpu->exits[reason < EXIT_REASONS ? reason : EXIT_REASONS - 1], 1);
    counter_add(&cpu->exit_count, 1);
}

void observe_init(struct cpu *cpu)
{
    const struct trace *trace = cpu->m->cfg.trace;

    cpu->last = (struct trace_ring){
        .written = &cpu->last_written, .events = cpu->last_events, .capacity = LAST_EXITS};
    if (trace != NULL)
        cpu->trace = trace_ring(trace, cpu->vcpu.id);
}

struct trace_event *observe_exit(struct cpu *cpu)
{
    struct trace_event *e = trace_next(&cpu->last);
    const struct kvm_run *run = cpu->vcpu.run;
    uint64_t start = cpu->trace.events != NULL ? now_ns() : 0;

    count_exit(cpu);
    describe_exit(run, e);
    e->ns = start;
    keep_sample(cpu);
    if (run->kvm_valid_regs & KVM_SYNC_X86_REGS) {
        e->rip = run->s.regs.regs.rip;
        e->flags |= TRACE_HAS_RIP;
    }
    trace_commit(&cpu->last);
    return e;
}

void observe_answer(struct cpu *cpu, struct trace_event *e)
{
    describe_answer(cpu->vcpu.run, e);
    if (cpu->trace.events == NULL)
        return;
    uint64_t took = now_ns() - e->ns;
    e->handle_ns = took < UINT32_MAX ? (uint32_t)took : UINT32_MAX;
    *trace_next(&cpu->trace) = *e;
    trace_commit(&cpu->trace);
}
