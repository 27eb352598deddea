#include "hv/kvm/kvm.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include "hv/base/fd.h"
#include "hv/base/num.h"
#include "hv/base/todo.h"
#include "kvm/kvm_priv.h"

int kvm_ioctl(int fd, unsigned long request, void *arg)
{
    int rc;

    do {
        rc = ioctl(fd, request, arg);
    } while (rc < 0 && errno == EINTR);
    return rc < 0 ? -errno : rc;
}

int kvm_ioctl_named(int fd, unsigned long request, void *arg, const char *name, struct error *err)
{
    int rc = kvm_ioctl(fd, request, arg);

    return rc < 0 ? error_sys(err, rc, "%s failed", name) : rc;
}

/* --- system --- */

static int open_error(const char *path, int code, struct error *err)
{
    switch (code) {
    case -ENOENT:
        return error_set(
            err, code,
            "%s does not exist: this host offers no KVM (load kvm-intel or kvm-amd, or "
            "enable virtualization in the firmware or for this virtual machine)",
            path);
    case -EACCES:
    case -EPERM:
        return error_set(err, code,
                         "%s: permission denied (join the group that owns it, usually: "
                         "sudo usermod -aG kvm $USER, then log in again)",
                         path);
    default:
        return error_sys(err, code, "cannot open %s", path);
    }
}

int kvm_open(const char *path, struct kvm *out, struct error *err)
{
    int fd = open(path, O_RDWR | O_CLOEXEC);

    if (fd < 0)
        return open_error(path, -errno, err);
    /* EXERCISE 1.1: what was opened may be anything. Ask it for its API version, which has to be
     * KVM_API_VERSION, and for the size of a vCPU's run structure, which has to have room for
     * struct kvm_run (KVM API §4.1, §4.5). If either is wrong, close the file and return -ENOTSUP
     * with a sentence that names what was wrong, *out untouched. Else fill *out, which owns the
     * descriptor from then on. */
    // SOLUTION 1.1
    int version = kvm_ioctl(fd, KVM_GET_API_VERSION, NULL);
    int run_size = kvm_ioctl(fd, KVM_GET_VCPU_MMAP_SIZE, NULL);
    int rc;
    if (version != KVM_API_VERSION)
        rc = error_set(err, -ENOTSUP, "%s is not a KVM with API version %d", path, KVM_API_VERSION);
    else if (run_size < (int)sizeof(struct kvm_run))
        rc = error_set(err, -ENOTSUP, "KVM_GET_VCPU_MMAP_SIZE gave %d", run_size);
    else
        rc = 0;
    if (rc < 0) {
        fd_close(&fd);
        return rc;
    }
    *out = (struct kvm){.fd = fd, .run_size = (size_t)run_size};
    return 0;
    // ELSE
    // fd_close(&fd);
    // return todo("1.1");
    // END 1.1
}

void kvm_close(struct kvm *kvm)
{
    fd_close(&kvm->fd);
}

int kvm_check(const struct kvm *kvm, int capability)
{
    int rc = kvm_ioctl(kvm->fd, KVM_CHECK_EXTENSION, (void *)(uintptr_t)capability);

    return rc < 0 ? 0 : rc;
}

/* --- VM --- */

int vm_create(const struct kvm *kvm, struct vm *out, struct error *err)
{
    int fd = kvm_ioctl_named(kvm->fd, KVM_CREATE_VM, NULL, "KVM_CREATE_VM", err);

    if (fd < 0)
        return fd;
    *out = (struct vm){.fd = fd};
    return 0;
}

void vm_close(struct vm *vm)
{
    fd_close(&vm->fd);
}

int vm_set_memory(const struct vm *vm, uint32_t slot, uint64_t gpa, uint64_t size, void *host,
                  uint32_t flags, struct error *err)
{
    /* EXERCISE 1.2: make `size` bytes of our own memory, from `host` on, the guest's memory at
     * `gpa` (KVM API §4.35). A refusal is reported with the ioctl's name, the slot and the address.
     */
    // SOLUTION 1.2
    struct kvm_userspace_memory_region region = {
        .slot = slot,
        .flags = flags,
        .guest_phys_addr = gpa,
        .memory_size = size,
        .userspace_addr = (uintptr_t)host,
    };
    int rc = kvm_ioctl(vm->fd, KVM_SET_USER_MEMORY_REGION, &region);

    if (rc < 0)
        return error_sys(err, rc, "KVM_SET_USER_MEMORY_REGION failed for slot %u at 0x%llx", slot,
                         (unsigned long long)gpa);
    return 0;
    // END 1.2
}

int vm_set_tss_addr(const struct vm *vm, uint64_t gpa, struct error *err)
{
    return kvm_ioctl_named(vm->fd, KVM_SET_TSS_ADDR, (void *)(uintptr_t)gpa, "KVM_SET_TSS_ADDR",
                           err);
}

int vm_set_identity_map_addr(const struct vm *vm, uint64_t gpa, struct error *err)
{
    return kvm_ioctl_named(vm->fd, KVM_SET_IDENTITY_MAP_ADDR, &gpa, "KVM_SET_IDENTITY_MAP_ADDR",
                           err);
}

/* --- vCPU --- */

int vcpu_create(const struct kvm *kvm, const struct vm *vm, unsigned id, struct vcpu *out,
                struct error *err)
{
    /* EXERCISE 1.3: create vCPU number `id` and map its run structure, in which KVM leaves word of
     * every exit: kvm->run_size bytes, shared with the kernel, at offset 0 of the vCPU's descriptor
     * (KVM API §4.7, §5). On failure nothing stays open, *out is untouched, and the sentence says
     * what failed, for which vCPU. */
    // SOLUTION 1.3
    int fd = kvm_ioctl(vm->fd, KVM_CREATE_VCPU, (void *)(uintptr_t)id);

    if (fd < 0)
        return error_sys(err, fd, "KVM_CREATE_VCPU %u failed", id);
    void *run = mmap(NULL, kvm->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (run == MAP_FAILED) {
        int rc = error_sys(err, -errno, "cannot map the run structure of vCPU %u", id);
        fd_close(&fd);
        return rc;
    }
    *out = (struct vcpu){.fd = fd, .id = id, .run = run, .run_size = kvm->run_size};
    return 0;
    // END 1.3
}

void vcpu_close(struct vcpu *vcpu)
{
    if (vcpu->run != NULL)
        (void)munmap(vcpu->run, vcpu->run_size);
    vcpu->run = NULL;
    fd_close(&vcpu->fd);
}

int vcpu_run(struct vcpu *vcpu)
{
    /* EXERCISE 1.4: enter the guest until it exits (KVM API §4.10). 0: it exited, and vcpu->run
     * says why. -EINTR: a signal or immediate_exit ended the entry; this, unlike with other ioctls,
     * is for the caller to know. KVM says EAGAIN for the same thing when a vCPU still waits for its
     * start. Any other error is returned as it is. */
    // SOLUTION 1.4
    if (ioctl(vcpu->fd, KVM_RUN, NULL) == 0)
        return 0;
    /* EAGAIN: an AP waiting for its SIPI was woken by a signal before it ever ran. */
    return errno == EAGAIN ? -EINTR : -errno;
    // END 1.4
}

int vcpu_get_regs(const struct vcpu *vcpu, struct kvm_regs *out)
{
    return kvm_ioctl(vcpu->fd, KVM_GET_REGS, out);
}

int vcpu_set_regs(const struct vcpu *vcpu, const struct kvm_regs *regs)
{
    return kvm_ioctl(vcpu->fd, KVM_SET_REGS, (void *)(uintptr_t)regs);
}

int vcpu_get_sregs(const struct vcpu *vcpu, struct kvm_sregs *out)
{
    return kvm_ioctl(vcpu->fd, KVM_GET_SREGS, out);
}

int vcpu_set_sregs(const struct vcpu *vcpu, const struct kvm_sregs *sregs)
{
    return kvm_ioctl(vcpu->fd, KVM_SET_SREGS, (void *)(uintptr_t)sregs);
}

const char *kvm_exit_name(uint32_t reason)
{
    static const char *const names[] = {
        [KVM_EXIT_UNKNOWN] = "UNKNOWN",
        [KVM_EXIT_EXCEPTION] = "EXCEPTION",
        [KVM_EXIT_IO] = "IO",
        [KVM_EXIT_HYPERCALL] = "HYPERCALL",
        [KVM_EXIT_DEBUG] = "DEBUG",
        [KVM_EXIT_HLT] = "HLT",
        [KVM_EXIT_MMIO] = "MMIO",
        [KVM_EXIT_IRQ_WINDOW_OPEN] = "IRQ_WINDOW_OPEN",
        [KVM_EXIT_SHUTDOWN] = "SHUTDOWN",
        [KVM_EXIT_FAIL_ENTRY] = "FAIL_ENTRY",
        [KVM_EXIT_INTR] = "INTR",
        [KVM_EXIT_SET_TPR] = "SET_TPR",
        [KVM_EXIT_TPR_ACCESS] = "TPR_ACCESS",
        [KVM_EXIT_NMI] = "NMI",
        [KVM_EXIT_INTERNAL_ERROR] = "INTERNAL_ERROR",
        [KVM_EXIT_SYSTEM_EVENT] = "SYSTEM_EVENT",
        [KVM_EXIT_IOAPIC_EOI] = "IOAPIC_EOI",
        [KVM_EXIT_HYPERV] = "HYPERV",
        [KVM_EXIT_X86_RDMSR] = "X86_RDMSR",
        [KVM_EXIT_X86_WRMSR] = "X86_WRMSR",
        [KVM_EXIT_DIRTY_RING_FULL] = "DIRTY_RING_FULL",
        [KVM_EXIT_X86_BUS_LOCK] = "X86_BUS_LOCK",
    };

    if (reason < ARRAY_LEN(names) && names[reason] != NULL)
        return names[reason];
    return "?";
}
