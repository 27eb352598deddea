/*
 * The DSDT as bytes, from the file that iasl makes of dsdt.asl.
 *
 * iasl declares the array without qualifiers. The two words before the inclusion complete its
 * declaration, so that it is constant and this file's own.
 */
#include "acpi/acpi_priv.h"

/* clang-format off */
static const
#include "dsdt.hex"

const uint8_t *acpi_dsdt(size_t *size)
{
    *size = sizeof(dsdt_aml_code);
    return dsdt_aml_code;
}
