#include "support/fake_irq.h"

static void count(void *ctx, uint32_t gsi, bool level)
{
    struct fake_irq *irq = ctx;

    irq->gsi = gsi;
    irq->level = level;
    if (level)
        irq->raises++;
    else
        irq->lowers++;
}

struct irq_line fake_irq_line(struct fake_irq *irq, uint32_t gsi)
{
    struct irq_line line;

    *irq = (struct fake_irq){0};
    irq_init(&line, count, irq, gsi);
    return line;
}
