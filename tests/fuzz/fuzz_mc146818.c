/* Fuzzes the real-time clock's registers; events move the host's clock, forward or back. */
#include "fuzz/dev_fuzz.h"
#include "hv/devices/mc146818.h"

static uint64_t now;

static uint64_t fake_now(void *ctx)
{
    (void)ctx;
    return now;
}

static void event(struct device *dev, uint8_t what)
{
    (void)dev;
    if (what & 1)
        now += UINT64_C(1) << (what >> 2);
    else
        now -= UINT64_C(1) << (what >> 2);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input in = {data, size};
    struct mc146818_config cfg = {.now_ns = fake_now, .mem_below_4g = 1U << 30};
    struct device *devs[2];

    now = UINT64_C(1700000000000000000);
    for (int i = 0; i < 2; i++)
        fuzz_check(mc146818_create("rtc", &cfg, &devs[i]) == 0);
    fuzz_device(&in, devs[0], devs[1], MC146818_SIZE, event);
    dev_destroy(devs[0]);
    dev_destroy(devs[1]);
    return 0;
}
