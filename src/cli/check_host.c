/*
 * Is this host's KVM good enough for what is to be started?
 */
#include "cli/cli.h"
#include "cli/session.h"
#include "hv/machine/probe.h"

static bool is_linux(enum boot_protocol protocol)
{
    return protocol == BOOT_LINUX || protocol == BOOT_LINUX_UNPACKED || protocol == BOOT_PVH;
}

/* A KVM that only emulates the processor fails somewhere inside Linux, bafflingly. Where the CPU
 * offers no virtualization, look before the start; elsewhere the start is not delayed. Returns an
 * exit status. */
int check_kvm(const struct session *s, struct error *err)
{
    struct probe probe;

    if (s->opt.skip_probe || !is_linux(machine_protocol(s->machine)) ||
        probe_flavour() != PROBE_SOFTWARE)
        return STATUS_OK;
    probe_kvm(s->opt.kvm_path, &probe);
    if (probe.result == PROBE_OK)
        return STATUS_OK;
    (void)error_set(err, 0,
                    "%s; `hv doctor` says what to do, --no-probe starts the guest all the same",
                    probe.why.text);
    return STATUS_KVM;
}
