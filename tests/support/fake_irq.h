/*
 * The far end of an interrupt line, for unit tests: it counts what arrives.
 */
#ifndef SUPPORT_FAKE_IRQ_H
#define SUPPORT_FAKE_IRQ_H

#include <stdbool.h>
#include <stdint.h>

#include "hv/bus/irq.h"

struct fake_irq {
    unsigned raises;
    unsigned lowers;
    bool level;
    uint32_t gsi; /* of the last change */
};

/* A line that ends in `irq`, which it clears and which must outlive the line. */
struct irq_line fake_irq_line(struct fake_irq *irq, uint32_t gsi);

#endif
