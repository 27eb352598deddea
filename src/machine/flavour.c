/*
 * What kind of virtualization this host's processor offers.
 */
#include <cpuid.h>

#include "hv/machine/probe.h"

enum probe_flavour probe_flavour(void)
{
    unsigned a, b, c, d;

    if (__get_cpuid(1, &a, &b, &c, &d) && (c & (1U << 5)))
        return PROBE_INTEL_VMX;
    if (__get_cpuid(0x80000001, &a, &b, &c, &d) && (c & (1U << 2)))
        return PROBE_AMD_SVM;
    return PROBE_SOFTWARE;
}
