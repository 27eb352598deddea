/*
 * What the registers of the MC146818 say about time: how numbers are written there, and when the
 * next event comes. Nothing here changes anything, or knows what time it is.
 */
#include "devices/mc146818_priv.h"

bool rtc_is_divider_reset(const struct rtc_regs *r)
{
    return (r->a & A_DIVIDER_RESET) == A_DIVIDER_RESET;
}

bool rtc_is_held(const struct rtc_regs *r)
{
    return (r->b & B_SET) || rtc_is_divider_reset(r);
}

/* --- The guest's number formats ("Time, Calendar, and Alarm Locations") --- */

uint8_t rtc_encode(const struct rtc_regs *r, int value)
{
    return (uint8_t)(r->b & B_BINARY ? value : (value / 10) << 4 | value % 10);
}

int rtc_decode(const struct rtc_regs *r, uint8_t byte)
{
    return r->b & B_BINARY ? byte : (byte >> 4) * 10 + (byte & 0x0f);
}

/* In 12-hour mode the day starts at 12 AM, and bit 7 means PM. */
uint8_t rtc_encode_hour(const struct rtc_regs *r, int hour)
{
    if (r->b & B_24H)
        return rtc_encode(r, hour);
    return rtc_encode(r, hour % 12 ? hour % 12 : 12) | (hour >= 12 ? HOUR_PM : 0);
}

int rtc_decode_hour(const struct rtc_regs *r, uint8_t byte)
{
    if (r->b & B_24H)
        return rtc_decode(r, byte);
    return rtc_decode(r, byte & (uint8_t)~HOUR_PM) % 12 + (byte & HOUR_PM ? 12 : 0);
}

/* --- Events --- */

static bool alarm_matches(uint8_t alarm, uint8_t now)
{
    return (alarm & ALARM_ANY) == ALARM_ANY || alarm == now;
}

static bool hour_matches(const struct rtc_regs *r, int hour)
{
    return alarm_matches(r->ram[REG_HOUR_ALARM], rtc_encode_hour(r, hour));
}

static bool minute_matches(const struct rtc_regs *r, int minute)
{
    return alarm_matches(r->ram[REG_MINUTE_ALARM], rtc_encode(r, minute));
}

static bool second_matches(const struct rtc_regs *r, int second)
{
    return alarm_matches(r->ram[REG_SECOND_ALARM], rtc_encode(r, second));
}

/* Whether a minute or second below 60 can ever match. */
static bool is_possible(const struct rtc_regs *r, uint8_t alarm)
{
    int value = rtc_decode(r, alarm);

    return alarm_matches(alarm, rtc_encode(r, value)) && (value < 60 || alarm >= ALARM_ANY);
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

    if (rate == 0 || rtc_is_divider_reset(r))
        return 0;
    return INT64_C(1) << (rate <= 2 ? rate + 6 : rate - 1);
}

int64_t rtc_next_periodic(const struct rtc_regs *r, int64_t now)
{
    int64_t period = period_ticks(r);

    return period ? time_of_tick((ticks_at(now) / period + 1) * period) : NO_EVENT;
}

int64_t rtc_next_update(const struct rtc_regs *r, int64_t now)
{
    return rtc_is_held(r) ? NO_EVENT : (now / SECOND_NS + 1) * SECOND_NS;
}

int64_t rtc_next_alarm(const struct rtc_regs *r, int64_t now)
{
    int64_t second = rtc_is_held(r) ? NO_EVENT : next_alarm(r, now / SECOND_NS);

    return second == NO_EVENT ? NO_EVENT : second * SECOND_NS;
}

int64_t rtc_next_interrupt(const struct rtc_regs *r, int64_t now)
{
    int64_t next = NO_EVENT, t;

    if ((r->b & INT_PERIODIC) && (t = rtc_next_periodic(r, now)) < next)
        next = t;
    if ((r->b & INT_UPDATE) && (t = rtc_next_update(r, now)) < next)
        next = t;
    if ((r->b & INT_ALARM) && (t = rtc_next_alarm(r, now)) < next)
        next = t;
    return next;
}
