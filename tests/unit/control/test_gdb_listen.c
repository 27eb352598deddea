/*
 * Where the gdb server listens, and what it leaves behind.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "control/gdb_listen_priv.h"

static char directory[64], where[128];
static const char *path;

static void set_up(void)
{
    (void)snprintf(directory, sizeof(directory), "/tmp/hv-test-gdb-XXXXXX");
    cr_assert_not_null(mkdtemp(directory));
    (void)snprintf(where, sizeof(where), "unix:%s/s", directory);
    path = where + 5;
}

static void tear_down(void)
{
    (void)unlink(path);
    (void)rmdir(directory);
}

TestSuite(gdb_listen, .init = set_up, .fini = tear_down);

static int listen_at(const char *text, struct gdb_listener *l, struct error *err)
{
    memset(l, 0xa5, sizeof(*l));
    err->text[0] = '\0';
    return gdb_listen(text, l, err);
}

/* Refused with this code and a sentence, and nothing is returned. */
static void refused(const char *text, int code)
{
    struct gdb_listener l;
    struct error err;

    cr_assert_eq(listen_at(text, &l, &err), code, "%s: %s", text, err.text);
    cr_assert_neq(err.text[0], '\0');
    cr_assert_eq((unsigned char)l.command[0], 0xa5, "untouched");
}

static int connect_to(const char *socket_path)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);

    (void)snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", socket_path);
    int rc = connect(fd, (struct sockaddr *)&addr, sizeof(addr));
    (void)close(fd);
    return rc;
}

Test(gdb_listen, what_is_no_place)
{
    static char long_path[300] = "unix:", long_host[300];

    memset(long_path + 5, 'x', sizeof(long_path) - 6);
    memset(long_host, 'h', sizeof(long_host) - 1);
    refused("", -EINVAL);
    refused("port", -EINVAL);
    refused("65536", -EINVAL);
    refused("-1", -EINVAL);
    refused("localhost:", -EINVAL);
    refused("unix:", -EINVAL);
    refused(long_path, -ENAMETOOLONG);
    refused(long_host, -EINVAL);
    refused("256.256.256.256:1", -EINVAL);
    refused("unix:/nonexistent/s", -ENOENT);
}

Test(gdb_listen, any_free_port_is_named)
{
    struct gdb_listener l, second;
    struct error err;
    unsigned port;

    cr_assert_eq(listen_at("0", &l, &err), 0, "%s", err.text);
    cr_assert_eq(sscanf(l.command, "target remote :%u", &port), 1, "%s", l.command);
    cr_assert_neq(port, 0);

    char taken[16];
    (void)snprintf(taken, sizeof(taken), "%u", port);
    cr_assert_eq(listen_at(taken, &second, &err), -EADDRINUSE);
    cr_assert_not_null(strstr(err.text, taken), "%s", err.text);
    gdb_unlisten(&l);
    cr_assert_eq(l.fd, -1);
}

Test(gdb_listen, a_host_can_be_given)
{
    const char *const hosts[] = {"127.0.0.1:0", ":0", "localhost:0"};
    struct gdb_listener l;
    struct error err;

    for (unsigned i = 0; i < 3; i++) {
        cr_assert_eq(listen_at(hosts[i], &l, &err), 0, "%s: %s", hosts[i], err.text);
        gdb_unlisten(&l);
    }
}

Test(gdb_listen, a_socket_is_its_users_alone_and_goes_at_the_end)
{
    struct gdb_listener l;
    struct error err;
    struct stat st;

    cr_assert_eq(listen_at(where, &l, &err), 0, "%s", err.text);
    cr_assert_eq(stat(path, &st), 0);
    cr_assert_eq(st.st_mode & 0777, 0600);
    cr_assert_eq(connect_to(path), 0);
    cr_assert_not_null(strstr(l.command, path));
    gdb_unlisten(&l);
    cr_assert_eq(access(path, F_OK), -1);
}

Test(gdb_listen, a_socket_in_use_stays)
{
    struct gdb_listener l;
    struct error err;

    cr_assert_eq(listen_at(where, &l, &err), 0);
    refused(where, -EADDRINUSE);
    cr_assert_eq(connect_to(path), 0);
    gdb_unlisten(&l);
}

Test(gdb_listen, a_socket_left_by_the_dead_is_replaced)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    struct gdb_listener l;
    struct error err;
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);

    (void)snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", path);
    cr_assert_eq(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
    (void)close(fd);
    cr_assert_eq(listen_at(where, &l, &err), 0, "%s", err.text);
    gdb_unlisten(&l);
}

Test(gdb_listen, any_other_file_stays)
{
    int fd = open(path, O_CREAT | O_WRONLY, 0600);

    cr_assert_geq(fd, 0);
    (void)close(fd);
    refused(where, -EEXIST);
    cr_assert_eq(access(path, F_OK), 0);
}
