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

        // lab 09 {
        /* PCI: one bus, mechanism #1. Every slot's INTA# to D# take turns on four lines of the
         * I/O APIC, level-triggered and active high (PCI 3.0 §2.2.6). */
        Device (PCI0)
        {
            Name (_HID, EisaId ("PNP0A03"))
            Name (_UID, 0)
            Name (_BBN, 0)
            Name (_CRS, ResourceTemplate ()
            {
                WordBusNumber (ResourceProducer, MinFixed, MaxFixed, PosDecode, 0, 0, 0, 0, 1)
                IO (Decode16, 0xcf8, 0xcf8, 1, 8)
                DWordMemory (ResourceProducer, PosDecode, MinFixed, MaxFixed, NonCacheable, ReadWrite,
                             0, ACPI_PCI_BASE, ACPI_PCI_LAST, 0, ACPI_PCI_SIZE)
            })
            Method (_PRT, 0, Serialized)
            {
                Local0 = Package (124) {}
                Local1 = 0
                While (Local1 < 124)
                {
                    Local2 = Package (4) {0, 0, 0, 0}
                    Local2[0] = ((((Local1 >> 2) + 1) << 16) | 0xffff)
                    Local2[1] = (Local1 & 3)
                    Local2[3] = (ACPI_PCI_GSI + ((((Local1 >> 2) + 1) + (Local1 & 3)) & 3))
                    Local0[Local1] = Local2
                    Local1++
                }
                Return (Local0)
            }
        }
        // }

        // lab 07 {
#define WINDOW(NAME, NUMBER, GSI)                                                                  \
        Device (NAME)                                                                              \
        {                                                                                          \
            Name (_HID, "LNRO0005")                                                                \
            Name (_UID, NUMBER)                                                                    \
            Name (_CRS, ResourceTemplate ()                                                        \
            {                                                                                      \
                Memory32Fixed (ReadWrite, ACPI_VIRTIO_WINDOW(NUMBER), ACPI_VIRTIO_SIZE)            \
                Interrupt (ResourceConsumer, Edge, ActiveHigh, Exclusive) {GSI}                    \
            })                                                                                     \
        }
        WINDOW (VR00, 0, 5)
        WINDOW (VR01, 1, 6)
        WINDOW (VR02, 2, 7)
        WINDOW (VR03, 3, 10)
        WINDOW (VR04, 4, 11)
        WINDOW (VR05, 5, 12)
        WINDOW (VR06, 6, 14)
        WINDOW (VR07, 7, 15)
        // }
    }
}
