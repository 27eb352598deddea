#include <criterion/criterion.h>

#include "hv/devices/acpi_pm.h"
#include "support/bus_rig.h"
#include "support/dev_state.h"

#define PORT 0x600
#define STS (PORT + ACPI_PM_EVT_OFFSET)
#define EN (STS + 2)
#define CNT (PORT + ACPI_PM_CNT_OFFSET)
#define TMR (PORT + ACPI_PM_TMR_OFFSET)
#define RESET (PORT + ACPI_PM_RESET_REG)

#define S5 5
#define RESET_VALUE 0x06
#define PWRBTN (1 << 8)
#define SLP_EN (1 << 13)

static struct bus_rig rig;
static struct device *dev;
static uint64_t now; /* the fake clock */
static unsigned offs, resets;

static uint64_t fake_now(void *ctx)
{
    return *(uint64_t *)ctx;
}

static void on_power(void *ctx, enum acpi_power what)
{
    cr_assert_eq(ctx, &rig);
    if (what == ACPI_POWER_OFF)
        offs++;
    else
        resets++;
}

static struct device *create(const struct irq_line *sci)
{
    struct acpi_pm_config cfg = {
        .sci = *sci,
        .s5_slp_typ = S5,
        .reset_value = RESET_VALUE,
        .power = on_power,
        .power_ctx = &rig,
        .now_ns = fake_now,
        .now_ctx = &now,
    };
    struct device *created = NULL;

    cr_assert_eq(acpi_pm_create("acpi-pm", &cfg, &created), 0);
    return created;
}

static void setup(void)
{
    now = 0;
    offs = resets = 0;
    rig_init(&rig);
    dev = create(&rig.line);
    rig_add(&rig, dev, PORT, ACPI_PM_RESET_OFFSET + ACPI_PM_RESET_SIZE);
}

static void teardown(void)
{
    rig_fini(&rig);
}

TestSuite(acpi_pm, .init = setup, .fini = teardown);

Test(acpi_pm, registers_after_reset)
{
    cr_assert_eq(rig_in16(&rig, STS), 0);
    cr_assert_eq(rig_in16(&rig, EN), 0);
    cr_assert_eq(rig_in16(&rig, CNT), 1, "SCI_EN: ACPI mode from the start");
    cr_assert_eq(rig_in32(&rig, TMR), 0);
    cr_assert_eq(rig_in8(&rig, RESET), 0);
}

Test(acpi_pm, s5_powers_off)
{
    rig_out16(&rig, CNT, S5 << 10);
    cr_assert_eq(offs, 0, "the type alone does nothing");
    rig_out16(&rig, CNT, (S5 << 10) | SLP_EN);
    cr_assert_eq(offs, 1);
    cr_assert_eq(resets, 0);
    cr_assert_eq(rig_in16(&rig, CNT), (S5 << 10) | 1, "SLP_EN is write-only");
}

Test(acpi_pm, s5_may_be_written_as_a_byte)
{
    rig_out8(&rig, CNT + 1, ((S5 << 10) | SLP_EN) >> 8);
    cr_assert_eq(offs, 1);
}

Test(acpi_pm, other_sleep_types_are_ignored)
{
    for (unsigned type = 0; type < 8; type++)
        if (type != S5)
            rig_out16(&rig, CNT, (uint16_t)(type << 10 | SLP_EN));
    rig_out8(&rig, CNT, 0xff); /* the low byte has no SLP_EN */
    cr_assert_eq(offs, 0);
    cr_assert_eq(resets, 0);
}

Test(acpi_pm, reset_register_wants_its_bits)
{
    for (unsigned v = 0; v < 256; v++)
        if ((v & RESET_VALUE) != RESET_VALUE)
            rig_out8(&rig, RESET, (uint8_t)v);
    cr_assert_eq(resets, 0);
    rig_out8(&rig, RESET, RESET_VALUE);
    cr_assert_eq(resets, 1);
    rig_out8(&rig, RESET, 0x0e);
    cr_assert_eq(resets, 2, "Linux, reboot=pci");
    cr_assert_eq(offs, 0);
}

/* memtest86+ looks at PCI function 0:0.6 and must not be reset by it. */
Test(acpi_pm, configuration_address_with_reset_bits_does_not_reset)
{
    rig_out32(&rig, RESET - 1, 0x80000600);
    rig_out16(&rig, RESET - 1, 0x0600);
    rig_out16(&rig, RESET, 0x0006);
    rig_out8(&rig, RESET + 1, RESET_VALUE);
    cr_assert_eq(resets, 0);
    cr_assert_eq(rig_in32(&rig, RESET - 1), 0xffffffff, "no PCI answers");
}

Test(acpi_pm, power_button_raises_an_enabled_sci)
{
    rig_out16(&rig, EN, PWRBTN);
    cr_assert_not(rig.irq.level);
    acpi_pm_power_button(dev);
    cr_assert(rig.irq.level);
    cr_assert_eq(rig_in16(&rig, STS), PWRBTN);
    rig_out16(&rig, STS, 0);
    cr_assert(rig.irq.level, "writing 0 clears nothing");
    rig_out16(&rig, STS, PWRBTN);
    cr_assert_not(rig.irq.level);
    cr_assert_eq(rig_in16(&rig, STS), 0);
    cr_assert_eq(rig.irq.raises, 1);
}

Test(acpi_pm, power_button_waits_until_it_is_enabled)
{
    acpi_pm_power_button(dev);
    cr_assert_not(rig.irq.level);
    rig_out16(&rig, EN, PWRBTN);
    cr_assert(rig.irq.level);
    rig_out16(&rig, EN, 0);
    cr_assert_not(rig.irq.level);
}

Test(acpi_pm, enable_register_keeps_the_defined_bits)
{
    rig_out16(&rig, EN, 0xffff);
    cr_assert_eq(rig_in16(&rig, EN), 0x0721);
    rig_out8(&rig, EN + 1, 0);
    cr_assert_eq(rig_in16(&rig, EN), 0x0021);
    cr_assert_eq(rig_in32(&rig, STS), 0x00210000);
    rig_out32(&rig, STS, 0x0100ffff);
    cr_assert_eq(rig_in16(&rig, EN), 0x0100);
}

Test(acpi_pm, timer_counts_at_its_frequency)
{
    now = 1000000000;
    cr_assert_eq(rig_in32(&rig, TMR), 3579545);
    now = 2000000000;
    cr_assert_eq(rig_in32(&rig, TMR), 2 * 3579545);
    cr_assert_eq(rig_in16(&rig, TMR + 1), (2 * 3579545) >> 8 & 0xffff);
}

Test(acpi_pm, timer_wraps_at_24_bits)
{
    now = UINT64_C(100000000000);
    cr_assert_eq(rig_in32(&rig, TMR), UINT64_C(357954500) & 0xffffff);
    now = UINT64_MAX;
    cr_assert_leq(rig_in32(&rig, TMR), 0xffffff);
}

Test(acpi_pm, timer_is_read_only)
{
    now = 1000000000;
    rig_out32(&rig, TMR, 0);
    cr_assert_eq(rig_in32(&rig, TMR), 3579545);
}

Test(acpi_pm, works_on_the_real_clock)
{
    struct acpi_pm_config cfg = {.power = on_power, .power_ctx = &rig};
    struct device *real = NULL;

    cr_assert_eq(acpi_pm_create("acpi-pm", &cfg, &real), 0);
    uint64_t first = dev_read(real, ACPI_PM_TMR_OFFSET, 4);
    while (dev_read(real, ACPI_PM_TMR_OFFSET, 4) == first)
        ;
    dev_destroy(real);
}

Test(acpi_pm, any_access_is_survived)
{
    for (uint16_t port = PORT; port < PORT + 0x11; port++) {
        rig_out8(&rig, port, 0xff);
        rig_out16(&rig, port, 0xffff);
        rig_out32(&rig, port, 0xffffffff);
        (void)rig_in32(&rig, port);
    }
}

Test(acpi_pm, state_round_trips_and_the_timer_goes_on)
{
    struct fake_irq irq;
    struct irq_line line = fake_irq_line(&irq, 9);
    struct device *copy = create(&line);

    now = 1000000000;
    rig_out16(&rig, EN, PWRBTN);
    rig_out16(&rig, CNT, 3 << 10);
    acpi_pm_power_button(dev);
    struct dev_state state;
    dev_state_take(dev, &state);
    now = 77000000000;
    cr_assert_eq(dev_state_give(copy, &state), 0);
    cr_assert(irq.level);
    cr_assert_eq(dev_read(copy, 0, 4), PWRBTN << 16 | PWRBTN);
    cr_assert_eq(dev_read(copy, ACPI_PM_CNT_OFFSET, 2), 3 << 10 | 1);
    cr_assert_eq(dev_read(copy, ACPI_PM_TMR_OFFSET, 4), 3579545);
    now += 1000000000;
    cr_assert_leq(dev_read(copy, ACPI_PM_TMR_OFFSET, 4) - 2 * 3579545, 1);
    dev_destroy(copy);
}

Test(acpi_pm, hostile_states_are_refused)
{
    acpi_pm_power_button(dev);
    dev_state_attack(dev);
    cr_assert_eq(offs + resets, 0);
}
