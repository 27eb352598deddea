/*
 * MC146818 real-time clock. Sections are cited by their names in the MC146818A data sheet.
 *
 * There is no ticking: the guest's time is the host's plus an offset, and registers are worked out
 * when they are read. The interrupt flags of register C likewise: an access first asks which events
 * fell between the last look and now. Only while the guest has an interrupt enabled, and none is
 * pending, does a timer run, for the next event alone. Events that nobody acknowledged in between
 * merge into one flag, as they do in the chip.
 *
 * Setting the time moves the offset. While the guest holds the clock (SET, or the divider chain in
 * reset) the time registers are plain memory; letting go commits them. A date that does not exist
 * becomes the nearest that does, between 1970 and 2199.
 *
 * Left out: daylight saving (DSE is stored), the square wave, and time bases other than 32.768 kHz.
 * The day of the week follows from the date. After a restore the clock shows the true time of day,
 * as a battery-backed clock does after the machine was off.
 */
#include "hv/devices/mc146818.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "devices/calendar_priv.h"
#include "hv/base/fd.h"
#include "hv/base/num.h"

#define INDEX_OFFSET 0
#define DATA_OFFSET 1

#define RAM_SIZE 128
#define INDEX_MASK 0x7f /* bit 7 of the index port masks NMI on a PC, which has no effect here */

enum rtc_reg {
    REG_SECOND = 0x00,
    REG_SECOND_ALARM = 0x01,
    REG_MINUTE = 0x02,
    REG_MINUTE_ALARM = 0x03,
    REG_HOUR = 0x04,
    REG_HOUR_ALARM = 0x05,
    REG_WEEKDAY = 0x06,
    REG_DAY = 0x07,
    REG_MONTH = 0x08,
    REG_YEAR = 0x09,
    REG_A = 0x0a,
    REG_B = 0x0b,
    REG_C = 0x0c,
    REG_D = 0x0d,
    /* Beyond the chip's own: what PC firmware keeps in the RAM. */
    REG_BASE_MEMORY = 0x15,     /* 2 bytes, KiB */
    REG_EXTENDED_MEMORY = 0x17, /* 2 bytes, KiB above 1 MiB */
    REG_EXTENDED_MEMORY_2 = 0x30,
    REG_CENTURY = 0x32,
    REG_MEMORY_ABOVE_16M = 0x34, /* 2 bytes, 64 KiB units */
    REG_MEMORY_ABOVE_4G = 0x5b,  /* 3 bytes, 64 KiB units */
};

#define A_UIP 0x80
#define A_DIVIDER_RESET 0x60 /* both bits: the divider chain is held in reset */
#define A_DIVIDER_32K 0x20
#define A_RATE 0x0f
#define A_RATE_1024HZ 0x06

#define B_SET 0x80
#define B_BINARY 0x04
#define B_24H 0x02

/* The same bits enable an interrupt in register B and report it in register C. */
#define INT_PERIODIC 0x40
#define INT_ALARM 0x20
#define INT_UPDATE 0x10
#define INT_MASK (INT_PERIODIC | INT_ALARM | INT_UPDATE)
#define C_IRQF 0x80

#define D_VRT 0x80 /* the battery is good */

#define HOUR_PM 0x80
#define ALARM_ANY 0xc0 /* both bits: every value matches */

#define SECOND_NS INT64_C(1000000000)
#define END_NS (CALENDAR_END * SECOND_NS)
#define TICKS_PER_SECOND 32768
#define UIP_LEAD_NS 244000 /* "Update Cycle": UIP is set so long before an update */
#define NO_EVENT INT64_MAX

/* The host's clock may be set: do not sleep on a wrong idea of it for longer. */
#define TIMER_MAX_NS (60 * SECOND_NS)

/* What is saved. */
struct rtc_regs {
    uint8_t index;         /* as written to the index port */
    uint8_t a;             /* without UIP */
    uint8_t b;             /* */
    uint8_t flags;         /* register C without IRQF */
    int64_t offset_ns;     /* guest time minus host time */
    uint8_t ram[RAM_SIZE]; /* the time's bytes are in use only while the clock is held */
};

struct mc146818 {
    struct device dev;
    struct irq_line irq;
    struct loop *loop; /* borrowed, or NULL */
    uint64_t (*now_ns)(void *ctx);
    void *now_ctx; /* borrowed */
    int timer_fd;  /* owned, or -1 */
    bool armed;    /* the timer runs */
    struct rtc_regs regs;
    int64_t seen_ns; /* events up to this guest time are in the flags */
};

/* --- Time --- */

static uint64_t realtime_ns(void *ctx)
{
    struct timespec ts;

    (void)ctx;
    (void)clock_gettime(CLOCK_REALTIME, &ts); /* cannot fail with this clock */
    return (uint64_t)ts.tv_sec * SECOND_NS + (uint64_t)ts.tv_nsec;
}

static int64_t clamp_time(int64_t ns)
{
    return ns < 0 ? 0 : ns >= END_NS ? END_NS - 1 : ns;
}

static int64_t host_time(const struct mc146818 *rtc)
{
    uint64_t ns = rtc->now_ns(rtc->now_ctx);

    return clamp_time(ns > INT64_MAX ? INT64_MAX : (int64_t)ns);
}

static int64_t guest_time(const struct mc146818 *rtc)
{
    int64_t ns;

    /* The host's clock may have moved by centuries since the offset was set. */
    if (__builtin_add_overflow(host_time(rtc), rtc->regs.offset_ns, &ns))
        return END_NS - 1; /* upwards: the host's time is not negative */
    return clamp_time(ns);
}

static bool is_divider_reset(const struct rtc_regs *r)
{
    return (r->a & A_DIVIDER_RESET) == A_DIVIDER_RESET;
}

/* The guest holds the clock: no update cycles. */
static bool is_held(const struct rtc_regs *r)
{
    return (r->b & B_SET) || is_divider_reset(r);
}

/* --- The guest's number formats ("Time, Calendar, and Alarm Locations") --- */

static uint8_t encode(const struct rtc_regs *r, int value)
{
    return (uint8_t)(r->b & B_BINARY ? value : (value / 10) << 4 | value % 10);
}

static int decode(const struct rtc_regs *r, uint8_t byte)
{
    return r->b & B_BINARY ? byte : (byte >> 4) * 10 + (byte & 0x0f);
}

/* In 12-hour mode the day starts at 12 AM, and bit 7 means PM. */
static uint8_t encode_hour(const struct rtc_regs *r, int hour)
{
    if (r->b & B_24H)
        return encode(r, hour);
    return encode(r, hour % 12 ? hour % 12 : 12) | (hour >= 12 ? HOUR_PM : 0);
}

static int decode_hour(const struct rtc_regs *r, uint8_t byte)
{
    if (r->b & B_24H)
        return decode(r, byte);
    return decode(r, byte & (uint8_t)~HOUR_PM) % 12 + (byte & HOUR_PM ? 12 : 0);
}

/* --- The time registers --- */

static bool is_time_register(uint8_t reg)
{
    switch (reg) {
    case REG_SECOND:
    case REG_MINUTE:
    case REG_HOUR:
    case REG_WEEKDAY:
    case REG_DAY:
    case REG_MONTH:
    case REG_YEAR:
    case REG_CENTURY:
        return true;
    default:
        return false;
    }
}

/* Writes the current time into the registers. */
static void clock_to_registers(struct mc146818 *rtc)
{
    struct rtc_regs *r = &rtc->regs;
    struct calendar cal = calendar_from_seconds(guest_time(rtc) / SECOND_NS);

    r->ram[REG_SECOND] = encode(r, cal.second);
    r->ram[REG_MINUTE] = encode(r, cal.minute);
    r->ram[REG_HOUR] = encode_hour(r, cal.hour);
    r->ram[REG_WEEKDAY] = encode(r, cal.weekday + 1);
    r->ram[REG_DAY] = encode(r, cal.day);
    r->ram[REG_MONTH] = encode(r, cal.month);
    r->ram[REG_YEAR] = encode(r, cal.year % 100);
    r->ram[REG_CENTURY] = encode(r, cal.year / 100);
}

/* Makes the time in the registers the current one, `fraction_ns` into its second. */
static void registers_to_clock(struct mc146818 *rtc, int64_t fraction_ns)
{
    struct rtc_regs *r = &rtc->regs;
    struct calendar cal = {
        .year = decode(r, r->ram[REG_CENTURY]) * 100 + decode(r, r->ram[REG_YEAR]),
        .month = decode(r, r->ram[REG_MONTH]),
        .day = decode(r, r->ram[REG_DAY]),
        .hour = decode_hour(r, r->ram[REG_HOUR]),
        .minute = decode(r, r->ram[REG_MINUTE]),
        .second = decode(r, r->ram[REG_SECOND]),
    };

    r->offset_ns = calendar_to_seconds(&cal) * SECOND_NS + fraction_ns - host_time(rtc);
    rtc->seen_ns = guest_time(rtc);
}

static void write_time_register(struct mc146818 *rtc, uint8_t reg, uint8_t value)
{
    bool held = is_held(&rtc->regs);

    if (!held)
        clock_to_registers(rtc);
    rtc->regs.ram[reg] = value;
    if (!held)
        registers_to_clock(rtc, guest_time(rtc) % SECOND_NS);
}

/* --- Events --- */

static bool alarm_matches(uint8_t alarm, uint8_t now)
{
    return (alarm & ALARM_ANY) == ALARM_ANY || alarm == now;
}

static bool hour_matches(const struct rtc_regs *r, int hour)
{
    return alarm_matches(r->ram[REG_HOUR_ALARM], encode_hour(r, hour));
}

static bool minute_matches(const struct rtc_regs *r, int minute)
{
    return alarm_matches(r->ram[REG_MINUTE_ALARM], encode(r, minute));
}

static bool second_matches(const struct rtc_regs *r, int second)
{
    return alarm_matches(r->ram[REG_SECOND_ALARM], encode(r, second));
}

/* Whether a minute or second below 60 can ever match. */
static bool is_possible(const struct rtc_regs *r, uint8_t alarm)
{
    int value = decode(r, alarm);

    return alarm_matches(alarm, encode(r, value)) && (value < 60 || alarm >= ALARM_ANY);
}

/* The first second after `after` (both since 1970) at which the alarm goes off; NO_EVENT: never.
 * Whole hours and minutes that do not match are skipped, so a day is searched in a few hundred
 * steps at most. */
static int64_t next_alarm(const struct rtc_regs *r, int64_t after)
{
    int64_t t = after + 1, end = after + 24 * 60 * 60;

    if (!is_possible(r, r->ram[REG_MINUTE_ALARM]) || !is_possible(r, r->ram[REG_SECOND_ALARM]))
        return NO_EVENT;
    while (t <= end) {
        if (!hour_matches(r, (int)(t / 3600 % 24)))
            t += 3600 - t % 3600;
        else if (!minute_matches(r, (int)(t / 60 % 60)))
            t += 60 - t % 60;
        else if (!second_matches(r, (int)(t % 60)))
            t++;
        else
            return t;
    }
    return NO_EVENT;
}

/* Edges of the 32.768 kHz time base since 1970. */
static int64_t ticks_at(int64_t ns)
{
    return ns / SECOND_NS * TICKS_PER_SECOND + ns % SECOND_NS * TICKS_PER_SECOND / SECOND_NS;
}

/* The first nanosecond that belongs to `ticks`. */
static int64_t time_of_tick(int64_t ticks)
{
    int64_t rest = ticks % TICKS_PER_SECOND * SECOND_NS;

    return ticks / TICKS_PER_SECOND * SECOND_NS + (rest + TICKS_PER_SECOND - 1) / TICKS_PER_SECOND;
}

/* Ticks between periodic interrupts, 0: none ("Register A", table 5). */
static int64_t period_ticks(const struct rtc_regs *r)
{
    unsigned rate = r->a & A_RATE;

    if (rate == 0 || is_divider_reset(r))
        return 0;
    return INT64_C(1) << (rate <= 2 ? rate + 6 : rate - 1);
}

/* When the given events come next, after guest time `now`. */

static int64_t next_periodic(const struct rtc_regs *r, int64_t now)
{
    int64_t period = period_ticks(r);

    return period ? time_of_tick((ticks_at(now) / period + 1) * period) : NO_EVENT;
}

static int64_t next_update(const struct rtc_regs *r, int64_t now)
{
    return is_held(r) ? NO_EVENT : (now / SECOND_NS + 1) * SECOND_NS;
}

static int64_t next_alarm_time(const struct rtc_regs *r, int64_t now)
{
    int64_t second = is_held(r) ? NO_EVENT : next_alarm(r, now / SECOND_NS);

    return second == NO_EVENT ? NO_EVENT : second * SECOND_NS;
}

/* Sets the flags of what happened since the last look. */
static void notice_events(struct mc146818 *rtc)
{
    struct rtc_regs *r = &rtc->regs;
    int64_t now = guest_time(rtc), seen = rtc->seen_ns;

    rtc->seen_ns = now; /* which is earlier than `seen` if the host's clock was set back */
    if (next_periodic(r, seen) <= now)
        r->flags |= INT_PERIODIC;
    if (next_update(r, seen) <= now)
        r->flags |= INT_UPDATE;
    if (!(r->flags & INT_ALARM) && next_alarm_time(r, seen) <= now)
        r->flags |= INT_ALARM;
}

/* The next event that is to interrupt. */
static int64_t next_interrupt(const struct rtc_regs *r, int64_t now)
{
    int64_t next = NO_EVENT, t;

    if ((r->b & INT_PERIODIC) && (t = next_periodic(r, now)) < next)
        next = t;
    if ((r->b & INT_UPDATE) && (t = next_update(r, now)) < next)
        next = t;
    if ((r->b & INT_ALARM) && (t = next_alarm_time(r, now)) < next)
        next = t;
    return next;
}

/* --- Interrupt --- */

static bool is_interrupting(const struct rtc_regs *r)
{
    return r->flags & r->b & INT_MASK;
}

/* Starts the timer, or stops it with ns = 0. */
static void set_timer(struct mc146818 *rtc, int64_t ns)
{
    struct itimerspec spec = {
        .it_value = {.tv_sec = ns / SECOND_NS, .tv_nsec = ns % SECOND_NS},
    };

    rtc->armed = ns > 0;
    (void)timerfd_settime(rtc->timer_fd, 0, &spec, NULL); /* fails for bad arguments only */
}

/* Runs the timer while it is needed: an interrupt is enabled, and none is pending. */
static void update_timer(struct mc146818 *rtc)
{
    if (rtc->timer_fd < 0)
        return;
    int64_t next = NO_EVENT;
    if (!is_interrupting(&rtc->regs))
        next = next_interrupt(&rtc->regs, rtc->seen_ns);
    if (next != NO_EVENT) {
        int64_t ns = next - rtc->seen_ns;
        set_timer(rtc, ns < TIMER_MAX_NS ? ns : TIMER_MAX_NS);
    } else if (rtc->armed) {
        set_timer(rtc, 0);
    }
}

/* Brings line and timer to what the registers say. Call after every change of them. */
static void update_irq(struct mc146818 *rtc)
{
    irq_set(&rtc->irq, is_interrupting(&rtc->regs));
    update_timer(rtc);
}

static void on_timer(void *ctx, uint32_t events)
{
    struct mc146818 *rtc = ctx;
    uint64_t expirations;

    (void)events;
    dev_lock(&rtc->dev);
    (void)!read(rtc->timer_fd, &expirations, sizeof(expirations)); /* EAGAIN: set anew meanwhile */
    notice_events(rtc);
    update_irq(rtc);
    dev_unlock(&rtc->dev);
}

/* --- Registers A to D --- */

/* UIP warns that an update is near: a guest that sees it clear has 244 us to read the time. */
static uint8_t read_a(const struct mc146818 *rtc)
{
    bool near = guest_time(rtc) % SECOND_NS >= SECOND_NS - UIP_LEAD_NS;

    return rtc->regs.a | (near && !is_held(&rtc->regs) ? A_UIP : 0);
}

/* Reading register C clears it, and with it the interrupt. */
static uint8_t read_c(struct mc146818 *rtc)
{
    notice_events(rtc);
    uint8_t value = rtc->regs.flags | (is_interrupting(&rtc->regs) ? C_IRQF : 0);
    rtc->regs.flags = 0;
    update_irq(rtc);
    return value;
}

/*
 * Writes to A and B can take hold of the clock or let go of it. When the divider chain is released
 * the first update comes half a second later ("Register A", DV bits), which Linux relies on when it
 * sets the time; SET alone does not disturb the fraction of the second.
 */
static void write_control(struct mc146818 *rtc, uint8_t a, uint8_t b)
{
    struct rtc_regs *r = &rtc->regs;
    bool was_held = is_held(r), was_reset = is_divider_reset(r);

    r->a = a & (uint8_t)~A_UIP;
    r->b = b & B_SET ? b & (uint8_t)~INT_UPDATE : b; /* "Register B": SET clears UIE */
    if (!was_held && is_held(r))
        clock_to_registers(rtc);
    if (was_held && !is_held(r))
        registers_to_clock(rtc, was_reset ? SECOND_NS / 2 : guest_time(rtc) % SECOND_NS);
}

/* --- The register file --- */

static uint8_t read_register(struct mc146818 *rtc, uint8_t reg)
{
    switch (reg) {
    case REG_A:
        return read_a(rtc);
    case REG_B:
        return rtc->regs.b;
    case REG_C:
        return read_c(rtc);
    case REG_D:
        return D_VRT;
    default:
        if (is_time_register(reg) && !is_held(&rtc->regs))
            clock_to_registers(rtc);
        return rtc->regs.ram[reg];
    }
}

static void write_register(struct mc146818 *rtc, uint8_t reg, uint8_t value)
{
    notice_events(rtc); /* what happened until now, by the rules until now */
    switch (reg) {
    case REG_A:
        write_control(rtc, value, rtc->regs.b);
        break;
    case REG_B:
        write_control(rtc, rtc->regs.a, value);
        break;
    case REG_C:
    case REG_D: /* read-only */
        break;
    default:
        if (is_time_register(reg))
            write_time_register(rtc, reg, value);
        else
            rtc->regs.ram[reg] = value;
        break;
    }
    update_irq(rtc);
}

static uint64_t mc146818_read(struct device *dev, uint64_t offset, unsigned size)
{
    struct mc146818 *rtc = container_of(dev, struct mc146818, dev);

    (void)size;
    switch (offset) {
    case INDEX_OFFSET:
        return rtc->regs.index;
    case DATA_OFFSET:
        return read_register(rtc, rtc->regs.index & INDEX_MASK);
    default:
        return UINT64_MAX;
    }
}

static void mc146818_write(struct device *dev, uint64_t offset, unsigned size, uint64_t value)
{
    struct mc146818 *rtc = container_of(dev, struct mc146818, dev);

    (void)size;
    if (offset == INDEX_OFFSET)
        rtc->regs.index = (uint8_t)value;
    else if (offset == DATA_OFFSET)
        write_register(rtc, rtc->regs.index & INDEX_MASK, (uint8_t)value);
}

/* --- Memory sizes, as firmware leaves them --- */

/* `bytes` above `start`, in `unit`s, at most what `width` bytes hold; little-endian at `reg`. */
static void put_memory_size(struct rtc_regs *r, enum rtc_reg reg, unsigned width, uint64_t bytes,
                            uint64_t start, uint64_t unit)
{
    uint64_t max = (UINT64_C(1) << (8 * width)) - 1;
    uint64_t units = bytes > start ? (bytes - start) / unit : 0;

    if (units > max)
        units = max;
    for (unsigned i = 0; i < width; i++)
        r->ram[reg + i] = (uint8_t)(units >> (8 * i));
}

static void put_memory_sizes(struct rtc_regs *r, uint64_t below_4g, uint64_t above_4g)
{
    uint64_t base = below_4g < 640 * KIB ? below_4g : 640 * KIB;

    put_memory_size(r, REG_BASE_MEMORY, 2, base, 0, KIB);
    put_memory_size(r, REG_EXTENDED_MEMORY, 2, below_4g, MIB, KIB);
    put_memory_size(r, REG_EXTENDED_MEMORY_2, 2, below_4g, MIB, KIB);
    put_memory_size(r, REG_MEMORY_ABOVE_16M, 2, below_4g, 16 * MIB, 64 * KIB);
    put_memory_size(r, REG_MEMORY_ABOVE_4G, 3, above_4g, 0, 64 * KIB);
}

/* --- Life --- */

static void mc146818_save(struct device *dev, struct codec_writer *w)
{
    struct mc146818 *rtc = container_of(dev, struct mc146818, dev);
    const struct rtc_regs *r = &rtc->regs;

    notice_events(rtc);
    codec_put_u8(w, r->index);
    codec_put_u8(w, r->a);
    codec_put_u8(w, r->b);
    codec_put_u8(w, r->flags);
    codec_put_u64(w, (uint64_t)r->offset_ns);
    codec_put_bytes(w, r->ram, sizeof(r->ram));
}

static bool is_valid_state(const struct rtc_regs *r)
{
    return !(r->a & A_UIP) && !(r->flags & ~INT_MASK) && r->offset_ns > -END_NS &&
           r->offset_ns < END_NS;
}

static int mc146818_load(struct device *dev, struct codec_reader *reader)
{
    struct mc146818 *rtc = container_of(dev, struct mc146818, dev);
    struct rtc_regs r;

    r.index = codec_get_u8(reader);
    r.a = codec_get_u8(reader);
    r.b = codec_get_u8(reader);
    r.flags = codec_get_u8(reader);
    r.offset_ns = (int64_t)codec_get_u64(reader);
    codec_get_bytes(reader, r.ram, sizeof(r.ram));
    int err = codec_leave(reader);
    if (err)
        return err;
    if (!is_valid_state(&r))
        return -EINVAL;
    rtc->regs = r;
    rtc->seen_ns = guest_time(rtc);
    update_irq(rtc);
    return 0;
}

static void mc146818_destroy(struct device *dev)
{
    struct mc146818 *rtc = container_of(dev, struct mc146818, dev);

    if (rtc->timer_fd >= 0)
        loop_remove(rtc->loop, rtc->timer_fd);
    fd_close(&rtc->timer_fd);
    dev_fini(&rtc->dev);
    free(rtc);
}

static const struct dev_ops mc146818_ops = {
    .read = mc146818_read,
    .write = mc146818_write,
    .save = mc146818_save,
    .load = mc146818_load,
    .destroy = mc146818_destroy,
    .max_access = 1,
    .version = 1,
};

static int open_timer(struct mc146818 *rtc)
{
    rtc->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    if (rtc->timer_fd < 0)
        return -errno;
    return loop_add(rtc->loop, rtc->timer_fd, EPOLLIN, on_timer, rtc);
}

int mc146818_create(const char *name, const struct mc146818_config *cfg, struct device **dev)
{
    struct mc146818 *rtc = calloc(1, sizeof(*rtc));

    if (!rtc)
        return -ENOMEM;
    dev_init(&rtc->dev, &mc146818_ops, name);
    rtc->irq = cfg->irq;
    rtc->loop = cfg->loop;
    rtc->now_ns = cfg->now_ns ? cfg->now_ns : realtime_ns;
    rtc->now_ctx = cfg->now_ctx;
    rtc->timer_fd = -1;
    rtc->regs.a = A_DIVIDER_32K | A_RATE_1024HZ;
    rtc->regs.b = B_24H;
    put_memory_sizes(&rtc->regs, cfg->mem_below_4g, cfg->mem_above_4g);
    rtc->seen_ns = guest_time(rtc);
    int err = rtc->loop ? open_timer(rtc) : 0;
    if (err) {
        mc146818_destroy(&rtc->dev);
        return err;
    }
    *dev = &rtc->dev;
    return 0;
}
