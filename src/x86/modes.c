/*
 * The state of real mode, and telling the modes apart.
 *
 * A segment register is two things: the selector a program sees, and the hidden descriptor (base,
 * limit, attributes) that the processor works with. In real mode the base is the selector times 16,
 * nothing is looked up, and what the hidden part says besides is what reset left there.
 *
 * Left out: virtual-8086 mode, and "unreal" mode's large limits.
 */
#include "hv/x86/modes.h"

#include "hv/base/num.h"
#include "hv/base/todo.h"
#include "x86/x86_priv.h"

/* --- real mode --- */

/* EXERCISE 1.5: the registers of real mode, in place of those that reset left (SDM 3A §9.1.4,
 * §20.1). CS has the selector `cs`, DS, ES, FS, GS and SS the selector 0. Each has the base that
 * real mode gives its selector, a limit of 64 KiB, and the type of a code or data segment that is
 * present. There is a task register and no LDT (x86_priv.h). The IDT is the interrupt vector table:
 * 256 far pointers of 4 bytes at address 0. The GDT, which real mode never reads, is what reset
 * makes it: 64 KiB at address 0. Protection, paging, long mode and every extension are off, CR2 and
 * CR3 are 0; the caches are on. What is not named here (the APIC base, CR8) stays as it is. */
// SOLUTION 1.5
#define REAL_LIMIT 0xffff

static struct kvm_segment real_segment(uint16_t selector, uint8_t type)
{
    return (struct kvm_segment){
        .selector = selector,
        .base = (uint64_t)selector << 4,
        .limit = REAL_LIMIT,
        .type = type,
        .s = 1,
        .present = 1,
    };
}

void x86_real_mode(struct kvm_sregs *sregs, uint16_t cs)
{
    sregs->cs = real_segment(cs, TYPE_CODE);
    x86_set_data_segments(sregs, real_segment(0, TYPE_DATA));
    sregs->tr = x86_task_segment(0, REAL_LIMIT);
    sregs->ldt = x86_no_ldt();
    sregs->gdt = (struct kvm_dtable){.limit = REAL_LIMIT};
    /* The interrupt vector table of the 8086 is the IDT of real mode: 256 far pointers at 0. */
    sregs->idt = (struct kvm_dtable){.limit = 256 * 4 - 1};
    /* Reset leaves the caches off (CD, NW); firmware would have switched them on. */
    sregs->cr0 = CR0_ET;
    sregs->cr2 = 0;
    sregs->cr3 = 0;
    sregs->cr4 = 0;
    sregs->efer = 0;
}
// ELSE
// void x86_real_mode(struct kvm_sregs *sregs, uint16_t cs)
// {
//     (void)todo("1.5");
// }
// END 1.5

/* --- for explanations --- */

enum x86_mode x86_mode_of(const struct kvm_sregs *sregs)
{
    if (!(sregs->cr0 & CR0_PE))
        return X86_REAL;
    if ((sregs->efer & EFER_LMA) && sregs->cs.l)
        return X86_LONG;
    return X86_PROTECTED; /* compatibility mode too: what the code sees is 32 bits */
}

const char *x86_mode_name(enum x86_mode mode)
{
    static const char *const names[] = {"real mode", "protected mode", "long mode"};

    return (unsigned)mode < ARRAY_LEN(names) ? names[mode] : "?";
}
