/*
 * The whole path of a serial port with real threads: the loop's thread carries input from a pipe, a
 * "vCPU" reads it from the 16550A and sends it back. A wake-up lost between the device's room and
 * the back end's wait would end this in a time-out.
 */
#include <criterion/criterion.h>
#include <linux/serial_reg.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <unistd.h>

#include "hv/base/fd.h"
#include "hv/base/loop.h"
#include "hv/bus/bus.h"
#include "hv/chr/stream.h"
#include "hv/devices/uart16550.h"

#define BYTES 40000

static struct bus bus;
static int in[2], out[2];
static atomic_bool stop;

static uint8_t byte_at(size_t i)
{
    return (uint8_t)(i * 31 + i / 256);
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

static void *vcpu(void *arg)
{
    for (size_t echoed = 0; echoed < BYTES && !atomic_load(&stop);) {
        if (!(inb(UART_LSR) & UART_LSR_DR)) {
            sched_yield();
            continue;
        }
        outb(UART_TX, inb(UART_RX));
        echoed++;
    }
    return arg;
}

static void *far_end(void *arg)
{
    uint8_t byte;
    size_t same = 0;

    for (size_t i = 0; i < BYTES; i++) {
        byte = byte_at(i);
        if (write(in[1], &byte, 1) != 1)
            break;
    }
    while (same < BYTES && read(out[0], &byte, 1) == 1 && byte == byte_at(same))
        same++;
    atomic_store(&stop, true);
    loop_wake(arg);
    return same == BYTES ? arg : NULL;
}

Test(uart_threads, nothing_is_lost_between_threads)
{
    struct loop *loop = NULL;
    struct chr *chr = NULL;
    struct device *dev = NULL;
    struct irq_line line = {0};
    pthread_t threads[2];
    void *result = NULL;

    cr_assert_eq(pipe(in), 0);
    cr_assert_eq(pipe(out), 0);
    cr_assert_eq(loop_create(&loop), 0);
    cr_assert_eq(chr_fds_create(loop, in[0], out[1], NULL, NULL, &chr), 0);
    cr_assert_eq(uart16550_create("serial0", &line, chr, &dev), 0);
    bus_init(&bus, 0xffff);
    cr_assert_eq(bus_map(&bus, UART_COM1_PORT, UART_SIZE, dev, 0), 0);

    /* Now, and not in the guest's thread: it empties the FIFO, which the far end soon fills. */
    outb(UART_FCR, UART_FCR_ENABLE_FIFO);
    cr_assert_eq(pthread_create(&threads[0], NULL, vcpu, NULL), 0);
    cr_assert_eq(pthread_create(&threads[1], NULL, far_end, loop), 0);
    uint64_t end = now_ns() + UINT64_C(60000000000);
    while (!atomic_load(&stop) && now_ns() < end)
        cr_assert_eq(loop_run_once(loop, 1000), 0);
    cr_assert(atomic_load(&stop), "the bytes stopped moving");
    cr_assert_eq(pthread_join(threads[0], NULL), 0);
    cr_assert_eq(pthread_join(threads[1], &result), 0);
    cr_assert_eq(result, loop, "a byte was lost or changed");

    dev_destroy(dev);
    chr_destroy(chr);
    bus_fini(&bus);
    loop_destroy(loop);
    for (int i = 0; i < 2; i++) {
        fd_close(&in[i]);
        fd_close(&out[i]);
    }
}
