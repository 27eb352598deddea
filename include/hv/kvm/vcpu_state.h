/*
 * The rest of a vCPU's state: what it is told that it is (CPUID, MSRs), and what a saved machine
 * needs.
 */
#ifndef HV_KVM_VCPU_STATE_H
#define HV_KVM_VCPU_STATE_H

#include <signal.h>
#include <stdint.h>

#include "hv/kvm/kvm.h"

/* KVM_GET_SUPPORTED_CPUID into a freshly allocated table; free() it. */
int kvm_supported_cpuid(const struct kvm *kvm, struct kvm_cpuid2 **out,
                        struct error *err) HV_MUST_CHECK;

/* The signal mask that is in force while the vCPU runs; other signals end KVM_RUN with -EINTR. */
int vcpu_set_signal_mask(const struct vcpu *vcpu, const sigset_t *mask,
                         struct error *err) HV_MUST_CHECK;

int vcpu_get_fpu(const struct vcpu *vcpu, struct kvm_fpu *out) HV_MUST_CHECK;
int vcpu_set_fpu(const struct vcpu *vcpu, const struct kvm_fpu *fpu) HV_MUST_CHECK;
int vcpu_get_lapic(const struct vcpu *vcpu, struct kvm_lapic_state *out) HV_MUST_CHECK;
int vcpu_set_lapic(const struct vcpu *vcpu, const struct kvm_lapic_state *lapic) HV_MUST_CHECK;
int vcpu_get_mp_state(const struct vcpu *vcpu, uint32_t *out) HV_MUST_CHECK;
/* KVM_GET_TSC_KHZ: the guest's TSC frequency; 0 when KVM cannot tell. */
uint32_t vcpu_tsc_khz(const struct vcpu *vcpu);
int vcpu_get_events(const struct vcpu *vcpu, struct kvm_vcpu_events *out) HV_MUST_CHECK;
int vcpu_set_cpuid(const struct vcpu *vcpu, const struct kvm_cpuid2 *cpuid,
                   struct error *err) HV_MUST_CHECK;

/* Sets MSRs in order; the error names the first that KVM refused. */
int vcpu_set_msrs(const struct vcpu *vcpu, const struct kvm_msr_entry *msrs, unsigned count,
                  struct error *err) HV_MUST_CHECK;

#endif
