/*
 * CPU modes, and the state a vCPU starts in.
 *
 * Each function changes `sregs` from what KVM_GET_SREGS gave to a state that VMX's checks on guest
 * state (SDM 3C §26.3.1) accept too: VMX refuses inconsistent segments that SVM lets pass. Nothing
 * is written to the vCPU here.
 */
#ifndef HV_X86_MODES_H
#define HV_X86_MODES_H

#include <linux/kvm.h>
#include <stdint.h>

enum x86_mode { X86_REAL, X86_PROTECTED, X86_LONG };

/* Real mode with CS:IP = cs:0 based at cs << 4; all other segments based at 0. */
void x86_real_mode(struct kvm_sregs *sregs, uint16_t cs);

/* Which mode the registers describe; for explanations. */
enum x86_mode x86_mode_of(const struct kvm_sregs *sregs);
const char *x86_mode_name(enum x86_mode mode);

#endif
