/*
 * Intel 8259A and 8254 data sheets.
 */
#include "lib/pic.h"

#include "lib/guest.h"
#include "lib/todo.h"

#define MASTER 0x20 /* command port; data is the next one */
#define SLAVE 0xa0
#define CASCADE_IRQ 2
#define END_OF_INTERRUPT 0x20

#define PIT_CHANNEL_0 0x40
#define PIT_COMMAND 0x43
#define PIT_HZ 1193182

/* EXERCISE 4.10: the two 8259A. pic_init(): each is told four words, the first to its command port,
 * the others to its data port (8259A data sheet, "Initialization Command Words"): that it is
 * initialized, triggered by edges, one of two, and that a fourth word follows; the vector of its
 * line 0, PIC_VECTOR(0) or PIC_VECTOR(8); where the other one hangs, as a mask for the master and
 * as a number for the slave; that it serves an 8086 and waits for the end of each interrupt to be
 * told. A last word to the data port masks all eight lines. pic_done(): tells the end of an
 * interrupt, END_OF_INTERRUPT to the command port of each controller that had a part in it. */
// SOLUTION 4.10
static void init_one(uint16_t port, uint8_t vector, uint8_t cascade)
{
    outb(port, 0x11);        /* ICW1: edge-triggered, cascaded, ICW4 follows */
    outb(port + 1, vector);  /* ICW2: vector of its line 0 */
    outb(port + 1, cascade); /* ICW3: where the other one hangs */
    outb(port + 1, 0x01);    /* ICW4: 8086 mode */
    outb(port + 1, 0xff);    /* OCW1: all masked */
}

void pic_init(void)
{
    init_one(MASTER, PIC_VECTOR(0), 1 << CASCADE_IRQ);
    init_one(SLAVE, PIC_VECTOR(8), CASCADE_IRQ);
}

void pic_done(unsigned irq)
{
    if (irq >= 8)
        outb(SLAVE, END_OF_INTERRUPT);
    outb(MASTER, END_OF_INTERRUPT);
}
// ELSE
// void pic_init(void)
// {
//     todo("4.10");
// }
//
// void pic_done(unsigned irq)
// {
//     todo("4.10");
// }
// END 4.10

void pic_unmask(unsigned irq)
{
    if (irq >= 8) {
        outb(SLAVE + 1, inb(SLAVE + 1) & ~(1U << (irq - 8)));
        irq = CASCADE_IRQ;
    }
    outb(MASTER + 1, inb(MASTER + 1) & ~(1U << irq));
}

void pit_start(unsigned hz)
{
    uint16_t divisor = PIT_HZ / hz;

    outb(PIT_COMMAND, 0x34); /* channel 0, both bytes, mode 2: rate generator */
    outb(PIT_CHANNEL_0, divisor & 0xff);
    outb(PIT_CHANNEL_0, divisor >> 8);
}
