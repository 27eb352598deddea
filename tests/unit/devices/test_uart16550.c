/*
 * Registers, transmitter, modem lines. What is received and what interrupts: test_uart_receive.c.
 */
#include <criterion/criterion.h>
#include <linux/serial_reg.h>
#include <string.h>

#include "hv/devices/uart16550.h"
#include "support/bus_rig.h"

#define PORT UART_COM1_PORT

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

TestSuite(uart16550, .init = setup, .fini = teardown);

Test(uart16550, registers_after_reset)
{
    cr_assert_eq(in(UART_RX), 0);
    cr_assert_eq(in(UART_IER), 0);
    cr_assert_eq(in(UART_IIR), UART_IIR_NO_INT);
    cr_assert_eq(in(UART_LCR), 0);
    cr_assert_eq(in(UART_MCR), 0);
    cr_assert_eq(in(UART_LSR), UART_LSR_THRE | UART_LSR_TEMT);
    cr_assert_eq(in(UART_MSR), UART_MSR_DCD | UART_MSR_DSR | UART_MSR_CTS);
    cr_assert_eq(in(UART_SCR), 0);
    cr_assert_eq(rig.irq.raises, 0);
}

Test(uart16550, sends)
{
    for (const char *p = "hello"; *p; p++)
        out(UART_TX, (uint8_t)*p);
    cr_assert_str_eq(rig_output(&rig), "hello");
    cr_assert_eq(in(UART_LSR), UART_LSR_THRE | UART_LSR_TEMT);
}

Test(uart16550, scratch_and_line_control_are_stored)
{
    for (unsigned v = 0; v < 256; v++) {
        out(UART_SCR, (uint8_t)v);
        out(UART_LCR, (uint8_t)v);
        cr_assert_eq(in(UART_SCR), v);
        cr_assert_eq(in(UART_LCR), v);
    }
}

Test(uart16550, reserved_bits_read_zero)
{
    out(UART_IER, 0xff);
    cr_assert_eq(in(UART_IER), 0x0f);
    out(UART_MCR, 0xff);
    cr_assert_eq(in(UART_MCR), 0x1f);
}

Test(uart16550, status_registers_are_read_only)
{
    uint8_t lsr = in(UART_LSR), msr = in(UART_MSR);

    out(UART_LSR, (uint8_t)~lsr);
    out(UART_MSR, (uint8_t)~msr);
    cr_assert_eq(in(UART_LSR), lsr);
    cr_assert_eq(in(UART_MSR), msr);
}

Test(uart16550, dlab_selects_the_divisor_latch)
{
    out(UART_IER, UART_IER_RDI);
    out(UART_LCR, UART_LCR_DLAB);
    cr_assert_neq(in(UART_DLL) | in(UART_DLM) << 8, 0, "early consoles divide by it");
    out(UART_DLL, 0x34);
    out(UART_DLM, 0x12);
    cr_assert_eq(in(UART_DLL), 0x34);
    cr_assert_eq(in(UART_DLM), 0x12);
    out(UART_LCR, UART_LCR_WLEN8);
    cr_assert_eq(in(UART_IER), UART_IER_RDI);
    cr_assert_str_eq(rig_output(&rig), "", "the divisor was sent");
}

/* --- Loop-back and modem lines --- */

Test(uart16550, loopback_sends_to_the_receiver_alone)
{
    out(UART_MCR, UART_MCR_LOOP);
    out(UART_TX, 'z');
    cr_assert(in(UART_LSR)&UART_LSR_DR);
    cr_assert_eq(in(UART_RX), 'z');
    cr_assert_str_eq(rig_output(&rig), "");
}

Test(uart16550, loopback_disconnects_the_line)
{
    out(UART_MCR, UART_MCR_LOOP);
    cr_assert_eq(type("a"), 0);
    out(UART_MCR, 0);
    cr_assert_eq(type("a"), 1);
}

Test(uart16550, loopback_connects_modem_outputs_to_inputs)
{
    static const struct {
        uint8_t mcr, msr;
    } lines[] = {{UART_MCR_DTR, UART_MSR_DSR},
                 {UART_MCR_RTS, UART_MSR_CTS},
                 {UART_MCR_OUT1, UART_MSR_RI},
                 {UART_MCR_OUT2, UART_MSR_DCD}};

    for (unsigned set = 0; set < 16; set++) {
        uint8_t mcr = UART_MCR_LOOP, msr = 0;
        for (unsigned i = 0; i < 4; i++) {
            if (set & (1U << i)) {
                mcr |= lines[i].mcr;
                msr |= lines[i].msr;
            }
        }
        out(UART_MCR, mcr);
        cr_assert_eq(in(UART_MSR)&0xf0, msr);
    }
}

Test(uart16550, modem_status_reports_changes_until_it_is_read)
{
    out(UART_MCR, UART_MCR_LOOP);
    (void)in(UART_MSR);
    out(UART_MCR, UART_MCR_LOOP | UART_MCR_RTS);
    cr_assert_eq(in(UART_MSR), UART_MSR_CTS | UART_MSR_DCTS);
    cr_assert_eq(in(UART_MSR), UART_MSR_CTS);
    out(UART_MCR, UART_MCR_LOOP);
    cr_assert_eq(in(UART_MSR), UART_MSR_DCTS);
}

Test(uart16550, ring_reports_its_trailing_edge_only)
{
    out(UART_MCR, UART_MCR_LOOP);
    (void)in(UART_MSR);
    out(UART_MCR, UART_MCR_LOOP | UART_MCR_OUT1);
    cr_assert_eq(in(UART_MSR), UART_MSR_RI);
    out(UART_MCR, UART_MCR_LOOP);
    cr_assert_eq(in(UART_MSR), UART_MSR_TERI);
}

/* --- How Linux finds out what it has (drivers/tty/serial/8250) --- */

Test(uart16550, linux_sees_a_16550a)
{
    /* Is there a chip at all: IER stores, loop-back works. */
    out(UART_IER, 0);
    cr_assert_eq(in(UART_IER)&0x0f, 0);
    out(UART_IER, 0x0f);
    cr_assert_eq(in(UART_IER)&0x0f, 0x0f);
    out(UART_IER, 0);
    out(UART_MCR, UART_MCR_LOOP | 0x0a);
    cr_assert_eq(in(UART_MSR)&0xf0, 0x90);
    out(UART_MCR, 0);
    /* Which one: a 16550A shows both FIFO bits, an EFR or a 64-byte FIFO would be something else.
     */
    out(UART_LCR, UART_LCR_CONF_MODE_B);
    out(UART_EFR, 0);
    out(UART_LCR, 0);
    out(UART_FCR, UART_FCR_ENABLE_FIFO);
    cr_assert_eq(in(UART_IIR) >> 6, 3);
    out(UART_LCR, UART_LCR_CONF_MODE_A);
    cr_assert_neq(in(UART_EFR), 0);
    out(UART_LCR, UART_LCR_CONF_MODE_B);
    cr_assert_neq(in(UART_EFR), 0);
    out(UART_LCR, 0);
    out(UART_FCR, UART_FCR_ENABLE_FIFO | UART_FCR7_64BYTE);
    cr_assert_eq(in(UART_IIR) >> 5, 6);
    out(UART_IER, UART_IER_UUE);
    cr_assert_not(in(UART_IER)&UART_IER_UUE);
}

/* --- Life --- */

Test(uart16550, destroy_detaches_from_the_back_end)
{
    struct chr *chr = rig.chr;

    dev_destroy(rig.devs[--rig.count]);
    cr_assert_eq(chr_mem_type(chr, "x", 1), 0);
}
