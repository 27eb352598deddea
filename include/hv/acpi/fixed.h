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

// lab 07 {
/* Eight windows of 4 KiB for virtio devices that are not on PCI; each has an edge-triggered line.
 */
#define ACPI_VIRTIO_BASE 0xfe000000
#define ACPI_VIRTIO_SIZE 0x1000
#ifdef ACPI_ASL
#define ACPI_VIRTIO_WINDOW(number) 0xfe00##number##000
#endif
#define ACPI_VIRTIO_GSIS 5, 6, 7, 10, 11, 12, 14, 15
// }

// lab 09 {
/* Device memory that the PCI host bridge passes on, and its interrupt lines A to D. */
#define ACPI_PCI_BASE 0xc0000000
#define ACPI_PCI_END 0xfe000000
#define ACPI_PCI_LAST 0xfdffffff
#define ACPI_PCI_SIZE 0x3e000000
#define ACPI_PCI_GSI 16
// }

#endif
