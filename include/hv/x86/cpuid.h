/*
 * The processor that a guest sees: CPUID policy, and the MSRs that go with it.
 *
 * The policy starts from what KVM supports on this host and changes it by tables of rules
 * (src/x86/cpuid.c): what is hidden, and what differs per machine or vCPU. The local APIC id of a
 * vCPU is its index, and is the same in leaves 1, 0xB, 0x1F and AMD's 0x8000001E, at every subleaf.
 */
#ifndef HV_X86_CPUID_H
#define HV_X86_CPUID_H

#include <linux/kvm.h>
#include <stdbool.h>
#include <stdint.h>

#include "hv/base/err.h"

#define X86_CPUS_MAX 64

/* What the machine's owner decides. One thread per core, all cores in one package. */
struct cpu_policy {
    unsigned cpus;     /* 1..X86_CPUS_MAX */
    bool x2apic;       /* the local APICs are KVM's own (vm_create_irqchip()) */
    bool tsc_deadline; /* KVM_CAP_TSC_DEADLINE_TIMER is there, which KVM's table does not say */
    bool nested;       /* the guest may itself use VMX or SVM */
    uint32_t tsc_khz;  /* KVM_GET_TSC_KHZ, told to guests whose CPUs have leaf 0x15; 0: unknown */
};

/* The table for vCPU `index`, sorted by leaf and subleaf, freshly allocated (free() it), from
 * `supported` (borrowed), which KVM_GET_SUPPORTED_CPUID filled. -ENOMEM; -EINVAL: index or count
 * out of range, or a table without leaves 0 and 1. */
int cpuid_for_vcpu(const struct kvm_cpuid2 *supported, const struct cpu_policy *policy,
                   unsigned index, struct kvm_cpuid2 **out) HV_MUST_CHECK;

/* An entry, or NULL. `subleaf` matters only where the entry is indexed. */
const struct kvm_cpuid_entry2 *cpuid_find(const struct kvm_cpuid2 *cpuid, uint32_t leaf,
                                          uint32_t subleaf);

/* The MSRs a vCPU starts with that KVM's reset does not set, among them IA32_MISC_ENABLE with fast
 * strings and IA32_MTRR_DEF_TYPE write-back. A static table; *count entries. */
const struct kvm_msr_entry *x86_initial_msrs(unsigned *count);

#endif
