#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "hv/chr/chr.h"
#include "support/tmp.h"

static struct tmp_dir tmp;
static char text[64];

static void setup(void)
{
    tmp_init(&tmp);
}

static void teardown(void)
{
    tmp_fini(&tmp);
}

TestSuite(chr_file, .init = setup, .fini = teardown);

Test(chr_file, writes_at_once_and_truncates)
{
    const char *path = tmp_path(&tmp, "log");
    unsigned fds = count_open_fds();
    struct chr *chr = NULL;

    for (int round = 0; round < 2; round++) {
        cr_assert_eq(chr_file_create(path, 0, &chr, NULL), 0);
        chr_write(chr, "boot", 4);
        chr_write(chr, "ing\n", 4);
        cr_assert_eq(tmp_read(path, text, sizeof(text)), 8);
        cr_assert_str_eq(text, "booting\n");
        chr_destroy(chr);
    }
    cr_assert_eq(count_open_fds(), fds);
}

Test(chr_file, stops_at_its_limit)
{
    const char *path = tmp_path(&tmp, "log");
    struct chr *chr = NULL;

    cr_assert_eq(chr_file_create(path, 6, &chr, NULL), 0);
    chr_write(chr, "1234", 4);
    chr_write(chr, "5678", 4);
    chr_write(chr, "9", 1);
    cr_assert_eq(tmp_read(path, text, sizeof(text)), 6);
    cr_assert_str_eq(text, "123456");
    cr_assert_eq(chr->dropped, 3);
    cr_assert_eq(chr_error(chr), 0);
    chr_destroy(chr);
}

Test(chr_file, remembers_a_full_disk)
{
    struct chr *chr = NULL;

    cr_assert_eq(chr_file_create("/dev/full", 0, &chr, NULL), 0);
    chr_write(chr, "abc", 3);
    cr_assert_eq(chr_error(chr), -ENOSPC);
    chr_write(chr, "d", 1);
    cr_assert_eq(chr->dropped, 4);
    chr_destroy(chr);
}

Test(chr_file, names_what_it_cannot_open)
{
    struct chr *chr = (struct chr *)&tmp;
    struct error err = {0};

    cr_assert_eq(chr_file_create("/nonexistent/log", 0, &chr, &err), -ENOENT);
    cr_assert_eq(chr, (struct chr *)&tmp);
    cr_assert(strstr(err.text, "/nonexistent/log"), "%s", err.text);
    cr_assert_eq(chr_file_create(tmp.path, 0, &chr, &err), -EISDIR);
    cr_assert_eq(chr, (struct chr *)&tmp);
}

Test(chr_file, a_fifo_that_is_full_drops)
{
    const char *path = tmp_path(&tmp, "fifo");
    static char block[4096];
    struct chr *chr = NULL;

    cr_assert_eq(mkfifo(path, 0600), 0);
    cr_assert_eq(chr_file_create(path, 0, &chr, NULL), -ENXIO, "nobody reads");
    int reader = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    cr_assert_geq(reader, 0);
    cr_assert_eq(chr_file_create(path, 0, &chr, NULL), 0);
    for (int i = 0; i < 64; i++)
        chr_write(chr, block, sizeof(block));
    cr_assert_gt(chr->dropped, 0);
    cr_assert_eq(chr_error(chr), 0, "full is not an error");
    chr_destroy(chr);
    (void)close(reader);
}

Test(chr_fd, writes_to_a_borrowed_descriptor)
{
    int pipe_fds[2];
    struct chr *chr;
    char got[8] = {0};

    cr_assert_eq(pipe(pipe_fds), 0);
    cr_assert_eq(chr_fd_create(pipe_fds[1], &chr), 0);
    chr_write(chr, "hello", 5);
    chr_destroy(chr);
    cr_assert_eq(read(pipe_fds[0], got, sizeof(got)), 5);
    cr_assert_str_eq(got, "hello");
    cr_assert_eq(close(pipe_fds[1]), 0, "destroying the back end must leave it open");
    cr_assert_eq(close(pipe_fds[0]), 0);
}
