#include <criterion/criterion.h>

#include "hv/chr/chr.h"
#include "support/fake_front.h"

static struct chr *chr;

static void setup(void)
{
    cr_assert_eq(chr_mem_create(8, &chr), 0);
}

static void teardown(void)
{
    chr_destroy(chr);
}

TestSuite(chr_mem, .init = setup, .fini = teardown);

Test(chr_mem, keeps_what_was_written)
{
    size_t len = 99;

    cr_assert_str_eq(chr_mem_output(chr, &len), "");
    cr_assert_eq(len, 0);
    chr_write(chr, "ab", 2);
    chr_write(chr, "c", 1);
    cr_assert_str_eq(chr_mem_output(chr, &len), "abc");
    cr_assert_eq(len, 3);
    cr_assert_eq(chr->dropped, 0);
}

Test(chr_mem, drops_and_counts_what_is_too_much)
{
    chr_write(chr, "0123456", 7);
    chr_write(chr, "789", 3);
    cr_assert_str_eq(chr_mem_output(chr, NULL), "01234567");
    cr_assert_eq(chr->dropped, 2);
    cr_assert_eq(chr_error(chr), 0);
}

Test(chr_mem, typing_stops_when_the_device_is_full)
{
    struct fake_front front;

    cr_assert_eq(chr_mem_type(chr, "x", 1), 0, "nothing is attached");
    fake_front_attach(&front, chr, 3);
    cr_assert_eq(chr_mem_type(chr, "hello", 5), 3);
    cr_assert_str_eq(front.text, "hel");
    front.room = 2;
    cr_assert_eq(chr_mem_type(chr, "lo", 2), 2);
    cr_assert_str_eq(front.text, "hello");
    chr_attach(chr, NULL);
    cr_assert_eq(chr_mem_type(chr, "x", 1), 0);
}

Test(chr_null, swallows_everything)
{
    struct fake_front front;
    struct chr *null = NULL;

    cr_assert_eq(chr_null_create(&null), 0);
    fake_front_attach(&front, null, 16);
    chr_resume(null);
    chr_write(null, "gone", 4);
    chr_flush(null);
    cr_assert_eq(null->dropped, 0);
    cr_assert_eq(front.len, 0);
    chr_destroy(null);
    chr_destroy(NULL);
}
