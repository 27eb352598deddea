/*
 * One interrupt line, from a device's output pin to whatever listens at the other end.
 *
 * A device raises and lowers its line and never learns whether KVM's I/O APIC, another chip or a
 * unit test's counter is behind it. The line remembers its level, so that setting it again costs
 * nothing. Threads: the line belongs to one device and is changed only under that device's lock.
 */
#ifndef HV_BUS_IRQ_H
#define HV_BUS_IRQ_H

#include <stdbool.h>
#include <stdint.h>

/* A zero-initialised line leads nowhere: it only remembers its level. */
struct irq_line {
    /* Delivers a change of level. Must not call back into the device. */
    void (*set)(void *ctx, uint32_t gsi, bool level);
    void *ctx;    /* borrowed */
    uint32_t gsi; /* global system interrupt number, ACPI 6.5 §5.2.13 */
    bool level;   /* what was delivered last */
};

void irq_init(struct irq_line *line, void (*set)(void *ctx, uint32_t gsi, bool level), void *ctx,
              uint32_t gsi);

/* Brings the line to `level`; tells the other end only when that is a change. */
void irq_set(struct irq_line *line, bool level);

/* A rising and a falling edge, for edge-triggered sources such as the RTC. */
void irq_pulse(struct irq_line *line);

#endif
