/*
 * Hosts for tests of the CPUID policy: an Intel-like and an AMD-like table in which every bit is
 * set, so that whatever should be hidden would be seen, and small ones.
 */
#ifndef SUPPORT_CPUID_HOST_H
#define SUPPORT_CPUID_HOST_H

#include <stdbool.h>

#include "hv/x86/cpuid.h"

/* What KVM_GET_SUPPORTED_CPUID would give. */
extern struct kvm_cpuid2 *host;

/* Fixtures: they make the host, and free it. */
void host_intel(void);
void host_amd(void);
void host_forget(void);

/* Adds an entry to the host. */
void host_add(uint32_t leaf, uint32_t index, uint32_t flags, uint32_t eax, uint32_t ebx,
              uint32_t ecx, uint32_t edx);

/* The table of vCPU `index`, to be freed; an entry of it, which has to be there; both at once. */
struct kvm_cpuid2 *make(struct cpu_policy policy, unsigned index);
struct kvm_cpuid_entry2 get(const struct kvm_cpuid2 *table, uint32_t leaf, uint32_t subleaf);
struct kvm_cpuid_entry2 get_once(struct cpu_policy policy, unsigned index, uint32_t leaf,
                                 uint32_t subleaf);
bool shows_leaf(struct cpu_policy policy, uint32_t leaf);

#endif
