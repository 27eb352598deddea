/*
 * The MC146818 real-time clock and its 114 bytes of CMOS RAM (Motorola MC146818A data sheet), at
 * ports 0x70 and 0x71. Time of day follows the host's clock plus an offset that the guest sets by
 * writing the time.
 *
 * The update-ended, alarm and periodic interrupts come from a timer of the event loop. Interrupts
 * cost nothing while the guest has not enabled them.
 */
#ifndef HV_DEVICES_MC146818_H
#define HV_DEVICES_MC146818_H

#include <time.h>

#include "hv/base/loop.h"
#include "hv/bus/device.h"
#include "hv/bus/irq.h"

#define MC146818_PORT 0x70
#define MC146818_SIZE 2
#define MC146818_IRQ 8

struct mc146818_config {
    struct irq_line irq; /* copied */
    struct loop *loop;   /* borrowed; NULL: no interrupts, for tests of the registers alone */
    /* Wall clock in nanoseconds since 1970 UTC; NULL: CLOCK_REALTIME. Tests give their own. */
    uint64_t (*now_ns)(void *ctx);
    void *now_ctx;
    uint64_t mem_below_4g; /* bytes of RAM, for the CMOS memory-size bytes that old loaders read */
    uint64_t mem_above_4g;
};

int mc146818_create(const char *name, const struct mc146818_config *cfg,
                    struct device **dev) HV_MUST_CHECK;

#endif
