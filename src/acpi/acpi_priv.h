/*
 * Between the files of the acpi layer.
 */
#ifndef ACPI_ACPI_PRIV_H
#define ACPI_ACPI_PRIV_H

#include <stddef.h>
#include <stdint.h>

/* The DSDT as iasl compiled it, header and checksum included; static storage. */
const uint8_t *acpi_dsdt(size_t *size);

#endif
