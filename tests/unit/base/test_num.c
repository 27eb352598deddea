#include <criterion/criterion.h>
#include <errno.h>

#include "hv/base/num.h"

#define POISON 0xa5a5a5a5a5a5a5a5ULL

Test(num, range_fits_up_to_the_limit)
{
    cr_assert(range_fits(0, 16, 16));
    cr_assert(range_fits(15, 1, 16));
    cr_assert(range_fits(16, 0, 16));
    cr_assert(range_fits(0, UINT64_MAX, UINT64_MAX));
    cr_assert_not(range_fits(0, 17, 16));
    cr_assert_not(range_fits(16, 1, 16));
    cr_assert_not(range_fits(17, 0, 16));
}

Test(num, range_fits_does_not_wrap)
{
    cr_assert_not(range_fits(8, UINT64_MAX - 7, 16));
    cr_assert_not(range_fits(UINT64_MAX, 2, 16));
    cr_assert_not(range_fits(UINT64_MAX, UINT64_MAX, UINT64_MAX));
}

Test(num, knows_powers_of_two)
{
    cr_assert_not(is_power_of_two(0));
    cr_assert(is_power_of_two(1));
    cr_assert_not(is_power_of_two(3));
    cr_assert(is_power_of_two(1ULL << 63));
    cr_assert_not(is_power_of_two(UINT64_MAX));
}

Test(num, aligns_down_and_up)
{
    uint64_t n = POISON;

    cr_assert_eq(align_down(0x1fff, 0x1000), 0x1000);
    cr_assert_eq(align_down(0x1000, 0x1000), 0x1000);
    cr_assert_eq(align_up(0, 0x1000, &n), 0);
    cr_assert_eq(n, 0);
    cr_assert_eq(align_up(0x1001, 0x1000, &n), 0);
    cr_assert_eq(n, 0x2000);
    cr_assert_eq(align_up(0x2000, 0x1000, &n), 0);
    cr_assert_eq(n, 0x2000);
    cr_assert_eq(align_up(7, 1, &n), 0);
    cr_assert_eq(n, 7);
}

Test(num, align_up_reports_what_does_not_fit)
{
    uint64_t n = POISON;

    cr_assert_eq(align_up(UINT64_MAX - 0xfff, 0x1000, &n), 0);
    cr_assert_eq(n, UINT64_MAX - 0xfff);
    n = POISON;
    cr_assert_eq(align_up(UINT64_MAX - 0xffe, 0x1000, &n), -EOVERFLOW);
    cr_assert_eq(align_up(UINT64_MAX, 2, &n), -EOVERFLOW);
    cr_assert_eq(n, POISON);
}

/* --- numbers --- */

static void assert_number(const char *text, uint64_t want)
{
    uint64_t n = POISON;

    cr_assert_eq(parse_u64(text, UINT64_MAX, &n), 0, "'%s'", text);
    cr_assert_eq(n, want, "'%s' gave %llu", text, (unsigned long long)n);
}

static void assert_no_number(const char *text, uint64_t max, int want)
{
    uint64_t n = POISON;

    cr_assert_eq(parse_u64(text, max, &n), want, "'%s'", text);
    cr_assert_eq(n, POISON, "'%s' changed the result", text);
}

Test(num, parses_decimal_and_hexadecimal)
{
    assert_number("0", 0);
    assert_number("42", 42);
    assert_number("010", 10);
    assert_number("0x10", 16);
    assert_number("0XfF", 255);
    assert_number("18446744073709551615", UINT64_MAX);
    assert_number("0xffffffffffffffff", UINT64_MAX);
}

Test(num, rejects_what_is_not_a_whole_number)
{
    static const char *const bad[] = {"",   " ",  "x",   "0x",  "0xg",    "-1",  "+1",  " 1",
                                      "1 ", "1x", "1.0", "0b1", "0x0x10", "0x ", "0x-1"};

    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        assert_no_number(bad[i], UINT64_MAX, -EINVAL);
}

Test(num, reports_numbers_out_of_range)
{
    assert_no_number("18446744073709551616", UINT64_MAX, -ERANGE);
    assert_no_number("0x10000000000000000", UINT64_MAX, -ERANGE);
    assert_no_number("65", 64, -ERANGE);
    assert_number("64", 64);
}

/* --- sizes --- */

static void assert_size(const char *text, uint64_t unit, uint64_t want)
{
    uint64_t n = POISON;

    cr_assert_eq(parse_size(text, unit, &n), 0, "'%s'", text);
    cr_assert_eq(n, want, "'%s' gave %llu", text, (unsigned long long)n);
}

static void assert_no_size(const char *text, int want)
{
    uint64_t n = POISON;

    cr_assert_eq(parse_size(text, MIB, &n), want, "'%s'", text);
    cr_assert_eq(n, POISON, "'%s' changed the result", text);
}

Test(num, a_size_without_a_suffix_is_in_the_callers_unit)
{
    assert_size("512", MIB, 512 * MIB);
    assert_size("512", 1, 512);
    assert_size("0x10", KIB, 16 * KIB);
}

Test(num, a_suffix_names_the_unit)
{
    assert_size("3B", MIB, 3);
    assert_size("3k", MIB, 3 * KIB);
    assert_size("3K", MIB, 3 * KIB);
    assert_size("3KB", MIB, 3 * KIB);
    assert_size("3KiB", MIB, 3 * KIB);
    assert_size("3m", MIB, 3 * MIB);
    assert_size("3GiB", MIB, 3 * GIB);
    assert_size("3T", MIB, 3 * KIB * GIB);
    assert_size("0G", MIB, 0);
}

Test(num, rejects_what_is_not_a_size)
{
    static const char *const bad[] = {"",   "M",   "-1M", "1 M",  "1MM", "1Mi",
                                      "1i", "1iB", "1P",  "1.5G", "1M ", "1BB"};

    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        assert_no_size(bad[i], -EINVAL);
}

Test(num, reports_sizes_that_do_not_fit)
{
    assert_size("16777215T", MIB, 16777215ULL << 40);
    assert_no_size("16777216T", -ERANGE);
    assert_no_size("18446744073709551615", -ERANGE);
    assert_no_size("18446744073709551616B", -ERANGE);
}

Test(num, formats_the_shortest_exact_size)
{
    static const struct {
        uint64_t bytes;
        const char *text;
    } cases[] = {
        {0, "0"},
        {1000, "1000"},
        {1024, "1K"},
        {1025, "1025"},
        {640 * KIB, "640K"},
        {512 * MIB, "512M"},
        {GIB, "1G"},
        {1536 * MIB, "1536M"},
        {1ULL << 40, "1T"},
        {1ULL << 60, "1048576T"},
        {UINT64_MAX, "18446744073709551615"},
    };

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        char buf[SIZE_TEXT_MAX];
        uint64_t back = POISON;
        cr_assert_str_eq(format_size(cases[i].bytes, buf), cases[i].text);
        cr_assert_eq(parse_size(buf, 1, &back), 0);
        cr_assert_eq(back, cases[i].bytes, "'%s' does not parse back", buf);
    }
}
