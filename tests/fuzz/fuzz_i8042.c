/* Fuzzes the keyboard controller's registers. */
#include "fuzz/dev_fuzz.h"
#include "hv/devices/i8042.h"

static void on_reset(void *ctx)
{
    (void)ctx;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input in = {data, size};
    struct irq_line line = {0};
    struct device *devs[2];

    for (int i = 0; i < 2; i++)
        fuzz_check(i8042_create("i8042", &line, on_reset, NULL, &devs[i]) == 0);
    fuzz_device(&in, devs[0], devs[1], 8, NULL);
    dev_destroy(devs[0]);
    dev_destroy(devs[1]);
    return 0;
}
