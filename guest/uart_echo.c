/*
 * A guest that ticks and listens: typed characters interrupt it, and it sends them back in upper
 * case.
 *
 * Shows: two sources of interrupts, the 8254's ticks (IRQ 0) and the 16550A's receiver (IRQ 4), and
 * a processor that sleeps between them. After each line that was typed stands how often it has
 * ticked so far. A full stop ends the guest. The FIFO stays off: switching it on clears it
 * (PC16550D, FCR bit 0), and with it what was typed too early.
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
#include "lib/todo.h"

#define TIMER_IRQ 0
#define HZ 100

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

/* Written by the handlers, read by listen(). */
static volatile unsigned ticks;
static volatile bool ended;

static void send(uint8_t c)
{
    while (!(inb(COM1 + LSR) & LSR_SEND_EMPTY))
        __asm__ volatile("pause");
    outb(COM1 + RBR_THR, c);
}

static void send_number(unsigned n)
{
    if (n >= 10)
        send_number(n / 10);
    send((uint8_t)('0' + n % 10));
}

static uint8_t upper(uint8_t c)
{
    return c >= 'a' && c <= 'z' ? (uint8_t)(c - 'a' + 'A') : c;
}

/* Answers one key. */
static void on_key(uint8_t c)
{
    if (c == '\r' || c == '\n') {
        send(' ');
        send_number(ticks);
        send('\r');
        send('\n');
    } else {
        send(upper(c));
    }
    if (c == '.')
        ended = true;
}

/* EXERCISE 4.11: a guest that ticks and listens. on_timer(), the handler of TIMER_IRQ: counts the
 * tick. on_uart(), the handler of COM1_IRQ: gives on_key() what was received. The line is
 * edge-triggered: while a byte waits it stays high, and no other interrupt comes, so a handler that
 * leaves one behind is never called again. Both tell the controller when they are done. listen():
 * sleeps until somebody has typed a full stop. It has interrupts off whenever it looks at what the
 * handlers write, and on while it sleeps; between the look and the sleep none may be lost
 * (wait_for_interrupt() in lib/guest.h). */
// SOLUTION 4.11
static void on_timer(struct frame *frame)
{
    (void)frame;
    ticks++;
    pic_done(TIMER_IRQ);
}

static void on_uart(struct frame *frame)
{
    (void)frame;
    while (inb(COM1 + LSR) & LSR_DATA_READY)
        on_key(inb(COM1 + RBR_THR));
    pic_done(COM1_IRQ);
}

static void listen(void)
{
    while (!ended)
        wait_for_interrupt();
}
// ELSE
// static void on_timer(struct frame *frame)
// {
//     todo("4.11");
// }
//
// static void on_uart(struct frame *frame)
// {
//     todo("4.11");
//     on_key(0);
// }
//
// static void listen(void)
// {
//     todo("4.11");
// }
// END 4.11

static void start_uart(void)
{
    outb(COM1 + LCR, LCR_8N1);
    outb(COM1 + MCR, MCR_DTR_RTS_OUT2);
    outb(COM1 + IER, IER_RECEIVED);
}

void main(void)
{
    idt_init();
    idt_set(PIC_VECTOR(TIMER_IRQ), on_timer);
    idt_set(PIC_VECTOR(COM1_IRQ), on_uart);
    pic_init();
    pit_start(HZ);
    start_uart();
    pic_unmask(TIMER_IRQ);
    pic_unmask(COM1_IRQ);
    listen();
    send('\r');
    send('\n');
}
