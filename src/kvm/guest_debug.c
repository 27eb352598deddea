#include "hv/kvm/guest_debug.h"

#include "kvm/kvm_priv.h"

int vcpu_set_debug(const struct vcpu *vcpu, const struct kvm_guest_debug *debug)
{
    return kvm_ioctl(vcpu->fd, KVM_SET_GUEST_DEBUG, (void *)(uintptr_t)debug);
}

uint32_t kvm_debug_flags(const struct kvm *kvm)
{
    return (uint32_t)kvm_check(kvm, KVM_CAP_SET_GUEST_DEBUG2);
}
