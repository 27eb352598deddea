/*
 * Why a guest died, in words.
 *
 * A dead guest leaves an exit reason, and sometimes its registers. From these, the page tables they
 * point to and the last exits, this file tells a person what the guest was doing and names the
 * likely cause. The causes are a list of observations, tried in order from the specific to the
 * general: a wrong guess is worse than a modest one.
 *
 * After a triple fault an AMD processor's registers hold reset values (KVM initialises the vCPU,
 * because SVM leaves its state undefined). The report then uses the state as of the last sampled
 * exit and says so.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "hv/base/num.h"
#include "hv/machine/probe.h" // lab 05
#include "hv/x86/names.h"
#include "hv/x86/paging.h"
#include "hv/x86/vmx_checks.h"
#include "machine_priv.h"

#define INSTRUCTION_BYTES 15 /* the longest instruction, SDM 2A §2.3.11 */

/* What the death is explained from. */
struct scene {
    const struct machine *m;
    const struct cpu *cpu;
    const struct machine_outcome *outcome;
    struct kvm_regs regs;
    struct kvm_sregs sregs;
    bool have_regs;
    bool sampled; /* they are those of exit number cpu->sample_at, not of the end */
    struct page_walk at_rip;
    struct page_walk at_cr2;
    struct page_walk at_rsp;
    uint8_t code[INSTRUCTION_BYTES];
    size_t code_len;
    uint64_t detail; /* suberror, or the hardware's entry failure reason */
};

/* The state that INIT or RESET leaves (SDM 3A table 9-1), which no guest dies in by itself. */
static bool is_reset_state(const struct kvm_regs *regs, const struct kvm_sregs *sregs)
{
    return regs->rip == 0xfff0 && sregs->cs.selector == 0xf000;
}

static void find_registers(struct scene *s)
{
    s->have_regs = vcpu_get_regs(&s->cpu->vcpu, &s->regs) == 0 &&
                   vcpu_get_sregs(&s->cpu->vcpu, &s->sregs) == 0;
    if (s->outcome->end != MACHINE_TRIPLE_FAULT || !s->have_regs ||
        !is_reset_state(&s->regs, &s->sregs))
        return;
    s->have_regs = false;
    // lab 05 {
    s->have_regs = s->sampled = s->cpu->sample_at != 0;
    s->regs = s->cpu->sample.regs;
    s->sregs = s->cpu->sample.sregs;
    // }
}

/* The linear address of an offset in a segment; bases count outside 64-bit mode only (and FS, GS).
 */
static uint64_t linear(const struct scene *s, const struct kvm_segment *seg, uint64_t offset)
{
    if (s->sregs.cs.l && x86_mode_of(&s->sregs) == X86_LONG)
        return offset;
    return (seg->base + offset) & UINT32_MAX;
}

static void look_around(struct scene *s)
{
    const struct mem *mem = &s->m->mem;
    bool user = s->sregs.ss.dpl == 3;
    uint64_t rip = linear(s, &s->sregs.cs, s->regs.rip);
    uint64_t rsp = linear(s, &s->sregs.ss, s->regs.rsp);

    page_walk(mem, &s->sregs, s->regs.rflags, rip, PAGE_EXECUTE, user, &s->at_rip);
    page_walk(mem, &s->sregs, s->regs.rflags, s->sregs.cr2, PAGE_READ, user, &s->at_cr2);
    page_walk(mem, &s->sregs, s->regs.rflags, rsp - 8, PAGE_WRITE, user, &s->at_rsp);
    s->code_len = page_read_virtual(mem, &s->sregs, rip, s->code, sizeof(s->code));
}

static uint64_t exit_detail(const struct kvm_run *run)
{
    if (run->exit_reason == KVM_EXIT_INTERNAL_ERROR)
        return run->internal.suberror;
    if (run->exit_reason == KVM_EXIT_FAIL_ENTRY)
        return run->fail_entry.hardware_entry_failure_reason;
    return 0;
}

static void set_scene(struct scene *s, const struct machine *m,
                      const struct machine_outcome *outcome)
{
    *s = (struct scene){.m = m, .cpu = &m->cpus[outcome->cpu], .outcome = outcome};
    s->detail = exit_detail(s->cpu->vcpu.run);
    find_registers(s);
    if (s->have_regs)
        look_around(s);
}

/* --- the likely cause --- */

static bool paging(const struct scene *s)
{
    return (s->sregs.cr0 >> 31) & 1;
}

/* An instruction that raises an exception whatever the registers are; NULL when it is none we know.
 */
static const char *faulting_instruction(const struct scene *s)
{
    if (s->code_len >= 2 && s->code[0] == 0x0f && s->code[1] == 0x0b)
        return "ud2 at RIP raises #UD";
    if (s->code_len >= 2 && s->code[0] == 0xcd)
        return "the int instruction at RIP";
    if (s->code_len >= 1 && s->code[0] == 0xcc)
        return "int3 at RIP raises #BP";
    return NULL;
}

/* The IDT cannot take even vector 14: 8 bytes a gate, 16 in long mode (SDM 3A §6.10, §6.14.1). */
static bool idt_too_small(const struct scene *s)
{
    unsigned gate = x86_mode_of(&s->sregs) == X86_LONG ? 16 : 8;

    return x86_mode_of(&s->sregs) != X86_REAL && s->sregs.idt.limit < 15 * gate - 1;
}

static void cause_of_triple_fault(const struct scene *s, FILE *out)
{
    const char *instruction = faulting_instruction(s);

    (void)fprintf(out, "the processor met an exception, then another while it tried to deliver it, "
                       "and another while delivering that (#DF); ");
    if (idt_too_small(s))
        (void)fprintf(out, "the IDT has a limit of 0x%x, so no exception can be delivered at all",
                      s->sregs.idt.limit);
    else if (s->at_rsp.result != WALK_OK)
        (void)fprintf(out, "the stack at RSP cannot take the exception's frame: %s",
                      walk_result_text(s->at_rsp.result));
    else
        (void)fprintf(out, "the handlers in the IDT at 0x%" PRIx64 " (limit 0x%x) could not run",
                      (uint64_t)s->sregs.idt.base, s->sregs.idt.limit);

    if (s->at_rip.result != WALK_OK)
        (void)fprintf(out, ". The first exception: the code at RIP cannot be fetched (%s)",
                      walk_result_text(s->at_rip.result));
    else if (instruction != NULL)
        (void)fprintf(out, ". The first exception: %s", instruction);
    else if (paging(s) && s->sregs.cr2 != 0 && s->at_cr2.result != WALK_OK)
        (void)fprintf(out, ". The first exception is likely a page fault at CR2 0x%" PRIx64 " (%s)",
                      (uint64_t)s->sregs.cr2, walk_result_text(s->at_cr2.result));
}

static void cause_of_entry_failure(const struct scene *s, FILE *out)
{
    const char *objection = s->have_regs ? x86_vmx_objection(&s->sregs) : NULL;

    if (objection != NULL)
        (void)fprintf(out,
                      "the processor refused the guest's state (hardware reason 0x%" PRIx64 "): %s",
                      s->detail, objection);
    else
        (void)fprintf(out,
                      "the processor refused to enter the guest, hardware reason 0x%" PRIx64
                      " (0x80000021 means invalid guest state, SDM 3C §26.8)",
                      s->detail);
}

static void cause_of_internal_error(const struct scene *s, FILE *out)
{
    const uint64_t emulation = KVM_INTERNAL_ERROR_EMULATION;

    // lab 05 {
    if (probe_flavour() == PROBE_SOFTWARE) {
        (void)fprintf(out,
                      "this host's KVM interprets guest code, and can neither deliver interrupts "
                      "nor run every instruction (`hv doctor` tells more; the lab machine, "
                      "tests/labvm/labvm, has a complete one)");
        return;
    }
    // }
    if (s->have_regs && s->at_rip.result != WALK_OK)
        (void)fprintf(out, "the code at RIP cannot be fetched: %s",
                      walk_result_text(s->at_rip.result));
    else if (s->have_regs && mem_find(&s->m->mem, s->at_rip.pa) == NULL)
        (void)fprintf(out, "the guest jumped to 0x%" PRIx64 ", where there is no memory",
                      s->at_rip.pa);
    else if (s->detail == emulation)
        (void)fprintf(
            out, "KVM had to emulate the instruction at RIP and does not know it; that happens "
                 "to instructions that access device memory");
    else
        (void)fprintf(out, "KVM gave up with suberror %" PRIu64 " (KVM API §5, \"internal\")",
                      s->detail);
}

static void print_cause(const struct scene *s, FILE *out)
{
    (void)fprintf(out, "Likely cause: ");
    if (s->outcome->end == MACHINE_TRIPLE_FAULT && s->have_regs)
        cause_of_triple_fault(s, out);
    else if (s->outcome->end == MACHINE_TRIPLE_FAULT)
        (void)fprintf(out,
                      "a triple fault before the first exit, with registers that the processor "
                      "did not keep; run with --trace, or under gdb, to come closer");
    else if (s->outcome->value == KVM_EXIT_FAIL_ENTRY)
        cause_of_entry_failure(s, out);
    else if (s->outcome->value == KVM_EXIT_INTERNAL_ERROR)
        cause_of_internal_error(s, out);
    else
        (void)fprintf(out, "hv does not handle exit reason %u (%s)", s->outcome->value,
                      kvm_exit_name(s->outcome->value));
    (void)fprintf(out, ".\n");
}

/* --- the rest of the report --- */

// lab 05 {
static void print_last_exits(const struct scene *s, FILE *out)
{
    const unsigned shown = 12;
    uint64_t first, end;

    trace_span(&s->cpu->last, &first, &end);
    if (end - first > shown)
        first = end - shown;
    (void)fprintf(out, "Last exits of CPU %u (of %" PRIu64 "):\n", s->outcome->cpu, end);
    for (uint64_t i = first; i < end; i++) {
        const struct trace_event *e = trace_at(&s->cpu->last, i);
        char text[TRACE_TEXT_MAX];
        (void)fprintf(out, "  #%-8" PRIu64 " %s", i + 1, trace_text(e, text));
        if (e->flags & TRACE_HAS_RIP)
            (void)fprintf(out, "  RIP 0x%" PRIx64, e->rip);
        (void)fprintf(out, "\n");
    }
}
// }

static void print_code(const struct scene *s, FILE *out)
{
    (void)fprintf(out, "Instruction bytes at RIP:");
    if (s->code_len == 0)
        (void)fprintf(out, " not readable");
    for (size_t i = 0; i < s->code_len; i++)
        (void)fprintf(out, " %02x", s->code[i]);
    (void)fprintf(out, "\n");
}

// lab 04 {
void machine_print_regs(const struct machine *m, unsigned cpu, FILE *out)
{
    const struct vcpu *vcpu = &m->cpus[cpu].vcpu;
    struct kvm_regs regs;
    struct kvm_sregs sregs;

    if (vcpu_get_regs(vcpu, &regs) == 0 && vcpu_get_sregs(vcpu, &sregs) == 0)
        x86_print_regs(&regs, &sregs, out);
}

void machine_print_walk(const struct machine *m, unsigned cpu, uint64_t va, FILE *out)
{
    const struct vcpu *vcpu = &m->cpus[cpu].vcpu;
    struct page_walk walk;
    struct kvm_regs regs;
    struct kvm_sregs sregs;

    if (vcpu_get_regs(vcpu, &regs) < 0 || vcpu_get_sregs(vcpu, &sregs) < 0)
        return;
    page_walk(&m->mem, &sregs, regs.rflags, va, PAGE_READ, sregs.ss.dpl == 3, &walk);
    page_walk_print(&walk, out);
}
// }

static void print_state(const struct scene *s, FILE *out)
{
    (void)fprintf(out, "Registers of CPU %u, %s", s->outcome->cpu,
                  x86_mode_name(x86_mode_of(&s->sregs)));
    // lab 05 {
    if (s->sampled)
        (void)fprintf(out, ", as of exit #%" PRIu64 " (the processor did not keep later ones)",
                      s->cpu->sample_at);
    // }
    (void)fprintf(out, ":\n");
    x86_print_regs(&s->regs, &s->sregs, out);
    print_code(s, out);
    (void)fprintf(out, "Page walk of RIP:\n");
    page_walk_print(&s->at_rip, out);
    if (paging(s)) {
        (void)fprintf(out, "Page walk of CR2:\n");
        page_walk_print(&s->at_cr2, out);
    }
}

void explain(const struct machine *m, const struct machine_outcome *outcome, FILE *out)
{
    struct scene s;

    set_scene(&s, m, outcome);
    print_last_exits(&s, out); // lab 05
    if (s.have_regs)
        print_state(&s, out);
    print_cause(&s, out);
}
