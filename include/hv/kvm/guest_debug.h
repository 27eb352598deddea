/*
 * The debugging of a guest from outside: KVM stops a vCPU after each instruction, at addresses held
 * in debug registers, or at int3. Each stop is an exit of its own, KVM_EXIT_DEBUG (KVM API §4.87,
 * §5).
 */
#ifndef HV_KVM_GUEST_DEBUG_H
#define HV_KVM_GUEST_DEBUG_H

#include "hv/kvm/kvm.h"

/* KVM_SET_GUEST_DEBUG. Holds until the next call. The guest's own use of the debug registers is
 * suspended while KVM_GUESTDBG_USE_HW_BP is set. */
int vcpu_set_debug(const struct vcpu *vcpu, const struct kvm_guest_debug *debug) HV_MUST_CHECK;

/* Which KVM_GUESTDBG_… flags this KVM knows; 0 when it is too old to say. */
uint32_t kvm_debug_flags(const struct kvm *kvm);

#endif
