/*
 * From vm_irq_line() and vm_irqfd() to the request register of KVM's PIC. The controllers are
 * created by bare ioctls, and no processor is needed.
 *
 * args: GSI for each case (3 to 7 or 9 to 15)
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>

#include "hv/kvm/irqchip.h"
#include "observe.h"

static struct vm vm;

static void stop(const char *step)
{
    report_string("stopped_at", step);
    report_int("errno", errno);
    exit(report_end());
}

static struct kvm_irqchip chip_of(uint32_t gsi)
{
    struct kvm_irqchip chip = {.chip_id = gsi < 8 ? KVM_IRQCHIP_PIC_MASTER : KVM_IRQCHIP_PIC_SLAVE};

    if (ioctl(vm.fd, KVM_GET_IRQCHIP, &chip) < 0)
        stop("KVM_GET_IRQCHIP");
    return chip;
}

static bool is_requested(uint32_t gsi)
{
    return chip_of(gsi).chip.pic.irr & 1U << (gsi & 7);
}

static bool is_high(uint32_t gsi)
{
    return chip_of(gsi).chip.pic.last_irr & 1U << (gsi & 7);
}

static void forget(uint32_t gsi)
{
    struct kvm_irqchip chip = chip_of(gsi);

    chip.chip.pic.irr = 0;
    if (ioctl(vm.fd, KVM_SET_IRQCHIP, &chip) < 0)
        stop("KVM_SET_IRQCHIP");
}

/* Writes to the eventfd and looks. It reaches KVM through a work queue, which may take a moment. */
static bool is_requested_by(uint32_t gsi, int fd, int ms)
{
    uint64_t one = 1;

    if (write(fd, &one, sizeof(one)) != (ssize_t)sizeof(one))
        stop("write to the eventfd");
    for (; ms > 0 && !is_requested(gsi); ms--)
        (void)poll(NULL, 0, 1);
    return is_requested(gsi);
}

static void try(uint32_t gsi)
{
    struct error err = {0};

    report_case();
    forget(gsi);
    report_int("up", vm_irq_line(&vm, gsi, true));
    report_int("high", is_high(gsi));
    report_int("requested", is_requested(gsi));
    report_int("down", vm_irq_line(&vm, gsi, false));
    report_int("low", !is_high(gsi));
    forget(gsi);
    int fd = eventfd(0, EFD_CLOEXEC);
    int connected = vm_irqfd(&vm, gsi, fd, &err);
    report_int("connected", connected);
    report_string("error", err.text);
    int by_event = connected == 0 && is_requested_by(gsi, fd, 3000);
    report_int("by_event", by_event);
    report_int("removed", vm_irqfd_remove(&vm, gsi, fd));
    forget(gsi);
    report_int("after_removal", is_requested_by(gsi, fd, 60));
    (void)close(fd);
}

int main(int argc, char **argv)
{
    int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);

    if (kvm < 0)
        stop("/dev/kvm");
    vm.fd = ioctl(kvm, KVM_CREATE_VM, 0);
    if (vm.fd < 0 || ioctl(vm.fd, KVM_CREATE_IRQCHIP, NULL) < 0)
        stop("KVM_CREATE_IRQCHIP");
    for (int i = 1; i < argc; i++)
        try((uint32_t)number(argv[i]));
    return report_end();
}
