/*
 * gsi_line() of src/machine/board.c, which is static: the file is included. KVM is an ioctl() of
 * our own.
 *
 * args: IRQCHIP GSI ERRNO LEVELS for each case   IRQCHIP: has the machine controllers? ERRNO: what
 * KVM says; LEVELS: of the letters 0 1, what a device sets its line to
 */
#include "machine/board.c"

#include <stdarg.h>
#include <sys/ioctl.h>

#include "observe.h"

#define VM_FD 1234

static int fail_with;
static char
    told[1024]; /* "4+" went up, "4-" went down, "?" another ioctl, "!" another descriptor */

int ioctl(int fd, unsigned long request, ...)
{
    size_t n = strlen(told);
    va_list args;

    va_start(args, request);
    const struct kvm_irq_level *irq = va_arg(args, const struct kvm_irq_level *);
    va_end(args);
    if (request != KVM_IRQ_LINE)
        (void)snprintf(told + n, sizeof(told) - n, "? ");
    else if (fd != VM_FD)
        (void)snprintf(told + n, sizeof(told) - n, "! ");
    else
        (void)snprintf(told + n, sizeof(told) - n, "%u%c ", irq->irq, irq->level ? '+' : '-');
    errno = fail_with;
    return fail_with != 0 ? -1 : 0;
}

static void try(bool irqchip, uint32_t gsi, const char *levels)
{
    static struct machine m;

    memset(&m, 0, sizeof(m));
    m.cfg.irqchip = irqchip;
    m.vm.fd = VM_FD;
    told[0] = '\0';
    struct irq_line line = gsi_line(&m, gsi);
    for (; *levels != '\0'; levels++)
        irq_set(&line, *levels == '1');
    report_case();
    report_string("told", told);
    report_int("level", line.level);
    report_int("ended", m.ended);
}

int main(int argc, char **argv)
{
    for (int i = 1; i + 3 < argc; i += 4) {
        fail_with = atoi(argv[i + 2]);
        try(number(argv[i]) != 0, (uint32_t)number(argv[i + 1]), argv[i + 3]);
    }
    return report_end();
}
