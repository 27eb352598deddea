/*
 * ACPI's static tables (ACPI 6.5 §5.2).
 *
 *   RSDP ──► XSDT ──► FADT ──► DSDT (what the machine's devices are, in bytecode)
 *              │        └────► FACS (shared with the guest: firmware lock, wake vector)
 *              └────► MADT (processors and interrupt controllers)
 *
 * A guest finds the RSDP by its signature or from the boot protocol, and the rest by following
 * pointers. Each table has a header with its length and a byte that makes all its bytes sum up to
 * 0.
 *
 * The model is a PC with legacy devices and fixed hardware, always in ACPI mode: there is no SMI to
 * switch it. Left out: the 32-bit RSDT (every guest that reads revision 2 has the XSDT), x2APIC
 * entries (ids stay below 255), NUMA, HPET, PCI (which comes with pci/).
 */
#include <assert.h>
#include <errno.h>
#include <stddef.h>
#include <string.h>

#include "acpi/acpi_priv.h"
#include "hv/acpi/acpi.h"
#include "hv/base/num.h"
#include "hv/base/todo.h"

#define TABLE_ALIGN 16
#define FACS_ALIGN 64   /* ACPI 6.5 §5.2.10 */
#define CPUS_MAX 255    /* ids 0..254; 255 is broadcast */
#define LOW_END 0xa0000 /* where conventional memory ends; the RSDP lies above it, below 1 MiB */

/* --- the tables as the specification draws them --- */

struct header { /* §5.2.6 */
    char signature[4];
    uint32_t length;
    uint8_t revision;
    uint8_t checksum;
    char oem_id[6];
    char oem_table_id[8];
    uint32_t oem_revision;
    char creator_id[4];
    uint32_t creator_revision;
} __attribute__((packed));
static_assert(sizeof(struct header) == 36, "ACPI 6.5 §5.2.6");

struct rsdp { /* §5.2.5.3 */
    char signature[8];
    uint8_t checksum; /* of the first 20 bytes, which were all in ACPI 1.0 */
    char oem_id[6];
    uint8_t revision;
    uint32_t rsdt;
    uint32_t length;
    uint64_t xsdt;
    uint8_t extended_checksum;
    uint8_t reserved[3];
} __attribute__((packed));
static_assert(offsetof(struct rsdp, length) == 20, "ACPI 6.5 §5.2.5.3");
static_assert(sizeof(struct rsdp) == 36, "ACPI 6.5 §5.2.5.3");

struct xsdt { /* §5.2.8 */
    struct header header;
    uint64_t tables[2];
} __attribute__((packed));
static_assert(sizeof(struct xsdt) == 52, "ACPI 6.5 §5.2.8");

struct address { /* generic address structure, §5.2.3.2 */
    uint8_t space;
    uint8_t bit_width;
    uint8_t bit_offset;
    uint8_t access_size;
    uint64_t address;
} __attribute__((packed));
static_assert(sizeof(struct address) == 12, "ACPI 6.5 §5.2.3.2");

struct fadt { /* §5.2.9 */
    struct header header;
    uint32_t facs;
    uint32_t dsdt;
    uint8_t reserved0;
    uint8_t preferred_pm_profile;
    uint16_t sci_int;
    uint32_t smi_cmd;
    uint8_t acpi_enable, acpi_disable, s4bios_req, pstate_cnt;
    uint32_t pm1a_evt_blk, pm1b_evt_blk, pm1a_cnt_blk, pm1b_cnt_blk;
    uint32_t pm2_cnt_blk, pm_tmr_blk, gpe0_blk, gpe1_blk;
    uint8_t pm1_evt_len, pm1_cnt_len, pm2_cnt_len, pm_tmr_len;
    uint8_t gpe0_blk_len, gpe1_blk_len, gpe1_base, cst_cnt;
    uint16_t p_lvl2_lat, p_lvl3_lat;
    uint16_t flush_size, flush_stride;
    uint8_t duty_offset, duty_width;
    uint8_t day_alrm, mon_alrm, century;
    uint16_t iapc_boot_arch;
    uint8_t reserved1;
    uint32_t flags;
    struct address reset_reg;
    uint8_t reset_value;
    uint16_t arm_boot_arch;
    uint8_t minor_version;
    uint64_t x_facs, x_dsdt;
    struct address x_pm1a_evt_blk, x_pm1b_evt_blk, x_pm1a_cnt_blk, x_pm1b_cnt_blk;
    struct address x_pm2_cnt_blk, x_pm_tmr_blk, x_gpe0_blk, x_gpe1_blk;
    struct address sleep_control_reg, sleep_status_reg;
    char hypervisor_vendor[8];
} __attribute__((packed));
static_assert(offsetof(struct fadt, pm1a_evt_blk) == 56, "ACPI 6.5 §5.2.9");
static_assert(offsetof(struct fadt, iapc_boot_arch) == 109, "ACPI 6.5 §5.2.9");
static_assert(offsetof(struct fadt, reset_reg) == 116, "ACPI 6.5 §5.2.9");
static_assert(offsetof(struct fadt, x_pm1a_evt_blk) == 148, "ACPI 6.5 §5.2.9");
static_assert(sizeof(struct fadt) == 276, "ACPI 6.5 §5.2.9");

struct facs { /* §5.2.10: no checksum */
    char signature[4];
    uint32_t length;
    uint32_t hardware_signature;
    uint32_t waking_vector;
    uint32_t global_lock;
    uint32_t flags;
    uint64_t x_waking_vector;
    uint8_t version;
    uint8_t reserved[31];
} __attribute__((packed));
static_assert(sizeof(struct facs) == 64, "ACPI 6.5 §5.2.10");

struct madt { /* §5.2.12; then the structures below, one after the other */
    struct header header;
    uint32_t lapic;
    uint32_t flags;
} __attribute__((packed));
static_assert(sizeof(struct madt) == 44, "ACPI 6.5 §5.2.12");

struct madt_lapic { /* §5.2.12.2 */
    uint8_t type, length;
    uint8_t processor_uid;
    uint8_t apic_id;
    uint32_t flags;
} __attribute__((packed));
static_assert(sizeof(struct madt_lapic) == 8, "ACPI 6.5 §5.2.12.2");

struct madt_ioapic { /* §5.2.12.3 */
    uint8_t type, length;
    uint8_t id;
    uint8_t reserved;
    uint32_t address;
    uint32_t gsi_base;
} __attribute__((packed));
static_assert(sizeof(struct madt_ioapic) == 12, "ACPI 6.5 §5.2.12.3");

struct madt_override { /* §5.2.12.5 */
    uint8_t type, length;
    uint8_t bus;
    uint8_t source;
    uint32_t gsi;
    uint16_t flags;
} __attribute__((packed));
static_assert(sizeof(struct madt_override) == 10, "ACPI 6.5 §5.2.12.5");

struct madt_lapic_nmi { /* §5.2.12.7 */
    uint8_t type, length;
    uint8_t processor_uid;
    uint16_t flags;
    uint8_t lint;
} __attribute__((packed));
static_assert(sizeof(struct madt_lapic_nmi) == 6, "ACPI 6.5 §5.2.12.7");

/* What follows the processors in the MADT. */
struct madt_tail {
    struct madt_ioapic ioapic;
    struct madt_override sci;
    struct madt_lapic_nmi nmi;
} __attribute__((packed));

/* --- where each table goes --- */

struct plan {
    uint64_t facs, dsdt, fadt, madt, xsdt;
    size_t dsdt_size;
    size_t madt_size;
    uint64_t end;
};

/* Takes `size` bytes from [*next, …). The numbers are below 4 GiB, so nothing overflows. */
static uint64_t take(uint64_t *next, uint64_t size, uint64_t align)
{
    uint64_t at = align_down(*next + align - 1, align);

    *next = at + size;
    return at;
}

static int plan_tables(const struct acpi_config *cfg, struct plan *plan)
{
    uint64_t next = cfg->tables_gpa;

    if (cfg->cpus < 1 || cfg->cpus > CPUS_MAX)
        return -EINVAL;
    if (cfg->rsdp_gpa % TABLE_ALIGN != 0 || cfg->rsdp_gpa < LOW_END || cfg->rsdp_gpa >= MIB)
        return -EINVAL;
    if (cfg->lapic_gpa > UINT32_MAX || cfg->ioapic_gpa > UINT32_MAX ||
        !range_fits(cfg->tables_gpa, cfg->tables_size, 4 * GIB))
        return -EINVAL;
    (void)acpi_dsdt(&plan->dsdt_size);
    plan->madt_size =
        sizeof(struct madt) + cfg->cpus * sizeof(struct madt_lapic) + sizeof(struct madt_tail);
    plan->facs = take(&next, sizeof(struct facs), FACS_ALIGN);
    plan->dsdt = take(&next, plan->dsdt_size, TABLE_ALIGN);
    plan->fadt = take(&next, sizeof(struct fadt), TABLE_ALIGN);
    plan->madt = take(&next, plan->madt_size, TABLE_ALIGN);
    plan->xsdt = take(&next, sizeof(struct xsdt), TABLE_ALIGN);
    plan->end = next;
    return plan->end - cfg->tables_gpa <= cfg->tables_size ? 0 : -ENOSPC;
}

/* --- making tables --- */

static struct header header(const char *signature, uint32_t length, uint8_t revision)
{
    struct header h = {
        .length = length,
        .revision = revision,
        .oem_id = "HVLAB ",
        .oem_table_id = "HVLABVM ",
        .oem_revision = 1,
        .creator_id = "HVLB",
        .creator_revision = 1,
    };

    memcpy(h.signature, signature, sizeof(h.signature));
    return h;
}

/* EXERCISE 5.8: the way from the RSDP to the tables (ACPI 6.5 §5.2.5.3, §5.2.6 to §5.2.8). Every
 * table but RSDP and FACS starts with a header, and all its bytes, as many as the header's length
 * says, sum up to 0 in 8 bits: write_table() sees to that, then writes it to `gpa`. The XSDT
 * (revision 1) holds the addresses of the FADT and the MADT. The RSDP, 36 bytes with the signature
 * "RSD PTR " and revision 2, at `gpa`, leads to the XSDT; it has one checksum for its first 20
 * bytes, which were all in ACPI 1.0, and one for the whole. There is no RSDT. */
// SOLUTION 5.8
static uint8_t checksum(const void *data, size_t size)
{
    const uint8_t *bytes = data;
    uint8_t sum = 0;

    for (size_t i = 0; i < size; i++)
        sum += bytes[i];
    return (uint8_t)-sum;
}

static int write_table(const struct mem *mem, uint64_t gpa, void *table, size_t size)
{
    struct header *h = table;

    h->checksum = 0;
    h->checksum = checksum(table, size);
    return mem_write(mem, gpa, table, size);
}

static int write_xsdt(const struct mem *mem, const struct plan *plan)
{
    struct xsdt xsdt = {
        .header = header("XSDT", sizeof(xsdt), 1),
        .tables = {plan->fadt, plan->madt},
    };

    return write_table(mem, plan->xsdt, &xsdt, sizeof(xsdt));
}

static int write_rsdp(const struct mem *mem, uint64_t gpa, const struct plan *plan)
{
    struct rsdp rsdp = {
        .signature = "RSD PTR ",
        .oem_id = "HVLAB ",
        .revision = 2,
        .length = sizeof(rsdp),
        .xsdt = plan->xsdt,
    };

    rsdp.checksum = checksum(&rsdp, offsetof(struct rsdp, length));
    rsdp.extended_checksum = checksum(&rsdp, sizeof(rsdp));
    return mem_write(mem, gpa, &rsdp, sizeof(rsdp));
}
// ELSE
// static int write_table(const struct mem *mem, uint64_t gpa, void *table, size_t size)
// {
//     return todo("5.8");
// }
//
// static int write_xsdt(const struct mem *mem, const struct plan *plan)
// {
//     return todo("5.8");
// }
//
// static int write_rsdp(const struct mem *mem, uint64_t gpa, const struct plan *plan)
// {
//     return todo("5.8");
// }
// END 5.8

static struct address io_port(uint16_t port, uint8_t bytes)
{
    enum { SPACE_IO = 1 };

    return (struct address){
        .space = SPACE_IO,
        .bit_width = bytes * 8,
        .access_size = bytes == 4 ? 3 : bytes, /* 1 byte, 2 word, 3 double word */
        .address = port,
    };
}

static int write_facs(const struct mem *mem, const struct plan *plan)
{
    struct facs facs = {.signature = "FACS", .length = sizeof(facs), .version = 2};

    return mem_write(mem, plan->facs, &facs, sizeof(facs));
}

static int write_dsdt(const struct mem *mem, const struct plan *plan)
{
    size_t size;
    const uint8_t *dsdt = acpi_dsdt(&size);

    return mem_write(mem, plan->dsdt, dsdt, size);
}

/* IAPC_BOOT_ARCH, §5.2.9.3. BOOT_8042 stays clear although there is an i8042: it is there for its
 * reset line, nobody types on it, and without the bit Linux skips half a second of probing. */
enum {
    BOOT_LEGACY_DEVICES = 1 << 0,
    BOOT_8042 = 1 << 1,
    BOOT_NO_VGA = 1 << 2,
};

/* Feature flags, table 5.10. PWR_BUTTON clear: the power button is in the fixed registers. */
enum {
    FLAG_WBINVD = 1 << 0,
    FLAG_PROC_C1 = 1 << 2,
    FLAG_NO_SLEEP_BUTTON = 1 << 5,
    FLAG_NO_FIXED_RTC_WAKE = 1 << 6,
    FLAG_RESET_REG = 1 << 10,
};

enum {
    NO_C2 = 101,         /* a latency above 100 µs: there is no such state */
    NO_C3 = 1001,        /* above 1000 µs */
    CENTURY_INDEX = 0x32 /* in the clock's memory */
};

static int write_fadt(const struct mem *mem, const struct plan *plan)
{
    struct fadt fadt = {
        .header = header("FACP", sizeof(fadt), 6),
        .minor_version = 5,
        /* Both are below 4 GiB. X_FIRMWARE_CTRL must be 0 when FIRMWARE_CTRL is not. */
        .facs = plan->facs,
        .dsdt = plan->dsdt,
        .x_dsdt = plan->dsdt,
        .sci_int = ACPI_SCI_IRQ,
        .pm1a_evt_blk = ACPI_PM1_EVT_PORT,
        .pm1a_cnt_blk = ACPI_PM1_CNT_PORT,
        .pm_tmr_blk = ACPI_PM_TMR_PORT,
        .pm1_evt_len = 4,
        .pm1_cnt_len = 2,
        .pm_tmr_len = 4,
        .x_pm1a_evt_blk = io_port(ACPI_PM1_EVT_PORT, 4),
        .x_pm1a_cnt_blk = io_port(ACPI_PM1_CNT_PORT, 2),
        .x_pm_tmr_blk = io_port(ACPI_PM_TMR_PORT, 4),
        .p_lvl2_lat = NO_C2,
        .p_lvl3_lat = NO_C3,
        .century = CENTURY_INDEX,
        .iapc_boot_arch = BOOT_LEGACY_DEVICES | BOOT_NO_VGA,
        .flags = FLAG_WBINVD | FLAG_PROC_C1 | FLAG_NO_SLEEP_BUTTON | FLAG_NO_FIXED_RTC_WAKE |
                 FLAG_RESET_REG,
        .reset_reg = io_port(ACPI_RESET_PORT, 1),
        .reset_value = ACPI_RESET_VALUE,
        .hypervisor_vendor = "HVLAB",
    };

    return write_table(mem, plan->fadt, &fadt, sizeof(fadt));
}

enum { MADT_LAPIC = 0, MADT_IOAPIC = 1, MADT_OVERRIDE = 2, MADT_LAPIC_NMI = 4 };

/*
 * Interrupts are identity-mapped: ISA line n is the I/O APIC's pin n. For the timer that is unlike
 * most PCs, whose line 0 is wired to pin 2, but it is how KVM routes by default: measured, GSI 0
 * raises pin 0. An override that says pin 2 would make a guest wait there for ever. The SCI alone
 * needs an entry, because it is not edge-triggered as ISA lines are.
 */

/* EXERCISE 5.9: processors and interrupt controllers (ACPI 6.5 §5.2.12). The MADT (signature
 * "APIC", revision 5) gives the local APICs' address and says that there are 8259s too
 * (PCAT_COMPAT). Its entries, each beginning with its type and its length: an enabled local APIC
 * for each of the CPUs 0 to cpus-1, the number being both its processor UID and its APIC id; the
 * I/O APIC, whose pins are global system interrupts from 0 on; the override for the SCI as said
 * above, active high and level-triggered (§5.2.12.5); and for all processors at once (UID 0xff) the
 * NMI on LINT 1. The structures are drawn above; plan->madt_size is what they take, and the table
 * goes to plan->madt. */
// SOLUTION 5.9
static struct madt_lapic lapic_entry(uint8_t id)
{
    enum { ENABLED = 1 };

    return (struct madt_lapic){
        .type = MADT_LAPIC,
        .length = sizeof(struct madt_lapic),
        .processor_uid = id,
        .apic_id = id,
        .flags = ENABLED,
    };
}

static struct madt_tail madt_tail(const struct acpi_config *cfg)
{
    enum { ACTIVE_HIGH = 1, LEVEL_TRIGGERED = 3 << 2, ALL_PROCESSORS = 0xff };

    return (struct madt_tail){
        .ioapic =
            {
                .type = MADT_IOAPIC,
                .length = sizeof(struct madt_ioapic),
                .id = cfg->ioapic_id,
                .address = cfg->ioapic_gpa,
            },
        .sci =
            {
                .type = MADT_OVERRIDE,
                .length = sizeof(struct madt_override),
                .source = ACPI_SCI_IRQ,
                .gsi = ACPI_SCI_IRQ,
                .flags = ACTIVE_HIGH | LEVEL_TRIGGERED,
            },
        .nmi =
            {
                .type = MADT_LAPIC_NMI,
                .length = sizeof(struct madt_lapic_nmi),
                .processor_uid = ALL_PROCESSORS,
                .lint = 1,
            },
    };
}

static int write_madt(const struct mem *mem, const struct acpi_config *cfg, const struct plan *plan)
{
    enum { PCAT_COMPAT = 1 }; /* there are 8259s too, to be masked before the APICs are used */
    uint8_t bytes[sizeof(struct madt) + CPUS_MAX * sizeof(struct madt_lapic) +
                  sizeof(struct madt_tail)];
    const struct madt madt = {
        .header = header("APIC", plan->madt_size, 5),
        .lapic = cfg->lapic_gpa,
        .flags = PCAT_COMPAT,
    };
    const struct madt_tail tail = madt_tail(cfg);
    uint8_t *p = bytes;

    p = mempcpy(p, &madt, sizeof(madt));
    for (unsigned id = 0; id < cfg->cpus; id++) {
        const struct madt_lapic entry = lapic_entry(id);

        p = mempcpy(p, &entry, sizeof(entry));
    }
    memcpy(p, &tail, sizeof(tail));
    return write_table(mem, plan->madt, bytes, plan->madt_size);
}
// ELSE
// static int write_madt(const struct mem *mem, const struct acpi_config *cfg,
//                       const struct plan *plan)
// {
//     (void)todo("5.9"); /* the XSDT then leads to an empty page */
//     return 0;
// }
// END 5.9

int acpi_build(const struct mem *mem, const struct acpi_config *cfg, uint64_t *used)
{
    struct plan plan;
    int err = plan_tables(cfg, &plan);

    if (err == 0)
        err = write_facs(mem, &plan);
    if (err == 0)
        err = write_dsdt(mem, &plan);
    if (err == 0)
        err = write_fadt(mem, &plan);
    if (err == 0)
        err = write_madt(mem, cfg, &plan);
    if (err == 0)
        err = write_xsdt(mem, &plan);
    if (err == 0)
        err = write_rsdp(mem, cfg->rsdp_gpa, &plan); /* last: what it leads to is complete */
    if (err == 0 && used != NULL)
        *used = plan.end - cfg->tables_gpa;
    return err;
}
