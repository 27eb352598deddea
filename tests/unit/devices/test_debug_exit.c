#include <criterion/criterion.h>

#include "hv/devices/debug_exit.h"
#include "support/bus_rig.h"
#include "support/dev_state.h"

static struct bus_rig rig;
static struct device *dev;
static unsigned calls;
static uint32_t last;

static void on_exit_value(void *ctx, uint32_t value)
{
    cr_assert_eq(ctx, &rig);
    calls++;
    last = value;
}

static void setup(void)
{
    calls = 0;
    last = 0xa5a5a5a5;
    rig_init(&rig);
    cr_assert_eq(debug_exit_create("debug-exit", on_exit_value, &rig, &dev), 0);
    rig_add(&rig, dev, DEBUG_EXIT_PORT, DEBUG_EXIT_SIZE);
}

static void teardown(void)
{
    rig_fini(&rig);
}

TestSuite(debug_exit, .init = setup, .fini = teardown);

Test(debug_exit, reports_the_value_of_a_write_of_any_width)
{
    rig_out8(&rig, DEBUG_EXIT_PORT, 0x10);
    cr_assert_eq(last, 0x10);
    rig_out16(&rig, DEBUG_EXIT_PORT + 2, 0x1234);
    cr_assert_eq(last, 0x1234);
    rig_out32(&rig, DEBUG_EXIT_PORT, 0x89abcdef);
    cr_assert_eq(last, 0x89abcdef);
    cr_assert_eq(calls, 3);
}

Test(debug_exit, reads_do_nothing)
{
    cr_assert_eq(rig_in32(&rig, DEBUG_EXIT_PORT), 0);
    cr_assert_eq(calls, 0);
}

Test(debug_exit, has_a_state_without_content)
{
    dev_state_attack(dev);
    cr_assert_eq(calls, 0);
}
