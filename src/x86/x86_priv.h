/*
 * Bits of the control registers (SDM 3A §2.5, EFER: §2.2.1) that the x86 layer names or tests.
 */
#ifndef X86_X86_PRIV_H
#define X86_X86_PRIV_H

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

#endif
