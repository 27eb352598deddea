/*
 * guest/uart_echo.c, compiled for the host, in a machine of our own: a PIC that listens to edges, a
 * timer, and a UART that receives.
 *
 * args: EVENTS for each case. Whenever the guest sleeps the next event happens:
 *   t    the timer ticks          kHEX  keys come, all at once
 * and in the middle of the guest's work:
 *   dHEX keys for later: the first comes when the last key that waited has just been taken, the
 *        second right after the guest has seen that one, and so on
 * A guest that sleeps when all events are over sleeps for ever.
 */
#include <setjmp.h>

#include "fake_guest.h"
#include "observe.h"

#define main guest_main
#include "../guest/uart_echo.c" // NOLINT
#undef main

#define KEYS_MAX 1024

static struct {
    uint8_t keys[KEYS_MAX], later[KEYS_MAX];
    size_t key, key_count, next_later, later_count;
    bool receive_enabled, out2;
    bool line;                 /* of the UART, as the PIC sees it */
    uint8_t requested, served; /* the PIC's request and in-service registers */
    uint8_t masked;
    handler_fn *handlers[256];
    const char *events;
    uint8_t sent[4096];
    size_t sent_count;
    bool slept_for_ever, spurious_read;
} pc;
static jmp_buf over;

/* --- the chips --- */

static void look_at_line(void)
{
    bool high = pc.key < pc.key_count && pc.receive_enabled && pc.out2;

    if (high && !pc.line)
        pc.requested |= 1U << COM1_IRQ;
    pc.line = high;
}

static void add_keys(const uint8_t *keys, size_t count)
{
    for (size_t i = 0; i < count && pc.key_count < KEYS_MAX; i++)
        pc.keys[pc.key_count++] = keys[i];
    look_at_line();
}

static void add_later_key(void)
{
    if (pc.next_later < pc.later_count)
        add_keys(&pc.later[pc.next_later++], 1);
}

static uint8_t take_key(void)
{
    if (pc.key == pc.key_count) {
        pc.spurious_read = true;
        return 0;
    }
    uint8_t key = pc.keys[pc.key++];
    look_at_line();
    if (pc.key == pc.key_count)
        add_later_key();
    return key;
}

void outb(uint16_t port, uint8_t v)
{
    switch (port) {
    case COM1 + RBR_THR:
        if (pc.sent_count < sizeof(pc.sent))
            pc.sent[pc.sent_count++] = v;
        break;
    case COM1 + IER:
        pc.receive_enabled = v & IER_RECEIVED;
        look_at_line();
        break;
    case COM1 + MCR:
        pc.out2 = v & 8;
        look_at_line();
        break;
    default:
        break;
    }
}

uint8_t inb(uint16_t port)
{
    if (port == COM1 + LSR)
        return LSR_SEND_EMPTY | (pc.key < pc.key_count ? LSR_DATA_READY : 0);
    return port == COM1 + RBR_THR ? take_key() : 0;
}

void idt_init(void)
{
}

void idt_set(unsigned vector, handler_fn *handler)
{
    pc.handlers[vector & 0xff] = handler;
}

void pic_init(void)
{
    pc.masked = 0xff;
}

void pic_unmask(unsigned irq)
{
    pc.masked &= (uint8_t) ~(1U << irq);
}

/* What it really does: it ends what is served with the highest priority. */
void pic_done(unsigned irq)
{
    (void)irq;
    pc.served &= (uint8_t)(pc.served - 1);
}

void pit_start(unsigned hz)
{
    (void)hz;
}

/* --- the processor --- */

/* Serves interrupts for as long as the PIC lets one through. */
static bool serve(void)
{
    bool any = false;

    for (;;) {
        uint8_t open = pc.requested & (uint8_t)~pc.masked;
        unsigned irq = open != 0 ? (unsigned)__builtin_ctz(open) : 8;
        if (irq == 8 || (pc.served != 0 && irq >= (unsigned)__builtin_ctz(pc.served)))
            return any;
        pc.requested &= (uint8_t) ~(1U << irq);
        pc.served |= (uint8_t)(1U << irq);
        struct frame frame = {.vector = PIC_VECTOR(irq)};
        pc.handlers[PIC_VECTOR(irq)](&frame);
        any = true;
    }
}

static void happen(void)
{
    uint8_t keys[KEYS_MAX];

    while (*pc.events == ' ')
        pc.events++;
    char what = *pc.events;
    if (what == '\0') {
        pc.slept_for_ever = true;
        longjmp(over, 1);
    }
    pc.events++;
    if (what == 't') {
        pc.requested |= 1U << TIMER_IRQ;
        return;
    }
    size_t n = from_hex(pc.events, keys, sizeof(keys));
    pc.events += strcspn(pc.events, " ");
    if (what == 'k') {
        add_keys(keys, n);
        return;
    }
    memcpy(pc.later, keys, n);
    pc.later_count = n;
    pc.next_later = 0;
    add_later_key();
}

void wait_for_interrupt(void)
{
    while (!serve())
        happen();
}

void interrupts_on(void)
{
    (void)serve();
}

void interrupts_off(void)
{
}

static void try(const char *events)
{
    memset(&pc, 0, sizeof(pc));
    ticks = 0;
    ended = false;
    pc.events = events;
    if (setjmp(over) == 0)
        guest_main();
    report_case();
    report_hex("sent", pc.sent, pc.sent_count);
    report_int("slept_for_ever", pc.slept_for_ever);
    report_int("spurious_read", pc.spurious_read);
    report_int("unended", pc.served);
    report_string("left", pc.events);
}

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++)
        try(argv[i]);
    return report_end();
}
