/*
 * The interrupt controllers and the timer that KVM itself emulates, and the lines into them.
 */
#ifndef HV_KVM_IRQCHIP_H
#define HV_KVM_IRQCHIP_H

#include <stdbool.h>
#include <stdint.h>

#include "hv/kvm/kvm.h"

/* The in-kernel PIC pair, I/O APIC and local APICs; then the PIT (with its port 0x61). */
int vm_create_irqchip(const struct vm *vm, struct error *err) HV_MUST_CHECK;
int vm_create_pit(const struct vm *vm, struct error *err) HV_MUST_CHECK;

/* Sets the level of a global system interrupt. */
int vm_irq_line(const struct vm *vm, uint32_t gsi, bool level) HV_MUST_CHECK;

#endif
