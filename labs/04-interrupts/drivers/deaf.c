/*
 * The console with a 16550A behind it, whose guest reads nothing for a while.
 *
 * args: HEX   repeated until the pipe is full
 * Reports how many bytes were written, how many were still in the pipe when nothing moved any more,
 * whether the loop rested then, and what the guest read in the end: how many, and a checksum of
 * their order.
 */
#include <errno.h>
#include <fcntl.h>
#include <sys/ioctl.h>

#include "hv/base/fd.h"
#include "hv/base/loop.h"
#include "hv/bus/bus.h"
#include "hv/chr/stream.h"
#include "hv/devices/uart16550.h"
#include "observe.h"

#define PORT 0x3f8
#define LSR (PORT + 5)
#define IDLE_MS 40

static struct bus bus;
static struct loop *loop;

static uint8_t in8(uint16_t port)
{
    uint8_t byte = 0;

    bus_read(&bus, port, &byte, 1);
    return byte;
}

static void run_loop(int times)
{
    while (times-- > 0)
        if (loop_run_once(loop, 0) < 0)
            exit(2);
}

static size_t fill(int fd, const uint8_t *data, size_t size)
{
    size_t done = 0;
    ssize_t n;

    (void)fcntl(fd, F_SETFL, O_NONBLOCK);
    while ((n = write(fd, data + done % size, size - done % size)) > 0)
        done += (size_t)n;
    return done;
}

/* The guest reads what there is; gives up when nothing has come for a while. */
static void drain(const uint8_t *data, size_t size)
{
    size_t count = 0, wrong = 0;

    for (int idle = 0; idle < 200; idle++) {
        while (in8(LSR) & 1) {
            wrong += in8(PORT) != data[count++ % size];
            idle = 0;
        }
        run_loop(2);
    }
    report_u64("read", count);
    report_u64("wrong", wrong);
}

static void make(int in)
{
    const uint8_t fifo_on = 1;
    struct irq_line line = {0};
    struct chr *chr;
    struct device *dev;
    int out = open("/dev/null", O_WRONLY | O_CLOEXEC);

    bus_init(&bus, 0xffff);
    if (loop_create(&loop) < 0 || chr_fds_create(loop, in, out, NULL, NULL, &chr) < 0 ||
        uart16550_create("serial0", &line, chr, &dev) < 0 ||
        bus_map(&bus, PORT, UART_SIZE, dev, 0) < 0)
        exit(2);
    bus_write(&bus, PORT + 2, &fifo_on, 1);
}

int main(int argc, char **argv)
{
    uint8_t data[4096];
    size_t size = argc > 1 ? from_hex(argv[1], data, sizeof(data)) : 0;
    int in[2], left = 0;

    if (size == 0 || pipe2(in, O_CLOEXEC) < 0)
        return 2;
    make(in[0]);
    report_u64("written", fill(in[1], data, size));
    run_loop(100);
    uint64_t start = now_ns();
    run_loop(0);
    if (loop_run_once(loop, IDLE_MS) < 0 || ioctl(in[0], FIONREAD, &left) < 0)
        return 2;
    report_int("rested", now_ns() - start >= (uint64_t)(IDLE_MS - 5) * 1000000);
    report_int("left", left);
    drain(data, size);
    return report_end();
}
