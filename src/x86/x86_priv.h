/*
 * What the files of the x86 layer share: bits of the control registers (SDM 3A §2.5, EFER: §2.2.1),
 * and the parts of a starting state that are the same in all modes.
 */
#ifndef X86_X86_PRIV_H
#define X86_X86_PRIV_H

#include "hv/x86/modes.h"

#define CR0_PE (1ULL << 0)
#define CR0_MP (1ULL << 1)
#define CR0_EM (1ULL << 2)
#define CR0_TS (1ULL << 3)
#define CR0_ET (1ULL << 4)
#define CR0_NE (1ULL << 5)
#define CR0_WP (1ULL << 16)
#define CR0_AM (1ULL << 18)
#define CR0_NW (1ULL << 29)
#define CR0_CD (1ULL << 30)
#define CR0_PG (1ULL << 31)

#define CR4_PSE (1ULL << 4)
#define CR4_PAE (1ULL << 5)
#define CR4_LA57 (1ULL << 12)
#define CR4_SMEP (1ULL << 20)
#define CR4_SMAP (1ULL << 21)

#define EFER_LME (1ULL << 8)
#define EFER_LMA (1ULL << 10)
#define EFER_NXE (1ULL << 11)

#define RFLAGS_AC (1ULL << 18)

/* Bits 51:12 of a paging-structure entry or of CR3 in the 64-bit formats. */
#define PTE_ADDRESS 0x000ffffffffff000ULL

/* Segment types, SDM 3A §3.4.5.1 and §3.5. */
enum {
    TYPE_LDT = 0x2,
    TYPE_DATA = 0x3,     /* read, write, accessed */
    TYPE_CODE = 0xb,     /* execute, read, accessed */
    TYPE_TSS_BUSY = 0xb, /* system segment: a busy 32- or 64-bit TSS */
};

/* VMX demands a usable task register in every mode, and takes only a busy one. */
static inline struct kvm_segment x86_task_segment(uint16_t selector, uint32_t limit)
{
    return (struct kvm_segment){
        .selector = selector,
        .limit = limit,
        .type = TYPE_TSS_BUSY,
        .present = 1,
    };
}

static inline struct kvm_segment x86_no_ldt(void)
{
    return (struct kvm_segment){.type = TYPE_LDT, .unusable = 1};
}

static inline void x86_set_data_segments(struct kvm_sregs *sregs, struct kvm_segment data)
{
    sregs->ds = data;
    sregs->es = data;
    sregs->fs = data;
    sregs->gs = data;
    sregs->ss = data;
}

#endif
