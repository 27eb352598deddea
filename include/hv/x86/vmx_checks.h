/*
 * VMX's checks on guest state, to say which one a state fails: the hardware's own answer is a
 * number.
 */
#ifndef HV_X86_VMX_CHECKS_H
#define HV_X86_VMX_CHECKS_H

#include <linux/kvm.h>

/* The first of VMX's rules on segments, tables and control registers (SDM 3C §26.3.1) that the
 * state breaks, as a sentence in static storage; NULL when it breaks none. With KVM_EXIT_FAIL_ENTRY
 * this is the likely cause. The rules for virtual-8086 mode are not checked. */
const char *x86_vmx_objection(const struct kvm_sregs *sregs);

#endif
