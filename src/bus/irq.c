/*
 * An interrupt line: a wire with a memory of its level.
 *
 * Left out: wired-or. Two devices that share a line each need their own, joined by whoever listens.
 */
#include "hv/bus/irq.h"

#include "hv/base/todo.h"

void irq_init(struct irq_line *line, void (*set)(void *ctx, uint32_t gsi, bool level), void *ctx,
              uint32_t gsi)
{
    *line = (struct irq_line){.set = set, .ctx = ctx, .gsi = gsi};
}

/* EXERCISE 4.2: the line's memory. irq_set(): brings the line to `level`. The other end hears of
 * changes only, once each, with the line's number; where nobody listens (set is NULL) the line just
 * remembers. irq_pulse(): for a source that interrupts with an edge. Whatever the level was before,
 * the other end sees the line go up and come down again, and it is low in the end. A line that is
 * high already has no rising edge to give. */
// SOLUTION 4.2
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
    irq_set(line, false);
    irq_set(line, true);
    irq_set(line, false);
}
// ELSE
// void irq_set(struct irq_line *line, bool level)
// {
//     (void)todo("4.2");
// }
//
// void irq_pulse(struct irq_line *line)
// {
//     (void)todo("4.2");
// }
// BEFORE
// /* Nobody listens yet. */
// void irq_set(struct irq_line *line, bool level)
// {
//     line->level = level;
// }
//
// void irq_pulse(struct irq_line *line)
// {
//     irq_set(line, false);
// }
// END 4.2
