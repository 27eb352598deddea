#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "hv/base/fd.h"
#include "support/tmp.h"

static struct tmp_dir tmp;

static void setup(void)
{
    tmp_init(&tmp);
    (void)signal(SIGPIPE, SIG_IGN);
}

static void teardown(void)
{
    tmp_fini(&tmp);
}

TestSuite(fd, .init = setup, .fini = teardown);

static void put_file(const char *path, const void *data, size_t len)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

    cr_assert_geq(fd, 0);
    cr_assert_eq(fd_write_full(fd, data, len), 0);
    fd_close(&fd);
}

/* --- transfers through a pipe, whose far end is a thread --- */

#define BIG (1 << 20) /* more than a pipe holds: transfers are cut into pieces */

static void *write_big(void *arg)
{
    static uint8_t data[BIG];

    for (size_t i = 0; i < sizeof(data); i++)
        data[i] = (uint8_t)(i * 7);
    cr_assert_eq(fd_write_full(*(int *)arg, data, sizeof(data)), 0);
    return NULL;
}

Test(fd, transfers_survive_short_counts)
{
    static uint8_t got[BIG];
    int ends[2];
    pthread_t writer;

    cr_assert_eq(pipe(ends), 0);
    cr_assert_eq(pthread_create(&writer, NULL, write_big, &ends[1]), 0);
    cr_assert_eq(fd_read_full(ends[0], got, sizeof(got)), 0);
    cr_assert_eq(pthread_join(writer, NULL), 0);
    for (size_t i = 0; i < sizeof(got); i++)
        cr_assert_eq(got[i], (uint8_t)(i * 7));
    fd_close(&ends[0]);
    fd_close(&ends[1]);
}

static void ignore_signal(int number)
{
    (void)number;
}

struct interrupted_read {
    int fd;
    int rc;
    char data[4];
};

static void *read_interrupted(void *arg)
{
    struct interrupted_read *r = arg;

    r->rc = fd_read_full(r->fd, r->data, sizeof(r->data));
    return NULL;
}

Test(fd, read_survives_signals)
{
    struct sigaction action = {.sa_handler = ignore_signal}; /* no SA_RESTART: read() sees EINTR */
    struct interrupted_read r = {.rc = 1};
    int ends[2];
    pthread_t reader;

    cr_assert_eq(sigaction(SIGUSR1, &action, NULL), 0);
    cr_assert_eq(pipe(ends), 0);
    r.fd = ends[0];
    cr_assert_eq(pthread_create(&reader, NULL, read_interrupted, &r), 0);
    for (int i = 0; i < 4; i++) {
        cr_assert_eq(pthread_kill(reader, SIGUSR1), 0);
        cr_assert_eq(write(ends[1], &"abcd"[i], 1), 1);
    }
    cr_assert_eq(pthread_join(reader, NULL), 0);
    cr_assert_eq(r.rc, 0);
    cr_assert_arr_eq(r.data, "abcd", 4);
    fd_close(&ends[0]);
    fd_close(&ends[1]);
}

Test(fd, read_reports_an_early_end)
{
    char data[4];
    int ends[2];

    cr_assert_eq(pipe(ends), 0);
    cr_assert_eq(write(ends[1], "abc", 3), 3);
    fd_close(&ends[1]);
    cr_assert_eq(fd_read_full(ends[0], data, 4), -ENODATA);
    fd_close(&ends[0]);
}

Test(fd, nothing_to_transfer_is_no_error)
{
    cr_assert_eq(fd_read_full(-1, NULL, 0), 0);
    cr_assert_eq(fd_write_full(-1, NULL, 0), 0);
}

Test(fd, transfers_report_what_the_kernel_says)
{
    char byte = 'x';
    int ends[2];

    cr_assert_eq(fd_read_full(-1, &byte, 1), -EBADF);
    cr_assert_eq(fd_write_full(-1, &byte, 1), -EBADF);
    cr_assert_eq(pipe(ends), 0);
    cr_assert_eq(fd_set_nonblock(ends[0]), 0);
    cr_assert_eq(fd_read_full(ends[0], &byte, 1), -EAGAIN);
    fd_close(&ends[0]);
    cr_assert_eq(fd_write_full(ends[1], &byte, 1), -EPIPE);
    fd_close(&ends[1]);
    int full = open("/dev/full", O_WRONLY | O_CLOEXEC);
    cr_assert_eq(fd_write_full(full, &byte, 1), -ENOSPC);
    fd_close(&full);
}

Test(fd, nonblock_keeps_the_other_flags)
{
    int fd = open(tmp_path(&tmp, "f"), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0600);

    cr_assert_eq(fd_set_nonblock(fd), 0);
    cr_assert_eq(fcntl(fd, F_GETFL) & (O_APPEND | O_NONBLOCK), O_APPEND | O_NONBLOCK);
    fd_close(&fd);
    cr_assert_eq(fd_set_nonblock(-1), -EBADF);
}

Test(fd, close_forgets_the_number)
{
    unsigned before = count_open_fds();
    int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);

    fd_close(&fd);
    cr_assert_eq(fd, -1);
    fd_close(&fd);
    cr_assert_eq(fd, -1);
    cr_assert_eq(count_open_fds(), before);
}

/* --- whole files --- */

static struct error err;

static const struct file_bytes poison = {.data = (uint8_t *)&err, .size = 4711};

/* Asserts that reading `path` fails so, says why, changes nothing and leaks no descriptor. */
static void assert_unreadable(const char *path, uint64_t max, int want, const char *why)
{
    struct file_bytes file = poison;
    unsigned before = count_open_fds();

    err.text[0] = '\0';
    cr_assert_eq(file_read_all(path, max, &file, &err), want, "%s", err.text);
    cr_assert_eq(strncmp(err.text, path, strlen(path)), 0, "'%s' does not name the file", err.text);
    cr_assert_not_null(strstr(err.text, why), "'%s' lacks '%s'", err.text, why);
    cr_assert_eq(file.data, poison.data);
    cr_assert_eq(file.size, poison.size);
    cr_assert_eq(count_open_fds(), before);
}

Test(fd, reads_a_whole_file)
{
    struct file_bytes file = poison;
    unsigned before = count_open_fds();
    const char *path = tmp_path(&tmp, "f");

    put_file(path, "hello", 5);
    cr_assert_eq(file_read_all(path, 5, &file, &err), 0, "%s", err.text);
    cr_assert_eq(file.size, 5);
    cr_assert_arr_eq(file.data, "hello", 5);
    cr_assert_eq(count_open_fds(), before);
    file_fini(&file);
    cr_assert_null(file.data);
    cr_assert_eq(file.size, 0);
    file_fini(&file);
}

Test(fd, a_missing_file_is_named)
{
    assert_unreadable(tmp_path(&tmp, "none"), 100, -ENOENT, "No such file");
}

Test(fd, a_directory_is_no_file)
{
    assert_unreadable(tmp.path, 100, -EISDIR, "directory");
}

Test(fd, an_empty_file_is_refused)
{
    const char *path = tmp_path(&tmp, "f");

    put_file(path, "", 0);
    assert_unreadable(path, 100, -EINVAL, "empty");
}

Test(fd, a_fifo_without_a_writer_does_not_hang_the_reader)
{
    const char *path = tmp_path(&tmp, "fifo");

    cr_assert_eq(mkfifo(path, 0600), 0);
    assert_unreadable(path, 100, -EINVAL, "not a regular file");
}

Test(fd, a_character_device_is_refused)
{
    assert_unreadable("/dev/zero", 100, -EINVAL, "not a regular file");
}

Test(fd, a_file_above_the_limit_is_refused)
{
    const char *path = tmp_path(&tmp, "f");

    put_file(path, "hello", 5);
    assert_unreadable(path, 4, -EFBIG, "5 bytes");
}

Test(fd, a_file_without_permission_is_refused)
{
    const char *path = tmp_path(&tmp, "f");

    put_file(path, "hello", 5);
    cr_assert_eq(chmod(path, 0), 0);
    if (geteuid() == 0)
        cr_assert_eq(seteuid(65534), 0); /* root may read everything */
    /* The directory itself is closed to others, which gives the same answer. */
    assert_unreadable(path, 100, -EACCES, "Permission denied");
    cr_assert(getuid() != 0 || seteuid(0) == 0);
}

Test(fd, a_file_larger_than_memory_is_refused)
{
    const char *path = tmp_path(&tmp, "f");

    put_file(path, "x", 1);
    if (truncate(path, (off_t)1 << 43) < 0) /* sparse: takes no room */
        cr_skip_test("this file system has no sparse files of 8 TiB");
    int rc = -ENOMEM;
    struct file_bytes file = poison;
    cr_assert_eq(file_read_all(path, UINT64_MAX, &file, &err), rc, "%s", err.text);
    cr_assert_not_null(strstr(err.text, "no memory"));
    cr_assert_eq(file.data, poison.data);
}

Test(fd, the_clock_does_not_go_back)
{
    uint64_t a = now_ns(), b = now_ns();

    cr_assert_gt(a, 0);
    cr_assert_geq(b, a);
}
