/*
 * Intel 8259A and 8254 data sheets.
 */
#include "lib/pic.h"

#include "lib/guest.h"

#define MASTER 0x20 /* command port; data is the next one */
#define SLAVE 0xa0
#define CASCADE_IRQ 2
#define END_OF_INTERRUPT 0x20

#define PIT_CHANNEL_0 0x40
#define PIT_COMMAND 0x43
#define PIT_HZ 1193182

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

void pic_unmask(unsigned irq)
{
    if (irq >= 8) {
        outb(SLAVE + 1, inb(SLAVE + 1) & ~(1U << (irq - 8)));
        irq = CASCADE_IRQ;
    }
    outb(MASTER + 1, inb(MASTER + 1) & ~(1U << irq));
}

void pic_done(unsigned irq)
{
    if (irq >= 8)
        outb(SLAVE, END_OF_INTERRUPT);
    outb(MASTER, END_OF_INTERRUPT);
}

void pit_start(unsigned hz)
{
    uint16_t divisor = PIT_HZ / hz;

    outb(PIT_COMMAND, 0x34); /* channel 0, both bytes, mode 2: rate generator */
    outb(PIT_CHANNEL_0, divisor & 0xff);
    outb(PIT_CHANNEL_0, divisor >> 8);
}
