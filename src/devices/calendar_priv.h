/*
 * Dates of the Gregorian calendar in UTC, for clocks.
 *
 * Not gmtime() and timegm(): the C library may read the time zone's file on first use, which a
 * sandboxed monitor must not do. The range is what fits a signed count of nanoseconds.
 */
#ifndef HV_DEVICES_CALENDAR_PRIV_H
#define HV_DEVICES_CALENDAR_PRIV_H

#include <stdint.h>

#define CALENDAR_FIRST_YEAR 1970
#define CALENDAR_LAST_YEAR 2199
#define CALENDAR_END INT64_C(7258118400) /* seconds from 1970 to the start of 2200 */

struct calendar {
    int year;    /* 1970 to 2199 */
    int month;   /* 1 to 12 */
    int day;     /* 1 to 31 */
    int weekday; /* 0 is Sunday */
    int hour, minute, second;
};

/* `seconds` since 1970, 0 to CALENDAR_END - 1. */
struct calendar calendar_from_seconds(int64_t seconds);

/* Takes any numbers: what is out of range counts as the nearest that is not. Ignores `weekday`. */
int64_t calendar_to_seconds(const struct calendar *cal);

#endif
