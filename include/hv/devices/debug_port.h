/*
 * Port 0xE9: every byte written appears on the host, reads give 0xE9 so that a guest can tell it is
 * there (as Bochs and QEMU do). The simplest device there is.
 */
#ifndef HV_DEVICES_DEBUG_PORT_H
#define HV_DEVICES_DEBUG_PORT_H

#include "hv/bus/device.h"
#include "hv/chr/chr.h"

#define DEBUG_PORT 0xe9

/* `out` is borrowed. -ENOMEM. */
int debug_port_create(const char *name, struct chr *out, struct device **dev) HV_MUST_CHECK;

#endif
