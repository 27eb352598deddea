#include "hv/base/listen.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "hv/base/fd.h"

#define BACKLOG 64 /* callers who wait for accept() */

static int make_address(const char *path, struct sockaddr_un *out, struct error *err)
{
    *out = (struct sockaddr_un){.sun_family = AF_UNIX};
    if (*path == '\0' || strlen(path) >= sizeof(out->sun_path))
        return error_set(err, -ENAMETOOLONG, "%s: a socket's path has 1 to %zu characters", path,
                         sizeof(out->sun_path) - 1);
    memcpy(out->sun_path, path, strlen(path));
    return 0;
}

static int make_socket(void)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    return fd < 0 ? -errno : fd;
}

/* Is the socket at the path somebody's? 0: no. -EADDRINUSE: yes; or why that is not known. */
static int probe(const struct sockaddr_un *addr)
{
    int fd = make_socket();

    if (fd < 0)
        return fd;
    int rc = connect(fd, (const struct sockaddr *)addr, sizeof(*addr)) < 0 ? -errno : -EADDRINUSE;
    fd_close(&fd);
    /* A backlog that is full is a backlog; a socket of another type is alive. */
    if (rc == -EAGAIN || rc == -EPROTOTYPE)
        return -EADDRINUSE;
    return rc == -ECONNREFUSED || rc == -ENOENT ? 0 : rc;
}

/* Removes what is at the path, if it is a socket that was left behind. */
static int clear_path(const struct sockaddr_un *addr, struct error *err)
{
    const char *path = addr->sun_path;
    struct stat st;

    if (lstat(path, &st) < 0)
        return 0; /* bind() says what is wrong, if anything is */
    if (!S_ISSOCK(st.st_mode))
        return error_set(err, -EEXIST,
                         "%s: there is something else already; remove it, or choose another path",
                         path);
    int rc = probe(addr);
    if (rc == -EADDRINUSE)
        return error_set(err, rc, "%s: another process listens there; choose another path", path);
    if (rc < 0)
        return error_sys(err, rc, "%s: cannot find out who listens there", path);
    return unlink(path) < 0 && errno != ENOENT ? error_sys(err, -errno, "cannot replace %s", path)
                                               : 0;
}

/* On failure nothing of it is left in the file system. */
static int listen_at(int fd, const struct sockaddr_un *addr)
{
    /* Linux makes the file with the socket's own mode: there is no moment at which others may. */
    if (fchmod(fd, S_IRUSR | S_IWUSR) < 0 ||
        bind(fd, (const struct sockaddr *)addr, sizeof(*addr)) < 0)
        return -errno;
    if (listen(fd, BACKLOG) == 0)
        return 0;
    int rc = -errno;
    (void)unlink(addr->sun_path); /* what we made */
    return rc;
}

int listen_unix(const char *path, struct error *err)
{
    struct sockaddr_un addr;
    int rc = make_address(path, &addr, err);

    if (rc == 0)
        rc = clear_path(&addr, err);
    if (rc < 0)
        return rc;
    int fd = make_socket();
    rc = fd < 0 ? fd : listen_at(fd, &addr);
    if (rc < 0) {
        fd_close(&fd);
        return error_sys(err, rc, "cannot listen at %s", path);
    }
    return fd;
}

void unlisten_unix(const char *path, int *fd)
{
    struct sockaddr_un addr;

    if (*fd < 0)
        return;
    /* First nobody listens any more; then the path is like one that was left behind. */
    fd_close(fd);
    if (make_address(path, &addr, NULL) == 0)
        (void)!clear_path(&addr, NULL); /* what stays is not ours, or cannot be removed */
}
