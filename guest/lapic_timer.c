/*
 * The local APIC's timer, the tick of a modern kernel.
 *
 * run: --boot elf
 * needs: full
 * expect: @ok ticks
 * status: 33
 */
#include "lib/guest.h"
#include "lib/idt.h"
#include "lib/lapic.h"

#define TIMER_VECTOR 0x40
#define PERIOD_NS 2000000
#define TICKS 5

static volatile unsigned ticks;

static void on_timer(struct frame *frame)
{
    (void)frame;
    ticks++;
    lapic_write(LAPIC_EOI, 0);
}

void main(void)
{
    idt_init();
    idt_set(TIMER_VECTOR, on_timer);
    lapic_init();
    lapic_timer_start(TIMER_VECTOR, PERIOD_NS);
    while (ticks < TICKS)
        wait_for_interrupt();
    lapic_write(LAPIC_TIMER_INITIAL, 0);
    check("ticks", true, ticks >= TICKS); /* more, on a busy host */
}
