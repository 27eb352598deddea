#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "hv/base/fd.h"
#include "hv/virtio/vsock.h"
#include "support/tmp.h"

static struct tmp_dir tmp;
static struct error err;
static char path[100];
static int fd;
static unsigned fds;

static void setup(void)
{
    tmp_init(&tmp);
    (void)snprintf(path, sizeof(path), "%s", tmp_path(&tmp, "v"));
    fd = -77;
    err.text[0] = '\0';
    fds = count_open_fds();
}

static void teardown(void)
{
    tmp_fini(&tmp);
}

TestSuite(vsock_listen, .init = setup, .fini = teardown, .timeout = 60);

/* It fails so, says this, and leaves nothing open. */
static void assert_refused(const char *at, int code, const char *text)
{
    cr_assert_eq(virtio_vsock_listen(at, &fd, &err), code);
    cr_assert_eq(fd, -77);
    cr_assert_not_null(strstr(err.text, text), "%s", err.text);
    cr_assert_eq(count_open_fds(), fds);
}

/* A socket in the file system that nobody listens at, or somebody. */
static int make_socket(bool listens)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    int s = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    (void)snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", path);
    cr_assert_eq(bind(s, (struct sockaddr *)&addr, sizeof(addr)), 0);
    if (listens)
        cr_assert_eq(listen(s, 0), 0);
    return s;
}

Test(vsock_listen, only_the_user_may_connect)
{
    struct stat st;

    cr_assert_eq(virtio_vsock_listen(path, &fd, &err), 0);
    cr_assert_eq(stat(path, &st), 0);
    cr_assert(S_ISSOCK(st.st_mode));
    cr_assert_eq(st.st_mode & 0777, 0600);
    cr_assert(fcntl(fd, F_GETFL) & O_NONBLOCK);
    cr_assert(fcntl(fd, F_GETFD) & FD_CLOEXEC);
    virtio_vsock_unlisten(path, &fd);
    cr_assert_eq(fd, -1);
    cr_assert_neq(access(path, F_OK), 0);
    cr_assert_eq(count_open_fds(), fds);
}

Test(vsock_listen, a_socket_that_was_left_behind_is_replaced)
{
    int s = make_socket(true);

    fd_close(&s);
    cr_assert_eq(virtio_vsock_listen(path, &fd, &err), 0);
    virtio_vsock_unlisten(path, &fd);
}

Test(vsock_listen, a_socket_that_somebody_listens_at_is_theirs)
{
    int s = make_socket(true);

    fds++;
    assert_refused(path, -EADDRINUSE, "another process listens there");
    cr_assert_eq(access(path, F_OK), 0);
    fd_close(&s);
}

Test(vsock_listen, a_listener_whose_backlog_is_full_is_alive)
{
    int s = make_socket(true), callers[8];
    struct sockaddr_un addr = {.sun_family = AF_UNIX};

    (void)snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", path);
    for (unsigned i = 0; i < 8; i++) {
        callers[i] = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        (void)!connect(callers[i], (struct sockaddr *)&addr, sizeof(addr)); /* until it is full */
    }
    fds += 9;
    assert_refused(path, -EADDRINUSE, "another process listens there");
    for (unsigned i = 0; i < 8; i++)
        fd_close(&callers[i]);
    fd_close(&s);
}

Test(vsock_listen, what_is_no_socket_is_kept)
{
    FILE *file = fopen(path, "w");

    cr_assert_not_null(file);
    cr_assert_eq(fclose(file), 0);
    assert_refused(path, -EEXIST, "something else");
    cr_assert_eq(access(path, F_OK), 0);
    cr_assert_eq(unlink(path), 0);
    cr_assert_eq(symlink("/nowhere", path), 0); /* not followed */
    assert_refused(path, -EEXIST, "something else");
}

Test(vsock_listen, a_path_must_fit_with_a_port_behind_it)
{
    char longest[200];

    (void)snprintf(longest, sizeof(longest), "%s/%0*d", tmp.path, 95 - (int)strlen(tmp.path), 0);
    cr_assert_eq(strlen(longest), 96);
    cr_assert_eq(virtio_vsock_listen(longest, &fd, &err), 0);
    virtio_vsock_unlisten(longest, &fd);
    fd = -77;
    strcat(longest, "1");
    assert_refused(longest, -ENAMETOOLONG, "1 to 96 characters");
    assert_refused("", -ENAMETOOLONG, "1 to 96 characters");
}

Test(vsock_listen, a_directory_that_is_not_there)
{
    assert_refused(tmp_path(&tmp, "no/v"), -ENOENT, "No such file or directory");
    cr_assert_not_null(strstr(err.text, "no/v"));
}

Test(vsock_listen, a_directory_that_cannot_be_written)
{
    if (geteuid() == 0)
        assert_refused("/proc/v", -ENOENT, "/proc/v"); /* root may write to any other */
    cr_assert_eq(chmod(tmp.path, 0500), 0);
    if (geteuid() != 0)
        assert_refused(path, -EACCES, "Permission denied");
    cr_assert_eq(chmod(tmp.path, 0700), 0);
}
