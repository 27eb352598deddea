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
#include "devices/mc146818_priv.h"
#include "hv/base/fd.h"
#include "hv/base/num.h"

#define INDEX_OFFSET 0
#define DATA_OFFSET 1

#define INDEX_MASK 0x7f /* bit 7 of the index port masks NMI on a PC, which has no effect here */

/* The host's clock may be set: do not sleep on a wrong idea of it for longer. */
#define TIMER_MAX_NS (60 * SECOND_NS)

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

    r->ram[REG_SECOND] = rtc_encode(r, cal.second);
    r->ram[REG_MINUTE] = rtc_encode(r, cal.minute);
    r->ram[REG_HOUR] = rtc_encode_hour(r, cal.hour);
    r->ram[REG_WEEKDAY] = rtc_encode(r, cal.weekday + 1);
    r->ram[REG_DAY] = rtc_encode(r, cal.day);
    r->ram[REG_MONTH] = rtc_encode(r, cal.month);
    r->ram[REG_YEAR] = rtc_encode(r, cal.year % 100);
    r->ram[REG_CENTURY] = rtc_encode(r, cal.year / 100);
}

/* Makes the time in the registers the current one, `fraction_ns` into its second. */
static void registers_to_clock(struct mc146818 *rtc, int64_t fraction_ns)
{
    struct rtc_regs *r = &rtc->regs;
    struct calendar cal = {
        .year = rtc_decode(r, r->ram[REG_CENTURY]) * 100 + rtc_decode(r, r->ram[REG_YEAR]),
        .month = rtc_decode(r, r->ram[REG_MONTH]),
        .day = rtc_decode(r, r->ram[REG_DAY]),
        .hour = rtc_decode_hour(r, r->ram[REG_HOUR]),
        .minute = rtc_decode(r, r->ram[REG_MINUTE]),
        .second = rtc_decode(r, r->ram[REG_SECOND]),
    };

    r->offset_ns = calendar_to_seconds(&cal) * SECOND_NS + fraction_ns - host_time(rtc);
    rtc->seen_ns = guest_time(rtc);
}

static void write_time_register(struct mc146818 *rtc, uint8_t reg, uint8_t value)
{
    bool held = rtc_is_held(&rtc->regs);

    if (!held)
        clock_to_registers(rtc);
    rtc->regs.ram[reg] = value;
    if (!held)
        registers_to_clock(rtc, guest_time(rtc) % SECOND_NS);
}

/* --- Events --- */

/* Sets the flags of what happened since the last look. */
static void notice_events(struct mc146818 *rtc)
{
    struct rtc_regs *r = &rtc->regs;
    int64_t now = guest_time(rtc), seen = rtc->seen_ns;

    rtc->seen_ns = now; /* which is earlier than `seen` if the host's clock was set back */
    if (rtc_next_periodic(r, seen) <= now)
        r->flags |= INT_PERIODIC;
    if (rtc_next_update(r, seen) <= now)
        r->flags |= INT_UPDATE;
    if (!(r->flags & INT_ALARM) && rtc_next_alarm(r, seen) <= now)
        r->flags |= INT_ALARM;
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
        next = rtc_next_interrupt(&rtc->regs, rtc->seen_ns);
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

    return rtc->regs.a | (near && !rtc_is_held(&rtc->regs) ? A_UIP : 0);
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
    bool was_held = rtc_is_held(r), was_reset = rtc_is_divider_reset(r);

    r->a = a & (uint8_t)~A_UIP;
    r->b = b & B_SET ? b & (uint8_t)~INT_UPDATE : b; /* "Register B": SET clears UIE */
    if (!was_held && rtc_is_held(r))
        clock_to_registers(rtc);
    if (was_held && !rtc_is_held(r))
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
        if (is_time_register(reg) && !rtc_is_held(&rtc->regs))
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
