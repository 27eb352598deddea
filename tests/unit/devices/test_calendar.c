#include <criterion/criterion.h>
#include <time.h>

#include "devices/calendar_priv.h"

static void check(int64_t seconds)
{
    struct calendar cal = calendar_from_seconds(seconds);
    time_t t = (time_t)seconds;
    struct tm tm;

    cr_assert_not_null(gmtime_r(&t, &tm));
    cr_assert_eq(cal.year, tm.tm_year + 1900);
    cr_assert_eq(cal.month, tm.tm_mon + 1);
    cr_assert_eq(cal.day, tm.tm_mday);
    cr_assert_eq(cal.weekday, tm.tm_wday);
    cr_assert_eq(cal.hour, tm.tm_hour);
    cr_assert_eq(cal.minute, tm.tm_min);
    cr_assert_eq(cal.second, tm.tm_sec);
    cr_assert_eq(calendar_to_seconds(&cal), seconds);
}

Test(calendar, agrees_with_the_c_library)
{
    for (int64_t t = 0; t < CALENDAR_END; t += 86400 * 3 + 12345)
        check(t);
    check(0);
    check(951782399); /* the last second of 28 February 2000 */
    check(951782400);
    check(CALENDAR_END - 1);
}

Test(calendar, takes_impossible_dates_for_the_nearest_possible)
{
    struct calendar late = {
        .year = 9999, .month = 99, .day = 99, .hour = 99, .minute = 99, .second = 99};
    struct calendar early = {
        .year = -1, .month = 0, .day = 0, .hour = -1, .minute = -1, .second = -1};
    struct calendar february = {.year = 2023, .month = 2, .day = 31};
    struct calendar last = {.year = 2023, .month = 2, .day = 28};

    cr_assert_eq(calendar_to_seconds(&late), CALENDAR_END - 1);
    cr_assert_eq(calendar_to_seconds(&early), 0);
    cr_assert_eq(calendar_to_seconds(&february), calendar_to_seconds(&last));
}
