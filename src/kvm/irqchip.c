/*
 * KVM's own interrupt controllers, and the two ways into them: an ioctl for each change of a line,
 * or an eventfd for each interrupt.
 *
 * Left out: routing of GSIs (KVM_SET_GSI_ROUTING), since KVM's default is a PC's: GSI n is pin n of
 * the I/O APIC and, below 16, line n of the PIC pair.
 */
#include "hv/kvm/irqchip.h"

#include "hv/base/todo.h"
#include "kvm/kvm_priv.h"

/* EXERCISE 4.1: the controllers and the timer. Two ioctls on the VM: one makes the PIC pair, the
 * I/O APIC and a local APIC for every vCPU to come (KVM API §4.24), the other the PIT (§4.71). The
 * PIT brings port 0x61 with it, the speaker's, if it is told to play a dummy of it: kernels read
 * that port when they measure their clocks. When KVM refuses, the error names the ioctl:
 * kvm_ioctl_named(). */
// SOLUTION 4.1
int vm_create_irqchip(const struct vm *vm, struct error *err)
{
    return kvm_ioctl_named(vm->fd, KVM_CREATE_IRQCHIP, NULL, "KVM_CREATE_IRQCHIP", err);
}

int vm_create_pit(const struct vm *vm, struct error *err)
{
    struct kvm_pit_config pit = {.flags = KVM_PIT_SPEAKER_DUMMY};

    return kvm_ioctl_named(vm->fd, KVM_CREATE_PIT2, &pit, "KVM_CREATE_PIT2", err);
}
// ELSE
// int vm_create_irqchip(const struct vm *vm, struct error *err)
// {
//     return todo("4.1");
// }
//
// int vm_create_pit(const struct vm *vm, struct error *err)
// {
//     return todo("4.1");
// }
// END 4.1

/* --- the two ways in --- */

/* EXERCISE 4.3: the two ways in. vm_irq_line(): tells KVM the level of a GSI (KVM API §4.25);
 * without names, for it is called for every change. vm_irqfd(): hands an eventfd to KVM, which from
 * then on raises and lowers the GSI by itself whenever somebody writes to it (§4.75).
 * vm_irqfd_remove(): takes it away again; the same ioctl with a flag. */
// SOLUTION 4.3
int vm_irq_line(const struct vm *vm, uint32_t gsi, bool level)
{
    struct kvm_irq_level irq = {.irq = gsi, .level = level};

    return kvm_ioctl(vm->fd, KVM_IRQ_LINE, &irq);
}

int vm_irqfd(const struct vm *vm, uint32_t gsi, int event_fd, struct error *err)
{
    struct kvm_irqfd irqfd = {.fd = (uint32_t)event_fd, .gsi = gsi};

    return kvm_ioctl_named(vm->fd, KVM_IRQFD, &irqfd, "KVM_IRQFD", err);
}

int vm_irqfd_remove(const struct vm *vm, uint32_t gsi, int event_fd)
{
    struct kvm_irqfd irqfd = {
        .fd = (uint32_t)event_fd, .gsi = gsi, .flags = KVM_IRQFD_FLAG_DEASSIGN};

    return kvm_ioctl(vm->fd, KVM_IRQFD, &irqfd);
}
// ELSE
// int vm_irq_line(const struct vm *vm, uint32_t gsi, bool level)
// {
//     return todo("4.3");
// }
//
// int vm_irqfd(const struct vm *vm, uint32_t gsi, int event_fd, struct error *err)
// {
//     return todo("4.3");
// }
//
// int vm_irqfd_remove(const struct vm *vm, uint32_t gsi, int event_fd)
// {
//     return todo("4.3");
// }
// END 4.3
