/*
 * A 16550A, its registers read and written one by one, its far end kept in memory.
 *
 * args: new          a chip after reset
 *       overrun      a chip that has lost a byte: its saved state says so
 *       w:OFFSET:BYTE  r:OFFSET
 * Each reports "value" (of a read), the last one also "sent", all that has left the chip.
 */
#include "hv/devices/uart16550.h"
#include "recorder.h"

static struct chr *chr;
static struct device *dev;

static void new_chip(void)
{
    static const struct irq_line no_line;

    if (dev != NULL) {
        dev_destroy(dev);
        chr_destroy(chr);
    }
    if (chr_mem_create(4096, &chr) < 0 || uart16550_create("serial0", &no_line, chr, &dev) < 0)
        exit(2);
}

/* The fields in the order in which uart_save() writes them. */
static void lose_a_byte(void)
{
    static const uint8_t before_msr[] = {0, 0, 0, 0}; /* IER, FCR, LCR, MCR */
    static const uint8_t rest[] = {
        0xb0, 0, 1, 0,    /* MSR: a peer that is ready; scratch; divisor */
        1,    1, 1, 0, 7, /* overrun, thr_empty, rx_len, rx_head, rx[0] */
    };
    static const uint8_t unused[15];
    struct codec_writer w;
    struct codec_reader r;

    codec_writer_init(&w);
    codec_begin(&w, "serial0", 1);
    codec_put_bytes(&w, before_msr, sizeof(before_msr));
    codec_put_bytes(&w, rest, sizeof(rest));
    codec_put_bytes(&w, unused, sizeof(unused));
    if (codec_end(&w) < 0)
        exit(2);
    codec_reader_init(&r, w.data, w.size);
    if (dev_load(dev, &r) < 0)
        exit(2);
}

static void report_sent(void)
{
    size_t len;
    const char *sent = chr_mem_output(chr, &len);

    report_hex("sent", sent, len);
}

int main(int argc, char **argv)
{
    uint64_t f[2];

    for (int i = 1; i < argc; i++) {
        uint64_t value = 0;
        if (is_command(argv[i], "new", f, 0))
            new_chip();
        else if (is_command(argv[i], "overrun", f, 0))
            lose_a_byte();
        else if (is_command(argv[i], "r", f, 1))
            value = dev_read(dev, f[0], 1);
        else if (is_command(argv[i], "w", f, 2))
            dev_write(dev, f[0], 1, f[1]);
        else
            return 2;
        report_case();
        report_u64("value", value);
    }
    report_sent();
    return report_end();
}
