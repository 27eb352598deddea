/*
 * The fixed hardware that ACPI describes and machine/board.c maps. One place, so that the DSDT's
 * ASL (which includes this file through the preprocessor: macros only), the tables and the board
 * agree.
 */
#ifndef HV_ACPI_FIXED_H
#define HV_ACPI_FIXED_H

#define ACPI_SCI_IRQ 9
#define ACPI_PM1_EVT_PORT 0x600 /* 4 bytes: status, enable */
#define ACPI_PM1_CNT_PORT 0x604 /* 2 bytes */
#define ACPI_PM_TMR_PORT 0x608  /* 4 bytes */
#define ACPI_RESET_PORT 0xcf9
#define ACPI_RESET_VALUE 0x06
#define ACPI_S5_SLP_TYP 5 /* the SLP_TYP value that _S5_ names */

#endif
