/*
 * Starting in protected or long mode: the states, and the descriptor table that goes with them.
 *
 * As in modes.h, `sregs` is changed from what KVM_GET_SREGS gave, to a state that VMX accepts.
 */
#ifndef HV_X86_FLAT_MODES_H
#define HV_X86_FLAT_MODES_H

#include <linux/kvm.h>
#include <stdint.h>

#include "hv/base/err.h"
#include "hv/mem/mem.h"
#include "hv/x86/modes.h"

/* Selectors of the table below: the Linux boot protocol's __BOOT_CS and __BOOT_DS, which every
 * other protocol accepts too, and a task register that VMX demands. */
#define X86_SEL_CODE 0x10
#define X86_SEL_DATA 0x18
#define X86_SEL_TSS 0x20

/* 32-bit protected mode, paging off: flat 4 GiB segments with the selectors above, as in the table
 * that x86_write_gdt() puts at `gdt`; GDTR points there. There is no IDT: until the guest has
 * loaded one, an exception is a triple fault. */
void x86_protected_mode(struct kvm_sregs *sregs, uint64_t gdt);

/* 64-bit mode: paging on with the PML4 at `cr3`, CR0.WP, EFER.LME|LMA|NXE, CR4.PAE; selectors and
 * IDT as above. */
void x86_long_mode(struct kvm_sregs *sregs, uint64_t gdt, uint64_t cr3);

/* The descriptor table for both: null, null, code 0x10, data 0x18, TSS 0x20 (two entries in long
 * mode; base 0, limit 0x67, busy). `mode` is X86_PROTECTED or X86_LONG. -EFAULT. */
#define X86_GDT_SIZE 48 /* bytes that x86_write_gdt() writes */
int x86_write_gdt(const struct mem *mem, uint64_t gdt, enum x86_mode mode) HV_MUST_CHECK;

#endif
