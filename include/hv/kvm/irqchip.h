/*
 * The interrupt controllers and the timer that KVM itself emulates, and the lines into them.
 */
#ifndef HV_KVM_IRQCHIP_H
#define HV_KVM_IRQCHIP_H

#include <stdbool.h>
#include <stdint.h>

#include "hv/kvm/kvm.h"

/* The in-kernel PIC pair, I/O APIC and local APICs; then the PIT (with its port 0x61). Before the
 * first vCPU is created, or KVM refuses. */
int vm_create_irqchip(const struct vm *vm, struct error *err) HV_MUST_CHECK;
int vm_create_pit(const struct vm *vm, struct error *err) HV_MUST_CHECK;

/* Sets the level of a global system interrupt (GSI). Any thread. */
int vm_irq_line(const struct vm *vm, uint32_t gsi, bool level) HV_MUST_CHECK;

/* Connects an eventfd (borrowed; KVM keeps a reference of its own) to an edge-triggered GSI: each
 * write to it is one interrupt, without a system call on the VM. -EBUSY: it is connected already.
 * Closing the last descriptor disconnects it, too. */
int vm_irqfd(const struct vm *vm, uint32_t gsi, int event_fd, struct error *err) HV_MUST_CHECK;
int vm_irqfd_remove(const struct vm *vm, uint32_t gsi, int event_fd) HV_MUST_CHECK;

#endif
