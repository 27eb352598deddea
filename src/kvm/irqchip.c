#include "hv/kvm/irqchip.h"

#include "kvm/kvm_priv.h"

int vm_create_irqchip(const struct vm *vm, struct error *err)
{
    return kvm_ioctl_named(vm->fd, KVM_CREATE_IRQCHIP, NULL, "KVM_CREATE_IRQCHIP", err);
}

int vm_create_pit(const struct vm *vm, struct error *err)
{
    /* The dummy speaker port answers 0x61, which Linux reads when it calibrates against the PIT. */
    struct kvm_pit_config pit = {.flags = KVM_PIT_SPEAKER_DUMMY};

    return kvm_ioctl_named(vm->fd, KVM_CREATE_PIT2, &pit, "KVM_CREATE_PIT2", err);
}

int vm_irq_line(const struct vm *vm, uint32_t gsi, bool level)
{
    struct kvm_irq_level irq = {.irq = gsi, .level = level};

    return kvm_ioctl(vm->fd, KVM_IRQ_LINE, &irq);
}
