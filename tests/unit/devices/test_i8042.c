#include <criterion/criterion.h>

#include "hv/devices/i8042.h"
#include "support/bus_rig.h"
#include "support/dev_state.h"

#define DATA I8042_DATA_PORT
#define STATUS I8042_STATUS_PORT
#define OBF 0x01
#define TRANSLATE 0x40

static struct bus_rig rig;
static struct device *dev;
static unsigned resets;

static void on_reset(void *ctx)
{
    cr_assert_eq(ctx, &rig);
    resets++;
}

static void setup(void)
{
    resets = 0;
    rig_init(&rig);
    cr_assert_eq(i8042_create("i8042", &rig.line, on_reset, &rig, &dev), 0);
    rig_add(&rig, dev, DATA, 1);
    rig_map(&rig, dev, STATUS, 1, 4);
}

static void teardown(void)
{
    rig_fini(&rig);
}

TestSuite(i8042, .init = setup, .fini = teardown);

static void command(uint8_t value)
{
    rig_out8(&rig, STATUS, value);
}

static void data(uint8_t value)
{
    rig_out8(&rig, DATA, value);
}

static bool has_answer(void)
{
    return rig_in8(&rig, STATUS) & OBF;
}

/* The next byte from the controller, which must be there. */
static uint8_t answer(void)
{
    cr_assert(has_answer());
    return rig_in8(&rig, DATA);
}

static uint8_t config(void)
{
    command(0x20);
    return answer();
}

static void set_config(uint8_t value)
{
    command(0x60);
    data(value);
}

static void expect_answers(const uint8_t *bytes, size_t count)
{
    for (size_t i = 0; i < count; i++)
        cr_assert_eq(answer(), bytes[i], "byte %zu", i);
    cr_assert_not(has_answer());
}

#define EXPECT(...)                                                                                \
    expect_answers((const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}))

Test(i8042, status_after_reset)
{
    cr_assert_eq(rig_in8(&rig, STATUS), 0x14, "not locked, self-test passed, nothing to read");
    cr_assert_eq(rig_in8(&rig, DATA), 0);
    cr_assert_eq(rig.irq.raises, 0);
}

Test(i8042, status_tells_commands_from_data)
{
    command(0xae);
    cr_assert(rig_in8(&rig, STATUS) & 0x08);
    data(0xf4);
    cr_assert_not(rig_in8(&rig, STATUS) & 0x08);
}

Test(i8042, self_tests_pass)
{
    command(0xaa);
    EXPECT(0x55);
    command(0xab);
    EXPECT(0x00);
}

Test(i8042, configuration_is_stored)
{
    set_config(0x61);
    cr_assert_eq(config(), 0x61);
    set_config(0x30);
    cr_assert_eq(config(), 0x30);
    set_config(0xff);
    cr_assert_eq(config(), 0x77, "reserved bits are 0");
}

Test(i8042, configuration_bit_2_shows_in_the_status)
{
    set_config(0x20);
    cr_assert_eq(rig_in8(&rig, STATUS) & 0x04, 0);
    command(0xaa);
    (void)answer();
    cr_assert_eq(rig_in8(&rig, STATUS) & 0x04, 0x04);
}

Test(i8042, other_controller_ram_is_absent)
{
    command(0x61);
    data(0x12);
    command(0x21);
    EXPECT(0);
    cr_assert_eq(config(), 0x65);
}

Test(i8042, keyboard_interface_can_be_disabled)
{
    command(0xad);
    cr_assert(config() & 0x10);
    command(0xae);
    cr_assert_not(config() & 0x10);
    command(0xad);
    data(0xf4);
    EXPECT(0xfa);
    cr_assert_not(config() & 0x10, "talking to the keyboard enables it");
}

Test(i8042, there_is_no_auxiliary_port)
{
    command(0xa9);
    EXPECT(0x01);
    command(0xa8);
    cr_assert(config() & 0x20, "its disable bit cannot be cleared");
    set_config(0x47);
    cr_assert(config() & 0x20);
    command(0xa7);
    cr_assert(config() & 0x20);
    command(0xd4);
    data(0xff);
    cr_assert_not(has_answer());
}

Test(i8042, linux_learns_at_once_that_there_is_no_auxiliary_port)
{
    command(0xd3);
    data(0x5a);
    cr_assert_eq(rig_in8(&rig, STATUS) & 0x21, OBF, "an answer, but not from the auxiliary port");
    EXPECT(0x5a);
}

Test(i8042, keyboard_loop_back)
{
    command(0xd2);
    data(0x1e);
    EXPECT(0x1e);
}

Test(i8042, ports)
{
    command(0xc0);
    EXPECT(0x80);
    command(0xd0);
    EXPECT(0x03);
    command(0xdd);
    command(0xd0);
    EXPECT(0x01);
    command(0xdf);
    command(0xd0);
    EXPECT(0x03);
    command(0xd1);
    data(0x01);
    command(0xd0);
    command(0xd0);
    EXPECT(0x01, 0x11);
    cr_assert_eq(resets, 0);
}

Test(i8042, pulse_fe_resets)
{
    command(0xfe);
    cr_assert_eq(resets, 1);
}

Test(i8042, pulses_that_leave_bit_0_high_do_not_reset)
{
    for (unsigned v = 0xf1; v <= 0xff; v += 2)
        command((uint8_t)v);
    cr_assert_eq(resets, 0);
    command(0xf0);
    cr_assert_eq(resets, 1);
}

Test(i8042, output_port_bit_0_resets)
{
    command(0xd1);
    data(0x02);
    cr_assert_eq(resets, 1);
    command(0xd0);
    EXPECT(0x03);
}

Test(i8042, a_new_command_cancels_one_that_waits_for_data)
{
    command(0xd1);
    command(0x60);
    data(0x20);
    cr_assert_eq(resets, 0);
    cr_assert_eq(config(), 0x20);
    command(0xd1);
    command(0xae);
    data(0xee);
    EXPECT(0xee);
    cr_assert_eq(resets, 0);
}

Test(i8042, unknown_commands_do_nothing)
{
    for (unsigned v = 0x80; v < 0xa7; v++)
        command((uint8_t)v);
    cr_assert_not(has_answer());
    cr_assert_eq(rig.irq.raises, 0);
}

/* --- The keyboard --- */

Test(i8042, keyboard_resets)
{
    data(0xff);
    EXPECT(0xfa, 0xaa);
}

Test(i8042, keyboard_identifies_itself)
{
    set_config(0x05);
    data(0xf2);
    EXPECT(0xfa, 0xab, 0x83);
}

Test(i8042, identification_passes_the_translation)
{
    data(0xf2);
    EXPECT(0xfa, 0xab, 0x41);
}

Test(i8042, keyboard_commands_with_a_parameter)
{
    data(0xed);
    EXPECT(0xfa);
    data(0x07);
    EXPECT(0xfa);
    data(0xf3);
    EXPECT(0xfa);
    data(0x20);
    EXPECT(0xfa);
    data(0x20);
    EXPECT(0xfe);
}

Test(i8042, a_keyboard_command_in_a_parameters_place_starts_anew)
{
    data(0xed);
    EXPECT(0xfa);
    data(0xf4);
    EXPECT(0xfa);
    data(0x01);
    EXPECT(0xfe);
}

Test(i8042, scan_code_set_can_be_chosen_and_asked_for)
{
    set_config(0x05);
    for (uint8_t set = 1; set <= 3; set++) {
        data(0xf0);
        data(set);
        EXPECT(0xfa, 0xfa);
        data(0xf0);
        data(0);
        EXPECT(0xfa, 0xfa, set);
    }
    data(0xf0);
    data(4);
    EXPECT(0xfa, 0xfe);
    data(0xf6);
    data(0xf0);
    data(0);
    EXPECT(0xfa, 0xfa, 0xfa, 2);
    set_config(0x05 | TRANSLATE);
    data(0xf0);
    data(0);
    EXPECT(0xfa, 0xfa, 0x41);
}

Test(i8042, keyboard_acknowledges_and_resends)
{
    static const uint8_t simple[] = {0xf4, 0xf5, 0xf6};

    for (size_t i = 0; i < sizeof(simple); i++) {
        data(simple[i]);
        EXPECT(0xfa);
    }
    data(0xee);
    EXPECT(0xee);
    data(0xfe);
    EXPECT(0xee);
    data(0x12);
    EXPECT(0xfe);
}

/* --- Interrupt and queue --- */

Test(i8042, each_byte_interrupts)
{
    data(0xf2);
    for (unsigned i = 1; i <= 3; i++) {
        cr_assert(rig.irq.level);
        cr_assert_eq(rig.irq.raises, i);
        (void)answer();
    }
    cr_assert_not(rig.irq.level);
}

Test(i8042, no_interrupt_unless_enabled)
{
    set_config(0x24);
    data(0xf4);
    cr_assert_not(rig.irq.level);
    set_config(0x25);
    cr_assert(rig.irq.level, "the byte still waits");
    set_config(0x24);
    cr_assert_not(rig.irq.level);
    EXPECT(0xfa);
}

Test(i8042, queue_is_bounded)
{
    for (unsigned i = 0; i < 1000; i++)
        data(0xee);
    unsigned count = 0;
    while (has_answer() && count < 1000) {
        cr_assert_eq(answer(), 0xee);
        count++;
    }
    cr_assert_eq(count, 16);
}

/* --- State --- */

Test(i8042, state_round_trips)
{
    struct fake_irq irq;
    struct irq_line line = fake_irq_line(&irq, 1);
    struct device *copy = NULL;

    cr_assert_eq(i8042_create("i8042", &line, on_reset, &rig, &copy), 0);
    set_config(0x05);
    data(0xf2);
    (void)answer();
    command(0xd2);
    dev_state_copy(dev, copy);
    cr_assert(irq.level);
    dev_write(copy, 0, 1, 0x77);
    cr_assert_eq(dev_read(copy, 0, 1), 0xab);
    cr_assert_eq(dev_read(copy, 0, 1), 0x83);
    cr_assert_eq(dev_read(copy, 0, 1), 0x77, "the command still waited for its data");
    cr_assert_not(irq.level);
    dev_destroy(copy);
}

Test(i8042, hostile_states_are_refused)
{
    data(0xf2);
    data(0xed);
    command(0xd1);
    dev_state_attack(dev);
    cr_assert_eq(resets, 0);
}
