/*
 * The National Semiconductor PC16550D UART (data sheet SNLS378): FIFOs, interrupts, loop-back,
 * modem lines.
 *
 * The far end is a character back end. The line is infinitely fast: a byte written is sent at once,
 * so the transmitter is always empty; received bytes wait in the 16-byte FIFO and no more are taken
 * from the back end than fit. Baud rate and framing are stored and read back, and change nothing.
 */
#ifndef HV_DEVICES_UART16550_H
#define HV_DEVICES_UART16550_H

#include "hv/bus/device.h"
#include "hv/bus/irq.h"
#include "hv/chr/chr.h"

#define UART_SIZE 8 /* registers, one byte each */
#define UART_COM1_PORT 0x3f8
#define UART_COM1_IRQ 4
#define UART_COM2_PORT 0x2f8
#define UART_COM2_IRQ 3

/* `irq` is copied; `chr` is borrowed, attached at once and detached by destroy. -ENOMEM. */
int uart16550_create(const char *name, const struct irq_line *irq, struct chr *chr,
                     struct device **dev) HV_MUST_CHECK;

#endif
