/*
 * The i8042 keyboard controller at ports 0x60 and 0x64: as much as a guest needs to probe it
 * quickly, and its most used feature, the reset line (command 0xFE).
 *
 * Register space: offset 0 is port 0x60 (data), offset 4 is port 0x64 (status and command).
 * Self-test and port tests pass at once; the keyboard port answers a reset and an identify like a
 * keyboard on which nobody types; there is no auxiliary port.
 */
#ifndef HV_DEVICES_I8042_H
#define HV_DEVICES_I8042_H

#include "hv/bus/device.h"
#include "hv/bus/irq.h"

#define I8042_DATA_PORT 0x60
#define I8042_STATUS_PORT 0x64
#define I8042_IRQ 1

/* `reset` is called on the vCPU's thread, with the device's lock held. */
typedef void i8042_reset_fn(void *ctx);
int i8042_create(const char *name, const struct irq_line *irq, i8042_reset_fn *reset, void *ctx,
                 struct device **dev) HV_MUST_CHECK;

#endif
