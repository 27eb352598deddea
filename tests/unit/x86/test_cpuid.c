/*
 * CPUID policy on made-up hosts. What several CPUs are told of each other: test_cpuid_topology.c.
 */
#include "hv/x86/cpuid.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>

#include "hv/base/num.h"
#include "support/cpuid_host.h"

TestSuite(cpuid_intel, .init = host_intel, .fini = host_forget);
TestSuite(cpuid_amd, .init = host_amd, .fini = host_forget);

static const struct cpu_policy one = {.cpus = 1, .x2apic = true, .tsc_deadline = true};

/* --- caches, cores and the leaves that are there --- */

Test(cpuid_amd, leaf_1f_is_not_added_beyond_the_last_leaf)
{
    cr_assert_not(shows_leaf(one, 0x1f));
    cr_assert(shows_leaf(one, 0xb));
}

Test(cpuid_intel, old_processor_gets_leaf_b)
{
    host->entries[0].eax = 5;
    cr_assert_eq(get_once(one, 0, 0, 0).eax, 0xb);
    cr_assert(shows_leaf(one, 0xb));
    cr_assert_not(shows_leaf(one, 0x1f));
}

Test(cpuid_intel, caches_are_shared_as_the_topology_says)
{
    struct kvm_cpuid2 *table = make((struct cpu_policy){.cpus = 6}, 0);
    struct kvm_cpuid_entry2 l1 = get(table, 4, 0), l2 = get(table, 4, 1), l3 = get(table, 4, 2);

    cr_assert_eq(l1.eax >> 14 & 0xfff, 0);
    cr_assert_eq(l2.eax >> 14 & 0xfff, 0);
    cr_assert_eq(l3.eax >> 14 & 0xfff, 7);
    cr_assert_eq(l1.eax >> 26, 7, "core ids, rounded up to a power of two, minus 1");
    cr_assert_eq(l1.eax & 0x3fff, 0x0121, "type and level as on the host");
    cr_assert_eq(l1.ebx, 0x02c0003f);
    cr_assert_eq(get(table, 4, 3).eax, 0, "the end of the list stays the end");
    free(table);
}

Test(cpuid_amd, caches_are_shared_as_the_topology_says)
{
    struct kvm_cpuid2 *table = make((struct cpu_policy){.cpus = 4}, 0);

    cr_assert_eq(get(table, 0x8000001d, 0).eax >> 14, 0);
    cr_assert_eq(get(table, 0x8000001d, 1).eax >> 14, 3);
    cr_assert_eq(get(table, 0x8000001d, 2).eax, 0);
    free(table);
}

Test(cpuid_amd, core_count)
{
    cr_assert_eq(get_once((struct cpu_policy){.cpus = 5}, 0, 0x80000008, 0).ecx, 0x3004);
    cr_assert_eq(get_once(one, 0, 0x80000008, 0).ecx, 0);
    cr_assert_eq(get_once((struct cpu_policy){.cpus = 2}, 0, 0x80000001, 0).ecx & 2, 2);
    cr_assert_eq(get_once(one, 0, 0x80000001, 0).ecx & 2, 0, "CMP_LEGACY");
}

Test(cpuid_intel, amd_topology_stays_reserved)
{
    cr_assert_eq(get_once(one, 0, 0x80000008, 0).ecx, 0);
    cr_assert_eq(get_once((struct cpu_policy){.cpus = 2}, 0, 0x80000001, 0).ecx & 2, 0);
    cr_assert_not(shows_leaf(one, 0x8000001e));
}

Test(cpuid_amd, topology_leaf_is_within_the_maximum)
{
    host->entries[3].eax = 0x80000008;
    cr_assert_eq(host->entries[3].function, 0x80000000);
    cr_assert_eq(get_once(one, 0, 0x80000000, 0).eax, 0x8000001e);
}

Test(cpuid_amd, without_topoext_there_is_no_topology_leaf)
{
    for (uint32_t i = 0; i < host->nent; i++) {
        if (host->entries[i].function == 0x80000001)
            host->entries[i].ecx &= ~(1U << 22);
    }
    cr_assert_not(shows_leaf(one, 0x8000001e));
}

/* --- features that depend on the machine --- */

Test(cpuid_intel, hypervisor_bit_is_set)
{
    host->entries[1].ecx = 0;
    cr_assert_eq(get_once(one, 0, 1, 0).ecx >> 31, 1);
}

Test(cpuid_intel, tsc_deadline_is_the_callers_word)
{
    struct cpu_policy policy = one;

    host->entries[1].ecx = 0;
    cr_assert_eq(get_once(policy, 0, 1, 0).ecx >> 24 & 1, 1);
    policy.tsc_deadline = false;
    host->entries[1].ecx = ~0U;
    cr_assert_eq(get_once(policy, 0, 1, 0).ecx >> 24 & 1, 0);
}

Test(cpuid_intel, x2apic_needs_kvms_own_apic)
{
    struct cpu_policy policy = one;

    cr_assert_eq(get_once(policy, 0, 1, 0).ecx >> 21 & 1, 1);
    policy.x2apic = false;
    cr_assert_eq(get_once(policy, 0, 1, 0).ecx >> 21 & 1, 0);
    host->entries[1].ecx = 0;
    policy.x2apic = true;
    cr_assert_eq(get_once(policy, 0, 1, 0).ecx >> 21 & 1, 0, "never invented");
}

Test(cpuid_intel, cache_line_size_is_never_0)
{
    cr_assert_eq(get_once(one, 0, 1, 0).ebx >> 8 & 0xff, 0xff, "the host's");
    host->entries[1].ebx = 0;
    cr_assert_eq(get_once(one, 0, 1, 0).ebx >> 8 & 0xff, 8);
}

Test(cpuid_intel, tsc_frequency)
{
    struct cpu_policy policy = one;
    struct kvm_cpuid_entry2 e;

    policy.tsc_khz = 2899999;
    e = get_once(policy, 0, 0x15, 0);
    cr_assert_eq((uint64_t)e.ecx * e.ebx / e.eax, 2899999000);
    policy.tsc_khz = 0;
    e = get_once(policy, 0, 0x15, 0);
    cr_assert_eq(e.eax | e.ebx | e.ecx | e.edx, 0);
}

/* --- what is hidden --- */

Test(cpuid_intel, virtualization_only_when_nested)
{
    struct cpu_policy policy = one;

    cr_assert_eq(get_once(policy, 0, 1, 0).ecx >> 5 & 1, 0);
    policy.nested = true;
    cr_assert_eq(get_once(policy, 0, 1, 0).ecx >> 5 & 1, 1);
}

Test(cpuid_amd, virtualization_only_when_nested)
{
    struct cpu_policy policy = one;

    cr_assert_eq(get_once(policy, 0, 0x80000001, 0).ecx >> 2 & 1, 0);
    cr_assert_not(shows_leaf(policy, 0x8000000a));
    policy.nested = true;
    cr_assert_eq(get_once(policy, 0, 0x80000001, 0).ecx >> 2 & 1, 1);
    cr_assert(shows_leaf(policy, 0x8000000a));
}

Test(cpuid_intel, nothing_hidden_leaks)
{
    static const uint32_t gone[] = {3, 5, 9, 0xa, 0x12, 0x14, 0x16, 0x1a, 0x23};
    static const struct {
        uint32_t leaf, subleaf, eax, ebx, ecx, edx;
    } hidden[] = {
        {1, 0, 0, 0, 0x0004cdfc & ~0x200U, 0xa0640000}, /* SSSE3, bit 9, is no part of it */
        {6, 0, ~4U, ~0U, ~0U, ~0U},
        {7, 0, 0, 0x02009004, 0x40002020, 0x034c8000},
        {7, 1, 0x00600100, 0, 0, 0x100},
        {0xd, 0, 0x60000, 0, 0, 0},
        {0x40000001, 0, 0xfeff8104, 0, 0, 0},
        {0x80000007, 0, ~0U, ~0U, ~0U, ~0x100U},
    };
    struct kvm_cpuid2 *table = make(one, 0);

    for (size_t i = 0; i < ARRAY_LEN(gone); i++)
        cr_assert_null(cpuid_find(table, gone[i], 0), "leaf 0x%x", gone[i]);
    for (size_t i = 0; i < ARRAY_LEN(hidden); i++) {
        struct kvm_cpuid_entry2 e = get(table, hidden[i].leaf, hidden[i].subleaf);

        cr_assert_eq(e.eax & hidden[i].eax, 0, "leaf 0x%x eax %x", e.function, e.eax);
        cr_assert_eq(e.ebx & hidden[i].ebx, 0, "leaf 0x%x ebx %x", e.function, e.ebx);
        cr_assert_eq(e.ecx & hidden[i].ecx, 0, "leaf 0x%x ecx %x", e.function, e.ecx);
        cr_assert_eq(e.edx & hidden[i].edx, 0, "leaf 0x%x edx %x", e.function, e.edx);
    }
    free(table);
}

Test(cpuid_amd, nothing_hidden_leaks)
{
    static const uint32_t gone[] = {0x8000001b, 0x8000001f, 0x80000022, 0x80000026};
    struct kvm_cpuid2 *table = make(one, 0);

    for (size_t i = 0; i < ARRAY_LEN(gone); i++)
        cr_assert_null(cpuid_find(table, gone[i], 0), "leaf 0x%x", gone[i]);
    cr_assert_eq(get(table, 0x80000001, 0).ecx & 0x3988b400, 0);
    cr_assert_eq(get(table, 0x80000008, 0).ebx & 0x00800002, 0);
    free(table);
}

Test(cpuid_intel, the_rest_passes)
{
    struct kvm_cpuid2 *table = make(one, 0);

    cr_assert_eq(get(table, 1, 0).eax, ~0U);
    cr_assert_eq(get(table, 1, 0).ecx & 0x201, 0x201, "SSE3, SSSE3");
    cr_assert_eq(get(table, 7, 0).edx & 0x10, 0x10, "FSRM");
    cr_assert_eq(get(table, 6, 0).eax, 4, "ARAT");
    cr_assert_eq(get(table, 0xd, 0).eax, 0xe7);
    cr_assert_eq(get(table, 0x40000001, 0).eax, 0x01007efb, "kvm-clock and the like");
    cr_assert_eq(get(table, 0x80000002, 0).ebx, 0x2952286c, "the brand string");
    cr_assert_eq(get(table, 0x80000007, 0).edx, 0x100, "invariant TSC");
    cr_assert_eq(get(table, 0x80000008, 0).eax, 0x302e, "address widths");
    free(table);
}

/* --- the table itself --- */

static void assert_sorted_and_unique(const struct kvm_cpuid2 *table)
{
    for (uint32_t i = 1; i < table->nent; i++) {
        const struct kvm_cpuid_entry2 *a = &table->entries[i - 1], *b = &table->entries[i];

        cr_assert(a->function < b->function || (a->function == b->function && a->index < b->index),
                  "0x%x.%u before 0x%x.%u", a->function, a->index, b->function, b->index);
    }
}

Test(cpuid_intel, table_is_sorted_and_unique)
{
    struct kvm_cpuid2 *table = make(one, 0);

    assert_sorted_and_unique(table);
    free(table);
}

Test(cpuid_amd, table_is_sorted_and_unique)
{
    struct kvm_cpuid2 *table = make(one, 0);

    assert_sorted_and_unique(table);
    free(table);
}

/* Whatever a host reports: no bit is set that it did not have, policy bits aside. */
Test(cpuid_intel, random_hosts)
{
    for (unsigned seed = 0; seed < 300; seed++) {
        unsigned cpus, index;

        srand(seed);
        cpus = 1 + rand() % X86_CPUS_MAX;
        index = rand() % cpus;
        for (uint32_t i = 1; i < host->nent; i++) {
            host->entries[i].eax = (uint32_t)rand() * 3;
            host->entries[i].ebx = (uint32_t)rand() * 3;
            host->entries[i].ecx = (uint32_t)rand() * 3;
            host->entries[i].edx = (uint32_t)rand() * 3;
        }
        for (uint32_t i = 0; i < host->nent; i++) {
            const struct kvm_cpuid_entry2 *h = &host->entries[i];
            struct kvm_cpuid2 *table = make((struct cpu_policy){.cpus = cpus}, index);
            const struct kvm_cpuid_entry2 *e = cpuid_find(table, h->function, h->index);

            if (e != NULL && (h->function == 7 || h->function == 6 || h->function == 0x40000001))
                cr_assert_eq((e->eax & ~h->eax) | (e->ebx & ~h->ebx) | (e->ecx & ~h->ecx) |
                                 (e->edx & ~h->edx),
                             0, "leaf 0x%x", h->function);
            free(table);
        }
    }
}

Test(cpuid_intel, bad_arguments_leave_the_result_alone)
{
    struct kvm_cpuid2 *const poison = (void *)0x5a5a;
    struct kvm_cpuid2 *out = poison;

    cr_assert_eq(cpuid_for_vcpu(host, &(struct cpu_policy){.cpus = 0}, 0, &out), -EINVAL);
    cr_assert_eq(cpuid_for_vcpu(host, &(struct cpu_policy){.cpus = 65}, 0, &out), -EINVAL);
    cr_assert_eq(cpuid_for_vcpu(host, &(struct cpu_policy){.cpus = 4}, 4, &out), -EINVAL);
    host->nent = 1;
    cr_assert_eq(cpuid_for_vcpu(host, &one, 0, &out), -EINVAL, "no leaf 1");
    host->nent = 0;
    cr_assert_eq(cpuid_for_vcpu(host, &one, 0, &out), -EINVAL, "no leaf at all");
    cr_assert_eq(out, poison);
}

Test(cpuid_intel, find_looks_at_the_subleaf_of_indexed_leaves_only)
{
    cr_assert_eq(cpuid_find(host, 4, 1)->eax, 0xfc03c143);
    cr_assert_null(cpuid_find(host, 4, 9));
    cr_assert_not_null(cpuid_find(host, 1, 9));
    cr_assert_null(cpuid_find(host, 0x12345, 0));
}

/* --- MSRs --- */

/* gokvm's bug 56: FSRM without fast strings breaks Linux's memmove. */
Test(msrs, fast_strings_are_on)
{
    unsigned count = 0;
    const struct kvm_msr_entry *msrs = x86_initial_msrs(&count);
    uint64_t misc = 0, mtrr = 0;

    for (unsigned i = 0; i < count; i++) {
        if (msrs[i].index == 0x1a0)
            misc = msrs[i].data;
        if (msrs[i].index == 0x2ff)
            mtrr = msrs[i].data;
    }
    cr_assert_eq(misc & 1, 1);
    cr_assert_eq(mtrr, 0x806, "enabled, write-back");
}
