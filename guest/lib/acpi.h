/*
 * As much of ACPI as it takes to count processors.
 */
#ifndef GUEST_ACPI_H
#define GUEST_ACPI_H

#include <stdint.h>

/* A table by its signature, through RSDP and XSDT; NULL: none. Memory below 4 GiB is mapped to
 * itself. */
const uint8_t *acpi_find(const char *signature);

/* Local APICs that the MADT calls enabled: their ids go to ids[], at most `max`. Returns how many.
 */
unsigned acpi_lapic_ids(uint8_t *ids, unsigned max);

#endif
