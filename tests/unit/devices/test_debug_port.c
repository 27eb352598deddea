#include <criterion/criterion.h>

#include "hv/devices/debug_port.h"
#include "support/bus_rig.h"
#include "support/dev_state.h"

static struct bus_rig rig;
static struct device *dev;

static void setup(void)
{
    rig_init(&rig);
    cr_assert_eq(debug_port_create("debug", rig.chr, &dev), 0);
    rig_add(&rig, dev, DEBUG_PORT, 1);
}

static void teardown(void)
{
    rig_fini(&rig);
}

TestSuite(debug_port, .init = setup, .fini = teardown);

Test(debug_port, prints_what_is_written)
{
    rig_out8(&rig, DEBUG_PORT, 'h');
    rig_out8(&rig, DEBUG_PORT, 'i');
    cr_assert_str_eq(rig_output(&rig), "hi");
}

Test(debug_port, is_one_byte_wide)
{
    rig_out32(&rig, DEBUG_PORT, 0x44434241);
    cr_assert_str_eq(rig_output(&rig), "A");
}

Test(debug_port, answers_with_its_number)
{
    cr_assert_eq(rig_in8(&rig, DEBUG_PORT), 0xe9);
    cr_assert_eq(rig_in32(&rig, DEBUG_PORT), 0xffffffe9);
}

Test(debug_port, has_a_state_without_content)
{
    struct dev_state state;

    dev_state_take(dev, &state);
    cr_assert_eq(state.len, 0);
    dev_state_attack(dev);
}
