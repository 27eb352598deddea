#include <criterion/criterion.h>

#include "hv/bus/irq.h"
#include "support/fake_irq.h"

Test(irq, delivers_changes_with_the_line_number)
{
    struct fake_irq irq;
    struct irq_line line = fake_irq_line(&irq, 4);

    irq_set(&line, true);
    cr_assert_eq(irq.raises, 1);
    cr_assert_eq(irq.lowers, 0);
    cr_assert(irq.level);
    cr_assert_eq(irq.gsi, 4);
    irq_set(&line, false);
    cr_assert_eq(irq.lowers, 1);
    cr_assert_not(irq.level);
}

Test(irq, setting_the_same_level_again_is_silent)
{
    struct fake_irq irq;
    struct irq_line line = fake_irq_line(&irq, 4);

    irq_set(&line, false);
    cr_assert_eq(irq.lowers, 0);
    irq_set(&line, true);
    irq_set(&line, true);
    cr_assert_eq(irq.raises, 1);
}

Test(irq, a_pulse_has_both_edges_whatever_the_level_was)
{
    struct fake_irq irq;
    struct irq_line line = fake_irq_line(&irq, 8);

    irq_pulse(&line);
    cr_assert_eq(irq.raises, 1);
    cr_assert_eq(irq.lowers, 1);
    irq_set(&line, true);
    irq_pulse(&line);
    cr_assert_eq(irq.raises, 3);
    cr_assert_eq(irq.lowers, 3);
    cr_assert_not(line.level);
}

Test(irq, a_zeroed_line_leads_nowhere)
{
    struct irq_line line = {0};

    irq_set(&line, true);
    cr_assert(line.level);
    irq_pulse(&line);
    cr_assert_not(line.level);
}
