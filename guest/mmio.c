/*
 * Memory-mapped I/O: loads and stores that leave RAM.
 *
 * Shows: accesses of all widths, aligned or not. Where no device answers, reads are all ones and
 * writes are lost; the I/O APIC answers from KVM itself; and the last bytes of RAM's hole cross
 * into nothing without harm.
 *
 * run: --boot elf
 * needs: kvm
 * expect: @ok read_8
 * expect: @ok read_64
 * expect: @ok read_unaligned
 * expect: @ok after_write
 * expect: @ok ioapic_pins
 * status: 33
 */
#include "lib/guest.h"
#include "lib/lapic.h"

#define NOTHING 0xd0000000UL /* in the hole below 4 GiB */
#define IOAPIC 0xfec00000UL
#define IOAPIC_SELECT 0x00
#define IOAPIC_WINDOW 0x10
#define IOAPIC_REG_VERSION 1

#define MMIO(type, address) (*(volatile type *)(address))

static void check_widths(void)
{
    check("read_8", 0xff, MMIO(uint8_t, NOTHING));
    check("read_16", 0xffff, MMIO(uint16_t, NOTHING));
    check("read_32", 0xffffffff, MMIO(uint32_t, NOTHING));
    check("read_64", ~0ULL, MMIO(uint64_t, NOTHING));
    check("read_unaligned", 0xffffffff, MMIO(uint32_t, NOTHING + 0xffe));
}

static void check_writes(void)
{
    MMIO(uint8_t, NOTHING) = 0;
    MMIO(uint16_t, NOTHING) = 0;
    MMIO(uint32_t, NOTHING) = 0;
    MMIO(uint64_t, NOTHING) = 0;
    check("after_write", 0xffffffff, MMIO(uint32_t, NOTHING));
}

void main(void)
{
    check_widths();
    check_writes();
    MMIO(uint32_t, IOAPIC + IOAPIC_SELECT) = IOAPIC_REG_VERSION;
    check("ioapic_pins", 24, (MMIO(uint32_t, IOAPIC + IOAPIC_WINDOW) >> 16 & 0xff) + 1);
    value("lapic_version", lapic_read(LAPIC_VERSION) & 0xff);
}
