/*
 * Registers in words, for traces and for the report of a guest's death.
 */
#ifndef HV_X86_NAMES_H
#define HV_X86_NAMES_H

#include <linux/kvm.h>
#include <stdint.h>
#include <stdio.h>

/* The set bits by name: "PE|ET|PG". Written to buf (of size bytes), always terminated; returns buf.
 */
#define X86_BITS_TEXT_MAX 256
char *x86_cr0_text(uint64_t cr0, char *buf, size_t size);
char *x86_cr4_text(uint64_t cr4, char *buf, size_t size);
char *x86_efer_text(uint64_t efer, char *buf, size_t size);
char *x86_rflags_text(uint64_t rflags, char *buf, size_t size);

/* "#PF page fault", "vector 33" for those that are not exceptions. */
char *x86_vector_text(unsigned vector, char *buf, size_t size);

/* General registers, segments with decoded types, control registers with decoded bits, tables.
 * About 25 lines of at most 100 columns, each starting with two spaces. */
void x86_print_regs(const struct kvm_regs *regs, const struct kvm_sregs *sregs, FILE *out);

#endif
