/*
 * A KVM without a processor: put before libc (LD_PRELOAD), it lets a guest of hv die any death.
 *
 * KVM_RUN takes the next line of a script instead of running anything. Registers and memory are
 * what hv set, changed by the script; all other ioctls succeed.
 *
 * FAKE_EXITS: steps, separated by blanks; after the last one comes HLT.
 *   put:GPA:HEX      bytes of guest memory (numbers in hexadecimal)
 *   rip:N cr2:N cr3:N cr4:N
 *   out:PORT:HEX     an exit: OUT of these bytes, one at a time
 *   reason:NUMBER    any other exit
 * On descriptor 3: what the registers were at the first KVM_RUN.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdarg.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "observe.h"

#define RUN_SIZE (16 * 4096)
#define DATA_OFFSET 4096
#define SLOTS_MAX 16

static struct kvm_run *run; /* our view of the vCPU's page */
static struct kvm_regs regs;
static struct kvm_sregs sregs;
static struct kvm_userspace_memory_region slots[SLOTS_MAX];
static const char *next;
static struct {
    bool known;
    uint64_t rip, cr3;
} start;

static int new_vcpu(void)
{
    int fd = memfd_create("fake-vcpu", MFD_CLOEXEC);

    if (fd < 0 || ftruncate(fd, RUN_SIZE) < 0)
        return -1;
    run = (struct kvm_run *)syscall(SYS_mmap, NULL, (size_t)RUN_SIZE, PROT_READ | PROT_WRITE,
                                    MAP_SHARED, fd, 0L); // NOLINT
    next = getenv("FAKE_EXITS");
    return fd;
}

static int set_slot(const struct kvm_userspace_memory_region *region)
{
    if (region->slot < SLOTS_MAX)
        slots[region->slot] = *region;
    return 0;
}

static void put(uint64_t gpa, const char *hex)
{
    unsigned byte;

    for (; sscanf(hex, "%2x", &byte) == 1; hex += 2, gpa++)
        for (unsigned i = 0; i < SLOTS_MAX; i++)
            if (gpa - slots[i].guest_phys_addr < slots[i].memory_size)
                ((uint8_t *)(uintptr_t)slots[i].userspace_addr)[gpa - slots[i].guest_phys_addr] =
                    (uint8_t)byte;
}

static void write_out(unsigned port, const char *hex)
{
    uint8_t *data = (uint8_t *)run + DATA_OFFSET;
    unsigned byte;

    run->exit_reason = KVM_EXIT_IO;
    run->io.direction = KVM_EXIT_IO_OUT;
    run->io.port = (uint16_t)port;
    run->io.size = 1;
    run->io.data_offset = DATA_OFFSET;
    for (run->io.count = 0; sscanf(hex, "%2x", &byte) == 1; hex += 2)
        data[run->io.count++] = (uint8_t)byte;
}

/* One word of the script; true if it is an exit. */
static bool play(const char *word)
{
    unsigned long long n;
    unsigned port;
    int hex = 0;

    if (sscanf(word, "put:%llx:%n", &n, &hex) == 1 && hex > 0) {
        put(n, word + hex);
    } else if (sscanf(word, "rip:%llx", &n) == 1) {
        regs.rip = n;
    } else if (sscanf(word, "cr2:%llx", &n) == 1) {
        sregs.cr2 = n;
    } else if (sscanf(word, "cr3:%llx", &n) == 1) {
        sregs.cr3 = n;
    } else if (sscanf(word, "cr4:%llx", &n) == 1) {
        sregs.cr4 = n;
    } else if (sscanf(word, "out:%u:%n", &port, &hex) == 1 && hex > 0) {
        write_out(port, word + hex);
        return true;
    } else if (sscanf(word, "reason:%llu", &n) == 1) {
        run->exit_reason = (uint32_t)n;
        return true;
    }
    return false;
}

static int run_next(void)
{
    if (!start.known) {
        start.known = true;
        start.rip = regs.rip;
        start.cr3 = sregs.cr3;
    }
    while (next != NULL && *next != '\0') {
        const char *word = next;
        next += strcspn(word, " ");
        next += *next == ' ';
        if (play(word))
            return 0;
    }
    run->exit_reason = KVM_EXIT_HLT;
    return 0;
}

int ioctl(int fd, unsigned long request, ...)
{
    va_list args;

    va_start(args, request);
    void *arg = va_arg(args, void *);
    va_end(args);
    switch (request) {
    case KVM_GET_API_VERSION:
        return KVM_API_VERSION;
    case KVM_GET_VCPU_MMAP_SIZE:
        return RUN_SIZE;
    case KVM_CREATE_VM:
        return open("/dev/null", O_RDWR | O_CLOEXEC);
    case KVM_CREATE_VCPU:
        return new_vcpu();
    case KVM_SET_USER_MEMORY_REGION:
        return set_slot(arg);
    case KVM_RUN:
        return run_next();
    case KVM_GET_SREGS:
        memcpy(arg, &sregs, sizeof(sregs));
        return 0;
    case KVM_SET_SREGS:
        memcpy(&sregs, arg, sizeof(sregs));
        return 0;
    case KVM_GET_REGS:
        memcpy(arg, &regs, sizeof(regs));
        return 0;
    case KVM_SET_REGS:
        memcpy(&regs, arg, sizeof(regs));
        return 0;
    default:
        if ((request >> 8 & 0xff) == KVMIO)
            return 0;
        return (int)syscall(SYS_ioctl, fd, request, arg);
    }
}

/* The device is there on every host: another file stands for it. */
int open(const char *path, int flags, ...)
{
    va_list args;

    va_start(args, flags);
    mode_t mode = (flags & (O_CREAT | O_TMPFILE)) != 0 ? va_arg(args, mode_t) : 0;
    va_end(args);
    return (int)syscall(SYS_openat, AT_FDCWD, strcmp(path, "/dev/kvm") == 0 ? "/dev/null" : path,
                        flags, mode);
}

__attribute__((destructor)) static void tell(void)
{
    if (run == NULL || fcntl(REPORT_FD, F_GETFD) < 0)
        return;
    report_u64("rip", start.rip);
    report_u64("cr3", start.cr3);
    (void)report_end();
}
