/*
 * Starting states, their descriptor table, and VMX's rules on both.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "hv/base/num.h"
#include "hv/x86/flat_modes.h"
#include "hv/x86/vmx_checks.h"
#include "support/ram.h"

#define GDT 0x1000
#define CR3 0x2000

/* Registers as nobody would set them, so that what a function forgets to set is seen. */
static struct kvm_sregs poisoned(void)
{
    struct kvm_sregs sregs;

    memset(&sregs, 0xa5, sizeof(sregs));
    sregs.apic_base = 0xfee00900;
    sregs.cr8 = 0;
    return sregs;
}

static struct kvm_sregs long_mode(void)
{
    struct kvm_sregs sregs = poisoned();

    x86_long_mode(&sregs, GDT, CR3);
    return sregs;
}

/* --- modes --- */

Test(modes, real_mode_satisfies_vmx)
{
    struct kvm_sregs sregs = poisoned();

    x86_real_mode(&sregs, 0xf000);
    cr_assert_null(x86_vmx_objection(&sregs));
    cr_assert_eq(x86_mode_of(&sregs), X86_REAL);
    cr_assert_eq(sregs.cs.selector, 0xf000);
    cr_assert_eq(sregs.cs.base, 0xf0000);
    cr_assert_eq(sregs.cs.limit, 0xffff);
    cr_assert_eq(sregs.ds.base, 0);
    cr_assert_eq(sregs.ss.base, 0);
    cr_assert_eq(sregs.idt.base, 0);
    cr_assert_eq(sregs.idt.limit, 0x3ff);
}

Test(modes, protected_mode_satisfies_vmx)
{
    struct kvm_sregs sregs = poisoned();

    x86_protected_mode(&sregs, GDT);
    cr_assert_null(x86_vmx_objection(&sregs));
    cr_assert_eq(x86_mode_of(&sregs), X86_PROTECTED);
    cr_assert_eq(sregs.cr0, 0x11);
    cr_assert_eq(sregs.efer, 0);
    cr_assert_eq(sregs.cs.db, 1);
    cr_assert_eq(sregs.cs.limit, 0xffffffff);
    cr_assert_eq(sregs.gdt.base, GDT);
    cr_assert_eq(sregs.gdt.limit, X86_GDT_SIZE - 1);
    cr_assert_eq(sregs.idt.limit, 0, "an exception must be a triple fault");
}

Test(modes, long_mode_satisfies_vmx)
{
    struct kvm_sregs sregs = long_mode();

    cr_assert_null(x86_vmx_objection(&sregs));
    cr_assert_eq(x86_mode_of(&sregs), X86_LONG);
    cr_assert_eq(sregs.cr3, CR3);
    cr_assert_eq(sregs.cr4, 0x20);
    cr_assert_eq(sregs.efer, 0xd00);
    cr_assert_eq(sregs.cs.l, 1);
    cr_assert_eq(sregs.cs.db, 0);
}

Test(modes, keep_what_kvm_set)
{
    struct kvm_sregs sregs = long_mode();

    cr_assert_eq(sregs.apic_base, 0xfee00900);
}

Test(modes, compatibility_mode_counts_as_protected)
{
    struct kvm_sregs sregs = long_mode();

    sregs.cs.l = 0;
    sregs.cs.db = 1;
    cr_assert_eq(x86_mode_of(&sregs), X86_PROTECTED);
}

Test(modes, have_names)
{
    cr_assert_str_eq(x86_mode_name(X86_REAL), "real mode");
    cr_assert_str_eq(x86_mode_name(X86_PROTECTED), "protected mode");
    cr_assert_str_eq(x86_mode_name(X86_LONG), "long mode");
    cr_assert_str_eq(x86_mode_name((enum x86_mode)7), "?");
}

/* --- descriptor table: decode what was written and compare with the registers --- */

static struct kvm_segment decode(uint64_t d, uint16_t selector)
{
    struct kvm_segment seg = {
        .selector = selector,
        .base = (d >> 16 & 0xffffff) | (d >> 32 & 0xff000000),
        .limit = (d & 0xffff) | (d >> 32 & 0xf0000),
        .type = d >> 40 & 15,
        .s = d >> 44 & 1,
        .dpl = d >> 45 & 3,
        .present = d >> 47 & 1,
        .avl = d >> 52 & 1,
        .l = d >> 53 & 1,
        .db = d >> 54 & 1,
        .g = d >> 55 & 1,
    };

    if (seg.g)
        seg.limit = seg.limit << 12 | 0xfff;
    return seg;
}

static void assert_table_matches(const struct mem *mem, const struct kvm_sregs *sregs)
{
    const struct kvm_segment *const segs[] = {&sregs->cs, &sregs->ds, &sregs->es, &sregs->fs,
                                              &sregs->gs, &sregs->ss, &sregs->tr};

    for (size_t i = 0; i < ARRAY_LEN(segs); i++) {
        struct kvm_segment in_table;
        uint64_t d;

        cr_assert_eq(mem_read_u64(mem, sregs->gdt.base + segs[i]->selector, &d), 0);
        in_table = decode(d, segs[i]->selector);
        cr_assert_arr_eq(&in_table, segs[i], sizeof(in_table), "segment %zu", i);
    }
}

Test(gdt, matches_protected_mode_registers)
{
    struct kvm_sregs sregs = poisoned();
    struct mem mem;

    ram_init(&mem, 64 * KIB);
    cr_assert_eq(x86_write_gdt(&mem, GDT, X86_PROTECTED), 0);
    x86_protected_mode(&sregs, GDT);
    assert_table_matches(&mem, &sregs);
    mem_fini(&mem);
}

Test(gdt, matches_long_mode_registers)
{
    struct kvm_sregs sregs = long_mode();
    struct mem mem;

    ram_init(&mem, 64 * KIB);
    cr_assert_eq(x86_write_gdt(&mem, GDT, X86_LONG), 0);
    assert_table_matches(&mem, &sregs);
    mem_fini(&mem);
}

Test(gdt, writes_exactly_its_size)
{
    static const uint8_t untouched[64] = {[0 ... 63] = 0x5a};
    uint8_t around[64];
    struct mem mem;

    ram_init(&mem, 64 * KIB);
    cr_assert_eq(mem_write(&mem, GDT, untouched, 64), 0);
    cr_assert_eq(x86_write_gdt(&mem, GDT, X86_LONG), 0);
    cr_assert_eq(mem_read(&mem, GDT, around, 64), 0);
    cr_assert_arr_eq(around + X86_GDT_SIZE, untouched, 64 - X86_GDT_SIZE);
    cr_assert_arr_eq(around, ((uint8_t[16]){0}), 16, "two null descriptors");
    mem_fini(&mem);
}

Test(gdt, outside_memory_is_refused)
{
    struct mem mem;

    ram_init(&mem, 64 * KIB);
    cr_assert_eq(x86_write_gdt(&mem, 64 * KIB - X86_GDT_SIZE + 8, X86_LONG), -EFAULT);
    mem_fini(&mem);
}

/* --- SDM 3C §26.3.1.2: each rule, broken alone --- */

Test(vmx, segment_must_not_contradict_granularity)
{
    struct kvm_sregs sregs = long_mode();

    sregs.ds.g = 0;
    cr_assert_str_eq(x86_vmx_objection(&sregs), "a segment's G bit does not agree with its limit");
    sregs = long_mode();
    sregs.ds.limit = 0xfffff;
    cr_assert_null(x86_vmx_objection(&sregs), "0xfffff with G set ends a 4 KiB unit");
    sregs.ds.limit = 0xffffe;
    cr_assert_not_null(x86_vmx_objection(&sregs));
}

Test(vmx, segment_must_be_accessed)
{
    struct kvm_sregs sregs = long_mode();

    sregs.cs.type = 0xa;
    cr_assert_str_eq(x86_vmx_objection(&sregs), "CS is not an accessed code segment");
    sregs = long_mode();
    sregs.es.type = 2;
    cr_assert_not_null(x86_vmx_objection(&sregs));
    sregs = long_mode();
    sregs.ss.type = 2;
    cr_assert_not_null(x86_vmx_objection(&sregs));
}

Test(vmx, data_segment_must_be_readable)
{
    struct kvm_sregs sregs = long_mode();

    sregs.fs.type = 9; /* execute-only code */
    cr_assert_not_null(x86_vmx_objection(&sregs));
}

Test(vmx, code_must_not_be_both_64_and_32_bit)
{
    struct kvm_sregs sregs = long_mode();

    sregs.cs.db = 1;
    cr_assert_str_eq(x86_vmx_objection(&sregs), "CS has both L and D set");
}

Test(vmx, code_privilege_must_equal_stack_privilege)
{
    struct kvm_sregs sregs = long_mode();

    sregs.cs.dpl = 3;
    cr_assert_not_null(x86_vmx_objection(&sregs));
    sregs.ss.dpl = 3;
    cr_assert_null(x86_vmx_objection(&sregs));
    sregs.cs.type = 15; /* conforming: at most SS.DPL */
    sregs.cs.dpl = 0;
    cr_assert_null(x86_vmx_objection(&sregs));
}

Test(vmx, code_must_be_usable)
{
    struct kvm_sregs sregs = long_mode();

    sregs.cs.present = 0;
    cr_assert_str_eq(x86_vmx_objection(&sregs), "CS is not usable");
}

Test(vmx, unusable_data_segment_is_not_checked)
{
    struct kvm_sregs sregs = long_mode();

    sregs.es = (struct kvm_segment){.unusable = 1, .type = 0, .base = 1ULL << 40};
    cr_assert_null(x86_vmx_objection(&sregs));
}

Test(vmx, code_or_data_segment_must_not_be_a_system_segment)
{
    struct kvm_sregs sregs = long_mode();

    sregs.gs.s = 0;
    cr_assert_not_null(x86_vmx_objection(&sregs));
}

Test(vmx, bases)
{
    struct kvm_sregs sregs = long_mode();

    sregs.ds.base = 1ULL << 32;
    cr_assert_not_null(x86_vmx_objection(&sregs));
    sregs = long_mode();
    sregs.gs.base = 0xffff888000000000;
    cr_assert_null(x86_vmx_objection(&sregs));
    sregs.gs.base = 0x800000000000;
    cr_assert_not_null(x86_vmx_objection(&sregs));
    sregs.cr4 |= 1 << 12; /* LA57 */
    cr_assert_null(x86_vmx_objection(&sregs));
}

Test(vmx, real_mode_stack_must_have_privilege_0)
{
    struct kvm_sregs sregs = poisoned();

    x86_real_mode(&sregs, 0);
    sregs.ss.dpl = 3;
    sregs.cs.dpl = 3;
    cr_assert_not_null(x86_vmx_objection(&sregs));
}

Test(vmx, task_register_must_be_a_busy_tss)
{
    struct kvm_sregs sregs = long_mode();

    sregs.tr.type = 9;
    cr_assert_str_eq(x86_vmx_objection(&sregs), "TR is not a busy TSS");
    sregs.tr.type = 3;
    cr_assert_not_null(x86_vmx_objection(&sregs), "a 16-bit TSS is for 32-bit guests only");
    x86_protected_mode(&sregs, GDT);
    sregs.tr.type = 3;
    cr_assert_null(x86_vmx_objection(&sregs));
}

Test(vmx, task_register_must_be_usable_and_global)
{
    struct kvm_sregs sregs = long_mode();

    sregs.tr.unusable = 1;
    cr_assert_not_null(x86_vmx_objection(&sregs));
    sregs = long_mode();
    sregs.tr.selector |= 4;
    cr_assert_str_eq(x86_vmx_objection(&sregs), "TR refers to the LDT");
    sregs = long_mode();
    sregs.tr.limit = 0x100000;
    cr_assert_not_null(x86_vmx_objection(&sregs));
    sregs = long_mode();
    sregs.tr.base = 1ULL << 63;
    cr_assert_not_null(x86_vmx_objection(&sregs));
}

Test(vmx, usable_ldt_must_be_an_ldt)
{
    struct kvm_sregs sregs = long_mode();

    sregs.ldt = (struct kvm_segment){.type = 2, .present = 1, .limit = 7};
    cr_assert_null(x86_vmx_objection(&sregs));
    sregs.ldt.type = 3;
    cr_assert_not_null(x86_vmx_objection(&sregs));
}

Test(vmx, table_bases_must_be_canonical)
{
    struct kvm_sregs sregs = long_mode();

    sregs.gdt.base = 1ULL << 62;
    cr_assert_not_null(x86_vmx_objection(&sregs));
    sregs = long_mode();
    sregs.idt.base = 1ULL << 62;
    cr_assert_not_null(x86_vmx_objection(&sregs));
}

Test(vmx, control_registers_must_agree)
{
    struct kvm_sregs sregs = long_mode();

    sregs.cr0 &= ~1ULL;
    cr_assert_str_eq(x86_vmx_objection(&sregs), "CR0.PG is set without CR0.PE");
    sregs = long_mode();
    sregs.cr4 = 0;
    cr_assert_not_null(x86_vmx_objection(&sregs));
    sregs = long_mode();
    sregs.efer &= ~(1ULL << 10);
    cr_assert_not_null(x86_vmx_objection(&sregs));
}
