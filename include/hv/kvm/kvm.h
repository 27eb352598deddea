/*
 * The Linux KVM API, thin and typed: one function per ioctl, every error with the ioctl's name.
 *
 * Three handles as in the API: the system (/dev/kvm), a VM, a vCPU. Nothing here decides anything;
 * the machine does. See Documentation/virt/kvm/api.rst in the Linux source ("KVM API").
 *
 * Threads: system and VM ioctls from any thread; a vCPU's ioctls from the thread that runs it (or
 * while that thread is stopped).
 */
#ifndef HV_KVM_KVM_H
#define HV_KVM_KVM_H

#include <linux/kvm.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "hv/base/err.h"

struct kvm {
    int fd;
    size_t run_size; /* bytes of a vCPU's shared kvm_run mapping */
};

struct vm {
    int fd;
};

struct vcpu {
    int fd;
    unsigned id;
    struct kvm_run *run; /* shared with the kernel; KVM API §5 */
    size_t run_size;
};

/* --- system --- */

/* `path` is normally KVM_DEVICE. -ENOENT, -EACCES, -ENODEV with what to do about it; -ENOTSUP when
 * the API version is not 12. */
#define KVM_DEVICE "/dev/kvm"
int kvm_open(const char *path, struct kvm *out, struct error *err) HV_MUST_CHECK;
void kvm_close(struct kvm *kvm);

/* KVM_CHECK_EXTENSION: 0 when absent, else its value. */
int kvm_check(const struct kvm *kvm, int capability);

/* --- VM --- */

int vm_create(const struct kvm *kvm, struct vm *out, struct error *err) HV_MUST_CHECK;
void vm_close(struct vm *vm);

/* KVM_SET_USER_MEMORY_REGION. `flags`: KVM_MEM_READONLY, KVM_MEM_LOG_DIRTY_PAGES. size 0 deletes.
 */
int vm_set_memory(const struct vm *vm, uint32_t slot, uint64_t gpa, uint64_t size, void *host,
                  uint32_t flags, struct error *err) HV_MUST_CHECK;

/* Intel needs three pages and one page of guest-physical space out of the guest's sight; KVM API
 * §4.36 and §4.40. */
int vm_set_tss_addr(const struct vm *vm, uint64_t gpa, struct error *err) HV_MUST_CHECK;
int vm_set_identity_map_addr(const struct vm *vm, uint64_t gpa, struct error *err) HV_MUST_CHECK;

/* --- vCPU --- */

int vcpu_create(const struct kvm *kvm, const struct vm *vm, unsigned id, struct vcpu *out,
                struct error *err) HV_MUST_CHECK;
void vcpu_close(struct vcpu *vcpu);

/* Enters the guest until it exits; why it did is in vcpu->run. -EINTR: a signal or immediate_exit
 * (also when KVM_RUN says -EAGAIN); other -errno as KVM_RUN gave them. */
int vcpu_run(struct vcpu *vcpu) HV_MUST_CHECK;

int vcpu_get_regs(const struct vcpu *vcpu, struct kvm_regs *out) HV_MUST_CHECK;
int vcpu_set_regs(const struct vcpu *vcpu, const struct kvm_regs *regs) HV_MUST_CHECK;
int vcpu_get_sregs(const struct vcpu *vcpu, struct kvm_sregs *out) HV_MUST_CHECK;
int vcpu_set_sregs(const struct vcpu *vcpu, const struct kvm_sregs *sregs) HV_MUST_CHECK;

/* Name of a KVM_EXIT_… number without the prefix: "IO"; "?" when unknown. */
const char *kvm_exit_name(uint32_t reason);

#endif
