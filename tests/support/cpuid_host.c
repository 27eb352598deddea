#include "support/cpuid_host.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "hv/base/num.h"

#define INDEXED KVM_CPUID_FLAG_SIGNIFCANT_INDEX
#define ENTRIES_MAX 128

struct kvm_cpuid2 *host;

void host_add(uint32_t leaf, uint32_t index, uint32_t flags, uint32_t eax, uint32_t ebx,
              uint32_t ecx, uint32_t edx)
{
    cr_assert_lt(host->nent, ENTRIES_MAX);
    host->entries[host->nent++] = (struct kvm_cpuid_entry2){
        .function = leaf,
        .index = index,
        .flags = flags,
        .eax = eax,
        .ebx = ebx,
        .ecx = ecx,
        .edx = edx,
    };
}

static void host_add_full(uint32_t leaf)
{
    host_add(leaf, 0, 0, ~0U, ~0U, ~0U, ~0U);
}

static void host_init(const char *vendor, uint32_t max_leaf)
{
    uint32_t v[3];

    host = calloc(1, sizeof(*host) + ENTRIES_MAX * sizeof(host->entries[0]));
    cr_assert_not_null(host);
    memcpy(v, vendor, 12);
    host_add(0, 0, 0, max_leaf, v[0], v[2], v[1]);
    host_add_full(1);
}

void host_intel(void)
{
    static const uint32_t full[] = {2, 3, 5, 6, 8, 9, 0xa, 0xc, 0x12, 0x14, 0x15, 0x16, 0x1a, 0x23};

    host_init("GenuineIntel", 0x24);
    for (size_t i = 0; i < ARRAY_LEN(full); i++)
        host_add_full(full[i]);
    host_add(4, 0, INDEXED, 0xfc03c121, 0x02c0003f, 0x3f, 0);   /* L1 data, 16 ids */
    host_add(4, 1, INDEXED, 0xfc03c143, 0x03c0003f, 0x7ff, 0);  /* L2 */
    host_add(4, 2, INDEXED, 0x0003c163, 0x03c0003f, 0x7fff, 4); /* L3 */
    host_add(4, 3, INDEXED, 0, 0, 0, 0);
    host_add(7, 0, INDEXED, 1, ~0U, ~0U, ~0U);
    host_add(7, 1, INDEXED, ~0U, ~0U, ~0U, ~0U);
    host_add(0xb, 0, INDEXED, 1, 2, 0x100, 77);
    host_add(0xb, 1, INDEXED, 7, 32, 0x201, 77);
    host_add(0xd, 0, INDEXED, 0x600e7, 0xa80, 0xa80, 0);
    host_add(0x1f, 0, INDEXED, 1, 2, 0x100, 77);
    host_add(0x40000000, 0, 0, 0x40000001, 0x4b4d564b, 0x564b4d56, 0x4d);
    host_add_full(0x40000001);
    host_add(0x80000000, 0, 0, 0x80000008, 0, 0, 0);
    host_add_full(0x80000001);
    host_add(0x80000002, 0, 0, 0x65746e49, 0x2952286c, 0x6f655820, 0x2952286e);
    host_add_full(0x80000007);
    host_add(0x80000008, 0, 0, 0x302e, 0, ~0U, 0);
}

void host_amd(void)
{
    static const uint32_t full[] = {0x80000001, 0x80000007, 0x80000008, 0x8000000a, 0x8000001b,
                                    0x8000001e, 0x8000001f, 0x80000022, 0x80000026};

    host_init("AuthenticAMD", 0x10);
    host_add(7, 0, INDEXED, 0, ~0U, ~0U, ~0U);
    host_add(0x80000000, 0, 0, 0x80000022, 0, 0, 0);
    for (size_t i = 0; i < ARRAY_LEN(full); i++)
        host_add_full(full[i]);
    host_add(0x8000001d, 0, INDEXED, 0x4121, 0x1c0003f, 0x3f, 0);
    host_add(0x8000001d, 1, INDEXED, 0x3c163, 0x3c0003f, 0x7fff, 1);
    host_add(0x8000001d, 2, INDEXED, 0, 0, 0, 0);
    host_add(0x40000001, 0, 0, ~0U, 0, 0, 0);
}

void host_forget(void)
{
    free(host);
}

struct kvm_cpuid2 *make(struct cpu_policy policy, unsigned index)
{
    struct kvm_cpuid2 *table = NULL;

    cr_assert_eq(cpuid_for_vcpu(host, &policy, index, &table), 0);
    return table;
}

struct kvm_cpuid_entry2 get(const struct kvm_cpuid2 *table, uint32_t leaf, uint32_t subleaf)
{
    const struct kvm_cpuid_entry2 *e = cpuid_find(table, leaf, subleaf);

    cr_assert_not_null(e, "leaf 0x%x.%u", leaf, subleaf);
    return *e;
}

struct kvm_cpuid_entry2 get_once(struct cpu_policy policy, unsigned index, uint32_t leaf,
                                 uint32_t subleaf)
{
    struct kvm_cpuid2 *table = make(policy, index);
    struct kvm_cpuid_entry2 e = get(table, leaf, subleaf);

    free(table);
    return e;
}

bool shows_leaf(struct cpu_policy policy, uint32_t leaf)
{
    struct kvm_cpuid2 *table = make(policy, 0);
    bool found = cpuid_find(table, leaf, 0) != NULL;

    free(table);
    return found;
}
