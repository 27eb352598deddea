#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "hv/base/err.h"

static struct error err;

static void poison(void)
{
    memset(err.text, 'x', sizeof(err.text) - 1);
    err.text[sizeof(err.text) - 1] = '\0';
}

TestSuite(err, .init = poison);

static void fill(char *text, size_t size, char c)
{
    memset(text, c, size - 1);
    text[size - 1] = '\0';
}

Test(err, set_replaces_the_sentence_and_returns_the_code)
{
    cr_assert_eq(error_set(&err, -ENOEXEC, "segment %d lies at 0x%x", 3, 0x1000), -ENOEXEC);
    cr_assert_str_eq(err.text, "segment 3 lies at 0x1000");
}

Test(err, sys_appends_the_reason)
{
    cr_assert_eq(error_sys(&err, -ENOENT, "%s", "/none"), -ENOENT);
    cr_assert_str_eq(err.text, "/none: No such file or directory");
}

Test(err, prefix_puts_the_noun_first)
{
    (void)error_set(&err, -EINVAL, "truncated header");
    cr_assert_eq(error_prefix(&err, -ENOEXEC, "%s", "vmlinux"), -ENOEXEC);
    cr_assert_str_eq(err.text, "vmlinux: truncated header");
}

Test(err, prefixes_nest_outermost_first)
{
    (void)error_set(&err, -EINVAL, "c");
    (void)error_prefix(&err, -EINVAL, "b");
    (void)error_prefix(&err, -EINVAL, "a");
    cr_assert_str_eq(err.text, "a: b: c");
}

Test(err, nobody_has_to_want_words)
{
    cr_assert_eq(error_set(NULL, -EIO, "%d", 1), -EIO);
    cr_assert_eq(error_sys(NULL, -EIO, "%d", 1), -EIO);
    cr_assert_eq(error_prefix(NULL, -EIO, "%d", 1), -EIO);
}

Test(err, set_cuts_long_text)
{
    char text[2 * ERROR_TEXT_MAX];

    fill(text, sizeof(text), 'a');
    (void)error_set(&err, -EINVAL, "%s", text);
    cr_assert_eq(strlen(err.text), ERROR_TEXT_MAX - 1);
    cr_assert_eq(strspn(err.text, "a"), ERROR_TEXT_MAX - 1);
}

Test(err, sys_cuts_long_text_at_every_length)
{
    char text[ERROR_TEXT_MAX + 8];

    for (size_t len = ERROR_TEXT_MAX - 40; len < sizeof(text); len++) {
        fill(text, len + 1, 'a');
        poison();
        (void)error_sys(&err, -EPERM, "%s", text);
        size_t whole = len + strlen(": Operation not permitted");
        size_t fits = whole < ERROR_TEXT_MAX ? whole : ERROR_TEXT_MAX - 1;
        cr_assert_eq(strlen(err.text), fits, "of %zu", len);
    }
}

Test(err, prefix_cuts_the_end_and_keeps_the_noun)
{
    char text[ERROR_TEXT_MAX];

    fill(text, sizeof(text), 'b');
    for (size_t len = 0; len < ERROR_TEXT_MAX; len++) {
        char noun[ERROR_TEXT_MAX];
        fill(noun, len + 1, 'a');
        (void)error_set(&err, -EINVAL, "%s", text);
        (void)error_prefix(&err, -EINVAL, "%s", noun);
        size_t kept = len < ERROR_TEXT_MAX - 3 ? len : ERROR_TEXT_MAX - 3;
        cr_assert_eq(strlen(err.text), ERROR_TEXT_MAX - 1);
        cr_assert_eq(strspn(err.text, "a"), kept);
        cr_assert_eq(memcmp(err.text + kept, ": ", 2), 0);
        cr_assert_eq(strspn(err.text + kept + 2, "b"), ERROR_TEXT_MAX - 3 - kept);
    }
}
