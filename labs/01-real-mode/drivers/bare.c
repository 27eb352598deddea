/*
 * A whole monitor by bare ioctls, in which one part is the learner's.
 *
 * The parts not under test are written out here, so that a check of one exercise does not depend on
 * another. Every exit is written down; IN reads get zeroes.
 *
 * args: PART GPA CS IP SIZE CODE   PART: memory, vcpu, run, modes or none; CODE: hex, put at GPA;
 *                                  SIZE: bytes of guest memory from 0 on
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include "hv/kvm/kvm.h"
#include "hv/x86/modes.h"
#include "observe.h"

#define EXITS_MAX 64

static const char *part;
static struct error err;

static bool is_learners(const char *name)
{
    return strcmp(part, name) == 0;
}

/* Stops the driver when a step fails; says whose it was. */
static void need(int rc, const char *step)
{
    if (rc >= 0)
        return;
    report_string("stopped_at", step);
    report_int("rc", rc);
    report_string("error", err.text);
    exit(report_end());
}

static struct kvm_segment segment(uint16_t selector, uint8_t type)
{
    return (struct kvm_segment){.selector = selector,
                                .base = selector * 16U,
                                .limit = 0xffff,
                                .type = type,
                                .present = 1,
                                .s = 1};
}

static void set_memory(const struct vm *vm, uint8_t *ram, uint64_t size)
{
    struct kvm_userspace_memory_region region = {.memory_size = size,
                                                 .userspace_addr = (uintptr_t)ram};

    if (is_learners("memory"))
        need(vm_set_memory(vm, 0, 0, size, ram, 0, &err), "vm_set_memory");
    else
        need(ioctl(vm->fd, KVM_SET_USER_MEMORY_REGION, &region), "KVM_SET_USER_MEMORY_REGION");
}

static struct vcpu create_vcpu(const struct kvm *kvm, const struct vm *vm)
{
    struct vcpu vcpu = {.fd = -1, .run_size = kvm->run_size};

    if (is_learners("vcpu")) {
        need(vcpu_create(kvm, vm, 0, &vcpu, &err), "vcpu_create");
        return vcpu;
    }
    vcpu.fd = ioctl(vm->fd, KVM_CREATE_VCPU, 0);
    need(vcpu.fd, "KVM_CREATE_VCPU");
    vcpu.run = mmap(NULL, kvm->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu.fd, 0);
    return vcpu;
}

static void set_registers(const struct vcpu *vcpu, uint16_t cs, uint64_t ip)
{
    struct kvm_regs regs = {.rip = ip, .rflags = 2, .rsp = 0x7000};
    struct kvm_sregs sregs;

    need(ioctl(vcpu->fd, KVM_GET_SREGS, &sregs), "KVM_GET_SREGS");
    if (is_learners("modes")) {
        x86_real_mode(&sregs, cs);
    } else {
        sregs.cs = segment(cs, 0xb);
        sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = segment(0, 3);
    }
    need(ioctl(vcpu->fd, KVM_SET_SREGS, &sregs), "KVM_SET_SREGS");
    need(ioctl(vcpu->fd, KVM_SET_REGS, &regs), "KVM_SET_REGS");
}

static int run_once(struct vcpu *vcpu)
{
    return is_learners("run") ? vcpu_run(vcpu) : ioctl(vcpu->fd, KVM_RUN, NULL);
}

static void write_down(const struct kvm_run *run, unsigned n)
{
    char text[96];

    if (n > 0)
        report_raw(", ");
    if (run->exit_reason == KVM_EXIT_IO)
        (void)snprintf(text, sizeof(text), "[\"IO\", %u, %u, %u]", run->io.port,
                       ((const uint8_t *)run)[run->io.data_offset], run->io.direction);
    else if (run->exit_reason == KVM_EXIT_MMIO)
        (void)snprintf(text, sizeof(text), "[\"MMIO\", %llu, %u, %u]",
                       (unsigned long long)run->mmio.phys_addr, run->mmio.data[0],
                       run->mmio.is_write);
    else
        (void)snprintf(text, sizeof(text), "[\"%s\", 0, 0, 0]", kvm_exit_name(run->exit_reason));
    report_raw(text);
}

static void run_guest(struct vcpu *vcpu)
{
    report_name("exits");
    report_raw("[");
    int rc = 0;
    for (unsigned n = 0; n < EXITS_MAX; n++) {
        vcpu->run->exit_reason = KVM_EXIT_UNKNOWN;
        rc = run_once(vcpu);
        if (rc < 0)
            break;
        write_down(vcpu->run, n);
        if (vcpu->run->exit_reason != KVM_EXIT_IO)
            break;
        if (vcpu->run->io.direction == KVM_EXIT_IO_IN)
            memset((uint8_t *)vcpu->run + vcpu->run->io.data_offset, 0,
                   (size_t)vcpu->run->io.size * vcpu->run->io.count);
    }
    report_raw("]");
    report_int("rc", rc);
}

int main(int argc, char **argv)
{
    if (argc != 7)
        return 2;
    part = argv[1];
    uint64_t gpa = number(argv[2]), size = number(argv[5]);
    struct kvm kvm = {.fd = open(KVM_DEVICE, O_RDWR | O_CLOEXEC)};
    need(kvm.fd < 0 ? -errno : 0, KVM_DEVICE);
    kvm.run_size = (size_t)ioctl(kvm.fd, KVM_GET_VCPU_MMAP_SIZE, 0);
    struct vm vm = {.fd = ioctl(kvm.fd, KVM_CREATE_VM, 0)};
    need(vm.fd < 0 ? -errno : 0, "KVM_CREATE_VM");
    need(ioctl(vm.fd, KVM_SET_TSS_ADDR, 0xfffbd000), "KVM_SET_TSS_ADDR");

    uint8_t *ram = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (ram == MAP_FAILED || gpa >= size)
        return 2;
    (void)from_hex(argv[6], ram + gpa, size - gpa);
    set_memory(&vm, ram, size);
    struct vcpu vcpu = create_vcpu(&kvm, &vm);
    set_registers(&vcpu, (uint16_t)number(argv[3]), number(argv[4]));
    run_guest(&vcpu);

    struct kvm_regs regs;
    need(ioctl(vcpu.fd, KVM_GET_REGS, &regs), "KVM_GET_REGS");
    report_u64("rax", regs.rax);
    report_u64("rbx", regs.rbx);
    report_u64("rcx", regs.rcx);
    report_u64("rip", regs.rip);
    report_hex("page", ram, 4096);
    return report_end();
}
