/* Fuzzes the 16550A's registers; events are bytes typed. */
#include "fuzz/dev_fuzz.h"
#include "hv/devices/uart16550.h"

static struct chr *chrs[2];

static void type(struct device *dev, uint8_t what)
{
    uint8_t text[32];

    (void)dev;
    memset(text, what, sizeof(text));
    (void)chr_mem_type(chrs[0], text, what % sizeof(text));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input in = {data, size};
    struct irq_line line = {0};
    struct device *devs[2];

    for (int i = 0; i < 2; i++) {
        fuzz_check(chr_mem_create(256, &chrs[i]) == 0);
        fuzz_check(uart16550_create("uart", &line, chrs[i], &devs[i]) == 0);
    }
    fuzz_device(&in, devs[0], devs[1], UART_SIZE, type);
    for (int i = 0; i < 2; i++) {
        dev_destroy(devs[i]);
        chr_destroy(chrs[i]);
    }
    return 0;
}
