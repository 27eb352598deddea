/*
 * The ACPI tables, read as a guest would: from the RSDP on, trusting nothing.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "hv/acpi/acpi.h"
#include "hv/base/num.h"
#include "support/ram.h"

#define RAM (2 * MIB)
#define RSDP 0xe0000
#define TABLES 0xe0100
#define TABLES_END 0xf0000

static struct mem mem;
static struct acpi_config cfg;

static void setup(void)
{
    ram_init(&mem, RAM);
    cfg = (struct acpi_config){
        .cpus = 4,
        .lapic_gpa = 0xfee00000,
        .ioapic_gpa = 0xfec00000,
        .ioapic_id = 9,
        .rsdp_gpa = RSDP,
        .tables_gpa = TABLES,
        .tables_size = TABLES_END - TABLES,
    };
}

static void teardown(void)
{
    mem_fini(&mem);
}

TestSuite(acpi, .init = setup, .fini = teardown);

static const uint8_t *at(uint64_t gpa, uint64_t len)
{
    const uint8_t *p = mem_ptr(&mem, gpa, len, false);

    cr_assert_not_null(p, "0x%lx", gpa);
    return p;
}

static uint32_t u32(uint64_t gpa)
{
    uint32_t v;

    cr_assert_eq(mem_read_u32(&mem, gpa, &v), 0);
    return v;
}

static uint64_t u64(uint64_t gpa)
{
    uint64_t v;

    cr_assert_eq(mem_read_u64(&mem, gpa, &v), 0);
    return v;
}

static uint8_t sum(uint64_t gpa, uint64_t len)
{
    const uint8_t *p = at(gpa, len);
    uint8_t s = 0;

    for (uint64_t i = 0; i < len; i++)
        s += p[i];
    return s;
}

static void build(void)
{
    cr_assert_eq(acpi_build(&mem, &cfg, NULL), 0);
}

/* What firmware's users do: look at every 16 bytes for the signature. */
static uint64_t scan_for_rsdp(void)
{
    for (uint64_t gpa = 0xe0000; gpa < 0x100000; gpa += 16) {
        if (memcmp(at(gpa, 8), "RSD PTR ", 8) == 0 && sum(gpa, 20) == 0)
            return gpa;
    }
    return 0;
}

/* The table with that signature, through RSDP and XSDT. */
static uint64_t find_table(const char *signature)
{
    uint64_t xsdt = u64(scan_for_rsdp() + 24);

    cr_assert_eq(memcmp(at(xsdt, 4), "XSDT", 4), 0);
    for (uint64_t i = 36; i < u32(xsdt + 4); i += 8) {
        uint64_t table = u64(xsdt + i);

        if (memcmp(at(table, 4), signature, 4) == 0)
            return table;
    }
    cr_assert_fail("no table %s", signature);
    return 0;
}

Test(acpi, rsdp_is_found_by_scan)
{
    build();
    cr_assert_eq(scan_for_rsdp(), RSDP);
    cr_assert_eq(*at(RSDP + 15, 1), 2, "revision");
    cr_assert_eq(u32(RSDP + 20), 36);
    cr_assert_eq(sum(RSDP, 36), 0, "extended checksum");
}

Test(acpi, every_table_sums_to_zero_and_lies_in_its_room)
{
    const char *const names[] = {"FACP", "APIC"};
    uint64_t used = 0, xsdt;

    cr_assert_eq(acpi_build(&mem, &cfg, &used), 0);
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        uint64_t t = find_table(names[i]);

        cr_assert_eq(sum(t, u32(t + 4)), 0, "%s", names[i]);
        cr_assert(t >= TABLES && t + u32(t + 4) <= TABLES + used);
    }
    xsdt = u64(RSDP + 24);
    cr_assert_eq(sum(xsdt, u32(xsdt + 4)), 0);
    cr_assert(xsdt + u32(xsdt + 4) <= TABLES + used);
}

Test(acpi, nothing_is_written_past_what_is_used)
{
    uint64_t used = 0;

    memset(mem_ptr(&mem, TABLES, TABLES_END - TABLES, true), 0x5a, TABLES_END - TABLES);
    cr_assert_eq(acpi_build(&mem, &cfg, &used), 0);
    for (uint64_t gpa = TABLES + used; gpa < TABLES_END; gpa++)
        cr_assert_eq(*at(gpa, 1), 0x5a);
}

Test(acpi, fadt_leads_to_dsdt_and_facs)
{
    uint64_t fadt, facs, dsdt;

    build();
    fadt = find_table("FACP");
    facs = u32(fadt + 36);
    dsdt = u32(fadt + 40);
    cr_assert_eq(memcmp(at(dsdt, 4), "DSDT", 4), 0);
    cr_assert_eq(sum(dsdt, u32(dsdt + 4)), 0);
    cr_assert_eq(u64(fadt + 140), dsdt, "X_DSDT");
    cr_assert_eq(u64(fadt + 132), 0, "X_FIRMWARE_CTRL is 0 when FIRMWARE_CTRL is not");
    cr_assert_eq(memcmp(at(facs, 4), "FACS", 4), 0);
    cr_assert_eq(facs % 64, 0, "ACPI 6.5 §5.2.10");
    cr_assert_eq(u32(facs + 4), 64);
}

Test(acpi, fadt_describes_the_fixed_hardware)
{
    uint64_t fadt;

    build();
    fadt = find_table("FACP");
    cr_assert_eq(u32(fadt + 4), 276);
    cr_assert_eq(*at(fadt + 8, 1), 6);
    cr_assert_eq(*at(fadt + 46, 1), ACPI_SCI_IRQ);
    cr_assert_eq(u32(fadt + 48), 0, "no SMI: always in ACPI mode");
    cr_assert_eq(u32(fadt + 56), ACPI_PM1_EVT_PORT);
    cr_assert_eq(u32(fadt + 64), ACPI_PM1_CNT_PORT);
    cr_assert_eq(u32(fadt + 76), ACPI_PM_TMR_PORT);
    cr_assert_arr_eq(at(fadt + 88, 4), ((uint8_t[]){4, 2, 0, 4}), 4);
    cr_assert_eq(u64(fadt + 148 + 4), ACPI_PM1_EVT_PORT);
    cr_assert_eq(u64(fadt + 172 + 4), ACPI_PM1_CNT_PORT);
    cr_assert_eq(u64(fadt + 208 + 4), ACPI_PM_TMR_PORT);
}

Test(acpi, reset_register_is_supported)
{
    uint64_t fadt;

    build();
    fadt = find_table("FACP");
    cr_assert_eq(u32(fadt + 112) >> 10 & 1, 1, "RESET_REG_SUP");
    cr_assert_arr_eq(at(fadt + 116, 4), ((uint8_t[]){1, 8, 0, 1}), 4, "a byte in I/O space");
    cr_assert_eq(u64(fadt + 120), ACPI_RESET_PORT);
    cr_assert_eq(*at(fadt + 128, 1), ACPI_RESET_VALUE);
}

Test(acpi, boot_flags)
{
    uint64_t fadt;
    uint16_t boot;

    build();
    fadt = find_table("FACP");
    cr_assert_eq(mem_read_u16(&mem, fadt + 109, &boot), 0);
    cr_assert_eq(boot, 0x5, "legacy devices, no VGA; no 8042 to probe; the CMOS clock is there");
    cr_assert_eq(u32(fadt + 112) >> 20 & 1, 0, "not hardware-reduced");
    cr_assert_eq(u32(fadt + 112) >> 4 & 1, 0, "the power button is a fixed one");
    cr_assert_eq(u32(fadt + 112) >> 8 & 1, 0, "the PM timer has 24 bits");
    cr_assert_eq(*at(fadt + 108, 1), 0x32, "century");
}

/* --- MADT --- */

struct madt_seen {
    unsigned lapics, ioapics, overrides, nmis;
};

static struct madt_seen walk_madt(uint64_t madt)
{
    struct madt_seen seen = {0};
    uint64_t end = madt + u32(madt + 4), p = madt + 44;

    while (p < end) {
        const uint8_t *e = at(p, 2);

        if (e[0] == 0) {
            cr_assert_eq(e[1], 8);
            cr_assert_eq(e[3], seen.lapics, "local APIC ids count up from 0");
            cr_assert_eq(u32(p + 4), 1, "enabled");
            seen.lapics++;
        } else if (e[0] == 1) {
            cr_assert_eq(e[1], 12);
            cr_assert_eq(e[2], cfg.ioapic_id);
            cr_assert_eq(u32(p + 4), cfg.ioapic_gpa);
            cr_assert_eq(u32(p + 8), 0);
            seen.ioapics++;
        } else if (e[0] == 2) {
            cr_assert_arr_eq(at(p, 10), ((uint8_t[]){2, 10, 0, 9, 9, 0, 0, 0, 0xd, 0}), 10,
                             "SCI: level-triggered, active high");
            seen.overrides++;
        } else {
            cr_assert_arr_eq(at(p, 6), ((uint8_t[]){4, 6, 0xff, 0, 0, 1}), 6);
            seen.nmis++;
        }
        p += e[1];
    }
    cr_assert_eq(p, end);
    return seen;
}

Test(acpi, madt_lists_processors_and_controllers)
{
    static const unsigned counts[] = {1, 2, 4, 64, 255};

    for (size_t i = 0; i < ARRAY_LEN(counts); i++) {
        struct madt_seen seen;

        cfg.cpus = counts[i];
        build();
        cr_assert_eq(u32(find_table("APIC") + 36), cfg.lapic_gpa);
        cr_assert_eq(u32(find_table("APIC") + 40), 1, "PCAT_COMPAT");
        seen = walk_madt(find_table("APIC"));
        cr_assert_eq(seen.lapics, counts[i]);
        cr_assert_eq(seen.ioapics, 1);
        cr_assert_eq(seen.overrides, 1, "the timer is on pin 0: no override");
        cr_assert_eq(seen.nmis, 1);
    }
}

/* --- errors --- */

static void assert_refused(int expected)
{
    uint64_t used = 0x5a5a;
    uint8_t *all = mem_ptr(&mem, 0, RAM, true);

    memset(all, 0x5a, RAM);
    cr_assert_eq(acpi_build(&mem, &cfg, &used), expected);
    cr_assert_eq(used, 0x5a5a);
    for (uint64_t i = 0; i < RAM; i++)
        cr_assert_eq(all[i], 0x5a, "0x%lx was written", i);
}

Test(acpi, too_little_room_is_refused_whole)
{
    uint64_t used = 0;

    cr_assert_eq(acpi_build(&mem, &cfg, &used), 0);
    cfg.tables_size = used - 1;
    assert_refused(-ENOSPC);
    cfg.tables_size = 0;
    assert_refused(-ENOSPC);
    cfg.tables_size = used;
    cr_assert_eq(acpi_build(&mem, &cfg, NULL), 0, "exactly enough");
}

Test(acpi, rsdp_must_be_where_guests_look)
{
    cfg.rsdp_gpa = RSDP + 8;
    assert_refused(-EINVAL);
    cfg.rsdp_gpa = 0x9000;
    assert_refused(-EINVAL);
    cfg.rsdp_gpa = 0x100000;
    assert_refused(-EINVAL);
}

Test(acpi, bad_numbers_are_refused)
{
    cfg.cpus = 0;
    assert_refused(-EINVAL);
    cfg.cpus = 256;
    assert_refused(-EINVAL);
    cfg.cpus = 1;
    cfg.lapic_gpa = 1ULL << 32;
    assert_refused(-EINVAL);
    cfg.lapic_gpa = 0xfee00000;
    cfg.tables_gpa = 0xfffff000;
    assert_refused(-EINVAL);
    cfg.tables_gpa = ~0ULL;
    assert_refused(-EINVAL);
}

Test(acpi, tables_outside_memory_are_reported)
{
    cfg.tables_gpa = RAM;
    cr_assert_eq(acpi_build(&mem, &cfg, NULL), -EFAULT);
}

/* --- iasl reads back what we wrote --- */

static void dump(const char *dir, const char *name, uint64_t gpa)
{
    char path[128];
    FILE *f;
    uint32_t len = u32(gpa + 4);

    snprintf(path, sizeof(path), "%s/%s.dat", dir, name);
    f = fopen(path, "wb");
    cr_assert_not_null(f);
    cr_assert_eq(fwrite(at(gpa, len), 1, len, f), len);
    fclose(f);
}

/* The disassembler flags fields that its definition of the table calls wrong. */
static void assert_disassembles(const char *dir, const char *name)
{
    char cmd[512];

    snprintf(cmd, sizeof(cmd),
             "cd %s && iasl -d %s.dat >%s.log 2>&1 && ! grep -iE 'error|warning|invalid|unknown' "
             "%s.log %s.dsl >&2",
             dir, name, name, name, name);
    cr_assert_eq(system(cmd), 0, "%s", name);
}

Test(acpi, iasl_disassembles_every_table)
{
    char dir[] = "/tmp/hv-acpi-XXXXXX", cmd[64];
    uint64_t fadt;

    if (system("command -v iasl >/dev/null 2>&1") != 0)
        cr_skip_test("iasl is not installed");
    cr_assert_not_null(mkdtemp(dir));
    build();
    fadt = find_table("FACP");
    dump(dir, "facp", fadt);
    dump(dir, "apic", find_table("APIC"));
    dump(dir, "xsdt", u64(RSDP + 24));
    dump(dir, "dsdt", u32(fadt + 40));
    dump(dir, "facs", u32(fadt + 36));
    assert_disassembles(dir, "facp");
    assert_disassembles(dir, "apic");
    assert_disassembles(dir, "xsdt");
    assert_disassembles(dir, "dsdt");
    assert_disassembles(dir, "facs");
    snprintf(cmd, sizeof(cmd), "grep -q _S5 %s/dsdt.dsl", dir);
    cr_assert_eq(system(cmd), 0);
    snprintf(cmd, sizeof(cmd), "rm -rf %s", dir);
    cr_assert_eq(system(cmd), 0);
}
