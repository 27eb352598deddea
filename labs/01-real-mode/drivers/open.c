/*
 * kvm_open() against a KVM of our making.
 *
 * The driver's own ioctl() stands before libc's, so the learner's code talks to it: a KVM of any
 * version, with a run structure of any size, on hosts that have none.
 *
 * args: PATH VERSION RUN_SIZE   (negative numbers: the ioctl fails with that errno)
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdarg.h>
#include <sys/ioctl.h>

#include "hv/kvm/kvm.h"
#include "observe.h"

#define POISON 0xa5

static int version, run_size, asked_version, asked_size, asked_other;

int ioctl(int fd, unsigned long request, ...)
{
    int value;

    (void)fd;
    switch (request) {
    case KVM_GET_API_VERSION:
        asked_version++;
        value = version;
        break;
    case KVM_GET_VCPU_MMAP_SIZE:
        asked_size++;
        value = run_size;
        break;
    default:
        asked_other++;
        value = -ENOTTY;
    }
    if (value >= 0)
        return value;
    errno = -value;
    return -1;
}

int main(int argc, char **argv)
{
    struct error err = {0};
    struct kvm kvm;

    if (argc != 4)
        return 2;
    version = atoi(argv[2]);
    run_size = atoi(argv[3]);
    memset(&kvm, POISON, sizeof(kvm));
    int before = open_descriptors();
    int rc = kvm_open(argv[1], &kvm, &err);
    int after = open_descriptors();

    report_int("rc", rc);
    report_int("asked_version", asked_version);
    report_int("asked_size", asked_size);
    report_int("asked_other", asked_other);
    report_int("untouched", all_bytes_are(&kvm, POISON, sizeof(kvm)));
    report_int("opened", after - before);
    report_u64("run_size", kvm.run_size);
    report_int("is_open", rc == 0 && fcntl(kvm.fd, F_GETFD) >= 0);
    report_string("error", err.text);
    return report_end();
}
