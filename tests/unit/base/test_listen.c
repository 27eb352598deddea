#include "hv/base/listen.h"

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
#include "support/tmp.h"

static struct tmp_dir tmp;
static struct error err;
static char path[100];
static unsigned fds;

static void setup(void)
{
    tmp_init(&tmp);
    (void)snprintf(path, sizeof(path), "%s", tmp_path(&tmp, "s"));
    err.text[0] = '\0';
    fds = count_open_fds();
}

static void teardown(void)
{
    tmp_fini(&tmp);
}

TestSuite(listen, .init = setup, .fini = teardown, .timeout = 60);

/* It fails so, says this, and leaves nothing open. */
static void assert_refused(const char *at, int code, const char *text)
{
    cr_assert_eq(listen_unix(at, &err), code, "%s", err.text);
    cr_assert_not_null(strstr(err.text, text), "%s", err.text);
    cr_assert_eq(count_open_fds(), fds);
}

static int listens(void)
{
    int fd = listen_unix(path, &err);

    cr_assert_geq(fd, 0, "%s", err.text);
    return fd;
}

static bool is_there(void)
{
    struct stat st;

    return lstat(path, &st) == 0;
}

static struct sockaddr_un address(void)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};

    (void)snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", path);
    return addr;
}

/* A socket of somebody else's at the path. */
static int make_socket(int type)
{
    const struct sockaddr_un addr = address();
    int s = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);

    cr_assert_eq(bind(s, (const struct sockaddr *)&addr, sizeof(addr)), 0);
    if (type == SOCK_STREAM)
        cr_assert_eq(listen(s, 0), 0);
    return s;
}

static int call(void)
{
    const struct sockaddr_un addr = address();
    int s = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    if (connect(s, (const struct sockaddr *)&addr, sizeof(addr)) < 0)
        fd_close(&s);
    return s;
}

Test(listen, only_the_user_may_connect)
{
    struct stat st;
    mode_t old = umask(0);
    int fd = listens();

    (void)umask(old);
    cr_assert_eq(stat(path, &st), 0);
    cr_assert(S_ISSOCK(st.st_mode));
    cr_assert_eq(st.st_mode & 0777, 0600);
    cr_assert(fcntl(fd, F_GETFL) & O_NONBLOCK);
    cr_assert(fcntl(fd, F_GETFD) & FD_CLOEXEC);
    int s = call();
    cr_assert_geq(s, 0);
    fd_close(&s);
    unlisten_unix(path, &fd);
    cr_assert_eq(fd, -1);
    cr_assert_not(is_there());
    cr_assert_eq(count_open_fds(), fds);
}

Test(listen, a_socket_that_was_left_behind_is_replaced)
{
    int s = make_socket(SOCK_STREAM);

    fd_close(&s);
    cr_assert(is_there());
    int fd = listens();
    unlisten_unix(path, &fd);
}

Test(listen, a_socket_that_somebody_listens_at_is_theirs)
{
    int s = make_socket(SOCK_STREAM);

    fds++;
    assert_refused(path, -EADDRINUSE, "another process listens there");
    cr_assert(is_there());
    fd_close(&s);
}

Test(listen, a_listener_whose_backlog_is_full_is_alive)
{
    int s = make_socket(SOCK_STREAM), callers[8];

    for (unsigned i = 0; i < 8; i++)
        callers[i] = call(); /* until it is full */
    cr_assert_lt(callers[7], 0);
    fds = count_open_fds();
    assert_refused(path, -EADDRINUSE, "another process listens there");
    for (unsigned i = 0; i < 8; i++)
        fd_close(&callers[i]);
    fd_close(&s);
}

Test(listen, a_socket_of_another_type_is_alive)
{
    int s = make_socket(SOCK_DGRAM);

    fds++;
    assert_refused(path, -EADDRINUSE, "another process listens there");
    cr_assert(is_there());
    fd_close(&s);
}

Test(listen, what_is_no_socket_is_kept)
{
    FILE *file = fopen(path, "w");

    cr_assert_not_null(file);
    cr_assert_eq(fclose(file), 0);
    assert_refused(path, -EEXIST, "something else");
    cr_assert(is_there());
    cr_assert_eq(unlink(path), 0);
    cr_assert_eq(symlink("/nowhere", path), 0); /* not followed */
    assert_refused(path, -EEXIST, "something else");
}

Test(listen, a_link_to_a_socket_left_behind_is_kept)
{
    int s = make_socket(SOCK_STREAM);
    char link[128];

    fd_close(&s);
    (void)snprintf(link, sizeof(link), "%s", tmp_path(&tmp, "link"));
    cr_assert_eq(symlink(path, link), 0);
    assert_refused(link, -EEXIST, "something else");
    cr_assert(is_there());
}

Test(listen, a_path_must_fit)
{
    char longest[200];

    (void)snprintf(longest, sizeof(longest), "%s/%0*d", tmp.path, 106 - (int)strlen(tmp.path), 0);
    cr_assert_eq(strlen(longest), 107);
    int fd = listen_unix(longest, &err);
    cr_assert_geq(fd, 0, "%s", err.text);
    unlisten_unix(longest, &fd);
    strcat(longest, "1");
    assert_refused(longest, -ENAMETOOLONG, "1 to 107 characters");
    assert_refused("", -ENAMETOOLONG, "1 to 107 characters");
}

Test(listen, a_directory_that_is_not_there)
{
    assert_refused(tmp_path(&tmp, "no/s"), -ENOENT, "No such file or directory");
    cr_assert_not_null(strstr(err.text, "no/s"));
}

Test(listen, a_directory_that_cannot_be_written)
{
    if (geteuid() == 0)
        assert_refused("/proc/s", -ENOENT, "/proc/s"); /* root may write to any other */
    cr_assert_eq(chmod(tmp.path, 0500), 0);
    if (geteuid() != 0)
        assert_refused(path, -EACCES, "Permission denied");
    cr_assert_eq(chmod(tmp.path, 0700), 0);
}

/* --- the end --- */

Test(listen, a_path_that_is_gone_already_is_no_matter)
{
    int fd = listens();

    cr_assert_eq(unlink(path), 0);
    unlisten_unix(path, &fd);
    cr_assert_eq(fd, -1);
}

Test(listen, a_file_put_in_its_place_stays)
{
    int fd = listens();

    cr_assert_eq(unlink(path), 0);
    int other = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    unlisten_unix(path, &fd);
    cr_assert(is_there());
    fd_close(&other);
}

Test(listen, a_socket_put_in_its_place_stays_while_somebody_listens)
{
    int fd = listens();

    cr_assert_eq(unlink(path), 0);
    int other = listens();
    unlisten_unix(path, &fd);
    cr_assert(is_there());
    int s = call();
    cr_assert_geq(s, 0);
    fd_close(&s);
    unlisten_unix(path, &other);
    cr_assert_not(is_there());
}

Test(listen, nothing_to_end)
{
    int s = make_socket(SOCK_STREAM), none = -1;

    fd_close(&s);
    unlisten_unix(path, &none);
    cr_assert(is_there());
}
