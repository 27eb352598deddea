/*
 * CPUID policy: from what KVM can do on this host to what a guest of hv sees.
 *
 * KVM_GET_SUPPORTED_CPUID says what KVM and the processor could virtualize together. That is not
 * yet a processor: topology and APIC ids in it are those of whichever host CPU ran the ioctl, and
 * some features work only if the monitor does its part. Three tables below make the difference, and
 * they are the policy: `hidden_leaves`, `hidden_bits`, `adjustments`. What no row mentions passes
 * as it is, the brand string and the invariant TSC among it.
 *
 * The rule for hiding: a feature is hidden when hv would have to back it and does not (performance
 * counters, SGX, resource monitoring), when it lets a guest hold or watch the host's CPU (thermal
 * leaves, WAITPKG), or when its state is large and needs the host's permission (AMX).
 *
 * Left out: several packages, NUMA nodes, hyper-threads, hybrid cores, named CPU models (a guest
 * moves only between hosts whose tables are alike).
 *
 * References: SDM 2A "CPUID"; AMD APM 3 appendix E; Linux Documentation/virt/kvm/x86/cpuid.rst.
 */
#include "hv/x86/cpuid.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "hv/base/num.h"
#include "hv/base/todo.h"

#define BIT(n) (1U << (n))

#define LEAF_TOPOLOGY 0xbU
#define LEAF_TOPOLOGY_V2 0x1fU
#define LEAF_EXTENDED_MAX 0x80000000U
#define LEAF_EXTENDED_FEATURES 0x80000001U
#define LEAF_AMD_TOPOLOGY 0x8000001eU
#define TOPOLOGY_SUBLEAVES 3
#define ADDED_ENTRIES_MAX (2 * TOPOLOGY_SUBLEAVES + 1)

/* Where the rows below need to say so. */
#define EBX1_CLFLUSH 0xff00U
#define ECX1_X2APIC BIT(21)
#define ECX1_TSC_DEADLINE BIT(24)
#define ECX1_HYPERVISOR BIT(31)
#define EDX1_HTT BIT(28)
#define ECX81_CMP_LEGACY BIT(1)
#define ECX81_TOPOEXT BIT(22)

/* What the rules look at. */
struct view {
    const struct cpu_policy *policy;
    unsigned index; /* of the vCPU, which is its APIC id */
    bool amd;
    bool has_topology_v2; /* leaf 0x1F is within the basic leaves */
    bool has_amd_topology;
};

/* --- the policy: what is hidden --- */

static bool without_nested(const struct cpu_policy *policy)
{
    return !policy->nested;
}

static bool without_x2apic(const struct cpu_policy *policy)
{
    return !policy->x2apic;
}

struct hidden_leaf {
    uint32_t leaf;
    bool (*when)(const struct cpu_policy *policy); /* NULL: always */
};

static const struct hidden_leaf hidden_leaves[] = {
    {0x3, NULL},                  /* processor serial number */
    {0x5, NULL},                  /* MONITOR and MWAIT */
    {0x9, NULL},                  /* direct cache access */
    {0xa, NULL},                  /* performance counters */
    {0xf, NULL},                  /* resource monitoring */
    {0x10, NULL},                 /* resource allocation */
    {0x12, NULL},                 /* SGX */
    {0x14, NULL},                 /* processor trace */
    {0x16, NULL},                 /* the host's nominal frequencies */
    {0x1a, NULL},                 /* which kind of core of a hybrid this is: the host's affair */
    {0x1b, NULL},                 /* PCONFIG */
    {0x1c, NULL},                 /* last branch records */
    {0x1d, NULL},                 /* AMX tiles */
    {0x1e, NULL},                 /* AMX multiplication */
    {0x23, NULL},                 /* performance counters, extended */
    {0x8000000a, without_nested}, /* SVM */
    {0x8000001b, NULL},           /* instruction-based sampling */
    {0x8000001c, NULL},           /* lightweight profiling */
    {0x8000001f, NULL},           /* encrypted memory */
    {0x80000020, NULL},           /* platform quality of service */
    {0x80000022, NULL},           /* performance counters, version 2 */
    {0x80000026, NULL},           /* topology, a third time; 0xB is enough */
};

enum cpuid_reg { EAX, EBX, ECX, EDX };

/* KVM's own features that need nothing from the monitor: kvm-clock (bits 0, 3, 24), no I/O delay
 * (1), asynchronous page faults (4, 10, 14), steal time (5), paravirtual EOI (6), unhalt (7), TLB
 * flush (9), IPI (11), host-side poll control (12), yield (13). Not 15, extended MSI destinations,
 * nor 16 and 17, which exit to the monitor. */
#define KVM_FEATURES_KEPT 0x01007efbU

struct hidden_bits {
    uint32_t leaf, subleaf;
    enum cpuid_reg reg;
    uint32_t bits;
    bool (*when)(const struct cpu_policy *policy); /* NULL: always */
};

static const struct hidden_bits hidden_bits[] = {
    /* DTES64, MONITOR, DS-CPL, SMX, EIST, TM2, CNXT-ID, SDBG, xTPR, PDCM, DCA */
    {0x1, 0, ECX,
     BIT(2) | BIT(3) | BIT(4) | BIT(6) | BIT(7) | BIT(8) | BIT(10) | BIT(11) | BIT(14) | BIT(15) |
         BIT(18),
     NULL},
    {0x1, 0, ECX, BIT(5), without_nested}, /* VMX */
    {0x1, 0, ECX, ECX1_X2APIC, without_x2apic},
    /* PSN, DS, ACPI thermal control, TM, PBE */
    {0x1, 0, EDX, BIT(18) | BIT(21) | BIT(22) | BIT(29) | BIT(31), NULL},
    /* All of thermal and power management but ARAT, the APIC timer that never stops. */
    {0x6, 0, EAX, ~BIT(2), NULL},
    {0x6, 0, EBX, ~0U, NULL},
    {0x6, 0, ECX, ~0U, NULL},
    {0x6, 0, EDX, ~0U, NULL},
    /* SGX, PQM, PQE, processor trace */
    {0x7, 0, EBX, BIT(2) | BIT(12) | BIT(15) | BIT(25), NULL},
    {0x7, 0, ECX, BIT(5) | BIT(13) | BIT(30), NULL}, /* WAITPKG, TME, SGX_LC */
    /* hybrid, PCONFIG, architectural LBR, AMX-BF16, AMX-TILE, AMX-INT8 */
    {0x7, 0, EDX, BIT(15) | BIT(18) | BIT(19) | BIT(22) | BIT(24) | BIT(25), NULL},
    {0x7, 1, EAX, BIT(8) | BIT(21) | BIT(22), NULL}, /* ArchPerfmonExt, AMX-FP16, HRESET */
    {0x7, 1, EDX, BIT(8), NULL},                     /* AMX-COMPLEX */
    {0xd, 0, EAX, BIT(17) | BIT(18), NULL},          /* state of AMX */
    {0x40000001, 0, EAX, ~KVM_FEATURES_KEPT, NULL},
    {LEAF_EXTENDED_FEATURES, 0, ECX, BIT(2), without_nested}, /* SVM */
    /* IBS, SKINIT, WDT, LWP, NodeId MSR, performance counters (core, NB, TSC, LLC), MONITORX */
    {LEAF_EXTENDED_FEATURES, 0, ECX,
     BIT(10) | BIT(12) | BIT(13) | BIT(15) | BIT(19) | BIT(23) | BIT(24) | BIT(27) | BIT(28) |
         BIT(29),
     NULL},
    {0x80000007, 0, EAX, ~0U, NULL}, /* of power management only the invariant TSC stays */
    {0x80000007, 0, EBX, ~0U, NULL},
    {0x80000007, 0, ECX, ~0U, NULL},
    {0x80000007, 0, EDX, ~BIT(8), NULL},
    {0x80000008, 0, EBX, BIT(1) | BIT(23), NULL}, /* retired-instruction counter, PPIN */
};

static uint32_t *entry_reg(struct kvm_cpuid_entry2 *e, enum cpuid_reg reg)
{
    switch (reg) {
    case EAX:
        return &e->eax;
    case EBX:
        return &e->ebx;
    case ECX:
        return &e->ecx;
    case EDX:
        break;
    }
    return &e->edx;
}

/* EXERCISE 5.7: the policy's work on one entry of KVM's table. is_hidden_leaf(): does a row of
 * `hidden_leaves` name this leaf, and does its condition hold? hide_bits(): clear, in the entry's
 * registers, what the rows of `hidden_bits` for this leaf and subleaf name, where their condition
 * holds (without one, always). adjust_features(), for leaf 1: the guest is told that there is a
 * hypervisor (SDM 2A, CPUID.1:ECX[31] is reserved for that; AMD APM 3, CPUID Fn0000_0001_ECX); it
 * has a TSC deadline timer if the policy says so and only then (KVM's table does not know);
 * and EBX 15:8, the size of a cache line that CLFLUSH takes, in units of 8 bytes, is that of 64
 * bytes where the table says 0. Every bit that nothing above names stays as KVM gave it. */
// SOLUTION 5.7
static bool is_hidden_leaf(uint32_t leaf, const struct cpu_policy *policy)
{
    for (size_t i = 0; i < ARRAY_LEN(hidden_leaves); i++) {
        const struct hidden_leaf *rule = &hidden_leaves[i];

        if (rule->leaf == leaf && (rule->when == NULL || rule->when(policy)))
            return true;
    }
    return false;
}

static void hide_bits(struct kvm_cpuid_entry2 *e, const struct cpu_policy *policy)
{
    for (size_t i = 0; i < ARRAY_LEN(hidden_bits); i++) {
        const struct hidden_bits *rule = &hidden_bits[i];

        if (rule->leaf == e->function && rule->subleaf == e->index &&
            (rule->when == NULL || rule->when(policy)))
            *entry_reg(e, rule->reg) &= ~rule->bits;
    }
}

static void adjust_features(struct kvm_cpuid_entry2 *e, const struct view *view)
{
    e->ecx = (e->ecx & ~ECX1_TSC_DEADLINE) | ECX1_HYPERVISOR;
    if (view->policy->tsc_deadline)
        e->ecx |= ECX1_TSC_DEADLINE;
    if ((e->ebx & EBX1_CLFLUSH) == 0)
        e->ebx |= 64 / 8 << 8;
}
// ELSE
// static bool is_hidden_leaf(uint32_t leaf, const struct cpu_policy *policy)
// {
//     for (size_t i = 0; i < ARRAY_LEN(hidden_leaves); i++)
//         if (todo("5.7") == 0) /* does row i apply? */
//             return true;
//     return false;
// }
//
// static void hide_bits(struct kvm_cpuid_entry2 *e, const struct cpu_policy *policy)
// {
//     for (size_t i = 0; i < ARRAY_LEN(hidden_bits); i++)
//         if (todo("5.7") == 0) /* does row i apply? */
//             *entry_reg(e, hidden_bits[i].reg) &= ~hidden_bits[i].bits;
// }
//
// static void adjust_features(struct kvm_cpuid_entry2 *e, const struct view *view)
// {
//     (void)todo("5.7");
// }
// END 5.7

/* --- the policy: what differs per machine and vCPU --- */

/* How many low bits of an APIC id tell `n` CPUs apart. */
static unsigned id_bits(unsigned n)
{
    unsigned bits = 0;

    while ((1U << bits) < n)
        bits++;
    return bits;
}

/* The topology leaf 0xB must be reachable even where the host's processor ends before it. */
static void adjust_max_leaf(struct kvm_cpuid_entry2 *e, const struct view *view)
{
    (void)view;
    if (e->eax < LEAF_TOPOLOGY)
        e->eax = LEAF_TOPOLOGY;
}

/* Leaf 1: the initial APIC id, and how many ids the package has room for. */
static void adjust_apic_id(struct kvm_cpuid_entry2 *e, const struct view *view)
{
    /* EXERCISE 6.1: three fields of leaf 1, which KVM's table has from some processor of the host
     * (SDM 2A "CPUID", leaf 01H; AMD APM 3 §E.3.2). EBX 31:24: the id of this
     * vCPU's local APIC, which is its index. EBX 23:16: how many ids the package has room for, a
     * power of two. EDX1_HTT: whether 23:16 is valid, which it is when there are several CPUs. The
     * other bits of EBX and EDX stay as they are. */
    // SOLUTION 6.1
    unsigned cpus = view->policy->cpus;
    uint32_t ids = 1U << id_bits(cpus);

    e->ebx = (e->ebx & 0x0000ffff) | ids << 16 | view->index << 24;
    e->edx &= ~EDX1_HTT;
    if (cpus > 1)
        e->edx |= EDX1_HTT; /* of hyper-threads, in spite of its name, it says nothing */
    // ELSE
    // (void)todo("6.1");
    // BEFORE
    // e->ebx = (e->ebx & 0x0000ffff) | 1 << 16; /* one CPU, with the id 0 */
    // e->edx &= ~EDX1_HTT;
    // END 6.1
}

/* Caches: levels 1 and 2 belong to one core, higher ones to the package. */
static uint32_t ids_sharing_cache(uint32_t eax, unsigned cpus)
{
    unsigned level = eax >> 5 & 7;

    return level >= 3 ? 1U << id_bits(cpus) : 1;
}

/* Leaf 4: EAX 25:14 and 31:26 are "maximum number of ids, minus 1", for the cache and for cores. */
static void adjust_caches(struct kvm_cpuid_entry2 *e, const struct view *view)
{
    unsigned cpus = view->policy->cpus;
    uint32_t cores = 1U << id_bits(cpus);

    if ((e->eax & 0x1f) == 0)
        return; /* the entry that ends the list */
    e->eax = (e->eax & 0x3fff) | (ids_sharing_cache(e->eax, cpus) - 1) << 14 | (cores - 1) << 26;
}

/* 0x8000001D is AMD's leaf 4, without the count of cores. */
static void adjust_amd_caches(struct kvm_cpuid_entry2 *e, const struct view *view)
{
    if ((e->eax & 0x1f) != 0)
        e->eax = (e->eax & 0x3fff) | (ids_sharing_cache(e->eax, view->policy->cpus) - 1) << 14;
}

/* TSC frequency = crystal (ECX, Hz) × EBX / EAX. Guests take the crystal for the APIC timer's clock
 * as well, and KVM's APIC timer runs at 1 GHz; so that is the crystal. Spares both calibrations. */
static void adjust_tsc(struct kvm_cpuid_entry2 *e, const struct view *view)
{
    uint32_t khz = view->policy->tsc_khz;

    e->eax = khz != 0 ? 1000000 : 0;
    e->ebx = khz;
    e->ecx = khz != 0 ? 1000000000 : 0;
    e->edx = 0;
}

static void adjust_extended_max(struct kvm_cpuid_entry2 *e, const struct view *view)
{
    if (view->has_amd_topology && e->eax < LEAF_AMD_TOPOLOGY)
        e->eax = LEAF_AMD_TOPOLOGY;
}

static void adjust_extended_features(struct kvm_cpuid_entry2 *e, const struct view *view)
{
    e->ecx &= ~ECX81_CMP_LEGACY;
    if (view->amd && view->policy->cpus > 1)
        e->ecx |= ECX81_CMP_LEGACY; /* several CPUs in a package are cores, not hyper-threads */
}

/* AMD: ECX 7:0 cores minus 1, 15:12 bits of the APIC id that number them. Reserved on Intel. */
static void adjust_core_count(struct kvm_cpuid_entry2 *e, const struct view *view)
{
    unsigned cpus = view->policy->cpus;

    e->ecx = view->amd ? (cpus - 1) | id_bits(cpus) << 12 : 0;
}

struct adjustment {
    uint32_t leaf;
    void (*adjust)(struct kvm_cpuid_entry2 *e, const struct view *view);
};

static const struct adjustment adjustments[] = {
    {0x0, adjust_max_leaf},
    {0x1, adjust_features},
    {0x1, adjust_apic_id},
    {0x4, adjust_caches},
    {0x15, adjust_tsc},
    {LEAF_EXTENDED_MAX, adjust_extended_max},
    {LEAF_EXTENDED_FEATURES, adjust_extended_features},
    {0x80000008, adjust_core_count},
    {0x8000001d, adjust_amd_caches},
};

static void adjust(struct kvm_cpuid_entry2 *e, const struct view *view)
{
    for (size_t i = 0; i < ARRAY_LEN(adjustments); i++) {
        if (adjustments[i].leaf == e->function)
            adjustments[i].adjust(e, view);
    }
}

/* --- topology leaves, written from nothing --- */

static bool is_topology_leaf(uint32_t leaf)
{
    return leaf == LEAF_TOPOLOGY || leaf == LEAF_TOPOLOGY_V2 || leaf == LEAF_AMD_TOPOLOGY;
}

/* One level of leaf 0xB or 0x1F. */
static struct kvm_cpuid_entry2 topology_level(const struct view *view, uint32_t leaf,
                                              uint32_t subleaf)
{
    /* EXERCISE 6.2: subleaf 0 is the level of threads, 1 the one of cores, and the next ends the
     * list (SDM 2A "CPUID", leaf 0BH; SDM 3A §8.9.1). EAX: by how many bits to shift an id to the
     * right, so that what is left numbers the next level's units. EBX: the logical processors in
     * one unit of the next level; 0 ends the list. ECX 15:8: the level's type, 1 threads, 2 cores,
     * 0 the end; 7:0: the subleaf. EDX: this vCPU's id, in every subleaf, the last one too. A core
     * has one thread here, the package has all cores. The table's reader looks for `index` only
     * where KVM_CPUID_FLAG_SIGNIFCANT_INDEX says that it counts. */
    // SOLUTION 6.2
    enum { TYPE_END, TYPE_THREAD, TYPE_CORE };
    unsigned cpus = view->policy->cpus;
    struct kvm_cpuid_entry2 e = {
        .function = leaf,
        .index = subleaf,
        .flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
        .ecx = subleaf,
        .edx = view->index,
    };

    if (subleaf == 0) {
        e.ebx = 1;
        e.ecx |= TYPE_THREAD << 8;
    } else if (subleaf == 1) {
        e.eax = id_bits(cpus);
        e.ebx = cpus;
        e.ecx |= TYPE_CORE << 8;
    }
    return e;
    // ELSE
    // (void)todo("6.2");
    // return (struct kvm_cpuid_entry2){.function = leaf, .index = subleaf};
    // BEFORE
    // /* EBX 0: nothing is said about levels, as on a processor that is alone. */
    // return (struct kvm_cpuid_entry2){
    //     .function = leaf,
    //     .index = subleaf,
    //     .flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
    //     .ecx = subleaf,
    // };
    // END 6.2
}

static void add_topology(struct kvm_cpuid2 *table, const struct view *view)
{
    for (uint32_t i = 0; i < TOPOLOGY_SUBLEAVES; i++)
        table->entries[table->nent++] = topology_level(view, LEAF_TOPOLOGY, i);
    for (uint32_t i = 0; view->has_topology_v2 && i < TOPOLOGY_SUBLEAVES; i++)
        table->entries[table->nent++] = topology_level(view, LEAF_TOPOLOGY_V2, i);
    if (view->has_amd_topology) {
        /* EAX: APIC id; EBX: core id, one thread each; ECX: node 0 of one. */
        table->entries[table->nent++] = (struct kvm_cpuid_entry2){
            .function = LEAF_AMD_TOPOLOGY,
            .eax = view->index,
            .ebx = view->index,
        };
    }
}

/* --- for callers --- */

const struct kvm_cpuid_entry2 *cpuid_find(const struct kvm_cpuid2 *cpuid, uint32_t leaf,
                                          uint32_t subleaf)
{
    for (uint32_t i = 0; i < cpuid->nent; i++) {
        const struct kvm_cpuid_entry2 *e = &cpuid->entries[i];
        bool indexed = e->flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX;

        if (e->function == leaf && (!indexed || e->index == subleaf))
            return e;
    }
    return NULL;
}

/* "AuthenticAMD", and Hygon, whose processors are AMD's design. */
static bool is_amd(const struct kvm_cpuid_entry2 *vendor)
{
    char name[12];

    memcpy(name, &vendor->ebx, 4);
    memcpy(name + 4, &vendor->edx, 4);
    memcpy(name + 8, &vendor->ecx, 4);
    return memcmp(name, "AuthenticAMD", 12) == 0 || memcmp(name, "HygonGenuine", 12) == 0;
}

static int view_init(struct view *view, const struct kvm_cpuid2 *supported,
                     const struct cpu_policy *policy, unsigned index)
{
    const struct kvm_cpuid_entry2 *vendor = cpuid_find(supported, 0, 0);
    const struct kvm_cpuid_entry2 *features = cpuid_find(supported, LEAF_EXTENDED_FEATURES, 0);

    if (policy->cpus < 1 || policy->cpus > X86_CPUS_MAX || index >= policy->cpus)
        return -EINVAL;
    if (vendor == NULL || cpuid_find(supported, 1, 0) == NULL)
        return -EINVAL;
    *view = (struct view){
        .policy = policy,
        .index = index,
        .amd = is_amd(vendor),
        .has_topology_v2 = vendor->eax >= LEAF_TOPOLOGY_V2,
    };
    view->has_amd_topology = view->amd && features != NULL && (features->ecx & ECX81_TOPOEXT);
    return 0;
}

static int compare_entries(const void *a, const void *b)
{
    const struct kvm_cpuid_entry2 *x = a;
    const struct kvm_cpuid_entry2 *y = b;

    if (x->function != y->function)
        return x->function < y->function ? -1 : 1;
    return (x->index > y->index) - (x->index < y->index);
}

int cpuid_for_vcpu(const struct kvm_cpuid2 *supported, const struct cpu_policy *policy,
                   unsigned index, struct kvm_cpuid2 **out)
{
    struct kvm_cpuid2 *table;
    struct view view;
    int err = view_init(&view, supported, policy, index);

    if (err != 0)
        return err;
    table = calloc(1, sizeof(*table) +
                          (supported->nent + ADDED_ENTRIES_MAX) * sizeof(table->entries[0]));
    if (table == NULL)
        return -ENOMEM;
    for (uint32_t i = 0; i < supported->nent; i++) {
        struct kvm_cpuid_entry2 e = supported->entries[i];

        if (is_topology_leaf(e.function) || is_hidden_leaf(e.function, policy))
            continue;
        hide_bits(&e, policy);
        adjust(&e, &view);
        table->entries[table->nent++] = e;
    }
    add_topology(table, &view);
    qsort(table->entries, table->nent, sizeof(table->entries[0]), compare_entries);
    *out = table;
    return 0;
}

/* --- model-specific registers --- */

const struct kvm_msr_entry *x86_initial_msrs(unsigned *count)
{
    static const struct kvm_msr_entry msrs[] = {
        /* IA32_MISC_ENABLE: fast strings on, which the CPUID bits ERMS and FSRM promise and without
         * which Linux's memmove goes wrong; branch trace store and PEBS not available. */
        {.index = 0x1a0, .data = BIT(0) | BIT(11) | BIT(12)},
        /* IA32_MTRR_DEF_TYPE: MTRRs enabled, all memory write-back, as firmware would leave it.
         * Reset has them off, which means uncacheable. */
        {.index = 0x2ff, .data = BIT(11) | 6},
    };

    *count = ARRAY_LEN(msrs);
    return msrs;
}
