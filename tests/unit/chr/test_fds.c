#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <termios.h>
#include <unistd.h>

#include "hv/base/fd.h"
#include "hv/base/loop.h"
#include "hv/chr/stream.h"
#include "support/fake_front.h"
#include "support/tmp.h"

#define BIG (4 * CHR_OUTPUT_MAX)

static struct loop *loop;
static struct chr *chr;
static struct fake_front front;
static int in[2], out[2]; /* pipes: the back end has in[0] and out[1] */
static unsigned fds_before;
static char text[8192];
static char escapes[16]; /* the characters that came after Ctrl-A */
static uint8_t big[BIG];

static void on_escape(void *ctx, char c)
{
    cr_assert_eq(ctx, &front);
    escapes[strlen(escapes)] = c;
}

static void setup(void)
{
    signal(SIGPIPE, SIG_IGN);
    fds_before = count_open_fds();
    cr_assert_eq(loop_create(&loop), 0);
    cr_assert_eq(pipe2(in, O_CLOEXEC), 0);
    cr_assert_eq(pipe2(out, O_CLOEXEC), 0);
    for (size_t i = 0; i < BIG; i++)
        big[i] = (uint8_t)(i * 7 + i / 256);
}

static void teardown(void)
{
    chr_destroy(chr);
    loop_destroy(loop);
    for (int i = 0; i < 2; i++) {
        fd_close(&in[i]);
        fd_close(&out[i]);
    }
    cr_assert_eq(count_open_fds(), fds_before);
}

TestSuite(chr_fds, .init = setup, .fini = teardown);

static void create(int in_fd, int out_fd)
{
    cr_assert_eq(chr_fds_create(loop, in_fd, out_fd, on_escape, &front, &chr), 0);
}

static void type(const char *s)
{
    cr_assert_eq(fd_write_full(in[1], s, strlen(s)), 0);
}

/* What has reached the other side by now. */
static size_t read_now(int fd, void *buf, size_t size)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};

    if (poll(&p, 1, 0) <= 0)
        return 0;
    ssize_t n = read(fd, buf, size);
    return n > 0 ? (size_t)n : 0;
}

Test(chr_fds, output_is_there_at_once)
{
    create(in[0], out[1]);
    chr_write(chr, "hello", 5);
    cr_assert_eq(read_now(out[0], text, sizeof(text)), 5);
    cr_assert_arr_eq(text, "hello", 5);
}

Test(chr_fds, leaves_the_flags_of_inherited_descriptors_alone)
{
    int before = fcntl(out[1], F_GETFL);

    create(in[0], out[1]);
    chr_write(chr, "x", 1);
    cr_assert_eq(fcntl(out[1], F_GETFL), before);
    cr_assert_eq(fcntl(in[0], F_GETFL) & O_NONBLOCK, 0);
}

Test(chr_fds, input_arrives_as_far_as_there_is_room)
{
    create(in[0], out[1]);
    fake_front_attach(&front, chr, 3);
    type("hello");
    fake_front_wait(&front, loop, 3);
    loop_settle(loop);
    cr_assert_str_eq(front.text, "hel");
    front.room = 10;
    chr_resume(chr);
    fake_front_wait(&front, loop, 5);
    cr_assert_str_eq(front.text, "hello");
}

Test(chr_fds, nothing_is_read_while_no_device_is_attached)
{
    create(in[0], out[1]);
    type("early");
    loop_settle(loop);
    cr_assert_eq(read_now(in[0], text, sizeof(text)), 5);
}

Test(chr_fds, a_guest_that_does_not_read_leaves_input_with_the_system)
{
    memset(text, 'x', sizeof(text));
    create(in[0], out[1]);
    fake_front_attach(&front, chr, 1);
    cr_assert_eq(fd_write_full(in[1], text, sizeof(text)), 0);
    loop_settle(loop);
    cr_assert_eq(front.len, 1);
    size_t left = read_now(in[0], text, sizeof(text));
    cr_assert_geq(left, sizeof(text) - CHR_AHEAD_MAX - 1);
}

Test(chr_fds, no_input_is_lost_by_flow_control)
{
    create(in[0], out[1]);
    fake_front_attach(&front, chr, 0);
    for (size_t i = 0; i < 4000; i++)
        text[i] = (char)(2 + i % 100); /* no Ctrl-A */
    cr_assert_eq(fd_write_full(in[1], text, 4000), 0);
    while (front.len < 4000) {
        front.room = 16;
        chr_resume(chr);
        fake_front_wait(&front, loop, front.len + 16);
    }
    cr_assert_arr_eq(front.text, text, 4000);
}

Test(chr_fds, end_of_input_does_not_spin)
{
    create(in[0], out[1]);
    fake_front_attach(&front, chr, 16);
    type("bye");
    fd_close(&in[1]);
    fake_front_wait(&front, loop, 3);
    loop_settle(loop);
    uint64_t start = now_ns();
    cr_assert_eq(loop_run_once(loop, 50), 0);
    cr_assert_geq(now_ns() - start, 40000000, "the loop found something to do");
    cr_assert_str_eq(front.text, "bye");
}

Test(chr_fds, a_hang_up_does_not_spin_while_input_is_not_wanted)
{
    memset(text, 'x', sizeof(text));
    create(in[0], out[1]);
    fake_front_attach(&front, chr, 0);
    cr_assert_eq(fd_write_full(in[1], text, 4000), 0);
    fd_close(&in[1]);
    loop_settle(loop);
    uint64_t start = now_ns();
    cr_assert_eq(loop_run_once(loop, 50), 0);
    cr_assert_geq(now_ns() - start, 40000000, "the loop found something to do");
    while (front.len < 4000) {
        front.room = 400;
        chr_resume(chr);
        fake_front_wait(&front, loop, front.len + 400);
    }
}

Test(chr_fds, reads_dev_null)
{
    int null = open("/dev/null", O_RDONLY | O_CLOEXEC);

    create(null, out[1]);
    fake_front_attach(&front, chr, 16);
    loop_settle(loop);
    cr_assert_eq(front.len, 0);
    uint64_t start = now_ns();
    cr_assert_eq(loop_run_once(loop, 50), 0);
    cr_assert_geq(now_ns() - start, 40000000, "the loop found something to do");
    chr_destroy(chr);
    chr = NULL;
    fd_close(&null);
}

Test(chr_fds, reads_a_regular_file_at_the_guests_pace)
{
    char name[] = "/tmp/hv-test-XXXXXX";
    int fd = mkostemp(name, O_CLOEXEC);

    cr_assert_geq(fd, 0);
    (void)unlink(name);
    for (size_t i = 0; i < 3000; i++)
        text[i] = (char)(2 + i % 100);
    cr_assert_eq(fd_write_full(fd, text, 3000), 0);
    cr_assert_eq(lseek(fd, 0, SEEK_SET), 0);
    create(fd, out[1]);
    fake_front_attach(&front, chr, 16);
    while (front.len < 3000) {
        fake_front_wait(&front, loop, front.len + (front.room < 8 ? front.room : 8));
        front.room += 8;
        chr_resume(chr);
    }
    cr_assert_arr_eq(front.text, text, 3000);
    chr_destroy(chr);
    chr = NULL;
    fd_close(&fd);
}

Test(chr_fds, works_without_input)
{
    create(-1, out[1]);
    fake_front_attach(&front, chr, 16);
    loop_settle(loop);
    chr_write(chr, "x", 1);
    cr_assert_eq(read_now(out[0], text, sizeof(text)), 1);
}

Test(chr_fds, ctrl_a_escapes)
{
    create(in[0], out[1]);
    fake_front_attach(&front, chr, 64);
    type("a\001xb\001\001c\001ad\001h");
    fake_front_wait(&front, loop, 6);
    loop_settle(loop);
    cr_assert_str_eq(front.text, "ab\001c\001d");
    cr_assert_str_eq(escapes, "xh");
}

Test(chr_fds, an_escape_may_be_split_between_reads)
{
    create(in[0], out[1]);
    fake_front_attach(&front, chr, 64);
    type("a\001");
    fake_front_wait(&front, loop, 1);
    type("x");
    loop_settle(loop);
    cr_assert_str_eq(escapes, "x");
    cr_assert_str_eq(front.text, "a");
}

Test(chr_fds, without_escapes_ctrl_a_is_a_character)
{
    cr_assert_eq(chr_fds_create(loop, in[0], out[1], NULL, NULL, &chr), 0);
    fake_front_attach(&front, chr, 64);
    type("\001x");
    fake_front_wait(&front, loop, 2);
    cr_assert_str_eq(front.text, "\001x");
}

Test(chr_fds, escapes_work_from_a_terminal_while_the_guest_is_deaf)
{
    int master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
    cr_assert(master >= 0 && grantpt(master) == 0 && unlockpt(master) == 0);
    int slave = open(ptsname(master), O_RDWR | O_NOCTTY | O_CLOEXEC);
    struct termios t;
    cr_assert_eq(tcgetattr(slave, &t), 0);
    cfmakeraw(&t);
    cr_assert_eq(tcsetattr(slave, TCSANOW, &t), 0);

    create(slave, out[1]);
    fake_front_attach(&front, chr, 0);
    memset(text, 'x', 3000);
    for (int i = 0; i < 3; i++) {
        cr_assert_eq(fd_write_full(master, text, 1000), 0);
        loop_settle(loop);
    }
    cr_assert_eq(fd_write_full(master, "\001x", 2), 0);
    for (int i = 0; i < 100 && !escapes[0]; i++)
        cr_assert_eq(loop_run_once(loop, 100), 0);
    cr_assert_str_eq(escapes, "x");
    chr_destroy(chr);
    chr = NULL;
    fd_close(&slave);
    fd_close(&master);
}

/* Reads `len` bytes and checks them against `big`, starting after a moment. */
static void *slow_reader(void *arg)
{
    size_t len = *(size_t *)arg, done = 0;
    uint8_t *got = malloc(len);

    while (done < len) {
        struct pollfd p = {.fd = out[0], .events = POLLIN};
        ssize_t n = poll(&p, 1, 5000) > 0 ? read(out[0], got + done, len - done) : 0;
        if (n <= 0)
            break;
        done += (size_t)n;
    }
    bool same = done == len && memcmp(got, big, len) == 0;
    free(got);
    return same ? arg : NULL;
}

static void write_all_with_reader(void)
{
    pthread_t thread;
    size_t len = BIG;
    void *result = NULL;

    cr_assert_eq(pthread_create(&thread, NULL, slow_reader, &len), 0);
    for (size_t i = 0; i < BIG; i += 4096)
        chr_write(chr, big + i, 4096);
    chr_flush(chr);
    cr_assert_eq(pthread_join(thread, &result), 0);
    cr_assert_not_null(result, "output was lost or mixed up");
    cr_assert_eq(chr->dropped, 0);
}

Test(chr_fds, a_slow_reader_loses_nothing)
{
    create(in[0], out[1]);
    write_all_with_reader();
}

Test(chr_fds, a_slow_reader_of_a_socket_loses_nothing)
{
    fd_close(&out[0]);
    fd_close(&out[1]);
    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, out), 0);
    create(in[0], out[1]);
    write_all_with_reader();
}

Test(chr_fds, the_loop_flushes_what_waited)
{
    create(in[0], out[1]);
    (void)fcntl(out[1], F_SETPIPE_SZ, 4096);
    chr_write(chr, big, 20000);
    size_t done = 0;
    for (int i = 0; i < 200 && done < 20000; i++) {
        done += read_now(out[0], text, sizeof(text));
        cr_assert_eq(loop_run_once(loop, done < 20000 ? 100 : 0), 0);
    }
    cr_assert_eq(done, 20000);
    loop_settle(loop);
    uint64_t start = now_ns();
    cr_assert_eq(loop_run_once(loop, 50), 0);
    cr_assert_geq(now_ns() - start, 40000000, "the loop still watches for room");
}

Test(chr_fds, a_dead_reader_costs_one_stall_and_then_nothing)
{
    create(in[0], out[1]);
    (void)fcntl(out[1], F_SETPIPE_SZ, 4096);
    uint64_t start = now_ns();
    for (size_t i = 0; i < BIG; i += 4096)
        chr_write(chr, big + i, 4096);
    uint64_t ms = (now_ns() - start) / 1000000;
    cr_assert_geq(ms, CHR_STALL_MS - 50);
    cr_assert_lt(ms, 2 * CHR_STALL_MS);
    cr_assert_eq(chr->dropped, BIG - CHR_OUTPUT_MAX - 4096);
    cr_assert_eq(chr_error(chr), 0);
    /* It comes back to life: what is read makes room for new output. */
    while (read_now(out[0], text, sizeof(text)) > 0)
        chr_flush(chr);
    uint64_t dropped = chr->dropped;
    chr_write(chr, "alive", 5);
    cr_assert_eq(read_now(out[0], text, sizeof(text)), 5);
    cr_assert_eq(chr->dropped, dropped);
}

Test(chr_fds, a_closed_reader_is_an_error_that_is_remembered)
{
    create(in[0], out[1]);
    fd_close(&out[0]);
    chr_write(chr, "abc", 3);
    cr_assert_eq(chr_error(chr), -EPIPE);
    cr_assert_eq(chr->dropped, 3);
    chr_write(chr, "d", 1);
    cr_assert_eq(chr->dropped, 4);
}

Test(chr_fds, a_reader_that_leaves_with_output_waiting_is_seen_by_the_loop)
{
    create(in[0], out[1]);
    (void)fcntl(out[1], F_SETPIPE_SZ, 4096);
    chr_write(chr, big, 20000);
    fd_close(&out[0]);
    loop_settle(loop);
    cr_assert_eq(chr_error(chr), -EPIPE);
    cr_assert_eq(chr->dropped, 20000 - 4096);
}

Test(chr_fds, a_full_device_is_an_error)
{
    int full = open("/dev/full", O_WRONLY | O_CLOEXEC);

    create(in[0], full);
    chr_write(chr, "abc", 3);
    cr_assert_eq(chr_error(chr), -ENOSPC);
    chr_destroy(chr);
    chr = NULL;
    fd_close(&full);
}

Test(chr_fds, destroy_flushes)
{
    create(in[0], out[1]);
    (void)fcntl(out[1], F_SETPIPE_SZ, 4096);
    chr_write(chr, big, 8000);
    cr_assert_eq(read_now(out[0], text, sizeof(text)), 4096);
    chr_destroy(chr);
    chr = NULL;
    cr_assert_eq(read_now(out[0], text, sizeof(text)), 8000 - 4096);
}

Test(chr_fds, refuses_a_bad_descriptor)
{
    struct chr *untouched = (struct chr *)&front;
    struct chr *result = untouched;

    fd_close(&in[1]);
    cr_assert_eq(chr_fds_create(loop, in[0] + 1000, out[1], NULL, NULL, &result), -EBADF);
    cr_assert_eq(result, untouched);
}
