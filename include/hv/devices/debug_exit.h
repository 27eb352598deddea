/*
 * QEMU's isa-debug-exit: a write of v ends the machine, and the process exits with (v << 1) | 1, of
 * which an exit status keeps the low 8 bits.
 */
#ifndef HV_DEVICES_DEBUG_EXIT_H
#define HV_DEVICES_DEBUG_EXIT_H

#include "hv/bus/device.h"

#define DEBUG_EXIT_PORT 0xf4
#define DEBUG_EXIT_SIZE 4

/* `fn` is called on the thread of the vCPU that wrote, with the device's lock held. */
typedef void debug_exit_fn(void *ctx, uint32_t value);
int debug_exit_create(const char *name, debug_exit_fn *fn, void *ctx,
                      struct device **dev) HV_MUST_CHECK;

#endif
