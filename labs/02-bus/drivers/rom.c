/*
 * A guest with RAM and, right behind it, ROM: the memory is the learner's, and so is the bus that
 * gets what leaves it. The monitor around them is bare ioctls.
 *
 * args: CODE ROM   hex: put at 0x7c00, and at the start of the ROM page at 0x10000
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include "hv/kvm/kvm.h"
#include "hv/mem/mem.h"
#include "recorder.h"

#define RAM_SIZE 0x10000
#define ROM_SIZE 0x1000
#define EXITS_MAX 100

static struct mem mem;
static struct bus bus;
static struct kvm_run *run;

/* Stops the driver when a step fails; says whose it was. */
static void need(int rc, const char *step)
{
    if (rc >= 0)
        return;
    report_string("stopped_at", step);
    report_int("rc", rc);
    exit(report_end());
}

static int asked(int rc)
{
    return rc < 0 ? -errno : rc;
}

static void fill(const char *code, const char *rom)
{
    struct error err;
    uint8_t bytes[ROM_SIZE];
    size_t n;

    mem_init(&mem);
    need(mem_add(&mem, 0, RAM_SIZE, MEM_RAM, MEM_ANONYMOUS, &err), "mem_add");
    need(mem_add(&mem, RAM_SIZE, ROM_SIZE, MEM_ROM, MEM_ANONYMOUS, &err), "mem_add");
    n = from_hex(code, bytes, sizeof(bytes));
    need(mem_write(&mem, 0x7c00, bytes, n), "mem_write");
    n = from_hex(rom, bytes, sizeof(bytes));
    need(mem_rom_write(&mem, RAM_SIZE, bytes, n), "mem_rom_write");
}

static void set_slots(int vm)
{
    for (unsigned i = 0; i < mem.count; i++) {
        struct kvm_userspace_memory_region slot = {
            .slot = i,
            .flags = mem.regions[i].kind == MEM_ROM ? KVM_MEM_READONLY : 0,
            .guest_phys_addr = mem.regions[i].gpa,
            .memory_size = mem.regions[i].size,
            .userspace_addr = (uintptr_t)mem.regions[i].host};
        need(asked(ioctl(vm, KVM_SET_USER_MEMORY_REGION, &slot)), "KVM_SET_USER_MEMORY_REGION");
    }
}

static void set_registers(int vcpu)
{
    struct kvm_regs regs = {.rip = 0x7c00, .rflags = 2, .rsp = 0x7000};
    struct kvm_sregs sregs;

    need(asked(ioctl(vcpu, KVM_GET_SREGS, &sregs)), "KVM_GET_SREGS");
    sregs.cs.base = sregs.cs.selector = 0;
    need(asked(ioctl(vcpu, KVM_SET_SREGS, &sregs)), "KVM_SET_SREGS");
    need(asked(ioctl(vcpu, KVM_SET_REGS, &regs)), "KVM_SET_REGS");
}

/* One exit; false when it was the last. */
static bool serve(int *said)
{
    if (run->exit_reason == KVM_EXIT_IO && run->io.direction == KVM_EXIT_IO_OUT) {
        char text[8];
        (void)snprintf(text, sizeof(text), "%s%u", (*said)++ > 0 ? ", " : "",
                       ((const uint8_t *)run)[run->io.data_offset]);
        report_raw(text);
        return true;
    }
    if (run->exit_reason != KVM_EXIT_MMIO)
        return false;
    if (run->mmio.is_write)
        bus_write(&bus, run->mmio.phys_addr, run->mmio.data, run->mmio.len);
    else
        bus_read(&bus, run->mmio.phys_addr, run->mmio.data, run->mmio.len);
    return true;
}

static void run_guest(int vcpu)
{
    int said = 0, rc = 0;

    report_name("out");
    report_raw("[");
    for (int n = 0; n < EXITS_MAX && rc == 0; n++) {
        rc = asked(ioctl(vcpu, KVM_RUN, NULL));
        if (rc == 0 && !serve(&said))
            break;
    }
    report_raw("]");
    report_int("rc", rc);
    report_string("last", kvm_exit_name(run->exit_reason));
}

int main(int argc, char **argv)
{
    if (argc != 3)
        return 2;
    fill(argv[1], argv[2]);
    bus_init(&bus, UINT64_MAX);
    int kvm = open(KVM_DEVICE, O_RDWR | O_CLOEXEC);
    need(asked(kvm), KVM_DEVICE);
    int vm = ioctl(kvm, KVM_CREATE_VM, 0);
    need(asked(vm), "KVM_CREATE_VM");
    need(asked(ioctl(vm, KVM_SET_TSS_ADDR, 0xfffbd000)), "KVM_SET_TSS_ADDR");
    set_slots(vm);
    int vcpu = ioctl(vm, KVM_CREATE_VCPU, 0);
    need(asked(vcpu), "KVM_CREATE_VCPU");
    run = mmap(NULL, (size_t)ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0), PROT_READ | PROT_WRITE,
               MAP_SHARED, vcpu, 0);
    if (run == MAP_FAILED)
        return 2;
    set_registers(vcpu);
    run_guest(vcpu);
    report_u64("unclaimed", bus.unclaimed);
    report_hex("rom", mem.regions[1].host, 64);
    report_int("host_write", mem_write(&mem, RAM_SIZE - 2, "abcd", 4));
    report_hex("ram_end", (const uint8_t *)mem.regions[0].host + RAM_SIZE - 2, 2);
    return report_end();
}
