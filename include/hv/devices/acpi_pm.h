/*
 * The ACPI fixed hardware (ACPI 6.5 §4.8.3): PM1 event and control blocks, the PM timer, and the
 * reset register.
 *
 * Register space: 0x00 PM1 status (16 bits), 0x02 PM1 enable, 0x04 PM1 control, 0x08 PM timer (32
 * bits, 3.579545 MHz, 24 of them counting), 0x10 to 0x13 the dword with the reset register in its
 * second byte. SLP_EN with the S5 type powers the machine off; a write to the reset register that
 * has all bits of `reset_value` set resets it.
 *
 * On a PC the reset register is port 0xcf9, in the middle of PCI's configuration address at 0xcf8.
 * The two are told apart by width: a single byte at 0xcf9 is for the reset register, every other
 * access of the dword is not, and nobody answers it here.
 */
#ifndef HV_DEVICES_ACPI_PM_H
#define HV_DEVICES_ACPI_PM_H

#include "hv/bus/device.h"
#include "hv/bus/irq.h"

#define ACPI_PM_EVT_OFFSET 0x00
#define ACPI_PM_EVT_SIZE 4
#define ACPI_PM_CNT_OFFSET 0x04
#define ACPI_PM_CNT_SIZE 2
#define ACPI_PM_TMR_OFFSET 0x08
#define ACPI_PM_TMR_SIZE 4
#define ACPI_PM_RESET_OFFSET 0x10
#define ACPI_PM_RESET_SIZE 4
#define ACPI_PM_RESET_REG (ACPI_PM_RESET_OFFSET + 1)

enum acpi_power { ACPI_POWER_OFF, ACPI_POWER_RESET };

struct acpi_pm_config {
    struct irq_line sci; /* copied; level-triggered */
    uint8_t s5_slp_typ;
    uint8_t reset_value; /* not 0 */
    /* On the vCPU's thread, with the device's lock held. */
    void (*power)(void *ctx, enum acpi_power what);
    void *power_ctx;
    uint64_t (*now_ns)(void *ctx); /* monotonic; NULL: CLOCK_MONOTONIC */
    void *now_ctx;
};

int acpi_pm_create(const char *name, const struct acpi_pm_config *cfg,
                   struct device **dev) HV_MUST_CHECK;

/* A press of the power button: sets PWRBTN_STS and raises the SCI if the guest enabled it. Any
 * thread. */
void acpi_pm_power_button(struct device *dev);

#endif
