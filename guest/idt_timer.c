/*
 * A guest that ticks: interrupts from the 8254 timer through the 8259A controllers.
 *
 * Shows: the IDT, moving the controllers' vectors off the exceptions, end of interrupt, and HLT
 * that an interrupt wakes.
 *
 * run: --boot elf
 * needs: full
 * expect: tick 5
 * expect: @ok ticks
 * status: 33
 */
#include "lib/guest.h"
#include "lib/idt.h"
#include "lib/pic.h"

#define TIMER_IRQ 0
#define HZ 100
#define TICKS 5

static volatile unsigned ticks;

static void on_timer(struct frame *frame)
{
    (void)frame;
    ticks++;
    pic_done(TIMER_IRQ);
}

void main(void)
{
    idt_init();
    idt_set(PIC_VECTOR(TIMER_IRQ), on_timer);
    pic_init();
    pit_start(HZ);
    pic_unmask(TIMER_IRQ);
    /* On a busy host several may have come since the last look. */
    for (unsigned seen = 0; seen < TICKS;) {
        wait_for_interrupt();
        while (seen < ticks && seen < TICKS)
            print("tick %u\n", ++seen);
    }
    check("ticks", true, ticks >= TICKS);
}
