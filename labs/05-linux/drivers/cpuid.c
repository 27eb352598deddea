/*
 * cpuid_for_vcpu() on a table that the check made.
 *
 * args: for each case  TABLE CPUS X2APIC TSC_DEADLINE NESTED INDEX
 *   TABLE  a file of struct kvm_cpuid_entry2, 40 bytes each
 */
#include "hv/x86/cpuid.h"
#include "guarded.h"
#include "observe.h"

static struct kvm_cpuid2 *read_table(const char *path)
{
    struct guarded file = guarded_read(path);
    struct kvm_cpuid2 *table = calloc(1, sizeof(*table) + file.size);

    if (table == NULL)
        exit(1);
    table->nent = (uint32_t)(file.size / sizeof(table->entries[0]));
    memcpy(table->entries, file.data, file.size);
    guarded_free(&file);
    return table;
}

static void try(char **args)
{
    struct kvm_cpuid2 *supported = read_table(args[0]);
    const struct cpu_policy policy = {
        .cpus = (unsigned)number(args[1]),
        .x2apic = number(args[2]) != 0,
        .tsc_deadline = number(args[3]) != 0,
        .nested = number(args[4]) != 0,
    };
    struct kvm_cpuid2 *table = NULL;
    int rc = cpuid_for_vcpu(supported, &policy, (unsigned)number(args[5]), &table);

    report_case();
    report_int("rc", rc);
    if (rc == 0 && table != NULL)
        report_hex("table", table->entries, table->nent * sizeof(table->entries[0]));
    free(table);
    free(supported);
}

int main(int argc, char **argv)
{
    for (int i = 1; i + 5 < argc; i += 6)
        try(argv + i);
    return report_end();
}
