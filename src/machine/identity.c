/*
 * What the vCPUs are told that they are.
 *
 * CPUID goes to KVM before the registers do: KVM checks control registers against it.
 */
#include <stdlib.h>

#include "hv/kvm/vcpu_state.h"
#include "hv/x86/cpuid.h"
#include "machine_priv.h"

static int set_cpuid(const struct cpu *cpu, const struct kvm_cpuid2 *supported, struct error *err)
{
    const struct machine *m = cpu->m;
    const struct cpu_policy policy = {
        .cpus = m->cfg.cpus,
        .x2apic = m->cfg.irqchip,
        .tsc_khz = vcpu_tsc_khz(&cpu->vcpu),
        .tsc_deadline = m->cfg.irqchip && kvm_check(&m->kvm, KVM_CAP_TSC_DEADLINE_TIMER) > 0,
    };
    struct kvm_cpuid2 *table;
    int rc = cpuid_for_vcpu(supported, &policy, cpu->vcpu.id, &table);

    if (rc < 0)
        return error_sys(err, rc, "cannot make the CPUID table of vCPU %u", cpu->vcpu.id);
    rc = vcpu_set_cpuid(&cpu->vcpu, table, err);
    free(table);
    return rc;
}

static int identify(const struct cpu *cpu, const struct kvm_cpuid2 *supported, struct error *err)
{
    unsigned count;
    const struct kvm_msr_entry *msrs = x86_initial_msrs(&count);
    int rc = set_cpuid(cpu, supported, err);

    return rc < 0 ? rc : vcpu_set_msrs(&cpu->vcpu, msrs, count, err);
}

int identify_cpus(struct machine *m, struct error *err)
{
    struct kvm_cpuid2 *supported;
    int rc = kvm_supported_cpuid(&m->kvm, &supported, err);

    if (rc < 0)
        return rc;
    for (unsigned i = 0; rc == 0 && i < m->cfg.cpus; i++)
        rc = identify(&m->cpus[i], supported, err);
    free(supported);
    return rc;
}
