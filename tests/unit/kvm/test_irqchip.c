/*
 * What KVM is asked for, seen by an ioctl() of our own: no KVM is needed.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <linux/kvm.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "hv/kvm/irqchip.h"

#define VM_FD 1234

static const struct vm vm = {.fd = VM_FD};
static struct error err;
static int fail_with; /* errno, 0: ioctls succeed */
static unsigned calls;
static unsigned long request_seen;
static uint8_t arg_seen[128];

int ioctl(int fd, unsigned long request, ...)
{
    va_list args;

    va_start(args, request);
    const void *arg = va_arg(args, const void *);
    va_end(args);
    if (fd != VM_FD)
        return (int)syscall(SYS_ioctl, fd, request, arg);
    calls++;
    request_seen = request;
    memset(arg_seen, 0, sizeof(arg_seen));
    if (arg != NULL)
        memcpy(arg_seen, arg, _IOC_SIZE(request));
    errno = fail_with;
    return fail_with != 0 ? -1 : 0;
}

static void expect_request(unsigned long request)
{
    cr_assert_eq(calls, 1);
    cr_assert_eq(request_seen, request);
}

Test(irqchip, creates_the_controllers)
{
    cr_assert_eq(vm_create_irqchip(&vm, &err), 0);
    expect_request(KVM_CREATE_IRQCHIP);
}

Test(irqchip, creates_the_pit_with_a_dummy_speaker)
{
    struct kvm_pit_config pit;

    cr_assert_eq(vm_create_pit(&vm, &err), 0);
    expect_request(KVM_CREATE_PIT2);
    memcpy(&pit, arg_seen, sizeof(pit));
    cr_assert_eq(pit.flags, KVM_PIT_SPEAKER_DUMMY);
}

Test(irqchip, a_refusal_is_named)
{
    fail_with = EEXIST;
    cr_assert_eq(vm_create_irqchip(&vm, &err), -EEXIST);
    cr_assert_not_null(strstr(err.text, "KVM_CREATE_IRQCHIP"));
    cr_assert_eq(vm_create_pit(&vm, &err), -EEXIST);
    cr_assert_not_null(strstr(err.text, "KVM_CREATE_PIT2"));
    cr_assert_eq(vm_irqfd(&vm, 4, 7, &err), -EEXIST);
    cr_assert_not_null(strstr(err.text, "KVM_IRQFD"));
}

Test(irqchip, a_line_has_a_number_and_a_level)
{
    struct kvm_irq_level irq;

    for (unsigned level = 0; level < 2; level++) {
        calls = 0;
        cr_assert_eq(vm_irq_line(&vm, 20 + level, level), 0);
        expect_request(KVM_IRQ_LINE);
        memcpy(&irq, arg_seen, sizeof(irq));
        cr_assert_eq(irq.irq, 20 + level);
        cr_assert_eq(irq.level, level);
    }
    fail_with = ENXIO;
    cr_assert_eq(vm_irq_line(&vm, 0, true), -ENXIO);
}

Test(irqchip, an_eventfd_is_connected_and_disconnected)
{
    struct kvm_irqfd irqfd;

    cr_assert_eq(vm_irqfd(&vm, 9, 77, &err), 0);
    expect_request(KVM_IRQFD);
    memcpy(&irqfd, arg_seen, sizeof(irqfd));
    cr_assert_eq(irqfd.gsi, 9);
    cr_assert_eq(irqfd.fd, 77);
    cr_assert_eq(irqfd.flags, 0);
    calls = 0;
    cr_assert_eq(vm_irqfd_remove(&vm, 9, 77), 0);
    expect_request(KVM_IRQFD);
    memcpy(&irqfd, arg_seen, sizeof(irqfd));
    cr_assert_eq(irqfd.gsi, 9);
    cr_assert_eq(irqfd.fd, 77);
    cr_assert_eq(irqfd.flags, KVM_IRQFD_FLAG_DEASSIGN);
    fail_with = EINVAL;
    cr_assert_eq(vm_irqfd_remove(&vm, 9, 77), -EINVAL);
}
