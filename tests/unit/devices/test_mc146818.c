#include <criterion/criterion.h>
#include <time.h>

#include "hv/base/fd.h"
#include "hv/base/num.h"
#include "hv/devices/mc146818.h"
#include "support/bus_rig.h"
#include "support/dev_state.h"
#include "support/tmp.h"

#define SECOND UINT64_C(1000000000)
#define START UINT64_C(1709251199) /* 2024-02-29 23:59:59 UTC, a Thursday */

enum { SEC, SEC_ALARM, MIN, MIN_ALARM, HOUR, HOUR_ALARM, WDAY, DAY, MONTH, YEAR, A, B, C, D };
#define CENTURY 0x32

#define UIP 0x80
#define SET 0x80
#define PIE 0x40
#define AIE 0x20
#define UIE 0x10
#define DM 0x04
#define H24 0x02
#define IRQF 0x80
#define PF 0x40
#define AF 0x20
#define UF 0x10

static struct bus_rig rig;
static struct device *dev;
static uint64_t now; /* the fake clock */

static uint64_t fake_now(void *ctx)
{
    return *(uint64_t *)ctx;
}

static struct mc146818_config config(void)
{
    return (struct mc146818_config){.irq = rig.line,
                                    .now_ns = fake_now,
                                    .now_ctx = &now,
                                    .mem_below_4g = 3 * GIB,
                                    .mem_above_4g = 2 * GIB};
}

static void setup(void)
{
    now = START * SECOND;
    rig_init(&rig);
    struct mc146818_config cfg = config();
    cr_assert_eq(mc146818_create("rtc", &cfg, &dev), 0);
    rig_add(&rig, dev, MC146818_PORT, MC146818_SIZE);
}

static void teardown(void)
{
    rig_fini(&rig);
}

TestSuite(mc146818, .init = setup, .fini = teardown);

static uint8_t get(uint8_t reg)
{
    rig_out8(&rig, MC146818_PORT, reg);
    return rig_in8(&rig, MC146818_PORT + 1);
}

static void put(uint8_t reg, uint8_t value)
{
    rig_out8(&rig, MC146818_PORT, reg);
    rig_out8(&rig, MC146818_PORT + 1, value);
}

static void expect_time(unsigned century, unsigned year, unsigned month, unsigned day,
                        unsigned hour, unsigned minute, unsigned second)
{
    cr_assert_eq(get(CENTURY), century);
    cr_assert_eq(get(YEAR), year);
    cr_assert_eq(get(MONTH), month);
    cr_assert_eq(get(DAY), day);
    cr_assert_eq(get(HOUR), hour);
    cr_assert_eq(get(MIN), minute);
    cr_assert_eq(get(SEC), second);
}

/* --- Time --- */

Test(mc146818, registers_after_power_on)
{
    cr_assert_eq(get(A), 0x26);
    cr_assert_eq(get(B), H24);
    cr_assert_eq(get(C), 0);
    cr_assert_eq(get(D), 0x80);
}

Test(mc146818, shows_the_hosts_time_in_bcd)
{
    expect_time(0x20, 0x24, 0x02, 0x29, 0x23, 0x59, 0x59);
    cr_assert_eq(get(WDAY), 5, "Sunday is 1");
    now += SECOND;
    expect_time(0x20, 0x24, 0x03, 0x01, 0x00, 0x00, 0x00);
    cr_assert_eq(get(WDAY), 6);
}

Test(mc146818, shows_the_time_in_binary)
{
    put(B, DM | H24);
    expect_time(20, 24, 2, 29, 23, 59, 59);
}

Test(mc146818, twelve_hour_mode)
{
    static const uint8_t hours[24] = {0x12, 0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07,
                                      0x08, 0x09, 0x10, 0x11, 0x92, 0x81, 0x82, 0x83,
                                      0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x90, 0x91};

    put(B, 0);
    for (unsigned h = 0; h < 24; h++) {
        now = (START + 1 + h * 3600) * SECOND;
        cr_assert_eq(get(HOUR), hours[h]);
    }
    put(B, DM);
    cr_assert_eq(get(HOUR), 0x80 | 11);
}

Test(mc146818, time_can_be_set_while_it_is_held)
{
    put(B, SET | H24);
    put(CENTURY, 0x19);
    put(YEAR, 0x99);
    put(MONTH, 0x12);
    put(DAY, 0x31);
    put(HOUR, 0x23);
    put(MIN, 0x58);
    put(SEC, 0x30);
    now += 10 * SECOND;
    cr_assert_eq(get(SEC), 0x30, "SET stops the updates");
    put(B, H24);
    expect_time(0x19, 0x99, 0x12, 0x31, 0x23, 0x58, 0x30);
    now += 90 * SECOND;
    expect_time(0x20, 0x00, 0x01, 0x01, 0x00, 0x00, 0x00);
}

Test(mc146818, time_can_be_set_register_by_register)
{
    put(MIN, 0x10);
    put(HOUR, 0x08);
    expect_time(0x20, 0x24, 0x02, 0x29, 0x08, 0x10, 0x59);
    now += SECOND;
    expect_time(0x20, 0x24, 0x02, 0x29, 0x08, 0x11, 0x00);
}

Test(mc146818, time_set_in_twelve_hour_binary_mode)
{
    put(B, SET | DM);
    put(HOUR, 0x80 | 12);
    put(B, DM);
    cr_assert_eq(get(HOUR), 0x80 | 12);
    put(B, DM | H24);
    cr_assert_eq(get(HOUR), 12);
}

Test(mc146818, dates_that_do_not_exist_become_the_nearest)
{
    put(B, SET | H24);
    put(YEAR, 0x23);
    put(DAY, 0x31);
    put(MONTH, 0xff);
    put(HOUR, 0xff);
    put(B, H24);
    expect_time(0x20, 0x23, 0x12, 0x31, 0x23, 0x59, 0x59);
    put(CENTURY, 0xff);
    cr_assert_eq(get(CENTURY), 0x21);
    put(CENTURY, 0);
    cr_assert_eq(get(CENTURY), 0x19);
}

Test(mc146818, releasing_the_divider_starts_half_a_second_before_an_update)
{
    now += SECOND / 10;
    put(B, SET | H24);
    put(A, 0x76);
    put(SEC, 0x00);
    put(B, H24);
    now += 5 * SECOND;
    cr_assert_eq(get(SEC), 0x00, "still held");
    put(A, 0x26);
    now += SECOND / 2 - 1;
    cr_assert_eq(get(SEC), 0x00);
    now += 1;
    cr_assert_eq(get(SEC), 0x01);
}

Test(mc146818, set_alone_keeps_the_fraction_of_the_second)
{
    now += SECOND * 9 / 10;
    put(B, SET | H24);
    put(SEC, 0x20);
    put(B, H24);
    now += SECOND / 10 - 1;
    cr_assert_eq(get(SEC), 0x20);
    now += 1;
    cr_assert_eq(get(SEC), 0x21);
}

Test(mc146818, uip_warns_of_the_update)
{
    cr_assert_eq(get(A) & UIP, 0);
    now += SECOND - 244001;
    cr_assert_eq(get(A) & UIP, 0);
    now += 1;
    cr_assert_eq(get(A) & UIP, UIP);
    now += 243999;
    cr_assert_eq(get(A) & UIP, UIP);
    now += 1;
    cr_assert_eq(get(A) & UIP, 0);
    now += SECOND - 1;
    put(B, SET | H24);
    cr_assert_eq(get(A) & UIP, 0, "no updates while SET");
}

Test(mc146818, uip_is_read_only)
{
    put(A, 0xa6);
    cr_assert_eq(get(A), 0x26);
}

Test(mc146818, absurd_host_clocks_are_survived)
{
    static const uint64_t clocks[] = {0, 1, INT64_MAX, UINT64_MAX, UINT64_C(7258118400000000000)};

    for (size_t i = 0; i < ARRAY_LEN(clocks); i++) {
        now = clocks[i];
        cr_assert_lt(get(SEC), 0x60);
        put(YEAR, 0x50);
        (void)get(C);
        put(CENTURY, 0x19);
    }
}

Test(mc146818, a_host_clock_that_jumps_by_centuries_does_not_overflow)
{
    now = 0;
    put(B, SET | H24);
    put(CENTURY, 0x21);
    put(B, H24);
    now = UINT64_MAX;
    expect_time(0x21, 0x99, 0x12, 0x31, 0x23, 0x59, 0x59);
}

/* --- RAM --- */

Test(mc146818, ram_stores)
{
    for (uint8_t reg = 0x0e; reg < 0x80; reg++)
        if (reg != CENTURY)
            put(reg, reg ^ 0x5a);
    for (uint8_t reg = 0x0e; reg < 0x80; reg++)
        if (reg != CENTURY)
            cr_assert_eq(get(reg), reg ^ 0x5a);
}

Test(mc146818, index_port_reads_back_and_its_bit_7_is_the_nmi_mask)
{
    put(0x40, 0x11);
    rig_out8(&rig, MC146818_PORT, 0xc0);
    cr_assert_eq(rig_in8(&rig, MC146818_PORT), 0xc0);
    cr_assert_eq(rig_in8(&rig, MC146818_PORT + 1), 0x11);
}

Test(mc146818, read_only_registers)
{
    put(C, 0xff);
    put(D, 0x00);
    cr_assert_eq(get(C), 0);
    cr_assert_eq(get(D), 0x80);
}

static unsigned get16(uint8_t reg)
{
    return get(reg) | get((uint8_t)(reg + 1)) << 8;
}

Test(mc146818, memory_sizes)
{
    cr_assert_eq(get16(0x15), 640);
    cr_assert_eq(get16(0x17), 0xffff, "3 GiB do not fit");
    cr_assert_eq(get16(0x30), 0xffff);
    cr_assert_eq(get16(0x34), (3 * GIB - 16 * MIB) / (64 * KIB));
    cr_assert_eq(get16(0x5b) | get(0x5d) << 16, 2 * GIB / (64 * KIB));
}

Test(mc146818, memory_sizes_of_a_small_machine)
{
    struct mc146818_config cfg = config();
    struct device *small = NULL;
    struct dev_state state;

    cfg.mem_below_4g = 512 * KIB;
    cfg.mem_above_4g = 0;
    cr_assert_eq(mc146818_create("rtc", &cfg, &small), 0);
    dev_state_take(small, &state);
    cr_assert_eq(dev_state_give(dev, &state), 0);
    dev_destroy(small);
    cr_assert_eq(get16(0x15), 512);
    cr_assert_eq(get16(0x17), 0);
    cr_assert_eq(get16(0x34), 0);
    cr_assert_eq(get16(0x5b), 0);
}

/* --- Flags and interrupts --- */

Test(mc146818, update_flag_is_set_every_second_and_cleared_by_reading)
{
    cr_assert_eq(get(C) & UF, 0);
    now += SECOND;
    cr_assert_eq(get(C) & UF, UF);
    cr_assert_eq(get(C) & UF, 0);
    now += SECOND - 1;
    cr_assert_eq(get(C) & UF, 0);
    now += 1;
    cr_assert_eq(get(C) & (UF | IRQF), UF, "not enabled, so no IRQF");
}

Test(mc146818, periodic_flag_follows_the_rate)
{
    static const struct {
        uint8_t rate;
        uint64_t ns;
    } rates[] = {{1, 3906250}, {2, 7812500}, {3, 122070}, {6, 976562}, {15, 500000000}};

    for (size_t i = 0; i < ARRAY_LEN(rates); i++) {
        now = START * SECOND;
        put(A, 0x20 | rates[i].rate);
        (void)get(C);
        now += rates[i].ns - 1;
        cr_assert_eq(get(C) & PF, 0, "rate %u", rates[i].rate);
        now += 2;
        cr_assert_eq(get(C) & PF, PF, "rate %u", rates[i].rate);
        cr_assert_eq(get(C) & PF, 0);
    }
    put(A, 0x20);
    now += 10 * SECOND;
    cr_assert_eq(get(C) & PF, 0, "rate 0 is none");
}

static void set_alarm(uint8_t hour, uint8_t minute, uint8_t second)
{
    put(HOUR_ALARM, hour);
    put(MIN_ALARM, minute);
    put(SEC_ALARM, second);
    (void)get(C);
}

Test(mc146818, alarm_goes_off_at_its_time)
{
    set_alarm(0x01, 0x02, 0x03);
    now = (START + 1 + 3723) * SECOND - 1;
    cr_assert_eq(get(C) & AF, 0);
    now += 1;
    cr_assert_eq(get(C) & AF, AF);
    now += 86399 * SECOND;
    cr_assert_eq(get(C) & AF, 0);
    now += SECOND;
    cr_assert_eq(get(C) & AF, AF, "the next day again");
}

Test(mc146818, alarm_is_seen_by_who_looks_late)
{
    set_alarm(0x01, 0x02, 0x03);
    now += 7 * 86400 * SECOND;
    cr_assert_eq(get(C) & AF, AF);
    cr_assert_eq(get(C) & AF, 0);
}

Test(mc146818, alarm_wildcards)
{
    set_alarm(0xff, 0xc0, 0x05);
    for (int i = 0; i < 3; i++) {
        now = (START + 1 + (unsigned)i * 60 + 4) * SECOND;
        cr_assert_eq(get(C) & AF, 0);
        now += SECOND;
        cr_assert_eq(get(C) & AF, AF);
    }
    set_alarm(0xff, 0xff, 0xff);
    now += SECOND;
    cr_assert_eq(get(C) & AF, AF, "every second");
}

Test(mc146818, impossible_alarms_never_go_off)
{
    set_alarm(0xff, 0xff, 0x99);
    now += 3 * 86400 * SECOND;
    cr_assert_eq(get(C) & AF, 0);
    set_alarm(0x25, 0xff, 0xff);
    now += 3 * 86400 * SECOND;
    cr_assert_eq(get(C) & AF, 0);
}

Test(mc146818, set_clears_the_update_interrupt_enable)
{
    put(B, UIE | H24);
    put(B, SET | UIE | AIE | H24);
    cr_assert_eq(get(B), SET | AIE | H24);
    now += 2 * SECOND;
    cr_assert_eq(get(C), PF, "no updates while SET");
}

Test(mc146818, enabling_a_flag_that_is_set_interrupts)
{
    now += SECOND;
    put(B, UIE | H24);
    cr_assert(rig.irq.level);
    cr_assert_eq(get(C) & (IRQF | UF), IRQF | UF);
    cr_assert_not(rig.irq.level);
    cr_assert_eq(rig.irq.raises, 1);
}

Test(mc146818, disabling_lowers_the_line)
{
    now += SECOND;
    put(B, UIE | H24);
    put(B, H24);
    cr_assert_not(rig.irq.level);
}

Test(mc146818, a_host_clock_that_is_set_back_brings_no_events)
{
    now -= 3600 * SECOND;
    cr_assert_eq(get(C), 0);
    now += SECOND;
    cr_assert_eq(get(C) & UF, UF);
}

/* --- With a loop: the clock runs --- */

static struct loop *loop;
static uint64_t started; /* monotonic */

static uint64_t running_now(void *ctx)
{
    return *(uint64_t *)ctx + now_ns() - started;
}

static void replace_by_running_clock(void)
{
    struct mc146818_config cfg = config();

    started = now_ns();
    cfg.now_ns = running_now;
    cr_assert_eq(loop_create(&loop), 0);
    cfg.loop = loop;
    cr_assert_eq(bus_unmap(&rig.bus, MC146818_PORT), 0);
    dev_destroy(rig.devs[--rig.count]);
    cr_assert_eq(mc146818_create("rtc", &cfg, &dev), 0);
    rig_add(&rig, dev, MC146818_PORT, MC146818_SIZE);
}

static void end_running_clock(void)
{
    cr_assert_eq(bus_unmap(&rig.bus, MC146818_PORT), 0);
    dev_destroy(rig.devs[--rig.count]);
    loop_destroy(loop);
}

static void wait_for_irq(void)
{
    uint64_t end = now_ns() + 10 * SECOND;

    while (!rig.irq.level) {
        cr_assert_lt(now_ns(), end, "no interrupt came");
        cr_assert_eq(loop_run_once(loop, 1000), 0);
    }
}

Test(mc146818, periodic_interrupt_repeats_once_it_is_acknowledged)
{
    unsigned fds = count_open_fds();

    replace_by_running_clock();
    put(A, 0x23);
    put(B, PIE | H24);
    for (unsigned i = 1; i <= 5; i++) {
        wait_for_irq();
        cr_assert_eq(rig.irq.raises, i);
        cr_assert_eq(get(C) & (IRQF | PF), IRQF | PF);
        cr_assert_not(rig.irq.level);
    }
    end_running_clock();
    cr_assert_eq(count_open_fds(), fds);
}

Test(mc146818, an_interrupt_that_nobody_acknowledges_stops_the_timer)
{
    replace_by_running_clock();
    put(A, 0x23);
    put(B, PIE | H24);
    wait_for_irq();
    uint64_t start = now_ns();
    cr_assert_eq(loop_run_once(loop, 20), 0);
    cr_assert_geq(now_ns() - start, 15000000, "the loop was woken for nothing");
    end_running_clock();
}

Test(mc146818, update_interrupt_comes_with_the_second)
{
    now += SECOND - 20000000;
    replace_by_running_clock();
    put(B, UIE | H24);
    cr_assert_not(rig.irq.level);
    wait_for_irq();
    cr_assert_eq(get(SEC), 0x00);
    end_running_clock();
}

Test(mc146818, alarm_interrupt)
{
    now += SECOND - 20000000;
    replace_by_running_clock();
    set_alarm(0x00, 0x00, 0x00);
    put(B, AIE | H24);
    wait_for_irq();
    cr_assert_eq(get(C) & (IRQF | AF), IRQF | AF);
    end_running_clock();
}

Test(mc146818, disabling_the_interrupt_stops_the_timer)
{
    replace_by_running_clock();
    put(A, 0x23);
    put(B, PIE | H24);
    put(B, H24);
    cr_assert_eq(loop_run_once(loop, 0), 0);
    uint64_t start = now_ns();
    cr_assert_eq(loop_run_once(loop, 20), 0);
    cr_assert_geq(now_ns() - start, 15000000, "the loop was woken for nothing");
    end_running_clock();
}

Test(mc146818, works_on_the_real_clock)
{
    struct mc146818_config cfg = {0};
    struct device *real = NULL;

    cr_assert_eq(mc146818_create("rtc", &cfg, &real), 0);
    dev_write(real, 0, 1, CENTURY);
    cr_assert_geq(dev_read(real, 1, 1), 0x20);
    dev_destroy(real);
}

/* --- State --- */

Test(mc146818, state_round_trips)
{
    struct mc146818_config cfg = config();
    struct fake_irq irq;
    struct device *copy = NULL;

    cfg.irq = fake_irq_line(&irq, 8);
    cr_assert_eq(mc146818_create("rtc", &cfg, &copy), 0);
    put(MIN, 0x30);
    put(0x40, 0x99);
    set_alarm(0x12, 0x34, 0x56);
    put(B, UIE | H24);
    now += SECOND;
    rig_out8(&rig, MC146818_PORT, MIN);
    dev_state_copy(dev, copy);
    cr_assert(irq.level);
    cr_assert_eq(dev_read(copy, 0, 1), MIN);
    cr_assert_eq(dev_read(copy, 1, 1), 0x31);
    dev_write(copy, 0, 1, C);
    cr_assert_eq(dev_read(copy, 1, 1), IRQF | UF | PF);
    cr_assert_not(irq.level);
    dev_write(copy, 0, 1, 0x40);
    cr_assert_eq(dev_read(copy, 1, 1), 0x99);
    dev_destroy(copy);
}

Test(mc146818, state_round_trips_while_the_clock_is_held)
{
    put(B, SET | H24);
    put(SEC, 0x12);
    struct dev_state state;
    dev_state_take(dev, &state);
    put(SEC, 0x34);
    now += 5 * SECOND;
    cr_assert_eq(dev_state_give(dev, &state), 0);
    cr_assert_eq(get(SEC), 0x12);
    put(B, H24);
    cr_assert_eq(get(SEC), 0x12);
}

Test(mc146818, hostile_states_are_refused)
{
    put(B, UIE | AIE | H24);
    put(MIN, 0x10);
    dev_state_attack(dev);
}
