/*
 * Where host programs come in: a UNIX socket in the file system, made before the machine starts,
 * so that whoever cannot have it learns of it then and there.
 *
 * A path that is taken is somebody's until it is proved to be nobody's: it must be a socket, and
 * connecting to it must be refused.
 */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "hv/base/fd.h"
#include "virtio/vsock_priv.h"

#define BACKLOG 64
#define PATH_MAX_LEN (sizeof(((struct vsock *)0)->path) - 1)

/* 0: nobody listens there, or nothing is there. */
static int probe(const struct sockaddr_un *addr)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    if (fd < 0)
        return -errno;
    int rc = connect(fd, (const struct sockaddr *)addr, sizeof(*addr)) < 0 ? -errno : -EADDRINUSE;
    fd_close(&fd);
    if (rc == -EAGAIN) /* its backlog is full: so it has one */
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
                         "%s: there is something else already; remove it, or choose "
                         "another path",
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
    if (bind(fd, (const struct sockaddr *)addr, sizeof(*addr)) < 0)
        return -errno;
    /* Before listen(): until then nobody can connect. */
    if (chmod(addr->sun_path, S_IRUSR | S_IWUSR) == 0 && listen(fd, BACKLOG) == 0)
        return 0;
    int rc = -errno;
    (void)unlink(addr->sun_path); /* what we made */
    return rc;
}

int virtio_vsock_listen(const char *path, int *out, struct error *err)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};

    if (*path == '\0' || strlen(path) > PATH_MAX_LEN)
        return error_set(err, -ENAMETOOLONG, "%s: the path of a vsock has 1 to %zu characters",
                         path, PATH_MAX_LEN);
    memcpy(addr.sun_path, path, strlen(path));
    int rc = clear_path(&addr, err);
    if (rc < 0)
        return rc;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    rc = fd < 0 ? -errno : listen_at(fd, &addr);
    if (rc < 0) {
        fd_close(&fd);
        return error_sys(err, rc, "cannot listen at %s", path);
    }
    *out = fd;
    return 0;
}

void virtio_vsock_unlisten(const char *path, int *listener)
{
    (void)unlink(path); /* it may be gone already */
    fd_close(listener);
}
