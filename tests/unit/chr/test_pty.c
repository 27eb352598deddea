#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#include "hv/base/fd.h"
#include "hv/base/loop.h"
#include "hv/chr/stream.h"
#include "support/fake_front.h"
#include "support/tmp.h"

static struct loop *loop;
static struct chr *chr;
static struct fake_front front;
static char path[64];
static unsigned fds_before;

static void setup(void)
{
    fds_before = count_open_fds();
    cr_assert_eq(loop_create(&loop), 0);
    cr_assert_eq(chr_pty_create(loop, path, sizeof(path), &chr), 0);
}

static void teardown(void)
{
    chr_destroy(chr);
    loop_destroy(loop);
    cr_assert_eq(count_open_fds(), fds_before);
}

TestSuite(chr_pty, .init = setup, .fini = teardown);

static int open_reader(void)
{
    int fd = open(path, O_RDWR | O_NOCTTY | O_CLOEXEC);

    cr_assert_geq(fd, 0, "%s", path);
    return fd;
}

static void expect(int fd, const char *text)
{
    char buf[64] = {0};

    cr_assert_eq(fd_read_full(fd, buf, strlen(text)), 0);
    cr_assert_str_eq(buf, text);
}

Test(chr_pty, bytes_pass_both_ways_unchanged)
{
    int fd = open_reader();

    fake_front_attach(&front, chr, 64);
    chr_write(chr, "login:\r\n", 8);
    expect(fd, "login:\r\n");
    cr_assert_eq(fd_write_full(fd, "root\r\003", 6), 0);
    fake_front_wait(&front, loop, 6);
    cr_assert_str_eq(front.text, "root\r\003");
    fd_close(&fd);
}

Test(chr_pty, output_does_not_come_back_as_input)
{
    fake_front_attach(&front, chr, 64);
    chr_write(chr, "echo\n", 5);
    loop_settle(loop);
    cr_assert_eq(front.len, 0);
}

Test(chr_pty, readers_come_and_go)
{
    fake_front_attach(&front, chr, 64);
    chr_write(chr, "early", 5);
    for (int i = 0; i < 3; i++) {
        int fd = open_reader();
        expect(fd, i == 0 ? "early" : "again");
        fd_close(&fd);
        loop_settle(loop);
        uint64_t start = now_ns();
        cr_assert_eq(loop_run_once(loop, 50), 0);
        cr_assert_geq(now_ns() - start, 40000000, "the hang-up keeps the loop busy");
        chr_write(chr, "again", 5);
    }
}

Test(chr_pty, nobody_waits_for_a_reader)
{
    static char block[4096];
    uint64_t start = now_ns();

    for (int i = 0; i < 100; i++)
        chr_write(chr, block, sizeof(block));
    cr_assert_lt(now_ns() - start, UINT64_C(900000000));
    cr_assert_gt(chr->dropped, 0);
    cr_assert_eq(chr_error(chr), 0);
}

Test(chr_pty, refuses_a_short_path_buffer)
{
    char small[4] = "abc";
    struct chr *untouched = chr, *result = chr;

    cr_assert_eq(chr_pty_create(loop, small, sizeof(small), &result), -ERANGE);
    cr_assert_str_eq(small, "abc");
    cr_assert_eq(result, untouched);
}
