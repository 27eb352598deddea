/*
 * bare_loop: the least a monitor can do for an exit, which is nothing.
 *
 *   bare_loop IMAGE     runs a flat real-mode guest, loaded at 0x7c00, until it writes to port 0xf4
 *
 * The yardstick for "exit" of tests/bench/run: the same guest under hv costs what this costs plus
 * what hv does. So the machine is set up as hv's is (interrupt controllers and timer in the
 * kernel), and the loop looks at an exit just enough to notice the end. No devices, no CPUID, no
 * second thread.
 *
 * Exit status: 0 the guest wrote to 0xf4, 1 anything else, with a line on stderr.
 */
#include <err.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "guest_abi.h"

#define RAM_SIZE (1U << 20)
#define LOAD_ADDRESS 0x7c00
#define TSS_ADDRESS 0xfffbd000 /* three pages and one that KVM wants on Intel for real mode */
#define IDENTITY_MAP_ADDRESS 0xfffbc000

static int checked_ioctl(int fd, unsigned long request, void *arg, const char *name)
{
    int rc = ioctl(fd, request, arg);

    if (rc < 0)
        err(1, "%s", name);
    return rc;
}

static int create_vm(int kvm)
{
    uint64_t identity = IDENTITY_MAP_ADDRESS;
    struct kvm_pit_config pit = {0};
    int vm = checked_ioctl(kvm, KVM_CREATE_VM, NULL, "KVM_CREATE_VM");

    if (ioctl(vm, KVM_SET_TSS_ADDR, (unsigned long)TSS_ADDRESS) < 0)
        err(1, "KVM_SET_TSS_ADDR");
    checked_ioctl(vm, KVM_SET_IDENTITY_MAP_ADDR, &identity, "KVM_SET_IDENTITY_MAP_ADDR");
    checked_ioctl(vm, KVM_CREATE_IRQCHIP, NULL, "KVM_CREATE_IRQCHIP");
    checked_ioctl(vm, KVM_CREATE_PIT2, &pit, "KVM_CREATE_PIT2");
    return vm;
}

static void load(int vm, const char *path)
{
    uint8_t *ram = mmap(NULL, RAM_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct kvm_userspace_memory_region slot = {.memory_size = RAM_SIZE,
                                               .userspace_addr = (uintptr_t)ram};
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    if (ram == MAP_FAILED)
        err(1, "mmap");
    if (fd < 0 || read(fd, ram + LOAD_ADDRESS, RAM_SIZE - LOAD_ADDRESS) <= 0)
        err(1, "%s", path);
    (void)close(fd);
    checked_ioctl(vm, KVM_SET_USER_MEMORY_REGION, &slot, "KVM_SET_USER_MEMORY_REGION");
}

static struct kvm_run *map_run(int kvm, int vcpu)
{
    int size = checked_ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, NULL, "KVM_GET_VCPU_MMAP_SIZE");
    struct kvm_run *run = mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);

    if (run == MAP_FAILED)
        err(1, "mmap of a vCPU");
    return run;
}

static void set_entry(int vcpu)
{
    struct kvm_regs regs = {.rip = LOAD_ADDRESS, .rflags = 1U << 1};
    struct kvm_sregs sregs;

    checked_ioctl(vcpu, KVM_GET_SREGS, &sregs, "KVM_GET_SREGS");
    sregs.cs.base = sregs.cs.selector = 0;
    checked_ioctl(vcpu, KVM_SET_SREGS, &sregs, "KVM_SET_SREGS");
    checked_ioctl(vcpu, KVM_SET_REGS, &regs, "KVM_SET_REGS");
}

/* What is measured. */
static void run_to_end(int vcpu, const struct kvm_run *run)
{
    do {
        if (ioctl(vcpu, KVM_RUN, NULL) < 0)
            err(1, "KVM_RUN");
        if (run->exit_reason != KVM_EXIT_IO)
            errx(1, "exit reason %u", run->exit_reason);
    } while (run->io.port != GUEST_EXIT_PORT);
}

int main(int argc, char **argv)
{
    if (argc != 2)
        errx(1, "usage: bare_loop IMAGE");
    int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (kvm < 0)
        err(1, "/dev/kvm");
    int vm = create_vm(kvm);
    load(vm, argv[1]);
    int vcpu = checked_ioctl(vm, KVM_CREATE_VCPU, NULL, "KVM_CREATE_VCPU");
    const struct kvm_run *run = map_run(kvm, vcpu);
    set_entry(vcpu);
    run_to_end(vcpu, run);
    return 0;
}
