/*
 * What mc146818.c (the device) and mc146818_time.c (what its registers say about time) share. Times
 * are nanoseconds since 1970, as the guest's clock shows them.
 */
#ifndef DEVICES_MC146818_PRIV_H
#define DEVICES_MC146818_PRIV_H

#include <stdbool.h>
#include <stdint.h>

#include "devices/calendar_priv.h"

#define RAM_SIZE 128

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

/* What is saved. */
struct rtc_regs {
    uint8_t index;         /* as written to the index port */
    uint8_t a;             /* without UIP */
    uint8_t b;             /* */
    uint8_t flags;         /* register C without IRQF */
    int64_t offset_ns;     /* guest time minus host time */
    uint8_t ram[RAM_SIZE]; /* the time's bytes are in use only while the clock is held */
};

/* --- mc146818_time.c --- */

/* The divider chain is held in reset; the guest holds the clock in this way or another, so that
 * there are no update cycles. */
bool rtc_is_divider_reset(const struct rtc_regs *r);
bool rtc_is_held(const struct rtc_regs *r);

/* A number, and an hour of the day, as the guest chose to have them written. */
uint8_t rtc_encode(const struct rtc_regs *r, int value);
int rtc_decode(const struct rtc_regs *r, uint8_t byte);
uint8_t rtc_encode_hour(const struct rtc_regs *r, int hour);
int rtc_decode_hour(const struct rtc_regs *r, uint8_t byte);

/* When these events come next, after guest time `now`; NO_EVENT: never. The last: the first of
 * those that are to interrupt. */
int64_t rtc_next_periodic(const struct rtc_regs *r, int64_t now);
int64_t rtc_next_update(const struct rtc_regs *r, int64_t now);
int64_t rtc_next_alarm(const struct rtc_regs *r, int64_t now);
int64_t rtc_next_interrupt(const struct rtc_regs *r, int64_t now);

#endif
