/*
 * What firmware would have left in memory for an operating system.
 */
#include "hv/acpi/acpi.h"
#include "hv/machine/layout.h"
#include "machine_priv.h"

int write_firmware_tables(struct machine *m, struct error *err)
{
    const struct acpi_config acpi = {
        .cpus = m->cfg.cpus,
        .lapic_gpa = LAYOUT_LAPIC,
        .ioapic_gpa = LAYOUT_IOAPIC,
        .ioapic_id = 0,
        .rsdp_gpa = LAYOUT_RSDP,
        .tables_gpa = LAYOUT_ACPI_TABLES,
        .tables_size = LAYOUT_ACPI_END - LAYOUT_ACPI_TABLES,
    };
    int rc = layout_write_bios_data(&m->mem);

    if (rc == 0 && m->cfg.irqchip)
        rc = acpi_build(&m->mem, &acpi, NULL);
    return rc < 0 ? error_sys(err, rc, "cannot write the firmware tables") : 0;
}
