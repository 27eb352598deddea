/*
 * cpuid_for_vcpu() on a host whose every bit of leaf 1 we choose.
 *
 * args: VENDOR CPUS INDEX EBX EDX MAX for each case   VENDOR: intel or amd; EBX, EDX: leaf 1 of the
 * host; MAX: its last basic leaf. The host's own topology leaves are full of ones.
 */
#include "hv/x86/cpuid.h"
#include "observe.h"

static struct {
    struct kvm_cpuid2 head;
    struct kvm_cpuid_entry2 entries[16];
} host;

static void add(uint32_t leaf, uint32_t index, uint32_t flags, const uint32_t r[4])
{
    host.entries[host.head.nent++] = (struct kvm_cpuid_entry2){.function = leaf,
                                                               .index = index,
                                                               .flags = flags,
                                                               .eax = r[0],
                                                               .ebx = r[1],
                                                               .ecx = r[2],
                                                               .edx = r[3]};
}

static void make_host(const char *vendor, uint32_t ebx, uint32_t edx, uint32_t max)
{
    const uint32_t full[4] = {~0U, ~0U, ~0U, ~0U};
    const char *name = strcmp(vendor, "amd") == 0 ? "AuthenticAMD" : "GenuineIntel";
    uint32_t v[3];

    memcpy(v, name, 12);
    host.head.nent = 0;
    add(0, 0, 0, (uint32_t[]){max, v[0], v[2], v[1]});
    add(1, 0, 0, (uint32_t[]){0x806c1, ebx, 0x80000000, edx});
    add(0xb, 0, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, full);
    add(0xb, 1, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, full);
    add(0x80000000, 0, 0, (uint32_t[]){0x80000008, 0, 0, 0});
    add(0x80000001, 0, 0, full);
    add(0x80000008, 0, 0, (uint32_t[]){0x302e, 0, 0, 0});
}

static void report_leaf(const char *name, const struct kvm_cpuid_entry2 *e)
{
    char text[160];

    report_name(name);
    if (e == NULL) {
        report_raw("null");
        return;
    }
    (void)snprintf(text, sizeof(text),
                   "{\"eax\": %u, \"ebx\": %u, \"ecx\": %u, \"edx\": %u, \"indexed\": %d}", e->eax,
                   e->ebx, e->ecx, e->edx, (e->flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX) != 0);
    report_raw(text);
}

static void try(char **argv)
{
    const struct cpu_policy policy = {.cpus = (unsigned)number(argv[1]), .x2apic = true};
    struct kvm_cpuid2 *table = NULL;

    make_host(argv[0], (uint32_t)number(argv[3]), (uint32_t)number(argv[4]),
              (uint32_t)number(argv[5]));
    int rc = cpuid_for_vcpu(&host.head, &policy, (unsigned)number(argv[2]), &table);

    report_case();
    report_int("rc", rc);
    if (rc < 0)
        return;
    report_leaf("1", cpuid_find(table, 1, 0));
    for (uint32_t leaf = 0xb; leaf <= 0x1f; leaf += 0x14) {
        for (uint32_t i = 0; i < 3; i++) {
            char name[16];
            (void)snprintf(name, sizeof(name), "%x.%u", leaf, i);
            report_leaf(name, cpuid_find(table, leaf, i));
        }
    }
    free(table);
}

int main(int argc, char **argv)
{
    for (int i = 1; i + 5 < argc; i += 6)
        try(argv + i);
    return report_end();
}
