/*
 * The states of protected and long mode with flat segments.
 *
 * A segment register is two things: the selector a program sees, and the hidden descriptor (base,
 * limit, attributes) that the processor works with. A guest that loads a selector fills the hidden
 * part from its descriptor table; a monitor writes the hidden part directly. Both are made here
 * from the same constants, so that the guest can reload any selector it was started with and find
 * what it had.
 *
 * SVM runs almost any hidden state. VMX checks it on entry (SDM 3C §26.3.1.2), and the checks shape
 * what is below: "accessed" and "busy" bits set as if the registers had been loaded, the
 * granularity bit consistent with the limit, a task register that is always usable, an LDTR that
 * says it is not.
 *
 * Left out: virtual-8086 mode, task switching, and a TSS in memory (base 0 is never read before the
 * guest has loaded its own, for nothing changes privilege until then).
 */
#include "hv/x86/flat_modes.h"

#include "hv/base/todo.h"
#include "x86/x86_priv.h"

#define FLAT_LIMIT 0xffffffff
#define TSS_LIMIT 0x67 /* a TSS without an I/O permission map, SDM 3A §7.2.1 */

/* What protected and long mode share beside the segments for code and data. */
static void set_tables(struct kvm_sregs *sregs, uint64_t gdt)
{
    sregs->tr = x86_task_segment(X86_SEL_TSS, TSS_LIMIT);
    sregs->ldt = x86_no_ldt();
    sregs->gdt = (struct kvm_dtable){.base = gdt, .limit = X86_GDT_SIZE - 1};
    sregs->idt = (struct kvm_dtable){0};
    sregs->cr2 = 0;
}

/* --- protected mode --- */

/* EXERCISE 3.1: protected mode with flat segments (SDM 3A §3.4.5). flat_segment() makes the hidden
 * part that a load of `selector` would have left: base 0, all of the 4 GiB, in units of 4 KiB (the
 * limit is in bytes here, whatever G says), 32 bits wide, for code or data, present, privilege
 * level 0. x86_protected_mode(): CS has X86_SEL_CODE and TYPE_CODE; DS, ES, FS, GS and SS have
 * X86_SEL_DATA and TYPE_DATA; set_tables() does the rest of the segments. CR0 has PE, and ET, which
 * is always set; CR3, CR4 and EFER are 0. `sregs` may hold anything before. */
// SOLUTION 3.1
static struct kvm_segment flat_segment(uint16_t selector, uint8_t type)
{
    return (struct kvm_segment){
        .selector = selector,
        .limit = FLAT_LIMIT,
        .type = type,
        .s = 1,
        .present = 1,
        .db = 1,
        .g = 1,
    };
}

void x86_protected_mode(struct kvm_sregs *sregs, uint64_t gdt)
{
    set_tables(sregs, gdt);
    x86_set_data_segments(sregs, flat_segment(X86_SEL_DATA, TYPE_DATA));
    sregs->cs = flat_segment(X86_SEL_CODE, TYPE_CODE);
    sregs->cr0 = CR0_PE | CR0_ET;
    sregs->cr3 = 0;
    sregs->cr4 = 0;
    sregs->efer = 0;
}
// ELSE
// static struct kvm_segment flat_segment(uint16_t selector, uint8_t type)
// {
//     (void)todo("3.1");
//     return (struct kvm_segment){.selector = selector, .type = type};
// }
//
// void x86_protected_mode(struct kvm_sregs *sregs, uint64_t gdt)
// {
//     set_tables(sregs, gdt);
//     sregs->cs = flat_segment(X86_SEL_CODE, TYPE_CODE);
// }
// END 3.1

/* --- long mode --- */

/* EXERCISE 3.2: 64-bit mode. Its code segment is a flat one with L set and D clear: both set is
 * reserved (SDM 3A §5.2.1). Base and limit are ignored in this mode, but VMX checks them still. The
 * data segments are those of protected mode. The control registers are as they are after the
 * sequence of SDM 3A §9.8.5: protection, paging with its root at `cr3`, physical address extension,
 * long mode enabled and *active*. Beside them CR0.ET as ever, CR0.NE and CR0.WP, which 64-bit
 * kernels expect, and EFER.NXE, so that pages can forbid execution. */
// SOLUTION 3.2
static struct kvm_segment long_code_segment(uint16_t selector)
{
    struct kvm_segment code = flat_segment(selector, TYPE_CODE);

    code.l = 1;
    code.db = 0;
    return code;
}

void x86_long_mode(struct kvm_sregs *sregs, uint64_t gdt, uint64_t cr3)
{
    set_tables(sregs, gdt);
    x86_set_data_segments(sregs, flat_segment(X86_SEL_DATA, TYPE_DATA));
    sregs->cs = long_code_segment(X86_SEL_CODE);
    sregs->cr0 = CR0_PE | CR0_ET | CR0_NE | CR0_WP | CR0_PG;
    sregs->cr3 = cr3;
    sregs->cr4 = CR4_PAE;
    /* LMA is the processor's to set when PG follows LME; whoever writes all at once writes it too.
     */
    sregs->efer = EFER_LME | EFER_LMA | EFER_NXE;
}
// ELSE
// static struct kvm_segment long_code_segment(uint16_t selector)
// {
//     (void)todo("3.2");
//     return flat_segment(selector, TYPE_CODE);
// }
//
// void x86_long_mode(struct kvm_sregs *sregs, uint64_t gdt, uint64_t cr3)
// {
//     set_tables(sregs, gdt);
//     sregs->cs = long_code_segment(X86_SEL_CODE);
//     sregs->cr3 = cr3;
// }
// END 3.2

/* --- the descriptor table --- */

/* EXERCISE 3.3: the descriptor table that holds, in memory, what the hidden parts hold already, so
 * that the guest can load the selectors it was started with. descriptor() packs a segment into the
 * eight bytes of SDM 3A figure 3-8: with G set its limit counts 4 KiB units. x86_write_gdt() writes
 * X86_GDT_SIZE bytes to `gdt`: at each selector its descriptor, 0 elsewhere. Code is 64-bit code if
 * `mode` is X86_LONG, else 32-bit code; data; and the task segment that set_tables() loads. The
 * latter's descriptor has 16 bytes in long mode (§7.2.3), of which the upper half is base 63:32. */
// SOLUTION 3.3
static uint64_t descriptor(const struct kvm_segment *seg)
{
    uint64_t limit = seg->g ? seg->limit >> 12 : seg->limit;
    uint64_t attributes = seg->type | (uint64_t)seg->s << 4 | (uint64_t)seg->dpl << 5 |
                          (uint64_t)seg->present << 7 | (uint64_t)seg->avl << 12 |
                          (uint64_t)seg->l << 13 | (uint64_t)seg->db << 14 | (uint64_t)seg->g << 15;

    return (limit & 0xffff) | (limit & 0xf0000) << 32 | (seg->base & 0xffffff) << 16 |
           (seg->base & 0xff000000) << 32 | attributes << 40;
}

int x86_write_gdt(const struct mem *mem, uint64_t gdt, enum x86_mode mode)
{
    const struct kvm_segment code =
        mode == X86_LONG ? long_code_segment(X86_SEL_CODE) : flat_segment(X86_SEL_CODE, TYPE_CODE);
    const struct kvm_segment data = flat_segment(X86_SEL_DATA, TYPE_DATA);
    const struct kvm_segment task = x86_task_segment(X86_SEL_TSS, TSS_LIMIT);
    const uint64_t table[X86_GDT_SIZE / 8] = {
        [X86_SEL_CODE / 8] = descriptor(&code),
        [X86_SEL_DATA / 8] = descriptor(&data),
        [X86_SEL_TSS / 8] = descriptor(&task),
    };

    return mem_write(mem, gdt, table, sizeof(table));
}
// ELSE
// int x86_write_gdt(const struct mem *mem, uint64_t gdt, enum x86_mode mode)
// {
//     (void)mem;
//     (void)gdt;
//     (void)mode;
//     return todo("3.3");
// }
// END 3.3
