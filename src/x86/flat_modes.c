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

#include "x86/x86_priv.h"

#define FLAT_LIMIT 0xffffffff
#define TSS_LIMIT 0x67 /* a TSS without an I/O permission map, SDM 3A §7.2.1 */

/* --- single segments --- */

/* All of the 4 GiB address space. In 64-bit mode base and limit are ignored, but VMX checks them.
 */
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

/* A 64-bit code segment has L set and D clear: SDM 3A §5.2.1 reserves both set. */
static struct kvm_segment long_code_segment(uint16_t selector)
{
    struct kvm_segment code = flat_segment(selector, TYPE_CODE);

    code.l = 1;
    code.db = 0;
    return code;
}

/* --- modes --- */

/* What protected and long mode share: everything but the code segment and the control registers. */
static void set_flat_tables(struct kvm_sregs *sregs, uint64_t gdt)
{
    x86_set_data_segments(sregs, flat_segment(X86_SEL_DATA, TYPE_DATA));
    sregs->tr = x86_task_segment(X86_SEL_TSS, TSS_LIMIT);
    sregs->ldt = x86_no_ldt();
    sregs->gdt = (struct kvm_dtable){.base = gdt, .limit = X86_GDT_SIZE - 1};
    sregs->idt = (struct kvm_dtable){0};
    sregs->cr2 = 0;
}

void x86_protected_mode(struct kvm_sregs *sregs, uint64_t gdt)
{
    set_flat_tables(sregs, gdt);
    sregs->cs = flat_segment(X86_SEL_CODE, TYPE_CODE);
    sregs->cr0 = CR0_PE | CR0_ET;
    sregs->cr3 = 0;
    sregs->cr4 = 0;
    sregs->efer = 0;
}

void x86_long_mode(struct kvm_sregs *sregs, uint64_t gdt, uint64_t cr3)
{
    set_flat_tables(sregs, gdt);
    sregs->cs = long_code_segment(X86_SEL_CODE);
    sregs->cr0 = CR0_PE | CR0_ET | CR0_NE | CR0_WP | CR0_PG;
    sregs->cr3 = cr3;
    sregs->cr4 = CR4_PAE;
    /* LMA is the processor's to set when PG follows LME; whoever writes all at once writes it too.
     */
    sregs->efer = EFER_LME | EFER_LMA | EFER_NXE;
}

/* --- the descriptor table --- */

/* The eight bytes in memory that a load of the selector would read; SDM 3A §3.4.5, figure 3-8. With
 * G set the limit counts 4 KiB units. */
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
    /* The last entry is the high half of a 16-byte TSS descriptor (SDM 3A §7.2.3): base 63:32, 0.
     */
    const uint64_t table[X86_GDT_SIZE / 8] = {
        [X86_SEL_CODE / 8] = descriptor(&code),
        [X86_SEL_DATA / 8] = descriptor(&data),
        [X86_SEL_TSS / 8] = descriptor(&task),
    };

    return mem_write(mem, gdt, table, sizeof(table));
}
