/*
 * The functions of src/kvm/irqchip.c against an ioctl() of our own.
 *
 * args: FUNCTION A B ERRNO for each case   (ERRNO 0: the ioctl succeeds)
 *   irqchip 0 0   pit 0 0   line GSI LEVEL   irqfd GSI FD   remove GSI FD
 */
#include <errno.h>
#include <linux/kvm.h>
#include <stdarg.h>
#include <sys/ioctl.h>

#include "hv/kvm/irqchip.h"
#include "observe.h"

#define VM_FD 1234

static int fail_with, calls, right_fd;
static unsigned long request_seen;
static union {
    struct kvm_pit_config pit;
    struct kvm_irq_level line;
    struct kvm_irqfd irqfd;
} seen;

int ioctl(int fd, unsigned long request, ...)
{
    va_list args;

    va_start(args, request);
    const void *arg = va_arg(args, const void *);
    va_end(args);
    calls++;
    request_seen = request;
    right_fd = fd == VM_FD;
    memset(&seen, 0, sizeof(seen));
    if (arg != NULL && _IOC_SIZE(request) <= sizeof(seen))
        memcpy(&seen, arg, _IOC_SIZE(request));
    errno = fail_with;
    return fail_with != 0 ? -1 : 0;
}

/* Says what was asked, by name. */
static void report_request(void)
{
    switch (request_seen) {
    case KVM_CREATE_IRQCHIP:
        report_string("request", "KVM_CREATE_IRQCHIP");
        break;
    case KVM_CREATE_PIT2:
        report_string("request", "KVM_CREATE_PIT2");
        report_u64("flags", seen.pit.flags);
        break;
    case KVM_IRQ_LINE:
        report_string("request", "KVM_IRQ_LINE");
        report_u64("gsi", seen.line.irq);
        report_u64("level", seen.line.level);
        break;
    case KVM_IRQFD:
        report_string("request", "KVM_IRQFD");
        report_u64("gsi", seen.irqfd.gsi);
        report_u64("fd", seen.irqfd.fd);
        report_u64("flags", seen.irqfd.flags);
        break;
    default:
        report_string("request", calls > 0 ? "another" : "none");
    }
}

static int call(const char *function, uint32_t a, uint32_t b, struct error *err)
{
    const struct vm vm = {.fd = VM_FD};

    if (strcmp(function, "irqchip") == 0)
        return vm_create_irqchip(&vm, err);
    if (strcmp(function, "pit") == 0)
        return vm_create_pit(&vm, err);
    if (strcmp(function, "line") == 0)
        return vm_irq_line(&vm, a, b != 0);
    if (strcmp(function, "irqfd") == 0)
        return vm_irqfd(&vm, a, (int)b, err);
    return vm_irqfd_remove(&vm, a, (int)b);
}

int main(int argc, char **argv)
{
    for (int i = 1; i + 3 < argc; i += 4) {
        struct error err = {0};

        fail_with = atoi(argv[i + 3]);
        calls = right_fd = 0;
        request_seen = 0;
        int rc = call(argv[i], (uint32_t)number(argv[i + 1]), (uint32_t)number(argv[i + 2]), &err);
        report_case();
        report_int("rc", rc);
        report_int("calls", calls);
        report_int("right_fd", right_fd);
        report_request();
        report_string("error", err.text);
    }
    return report_end();
}
