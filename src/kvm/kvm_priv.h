/*
 * How the files of this layer call the kernel.
 */
#ifndef KVM_PRIV_H
#define KVM_PRIV_H

#include "hv/base/err.h"

/* An ioctl that a signal cannot interrupt half-way: 0 or more, or -errno. */
int kvm_ioctl(int fd, unsigned long request, void *arg) HV_MUST_CHECK;

/* The same for the many whose failure is reported with their name. */
int kvm_ioctl_named(int fd, unsigned long request, void *arg, const char *name,
                    struct error *err) HV_MUST_CHECK;

#endif
