/*
 * Typed characters interrupt the guest, which sends them back in upper case.
 *
 * Shows: the 16550A's receive interrupt (IRQ 4). A full stop ends the guest. The FIFO stays off:
 * switching it on clears it (PC16550D, FCR bit 0), and with it what was typed too early.
 *
 * run: --boot elf
 * needs: full
 * stdin: hello, world.
 * expect: HELLO, WORLD.
 * status: 33
 */
#include "lib/guest.h"
#include "lib/idt.h"
#include "lib/pic.h"

#define COM1 0x3f8
#define COM1_IRQ 4

/* PC16550D registers. */
#define RBR_THR 0
#define IER 1
#define LCR 3
#define MCR 4
#define LSR 5
#define IER_RECEIVED 1
#define LCR_8N1 3
#define MCR_DTR_RTS_OUT2 0xb /* OUT2 connects the interrupt on a PC */
#define LSR_DATA_READY 1
#define LSR_SEND_EMPTY 0x20

static volatile bool ended;

static void send(uint8_t c)
{
    while (!(inb(COM1 + LSR) & LSR_SEND_EMPTY))
        __asm__ volatile("pause");
    outb(COM1 + RBR_THR, c);
}

static uint8_t upper(uint8_t c)
{
    return c >= 'a' && c <= 'z' ? (uint8_t)(c - 'a' + 'A') : c;
}

/* The line is edge-triggered: everything that waits is taken, or no interrupt would follow. */
static void on_uart(struct frame *frame)
{
    (void)frame;
    while (inb(COM1 + LSR) & LSR_DATA_READY) {
        uint8_t c = inb(COM1 + RBR_THR);

        send(upper(c));
        if (c == '.')
            ended = true;
    }
    pic_done(COM1_IRQ);
}

void main(void)
{
    idt_init();
    idt_set(PIC_VECTOR(COM1_IRQ), on_uart);
    pic_init();
    outb(COM1 + LCR, LCR_8N1);
    outb(COM1 + MCR, MCR_DTR_RTS_OUT2);
    outb(COM1 + IER, IER_RECEIVED);
    pic_unmask(COM1_IRQ);
    while (!ended)
        wait_for_interrupt();
    send('\r');
    send('\n');
}
