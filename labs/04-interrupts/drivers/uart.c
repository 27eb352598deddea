/*
 * A 16550A on a bus, whose registers are read and written as a script says.
 *
 * args: SCRIPT for each case, operations separated by blanks:
 *   wR=HEX  write register R      rR      read register R
 *   kHEX..  bytes typed, as many as there is room for
 *   fHEX..  bytes that come whether there is room or not
 * For each operation [value, level, edges, resumes]: what a read gave or how many bytes were taken;
 * the line's level after it; how often the line has gone up so far; how often the device has said
 * that there is room. And what was sent.
 */
#include <errno.h>

#include "chr/chr_priv.h"
#include "hv/base/num.h"
#include "hv/bus/bus.h"
#include "hv/devices/uart16550.h"
#include "observe.h"

#define PORT 0x3f8

/* --- the far ends: of the interrupt line, and of the wire --- */

static int level, edges, resumes;
static uint8_t sent[16384];
static size_t sent_count;

static void on_line(void *ctx, uint32_t gsi, bool high)
{
    (void)ctx;
    (void)gsi;
    level = high;
    edges += high;
}

static ssize_t far_write(struct chr *chr, const void *data, size_t len)
{
    (void)chr;
    if (len > sizeof(sent) - sent_count)
        len = sizeof(sent) - sent_count;
    memcpy(sent + sent_count, data, len);
    sent_count += len;
    return (ssize_t)len;
}

static void far_resume(struct chr *chr)
{
    (void)chr;
    resumes++;
}

static const struct chr_ops far_ops = {.write = far_write, .resume = far_resume};

/* --- the script --- */

static int type(struct chr *chr, const uint8_t *data, size_t len, bool force)
{
    size_t room = force ? len : chr->front.room(chr->front.ctx);
    size_t n = room < len ? room : len;

    if (n > 0)
        chr->front.input(chr->front.ctx, data, n);
    return (int)n;
}

static int perform(struct bus *bus, struct chr *chr, const char *op)
{
    uint8_t data[256], byte = 0xa5;
    uint64_t port = PORT + (uint64_t)(op[1] - '0');

    switch (*op) {
    case 'r':
        bus_read(bus, port, &byte, 1);
        return byte;
    case 'w':
        byte = (uint8_t)strtoul(op + 3, NULL, 16);
        bus_write(bus, port, &byte, 1);
        return 0;
    default:
        return type(chr, data, from_hex(op + 1, data, sizeof(data)), *op == 'f');
    }
}

static void run(struct bus *bus, struct chr *chr, char *script)
{
    char text[64], *save = NULL;
    bool first = true;

    report_name("seen");
    report_raw("[");
    for (char *op = strtok_r(script, " ", &save); op != NULL; op = strtok_r(NULL, " ", &save)) {
        int value = perform(bus, chr, op);
        (void)snprintf(text, sizeof(text), "%s[%d,%d,%d,%d]", first ? "" : ",", value, level, edges,
                       resumes);
        report_raw(text);
        first = false;
    }
    report_raw("]");
}

static void try(char *script)
{
    struct irq_line line;
    struct chr chr;
    struct bus bus;
    struct device *dev = NULL;

    level = edges = resumes = 0;
    sent_count = 0;
    chr_init(&chr, &far_ops);
    irq_init(&line, on_line, NULL, UART_COM1_IRQ);
    bus_init(&bus, 0xffff);
    report_case();
    if (uart16550_create("serial0", &line, &chr, &dev) < 0 ||
        bus_map(&bus, PORT, UART_SIZE, dev, 0) < 0)
        exit(2);
    run(&bus, &chr, script);
    report_hex("sent", sent, sent_count);
    bus_fini(&bus);
    dev_destroy(dev);
}

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++)
        try(argv[i]);
    return report_end();
}
