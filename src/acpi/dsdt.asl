/*
 * The DSDT: what a guest cannot find out by probing.
 *
 * Compiled by iasl when hv is built; the preprocessor fills in the port numbers of fixed.h. It says
 * how to switch the machine off and which legacy devices are where, so that a guest's driver core
 * binds drivers to them and gives their ports to nobody else.
 *
 * Deliberately absent: processor objects (the MADT is enough), a keyboard controller (see
 * BOOT_8042 in tables.c), a DMA controller (there is none).
 */
#include "hv/acpi/fixed.h"

DefinitionBlock ("", "DSDT", 2, "HVLAB ", "HVLABVM ", 1)
{
    /* ACPI 6.5 §7.4.2: what goes to SLP_TYP of PM1a and PM1b for soft-off; all four fields. */
    Name (\_S5, Package (4) {ACPI_S5_SLP_TYP, ACPI_S5_SLP_TYP, 0, 0})

    Scope (\_SB)
    {
        /* Ports that belong to the board: power management, reset, debug port, debug exit. */
        Device (MBRD)
        {
            Name (_HID, EisaId ("PNP0C02"))
            Name (_UID, 1)
            Name (_CRS, ResourceTemplate ()
            {
                IO (Decode16, ACPI_PM1_EVT_PORT, ACPI_PM1_EVT_PORT, 1, 0x0c)
                IO (Decode16, ACPI_RESET_PORT, ACPI_RESET_PORT, 1, 1)
                IO (Decode16, 0xe9, 0xe9, 1, 1)
                IO (Decode16, 0xf4, 0xf4, 1, 4)
            })
        }

        Device (PIC)
        {
            Name (_HID, EisaId ("PNP0000"))
            Name (_CRS, ResourceTemplate ()
            {
                IO (Decode16, 0x20, 0x20, 1, 2)
                IO (Decode16, 0xa0, 0xa0, 1, 2)
                IO (Decode16, 0x4d0, 0x4d0, 1, 2)
                IRQNoFlags () {2}
            })
        }

        Device (PIT)
        {
            Name (_HID, EisaId ("PNP0100"))
            Name (_CRS, ResourceTemplate ()
            {
                IO (Decode16, 0x40, 0x40, 1, 4)
                IRQNoFlags () {0}
            })
        }

        Device (SPKR)
        {
            Name (_HID, EisaId ("PNP0800"))
            Name (_CRS, ResourceTemplate ()
            {
                IO (Decode16, 0x61, 0x61, 1, 1)
            })
        }

        Device (RTC)
        {
            Name (_HID, EisaId ("PNP0B00"))
            Name (_CRS, ResourceTemplate ()
            {
                IO (Decode16, 0x70, 0x70, 1, 2)
                IRQNoFlags () {8}
            })
        }

        Device (COM1)
        {
            Name (_HID, EisaId ("PNP0501"))
            Name (_UID, 1)
            Name (_CRS, ResourceTemplate ()
            {
                IO (Decode16, 0x3f8, 0x3f8, 1, 8)
                IRQNoFlags () {4}
            })
        }

        Device (COM2)
        {
            Name (_HID, EisaId ("PNP0501"))
            Name (_UID, 2)
            Name (_CRS, ResourceTemplate ()
            {
                IO (Decode16, 0x2f8, 0x2f8, 1, 8)
                IRQNoFlags () {3}
            })
        }
    }
}
