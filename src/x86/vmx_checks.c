/*
 * VMX's rules on the guest's state, in software.
 *
 * When VMX refuses to enter a guest it says only "invalid guest state" (exit reason 0x80000021).
 * The rules that may have been broken are many but mechanical; checking them here turns the number
 * into a sentence. On SVM the same state would have run, so these checks are also how a unit test
 * on any machine makes sure that a starting state suits both.
 *
 * Checked: SDM 3C §26.3.1.1 as far as struct kvm_sregs shows it, §26.3.1.2 and §26.3.1.3. Left out:
 * virtual-8086 mode, MSRs, RIP and RFLAGS, and what "unrestricted guest" relaxes is taken as
 * relaxed (every processor that a current KVM supports well has it).
 */
#include "hv/x86/vmx_checks.h"

#include <stdbool.h>
#include <stddef.h>

#include "hv/base/num.h"
#include "x86/x86_priv.h"

#define SELECTOR_TI 4 /* the selector refers to the LDT */

/* The bits above the highest implemented one (47, or 56 with LA57) are copies of it. */
static bool is_canonical(uint64_t addr, uint64_t cr4)
{
    unsigned unused = cr4 & CR4_LA57 ? 7 : 16;

    return (uint64_t)((int64_t)(addr << unused) >> unused) == addr;
}

/* G clear: the limit fits 20 bits. G set: it counts whole 4 KiB units. */
static bool granularity_fits(const struct kvm_segment *seg)
{
    if (seg->g)
        return (seg->limit & 0xfff) == 0xfff;
    return seg->limit <= 0xfffff;
}

static bool is_usable(const struct kvm_segment *seg)
{
    return !seg->unusable && seg->present;
}

static const char *control_objection(const struct kvm_sregs *sregs)
{
    bool ia32e = sregs->efer & EFER_LMA;
    bool paging = sregs->cr0 & CR0_PG;

    if (paging && !(sregs->cr0 & CR0_PE))
        return "CR0.PG is set without CR0.PE";
    if (ia32e && !(paging && (sregs->cr4 & CR4_PAE)))
        return "EFER.LMA is set without CR0.PG and CR4.PAE";
    if (ia32e != (paging && (sregs->efer & EFER_LME)))
        return "EFER.LMA does not agree with EFER.LME and CR0.PG";
    return NULL;
}

static const char *code_objection(const struct kvm_sregs *sregs)
{
    const struct kvm_segment *cs = &sregs->cs;
    bool conforming = cs->type == 13 || cs->type == 15;

    if (!is_usable(cs))
        return "CS is not usable";
    if (cs->type == 3)
        return cs->dpl != 0 ? "CS is a data segment with DPL above 0" : NULL;
    if ((cs->type & 9) != 9)
        return "CS is not an accessed code segment";
    if (conforming ? cs->dpl > sregs->ss.dpl : cs->dpl != sregs->ss.dpl)
        return "CS.DPL does not agree with SS.DPL";
    if ((sregs->efer & EFER_LMA) && cs->l && cs->db)
        return "CS has both L and D set";
    return NULL;
}

static const char *stack_objection(const struct kvm_sregs *sregs)
{
    const struct kvm_segment *ss = &sregs->ss;

    if ((sregs->cs.type == 3 || !(sregs->cr0 & CR0_PE)) && ss->dpl != 0)
        return "SS.DPL is not 0 in real mode";
    if (is_usable(ss) && ss->type != 3 && ss->type != 7)
        return "SS is not an accessed, writable data segment";
    return NULL;
}

static bool data_type_fits(const struct kvm_segment *seg)
{
    bool accessed = seg->type & 1;
    bool unreadable_code = (seg->type & 8) && !(seg->type & 2);

    return !is_usable(seg) || (accessed && !unreadable_code);
}

static const char *data_objection(const struct kvm_sregs *sregs)
{
    const struct kvm_segment *const data[] = {&sregs->ds, &sregs->es, &sregs->fs, &sregs->gs};

    for (size_t i = 0; i < ARRAY_LEN(data); i++) {
        if (!data_type_fits(data[i]))
            return "DS, ES, FS or GS is not an accessed, readable segment";
    }
    return NULL;
}

/* What holds for CS, SS, DS, ES, FS and GS alike. */
static const char *common_objection(const struct kvm_sregs *sregs)
{
    const struct kvm_segment *const all[] = {&sregs->cs, &sregs->ss, &sregs->ds,
                                             &sregs->es, &sregs->fs, &sregs->gs};

    for (size_t i = 0; i < ARRAY_LEN(all); i++) {
        bool wide_base = all[i] == &sregs->fs || all[i] == &sregs->gs;

        if (!is_usable(all[i]))
            continue;
        if (!all[i]->s)
            return "a code or data segment is marked as a system segment";
        if (!granularity_fits(all[i]))
            return "a segment's G bit does not agree with its limit";
        if (!wide_base && all[i]->base > UINT32_MAX)
            return "a segment other than FS and GS has a base above 4 GiB";
    }
    if (!is_canonical(sregs->fs.base, sregs->cr4) || !is_canonical(sregs->gs.base, sregs->cr4))
        return "the base of FS or GS is not canonical";
    return NULL;
}

static const char *task_objection(const struct kvm_sregs *sregs)
{
    const struct kvm_segment *tr = &sregs->tr;
    bool ia32e = sregs->efer & EFER_LMA;

    if (!is_usable(tr) || tr->s)
        return "TR is not a usable system segment";
    if (tr->type != 11 && (ia32e || tr->type != 3))
        return "TR is not a busy TSS";
    if (tr->selector & SELECTOR_TI)
        return "TR refers to the LDT";
    if (!granularity_fits(tr))
        return "TR's G bit does not agree with its limit";
    if (!is_canonical(tr->base, sregs->cr4))
        return "the base of TR is not canonical";
    return NULL;
}

static const char *ldt_objection(const struct kvm_sregs *sregs)
{
    const struct kvm_segment *ldt = &sregs->ldt;

    if (!is_usable(ldt))
        return NULL;
    if (ldt->s || ldt->type != 2 || (ldt->selector & SELECTOR_TI) || !granularity_fits(ldt) ||
        !is_canonical(ldt->base, sregs->cr4))
        return "LDTR is usable but does not describe an LDT";
    return NULL;
}

static const char *tables_objection(const struct kvm_sregs *sregs)
{
    if (!is_canonical(sregs->gdt.base, sregs->cr4) || !is_canonical(sregs->idt.base, sregs->cr4))
        return "the base of GDTR or IDTR is not canonical";
    return NULL; /* the limits have 16 bits in struct kvm_dtable, as VMX demands */
}

const char *x86_vmx_objection(const struct kvm_sregs *sregs)
{
    static const char *(*const checks[])(const struct kvm_sregs *) = {
        control_objection, code_objection, stack_objection, data_objection,
        common_objection,  task_objection, ldt_objection,   tables_objection,
    };

    for (size_t i = 0; i < ARRAY_LEN(checks); i++) {
        const char *objection = checks[i](sregs);

        if (objection != NULL)
            return objection;
    }
    return NULL;
}
