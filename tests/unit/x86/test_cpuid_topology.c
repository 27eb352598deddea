/*
 * Several CPUs: ids that agree in all leaves, and what the topology leaves say of them.
 */
#include <criterion/criterion.h>
#include <stdlib.h>

#include "hv/base/num.h"
#include "support/cpuid_host.h"

TestSuite(topology_intel, .init = host_intel, .fini = host_forget);
TestSuite(topology_amd, .init = host_amd, .fini = host_forget);

/* Every leaf that names an id names the vCPU's index; every count covers all ids. */
static void assert_ids(unsigned cpus, unsigned index)
{
    struct kvm_cpuid2 *table = make((struct cpu_policy){.cpus = cpus}, index);
    struct kvm_cpuid_entry2 leaf1 = get(table, 1, 0);

    cr_assert_eq(leaf1.ebx >> 24, index);
    cr_assert_geq(leaf1.ebx >> 16 & 0xff, cpus);
    cr_assert_eq(leaf1.edx >> 28 & 1, cpus > 1, "HTT says that there are several");
    for (uint32_t i = 0; i < table->nent; i++) {
        const struct kvm_cpuid_entry2 *e = &table->entries[i];

        if (e->function == 0xb || e->function == 0x1f)
            cr_assert_eq(e->edx, index, "leaf 0x%x.%u", e->function, e->index);
        if (e->function == 0x8000001e)
            cr_assert_eq(e->eax, index);
    }
    free(table);
}

static void assert_all_ids(void)
{
    for (unsigned cpus = 1; cpus <= X86_CPUS_MAX; cpus++) {
        for (unsigned index = 0; index < cpus; index++)
            assert_ids(cpus, index);
    }
}

Test(topology_intel, apic_ids_agree_in_all_leaves)
{
    assert_all_ids();
}

Test(topology_amd, apic_ids_agree_in_all_leaves)
{
    assert_all_ids();
}

static void assert_extended_topology(uint32_t leaf, unsigned cpus, unsigned bits)
{
    struct kvm_cpuid2 *table = make((struct cpu_policy){.cpus = cpus}, cpus - 1);
    struct kvm_cpuid_entry2 thread = get(table, leaf, 0);
    struct kvm_cpuid_entry2 core = get(table, leaf, 1);
    struct kvm_cpuid_entry2 end = get(table, leaf, 2);

    cr_assert_eq(thread.eax, 0);
    cr_assert_eq(thread.ebx, 1);
    cr_assert_eq(thread.ecx, 0x100);
    cr_assert_eq(core.eax, bits);
    cr_assert_eq(core.ebx, cpus);
    cr_assert_eq(core.ecx, 0x201);
    cr_assert_eq(end.eax, 0);
    cr_assert_eq(end.ebx, 0);
    cr_assert_eq(end.ecx, 2);
    free(table);
}

Test(topology_intel, extended_topology_has_thread_core_and_end)
{
    static const struct {
        unsigned cpus, bits;
    } cases[] = {{1, 0}, {2, 1}, {3, 2}, {4, 2}, {5, 3}, {33, 6}, {64, 6}};

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        assert_extended_topology(0xb, cases[i].cpus, cases[i].bits);
        assert_extended_topology(0x1f, cases[i].cpus, cases[i].bits);
    }
}

/* Whatever a host reports. */
Test(topology_intel, random_hosts)
{
    for (unsigned seed = 0; seed < 300; seed++) {
        unsigned cpus;

        srand(seed);
        cpus = 1 + rand() % X86_CPUS_MAX;
        for (uint32_t i = 1; i < host->nent; i++) {
            host->entries[i].eax = (uint32_t)rand() * 3;
            host->entries[i].ebx = (uint32_t)rand() * 3;
            host->entries[i].ecx = (uint32_t)rand() * 3;
            host->entries[i].edx = (uint32_t)rand() * 3;
        }
        assert_ids(cpus, rand() % cpus);
    }
}
