/*
 * Events that pass between a guest and a device without an exit to us, or a system call on the VM:
 * doorbells (ioeventfd), and messages that interrupt (MSI, by irqfd).
 */
#ifndef HV_KVM_EVENTFD_H
#define HV_KVM_EVENTFD_H

#include <stdbool.h>
#include <stdint.h>

#include "hv/kvm/kvm.h"

/* GSIs below are pins of the I/O APIC, those from here on are messages. */
#define VM_MSI_GSI_FIRST 24U
#define VM_MSI_ROUTES_MAX 512U

/* A doorbell: a guest's write of `size` bytes at `gpa` signals event_fd (borrowed; KVM keeps a
 * reference of its own), and the vCPU goes on. With `match`, only a write of this value does. size
 * 0: a write of any width. KVM API §4.59. */
struct vm_doorbell {
    uint64_t gpa;
    uint32_t size;
    bool has_match;
    uint64_t match;
    int event_fd;
};

int vm_doorbell_add(const struct vm *vm, const struct vm_doorbell *bell) HV_MUST_CHECK;
int vm_doorbell_remove(const struct vm *vm, const struct vm_doorbell *bell) HV_MUST_CHECK;

/* A message signalled interrupt: what a device writes where (SDM 3A §10.11). */
struct vm_msi {
    bool used;
    uint64_t address;
    uint32_t data;
};

/* From here on GSI VM_MSI_GSI_FIRST + i delivers messages[i], and the pins are what KVM made them.
 * All routes are replaced at once, KVM API §4.52; interrupts under way are not lost. */
int vm_set_messages(const struct vm *vm, const struct vm_msi *messages,
                    unsigned count) HV_MUST_CHECK;

#endif
