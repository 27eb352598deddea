#include "hv/kvm/vcpu_state.h"

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "kvm/kvm_priv.h"

int kvm_supported_cpuid(const struct kvm *kvm, struct kvm_cpuid2 **out, struct error *err)
{
    /* The kernel says E2BIG until the table is large enough for its entries. */
    for (uint32_t room = 128; room <= 4096; room *= 2) {
        struct kvm_cpuid2 *table = calloc(1, sizeof(*table) + room * sizeof(table->entries[0]));
        if (table == NULL)
            return error_set(err, -ENOMEM, "no memory for the CPUID table");
        table->nent = room;
        int rc = kvm_ioctl(kvm->fd, KVM_GET_SUPPORTED_CPUID, table);
        if (rc >= 0) {
            *out = table;
            return 0;
        }
        free(table);
        if (rc != -E2BIG)
            return error_sys(err, rc, "KVM_GET_SUPPORTED_CPUID failed");
    }
    return error_set(err, -E2BIG, "KVM_GET_SUPPORTED_CPUID wants more than 4096 entries");
}

int vcpu_set_signal_mask(const struct vcpu *vcpu, const sigset_t *mask, struct error *err)
{
    /* The kernel's signal set is 8 bytes; libc's sigset_t is larger and starts with it. */
    enum { KERNEL_SIGSET_SIZE = 8 };
    uint8_t buf[sizeof(struct kvm_signal_mask) + KERNEL_SIGSET_SIZE];
    struct kvm_signal_mask head = {.len = KERNEL_SIGSET_SIZE};

    memcpy(buf, &head, sizeof(head));
    memcpy(buf + sizeof(head), mask, KERNEL_SIGSET_SIZE);
    return kvm_ioctl_named(vcpu->fd, KVM_SET_SIGNAL_MASK, buf, "KVM_SET_SIGNAL_MASK", err);
}

int vcpu_get_fpu(const struct vcpu *vcpu, struct kvm_fpu *out)
{
    return kvm_ioctl(vcpu->fd, KVM_GET_FPU, out);
}

int vcpu_set_fpu(const struct vcpu *vcpu, const struct kvm_fpu *fpu)
{
    return kvm_ioctl(vcpu->fd, KVM_SET_FPU, (void *)(uintptr_t)fpu);
}

int vcpu_get_lapic(const struct vcpu *vcpu, struct kvm_lapic_state *out)
{
    return kvm_ioctl(vcpu->fd, KVM_GET_LAPIC, out);
}

int vcpu_set_lapic(const struct vcpu *vcpu, const struct kvm_lapic_state *lapic)
{
    return kvm_ioctl(vcpu->fd, KVM_SET_LAPIC, (void *)(uintptr_t)lapic);
}

int vcpu_get_mp_state(const struct vcpu *vcpu, uint32_t *out)
{
    struct kvm_mp_state state;
    int rc = kvm_ioctl(vcpu->fd, KVM_GET_MP_STATE, &state);

    if (rc == 0)
        *out = state.mp_state;
    return rc;
}

uint32_t vcpu_tsc_khz(const struct vcpu *vcpu)
{
    int khz = kvm_ioctl(vcpu->fd, KVM_GET_TSC_KHZ, NULL);

    return khz < 0 ? 0 : (uint32_t)khz;
}

int vcpu_get_events(const struct vcpu *vcpu, struct kvm_vcpu_events *out)
{
    return kvm_ioctl(vcpu->fd, KVM_GET_VCPU_EVENTS, out);
}

int vcpu_set_cpuid(const struct vcpu *vcpu, const struct kvm_cpuid2 *cpuid, struct error *err)
{
    return kvm_ioctl_named(vcpu->fd, KVM_SET_CPUID2, (void *)(uintptr_t)cpuid, "KVM_SET_CPUID2",
                           err);
}

/* struct kvm_msrs ends in an array without a length; this gives it room for one entry. */
union one_msr {
    struct kvm_msrs msrs;
    uint8_t room[sizeof(struct kvm_msrs) + sizeof(struct kvm_msr_entry)];
};

int vcpu_set_msrs(const struct vcpu *vcpu, const struct kvm_msr_entry *msrs, unsigned count,
                  struct error *err)
{
    /* One MSR per call: KVM stops at the first it refuses, and then its number is known. */
    for (unsigned i = 0; i < count; i++) {
        union one_msr one = {.msrs.nmsrs = 1};
        one.msrs.entries[0] = msrs[i];
        int rc = kvm_ioctl(vcpu->fd, KVM_SET_MSRS, &one);
        if (rc != 1)
            return error_set(err, rc < 0 ? rc : -EINVAL, "KVM_SET_MSRS refused 0x%llx for MSR 0x%x",
                             (unsigned long long)msrs[i].data, msrs[i].index);
    }
    return 0;
}
