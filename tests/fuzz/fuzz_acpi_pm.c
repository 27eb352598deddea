/* Fuzzes the ACPI power registers; events press the button or let time pass. */
#include "fuzz/dev_fuzz.h"
#include "hv/devices/acpi_pm.h"

static uint64_t now;

static uint64_t fake_now(void *ctx)
{
    (void)ctx;
    return now;
}

static void on_power(void *ctx, enum acpi_power what)
{
    (void)ctx;
    fuzz_check(what == ACPI_POWER_OFF || what == ACPI_POWER_RESET);
}

static void event(struct device *dev, uint8_t what)
{
    if (what & 1)
        acpi_pm_power_button(dev);
    else
        now += UINT64_C(1) << (what >> 2);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input in = {data, size};
    struct acpi_pm_config cfg = {
        .s5_slp_typ = 5, .reset_value = 6, .power = on_power, .now_ns = fake_now};
    struct device *devs[2];

    now = 0;
    for (int i = 0; i < 2; i++)
        fuzz_check(acpi_pm_create("pm", &cfg, &devs[i]) == 0);
    fuzz_device(&in, devs[0], devs[1], 0x20, event);
    dev_destroy(devs[0]);
    dev_destroy(devs[1]);
    return 0;
}
