/*
 * acpi_build() into memory of the driver's own, full of poison.
 *
 * args: for each case  CPUS LAPIC IOAPIC IOAPIC_ID RSDP TABLES SIZE
 */
#include "hv/acpi/acpi.h"
#include "hv/base/num.h"
#include "observe.h"

#define POISON 0xa5
#define RSDP_SIZE 36

static void try(char **args)
{
    const struct acpi_config cfg = {
        .cpus = (unsigned)number(args[0]),
        .lapic_gpa = number(args[1]),
        .ioapic_gpa = number(args[2]),
        .ioapic_id = (uint8_t)number(args[3]),
        .rsdp_gpa = number(args[4]),
        .tables_gpa = number(args[5]),
        .tables_size = number(args[6]),
    };
    struct error err = {0};
    struct mem mem;
    uint64_t used = 0;

    mem_init(&mem);
    if (mem_add(&mem, 0, MIB, MEM_RAM, MEM_ANONYMOUS, &err) < 0)
        exit(1);
    uint8_t *ram = mem.regions[0].host;
    memset(ram, POISON, MIB);
    int rc = acpi_build(&mem, &cfg, &used);

    report_case();
    report_int("rc", rc);
    report_u64("used", used);
    report_hex("rsdp", ram + cfg.rsdp_gpa, RSDP_SIZE);
    report_hex("tables", ram + cfg.tables_gpa, used <= cfg.tables_size ? used : cfg.tables_size);
    mem_fini(&mem);
}

int main(int argc, char **argv)
{
    for (int i = 1; i + 6 < argc; i += 7)
        try(argv + i);
    return report_end();
}
