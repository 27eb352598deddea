/*
 * A vCPU's registers as gdb sees them: numbered, each of a fixed size, described to gdb in XML.
 *
 * gdb asks for the description once per connection, when it connects, and believes it until it
 * disconnects. A processor changes its mode meanwhile, and no one description suits all: gdb takes
 * 16-bit code apart only for i8086, and shows registers of 64 bits only for x86-64. So the
 * description follows the mode that the vCPU is in when gdb connects, and a guest that has changed
 * its mode is best connected to anew.
 *
 * Numbers are those of the description's order. In every mode the program counter is the offset in
 * the code segment, as the processor has it; the linear address that breakpoints are at is
 * gdb_linear_pc().
 */
#ifndef CONTROL_GDB_REGS_PRIV_H
#define CONTROL_GDB_REGS_PRIV_H

#include "control/rsp_priv.h"
#include "hv/machine/debug.h"

struct gdb_reg;

struct gdb_layout {
    const char *architecture; /* as gdb calls it */
    const struct gdb_reg *regs;
    unsigned count;
};

/* What describes the mode of `sregs` best: i8086, i386 or i386:x86-64. Static. */
const struct gdb_layout *gdb_layout_for(const struct kvm_sregs *sregs);

/* By name: i8086, i386 or x86-64; NULL if it is none of these. Static. */
const struct gdb_layout *gdb_layout_named(const char *name);

/* Appends the target description. */
void gdb_describe(const struct gdb_layout *l, struct rsp_text *xml);

/* Appends register n, below l->count, as digits in the guest's byte order. */
void gdb_put_reg(const struct gdb_layout *l, unsigned n, const struct debug_regs *regs,
                 struct rsp_text *out);

/* Takes register n from digits. 0; -EINVAL: not as many digits as the register has; -EPERM: a
 * selector outside real mode, where a descriptor belongs to it that gdb cannot give. On failure
 * *regs is untouched. */
int gdb_take_reg(const struct gdb_layout *l, unsigned n, struct rsp_view *v,
                 struct debug_regs *regs) HV_MUST_CHECK;

/* Where the vCPU executes. */
uint64_t gdb_linear_pc(const struct debug_regs *regs);

#endif
