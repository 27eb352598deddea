/*
 * vcpu_run() against an ioctl() whose answer we choose.
 *
 * args: ERRNO for each case (what KVM_RUN fails with, 0: it succeeds). The failure comes ONCE: code
 * that tries again succeeds the second time, and the count of calls tells.
 */
#include <errno.h>
#include <linux/kvm.h>
#include <stdarg.h>
#include <sys/ioctl.h>

#include "hv/kvm/kvm.h"
#include "observe.h"

#define VCPU_FD 4321

static int fail_with, calls, asked_other, right_fd;

int ioctl(int fd, unsigned long request, ...)
{
    if (request != KVM_RUN) {
        asked_other++;
        return 0;
    }
    right_fd = fd == VCPU_FD;
    if (calls++ > 0 || fail_with == 0)
        return 0;
    errno = fail_with;
    return -1;
}

int main(int argc, char **argv)
{
    struct kvm_run run = {0};
    struct vcpu vcpu = {.fd = VCPU_FD, .run = &run, .run_size = sizeof(run)};

    for (int i = 1; i < argc; i++) {
        fail_with = atoi(argv[i]);
        calls = asked_other = right_fd = 0;
        int rc = vcpu_run(&vcpu);
        report_case();
        report_int("rc", rc);
        report_int("calls", calls);
        report_int("asked_other", asked_other);
        report_int("right_fd", right_fd);
    }
    return report_end();
}
