/*
 * vm_set_memory() against an ioctl() that writes down what it is asked.
 *
 * args: SLOT GPA SIZE HOST FLAGS ERRNO for each case (ERRNO: what the ioctl fails with, 0: it
 * succeeds)
 */
#include <errno.h>
#include <linux/kvm.h>
#include <stdarg.h>
#include <sys/ioctl.h>

#include "hv/kvm/kvm.h"
#include "observe.h"

#define VM_FD 1234

static struct kvm_userspace_memory_region region;
static int fail_with, calls, asked_other, fd_seen;

int ioctl(int fd, unsigned long request, ...)
{
    va_list args;

    va_start(args, request);
    const void *arg = va_arg(args, void *);
    va_end(args);
    if (request != KVM_SET_USER_MEMORY_REGION) {
        asked_other++;
        return 0;
    }
    calls++;
    fd_seen = fd;
    region = *(const struct kvm_userspace_memory_region *)arg;
    errno = fail_with;
    return fail_with != 0 ? -1 : 0;
}

static void try(char **argv)
{
    const struct vm vm = {.fd = VM_FD};
    struct error err = {0};

    int rc = vm_set_memory(&vm, (uint32_t)number(argv[0]), number(argv[1]), number(argv[2]),
                           (void *)(uintptr_t)number(argv[3]), (uint32_t)number(argv[4]), &err);

    report_case();
    report_int("rc", rc);
    report_int("calls", calls);
    report_int("asked_other", asked_other);
    report_int("right_fd", fd_seen == VM_FD);
    report_u64("slot", region.slot);
    report_u64("guest_phys_addr", region.guest_phys_addr);
    report_u64("memory_size", region.memory_size);
    report_u64("userspace_addr", region.userspace_addr);
    report_u64("flags", region.flags);
    report_string("error", err.text);
}

int main(int argc, char **argv)
{
    for (int i = 1; i + 5 < argc; i += 6) {
        memset(&region, 0, sizeof(region));
        calls = asked_other = fd_seen = 0;
        fail_with = atoi(argv[i + 5]);
        try(argv + i);
    }
    return report_end();
}
