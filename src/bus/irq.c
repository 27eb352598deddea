/*
 * An interrupt line: a wire with a memory of its level.
 *
 * Left out: wired-or. Two devices that share a line each need their own, joined by whoever listens.
 */
#include "hv/bus/irq.h"

void irq_init(struct irq_line *line, void (*set)(void *ctx, uint32_t gsi, bool level), void *ctx,
              uint32_t gsi)
{
    *line = (struct irq_line){.set = set, .ctx = ctx, .gsi = gsi};
}

void irq_set(struct irq_line *line, bool level)
{
    if (line->level == level)
        return;
    line->level = level;
    if (line->set)
        line->set(line->ctx, line->gsi, level);
}

void irq_pulse(struct irq_line *line)
{
    irq_set(line, false); /* a line that is already high has no rising edge to give */
    irq_set(line, true);
    irq_set(line, false);
}
