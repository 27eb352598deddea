/*
 * kvm_open() against a KVM of our making.
 *
 * The driver's own ioctl() stands before libc's, so the learner's code talks to it: a KVM of any
 * version, with a run structure of any size, on hosts that have none.
 *
 * args: PATH, then VERSION RUN_SIZE for each case (negative numbers: the ioctl fails with that
 * errno)
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdarg.h>
#include <sys/ioctl.h>

#include "hv/kvm/kvm.h"
#include "observe.h"

#define POISON 0xa5

static struct {
    int version, run_size;                      /* what it answers */
    int asked_version, asked_size, asked_other; /* how often it was asked */
} fake;

int ioctl(int fd, unsigned long request, ...)
{
    int value;

    (void)fd;
    switch (request) {
    case KVM_GET_API_VERSION:
        fake.asked_version++;
        value = fake.version;
        break;
    case KVM_GET_VCPU_MMAP_SIZE:
        fake.asked_size++;
        value = fake.run_size;
        break;
    default:
        fake.asked_other++;
        value = -ENOTTY;
    }
    if (value >= 0)
        return value;
    errno = -value;
    return -1;
}

static void try(const char *path)
{
    struct error err = {0};
    struct kvm kvm;

    memset(&kvm, POISON, sizeof(kvm));
    int before = open_descriptors();
    int rc = kvm_open(path, &kvm, &err);
    int after = open_descriptors();

    report_case();
    report_int("rc", rc);
    report_int("asked_version", fake.asked_version);
    report_int("asked_size", fake.asked_size);
    report_int("asked_other", fake.asked_other);
    report_int("untouched", all_bytes_are(&kvm, POISON, sizeof(kvm)));
    report_int("opened", after - before);
    report_u64("run_size", kvm.run_size);
    report_int("is_open", rc == 0 && fcntl(kvm.fd, F_GETFD) >= 0);
    report_string("error", err.text);
    if (rc == 0)
        kvm_close(&kvm);
}

int main(int argc, char **argv)
{
    for (int i = 2; i + 1 < argc; i += 2) {
        memset(&fake, 0, sizeof(fake));
        fake.version = atoi(argv[i]);
        fake.run_size = atoi(argv[i + 1]);
        try(argv[1]);
    }
    return report_end();
}
