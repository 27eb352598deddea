/*
 * A serial port in full use: the loop's thread carries what is typed, one vCPU echoes it, another
 * turns interrupts on and off and looks at the registers that change nothing. What is typed comes
 * back in order, and the interrupt line is only ever touched under the device's lock.
 */
#include <linux/serial_reg.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <unistd.h>

#include "hv/base/fd.h"
#include "hv/bus/bus.h"
#include "hv/chr/stream.h"
#include "hv/devices/uart16550.h"
#include "thread/crew.h"

#define BYTES 20000

static struct bus bus;
static struct loop *loop;
static struct chr *chr;
static struct device *dev;
static int typed[2], printed[2]; /* pipes */
static unsigned irq_changes;     /* guarded by nothing but the device's lock, which is the point */
static atomic_bool stop;

static void count_irq(void *ctx, uint32_t gsi, bool level)
{
    (void)ctx, (void)level;
    CHECK(gsi == UART_COM1_IRQ);
    irq_changes++;
}

static uint8_t inb(unsigned reg)
{
    uint8_t value;

    bus_read(&bus, UART_COM1_PORT + reg, &value, 1);
    return value;
}

static void outb(unsigned reg, uint8_t value)
{
    bus_write(&bus, UART_COM1_PORT + reg, &value, 1);
}

static uint8_t byte_at(unsigned i)
{
    return (uint8_t)(i * 31 + i / 256);
}

static void type(void *ctx, unsigned index)
{
    (void)ctx, (void)index;
    for (unsigned i = 0; i < BYTES; i++) {
        uint8_t byte = byte_at(i);
        CHECK(fd_write_full(typed[1], &byte, 1) == 0);
    }
}

static void echo(void *ctx, unsigned index)
{
    (void)ctx, (void)index;
    for (unsigned i = 0; i < BYTES;) {
        if (inb(UART_LSR) & UART_LSR_DR) {
            outb(UART_TX, inb(UART_RX));
            i++;
        } else {
            sched_yield();
        }
    }
}

static void look_around(void *ctx, unsigned index)
{
    (void)ctx, (void)index;
    for (uint8_t i = 0; !atomic_load(&stop); i++) {
        outb(UART_IER, i % 2 ? UART_IER_RDI | UART_IER_THRI : 0);
        (void)inb(UART_IIR);
        (void)inb(UART_MSR);
        outb(UART_SCR, i);
        CHECK(inb(UART_SCR) == i);
    }
}

static void read_back(void *ctx, unsigned index)
{
    (void)ctx, (void)index;
    for (unsigned i = 0; i < BYTES; i++) {
        uint8_t byte;
        CHECK(fd_read_full(printed[0], &byte, 1) == 0);
        CHECK(byte == byte_at(i));
    }
    atomic_store(&stop, true);
    loop_wake(loop);
}

static void set_up(void)
{
    struct irq_line line;

    (void)signal(SIGPIPE, SIG_IGN);
    CHECK(pipe(typed) == 0 && pipe(printed) == 0);
    CHECK(loop_create(&loop) == 0);
    CHECK(chr_fds_create(loop, typed[0], printed[1], NULL, NULL, &chr) == 0);
    irq_init(&line, count_irq, NULL, UART_COM1_IRQ);
    CHECK(uart16550_create("serial0", &line, chr, &dev) == 0);
    bus_init(&bus, 0xffff);
    CHECK(bus_map(&bus, UART_COM1_PORT, UART_SIZE, dev, 0) == 0);
    outb(UART_FCR, UART_FCR_ENABLE_FIFO); /* empties it: before anything is typed */
    outb(UART_MCR, UART_MCR_OUT2);
}

static void tear_down(void)
{
    dev_destroy(dev);
    chr_destroy(chr);
    bus_fini(&bus);
    loop_destroy(loop);
    for (int i = 0; i < 2; i++) {
        fd_close(&typed[i]);
        fd_close(&printed[i]);
    }
}

int main(void)
{
    struct crew crew = {0};

    set_up();
    crew_start(&crew, 1, type, NULL);
    crew_start(&crew, 1, echo, NULL);
    crew_start(&crew, 1, look_around, NULL);
    crew_start(&crew, 1, read_back, NULL);
    while (!atomic_load(&stop))
        CHECK(loop_run_once(loop, -1) == 0);
    crew_join(&crew);
    CHECK(irq_changes > 0);
    tear_down();
    return 0;
}
