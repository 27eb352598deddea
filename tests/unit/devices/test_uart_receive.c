/*
 * What a 16550A receives, and when it interrupts. Registers and transmitter: test_uart16550.c.
 */
#include <criterion/criterion.h>
#include <linux/serial_reg.h>
#include <string.h>

#include "hv/devices/uart16550.h"
#include "support/bus_rig.h"
#include "support/dev_state.h"

#define PORT UART_COM1_PORT
#define FIFO_16 (UART_FCR_ENABLE_FIFO | UART_FCR_TRIGGER_8)

static struct bus_rig rig;
static struct device *dev;

static uint8_t in(unsigned reg)
{
    return rig_in8(&rig, (uint16_t)(PORT + reg));
}

static void out(unsigned reg, uint8_t value)
{
    rig_out8(&rig, (uint16_t)(PORT + reg), value);
}

static size_t type(const char *text)
{
    return chr_mem_type(rig.chr, text, strlen(text));
}

static void setup(void)
{
    rig_init(&rig);
    cr_assert_eq(uart16550_create("serial0", &rig.line, rig.chr, &dev), 0);
    rig_add(&rig, dev, PORT, UART_SIZE);
}

static void teardown(void)
{
    rig_fini(&rig);
}

TestSuite(uart_receive, .init = setup, .fini = teardown);

/* Opens the gate to the interrupt controller and enables `ier`. */
static void enable_irq(uint8_t ier)
{
    out(UART_MCR, UART_MCR_OUT2 | UART_MCR_DTR | UART_MCR_RTS);
    (void)in(UART_MSR);
    out(UART_IER, ier);
}

/* --- Receiver --- */

Test(uart_receive, receives_one_byte_at_a_time_without_fifo)
{
    cr_assert_eq(type("ab"), 1);
    cr_assert(in(UART_LSR)&UART_LSR_DR);
    cr_assert_eq(in(UART_RX), 'a');
    cr_assert_not(in(UART_LSR)&UART_LSR_DR);
    cr_assert_eq(type("b"), 1);
    cr_assert_eq(in(UART_RX), 'b');
}

Test(uart_receive, receives_sixteen_bytes_with_fifo)
{
    out(UART_FCR, FIFO_16);
    cr_assert_eq(type("0123456789abcdefgh"), 16);
    for (const char *p = "0123456789abcdef"; *p; p++) {
        cr_assert(in(UART_LSR)&UART_LSR_DR);
        cr_assert_eq(in(UART_RX), *p);
    }
    cr_assert_not(in(UART_LSR) & (UART_LSR_DR | UART_LSR_OE));
}

Test(uart_receive, the_fifo_wraps)
{
    out(UART_FCR, FIFO_16);
    for (unsigned i = 0; i < 100; i++) {
        char text[4] = {(char)('a' + i % 26), 'x', 'y', 0};
        cr_assert_eq(type(text), 3);
        cr_assert_eq(in(UART_RX), text[0]);
        cr_assert_eq(in(UART_RX), 'x');
        cr_assert_eq(in(UART_RX), 'y');
    }
}

Test(uart_receive, reading_makes_room_again)
{
    out(UART_FCR, FIFO_16);
    cr_assert_eq(type("0123456789abcdef"), 16);
    cr_assert_eq(type("g"), 0);
    (void)in(UART_RX);
    cr_assert_eq(type("gh"), 1);
}

Test(uart_receive, fcr_clears_the_receive_fifo)
{
    out(UART_FCR, FIFO_16);
    cr_assert_eq(type("abc"), 3);
    out(UART_FCR, FIFO_16 | UART_FCR_CLEAR_XMIT);
    cr_assert(in(UART_LSR)&UART_LSR_DR);
    out(UART_FCR, FIFO_16 | UART_FCR_CLEAR_RCVR);
    cr_assert_not(in(UART_LSR)&UART_LSR_DR);
    cr_assert_eq(type("0123456789abcdef"), 16);
}

Test(uart_receive, fcr_switching_the_fifo_clears_it)
{
    out(UART_FCR, FIFO_16);
    cr_assert_eq(type("abc"), 3);
    out(UART_FCR, 0);
    cr_assert_not(in(UART_LSR)&UART_LSR_DR);
    cr_assert_eq(type("abc"), 1);
    out(UART_FCR, FIFO_16);
    cr_assert_not(in(UART_LSR)&UART_LSR_DR);
}

Test(uart_receive, fcr_other_bits_need_the_enable_bit)
{
    enable_irq(UART_IER_RDI);
    out(UART_FCR, UART_FCR_TRIGGER_14);
    cr_assert_eq(in(UART_IIR), UART_IIR_NO_INT, "no FIFO bits");
    cr_assert_eq(type("a"), 1);
    out(UART_FCR, UART_FCR_CLEAR_RCVR);
    cr_assert(in(UART_LSR)&UART_LSR_DR);
}

Test(uart_receive, overrun_of_the_fifo_keeps_what_is_in_it)
{
    out(UART_FCR, UART_FCR_ENABLE_FIFO);
    out(UART_MCR, UART_MCR_LOOP);
    for (unsigned i = 0; i < 18; i++)
        out(UART_TX, (uint8_t)('a' + i));
    cr_assert(in(UART_LSR)&UART_LSR_OE);
    cr_assert_not(in(UART_LSR)&UART_LSR_OE, "reading clears it");
    for (unsigned i = 0; i < 16; i++)
        cr_assert_eq(in(UART_RX), 'a' + i);
    cr_assert_not(in(UART_LSR)&UART_LSR_DR);
}

Test(uart_receive, overrun_of_the_buffer_replaces_its_byte)
{
    out(UART_MCR, UART_MCR_LOOP);
    out(UART_TX, 'a');
    out(UART_TX, 'b');
    cr_assert(in(UART_LSR)&UART_LSR_OE);
    cr_assert_eq(in(UART_RX), 'b');
}

/* --- Interrupts --- */

Test(uart_receive, iir_tells_that_fifos_are_on)
{
    out(UART_FCR, UART_FCR_ENABLE_FIFO);
    cr_assert_eq(in(UART_IIR), 0xc1);
    out(UART_FCR, 0);
    cr_assert_eq(in(UART_IIR), 0x01);
}

Test(uart_receive, received_data_interrupt)
{
    enable_irq(UART_IER_RDI);
    cr_assert_not(rig.irq.level);
    type("a");
    cr_assert(rig.irq.level);
    cr_assert_eq(in(UART_IIR), UART_IIR_RDI);
    cr_assert(rig.irq.level, "only reading the data clears it");
    (void)in(UART_RX);
    cr_assert_not(rig.irq.level);
    cr_assert_eq(in(UART_IIR), UART_IIR_NO_INT);
    cr_assert_eq(rig.irq.raises, 1);
}

Test(uart_receive, trigger_levels)
{
    static const struct {
        uint8_t fcr;
        unsigned level;
    } cases[] = {{UART_FCR_TRIGGER_1, 1},
                 {UART_FCR_TRIGGER_4, 4},
                 {UART_FCR_TRIGGER_8, 8},
                 {UART_FCR_TRIGGER_14, 14}};

    enable_irq(UART_IER_RDI);
    for (unsigned c = 0; c < 4; c++) {
        out(UART_FCR, UART_FCR_ENABLE_FIFO | UART_FCR_CLEAR_RCVR | cases[c].fcr);
        for (unsigned n = 1; n <= 16; n++) {
            cr_assert_eq(type("x"), 1);
            cr_assert(rig.irq.level);
            cr_assert_eq(in(UART_IIR)&UART_IIR_ID,
                         n >= cases[c].level ? UART_IIR_RDI : UART_IIR_RX_TIMEOUT);
        }
    }
}

Test(uart_receive, transmitter_empty_interrupt_is_due_when_it_is_enabled)
{
    enable_irq(UART_IER_THRI);
    cr_assert(rig.irq.level);
    cr_assert_eq(in(UART_IIR), UART_IIR_THRI);
    cr_assert_not(rig.irq.level, "reading IIR acknowledges it");
    cr_assert_eq(in(UART_IIR), UART_IIR_NO_INT);
    out(UART_IER, UART_IER_THRI);
    cr_assert_eq(in(UART_IIR), UART_IIR_NO_INT, "it was enabled already");
}

Test(uart_receive, transmitter_empty_interrupt_returns_after_every_byte)
{
    enable_irq(UART_IER_THRI);
    (void)in(UART_IIR);
    out(UART_TX, 'a');
    cr_assert(rig.irq.level);
    cr_assert_eq(in(UART_IIR), UART_IIR_THRI);
    cr_assert_not(rig.irq.level);
}

Test(uart_receive, a_handler_that_never_reads_iir_gets_an_edge_per_byte)
{
    enable_irq(UART_IER_THRI);
    unsigned before = rig.irq.raises;
    for (unsigned i = 0; i < 5; i++)
        out(UART_TX, 'x');
    cr_assert_eq(rig.irq.raises, before + 5);
}

Test(uart_receive, reading_iir_keeps_the_transmitter_interrupt_that_it_does_not_show)
{
    enable_irq(UART_IER_THRI | UART_IER_RDI);
    type("a");
    cr_assert_eq(in(UART_IIR), UART_IIR_RDI);
    (void)in(UART_RX);
    cr_assert(rig.irq.level);
    cr_assert_eq(in(UART_IIR), UART_IIR_THRI);
}

Test(uart_receive, interrupts_come_in_order_of_priority)
{
    /* Loop-back gives an overrun and modem deltas; the gate is opened afterwards. */
    out(UART_FCR, UART_FCR_ENABLE_FIFO);
    out(UART_MCR, UART_MCR_LOOP);
    for (unsigned i = 0; i < 17; i++)
        out(UART_TX, 'x');
    enable_irq(0x0f);
    out(UART_MCR, UART_MCR_LOOP);
    out(UART_MCR, UART_MCR_OUT2);
    cr_assert_eq(in(UART_IIR)&UART_IIR_ID, UART_IIR_RLSI);
    cr_assert(in(UART_LSR)&UART_LSR_OE);
    cr_assert_eq(in(UART_IIR)&UART_IIR_ID, UART_IIR_RDI);
    for (unsigned i = 0; i < 16; i++)
        (void)in(UART_RX);
    cr_assert_eq(in(UART_IIR)&UART_IIR_ID, UART_IIR_THRI);
    cr_assert_eq(in(UART_IIR)&0x0f, UART_IIR_MSI);
    cr_assert(rig.irq.level);
    (void)in(UART_MSR);
    cr_assert_eq(in(UART_IIR)&0x0f, UART_IIR_NO_INT);
    cr_assert_not(rig.irq.level);
}

Test(uart_receive, out2_gates_the_interrupt_line)
{
    out(UART_IER, UART_IER_RDI);
    type("a");
    cr_assert_not(rig.irq.level);
    cr_assert_eq(in(UART_IIR), UART_IIR_RDI, "the chip itself shows it");
    out(UART_MCR, UART_MCR_OUT2);
    cr_assert(rig.irq.level);
    out(UART_MCR, UART_MCR_OUT2 | UART_MCR_LOOP);
    cr_assert_not(rig.irq.level, "loop-back forces OUT2 inactive");
    out(UART_MCR, 0);
    cr_assert_not(rig.irq.level);
}

/* --- How Linux finds out what it has (drivers/tty/serial/8250) --- */

Test(uart_receive, linux_sees_no_transmitter_bugs)
{
    out(UART_IER, UART_IER_THRI);
    uint8_t first = in(UART_IIR);
    out(UART_IER, 0);
    out(UART_IER, UART_IER_THRI);
    uint8_t second = in(UART_IIR);
    out(UART_IER, 0);
    cr_assert_not(first & UART_IIR_NO_INT);
    cr_assert_not(second & UART_IIR_NO_INT, "UART_BUG_THRE");
    out(UART_IER, UART_IER_THRI);
    cr_assert_eq(in(UART_LSR)&UART_LSR_TEMT, UART_LSR_TEMT);
    cr_assert_not(in(UART_IIR)&UART_IIR_NO_INT, "UART_BUG_TXEN");
}

Test(uart_receive, linux_counts_a_fifo_of_sixteen)
{
    unsigned count = 0;

    out(UART_FCR, UART_FCR_ENABLE_FIFO | UART_FCR_CLEAR_RCVR | UART_FCR_CLEAR_XMIT);
    out(UART_MCR, UART_MCR_LOOP);
    for (unsigned i = 0; i < 256; i++)
        out(UART_TX, (uint8_t)i);
    while (in(UART_LSR)&UART_LSR_DR && count < 256) {
        cr_assert_eq(in(UART_RX), count);
        count++;
    }
    cr_assert_eq(count, 16);
}

/* --- State --- */

Test(uart_receive, state_round_trips)
{
    struct bus_rig other;
    struct device *copy = NULL;

    rig_init(&other);
    cr_assert_eq(uart16550_create("serial0", &other.line, other.chr, &copy), 0);
    rig_add(&other, copy, PORT, UART_SIZE);

    out(UART_LCR, UART_LCR_DLAB);
    out(UART_DLL, 0x0c);
    out(UART_LCR, UART_LCR_WLEN8);
    out(UART_SCR, 0x77);
    out(UART_FCR, FIFO_16);
    enable_irq(UART_IER_RDI | UART_IER_RLSI);
    type("restored");
    (void)in(UART_RX);
    dev_state_copy(dev, copy);

    cr_assert(other.irq.level, "the line of the restored device");
    cr_assert_eq(rig_in8(&other, PORT + UART_SCR), 0x77);
    cr_assert_eq(rig_in8(&other, PORT + UART_LCR), UART_LCR_WLEN8);
    cr_assert_eq(rig_in8(&other, PORT + UART_IIR), 0xc0 | UART_IIR_RX_TIMEOUT);
    for (const char *p = "estored"; *p; p++)
        cr_assert_eq(rig_in8(&other, PORT + UART_RX), *p);
    cr_assert_not(other.irq.level);
    rig_fini(&other);
}

Test(uart_receive, hostile_states_are_refused)
{
    enable_irq(UART_IER_RDI);
    out(UART_FCR, FIFO_16);
    type("abc");
    dev_state_attack(dev);
    cr_assert_eq(in(UART_RX), 'a');
}
