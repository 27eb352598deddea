/*
 * ACPI tables: how the guest learns about processors, interrupts and power.
 *
 * RSDP, XSDT, FADT, FACS, MADT and a DSDT compiled from src/acpi/dsdt.asl (ACPI 6.5 §5.2). The
 * tables lie where firmware would put them: RSDP in the BIOS area below 1 MiB on a 16-byte
 * boundary, found by scanning and named by the boot protocols as well.
 *
 * The tables describe the interrupt routing that KVM sets up by default: global system interrupt n
 * is pin n of the one I/O APIC, the timer's 0 included.
 */
#ifndef HV_ACPI_ACPI_H
#define HV_ACPI_ACPI_H

#include <stdint.h>

#include "hv/acpi/fixed.h"
#include "hv/base/err.h"
#include "hv/mem/mem.h"

struct acpi_config {
    unsigned cpus;       /* local APIC ids 0..cpus-1 */
    uint64_t lapic_gpa;  /* 0xfee00000 */
    uint64_t ioapic_gpa; /* 0xfec00000 */
    uint8_t ioapic_id;
    uint64_t rsdp_gpa;    /* 16-byte aligned, from 640 KiB to 1 MiB */
    uint64_t tables_gpa;  /* where the other tables go, below 4 GiB */
    uint64_t tables_size; /* room there */
};

/* Writes all tables. -EINVAL, or -ENOSPC: tables_size is too small, nothing was written; -EFAULT:
 * not all of it is RAM. *used (may be NULL): bytes of tables_size taken. */
int acpi_build(const struct mem *mem, const struct acpi_config *cfg, uint64_t *used) HV_MUST_CHECK;

#endif
