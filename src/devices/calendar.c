#include "devices/calendar_priv.h"

#include <stdbool.h>

#define DAY INT64_C(86400)
#define THURSDAY 4 /* the first of January 1970 */

static bool is_leap(int year)
{
    return year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
}

static int days_in_year(int year)
{
    return is_leap(year) ? 366 : 365;
}

static int days_in_month(int year, int month)
{
    static const uint8_t days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};

    return days[month - 1] + (month == 2 && is_leap(year));
}

struct calendar calendar_from_seconds(int64_t seconds)
{
    int days = (int)(seconds / DAY), rest = (int)(seconds % DAY);
    struct calendar cal = {
        .year = CALENDAR_FIRST_YEAR,
        .month = 1,
        .weekday = (days + THURSDAY) % 7,
        .hour = rest / 3600,
        .minute = rest / 60 % 60,
        .second = rest % 60,
    };

    for (; days >= days_in_year(cal.year); cal.year++)
        days -= days_in_year(cal.year);
    for (; days >= days_in_month(cal.year, cal.month); cal.month++)
        days -= days_in_month(cal.year, cal.month);
    cal.day = days + 1;
    return cal;
}

static int clamp(int value, int low, int high)
{
    return value < low ? low : value > high ? high : value;
}

int64_t calendar_to_seconds(const struct calendar *cal)
{
    int year = clamp(cal->year, CALENDAR_FIRST_YEAR, CALENDAR_LAST_YEAR);
    int month = clamp(cal->month, 1, 12);
    int64_t days = clamp(cal->day, 1, days_in_month(year, month)) - 1;

    for (int y = CALENDAR_FIRST_YEAR; y < year; y++)
        days += days_in_year(y);
    for (int m = 1; m < month; m++)
        days += days_in_month(year, m);
    return days * DAY + clamp(cal->hour, 0, 23) * 3600 + clamp(cal->minute, 0, 59) * 60 +
           clamp(cal->second, 0, 59);
}
