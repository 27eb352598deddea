/*
 * Can this host's KVM run a guest?
 *
 * That /dev/kvm opens proves little: there are KVMs that emulate the processor, and then some of
 * what every operating system does fails: delivering interrupts and exceptions, or single
 * instructions. The probe runs a small guest in long mode that goes through these one by one and
 * reports how far it came.
 */
#ifndef HV_MACHINE_PROBE_H
#define HV_MACHINE_PROBE_H

#include <stdbool.h>
#include <stdint.h>

#include "hv/base/err.h"

enum probe_result {
    PROBE_OK,
    PROBE_NO_DEVICE,     /* no /dev/kvm */
    PROBE_NO_PERMISSION, /* it is there, and not for this user */
    PROBE_BROKEN,        /* the API fails before a guest runs */
    PROBE_NO_LONG_MODE,  /* not even the first 64-bit instruction */
    PROBE_NO_INTERRUPTS, /* the guest runs, but an interrupt or exception never reached its handler
                          */
    PROBE_INCOMPLETE,    /* those arrive, but an instruction that Linux needs is missing */
};

enum probe_flavour { PROBE_INTEL_VMX, PROBE_AMD_SVM, PROBE_SOFTWARE };

struct probe {
    enum probe_result result;
    enum probe_flavour flavour; /* what the host's CPU offers */
    bool nested;                /* this host is itself a virtual machine */
    uint32_t exit_reason;       /* of the exit that was not expected */
    uint32_t suberror;          /* with KVM_EXIT_INTERNAL_ERROR */
    struct error why;           /* one sentence for a person; "" when all is well */
};

/* Takes a few milliseconds. `path` is normally KVM_DEVICE. Always fills *out. */
void probe_kvm(const char *path, struct probe *out);

/* The flavour alone, without touching KVM: from CPUID. */
enum probe_flavour probe_flavour(void);

const char *probe_result_name(enum probe_result result);

#endif
